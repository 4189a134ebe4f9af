//! A filter written with the proxy-wasm SDK, for the faults that keep x402-proxy-wasm from it. With `empty` for its
//! configuration it lets everything pass; with `faults` the path of a request names the fault that it is to run into.
//! `tests/e2e/sdk.test.mjs` runs it in Envoy.
//!
//! It calls the SDK's `hostcalls`, which return a `Result`, and not the methods of contexts, which unwrap it: where it
//! panics, no filter's author could have avoided that by taking the other function.

use std::time::Duration;

use log::info;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MapType};

proxy_wasm::main! {{
    // This also makes the SDK write panics to the log.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// The fault that a request runs into, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The request's head is held until a callout is answered, and its body passes.
    HoldRequest,
    /// As `HoldRequest`, and the body is held too.
    HoldRequestAndBody,
    /// The response's head is held until a callout is answered, and its body passes.
    HoldResponse,
    /// As `HoldResponse`, and the body is held too.
    HoldResponseAndBody,
    /// One header of the request is read as text.
    ReadHeader,
    /// All headers of the request are read as text.
    ReadHeaders,
    /// The client is answered in the upstream's place.
    Reply,
}

impl Fault {
    fn at(path: &[u8]) -> Option<Self> {
        Some(match path {
            b"/hold-request" => Self::HoldRequest,
            b"/hold-request-and-body" => Self::HoldRequestAndBody,
            b"/hold-response" => Self::HoldResponse,
            b"/hold-response-and-body" => Self::HoldResponseAndBody,
            b"/read-header" => Self::ReadHeader,
            b"/read-headers" => Self::ReadHeaders,
            b"/reply" => Self::Reply,
            _ => return None,
        })
    }
}

/// Context of the plugin; it makes those of streams.
#[derive(Default)]
struct Root {
    has_faults: bool,
}

impl Context for Root {
    fn on_http_call_response(&mut self, _: u32, _: usize, _: usize, _: usize) {
        info!("sdk: the root context hears an answer");
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        self.has_faults = configuration == b"faults";
        self.has_faults || configuration == b"empty"
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { has_faults: self.has_faults, fault: None, is_held: false }))
    }
}

/// Context of one request and its response.
struct Stream {
    has_faults: bool,
    fault: Option<Fault>,
    /// Whether a head waits for the answer of a callout.
    is_held: bool,
}

impl Stream {
    /// Holds a head until the facilitator has answered. `Pause` is all that the SDK has for it.
    fn hold(&mut self) -> Action {
        let headers = vec![(":method", "GET"), (":path", "/held"), (":authority", "facilitator")];
        let sent = hostcalls::dispatch_http_call("facilitator", headers, None, Vec::new(), Duration::from_secs(20));
        self.is_held = sent.is_ok();
        if self.is_held { Action::Pause } else { Action::Continue }
    }

    /// What becomes of a body.
    fn on_body(&self, waits_with_its_head: Fault) -> Action {
        let waits = self.is_held && self.fault == Some(waits_with_its_head);
        if waits { Action::Pause } else { Action::Continue }
    }
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _: u32, count: usize, _: usize, _: usize) {
        info!("sdk: the stream hears an answer with {count} headers");
        let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status");
        info!("sdk: the status of the answer: {status:?}");
        self.is_held = false;
        let resumed = match self.fault {
            Some(Fault::HoldResponse | Fault::HoldResponseAndBody) => hostcalls::resume_http_response(),
            _ => hostcalls::resume_http_request(),
        };
        info!("sdk: resumed: {resumed:?}");
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        if !self.has_faults {
            return Action::Continue;
        }
        let path = hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, ":path");
        self.fault = path.ok().flatten().and_then(|path| Fault::at(&path));
        match self.fault {
            Some(Fault::HoldRequest | Fault::HoldRequestAndBody) => return self.hold(),
            Some(Fault::ReadHeader) => {
                let value = hostcalls::get_map_value(MapType::HttpRequestHeaders, "payment-signature");
                info!("sdk: the header: {value:?}");
            }
            Some(Fault::ReadHeaders) => {
                let headers = hostcalls::get_map(MapType::HttpRequestHeaders);
                info!("sdk: the headers: {headers:?}");
            }
            Some(Fault::Reply) => {
                let sent = hostcalls::send_http_response(402, Vec::new(), Some(b"sent by the SDK"));
                info!("sdk: the response: {sent:?}");
                return Action::Pause;
            }
            Some(Fault::HoldResponse | Fault::HoldResponseAndBody) | None => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, _: usize, _: bool) -> Action {
        self.on_body(Fault::HoldRequestAndBody)
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        match self.fault {
            Some(Fault::HoldResponse | Fault::HoldResponseAndBody) => self.hold(),
            _ => Action::Continue,
        }
    }

    fn on_http_response_body(&mut self, _: usize, _: bool) -> Action {
        self.on_body(Fault::HoldResponseAndBody)
    }
}

/// A callback beside those that the SDK exports: 4 is `StopAllIterationAndWatermark`.
#[cfg(feature = "own-callback")]
#[allow(unsafe_code, reason = "the host finds its callbacks by the names of exported functions")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(_: u32, _: usize, _: u32) -> u32 {
    4
}
