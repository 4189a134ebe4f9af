//! Every interleaving of a small world.
#![cfg(not(target_arch = "wasm32"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stdout,
    reason = "a test that fails may panic, and this one tells how far it went"
)]
#![allow(dead_code, reason = "of what the tests share, each file uses a part")]

mod common;
#[path = "common/tables.rs"]
mod tables;
#[path = "common/world.rs"]
mod world;

use std::time::Instant as Clock;

use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Action, BEGIN, LATE, LATER, LATER_SOON, OVERDUE, PAUSED, Rules, SOON, Setup, Violation, World};

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
            Property::always("asked again", |_, world: &World| world.violation != Some(Violation::AskedAgain)),
            Property::always("refused though paid", |_, world: &World| {
                world.violation != Some(Violation::RefusedThoughPaid)
            }),
            Property::always("recorded", |_, world: &World| world.violation != Some(Violation::ServedUnrecorded)),
            Property::always("error costs nothing", |_, world: &World| {
                world.violation != Some(Violation::SettledAfterError)
            }),
            Property::always("forwarded once", |_, world: &World| world.violation != Some(Violation::RepliedTwice)),
            Property::always("goes on", |rules: &Self, world| rules.can_go_on(world)),
            Property::always("holds", |rules: &Self, world| rules.holds_are_kept(world)),
            Property::always("settled up", |rules: &Self, world| rules.is_settled_up(world)),
        ]
    }
}

const BASE: Setup = Setup {
    settle: "after",
    verify: "local",
    rpc: None,
    confirm: false,
    requests: &[(0, 0, "/weather"), (0, 1, "/weather")],
    instants: &[BEGIN, PAUSED, SOON, LATER, LATER_SOON, LATE, OVERDUE],
    is_idempotent: false,
    lies: false,
    fails_to_send: false,
    verify_fails: true,
    upstream_fails: true,
    clients_leave: true,
    gives_up: false,
    crashes: 1,
    pursuits: 1,
    reorgs: 0,
    claims_per_page: 4,
    leaps: false,
    perform: tables::perform,
    mishear: |heard| heard,
};

fn check(name: &str, setup: Setup) {
    let begun = Clock::now();
    let checker = Rules::new(setup).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let rules = checker.model();
    println!(
        "{name}: {} states, {} steps, depth {}, {:.1} s, {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
        rules.outcomes.lock().unwrap(),
    );
    for (property, path) in checker.discoveries() {
        println!("VIOLATED {property}");
        for (world, action) in path.into_vec() {
            println!("{}\n {action:?}", rules.describe(&world));
        }
    }
    assert!(checker.discoveries().is_empty());
    assert_eq!(rules.tables.cycle(), None);
}

const THREE: &[(u8, u8, &str)] = &[(0, 0, "/weather"), (0, 1, "/weather"), (0, 0, "/weather")];

#[test]
fn trial2() {
    let full = Setup { gives_up: true, fails_to_send: true, crashes: 2, pursuits: 2, ..BASE };
    for settle in ["after", "before", "concurrent"] {
        for rpc in [None, Some(1)] {
            for verify in ["local", "remote"] {
                for is_idempotent in [false, true] {
                    check(
                        &format!("two {settle} {rpc:?} {verify} {is_idempotent}"),
                        Setup { settle, rpc, verify, is_idempotent, ..full },
                    );
                }
            }
        }
    }
}
#[test]
fn trial3() {
    for settle in ["after", "before", "concurrent"] {
        for rpc in [None, Some(1)] {
            check(&format!("three {settle} {rpc:?}"), Setup { settle, rpc, requests: THREE, ..BASE });
        }
    }
}
