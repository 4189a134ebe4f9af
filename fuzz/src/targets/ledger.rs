//! The ledger, against a model that knows nothing of states: who has a payment, was its settlement asked for, has it
//! settled, what did it buy. The other half begins with a page of garbage, and asks for no more than safety.
//!
//! An input is a byte that says how to begin, and then operations of three requests on three payments of one page, with
//! writers that get in between.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use x402_proxy_wasm::evm::{Address, Nonce};
use x402_proxy_wasm::ledger::{
    Answer, Binding, Ledger, Operation, Owner, PaymentKey, Store, StoreFailed, Stored, Unheard, Written,
};
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::{NetworkId, TransactionId};

use crate::common::MemoryStore;

/// Steps of one input.
const STEPS: usize = 120;

const DAY: u64 = 24 * 60 * 60;

pub(super) fn run(input: &[u8]) {
    match input.split_first() {
        Some((0..0xa0, rest)) => drop(by_rights(&mut Unstructured::new(rest))),
        Some((choice, rest)) => drop(from_garbage(*choice, rest)),
        None => {}
    }
}

/// Three payments that the ledger keeps on one page, and that page.
static PAYMENTS: LazyLock<([PaymentKey; 3], u32)> = LazyLock::new(|| {
    let key = |number: u32| {
        let mut nonce = [0; 32];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        let (asset, payer) = (Address::from_bytes([1; 20]), Address::from_bytes([2; 20]));
        PaymentKey::new(&NetworkId::from_chain_id(1), asset, payer, Nonce::from_bytes(nonce))
    };
    let page = |key: &PaymentKey| {
        let mut store = MemoryStore::default();
        let claim = Operation::Claim { expires: time(9), until: time(9), binding: mark(0), is_proven: true };
        Ledger::with_room_for(1).perform(&mut store, *key, Owner(1), claim, time(0));
        *store.0.keys().next().expect("a claim is stored")
    };
    let first = page(&key(0));
    let mut keys = (0..).map(key).filter(|key| page(key) == first);
    (std::array::from_fn(|_| keys.next().expect("there are enough")), first)
});

fn time(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn mark(payment: u8) -> Binding {
    Binding::new(&[&[payment]])
}

/// One operation as an input has it.
#[derive(Debug, Clone, Copy)]
struct Step {
    payment: usize,
    owner: u64,
    operation: Operation,
}

fn any_step(input: &mut Unstructured<'_>, now: u64, number: u8) -> Result<Step> {
    let choice: u8 = input.arbitrary()?;
    let (payment, owner) = (usize::from(choice % 3), u64::from(choice / 3 % 3));
    let kind: u8 = input.arbitrary()?;
    let until = time(now + 1 + u64::from(kind >> 4) * 8);
    let binding = mark(u8::from(choice > 220));
    let charge = choice.is_multiple_of(2).then(|| Amount::from(u64::from(number)));
    let mut hash = [7; 32];
    hash[0] = number;
    let transaction = TransactionId::from_bytes(hash);
    let expires = time([500, 5_000, 200_000][payment]);
    let operation = match kind % 16 {
        0..4 if expires > time(now) => Operation::Claim { expires, until, binding, is_proven: kind % 4 != 3 },
        0..5 => Operation::Resume { until, binding },
        5 => Operation::Recover { until },
        6 => Operation::Look { of: None },
        7..9 => Operation::Settle { until, charge },
        9 => Operation::Redeem { transaction, until },
        10 => Operation::Spend { transaction },
        11 => Operation::Keep { transaction },
        12 if choice.is_multiple_of(3) => Operation::Abandon,
        12 => Operation::Release,
        13 => Operation::Open,
        14 => Operation::Forget { named: Some(transaction) },
        _ => Operation::Forget { named: None },
    };
    Ok(Step { payment, owner, operation })
}

fn any_pause(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.arbitrary::<u8>()? {
        0..150 => 0,
        pause @ 150..220 => u64::from(pause - 149),
        pause @ 220..250 => u64::from(pause) * 2,
        _ => DAY / 2,
    })
}

// ------------------------------------------------------------------------------------------------------ the model

/// What is known of a payment.
#[derive(Debug, Clone, Copy)]
struct Claim {
    expires: u64,
    since: u64,
    binding: Binding,
    /// What was to be settled when that was last asked for.
    charge: Option<Amount>,
    /// Redemptions that were not the upstream's fault.
    redeemed: u8,
    /// Which request has it, and until when that is sure.
    holder: Option<(u64, u64)>,
    money: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Money {
    /// Nobody knows whether there is any.
    Unproven,
    /// Nobody asked for it.
    AtRest,
    /// Settlement was asked for, and somebody may have named a transaction. When the last to ask gave up.
    Asked(Option<TransactionId>, u64),
    Moved(TransactionId),
    /// It is to be asked for when the response that it bought has ended.
    Promised,
    Spent,
}

impl Claim {
    /// Whether a request has it that may still live.
    fn is_busy(&self, now: u64) -> bool {
        !matches!(self.money, Money::Spent | Money::Promised) && self.holder.is_some_and(|(_, until)| until > now)
    }

    /// From when on nobody misses it.
    fn ends(&self) -> u64 {
        let held = self.holder.map_or(0, |(_, until)| until);
        match self.money {
            Money::AtRest | Money::Unproven => held,
            Money::Promised => (self.expires + 60).min(self.since + DAY),
            Money::Asked(_, gave_up) => self.holder.map_or(gave_up, |_| held) + DAY,
            Money::Moved(_) => self.expires.max(held) + DAY,
            Money::Spent => self.expires + 60,
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    claims: [Option<Claim>; 3],
    /// How many claims fit on the page.
    room: usize,
    /// How many were made, and as which each of those that stand.
    made: u64,
    order: [u64; 3],
}

impl Model {
    fn perform(&mut self, step: Step, now: u64) -> Answer {
        let old = self.claims[step.payment];
        match step.operation {
            Operation::Claim { expires, until, binding, is_proven } => {
                let own = |old: &Claim| old.holder.is_some_and(|(owner, _)| owner == step.owner);
                let is_nothing = |old: &Claim| match old.money {
                    Money::Unproven => is_proven || own(old),
                    Money::AtRest => own(old),
                    _ => false,
                };
                match old.filter(|old| may_matter(old, now) && !is_nothing(old)) {
                    Some(old) if is_proven => self.take(step, old, binding, until.as_secs(), now),
                    Some(old) => match old.money {
                        _ if old.is_busy(now) => Answer::InFlight,
                        Money::Promised | Money::Spent => Answer::Spent,
                        _ if old.binding == binding => Answer::Waiting,
                        Money::Moved(_) => Answer::Spent,
                        _ => Answer::InFlight,
                    },
                    None => {
                        let money = if is_proven { Money::AtRest } else { Money::Unproven };
                        self.begin(step, expires.as_secs(), until.as_secs(), binding, money, now)
                    }
                }
            }
            Operation::Resume { until, binding } => match old.filter(|old| {
                may_matter(old, now)
                    && old.money != Money::Unproven
                    && !(old.money == Money::AtRest && old.holder.is_some_and(|(owner, _)| owner == step.owner))
            }) {
                Some(old) => self.take(step, old, binding, until.as_secs(), now),
                None => Answer::NotHeld,
            },
            Operation::Recover { until } => match old {
                Some(Claim { holder: None, money: Money::Asked(named, _), since, charge, .. }) => {
                    self.hold(step, until.as_secs());
                    Answer::GrantedUnknown(Unheard { named, since: time(since), charge })
                }
                _ => Answer::NotHeld,
            },
            Operation::Look { .. } => match old.map(|old| old.money) {
                Some(Money::Asked(..) | Money::Moved(_)) => Answer::Waiting,
                _ => Answer::NotHeld,
            },
            _ => match old.filter(|old| old.holder.is_some_and(|(owner, _)| owner == step.owner)) {
                Some(old) => self.go_on(step, old, now),
                None => Answer::NotHeld,
            },
        }
    }

    fn hold(&mut self, step: Step, until: u64) {
        if let Some(claim) = &mut self.claims[step.payment] {
            claim.holder = Some((step.owner, until));
        }
    }

    /// Takes what somebody left behind.
    fn take(&mut self, step: Step, old: Claim, binding: Binding, until: u64, now: u64) -> Answer {
        let is_same = old.binding == binding;
        match old.money {
            _ if old.is_busy(now) => Answer::InFlight,
            Money::Asked(named, _) if is_same => {
                self.hold(step, until);
                Answer::GrantedUnknown(Unheard { named, since: time(old.since), charge: old.charge })
            }
            Money::Moved(_) if is_same && old.redeemed >= 3 => Answer::Exhausted,
            Money::Moved(transaction) if is_same => {
                self.hold(step, until);
                if let Some(claim) = &mut self.claims[step.payment] {
                    claim.redeemed += 1;
                }
                Answer::GrantedSettled(transaction, old.charge)
            }
            Money::Asked(..) | Money::AtRest | Money::Unproven => Answer::InFlight,
            Money::Moved(_) | Money::Spent | Money::Promised => Answer::Spent,
        }
    }

    /// Takes what is new.
    fn begin(&mut self, step: Step, expires: u64, until: u64, binding: Binding, money: Money, now: u64) -> Answer {
        let stays = |claim: &Option<Claim>| claim.is_some_and(|claim| claim.ends() > now);
        let others: Vec<usize> = (0..3).filter(|other| *other != step.payment && stays(&self.claims[*other])).collect();
        let junk = others.iter().filter(|other| self.claims[**other].is_some_and(|one| one.money == Money::Unproven));
        let victim =
            if others.len() >= self.room { junk.min_by_key(|other| self.order[**other]).copied() } else { None };
        if others.len() - usize::from(victim.is_some()) >= self.room {
            return Answer::Full;
        }
        for claim in &mut self.claims {
            *claim = claim.filter(|claim| claim.ends() > now);
        }
        if let Some(victim) = victim {
            self.claims[victim] = None;
        }
        let holder = Some((step.owner, until));
        self.claims[step.payment] =
            Some(Claim { expires, since: now, binding, charge: None, redeemed: 0, holder, money });
        self.made += 1;
        self.order[step.payment] = self.made;
        Answer::Granted
    }

    /// What only the request may do that has the payment.
    fn go_on(&mut self, step: Step, old: Claim, now: u64) -> Answer {
        let owner = step.owner;
        let next = match (step.operation, old.money) {
            (Operation::Settle { until, charge }, Money::AtRest) => {
                Some(Claim { holder: Some((owner, until.as_secs())), money: Money::Asked(None, 0), charge, ..old })
            }
            (Operation::Settle { until, charge }, Money::Asked(named, _)) => {
                Some(Claim { holder: Some((owner, until.as_secs())), money: Money::Asked(named, 0), charge, ..old })
            }
            (Operation::Redeem { transaction, until }, Money::Asked(..)) => {
                Some(Claim { holder: Some((owner, until.as_secs())), money: Money::Moved(transaction), ..old })
            }
            (Operation::Open, Money::AtRest | Money::Asked(..)) => Some(Claim { money: Money::Promised, ..old }),
            (Operation::Spend { .. }, Money::Asked(..) | Money::Moved(_)) => {
                Some(Claim { holder: None, money: Money::Spent, ..old })
            }
            (Operation::Keep { transaction }, Money::Asked(..) | Money::Moved(_)) => {
                Some(Claim { holder: None, money: Money::Moved(transaction), ..old })
            }
            (Operation::Abandon, Money::Moved(_)) => Some(Claim { holder: None, ..old }),
            (Operation::Release, Money::Moved(_)) => {
                Some(Claim { holder: None, redeemed: old.redeemed.saturating_sub(1), ..old })
            }
            (
                Operation::Release | Operation::Abandon,
                Money::Unproven | Money::AtRest | Money::Asked(..) | Money::Promised,
            ) => None,
            (Operation::Forget { named }, Money::Asked(earlier, _)) => {
                Some(Claim { holder: None, money: Money::Asked(named.or(earlier), now), ..old })
            }
            _ => return Answer::NotHeld,
        };
        self.claims[step.payment] = next;
        Answer::Granted
    }
}

/// Whether a claim is more than one that lapsed before any money could move.
fn may_matter(claim: &Claim, now: u64) -> bool {
    !matches!(claim.money, Money::AtRest | Money::Unproven) || claim.is_busy(now)
}

/// A store in which another writer may come first, and which may fail.
struct Troubled<'a> {
    inner: &'a mut MemoryStore,
    /// What others do between the next reading and the next writing.
    others: Option<(Ledger, Step, u64)>,
    fails_to_read: bool,
    fails_to_write: bool,
    /// What the ledger said to the others.
    heard: Option<Answer>,
}

impl Store for Troubled<'_> {
    type Version = u64;

    fn read(&mut self, page: u32) -> std::result::Result<Option<Stored<u64>>, StoreFailed> {
        if self.fails_to_read { Err(StoreFailed) } else { self.inner.read(page) }
    }

    fn write(&mut self, page: u32, value: &[u8], expected: Option<u64>) -> std::result::Result<Written, StoreFailed> {
        if self.fails_to_write {
            return Err(StoreFailed);
        }
        if let Some((ledger, step, now)) = self.others.take() {
            let key = PAYMENTS.0[step.payment];
            self.heard = Some(ledger.perform(self.inner, key, Owner(step.owner), step.operation, time(now)));
        }
        self.inner.write(page, value, expected)
    }
}

fn by_rights(input: &mut Unstructured<'_>) -> Result<()> {
    let room: u8 = input.int_in_range(1..=4)?;
    let ledger = Ledger::with_room_for(4096 * u32::from(room));
    let mut model = Model { room: room.into(), ..Model::default() };
    let mut store = MemoryStore::default();
    let mut now = 0;
    for number in (0..=u8::MAX).take(STEPS) {
        now += any_pause(input)?;
        let step = any_step(input, now, number)?;
        let trouble: u8 = input.arbitrary()?;
        let others = if trouble >= 200 { Some((ledger, any_step(input, now, number)?, now)) } else { None };
        let (fails_to_read, fails_to_write) = (trouble == 1, trouble == 2);
        let mut troubled = Troubled { inner: &mut store, others, fails_to_read, fails_to_write, heard: None };
        let answer =
            ledger.perform(&mut troubled, PAYMENTS.0[step.payment], Owner(step.owner), step.operation, time(now));
        let heard = troubled.heard.zip(others);
        if answer == Answer::Failed {
            assert!(trouble == 1 || trouble == 2, "a store that works fails nobody");
            continue;
        }
        // Who wrote first was first.
        if let Some((heard, (_, other, _))) = heard {
            assert_eq!(heard, model.perform(other, now), "{other:?} in between at {now}: {model:?}");
        }
        let expected = model.perform(step, now);
        assert_eq!(answer, expected, "{step:?} at {now}, and {heard:?} in between: {model:?}");
    }
    Ok(())
}

/// Whatever stands on a page: what is granted is granted to one at a time, and once bought, nothing is bought again.
fn from_garbage(choice: u8, input: &[u8]) -> Result<()> {
    let (page, rest) = input.split_at(usize::from(choice - 0xa0) * 3 % (input.len() + 1));
    let mut store = MemoryStore::default();
    store.0.insert(PAYMENTS.1, (page.to_vec(), 1));
    let ledger = Ledger::with_room_for(4096 * 4);
    let mut input = Unstructured::new(rest);
    let mut holders: [Option<(u64, u64)>; 3] = [None; 3];
    let mut spent = [None; 3];
    // When a payment expires; not known of what garbage tells.
    let mut expiry = [None; 3];
    let mut now = 0;
    for number in (0..=u8::MAX).take(STEPS) {
        now += any_pause(&mut input)?;
        let step = any_step(&mut input, now, number)?;
        let key = PAYMENTS.0[step.payment];
        let answer = ledger.perform(&mut store, key, Owner(step.owner), step.operation, time(now));
        let taken_until = match (step.operation, answer) {
            // One of a payment that is not proven may be gone at any time.
            (Operation::Claim { until, is_proven: true, .. }, Answer::Granted) => Some(until),
            (
                Operation::Claim { until, .. } | Operation::Resume { until, .. } | Operation::Recover { until },
                Answer::GrantedUnknown(_) | Answer::GrantedSettled(..),
            ) => Some(until),
            _ => None,
        };
        let holder = &mut holders[step.payment];
        if let (Operation::Claim { expires, .. }, Answer::Granted) = (step.operation, answer) {
            expiry[step.payment] = Some(expires.as_secs());
        }
        if let Some(until) = taken_until {
            let is_own = |owner: u64| owner == step.owner && answer == Answer::Granted;
            assert!(
                holder.is_none_or(|(owner, until)| until <= now || is_own(owner)),
                "two have it: {holder:?} and {step:?}"
            );
            assert!(spent[step.payment].is_none_or(|expires| expires + 60 <= now), "it is bought again: {step:?}");
            *holder = Some((step.owner, until.as_secs()));
            continue;
        }
        match (step.operation, answer) {
            (Operation::Claim { is_proven: false, .. }, Answer::Granted) => *holder = None,
            (_, Answer::Failed) => assert_eq!(holders, [None; 3], "a page that was good is not any more"),
            (Operation::Settle { until, .. } | Operation::Redeem { until, .. }, Answer::Granted) => {
                *holder = Some((step.owner, until.as_secs()));
            }
            (Operation::Spend { .. } | Operation::Open, Answer::Granted) => {
                *holder = None;
                spent[step.payment] = expiry[step.payment];
            }
            (
                Operation::Keep { .. } | Operation::Release | Operation::Abandon | Operation::Forget { .. },
                Answer::Granted,
            ) => {
                *holder = None;
                // What was opened and let go cost nothing.
                if matches!(step.operation, Operation::Release | Operation::Abandon) {
                    spent[step.payment] = None;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
