//! Drives an exchange: carries out the effects of its steps, and takes the steps that follow at once.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::asking::{Asking, Happening, Held, take_jobs, wants_store};
use super::callouts::{self, Callout, Sent};
use super::fleet::Fleet;
use super::host::{DataVerdict, Half, Host, HostError, LogLevel, Verdict, to_unix_time};
use super::shared::{Memory, Shared};
use super::store::{self, SharedData};
use super::{edits, properties, reports, stats};
use crate::channel::{self, ChannelId};
use crate::config::{Config, Service};
use crate::exchange::{
    CallKind, Closer, Context, Effects, Event, Exchange, Next, Recovery, Reply, RequestHead, Seen, Stream,
};
use crate::facilitator::CalloutAnswer;
use crate::ledger::{Operation, Owner, PaymentKey, exposure, remote};

/// An exchange, with all that its effects act on.
pub(super) struct Driver<H> {
    host: H,
    config: Arc<Config>,
    owner: Owner,
    /// The things that all requests of this plugin know.
    shared: Shared,
    exchange: Exchange,
    /// The callout whose answer the exchange waits for.
    callout: Option<Callout>,
    flow: Flow,
    /// True once the upstream has the head of the request; until then nothing of its body passes.
    is_forwarded: bool,
    /// True if the response is no stream of events, and takes no line of comment behind its end.
    ends_plain: bool,
    /// Headers that a browser wants to read on every answer.
    cors: edits::CorsHeaders,
    /// A settlement that is to be looked into later.
    recovery: Option<Recovery>,
    /// The host's name of the request, read while it is to be had.
    request_id: Option<String>,
    /// What the shared store is being asked, where there is one.
    asking: Option<Box<Waiting>>,
    /// What the exchange holds there.
    held: Held,
}

/// A step that waits for the shared store.
struct Waiting {
    asking: Asking,
    /// The rest of the step's effects; `None` for a stream that runs on meanwhile.
    rest: Option<Effects>,
    /// What has happened meanwhile, for later.
    queue: VecDeque<Event>,
}

/// True if the stream may go on, and what the exchange is to hear of at once.
type Carried = (bool, Option<Event>);

/// The line for the log where the host gave up on a response that is held. It tells no filter so.
const RESPONSE_TOO_LARGE: &str = "x402: a response was longer than the proxy's buffer, where it was held until its charge is settled; the proxy answered 500, and nothing is charged: let per_connection_buffer_limit_bytes of the listener be at least price.max_response_bytes and the cluster's own limit together, or that less";

/// Returns whether a request passes without a payment.
const fn passes(effects: &Effects) -> bool {
    matches!(effects.stream, Stream::Forward(_)) && !wants_store(effects) && effects.exposure.is_none()
}

/// How often the host is asked to let time pass for a request that waits for another one.
const IMPATIENT_TICK_PERIOD: Duration = Duration::from_millis(50);

/// The state of the half of a stream that is under way: the request until it is forwarded, then the response.
enum Flow {
    /// Nothing of it is kept back, or it has not begun.
    Passing,
    /// It waits.
    Held,
    /// Its head waits, and its body is read.
    Reading(Reading),
    /// It is broken off, for the host failed or the exchange said so: nothing of it passes any more.
    Shut {
        /// True if the host has taken the answer that tells the client.
        is_told: bool,
    },
    /// There is no stream any more.
    Ended,
}

/// A body that is being read.
struct Reading {
    /// Bytes that are read at most.
    most: usize,
    /// Bytes of a response that the exchange has seen already, where it sees them as they come.
    seen: usize,
    /// Bytes that the host had received of the request when its head came; `None` for a response, and once a part of the body
    /// was seen.
    received: Option<u64>,
}

/// The caller of code that acts on the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A callback whose return value lets the stream go on or holds it.
    Stream,
    /// Any other: the stream has to be told.
    Root,
    /// There is no stream any more.
    Nobody,
}

impl<H: Host> Driver<H> {
    /// Makes a driver for the stream or pursuit `context_id` of a worker.
    pub(super) fn new(host: H, config: Arc<Config>, shared: Shared, worker: u32, context_id: u32) -> Self {
        let own = Owner((u64::from(worker) << u32::BITS) | u64::from(context_id));
        let owner = shared.fleet().map_or(own, |fleet| fleet.owner(context_id));
        Self {
            host,
            config,
            owner,
            shared,
            exchange: Exchange::Over,
            callout: None,
            flow: Flow::Passing,
            is_forwarded: false,
            ends_plain: false,
            cors: Vec::new(),
            recovery: None,
            request_id: None,
            asking: None,
            held: Held::default(),
        }
    }

    pub(super) const fn host(&self) -> &H {
        &self.host
    }

    pub(super) const fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(super) const fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Returns the token of the callout that is under way.
    pub(super) fn callout_token(&self) -> Option<u32> {
        self.callout.as_ref().map(|callout| callout.token)
    }

    /// Takes out the settlement that is to be looked into later.
    pub(super) fn take_recovery(&mut self) -> Option<Recovery> {
        self.recovery.take()
    }

    // -------------------------------------------------------------------------------------------------- the stream

    /// Returns whether the stream is gone.
    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.flow, Flow::Ended)
    }

    /// Returns whether a body is being read.
    pub(super) const fn is_reading(&self) -> bool {
        matches!(self.flow, Flow::Reading(_))
    }

    /// Returns whether the half of the stream that is under way waits.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.flow, Flow::Held | Flow::Reading(_))
    }

    /// Returns the most bytes of the body of a half that are read, if it is being read; a part of it was seen.
    pub(super) fn reads(&mut self, half: Half) -> Option<usize> {
        let is_under_way = half == self.half();
        let Flow::Reading(reading) = &mut self.flow else { return None };
        is_under_way.then(|| {
            reading.received = None;
            reading.most
        })
    }

    /// Returns how many bytes of a response that is read the exchange has seen, if it sees them as they come; now it sees
    /// `size`.
    pub(super) fn scans(&mut self, half: Half, size: usize) -> Option<usize> {
        let is_response = half == Half::Response && self.is_forwarded && self.exchange.reads_chunks();
        match &mut self.flow {
            Flow::Reading(reading) if is_response => Some(std::mem::replace(&mut reading.seen, size)),
            _ => None,
        }
    }

    /// Ends the reading of a body: all of it waits now.
    pub(super) fn stop_reading(&mut self) {
        self.flow = Flow::Held;
    }

    /// Returns whether the host has received some of the request's body, and has shown nothing of it. Acts on the stream
    /// `context_id`.
    pub(super) fn is_body_hidden(&self, context_id: u32) -> bool {
        let Flow::Reading(Reading { received: Some(before), .. }) = self.flow else { return false };
        self.host.act_on(context_id).is_ok()
            && properties::received_bytes(&self.host).is_some_and(|received| received > before)
    }

    /// Returns whether the pieces of the response's body are the exchange's to see.
    pub(super) const fn reads_chunks(&self) -> bool {
        self.exchange.reads_chunks() && matches!(self.flow, Flow::Passing)
    }

    /// Returns what becomes of a piece of a body, or of trailers, that nobody reads.
    pub(super) const fn pass(&self, half: Half) -> DataVerdict {
        match (half, &self.flow) {
            (Half::Request, _) if self.is_forwarded => DataVerdict::Continue,
            (Half::Response, Flow::Passing | Flow::Reading(_)) => DataVerdict::Continue,
            (Half::Response, Flow::Held) if !self.is_forwarded => DataVerdict::Continue,
            _ => DataVerdict::Buffer,
        }
    }

    /// Returns the verdict on a response that is none of the exchange's business; `None` where it is.
    pub(super) fn stray_response(&mut self) -> Option<Verdict> {
        match self.flow {
            // The upstream may have answered before the host took the filter's own answer.
            Flow::Shut { is_told: false } => {
                self.tell_client();
                Some(Verdict::Hold)
            }
            // That answer itself.
            Flow::Shut { is_told: true } => {
                self.flow = Flow::Passing;
                Some(Verdict::Continue)
            }
            // While a step waits for the shared store to be told, what becomes of the response is decided, and yet to be done.
            _ => (self.open_step().is_none() && self.exchange.is_over()).then_some(Verdict::Continue),
        }
    }

    /// Returns the step whose rest waits for the shared store.
    fn open_step(&mut self) -> Option<&mut Waiting> {
        self.asking.as_deref_mut().filter(|waiting| remote::IS_BUILT_IN && waiting.rest.is_some())
    }

    const fn half(&self) -> Half {
        if self.is_forwarded { Half::Response } else { Half::Request }
    }

    // -------------------------------------------------------------------------------------------------- the exchange

    /// Begins the exchange of a request; `closer` is what is known of it.
    pub(super) fn start(&mut self, head: &Arc<RequestHead>, closer: Option<Closer>) -> Result<Next, HostError> {
        self.cors = head.admission(&self.config);
        let begun = self.host.now()?;
        self.learn_founding();
        let next = match closer {
            Some(closer) => Exchange::look_closer(self.context(begun), head, closer),
            None => {
                let seen = if head.may_be_seen() { properties::seen(&self.host) } else { Seen::Never };
                Exchange::start(self.context(begun), head, seen)
            }
        };
        if !self.shared.memory.is_known && !passes(&next.1) {
            return Ok((
                Exchange::Over,
                Effects { stream: Stream::Reply(Reply::ledger_out_of_reach()), ..Effects::default() },
            ));
        }
        if !next.0.is_over() {
            self.request_id = properties::request_id(&self.host);
        }
        Ok(next)
    }

    /// Takes over what another worker of the process has heard of the fleet, where this one has not yet.
    fn learn_founding(&mut self) {
        let Some(ledger) = self.config.shared_ledger.as_ref().filter(|_| !self.shared.memory.is_known) else { return };
        if let Some(founding) = store::founding(&self.host, &ledger.name()) {
            self.shared.memory = founding.into();
        }
    }

    /// Has the exchange take in what happened.
    pub(super) fn step(&mut self, event: Event) -> Result<Next, HostError> {
        if let Some(waiting) = self.open_step() {
            waiting.queue.push_back(event);
            return Ok((std::mem::replace(&mut self.exchange, Exchange::Over), Effects::default()));
        }
        let now = self.host.now()?;
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Over);
        Ok(exchange.step(self.context(now), event))
    }

    /// Looks into a settlement. There is no stream.
    pub(super) fn recover(&mut self, recovery: Recovery) {
        self.flow = Flow::Ended;
        let now = self.host.now();
        let next = now.map(|now| Exchange::recover(self.context(now), recovery));
        self.perform_unwatched(next);
    }

    /// Takes in what happened, of which the host told the root context.
    pub(super) fn on_event(&mut self, context_id: u32, event: Event) {
        let caller = self.caller_from_root(context_id);
        let next = self.step(event);
        if let Err(error) = self.perform(next, caller) {
            self.fail(error, caller);
        }
    }

    /// Returns for whom something is done that the root context was told of.
    fn caller_from_root(&mut self, context_id: u32) -> Caller {
        match self.flow {
            Flow::Ended | Flow::Shut { .. } => Caller::Nobody,
            _ if self.host.act_on(context_id).is_ok() => Caller::Root,
            // Whoever cannot be told of a response has not got it.
            _ => {
                self.end(Event::Ended);
                Caller::Nobody
            }
        }
    }

    /// Reads the answer of the callout that is under way; `None` where this is the answer to none, or to another.
    pub(super) fn take_answer(&mut self, token: u32, headers: usize, body_size: usize) -> Option<CalloutAnswer> {
        let callout = self.callout.take_if(|callout| callout.token == token)?;
        let (kind, service) = (callout.kind, Arc::clone(&callout.service));
        let answer = callout.read(&self.host, &self.shared.answers, headers, body_size);
        self.note_health(kind, &service, &answer);
        Some(answer)
    }

    /// Notes how a facilitator has answered.
    fn note_health(&self, kind: CallKind, service: &Arc<Service>, answer: &CalloutAnswer) {
        if matches!(kind, CallKind::Verify | CallKind::Settle) {
            self.shared.health.borrow_mut().note(&self.host, &self.config, service, answer);
        }
    }

    /// Takes in that the answer of the callout will never come: who was to hear it is gone.
    pub(super) fn on_callout_lost(&mut self, context_id: u32) {
        self.on_store(context_id, Happening::Lost);
        if self.callout.take().is_some() {
            let next = self.step(Event::Callout(CalloutAnswer::Lost));
            self.perform_unwatched(next);
        }
    }

    /// Takes in that the stream is over.
    pub(super) fn on_end(&mut self) {
        if !self.has_ended() {
            if self.is_reading() && self.is_forwarded && properties::is_response_too_large(&self.host) {
                self.host.log(LogLevel::Warn, RESPONSE_TOO_LARGE);
            }
            self.end(if properties::is_redirected(&self.host) { Event::Redirected } else { Event::Ended });
        }
    }

    fn end(&mut self, event: Event) {
        self.flow = Flow::Ended;
        if self.exchange.is_over() && self.callout.is_none() {
            return;
        }
        let next = self.step(event);
        self.perform_unwatched(next);
        self.end_unheard();
        if self.exchange.is_over() && self.asking.is_none() {
            self.callout = None;
        }
    }

    /// Tells an exchange that waits for an answer which the host did not let it hear that there will be none.
    fn end_unheard(&mut self) {
        let is_waiting = !self.exchange.is_over() && self.exchange.wakes_at().is_none();
        if channel::IS_BUILT_IN && is_waiting && self.callout.is_none() && self.asking.is_none() {
            let next = self.step(Event::Callout(CalloutAnswer::Lost));
            self.perform_unwatched(next);
        }
    }

    fn context(&self, nanoseconds: u64) -> Context<'_> {
        let Self { config, shared, owner, .. } = self;
        let now = to_unix_time(nanoseconds);
        // Good enough for sharing out: neighbouring requests draw numbers that have nothing in common.
        let draw = (nanoseconds ^ owner.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let Memory { secret, .. } = shared.memory;
        let failing = shared.health.borrow().failing(config);
        Context { config, now, supported: &shared.supported, failing, draw, secret }
    }

    // -------------------------------------------------------------------------------------------------- the effects

    /// Does what a step says of a half of the stream, from its own callback.
    pub(super) fn run(&mut self, next: Result<Next, HostError>) -> Verdict {
        match self.perform(next, Caller::Stream) {
            Ok(true) => Verdict::Continue,
            Ok(false) if self.is_reading() => Verdict::Collect,
            Ok(false) => {
                if !self.exchange.is_over() || self.asking.is_some() {
                    self.flow = Flow::Held;
                }
                Verdict::Hold
            }
            Err(error) => {
                self.fail(error, Caller::Stream);
                Verdict::Hold
            }
        }
    }

    /// Does what a step says when there is no stream any more.
    fn perform_unwatched(&mut self, next: Result<Next, HostError>) {
        if let Err(error) = self.perform(next, Caller::Nobody) {
            self.host.log(LogLevel::Error, &format!("x402: {error} after the end of a request"));
        }
    }

    /// Does what a step says, and takes the steps that follow at once. `true` if the stream may go on.
    fn perform(&mut self, next: Result<Next, HostError>, caller: Caller) -> Result<bool, HostError> {
        let (exchange, effects) = next?;
        self.exchange = exchange;
        let carried = self.carry_out(effects, caller)?;
        self.go_on(carried, caller)
    }

    /// Takes the steps that follow at once on what was carried out.
    fn go_on(&mut self, (mut goes_on, mut event): Carried, caller: Caller) -> Result<bool, HostError> {
        while let Some(happened) = event.take() {
            let (exchange, effects) = self.step(happened)?;
            self.exchange = exchange;
            let (may_go_on, next) = self.carry_out(effects, caller)?;
            goes_on |= may_go_on;
            event = next;
        }
        if self.exchange.is_impatient() || self.asks_again() {
            self.host.set_tick_period(IMPATIENT_TICK_PERIOD)?;
        }
        if let Some(fleet) = self.shared.fleet().filter(|_| self.exchange.is_over() && self.asking.is_none()) {
            self.held.let_go(&self.host, fleet, self.owner);
        }
        Ok(goes_on)
    }

    /// Carries out effects, in the order of the fields.
    fn carry_out(&mut self, effects: Effects, caller: Caller) -> Result<Carried, HostError> {
        match self.shared.fleet().cloned().filter(|_| wants_store(&effects)) {
            Some(fleet) => self.ask_store(&fleet, effects, caller),
            None => self.carry_out_here(effects, caller),
        }
    }

    /// Carries out effects that want nothing of a shared store.
    fn carry_out_here(&mut self, effects: Effects, caller: Caller) -> Result<Carried, HostError> {
        let Effects {
            ledger,
            alias_key,
            channel,
            flush,
            exposure,
            record,
            aftermath,
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
        let check_time = if has_checked { self.time_since_callback() } else { None };
        let answer = match ledger {
            Some((key, operation)) => Some(self.ask_ledger(key, alias_key, operation)?),
            None => None,
        };
        let standing = match channel {
            Some((id, operation)) if channel::IS_BUILT_IN => Some(self.ask_channel(id, &operation)?),
            _ => None,
        };
        let exposed = exposure
            .filter(|_| exposure::IS_BUILT_IN)
            .map(|(account, operation)| self.ask_exposure(&account, operation))
            .transpose()?;
        if let Some(record) = record {
            if record.is_refused_wish() {
                let now = self.host.unix_time()?;
                self.shared.refused_wishes.borrow_mut().note(Arc::clone(&record.route), now);
            }
            reports::tell(&self.host, &record, self.request_id.take());
        }
        if let Some(record) = aftermath {
            reports::tell_aftermath(&self.host, &record);
        }
        if let Some(settlement) = settlement {
            stats::count_settlement(&self.host, &settlement);
        }
        if recovery.is_some() {
            self.recovery = recovery;
        }
        if let Some(warning) = warning {
            let level = if warning.is_critical() { LogLevel::Critical } else { LogLevel::Warn };
            self.host.log(level, &format!("x402: {warning}"));
        }
        if let Some(nanoseconds) = check_time {
            stats::time_check(&self.host, nanoseconds);
        }
        if let Some(body) = rewrite {
            edits::rewrite_request(&self.host, &body)?;
        }
        let flushed = flush
            .filter(|_| channel::IS_BUILT_IN)
            .map(|flush| Event::Flushed(store::flush(&self.host, &self.config.facilitators_identity, flush)));
        let known = call.and_then(|call| match callouts::send(&self.host, &self.shared, &call) {
            Sent::UnderWay(callout) => {
                self.callout = Some(callout);
                None
            }
            Sent::Answered(answer) => {
                self.note_health(call.kind, &call.service, &answer);
                Some(Event::Callout(answer))
            }
        });
        if let (Some(bytes), Caller::Stream) = (chunk, caller) {
            // Where there is no body to replace any more, as behind trailers, nothing is lost.
            let _ = self.host.replace_body(Half::Response, &bytes);
        }
        let may_go_on = self.act(stream, caller)?;
        Ok((may_go_on, answer.or(standing).or(flushed).or(exposed).or(known)))
    }

    // -------------------------------------------------------------------------------------------------- the shared store

    /// Has the shared store asked for what a step wants. The rest of the step waits for that, unless a stream runs on meanwhile.
    fn ask_store(&mut self, fleet: &Rc<Fleet>, mut effects: Effects, caller: Caller) -> Result<Carried, HostError> {
        let jobs = take_jobs(&mut effects, self.exchange.is_over());
        let runs_on = self.exchange.reads_chunks();
        if let (Some(bytes), Caller::Stream, false) = (&effects.chunk, caller, runs_on) {
            // It is there to be replaced now alone.
            let _ = self.host.replace_body(Half::Response, bytes);
            effects.chunk = None;
        }
        let (rest, at_once) = if runs_on { (None, Some(effects)) } else { (Some(effects), None) };
        let mut waiting = self
            .asking
            .take()
            .unwrap_or_else(|| Box::new(Waiting { asking: Asking::new(), rest: None, queue: VecDeque::new() }));
        waiting.asking.add(jobs);
        waiting.rest = rest;
        let is_in_vain = self.has_ended() && self.exchange.is_about_to_deliver();
        if !waiting.asking.go_on(&self.host, fleet, self.owner, &mut self.held, is_in_vain, None) {
            self.asking = Some(waiting);
            return at_once.map_or(Ok((false, None)), |effects| self.carry_out_here(effects, caller));
        }
        let heard = waiting.asking.take_heard();
        let effects = waiting.rest.or(at_once).unwrap_or_default();
        let (may_go_on, event) = self.carry_out_here(effects, caller)?;
        Ok((may_go_on, heard.or(event)))
    }

    /// Returns the token of the callout to the shared store whose answer is awaited.
    pub(super) fn store_token(&self) -> Option<u32> {
        self.asking.as_ref().and_then(|waiting| waiting.asking.token())
    }

    /// Returns whether the shared store is being asked.
    pub(super) const fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Returns whether the shared store is to be asked again at the next tick.
    pub(super) fn asks_again(&self) -> bool {
        self.asking.as_ref().is_some_and(|waiting| waiting.asking.wants_tick())
    }

    /// Takes in what happens to the question to the shared store that is under way.
    pub(super) fn on_store(&mut self, context_id: u32, happening: Happening) {
        let (Some(mut waiting), Some(fleet)) = (self.asking.take(), self.shared.fleet().cloned()) else { return };
        let is_in_vain = self.has_ended() && self.exchange.is_about_to_deliver();
        if !waiting.asking.go_on(&self.host, &fleet, self.owner, &mut self.held, is_in_vain, Some(happening)) {
            self.asking = Some(waiting);
            if self.asks_again() {
                let _ = self.host.set_tick_period(IMPATIENT_TICK_PERIOD);
            }
            return;
        }
        let Waiting { mut asking, rest, queue } = *waiting;
        let heard = asking.take_heard();
        match rest {
            Some(effects) => {
                let caller = self.caller_from_root(context_id);
                let carried = self.carry_out_here(effects, caller);
                let done = carried.and_then(|(goes_on, event)| self.go_on((goes_on, heard.or(event)), caller));
                if let Err(error) = done {
                    self.fail(error, caller);
                }
            }
            None => {
                if let Some(event) = heard {
                    self.on_event(context_id, event);
                }
            }
        }
        for event in queue {
            self.on_event(context_id, event);
        }
    }

    fn ask_channel(&self, id: ChannelId, operation: &channel::Operation) -> Result<Event, HostError> {
        let now = self.host.unix_time()?;
        let (channels, secret) = (&self.config.channels.records, &self.shared.memory.secret);
        let mut store = SharedData::new(&self.host);
        Ok(Event::Channel(channels.perform(&mut store, secret, id, self.owner, operation, now)))
    }

    fn ask_exposure(&self, account: &exposure::Account, operation: exposure::Operation) -> Result<Event, HostError> {
        let now = self.host.unix_time()?;
        let mut store = SharedData::new(&self.host);
        Ok(Event::Exposure(exposure::perform(&mut store, account, operation, now)))
    }

    fn ask_ledger(
        &self,
        key: PaymentKey,
        alias_key: Option<PaymentKey>,
        operation: Operation,
    ) -> Result<Event, HostError> {
        let now = self.host.unix_time()?;
        let mut store = SharedData::new(&self.host);
        let mut perform = |key| self.config.ledger.perform(&mut store, key, self.owner, operation, now);
        let answer = perform(key);
        alias_key.map(perform);
        Ok(Event::Ledger(answer))
    }

    fn time_since_callback(&self) -> Option<u64> {
        let begun = self.host.now().ok()?;
        Some(self.host.read_clock().ok()?.saturating_sub(begun))
    }

    /// Acts on the stream; `true` if it may go on.
    fn act(&mut self, stream: Stream, caller: Caller) -> Result<bool, HostError> {
        if caller == Caller::Nobody {
            return Ok(false);
        }
        let half = match stream {
            Stream::Hold => return Ok(false),
            Stream::Read { most } => {
                let received = if self.is_forwarded { None } else { properties::received_bytes(&self.host) };
                self.flow = Flow::Reading(Reading { most, seen: 0, received });
                return Ok(false);
            }
            Stream::Reply(reply) => {
                self.flow = Flow::Passing;
                edits::reply(&self.host, &reply, &self.cors)?;
                return Ok(false);
            }
            Stream::Cut => {
                self.host.close(Half::Response)?;
                self.flow = Flow::Shut { is_told: true };
                return Ok(false);
            }
            Stream::Forward(edits) => {
                edits::forward(&self.host, &edits)?;
                self.is_forwarded = true;
                Half::Request
            }
            Stream::Deliver(edits) => {
                edits::deliver(&self.host, &edits, &self.cors)?;
                Half::Response
            }
            Stream::Finish(tail) => {
                edits::finish(&self.host, &tail, self.ends_plain);
                Half::Response
            }
            Stream::Pass => Half::Response,
        };
        if let (Flow::Held, Caller::Root) = (std::mem::replace(&mut self.flow, Flow::Passing), caller) {
            self.host.resume(half)?;
        }
        Ok(true)
    }

    /// Refuses the stream, for the host does not do what it must: nothing passes.
    fn fail(&mut self, error: HostError, caller: Caller) {
        self.host.log(LogLevel::Error, &format!("x402: {error}; the request is refused"));
        if caller != Caller::Nobody {
            self.flow = Flow::Shut { is_told: false };
        }
        let next = self.step(Event::Ended);
        let _ = self.perform(next, Caller::Nobody);
        self.end_unheard();
        if caller != Caller::Nobody {
            self.tell_client();
        }
    }

    fn tell_client(&mut self) {
        self.flow = Flow::Shut { is_told: edits::reply_host_error(&self.host).is_ok() };
    }
}
