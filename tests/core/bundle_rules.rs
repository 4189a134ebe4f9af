//! What holds of a bundle whatever requests do: nothing is used twice, and nothing is lost.

use std::collections::BTreeMap;

use crate::common::MemoryStore;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use x402_proxy_wasm::ledger::{Answer, BundleOperation, Ledger, Operation, Owner, PaymentKey};
use x402_proxy_wasm::time::UnixTime;

/// Payers whose bundles are tried, so many that some share a page of a ledger with little room.
const PAYERS: usize = 3;

/// A bundle's end that no test comes to.
const FAR: UnixTime = UnixTime::from_secs(1_000_000);

#[derive(Debug, Clone, Copy)]
struct Step {
    payer: usize,
    owner: u64,
    after: u64,
    operation: BundleOperation,
}

fn payment(number: u8) -> PaymentKey {
    PaymentKey::of_bundle(&[number; 32], "a payment")
}

fn any_step() -> impl Strategy<Value = Step> {
    let amount = || select(vec![0_u128, 1, 2, 5, 10, u128::MAX]);
    let operation = prop_oneof![
        // The time of a hold is told from that of the step.
        2 => (any::<u8>(), 0_u128..20, 0_u128..3).prop_map(|(number, amount, used)| BundleOperation::Buy {
            payment: payment(number),
            amount,
            used: used.min(amount),
            expires: FAR,
        }),
        1 => amount().prop_map(|amount| BundleOperation::Check { amount }),
        4 => (amount(), 0_u64..20)
            .prop_map(|(amount, until)| BundleOperation::Take { amount, until: UnixTime::from_secs(until) }),
        1 => (0_u64..20).prop_map(|until| BundleOperation::Renew { until: UnixTime::from_secs(until) }),
        3 => (amount(), any::<bool>()).prop_map(|(amount, is_out)| BundleOperation::Charge { amount, is_out }),
        2 => Just(BundleOperation::GiveBack),
    ];
    (0..PAYERS, 1_u64..6, 0_u64..6, operation).prop_map(|(payer, owner, after, operation)| Step {
        payer,
        owner,
        after,
        operation,
    })
}

/// What is known of a bundle from what was answered.
#[derive(Debug, Default)]
struct Known {
    bought: u128,
    charged: u128,
    payments: Vec<PaymentKey>,
    /// What each request has set aside, and until when.
    aside: BTreeMap<u64, (u128, u64)>,
}

impl Known {
    fn aside_at(&self, now: u64) -> u128 {
        self.aside.values().filter(|(_, until)| *until > now).map(|(amount, _)| amount).sum()
    }
}

/// One ledger, several payers, and a clock.
struct World {
    ledger: Ledger,
    store: MemoryStore,
    now: u64,
}

impl World {
    fn perform(&mut self, payer: usize, owner: u64, operation: BundleOperation) -> Answer {
        let key = PaymentKey::of_bundle(&[9; 32], &payer.to_string());
        let (operation, now) = (Operation::Bundle(operation), UnixTime::from_secs(self.now));
        self.ledger.perform(&mut self.store, key, Owner(owner), operation, now)
    }

    fn left(&mut self, payer: usize) -> u128 {
        match self.perform(payer, 99, BundleOperation::Check { amount: 0 }) {
            Answer::Left(left) => left,
            Answer::NotHeld => 0,
            other => panic!("{other:?}"),
        }
    }
}

/// The operation with the hold's time told from now.
fn at(operation: BundleOperation, now: u64) -> BundleOperation {
    let later = |until: UnixTime| UnixTime::from_secs(until.as_secs() + now);
    match operation {
        BundleOperation::Take { amount, until } => BundleOperation::Take { amount, until: later(until) },
        BundleOperation::Renew { until } => BundleOperation::Renew { until: later(until) },
        other => other,
    }
}

/// Notes what an operation must have done, given what was left before it.
fn note(known: &mut Known, step: Step, now: u64, before: u128, answer: Answer) {
    let owner = step.owner;
    let held = known.aside.get(&owner).copied().filter(|(_, until)| *until > now);
    match (at(step.operation, now), answer) {
        (BundleOperation::Buy { payment, amount, used, .. }, Answer::Left(left)) => {
            assert_eq!(left, before + amount - used);
            assert!(!known.payments.iter().rev().take(4).any(|other| *other == payment), "it is bought once");
            known.payments.push(payment);
            known.bought += amount;
            known.charged += used;
        }
        (BundleOperation::Buy { payment, .. }, Answer::Spent) => assert!(known.payments.contains(&payment)),
        (BundleOperation::Check { amount }, Answer::Left(left)) => assert!(left == before && amount <= before),
        (BundleOperation::Check { amount }, Answer::NotHeld) => assert!(amount > before || known.bought == 0),
        (BundleOperation::Take { amount, until }, Answer::Left(left)) => {
            assert_eq!(left, before - amount);
            known.aside.insert(owner, (amount, until.as_secs()));
        }
        (BundleOperation::Take { amount, .. }, Answer::NotHeld) => assert!(amount > before || known.bought == 0),
        (BundleOperation::Renew { until }, Answer::Left(_)) => {
            let (amount, _) = held.expect("what has come back is not renewed");
            known.aside.insert(owner, (amount, until.as_secs()));
        }
        (BundleOperation::Charge { amount, .. }, Answer::Left(left)) => {
            known.charged += match held {
                Some((taken, _)) => {
                    assert_eq!(left, before + taken - amount.min(taken));
                    amount.min(taken)
                }
                // Its part was back already.
                None => before.checked_sub(left).expect("a charge adds nothing"),
            };
            known.aside.remove(&owner);
        }
        (BundleOperation::Charge { amount, is_out }, Answer::NotHeld) => {
            assert!(held.is_none() && !is_out && (amount > before || known.bought == 0));
            known.aside.remove(&owner);
        }
        (BundleOperation::GiveBack, Answer::Left(left)) => {
            assert_eq!(left, before + held.map_or(0, |(taken, _)| taken));
            known.aside.remove(&owner);
        }
        (BundleOperation::Renew { .. } | BundleOperation::GiveBack, Answer::NotHeld) => assert!(held.is_none()),
        (operation, answer) => panic!("{operation:?}: {answer:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_bought_is_left_or_set_aside_or_used(steps in vec(any_step(), 1..100)) {
        let mut world = World { ledger: Ledger::with_room_for(4096), store: MemoryStore::default(), now: 0 };
        let mut known: [Known; PAYERS] = Default::default();
        for step in steps {
            world.now += step.after;
            let now = world.now;
            // A request that has its part asks for no other.
            if matches!(step.operation, BundleOperation::Take { .. }) && known[step.payer].aside.contains_key(&step.owner) {
                continue;
            }
            let before = world.left(step.payer);
            let answer = world.perform(step.payer, step.owner, at(step.operation, now));
            note(&mut known[step.payer], step, now, before, answer);
            for (payer, known) in known.iter().enumerate() {
                let (left, aside) = (world.left(payer), known.aside_at(now));
                prop_assert_eq!(left + aside + known.charged, known.bought, "{:?} of {}: {:?}", step, payer, known);
            }
        }
        // The requests die, and what they had set aside is back.
        world.now += 1000;
        for (payer, known) in known.iter().enumerate() {
            prop_assert_eq!(world.left(payer) + known.charged, known.bought);
        }
    }

    #[test]
    fn a_page_of_anything_is_a_page_or_a_failure(bytes in vec(any::<u8>(), 0..400)) {
        let key = PaymentKey::of_bundle(&[9; 32], "0");
        let (ledger, now) = (Ledger::with_room_for(4096), UnixTime::from_secs(0));
        let mut store = MemoryStore::default();
        let buy = BundleOperation::Buy { payment: payment(1), amount: 1, used: 0, expires: FAR };
        ledger.perform(&mut store, key, Owner(1), Operation::Bundle(buy), now);
        let page = *store.0.keys().next().unwrap();
        store.0.insert(page, (bytes.clone(), 1));
        let answer = ledger.perform(&mut store, key, Owner(1), Operation::Bundle(buy), now);
        prop_assert!(matches!(answer, Answer::Left(_) | Answer::Spent | Answer::Failed));
        if answer == Answer::Failed {
            prop_assert_eq!(&store.0[&page].0, &bytes);
        }
    }
}

#[test]
fn a_bundle_serves_so_many_requests_at_a_time_and_no_more() {
    let mut world = World { ledger: Ledger::with_room_for(4096), store: MemoryStore::default(), now: 0 };
    let buy = BundleOperation::Buy { payment: payment(1), amount: 100, used: 0, expires: FAR };
    assert_eq!(world.perform(0, 1, buy), Answer::Left(100));
    let take = BundleOperation::Take { amount: 1, until: UnixTime::from_secs(10) };
    for owner in 0..64 {
        assert_eq!(world.perform(0, owner, take), Answer::Left(99 - u128::from(owner)));
    }
    assert_eq!(world.perform(0, 64, take), Answer::InFlight);
    assert_eq!(world.perform(0, 3, BundleOperation::GiveBack), Answer::Left(37));
    assert_eq!(world.perform(0, 64, take), Answer::Left(36));
}

#[test]
fn room_is_made_of_what_nobody_misses() {
    let ledger = Ledger::with_room_for(4096);
    let (mut store, page_of) =
        (MemoryStore::default(), |payer: u32| PaymentKey::of_bundle(&[9; 32], &payer.to_string()));
    let buy = |number: u8, amount| {
        Operation::Bundle(BundleOperation::Buy { payment: payment(number), amount, used: 0, expires: FAR })
    };
    let perform = |store: &mut MemoryStore, payer, operation, now| {
        ledger.perform(store, page_of(payer), Owner(1), operation, UnixTime::from_secs(now))
    };
    // Payers on the page of the first.
    let mut neighbours = Vec::new();
    let mut probe = MemoryStore::default();
    perform(&mut probe, 0, buy(1, 1), 0);
    let page = *probe.0.keys().next().unwrap();
    for payer in 0_u32.. {
        let mut probe = MemoryStore::default();
        perform(&mut probe, payer, buy(1, 1), 0);
        if probe.0.contains_key(&page) {
            neighbours.push(payer);
        }
        if neighbours.len() == 17 {
            break;
        }
    }
    for payer in &neighbours[..16] {
        assert_eq!(
            perform(&mut store, *payer, buy(1, u128::from(*payer > 0)), 0),
            Answer::Left(u128::from(*payer > 0))
        );
    }
    let late = neighbours[16];
    assert_eq!(perform(&mut store, late, buy(1, 5), 3599), Answer::Full);
    // The first has nothing left, and its payment cannot come twice any more.
    assert_eq!(perform(&mut store, late, buy(1, 5), 3600), Answer::Left(5));
    let check = Operation::Bundle(BundleOperation::Check { amount: 0 });
    assert_eq!(perform(&mut store, neighbours[0], check, 3600), Answer::NotHeld);
    assert_eq!(perform(&mut store, neighbours[1], check, 3600), Answer::Left(1));
}
