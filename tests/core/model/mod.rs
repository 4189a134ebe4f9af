//! Every interleaving of a small world: the real exchange and the real ledger (`tables.rs`), and around them workers
//! that crash, clients that leave, a facilitator, a chain with a node, an upstream and a clock that do whatever they may
//! (`world.rs`).
//!
//! | requests | worlds visited, by mode |
//! |---|---|
//! | two with one payment, crashes, clients gone, callouts not sent | 49,000 to 64,000; with a node 134,000 to 166,000 |
//! | three with one payment | 121,000 to 185,000; with a node 249,000 to 393,000 |
//! | two payments, one of them sent twice | 26,000 to 50,000 |
//! | two with one payment, what the chain must confirm, a facilitator that lies | 158,000 to 197,000 |
//! | two with one payment that only the facilitator can judge, redirects inside the proxy, one redemption | 59,000 to 74,000; with a node 167,000 to 195,000 |

mod channels;
mod fleet;
mod numbered;
mod tables;
mod world;

use std::time::Instant as Clock;

use crate::common::MemoryStore;
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Action, BEGIN, LATE, LATER, LATER_SOON, OVERDUE, PAUSED, Rules, SOON, Setup, Violation, World};
use x402_proxy_wasm::ledger::{Answer, Ledger, Operation, Owner, PaymentKey};
use x402_proxy_wasm::time::UnixTime;

impl Model for Rules {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        Self::actions(self, state, actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        Some(self.next(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody is served unpaid", |_, world: &World| {
                world.violation != Some(Violation::ServedUnpaid)
            }),
            Property::always("a payment buys one response", |_, world: &World| {
                world.violation != Some(Violation::ServedTwice)
            }),
            Property::always("nobody is asked again whose payment may settle", |_, world: &World| {
                world.violation != Some(Violation::AskedAgain)
            }),
            Property::always("nobody is refused for good who has paid", |_, world: &World| {
                world.violation != Some(Violation::RefusedThoughPaid)
            }),
            Property::always("what is delivered is in the ledger", |_, world: &World| {
                world.violation != Some(Violation::ServedUnrecorded)
            }),
            Property::always("an error of the upstream costs nothing", |_, world: &World| {
                world.violation != Some(Violation::SettledAfterError)
            }),
            Property::always("nothing is done for what nobody has proven", |_, world: &World| {
                world.violation != Some(Violation::MovedUnproven)
            }),
            Property::always("a settled payment is redeemed so often and no more", |_, world: &World| {
                world.violation != Some(Violation::RedeemedTooOften)
            }),
            Property::always("a request that was begun anew gets nothing", |_, world: &World| {
                world.violation != Some(Violation::ServedAnew)
            }),
            Property::always("a request is answered once", |_, world: &World| {
                world.violation != Some(Violation::RepliedTwice)
            }),
            Property::always("every request can go on to its end", |rules: &Self, world| rules.can_go_on(world)),
            Property::always("one request at a time holds a payment", |rules: &Self, world| {
                rules.holds_are_kept(world)
            }),
            Property::always(
                "what settled and bought nothing still buys its response, and nothing else does",
                |rules: &Self, world| rules.is_settled_up(world),
            ),
        ]
    }
}

const BASE: Setup = Setup {
    settle: "after",
    verify: "local",
    rpc: None,
    confirm: false,
    requests: TWO,
    instants: &[BEGIN, PAUSED, SOON, LATER, LATER_SOON, LATE, OVERDUE],
    is_idempotent: false,
    lies: false,
    fails_to_send: false,
    verify_fails: true,
    upstream_fails: true,
    clients_leave: true,
    is_unproven: false,
    redirects: false,
    max_redemptions: 3,
    gives_up: false,
    crashes: 1,
    pursuits: 1,
    reorgs: 0,
    claims_per_page: 4,
    leaps: false,
    perform: tables::perform,
    mishear: |heard| heard,
};

/// Visits every world that can be reached, and gives how many there are and what is wrong in them.
fn explore(name: &str, setup: Setup) -> (usize, Vec<&'static str>) {
    let begun = Clock::now();
    let checker = Rules::new(setup).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let rules = checker.model();
    let (states, depth, seconds) = (checker.unique_state_count(), checker.max_depth(), begun.elapsed().as_secs_f64());
    println!("{name}: {states} states, depth {depth}, {seconds:.1} s");
    let discoveries = checker.discoveries();
    for (property, path) in &discoveries {
        println!("VIOLATED {property}");
        for (world, action) in path.clone().into_vec() {
            println!("{}\n {action:?}", rules.describe(&world));
        }
    }
    assert!(!discoveries.is_empty() || rules.tables.cycle().is_none(), "{name}: an exchange can go round for ever");
    (states, discoveries.into_keys().collect())
}

fn check(name: &str, setup: Setup) {
    let (states, violated) = explore(name, setup);
    assert_eq!(violated, [""; 0], "{name}");
    assert!(states > 500, "{name} is too small a world to say anything");
}

/// Every mode, with and without a node and a verification, before a facilitator of either kind.
fn check_modes(what: &str, setup: Setup) {
    for settle in ["after", "before", "concurrent"] {
        for rpc in [None, Some(1)] {
            for verify in ["local", "remote"] {
                for is_idempotent in [false, true] {
                    let name =
                        format!("{what}, {settle}, node {}, {verify}, idempotent {is_idempotent}", rpc.is_some());
                    check(&name, Setup { settle, rpc, verify, is_idempotent, ..setup });
                }
            }
        }
    }
}

/// Two requests with one payment, at two workers.
const TWO: &[(u8, u8, &str)] = &[(0, 0, "/weather"), (0, 1, "/weather")];

/// The same, and a third.
const THREE: &[(u8, u8, &str)] = &[(0, 0, "/weather"), (0, 1, "/weather"), (0, 0, "/weather")];

/// Two payments, of which one is sent twice.
const MIXED: &[(u8, u8, &str)] = &[(0, 0, "/weather"), (1, 1, "/weather"), (0, 1, "/weather")];

const FULL: Setup = Setup { requests: TWO, gives_up: true, fails_to_send: true, crashes: 2, pursuits: 2, ..BASE };

#[test]
fn two_requests_with_one_payment() {
    check_modes("two", FULL);
}

#[test]
fn three_requests_with_one_payment() {
    for settle in ["after", "before", "concurrent"] {
        for rpc in [None, Some(1)] {
            check(&format!("three, {settle}, node {}", rpc.is_some()), Setup { settle, rpc, requests: THREE, ..BASE });
        }
    }
}

#[test]
fn two_payments_of_which_one_comes_twice() {
    for settle in ["after", "before"] {
        check(
            &format!("mixed, {settle}"),
            Setup { settle, requests: MIXED, instants: &[BEGIN, LATE, OVERDUE], ..BASE },
        );
    }
}

#[test]
fn what_the_chain_must_confirm() {
    for settle in ["after", "before", "concurrent"] {
        let setup = Setup { settle, rpc: Some(1), confirm: true, lies: true, ..FULL };
        check(&format!("confirm, {settle}"), setup);
    }
}

#[test]
fn what_only_the_facilitator_can_judge() {
    for settle in ["after", "before", "concurrent"] {
        for rpc in [None, Some(1)] {
            let setup =
                Setup { settle, rpc, is_unproven: true, redirects: true, max_redemptions: 1, crashes: 1, ..FULL };
            check(&format!("unproven, {settle}, node {}", rpc.is_some()), setup);
        }
    }
}

#[test]
#[ignore = "takes long: `make model`"]
fn three_requests_with_everything() {
    check_modes("three, all", Setup { requests: THREE, ..FULL });
    check_modes("mixed, all", Setup { requests: MIXED, ..FULL });
}

// ------------------------------------------------------------------------------------------------ what it would catch

/// A ledger that forgets: every claim is the first.
fn forgetful(
    ledger: &Ledger,
    store: &mut MemoryStore,
    key: PaymentKey,
    owner: Owner,
    operation: Operation,
    now: UnixTime,
) -> Answer {
    if matches!(operation, Operation::Claim { .. } | Operation::ClaimToSettle { .. }) {
        *store = MemoryStore::default();
    }
    tables::perform(ledger, store, key, owner, operation, now)
}

/// A ledger that takes an unheard settlement for one that never was.
fn careless(
    ledger: &Ledger,
    store: &mut MemoryStore,
    key: PaymentKey,
    owner: Owner,
    operation: Operation,
    now: UnixTime,
) -> Answer {
    let operation = match operation {
        Operation::Forget { .. } => Operation::Release,
        operation => operation,
    };
    tables::perform(ledger, store, key, owner, operation, now)
}

/// A ledger that gives every redemption back.
fn forgiving(
    ledger: &Ledger,
    store: &mut MemoryStore,
    key: PaymentKey,
    owner: Owner,
    operation: Operation,
    now: UnixTime,
) -> Answer {
    let operation = if operation == Operation::Abandon { Operation::Release } else { operation };
    tables::perform(ledger, store, key, owner, operation, now)
}

/// A ledger that lets anybody spend.
fn generous(
    ledger: &Ledger,
    store: &mut MemoryStore,
    key: PaymentKey,
    owner: Owner,
    operation: Operation,
    now: UnixTime,
) -> Answer {
    match tables::perform(ledger, store, key, owner, operation, now) {
        Answer::NotHeld if matches!(operation, Operation::Spend { .. }) => Answer::Granted,
        answer => answer,
    }
}

#[test]
fn broken_ledgers_are_found_out() {
    let two = Setup { is_idempotent: true, rpc: Some(1), ..FULL };
    // It takes a third request to redeem a second time.
    let three = Setup { requests: THREE, max_redemptions: 1, crashes: 0, pursuits: 0, ..BASE };
    for (name, perform, setup) in [
        ("forgetful", forgetful as tables::Perform, two),
        ("careless", careless, two),
        ("generous", generous, two),
        ("forgiving", forgiving, three),
    ] {
        let violated = ["after", "before"].map(|settle| explore(name, Setup { settle, perform, ..setup }).1);
        assert!(violated.iter().any(|violated| !violated.is_empty()), "a {name} ledger goes unnoticed");
    }
}
