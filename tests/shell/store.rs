//! The ledger in a store that a fleet shares, while that is silent.

use serde_json::json;

use super::purchase::{Delivery, Scene, weather};

/// Lets seconds pass in which everybody answers but a store that is silent.
fn pass(scene: &mut Scene, seconds: u32) {
    for _ in 0..seconds {
        scene.answer_all();
        scene.envoy.tick(scene.root);
    }
    scene.answer_all();
}

#[test]
fn what_nobody_waits_for_is_repeated_until_the_store_answers() {
    let purchase = weather("before", "before", "remote").in_fleet();
    let mut scene = Scene::new(&purchase);
    let payment = scene.payment(1);
    let mut run = scene.begin(Some(&payment));
    while !scene.envoy.awaits_upstream(run.id) {
        assert!(scene.advance(&mut run));
    }
    // The upstream fails, and that the payment is good for another response cannot be recorded.
    scene.etcd.is_silent = true;
    scene.envoy.respond(run.id, &[(":status", "500")], false);
    pass(&mut scene, 8);
    assert_eq!(scene.envoy.status(run.id), 500);
    scene.envoy.leave(run.id);
    pass(&mut scene, 30);
    scene.etcd.is_silent = false;
    pass(&mut scene, 3);
    let again = scene.play(&payment);
    assert_eq!(scene.delivery(&again), Delivery::All, "{:?}", scene.envoy.outcomes());
    assert_eq!(scene.facilitator.settled.len(), 1);
    pass(&mut scene, 30);
    assert_eq!(scene.envoy.metric("x402_store_unfinished"), 0);
}

#[test]
fn a_client_that_leaves_while_the_store_is_told_of_the_delivery_has_bought_nothing_yet() {
    for loses_answers in [false, true] {
        let purchase = weather("after", "after", "remote").in_fleet();
        let mut scene = Scene::new(&purchase);
        let payment = scene.payment(1);
        let mut run = scene.begin(Some(&payment));
        while scene.facilitator.settled.is_empty() {
            assert!(scene.advance(&mut run));
        }
        // The money has moved, and the store is asked to record that it has bought the response.
        scene.etcd.loses_answers = loses_answers;
        scene.envoy.leave(run.id);
        scene.answer_one();
        scene.etcd.loses_answers = false;
        pass(&mut scene, 3);
        let again = scene.play(&payment);
        assert_eq!(scene.delivery(&again), Delivery::All, "{:?}", scene.envoy.outcomes());
        scene.drain(&again);
        assert_eq!(scene.facilitator.settled.len(), 1);
    }
}

#[test]
fn a_response_that_comes_while_the_store_is_told_of_a_refusal_is_not_delivered() {
    for has_body in [false, true] {
        for answers in 0..4 {
            let purchase = weather("concurrent", "concurrent", "local").in_fleet();
            let mut scene = Scene::new(&purchase);
            let payment = scene.payment(1);
            let run = scene.begin(Some(&payment));
            let settle = loop {
                let callout = scene.envoy.callout();
                if callout.path == "/settle" {
                    break callout;
                }
                assert!(scene.answer_one());
            };
            let refusal = json!({
                "success": false, "errorReason": "invalid_exact_evm_insufficient_balance", "transaction": "", "network": "eip155:84532",
            });
            scene.envoy.answer(settle.token, 200, &refusal);
            for _ in 0..answers {
                scene.answer_one();
            }
            if scene.envoy.awaits_upstream(run.id) {
                scene.envoy.respond(run.id, &[(":status", "200")], has_body);
            }
            assert_eq!(scene.delivery(&run), Delivery::Nothing, "{answers}: {:?}", scene.envoy.outcomes());
            pass(&mut scene, 2);
            assert_eq!(scene.envoy.status(run.id), 402, "{answers}: {:?}", scene.envoy.outcomes());
            assert_eq!(scene.delivery(&run), Delivery::Nothing);
            scene.drain(&run);
        }
    }
}
