//! What is to be done to one record, and the rules for that.

use super::record::Value;
use super::{Kind, RecordKey, Revision};
use crate::channel::{self, ChannelId, record::Change as ChannelChange};
use crate::evm::keccak256;
use crate::ledger::page::{CLAIM_BYTES, Claim};
use crate::ledger::{Answer, Fate, Ledger, Operation, Owner, PaymentKey, State, StoreFailed, bundles};
use crate::time::UnixTime;

/// Something that a request wants of the shared ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// An operation on a claim, a note or a bundle.
    Ledger(PaymentKey, Operation),
    /// An operation on a channel.
    Channel(ChannelId, channel::Operation),
    /// Take, or keep, the right to do what one proxy does for all, until a time.
    Lease(LeaseName, UnixTime),
    /// Take back a move whose answer was lost, if it came about; and if it did not, see to it that it never does.
    Undo(Undo),
}

/// The name of a right that one proxy of a fleet has at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseName([u8; 32]);

impl LeaseName {
    /// The right of this name.
    pub fn new(name: &str) -> Self {
        Self(keccak256(&[b"x402: a right: ", name.as_bytes()].concat()))
    }
}

/// A move that is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    pub(super) key: RecordKey,
    pub(super) number: u64,
    /// The revision that the record had to have for it.
    pub(super) expected: Revision,
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
    /// The right is the owner's, or another one's, until then.
    Lease {
        /// True if it is the owner's.
        is_own: bool,
        /// Until when it is whose it is.
        until: UnixTime,
    },
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

    /// The payment whose claim it is about, if it is about one.
    pub const fn payment(&self) -> Option<PaymentKey> {
        match self {
            Self::Ledger(key, operation) if matches!(kind_of(*operation), Kind::Claim) => Some(*key),
            _ => None,
        }
    }

    /// The key of the record.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Ledger(PaymentKey(hash), operation) => RecordKey::new(kind_of(*operation), *hash),
            Self::Channel(id, _) => RecordKey::new(Kind::Channel, *id.as_bytes()),
            Self::Lease(LeaseName(hash), _) => RecordKey::new(Kind::Lease, *hash),
            Self::Undo(undo) => undo.key.clone(),
        }
    }

    /// The answer where the store does not work.
    pub const fn failed(&self) -> Said {
        match self {
            Self::Ledger(..) => Said::Ledger(Answer::Failed),
            Self::Channel(..) => Said::Channel(channel::Answer::Failed),
            Self::Lease(..) => Said::Lease { is_own: false, until: UnixTime::from_secs(0) },
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
                };
                (change, Said::Channel(answer))
            }
            Self::Lease(_, until) => {
                let held = record.map(|record| decode_lease(record).ok_or(StoreFailed)).transpose()?;
                match held.filter(|(other, until)| *other != owner && *until > now) {
                    Some((_, until)) => (Change::Keep, Said::Lease { is_own: false, until }),
                    None => (Change::Put(encode_lease(owner, *until)), Said::Lease { is_own: true, until: *until }),
                }
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
    let begins = matches!(
        operation,
        Operation::Claim { .. }
            | Operation::ClaimToSettle { .. }
            | Operation::ConsumeNonce { .. }
            | Operation::Grant { .. }
    );
    begins && claim.needed_until() <= now
}

fn decode_claim(bytes: &[u8]) -> Result<Claim, StoreFailed> {
    let bytes: &[u8; CLAIM_BYTES] = bytes.try_into().map_err(|_| StoreFailed)?;
    Claim::decode(bytes).ok_or(StoreFailed)
}

fn encode_lease(Owner(owner): Owner, until: UnixTime) -> Vec<u8> {
    [owner.to_be_bytes(), until.as_secs().to_be_bytes()].concat()
}

/// The owner of a right, and until when it is his.
fn decode_lease(bytes: &[u8]) -> Option<(Owner, UnixTime)> {
    let (owner, until) = bytes.split_first_chunk::<8>()?;
    let until = u64::from_be_bytes(until.try_into().ok()?);
    Some((Owner(u64::from_be_bytes(*owner)), UnixTime::from_secs(until)))
}

/// Reads the record of a channel out of the value that a store keeps; `None` where there is nothing recorded any more.
///
/// # Errors
/// [`StoreFailed`] where it is something else.
pub fn channel_of_value(value: &[u8]) -> Result<Option<channel::Record>, StoreFailed> {
    let value = Value::decode(value).ok_or(StoreFailed)?;
    value.record.as_deref().map(decode_channel).transpose()
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
        Kind::Lease => Some(decode_lease(record).ok_or(StoreFailed)?.1),
        Kind::Fleet => None,
    })
}

/// Returns whether the response of a claim's payment has begun, and may end without a charge.
pub(super) fn is_opened(record: Option<&[u8]>) -> bool {
    record.is_some_and(|record| decode_claim(record).is_ok_and(|claim| matches!(claim.state, State::Opened(_))))
}

/// Returns whether a request that has proven the payment of a claim is at work, so that every other one is told to wait.
pub(super) fn is_at_work(record: Option<&[u8]>, now: UnixTime) -> bool {
    let Some(Ok(claim)) = record.map(decode_claim) else { return false };
    match claim.state {
        State::InFlight(hold) | State::Settling(hold, _) | State::Redeeming(hold, _) => hold.until > now,
        _ => false,
    }
}

/// Returns until when it has to be remembered that a claim's payment has bought its response; `None` where it has not, or that is no
/// claim.
pub(super) fn spent_until(record: Option<&[u8]>) -> Option<UnixTime> {
    let claim = decode_claim(record?).ok()?;
    claim.is_spent().then(|| claim.needed_until())
}
