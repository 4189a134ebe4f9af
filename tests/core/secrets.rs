//! Nothing of a configuration that may be a secret stands in the error that refuses it, whatever the mistake and wherever
//! the secret was pasted.

use crate::common::{PAY_TO, USDC, base_config};
use serde_json::{Value, json};
use x402_proxy_wasm::config::Config;

/// What a key looks like.
const KEY: &str = "s3cr3tMARKER0123456789";
/// What a password looks like that a person has made up.
const PASSWORD: &str = "hunter2";

/// A configuration that says something in every place where a text may stand.
fn whole() -> Value {
    let service =
        |url: &str| json!({"cluster": "c", "url": url, "timeout": "2s", "headers": {"X-Api-Key": "a", "x-mine": "b"}});
    let mut config = base_config();
    config["facilitator"] = service("https://facilitator.example/v2");
    config["rpc"] = json!({"base-sepolia": service("https://node.example/v2/a")});
    config["networks"] = json!({"anvil": {"chain_id": 31337, "assets": {"TUSD": {
        "address": USDC, "decimals": 6, "eip712": {"name": "Test", "version": "1"}, "usd_pegged": true}}}});
    config["origins"] = json!(["https://api.example.com"]);
    config["cors"] = json!({"origins": ["https://app.example.com"]});
    config["keep_headers"] = json!(["x-original-url"]);
    config["payers"] = json!({"deny": [PAY_TO]});
    config["offer_receipt"] = json!({"key": format!("0x{}", "11".repeat(32)), "transaction": true});
    config["unmatched"] = "deny".into();
    config["routes"] = json!([
        {"name": "a", "match": {"hosts": ["*.example.com"], "methods": ["GET"], "path": "/a/{b}"}, "price": {"amount": "1"},
            "description": "A", "mime_type": "text/plain", "settle": "after", "pay_to": {"split": [{"to": PAY_TO, "weight": 1}]},
            "free_for": {"principals": ["spiffe://cluster.local/ns/shop/*"]},
            "accepts": [{"scheme": "exact", "network": "anvil", "asset": "TUSD"}],
            "extensions": {"payment_identifier": "optional", "bazaar": {"query": {"a": "b"}},
                "sign_in_with_x": {"lasts": "60s", "statement": "Hello"}}},
        {"match": {"path": "/b"}, "price": {"quote": service("https://prices.example/a")}},
        {"match": {"path": "/c"}, "price": {"usage": "openai", "minimum": "$0.1",
            "models": {"gpt-4o": {"input": "$1", "output": {"amount": "1"}}}},
            "accepts": [{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}]},
    ]);
    config
}

/// The places of all texts in a JSON text, names among them: from the quote to behind the other one.
fn texts(json: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut begun = None;
    let mut is_escaped = false;
    for (at, byte) in json.bytes().enumerate() {
        match (begun, byte) {
            (None, b'"') => begun = Some(at),
            (Some(start), b'"') if !is_escaped => {
                found.push((start, at + 1));
                begun = None;
            }
            _ => {}
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    found
}

/// What may stand there by mistake in place of a text, as JSON or nearly so.
fn mistakes(secret: &str, text: &str) -> Vec<String> {
    let quoted = |text: &str| json!(text).to_string();
    let mut mistakes: Vec<String> = [
        secret.to_owned(),
        format!("{secret}{text}"),
        format!("{text}{secret}"),
        format!("Bearer {secret}"),
        format!("x-api-key: {secret}"),
        format!("{secret}\n"),
        format!("https://user:{secret}@node.example"),
        format!("https://{secret}@node.example"),
        format!("https://node.example/v2/{secret}?x=1"),
        format!("https://node.example/?key={secret}"),
        format!("https://node.example:x/{secret}"),
        format!("wss://node.example/{secret}"),
        format!("0x{secret}"),
        format!("`{secret}`, expected x"),
    ]
    .iter()
    .map(|text| quoted(text))
    .collect();
    let secret = quoted(secret);
    mistakes.extend([
        format!("[{secret}]"),
        format!("[[{secret}], 7]"),
        format!("{{{secret}: 1}}"),
        format!("{{\"key\": {secret}, \"key\": {secret}}}"),
        format!("{{{secret}: 1, {secret}: 2}}"),
        format!("{{\"headers\": {secret}}}"),
        secret.trim_matches('"').to_owned(),
        format!("{secret} {secret}"),
        format!("{}: {secret}", secret.trim_matches('"')),
        secret.trim_end_matches('"').to_owned(),
    ]);
    mistakes
}

/// The error of a configuration, if it is wrong.
fn refusal(text: &str) -> Option<String> {
    Config::from_host(text.as_bytes(), &|_| None).err().map(|error| error.to_string())
}

#[track_caller]
fn assert_hidden(secret: &str, text: &str) -> bool {
    let Some(error) = refusal(text) else { return false };
    let (said, secret) = (error.to_lowercase(), secret.to_lowercase());
    // A part of a key is a part of a secret.
    let parts = secret.as_bytes().windows(secret.len().min(7));
    let shown = parts.map(|part| std::str::from_utf8(part).unwrap()).find(|part| said.contains(part));
    assert_eq!(shown, None, "{error}\n{text}");
    assert!(!error.contains(char::is_control), "{error:?}");
    true
}

#[test]
fn a_key_is_never_repeated_wherever_it_was_pasted() {
    assert_eq!(refusal(&whole().to_string()), None, "all else is right");
    let json = whole().to_string();
    let mut refused = 0;
    for (start, end) in texts(&json) {
        for mistake in mistakes(KEY, &json[start + 1..end - 1]) {
            let text = format!("{}{mistake}{}", &json[..start], &json[end..]);
            refused += usize::from(assert_hidden(KEY, &text));
            refused += usize::from(assert_hidden(KEY, &format!("{}{mistake}", &json[..start])));
        }
    }
    assert!(refused > 4000, "{refused}");
}

#[test]
fn a_password_is_never_repeated_where_secrets_belong() {
    let whole = whole();
    let json = whole.to_string();
    let places = texts(&json);
    // The text behind one of these names, and the names and texts of headers.
    for name in ["\"url\":", "\"key\":", "\"headers\":"] {
        let mut found = 0;
        for (at, _) in json.match_indices(name) {
            let begin = at + name.len();
            let end = if name == "\"headers\":" { begin + json[begin..].find('}').unwrap() } else { begin + 1 };
            for &(start, end) in places.iter().filter(|(start, _)| (begin..end).contains(start)) {
                for mistake in mistakes(PASSWORD, &json[start + 1..end - 1]) {
                    assert_hidden(PASSWORD, &format!("{}{mistake}{}", &json[..start], &json[end..]));
                    found += 1;
                }
            }
        }
        assert!(found >= 24, "{name}");
    }
    let mut refused = 0;
    // The whole of what a name stands for, written as something else. Networks have names of the operator's choice.
    for (pointer, secret) in [
        ("/facilitator", PASSWORD),
        ("/facilitator/headers", PASSWORD),
        ("/rpc/base-sepolia/headers", PASSWORD),
        ("/rpc/base-sepolia", PASSWORD),
        ("/offer_receipt", PASSWORD),
        ("/rpc", KEY),
        ("/networks", KEY),
        ("/routes", KEY),
    ] {
        for mistake in mistakes(secret, "") {
            let Ok(value) = serde_json::from_str::<Value>(&mistake) else { continue };
            let mut config = whole.clone();
            *config.pointer_mut(pointer).unwrap() = value;
            refused += usize::from(assert_hidden(secret, &config.to_string()));
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn name_and_value_of_a_header_may_be_swapped_and_neither_is_repeated() {
    for headers in [
        json!({"Bearer hunter2": "authorization"}),
        json!({"hunter2": "x-api-key\n"}),
        json!({"hunter2": "a", "HUNTER2": "b"}),
        json!({"authorization": "Bearer hunter2\n"}),
        json!({"authorization: Bearer hunter2": ""}),
        json!({"authorization": {"hunter2": "a"}}),
        json!({"authorization": ["hunter2"]}),
        json!({"hunter2": 7}),
        json!([{"name": "authorization", "value": "hunter2"}]),
        json!("authorization: hunter2"),
    ] {
        let mut config = whole();
        config["facilitator"]["headers"] = headers;
        let error = refusal(&config.to_string()).unwrap();
        assert!(error.starts_with("facilitator.headers") && !error.to_lowercase().contains("hunter2"), "{error}");
    }
    let twice = whole().to_string().replacen(r#""headers":{"#, r#""headers":{"hunter2":"a","hunter2":"b","#, 1);
    assert!(assert_hidden(PASSWORD, &twice));
}

#[test]
fn what_is_no_configuration_at_all_is_not_repeated() {
    for text in [
        "hunter2",
        "key: hunter2",
        "\"hunter2\"",
        "[\"hunter2\"]",
        "{\"hunter2",
        "{\"hunter2\": hunter2",
        "{hunter2: 1}",
    ] {
        assert!(assert_hidden(PASSWORD, text));
    }
}
