//! One request, or the pursuit of a settlement that outlived one: translates callbacks into events of its exchange.

use std::ops::Range;
use std::sync::Arc;

use super::asking::Happening;
use super::driver::Driver;
use super::entry::Arrival;
use super::heads;
use super::host::{Buffer, DataVerdict, Half, Host, HostError, LogLevel, Verdict};
use super::shared::Shared;
use crate::config::Config;
use crate::exchange::{Body, Event, Exchange, Next, Recovery};

/// The context of a stream, or of a pursuit.
pub(super) struct HttpContext<H> {
    driver: Driver<H>,
    context_id: u32,
    #[cfg(feature = "provoke-panic")]
    provoked: String,
}

impl<H: Host> HttpContext<H> {
    /// Makes the context `context_id` of a worker.
    pub(super) fn new(host: H, config: Arc<Config>, shared: Shared, worker: u32, context_id: u32) -> Self {
        Self {
            driver: Driver::new(host, config, shared, worker, context_id),
            context_id,
            #[cfg(feature = "provoke-panic")]
            provoked: String::new(),
        }
    }

    /// Returns the token of the callout that is under way.
    pub(super) fn callout_token(&self) -> Option<u32> {
        self.driver.callout_token()
    }

    /// Returns whether anything may still happen: the stream is there, or the exchange waits for a callout or for time to
    /// pass.
    pub(super) fn is_needed(&self) -> bool {
        !self.has_ended() || self.callout_token().is_some() || self.driver.is_asking() || self.wants_ticks()
    }

    /// Returns whether the stream is gone.
    pub(super) const fn has_ended(&self) -> bool {
        self.driver.has_ended()
    }

    /// Returns whether a half of the stream waits.
    pub(super) const fn is_held(&self) -> bool {
        self.driver.is_held()
    }

    /// Returns the token of the callout to the shared store that is under way.
    pub(super) fn store_token(&self) -> Option<u32> {
        self.driver.store_token()
    }

    /// Returns whether the context waits for time to pass.
    pub(super) fn wants_ticks(&self) -> bool {
        self.driver.asks_again() || self.driver.exchange().wakes_at().is_some() || self.driver.is_reading()
    }

    /// Returns whether the context waits for something that another one does.
    pub(super) fn is_impatient(&self) -> bool {
        self.driver.exchange().is_impatient() || self.driver.asks_again()
    }

    /// Takes out the settlement that is to be looked into later, with the configuration that it belongs to.
    pub(super) fn take_recovery(&mut self) -> Option<(Arc<Config>, Recovery)> {
        self.driver.take_recovery().map(|recovery| (Arc::clone(self.driver.config()), recovery))
    }

    /// Looks into a settlement. There is no stream.
    pub(super) fn recover(&mut self, recovery: Recovery) {
        self.driver.recover(recovery);
    }

    /// Takes in a request that takes a closer look, or whose head the host has failed to give or to take back.
    pub(super) fn on_request(&mut self, arrival: Result<Arrival, HostError>, has_body: bool) -> Verdict {
        let next = arrival.and_then(|arrival| self.start(arrival));
        self.run_head(Half::Request, has_body, next)
    }

    /// Takes in the head of a response.
    pub(super) fn on_response(&mut self, has_body: bool) -> Verdict {
        if let Some(verdict) = self.driver.stray_response() {
            return verdict;
        }
        self.may_panic(|_| "response");
        let head = heads::upstream(self.driver.host(), has_body);
        let next = head.and_then(|head| self.driver.step(Event::Upstream(head)));
        self.run_head(Half::Response, has_body, next)
    }

    fn run_head(&mut self, half: Half, has_body: bool, next: Result<Next, HostError>) -> Verdict {
        let verdict = self.driver.run(next);
        if has_body || !self.driver.is_reading() {
            return verdict;
        }
        // There is no body to be read.
        self.driver.stop_reading();
        let next = self.driver.step(body_event(half, Body::Whole(Vec::new())));
        self.driver.run(next)
    }

    /// Takes in a part of a body: `size` bytes of it by now.
    pub(super) fn on_body(&mut self, half: Half, size: usize, is_last: bool) -> DataVerdict {
        if let Some(start) = self.driver.scans(half, size) {
            return self.on_held_piece(half, start..size, is_last);
        }
        if let Some(most) = self.driver.reads(half) {
            let body = match (size > most, is_last) {
                (true, _) => Ok(Body::TooLong),
                (false, false) => return DataVerdict::Buffer,
                (false, true) => self.body(half, size).map(Body::Whole),
            };
            return self.on_whole_body(half, body);
        }
        if half == Half::Response && self.driver.reads_chunks() {
            let bytes = self.body(half, size);
            let next = bytes.and_then(|bytes| self.driver.step(Event::ResponseChunk { bytes, is_last }));
            return self.run_data(next);
        }
        self.driver.pass(half)
    }

    /// Takes in trailers: the body has ended without saying so.
    pub(super) fn on_trailers(&mut self, half: Half) -> DataVerdict {
        if let Some(seen) = self.driver.scans(half, usize::MAX) {
            return self.on_held_piece(half, seen..seen, true);
        }
        if let Some(most) = self.driver.reads(half) {
            let body = self.body(half, most.saturating_add(1));
            let body = body.map(|bytes| if bytes.len() > most { Body::TooLong } else { Body::Whole(bytes) });
            return self.on_whole_body(half, body);
        }
        if half == Half::Response && self.driver.reads_chunks() {
            let next = self.driver.step(Event::ResponseChunk { bytes: Vec::new(), is_last: true });
            return self.run_data(next);
        }
        self.driver.pass(half)
    }

    /// A piece of a response is there that is held: these bytes of it.
    fn on_held_piece(&mut self, half: Half, place: Range<usize>, is_last: bool) -> DataVerdict {
        if is_last {
            self.driver.stop_reading();
        }
        let bytes = match place.len() {
            0 => Ok(Vec::new()),
            length => self.driver.host().buffer_from(Buffer::Body(half), place.start, length),
        };
        let next = bytes.and_then(|bytes| self.driver.step(Event::ResponseChunk { bytes, is_last }));
        self.run_data(next)
    }

    fn body(&self, half: Half, most: usize) -> Result<Vec<u8>, HostError> {
        self.driver.host().buffer(Buffer::Body(half), most)
    }

    fn on_whole_body(&mut self, half: Half, body: Result<Body, HostError>) -> DataVerdict {
        self.driver.stop_reading();
        let next = body.and_then(|body| self.driver.step(body_event(half, body)));
        self.run_data(next)
    }

    fn run_data(&mut self, next: Result<Next, HostError>) -> DataVerdict {
        match self.driver.run(next) {
            Verdict::Continue => DataVerdict::Continue,
            Verdict::Hold | Verdict::Collect => DataVerdict::Buffer,
        }
    }

    /// Takes in the answer of a callout: `headers` of them, and a body of `body_size` bytes.
    pub(super) fn on_callout(&mut self, token: u32, headers: usize, body_size: usize) {
        if self.store_token() == Some(token) {
            self.driver.on_store(self.context_id, Happening::Answered(headers, body_size));
            return;
        }
        if self.callout_token() == Some(token) {
            self.may_panic(|exchange| match exchange {
                Exchange::Verifying(_) => "verified",
                _ => "settled",
            });
        }
        if let Some(answer) = self.driver.take_answer(token, headers, body_size) {
            self.driver.on_event(self.context_id, Event::Callout(answer));
        }
    }

    /// Takes in that time has passed.
    pub(super) fn on_tick(&mut self) {
        if self.driver.asks_again() {
            self.driver.on_store(self.context_id, Happening::Tick);
        }
        if self.driver.is_asking() {
            return;
        }
        let due = self.driver.exchange().wakes_at();
        if due.is_some_and(|due| self.driver.host().unix_time().is_ok_and(|now| now >= due)) {
            self.driver.on_event(self.context_id, Event::Tick);
        } else if self.driver.is_body_hidden(self.context_id) {
            self.driver.host().log(
                LogLevel::Critical,
                "x402: a request's body came, and the host did not show it: prices by tokens need allow_on_headers_stop_iteration: true in the plugin's configuration, and no filter before this one that keeps bodies but not heads",
            );
            self.driver.stop_reading();
            self.driver.on_event(self.context_id, Event::RequestBody(Body::Unreachable));
        }
    }

    /// Takes in that the answer of the callout will never come: who was to hear it is gone.
    pub(super) fn on_callout_lost(&mut self) {
        self.driver.on_callout_lost(self.context_id);
    }

    /// Takes in that the stream is over.
    pub(super) fn on_end(&mut self) {
        self.driver.on_end();
    }

    fn start(&mut self, Arrival { head, closer }: Arrival) -> Result<Next, HostError> {
        #[cfg(feature = "provoke-panic")]
        {
            self.provoked =
                heads::all(self.driver.host(), super::host::Map::Request)?.text("x-provoke-panic").into_owned();
        }
        let head = heads::complete(self.driver.host(), self.driver.config(), self.driver.shared(), *head)?;
        self.may_panic(|_| "request");
        self.driver.start(&head, closer)
    }

    /// A place where the build that tests the host's handling of crashes panics, if the request asks for it. Any other
    /// build has nothing here.
    #[cfg(feature = "provoke-panic")]
    #[allow(clippy::panic, reason = "that is what it is for")]
    fn may_panic(&self, place: fn(&Exchange) -> &'static str) {
        if self.provoked == place(self.driver.exchange()) {
            panic!("provoked at {}", self.provoked);
        }
    }

    #[cfg(not(feature = "provoke-panic"))]
    #[allow(clippy::unused_self, reason = "the other build needs it")]
    const fn may_panic(&self, _: fn(&Exchange) -> &'static str) {}
}

const fn body_event(half: Half, body: Body) -> Event {
    match half {
        Half::Request => Event::RequestBody(body),
        Half::Response => Event::ResponseBody(body),
    }
}
