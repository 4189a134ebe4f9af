//! What is left of the bundles that payers have bought: a record for each payer and route, on pages of their own.
//!
//! A request takes its part before the upstream hears of it, keeps what it turned out to cost, and gives the rest back. Two
//! requests at once never take the same. The part of a request that is gone without a word is back after the end of its hold.

use super::{Answer, Hold, Ledger, Owner, PAGES, PaymentKey, Store, StoreFailed, Written};
use crate::time::UnixTime;

/// True if bundles are built in. Without them nothing reaches what is theirs, and the compiler leaves it out.
pub const IS_BUILT_IN: bool = cfg!(feature = "bundles");

/// The first page of bundles: payments, two kinds of notes and channels have theirs before it.
const FIRST: u32 = PAGES * 3 + super::Channels::PAGES;

/// Requests that can be at work on one bundle at a time.
const MOST_PARTS: usize = 64;

/// Payments that are remembered of those that have added to a bundle.
const PAYMENTS: usize = 4;

/// Bytes by which such a payment is known again.
const MARK_BYTES: usize = 16;

/// Seconds for which a bundle is kept that is used up, so that a payment which is recorded twice adds to it once.
const KEPT_SECONDS: u64 = 3600;

/// Records of bundles on a page for each claim that a page of payments has room for. Each is paid for, and the money has moved
/// when it comes, so there is as good as no turning it away.
const RECORDS_A_CLAIM: usize = 16;

/// Something that a request wants of a bundle. Amounts are in what it holds: calls, or atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleOperation {
    /// A payment has settled, and adds to the bundle: once, however often it is recorded.
    Buy {
        /// The payment.
        payment: PaymentKey,
        /// The amount that it adds.
        amount: u128,
        /// The amount of it that the request has used up which it came with.
        used: u128,
        /// The time at which the bundle ends, unless it ends later already.
        expires: UnixTime,
    },
    /// See whether so much is left.
    Check {
        /// The amount.
        amount: u128,
    },
    /// Take so much, if it is left, until it is known what the request costs.
    Take {
        /// The amount.
        amount: u128,
        /// The time at which the request has surely ended.
        until: UnixTime,
    },
    /// Keep what was taken for longer.
    Renew {
        /// The time at which the request has surely ended.
        until: UnixTime,
    },
    /// Keep so much of what was taken, at most all of it, and give the rest back. Where it is back already, so much is taken
    /// anew.
    Charge {
        /// The amount.
        amount: u128,
        /// True if the response is out: then what is left is taken where that is less.
        is_out: bool,
    },
    /// Give back what was taken.
    GiveBack,
}

/// A payer's bundle on a route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bundle {
    key: PaymentKey,
    expires: UnixTime,
    /// The time of the last payment.
    bought: UnixTime,
    /// The amount that nobody has taken.
    left: u128,
    /// The last payments, the latest first; zeros where there was none.
    payments: [[u8; MARK_BYTES]; PAYMENTS],
    /// The parts that requests have taken, and not used yet.
    parts: Vec<(Hold, u128)>,
}

impl Bundle {
    const fn new(key: PaymentKey) -> Self {
        let never = UnixTime::from_secs(0);
        let payments = [[0; MARK_BYTES]; PAYMENTS];
        Self { key, expires: never, bought: never, left: 0, payments, parts: Vec::new() }
    }

    /// Takes out the part of a request, whether its hold has ended or not.
    fn take_out(&mut self, owner: Owner) -> Option<u128> {
        let position = self.parts.iter().position(|(hold, _)| hold.owner == owner)?;
        Some(self.parts.remove(position).1)
    }

    /// Puts the parts back whose holds have ended.
    fn collect(&mut self, now: UnixTime) {
        let Self { parts, left, .. } = self;
        parts.retain(|(hold, amount)| {
            let is_held = hold.until > now;
            if !is_held {
                *left = left.saturating_add(*amount);
            }
            is_held
        });
    }

    fn buy(&mut self, payment: PaymentKey, amount: u128, used: u128, expires: UnixTime, now: UnixTime) -> Answer {
        let mark = mark(payment);
        if self.payments.contains(&mark) {
            return Answer::Spent;
        }
        // What has ended does not begin again.
        if self.expires <= now {
            self.left = 0;
        }
        self.left = self.left.saturating_add(amount.saturating_sub(used));
        (self.expires, self.bought) = (self.expires.max(expires), now);
        self.payments.rotate_right(1);
        let [latest, ..] = &mut self.payments;
        *latest = mark;
        Answer::Left(self.left)
    }

    fn take(&mut self, amount: u128, hold: Hold, now: UnixTime) -> Answer {
        match self.left.checked_sub(amount) {
            Some(left) if self.expires > now => {
                if self.parts.len() >= MOST_PARTS {
                    return Answer::InFlight;
                }
                self.left = left;
                self.parts.push((hold, amount));
                Answer::Left(left)
            }
            _ => Answer::NotHeld,
        }
    }

    fn charge(&mut self, owner: Owner, amount: u128, is_out: bool, now: UnixTime) -> Answer {
        let taken = self.take_out(owner);
        self.collect(now);
        let left = match taken {
            Some(taken) => Some(self.left.saturating_add(taken.saturating_sub(amount))),
            None if is_out => Some(self.left.saturating_sub(amount)),
            None => self.left.checked_sub(amount).filter(|_| self.expires > now),
        };
        match left {
            Some(left) => {
                self.left = left;
                Answer::Left(left)
            }
            None => Answer::NotHeld,
        }
    }

    /// The rules of bundles: what an operation by a request makes of one. A refusal changes nothing that anybody could see.
    fn perform(&mut self, owner: Owner, operation: BundleOperation, now: UnixTime) -> Answer {
        match operation {
            BundleOperation::Charge { amount, is_out } => return self.charge(owner, amount, is_out, now),
            BundleOperation::GiveBack => {
                let taken = self.take_out(owner);
                self.left = self.left.saturating_add(taken.unwrap_or(0));
                self.collect(now);
                return if taken.is_some() { Answer::Left(self.left) } else { Answer::NotHeld };
            }
            _ => self.collect(now),
        }
        match operation {
            BundleOperation::Buy { payment, amount, used, expires } => self.buy(payment, amount, used, expires, now),
            BundleOperation::Check { amount } if self.expires > now && self.left >= amount => Answer::Left(self.left),
            BundleOperation::Take { amount, until } => self.take(amount, Hold { owner, until }, now),
            BundleOperation::Renew { until } => match self.parts.iter_mut().find(|(hold, _)| hold.owner == owner) {
                Some((hold, _)) => {
                    hold.until = until;
                    Answer::Left(self.left)
                }
                None => Answer::NotHeld,
            },
            _ => Answer::NotHeld,
        }
    }

    fn is_needed(&self, now: UnixTime) -> bool {
        let is_held = self.parts.iter().any(|(hold, _)| hold.until > now);
        let has_something = self.expires > now && (self.left > 0 || !self.parts.is_empty());
        is_held || has_something || self.bought.plus(KEPT_SECONDS) > now
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let Self { key, expires, bought, left, payments, parts } = self;
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&expires.as_secs().to_be_bytes());
        bytes.extend_from_slice(&bought.as_secs().to_be_bytes());
        bytes.extend_from_slice(&left.to_be_bytes());
        bytes.extend_from_slice(payments.as_flattened());
        bytes.push(u8::try_from(parts.len()).unwrap_or(u8::MAX));
        for (hold, amount) in parts {
            bytes.extend_from_slice(&hold.owner.0.to_be_bytes());
            bytes.extend_from_slice(&hold.until.as_secs().to_be_bytes());
            bytes.extend_from_slice(&amount.to_be_bytes());
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let key = PaymentKey(take(bytes)?);
        let [expires, bought] = [take(bytes)?, take(bytes)?].map(|secs| UnixTime::from_secs(u64::from_be_bytes(secs)));
        let left = u128::from_be_bytes(take(bytes)?);
        let mut payments = [[0; MARK_BYTES]; PAYMENTS];
        for payment in &mut payments {
            *payment = take(bytes)?;
        }
        let [count] = take(bytes)?;
        let part = |bytes: &mut &[u8]| {
            let owner = Owner(u64::from_be_bytes(take(bytes)?));
            let until = UnixTime::from_secs(u64::from_be_bytes(take(bytes)?));
            Some((Hold { owner, until }, u128::from_be_bytes(take(bytes)?)))
        };
        let parts = (0..count).map(|_| part(bytes)).collect::<Option<Vec<_>>>()?;
        Some(Self { key, expires, bought, left, payments, parts })
    }
}

fn mark(payment: PaymentKey) -> [u8; MARK_BYTES] {
    payment.0.first_chunk().copied().unwrap_or_default()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn decode_page(mut bytes: &[u8]) -> Result<Vec<Bundle>, StoreFailed> {
    let mut bundles = Vec::new();
    while !bytes.is_empty() {
        bundles.push(Bundle::decode(&mut bytes).ok_or(StoreFailed)?);
    }
    Ok(bundles)
}

/// What becomes of the bundle that a shared store keeps as a record of its own, and until when it is kept: `None` where it stays as it is.
///
/// # Errors
/// [`StoreFailed`] where the record is none.
pub(super) fn apply(
    record: Option<&[u8]>,
    key: PaymentKey,
    owner: Owner,
    operation: BundleOperation,
    now: UnixTime,
) -> Result<(Option<Vec<u8>>, Answer), StoreFailed> {
    let mut bundle = record.map_or_else(|| Ok(Bundle::new(key)), decode_one)?;
    let answer = bundle.perform(owner, operation, now);
    if !matches!(answer, Answer::Left(_)) || matches!(operation, BundleOperation::Check { .. }) {
        return Ok((None, answer));
    }
    let mut bytes = Vec::new();
    bundle.encode(&mut bytes);
    Ok((Some(bytes), answer))
}

/// The time until which a bundle's record is kept.
///
/// # Errors
/// [`StoreFailed`] where the record is none.
pub(super) fn kept_until(record: &[u8]) -> Result<UnixTime, StoreFailed> {
    let bundle = decode_one(record)?;
    let held = bundle.parts.iter().map(|(hold, _)| hold.until).max().unwrap_or_default();
    Ok(bundle.expires.max(bundle.bought.plus(KEPT_SECONDS)).max(held))
}

fn decode_one(mut bytes: &[u8]) -> Result<Bundle, StoreFailed> {
    Bundle::decode(&mut bytes).filter(|_| bytes.is_empty()).ok_or(StoreFailed)
}

impl Ledger {
    /// One attempt at an operation on a bundle; `None` where another writer came first.
    pub(super) fn attempt_on_bundle<S: Store>(
        &self,
        store: &mut S,
        key: PaymentKey,
        owner: Owner,
        operation: BundleOperation,
        now: UnixTime,
    ) -> Result<Option<Answer>, StoreFailed> {
        let number = FIRST.saturating_add(key.number());
        let stored = store.read(number)?;
        let (bytes, version) = stored.map_or((Vec::new(), None), |(bytes, version)| (bytes, Some(version)));
        let mut bundles = decode_page(&bytes)?;
        let position = bundles.iter().position(|bundle| bundle.key == key);
        let mut new = Bundle::new(key);
        let answer = match position.and_then(|position| bundles.get_mut(position)) {
            Some(bundle) => bundle.perform(owner, operation, now),
            None => new.perform(owner, operation, now),
        };
        if !matches!(answer, Answer::Left(_)) || matches!(operation, BundleOperation::Check { .. }) {
            return Ok(Some(answer));
        }
        if position.is_none() {
            bundles.retain(|bundle| bundle.is_needed(now));
            if bundles.len() >= self.claims_per_page.saturating_mul(RECORDS_A_CLAIM) {
                return Ok(Some(Answer::Full));
            }
            bundles.push(new);
        }
        let mut bytes = Vec::with_capacity(bytes.len());
        for bundle in &bundles {
            bundle.encode(&mut bytes);
        }
        Ok(match store.write(number, &bytes, version)? {
            Written::Done => Some(answer),
            Written::Raced => None,
        })
    }
}
