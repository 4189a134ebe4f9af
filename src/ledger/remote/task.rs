//! What is to be done to one record, and the rules for that.

use super::{Kind, RecordKey};
use crate::channel::{self, ChannelId, record::Change as ChannelChange};
use crate::ledger::page::{CLAIM_BYTES, Claim};
use crate::ledger::{Answer, Fate, Ledger, Operation, Owner, PaymentKey, StoreFailed, bundles};
use crate::time::UnixTime;

/// Something that a request wants of the shared ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// An operation on a claim, a note or a bundle.
    Ledger(PaymentKey, Operation),
    /// An operation on a channel.
    Channel(ChannelId, channel::Operation),
    /// Take back a move whose answer was lost, if it came about; and if it did not, see to it that it never does.
    Undo(Undo),
}

/// A move that is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    pub(super) key: RecordKey,
    pub(super) number: u64,
    /// What was recorded before.
    pub(super) before: Option<Vec<u8>>,
}

/// What the ledger says of a [`Task`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Of a claim, a note or a bundle.
    Ledger(Answer),
    /// Of a channel.
    Channel(channel::Answer),
    /// The move is taken back.
    Undone,
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Keep,
    Put(Vec<u8>),
    Remove,
}

/// Seconds for which a channel's record is kept after its last use, where there is nothing to claim. Who comes later is asked about
/// at its facilitator.
const CHANNEL_KEPT_SECONDS: u64 = 90 * 24 * 60 * 60;

/// Seconds for which is kept that there is no record any more, for a write that is late.
const NOTHING_KEPT_SECONDS: u64 = 600;

impl Task {
    /// The payment that the task wants to begin with, if it is such a task.
    pub const fn begins_with(&self) -> Option<PaymentKey> {
        match self {
            Self::Ledger(key, operation) if operation.begins() => Some(*key),
            _ => None,
        }
    }

    /// The key of the record.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Ledger(PaymentKey(hash), operation) => RecordKey::new(kind_of(*operation), *hash),
            Self::Channel(id, _) => RecordKey::new(Kind::Channel, *id.as_bytes()),
            Self::Undo(undo) => undo.key.clone(),
        }
    }

    /// The answer where the store does not work.
    pub const fn failed(&self) -> Said {
        match self {
            Self::Ledger(..) => Said::Ledger(Answer::Failed),
            Self::Channel(..) => Said::Channel(channel::Answer::Failed),
            Self::Undo(_) => Said::Undone,
        }
    }

    /// The rules: what becomes of what is recorded, and the answer.
    ///
    /// # Errors
    /// [`StoreFailed`] where what stands there is no record of this kind.
    pub(super) fn apply(
        &self,
        rules: &Ledger,
        record: Option<&[u8]>,
        owner: Owner,
        now: UnixTime,
    ) -> Result<(Change, Said), StoreFailed> {
        Ok(match self {
            Self::Ledger(key, Operation::Bundle(operation)) => {
                if !bundles::IS_BUILT_IN {
                    return Ok((Change::Keep, Said::Ledger(Answer::NotHeld)));
                }
                let (bytes, answer) = bundles::apply(record, *key, owner, *operation, now)?;
                (bytes.map_or(Change::Keep, Change::Put), Said::Ledger(answer))
            }
            Self::Ledger(key, operation) => {
                let claim = record.map(decode_claim).transpose()?.filter(|claim| !is_over(claim, *operation, now));
                let (fate, answer) = rules.apply(claim, *key, owner, *operation, now);
                let change = match fate {
                    Fate::Stays => Change::Keep,
                    Fate::Goes => Change::Remove,
                    Fate::Becomes(claim) | Fate::Begins(claim) => Change::Put(claim.encode().to_vec()),
                };
                (change, Said::Ledger(answer))
            }
            Self::Channel(_, operation) => {
                if !channel::IS_BUILT_IN {
                    return Ok((Change::Keep, Said::Channel(channel::Answer::NotHeld)));
                }
                let record = record.map(decode_channel).transpose()?;
                let (change, answer) = channel::record::apply(record.as_ref(), owner.0, operation, now);
                let change = match change {
                    ChannelChange::Keep => Change::Keep,
                    ChannelChange::Put(record) => Change::Put(record.encode().to_vec()),
                    ChannelChange::Remove => Change::Remove,
                };
                (change, Said::Channel(answer))
            }
            // It is written in any case: the revision that the lost move was conditional on is gone then.
            Self::Undo(undo) => (undo.before.clone().map_or(Change::Remove, Change::Put), Said::Undone),
        })
    }
}

/// The kind of record that an operation is about.
const fn kind_of(operation: Operation) -> Kind {
    match operation {
        Operation::Grant { .. } | Operation::CheckGrant { .. } | Operation::ConsumeNonce { .. } => Kind::Note,
        Operation::Bundle(_) => Kind::Bundle,
        _ => Kind::Claim,
    }
}

/// Returns whether a claim that the store still has is of no more use to a request that begins: a store drops them late.
fn is_over(claim: &Claim, operation: Operation, now: UnixTime) -> bool {
    let begins = matches!(operation, Operation::Claim { .. } | Operation::ConsumeNonce { .. } | Operation::Grant { .. });
    begins && claim.needed_until() <= now
}

fn decode_claim(bytes: &[u8]) -> Result<Claim, StoreFailed> {
    let bytes: &[u8; CLAIM_BYTES] = bytes.try_into().map_err(|_| StoreFailed)?;
    Claim::decode(bytes).ok_or(StoreFailed)
}

fn decode_channel(bytes: &[u8]) -> Result<channel::Record, StoreFailed> {
    let bytes: &[u8; channel::Record::BYTES] = bytes.try_into().map_err(|_| StoreFailed)?;
    channel::Record::decode(bytes).ok_or(StoreFailed)
}

/// Returns until when a record is needed: `None` for good.
///
/// # Errors
/// [`StoreFailed`] where it is no record of its kind.
pub(super) fn kept_until(kind: Kind, record: Option<&[u8]>, now: UnixTime) -> Result<Option<UnixTime>, StoreFailed> {
    let Some(record) = record else { return Ok(Some(now.plus(NOTHING_KEPT_SECONDS))) };
    Ok(match kind {
        Kind::Claim | Kind::Note => Some(decode_claim(record)?.needed_until()),
        Kind::Bundle => Some(bundles::kept_until(record)?),
        Kind::Channel => {
            let record = decode_channel(record)?;
            let is_needed = record.unclaimed() > 0 || record.claim.is_some();
            let held = record.hold.map_or(record.last_used, |hold| hold.until);
            (!is_needed).then(|| held.max(record.last_used).plus(CHANNEL_KEPT_SECONDS))
        }
        Kind::Fleet | Kind::Lease => None,
    })
}

/// Returns until when it has to be remembered that a claim's payment has bought its response; `None` where it has not, or that is no
/// claim.
pub(super) fn spent_until(record: Option<&[u8]>) -> Option<UnixTime> {
    let claim = decode_claim(record?).ok()?;
    claim.is_spent().then(|| claim.needed_until())
}
