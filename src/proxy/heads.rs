//! Heads, read from the host.

use super::host::{Host, HostError, Map};
use super::properties;
use crate::config::Config;
use crate::exchange::{RequestHead, UpstreamHead};

/// Reads the head of a request, with what the proxy knows of it beside that.
pub(super) fn request(host: &impl Host, config: &Config, has_body: bool) -> Result<RequestHead, HostError> {
    let metadata = config.metadata.iter().filter_map(|key| {
        let path = ["metadata", "filter_metadata", key.namespace.as_str(), key.key.as_str()];
        Some((key.clone(), host.property(&path).ok()??))
    });
    let head = host.headers(Map::Request, |list| RequestHead::new(list))?.with_metadata(metadata).with_body(has_body);
    Ok(if config.needs_principals { head.with_principals(properties::principals(host)) } else { head })
}

/// Reads the head of an answer, whoever's it is.
#[inline(never)]
pub(super) fn answer(host: &impl Host, map: Map) -> Result<RequestHead, HostError> {
    host.headers(map, |list| RequestHead::of_response(list))
}

/// Reads what matters of the head of the upstream's response.
pub(super) fn upstream(host: &impl Host, has_body: bool) -> Result<UpstreamHead, HostError> {
    let head = answer(host, Map::Response)?;
    let directives: Vec<_> = head.all("cache-control").map(String::from_utf8_lossy).collect();
    Ok(UpstreamHead {
        // A response without a readable status is none that anybody should pay for.
        status: head.text(":status").parse().unwrap_or(502),
        cache_control: (!directives.is_empty()).then(|| directives.join(",")),
        grpc_failed: head.all("grpc-status").any(|status| status != b"0"),
        cors: head.cors(),
        has_body,
        is_event_stream: is_event_stream(&head.text("content-type")),
        is_encoded: head.is_encoded(),
        settlement_overrides: head.all("settlement-overrides").next().map(|_| head.text("settlement-overrides")),
    })
}

/// Whether a media type is that of server-sent events, with whatever parameters.
fn is_event_stream(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}
