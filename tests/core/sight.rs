//! First sight of a request: what is decided in the host's own list of headers is what the exchange decides of what it keeps.
//! (`Stage::arrive` compares the two for every request of every test, and of the fuzzer.)

use crate::common::heads::{CONFIGS, stages};
use crate::common::{Stage, Wallet, base_config, decode, encode, head};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Fate, Head, RequestHead};

/// What is decided at first sight, in a word.
fn sight(stage: &mut Stage, head: &RequestHead) -> &'static str {
    let at_once = stage.sight(head);
    let _ = stage.arrive(head);
    match at_once.map(|settled| settled.fate) {
        Ok(Fate::Passes(_)) => "passes",
        Ok(Fate::Answered(reply)) => match reply.status {
            402 => "402",
            403 => "403",
            200 => "200",
            _ => "refused",
        },
        Err(_) => "closer",
    }
}

#[test]
fn what_passes_free_or_gets_the_terms_of_a_fixed_price_takes_no_closer_look() {
    let mut stage = Stage::new(&base_config());
    let browser = [("accept", "text/html"), ("sec-fetch-dest", "document")];
    let asks = [("origin", "https://a.example"), ("access-control-request-method", "GET")];
    let origin = [("origin", "https://a.example")];
    for (method, path, headers, expected) in [
        ("GET", "/healthz", &[][..], "passes"),
        ("GET", "/elsewhere", &[], "passes"),
        ("GET", "/healthz", &[("x-x402-payer", "0x1")], "passes"),
        ("GET", "/weather", &[], "402"),
        ("HEAD", "/Weather/?q=%22", &[], "402"),
        ("OPTIONS", "/weather", &[], "402"),
        ("POST", "/dear", &[("content-length", "5")], "402"),
        ("GET", "/weather", &browser, "402"),
        ("GET", "/weather", &origin, "402"),
        ("GET", "/.well-known/x402", &[], "200"),
        ("GET", "/x/..%2fweather", &[], "refused"),
        ("OPTIONS", "/weather", &asks, "closer"),
        ("GET", "/weather", &[("payment-signature", "")], "closer"),
        ("GET", "/weather", &[("x-payment", "e30=")], "closer"),
    ] {
        assert_eq!(sight(&mut stage, &head(method, path, headers)), expected, "{method} {path} {headers:?}");
    }
    let long = format!("/weather?{}", "x".repeat(9000));
    assert_eq!(sight(&mut stage, &head("GET", &long, &[])), "closer");
}

#[test]
fn where_terms_depend_on_more_than_the_url_they_take_a_closer_look() {
    for change in [
        json!({"mode": "shadow"}),
        json!({"extensions": {"sign_in_with_x": {"lasts": "60s"}}}),
        json!({"free_for": {"principals": ["a"]}}),
        json!({"accepts": [{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}]}),
        json!({"pay_to": {"metadata": {"namespace": "a", "key": "b"}}}),
    ] {
        let mut config = base_config();
        config["routes"][0].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut stage = Stage::new(&config);
        assert_eq!(sight(&mut stage, &head("GET", "/weather", &[])), "closer", "{change}");
        assert_eq!(sight(&mut stage, &head("GET", "/healthz", &[])), "passes", "{change}");
    }
    let mut signing = base_config();
    signing["offer_receipt"] = json!({"key": format!("0x{}", "11".repeat(32))});
    signing["origins"] = json!(["https://api.example.com"]);
    assert_eq!(sight(&mut Stage::new(&signing), &head("GET", "/weather", &[])), "closer");
}

#[test]
fn a_head_that_is_kept_is_the_one_that_was_seen() {
    let mut stage = Stage::new(&base_config());
    let terms = stage.start(&head("GET", "/weather", &[]));
    let entry: Value = decode(terms.reply_header("payment-required").unwrap())["accepts"][0].clone();
    let payment = encode(&Wallet::new(1).pay(&entry, 1));
    let names = ["X-Payment", "payment-signature", "content-type", "Content_Type", "x-x402-payer", "cookie", ":path"];
    let list: Vec<(&[u8], &[u8])> =
        names.iter().chain(&names).map(|name| (name.as_bytes(), payment.as_bytes())).collect();
    let kept = Head::read(&list).into_owned();
    assert_eq!(kept, Head::read(&list));
    assert_eq!(kept, RequestHead::new(list.iter().map(|(name, value)| (name.to_vec(), value.to_vec()))));
}

/// Under each configuration, each of some requests with each of some headers: `Stage::arrive` compares.
#[test]
fn first_sight_tells_what_the_exchange_does() {
    assert_eq!(stages().len(), CONFIGS.len());
    let headers = [
        ("accept", "text/html"),
        ("origin", "https://app.example"),
        ("access-control-request-method", "GET"),
        ("payment-signature", " "),
        ("payment-signature", "e30="),
        ("X_PAYMENT", "e30="),
        ("sign-in-with-x", "e30="),
        ("x-x402-id", "1"),
        ("x-envoy-original-url", "/"),
        ("x-original-url", "/healthz"),
        ("x-forwarded-host", "b.example"),
        ("x-forwarded-proto", "https"),
        ("content-length", "7"),
    ];
    let paths =
        ["/weather", "/dear", "/healthz", "/x", "/.well-known/x402", "/flush", "//weather", "/WEATHER;a?b=\"c\""];
    for mut stage in stages() {
        for (path, method) in
            paths.iter().flat_map(|path| ["GET", "HEAD", "OPTIONS", "POST"].map(|method| (path, method)))
        {
            let _ = stage.arrive(&head(method, path, &[]));
            for header in headers {
                let _ = stage.arrive(&head(method, path, &[header]).with_body(method == "POST"));
            }
        }
        for (method, path) in [("OPTIONS", "/weather"), ("GET", "/weather"), ("GET", "/healthz")] {
            for (first, second) in headers.iter().flat_map(|first| headers.map(|second| (*first, second))) {
                let _ = stage.arrive(&head(method, path, &[first, second]));
            }
        }
    }
}
