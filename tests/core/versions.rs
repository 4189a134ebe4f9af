//! Clients of version 1 and of version 2 at the same routes.

use crate::common::{
    PAY_TO, Request, Stage, TRANSACTION, USDC, Wallet, answers, base_config, decode, encode, head, paid, refused,
    settled, upstream, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Event, Outcome, RequestHead};
use x402_proxy_wasm::facilitator::CalloutAnswer;

fn stage(change: impl FnOnce(&mut Value)) -> Stage {
    let mut config = base_config();
    change(&mut config);
    Stage::new(&config)
}

/// The first entry of a route, as version 2 has it: what both versions sign is the same.
fn entry(stage: &mut Stage, path: &str) -> Value {
    let unpaid = stage.start(&head("GET", path, &[]));
    decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone()
}

/// A payment of version 2, as version 1 writes it.
fn in_v1(payment: &Value) -> Value {
    json!({"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": payment["payload"]})
}

fn paid_v1(path: &str, payment: &Value) -> RequestHead {
    head("GET", path, &[("x-payment", &encode(payment))])
}

/// `/settle` says yes, as it does to version 1.
fn settled_v1() -> Event {
    answers(&json!({"success": true, "transaction": TRANSACTION, "network": "base-sepolia"}))
}

fn play(stage: &mut Stage, head: &RequestHead, events: impl IntoIterator<Item = Event>) -> Request {
    let mut request = stage.start(head);
    for event in events {
        stage.step(&mut request, event);
    }
    request
}

#[test]
fn a_payment_of_version_1_is_verified_served_and_settled_in_version_1() {
    let mut stage = stage(|config| config["defaults"]["settle"] = "after".into());
    let payment = in_v1(&Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1));
    let request = play(&mut stage, &paid_v1("/weather", &payment), [valid(), upstream(200), settled_v1()]);
    assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served);
    for call in &request.calls {
        let body: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!((&body["x402Version"], &body["paymentPayload"]), (&json!(1), &payment), "{}", call.kind.path());
        let requirements = &body["paymentRequirements"];
        assert_eq!((&requirements["network"], &requirements["payTo"]), (&json!("base-sepolia"), &json!(PAY_TO)));
        assert_eq!(requirements["resource"], "http://api.example.com/weather");
        assert!(requirements["maxAmountRequired"].is_string() && requirements.get("amount").is_none());
    }
    let receipt = decode(request.receipt_header("x-payment-response").unwrap());
    assert_eq!((&receipt["success"], &receipt["network"]), (&json!(true), &json!("base-sepolia")));
    assert_eq!(request.receipt_header("payment-response"), None);
    let seen = &request.forwarded.as_ref().unwrap();
    assert!(seen.remove.contains(&"x-payment".to_owned()));
    assert!(seen.set.contains(&("x-x402-network", "eip155:84532".to_owned())));
}

#[test]
fn a_payment_buys_one_response_whatever_version_it_comes_in() {
    for first_is_v1 in [true, false] {
        let mut stage = stage(|config| config["defaults"]["settle"] = "after".into());
        let payment = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
        let heads = [paid_v1("/weather", &in_v1(&payment)), paid("/weather", &payment)];
        let [first, second] = if first_is_v1 {
            heads
        } else {
            let [v1, v2] = heads;
            [v2, v1]
        };
        let settlement = if first_is_v1 { settled_v1() } else { settled() };
        let request = play(&mut stage, &first, [valid(), upstream(200), settlement]);
        assert_eq!(request.record.unwrap().outcome, Outcome::Served);
        let again = stage.start(&second);
        assert_eq!((again.status(), again.record.unwrap().outcome), (402, Outcome::Spent));
        assert!(again.calls.is_empty());
    }
}

#[test]
fn while_it_is_in_flight_in_one_version_it_is_in_flight_in_the_other() {
    let mut stage = stage(|_| ());
    let payment = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
    let first = stage.start(&paid("/weather", &payment));
    assert!(first.call.is_some());
    let second = stage.start(&paid_v1("/weather", &in_v1(&payment)));
    assert_eq!(second.status(), 409);
}

#[test]
fn what_is_not_known_of_a_payment_is_asked_again_in_the_version_it_comes_back_in() {
    let mut stage = stage(|config| config["defaults"]["settle"] = "before".into());
    let payment = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
    let lost = play(&mut stage, &paid_v1("/weather", &in_v1(&payment)), [Event::Callout(CalloutAnswer::Lost)]);
    assert_eq!((lost.status(), lost.reply_header("payment-required")), (502, None));
    stage.now += 5;
    let again = play(&mut stage, &paid("/weather", &payment), [settled(), upstream(200)]);
    assert_eq!(again.record.as_ref().unwrap().outcome, Outcome::Served, "{}", again.story());
    assert!(again.receipt_header("payment-response").is_some());
}

#[test]
fn a_settlement_that_names_another_network_is_no_yes() {
    for network in ["base", "eip155:84532", "eip155:8453"] {
        let mut stage = stage(|config| config["defaults"]["settle"] = "before".into());
        let payment = in_v1(&Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1));
        let answer = answers(&json!({"success": true, "transaction": TRANSACTION, "network": network}));
        let request = play(&mut stage, &paid_v1("/weather", &payment), [answer]);
        assert_eq!(request.record.unwrap().outcome, Outcome::Unknown, "{network}");
    }
}

#[test]
fn a_settlement_that_is_refused_gives_a_receipt_of_version_1() {
    let mut stage = stage(|config| config["defaults"]["settle"] = "before".into());
    let payment = in_v1(&Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1));
    let request = play(&mut stage, &paid_v1("/weather", &payment), [valid(), refused("insufficient_funds")]);
    let receipt = decode(request.reply_header("x-payment-response").unwrap());
    assert_eq!((request.status(), &receipt["success"]), (402, &json!(false)));
    assert_eq!(request.reply_header("payment-response"), None);
}

#[test]
fn under_both_names_the_version_is_the_one_that_the_payment_says() {
    let mut stage = stage(|config| config["defaults"]["settle"] = "after".into());
    let payment = in_v1(&Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1));
    let value = encode(&payment);
    let head = head("GET", "/weather", &[("payment-signature", &value), ("x-payment", &value)]);
    let request = play(&mut stage, &head, [valid(), upstream(200), settled_v1()]);
    assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served);
    let body: Value = serde_json::from_str(&request.calls[0].body).unwrap();
    assert_eq!((&body["x402Version"], &body["paymentPayload"]), (&json!(1), &payment));
}

#[test]
fn malformed_payments_of_version_1_name_their_header() {
    for (value, reason) in [
        ("!!!".to_owned(), "X-PAYMENT is not standard base64"),
        (encode(&json!({})), "X-PAYMENT: .: missing field"),
        (
            encode(&json!({"x402Version": 2, "scheme": "exact", "network": "base-sepolia", "payload": {}})),
            "X-PAYMENT: x402Version is 2, and this header carries version 1",
        ),
        (
            encode(&json!({"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": {}})),
            "X-PAYMENT: payload",
        ),
        (
            encode(&json!({"x402Version": 1, "network": "base-sepolia", "payload": {}})),
            "X-PAYMENT: .: missing field `scheme`",
        ),
    ] {
        let request = stage(|_| ()).start(&head("GET", "/weather", &[("x-payment", &value)]));
        assert_eq!(request.status(), 400, "{value}");
        assert!(request.reason().starts_with(reason), "{}", request.reason());
    }
}

#[test]
fn payments_of_version_1_that_do_not_meet_the_terms_are_refused_unasked() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change, &str); 5] = [
        ("scheme", |payment| payment["scheme"] = "upto".into(), "No matching payment requirements"),
        ("network", |payment| payment["network"] = "base".into(), "No matching payment requirements"),
        (
            "network of version 2",
            |payment| payment["network"] = "eip155:84532".into(),
            "No matching payment requirements",
        ),
        (
            "value",
            |payment| payment["payload"]["authorization"]["value"] = "1".into(),
            "invalid_exact_evm_payload_authorization_value_mismatch",
        ),
        (
            "to",
            |payment| payment["payload"]["authorization"]["to"] = USDC.into(),
            "invalid_exact_evm_recipient_mismatch",
        ),
    ];
    for (name, change, reason) in changes {
        let mut stage = stage(|_| ());
        let mut payment = in_v1(&Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1));
        change(&mut payment);
        let request = stage.start(&paid_v1("/weather", &payment));
        assert_eq!((request.status(), request.reason()), (402, reason), "{name}");
        assert!(request.calls.is_empty() && request.claim.is_none(), "{name}");
        assert_eq!(request.body()["x402Version"], 1);
    }
}

#[test]
fn a_payment_for_other_terms_that_was_settled_is_told_so() {
    let mut stage = stage(|config| config["defaults"]["settle"] = "before".into());
    let payment = in_v1(&Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1));
    play(&mut stage, &paid_v1("/weather", &payment), [valid(), settled_v1()]);
    let elsewhere = stage.start(&paid_v1("/dear", &payment));
    assert_eq!((elsewhere.status(), elsewhere.calls.len()), (409, 0), "{}", elsewhere.story());
}

#[test]
fn the_signature_tells_which_of_the_assets_of_a_network_is_meant() {
    let other = "0x1111111111111111111111111111111111111111";
    let mut stage = stage(|config| {
        config["defaults"]["accepts"] = json!([
            {"scheme": "exact", "network": "base-sepolia", "asset": {
                "address": other, "decimals": 6, "eip712": {"name": "Other", "version": "1"}, "usd_pegged": true}},
            {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
            {"scheme": "exact", "network": "base-sepolia", "asset": "USDC", "transfer_method": "permit2"},
        ]);
        config["defaults"]["settle"] = "before".into();
    });
    let unpaid = stage.start(&head("GET", "/weather", &[]));
    let shown: Vec<_> =
        unpaid.body()["accepts"].as_array().unwrap().iter().map(|entry| entry["asset"].clone()).collect();
    assert_eq!(shown, [other, USDC], "what version 1 cannot pay is not shown to it");
    let entries = decode(unpaid.reply_header("payment-required").unwrap())["accepts"].clone();
    for index in 0..2 {
        let payment = in_v1(&Wallet::new(1).pay(&entries[index], u8::try_from(index).unwrap()));
        let request = stage.start(&paid_v1("/weather", &payment));
        let body: Value = serde_json::from_str(&request.calls[0].body).unwrap();
        assert_eq!(body["paymentRequirements"]["asset"], shown[index]);
    }
}

#[test]
fn any_of_several_recipients_is_paid_in_version_1() {
    let recipients = ["0x1111111111111111111111111111111111111111", "0x2222222222222222222222222222222222222222"];
    let mut stage = stage(|config| {
        config["defaults"]["pay_to"] = json!({"split": [{"to": recipients[0]}, {"to": recipients[1]}]});
        config["defaults"]["settle"] = "before".into();
    });
    let mut entry = entry(&mut stage, "/weather");
    for (number, recipient) in (1..).zip(recipients) {
        entry["payTo"] = recipient.into();
        let payment = in_v1(&Wallet::new(1).pay(&entry, number));
        let request = play(&mut stage, &paid_v1("/weather", &payment), [valid(), settled_v1(), upstream(200)]);
        assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served, "{}", request.story());
        let body: Value = serde_json::from_str(&request.calls[0].body).unwrap();
        assert_eq!(body["paymentRequirements"]["payTo"], recipient);
    }
}
