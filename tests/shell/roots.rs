//! Root contexts: several of one worker, those that are deleted, and their ticks.

use serde_json::json;

use super::fake_envoy::ROOT;
use super::purchase::{Delivery, Scene, purchases, weather};

#[test]
fn what_a_deleted_root_was_to_hear_is_asked_again() {
    for purchase in purchases() {
        for steps in 0.. {
            let mut scene = Scene::new(&purchase);
            let payment = scene.payment(1);
            let mut run = scene.begin(Some(&payment));
            let is_under_way = (0..steps).all(|_| scene.advance(&mut run)) && scene.envoy.is_open(run.id);
            if !is_under_way {
                assert!(steps > 1, "{}", purchase.name);
                break;
            }
            let what = format!("{} after {steps}", purchase.name);
            scene.envoy.leave(run.id);
            scene.envoy.delete_root(ROOT);
            assert_eq!(scene.envoy.callouts().len(), 0, "{what}: their answers are lost");
            scene.root = scene.envoy.add_root(&purchase.config).expect("the configuration is good");
            scene.drain(&run);
            if scene.delivery(&run) != Delivery::Nothing {
                assert_eq!(scene.facilitator.settled.len(), 1, "{what}: what was got is paid for");
            }
            let again = scene.play(&payment);
            let expected = if scene.delivery(&run) == Delivery::Nothing { Delivery::All } else { Delivery::Nothing };
            assert_eq!(scene.delivery(&again), expected, "{what}: {:?}", scene.envoy.outcomes());
            assert_eq!(scene.facilitator.settled.len(), 1, "{what}: the money moves once");
            scene.drain(&again);
        }
    }
}

#[test]
fn streams_of_a_root_that_is_replaced_go_on_under_its_configuration() {
    for purchase in purchases() {
        let mut scene = Scene::new(&purchase);
        let payment = scene.payment(1);
        let mut run = scene.begin(Some(&payment));
        // The routes of the new one are free, and nobody is asked about them.
        let mut free = purchase.config.clone();
        free["routes"] = json!([{"match": {"path": "/{*rest}"}, "free": true}]);
        let other = scene.envoy.add_root(&free).expect("the configuration is good");
        let mut steps = 0;
        while scene.advance(&mut run) {
            steps += 1;
            scene.envoy.tick(other);
            let head = [(":method", "POST"), (":authority", "api.example.com"), (":path", "/chat")];
            let passes = scene.envoy.request(other, &head, false);
            assert!(scene.envoy.at_upstream(passes).is_some(), "{}: it is free there", purchase.name);
            scene.envoy.leave(passes);
        }
        assert!(steps > 1);
        assert_eq!(scene.delivery(&run), Delivery::All, "{}", purchase.name);
        scene.envoy.delete_root(other);
        scene.drain(&run);
        assert_eq!(scene.facilitator.settled.len(), 1);
    }
}

#[test]
fn one_payment_at_two_roots_is_in_flight_at_one() {
    let purchase = weather("after", "after", "remote");
    let mut scene = Scene::new(&purchase);
    let payment = scene.payment(1);
    let other = scene.envoy.add_root(&purchase.config).expect("the configuration is good");
    scene.envoy.tick(other);
    scene.answer_all();
    let mut first = scene.begin(Some(&payment));
    scene.root = other;
    let second = scene.begin(Some(&payment));
    assert_eq!(scene.envoy.status(second.id), 409);
    while scene.advance(&mut first) {}
    assert_eq!(scene.delivery(&first), Delivery::All);
    let third = scene.begin(Some(&payment));
    assert_eq!(scene.envoy.status(third.id), 402);
    scene.drain(&first);
}

#[test]
fn a_root_that_is_deleted_takes_its_question_with_it() {
    let purchase = weather("after", "after", "remote");
    let mut scene = Scene::new(&purchase);
    let other = scene.envoy.add_root(&purchase.config).expect("the configuration is good");
    scene.envoy.tick(other);
    let question = scene.envoy.callout();
    assert_eq!((question.path.as_str(), scene.envoy.contexts.callouts()), ("/supported", 1));
    scene.envoy.delete_root(other);
    assert_eq!(scene.envoy.contexts.callouts(), 0);
    // An answer that comes nevertheless is nobody's.
    scene.envoy.call_back(ROOT, question.token, super::purchase::ok(), b"{}".to_vec());
    scene.payment(1);
}

#[test]
fn a_configuration_that_is_refused_serves_nothing() {
    let mut scene = Scene::new(&weather("after", "after", "remote"));
    assert_eq!(scene.envoy.add_root(&json!({"routes": 1})), None);
    assert!(scene.envoy.has_logged("the configuration is refused"));
    let head = [(":method", "GET"), (":authority", "api.example.com"), (":path", "/weather")];
    let id = scene.envoy.request(scene.envoy.last_id(), &head, false);
    assert_eq!(scene.envoy.status(id), 503);
}

#[test]
fn ticks_ask_the_facilitator_again_until_it_answers_and_then_seldom() {
    let purchase = super::purchase::json_by_use();
    let mut envoy = super::fake_envoy::FakeEnvoy::new(&purchase.config, crate::common::NOW);
    let mut asked = 0;
    for _ in 0..10 {
        envoy.tick(ROOT);
        for callout in envoy.callouts() {
            asked += 1;
            envoy.answer(callout.token, 500, &json!({}));
        }
    }
    assert_eq!(asked, 5, "every two seconds");
    let kinds = json!({"kinds": [{"x402Version": 2, "scheme": "upto", "network": "eip155:84532"}]});
    let mut asked = 0;
    for _ in 0..1300 {
        envoy.tick(ROOT);
        for callout in envoy.callouts() {
            asked += 1;
            envoy.answer(callout.token, 200, &kinds);
        }
    }
    assert_eq!(asked, 3, "every ten minutes");
    assert_eq!(envoy.contexts.callouts(), 0);
}
