//! Every interleaving of a small fleet: the real exchange at two proxies, real attempts at one store between them, and around them a
//! store that loses questions and answers and carries writes out late, proxies that crash, clients that leave, a facilitator, a chain
//! and a clock (`world.rs`).

mod store;
mod world;

use std::time::Instant as Clock;

use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Action, Comes, Flaw, Rules, Setup, Violation, World};

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
            Property::always("a payment buys one response in the fleet", |_, world: &World| {
                world.violation != Some(Violation::ServedTwice)
            }),
            Property::always("nobody is served unpaid", |_, world: &World| {
                world.violation != Some(Violation::ServedUnpaid)
            }),
            Property::always("what is delivered is in the store", |_, world: &World| {
                world.violation != Some(Violation::ServedUnrecorded)
            }),
            Property::always("no payment is new whose money has moved", |_, world: &World| {
                world.violation != Some(Violation::AskedAgain)
            }),
            Property::always("nobody is refused for good who has paid", |_, world: &World| {
                world.violation != Some(Violation::RefusedThoughPaid)
            }),
            Property::always("settlement is asked for by who holds the claim for certain", |_, world: &World| {
                world.violation != Some(Violation::SettledUncertain)
            }),
            Property::always("a name is one payment's", |_, world: &World| {
                world.violation != Some(Violation::NamedTwice)
            }),
            Property::always("a nonce lets in once", |_, world: &World| {
                world.violation != Some(Violation::SignedInTwice)
            }),
            Property::always(
                "every request, and all that is left open, can go on to its end",
                |rules: &Self, world| rules.can_go_on(world),
            ),
            Property::always("in the end nobody holds a claim", |rules: &Self, world| rules.nothing_is_held(world)),
            Property::always(
                "what settled and bought nothing still buys its response at either proxy, and nothing else does",
                |rules: &Self, world| rules.is_settled_up(world),
            ),
        ]
    }
}

const BASE: Setup = Setup {
    settle: "after",
    streams: false,
    is_named: false,
    has_node: false,
    is_idempotent: true,
    requests: TWO,
    instants: &[0, 100, 200],
    leaps: false,
    faults: 2,
    late: 2,
    crashes: 0,
    pursuits: 0,
    clients_leave: true,
    upstream_fails: true,
    settlements_fail: true,
    flaw: Flaw::None,
};

/// One payment at both proxies.
const TWO: &[Comes] = &[Comes::Pays(0, 0), Comes::Pays(0, 1)];

/// The same, and once more.
const THREE: &[Comes] = &[Comes::Pays(0, 0), Comes::Pays(0, 1), Comes::Pays(0, 0)];

/// Two payments.
const MIXED: &[Comes] = &[Comes::Pays(0, 0), Comes::Pays(1, 1)];

/// One nonce.
const VISITS: &[Comes] = &[Comes::SignsIn(0), Comes::SignsIn(1)];

const THREE_VISITS: &[Comes] = &[Comes::SignsIn(0), Comes::SignsIn(1), Comes::SignsIn(0)];

/// Visits every world that can be reached, and gives how many there are and what is wrong in them.
fn explore(name: &str, setup: Setup) -> (usize, Vec<&'static str>) {
    let begun = Clock::now();
    let checker = Rules::new(setup).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let rules = checker.model();
    let (states, depth, seconds) = (checker.unique_state_count(), checker.max_depth(), begun.elapsed().as_secs_f64());
    println!("{name}: {states} states, depth {depth}, {seconds:.1} s, {:?}", rules.counts.lock().unwrap());
    let discoveries = checker.discoveries();
    for (property, path) in &discoveries {
        println!("VIOLATED {property}");
        for (world, action) in path.clone().into_vec().into_iter().filter(|_| setup.flaw == Flaw::None) {
            println!("{}\n {action:?}", rules.describe(&world));
        }
    }
    (states, discoveries.into_keys().collect())
}

fn check(name: &str, setup: Setup) -> usize {
    let (states, violated) = explore(name, setup);
    assert_eq!(violated, [""; 0], "{name}");
    assert!(states > 500, "{name} is too small a world to say anything");
    states
}

#[test]
fn one_payment_at_two_proxies() {
    for settle in ["after", "before"] {
        check(&format!("fleet, {settle}"), Setup { settle, faults: 1, ..BASE });
        let alone = Setup { settle, clients_leave: false, upstream_fails: false, ..BASE };
        check(&format!("fleet, {settle}, crash"), Setup { faults: 1, crashes: 1, ..alone });
        check(&format!("fleet, {settle}, two faults"), Setup { settlements_fail: false, ..alone });
    }
}

#[test]
fn one_stream_at_two_proxies() {
    check("fleet, stream", Setup { streams: true, faults: 1, ..BASE });
}

#[test]
fn one_name_and_one_nonce_in_a_fleet() {
    check("fleet, nonce", Setup { requests: VISITS, faults: 2, crashes: 1, ..BASE });
    check("fleet, name", Setup { requests: MIXED, is_named: true, faults: 1, clients_leave: false, ..BASE });
}

#[test]
#[ignore = "takes long: `make model`"]
fn fleets_with_everything() {
    let mut states = 0;
    for settle in ["after", "before"] {
        let setup = Setup { settle, ..BASE };
        let node = Setup { has_node: true, is_idempotent: false, instants: &[0, 2, 180, 360], faults: 1, ..setup };
        for (name, setup) in [
            ("all", Setup { crashes: 1, ..setup }),
            ("leaps", Setup { leaps: true, ..setup }),
            ("three", Setup { requests: THREE, faults: 1, clients_leave: false, ..setup }),
            ("node", Setup { pursuits: 1, crashes: 1, clients_leave: false, ..node }),
            ("name", Setup { requests: MIXED, is_named: true, clients_leave: false, ..setup }),
        ] {
            states += check(&format!("fleet, {settle}, {name}"), setup);
        }
    }
    states += check("fleet, stream, all", Setup { streams: true, crashes: 1, ..BASE });
    states += check("fleet, nonce, all", Setup { requests: THREE_VISITS, faults: 3, crashes: 1, ..BASE });
    println!("fleets: {states} states in all");
}

/// Things done wrongly around the store are found.
#[test]
fn broken_fleets_are_found_out() {
    let small = Setup { settle: "before", faults: 2, clients_leave: false, upstream_fails: false, ..BASE };
    for (flaw, setup) in [
        (Flaw::IgnoresRevisions, small),
        (Flaw::Deletes, small),
        (Flaw::TakesNothingBack, small),
        (Flaw::LetsNothingGo, small),
        (Flaw::MendsInAnyOrder, small),
        (Flaw::RepeatsNothing, Setup { upstream_fails: true, ..small }),
        (Flaw::GoesAhead, Setup { requests: MIXED, is_named: true, faults: 1, ..small }),
        (Flaw::GoesOnAlone, Setup { requests: MIXED, is_named: true, faults: 1, ..small }),
    ] {
        let (_, violated) = explore(&format!("{flaw:?}"), Setup { flaw, ..setup });
        assert!(!violated.is_empty(), "{flaw:?} goes unnoticed");
    }
}
