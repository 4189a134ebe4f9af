//! What the shell tells the exchange.

use super::{Flushed, Headers};
use crate::channel;
use crate::facilitator::CalloutAnswer;
use crate::ledger::{Answer, exposure};

/// Something that happens to a request after its head came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The ledger has carried out [`super::Effects::ledger`].
    Ledger(Answer),
    /// The ledger has carried out [`super::Effects::channel`].
    Channel(channel::Answer),
    /// The answer to [`super::Effects::flush`]; `None` where nobody can be told.
    Flushed(Option<Flushed>),
    /// The ledger has carried out [`super::Effects::exposure`].
    Exposure(exposure::Answer),
    /// The callout of [`super::Effects::call`] is over.
    Callout(CalloutAnswer),
    /// The head of the upstream's response, or of the proxy's own where the upstream failed.
    Upstream(UpstreamHead),
    /// The request's body, for [`super::Stream::Read`].
    RequestBody(Body),
    /// The response's body, for [`super::Stream::Read`].
    ResponseBody(Body),
    /// A piece of the response's body, for a state that [`super::Exchange::reads_chunks`].
    ResponseChunk {
        /// Its bytes.
        bytes: Vec<u8>,
        /// True if the body ends with it.
        is_last: bool,
    },
    /// Time has passed. For a state that waits for nothing else; see [`super::Exchange::wakes_at`].
    Tick,
    /// The request is over, whatever state it was in: answered, or its client gone.
    Ended,
    /// The proxy follows a redirect of the upstream by itself: the request is over as such, and begins anew.
    Redirected,
}

/// A body that was to be read whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// It is longer than it may be.
    TooLong,
    /// The host keeps bodies to itself while a head is held.
    Unreachable,
}

/// The head of the upstream's response, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamHead {
    /// HTTP status.
    pub status: u16,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// True if it is the head of a gRPC response that failed without a message: `grpc-status` is there, and not 0.
    pub grpc_failed: bool,
    /// Its headers for browsers about requests of other origins: `access-control-…`, `vary` and `allow`.
    pub cors: Vec<(String, String)>,
    /// True if a body follows.
    pub has_body: bool,
    /// True if it is called a stream: of events (`text/event-stream`), or of lines of JSON.
    pub is_event_stream: bool,
    /// True if its body is compressed, or encoded in another way.
    pub is_encoded: bool,
    /// `Settlement-Overrides`: what the upstream says of the charge.
    pub settlement_overrides: Option<String>,
}

impl UpstreamHead {
    /// Reads the head of a response, behind which a body comes or not.
    pub fn read(headers: &Headers<'_>, has_body: bool) -> Self {
        let directives: Vec<_> = headers.all("cache-control").map(String::from_utf8_lossy).collect();
        Self {
            // A response without a readable status is none that anybody should pay for.
            status: headers.text(":status").parse().unwrap_or(502),
            cache_control: (!directives.is_empty()).then(|| directives.join(",")),
            grpc_failed: headers.all("grpc-status").any(|status| status != b"0"),
            cors: headers.cors(),
            has_body,
            is_event_stream: is_event_stream(&headers.text("content-type")),
            is_encoded: headers.all("content-encoding").any(is_encoding),
            settlement_overrides: headers
                .all(SETTLEMENT_OVERRIDES)
                .next()
                .map(|_| headers.text(SETTLEMENT_OVERRIDES).into_owned()),
        }
    }

    /// Returns whether the upstream failed, and owes nothing.
    pub(super) const fn is_error(&self) -> bool {
        self.status >= 400 || self.grpc_failed
    }

    /// Returns whether the upstream itself keeps shared caches away.
    pub(super) fn forbids_sharing(&self) -> bool {
        let directives = self.cache_control.as_deref().unwrap_or_default();
        directives.split(',').any(|directive| {
            let directive = directive.trim();
            directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("private")
        })
    }
}

/// The header by which the upstream may name the charge; not for clients.
pub(super) const SETTLEMENT_OVERRIDES: &str = "settlement-overrides";

/// Returns whether a media type is that of server-sent events or of lines of JSON, with whatever parameters.
#[inline(never)]
fn is_event_stream(content_type: &str) -> bool {
    const STREAMS: [&str; 8] = [
        "text/event-stream",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonl",
        "application/jsonlines",
        "application/stream+json",
        "application/json-seq",
    ];
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    STREAMS.iter().any(|stream| kind.eq_ignore_ascii_case(stream))
}

/// Returns whether a response's `Content-Encoding` says that its body is not as it is. Some upstreams write there what means
/// nothing.
#[inline(never)]
fn is_encoding(value: &[u8]) -> bool {
    const NOTHING: [&[u8]; 7] = [b"", b"none", b"identity", b"utf-8", b"utf8", b"binary", b"null"];
    let means_nothing = |name: &[u8]| NOTHING.iter().any(|nothing| name.trim_ascii().eq_ignore_ascii_case(nothing));
    !value.split(|byte| *byte == b',').all(means_nothing)
}

/// The filter's own earlier doings about a request whose head it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Nothing.
    #[default]
    Never,
    /// Another instance of the filter in the same chain has just let it through, for a route that is not free.
    Here,
    /// The filter has let it through for this route, and the proxy has begun it anew by itself: an internal redirect.
    Before(String),
}
