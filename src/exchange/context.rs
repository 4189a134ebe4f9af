//! What a step of the exchange may look at beside its state.

use super::CallKind;
use crate::config::{Config, Facilitator};
use crate::facilitator::{self, CalloutAnswer, Supported};
use crate::json;
use crate::time::UnixTime;

/// Everything that a step may look at.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The configuration under which the request came.
    pub config: &'a Config,
    /// The host's clock.
    pub now: UnixTime,
    /// The facilitators' own word on what they support, each at its place.
    pub supported: &'a [Supported],
    /// The facilitators that did not answer lately, a bit for each by its place: others are asked first.
    pub failing: u32,
    /// A number that draws among several recipients.
    pub draw: u64,
    /// Random bytes that no client can know, the same for as long as the ledger lives.
    pub secret: [u8; 32],
}

/// Facilitators that were asked the same question, a bit for each by its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Asked(u32);

impl Asked {
    /// The same, and the facilitator at `place`.
    pub(super) fn and(self, place: usize) -> Self {
        Self(self.0 | bit(place))
    }

    const fn holds(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

fn bit(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1_u32.checked_shl(place)).unwrap_or_default()
}

impl Context<'_> {
    /// Returns what a facilitator answered, for the operator.
    pub(super) fn said(&self, place: usize, kind: CallKind, answer: &CalloutAnswer) -> Option<String> {
        Some(facilitator::report(&self.facilitator(place)?.service, kind.path(), answer))
    }

    /// Returns a reason that a facilitator gave as the operator and the client may see it: without the operator's keys, and of
    /// some length.
    pub(super) fn shown(&self, place: Option<usize>, reason: String) -> String {
        match place.and_then(|place| self.facilitator(place)) {
            Some(facilitator) => json::shorten(facilitator.service.conceal(&reason)),
            None => json::shorten(reason),
        }
    }
}

impl<'a> Context<'a> {
    /// Returns the facilitator to be asked next of those at `places`, with its place: the first that was not asked and
    /// answered lately, or else the first that was not asked.
    pub(super) fn next_facilitator(&self, places: &[usize], asked: Asked) -> Option<(usize, &'a Facilitator)> {
        let left = || places.iter().copied().filter(|place| !asked.holds(bit(*place)));
        let place = left().find(|place| self.failing & bit(*place) == 0).or_else(|| left().next())?;
        Some((place, self.facilitator(place)?))
    }

    /// Returns the facilitator at a place of the configuration.
    pub(super) fn facilitator(&self, place: usize) -> Option<&'a Facilitator> {
        self.config.facilitators.get(place)
    }
}
