//! Changes to the heads and bodies of a stream, and answers in the upstream's place.

use super::host::{Half, Host, HostError, Map};
use super::properties;
use crate::exchange::{Reply, RequestEdits, ResponseEdits, Tail};

/// Headers that let a script of another origin read an answer (`RequestHead::admission`).
pub(super) type CorsHeaders = Vec<(&'static str, String)>;

/// Makes the head of a request ready for the upstream.
pub(super) fn forward(host: &impl Host, edits: &RequestEdits) -> Result<(), HostError> {
    properties::note_passage(host, edits);
    for name in &edits.remove {
        host.remove_header(Map::Request, name)?;
    }
    edits.set.iter().try_for_each(|(name, value)| host.set_header(Map::Request, name, value))
}

/// Makes the head of a response ready for the client.
pub(super) fn deliver(host: &impl Host, edits: &ResponseEdits, cors: &CorsHeaders) -> Result<(), HostError> {
    let map = Map::Response;
    edits.remove.iter().try_for_each(|name| host.remove_header(map, name))?;
    edits.set.iter().try_for_each(|(name, value)| host.set_header(map, name, value))?;
    edits.add.iter().try_for_each(|(name, value)| host.add_header(map, name, value))?;
    cors.iter().try_for_each(|(name, value)| match *name {
        "vary" => host.add_header(map, name, value),
        _ => host.set_header(map, name, value),
    })
}

/// Answers the client in the upstream's place.
pub(super) fn reply(host: &impl Host, reply: &Reply, cors: &CorsHeaders) -> Result<(), HostError> {
    let own = reply.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str()));
    let cors = cors.iter().map(|(name, value)| (*name, value.as_str()));
    let is_new = |name: &str| name == "vary" || reply.headers.iter().all(|(own, _)| own != name);
    let headers: Vec<_> = own.chain(cors.filter(|(name, _)| is_new(name))).collect();
    host.send_reply(reply.status, "x402", &headers, &reply.body)
}

/// Answers the client that the host does not do what it must.
pub(super) fn reply_host_error(host: &impl Host) -> Result<(), HostError> {
    host.send_reply(503, "x402_host_error", &[("retry-after", "1")], "")
}

/// Puts another body than the client's in its place. Its head is still held.
pub(super) fn rewrite_request(host: &impl Host, body: &[u8]) -> Result<(), HostError> {
    host.replace_body(Half::Request, body)?;
    host.set_header(Map::Request, "content-length", &body.len().to_string())
}

/// Puts the end behind a response. What does not find its place any more (there are trailers already, or there cannot be
/// any) is no reason to fail it.
pub(super) fn finish(host: &impl Host, tail: &Tail, is_plain: bool) {
    if !is_plain {
        let _ = host.append_to_body(Half::Response, tail.comment.as_bytes());
    }
    for (name, value) in &tail.trailers {
        let _ = host.add_header(Map::ResponseTrailers, name, value);
    }
}

/// Answers the client that the filter has no configuration.
pub(super) fn reply_no_configuration(host: &impl Host) -> Result<(), HostError> {
    host.send_reply(503, "x402_no_configuration", &[], "")
}
