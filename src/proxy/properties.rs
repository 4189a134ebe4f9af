//! Properties of a stream: facts that the host knows beside its heads and bodies, and notes of the filter.

use super::host::{Host, Lifespan};
use crate::exchange::{RequestEdits, Seen};

/// Under which the filter notes that it has let a request through: for the filters behind it, and for a stream that the proxy
/// begins anew ([`declare`]).
const PASSED_HERE: &str = "x402_passed_here";
const PASSED_BEFORE: &str = "x402_passed_before";

/// Tells the host how long each note lasts. A host that knows no such thing keeps both as long as the first, and then the
/// headers of a stream that is begun anew have to tell.
pub(super) fn declare(host: &impl Host) {
    let _ = host.declare_property(PASSED_BEFORE, Lifespan::Request);
}

/// Notes that the filter lets a request through, where that has to be known later.
pub(super) fn note_passage(host: &impl Host, edits: &RequestEdits) {
    if let Some(route) = &edits.passes_for {
        let _ = host.set_property(PASSED_HERE, route);
        let _ = host.set_property(PASSED_BEFORE, route);
    }
}

/// Returns whether the filter has let this request through before.
pub(super) fn seen(host: &impl Host) -> Seen {
    match (value(host, &[PASSED_HERE]), value(host, &[PASSED_BEFORE])) {
        (Some(_), _) => Seen::Here,
        (None, Some(route)) => Seen::Before(String::from_utf8_lossy(&route).into_owned()),
        (None, None) => Seen::Never,
    }
}

/// Returns whether the stream ends because the proxy follows a redirect by itself.
pub(super) fn is_redirected(host: &impl Host) -> bool {
    ends_for(host, b"internal_redirect")
}

/// Returns whether the stream ends because the proxy could not hold the response.
pub(super) fn is_response_too_large(host: &impl Host) -> bool {
    ends_for(host, b"response_payload_too_large")
}

fn ends_for(host: &impl Host, reason: &[u8]) -> bool {
    host.property(&["response", "code_details"]).is_ok_and(|details| details.as_deref() == Some(reason))
}

/// Returns the host's name of the request.
pub(super) fn request_id(host: &impl Host) -> Option<String> {
    let id = host.property(&["request", "id"]).ok()??;
    Some(String::from_utf8_lossy(&id).into_owned())
}

/// Returns the names that the caller's certificate is for, if it showed one that the proxy took. In a waypoint of Istio that
/// certificate was shown at another listener, which left its URIs in the filter state: no client writes there.
pub(super) fn principals(host: &impl Host) -> Vec<Vec<u8>> {
    let shown = ["uri_san_peer_certificate", "dns_san_peer_certificate"];
    let shown = shown.into_iter().filter_map(|name| value(host, &["connection", name]));
    // Several are joined by commas there, and then nobody knows where one ends.
    let left = value(host, &["filter_state", "io.istio.peer_principal"]).filter(|name| !name.contains(&b','));
    shown.chain(left).collect()
}

/// Returns the name under which the plugin was configured, where nothing parts its shared data from that of the proxy's other
/// plugins: the host has a name for it, and none for its VM.
pub(super) fn unparted_name(host: &impl Host) -> Option<String> {
    if value(host, &["plugin_vm_id"]).is_some() {
        return None;
    }
    value(host, &["plugin_name"]).map(|name| String::from_utf8_lossy(&name).into_owned())
}

/// Returns the bytes of the request that the host has received by now, the head included.
pub(super) fn received_bytes(host: &impl Host) -> Option<u64> {
    let bytes = host.property(&["request", "total_size"]).ok()??;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A property that says something.
fn value(host: &impl Host, path: &[&str]) -> Option<Vec<u8>> {
    host.property(path).ok().flatten().filter(|value| !value.is_empty())
}
