//! One request, or the pursuit of a settlement that outlived one: tells the exchange what happens and does what it says.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::abi::{DataVerdict, Verdict};
use super::answers::{Answers, Question, RefusedWishes};
use super::host::{self, Half, HostError, LogLevel, Map};
use super::stats::{self, Timed};
use super::store::SharedData;
use crate::chain::MAX_ANSWER_BYTES;
use crate::config::{Config, Service};
use crate::exchange::{
    self, Body, Call, CallKind, Effects, Event, Exchange, Headers, Next, Outcome, Record, Recovery, Reply,
    RequestEdits, RequestHead, ResponseEdits, Seen, Stream, Tail, UpstreamHead,
};
use crate::facilitator::{CalloutAnswer, Supported};
use crate::ledger::Owner;
use crate::time::UnixTime;

pub(super) struct Http {
    config: Arc<Config>,
    owner: Owner,
    exchange: Exchange,
    /// The token of the callout whose answer the exchange waits for.
    callout: Option<u32>,
    /// The half of the stream that waits, if one does.
    held: Option<Half>,
    /// The half of the stream whose body is being read.
    reading: Option<Reading>,
    /// What all requests of this plugin know.
    shared: Shared,
    has_forwarded: bool,
    /// What a browser wants to read on every answer.
    admission: Vec<(&'static str, String)>,
    /// The question whose answer may be used again.
    caching: Option<Question>,
    /// The question whose answer is timed, and when it was put, in nanoseconds since the epoch.
    timing: Option<(Timed, u64)>,
    has_ended: bool,
    /// The response is no stream of events, and takes no line of comment.
    ends_plain: bool,
    /// A settlement that is to be looked into later.
    recovery: Option<Recovery>,
    /// The host's name of the request, read while it is to be had.
    request_id: Option<String>,
    #[cfg(feature = "provoke-panic")]
    provoked: String,
}

/// What the requests of a plugin and worker share.
#[derive(Clone, Default)]
pub(super) struct Shared {
    /// What the facilitator has said of itself.
    pub(super) supported: Arc<Supported>,
    /// Answers that may be used again.
    pub(super) answers: Rc<RefCell<Answers>>,
    /// Routes whose upstreams take no wish for usage.
    pub(super) refused_wishes: Rc<RefCell<RefusedWishes>>,
    /// What the worker's shared data says of itself.
    pub(super) memory: Memory,
}

/// What the shared data says of itself, when the worker was configured.
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    /// Random bytes that all who share it know, and nobody else.
    pub(super) secret: [u8; 32],
    /// When it began.
    pub(super) since: UnixTime,
}

/// A body that is being read.
struct Reading {
    half: Half,
    most: usize,
    /// Bytes of a response that the exchange has seen already.
    seen: usize,
    /// What the host had received of the request when its head came; `None` once a part of the body was seen.
    received: Option<u64>,
}

/// Where the code that acts on the stream was called from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A callback whose return value lets the stream go on or holds it.
    Stream,
    /// Any other: the stream has to be told.
    Callout,
    /// There is no stream any more.
    Nobody,
}

impl Http {
    pub(super) fn new(config: Arc<Config>, shared: Shared, worker: u32, context_id: u32) -> Self {
        let owner = Owner((u64::from(worker) << u32::BITS) | u64::from(context_id));
        Self {
            config,
            owner,
            exchange: Exchange::Over,
            callout: None,
            held: None,
            reading: None,
            shared,
            has_forwarded: false,
            admission: Vec::new(),
            caching: None,
            timing: None,
            has_ended: false,
            ends_plain: false,
            recovery: None,
            request_id: None,
            #[cfg(feature = "provoke-panic")]
            provoked: String::new(),
        }
    }

    /// The token of the callout that is under way.
    pub(super) const fn callout(&self) -> Option<u32> {
        self.callout
    }

    /// Whether anything may still happen: the stream is there, or the exchange waits for a callout or for time to pass.
    pub(super) const fn is_needed(&self) -> bool {
        !self.has_ended || self.callout.is_some() || self.wants_ticks()
    }

    /// Whether the stream is gone.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether the exchange waits for time to pass.
    pub(super) const fn wants_ticks(&self) -> bool {
        self.exchange.wakes_at().is_some() || self.reading.is_some()
    }

    /// A settlement that is to be looked into later, with the configuration that it belongs to.
    pub(super) fn take_recovery(&mut self) -> Option<(Arc<Config>, Recovery)> {
        self.recovery.take().map(|recovery| (Arc::clone(&self.config), recovery))
    }

    /// Looks into a settlement. There is no stream.
    pub(super) fn recover(&mut self, recovery: Recovery) {
        self.has_ended = true;
        let next = self.context().map(|context| Exchange::recover(context, recovery));
        self.perform_unwatched(next);
    }

    pub(super) fn on_request(&mut self, has_body: bool) -> Verdict {
        let next = self.start(has_body);
        let verdict = self.run(Half::Request, next);
        if self.reading.is_some() && !has_body { self.on_head_alone(Half::Request) } else { verdict }
    }

    /// There is no body to be read.
    fn on_head_alone(&mut self, half: Half) -> Verdict {
        self.reading = None;
        let next = self.step(body_event(half, Body::Whole(Vec::new())));
        self.run(half, next)
    }

    /// A part of a body is there: `size` bytes of it by now.
    pub(super) fn on_body(&mut self, half: Half, size: usize, is_last: bool) -> DataVerdict {
        if self.is_scanning(half) {
            return self.on_held_piece(half, size, is_last);
        }
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.half == half) {
            reading.received = None;
            let body = match (size > reading.most, is_last) {
                (true, _) => Ok(Body::TooLong),
                (false, false) => return DataVerdict::Buffer,
                (false, true) => host::body(half, size).map(Body::Whole),
            };
            return self.on_whole_body(half, body);
        }
        if half == Half::Response && self.exchange.reads_chunks() {
            let next = host::body(half, size).and_then(|bytes| self.step(Event::ResponseChunk { bytes, is_last }));
            return self.run_data(half, next);
        }
        if self.held == Some(half) { DataVerdict::Buffer } else { DataVerdict::Continue }
    }

    /// Whether the exchange reads the pieces of a response that is held.
    fn is_scanning(&self, half: Half) -> bool {
        half == Half::Response
            && self.exchange.reads_chunks()
            && self.reading.as_ref().is_some_and(|reading| reading.half == half)
    }

    /// A piece of a response is there that is held in the host's buffer, of which there are `size` bytes by now.
    fn on_held_piece(&mut self, half: Half, size: usize, is_last: bool) -> DataVerdict {
        let Some(reading) = self.reading.as_mut() else { return DataVerdict::Buffer };
        let start = std::mem::replace(&mut reading.seen, size);
        if is_last {
            self.reading = None;
        }
        let bytes = host::body_from(half, start, size.saturating_sub(start));
        let next = bytes.and_then(|bytes| self.step(Event::ResponseChunk { bytes, is_last }));
        self.run_data(half, next)
    }

    /// Trailers are there: the body has ended without saying so.
    pub(super) fn on_trailers(&mut self, half: Half) -> DataVerdict {
        if self.is_scanning(half) {
            self.reading = None;
            let next = self.step(Event::ResponseChunk { bytes: Vec::new(), is_last: true });
            return self.run_data(half, next);
        }
        if let Some(Reading { most, .. }) = self.reading.as_ref().filter(|reading| reading.half == half) {
            let body = host::body(half, most.saturating_add(1));
            let body = body.map(|bytes| if bytes.len() > *most { Body::TooLong } else { Body::Whole(bytes) });
            return self.on_whole_body(half, body);
        }
        if half == Half::Response && self.exchange.reads_chunks() {
            let next = self.step(Event::ResponseChunk { bytes: Vec::new(), is_last: true });
            return self.run_data(half, next);
        }
        if self.held == Some(half) { DataVerdict::Buffer } else { DataVerdict::Continue }
    }

    fn on_whole_body(&mut self, half: Half, body: Result<Body, HostError>) -> DataVerdict {
        self.reading = None;
        let next = body.and_then(|body| self.step(body_event(half, body)));
        self.run_data(half, next)
    }

    fn run_data(&mut self, half: Half, next: Result<Next, HostError>) -> DataVerdict {
        match self.run(half, next) {
            Verdict::Continue => DataVerdict::Continue,
            Verdict::Hold | Verdict::Collect => DataVerdict::Buffer,
        }
    }

    pub(super) fn on_response(&mut self, has_body: bool) -> Verdict {
        if self.exchange.is_over() {
            return Verdict::Continue;
        }
        self.may_panic(|_| "response");
        let next = response_head(has_body).and_then(|head| self.step(Event::Upstream(head)));
        let verdict = self.run(Half::Response, next);
        if self.reading.is_some() && !has_body { self.on_head_alone(Half::Response) } else { verdict }
    }

    /// The answer of a callout is there: `headers` of them, and a body of `body_size` bytes.
    pub(super) fn on_callout(&mut self, context_id: u32, token: u32, headers: usize, body_size: usize) {
        if self.callout != Some(token) {
            return;
        }
        self.callout = None;
        self.may_panic(|exchange| match exchange {
            Exchange::Verifying(_) => "verified",
            _ => "settled",
        });
        if let (Some((what, asked)), Ok(heard)) = (self.timing.take(), host::now()) {
            stats::time(what, heard.saturating_sub(asked));
        }
        let answer = callout_answer(headers, body_size);
        if let (Some(question), Ok(now)) = (self.caching.take(), now()) {
            let until = now.plus(max_age());
            self.shared.answers.borrow_mut().keep(question, answer.clone(), now, until);
        }
        self.on_event(context_id, Event::Callout(answer));
    }

    /// Time has passed.
    pub(super) fn on_tick(&mut self, context_id: u32) {
        if self.exchange.wakes_at().is_some_and(|due| now().is_ok_and(|now| now >= due)) {
            self.on_event(context_id, Event::Tick);
        } else if self.is_body_hidden(context_id) {
            host::log(
                LogLevel::Critical,
                "x402: a request's body came, and the host did not show it: prices by tokens need allow_on_headers_stop_iteration: true in the plugin's configuration, and no filter before this one that keeps bodies but not heads",
            );
            self.reading = None;
            self.on_event(context_id, Event::RequestBody(Body::Unreachable));
        }
    }

    /// Whether the host has received some of the request's body, and has shown nothing of it.
    fn is_body_hidden(&self, context_id: u32) -> bool {
        let Some(Reading { half: Half::Request, received: Some(before), .. }) = self.reading else { return false };
        host::act_on(context_id).is_ok() && received().is_some_and(|received| received > before)
    }

    /// The answer of the callout will never come: who was to hear it is gone.
    pub(super) fn on_callout_lost(&mut self) {
        if self.callout.take().is_some() {
            let next = self.step(Event::Callout(CalloutAnswer::Lost));
            self.perform_unwatched(next);
        }
    }

    /// Something happened, of which the host tells the root context.
    fn on_event(&mut self, context_id: u32, event: Event) {
        let has_stream = !self.has_ended && host::act_on(context_id).is_ok();
        let caller = if has_stream { Caller::Callout } else { Caller::Nobody };
        let next = self.step(event);
        if let Err(error) = self.perform(next, caller) {
            self.fail(error, caller);
        }
    }

    /// The stream is over.
    pub(super) fn on_end(&mut self) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        if self.exchange.is_over() && self.callout.is_none() {
            return;
        }
        let next = self.step(if is_redirected() { Event::Redirected } else { Event::Ended });
        self.perform_unwatched(next);
        if self.exchange.is_over() {
            self.callout = None;
        }
    }

    fn start(&mut self, has_body: bool) -> Result<Next, HostError> {
        let metadata = self.config.metadata.iter().filter_map(|key| {
            let path = ["metadata", "filter_metadata", key.namespace.as_str(), key.key.as_str()];
            Some((key.clone(), host::property(&path).ok()??))
        });
        #[cfg(feature = "provoke-panic")]
        {
            self.provoked =
                host::headers(Map::Request, |list| Headers::new(list))?.text("x-provoke-panic").into_owned();
        }
        let head =
            host::headers(Map::Request, |list| RequestHead::new(list))?.with_metadata(metadata).with_body(has_body);
        let refused = self.shared.refused_wishes.borrow().routes(now()?);
        let head = head.with_refused_wishes(refused);
        let head = if self.config.needs_principals { head.with_principals(principals()) } else { head };
        self.may_panic(|_| "request");
        self.admission = head.admission(&self.config);
        let begun = host::now()?;
        let seen = if head.may_be_seen() { seen() } else { Seen::Never };
        let next = Exchange::start(self.context_at(begun), &Arc::new(head), seen);
        if !next.0.is_over() {
            self.request_id = request_id();
        }
        Ok(next)
    }

    fn step(&mut self, event: Event) -> Result<Next, HostError> {
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Over);
        Ok(exchange.step(self.context()?, event))
    }

    fn context(&self) -> Result<exchange::Context<'_>, HostError> {
        Ok(self.context_at(host::now()?))
    }

    fn context_at(&self, nanoseconds: u64) -> exchange::Context<'_> {
        let now = to_unix_time(nanoseconds);
        let Self { config, shared, owner, .. } = self;
        // Good enough for sharing out: neighbouring requests draw numbers that have nothing in common.
        let draw = (nanoseconds ^ owner.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let Memory { secret, since: ledger_since } = shared.memory;
        exchange::Context { config, now, supported: &shared.supported, draw, secret, ledger_since }
    }

    /// A place where the build that tests the host's handling of crashes panics, if the request asks for it. Any other
    /// build has nothing here.
    #[cfg(feature = "provoke-panic")]
    #[allow(clippy::panic, reason = "that is what it is for")]
    fn may_panic(&self, place: fn(&Exchange) -> &'static str) {
        if self.provoked == place(&self.exchange) {
            panic!("provoked at {}", self.provoked);
        }
    }

    #[cfg(not(feature = "provoke-panic"))]
    #[allow(clippy::unused_self, reason = "the other build needs it")]
    const fn may_panic(&self, _: fn(&Exchange) -> &'static str) {}

    /// Does what a step says when there is no stream any more.
    fn perform_unwatched(&mut self, next: Result<Next, HostError>) {
        if let Err(error) = self.perform(next, Caller::Nobody) {
            host::log(LogLevel::Error, &format!("x402: {error} after the end of a request"));
        }
    }

    /// Does what a step says, and takes the steps that follow at once. `true` if the stream may go on.
    fn perform(&mut self, next: Result<Next, HostError>, caller: Caller) -> Result<bool, HostError> {
        let (mut exchange, mut effects) = next?;
        let mut goes_on = false;
        loop {
            self.exchange = exchange;
            let Effects {
                ledger,
                alias_key,
                record,
                settlement,
                recovery,
                warning,
                has_checked,
                rewrite,
                call,
                chunk,
                ends_plain,
                stream,
            } = effects;
            self.ends_plain |= ends_plain;

            if has_checked && let (Ok(begun), Ok(now)) = (host::now(), host::read_clock()) {
                stats::time(Timed::Check, now.saturating_sub(begun));
            }
            if let Some(warning) = warning {
                host::log(LogLevel::Warn, &format!("x402: {warning}"));
            }
            let answer = match ledger {
                Some((key, operation)) => {
                    let (now, mut store) = (now()?, SharedData::default());
                    let mut perform = |key| self.config.ledger.perform(&mut store, key, self.owner, operation, now);
                    let answer = perform(key);
                    alias_key.map(perform);
                    Some(Event::Ledger(answer))
                }
                None => None,
            };
            if let Some(record) = record {
                if record.is_refused_wish() {
                    self.shared.refused_wishes.borrow_mut().note(Arc::clone(&record.route), now()?);
                }
                stats::count_request(&record);
                report(&record, self.request_id.take());
            }
            if let Some(settlement) = settlement {
                stats::count_settlement(&settlement);
            }
            if recovery.is_some() {
                self.recovery = recovery;
            }
            if let Some(body) = rewrite {
                rewrite_request(&body)?;
            }
            let not_sent = call.and_then(|call| self.dispatch(&call));
            if let (Some(bytes), true) = (chunk, caller == Caller::Stream) {
                // Where there is no body to replace any more, as behind trailers, nothing is lost.
                let _ = host::replace_body(Half::Response, &bytes);
            }
            goes_on |= self.act(stream, caller)?;
            match answer.or(not_sent) {
                Some(event) => (exchange, effects) = self.step(event)?,
                None => return Ok(goes_on),
            }
        }
    }

    /// Sends a callout; gives the event that it could not be sent.
    fn dispatch(&mut self, Call { kind, service, body }: &Call) -> Option<Event> {
        self.caching = None;
        if kind.is_cacheable() {
            let question = Question::new(service, body);
            if let Some(answer) = now().ok().and_then(|now| self.shared.answers.borrow().get(&question, now)) {
                return Some(Event::Callout(answer));
            }
            self.caching = Some(question);
        }
        let path = match (service.base_path.as_str(), kind.path()) {
            ("", "") => "/".to_owned(),
            (base, path) => format!("{base}{path}"),
        };
        match call(service, "POST", &path, body) {
            Ok(token) => {
                self.callout = Some(token);
                let what = match kind {
                    CallKind::Verify => Some(Timed::Verify),
                    CallKind::Settle => Some(Timed::Settle),
                    CallKind::Chain | CallKind::Price => None,
                };
                self.timing = what.and_then(|what| Some((what, host::read_clock().ok()?)));
                None
            }
            Err(error) => {
                let cluster = &service.cluster;
                host::log(LogLevel::Error, &format!("x402: cannot call the cluster {cluster:?}: {error}"));
                Some(Event::Callout(CalloutAnswer::NotSent))
            }
        }
    }

    /// Acts on the stream; `true` if it may go on.
    fn act(&mut self, stream: Stream, caller: Caller) -> Result<bool, HostError> {
        if caller == Caller::Nobody {
            return Ok(false);
        }
        match stream {
            Stream::Hold => return Ok(false),
            Stream::Read { most } => {
                let half = if self.has_forwarded { Half::Response } else { Half::Request };
                let received = if half == Half::Request { received() } else { None };
                self.reading = Some(Reading { half, most, seen: 0, received });
                return Ok(false);
            }
            Stream::Pass => {}
            Stream::Finish(tail) => finish(&tail, self.ends_plain),
            Stream::Cut => {
                self.held = None;
                host::close(Half::Response)?;
                return Ok(false);
            }
            Stream::Forward(edits) => {
                self.has_forwarded = true;
                note_passage(&edits);
                edit_request(&edits)?;
            }
            Stream::Deliver(edits) => {
                self.reading = None;
                edit_response(&edits)?;
                admit(&self.admission)?;
            }
            Stream::Reply(reply) => {
                (self.held, self.reading) = (None, None);
                send(&reply, &self.admission)?;
                return Ok(false);
            }
        }
        if let (Some(held), Caller::Callout) = (self.held.take(), caller) {
            host::resume(held)?;
        }
        Ok(true)
    }

    /// Runs a step whose outcome decides about a half of the stream.
    fn run(&mut self, half: Half, next: Result<Next, HostError>) -> Verdict {
        match self.perform(next, Caller::Stream) {
            Ok(true) => Verdict::Continue,
            Ok(false) if self.reading.is_some() => Verdict::Collect,
            Ok(false) => {
                self.held = (!self.exchange.is_over()).then_some(half);
                Verdict::Hold
            }
            Err(error) => {
                self.fail(error, Caller::Stream);
                Verdict::Hold
            }
        }
    }

    /// The host does not do what it must: nothing passes.
    fn fail(&mut self, error: HostError, caller: Caller) {
        host::log(LogLevel::Error, &format!("x402: {error}; the request is refused"));
        self.held = None;
        let next = self.step(Event::Ended);
        let _ = self.perform(next, Caller::Nobody);
        if caller != Caller::Nobody {
            let _ = host::send_reply(503, "x402_host_error", &[("retry-after", "1")], "");
        }
    }
}

pub(super) fn now() -> Result<UnixTime, HostError> {
    host::now().map(to_unix_time)
}

fn to_unix_time(nanoseconds: u64) -> UnixTime {
    const NANOSECONDS: u64 = 1_000_000_000;
    UnixTime::from_secs(nanoseconds.checked_div(NANOSECONDS).unwrap_or_default())
}

/// Under which the filter notes that it has let a request through: for the filters behind it, and for a stream that the proxy
/// begins anew ([`declare_properties`]).
const PASSED_HERE: &str = "x402_passed_here";
const PASSED_BEFORE: &str = "x402_passed_before";

/// Tells the host how long each note lasts. A host that knows no such thing keeps both as long as the first, and then the
/// headers of a stream that is begun anew have to tell.
pub(super) fn declare_properties() {
    let _ = host::declare_property(PASSED_BEFORE, host::Lifespan::Request);
}

fn note_passage(edits: &RequestEdits) {
    if let Some(route) = &edits.passes_for {
        let _ = host::set_property(PASSED_HERE, route);
        let _ = host::set_property(PASSED_BEFORE, route);
    }
}

/// Whether the stream ends because the proxy follows a redirect by itself.
fn is_redirected() -> bool {
    host::property(&["response", "code_details"]).is_ok_and(|details| details.as_deref() == Some(b"internal_redirect"))
}

/// The host's name of the request.
fn request_id() -> Option<String> {
    let id = host::property(&["request", "id"]).ok()??;
    Some(String::from_utf8_lossy(&id).into_owned())
}

/// Whether the filter has let this request through before.
fn seen() -> Seen {
    let note = |name: &str| host::property(&[name]).ok().flatten().filter(|note| !note.is_empty());
    match (note(PASSED_HERE), note(PASSED_BEFORE)) {
        (Some(_), _) => Seen::Here,
        (None, Some(route)) => Seen::Before(String::from_utf8_lossy(&route).into_owned()),
        (None, None) => Seen::Never,
    }
}

/// The names that the caller's certificate is for, if it showed one that the proxy took.
fn principals() -> Vec<Vec<u8>> {
    let names = ["uri_san_peer_certificate", "dns_san_peer_certificate"];
    let name = |name: &str| host::property(&["connection", name]).ok().flatten().filter(|name| !name.is_empty());
    names.into_iter().filter_map(name).collect()
}

/// Bytes of the request that the host has received by now, the head included.
fn received() -> Option<u64> {
    let bytes = host::property(&["request", "total_size"]).ok()??;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

const fn body_event(half: Half, body: Body) -> Event {
    match half {
        Half::Request => Event::RequestBody(body),
        Half::Response => Event::ResponseBody(body),
    }
}

/// Another body than the client's goes up. Its head is still held.
fn rewrite_request(body: &[u8]) -> Result<(), HostError> {
    host::replace_body(Half::Request, body)?;
    host::set_header(Map::Request, "content-length", &body.len().to_string())
}

/// The end of a response. What does not find its place any more (there are trailers already, or there cannot be any) is
/// no reason to fail it.
fn finish(tail: &Tail, is_plain: bool) {
    if !is_plain {
        let _ = host::append_to_body(Half::Response, tail.comment.as_bytes());
    }
    for (name, value) in &tail.trailers {
        let _ = host::add_header(Map::ResponseTrailers, name, value);
    }
}

/// The head of an answer, whoever's it is.
#[inline(never)]
fn head_of(map: Map) -> Result<Headers, HostError> {
    host::headers(map, |list| Headers::new(list))
}

fn response_head(has_body: bool) -> Result<UpstreamHead, HostError> {
    Ok(UpstreamHead::read(&head_of(Map::Response)?, has_body))
}

/// Sends a callout to a service; the token of its answer.
pub(super) fn call(service: &Service, method: &str, path: &str, body: &str) -> Result<u32, HostError> {
    let mut headers = vec![
        (":method", method),
        (":scheme", service.scheme.as_str()),
        (":authority", service.authority.as_str()),
        (":path", path),
        ("accept", "application/json"),
    ];
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    headers.extend(service.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    host::dispatch(&service.cluster, &headers, body, service.timeout)
}

/// Seconds for which the answer that is there holds.
fn max_age() -> u64 {
    let head = head_of(Map::CalloutAnswer).unwrap_or_default();
    let control = head.text("cache-control").to_ascii_lowercase();
    let mut directives = control.split(',').map(str::trim);
    if directives.clone().any(|directive| matches!(directive, "no-store" | "no-cache")) {
        return 0;
    }
    directives.find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok()).unwrap_or(0)
}

pub(super) fn callout_answer(headers: usize, body_size: usize) -> CalloutAnswer {
    // A callout that failed calls back without headers.
    if headers == 0 {
        return CalloutAnswer::Lost;
    }
    let answer = head_of(Map::CalloutAnswer).and_then(|head| {
        let status = head.text(":status").parse().unwrap_or(0);
        // One byte more than may be read, so that the reader sees that it is too long.
        let body = host::callout_body(body_size.min(MAX_ANSWER_BYTES.saturating_add(1)))?;
        Ok(CalloutAnswer::Answered { status, body })
    });
    answer.unwrap_or(CalloutAnswer::Lost)
}

fn edit_request(edits: &RequestEdits) -> Result<(), HostError> {
    for name in &edits.remove {
        host::remove_header(Map::Request, name)?;
    }
    edits.set.iter().try_for_each(|(name, value)| host::set_header(Map::Request, name, value))
}

fn edit_response(edits: &ResponseEdits) -> Result<(), HostError> {
    let map = Map::Response;
    edits.remove.iter().try_for_each(|name| host::remove_header(map, name))?;
    edits.set.iter().try_for_each(|(name, value)| host::set_header(map, name, value))?;
    edits.add.iter().try_for_each(|(name, value)| host::add_header(map, name, value))
}

/// Lets a script of another origin read the response.
fn admit(admission: &[(&'static str, String)]) -> Result<(), HostError> {
    admission.iter().try_for_each(|(name, value)| match *name {
        "vary" => host::add_header(Map::Response, name, value),
        _ => host::set_header(Map::Response, name, value),
    })
}

fn send(reply: &Reply, admission: &[(&'static str, String)]) -> Result<(), HostError> {
    let own = reply.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str()));
    let admission = admission.iter().map(|(name, value)| (*name, value.as_str()));
    let is_new = |name: &str| name == "vary" || reply.headers.iter().all(|(own, _)| own != name);
    let headers: Vec<_> = own.chain(admission.filter(|(name, _)| is_new(name))).collect();
    host::send_reply(reply.status, "x402", &headers, &reply.body)
}

/// Writes a record to the log, and to the filter state for access logs.
fn report(record: &Record, known_id: Option<String>) {
    let level = match record.outcome {
        Outcome::Unknown | Outcome::Overloaded | Outcome::SettledUpstreamFailed => LogLevel::Warn,
        // Whoever only asks costs nobody anything, and must not fill a log.
        Outcome::Unpaid | Outcome::Exempt => LogLevel::Debug,
        _ => LogLevel::Info,
    };
    let is_logged = host::logs(level);
    let mut line = "x402:".to_owned();
    for (name, value) in record.facts() {
        if is_logged {
            line.push_str(&match name {
                "route" | "outcome" => format!(" {name}={value}"),
                _ => format!(" {name}={:?}", value.as_str()),
            });
        }
        // Access logs that lack a field are no reason to fail a request.
        let _ = host::set_property(&format!("x402_{name}"), &value);
    }
    if !is_logged {
        return;
    }
    if let Some(id) = known_id.or_else(request_id) {
        line.push_str(&format!(" request_id={id:?}"));
    }
    host::log(level, &line);
}
