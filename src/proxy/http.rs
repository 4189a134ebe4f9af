//! One request, or the pursuit of a settlement that outlived one: tells the exchange what happens and does what it says.

use std::sync::Arc;

use super::abi::Verdict;
use super::host::{self, Half, HostError, LogLevel, Map};
use super::store::SharedData;
use crate::chain::MAX_ANSWER_BYTES;
use crate::config::Config;
use crate::exchange::{
    self, Call, Effects, Event, Exchange, Next, Outcome, Record, Recovery, Reply, RequestEdits, RequestHead,
    ResponseEdits, Stream, UpstreamHead,
};
use crate::facilitator::CalloutAnswer;
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
    has_ended: bool,
    /// A settlement that is to be looked into later.
    recovery: Option<Recovery>,
    #[cfg(feature = "provoke-panic")]
    provoked: String,
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
    pub(super) fn new(config: Arc<Config>, worker: u32, context_id: u32) -> Self {
        let owner = Owner((u64::from(worker) << u32::BITS) | u64::from(context_id));
        Self {
            config,
            owner,
            exchange: Exchange::Over,
            callout: None,
            held: None,
            has_ended: false,
            recovery: None,
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
        self.exchange.wakes_at().is_some()
    }

    /// A settlement that is to be looked into later, with the configuration that it belongs to.
    pub(super) fn take_recovery(&mut self) -> Option<(Arc<Config>, Recovery)> {
        self.recovery.take().map(|recovery| (Arc::clone(&self.config), recovery))
    }

    /// Looks into a settlement. There is no stream.
    pub(super) fn recover(&mut self, recovery: Recovery) {
        self.has_ended = true;
        let next = now().map(|now| Exchange::recover(exchange::Context { config: &self.config, now }, recovery));
        self.perform_unwatched(next);
    }

    pub(super) fn on_request(&mut self) -> Verdict {
        let next = self.start();
        self.run(Half::Request, next)
    }

    pub(super) fn on_response(&mut self) -> Verdict {
        if self.exchange.is_over() {
            return Verdict::Continue;
        }
        self.may_panic(|_| "response");
        let next = response_head().and_then(|head| self.step(Event::Upstream(head)));
        self.run(Half::Response, next)
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
        let answer = callout_answer(headers, body_size);
        self.on_event(context_id, Event::Callout(answer));
    }

    /// Time has passed.
    pub(super) fn on_tick(&mut self, context_id: u32) {
        if self.wants_ticks() {
            self.on_event(context_id, Event::Tick);
        }
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
        let next = self.step(Event::Ended);
        self.perform_unwatched(next);
        if self.exchange.is_over() {
            self.callout = None;
        }
    }

    fn start(&mut self) -> Result<Next, HostError> {
        let head = RequestHead::new(host::headers(Map::Request)?);
        #[cfg(feature = "provoke-panic")]
        {
            self.provoked = head.text("x-provoke-panic");
        }
        self.may_panic(|_| "request");
        let now = now()?;
        Ok(Exchange::start(exchange::Context { config: &self.config, now }, &head))
    }

    fn step(&mut self, event: Event) -> Result<Next, HostError> {
        let now = now()?;
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Over);
        Ok(exchange.step(exchange::Context { config: &self.config, now }, event))
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
            let Effects { ledger, record, call, recovery, stream } = effects;
            let answer = match ledger {
                Some((key, operation)) => {
                    let answer = self.config.ledger.perform(&mut SharedData, key, self.owner, operation, now()?);
                    Some(Event::Ledger(answer))
                }
                None => None,
            };
            if let Some(record) = record {
                report(&record);
            }
            if recovery.is_some() {
                self.recovery = recovery;
            }
            let not_sent = call.and_then(|call| self.dispatch(&call));
            goes_on |= self.act(stream, caller)?;
            match answer.or(not_sent) {
                Some(event) => (exchange, effects) = self.step(event)?,
                None => return Ok(goes_on),
            }
        }
    }

    /// Sends a callout; gives the event that it could not be sent.
    fn dispatch(&mut self, call: &Call) -> Option<Event> {
        let service = &call.service;
        let path = match (service.base_path.as_str(), call.path) {
            ("", "") => "/".to_owned(),
            (base, path) => format!("{base}{path}"),
        };
        let mut headers = vec![
            (":method", "POST"),
            (":scheme", service.scheme.as_str()),
            (":authority", service.authority.as_str()),
            (":path", path.as_str()),
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        headers.extend(service.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match host::dispatch(&service.cluster, &headers, &call.body, service.timeout) {
            Ok(token) => {
                self.callout = Some(token);
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
            Stream::Forward(edits) => edit_request(&edits)?,
            Stream::Deliver(edits) => edit_response(&edits)?,
            Stream::Reply(reply) => {
                self.held = None;
                send(&reply)?;
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
    const NANOSECONDS: u64 = 1_000_000_000;
    Ok(UnixTime::from_secs(host::now()?.checked_div(NANOSECONDS).unwrap_or_default()))
}

fn response_head() -> Result<UpstreamHead, HostError> {
    let head = RequestHead::new(host::headers(Map::Response)?);
    let directives: Vec<_> = head.all("cache-control").map(String::from_utf8_lossy).collect();
    Ok(UpstreamHead {
        // A response without a readable status is none that anybody should pay for.
        status: head.text(":status").parse().unwrap_or(502),
        cache_control: (!directives.is_empty()).then(|| directives.join(",")),
        grpc_failed: head.all("grpc-status").any(|status| status != b"0"),
        cors: head.cors(),
    })
}

fn callout_answer(headers: usize, body_size: usize) -> CalloutAnswer {
    // A callout that failed calls back without headers.
    if headers == 0 {
        return CalloutAnswer::Lost;
    }
    let answer = host::headers(Map::CalloutAnswer).and_then(|headers| {
        let status = RequestHead::new(headers).text(":status").parse().unwrap_or(0);
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

fn send(reply: &Reply) -> Result<(), HostError> {
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str())).collect();
    host::send_reply(reply.status, "x402", &headers, &reply.body)
}

/// Writes a record to the log, and to the filter state for access logs.
fn report(record: &Record) {
    let mut line = format!("x402: route={} outcome={}", record.route, record.outcome.as_str());
    let mut facts = vec![("route", record.route.to_string()), ("outcome", record.outcome.as_str().to_owned())];
    if !record.reason.is_empty() {
        facts.push(("reason", record.reason.clone()));
    }
    if let Some(payment) = &record.payment {
        facts.extend([
            ("payer", payment.payer.to_string()),
            ("network", payment.network.clone()),
            ("amount", payment.amount.clone()),
            ("asset", payment.asset.to_string()),
        ]);
        facts.extend(payment.transaction.map(|hash| ("transaction", hash.to_string())));
    }
    for (name, value) in facts {
        if !matches!(name, "route" | "outcome") {
            line.push_str(&format!(" {name}={value:?}"));
        }
        // Access logs that lack a field are no reason to fail a request.
        let _ = host::set_property(&format!("x402_{name}"), &value);
    }
    if let Ok(Some(id)) = host::property(&["request", "id"]) {
        line.push_str(&format!(" request_id={:?}", String::from_utf8_lossy(&id)));
    }
    let level = match record.outcome {
        Outcome::Unknown | Outcome::Overloaded | Outcome::SettledUpstreamFailed => LogLevel::Warn,
        _ => LogLevel::Info,
    };
    host::log(level, &line);
}
