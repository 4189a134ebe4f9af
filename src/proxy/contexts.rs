//! The contexts of a worker, and which of them each callback of the host is for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::host::{DataVerdict, Half, Host, Verdict};
use super::http::HttpContext;
use super::root::{RootContext, TICK_PERIOD};
use super::{edits, entry, stats};
use crate::config::Config;
use crate::exchange::{Recoveries, Recovery};
use crate::time::UnixTime;

/// All contexts of a worker. The host's callbacks are its methods.
pub struct Contexts<H> {
    host: H,
    /// Never borrowed while a stream's callback is under way: nothing that a host call leads to finds it in use.
    table: RefCell<Table<H>>,
    /// The stream that a callback of a root context acts on, which is not in the table meanwhile.
    current: Cell<Option<u32>>,
}

/// Whom a root context has asked about itself, by its place in the configuration.
#[derive(Clone, Copy)]
enum Asked {
    /// Or the shared store, about it.
    Facilitator(usize),
    Node(usize),
    /// About channels, by the number of the keeper's question.
    Job(u32),
    /// The shared store, for what the fleet has in common.
    Founding,
    /// The shared store, about what was left open, by its number.
    Mend(u32),
}

/// A stream, or a pursuit: all that is kept of it.
enum Kept<H> {
    /// A stream whose request is yet to come, for the root context of this id.
    Awaited(u32),
    /// A stream whose request went on, and is not the filter's business any more.
    Passed,
    /// A stream whose request the filter has answered: the response is its own.
    Answered,
    /// One that the filter has more to do with. In a box, for each callback takes it out and puts it back.
    Open(Box<HttpContext<H>>),
    /// The same, while a callback is under way.
    Lent,
}

impl<H> Kept<H> {
    /// Returns what becomes of a piece of a body, or of trailers, that nobody reads.
    const fn pass(&self, half: Half) -> DataVerdict {
        match (half, self) {
            (Half::Request, Self::Awaited(_) | Self::Answered) => DataVerdict::Buffer,
            _ => DataVerdict::Continue,
        }
    }

    /// Returns whether the filter has no part in its response.
    const fn is_settled(&self) -> bool {
        matches!(self, Self::Awaited(_) | Self::Passed | Self::Answered)
    }
}

struct Table<H> {
    streams: BTreeMap<u32, Kept<H>>,
    /// By id; there are few.
    roots: Vec<(u32, RootContext<H>)>,
    /// Tokens of callouts that are under way, and the streams that wait for them.
    callouts: Vec<(u32, u32)>,
    /// Tokens of questions to facilitators and nodes about themselves, and the roots that wait for the answers.
    introductions: Vec<(u32, (u32, Asked))>,
    /// Settlements that are to be looked into later.
    recoveries: Option<Recoveries<Arc<Config>>>,
    /// Pursuits of settlements without a stream that were begun. They stand among the streams, and take their ids from
    /// the end to which those of the host never come.
    pursuits: u32,
}

/// Settlements that are begun to be looked into in one tick, of a second.
const MOST_PURSUITS_AT_ONCE: usize = 16;

impl<H: Host> Table<H> {
    const fn new() -> Self {
        Self {
            streams: BTreeMap::new(),
            roots: Vec::new(),
            callouts: Vec::new(),
            introductions: Vec::new(),
            recoveries: None,
            pursuits: 0,
        }
    }

    fn root(&mut self, id: u32) -> Option<&mut RootContext<H>> {
        self.roots.iter_mut().find(|(root_id, _)| *root_id == id).map(|(_, root)| root)
    }

    /// Returns the root context of a stream whose request is yet to come.
    fn root_of(&mut self, id: u32) -> Option<&mut RootContext<H>> {
        let Some(Kept::Awaited(root_id)) = self.streams.get(&id) else { return None };
        self.root(*root_id)
    }

    /// Takes out a stream for a callback of it.
    fn lend(&mut self, id: u32) -> Option<Box<HttpContext<H>>> {
        let kept = self.streams.get_mut(&id)?;
        match std::mem::replace(kept, Kept::Lent) {
            Kept::Open(stream) => Some(stream),
            other => {
                *kept = other;
                None
            }
        }
    }

    /// Forgets a stream of which the filter has heard the last; `false` where it has not.
    fn forget(&mut self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(Kept::is_settled) && self.streams.remove(&id).is_some()
    }

    /// The streams and pursuits that the filter has more to do with.
    fn open(&self) -> impl Iterator<Item = (u32, &HttpContext<H>)> {
        self.streams.iter().filter_map(|(id, kept)| match kept {
            Kept::Open(stream) => Some((*id, &**stream)),
            _ => None,
        })
    }

    /// Notes that a stream waits for the answer of a callout.
    fn expect_callout(&mut self, token: Option<u32>, id: u32) {
        let expected = token.map(|token| (token, id)).filter(|expected| !self.callouts.contains(expected));
        self.callouts.extend(expected);
    }

    /// Takes out the stream that waits for this answer.
    fn take_callout(&mut self, token: u32) -> Option<u32> {
        take_by_token(&mut self.callouts, token)
    }

    /// Notes a settlement that is to be looked into later.
    fn remember(&mut self, host: &H, recovery: Option<(Arc<Config>, Recovery)>) {
        let Some((config, recovery)) = recovery else { return };
        match self.recoveries.get_or_insert_default().remember(config, recovery) {
            Ok(()) => stats::change_unknown(host, 1),
            Err(_) => stats::count_shed_recovery(host),
        }
    }

    /// Takes out settlements that are due to be looked into, each with its id and a context for that.
    fn take_due(&mut self, host: &H, now: UnixTime) -> Vec<(u32, HttpContext<H>, Recovery)> {
        let root = self.roots.iter().find_map(|(_, root)| Some((root.number()?, root.shared())));
        let (Some((number, shared)), Some(recoveries)) = (root, &mut self.recoveries) else { return Vec::new() };
        let due = recoveries.take_due(now, MOST_PURSUITS_AT_ONCE).into_iter();
        due.map(|(config, recovery)| {
            stats::change_unknown(host, -1);
            self.pursuits = self.pursuits.wrapping_add(1);
            let id = u32::MAX.wrapping_sub(self.pursuits);
            (id, HttpContext::new(host.clone(), config, shared.clone(), number, id), recovery)
        })
        .collect()
    }
}

fn take_by_token<T>(expected: &mut Vec<(u32, T)>, token: u32) -> Option<T> {
    let position = expected.iter().position(|(expected, _)| *expected == token)?;
    Some(expected.swap_remove(position).1)
}

impl<H: Host> Contexts<H> {
    /// Makes a worker without contexts.
    pub const fn new(host: H) -> Self {
        Self { host, table: RefCell::new(Table::new()), current: Cell::new(None) }
    }

    /// Returns how many streams and pursuits there are of which something may still be heard.
    pub fn streams(&self) -> usize {
        self.with_table(|table| table.streams.len()).unwrap_or_default()
    }

    /// Returns how many answers of callouts are awaited.
    pub fn callouts(&self) -> usize {
        self.with_table(|table| table.callouts.len().saturating_add(table.introductions.len())).unwrap_or_default()
    }

    /// Takes in that a context is made: a root context where `root_id` is 0, otherwise one of a stream.
    pub fn on_create(&self, id: u32, root_id: u32) {
        self.with_table(|table| {
            if root_id == 0 {
                table.roots.push((id, RootContext::new(self.host.clone())));
            } else {
                table.streams.insert(id, Kept::Awaited(root_id));
            }
        });
    }

    /// Configures a root context by `size` bytes of the host's; `false` where they are refused.
    pub fn on_configure(&self, id: u32, size: usize) -> bool {
        self.with_table(|table| table.root(id).is_some_and(|root| root.configure(size))).unwrap_or_default()
    }

    /// Takes in the head of a request.
    pub fn on_request_head(&self, id: u32, has_body: bool) -> Verdict {
        let door = self.with_table(|table| table.root_of(id)?.door()).flatten();
        let taken_in = door.map(|door| entry::take_in(&self.host, &door, has_body));
        let (kept, verdict) = match taken_in {
            Some(Err(arrival)) => {
                let stream = self.with_table(|table| table.root_of(id)?.stream(id)).flatten();
                let Some(mut stream) = stream.map(Box::new) else { return self.turn_away() };
                let verdict = stream.on_request(arrival, has_body);
                self.keep(id, stream);
                return verdict;
            }
            Some(Ok(Verdict::Continue)) => (Kept::Passed, Verdict::Continue),
            Some(Ok(verdict)) => (Kept::Answered, verdict),
            None => (Kept::Answered, self.turn_away()),
        };
        self.with_table(|table| table.streams.insert(id, kept));
        verdict
    }

    /// Takes in the head of a response.
    pub fn on_response_head(&self, id: u32, has_body: bool) -> Verdict {
        self.with_stream(id, |stream| stream.on_response(has_body)).unwrap_or_else(|| {
            let is_settled = self.with_table(|table| table.streams.get(&id).is_some_and(Kept::is_settled));
            if is_settled == Some(true) { Verdict::Continue } else { self.turn_away() }
        })
    }

    /// Refuses a stream without a context: it has no configuration to be judged by.
    fn turn_away(&self) -> Verdict {
        let _ = edits::reply_no_configuration(&self.host);
        Verdict::Hold
    }

    /// Takes in a piece of a body: `size` bytes of it by now. A body is only seen of streams whose head was: one without a
    /// context was answered then.
    pub fn on_body(&self, id: u32, half: Half, size: usize, is_last: bool) -> DataVerdict {
        self.with_stream(id, |stream| stream.on_body(half, size, is_last)).unwrap_or_else(|| self.pass(id, half))
    }

    /// Takes in trailers.
    pub fn on_trailers(&self, id: u32, half: Half) -> DataVerdict {
        self.with_stream(id, |stream| stream.on_trailers(half)).unwrap_or_else(|| self.pass(id, half))
    }

    /// Returns what becomes of a part of a stream without a context.
    fn pass(&self, id: u32, half: Half) -> DataVerdict {
        let verdict = self.with_table(|table| table.streams.get(&id).map(|kept| kept.pass(half)));
        verdict.flatten().unwrap_or(DataVerdict::Continue)
    }

    /// Takes in the answer of a callout: `headers` of them, and a body of `body_size` bytes.
    pub fn on_callout(&self, token: u32, headers: usize, body_size: usize) {
        let is_of_root = self.with_table(|table| {
            let (root_id, asked) = take_by_token(&mut table.introductions, token)?;
            let root = table.root(root_id)?;
            match asked {
                Asked::Facilitator(place) => {
                    let next = root.on_supported(place, headers, body_size);
                    table.introductions.extend(next.map(|token| (token, (root_id, Asked::Facilitator(place)))));
                }
                Asked::Node(place) => root.on_chain_id(place, headers, body_size),
                Asked::Job(number) => {
                    let next = root.on_job(number, headers, body_size).into_iter();
                    table.introductions.extend(next.map(|(token, job)| (token, (root_id, Asked::Job(job)))));
                }
                Asked::Founding => {
                    let next = root.on_founding(headers, body_size);
                    table.introductions.extend(next.map(|token| (token, (root_id, Asked::Founding))));
                }
                Asked::Mend(number) => {
                    let next = root.on_mended(number, headers, body_size);
                    table.introductions.extend(next.map(|token| (token, (root_id, Asked::Mend(number)))));
                }
            }
            Some(())
        });
        if is_of_root.flatten().is_some() {
            return;
        }
        if let Some(id) = self.with_table(|table| table.take_callout(token)).flatten() {
            self.within_root(id, |stream| stream.on_callout(token, headers, body_size));
        }
    }

    /// Takes in that time has passed for a root context.
    pub fn on_tick(&self, root_id: u32) {
        self.with_table(|table| {
            let Some(root) = table.root(root_id) else { return };
            if !root.is_due() {
                return;
            }
            root.tell_exposure();
            let facilitators =
                root.ask_supported().into_iter().map(|(token, place)| (token, Asked::Facilitator(place)));
            let founding = root.ask_founding().into_iter().map(|token| (token, Asked::Founding));
            let mends = root.mend().into_iter().map(|(token, number)| (token, Asked::Mend(number)));
            let asked: Vec<_> = facilitators
                .chain(founding)
                .chain(mends)
                .chain(root.ask_chain_ids().into_iter().map(|(token, place)| (token, Asked::Node(place))))
                .chain(root.keep_channels().into_iter().map(|(token, job)| (token, Asked::Job(job))))
                .collect();
            table.introductions.extend(asked.into_iter().map(|(token, asked)| (token, (root_id, asked))));
        });
        let has_impatient = !self.streams_that(HttpContext::is_impatient).is_empty();
        for id in self.streams_that(HttpContext::wants_ticks) {
            self.within_root(id, HttpContext::on_tick);
        }
        if has_impatient && self.streams_that(HttpContext::is_impatient).is_empty() {
            let _ = self.host.set_tick_period(TICK_PERIOD);
        }
        let Ok(now) = self.host.unix_time() else { return };
        for (id, mut pursuit, recovery) in self.with_table(|table| table.take_due(&self.host, now)).unwrap_or_default()
        {
            pursuit.recover(recovery);
            self.keep(id, Box::new(pursuit));
        }
    }

    /// Takes in that a stream is over.
    pub fn on_log(&self, id: u32) {
        if self.with_table(|table| table.forget(id)) != Some(true) {
            self.with_stream(id, HttpContext::on_end);
        }
    }

    /// Takes in that a context is gone.
    pub fn on_delete(&self, id: u32) {
        if self.with_table(|table| table.forget(id)) == Some(true) {
            return;
        }
        let is_root = self.with_table(|table| {
            let roots = table.roots.len();
            if let Some(root) = table.root(id) {
                root.retire();
            }
            table.roots.retain(|(root_id, _)| *root_id != id);
            table.introductions.retain(|(_, (root_id, _))| *root_id != id);
            table.roots.len() < roots
        });
        if is_root == Some(true) {
            // A root context takes the answers with it that it waits for. Which those are is not known here; to take one for
            // lost that still comes costs no more than another question.
            for id in self.streams_that(HttpContext::has_ended) {
                self.with_stream(id, HttpContext::on_callout_lost);
            }
            self.forget_callouts();
        }
        // A stream that has no end of its own, because its log was never written, ends here at the latest.
        self.with_stream(id, HttpContext::on_end);
    }

    /// Answers all who wait, for the VM is about to end: the host would let them wait until the stream's idle time is over. The stream
    /// whose own callback is under way it ends by itself.
    pub fn on_panic(&self) {
        let waiting = self.streams_that(HttpContext::is_held);
        for id in waiting.into_iter().chain(self.current.get()) {
            if self.host.act_on(id).is_ok() {
                let _ = edits::reply_host_error(&self.host);
            }
        }
    }

    /// Forgets the callouts for whose answers nobody waits any more.
    fn forget_callouts(&self) {
        self.with_table(|Table { callouts, streams, .. }| {
            callouts.retain(|(token, id)| match streams.get(id) {
                Some(Kept::Open(stream)) => [stream.callout_token(), stream.store_token()].contains(&Some(*token)),
                _ => false,
            });
        });
    }

    fn with_table<T>(&self, act: impl FnOnce(&mut Table<H>) -> T) -> Option<T> {
        self.table.try_borrow_mut().ok().map(|mut table| act(&mut table))
    }

    /// Acts on a stream from a callback of a root context.
    fn within_root(&self, id: u32, act: impl FnOnce(&mut HttpContext<H>)) {
        self.current.set(Some(id));
        self.with_stream(id, act);
        self.current.set(None);
    }

    /// Acts on a stream that has a context. It is taken out of the table meanwhile.
    fn with_stream<T>(&self, id: u32, act: impl FnOnce(&mut HttpContext<H>) -> T) -> Option<T> {
        let mut stream = self.with_table(|table| table.lend(id))??;
        let result = act(&mut stream);
        self.keep(id, stream);
        Some(result)
    }

    /// Puts a stream into the table, if anything can still happen to it.
    fn keep(&self, id: u32, mut stream: Box<HttpContext<H>>) {
        self.with_table(|table| {
            table.remember(&self.host, stream.take_recovery());
            if stream.is_needed() {
                table.expect_callout(stream.callout_token(), id);
                table.expect_callout(stream.store_token(), id);
                table.streams.insert(id, Kept::Open(stream));
            } else {
                table.streams.remove(&id);
            }
        });
    }

    /// The ids of streams of which something holds.
    fn streams_that(&self, condition: impl Fn(&HttpContext<H>) -> bool) -> Vec<u32> {
        let ids =
            |table: &mut Table<H>| table.open().filter(|(_, stream)| condition(stream)).map(|(id, _)| id).collect();
        self.with_table(ids).unwrap_or_default()
    }
}
