//! A page of the ledger: claims, and their bytes in the store.

use ruint::aliases::U256;

use super::{Answer, Binding, Hold, Owner, PaymentKey, State, StoreFailed, Unheard};
use crate::money::Amount;
use crate::time::UnixTime;
use crate::x402::TransactionId;

/// The claims of one page, as they stand in the store: one behind the other, [`CLAIM_BYTES`] each. What an operation does
/// not touch is neither read nor written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page(Vec<u8>);

/// A claim on a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: PaymentKey,
    /// The end of the payment's validity.
    pub(super) expires: UnixTime,
    /// The time at which it was made.
    pub(super) since: UnixTime,
    /// The binding of what the payment came with.
    pub(super) binding: Binding,
    /// Redemptions that were begun since the payment settled, but for those that failed by the upstream's fault.
    pub(super) redemptions: u8,
    /// Atomic units that are settled, where that is not the amount that was signed for.
    pub(super) charge: Option<Amount>,
    pub(super) state: State,
}

/// Bytes of a claim: key, state's tag, expiry, since, binding, redemptions, whether there is a charge, charge, owner, until,
/// transaction. Every claim has all of them.
pub const CLAIM_BYTES: usize = 32 + 1 + 8 + 8 + 64 + 1 + 1 + 32 + 8 + 8 + TransactionId::BYTES;

/// The offset of the state's tag in a claim.
const TAG_AT: usize = 32;

/// The tag of [`State::Unproven`].
const UNPROVEN: u8 = 8;

/// Seconds that a spent claim outlives its payment's validity, for the chain's clock may lag behind this one.
const CLOCK_SLACK_SECONDS: u64 = 60;

/// Seconds that a payment which has settled, or may have, waits for its client to come back.
const PATIENCE_SECONDS: u64 = 24 * 60 * 60;

impl Page {
    /// The page of these bytes; `None` where they are not those of one.
    pub(super) fn new(bytes: Vec<u8>) -> Option<Self> {
        let (_, rest) = bytes.as_chunks::<CLAIM_BYTES>();
        if rest.is_empty() { Some(Self(bytes)) } else { None }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The claim of a payment, if it has one.
    ///
    /// # Errors
    /// [`StoreFailed`] where what stands there is no claim.
    pub(super) fn get(&self, key: PaymentKey) -> Result<Option<Claim>, StoreFailed> {
        let (claims, _) = self.0.as_chunks::<CLAIM_BYTES>();
        let found = claims.iter().find(|claim| claim.starts_with(&key.0));
        found.map(|claim| Claim::decode(claim).ok_or(StoreFailed)).transpose()
    }

    /// Writes a claim in the place of the one with the same key.
    pub(super) fn update(&mut self, claim: &Claim) {
        let (claims, _) = self.0.as_chunks_mut::<CLAIM_BYTES>();
        for place in claims.iter_mut().filter(|place| place.starts_with(&claim.key.0)) {
            *place = claim.encode();
        }
    }

    /// Adds a claim; `false` where `capacity` claims stand there already.
    pub(super) fn insert(&mut self, claim: &Claim, capacity: usize) -> bool {
        let has_room = self.0.len() < capacity.saturating_mul(CLAIM_BYTES);
        if has_room {
            self.0.extend_from_slice(&claim.encode());
        }
        has_room
    }

    pub(super) fn remove(&mut self, key: PaymentKey) {
        self.keep(|claim| !claim.starts_with(&key.0));
    }

    /// Drops the oldest claim of a payment that is not proven; `false` where there is none.
    pub(super) fn evict_unproven(&mut self) -> bool {
        let is_unproven = |claim: &[u8; CLAIM_BYTES]| claim.get(TAG_AT) == Some(&UNPROVEN);
        let (claims, _) = self.0.as_chunks::<CLAIM_BYTES>();
        let Some(oldest) = claims.iter().position(is_unproven) else { return false };
        let mut position = 0_usize;
        self.keep(|_| {
            let is_kept = position != oldest;
            position = position.saturating_add(1);
            is_kept
        });
        true
    }

    /// Drops the claims that are of no more use.
    ///
    /// # Errors
    /// [`StoreFailed`] where one of them is none.
    pub(super) fn remove_expired(&mut self, now: UnixTime) -> Result<(), StoreFailed> {
        let mut result = Ok(());
        self.keep(|claim| match Claim::decode(claim) {
            Some(claim) => claim.needed_until() > now,
            None => {
                result = Err(StoreFailed);
                true
            }
        });
        result
    }

    fn keep(&mut self, mut is_kept: impl FnMut(&[u8; CLAIM_BYTES]) -> bool) {
        let (claims, _) = self.0.as_chunks::<CLAIM_BYTES>();
        let kept: Vec<&[u8; CLAIM_BYTES]> = claims.iter().filter(|claim| is_kept(claim)).collect();
        if kept.len() < claims.len() {
            self.0 = kept.into_iter().flatten().copied().collect();
        }
    }
}

impl Claim {
    /// Returns whether its payment has bought its response, for good.
    pub(super) const fn is_spent(&self) -> bool {
        matches!(self.state, State::Spent(_))
    }

    /// Returns what a request is told that takes up a settlement whose answer was not heard.
    pub(super) const fn unheard(&self, named: Option<TransactionId>) -> Answer {
        Answer::GrantedUnknown(Unheard { named, since: self.since, charge: self.charge })
    }

    /// A payment that bought its response is remembered until the token itself refuses it, one that is owed a response
    /// a day longer. One that nobody has paid for yet is remembered for a day at most, whatever its validity: it costs
    /// its sender nothing.
    pub(super) fn needed_until(&self) -> UnixTime {
        match self.state {
            State::Unproven(hold) | State::InFlight(hold) => hold.until,
            State::Settling(hold, _) => hold.until.plus(PATIENCE_SECONDS),
            State::Unknown { since, .. } => since.plus(PATIENCE_SECONDS),
            State::Redeeming(hold, _) => self.expires.max(hold.until).plus(PATIENCE_SECONDS),
            State::Settled(_) => self.expires.plus(PATIENCE_SECONDS),
            // What is not settled yet is verified anew if it comes again.
            State::Opened(_) => self.expires.plus(CLOCK_SLACK_SECONDS).min(self.since.plus(PATIENCE_SECONDS)),
            State::Spent(_) => self.expires.plus(CLOCK_SLACK_SECONDS),
            State::Noted => self.expires,
        }
    }

    pub(super) fn encode(&self) -> [u8; CLAIM_BYTES] {
        const NOBODY: Hold = Hold { owner: Owner(0), until: UnixTime::from_secs(0) };
        const NONE: TransactionId = TransactionId::ZERO;
        let (tag, hold, transaction) = match self.state {
            State::Unproven(hold) => (UNPROVEN, hold, NONE),
            State::InFlight(hold) => (1, hold, NONE),
            State::Settling(hold, named) => (2, hold, named.unwrap_or(NONE)),
            State::Redeeming(hold, transaction) => (3, hold, transaction),
            State::Unknown { since, named } => (4, Hold { until: since, ..NOBODY }, named.unwrap_or(NONE)),
            State::Settled(transaction) => (5, NOBODY, transaction),
            State::Spent(transaction) => (6, NOBODY, transaction),
            State::Noted => (7, NOBODY, NONE),
            State::Opened(hold) => (9, hold, NONE),
        };
        let charge = self.charge.map_or([0; 32], |charge| charge.to_integer().to_be_bytes());
        let mut bytes = [0; CLAIM_BYTES];
        let mut rest = bytes.as_mut_slice();
        for part in [
            self.key.0.as_slice(),
            &[tag],
            &self.expires.as_secs().to_be_bytes(),
            &self.since.as_secs().to_be_bytes(),
            &self.binding.payment,
            &self.binding.request,
            &[self.redemptions, u8::from(self.charge.is_some())],
            &charge,
            &hold.owner.0.to_be_bytes(),
            &hold.until.as_secs().to_be_bytes(),
            &transaction.to_bytes(),
        ] {
            // The parts have the length of the whole.
            let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else { break };
            place.copy_from_slice(part);
            rest = behind;
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; CLAIM_BYTES]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let ([tag], rest) = rest.split_first_chunk::<1>()?;
        let (expires, rest) = take_u64(rest)?;
        let (since, rest) = take_u64(rest)?;
        let (payment, rest) = rest.split_first_chunk::<32>()?;
        let (request, rest) = rest.split_first_chunk::<32>()?;
        let ([redemptions, has_charge], rest) = rest.split_first_chunk::<2>()?;
        let (charge, rest) = rest.split_first_chunk::<32>()?;
        let (owner, rest) = take_u64(rest)?;
        let (until, rest) = take_u64(rest)?;
        let transaction = TransactionId::read_bytes(rest.first_chunk()?)?;
        let hold = Hold { owner: Owner(owner), until: UnixTime::from_secs(until) };
        let named = Some(transaction).filter(|transaction| *transaction != TransactionId::ZERO);
        let state = match *tag {
            1 => State::InFlight(hold),
            2 => State::Settling(hold, named),
            3 => State::Redeeming(hold, transaction),
            4 => State::Unknown { since: hold.until, named },
            5 => State::Settled(transaction),
            6 => State::Spent(transaction),
            7 => State::Noted,
            UNPROVEN => State::Unproven(hold),
            9 => State::Opened(hold),
            _ => return None,
        };
        Some(Self {
            key: PaymentKey(*key),
            expires: UnixTime::from_secs(expires),
            since: UnixTime::from_secs(since),
            binding: Binding { payment: *payment, request: *request },
            redemptions: *redemptions,
            charge: (*has_charge == 1).then(|| Amount::from(U256::from_be_bytes(*charge))),
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
        let charge = (byte % 2 == 1).then(|| Amount::from(u64::from(byte)));
        Claim {
            key: PaymentKey([byte; 32]),
            expires,
            since,
            binding: Binding { payment: [5; 32], request: [byte; 32] },
            redemptions: byte,
            charge,
            state,
        }
    }

    #[test]
    fn every_state_survives_the_store() {
        let hold = Hold { owner: Owner(7), until: UnixTime::from_secs(8) };
        let transaction = TransactionId::from_bytes([9; 32]);
        let states = [
            State::InFlight(hold),
            State::Unproven(hold),
            State::Opened(hold),
            State::Settling(hold, None),
            State::Settling(hold, Some(transaction)),
            State::Redeeming(hold, transaction),
            State::Unknown { since: UnixTime::from_secs(3), named: None },
            State::Unknown { since: UnixTime::from_secs(3), named: Some(transaction) },
            State::Settled(transaction),
            State::Spent(transaction),
            State::Noted,
        ];
        let mut page = Page::new(Vec::new()).unwrap();
        for (byte, state) in (0..).zip(states) {
            assert!(page.insert(&claim(byte, state), states.len()));
        }
        assert!(!page.insert(&claim(11, State::Spent(transaction)), states.len()));
        let mut page = Page::new(page.as_bytes().to_vec()).unwrap();
        for (byte, state) in (0..).zip(states) {
            assert_eq!(page.get(PaymentKey([byte; 32])), Ok(Some(claim(byte, state))));
        }
        page.update(&claim(3, State::InFlight(hold)));
        page.remove(PaymentKey([2; 32]));
        assert_eq!(page.get(PaymentKey([2; 32])), Ok(None));
        assert_eq!(page.get(PaymentKey([3; 32])), Ok(Some(claim(3, State::InFlight(hold)))));
        assert_eq!(page.get(PaymentKey([4; 32])), Ok(Some(claim(4, states[4]))));
        assert_eq!(page.as_bytes().len(), (states.len() - 1) * CLAIM_BYTES);
    }

    #[test]
    fn bytes_of_something_else_are_no_page() {
        assert_eq!(Page::new(b"something else".to_vec()), None);
        let mut zeros = Page::new(vec![0; CLAIM_BYTES]).unwrap();
        assert_eq!(zeros.get(PaymentKey([0; 32])), Err(StoreFailed));
        assert_eq!(zeros.remove_expired(UnixTime::from_secs(1)), Err(StoreFailed));
        assert_eq!(zeros.get(PaymentKey([1; 32])), Ok(None));
    }
}
