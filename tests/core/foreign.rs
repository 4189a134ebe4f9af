//! Payments that the facilitator judges: whatever it says, one payment buys one response.

use std::collections::BTreeMap;

use crate::common::{Request, Stage, answers, base_config, decode, head, invalid, paid, refused, upstream, valid};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Event, Outcome};
use x402_proxy_wasm::facilitator::{CalloutAnswer, Kind, Supported};
use x402_proxy_wasm::x402::payment::Payer;

const NETWORK: &str = "hedera:mainnet";
const SOLANA: &str = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";
const DAY: u64 = 24 * 60 * 60;

fn config(settle: &str) -> Value {
    let mut config = base_config();
    config["defaults"]["settle"] = settle.into();
    config["defaults"]["accepts"] = json!([{
        "scheme": "exact", "network": NETWORK, "pay_to": "0.0.4567", "extra": {"memo": "order"},
        "asset": {"address": "0.0.456858", "decimals": 6, "usd_pegged": true},
    }]);
    config
}

fn kind(network: &str, extra: &[(&str, &str)]) -> Kind {
    let extra = extra.iter().map(|(name, value)| ((*name).to_owned(), format!("\"{value}\"")));
    Kind { scheme: "exact".to_owned(), network: network.to_owned(), extra: extra.collect() }
}

fn kinds_alone(kinds: Vec<Kind>) -> Supported {
    Supported { kinds, ..Supported::default() }
}

fn stage(config: &Value) -> Stage {
    let kinds = vec![kind(NETWORK, &[("feePayer", "0.0.9")])];
    let mut stage = Stage::new(config);
    stage.supported = kinds_alone(kinds);
    stage
}

fn terms(stage: &mut Stage) -> Value {
    decode(stage.start(&head("GET", "/weather", &[])).reply_header("payment-required").unwrap())
}

fn payment(accepted: &Value, payload: &Value) -> Value {
    json!({"x402Version": 2, "payload": payload, "accepted": accepted})
}

fn settled(transaction: &str) -> Event {
    answers(&json!({"success": true, "transaction": transaction, "network": NETWORK, "payer": "0.0.77"}))
}

fn lost() -> Event {
    Event::Callout(CalloutAnswer::Lost)
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().unwrap().outcome
}

#[test]
fn what_the_facilitator_adds_is_offered_and_what_it_does_not_settle_is_not() {
    let mut stage = stage(&config("after"));
    let entry = terms(&mut stage)["accepts"][0].clone();
    assert_eq!(
        entry,
        json!({
            "scheme": "exact", "network": NETWORK, "amount": "1000", "asset": "0.0.456858", "payTo": "0.0.4567",
            "maxTimeoutSeconds": 300, "extra": {"memo": "order", "feePayer": "0.0.9"},
        })
    );
    // Version 1 of the protocol knows nothing of it.
    assert_eq!(stage.start(&head("GET", "/weather", &[])).body()["accepts"], json!([]));
    for kinds in [vec![], vec![kind("eip155:84532", &[])]] {
        stage.supported = kinds_alone(kinds);
        let request = stage.start(&head("GET", "/weather", &[]));
        assert_eq!((request.status(), outcome(&request)), (503, Outcome::Overloaded), "never free");
    }
    // The configuration's own word stands.
    stage.supported = kinds_alone(vec![kind("hedera:*", &[("memo", "other"), ("feePayer", "0.0.8")])]);
    assert_eq!(terms(&mut stage)["accepts"][0]["extra"], json!({"memo": "order", "feePayer": "0.0.8"}));
}

#[test]
fn an_entry_of_ethereum_that_the_facilitator_does_not_settle_is_left_out() {
    let mut both = base_config();
    both["defaults"]["accepts"] = json!([
        {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
        {"scheme": "exact", "network": "base", "asset": "USDC"},
    ]);
    let mut stage = Stage::new(&both);
    let offered = |stage: &mut Stage| terms(stage)["accepts"].as_array().unwrap().len();
    stage.supported = Supported::default();
    assert_eq!(offered(&mut stage), 2, "it has not said yet");
    stage.supported = kinds_alone(vec![kind("eip155:8453", &[])]);
    assert_eq!((offered(&mut stage), terms(&mut stage)["accepts"][0]["network"].as_str()), (1, Some("eip155:8453")));
    stage.supported = kinds_alone(vec![kind(SOLANA, &[])]);
    assert_eq!(stage.start(&head("GET", "/weather", &[])).status(), 503);
}

#[test]
fn an_entry_that_the_facilitator_settles_in_version_1_alone_stays() {
    let said = |kinds: Value| {
        let body = json!({"kinds": kinds}).to_string().into_bytes();
        Supported::read(&CalloutAnswer::Answered { status: 200, body }).unwrap()
    };
    let mut stage = Stage::new(&base_config());
    let v1 = json!({"x402Version": 1, "scheme": "exact", "network": "base-sepolia"});
    let renamed = json!({"x402Version": 2, "scheme": "exact", "network": "base-sepolia"});
    let other = json!({"x402Version": 1, "scheme": "exact", "network": "polygon"});
    let solana = json!({"x402Version": 2, "scheme": "exact", "network": SOLANA});
    for kinds in [json!([v1]), json!([v1, solana]), json!([renamed, solana]), json!([other]), json!([])] {
        stage.supported = said(kinds.clone());
        assert_eq!(stage.start(&head("GET", "/weather", &[])).status(), 402, "{kinds}");
    }
    stage.supported = said(json!([other, solana]));
    assert_eq!(stage.start(&head("GET", "/weather", &[])).status(), 503, "nobody settles it");
}

#[test]
fn a_full_ledger_takes_down_what_has_settled() {
    let mut config = config("before");
    // One claim a page.
    config["ledger"] = json!({"max_claims": 1});
    let mut stage = stage(&config);
    let accepted = terms(&mut stage)["accepts"][0].clone();
    let mut request = stage.play(&paid("/weather", &payment(&accepted, &json!({"a": 1}))), [valid()]);
    // Every page is as full as the one that the payment stands on.
    let full = stage.store.0.values().next().unwrap().clone();
    for page in 0..4096 {
        stage.store.0.entry(page).or_insert_with(|| full.clone());
    }
    stage.step(&mut request, settled("t"));
    assert!(request.forwarded.is_some(), "{}", request.story());
}

#[test]
fn a_payer_that_is_spelled_otherwise_the_second_time_has_paid() {
    let mut stage = stage(&config("after"));
    let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 1}));
    let yes = answers(&json!({"isValid": true, "payer": "0xAb"}));
    let moved = answers(&json!({"success": true, "transaction": "t", "network": NETWORK, "payer": "0xab"}));
    let request = stage.play(&paid("/weather", &sent), [yes, upstream(200), moved]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
}

#[test]
fn a_number_may_come_back_as_javascript_writes_it() {
    let mut config = config("after");
    config["defaults"]["accepts"][0]["extra"] = json!({"decimals": 6.0, "rate": 10.5, "round": 100});
    let mut stage = stage(&config);
    let mut entry = terms(&mut stage)["accepts"][0].clone();
    entry["extra"]["decimals"] = json!(6);
    let request = stage.start(&paid("/weather", &payment(&entry, &json!({"a": 1}))));
    assert_eq!(request.story(), "claim unproven granted, verify?");
    entry["extra"]["decimals"] = json!(60);
    assert_eq!(outcome(&stage.start(&paid("/weather", &payment(&entry, &json!({"a": 1}))))), Outcome::Refused);
}

#[test]
fn the_facilitator_judges_and_is_told_what_was_offered() {
    for verify in ["remote", "local"] {
        let mut config = config("after");
        config["facilitator"]["verify"] = verify.into();
        let mut stage = stage(&config);
        let mut accepted = terms(&mut stage)["accepts"][0].clone();
        let offered = accepted.clone();
        accepted["extra"]["mine"] = json!(1);
        let sent = payment(&accepted, &json!({"z": [1.50], "a": {"signature": "s"}}));
        let mut request = stage.start(&paid("/weather", &sent));
        assert_eq!(request.story(), "claim unproven granted, verify?");
        let body: Value = serde_json::from_str(&request.call.as_ref().unwrap().body).unwrap();
        assert_eq!(body["paymentRequirements"], offered);
        assert_eq!(
            (&body["paymentPayload"]["accepted"], &body["paymentPayload"]["payload"]),
            (&offered, &sent["payload"])
        );
        stage.step(&mut request, answers(&json!({"isValid": true, "payer": "0.0.77"})));
        let edits = request.forwarded.clone().unwrap();
        assert!(edits.set.contains(&("x-x402-payer", "0.0.77".to_owned())), "{edits:?}");
        stage.step(&mut request, upstream(200));
        stage.step(&mut request, settled("0.0.9@1700000000.5"));
        let receipt = decode(request.receipt_header("payment-response").unwrap());
        assert_eq!(
            receipt,
            json!({"success": true, "payer": "0.0.77", "transaction": "0.0.9@1700000000.5", "network": NETWORK})
        );
        let record = request.record.unwrap().payment.unwrap();
        assert_eq!((record.payer, record.scheme.as_str()), (Payer::Foreign("0.0.77".to_owned()), "exact"));
        assert_eq!((record.asset.as_str(), record.pay_to.as_str()), ("0.0.456858", "0.0.4567"));
        assert_eq!(record.transaction.unwrap().to_string(), "0.0.9@1700000000.5");
    }
}

#[test]
fn a_no_is_a_no() {
    let mut stage = stage(&config("after"));
    let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 1}));
    let request = stage.play(&paid("/weather", &sent), [invalid("insufficient_funds")]);
    assert_eq!((request.status(), request.reason()), (402, "insufficient_funds"));
    // It may come again, for nothing has moved.
    let request = stage.play(&paid("/weather", &sent), [valid(), upstream(200), refused("insufficient_funds")]);
    assert_eq!((request.status(), outcome(&request)), (402, Outcome::Refused));
    let request = stage.play(&paid("/weather", &sent), [valid(), upstream(200), settled("t")]);
    assert_eq!(outcome(&request), Outcome::Served);
    for reason in [
        "transaction_failed",
        "duplicate_settlement",
        "unexpected_error: node",
        "settle_exact_svm_transaction_confirmation_timed_out",
        "settlement_timeout",
        "Error: Transaction was not confirmed in 30 seconds",
        "Transaction Failed",
        "rpc_error",
        "not_now",
    ] {
        let mut stage = self::stage(&config("after"));
        let request = stage.play(&paid("/weather", &sent), [valid(), upstream(200), refused(reason)]);
        assert_eq!(
            (request.status(), outcome(&request)),
            (502, Outcome::Unknown),
            "{reason} may mean that it has moved"
        );
    }
}

#[test]
fn one_payment_buys_one_response_however_it_is_written() {
    let mut stage = stage(&config("after"));
    let accepted = terms(&mut stage)["accepts"][0].clone();
    let sent = payment(&accepted, &json!({"a": 1, "b": "x"}));
    let request = stage.play(&paid("/weather", &sent), [valid(), upstream(200), settled("t1")]);
    assert_eq!(outcome(&request), Outcome::Served);
    let text = sent.to_string().replace(r#""payload":{"a":1,"b":"x"}"#, r#""payload": { "b" : "\u0078", "a" : 1 }"#);
    assert_ne!(text, sent.to_string());
    let rewritten = x402_proxy_wasm::x402::header::encode(&text);
    let request = stage.start(&head("GET", "/weather", &[("payment-signature", &rewritten)]));
    assert_eq!(
        (request.story().as_str(), outcome(&request)),
        ("claim unproven spent, = spent, reply 402", Outcome::Spent)
    );

    // Where the filter cannot see that two payments are one, the transaction tells.
    let same_to_the_facilitator = payment(&accepted, &json!({"a": 1, "b": "X"}));
    let request = stage.play(&paid("/weather", &same_to_the_facilitator), [valid(), upstream(200), settled("t1")]);
    assert_eq!((request.status(), outcome(&request)), (402, Outcome::Spent));
    assert!(request.settlements.is_empty(), "no money has moved for it");
    let request = stage.start(&paid("/weather", &same_to_the_facilitator));
    assert_eq!(outcome(&request), Outcome::Spent, "and it never buys anything");
}

#[test]
fn a_transaction_outlives_the_payment_that_it_was_made_for() {
    for (settle, events) in [
        ("after", vec![valid(), upstream(200), settled("t")]),
        ("before", vec![valid(), settled("t"), upstream(200)]),
        ("concurrent", vec![valid(), settled("t"), upstream(200)]),
    ] {
        let mut stage = stage(&config(settle));
        let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 1}));
        stage.start(&paid("/weather", &sent));
        let pages: Vec<u32> = stage.store.0.keys().copied().collect();
        stage.now += 1000;
        assert_eq!(outcome(&stage.play(&paid("/weather", &sent), events.clone())), Outcome::Served, "{settle}");
        stage.now += DAY;
        assert_eq!(outcome(&stage.start(&paid("/weather", &sent))), Outcome::Spent, "{settle}");
        // The ledger forgets the payment, and the facilitator says yes again.
        stage.store.0.retain(|page, _| !pages.contains(page));
        let mut request = stage.start(&paid("/weather", &sent));
        for event in events.into_iter().filter(|event| settle != "concurrent" || !matches!(event, Event::Upstream(_))) {
            if !request.is_over() {
                stage.step(&mut request, event);
            }
        }
        assert_eq!(outcome(&request), Outcome::Spent, "{settle}: {}", request.story());
    }
}

#[test]
fn a_transaction_is_not_found_out_twice_by_asking_twice() {
    for first in [refused("settlement_pending"), lost()] {
        let mut stage = stage(&config("before"));
        let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 1}));
        stage.start(&paid("/weather", &sent));
        let pages: Vec<u32> = stage.store.0.keys().copied().collect();
        stage.now += 1000;
        assert_eq!(
            outcome(&stage.play(&paid("/weather", &sent), [valid(), settled("t"), upstream(200)])),
            Outcome::Served
        );
        // The ledger forgets the payment, and the facilitator remembers it at the second try.
        stage.now += DAY + 100;
        stage.store.0.retain(|page, _| !pages.contains(page));
        let mut request = stage.play(&paid("/weather", &sent), [valid()]);
        stage.step(&mut request, first);
        if request.is_over() {
            request = stage.start(&paid("/weather", &sent));
        } else {
            stage.now += 1;
            stage.step(&mut request, Event::Tick);
        }
        stage.step(&mut request, settled("t"));
        assert!(request.forwarded.is_none(), "{}", request.story());
        assert_eq!(outcome(&request), Outcome::Spent, "{}", request.story());
    }
}

#[test]
fn a_settlement_that_nobody_heard_buys_its_response_once() {
    let mut stage = stage(&config("before"));
    let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 1}));
    let request = stage.play(&paid("/weather", &sent), [valid(), lost()]);
    assert_eq!((request.status(), outcome(&request)), (502, Outcome::Unknown));
    let recovery = request.recovery.clone().unwrap();
    // The background finds out, and pins the transaction to the payment.
    let mut looking = stage.recover(recovery);
    while stage.turn(&mut looking) {}
    stage.step(&mut looking, settled("t"));
    assert_eq!(outcome(&looking), Outcome::Abandoned);
    let request = stage.play(&paid("/weather", &sent), [upstream(200)]);
    assert_eq!((request.story().contains("resume granted"), outcome(&request)), (true, Outcome::Served));
    assert_eq!(outcome(&stage.start(&paid("/weather", &sent))), Outcome::Spent);

    // Where the background did not get to it, the client's own second try does.
    let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 2}));
    stage.play(&paid("/weather", &sent), [valid(), lost()]);
    let request = stage.play(&paid("/weather", &sent), [settled("t2"), upstream(500)]);
    assert_eq!(outcome(&request), Outcome::SettledUpstreamFailed);
    let request = stage.play(&paid("/weather", &sent), [upstream(200)]);
    assert_eq!(outcome(&request), Outcome::Served);
    // A transaction that another payment has can never be redeemed by that.
    let thief = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 3}));
    stage.play(&paid("/weather", &thief), [valid(), lost()]);
    let request = stage.play(&paid("/weather", &thief), [settled("t2")]);
    assert_eq!(outcome(&request), Outcome::Spent);
}

#[test]
fn what_was_settled_for_little_buys_nothing_dearer() {
    for first in [vec![valid(), settled("t"), upstream(404)], vec![valid(), lost()]] {
        let mut stage = stage(&config("before"));
        let cheap = terms(&mut stage)["accepts"][0].clone();
        let payload = json!({"a": 1});
        stage.play(&paid("/weather", &payment(&cheap, &payload)), first);
        let mut dear = cheap.clone();
        dear["amount"] = json!("500000000");
        let request = stage.start(&paid("/dear", &payment(&dear, &payload)));
        assert!(request.forwarded.is_none() && request.call.is_none(), "{}", request.story());
        assert!(matches!(request.status(), 402 | 409), "{}", request.story());
        // What it was settled for is still to be had.
        let request = stage.start(&paid("/weather", &payment(&cheap, &payload)));
        assert!(request.forwarded.is_some() || request.call.is_some(), "{}", request.story());
    }
}

#[test]
fn what_is_no_payment_is_refused() {
    let mut stage = stage(&config("after"));
    let accepted = terms(&mut stage)["accepts"][0].clone();
    let nested = format!("{}{}", "[".repeat(40), "]".repeat(40));
    for (payload, status, error) in [
        (r#"{"a":1,"a":2}"#.to_owned(), 400, "duplicate field"),
        (nested, 400, "nested too deep"),
        (r#"{"a":1"#.to_owned(), 400, "PAYMENT-SIGNATURE"),
    ] {
        let text = format!(r#"{{"x402Version":2,"accepted":{accepted},"payload":{payload}}}"#);
        let value = x402_proxy_wasm::x402::header::encode(&text);
        let request = stage.start(&head("GET", "/weather", &[("payment-signature", &value)]));
        assert_eq!(request.status(), status, "{payload}");
        assert!(request.body()["error"].as_str().unwrap().contains(error), "{}", request.body());
    }
    for (key, value) in [
        ("amount", json!("999")),
        ("payTo", json!("0.0.4568")),
        ("asset", json!("0.0.456859")),
        ("network", json!("hedera:testnet")),
        ("scheme", json!("upto")),
        ("maxTimeoutSeconds", json!(301)),
        ("extra", json!({"memo": "order"})),
        ("extra", json!({"memo": "other", "feePayer": "0.0.9"})),
        ("extra", json!(7)),
    ] {
        let mut other = accepted.clone();
        other[key] = value;
        let request = stage.start(&paid("/weather", &payment(&other, &json!({"a": 1}))));
        assert_eq!((request.status(), outcome(&request)), (402, Outcome::Refused), "{key}: {}", request.story());
    }
}

#[test]
fn an_older_account_of_the_facilitator_is_still_accepted() {
    let mut stage = stage(&config("after"));
    let sent = payment(&terms(&mut stage)["accepts"][0], &json!({"a": 1}));
    let newer = kinds_alone(vec![kind(NETWORK, &[("feePayer", "0.0.10")])]);
    stage.supported = newer.or_earlier(&stage.supported);
    assert_eq!(terms(&mut stage)["accepts"][0]["extra"]["feePayer"], "0.0.10");
    let request = stage.start(&paid("/weather", &sent));
    assert_eq!(request.story(), "claim unproven granted, verify?");
    assert!(request.call.unwrap().body.contains(r#""feePayer":"0.0.9""#));
    assert_eq!(Supported::from_text(&stage.supported.to_text()), stage.supported);
}

// ------------------------------------------------------------------------------------------------ Solana's exact

/// The first payment of the official client among the vectors, with the terms that it is for.
fn solana() -> (Stage, Value, Value) {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/svm/exact.json")).unwrap();
    let case = &vectors["cases"][0];
    let terms_of = &case["terms"];
    let mut config = config("before");
    config["routes"][0]["price"] = json!({"amount": terms_of["amount"]});
    config["defaults"]["accepts"] = json!([
        {"scheme": "exact", "network": "solana-devnet", "asset": "USDC", "pay_to": terms_of["payTo"]},
    ]);
    let mut stage = Stage::new(&config);
    stage.supported = kinds_alone(vec![kind(SOLANA, &[("feePayer", terms_of["feePayer"].as_str().unwrap())])]);
    let accepted = terms(&mut stage)["accepts"][0].clone();
    assert_eq!(accepted["extra"]["feePayer"], terms_of["feePayer"]);
    let payload = json!({"transaction": case["transaction"]});
    (stage, accepted, payload)
}

#[test]
fn solanas_payments_are_checked_before_anybody_is_asked() {
    let (mut stage, accepted, payload) = solana();
    let request = stage.start(&paid("/weather", &payment(&accepted, &payload)));
    assert_eq!(request.story(), "claim granted, settle?");
    let body: Value = serde_json::from_str(&request.call.as_ref().unwrap().body).unwrap();
    assert_eq!(body["paymentPayload"]["payload"], payload);

    let (mut stage, accepted, payload) = solana();
    let mut bytes = base64_of(&payload);
    // A signature that is none.
    bytes[70] ^= 1;
    let request = stage.start(&paid("/weather", &payment(&accepted, &json!({"transaction": base64(&bytes)}))));
    assert_eq!((request.status(), request.reason()), (402, "invalid_exact_svm_payload_signature_invalid"));
    for (wrong, status) in [(json!({"transaction": "AAAA"}), 400), (json!({"transaction": 1}), 400), (json!({}), 400)] {
        assert_eq!(stage.start(&paid("/weather", &payment(&accepted, &wrong))).status(), status, "{wrong}");
    }
    // Terms that are not these, however well signed.
    let mut config_of_others = accepted.clone();
    config_of_others["amount"] = json!("999");
    let request = stage.start(&paid("/weather", &payment(&config_of_others, &payload)));
    assert_eq!((request.status(), outcome(&request)), (402, Outcome::Refused));
}

#[test]
fn solanas_payer_is_known_and_a_message_is_one_payment() {
    let (mut stage, accepted, payload) = solana();
    let signature = "5".repeat(88);
    let yes = answers(&json!({"success": true, "transaction": signature, "network": SOLANA, "payer": PAYER}));
    let request = stage.play(&paid("/weather", &payment(&accepted, &payload)), [yes, upstream(200)]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    assert_eq!(request.record.as_ref().unwrap().payment.as_ref().unwrap().payer, Payer::Foreign(PAYER.to_owned()));
    assert_eq!(decode(request.receipt_header("payment-response").unwrap())["transaction"], signature.as_str());
    // What stands in the place of the fee payer's signature changes nothing.
    let mut bytes = base64_of(&payload);
    bytes[10] ^= 1;
    let request = stage.start(&paid("/weather", &payment(&accepted, &json!({"transaction": base64(&bytes)}))));
    assert_eq!(outcome(&request), Outcome::Spent);
}

#[test]
fn solanas_settlement_is_not_looked_into_for_longer_than_it_can_happen() {
    let (mut stage, accepted, payload) = solana();
    let mut request = stage.play(&paid("/weather", &payment(&accepted, &payload)), [lost()]);
    let mut tries = 0;
    while let Some(recovery) = request.recovery.take() {
        stage.now = stage.now.max(recovery.due.as_secs());
        request = stage.recover(recovery);
        while stage.turn(&mut request) {}
        stage.step(&mut request, lost());
        tries += 1;
        assert!(tries < 100, "it ends");
    }
    assert!((3..12).contains(&tries), "{tries}");
    // Nobody knows what became of it, so the same payment is still welcome to find out.
    let request = stage.start(&paid("/weather", &payment(&accepted, &payload)));
    assert_eq!(request.story(), "claim granted unknown, settle?");
}

#[test]
fn smart_wallets_pay_where_the_facilitator_knows_them() {
    let (mut stage, accepted, payload) = solana();
    let mut bytes = base64_of(&payload);
    // The first instruction's first byte: no limit of compute units is set by it.
    let limit = bytes.windows(5).rposition(|bytes| bytes == [2, 32, 78, 0, 0]).unwrap();
    bytes[limit] = 9;
    let sent = payment(&accepted, &json!({"transaction": base64(&bytes)}));
    assert!(stage.start(&paid("/weather", &sent)).reason().contains("compute_limit"));
    let mut extra: BTreeMap<String, String> = stage.supported.kinds[0].extra.clone();
    extra.insert("features".to_owned(), r#"{"smartWalletSupported":true}"#.to_owned());
    stage.supported.kinds[0].extra = extra;
    let accepted = terms(&mut stage)["accepts"][0].clone();
    let sent = payment(&accepted, &json!({"transaction": base64(&bytes)}));
    assert_eq!(stage.start(&paid("/weather", &sent)).story(), "claim unproven granted, verify?");
}

/// Who pays in the vector.
const PAYER: &str = "DwHGPW3xasa6tKb8S7uWLduyZkb96Hgu3mwaffxpGVs";

fn base64_of(payload: &Value) -> Vec<u8> {
    x402_proxy_wasm::x402::header::decode(payload["transaction"].as_str().unwrap().as_bytes()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn what_a_facilitator_supports_is_read_entry_by_entry() {
    let read = |json: Value| {
        let body = [&b"\xef\xbb\xbf"[..], json.to_string().as_bytes()].concat();
        Supported::read(&CalloutAnswer::Answered { status: 201, body })
    };
    let good = json!({"x402Version": "2", "scheme": "exact", "network": "eip155:8453", "extra": null});
    let supported = read(json!({
        "kinds": [{"x402Version": 2, "scheme": "exact"}, good, 7, {"scheme": "upto", "network": "eip155:1", "extra": []}],
        "extensions": ["one", {"key": "two"}, {"name": "three", "more": 1}, 4, null],
    }))
    .unwrap();
    assert_eq!(
        supported.kinds.iter().map(|kind| kind.network.as_str()).collect::<Vec<_>>(),
        ["eip155:8453", "eip155:1"]
    );
    assert_eq!(supported.extensions, ["one", "two", "three"]);
    assert!(supported.unread.unwrap().contains("kinds is left out: .: missing field `network`"));
    for extensions in [Value::Null, json!([])] {
        let supported = read(json!({"kinds": [good], "extensions": extensions, "signers": {}})).unwrap();
        assert_eq!((supported.kinds.len(), supported.extensions.len(), supported.unread), (1, 0, None));
    }
    // A list that is none does not hide the other.
    for extensions in [json!({}), json!("bazaar"), json!(7), json!(false)] {
        let supported = read(json!({"kinds": [good], "extensions": extensions})).unwrap();
        assert_eq!((supported.kinds.len(), supported.extensions.len()), (1, 0), "{extensions}");
        assert_eq!(supported.unread.as_deref(), Some("extensions is left out: it is not a list"));
    }
    for (version, is_read) in [
        (json!(2), true),
        (json!("2"), true),
        (json!(2.0), true),
        (json!("2.0"), true),
        (Value::Null, true),
        (json!("v2"), false),
        (json!(2.5), false),
        (json!(-2), false),
        (json!([2]), false),
        (json!(true), false),
    ] {
        let mut kind = good.clone();
        kind["x402Version"] = version.clone();
        let supported = read(json!({"kinds": [kind, good]})).unwrap();
        assert_eq!(
            (supported.kinds.len(), supported.unread.is_none()),
            (1 + usize::from(is_read), is_read),
            "{version}"
        );
    }
    // What is for another version alone is not unread.
    let supported = read(json!({"kinds": [{"x402Version": 1, "scheme": "exact", "network": "eip155:8453"}, good]}));
    assert_eq!(supported.map(|supported| (supported.kinds.len(), supported.unread)), Some((1, None)));
    let many: Vec<Value> =
        (0..300).map(|id| json!({"x402Version": 2, "scheme": "exact", "network": format!("eip155:{id}"), "extra": {"a": "x".repeat(500)}})).collect();
    assert_eq!(read(json!({"kinds": many})).unwrap().kinds.len(), 300);
    let too_many = read(json!({"kinds": vec![good.clone(); 1025]})).unwrap();
    assert_eq!((too_many.kinds.len(), too_many.unread.is_some()), (1024, true));
    assert!(read(json!({"extensions": []})).is_none() && read(json!([])).is_none());
}
