//! What a request asks of the host that is decided at first sight: each call costs a crossing out of V8.

use super::fake_envoy::Faults;
use super::purchase::{Scene, weather};

/// The calls of the host, from the head of a request to the end of its stream.
fn calls_of(scene: &mut Scene, path: &str) -> Vec<&'static str> {
    scene.envoy.fail(Faults::None);
    let head = [(":method", "GET"), (":authority", "api.example.com"), (":path", path)];
    let id = scene.envoy.request(scene.root, &head, false);
    if scene.envoy.at_upstream(id).is_some() {
        scene.envoy.respond(id, &[(":status", "200")], false);
    }
    scene.envoy.leave(id);
    scene.envoy.calls()
}

fn scene() -> Scene {
    let mut purchase = weather("weather", "after", "local");
    purchase.config["unmatched"] = "free".into();
    Scene::new(&purchase)
}

#[test]
fn a_free_request_has_its_head_read_and_nothing_else() {
    assert_eq!(calls_of(&mut scene(), "/free"), ["get_header_map_pairs"]);
}

#[test]
fn an_unpaid_request_has_its_head_read_and_is_counted_noted_and_answered() {
    let notes = ["set_property"; 3];
    // The name of the request is for the log, which is written at each level here.
    let expected = ["get_header_map_pairs", "increment_metric"].into_iter().chain(notes);
    let expected: Vec<_> = expected.chain(["get_property", "send_local_response"]).collect();
    assert_eq!(calls_of(&mut scene(), "/weather"), expected);
}
