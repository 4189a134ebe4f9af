//! Host calls that fail: each in turn, each and all that follow, and all of one name, in each kind of purchase.

use super::fake_envoy::Faults;
use super::purchase::{Delivery, Purchase, Scene, purchases};

/// What came of a purchase under faults, and of the same payment without them.
struct Outcome {
    what: String,
    /// The first call that failed.
    call: &'static str,
    status: u16,
    delivery: Delivery,
    has_moved: bool,
    status_again: u16,
    delivery_again: Delivery,
}

/// Plays a purchase under faults, then the same payment without; `None` where nothing failed.
fn play(purchase: &Purchase, faults: Faults, is_upstream_fast: bool) -> Option<Outcome> {
    let mut scene = Scene::new(purchase);
    scene.is_upstream_fast = is_upstream_fast;
    let payment = scene.payment(1);
    scene.envoy.fail(faults);
    let first = scene.play(&payment);
    let call = *scene.envoy.failed().first()?;
    let what = format!("{}, {faults:?} ({call})", purchase.name);
    let status = scene.envoy.status(first.id);
    scene.envoy.fail(Faults::None);
    scene.drain(&first);
    let delivery = scene.delivery(&first);
    let has_moved = !scene.facilitator.settled.is_empty();
    let again = scene.play(&payment);
    scene.drain(&again);
    let (status_again, delivery_again) = (scene.envoy.status(again.id), scene.delivery(&again));
    assert!(scene.facilitator.settled.len() <= 1, "{what}: the money moves once");
    let outcome = Outcome { what, call, status, delivery, has_moved, status_again, delivery_again };
    outcome.keeps_the_rules();
    Some(outcome)
}

impl Outcome {
    /// What holds whatever fails.
    fn keeps_the_rules(&self) {
        let Self { what, status, delivery, has_moved, delivery_again, .. } = self;
        assert!(*has_moved || *delivery == Delivery::Nothing, "{what}: nothing is delivered unpaid");
        assert!(matches!(status, 0 | 200 | 502 | 503), "{what}: {status} is no reason to pay again");
        assert!(
            *delivery == Delivery::Nothing || *delivery_again == Delivery::Nothing,
            "{what}: a payment buys one response"
        );
    }
}

/// Each purchase, in each order of events.
fn each(check: impl Fn(&Purchase, bool)) {
    for purchase in purchases() {
        check(&purchase, false);
        if purchase.is_concurrent() {
            check(&purchase, true);
        }
    }
}

#[test]
fn any_one_call_may_fail() {
    // Of these a response is made ready that is paid for, and counts as sold.
    const EDITS: [&str; 4] =
        ["remove_header_map_value", "replace_header_map_value", "add_header_map_value", "continue_stream"];
    const LEDGER: [&str; 2] = ["get_shared_data", "set_shared_data"];
    each(|purchase, is_upstream_fast| {
        let mut n = 0;
        while let Some(outcome) = play(purchase, Faults::At(n), is_upstream_fast) {
            let Outcome { what, call, status, delivery, has_moved, status_again, delivery_again } = outcome;
            assert!(status != 0 || call == "set_effective_context", "{what}: the client is told");
            match (delivery, delivery_again, status_again) {
                (Delivery::Nothing, Delivery::All, 200) => {}
                (Delivery::Nothing, _, 402) => assert!(has_moved && EDITS.contains(&call), "{what}: it is spent"),
                (Delivery::Nothing, _, 409) => assert!(LEDGER.contains(&call), "{what}: it is in flight"),
                (Delivery::Nothing, _, _) => panic!("{what}: then {status_again}"),
                _ => assert_eq!(status_again, 402, "{what}: it is spent"),
            }
            n += 1;
        }
        assert!(n > 20, "{}: there are calls to fail", purchase.name);
    });
}

#[test]
fn any_call_and_all_that_follow_may_fail() {
    each(|purchase, is_upstream_fast| {
        let mut n = 0;
        while play(purchase, Faults::From(n), is_upstream_fast).is_some() {
            n += 1;
        }
        assert!(n > 20, "{}: there are calls to fail", purchase.name);
    });
}

#[test]
fn all_calls_of_one_name_may_fail() {
    let calls = [
        "get_current_time",
        "get_header_map_pairs",
        "remove_header_map_value",
        "replace_header_map_value",
        "add_header_map_value",
        "get_buffer_bytes",
        "set_buffer_bytes",
        "send_local_response",
        "continue_stream",
        "set_effective_context",
        "get_shared_data",
        "set_shared_data",
        "get_property",
        "set_property",
        "http_call",
        "increment_metric",
        "record_metric",
    ];
    each(|purchase, is_upstream_fast| {
        let failed = calls.into_iter().filter_map(|call| play(purchase, Faults::Named(call), is_upstream_fast)).count();
        assert!(failed > 8, "{}: {failed} are used", purchase.name);
    });
}

#[test]
fn a_reply_that_the_host_does_not_take_lets_nothing_pass() {
    // The call that fails, and that by which the client would be told of it.
    each(|purchase, is_upstream_fast| {
        for n in 0.. {
            let mut scene = Scene::new(purchase);
            scene.is_upstream_fast = is_upstream_fast;
            let payment = scene.payment(1);
            scene.envoy.fail(Faults::AtAndNamed(n, "send_local_response"));
            let run = scene.play(&payment);
            if scene.envoy.failed().is_empty() {
                break;
            }
            scene.envoy.fail(Faults::None);
            scene.drain(&run);
            let is_paid = !scene.facilitator.settled.is_empty();
            assert!(is_paid || scene.delivery(&run) == Delivery::Nothing, "{}, call {n}", purchase.name);
        }
    });
}

#[test]
fn a_worker_whose_configuration_cannot_be_read_serves_nothing() {
    for n in 0.. {
        let purchase = &purchases()[0];
        let mut scene = Scene::new(purchase);
        scene.envoy.fail(Faults::At(n));
        let root = scene.envoy.add_root(&purchase.config);
        if scene.envoy.failed().is_empty() {
            assert!(n > 5, "there are calls to fail");
            break;
        }
        let is_refused = root.is_none();
        let id = scene.envoy.last_id();
        scene.envoy.fail(Faults::None);
        let head = [(":method", "GET"), (":authority", "api.example.com"), (":path", "/weather")];
        let stream = scene.envoy.request(id, &head, false);
        assert_eq!(scene.envoy.status(stream), if is_refused { 503 } else { 402 });
        assert!(scene.envoy.at_upstream(stream).is_none());
    }
}
