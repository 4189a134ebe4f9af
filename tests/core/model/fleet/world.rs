//! Two proxies with memories of their own, one store between them that may fail at any question, and around them clients, a
//! facilitator, a chain, an upstream and a clock.
//!
//! What is real: the exchange, the attempts at the store with the ledger's rules, and what a worker keeps of records. What is played
//! by hand is what stands between them in `src/proxy`: the tasks of one step in their order, giving up, letting go, and what is brought to
//! an end while nobody waits (`asking.rs`, `driver.rs`, `fleet.rs`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use serde_json::{Value, json};
use x402_proxy_wasm::ledger::{Answer, Operation, PaymentKey};

use super::super::tables::{
    self, BLOCKS_A_SECOND, CHAT, Deed, Flow, Happening, Heard, NOTHING, OVER, PAYMENTS, Question, Sight, Tables, at,
};
use super::store::{Attempts, Job, KEYS, Outcome, Record, Spent, Word};
use crate::common::{FACILITATOR, Stage, Wallet, base_config, decode, encode, head, read_config, supported};

/// Proxies of the fleet.
const PROXIES: usize = 2;

/// Requests and pursuits in the background that a world has at most; the last one plays what a client finds in the end.
const ACTORS: usize = 5;
const LAST: usize = ACTORS - 1;

/// Moves that one of them makes at most.
const MOVES: u64 = 64;

/// Seconds after the beginning at which every payment expires.
const EXPIRY: u32 = 400;

/// Seconds by which time may pass while a request is under way.
const A_MOMENT: u32 = 2;

/// A request: its payment, or that it signs in, and the proxy that it comes to.
#[derive(Debug, Clone, Copy)]
pub enum Comes {
    Pays(u8, u8),
    SignsIn(u8),
}

/// Something that is done wrongly on purpose, so that it is seen that the model finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The store writes whatever the revision is.
    IgnoresRevisions,
    /// A record is deleted where nothing is recorded any more.
    Deletes,
    /// Who gives up takes nothing back.
    TakesNothingBack,
    /// Who gives up lets nothing go.
    LetsNothingGo,
    /// What is left open is brought to an end in any order.
    MendsInAnyOrder,
    /// What nobody waits for is forgotten where the store is silent.
    RepeatsNothing,
    /// What nobody waits for does not wait for what is still to be done to the same record.
    GoesAhead,
    /// A name goes on where its payment did not.
    GoesOnAlone,
}

/// What a world is made of.
#[derive(Clone, Copy)]
pub struct Setup {
    pub settle: &'static str,
    /// Whether the response is a stream that is charged when it has ended.
    pub streams: bool,
    /// Whether all payments have one name.
    pub is_named: bool,
    pub has_node: bool,
    /// Whether the facilitator says yes to what has settled already.
    pub is_idempotent: bool,
    /// They come in this order, at any time.
    pub requests: &'static [Comes],
    /// Seconds since the beginning. At the last one but one, the first holds have ended; the last one is for what a client finds in
    /// the end, when all have.
    pub instants: &'static [u32],
    /// Whether time may pass as it likes while a request is under way, beyond its holds.
    pub leaps: bool,
    /// Questions that the store fails at, writes that are on their way at a time when nobody waits for them, and crashes, at most.
    pub faults: u8,
    pub late: usize,
    pub crashes: u8,
    pub pursuits: u8,
    pub clients_leave: bool,
    pub upstream_fails: bool,
    pub settlements_fail: bool,
    pub flaw: Flaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Absent,
    Live,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Upstream {
    Untouched,
    Working,
    Succeeded,
    Failed,
    Streaming,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    Nobody,
    Verify,
    Settle,
    Node(u32),
}

/// A request, or a pursuit in the background, with what its driver knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Actor {
    phase: Phase,
    /// Its payment; `None` where it signs in.
    payment: Option<u8>,
    proxy: u8,
    exchange: u32,
    asked: Asked,
    upstream: Upstream,
    has_client: bool,
    /// Moves that it has made.
    moves: u8,
    /// The step whose tasks are under way, and how many of them are done.
    step: u32,
    done: u8,
    /// True if the exchange waits for the answer to the first.
    gives: bool,
    /// The attempt that waits for the store; 0 for none.
    attempt: u32,
    heard: Option<Answer>,
    /// True if its client has left meanwhile.
    has_ended: bool,
    /// The claims that it holds, as far as it was told, and whether the store was silent to it.
    holds: u8,
    is_in_doubt: bool,
}

/// A proxy's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Proxy {
    copies: [u32; KEYS],
    /// Payments that are known to be spent; those that were so a moment ago, by another proxy; and those that another request was at work
    /// on then: a bit for each record.
    spent: u8,
    spent_elsewhere: u8,
    in_flight: u8,
    /// What is brought to an end while nobody waits: attempts.
    mends: Vec<u32>,
}

impl Proxy {
    /// A few seconds pass.
    const fn forget(&mut self) {
        (self.in_flight, self.spent_elsewhere) = (0, 0);
    }
}

/// What became of a payment, as an observer of everything knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Fate {
    has_settled: bool,
    /// A settlement that the proxy heard nothing of may still happen.
    is_adrift: bool,
    is_delivered: bool,
    /// The client left in the instant in which the response was on its way to it.
    has_left: bool,
    /// The proxy crashed in the instant between the record that the response is bought and its delivery.
    is_lost: bool,
    /// The proxy crashed before it could take such a record back that the store had been silent about.
    is_left_open: bool,
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    ServedTwice,
    ServedUnpaid,
    ServedUnrecorded,
    /// A payment was let in as a new one after its money had moved, or terms were shown then.
    AskedAgain,
    RefusedThoughPaid,
    /// The facilitator was asked to settle, and the claim was not certain.
    SettledUncertain,
    /// Two payments have bought something under one name.
    NamedTwice,
    /// One nonce let in two.
    SignedInTwice,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    time: u8,
    faults: u8,
    crashes: u8,
    pursuits: u8,
    pub violation: Option<Violation>,
    store: [Record; KEYS],
    /// Writes that may still arrive, and nobody waits for.
    late: Vec<u32>,
    proxies: [Proxy; PROXIES],
    actors: [Actor; ACTORS],
    fates: [Fate; PAYMENTS],
    visits: u8,
    /// What is to be looked into: proxy, payment and number of the recovery.
    recoveries: Vec<(u8, u8, u32)>,
    /// What a client was told in the last step.
    told: Option<Ending>,
}

/// How a store fails at a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The question never arrives, or is refused.
    QuestionLost,
    /// It is carried out, and nobody hears of it.
    AnswerLost,
    /// It is carried out after its asker has heard nothing, if ever.
    Late,
}

/// What may happen next. Numbers name actors, but where another thing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Arrive(u8),
    /// The store answers.
    Tell(u8),
    /// It fails; the proxy asks again, or gives up.
    Fail(u8, Fault, bool),
    /// The same for what nobody waits for: a proxy, and the place among what it has left open.
    Mend(u8, u8),
    FailMend(u8, u8, Fault),
    /// A late write arrives, by its place.
    Land(u8),
    Hear(u8, Heard),
    /// The facilitator has settled, and its answer is lost.
    SettleUnheard(u8),
    Respond(u8, u16),
    EndStream(u8),
    Leave(u8),
    Tick(u8),
    /// A proxy crashes, and begins anew.
    Crash(u8),
    /// A payment settles by a question that went unheard.
    Drift(u8),
    /// A moment passes, and a proxy forgets what another request was at work on.
    Forget(u8),
    /// What was left unknown is looked into, by its place.
    Recover(u8),
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ending {
    Served,
    Asked,
    Stuck,
}

const NOT_YET: Actor = Actor {
    phase: Phase::Absent,
    payment: None,
    proxy: 0,
    exchange: OVER,
    asked: Asked::Nobody,
    upstream: Upstream::Untouched,
    has_client: false,
    moves: 0,
    step: NOTHING,
    done: 0,
    gives: false,
    attempt: 0,
    heard: None,
    has_ended: false,
    holds: 0,
    is_in_doubt: false,
};

const GONE: Actor = Actor { phase: Phase::Gone, ..NOT_YET };

/// What of a world decides how a payment ends in it.
type Remains = ([Record; KEYS], [u32; KEYS], u8, [bool; PAYMENTS], u8, u8);

/// A world with its rules.
pub struct Rules {
    pub setup: Setup,
    pub tables: Tables,
    attempts: Attempts,
    /// The keys of the payments, and of their name.
    keys: [PaymentKey; PAYMENTS + 1],
    nonce: PaymentKey,
    ends: Mutex<HashMap<Remains, (Ending, bool)>>,
    /// How often each thing came about that is worth knowing.
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
}

// Numbers of operations that are no step's.
const SIGN_IN: u32 = u32::MAX;
const PROBE: u32 = u32::MAX - 64;

impl Rules {
    pub fn new(setup: Setup) -> Self {
        let config = config_of(setup);
        let payments: Vec<_> = (0..PAYMENTS).map(|number| sign(setup, &config, number)).collect();
        let paying = |payment: &Value| request(setup, &[("payment-signature", &encode(payment))]);
        let of_requests = setup.requests.iter().map(|comes| match comes {
            Comes::Pays(payment, _) => paying(&payments[usize::from(*payment)]),
            Comes::SignsIn(_) => request(setup, &[]),
        });
        let heads = of_requests.chain(payments.iter().map(paying)).collect();
        let authorizations = payments.iter().map(|payment| payment["payload"]["authorization"].clone()).collect();
        let facilitator = supported(&[FACILITATOR]);
        let tables = Tables::before(facilitator, read_config(&config), heads, authorizations, tables::perform);
        let attempts = Attempts::new(tables.ledger());
        let name = PaymentKey::of_identifier(&Wallet::new(1).address().to_string(), NAME);
        let nonce = PaymentKey::of_nonce(&[0; 32], "somebody", "a nonce");
        let keys = [tables.claim(0).0, tables.claim(1).0, name];
        assert_eq!(keys.map(|key| attempts.key(key, Operation::LetGo)), [0, 1, 2]);
        Self { setup, tables, attempts, keys, nonce, ends: Mutex::default(), counts: Mutex::default() }
    }

    pub fn begin(&self) -> World {
        World {
            time: 0,
            faults: 0,
            crashes: 0,
            pursuits: 0,
            violation: None,
            store: [Record::default(); KEYS],
            late: Vec::new(),
            proxies: Default::default(),
            actors: [NOT_YET; ACTORS],
            fates: [Fate::default(); PAYMENTS],
            visits: 0,
            recoveries: Vec::new(),
            told: None,
        }
    }

    fn now(&self, world: &World) -> u32 {
        self.setup.instants[usize::from(world.time)]
    }

    // ---------------------------------------------------------------------------------------------- what may happen

    pub fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_some() {
            return;
        }
        let requests = self.setup.requests.len();
        for index in 0..LAST {
            let (actor, number) = (&world.actors[index], index as u8);
            match actor.phase {
                Phase::Gone => {}
                Phase::Absent => {
                    if index < requests && (index == 0 || world.actors[index - 1].phase != Phase::Absent) {
                        actions.push(Action::Arrive(number));
                    }
                }
                Phase::Live if actor.attempt != 0 => {
                    actions.push(Action::Tell(number));
                    self.faults(world, actor.attempt, |fault| {
                        actions.push(Action::Fail(number, fault, false));
                        actions.push(Action::Fail(number, fault, true));
                    });
                    if self.setup.clients_leave && actor.has_client && !actor.has_ended {
                        actions.push(Action::Leave(number));
                    }
                }
                Phase::Live => self.actions_of(world, actor, number, actions),
            }
        }
        self.actions_of_others(world, actions);
    }

    fn faults(&self, world: &World, attempt: u32, mut push: impl FnMut(Fault)) {
        if world.faults >= self.setup.faults {
            return;
        }
        push(Fault::QuestionLost);
        if let Some(write) = self.attempts.facts(attempt).write {
            push(Fault::AnswerLost);
            if world.late.len() < self.setup.late || world.late.contains(&write) {
                push(Fault::Late);
            }
        }
    }

    fn actions_of(&self, world: &World, actor: &Actor, number: u8, actions: &mut Vec<Action>) {
        let payment = actor.payment.unwrap_or_default();
        match actor.asked {
            Asked::Nobody => {}
            Asked::Verify => actions.push(Action::Hear(number, Heard::Verified)),
            Asked::Settle => {
                let has_settled = world.fates[usize::from(payment)].has_settled;
                actions.push(Action::Hear(number, self.settles(has_settled, payment)));
                if self.setup.settlements_fail {
                    actions.push(Action::Hear(number, Heard::Lost));
                    if !has_settled {
                        actions.push(Action::SettleUnheard(number));
                    }
                }
            }
            Asked::Node(question) => {
                let answer = self.tables.ask_node(question, self.sight(world));
                actions.push(Action::Hear(number, Heard::Node(answer)));
                actions.push(Action::Hear(number, Heard::Lost));
            }
        }
        if actor.has_client {
            if actor.upstream == Upstream::Working {
                actions.push(Action::Respond(number, 200));
                if self.setup.upstream_fails {
                    actions.push(Action::Respond(number, 500));
                }
            }
            if actor.upstream == Upstream::Streaming {
                actions.push(Action::EndStream(number));
            }
            if self.setup.clients_leave {
                actions.push(Action::Leave(number));
            }
        }
        if self.tables.facts(actor.exchange).wakes_at.is_some_and(|due| due <= self.now(world)) {
            actions.push(Action::Tick(number));
        }
    }

    fn actions_of_others(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, proxy) in (0..).zip(&world.proxies) {
            for (place, mend) in (0..).zip(&proxy.mends) {
                if self.is_next(proxy, place) {
                    actions.push(Action::Mend(number, place as u8));
                    self.faults(world, *mend, |fault| actions.push(Action::FailMend(number, place as u8, fault)));
                }
            }
            if proxy.in_flight | proxy.spent_elsewhere != 0 {
                actions.push(Action::Forget(number));
            }
            let has_something = !proxy.mends.is_empty()
                || world.actors.iter().any(|actor| actor.phase == Phase::Live && actor.proxy == number);
            if world.crashes < self.setup.crashes && has_something {
                actions.push(Action::Crash(number));
            }
        }
        actions.extend((0..world.late.len()).map(|place| Action::Land(place as u8)));
        for (payment, fate) in (0..).zip(&world.fates) {
            if fate.is_adrift && !fate.has_settled {
                actions.push(Action::Drift(payment));
            }
        }
        for (place, (_, _, recovery)) in (0..).zip(&world.recoveries) {
            if self.tables.due(*recovery) <= self.now(world) && self.free(world).is_some() {
                actions.push(Action::Recover(place));
            }
        }
        let others = &self.setup.instants[..self.setup.instants.len() - 1];
        if let Some(next) = others.get(usize::from(world.time) + 1) {
            let is_open = world.proxies.iter().any(|proxy| !proxy.mends.is_empty());
            // A name's task may come behind its payment's: whoever does not hear of a store for longer than its holds last holds no name.
            let is_quiet =
                world.actors.iter().all(|actor| actor.phase != Phase::Live) && !(self.setup.is_named && is_open);
            if is_quiet || self.setup.leaps || next - self.now(world) <= A_MOMENT {
                actions.push(Action::Pass);
            }
        }
    }

    /// Whether nothing that was left open before concerns the same record.
    fn is_next(&self, proxy: &Proxy, place: usize) -> bool {
        let key = self.attempts.facts(proxy.mends[place]).key;
        self.setup.flaw == Flaw::MendsInAnyOrder
            || proxy.mends[..place].iter().all(|mend| self.attempts.facts(*mend).key != key)
    }

    fn free(&self, world: &World) -> Option<usize> {
        (self.setup.requests.len()..LAST).find(|index| world.actors[*index].phase == Phase::Absent)
    }

    fn settles(&self, has_settled: bool, payment: u8) -> Heard {
        if has_settled && !self.setup.is_idempotent { Heard::Refused } else { Heard::Settled(payment) }
    }

    fn sight(&self, world: &World) -> Sight {
        let settled = world.fates.map(|fate| u16::from(fate.has_settled));
        Sight { head: self.now(world) as u16 * BLOCKS_A_SECOND + 4, settled }
    }

    // ------------------------------------------------------------------------------------------------- what happens

    pub fn next(&self, world: &World, action: Action) -> World {
        let mut next = world.clone();
        next.told = None;
        self.act(&mut next, action);
        next.told = None;
        next
    }

    fn act(&self, world: &mut World, action: Action) {
        match action {
            Action::Arrive(number) => self.arrive(world, number),
            Action::Tell(number) => {
                let word = self.ask(world, world.actors[usize::from(number)].attempt);
                self.hear_store(world, number, word);
            }
            Action::Fail(number, fault, gives_up) => {
                self.fail(world, world.actors[usize::from(number)].attempt, fault);
                if gives_up {
                    self.give_up(world, number);
                } else {
                    self.hear_store(world, number, Word::Unknown);
                }
            }
            Action::Mend(proxy, place) => {
                let word = self.ask(world, world.proxies[usize::from(proxy)].mends[usize::from(place)]);
                self.mend(world, proxy, place, word);
            }
            Action::FailMend(proxy, place, fault) => {
                self.fail(world, world.proxies[usize::from(proxy)].mends[usize::from(place)], fault);
                self.mend(world, proxy, place, Word::Unknown);
            }
            Action::Land(place) => {
                let write = world.late.remove(usize::from(place));
                self.write(world, write);
            }
            Action::Hear(number, heard) => self.hear(world, number, heard),
            Action::SettleUnheard(number) => {
                let payment = world.actors[usize::from(number)].payment.unwrap_or_default();
                world.fates[usize::from(payment)].has_settled = true;
                self.hear(world, number, Heard::Lost);
            }
            Action::Respond(number, status) => {
                let streams = status == 200 && self.setup.streams;
                world.actors[usize::from(number)].upstream = match status {
                    200 if streams => Upstream::Streaming,
                    200 => Upstream::Succeeded,
                    _ => Upstream::Failed,
                };
                let happening = if streams { Happening::Stream } else { Happening::Upstream(status) };
                self.step(world, number, happening);
            }
            Action::EndStream(number) => {
                world.actors[usize::from(number)].upstream = Upstream::Succeeded;
                self.step(world, number, Happening::StreamEnd);
            }
            Action::Leave(number) => self.leave(world, number),
            Action::Tick(number) => self.step(world, number, Happening::Tick),
            Action::Crash(proxy) => self.crash(world, proxy),
            Action::Drift(payment) => world.fates[usize::from(payment)].has_settled = true,
            Action::Forget(proxy) => world.proxies[usize::from(proxy)].forget(),
            Action::Recover(place) => self.recover(world, place),
            Action::Pass => {
                world.time += 1;
                world.proxies.iter_mut().for_each(Proxy::forget);
            }
        }
    }

    fn arrive(&self, world: &mut World, number: u8) {
        let (payment, proxy) = match self.setup.requests[usize::from(number)] {
            Comes::Pays(payment, proxy) => (Some(payment), proxy),
            Comes::SignsIn(proxy) => (None, proxy),
        };
        self.come(world, number, payment, proxy, number);
    }

    fn come(&self, world: &mut World, number: u8, payment: Option<u8>, proxy: u8, head: u8) {
        world.actors[usize::from(number)] = Actor { phase: Phase::Live, payment, proxy, has_client: true, ..NOT_YET };
        if payment.is_some() {
            let next = self.tables.start(head, self.now(world));
            self.perform(world, number, next);
        } else {
            let actor = &mut world.actors[usize::from(number)];
            (actor.step, actor.gives) = (SIGN_IN, true);
            self.go_on(world, number);
        }
    }

    fn recover(&self, world: &mut World, place: u8) {
        let (proxy, payment, recovery) = world.recoveries.remove(usize::from(place));
        let Some(index) = self.free(world) else { return };
        world.actors[index] = Actor { phase: Phase::Live, payment: Some(payment), proxy, ..NOT_YET };
        let next = self.tables.recover(recovery, self.now(world));
        self.perform(world, index as u8, next);
    }

    fn hear(&self, world: &mut World, number: u8, heard: Heard) {
        let actor = &mut world.actors[usize::from(number)];
        let fate = &mut world.fates[usize::from(actor.payment.unwrap_or_default())];
        match (std::mem::replace(&mut actor.asked, Asked::Nobody), heard) {
            (Asked::Settle, Heard::Settled(_)) => fate.has_settled = true,
            (Asked::Settle, Heard::Lost) => fate.is_adrift = true,
            _ => {}
        }
        self.step(world, number, Happening::Callout(heard));
    }

    fn leave(&self, world: &mut World, number: u8) {
        let actor = &mut world.actors[usize::from(number)];
        actor.has_client = false;
        if actor.attempt != 0 {
            actor.has_ended = true;
        } else {
            self.step(world, number, Happening::Ended);
        }
    }

    fn crash(&self, world: &mut World, proxy: u8) {
        world.crashes += 1;
        let mends = std::mem::take(&mut world.proxies[usize::from(proxy)]).mends;
        for mend in mends {
            self.leave_open(world, mend, true);
        }
        for number in 0..LAST {
            let actor = world.actors[number];
            if actor.phase != Phase::Live || actor.proxy != proxy {
                continue;
            }
            if actor.attempt != 0 {
                self.leave_open(world, actor.attempt, false);
            }
            if let (Asked::Settle, Some(payment)) = (actor.asked, actor.payment) {
                world.fates[usize::from(payment)].is_adrift = true;
            }
            world.actors[number] = GONE;
        }
        world.recoveries.retain(|(other, ..)| *other != proxy);
    }

    /// An attempt is left where it is: what it has asked may still be done.
    fn leave_open(&self, world: &mut World, attempt: u32, nobody_waits: bool) {
        let facts = self.attempts.facts(attempt);
        if let Some(fate) = world.fates.get_mut(usize::from(facts.key)).filter(|_| facts.buys) {
            *(if nobody_waits { &mut fate.is_left_open } else { &mut fate.is_lost }) = true;
        }
        if let Some(write) = facts.write {
            self.delay(world, write);
        }
    }

    // ---------------------------------------------------------------------------------------------------- the store

    fn ask(&self, world: &mut World, attempt: u32) -> Word {
        let facts = self.attempts.facts(attempt);
        match facts.write {
            Some(write) => self.write(world, write),
            None => Word::Found(world.store[usize::from(facts.key)]),
        }
    }

    fn write(&self, world: &mut World, write: u32) -> Word {
        let put = self.attempts.put(write);
        let record = &mut world.store[usize::from(put.key)];
        let current = if record.value == 0 { 0 } else { record.writes };
        if current != put.expected && self.setup.flaw != Flaw::IgnoresRevisions {
            let found = if record.value == 0 { Record::default() } else { *record };
            return Word::Found(found);
        }
        let is_gone = put.is_empty && self.setup.flaw == Flaw::Deletes;
        *record = Record { value: if is_gone { 0 } else { put.value }, writes: record.writes + 1 };
        Word::Written(record.writes)
    }

    fn fail(&self, world: &mut World, attempt: u32, fault: Fault) {
        world.faults += 1;
        match (fault, self.attempts.facts(attempt).write) {
            (Fault::AnswerLost, Some(write)) => {
                self.write(world, write);
            }
            (Fault::Late, Some(write)) => self.delay(world, write),
            _ => {}
        }
    }

    fn delay(&self, world: &mut World, write: u32) {
        if let Err(place) = world.late.binary_search(&write) {
            world.late.insert(place, write);
        }
    }

    // --------------------------------------------------------------------------------------------------- the driver

    /// Something happens to an exchange that does not wait for the store.
    fn step(&self, world: &mut World, number: u8, happening: Happening) {
        let exchange = world.actors[usize::from(number)].exchange;
        let next = self.tables.step(exchange, self.now(world), happening);
        self.perform(world, number, next);
    }

    fn perform(&self, world: &mut World, number: u8, (exchange, step): (u32, u32)) {
        let deed = self.tables.deed(step);
        let actor = &mut world.actors[usize::from(number)];
        actor.exchange = exchange;
        if deed.ledger.is_some() {
            (actor.step, actor.done, actor.heard) = (step, 0, None);
            actor.gives = !self.tables.facts(exchange).is_over;
            self.go_on(world, number);
        } else {
            self.carry_out(world, number, deed);
            self.rest(world, number);
        }
    }

    /// The task that comes next.
    fn task(&self, world: &World, number: u8) -> Option<(PaymentKey, Operation, u32)> {
        let Actor { step, done, .. } = world.actors[usize::from(number)];
        if step == SIGN_IN {
            let operation = Operation::ConsumeNonce { expires: at(EXPIRY) };
            return (done == 0).then_some((self.nonce, operation, SIGN_IN));
        }
        let deed = self.tables.deed(step);
        let (key, operation) = deed.ledger?;
        match done {
            0 => Some((key, operation, step * 2)),
            1 => Some((deed.alias?, operation, step * 2 + 1)),
            _ => None,
        }
    }

    fn next_number(&self, world: &mut World, number: u8) -> u64 {
        let moves = &mut world.actors[usize::from(number)].moves;
        *moves += 1;
        assert!(u64::from(*moves) < MOVES, "more moves than expected");
        u64::from(number) * MOVES + u64::from(*moves)
    }

    /// Goes on with the tasks of a step, and then with the rest of it.
    fn go_on(&self, world: &mut World, number: u8) {
        while let Some((key, operation, code)) = self.task(world, number) {
            let record = self.attempts.key(key, operation);
            let (actor, now) = (world.actors[usize::from(number)], self.now(world));
            let proxy = &world.proxies[usize::from(actor.proxy)];
            let bit = 1 << record;
            let known = match operation.begins() {
                true if (proxy.spent | proxy.spent_elsewhere) & bit != 0 => Some(Answer::Spent),
                true if proxy.in_flight & bit != 0 => Some(Answer::InFlight),
                _ => None,
            };
            let copy = proxy.copies[usize::from(record)];
            let is_mending = || proxy.mends.iter().any(|mend| self.attempts.facts(*mend).key == record);
            let waits = !(actor.gives && actor.done == 0) && is_mending();
            let job = Job { key, operation, owner: number + 1, number: self.next_number(world, number), code };
            if let Some(answer) = known {
                self.done(world, number, answer);
                continue;
            }
            if waits && self.setup.flaw != Flaw::GoesAhead {
                let mend = self.attempts.mend(job);
                world.proxies[usize::from(actor.proxy)].mends.push(mend);
                world.actors[usize::from(number)].done += 1;
                continue;
            }
            match self.attempts.begin(job, copy, now) {
                Outcome::Asks(attempt) | Outcome::AsksAgain(attempt) => {
                    world.actors[usize::from(number)].attempt = attempt;
                    return;
                }
                Outcome::Done(answer, copy) => {
                    self.note(world, actor.proxy, record, answer, copy);
                    self.done(world, number, answer);
                }
            }
        }
        self.end_tasks(world, number);
    }

    fn hear_store(&self, world: &mut World, number: u8, word: Word) {
        let Actor { attempt, proxy, .. } = world.actors[usize::from(number)];
        let key = self.attempts.facts(attempt).key;
        match self.attempts.hear(attempt, word, self.now(world)) {
            Outcome::Asks(attempt) | Outcome::AsksAgain(attempt) => world.actors[usize::from(number)].attempt = attempt,
            Outcome::Done(answer, copy) => {
                world.actors[usize::from(number)].attempt = 0;
                self.note(world, proxy, key, answer, copy);
                self.done(world, number, answer);
                self.go_on(world, number);
            }
        }
    }

    /// The store was silent for too long.
    fn give_up(&self, world: &mut World, number: u8) {
        let Actor { attempt, proxy, gives, done, .. } = world.actors[usize::from(number)];
        let key = self.attempts.facts(attempt).key;
        let attempt = match self.attempts.hear(attempt, Word::Unknown, self.now(world)) {
            Outcome::Asks(attempt) | Outcome::AsksAgain(attempt) => attempt,
            Outcome::Done(..) => panic!("nothing is done where nothing is heard"),
        };
        world.proxies[usize::from(proxy)].copies[usize::from(key)] = 0;
        let number_of_mend = self.next_number(world, number);
        let actor = &mut world.actors[usize::from(number)];
        (actor.attempt, actor.done) = (0, done + 1);
        let mend = if gives && done == 0 {
            (actor.is_in_doubt, actor.heard) = (true, Some(Answer::Failed));
            if self.setup.flaw != Flaw::GoesOnAlone {
                // What goes with it is not done.
                actor.done += 1;
            }
            self.attempts.take_back(attempt, number_of_mend).filter(|_| self.setup.flaw != Flaw::TakesNothingBack)
        } else {
            Some(attempt).filter(|_| self.setup.flaw != Flaw::RepeatsNothing)
        };
        world.proxies[usize::from(proxy)].mends.extend(mend);
        self.go_on(world, number);
    }

    /// Notes what a proxy has learnt of a record.
    fn note(&self, world: &mut World, proxy: u8, record: u8, answer: Answer, copy: u32) {
        let proxy = &mut world.proxies[usize::from(proxy)];
        proxy.copies[usize::from(record)] = copy;
        match self.attempts.spent(copy) {
            Spent::ForGood => proxy.spent |= 1 << record,
            Spent::No if answer == Answer::InFlight => proxy.in_flight |= 1 << record,
            Spent::Elsewhere => proxy.spent_elsewhere |= 1 << record,
            Spent::No => {}
        }
    }

    /// A task of a step is done.
    fn done(&self, world: &mut World, number: u8, answer: Answer) {
        let task = self.task(world, number);
        let actor = &mut world.actors[usize::from(number)];
        if actor.gives && actor.done == 0 {
            actor.heard = Some(answer);
        }
        actor.done += 1;
        let Some((key, operation, _)) = task else { return };
        let record = self.attempts.key(key, operation);
        let is_granted = answer.is_granted();
        match operation {
            Operation::Claim { .. }
            | Operation::ClaimToSettle { .. }
            | Operation::Resume { .. }
            | Operation::Recover { .. }
                if is_granted =>
            {
                actor.holds |= 1 << record;
                let fate = world.fates.get(usize::from(record)).copied().unwrap_or_default();
                let is_new = operation.begins() && answer == Answer::Granted;
                // Who is told late, after its hold, is stopped by its next move.
                self.require(world, !(is_new && fate.has_settled) || self.setup.leaps, Violation::AskedAgain);
            }
            Operation::Spend { .. }
            | Operation::Keep { .. }
            | Operation::Release
            | Operation::Abandon
            | Operation::Forget { .. } => actor.holds &= !(1 << record),
            _ => {}
        }
    }

    /// All that a step wants of the store is asked: the rest of it follows.
    fn end_tasks(&self, world: &mut World, number: u8) {
        let actor = &mut world.actors[usize::from(number)];
        let heard = actor.heard.take();
        let step = std::mem::replace(&mut actor.step, NOTHING);
        if step == SIGN_IN {
            if heard == Some(Answer::Granted) && actor.has_client {
                world.visits += 1;
                let is_first = world.visits == 1;
                self.require(world, is_first, Violation::SignedInTwice);
            }
            world.actors[usize::from(number)] = GONE;
            return;
        }
        self.carry_out(world, number, self.tables.deed(step));
        match heard {
            Some(answer) => self.step(world, number, Happening::Ledger(answer)),
            None => self.rest(world, number),
        }
    }

    /// Nothing follows at once.
    fn rest(&self, world: &mut World, number: u8) {
        let actor = &mut world.actors[usize::from(number)];
        if std::mem::take(&mut actor.has_ended) {
            return self.step(world, number, Happening::Ended);
        }
        if !self.tables.facts(actor.exchange).is_over {
            return;
        }
        let Actor { holds, is_in_doubt, proxy, .. } = *actor;
        if is_in_doubt && self.setup.flaw != Flaw::LetsNothingGo {
            for record in (0..KEYS as u8).filter(|record| holds & (1 << record) != 0) {
                let Some(key) = self.keys.get(usize::from(record)).copied() else { continue };
                let (operation, owner) = (Operation::LetGo, number + 1);
                let job = Job { key, operation, owner, number: self.next_number(world, number), code: 0 };
                world.proxies[usize::from(proxy)].mends.push(self.attempts.mend(job));
            }
        }
        world.actors[usize::from(number)] = GONE;
    }

    fn mend(&self, world: &mut World, proxy: u8, place: u8, word: Word) {
        let attempt = world.proxies[usize::from(proxy)].mends[usize::from(place)];
        let key = self.attempts.facts(attempt).key;
        match self.attempts.hear(attempt, word, self.now(world)) {
            Outcome::Asks(attempt) | Outcome::AsksAgain(attempt) => {
                world.proxies[usize::from(proxy)].mends[usize::from(place)] = attempt;
            }
            Outcome::Done(answer, copy) => {
                world.proxies[usize::from(proxy)].mends.remove(usize::from(place));
                self.note(world, proxy, key, answer, copy);
            }
        }
    }

    // ------------------------------------------------------------------------------------------------ the rest of a step

    fn carry_out(&self, world: &mut World, number: u8, deed: Deed) {
        let actor = world.actors[usize::from(number)];
        let payment = actor.payment.unwrap_or_default();
        if let Some(question) = deed.call {
            world.actors[usize::from(number)].asked = match question {
                Question::Verify => Asked::Verify,
                Question::Settle => Asked::Settle,
                Question::Node(question) => Asked::Node(question),
            };
            if question == Question::Settle && !self.setup.leaps {
                self.require(world, self.is_certain(world, number, payment), Violation::SettledUncertain);
            }
        }
        if let Some(recovery) = deed.recovery.filter(|_| world.pursuits < self.setup.pursuits) {
            world.pursuits += 1;
            world.recoveries.push((actor.proxy, payment, recovery));
        }
        match deed.stream {
            Flow::Deliver if !actor.has_client => {
                let is_bought = matches!(actor.upstream, Upstream::Succeeded | Upstream::Streaming);
                world.fates[usize::from(payment)].has_left |= is_bought;
            }
            _ if !actor.has_client => {}
            Flow::Hold => {}
            Flow::Forward => world.actors[usize::from(number)].upstream = Upstream::Working,
            Flow::Deliver => {
                match actor.upstream {
                    Upstream::Succeeded | Upstream::Streaming => self.deliver(world, payment),
                    _ => world.told = Some(Ending::Stuck),
                }
                world.actors[usize::from(number)].has_client = actor.upstream == Upstream::Streaming;
            }
            Flow::Reply(status, has_terms) => {
                if has_terms || matches!(status, 402 | 412) {
                    self.refuse(world, number, payment, has_terms);
                }
                world.told = Some(if matches!(status, 402 | 412) { Ending::Asked } else { Ending::Stuck });
                world.actors[usize::from(number)].has_client = false;
            }
        }
    }

    /// Whether the store has it that this request may settle the payment, or has let out a stream for it.
    fn is_certain(&self, world: &World, number: u8, payment: u8) -> bool {
        let may = |operation, code| self.may(world, payment, number + 1, operation, code);
        may(Operation::Forget { named: None }, 0) || (may(Operation::Release, 1) && !may(settle(), 2))
    }

    /// Whether the rules let an owner do something with a payment as it stands.
    fn may(&self, world: &World, record: u8, owner: u8, operation: Operation, code: u32) -> bool {
        let Some(key) = self.keys.get(usize::from(record)).copied() else { return false };
        let code = PROBE + u32::from(record) * 8 + code;
        let job = Job { key, operation, owner, number: 0, code };
        self.attempts.probe(world.store[usize::from(record)].value, job, self.now(world)).is_none()
    }

    fn require(&self, world: &mut World, holds: bool, violation: Violation) {
        if !holds {
            world.violation = world.violation.or(Some(violation));
        }
    }

    fn deliver(&self, world: &mut World, payment: u8) {
        world.told = Some(Ending::Served);
        let fate = world.fates[usize::from(payment)];
        let (key, operation) = self.tables.claim(payment);
        let job = Job { key, operation, owner: u8::MAX, number: 0, code: PROBE + u32::from(payment) * 8 + 7 };
        // Another proxy takes it for certain when it has stood for a while.
        let found = self.attempts.probe(world.store[usize::from(payment)].value, job, self.now(world) + 30);
        self.require(world, !fate.is_delivered, Violation::ServedTwice);
        self.require(world, fate.has_settled || self.setup.streams, Violation::ServedUnpaid);
        self.require(world, found == Some(Answer::Spent), Violation::ServedUnrecorded);
        let others = world.fates.iter().filter(|fate| fate.is_delivered).count();
        self.require(world, !self.setup.is_named || others == 0, Violation::NamedTwice);
        world.fates[usize::from(payment)].is_delivered = true;
    }

    /// A client is told to pay, so this payment must not have moved money for nothing, and must not do so by what was asked before.
    fn refuse(&self, world: &mut World, number: u8, payment: u8, has_terms: bool) {
        let fate = world.fates[usize::from(payment)];
        let asks = |other: &Actor| other.asked == Asked::Settle && other.payment == Some(payment);
        let may_settle = fate.has_settled || fate.is_adrift || world.actors.iter().any(asks);
        let is_bought = fate.is_delivered || fate.has_left || fate.is_lost || fate.is_left_open;
        // It stands in the store that it has bought its response, or did so a few seconds ago.
        let proxy = &world.proxies[usize::from(world.actors[usize::from(number)].proxy)];
        let is_known = (proxy.spent | proxy.spent_elsewhere) & (1 << payment) != 0;
        if may_settle && !is_bought && is_known {
            self.count("told that it is spent, which was not certain");
        }
        let violation = if has_terms { Violation::AskedAgain } else { Violation::RefusedThoughPaid };
        self.require(world, is_bought || is_known || !may_settle, violation);
    }

    // -------------------------------------------------------------------------------------------------- what remains

    fn is_quiet(world: &World) -> bool {
        world.actors.iter().all(|actor| actor.phase != Phase::Live)
            && world.proxies.iter().all(|proxy| proxy.mends.is_empty())
    }

    /// Whether everybody who is still there can get on without a client's help, and what was left open comes to an end.
    pub fn can_go_on(&self, world: &World) -> bool {
        let mut live = world.actors.iter().filter(|actor| actor.phase == Phase::Live);
        let waits = |actor: &Actor| {
            let wakes = self.tables.facts(actor.exchange).wakes_at.is_some();
            let is_at_upstream = actor.has_client && matches!(actor.upstream, Upstream::Working | Upstream::Streaming);
            actor.attempt != 0 || actor.asked != Asked::Nobody || is_at_upstream || wakes
        };
        live.all(waits) && self.comes_to_an_end(world)
    }

    fn comes_to_an_end(&self, world: &World) -> bool {
        const QUESTIONS: usize = 40;
        if world.proxies.iter().all(|proxy| proxy.mends.is_empty()) {
            return true;
        }
        let mut world = world.clone();
        for _ in 0..QUESTIONS {
            let Some(proxy) = (0..PROXIES).find(|proxy| !world.proxies[*proxy].mends.is_empty()) else { return true };
            self.act(&mut world, Action::Mend(proxy as u8, 0));
        }
        false
    }

    /// Whether nobody holds a claim any more, once all is quiet, where nobody has crashed and no hold has ended by itself.
    pub fn nothing_is_held(&self, world: &World) -> bool {
        let may =
            |record, owner| self.may(world, record, owner, settle(), 2) || self.may(world, record, owner, KEEP, 3);
        !Self::is_quiet(world)
            || world.crashes > 0
            || world.time > 0
            || (0..3).all(|record| (1..=LAST as u8).all(|owner| !may(record, owner)))
    }

    /// Whether, once all is quiet, every payment that has settled and bought nothing still buys its response, at either proxy, and no
    /// other one buys anything.
    pub fn is_settled_up(&self, world: &World) -> bool {
        !Self::is_quiet(world)
            || world.violation.is_some()
            || (0..PROXIES as u8).all(|proxy| (0..PAYMENTS as u8).all(|payment| self.is_even(world, payment, proxy)))
    }

    fn is_even(&self, world: &World, payment: u8, proxy: u8) -> bool {
        let is_used = |comes: &Comes| matches!(comes, Comes::Pays(used, _) if *used == payment);
        if !self.setup.requests.iter().any(is_used) {
            return true;
        }
        let fate = world.fates[usize::from(payment)];
        let other = world.fates[usize::from(1 - payment)];
        let (ending, has_waited) = self.end(world, payment, proxy);
        let is_bought = fate.is_delivered || fate.has_left;
        let is_taken = self.setup.is_named && (other.is_delivered || other.has_left || other.is_lost);
        let may_wait = world.crashes > 0;
        let is_right = match (is_bought, fate.has_settled) {
            (true, _) => ending != Ending::Served,
            (false, _) if fate.is_lost || fate.is_left_open => {
                self.count(match (ending, fate.is_lost) {
                    (Ending::Served, _) => "crashed as it delivered, and served later",
                    (_, true) => "crashed as it delivered, and lost",
                    (_, false) => "crashed before it could take back, and lost",
                });
                true
            }
            (false, true) => ending == Ending::Served,
            // The name is the other's.
            (false, false) if is_taken => ending != Ending::Served,
            (false, false) if self.setup.is_named && (other.has_settled || other.is_adrift) => true,
            (false, false) => ending == Ending::Served,
        };
        is_right && (may_wait || !has_waited || is_bought || self.setup.is_named)
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().expect("no thread fails with it").entry(what).or_default() += 1;
    }

    fn end(&self, world: &World, payment: u8, proxy: u8) -> (Ending, bool) {
        let memory = &world.proxies[usize::from(proxy)];
        let has_settled = world.fates.map(|fate| fate.has_settled);
        let key = (world.store, memory.copies, memory.spent, has_settled, world.time, payment);
        if let Some(known) = self.ends.lock().expect("no thread fails with it").get(&key) {
            return *known;
        }
        let mut play = world.clone();
        play.fates.iter_mut().for_each(|fate| *fate = Fate { has_settled: fate.has_settled, ..Fate::default() });
        play.proxies.iter_mut().for_each(Proxy::forget);
        let mut end = (self.play(&mut play, payment, proxy), false);
        let last = (self.setup.instants.len() - 1) as u8;
        if end.0 == Ending::Stuck && world.time < last {
            play.time = last;
            play.proxies.iter_mut().for_each(Proxy::forget);
            end = (self.play(&mut play, payment, proxy), true);
        }
        self.ends.lock().expect("no thread fails with it").insert(key, end);
        end
    }

    /// A client comes with a payment, and everybody does as he should.
    fn play(&self, world: &mut World, payment: u8, proxy: u8) -> Ending {
        let number = LAST as u8;
        (world.told, world.violation) = (None, None);
        self.come(world, number, Some(payment), proxy, self.tables.request_with(payment) as u8);
        loop {
            if let Some(told) = world.told {
                return told;
            }
            let actor = world.actors[LAST];
            let has_settled = world.fates[usize::from(payment)].has_settled;
            let action = match (actor.attempt, actor.asked, actor.upstream) {
                _ if actor.phase != Phase::Live => return Ending::Stuck,
                (1.., ..) => Action::Tell(number),
                (_, Asked::Verify, _) => Action::Hear(number, Heard::Verified),
                (_, Asked::Settle, _) => Action::Hear(number, self.settles(has_settled, payment)),
                (_, Asked::Node(question), _) => {
                    Action::Hear(number, Heard::Node(self.tables.ask_node(question, self.sight(world))))
                }
                (.., Upstream::Working) => Action::Respond(number, 200),
                _ => return Ending::Stuck,
            };
            self.act(world, action);
        }
    }

    // ----------------------------------------------------------------------------------------------------- in words

    pub fn describe(&self, world: &World) -> String {
        let mut text = format!("  t={} faults={}", self.now(world), world.faults);
        for (number, actor) in world.actors.iter().enumerate().filter(|(_, actor)| actor.phase == Phase::Live) {
            text += &format!(
                "\n    #{number} p{:?} at {} client={} {:?} {:?} holds={} {} waits for {}",
                actor.payment,
                actor.proxy,
                actor.has_client,
                actor.upstream,
                actor.asked,
                actor.holds,
                self.tables.name(actor.exchange),
                self.task(world, number as u8)
                    .filter(|_| actor.attempt != 0)
                    .map_or(String::new(), |(_, operation, _)| format!("{operation:?}").chars().take(16).collect()),
            );
        }
        let mends = world
            .proxies
            .each_ref()
            .map(|proxy| proxy.mends.iter().map(|mend| self.attempts.facts(*mend)).collect::<Vec<_>>());
        text + &format!(
            "\n    {:?} late={:?} mends={mends:?} {:?} {:?}",
            world.store.map(|record| (record.value, record.writes)),
            world.late,
            world.fates,
            world.violation
        )
    }
}

const KEEP: Operation = Operation::Keep { transaction: x402_proxy_wasm::x402::TransactionId::from_bytes([1; 32]) };

fn settle() -> Operation {
    Operation::Settle { until: at(0), charge: None }
}

/// The name that all payments have where they have one.
const NAME: &str = "an_order_of_somebody";

fn config_of(setup: Setup) -> Value {
    let mut config = base_config();
    config["facilitator"]["verify"] = "local".into();
    config["defaults"]["settle"] = setup.settle.into();
    config["defaults"]["max_timeout_seconds"] = 30.into();
    if setup.is_named {
        config["routes"][0]["extensions"] = json!({"payment_identifier": "optional"});
    }
    if setup.streams {
        config["defaults"]["accepts"][0]["scheme"] = "upto".into();
        config["routes"] = json!([{
            "name": "chat",
            "match": {"path": "/chat"},
            "price": {
                "usage": "openai",
                "models": {"gpt-4o": {"input": "$2.50", "output": "$10.00"}},
                "max_output_tokens": 1000,
                "minimum": "$0.0001",
            },
        }]);
    }
    if setup.has_node {
        config["rpc"] = json!({"base-sepolia": {
            "cluster": "node",
            "url": "http://node:8545",
            "timeout": "2s",
            "confirmations": 1,
            "log_range": 100_000,
        }});
    }
    config
}

fn request(setup: Setup, headers: &[(&str, &str)]) -> x402_proxy_wasm::exchange::RequestHead {
    if setup.streams { head("POST", "/chat", headers) } else { head("GET", "/weather", headers) }
}

/// A payment that lives longer than any hold.
fn sign(setup: Setup, config: &Value, number: usize) -> Value {
    use x402_proxy_wasm::exchange::{Body, Event};
    let mut stage = Stage::new(config);
    let body = Event::RequestBody(Body::Whole(CHAT.as_bytes().to_vec()));
    let unpaid = stage.play(&request(setup, &[]), setup.streams.then_some(body));
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let wallet = Wallet::new(1);
    let mut payment = wallet.pay(&entry, number as u8 + 1);
    let expires: Value = (crate::common::NOW + u64::from(EXPIRY)).to_string().into();
    match setup.streams {
        true => payment["payload"]["permit2Authorization"]["deadline"] = expires,
        false => payment["payload"]["authorization"]["validBefore"] = expires,
    }
    wallet.sign_payment(&mut payment);
    if setup.is_named {
        payment["extensions"] = json!({"payment-identifier": {"info": {"required": false, "id": NAME}}});
    }
    payment
}
