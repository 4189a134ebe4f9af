//! Settlements that nobody waits for any more, and that are to be looked into again: who is remembered where there is no
//! room for all.

use std::collections::VecDeque;

use super::Payment;
use crate::time::UnixTime;
use crate::x402::TransactionId;
use crate::x402::payment::Payer;

/// A payment whose settlement went unheard, to be looked into again when nobody waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recovery {
    pub(super) payment: Payment,
    /// True if the payment has bought a stream that was delivered, and is to be settled whoever waits.
    pub(super) is_of_stream: bool,
    /// The transfer, as far as the facilitator named one.
    pub(super) named: Option<TransactionId>,
    /// The time at which the ledger first saw the payment.
    pub(super) since: UnixTime,
    /// The first block that is yet to be searched for the transfer, where a search came so far.
    pub(super) searched_to: Option<u64>,
    /// The number of times that it was looked into, this time included.
    pub(super) attempts: u32,
    /// The time at which to try.
    pub due: UnixTime,
}

/// Settlements that a worker remembers, each with what belongs to it. Streams that were delivered and are still owed have room
/// of their own, and no payer has all of it. What is not remembered, the client's next try looks into, or for a stream nobody.
#[derive(Debug)]
pub struct Recoveries<T> {
    waiting: VecDeque<(T, Recovery)>,
}

/// There is no room for a settlement: it is not looked into in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed;

impl<T> Default for Recoveries<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> Recoveries<T> {
    /// Settlements that are remembered at most.
    pub const MOST: usize = 4096;
    /// Of those, settlements whose response was not delivered.
    pub const MOST_UNDELIVERED: usize = 2048;
    /// Of one payer, settlements whose response was not delivered.
    pub const MOST_UNDELIVERED_OF_ONE: usize = 64;
    /// Of one payer, streams that were delivered.
    pub const MOST_STREAMS_OF_ONE: usize = 512;

    /// Remembers a settlement.
    ///
    /// # Errors
    /// [`Shed`] where there is no room for one more of its kind, or of its payer.
    pub fn remember(&mut self, owner: T, recovery: Recovery) -> Result<(), Shed> {
        let (most, most_of_one) = match recovery.is_of_stream {
            true => (Self::MOST, Self::MOST_STREAMS_OF_ONE),
            false => (Self::MOST_UNDELIVERED, Self::MOST_UNDELIVERED_OF_ONE),
        };
        let alike = || self.waiting.iter().filter(|(_, other)| other.is_of_stream == recovery.is_of_stream);
        let is_of_payer = |other: &Recovery| {
            other.payment.payer == recovery.payment.payer && recovery.payment.payer != Payer::Unknown
        };
        let of_payer = alike().filter(|(_, other)| is_of_payer(other)).count();
        if self.waiting.len() >= Self::MOST || alike().count() >= most || of_payer >= most_of_one {
            return Err(Shed);
        }
        self.waiting.push_back((owner, recovery));
        Ok(())
    }

    /// Takes out the settlements that are due, at most so many, the longest remembered first.
    pub fn take_due(&mut self, now: UnixTime, most: usize) -> Vec<(T, Recovery)> {
        let mut due = Vec::new();
        for (owner, recovery) in std::mem::take(&mut self.waiting) {
            if recovery.due > now || due.len() >= most {
                self.waiting.push_back((owner, recovery));
            } else {
                due.push((owner, recovery));
            }
        }
        due
    }

    /// Returns how many are remembered.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether none is.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
