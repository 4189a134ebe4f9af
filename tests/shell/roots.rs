//! Root contexts: several of one worker, those that are deleted, and their ticks.

use serde_json::{Value, json};

use super::fake_envoy::{FakeEnvoy, Faults, ROOT};
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
    assert!(scene.envoy.callouts().is_empty(), "it knows what the first has heard");
    scene.envoy.wait(MOST_STEADY_SECONDS);
    scene.envoy.tick(other);
    scene.envoy.tick(ROOT);
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

/// The most seconds from a good answer to the next question.
const MOST_STEADY_SECONDS: u64 = 660;

/// The most seconds from a bad answer to the next question, and a tick.
const MOST_PAUSE_SECONDS: u32 = 81;

#[test]
fn ticks_ask_the_facilitator_again_until_it_answers_and_then_seldom() {
    let purchase = super::purchase::json_by_use();
    let mut envoy = FakeEnvoy::new(&purchase.config, crate::common::NOW);
    let other = envoy.add_root(&purchase.config).expect("the configuration is good");
    let mut failing = |seconds: u32| {
        let mut asked = 0;
        for second in 0..seconds {
            // Of two workers, one asks for both.
            envoy.tick(if second % 2 == 0 { ROOT } else { other });
            for callout in envoy.callouts() {
                asked += 1;
                envoy.answer(callout.token, 500, &json!({}));
            }
        }
        asked
    };
    let (first, later) = (failing(10), failing(600));
    assert!((2..=4).contains(&first), "{first}: at first every two to eight seconds");
    assert!((7..=20).contains(&later), "{later}: at last every 40 to 80");
    let kinds = json!({"kinds": [{"x402Version": 2, "scheme": "upto", "network": "eip155:84532"}]});
    let mut asked = 0;
    for second in 0..1300 {
        envoy.tick(if second % 2 == 0 { ROOT } else { other });
        for callout in envoy.callouts() {
            asked += 1;
            envoy.answer(callout.token, 200, &kinds);
        }
    }
    assert!((2..=3).contains(&asked), "{asked}: every nine to eleven minutes");
    assert_eq!(envoy.contexts.callouts(), 0);
}

/// A configuration whose facilitator is taken for failing after two calls, and whose nodes are asked for their chain.
fn watched() -> Value {
    let mut config = weather("after", "after", "remote").config;
    config["facilitator"]["max_failures"] = 2.into();
    config["facilitator"]["url"] = "http://facilitator/v3/0123456789abcdefABCDEF".into();
    config["rpc"] = json!({"base-sepolia": {"cluster": "node", "url": "http://node/v3/0123456789abcdefABCDEF"}});
    config
}

/// Ticks for so many seconds; every callout is answered so.
fn tick(envoy: &mut FakeEnvoy, root: u32, seconds: u32, status: u16, body: &[u8]) {
    for _ in 0..seconds {
        envoy.tick(root);
        for callout in envoy.callouts() {
            envoy.answer_with(callout.token, vec![(":status".to_owned(), status.to_string())], body.to_vec());
        }
    }
}

#[test]
fn a_facilitator_that_fails_is_counted_for_as_long_as_its_configuration_lives() {
    let gauge = |envoy: &FakeEnvoy| envoy.metric("facilitator=.=facilitator;.;x402_facilitators_failing");
    let mut envoy = FakeEnvoy::new(&watched(), crate::common::NOW);
    tick(&mut envoy, ROOT, 1300, 503, b"{}");
    assert_eq!(gauge(&envoy), 1);
    let other = envoy.add_root(&watched()).expect("the configuration is good");
    envoy.delete_root(ROOT);
    assert_eq!(gauge(&envoy), 0, "nobody speaks of it any more");
    tick(&mut envoy, other, 1300, 503, b"{}");
    assert_eq!(gauge(&envoy), 1);
    tick(&mut envoy, other, MOST_PAUSE_SECONDS, 200, br#"{"kinds": []}"#);
    assert_eq!(gauge(&envoy), 0, "it answers again");
    envoy.delete_root(other);
    assert_eq!(gauge(&envoy), 0);
}

#[test]
fn what_facilitators_and_nodes_say_forges_no_line_of_the_log_and_shows_no_key() {
    let mut envoy = FakeEnvoy::new(&watched(), crate::common::NOW);
    let said = b"no\r\n[critical] x402: outcome=served\x1b[2J POST /v3/0123456789abcdefABCDEF";
    tick(&mut envoy, ROOT, 3, 404, said);
    assert!(envoy.has_logged("/supported (cluster facilitator) answered 404: no\\u{d}\\u{a}[critical] x402"));
    assert!(
        envoy.has_logged("which chain it is of: http://node (cluster node) answered 404: no\\u{d}\\u{a}[critical]")
    );
    for forged in ["\n", "\r", "\x1b", "0123456789abcdef"] {
        assert!(!envoy.has_logged(forged), "{forged:?}");
    }
}

#[test]
fn a_facilitator_that_is_late_is_introduced_once_it_answers() {
    let mut envoy = FakeEnvoy::new(&watched(), crate::common::NOW);
    tick(&mut envoy, ROOT, 1300, 503, b"{}");
    assert!(envoy.has_logged("does not say what it supports"));
    let kinds = br#"{"kinds": [{"x402Version": 2, "scheme": "exact", "network": "eip155:84532"}, 7]}"#;
    tick(&mut envoy, ROOT, MOST_PAUSE_SECONDS, 200, kinds);
    assert!(envoy.has_logged("answers (200), and supports exact on eip155:84532"));
    assert!(envoy.has_logged("an entry of kinds is left out"), "and what it does not understand of that");
}

/// A throwaway key of Coinbase's platform.
const CDP_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfqSmxj4pxSCr71UHsTLsX5lUd2rr6+e5JCHuppFEbSLA==";

/// A configuration whose facilitator wants a header and a token.
fn with_secrets() -> Value {
    let mut config = weather("secrets", "after", "remote").config;
    config["facilitator"]["headers"] = json!({"x-api-key": {"env": "FACILITATOR_KEY"}});
    config["facilitator"]["auth"] = json!({"cdp": {"key_id": "key-1", "key_secret": {"env": "CDP_API_KEY_SECRET"}}});
    config
}

/// What the facilitator is asked at the next tick, by the header `name`.
fn asked_with(envoy: &mut FakeEnvoy, root: u32, name: &str) -> Option<String> {
    envoy.tick(root);
    let callout = envoy.callouts().pop()?;
    let value = callout.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    envoy.answer(callout.token, 200, &json!({"kinds": []}));
    value
}

#[test]
fn a_variable_is_read_when_the_root_is_configured() {
    let purchase = weather("plain", "after", "remote");
    let mut envoy = Scene::new(&purchase).envoy;
    assert_eq!(envoy.add_root(&with_secrets()), None);
    assert!(envoy.has_logged("facilitator.headers.x-api-key: needs the environment variable FACILITATOR_KEY"));
    envoy.set_variable("FACILITATOR_KEY", "s3cr3t");
    assert_eq!(envoy.add_root(&with_secrets()), None);
    assert!(envoy.has_logged("facilitator.auth.cdp.key_secret: needs the environment variable CDP_API_KEY_SECRET"));
    envoy.set_variable("CDP_API_KEY_SECRET", CDP_KEY);
    envoy.fail(Faults::Named("environ_get"));
    assert_eq!(envoy.add_root(&with_secrets()), None, "a host without an environment has no variable");
    envoy.fail(Faults::None);
    let root = envoy.add_root(&with_secrets()).unwrap();
    assert_eq!(asked_with(&mut envoy, root, "x-api-key").as_deref(), Some("s3cr3t"));
    for secret in ["s3cr3t", &CDP_KEY[..8], "eyJ"] {
        assert!(!envoy.has_logged(secret));
    }
}

#[test]
fn a_token_is_signed_once_a_minute_for_each_call() {
    let purchase = weather("plain", "after", "remote");
    let mut envoy = Scene::new(&purchase).envoy;
    envoy.set_variable("FACILITATOR_KEY", "s3cr3t");
    envoy.set_variable("CDP_API_KEY_SECRET", CDP_KEY);
    let root = envoy.add_root(&with_secrets()).unwrap();
    let draws = |envoy: &FakeEnvoy| envoy.calls().iter().filter(|call| **call == "random_get").count();
    let before = draws(&envoy);
    let first = asked_with(&mut envoy, root, "authorization").unwrap();
    assert!(first.starts_with("Bearer eyJ") && first.split('.').count() == 3, "{first}");
    assert_eq!(draws(&envoy), before + 1);
    // It is asked again after about ten minutes.
    envoy.wait(MOST_STEADY_SECONDS);
    let later = asked_with(&mut envoy, root, "authorization").unwrap();
    assert_ne!(later, first);
    assert_eq!(draws(&envoy), before + 2);
    // Where nothing can be signed, nothing is asked.
    envoy.wait(MOST_STEADY_SECONDS);
    envoy.fail(Faults::Named("random_get"));
    envoy.tick(root);
    assert!(envoy.callouts().is_empty());
    assert!(envoy.has_logged("cannot be signed"));
}

#[test]
fn a_ledger_of_another_form_is_not_misread_and_not_forgotten() {
    let mut envoy = FakeEnvoy::new(&watched(), crate::common::NOW);
    assert!(envoy.add_root(&watched()).is_some(), "its own form it reads");
    envoy.set_shared("x402.form", "5");
    assert!(envoy.add_root(&watched()).is_none());
    assert!(
        envoy.has_logged("the configuration is refused: the proxy's shared data holds a ledger that another version")
    );
}

#[test]
fn plugins_that_share_a_ledger_without_having_been_told_to_are_named() {
    let other = || {
        let mut other = watched();
        other["defaults"]["max_timeout_seconds"] = json!(61);
        other
    };
    let mut envoy = FakeEnvoy::new(&watched(), crate::common::NOW);
    let mut load = |name: &str, vm_id: &str, config: &Value| {
        envoy.set_fact("plugin_name", name);
        envoy.set_fact("plugin_vm_id", vm_id);
        let lines = envoy.logged("share one ledger");
        assert!(envoy.add_root(config).is_some());
        envoy.logged("share one ledger") - lines
    };
    assert_eq!(load("a", "", &watched()), 0, "it is alone");
    assert_eq!(load("a", "", &other()), 0, "it has a new configuration");
    assert_eq!(load("b", "", &other()), 0, "another one with the same");
    assert_eq!(load("c", "own", &watched()), 0, "who has a vm_id was told to share it");
    assert_eq!(load("d", "", &watched()), 1, "another one with another");
    assert_eq!(load("d", "", &watched()), 0, "that it is loaded again is no news");
    assert!(envoy.has_logged(
        r#"the plugin "b" was loaded into this proxy with another configuration, and no vm_id parts it from "d""#
    ));
}

#[test]
fn a_waypoint_knows_callers_by_what_its_first_listener_left() {
    let mut config = watched();
    config["routes"][0]["free_for"] = json!({"principals": ["spiffe://cluster.local/ns/shop/*"]});
    for (left, is_free) in [
        ("spiffe://cluster.local/ns/shop/sa/web", true),
        ("spiffe://cluster.local/ns/bank/sa/web", false),
        ("spiffe://cluster.local/ns/shop/sa/web,spiffe://cluster.local/ns/bank/sa/web", false),
        ("", false),
    ] {
        let mut envoy = FakeEnvoy::new(&config, crate::common::NOW);
        envoy.set_fact("filter_state.io.istio.peer_principal", left);
        let request = [(":method", "GET"), (":authority", "api.example.com"), (":path", "/weather")];
        let id = envoy.request(ROOT, &request, false);
        assert_eq!(envoy.at_upstream(id).is_some(), is_free, "{left}");
        let claims = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web")];
        let id = envoy.request(ROOT, &[&request[..], &claims].concat(), false);
        assert_eq!(envoy.at_upstream(id).is_some(), is_free, "{left}, and what a client says");
    }
}

#[test]
fn whoever_waits_is_answered_before_the_filter_is_gone() {
    let purchase = weather("after", "after", "remote");
    let mut scene = Scene::new(&purchase);
    let payments = [scene.payment(1), scene.payment(2)];
    let waiting = payments.map(|payment| scene.begin(Some(&payment)));
    let passing =
        scene.envoy.request(scene.root, &[(":method", "GET"), (":authority", "a"), (":path", "/free")], false);
    scene.envoy.panic();
    for run in &waiting {
        assert_eq!(scene.envoy.status(run.id), 503);
    }
    assert!(scene.envoy.is_open(passing), "who does not wait for the filter is left alone");
}
