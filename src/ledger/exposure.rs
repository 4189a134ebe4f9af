//! What is delivered and not paid for yet, where responses leave before their payments settle: of each payer, and of all.
//!
//! A reservation is made before the request goes up, and is undone when the payment has settled, or bought nothing. What a
//! facilitator refuses for sure becomes the payer's debt, for a day, and counts among what is open of all for as long: so that
//! is the most that can be lost in a day, whoever comes. Each sum stands under the time at which it lapses by itself, for a
//! worker that is no more undoes nothing.
//!
//! The lines stand on pages of their own. Payers come here whose payment is proven, and nobody can choose the page of another.

use super::{ATTEMPTS, Binding, Store, StoreFailed, Written};
use crate::time::UnixTime;
use crate::x402::NetworkId;

/// True if responses may leave before their payments settle. Otherwise nothing reaches what is for that, and the compiler leaves it
/// out.
pub const IS_BUILT_IN: bool = cfg!(feature = "optimistic");

/// The first page of what is open of payers; payments, notes and channels have theirs before it.
const FIRST: u32 = 1 << 20;

/// Pages of what is open of payers.
const PAGES: u32 = 1024;

/// Pages of what is open of all: one for each asset, as good as always.
const PAGES_OF_ALL: u32 = 64;

/// Lines of a page, beyond which nobody has anything reserved on it.
const MOST_LINES: usize = 256;

/// Seconds for which a debt is remembered, and what may have been lost.
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Seconds after the end of a payment's validity at which what is reserved for it lapses at the earliest.
const SLACK_SECONDS: u64 = 60;

/// Whose sums an operation is about: those of a payer in an asset, and those of all in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account {
    payer: Name,
    all: Name,
}

/// A name on a page: a digest of 128 bits, and the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    digest: [u8; 16],
    page: u32,
}

impl Name {
    fn new(secret: &[u8; 32], fields: &[&[u8]], first: u32, pages: u32) -> Self {
        let all: Vec<&[u8]> = [&b"x402: exposure"[..], secret].into_iter().chain(fields.iter().copied()).collect();
        let hash = Binding::hash(&all);
        let [a, b, c, d, ..] = hash;
        let page = u32::from_be_bytes([a, b, c, d]).checked_rem(pages).unwrap_or(0);
        let digest = hash.last_chunk().copied().unwrap_or_default();
        Self { digest, page: page.saturating_add(first) }
    }
}

impl Account {
    /// The account of a payer in an asset. `secret` is what clients cannot know, or they could choose whose page to fill.
    pub fn new(secret: &[u8; 32], network: &NetworkId, asset: &str, payer: &str) -> Self {
        let fields = [network.as_str().as_bytes(), asset.as_bytes()];
        let [network, asset] = fields;
        Self {
            payer: Name::new(secret, &[network, asset, payer.as_bytes()], FIRST, PAGES),
            all: Name::new(secret, &fields, FIRST.saturating_add(PAGES), PAGES_OF_ALL),
        }
    }
}

/// The most that may be open, in atomic units.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Of one payer.
    pub payer: u128,
    /// Of all payers.
    pub total: u128,
}

/// A sum that is reserved for a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// Atomic units.
    amount: u128,
    /// The time at which it lapses.
    lapses: UnixTime,
}

impl Reservation {
    /// A sum that was reserved and is not any more.
    pub const fn of(amount: u128, lapses: UnixTime) -> Self {
        Self { amount, lapses }
    }

    /// The same reserved for a day from now, for nobody knows whether the payment has settled.
    #[must_use]
    pub fn for_a_day(self, now: UnixTime) -> Self {
        Self { lapses: in_a_day(now), ..self }
    }
}

/// Something that is done about what is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reserve a sum for a payment, unless that is beyond a limit, or its payer owes.
    Reserve {
        /// Atomic units.
        amount: u128,
        /// The most that may be open with it.
        limits: Limits,
        /// The end of the payment's validity.
        expires: UnixTime,
    },
    /// The payment has settled, or bought nothing.
    Release(Reservation),
    /// Let a reservation lapse at another time.
    Move {
        /// The reservation.
        from: Reservation,
        /// What it becomes.
        to: Reservation,
    },
    /// The payment has bought its response, and is refused for sure: its payer owes the sum.
    Default(Reservation),
    /// A payment of the payer's has settled for what it owes.
    Repay {
        /// Atomic units.
        amount: u128,
    },
}

/// The debt of a payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Debt {
    /// Atomic units that are owed.
    pub owed: u128,
    /// Atomic units of the largest payment that was refused.
    pub largest: u128,
}

/// The answer to an [`Operation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The sum is reserved.
    Reserved(Reservation),
    /// The sum would be beyond a limit, or there is no room to remember it.
    Beyond,
    /// The payer owes.
    Owes(Debt),
    /// So much of the payment went to what its payer owed, and so much is owed still; in atomic units.
    Repaid {
        /// What it paid of the debt.
        paid: u128,
        /// What is left of the debt.
        left: u128,
    },
    /// Done.
    Done,
    /// The store failed.
    Failed,
}

/// Carries out an operation.
pub fn perform<S: Store>(store: &mut S, account: &Account, operation: Operation, now: UnixTime) -> Answer {
    attempt(store, account, operation, now).unwrap_or(Answer::Failed)
}

/// Returns the atomic units that are open of all payers in an asset.
///
/// # Errors
/// [`StoreFailed`] where the store does not answer.
pub fn open_of_all<S: Store>(
    store: &mut S,
    secret: &[u8; 32],
    network: &NetworkId,
    asset: &str,
    now: UnixTime,
) -> Result<u128, StoreFailed> {
    let Account { all, .. } = Account::new(secret, network, asset, "");
    let stored = store.read(all.page)?;
    let lines = Lines::decode(stored.as_ref().map_or(&[], |(bytes, _)| bytes), now)?;
    Ok(lines.sum(all, Kind::Open))
}

fn attempt<S: Store>(
    store: &mut S,
    account: &Account,
    operation: Operation,
    now: UnixTime,
) -> Result<Answer, StoreFailed> {
    let Account { payer, all } = *account;
    match operation {
        Operation::Reserve { amount, limits, expires } => {
            let reservation = Reservation { amount, lapses: rounded(expires.max(now).plus(SLACK_SECONDS), now) };
            let answer = change(store, payer, now, |lines| lines.reserve(payer, reservation, limits.payer))?;
            if answer != Answer::Reserved(reservation) {
                return Ok(answer);
            }
            let answer = change(store, all, now, |lines| lines.reserve(all, reservation, limits.total));
            if answer != Ok(Answer::Reserved(reservation)) {
                change(store, payer, now, |lines| lines.take(payer, Kind::Open, reservation))?;
            }
            answer
        }
        Operation::Release(reservation) => {
            for name in [payer, all] {
                change(store, name, now, |lines| lines.take(name, Kind::Open, reservation))?;
            }
            Ok(Answer::Done)
        }
        Operation::Move { from, to } => {
            for name in [payer, all] {
                change(store, name, now, |lines| {
                    lines.take(name, Kind::Open, from);
                    lines.add(name, Kind::Open, to);
                })?;
            }
            Ok(Answer::Done)
        }
        Operation::Default(from) => {
            let to = from.for_a_day(now);
            change(store, payer, now, |lines| {
                lines.take(payer, Kind::Open, from);
                lines.add(payer, Kind::Owed, to);
            })?;
            change(store, all, now, |lines| {
                lines.take(all, Kind::Open, from);
                lines.add(all, Kind::Open, to);
            })?;
            Ok(Answer::Done)
        }
        Operation::Repay { amount } => {
            let (parts, left) = change(store, payer, now, |lines| lines.repay(payer, amount))?;
            change(store, all, now, |lines| {
                for part in &parts {
                    lines.take(all, Kind::Open, *part);
                }
            })?;
            let paid = parts.iter().fold(0_u128, |sum, part| sum.saturating_add(part.amount));
            Ok(Answer::Repaid { paid, left })
        }
    }
}

/// Changes the page of a name.
fn change<S: Store, T>(
    store: &mut S,
    Name { page, .. }: Name,
    now: UnixTime,
    act: impl Fn(&mut Lines) -> T,
) -> Result<T, StoreFailed> {
    for _ in 0..ATTEMPTS {
        let stored = store.read(page)?;
        let (bytes, version) = stored.map_or((Vec::new(), None), |(bytes, version)| (bytes, Some(version)));
        let mut lines = Lines::decode(&bytes, now)?;
        let result = act(&mut lines);
        let changed = lines.encode();
        if changed == bytes || store.write(page, &changed, version)? == Written::Done {
            return Ok(result);
        }
    }
    Err(StoreFailed)
}

/// The time at which something lapses that is to last until `time`: later, so that few times have to be told apart.
fn rounded(time: UnixTime, now: UnixTime) -> UnixTime {
    const FINE_SECONDS: u64 = 64;
    const COARSE_SECONDS: u64 = 4096;
    let is_soon = time.as_secs().saturating_sub(now.as_secs()) <= COARSE_SECONDS;
    let width = if is_soon { FINE_SECONDS } else { COARSE_SECONDS };
    UnixTime::from_secs(time.as_secs().div_ceil(width).saturating_mul(width))
}

fn in_a_day(now: UnixTime) -> UnixTime {
    rounded(now.plus(DAY_SECONDS), now)
}

/// What a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A sum that is open.
    Open,
    /// A sum that its payer owes.
    Owed,
}

/// One line of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    name: [u8; 16],
    kind: Kind,
    lapses: UnixTime,
    /// Atomic units, above 0.
    amount: u128,
    /// Of a debt: atomic units of the largest payment that was refused.
    largest: u128,
}

/// Bytes of a line: name, kind, lapse, amount, largest.
const LINE_BYTES: usize = 16 + 1 + 8 + 16 + 16;

impl Line {
    fn decode(bytes: &[u8; LINE_BYTES]) -> Option<Self> {
        let (name, rest) = bytes.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let (lapses, rest) = rest.split_first_chunk()?;
        let (amount, largest) = rest.split_first_chunk()?;
        Some(Self {
            name: *name,
            kind: match kind {
                1 => Kind::Open,
                2 => Kind::Owed,
                _ => return None,
            },
            lapses: UnixTime::from_secs(u64::from_be_bytes(*lapses)),
            amount: u128::from_be_bytes(*amount),
            largest: u128::from_be_bytes(largest.try_into().ok()?),
        })
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.name);
        bytes.push(match self.kind {
            Kind::Open => 1,
            Kind::Owed => 2,
        });
        bytes.extend_from_slice(&self.lapses.as_secs().to_be_bytes());
        bytes.extend_from_slice(&self.amount.to_be_bytes());
        bytes.extend_from_slice(&self.largest.to_be_bytes());
    }
}

/// The lines of a page that have not lapsed.
struct Lines(Vec<Line>);

impl Lines {
    fn decode(bytes: &[u8], now: UnixTime) -> Result<Self, StoreFailed> {
        let (lines, rest) = bytes.as_chunks::<LINE_BYTES>();
        if !rest.is_empty() {
            return Err(StoreFailed);
        }
        let mut all = Vec::with_capacity(lines.len());
        for bytes in lines {
            let line = Line::decode(bytes).ok_or(StoreFailed)?;
            if line.lapses > now && line.amount > 0 {
                all.push(line);
            }
        }
        Ok(Self(all))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len().saturating_mul(LINE_BYTES));
        for line in self.0.iter().filter(|line| line.amount > 0) {
            line.encode(&mut bytes);
        }
        bytes
    }

    fn of(&self, name: Name, kind: Kind) -> impl Iterator<Item = &Line> {
        self.0.iter().filter(move |line| line.name == name.digest && line.kind == kind)
    }

    fn sum(&self, name: Name, kind: Kind) -> u128 {
        self.of(name, kind).fold(0, |sum, line| sum.saturating_add(line.amount))
    }

    fn debt(&self, name: Name) -> Option<Debt> {
        let largest = self.of(name, Kind::Owed).map(|line| line.largest).max()?;
        Some(Debt { owed: self.sum(name, Kind::Owed), largest })
    }

    fn reserve(&mut self, name: Name, reservation: Reservation, most: u128) -> Answer {
        if let Some(debt) = self.debt(name) {
            return Answer::Owes(debt);
        }
        let sum = self.sum(name, Kind::Open).checked_add(reservation.amount);
        if sum.is_none_or(|sum| sum > most) || self.0.len() >= MOST_LINES {
            return Answer::Beyond;
        }
        self.add(name, Kind::Open, reservation);
        Answer::Reserved(reservation)
    }

    fn find(&mut self, name: Name, kind: Kind, lapses: UnixTime) -> Option<&mut Line> {
        self.0.iter_mut().find(|line| line.name == name.digest && line.kind == kind && line.lapses == lapses)
    }

    fn add(&mut self, name: Name, kind: Kind, Reservation { amount, lapses }: Reservation) {
        match self.find(name, kind, lapses) {
            Some(line) => {
                line.amount = line.amount.saturating_add(amount);
                line.largest = line.largest.max(amount);
            }
            None => self.0.push(Line { name: name.digest, kind, lapses, amount, largest: amount }),
        }
    }

    /// Takes a sum away, as far as it is still there.
    fn take(&mut self, name: Name, kind: Kind, Reservation { amount, lapses }: Reservation) {
        if let Some(line) = self.find(name, kind, lapses) {
            line.amount = line.amount.saturating_sub(amount);
        }
    }

    /// Pays what is owed, the oldest first; what was paid of each debt, and what is left.
    fn repay(&mut self, name: Name, mut amount: u128) -> (Vec<Reservation>, u128) {
        let mut parts = Vec::new();
        loop {
            let owed = self.of(name, Kind::Owed).filter(|line| line.amount > 0);
            let Some(oldest) = owed.min_by_key(|line| line.lapses).copied() else { break };
            let part = Reservation { amount: oldest.amount.min(amount), lapses: oldest.lapses };
            if part.amount == 0 {
                break;
            }
            amount = amount.saturating_sub(part.amount);
            self.take(name, Kind::Owed, part);
            parts.push(part);
        }
        (parts, self.sum(name, Kind::Owed))
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::tests::MemoryStore;

    const LIMITS: Limits = Limits { payer: 50, total: 120 };

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }

    fn account(payer: u8) -> Account {
        let network = NetworkId::from_chain_id(84532);
        Account::new(&[7; 32], &network, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", &format!("0x{payer}"))
    }

    fn reserve(amount: u128, expires: u64) -> Operation {
        Operation::Reserve { amount, limits: LIMITS, expires: at(expires) }
    }

    /// A store with the accounts of a few payers.
    #[derive(Default)]
    struct Books(MemoryStore);

    impl Books {
        fn does(&mut self, payer: u8, operation: Operation, now: u64) -> Answer {
            perform(&mut self.0, &account(payer), operation, at(now))
        }

        fn reserves(&mut self, payer: u8, amount: u128, now: u64) -> Option<Reservation> {
            match self.does(payer, reserve(amount, now + 300), now) {
                Answer::Reserved(reservation) => Some(reservation),
                _ => None,
            }
        }

        fn all(&mut self, now: u64) -> u128 {
            let network = NetworkId::from_chain_id(84532);
            open_of_all(&mut self.0, &[7; 32], &network, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", at(now)).unwrap()
        }
    }

    #[test]
    fn a_payer_and_all_payers_have_bounds() {
        let mut books = Books::default();
        let first = books.reserves(1, 30, 0).unwrap();
        assert!(books.reserves(1, 20, 0).is_some());
        assert_eq!(books.does(1, reserve(1, 300), 0), Answer::Beyond);
        assert!(books.reserves(2, 50, 0).is_some());
        assert_eq!(books.does(3, reserve(21, 300), 0), Answer::Beyond);
        assert!(books.reserves(3, 20, 0).is_some(), "what was refused for all has left nothing with the payer");
        assert_eq!(books.all(0), 120);
        assert_eq!(books.does(1, Operation::Release(first), 1), Answer::Done);
        assert_eq!(books.all(1), 90);
        assert!(books.reserves(1, 30, 1).is_some());
    }

    #[test]
    fn what_a_crash_leaves_behind_lapses_after_the_payment() {
        let mut books = Books::default();
        assert!(books.reserves(1, 50, 1000).is_some());
        assert_eq!(books.all(1000 + 300 + SLACK_SECONDS - 1), 50);
        assert_eq!(books.all(1000 + 300 + SLACK_SECONDS + 64), 0);
        assert!(books.reserves(1, 50, 1000 + 300 + SLACK_SECONDS + 64).is_some());
    }

    #[test]
    fn what_is_refused_is_owed_until_it_is_paid_and_counts_among_what_is_open() {
        let mut books = Books::default();
        let (first, second) = (books.reserves(1, 10, 0).unwrap(), books.reserves(1, 25, 0).unwrap());
        books.does(1, Operation::Default(first), 5);
        books.does(1, Operation::Default(second), 7000);
        let owes = Answer::Owes(Debt { owed: 35, largest: 25 });
        assert_eq!(books.does(1, reserve(1, 8000), 7001), owes);
        assert_eq!(books.all(7001), 35);
        assert!(books.reserves(2, 50, 7001).is_some(), "another payer owes nothing");
        assert_eq!(books.does(1, Operation::Repay { amount: 25 }, 7002), Answer::Repaid { paid: 25, left: 10 });
        assert_eq!(books.all(7002), 60);
        assert_eq!(books.does(1, Operation::Repay { amount: 25 }, 7003), Answer::Repaid { paid: 10, left: 0 });
        assert_eq!(books.does(1, Operation::Repay { amount: 25 }, 7003), Answer::Repaid { paid: 0, left: 0 });
        assert_eq!(books.all(7003), 50);
        assert!(books.reserves(1, 50, 7003).is_some());
    }

    #[test]
    fn a_debt_is_forgotten_after_a_day() {
        let mut books = Books::default();
        let reservation = books.reserves(1, 10, 0).unwrap();
        books.does(1, Operation::Default(reservation), 100);
        assert!(books.reserves(1, 10, DAY_SECONDS).is_none());
        assert!(books.reserves(1, 10, DAY_SECONDS + 100 + 4096).is_some());
    }

    #[test]
    fn what_nobody_knows_of_stays_open_for_a_day() {
        let mut books = Books::default();
        let from = books.reserves(1, 50, 0).unwrap();
        let to = from.for_a_day(at(10));
        books.does(1, Operation::Move { from, to }, 10);
        assert_eq!(books.all(3600), 50);
        assert_eq!(books.does(1, reserve(1, 4000), 3600), Answer::Beyond, "who owes nothing for sure is no debtor");
        books.does(1, Operation::Release(to), 3600);
        assert_eq!(books.all(3600), 0);
    }

    #[test]
    fn a_default_is_owed_even_where_its_reservation_has_lapsed() {
        let mut books = Books::default();
        let reservation = books.reserves(1, 10, 0).unwrap();
        books.does(1, Operation::Default(reservation), 5000);
        assert_eq!(books.does(1, reserve(1, 6000), 5001), Answer::Owes(Debt { owed: 10, largest: 10 }));
        assert_eq!(books.all(5001), 10);
    }

    #[test]
    fn a_store_that_fails_reserves_nothing_and_races_are_tried_again() {
        let mut books = Books(MemoryStore { fails: true, ..MemoryStore::default() });
        assert_eq!(books.does(1, reserve(1, 300), 0), Answer::Failed);
        let mut books = Books(MemoryStore { races: 5, ..MemoryStore::default() });
        assert!(books.reserves(1, 10, 0).is_some());
        let mut books = Books(MemoryStore { races: u32::MAX, ..MemoryStore::default() });
        assert_eq!(books.does(1, reserve(1, 300), 0), Answer::Failed);
        let mut garbled = Books::default();
        garbled.0.pages.insert(account(1).payer.page, (b"garbled".to_vec(), 1));
        assert_eq!(garbled.does(1, reserve(1, 300), 0), Answer::Failed);
    }

    #[test]
    fn a_full_page_reserves_nothing_more() {
        let mut books = Books::default();
        let name = account(1).payer;
        let line = |number: u8| Line { name: [number; 16], kind: Kind::Open, lapses: at(9999), amount: 1, largest: 1 };
        let lines = Lines((0..=u8::MAX).map(line).collect());
        books.0.pages.insert(name.page, (lines.encode(), 1));
        assert_eq!(books.does(1, reserve(1, 300), 0), Answer::Beyond);
        assert!(books.reserves(1, 1, 10_000).is_some());
    }

    proptest! {
        /// Whatever happens in whatever order: a reservation brings nobody above a limit, and what is open of all is what was
        /// reserved and neither undone, nor paid, nor lapsed.
        #[test]
        fn no_reservation_exceeds_a_bound_and_the_books_balance(
            steps in prop::collection::vec((0_u8..4, 0_u8..5, 1_u128..40, 0_u64..200), 1..120),
        ) {
            let (mut books, mut now) = (Books::default(), 0);
            // What should be open: payer, reservation, and whether it is owed.
            let mut open: Vec<(u8, Reservation, bool)> = Vec::new();
            for (payer, what, amount, pause) in steps {
                now += pause;
                open.retain(|(_, reservation, _)| reservation.lapses > at(now));
                let sum = |open: &[(u8, Reservation, bool)], of: Option<u8>| -> u128 {
                    let mine = open.iter().filter(|(other, ..)| of.is_none_or(|payer| payer == *other));
                    mine.map(|(_, reservation, _)| reservation.amount).sum()
                };
                let mine = open.iter().position(|(other, _, is_owed)| *other == payer && !is_owed);
                let owes = open.iter().any(|(other, _, is_owed)| *other == payer && *is_owed);
                match (what, mine) {
                    (0 | 1, _) => match books.does(payer, reserve(amount, now + 300), now) {
                        Answer::Reserved(reservation) => {
                            prop_assert!(!owes);
                            open.push((payer, reservation, false));
                            prop_assert!(sum(&open, Some(payer)) <= LIMITS.payer);
                            prop_assert!(sum(&open, None) <= LIMITS.total);
                        }
                        Answer::Owes(debt) => {
                            prop_assert!(owes);
                            prop_assert!(debt.owed > 0 && debt.largest > 0);
                        }
                        answer => {
                            prop_assert_eq!(answer, Answer::Beyond);
                            let is_beyond = sum(&open, Some(payer)) + amount > LIMITS.payer
                                || sum(&open, None) + amount > LIMITS.total;
                            prop_assert!(is_beyond);
                        }
                    },
                    (2, Some(position)) => {
                        let (_, reservation, _) = open.remove(position);
                        books.does(payer, Operation::Release(reservation), now);
                    }
                    (3, Some(position)) => {
                        let (_, reservation, _) = open.remove(position);
                        books.does(payer, Operation::Default(reservation), now);
                        open.push((payer, reservation.for_a_day(at(now)), true));
                    }
                    (4, _) => {
                        let owed: u128 = open.iter().filter(|(other, _, is_owed)| *other == payer && *is_owed)
                            .map(|(_, reservation, _)| reservation.amount).sum();
                        let paid = owed.min(amount);
                        prop_assert_eq!(
                            books.does(payer, Operation::Repay { amount }, now),
                            Answer::Repaid { paid, left: owed - paid }
                        );
                        let mut rest = paid;
                        open.sort_by_key(|(_, reservation, _)| reservation.lapses);
                        for (_, reservation, _) in open.iter_mut().filter(|(other, _, is_owed)| *other == payer && *is_owed) {
                            let part = reservation.amount.min(rest);
                            reservation.amount -= part;
                            rest -= part;
                        }
                        open.retain(|(_, reservation, _)| reservation.amount > 0);
                    }
                    _ => {}
                }
                prop_assert_eq!(books.all(now), sum(&open, None));
            }
        }
    }
}
