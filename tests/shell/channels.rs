//! Purchases out of channels: whatever call of the host fails and wherever the client leaves; and the keeper, who claims.

use serde_json::Value;
use x402_proxy_wasm::channel::Record;

use super::fake_envoy::{Faults, ROOT};
use super::purchase::{Delivery, Purchase, Run, Scene, json_by_use, stream_by_use, weather};
use crate::common::channel_payer::ChannelPayer;
use crate::common::encode;

/// What stands in the channel before the purchase, unless it is the one that puts it there.
const BALANCE: u128 = 1_000_000;

/// What a deposit is of.
const DEPOSIT: u128 = 500_000;

/// Calls by which the ledger is read and written.
const LEDGER: [&str; 2] = ["get_shared_data", "set_shared_data"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pays {
    Deposit,
    Voucher,
    Refund,
}

/// A kind of purchase, how it is paid, and whether the filter knows the channel by then.
type Kind = (Purchase, Pays, bool);

fn kinds() -> Vec<Kind> {
    let fixed = |name| weather("", "after", "remote").by_channel(name);
    vec![
        (fixed("deposit"), Pays::Deposit, false),
        (fixed("deposit into a known channel"), Pays::Deposit, true),
        (fixed("voucher"), Pays::Voucher, true),
        (fixed("voucher of an unknown channel"), Pays::Voucher, false),
        (json_by_use().by_channel("voucher, JSON"), Pays::Voucher, true),
        (stream_by_use().by_channel("voucher, stream"), Pays::Voucher, true),
        (stream_by_use().by_channel("deposit, stream"), Pays::Deposit, false),
        (fixed("refund"), Pays::Refund, true),
    ]
}

/// A purchase that is about to be made.
struct Story {
    scene: Scene,
    payer: ChannelPayer,
    payment: String,
    pays: Pays,
    /// What was charged before.
    before: u128,
}

impl Story {
    fn new((purchase, pays, is_known): &Kind) -> Self {
        let mut scene = Scene::new(purchase);
        let payer = scene.channel_payer();
        let most: u128 = payer.accepted["amount"].as_str().unwrap().parse().unwrap();
        scene.facilitator.channel.balance = if *is_known || *pays == Pays::Voucher { BALANCE } else { 0 };
        let mut story = Self { scene, payer, payment: String::new(), pays: *pays, before: 0 };
        if *is_known {
            let run = story.scene.play(&encode(&story.payer.voucher(most)));
            assert_eq!(story.scene.delivery(&run), Delivery::All, "{}", purchase.name);
            story.before = story.charged();
        }
        let max = story.before + most;
        story.payment = encode(&match pays {
            Pays::Deposit => story.payer.deposit(max, DEPOSIT, 1),
            Pays::Voucher => story.payer.voucher(max),
            Pays::Refund => story.payer.refund(story.before, None),
        });
        story
    }

    fn record(&self) -> Option<Record> {
        let values = self.scene.envoy.shared_values();
        let mut records = values.iter().flat_map(|bytes| bytes.as_chunks().0).filter_map(Record::decode);
        records.find(|record| record.id == self.payer.id)
    }

    fn charged(&self) -> u128 {
        self.record().map_or(self.before, |record| record.charged)
    }

    /// Whether a request has the channel.
    fn is_held(&self) -> bool {
        self.record().is_some_and(|record| record.hold.is_some())
    }

    /// The client of a request goes if it has not, and some time passes. Each tick looks through thousands of pages, so few do.
    fn drain(&mut self, run: &Run) {
        self.scene.envoy.leave(run.id);
        for _ in 0..4 {
            self.scene.answer_all();
            self.scene.envoy.tick(ROOT);
        }
        self.scene.answer_all();
        assert_eq!(self.scene.envoy.contexts.streams(), 0, "nothing is kept of what is over");
        assert_eq!(self.scene.envoy.contexts.callouts(), 0, "nobody waits for answers");
    }

    /// What holds once a request is over, whatever became of it; what its client has got.
    #[track_caller]
    fn check(&self, run: &Run, what: &str) -> Delivery {
        let (delivery, charged) = (self.scene.delivery(run), self.charged());
        let status = self.scene.envoy.status(run.id);
        assert!(matches!(status, 0 | 200 | 402 | 409 | 502 | 503), "{what}: {status}");
        let Some(record) = self.record() else { return delivery };
        assert!(record.charged >= self.before && record.charged <= record.max_claimable, "{what}: {record:?}");
        let channel = self.scene.facilitator.channel;
        assert!(charged <= channel.balance, "{what}: more is charged than there is");
        assert!(self.scene.facilitator.settled.len() <= 1, "{what}: the deposit moves once");
        delivery
    }

    /// The same payment again, as often as it is good for.
    fn again(&mut self, what: &str, had: Delivery) {
        let (charged, was_charged) = (self.charged(), self.charged() > self.before);
        let again = self.scene.play(&self.payment);
        self.drain(&again);
        let (delivery, status) = (self.check(&again, what), self.scene.envoy.status(again.id));
        if self.pays == Pays::Refund {
            assert!(matches!(status, 200 | 402), "{what}: {status}");
            assert_eq!(self.scene.facilitator.channel.balance, self.before, "{what}: all is given back");
            assert!(!self.is_held(), "{what}: it is held");
            return;
        }
        match (had, was_charged) {
            // What was charged and lost is had by asking once more, and what was had, too.
            (_, true) => {
                assert!(delivery == Delivery::All || matches!(status, 402 | 409), "{what}: {status} {delivery:?}")
            }
            (Delivery::Nothing, false) => {
                assert!(delivery == Delivery::All, "{what}: {status}, {:?}", self.scene.envoy.outcomes());
                assert!(self.charged() > self.before, "{what}");
            }
            (_, false) => panic!("{what}: it was given for nothing"),
        }
        assert!(!was_charged || self.charged() == charged, "{what}: it is charged twice");
        assert!(!self.is_held(), "{what}: it is held");
        let charged = self.charged();
        for _ in 0..2 {
            let more = self.scene.play(&self.payment);
            self.drain(&more);
            assert_eq!(self.charged(), charged, "{what}: it is charged twice");
        }
        let last = self.scene.play(&self.payment);
        // It is told once that this was the last time, and then its count.
        let status = self.scene.envoy.status(last.id);
        assert!(self.scene.delivery(&last) == Delivery::Nothing && matches!(status, 402 | 409), "{what}: {status}");
    }
}

/// Plays a purchase under faults; the first call that failed, if any, and what was got.
fn play(kind: &Kind, faults: Faults) -> Option<(Story, &'static str, Delivery, String)> {
    let mut story = Story::new(kind);
    story.scene.envoy.fail(faults);
    let run = story.scene.play(&story.payment);
    let call = *story.scene.envoy.failed().first()?;
    let what = format!("{}, {faults:?} ({call})", kind.0.name);
    story.scene.envoy.fail(Faults::None);
    story.drain(&run);
    let delivery = story.check(&run, &what);
    // A head passes once its charge is in the ledger, but for a stream's.
    if !kind.0.is_stream() && story.pays != Pays::Refund && delivery != Delivery::Nothing {
        assert!(story.charged() > story.before, "{what}: it is given for nothing");
    }
    Some((story, call, delivery, what))
}

#[test]
fn any_one_call_may_fail() {
    for kind in kinds() {
        let mut n = 0;
        while let Some((mut story, call, delivery, what)) = play(&kind, Faults::At(n)) {
            n += 1;
            let is_in_flight = LEDGER.contains(&call);
            if story.is_held() {
                // Nor is anything sold while a refund may be on its way.
                assert!(is_in_flight || story.pays == Pays::Refund, "{what}: it is held");
                let has_moved = story.scene.facilitator.channel.balance < BALANCE;
                let is_known = is_in_flight || story.record().is_some_and(|record| record.is_outdated);
                assert!(is_known || !has_moved, "{what}: what a refund took is sold again");
                continue;
            }
            // The claim of a deposit is left in flight where the ledger does not let go of it.
            let is_unclaimed = story.pays == Pays::Deposit && is_in_flight && delivery == Delivery::Nothing;
            if is_unclaimed && story.charged() == story.before {
                continue;
            }
            story.again(&what, delivery);
        }
        assert!(n > 20, "{}: there are calls to fail", kind.0.name);
    }
}

#[test]
fn any_call_and_all_that_follow_may_fail() {
    for kind in kinds() {
        let mut n = 0;
        while play(&kind, Faults::From(n)).is_some() {
            n += 1;
        }
        assert!(n > 20, "{}: there are calls to fail", kind.0.name);
    }
}

#[test]
fn all_calls_of_one_name_may_fail() {
    let calls = [
        "get_current_time",
        "get_header_map_pairs",
        "replace_header_map_value",
        "add_header_map_value",
        "get_buffer_bytes",
        "set_buffer_bytes",
        "send_local_response",
        "continue_stream",
        "set_effective_context",
        "get_shared_data",
        "set_shared_data",
        "set_property",
        "http_call",
        "increment_metric",
    ];
    for kind in kinds() {
        let failed = calls.into_iter().filter_map(|call| play(&kind, Faults::Named(call))).count();
        assert!(failed > 5, "{}: {failed} are used", kind.0.name);
    }
}

#[test]
fn a_client_may_leave_at_any_point() {
    for kind in kinds() {
        let mut departures = 0;
        loop {
            let mut story = Story::new(&kind);
            let mut run = story.scene.begin(Some(&story.payment));
            let is_under_way =
                (0..departures).all(|_| story.scene.advance(&mut run)) && story.scene.envoy.is_open(run.id);
            if !is_under_way {
                break;
            }
            let what = format!("{} left after {departures}", kind.0.name);
            story.drain(&run);
            let delivery = story.check(&run, &what);
            assert!(!story.is_held(), "{what}: it is held");
            let is_got = delivery != Delivery::Nothing;
            if story.pays != Pays::Refund {
                assert_eq!(story.charged() > story.before, is_got, "{what}: what is got is charged, and nothing else");
                story.again(&what, delivery);
            }
            departures += 1;
        }
        assert!(departures >= 1, "{}: there are states to leave in", kind.0.name);
    }
}

// ---------------------------------------------------------------------------------------------------------- the keeper

/// A channel that was charged for once, and two workers.
fn unclaimed() -> (Story, u32) {
    let mut kind = (weather("", "after", "remote").by_channel("voucher"), Pays::Voucher, true);
    kind.0.config["channels"] = serde_json::json!({"claim_every": "20s"});
    let mut story = Story::new(&kind);
    assert!(story.charged() > 0);
    let other = story.scene.envoy.add_root(&kind.0.config).expect("the configuration is good");
    story.scene.envoy.tick(other);
    story.scene.answer_all();
    (story, other)
}

fn is_claim(body: &Value) -> bool {
    body["paymentPayload"]["payload"]["type"] == "claim"
}

/// Lets time pass for the workers, a second each; callouts are answered by `answer`, or by the facilitator where it gives none.
fn pass(story: &mut Story, roots: &[u32], seconds: u32, mut answer: impl FnMut(&Value) -> Option<u16>) {
    for _ in 0..seconds {
        for root in roots {
            story.scene.envoy.tick(*root);
            while let Some(callout) = story.scene.envoy.callouts().first().cloned() {
                match answer(&callout.body) {
                    Some(status) => {
                        story.scene.envoy.answer(callout.token, status, &serde_json::json!({}));
                    }
                    None => {
                        story.scene.answer_one();
                    }
                }
            }
        }
    }
}

#[test]
fn one_of_two_workers_claims_once_and_all_that_is_charged() {
    let (mut story, other) = unclaimed();
    // Two seconds pass at a time, and all is looked through in eight ticks.
    pass(&mut story, &[ROOT, other], 8, |_| None);
    assert_eq!(story.scene.facilitator.claims, 0, "it is not due");
    pass(&mut story, &[ROOT, other], 12, |_| None);
    assert_eq!(story.scene.facilitator.claims, 1);
    assert_eq!(story.scene.facilitator.channel.claimed, story.charged());
    assert_eq!(story.record().unwrap().unclaimed(), 0);
    pass(&mut story, &[ROOT, other], 20, |_| None);
    assert_eq!(story.scene.facilitator.claims, 1, "there is nothing more");
    // The other one goes on where the first is gone.
    let next = encode(&story.payer.voucher(2 * story.before));
    let run = story.scene.play(&next);
    assert_eq!(story.scene.delivery(&run), Delivery::All);
    story.scene.envoy.delete_root(ROOT);
    story.scene.root = other;
    pass(&mut story, &[other], 50, |_| None);
    assert_eq!((story.scene.facilitator.claims, story.record().unwrap().unclaimed()), (2, 0));
}

#[test]
fn a_claim_whose_answer_is_lost_or_that_fails_is_asked_for_again() {
    for status in [500, 504, 200] {
        let (mut story, other) = unclaimed();
        let mut failures = 0;
        pass(&mut story, &[ROOT, other], 80, |body| {
            let fails = is_claim(body) && failures < 2;
            failures += u32::from(fails);
            fails.then_some(status)
        });
        pass(&mut story, &[ROOT, other], 60, |_| None);
        assert_eq!(failures, 2, "{status}");
        assert_eq!(story.scene.facilitator.channel.claimed, story.charged(), "{status}");
        assert_eq!(story.record().unwrap().unclaimed(), 0, "{status}");
    }
}

#[test]
fn a_claim_of_a_worker_that_is_gone_is_taken_up_by_another() {
    let (mut story, other) = unclaimed();
    let mut asked = 0;
    while asked == 0 {
        story.scene.envoy.tick(ROOT);
        let callouts = story.scene.envoy.callouts();
        asked = callouts.iter().filter(|callout| is_claim(&callout.body)).count();
        for callout in callouts.iter().filter(|callout| !is_claim(&callout.body)) {
            let answer = story.scene.facilitator.answer(callout);
            story.scene.envoy.answer(callout.token, 200, &answer);
        }
    }
    story.scene.envoy.delete_root(ROOT);
    story.scene.root = other;
    assert_eq!(story.scene.envoy.callouts().len(), 0, "its answer is lost");
    // The client buys on meanwhile.
    let run = story.scene.play(&encode(&story.payer.voucher(2 * story.before)));
    assert_eq!(story.scene.delivery(&run), Delivery::All);
    story.scene.envoy.wait(600);
    pass(&mut story, &[other], 50, |_| None);
    assert_eq!(story.scene.facilitator.channel.claimed, story.charged());
    assert_eq!(story.record().unwrap().unclaimed(), 0);
}

#[test]
fn a_keeper_survives_any_call_that_fails() {
    for call in ["get_shared_data", "set_shared_data", "http_call", "increment_metric", "record_metric"] {
        let (mut story, other) = unclaimed();
        story.scene.envoy.fail(Faults::Named(call));
        pass(&mut story, &[ROOT, other], 40, |_| None);
        story.scene.envoy.fail(Faults::None);
        story.scene.envoy.wait(600);
        pass(&mut story, &[ROOT, other], 60, |_| None);
        assert_eq!(story.scene.facilitator.channel.claimed, story.charged(), "{call}");
        assert_eq!(story.record().unwrap().unclaimed(), 0, "{call}");
    }
}
