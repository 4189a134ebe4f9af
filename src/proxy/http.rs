//! One request: tells the exchange what happens and does what it says.

use std::sync::Arc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel, MapType, StreamType};

use super::host::{self, HostError};
use super::store::SharedData;
use crate::config::Config;
use crate::exchange::{
    self, Call, Effects, Event, Exchange, Next, Outcome, Record, Reply, RequestEdits, RequestHead, ResponseEdits,
    Stream, UpstreamHead,
};
use crate::facilitator::{CalloutAnswer, MAX_ANSWER_BYTES};
use crate::ledger::Owner;
use crate::time::UnixTime;

pub(super) struct Http {
    config: Arc<Config>,
    owner: Owner,
    exchange: Exchange,
    /// The token of the callout whose answer the exchange waits for.
    callout: Option<u32>,
    /// The half of the stream that waits, if one does.
    held: Option<StreamType>,
}

/// Where the code that acts on the stream was called from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A callback whose return value lets the stream go on or holds it.
    Stream,
    /// Any other: the stream has to be told.
    Callout,
}

impl Http {
    pub(super) fn new(config: Arc<Config>, worker: u32, context_id: u32) -> Self {
        let owner = Owner((u64::from(worker) << u32::BITS) | u64::from(context_id));
        Self { config, owner, exchange: Exchange::Over, callout: None, held: None }
    }

    fn start(&mut self) -> Result<Next, HostError> {
        let head = RequestHead::new(host::headers(MapType::HttpRequestHeaders)?);
        let now = now()?;
        Ok(Exchange::start(exchange::Context { config: &self.config, now }, &head, self.owner))
    }

    fn step(&mut self, event: Event) -> Result<Next, HostError> {
        let now = now()?;
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Over);
        Ok(exchange.step(exchange::Context { config: &self.config, now }, event))
    }

    /// Does what a step says, and takes the steps that follow at once. `true` if the stream may go on.
    fn perform(&mut self, next: Result<Next, HostError>, caller: Caller) -> Result<bool, HostError> {
        let (mut exchange, mut effects) = next?;
        let mut goes_on = false;
        loop {
            self.exchange = exchange;
            let Effects { ledger, record, call, stream } = effects;
            let now = now()?;
            let answer = ledger.map(|(key, operation)| {
                Event::Ledger(self.config.ledger.perform(&mut SharedData, key, self.owner, operation, now))
            });
            if let Some(record) = record {
                report(&record);
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
        let facilitator = &self.config.facilitator;
        let path = format!("{}{}", facilitator.base_path, call.question.path());
        let mut headers = vec![
            (":method", "POST"),
            (":scheme", facilitator.scheme.as_str()),
            (":authority", facilitator.authority.as_str()),
            (":path", path.as_str()),
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        headers.extend(facilitator.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match host::dispatch(&facilitator.cluster, headers, &call.body, facilitator.timeout) {
            Ok(token) => {
                self.callout = Some(token);
                None
            }
            Err(error) => {
                let cluster = &facilitator.cluster;
                host::log(
                    LogLevel::Error,
                    &format!("x402: cannot call the facilitator's cluster {cluster:?}: {error}"),
                );
                Some(Event::Facilitator(CalloutAnswer::NotSent))
            }
        }
    }

    /// Acts on the stream; `true` if it may go on.
    fn act(&mut self, stream: Stream, caller: Caller) -> Result<bool, HostError> {
        match stream {
            Stream::Hold => return Ok(false),
            Stream::Forward(edits) => edit_request(&edits)?,
            Stream::Deliver(edits) => edit_response(&edits)?,
            Stream::Reply(reply) => {
                // The reply passes through the callbacks of the response, and nothing may hold it there.
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

    /// Runs a step whose outcome decides about `stream`.
    fn run(&mut self, stream: StreamType, next: Result<Next, HostError>) -> Action {
        match self.perform(next, Caller::Stream) {
            Ok(true) => Action::Continue,
            Ok(false) => {
                self.held = (!self.exchange.is_over()).then_some(stream);
                Action::Pause
            }
            Err(error) => self.fail(error),
        }
    }

    /// The host does not do what it must: nothing passes.
    fn fail(&mut self, error: HostError) -> Action {
        host::log(LogLevel::Error, &format!("x402: {error}; the request is refused"));
        self.end();
        self.held = None;
        let _ = host::send_reply(503, "x402_host_error", &[("retry-after", "1")], "");
        Action::Pause
    }

    /// Gives up what the exchange holds.
    fn end(&mut self) {
        self.callout = None;
        let next = self.step(Event::Ended);
        if let Err(error) = self.perform(next, Caller::Callout) {
            host::log(LogLevel::Error, &format!("x402: {error} at the end of a request"));
        }
    }

    fn body_action(&self, half: StreamType) -> Action {
        // Where the host calls for bodies although their head is held, letting one go on would let the head go too.
        if self.held == Some(half) { Action::Pause } else { Action::Continue }
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let next = self.start();
        self.run(StreamType::HttpRequest, next)
    }

    fn on_http_request_body(&mut self, _: usize, _: bool) -> Action {
        self.body_action(StreamType::HttpRequest)
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.body_action(StreamType::HttpRequest)
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.exchange.is_over() {
            return Action::Continue;
        }
        let next = response_head().and_then(|head| self.step(Event::Upstream(head)));
        self.run(StreamType::HttpResponse, next)
    }

    fn on_http_response_body(&mut self, _: usize, _: bool) -> Action {
        self.body_action(StreamType::HttpResponse)
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.body_action(StreamType::HttpResponse)
    }

    fn on_log(&mut self) {
        if !self.exchange.is_over() {
            self.end();
        }
    }
}

impl Context for Http {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _: usize) {
        if self.callout != Some(token) {
            return;
        }
        self.callout = None;
        let next = self.step(Event::Facilitator(callout_answer(headers, body_size)));
        if let Err(error) = self.perform(next, Caller::Callout) {
            self.fail(error);
        }
    }
}

fn now() -> Result<UnixTime, HostError> {
    const NANOSECONDS: u64 = 1_000_000_000;
    Ok(UnixTime::from_secs(host::now()?.checked_div(NANOSECONDS).unwrap_or_default()))
}

fn response_head() -> Result<UpstreamHead, HostError> {
    let head = RequestHead::new(host::headers(MapType::HttpResponseHeaders)?);
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
    let answer = host::headers(MapType::HttpCallResponseHeaders).and_then(|headers| {
        let status = RequestHead::new(headers).text(":status").parse().unwrap_or(0);
        // One byte more than may be read, so that the reader sees that it is too long.
        let body = host::callout_body(body_size.min(MAX_ANSWER_BYTES.saturating_add(1)))?;
        Ok(CalloutAnswer::Answered { status, body })
    });
    answer.unwrap_or(CalloutAnswer::Lost)
}

fn edit_request(edits: &RequestEdits) -> Result<(), HostError> {
    for name in &edits.remove {
        host::remove_header(MapType::HttpRequestHeaders, name)?;
    }
    edits.set.iter().try_for_each(|(name, value)| host::set_header(MapType::HttpRequestHeaders, name, value))
}

fn edit_response(edits: &ResponseEdits) -> Result<(), HostError> {
    let map = MapType::HttpResponseHeaders;
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
