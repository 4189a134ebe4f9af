//! What holds for every input, tried on many.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use crate::common::heads::stages;
use crate::common::{
    MemoryStore, NOW, PAY_TO, Request, Stage, TRANSACTION, Wallet, answers_with, base_config, decode, encode, head,
    invalid, paid, read_config, refused, settled, upstream, valid,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use ruint::aliases::U256;
use serde_json::{Value, json};
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::evm::eip3009::Authorization;
use x402_proxy_wasm::evm::signature::Signature;
use x402_proxy_wasm::evm::{Address, Nonce, TransactionHash};
use x402_proxy_wasm::exchange::{CallKind, Event, Outcome, RequestHead};
use x402_proxy_wasm::facilitator::{CalloutAnswer, read_settlement, read_verification};
use x402_proxy_wasm::ledger::{Answer, Binding, Ledger, Operation, Owner, PaymentKey, Unheard};
use x402_proxy_wasm::money::{Amount, Decimal, Dollars, MoneyError};
use x402_proxy_wasm::price::events::Splitter;
use x402_proxy_wasm::price::request::Job;
use x402_proxy_wasm::price::usage::Usage;
use x402_proxy_wasm::price::{Rate, Rates};
use x402_proxy_wasm::route::{Access, Decision, HostPattern, Matcher, Pattern, RouteTable, Target};
use x402_proxy_wasm::time::{UnixTime, parse_duration};
use x402_proxy_wasm::x402::payment::{Payer, PaymentPayload, Signed};
use x402_proxy_wasm::x402::requirement::TransferMethod;
use x402_proxy_wasm::x402::{NetworkId, TransactionId, Version, header};

thread_local! {
    /// To read a configuration takes longer than to look at a head.
    static STAGES: RefCell<Vec<Stage>> = RefCell::new(stages());
}

/// As many cases as a property gets; none writes files beside the tests.
fn cases(number: u32) -> ProptestConfig {
    ProptestConfig { cases: number, failure_persistence: None, ..ProptestConfig::default() }
}

// ---------------------------------------------------------------------------------------------------------- inputs

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

/// Any JSON, with a liking for the names that the filter looks for.
fn any_json() -> impl Strategy<Value = Value> {
    let names = [
        "x402Version",
        "accepted",
        "payload",
        "authorization",
        "signature",
        "from",
        "value",
        "nonce",
        "amount",
        "extra",
        "isValid",
        "success",
        "transaction",
        "network",
        "payer",
        "errorReason",
        "facilitator",
        "routes",
        "match",
        "path",
        "price",
        "accepts",
        "asset",
        "defaults",
        "networks",
        "max_timeout_seconds",
    ];
    let texts = prop_oneof![
        any::<String>().prop_map(Value::from),
        select(vec!["2", "0x", PAY_TO, TRANSACTION, "eip155:84532", "exact", "$0.001", "/a", "10s", "1000"])
            .prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts,
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        let keys = prop_oneof![4 => select(names.to_vec()).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((keys, inner), 0..8).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A change of a text: where, what is done there, and with which byte.
type Change = (Index, u8, u8);

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    let byte = prop_oneof![any::<u8>(), select(b"\"{}[],:\\0123456789-+.eE\n /%;".to_vec())];
    vec((any::<Index>(), 0_u8..5, byte), 1..6)
}

fn change(text: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut text = text.to_vec();
    for (index, kind, byte) in changes {
        if text.is_empty() {
            break;
        }
        let at = index.index(text.len());
        match kind {
            0 => text[at] = *byte,
            1 => text.insert(at, *byte),
            2 => drop(text.remove(at)),
            3 => text.truncate(at),
            _ => {
                let again = text[at..].to_vec();
                text.extend(again);
            }
        }
    }
    text
}

/// What the stage asks for a path.
fn entry(stage: &mut Stage, path: &str) -> Value {
    decode(stage.start(&head("GET", path, &[])).reply_header("payment-required").unwrap())["accepts"][0].clone()
}

fn good_payment() -> Value {
    let mut stage = Stage::new(&base_config());
    Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1)
}

// ------------------------------------------------------------------------------------------- nothing makes it panic

/// Reads bytes as everything that they could be meant to be.
fn read_as_everything(bytes: &[u8]) {
    let _ = header::decode(bytes);
    let _ = Config::from_json(bytes);
    let _ = Config::from_host(bytes, &|_| None);
    let target = Target { method: "GET", authority: "api.example.com", path: bytes };
    let _ = RouteTable::new(Vec::new()).decide(target);
    let _ = Signature::from_bytes(bytes).map(|signature| signature.recover(&[7; 32]));
    if let Ok(payment) = PaymentPayload::from_json(bytes) {
        let _ = Signed::from_payload(payment.payload, TransferMethod::Eip3009);
    }
    let config = read_config(&base_config());
    let requirement = &config.routes[0].terms.as_ref().unwrap().offers[0].requirement;
    for status in [200, 400, 503] {
        let answer = CalloutAnswer::Answered { status, body: bytes.to_vec() };
        let payer = Payer::Evm(Wallet::new(1).address());
        let _ = read_verification(&answer, &payer);
        let _ = read_settlement(&answer, Version::V2, requirement, &payer);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Amount::parse(text);
        let _ = Decimal::parse(text).map(|number| [0, 6, 77, u32::MAX].map(|decimals| number.to_units(decimals)));
        let _ = Dollars::parse(text).map(|dollars| [0, 6, 18, u8::MAX].map(|decimals| dollars.to_amount(decimals)));
        let _ = parse_duration(text);
        let _ = text.parse::<Address>();
        let _ = text.parse::<Nonce>();
        let _ = text.parse::<TransactionHash>();
        let _ = text.parse::<NetworkId>().map(|network| network.chain_id());
        let _ = Pattern::parse(text);
        let _ = HostPattern::parse(text);
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in any_bytes()) {
        read_as_everything(&bytes);
        read_as_everything(&[b"\x0a", bytes.as_slice()].concat());
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in any::<String>(), number in r"[$+-]?[0-9]{0,90}(\.[0-9]{0,90})?[se]?") {
        read_as_everything(text.as_bytes());
        read_as_everything(number.as_bytes());
    }

    #[test]
    fn no_json_makes_a_reader_panic(json in any_json()) {
        read_as_everything(json.to_string().as_bytes());
    }

    #[test]
    fn no_changed_configuration_makes_a_reader_panic(changes in any_changes()) {
        let text = change(base_config().to_string().as_bytes(), &changes);
        read_as_everything(&text);
    }

    #[test]
    fn no_changed_payment_makes_a_reader_panic(changes in any_changes()) {
        read_as_everything(&change(good_payment().to_string().as_bytes(), &changes));
    }

    #[test]
    fn no_head_makes_an_exchange_panic(
        headers in vec(
            (
                prop_oneof![
                    select(vec![
                        ":method", ":path", ":authority", ":scheme", "payment-signature", "x-payment", "origin",
                        "x-forwarded-proto", "x_x402_payer", "access-control-request-method",
                    ]).prop_map(|name| name.as_bytes().to_vec()),
                    any_bytes(),
                ],
                prop_oneof![
                    any_bytes(),
                    select(vec!["GET", "/weather", "/dear", "OPTIONS"]).prop_map(|value| value.as_bytes().to_vec()),
                    any_json().prop_map(|json| encode(&json).into_bytes()),
                ],
            ),
            0..8,
        ),
    ) {
        let request = Stage::new(&base_config()).start(&RequestHead::new(headers.clone()));
        prop_assert!(request.claim.is_none());
        // Each compares first sight with the exchange.
        STAGES.with_borrow_mut(|stages| {
            for stage in stages.iter_mut() {
                let _ = stage.arrive(&RequestHead::new(headers.clone()));
            }
        });
    }

    #[test]
    fn a_changed_payment_header_gets_an_answer(changes in any_changes(), below in any::<bool>()) {
        let mut stage = Stage::new(&base_config());
        let json = good_payment().to_string();
        let value = if below {
            let changed = change(json.as_bytes(), &changes);
            encode_bytes(&changed).into_bytes()
        } else {
            change(header::encode(&json).as_bytes(), &changes)
        };
        let names = [":method", ":path", ":authority"].map(|name| name.as_bytes().to_vec());
        let values = ["GET", "/weather", "a"].map(|value| value.as_bytes().to_vec());
        let payment = (b"payment-signature".to_vec(), value);
        let request = stage.start(&RequestHead::new(names.into_iter().zip(values).chain([payment])));
        prop_assert!(request.forwarded.is_none() && request.delivered.is_none());
        prop_assert!(request.call.is_some() || matches!(request.status(), 400 | 402), "{}", request.story());
    }

    #[test]
    fn no_answer_makes_an_exchange_panic(
        answers in vec((any::<u16>(), prop_oneof![any_bytes(), any_json().prop_map(|json| json.to_string().into_bytes())]), 3),
        is_before in any::<bool>(),
    ) {
        let mut config = base_config();
        config["defaults"]["settle"] = if is_before { "before".into() } else { "after".into() };
        let mut stage = Stage::new(&config);
        let payment = Wallet::new(1).pay(&entry(&mut stage, "/weather"), 1);
        let mut request = stage.start(&paid("/weather", &payment));
        for (status, body) in answers {
            if !request.is_over() {
                let status = if status % 2 == 0 { 200 } else { status };
                stage.step(&mut request, Event::Callout(CalloutAnswer::Answered { status, body }));
            }
        }
        prop_assert!(request.record.is_none_or(|record| record.outcome != Outcome::Served));
    }

    #[test]
    fn no_path_makes_a_table_panic(path in any_bytes(), authority in any::<String>(), method in any::<String>()) {
        let config = read_config(&base_config());
        let _ = config.table.decide(Target { method: &method, authority: &authority, path: &path });
    }

    #[test]
    fn a_garbled_store_grants_nothing(bytes in vec(any::<u8>(), 1..1000), owner in any::<u64>()) {
        let (ledger, key) = (Ledger::with_room_for(4096), neighbours()[0]);
        let mut store = MemoryStore::default();
        let claim = claim(2, 1, 0);
        ledger.perform(&mut store, key, Owner(owner), claim, UnixTime::from_secs(0));
        let page = *store.0.keys().next().unwrap();
        let whole = store.0[&page].0.len();
        store.0.insert(page, (bytes.clone(), 1));
        for operation in [claim, Operation::Release, Operation::Forget { named: None }] {
            let answer = ledger.perform(&mut store, key, Owner(owner), operation, UnixTime::from_secs(0));
            // Bytes of the right number may by chance be a page, of claims on other payments.
            let expected = if bytes.len() % whole == 0 { answer } else { Answer::Failed };
            prop_assert_eq!(answer, expected);
            prop_assert!(store.0[&page].0 == bytes || answer == Answer::Granted);
        }
    }
}

/// Standard base64 of bytes that need not be text.
fn encode_bytes(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

// ------------------------------------------------------------------------------------------------------ there and back

/// Whether digits without leading zeros are at most 2^256 − 1.
fn fits(digits: &str) -> bool {
    const MAX: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    (digits.len(), digits) <= (MAX.len(), MAX)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn headers_come_back(json in any::<String>()) {
        let header = header::encode(&json);
        prop_assert_eq!(header::decode(header.as_bytes()), Ok(json.clone().into_bytes()));
        prop_assert_eq!(header::decode(header.trim_end_matches('=').as_bytes()), Ok(json.into_bytes()));
    }

    #[test]
    fn addresses_nonces_and_hashes_come_back(bytes in any::<[u8; 32]>()) {
        let address = Address::from_bytes(*bytes.first_chunk().unwrap());
        let text = address.to_string();
        prop_assert_eq!(text.parse(), Ok(address));
        prop_assert_eq!(text.to_lowercase().parse(), Ok(address));
        let hash = TransactionHash::from_bytes(bytes);
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        prop_assert_eq!(format!("0x{}", hex::encode_upper(bytes)).parse(), Ok(Nonce::from_bytes(bytes)));
        // Any letter in the other case breaks the checksum, unless that leaves none in upper case.
        for (at, letter) in text.char_indices().skip(2).filter(|(_, digit)| digit.is_ascii_alphabetic()) {
            let other = if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
            let swapped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            prop_assert!(swapped.parse::<Address>().is_err() || swapped == swapped.to_lowercase(), "{swapped}");
        }
    }

    #[test]
    fn chain_ids_come_back(chain_id in any::<u64>()) {
        let network = NetworkId::from_chain_id(chain_id);
        prop_assert_eq!(network.chain_id(), Some(chain_id));
        prop_assert_eq!(network.to_string().parse(), Ok(network));
    }

    #[test]
    fn amounts_come_back(digits in "0|[1-9][0-9]{0,80}") {
        match Amount::parse(&digits) {
            Ok(amount) => {
                prop_assert!(fits(&digits));
                prop_assert_eq!(amount.to_string(), digits.clone());
                prop_assert_eq!(serde_json::to_value(amount).unwrap(), json!(digits));
                prop_assert_eq!(serde_json::from_value::<Amount>(json!(digits)).unwrap(), amount);
                prop_assert_eq!(amount.to_be_bytes(), amount.to_integer().to_be_bytes::<32>());
            }
            Err(error) => prop_assert!(error == MoneyError::TooLarge && !fits(&digits)),
        }
    }

    #[test]
    fn only_plain_numbers_are_amounts(text in any::<String>(), near in r"[+-]?[0-9]{0,5}[.,_eEx٣ ]?[0-9]{0,5}") {
        for text in [text, near] {
            let is_plain = !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_digit())
                && (text.len() == 1 || !text.starts_with('0'));
            prop_assert_eq!(Amount::parse(&text).is_ok(), is_plain && fits(&text), "{}", text);
        }
    }

    #[test]
    fn dollars_times_decimals_are_exact(
        whole in "0|[1-9][0-9]{0,60}",
        fraction in prop_oneof![Just(String::new()), "[0-9]{1,25}".boxed(), "0{0,20}[0-9]{1,3}0{0,5}".boxed()],
        decimals in 0_u8..=77,
    ) {
        let text = if fraction.is_empty() { format!("${whole}") } else { format!("${whole}.{fraction}") };
        let significant = fraction.trim_end_matches('0');
        let missing = usize::from(decimals).checked_sub(significant.len());
        let found = Dollars::parse(&text).and_then(|dollars| dollars.to_amount(decimals));
        let is_one_unit_or_more = whole != "0" || significant.bytes().take(decimals.into()).any(|digit| digit != b'0');
        let trimmed = |digits: String| match digits.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        };
        let expected = match missing {
            _ if !fits(&trimmed(format!("{whole}{significant}"))) => Err(MoneyError::TooLarge),
            Some(missing) => {
                let units = trimmed(format!("{whole}{significant}{}", "0".repeat(missing)));
                if fits(&units) { Ok(units) } else { Err(MoneyError::TooLarge) }
            }
            None if is_one_unit_or_more => Err(MoneyError::TooFine),
            None => Err(MoneyError::BelowOneUnit),
        };
        prop_assert_eq!(found.map(|amount| amount.to_string()), expected, "{} with {} decimals", text, decimals);
    }

    #[test]
    fn durations_are_exact(seconds in 0_u64..=u64::MAX / 2_000_000_000, nanoseconds in 0_u32..1_000_000_000) {
        let exact = format!("{seconds}.{nanoseconds:09}s");
        prop_assert_eq!(parse_duration(&exact), Some(Duration::new(seconds, nanoseconds)));
        prop_assert_eq!(parse_duration(&format!("{seconds}s")), Some(Duration::from_secs(seconds)));
    }
}

// ------------------------------------------------------------------------------------------------------------ payments

/// Terms of one route, and who pays.
#[derive(Debug, Clone)]
struct Deal {
    secret: [u8; 32],
    amount: u128,
    chain_id: u64,
    asset: [u8; 20],
    pay_to: [u8; 20],
    name: String,
    version: String,
    lifetime: u64,
    is_upfront: bool,
}

fn any_deal() -> impl Strategy<Value = Deal> {
    let secret = any::<[u8; 32]>().prop_filter("a secret", |secret| Wallet::from_secret(*secret).is_some());
    let pay_to = any::<[u8; 20]>().prop_filter("not the zero address", |pay_to| *pay_to != [0; 20]);
    let parts = (secret, 1..=u128::MAX, any::<u64>(), any::<[u8; 20]>(), pay_to);
    (parts, "\\PC{1,12}", "\\PC{1,4}", 10_u64..100_000, any::<bool>()).prop_map(
        |((secret, amount, chain_id, asset, pay_to), name, version, lifetime, is_upfront)| Deal {
            secret,
            amount,
            chain_id,
            asset,
            pay_to,
            name,
            version,
            lifetime,
            is_upfront,
        },
    )
}

impl Deal {
    fn config(&self) -> Value {
        let mut config = base_config();
        config["defaults"] = json!({
            "pay_to": Address::from_bytes(self.pay_to).to_string(),
            "settle": if self.is_upfront { "before" } else { "after" },
            "max_timeout_seconds": self.lifetime,
            "accepts": [{
                "scheme": "exact",
                "network": format!("eip155:{}", self.chain_id),
                "asset": {
                    "address": Address::from_bytes(self.asset).to_string(),
                    "decimals": 6,
                    "eip712": {"name": self.name, "version": self.version},
                },
            }],
        });
        config["routes"] = json!([{"match": {"path": "/weather"}, "price": {"amount": self.amount.to_string()}}]);
        config
    }

    fn wallet(&self) -> Wallet {
        Wallet::from_secret(self.secret).unwrap()
    }

    /// A stage with these terms, and a payment that meets them.
    fn paid(&self) -> (Stage, Value) {
        let mut stage = Stage::new(&self.config());
        let payment = self.wallet().pay(&entry(&mut stage, "/weather"), 1);
        (stage, payment)
    }
}

fn is_taken(stage: &mut Stage, payment: &Value) -> bool {
    let request = stage.start(&paid("/weather", payment));
    let is_taken = request.story().starts_with("claim granted");
    assert!(is_taken || matches!(request.status(), 400 | 402), "{}", request.story());
    is_taken
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn honest_payments_are_taken(deal in any_deal()) {
        let (mut stage, payment) = deal.paid();
        prop_assert!(is_taken(&mut stage, &payment));
    }

    #[test]
    fn a_change_of_any_signed_field_is_refused(deal in any_deal(), other in any::<[u8; 32]>(), number in any::<u64>()) {
        let (mut stage, payment) = deal.paid();
        let address = Address::from_bytes(*other.first_chunk().unwrap()).to_string();
        let values = [
            ("from", address.clone()),
            ("to", address),
            ("value", number.to_string()),
            ("validAfter", (number % NOW).to_string()),
            ("validBefore", NOW.saturating_add(6).saturating_add(number).to_string()),
            ("nonce", format!("0x{}", hex::encode(other))),
        ];
        for (field, value) in values {
            let mut changed = payment.clone();
            changed["payload"]["authorization"][field] = value.into();
            if changed != payment {
                prop_assert!(!is_taken(&mut stage, &changed), "{field}");
            }
        }
    }

    #[test]
    fn a_change_of_any_byte_of_the_signature_is_refused(deal in any_deal(), at in 0_usize..65, mask in 1_u8..) {
        let (mut stage, mut payment) = deal.paid();
        let text = payment["payload"]["signature"].as_str().unwrap().to_owned();
        let mut bytes = hex::decode(&text[2..]).unwrap();
        bytes[at] ^= mask;
        payment["payload"]["signature"] = format!("0x{}", hex::encode(&bytes)).into();
        prop_assert!(!is_taken(&mut stage, &payment));
        bytes.pop();
        payment["payload"]["signature"] = format!("0x{}", hex::encode(&bytes)).into();
        prop_assert!(!is_taken(&mut stage, &payment));
    }

    #[test]
    fn a_change_of_any_accepted_field_is_refused(deal in any_deal(), text in "\\PC{0,12}", other in any::<[u8; 20]>(), number in any::<u64>()) {
        let (mut stage, payment) = deal.paid();
        let address = Address::from_bytes(other).to_string();
        let mut values = vec![
            ("/scheme", json!(text)),
            ("/network", json!(format!("eip155:{number}"))),
            ("/network", json!(text)),
            ("/amount", json!(number.to_string())),
            ("/asset", json!(address)),
            ("/asset", json!(text)),
            ("/payTo", json!(address)),
            ("/maxTimeoutSeconds", json!(number)),
            ("/extra/name", json!(text)),
            ("/extra/version", json!(text)),
        ];
        if deal.is_upfront {
            values.push(("/extra/paymentFlow", json!("authorization")));
        }
        for (pointer, value) in values {
            let mut changed = payment.clone();
            *changed["accepted"].pointer_mut(pointer).unwrap() = value.clone();
            if changed != payment {
                prop_assert!(!is_taken(&mut stage, &changed), "{pointer}: {value}");
            }
        }
        for field in ["scheme", "network", "amount", "asset", "payTo", "maxTimeoutSeconds", "extra"] {
            let mut changed = payment.clone();
            changed["accepted"].as_object_mut().unwrap().remove(field).unwrap();
            prop_assert!(!is_taken(&mut stage, &changed), "without {field}");
        }
    }

    #[test]
    fn a_payment_for_other_terms_is_refused_even_if_it_names_these(deal in any_deal(), other in any_deal(), which in 0_u8..6) {
        // All but one of the terms are the same; the payer signs the other ones, and says to have accepted these.
        let mut elsewhere = deal.clone();
        match which {
            0 => elsewhere.chain_id = other.chain_id,
            1 => elsewhere.asset = other.asset,
            2 => elsewhere.name = other.name,
            3 => elsewhere.version = other.version,
            4 => elsewhere.pay_to = other.pay_to,
            _ => elsewhere.amount = other.amount,
        }
        let (mut stage, here) = deal.paid();
        let (_, mut there) = elsewhere.paid();
        prop_assume!(there["accepted"] != here["accepted"]);
        prop_assert!(!is_taken(&mut stage, &there), "as signed");
        there["accepted"] = here["accepted"].clone();
        prop_assert!(!is_taken(&mut stage, &there), "with these terms");
    }

    #[test]
    fn a_payment_is_of_use_only_in_its_time(deal in any_deal(), after in any::<u64>(), before in any::<u64>(), now in any::<u64>()) {
        let (mut stage, mut payment) = deal.paid();
        payment["payload"]["authorization"]["validAfter"] = after.to_string().into();
        payment["payload"]["authorization"]["validBefore"] = before.to_string().into();
        deal.wallet().sign_payment(&mut payment);
        for now in [now, after, after.saturating_sub(1), before, before.saturating_sub(6), before.saturating_sub(5), before.saturating_sub(4200)] {
            stage.now = now;
            stage.store = MemoryStore::default();
            let longest = now.saturating_add(deal.lifetime.max(3600)).saturating_add(600);
            let is_time = after <= now && before >= now.saturating_add(6) && before <= longest;
            prop_assert_eq!(is_taken(&mut stage, &payment), is_time, "{} {} {}", after, before, now);
        }
    }

    #[test]
    fn signatures_recover_to_their_signer_alone(secret in any::<[u8; 32]>(), digest in any::<[u8; 32]>(), other in any::<[u8; 32]>()) {
        let Some(wallet) = Wallet::from_secret(secret) else { return Ok(()) };
        let signature = Signature::from_bytes(&wallet.sign(&digest)).unwrap();
        prop_assert_eq!(signature.recover(&digest), Ok(wallet.address()));
        if other != digest {
            prop_assert_ne!(signature.recover(&other), Ok(wallet.address()));
        }
    }

    #[test]
    fn digests_differ_by_every_field(deal in any_deal(), at in 0_usize..6, byte in any::<u8>()) {
        let (_, payment) = deal.paid();
        let authorization: Authorization = serde_json::from_value(payment["payload"]["authorization"].clone()).unwrap();
        let mut changed = authorization;
        match at {
            0 => changed.from = Address::from_bytes([byte; 20]),
            1 => changed.to = Address::from_bytes([byte; 20]),
            2 => changed.value = Amount::from(u64::from(byte)),
            3 => changed.valid_after = UnixTime::from_secs(byte.into()).into(),
            4 => changed.valid_before = UnixTime::from_secs(byte.into()).into(),
            _ => changed.nonce = Nonce::from_bytes([byte; 32]),
        }
        let domain = crate::common::separator_of(&payment["accepted"]);
        prop_assert_eq!(changed == authorization, changed.digest(&domain) == authorization.digest(&domain));
    }
}

// ------------------------------------------------------------------------------------------------------------- routing

/// A pattern and whether its route is priced.
type AnyRoute = (String, bool);

fn any_route() -> impl Strategy<Value = AnyRoute> {
    let segment = || select(vec!["a", "b", "weather", "{p}"]);
    let pattern = (vec(segment(), 0..4), any::<bool>(), 0_u8..4).prop_map(|(segments, has_slash, rest)| {
        let path = segments.join("/");
        match (segments.is_empty(), rest) {
            (true, 0) => "/{*rest}".to_owned(),
            (true, _) => "/".to_owned(),
            (false, 0) => format!("/{path}/{{*rest}}"),
            (false, _) if has_slash => format!("/{path}/"),
            (false, _) => format!("/{path}"),
        }
    });
    (pattern, prop::bool::weighted(0.7))
}

/// Paths of the shapes that servers quarrel about.
fn any_tricky_path() -> impl Strategy<Value = String> {
    let plain = select(vec!["a", "b", "weather", "A", "WEATHER", "x", "%61", "%57eather", "weathe%72"]);
    let tricky = select(vec![
        "",
        ".",
        "..",
        "...",
        ";",
        ";x",
        ".;x",
        "..;x",
        "..;",
        "a;x=1",
        "weather;",
        "%2e",
        "%2e%2e",
        ".%2E",
        "%252e%252e",
        "%25252e.",
        "..%3bx",
        "%3b",
        "%",
        "%zz",
        "%2",
        "%00",
        "a%00",
        "%3f",
        "weather%3fq",
        "weather%23",
        "a%2fb",
        "a%2Fweather",
        "a%252fb",
        "a%25252fb",
        "a%5cb",
        "a%255cb",
        "..%2f",
        "%2f..",
        "..%5c",
        "\\",
        "a\\b",
        "..\\a",
        "%c0%af",
    ]);
    let segment = prop_oneof![3 => plain, 2 => tricky];
    let separator = prop_oneof![8 => Just("/"), 1 => Just("//"), 1 => select(vec!["\\", "%2f", "/./", "/;/", "%5C"])];
    let query = select(vec!["", "", "", "?", "?q=/weather", "?/../a"]);
    (vec((separator, segment), 0..6), query).prop_map(|(parts, query)| {
        let path: String = parts.into_iter().flat_map(|(separator, segment)| [separator, segment]).collect();
        format!("/{}{query}", path.trim_start_matches('/'))
    })
}

/// Paths of dots, params and doubled slashes, where the order in which servers deal with them matters.
fn any_dotted_path() -> impl Strategy<Value = String> {
    let segment = select(vec!["a", "b", "weather", "a;x", "..", "..", "..;x", "..;x", ".", ".;x", ";", ""]);
    vec(segment, 0..7).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// All that servers may make of a path, by any of their habits in any order, with up to `decodings` percent-decodings.
fn model_readings(path: &str, decodings: u32) -> BTreeSet<String> {
    const ENOUGH: usize = 3000;
    let habits: [fn(&str) -> String; 4] = [merge_slashes, resolve_dots, strip_params, fold_backslashes];
    let mut readings = BTreeSet::new();
    let mut todo = vec![(path.to_owned(), decodings)];
    while let Some((reading, decodings)) = todo.pop() {
        if readings.len() > ENOUGH || !readings.insert(reading.clone()) {
            continue;
        }
        todo.extend(habits.iter().map(|habit| (habit(&reading), decodings)));
        if let (Some(decodings), Some(decoded)) = (decodings.checked_sub(1), percent_decode(&reading)) {
            todo.push((decoded, decodings));
        }
    }
    readings
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::new();
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged
}

fn resolve_dots(path: &str) -> String {
    let mut resolved: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (position, segment) in segments.iter().enumerate() {
        match *segment {
            "." => {}
            ".." => drop(resolved.pop()),
            segment => resolved.push(segment),
        }
        if position + 1 == segments.len() && matches!(*segment, "." | "..") {
            resolved.push("");
        }
    }
    format!("/{}", resolved.join("/"))
}

fn strip_params(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
    segments.join("/")
}

fn fold_backslashes(path: &str) -> String {
    path.replace('\\', "/")
}

fn drop_last_slash(path: &str) -> String {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path).to_owned()
}

/// Decodes every whole escape once; `None` where the result is no text.
fn percent_decode(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        match escape.and_then(|digits| hex::decode(digits).ok()) {
            Some(byte) => {
                decoded.extend(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// Whether a pattern is for this path, letter by letter.
fn model_matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').skip(1).collect();
    let path: Vec<&str> = path.split('/').skip(1).collect();
    let takes = |(pattern, segment): (&&str, &&str)| *pattern == *segment || (*pattern == "{p}" && !segment.is_empty());
    match pattern.split_last() {
        Some((&"{*rest}", before)) => path.len() > before.len() && before.iter().zip(&path).all(takes),
        _ => pattern.len() == path.len() && pattern.iter().zip(&path).all(takes),
    }
}

/// Whether the operator's own table prices a path that is written like this.
fn model_prices(routes: &[AnyRoute], path: &str) -> bool {
    routes.iter().find(|(pattern, _)| model_matches(pattern, path)).is_some_and(|(_, is_priced)| *is_priced)
}

fn table(routes: &[AnyRoute]) -> RouteTable {
    let route = |(pattern, is_priced): &AnyRoute| {
        let matcher = Matcher { hosts: Vec::new(), methods: Vec::new(), path: Pattern::parse(pattern).unwrap() };
        (matcher, if *is_priced { Access::Priced } else { Access::Free })
    };
    RouteTable::new(routes.iter().map(route).collect())
}

fn decide(table: &RouteTable, path: &str) -> Decision {
    table.decide(Target { method: "GET", authority: "api.example.com", path: path.as_bytes() })
}

/// A reading of `path` that is priced although the table lets the path pass.
fn leak(routes: &[AnyRoute], path: &str) -> Option<String> {
    let decision = decide(&table(routes), path);
    if matches!(decision, Decision::Priced(_) | Decision::Ambiguous) {
        return None;
    }
    let bare = path.split('?').next().unwrap();
    let mut readings = model_readings(bare, 3);
    // What is free by `/docs/{*rest}` stays so at `/docs/`, even if some server takes that for a priced `/docs`.
    if decision == Decision::Unmatched {
        readings.extend(readings.clone().iter().map(|reading| drop_last_slash(reading)));
    }
    readings.extend(readings.clone().into_iter().map(|reading| reading.to_lowercase()));
    // Nobody serves a path that still has dot segments in it.
    let is_resolved = |reading: &&String| !reading.split('/').any(|segment| matches!(segment, "." | ".."));
    readings.iter().filter(is_resolved).find(|reading| model_prices(routes, reading)).cloned()
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn no_reading_of_a_path_that_passes_is_priced(routes in vec(any_route(), 1..5), path in any_tricky_path()) {
        prop_assert_eq!(leak(&routes, &path), None, "{} passes as {:?}", path, decide(&table(&routes), &path));
    }

    #[test]
    fn no_order_of_habits_makes_a_path_pass_that_is_priced(routes in vec(any_route(), 1..4), path in any_dotted_path()) {
        prop_assert_eq!(leak(&routes, &path), None, "{} passes as {:?}", path, decide(&table(&routes), &path));
    }

    #[test]
    fn plain_paths_go_where_the_table_says(routes in vec(any_route(), 1..5), segments in vec(select(vec!["a", "b", "weather", "x"]), 0..4)) {
        let path = format!("/{}", segments.join("/"));
        let first = routes.iter().position(|(pattern, _)| model_matches(pattern, &path));
        let decision = decide(&table(&routes), &path);
        // A priced route also takes what a lenient server would: a final slash more or less, or the root of a rest.
        let is_as_expected = match decision {
            Decision::Priced(found) => first.is_none_or(|first| found <= first) && routes[found].1,
            Decision::Free(found) => first == Some(found) && !routes[found].1,
            Decision::Unmatched => first.is_none(),
            Decision::Ambiguous | Decision::Unsure(_) => false,
        };
        prop_assert!(is_as_expected, "{path} goes to {decision:?}, not to {first:?}");
    }
}

#[test]
fn habits_in_another_order_change_nothing() {
    let priced = |path: &str| vec![(path.to_owned(), true)];
    for (routes, path) in [
        // One server resolves the dots, and the next one drops the params.
        (priced("/a/weather"), "/a;x/..;x/../weather"),
        (priced("/weather"), "/weather/.;x/../;"),
        (priced("/weather"), "/weather/.;x/..;x//.."),
        (priced("/weather"), "/weather;x/a/.."),
        (priced("/weather"), "/weather;x/a/..;y/."),
        // One drops the params, the next one resolves the dots.
        (priced("/weather"), "/a/..;x/weather"),
        // One merges slashes, the next one resolves the dots, and the other way round.
        (priced("/weather"), "/a//../weather"),
        (priced("/a/weather"), "/a//../weather"),
        (priced("/weather"), "/a/;x/../../weather"),
        (priced("/a/weather"), "/a/;x/../weather"),
    ] {
        assert_eq!(leak(&routes, path), None, "{path} for {routes:?}");
    }
}

#[test]
fn habits_make_no_path_belong_where_no_server_takes_it_to() {
    let table = table(&[("/weather".to_owned(), true)]);
    for path in ["/x/weather;v=1", "/x;v=1/weather", "/x/./weather", "/x//weather", "/x/../y/weather", "/weather/x;y"] {
        assert_eq!(decide(&table, path), Decision::Unmatched, "{path}");
    }
}

#[test]
fn a_path_of_too_many_readings_passes_no_price() {
    let table = table(&[("/weather".to_owned(), true)]);
    for path in [
        format!("/weather;{}", "x".repeat(3000)),
        format!("/{}weather", "./".repeat(70)),
        format!("/{}weather", "x;y/../".repeat(30)),
        format!("/{}weather", "a;b/..;c//./".repeat(10)),
    ] {
        assert!(matches!(decide(&table, &path), Decision::Ambiguous | Decision::Priced(0)), "{path}");
    }
    // Length alone makes no path dubious.
    let long = format!("/{}", "x/".repeat(3000));
    assert_eq!(decide(&table, &long), Decision::Unmatched);
}

// -------------------------------------------------------------------------------------------------------------- ledger

/// What a claim is by the rules, told by money and not by states.
#[derive(Debug, Clone, Copy)]
struct Model {
    expires: u64,
    /// When it was made.
    since: u64,
    binding: Binding,
    /// Whether the payment was proven.
    is_proven: bool,
    /// Who holds it, and until when.
    holder: Option<(u64, u64)>,
    /// Whether settlement was asked for, and of how much.
    asked: bool,
    charge: Option<Amount>,
    /// How often it was redeemed after it had settled.
    redeemed: u8,
    /// Whether its response is out, and nothing has settled yet.
    is_open: bool,
    /// When the last who asked went away without an answer.
    forgotten: u64,
    transaction: Option<TransactionId>,
    is_spent: bool,
}

impl Model {
    const DAY: u64 = 24 * 60 * 60;

    /// From when on nobody needs the claim.
    fn needed_until(&self) -> u64 {
        let hold = self.holder.map(|(_, until)| until);
        match (self.is_spent, self.transaction, self.asked) {
            (true, ..) if self.is_open => (self.expires + 60).min(self.since + Self::DAY),
            (true, ..) => self.expires + 60,
            (false, Some(_), _) => hold.unwrap_or(0).max(self.expires) + Self::DAY,
            (false, None, true) => hold.unwrap_or(self.forgotten) + Self::DAY,
            (false, None, false) => hold.unwrap_or(0),
        }
    }
}

/// The claims that stand on one page.
type Models = BTreeMap<u8, Model>;

/// What the ledger should answer; changes the claims as it should.
fn model_perform(claims: &mut Models, payment: u8, owner: u64, operation: Operation, now: u64) -> Answer {
    let old = claims.get(&payment).copied();
    let held = old.filter(|old| old.holder.is_some_and(|(holder, _)| holder == owner) && !old.is_spent);
    let (until, binding) = match operation {
        Operation::Claim { until, binding, .. } | Operation::Resume { until, binding } => {
            (until.as_secs(), Some(binding))
        }
        Operation::Settle { until, .. } | Operation::Redeem { until, .. } => (until.as_secs(), None),
        _ => (0, None),
    };
    let comes_proven = !matches!(operation, Operation::Claim { is_proven: false, .. });
    let holder = Some((owner, until));
    let mut become_granted = |new: Option<Model>| {
        match new {
            Some(new) => drop(claims.insert(payment, new)),
            None => drop(claims.remove(&payment)),
        }
        Answer::Granted
    };
    match (operation, old, held) {
        (Operation::Claim { .. } | Operation::Resume { .. }, Some(old), _)
            if old.is_spent
                || old.asked
                || old.holder.is_some_and(|(holder, until)| until > now && holder != owner)
                    && (old.is_proven || !comes_proven) =>
        {
            let is_same = binding == Some(old.binding);
            if !old.is_spent && old.holder.is_some_and(|(_, until)| until > now) {
                return Answer::InFlight;
            }
            match (old.is_spent, old.transaction, is_same) {
                (true, ..) => Answer::Spent,
                _ if !comes_proven && is_same => Answer::Waiting,
                (false, Some(_), false) => Answer::Spent,
                (false, None, false) => Answer::InFlight,
                (false, Some(_), true) if old.redeemed == 3 => Answer::Exhausted,
                (false, Some(transaction), true) => {
                    become_granted(Some(Model { holder, redeemed: old.redeemed + 1, ..old }));
                    Answer::GrantedSettled(transaction, old.charge)
                }
                (false, None, true) => {
                    become_granted(Some(Model { holder, ..old }));
                    let since = UnixTime::from_secs(old.since);
                    Answer::GrantedUnknown(Unheard { named: None, since, charge: old.charge })
                }
            }
        }
        (Operation::Claim { expires, binding, is_proven, .. }, ..) => {
            claims.retain(|other, claim| *other != payment && claim.needed_until() > now);
            let expires = expires.as_secs();
            let new = Model {
                expires,
                since: now,
                binding,
                is_proven,
                holder,
                charge: None,
                redeemed: 0,
                is_open: false,
                asked: false,
                forgotten: 0,
                transaction: None,
                is_spent: false,
            };
            claims.insert(payment, new);
            Answer::Granted
        }
        (Operation::Look { .. }, Some(old), _) if old.asked && !old.is_spent => Answer::Waiting,
        (Operation::Settle { charge, .. }, _, Some(old)) if old.is_proven && old.transaction.is_none() => {
            become_granted(Some(Model { holder, asked: true, charge, ..old }))
        }
        (Operation::Redeem { transaction, .. }, _, Some(old)) if old.asked && old.transaction.is_none() => {
            become_granted(Some(Model { holder, transaction: Some(transaction), ..old }))
        }
        (Operation::Open, _, Some(old)) if old.is_proven && old.transaction.is_none() => {
            become_granted(Some(Model { is_spent: true, is_open: true, ..old }))
        }
        (Operation::Release | Operation::Abandon, Some(Model { is_open: true, holder: Some((holder, _)), .. }), _)
            if holder == owner =>
        {
            become_granted(None)
        }
        (Operation::Spend { .. }, _, Some(old)) if old.asked => become_granted(Some(Model { is_spent: true, ..old })),
        (Operation::Keep { transaction }, _, Some(old)) if old.asked => {
            become_granted(Some(Model { holder: None, transaction: Some(transaction), ..old }))
        }
        (Operation::Abandon, _, Some(old)) => become_granted(old.transaction.map(|_| Model { holder: None, ..old })),
        (Operation::Release, _, Some(old)) => become_granted(old.transaction.map(|_| Model {
            holder: None,
            redeemed: old.redeemed.saturating_sub(1),
            ..old
        })),
        (Operation::Forget { named: None }, _, Some(old)) if old.asked && old.transaction.is_none() => {
            become_granted(Some(Model { holder: None, forgotten: now, ..old }))
        }
        _ => Answer::NotHeld,
    }
}

/// Three payments that the ledger keeps on one page.
fn neighbours() -> &'static [PaymentKey; 3] {
    static KEYS: OnceLock<[PaymentKey; 3]> = OnceLock::new();
    KEYS.get_or_init(|| {
        let ledger = Ledger::with_room_for(4096);
        let page_of = |key: &PaymentKey| {
            let mut store = MemoryStore::default();
            ledger.perform(&mut store, *key, Owner(1), claim(1, 1, 0), UnixTime::from_secs(0));
            *store.0.keys().next().unwrap()
        };
        let numbered = |number: u32| {
            let mut nonce = [0; 32];
            nonce[..4].copy_from_slice(&number.to_be_bytes());
            let (asset, payer) = (Address::from_bytes([1; 20]), Address::from_bytes([2; 20]));
            PaymentKey::new(&NetworkId::from_chain_id(1), asset, payer, Nonce::from_bytes(nonce))
        };
        let first = numbered(0);
        let page = page_of(&first);
        let mut others = (1..).map(numbered).filter(|key| page_of(key) == page);
        [first, others.next().unwrap(), others.next().unwrap()]
    })
}

/// A claim with one of two bindings, of a payment that is proven.
fn claim(expires: u64, until: u64, binding: u8) -> Operation {
    let (expires, until) = (UnixTime::from_secs(expires), UnixTime::from_secs(until));
    Operation::Claim { expires, until, binding: Binding::new(&[&[binding]]), is_proven: true }
}

/// Payments live for this long, the first for the shortest time.
const LIFETIMES: [u64; 3] = [500, 5_000, 200_000];

/// Which payment, which owner, which operation, with which signature, how long it holds, and how much time passes first.
type AnyOperation = (u8, u64, u8, u8, u64, u64);

fn any_operation() -> impl Strategy<Value = AnyOperation> {
    let passes = prop_oneof![30 => Just(0), 20 => 1_u64..10, 10 => 10_u64..60, 1 => 60_u64..100_000];
    let operation = select(vec![0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11]);
    let signature = prop_oneof![4 => Just(0), 1 => Just(1)];
    (0_u8..3, 0_u64..3, operation, signature, 1_u64..40, passes)
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn the_ledger_keeps_its_rules(operations in vec(any_operation(), 1..80)) {
        let (ledger, mut store) = (Ledger::with_room_for(4096 * 4), MemoryStore::default());
        let mut claims = Models::new();
        let mut now = 0;
        let mut spent: BTreeMap<u8, u64> = BTreeMap::new();
        for (position, (payment, owner, operation, signature, holds, passes)) in (0_u64..).zip(operations) {
            now += passes;
            let until = UnixTime::from_secs(now + holds);
            let mut hash = [1; 32];
            hash[..8].copy_from_slice(&position.to_be_bytes());
            let transaction = TransactionId::from_bytes(hash);
            let expires = LIFETIMES[usize::from(payment)];
            let Operation::Claim { binding: mark, .. } = claim(0, 0, signature) else { panic!("a claim") };
            let operation = match operation {
                0 if expires > now => claim(expires, now + holds, signature),
                10 if expires > now => {
                    Operation::Claim { expires: UnixTime::from_secs(expires), until, binding: mark, is_proven: false }
                }
                // A payment whose validity has ended claims nothing new.
                0 | 7 | 10 => Operation::Resume { until, binding: mark },
                1 => Operation::Settle { until, charge: (signature == 1).then(|| Amount::from(holds)) },
                11 => Operation::Abandon,
                2 => Operation::Redeem { transaction, until },
                3 => Operation::Spend { transaction },
                4 => Operation::Release,
                5 => Operation::Forget { named: None },
                6 => Operation::Keep { transaction },
                9 => Operation::Open,
                _ => Operation::Look { of: None },
            };
            let before = claims.get(&payment).copied();
            let expected = model_perform(&mut claims, payment, owner, operation, now);
            let key = neighbours()[usize::from(payment)];
            let answer = ledger.perform(&mut store, key, Owner(owner), operation, UnixTime::from_secs(now));
            prop_assert_eq!(answer, expected, "{:?} of {} by {} at {} on {:?}", operation, payment, owner, now, before);

            let is_taken = matches!(operation, Operation::Claim { .. } | Operation::Resume { .. })
                && answer.is_granted();
            if is_taken {
                // Never two holders, never after the response was bought, never with another's binding.
                let before = before.filter(|before| before.needed_until() > now);
                let other = before.and_then(|before| before.holder);
                let comes_proven = !matches!(operation, Operation::Claim { is_proven: false, .. });
                let gives_way = before.is_some_and(|before| !before.is_proven && comes_proven);
                prop_assert!(other.is_none_or(|(holder, until)| until <= now || holder == owner) || gives_way);
                prop_assert!(!spent.contains_key(&payment));
                let was_asked = before.filter(|before| before.asked);
                prop_assert!(was_asked.is_none_or(|before| before.binding == mark));
                prop_assert!(was_asked.is_none() || answer != Answer::Granted, "money may have moved");
            }
            if matches!((operation, answer), (Operation::Spend { .. }, Answer::Granted)) {
                prop_assert_eq!(spent.insert(payment, now), None, "a payment buys one response");
            }
        }
        // What was spent stays so as long as the token would take the payment, whoever asks.
        for payment in spent.into_keys() {
            let (key, expires) = (neighbours()[usize::from(payment)], LIFETIMES[usize::from(payment)]);
            let answer = ledger.perform(&mut store, key, Owner(9), claim(expires, now + 1, 0), UnixTime::from_secs(now));
            prop_assert!(answer == Answer::Spent || now >= expires + 60);
        }
    }
}

// --------------------------------------------------------------------------------------------- many requests, one payment

/// How the facilitator takes a payment that has settled already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As the chain does: it refuses.
    Strict,
    /// It says yes once more.
    Idempotent,
    /// It refuses every payment.
    Refusing,
}

/// Three requests with one payment, a facilitator that may stay silent, and an upstream that may fail.
struct World {
    stage: Stage,
    head: RequestHead,
    kind: Kind,
    requests: [Option<Request>; 3],
    has_settled: bool,
    /// Requests that were told to pay, or that they had not paid, after the money had moved.
    told_wrong: Vec<usize>,
}

impl World {
    fn new(config: &Value, kind: Kind) -> Self {
        let mut stage = Stage::new(config);
        let wallet = Wallet::new(1);
        let mut payment = wallet.pay(&entry(&mut stage, "/weather"), 1);
        payment["payload"]["authorization"]["validBefore"] = (NOW + 4_000).to_string().into();
        wallet.sign_payment(&mut payment);
        let head = paid("/weather", &payment);
        Self { stage, head, kind, requests: [None, None, None], has_settled: false, told_wrong: Vec::new() }
    }

    fn served(&self) -> usize {
        let outcomes = self.requests.iter().flatten().filter_map(|request| request.record.as_ref());
        outcomes.filter(|record| record.outcome == Outcome::Served).count()
    }

    fn story(&self) -> String {
        let stories = self.requests.iter().flatten().map(|request| request.story() + "\n");
        format!("{:?}, settled: {}\n{}", self.kind, self.has_settled, stories.collect::<String>())
    }

    /// One step of one request, or a jump of the clock.
    fn act(&mut self, who: u8, how: u8) {
        if who >= 30 {
            return self.jump(how);
        }
        let index = usize::from(who % 3);
        let Some(mut request) = self.requests[index].take() else {
            self.requests[index] = Some(self.stage.arrive(&self.head));
            return;
        };
        let was_answered = request.is_answered();
        if request.is_over() {
        } else if request.is_pending() {
            self.stage.turn(&mut request);
        } else if how == 0 && !request.has_ended {
            self.stage.happen(&mut request, Event::Ended);
        } else {
            let can_respond = request.is_at_upstream() && !request.has_ended;
            let responds = can_respond && (request.call.is_none() || who >= 15);
            let event = match request.call.as_ref().map(|call| call.kind.path()) {
                _ if responds => upstream(if how < 5 { 500 } else { 200 }),
                Some("/verify") => self.verify(how),
                Some(_) => self.settle(how),
                None if request.is_pausing() => Event::Tick,
                None => panic!("nothing is awaited: {}", request.story()),
            };
            self.stage.happen(&mut request, event);
        }
        while request.is_pending() && !request.wants_ledger() {
            self.stage.turn(&mut request);
        }
        if self.has_settled && !was_answered && matches!(request.status(), 402 | 412) {
            self.told_wrong.push(index);
        }
        self.requests[index] = Some(request);
    }

    fn verify(&self, how: u8) -> Event {
        match (how, self.kind) {
            (1, _) => Event::Callout(CalloutAnswer::Lost),
            (_, Kind::Refusing) => invalid("invalid_exact_evm_insufficient_balance"),
            (_, Kind::Strict) if self.has_settled => invalid("invalid_exact_evm_nonce_already_used"),
            _ => valid(),
        }
    }

    fn settle(&mut self, how: u8) -> Event {
        let was_settled = self.has_settled;
        let is_asked = !matches!(how, 1..=3);
        self.has_settled |= is_asked && self.kind != Kind::Refusing;
        match (how, self.kind) {
            (1, _) => Event::Callout(CalloutAnswer::NotSent),
            (2 | 4, _) => answers_with(504, &json!({})),
            (3 | 5, Kind::Strict | Kind::Idempotent) if !was_settled => refused("settlement_pending"),
            (_, Kind::Refusing) => refused("invalid_exact_evm_insufficient_balance"),
            (_, Kind::Strict) if was_settled => refused("invalid_exact_evm_nonce_already_used"),
            _ => settled(),
        }
    }

    /// All holds lapse. No call outlives its timeout, so those under way are lost first.
    fn jump(&mut self, how: u8) {
        if self.requests.iter().flatten().any(Request::is_pending) {
            return;
        }
        for request in self.requests.iter_mut().flatten() {
            if let Some(call) = &request.call {
                let is_asked = how.is_multiple_of(2) && call.kind == CallKind::Settle;
                self.has_settled |= is_asked && self.kind != Kind::Refusing;
                self.stage.happen(request, answers_with(504, &json!({})));
                while self.stage.turn(request) {}
            }
        }
        self.stage.now += 400;
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn one_payment_is_served_once_and_never_asked_for_twice(
        kind in select(vec![Kind::Strict, Kind::Idempotent, Kind::Refusing]),
        settle in select(vec!["after", "before", "concurrent"]),
        is_local in any::<bool>(),
        steps in vec((0_u8..32, 0_u8..16), 0..60),
    ) {
        let mut config = base_config();
        config["defaults"]["settle"] = settle.into();
        config["facilitator"]["verify"] = if is_local { "local".into() } else { "remote".into() };
        let mut world = World::new(&config, kind);
        for (who, how) in steps {
            world.act(who, how);
            prop_assert!(world.served() <= usize::from(world.has_settled), "{}", world.story());
        }
        if world.served() == 0 {
            prop_assert!(world.told_wrong.is_empty(), "{:?}\n{}", world.told_wrong, world.story());
        }
        // The client comes again after all that, everybody does as he should, and it gets what it paid for.
        for request in world.requests.iter_mut().flatten() {
            while world.stage.turn(request) {}
        }
        world.stage.now += 400;
        if world.kind == Kind::Idempotent && world.has_settled {
            let served = world.served();
            let mut again = world.stage.start(&world.head);
            while !again.is_over() {
                let event = match again.call.as_ref().map(|call| call.kind.path()) {
                    Some("/verify") => valid(),
                    Some(_) => settled(),
                    None if again.is_pausing() => Event::Tick,
                    None => upstream(200),
                };
                world.stage.step(&mut again, event);
            }
            let is_served = again.record.as_ref().unwrap().outcome == Outcome::Served;
            prop_assert_eq!(is_served, served == 0, "{}\n{}", again.story(), world.story());
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- charges

fn any_rates() -> impl Strategy<Value = Rates> {
    let rate = any::<[u64; 4]>().prop_map(|[input, cached_input, cache_write, output]| Rate {
        input: U256::from(input) << 16,
        cached_input: U256::from(cached_input) << 16,
        cache_write: U256::from(cache_write) << 16,
        output: U256::from(output) << 16,
    });
    (rate, 0_u64..10_000).prop_map(|(rate, minimum)| Rates { models: vec![rate], minimum: Amount::from(minimum) })
}

/// Tokens of a request, within what fits a few million million.
fn tokens() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..1000, 0_u64..(1 << 40)]
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_charge_for_what_was_quoted_never_exceeds_the_quote(
        rates in any_rates(),
        bounds in [tokens(), tokens()],
        parts in any::<[u16; 4]>(),
    ) {
        let [input, output] = bounds;
        let job = Job { model: String::new(), model_index: 0, input, output, streams: false, wants_usage: false, is_read_whole: false, is_wish_alone: false, wish: None };
        let quote = rates.quote(&job).unwrap();
        let part = |of: u64, part: u16| u64::try_from(u128::from(of) * u128::from(part) / u128::from(u16::MAX)).unwrap();
        let used = part(input, parts[0]);
        let cached = part(used, parts[1]);
        let usage = Usage {
            input: used,
            cached_input: cached,
            cache_write: part(used - cached, parts[2]),
            output: part(output, parts[3]),
        };
        // Not for the bound alone: even without it, what was bought costs no more than was quoted.
        let unbounded = rates.charge(0, usage, Amount::from(U256::MAX));
        prop_assert!(unbounded <= quote);
        prop_assert_eq!(rates.charge(0, usage, quote), unbounded);
        let more = Usage { input: u64::MAX, output: u64::MAX, ..usage };
        prop_assert!(rates.charge(0, more, quote) <= quote);
        prop_assert!(unbounded >= rates.minimum);
    }

    #[test]
    fn more_usage_never_costs_less(rates in any_rates(), usage in [tokens(), tokens()], more in [tokens(), tokens()]) {
        let maximum = Amount::from(U256::MAX);
        let charge = |input, output| rates.charge(0, Usage { input, output, ..Usage::default() }, maximum);
        let [input, output] = usage;
        prop_assert!(charge(input, output) <= charge(input + more[0], output));
        prop_assert!(charge(input, output) <= charge(input, output + more[1]));
    }

    #[test]
    fn however_a_stream_is_cut_it_is_the_same(text in "(data: ?[a-z{}\"]{0,6}|[:a-z]{0,4}|)(\n|\r\n|\r){0,3}(data:x\n\n|\r\r|\n){0,4}", cuts in vec(0_usize..60, 0..6)) {
        let whole = |pieces: &[&[u8]]| {
            let mut splitter = Splitter::default();
            let mut events: Vec<_> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
            events.extend(splitter.finish());
            events
        };
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let events = whole(&pieces);
        prop_assert_eq!(&events, &whole(&[bytes]));
        let raw: Vec<u8> = events.into_iter().flat_map(|event| event.raw).collect();
        prop_assert_eq!(raw, bytes);
    }
}
