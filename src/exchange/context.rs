//! What a step of the exchange may look at beside its state.

use crate::config::Config;
use crate::facilitator::Supported;
use crate::time::UnixTime;

/// Everything that a step may look at.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The configuration under which the request came.
    pub config: &'a Config,
    /// The host's clock.
    pub now: UnixTime,
    /// The facilitator's own word on what it supports.
    pub supported: &'a Supported,
    /// A number that draws among several recipients.
    pub draw: u64,
    /// Random bytes that no client can know, the same for as long as the ledger lives.
    pub secret: [u8; 32],
    /// The time at which the ledger began: what was before, it does not know, nor what an earlier process of the same proxy does while that
    /// one ends.
    pub ledger_since: UnixTime,
}

impl Context<'_> {
    /// Returns whether a payment that was first seen then can have been used by way of this ledger alone.
    pub(super) fn is_exclusive_since(&self, seen: UnixTime) -> bool {
        self.config.ledger_exclusive_after.is_some_and(|seconds| seen >= self.ledger_since.plus(seconds))
    }
}
