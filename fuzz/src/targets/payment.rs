//! Payments as clients send them. What the facilitator gets is what was read, and what was read is what is written,
//! whoever reads it.
//!
//! An input is the JSON of a payment.

use std::sync::LazyLock;

use serde_json::json;
use x402_proxy_wasm::facilitator;
use x402_proxy_wasm::x402::payment::{Authorized, ForeignPayload, PaymentPayload, Signed};
use x402_proxy_wasm::x402::requirement::Rail;
use x402_proxy_wasm::x402::{Requirement, Version};

use crate::common;
use crate::json::Json;

/// What is asked: by EIP-3009, by Permit2, and by Permit2 at most.
static REQUIREMENTS: LazyLock<[Requirement; 3]> = LazyLock::new(|| {
    [("exact", "eip3009"), ("exact", "permit2"), ("upto", "permit2")].map(|(scheme, method)| {
        let mut config = common::base_config();
        let entry = json!([{"scheme": scheme, "network": "base-sepolia", "asset": "USDC", "transfer_method": method}]);
        config["defaults"]["accepts"] = entry;
        let config = common::read_config(&config);
        let mut requirement =
            config.routes[0].terms.as_ref().expect("the first route is priced").offers[0].requirement.clone();
        if let Rail::Evm(evm) = &mut requirement.rail {
            evm.facilitator = (scheme == "upto").then(|| common::FACILITATOR.parse().expect("an address"));
        }
        requirement
    })
});

pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(received) = PaymentPayload::from_json(input) else { return };
    let json = Json::parse(input).expect("what is taken is JSON");
    check_accepted(&received, &json);
    check_opaque(&received, &json);
    for requirement in &*REQUIREMENTS {
        let method = requirement.evm().expect("a token").transfer_method;
        let Ok(payment) = Signed::from_payload(received.payload, method) else { continue };
        check_payload(&payment, json.get("payload").expect("a payment has a payload"));
        check_wire(requirement, &payment, &received, &json, text);
    }
}

/// A payload that the filter does not know says the same in its canonical form, which has no other.
fn check_opaque(received: &PaymentPayload<'_>, json: &Json) {
    let Ok(payload) = ForeignPayload::from_payload(received.payload, false) else { return };
    let ForeignPayload::Opaque(canonical) = &payload else { panic!("nobody said that it is Solana's") };
    let written = Json::parse(canonical.as_bytes()).expect("what is written is JSON");
    let canonical_again = serde_json::from_str(canonical).map(|raw| ForeignPayload::from_payload(raw, false));
    assert_eq!(canonical_again.expect("JSON").expect("a payload"), payload);
    assert!(is_same(&written, json.get("payload").expect("a payment has a payload")), "nothing else is said");
    let _ = ForeignPayload::from_payload(received.payload, true);
}

/// Whether two values say the same, in whatever order their fields stand.
fn is_same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Object(one), Json::Object(fields)) => {
            one.len() == fields.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other)))
        }
        (Json::List(one), Json::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}

fn check_accepted(received: &PaymentPayload<'_>, json: &Json) {
    assert!(
        json.has_each_once(&["x402Version", "accepted", "payload", "resource", "extensions"]),
        "no name stands twice"
    );
    assert!(matches!(json.get("x402Version"), Some(Json::Number(two)) if is_whole(two, "2")), "version 2");
    let (accepted, found) = (json.get("accepted").expect("an entry is accepted"), &received.accepted);
    let names = ["scheme", "network", "amount", "asset", "payTo", "maxTimeoutSeconds", "extra"];
    assert!(accepted.has_each_once(&names), "no name stands twice");
    for (name, value) in [
        ("scheme", &found.scheme),
        ("network", &found.network),
        ("amount", &found.amount.to_string()),
        ("asset", &found.asset),
        ("payTo", &found.pay_to),
    ] {
        assert_eq!(accepted.text(name), Some(value.as_str()), "{name} is a text, and this one");
    }
    let seconds = found.max_timeout_seconds.to_string();
    assert!(matches!(accepted.get("maxTimeoutSeconds"), Some(Json::Number(number)) if is_whole(number, &seconds)));
    for requirement in REQUIREMENTS.iter().filter(|requirement| requirement.is(found)) {
        let extra = accepted.get("extra").expect("an entry has what is needed for signing");
        let names = ["name", "version", "paymentFlow", "assetTransferMethod", "facilitatorAddress"];
        assert!(extra.has_each_once(&names), "no name stands twice");
        assert_eq!((extra.text("name"), extra.text("version")), (Some("USDC"), Some("2")));
        let settler = extra.text("facilitatorAddress");
        let is_settler = settler.is_some_and(|settler| settler.eq_ignore_ascii_case(common::FACILITATOR));
        assert!(
            is_settler || requirement.evm().expect("a token").facilitator.is_none(),
            "who settles is who was named"
        );
        assert_eq!(accepted.text("scheme"), Some(requirement.scheme.as_str()));
        assert_eq!(accepted.text("amount"), Some("1000"), "the price is paid");
        assert!(accepted.text("payTo").is_some_and(|to| to.eq_ignore_ascii_case(common::PAY_TO)));
    }
}

/// Whether a number is this one, written plainly or as a double.
fn is_whole(number: &str, expected: &str) -> bool {
    number
        .split_once('.')
        .map_or(number == expected, |(whole, rest)| whole == expected && rest.bytes().all(|digit| digit == b'0'))
}

/// Whether an object has these fields, each once, and no other that could be taken for one of them.
fn has_clearly(json: &Json, names: &[&str]) -> bool {
    let Json::Object(fields) = json else { return false };
    let letters = |name: &str| name.to_ascii_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), "");
    let alike = |name: &str| fields.iter().filter(|(other, _)| letters(other) == letters(name)).count();
    names.iter().all(|name| json.all(name).count() == 1 && alike(name) == 1)
}

fn check_payload(payment: &Signed, payload: &Json) {
    let again = match &payment.authorization {
        Authorized::Eip3009(authorization) => serde_json::to_vec(authorization),
        Authorized::Permit2(permit) => serde_json::to_vec(permit),
    };
    let again = Json::parse(&again.expect("JSON")).expect("JSON");
    let name = match &payment.authorization {
        Authorized::Eip3009(_) => "authorization",
        Authorized::Permit2(_) => "permit2Authorization",
    };
    assert!(has_clearly(payload, &[name, "signature"]), "a payload has its two fields");
    check_written(&again, payload.get(name).expect("something is signed"));
    let signature = payload.text("signature").map(str::to_ascii_lowercase);
    assert_eq!(signature, Some(format!("0x{}", hex::encode(&payment.signature))));
}

/// What was read is what is written, field by field: texts, whatever the letter case of addresses, and numbers of digits
/// alone, whatever zeros stand before them.
pub(super) fn check_written(read: &Json, written: &Json) {
    let Json::Object(fields) = read else { panic!("what is signed is an object") };
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    // A witness may say that it names nobody.
    let Json::Object(said) = written else { panic!("what is signed is an object") };
    let said = Json::Object(said.iter().filter(|(_, value)| *value != Json::Null).cloned().collect());
    assert!(has_clearly(&said, &names), "nothing is left out, and nothing is said twice: {names:?}");
    for (name, value) in fields {
        match value {
            Json::Text(text) => {
                let found = match written.get(name) {
                    Some(Json::Text(found) | Json::Number(found)) => found,
                    _ => panic!("{name} is a text or a number"),
                };
                let is_number = !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_digit());
                let digits = found.trim_start_matches('0');
                let is_same = found.eq_ignore_ascii_case(text) || (is_number && digits == text.trim_start_matches('0'));
                assert!(is_same, "{name} is this one");
            }
            Json::Number(number) => {
                assert!(matches!(written.get(name), Some(Json::Number(found)) if is_whole(found, number)), "{name}");
            }
            value => check_written(value, written.get(name).expect("an object")),
        }
    }
}

/// The facilitator reads the same payment, under our terms.
fn check_wire(requirement: &Requirement, payment: &Signed, received: &PaymentPayload<'_>, json: &Json, text: &str) {
    let wire = payment.to_wire(received, requirement);
    let again = PaymentPayload::from_json(wire.as_bytes()).expect("a payment is read again");
    let same = Signed::from_payload(again.payload, requirement.evm().expect("a token").transfer_method);
    assert_eq!(same.as_ref().ok(), Some(payment), "and is the same");
    assert!(requirement.is(&again.accepted), "under the terms that were offered");
    let question = facilitator::question(Version::V2, &wire, requirement);
    let question = Json::parse(question.as_bytes()).expect("a question is JSON");
    let sent = question.get("paymentPayload").expect("a question holds the payment");
    for name in ["resource", "extensions"] {
        assert_eq!(sent.get(name), json.get(name), "{name} goes along as it came");
    }
    assert!(wire.len() <= text.len() + 2048, "nothing grows without bound");
}
