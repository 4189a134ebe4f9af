//! The callbacks of the proxy-wasm ABI (0.2.1), and which context each is for.
//!
//! Written here rather than taken from the SDK, for three reasons; the first two were measured on Envoy 1.40, the last was
//! read in proxy-wasm 0.2.5. The SDK can hold a head only in a way by which Envoy, under
//! `allow_on_headers_stop_iteration`, buffers the body up to its limit and then fails the response. It drops the answer
//! of a callout whose client has gone, which may be that of a settlement. And its dispatcher panics where it is
//! surprised.
//!
//! Source: `abi-versions/v0.2.1` of the proxy-wasm specification.
#![allow(unsafe_code, reason = "the host finds its callbacks by the names of exported functions")]
#![allow(missing_docs, reason = "the callbacks are the specification's")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::host::{self, Half, LogLevel};
use super::http::{Http, now};
use super::root::Root;
use super::stats;
use crate::config::Config;
use crate::exchange::{Recoveries, Recovery};
use crate::time::UnixTime;

/// What a callback about a head says to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The head goes on.
    Continue,
    /// The head waits, and nothing behind it is asked for: back pressure holds the body where it comes from.
    Hold,
    /// The head waits, and the body is wanted. A host that does not let a filter have it while the head waits takes this
    /// for `Hold`.
    Collect,
}

/// What a callback about a body or about trailers says to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataVerdict {
    /// It goes on, with what waits before it.
    Continue,
    /// It waits, and is kept.
    Buffer,
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

#[derive(Default)]
struct Contexts {
    /// In boxes, for each callback takes one out and puts it back.
    streams: BTreeMap<u32, Box<Http>>,
    /// By id; there are few.
    roots: Vec<(u32, Root)>,
    /// Tokens of callouts that are under way, and the streams that wait for them.
    callouts: Vec<(u32, u32)>,
    /// Tokens of questions to the facilitator about itself, and the roots that wait for the answer.
    introductions: Vec<(u32, u32)>,
    /// Settlements that are to be looked into later.
    recoveries: Recoveries<Arc<Config>>,
    /// Pursuits of settlements without a stream that were begun. They stand among the streams, and take their ids from
    /// the end to which those of the host never come.
    pursuits: u32,
}

/// Settlements that are begun to be looked into in one tick, of a second.
const MOST_PURSUITS_AT_ONCE: usize = 16;

impl Contexts {
    fn root(&mut self, id: u32) -> Option<&mut Root> {
        self.roots.iter_mut().find(|(root_id, _)| *root_id == id).map(|(_, root)| root)
    }

    /// Notes that a stream waits for the answer of a callout.
    fn expect_callout(&mut self, token: Option<u32>, id: u32) {
        let expected = token.map(|token| (token, id)).filter(|expected| !self.callouts.contains(expected));
        self.callouts.extend(expected);
    }

    /// Notes a settlement that is to be looked into later.
    fn remember(&mut self, recovery: Option<(Arc<Config>, Recovery)>) {
        let Some((config, recovery)) = recovery else { return };
        match self.recoveries.remember(config, recovery) {
            Ok(()) => stats::change_unknown(1),
            Err(_) => stats::count_shed_recovery(),
        }
    }

    /// Takes out settlements that are due to be looked into, each with a context for that and its id.
    fn take_due(&mut self, now: UnixTime) -> Vec<(u32, Http, Recovery)> {
        let root = self.roots.iter().find_map(|(_, root)| Some((root.number()?, root.shared())));
        let Some((number, shared)) = root else { return Vec::new() };
        let due = self.recoveries.take_due(now, MOST_PURSUITS_AT_ONCE).into_iter();
        due.map(|(config, recovery)| {
            stats::change_unknown(-1);
            self.pursuits = self.pursuits.wrapping_add(1);
            let id = u32::MAX.wrapping_sub(self.pursuits);
            (id, Http::new(config, shared.clone(), number, id), recovery)
        })
        .collect()
    }

    /// The stream that waits for this answer.
    fn take_callout(&mut self, token: u32) -> Option<u32> {
        let position = self.callouts.iter().position(|(expected, _)| *expected == token)?;
        Some(self.callouts.swap_remove(position).1)
    }
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

fn with_contexts<T>(act: impl FnOnce(&mut Contexts) -> T) -> Option<T> {
    CONTEXTS.with(|contexts| contexts.try_borrow_mut().ok().map(|mut contexts| act(&mut contexts)))
}

/// Acts on a stream. It is taken out of the table meanwhile, so that nothing a host call leads to finds the table in use.
fn with_stream<T>(id: u32, act: impl FnOnce(&mut Http) -> T) -> Option<T> {
    let mut stream = with_contexts(|contexts| contexts.streams.remove(&id))??;
    let result = act(&mut stream);
    keep(id, stream);
    Some(result)
}

/// Puts a stream into the table, if anything can still happen to it.
fn keep(id: u32, mut stream: Box<Http>) {
    with_contexts(|contexts| {
        contexts.remember(stream.take_recovery());
        if stream.is_needed() {
            contexts.expect_callout(stream.callout(), id);
            contexts.streams.insert(id, stream);
        }
    });
}

/// The ids of streams of which something holds.
fn streams_that(condition: impl Fn(&Http) -> bool) -> Vec<u32> {
    let ids = |contexts: &mut Contexts| {
        contexts.streams.iter().filter(|(_, stream)| condition(stream)).map(|(id, _)| *id).collect()
    };
    with_contexts(ids).unwrap_or_default()
}

fn on_head(id: u32, act: impl FnOnce(&mut Http) -> Verdict) -> u32 {
    let verdict = with_stream(id, act).unwrap_or_else(|| {
        // A stream without a context has no configuration to be judged by.
        let _ = host::send_reply(503, "x402_no_configuration", &[], "");
        Verdict::Hold
    });
    verdict.to_abi()
}

/// A body is only seen of streams whose head was: one without a context was answered then.
fn on_data(id: u32, act: impl FnOnce(&mut Http) -> DataVerdict) -> u32 {
    match with_stream(id, act) {
        Some(DataVerdict::Continue) | None => 0,
        Some(DataVerdict::Buffer) => 1,
    }
}

/// Tells the host which version of the ABI is spoken.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Gives the host memory for what it hands over; [`host`] takes it back.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut u8 {
    Box::into_raw(vec![0_u8; size].into_boxed_slice()).cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {
    std::panic::set_hook(Box::new(|panic| host::log(LogLevel::Critical, &format!("x402: {panic}"))));
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(_: u32, _: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(id: u32, root_id: u32) {
    with_contexts(|contexts| {
        if root_id == 0 {
            contexts.roots.push((id, Root::default()));
        } else if let Some(stream) = contexts.root(root_id).and_then(|root| root.stream(id)) {
            contexts.streams.insert(id, Box::new(stream));
        }
    });
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(id: u32, size: usize) -> u32 {
    host::enter();
    let is_configured = with_contexts(|contexts| contexts.root(id).is_some_and(|root| root.configure(size)));
    u32::from(is_configured == Some(true))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(id: u32, _: usize, is_last: u32) -> u32 {
    host::enter();
    on_head(id, |stream| stream.on_request(is_last == 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_body(id: u32, size: usize, is_last: u32) -> u32 {
    host::enter();
    on_data(id, |stream| stream.on_body(Half::Request, size, is_last != 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_trailers(id: u32, _: usize) -> u32 {
    host::enter();
    on_data(id, |stream| stream.on_trailers(Half::Request))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(id: u32, _: usize, is_last: u32) -> u32 {
    host::enter();
    on_head(id, |stream| stream.on_response(is_last == 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_body(id: u32, size: usize, is_last: u32) -> u32 {
    host::enter();
    on_data(id, |stream| stream.on_body(Half::Response, size, is_last != 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_trailers(id: u32, _: usize) -> u32 {
    host::enter();
    on_data(id, |stream| stream.on_trailers(Half::Response))
}

/// The host calls this for the root context, whoever sent the callout, and also when that stream is gone.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_http_call_response(_: u32, token: u32, headers: usize, body_size: usize, _: usize) {
    host::enter();
    let is_introduction = with_contexts(|contexts| {
        let position = contexts.introductions.iter().position(|(expected, _)| *expected == token)?;
        let (_, root_id) = contexts.introductions.swap_remove(position);
        let root = contexts.root(root_id)?;
        root.hear_who_settles(headers, body_size);
        Some(())
    });
    if is_introduction.flatten().is_some() {
        return;
    }
    if let Some(id) = with_contexts(|contexts| contexts.take_callout(token)).flatten() {
        with_stream(id, |stream| stream.on_callout(id, token, headers, body_size));
    }
}

/// The host calls this about once a second for each root context.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_tick(root_id: u32) {
    host::enter();
    with_contexts(|contexts| {
        let token = contexts.root(root_id).and_then(|root| {
            root.catch_up();
            root.ask_who_settles()
        });
        contexts.introductions.extend(token.map(|token| (token, root_id)));
    });
    for id in streams_that(Http::wants_ticks) {
        with_stream(id, |stream| stream.on_tick(id));
    }
    let Ok(now) = now() else { return };
    for (id, mut pursuit, recovery) in with_contexts(|contexts| contexts.take_due(now)).unwrap_or_default() {
        pursuit.recover(recovery);
        keep(id, Box::new(pursuit));
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(id: u32) {
    host::enter();
    with_stream(id, Http::on_end);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(id: u32) {
    host::enter();
    let is_root = with_contexts(|contexts| {
        let roots = contexts.roots.len();
        contexts.roots.retain(|(root_id, _)| *root_id != id);
        contexts.roots.len() < roots
    });
    if is_root == Some(true) {
        // A root context takes the answers with it that it waits for. Which those are is not known here; to take one for
        // lost that still comes costs no more than another question.
        for id in streams_that(Http::has_ended) {
            with_stream(id, Http::on_callout_lost);
        }
    }
    // A stream that has no end of its own, because its log was never written, ends here at the latest.
    with_stream(id, Http::on_end);
}
