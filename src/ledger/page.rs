//! A page of the ledger: claims, and their bytes in the store.

use super::{Hold, Owner, PaymentKey, SignatureMark, State};
use crate::time::UnixTime;
use crate::x402::TransactionId;

/// The claims of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page(Vec<Claim>);

/// A claim on a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: PaymentKey,
    /// The end of the payment's validity.
    pub(super) expires: UnixTime,
    /// When it was made.
    pub(super) since: UnixTime,
    /// The signature that the payment came with.
    pub(super) signature: SignatureMark,
    pub(super) state: State,
}

/// Bytes of a claim: key, expiry, since, signature, state's tag, owner, until, transaction. Every claim has all of them.
pub const CLAIM_BYTES: usize = 32 + 8 + 8 + 8 + 1 + 8 + 8 + TransactionId::BYTES;

/// Seconds that a spent claim outlives its payment's validity, for the chain's clock may lag behind this one.
const CLOCK_SLACK_SECONDS: u64 = 60;

/// Seconds that a payment which has settled, or may have, waits for its client to come back.
const PATIENCE_SECONDS: u64 = 24 * 60 * 60;

impl Page {
    /// Reads a page; `None` where the bytes are not those of one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (claims, rest) = bytes.as_chunks::<CLAIM_BYTES>();
        let claims: Option<Vec<_>> = claims.iter().map(Claim::decode).collect();
        claims.filter(|_| rest.is_empty()).map(Self)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(Claim::encode).collect()
    }

    pub(super) fn get(&self, key: PaymentKey) -> Option<Claim> {
        self.0.iter().find(|claim| claim.key == key).cloned()
    }

    pub(super) fn update(&mut self, key: PaymentKey, state: State) {
        for claim in self.0.iter_mut().filter(|claim| claim.key == key) {
            claim.state = state;
        }
    }

    /// Adds a claim; `false` where `capacity` claims stand there already.
    pub(super) fn insert(&mut self, claim: Claim, capacity: usize) -> bool {
        let has_room = self.0.len() < capacity;
        if has_room {
            self.0.push(claim);
        }
        has_room
    }

    pub(super) fn remove(&mut self, key: PaymentKey) {
        self.0.retain(|claim| claim.key != key);
    }

    /// Drops the claims that are of no more use.
    pub(super) fn remove_expired(&mut self, now: UnixTime) {
        self.0.retain(|claim| claim.needed_until() > now);
    }
}

impl Claim {
    /// A payment that bought its response is remembered until the token itself refuses it, one that is owed a response
    /// a day longer. One that nobody has paid for yet is remembered for a day at most, whatever its validity: it costs
    /// its sender nothing.
    fn needed_until(&self) -> UnixTime {
        match self.state {
            State::InFlight(hold) => hold.until,
            State::Settling(hold, _) => hold.until.plus(PATIENCE_SECONDS),
            State::Unknown { since, .. } => since.plus(PATIENCE_SECONDS),
            State::Redeeming(hold, _) => self.expires.max(hold.until).plus(PATIENCE_SECONDS),
            State::Settled(_) => self.expires.plus(PATIENCE_SECONDS),
            // What was not settled when it was spent (a stream, or a charge of nothing) costs its sender nothing to have
            // here, and is verified anew if it comes again.
            State::Spent(TransactionId::ZERO) => {
                self.expires.plus(CLOCK_SLACK_SECONDS).min(self.since.plus(PATIENCE_SECONDS))
            }
            State::Spent(_) => self.expires.plus(CLOCK_SLACK_SECONDS),
        }
    }

    fn encode(&self) -> Vec<u8> {
        const NOBODY: Hold = Hold { owner: Owner(0), until: UnixTime::from_secs(0) };
        const NONE: TransactionId = TransactionId::ZERO;
        let (tag, hold, transaction) = match self.state {
            State::InFlight(hold) => (1, hold, NONE),
            State::Settling(hold, named) => (2, hold, named.unwrap_or(NONE)),
            State::Redeeming(hold, transaction) => (3, hold, transaction),
            State::Unknown { since, named } => (4, Hold { until: since, ..NOBODY }, named.unwrap_or(NONE)),
            State::Settled(transaction) => (5, NOBODY, transaction),
            State::Spent(transaction) => (6, NOBODY, transaction),
        };
        let mut bytes = Vec::with_capacity(CLAIM_BYTES);
        bytes.extend_from_slice(&self.key.0);
        bytes.extend_from_slice(&self.expires.as_secs().to_be_bytes());
        bytes.extend_from_slice(&self.since.as_secs().to_be_bytes());
        bytes.extend_from_slice(&self.signature.0.to_be_bytes());
        bytes.push(tag);
        bytes.extend_from_slice(&hold.owner.0.to_be_bytes());
        bytes.extend_from_slice(&hold.until.as_secs().to_be_bytes());
        bytes.extend_from_slice(&transaction.to_bytes());
        bytes
    }

    fn decode(bytes: &[u8; CLAIM_BYTES]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let (expires, rest) = take_u64(rest)?;
        let (since, rest) = take_u64(rest)?;
        let (signature, rest) = take_u64(rest)?;
        let ([tag], rest) = rest.split_first_chunk::<1>()?;
        let (owner, rest) = take_u64(rest)?;
        let (until, rest) = take_u64(rest)?;
        let transaction = TransactionId::read_bytes(rest.first_chunk()?)?;
        let hold = Hold { owner: Owner(owner), until: UnixTime::from_secs(until) };
        let named = Some(transaction).filter(|transaction| *transaction != TransactionId::ZERO);
        let state = match tag {
            1 => State::InFlight(hold),
            2 => State::Settling(hold, named),
            3 => State::Redeeming(hold, transaction),
            4 => State::Unknown { since: hold.until, named },
            5 => State::Settled(transaction),
            6 => State::Spent(transaction),
            _ => return None,
        };
        Some(Self {
            key: PaymentKey(*key),
            expires: UnixTime::from_secs(expires),
            since: UnixTime::from_secs(since),
            signature: SignatureMark(signature),
            state,
        })
    }
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(byte: u8, state: State) -> Claim {
        let (expires, since) = (UnixTime::from_secs(100), UnixTime::from_secs(90));
        Claim { key: PaymentKey([byte; 32]), expires, since, signature: SignatureMark(5), state }
    }

    #[test]
    fn every_state_survives_the_store() {
        let hold = Hold { owner: Owner(7), until: UnixTime::from_secs(8) };
        let transaction = TransactionId::from_bytes([9; 32]);
        let states = [
            State::InFlight(hold),
            State::Settling(hold, None),
            State::Settling(hold, Some(transaction)),
            State::Redeeming(hold, transaction),
            State::Unknown { since: UnixTime::from_secs(3), named: None },
            State::Unknown { since: UnixTime::from_secs(3), named: Some(transaction) },
            State::Settled(transaction),
            State::Spent(transaction),
        ];
        let mut page = Page(Vec::new());
        for (byte, state) in (0..).zip(states) {
            assert!(page.insert(claim(byte, state), 8));
        }
        assert!(!page.insert(claim(9, State::Spent(transaction)), 8));
        assert_eq!(Page::decode(&page.encode()), Some(page));
    }

    #[test]
    fn bytes_of_something_else_are_no_page() {
        assert_eq!(Page::decode(b"something else"), None);
        assert_eq!(Page::decode(&[0; CLAIM_BYTES]), None);
        assert_eq!(Page::decode(b""), Some(Page(Vec::new())));
    }
}
