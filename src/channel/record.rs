//! What is known of one channel, and the rules of what may be charged.
//!
//! Charged never sinks, and is never more than the payer has signed for. One request at a time holds a channel; who holds it
//! is told by a number that no two requests alive share.

use super::message::{ChannelConfig, ChannelId};
use crate::evm::Address;
use crate::evm::signature::Signature;
use crate::time::UnixTime;

/// The state of a channel on the chain, as somebody told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OnChain {
    /// Atomic units that were put in and not given back, with those that are claimed.
    pub balance: u128,
    /// Atomic units that are claimed.
    pub total_claimed: u128,
    /// The time at which the payer began to withdraw, in seconds; 0 where that has not happened.
    pub withdraw_requested_at: u64,
    /// The nonce of the next refund.
    pub refund_nonce: u128,
    /// The time at which it was read.
    pub at: UnixTime,
}

/// The hash of a request that cannot be known again.
pub const UNKNOWN_REQUEST: [u8; 32] = [0; 32];

/// The last request that was charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Last {
    /// The maximum of its voucher. 0: there has been no such request.
    pub max_claimable: u128,
    /// Atomic units that it was charged.
    pub amount: u128,
    /// The hash of what was asked for.
    pub request: [u8; 32],
    /// The time at which it was to be over.
    pub until: UnixTime,
    /// True if it was answered once more.
    pub is_repeated: bool,
}

/// A request's hold on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hold {
    /// The request.
    pub owner: u64,
    /// The time at which the request is surely over. From then on others may take the channel.
    pub until: UnixTime,
    /// The most that the request may be charged.
    pub amount: u128,
    /// The purpose it was taken for.
    pub purpose: Purpose,
    /// The hash of what was asked for.
    pub request: [u8; 32],
    /// True if it is the last request once more, which costs nothing.
    pub is_repeat: bool,
}

/// A hold on the right to claim, of whoever has asked for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimHold {
    /// The owner's number.
    pub owner: u64,
    /// The time until which nobody else claims.
    pub until: UnixTime,
}

/// The purpose of a request on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To be served.
    Serve,
    /// To be served, and put money into the channel.
    Deposit {
        /// Atomic units.
        amount: u128,
    },
    /// To get money back.
    Refund,
}

/// What is known of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The configuration.
    pub config: ChannelConfig,
    /// The name.
    pub id: ChannelId,
    /// Atomic units charged in all.
    pub charged: u128,
    /// The maximum of the highest voucher.
    pub max_claimable: u128,
    /// The highest voucher's signature.
    pub signature: [u8; Signature::LENGTH],
    /// The state on the chain.
    pub chain: OnChain,
    /// True if something may have happened on the chain since: the next request asks first.
    pub is_outdated: bool,
    /// The last request that was charged for.
    pub last: Last,
    /// The request that holds the channel.
    pub hold: Option<Hold>,
    /// The claim that is under way.
    pub claim: Option<ClaimHold>,
    /// The time of the last request.
    pub last_used: UnixTime,
    /// The time at which the first of what can be claimed was charged; 0 where there is nothing.
    pub unclaimed_since: UnixTime,
    /// Claims that have failed since the last one that did not.
    pub failed_claims: u8,
    /// The time of the last deposit, claim or refund that was heard of. A block before it does not show it.
    pub moved_at: UnixTime,
}

/// A request that wants a channel for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reserve {
    /// The configuration, whose digest is `id`.
    pub config: ChannelConfig,
    /// The name.
    pub id: ChannelId,
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The voucher's maximum.
    pub max_claimable: u128,
    /// The voucher's signature, which was checked.
    pub signature: [u8; Signature::LENGTH],
    /// The most that the request may be charged. Of no account for a refund.
    pub amount: u128,
    /// Its purpose.
    pub purpose: Purpose,
    /// The time at which the request is surely over.
    pub until: UnixTime,
    /// The hash of what was asked for; [`UNKNOWN_REQUEST`] where that is not known.
    pub request: [u8; 32],
    /// The state on the chain, where it was just asked for.
    pub chain: Option<OnChain>,
}

/// Something that is wanted of a channel's record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Take the channel for one request.
    Reserve(Box<Reserve>),
    /// The request that holds the channel goes on until then. It does where the answer is [`Answer::Withdrawing`], too, and had
    /// better be charged before the payer takes it all.
    Extend {
        /// The time at which it is surely over.
        until: UnixTime,
    },
    /// The request that holds the channel was served: charge for it, and let go.
    Charge {
        /// Atomic units, at most what was reserved.
        amount: u128,
        /// The state on the chain, after a deposit.
        chain: Option<OnChain>,
    },
    /// The request that holds the channel is over and costs nothing.
    Release {
        /// The state on the chain, where it was asked for meanwhile.
        chain: Option<OnChain>,
    },
    /// News from the chain.
    Refresh {
        /// The state there.
        chain: OnChain,
    },
    /// The state in a block that enough others confirm, by a node of the operator's own: what somebody else has said to be claimed
    /// and is not, may be claimed again.
    Confirm {
        /// The state there. Its time is one at which the block had surely been made.
        chain: OnChain,
    },
    /// Something may have happened on the chain: the next request asks first.
    Renew,
    /// The request that holds the channel got its refund.
    Refunded {
        /// The state on the chain since.
        chain: OnChain,
    },
    /// Take the right to claim what is charged.
    BeginClaim {
        /// The time until which nobody else claims.
        until: UnixTime,
    },
    /// Take it although a claim has failed of late, and is not to be tried again yet.
    ClaimNow {
        /// The time until which nobody else claims.
        until: UnixTime,
    },
    /// The claim that is under way is carried out.
    EndClaim {
        /// Atomic units that are claimed in all since.
        claimed: u128,
    },
    /// The claim that is under way has failed.
    FailClaim,
    /// Take the channel to give back what it holds, unless something is under way.
    BeginRefund {
        /// The time at which that is surely over.
        until: UnixTime,
    },
}

/// The answer to an [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The channel is the request's; `base` had been charged before.
    Reserved {
        /// Atomic units.
        base: u128,
    },
    /// The state on the chain is not known, or not of late: ask for it, and come again with it.
    AskFirst,
    /// Another request holds the channel; or the right to claim.
    Busy,
    /// The voucher is not for the next total.
    Stale(Standing),
    /// It is the last request once more: it is served for nothing.
    Repeat {
        /// Atomic units that the request was charged.
        charged: u128,
        /// The channel's standing.
        standing: Standing,
    },
    /// It is the last request once more, but too late, or for the third time. A client is told so once; from then on it is
    /// told the count, or it would sign the same total for ever.
    TooLate(Standing),
    /// The payer is about to withdraw.
    Withdrawing,
    /// The voucher is for more than the channel holds.
    OverBalance,
    /// The voucher is for no more than what is claimed.
    BelowClaimed,
    /// Done.
    Granted(Standing),
    /// The right to claim is the owner's, and this is what may be claimed.
    Row(Row),
    /// The owner does not hold what the operation is of, or there is no record, or nothing to claim.
    NotHeld,
    /// More than was reserved, or than the channel holds.
    TooMuch,
    /// No room for another channel.
    Full,
    /// The store failed.
    Failed,
}

/// The standing of a channel, as its client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The name.
    pub id: ChannelId,
    /// The state on the chain.
    pub chain: OnChain,
    /// Atomic units charged in all. More than `max_claimable` where more was claimed on the chain: then the voucher proves
    /// nothing to the client, and is better left out.
    pub charged: u128,
    /// The maximum of the highest voucher.
    pub max_claimable: u128,
    /// The highest voucher's signature.
    pub signature: [u8; Signature::LENGTH],
}

/// A row of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The configuration.
    pub config: ChannelConfig,
    /// The name.
    pub id: ChannelId,
    /// The voucher's maximum.
    pub max_claimable: u128,
    /// The voucher's signature.
    pub signature: [u8; Signature::LENGTH],
    /// Atomic units that are claimed in all once the claim is carried out.
    pub charged: u128,
}

/// The change that an operation makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// None.
    Keep,
    /// The record is this one from now on.
    Put(Box<Record>),
}

/// Returns what becomes of a record by an operation of `owner`, and the answer. Pure: the rules of channels.
pub fn apply(record: Option<&Record>, owner: u64, operation: &Operation, now: UnixTime) -> (Change, Answer) {
    let (after, answer) = match (operation, record) {
        (Operation::Reserve(wanted), _) => reserve(record, owner, wanted, now),
        (_, None) => return (Change::Keep, Answer::NotHeld),
        (_, Some(record)) => {
            let (after, answer) = go_on(*record, owner, operation, now);
            (Some(after), answer)
        }
    };
    let changed = after.map(|after| after.timed(now)).filter(|after| Some(after) != record);
    (changed.map_or(Change::Keep, |after| Change::Put(Box::new(after))), answer)
}

fn reserve(known: Option<&Record>, owner: u64, wanted: &Reserve, now: UnixTime) -> (Option<Record>, Answer) {
    let is_refund = wanted.purpose == Purpose::Refund;
    let mut record = match (known, wanted.chain) {
        (None, None) => return (None, Answer::AskFirst),
        (None, Some(chain)) => Record::new(wanted, chain),
        (Some(known), None) if wanted.purpose != Purpose::Serve => return (Some(*known), Answer::AskFirst),
        (Some(known), chain) => known.refreshed(chain),
    };
    // What is not reserved leaves no new record, but the news.
    let refuse = |record: Record, answer| (known.map(|_| record), answer);
    if record.is_in_doubt(now) || now.as_secs().saturating_sub(record.chain.at.as_secs()) > record.lifetime() {
        return refuse(record, Answer::AskFirst);
    }
    if record.chain.withdraw_requested_at != 0 && !is_refund {
        return refuse(record, Answer::Withdrawing);
    }
    if record.hold.is_some_and(|hold| hold.until > now && hold.owner != owner) {
        return refuse(record, Answer::Busy);
    }
    let amount = if is_refund { 0 } else { wanted.amount };
    let max = wanted.max_claimable;
    let hold =
        Hold { owner, until: wanted.until, amount, purpose: wanted.purpose, request: wanted.request, is_repeat: false };
    // What was claimed was charged, by whichever proxy.
    let base = match known {
        Some(_) => record.charged,
        None => max.saturating_sub(amount),
    }
    .max(record.chain.total_claimed);
    let is_next = base.checked_add(amount) == Some(max);
    let last = record.last;
    let is_same = last.request == wanted.request && last.request != UNKNOWN_REQUEST;
    let is_last = last.max_claimable == max && last.amount > 0 && is_same;
    if is_last && !is_next && wanted.purpose == Purpose::Serve {
        let standing = record.standing();
        if last.is_repeated || last.until <= now {
            record.last = Last::default();
            return refuse(record, Answer::TooLate(standing));
        }
        record.last.is_repeated = true;
        record.hold = Some(Hold { amount: 0, is_repeat: true, ..hold });
        record.last_used = now;
        return (Some(record), Answer::Repeat { charged: last.amount, standing });
    }
    // A higher count than this one: another proxy has served the client since, for no more than the channel held.
    let count = max.saturating_sub(amount);
    if count > record.chain.balance && count > record.standing().charged {
        return refuse(record, Answer::OverBalance);
    }
    let base = count.max(base);
    if base.checked_add(amount) != Some(max) {
        let standing = record.standing();
        return refuse(record, Answer::Stale(standing));
    }
    let deposit = if let Purpose::Deposit { amount } = wanted.purpose { amount } else { 0 };
    if max > record.chain.balance.saturating_add(deposit) {
        return refuse(record, Answer::OverBalance);
    }
    if max <= record.chain.total_claimed && !is_refund {
        return refuse(record, Answer::BelowClaimed);
    }
    if max > record.max_claimable || known.is_none() {
        (record.max_claimable, record.signature) = (max, wanted.signature);
    }
    record.charged = record.charged.max(base);
    record.hold = Some(hold);
    record.last_used = now;
    (Some(record), Answer::Reserved { base })
}

fn go_on(mut record: Record, owner: u64, operation: &Operation, now: UnixTime) -> (Record, Answer) {
    let held = record.hold.filter(|hold| hold.owner == owner);
    let is_claiming = record.claim.is_some_and(|claim| claim.owner == owner);
    match (operation, held) {
        (Operation::Extend { until }, Some(hold)) => {
            record.hold = Some(Hold { until: hold.until.max(*until), ..hold });
            if record.chain.withdraw_requested_at != 0 {
                return (record, Answer::Withdrawing);
            }
        }
        (Operation::Charge { amount, chain }, Some(hold)) => {
            return record.deposited(*chain, hold, now).charge(hold, *amount, now);
        }
        (Operation::Release { chain }, Some(hold)) => {
            record = record.deposited(*chain, hold, now);
            record.hold = None;
            // What was not answered once more may still be.
            record.last.is_repeated &= !hold.is_repeat;
        }
        (Operation::Refresh { chain }, _) => record = record.refreshed(Some(*chain)),
        (Operation::Confirm { chain }, _) => record = record.confirmed(*chain),
        (Operation::Renew, _) => record.outdate(now),
        (Operation::Refunded { chain }, Some(hold)) if hold.purpose == Purpose::Refund => {
            // The record stays, for requests may be under way that were told of the money while it was there.
            record = record.refunded(*chain, now);
            record.hold = None;
            // The count is remembered: a request that heard of the channel before would begin with an older one.
            if record.chain.balance <= record.charged && record.owed() == 0 {
                record.last = Last::default();
            }
        }
        (Operation::BeginClaim { .. } | Operation::ClaimNow { .. }, _) if record.unclaimed() == 0 => {
            return (record, Answer::NotHeld);
        }
        (Operation::BeginClaim { .. }, _) if !is_claiming && record.is_claimed_at(now) => {
            return (record, Answer::Busy);
        }
        (Operation::ClaimNow { .. }, _) if !is_claiming && record.is_claimed_at(now) && !record.is_set_aside() => {
            return (record, Answer::Busy);
        }
        (Operation::BeginClaim { until } | Operation::ClaimNow { until }, _) => {
            record.claim = Some(ClaimHold { owner, until: *until });
            return (record, Answer::Row(record.row()));
        }
        (Operation::EndClaim { claimed }, _) if is_claiming => {
            let before = record.chain.total_claimed;
            record.chain.total_claimed = before.max(*claimed);
            record.claim = None;
            record.failed_claims = 0;
            record.moved_at = now;
            if record.chain.total_claimed > before && record.unclaimed() > 0 {
                record.unclaimed_since = now;
            }
        }
        (Operation::BeginRefund { .. }, _) if record.is_held_at(now) || record.is_claimed_at(now) => {
            return (record, Answer::Busy);
        }
        (Operation::BeginRefund { until }, _) => {
            let purpose = Purpose::Refund;
            record.hold =
                Some(Hold { owner, until: *until, amount: 0, purpose, request: UNKNOWN_REQUEST, is_repeat: false });
            return (record, Answer::Row(record.row()));
        }
        (Operation::FailClaim, _) if is_claiming => {
            record.failed_claims = record.failed_claims.saturating_add(1);
            record.claim = Some(ClaimHold { owner: NOBODY, until: now.plus(record.pause()) });
        }
        _ => return (record, Answer::NotHeld),
    }
    (record, Answer::Granted(record.standing()))
}

/// Seconds that no question takes longer than, and in which no withdrawal is over.
const OVERLAP_SECONDS: u64 = 600;

/// Seconds that a record of a channel that holds something is kept in any case.
const KEPT_SECONDS: u64 = 3600;

/// The owner of what nobody owns.
const NOBODY: u64 = u64::MAX;

impl Record {
    fn new(wanted: &Reserve, chain: OnChain) -> Self {
        let Reserve { chain_id, config, id, .. } = *wanted;
        Self {
            chain_id,
            config,
            id,
            charged: 0,
            max_claimable: 0,
            signature: [0; Signature::LENGTH],
            chain,
            is_outdated: false,
            last: Last::default(),
            hold: None,
            claim: None,
            last_used: UnixTime::default(),
            unclaimed_since: UnixTime::default(),
            failed_claims: 0,
            moved_at: UnixTime::default(),
        }
    }

    /// The record with news from the chain, unless they are older than what is known. What is claimed stays claimed.
    #[must_use]
    fn refreshed(mut self, news: Option<OnChain>) -> Self {
        if let Some(news) = news.filter(|news| news.at >= self.chain.at && !self.is_outrun(news)) {
            let total_claimed = news.total_claimed.max(self.chain.total_claimed);
            let withdraw_requested_at = self.withdrawal_since(&news);
            if total_claimed > self.chain.total_claimed {
                self.moved_at = self.moved_at.max(news.at);
            }
            self.chain = OnChain { total_claimed, withdraw_requested_at, ..news };
            self.is_outdated = false;
        }
        self
    }

    /// The time at which the payer began to withdraw, by news that are no older than what is known. Who tells of no withdrawal soon
    /// after one has begun may have looked before that.
    fn withdrawal_since(&self, news: &OnChain) -> u64 {
        let begun = self.chain.withdraw_requested_at;
        let is_later = news.at >= UnixTime::from_secs(begun).min(self.chain.at).plus(OVERLAP_SECONDS);
        // A refund takes from what is to be withdrawn.
        let may_be_over = is_later || news.refund_nonce > self.chain.refund_nonce;
        if news.withdraw_requested_at == 0 && !may_be_over { begun } else { news.withdraw_requested_at }
    }

    /// Returns whether a refund has come about since somebody looked for these news.
    const fn is_outrun(&self, news: &OnChain) -> bool {
        news.refund_nonce < self.chain.refund_nonce && self.may_precede_move(news.at)
    }

    /// Returns whether who tells of the channel at that time may have looked before the last deposit, claim or refund.
    const fn may_precede_move(&self, at: UnixTime) -> bool {
        at.as_secs() < self.moved_at.as_secs().saturating_add(OVERLAP_SECONDS)
    }

    /// Returns whether something may have happened on the chain that is not known: somebody has said so, or the request for a refund
    /// has vanished, whose worker has failed, and nobody has told of the channel since.
    fn is_in_doubt(&self, now: UnixTime) -> bool {
        let has_vanished =
            |hold: Hold| hold.purpose == Purpose::Refund && hold.until <= now && self.chain.at < hold.until;
        self.is_outdated || self.hold.is_some_and(has_vanished)
    }

    /// The record once the deposit of the request that holds the channel has come about, where it has. A block that was read
    /// meanwhile may be from before it.
    #[must_use]
    fn deposited(mut self, news: Option<OnChain>, hold: Hold, now: UnixTime) -> Self {
        if let Some(news) = news {
            let balance = match hold.purpose {
                Purpose::Deposit { amount } if self.is_outrun(&news) => self.chain.balance.saturating_add(amount),
                _ => news.balance,
            };
            self = self.refreshed(Some(news));
            self.chain.balance = self.chain.balance.max(balance);
            self.moved_at = now;
        }
        self
    }

    /// Returns whether the channel holds nothing, and nothing of it is to be claimed.
    pub fn is_empty(&self) -> bool {
        self.chain.balance <= self.chain.total_claimed && self.owed() == 0
    }

    /// Returns whether nothing was ever put into the channel, and no request holds it: then nothing is forgotten with the record.
    /// Else everybody could fill the ledger for nothing, by deposits for requests that fail.
    pub fn is_unused(&self, now: UnixTime) -> bool {
        let is_untouched = self.charged == 0 && self.chain.balance == 0 && self.moved_at == UnixTime::default();
        is_untouched && !self.is_held_at(now)
    }

    /// Returns whether the record may be forgotten where there is no room for another: nobody uses it, and nothing is lost with
    /// it that the chain and the client do not know.
    pub fn is_needless(&self, now: UnixTime) -> bool {
        let seconds = if self.is_empty() { OVERLAP_SECONDS } else { KEPT_SECONDS };
        self.unclaimed() == 0
            && !self.is_held_at(now)
            && !self.is_claimed_at(now)
            && self.last_used.max(self.moved_at).plus(seconds) <= now
    }

    /// The record once a refund has come about. It is kept though the channel is empty: who has asked about the channel before may still
    /// come with the answer, and would make a new record of what is gone. A block that was read meanwhile may be from before it.
    #[must_use]
    fn refunded(mut self, news: OnChain, now: UnixTime) -> Self {
        self = self.refreshed(Some(news));
        self.chain.balance = self.chain.balance.min(news.balance);
        self.chain.total_claimed = self.chain.total_claimed.max(news.total_claimed);
        self.chain.refund_nonce = self.chain.refund_nonce.max(news.refund_nonce);
        self.moved_at = now;
        self
    }

    /// The record with what a confirmed block says, unless that is older than what is known, or than what has happened since.
    #[must_use]
    const fn confirmed(mut self, news: OnChain) -> Self {
        if news.at.as_secs() < self.chain.at.as_secs() || news.at.as_secs() <= self.moved_at.as_secs() {
            return self;
        }
        self.chain = news;
        self.is_outdated = false;
        self
    }

    /// Notes that something may have happened on the chain, which news from before do not show.
    fn outdate(&mut self, now: UnixTime) {
        self.is_outdated = true;
        self.chain.at = self.chain.at.max(now);
    }

    /// The record with the time since which something can be claimed.
    #[must_use]
    fn timed(mut self, now: UnixTime) -> Self {
        if self.unclaimed() == 0 {
            self.unclaimed_since = UnixTime::default();
        } else if self.unclaimed_since == UnixTime::default() {
            self.unclaimed_since = now;
        }
        self
    }

    /// Returns whether the chain should be asked of it, that no request has to ask first and that a withdrawal is seen: it is in
    /// use, or something is unclaimed, and what is known is about to wear out. Or somebody has said that a deposit or a claim has come about,
    /// and no block has shown it. `lag` is how many seconds old the chain's word is when it comes.
    pub fn wants_news(&self, lag: u64, now: UnixTime) -> bool {
        let lifetime = self.lifetime();
        let is_in_use = self.last_used.plus(lifetime) > now || self.is_held_at(now) || self.unclaimed() > 0;
        let age = now.as_secs().saturating_sub(self.chain.at.as_secs());
        let due = lifetime.checked_div(2).unwrap_or(0).max(lag.saturating_mul(2));
        let has_moved = self.moved_at >= self.chain.at && self.moved_at != UnixTime::default();
        let is_unproven = has_moved && self.moved_at.plus(due) <= now;
        is_in_use && (self.is_in_doubt(now) || age >= due) || is_unproven
    }

    /// Seconds that what is known of the chain is good for: the official server's figure.
    fn lifetime(&self) -> u64 {
        const SHORTEST: u64 = 30;
        const LONGEST: u64 = 300;
        self.config.withdraw_delay.checked_div(3).unwrap_or(SHORTEST).clamp(SHORTEST, LONGEST)
    }

    fn charge(mut self, hold: Hold, amount: u128, now: UnixTime) -> (Self, Answer) {
        let deposit = if let Purpose::Deposit { amount } = hold.purpose { amount } else { 0 };
        let amount = if hold.is_repeat { 0 } else { amount };
        let most = self.max_claimable.min(self.chain.balance.saturating_add(deposit));
        let total = self.charged.saturating_add(amount);
        if amount > hold.amount || (amount > 0 && total > most) {
            return (self, Answer::TooMuch);
        }
        if amount > 0 {
            let max_claimable = self.charged.saturating_add(hold.amount);
            let (request, until) = (hold.request, hold.until);
            self.last = Last { max_claimable, amount, request, until, is_repeated: false };
        }
        self.charged = total;
        // What a deposit is to bring that may yet come.
        if amount > 0 && total > self.chain.balance {
            self.outdate(now);
        }
        self.hold = None;
        self.last_used = now;
        (self, Answer::Granted(self.standing()))
    }

    /// Seconds until a claim that has failed is tried again: more each time, but few where the payer is about to withdraw.
    fn pause(&self) -> u64 {
        const SHORTEST: u64 = 30;
        let doublings = if self.chain.withdraw_requested_at == 0 { self.failed_claims.min(6) } else { 0 };
        SHORTEST << doublings
    }

    /// Atomic units that are charged and not claimed, whether the channel holds them or not.
    pub const fn owed(&self) -> u128 {
        self.charged.saturating_sub(self.chain.total_claimed)
    }

    /// Atomic units that are charged, not claimed, and can be.
    pub const fn unclaimed(&self) -> u128 {
        self.claimable().saturating_sub(self.chain.total_claimed)
    }

    /// Atomic units that are charged and cannot be claimed: the channel does not hold them any more, unless its payer puts in
    /// more.
    pub const fn lost(&self) -> u128 {
        self.owed().saturating_sub(self.unclaimed())
    }

    /// Atomic units that are claimed in all once all is that can be. Of a channel that may hold more than is known, all that is
    /// charged is tried first: who told of it may have looked before the last deposit.
    const fn claimable(&self) -> u128 {
        const MOST_TRIED: u8 = 3;
        let may_be_early = self.moved_at.as_secs() > 0 && self.may_precede_move(self.chain.at);
        let may_hold_more = (self.is_outdated || may_be_early) && self.failed_claims < MOST_TRIED;
        let is_held = self.charged <= self.chain.balance;
        if may_hold_more || is_held { self.charged } else { self.chain.balance }
    }

    /// Returns whether a claim has failed, and nobody has the right to claim since.
    pub fn is_set_aside(&self) -> bool {
        self.claim.is_some_and(|claim| claim.owner == NOBODY)
    }

    /// Returns whether a request holds the channel at that time.
    pub fn is_held_at(&self, now: UnixTime) -> bool {
        self.hold.is_some_and(|hold| hold.until > now)
    }

    /// Returns whether a claim is under way at that time, or one that failed is not to be tried again yet.
    pub fn is_claimed_at(&self, now: UnixTime) -> bool {
        self.claim.is_some_and(|claim| claim.until > now)
    }

    /// The row that claims all that can be claimed.
    pub const fn row(&self) -> Row {
        let Self { chain_id, config, id, max_claimable, signature, .. } = *self;
        Row { chain_id, config, id, max_claimable, signature, charged: self.claimable() }
    }

    /// The standing, as the client is told.
    pub fn standing(&self) -> Standing {
        let Self { id, chain, max_claimable, signature, .. } = *self;
        Standing { id, chain, charged: self.charged.max(chain.total_claimed), max_claimable, signature }
    }
}

/// The version of the bytes of a record.
const VERSION: u8 = 2;

impl Record {
    /// Bytes of a record in a store. Every record has all of them; times have 4 bytes, numbers of the token 16.
    /// Version and name, chain, configuration, amounts, the refund's nonce, signature, times, hashes, owners, and a byte of flags and
    /// one of a count.
    pub const BYTES: usize = 33 + 8 + (5 * 20 + 4 + 32) + 8 * 16 + 8 + Signature::LENGTH + 8 * 4 + 2 * 32 + 2 * 8 + 2;

    /// The bytes that a record of this name begins with.
    pub fn start(id: ChannelId) -> [u8; 33] {
        let mut start = [VERSION; 33];
        for (to, from) in start.iter_mut().skip(1).zip(id.as_bytes()) {
            *to = *from;
        }
        start
    }

    /// The record as a store keeps it. Times beyond the year 2106 become that, and so do nonces that no channel comes to.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let Self { config, chain, last, .. } = self;
        let (purpose, deposit, hold) = match self.hold {
            None => (0, 0, NO_HOLD),
            Some(hold @ Hold { is_repeat: true, .. }) => (4, 0, hold),
            Some(hold) => match hold.purpose {
                Purpose::Serve => (1, 0, hold),
                Purpose::Deposit { amount } => (2, amount, hold),
                Purpose::Refund => (3, 0, hold),
            },
        };
        let claim = self.claim.unwrap_or(ClaimHold { owner: 0, until: UnixTime::default() });
        let flags = u8::from(self.is_outdated) | u8::from(self.claim.is_some()) << 1 | u8::from(last.is_repeated) << 2;
        let mut writer = Writer { bytes: [0; Self::BYTES], at: 0 };
        writer.put(&Self::start(self.id));
        writer.put(&self.chain_id.to_be_bytes());
        for address in
            [config.payer, config.payer_authorizer, config.receiver, config.receiver_authorizer, config.token]
        {
            writer.put(address.as_bytes());
        }
        writer.put_time(config.withdraw_delay);
        writer.put(&config.salt);
        for amount in [
            self.charged,
            self.max_claimable,
            chain.balance,
            chain.total_claimed,
            last.max_claimable,
            last.amount,
            hold.amount,
            deposit,
        ] {
            writer.put(&amount.to_be_bytes());
        }
        writer.put(&u64::try_from(chain.refund_nonce).unwrap_or(u64::MAX).to_be_bytes());
        writer.put(&self.signature);
        for time in [chain.at, last.until, hold.until, claim.until, self.last_used, self.unclaimed_since, self.moved_at]
        {
            writer.put_time(time.as_secs());
        }
        writer.put_time(chain.withdraw_requested_at);
        for hash in [last.request, hold.request] {
            writer.put(&hash);
        }
        for owner in [hold.owner, claim.owner] {
            writer.put(&owner.to_be_bytes());
        }
        writer.put(&[purpose | flags << 3, self.failed_claims]);
        writer.bytes
    }

    /// The record of these bytes; `None` where they are none.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.take::<1>()? != [VERSION] {
            return None;
        }
        let id = ChannelId::from_bytes(reader.take()?);
        let chain_id = u64::from_be_bytes(reader.take()?);
        let mut address = || reader.take().map(Address::from_bytes);
        let (payer, payer_authorizer) = (address()?, address()?);
        let (receiver, receiver_authorizer, token) = (address()?, address()?, address()?);
        let withdraw_delay = reader.take_time()?;
        let salt = reader.take()?;
        let mut amount = || reader.take().map(u128::from_be_bytes);
        let (charged, max_claimable) = (amount()?, amount()?);
        let (balance, total_claimed) = (amount()?, amount()?);
        let (last_max, last_amount, hold_amount, deposit) = (amount()?, amount()?, amount()?, amount()?);
        let refund_nonce = u128::from(u64::from_be_bytes(reader.take()?));
        let signature = reader.take()?;
        let mut time = || reader.take_time().map(UnixTime::from_secs);
        let (at, last_until, hold_until, claim_until) = (time()?, time()?, time()?, time()?);
        let (last_used, unclaimed_since, moved_at) = (time()?, time()?, time()?);
        let withdraw_requested_at = reader.take_time()?;
        let (last_request, hold_request) = (reader.take()?, reader.take()?);
        let (hold_owner, claim_owner) = (u64::from_be_bytes(reader.take()?), u64::from_be_bytes(reader.take()?));
        let [state, failed_claims] = reader.take()?;
        let (purpose, flags) = (state & 7, state >> 3);
        let purpose_of_hold = match purpose {
            0 => None,
            1 | 4 => Some(Purpose::Serve),
            2 => Some(Purpose::Deposit { amount: deposit }),
            3 => Some(Purpose::Refund),
            _ => return None,
        };
        if flags > 7 || !reader.0.is_empty() {
            return None;
        }
        let is_repeat = purpose == 4;
        Some(Self {
            chain_id,
            config: ChannelConfig {
                payer,
                payer_authorizer,
                receiver,
                receiver_authorizer,
                token,
                withdraw_delay,
                salt,
            },
            id,
            charged,
            max_claimable,
            signature,
            chain: OnChain { balance, total_claimed, withdraw_requested_at, refund_nonce, at },
            is_outdated: flags & 1 != 0,
            last: Last {
                max_claimable: last_max,
                amount: last_amount,
                request: last_request,
                until: last_until,
                is_repeated: flags & 4 != 0,
            },
            hold: purpose_of_hold.map(|purpose| Hold {
                owner: hold_owner,
                until: hold_until,
                amount: hold_amount,
                purpose,
                request: hold_request,
                is_repeat,
            }),
            claim: (flags & 2 != 0).then_some(ClaimHold { owner: claim_owner, until: claim_until }),
            last_used,
            unclaimed_since,
            failed_claims,
            moved_at,
        })
    }
}

const NO_HOLD: Hold = Hold {
    owner: 0,
    until: UnixTime::from_secs(0),
    amount: 0,
    purpose: Purpose::Serve,
    request: UNKNOWN_REQUEST,
    is_repeat: false,
};

struct Writer {
    bytes: [u8; Record::BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, part: &[u8]) {
        let end = self.at.saturating_add(part.len());
        // The parts have the length of the whole.
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(part);
        }
        self.at = end;
    }

    fn put_time(&mut self, seconds: u64) {
        self.put(&u32::try_from(seconds).unwrap_or(u32::MAX).to_be_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*part)
    }

    fn take_time(&mut self) -> Option<u64> {
        Some(u64::from(u32::from_be_bytes(self.take()?)))
    }
}
