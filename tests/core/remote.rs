//! The ledger in a shared store: many owners, and a store that loses questions and answers, or carries a question out after its
//! asker has given up.

use std::collections::BTreeMap;

use proptest::prelude::*;
use x402_proxy_wasm::evm::{Address, Nonce};
use x402_proxy_wasm::ledger::remote::{Ask, Attempt, Copies, RecordKey, Revision, Said, Step, Task, Told, Undo, Write};
use x402_proxy_wasm::ledger::{Answer, Binding, Ledger, Operation, Owner, PaymentKey};
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::{NetworkId, TransactionId};

/// A fake of the store, for faults that a real one does not show on demand.
#[derive(Default)]
struct FakeStore {
    records: BTreeMap<RecordKey, (Vec<u8>, Revision)>,
    revision: u64,
    /// Writes whose askers were told nothing, and that may still be carried out.
    late: Vec<Write>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// The question never arrives.
    QuestionLost,
    /// It is carried out, and nobody hears of it.
    AnswerLost,
    /// It is carried out after its asker has heard nothing.
    Late,
}

impl FakeStore {
    fn find(&self, key: &RecordKey) -> Told {
        Told::Found(self.records.get(key).cloned())
    }

    fn write(&mut self, write: &Write) -> Told {
        let current = self.records.get(&write.key).map_or(Revision::ABSENT, |(_, revision)| *revision);
        if current != write.expected {
            return self.find(&write.key);
        }
        self.revision += 1;
        self.records.insert(write.key.clone(), (write.value.clone(), Revision(self.revision)));
        Told::Written(Revision(self.revision))
    }

    fn ask(&mut self, ask: &Ask, fault: Fault) -> Told {
        match (ask, fault) {
            (_, Fault::QuestionLost) | (Ask::Read(_), Fault::Late | Fault::AnswerLost) => Told::Unknown,
            (Ask::Read(key), Fault::None) => self.find(key),
            (Ask::Write(write), Fault::None) => self.write(write),
            (Ask::Write(write), Fault::AnswerLost) => {
                self.write(write);
                Told::Unknown
            }
            (Ask::Write(write), Fault::Late) => {
                self.late.push(write.clone());
                Told::Unknown
            }
        }
    }

    /// What was late arrives.
    fn arrive(&mut self) {
        for write in std::mem::take(&mut self.late) {
            self.write(&write);
        }
    }
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

const NOW: UnixTime = UnixTime::from_secs(1000);

fn rules() -> Ledger {
    Ledger::with_room_for(4096)
}

fn payment() -> PaymentKey {
    let network = NetworkId::from_chain_id(8453);
    PaymentKey::new(&network, Address::from_bytes([1; 20]), Address::from_bytes([2; 20]), Nonce::from_bytes([3; 32]))
}

fn claim() -> Operation {
    let binding = payment().binding();
    Operation::Claim { expires: at(1300), until: at(1060), binding, is_proven: true }
}

/// A proxy: what it remembers of records.
#[derive(Default)]
struct Proxy {
    copies: Copies,
    moves: u64,
    /// Seconds by which it is later.
    later: u64,
}

/// What came of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a test")]
enum End {
    Done(Said),
    GaveUp(Option<Undo>),
}

impl Proxy {
    /// Carries a task out, with a fault for each question; it gives up when these are used up and the store is silent.
    fn perform(&mut self, store: &mut FakeStore, owner: u64, task: Task, faults: &[Fault]) -> End {
        self.moves += 1;
        let now = NOW.plus(self.later);
        let mut faults = faults.iter();
        let copy = self.copies.get(&task.key());
        let mut attempt = Attempt::new(task, Owner(owner), owner * 1000 + self.moves, copy);
        let mut step = attempt.begin(&rules(), now);
        loop {
            let ask = match step {
                Step::Done(said, copy) => {
                    self.copies.keep(attempt.key(), copy);
                    return End::Done(said);
                }
                Step::Ask(ask) | Step::AskAgain(ask) => ask,
            };
            let fault = faults.next().copied();
            let told = store.ask(&ask, fault.unwrap_or(Fault::None));
            if told == Told::Unknown && faults.len() == 0 {
                self.copies.keep(attempt.key(), None);
                attempt.hear(&rules(), told, now);
                return End::GaveUp(attempt.undo());
            }
            step = attempt.hear(&rules(), told, now);
        }
    }

    fn ledger(&mut self, store: &mut FakeStore, owner: u64, operation: Operation, faults: &[Fault]) -> End {
        self.perform(store, owner, Task::Ledger(payment(), operation), faults)
    }
}

const GRANTED: End = End::Done(Said::Ledger(Answer::Granted));

fn said(answer: Answer) -> End {
    End::Done(Said::Ledger(answer))
}

fn transaction() -> TransactionId {
    TransactionId::from_bytes([9; 32])
}

#[test]
fn a_payment_buys_once_across_proxies() {
    let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
    assert_eq!(a.ledger(&mut store, 1, claim(), &[]), GRANTED);
    assert_eq!(b.ledger(&mut store, 2, claim(), &[]), said(Answer::InFlight));
    assert_eq!(a.ledger(&mut store, 1, Operation::Settle { until: at(1070), charge: None }, &[]), GRANTED);
    assert_eq!(a.ledger(&mut store, 1, Operation::Spend { transaction: transaction() }, &[]), GRANTED);
    assert_eq!(b.ledger(&mut store, 3, claim(), &[]), said(Answer::InFlight), "perhaps it is taken back");
    b.later = 20;
    assert_eq!(b.ledger(&mut store, 3, claim(), &[]), said(Answer::Spent));
    // The proxy at which it bought its response knows by itself.
    let lost = [Fault::QuestionLost; 3];
    assert_eq!(a.ledger(&mut store, 4, claim(), &lost), said(Answer::Spent));
}

/// A proxy with a payment that has settled, and a record that it bought its response that nobody answered: what takes that back.
fn spent_in_doubt(store: &mut FakeStore, proxy: &mut Proxy, owner: u64) -> Task {
    proxy.ledger(store, owner, claim(), &[]);
    proxy.ledger(store, owner, Operation::Settle { until: at(1070), charge: None }, &[]);
    let spend = Operation::Spend { transaction: transaction() };
    let End::GaveUp(Some(undo)) = proxy.ledger(store, owner, spend, &[Fault::AnswerLost]) else {
        panic!("it gives up")
    };
    Task::Undo(undo)
}

#[test]
fn what_another_one_has_as_spent_is_not_so_for_good() {
    let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
    let undo = spent_in_doubt(&mut store, &mut a, 1);
    assert_eq!(b.ledger(&mut store, 2, claim(), &[]), said(Answer::InFlight));
    assert!(b.copies.get(&Task::Ledger(payment(), claim()).key()).is_none());
    assert_eq!(a.perform(&mut store, 1, undo, &[]), End::Done(Said::Undone));
    assert_eq!(a.ledger(&mut store, 1, Operation::LetGo, &[]), GRANTED);
    assert!(matches!(b.ledger(&mut store, 3, claim(), &[]), End::Done(Said::Ledger(Answer::GrantedUnknown(_)))));
}

#[test]
fn what_settled_at_one_is_delivered_at_the_other() {
    let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
    a.ledger(&mut store, 1, claim(), &[]);
    a.ledger(&mut store, 1, Operation::Settle { until: at(1070), charge: None }, &[]);
    assert_eq!(a.ledger(&mut store, 1, Operation::Keep { transaction: transaction() }, &[]), GRANTED);
    let granted = Answer::GrantedSettled(transaction(), None);
    assert_eq!(b.ledger(&mut store, 2, claim(), &[]), said(granted));
    assert_eq!(a.ledger(&mut store, 3, claim(), &[]), said(Answer::InFlight));
}

#[test]
fn a_move_whose_answer_was_lost_knows_itself_again() {
    for fault in [Fault::AnswerLost, Fault::QuestionLost] {
        let (mut store, mut a) = (FakeStore::default(), Proxy::default());
        assert_eq!(a.ledger(&mut store, 1, claim(), &[fault, fault, Fault::None]), GRANTED, "{fault:?}");
        let settle = Operation::Settle { until: at(1070), charge: None };
        assert_eq!(a.ledger(&mut store, 1, settle, &[fault, Fault::None]), GRANTED, "{fault:?}");
        let spend = Operation::Spend { transaction: transaction() };
        assert_eq!(a.ledger(&mut store, 1, spend, &[fault, fault, Fault::None]), GRANTED, "{fault:?}");
        assert_eq!(a.ledger(&mut store, 2, claim(), &[]), said(Answer::Spent), "{fault:?}");
    }
}

#[test]
fn who_has_lost_a_record_writes_nothing() {
    let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
    let short = Operation::Claim { expires: at(1300), until: at(1000), binding: payment().binding(), is_proven: true };
    assert_eq!(a.ledger(&mut store, 1, short, &[]), GRANTED);
    // The hold has ended.
    assert_eq!(b.ledger(&mut store, 2, claim(), &[]), GRANTED);
    let settle = Operation::Settle { until: at(1070), charge: None };
    assert_eq!(a.ledger(&mut store, 1, settle, &[]), said(Answer::NotHeld));
    assert_eq!(b.ledger(&mut store, 2, settle, &[]), GRANTED);
}

#[test]
fn a_lost_move_is_taken_back_for_good() {
    for fault in [Fault::AnswerLost, Fault::QuestionLost, Fault::Late] {
        for arrives_before in [true, false] {
            let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
            let End::GaveUp(Some(undo)) = a.ledger(&mut store, 1, claim(), &[fault]) else { panic!("it gives up") };
            if arrives_before {
                store.arrive();
            }
            assert_eq!(a.perform(&mut store, 1, Task::Undo(undo), &[]), End::Done(Said::Undone));
            store.arrive();
            assert_eq!(b.ledger(&mut store, 2, claim(), &[]), GRANTED, "{fault:?} {arrives_before}");
        }
    }
}

/// Two proxies lose the answers to their claims of one payment: whichever of them takes its move back first, no claim stays.
#[test]
fn moves_that_two_have_lost_are_taken_back_in_any_order() {
    for is_first_one_first in [true, false] {
        let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
        let End::GaveUp(Some(won)) = a.ledger(&mut store, 1, claim(), &[Fault::AnswerLost]) else {
            panic!("it gives up")
        };
        let End::GaveUp(Some(lost)) = b.ledger(&mut store, 2, claim(), &[Fault::AnswerLost]) else {
            panic!("it gives up")
        };
        let undone = End::Done(Said::Undone);
        if is_first_one_first {
            assert_eq!(a.perform(&mut store, 1, Task::Undo(won), &[]), undone);
            assert_eq!(b.perform(&mut store, 2, Task::Undo(lost), &[]), undone);
        } else {
            assert_eq!(b.perform(&mut store, 2, Task::Undo(lost), &[]), undone);
            assert_eq!(a.perform(&mut store, 1, Task::Undo(won), &[]), undone);
        }
        assert_eq!(Proxy::default().ledger(&mut store, 3, claim(), &[]), GRANTED, "{is_first_one_first}");
    }
}

#[test]
fn a_spent_that_arrives_late_does_not_lose_what_was_not_delivered() {
    for arrives_before in [true, false] {
        let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
        a.ledger(&mut store, 1, claim(), &[]);
        a.ledger(&mut store, 1, Operation::Settle { until: at(1070), charge: None }, &[]);
        let redeem = Operation::Redeem { transaction: transaction(), until: at(1080) };
        assert_eq!(a.ledger(&mut store, 1, redeem, &[]), GRANTED);
        let spend = Operation::Spend { transaction: transaction() };
        let End::GaveUp(Some(undo)) = a.ledger(&mut store, 1, spend, &[Fault::Late]) else { panic!("it gives up") };
        if arrives_before {
            store.arrive();
        }
        assert_eq!(a.perform(&mut store, 1, Task::Undo(undo), &[]), End::Done(Said::Undone));
        assert_eq!(a.ledger(&mut store, 1, Operation::LetGo, &[]), GRANTED);
        store.arrive();
        let granted = Answer::GrantedSettled(transaction(), None);
        assert_eq!(b.ledger(&mut store, 2, claim(), &[]), said(granted), "{arrives_before}");
    }
}

#[test]
fn what_was_bought_for_a_client_that_had_left_is_given_back() {
    for redeems in [true, false] {
        let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
        a.ledger(&mut store, 1, claim(), &[]);
        a.ledger(&mut store, 1, Operation::Settle { until: at(1070), charge: None }, &[]);
        if redeems {
            let redeem = Operation::Redeem { transaction: transaction(), until: at(1080) };
            assert_eq!(a.ledger(&mut store, 1, redeem, &[]), GRANTED);
        }
        let spend = Task::Ledger(payment(), Operation::Spend { transaction: transaction() });
        let mut attempt = Attempt::new(spend, Owner(1), 77, None);
        let mut step = attempt.begin(&rules(), NOW);
        while let Step::Ask(ask) = step {
            step = attempt.hear(&rules(), store.ask(&ask, Fault::None), NOW);
        }
        assert!(matches!(step, Step::Done(Said::Ledger(Answer::Granted), _)));
        assert_eq!(a.perform(&mut store, 1, Task::Undo(attempt.take_back()), &[]), End::Done(Said::Undone));
        assert_eq!(a.ledger(&mut store, 1, Operation::Keep { transaction: transaction() }, &[]), GRANTED);
        assert_eq!(b.ledger(&mut store, 2, claim(), &[]), said(Answer::GrantedSettled(transaction(), None)));
        assert_eq!(b.ledger(&mut store, 2, Operation::Spend { transaction: transaction() }, &[]), GRANTED);
        // Once others have gone on from it, nothing is taken back.
        assert_eq!(a.perform(&mut store, 1, Task::Undo(attempt.take_back()), &[]), End::Done(Said::Undone));
        a.later = 20;
        assert_eq!(a.ledger(&mut store, 3, claim(), &[]), said(Answer::Spent));
    }
}

#[test]
fn who_sees_to_it_that_a_lost_move_never_comes_about_stands_in_nobodys_way() {
    let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
    let End::GaveUp(Some(of_claim)) = a.ledger(&mut store, 1, claim(), &[Fault::QuestionLost]) else {
        panic!("it gives up")
    };
    let of_spend = spent_in_doubt(&mut store, &mut b, 2);
    assert_eq!(a.perform(&mut store, 1, Task::Undo(of_claim), &[]), End::Done(Said::Undone));
    assert_eq!(b.perform(&mut store, 2, of_spend, &[]), End::Done(Said::Undone));
    assert_eq!(b.ledger(&mut store, 2, Operation::LetGo, &[]), GRANTED);
    assert!(matches!(a.ledger(&mut store, 3, claim(), &[]), End::Done(Said::Ledger(Answer::GrantedUnknown(_)))));
}

#[test]
fn a_pin_that_others_rely_on_is_not_taken_back() {
    let (mut store, mut a, mut b) = (FakeStore::default(), Proxy::default(), Proxy::default());
    let key = PaymentKey::of_transaction(&NetworkId::from_chain_id(8453), transaction());
    let pin = |binding| {
        let (transaction, known_since) = (transaction(), Some(at(900)));
        Task::Ledger(key, Operation::Pin { binding, transaction, expires: at(1300), known_since })
    };
    let End::GaveUp(undo) = a.perform(&mut store, 1, pin(payment().binding()), &[Fault::AnswerLost]) else {
        panic!("it gives up")
    };
    // The same payment, at the other proxy.
    assert_eq!(b.perform(&mut store, 2, pin(payment().binding()), &[]), GRANTED);
    if let Some(undo) = undo {
        a.perform(&mut store, 1, Task::Undo(undo), &[]);
    }
    let another = Binding::new(&[b"another payment"]);
    assert_eq!(a.perform(&mut store, 3, pin(another), &[]), said(Answer::Spent));
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        3 => Just(Fault::None),
        1 => Just(Fault::QuestionLost),
        1 => Just(Fault::AnswerLost),
        1 => Just(Fault::Late),
    ];
    prop::collection::vec(fault, 0..4)
}

proptest! {
    /// Requests at two proxies want one payment, do what requests do, and the store fails as it likes: one response is delivered,
    /// and what was settled and not delivered can be had.
    #[test]
    fn one_response_for_one_payment_whatever_the_store_does(
        requests in prop::collection::vec((any::<bool>(), prop::collection::vec(faults(), 3), any::<bool>()), 1..6),
    ) {
        let mut store = FakeStore::default();
        let mut proxies = [Proxy::default(), Proxy::default()];
        let (mut delivered, mut moved) = (0, false);
        for (number, (second, faults, arrives)) in (1..).zip(&requests) {
            let proxy = &mut proxies[usize::from(*second)];
            let undo_all = |proxy: &mut Proxy, store: &mut FakeStore, end: End| {
                if let End::GaveUp(Some(undo)) = end {
                    if *arrives {
                        store.arrive();
                    }
                    proxy.perform(store, number, Task::Undo(undo), &[]);
                }
                proxy.ledger(store, number, Operation::LetGo, &[]);
                store.arrive();
            };
            let take = |proxy: &mut Proxy, store: &mut FakeStore, operation, faults: &[Fault]| {
                proxy.ledger(store, number, operation, faults)
            };
            let claimed = take(proxy, &mut store, claim(), &faults[0]);
            let is_settled = match &claimed {
                End::Done(Said::Ledger(Answer::Granted | Answer::GrantedUnknown(_))) => false,
                End::Done(Said::Ledger(Answer::GrantedSettled(..))) => true,
                other => {
                    undo_all(proxy, &mut store, other.clone());
                    continue;
                }
            };
            if !is_settled {
                let settled = take(proxy, &mut store, Operation::Settle { until: at(1070), charge: None }, &faults[1]);
                if settled != GRANTED {
                    undo_all(proxy, &mut store, settled);
                    continue;
                }
                moved = true;
            }
            let spent = take(proxy, &mut store, Operation::Spend { transaction: transaction() }, &faults[2]);
            if spent == GRANTED {
                delivered += 1;
                store.arrive();
            } else {
                undo_all(proxy, &mut store, spent);
            }
        }
        prop_assert!(delivered <= 1, "delivered {delivered} times");
        let last = proxies[0].ledger(&mut store, 99, claim(), &[]);
        match (moved, delivered) {
            (_, 1) => prop_assert!(last == said(Answer::Spent) || last == said(Answer::InFlight), "{:?}", last),
            (true, _) => prop_assert!(
                matches!(last, End::Done(Said::Ledger(Answer::GrantedSettled(..) | Answer::GrantedUnknown(_)))),
                "{:?}", last
            ),
            (false, _) => prop_assert_eq!(last, GRANTED),
        }
    }
}
