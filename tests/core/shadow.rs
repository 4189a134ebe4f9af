//! Routes in shadow: everything is decided, logged and counted, everything passes, and no money moves.

use crate::common::{NOW, Request, Stage, USDC, Wallet, base_config, decode, head, invalid, paid, upstream, valid};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Body, CallKind, Event, Outcome};
use x402_proxy_wasm::facilitator::CalloutAnswer;

/// A stage all in shadow, or in whatever `change` makes of it.
fn stage(change: impl FnOnce(&mut Value)) -> Stage {
    let mut config = base_config();
    config["mode"] = "shadow".into();
    change(&mut config);
    Stage::new(&config)
}

/// A payment for `GET /weather` by the terms of a stage that does ask for it.
fn payment(nonce: u8) -> Value {
    let unpaid = Stage::new(&base_config()).start(&head("GET", "/weather", &[]));
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    Wallet::new(1).pay(&entry, nonce)
}

/// The outcome as logs have it, of a request that has passed unchanged.
#[track_caller]
fn passed(request: &Request) -> String {
    let edits = request.forwarded.as_ref().expect("it passes");
    assert!(edits.set.is_empty() && edits.passes_for.is_none(), "{edits:?}");
    assert!(request.reply.is_none() && request.settlements.is_empty() && request.recovery.is_none());
    assert!(request.calls.iter().all(|call| call.kind != CallKind::Settle), "no money moves");
    assert_eq!(request.rewrite, None);
    request.record.as_ref().unwrap().outcome_word().into_owned()
}

fn fact(request: &Request, name: &str) -> Option<String> {
    let facts = request.record.as_ref().unwrap().facts();
    facts.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
}

#[test]
fn nobody_is_asked_to_pay() {
    let mut stage = stage(|_| {});
    let mut request = stage.start(&head("GET", "/weather", &[("x-x402-payer", "0x1"), ("x-original-url", "/dear")]));
    assert_eq!(passed(&request), "shadow_unpaid");
    // By these, a request that passes could become one that another route sells.
    assert_eq!(request.forwarded.as_ref().unwrap().remove, ["x-x402-payer", "x-original-url"]);
    let facts = ["network", "amount", "asset", "payer"].map(|name| fact(&request, name));
    assert_eq!(facts, [Some("eip155:84532".to_owned()), Some("1000".to_owned()), Some(USDC.to_owned()), None]);
    // The response is the upstream's own.
    stage.step(&mut request, upstream(200));
    assert_eq!(request.delivered.unwrap(), x402_proxy_wasm::exchange::ResponseEdits::default());
}

#[test]
fn a_payment_is_checked_and_neither_claimed_nor_settled() {
    for settle in ["after", "before", "concurrent"] {
        for verify in ["remote", "local"] {
            let mut stage = stage(|config| {
                config["defaults"]["settle"] = settle.into();
                config["facilitator"]["verify"] = verify.into();
            });
            let mut good = payment(1);
            if settle != "after" {
                good["accepted"]["extra"]["paymentFlow"] = "upfront".into();
            }
            // The same one twice: nothing is remembered.
            for _ in 0..2 {
                let mut request = stage.start(&paid("/weather", &good));
                if settle == "after" && verify == "remote" {
                    assert_eq!(request.calls.len(), 1, "by /verify where the route asks it");
                    assert!(request.forwarded.is_none());
                    stage.step(&mut request, valid());
                }
                assert_eq!(passed(&request), "shadow_served", "{settle} {verify}");
                assert_eq!(fact(&request, "payer"), Some(Wallet::new(1).address().to_string()));
                assert!(stage.store.0.is_empty(), "no claim is taken");
            }
        }
    }
}

#[test]
fn whatever_is_wrong_with_a_payment_it_passes() {
    let mut stage = stage(|_| {});
    for (answer, outcome) in [
        (invalid("insufficient_funds"), "shadow_refused"),
        (Event::Callout(CalloutAnswer::Lost), "shadow_unknown"),
        (Event::Callout(CalloutAnswer::NotSent), "shadow_unknown"),
        (Event::Callout(CalloutAnswer::Answered { status: 500, body: Vec::new() }), "shadow_unknown"),
    ] {
        let request = stage.play(&paid("/weather", &payment(1)), [answer]);
        assert_eq!(passed(&request), outcome);
    }
    let mut wrong = payment(1);
    wrong["payload"]["authorization"]["value"] = "1".into();
    Wallet::new(1).sign_payment(&mut wrong);
    assert_eq!(passed(&stage.start(&paid("/weather", &wrong))), "shadow_refused");
    let mut late = payment(1);
    late["payload"]["authorization"]["validBefore"] = (NOW - 1).to_string().into();
    Wallet::new(1).sign_payment(&mut late);
    assert_eq!(passed(&stage.start(&paid("/weather", &late))), "shadow_refused");
    let broken = head("GET", "/weather", &[("payment-signature", "!")]);
    assert_eq!(passed(&stage.start(&broken)), "shadow_malformed");
    let long = format!("/weather?{}", "a".repeat(9000));
    assert_eq!(passed(&stage.start(&head("GET", &long, &[]))), "shadow_malformed");
    assert!(stage.store.0.is_empty());
}

#[test]
fn who_leaves_before_the_answer_has_left() {
    let mut stage = stage(|_| {});
    let request = stage.play(&paid("/weather", &payment(1)), [Event::Ended]);
    assert!(request.forwarded.is_none());
    assert_eq!(request.record.unwrap().outcome_word(), "shadow_left");
}

#[test]
fn what_is_priced_by_its_body_is_read_and_passes() {
    let tokens = json!({"usage": "openai", "models": {"m": {"input": "$1", "output": "$2"}}, "max_body_bytes": 100});
    let mut stage = stage(|config| {
        config["routes"][1] = json!({"name": "chat", "match": {"path": "/chat"}, "price": tokens,
            "accepts": [{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}]});
    });
    let chat = head("POST", "/chat", &[("content-type", "application/json")]);
    for (body, outcome) in [
        (Body::Whole(br#"{"model":"m","max_tokens":10,"stream":true}"#.to_vec()), "shadow_unpaid"),
        (Body::Whole(b"{".to_vec()), "shadow_malformed"),
        (Body::Whole(br#"{"model":"other"}"#.to_vec()), "shadow_malformed"),
        (Body::TooLong, "shadow_malformed"),
        (Body::Unreachable, "shadow_overloaded"),
    ] {
        let request = stage.play(&chat, [Event::RequestBody(body)]);
        assert_eq!(passed(&request), outcome);
        if outcome == "shadow_unpaid" {
            assert_eq!(fact(&request, "amount"), Some("63".to_owned()), "43 bytes of input, 10 of output");
        }
    }
}

#[test]
fn a_route_may_be_in_shadow_alone_or_not_at_all() {
    let mut one = stage(|config| {
        config.as_object_mut().unwrap().remove("mode");
        config["routes"][0]["mode"] = "shadow".into();
    });
    assert_eq!(passed(&one.start(&head("GET", "/weather", &[]))), "shadow_unpaid");
    assert_eq!(one.start(&head("GET", "/dear", &[])).status(), 402);
    let mut others = stage(|config| config["routes"][0]["mode"] = "enforce".into());
    assert_eq!(others.start(&head("GET", "/weather", &[])).status(), 402);
    assert_eq!(passed(&others.start(&head("GET", "/dear", &[]))), "shadow_unpaid");
}

#[test]
fn what_could_be_sold_by_another_route_does_not_pass() {
    // An encoded slash: some server or other takes it for the dear one.
    let odd = head("GET", "/%2fdear", &[]);
    assert_eq!(passed(&stage(|_| {}).start(&odd)), "shadow_malformed");
    let mut dear = stage(|config| config["routes"][1]["mode"] = "enforce".into());
    let request = dear.start(&odd);
    assert_eq!((request.status(), request.forwarded), (400, None));
    // One path, read as two routes.
    let climbing = head("GET", "/weather/../dear", &[]);
    let mut both = stage(|config| {
        config["routes"][0]["match"]["path"] = "/weather/{*rest}".into();
        config["routes"][1]["mode"] = "enforce".into();
    });
    assert_eq!(both.start(&climbing).status(), 400);
    // The host in the path of one is that of another.
    let mut hosts = stage(|config| {
        config["routes"][0]["match"] = json!({"path": "/{*rest}", "hosts": ["api.example.com"]});
        config["routes"][1]["match"] = json!({"path": "/dear", "hosts": ["other.example.com"]});
        config["routes"][1]["mode"] = "enforce".into();
    });
    assert_eq!(hosts.start(&head("GET", "//other.example.com/dear", &[])).status(), 400);
    assert_eq!(passed(&hosts.start(&head("GET", "/dear", &[]))), "shadow_unpaid");
}

#[test]
fn all_in_shadow_denies_and_tells_nothing() {
    let mut stage = stage(|config| config["unmatched"] = "deny".into());
    let request = stage.start(&head("GET", "/elsewhere", &[]));
    assert_eq!(passed(&request), "shadow_refused");
    assert_eq!(request.record.unwrap().outcome, Outcome::Refused);
    assert!(stage.start(&head("GET", "/.well-known/x402", &[])).reply.is_none());
    let preflight = [("origin", "https://app.example"), ("access-control-request-method", "GET")];
    assert!(stage.start(&head("OPTIONS", "/weather", &preflight)).reply.is_none());
}

#[test]
fn an_empty_payment_is_none() {
    let mut stage = Stage::new(&base_config());
    for name in ["x-payment", "payment-signature"] {
        for value in ["", " "] {
            let request = stage.start(&head("GET", "/weather", &[(name, value)]));
            assert_eq!((request.status(), request.record.unwrap().outcome), (402, Outcome::Unpaid), "{name}");
        }
    }
}
