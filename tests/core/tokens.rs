//! Requests priced by tokens: quotes from the body, and charges by what was used. Played on a stage.

use crate::common::{
    NOW, PAY_TO, Request, Stage, TRANSACTION, USDC, Wallet, base_config, decode, encode, head, refused, settled,
    supported, upstream, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Body, CallKind, Event, Outcome, RequestHead, UpstreamHead};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::metadata::MetadataKey;

/// One route, `/chat`, by tokens of three models, and one, `/flat`, with a maximum and the upstream's word.
fn config(scheme: &str) -> Value {
    let mut config = base_config();
    config["defaults"]["accepts"] = json!([{"scheme": scheme, "network": "base-sepolia", "asset": "USDC"}]);
    config["routes"] = json!([
        {
            "name": "chat",
            "match": {"path": "/chat"},
            "price": {
                "usage": "openai",
                "models": {
                    "gpt-4o": {"input": "$2.50", "cached_input": "$1.25", "output": "$10.00"},
                    "llama-3*": {"input": "$0.20", "output": "$0.20"},
                },
                "max_output_tokens": 1000,
                "minimum": "$0.0001",
            },
        },
        {"name": "flat", "match": {"path": "/flat"}, "price": "$0.10", "settlement_overrides": true},
    ]);
    config
}

fn chat(more: Value) -> String {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn body(text: &str) -> Event {
    Event::RequestBody(Body::Whole(text.as_bytes().to_vec()))
}

fn post(path: &str, headers: &[(&str, &str)]) -> RequestHead {
    head("POST", path, headers)
}

/// Asks for the terms of a body.
fn quote(stage: &mut Stage, text: &str) -> Value {
    let request = stage.play(&post("/chat", &[]), [body(text)]);
    assert_eq!(request.status(), 402, "{}", request.story());
    decode(request.reply_header("payment-required").unwrap())["accepts"][0].clone()
}

fn answer(content_type: &str) -> Event {
    let Event::Upstream(head) = upstream(200) else { panic!("a response") };
    Event::Upstream(UpstreamHead { is_event_stream: content_type == "text/event-stream", ..head })
}

fn weighed(text: &str) -> Event {
    Event::ResponseBody(Body::Whole(text.as_bytes().to_vec()))
}

fn chunk(text: &str, is_last: bool) -> Event {
    Event::ResponseChunk { bytes: text.as_bytes().to_vec(), is_last }
}

/// What the last `/settle` was asked to move.
fn asked_to_settle(request: &Request) -> String {
    let call =
        request.calls.iter().rev().find(|call| call.kind == CallKind::Settle).expect("a settlement is asked for");
    let question: Value = serde_json::from_str(&call.body).unwrap();
    question["paymentRequirements"]["amount"].as_str().unwrap().to_owned()
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().expect("an outcome").outcome
}

/// A stage, a payment for a body by this scheme, and the head that carries it.
fn paying(scheme: &str, text: &str) -> (Stage, RequestHead) {
    let mut stage = Stage::new(&config(scheme));
    let entry = quote(&mut stage, text);
    let payment = Wallet::new(1).pay(&entry, 1);
    (stage, post("/chat", &[("payment-signature", &encode(&payment))]))
}

fn usage(input: u64, cached: u64, output: u64) -> Value {
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

// ---------------------------------------------------------------------------------------------------------- quotes

#[test]
fn a_quote_is_the_most_that_a_request_can_cost() {
    let mut stage = Stage::new(&config("exact"));
    for (more, output) in [
        (json!({}), 1000),
        (json!({"max_tokens": 10}), 10),
        (json!({"max_completion_tokens": 10}), 10),
        (json!({"max_tokens": 10, "max_completion_tokens": 20}), 20),
        (json!({"max_tokens": null}), 1000),
        (json!({"max_tokens": 10, "n": 3}), 30),
        (json!({"max_tokens": 10, "n": 2, "best_of": 5}), 50),
        (json!({"max_tokens": 10, "prompt": ["a", "b", "c"]}), 30),
        (json!({"max_tokens": 10, "prompt": [1, 2, 3]}), 10),
        (json!({"max_tokens": 10, "prompt": "a"}), 10),
        (json!({"max_output_tokens": 7}), 1000),
        (json!({"max_output_tokens": 7, "messages": null, "input": "a"}), 7),
        (json!({"max_tokens": 7, "messages": null, "input": "a"}), 1000),
        (json!({"max_completion_tokens": 7, "messages": null, "prompt": "a"}), 1000),
        (json!({"max_tokens": 7, "input": "a"}), 1000),
        (json!({"max_tokens": 0}), 1000),
        (json!({"max_tokens": -1}), 1000),
        (json!({"max_tokens": 1, "n_predict": 800}), 800),
    ] {
        let text = chat(more);
        let entry = quote(&mut stage, &text);
        // $2.50 a million is 2.5 units of a USDC for a token, and a byte is a token at most.
        let cost = (text.len() * 25 + output * 100).div_ceil(10).max(100);
        assert_eq!(entry["amount"], cost.to_string(), "{text}");
    }
    let cheap = chat(json!({"model": "llama-3-8b", "max_tokens": 1}));
    assert_eq!(quote(&mut stage, &cheap)["amount"], "100", "the minimum");
}

#[test]
fn the_worked_example_of_the_readme_is_right() {
    let padded = |model: &str, bytes: usize| {
        let text = json!({"model": model, "max_tokens": 500, "messages": [], "user": ""}).to_string();
        text.replace("\"user\":\"\"", &format!("\"user\":\"{}\"", "x".repeat(bytes - text.len())))
    };
    for (model, quoted, used, charged) in [
        ("gpt-4o", "6000", usage(90, 0, 210), "2325"),
        ("gpt-4o", "6000", usage(90, 64, 210), "2245"),
        ("llama-3-8b", "180", usage(90, 0, 210), "100"),
    ] {
        let text = padded(model, 400);
        let (mut stage, head) = paying("upto", &text);
        assert_eq!((text.len(), &quote(&mut stage, &text)["amount"]), (400, &json!(quoted)));
        let response = json!({"usage": used}).to_string();
        let request = stage.play(&head, [body(&text), valid(), answer("application/json"), weighed(&response)]);
        assert_eq!(asked_to_settle(&request), charged, "{model}");
    }
}

#[test]
fn requests_without_a_price_are_refused() {
    for (text, error) in [
        ("", "is not JSON that can be read in one way only"),
        ("[]", "the body is not a JSON object"),
        ("{}", "model is missing"),
        (r#"{"model":"gpt-4o","model":"llama-3"}"#, "stands twice"),
        (r#"{"model":"gpt-4o","Model":"llama-3"}"#, "some servers take the key \"Model\" for another"),
        (r#"{"model":"gpt-4o","MAX_TOKENS":1}"#, "some servers take the key"),
        (r#"{"model":"gpt-5"}"#, "the model \"gpt-5\" has no price here; these have: gpt-4o, llama-3*"),
        (r#"{"model":["gpt-4o"]}"#, "model is missing, or not a text"),
        (r#"{"model":"gpt-4o","max_tokens":-3}"#, "max_tokens is not a whole number"),
        (r#"{"model":"gpt-4o","max_tokens":1e3}"#, "max_tokens is not a whole number"),
        (r#"{"model":"gpt-4o","max_tokens":"10"}"#, "max_tokens is not a whole number"),
        (r#"{"model":"gpt-4o","n":0}"#, "n is 0"),
        (r#"{"model":"gpt-4o","stream":"yes"}"#, "stream is neither true nor false"),
        (r#"{"model":"gpt-4o","stream":true,"stream_options":{"Include_Usage":true}}"#, "some servers take the key"),
        (r#"{"model":"gpt-4o","max_tokens":18446744073709551615,"n":2}"#, "more than can be priced"),
        (r#"{"model":"gpt-4o","messages":null,"messages":[]}"#, "stands twice"),
        (r#"{"model":"gpt-4o","m\u006fdel":"llama-3"}"#, "stands twice"),
        (r#"{"model":"gpt-4o","Input":"a"}"#, "some servers take the key \"Input\" for another"),
        (r#"{"model":"gpt-4o","stream_options":{"include_usage":true,"include_usage":false}}"#, "stands twice"),
        (r#"{"model":"gpt-4o","messages":[{"content":"cut \ud83d"}]}"#, "cut texts between letters"),
        (r#"{"model":"gpt-4o","messages":[{"content":"\ude00\ud83d"}]}"#, "cut texts between letters"),
        (r#"{"model":"gpt-4o"} x"#, "is not JSON that can be read in one way only"),
        (r#"{"model":"gpt-4o","messages":['"],"model":"llama-3"}"#, "is not JSON that can be read in one way only"),
        (r#"{"model":"gpt-4o"/*,"model":"llama-3"*/}"#, "is not JSON that can be read in one way only"),
        (&format!(r#"{{"model":"{}"}}"#, "a".repeat(513)), "model is longer than 512 bytes"),
        (&format!(r#"{{"model":"gpt-4o","{}model":"llama-3"}}"#, "_".repeat(100_000)), "some servers take the key"),
        (&format!(r#"{{"model":"gpt-4o","x":[{}0]}}"#, "0,".repeat(300_000)), "too many keys and values"),
        (&format!(r#"{{"model":"gpt-4o",{}"x":0}}"#, "\"a\":0,".repeat(10_000)), "too many keys and values"),
    ] {
        let mut stage = Stage::new(&config("exact"));
        let request = stage.play(&post("/chat", &[]), [body(text)]);
        assert_eq!(request.status(), 400, "{text}: {}", request.story());
        assert!(request.body()["error"].as_str().unwrap().contains(error), "{text}: {}", request.body());
        assert!(request.body().to_string().len() < 1000, "{text}");
        assert_eq!(request.reply_header("payment-required"), None);
    }
}

#[test]
fn what_cannot_change_a_price_may_stand_twice() {
    // Nor is half a letter what only looks like one.
    let plain = chat(json!({"messages": [{"content": "\\ud83d \u{1f600} x"}]})).replace('\u{1f600}', "\\ud83d\\ude00");
    quote(&mut Stage::new(&config("exact")), &plain);
    let plain = quote(&mut Stage::new(&config("exact")), &chat(json!({"metadata": {"a": 1, "b": 2}})));
    let twice = chat(json!({"metadata": {"a": 1, "b": 2}})).replace("\"b\"", "\"a\"");
    assert_eq!(quote(&mut Stage::new(&config("exact")), &twice), plain);
}

#[test]
fn bodies_that_cannot_be_read_are_refused() {
    let mut stage = Stage::new(&config("exact"));
    assert_eq!(stage.start(&post("/chat", &[])).story(), "read 1048576");
    assert_eq!(stage.start(&post("/chat", &[("content-encoding", "gzip")])).status(), 415);
    assert_eq!(stage.start(&post("/chat", &[("content-encoding", "identity")])).story(), "read 1048576");
    assert_eq!(stage.start(&post("/chat", &[("content-length", "1048577")])).status(), 413);
    assert_eq!(stage.play(&post("/chat", &[]), [Event::RequestBody(Body::TooLong)]).status(), 413);
    let hidden = stage.play(&post("/chat", &[]), [Event::RequestBody(Body::Unreachable)]);
    assert_eq!(hidden.status(), 503);
    assert!(hidden.reason().contains("allow_on_headers_stop_iteration"));
    let left = stage.play(&post("/chat", &[]), [Event::Ended]);
    assert!(left.is_over() && !left.is_answered());
}

#[test]
fn a_payment_for_a_small_prompt_does_not_buy_a_large_one() {
    let small = chat(json!({"max_tokens": 10}));
    let (mut stage, head) = paying("exact", &small);
    let large = chat(json!({"max_tokens": 1000}));
    let refused = stage.play(&head, [body(&large)]);
    assert_eq!(refused.body()["error"], "No matching payment requirements");
    let served = stage.play(&head, [body(&small), valid(), upstream(200), settled()]);
    assert_eq!(outcome(&served), Outcome::Served);
    assert_eq!(served.rewrite, None, "the bytes that were priced are the bytes that go up");
}

// ------------------------------------------------------------------------------------------------------------ upto

#[test]
fn the_charge_is_what_was_used() {
    let text = chat(json!({"max_tokens": 500}));
    for (response, charge) in [
        (json!({"usage": usage(20, 0, 100)}), "1050"),
        (json!({"usage": usage(20, 20, 100)}), "1025"),
        (json!({"usage": {"input_tokens": 20, "output_tokens": 100}}), "1050"),
        (json!({"usage": {"prompt_tokens": 20, "total_tokens": 20}}), "100"),
        (json!({"usage": usage(1, 0, 10)}), "103"),
    ] {
        let (mut stage, head) = paying("upto", &text);
        let request = stage
            .play(&head, [body(&text), valid(), answer("application/json"), weighed(&response.to_string()), settled()]);
        assert_eq!(
            request.story(),
            "read 1048576 | claim granted, verify? | claim granted, forward | read 16777216 | settle granted, settle? | spend granted, = served, deliver with receipt"
        );
        assert_eq!(asked_to_settle(&request), charge, "{response}");
        let receipt = decode(request.receipt_header("payment-response").unwrap());
        assert_eq!((&receipt["amount"], &receipt["transaction"]), (&json!(charge), &json!(TRANSACTION)));
        assert_eq!(request.record.as_ref().unwrap().payment.as_ref().unwrap().amount.to_string(), charge);
        assert!(request.forwarded.as_ref().unwrap().set.contains(&("accept-encoding", "identity".to_owned())));
        assert_eq!(stage.left(&request), "spent");
    }
}

#[test]
fn the_charge_never_exceeds_the_quote() {
    let text = chat(json!({"max_tokens": 5}));
    let (mut stage, head) = paying("upto", &text);
    let maximum = quote(&mut stage, &text)["amount"].as_str().unwrap().to_owned();
    let response = json!({"usage": usage(1_000_000, 0, 1_000_000)}).to_string();
    let request = stage.play(&head, [body(&text), valid(), answer("application/json"), weighed(&response), settled()]);
    assert_eq!(asked_to_settle(&request), maximum);
}

#[test]
fn a_response_without_usage_costs_the_maximum() {
    let text = chat(json!({"max_tokens": 5}));
    for response in [
        weighed("{}"),
        weighed("no JSON"),
        weighed(r#"{"usage":{"prompt_tokens":"a few","completion_tokens":1}}"#),
        Event::ResponseBody(Body::TooLong),
    ] {
        let (mut stage, head) = paying("upto", &text);
        let maximum = quote(&mut stage, &text)["amount"].as_str().unwrap().to_owned();
        let request = stage.play(&head, [body(&text), valid(), answer("application/json"), response, settled()]);
        assert_eq!(asked_to_settle(&request), maximum);
    }
}

#[test]
fn an_error_of_the_upstream_costs_nothing() {
    let text = chat(json!({}));
    let (mut stage, head) = paying("upto", &text);
    let request = stage.play(&head, [body(&text), valid(), upstream(500)]);
    assert!(request.story().ends_with("release granted, = upstream_failed, deliver"));
    assert_eq!(stage.left(&request), "nothing");
}

#[test]
fn a_compressed_response_is_not_billed_blindly() {
    let text = chat(json!({}));
    let (mut stage, head) = paying("upto", &text);
    let Event::Upstream(response) = upstream(200) else { panic!("a response") };
    let encoded = Event::Upstream(UpstreamHead { is_encoded: true, ..response });
    let request = stage.play(&head, [body(&text), valid(), encoded]);
    assert!(request.story().ends_with("release granted, = upstream_failed, reply 502"), "{}", request.story());
}

#[test]
fn a_response_without_a_body_has_used_nothing() {
    let text = chat(json!({}));
    let (mut stage, head) = paying("upto", &text);
    let Event::Upstream(response) = upstream(204) else { panic!("a response") };
    let empty = Event::Upstream(UpstreamHead { has_body: false, ..response });
    let request = stage.play(&head, [body(&text), valid(), empty, settled()]);
    assert_eq!(asked_to_settle(&request), "100", "but the minimum");
}

#[test]
fn the_upstream_may_name_the_charge_where_it_is_let() {
    for (word, charge) in [
        (Some(r#"{"amount":"2500"}"#), Some("2500")),
        (Some(r#"{"amount":"25%"}"#), Some("25000")),
        (Some(r#"{"amount":"33.33%"}"#), Some("33330")),
        (Some(r#"{"amount":"$0.05"}"#), Some("50000")),
        (Some(r#"{"amount":"999999999"}"#), Some("100000")),
        (Some(r#"{}"#), Some("100000")),
        (None, Some("100000")),
        (Some(r#"{"amount":"a lot"}"#), None),
        (Some("x"), None),
        (Some(r#"{"amount":7}"#), None),
    ] {
        let mut stage = Stage::new(&config("upto"));
        let unpaid = stage.start(&post("/flat", &[]));
        let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
        assert_eq!(entry["amount"], "100000");
        let head = post("/flat", &[("payment-signature", &encode(&Wallet::new(1).pay(&entry, 1)))]);
        let Event::Upstream(response) = upstream(200) else { panic!("a response") };
        let settlement_overrides = word.map(str::to_owned);
        let response = Event::Upstream(UpstreamHead { settlement_overrides, ..response });
        let request = stage.play(&head, [valid(), response]);
        let Some(charge) = charge else {
            assert!(request.story().ends_with("reply 502"), "{word:?}: {}", request.story());
            continue;
        };
        assert_eq!(asked_to_settle(&request), charge, "{word:?}");
        stage.step(&mut { request }, settled());
    }
}

#[test]
fn a_charge_of_nothing_settles_nothing() {
    let mut stage = Stage::new(&config("upto"));
    let unpaid = stage.start(&post("/flat", &[]));
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let head = post("/flat", &[("payment-signature", &encode(&Wallet::new(1).pay(&entry, 1)))]);
    let Event::Upstream(response) = upstream(200) else { panic!("a response") };
    let settlement_overrides = Some(r#"{"amount":"0"}"#.to_owned());
    let request = stage.play(&head, [valid(), Event::Upstream(UpstreamHead { settlement_overrides, ..response })]);
    assert!(request.story().ends_with("release granted, = served, deliver with receipt"), "{}", request.story());
    let receipt = decode(request.receipt_header("payment-response").unwrap());
    assert_eq!((&receipt["amount"], &receipt["transaction"]), (&json!("0"), &json!("")));
    assert!(request.delivered.as_ref().unwrap().remove.contains(&"settlement-overrides"));
    assert_eq!(
        stage.left(&request),
        "nothing",
        "what cost nothing takes no place, and the payment is as good as before"
    );
}

// --------------------------------------------------------------------------------------------------------- streams

const EVENTS: [&str; 5] = [
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":100}}\n\n",
    "data: [DONE]\n\n",
];

/// Plays a stream from its first byte to its last, in pieces.
fn stream(stage: &mut Stage, head: &RequestHead, text: &str, pieces: &[&str]) -> Request {
    let mut request = stage.play(head, [body(text), valid(), answer("text/event-stream")]);
    for (index, piece) in pieces.iter().enumerate() {
        stage.step(&mut request, chunk(piece, index + 1 == pieces.len()));
    }
    request
}

#[test]
fn a_stream_streams_and_is_charged_at_its_end() {
    let text = chat(json!({"max_tokens": 500, "stream": true, "stream_options": {"include_usage": true}}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stream(&mut stage, &head, &text, &EVENTS);
    assert_eq!(
        request.story(),
        "read 1048576 | claim granted, verify? | claim granted, forward | open granted, deliver with receipt | settle?"
    );
    assert_eq!(request.receipt_header("payment-response"), None, "nobody knows it yet");
    assert_eq!(request.receipt_header("cache-control"), Some("private"));
    assert_eq!((asked_to_settle(&request).as_str(), request.passed.as_slice()), ("1050", &b""[..]));
    assert_eq!(request.rewrite, None, "the client asked for the usage itself");
    stage.step(&mut request, settled());
    assert!(request.story().ends_with("= served, finish"), "{}", request.story());
    let tail = request.tail.as_ref().unwrap();
    let comment: Value = serde_json::from_str(tail.comment.strip_prefix(": payment-response ").unwrap()).unwrap();
    assert_eq!((&comment["amount"], &comment["transaction"]), (&json!("1050"), &json!(TRANSACTION)));
    assert!(tail.comment.ends_with("}\n\n"));
    assert_eq!(decode(&tail.trailers[0].1), comment);
    assert_eq!(stage.play(&head, [body(&text)]).status(), 402);
}

#[test]
fn the_usage_is_asked_for_in_the_clients_stead_and_kept_from_it() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (_, head) = paying("upto", &text);
    let whole = EVENTS.concat();
    for size in 1..whole.len() {
        let pieces: Vec<String> =
            whole.as_bytes().chunks(size).map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let mut stage = Stage::new(&config("upto"));
        let request = stream(&mut stage, &head, &text, &pieces);
        let sent: Value = serde_json::from_slice(request.rewrite.as_ref().unwrap()).unwrap();
        assert_eq!(sent["stream_options"], json!({"include_usage": true}));
        let mut asked: Value = serde_json::from_str(&text).unwrap();
        asked["stream_options"] = sent["stream_options"].clone();
        assert_eq!(sent, asked, "and nothing else is changed");
        assert_eq!(asked_to_settle(&request), "1050");
        let seen = String::from_utf8(request.passed).unwrap();
        assert_eq!(seen, [EVENTS[0], EVENTS[1], EVENTS[2], EVENTS[4]].concat(), "in pieces of {size}");
    }
}

#[test]
fn the_wish_for_usage_leaves_everything_else_to_the_letter() {
    for (asked, sent) in [
        (
            r#"{ "model":"gpt-4o","messages":[ {"role":"user", "content":"a\u0062"} ], "stream" : true }"#,
            r#"{ "model":"gpt-4o","messages":[ {"role":"user", "content":"a\u0062"} ], "stream" : true ,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"gpt-4o","stream_options" : { } ,"a":1,"a":2,"messages":[],"stream":true}"#,
            r#"{"model":"gpt-4o","stream_options" : {"include_usage":true } ,"a":1,"a":2,"messages":[],"stream":true}"#,
        ),
        (
            r#"{"model":"gpt-4o","stream_options":{ "x":1.50},"messages":[],"stream":true}"#,
            r#"{"model":"gpt-4o","stream_options":{"include_usage":true, "x":1.50},"messages":[],"stream":true}"#,
        ),
        (
            r#"{"model":"gpt-4o","stream_options":{"x":1.50,"include_usage":false},"messages":[],"stream":true}"#,
            r#"{"model":"gpt-4o","stream_options":{"x":1.50,"include_usage":true},"messages":[],"stream":true}"#,
        ),
        (
            r#"{"model":"gpt-4o","stream_options":null,"prompt":"a","stream":true}"#,
            r#"{"model":"gpt-4o","stream_options":{"include_usage":true},"prompt":"a","stream":true}"#,
        ),
    ] {
        let (mut stage, head) = paying("upto", asked);
        let request = stage.play(&head, [body(asked)]);
        assert_eq!(String::from_utf8(request.rewrite.unwrap()).unwrap(), sent);
    }
    for asked in [
        r#"{"model":"gpt-4o","input":"a","stream":true}"#,
        r#"{"model":"gpt-4o","messages":[]}"#,
        r#"{"model":"gpt-4o","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
    ] {
        let (mut stage, head) = paying("upto", asked);
        assert_eq!(stage.play(&head, [body(asked)]).rewrite, None, "{asked}");
    }
}

#[test]
fn what_leaves_before_it_is_settled_is_always_verified() {
    let text = chat(json!({}));
    for (scheme, story) in [("upto", "claim granted, verify?"), ("exact", "claim granted, forward")] {
        let mut local = config(scheme);
        local["facilitator"]["verify"] = "local".into();
        let mut stage = Stage::new(&local);
        let entry = quote(&mut stage, &text);
        let head = post("/chat", &[("payment-signature", &encode(&Wallet::new(1).pay(&entry, 1)))]);
        assert!(stage.play(&head, [body(&text)]).story().ends_with(story), "{scheme}");
    }
}

#[test]
fn a_client_that_leaves_pays_for_what_was_generated() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream"), chunk(EVENTS[0], false)]);
    stage.step(&mut request, chunk(EVENTS[1], false));
    stage.step(&mut request, Event::Ended);
    // The prompt as long as it can be, and an event is a token.
    let charge = (text.len() * 25 + 2 * 100).div_ceil(10);
    assert_eq!(asked_to_settle(&request), charge.to_string());
    stage.step(&mut request, settled());
    assert!(request.story().ends_with("settle? | = billed"), "{}", request.story());
    assert_eq!(stage.play(&head, [body(&text)]).status(), 402);
}

#[test]
fn the_settlement_of_a_stream_is_not_given_up() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stream(&mut stage, &head, &text, &EVENTS);
    stage.step(&mut request, Event::Callout(CalloutAnswer::Lost));
    assert!(request.story().ends_with("= unknown, finish"), "{}", request.story());
    assert_eq!(request.tail.as_ref().unwrap().trailers, []);
    let recovery = request.recovery.take().expect("it is asked for again");
    stage.now += 5;
    let mut pursuit = stage.recover(recovery);
    assert_eq!(pursuit.story(), "settle?");
    assert_eq!(asked_to_settle(&pursuit), "1050", "the same charge");
    stage.step(&mut pursuit, settled());
    assert!(pursuit.story().ends_with("= billed"), "{}", pursuit.story());
}

#[test]
fn a_stream_whose_settlement_is_refused_ends_without_a_receipt() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stream(&mut stage, &head, &text, &EVENTS);
    stage.step(&mut request, refused("permit2_insufficient_balance"));
    assert_eq!(outcome(&request), Outcome::Refused);
    let tail = request.tail.as_ref().unwrap();
    assert_eq!(decode(&tail.trailers[0].1)["success"], false);
    assert!(tail.comment.starts_with(": payment {\"error\""), "{}", tail.comment);
    assert_eq!(request.recovery, None);
}

#[test]
fn a_stream_that_would_outlive_its_payment_is_cut_while_it_can_be_paid_for() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream"), chunk(EVENTS[0], false)]);
    stage.now = NOW + 300 - 6 - 11 - 3;
    stage.step(&mut request, Event::Tick);
    assert!(request.story().ends_with("cut"), "{}", request.story());
    assert!(request.calls.iter().any(|call| call.kind == CallKind::Settle));
    stage.step(&mut request, Event::Ended);
    stage.step(&mut request, settled());
    assert_eq!(outcome(&request), Outcome::Billed);
}

#[test]
fn what_is_charged_without_usage_is_the_operators_choice() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let mut rule = config("upto");
    rule["routes"][0]["price"]["missing_usage"] = "maximum".into();
    let mut stage = Stage::new(&rule);
    let entry = quote(&mut stage, &text);
    let head = post("/chat", &[("payment-signature", &encode(&Wallet::new(1).pay(&entry, 1)))]);
    let request = stream(&mut stage, &head, &text, &EVENTS[..2]);
    assert_eq!(asked_to_settle(&request), entry["amount"].as_str().unwrap());
}

// ----------------------------------------------------------------------------------------------- unknown settlements

#[test]
fn an_unknown_settlement_is_asked_for_again_as_it_was_charged() {
    let text = chat(json!({"max_tokens": 500}));
    let [response, dearer] = [100, 400].map(|output| json!({"usage": usage(20, 0, output)}).to_string());
    let lost = || Event::Callout(CalloutAnswer::Lost);
    let start = |stage: &mut Stage, head: &RequestHead| {
        let request = stage.play(head, [body(&text), valid(), answer("application/json"), weighed(&response), lost()]);
        assert!(request.story().ends_with("forget granted, = unknown, reply 502"), "{}", request.story());
        assert_eq!(asked_to_settle(&request), "1050");
        request
    };
    let (mut stage, head) = paying("upto", &text);
    start(&mut stage, &head);
    let mut again = stage.play(&head, [body(&text)]);
    assert_eq!(asked_to_settle(&again), "1050", "nobody verifies what may have settled, and nothing else is charged");
    for event in [settled(), answer("application/json"), weighed(&dearer)] {
        stage.step(&mut again, event);
    }
    assert_eq!((again.status(), again.reason()), (409, "redeemed_response_costs_more"), "{}", again.story());
    let again = stage.play(&head, [body(&text), answer("application/json"), weighed(&response)]);
    assert_eq!(outcome(&again), Outcome::Served, "{}", again.story());

    // A refusal may mean that it has settled; and an error of the upstream, or a client that leaves, loses nothing.
    let (mut stage, head) = paying("upto", &text);
    start(&mut stage, &head);
    let again = stage.play(&head, [body(&text), refused("permit2_invalid_nonce")]);
    assert_eq!((again.status(), outcome(&again)), (502, Outcome::Unknown), "{}", again.story());
    assert_eq!(stage.left(&again), "unknown");
    for end in [upstream(500), Event::Ended] {
        let again = stage.play(&head, [body(&text), settled(), end]);
        assert_eq!(stage.left(&again), "settled", "{}", again.story());
    }

    // Nobody has to come again for it to be found out.
    let (mut stage, head) = paying("upto", &text);
    let recovery = start(&mut stage, &head).recovery.unwrap();
    let mut looking = stage.recover(recovery);
    while stage.turn(&mut looking) {}
    assert_eq!(asked_to_settle(&looking), "1050");
    stage.step(&mut looking, settled());
    assert_eq!(outcome(&looking), Outcome::Abandoned);
}

// ------------------------------------------------------------------------------------------- who settles, who is paid

#[test]
fn upto_is_offered_once_it_is_known_who_settles() {
    let text = chat(json!({}));
    let mut stage = Stage::new(&config("upto"));
    stage.supported = supported(&[]);
    let request = stage.play(&post("/chat", &[]), [body(&text)]);
    assert_eq!((request.status(), request.reply_header("retry-after")), (503, Some("1")));

    let mut both = config("upto");
    both["defaults"]["accepts"] = json!([
        {"scheme": "upto", "network": "base-sepolia", "asset": "USDC"},
        {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
    ]);
    let mut stage = Stage::new(&both);
    let schemes = |stage: &mut Stage| {
        let request = stage.play(&post("/chat", &[]), [body(&text)]);
        let terms = decode(request.reply_header("payment-required").unwrap());
        let entries = terms["accepts"].as_array().unwrap().clone();
        entries.iter().map(|entry| entry["scheme"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(schemes(&mut stage), ["upto", "exact"]);
    stage.supported = supported(&[]);
    assert_eq!(schemes(&mut stage), ["exact"]);
}

#[test]
fn the_entry_is_as_the_official_server_writes_it() {
    let text = chat(json!({"max_tokens": 10}));
    let mut stage = Stage::new(&config("upto"));
    let entry = quote(&mut stage, &text);
    assert_eq!(
        entry,
        json!({
            "scheme": "upto", "network": "eip155:84532", "amount": entry["amount"], "asset": USDC, "payTo": PAY_TO,
            "maxTimeoutSeconds": 300,
            "extra": {
                "name": "USDC", "version": "2", "assetTransferMethod": "permit2",
                "facilitatorAddress": crate::common::FACILITATOR,
            },
        })
    );
}

#[test]
fn any_recipient_of_a_split_may_be_paid_and_no_other() {
    let (first, second) = ("0x1111111111111111111111111111111111111111", "0x2222222222222222222222222222222222222222");
    let mut split = base_config();
    split["defaults"]["pay_to"] = json!({"split": [{"to": first, "weight": 3}, {"to": second}]});
    let mut stage = Stage::new(&split);
    let mut entries = Vec::new();
    for draw in 0..4 {
        stage.draw = draw;
        let unpaid = stage.start(&head("GET", "/weather", &[]));
        entries.push(decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone());
    }
    let drawn: Vec<&str> = entries.iter().map(|entry| entry["payTo"].as_str().unwrap()).collect();
    assert_eq!(drawn, [first, first, first, second]);
    stage.draw = 0;
    for (nonce, entry) in [(1, &entries[0]), (2, &entries[3])] {
        let paid = crate::common::paid("/weather", &Wallet::new(1).pay(entry, nonce));
        let request = stage.play(&paid, [valid(), upstream(200), settled()]);
        assert_eq!(outcome(&request), Outcome::Served);
        let question: Value = serde_json::from_str(&request.calls[0].body).unwrap();
        assert_eq!(question["paymentRequirements"]["payTo"], entry["payTo"]);
    }
    let mut stranger = entries[0].clone();
    stranger["payTo"] = PAY_TO.into();
    let request = stage.start(&crate::common::paid("/weather", &Wallet::new(1).pay(&stranger, 3)));
    assert_eq!(request.body()["error"], "No matching payment requirements");
}

#[test]
fn a_permit_is_checked_to_its_last_field() {
    let text = chat(json!({"max_tokens": 10}));
    let other = "0x1111111111111111111111111111111111111111";
    for (pointer, value, reason) in [
        ("/spender", json!("0x402085c248EeA27D92E8b30b2C58ed07f9E20001"), "invalid_permit2_spender"),
        ("/witness/to", json!(other), "invalid_permit2_recipient_mismatch"),
        ("/witness/facilitator", json!(other), "upto_facilitator_mismatch"),
        ("/witness/validAfter", json!((NOW + 1).to_string()), "permit2_not_yet_valid"),
        ("/permitted/amount", json!("1"), "permit2_amount_mismatch"),
        ("/permitted/token", json!(other), "permit2_token_mismatch"),
        ("/deadline", json!((NOW + 5).to_string()), "permit2_deadline_expired"),
        ("/from", json!(other), "invalid_permit2_signature"),
    ] {
        let mut stage = Stage::new(&config("upto"));
        let entry = quote(&mut stage, &text);
        let mut payment = Wallet::new(1).pay(&entry, 1);
        *payment["payload"]["permit2Authorization"].pointer_mut(pointer).unwrap() = value;
        if pointer != "/from" {
            Wallet::new(1).sign_payment(&mut payment);
        }
        let request = stage.play(&post("/chat", &[("payment-signature", &encode(&payment))]), [body(&text)]);
        assert_eq!(request.body()["error"], reason, "{pointer}: {}", request.story());
        assert!(request.calls.is_empty());
    }
}

// -------------------------------------------------------------------------------------- prices that others know

#[test]
fn the_operators_own_service_may_name_the_price() {
    let mut asking = config("exact");
    asking["routes"] = json!([
        {"match": {"path": "/chat"}, "price": {"usage": "openai", "max_output_tokens": 50, "quote": {"cluster": "prices", "url": "http://prices/v1/quote"}}},
        {"match": {"path": "/plain"}, "price": {"quote": {"cluster": "prices", "url": "http://prices/v1/quote"}}},
    ]);
    let mut stage = Stage::new(&asking);
    let text = chat(json!({"model": "anything", "n": 2}));
    let request = stage.play(&post("/chat", &[]), [body(&text)]);
    let call = request.call.as_ref().unwrap();
    assert_eq!(
        (call.service.cluster.as_str(), call.service.base_path.as_str(), call.kind.path()),
        ("prices", "/v1/quote", "")
    );
    assert!(call.kind.is_cacheable());
    assert_eq!(
        serde_json::from_str::<Value>(&call.body).unwrap(),
        json!({"method": "POST", "path": "/chat", "model": "anything", "input_tokens": text.len().to_string(), "output_tokens": "100"})
    );
    let answers = |body: &str| Event::Callout(CalloutAnswer::Answered { status: 200, body: body.as_bytes().to_vec() });
    for (answer, amount) in [
        (answers(r#"{"price":"$0.05"}"#), Some("50000")),
        (answers(r#"{"amount":"7"}"#), Some("7")),
        (answers(r#"{"amount":"7","price":"$1"}"#), None),
        (answers(r#"{"amount":"0"}"#), None),
        (answers(r#"{"amount":7}"#), None),
        (answers("{}"), None),
        (answers("no"), None),
        (Event::Callout(CalloutAnswer::Lost), None),
        (Event::Callout(CalloutAnswer::NotSent), None),
        (crate::common::answers_with(500, &json!({"amount": "7"})), None),
    ] {
        let mut request = stage.start(&post("/plain", &[]));
        stage.step(&mut request, answer.clone());
        match amount {
            Some(amount) => {
                let terms = decode(request.reply_header("payment-required").unwrap());
                assert_eq!(terms["accepts"][0]["amount"], amount, "{answer:?}");
            }
            None => {
                assert_eq!(request.status(), 503, "{answer:?}: {}", request.story());
                assert_eq!(request.reply_header("retry-after"), Some("1"));
            }
        }
    }
    // The price is asked for again with the payment, and must still hold.
    let mut request = stage.start(&post("/plain", &[]));
    stage.step(&mut request, answers(r#"{"amount":"7"}"#));
    let entry = decode(request.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let head = post("/plain", &[("payment-signature", &encode(&Wallet::new(1).pay(&entry, 1)))]);
    let dearer = stage.play(&head, [answers(r#"{"amount":"8"}"#)]);
    assert_eq!(dearer.body()["error"], "No matching payment requirements");
    let served = stage.play(&head, [answers(r#"{"amount":"7"}"#), valid(), upstream(200), settled()]);
    assert_eq!(outcome(&served), Outcome::Served);
}

#[test]
fn the_proxy_may_say_who_is_paid() {
    let mut config = base_config();
    config["defaults"]["pay_to"] = json!({"metadata": {"namespace": "mesh", "key": "pay_to"}});
    let mut stage = Stage::new(&config);
    let key = MetadataKey { namespace: "mesh".into(), key: "pay_to".into() };
    assert_eq!(stage.config.metadata, std::slice::from_ref(&key));
    let said = |value: &str| head("GET", "/weather", &[]).with_metadata([(key.clone(), value.as_bytes().to_vec())]);
    let request = stage.start(&said("0x1111111111111111111111111111111111111111"));
    let terms = decode(request.reply_header("payment-required").unwrap());
    assert_eq!(terms["accepts"][0]["payTo"], "0x1111111111111111111111111111111111111111");
    for nobody in ["", "0x", "0x0000000000000000000000000000000000000000", "somebody"] {
        assert_eq!(stage.start(&said(nobody)).status(), 503, "{nobody}");
    }
    assert_eq!(
        stage.start(&head("GET", "/weather", &[("mesh", "0x1111111111111111111111111111111111111111")])).status(),
        503
    );
}

#[test]
fn model_and_limits_may_come_from_metadata() {
    let mut config = config("exact");
    config["routes"][0]["price"]["metadata"] = "x402.body".into();
    let mut stage = Stage::new(&config);
    let request = |values: &[(&str, Vec<u8>)], length: Option<&str>| {
        let headers: Vec<(&str, &str)> = length.map(|length| ("content-length", length)).into_iter().collect();
        let values = values
            .iter()
            .map(|(key, value)| (MetadataKey { namespace: "x402.body".into(), key: (*key).into() }, value.clone()));
        head("POST", "/chat", &headers).with_metadata(values.collect::<Vec<_>>())
    };
    let double = |number: f64| number.to_le_bytes().to_vec();
    let model = ("model", b"gpt-4o".to_vec());
    for (values, length, amount) in [
        (vec![model.clone()], "100", 250 + 10_000),
        (vec![model.clone(), ("max_tokens", double(10.0))], "100", 350),
        (vec![model.clone(), ("max_tokens", b"10".to_vec())], "100", 350),
        (vec![model.clone(), ("max_tokens", double(10.0)), ("n", double(3.0))], "100", 550),
        (vec![model.clone(), ("max_tokens", double(10.0)), ("max_completion_tokens", double(20.0))], "100", 450),
    ] {
        let answer = stage.start(&request(&values, Some(length)));
        let terms = decode(answer.reply_header("payment-required").expect("terms"));
        assert_eq!(terms["accepts"][0]["amount"], amount.to_string());
    }
    for (values, length, status) in [
        (vec![model.clone()], None, 411),
        (vec![model.clone()], Some("many"), 411),
        (vec![], Some("100"), 400),
        (vec![("model", b"gpt-5".to_vec())], Some("100"), 400),
        (vec![("model", vec![0xff])], Some("100"), 400),
        (vec![model.clone(), ("max_tokens", double(1.5))], Some("100"), 400),
        (vec![model.clone(), ("max_tokens", double(-1.0))], Some("100"), 400),
        (vec![model.clone(), ("max_tokens", double(f64::NAN))], Some("100"), 400),
        (vec![model, ("max_tokens", double(1e300))], Some("100"), 400),
    ] {
        assert_eq!(stage.start(&request(&values, length)).status(), status, "{values:?}");
    }
}

// ------------------------------------------------------------------------------------- what a client might try to get

/// A stage whose route is priced by `usage`, a payment of scheme `upto` for a body, and the head that carries it.
fn paying_by(usage: &str, text: &str, lifetime: u64) -> (Stage, RequestHead) {
    let mut json = config("upto");
    json["routes"][0]["price"]["usage"] = usage.into();
    let mut stage = Stage::new(&json);
    let entry = quote(&mut stage, text);
    let wallet = Wallet::new(1);
    let mut payment = wallet.pay(&entry, 1);
    payment["payload"]["permit2Authorization"]["deadline"] = (stage.now + lifetime).to_string().into();
    wallet.sign_payment(&mut payment);
    (stage, post("/chat", &[("payment-signature", &encode(&payment))]))
}

#[test]
fn a_charge_buys_its_own_response_and_no_dearer_one() {
    let texts = ["Say hi, and nothing more", "Write a novel, and a long"].map(|prompt| {
        let prompt = format!("{prompt:.<30}");
        chat(json!({"max_tokens": 900, "messages": [{"role": "user", "content": prompt}]}))
    });
    assert_eq!(texts[0].len(), texts[1].len(), "their quotes are the same");
    let (mut stage, head) = paying("upto", &texts[0]);
    let used = json!({"choices": [], "usage": usage(20, 0, 1)}).to_string();
    let mut first = stage.play(&head, [body(&texts[0]), valid(), answer("application/json"), weighed(&used)]);
    stage.step(&mut first, Event::Ended);
    stage.step(&mut first, settled());
    assert_eq!(outcome(&first), Outcome::Abandoned);
    let dearer = stage.play(&head, [body(&texts[1])]);
    assert_eq!((dearer.status(), outcome(&dearer)), (402, Outcome::Spent), "{}", dearer.story());
    let same = stage.play(&head, [body(&texts[0]), answer("application/json"), weighed(&used)]);
    assert_eq!(outcome(&same), Outcome::Served, "{}", same.story());
}

/// A chat whose charge was settled for `used`, and whose client did not wait for the response.
fn abandoned(text: &str, used: &str) -> (Stage, RequestHead) {
    let (mut stage, head) = paying("upto", text);
    let mut first = stage.play(&head, [body(text), valid(), answer("application/json"), weighed(used)]);
    stage.step(&mut first, Event::Ended);
    stage.step(&mut first, settled());
    assert_eq!(outcome(&first), Outcome::Abandoned);
    (stage, head)
}

#[test]
fn the_same_request_gets_no_more_than_was_settled_for_it() {
    let text = chat(json!({"max_tokens": 900}));
    let [cheap, dear] = [1, 800].map(|output| json!({"usage": usage(20, 0, output)}).to_string());
    let (mut stage, head) = abandoned(&text, &cheap);
    stage.config.ledger = stage.config.ledger.with_max_redemptions(9);
    let again = stage.play(&head, [body(&text), answer("application/json"), weighed(&dear)]);
    assert_eq!((again.status(), again.reason()), (409, "redeemed_response_costs_more"), "{}", again.story());
    assert!(
        again.body()["error"].as_str().unwrap().contains("8050 atomic units, and 100 were settled"),
        "{}",
        again.body()
    );
    assert_eq!(decode(again.reply_header("payment-response").unwrap())["amount"], "100");
    assert_eq!(again.reply_header("payment-required"), None, "nobody is asked to pay again");
    // What cannot be weighed is not given either, and is the upstream's fault.
    for response in [answer("text/event-stream"), answer("application/json")] {
        let Event::Upstream(response) = response else { panic!("a response") };
        let response = UpstreamHead { is_encoded: !response.is_event_stream, ..response };
        let again = stage.play(&head, [body(&text), Event::Upstream(response)]);
        assert_eq!((again.status(), outcome(&again)), (502, Outcome::SettledUpstreamFailed), "{}", again.story());
    }
    // One without usage costs the maximum.
    let again = stage.play(&head, [body(&text), answer("application/json"), weighed("{}")]);
    assert_eq!(again.status(), 409, "{}", again.story());
    let again = stage.play(&head, [body(&text), answer("application/json"), weighed(&cheap)]);
    assert_eq!(outcome(&again), Outcome::Served, "it keeps its claim to one that fits: {}", again.story());
    assert_eq!(decode(again.receipt_header("payment-response").unwrap())["amount"], "100");
    assert_eq!(outcome(&stage.play(&head, [body(&text)])), Outcome::Spent);
}

#[test]
fn what_a_charge_is_bound_to_cannot_be_moved_from_one_part_into_another() {
    let [first, second] = ["one", "two"].map(|prompt| chat(json!({"messages": [{"role": "user", "content": prompt}]})));
    let used = json!({"usage": usage(20, 0, 1)}).to_string();
    let (mut stage, _) = abandoned(&first, &used);
    let terms = quote(&mut stage, &first);
    let payment = encode(&Wallet::new(1).pay(&terms, 1));
    let header = [("payment-signature", payment.as_str())];
    // Another body, another query, another host: another request.
    for (path, text) in [("/chat", &second), ("/chat?a", &first), ("/chat?", &first)] {
        let request = stage.play(&post(path, &header), [body(text)]);
        assert!(request.forwarded.is_none() && request.status() == 402, "{path}: {}", request.story());
    }
    let request = stage.play(&post("/chat", &header), [body(&first)]);
    assert!(request.story().ends_with("forward settled"), "{}", request.story());
}

#[test]
fn a_charge_is_good_at_its_own_host_alone_though_both_are_shown_as_one() {
    let mut json = config("upto");
    json["origins"] = json!(["https://shop.example"]);
    let mut stage = Stage::new(&json);
    let text = chat(json!({}));
    let payment = encode(&Wallet::new(1).pay(&quote(&mut stage, &text), 1));
    let at = |host: &str| {
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/chat")];
        let all = pseudo.into_iter().chain([("payment-signature", payment.as_str())]);
        RequestHead::new(all.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())))
    };
    let used = json!({"usage": usage(20, 0, 1)}).to_string();
    let mut first = stage.play(&at("one.example"), [body(&text), valid(), answer("application/json"), weighed(&used)]);
    stage.step(&mut first, Event::Ended);
    stage.step(&mut first, settled());
    let other = stage.play(&at("two.example"), [body(&text)]);
    assert_eq!((other.status(), outcome(&other)), (402, Outcome::Spent), "{}", other.story());
    let same = stage.play(&at("one.example"), [body(&text)]);
    assert!(same.story().ends_with("forward settled"), "{}", same.story());
}

#[test]
fn a_charge_for_what_was_not_read_is_spent_when_its_client_leaves() {
    let mut stage = Stage::new(&config("upto"));
    let unpaid = stage.play(&post("/flat", &[]), []);
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let payment = Wallet::new(1).pay(&entry, 1);
    let head = post("/flat", &[("payment-signature", &encode(&payment))]);
    let Event::Upstream(cheap) = upstream(200) else { panic!("a response") };
    let cheap = UpstreamHead { settlement_overrides: Some(r#"{"amount": "1"}"#.to_owned()), ..cheap };
    let mut request = stage.play(&head, [valid(), Event::Upstream(cheap)]);
    assert_eq!(asked_to_settle(&request), "1");
    stage.step(&mut request, Event::Ended);
    stage.step(&mut request, settled());
    assert_eq!(outcome(&stage.play(&head, [])), Outcome::Spent);
}

#[test]
fn a_client_that_leaves_before_the_last_word_pays_for_what_it_saw() {
    let start =
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n";
    let delta = "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n";
    let early = "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":25,\"completion_tokens\":1,\"total_tokens\":26}}\n\n";
    let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    for (shape, first, more) in [("anthropic", start, delta), ("openai", early, piece)] {
        let text = chat(json!({"max_tokens": 500, "stream": true}));
        let (mut stage, head) = paying_by(shape, &text, 300);
        let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream"), chunk(first, false)]);
        (0..200).for_each(|_| stage.step(&mut request, chunk(more, false)));
        stage.step(&mut request, Event::Ended);
        // 25 tokens of input, and an event is a token of output.
        assert_eq!(asked_to_settle(&request), (25_usize * 25 + 201 * 100).div_ceil(10).to_string(), "{shape}");
    }
}

#[test]
fn an_upstream_that_fails_before_its_first_event_costs_nothing_and_takes_no_place() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let error = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
    for (pieces, ends) in [(vec![error], false), (vec![error], true), (vec![""], true)] {
        let (mut stage, head) = paying("upto", &text);
        let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream")]);
        pieces.iter().for_each(|piece| stage.step(&mut request, chunk(piece, ends)));
        if !ends {
            stage.step(&mut request, Event::Ended);
        }
        assert!(request.calls.iter().all(|call| call.kind != CallKind::Settle), "{}", request.story());
        assert_eq!(stage.left(&request), "nothing", "{}", request.story());
    }
}

#[test]
fn whoever_does_not_wait_for_the_first_event_pays_for_the_input() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream")]);
    stage.step(&mut request, Event::Ended);
    let input = text.len() * 25;
    assert_eq!(asked_to_settle(&request), input.div_ceil(10).to_string(), "{}", request.story());
    stage.step(&mut request, refused("insufficient_funds"));
    assert_eq!(stage.left(&request), "spent", "what was opened was bought, whatever became of the money");
}

#[test]
fn a_stream_that_can_no_longer_be_paid_for_is_not_opened() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let (mut stage, head) = paying_by("openai", &text, 60);
    let mut request = stage.play(&head, [body(&text), valid()]);
    stage.now += 70;
    stage.step(&mut request, answer("text/event-stream"));
    assert_eq!((request.status(), request.reason()), (402, "permit2_deadline_expired"), "{}", request.story());
    // Nor does more of it pass once it is too late.
    let (mut stage, head) = paying_by("openai", &text, 60);
    let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream"), chunk(EVENTS[0], false)]);
    let passed = request.passed.len();
    stage.now += 55;
    stage.step(&mut request, chunk(EVENTS[1], false));
    assert!(request.story().contains("cut"), "{}", request.story());
    assert_eq!(request.passed.len(), passed);
}

#[test]
fn a_usage_too_long_to_be_read_costs_the_maximum() {
    let text = chat(json!({"max_tokens": 500, "stream": true, "stream_options": {"include_usage": true}}));
    let (mut stage, head) = paying("upto", &text);
    let mut request = stage.play(&head, [body(&text), valid(), answer("text/event-stream"), chunk(EVENTS[0], false)]);
    let long = format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(5 << 20));
    stage.step(&mut request, chunk(&long[..long.len() - 9], false));
    stage.step(&mut request, chunk(&long[long.len() - 9..], true));
    assert_eq!(asked_to_settle(&request), (text.len() * 25 + 500 * 100).div_ceil(10).to_string());
}

#[test]
fn nothing_in_a_request_makes_it_cheaper_than_what_it_gets() {
    let mut pointers = config("exact");
    pointers["routes"][0]["price"]["usage"] =
        json!({"model": "/a/model", "max_output_tokens": "/limit", "input_tokens": "/i", "output_tokens": "/o"});
    let openai = config("exact");
    for (config, text) in [
        (&pointers, r#"{"a":{"model":"llama-3-8b","Model":"gpt-4o"},"limit":1}"#.to_owned()),
        (&pointers, r#"{"A":{"model":"gpt-4o"},"a":{"model":"llama-3-8b"},"limit":1}"#.to_owned()),
        (&pointers, r#"{"a":{"model":"llama-3-8b"},"limit":1,"LIMIT":9}"#.to_owned()),
        (&openai, chat(json!({"maxTokens": 900}))),
        (&openai, chat(json!({"max-tokens": 900}))),
        (&openai, chat(json!({"model": "GPT-4o"}))),
        (&openai, chat(json!({"model": "llama-3-8b,gpt-4o"}))),
        (&openai, chat(json!({"models": ["gpt-4o"]}))),
        (&openai, chat(json!({"fallbacks": ["gpt-4o"]}))),
        (&openai, chat(json!({"background": true}))),
    ] {
        let request = Stage::new(config).play(&post("/chat", &[]), [body(&text)]);
        assert_eq!(request.status(), 400, "{text}: {}", request.story());
    }
    for kind in
        ["application/json; charset=utf-7", "application/json;charset=\"UTF-16\"", "text/plain; Charset = latin1"]
    {
        let request = Stage::new(&openai).start(&post("/chat", &[("content-type", kind)]));
        assert_eq!(request.status(), 415, "{kind}");
    }
    let twice = post("/chat", &[("content-type", "application/json"), ("content_type", "application/json")]);
    assert_eq!(Stage::new(&openai).start(&twice).status(), 415);
    let plain = post("/chat", &[("content-type", "application/json; charset=UTF-8")]);
    assert_eq!(Stage::new(&openai).play(&plain, [body(&chat(json!({})))]).status(), 402);
}

#[test]
fn only_a_payment_that_is_metered_has_its_request_rewritten() {
    let mut json = config("upto");
    let accepts = ["exact", "upto"].map(|scheme| json!({"scheme": scheme, "network": "base-sepolia", "asset": "USDC"}));
    json["defaults"]["accepts"] = accepts.to_vec().into();
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let mut stage = Stage::new(&json);
    let unpaid = stage.play(&post("/chat", &[]), [body(&text)]);
    let accepts = decode(unpaid.reply_header("payment-required").unwrap())["accepts"].clone();
    for (index, is_rewritten) in [(0, false), (1, true)] {
        let payment = Wallet::new(1).pay(&accepts[index], 1);
        let request = stage.play(&post("/chat", &[("payment-signature", &encode(&payment))]), [body(&text), valid()]);
        assert_eq!(request.rewrite.is_some(), is_rewritten, "{}", accepts[index]["scheme"]);
    }
}

#[test]
fn what_may_have_settled_before_is_not_refused_for_good() {
    let text = chat(json!({}));
    let (mut stage, head) = paying("upto", &text);
    let used = json!({"usage": usage(10, 0, 10)}).to_string();
    let lost = Event::Callout(CalloutAnswer::Lost);
    let first = stage.play(&head, [body(&text), valid(), answer("application/json"), weighed(&used), lost.clone()]);
    assert_eq!(outcome(&first), Outcome::Unknown);
    for said in [refused("permit2_invalid_nonce"), Event::Callout(CalloutAnswer::NotSent), lost] {
        let again = stage.play(&head, [body(&text), said]);
        assert_eq!(outcome(&again), Outcome::Unknown, "{}", again.story());
        assert_eq!(again.reply_header("payment-required"), None, "he may have paid");
    }
}

#[test]
fn whoever_makes_the_upstream_answer_otherwise_has_no_more_redemptions_for_it() {
    let text = chat(json!({"max_tokens": 900}));
    let (mut stage, head) = abandoned(&text, &json!({"usage": usage(20, 0, 1)}).to_string());
    for _ in 0..3 {
        let again = stage.play(&head, [body(&text), answer("text/event-stream")]);
        assert_eq!((again.status(), outcome(&again)), (502, Outcome::SettledUpstreamFailed), "{}", again.story());
    }
    let last = stage.play(&head, [body(&text)]);
    assert!(last.forwarded.is_none() && last.reason() == "max_redemptions", "{}", last.story());
}

#[test]
fn an_error_that_says_nothing_makes_no_response_free() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    for nothing in ["false", "\"\"", "0", "{}", "[]", "null"] {
        let event = |more: &str| format!("data: {{\"error\":{nothing},{more}}}\n\n");
        let goods = event(r#""choices":[{"delta":{"content":"x"}}]"#);
        let used = event(r#""choices":[],"usage":{"prompt_tokens":20,"completion_tokens":100}"#);
        let (mut stage, head) = paying("upto", &text);
        let request = stream(&mut stage, &head, &text, &[&goods, &goods, &used]);
        assert_eq!(asked_to_settle(&request), "1050", "{nothing}");
    }
    // Nor does one that says something, where the goods come along.
    let event = "data: {\"error\":{\"code\":1},\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let (mut stage, head) = paying("upto", &text);
    let request = stream(&mut stage, &head, &text, &[event, event]);
    assert_ne!(asked_to_settle(&request), "0");
}

#[test]
fn junk_that_names_a_payment_does_not_keep_it_from_being_verified() {
    let text = chat(json!({"max_tokens": 500}));
    let (mut stage, head) = paying("upto", &text);
    let mut copy = decode(std::str::from_utf8(head.all("payment-signature").next().unwrap()).unwrap());
    copy["payload"]["signature"] = format!("0x{}", "ab".repeat(66)).into();
    let junk = post("/chat", &[("payment-signature", &encode(&copy))]);
    assert!(stage.play(&junk, [body(&text)]).story().ends_with("claim unproven granted, verify?"));
    let used = json!({"usage": usage(20, 0, 1)}).to_string();
    let honest = stage.play(&head, [body(&text), valid(), answer("application/json"), weighed(&used), settled()]);
    assert_eq!(outcome(&honest), Outcome::Served, "{}", honest.story());
}

// ------------------------------------------------------------------------------------------- what upstreams really send

/// The rates of the cases: 2.5, 0.25, 3.125 and 10 atomic units a token for input, cached input, cache write and output.
fn dialect(usage: &str) -> Value {
    let mut config = config("upto");
    let rate = json!({"input": "$2.50", "cached_input": "$0.25", "cache_write": "$3.125", "output": "$10.00"});
    let price = json!({"usage": usage, "models": {"*": rate}, "max_output_tokens": 1000});
    config["routes"] = json!([
        {"name": "chat", "match": {"path": "/chat"}, "price": price},
        {"name": "all", "match": {"path": "/{*rest}"}, "price": price},
    ]);
    config
}

/// A request that is paid for, up to the upstream's answer.
fn asked(config: &Value, path: &str, text: &str) -> (Stage, Request) {
    let mut stage = Stage::new(config);
    let unpaid = stage.play(&post(path, &[]), [body(text)]);
    assert_eq!(unpaid.status(), 402, "{}", unpaid.story());
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let payment = encode(&Wallet::new(1).pay(&entry, 1));
    let request = stage.play(&post(path, &[("payment-signature", &payment)]), [body(text), valid()]);
    (stage, request)
}

/// What was asked to be settled, or 0.
fn charge(request: &Request) -> u64 {
    let is_asked = request.calls.iter().any(|call| call.kind == CallKind::Settle);
    if is_asked { asked_to_settle(request).parse().unwrap() } else { 0 }
}

/// The quote for a body with so many tokens of output: the dearest input is what is written to a cache.
fn quoted(text: &str, output: usize) -> u64 {
    u64::try_from((text.len() * 3125 + output * 10_000).div_ceil(1000)).unwrap()
}

/// The charge for a response that comes in pieces of so many bytes.
fn charged(usage: &str, text: &str, kind: &str, response: &[u8], size: usize) -> (u64, Request) {
    let (mut stage, mut request) = asked(&dialect(usage), "/chat", text);
    stage.step(&mut request, answer(kind));
    for piece in response.chunks(size) {
        stage.step(&mut request, Event::ResponseChunk { bytes: piece.to_vec(), is_last: false });
    }
    stage.step(&mut request, chunk("", true));
    (charge(&request), request)
}

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";

#[test]
fn what_a_response_used_is_found_however_it_is_written() {
    let text = chat(json!({"max_tokens": 500}));
    let openai =
        |usage: &str| format!(r#"{{"id":"c1","choices":[{{"index":0,"message":{{"content":"hi"}}}}],{usage}}}"#);
    let plain = r#""usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#;
    for (response, expected) in [
        (openai(plain), 53),
        (openai(plain).replace("hi", "smile \\ud83d"), 53),
        (openai(plain).replace("hi", "smile \\ude00\\ud83d\\u12"), 53),
        (openai(plain).replace("hi", "a\nb\u{1}"), 53),
        (openai(plain).replace(":9", ":9.0").replace(":3", ":3.0"), 53),
        (openai(plain).replace(":9", ":\"9\"").replace(":3", ":\"3.0\""), 53),
        (openai(plain).replace(":9", ":90e-1").replace(":3", ":0.3E1"), 53),
        (openai(plain).replace(":12", ":1e999"), 53),
        (openai(plain).replace("\"id\"", "\"x\":1e999,\"y\":NaN,\"z\":-Infinity,\"id\""), 53),
        (openai(&format!("\"x\":1,{plain}")).replace("\"x\"", "\"id\""), 53),
        (openai(&format!("\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1}},{plain}")), 53),
        (openai(&format!("{plain},\"usage\":null")), 53),
        (openai(&format!("{plain},\"usage\":{{\"prompt_tokens\":\"many\"}}")), 53),
        (openai(plain).replace("\"prompt_tokens\":9", "\"prompt_tokens\":9,\"prompt_tokens\":-1"), 53),
        (openai(plain).replace("usage", "us\\u0061ge"), 53),
        (format!("\u{feff} {}\r\n", openai(plain)), 53),
        (format!("{}data: [DONE]\n\n", openai(plain)), 53),
        (format!("{}{}", openai(plain), "}}]"), 53),
        (
            openai(plain).replace("\"index\":0", &format!("\"index\":0,\"x\":{}{}", "[".repeat(500), "]".repeat(500))),
            53,
        ),
        (openai("\"x\":0").replace("}}],", r#"},"usage":{"prompt_tokens":9,"completion_tokens":3}}],"#), 53),
        (openai(r#""x_groq":{"usage":{"prompt_tokens":9,"completion_tokens":3}}"#), 53),
        (openai(r#""usage":{"prompt_tokens":90,"completion_tokens":30,"prompt_cache_hit_tokens":64}"#), 381),
        (openai(r#""usage":{"prompt_tokens":90,"completion_tokens":30,"cached_tokens":64}"#), 381),
        (
            openai(
                r#""usage":{"prompt_tokens":90,"completion_tokens":30,"prompt_tokens_details":{"cached_tokens":64}}"#,
            ),
            381,
        ),
        (
            openai(
                r#""usage":{"prompt_tokens":90,"completion_tokens":30,"cached_tokens":0,"prompt_cache_hit_tokens":64}"#,
            ),
            381,
        ),
        (openai(r#""usage":{"prompt_tokens":90,"completion_tokens":30,"cache_write_tokens":64}"#), 565),
        (
            openai(
                r#""usage":{"prompt_tokens":90,"completion_tokens":30,"prompt_tokens_details":{"cache_write_tokens":64}}"#,
            ),
            565,
        ),
        (openai(r#""usage":{"input_tokens":26,"output_tokens":30,"cache_read_input_tokens":64}"#), 381),
    ] {
        for size in [1, 7, 100_000] {
            let (charge, request) = charged("openai", &text, JSON, response.as_bytes(), size);
            assert_eq!(charge, expected, "{response} in pieces of {size}: {}", request.story());
            assert!(request.passed.is_empty() && request.delivered.is_none(), "nothing leaves before it is settled");
        }
    }
}

#[test]
fn an_error_inside_a_good_answer_costs_nothing() {
    let text = chat(json!({"max_tokens": 500}));
    for (usage, response) in [
        ("openai", r#"{"error":{"code":502,"message":"Provider returned error"},"user_id":"u"}"#),
        ("openai", r#"{"error":"overloaded"}"#),
        ("openai", r#"{"errors":[{"message":"no"}]}"#),
        ("openai", r#"{"object":"error","message":"no","code":400}"#),
        ("openai", r#"{"error":{"code":502},"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#),
        (
            "openai",
            r#"{"choices":[{"index":0,"error":{"code":502,"message":"x"},"message":{"content":""},"finish_reason":"error"}]}"#,
        ),
        (
            "openai",
            r#"{"choices":[{"error":{"code":502},"message":{"content":"par"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
        ),
        (
            "openai",
            r#"{"object":"response","status":"failed","error":{"code":"server_error"},"output":[],"usage":null}"#,
        ),
        ("anthropic", r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
    ] {
        let (charge, request) = charged(usage, &text, JSON, response.as_bytes(), 9);
        assert_eq!(charge, 0, "{response}: {}", request.story());
        assert!(request.story().ends_with("release granted, = upstream_failed, deliver"), "{}", request.story());
    }
    // One that says nothing, or comes with what was ordered, makes nothing free.
    for response in [
        r#"{"error":null,"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
        r#"{"error":{"message":null,"code":0},"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
        r#"{"error":{"code":1},"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
        r#"{"choices":[{"error":{"code":1},"message":{}},{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
    ] {
        assert_eq!(charged("openai", &text, JSON, response.as_bytes(), 9).0, 53, "{response}");
    }
}

fn words(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!(r#"{{"id":"c1","choices":[{{"index":0,"delta":{{"content":"w{number} "}}}}]}}"#))
        .collect()
}

#[test]
fn streams_are_told_by_their_first_bytes() {
    let text = chat(json!({"max_tokens": 500, "stream": true, "stream_options": {"include_usage": true}}));
    let used = r#"{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":10}}"#.to_owned();
    let events = |lines: &[String]| lines.iter().map(|line| format!("data: {line}\n\n")).collect::<String>();
    let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let told = [words(10), vec![used]].concat();
    let input = u64::try_from((text.len() * 25 + 10 * 100).div_ceil(10)).unwrap();
    for (kind, response, expected) in [
        (JSON, events(&told) + "data: [DONE]\n\n", 150),
        ("text/plain", format!(": ping\r\n\r\n{}", events(&told)), 150),
        ("text/plain", format!("\u{feff}event: x\n{}", events(&told)), 150),
        (JSON, lines(&told), 150),
        ("text/plain", lines(&told), 150),
        (SSE, lines(&told), 150),
        (SSE, events(&told), 150),
        (JSON, format!("[{}]", told.join(",\n")), 150),
        (JSON, events(&words(10)), input),
        (SSE, lines(&words(10)), input),
        (JSON, lines(&words(10)), input),
    ] {
        for size in [3, 200] {
            let (charge, request) = charged("openai", &text, kind, response.as_bytes(), size);
            assert_eq!(charge, expected, "{kind} {response} by {size}: {}", request.story());
            assert!(request.story().contains("open granted, deliver"), "it streams: {}", request.story());
        }
        // As it was cut by one that had all of it at once: then it is settled before it is delivered, or streams.
        assert_eq!(charged("openai", &text, kind, response.as_bytes(), usize::MAX).0, expected, "{kind} {response}");
    }
    // One value under the label of a stream is no stream: without its usage it costs the quote.
    let whole = r#"{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":14,"completion_tokens":9}}"#;
    assert_eq!(charged("openai", &text, SSE, format!("{whole}data: [DONE]\n\n").as_bytes(), 5).0, 125);
    let quote = quoted(&text, 500);
    for (kind, untold) in
        [(SSE, r#"{"choices":[{"message":{"content":"hi"}}]}"#), (JSON, "hello"), ("text/plain", "hello"), (JSON, "")]
    {
        assert_eq!(charged("openai", &text, kind, untold.as_bytes(), 5).0, quote, "{untold}");
    }
}

#[test]
fn whoever_leaves_in_the_middle_of_a_value_pays_the_quote() {
    let text = chat(json!({"max_tokens": 500}));
    let (mut stage, mut request) = asked(&dialect("openai"), "/chat", &text);
    stage.step(&mut request, answer(SSE));
    stage.step(&mut request, chunk(r#"{"choices":[{"message":{"content":"nearly all of it"#, false));
    stage.step(&mut request, Event::Ended);
    assert_eq!(charge(&request), quoted(&text, 500));
}

#[test]
fn a_counter_never_sinks_and_what_was_seen_since_counts_on_top() {
    let text = chat(json!({"max_tokens": 500, "stream": true, "stream_options": {"include_usage": true}}));
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}"#;
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"w "}}"#;
    let stop = r#"{"type":"message_stop"}"#;
    let piece = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
    for (usage, events, expected) in [
        (
            "anthropic",
            vec![
                start,
                delta,
                delta,
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}"#,
                stop,
            ],
            93,
        ),
        ("anthropic", vec![start, delta, delta, r#"{"type":"error","error":{"type":"overloaded_error"}}"#], 93),
        (
            "anthropic",
            vec![
                start,
                delta,
                r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":0,"output_tokens":9}}"#,
                stop,
            ],
            153,
        ),
        (
            "anthropic",
            vec![
                start,
                delta,
                r#"{"type":"message_delta","usage":{"input_tokens":25,"output_tokens":9,"iterations":[{"input_tokens":25,"output_tokens":9},{"input_tokens":10,"output_tokens":7}]}}"#,
            ],
            248,
        ),
        (
            "openai",
            vec![r#"{"choices":[],"usage":{"prompt_tokens":25,"completion_tokens":0}}"#, piece, piece, "[DONE]"],
            83,
        ),
        ("openai", vec![r#"{"choices":[],"usage":{"prompt_tokens":25,"completion_tokens":1}}"#, piece, piece], 93),
        (
            "openai",
            vec![
                piece,
                r#"{"choices":[{"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":9,"completion_tokens":4}}]}"#,
            ],
            63,
        ),
        (
            "openai",
            vec![
                piece,
                r#"{"choices":[{"delta":{"content":"\ud83d"},"finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#,
            ],
            63,
        ),
        (
            "openai",
            vec![
                r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":25,"completion_tokens":7}}"#,
                r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#,
            ],
            143,
        ),
        (
            "openai",
            vec![piece, r#"{"error":{"message":"gone"}}"#],
            u64::try_from((text.len() * 25 + 100).div_ceil(10)).unwrap(),
        ),
    ] {
        let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let (charge, request) = charged(usage, &text, SSE, stream.as_bytes(), 11);
        assert_eq!(charge, expected, "{stream}: {}", request.story());
    }
}

/// Responses as vendors and gateways document them or send them, each with its charge: 9 and 3 tokens (53), 90 with 64 from a
/// cache and 30 (381), or nothing.
#[test]
fn each_dialect_is_counted_however_it_is_cut() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../vectors/dialects.json")).unwrap();
    assert!(cases.len() >= 50);
    for case in cases {
        let mut asked = json!({"max_tokens": 500});
        if case["streams"] == true {
            asked["stream"] = true.into();
        }
        if case["streams"] == true && case["asks_for_usage"] == true {
            asked["stream_options"] = json!({"include_usage": true});
        }
        let [usage, label, response] = ["usage", "label", "response"].map(|key| case[key].as_str().unwrap());
        for size in [1, 5, 61, usize::MAX] {
            let (charge, request) = charged(usage, &chat(asked.clone()), label, response.as_bytes(), size);
            assert_eq!(Some(charge), case["charge"].as_u64(), "{} by {size}: {}", case["name"], request.story());
            if let (Some(shown), true) = (case["shown"].as_str(), size < 100) {
                assert_eq!(String::from_utf8_lossy(&request.passed), shown, "{} by {size}", case["name"]);
            }
        }
    }
}

#[test]
fn a_stream_that_fails_before_anything_is_generated_costs_nothing() {
    let text = chat(json!({"max_tokens": 500, "stream": true, "stream_options": {"include_usage": true}}));
    let role = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let error = r#"data: {"error":{"message":"overloaded"}}"#;
    let created = r#"data: {"type":"response.created","response":{"id":"r","status":"in_progress","error":null}}"#;
    let start =
        r#"data: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":9,"output_tokens":1}}}"#;
    for (usage, events) in [
        ("openai", vec![role, error, "data: [DONE]"]),
        ("openai", vec![": ping", "event: error\ndata: upstream overloaded"]),
        ("openai", vec!["event: error\r\ndata: {\"message\":\"overloaded\",\"code\":503}"]),
        ("openai", vec![role, "event:error\ndata: {\"detail\":\"overloaded\"}"]),
        ("openai", vec![role, "event: error"]),
        ("openai", vec![role, r#"data: {"x_groq":{"id":"r","error":"over capacity"}}"#]),
        (
            "openai",
            vec![created, r#"data: {"type":"response.failed","response":{"status":"failed","error":{"code":"x"}}}"#],
        ),
        ("openai", vec![created, r#"data: {"type":"error","code":"server_error","message":"x"}"#]),
        (
            "anthropic",
            vec![start, r#"data: {"type":"ping"}"#, r#"data: {"type":"error","error":{"type":"overloaded_error"}}"#],
        ),
    ] {
        let stream: String = events.iter().map(|event| format!("{event}\n\n")).collect();
        for size in [3, 1000] {
            let (charge, request) = charged(usage, &text, SSE, stream.as_bytes(), size);
            assert_eq!(charge, 0, "{stream}: {}", request.story());
        }
    }
    // What was generated before it is paid for, and what it tells of it is the last word.
    let piece = r#"data: {"type":"response.output_text.delta","delta":"a"}"#;
    let failed = r#"data: {"type":"response.failed","response":{"error":{"code":"x"},"usage":{"input_tokens":9,"output_tokens":3}}}"#;
    let stream = [created, piece, failed, ""].join("\n\n");
    assert_eq!(charged("openai", &text, SSE, stream.as_bytes(), 9).0, 53);
    let stream = [role, r#"data: {"choices":[{"index":0,"delta":{"content":"a"}}]}"#, "event: error\ndata: gone", ""]
        .join("\n\n");
    assert_ne!(charged("openai", &text, SSE, stream.as_bytes(), 9).0, 0);
}

#[test]
fn an_input_that_nobody_tells_is_that_of_the_quote() {
    // Ollama tells nothing of a prompt that it has read before.
    let last = r#"{"model":"m","message":{"content":""},"done":true,"eval_count":30}"#;
    let word = r#"{"model":"m","message":{"content":"hi"},"done":false}"#;
    let text = chat(json!({"max_tokens": 500}));
    let expected = u64::try_from((text.len() * 25 + 30 * 100).div_ceil(10)).unwrap();
    for response in
        [last.to_owned(), format!("{word}\n{last}\n"), last.replace("\"done\"", "\"prompt_eval_count\":null,\"x\"")]
    {
        assert_eq!(charged("openai", &text, JSON, response.as_bytes(), 7).0, expected, "{response}");
    }
}

#[test]
fn cohere_is_counted_by_what_it_bills() {
    let text = chat(json!({"max_tokens": 500}));
    let used =
        r#"{"billed_units":{"input_tokens":9,"output_tokens":3},"tokens":{"input_tokens":500,"output_tokens":3}}"#;
    for (kind, response) in [
        (JSON, format!(r#"{{"message":{{"content":[{{"type":"text","text":"hi"}}]}},"usage":{used}}}"#)),
        (JSON, format!(r#"{{"text":"hi","meta":{used}}}"#)),
        (
            SSE,
            format!(
                "event: content-delta\ndata: {{\"type\":\"content-delta\",\"delta\":{{\"message\":{{\"content\":{{\"text\":\"hi\"}}}}}}}}\n\n\
                 event: message-end\ndata: {{\"type\":\"message-end\",\"delta\":{{\"finish_reason\":\"COMPLETE\",\"usage\":{used}}}}}\n\n"
            ),
        ),
    ] {
        assert_eq!(charged("openai", &text, kind, response.as_bytes(), 9).0, 53, "{response}");
    }
}

#[test]
fn events_without_an_empty_line_between_them_are_counted_each() {
    let text = chat(json!({"max_tokens": 500, "stream": true, "stream_options": {"include_usage": true}}));
    let input = u64::try_from((text.len() * 25 + 10 * 100).div_ceil(10)).unwrap();
    let mut events = words(10);
    let stream = |events: &[String]| events.iter().map(|event| format!("data: {event}\n")).collect::<String>();
    assert_eq!(charged("openai", &text, SSE, stream(&events).as_bytes(), 50).0, input);
    events.push(r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#.to_owned());
    events.push("[DONE]".to_owned());
    assert_eq!(charged("openai", &text, SSE, stream(&events).as_bytes(), 50).0, 53);
}

#[test]
fn what_the_wish_calls_forth_never_reaches_the_client() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    for (kind, before, behind) in [(SSE, "data: ", "\n\n"), (JSON, "data: ", "\n\n"), (JSON, "", "\n"), (SSE, "", "\n")]
    {
        for told in [
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#,
            r#"{"choices":null,"usage":{"prompt_tokens":9,"completion_tokens":4}}"#,
            r#"{"id":"c1","usage":{"prompt_tokens":"9","completion_tokens":4.0}}"#,
        ] {
            let unit = |text: &str| format!("{before}{text}{behind}");
            let visible: String = words(3).iter().map(|word| unit(word)).collect();
            for size in [4, 50, 100_000] {
                let response = format!("{visible}{}", unit(told));
                let (charge, request) = charged("openai", &text, kind, response.as_bytes(), size);
                assert_eq!(charge, 63, "{told}");
                assert_eq!(String::from_utf8_lossy(&request.passed), visible, "{kind} {response} by {size}");
            }
        }
    }
    let mut silent = dialect("openai");
    silent["routes"][0]["price"]["ask_for_usage"] = false.into();
    let (_, request) = asked(&silent, "/chat", &text);
    assert_eq!(request.rewrite, None);
}

#[test]
fn an_upstream_that_refuses_the_wish_is_asked_without_it() {
    let text = chat(json!({"max_tokens": 500, "stream": true}));
    let refusal = r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#;
    let (mut stage, mut request) = asked(&dialect("openai"), "/chat", &text);
    assert!(request.rewrite.is_some());
    stage.step(&mut request, upstream(422));
    stage.step(&mut request, weighed(refusal));
    assert!(
        request.story().ends_with("read 65536 | release granted, = upstream_failed, reply 503"),
        "{}",
        request.story()
    );
    assert_eq!((charge(&request), request.reply_header("retry-after")), (0, Some("1")));
    assert!(request.record.as_ref().unwrap().is_refused_wish());
    assert_eq!(stage.left(&request), "nothing", "the same payment may come again");
    // It is remembered.
    let head = post("/chat", &[]).with_refused_wishes(vec!["chat".into()]);
    let entry =
        decode(stage.play(&head, [body(&text)]).reply_header("payment-required").unwrap())["accepts"][0].clone();
    let payment = encode(&Wallet::new(1).pay(&entry, 2));
    let head = post("/chat", &[("payment-signature", &payment)]).with_refused_wishes(vec!["chat".into()]);
    assert_eq!(stage.play(&head, [body(&text), valid()]).rewrite, None);
    // Another refusal, and one for what the client has written, is the client's to hear.
    for (text, refusal) in [
        (text.clone(), r#"{"error":{"message":"no such model"}}"#.to_owned()),
        (chat(json!({"stream": true, "x": "stream_options"})), refusal.to_owned()),
        (chat(json!({"stream": true})).replace("Hello", "stream\\u005foptions"), refusal.to_owned()),
        (chat(json!({"stream": true, "stream_options": {"x": 1}})), refusal.to_owned()),
    ] {
        let (mut stage, mut request) = asked(&dialect("openai"), "/chat", &text);
        stage.step(&mut request, upstream(400));
        if !request.story().ends_with("deliver") {
            stage.step(&mut request, weighed(&refusal));
        }
        assert!(request.story().ends_with("= upstream_failed, deliver"), "{}", request.story());
        assert!(!request.record.as_ref().unwrap().is_refused_wish());
    }
}

#[test]
fn a_long_response_is_not_held_whole() {
    let text = chat(json!({"max_tokens": 500}));
    let mut short = dialect("openai");
    short["routes"][0]["price"]["max_response_bytes"] = json!(1000);
    let (mut stage, mut request) = asked(&short, "/chat", &text);
    stage.step(&mut request, answer(JSON));
    stage.step(&mut request, chunk(&format!(r#"{{"choices":[{{"message":{{"content":"{}"#, "x".repeat(900)), false));
    assert!(request.story().ends_with("read 1000"), "it is held: {}", request.story());
    stage.step(&mut request, chunk(&"x".repeat(900), false));
    assert!(request.story().ends_with("open granted, deliver with receipt"), "{}", request.story());
    stage.step(&mut request, chunk(r#""}}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#, true));
    assert_eq!(charge(&request), 53);
}

#[test]
fn what_has_no_output_is_quoted_without() {
    let text = json!({"model": "m", "input": ["a", "b"]}).to_string();
    let input = quoted(&text, 0).to_string();
    let amount = |path: &str| {
        let request = Stage::new(&dialect("openai")).play(&post(path, &[]), [body(&text)]);
        decode(request.reply_header("payment-required").unwrap())["accepts"][0]["amount"].as_str().unwrap().to_owned()
    };
    for path in ["/v1/embeddings", "/v1/embeddings?x=1", "/v1/moderations", "/v2/rerank"] {
        assert_eq!(amount(path), input, "{path}");
    }
    for path in ["/v1/responses", "/v1/responses?/embeddings", "/v1/responses;/embeddings", "/v1/embeddings%2f"] {
        let request = Stage::new(&dialect("openai")).play(&post(path, &[]), [body(&text)]);
        assert!(request.status() != 402 || amount(path) != input, "{path}");
    }
    // So is a model whose output has no price.
    let mut config = dialect("openai");
    config["routes"][0]["price"]["models"] = json!({"*": {"input": "$3.125"}});
    let request = Stage::new(&config).play(&post("/chat", &[]), [body(&text)]);
    let terms = decode(request.reply_header("payment-required").unwrap());
    assert_eq!(terms["accepts"][0]["amount"], input);
}

#[test]
fn gemini_is_priced_by_its_path_and_its_own_words() {
    let text = json!({
        "contents": [{"parts": [{"text": "Hello"}]}],
        "generationConfig": {"maxOutputTokens": 100, "candidateCount": 2},
    })
    .to_string();
    let config = dialect("gemini");
    let path = "/v1beta/models/gemini-2.5-pro:generateContent";
    let unpaid = Stage::new(&config).play(&post(path, &[]), [body(&text)]);
    let terms = decode(unpaid.reply_header("payment-required").unwrap());
    assert_eq!(terms["accepts"][0]["amount"], quoted(&text, 200).to_string());
    let used = r#""usageMetadata":{"promptTokenCount":90,"cachedContentTokenCount":64,"candidatesTokenCount":20,"thoughtsTokenCount":10,"totalTokenCount":120}"#;
    let part = r#"{"candidates":[{"content":{"parts":[{"text":"hi"}],"role":"model"}}]}"#;
    let last =
        format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"hi"}}]}},"finishReason":"STOP"}}],{used}}}"#);
    let streams = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
    for (path, kind, response) in [
        (path, JSON, last.clone()),
        (streams, JSON, format!("[{part},\n{last}\n]")),
        (
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            SSE,
            format!("data: {part}\r\n\r\ndata: {last}\r\n\r\n"),
        ),
    ] {
        let (mut stage, mut request) = asked(&config, path, &text);
        stage.step(&mut request, answer(kind));
        stage.step(&mut request, chunk(&response, true));
        assert_eq!(charge(&request), 381, "{response}");
    }
    for (path, text) in [
        ("/v1beta/gemini-2.5-pro", text.as_str()),
        ("/v1beta/models/gemini-2.5-pro", &text),
        ("/v1beta/models/:generateContent", &text),
        ("/v1beta/models/gemini-2.5-pro:generateContent/x", &text),
        ("/v1beta/models/gemini-2.5-pro:deleteModel", &text),
        ("/v1beta/models/a%2fb:generateContent", &text),
        (path, r#"{"contents":[],"model":"models/gemini-other"}"#),
        (path, r#"{"contents":[],"generation_config":{"maxOutputTokens":1}}"#),
        (path, r#"{"contents":[],"generationConfig":{"max_output_tokens":1}}"#),
    ] {
        let request = Stage::new(&config).play(&post(path, &[]), [body(text)]);
        assert_eq!(request.status(), 400, "{path} {text}: {}", request.story());
    }
}

#[test]
fn an_encoding_that_means_nothing_is_none() {
    let read = |value: &[u8]| {
        let list = [(":status", &b"200"[..]), ("content-encoding", value)];
        UpstreamHead::read(&x402_proxy_wasm::exchange::Headers::new(list), true).is_encoded
    };
    for nothing in ["", " ", "none", "None", "identity", "identity, none", "utf-8"] {
        assert!(!read(nothing.as_bytes()), "{nothing}");
    }
    for encoded in ["gzip", "br", "identity, gzip", "zstd", "x"] {
        assert!(read(encoded.as_bytes()), "{encoded}");
    }
}
