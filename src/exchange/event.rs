//! What the shell tells the exchange.

use crate::facilitator::CalloutAnswer;
use crate::ledger::Answer;

/// What may happen to a request after its head came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The ledger has carried out [`super::Effects::ledger`].
    Ledger(Answer),
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
        /// Whether the body ends with it.
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

/// What matters of the head of the upstream's response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamHead {
    /// HTTP status.
    pub status: u16,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// Whether it is the head of a gRPC response that failed without a message: `grpc-status` is there, and not 0.
    pub grpc_failed: bool,
    /// What it says to browsers about requests of other origins: `access-control-…`, `vary` and `allow`.
    pub cors: Vec<(String, String)>,
    /// Whether a body follows.
    pub has_body: bool,
    /// Whether it is a stream of events (`text/event-stream`).
    pub is_event_stream: bool,
    /// Whether its body is compressed, or encoded in another way.
    pub is_encoded: bool,
    /// `Settlement-Overrides`: what the upstream says of the charge.
    pub settlement_overrides: Option<String>,
}

/// What the filter has done about a request before it is shown its head.
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
