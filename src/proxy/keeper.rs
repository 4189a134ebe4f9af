//! The keeper of channels: one worker of the process claims for all, gives idle channels back, and asks the chain of those that
//! are in use, where there is a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::callouts;
use super::fleet::{Fleet, Progress, Running};
use super::host::{Host, LogLevel};
use super::store::{self, FlushMark, SharedData};
use super::{shared::Shared, stats};
use crate::chain::{self, MAX_ANSWER_BYTES, Unclear};
use crate::channel::{
    self, Answer, ChannelId, Claimable, Consequences, Due, Group, Job, Keeper, OnChain, Operation, Policy, Record,
    Refundable, Row, Said, Signer, Totals,
};
use crate::config::{Config, Facilitator, Offer, Rpc};
use crate::exchange::{LogText, Warning};
use crate::facilitator::{self, CalloutAnswer, Deed};
use crate::ledger::remote::engine::Listed;
use crate::ledger::remote::{self, LeaseName, Said as StoreSaid, Task};
use crate::ledger::{Channels, Owner};
use crate::money::Amount;
use crate::time::UnixTime;
use crate::x402::requirement::{Evm, PaymentFlow, Rail, Scheme, TransferMethod};
use crate::x402::{NetworkId, Requirement};

/// Pages of the ledger that are looked through each second: all of them in eight.
const PAGES_AT_ONCE: u32 = Channels::PAGES / 8;

/// Seconds for which a worker keeps the right to claim without renewing it.
const LEASE_SECONDS: u64 = 5;

/// Seconds for which a proxy of a fleet keeps that right: another one takes over so long after its death.
const FLEET_LEASE_SECONDS: u64 = 8;

/// Questions that are under way at most, before more is taken in of a fleet's channels.
const MOST_ASKED: usize = 64;

/// Seconds for which a row is claimed by this worker alone.
const CLAIM_SECONDS: u64 = 600;

/// The state of the keeper of a worker.
#[derive(Default)]
pub(super) struct Keeping {
    keeper: Keeper,
    /// The page that is looked through next.
    page: u32,
    /// What was seen since the first page, by chain and token.
    totals: BTreeMap<Purse, Totals>,
    /// Questions whose answers are awaited, by number.
    asked: BTreeMap<u32, Asked>,
    last_number: u32,
    /// Channels of which a chain is to be asked.
    watched: BTreeMap<u64, BTreeSet<ChannelId>>,
    /// How many seconds old the word of each chain was when it came last.
    lags: BTreeMap<u64, u64>,
    /// Chains whose nodes do not tell of channels, as the log knows.
    mute: BTreeSet<u64>,
    /// True if the log was told of channels that no route takes.
    has_told: bool,
    /// Accounts that authorize claims of channels and whose keys nobody here has: how many channels, and what is unclaimed of them.
    strangers: BTreeMap<crate::evm::Address, (u64, u128)>,
    /// Those of which the log knows.
    told_strangers: BTreeSet<crate::evm::Address>,
    /// What is lost of channels, as the log knows.
    told_losses: BTreeMap<ChannelId, u128>,
    /// The wish that is being carried out that everything is claimed now.
    flush: Option<Flushing>,
    /// True once all pages were looked through, and there is not one channel, nor a route for any.
    is_needless: bool,
    /// How far the channels of a fleet are looked through.
    sweep: Sweep,
    /// Callouts of this step, each with the number of its question.
    sent: Tokens,
}

/// How far the keeper of a fleet has come with its channels.
struct Sweep {
    /// The name behind which the next are listed.
    behind: Option<Vec<u8>>,
    /// True while a list is awaited.
    is_listing: bool,
    /// True if that list is not to be looked at: it began before something was wished.
    is_void: bool,
    /// Until when the right to claim for the fleet is this worker's.
    leased_until: UnixTime,
    /// When that right is asked for; `None` while it is being asked for.
    asks_at: Option<UnixTime>,
}

/// The wish that everything is claimed now.
struct Flushing {
    number: u64,
    /// What was charged by then is to be claimed.
    since: UnixTime,
    /// Atomic units that were unclaimed at first.
    total: Option<u128>,
    /// Atomic units that are unclaimed by the pages that were looked through.
    left: u128,
    /// True if a page could not be read: nobody knows what stands there.
    is_blind: bool,
    /// Channels whose claim had failed and was asked for at once.
    hastened: BTreeSet<ChannelId>,
}

impl Flushing {
    /// Returns whether something of a channel is to be claimed.
    fn concerns(&self, record: &Record) -> bool {
        record.unclaimed() > 0 && record.unclaimed_since <= self.since
    }

    /// Returns whether a channel is to be claimed now. One whose claim has failed does not wait, once.
    fn claims(&mut self, record: &Record, now: UnixTime) -> bool {
        !record.is_claimed_at(now) || record.is_set_aside() && self.hastened.insert(record.id)
    }
}

impl Default for Sweep {
    fn default() -> Self {
        let start = UnixTime::from_secs(0);
        Self { behind: None, is_listing: false, is_void: false, leased_until: start, asks_at: Some(start) }
    }
}

/// Something that was asked of somebody.
enum Asked {
    /// A facilitator was asked to do a job.
    Deed(Group, Job),
    /// A node was asked for the last block.
    Head(Arc<Rpc>, Purpose),
    /// A node was asked for the states of channels as of a block.
    States(Arc<Rpc>, u64, Purpose),
    /// The shared store was asked to do something.
    Task(Box<Running>, After),
    /// The shared store was asked for channels.
    List,
}

/// What follows on something that the ledger was asked to do.
#[derive(Clone, Copy)]
enum After {
    /// A claim, of what was charged since then.
    Claim { since: UnixTime, is_urgent: bool },
    /// A refund of a channel that stood so on the chain.
    Refund { chain: OnChain },
    /// The right to claim for the fleet.
    Lease,
}

/// The reason why a chain is asked of channels.
enum Purpose {
    /// To know of them before what is known has worn out.
    Watch(Vec<ChannelId>),
    /// To know what became of a job, or what is to be known before it.
    Job(Group, Job),
}

impl Purpose {
    fn ids(&self) -> Vec<ChannelId> {
        match self {
            Self::Watch(ids) => ids.clone(),
            Self::Job(_, Job::Claim { rows, .. }) => rows.iter().map(|one| one.row.id).collect(),
            Self::Job(_, Job::Refund(refundable)) => vec![refundable.row.id],
            Self::Job(_, Job::Payout { .. }) => Vec::new(),
        }
    }
}

/// Tokens of callouts, each with the number of its question.
pub(super) type Tokens = Vec<(u32, u32)>;

/// Channels of which a chain is asked at once, at most.
const MOST_WATCHED: usize = 8 * chain::channels::MOST;

/// Channels of which the log is told that something is lost, at most.
const MOST_TOLD: usize = 1024;

/// A token on a chain.
type Purse = (u64, crate::evm::Address);

/// What a keeper needs to know.
pub(super) struct Around<'a, H> {
    pub(super) host: &'a H,
    pub(super) config: &'a Config,
    pub(super) shared: &'a Shared,
    /// The worker's number.
    pub(super) number: u32,
}

impl<H: Host> Around<'_, H> {
    /// Returns the owner that marks what the keeper holds.
    fn owner(&self) -> Owner {
        let own = Owner(u64::from(self.number) << u32::BITS);
        self.shared.fleet().map_or(own, |fleet| fleet.owner(0))
    }

    /// Has the ledger do something whose answer nobody needs.
    fn note(&self, id: ChannelId, operation: &Operation, now: UnixTime) {
        match self.shared.fleet() {
            Some(fleet) => fleet.mend(self.host, Task::Channel(id, operation.clone()), self.owner()),
            None => {
                self.perform(id, operation, now);
            }
        }
    }

    fn perform(&self, id: ChannelId, operation: &Operation, now: UnixTime) -> Answer {
        let owner = self.owner();
        let (channels, secret) = (&self.config.channels.records, &self.shared.memory.secret);
        channels.perform(&mut SharedData::new(self.host), secret, id, owner, operation, now)
    }

    /// Returns the offers by channels.
    fn offers(&self) -> impl Iterator<Item = &Arc<Offer>> {
        let terms = self.config.routes.iter().filter_map(|route| route.terms.as_ref());
        terms.flat_map(|terms| &terms.offers).filter(|offer| offer.requirement.scheme == Scheme::BatchSettlement)
    }

    /// Returns the rules for channels in a token.
    fn policy(&self, (chain_id, token): Purse) -> Policy {
        let is_in = |offer: &&Arc<Offer>| {
            offer.requirement.evm().is_some_and(|evm| evm.chain_id == chain_id && evm.asset == token)
        };
        let channels = &self.config.channels;
        let above = self.offers().find(is_in).and_then(|offer| {
            u128::try_from(channels.claim_above.to_amount(offer.dollar_decimals?).ok()?.to_integer()).ok()
        });
        // Of a token whose worth is not known, time decides.
        let claim_above = above.unwrap_or(u128::MAX);
        Policy { claim_above, claim_every: channels.claim_every, refund_idle: channels.refund_idle }
    }

    /// Returns whether a route takes vouchers of a channel.
    fn is_wanted(&self, record: &Record) -> bool {
        let channel::ChannelConfig { receiver, receiver_authorizer, token, withdraw_delay, .. } = record.config;
        let network = NetworkId::from_chain_id(record.chain_id);
        self.offers().any(|offer| {
            let Some(evm) = offer.requirement.evm() else { return false };
            let Some(terms) = &evm.channel else { return false };
            let is_authorizer = match terms.is_authorized_by_facilitator {
                true => self.shared.supported.iter().any(|one| one.authorizes(network.as_str(), receiver_authorizer)),
                false => terms.receiver_authorizer == Some(receiver_authorizer),
            };
            is_authorizer
                && evm.chain_id == record.chain_id
                && evm.asset == token
                && terms.withdraw_delay == withdraw_delay
                && (offer.recipient_from.is_some() || offer.recipients.iter().any(|one| one.to == receiver))
        })
    }

    /// Returns whether neither the gate nor a facilitator can authorize claims of a channel, for certain.
    fn is_lost(&self, record: &Record) -> bool {
        let network = NetworkId::from_chain_id(record.chain_id);
        let authorizer = record.config.receiver_authorizer;
        let is_own = self.config.channels.authorizer.as_ref().is_some_and(|key| key.address() == authorizer);
        let has_said = |one: &facilitator::Supported| !one.kinds.is_empty();
        let is_theirs = |one: &facilitator::Supported| one.authorizes(network.as_str(), authorizer);
        let supported = &self.shared.supported;
        !is_own && supported.iter().all(has_said) && !supported.iter().any(is_theirs)
    }

    /// Returns the node of a chain, where there is one.
    fn node(&self, chain_id: u64) -> Option<&Arc<Rpc>> {
        self.offers().filter_map(|offer| offer.rpc.as_ref()).find(|rpc| rpc.chain_id == chain_id)
    }

    /// Asks a node.
    fn ask_node(&self, rpc: &Rpc, question: &str) -> Option<u32> {
        callouts::dispatch(self.host, &self.shared.tokens, &rpc.service, "POST", "", question).ok()
    }

    /// Returns the facilitator that a group's work is asked of.
    fn facilitator(&self, group: &Group) -> Option<&Facilitator> {
        let network = NetworkId::from_chain_id(group.chain_id);
        let all = || self.config.facilitators.iter().enumerate();
        let authorizes = |(place, _): &(usize, &Facilitator)| {
            let supported = self.shared.supported.get(*place);
            supported.is_some_and(|one| one.authorizes(network.as_str(), group.authorizer))
        };
        let is_fit = |(_, one): &(usize, &Facilitator)| one.is_for(Scheme::BatchSettlement.as_str(), &network);
        let health = self.shared.health.borrow();
        let answers = |(place, _): &(usize, &Facilitator)| !health.is_failing(self.config, *place);
        let fit = all().filter(is_fit);
        let mut best: Vec<_> = fit.clone().filter(authorizes).collect();
        if best.is_empty() {
            best = fit.collect();
        }
        best.iter().find(|one| answers(one)).or_else(|| best.first()).map(|(_, facilitator)| *facilitator)
    }
}

impl Keeping {
    /// Takes in a number that no other proxy has: by it attempts are not repeated by all in the same second.
    pub(super) const fn jitter_by(&mut self, seed: u64) {
        self.keeper.jitter_by(seed);
    }

    /// Does what is due.
    pub(super) fn keep(&mut self, around: &Around<'_, impl Host>, now: UnixTime) -> Tokens {
        if let Some(fleet) = around.shared.fleet().cloned() {
            return self.keep_for_fleet(around, &fleet, now);
        }
        let name = &around.config.facilitators_identity;
        let until = now.plus(LEASE_SECONDS);
        let mut lease = format!("keeper.{name}");
        if !around.config.has_channels {
            // Channels of an earlier configuration are claimed by whoever has none, unless somebody has some.
            if self.is_needless || store::is_leased(around.host, &lease, now) {
                return self.work_off(around, now);
            }
            lease = format!("keeper.rest.{name}");
        }
        if !store::keep_lease(around.host, &lease, around.number, now, until) {
            // What was begun is brought to its end.
            self.flush = None;
            self.watched.clear();
            return self.work_off(around, now);
        }
        self.heed_flush(around, name, now);
        let pages = if self.flush.is_some() { Channels::PAGES } else { PAGES_AT_ONCE };
        for _ in 0..pages {
            self.look_through(around, now);
        }
        self.tell_flush(around, name);
        let mut tokens = self.watch(around);
        tokens.extend(self.work_off(around, now));
        tokens
    }

    /// Does what is due of the channels of a fleet: one worker of one of its proxies claims for all.
    fn keep_for_fleet(&mut self, around: &Around<'_, impl Host>, fleet: &Fleet, now: UnixTime) -> Tokens {
        self.ask_again(around, fleet, now);
        let name = &around.config.facilitators_identity;
        let is_of_process =
            store::keep_lease(around.host, &format!("keeper.{name}"), around.number, now, now.plus(LEASE_SECONDS));
        if !around.shared.memory.is_known || self.is_needless || !is_of_process {
            self.flush = None;
            let begun = self.work_off(around, now);
            return [std::mem::take(&mut self.sent), begun].concat();
        }
        let wish = store::flush_mark(around.host, name).filter(|mark| mark.wanted > mark.done);
        if let (Some(mark), None) = (wish, &self.flush) {
            self.begin_flush(around, mark.wanted, now);
            self.start_over();
            self.sweep.is_void = self.sweep.is_listing;
        }
        if self.sweep.asks_at.take_if(|due| *due <= now).is_some() {
            let task = Task::Lease(LeaseName::new(name), now.plus(FLEET_LEASE_SECONDS));
            self.begin_task(around, fleet, task, After::Lease, now);
        }
        // What an operator wishes is done by the proxy that was asked; a channel is claimed by one in any case.
        if self.sweep.leased_until > now || self.flush.is_some() {
            self.list(around, fleet);
            let watched = self.watch(around);
            self.sent.extend(watched);
        }
        let begun = self.work_off(around, now);
        [std::mem::take(&mut self.sent), begun].concat()
    }

    /// Asks the shared store once more what it did not answer.
    fn ask_again(&mut self, around: &Around<'_, impl Host>, fleet: &Fleet, now: UnixTime) {
        let waits = |(_, asked): &(&u32, &Asked)| matches!(asked, Asked::Task(running, _) if running.wants_tick());
        let waiting: Vec<u32> = self.asked.iter().filter(waits).map(|(number, _)| *number).collect();
        for number in waiting {
            if let Some(Asked::Task(mut running, after)) = self.asked.remove(&number) {
                let progress = running.on_tick(around.host, fleet);
                self.on_progress(around, fleet, running, after, progress, now);
            }
        }
    }

    /// Has the shared store do something.
    fn begin_task(&mut self, around: &Around<'_, impl Host>, fleet: &Fleet, task: Task, after: After, now: UnixTime) {
        let (running, progress) = Running::begin(around.host, fleet, task, around.owner(), false);
        self.on_progress(around, fleet, Box::new(running), after, progress, now);
    }

    fn on_progress(
        &mut self,
        around: &Around<'_, impl Host>,
        fleet: &Fleet,
        running: Box<Running>,
        after: After,
        progress: Progress,
        now: UnixTime,
    ) {
        match progress {
            Progress::Waiting => {
                let token = running.token();
                let number = self.expect(Asked::Task(running, after));
                self.sent.extend(token.map(|token| (token, number)));
            }
            Progress::Done(said) => self.on_said(around, &said, after, now),
            // The keeper wants what it asks for.
            Progress::Unwanted(_) => {}
            Progress::GaveUp(undo) => {
                if let Some(undo) = undo {
                    fleet.mend(around.host, Task::Undo(undo), around.owner());
                }
                self.on_said(around, &StoreSaid::Undone, after, now);
            }
        }
    }

    fn on_said(&mut self, around: &Around<'_, impl Host>, said: &StoreSaid, after: After, now: UnixTime) {
        match (said, after) {
            (StoreSaid::Channel(Answer::Row(row)), after) => self.on_row(around, *row, after, now),
            (StoreSaid::Lease { is_own: true, until }, After::Lease) => {
                self.sweep.asks_at = Some(now.plus(FLEET_LEASE_SECONDS / 2));
                self.sweep.leased_until = *until;
            }
            // Asked again when it may be over; not by all in the same second.
            (StoreSaid::Lease { until, .. }, After::Lease) => {
                let Owner(jitter) = around.owner();
                let late = jitter.checked_rem(3).unwrap_or_default();
                self.sweep.asks_at = Some((*until).max(now.plus(1)).plus(late));
            }
            (_, After::Lease) => self.sweep.asks_at = Some(now.plus(1)),
            _ => {}
        }
    }

    /// Asks for the next channels, unless some are awaited.
    fn list(&mut self, around: &Around<'_, impl Host>, fleet: &Fleet) {
        if self.sweep.is_listing {
            return;
        }
        if let Some(token) = fleet.list_channels(around.host, self.sweep.behind.as_deref()) {
            self.sweep.is_listing = true;
            let number = self.expect(Asked::List);
            self.sent.push((token, number));
        }
    }

    /// Takes in a list of channels.
    fn on_list(&mut self, around: &Around<'_, impl Host>, listed: Option<Listed>, now: UnixTime) {
        self.sweep.is_listing = false;
        if std::mem::take(&mut self.sweep.is_void) {
            return;
        }
        let Some(Listed { values, last, has_more }) = listed else {
            if let Some(flush) = &mut self.flush {
                flush.is_blind = true;
            }
            return;
        };
        for value in &values {
            match remote::channel_of_value(value) {
                Ok(Some(record)) => self.consider(around, &record, now),
                Ok(None) => {}
                Err(_) => {
                    if let Some(flush) = &mut self.flush {
                        flush.is_blind = true;
                    }
                }
            }
        }
        self.sweep.behind = last.filter(|_| has_more);
        if self.sweep.behind.is_none() {
            self.is_needless = !around.config.has_channels && self.totals.is_empty();
            self.tell_totals(around);
            self.tell_flush(around, &around.config.facilitators_identity);
            self.start_over();
        }
    }

    /// Returns whether a question was one to the shared store.
    pub(super) fn is_of_store(&self, number: u32) -> bool {
        matches!(self.asked.get(&number), Some(Asked::Task(..) | Asked::List))
    }

    /// Takes in an answer of the shared store; what is asked next.
    pub(super) fn on_store(
        &mut self,
        around: &Around<'_, impl Host>,
        number: u32,
        (headers, body_size): (usize, usize),
        now: UnixTime,
    ) -> Tokens {
        let Some(fleet) = around.shared.fleet().cloned() else { return Tokens::new() };
        match self.asked.remove(&number) {
            Some(Asked::Task(mut running, after)) => {
                let progress = running.on_answer(around.host, &fleet, headers, body_size);
                self.on_progress(around, &fleet, running, after, progress, now);
            }
            Some(Asked::List) => {
                let listed = fleet.read_channels(around.host, headers, body_size);
                self.on_list(around, listed, now);
            }
            _ => {}
        }
        std::mem::take(&mut self.sent)
    }

    /// Asks for what is due of the work that was taken in.
    fn work_off(&mut self, around: &Around<'_, impl Host>, now: UnixTime) -> Tokens {
        let due = self.keeper.take_due(now).into_iter();
        due.filter_map(|(group, job)| self.begin(around, group, job, now)).collect()
    }

    /// Begins with the wish that everything is claimed now, where there is one: all pages are looked through at once.
    fn heed_flush(&mut self, around: &Around<'_, impl Host>, name: &str, now: UnixTime) {
        let Some(mark) = store::flush_mark(around.host, name).filter(|mark| mark.wanted > mark.done) else {
            self.flush = None;
            return;
        };
        if self.flush.is_none() {
            self.begin_flush(around, mark.wanted, now);
        }
        self.start_over();
    }

    fn begin_flush(&mut self, around: &Around<'_, impl Host>, number: u64, now: UnixTime) {
        self.flush =
            Some(Flushing { number, since: now, total: None, left: 0, is_blind: false, hastened: BTreeSet::new() });
        self.keeper.hasten(now);
        around.host.log(LogLevel::Info, "x402: all channels are claimed now, as an operator has asked");
    }

    /// Looks through all pages from the first.
    fn start_over(&mut self) {
        self.page = 0;
        self.sweep.behind = None;
        self.strangers.clear();
        self.totals.values_mut().for_each(|totals| *totals = Totals::default());
        if let Some(flush) = &mut self.flush {
            (flush.left, flush.is_blind) = (0, false);
        }
    }

    /// Tells whoever waits how far the wish is: all pages were looked through just now.
    fn tell_flush(&mut self, around: &Around<'_, impl Host>, name: &str) {
        let Some(flush) = &mut self.flush else { return };
        let (number, left) = (flush.number, flush.left);
        let claimed = flush.total.get_or_insert(left).saturating_sub(left);
        let is_done = left == 0 && !flush.is_blind && self.keeper.is_idle();
        store::change_flush_mark(around.host, name, |mark| match is_done {
            true => FlushMark { begun: number, done: number, claimed_by_done: claimed, ..mark },
            false => FlushMark { begun: number, unclaimed: left, claimed, ..mark },
        });
        if is_done {
            around.host.log(LogLevel::Info, &format!("x402: all channels are claimed: {claimed} atomic units"));
            self.flush = None;
        }
    }

    /// Asks nodes for the last block where channels are to be asked about, and nothing is asked yet.
    fn watch(&mut self, around: &Around<'_, impl Host>) -> Tokens {
        let is_busy = |chain_id: u64, asked: &BTreeMap<u32, Asked>| {
            asked.values().any(|one| match one {
                Asked::Head(rpc, Purpose::Watch(_)) | Asked::States(rpc, _, Purpose::Watch(_)) => {
                    rpc.chain_id == chain_id
                }
                _ => false,
            })
        };
        let mut tokens = Tokens::new();
        for (chain_id, mut ids) in std::mem::take(&mut self.watched) {
            let Some(rpc) = around.node(chain_id) else { continue };
            if !is_busy(chain_id, &self.asked) {
                let behind = ids.iter().nth(MOST_WATCHED).copied();
                let later = behind.map(|first| ids.split_off(&first)).unwrap_or_default();
                let purpose = Purpose::Watch(std::mem::replace(&mut ids, later).into_iter().collect());
                tokens.extend(self.ask_head(around, rpc, purpose));
            }
            if !ids.is_empty() {
                self.watched.insert(chain_id, ids);
            }
        }
        tokens
    }

    /// Begins a job: what the chain can say of it is asked first.
    fn begin(&mut self, around: &Around<'_, impl Host>, group: Group, job: Job, now: UnixTime) -> Option<(u32, u32)> {
        let is_in_doubt = match &job {
            Job::Claim { attempts, .. } => *attempts > 0,
            Job::Refund(_) => true,
            Job::Payout { .. } => false,
        };
        match around.node(group.chain_id).filter(|_| is_in_doubt) {
            Some(rpc) => match around.ask_node(rpc, &chain::channels::head_question()) {
                Some(token) => Some((token, self.expect(Asked::Head(Arc::clone(rpc), Purpose::Job(group, job))))),
                None => self.ask(around, group, job, now),
            },
            None => self.ask(around, group, job, now),
        }
    }

    fn ask_head(&mut self, around: &Around<'_, impl Host>, rpc: &Arc<Rpc>, purpose: Purpose) -> Option<(u32, u32)> {
        let token = around.ask_node(rpc, &chain::channels::head_question())?;
        Some((token, self.expect(Asked::Head(Arc::clone(rpc), purpose))))
    }

    /// Notes that an answer is awaited; its number.
    fn expect(&mut self, asked: Asked) -> u32 {
        self.last_number = self.last_number.wrapping_add(1);
        self.asked.insert(self.last_number, asked);
        self.last_number
    }

    /// Looks through the next page.
    fn look_through(&mut self, around: &Around<'_, impl Host>, now: UnixTime) {
        let mut store = SharedData::new(around.host);
        let page = around.config.channels.records.on_page(&mut store, self.page);
        if let (Some(flush), Err(_)) = (&mut self.flush, &page) {
            flush.is_blind = true;
        }
        for record in &page.unwrap_or_default() {
            self.consider(around, record, now);
        }
        self.page = self.page.saturating_add(1);
        if self.page >= Channels::PAGES {
            self.page = 0;
            self.is_needless = !around.config.has_channels && self.totals.is_empty();
            self.tell_totals(around);
        }
    }

    fn consider(&mut self, around: &Around<'_, impl Host>, record: &Record, now: UnixTime) {
        let purse = (record.chain_id, record.config.token);
        let is_wanted = around.is_wanted(record);
        if !record.is_empty() {
            self.totals.entry(purse).or_default().add(record, is_wanted, now);
        }
        if !is_wanted && record.unclaimed() > 0 && around.is_lost(record) {
            let (channels, unclaimed) = self.strangers.entry(record.config.receiver_authorizer).or_default();
            *channels = channels.saturating_add(1);
            *unclaimed = unclaimed.saturating_add(record.unclaimed());
        }
        self.tell_loss(around, record);
        let lag = self.lags.get(&record.chain_id).copied().unwrap_or_default();
        if record.wants_news(lag, now) && around.node(record.chain_id).is_some() {
            self.watched.entry(record.chain_id).or_default().insert(record.id);
        }
        let mut due = channel::due(record, &around.policy(purse), now);
        if let Some(flush) = self.flush.as_mut().filter(|flush| flush.concerns(record)) {
            flush.left = flush.left.saturating_add(record.unclaimed());
            if !matches!(due, Due::Claim { .. }) && flush.claims(record, now) {
                due = Due::Claim { is_urgent: false };
            }
        }
        match due {
            Due::Nothing => {}
            Due::Refund if !self.keeper.has_room_for_refund() => {}
            Due::Claim { is_urgent } => {
                let until = now.plus(CLAIM_SECONDS);
                let operation = match self.flush {
                    Some(_) => Operation::ClaimNow { until },
                    None => Operation::BeginClaim { until },
                };
                self.take(around, record.id, operation, After::Claim { since: record.unclaimed_since, is_urgent }, now);
            }
            Due::Refund => {
                let operation = Operation::BeginRefund { until: now.plus(CLAIM_SECONDS) };
                self.take(around, record.id, operation, After::Refund { chain: record.chain }, now);
            }
        }
    }

    /// Takes the right to do something about a channel.
    fn take(
        &mut self,
        around: &Around<'_, impl Host>,
        id: ChannelId,
        operation: Operation,
        after: After,
        now: UnixTime,
    ) {
        match around.shared.fleet().cloned() {
            Some(fleet) => {
                // The rest comes up again.
                if self.asked.len() < MOST_ASKED {
                    self.begin_task(around, &fleet, Task::Channel(id, operation), after, now);
                }
            }
            None => {
                if let Answer::Row(row) = around.perform(id, &operation, now) {
                    self.on_row(around, row, after, now);
                }
            }
        }
    }

    /// Something may be done about a channel.
    fn on_row(&mut self, around: &Around<'_, impl Host>, row: Row, after: After, now: UnixTime) {
        match after {
            After::Claim { since, is_urgent } => {
                if is_urgent {
                    let id = row.id;
                    around.host.log(
                        LogLevel::Critical,
                        &format!("x402: the payer of channel {id} has begun to withdraw; it is claimed at once, and buys nothing more"),
                    );
                    stats::count_channel(around.host, "withdrawal", 1);
                }
                self.keeper.claim(Claimable { row, since }, now);
            }
            After::Refund { chain } => self.keeper.refund(Refundable { row, chain }),
            After::Lease => {}
        }
    }

    /// Tells the log of a channel whose payer has taken what was charged.
    fn tell_loss(&mut self, around: &Around<'_, impl Host>, record: &Record) {
        let (id, lost) = (record.id, record.lost());
        if lost == 0 {
            self.told_losses.remove(&id);
        } else if self.told_losses.len() < MOST_TOLD && self.told_losses.insert(id, lost) != Some(lost) {
            around.host.log(
                LogLevel::Error,
                &format!("x402: {lost} atomic units that were charged are lost, unless their payer puts them in again: channel {id} does not hold them any more"),
            );
        }
    }

    /// Tells stats how the channels stand, and the log of those that no route takes.
    fn tell_totals(&mut self, around: &Around<'_, impl Host>) {
        let mut unwanted = (0_u64, 0_u128);
        // What is gone is told of once more, as nothing.
        for ((chain_id, token), totals) in &mut self.totals {
            let network = NetworkId::from_chain_id(*chain_id);
            stats::tell_channels(around.host, network.as_str(), &token.to_string(), totals);
            unwanted =
                (unwanted.0.saturating_add(totals.unwanted), unwanted.1.saturating_add(totals.unwanted_deposited));
            *totals = Totals::default();
        }
        let (channels, held) = unwanted;
        if channels > 0 && !self.has_told {
            around.host.log(
                LogLevel::Warn,
                &format!("x402: {channels} open channels, which hold {held} atomic units, are of an authorizer, a recipient, a token or a withdraw_delay that no route has any more: they buy nothing, and are claimed as before"),
            );
        }
        self.has_told = channels > 0;
        let strangers = std::mem::take(&mut self.strangers);
        for (authorizer, (channels, unclaimed)) in &strangers {
            if self.told_strangers.insert(*authorizer) {
                around.host.log(
                    LogLevel::Critical,
                    &format!("x402: {channels} channels, of which {unclaimed} atomic units are charged and not claimed, are of the authorizer {authorizer}, whose key neither channels.authorizer nor a facilitator has: they cannot be claimed without it; configure it again until they are"),
                );
            }
        }
        self.told_strangers.retain(|authorizer| strangers.contains_key(authorizer));
    }

    /// Asks the facilitator for a job; the token of the callout, and the job's number.
    fn ask(&mut self, around: &Around<'_, impl Host>, group: Group, job: Job, now: UnixTime) -> Option<(u32, u32)> {
        let own = around.config.channels.authorizer.as_ref().filter(|key| key.address() == group.authorizer);
        let domain = channel::domain_separator(group.chain_id);
        let signer = own.map(|key| Signer { key, domain: &domain });
        let token = around.facilitator(&group).and_then(|facilitator| {
            let network = NetworkId::from_chain_id(group.chain_id);
            let payload = job.payload(group, signer.as_ref());
            let body = channel::question(&payload, network.as_str(), group.token, group.receiver);
            callouts::dispatch(around.host, &around.shared.tokens, &facilitator.service, "POST", "/settle", &body).ok()
        });
        let Some(token) = token else {
            let consequences = self.keeper.on_answer(group, job, Said::Nothing, now);
            carry_out(around, &consequences, now);
            return None;
        };
        Some((token, self.expect(Asked::Deed(group, job))))
    }

    /// Returns how many bytes of the answer to a question are read.
    pub(super) fn max_answer_bytes(&self, number: u32) -> usize {
        match self.asked.get(&number) {
            Some(Asked::Head(..) | Asked::States(..)) => MAX_ANSWER_BYTES,
            _ => facilitator::MAX_ANSWER_BYTES,
        }
    }

    /// Takes in an answer; what is asked next.
    pub(super) fn on_answer(
        &mut self,
        around: &Around<'_, impl Host>,
        number: u32,
        answer: &CalloutAnswer,
        now: UnixTime,
    ) -> Tokens {
        match self.asked.remove(&number) {
            None | Some(Asked::Task(..) | Asked::List) => Tokens::new(),
            Some(Asked::Deed(group, job)) => {
                self.on_deed(around, group, job, answer, now);
                Tokens::new()
            }
            Some(Asked::Head(rpc, purpose)) => match chain::channels::read_head(&rpc, answer) {
                Ok(head) => self.ask_states(around, &rpc, head, purpose, now),
                Err(unclear) => self.on_silence(around, &rpc, purpose, unclear, answer, now),
            },
            Some(Asked::States(rpc, block, purpose)) => {
                match chain::channels::read(&rpc, &purpose.ids(), block, answer, now) {
                    Ok(states) => self.on_states(around, &rpc, purpose, &states, now),
                    Err(unclear) => self.on_silence(around, &rpc, purpose, unclear, answer, now),
                }
            }
        }
    }

    /// The last block is known: asks for the states of channels as of one that counts as confirmed. Whether a claim was carried
    /// out, the last one tells.
    fn ask_states(
        &mut self,
        around: &Around<'_, impl Host>,
        rpc: &Arc<Rpc>,
        head: u64,
        purpose: Purpose,
        now: UnixTime,
    ) -> Tokens {
        let (block, purposes) = match purpose {
            Purpose::Watch(ids) => {
                let parts = ids.chunks(chain::channels::MOST).map(|ids| Purpose::Watch(ids.to_vec())).collect();
                (rpc.newest_confirmed(head), parts)
            }
            Purpose::Job(group, job @ Job::Refund(_)) => (rpc.newest_confirmed(head), vec![Purpose::Job(group, job)]),
            job @ Purpose::Job(..) => (head, vec![job]),
        };
        let mut tokens = Tokens::new();
        for purpose in purposes {
            let question = chain::channels::question(&purpose.ids(), block);
            match (around.ask_node(rpc, &question), purpose) {
                (Some(token), purpose) => {
                    tokens.push((token, self.expect(Asked::States(Arc::clone(rpc), block, purpose))));
                }
                (None, Purpose::Job(group, job)) => tokens.extend(self.ask(around, group, job, now)),
                (None, Purpose::Watch(_)) => {}
            }
        }
        tokens
    }

    /// A node has told of channels.
    fn on_states(
        &mut self,
        around: &Around<'_, impl Host>,
        rpc: &Rpc,
        purpose: Purpose,
        states: &[(ChannelId, OnChain)],
        now: UnixTime,
    ) -> Tokens {
        self.mute.remove(&rpc.chain_id);
        match purpose {
            Purpose::Watch(_) => {
                for (id, chain) in states {
                    self.lags.insert(rpc.chain_id, now.as_secs().saturating_sub(chain.at.as_secs()));
                    around.note(*id, &Operation::Confirm { chain: *chain }, now);
                }
                Tokens::new()
            }
            Purpose::Job(group, Job::Claim { rows, attempts }) => {
                let (consequences, left) = self.keeper.on_chain(group, rows, attempts, states, now);
                carry_out(around, &consequences, now);
                left.and_then(|job| self.ask(around, group, job, now)).into_iter().collect()
            }
            Purpose::Job(group, Job::Refund(refundable)) => {
                let news = states.first().map_or(refundable.chain, |(_, chain)| *chain);
                match refundable.renewed(news) {
                    Ok(one) => self.ask(around, group, Job::Refund(Box::new(one)), now).into_iter().collect(),
                    Err(consequences) => {
                        self.keeper.on_no_refund();
                        carry_out(around, &consequences, now);
                        Tokens::new()
                    }
                }
            }
            Purpose::Job(group, job) => self.ask(around, group, job, now).into_iter().collect(),
        }
    }

    /// A node has not told of channels.
    fn on_silence(
        &mut self,
        around: &Around<'_, impl Host>,
        rpc: &Rpc,
        purpose: Purpose,
        unclear: Unclear,
        answer: &CalloutAnswer,
        now: UnixTime,
    ) -> Tokens {
        if self.mute.insert(rpc.chain_id) {
            let (level, line) = if unclear == Unclear::OtherChain {
                let (cluster, chain_id) = (rpc.service.cluster.clone(), rpc.chain_id);
                (LogLevel::Critical, Warning::OtherChain { cluster, chain_id }.to_string())
            } else {
                let report = LogText::new(&facilitator::report(&rpc.service, "", answer));
                let chain_id = rpc.chain_id;
                (
                    LogLevel::Warn,
                    format!(
                        "the node of chain {chain_id} does not tell of channels ({unclear}), so the facilitator is asked: {report}"
                    ),
                )
            };
            around.host.log(level, &format!("x402: {line}"));
        }
        match purpose {
            Purpose::Watch(_) => Tokens::new(),
            Purpose::Job(group, job) => self.ask(around, group, job, now).into_iter().collect(),
        }
    }

    /// Takes in the facilitator's answer about a job.
    fn on_deed(
        &mut self,
        around: &Around<'_, impl Host>,
        group: Group,
        job: Job,
        answer: &CalloutAnswer,
        now: UnixTime,
    ) {
        let deed = facilitator::read_deed(answer, &requirement(&group));
        let said = match &deed {
            Deed::Done(_) => Said::Done,
            Deed::Refused(_) => Said::Refused,
            Deed::Unknown => Said::Nothing,
        };
        if said != Said::Done
            && let Some(facilitator) = around.facilitator(&group)
        {
            let report = facilitator::report(&facilitator.service, "/settle", answer);
            let what = job.name();
            around.host.log(LogLevel::Warn, &format!("x402: a {what} of channels did not come about: {report}"));
        }
        let consequences = self.keeper.on_answer(group, job, said, now);
        carry_out(around, &consequences, now);
    }
}

/// Tells the ledger, the log and the stats what came of a job.
fn carry_out(around: &Around<'_, impl Host>, consequences: &Consequences, now: UnixTime) {
    let Consequences { operations, claimed, failed, refunded, unrefunded } = consequences;
    for (id, operation) in operations {
        around.note(*id, operation, now);
    }
    for Claimable { row, since } in claimed {
        let (id, charged) = (row.id, row.charged);
        around.host.log(LogLevel::Info, &format!("x402: channel {id} is claimed up to {charged} atomic units"));
        stats::time_claim(around.host, now.as_secs().saturating_sub(since.as_secs()));
    }
    stats::count_channel(around.host, "claimed", i64::try_from(claimed.len()).unwrap_or_default());
    for row in failed {
        let (id, charged) = (row.id, row.charged);
        around.host.log(
            LogLevel::Error,
            &format!("x402: channel {id} could not be claimed up to {charged}; it is tried again later"),
        );
    }
    if let Some((row, amount)) = refunded {
        let (id, payer) = (row.id, row.config.payer);
        around.host.log(
            LogLevel::Info,
            &format!("x402: channel {id} was idle, and its payer {payer} has got {amount} atomic units back"),
        );
    }
    if let Some(row) = unrefunded {
        let id = row.id;
        around.host.log(
            LogLevel::Warn,
            &format!("x402: channel {id} is idle and could not be given back; it is tried again later"),
        );
    }
    stats::count_channel(around.host, "claim_failed", i64::try_from(failed.len()).unwrap_or_default());
    stats::count_channel(around.host, "refunded", i64::from(refunded.is_some()));
}

/// The entry by which an answer about a group's work is read.
fn requirement(group: &Group) -> Requirement {
    let Group { chain_id, receiver, token, .. } = *group;
    Requirement {
        scheme: Scheme::BatchSettlement,
        network: NetworkId::from_chain_id(chain_id),
        amount: Amount::ZERO,
        max_timeout_seconds: 0,
        payment_flow: PaymentFlow::Authorization,
        bundle: None,
        rail: Rail::Evm(Evm {
            transfer_method: TransferMethod::Eip3009,
            facilitator: None,
            chain_id,
            v1_network: None,
            asset: token,
            pay_to: receiver,
            eip712_name: String::new(),
            eip712_version: String::new(),
            contract_wallets: false,
            channel: None,
            domain_separator: [0; 32],
        }),
    }
}
