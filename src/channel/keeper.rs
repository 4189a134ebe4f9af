//! What is done about channels while nobody asks: claims, the settlement of what is claimed, refunds of idle channels.
//!
//! A claim of many rows fails as a whole. Then it is cut in halves until the row stands alone that fails, which is set aside. Of a
//! claim whose answer was lost the chain is asked first, where it can be, and what it does not show is asked for again: to
//! claim twice changes nothing.

use std::collections::{BTreeMap, VecDeque};

use super::claims::{Signer, claim_payload, refund_payload, settle_payload};
use super::message::ChannelId;
use super::record::{OnChain, Operation, Record, Row};
use crate::evm::Address;
use crate::schedule::{jittered, mix};
use crate::time::UnixTime;

/// Rows of one claim, at most. Official facilitators take a hundred.
const MOST_ROWS: usize = 100;

/// Attempts at a claim whose answer is lost, before its rows are given back.
const MOST_ATTEMPTS: u32 = 5;

/// Attempts at the settlement of what is claimed. A claim after it settles both.
const MOST_PAYOUTS: u32 = 10;

/// Seconds between the claim and its settlement: facilitators try the settlement on what their node knows.
const SETTLE_AFTER_SECONDS: u64 = 2;

/// Refunds that are under way at a time, at most.
const MOST_REFUNDS: usize = 8;

/// What rows of one claim have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// Who is paid.
    pub receiver: Address,
    /// The token.
    pub token: Address,
    /// Who authorizes the claim.
    pub authorizer: Address,
}

impl Group {
    /// The group of a row.
    pub const fn of(row: &Row) -> Self {
        let config = &row.config;
        Self {
            chain_id: row.chain_id,
            receiver: config.receiver,
            token: config.token,
            authorizer: config.receiver_authorizer,
        }
    }
}

/// A row that is to be claimed, and the time of its first voucher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimable {
    /// The row.
    pub row: Row,
    /// The time of the first voucher that is not claimed.
    pub since: UnixTime,
}

/// A channel that is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refundable {
    /// What is claimed with it.
    pub row: Row,
    /// What is known of the channel.
    pub chain: OnChain,
}

/// Rows that are claimed together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    rows: Vec<Claimable>,
    attempts: u32,
    due: UnixTime,
}

/// What is claimed, and waits to be paid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Payout {
    due: UnixTime,
    attempts: u32,
}

/// Something that the facilitator is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// To claim these rows.
    Claim {
        /// The rows: at least one.
        rows: Vec<Claimable>,
        /// How often it was asked for before.
        attempts: u32,
    },
    /// To pay out what is claimed.
    Payout {
        /// How often it was asked for before.
        attempts: u32,
    },
    /// To give back what a channel holds.
    Refund(Box<Refundable>),
}

/// What the facilitator said of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is done.
    Done,
    /// It cannot be done.
    Refused,
    /// Nothing that could be understood.
    Nothing,
}

/// What comes of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Consequences {
    /// What the ledger is told.
    pub operations: Vec<(ChannelId, Operation)>,
    /// Claimed rows.
    pub claimed: Vec<Claimable>,
    /// Rows that were set aside.
    pub failed: Vec<Row>,
    /// A channel that was given back, and how much of it.
    pub refunded: Option<(Row, u128)>,
    /// A channel that was to be given back, and was not.
    pub unrefunded: Option<Row>,
}

/// The work that waits, and the work that is under way: of each group at most one claim or payout at a time.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    claims: BTreeMap<Group, VecDeque<Batch>>,
    payouts: BTreeMap<Group, Payout>,
    refunds: VecDeque<Refundable>,
    /// Groups of which something is under way.
    busy: Vec<Group>,
    /// Refunds that are under way.
    refunding: usize,
    /// By which pauses differ among proxies.
    seed: u64,
}

impl Keeper {
    /// Takes in a number that no other proxy has.
    pub const fn jitter_by(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Returns the seconds until the next attempt.
    fn pause(&self, attempts: u32, now: UnixTime) -> u64 {
        const LONGEST_SECONDS: u64 = 60;
        let pause = 1_u64.checked_shl(attempts).unwrap_or(LONGEST_SECONDS).min(LONGEST_SECONDS);
        jittered(pause, mix(self.seed ^ now.as_secs()))
    }

    /// Takes in a row that is to be claimed.
    pub fn claim(&mut self, claimable: Claimable, now: UnixTime) {
        let batches = self.claims.entry(Group::of(&claimable.row)).or_default();
        match batches.back_mut().filter(|batch| batch.attempts == 0 && batch.rows.len() < MOST_ROWS) {
            Some(batch) => batch.rows.push(claimable),
            None => batches.push_back(Batch { rows: vec![claimable], attempts: 0, due: now }),
        }
    }

    /// Lets nothing wait that was to be asked for again later.
    pub fn hasten(&mut self, now: UnixTime) {
        for batch in self.claims.values_mut().flatten() {
            batch.due = batch.due.min(now);
        }
        for payout in self.payouts.values_mut().filter(|payout| payout.attempts > 0) {
            payout.due = payout.due.min(now);
        }
    }

    /// Takes in a channel that is to be given back.
    pub fn refund(&mut self, refundable: Refundable) {
        self.refunds.push_back(refundable);
    }

    /// Returns whether a channel that is taken in to be given back is asked for at once: one that waits might do so until its hold
    /// ends, and be given back while others are served for what it holds.
    pub fn has_room_for_refund(&self) -> bool {
        self.refunds.len().saturating_add(self.refunding) < MOST_REFUNDS
    }

    /// Returns whether nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.claims.is_empty()
            && self.payouts.is_empty()
            && self.refunds.is_empty()
            && self.busy.is_empty()
            && self.refunding == 0
    }

    /// Takes out what is to be asked for now. Each must be answered by [`Self::on_answer`].
    pub fn take_due(&mut self, now: UnixTime) -> Vec<(Group, Job)> {
        let mut due = Vec::new();
        for (group, batches) in &mut self.claims {
            let is_due = batches.front().is_some_and(|batch| batch.due <= now) && !self.busy.contains(group);
            if let Some(Batch { rows, attempts, .. }) = if is_due { batches.pop_front() } else { None } {
                self.busy.push(*group);
                due.push((*group, Job::Claim { rows, attempts }));
            }
        }
        self.claims.retain(|_, batches| !batches.is_empty());
        let ready: Vec<Group> =
            self.payouts.iter().filter(|(_, payout)| payout.due <= now).map(|(group, _)| *group).collect();
        for group in ready {
            if self.busy.contains(&group) || self.claims.contains_key(&group) {
                continue;
            }
            if let Some(Payout { attempts, .. }) = self.payouts.remove(&group) {
                self.busy.push(group);
                due.push((group, Job::Payout { attempts }));
            }
        }
        while self.refunding < MOST_REFUNDS {
            let Some(refundable) = self.refunds.pop_front() else { break };
            self.refunding = self.refunding.saturating_add(1);
            due.push((Group::of(&refundable.row), Job::Refund(Box::new(refundable))));
        }
        due
    }

    /// Takes in what became of a job.
    pub fn on_answer(&mut self, group: Group, job: Job, said: Said, now: UnixTime) -> Consequences {
        match job {
            Job::Claim { rows, attempts } => {
                self.busy.retain(|busy| *busy != group);
                self.on_claim(group, rows, attempts, said, now)
            }
            Job::Payout { attempts } => {
                self.busy.retain(|busy| *busy != group);
                if said != Said::Done && attempts < MOST_PAYOUTS {
                    let attempts = attempts.saturating_add(1);
                    let due = now.plus(self.pause(attempts, now));
                    self.payouts.entry(group).or_insert(Payout { due, attempts });
                }
                Consequences::default()
            }
            Job::Refund(refundable) => {
                self.refunding = self.refunding.saturating_sub(1);
                on_refund(*refundable, said)
            }
        }
    }

    /// Takes in what the chain says of a claim whose answer was lost: of the rows that it shows as claimed, what comes of that, and
    /// the job that is left, which is to be asked for now.
    pub fn on_chain(
        &mut self,
        group: Group,
        rows: Vec<Claimable>,
        attempts: u32,
        states: &[(ChannelId, OnChain)],
        now: UnixTime,
    ) -> (Consequences, Option<Job>) {
        let is_claimed = |one: &Claimable| {
            states.iter().any(|(id, chain)| *id == one.row.id && chain.total_claimed >= one.row.charged)
        };
        let (claimed, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_claimed);
        let is_over = rows.is_empty();
        let consequences = match claimed.is_empty() {
            true => Consequences::default(),
            false => self.on_claim(group, claimed, attempts, Said::Done, now),
        };
        if is_over {
            self.busy.retain(|busy| *busy != group);
        }
        (consequences, (!is_over).then_some(Job::Claim { rows, attempts }))
    }

    /// Takes in that a refund that was to be asked for is not wanted any more.
    pub const fn on_no_refund(&mut self) {
        self.refunding = self.refunding.saturating_sub(1);
    }

    fn on_claim(
        &mut self,
        group: Group,
        mut rows: Vec<Claimable>,
        attempts: u32,
        said: Said,
        now: UnixTime,
    ) -> Consequences {
        let attempts = attempts.saturating_add(1);
        let again_at = now.plus(self.pause(attempts, now));
        let batches = self.claims.entry(group).or_default();
        let consequences = match said {
            Said::Done => {
                self.payouts.insert(group, Payout { due: now.plus(SETTLE_AFTER_SECONDS), attempts: 0 });
                let ended = |one: &Claimable| (one.row.id, Operation::EndClaim { claimed: one.row.charged });
                Consequences { operations: rows.iter().map(ended).collect(), claimed: rows, ..Consequences::default() }
            }
            Said::Refused if rows.len() > 1 => {
                let behind = rows.split_off(rows.len().div_ceil(2));
                for rows in [behind, rows] {
                    batches.push_front(Batch { rows, attempts: 0, due: now });
                }
                Consequences::default()
            }
            Said::Nothing if attempts <= MOST_ATTEMPTS => {
                batches.push_front(Batch { rows, attempts, due: again_at });
                Consequences::default()
            }
            Said::Refused | Said::Nothing => {
                let failed: Vec<Row> = rows.into_iter().map(|one| one.row).collect();
                let operations = failed.iter().map(|row| (row.id, Operation::FailClaim)).collect();
                Consequences { operations, failed, ..Consequences::default() }
            }
        };
        if batches.is_empty() {
            self.claims.remove(&group);
        }
        consequences
    }
}

impl Refundable {
    /// The same with what the chain says now.
    ///
    /// # Errors
    /// Where nothing is to be given back, or the payer takes it: what comes of that.
    pub fn renewed(self, chain: OnChain) -> Result<Self, Box<Consequences>> {
        if chain.at < self.chain.at {
            return Ok(self);
        }
        let is_over = chain.withdraw_requested_at != 0 || chain.balance <= self.row.charged;
        let refundable = Self { chain, ..self };
        if !is_over {
            return Ok(refundable);
        }
        let operations = vec![(refundable.row.id, Operation::Release { chain: Some(chain) })];
        Err(Box::new(Consequences { operations, ..Consequences::default() }))
    }
}

fn on_refund(Refundable { row, chain }: Refundable, said: Said) -> Consequences {
    let id = row.id;
    // What became of one that is not done, the chain says, or the next request finds out. Until then it is not tried again.
    let operations = match said {
        Said::Done => vec![Operation::Refunded {
            chain: OnChain {
                balance: row.charged,
                total_claimed: row.charged,
                refund_nonce: chain.refund_nonce.saturating_add(1),
                ..chain
            },
        }],
        Said::Refused => vec![Operation::Release { chain: None }, Operation::Renew],
        Said::Nothing => vec![Operation::Renew],
    };
    let refunded = (said == Said::Done).then_some((row, chain.balance.saturating_sub(row.charged)));
    let unrefunded = (said == Said::Refused).then_some(row);
    let operations = operations.into_iter().map(|operation| (id, operation)).collect();
    Consequences { operations, refunded, unrefunded, ..Consequences::default() }
}

/// What channels in one token hold, for stats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Channels that hold something, or of which something is to be claimed.
    pub channels: u64,
    /// Atomic units that they hold, without what is claimed.
    pub deposited: u128,
    /// Atomic units that are charged, not claimed, and can be.
    pub unclaimed: u128,
    /// Atomic units that are charged and that the channels do not hold any more.
    pub lost: u128,
    /// Channels that nothing can be bought out of any more, by this configuration.
    pub unwanted: u64,
    /// Atomic units that those hold.
    pub unwanted_deposited: u128,
    /// Channels of which something can be claimed, and whose claim has failed three times or more.
    pub stuck: u64,
    /// Channels whose payers have begun to withdraw, and have not got it yet, or have and something is not claimed.
    pub withdrawing: u64,
}

impl Totals {
    /// Adds a channel that is not empty.
    pub fn add(&mut self, record: &Record, is_wanted: bool, now: UnixTime) {
        /// Claims that may fail before somebody should look.
        const MOST_FAILED: u8 = 2;
        let begun = record.chain.withdraw_requested_at;
        let is_under_way = UnixTime::from_secs(begun).plus(record.config.withdraw_delay) > now;
        let is_withdrawing = begun != 0 && (is_under_way || record.unclaimed() > 0);
        let is_stuck = record.failed_claims > MOST_FAILED && record.unclaimed() > 0;
        self.stuck = self.stuck.saturating_add(u64::from(is_stuck));
        self.lost = self.lost.saturating_add(record.lost());
        self.withdrawing = self.withdrawing.saturating_add(u64::from(is_withdrawing));
        let held = record.chain.balance.saturating_sub(record.chain.total_claimed);
        self.channels = self.channels.saturating_add(1);
        self.deposited = self.deposited.saturating_add(held);
        self.unclaimed = self.unclaimed.saturating_add(record.unclaimed());
        if !is_wanted {
            self.unwanted = self.unwanted.saturating_add(1);
            self.unwanted_deposited = self.unwanted_deposited.saturating_add(held);
        }
    }
}

impl Job {
    /// Its name in logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Claim { .. } => "claim",
            Self::Payout { .. } => "payout",
            Self::Refund(_) => "refund",
        }
    }

    /// Returns the payload by which the facilitator is asked. `signer` signs where the gate authorizes claims itself.
    pub fn payload(&self, group: Group, signer: Option<&Signer<'_>>) -> String {
        match self {
            Self::Claim { rows, .. } => claim_payload(rows.iter().map(|one| &one.row), signer),
            Self::Payout { .. } => settle_payload(group.receiver, group.token),
            Self::Refund(refundable) => {
                let Refundable { row, chain } = &**refundable;
                let amount = chain.balance.saturating_sub(row.charged);
                refund_payload(row, chain.total_claimed, amount, chain.refund_nonce, signer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u8) -> Row {
        let account = Address::from_bytes([1; 20]);
        let config = super::super::ChannelConfig {
            payer: account,
            payer_authorizer: account,
            receiver: account,
            receiver_authorizer: account,
            token: account,
            withdraw_delay: 900,
            salt: [number; 32],
        };
        let id = ChannelId::from_bytes([number; 32]);
        Row { chain_id: 1, config, id, max_claimable: 10, signature: [0; 65], charged: 10 }
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }

    fn with_rows(numbers: std::ops::Range<u8>) -> Keeper {
        let mut keeper = Keeper::default();
        for number in numbers {
            keeper.claim(Claimable { row: row(number), since: at(1) }, at(1));
        }
        keeper
    }

    /// Carries on until nothing waits: who answers is asked for each job.
    fn run(keeper: &mut Keeper, mut says: impl FnMut(&Job) -> Said) -> (Vec<Consequences>, u64) {
        let mut all = Vec::new();
        let mut now = 1;
        while !keeper.is_idle() && now < 10_000 {
            for (group, job) in keeper.take_due(at(now)) {
                let said = says(&job);
                all.push(keeper.on_answer(group, job, said, at(now)));
            }
            now = u64::saturating_add(now, 1);
        }
        (all, now)
    }

    #[test]
    fn many_rows_are_claimed_a_hundred_at_a_time_and_paid_out_once() {
        let mut keeper = with_rows(0..250);
        let (mut sizes, mut payouts) = (Vec::new(), 0);
        let (all, _) = run(&mut keeper, |job| {
            match job {
                Job::Claim { rows, .. } => sizes.push(rows.len()),
                Job::Payout { .. } => payouts += 1,
                Job::Refund(_) => panic!("no refund was asked for"),
            }
            Said::Done
        });
        assert_eq!((sizes, payouts), (vec![100, 100, 50], 1));
        assert_eq!(all.iter().map(|one| one.claimed.len()).sum::<usize>(), 250);
    }

    #[test]
    fn one_bad_row_is_found_and_the_others_are_claimed() {
        for bad in [0, 1, 37, 98, 99] {
            let mut keeper = with_rows(0..100);
            let mut questions = 0;
            let (all, _) = run(&mut keeper, |job| {
                questions += 1;
                match job {
                    Job::Claim { rows, .. } if rows.iter().any(|one| one.row.id == row(bad).id) => Said::Refused,
                    _ => Said::Done,
                }
            });
            let failed: Vec<_> = all.iter().flat_map(|one| &one.failed).map(|row| row.id).collect();
            assert_eq!(failed, [row(bad).id]);
            assert_eq!(all.iter().map(|one| one.claimed.len()).sum::<usize>(), 99);
            assert!(questions < 20, "{questions} questions");
        }
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_and_given_up_in_the_end() {
        let mut keeper = with_rows(0..3);
        let mut questions = 0;
        let (all, _) = run(&mut keeper, |job| match job {
            Job::Claim { .. } => {
                questions += 1;
                if questions < 3 { Said::Nothing } else { Said::Done }
            }
            _ => Said::Done,
        });
        assert_eq!(all.iter().map(|one| one.claimed.len()).sum::<usize>(), 3);

        let mut keeper = with_rows(0..3);
        let (all, now) = run(&mut keeper, |_| Said::Nothing);
        let operations: Vec<_> = all.into_iter().flat_map(|one| one.operations).collect();
        assert_eq!(operations.len(), 3);
        assert!(operations.iter().all(|(_, operation)| *operation == Operation::FailClaim));
        assert!(now > 30, "it waits longer each time");
    }

    #[test]
    fn who_is_in_a_hurry_does_not_wait_to_ask_again() {
        let mut keeper = with_rows(0..3);
        for (attempts, now) in [(0, 1), (1, 2)] {
            let Some((group, job)) = keeper.take_due(at(now)).pop() else { panic!("attempt {attempts}") };
            assert!(matches!(job, Job::Claim { attempts: made, .. } if made == attempts));
            keeper.on_answer(group, job, Said::Nothing, at(now));
            assert!(keeper.take_due(at(now)).is_empty());
            keeper.hasten(at(now + 1));
        }
        let Some((group, job)) = keeper.take_due(at(3)).pop() else { panic!("one more") };
        keeper.on_answer(group, job, Said::Done, at(3));
        keeper.hasten(at(3));
        assert!(keeper.take_due(at(3)).is_empty(), "a payout waits for the claim before it");
        let Some((group, job)) = keeper.take_due(at(5)).pop() else { panic!("a payout") };
        keeper.on_answer(group, job, Said::Nothing, at(5));
        keeper.hasten(at(5));
        assert!(matches!(keeper.take_due(at(5)).as_slice(), [(_, Job::Payout { attempts: 1 })]));
    }

    #[test]
    fn the_chain_answers_for_a_facilitator_that_did_not() {
        let mut keeper = with_rows(0..3);
        let Some((group, Job::Claim { rows, attempts: 0 })) = keeper.take_due(at(1)).pop() else { panic!("one claim") };
        keeper.on_answer(group, Job::Claim { rows, attempts: 0 }, Said::Nothing, at(1));
        let Some((group, Job::Claim { rows, attempts: 1 })) = keeper.take_due(at(9)).pop() else { panic!("again") };
        let state = |total_claimed| OnChain { balance: 100, total_claimed, ..OnChain::default() };
        let states = [(row(0).id, state(10)), (row(1).id, state(9)), (row(2).id, state(11))];
        let (consequences, job) = keeper.on_chain(group, rows, 1, &states, at(9));
        assert_eq!(consequences.claimed.iter().map(|one| one.row.id).collect::<Vec<_>>(), [row(0).id, row(2).id]);
        assert_eq!(consequences.operations.len(), 2);
        let Some(Job::Claim { rows, attempts: 1 }) = job else { panic!("one is left") };
        assert_eq!(rows.iter().map(|one| one.row.id).collect::<Vec<_>>(), [row(1).id]);
        assert!(keeper.take_due(at(20)).is_empty(), "the group is still at work");
        let (consequences, job) = keeper.on_chain(group, rows, 1, &[(row(1).id, state(10))], at(20));
        assert_eq!((consequences.claimed.len(), job), (1, None));
        assert!(matches!(keeper.take_due(at(30)).as_slice(), [(_, Job::Payout { .. })]));
    }

    #[test]
    fn a_refund_is_of_what_the_chain_says_now() {
        let known = OnChain { balance: 100, total_claimed: 4, refund_nonce: 7, at: at(5), ..OnChain::default() };
        let refundable = || Refundable { row: row(1), chain: known };
        let news = OnChain { balance: 50, refund_nonce: 8, at: at(6), ..known };
        assert_eq!(refundable().renewed(news).map(|one| one.chain), Ok(news));
        assert_eq!(refundable().renewed(OnChain { at: at(4), ..news }).map(|one| one.chain), Ok(known));
        for over in [OnChain { balance: 10, ..news }, OnChain { withdraw_requested_at: 3, ..news }] {
            let consequences = refundable().renewed(over).unwrap_err();
            assert_eq!(consequences.operations, [(row(1).id, Operation::Release { chain: Some(over) })]);
        }
    }

    #[test]
    fn no_refund_waits_for_others() {
        let mut keeper = Keeper::default();
        let mut taken = 0;
        while keeper.has_room_for_refund() {
            keeper.refund(Refundable { row: row(1), chain: OnChain::default() });
            taken += 1;
        }
        assert_eq!(taken, MOST_REFUNDS);
        let mut jobs = keeper.take_due(at(0));
        assert_eq!(jobs.len(), taken);
        assert!(!keeper.has_room_for_refund());
        let (group, job) = jobs.pop().unwrap();
        keeper.on_answer(group, job, Said::Done, at(1));
        assert!(keeper.has_room_for_refund());
    }

    #[test]
    fn a_refund_tells_the_ledger_what_became_of_it() {
        let chain = OnChain { balance: 100, total_claimed: 4, refund_nonce: 7, ..OnChain::default() };
        for said in [Said::Done, Said::Refused, Said::Nothing] {
            let mut keeper = Keeper::default();
            keeper.refund(Refundable { row: row(1), chain });
            let (all, _) = run(&mut keeper, |_| said);
            let [Consequences { operations, refunded, .. }] = all.as_slice() else { panic!("one answer") };
            assert_eq!(refunded.is_some(), said == Said::Done);
            match (&operations[0].1, said) {
                (Operation::Refunded { chain }, Said::Done) => {
                    assert_eq!((chain.balance, chain.total_claimed, chain.refund_nonce), (10, 10, 8));
                }
                (Operation::Release { chain: None }, Said::Refused) => assert_eq!(operations[1].1, Operation::Renew),
                (Operation::Renew, Said::Nothing) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
