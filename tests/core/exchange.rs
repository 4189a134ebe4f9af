//! Whole exchanges, played on a stage: what the filter does about a request, event by event, and what the ledger
//! holds afterwards.
//!
//! A story reads like `claim granted, verify? | forward`: each part between bars is what one event led to, beginning
//! with the head of the request. `verify?` and `settle?` are calls to the facilitator, `= served` is the outcome that
//! is logged.

use crate::common::{
    NOW, PAY_TO, Request, Stage, TRANSACTION, Wallet, answers, answers_with, base_config, decode, encode, head,
    invalid, paid, read_config, refused, settled, upstream, upstream_with, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::evm::Nonce;
use x402_proxy_wasm::exchange::{CallKind, Event, Headers, Outcome, Recoveries, RequestEdits, RequestHead, Seen, Shed};
use x402_proxy_wasm::facilitator::{CalloutAnswer, MAX_ANSWER_BYTES};
use x402_proxy_wasm::ledger::{Answer, Owner, PaymentKey, Unheard};
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::payment::Payer;
use x402_proxy_wasm::x402::{NetworkId, TransactionId, header};

// ---------------------------------------------------------------------------------------------- modes and payments

fn after() -> Value {
    base_config()
}

fn before() -> Value {
    let mut config = base_config();
    config["defaults"]["settle"] = "before".into();
    config
}

fn concurrent() -> Value {
    let mut config = base_config();
    config["defaults"]["settle"] = "concurrent".into();
    config
}

fn local(mut config: Value) -> Value {
    config["facilitator"]["verify"] = "local".into();
    config
}

/// What the stage asks for a path.
fn entry(stage: &mut Stage, path: &str) -> Value {
    let unpaid = stage.start(&head("GET", path, &[]));
    decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone()
}

/// A payment for `/weather` that lives long, so that claims can lapse before it does.
fn long_lived(stage: &mut Stage) -> Value {
    let wallet = Wallet::new(1);
    let mut payment = wallet.pay(&entry(stage, "/weather"), 1);
    payment["payload"]["authorization"]["validBefore"] = (NOW + 4_000).to_string().into();
    wallet.sign_payment(&mut payment);
    payment
}

/// Plays `GET /weather` with a good payment.
fn play(config: &Value, events: impl IntoIterator<Item = Event>) -> (Stage, Request, RequestHead) {
    let mut stage = Stage::new(config);
    let head = paid("/weather", &long_lived(&mut stage));
    let request = stage.play(&head, events);
    (stage, request, head)
}

/// Plays a request to its end, where everybody does as he should.
fn finish(stage: &mut Stage, head: &RequestHead) -> Request {
    let mut request = stage.start(head);
    while !request.is_over() {
        let event = good_event(&request);
        stage.step(&mut request, event);
    }
    request
}

/// What happens next to a request where everybody does as he should.
fn good_event(request: &Request) -> Event {
    match &request.call {
        Some(call) if call.kind == CallKind::Verify => valid(),
        Some(_) => settled(),
        None if request.is_pausing() => Event::Tick,
        None => upstream(200),
    }
}

fn outcome(request: &Request) -> Option<Outcome> {
    request.record.as_ref().map(|record| record.outcome)
}

/// Seconds after which every claim without an end has lapsed: two calls of 10 s, some slack, and the 300 s of the
/// route.
const LAPSE: u64 = 327;

fn lost() -> Event {
    Event::Callout(CalloutAnswer::Lost)
}

fn not_sent() -> Event {
    Event::Callout(CalloutAnswer::NotSent)
}

fn pending() -> Event {
    refused("settlement_pending")
}

fn timed_out() -> Event {
    answers_with(504, &json!({}))
}

// --------------------------------------------------------------------------------------------------- the good way

#[test]
fn each_mode_has_its_order() {
    for (config, events, story) in [
        (
            after(),
            vec![valid(), upstream(200), settled()],
            "claim granted, verify? | forward | settle granted, settle? | spend granted, = served, deliver with receipt",
        ),
        (
            local(after()),
            vec![upstream(200), settled()],
            "claim granted, forward | settle granted, settle? | spend granted, = served, deliver with receipt",
        ),
        (
            before(),
            vec![settled(), upstream(200)],
            "claim granted, settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt",
        ),
        (
            local(before()),
            vec![settled(), upstream(200)],
            "claim granted, settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt",
        ),
        // Side by side: the settlement may come first, or the response.
        (
            concurrent(),
            vec![settled(), upstream(200)],
            "claim granted, settle?, forward | redeem granted | spend granted, = served, deliver with receipt",
        ),
        (
            local(concurrent()),
            vec![upstream(200), settled()],
            "claim granted, settle?, forward | spend granted, = served, deliver with receipt",
        ),
    ] {
        let (mut stage, request, head) = play(&config, events);
        assert_eq!(request.story(), story);
        assert_eq!(stage.left(&request), "spent");
        assert!(request.is_over());

        let again = stage.start(&head);
        assert_eq!(again.story(), "claim spent, = spent, reply 402");
        assert_eq!(again.body()["error"], "invalid_exact_evm_nonce_already_used");
        let terms = decode(again.reply_header("payment-required").unwrap());
        assert_eq!(terms["error"], "invalid_exact_evm_nonce_already_used");
        assert_eq!(stage.left(&again), "spent");
    }
}

#[test]
fn the_upstream_is_told_who_paid() {
    for (config, events, told) in [
        (after(), vec![valid()], None),
        (local(after()), vec![], None),
        (before(), vec![settled()], Some(("x-x402-transaction", TRANSACTION.to_owned()))),
        (concurrent(), vec![], None),
    ] {
        let (_, request, _) = play(&config, events);
        let edits = request.forwarded.unwrap();
        let mut expected = vec![
            ("x-x402-payer", Wallet::new(1).address().to_string()),
            ("x-x402-id", request.claim.unwrap().0.to_hex()),
            ("x-x402-network", "eip155:84532".to_owned()),
            ("x-x402-amount", "1000".to_owned()),
        ];
        expected.extend(told);
        assert_eq!(edits.set, expected);
        assert_eq!(edits.remove, ["payment-signature"]);
    }
}

#[test]
fn the_client_gets_a_receipt() {
    for (config, events) in [
        (after(), vec![valid(), upstream(200), settled()]),
        (before(), vec![settled(), upstream(200)]),
        (concurrent(), vec![settled(), upstream(200)]),
        (concurrent(), vec![upstream(200), settled()]),
    ] {
        let (_, request, _) = play(&config, events);
        let payer = Wallet::new(1).address().to_string();
        assert_eq!(
            decode(request.receipt_header("payment-response").unwrap()),
            json!({"success": true, "payer": payer, "transaction": TRANSACTION, "network": "eip155:84532"})
        );
        let edits = request.delivered.as_ref().unwrap();
        let exposed = "PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE".to_owned();
        assert_eq!(edits.add, [("access-control-expose-headers", exposed)]);
        assert_eq!(
            edits.remove,
            ["cdn-cache-control", "surrogate-control", "settlement-overrides"],
            "which would speak over ours"
        );
        let record = request.record.as_ref().unwrap();
        let payment = record.payment.as_ref().unwrap();
        assert_eq!((&*record.route, record.outcome), ("weather", Outcome::Served));
        assert_eq!(payment.payer.to_string(), payer);
        assert_eq!((payment.network.as_str(), payment.amount.to_string().as_str()), ("eip155:84532", "1000"));
        assert_eq!(payment.asset.to_string(), crate::common::USDC);
        assert_eq!(payment.transaction.unwrap().to_string(), TRANSACTION);
    }
}

#[test]
fn what_was_paid_for_stays_out_of_shared_caches() {
    for (upstreams, ours) in [
        (None, Some("private")),
        (Some("public, max-age=600"), Some("private")),
        (Some(""), Some("private")),
        (Some("no-cache"), Some("private")),
        (Some("private=\"set-cookie\""), Some("private")),
        (Some("x-private, no-storey"), Some("private")),
        (Some("private"), None),
        (Some("max-age=60 , PRIVATE"), None),
        (Some("no-store"), None),
        (Some("no-cache,No-Store"), None),
    ] {
        for (config, events) in [
            (after(), vec![valid(), upstream_with(200, upstreams), settled()]),
            (before(), vec![settled(), upstream_with(200, upstreams)]),
            (concurrent(), vec![settled(), upstream_with(200, upstreams)]),
            (concurrent(), vec![upstream_with(200, upstreams), settled()]),
        ] {
            let (_, request, _) = play(&config, events);
            assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served);
            assert_eq!(request.receipt_header("cache-control"), ours, "{upstreams:?}");
        }
    }
}

// --------------------------------------------------------------------------------------------------- the upstream

#[test]
fn only_errors_of_the_upstream_cost_nothing() {
    for status in [200, 204, 206, 301, 304, 399] {
        let (_, request, _) = play(&after(), [valid(), upstream(status)]);
        assert_eq!(request.calls.last().unwrap().kind, CallKind::Settle, "{status}");
    }
    for status in [400, 402, 404, 429, 500, 503, 599] {
        for config in [after(), local(after())] {
            let verified = (config == after()).then(valid);
            let (mut stage, request, head) = play(&config, verified.into_iter().chain([upstream(status)]));
            assert!(request.story().ends_with("release granted, = upstream_failed, deliver"), "{status}");
            assert_eq!(request.delivered, Some(Default::default()), "the response passes as it is");
            assert_eq!(stage.left(&request), "nothing");
            let again = stage.play(&head, request.calls.iter().map(|_| valid()).chain([upstream(200), settled()]));
            assert_eq!(again.record.unwrap().outcome, Outcome::Served);
        }
    }
}

#[test]
fn money_that_moved_first_buys_the_response_of_a_later_request() {
    let (mut stage, request, head) = play(&before(), [settled(), upstream(500)]);
    assert_eq!(
        request.story(),
        "claim granted, settle? | redeem granted, forward settled \
         | release granted, = settled_upstream_failed, deliver with receipt"
    );
    assert_eq!(decode(request.receipt_header("payment-response").unwrap())["transaction"], TRANSACTION);
    assert_eq!(request.receipt_header("cache-control"), Some("private"));
    assert_eq!(stage.left(&request), "settled");

    // The same payment fails once more, and then gets what it paid for, without another settlement.
    let again = stage.play(&head, [upstream(503)]);
    assert_eq!(
        again.story(),
        "claim granted settled, forward settled | release granted, = settled_upstream_failed, deliver with receipt"
    );
    let last = stage.play(&head, [upstream(200)]);
    assert_eq!(last.story(), "claim granted settled, forward settled | spend granted, = served, deliver with receipt");
    assert_eq!(last.forwarded.unwrap().set.last().unwrap(), &("x-x402-transaction", TRANSACTION.to_owned()));
    assert_eq!(stage.start(&head).status(), 402);
}

#[test]
fn a_settled_payment_is_redeemed_by_one_request_at_a_time() {
    let (mut stage, _, head) = play(&before(), [settled(), upstream(500)]);
    let first = stage.start(&head);
    let second = stage.start(&head);
    assert_eq!(first.story(), "claim granted settled, forward settled");
    assert_eq!(second.story(), "claim in flight, = in_flight, reply 409");
}

#[test]
fn a_failed_grpc_call_costs_nothing() {
    let Event::Upstream(mut head) = upstream(200) else { panic!("a response") };
    head.grpc_failed = true;
    let failed = Event::Upstream(head);
    let (stage, request, _) = play(&after(), [valid(), failed.clone()]);
    assert!(request.story().ends_with("release granted, = upstream_failed, deliver"));
    assert_eq!(stage.left(&request), "nothing");
    let (stage, request, _) = play(&before(), [settled(), failed]);
    assert!(request.story().ends_with("release granted, = settled_upstream_failed, deliver with receipt"));
    assert_eq!(stage.left(&request), "settled");
}

#[test]
fn beside_the_upstream_either_may_fail_first() {
    let start = "claim granted, settle?, forward";
    let failed = "= settled_upstream_failed, deliver with receipt";
    for (events, rest, left) in [
        (vec![settled(), upstream(500)], format!("redeem granted | release granted, {failed}"), "settled"),
        (vec![upstream(500), settled()], format!("keep granted, {failed}"), "settled"),
        (
            vec![upstream(500), pending(), Event::Tick, settled()],
            format!("pause | settle? | keep granted, {failed}"),
            "settled",
        ),
        (
            vec![pending(), upstream(200), Event::Tick, settled()],
            "pause | settle? | spend granted, = served, deliver with receipt".to_owned(),
            "spent",
        ),
        (vec![refused("insufficient_funds")], "release granted, = refused, reply 402".to_owned(), "nothing"),
        (
            vec![upstream(200), refused("insufficient_funds")],
            "release granted, = refused, reply 402".to_owned(),
            "nothing",
        ),
        (
            vec![upstream(500), refused("insufficient_funds")],
            "release granted, = refused, reply 402".to_owned(),
            "nothing",
        ),
        (vec![lost()], "forget granted, = unknown, reply 502".to_owned(), "unknown"),
        (vec![upstream(200), timed_out()], "forget granted, = unknown, reply 504".to_owned(), "unknown"),
        (vec![upstream(500), lost()], "forget granted, = unknown, reply 502".to_owned(), "unknown"),
        (vec![not_sent()], "release granted, = unknown, reply 502".to_owned(), "nothing"),
        (vec![upstream(200), not_sent()], "release granted, = unknown, reply 502".to_owned(), "nothing"),
        (
            vec![pending(), Event::Tick, refused("insufficient_funds")],
            "pause | settle? | forget granted, = unknown, reply 502".to_owned(),
            "unknown",
        ),
    ] {
        let (mut stage, request, head) = play(&concurrent(), events);
        assert_eq!(request.story(), format!("{start} | {rest}"));
        assert_eq!(stage.left(&request), left);
        if left != "spent" {
            let again = finish(&mut stage, &head);
            assert_eq!(outcome(&again), Some(Outcome::Served), "{rest}: {}", again.story());
            assert_eq!(again.calls.is_empty(), left == "settled", "nothing is settled twice");
        }
    }
}

// ------------------------------------------------------------------------------------------------------- the ledger

#[test]
fn a_payment_at_work_elsewhere_is_refused_for_now() {
    for config in [after(), local(after()), before()] {
        let (mut stage, first, head) = play(&config, []);
        let second = stage.start(&head);
        assert_eq!(second.story(), "claim in flight, = in_flight, reply 409");
        assert_eq!(second.reply_header("retry-after"), Some("1"));
        assert_eq!(second.reply_header("payment-required"), None);
        assert_eq!(stage.left(&first), "in flight");
    }
}

#[test]
fn every_answer_of_the_ledger_to_a_claim_is_taken() {
    let hash = TransactionId::Evm(TRANSACTION.parse().unwrap());
    for (answer, story) in [
        (Answer::Granted, "claim granted, verify?"),
        (
            Answer::GrantedUnknown(Unheard { named: None, since: UnixTime::from_secs(NOW), charge: None }),
            "claim granted unknown, settle?",
        ),
        (Answer::GrantedSettled(hash, None), "claim granted settled, forward settled"),
        (Answer::InFlight, "claim in flight, = in_flight, reply 409"),
        (Answer::Waiting, "claim waiting, = refused, reply 409"),
        (Answer::Spent, "claim spent, = spent, reply 402"),
        (Answer::NotHeld, "claim not held, = overloaded, reply 503"),
        (Answer::Full, "claim full, = overloaded, reply 503"),
        (Answer::Failed, "claim failed, = overloaded, reply 503"),
    ] {
        let mut stage = Stage::new(&after());
        let head = paid("/weather", &long_lived(&mut stage));
        stage.forced = Some(("claim", answer));
        let request = stage.start(&head);
        assert_eq!(request.story(), story);
        if request.status() == 503 {
            assert_eq!(request.reply_header("retry-after"), Some("1"));
            assert_eq!(request.reply_header("payment-required"), None);
        }
    }
}

#[test]
fn settlement_begins_only_where_the_ledger_grants_it() {
    let hash = TransactionId::Evm(TRANSACTION.parse().unwrap());
    for (answer, end) in [
        (Answer::NotHeld, "settle not held, = in_flight, reply 409"),
        (Answer::Failed, "settle failed, = overloaded, reply 503"),
        (Answer::Full, "settle full, = overloaded, reply 503"),
        (Answer::Spent, "settle spent, = overloaded, reply 503"),
        (Answer::InFlight, "settle in flight, = overloaded, reply 503"),
        (
            Answer::GrantedUnknown(Unheard { named: None, since: UnixTime::from_secs(NOW), charge: None }),
            "settle granted unknown, = overloaded, reply 503",
        ),
        (Answer::GrantedSettled(hash, None), "settle granted settled, = overloaded, reply 503"),
    ] {
        // Before and beside the upstream the claim says so itself.
        let mut stage = Stage::new(&after());
        let head = paid("/weather", &long_lived(&mut stage));
        stage.forced = Some(("settle", answer));
        let request = stage.play(&head, [valid(), upstream(200)]);
        assert!(request.story().ends_with(end), "{}", request.story());
        assert!(request.calls.iter().all(|call| call.kind != CallKind::Settle), "no money may move");
        assert!(request.delivered.is_none());
    }
}

#[test]
fn nothing_is_given_before_the_ledger_has_the_settlement() {
    for (config, forced, events) in [
        (after(), "spend", vec![valid(), upstream(200), settled()]),
        (before(), "redeem", vec![settled()]),
        (before(), "spend", vec![settled(), upstream(200)]),
        (concurrent(), "redeem", vec![settled()]),
        (concurrent(), "spend", vec![settled(), upstream(200)]),
        (concurrent(), "spend", vec![upstream(200), settled()]),
    ] {
        for answer in [Answer::NotHeld, Answer::Failed, Answer::InFlight, Answer::Full, Answer::Spent] {
            let mut stage = Stage::new(&config);
            let head = paid("/weather", &long_lived(&mut stage));
            stage.forced = Some((forced, answer));
            let request = stage.play(&head, events.clone());
            assert!(request.story().ends_with("= unknown, reply 502"), "{}", request.story());
            assert_eq!(request.reason(), "the settlement could not be recorded");
            let transaction = request.record.as_ref().unwrap().payment.as_ref().unwrap().transaction;
            assert_eq!(transaction.unwrap().to_string(), TRANSACTION, "the log knows of the money");
            assert_eq!(request.reply_header("retry-after"), Some("1"));
            assert_eq!(request.reply_header("payment-required"), None);
            stage.forced = None;
            stage.now += LAPSE;
            let is_redeeming = request.story().contains("redeem granted");
            assert_eq!(stage.left(&request), if is_redeeming { "settled" } else { "unknown" });
        }
    }
}

#[test]
fn a_full_ledger_takes_no_new_payment() {
    let mut config = local(after());
    config["ledger"] = json!({"max_claims": 1});
    let mut stage = Stage::new(&config);
    let entry = entry(&mut stage, "/weather");
    let statuses: Vec<_> = (1..=254)
        .flat_map(|secret| [(secret, 1), (secret, 2)])
        .map(|(secret, nonce)| stage.start(&paid("/weather", &Wallet::new(secret).pay(&entry, nonce))).status())
        .collect();
    // 508 payments on 4096 pages of one claim each: by chance some fall on the same page.
    let full = statuses.iter().filter(|status| **status == 503).count();
    assert!((1..100).contains(&full), "{full}");
    assert!(statuses.iter().all(|status| matches!(status, 0 | 503)));
}

// -------------------------------------------------------------------------------------------------- the facilitator

/// Answers to either question that say nothing about the money, with the status and the log's words for them.
fn unknowns() -> Vec<(Event, u16, &'static str)> {
    let unreachable = "the facilitator did not answer";
    let unreadable = "the facilitator's answer is not understood";
    let raw = |status, body: &[u8]| Event::Callout(CalloutAnswer::Answered { status, body: body.to_vec() });
    let too_long = format!(r#"{{"isValid": true, "success": true, "padding": "{}"}}"#, "x".repeat(MAX_ANSWER_BYTES));
    vec![
        (lost(), 502, unreachable),
        (answers_with(503, &json!({"isValid": true, "success": true})), 502, unreachable),
        (timed_out(), 504, "the facilitator did not answer in time"),
        (raw(200, b""), 502, unreadable),
        (raw(200, b"null"), 502, unreadable),
        (raw(200, b"[]"), 502, unreadable),
        (raw(200, b"[true]"), 502, unreadable),
        (raw(200, b"\xff"), 502, unreadable),
        (raw(200, b"<html>"), 502, unreadable),
        (raw(200, too_long.as_bytes()), 502, unreadable),
        (answers(&json!({})), 502, unreadable),
        (answers(&json!({"isValid": "true", "success": "true"})), 502, unreadable),
        (answers(&json!({"isValid": 1, "success": 1})), 502, unreadable),
        (answers(&json!({"isValid": null, "success": null})), 502, unreadable),
        (
            answers(&json!({
                "isValid": true, "invalidReason": "no", "success": true, "errorReason": "no",
                "transaction": TRANSACTION, "network": "eip155:84532",
            })),
            502,
            "the facilitator's answer does not fit the payment: errorReason",
        ),
        (raw(200, br#"{"isValid": false, "isValid": true, "success": false, "success": true}"#), 502, unreadable),
        (raw(302, b""), 502, unreadable),
        (answers_with(0, &json!({})), 502, unreadable),
    ]
}

/// A whole yes to either question, to be spoiled.
fn yes() -> Value {
    json!({"isValid": true, "success": true, "transaction": TRANSACTION, "network": "eip155:84532"})
}

/// A whole yes with one field set to something else, or left out.
fn yes_but(field: &str, value: Option<Value>) -> Event {
    let mut yes = yes();
    match value {
        Some(value) => yes[field] = value,
        None => drop(yes.as_object_mut().unwrap().remove(field)),
    }
    answers(&yes)
}

#[test]
fn an_unknown_verification_releases_and_is_no_refusal() {
    let stranger = Wallet::new(9).address().to_string();
    let more = vec![
        (not_sent(), 502, "the facilitator could not be called"),
        (yes_but("payer", Some(stranger.into())), 502, "the facilitator's answer does not fit the payment: payer"),
        (yes_but("isValid", None), 502, "the facilitator's answer is not understood"),
        (
            yes_but("invalidReason", Some("x".into())),
            502,
            "the facilitator's answer does not fit the payment: errorReason",
        ),
        (answers_with(301, &yes()), 502, "the facilitator's answer does not fit the payment: status"),
        (answers_with(302, &yes()), 502, "the facilitator's answer does not fit the payment: status"),
        (
            answers_with(500, &json!({"isValid": false, "invalidReason": "x"})),
            502,
            "the facilitator's answer does not fit the payment: status",
        ),
        (answers_with(400, &yes()), 502, "the facilitator's answer does not fit the payment: status"),
        (answers_with(500, &yes()), 502, "the facilitator's answer does not fit the payment: status"),
        (
            answers_with(500, &json!({"isValid": false})),
            502,
            "the facilitator's answer does not fit the payment: status",
        ),
        (
            answers_with(400, &json!({"errorType": "invalid_request"})),
            502,
            "the facilitator's answer is not understood",
        ),
    ];
    for (answer, status, reason) in unknowns().into_iter().chain(more) {
        let (mut stage, request, head) = play(&after(), [answer.clone()]);
        let story = format!("claim granted, verify? | release granted, = unknown, reply {status}");
        assert_eq!(request.story(), story, "{answer:?}");
        assert_eq!(request.reason(), reason, "{answer:?}");
        assert_eq!(request.body(), json!({"error": format!("{reason}; send the same payment again")}));
        assert_eq!(request.reply_header("retry-after"), Some("1"));
        assert_eq!(request.reply_header("payment-required"), None, "an honest client would pay again");
        assert_eq!(stage.left(&request), "nothing");
        let again = stage.play(&head, [valid(), upstream(200), settled()]);
        assert_eq!(again.record.unwrap().outcome, Outcome::Served);
    }
}

#[test]
fn a_transaction_that_is_named_is_not_lost_by_whatever_else_is_off() {
    let transaction = format!(r#""transaction":"{TRANSACTION}""#);
    let doubled = |fields: &str| {
        let body = format!(r#"{{"success":true,{transaction},{fields}}}"#).into_bytes();
        Event::Callout(CalloutAnswer::Answered { status: 200, body })
    };
    let unreadable = "the facilitator's answer is not understood";
    let misfit = |field: &str| format!("the facilitator's answer does not fit the payment: {field}");
    let odd = || [json!(84532), json!(["eip155:84532"]), json!({"id": "eip155:84532"}), json!(false)].into_iter();
    let off = ["network", "payer", "errorReason"]
        .into_iter()
        .flat_map(|field| odd().map(move |value| (yes_but(field, Some(value)), misfit(field))));
    let more = [
        (yes_but("success", Some("true".into())), unreadable.to_owned()),
        (yes_but("success", Some(json!([true]))), unreadable.to_owned()),
        (yes_but("success", None), unreadable.to_owned()),
        (doubled(r#""network":"eip155:84532","network":"eip155:84532""#), unreadable.to_owned()),
        (doubled(r#""transaction":"""#), unreadable.to_owned()),
        (doubled(r#""payer":"\ud800""#), misfit("payer")),
        (
            answers(&json!({"success": false, "errorReason": {"code": "pending"}, "transaction": TRANSACTION})),
            "the settlement may have failed".to_owned(),
        ),
    ];
    for (answer, reason) in off.chain(more) {
        let (stage, request, _) = play(&before(), [answer.clone()]);
        assert_eq!((request.status(), request.reason()), (502, reason.as_str()), "{answer:?}");
        assert_eq!(stage.left(&request), "unknown", "{answer:?}");
        let receipt = decode(request.reply_header("payment-response").unwrap_or_else(|| panic!("{answer:?}")));
        assert_eq!((&receipt["success"], &receipt["transaction"]), (&json!(false), &json!(TRANSACTION)), "{answer:?}");
    }
}

#[test]
fn a_reason_that_is_no_text_is_none() {
    for reason in [json!({"code": "insufficient_funds"}), json!(["insufficient_funds"]), json!(7)] {
        let (_, request, _) =
            play(&after(), [answers(&json!({"isValid": false, "invalidReason": reason, "payer": 7}))]);
        assert_eq!((request.status(), request.reason()), (402, "the facilitator gave no reason"));
        let (stage, request, _) = play(&before(), [answers(&json!({"success": false, "errorReason": reason}))]);
        assert_eq!((request.status(), stage.left(&request)), (502, "unknown"), "{reason}");
    }
    // A refusal that names a transaction in whatever way is none.
    for named in [json!(1), json!({"hash": TRANSACTION}), json!("None"), json!("0x"), json!(" "), json!([])] {
        let no = json!({"success": false, "errorReason": "insufficient_funds", "transaction": named});
        let (stage, request, _) = play(&before(), [answers(&no)]);
        assert_eq!((request.status(), stage.left(&request)), (502, "unknown"), "{named}");
    }
}

/// Of a settlement that is not certain, the client is told the transaction where one is named, and nothing else.
fn assert_named_alone(request: &Request) {
    let Some(receipt) = request.reply_header("payment-response").map(decode) else { return };
    assert_eq!((&receipt["success"], &receipt["transaction"]), (&json!(false), &json!(TRANSACTION)));
    assert_eq!(receipt["errorReason"], "settlement_pending");
}

#[test]
fn an_unknown_settlement_is_remembered() {
    let unreadable = "the facilitator's answer is not understood";
    let unsure = "the settlement may have failed";
    let misfit = |field: &str| format!("the facilitator's answer does not fit the payment: {field}");
    let spoiled = [
        (yes_but("success", None), unreadable.to_owned()),
        (answers(&json!({"success": false, "transaction": "", "network": "eip155:84532"})), unsure.to_owned()),
        (refused(""), unsure.to_owned()),
        (yes_but("transaction", None), misfit("transaction")),
        (yes_but("transaction", Some("".into())), misfit("transaction")),
        (yes_but("transaction", Some("0x".into())), misfit("transaction")),
        (yes_but("transaction", Some(format!("0x{}", "0".repeat(64)).into())), misfit("transaction")),
        (yes_but("transaction", Some(TRANSACTION[..65].into())), misfit("transaction")),
        (yes_but("transaction", Some(7.into())), misfit("transaction")),
        (yes_but("transaction", Some(Value::Null)), misfit("transaction")),
        (yes_but("network", Some("eip155:8453".into())), misfit("network")),
        (yes_but("network", Some("base".into())), misfit("network")),
        (yes_but("payer", Some(PAY_TO.into())), misfit("payer")),
        (yes_but("errorReason", Some("x".into())), misfit("errorReason")),
        (answers_with(301, &yes()), misfit("status")),
        (answers_with(302, &yes()), misfit("status")),
        (answers_with(500, &json!({"success": false, "errorReason": "x"})), unsure.to_owned()),
        (answers_with(400, &yes()), misfit("status")),
        (answers_with(500, &yes()), misfit("status")),
        (answers_with(404, &json!({"error": "not found"})), unreadable.to_owned()),
        // What belongs to `/verify` is no yes to `/settle`.
        (
            answers(&json!({"isValid": true, "transaction": TRANSACTION, "network": "eip155:84532"})),
            unreadable.to_owned(),
        ),
    ];
    let spoiled = spoiled.into_iter().map(|(answer, reason)| (answer, 502, reason));
    let unknowns = unknowns().into_iter().map(|(answer, status, reason)| (answer, status, reason.to_owned()));
    for (answer, status, reason) in unknowns.chain(spoiled) {
        for (config, events) in [(after(), vec![valid(), upstream(200)]), (before(), vec![])] {
            let (stage, request, _) = play(&config, events.into_iter().chain([answer.clone()]));
            let end = format!("settle? | forget granted, = unknown, reply {status}");
            assert!(request.story().ends_with(&end), "{answer:?}: {}", request.story());
            assert_eq!(request.reason(), reason, "{answer:?}");
            assert_eq!(request.reply_header("retry-after"), Some("1"));
            assert_eq!(request.reply_header("payment-required"), None, "an honest client would pay again");
            assert_named_alone(&request);
            assert_eq!(stage.left(&request), "unknown", "{answer:?}");
        }
    }
}

#[test]
fn a_settlement_that_was_never_asked_for_is_as_if_nothing_had_come() {
    for (config, events) in [(after(), vec![valid(), upstream(200)]), (before(), vec![])] {
        let (stage, request, _) = play(&config, events.into_iter().chain([not_sent()]));
        assert!(request.story().ends_with("settle? | release granted, = unknown, reply 502"));
        assert_eq!(request.reason(), "the facilitator could not be called");
        assert_eq!(stage.left(&request), "nothing");
    }
}

#[test]
fn a_yes_may_name_the_payer() {
    let payer = Wallet::new(1).address().to_string();
    for spelling in [payer.clone(), payer.to_lowercase()] {
        let named = || yes_but("payer", Some(spelling.clone().into()));
        let (_, request, _) = play(&after(), [named(), upstream(200), named()]);
        assert_eq!(request.record.unwrap().outcome, Outcome::Served);
    }
    let unnamed = || yes_but("payer", Some(Value::Null));
    let (_, request, _) = play(&after(), [unnamed(), upstream(200), unnamed()]);
    assert_eq!(request.record.unwrap().outcome, Outcome::Served);
}

#[test]
fn a_refused_verification_gives_the_terms_and_the_reason() {
    for status in [200, 400, 402, 422] {
        let (stage, request, _) = play(
            &after(),
            [answers_with(
                status,
                &json!({"isValid": false, "invalidReason": "invalid_exact_evm_insufficient_balance"}),
            )],
        );
        assert_eq!(request.story(), "claim granted, verify? | release granted, = refused, reply 402");
        let terms = decode(request.reply_header("payment-required").unwrap());
        assert_eq!(terms["error"], "invalid_exact_evm_insufficient_balance");
        assert_eq!(terms["accepts"][0]["amount"], "1000");
        assert_eq!(request.body()["error"], "invalid_exact_evm_insufficient_balance");
        assert_eq!(stage.left(&request), "nothing");
    }
}

#[test]
fn a_no_to_verify_needs_no_reason() {
    for answer in [json!({"isValid": false}), json!({"isValid": false, "invalidReason": "", "payer": ""})] {
        let (_, request, _) = play(&after(), [answers(&answer)]);
        assert_eq!(request.story(), "claim granted, verify? | release granted, = refused, reply 402");
        assert_eq!(request.reason(), "the facilitator gave no reason");
    }
}

#[test]
fn a_missing_permit2_allowance_has_its_own_status() {
    let (_, request, _) = play(&after(), [invalid("permit2_allowance_required")]);
    assert_eq!(request.story(), "claim granted, verify? | release granted, = refused, reply 412");
    assert!(request.reply_header("payment-required").is_some());
}

#[test]
fn a_refused_settlement_drops_the_response_and_says_so() {
    for (config, events) in [(after(), vec![valid(), upstream(200)]), (before(), vec![])] {
        let (stage, request, _) =
            play(&config, events.into_iter().chain([refused("invalid_exact_evm_insufficient_balance")]));
        assert!(request.story().ends_with("settle? | release granted, = refused, reply 402"));
        assert_eq!(
            decode(request.reply_header("payment-response").unwrap()),
            json!({
                "success": false,
                "errorReason": "invalid_exact_evm_insufficient_balance",
                "payer": Wallet::new(1).address().to_string(),
                "transaction": "",
                "network": "eip155:84532",
            })
        );
        assert_eq!(request.body()["error"], "invalid_exact_evm_insufficient_balance");
        assert_eq!(request.reply_header("cache-control"), Some("no-store"));
        assert_eq!(stage.left(&request), "nothing");
    }
}

#[test]
fn a_refusal_counts_whatever_else_the_answer_holds() {
    // Facilitators that have not got as far as the payer name none.
    for payer in [json!(""), json!("0x"), json!("somebody"), Value::Null] {
        let mut no = json!({
            "isValid": false, "invalidReason": "invalid_payload",
            "success": false, "errorReason": "invalid_payload", "transaction": "", "network": "",
        });
        no["payer"] = payer.clone();
        let (_, verified, _) = play(&after(), [answers(&no)]);
        assert_eq!((verified.status(), verified.reason()), (402, "invalid_payload"), "verify, payer {payer}");
        let (_, settled, _) = play(&before(), [answers(&no)]);
        assert_eq!((settled.status(), settled.reason()), (402, "invalid_payload"), "settle, payer {payer}");
    }
}

#[test]
fn a_refusal_that_leaves_the_money_open_is_none() {
    let with_transaction = |reason: &str| {
        let network = "eip155:84532";
        answers(&json!({"success": false, "errorReason": reason, "transaction": TRANSACTION, "network": network}))
    };
    for answer in [
        refused("invalid_exact_evm_transaction_failed"),
        refused("invalid_exact_evm_transfer_event_mismatch"),
        refused("invalid_transaction_state"),
        refused("unexpected_settle_error"),
        refused("unexpected_error"),
        refused("insufficient funds for gas * price + value"),
        refused("not_now"),
        with_transaction("reverted"),
        with_transaction("insufficient_funds"),
        answers_with(500, &json!({"success": false, "errorReason": "internal"})),
    ] {
        let (stage, request, _) = play(&before(), [answer.clone()]);
        assert!(request.story().ends_with("forget granted, = unknown, reply 502"), "{answer:?}");
        assert_eq!(request.reason(), "the settlement may have failed");
        assert_named_alone(&request);
        assert_eq!(stage.left(&request), "unknown");
    }
    // With the one word that asks for it, the question is put again, transaction or not.
    let (_, request, _) = play(&before(), [with_transaction("settlement_pending")]);
    assert!(request.story().ends_with("settle? | pause"));
}

#[test]
fn a_body_counts_whatever_the_status() {
    let pending = |status| {
        let body = json!({"success": false, "errorReason": "settlement_pending", "transaction": TRANSACTION, "network": "eip155:84532"});
        answers_with(status, &body)
    };
    for status in [200, 202, 400, 500] {
        let (_, request, _) = play(&before(), [pending(status)]);
        assert!(request.story().ends_with("settle? | pause"), "{status}: {}", request.story());
    }
    for status in [201, 202, 299] {
        let (_, request, _) =
            play(&after(), [answers_with(status, &yes()), upstream(200), answers_with(status, &yes())]);
        assert_eq!(outcome(&request), Some(Outcome::Served), "{status}");
    }
    for status in [200, 201, 400, 404, 500, 503] {
        let no =
            answers_with(status, &json!({"success": false, "errorReason": "insufficient_funds", "transaction": ""}));
        let (stage, request, _) = play(&before(), [no]);
        assert_eq!((request.status(), outcome(&request)), (402, Some(Outcome::Refused)), "{status}");
        assert_eq!(stage.left(&request), "nothing");
        let no = answers_with(status, &json!({"isValid": false, "invalidReason": "insufficient_funds"}));
        let (_, request, _) = play(&after(), [no]);
        assert_eq!((request.status(), outcome(&request)), (402, Some(Outcome::Refused)), "{status}");
    }
}

#[test]
fn what_is_written_in_another_way_is_taken_for_what_it_means() {
    let marked = |json: &Value| {
        let body = [&b"\xef\xbb\xbf"[..], json.to_string().as_bytes()].concat();
        Event::Callout(CalloutAnswer::Answered { status: 200, body })
    };
    for answer in [
        yes_but("network", None),
        yes_but("network", Some("".into())),
        yes_but("network", Some(Value::Null)),
        yes_but("network", Some("base-sepolia".into())),
        yes_but("transaction", Some(TRANSACTION[2..].into())),
        yes_but("transaction", Some(TRANSACTION.to_uppercase().replacen("0X", "0x", 1).into())),
        marked(&yes()),
    ] {
        let (_, request, _) = play(&before(), [answer.clone(), upstream(200)]);
        assert_eq!(outcome(&request), Some(Outcome::Served), "{answer:?}");
        assert_eq!(decode(request.receipt_header("payment-response").unwrap())["transaction"], TRANSACTION);
    }
}

#[test]
fn what_the_facilitator_said_stands_in_the_log_without_secrets() {
    let mut config = before();
    config["facilitator"]["headers"] = json!({"authorization": "Bearer 0123456789abcdef"});
    let said = format!("{{\"errorMessage\":\"no account for Bearer 0123456789abcdef\\n\"}}{}", "x".repeat(1000));
    let answer = Event::Callout(CalloutAnswer::Answered { status: 400, body: said.into_bytes() });
    let (_, request, _) = play(&config, [answer]);
    let facts = request.record.as_ref().unwrap().facts();
    let (_, reason) = facts.iter().find(|(name, _)| *name == "reason").unwrap();
    assert!(
        reason.starts_with(
            "the facilitator's answer is not understood; http://127.0.0.1:4021/settle (cluster facilitator) answered 400: {\"errorMessage\":\"no account for "
        ),
        "{reason}"
    );
    assert!(!reason.contains("0123456789") && reason.len() < 400, "{reason}");
}

#[test]
fn a_facilitator_that_repeats_the_operators_keys_does_not_tell_them() {
    let key = "sk-0123/456789abcdef==";
    for (written, settles) in [(key.to_owned(), true), (key.to_owned(), false), (key.replace('/', r"\/"), false)] {
        let mut config = if settles { before() } else { after() };
        config["facilitator"]["headers"] = json!({"authorization": format!("Bearer {key}")});
        config["facilitator"]["url"] = "http://facilitator/v1/0123456789abcdefABCDEF".into();
        let said = format!("insufficient_funds: Bearer {written} at /v1/0123456789abcdefABCDEF {}", "x".repeat(400));
        let body = match settles {
            true => format!(r#"{{"success":false,"errorReason":"{said}","transaction":""}}"#),
            false => format!(r#"{{"isValid":false,"invalidReason":"{said}"}}"#),
        };
        let answer = Event::Callout(CalloutAnswer::Answered { status: 200, body: body.into_bytes() });
        let (_, request, _) = play(&config, [answer]);
        assert_eq!(request.status(), 402);
        let facts = format!("{:?}", request.record.as_ref().unwrap().facts());
        let mut told = vec![facts, request.body().to_string()];
        let headers = ["payment-required", "payment-response"];
        told.extend(headers.iter().filter_map(|name| Some(decode(request.reply_header(name)?).to_string())));
        for text in told {
            assert!(!text.contains("456789abcdef"), "{text}");
        }
        assert!(request.reason().starts_with("insufficient_funds: Bearer … at /v1/… xxx"), "{}", request.reason());
        assert!(request.reason().len() < 320, "it has an end");
    }
    // What cannot be read may hold them too, and in the way that some write JSON.
    let mut config = before();
    config["facilitator"]["headers"] = json!({"authorization": format!("Bearer {key}")});
    let page = format!("<p>Bearer {} is none</p>", key.replace('/', r"\/")).into_bytes();
    let (_, request, _) = play(&config, [Event::Callout(CalloutAnswer::Answered { status: 401, body: page })]);
    let facts = format!("{:?}", request.record.as_ref().unwrap().facts());
    assert!(facts.contains("answered 401: <p>Bearer … is none</p>") && !facts.contains("456789"), "{facts}");
}

#[test]
fn a_field_left_empty_says_nothing() {
    let empty = json!({
        "isValid": true, "invalidReason": "", "payer": "",
        "success": true, "errorReason": "", "transaction": TRANSACTION, "network": "eip155:84532",
    });
    let (_, request, _) = play(&after(), [answers(&empty), upstream(200), answers(&empty)]);
    assert_eq!(outcome(&request), Some(Outcome::Served));
}

#[test]
fn a_pending_settlement_is_asked_for_again_in_a_while() {
    for (answer, end, left) in [
        (settled(), "spend granted, = served, deliver with receipt", "spent"),
        (refused("nonce"), "forget granted, = unknown, reply 502", "unknown"),
        (not_sent(), "forget granted, = unknown, reply 502", "unknown"),
        (lost(), "forget granted, = unknown, reply 502", "unknown"),
        (timed_out(), "forget granted, = unknown, reply 504", "unknown"),
    ] {
        let events = [valid(), upstream(200), pending(), Event::Tick, answer];
        let (stage, request, _) = play(&after(), events);
        assert!(request.story().ends_with(&format!("settle granted, settle? | pause | settle? | {end}")));
        let [.., first, second] = request.calls.as_slice() else { panic!("two settlements are asked for") };
        assert_eq!(first, second, "the identical question");
        assert_eq!(stage.left(&request), left);
    }
    let (_, request, _) = play(&before(), [pending(), Event::Tick, settled(), upstream(200)]);
    assert_eq!(request.record.unwrap().outcome, Outcome::Served);
}

#[test]
fn a_settlement_that_stays_pending_becomes_unknown() {
    let (mut stage, mut request, _) = play(&before(), []);
    let begun = stage.now;
    while !request.is_over() {
        let event = if request.is_pausing() { Event::Tick } else { pending() };
        stage.step(&mut request, event);
    }
    assert_eq!(stage.now, begun + 11, "the facilitator's time-out, rounded up");
    assert!(request.story().ends_with("pause | settle? | forget granted, = unknown, reply 502"));
    assert_eq!(request.calls.len(), 12);
    assert_eq!(stage.left(&request), "unknown");
}

#[test]
fn a_pause_is_not_cut_short() {
    let (mut stage, mut request, _) = play(&before(), [pending()]);
    stage.now -= 1; // Let time pass, and yet not.
    stage.step(&mut request, Event::Tick);
    assert!(request.is_pausing());
    stage.step(&mut request, Event::Tick);
    assert!(!request.is_pausing());
}

// ------------------------------------------------------------------------------------------------ unknown, and again

#[test]
fn an_unknown_settlement_is_taken_up_by_the_same_payment() {
    for (config, events) in [(after(), vec![valid(), upstream(200), lost()]), (before(), vec![lost()])] {
        for (answers, story, left) in [
            (
                vec![settled(), upstream(200)],
                "claim granted unknown, settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt",
                "spent",
            ),
            (
                vec![settled(), upstream(500)],
                "claim granted unknown, settle? | redeem granted, forward settled | release granted, = settled_upstream_failed, deliver with receipt",
                "settled",
            ),
            (
                vec![refused("invalid_exact_evm_nonce_already_used")],
                "claim granted unknown, settle? | forget granted, = unknown, reply 502",
                "unknown",
            ),
            (vec![lost()], "claim granted unknown, settle? | forget granted, = unknown, reply 502", "unknown"),
            (vec![timed_out()], "claim granted unknown, settle? | forget granted, = unknown, reply 504", "unknown"),
            (vec![not_sent()], "claim granted unknown, settle? | forget granted, = unknown, reply 502", "unknown"),
            (
                vec![pending(), Event::Tick, refused("insufficient_funds")],
                "claim granted unknown, settle? | pause | settle? | forget granted, = unknown, reply 502",
                "unknown",
            ),
            (
                vec![pending(), Event::Tick, settled(), upstream(200)],
                "claim granted unknown, settle? | pause | settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt",
                "spent",
            ),
        ] {
            let (mut stage, first, head) = play(&config, events.clone());
            assert_eq!(stage.left(&first), "unknown");
            let again = stage.play(&head, answers);
            assert_eq!(again.story(), story);
            assert_eq!(stage.left(&again), left);
            if again.status() != 0 {
                assert_eq!(again.reply_header("payment-required"), None);
                assert_eq!(again.reply_header("payment-response"), None);
                assert_eq!(again.reply_header("retry-after"), Some("1"));
            }
            assert_eq!(first.calls.last().unwrap().body, again.calls[0].body, "the identical question");
        }
    }
}

#[test]
fn a_refusal_after_an_unknown_settlement_is_logged_with_its_reason() {
    let (mut stage, _, head) = play(&before(), [lost()]);
    let again = stage.play(&head, [refused("invalid_exact_evm_nonce_already_used")]);
    assert_eq!(again.record.as_ref().unwrap().outcome, Outcome::Unknown);
    assert_eq!(again.reason(), "invalid_exact_evm_nonce_already_used");
}

// --------------------------------------------------------------------------------------- requests that end too early

/// Every state that waits for something from outside: the events that lead to it, how its story ends then, and what
/// the ledger holds once everybody has gone.
fn waiting_states() -> Vec<(Value, Vec<Event>, &'static str, &'static str)> {
    vec![
        (after(), vec![], "verify?", "nothing"),
        (after(), vec![valid()], "forward", "nothing"),
        (local(after()), vec![], "claim granted, forward", "nothing"),
        (after(), vec![valid(), upstream(200)], "settle?", "unknown"),
        (after(), vec![valid(), upstream(200), pending()], "pause", "unknown"),
        (after(), vec![valid(), upstream(200), pending(), Event::Tick], "settle?", "unknown"),
        (before(), vec![], "settle?", "unknown"),
        (before(), vec![settled()], "forward settled", "settled"),
        (concurrent(), vec![], "settle?, forward", "unknown"),
        (concurrent(), vec![upstream(200)], "settle?, forward", "unknown"),
        (concurrent(), vec![upstream(500)], "settle?, forward", "unknown"),
        (concurrent(), vec![settled()], "redeem granted", "settled"),
    ]
}

fn is_settling(request: &Request) -> bool {
    request.is_pausing() || request.call.as_ref().is_some_and(|call| call.kind == CallKind::Settle)
}

#[test]
fn a_request_that_ends_leaves_what_may_have_happened() {
    for (config, events, last, left) in waiting_states() {
        let (mut stage, mut request, _) = play(&config, events);
        assert!(request.story().ends_with(last), "{}", request.story());
        let settles = is_settling(&request);
        assert_eq!(settles, left == "unknown");
        stage.step(&mut request, Event::Ended);
        if settles {
            // The settlement goes on.
            assert_eq!(request.trace.last().unwrap(), "");
            assert!(!request.is_over());
            assert_eq!(stage.left(&request), "in flight");
            continue;
        }
        let end = if left == "settled" { "abandon granted, = abandoned" } else { "release granted, = left" };
        assert_eq!(request.trace.last().unwrap(), end);
        assert_eq!(stage.left(&request), left);
        assert!(request.is_over() && !request.is_answered());

        // Whatever comes late changes nothing.
        let story = request.story();
        for late in [settled(), valid(), Event::Ledger(Answer::Granted), Event::Ended] {
            stage.step(&mut request, late);
        }
        assert_eq!(request.story(), story);
        assert_eq!(stage.left(&request), left);
    }
}

#[test]
fn a_settlement_that_nobody_waits_for_is_heard_to_its_end() {
    for (config, events, ..) in waiting_states() {
        let (_, request, _) = play(&config, events.clone());
        if !is_settling(&request) {
            continue;
        }
        let was_pending = events.iter().any(|event| *event == pending());
        let sure = |sure| if was_pending { "forget granted, = unknown" } else { sure };
        let (_, request, _) = play(&config, events.clone());
        if request.is_pausing() {
            continue;
        }
        for (answer, end) in [
            (settled(), "keep granted, = abandoned"),
            (refused("insufficient_funds"), sure("release granted, = refused")),
            (not_sent(), sure("release granted, = unknown")),
            (lost(), "forget granted, = unknown"),
            (timed_out(), "forget granted, = unknown"),
            (pending(), "pause"),
        ] {
            let (mut stage, mut request, head) = play(&config, events.clone());
            stage.step(&mut request, Event::Ended);
            // That the stream is over may be said more than once.
            stage.step(&mut request, Event::Ended);
            stage.step(&mut request, answer);
            assert_eq!(request.trace.last().unwrap(), end, "{}", request.story());
            if !request.is_over() {
                stage.step(&mut request, Event::Tick);
                stage.step(&mut request, settled());
                assert_eq!(request.trace.last().unwrap(), "keep granted, = abandoned");
            }
            assert!(!request.is_answered());
            let left = match outcome(&request) {
                Some(Outcome::Abandoned) => "settled",
                _ if end.starts_with("forget") => "unknown",
                _ => "nothing",
            };
            assert_eq!(stage.left(&request), left, "{}", request.story());
            let again = finish(&mut stage, &head);
            assert_eq!(outcome(&again), Some(Outcome::Served), "{}", again.story());
            assert_eq!(again.calls.is_empty(), left == "settled", "nothing is settled twice");
        }
    }
}

#[test]
fn a_client_that_was_cut_off_gets_what_it_paid_for_later() {
    for (config, events) in [(after(), vec![valid(), upstream(200)]), (before(), vec![]), (concurrent(), vec![])] {
        let (mut stage, mut request, head) = play(&config, events);
        stage.step(&mut request, Event::Ended);
        assert_eq!(stage.start(&head).story(), "claim in flight, = in_flight, reply 409");
        stage.step(&mut request, settled());
        let again = stage.play(&head, [upstream(200)]);
        assert_eq!(
            again.story(),
            "claim granted settled, forward settled | spend granted, = served, deliver with receipt"
        );
        assert_eq!(stage.start(&head).status(), 402);
    }
}

#[test]
fn a_request_may_end_between_a_question_to_the_ledger_and_its_answer() {
    for (config, events, last, left) in [
        // Claiming.
        (after(), vec![], "release granted, = left", "nothing"),
        // The same where settlement is asked for at once, and beginning it after the upstream.
        (before(), vec![], "release granted, = left", "nothing"),
        (concurrent(), vec![], "release granted, = left", "nothing"),
        (after(), vec![valid(), upstream(200)], "release granted, = left", "nothing"),
        // Recording: what the ledger was told last is what happened.
        (after(), vec![valid(), upstream(200), settled()], "", "spent"),
        (before(), vec![settled()], "", "settled"),
        (concurrent(), vec![settled()], "", "settled"),
    ] {
        let mut stage = Stage::new(&config);
        let head = paid("/weather", &long_lived(&mut stage));
        let mut request = stage.arrive(&head);
        for event in events {
            while stage.turn(&mut request) {}
            stage.happen(&mut request, event);
        }
        assert!(request.is_pending());
        // The ledger carries the operation out, and its answer finds the request over.
        stage.end_unheard(&mut request);
        assert_eq!(request.trace.last().unwrap(), last, "{}", request.story());
        assert!(request.is_over() && !request.is_answered());
        stage.now += LAPSE;
        assert_eq!(stage.left(&request), left, "{}", request.story());
    }
}

#[test]
fn claims_lapse_into_what_may_have_happened() {
    for (config, events, _, left) in waiting_states() {
        let (mut stage, mut request, head) = play(&config, events);
        stage.now += LAPSE - 1;
        let is_settling = left == "unknown";
        assert_eq!(stage.left(&request), if is_settling { left } else { "in flight" });
        stage.now += 1;
        assert_eq!(stage.left(&request), left);

        // Another request takes the payment over, and the first one goes away empty-handed.
        let second = stage.start(&head);
        let starts = match left {
            "unknown" => "claim granted unknown, settle?",
            "settled" => "claim granted settled, forward settled",
            _ => "claim granted, ",
        };
        assert!(second.story().starts_with(starts), "{}", second.story());
        while !request.is_over() {
            let event = good_event(&request);
            stage.step(&mut request, event);
        }
        // What it gets at most is the upstream's error, which waited.
        let is_error = outcome(&request) == Some(Outcome::SettledUpstreamFailed);
        assert!(is_error || matches!(request.status(), 409 | 502), "{}", request.story());
        assert_eq!(request.reply_header("payment-required"), None);
        assert!(request.story().contains("not held"), "{}", request.story());
        assert_eq!(stage.left(&second), "in flight");
    }
}

#[test]
fn a_late_end_does_not_take_the_claim_from_its_new_holder() {
    for (config, events, ..) in waiting_states() {
        let (mut stage, mut request, head) = play(&config, events);
        stage.now += LAPSE;
        let second = stage.start(&head);
        stage.step(&mut request, Event::Ended);
        if request.is_pausing() {
            stage.step(&mut request, Event::Tick);
        }
        if !request.is_over() {
            stage.step(&mut request, lost());
        }
        assert!(request.trace.last().unwrap().contains("not held"), "{}", request.story());
        assert_eq!(stage.left(&second), "in flight");
    }
}

// ------------------------------------------------------------------------------------------------- stray responses

#[test]
fn the_proxys_own_answer_passes_where_nothing_was_to_be_sold() {
    for (config, events, ..) in waiting_states() {
        let (_, request, _) = play(&config, events.clone());
        if request.is_at_upstream() {
            continue;
        }
        for status in [200, 503] {
            let (mut stage, mut request, _) = play(&config, events.clone());
            let (has_upstream, settles) = (request.is_served, is_settling(&request));
            stage.step(&mut request, upstream(status));
            let answer = if has_upstream && status == 200 { "reply 502" } else { "deliver" };
            let operation = if settles { "" } else { "release granted, " };
            assert_eq!(request.trace.last().unwrap(), &format!("{operation}{answer}"), "{}", request.story());
            assert_eq!(request.receipt_header("payment-response"), None);
            assert_eq!(request.is_over(), !settles);
        }
    }
}

#[test]
fn nothing_follows_on_the_proxys_own_answer() {
    // The settlement goes on, but the client has its answer.
    for (config, events, ..) in waiting_states() {
        for answer in [settled(), refused("insufficient_funds"), lost(), not_sent(), timed_out()] {
            let (mut stage, mut request, _) = play(&config, events.clone());
            if is_settling(&request) && !request.is_pausing() && !request.is_at_upstream() {
                stage.step(&mut request, upstream(503));
                assert!(request.is_answered());
                stage.step(&mut request, answer);
                assert!(request.is_over());
            }
        }
    }
}

#[test]
fn a_stray_response_between_a_question_to_the_ledger_and_its_answer() {
    for (config, events, status, answer) in [
        (after(), vec![], 200, "deliver"),
        (before(), vec![settled()], 200, "deliver"),
        (after(), vec![valid(), upstream(200)], 200, "reply 502"),
        (after(), vec![valid(), upstream(200)], 500, "deliver"),
        (after(), vec![valid(), upstream(200), settled()], 200, "reply 502"),
        (after(), vec![valid(), upstream(200), settled()], 500, "deliver"),
    ] {
        let mut stage = Stage::new(&config);
        let head = paid("/weather", &long_lived(&mut stage));
        let mut request = stage.arrive(&head);
        for event in events {
            while stage.turn(&mut request) {}
            stage.happen(&mut request, event);
        }
        stage.happen(&mut request, upstream(status));
        while stage.turn(&mut request) {}
        assert!(request.story().ends_with(answer), "{}", request.story());
        assert!(request.is_over());
    }
}

#[test]
fn events_that_no_state_waits_for_change_nothing() {
    for (config, events, ..) in waiting_states() {
        let (mut stage, mut request, _) = play(&config, events);
        let story = request.story();
        if request.call.is_none() {
            stage.step(&mut request, settled());
        }
        stage.step(&mut request, Event::Ledger(Answer::Granted));
        stage.step(
            &mut request,
            Event::Ledger(Answer::GrantedSettled(TransactionId::Evm(TRANSACTION.parse().unwrap()), None)),
        );
        assert_eq!(request.story(), story);
        assert!(!request.is_over());
    }
}

// ------------------------------------------------------------------------------------------------- contract wallets

/// A payment whose signature is this long, and says nothing to the filter.
fn contract_payment(stage: &mut Stage, signature_bytes: usize) -> Value {
    let mut payment = long_lived(stage);
    payment["payload"]["signature"] = format!("0x{}", "ab".repeat(signature_bytes)).into();
    payment
}

fn with_contract_wallets(mut config: Value) -> Value {
    config["defaults"]["accepts"][0]["contract_wallets"] = true.into();
    config
}

#[test]
fn signatures_of_contract_wallets_are_the_facilitators_to_judge() {
    for bytes in [66, 128, 1000] {
        let mut stage = Stage::new(&local(after()));
        let head = paid("/weather", &contract_payment(&mut stage, bytes));
        let request = stage.play(&head, [valid(), upstream(200), settled()]);
        assert_eq!(
            request.story(),
            "claim unproven granted, verify? | claim granted, forward | settle granted, settle? | spend granted, = served, deliver with receipt"
        );
        let refused = Stage::new(&local(after())).play(&head, [invalid("invalid_exact_evm_signature")]);
        assert_eq!(refused.story(), "claim unproven granted, verify? | release granted, = refused, reply 402");
    }
}

#[test]
fn a_strangers_65_bytes_count_only_where_contract_wallets_may_pay() {
    type Make = fn(&mut Stage) -> Value;
    let garbage: Make = |stage| contract_payment(stage, 65);
    let strangers: Make = |stage| {
        let mut payment = long_lived(stage);
        Wallet::new(2).sign_payment(&mut payment);
        payment
    };
    let cases: [(Make, Value, &str); 6] = [
        (long_lived, after(), "claim granted, forward"),
        (long_lived, with_contract_wallets(after()), "claim granted, forward"),
        (garbage, after(), "= refused, reply 402"),
        (garbage, with_contract_wallets(after()), "claim unproven granted, verify?"),
        (strangers, after(), "= refused, reply 402"),
        (strangers, with_contract_wallets(after()), "claim unproven granted, verify?"),
    ];
    for (make, config, story) in cases {
        let mut stage = Stage::new(&local(config));
        let payment = make(&mut stage);
        assert_eq!(stage.start(&paid("/weather", &payment)).story(), story);
    }
}

#[test]
fn shorter_signatures_are_nobodys() {
    for bytes in [0, 1, 64] {
        for config in [after(), with_contract_wallets(after())] {
            let mut stage = Stage::new(&config);
            let head = paid("/weather", &contract_payment(&mut stage, bytes));
            let request = stage.start(&head);
            assert_eq!(request.story(), "= refused, reply 402");
            assert_eq!(request.reason(), "invalid_exact_evm_signature");
        }
    }
}

#[test]
fn a_wrapper_that_cannot_be_taken_apart_is_asked_about_nowhere() {
    // The official facilitator answers it with an HTTP 500, which would leave a settlement's outcome unknown.
    let word = |number: u8| format!("{number:064x}");
    let magic = "6492".repeat(16);
    let whole = ["0x", &word(1), &word(96), &word(128), &word(0), &word(2), &"ab".repeat(32), &magic].concat();
    let broken = ["0x", &word(1), &word(96), &word(255), &word(0), &word(2), &"ab".repeat(32), &magic].concat();
    let short = ["0x", &"00".repeat(33), &magic].concat();
    for config in [before(), with_contract_wallets(before())] {
        let mut stage = Stage::new(&config);
        let mut payment = long_lived(&mut stage);
        for (signature, story) in [
            (&whole, "claim unproven granted, verify?"),
            (&broken, "= refused, reply 402"),
            (&short, "= refused, reply 402"),
        ] {
            payment["payload"]["signature"] = signature.as_str().into();
            let request = stage.start(&paid("/weather", &payment));
            assert_eq!(request.story(), story, "{signature}");
            if story.starts_with('=') {
                assert_eq!(request.reason(), "invalid_exact_evm_signature");
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------ binding and replay

#[test]
fn a_settled_payment_does_not_buy_what_another_of_its_nonce_is_for() {
    let mut config = before();
    config["routes"][1]["pay_to"] = Wallet::new(7).address().to_string().into();
    let mut stage = Stage::new(&config);
    let wallet = Wallet::new(1);
    let cheap = wallet.pay(&entry(&mut stage, "/weather"), 1);
    let request = stage.play(&paid("/weather", &cheap), [settled(), upstream(500)]);
    assert_eq!(stage.left(&request), "settled");

    // The payer signs the same nonce for a route that costs 500,000 times as much and pays somebody else. The token
    // would refuse it, so nobody may take the first payment for it.
    let dear = wallet.pay(&entry(&mut stage, "/dear"), 1);
    let request = stage.start(&paid("/dear", &dear));
    assert!(request.forwarded.is_none(), "{}", request.story());
}

#[test]
fn a_settled_payment_is_not_redeemed_by_who_only_knows_its_nonce() {
    let (mut stage, request, _) = play(&before(), [settled(), upstream(500)]);
    assert_eq!(stage.left(&request), "settled");

    // Payer and nonce of a settled payment stand on the chain for all to read. A signature of more than 65 bytes is not
    // checked here, so it may not open what another one paid for.
    let forged = contract_payment(&mut stage, 66);
    let request = stage.start(&paid("/weather", &forged));
    assert!(request.forwarded.is_none(), "{}", request.story());

    let mut stage = Stage::new(&with_contract_wallets(before()));
    let good = long_lived(&mut stage);
    stage.play(&paid("/weather", &good), [settled(), upstream(500)]);
    let forged = contract_payment(&mut stage, 65);
    let request = stage.start(&paid("/weather", &forged));
    assert!(request.forwarded.is_none(), "{}", request.story());
}

#[test]
fn a_claim_outlives_every_payment_of_its_nonce() {
    let mut stage = Stage::new(&local(after()));
    let short = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
    stage.play(&paid("/weather", &short), [upstream(200), lost()]);
    // The payer signs the same nonce once more, for longer. If that takes up what the first payment left, then the
    // claim has to live as long.
    let long = paid("/weather", &long_lived(&mut stage));
    let request = finish(&mut stage, &long);
    if request.record.as_ref().is_none_or(|record| record.outcome != Outcome::Served) {
        return;
    }
    // The first payment ends. Another one that the ledger keeps on the same page makes it tidy up.
    stage.now += 1000;
    let (_, claim) = request.claim.unwrap();
    let now = UnixTime::from_secs(stage.now);
    let touches_one_page = |key: &PaymentKey| {
        let mut store = stage.store.clone();
        stage.config.ledger.perform(&mut store, *key, Owner(99), claim, now);
        store.0.len() == 1
    };
    let network = NetworkId::from_chain_id(84532);
    let usdc = crate::common::USDC.parse().unwrap();
    let keys = (0_u32..).map(|number| {
        let mut nonce = [0; 32];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        PaymentKey::new(&network, usdc, Wallet::new(2).address(), Nonce::from_bytes(nonce))
    });
    let neighbour = keys.take(100_000).find(touches_one_page).unwrap();
    stage.config.ledger.perform(&mut stage.store, neighbour, Owner(99), claim, now);
    assert_eq!(stage.left(&request), "spent");
}

#[test]
fn a_payment_holds_one_authorization() {
    // A facilitator may settle by `permit2Authorization` where it stands, and the filter checks `authorization`.
    let mut stage = Stage::new(&after());
    let mut payment = contract_payment(&mut stage, 66);
    payment["payload"]["permit2Authorization"] = json!({"from": PAY_TO, "nonce": "1"});
    let request = stage.start(&paid("/weather", &payment));
    assert_eq!(request.story(), "= malformed, reply 400");
    assert!(request.reason().contains("a payment holds one authorization"));
    payment["payload"]["permit2Authorization"] = Value::Null;
    assert_eq!(stage.start(&paid("/weather", &payment)).story(), "claim unproven granted, verify?");
}

#[test]
fn another_spelling_is_the_same_payment() {
    let (mut stage, _, _) = play(&after(), [valid(), upstream(200), settled()]);
    let mut payment = long_lived(&mut stage);
    let upper = |text: &Value| format!("0x{}", text.as_str().unwrap()[2..].to_uppercase());
    let authorization = &mut payment["payload"]["authorization"];
    authorization["from"] = authorization["from"].as_str().unwrap().to_lowercase().into();
    authorization["nonce"] = upper(&authorization["nonce"]).into();
    payment["payload"]["signature"] = upper(&payment["payload"]["signature"]).into();
    payment["extensions"] = json!({"note": "another text"});
    let pretty = serde_json::to_string_pretty(&payment).unwrap();
    let value = header::encode(&pretty);
    for value in [value.trim_end_matches('='), &value] {
        let request = stage.start(&head("GET", "/weather", &[("PAYMENT-SIGNATURE", value)]));
        assert_eq!(request.story(), "claim spent, = spent, reply 402");
    }
}

#[test]
fn a_payment_is_not_bound_to_its_url() {
    // As in the official packages: at the same terms, one payment buys either route, and still only one response.
    let mut config = after();
    config["routes"][1]["price"] = "$0.001".into();
    let (mut stage, _, head) = play(&config, [valid(), upstream(200), settled()]);
    let payment = long_lived(&mut stage);
    assert_eq!(stage.start(&paid("/dear", &payment)).story(), "claim spent, = spent, reply 402");
    assert_eq!(stage.start(&head).status(), 402);
}

// ------------------------------------------------------------------------------------------------------ interleaving

/// Two requests with one payment, taken in some order, one step at a time.
struct Duel<'a> {
    stage: Stage,
    head: &'a RequestHead,
    requests: [Option<Request>; 2],
    upstream_statuses: &'a [u16],
    is_idempotent: bool,
    has_settled: bool,
    has_jumped: bool,
}

/// One step of a duel; the number names the request.
#[derive(Debug, Clone, Copy)]
enum Choice {
    /// It comes.
    Arrive(usize),
    /// What its last event led to is done.
    Turn(usize),
    /// The facilitator answers it.
    Answer(usize),
    /// The upstream answers it.
    Respond(usize),
    /// The clock jumps.
    Jump,
}

impl<'a> Duel<'a> {
    fn new(config: &Value, head: &'a RequestHead, is_idempotent: bool, upstream_statuses: &'a [u16]) -> Self {
        let (stage, requests) = (Stage::new(config), [None, None]);
        Self { stage, head, requests, upstream_statuses, is_idempotent, has_settled: false, has_jumped: false }
    }

    /// What can happen next. The jump of the clock takes none by surprise that is about to speak to the ledger.
    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for (index, slot) in self.requests.iter().enumerate() {
            match slot {
                None => choices.push(Choice::Arrive(index)),
                Some(request) if request.is_pending() => choices.push(Choice::Turn(index)),
                Some(request) => {
                    choices.extend(request.call.is_some().then_some(Choice::Answer(index)));
                    choices.extend(request.is_at_upstream().then_some(Choice::Respond(index)));
                }
            }
        }
        if !choices.is_empty() && !self.has_jumped && !self.requests.iter().flatten().any(Request::is_pending) {
            choices.push(Choice::Jump);
        }
        choices
    }

    fn take(&mut self, choice: Choice) {
        let index = match choice {
            Choice::Jump => return self.jump(),
            Choice::Arrive(index) => {
                self.requests[index] = Some(self.stage.arrive(self.head));
                return;
            }
            Choice::Turn(index) | Choice::Answer(index) | Choice::Respond(index) => index,
        };
        let request = self.requests[index].as_mut().unwrap();
        match choice {
            Choice::Answer(_) => {
                let settles = is_settling(request);
                let refuses = self.has_settled && !self.is_idempotent;
                self.has_settled |= settles;
                let answer = match (refuses, settles) {
                    (false, true) => settled(),
                    (false, false) => valid(),
                    (true, true) => refused("invalid_exact_evm_nonce_already_used"),
                    (true, false) => invalid("invalid_exact_evm_nonce_already_used"),
                };
                self.stage.happen(request, answer);
            }
            Choice::Respond(_) => {
                let (status, rest) = self.upstream_statuses.split_first().unwrap_or((&200, &[]));
                self.upstream_statuses = rest;
                self.stage.happen(request, upstream(*status));
            }
            _ => drop(self.stage.turn(request)),
        }
        // What touches nothing that others see needs no order of its own.
        while request.is_pending() && !request.wants_ledger() {
            self.stage.turn(request);
        }
    }

    /// All holds lapse. No call outlives its timeout, so those under way are lost first, and what was asked happens.
    fn jump(&mut self) {
        self.has_jumped = true;
        for request in self.requests.iter_mut().flatten() {
            if let Some(call) = &request.call {
                self.has_settled |= call.kind == CallKind::Settle;
                self.stage.happen(request, timed_out());
            }
        }
        self.stage.now += LAPSE;
    }

    fn story(&self) -> String {
        self.requests.iter().flatten().map(|request| request.story() + "\n").collect()
    }

    fn served(&self) -> usize {
        let is_served = |request: &&Request| outcome(request) == Some(Outcome::Served);
        self.requests.iter().flatten().filter(is_served).count()
    }
}

/// Plays every order of steps, depth first; gives their number.
fn play_every_order(config: &Value, is_idempotent: bool, statuses: &[u16], check: impl Fn(&Duel<'_>)) -> usize {
    let head = paid("/weather", &long_lived(&mut Stage::new(config)));
    let mut orders = 0;
    let mut path: Vec<usize> = Vec::new();
    loop {
        let mut duel = Duel::new(config, &head, is_idempotent, statuses);
        let mut widths = Vec::new();
        loop {
            let choices = duel.choices();
            if choices.is_empty() {
                break;
            }
            let position = widths.len();
            if position == path.len() {
                path.push(0);
            }
            duel.take(choices[path[position]]);
            widths.push(choices.len());
        }
        orders += 1;
        check(&duel);
        // The next order: the last choice that has another one.
        while path.last().is_some_and(|last| last + 1 == widths[path.len() - 1]) {
            path.pop();
        }
        match path.last_mut() {
            Some(last) => *last += 1,
            None => return orders,
        }
    }
}

#[test]
fn two_requests_with_one_payment_are_served_once_in_whatever_order() {
    for (config, is_idempotent) in [
        (after(), false),
        (after(), true),
        (local(after()), false),
        (local(after()), true),
        (before(), false),
        (before(), true),
        (concurrent(), false),
        (concurrent(), true),
    ] {
        let orders = play_every_order(&config, is_idempotent, &[], |duel| {
            assert!(duel.served() <= 1, "{}", duel.story());
            for request in duel.requests.iter().flatten() {
                let has_receipt = request.receipt_header("payment-response").is_some();
                assert_eq!(has_receipt, outcome(request) == Some(Outcome::Served), "{}", duel.story());
            }
            if !duel.has_jumped {
                assert_eq!(duel.served(), 1, "{}", duel.story());
            }
        });
        assert!(orders > 100, "{orders}");
    }
}

#[test]
fn whoever_paid_and_got_nothing_is_never_asked_to_pay_again() {
    for (config, is_idempotent, statuses) in [
        (after(), false, &[][..]),
        (after(), true, &[]),
        (before(), false, &[500, 500]),
        (before(), true, &[500, 500]),
        (before(), true, &[500, 200]),
        (concurrent(), false, &[]),
        (concurrent(), false, &[500, 500]),
        (concurrent(), true, &[500, 500]),
    ] {
        play_every_order(&config, is_idempotent, statuses, |duel| {
            if duel.has_settled && duel.served() == 0 {
                for request in duel.requests.iter().flatten() {
                    let asks = request.status() == 402 || request.reply_header("payment-required").is_some();
                    assert!(!asks, "{}", duel.story());
                }
                let left = duel.stage.left(duel.requests[0].as_ref().unwrap());
                assert!(matches!(left, "settled" | "unknown" | "in flight"), "{left}: {}", duel.story());
            }
        });
    }
}

// ------------------------------------------------------------------------------------- requests without a good payment

#[test]
fn without_a_payment_the_client_gets_the_terms_of_both_versions() {
    let mut config = base_config();
    config["defaults"]["accepts"] = json!([
        {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
        {"scheme": "exact", "network": "optimism", "asset": "USDC"},
    ]);
    let request = Stage::new(&config).start(&head("GET", "/weather?day=1", &[]));
    assert_eq!(request.story(), "= unpaid, reply 402");
    let resource = json!({
        "url": "http://api.example.com/weather?day=1",
        "description": "Weather data",
        "mimeType": "application/json",
    });
    let entry = |network: &str, asset: &str, name: &str| {
        json!({
            "scheme": "exact",
            "network": network,
            "amount": "1000",
            "asset": asset,
            "payTo": PAY_TO,
            "maxTimeoutSeconds": 300,
            "extra": {"name": name, "version": "2"},
        })
    };
    assert_eq!(
        decode(request.reply_header("payment-required").unwrap()),
        json!({
            "x402Version": 2,
            "error": "Payment required",
            "resource": resource,
            "accepts": [
                entry("eip155:84532", crate::common::USDC, "USDC"),
                entry("eip155:10", "0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85", "USD Coin"),
            ],
        })
    );
    // Version 1 knows no name for Optimism.
    assert_eq!(
        request.body(),
        json!({
            "x402Version": 1,
            "error": "X-PAYMENT header is required",
            "accepts": [{
                "scheme": "exact",
                "network": "base-sepolia",
                "maxAmountRequired": "1000",
                "resource": "http://api.example.com/weather?day=1",
                "description": "Weather data",
                "mimeType": "application/json",
                "payTo": PAY_TO,
                "maxTimeoutSeconds": 300,
                "asset": crate::common::USDC,
                "extra": {"name": "USDC", "version": "2"},
            }],
        })
    );
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("access-control-expose-headers", "PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE"),
    ] {
        assert_eq!(request.reply_header(name), Some(value));
    }
    assert_eq!(request.reply_header("retry-after"), None);
    assert!(request.claim.is_none());
}

#[test]
fn terms_that_settle_first_say_so() {
    let mut stage = Stage::new(&before());
    assert_eq!(entry(&mut stage, "/weather")["extra"]["paymentFlow"], "upfront");
    let request = stage.start(&head("GET", "/weather", &[]));
    assert_eq!(request.body()["accepts"][0]["extra"]["paymentFlow"], "upfront");
    // A client that does not know of it has not accepted it.
    let mut accepted = entry(&mut stage, "/weather");
    accepted["extra"].as_object_mut().unwrap().remove("paymentFlow");
    let request = stage.start(&paid("/weather", &Wallet::new(1).pay(&accepted, 1)));
    assert_eq!((request.status(), request.reason()), (402, "No matching payment requirements"));
}

#[test]
fn the_second_entry_can_be_chosen() {
    let mut config = local(base_config());
    config["defaults"]["accepts"] = json!([
        {"scheme": "exact", "network": "optimism", "asset": "USDC"},
        {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
    ]);
    let mut stage = Stage::new(&config);
    let unpaid = stage.start(&head("GET", "/weather", &[]));
    let terms = decode(unpaid.reply_header("payment-required").unwrap());
    for (index, network) in [(0, "eip155:10"), (1, "eip155:84532")] {
        let request = stage.start(&paid("/weather", &Wallet::new(1).pay(&terms["accepts"][index], 1)));
        assert_eq!(request.story(), "claim granted, forward");
        assert_eq!(request.forwarded.unwrap().set[2].1, network);
    }
}

#[test]
fn headers_that_are_no_payment_are_refused_unasked() {
    let value = |json: &Value| encode(json);
    let good = long_lived(&mut Stage::new(&after()));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut payment = good.clone();
        change(&mut payment);
        value(&payment)
    };
    let twice = format!("{},\"x402Version\":2}}", good.to_string().trim_end_matches('}'));
    for (header, reason) in [
        ("!!!notbase64".to_owned(), "PAYMENT-SIGNATURE is not standard base64"),
        ("_-__".to_owned(), "PAYMENT-SIGNATURE is not standard base64"),
        ("A".repeat(32 * 1024 + 1), "PAYMENT-SIGNATURE is longer than 32768 bytes"),
        ("//79".to_owned(), "PAYMENT-SIGNATURE is not UTF-8"),
        (value(&json!([])), "PAYMENT-SIGNATURE: ."),
        (value(&json!("x")), "PAYMENT-SIGNATURE: ."),
        (value(&json!({})), "missing field"),
        (with(&|p| p["x402Version"] = 1.into()), "x402Version is 1"),
        (with(&|p| p["x402Version"] = 3.into()), "x402Version is 3"),
        (with(&|p| p["x402Version"] = "2".into()), "x402Version"),
        (with(&|p| p["accepted"] = Value::Null), "accepted"),
        (with(&|p| p["accepted"]["amount"] = 1000.into()), "accepted.amount"),
        (with(&|p| p["accepted"]["maxTimeoutSeconds"] = "300".into()), "accepted.maxTimeoutSeconds"),
        (with(&|p| p["payload"] = Value::Null), "payload"),
        (with(&|p| p["payload"]["authorization"]["value"] = json!(1000.5)), "payload.authorization.value"),
        (with(&|p| p["payload"]["authorization"]["value"] = json!(-1)), "payload.authorization.value"),
        (
            header::encode(&good.to_string().replace(r#""value":"1000""#, r#""value":1e3"#)),
            "payload.authorization.value",
        ),
        (with(&|p| p["payload"]["authorization"]["value"] = "".into()), "payload.authorization.value"),
        (with(&|p| p["payload"]["authorization"]["value"] = Value::Null), "payload.authorization.value"),
        (with(&|p| p["payload"]["authorization"]["value"] = json!(["1000"])), "payload.authorization.value"),
        (with(&|p| p["payload"]["authorization"]["value"] = "0x3e8".into()), "payload.authorization.value"),
        (with(&|p| p["payload"]["authorization"]["validBefore"] = true.into()), "payload.authorization.validBefore"),
        (with(&|p| p["payload"]["authorization"]["nonce"] = "0x01".into()), "payload.authorization.nonce"),
        (with(&|p| p["payload"]["authorization"]["from"] = "0x1".into()), "payload.authorization.from"),
        (with(&|p| p["payload"]["authorization"]["Nonce"] = "0x".into()), "payload.authorization.Nonce: unknown field"),
        (with(&|p| p["payload"]["Signature"] = "0x".into()), "payload.Signature: unknown field"),
        (with(&|p| p["payload"]["SIGNATURE"] = Value::Null), "payload.SIGNATURE: unknown field"),
        (
            with(&|p| p["payload"]["authorization"]["valid_before"] = "1".into()),
            "payload.authorization.valid_before: unknown field `valid_before`, expected `validBefore`",
        ),
        (
            with(&|p| p["payload"]["authorization"]["Valid-After"] = "1".into()),
            "payload.authorization.Valid-After: unknown field",
        ),
        (with(&|p| p["payload"]["signature"] = "0xabc".into()), "payload.signature"),
        (with(&|p| p["payload"]["signature"] = "abcd".into()), "payload.signature"),
        (with(&|p| p["payload"]["signature"] = Value::Null), "payload.signature"),
        (header::encode(&twice), "duplicate field"),
        (header::encode(&format!("{good}{good}")), "trailing"),
    ] {
        let request = Stage::new(&after()).start(&head("GET", "/weather", &[("payment-signature", &header)]));
        assert_eq!(request.story(), "= malformed, reply 400", "{reason}");
        assert!(request.reason().contains(reason), "{reason}: {}", request.reason());
        assert_eq!(request.body(), json!({"error": request.reason()}));
        assert_eq!(request.reply_header("cache-control"), Some("no-store"));
        assert!(request.record.unwrap().payment.is_none());
    }
}

#[test]
fn what_a_payload_says_besides_is_dropped() {
    let wallet = Wallet::new(1);
    for method in ["eip3009", "permit2"] {
        let mut config = before();
        config["defaults"]["accepts"] =
            json!([{"scheme": "exact", "network": "base-sepolia", "asset": "USDC", "transfer_method": method}]);
        let mut stage = Stage::new(&config);
        let good = wallet.pay(&entry(&mut stage, "/weather"), 1);
        let sent = |payment: &Value| {
            let request = Stage::new(&config).start(&paid("/weather", payment));
            (request.story(), request.calls.first().map(|call| call.body.clone()))
        };
        let plain = sent(&good);
        assert!(
            plain.1.as_ref().is_some_and(|body| body.contains(&good["payload"]["signature"].to_string())),
            "{plain:?}"
        );
        let mut more = good.clone();
        let payload = more["payload"].as_object_mut().unwrap();
        payload.insert("merchantSignature".to_owned(), Value::Null);
        payload.insert("note".to_owned(), json!({"Signature": 1, "signature": [1.5, 1e9]}));
        let signed = if method == "permit2" { "permit2Authorization" } else { "authorization" };
        payload[signed]["memo"] = "x".into();
        if method == "permit2" {
            payload[signed]["witness"]["extra"] = "0x".into();
            payload[signed]["permitted"]["symbol"] = "USDC".into();
        }
        assert_eq!(sent(&more), plain, "{method}");
        let names: &[(&str, &str)] = if method == "permit2" {
            &[("witness", "valid-after"), ("witness", "To"), ("permitted", "AMOUNT")]
        } else {
            &[]
        };
        for (object, name) in names {
            let mut odd = good.clone();
            odd["payload"][signed][object][name] = "1".into();
            let request = Stage::new(&config).start(&paid("/weather", &odd));
            let reason = format!("payload.permit2Authorization.{object}.{name}: unknown field");
            assert!(request.reason().contains(&reason), "{}", request.reason());
        }
    }
}

#[test]
fn numbers_count_however_they_are_written() {
    let config = before();
    let good = long_lived(&mut Stage::new(&config));
    let sent = |json: &str| {
        let request =
            Stage::new(&config).start(&head("GET", "/weather", &[("payment-signature", &header::encode(json))]));
        (request.story(), request.calls.first().map(|call| call.body.clone()))
    };
    let plain = sent(&good.to_string());
    assert!(plain.1.is_some());
    for (written, otherwise) in [
        (r#""value":"1000""#, r#""value":1000"#),
        (r#""value":"1000""#, r#""value" : "01000""#),
        (r#""validAfter":"0""#, r#""validAfter":0"#),
        (r#""validAfter":"0""#, r#""validAfter":"000""#),
        (r#""validBefore":""#, r#""validBefore":"0"#),
        ("{\"accepted\"", "\u{feff}{\"accepted\""),
    ] {
        let json = good.to_string();
        assert!(json.contains(written), "{json}");
        assert_eq!(sent(&json.replacen(written, otherwise, 1)), plain, "{otherwise}");
    }
    // What was signed is the number.
    let request = sent(&good.to_string().replace(r#""value":"1000""#, r#""value":1001"#));
    assert_eq!(request.1, None);
}

#[test]
fn one_payment_under_both_names_is_one() {
    let good = long_lived(&mut Stage::new(&before()));
    let (one, other) = (encode(&good), encode(&good).trim_end_matches('=').to_owned());
    let plain = Stage::new(&before()).start(&head("GET", "/weather", &[("payment-signature", &one)]));
    let both =
        Stage::new(&before()).start(&head("GET", "/weather", &[("payment-signature", &one), ("x-payment", &other)]));
    assert_eq!((both.story(), &both.calls[0].body), (plain.story(), &plain.calls[0].body));
    let mut third = good;
    third["x402Version"] = 3.into();
    let third = encode(&third);
    let request =
        Stage::new(&before()).start(&head("GET", "/weather", &[("payment-signature", &third), ("x-payment", &third)]));
    assert!(request.reason().starts_with("PAYMENT-SIGNATURE: x402Version is 3"), "{}", request.reason());
}

#[test]
fn a_402_keeps_its_header_short() {
    let networks = ["base", "base-sepolia", "polygon", "optimism", "arbitrum", "avalanche"];
    let entries = |networks: &[&str]| -> Value {
        networks.iter().map(|network| json!({"scheme": "exact", "network": network, "asset": "USDC"})).collect()
    };
    let properties: Value = (0..40)
        .map(|index| (format!("property_{index}"), json!({"type": "string", "description": "x".repeat(45)})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let schema = json!({"type": "object", "properties": properties});
    let mut config = before();
    config["defaults"]["accepts"] = entries(&networks);
    config["defaults"]["pay_to"] = "0x1111111111111111111111111111111111111111".into();
    let small = Stage::new(&config);
    assert_eq!(small.config.warnings, [""; 0]);
    let mut route = config["routes"][0].clone();
    route["match"] = json!({"methods": ["GET"], "path": "/big"});
    route["description"] = "What it sells".into();
    route["extensions"] = json!({
        "payment_identifier": "required",
        "bazaar": {"query": {"a": "1"}, "output": {"ok": true}, "output_schema": schema},
    });
    config["routes"] = json!([route]);
    let key = format!("0x{}", "11".repeat(32));
    for (has_offers, url, left) in [
        (false, "/big".to_owned(), vec!["payment-identifier"]),
        (false, format!("/big?{}", "x".repeat(600)), vec!["payment-identifier"]),
        (true, "/big".to_owned(), vec!["payment-identifier"]),
    ] {
        if has_offers {
            config["offer_receipt"] = json!({"key": key, "offers": true});
            config["origins"] = json!(["http://api.example.com"]);
        }
        let mut stage = Stage::new(&config);
        let [warning] = stage.config.warnings.as_slice() else { panic!("{:?}", stage.config.warnings) };
        assert!(warning.starts_with("routes[0].extensions: is too long for the header of a 402"), "{warning}");
        let request = stage.start(&head("GET", &url, &[]));
        let header = request.reply_header("payment-required").unwrap();
        assert!(header.len() < 7_700, "{}", header.len());
        let terms = decode(header);
        assert_eq!(terms["accepts"].as_array().unwrap().len(), networks.len());
        let extensions: Vec<_> = terms["extensions"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(left.iter().all(|name| extensions.contains(name)), "{extensions:?}");
        assert!(!extensions.contains(&"bazaar"), "{extensions:?}");
        assert_eq!(terms["resource"]["url"], format!("http://api.example.com{url}"));
    }
}

#[test]
fn one_payment_header_is_enough() {
    let good = encode(&long_lived(&mut Stage::new(&after())));
    let mut second = long_lived(&mut Stage::new(&after()));
    second["payload"]["signature"] = "0x".into();
    let second = encode(&second);
    for (headers, story, reason) in [
        (
            vec![("payment-signature", &good), ("Payment-Signature", &good)],
            "= malformed, reply 400",
            "more than one payment header; send one PAYMENT-SIGNATURE, or one X-PAYMENT",
        ),
        (
            vec![("payment-signature", &good), ("x-payment", &second)],
            "= malformed, reply 400",
            "more than one payment header; send one PAYMENT-SIGNATURE, or one X-PAYMENT",
        ),
        (
            vec![("x-payment", &good), ("x-payment", &good)],
            "= malformed, reply 400",
            "more than one payment header; send one PAYMENT-SIGNATURE, or one X-PAYMENT",
        ),
    ] {
        let headers: Vec<_> = headers.into_iter().map(|(name, value)| (name, value.as_str())).collect();
        let request = Stage::new(&after()).start(&head("GET", "/weather", &headers));
        assert_eq!((request.story().as_str(), request.reason()), (story, reason));
    }
}

#[test]
fn payments_for_other_terms_are_refused_unasked() {
    let mut stage = Stage::new(&after());
    let accepted = entry(&mut stage, "/weather");
    for (field, value) in [
        ("scheme", json!("upto")),
        ("network", json!("eip155:8453")),
        ("amount", json!("999")),
        ("amount", json!("1001")),
        ("asset", json!(PAY_TO)),
        ("payTo", json!(crate::common::USDC)),
        ("maxTimeoutSeconds", json!(301)),
        ("extra", json!({"name": "USD Coin", "version": "2"})),
        ("extra", json!({"name": "USDC", "version": "1"})),
        ("extra", json!({"name": "USDC"})),
        ("extra", json!({})),
    ] {
        let mut payment = Wallet::new(1).pay(&accepted, 1);
        payment["accepted"][field] = value.clone();
        let request = stage.start(&paid("/weather", &payment));
        // In the same asset, the ledger is asked whether such a payment waits for a response.
        let looks = if matches!(field, "scheme" | "network" | "asset") { "" } else { "look not held, " };
        assert_eq!(request.story(), format!("{looks}= refused, reply 402"), "{field}: {value}");
        assert_eq!(request.reason(), "No matching payment requirements");
        assert!(request.reply_header("payment-required").is_some());
    }
    let mut payment = Wallet::new(1).pay(&accepted, 1);
    payment["accepted"]["extra"]["more"] = "is allowed here".into();
    payment["accepted"]["payTo"] = PAY_TO.to_lowercase().into();
    payment["accepted"]["asset"] = crate::common::USDC.to_lowercase().into();
    assert_eq!(stage.start(&paid("/weather", &payment)).story(), "claim granted, verify?");
}

#[test]
fn payments_that_do_not_meet_their_terms_are_refused_unasked() {
    let wallet = Wallet::new(1);
    for (field, value, reason) in [
        ("to", crate::common::USDC.to_owned(), "invalid_exact_evm_recipient_mismatch"),
        ("value", "999".to_owned(), "invalid_exact_evm_payload_authorization_value_mismatch"),
        ("value", "1001".to_owned(), "invalid_exact_evm_payload_authorization_value_mismatch"),
        ("validBefore", (NOW + 5).to_string(), "invalid_exact_evm_payload_authorization_valid_before"),
        ("validBefore", "0".to_owned(), "invalid_exact_evm_payload_authorization_valid_before"),
        // Longer than an hour and ten minutes, which is what clients sign at most, nobody needs to remember it.
        ("validBefore", (NOW + 4_201).to_string(), "invalid_exact_evm_payload_authorization_valid_before"),
        ("validBefore", format!("{}0", u64::MAX), "invalid_exact_evm_payload_authorization_valid_before"),
        ("validAfter", (NOW + 1).to_string(), "invalid_exact_evm_payload_authorization_valid_after"),
        ("from", PAY_TO.to_owned(), "invalid_exact_evm_signature"),
    ] {
        let mut stage = Stage::new(&after());
        let mut payment = wallet.pay(&entry(&mut stage, "/weather"), 1);
        payment["payload"]["authorization"][field] = value.clone().into();
        wallet.sign_payment(&mut payment);
        let request = stage.start(&paid("/weather", &payment));
        let resumes = if field == "validBefore" { "resume not held, " } else { "" };
        assert_eq!(request.story(), format!("{resumes}= refused, reply 402"), "{field}: {value}");
        assert_eq!(request.reason(), reason, "{field}: {value}");
        assert_eq!(decode(request.reply_header("payment-required").unwrap())["error"], reason);
        let payer = request.record.unwrap().payment.unwrap().payer.to_string();
        assert_eq!(payer, payment["payload"]["authorization"]["from"].as_str().unwrap());
    }
    for (field, value) in [
        ("validBefore", (NOW + 6).to_string()),
        ("validBefore", (NOW + 4_200).to_string()),
        ("validAfter", NOW.to_string()),
    ] {
        let mut stage = Stage::new(&after());
        let mut payment = wallet.pay(&entry(&mut stage, "/weather"), 1);
        payment["payload"]["authorization"][field] = value.clone().into();
        wallet.sign_payment(&mut payment);
        assert_eq!(stage.start(&paid("/weather", &payment)).story(), "claim granted, verify?", "{field}: {value}");
    }
}

#[test]
fn the_facilitator_gets_what_was_checked_and_nothing_of_the_clients_own() {
    let mut stage = Stage::new(&after());
    let honest = long_lived(&mut stage);
    let mut payment = honest.clone();
    payment["resource"] = json!({"url": "http://elsewhere", "more": [1, "ü"]});
    payment["extensions"] = json!({"eip2612GasSponsoring": {"info": {"amount": "1000"}}});
    payment["accepted"]["extra"]["more"] = json!([1, {"x": "ü"}]);
    payment["accepted"]["payTo"] = PAY_TO.to_lowercase().into();
    payment["Payload"] = json!({"authorization": {"nonce": "0x"}});
    let text = format!(" \n{}\t", serde_json::to_string_pretty(&payment).unwrap());
    let request = stage.start(&head("GET", "/weather", &[("payment-signature", &header::encode(&text))]));
    let call = request.call.unwrap();
    assert_eq!(call.kind, CallKind::Verify);
    let entry = entry(&mut stage, "/weather");
    let body: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(
        body,
        json!({
            "x402Version": 2,
            "paymentPayload": {
                "x402Version": 2,
                "payload": honest["payload"],
                "resource": payment["resource"],
                "accepted": entry,
                "extensions": payment["extensions"],
            },
            "paymentRequirements": entry,
        })
    );
}

// ------------------------------------------------------------------------------------ payments that come too late

/// `GET /weather` with a payment that lives for 300 s.
fn short_lived(stage: &mut Stage) -> RequestHead {
    let payment = Wallet::new(1).pay(&entry(stage, "/weather"), 1);
    paid("/weather", &payment)
}

#[test]
fn a_late_payment_buys_nothing_new() {
    for config in [after(), local(after()), before(), concurrent()] {
        let mut stage = Stage::new(&config);
        let head = short_lived(&mut stage);
        stage.now += 295;
        let request = stage.start(&head);
        assert_eq!(request.story(), "resume not held, = refused, reply 402");
        assert_eq!(request.reason(), "invalid_exact_evm_payload_authorization_valid_before");
        let record = request.record.unwrap();
        assert_eq!(record.payment.unwrap().payer, Payer::Evm(Wallet::new(1).address()));
    }
}

#[test]
fn a_late_payment_buys_what_it_was_settled_for() {
    let mut stage = Stage::new(&before());
    let head = short_lived(&mut stage);
    stage.play(&head, [settled(), upstream(500)]);
    stage.now += 3600;
    let again = stage.play(&head, [upstream(500)]);
    assert!(again.story().starts_with("resume granted settled, forward settled | release granted"));
    let last = stage.play(&head, [upstream(200)]);
    assert_eq!(last.story(), "resume granted settled, forward settled | spend granted, = served, deliver with receipt");
    assert_eq!(stage.start(&head).story(), "resume spent, = spent, reply 402");
}

#[test]
fn a_late_payment_finds_out_what_became_of_it() {
    let nonce_used = "invalid_exact_evm_nonce_already_used";
    for (seconds, answers, story, reason) in [
        (
            296,
            vec![settled(), upstream(200)],
            "resume granted unknown, settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt",
            "",
        ),
        (
            296,
            vec![refused("insufficient_funds")],
            "resume granted unknown, settle? | forget granted, = unknown, reply 502",
            "insufficient_funds",
        ),
        (
            359,
            vec![refused("insufficient_funds")],
            "resume granted unknown, settle? | forget granted, = unknown, reply 502",
            "insufficient_funds",
        ),
        (
            9999,
            vec![refused("insufficient_funds")],
            "resume granted unknown, settle? | forget granted, = unknown, reply 502",
            "insufficient_funds",
        ),
        (
            9999,
            vec![refused(nonce_used)],
            "resume granted unknown, settle? | forget granted, = unknown, reply 502",
            nonce_used,
        ),
        (
            9999,
            vec![lost()],
            "resume granted unknown, settle? | forget granted, = unknown, reply 502",
            "the facilitator did not answer",
        ),
    ] {
        let mut stage = Stage::new(&before());
        let head = short_lived(&mut stage);
        stage.play(&head, [lost()]);
        stage.now += seconds;
        let again = stage.play(&head, answers);
        assert_eq!((again.story().as_str(), again.reason()), (story, reason), "after {seconds} s");
    }
}

#[test]
fn that_a_payment_is_late_does_not_mean_that_it_has_not_settled() {
    // The official facilitator looks at the clock before it looks at the chain: after its time, a payment that has
    // settled is refused for being late, as one is that never did.
    let mut stage = Stage::new(&before());
    let head = short_lived(&mut stage);
    stage.play(&head, [lost()]);
    stage.now += 3600;
    let again = stage.play(&head, [refused("invalid_exact_evm_payload_authorization_valid_before")]);
    assert_eq!(again.reply_header("payment-required"), None, "who paid and got nothing is asked to pay again");
    assert_eq!(stage.left(&again), "unknown");
}

#[test]
fn a_late_payment_that_is_at_work_elsewhere_waits() {
    let mut stage = Stage::new(&after());
    let head = short_lived(&mut stage);
    stage.start(&head);
    stage.now += 300;
    assert_eq!(stage.start(&head).story(), "resume in flight, = in_flight, reply 409");
    stage.now += 27;
    assert_eq!(stage.start(&head).story(), "resume not held, = refused, reply 402");
}

#[test]
fn a_late_payment_must_be_in_order_all_the_same() {
    let mut stage = Stage::new(&before());
    let mut payment = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
    stage.play(&paid("/weather", &payment), [settled(), upstream(500)]);
    stage.now += 3600;
    Wallet::new(2).sign_payment(&mut payment);
    let request = stage.start(&paid("/weather", &payment));
    assert_eq!((request.story().as_str(), request.reason()), ("= refused, reply 402", "invalid_exact_evm_signature"));
}

// ------------------------------------------------------------------------------------- payments for other terms

#[test]
fn who_paid_at_other_terms_is_not_asked_to_pay_again() {
    // The price is raised while a payment waits for its response.
    for (events, waiting) in [
        (vec![settled(), upstream(500)], true),
        (vec![settled()], true),
        (vec![lost()], true),
        (vec![], true),
        (vec![settled(), upstream(200)], false),
        (vec![refused("insufficient_funds")], false),
    ] {
        let (mut stage, first, head) = play(&before(), events);
        let mut raised = before();
        raised["routes"][0]["price"] = "$0.002".into();
        stage.config = read_config(&raised);
        let request = stage.start(&head);
        assert!(request.forwarded.is_none() && request.calls.is_empty());
        assert_eq!(request.reason(), "No matching payment requirements");
        if waiting {
            assert_eq!(request.story(), "look waiting, = refused, reply 409", "{}", first.story());
            assert_eq!(request.reply_header("payment-required"), None);
        } else {
            assert_eq!(request.story(), "look not held, = refused, reply 402", "{}", first.story());
            let terms = decode(request.reply_header("payment-required").unwrap());
            assert_eq!(terms["accepts"][0]["amount"], "2000");
        }
    }
}

#[test]
fn other_terms_with_a_bad_signature_are_not_looked_up() {
    let mut stage = Stage::new(&after());
    let mut payment = long_lived(&mut stage);
    payment["accepted"]["amount"] = "999".into();
    Wallet::new(2).sign_payment(&mut payment);
    let request = stage.start(&paid("/weather", &payment));
    assert_eq!(request.story(), "= refused, reply 402");
}

// --------------------------------------------------------------------------------------- routes, headers and preflights

#[test]
fn what_no_price_covers_passes_and_what_nobody_can_read_does_not() {
    let mut deny = after();
    deny["unmatched"] = "deny".into();
    for (config, path, story) in [
        (after(), "/healthz", "forward"),
        (after(), "/elsewhere", "forward"),
        (deny.clone(), "/healthz", "forward"),
        (deny.clone(), "/elsewhere", "reply 403"),
        (deny, "/Healthz", "reply 403"),
        (after(), "/weather%2f", "reply 400"),
        (after(), "/x\\..\\weather", "reply 400"),
        (after(), "/WEATHER/", "= unpaid, reply 402"),
    ] {
        let request = Stage::new(&config).start(&head("GET", path, &[]));
        assert_eq!(request.story(), story, "{path}");
        assert!(request.is_over());
        if let Some(reply) = &request.reply {
            assert_eq!(request.reply_header("cache-control"), Some("no-store"));
            assert!(request.body()["error"].as_str().is_some_and(|error| !error.is_empty()), "{}", reply.body);
        }
    }
    for method in ["HEAD", "OPTIONS", "get"] {
        assert_eq!(Stage::new(&after()).start(&head(method, "/weather", &[])).status(), 402, "{method}");
    }
    assert_eq!(Stage::new(&after()).start(&head("POST", "/weather", &[])).story(), "forward");
}

#[test]
fn preflights_of_browsers_pass_and_nothing_else_does() {
    let origin = ("origin", "https://app.example");
    let asks = ("access-control-request-method", "GET");
    for (method, headers, story) in [
        ("OPTIONS", vec![origin, asks], "forward"),
        ("OPTIONS", vec![origin], "= unpaid, reply 402"),
        ("OPTIONS", vec![asks], "= unpaid, reply 402"),
        ("OPTIONS", vec![], "= unpaid, reply 402"),
        ("GET", vec![origin, asks], "= unpaid, reply 402"),
        ("HEAD", vec![origin, asks], "= unpaid, reply 402"),
        ("OPTIONS", vec![("origin", ""), asks], "= unpaid, reply 402"),
        ("OPTIONS", vec![origin, ("access-control-request-method", "")], "= unpaid, reply 402"),
        ("OPTIONS", vec![origin, asks, ("upgrade", "websocket")], "= unpaid, reply 402"),
        ("OPTIONS", vec![origin, asks, (":protocol", "websocket")], "= unpaid, reply 402"),
        ("OPTIONS", vec![origin, asks, ("content-length", "7")], "= unpaid, reply 402"),
        ("OPTIONS", vec![origin, asks, ("transfer-encoding", "chunked")], "= unpaid, reply 402"),
        ("OPTIONS", vec![origin, asks, ("content-length", "0")], "forward"),
    ] {
        let request = Stage::new(&after()).start(&head(method, "/weather", &headers));
        assert_eq!(request.story(), story, "{method} {headers:?}");
    }
}

#[test]
fn what_nobody_honest_sends_is_not_worked_on() {
    let path = |length: usize| format!("/weather?{}", "q".repeat(length));
    for (length, status) in [(0, 402), (8000, 402), (8192, 414), (58_000, 414)] {
        let request = Stage::new(&after()).start(&head("GET", &path(length), &[]));
        assert_eq!(request.status(), status, "{length}");
        assert!(status == 402 || request.body()["error"].is_string() && request.record.is_some());
    }
    assert_eq!(Stage::new(&after()).start(&head("GET", "/healthz?q", &[])).story(), "forward");
    assert_eq!(
        Stage::new(&after()).start(&head("GET", &format!("/healthz?{}", "q".repeat(9000)), &[])).story(),
        "forward",
        "where nothing is sold a URL is as long as the proxy lets it be"
    );
    let names: Vec<String> = (0..101).map(|number| format!("x-x402-{number}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    for path in ["/weather", "/healthz"] {
        assert_eq!(Stage::new(&after()).start(&head("GET", path, &headers)).status(), 431, "{path}");
        let fewer = Stage::new(&after()).start(&head("GET", path, &headers[..100]));
        assert!(fewer.status() == 402 || fewer.forwarded.unwrap().remove.len() == 100, "{path}");
    }
}

#[test]
fn a_preflight_gets_no_more_than_its_own_answer() {
    let preflight = head(
        "OPTIONS",
        "/weather",
        &[("origin", "https://app.example"), ("access-control-request-method", "GET"), ("x-x402-payer", "0x")],
    );
    let cors = vec![
        ("access-control-allow-origin".to_owned(), "*".to_owned()),
        ("vary".to_owned(), "origin".to_owned()),
        ("vary".to_owned(), "accept".to_owned()),
    ];
    for status in [200, 204, 302, 403, 500] {
        let mut stage = Stage::new(&after());
        let Event::Upstream(mut answer) = upstream(status) else { panic!("a response") };
        answer.cors = cors.clone();
        let request = stage.play(&preflight, [Event::Upstream(answer)]);
        assert_eq!(request.story(), format!("forward | reply {status}"));
        let reply = request.reply.as_ref().unwrap();
        let headers: Vec<_> = reply.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        assert_eq!((headers, reply.body.as_str()), (cors.clone(), ""), "what is for sale stays here");
        assert_eq!(request.forwarded.as_ref().unwrap().remove, ["x-x402-payer"]);
        assert!(request.is_over() && request.claim.is_none());
    }
    let mut stage = Stage::new(&after());
    let request = stage.play(&preflight, [Event::Ended]);
    assert!(request.is_over() && request.story() == "forward");
    let free = head("OPTIONS", "/healthz", &[("origin", "x"), ("access-control-request-method", "GET")]);
    assert!(stage.start(&free).is_over(), "on a free route there is nothing to hide");
}

#[test]
fn of_a_response_only_the_headers_for_browsers_count_as_such() {
    let headers = [
        (":status", "200"),
        ("Access-Control-Allow-Origin", "*"),
        ("access-control-max-age", "600"),
        ("Vary", "origin"),
        ("allow", "GET"),
        ("allowed", "x"),
        ("x-vary", "x"),
        ("x-access-control-allow-origin", "x"),
        ("set-cookie", "x"),
        ("vary", "accept"),
    ];
    let cors = Headers::new(headers).cors();
    let found: Vec<_> = cors.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        found,
        [
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "600"),
            ("vary", "origin"),
            ("allow", "GET"),
            ("vary", "accept"),
        ]
    );
}

#[test]
fn the_upstream_sees_nothing_that_only_the_filter_may_say() {
    let lies = [
        ("X-X402-Payer", "0x"),
        ("x_x402_amount", "0"),
        ("x-x402-anything", ""),
        ("x-original-url", "/free"),
        ("X-Rewrite-URL", "/free"),
        ("x-http-method-override", "GET"),
        ("x_http_method_override", "GET"),
        ("x-forwarded-uri", "/free"),
        ("accept", "*/*"),
        ("x-forwarded-for", "1.2.3.4"),
    ];
    let gone = |request: Request| {
        let mut names = request.forwarded.unwrap().remove;
        names.sort();
        names
    };
    let always = [
        "x-forwarded-uri",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x-x402-anything",
        "x-x402-payer",
        "x_http_method_override",
        "x_x402_amount",
    ];
    for path in ["/healthz", "/elsewhere"] {
        assert_eq!(gone(Stage::new(&after()).start(&head("GET", path, &lies))), always);
    }

    let mut stage = Stage::new(&local(after()));
    let payment = encode(&long_lived(&mut stage));
    let with_payment: Vec<_> = lies.iter().copied().chain([("payment-signature", payment.as_str())]).collect();
    let mut expected = always.to_vec();
    expected.insert(0, "payment-signature");
    assert_eq!(gone(stage.start(&head("GET", "/weather", &with_payment))), expected);

    let mut keeps = local(after());
    keeps["keep_headers"] = json!(["X-Original-URL", "x-http-method-override", "x-x402-payer"]);
    let kept: Vec<_> =
        always.into_iter().filter(|name| !name.ends_with("original-url") && !name.ends_with("override")).collect();
    assert_eq!(gone(Stage::new(&keeps).start(&head("GET", "/healthz", &lies))), kept);
}

#[test]
fn where_the_host_decides_the_price_the_client_names_no_other() {
    let lies = [("forwarded", "host=a"), ("X-Forwarded-Host", "a"), ("x-host", "a"), ("x_original_host", "a")];
    let gone = |config: &Value, path| {
        let mut names = Stage::new(config).start(&head("GET", path, &lies)).forwarded.unwrap().remove;
        names.sort();
        names
    };
    assert!(gone(&after(), "/healthz").is_empty());
    let mut by_host = after();
    by_host["routes"][1]["match"]["hosts"] = json!(["dear.example.com"]);
    assert_eq!(gone(&by_host, "/healthz"), ["forwarded", "x-forwarded-host", "x-host", "x_original_host"]);
    by_host["keep_headers"] = json!(["x-forwarded-host", "forwarded"]);
    assert_eq!(gone(&by_host, "/elsewhere"), ["x-host", "x_original_host"]);
}

#[test]
fn the_resource_is_the_url_that_the_client_used() {
    for (headers, url) in [
        (vec![], "http://api.example.com/weather?q=1"),
        (vec![("x-forwarded-proto", "https")], "https://api.example.com/weather?q=1"),
        (vec![("x-forwarded-proto", "HTTPS")], "https://api.example.com/weather?q=1"),
        (vec![("x-forwarded-proto", "http")], "http://api.example.com/weather?q=1"),
        (vec![("x-forwarded-proto", "gopher")], "http://api.example.com/weather?q=1"),
        (vec![("x-forwarded-proto", "")], "http://api.example.com/weather?q=1"),
    ] {
        let request = Stage::new(&after()).start(&head("GET", "/weather?q=1", &headers));
        assert_eq!(decode(request.reply_header("payment-required").unwrap())["resource"]["url"], url, "{headers:?}");
        assert_eq!(request.body()["accepts"][0]["resource"], url, "{headers:?}");
    }
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "h:8443"), (":path", "/weather")];
    let head = RequestHead::new(pseudo);
    let request = Stage::new(&after()).start(&head);
    let terms = decode(request.reply_header("payment-required").unwrap());
    assert_eq!(terms["resource"]["url"], "https://h:8443/weather");
}

#[test]
fn outcomes_name_their_route() {
    let mut stage = Stage::new(&after());
    assert_eq!(&*stage.start(&head("GET", "/dear", &[])).record.unwrap().route, "dear");
    let mut config = after();
    config["routes"][1].as_object_mut().unwrap().remove("name");
    let record = Stage::new(&config).start(&head("GET", "/dear", &[])).record.unwrap();
    assert_eq!((&*record.route, record.outcome.as_str()), ("1", "unpaid"));
}

#[test]
fn nothing_that_a_client_or_a_facilitator_says_forges_a_line_of_a_log() {
    const EVIL: &str = "a\r\n[info] x402: outcome=\"served\"\u{1b}[2K\u{85}\u{2028}\u{202e}\u{200b}\u{0}";
    let mut stage = Stage::new(&base_config());
    let payment = |stage: &mut Stage, nonce| {
        let terms = decode(stage.start(&head("GET", "/weather", &[])).reply_header("payment-required").unwrap());
        Wallet::new(1).pay(&terms["accepts"][0], nonce)
    };
    let mut unknown_key = payment(&mut stage, 1);
    let signs = EVIL.replace(char::is_alphanumeric, "");
    unknown_key["payload"][format!("SIGNATURE{signs}")] = 1.into();
    let mut wrong_type = payment(&mut stage, 2);
    wrong_type["payload"]["signature"] = json!({ EVIL: EVIL });
    let mut wrong_value = payment(&mut stage, 3);
    wrong_value["payload"]["authorization"]["nonce"] = EVIL.into();
    let good = payment(&mut stage, 4);
    let mut requests: Vec<_> =
        [unknown_key, wrong_type, wrong_value].iter().map(|payment| stage.start(&paid("/weather", payment))).collect();
    requests.push(stage.play(&paid("/weather", &good), [invalid(EVIL)]));
    requests.push(stage.start(&paid("/weather", &json!({ EVIL: EVIL }))));
    for request in requests {
        let record = request.record.as_ref().unwrap();
        assert!(!record.reason.is_empty());
        for (name, text) in record.facts() {
            let is_plain =
                |letter: char| !letter.is_control() && !matches!(letter, '\u{2028}' | '\u{202e}' | '\u{200b}');
            assert!(text.chars().all(is_plain), "{name}: {:?}", text.as_str());
        }
        let headers = &request.reply.as_ref().unwrap().headers;
        assert!(headers.iter().all(|(_, value)| !value.contains(char::is_control)), "{headers:?}");
    }
}

// --------------------------------------------------------------------------------------------------------- not proven

#[test]
fn what_only_the_facilitator_can_judge_is_verified_before_anything_else_happens() {
    for (config, valid_leads_to) in [
        (after(), "claim granted, forward"),
        (local(after()), "claim granted, forward"),
        (before(), "claim granted, settle granted, settle?"),
        (local(before()), "claim granted, settle granted, settle?"),
        (concurrent(), "claim granted, settle granted, settle?, forward"),
    ] {
        let mut stage = Stage::new(&config);
        let payment = contract_payment(&mut stage, 66);
        let request = stage.play(&paid("/weather", &payment), [valid()]);
        assert_eq!(request.story(), format!("claim unproven granted, verify? | {valid_leads_to}"));
        for no in [
            invalid("invalid_exact_evm_signature"),
            answers_with(500, &json!({"error": "malformed"})),
            answers_with(400, &json!({"message": "no"})),
            Event::Callout(CalloutAnswer::Lost),
            Event::Callout(CalloutAnswer::NotSent),
            Event::Ended,
        ] {
            let mut stage = Stage::new(&config);
            let request = stage.play(&paid("/weather", &payment), [no.clone()]);
            assert!(request.forwarded.is_none() && request.recovery.is_none(), "{}", request.story());
            assert!(request.calls.iter().all(|call| call.kind == CallKind::Verify), "{}", request.story());
            assert_eq!(stage.left(&request), "nothing", "{no:?}");
            let record = request.record.and_then(|record| record.payment);
            assert!(record.is_none_or(|payment| !payment.is_proven), "nobody is called its payer");
        }
    }
}

#[test]
fn a_claim_that_is_not_proven_is_short() {
    let mut stage = Stage::new(&before());
    let head = paid("/weather", &contract_payment(&mut stage, 66));
    let first = stage.start(&head);
    assert_eq!(stage.start(&head).story(), "claim unproven in flight, = in_flight, reply 409");
    stage.now += 13;
    assert_eq!(
        stage.start(&head).story(),
        "claim unproven granted, verify?",
        "the facilitator has not answered in time"
    );
    assert_eq!(first.status(), 0);
    // A payment that is proven does not wait for one that is not.
    let honest = paid("/weather", &long_lived(&mut stage));
    assert_eq!(stage.start(&honest).story(), "claim granted, settle?");
}

#[test]
fn a_payment_that_was_proven_once_need_not_be_again() {
    let mut stage = Stage::new(&before());
    let head = paid("/weather", &contract_payment(&mut stage, 66));
    let first = stage.play(&head, [valid(), Event::Callout(CalloutAnswer::Lost)]);
    assert_eq!((first.status(), stage.left(&first)), (502, "unknown"));
    let again = stage.play(&head, [settled(), upstream(500)]);
    assert_eq!(
        again.story(),
        "claim unproven waiting, resume granted unknown, settle? | redeem granted, forward settled | release granted, = settled_upstream_failed, deliver with receipt"
    );
    // Another signature for the same nonce is another payment.
    let other = paid("/weather", &contract_payment(&mut stage, 67));
    assert_eq!(stage.start(&other).story(), "claim unproven spent, = spent, reply 402");
    let again = stage.play(&head, [upstream(200)]);
    assert!(again.story().ends_with("= served, deliver with receipt"), "{}", again.story());
}

#[test]
fn what_was_proven_elsewhere_in_the_meantime_is_not_taken_twice() {
    let mut stage = Stage::new(&before());
    let head = paid("/weather", &contract_payment(&mut stage, 66));
    let mut slow = stage.start(&head);
    stage.now += 13;
    let quick = stage.play(&head, [valid(), settled(), upstream(200)]);
    assert!(quick.story().ends_with("= served, deliver with receipt"), "{}", quick.story());
    stage.step(&mut slow, valid());
    assert_eq!(slow.trace.last().unwrap(), "claim spent, = spent, reply 402");
}

#[test]
fn more_than_the_last_redemption_is_told_apart_from_a_payment_that_is_spent() {
    let mut config = before();
    config["ledger"] = json!({"max_redemptions": 1});
    let (mut stage, mut request, head) = play(&config, vec![settled()]);
    stage.step(&mut request, Event::Ended);
    let mut again = stage.start(&head);
    assert_eq!(again.story(), "claim granted settled, forward settled");
    stage.step(&mut again, Event::Ended);
    assert_eq!(again.trace.last().unwrap(), "abandon granted, = abandoned");
    let last = stage.start(&head);
    assert_eq!((last.story(), last.reason()), ("claim exhausted, = spent, reply 409".to_owned(), "max_redemptions"));
    assert_eq!(last.reply_header("payment-required"), None, "the money has moved");
}

#[test]
fn a_request_that_the_proxy_has_begun_anew_is_stopped_and_one_that_is_through_passes() {
    let mut stage = Stage::new(&before());
    let payment = long_lived(&mut stage);
    for head in [head("GET", "/weather", &[]), paid("/weather", &payment), head("GET", "/healthz", &[])] {
        stage.seen = Seen::Before("weather".to_owned());
        let request = stage.start(&head);
        assert_eq!(request.story(), "= redirected, reply 502");
        assert_eq!((&*request.record.as_ref().unwrap().route, request.reason()), ("weather", "internal_redirect"));
        assert_eq!(request.reply_header("payment-required"), None);
        stage.seen = Seen::Here;
        let request = stage.start(&head);
        assert_eq!((request.story().as_str(), request.forwarded), ("forward", Some(RequestEdits::default())));
    }
    // Where the host keeps no notes, the headers tell.
    stage.seen = Seen::Never;
    let told = [("x-envoy-original-url", "http://h/weather"), ("x-x402-id", "00")];
    assert_eq!(stage.start(&head("GET", "/healthz", &told)).story(), "= redirected, reply 502");
    for alone in [&told[..1], &told[1..]] {
        assert_eq!(stage.start(&head("GET", "/weather", alone)).status(), 402);
    }
    // What is to be noted: that it passes for a route that is not free.
    let request = stage.play(&paid("/weather", &payment), [settled()]);
    assert_eq!(request.forwarded.unwrap().passes_for.as_deref(), Some("weather"));
    assert_eq!(stage.start(&head("GET", "/healthz", &[])).forwarded.unwrap().passes_for, None);
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "GET")];
    let preflight = stage.start(&head("OPTIONS", "/weather", &asks));
    assert_eq!(preflight.forwarded.unwrap().passes_for.as_deref(), Some("weather"));
}

#[test]
fn no_payer_fills_the_queue_of_settlements_to_look_into_and_streams_have_room() {
    let recovery = |secret: u8, nonce: u8| {
        let mut stage = Stage::new(&before());
        let payment = Wallet::new(secret).pay(&entry(&mut stage, "/weather"), nonce);
        stage.play(&paid("/weather", &payment), [Event::Callout(CalloutAnswer::Lost)]).recovery.unwrap()
    };
    let mut queue = Recoveries::default();
    let (greedy, modest) = (recovery(1, 1), recovery(2, 1));
    for number in 0..Recoveries::<usize>::MOST_UNDELIVERED_OF_ONE {
        assert_eq!(queue.remember(number, greedy.clone()), Ok(()));
    }
    assert_eq!(queue.remember(0, greedy.clone()), Err(Shed));
    assert_eq!(queue.remember(0, modest.clone()), Ok(()));
    let now = UnixTime::from_secs(NOW + 10);
    let due: Vec<usize> = queue.take_due(now, 3).into_iter().map(|(owner, _)| owner).collect();
    assert_eq!((due, queue.len()), (vec![0, 1, 2], Recoveries::<usize>::MOST_UNDELIVERED_OF_ONE - 2));
    assert!(queue.take_due(UnixTime::from_secs(NOW), 3).is_empty(), "nothing is due yet");
}

#[test]
fn what_has_a_body_is_no_preflight_whatever_its_headers_say() {
    let asks = [("origin", "https://app.example"), ("access-control-request-method", "GET")];
    let mut stage = Stage::new(&after());
    let preflight = head("OPTIONS", "/weather", &asks);
    assert_eq!(stage.start(&preflight).story(), "forward");
    assert_eq!(stage.start(&preflight.with_body(true)).status(), 402);
}

#[test]
fn a_permit_is_verified_before_it_is_settled_whoever_signed_it() {
    for (mut config, settles) in
        [(before(), "settle?"), (concurrent(), "settle?, forward"), (local(before()), "settle?")]
    {
        config["defaults"]["accepts"][0]["transfer_method"] = "permit2".into();
        let mut stage = Stage::new(&config);
        let payment = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
        let request = stage.play(&paid("/weather", &payment), [valid()]);
        assert_eq!(request.story(), format!("claim granted, verify? | settle granted, {settles}"));
        let poor = Wallet::new(2).pay(&entry(&mut stage, "/weather"), 1);
        let request = stage.play(&paid("/weather", &poor), [invalid("insufficient_funds")]);
        assert_eq!((request.status(), stage.left(&request)), (402, "nothing"));
    }
}
