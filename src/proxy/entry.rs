//! The entry: where a request is decided about in the host's own list of headers. Of most, which pass free or get the terms of a
//! fixed price, nothing is kept.

use std::sync::Arc;

use super::edits::{self, CorsHeaders};
use super::host::{Host, HostError, Map, Verdict};
use super::reports;
use crate::config::Config;
use crate::exchange::{Closer, Fate, Head, RequestHead, Settled, at_first_sight};
use crate::facilitator::Supported;

/// A request that takes a closer look.
pub(super) struct Arrival {
    /// Its head.
    pub(super) head: Box<RequestHead>,
    /// What is known of it; `None` where the proxy or the ledger has to be asked first.
    pub(super) closer: Option<Closer>,
}

/// What decides about a request at first sight.
pub(super) struct Door {
    pub(super) config: Arc<Config>,
    /// What the facilitators support; `None` while the ledger is not known.
    pub(super) supported: Option<Arc<Vec<Supported>>>,
}

/// True if requests are decided about here. The build that tests the host's handling of crashes takes each to where it panics.
const DECIDES: bool = !cfg!(feature = "provoke-panic");

/// Takes a request in; the verdict on its head.
///
/// # Errors
/// The request, where that takes a closer look, or the call that the host has failed.
pub(super) fn take_in(host: &impl Host, door: &Door, has_body: bool) -> Result<Verdict, Result<Arrival, HostError>> {
    let decided = host.headers(Map::Request, |list| {
        let head = Head::read(&list).with_body(has_body);
        match decide(door, &head) {
            Ok(settled) => Ok((settled, head.admission(&door.config))),
            Err(closer) => Err(Arrival { head: Box::new(head.into_owned()), closer }),
        }
    });
    match decided {
        Ok(Ok((settled, cors))) => carry_out(host, &settled, &cors).map_err(Err),
        Ok(Err(arrival)) => Err(Ok(arrival)),
        Err(error) => Err(Err(error)),
    }
}

fn decide(door: &Door, head: &Head<'_>) -> Result<Settled, Option<Closer>> {
    let Some(supported) = door.supported.as_ref().filter(|_| DECIDES && !head.may_be_seen()) else { return Err(None) };
    at_first_sight(&door.config, supported, head).map_err(Some)
}

fn carry_out(host: &impl Host, settled: &Settled, cors: &CorsHeaders) -> Result<Verdict, HostError> {
    if let Some(record) = &settled.record {
        reports::tell(host, record, None);
    }
    match &settled.fate {
        Fate::Passes(edits) => edits::forward(host, edits).map(|()| Verdict::Continue),
        Fate::Answered(reply) => edits::reply(host, reply, cors).map(|()| Verdict::Hold),
    }
}
