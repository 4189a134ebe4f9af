//! Bodies and trailers, in every order and split.

use super::fake_envoy::{FakeEnvoy, Piece, ROOT};
use super::purchase::{Delivery, Purchase, Scene, json_by_use, stream_by_use, upload};
use crate::common::NOW;

/// A body in pieces, cut at these places, with each way to end.
fn splits(body: &[u8], cuts: &[usize]) -> Vec<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    for cut in cuts {
        pieces.push(Piece::Data(body[begin..*cut].to_vec(), false));
        begin = *cut;
    }
    let last = |is_last| Piece::Data(body[begin..].to_vec(), is_last);
    let ends = [
        vec![last(true)],
        vec![last(false), Piece::Data(Vec::new(), true)],
        vec![last(false), Piece::Trailers],
        vec![Piece::Data(Vec::new(), false), last(false), Piece::Data(Vec::new(), false), Piece::Trailers],
    ];
    ends.into_iter().map(|end| pieces.iter().cloned().chain(end).collect()).collect()
}

/// Every split into one, two and three pieces, in steps of some bytes.
fn all_splits(body: &[u8]) -> Vec<Vec<Piece>> {
    let mut all = splits(body, &[]);
    for cut in (0..=body.len()).step_by(7) {
        all.extend(splits(body, &[cut]));
        all.extend(splits(body, &[cut.min(body.len() / 2), body.len() / 2]));
    }
    all
}

fn buy(purchase: &Purchase, is_client_slow: bool) -> (Scene, Vec<u8>, Vec<u8>) {
    let mut scene = Scene::new(purchase);
    let payment = scene.payment(1);
    scene.is_client_slow = is_client_slow;
    let mut run = scene.begin(Some(&payment));
    let mut sent = Vec::new();
    while scene.advance(&mut run) {
        sent = scene.envoy.at_upstream(run.id).map_or(sent, |(_, body)| body);
    }
    assert_eq!(scene.delivery(&run), Delivery::All, "{:?}", scene.envoy.outcomes());
    let client = scene.envoy.client(run.id).unwrap();
    assert_eq!(scene.facilitator.settled.len(), 1);
    scene.drain(&run);
    (scene, sent, client.body)
}

#[test]
fn a_request_may_come_in_any_pieces() {
    for purchase in [upload("after"), upload("before"), upload("concurrent"), json_by_use(), stream_by_use()] {
        let (body, response) = (purchase.request_body(), purchase.response_body());
        let mut charge = None;
        for pieces in all_splits(&body) {
            for is_client_slow in [false, true] {
                let purchase = purchase.clone().with_bodies(pieces.clone(), vec![Piece::Data(response.clone(), true)]);
                let (scene, sent, _) = buy(&purchase, is_client_slow);
                if purchase.is_stream() {
                    assert!(String::from_utf8(sent).unwrap().contains("include_usage"), "{pieces:?}");
                } else {
                    assert_eq!(sent, body, "{pieces:?}");
                }
                let revenue = scene.envoy.metrics("x402_revenue");
                assert_eq!(*charge.get_or_insert(revenue), revenue, "{pieces:?}: the charge is the same");
            }
        }
    }
}

#[test]
fn a_response_may_come_in_any_pieces() {
    for purchase in [upload("after"), json_by_use(), stream_by_use()] {
        let (request, body) = (purchase.request_body(), purchase.response_body());
        let mut first = None;
        for pieces in all_splits(&body) {
            let purchase = purchase.clone().with_bodies(vec![Piece::Data(request.clone(), true)], pieces.clone());
            let (scene, _, got) = buy(&purchase, false);
            let revenue = scene.envoy.metrics("x402_revenue");
            // Of a stream the client does not get the usage that it did not ask for.
            let got = String::from_utf8(got).unwrap();
            let got = got.split(": payment-response").next().unwrap().to_owned();
            assert!(purchase.is_stream() || got.as_bytes() == body, "{pieces:?}: {got}");
            let first = first.get_or_insert_with(|| (revenue, got.clone()));
            assert_eq!(*first, (revenue, got), "{pieces:?}");
        }
    }
}

#[test]
fn trailers_without_a_body_are_an_empty_body() {
    for (purchase, status) in [(json_by_use(), 400), (upload("after"), 200)] {
        let mut scene = Scene::new(&purchase);
        let payment = scene.payment(1);
        for request in [vec![Piece::Trailers], vec![Piece::Data(Vec::new(), true)], Vec::new()] {
            let response = vec![Piece::Data(purchase.response_body(), true)];
            scene.purchase = purchase.clone().with_bodies(request, response);
            let run = scene.play(&payment);
            // The payment is spent by the first where that is served.
            let expected =
                if scene.facilitator.settled.is_empty() || scene.envoy.status(run.id) == 200 { status } else { 402 };
            assert_eq!(scene.envoy.status(run.id), expected, "{}", purchase.name);
            scene.drain(&run);
        }
    }
    // A response without one is charged as far as its rule goes, and goes out as it is.
    for purchase in [json_by_use(), stream_by_use()] {
        for response in [vec![Piece::Trailers], vec![Piece::Data(Vec::new(), true)], Vec::new()] {
            let request = vec![Piece::Data(purchase.request_body(), true)];
            let purchase = purchase.clone().with_bodies(request, response);
            let mut scene = Scene::new(&purchase);
            let payment = scene.payment(1);
            let run = scene.play(&payment);
            assert!(scene.envoy.client(run.id).is_some(), "{}: the client has an answer", purchase.name);
            scene.drain(&run);
            assert!(scene.facilitator.settled.len() <= 1);
        }
    }
}

#[test]
fn nothing_of_an_unpaid_body_reaches_the_upstream() {
    for purchase in [upload("after"), json_by_use()] {
        for pieces in all_splits(&purchase.request_body()) {
            let purchase = purchase.clone().with_bodies(pieces, Vec::new());
            let mut scene = Scene::new(&purchase);
            let mut run = scene.begin(None);
            while scene.advance(&mut run) {
                assert_eq!(scene.envoy.at_upstream(run.id), None);
            }
            assert_eq!(scene.envoy.status(run.id), 402);
            scene.drain(&run);
        }
    }
}

#[test]
fn a_body_that_is_too_long_is_refused_before_its_end() {
    let purchase = json_by_use();
    let pieces = vec![Piece::Data(vec![b' '; 1024 * 1024], false), Piece::Data(vec![b' '; 1], false)];
    let mut scene = Scene::new(&purchase.with_bodies(pieces, Vec::new()));
    let run = scene.play("e30=");
    assert_eq!(scene.envoy.status(run.id), 413);
    scene.drain(&run);
}

#[test]
fn a_host_that_hides_bodies_is_found_out() {
    let purchase = json_by_use();
    let mut scene = Scene::new(&purchase);
    scene.envoy.hide_held_bodies();
    let mut run = scene.begin(None);
    scene.envoy.tick(ROOT);
    assert_eq!(scene.envoy.status(run.id), 0, "nothing has come yet");
    while scene.advance(&mut run) {}
    scene.envoy.tick(ROOT);
    assert_eq!(scene.envoy.status(run.id), 503);
    assert!(scene.envoy.has_logged("allow_on_headers_stop_iteration"));
    scene.drain(&run);
}

#[test]
fn a_client_that_leaves_in_its_body_leaves_nothing_behind() {
    let purchase = json_by_use();
    let mut envoy = FakeEnvoy::new(&purchase.config, NOW);
    for _ in 0..100 {
        let head = [(":method", "POST"), (":authority", "api.example.com"), (":path", "/chat")];
        let id = envoy.request(ROOT, &head, true);
        envoy.request_piece(id, Piece::Data(b"{".to_vec(), false));
        assert_eq!(envoy.contexts.streams(), 1);
        envoy.leave(id);
        assert_eq!(envoy.contexts.streams(), 0);
    }
}
