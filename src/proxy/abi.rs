//! The callbacks of the proxy-wasm ABI (0.2.1), as exported functions.
//!
//! Written here rather than taken from the SDK, for three reasons, each shown by `tests/e2e/sdk.test.mjs`. The SDK can hold a head only in a way by which Envoy, under
//! `allow_on_headers_stop_iteration`, buffers the body up to its limit and then fails the response. It drops the answer
//! of a callout whose client has gone, which may be that of a settlement. And its dispatcher panics where it is
//! surprised.
//!
//! Source: `abi-versions/v0.2.1` of the proxy-wasm specification.
#![allow(unsafe_code, reason = "the host finds its callbacks by the names of exported functions")]
#![allow(missing_docs, reason = "the callbacks are the specification's")]

use super::Contexts;
use super::host::{DataVerdict, Half, Host, LogLevel, Verdict};
use super::wasm_host::WasmHost;

thread_local! {
    static CONTEXTS: Contexts<WasmHost> = const { Contexts::new(WasmHost) };
}

/// Runs a callback.
fn on<T>(act: impl FnOnce(&Contexts<WasmHost>) -> T) -> T {
    WasmHost.enter();
    CONTEXTS.with(act)
}

impl Verdict {
    /// `FilterHeadersStatus` of the ABI: 0 is `Continue`, 1 `StopIteration`, 4 `StopAllIterationAndWatermark`.
    const fn to_abi(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::Collect => 1,
            Self::Hold => 4,
        }
    }
}

impl DataVerdict {
    /// `FilterDataStatus` and `FilterTrailersStatus` of the ABI: 0 is `Continue`, 1 `StopIterationAndBuffer`.
    const fn to_abi(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::Buffer => 1,
        }
    }
}

/// Tells the host which version of the ABI is spoken.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Gives the host memory for what it hands over; [`super::wasm_host`] takes it back.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut u8 {
    Box::into_raw(vec![0_u8; size].into_boxed_slice()).cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {
    std::panic::set_hook(Box::new(|panic| {
        WasmHost.log(LogLevel::Critical, &format!("x402: {panic}"));
        CONTEXTS.with(Contexts::on_panic);
    }));
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(_: u32, _: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(id: u32, root_id: u32) {
    on(|contexts| contexts.on_create(id, root_id));
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(id: u32, size: usize) -> u32 {
    on(|contexts| contexts.on_configure(id, size)).into()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(id: u32, _: usize, is_last: u32) -> u32 {
    on(|contexts| contexts.on_request_head(id, is_last == 0)).to_abi()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_body(id: u32, size: usize, is_last: u32) -> u32 {
    on(|contexts| contexts.on_body(id, Half::Request, size, is_last != 0)).to_abi()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_trailers(id: u32, _: usize) -> u32 {
    on(|contexts| contexts.on_trailers(id, Half::Request)).to_abi()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(id: u32, _: usize, is_last: u32) -> u32 {
    on(|contexts| contexts.on_response_head(id, is_last == 0)).to_abi()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_body(id: u32, size: usize, is_last: u32) -> u32 {
    on(|contexts| contexts.on_body(id, Half::Response, size, is_last != 0)).to_abi()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_trailers(id: u32, _: usize) -> u32 {
    on(|contexts| contexts.on_trailers(id, Half::Response)).to_abi()
}

/// The host calls this for the root context, whoever sent the callout, and also when that stream is gone.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_http_call_response(_: u32, token: u32, headers: usize, body_size: usize, _: usize) {
    on(|contexts| contexts.on_callout(token, headers, body_size));
}

/// The host calls this about once a second for each root context.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_tick(root_id: u32) {
    on(|contexts| contexts.on_tick(root_id));
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(id: u32) {
    on(|contexts| contexts.on_log(id));
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(id: u32) {
    on(|contexts| contexts.on_delete(id));
}
