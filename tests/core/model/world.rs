//! A small world around the filter: workers, clients, a facilitator, a chain, an upstream and a clock, each of which does
//! whatever it may at any time. `mod.rs` says what holds in all of it.
//!
//! What is one step here is one step there: what a worker does between two operations on the ledger touches nothing that
//! others see, so it happens together with the operation before it. Only a delivery is a step of its own, so that a
//! worker may crash before it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use x402_proxy_wasm::ledger::{Answer, Operation};

use super::tables::{
    BLOCKS_A_SECOND, Deed, EMPTY, Flow, Happening, Heard, NOTHING, OVER, PAYMENTS, Perform, Question, Sight, Tables,
};
use crate::common::{NOW, Stage, Wallet, base_config, decode, head, paid, read_config};
use serde_json::json;

/// Requests and pursuits in the background that a world has at most.
const ACTORS: usize = 5;

/// Seconds after the beginning at which every payment expires.
pub const EXPIRY: u32 = 200;

/// Seconds that the upstream is given (`max_timeout_seconds`), so that all holds end long before the payments do.
const PATIENCE: u32 = 30;

/// Seconds after which every hold has ended, whoever took it.
const LAPSE: u32 = 90;

/// Seconds by which time may pass while a callout is under way.
const LESS_THAN_A_TIMEOUT: u32 = 2;

/// Seconds by which time may pass while an exchange pauses between two questions. It then asks for the last time.
const A_PAUSE: u32 = 20;

/// A point in time at which things happen.
#[derive(Debug, Clone, Copy)]
pub struct Instant {
    /// The proxy's clock, in seconds since the beginning.
    pub at: u32,
    /// The time of the chain's last block.
    pub chain: u32,
    /// Whether the facilitator keeps nobody waiting, the node answers and blocks follow: what pauses now would have to be
    /// woken at a time that the model does not have.
    pub is_calm: bool,
}

/// The times of a model. `soon` is after every pause, and before any hold ends; `later`, all holds have ended; `late`,
/// the payments have expired by the proxy's clock, and not yet by the chain's; `over`, by both.
pub const BEGIN: Instant = Instant { at: 0, chain: 0, is_calm: false };
pub const PAUSED: Instant = Instant { at: 2, chain: 2, is_calm: false };
pub const SOON: Instant = Instant { at: 20, chain: 20, is_calm: true };
pub const LATER: Instant = Instant { at: 100, chain: 100, is_calm: false };
pub const LATER_SOON: Instant = Instant { at: 120, chain: 120, is_calm: true };
pub const LATE: Instant = Instant { at: 215, chain: 195, is_calm: false };
pub const OVERDUE: Instant = Instant { at: 235, chain: 235, is_calm: true };

/// What a world is made of.
#[derive(Clone, Copy)]
pub struct Setup {
    pub settle: &'static str,
    pub verify: &'static str,
    /// Confirmations that a node is asked for; none without a node.
    pub rpc: Option<u16>,
    pub confirm: bool,
    /// Payment, worker and path of each request. They come in this order.
    pub requests: &'static [(u8, u8, &'static str)],
    pub instants: &'static [Instant],
    /// Whether the facilitator says yes to what has settled already.
    pub is_idempotent: bool,
    /// Whether the facilitator says that it has settled what it has not.
    pub lies: bool,
    /// Whether the proxy may be unable to send a callout.
    pub fails_to_send: bool,
    /// Whether `/verify` may go wrong.
    pub verify_fails: bool,
    pub upstream_fails: bool,
    pub clients_leave: bool,
    /// Whether the filter cannot check the signatures of the payments, as those of contract wallets.
    pub is_unproven: bool,
    /// Whether the proxy may follow a redirect of the upstream by itself.
    pub redirects: bool,
    /// How often a settled payment is redeemed at most.
    pub max_redemptions: u8,
    /// Whether the proxy may give up on a request and answer it itself.
    pub gives_up: bool,
    /// Crashes of workers, settlements looked into in the background, and replaced blocks, at most.
    pub crashes: u8,
    pub pursuits: u8,
    pub reorgs: u8,
    /// Claims that a page of the ledger has room for.
    pub claims_per_page: u32,
    /// Whether time may leap at any moment, past the end of every hold.
    pub leaps: bool,
    pub perform: Perform,
    /// What is heard in place of what was said.
    pub mishear: fn(Heard) -> Heard,
}

/// Somebody for whom the filter works: a request, or the pursuit of a settlement that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Actor {
    phase: Phase,
    payment: u8,
    worker: u8,
    has_client: bool,
    upstream: Upstream,
    asked: Asked,
    exchange: u32,
    /// What is to be done next. The worker does nothing else before.
    deed: u32,
    /// Until when the claim is surely its own; 0 where it is not.
    hold: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Absent,
    Live,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Upstream {
    /// The request has not come to it.
    Untouched,
    Working,
    Succeeded,
    Failed,
}

/// A callout that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    Nobody,
    Verify,
    /// The facilitator may settle, and may not.
    Settle,
    /// The facilitator has settled, and has yet to say so.
    Settled,
    Node(u32),
}

/// The chain, and what is on its way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Chain {
    /// The block in which each payment settled; 0 for none.
    settled: [u16; PAYMENTS],
    /// Blocks since the first of this instant.
    blocks: u16,
    /// Whether a settlement that the filter heard nothing certain of may still happen.
    adrift: [bool; PAYMENTS],
    reorgs: u8,
}

/// What became of a payment, as an observer of everything knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Fate {
    /// The ledger was told that the response is on its way.
    is_spent: bool,
    is_delivered: bool,
    /// The worker crashed between the two.
    is_lost: bool,
    /// The filter could check its signature, or heard that it is a payment.
    is_proven: bool,
    /// How often it was redeemed, but for those that failed by the upstream's fault.
    redeemed: u8,
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    ServedUnpaid,
    ServedTwice,
    ServedUnrecorded,
    AskedAgain,
    RefusedThoughPaid,
    SettledAfterError,
    RepliedTwice,
    /// Something was done for a payment that nobody has proven.
    MovedUnproven,
    /// A settled payment was redeemed once too often.
    RedeemedTooOften,
    /// A request that was begun anew got more than a word that it was.
    ServedAnew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    time: u8,
    crashes: u8,
    pursuits: u8,
    pub violation: Option<Violation>,
    store: u32,
    chain: Chain,
    fates: [Fate; PAYMENTS],
    actors: [Actor; ACTORS],
    recoveries: [Option<Waiting>; 2],
}

/// A settlement that a worker means to look into: the worker, the payment and the number of the recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Waiting {
    worker: u8,
    payment: u8,
    recovery: u32,
}

/// What may happen next. Numbers name actors, but where another thing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A request comes.
    Arrive(u8),
    /// What its last event led to is done: an operation on the ledger, and what follows.
    Turn(u8),
    /// Its response goes out.
    Deliver(u8),
    /// The facilitator does what it was asked: the payment settles.
    Settle(u8),
    /// It hears of its callout.
    Hear(u8, Heard),
    /// The upstream answers.
    Respond(u8, u16),
    /// Its client leaves.
    Leave(u8),
    /// The upstream redirects it, and the proxy begins it anew.
    Redirect(u8),
    /// The proxy answers in place of the upstream.
    GiveUp(u8),
    /// It is woken.
    Tick(u8),
    /// A settlement that was left unknown is looked into, by its place.
    Recover(u8),
    /// A worker crashes.
    Crash(u8),
    /// A payment settles by a question that went unheard.
    Drift(u8),
    /// A block comes.
    Mine,
    /// The block of a payment's settlement is replaced by one without it.
    Reorganize(u8),
    /// Time passes.
    Pass,
}

/// What of a world decides how a payment ends in it: the store, what has settled, the time, and which payment.
type Remains = (u32, [bool; PAYMENTS], u8, u8);

/// A world with its rules.
pub struct Rules {
    pub setup: Setup,
    pub tables: Tables,
    /// How often each outcome came about.
    pub outcomes: Mutex<BTreeMap<String, u64>>,
    ends: Mutex<HashMap<Remains, End>>,
}

/// What comes of a fresh request with a payment where everybody does as he should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    ending: Ending,
    /// Whether it had to come again.
    has_waited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Served,
    Asked,
    Stuck,
}

const NOT_YET: Actor = Actor {
    phase: Phase::Absent,
    payment: 0,
    worker: 0,
    has_client: false,
    upstream: Upstream::Untouched,
    asked: Asked::Nobody,
    exchange: OVER,
    deed: NOTHING,
    hold: 0,
};

const GONE: Actor = Actor { phase: Phase::Gone, ..NOT_YET };

impl Rules {
    pub fn new(setup: Setup) -> Self {
        let mut config = base_config();
        config["facilitator"]["verify"] = setup.verify.into();
        config["defaults"]["settle"] = setup.settle.into();
        config["defaults"]["max_timeout_seconds"] = PATIENCE.into();
        config["defaults"]["accepts"][0]["confirm"] = setup.confirm.into();
        config["ledger"] = json!({
            "max_claims": setup.claims_per_page * 4096,
            "max_redemptions": setup.max_redemptions,
        });
        if let Some(confirmations) = setup.rpc {
            config["rpc"] = json!({"base-sepolia": {
                "cluster": "node",
                "url": "http://node:8545",
                "timeout": "2s",
                "confirmations": confirmations,
                "log_range": 100_000,
            }});
        }
        let mut payments: Vec<_> = (0..PAYMENTS).map(|payment| sign(&config, payment)).collect();
        if setup.is_unproven {
            payments
                .iter_mut()
                .for_each(|payment| payment["payload"]["signature"] = format!("0x{}", "ab".repeat(66)).into());
        }
        let of_requests = setup.requests.iter().map(|(payment, _, path)| paid(path, &payments[usize::from(*payment)]));
        let fresh = payments.iter().map(|payment| paid("/weather", payment));
        let heads = of_requests.chain(fresh).collect();
        let authorizations = payments.iter().map(|payment| payment["payload"]["authorization"].clone()).collect();
        let tables = Tables::new(read_config(&config), heads, authorizations, setup.perform);
        Self { setup, tables, outcomes: Mutex::default(), ends: Mutex::default() }
    }

    pub fn begin(&self) -> World {
        let chain = Chain { settled: [0; PAYMENTS], blocks: 0, adrift: [false; PAYMENTS], reorgs: 0 };
        World {
            time: 0,
            crashes: 0,
            pursuits: 0,
            violation: None,
            store: EMPTY,
            chain,
            fates: [Fate { is_proven: !self.setup.is_unproven, ..Fate::default() }; PAYMENTS],
            actors: [NOT_YET; ACTORS],
            recoveries: [None; 2],
        }
    }

    fn instant(&self, world: &World) -> Instant {
        self.setup.instants[usize::from(world.time)]
    }

    fn now(&self, world: &World) -> u32 {
        self.instant(world).at
    }

    // ---------------------------------------------------------------------------------------------- what may happen

    pub fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_some() {
            return;
        }
        let busy = self.busy(world);
        let requests = self.setup.requests;
        for index in 0..ACTORS {
            let actor = &world.actors[index];
            let number = index as u8;
            match actor.phase {
                Phase::Gone => {}
                Phase::Absent => {
                    let is_next =
                        index < requests.len() && (index == 0 || world.actors[index - 1].phase != Phase::Absent);
                    if is_next && !busy[usize::from(requests[index].1)] {
                        actions.push(Action::Arrive(number));
                    }
                }
                Phase::Live if actor.deed != NOTHING => {
                    let deed = self.tables.deed(actor.deed);
                    actions.push(if deed.ledger.is_some() { Action::Turn(number) } else { Action::Deliver(number) });
                }
                Phase::Live => self.actions_of(world, actor, number, busy[usize::from(actor.worker)], actions),
            }
        }
        self.actions_of_others(world, busy, actions);
    }

    /// What may happen to an actor that waits.
    fn actions_of(&self, world: &World, actor: &Actor, number: u8, is_busy: bool, actions: &mut Vec<Action>) {
        if actor.asked == Asked::Settle && self.can_settle(world, actor.payment) {
            actions.push(Action::Settle(number));
        }
        if is_busy {
            return;
        }
        self.hear(world, actor, |heard| actions.push(Action::Hear(number, heard)));
        if actor.has_client {
            if actor.upstream == Upstream::Working {
                if self.setup.redirects {
                    actions.push(Action::Redirect(number));
                }
                actions.push(Action::Respond(number, 200));
                if self.setup.upstream_fails {
                    actions.push(Action::Respond(number, 500));
                }
            } else if self.setup.gives_up {
                actions.push(Action::GiveUp(number));
            }
            if self.setup.clients_leave {
                actions.push(Action::Leave(number));
            }
        }
        if self.tables.facts(actor.exchange).wakes_at.is_some_and(|due| due <= self.now(world)) {
            actions.push(Action::Tick(number));
        }
    }

    /// What an actor may hear of its callout.
    fn hear(&self, world: &World, actor: &Actor, mut push: impl FnMut(Heard)) {
        let is_calm = self.instant(world).is_calm;
        let has_settled = world.chain.settled[usize::from(actor.payment)] != 0;
        match actor.asked {
            Asked::Nobody => return,
            Asked::Verify => {
                push(Heard::Verified);
                if !self.setup.verify_fails {
                    return;
                }
                push(Heard::Invalid);
            }
            Asked::Settle => {
                let repeats = has_settled && self.setup.is_idempotent;
                if repeats || self.setup.lies && !is_calm {
                    push(Heard::Settled(actor.payment));
                }
                push(Heard::Refused);
                if !is_calm && self.can_settle(world, actor.payment) {
                    push(Heard::Pending(actor.payment));
                }
            }
            Asked::Settled => {
                push(Heard::Settled(actor.payment));
                if !is_calm {
                    push(Heard::Pending(actor.payment));
                }
            }
            Asked::Node(question) => {
                let answer = self.tables.ask_node(question, self.sight(world));
                push(Heard::Node(answer));
                if is_calm {
                    return;
                }
            }
        }
        push(Heard::Lost);
        if self.setup.fails_to_send && actor.asked != Asked::Settled {
            push(Heard::NotSent);
        }
    }

    fn actions_of_others(&self, world: &World, busy: [bool; 2], actions: &mut Vec<Action>) {
        for payment in 0..PAYMENTS as u8 {
            if world.chain.adrift[usize::from(payment)] && self.can_settle(world, payment) {
                actions.push(Action::Drift(payment));
            }
            if self.is_unconfirmed(world, payment) {
                if world.chain.reorgs < self.setup.reorgs {
                    actions.push(Action::Reorganize(payment));
                }
                if actions.last() != Some(&Action::Mine) {
                    actions.push(Action::Mine);
                }
            }
        }
        for (place, waiting) in (0..).zip(&world.recoveries) {
            if let Some(waiting) = waiting {
                let is_free = !busy[usize::from(waiting.worker)];
                if is_free && self.tables.due(waiting.recovery) <= self.now(world) {
                    actions.push(Action::Recover(place));
                }
            }
        }
        if world.crashes < self.setup.crashes {
            for worker in 0..2 {
                let has_actor = world.actors.iter().any(|one| one.phase == Phase::Live && one.worker == worker);
                let has_plan = world.recoveries.iter().flatten().any(|one| one.worker == worker);
                if has_actor || has_plan {
                    actions.push(Action::Crash(worker));
                }
            }
        }
        if busy == [false; 2] && self.may_pass(world) {
            actions.push(Action::Pass);
        }
    }

    /// Workers that are in the midst of something. A worker takes up nothing else before it is through.
    fn busy(&self, world: &World) -> [bool; 2] {
        let mut busy = [false; 2];
        for actor in &world.actors {
            if actor.deed != NOTHING {
                busy[usize::from(actor.worker)] = true;
            }
        }
        busy
    }

    /// Whether the next instant may come: no callout outlives its timeout, and no exchange oversleeps.
    fn may_pass(&self, world: &World) -> bool {
        let Some(next) = self.setup.instants.get(usize::from(world.time) + 1) else { return false };
        let span = next.at - self.now(world);
        self.setup.leaps
            || world.actors.iter().all(|actor| {
                let is_asking = actor.asked != Asked::Nobody;
                let may_sleep = span <= A_PAUSE || self.tables.facts(actor.exchange).wakes_at.is_none();
                (span <= LESS_THAN_A_TIMEOUT || !is_asking) && may_sleep
            })
    }

    // ----------------------------------------------------------------------------------------------------- the chain

    /// The last block.
    fn head(&self, world: &World) -> u16 {
        self.instant(world).chain as u16 * BLOCKS_A_SECOND + world.chain.blocks + 1
    }

    fn sight(&self, world: &World) -> Sight {
        Sight { head: self.head(world), settled: world.chain.settled }
    }

    fn can_settle(&self, world: &World, payment: u8) -> bool {
        world.chain.settled[usize::from(payment)] == 0 && self.instant(world).chain < EXPIRY
    }

    fn is_unconfirmed(&self, world: &World, payment: u8) -> bool {
        let block = world.chain.settled[usize::from(payment)];
        block != 0 && self.setup.rpc.is_some_and(|confirmations| block + confirmations - 1 > self.head(world))
    }

    fn settle(&self, world: &mut World, payment: u8) {
        world.chain.blocks += 1;
        world.chain.settled[usize::from(payment)] = self.head(world);
        world.chain.adrift[usize::from(payment)] = false;
        if self.instant(world).is_calm {
            world.chain.blocks += self.setup.rpc.unwrap_or_default();
        }
    }

    /// A question to the facilitator of which nothing certain was heard: it may still do as it was asked.
    fn set_adrift(&self, world: &mut World, actor: &Actor) {
        if actor.asked == Asked::Settle && self.can_settle(world, actor.payment) {
            world.chain.adrift[usize::from(actor.payment)] = true;
        }
    }

    /// Forgets what nobody can tell from something else: where nobody is in the midst of an inquiry, the numbers of
    /// blocks do not matter.
    fn simplify(&self, world: &mut World) {
        for actor in &world.actors {
            if matches!(actor.asked, Asked::Node(_)) {
                return;
            }
        }
        for payment in 0..PAYMENTS {
            if self.is_unconfirmed(world, payment as u8) {
                return;
            }
        }
        world.chain.blocks = 0;
        for block in &mut world.chain.settled {
            *block = (*block).min(1);
        }
    }

    // ------------------------------------------------------------------------------------------------- what happens

    pub fn next(&self, world: &World, action: Action) -> World {
        let mut world = *world;
        match action {
            Action::Arrive(number) => self.arrive(&mut world, number),
            Action::Turn(number) => self.turn(&mut world, number),
            Action::Deliver(number) => {
                let deed = self.tables.deed(world.actors[usize::from(number)].deed);
                world.actors[usize::from(number)].deed = NOTHING;
                self.carry_out(&mut world, number, deed);
                self.follow(&mut world, number);
            }
            Action::Settle(number) => {
                let actor = &mut world.actors[usize::from(number)];
                actor.asked = Asked::Settled;
                let payment = actor.payment;
                self.settle(&mut world, payment);
            }
            Action::Hear(number, heard) => {
                let actor = world.actors[usize::from(number)];
                if matches!(heard, Heard::Lost | Heard::Pending(_)) {
                    self.set_adrift(&mut world, &actor);
                }
                world.actors[usize::from(number)].asked = Asked::Nobody;
                world.fates[usize::from(actor.payment)].is_proven |= heard == Heard::Verified;
                self.happen(&mut world, number, Happening::Callout((self.setup.mishear)(heard)));
            }
            Action::Respond(number, status) => {
                let upstream = if status < 400 { Upstream::Succeeded } else { Upstream::Failed };
                world.actors[usize::from(number)].upstream = upstream;
                self.happen(&mut world, number, Happening::Upstream(status));
            }
            Action::GiveUp(number) => {
                world.actors[usize::from(number)].upstream = Upstream::Failed;
                self.happen(&mut world, number, Happening::Upstream(504));
            }
            Action::Leave(number) => {
                self.dismiss(&mut world, number);
                self.happen(&mut world, number, Happening::Ended);
            }
            Action::Redirect(number) => {
                self.dismiss(&mut world, number);
                self.happen(&mut world, number, Happening::Ended);
                let deed = self.tables.start_again(number, self.now(&world));
                let is_stopped = deed.ledger.is_none() && deed.call.is_none() && deed.stream == Flow::Reply(502, false);
                self.require(&mut world, is_stopped, Violation::ServedAnew);
            }
            Action::Tick(number) => self.happen(&mut world, number, Happening::Tick),
            Action::Recover(place) => self.recover(&mut world, place),
            Action::Crash(worker) => self.crash(&mut world, worker),
            Action::Drift(payment) => self.settle(&mut world, payment),
            Action::Mine => world.chain.blocks += 1,
            Action::Reorganize(payment) => {
                world.chain.settled[usize::from(payment)] = 0;
                world.chain.adrift[usize::from(payment)] = true;
                world.chain.reorgs += 1;
            }
            Action::Pass => self.pass(&mut world),
        }
        self.simplify(&mut world);
        world
    }

    fn arrive(&self, world: &mut World, number: u8) {
        let (payment, worker, _) = self.setup.requests[usize::from(number)];
        let (exchange, deed) = self.tables.start(number, self.now(world));
        world.actors[usize::from(number)] =
            Actor { phase: Phase::Live, payment, worker, has_client: true, exchange, deed, ..NOT_YET };
        self.follow(world, number);
    }

    fn recover(&self, world: &mut World, place: u8) {
        let Some(Waiting { worker, payment, recovery }) = world.recoveries[usize::from(place)].take() else { return };
        let number = self.setup.requests.len() as u8 + world.pursuits;
        world.pursuits += 1;
        if world.pursuits == self.setup.pursuits {
            world.recoveries = [None; 2];
        }
        let (exchange, deed) = self.tables.recover(recovery, self.now(world));
        world.actors[usize::from(number)] = Actor { phase: Phase::Live, payment, worker, exchange, deed, ..NOT_YET };
        self.follow(world, number);
    }

    fn crash(&self, world: &mut World, worker: u8) {
        world.crashes += 1;
        for index in 0..ACTORS {
            let actor = world.actors[index];
            if actor.phase == Phase::Live && actor.worker == worker {
                self.set_adrift(world, &actor);
                let fate = &mut world.fates[usize::from(actor.payment)];
                let is_delivering = actor.deed != NOTHING && self.tables.deed(actor.deed).ledger.is_none();
                fate.is_lost |= is_delivering && fate.is_spent && !fate.is_delivered;
                world.actors[index] = GONE;
            }
        }
        for waiting in &mut world.recoveries {
            if waiting.is_some_and(|waiting| waiting.worker == worker) {
                *waiting = None;
            }
        }
    }

    fn pass(&self, world: &mut World) {
        world.time += 1;
        world.chain.blocks = 0;
        if self.instant(world).chain >= EXPIRY {
            world.chain.adrift = [false; PAYMENTS];
        }
    }

    /// The stream is over.
    fn dismiss(&self, world: &mut World, number: u8) {
        let actor = &mut world.actors[usize::from(number)];
        actor.has_client = false;
        actor.upstream = Upstream::Untouched;
    }

    fn happen(&self, world: &mut World, number: u8, happening: Happening) {
        let now = self.now(world);
        let actor = &mut world.actors[usize::from(number)];
        (actor.exchange, actor.deed) = self.tables.step(actor.exchange, now, happening);
        self.follow(world, number);
    }

    /// Carries out what the last step asked of the ledger, and takes the next.
    fn turn(&self, world: &mut World, number: u8) {
        let now = self.now(world);
        let actor = &mut world.actors[usize::from(number)];
        let deed = self.tables.deed(actor.deed);
        let (store, answer) = self.tables.operate(world.store, actor.deed, number + 1, now);
        world.store = store;
        actor.deed = NOTHING;
        actor.hold = 0;
        let is_granted = answer.is_granted();
        if let (Some((_, operation)), true) = (deed.ledger, is_granted) {
            actor.hold = held_until(operation);
            let has_failed = actor.upstream == Upstream::Failed;
            let payment = usize::from(actor.payment);
            let fate = &mut world.fates[payment];
            fate.is_spent |= matches!(operation, Operation::Spend { .. });
            fate.redeemed += u8::from(matches!(answer, Answer::GrantedSettled(..)));
            let is_given_back = matches!(operation, Operation::Release) && has_failed;
            fate.redeemed = fate.redeemed.saturating_sub(u8::from(is_given_back));
            let (is_proven, redeemed) = (fate.is_proven, fate.redeemed);
            let is_short = matches!(operation, Operation::Claim { is_proven: false, .. } | Operation::Release);
            self.require(world, is_proven || is_short, Violation::MovedUnproven);
            self.require(world, redeemed <= self.setup.max_redemptions, Violation::RedeemedTooOften);
        }
        self.carry_out(world, number, deed);
        self.happen(world, number, Happening::Ledger(answer));
    }

    /// Does at once what touches nothing that others see.
    fn follow(&self, world: &mut World, number: u8) {
        let actor = &mut world.actors[usize::from(number)];
        if actor.deed != NOTHING {
            let deed = self.tables.deed(actor.deed);
            let is_delivery = deed.stream == Flow::Deliver && actor.has_client;
            if deed.ledger.is_some() || is_delivery {
                return;
            }
            actor.deed = NOTHING;
            self.carry_out(world, number, deed);
        }
        let actor = &mut world.actors[usize::from(number)];
        if self.tables.facts(actor.exchange).is_over {
            *actor = GONE;
        }
    }

    /// Does what a step asks for, but for the ledger.
    fn carry_out(&self, world: &mut World, number: u8, deed: Deed) {
        if let Some(outcome) = deed.outcome {
            self.note(outcome);
        }
        if let Some(question) = deed.call {
            self.ask(world, number, question);
        }
        if let Some(recovery) = deed.recovery {
            self.plan(world, number, recovery);
        }
        let actor = world.actors[usize::from(number)];
        let is_proven = world.fates[usize::from(actor.payment)].is_proven;
        let is_more = deed.recovery.is_some() || deed.call.is_some_and(|call| call != Question::Verify);
        let is_served = deed.stream == Flow::Deliver && actor.upstream == Upstream::Succeeded;
        let passes = deed.stream == Flow::Forward || is_served;
        self.require(world, is_proven || !(is_more || passes), Violation::MovedUnproven);
        if !actor.has_client {
            return;
        }
        match deed.stream {
            Flow::Hold => {}
            Flow::Forward => {
                let is_new = actor.upstream == Upstream::Untouched;
                self.require(world, is_new, Violation::RepliedTwice);
                world.actors[usize::from(number)].upstream = Upstream::Working;
            }
            Flow::Deliver => {
                if actor.upstream == Upstream::Succeeded {
                    self.deliver(world, actor.payment);
                }
                self.dismiss(world, number);
            }
            Flow::Reply(status, has_terms) => {
                self.note(&format!("reply {status}{}", if has_terms { " with terms" } else { "" }));
                if has_terms || matches!(status, 402 | 412) {
                    self.refuse(world, number, has_terms);
                }
                self.dismiss(world, number);
            }
        }
    }

    fn ask(&self, world: &mut World, number: u8, question: Question) {
        let actor = &mut world.actors[usize::from(number)];
        let has_failed = actor.upstream == Upstream::Failed && self.setup.settle == "after";
        actor.asked = match question {
            Question::Verify => Asked::Verify,
            Question::Settle => Asked::Settle,
            Question::Node(question) => Asked::Node(question),
        };
        self.require(world, question != Question::Settle || !has_failed, Violation::SettledAfterError);
    }

    /// A worker means to look into a settlement.
    fn plan(&self, world: &mut World, number: u8, recovery: u32) {
        let Actor { worker, payment, .. } = world.actors[usize::from(number)];
        if world.pursuits < self.setup.pursuits
            && let Some(place) = world.recoveries.iter_mut().find(|place| place.is_none())
        {
            *place = Some(Waiting { worker, payment, recovery });
        }
    }

    // ------------------------------------------------------------------------------------------- what must not happen

    fn require(&self, world: &mut World, holds: bool, violation: Violation) {
        if !holds {
            world.violation = world.violation.or(Some(violation));
        }
    }

    /// A response that is for sale goes to the client.
    fn deliver(&self, world: &mut World, payment: u8) {
        let now = self.now(world);
        let has_settled = world.chain.settled[usize::from(payment)] != 0
            && !(self.setup.confirm && self.is_unconfirmed(world, payment));
        let fate = &mut world.fates[usize::from(payment)];
        let is_first = !fate.is_delivered;
        fate.is_delivered = true;
        let is_recorded = self.tables.is_spent(world.store, payment, now);
        self.require(world, has_settled, Violation::ServedUnpaid);
        self.require(world, is_first, Violation::ServedTwice);
        self.require(world, is_recorded, Violation::ServedUnrecorded);
    }

    /// A client is told to pay, and that this payment did not: so it must not have, and must not by what was asked before.
    fn refuse(&self, world: &mut World, number: u8, has_terms: bool) {
        let payment = world.actors[usize::from(number)].payment;
        let is_asked_elsewhere =
            world.actors.iter().any(|other| other.asked == Asked::Settle && other.payment == payment);
        let may_settle =
            self.can_settle(world, payment) && (is_asked_elsewhere || world.chain.adrift[usize::from(payment)]);
        let has_settled = world.chain.settled[usize::from(payment)] != 0;
        let is_spent = world.fates[usize::from(payment)].is_spent;
        let violation = if has_terms { Violation::AskedAgain } else { Violation::RefusedThoughPaid };
        self.require(world, is_spent || !(may_settle || has_settled), violation);
    }

    /// Whether everybody who is still there can get on without a client's help.
    pub fn can_go_on(&self, world: &World) -> bool {
        let is_last = usize::from(world.time) + 1 == self.setup.instants.len();
        world.actors.iter().filter(|actor| actor.phase == Phase::Live).all(|actor| {
            let wakes_at = self.tables.facts(actor.exchange).wakes_at;
            let is_woken = wakes_at.is_some_and(|due| !is_last || due <= self.now(world));
            let is_at_upstream = actor.has_client && actor.upstream == Upstream::Working;
            actor.deed != NOTHING || actor.asked != Asked::Nobody || is_at_upstream || is_woken
        })
    }

    /// Whether each claim whose hold lasts is its holder's.
    pub fn holds_are_kept(&self, world: &World) -> bool {
        let now = self.now(world);
        (1..).zip(&world.actors).all(|(owner, actor)| {
            actor.phase != Phase::Live || actor.hold <= now || self.tables.is_held(world.store, actor.payment, owner)
        })
    }

    // -------------------------------------------------------------------------------------------------- what remains

    /// Whether, once all is quiet, every payment that has settled still buys its response, and no other one does so.
    pub fn is_settled_up(&self, world: &World) -> bool {
        let is_quiet = world.actors.iter().all(|actor| actor.phase != Phase::Live);
        !is_quiet || world.violation.is_some() || (0..PAYMENTS as u8).all(|payment| self.is_even(world, payment))
    }

    fn is_even(&self, world: &World, payment: u8) -> bool {
        let End { ending, has_waited } = self.end(world, payment);
        let has_settled = world.chain.settled[usize::from(payment)] != 0;
        let is_adrift = world.chain.adrift[usize::from(payment)];
        let is_valid = self.now(world) + 6 <= EXPIRY;
        let has_node = self.setup.rpc.is_some();
        match (world.fates[usize::from(payment)].is_spent, has_settled) {
            (true, _) => ending == Ending::Asked,
            (false, true) => {
                let is_used_up = world.fates[usize::from(payment)].redeemed >= self.setup.max_redemptions;
                ending == Ending::Served || (!has_node || is_used_up) && ending == Ending::Stuck
            }
            (false, false) if is_valid && !has_waited => ending == Ending::Served,
            (false, false) if has_node => {
                ending != Ending::Stuck && (has_waited || !is_adrift || ending != Ending::Asked)
            }
            (false, false) => !is_adrift || ending != Ending::Asked,
        }
    }

    fn end(&self, world: &World, payment: u8) -> End {
        let has_settled = world.chain.settled.map(|block| block != 0);
        let key = (world.store, has_settled, world.time, payment);
        if let Some(known) = self.ends.lock().expect("no thread fails with it").get(&key) {
            return *known;
        }
        let end = self.play_on(world, payment);
        self.ends.lock().expect("no thread fails with it").insert(key, end);
        end
    }

    /// A client comes with a payment until it is served or told to pay.
    fn play_on(&self, world: &World, payment: u8) -> End {
        const ATTEMPTS: u32 = 4;
        let mut play = Play { rules: self, store: world.store, settled: world.chain.settled, now: 0, clock: 0 };
        play.settled = play.settled.map(|block| block.min(1));
        for attempt in 0..ATTEMPTS {
            let instant = self.instant(world);
            let later = attempt * LAPSE;
            (play.now, play.clock) =
                (instant.at + later, if attempt == 0 { instant.chain } else { instant.at + later });
            match play.attempt(payment, 100 + attempt as u8) {
                Ending::Stuck => {}
                ending => return End { ending, has_waited: attempt > 0 },
            }
        }
        End { ending: Ending::Stuck, has_waited: true }
    }

    // ----------------------------------------------------------------------------------------------------- in words

    fn note(&self, outcome: &str) {
        let mut outcomes = self.outcomes.lock().expect("no thread fails with it");
        if let Some(count) = outcomes.get_mut(outcome) {
            *count += 1;
        } else {
            outcomes.insert(outcome.to_owned(), 1);
        }
    }

    /// A world in words.
    pub fn describe(&self, world: &World) -> String {
        let mut text = format!("  t={} ", self.now(world));
        for (number, actor) in world.actors.iter().enumerate().filter(|(_, actor)| actor.phase == Phase::Live) {
            let deed =
                if actor.deed == NOTHING { String::new() } else { format!(" {:?}", self.tables.deed(actor.deed)) };
            text += &format!(
                "\n    #{number} p{} w{} client={} {:?} {:?} hold={} {}{deed}",
                actor.payment,
                actor.worker,
                actor.has_client,
                actor.upstream,
                actor.asked,
                actor.hold,
                self.tables.name(actor.exchange),
            );
        }
        text + &format!(
            "\n    {:?} {:?} store={} recoveries={:?} {:?}",
            world.chain, world.fates, world.store, world.recoveries, world.violation
        )
    }
}

/// A request where everybody does as he should.
struct Play<'a> {
    rules: &'a Rules,
    store: u32,
    settled: [u16; PAYMENTS],
    now: u32,
    clock: u32,
}

impl Play<'_> {
    fn attempt(&mut self, payment: u8, owner: u8) -> Ending {
        let tables = &self.rules.tables;
        let (mut exchange, mut deed) = tables.start(tables.request_with(payment) as u8, self.now);
        let mut is_at_upstream = false;
        loop {
            let Deed { ledger, call, stream, .. } = tables.deed(deed);
            let answer = ledger.map(|_| {
                let (store, answer) = tables.operate(self.store, deed, owner, self.now);
                self.store = store;
                answer
            });
            if let Some(ending) = ending_of(stream) {
                return ending;
            }
            is_at_upstream |= stream == Flow::Forward;
            let happening = match (answer, call, tables.facts(exchange).wakes_at) {
                (Some(answer), ..) => Happening::Ledger(answer),
                (_, Some(question), _) => Happening::Callout(self.hear(payment, question)),
                (.., Some(due)) => {
                    self.clock += due - self.now;
                    self.now = due;
                    Happening::Tick
                }
                _ if std::mem::take(&mut is_at_upstream) => Happening::Upstream(200),
                _ => return Ending::Stuck,
            };
            (exchange, deed) = tables.step(exchange, self.now, happening);
        }
    }

    fn hear(&mut self, payment: u8, question: Question) -> Heard {
        let block = &mut self.settled[usize::from(payment)];
        let is_used = *block != 0;
        let is_in_time = self.now + 6 <= EXPIRY && self.clock < EXPIRY;
        match question {
            Question::Verify if is_used || !is_in_time => Heard::Invalid,
            Question::Verify => Heard::Verified,
            Question::Settle if is_used && self.rules.setup.is_idempotent => Heard::Settled(payment),
            Question::Settle if is_used || !is_in_time => Heard::Refused,
            Question::Settle => {
                *block = 1;
                Heard::Settled(payment)
            }
            Question::Node(question) => {
                let head = self.clock as u16 * BLOCKS_A_SECOND + 4;
                Heard::Node(self.rules.tables.ask_node(question, Sight { head, settled: self.settled }))
            }
        }
    }
}

fn ending_of(stream: Flow) -> Option<Ending> {
    match stream {
        Flow::Hold | Flow::Forward => None,
        Flow::Deliver => Some(Ending::Served),
        Flow::Reply(402 | 412, _) => Some(Ending::Asked),
        Flow::Reply(..) => Some(Ending::Stuck),
    }
}

/// Until when an operation makes the claim its own.
fn held_until(operation: Operation) -> u32 {
    match operation {
        // What is not proven gives way to what is.
        Operation::Claim { is_proven: false, .. } => 0,
        Operation::Claim { until, .. }
        | Operation::ClaimToSettle { until, .. }
        | Operation::Resume { until, .. }
        | Operation::Recover { until }
        | Operation::Settle { until, .. }
        | Operation::Redeem { until, .. } => (until.as_secs() - NOW) as u32,
        _ => 0,
    }
}

/// A payment that lives longer than any hold.
fn sign(config: &serde_json::Value, number: usize) -> serde_json::Value {
    let unpaid = Stage::new(config).start(&head("GET", "/weather", &[]));
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let wallet = Wallet::new(1);
    let mut payment = wallet.pay(&entry, number as u8 + 1);
    payment["payload"]["authorization"]["validBefore"] = (NOW + u64::from(EXPIRY)).to_string().into();
    wallet.sign_payment(&mut payment);
    payment
}
