//! Several facilitators: who is asked, and what is believed once more than one was.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::exchange::{Event, Outcome};
use x402_proxy_wasm::facilitator::{self, CalloutAnswer, is_failing};

use crate::common::node::{Authorized, Node};
use crate::common::{
    NOW, Request, Stage, TRANSACTION, USDC, Wallet, answers, answers_with, base_config, decode, head, invalid, paid,
    refused, settled, upstream, valid,
};

fn config(settle: &str) -> Value {
    let mut config = base_config();
    config.as_object_mut().unwrap().remove("facilitator");
    config["facilitators"] = json!([
        {"cluster": "one", "url": "http://one"},
        {"cluster": "two", "url": "http://two", "timeout": "3s"},
    ]);
    config["defaults"]["settle"] = settle.into();
    config
}

fn payment(stage: &mut Stage, nonce: u8) -> Value {
    let unpaid = stage.start(&head("GET", "/weather", &[]));
    let terms = decode(unpaid.reply_header("payment-required").unwrap());
    Wallet::new(1).pay(&terms["accepts"][0], nonce)
}

fn play(config: &Value, failing: u32, events: impl IntoIterator<Item = Event>) -> (Stage, Request) {
    let mut stage = Stage::new(config);
    stage.failing = failing;
    let payment = payment(&mut stage, 1);
    let request = stage.play(&paid("/weather", &payment), events);
    (stage, request)
}

/// Whom a request has asked, in order.
fn asked(request: &Request) -> Vec<&str> {
    request.calls.iter().map(|call| call.service.cluster.as_str()).collect()
}

fn lost() -> Event {
    Event::Callout(CalloutAnswer::Lost)
}

fn not_sent() -> Event {
    Event::Callout(CalloutAnswer::NotSent)
}

/// Answers of a server that is not there, or not well.
fn failures() -> Vec<Event> {
    vec![
        lost(),
        not_sent(),
        answers_with(503, &json!({})),
        answers_with(504, &json!({})),
        answers_with(502, &json!({"error": "bad gateway"})),
        answers_with(500, &json!({"success": false, "errorReason": "internal"})),
        answers_with(429, &json!({"error": "slow down"})),
    ]
}

#[test]
fn a_verification_moves_on_where_a_facilitator_fails() {
    for failure in failures() {
        let (_, request) = play(&config("after"), 0, [failure.clone(), valid(), upstream(200), settled()]);
        assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served, "{failure:?}");
        // Who answers next is up to its health, which this request does not judge.
        assert_eq!(asked(&request), ["one", "two", "one"], "{failure:?}");
    }
    let (stage, request) = play(&config("after"), 0, [lost(), lost()]);
    assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Unknown);
    assert_eq!((asked(&request), stage.left(&request)), (vec!["one", "two"], "nothing"));
}

#[test]
fn a_no_of_one_facilitator_is_not_taken_to_another() {
    let (_, request) = play(&config("after"), 0, [invalid("insufficient_funds")]);
    assert_eq!((request.status(), asked(&request)), (402, vec!["one"]));
    let (_, request) = play(&config("before"), 0, [refused("insufficient_funds")]);
    assert_eq!((request.status(), asked(&request)), (402, vec!["one"]));
    // What is not understood says nothing about the server.
    let (_, request) = play(&config("after"), 0, [answers(&json!({"hello": 1}))]);
    assert_eq!((request.status(), asked(&request)), (502, vec!["one"]));
}

#[test]
fn a_settlement_moves_on_and_never_ends_in_terms_once_one_was_asked() {
    for failure in failures() {
        let (_, request) = play(&config("before"), 0, [failure.clone(), settled(), upstream(200)]);
        assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served, "{failure:?}");
        assert_eq!(asked(&request), ["one", "two"]);
        let was_sent = failure != not_sent();
        for reason in ["invalid_exact_evm_nonce_already_used", "insufficient_funds"] {
            let (stage, request) = play(&config("before"), 0, [failure.clone(), refused(reason)]);
            let expected = if was_sent { (502, "unknown") } else { (402, "nothing") };
            assert_eq!((request.status(), stage.left(&request)), expected, "{failure:?}, {reason}");
            assert!(request.reply_header("payment-required").is_none());
        }
        let (stage, request) = play(&config("before"), 0, [failure.clone(), not_sent()]);
        assert_eq!(stage.left(&request), if was_sent { "unknown" } else { "nothing" }, "{failure:?}");
    }
}

#[test]
fn who_has_sent_the_transaction_is_the_one_that_is_asked_again() {
    let pending = |status, transaction| {
        let body = json!({"success": false, "errorReason": "settlement_pending", "transaction": transaction});
        answers_with(status, &body)
    };
    for failing in [0b00, 0b01, 0b10] {
        let (first, other) = if failing == 0b01 { ("two", "one") } else { ("one", "two") };
        for answer in [pending(200, TRANSACTION), pending(500, TRANSACTION), pending(500, ""), pending(503, "")] {
            let events = [answer.clone(), Event::Tick, answer.clone(), Event::Tick, settled(), upstream(200)];
            let (_, request) = play(&config("before"), failing, events);
            assert_eq!(asked(&request), [first, first, first], "{answer:?}");
            assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served);
            // Once it is gone the other one is asked, and never believed that nothing has moved.
            let events = [answer.clone(), Event::Tick, lost(), refused("invalid_exact_evm_nonce_already_used")];
            let (stage, request) = play(&config("before"), failing, events);
            assert_eq!(asked(&request), [first, first, other], "{answer:?}");
            assert_eq!((request.status(), stage.left(&request)), (502, "unknown"));
        }
        // Who failed before it has had its turn.
        let events = [lost(), pending(200, TRANSACTION), Event::Tick, settled(), upstream(200)];
        let (_, request) = play(&config("before"), failing, events);
        assert_eq!(asked(&request), [first, other, other]);
    }
}

#[test]
fn who_may_have_settled_an_unknown_payment_is_asked_before_it_is_given_up() {
    let mut stage = Stage::new(&config("before"));
    let payment = payment(&mut stage, 1);
    let used = || refused("invalid_exact_evm_nonce_already_used");
    let request = stage.play(&paid("/weather", &payment), [lost(), lost()]);
    assert_eq!((request.status(), stage.left(&request)), (502, "unknown"));
    let request = stage.play(&paid("/weather", &payment), [used(), used()]);
    assert_eq!((asked(&request), request.status(), stage.left(&request)), (vec!["one", "two"], 502, "unknown"));
    let request = stage.play(&paid("/weather", &payment), [used(), settled(), upstream(200)]);
    assert_eq!(asked(&request), ["one", "two"], "the second one knows what it has done");
    assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served);
    // The background does not give up either.
    let payment = self::payment(&mut stage, 2);
    let request = stage.play(&paid("/weather", &payment), [lost(), lost()]);
    let mut looking = stage.recover(request.recovery.clone().unwrap());
    while stage.turn(&mut looking) {}
    stage.step(&mut looking, used());
    stage.step(&mut looking, settled());
    assert_eq!((asked(&looking), looking.record.as_ref().unwrap().outcome), (vec!["one", "two"], Outcome::Abandoned));
}

#[test]
fn an_answer_with_a_meaning_is_no_failure_whatever_its_status() {
    let answer = |status, body: &Value| CalloutAnswer::Answered { status, body: body.to_string().into_bytes() };
    for failure in [CalloutAnswer::Lost, CalloutAnswer::NotSent, answer(503, &json!({})), answer(429, &json!([]))] {
        assert!(is_failing(&failure), "{failure:?}");
    }
    for (field, reason, is_failure) in [
        ("errorReason", json!("settlement_pending"), false),
        ("errorReason", json!("insufficient_funds"), false),
        ("invalidReason", json!("invalid_exact_evm_nonce_already_used"), false),
        ("errorReason", json!("unexpected_error"), true),
        ("errorReason", json!({"code": "settlement_pending"}), true),
        ("error", json!("insufficient_funds"), true),
    ] {
        let mut body = json!({"success": false, "isValid": false});
        body[field] = reason;
        assert_eq!(is_failing(&answer(500, &body)), is_failure, "{body}");
        assert!(!is_failing(&answer(400, &body)), "{body}");
    }
}

/// What a facilitator may say to `/settle`, and what follows for a payment of which nothing was heard before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The money has moved.
    Yes,
    /// Nothing was asked, or nothing was or will be sent.
    No,
    /// Nobody knows.
    Nothing,
}

fn sayings() -> Vec<(Event, Said)> {
    let tells = |status, success: bool, reason: &str, transaction: &str| {
        let network = "eip155:84532";
        let body = json!({"success": success, "errorReason": reason, "transaction": transaction, "network": network});
        answers_with(status, &body)
    };
    vec![
        (settled(), Said::Yes),
        (tells(202, true, "", &TRANSACTION[2..]), Said::Yes),
        (not_sent(), Said::No),
        (refused("insufficient_funds"), Said::No),
        (tells(500, false, "invalid_exact_evm_nonce_already_used", ""), Said::No),
        (lost(), Said::Nothing),
        (answers_with(503, &json!({})), Said::Nothing),
        (tells(500, true, "", TRANSACTION), Said::Nothing),
        (tells(200, true, "", ""), Said::Nothing),
        (tells(200, false, "settlement_pending", TRANSACTION), Said::Nothing),
        (tells(500, false, "settlement_pending", ""), Said::Nothing),
        (tells(500, false, "unexpected_error", ""), Said::Nothing),
        (tells(200, false, "insufficient_funds", TRANSACTION), Said::Nothing),
    ]
}

/// Tells a payment's story of so many answers, over as many requests as it takes: terms are given, and the claim is given
/// up, only while no money may have moved; and a response only where somebody says that it has.
fn check_story(config: &Value, failing: u32, story: &[(Event, Said)]) {
    let mut stage = Stage::new(config);
    stage.failing = failing;
    let payment = payment(&mut stage, 1);
    let (mut may_have_moved, mut says_yes) = (false, false);
    let mut answers = story.iter();
    let told: Vec<_> = story.iter().map(|(event, _)| event).collect();
    while answers.len() > 0 {
        let mut request = stage.start(&paid("/weather", &payment));
        while !request.is_over() && !request.is_at_upstream() {
            if request.is_pausing() {
                stage.step(&mut request, Event::Tick);
                continue;
            }
            let Some((event, said)) = answers.next() else { return };
            may_have_moved |= *said != Said::No;
            says_yes |= *said == Said::Yes;
            stage.step(&mut request, event.clone());
        }
        if request.is_at_upstream() {
            assert!(says_yes, "served unpaid: {told:?}");
            return;
        }
        let has_terms = request.status() == 402 || request.reply_header("payment-required").is_some();
        assert!(!has_terms || !may_have_moved, "terms after money may have moved: {told:?}, {}", request.story());
        let expected = if may_have_moved { "unknown" } else { "nothing" };
        assert_eq!(stage.left(&request), expected, "{told:?}, {}", request.story());
        assert!(!may_have_moved || request.recovery.is_some(), "nobody looks into it: {told:?}");
    }
}

#[test]
fn no_order_of_answers_gives_terms_after_money_may_have_moved_or_a_response_for_nothing() {
    let (config, sayings) = (config("before"), sayings());
    // Of the third answer, some of each kind are enough.
    let last: Vec<_> = sayings.iter().step_by(2).cloned().collect();
    for first in &sayings {
        for second in &sayings {
            for third in &last {
                check_story(&config, 0, &[first.clone(), second.clone(), third.clone()]);
            }
        }
    }
}

#[test]
fn what_the_first_may_have_done_is_found_by_the_chain() {
    let mut config = config("before");
    config["rpc"] = json!({"base-sepolia": {"cluster": "node", "url": "http://node:8545"}});
    let mut stage = Stage::new(&config);
    let payment = payment(&mut stage, 1);
    let authorized = Authorized(&payment["payload"]["authorization"]);
    let mut node = Node::new(2000, NOW);
    node.mine(NOW, vec![authorized.settles(USDC, TRANSACTION)]);
    let mut request = stage.start(&paid("/weather", &payment));
    stage.step(&mut request, lost());
    stage.step(&mut request, refused("invalid_exact_evm_nonce_already_used"));
    while let Some(call) = request.call.clone().filter(|call| call.service.cluster == "node") {
        stage.step(&mut request, node.answer(&call));
    }
    stage.step(&mut request, upstream(200));
    assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served, "{}", request.story());
    assert_eq!(asked(&request)[..2], ["one", "two"]);
}

#[test]
fn who_did_not_answer_lately_is_asked_last() {
    let (_, request) = play(&config("after"), 0b01, [valid(), upstream(200), settled()]);
    assert_eq!((asked(&request), request.record.as_ref().unwrap().outcome), (vec!["two", "two"], Outcome::Served));
    let (_, request) = play(&config("after"), 0b01, [lost(), valid(), upstream(200), settled()]);
    assert_eq!(asked(&request), ["two", "one", "two"]);
    let (_, request) = play(&config("after"), 0b11, [valid(), upstream(200), settled()]);
    assert_eq!(asked(&request), ["one", "one"], "one of them has to be asked");
}

#[test]
fn each_is_asked_for_its_networks_and_schemes_alone() {
    let mut config = config("after");
    config["facilitators"][0]["networks"] = json!(["base"]);
    config["facilitators"][1]["schemes"] = json!(["exact"]);
    let (_, request) = play(&config, 0, [valid(), upstream(200), settled()]);
    assert_eq!(asked(&request), ["two", "two"]);
    config["facilitators"][1]["networks"] = json!(["eip155:1"]);
    let error = Config::from_json(config.to_string().as_bytes()).unwrap_err().to_string();
    assert!(error.contains("scheme exact on eip155:84532, which no facilitator is for"), "{error}");
}

#[test]
fn a_list_that_makes_no_sense_is_refused() {
    let refusal = |change: fn(&mut Value)| {
        let mut config = config("after");
        change(&mut config);
        Config::from_json(config.to_string().as_bytes()).unwrap_err().to_string()
    };
    let both = refusal(|config| config["facilitator"] = json!({"cluster": "one", "url": "http://one"}));
    assert!(both.starts_with("facilitators: stands beside facilitator"), "{both}");
    let none = refusal(|config| config["facilitators"] = json!([]));
    assert!(none.starts_with("facilitators: is empty"), "{none}");
    let network = refusal(|config| config["facilitators"][1]["networks"] = json!(["nowhere"]));
    assert!(network.starts_with("facilitators[1].networks[0]: "), "{network}");
    let failures = refusal(|config| config["facilitators"][1]["max_failures"] = json!(0));
    assert!(failures.starts_with("facilitators[1].max_failures: is 0"), "{failures}");
    let url = refusal(|config| config["facilitators"][1]["url"] = json!("two"));
    assert!(url.starts_with("facilitators[1].url: "), "{url}");
}

#[test]
fn the_claim_is_held_for_as_long_as_all_of_them_may_take() {
    let (mut stage, mut request) = play(&config("before"), 0, []);
    stage.now += 13;
    let payment = payment(&mut stage, 1);
    let meanwhile = stage.start(&paid("/weather", &payment));
    assert_eq!(meanwhile.status(), 409, "the first request may still be at the second facilitator");
    stage.step(&mut request, lost());
    stage.step(&mut request, settled());
    stage.step(&mut request, upstream(200));
    assert_eq!(request.record.as_ref().unwrap().outcome, Outcome::Served);
}

#[test]
fn what_is_wrong_with_the_connection_to_a_facilitator_is_said_in_words() {
    let report = |url: &str, body: &str| {
        let mut config = base_config();
        config["facilitator"]["url"] = url.into();
        let config = Config::from_json(config.to_string().as_bytes()).unwrap();
        let answer = CalloutAnswer::Answered { status: 503, body: body.as_bytes().to_vec() };
        facilitator::report(&config.facilitators[0].service, "/settle", &answer)
    };
    let failed = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    let tls = |error: &str| {
        let told = format!(
            "{failed}, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:{error}:TLS_error_end"
        );
        report("https://facilitator.example.com", &told)
    };
    let chain =
        "CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 0:";
    for (error, words) in [
        // A certificate may have any name.
        (
            "CERTIFICATE_VERIFY_FAILED:verify cert failed: SAN matcher, certificate SANs are [has expired]",
            "its certificate is for another name",
        ),
        ("CERTIFICATE_VERIFY_FAILED:verify cert failed: verify SAN list", "its certificate is for another name"),
        (&format!("{chain} certificate has expired"), "its certificate has expired"),
        (
            &format!("{chain} unable to get local issuer certificate"),
            "nobody who is trusted vouches for its certificate",
        ),
        (&format!("{chain} self signed certificate"), "nobody who is trusted vouches for its certificate"),
        ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "its TLS fails"),
    ] {
        let line = tls(error);
        let target = "https://facilitator.example.com/settle (cluster facilitator)";
        assert_eq!(line, format!("{target} answered 503: {words} ({error}:TLS_error_end)"));
    }
    assert!(tls(&"x".repeat(10_000)).len() < 400);
    // Where the proxy keeps the reason to itself.
    assert!(
        report("https://facilitator.example.com", failed)
            .contains("the proxy's stats cluster.facilitator.ssl tell why")
    );
    assert!(!report("http://facilitator.example.com", failed).contains("ssl"));
}
