//! Who holds which payment: a claim on `(network, asset, payer, nonce)`, so that a payment buys one response.
//!
//! Claims live in a [`Store`] that all workers share. Envoy's store never frees a key, so the ledger has a fixed
//! number of pages, each the value of one key, and each holds a bounded number of claims. A spent claim falls away once
//! the payment's own validity has ended: from then on the token itself refuses the payment. One that may hold money waits
//! a day longer for its client (`page.rs`).
//!
//! A payment that nobody has proven yet (its signature is for a contract to check, or for a network that only its facilitator
//! knows) has a claim that lasts as long as the question to the facilitator, and gives way to any other where there is no
//! room: junk takes nobody's place.
//!
//! Beside them, on pages of their own, stand notes about payers who come back without paying again: however many come, they
//! take no payment's place, and what they sign takes the place of nobody's right to come.

pub mod bundles;
mod channels;
pub mod exposure;
mod page;
pub mod remote;

use crate::evm::{Address, Nonce, keccak256};
use crate::money::Amount;
use crate::time::UnixTime;
use crate::x402::{NetworkId, TransactionId};
pub use bundles::BundleOperation;
pub use channels::Channels;
pub use page::CLAIM_BYTES;
use page::{Claim, Page};

/// Shared memory with compare-and-swap.
pub trait Store {
    /// The mark of a version of a value.
    type Version: Copy;

    /// The value of page `page` and its version; `None` where none was written yet.
    ///
    /// # Errors
    /// [`StoreFailed`] where the store does not answer.
    fn read(&mut self, page: u32) -> Result<Option<Stored<Self::Version>>, StoreFailed>;

    /// Writes page `page` if it still has the version that was read (`None`: if it is still absent).
    ///
    /// # Errors
    /// [`StoreFailed`] where the store does not answer.
    fn write(&mut self, page: u32, value: &[u8], expected: Option<Self::Version>) -> Result<Written, StoreFailed>;
}

/// A value and its version.
pub type Stored<Version> = (Vec<u8>, Version);

/// The outcome of a [`Store::write`] that worked as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The page now has the new value.
    Done,
    /// Somebody else wrote the page first; nothing was written.
    Raced,
}

/// The store itself is out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFailed;

/// The key of a payment: the hash of network, asset, payer and nonce. Made of the decoded values, so that another
/// spelling of the same payment has the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PaymentKey([u8; 32]);

impl PaymentKey {
    /// The key of a payment.
    pub fn new(network: &NetworkId, asset: Address, payer: Address, nonce: Nonce) -> Self {
        let parts = [asset.as_bytes(), &payer.as_bytes()[..], nonce.as_bytes(), network.as_str().as_bytes()];
        Self(keccak256(&parts.concat()))
    }

    /// The key of a payment that is known by a digest alone.
    pub fn of_digest(network: &NetworkId, digest: &[u8; 32]) -> Self {
        Self(keccak256(&[&b"x402: a payment, by its digest: "[..], digest, network.as_str().as_bytes()].concat()))
    }

    /// The key of the name that a payer gave a payment.
    pub fn of_identifier(payer: &str, identifier: &str) -> Self {
        Self(keccak256(&[b"x402: a payment's name: ", payer.as_bytes(), b" ", identifier.as_bytes()].concat()))
    }

    /// The payment as a binding, for what is told of it elsewhere.
    pub fn binding(&self) -> Binding {
        Binding::new(&[&self.0])
    }

    /// The key under which a proxy notes that another one is at work on the payment.
    pub fn in_flight(self) -> Self {
        Self(keccak256(&[&b"x402: in flight: "[..], &self.0].concat()))
    }

    /// The key in hexadecimal digits: the same for every try with one payment.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The key under which the ledger remembers for which payment a transaction was made.
    pub fn of_transaction(network: &NetworkId, transaction: TransactionId) -> Self {
        let name = transaction.to_string();
        Self(keccak256(&[b"x402: a transaction: ", network.as_str().as_bytes(), b" ", name.as_bytes()].concat()))
    }

    /// The key of a payer's right to come back to `place`, a digest of what was paid for. That has to hold something that
    /// clients cannot know, or they could choose whose page to fill.
    pub fn of_grant(place: &[u8; 32], payer: &str) -> Self {
        Self(keccak256(&[b"x402: a right to come back: ", &place[..], payer.as_bytes()].concat()))
    }

    /// The key of a payer's bundle at `place`, a digest of what it is for; the same holds for that.
    pub fn of_bundle(place: &[u8; 32], payer: &str) -> Self {
        Self(keccak256(&[b"x402: what is left of a bundle: ", &place[..], payer.as_bytes()].concat()))
    }

    /// The key of a nonce that a payer has signed in with. `secret` is what clients cannot know.
    ///
    /// A payer's nonces share a few pages, so that nobody can fill those of all.
    pub fn of_nonce(secret: &[u8; 32], payer: &str, nonce: &str) -> Self {
        const PAGES_OF_ONE: u8 = 16;
        let start = [&b"x402: a nonce: "[..], secret, payer.as_bytes()].concat();
        let [a, b, c, d, ..] = keccak256(&start);
        let mut key = keccak256(&[&start, &b" "[..], nonce.as_bytes()].concat());
        let [e, f, g, h, ..] = &mut key;
        let own = h.checked_rem(PAGES_OF_ONE).unwrap_or(0);
        (*e, *f, *g, *h) = (a, b, c, d.wrapping_add(own));
        Self(key)
    }

    fn page(self, operation: Operation) -> u32 {
        self.number().saturating_add(operation.first_page())
    }

    /// Its page among those of one kind.
    pub(crate) fn number(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d]).checked_rem(PAGES).unwrap_or(0)
    }
}

/// The binding of a claim to what made it: one hash of what was signed, of the signature, and, where the payment is good for one
/// request alone, of that request.
///
/// Whoever knows payer and nonce, which the chain shows to all, could otherwise collect what a settled payment has yet to
/// buy: a signature that only the chain can check proves nothing once the nonce is used. All 256 bits are kept, for a client
/// chooses what goes in, and may look for two requests with one binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Binding {
    /// The payment's own part: what was signed, and the signature.
    payment: [u8; 32],
    /// The hash of the payment's part and of the request; zeros where the payment is not bound to one.
    request: [u8; 32],
}

impl Binding {
    /// The binding of nothing.
    const NONE: Self = Self { payment: [0; 32], request: [0; 32] };

    /// The binding of a payment that is good for any request at its terms.
    pub fn new(fields: &[&[u8]]) -> Self {
        Self { payment: Self::hash(fields), ..Self::NONE }
    }

    /// The hash of all fields, each behind its length (8 bytes, most significant first), so that no byte can be moved from
    /// one into the next.
    pub fn hash(fields: &[&[u8]]) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len().saturating_add(8)).sum());
        for field in fields {
            bytes.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        keccak256(&bytes)
    }

    /// The same for a payment that is good for one request alone: the one of these fields.
    #[must_use]
    pub fn and(self, fields: &[&[u8]]) -> Self {
        let all: Vec<&[u8]> = std::iter::once(&self.payment[..]).chain(fields.iter().copied()).collect();
        Self { request: Self::hash(&all), ..self }
    }

    /// Returns whether the other is bound to a request, and this one to none yet.
    fn lacks_request_of(self, other: Self) -> bool {
        self.request == Self::NONE.request && other.request != Self::NONE.request
    }

    /// Returns whether both are of one payment, whatever request they are bound to.
    fn is_of_payment(self, other: Self) -> bool {
        self.payment == other.payment
    }
}

/// Marks the request that holds a claim; no two requests that live at the same time share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub u64);

/// A request's hold on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hold {
    /// The request.
    pub owner: Owner,
    /// The time at which the request has surely ended. From then on others may take the claim over.
    pub until: UnixTime,
}

/// The state of a claim. A payment without a claim is absent from the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// A request holds the claim, and asks the facilitator whether the payment is one at all. No money can have moved, and
    /// the claim gives way to one of a payment that is proven.
    Unproven(Hold),
    /// A request holds the claim, and has not asked for settlement: no money has moved.
    InFlight(Hold),
    /// A request holds the claim, and has asked for settlement: money may have moved, by this transaction if one was
    /// named.
    Settling(Hold, Option<TransactionId>),
    /// A request holds the claim, the money has moved, and the response is being fetched.
    Redeeming(Hold, TransactionId),
    /// Settlement was asked for, and nobody heard the answer.
    Unknown {
        /// The time at which the request was over.
        since: UnixTime,
        /// The transfer, as far as the facilitator named one.
        named: Option<TransactionId>,
    },
    /// The money has moved, and bought nothing yet.
    Settled(TransactionId),
    /// The payment has bought a response that is on its way, and is settled when that has ended. Only the request that
    /// opened it may free the claim again, where nothing was to be paid after all.
    Opened(Hold),
    /// The money has moved, and bought its response.
    Spent(TransactionId),
    /// No payment at all, but something to be remembered until it expires.
    Noted,
}

/// Something that a request wants of the ledger. All but the first four, [`Operation::Pin`], and what concerns notes, are
/// for the request that holds the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Take the claim, if nobody holds it.
    Claim {
        /// The time at which the payment's validity ends, and with it the claim.
        expires: UnixTime,
        /// The time at which the request has surely ended.
        until: UnixTime,
        /// The binding of what came. A claim that was left behind is resumed only with the binding that made it.
        binding: Binding,
        /// True if the payment is proven: the filter has checked its signature, or `/verify` has said yes.
        is_proven: bool,
    },
    /// The same for a payment that is proven, and of which settlement is asked for at once: what would be two moves is one.
    ClaimToSettle {
        /// The time at which the payment's validity ends, and with it the claim.
        expires: UnixTime,
        /// The time at which the request has surely ended.
        until: UnixTime,
        /// The binding of what came.
        binding: Binding,
    },
    /// Take the claim, if nobody holds it and settlement was asked for before. For a payment whose validity has ended:
    /// it buys nothing new, but it may have settled, and then it still buys its response.
    Resume {
        /// The time at which the request has surely ended.
        until: UnixTime,
        /// The binding of what came.
        binding: Binding,
    },
    /// Take the claim, if nobody holds it and the answer to a settlement is not known: to find out in the background
    /// what became of it.
    Recover {
        /// The time at which that has surely ended.
        until: UnixTime,
    },
    /// See how the claim stands, and take nothing.
    Look {
        /// The binding of the one payment, whatever request it came with, that is told of what was left behind. Where there is none, what was left behind is told of to the same payment alone, whatever request it came with.
        of: Option<Binding>,
    },
    /// Settlement is about to be asked for: from now on money may move.
    Settle {
        /// The time at which the request has surely ended.
        until: UnixTime,
        /// Atomic units that are to be settled, where that is not the amount that was signed for.
        charge: Option<Amount>,
    },
    /// The money has moved, and the response is yet to be fetched.
    Redeem {
        /// The transfer.
        transaction: TransactionId,
        /// The time at which the request has surely ended.
        until: UnixTime,
    },
    /// The response is on its way to the client, and costs what it turns out to cost: the payment has bought it, and
    /// money moves later, if any does.
    Open,
    /// The money has moved, and the response is on its way to the client.
    Spend {
        /// The transfer.
        transaction: TransactionId,
    },
    /// The money has moved, and the request is over and delivered nothing: the payment keeps its claim to a response.
    Keep {
        /// The transfer.
        transaction: TransactionId,
    },
    /// The request is over and delivered nothing, by no fault of its client. A payment that has settled keeps its claim to a
    /// response; any other is as if it had never come. Of a response that was opened: it cost nothing.
    Release,
    /// The same where the upstream was at work and its client did not wait: of a payment that has settled, this uses up one
    /// of its redemptions.
    Abandon,
    /// A transaction has moved the money of the payment that came with this binding, and of no other. On a key of
    /// [`PaymentKey::of_transaction`].
    Pin {
        /// The payment's binding.
        binding: Binding,
        /// The transaction.
        transaction: TransactionId,
        /// Until when this is remembered, and a day longer.
        expires: UnixTime,
        /// The time at which the ledger first saw the payment, where that may have been found out before: it was asked to settle
        /// earlier. What was found out before that, the payment has spent, and the ledger has forgotten since.
        known_since: Option<UnixTime>,
    },
    /// The request is over, settlement was asked for, and the answer is not known.
    Forget {
        /// The transfer, as far as the facilitator named one.
        named: Option<TransactionId>,
    },
    /// The request is over, and a shared store did not answer it in time: leave the claim as others can take it up. On a claim that
    /// is not the request's this does nothing.
    LetGo,
    /// Note something. On a key of [`PaymentKey::of_grant`].
    Grant {
        /// Until when.
        expires: UnixTime,
    },
    /// See whether something is noted, and was so at most this many seconds ago.
    CheckGrant {
        /// The number.
        seconds: u64,
    },
    /// Note something that must be noted once alone. On a key of [`PaymentKey::of_nonce`].
    ConsumeNonce {
        /// Until when.
        expires: UnixTime,
    },
    /// Something about a bundle. On a key of [`PaymentKey::of_bundle`].
    Bundle(BundleOperation),
}

impl Answer {
    /// Returns whether the claim is the asker's, new or left behind.
    pub const fn is_granted(self) -> bool {
        matches!(self, Self::Granted | Self::GrantedUnknown(_) | Self::GrantedSettled(..))
    }
}

impl Operation {
    /// Returns whether it asks for a claim, and does nothing to one.
    pub const fn begins(self) -> bool {
        matches!(self, Self::Claim { .. } | Self::ClaimToSettle { .. } | Self::Resume { .. } | Self::Look { .. })
    }

    /// The first of the pages that it concerns: payments, what is noted, and what is noted once have their own.
    const fn first_page(self) -> u32 {
        match self {
            Self::Grant { .. } | Self::CheckGrant { .. } => PAGES,
            Self::ConsumeNonce { .. } => PAGES.saturating_mul(2),
            _ => 0,
        }
    }
}

/// The knowledge of a settlement whose answer was not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unheard {
    /// The transfer, as far as the facilitator named one.
    pub named: Option<TransactionId>,
    /// The time at which the ledger first saw the payment. What settled before settled for somebody else: in another proxy, or for a
    /// ledger that is no more.
    pub since: UnixTime,
    /// Atomic units that were to be settled, where that is not the amount that was signed for.
    pub charge: Option<Amount>,
}

/// The ledger's answer to an [`Operation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Done. For [`Operation::Claim`]: the payment is new, and this request's alone.
    Granted,
    /// The claim is this request's; an earlier one asked for settlement and did not hear the answer, or no more of it
    /// than the name of a transfer that is not certain yet.
    GrantedUnknown(Unheard),
    /// The claim is this request's; the payment has settled and bought nothing yet. With the atomic units that were settled,
    /// where that is not the amount that was signed for.
    GrantedSettled(TransactionId, Option<Amount>),
    /// Another request holds the claim.
    InFlight,
    /// To [`Operation::Look`], and to a [`Operation::Claim`] that is not proven, or not bound yet: this payment has settled, or may have, and
    /// bought nothing yet.
    Waiting,
    /// The payment has bought its response. To [`Operation::ConsumeNonce`]: it is noted already.
    Spent,
    /// The payment has settled, and its client has broken off so many redemptions that there are no more.
    Exhausted,
    /// This request does not hold the claim in a state that allows the operation. To [`Operation::CheckGrant`]: nothing is
    /// noted.
    NotHeld,
    /// To a [`BundleOperation`]: done, and so much is left that nobody has taken.
    Left(u128),
    /// No room: every claim on this payment's page is still needed.
    Full,
    /// The store failed.
    Failed,
}

/// The ledger over a store: carries out operations on claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    claims_per_page: usize,
    max_redemptions: u8,
}

/// Pages of payments, and of each kind of notes. The same for every size of ledger, so that a configuration with another
/// size finds the claims of the one before it.
const PAGES: u32 = 4096;

/// Returns whether a page is one of payments, and not of notes.
pub const fn is_of_payments(page: u32) -> bool {
    page < PAGES
}

/// Attempts at a page that others write at the same time. A lost attempt means that another one won, so to lose this
/// often in a row takes a store that is out of order.
const ATTEMPTS: u32 = 64;

impl Ledger {
    /// The number of times that a settled payment is redeemed, unless told otherwise, after its client broke off what it had bought.
    pub const DEFAULT_MAX_REDEMPTIONS: u8 = 3;

    /// A ledger with room for about `claims` claims at a time (at least one a page).
    pub fn with_room_for(claims: u32) -> Self {
        let claims_per_page = usize::try_from(claims.div_ceil(PAGES).max(1)).unwrap_or(usize::MAX);
        Self { claims_per_page, max_redemptions: Self::DEFAULT_MAX_REDEMPTIONS }
    }

    /// The same ledger that redeems a settled payment so often, at least once.
    #[must_use]
    pub fn with_max_redemptions(self, max_redemptions: u8) -> Self {
        Self { max_redemptions: max_redemptions.max(1), ..self }
    }

    /// Carries out `operation` on the claim of `key` for the request `owner`.
    pub fn perform<S: Store>(
        &self,
        store: &mut S,
        key: PaymentKey,
        owner: Owner,
        operation: Operation,
        now: UnixTime,
    ) -> Answer {
        (0..ATTEMPTS)
            .find_map(|_| self.attempt(store, key, owner, operation, now).unwrap_or(Some(Answer::Failed)))
            .unwrap_or(Answer::Failed)
    }

    /// One attempt; `None` where another writer came first.
    fn attempt<S: Store>(
        &self,
        store: &mut S,
        key: PaymentKey,
        owner: Owner,
        operation: Operation,
        now: UnixTime,
    ) -> Result<Option<Answer>, StoreFailed> {
        if let Operation::Bundle(operation) = operation {
            if !bundles::IS_BUILT_IN {
                return Ok(Some(Answer::NotHeld));
            }
            return self.attempt_on_bundle(store, key, owner, operation, now);
        }
        let number = key.page(operation);
        let stored = store.read(number)?;
        let (bytes, version) = stored.map_or((Vec::new(), None), |(bytes, version)| (bytes, Some(version)));
        let mut page = Page::new(bytes).ok_or(StoreFailed)?;
        let (fate, answer) = self.apply(page.get(key)?, key, owner, operation, now);
        match fate {
            Fate::Stays => return Ok(Some(answer)),
            Fate::Goes => page.remove(key),
            Fate::Becomes(claim) => page.update(&claim),
            Fate::Begins(claim) => {
                page.remove(key);
                page.remove_expired(now)?;
                // The money behind a pin has moved, so there is as good as no turning it away: each payment that was let
                // in has one.
                let capacity = match operation {
                    Operation::Pin { .. } => self.claims_per_page.saturating_mul(4),
                    _ => self.claims_per_page,
                };
                let has_room = page.insert(&claim, capacity) || page.evict_unproven() && page.insert(&claim, capacity);
                if !has_room {
                    return Ok(Some(Answer::Full));
                }
            }
        }
        Ok(match store.write(number, page.as_bytes(), version)? {
            Written::Done => Some(answer),
            Written::Raced => None,
        })
    }
}

/// What becomes of a claim, wherever it is kept.
enum Fate {
    Stays,
    Goes,
    Becomes(Claim),
    /// There was none, or one that counts for nothing.
    Begins(Claim),
}

/// The change that an operation makes to a claim.
enum Next {
    Refuse(Answer),
    Restart { state: State, expires: UnixTime, binding: Binding },
    Become(State, Answer),
    Remove,
}

impl Claim {
    /// The claim in its next state, with what the operation that led there adds to it.
    fn become_of(self, operation: Operation, state: State) -> Self {
        let redemptions = match (self.state, state, operation) {
            // Whoever takes up what is owed begins a redemption, and has it back where the upstream failed.
            (State::Settled(_) | State::Redeeming(..), State::Redeeming(..), _) => self.redemptions.saturating_add(1),
            (State::Redeeming(..), State::Settled(_), Operation::Release) => self.redemptions.saturating_sub(1),
            _ => self.redemptions,
        };
        let charge = if let Operation::Settle { charge, .. } = operation { charge } else { self.charge };
        Self { state, redemptions, charge, ..self }
    }
}

impl Ledger {
    /// What becomes of the claim of `key` by an operation of `owner`, and the answer.
    fn apply(
        &self,
        claim: Option<Claim>,
        key: PaymentKey,
        owner: Owner,
        operation: Operation,
        now: UnixTime,
    ) -> (Fate, Answer) {
        match (self.next(claim.as_ref(), owner, operation, now), claim) {
            (Next::Refuse(answer), _) => (Fate::Stays, answer),
            (Next::Remove, _) => (Fate::Goes, Answer::Granted),
            (Next::Become(state, answer), Some(claim)) => (Fate::Becomes(claim.become_of(operation, state)), answer),
            (Next::Become(..), None) => (Fate::Stays, Answer::NotHeld),
            (Next::Restart { state, expires, binding }, _) => {
                let claim = Claim { key, expires, since: now, binding, redemptions: 0, charge: None, state };
                (Fate::Begins(claim), Answer::Granted)
            }
        }
    }

    /// The rules of the ledger: what `operation` by `owner` makes of a claim.
    fn next(&self, claim: Option<&Claim>, owner: Owner, operation: Operation, now: UnixTime) -> Next {
        use State::{InFlight, Noted, Opened, Redeeming, Settled, Settling, Spent, Unknown, Unproven};
        let is_held = |hold: Hold| hold.owner == owner;
        let is_noted = claim.is_some_and(|note| note.expires > now);
        match (operation, claim.map(|claim| claim.state)) {
            (Operation::Claim { expires, until, binding, is_proven }, _) => {
                let hold = Hold { owner, until };
                let state = if is_proven { InFlight(hold) } else { Unproven(hold) };
                self.take_over(claim, hold, binding, is_proven, now).unwrap_or(Next::Restart {
                    state,
                    expires,
                    binding,
                })
            }
            (Operation::ClaimToSettle { expires, until, binding }, _) => {
                let hold = Hold { owner, until };
                let begun = Next::Restart { state: Settling(hold, None), expires, binding };
                self.take_over(claim, hold, binding, true, now).unwrap_or(begun)
            }
            (Operation::Resume { until, binding }, _) => {
                let taken = self.take_over(claim, Hold { owner, until }, binding, true, now);
                taken.unwrap_or(Next::Refuse(Answer::NotHeld))
            }
            (Operation::Recover { until }, Some(Unknown { named, .. })) => {
                let unheard = claim.map_or(Answer::NotHeld, |claim| claim.unheard(named));
                Next::Become(Settling(Hold { owner, until }, named), unheard)
            }
            (Operation::Look { of: None }, Some(Unknown { .. } | Settled(_) | Settling(..) | Redeeming(..))) => {
                Next::Refuse(Answer::Waiting)
            }
            (Operation::Look { of: Some(binding) }, Some(_)) => {
                let seen = self.take_over(claim, Hold { owner, until: now }, binding, false, now);
                seen.unwrap_or(Next::Refuse(Answer::NotHeld))
            }
            (Operation::Settle { until, .. }, Some(InFlight(hold))) if is_held(hold) => {
                Next::Become(Settling(Hold { owner, until }, None), Answer::Granted)
            }
            (Operation::Settle { until, .. }, Some(Settling(hold, named))) if is_held(hold) => {
                Next::Become(Settling(Hold { owner, until }, named), Answer::Granted)
            }
            (Operation::Redeem { transaction, until }, Some(Settling(hold, _))) if is_held(hold) => {
                Next::Become(Redeeming(Hold { owner, until }, transaction), Answer::Granted)
            }
            (Operation::Open, Some(InFlight(hold) | Settling(hold, _))) if is_held(hold) => {
                Next::Become(Opened(hold), Answer::Granted)
            }
            (Operation::Spend { transaction }, Some(Settling(hold, _) | Redeeming(hold, _))) if is_held(hold) => {
                Next::Become(Spent(transaction), Answer::Granted)
            }
            (Operation::Keep { transaction }, Some(Settling(hold, _) | Redeeming(hold, _))) if is_held(hold) => {
                Next::Become(Settled(transaction), Answer::Granted)
            }
            (
                Operation::Release | Operation::Abandon,
                Some(Unproven(hold) | InFlight(hold) | Settling(hold, _) | Opened(hold)),
            ) if is_held(hold) => Next::Remove,
            (Operation::Release | Operation::Abandon, Some(Redeeming(hold, transaction))) if is_held(hold) => {
                Next::Become(Settled(transaction), Answer::Granted)
            }
            (Operation::Forget { named }, Some(Settling(hold, earlier))) if is_held(hold) => {
                Next::Become(Unknown { since: now, named: named.or(earlier) }, Answer::Granted)
            }
            (Operation::LetGo, Some(Unproven(hold) | InFlight(hold))) if is_held(hold) => Next::Remove,
            (Operation::LetGo, Some(Settling(hold, named))) if is_held(hold) => {
                Next::Become(Unknown { since: now, named }, Answer::Granted)
            }
            (Operation::LetGo, Some(Redeeming(hold, transaction))) if is_held(hold) => {
                Next::Become(Settled(transaction), Answer::Granted)
            }
            (Operation::Pin { binding, transaction, expires, .. }, None) => {
                Next::Restart { state: Settled(transaction), expires, binding }
            }
            (Operation::Pin { binding, known_since, .. }, Some(_)) => {
                let is_of_now = |pin: &Claim| known_since.is_some_and(|since| pin.since >= since);
                let is_known = claim.is_some_and(|pin| pin.binding == binding && is_of_now(pin));
                Next::Refuse(if is_known { Answer::Granted } else { Answer::Spent })
            }
            (Operation::CheckGrant { seconds }, Some(Noted))
                if is_noted && claim.is_some_and(|note| note.since.plus(seconds) > now) =>
            {
                Next::Refuse(Answer::Granted)
            }
            (Operation::ConsumeNonce { .. }, Some(Noted)) if is_noted => Next::Refuse(Answer::Spent),
            (Operation::Grant { expires } | Operation::ConsumeNonce { expires }, None | Some(Noted)) => {
                Next::Restart { state: Noted, expires, binding: Binding::NONE }
            }
            _ => Next::Refuse(Answer::NotHeld),
        }
    }

    /// Returns what a request finds that wants the claim; `None` where there is nothing but a hold that counts for nothing: one that
    /// lapsed before any money could move, the request's own, or one of a payment that is not proven where this one is.
    fn take_over(
        &self,
        claim: Option<&Claim>,
        hold: Hold,
        binding: Binding,
        is_proven: bool,
        now: UnixTime,
    ) -> Option<Next> {
        let claim = claim?;
        let is_same = binding == claim.binding;
        let is_live = |earlier: Hold| earlier.until > now;
        let counts = |earlier: Hold| is_live(earlier) && earlier.owner != hold.owner;
        Some(match claim.state {
            State::Unproven(earlier) if is_proven || !counts(earlier) => return None,
            State::InFlight(earlier) if !counts(earlier) => return None,
            State::Unproven(earlier)
            | State::InFlight(earlier)
            | State::Settling(earlier, _)
            | State::Redeeming(earlier, _)
                if is_live(earlier) =>
            {
                Next::Refuse(Answer::InFlight)
            }
            State::Spent(_) | State::Opened(_) => Next::Refuse(Answer::Spent),
            State::Noted => Next::Refuse(Answer::NotHeld),
            // To take it up takes the whole binding, which nobody makes before the payment is verified.
            _ if binding.is_of_payment(claim.binding) && (!is_proven || binding.lacks_request_of(claim.binding)) => {
                Next::Refuse(Answer::Waiting)
            }
            State::Redeeming(..) | State::Settled(_) if is_same && claim.redemptions >= self.max_redemptions => {
                Next::Refuse(Answer::Exhausted)
            }
            State::Redeeming(_, transaction) | State::Settled(transaction) if is_same => {
                let granted = Answer::GrantedSettled(transaction, claim.charge);
                Next::Become(State::Redeeming(hold, transaction), granted)
            }
            State::Redeeming(..) | State::Settled(_) => Next::Refuse(Answer::Spent),
            State::Settling(_, named) | State::Unknown { named, .. } if is_same => {
                Next::Become(State::Settling(hold, named), claim.unheard(named))
            }
            _ => Next::Refuse(Answer::InFlight),
        })
    }
}

#[cfg(test)]
mod tests;
