//! The ledger that a fleet of proxies shares: questions to its store as callouts, and what is brought to an end when the store
//! was silent.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::host::{Buffer, Host, LogLevel, Map, to_unix_time};
use super::shared::Memory;
use super::store::SharedData;
use super::{heads, stats};
use crate::channel::{self, ChannelId};
use crate::config::Service;
#[cfg(any(feature = "etcd", feature = "dynamodb"))]
use crate::config::SharedLedger;
use crate::exchange::LogText;
use crate::ledger::remote::engine::{Call, Listed, Raw, Reply};
use crate::ledger::remote::{
    Ask, Attempt, Copies, Copy, Engine, Kind, RecordKey, Revision, Said, Step, Task, Told, Undo, Write,
};
use crate::ledger::{Answer, Ledger, Operation, Owner, PaymentKey};
use crate::schedule::mix;
use crate::time::UnixTime;

/// Bytes of an answer that are read at most: a record is far shorter.
const MAX_ANSWER_BYTES: usize = 65_536;

/// Times that something else has to be called first, for one question.
const MOST_PREPARATIONS: u32 = 3;

/// The least time for which a question is repeated that nobody answers, in nanoseconds.
const LEAST_PATIENCE: u64 = 4_000_000_000;

/// Calls' worth of time for which it is.
const PATIENCE_CALLS: u32 = 4;

/// Seconds for which it is not asked again whether a payment is spent that another proxy has so.
const SPENT_ELSEWHERE_SECONDS: u64 = 5;

/// Nanoseconds for which a worker that was told that another request has a channel does not ask again.
const TURN_NANOSECONDS: u64 = 200_000_000;

/// Seconds for which what was left open is brought to an end.
const MEND_SECONDS: u64 = 900;

/// What is brought to an end at a time, and what is remembered of it.
const MOST_MENDED_AT_ONCE: usize = 64;
const MOST_MENDS: usize = 4096;

/// The shared store, as a worker's plugin knows it.
pub(super) struct Fleet {
    service: Service,
    engine: Engine,
    rules: Ledger,
    copies: RefCell<Copies>,
    /// Differs among all plugins of all workers of the fleet.
    seed: u64,
    moves: Cell<u64>,
    mends: RefCell<VecDeque<Mend>>,
    /// Channels that another request has, and the nanoseconds of the clock until which nobody asks for them again.
    taken: RefCell<BTreeMap<ChannelId, u64>>,
    /// When the log was told last that the store is silent.
    told_at: Cell<UnixTime>,
}

impl Fleet {
    #[cfg(any(feature = "etcd", feature = "dynamodb"))]
    /// The store of a configuration. `random` is nobody else's.
    pub(super) fn new(ledger: &SharedLedger, rules: Ledger, random: [u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = random;
        Self {
            service: ledger.service.clone(),
            engine: ledger.engine.clone(),
            rules,
            copies: RefCell::default(),
            seed: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            moves: Cell::new(0),
            mends: RefCell::default(),
            taken: RefCell::default(),
            told_at: Cell::default(),
        }
    }

    /// Returns the owner that marks what a context holds: no two of the fleet share one.
    pub(super) const fn owner(&self, context_id: u32) -> Owner {
        #[allow(clippy::as_conversions, reason = "a longer number has room for a shorter one")]
        Owner(mix(self.seed ^ mix(context_id as u64)))
    }

    /// Returns a number for a move that no other move of the fleet has.
    fn next_move(&self) -> u64 {
        let number = self.moves.get().wrapping_add(1);
        self.moves.set(number);
        // 0 stands for no move.
        mix(self.seed.rotate_left(17) ^ number).max(1)
    }

    /// Returns how long an answer of the store is waited for.
    pub(super) const fn timeout(&self) -> Duration {
        self.service.timeout
    }

    /// Returns the nanoseconds for which a question is repeated.
    fn patience(&self) -> u64 {
        let calls = self.service.timeout.saturating_mul(PATIENCE_CALLS);
        u64::try_from(calls.as_nanos()).unwrap_or(u64::MAX).max(LEAST_PATIENCE)
    }

    /// Returns what the process knows of a payment without asking, where that is a no. Only the store says yes.
    fn known_no(&self, host: &impl Host, payment: PaymentKey) -> Option<Answer> {
        let now = host.unix_time().ok()?;
        let mut store = SharedData::new(host);
        let mut is_noted = |key| {
            let look = Operation::CheckGrant { seconds: u64::MAX };
            self.rules.perform(&mut store, key, Owner(0), look, now) == Answer::Granted
        };
        if is_noted(payment) {
            return Some(Answer::Spent);
        }
        is_noted(payment.in_flight()).then_some(Answer::InFlight)
    }

    /// Returns whether a task wants a channel that another request was seen to have a moment ago.
    fn is_taken(&self, task: &Task, now: u64) -> bool {
        let Task::Channel(id, channel::Operation::Reserve(_)) = task else { return false };
        self.taken.borrow().get(id).is_some_and(|until| *until > now)
    }

    /// Notes whether another request has the channel of a task.
    fn note_taken(&self, task: &Task, said: &Said, now: u64) {
        let (Task::Channel(id, _), Said::Channel(answer)) = (task, said) else { return };
        let mut taken = self.taken.borrow_mut();
        if matches!(answer, channel::Answer::Busy) {
            taken.retain(|_, until| *until > now);
            taken.insert(*id, now.saturating_add(TURN_NANOSECONDS));
        } else {
            taken.remove(id);
        }
    }

    /// Notes a no for all workers of the process.
    fn note_no(&self, host: &impl Host, task: &Task, said: &Said, copy: Option<&Copy>) {
        let (Ok(now), Some(payment)) = (host.unix_time(), task.payment()) else { return };
        let spent_until = copy.and_then(Copy::spent_until);
        let note = match (said, spent_until) {
            (_, Some(until)) => Some((payment, until)),
            // It may be over any time: the next second asks again. Where nobody is at work, only who comes with something else than
            // what came first is told to wait.
            (Said::Ledger(Answer::InFlight), None) if copy.is_none_or(|copy| copy.is_at_work(now)) => {
                Some((payment.in_flight(), now.plus(1)))
            }
            // The proxy that has it so may yet take it back.
            _ if copy.is_some_and(Copy::is_spent) => Some((payment, now.plus(SPENT_ELSEWHERE_SECONDS))),
            _ => None,
        };
        if let Some((key, expires)) = note {
            let grant = Operation::Grant { expires };
            self.rules.perform(&mut SharedData::new(host), key, Owner(0), grant, now);
        }
    }

    fn call(&self, host: &impl Host, call: &Call) -> Option<u32> {
        let Service { cluster, scheme, authority, timeout, headers, .. } = &self.service;
        let mut head = vec![(":method", "POST"), (":scheme", scheme), (":authority", authority), (":path", call.path)];
        head.extend(call.headers);
        head.extend(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match host.dispatch(cluster, &head, &call.body, *timeout) {
            Ok(token) => Some(token),
            Err(error) => {
                host.log(
                    LogLevel::Critical,
                    &format!("x402: the cluster {cluster:?} of the ledger's store cannot be called ({error}); is there one of that name in the proxy's configuration?"),
                );
                None
            }
        }
    }
}

/// One question to the store, under way.
pub(super) struct Question {
    ask: Ask,
    /// The host's mark of the answer; `None` where nothing is awaited.
    token: Option<u32>,
    /// True if what has to be called first is under way.
    is_preparing: bool,
    preparations: u32,
    sent_at: u64,
}

impl Question {
    pub(super) fn send(host: &impl Host, fleet: &Fleet, ask: Ask) -> Self {
        let now = host.read_clock().unwrap_or_default();
        let token = fleet.call(host, &fleet.engine.call(&ask, to_unix_time(now)));
        Self { ask, token, is_preparing: false, preparations: 0, sent_at: now }
    }

    pub(super) const fn token(&self) -> Option<u32> {
        self.token
    }

    /// Takes in an answer; `None` while there is more to be heard.
    pub(super) fn hear(&mut self, host: &impl Host, fleet: &Fleet, headers: usize, body_size: usize) -> Option<Told> {
        self.token = None;
        let now = host.read_clock().unwrap_or_default();
        let (status, grpc_status, grpc_message, body) = read_raw(host, headers, body_size, MAX_ANSWER_BYTES);
        let raw = Raw { status, grpc_status, grpc_message: &grpc_message, body: &body };
        if std::mem::take(&mut self.is_preparing) {
            if !fleet.engine.is_prepared(raw) {
                fleet.note_failure(host, raw, to_unix_time(now));
                return Some(Told::Unknown);
            }
            self.token = fleet.call(host, &fleet.engine.call(&self.ask, to_unix_time(now)));
            return if self.token.is_none() { Some(Told::Unknown) } else { None };
        }
        match fleet.engine.read(&self.ask, raw, to_unix_time(now)) {
            Reply::Told(told) => {
                if told == Told::Unknown {
                    fleet.note_failure(host, raw, to_unix_time(now));
                } else {
                    stats::time_store(host, now.saturating_sub(self.sent_at));
                }
                Some(told)
            }
            Reply::First(_) if self.preparations >= MOST_PREPARATIONS => Some(Told::Unknown),
            Reply::First(call) => {
                self.preparations = self.preparations.saturating_add(1);
                self.is_preparing = true;
                self.token = fleet.call(host, &call);
                if self.token.is_none() { Some(Told::Unknown) } else { None }
            }
        }
    }
}

impl Fleet {
    /// Notes that the store gave no answer that says anything, and tells the log so once a second.
    fn note_failure(&self, host: &impl Host, raw: Raw<'_>, now: UnixTime) {
        stats::count_store_failure(host);
        if self.told_at.replace(now) == now {
            return;
        }
        let why = self.engine.failure(raw);
        let why = LogText::new(&why);
        let cluster = &self.service.cluster;
        host.log(
            LogLevel::Warn,
            &format!("x402: the ledger's store (cluster {cluster:?}) gave no answer that counts ({why})"),
        );
    }
}

/// Reads the answer of a callout to the store: of its head what counts, the message of a failure, and its body.
fn read_raw(host: &impl Host, headers: usize, body_size: usize, most: usize) -> (u16, Option<u32>, String, Vec<u8>) {
    // A callout that failed calls back without headers.
    if headers == 0 {
        return Default::default();
    }
    let head = heads::all(host, Map::CalloutAnswer).unwrap_or_default();
    // In the trailers, or in the head where nothing else came.
    let trailers = heads::all(host, Map::CalloutTrailers).unwrap_or_default();
    let failed = [&trailers, &head].into_iter().find(|list| list.all("grpc-status").next().is_some());
    let grpc_status = failed.map(|list| list.text("grpc-status").parse().unwrap_or(u32::MAX));
    let message = failed.map(|list| list.text("grpc-message").into_owned()).unwrap_or_default();
    let body = host.buffer(Buffer::CalloutAnswer, body_size.min(most)).unwrap_or_default();
    (head.text(":status").parse().unwrap_or(0), grpc_status, message, body)
}

impl Fleet {
    /// Asks for records of channels behind the one of a name; the token of the callout.
    pub(super) fn list_channels(&self, host: &impl Host, behind: Option<&[u8]>) -> Option<u32> {
        self.call(host, &self.engine.list(Kind::Channel, behind, CHANNELS_AT_ONCE))
    }

    /// Reads the answer to that; `None` where it says nothing.
    pub(super) fn read_channels(&self, host: &impl Host, headers: usize, body_size: usize) -> Option<Listed> {
        let (status, grpc_status, grpc_message, body) = read_raw(host, headers, body_size, MAX_LIST_BYTES);
        let raw = Raw { status, grpc_status, grpc_message: &grpc_message, body: &body };
        let listed = self.engine.read_list(raw);
        if listed.is_none() {
            self.note_failure(host, raw, host.unix_time().unwrap_or_default());
        }
        listed
    }
}

/// Channels that are looked through at once, and the bytes of the answer that are read.
const CHANNELS_AT_ONCE: u64 = 500;
const MAX_LIST_BYTES: usize = 1_048_576;

/// A task at the store, under way.
pub(super) struct Running {
    attempt: Attempt,
    question: Option<Question>,
    /// The question to be repeated as soon as there is a tick.
    again: Option<Ask>,
    gives_up_at: u64,
    /// True if it is taken back should it come about: what it was done for is not wanted any more.
    is_unwanted: bool,
}

/// How far a task is.
#[allow(clippy::large_enum_variant, reason = "it lives as long as a call")]
pub(super) enum Progress {
    /// The store is being asked, or will be at the next tick.
    Waiting,
    /// It is done.
    Done(Said),
    /// The time for it is over, and nobody knows what came of it: how to take it back.
    GaveUp(Option<Undo>),
    /// It is done, and was not wanted any more: how to take it back.
    Unwanted(Undo),
}

impl Running {
    /// Begins with a task. `is_held`: the owner holds what it is about, so that what the process knows of others says nothing.
    pub(super) fn begin(host: &impl Host, fleet: &Fleet, task: Task, owner: Owner, is_held: bool) -> (Self, Progress) {
        let payment = task.begins_with().filter(|_| !is_held);
        let no = payment.and_then(|payment| fleet.known_no(host, payment));
        let copy = fleet.copies.borrow().get(&task.key());
        let attempt = Attempt::new(task, owner, fleet.next_move(), copy);
        let gives_up_at = host.read_clock().unwrap_or_default().saturating_add(fleet.patience());
        let mut running = Self { attempt, question: None, again: None, gives_up_at, is_unwanted: false };
        if let Some(no) = no {
            return (running, Progress::Done(Said::Ledger(no)));
        }
        let clock = host.read_clock().unwrap_or_default();
        if fleet.is_taken(running.task(), clock) {
            return (running, Progress::Done(Said::Channel(channel::Answer::Busy)));
        }
        let now = to_unix_time(clock);
        let step = running.attempt.begin(&fleet.rules, now);
        let progress = running.take(host, fleet, step);
        (running, progress)
    }

    /// Returns the task.
    pub(super) const fn task(&self) -> &Task {
        self.attempt.task()
    }

    /// Returns the token of the callout whose answer it waits for.
    pub(super) fn token(&self) -> Option<u32> {
        self.question.as_ref().and_then(|question| question.token)
    }

    /// Notes whether it is wanted still.
    pub(super) const fn set_unwanted(&mut self, is_unwanted: bool) {
        self.is_unwanted = is_unwanted;
    }

    /// Returns whether it waits for time to pass.
    pub(super) const fn wants_tick(&self) -> bool {
        self.again.is_some()
    }

    /// Takes in the answer to its callout.
    pub(super) fn on_answer(&mut self, host: &impl Host, fleet: &Fleet, headers: usize, body_size: usize) -> Progress {
        let Some(question) = &mut self.question else { return Progress::Waiting };
        match question.hear(host, fleet, headers, body_size) {
            Some(told) => self.hear(host, fleet, told),
            None => Progress::Waiting,
        }
    }

    /// Takes in that the answer will never come.
    pub(super) fn on_lost(&mut self, host: &impl Host, fleet: &Fleet) -> Progress {
        match self.question.take() {
            Some(_) => self.hear(host, fleet, Told::Unknown),
            None => Progress::Waiting,
        }
    }

    /// Takes in that time has passed.
    pub(super) fn on_tick(&mut self, host: &impl Host, fleet: &Fleet) -> Progress {
        let Some(ask) = self.again.take() else { return Progress::Waiting };
        self.ask(host, fleet, ask)
    }

    fn hear(&mut self, host: &impl Host, fleet: &Fleet, told: Told) -> Progress {
        self.question = None;
        let now = to_unix_time(host.read_clock().unwrap_or_default());
        let step = self.attempt.hear(&fleet.rules, told, now);
        self.take(host, fleet, step)
    }

    fn take(&mut self, host: &impl Host, fleet: &Fleet, step: Step) -> Progress {
        match step {
            Step::Ask(ask) => self.ask(host, fleet, ask),
            Step::AskAgain(ask) => {
                // Who wants it done in any case goes on from here.
                self.again = Some(ask);
                if host.read_clock().unwrap_or(u64::MAX) >= self.gives_up_at {
                    fleet.copies.borrow_mut().keep(self.attempt.key(), None);
                    return Progress::GaveUp(self.attempt.undo());
                }
                Progress::Waiting
            }
            Step::Done(Said::Ledger(Answer::Granted), _) if self.is_unwanted => {
                fleet.copies.borrow_mut().keep(self.attempt.key(), None);
                Progress::Unwanted(self.attempt.take_back())
            }
            Step::Done(said, copy) => {
                fleet.note_no(host, self.attempt.task(), &said, copy.as_ref());
                fleet.note_taken(self.attempt.task(), &said, host.read_clock().unwrap_or_default());
                fleet.copies.borrow_mut().keep(self.attempt.key(), copy);
                Progress::Done(said)
            }
        }
    }

    fn ask(&mut self, host: &impl Host, fleet: &Fleet, ask: Ask) -> Progress {
        let question = Question::send(host, fleet, ask);
        if question.token.is_none() {
            return self.hear(host, fleet, Told::Unknown);
        }
        self.question = Some(question);
        Progress::Waiting
    }
}

/// Something that was left open because the store was silent, and is brought to an end while nobody waits.
struct Mend {
    id: u32,
    running: Running,
    until: UnixTime,
}

impl Fleet {
    /// Has a task carried out until it is certain, as the same attempt: nobody waits for its answer.
    pub(super) fn repeat(&self, host: &impl Host, mut running: Running) {
        running.gives_up_at = u64::MAX;
        self.remember(host, running);
    }

    /// Returns whether something about a record is yet to be brought to an end.
    pub(super) fn is_mending(&self, key: &RecordKey) -> bool {
        self.mends.borrow().iter().any(|mend| mend.running.attempt.key() == key)
    }

    /// Has something done while nobody waits, as soon as what was to be done to the same record before is done.
    pub(super) fn mend(&self, host: &impl Host, task: Task, owner: Owner) {
        let key = task.key();
        let attempt = Attempt::new(task, owner, self.next_move(), None);
        let again = Some(Ask::Read(key));
        self.remember(host, Running { attempt, question: None, again, gives_up_at: u64::MAX, is_unwanted: false });
    }

    fn remember(&self, host: &impl Host, running: Running) {
        let mut mends = self.mends.borrow_mut();
        if mends.len() >= MOST_MENDS {
            host.log(
                LogLevel::Critical,
                "x402: too much was left open at the ledger's store; a claim waits for its hold to end",
            );
            return;
        }
        let until = host.unix_time().unwrap_or_default().plus(MEND_SECONDS);
        let id = u32::try_from(self.next_move() & u64::from(u32::MAX)).unwrap_or_default();
        mends.push_back(Mend { id, running, until });
        stats::change_mends(host, 1);
    }

    /// Goes on with what was left open; the tokens of the callouts, each with its number.
    pub(super) fn mend_some(&self, host: &impl Host) -> Vec<(u32, u32)> {
        let Ok(now) = host.unix_time() else { return Vec::new() };
        let mut mends = self.mends.borrow_mut();
        if mends.is_empty() {
            return Vec::new();
        }
        mends.retain(|mend| {
            let is_kept = mend.until > now || mend.running.token().is_some();
            if !is_kept {
                stats::change_mends(host, -1);
                host.log(
                    LogLevel::Critical,
                    "x402: the ledger's store was silent for too long; what it was asked last stays open",
                );
            }
            is_kept
        });
        let mut busy = BTreeSet::new();
        let mut asked = Vec::new();
        let mut done = Vec::new();
        for mend in mends.iter_mut() {
            let is_next = busy.insert(mend.running.attempt.key().clone());
            if !is_next || !mend.running.wants_tick() {
                continue;
            }
            if asked.len() >= MOST_MENDED_AT_ONCE {
                break;
            }
            match mend.running.on_tick(host, self) {
                Progress::Waiting => asked.extend(mend.running.token().map(|token| (token, mend.id))),
                Progress::Done(_) | Progress::GaveUp(_) | Progress::Unwanted(_) => done.push(mend.id),
            }
        }
        mends.retain(|mend| !done.contains(&mend.id));
        stats::change_mends(host, i64::try_from(done.len()).map_or(0, i64::saturating_neg));
        asked
    }

    /// Takes in an answer to what was left open; the token of what is asked next.
    pub(super) fn on_mended(&self, host: &impl Host, id: u32, headers: usize, body_size: usize) -> Option<u32> {
        let mut mends = self.mends.borrow_mut();
        let position = mends.iter().position(|mend| mend.id == id)?;
        let mend = mends.get_mut(position)?;
        match mend.running.on_answer(host, self, headers, body_size) {
            Progress::Waiting => mend.running.token(),
            Progress::Done(_) | Progress::GaveUp(_) | Progress::Unwanted(_) => {
                mends.remove(position);
                stats::change_mends(host, -1);
                None
            }
        }
    }
}

/// What the proxies of a fleet have in common: 32 random bytes, and when the ledger began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Founding {
    pub(super) secret: [u8; 32],
    pub(super) since: UnixTime,
}

impl From<Founding> for Memory {
    fn from(Founding { secret, .. }: Founding) -> Self {
        Self { secret, is_known: true }
    }
}

impl Founding {
    /// The form of its bytes, their first.
    const FORM: u8 = 1;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&[Self::FORM], &self.secret[..], &self.since.as_secs().to_be_bytes()].concat()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let ([Self::FORM], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (secret, since) = rest.split_first_chunk::<32>()?;
        Some(Self { secret: *secret, since: UnixTime::from_secs(u64::from_be_bytes(since.try_into().ok()?)) })
    }
}

/// The question for what the fleet has in common, under way.
pub(super) struct FoundingQuestion {
    question: Question,
    proposed: Founding,
}

impl FoundingQuestion {
    /// Asks for it; what is proposed holds where there is nothing yet.
    pub(super) fn ask(host: &impl Host, fleet: &Fleet, proposed: Founding) -> Self {
        let (value, key) = (proposed.to_bytes(), RecordKey::new(Kind::Fleet, [0; 32]));
        let ask = Ask::Write(Write { key, expected: Revision::ABSENT, value, kept_until: None });
        Self { question: Question::send(host, fleet, ask), proposed }
    }

    pub(super) const fn token(&self) -> Option<u32> {
        self.question.token
    }

    /// Takes in the answer; `None` where it says nothing.
    pub(super) fn hear(
        &mut self,
        host: &impl Host,
        fleet: &Fleet,
        headers: usize,
        body_size: usize,
    ) -> Option<Founding> {
        match self.question.hear(host, fleet, headers, body_size)? {
            Told::Written(_) => Some(self.proposed),
            Told::Found(Some((bytes, _))) => Founding::read(&bytes),
            Told::Found(None) | Told::Unknown => None,
        }
    }
}
