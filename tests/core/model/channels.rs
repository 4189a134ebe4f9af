//! Every interleaving of a small world of channels: the real exchange, the real records in the real store and the keeper's real
//! scheduler, and around them two workers, clients that come twice and leave, a facilitator that is silent, refuses or lies, a chain
//! on which payers withdraw, a node and a clock.
//!
//! | what happens | worlds visited |
//! |---|---|
//! | a voucher comes twice, at two workers, for one thing or two, and the next one after it | 1,800 to 6,300 |
//! | a deposit comes twice, or a voucher after it; the facilitator is silent, refuses or lies; a worker crashes | 6,800 to 16,000 |
//! | a refund comes twice, or with a voucher or a deposit; the same | 600 to 7,100 |
//! | the keeper claims two channels and gives idle ones back, with a node or without | 3,700 to 36,000 |
//! | the payer withdraws | 4,000 to 21,000 |
//!
//! What holds in each of them is said by [`VIOLATIONS`], and what in the end by [`Rules::what_is_wrong_in_the_end`]: what was charged is
//! claimed, and nothing is held for ever, where the facilitator does as it should from then on.

mod tables;
mod world;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant as Clock;

use serde_json::{Value, json};
use stateright::{Checker, HasDiscoveries, Model, Property};
use x402_proxy_wasm::channel::message::domain_separator;
use x402_proxy_wasm::channel::{
    self, Answer, Claimable, Due, Group, Job, Keeper, OnChain, Operation, Policy, Purpose, Record, Refundable, Reserve,
    Said,
};
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::exchange::{
    CallKind, Context, Effects, Event, Exchange, Next, Recovery, RequestHead, Seen, Stream, UpstreamHead,
};
use x402_proxy_wasm::facilitator::{CalloutAnswer, Supported};
use x402_proxy_wasm::ledger::{self, Owner, PaymentKey, Store, StoreFailed, Written};
use x402_proxy_wasm::time::UnixTime;

use super::numbered::Numbered;
use crate::common::channel_payer::{ChannelPayer, stage_of_channels};
use crate::common::{
    MemoryStore, NOW, TRANSACTION, answers, base_config, decode, head, invalid, paid, refused, upstream,
};

/// What a request costs at most.
const PRICE: u32 = 1000;

/// What a deposit puts in.
const DEPOSIT: u32 = 3 * PRICE;

/// Channels of a world.
const CHANNELS: usize = 2;

/// Requests and pursuits in the background that a world has at most.
const ACTORS: usize = 4;

/// Jobs of the keeper that are under way at most: one claim or payout, and two refunds.
const JOBS: usize = 3;

/// Seconds by which time may pass while a callout is under way.
const LESS_THAN_A_TIMEOUT: u32 = 5;

/// Seconds for which the keeper claims, as the shell has it.
const CLAIM_SECONDS: u64 = 600;

/// Seconds that the payer of a channel waits for its money.
const WITHDRAW_DELAY: u32 = 900;

/// Seconds by which a block may be older than it says.
const CLOCK_SLACK: u32 = 15;

/// Seconds after which every hold has ended, whoever took it.
const LONGEST_HOLD: u64 = 610;

const SECRET: [u8; 32] = [7; 32];

// ------------------------------------------------------------------------------------------------------------- the world

/// What a request comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    /// The voucher for the next total.
    Voucher,
    /// A deposit, and that voucher.
    Deposit,
    /// A wish for what is left.
    Refund,
    /// The payment of an earlier request once more.
    Again(usize),
}

/// A request: its channel, its worker, what it asks for and what it comes with.
type Coming = (u8, u8, &'static str, Sends);

/// How a channel stands at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// Nothing was ever put in.
    Closed,
    /// It holds a deposit, and nobody here knows it.
    Foreign,
    /// It holds a deposit, and is known.
    Open,
    /// One request was charged.
    Charged,
}

/// What a world is made of.
#[derive(Clone, Copy)]
struct Setup {
    begun: [Begun; CHANNELS],
    requests: &'static [Coming],
    instants: &'static [u32],
    /// Costs of a response.
    costs: &'static [u32],
    has_node: bool,
    refund_idle: Option<u64>,
    /// How often the facilitator lies, refuses for no reason, and is not heard, at most.
    lies: u8,
    refusals: u8,
    silences: u8,
    /// Withdrawals, crashes of workers, operations on a channel that lose every race, and readings of the node, at most.
    withdrawals: u8,
    crashes: u8,
    races: u8,
    readings: u8,
    pursuits: u8,
    clients_leave: bool,
    upstream_fails: bool,
    /// Whether the proxy may give up on a request and answer it itself.
    gives_up: bool,
    keeps: bool,
    /// Whether what was asked for and not heard may come about later.
    drifts: bool,
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
    /// It answered, and named this cost.
    Succeeded(u32),
    Failed,
}

/// A callout of a request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asked {
    Nobody,
    Verify,
    /// The facilitator has looked, and has yet to say what it saw.
    Looked(Truth),
    Settle(Deed),
    /// The facilitator did as it was asked, and has yet to say so.
    Done(Deed),
}

/// What a facilitator sends to the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Deed {
    Deposit(u8),
    Refund {
        channel: u8,
        claimed: u32,
        amount: u32,
        nonce: u32,
    },
    /// The number of a job.
    Claim(u32),
    Payout,
}

/// A request, or the pursuit of a deposit that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Actor {
    phase: Phase,
    /// The number of its head.
    head: u32,
    has_client: bool,
    upstream: Upstream,
    asked: Asked,
    exchange: u32,
    /// What is to be done next: the number of a step.
    step: u32,
    /// The payments' ledger was asked already.
    is_half_done: bool,
    /// What it was charged, and what it got.
    charged: u32,
    is_served: bool,
    /// The ledger has it that it is the last request once more.
    is_repeat: bool,
    /// It may leave its hold behind: a store that fails, or a refund that went unheard.
    may_hold: bool,
    /// The facilitator has told it of a withdrawal.
    knows_withdrawal: bool,
}

const NOT_YET: Actor = Actor {
    phase: Phase::Absent,
    head: 0,
    has_client: false,
    upstream: Upstream::Untouched,
    asked: Asked::Nobody,
    exchange: OVER,
    step: NOTHING,
    is_half_done: false,
    charged: 0,
    is_served: false,
    is_repeat: false,
    may_hold: false,
    knows_withdrawal: false,
};

/// A channel on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Truth {
    balance: u32,
    claimed: u32,
    nonce: u32,
    /// When the payer began to withdraw, and one more; 0 where it did not.
    withdrawn: u32,
    is_deposited: bool,
}

/// What an observer of everything knows of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Book {
    /// The highest total that was signed.
    signed: u32,
    /// All that was charged.
    charged: u32,
    /// The withdrawal is in the ledger.
    is_withdrawal_seen: bool,
    /// What is charged cannot be had: the facilitator lied, or the payer took it.
    is_lost: bool,
    /// The facilitator lied about it.
    is_lied_about: bool,
}

/// A job of the keeper that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Working {
    Idle,
    /// The node is asked, of the job of this number.
    Node(u32),
    /// The facilitator is.
    Facilitator(u32),
    /// It has done it, and has yet to say so.
    Done(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Keeping {
    worker: u8,
    /// The number of the scheduler's state.
    scheduler: u32,
    jobs: [Working; JOBS],
    /// The number of what is to be done on the ledger.
    tasks: u32,
    /// What the node has told and is yet to be heard, and when.
    told: [Option<(Truth, u32)>; CHANNELS],
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Violation {
    Sank,
    OverSigned,
    OverBalance,
    ChargedForNothing,
    ServedUncharged,
    ServedUnheld,
    ServedTwice,
    ClaimedTooMuch,
    ForgedRow,
    SoldToWhoLeaves,
    Held,
    HeldTooLong,
    RaceSeen,
    Forgotten,
    HeldByTwo,
    RepliedTwice,
}

const VIOLATIONS: [(Violation, &str); 16] = [
    (Violation::Sank, "charged never sinks"),
    (Violation::OverSigned, "charged is never more than what was signed"),
    (Violation::OverBalance, "charged is never more than what the channel is known to hold"),
    (Violation::ChargedForNothing, "nothing is charged but for a response that is there"),
    (Violation::ServedUncharged, "what is delivered was charged"),
    (Violation::ServedUnheld, "nothing goes to the upstream without a hold on its channel"),
    (Violation::ServedTwice, "a voucher buys one response, and that one once more"),
    (Violation::ClaimedTooMuch, "claimed is never more than charged"),
    (Violation::ForgedRow, "what is claimed was signed"),
    (Violation::SoldToWhoLeaves, "nothing is sold to who is known to withdraw"),
    (Violation::Held, "what is over holds nothing"),
    (Violation::HeldTooLong, "no hold is longer than a request"),
    (Violation::RaceSeen, "who loses a race comes second"),
    (Violation::Forgotten, "no channel is forgotten with something to claim"),
    (Violation::HeldByTwo, "one request at a time holds a channel"),
    (Violation::RepliedTwice, "a request is answered once"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    time: u8,
    lies: u8,
    refusals: u8,
    silences: u8,
    withdrawals: u8,
    crashes: u8,
    races: u8,
    readings: u8,
    pursuits: u8,
    violation: Option<Violation>,
    store: u32,
    truths: [Truth; CHANNELS],
    books: [Book; CHANNELS],
    actors: [Actor; ACTORS],
    /// The worker, the head and the number of a recovery.
    recovery: Option<(u8, u32, u32)>,
    keeping: Keeping,
    /// What was asked for and not heard, and may still come about.
    adrift: Option<Deed>,
}

/// What may happen next. Numbers name actors or jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Arrive(usize),
    /// Its next operation is carried out.
    Turn(usize),
    /// It loses every race, and is told that the store fails.
    Lose(usize),
    Do(usize),
    Hear(usize, Heard),
    Respond(usize, Upstream),
    GiveUp(usize),
    Leave(usize),
    Tick(usize),
    Recover,
    Crash(u8),
    Withdraw(u8),
    Drift,
    /// The keeper looks through the ledger.
    Look,
    /// It carries out the next operation.
    Keep,
    KeepInVain,
    /// It asks for what is due.
    Work,
    DoJob(usize),
    HearJob(usize, Said, bool),
    AskNode(usize, bool),
    Read(u8),
    Confirm(u8),
    Pass,
}

/// What is heard of a callout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Heard {
    Verified(Truth),
    Invalid,
    Settled(Deed, Truth),
    Refused,
    /// Refused, for it has settled.
    Used,
    Lost,
    NotSent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Happening {
    Ledger(ledger::Answer),
    /// The number of an answer.
    Channel(u32),
    Callout(u8, Heard),
    Upstream(u16, u32),
    Tick,
    Ended,
}

// ------------------------------------------------------------------------------------------------------------ the tables

/// What a step asks to be done.
#[derive(Debug, Clone, Copy)]
struct Step {
    ledger: Option<(PaymentKey, ledger::Operation)>,
    /// The number of an operation on a channel.
    channel: Option<u32>,
    call: Option<Asked>,
    recovery: Option<u32>,
    stream: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Hold,
    Forward,
    Deliver,
    Reply(u16),
}

/// Something that the keeper does to the ledger.
#[derive(Debug, Clone, Copy)]
struct Task {
    operation: u32,
    then: Then,
}

/// What comes of it if the ledger gives a row.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Claim(UnixTime),
    Refund(OnChain),
}

/// The head of a request, by what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sent {
    channel: u8,
    worker: u8,
    path: &'static str,
    is_deposit: bool,
    is_refund: bool,
    max: u32,
}

/// What of a quiet world decides how it ends: the store, the chain, the books, the scheduler's state, its worker and the time.
type Remains = (u32, [Truth; CHANNELS], [Book; CHANNELS], u32, u8, u32);

struct Memory {
    heads: Numbered<Sent, (Sent, Arc<RequestHead>)>,
    exchanges: Numbered<Exchange, (Exchange, bool, Option<u32>)>,
    steps: Numbered<String, Step>,
    recoveries: Numbered<Recovery, Recovery>,
    stores: Numbered<Vec<(u32, Vec<u8>)>, MemoryStore>,
    operations: Numbered<(u8, Operation), (u8, Operation)>,
    answers: Numbered<Answer, Answer>,
    schedulers: Numbered<String, Keeper>,
    jobs: Numbered<String, (Group, Job)>,
    tasks: Numbered<String, Vec<Task>>,
    signatures: HashMap<(u8, u32), [u8; 65]>,
    starts: HashMap<(u32, u32), (u32, u32)>,
    recovers: HashMap<(u32, u32), (u32, u32)>,
    happenings: HashMap<(u32, u32, Happening), (u32, u32)>,
    ledgers: HashMap<(u32, u32, u8, u32), (u32, ledger::Answer)>,
    channels: HashMap<(u32, u32, u64, u32), (u32, u32)>,
    races: HashMap<(u32, u32, u64, u32, u64, u32), bool>,
    records: HashMap<(u32, u8), Option<Record>>,
    dues: HashMap<(u32, u8, u32), Option<Task>>,
    works: HashMap<(u32, u32), bool>,
    ends: HashMap<Remains, Option<&'static str>>,
}

const NOTHING: u32 = 0;
const OVER: u32 = 0;
const NO_TASKS: u32 = 0;

/// The system under test, in tables that fill themselves, as in `tables.rs`.
struct Rules {
    setup: Setup,
    config: Config,
    supported: Supported,
    payers: [ChannelPayer; CHANNELS],
    group: Group,
    memory: Mutex<Memory>,
    begin: u32,
}

fn at(now: u32) -> UnixTime {
    UnixTime::from_secs(NOW + u64::from(now))
}

fn seconds(time: UnixTime) -> u32 {
    u32::try_from(time.as_secs().saturating_sub(NOW)).expect("a time of the model")
}

fn amount(amount: u128) -> u32 {
    u32::try_from(amount).expect("an amount of the model")
}

/// What is said of a channel that is so.
fn told(truth: Truth, now: u32) -> OnChain {
    OnChain {
        balance: truth.balance.into(),
        total_claimed: truth.claimed.into(),
        withdraw_requested_at: if truth.withdrawn == 0 { 0 } else { at(truth.withdrawn - 1).as_secs() },
        refund_nonce: truth.nonce.into(),
        at: at(now),
    }
}

// ------------------------------------------------------------------------------------------------------ what holds in it

impl Model for Rules {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        self.list_actions(state, actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        Some(self.next(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing forbidden happens", |_, world: &World| world.violation.is_none()),
            Property::always(
                "what is charged is claimed in the end, and nothing is held for ever",
                |rules: &Self, world| rules.what_is_wrong_in_the_end(world).is_none(),
            ),
        ]
    }
}

const BASE: Setup = Setup {
    begun: [Begun::Open, Begun::Closed],
    requests: &[],
    instants: &[0, 1, 5, 100, 700],
    costs: &[PRICE],
    has_node: false,
    refund_idle: None,
    lies: 0,
    refusals: 0,
    silences: 0,
    withdrawals: 0,
    crashes: 0,
    races: 0,
    readings: 0,
    pursuits: 0,
    clients_leave: true,
    upstream_fails: true,
    gives_up: false,
    keeps: true,
    drifts: true,
};

/// Visits every world that can be reached, and gives how many there are and what is wrong in them.
fn explore(name: &str, setup: Setup) -> (usize, Vec<String>) {
    let begun = Clock::now();
    let checker = Rules::new(setup).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let rules = checker.model();
    let (states, depth, seconds) = (checker.unique_state_count(), checker.max_depth(), begun.elapsed().as_secs_f64());
    println!("{name}: {states} states, depth {depth}, {seconds:.1} s");
    let mut wrong = Vec::new();
    for (_, path) in checker.discoveries() {
        let path = path.into_vec();
        for (world, action) in &path {
            println!("{}\n {action:?}", rules.describe(world));
        }
        let last = path.last().map(|(world, _)| *world).expect("a path has an end");
        let text = VIOLATIONS.iter().find(|(violation, _)| Some(*violation) == last.violation).map(|(_, text)| *text);
        let text = text.or_else(|| rules.what_is_wrong_in_the_end(&last)).unwrap_or_default();
        println!("VIOLATED {text}");
        wrong.push(text.to_owned());
    }
    (states, wrong)
}

fn check(name: &str, setup: Setup) {
    let (states, violated) = explore(name, setup);
    assert_eq!(violated, [""; 0], "{name}");
    assert!(states > 500, "{name} is too small a world to say anything");
}

/// A voucher, the same once more at the other worker, and the next one.
const VOUCHERS: &[Coming] =
    &[(0, 0, "/weather", Sends::Voucher), (0, 1, "/weather", Sends::Again(0)), (0, 1, "/weather", Sends::Voucher)];

/// A voucher for two things.
const TWO_PATHS: &[Coming] = &[(0, 0, "/weather", Sends::Voucher), (0, 1, "/other", Sends::Again(0))];

/// A deposit, twice.
const DEPOSITS: &[Coming] = &[(0, 0, "/weather", Sends::Deposit), (0, 1, "/weather", Sends::Again(0))];

/// A deposit, and a voucher.
const DEPOSIT_FIRST: &[Coming] = &[(0, 0, "/weather", Sends::Deposit), (0, 1, "/weather", Sends::Voucher)];

/// A refund, and a voucher.
const REFUND: &[Coming] = &[(0, 0, "/weather", Sends::Refund), (0, 1, "/weather", Sends::Voucher)];

/// A refund, twice.
const REFUNDS: &[Coming] = &[(0, 0, "/weather", Sends::Refund), (0, 1, "/weather", Sends::Again(0))];

/// A refund, and a deposit.
const REFUND_AND_DEPOSIT: &[Coming] = &[(0, 0, "/weather", Sends::Refund), (0, 1, "/weather", Sends::Deposit)];

/// A voucher of the first channel.
const VOUCHER: &[Coming] = &[(0, 1, "/weather", Sends::Voucher)];

/// Two vouchers at two workers.
const TWO: &[Coming] = &[(0, 0, "/weather", Sends::Voucher), (0, 1, "/weather", Sends::Voucher)];

const ONE_CHARGED: [Begun; CHANNELS] = [Begun::Charged, Begun::Closed];
const BOTH_CHARGED: [Begun; CHANNELS] = [Begun::Charged; CHANNELS];

/// The worlds that every run of the tests visits.
fn small() -> Vec<(&'static str, Setup)> {
    let base = Setup { keeps: false, instants: &[0, 1, 5, 100], ..BASE };
    let deposits = Setup { begun: [Begun::Closed; 2], requests: DEPOSITS, pursuits: 1, ..base };
    let refund = Setup { begun: ONE_CHARGED, requests: REFUND, instants: &[0, 100], keeps: true, ..BASE };
    let keeper = Setup {
        begun: BOTH_CHARGED,
        requests: VOUCHER,
        instants: &[0, 5, 700],
        clients_leave: false,
        upstream_fails: false,
        ..BASE
    };
    let idle = Setup { requests: VOUCHER, refund_idle: Some(50), instants: &[0, 100, 700], ..keeper };
    let withdrawal =
        Setup { begun: ONE_CHARGED, requests: TWO, instants: &[0, 400], withdrawals: 1, upstream_fails: false, ..BASE };
    vec![
        ("vouchers", Setup { requests: VOUCHERS, ..base }),
        ("two paths", Setup { requests: TWO_PATHS, costs: &[0, 400, PRICE], races: 1, gives_up: true, ..base }),
        ("deposit, silent", Setup { silences: 1, ..deposits }),
        ("deposit, lies", Setup { lies: 1, refusals: 1, ..deposits }),
        ("deposit, crash", Setup { crashes: 1, races: 1, ..deposits }),
        ("deposit and voucher", Setup { requests: DEPOSIT_FIRST, silences: 1, ..deposits }),
        ("refund, silent", Setup { silences: 1, ..refund }),
        ("refund, lies", Setup { lies: 1, ..refund }),
        ("refund, crash", Setup { crashes: 1, races: 1, keeps: false, ..refund }),
        ("refund twice", Setup { requests: REFUNDS, silences: 1, keeps: false, instants: &[0, 1, 5, 100], ..refund }),
        (
            "refund and deposit",
            Setup { requests: REFUND_AND_DEPOSIT, clients_leave: false, upstream_fails: false, ..refund },
        ),
        ("keeper, silent", Setup { silences: 1, refusals: 1, ..keeper }),
        ("keeper, silent, node", Setup { has_node: true, silences: 1, ..keeper }),
        ("keeper, lies, node", Setup { has_node: true, lies: 1, readings: 1, instants: &[0, 700], ..keeper }),
        ("keeper, crash", Setup { crashes: 1, races: 1, instants: &[0, 700], ..keeper }),
        ("keeper, idle", Setup { silences: 1, ..idle }),
        ("keeper, idle, node", Setup { has_node: true, ..idle }),
        ("withdrawal", Setup { ..withdrawal }),
        ("withdrawal, node", Setup { has_node: true, readings: 1, requests: VOUCHER, ..withdrawal }),
        ("withdrawal, deposit", Setup { requests: DEPOSIT_FIRST, ..withdrawal }),
        ("withdrawal, foreign", Setup { begun: [Begun::Foreign, Begun::Closed], ..withdrawal }),
    ]
}

/// Larger ones.
fn large() -> Vec<(String, Setup)> {
    let everything = |setup: Setup| Setup {
        instants: &[0, 1, 5, 100, 400, 700],
        costs: &[0, 400, PRICE],
        silences: 1,
        refusals: 1,
        races: 1,
        keeps: true,
        clients_leave: true,
        upstream_fails: true,
        gives_up: true,
        ..setup
    };
    let worlds = small().into_iter().flat_map(|(name, setup)| {
        let setup = everything(setup);
        [
            (format!("{name}, all"), setup),
            (format!("{name}, lies"), Setup { lies: 1, races: 0, ..setup }),
            (
                format!("{name}, withdrawal and node"),
                Setup { withdrawals: 1, has_node: true, readings: 1, races: 0, ..setup },
            ),
            (format!("{name}, crash"), Setup { crashes: 1, refusals: 0, ..setup }),
        ]
    });
    worlds.collect()
}

#[test]
#[ignore = "takes long: `make model`"]
fn channels_with_everything() {
    for (name, setup) in large() {
        check(&name, setup);
    }
}

#[test]
fn channels_in_every_order() {
    for (name, setup) in small() {
        check(name, setup);
    }
}
