//! Bundles: bought by one payment, used up by signing in. Played on a stage.

use crate::common::{
    PAY_TO, Request, Stage, Wallet, base_config, decode, encode, head, paid, refused, settled, upstream, valid,
};
use crate::sign_in::answer;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Body, CallKind, Event, Outcome, RequestHead, UpstreamHead};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::ledger::Answer;

const HEADER: &str = "sign-in-with-x";

fn config(bundle: Value) -> Value {
    let mut config = base_config();
    config["routes"][0]["match"] = json!({"path": "/weather/{*rest}"});
    config["routes"][0]["bundle"] = bundle;
    config
}

fn calls(calls: u64) -> Value {
    json!({"calls": calls, "price": "$0.0025", "lasts": "600s"})
}

fn terms(stage: &mut Stage, path: &str) -> Value {
    stage.draw += 1;
    decode(stage.start(&head("GET", path, &[])).reply_header("payment-required").unwrap())
}

/// A payment for the bundle, with a request to the path.
fn payment(stage: &mut Stage, wallet: &Wallet, path: &str, nonce: u8) -> Value {
    wallet.pay(&terms(stage, path)["accepts"][1], nonce)
}

fn buy(stage: &mut Stage, wallet: &Wallet, nonce: u8) -> Request {
    let payment = payment(stage, wallet, "/weather/a", nonce);
    let request = stage.play(&paid("/weather/a", &payment), [valid(), upstream(200), settled()]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    request
}

/// A head by which a wallet signs in.
fn signed_in(stage: &mut Stage, wallet: &Wallet, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let proof = encode(&answer(wallet, &terms(stage, path)));
    head("GET", path, &[headers, &[(HEADER, &proof)]].concat())
}

/// A wallet comes back as the official client does.
fn come_back(stage: &mut Stage, wallet: &Wallet, path: &str) -> Request {
    let head = signed_in(stage, wallet, path, &[]);
    stage.start(&head)
}

fn use_once(stage: &mut Stage, wallet: &Wallet, status: u16) -> Request {
    let mut request = come_back(stage, wallet, "/weather/b");
    assert!(request.forwarded.is_some(), "{}", request.story());
    stage.step(&mut request, upstream(status));
    request
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().unwrap_or_else(|| panic!("{}", request.story())).outcome
}

fn left(request: &Request) -> Option<&str> {
    request.receipt_header("x-x402-remaining")
}

#[test]
fn a_bundle_is_a_second_entry_that_names_what_it_holds() {
    let mut stage = Stage::new(&config(calls(3)));
    let terms = terms(&mut stage, "/weather/a");
    let accepts = terms["accepts"].as_array().unwrap();
    assert_eq!(accepts.len(), 2);
    assert_eq!((&accepts[0]["amount"], &accepts[1]["amount"]), (&json!("1000"), &json!("2500")));
    assert_eq!(accepts[0]["extra"], json!({"name": "USDC", "version": "2"}));
    assert_eq!(accepts[1]["extra"], json!({"name": "USDC", "version": "2", "bundle": {"calls": 3, "lasts": 600}}));
    assert!(terms["extensions"][HEADER].is_object());
    // Version 1 knows no extensions, and so no bundles.
    let request = stage.start(&head("GET", "/weather/a", &[]));
    assert_eq!(request.body()["accepts"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bundle_is_used_up_call_by_call() {
    let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
    assert_eq!(come_back(&mut stage, &wallet, "/weather/a").status(), 402);
    let bought = buy(&mut stage, &wallet, 1);
    assert!(
        bought.story().ends_with("settle? | buy left 2, spend granted, = served, deliver with receipt"),
        "{}",
        bought.story()
    );
    assert_eq!(left(&bought), Some("2"));
    assert!(bought.delivered.as_ref().unwrap().add.iter().any(|(_, value)| value == "X-X402-REMAINING"));
    let visit = use_once(&mut stage, &wallet, 200);
    assert_eq!(
        visit.story(),
        "balance left 2, note once granted, take left 1, forward | charge left 1, = signed_in, deliver with receipt"
    );
    assert_eq!(left(&visit), Some("1"));
    let edits = visit.forwarded.as_ref().unwrap();
    assert_eq!(edits.remove, [HEADER]);
    let names: Vec<&str> = edits.set.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["x-x402-payer", "x-x402-id"]);
    let record = visit.record.as_ref().unwrap();
    assert!(record.visitor.is_some() && record.payment.is_none());
    assert!(visit.calls.is_empty() && visit.receipt_header("cache-control") == Some("private"));
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("0"));
    let over = come_back(&mut stage, &wallet, "/weather/a");
    assert_eq!((over.status(), outcome(&over)), (402, Outcome::Unpaid));
    let again = decode(over.reply_header("payment-required").unwrap());
    assert_eq!(again["accepts"].as_array().unwrap().len(), 2);
    assert_eq!(come_back(&mut stage, &Wallet::new(2), "/weather/a").status(), 402);
}

#[test]
fn a_failed_call_takes_nothing() {
    let (mut stage, wallet) = (Stage::new(&config(calls(2))), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    for status in [400, 404, 500, 503] {
        let failed = use_once(&mut stage, &wallet, status);
        assert_eq!((outcome(&failed), left(&failed)), (Outcome::UpstreamFailed, Some("1")), "{}", failed.story());
    }
    for end in [Event::Ended, Event::Redirected] {
        let mut gone = come_back(&mut stage, &wallet, "/weather/b");
        stage.step(&mut gone, end);
        assert!(gone.story().ends_with("give back left 1, = left"), "{}", gone.story());
        assert!(gone.is_over());
    }
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("0"));
}

#[test]
fn two_requests_at_once_do_not_take_the_last_call_twice() {
    let (mut stage, wallet) = (Stage::new(&config(calls(2))), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    let heads = [1, 2].map(|_| signed_in(&mut stage, &wallet, "/weather/b", &[]));
    let mut requests = heads.map(|head| stage.arrive(&head));
    // Both see that a call is left, and each has signed a message of its own.
    for request in &mut requests {
        assert!(stage.turn(request) && stage.turn(request));
    }
    for request in &mut requests {
        while stage.turn(request) {}
    }
    let [first, second] = requests;
    assert!(first.forwarded.is_some() && second.forwarded.is_none());
    assert_eq!((second.status(), outcome(&second)), (402, Outcome::Unpaid));
}

#[test]
fn a_message_is_good_for_one_call() {
    let (mut stage, wallet) = (Stage::new(&config(calls(5))), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    let head = signed_in(&mut stage, &wallet, "/weather/b", &[]);
    let first = stage.play(&head, [upstream(200)]);
    assert_eq!(left(&first), Some("3"));
    let again = stage.start(&head);
    assert_eq!((again.status(), again.reason()), (402, "invalid_siwx_nonce"));
    // Nothing of it was set aside.
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("2"));
}

#[test]
fn bundles_add_up_and_last_as_long_as_the_last() {
    let mut config = config(calls(2));
    config["routes"][0]["max_timeout_seconds"] = 3600.into();
    let (mut stage, wallet) = (Stage::new(&config), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    stage.now += 200;
    assert_eq!(left(&buy(&mut stage, &wallet, 2)), Some("2"));
    stage.now += 599;
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("1"));
    stage.now += 1;
    assert_eq!(come_back(&mut stage, &wallet, "/weather/b").status(), 402);
    // What has ended does not come back with the next one.
    assert_eq!(left(&buy(&mut stage, &wallet, 3)), Some("1"));
}

#[test]
fn a_bundle_is_the_payers_on_the_route_and_by_its_terms() {
    let mut two = config(calls(5));
    let mut twin = two["routes"][0].clone();
    (twin["name"], twin["match"]["path"]) = ("twin".into(), "/twin/{*rest}".into());
    two["routes"].as_array_mut().unwrap().push(twin);
    let (mut stage, wallet) = (Stage::new(&two), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    assert!(come_back(&mut stage, &wallet, "/weather/quite/another").forwarded.is_some());
    assert_eq!(come_back(&mut stage, &wallet, "/twin/a").status(), 402);
    let mut dearer = two.clone();
    dearer["routes"][0]["price"] = "$0.002".into();
    stage.config = crate::common::read_config(&dearer);
    assert_eq!(come_back(&mut stage, &wallet, "/weather/a").status(), 402);
    stage.config = crate::common::read_config(&two);
    stage.secret = [8; 32];
    assert_eq!(come_back(&mut stage, &wallet, "/weather/a").status(), 402);
}

#[test]
fn a_payment_adds_to_a_bundle_once() {
    let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
    let payment = payment(&mut stage, &wallet, "/weather/a", 1);
    // The answer of /settle is lost, and the payment comes again.
    let lost = stage.play(&paid("/weather/a", &payment), [valid(), upstream(200), Event::Callout(CalloutAnswer::Lost)]);
    assert_eq!(outcome(&lost), Outcome::Unknown, "{}", lost.story());
    assert_eq!(come_back(&mut stage, &wallet, "/weather/a").status(), 402);
    let again = stage.play(&paid("/weather/a", &payment), [settled(), upstream(200)]);
    assert_eq!((outcome(&again), left(&again)), (Outcome::Served, Some("2")), "{}", again.story());
    assert!(again.receipt_header("payment-response").is_some());
    let spent = stage.start(&paid("/weather/a", &payment));
    assert_eq!((spent.status(), outcome(&spent)), (402, Outcome::Spent));
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("1"));
    // A refused settlement buys nothing.
    let other = Wallet::new(3);
    let payment = self::payment(&mut stage, &other, "/weather/a", 2);
    let unpaid = stage.play(&paid("/weather/a", &payment), [valid(), upstream(200), refused("insufficient_funds")]);
    assert_eq!(unpaid.status(), 402, "{}", unpaid.story());
    assert_eq!(come_back(&mut stage, &other, "/weather/a").status(), 402);
}

#[test]
fn what_is_settled_first_is_bought_whatever_becomes_of_the_request() {
    for (settle, events) in [
        ("before", vec![settled(), upstream(500)]),
        ("concurrent", vec![settled(), upstream(500)]),
        ("concurrent", vec![upstream(500), settled()]),
    ] {
        let mut config = config(calls(3));
        config["routes"][0]["settle"] = settle.into();
        let (mut stage, wallet) = (Stage::new(&config), Wallet::new(1));
        let payment = payment(&mut stage, &wallet, "/weather/a", 1);
        let failed = stage.play(&paid("/weather/a", &payment), events);
        assert_eq!(outcome(&failed), Outcome::SettledUpstreamFailed, "{settle}: {}", failed.story());
        assert_eq!(left(&failed), Some("3"), "{settle}: {}", failed.story());
        assert!(failed.receipt_header("payment-response").is_some());
        assert_eq!(outcome(&stage.start(&paid("/weather/a", &payment))), Outcome::Spent);
        assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("2"));
    }
    for (settle, events) in [
        ("before", vec![settled(), upstream(200)]),
        ("concurrent", vec![settled(), upstream(200)]),
        ("concurrent", vec![upstream(200), settled()]),
    ] {
        let mut config = config(calls(3));
        config["routes"][0]["settle"] = settle.into();
        let (mut stage, wallet) = (Stage::new(&config), Wallet::new(1));
        let payment = payment(&mut stage, &wallet, "/weather/a", 1);
        let served = stage.play(&paid("/weather/a", &payment), events);
        assert_eq!((outcome(&served), left(&served)), (Outcome::Served, Some("2")), "{settle}: {}", served.story());
        assert!(served.receipt_header("payment-response").is_some() && served.is_over());
    }
    // A client that leaves has its bundle all the same.
    for (settle, events) in [
        ("before", vec![Event::Ended, settled()]),
        ("before", vec![settled(), Event::Ended]),
        ("after", vec![valid(), upstream(200), Event::Ended, settled()]),
    ] {
        let mut config = config(calls(3));
        config["routes"][0]["settle"] = settle.into();
        let (mut stage, wallet) = (Stage::new(&config), Wallet::new(1));
        let payment = payment(&mut stage, &wallet, "/weather/a", 1);
        let gone = stage.play(&paid("/weather/a", &payment), events);
        assert_eq!(outcome(&gone), Outcome::Abandoned, "{settle}: {}", gone.story());
        assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("2"), "{settle}: {}", gone.story());
    }
}

#[test]
fn what_the_ledger_did_not_take_is_not_lost() {
    for forced in [Answer::Failed, Answer::Full] {
        let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
        let payment = payment(&mut stage, &wallet, "/weather/a", 1);
        stage.forced = Some(("buy", forced));
        let failed = stage.play(&paid("/weather/a", &payment), [valid(), upstream(200), settled()]);
        assert_eq!((failed.status(), outcome(&failed)), (502, Outcome::Unknown), "{}", failed.story());
        stage.forced = None;
        let again = stage.play(&paid("/weather/a", &payment), [settled(), upstream(200)]);
        assert_eq!((outcome(&again), left(&again)), (Outcome::Served, Some("2")), "{}", again.story());
    }
    for (forced, status) in [("balance", 503), ("note once", 503), ("take", 503)] {
        let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
        buy(&mut stage, &wallet, 1);
        let head = signed_in(&mut stage, &wallet, "/weather/a", &[]);
        stage.forced = Some((forced, Answer::Failed));
        let request = stage.start(&head);
        assert_eq!((request.status(), request.forwarded.is_some()), (status, false), "{}", request.story());
    }
    let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    stage.forced = Some(("charge", Answer::Failed));
    let unheard = use_once(&mut stage, &wallet, 200);
    assert_eq!((unheard.status(), outcome(&unheard)), (503, Outcome::Overloaded), "{}", unheard.story());
    assert!(unheard.delivered.is_none());
    stage.forced = None;
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("1"), "what was set aside is given back");
}

#[test]
fn a_response_that_comes_late_is_given_only_for_what_is_left() {
    let (mut stage, wallet) = (Stage::new(&config(calls(2))), Wallet::new(1));
    buy(&mut stage, &wallet, 1);
    let mut slow = come_back(&mut stage, &wallet, "/weather/a");
    stage.now += 400;
    // The hold of the slow one has ended, and another request has its call.
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("0"));
    stage.step(&mut slow, upstream(200));
    assert_eq!((slow.status(), slow.reason()), (402, "bundle_used_up"), "{}", slow.story());
}

#[test]
fn an_entry_without_its_bundle_and_an_edited_one_are_told_apart() {
    let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
    let terms = terms(&mut stage, "/weather/a");
    // A client that drops what it does not know has chosen by the amount.
    let mut entry = terms["accepts"][1].clone();
    entry["extra"].as_object_mut().unwrap().remove("bundle");
    let payment = wallet.pay(&entry, 1);
    let bought = stage.play(&paid("/weather/a", &payment), [valid(), upstream(200), settled()]);
    assert_eq!(left(&bought), Some("2"), "{}", bought.story());
    entry["extra"]["bundle"] = json!({"calls": 1000, "lasts": 600});
    let refused = stage.start(&paid("/weather/a", &wallet.pay(&entry, 2)));
    assert_eq!((refused.status(), refused.calls.len()), (402, 0), "{}", refused.story());
    // Whoever pays for one call gets one call, whatever the entry is called.
    let mut entry = terms["accepts"][0].clone();
    entry["extra"]["bundle"] = json!({"calls": 3, "lasts": 600});
    let other = Wallet::new(2);
    let single = stage.play(&paid("/weather/a", &other.pay(&entry, 3)), [valid(), upstream(200), settled()]);
    assert_eq!((outcome(&single), left(&single)), (Outcome::Served, None), "{}", single.story());
    assert_eq!(come_back(&mut stage, &other, "/weather/a").status(), 402);
}

#[test]
fn a_contract_wallet_is_not_sold_what_it_cannot_use() {
    let mut config = config(calls(3));
    config["defaults"]["accepts"][0]["contract_wallets"] = true.into();
    let (mut stage, wallet) = (Stage::new(&config), Wallet::new(1));
    let terms = terms(&mut stage, "/weather/a");
    for (entry, status) in [(0, 0), (1, 402)] {
        let mut payment = wallet.pay(&terms["accepts"][entry], 1);
        payment["payload"]["authorization"]["from"] = PAY_TO.into();
        let request = stage.start(&paid("/weather/a", &payment));
        assert_eq!(request.status(), status, "{}", request.story());
        if status == 402 {
            assert_eq!((request.reason(), request.calls.len()), ("bundle_needs_sign_in", 0));
        }
    }
}

#[test]
fn credit_is_used_by_the_price_of_each_call() {
    let (mut stage, wallet) = (Stage::new(&config(json!({"credit": "$0.0025", "lasts": "600s"}))), Wallet::new(1));
    let entry = terms(&mut stage, "/weather/a")["accepts"][1].clone();
    assert_eq!(
        (&entry["amount"], &entry["extra"]["bundle"]),
        (&json!("2500"), &json!({"credit": "2500", "lasts": 600}))
    );
    assert_eq!(left(&buy(&mut stage, &wallet, 1)), Some("1500"));
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("500"));
    assert_eq!(come_back(&mut stage, &wallet, "/weather/a").status(), 402);
    assert_eq!(left(&buy(&mut stage, &wallet, 2)), Some("2000"));
    // Credit is worth itself, whatever the prices become.
    let mut dearer = config(json!({"credit": "$0.0025", "lasts": "600s"}));
    dearer["routes"][0]["price"] = "$0.0015".into();
    stage.config = crate::common::read_config(&dearer);
    assert_eq!(left(&use_once(&mut stage, &wallet, 200)), Some("500"));
}

// ------------------------------------------------------------------------------------------------------------ by tokens

fn chat_config() -> Value {
    let mut config = base_config();
    config["routes"] = json!([{
        "name": "chat",
        "match": {"path": "/chat"},
        "price": {
            "usage": "openai",
            "models": {"gpt-4o": {"input": "$1", "output": "$10"}},
            "max_output_tokens": 100,
        },
        "bundle": {"credit": "$0.01", "lasts": "3600s"},
    }]);
    config
}

fn body(stream: bool) -> (String, Event) {
    let text =
        json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}).to_string();
    let event = Event::RequestBody(Body::Whole(text.as_bytes().to_vec()));
    (text, event)
}

fn chat_terms(stage: &mut Stage) -> Value {
    stage.draw += 1;
    let request = stage.play(&head("POST", "/chat", &[]), [body(false).1]);
    decode(request.reply_header("payment-required").unwrap())
}

/// Buys credit for a cent, and gives what is left: the first call takes its quote.
fn buy_chat(stage: &mut Stage, wallet: &Wallet) -> u64 {
    let terms = chat_terms(stage);
    let payment = encode(&wallet.pay(&terms["accepts"][1], 1));
    let head = head("POST", "/chat", &[("payment-signature", &payment)]);
    let request = stage.play(&head, [body(false).1, valid(), upstream(200), settled()]);
    let quote: u64 = terms["accepts"][0]["amount"].as_str().unwrap().parse().unwrap();
    let left: u64 = left(&request).unwrap_or_else(|| panic!("{}", request.story())).parse().unwrap();
    assert_eq!(left, 10_000 - quote);
    left
}

fn come_to_chat(stage: &mut Stage, wallet: &Wallet, stream: bool) -> Request {
    let proof = encode(&answer(wallet, &chat_terms(stage)));
    stage.play(&head("POST", "/chat", &[(HEADER, &proof)]), [body(stream).1])
}

const USAGE: &str =
    r#"{"choices":[{"message":{"content":"Hello"}}],"usage":{"prompt_tokens":20,"completion_tokens":3}}"#;

#[test]
fn credit_pays_what_a_response_has_used() {
    let (mut stage, wallet) = (Stage::new(&chat_config()), Wallet::new(1));
    let left_before = buy_chat(&mut stage, &wallet);
    let mut visit = come_to_chat(&mut stage, &wallet, false);
    let edits = visit.forwarded.clone().unwrap_or_else(|| panic!("{}", visit.story()));
    assert!(edits.set.contains(&("accept-encoding", "identity".to_owned())), "what is compressed cannot be counted");
    stage.step(&mut visit, upstream(200));
    stage.step(&mut visit, Event::ResponseBody(Body::Whole(USAGE.as_bytes().to_vec())));
    assert_eq!(outcome(&visit), Outcome::SignedIn, "{}", visit.story());
    // 20 tokens at $1 a million, and 3 at $10.
    assert_eq!(left(&visit), Some(&*(left_before - 50).to_string()));
    // An error inside a 200 costs nothing.
    let mut failed = come_to_chat(&mut stage, &wallet, false);
    stage.step(&mut failed, upstream(200));
    stage.step(&mut failed, Event::ResponseBody(Body::Whole(br#"{"error":{"message":"no"}}"#.to_vec())));
    assert_eq!((outcome(&failed), left(&failed)), (Outcome::UpstreamFailed, Some(&*(left_before - 50).to_string())));
}

#[test]
fn a_stream_is_charged_at_its_end_and_to_who_leaves() {
    let (mut stage, wallet) = (Stage::new(&chat_config()), Wallet::new(1));
    let before = buy_chat(&mut stage, &wallet);
    let events = || {
        let Event::Upstream(head) = upstream(200) else { panic!("a response") };
        Event::Upstream(UpstreamHead { is_event_stream: true, ..head })
    };
    let chunk = |text: &str, is_last| Event::ResponseChunk { bytes: text.as_bytes().to_vec(), is_last };
    let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let mut visit = come_to_chat(&mut stage, &wallet, true);
    // The filter asks for the usage in the client's stead.
    assert!(String::from_utf8(visit.rewrite.clone().unwrap()).unwrap().contains("include_usage"));
    stage.step(&mut visit, events());
    let aside: u64 = left(&visit).unwrap().parse().unwrap();
    assert!(aside < before && visit.tail.is_none());
    stage.step(&mut visit, chunk(piece, false));
    // What streams for long stays set aside.
    stage.now += 300;
    stage.step(&mut visit, chunk(piece, false));
    assert!(visit.story().ends_with(&format!("renew left {aside}")), "{}", visit.story());
    // However long it is silent.
    stage.now += 300;
    stage.step(&mut visit, Event::Tick);
    assert_eq!(visit.story().matches("renew left").count(), 2, "{}", visit.story());
    let mut other = come_to_chat(&mut stage, &wallet, false);
    assert!(other.story().contains(&format!("balance left {aside}")), "{}", other.story());
    stage.step(&mut other, Event::Ended);
    stage.step(
        &mut visit,
        chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":2}}\n\n", false),
    );
    stage.step(&mut visit, chunk("data: [DONE]\n\n", true));
    let tail = visit.tail.clone().unwrap();
    let left_now = (before - 40).to_string();
    assert_eq!(tail.trailers, [("x-x402-remaining", left_now.clone())]);
    assert_eq!(tail.comment, format!(": x-x402-remaining {left_now}\n\n"));
    assert_eq!(outcome(&visit), Outcome::SignedIn);
    stage.now += 1;
    let mut gone = come_to_chat(&mut stage, &wallet, true);
    stage.step(&mut gone, events());
    stage.step(&mut gone, chunk(piece, false));
    stage.step(&mut gone, Event::Ended);
    assert_eq!(outcome(&gone), Outcome::Billed, "{}", gone.story());
    assert!(gone.story().contains("charge left"), "{}", gone.story());
    // What is out is charged, though the ledger is silent when it ends.
    for leaves in [false, true] {
        stage.now += 1;
        let mut visit = come_to_chat(&mut stage, &wallet, true);
        let aside: u64 = left(&visit).map_or(0, |left| left.parse().unwrap());
        stage.step(&mut visit, events());
        stage.step(&mut visit, chunk(piece, false));
        stage.forced = Some(("charge", Answer::Failed));
        let end = if leaves { Event::Ended } else { chunk("data: [DONE]\n\n", true) };
        stage.step(&mut visit, end);
        stage.forced = None;
        let expected = if leaves { Outcome::Billed } else { Outcome::SignedIn };
        assert_eq!(outcome(&visit), expected, "{}", visit.story());
        assert!(visit.story().contains("charge failed") && visit.story().contains("charge left"), "{}", visit.story());
        assert!(visit.is_over() && aside < before, "{}", visit.story());
    }
}

#[test]
fn a_request_that_costs_more_than_the_credit_is_not_offered_it() {
    let mut config = chat_config();
    config["routes"][0]["price"]["max_output_tokens"] = 100_000.into();
    let mut stage = Stage::new(&config);
    assert_eq!(chat_terms(&mut stage)["accepts"].as_array().unwrap().len(), 1);
    // Nor is it served for the credit that was bought with a smaller one.
    let (mut stage, wallet) = (Stage::new(&chat_config()), Wallet::new(1));
    let payment = encode(&wallet.pay(&chat_terms(&mut stage)["accepts"][1], 1));
    let large = json!({"model": "gpt-4o", "messages": [], "max_tokens": 100_000}).to_string();
    let head = head("POST", "/chat", &[("payment-signature", &payment)]);
    let refused = stage.play(&head, [Event::RequestBody(Body::Whole(large.into_bytes()))]);
    assert_eq!((refused.status(), refused.calls.len()), (402, 0), "{}", refused.story());
}

#[test]
fn the_facilitator_is_asked_about_the_bundles_entry() {
    let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
    let bought = buy(&mut stage, &wallet, 1);
    let call = bought.calls.iter().find(|call| call.kind == CallKind::Settle).unwrap();
    let question: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(question["paymentRequirements"]["amount"], "2500");
    assert_eq!(question["paymentRequirements"]["extra"]["bundle"], json!({"calls": 3, "lasts": 600}));
    assert_eq!(bought.settlements.len(), 1);
    assert_eq!(bought.settlements[0].payment.amount.to_string(), "2500");
}

#[test]
fn in_shadow_nobody_buys_or_uses_anything() {
    let mut shadow = config(calls(3));
    shadow["mode"] = "shadow".into();
    let (mut stage, wallet) = (Stage::new(&config(calls(3))), Wallet::new(1));
    let head = signed_in(&mut stage, &wallet, "/weather/a", &[]);
    stage.config = crate::common::read_config(&shadow);
    let request = stage.start(&head);
    assert!(request.forwarded.is_some(), "{}", request.story());
    assert_eq!(stage.store.0.len(), 0);
}
