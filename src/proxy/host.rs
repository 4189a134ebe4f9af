//! The host as the shell sees it: the calls of the proxy-wasm ABI (0.2.1), of which none panics.

use std::time::Duration;

use super::pairs::Pair;
use crate::time::UnixTime;

/// A proxy that runs the filter. Calls act on the stream, or the root context, whose callback is under way, or that
/// [`Host::act_on`] has named.
///
/// A handle: a copy of it acts on the same proxy.
#[allow(clippy::missing_errors_doc, reason = "each call may fail, and HostError says which did")]
pub trait Host: Clone {
    /// Writes a line to the host's log. A log that does not take it is no reason to fail.
    fn log(&self, level: LogLevel, message: &str);

    /// Returns whether the host writes messages of a level; `true` where it does not say.
    fn logs(&self, level: LogLevel) -> bool;

    /// Returns nanoseconds since the epoch, as this callback first heard them: callbacks take no time to speak of.
    fn now(&self) -> Result<u64, HostError>;

    /// Returns the same in seconds.
    fn unix_time(&self) -> Result<UnixTime, HostError> {
        self.now().map(to_unix_time)
    }

    /// Returns nanoseconds since the epoch, at this very moment.
    fn read_clock(&self) -> Result<u64, HostError>;

    /// Returns bytes that nobody can guess.
    fn random(&self) -> Result<[u8; 32], HostError>;

    /// Reads a variable of the environment that the host gives to the plugin; `None` where it has none of the name.
    fn variable(&self, name: &str) -> Result<Option<String>, HostError>;

    /// Reads all headers of a map, in order; none where there is no such map. They are not kept: a client may send
    /// thousands.
    fn headers<T>(&self, map: Map, read: impl FnOnce(Vec<Pair<'_>>) -> T) -> Result<T, HostError>;

    /// Removes every header of a name.
    fn remove_header(&self, map: Map, name: &str) -> Result<(), HostError>;

    /// Puts one header in the place of all of its name.
    fn set_header(&self, map: Map, name: &str, value: &str) -> Result<(), HostError>;

    /// Adds a header beside those of its name.
    fn add_header(&self, map: Map, name: &str, value: &str) -> Result<(), HostError>;

    /// Reads what is there of a buffer, at most `max_length` bytes of it; nothing where there is no such buffer.
    fn buffer(&self, buffer: Buffer, max_length: usize) -> Result<Vec<u8>, HostError> {
        self.buffer_from(buffer, 0, max_length)
    }

    /// Reads the same from `start` on, of which something has to be there.
    fn buffer_from(&self, buffer: Buffer, start: usize, max_length: usize) -> Result<Vec<u8>, HostError>;

    /// Puts other bytes in the place of what is there of a body.
    fn replace_body(&self, half: Half, bytes: &[u8]) -> Result<(), HostError>;

    /// Puts bytes behind what is there of a body.
    fn append_to_body(&self, half: Half, bytes: &[u8]) -> Result<(), HostError>;

    /// Answers the client in the upstream's place. `details` show as the response code details in access logs.
    fn send_reply(&self, status: u16, details: &str, headers: &[(&str, &str)], body: &str) -> Result<(), HostError>;

    /// Lets a request or a response go on.
    fn resume(&self, half: Half) -> Result<(), HostError>;

    /// Breaks the stream off.
    fn close(&self, half: Half) -> Result<(), HostError>;

    /// Makes the calls that follow act on the stream `context_id`, from a callback that came for another context. An
    /// error where there is no such stream any more.
    fn act_on(&self, context_id: u32) -> Result<(), HostError>;

    /// Reads a value of the shared data and its version; `None` where the key is absent.
    fn shared_data(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError>;

    /// Writes a value of the shared data if it still has the version `expected` (`None`: if it is absent). `false` where
    /// it has not.
    fn set_shared_data(&self, key: &str, value: &[u8], expected: Option<u32>) -> Result<bool, HostError>;

    /// Reads a property of the stream; `None` where it has none of this path.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError>;

    /// Sets a property of the stream: Envoy shows it as the filter state `wasm.<name>`.
    fn set_property(&self, name: &str, value: &str) -> Result<(), HostError>;

    /// Declares how long a property lasts, before it is first set; left to itself, Envoy keeps one as long as the stream's
    /// filters.
    fn declare_property(&self, name: &str, lifespan: Lifespan) -> Result<(), HostError>;

    /// Asks the host for a tick of this root context at this interval.
    fn set_tick_period(&self, period: Duration) -> Result<(), HostError>;

    /// Sends a callout; its answer is marked with the token given back.
    fn dispatch(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<u32, HostError>;

    /// Adds to a counter or a gauge, which is made where there is none of its name.
    fn add_metric(&self, kind: MetricKind, name: &str, by: i64) -> Result<(), HostError>;

    /// Sets a gauge, which is made where there is none of its name.
    fn set_gauge(&self, name: &str, value: u64) -> Result<(), HostError>;

    /// Adds a value to a histogram, which is made where there is none of its name.
    fn record_metric(&self, name: &str, value: u64) -> Result<(), HostError>;
}

/// Returns the second of a time in nanoseconds since the epoch.
pub(super) fn to_unix_time(nanoseconds: u64) -> UnixTime {
    const NANOSECONDS: u64 = 1_000_000_000;
    UnixTime::from_secs(nanoseconds.checked_div(NANOSECONDS).unwrap_or_default())
}

/// A list of headers that the host keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Map {
    /// The head of the request.
    Request,
    /// The head of the response.
    Response,
    /// The trailers of the response.
    ResponseTrailers,
    /// The head of the answer to a callout.
    CalloutAnswer,
    /// The trailers of the answer to a callout.
    CalloutTrailers,
}

/// Bytes that the host keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Buffer {
    /// The body of a half of the stream, as far as it is there.
    Body(Half),
    /// The body of the answer to a callout.
    CalloutAnswer,
    /// The plugin's configuration.
    PluginConfiguration,
}

/// A half of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// From the client to the upstream.
    Request,
    /// From the upstream to the client.
    Response,
}

/// A verdict on a head, for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The head goes on.
    Continue,
    /// The head waits, and nothing behind it is asked for: back pressure holds the body where it comes from.
    Hold,
    /// The head waits, and the body is wanted. A host that does not let a filter have it while the head waits takes this
    /// for `Hold`.
    Collect,
}

/// A verdict on a piece of a body or on trailers, for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataVerdict {
    /// It goes on, with what waits before it.
    Continue,
    /// It waits, and is kept.
    Buffer,
}

/// A kind of metric to which something is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only ever grows.
    Counter,
    /// Grows and shrinks.
    Gauge,
}

/// How urgent a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the levels are everybody's")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

/// How long a property lasts that the filter sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifespan {
    /// As long as the client's request, also where the proxy begins it anew by itself (an internal redirect).
    Request,
}

/// A host call that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host call {call} failed with status {status}")]
pub struct HostError {
    /// The call, without its prefix `proxy_`.
    pub call: &'static str,
    /// The number of the host's status (`WasmResult` of the ABI).
    pub status: u32,
}
