#![allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]

use std::collections::BTreeMap;

use super::*;

/// A store in plain memory that loses the first `races` writes to somebody else.
#[derive(Default)]
pub(super) struct MemoryStore {
    pub(super) pages: BTreeMap<u32, (Vec<u8>, u32)>,
    pub(super) races: u32,
    pub(super) fails: bool,
}

impl Store for MemoryStore {
    type Version = u32;

    fn read(&mut self, page: u32) -> Result<Option<(Vec<u8>, u32)>, StoreFailed> {
        if self.fails { Err(StoreFailed) } else { Ok(self.pages.get(&page).cloned()) }
    }

    fn write(&mut self, page: u32, value: &[u8], expected: Option<u32>) -> Result<Written, StoreFailed> {
        if self.races > 0 {
            self.races -= 1;
            return Ok(Written::Raced);
        }
        let current = self.pages.get(&page).map(|(_, version)| *version);
        if current != expected {
            return Ok(Written::Raced);
        }
        self.pages.insert(page, (value.to_vec(), current.unwrap_or(0) + 1));
        Ok(Written::Done)
    }
}

const A: Owner = Owner(1);
const B: Owner = Owner(2);
const TX: TransactionId = TransactionId::from_bytes([0xaa; 32]);

/// The answer about a settlement that nobody heard of, for a claim that was made at the beginning.
const UNHEARD: Answer = Answer::GrantedUnknown(Unheard { named: None, since: UnixTime::from_secs(0), charge: None });

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn key(byte: u8) -> PaymentKey {
    PaymentKey([byte; 32])
}

/// Performs one operation after the other at the given times, and collects the answers.
fn run(steps: &[(u64, Owner, Operation)]) -> Vec<Answer> {
    let (ledger, mut store) = (Ledger::with_room_for(4096), MemoryStore::default());
    steps
        .iter()
        .map(|(now, owner, operation)| ledger.perform(&mut store, key(1), *owner, *operation, at(*now)))
        .collect()
}

fn claim() -> Operation {
    Operation::Claim {
        expires: at(1000),
        until: at(100),
        binding: Binding { payment: [1; 32], ..Binding::NONE },
        is_proven: true,
    }
}

fn claim_with_another_signature() -> Operation {
    Operation::Claim {
        expires: at(1000),
        until: at(100),
        binding: Binding { payment: [2; 32], ..Binding::NONE },
        is_proven: true,
    }
}

fn resume() -> Operation {
    Operation::Resume { until: at(100), binding: Binding { payment: [1; 32], ..Binding::NONE } }
}

fn settle() -> Operation {
    Operation::Settle { until: at(100), charge: None }
}

#[test]
fn one_request_at_a_time_holds_a_claim() {
    let answers = run(&[(0, A, claim()), (1, B, claim()), (2, A, Operation::Release), (3, B, claim())]);
    assert_eq!(answers, [Answer::Granted, Answer::InFlight, Answer::Granted, Answer::Granted]);
}

#[test]
fn only_the_holder_moves_a_claim() {
    for operation in [
        settle(),
        Operation::Release,
        Operation::Forget { named: None },
        Operation::Spend { transaction: TX },
        Operation::Redeem { transaction: TX, until: at(100) },
    ] {
        assert_eq!(run(&[(0, B, operation)]), [Answer::NotHeld], "{operation:?}");
        assert_eq!(run(&[(0, A, claim()), (1, B, operation)])[1], Answer::NotHeld, "{operation:?}");
        assert_eq!(run(&[(0, A, claim()), (1, A, settle()), (1, B, operation)])[2], Answer::NotHeld, "{operation:?}");
    }
}

#[test]
fn money_cannot_be_spent_before_settlement_was_asked_for() {
    let answers = run(&[
        (0, A, claim()),
        (1, A, Operation::Spend { transaction: TX }),
        (1, A, Operation::Forget { named: None }),
    ]);
    assert_eq!(answers[1..], [Answer::NotHeld, Answer::NotHeld]);
}

#[test]
fn a_spent_payment_buys_nothing_more() {
    let answers = run(&[
        (0, A, claim()),
        (1, A, settle()),
        (2, A, Operation::Spend { transaction: TX }),
        (3, B, claim()),
        (999, A, claim()),
    ]);
    assert_eq!(answers[2..], [Answer::Granted, Answer::Spent, Answer::Spent]);
}

#[test]
fn a_refused_settlement_frees_the_payment() {
    let answers = run(&[(0, A, claim()), (1, A, settle()), (2, A, Operation::Release), (3, B, claim())]);
    assert_eq!(answers[3], Answer::Granted);
}

#[test]
fn a_forgotten_settlement_is_picked_up_by_one() {
    let answers = run(&[
        (0, A, claim()),
        (1, A, settle()),
        (2, A, Operation::Forget { named: None }),
        (3, B, claim()),
        (4, A, claim()),
    ]);
    assert_eq!(answers[3..], [UNHEARD, Answer::InFlight]);
}

#[test]
fn a_settled_payment_whose_response_failed_is_redeemed_by_one() {
    let redeem = Operation::Redeem { transaction: TX, until: at(100) };
    let answers = run(&[
        (0, A, claim()),
        (1, A, settle()),
        (2, A, redeem),
        (3, B, claim()),
        (4, A, Operation::Release),
        (5, B, claim()),
        (6, A, claim()),
    ]);
    assert_eq!(answers[3..], [Answer::InFlight, Answer::Granted, Answer::GrantedSettled(TX, None), Answer::InFlight]);
}

#[test]
fn a_hold_lapses_into_what_may_have_happened() {
    let redeem = Operation::Redeem { transaction: TX, until: at(100) };
    assert_eq!(run(&[(0, A, claim()), (99, B, claim()), (100, B, claim())])[1..], [Answer::InFlight, Answer::Granted]);
    assert_eq!(run(&[(0, A, claim()), (1, A, settle()), (100, B, claim())])[2], UNHEARD);
    assert_eq!(
        run(&[(0, A, claim()), (1, A, settle()), (2, A, redeem), (100, B, claim())])[3],
        Answer::GrantedSettled(TX, None)
    );
}

#[test]
fn a_late_holder_finishes_unless_another_took_over() {
    let spend = Operation::Spend { transaction: TX };
    assert_eq!(run(&[(0, A, claim()), (1, A, settle()), (500, A, spend)])[2], Answer::Granted);
    assert_eq!(run(&[(0, A, claim()), (1, A, settle()), (100, B, claim()), (500, A, spend)])[3], Answer::NotHeld);
}

#[test]
fn no_claim_falls_away_while_money_may_be_in_it() {
    let redeem = Operation::Redeem { transaction: TX, until: at(5000) };
    let keep = Operation::Keep { transaction: TX };
    const DAY: u64 = 24 * 60 * 60;
    for (steps, gone) in [
        (&[claim()][..], 100),
        (&[claim(), settle()], 100 + DAY),
        (&[claim(), settle(), Operation::Forget { named: None }], DAY),
        (&[claim(), settle(), redeem], 5000 + DAY),
        (&[claim(), settle(), keep], 1000 + DAY),
        (&[claim(), settle(), Operation::Spend { transaction: TX }], 1060),
    ] {
        let (ledger, mut store) = (Ledger::with_room_for(1), MemoryStore::default());
        for operation in steps {
            assert_eq!(ledger.perform(&mut store, key(1), A, *operation, at(0)), Answer::Granted);
        }
        let mut neighbour = [1; 32];
        neighbour[31] = 2;
        let mut other = |now| ledger.perform(&mut store, PaymentKey(neighbour), B, claim(), at(now));
        assert_eq!(other(gone - 1), Answer::Full, "{steps:?}");
        assert_eq!(other(gone), Answer::Granted, "{steps:?}");
    }
}

#[test]
fn a_look_takes_nothing() {
    assert_eq!(run(&[(0, A, Operation::Look { of: None })]), [Answer::NotHeld]);
    assert_eq!(run(&[(0, A, claim()), (1, B, Operation::Look { of: None })])[1], Answer::NotHeld);
    let unknown = [(0, A, claim()), (1, A, settle()), (2, A, Operation::Forget { named: None })];
    let answers = run(&[&unknown[..], &[(3, B, Operation::Look { of: None }), (4, A, claim())]].concat());
    assert_eq!(answers[3..], [Answer::Waiting, UNHEARD]);
    assert_eq!(
        run(&[
            (0, A, claim()),
            (1, A, settle()),
            (2, A, Operation::Spend { transaction: TX }),
            (3, B, Operation::Look { of: None })
        ])[3],
        Answer::NotHeld
    );
}

#[test]
fn races_are_tried_again_and_failures_deny() {
    let ledger = Ledger::with_room_for(1);
    let mut raced = MemoryStore { races: 5, ..MemoryStore::default() };
    assert_eq!(ledger.perform(&mut raced, key(1), A, claim(), at(0)), Answer::Granted);
    let mut jammed = MemoryStore { races: u32::MAX, ..MemoryStore::default() };
    assert_eq!(ledger.perform(&mut jammed, key(1), A, claim(), at(0)), Answer::Failed);
    let mut failing = MemoryStore { fails: true, ..MemoryStore::default() };
    assert_eq!(ledger.perform(&mut failing, key(1), A, claim(), at(0)), Answer::Failed);
    let mut garbled = MemoryStore::default();
    garbled.pages.insert(key(1).page(Operation::Look { of: None }), (b"garbled".to_vec(), 1));
    assert_eq!(ledger.perform(&mut garbled, key(1), A, claim(), at(0)), Answer::Failed);
}

#[test]
fn payments_differ_by_every_part_of_their_key() {
    let network = |id| NetworkId::from_chain_id(id);
    let address = |byte| Address::from_bytes([byte; 20]);
    let nonce = |byte| Nonce::from_bytes([byte; 32]);
    let base = PaymentKey::new(&network(1), address(1), address(2), nonce(3));
    assert_ne!(base, PaymentKey::new(&network(11), address(1), address(2), nonce(3)));
    assert_ne!(base, PaymentKey::new(&network(1), address(9), address(2), nonce(3)));
    assert_ne!(base, PaymentKey::new(&network(1), address(1), address(9), nonce(3)));
    assert_ne!(base, PaymentKey::new(&network(1), address(1), address(2), nonce(9)));
}

#[test]
fn nobody_resumes_a_claim_with_another_signature() {
    let redeem = Operation::Redeem { transaction: TX, until: at(100) };
    let settled = [(0, A, claim()), (1, A, settle()), (2, A, redeem), (3, A, Operation::Release)];
    let then = |operation| run(&[&settled[..], &[(4, B, operation), (5, A, claim())]].concat())[4..].to_vec();
    assert_eq!(then(claim_with_another_signature()), [Answer::Spent, Answer::GrantedSettled(TX, None)]);
    let unknown = [(0, A, claim()), (1, A, settle()), (2, A, Operation::Forget { named: None })];
    let then = |operation| run(&[&unknown[..], &[(4, B, operation), (5, A, claim())]].concat())[3..].to_vec();
    assert_eq!(then(claim_with_another_signature()), [Answer::InFlight, UNHEARD]);
    // Before any money could move, the claim is free for every signature.
    assert_eq!(run(&[(0, A, claim()), (100, B, claim_with_another_signature())])[1], Answer::Granted);
}

#[test]
fn a_lapsed_hold_is_taken_over_with_the_signature_of_the_new_request() {
    let answers = run(&[
        (0, A, claim()),
        (100, B, claim_with_another_signature()),
        (101, B, Operation::Settle { until: at(200), charge: None }),
        (102, B, Operation::Forget { named: None }),
        (103, A, claim()),
        (104, B, claim_with_another_signature()),
    ]);
    assert_eq!(
        answers[4..],
        [
            Answer::InFlight,
            Answer::GrantedUnknown(Unheard { named: None, since: UnixTime::from_secs(100), charge: None })
        ]
    );
}

#[test]
fn an_expired_payment_resumes_what_it_had_begun_and_nothing_else() {
    assert_eq!(run(&[(0, A, resume())]), [Answer::NotHeld]);
    assert_eq!(
        run(&[(0, A, claim()), (50, B, resume()), (100, B, resume())])[1..],
        [Answer::InFlight, Answer::NotHeld]
    );
    assert_eq!(
        run(&[(0, A, claim()), (1, A, settle()), (2, A, Operation::Forget { named: None }), (3, B, resume())])[3],
        UNHEARD
    );
    let keep = Operation::Keep { transaction: TX };
    let kept = run(&[(0, A, claim()), (1, A, settle()), (2, A, keep), (3, B, resume())]);
    assert_eq!(kept[2..], [Answer::Granted, Answer::GrantedSettled(TX, None)]);
}

#[test]
fn notes_stand_until_they_expire_and_take_no_payments_place() {
    let recall = Operation::CheckGrant { seconds: 1000 };
    let (note, once) = (Operation::Grant { expires: at(100) }, Operation::ConsumeNonce { expires: at(100) });
    let answers = run(&[(0, A, recall), (0, A, note), (99, B, recall), (100, B, recall)]);
    assert_eq!(answers, [Answer::NotHeld, Answer::Granted, Answer::Granted, Answer::NotHeld]);
    let later = Operation::Grant { expires: at(200) };
    assert_eq!(run(&[(0, A, note), (50, B, later), (150, A, recall)]), [Answer::Granted; 3]);
    assert_eq!(
        run(&[
            (0, A, once),
            (99, A, once),
            (99, B, once),
            (100, B, Operation::ConsumeNonce { expires: at(200) }),
            (150, A, once)
        ]),
        [Answer::Granted, Answer::Spent, Answer::Spent, Answer::Granted, Answer::Spent]
    );
    // One claim a page, and one note: neither stands in the other's way, nor is taken for it.
    let (ledger, mut store) = (Ledger::with_room_for(1), MemoryStore::default());
    let mut perform = |byte, operation, now| ledger.perform(&mut store, PaymentKey([byte; 32]), A, operation, at(now));
    assert_eq!(perform(1, note, 0), Answer::Granted);
    assert_eq!(perform(1, claim(), 0), Answer::Granted);
    assert_eq!(perform(1, recall, 0), Answer::Granted);
    assert_eq!(perform(1, Operation::Release, 0), Answer::Granted);
    assert_eq!(perform(1, recall, 0), Answer::Granted);
}

#[test]
fn a_page_that_is_full_of_notes_takes_no_more_until_they_expire() {
    let (ledger, mut store) = (Ledger::with_room_for(1), MemoryStore::default());
    let key = |byte: u8| {
        let mut bytes = [0; 32];
        bytes[31] = byte;
        PaymentKey(bytes)
    };
    let mut note = |byte, now: u64| {
        ledger.perform(&mut store, key(byte), A, Operation::ConsumeNonce { expires: at(now + 10) }, at(now))
    };
    assert_eq!(
        [note(1, 0), note(2, 0), note(2, 9), note(2, 10), note(1, 10)],
        [Answer::Granted, Answer::Full, Answer::Full, Answer::Granted, Answer::Full,]
    );
}

// -------------------------------------------------------------------------------------------------------- not proven

fn junk() -> Operation {
    Operation::Claim {
        expires: at(1000),
        until: at(13),
        binding: Binding { payment: [9; 32], ..Binding::NONE },
        is_proven: false,
    }
}

#[test]
fn what_is_not_proven_can_never_hold_money() {
    for operation in [
        settle(),
        Operation::Open,
        Operation::Spend { transaction: TX },
        Operation::Redeem { transaction: TX, until: at(100) },
        Operation::Keep { transaction: TX },
        Operation::Forget { named: None },
        Operation::Forget { named: Some(TX) },
    ] {
        assert_eq!(run(&[(0, A, junk()), (1, A, operation)]), [Answer::Granted, Answer::NotHeld], "{operation:?}");
    }
    assert_eq!(run(&[(0, A, junk()), (1, B, Operation::Look { of: None })])[1], Answer::NotHeld);
    assert_eq!(run(&[(0, A, junk()), (1, A, Operation::Release), (2, B, junk())])[1..], [Answer::Granted; 2]);
}

#[test]
fn what_is_not_proven_gives_way_to_what_is_and_to_nothing_else() {
    assert_eq!(run(&[(0, A, junk()), (1, B, junk())])[1], Answer::InFlight);
    assert_eq!(run(&[(0, A, junk()), (13, B, junk())])[1], Answer::Granted);
    assert_eq!(run(&[(0, A, junk()), (1, B, claim())])[1], Answer::Granted);
    // The same request claims again once the payment is proven, and is the only one to hold it then.
    let answers = run(&[(0, A, junk()), (1, A, claim()), (2, B, junk()), (3, B, claim()), (4, A, settle())]);
    assert_eq!(answers[1..], [Answer::Granted, Answer::InFlight, Answer::InFlight, Answer::Granted]);
    // Whoever cannot prove anything hears no more than that there is something to take up.
    let unproven = |payment: u8| Operation::Claim {
        expires: at(1000),
        until: at(13),
        binding: Binding { payment: [payment; 32], ..Binding::NONE },
        is_proven: false,
    };
    let left = |end: Operation, payment: u8| {
        run(&[(0, A, claim()), (1, A, settle()), (2, A, end), (3, B, unproven(payment))])[3]
    };
    assert_eq!(left(Operation::Forget { named: None }, 1), Answer::Waiting);
    assert_eq!(left(Operation::Keep { transaction: TX }, 1), Answer::Waiting);
    assert_eq!(left(Operation::Spend { transaction: TX }, 1), Answer::Spent);
    // Another signature is told what everybody is.
    assert_eq!(left(Operation::Forget { named: None }, 9), Answer::InFlight);
    assert_eq!(left(Operation::Keep { transaction: TX }, 9), Answer::Spent);
    // To look is the same, and takes nothing.
    let look = |payment: u8| Operation::Look { of: Some(Binding { payment: [payment; 32], ..Binding::NONE }) };
    let keep = Operation::Keep { transaction: TX };
    let answers = run(&[
        (0, A, look(1)),
        (0, A, claim()),
        (1, B, look(1)),
        (1, A, settle()),
        (2, A, keep),
        (3, B, look(1)),
        (3, B, look(9)),
        (4, B, claim()),
    ]);
    assert_eq!(answers[0], Answer::NotHeld);
    assert_eq!(answers[2], Answer::InFlight);
    assert_eq!(answers[5..], [Answer::Waiting, Answer::Spent, Answer::GrantedSettled(TX, None)]);
}

#[test]
fn junk_takes_nobodys_place() {
    let (ledger, mut store) = (Ledger::with_room_for(4096), MemoryStore::default());
    let mut perform = |byte: u8, operation| {
        // Keys of one page.
        let mut bytes = [0; 32];
        bytes[31] = byte;
        ledger.perform(&mut store, PaymentKey(bytes), Owner(byte.into()), operation, at(1))
    };
    for byte in 1..=50 {
        assert_eq!(perform(byte, junk()), Answer::Granted, "one piece of junk gives way to the next");
    }
    assert_eq!(perform(60, claim()), Answer::Granted);
    assert_eq!(perform(61, junk()), Answer::Full, "a payment does not give way to junk");
    assert_eq!(perform(62, claim()), Answer::Full);
    assert_eq!(perform(60, settle()), Answer::Granted);
}

// ------------------------------------------------------------------------------------------------------- redemptions

#[test]
fn a_client_that_breaks_off_uses_up_redemptions_and_an_upstream_that_fails_does_not() {
    let (ledger, mut store) = (Ledger::with_room_for(4096).with_max_redemptions(2), MemoryStore::default());
    let mut perform = |operation, now| ledger.perform(&mut store, key(1), A, operation, at(now));
    for operation in [claim(), settle(), Operation::Redeem { transaction: TX, until: at(100) }, Operation::Abandon] {
        assert_eq!(perform(operation, 1), Answer::Granted);
    }
    let granted = Answer::GrantedSettled(TX, None);
    for _ in 0..5 {
        assert_eq!(perform(claim(), 2), granted);
        assert_eq!(perform(Operation::Release, 2), Answer::Granted, "the upstream failed");
    }
    assert_eq!(perform(claim(), 3), granted);
    assert_eq!(perform(Operation::Abandon, 3), Answer::Granted);
    assert_eq!(perform(claim(), 4), granted);
    // A worker that crashes meanwhile: nobody knows what the upstream did.
    assert_eq!(perform(claim(), 200), Answer::Exhausted);
    assert_eq!(perform(resume(), 200), Answer::Exhausted);
    assert_eq!(perform(claim_with_another_signature(), 200), Answer::Spent, "to others it is spent, as ever");
    assert_eq!(Ledger::with_room_for(1).with_max_redemptions(0), Ledger::with_room_for(1).with_max_redemptions(1));
}

#[test]
fn what_was_to_be_settled_is_remembered() {
    let charge = Some(Amount::from(77));
    let settle = Operation::Settle { until: at(100), charge };
    let unheard = Answer::GrantedUnknown(Unheard { named: None, since: at(0), charge });
    let then = |end| run(&[(0, A, claim()), (1, A, settle), (2, A, end), (3, B, claim())])[3];
    assert_eq!(then(Operation::Forget { named: None }), unheard);
    assert_eq!(then(Operation::Keep { transaction: TX }), Answer::GrantedSettled(TX, charge));
}

#[test]
fn a_stream_that_cost_nothing_frees_its_place() {
    for end in [Operation::Release, Operation::Abandon] {
        let answers = run(&[
            (0, A, claim()),
            (1, A, Operation::Open),
            (2, B, end),
            (3, B, claim()),
            (4, A, end),
            (5, B, claim()),
        ]);
        assert_eq!(answers[1..], [Answer::Granted, Answer::NotHeld, Answer::Spent, Answer::Granted, Answer::Granted]);
    }
}

#[test]
fn nothing_can_be_moved_from_one_field_of_a_binding_into_the_next() {
    let binding = |fields: &[&[u8]]| Binding::new(fields);
    let all =
        [binding(&[b"ab", b"c"]), binding(&[b"a", b"bc"]), binding(&[b"abc"]), binding(&[b"abc", b""]), binding(&[])];
    for (index, one) in all.iter().enumerate() {
        assert!(all.iter().skip(index + 1).all(|other| other != one));
    }
    assert_ne!(binding(&[b"a"]).and(&[b"b"]), binding(&[b"a"]).and(&[b"c"]));
    assert_ne!(binding(&[b"a"]).and(&[]), binding(&[b"a"]));
}
