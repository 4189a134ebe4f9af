//! The facilitator says no: to each kind of purchase, while everybody else is as fast or as slow as it happens.

use super::purchase::{Delivery, Scene, purchases_everywhere};

#[test]
fn what_is_refused_is_not_delivered_whoever_comes_first() {
    for purchase in purchases_everywhere() {
        for refuses in ["/verify", "/settle"] {
            for seed in 0..48_u64 {
                let mut scene = Scene::new(&purchase);
                scene.facilitator.refuses = refuses;
                let payment = scene.payment(1);
                let mut run = scene.begin(Some(&payment));
                let mut order = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                loop {
                    (scene.is_upstream_fast, scene.is_client_slow) = (order & 1 == 1, order & 2 == 2);
                    order = order.rotate_right(2);
                    if !scene.advance(&mut run) {
                        break;
                    }
                }
                let is_asked = scene.envoy.status(run.id) == 402;
                let what = format!("{}, {refuses}, {seed}: {:?}", purchase.name, scene.envoy.outcomes());
                // A stream is paid for at its end, and a question that nobody asks is not refused.
                let may_have = (purchase.is_stream() && refuses == "/settle") || !scene.facilitator.settled.is_empty();
                assert!(may_have || is_asked && scene.delivery(&run) == Delivery::Nothing, "{what}");
                assert_eq!(
                    scene.facilitator.settled.is_empty() && refuses == "/settle",
                    refuses == "/settle",
                    "{what}"
                );
                scene.drain(&run);
            }
        }
    }
}
