//! The client goes away: in each state of each kind of purchase.

use super::purchase::{Delivery, Purchase, Scene, purchases_everywhere};

/// Plays a purchase whose client leaves after so many steps; `None` where it is over before.
fn leave_after(purchase: &Purchase, steps: usize, is_upstream_fast: bool) -> Option<(Scene, String, bool, Delivery)> {
    let mut scene = Scene::new(purchase);
    scene.is_upstream_fast = is_upstream_fast;
    let payment = scene.payment(1);
    let mut run = scene.begin(Some(&payment));
    for _ in 0..steps {
        if !scene.advance(&mut run) {
            return None;
        }
    }
    if !scene.envoy.is_open(run.id) {
        return None;
    }
    let had_moved = !scene.facilitator.settled.is_empty();
    scene.drain(&run);
    let delivery = scene.delivery(&run);
    Some((scene, payment, had_moved, delivery))
}

fn each_departure(check: impl Fn(&Purchase, usize, Scene, &str, bool, Delivery)) {
    for purchase in purchases_everywhere() {
        for is_upstream_fast in [false, purchase.is_concurrent()] {
            let mut departures = 0;
            while let Some((scene, payment, had_moved, delivery)) = leave_after(&purchase, departures, is_upstream_fast)
            {
                check(&purchase, departures, scene, &payment, had_moved, delivery);
                departures += 1;
            }
            assert!(departures >= 2, "{}: there are states to leave in", purchase.name);
        }
    }
}

#[test]
fn what_was_paid_is_bought_by_the_same_payment_and_what_was_not_paid_costs_nothing() {
    each_departure(|purchase, steps, mut scene, payment, _, delivery| {
        let what = format!("{} left after {steps}", purchase.name);
        let has_moved = !scene.facilitator.settled.is_empty();
        if delivery != Delivery::Nothing {
            assert!(has_moved, "{what}: what was got is paid for");
        }
        let again = scene.play(payment);
        // Once its head has passed a response is the client's.
        let is_spent = delivery != Delivery::Nothing;
        let expected = if is_spent { Delivery::Nothing } else { Delivery::All };
        assert_eq!(scene.delivery(&again), expected, "{what}: {:?}", scene.envoy.outcomes());
        if is_spent {
            assert_eq!(scene.envoy.status(again.id), 402, "{what}");
        }
        assert_eq!(scene.facilitator.settled.len(), 1, "{what}: the money moves once");
        scene.drain(&again);
        let third = scene.play(payment);
        assert_eq!((scene.delivery(&third), scene.envoy.status(third.id)), (Delivery::Nothing, 402), "{what}");
    });
}

#[test]
fn a_settlement_is_told_of_once_whoever_hears_its_answer() {
    each_departure(|purchase, steps, mut scene, payment, _, _| {
        let again = scene.play(payment);
        scene.drain(&again);
        let settled = ["exact", "upto"].map(|scheme| {
            scene
                .envoy
                .metric(&format!("network=.=eip155:84532;.;scheme=.={scheme};.;result=.=settled;.;x402_settlements"))
        });
        assert_eq!(settled.iter().sum::<i64>(), 1, "{} left after {steps}", purchase.name);
    });
}
