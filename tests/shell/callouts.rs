//! Answers of callouts: that fail, that come when nobody waits for them, and more than once.

use serde_json::json;

use super::fake_envoy::{Headers, ROOT};
use super::purchase::{Delivery, Purchase, Scene, json_by_use, ok, purchases, weather};
use crate::common::TRANSACTION;

/// An answer that would please anybody.
fn yes() -> Vec<u8> {
    let yes = json!({"isValid": true, "success": true, "transaction": TRANSACTION, "network": "eip155:84532"});
    yes.to_string().into_bytes()
}

fn status(status: u16) -> Headers {
    vec![(":status".to_owned(), status.to_string())]
}

#[test]
fn an_answer_that_nobody_asked_for_changes_nothing() {
    const UNKNOWN: u32 = 999_999;
    for purchase in purchases() {
        let mut scene = Scene::new(&purchase);
        let payment = scene.payment(1);
        let mut run = scene.begin(Some(&payment));
        let mut answered = vec![UNKNOWN];
        loop {
            let waiting: Vec<u32> = scene.envoy.callouts().iter().map(|callout| callout.token).collect();
            let (before, moved) = (scene.envoy.client(run.id), scene.facilitator.settled.len());
            for token in &answered {
                for (headers, body) in [(ok(), yes()), (ok(), b"{}".to_vec()), (Vec::new(), Vec::new())] {
                    scene.envoy.call_back(ROOT, *token, headers, body);
                }
            }
            let now = (scene.envoy.client(run.id), scene.facilitator.settled.len());
            assert_eq!(now, (before, moved), "{}", purchase.name);
            assert_eq!(scene.envoy.callouts().len(), waiting.len(), "{}: nothing is asked for it", purchase.name);
            if !scene.advance(&mut run) {
                break;
            }
            answered.extend(
                waiting
                    .into_iter()
                    .filter(|token| scene.envoy.callouts().iter().all(|callout| callout.token != *token)),
            );
        }
        assert!(answered.len() > 1, "{}: something was asked", purchase.name);
        assert_eq!(scene.delivery(&run), Delivery::All, "{}", purchase.name);
        assert_eq!(scene.facilitator.settled.len(), 1);
        scene.drain(&run);
    }
}

/// Plays a purchase of which one callout, the `n`th, is answered in this way; `None` where there are not so many.
fn with_bad_answer(purchase: &Purchase, n: usize, headers: &Headers, body: &[u8]) -> Option<(Scene, String, u16)> {
    let mut scene = Scene::new(purchase);
    let payment = scene.payment(1);
    let mut run = scene.begin(Some(&payment));
    let mut answers = 0;
    let mut seen = 0;
    loop {
        let token = scene.envoy.callouts().first().map(|callout| callout.token);
        if let Some(token) = token.filter(|token| *token != seen) {
            seen = token;
            answers += 1;
            if answers == n + 1 {
                scene.envoy.answer_with(token, headers.clone(), body.to_vec());
                continue;
            }
        }
        if !scene.advance(&mut run) {
            break;
        }
    }
    let status = scene.envoy.status(run.id);
    scene.drain(&run);
    let is_paid = !scene.facilitator.settled.is_empty();
    assert!(is_paid || scene.delivery(&run) == Delivery::Nothing, "{}: nothing is delivered unpaid", purchase.name);
    (answers > n).then_some((scene, payment, status))
}

#[test]
fn an_answer_that_fails_leaves_the_payment_good() {
    let long = [b"{\"isValid\": true, \"success\": true, \"x\": \"".as_slice(), &[b'x'; 2_000_000], b"\"}"].concat();
    let answers: [(Headers, &[u8]); 6] = [
        (Vec::new(), b""),
        (status(503), b"no healthy upstream"),
        (status(504), b""),
        (ok(), b"not JSON"),
        (ok(), &long),
        (vec![("x".to_owned(), "y".to_owned())], b"{}"),
    ];
    for purchase in purchases() {
        for (headers, body) in &answers {
            for n in 0.. {
                let Some((mut scene, payment, status)) = with_bad_answer(&purchase, n, headers, body) else { break };
                let what = format!("{}, answer {n}: {headers:?}", purchase.name);
                assert!(matches!(status, 200 | 502 | 504), "{what}: {status}");
                let again = scene.play(&payment);
                let is_bought = scene.delivery(&again) == Delivery::All;
                assert_eq!(is_bought, status != 200, "{what}: {:?}", scene.envoy.outcomes());
                assert_eq!(scene.facilitator.settled.len(), 1, "{what}");
                assert!(scene.envoy.most_of_an_answer() <= 64 * 1024 + 1, "{what}: no more is read than needed");
            }
        }
    }
}

#[test]
fn no_more_is_read_of_an_answer_than_its_kind_may_have() {
    for purchase in [weather("after", "after", "remote"), json_by_use()] {
        let mut scene = Scene::new(&purchase);
        let payment = scene.payment(1);
        let mut run = scene.begin(Some(&payment));
        while scene.envoy.callouts().is_empty() {
            assert!(scene.advance(&mut run));
        }
        let token = scene.envoy.callout().token;
        scene.envoy.answer_with(token, ok(), vec![b' '; 3 * 1024 * 1024]);
        assert_eq!(scene.envoy.most_of_an_answer(), 64 * 1024 + 1);
        assert_eq!(scene.envoy.status(run.id), 502);
    }
}
