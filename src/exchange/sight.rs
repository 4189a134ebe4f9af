//! First sight: what is decided about a request by its head alone, before anything of it is kept.
//!
//! One decision, and two ways to it. [`Exchange::start`](super::Exchange::start) goes on from here to the states that ask, wait
//! and read. A host that would rather keep nothing of most requests calls [`at_first_sight`] on the list that it owns, and
//! only goes on from there where that has no answer.

use super::decode;
use super::quote::Quote;
use super::shadow;
use super::{
    AMBIGUOUS_PATH, Effects, Head, Outcome, Record, Reply, RequestEdits, Seen, ShownUrl, Stream, TOO_MANY_HEADERS,
    UNKNOWN_ROUTE, UNMATCHED, catalogue, flush, redirected,
};
use crate::config::{Config, Mode, Unmatched};
use crate::facilitator::Supported;
use crate::route::Decision;
use crate::x402::reason;

/// The end of the filter's part in a request: nothing else is to be done about it, now or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The end of the request, for logs and stats.
    pub record: Option<Record>,
    /// The fate of the request.
    pub fate: Fate,
}

/// The fate of a request that is decided about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes on to the upstream.
    Passes(RequestEdits),
    /// The client gets this in the upstream's place.
    Answered(Reply),
}

/// A matter for a closer look, which takes more than the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// An operator's wish that everything is claimed.
    Flush,
    /// A request for the priced route of this index.
    Priced(usize),
}

impl From<Settled> for Effects {
    fn from(Settled { record, fate }: Settled) -> Self {
        let stream = match fate {
            Fate::Passes(edits) => Stream::Forward(edits),
            Fate::Answered(reply) => Stream::Reply(reply),
        };
        Self { record, stream, ..Self::default() }
    }
}

impl Settled {
    /// An answer of the filter's own, of which nobody else is told.
    fn reply(reply: Reply) -> Self {
        Self { record: None, fate: Fate::Answered(reply) }
    }

    /// An answer of the filter's own, with what is told of it.
    pub(super) fn end_with(record: Record, reply: Reply) -> Self {
        Self { record: Some(record), fate: Fate::Answered(reply) }
    }

    /// The passage of a request that has nothing to pay.
    pub(super) fn pass(config: &Config, head: &Head<'_>) -> Self {
        let edits = RequestEdits { passes_for: None, remove: head.unwanted(config, None), set: Vec::new() };
        Self { record: None, fate: Fate::Passes(edits) }
    }
}

/// Decides about a request as far as its head and the routes tell. `seen` is what the proxy knows of an earlier passage.
///
/// # Errors
/// [`Closer`], where they do not.
pub(super) fn decide(config: &Config, head: &Head<'_>, seen: Seen) -> Result<Settled, Closer> {
    match seen {
        Seen::Here => return Ok(Settled { record: None, fate: Fate::Passes(RequestEdits::default()) }),
        Seen::Before(route) => return Ok(redirected(&route)),
        Seen::Never if head.is_redirected() => return Ok(redirected(UNKNOWN_ROUTE)),
        Seen::Never => {}
    }
    if head.has_too_many_unwanted() {
        return Ok(Settled::reply(Reply::error(431, TOO_MANY_HEADERS)));
    }
    if flush::is_asked(config, head) {
        return Err(Closer::Flush);
    }
    Ok(match head.with_target(|target| config.table.decide(target)) {
        Decision::Ambiguous => Settled::reply(Reply::error(400, AMBIGUOUS_PATH)),
        Decision::Unmatched if config.is_discoverable && catalogue::is_asked(head) => {
            Settled::reply(Reply::catalogue(catalogue::list(config, head)))
        }
        Decision::Unsure(index) => shadow::pass_unsure(config, head, index),
        Decision::Unmatched if config.unmatched == Unmatched::Deny && config.mode == Mode::Shadow => {
            shadow::pass(config, head, Record::new(&UNKNOWN_ROUTE.into(), Outcome::Refused, UNMATCHED))
        }
        Decision::Unmatched if config.unmatched == Unmatched::Deny => Settled::reply(Reply::error(403, UNMATCHED)),
        Decision::Unmatched | Decision::Free(_) => Settled::pass(config, head),
        Decision::Priced(index) => return Err(Closer::Priced(index)),
    })
}

/// Decides about a request that the proxy has not begun anew (`Head::may_be_seen`), without clock, ledger or random
/// numbers: one that passes free, or gets the terms of a fixed price. What it decides is what the exchange would.
///
/// # Errors
/// [`Closer`], for [`Exchange::look_closer`](super::Exchange::look_closer) to go on from.
pub fn at_first_sight(config: &Config, supported: &[Supported], head: &Head<'_>) -> Result<Settled, Closer> {
    match decide(config, head, Seen::Never) {
        Err(Closer::Priced(index)) => terms(config, supported, head, index).ok_or(Closer::Priced(index)),
        decided => decided,
    }
}

/// The terms of a route, for a request that brings nothing; `None` where its caller could have a right, or its terms depend on
/// anything but its URL and the facilitators' word.
fn terms(config: &Config, supported: &[Supported], head: &Head<'_>, index: usize) -> Option<Settled> {
    let route = config.routes.get(index)?;
    let terms = route.terms.as_ref().filter(|terms| terms.are_told_alike())?;
    let signs_offers = config.issuer.as_ref().is_some_and(|issuer| issuer.signs_offers);
    if signs_offers || head.names_payment() || head.is_preflight() || head.has_long_url() {
        return None;
    }
    let quote = Quote::of_route(terms, supported)?;
    let url = ShownUrl::of(config, head, terms);
    let reply = decode::for_asker(config, head, &quote, &url, Reply::payment_required_at(&quote, &url));
    Some(Settled::end_with(Record::new(&route.label, Outcome::Unpaid, reason::PAYMENT_REQUIRED), reply))
}
