//! Who need not pay, who may not, and what is told of settlements.

use crate::common::{
    PAY_TO, Request, Stage, USDC, Wallet, base_config, decode, head, paid, refused, settled, upstream, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::exchange::{Event, Outcome, RequestHead, SettlementResult};
use x402_proxy_wasm::facilitator::CalloutAnswer;

fn stage(change: impl FnOnce(&mut Value)) -> Stage {
    let mut config = base_config();
    config["defaults"]["settle"] = "before".into();
    change(&mut config);
    Stage::new(&config)
}

fn payment(stage: &mut Stage, wallet: u8, nonce: u8) -> Value {
    let unpaid = stage.start(&head("GET", "/weather", &[]));
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    Wallet::new(wallet).pay(&entry, nonce)
}

fn play(stage: &mut Stage, head: &RequestHead, events: impl IntoIterator<Item = Event>) -> Request {
    let mut request = stage.start(head);
    for event in events {
        stage.step(&mut request, event);
    }
    request
}

fn refusal(config: &Value) -> String {
    Config::from_json(config.to_string().as_bytes()).unwrap_err().to_string()
}

// ------------------------------------------------------------------------------------------------ who need not pay

fn caller(names: &[&str]) -> RequestHead {
    head("GET", "/weather", &[]).with_principals(names.iter().map(|name| name.as_bytes().to_vec()))
}

#[test]
fn a_route_is_free_for_the_callers_that_it_names() {
    let principals = json!({"principals": ["spiffe://cluster.local/ns/shop/*", "jobs.internal"]});
    let mut stage = stage(|config| config["defaults"]["free_for"] = principals);
    for (names, is_free) in [
        (vec!["spiffe://cluster.local/ns/shop/sa/web"], true),
        (vec!["spiffe://elsewhere/x", "jobs.internal"], true),
        (vec![], false),
        (vec![""], false),
        (vec!["spiffe://cluster.local/ns/shopping/sa/web"], false),
        (vec!["spiffe://cluster.local/ns/shop"], false),
        (vec!["a.jobs.internal"], false),
        (vec!["Jobs.internal"], false),
    ] {
        let request = stage.start(&caller(&names));
        assert_eq!(request.forwarded.is_some(), is_free, "{names:?}");
        let outcome = request.record.unwrap().outcome;
        assert_eq!(outcome, if is_free { Outcome::Exempt } else { Outcome::Unpaid }, "{names:?}");
    }
    // A caller who need not pay does not become somebody who did.
    let lying = head("GET", "/weather", &[("x-x402-payer", "0x1")]);
    let request = stage.start(&lying.with_principals([b"jobs.internal".to_vec()]));
    assert_eq!(request.forwarded.unwrap().remove, ["x-x402-payer"]);
}

#[test]
fn a_routes_own_list_takes_the_place_of_the_defaults() {
    let mut stage = stage(|config| {
        config["defaults"]["free_for"] = json!({"principals": ["a"]});
        config["routes"][0]["free_for"] = json!({"principals": ["b"]});
    });
    assert!(stage.start(&caller(&["a"])).forwarded.is_none());
    assert!(stage.start(&caller(&["b"])).forwarded.is_some());
}

#[test]
fn no_header_says_who_calls() {
    let mut stage = stage(|config| config["defaults"]["free_for"] = json!({"principals": ["a"]}));
    for name in ["\0principal", "principal", "x-forwarded-client-cert", "x-x402-principal"] {
        assert!(name.starts_with('\0') || stage.start(&head("GET", "/weather", &[(name, "a")])).forwarded.is_none());
    }
}

#[test]
fn a_principal_that_says_too_much_is_refused() {
    for name in ["", "*", "a*", "spiffe://*/ns/a", "spiffe://a/**", "a/*/b"] {
        let mut config = base_config();
        config["routes"][0]["free_for"] = json!({"principals": ["fine", name]});
        let error = refusal(&config);
        assert!(error.starts_with("routes[0].free_for.principals[1]: "), "{error}");
    }
    let mut config = base_config();
    config["routes"] = json!([{"match": {"path": "/"}, "free": true, "free_for": {"principals": ["a"]}}]);
    assert!(refusal(&config).contains("is free, and says how to pay"));
}

// ------------------------------------------------------------------------------------------------- who may not pay

#[test]
fn payers_are_allowed_and_denied() {
    let [first, second] = [1, 2].map(|wallet| Wallet::new(wallet).address().to_string());
    for (payers, welcome) in [
        (json!({"deny": [first]}), [false, true]),
        (json!({"allow": [first]}), [true, false]),
        (json!({"allow": [first, second], "deny": [second]}), [true, false]),
        (json!({"allow": []}), [false, false]),
        (json!({}), [true, true]),
    ] {
        let mut stage = stage(|config| config["payers"] = payers.clone());
        for (wallet, is_welcome) in (1..).zip(welcome) {
            let payment = payment(&mut stage, wallet, 1);
            let request = stage.start(&paid("/weather", &payment));
            assert_eq!(request.calls.len(), usize::from(is_welcome), "{payers}");
            if !is_welcome {
                assert_eq!((request.status(), request.reason()), (403, "payer_not_allowed"));
                assert_eq!(request.reply_header("payment-required"), None, "there are no terms for him");
            }
        }
    }
}

#[test]
fn who_is_not_wanted_any_more_still_gets_what_he_paid_for() {
    let mut stage = stage(|_| ());
    let payment = payment(&mut stage, 1, 1);
    let mut request = stage.start(&paid("/weather", &payment));
    stage.step(&mut request, Event::Ended);
    stage.step(&mut request, settled());
    let mut config = base_config();
    config["payers"] = json!({"deny": [Wallet::new(1).address().to_string()]});
    stage.config = crate::common::read_config(&config);
    let again = play(&mut stage, &paid("/weather", &payment), [upstream(200)]);
    assert_eq!(again.record.as_ref().unwrap().outcome, Outcome::Served, "{}", again.story());
    let third = stage.start(&paid("/weather", &payment));
    assert_eq!(third.record.unwrap().outcome, Outcome::Spent);
}

#[test]
fn a_list_of_payers_holds_addresses() {
    let mut config = base_config();
    config["payers"] = json!({"allow": [PAY_TO], "deny": [USDC, "0x1"]});
    assert!(refusal(&config).starts_with("payers.deny[1]: \"0x1\""), "{}", refusal(&config));
}

// ---------------------------------------------------------------------------------------- what is told of settlements

fn results(request: &Request) -> Vec<(SettlementResult, String)> {
    request.settlements.iter().map(|one| (one.result, one.payment.amount.to_string())).collect()
}

#[test]
fn every_transfer_of_money_is_told_of_once() {
    let mut stage = stage(|_| ());
    let payment = payment(&mut stage, 1, 1);
    // It settles, and the upstream fails: the money has moved, and the response is still owed.
    let first = play(&mut stage, &paid("/weather", &payment), [settled(), upstream(500)]);
    assert_eq!(results(&first), [(SettlementResult::Settled, "1000".to_owned())]);
    let again = play(&mut stage, &paid("/weather", &payment), [upstream(200)]);
    assert_eq!(again.record.as_ref().unwrap().outcome, Outcome::Served);
    assert_eq!(results(&again), [], "that is no other transfer");
}

#[test]
fn what_came_of_a_settlement_is_told() {
    let lost = Event::Callout(CalloutAnswer::Lost);
    for (settle, events, result) in [
        ("before", vec![refused("insufficient_funds")], Some(SettlementResult::Refused)),
        ("before", vec![lost.clone()], Some(SettlementResult::Unknown)),
        ("before", vec![Event::Callout(CalloutAnswer::NotSent)], None),
        ("after", vec![valid(), upstream(200), settled()], Some(SettlementResult::Settled)),
        ("after", vec![valid(), upstream(500)], None),
        ("after", vec![crate::common::invalid("insufficient_funds")], None),
        ("concurrent", vec![upstream(200), lost], Some(SettlementResult::Unknown)),
    ] {
        let mut stage = stage(|config| config["defaults"]["settle"] = settle.into());
        let payment = payment(&mut stage, 1, 1);
        let request = play(&mut stage, &paid("/weather", &payment), events);
        let told: Vec<_> = request.settlements.iter().map(|one| one.result).collect();
        assert_eq!(told, result.into_iter().collect::<Vec<_>>(), "{settle}: {}", request.story());
        for one in &request.settlements {
            assert_eq!((one.payment.scheme.as_str(), one.payment.pay_to.to_string().as_str()), ("exact", PAY_TO));
        }
    }
}

// ------------------------------------------------------------------------------------------------------ other origins

const APP: (&str, &str) = ("origin", "https://app.example.com");

#[test]
fn scripts_of_admitted_origins_may_ask_to_pay() {
    let asks = [("access-control-request-method", "GET"), ("access-control-request-headers", "payment-signature")];
    for (origins, is_admitted) in [
        (json!(["https://app.example.com"]), true),
        (json!(["*"]), true),
        (json!(["https://other.example.com", "https://app.example.com:8443", "http://app.example.com"]), false),
        (json!([]), false),
    ] {
        let mut stage = stage(|config| config["cors"] = json!({"origins": origins}));
        let request = stage.start(&head("OPTIONS", "/weather", &[APP, asks[0], asks[1]]));
        assert_eq!(request.forwarded.is_none(), is_admitted, "{origins}");
        if is_admitted {
            assert_eq!((request.status(), request.reply_header("access-control-allow-methods")), (204, Some("GET")));
            assert_eq!(request.reply_header("access-control-allow-headers"), Some("payment-signature"));
        }
        let admission = head("GET", "/weather", &[APP]).admission(&stage.config);
        let expected = [("access-control-allow-origin", APP.1.to_owned()), ("vary", "origin".to_owned())];
        assert_eq!(admission, if is_admitted { expected.to_vec() } else { Vec::new() });
        assert_eq!(head("GET", "/weather", &[]).admission(&stage.config), []);
    }
}

#[test]
fn an_origin_is_written_as_browsers_write_it() {
    for origin in [
        "",
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/a",
        "HTTPS://a.b",
        "null",
        "https://*.b.c/x",
    ] {
        let mut config = base_config();
        config["cors"] = json!({"origins": [origin]});
        assert!(refusal(&config).starts_with("cors.origins[0]: "), "{origin}");
    }
}

// --------------------------------------------------------------------------------------------------- what is for sale

#[test]
fn agents_find_what_is_for_sale() {
    let mut stage = stage(|config| {
        config["unmatched"] = "deny".into();
        config["routes"] = json!([
            {"match": {"path": "/weather"}, "price": "$0.001", "description": "Weather", "mime_type": "application/json"},
            {"match": {"path": "/healthz"}, "free": true},
            {"match": {"hosts": ["other.example.com"], "path": "/secret"}, "price": "$1"},
            {"match": {"hosts": ["*.example.com"], "methods": ["POST"], "path": "/chat/{room}"}, "price": {
                "usage": "openai", "models": {"*": {"input": "$1", "output": "$1"}}}},
        ]);
    });
    let request = stage.start(&head("GET", "/.well-known/x402?a=b", &[]));
    assert_eq!((request.status(), request.reply_header("access-control-allow-origin")), (200, Some("*")));
    let body = request.body();
    assert_eq!(body["resources"], json!(["http://api.example.com/weather", "http://api.example.com/chat/{room}"]));
    let [weather, chat] = body["items"].as_array().unwrap().as_slice() else { panic!("two are for sale") };
    assert_eq!((&weather["description"], &weather["accepts"][0]["amount"]), (&json!("Weather"), &json!("1000")));
    assert_eq!(
        (&chat["methods"], &chat["accepts"]),
        (&json!(["POST"]), &json!([])),
        "its price depends on the request"
    );
    for (method, path) in [("POST", "/.well-known/x402"), ("GET", "/.well-known/x402/a"), ("GET", "/.WELL-KNOWN/x402")]
    {
        assert_eq!(stage.start(&head(method, path, &[])).status(), 403, "{method} {path}");
    }
}

#[test]
fn the_catalogue_names_the_operators_own_origins() {
    let ask = |stage: &mut Stage, authority: &str| {
        let pseudo =
            [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", "/.well-known/x402")];
        let head = RequestHead::new(pseudo.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        stage.start(&head).body()
    };
    let routes = json!([
        {"match": {"path": "/\"any\""}, "price": "$0.001"},
        {"match": {"hosts": ["a.example", "*.example"], "path": "/a"}, "price": "$0.001"},
        {"match": {"hosts": ["*.b.example"], "path": "/b"}, "price": "$0.001"},
        {"match": {"hosts": ["a.example"], "path": "/first"}, "price": "$0.001"},
    ]);
    let mut plain = stage(|config| config["routes"] = routes.clone());
    for (authority, resources) in [
        ("a.example", json!(["http://a.example/\"any\"", "http://a.example/a", "http://a.example/first"])),
        (
            "X.b.example:8080",
            json!(["http://x.b.example:8080/\"any\"", "http://x.b.example:8080/a", "http://x.b.example:8080/b"]),
        ),
        ("bank", json!(["http://bank/\"any\""])),
        ("b\"ank", json!([])),
        ("", json!([])),
    ] {
        let body = ask(&mut plain, authority);
        assert_eq!(body["resources"], resources, "{authority}");
        let named: Vec<&Value> = body["items"].as_array().unwrap().iter().map(|item| &item["resource"]).collect();
        assert_eq!(json!(named), resources, "{authority}");
    }
    let mut vouched = stage(|config| {
        config["routes"] = routes.clone();
        config["origins"] = json!(["https://api.example.com", "https://a.example"]);
    });
    assert_eq!(ask(&mut vouched, "bank")["resources"], json!(["https://api.example.com/\"any\""]));
    let own = json!(["https://api.example.com/\"any\"", "https://a.example/a", "https://a.example/first"]);
    assert_eq!(ask(&mut vouched, "a.example")["resources"], own);
}

#[test]
fn the_catalogue_has_an_end() {
    let entry = |number: usize| {
        json!({"scheme": "exact", "network": format!("eip155:{}", number + 1), "asset": {
        "address": USDC, "decimals": 6, "eip712": {"name": "USDC", "version": "2"}, "usd_pegged": true}})
    };
    let entries: Vec<Value> = (0..8).map(entry).collect();
    let routes = |hosts: fn(usize) -> Value| -> Value {
        let route = |number| json!({"match": {"hosts": hosts(number), "path": format!("/{number}")}, "price": "$1", "accepts": entries});
        (0..200).map(route).collect()
    };
    let mut full = stage(|config| {
        config["defaults"]["pay_to"] = "0x1111111111111111111111111111111111111111".into();
        config["routes"] = routes(|_| json!([]));
    });
    let request = full.start(&head("GET", "/.well-known/x402", &[]));
    let text = &request.reply.as_ref().unwrap().body;
    assert!((200_000..=256 * 1024 + 200).contains(&text.len()), "{}", text.len());
    let body = request.body();
    assert_eq!(body["truncated"], true);
    let listed = body["items"].as_array().unwrap().len();
    assert_eq!(body["resources"].as_array().unwrap().len(), listed);
    let warnings = &full.config.warnings;
    // How many fit depends a little on the length of the host.
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    let left_out: usize = warning.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(left_out.abs_diff(200 - listed) <= 2, "{warning}, {listed} listed");
    // What a client writes is no way to more.
    let long = format!("{}.example.com", "a.".repeat(20_000));
    let pseudo = [(":method", "GET"), (":authority", &long), (":path", "/.well-known/x402")];
    let head_of_long =
        RequestHead::new(pseudo.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
    assert_eq!(full.start(&head_of_long).body()["resources"], json!([]));
    // Each host has its own.
    let mut shared = stage(|config| {
        config["defaults"]["pay_to"] = "0x1111111111111111111111111111111111111111".into();
        config["routes"] = routes(|number| json!([format!("h{}.example", number % 4)]));
    });
    assert_eq!(shared.config.warnings, [""; 0]);
    let pseudo = [(":method", "GET"), (":authority", "h3.example"), (":path", "/.well-known/x402")];
    let head_of_one =
        RequestHead::new(pseudo.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
    let body = shared.start(&head_of_one).body();
    assert_eq!((body["items"].as_array().unwrap().len(), body.get("truncated")), (50, None));
}

#[test]
fn the_catalogue_leaves_the_operators_own_alone() {
    let silent = stage(|config| config["discovery"] = false.into()).start(&head("GET", "/.well-known/x402", &[]));
    assert!(silent.forwarded.is_some());
    for route in [
        json!({"match": {"path": "/{*rest}"}, "price": "$1"}),
        json!({"match": {"path": "/.well-known/{x}"}, "free": true}),
    ] {
        let request = stage(|config| config["routes"] = json!([route])).start(&head("GET", "/.well-known/x402", &[]));
        assert_ne!(request.status(), 200);
    }
}

// ------------------------------------------------------------------------------------------------------------- people

#[cfg(feature = "page")]
#[test]
fn a_browser_gets_a_page_and_a_program_does_not() {
    const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let page = |stage: &mut Stage, headers: &[(&str, &str)]| {
        let request = stage.start(&head("GET", "/weather", headers));
        assert_eq!(request.status(), 402);
        assert!(request.reply_header("payment-required").is_some(), "the terms are there for everybody");
        assert_eq!(request.reply_header("cache-control"), Some("no-store"));
        request.reply_header("content-type").unwrap().starts_with("text/html")
    };
    let mut plain = stage(|_| ());
    assert!(page(&mut plain, &[BROWSER]));
    assert!(!page(&mut plain, &[("accept", "*/*")]));
    assert!(!page(&mut plain, &[BROWSER, ("sec-fetch-dest", "empty")]));
    assert!(!page(&mut stage(|config| config["page"] = json!({"enabled": false})), &[BROWSER]));
    let mut own = stage(|config| config["page"] = json!({"html": "<p>{{price}}</p>", "csp": "default-src 'none'"}));
    let request = own.start(&head("GET", "/weather", &[BROWSER]));
    assert_eq!(request.reply.as_ref().unwrap().body, "<p>$0.001</p>");
    assert_eq!(request.reply_header("content-security-policy"), Some("default-src 'none'"));
    for page in [json!({"html": "{{unknown}}"}), json!({"csp": "x"}), json!({"html": "<p>", "csp": "a\nb"})] {
        let mut config = base_config();
        config["page"] = page;
        assert!(refusal(&config).starts_with("page."), "{}", refusal(&config));
    }
}
