use std::collections::BTreeMap;

use serde_json::{Value, json};

use std::time::Duration;

use super::*;
use crate::json;
use crate::ledger::Ledger;
use crate::money::Amount;
use crate::networks::SOLANA;
use crate::route::{Decision, Target};
use crate::x402::Requirement;
use crate::x402::payment::Payer;
use crate::x402::requirement::{Evm, PaymentFlow, Rail, domain_separator};

const PAY_TO: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
const OTHER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/// The least that charges for something.
fn least() -> Value {
    json!({
        "facilitator": {"cluster": "facilitator", "url": "http://127.0.0.1:4021"},
        "routes": [{
            "match": {"path": "/weather"},
            "price": "$0.001",
            "pay_to": PAY_TO,
            "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}],
        }],
    })
}

/// Everything that can be said, all of it good.
fn whole() -> Value {
    json!({
        "facilitator": {
            "cluster": "facilitator",
            "url": "https://facilitator.example:8443/v2/",
            "timeout": "0.5s",
            "verify": "local",
            "headers": {"X-Api-Key": "secret"},
        },
        "rpc": {
            "base-sepolia": {
                "cluster": "node",
                "url": "https://node.example/v1/key",
                "timeout": "3s",
                "headers": {"Authorization": "Bearer secret"},
                "confirmations": 3,
                "log_range": 500,
            },
            "eip155:31337": {"cluster": "anvil", "url": "http://127.0.0.1:8545"},
        },
        "networks": {
            "anvil": {"chain_id": 31337, "assets": {"TUSD": inline_asset()}},
        },
        "defaults": {
            "pay_to": PAY_TO,
            "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC", "contract_wallets": true, "confirm": true}],
            "settle": "before",
            "max_timeout_seconds": 60,
        },
        "routes": [
            {
                "name": "weather",
                "match": {"hosts": ["api.example.com", "*.example.org"], "methods": ["GET"], "path": "/weather"},
                "price": "$0.001",
                "description": "Weather data",
                "mime_type": "application/json",
            },
            {
                "name": "tokens",
                "match": {"methods": ["post"], "path": "/v1/{model}/{*rest}"},
                "price": {"amount": "1000"},
                "pay_to": OTHER,
                "accepts": [
                    {"scheme": "exact", "network": "anvil", "asset": "TUSD"},
                    {"scheme": "exact", "network": "eip155:84532", "asset": inline_asset(), "pay_to": USDC},
                ],
                "settle": "after",
                "max_timeout_seconds": 120,
            },
            {"match": {"path": "/healthz"}, "free": true},
        ],
        "unmatched": "deny",
        "keep_headers": ["X-Original-URL"],
        "ledger": {"max_claims": 4096},
    })
}

fn inline_asset() -> Value {
    json!({
        "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
        "decimals": 18,
        "eip712": {"name": "Test Dollar", "version": "1"},
        "transfer_method": "eip3009",
        "usd_pegged": true,
    })
}

fn read(json: &Value) -> Config {
    Config::from_json(json.to_string().as_bytes()).unwrap()
}

fn refused(json: &Value) -> ConfigError {
    Config::from_json(json.to_string().as_bytes()).unwrap_err()
}

/// Sets what stands at a JSON pointer, whose last step may be new.
fn set(json: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
        parent => parent[last] = value,
    }
}

/// The whole configuration with one thing set.
fn with(pointer: &str, value: Value) -> Value {
    let mut json = whole();
    set(&mut json, pointer, value);
    json
}

fn terms(config: &Config, index: usize) -> &RouteTerms {
    config.routes[index].terms.as_ref().unwrap()
}

fn requirement(config: &Config, route: usize, entry: usize) -> &Requirement {
    &terms(config, route).offers[entry].requirement
}

// ------------------------------------------------------------------------------------------- what is taken, and how

#[test]
fn the_least_gets_the_documented_defaults() {
    let config = read(&least());
    let (facilitator, service) = (&config.facilitators[0], &config.facilitators[0].service);
    assert_eq!((service.scheme.as_str(), service.authority.as_str()), ("http", "127.0.0.1:4021"));
    assert_eq!((service.base_path.as_str(), service.timeout), ("", Duration::from_secs(10)));
    assert_eq!((facilitator.verify, service.headers.len()), (Verify::Remote, 0));
    assert_eq!((config.unmatched, config.kept_headers.len()), (Unmatched::Free, 0));
    assert_eq!(config.ledger, Ledger::with_room_for(262_144));
    assert_eq!(&*config.routes[0].label, "0");
    let terms = terms(&config, 0);
    assert_eq!((terms.settle, terms.description.as_str(), terms.mime_type.as_str()), (Settle::After, "", ""));
    let requirement = requirement(&config, 0, 0);
    assert_eq!(requirement.max_timeout_seconds, 300);
    assert_eq!(requirement.payment_flow, PaymentFlow::Authorization);
    assert!(!requirement.evm().unwrap().contract_wallets);
}

#[test]
fn the_whole_means_what_it_says() {
    let config = read(&whole());
    let (facilitator, service) = (&config.facilitators[0], &config.facilitators[0].service);
    assert_eq!((service.scheme.as_str(), service.authority.as_str()), ("https", "facilitator.example:8443"));
    assert_eq!((service.base_path.as_str(), service.timeout), ("/v2", Duration::from_millis(500)));
    assert_eq!(facilitator.verify, Verify::Local);
    assert_eq!(service.headers, [("x-api-key".to_owned(), "secret".to_owned())]);
    let rpcs = [&terms(&config, 0).offers[0], &terms(&config, 1).offers[0]].map(|offer| offer.rpc.as_deref().unwrap());
    assert_eq!((rpcs[0].service.authority.as_str(), rpcs[0].service.base_path.as_str()), ("node.example", "/v1/key"));
    assert_eq!((rpcs[0].service.timeout, rpcs[0].confirmations, rpcs[0].log_range), (Duration::from_secs(3), 3, 500));
    assert_eq!(rpcs[0].service.headers, [("authorization".to_owned(), "Bearer secret".to_owned())]);
    assert_eq!((rpcs[1].service.cluster.as_str(), rpcs[1].confirmations, rpcs[1].log_range), ("anvil", 1, 1800));
    assert_eq!(rpcs[1].service.timeout, Duration::from_secs(5));
    assert!(terms(&config, 0).offers[0].confirm);
    assert!(terms(&config, 1).offers.iter().all(|offer| !offer.confirm));
    assert_eq!(terms(&config, 1).offers[1].rpc, terms(&config, 0).offers[0].rpc, "by whatever name");
    assert_eq!(config.unmatched, Unmatched::Deny);
    assert_eq!(config.kept_headers, ["x-original-url"]);
    assert!(config.keeps_header("x-original-url") && !config.keeps_header("x-rewrite-url"));
    assert_eq!(config.ledger, Ledger::with_room_for(4096));
    let labels: Vec<&str> = config.routes.iter().map(|route| &*route.label).collect();
    assert_eq!(labels, ["weather", "tokens", "2"]);
    assert_eq!(config.routes[2].terms, None);

    assert_eq!((terms(&config, 0).description.as_str(), terms(&config, 0).settle), ("Weather data", Settle::Before));
    assert_eq!(terms(&config, 0).mime_type, "application/json");
    let weather = requirement(&config, 0, 0);
    assert_eq!((weather.network.as_str(), weather.evm().unwrap().chain_id), ("eip155:84532", 84532));
    assert_eq!(weather.evm().unwrap().v1_network.as_deref(), Some("base-sepolia"));
    assert_eq!((weather.amount, weather.max_timeout_seconds), (Amount::from(1000), 60));
    assert_eq!((weather.asset().to_string(), weather.pay_to().to_string()), (USDC.to_owned(), PAY_TO.to_owned()));
    assert_eq!(
        (weather.evm().unwrap().eip712_name.as_str(), weather.evm().unwrap().eip712_version.as_str()),
        ("USDC", "2")
    );
    assert_eq!((weather.payment_flow, weather.evm().unwrap().contract_wallets), (PaymentFlow::Upfront, true));
    let Evm { transfer_method, asset, eip712_name, eip712_version, chain_id, .. } = weather.evm().unwrap();
    let separator = domain_separator(*transfer_method, *asset, eip712_name, eip712_version, *chain_id);
    assert_eq!(weather.evm().unwrap().domain_separator, separator);
}

#[test]
fn a_route_stands_over_the_defaults_and_an_entry_over_the_route() {
    let config = read(&whole());
    assert_eq!(terms(&config, 1).settle, Settle::After);
    let (first, second) = (requirement(&config, 1, 0), requirement(&config, 1, 1));
    assert_eq!((first.pay_to().to_string(), second.pay_to().to_string()), (OTHER.to_owned(), USDC.to_owned()));
    assert_eq!((first.max_timeout_seconds, first.payment_flow), (120, PaymentFlow::Authorization));
    assert!(!first.evm().unwrap().contract_wallets);
}

#[test]
fn networks_and_assets_can_be_brought_along() {
    let config = read(&whole());
    let (named, inline) = (requirement(&config, 1, 0), requirement(&config, 1, 1));
    assert_eq!((named.evm().unwrap().chain_id, named.network.as_str()), (31337, "eip155:31337"));
    assert_eq!(named.evm().unwrap().v1_network, None);
    for requirement in [named, inline] {
        assert_eq!(requirement.asset().to_string(), inline_asset()["address"].as_str().unwrap());
        assert_eq!(
            (requirement.evm().unwrap().eip712_name.as_str(), requirement.evm().unwrap().eip712_version.as_str()),
            ("Test Dollar", "1")
        );
        assert_eq!(requirement.amount, Amount::from(1000));
    }
    assert_eq!(
        (inline.evm().unwrap().chain_id, inline.evm().unwrap().v1_network.as_deref()),
        (84532, Some("base-sepolia"))
    );

    // The asset's decimals make the dollars.
    let config = read(&with("/routes/1/price", json!("$0.1")));
    assert_eq!(requirement(&config, 1, 0).amount.to_string(), "100000000000000000");

    // A network that the table knows gets an asset more, or one of its own replaced, and keeps the others.
    let mut json = with("/networks/celo", json!({"assets": {"TUSD": inline_asset(), "USDC": inline_asset()}}));
    set(
        &mut json,
        "/routes/1/accepts",
        json!([
            {"scheme": "exact", "network": "celo", "asset": "TUSD"},
            {"scheme": "exact", "network": "eip155:42220", "asset": "USDT"},
        ]),
    );
    let config = read(&json);
    let (added, kept) = (requirement(&config, 1, 0), requirement(&config, 1, 1));
    assert_eq!((added.evm().unwrap().chain_id, added.evm().unwrap().eip712_name.as_str()), (42220, "Test Dollar"));
    assert_eq!((kept.evm().unwrap().chain_id, kept.evm().unwrap().eip712_name.as_str()), (42220, "Tether USD"));
    set(&mut json, "/routes/1/accepts/1/asset", json!("USDC"));
    assert_eq!(refused(&json).path, "routes[1].accepts[1]", "now the two are the same");

    // Any chain can be named by its id, with an asset of one's own.
    let entry = json!({"scheme": "exact", "network": "eip155:31338", "asset": inline_asset()});
    let config = read(&with("/routes/1/accepts", json!([entry])));
    assert_eq!(
        (requirement(&config, 1, 0).evm().unwrap().chain_id, &requirement(&config, 1, 0).evm().unwrap().v1_network),
        (31338, &None)
    );
}

#[test]
fn a_known_name_with_another_chain_is_unknown_to_version_1() {
    // Its clients would sign for the chain that they know by that name.
    let mut json = with("/networks/base-sepolia", json!({"chain_id": 31337, "assets": {"USDC": inline_asset()}}));
    set(&mut json, "/routes/1/accepts", json!([{"scheme": "exact", "network": "anvil", "asset": "TUSD"}]));
    set(&mut json, "/rpc", json!({"anvil": {"cluster": "node", "url": "http://node"}}));
    let config = read(&json);
    let requirement = requirement(&config, 0, 0);
    assert_eq!(
        (requirement.evm().unwrap().chain_id, requirement.evm().unwrap().eip712_name.as_str()),
        (31337, "Test Dollar")
    );
    assert_eq!(requirement.evm().unwrap().v1_network, None);
}

#[test]
fn only_what_settles_last_is_no_payment_upfront() {
    for (word, settle, flow) in [
        ("after", Settle::After, PaymentFlow::Authorization),
        ("before", Settle::Before, PaymentFlow::Upfront),
        ("concurrent", Settle::Concurrent, PaymentFlow::Upfront),
    ] {
        let config = read(&with("/routes/1/settle", json!(word)));
        assert_eq!((terms(&config, 1).settle, requirement(&config, 1, 0).payment_flow), (settle, flow));
    }
}

#[test]
fn routes_are_found_by_the_configured_hosts_methods_and_paths() {
    let config = read(&whole());
    let decide = |method, authority, path: &'static str| {
        config.table.decide(Target { method, authority, path: path.as_bytes() })
    };
    assert_eq!(decide("GET", "api.example.com", "/weather"), Decision::Priced(0));
    assert_eq!(decide("HEAD", "x.example.org:8080", "/weather"), Decision::Priced(0));
    assert_eq!(decide("GET", "example.org", "/weather"), Decision::Unmatched);
    assert_eq!(decide("POST", "anything", "/v1/gpt/chat/completions"), Decision::Priced(1));
    assert_eq!(decide("GET", "anything", "/v1/gpt/chat/completions"), Decision::Unmatched);
    assert_eq!(decide("PUT", "anything", "/healthz"), Decision::Free(2));
}

#[test]
fn the_documented_example_is_taken() {
    // Section by section as the documentation has it, in so far as it is built.
    let config = read(&json!({
        "facilitator": {
            "cluster": "facilitator",
            "url": "http://127.0.0.1:4021",
            "timeout": "10s",
            "verify": "remote",
            "headers": {},
        },
        "networks": {},
        "defaults": {
            "pay_to": PAY_TO,
            "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}],
            "settle": "after",
            "max_timeout_seconds": 300,
        },
        "routes": [
            {
                "name": "weather",
                "match": {"hosts": ["api.example.com"], "methods": ["GET"], "path": "/weather"},
                "price": "$0.001",
                "description": "Weather data",
                "mime_type": "application/json",
            },
            {"match": {"path": "/healthz"}, "free": true},
        ],
        "unmatched": "free",
    }));
    assert_eq!(requirement(&config, 0, 0).amount, Amount::from(1000));
    assert_eq!(config.unmatched, Unmatched::Free);
}

#[test]
fn whole_numbers_may_come_as_doubles() {
    // As Istio writes them.
    let text = whole().to_string();
    for (from, to) in [
        ("\"max_timeout_seconds\":60", "\"max_timeout_seconds\":60.0"),
        ("\"max_timeout_seconds\":120", "\"max_timeout_seconds\":120.000"),
        ("\"chain_id\":31337", "\"chain_id\":31337.0"),
        ("\"decimals\":18", "\"decimals\":18.0"),
        ("\"max_claims\":4096", "\"max_claims\":4096.0"),
    ] {
        assert!(text.contains(from), "{from}");
        let config = Config::from_json(text.replace(from, to).as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.routes, read(&whole()).routes);
        assert_eq!(config.ledger, read(&whole()).ledger);
    }
}

#[test]
fn values_at_their_limits_are_taken() {
    for (pointer, value) in [
        ("/facilitator/timeout", json!("0.001s")),
        ("/facilitator/timeout", json!("600s")),
        ("/facilitator/url", json!("http://[::1]:4021")),
        ("/facilitator/url", json!("HTTP://facilitator/")),
        ("/defaults/max_timeout_seconds", json!(10)),
        ("/ledger/max_claims", json!(1)),
        ("/ledger/max_claims", json!(16_777_216)),
        ("/networks/anvil/assets/TUSD/decimals", json!(0)),
        ("/networks/anvil/assets/TUSD/decimals", json!(77)),
        ("/routes/0/price", json!("$0.000001")),
        ("/routes/0/description", json!("x".repeat(2048))),
        ("/routes/0/mime_type", json!("")),
        ("/routes/0/match/hosts", json!([])),
        ("/routes/0/match/methods", json!(["PROPFIND", "get"])),
        ("/routes/0/match/path", json!("/")),
        ("/routes/0/match/path", json!("/{*rest}")),
        ("/routes", json!([])),
        ("/keep_headers", json!([])),
        ("/unmatched", json!("free")),
    ] {
        let json = with(pointer, value.clone());
        let read = Config::from_json(json.to_string().as_bytes());
        assert!(read.is_ok(), "{pointer}: {value}: {}", read.unwrap_err());
    }
}

// ------------------------------------------------------------------------------------------- what is refused, and why

#[track_caller]
fn assert_refused(error: &ConfigError, path: &str, message: &str, what: &str) {
    assert_eq!(error.path, path, "{what}: {error}");
    assert!(error.message.contains(message), "{what}: {error}");
    assert!(!error.message.contains(" at line "), "{what}: {error}");
    assert_eq!(error.to_string(), format!("{path}: {}", error.message));
}

#[test]
fn unknown_keys_are_refused_by_their_own_path() {
    for pointer in [
        "/price",
        "/rpc/base-sepolia/confirm",
        "/networks/anvil/name",
        "/networks/anvil/assets/TUSD/eip712/chainId",
        "/defaults/price",
        "/defaults/accepts/0/amount",
        "/routes/0/prise",
        "/routes/0/match/pth",
        "/routes/1/accepts/1/assets",
        "/routes/1/accepts/1/asset/name",
    ] {
        let path = path_of(pointer);
        let key = pointer.rsplit('/').next().unwrap();
        for value in [json!(1), json!({"a": [1]}), json!("x"), Value::Null] {
            let error = refused(&with(pointer, value));
            assert_refused(&error, &path, &format!("unknown field `{key}`"), pointer);
            assert!(error.message.contains(", expected "), "{error}");
        }
    }
    // A key that is not even nearly a known one may be a secret in the wrong place.
    for pointer in [
        "/hunter2",
        "/facilitator/token",
        "/networks/anvil/assets/TUSD/symbol",
        "/routes/1/price/value",
        "/routes/1/accepts/1/asset/eip712/salt",
        "/ledger/size",
    ] {
        let (parent, _) = pointer.rsplit_once('/').unwrap();
        let path = if parent.is_empty() { "…".to_owned() } else { format!("{}.…", path_of(parent)) };
        for value in [json!(1), json!({"a": [1]}), json!("x"), Value::Null] {
            let error = refused(&with(pointer, value));
            assert_refused(&error, &path, "unknown field (not shown: it may be a key), expected ", pointer);
        }
    }
}

#[test]
fn wrong_types_are_refused_by_their_own_path() {
    const TEXT: &str = "a string";
    for (pointer, message) in [
        ("/facilitator", "expected an object"),
        ("/facilitator/cluster", TEXT),
        ("/facilitator/url", TEXT),
        ("/facilitator/headers", "expected an object"),
        ("/facilitator/headers/X-Api-Key", TEXT),
        ("/networks", "expected an object"),
        ("/networks/anvil", "expected an object"),
        ("/networks/anvil/chain_id", "expected a whole number"),
        ("/networks/anvil/assets", "expected an object"),
        ("/networks/anvil/assets/TUSD", "expected an object"),
        ("/networks/anvil/assets/TUSD/address", TEXT),
        ("/networks/anvil/assets/TUSD/decimals", "expected a whole number"),
        ("/networks/anvil/assets/TUSD/eip712", "expected an object"),
        ("/networks/anvil/assets/TUSD/eip712/name", TEXT),
        ("/networks/anvil/assets/TUSD/eip712/version", TEXT),
        ("/networks/anvil/assets/TUSD/usd_pegged", "a boolean"),
        ("/defaults", "expected an object"),
        ("/defaults/accepts", "a sequence"),
        ("/defaults/accepts/0", "expected an object"),
        ("/defaults/accepts/0/network", TEXT),
        ("/defaults/accepts/0/contract_wallets", "a boolean"),
        ("/defaults/max_timeout_seconds", "expected a whole number"),
        ("/routes", "a sequence"),
        ("/routes/0", "expected an object"),
        ("/routes/0/name", TEXT),
        ("/routes/0/match", "expected an object"),
        ("/routes/0/match/hosts", "a sequence"),
        ("/routes/0/match/hosts/0", TEXT),
        ("/routes/0/match/methods", "a sequence"),
        ("/routes/0/match/path", TEXT),
        ("/routes/0/description", TEXT),
        ("/routes/0/mime_type", TEXT),
        ("/routes/1/price/amount", TEXT),
        ("/routes/1/max_timeout_seconds", "expected a whole number"),
        ("/routes/2/free", "a boolean"),
        ("/keep_headers", "a sequence"),
        ("/keep_headers/0", TEXT),
        ("/ledger", "expected an object"),
        ("/ledger/max_claims", "expected a whole number"),
    ] {
        for (kind, wrong) in [
            ("a boolean", json!(true)),
            ("expected a whole number", json!(7)),
            (TEXT, json!("x")),
            ("a sequence", json!([])),
            ("a sequence", json!([["x"], 7])),
            ("expected an object", json!({})),
            ("expected an object", json!({"a": {"b": 1}, "c": [1]})),
        ] {
            // Lists and objects in place of a number have a test of their own.
            let is_apart = message == "expected a whole number" && (wrong.is_array() || wrong.is_object());
            if kind != message && !is_apart {
                let what = format!("{wrong} at {pointer}");
                assert_refused(&refused(&with(pointer, wrong)), &path_of(pointer), message, &what);
            }
        }
    }
    for wrong in [json!(true), json!(7), Value::Null] {
        let error = refused(&with("/routes/1/accepts/1/asset", wrong));
        assert_refused(&error, "routes[1].accepts[1].asset", "expected a string or an object", "asset");
    }
    for wrong in [json!(true), json!(7)] {
        assert_refused(
            &refused(&with("/routes/0/price", wrong.clone())),
            "routes[0].price",
            "expected a string or",
            "price",
        );
        for pointer in ["/defaults/pay_to", "/routes/1/pay_to", "/routes/1/accepts/0/pay_to"] {
            assert_refused(&refused(&with(pointer, wrong.clone())), &path_of(pointer), "expected a string or", pointer);
        }
    }
}

#[test]
fn a_list_or_an_object_is_refused_by_its_own_path_not_by_that_of_its_last_part() {
    let lists = [json!([]), json!(["$1"]), json!([{"amount": "1"}, 7])];
    for pointer in ["/routes/0/price", "/routes/1/accepts/1/asset"] {
        for wrong in &lists {
            let error = refused(&with(pointer, wrong.clone()));
            assert_refused(&error, &path_of(pointer), "expected a string or an object", pointer);
        }
    }
    for pointer in [
        "/networks/anvil/chain_id",
        "/networks/anvil/assets/TUSD/decimals",
        "/defaults/max_timeout_seconds",
        "/routes/1/max_timeout_seconds",
        "/ledger/max_claims",
    ] {
        for wrong in lists.iter().chain([&json!({}), &json!({"a": {"b": 1}, "c": [1]})]) {
            // A number is read with all that stands in its place, so the path may end inside of that.
            let error = refused(&with(pointer, wrong.clone()));
            assert!(error.path.starts_with(&path_of(pointer)), "{pointer}: {error}");
            assert!(error.message.contains("expected a whole number"), "{pointer}: {error}");
        }
    }
}

#[test]
fn numbers_where_money_and_text_belong_are_refused() {
    for (pointer, value, message) in [
        ("/routes/0/price", json!(0.001), "expected a string or an object"),
        ("/routes/0/price", json!(1000), "expected a string or an object"),
        ("/routes/1/price", json!({"amount": 1000}), "a string"),
        ("/routes/1/price", json!({"amount": 1e3}), "a string"),
        ("/facilitator/timeout", json!(10), "a string"),
        ("/defaults/accepts/0/network", json!(84532), "a string"),
        ("/networks/anvil/assets/TUSD/eip712/version", json!(1), "a string"),
    ] {
        let error = refused(&with(pointer, value.clone()));
        let path = if pointer == "/routes/1/price" { "routes[1].price.amount".to_owned() } else { path_of(pointer) };
        assert_refused(&error, &path, message, pointer);
    }
}

#[test]
fn unknown_words_are_refused_with_the_known_ones() {
    for (pointer, message) in [
        ("/facilitator/verify", "unknown variant, expected `remote` or `local`"),
        ("/defaults/settle", "unknown variant, expected one of `after`, `before`, `concurrent`"),
        ("/routes/1/settle", "unknown variant, expected one of `after`, `before`, `concurrent`"),
        ("/defaults/accepts/0/scheme", "\"maybe\" is none that the filter checks (exact, upto)"),
        ("/routes/1/accepts/1/scheme", "\"maybe\" is none that the filter checks (exact, upto)"),
        ("/networks/anvil/assets/TUSD/transfer_method", "unknown variant, expected `eip3009`"),
        ("/routes/1/accepts/1/asset/transfer_method", "unknown variant, expected `eip3009`"),
        ("/unmatched", "unknown variant, expected `free` or `deny`"),
    ] {
        assert_refused(&refused(&with(pointer, json!("maybe"))), &path_of(pointer), message, pointer);
    }
}

#[test]
fn missing_fields_are_refused_by_the_path_of_their_object() {
    for (pointer, path) in [
        ("/facilitator", "."),
        ("/routes", "."),
        ("/facilitator/cluster", "facilitator"),
        ("/facilitator/url", "facilitator"),
        ("/networks/anvil/assets/TUSD/address", "networks.anvil.assets.TUSD"),
        ("/networks/anvil/assets/TUSD/decimals", "networks.anvil.assets.TUSD"),
        ("/networks/anvil/assets/TUSD/eip712/name", "networks.anvil.assets.TUSD.eip712"),
        ("/networks/anvil/assets/TUSD/eip712/version", "networks.anvil.assets.TUSD.eip712"),
        ("/defaults/accepts/0/scheme", "defaults.accepts[0]"),
        ("/defaults/accepts/0/network", "defaults.accepts[0]"),
        ("/defaults/accepts/0/asset", "defaults.accepts[0]"),
        ("/routes/0/match", "routes[0]"),
        ("/routes/0/match/path", "routes[0].match"),
        ("/routes/1/accepts/1/asset/address", "routes[1].accepts[1].asset"),
        ("/routes/1/accepts/1/asset/eip712/name", "routes[1].accepts[1].asset.eip712"),
    ] {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut json = whole();
        assert!(json.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).is_some(), "{pointer}");
        let pretty = serde_json::to_string_pretty(&json).unwrap();
        for text in [json.to_string(), pretty] {
            let error = Config::from_json(text.as_bytes()).unwrap_err();
            assert_refused(&error, path, &format!("missing field `{key}`"), pointer);
        }
    }
}

#[test]
fn bad_values_are_refused_with_what_would_be_right() {
    let long = "x".repeat(2049);
    let cases = [
        ("/facilitator/cluster", json!(""), "is empty; name the cluster"),
        ("/facilitator/url", json!(""), "what a query would hold belongs in facilitator.headers"),
        ("/facilitator/url", json!("facilitator:4021/x y"), "is not an http or https URL without query"),
        ("/facilitator/url", json!("/verify"), "is not an http or https URL without query"),
        ("/facilitator/url", json!("facilitator"), "is not an http or https URL without query"),
        ("/facilitator/url", json!("ftp://facilitator"), "is not an http or https URL without query"),
        ("/facilitator/url", json!("https://facilitator/?key=1"), "is not an http or https URL without query"),
        ("/facilitator/url", json!("https://user:key@facilitator"), "credentials belong in facilitator.headers"),
        ("/rpc/base-sepolia/cluster", json!(""), "is empty; name the cluster"),
        ("/rpc/base-sepolia/url", json!("node"), "is not an http or https URL"),
        ("/rpc/base-sepolia/timeout", json!("soon"), "is not a duration such as"),
        ("/rpc/base-sepolia/confirmations", json!(0), "the block of the transfer itself is the first"),
        ("/rpc/solana", json!({"cluster": "n", "url": "http://n"}), "is neither a CAIP-2 id"),
        ("/rpc/eip155:84532", json!({"cluster": "n", "url": "http://n"}), "has a node already"),
        ("/routes/1/accepts/0/confirm", json!("yes"), "expected a boolean"),
        ("/facilitator/timeout", json!("10"), "\"10\" is not a duration such as \"10s\""),
        ("/facilitator/timeout", json!("10ms"), "is not a duration such as"),
        ("/facilitator/timeout", json!("1m"), "is not a duration such as"),
        ("/facilitator/timeout", json!("-1s"), "is not a duration such as"),
        ("/facilitator/timeout", json!("0s"), "from 0.001s to 600s"),
        ("/facilitator/timeout", json!("0.0009s"), "from 0.001s to 600s"),
        ("/facilitator/timeout", json!("600.001s"), "from 0.001s to 600s"),
        ("/facilitator/headers/Host", json!("x"), "is set by the filter or the proxy"),
        ("/facilitator/headers/content-length", json!("1"), "is set by the filter or the proxy"),
        ("/facilitator/headers/X-Api-Key", json!("a\nb"), "holds a character that no header value may have"),
        ("/keep_headers/0", json!("x y"), "\"x y\" is not a name"),
        ("/keep_headers/0", json!(""), "\"\" is not a name"),
        ("/networks/anvil/chain_id", json!(-1), "expected a whole number that is not negative"),
        ("/networks/anvil/chain_id", json!(0.5), "expected a whole number that is not negative"),
        ("/networks/anvil/chain_id", json!("31337"), "expected a whole number that is not negative"),
        ("/networks/anvil/assets/TUSD/decimals", json!(78), "is not between 0 and 77"),
        ("/networks/anvil/assets/TUSD/decimals", json!(262), "is not between 0 and 77"),
        ("/networks/anvil/assets/TUSD/address", json!("0x1"), "\"0x1\" is not 0x and 40 hexadecimal digits"),
        ("/networks/anvil/assets/TUSD/address", json!(USDC.replace('C', "c")), "has a wrong checksum (EIP-55)"),
        ("/defaults/accepts/0/network", json!("base-mainnet"), "one of base, base-sepolia, ethereum"),
        ("/defaults/accepts/0/network", json!("eip155:0x1"), "\"eip155:0x1\" is neither a CAIP-2 id"),
        ("/defaults/accepts/0/network", json!("eip155:01"), "is neither a CAIP-2 id"),
        ("/defaults/accepts/0/network", json!("cosmos:cosmoshub-4"), "eip155:<chain id>"),
        ("/defaults/accepts/0/asset", json!("USDT"), "known there: USDC"),
        ("/defaults/accepts/0/asset", json!(USDC), "give {address, decimals, eip712}"),
        ("/routes/1/accepts/0/asset", json!("USDC"), "is not known on eip155:31337 (known there: TUSD)"),
        ("/defaults/pay_to", json!("0x"), "\"0x\" is not 0x and 40 hexadecimal digits"),
        ("/defaults/pay_to", json!(PAY_TO.to_uppercase()), "is not 0x and 40 hexadecimal digits"),
        ("/defaults/pay_to", json!(PAY_TO.replace('C', "c")), "has a wrong checksum (EIP-55)"),
        ("/defaults/pay_to", json!(format!("0x{}", "0".repeat(40))), "is the zero address"),
        ("/routes/1/pay_to", json!("vitalik.eth"), "\"vitalik.eth\" is not 0x and 40 hexadecimal digits"),
        ("/routes/1/accepts/1/pay_to", json!(""), "is not 0x and 40 hexadecimal digits"),
        ("/defaults/max_timeout_seconds", json!(9), "9 is too short: facilitators want 6 s"),
        ("/routes/1/max_timeout_seconds", json!(0), "0 is too short"),
        ("/defaults/max_timeout_seconds", json!(300.5), "expected a whole number"),
        ("/routes/0/name", json!(""), "\"\" is not of letters, digits, _ and - alone"),
        ("/routes/0/name", json!("the weather"), "\"the weather\" is not of letters"),
        ("/routes/0/price", json!("0.001"), "\"0.001\" does not begin with a dollar sign"),
        ("/routes/0/price", json!("$0.001 "), "\"$0.001 \" is not a plain decimal number"),
        ("/routes/0/price", json!("$1e-3"), "is not a plain decimal number"),
        ("/routes/0/price", json!("$01"), "\"$01\" has a leading zero"),
        ("/routes/0/price", json!("$0.0000001"), "\"$0.0000001\" is below one atomic unit of USDC (6 decimals)"),
        (
            "/routes/0/price",
            json!("$1.0000001"),
            "\"$1.0000001\" has more decimals than the asset of USDC (6 decimals)",
        ),
        ("/routes/0/price", json!(format!("${}", "9".repeat(80))), "is too large"),
        ("/routes/0/price", json!("$0"), "is nothing; write free: true"),
        ("/routes/0/price", json!({"amount": "0"}), "is nothing; write free: true"),
        (
            "/routes/0/match/hosts/0",
            json!("https://api.example.com"),
            "is not a host name (without scheme, port or path)",
        ),
        ("/routes/0/match/hosts/0", json!("api.example.com:443"), "is not a host name"),
        ("/routes/0/match/hosts/1", json!("*.[::1]"), "is not a host name"),
        ("/routes/0/match/hosts/1", json!("*"), "\"*\" is not a host name"),
        ("/routes/0/match/methods/0", json!("GET POST"), "\"GET POST\" is not a method"),
        ("/routes/0/match/methods/0", json!(""), "\"\" is not a method"),
        ("/routes/0/match/path", json!("weather"), "\"weather\" does not begin with /"),
        ("/routes/0/match/path", json!(""), "does not begin with /"),
        ("/routes/0/match/path", json!("/a?b=c"), "write it decoded, without query"),
        ("/routes/0/match/path", json!("/a/*"), "{*rest} at the end for all below"),
        ("/routes/0/match/path", json!("/a//b"), "has a segment that is empty"),
        ("/routes/0/match/path", json!("//"), "has a segment that is empty"),
        ("/routes/0/match/path", json!("//{*rest}"), "has a segment that is empty"),
        ("/routes/0/match/path", json!("/a./b"), "ends with a dot"),
        ("/routes/0/match/path", json!("/a /b"), "a space around it"),
        ("/routes/0/match/path", json!("/a{id}"), "not a whole segment of the form {name}"),
        ("/routes/0/match/path", json!("/{*rest}/x"), "has a {*rest} before its end"),
        ("/routes/0/description", json!(long), "is longer than 2048 bytes"),
        ("/routes/0/mime_type", json!("json"), "\"json\" is not a media type such as \"application/json\""),
        ("/routes/0/mime_type", json!("text/\nplain"), "is not a media type"),
        ("/ledger/max_claims", json!(0), "is not between 1 and 16777216"),
        ("/ledger/max_claims", json!(16_777_217), "is not between 1 and 16777216"),
    ];
    assert!(cases.len() >= 40);
    for (pointer, value, message) in cases {
        assert_refused(
            &refused(&with(pointer, value.clone())),
            &path_of(pointer),
            message,
            &format!("{pointer} {value}"),
        );
    }
}

#[test]
fn an_error_stands_where_the_value_does() {
    for (pointer, value, path, message) in [
        ("/facilitator/headers/X Key", json!("x"), "facilitator.headers", "holds a name that no header has"),
        ("/facilitator/headers/", json!("x"), "facilitator.headers", "holds a name that no header has"),
        ("/facilitator/headers/:path", json!("x"), "facilitator.headers", "holds a name that no header has"),
        ("/facilitator/headers/X-Mine", json!("a\nb"), "facilitator.headers", "holds a character that no header"),
        (
            "/routes/1/price",
            json!({"amount": "1e3"}),
            "routes[1].price.amount",
            "\"1e3\" is not a plain decimal number",
        ),
        ("/routes/1/price", json!({"amount": "-1"}), "routes[1].price.amount", "\"-1\" is not a plain decimal number"),
        ("/routes/1/price", json!({"amount": "007"}), "routes[1].price.amount", "has a leading zero"),
        ("/routes/1/price", json!({"amount": "9".repeat(80)}), "routes[1].price.amount", "is too large"),
        ("/networks/mystery", json!({}), "networks.mystery", "is not in the built-in table and has no chain_id"),
        (
            "/networks/anvil/assets/TUSD/eip712",
            json!({"name": "", "version": "1"}),
            "networks.anvil.assets.TUSD.eip712",
            "has an empty name or version",
        ),
        (
            "/routes/1/accepts/1/asset/eip712",
            json!({"name": "x", "version": ""}),
            "routes[1].accepts[1].asset.eip712",
            "has an empty name or version",
        ),
        ("/defaults/accepts", json!([]), "defaults.accepts", "is empty: say how to pay"),
        ("/routes/1/accepts", json!([]), "routes[1].accepts", "is empty: say how to pay"),
        ("/routes/0/free", json!(true), "routes[0]", "is free and has a price; keep one of the two"),
        ("/routes/2/free", json!(false), "routes[2]", "has neither a price nor free: true"),
        ("/routes/2/pay_to", json!(PAY_TO), "routes[2]", "is free, and says how to pay"),
        ("/routes/2/settle", json!("after"), "routes[2]", "is free, and says how to pay"),
        ("/routes/2/accepts", json!([]), "routes[2]", "is free, and says how to pay"),
        ("/routes/2/max_timeout_seconds", json!(60), "routes[2]", "is free, and says how to pay"),
        ("/routes/1/name", json!("weather"), "routes[1].name", "\"weather\" is the name of another route"),
        ("/routes/0/name", json!("2"), "routes[2].name", "\"2\" is the name of another route"),
    ] {
        assert_refused(&refused(&with(pointer, value.clone())), path, message, &format!("{pointer} {value}"));
    }
}

#[test]
fn a_price_needs_somebody_to_pay_and_a_way() {
    let without = |pointers: &[&str]| {
        let mut json = whole();
        for pointer in pointers {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
        }
        json
    };
    let error = refused(&without(&["/defaults/pay_to"]));
    assert_refused(&error, "routes[0].pay_to", "is missing, here, in the entry and in defaults", "pay_to");
    let error = refused(&without(&["/defaults/accepts"]));
    assert_refused(&error, "routes[0].accepts", "is missing, here and in defaults: say how to pay", "accepts");
    let error = refused(&without(&["/defaults"]));
    assert_refused(&error, "routes[0].accepts", "is missing", "defaults");
    // The second route says all of it itself.
    let mut json = without(&["/defaults"]);
    json["routes"].as_array_mut().unwrap().remove(0);
    read(&json);
}

#[test]
fn dollars_need_an_asset_that_is_worth_dollars() {
    let mut json = with("/routes/1/price", json!("$1"));
    set(&mut json, "/networks/anvil/assets/TUSD/usd_pegged", json!(false));
    let error = refused(&json);
    assert_refused(&error, "routes[1].price", "TUSD is not pegged to the dollar; give {amount: \"…\"}", "named");
    let mut json = with("/routes/1/price", json!("$1"));
    json.pointer_mut("/routes/1/accepts/1/asset").unwrap().as_object_mut().unwrap().remove("usd_pegged").unwrap();
    assert_refused(&refused(&json), "routes[1].price", "the asset is not pegged to the dollar", "inline");
}

#[test]
fn nothing_stands_twice() {
    let text = whole().to_string();
    for (from, to, path) in [
        ("\"unmatched\":", "\"unmatched\":\"deny\",\"unmatched\":", "unmatched"),
        ("\"verify\":", "\"verify\":\"local\",\"verify\":", "facilitator.verify"),
        ("\"chain_id\":", "\"chain_id\":1,\"chain_id\":", "networks.anvil.chain_id"),
        ("\"anvil\":", "\"anvil\":{\"chain_id\":1},\"anvil\":", "networks.anvil"),
        ("\"TUSD\":", &format!("\"TUSD\":{},\"TUSD\":", inline_asset()), "networks.anvil.assets.TUSD"),
        ("\"X-Api-Key\":", "\"X-Api-Key\":\"a\",\"X-Api-Key\":", "facilitator.headers.X-Api-Key"),
        ("\"price\":{", "\"price\":\"$1\",\"price\":{", "routes[1].price"),
        ("\"amount\":", "\"amount\":\"1\",\"amount\":", "routes[1].price.amount"),
        ("\"free\":", "\"free\":true,\"free\":", "routes[2].free"),
        ("\"max_claims\":", "\"max_claims\":1,\"max_claims\":", "ledger.max_claims"),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        let error = Config::from_json(text.replace(from, to).as_bytes()).unwrap_err();
        assert_refused(&error, path, "duplicate field", from);
    }
    let entry = json!({"scheme": "exact", "network": "eip155:84532", "asset": "USDC", "contract_wallets": true});
    let error = refused(&with("/defaults/accepts/-", entry));
    assert_refused(&error, "defaults.accepts[1]", "says the same as an entry before it", "accepts");
}

#[test]
fn a_header_of_the_facilitator_stands_once_in_whatever_case() {
    let error = refused(&with("/facilitator/headers/x-api-key", json!("another")));
    assert!(error.path.starts_with("facilitator.headers.") && error.path.to_lowercase().ends_with("x-api-key"));
}

#[test]
fn two_entries_that_clients_cannot_tell_apart_are_one_too_many() {
    // The first is the one that every payment is judged by, so the second would be of no effect.
    let entry = json!({"scheme": "exact", "network": "base-sepolia", "asset": "USDC", "contract_wallets": false});
    let error = refused(&with("/defaults/accepts/-", entry));
    assert_refused(&error, "defaults.accepts[1]", "says the same as an entry before it", "accepts");
}

#[test]
fn what_is_not_one_json_object_is_refused_as_a_whole() {
    let good = whole().to_string();
    for (text, message) in [
        (String::new(), "EOF"),
        (" ".to_owned(), "EOF"),
        ("null".to_owned(), "expected an object"),
        ("[]".to_owned(), "expected an object"),
        ("\"text\"".to_owned(), "expected an object"),
        ("{}".to_owned(), "missing field `routes`"),
        ("facilitator: {}".to_owned(), "expected"),
        (format!("{good}x"), "trailing characters"),
        (format!("{good}{good}"), "trailing characters"),
        (format!("{good},"), "trailing characters"),
        (format!("\u{feff}{good}"), "expected value"),
    ] {
        let error = Config::from_json(text.as_bytes()).unwrap_err();
        assert_eq!(error.path, ".", "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
    }
    Config::from_json(format!("\n\t {good}\r\n ").as_bytes()).unwrap();
    let broken = format!("{},}}", good.strip_suffix('}').unwrap());
    assert!(Config::from_json(broken.as_bytes()).unwrap_err().message.contains("trailing comma"));
    let cut = good.get(..good.len() / 2).unwrap();
    assert!(Config::from_json(cut.as_bytes()).unwrap_err().message.contains("EOF"));
    let invalid = good.replace("Weather data", "\u{1}");
    assert!(Config::from_json(invalid.replace("\\u0001", "\u{1}").as_bytes()).is_err());
    let not_text = [good.as_bytes(), b"\xff"].concat();
    assert!(Config::from_json(&not_text).is_err());
}

#[test]
fn secrets_stay_out_of_messages() {
    for value in [json!("hunter2\n"), json!("hunter2\u{7f}")] {
        let error = refused(&with("/facilitator/headers/X-Api-Key", value));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = refused(&with("/facilitator/url", json!("https://user:hunter2@facilitator")));
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// A JSON pointer as errors write it: `/routes/0/price` is `routes[0].price`.
fn path_of(pointer: &str) -> String {
    let mut path = String::new();
    for step in pointer.split('/').skip(1) {
        match step.parse::<usize>() {
            Ok(index) => path += &format!("[{index}]"),
            Err(_) if path.is_empty() => path += step,
            Err(_) => path += &format!(".{step}"),
        }
    }
    path
}

#[test]
fn confirmation_needs_a_node_to_ask() {
    let mut config = least();
    set(&mut config, "/routes/0/accepts/0/confirm", json!(true));
    let error = refused(&config);
    assert_refused(&error, "routes[0].accepts[0].confirm", "configure rpc.eip155:84532", "confirm");
    set(&mut config, "/rpc", json!({"eip155:84532": {"cluster": "node", "url": "http://node"}}));
    assert!(terms(&read(&config), 0).offers[0].confirm);
}

#[test]
fn prices_of_tokens_and_shares_of_recipients_are_refused_with_what_would_be_right() {
    let split = json!([{"to": OTHER, "weight": 2}, {"to": USDC}]);
    for (pointer, value, path, message) in [
        ("/routes/1/price", json!({}), "routes[1].price", "has neither an amount nor usage and models"),
        ("/routes/1/price", json!({"usage": "openai"}), "routes[1].price.models", "what a million tokens of each"),
        ("/routes/1/price", json!({"models": {}}), "routes[1].price.models", "what a million tokens of each"),
        ("/routes/1/price/usage", json!("openai"), "routes[1].price.amount", "there are prices of tokens beside it"),
        ("/routes/1/pay_to", json!({"split": []}), "routes[1].pay_to.split", "say who is paid"),
        (
            "/routes/1/pay_to",
            json!({"split": [{"to": OTHER, "weight": 0}]}),
            "routes[1].pay_to.split[0].weight",
            "is not between 1 and",
        ),
        (
            "/routes/1/pay_to",
            json!({"split": [{"to": "0x0000000000000000000000000000000000000000"}]}),
            "routes[1].pay_to.split[0].to",
            "is the zero address",
        ),
        (
            "/routes/1/pay_to",
            json!({"split": [{"to": OTHER}, {"to": OTHER}]}),
            "routes[1].pay_to.split[1].to",
            "stands there twice",
        ),
        ("/defaults/accepts/0/scheme", json!("upto"), "defaults.accepts[0]", "settles after the response"),
    ] {
        assert_refused(&refused(&with(pointer, value)), path, message, pointer);
    }
    let config = read(&with("/routes/1/pay_to", json!({"split": split})));
    let recipients = &terms(&config, 1).offers[0].recipients;
    assert_eq!(recipients.iter().map(|one| one.weight).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn rates_are_read_to_the_last_digit() {
    let mut json = least();
    let tokens = json!({
        "usage": "openai",
        "models": {"m": {"input": "$0.075", "output": {"amount": "300000"}, "cache_write": "$0.0010001"}},
        "minimum": {"amount": "7"},
        "bytes_per_token": 3,
        "max_output_tokens": 10,
        "missing_usage": "maximum",
        "max_body_bytes": 1000,
    });
    set(&mut json, "/routes/0/price", tokens.clone());
    let config = read(&json);
    let terms = terms(&config, 0);
    let (tariff, rates) = (terms.tariff.as_ref().unwrap(), terms.offers[0].rates.as_ref().unwrap());
    let rate = rates.models[0];
    let written = [rate.input, rate.cached_input, rate.cache_write, rate.output].map(|rate| rate.to_string());
    assert_eq!(written, ["75000000000000000", "75000000000000000", "1000100000000000", "300000000000000000"]);
    assert_eq!((rates.minimum.to_string().as_str(), tariff.bytes_per_token, tariff.max_output_tokens), ("7", 3, 10));
    assert_eq!((tariff.missing_usage, tariff.max_body_bytes), (crate::price::MissingUsage::Maximum, 1000));
    for (pointer, value, path, message) in [
        ("/models/m/input", json!("0.075"), ".models.m.input", "does not begin with a dollar sign"),
        ("/models/m/input", json!("$0.0000000000000000001"), ".models.m.input", "atomic unit"),
        ("/usage", json!("palm"), ".usage", "is neither openai nor anthropic nor gemini"),
        ("/usage", json!({"model": "model", "input_tokens": "/i"}), ".usage.model", "is not a JSON pointer"),
        ("/bytes_per_token", json!(0), ".bytes_per_token", "is 0"),
        ("/max_body_bytes", json!(0), ".max_body_bytes", "is not between 1 and"),
        ("/max_body_bytes", json!(100_000_000), ".max_body_bytes", "is not between 1 and"),
        ("/max_response_bytes", json!(0), ".max_response_bytes", "is not between 1 and"),
    ] {
        let mut tokens = tokens.clone();
        set(&mut tokens, pointer, value);
        set(&mut json, "/routes/0/price", tokens);
        assert_refused(&refused(&json), &format!("routes[0].price{path}"), message, pointer);
    }
}

// ------------------------------------------------------------------------------------ what the facilitator judges

const SOLANA_PAY_TO: &str = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4";

fn with_entry(entry: &Value) -> Value {
    with("/routes/1/accepts", json!([entry]))
}

fn opaque_entry() -> Value {
    json!({
        "scheme": "exact", "network": "hedera:mainnet", "pay_to": "0.0.4567",
        "asset": {"address": "0.0.456858", "decimals": 6, "usd_pegged": true},
        "extra": {"b": [1.50, {"z": 1, "a": "\u{e4}"}], "a": null},
    })
}

#[test]
fn an_entry_that_the_facilitator_judges_stands_as_it_is_given() {
    let config = read(&with_entry(&opaque_entry()));
    let requirement = requirement(&config, 1, 0);
    assert_eq!(requirement.evm(), None);
    let json = json::to_text(requirement);
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        json!({
            "scheme": "exact", "network": "hedera:mainnet", "amount": requirement.amount.to_string(),
            "asset": "0.0.456858", "payTo": "0.0.4567", "maxTimeoutSeconds": requirement.max_timeout_seconds,
            "extra": {"b": [1.50, {"z": 1, "a": "\u{e4}"}], "a": null},
        })
    );
    assert!(json.contains(r#""b":[1.5,{"a":"ä","z":1}]"#), "{json}");

    // Money that moves before is told to the client.
    let mut upfront = with_entry(&opaque_entry());
    set(&mut upfront, "/routes/1/settle", json!("before"));
    let config = read(&upfront);
    assert!(json::to_text(&terms(&config, 1).offers[0].requirement).contains(r#""paymentFlow":"upfront""#));

    // Any scheme, on chains that are known, too.
    let other = json!({
        "scheme": "streaming", "network": "base-sepolia", "pay_to": "0xabc", "extra": {},
        "asset": {"address": "0xdef", "decimals": 6, "usd_pegged": true},
    });
    let config = read(&with_entry(&other));
    let offer = &terms(&config, 1).offers[0];
    assert_eq!((offer.requirement.scheme.as_str(), offer.requirement.network.as_str()), ("streaming", "eip155:84532"));
}

#[test]
fn everything_is_claimed_for_named_callers_and_by_a_secret() {
    let with = |flush: Value| {
        let mut config = least();
        config["channels"] = json!({"flush": flush});
        config
    };
    let flush = json!({"path": "/flush", "principals": ["spiffe://mesh/ops/*"], "secret": "0123456789abcdef"});
    let config = Config::from_json(with(flush).to_string().as_bytes()).unwrap();
    let flush = config.channels.flush.as_ref().unwrap();
    assert!(config.needs_principals);
    let admits = |name: Option<&str>, header: Option<&str>| flush.admits(name.into_iter(), header.map(str::as_bytes));
    assert!(admits(Some("spiffe://mesh/ops/anna"), None));
    assert!(admits(None, Some("Bearer 0123456789abcdef")));
    assert!(admits(None, Some("bearer  0123456789abcdef ")));
    for (name, header) in [
        (None, None),
        (Some("spiffe://mesh/dev/anna"), Some("Bearer 0123456789abcdee")),
        (None, Some("Basic 0123456789abcdef")),
        (None, Some("Bearer ")),
        (None, Some("0123456789abcdef")),
    ] {
        assert!(!admits(name, header), "{name:?} {header:?}");
    }
    for (wrong, path) in [
        (json!({"path": "flush", "secret": "0123456789abcdef"}), "channels.flush.path"),
        (json!({"path": "/flush?a", "secret": "0123456789abcdef"}), "channels.flush.path"),
        (json!({"path": "/{x}", "secret": "0123456789abcdef"}), "channels.flush.path"),
        (json!({"path": "/flush"}), "channels.flush"),
        (json!({"path": "/flush", "secret": "short"}), "channels.flush.secret"),
        (json!({"path": "/flush", "secret": {"env": "NOT_THERE"}}), "channels.flush.secret"),
        (json!({"path": "/flush", "principals": ["a*"]}), "channels.flush.principals[0]"),
    ] {
        assert_eq!(refused(&with(wrong)).path, path);
    }
}

#[test]
fn solana_is_known_by_name() {
    let entry = json!({"scheme": "exact", "network": "solana-devnet", "asset": "USDC", "pay_to": SOLANA_PAY_TO});
    let config = read(&with_entry(&entry));
    let requirement = requirement(&config, 1, 0);
    assert_eq!(requirement.network.as_str(), "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1");
    assert_eq!((requirement.asset(), requirement.pay_to()), (SOLANA[1].usdc.into(), SOLANA_PAY_TO.into()));
    let Rail::Foreign(foreign) = &requirement.rail else { panic!("{requirement:?}") };
    assert_eq!(
        foreign.svm.as_ref().map(|svm| (svm.mint.to_string(), svm.decimals)),
        Some((SOLANA[1].usdc.to_owned(), 6))
    );
    assert_eq!(foreign.svm_terms(requirement.amount), None, "nobody has said who pays the chain's fee");
    let fee_payer = BTreeMap::from([("feePayer".to_owned(), format!("\"{SOLANA_PAY_TO}\""))]);
    assert!(foreign.supplied_with(&fee_payer).svm_terms(requirement.amount).is_some());
}

#[test]
fn entries_that_the_facilitator_judges_are_refused_where_they_are_wrong() {
    let solana = json!({"scheme": "exact", "network": "solana", "asset": "USDC", "pay_to": SOLANA_PAY_TO});
    for (entry, key, value, path, message) in [
        (&opaque_entry(), "extra", json!(null), "network", "give extra"),
        (&opaque_entry(), "extra", json!(7), "extra", "expected an object"),
        (&opaque_entry(), "confirm", json!(true), "confirm", "is for entries that the filter checks itself"),
        (
            &opaque_entry(),
            "contract_wallets",
            json!(true),
            "contract_wallets",
            "knows no scheme exact on hedera:mainnet",
        ),
        (&opaque_entry(), "transfer_method", json!("permit2"), "transfer_method", "is for entries"),
        (&opaque_entry(), "asset", json!("USDC"), "asset", "give {address, decimals}"),
        (&opaque_entry(), "asset", inline_asset(), "asset.eip712", "is for tokens on chains of Ethereum's family"),
        (&opaque_entry(), "scheme", json!(""), "scheme", "is not the name of a scheme"),
        (&opaque_entry(), "pay_to", json!("a b"), "pay_to", "printable characters"),
        (&opaque_entry(), "pay_to", json!({"split": []}), "pay_to", "is no text"),
        (&solana, "pay_to", json!(PAY_TO), "pay_to", "is not base58"),
        (&solana, "asset", json!("USDT"), "asset", "\"USDT\" is not known on solana:"),
        (&solana, "extra", json!({"memo": ""}), "extra.memo", "is empty"),
        (&solana, "extra", json!({"memo": 1}), "extra.memo", "is no text"),
        (
            &solana,
            "extra",
            json!({"tokenProgram": SOLANA_PAY_TO}),
            "extra.tokenProgram",
            "neither SPL Token nor Token-2022",
        ),
        (&solana, "scheme", json!("upto"), "network", "is none that the filter checks"),
    ] {
        let mut entry = entry.clone();
        entry[key] = value;
        let error = refused(&with_entry(&entry));
        assert_refused(&error, &format!("routes[1].accepts[0].{path}"), message, &entry.to_string());
    }
    let mut entry = opaque_entry();
    entry.as_object_mut().unwrap().remove("pay_to");
    assert_refused(&refused(&with_entry(&entry)), "routes[1].accepts[0].pay_to", "is missing", "no default fits");
    let mut evm = json!({"scheme": "exact", "network": "base", "asset": "USDC", "extra": {}});
    assert_refused(&refused(&with_entry(&evm)), "routes[1].accepts[0].extra", "cannot check itself", "extra");
    evm.as_object_mut().unwrap().remove("extra");
    evm["asset"] = json!({"address": USDC, "decimals": 6});
    assert_refused(&refused(&with_entry(&evm)), "routes[1].accepts[0].asset.eip712", "is missing", "no domain");
    // Whom nobody knows before the facilitator has said, nobody can turn away.
    let mut listed = with_entry(&opaque_entry());
    set(&mut listed, "/payers", json!({"deny": [PAY_TO]}));
    assert_refused(&refused(&listed), "payers", "only the facilitator knows them", "payers");
    let mut listed = with_entry(&solana);
    set(&mut listed, "/payers", json!({"deny": [SOLANA_PAY_TO]}));
    let config = read(&listed);
    assert!(!config.payers.accept(&Payer::Foreign(SOLANA_PAY_TO.to_owned())));
    assert!(config.payers.accept(&Payer::Foreign("another".to_owned())));
    assert!(!config.payers.accept(&Payer::Unknown));
}

#[test]
fn extensions_are_refused_where_they_are_wrong() {
    let route = "routes[0].extensions";
    let sign_in = |lasts: &str| json!({"sign_in_with_x": {"lasts": lasts}});
    let bazaar = |bazaar: Value| json!({ "bazaar": bazaar });
    for (extensions, path, message) in [
        (json!({"payment_identifier": "maybe"}), "payment_identifier", "unknown variant"),
        (json!({"unknown": {}}), "…", "unknown field"),
        (sign_in("0s"), "sign_in_with_x.lasts", "\"0s\" is not of whole seconds"),
        (sign_in("1.5s"), "sign_in_with_x.lasts", "is not of whole seconds"),
        (sign_in("1h"), "sign_in_with_x.lasts", "is not of whole seconds"),
        (sign_in("2592001s"), "sign_in_with_x.lasts", "to 30 days"),
        (json!({"sign_in_with_x": {}}), "sign_in_with_x", "missing field `lasts`"),
        (json!({"sign_in_with_x": {"lasts": "60s", "statement": ""}}), "sign_in_with_x.statement", "is not one line"),
        (
            json!({"sign_in_with_x": {"lasts": "60s", "statement": "a\nb"}}),
            "sign_in_with_x.statement",
            "is not one line",
        ),
        (
            json!({"sign_in_with_x": {"lasts": "60s", "statement": "a".repeat(513)}}),
            "sign_in_with_x.statement",
            "1 to 512 bytes",
        ),
        (bazaar(json!({"body": {}})), "bazaar.body", "does not go with GET"),
        (bazaar(json!({"method": "OPTIONS"})), "bazaar.method", "is none of GET, HEAD, DELETE"),
        (bazaar(json!({"method": "POST", "query": {}, "body": {}})), "bazaar.query", "stands beside body"),
        (bazaar(json!({"method": "POST", "body_type": "xml"})), "bazaar.body_type", "is none of json, form-data, text"),
    ] {
        let error = refused(&with("/routes/0/extensions", extensions.clone()));
        assert_refused(&error, &format!("{route}.{path}"), message, &extensions.to_string());
    }
    let mut metered = with("/routes/0/extensions", sign_in("60s"));
    set(&mut metered, "/routes/0/price", json!({"usage": "openai", "models": {"*": {"input": "$1", "output": "$1"}}}));
    set(&mut metered, "/routes/0/settle", json!("after"));
    assert_refused(&refused(&metered), &format!("{route}.sign_in_with_x"), "is for a fixed price", "by the token");
    let mut asked = with("/routes/0/extensions", sign_in("60s"));
    set(&mut asked, "/routes/0/price", json!({"quote": {"cluster": "prices", "url": "http://prices"}}));
    assert_refused(&refused(&asked), &format!("{route}.sign_in_with_x"), "is for a fixed price", "asked for");
    let mut upto = with("/routes/0/extensions", sign_in("60s"));
    set(&mut upto, "/routes/0/settle", json!("after"));
    set(&mut upto, "/routes/0/accepts", json!([{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}]));
    assert_refused(&refused(&upto), &format!("{route}.sign_in_with_x"), "does not go with scheme upto", "upto");
    let mut elsewhere = with("/routes/0/extensions", sign_in("60s"));
    set(&mut elsewhere, "/routes/0/pay_to", json!({"metadata": {"namespace": "mesh", "key": "seller"}}));
    assert_refused(
        &refused(&elsewhere),
        &format!("{route}.sign_in_with_x"),
        "does not go with pay_to from metadata",
        "metadata",
    );
    let mut opaque = with_entry(&opaque_entry());
    set(&mut opaque, "/routes/1/extensions", sign_in("60s"));
    assert_refused(&refused(&opaque), "routes[1].extensions.sign_in_with_x", "whose accounts can sign in", "hedera");
    let config = read(&with("/routes/0/extensions", sign_in("2592000s")));
    let sign_in = |config: &Config| terms(config, 0).extensions.sign_in.clone().unwrap();
    let SignInTerms { seconds, statement, price } = sign_in(&config);
    assert_eq!((seconds, statement), (2_592_000, None));
    let mut dearer = with("/routes/0/extensions", json!({"sign_in_with_x": {"lasts": "60s"}}));
    assert_eq!(sign_in(&read(&dearer)).price, price);
    set(&mut dearer, "/routes/0/price", "$2".into());
    assert_ne!(sign_in(&read(&dearer)).price, price);
    let free = with("/routes/2/extensions", json!({}));
    assert_refused(&refused(&free), "routes[2]", "is free, and says how to pay", "free");
}

#[test]
fn a_signing_key_is_read_and_never_shown() {
    let key = format!("0x{}", "11".repeat(32));
    let config = read(&with("/offer_receipt", json!({ "key": key })));
    let issuer = config.issuer.as_ref().unwrap();
    assert_eq!(issuer.address().to_string(), "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A");
    assert!(issuer.signs_offers && !issuer.names_transactions);
    assert!(!format!("{config:?}").contains("1111111111"));
    for wrong in [
        key.trim_start_matches("0x"),
        key.strip_suffix("11").unwrap(),
        &format!("{key}11"),
        &format!("0x{}", "zz".repeat(32)),
        &format!("0x{}", "00".repeat(32)),
        &format!("0x{}", "ff".repeat(32)),
        "",
    ] {
        let error = refused(&with("/offer_receipt", json!({ "key": wrong })));
        assert_refused(&error, "offer_receipt.key", "is not the key of an account", wrong);
        assert!(wrong.is_empty() || !error.to_string().contains(wrong), "{error}");
    }
}

#[test]
fn an_origin_is_a_scheme_and_a_host() {
    let config =
        read(&with("/origins", json!(["https://api.example.com", "http://A.example:8080", "https://b.example:443"])));
    let shown: Vec<String> = config.origins.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["https://api.example.com", "http://a.example:8080", "https://b.example"]);
    for wrong in [
        "",
        "api.example.com",
        "https://",
        "https:///",
        "https://api.example.com/",
        "https://api.example.com/a",
        "https://api.example.com?key=hunter2",
        "https://api.example.com#a",
        "https://user:hunter2@api.example.com",
        "https://*.example.com",
        "ftp://api.example.com",
        "HTTPS://api.example.com",
        "https://api.example.com:x",
        "https://a b",
    ] {
        let error = refused(&with("/origins", json!(["https://a.example", wrong])));
        assert_refused(&error, "origins[1]", "is not an origin such as \"https://api.example.com\"", wrong);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for wrong in [json!("https://a.example"), json!({"https://a.example": 1}), json!([7])] {
        assert!(refused(&with("/origins", wrong)).path.starts_with("origins"));
    }
}

#[test]
fn a_route_is_shown_at_an_origin_of_its_own_hosts() {
    let shown_at = |origins: Value| {
        let config = read(&with("/origins", origins));
        [0, 1].map(|route| terms(&config, route).shown_at.clone())
    };
    assert_eq!(shown_at(json!([])), [ShownAt::RouteHost, ShownAt::Client]);
    let origin = |text: &str| ShownAt::Origin(Origin::parse(text).unwrap());
    let first = "https://first.example";
    assert_eq!(shown_at(json!([first])), [origin(first), origin(first)]);
    for own in ["https://api.example.com:8443", "https://a.example.org"] {
        assert_eq!(shown_at(json!([first, own])), [origin(own), origin(first)]);
    }
}

#[test]
fn it_is_told_where_nothing_can_be_signed() {
    let key = json!({"key": format!("0x{}", "11".repeat(32))});
    assert_eq!(read(&whole()).warnings, [""; 0]);
    let signing = with("/offer_receipt", key);
    let warnings = read(&signing).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("1 routes (the first is tokens)") && warnings[0].contains("set origins"),
        "{warnings:?}"
    );
    let mut vouched = signing;
    vouched["origins"] = json!(["https://api.example.com"]);
    assert_eq!(read(&vouched).warnings, [""; 0]);
}

#[test]
fn a_service_is_known_by_whom_it_calls_and_in_whose_name() {
    let config = read(&whole());
    let service = &config.facilitators[0].service;
    let mut seen = vec![service.identity()];
    let changes: [fn(&mut Service); 8] = [
        |one| one.cluster = "other".to_owned(),
        |one| one.scheme = "http".to_owned(),
        |one| one.authority = "facilitator.example".to_owned(),
        |one| one.base_path = String::new(),
        |one| one.headers[0].1 = "another".to_owned(),
        |one| one.headers.clear(),
        // The same letters, shared out among the fields in another way.
        |one| (one.cluster, one.scheme) = ("facilitatorh".to_owned(), "ttps".to_owned()),
        |one| (one.authority, one.base_path) = ("facilitator.example:8443/v2".to_owned(), String::new()),
    ];
    for change in changes {
        let mut other = Service::clone(service);
        change(&mut other);
        assert!(!seen.contains(&other.identity()), "{other:?}");
        seen.push(other.identity());
    }
    let slower = Service { timeout: Duration::from_secs(1), ..Service::clone(service) };
    assert_eq!(slower.identity(), service.identity());
}

#[test]
fn a_service_is_shown_without_what_may_be_a_key() {
    let config = read(&whole());
    let shown = format!("{config:?}");
    assert!(shown.contains("https://node.example") && shown.contains("https://facilitator.example:8443"), "{shown}");
    for secret in ["secret", "v1/key", "/v2"] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

// ------------------------------------------------------------------------------- what sells nothing, and says so

/// The least with these routes, each a path, or a match, and whether it is free.
fn with_routes(routes: &[(Value, bool)]) -> Value {
    let mut json = least();
    let route = |(matcher, is_free): &(Value, bool)| {
        let matcher = if matcher.is_string() { json!({ "path": matcher }) } else { matcher.clone() };
        let mut route = least()["routes"][0].clone();
        route["match"] = matcher.clone();
        if *is_free { json!({"match": matcher, "free": true}) } else { route }
    };
    json["routes"] = routes.iter().map(route).collect();
    json
}

#[test]
fn what_reads_like_another_tools_syntax_is_supported_or_refused() {
    for path in ["/users/:id", "/users/[id]", "/users/{id}"] {
        let config = read(&with_routes(&[(json!(path), false)]));
        let target = Target { method: "GET", authority: "a.example", path: b"/users/7" };
        assert_eq!(config.table.decide(target), Decision::Priced(0), "{path}");
        assert_eq!(config.warnings, [""; 0], "{path}");
    }
    for (path, message) in [
        ("/users/<id>", "write {name} for one segment"),
        ("/users/[...rest]", "{*rest} at the end"),
        ("/files/**", "{*rest} at the end"),
        ("/files/*.json", "write {name}"),
        ("/users/[0-9]+", "write {name}"),
        ("/users/\\d+", "write {name}"),
        ("/weather$", "holds a wildcard or an expression"),
        ("/weather?city=x", "without query"),
        ("https://api.example.com/weather", "hosts belong in match.hosts"),
        ("GET /weather", "methods in match.methods"),
    ] {
        let error = refused(&with_routes(&[(json!(path), false)]));
        assert_refused(&error, "routes[0].match.path", message, path);
    }
    for (methods, message) in [
        (json!(["*"]), "leave methods out for any"),
        (json!(["any"]), "leave methods out for any"),
        (json!(["POTS"]), "did you mean POST?"),
        (json!(["GTE"]), "did you mean GET?"),
        (json!(["delte"]), "did you mean DELETE?"),
        (json!(["GET|POST"]), "write each by itself"),
        (json!(["GET, POST"]), "write each by itself"),
    ] {
        let error = refused(&with_routes(&[(json!({"path": "/a", "methods": methods}), false)]));
        assert_refused(&error, "routes[0].match.methods[0]", message, &methods.to_string());
    }
    for method in ["get", "Post", "LIST", "M-SEARCH", "QUERY"] {
        let config = read(&with_routes(&[(json!({"path": "/a", "methods": [method]}), false)]));
        assert_eq!(config.warnings, [""; 0], "{method}");
    }
    for host in ["*", "https://a.example", "a.example:443", "a.*.example"] {
        let error = refused(&with_routes(&[(json!({"path": "/a", "hosts": [host]}), false)]));
        assert_refused(&error, "routes[0].match.hosts[0]", "for any host leave hosts out", host);
    }
}

#[test]
fn a_route_that_nothing_reaches_is_refused() {
    let (free, priced) = (true, false);
    let hosts = |hosts: &[&str]| json!({"path": "/a", "hosts": hosts});
    let methods = |methods: &[&str]| json!({"path": "/a", "methods": methods});
    for (routes, is_dead) in [
        ([(json!("/{*rest}"), free), (json!("/weather"), priced)], true),
        ([(json!("/a"), priced), (json!("/a"), priced)], true),
        ([(json!("/a"), free), (json!("/a"), priced)], true),
        ([(json!("/a"), priced), (json!("/a"), free)], true),
        ([(json!("/A"), priced), (json!("/a/"), priced)], true),
        ([(json!("/a/{*rest}"), priced), (json!("/a"), free)], true),
        ([(json!("/a/{*rest}"), free), (json!("/a/{*others}"), priced)], true),
        ([(json!("/a/{id}"), free), (json!("/a/b"), priced)], true),
        ([(json!("/a/:id"), priced), (json!("/a/{name}"), priced)], true),
        ([(json!("/{*rest}"), free), (hosts(&["a.example"]), priced)], true),
        ([(hosts(&["*.example"]), free), (hosts(&["a.example", "*.b.example"]), priced)], true),
        ([(methods(&["GET", "POST"]), free), (methods(&["POST"]), priced)], true),
        ([(methods(&["GET"]), free), (methods(&["HEAD"]), priced)], true),
        // These have requests of their own.
        ([(json!("/weather"), priced), (json!("/{*rest}"), free)], false),
        ([(json!("/a/b"), free), (json!("/a/{id}"), priced)], false),
        ([(json!("/A"), free), (json!("/a"), priced)], false),
        ([(json!("/a/{*rest}"), free), (json!("/a"), priced)], false),
        ([(json!("/a/{id}"), priced), (json!("/a/{*rest}"), priced)], false),
        ([(json!("/a"), free), (json!("/a/b"), priced)], false),
        ([(json!("/a"), free), (json!("/a/"), free)], false),
        ([(hosts(&["a.example"]), free), (hosts(&["b.example"]), priced)], false),
        ([(hosts(&["a.example"]), free), (json!("/a"), priced)], false),
        ([(methods(&["POST"]), priced), (methods(&["GET"]), priced)], false),
    ] {
        let result = Config::from_json(with_routes(&routes).to_string().as_bytes());
        match result {
            Err(error) => {
                assert!(is_dead, "{routes:?}: {error}");
                assert_refused(&error, "routes[1].match", "is never reached: routes[0]", &format!("{routes:?}"));
            }
            Ok(_) => assert!(!is_dead, "{routes:?}"),
        }
    }
    let warnings = read(&with_routes(&[(methods(&["GET"]), free), (json!("/a"), priced)])).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("routes[1].match: an earlier route lets some"), "{warnings:?}");
    assert_eq!(read(&with_routes(&[(methods(&["OPTIONS"]), free), (json!("/a"), priced)])).warnings, [""; 0]);
}

#[test]
fn what_is_odd_is_warned_about_once_with_its_path() {
    let odd = |change: &dyn Fn(&mut Value)| {
        let mut json = least();
        change(&mut json);
        read(&json).warnings
    };
    assert_eq!(odd(&|_| {}), [""; 0]);
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str, &str); 15] = [
        (&|json| json["routes"] = json!([]), "routes", "nothing is for sale"),
        (&|json| json["routes"] = json!([{"match": {"path": "/"}, "free": true}]), "routes", "nothing is for sale"),
        (&|json| json["routes"][0]["match"]["path"] = "/api/".into(), "routes[0].match.path", "write {*rest}"),
        (&|json| json["routes"][0]["match"]["path"] = "/v:1/a".into(), "routes[0].match.path", "stands for itself"),
        (&|json| json["routes"][0]["match"]["path"] = "/a(b)".into(), "routes[0].match.path", "stands for itself"),
        (&|json| json["routes"][0]["match"]["methods"] = json!(["BREW"]), "routes[0].match.methods", "hardly a client"),
        (
            &|json| json["routes"][0]["description"] = "\u{e4}".repeat(501).into(),
            "routes[0].description",
            "500 characters",
        ),
        (
            &|json| json["routes"][0]["max_timeout_seconds"] = 300_000.into(),
            "routes[0].max_timeout_seconds",
            "in seconds",
        ),
        (
            &|json| json["routes"][0]["settlement_overrides"] = true.into(),
            "routes[0].settlement_overrides",
            "only scheme upto",
        ),
        (&|json| json["payers"] = json!({"allow": []}), "payers.allow", "nobody may pay"),
        (&|json| json["cors"] = json!({"origins": []}), "cors.origins", "is empty"),
        (&|json| json["keep_headers"] = json!(["x-mine"]), "keep_headers[0]", "is never removed"),
        (&|json| json["rpc"] = json!({"base": {"cluster": "n", "url": "http://n"}}), "rpc.base", "no route is paid on"),
        (&|json| json["mode"] = "shadow".into(), "mode", "nobody is asked to pay"),
        (
            &|json| {
                json["facilitator"]["url"] = "https://api.cdp.coinbase.com/platform/v2/x402".into();
                json["routes"][0]["price"] = "$0.0005".into();
            },
            "routes[0].price",
            "below $0.001",
        ),
    ];
    for (change, path, message) in cases {
        let warnings = odd(change);
        assert_eq!(warnings.len(), 1, "{path}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("{path}: ")) && warnings[0].contains(message), "{warnings:?}");
    }
    // Not in characters, but in bytes.
    assert_eq!(odd(&|json| json["routes"][0]["description"] = "\u{e4}".repeat(500).into()), [""; 0]);
}

#[test]
fn every_message_says_what_to_write_instead() {
    for (pointer, value, path, message) in [
        ("/routes/0/price", json!(0.001), "routes[0].price", "write dollars in quotes: \"$0.001\""),
        ("/routes/0/price", json!("$0,001"), "routes[0].price", "the decimal sign is a point"),
        ("/routes/0/price", json!("$1,000"), "routes[0].price", "nothing parts thousands"),
        ("/routes/0/price", json!("0.001"), "routes[0].price", "write dollars as \"$0.001\""),
        ("/facilitator/timeout", json!(10), "facilitator.timeout", "with its unit, in quotes: \"10s\""),
        ("/facilitator/url", json!("https://f.example/verify"), "facilitator.url", "leave out /verify"),
        ("/defaults/pay_to", json!(1e40), "defaults.pay_to", "put it in quotes"),
        ("/routes/0/description", json!(7), "routes[0].description", "put it in quotes"),
        ("/page", json!(false), "page", "write {enabled: false}"),
        ("/cors", json!("https://app.example"), "cors", "write {origins: ["),
        (
            "/routes/0/match/methods",
            json!("GET"),
            "routes[0].match.methods",
            "expected a sequence (a list); put what it holds in [ ]",
        ),
        ("/routes/2/free", json!("true"), "routes[2].free", "write true or false, without quotes"),
        ("/ledger/max_claims", json!("4096"), "ledger.max_claims", "without quotes"),
        ("/cors", json!({"origins": ["https://*.example.com"]}), "cors.origins[0]", "no wildcard"),
        ("/cors", json!({"origins": ["https://app.example.com:443"]}), "cors.origins[0]", "usual port"),
        ("/cors", json!({"origins": ["https://app.example.com/"]}), "cors.origins[0]", "final slash"),
        ("/allow_on_headers_stop_iteration", json!(true), "allow_on_headers_stop_iteration", "beside `configuration`"),
        (
            "/routes/0/allow_on_headers_stop_iteration",
            json!(true),
            "routes[0].allow_on_headers_stop_iteration",
            "beside",
        ),
        ("/routes/0/path", json!("/a"), "routes[0].path", "it belongs in `match` of a route"),
        ("/routes/0/prcie", json!("$1"), "routes[0].prcie", "did you mean `price`?"),
        ("/routes/0/payTo", json!(PAY_TO), "routes[0].payTo", "did you mean `pay_to`?"),
        ("/routes/0/mimeType", json!("a/b"), "routes[0].mimeType", "did you mean `mime_type`?"),
        ("/facilitator/uri", json!("http://f"), "facilitator.uri", "did you mean `url`?"),
        ("/ledger", json!({"exclusive": true}), "ledger.exclusive", "share one ledger by `ledger.store`"),
        ("/ledger", json!({"exclusive_after": "0s"}), "ledger.exclusive_after", "share one ledger by `ledger.store`"),
        ("/mode", json!("dark"), "mode", "expected `enforce` or `shadow`"),
    ] {
        assert_refused(&refused(&with(pointer, value.clone())), path, message, &format!("{pointer} {value}"));
    }
    let mut json = least();
    for (rate, is_meant) in [("$0.0000025", false), ("$0.00006", false), ("$0.001", true), ("$2.5", true), ("$0", true)]
    {
        set(&mut json, "/routes/0/price", json!({"usage": "openai", "models": {"m": {"input": rate, "output": "$1"}}}));
        let result = Config::from_json(json.to_string().as_bytes());
        assert_eq!(result.is_ok(), is_meant, "{rate}");
        if let Err(error) = result {
            assert_refused(&error, "routes[0].price.models.m.input", "reads like the price of one token", rate);
        }
    }
}

/// The warnings of the least that charges, with some things set.
fn warnings_with(changes: &[(&str, Value)]) -> Vec<String> {
    let mut json = least();
    for (pointer, value) in changes {
        set(&mut json, pointer, value.clone());
    }
    read(&json).warnings
}

#[test]
fn prices_that_give_something_away_are_warned_about() {
    let tokens = |model: Value, more: Value| {
        let mut price = json!({"usage": "openai", "models": {"gpt-4o": model}});
        price.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        price
    };
    let usual = json!({"input": "$2.50", "output": "$10"});
    let pointers = json!({"model": "/model", "input_tokens": "/usage/in"});
    for (price, warning) in [
        (tokens(usual.clone(), json!({})), None),
        (tokens(json!({"input": "$0", "output": "$10"}), json!({})), None),
        (
            tokens(json!({"input": "$0", "output": "$0"}), json!({})),
            Some("price.models: has a model that costs nothing"),
        ),
        (tokens(json!({"input": "$0", "output": "$0"}), json!({"minimum": "$0.001"})), None),
        (tokens(json!({"input": "$2.50"}), json!({})), Some("price.models: has a model whose output costs nothing")),
        (json!({"usage": "openai", "models": {"text-embedding-3-small": {"input": "$0.02"}}}), None),
        (tokens(usual.clone(), json!({"max_output_tokens": 0})), Some("price.max_output_tokens: is 0")),
        (tokens(usual.clone(), json!({"usage": pointers})), Some("price.usage: names no output_tokens")),
        (
            tokens(json!({"input": "$0.0025", "output": "$0.01"}), json!({})),
            Some("price.models: has an input below $0.01"),
        ),
        (json!({"usage": "openai", "models": {"gpt.*": usual}}), Some("price.models: has a name with a sign of")),
        (json!({"usage": "openai", "models": {"^gpt-4": usual}}), Some("price.models: has a name with a sign of")),
        (
            json!({"usage": "openai", "models": {"gpt-4o,gpt-4": usual}}),
            Some("price.models: has a name with a sign of"),
        ),
        (json!({"usage": "openai", "models": {"@cf/meta/llama-3.1:v2*": usual}}), None),
    ] {
        let warnings = warnings_with(&[("/routes/0/price", price.clone())]);
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{price}: {warnings:?}");
        if let Some(warning) = warning {
            assert!(warnings[0].starts_with(&format!("routes[0].{warning}")), "{price}: {warnings:?}");
        }
    }
    let embeddings = [
        ("/routes/0/price", tokens(json!({"input": "$0.02"}), json!({}))),
        ("/routes/0/match/path", json!("/v1/embeddings")),
    ];
    assert_eq!(warnings_with(&embeddings), [""; 0]);
    assert_refused(
        &refused(&with("/routes/1/price", json!({"usage": "openai", "models": {"": {"input": "$1"}}}))),
        "routes[1].price.models",
        "write \"*\" for any model",
        "empty",
    );
}

#[test]
fn money_that_nobody_could_take_or_everybody_could_is_told_of() {
    let known = |name: &str, decimals: u64| json!({"address": USDC, "decimals": decimals, "eip712": {"name": name, "version": "2"}, "usd_pegged": true});
    for (pointer, value, warning) in [
        ("/routes/0/accepts/0/network", json!("base"), Some("routes[0].pay_to: is an account of Anvil's")),
        ("/routes/0/accepts/0/network", json!("eip155:1"), Some("routes[0].pay_to: is an account of Anvil's")),
        ("/routes/0/accepts/0/network", json!("avalanche-fuji"), None),
        ("/routes/0/accepts/0/asset", known("USDC", 6), None),
        (
            "/routes/0/accepts/0/asset",
            known("USD Coin", 6),
            Some("routes[0].accepts: has a token of the built-in table"),
        ),
        ("/routes/0/accepts/0/asset", known("USDC", 18), Some("routes[0].accepts: has a token of the built-in table")),
    ] {
        let warnings = warnings_with(&[(pointer, value.clone())]);
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{value}: {warnings:?}");
        assert!(warning.is_none_or(|warning| warnings[0].starts_with(warning)), "{value}: {warnings:?}");
    }
    let mut route = least()["routes"][0].clone();
    route["accepts"][0]["network"] = "base".into();
    let mut others = [route.clone(), route.clone(), route];
    others.iter_mut().zip(["/a", "/b", "/c"]).for_each(|(route, path)| route["match"]["path"] = path.into());
    let [warning] = &warnings_with(&[("/routes", json!(others))])[..] else { panic!("one for all") };
    assert!(warning.starts_with("routes[0].pay_to: ") && warning.ends_with("(of 2 more routes, too)"), "{warning}");
    for (pointer, value, path, message) in [
        ("/routes/0/pay_to", json!(USDC), "routes[0].accepts[0]", "pays the token's own contract"),
        (
            "/routes/0/pay_to",
            json!({"split": [{"to": OTHER}, {"to": USDC}]}),
            "routes[0].accepts[0]",
            "pays the token's own",
        ),
        (
            "/routes/0/pay_to",
            json!("0x000000000022D473030F116dDEE9F6B43aC78BA3"),
            "routes[0].pay_to",
            "is a contract that payments pass",
        ),
        (
            "/routes/0/pay_to",
            json!("0x402085c248EeA27D92E8b30b2C58ed07f9E20001"),
            "routes[0].pay_to",
            "is a contract that payments pass",
        ),
        (
            "/routes/0/accepts/0/asset",
            json!({"address": format!("0x{}", "0".repeat(40)), "decimals": 18, "eip712": {"name": "ETH", "version": "1"}}),
            "routes[0].accepts[0].asset.address",
            "only tokens can be charged",
        ),
    ] {
        let mut json = least();
        set(&mut json, pointer, value.clone());
        assert_refused(&refused(&json), path, message, &value.to_string());
    }
}

#[test]
fn a_newcomer_is_told_what_to_write_instead() {
    for (pointer, value, path, message) in [
        ("/routes/0/price", json!("$1e-3"), "routes[0].price", "write digits with a point alone, such as \"$0.001\""),
        ("/routes/0/price", json!("$2.50/1M"), "routes[0].price", "write digits with a point alone"),
        ("/routes/0/price", json!("$.01"), "routes[0].price", "write digits with a point alone"),
        ("/routes/0/price", json!({"amount": "0.5"}), "routes[0].price.amount", "atomic units are whole"),
        ("/routes/0/price", json!({"amount": "0x10"}), "routes[0].price.amount", "written in digits alone: \"1000\""),
        ("/mode", json!(false), "mode", "write \"enforce\" or \"shadow\""),
        ("/unmatched", json!(403), "unmatched", "write \"free\" or \"deny\""),
        ("/facilitator/verify", json!(false), "facilitator.verify", "write \"remote\" or \"local\""),
        ("/facilitator", json!("https://x402.org/facilitator"), "facilitator", "write {cluster: "),
        ("/facilitator/headers", json!([{"name": "x"}]), "facilitator.headers", "write {x-api-key: {env: NAME}}"),
        ("/rpc", json!([{"network": "base"}]), "rpc", "write {base: {cluster: "),
        ("/routes/0/match", json!("/weather"), "routes[0].match", "write {path: \"/weather\"}"),
        (
            "/routes/0/extensions",
            json!({"builder_code": "my_app"}),
            "routes[0].extensions.builder_code",
            "write {app: \"my_app\"}",
        ),
        ("/routes/0/method", json!("GET"), "routes[0].method", "(it belongs in `match` of a route)"),
        ("/routes/0/match/prefix", json!("/a"), "routes[0].match.prefix", "(it belongs in `path`, as /prefix/{*rest})"),
        ("/routes/0/amount", json!("1000"), "routes[0].amount", "(it belongs in `price`)"),
        ("/payTo", json!(PAY_TO), "payTo", "(it belongs in `defaults` or an entry of `routes`)"),
        ("/routes/0/icon_url", json!("javascript://x/"), "routes[0].icon_url", "is not a URL such as"),
        ("/routes/0/accepts/0/network", json!("Base"), "routes[0].accepts[0].network", "did you mean base?"),
        ("/routes/0/accepts/0/network", json!("base-mainnet"), "routes[0].accepts[0].network", "did you mean base?"),
        (
            "/routes/0/accepts/0/network",
            json!("Base Sepolia"),
            "routes[0].accepts[0].network",
            "did you mean base-sepolia?",
        ),
        (
            "/routes/0/accepts/0/network",
            json!("basesepolia"),
            "routes[0].accepts[0].network",
            "did you mean base-sepolia?",
        ),
        ("/routes/0/accepts/0/network", json!("8453"), "routes[0].accepts[0].network", "did you mean eip155:8453?"),
        (
            "/routes/0/accepts/0/network",
            json!("solana-mainnet"),
            "routes[0].accepts[0].network",
            "did you mean solana?",
        ),
        ("/routes/0/accepts/0/network", json!("mainnet"), "routes[0].accepts[0].network", "did you mean ethereum?"),
    ] {
        let mut json = least();
        set(&mut json, pointer, value.clone());
        assert_refused(&refused(&json), path, message, &value.to_string());
    }
}

#[test]
fn a_path_that_is_free_where_it_is_written_otherwise_is_warned_about() {
    let route = |path: &str, is_free: bool| match is_free {
        true => json!({"match": {"path": path}, "free": true}),
        false => {
            json!({"match": {"path": path}, "price": "$1", "pay_to": OTHER, "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}]})
        }
    };
    for (free, priced, is_warned) in [
        ("/weather", "/Weather", true),
        ("/weather/{*rest}", "/weather", true),
        ("/weather/", "/weather", true),
        ("/Weather", "/weather", false),
        ("/weather/{id}", "/weather", false),
        ("/users/{id}/public", "/users/{*rest}", false),
        ("/", "/{*rest}", false),
    ] {
        let warnings = warnings_with(&[("/routes", json!([route(free, true), route(priced, false)]))]);
        let warned = warnings.iter().any(|warning| warning.starts_with("routes[1].match: an earlier, free route"));
        assert_eq!(warned, is_warned, "{free} {priced}: {warnings:?}");
    }
    for path in ["/weather,/forecast", "/'weather'", "/api/\u{200b}x", "/`x`"] {
        let warnings = warnings_with(&[("/routes/0/match/path", json!(path))]);
        assert!(warnings.len() == 1 && warnings[0].contains("stands for itself"), "{path}: {warnings:?}");
    }
}

#[test]
fn what_catalogues_show_is_on_the_wire_as_the_official_packages_have_it() {
    let mut json = least();
    for (key, value) in [
        ("service_name", json!("Weather")),
        ("tags", json!(["weather", "data"])),
        ("icon_url", json!("https://a.example/icon.png")),
        ("extensions", json!({"builder_code": {"app": "my_app", "services": ["other_1"]}})),
    ] {
        json["routes"][0][key] = value;
    }
    let config = read(&json);
    let terms = terms(&config, 0);
    let resource: Value = serde_json::from_str(&json::to_text(&terms.resource("http://a/"))).unwrap();
    assert_eq!(
        resource,
        json!({"url": "http://a/", "description": "", "mimeType": "", "serviceName": "Weather", "tags": ["weather", "data"],
            "iconUrl": "https://a.example/icon.png"})
    );
    let declared: Value = serde_json::from_str(terms.extensions.declared.as_deref().unwrap()).unwrap();
    assert_eq!(declared["builder-code"]["info"], json!({"a": "my_app", "s": ["other_1"]}));
    assert_eq!(declared["builder-code"]["schema"]["properties"]["s"]["maxItems"], 11);
    for (key, value, path) in [
        ("service_name", json!(""), "service_name"),
        ("service_name", json!("a".repeat(33)), "service_name"),
        ("service_name", json!("\u{e4}"), "service_name"),
        ("tags", json!(["a", "b", "c", "d", "e", "f"]), "tags"),
        ("tags", json!([""]), "tags"),
        ("icon_url", json!("icon.png"), "icon_url"),
        ("extensions", json!({"builder_code": {"app": "My-App"}}), "extensions.builder_code"),
        (
            "extensions",
            json!({"builder_code": {"app": "a", "services": ["a", "b", "c", "d", "e", "f"]}}),
            "extensions.builder_code",
        ),
    ] {
        let mut json = json.clone();
        json["routes"][0][key] = value.clone();
        assert_eq!(refused(&json).path, format!("routes[0].{path}"), "{key}: {value}");
    }
}

/// A configuration that takes what it can from the environment.
fn from_environment() -> Value {
    let service = |name: &str| json!({"cluster": "c", "url": {"env": format!("{name}_URL")}, "headers": {"X-Api-Key": {"env": format!("{name}_KEY")}}});
    let mut json = whole();
    json["facilitator"] = service("FACILITATOR");
    json["rpc"] = json!({"base-sepolia": service("NODE")});
    json["offer_receipt"] = json!({"key": {"env": "RECEIPT_KEY"}});
    json["routes"][0]["price"] = json!({"quote": service("QUOTE")});
    json
}

/// Reads a configuration in an environment of one line for each of these services.
fn in_environment(json: &Value, change: (&str, Option<&str>)) -> Result<Config, ConfigError> {
    let environment = |name: &str| match (name, name.split_once('_')) {
        _ if name == change.0 => change.1.map(str::to_owned),
        ("RECEIPT_KEY", _) => Some(format!("0x{}\n", "11".repeat(32))),
        (_, Some((service, "URL"))) => Some(format!("https://{}.example/v2/s3cr3t\n", service.to_lowercase())),
        (_, Some((service, "KEY"))) => Some(format!("Bearer {service}\r\n")),
        _ => None,
    };
    Config::from_host(json.to_string().as_bytes(), &environment)
}

#[test]
fn secrets_come_from_the_environment() {
    let config = in_environment(&from_environment(), ("", None)).unwrap();
    let facilitator = &config.facilitators[0].service;
    let quote = config.routes[0].terms.as_ref().unwrap().price_service.clone().unwrap();
    for (service, host, key) in
        [(&**facilitator, "facilitator.example", "Bearer FACILITATOR"), (&*quote, "quote.example", "Bearer QUOTE")]
    {
        assert_eq!((service.authority.as_str(), service.base_path.as_str()), (host, "/v2/s3cr3t"));
        assert_eq!(service.headers, [("x-api-key".to_owned(), key.to_owned())]);
    }
    assert!(config.issuer.is_some());
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn a_variable_that_is_missing_or_empty_is_named_with_its_path() {
    for (name, path) in [
        ("FACILITATOR_URL", "facilitator.url"),
        ("FACILITATOR_KEY", "facilitator.headers.X-Api-Key"),
        ("NODE_URL", "rpc.base-sepolia.url"),
        ("NODE_KEY", "rpc.base-sepolia.headers.X-Api-Key"),
        ("QUOTE_URL", "routes[0].price.quote.url"),
        ("QUOTE_KEY", "routes[0].price.quote.headers.X-Api-Key"),
        ("RECEIPT_KEY", "offer_receipt.key"),
    ] {
        for value in [None, Some(""), Some("\n")] {
            let error = in_environment(&from_environment(), (name, value)).unwrap_err();
            let message = format!("needs the environment variable {name}, which the filter does not see");
            assert_refused(&error, path, &message, name);
            assert!(
                error.message.contains("vm_config.environment_variables") && error.message.contains("vmConfig.env")
            );
        }
    }
    let mut several = from_environment();
    several.as_object_mut().unwrap().remove("facilitator");
    several["facilitators"] = json!([whole()["facilitator"], from_environment()["facilitator"]]);
    assert_eq!(in_environment(&several, ("", None)).unwrap().facilitators.len(), 2);
    let error = in_environment(&several, ("FACILITATOR_KEY", None)).unwrap_err();
    assert_refused(&error, "facilitators[1].headers.X-Api-Key", "FACILITATOR_KEY", "several");
    // Nothing fills in the variables of a shell, a chart or Envoy's own formatter.
    for text in
        ["${FACILITATOR_KEY}", "$FACILITATOR_KEY", "Bearer ${key}", "$(KEY)", "{{ .Values.key }}", "%ENVIRONMENT(KEY)%"]
    {
        let error = refused(&with("/facilitator/headers/X-Api-Key", json!(text)));
        assert_refused(&error, "facilitator.headers.X-Api-Key", "write {env: NAME}", text);
    }
    for text in ["$2b$10$abc", "$ecret", "Bearer $x", "${", "a${B}c", "$", "{{}}"] {
        let json = with("/facilitator/headers/X-Api-Key", json!(text)).to_string();
        Config::from_json(json.as_bytes()).expect(text);
    }
    // What stands there may be the secret itself.
    for name in ["hunter2", "AKIAIOSFODNN7EXAMPLE", "Bearer x", "", "A\n"] {
        let error = refused(&with("/facilitator/headers/X-Api-Key", json!({"env": name})));
        assert_refused(&error, "facilitator.headers.X-Api-Key", "its name is not shown", name);
        assert!(name.is_empty() || !error.message.contains(name), "{error}");
    }
}

#[test]
fn facilitators_do_not_share_a_name_that_somebody_gave() {
    let several = |names: [Option<&str>; 2]| {
        let mut json = whole();
        let mut facilitator = json.as_object_mut().unwrap().remove("facilitator").unwrap();
        let named = names.map(|name| {
            facilitator["name"] = json!(name);
            facilitator.clone()
        });
        json["facilitators"] = json!(named);
        json
    };
    for names in [[Some("a"), Some("a")], [None, Some("facilitator")], [Some("facilitator"), None]] {
        assert_refused(&refused(&several(names)), "facilitators[1].name", "is that of facilitators[0] too", "two");
    }
    for names in [[Some("a"), Some("b")], [Some("a"), None], [None, None]] {
        let config = Config::from_json(several(names).to_string().as_bytes()).unwrap();
        assert_eq!(config.facilitators[0].name, names[0].unwrap_or("facilitator"));
    }
}

#[test]
fn what_is_neither_a_text_nor_a_variable_is_no_secret() {
    for wrong in
        [json!({"env": 7}), json!({"env": "A", "else": "B"}), json!({"ENV": "A"}), json!({"env": {"env": "A"}})]
    {
        let error = refused(&with("/facilitator/headers/X-Api-Key", wrong));
        assert_refused(&error, "facilitator.headers.X-Api-Key", "expected a string or {env: NAME}", "secret");
    }
    let twice = whole().to_string().replacen(r#""X-Api-Key":"#, r#""X-Api-Key":{"env":"A","env":"B"},"other":"#, 1);
    let error = Config::from_json(twice.as_bytes()).unwrap_err();
    assert_refused(&error, "facilitator.headers.X-Api-Key", "expected a string or {env: NAME}", "twice");
}

/// A throwaway key: base64 of the seed 07…07 and its public key.
const CDP_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfqSmxj4pxSCr71UHsTLsX5lUd2rr6+e5JCHuppFEbSLA==";

#[test]
fn a_key_of_coinbases_platform_is_read_and_never_shown() {
    let with_key =
        |id: Value, secret: Value| with("/facilitator/auth", json!({"cdp": {"key_id": id, "key_secret": secret}}));
    let config = read(&with_key(json!("key-1"), json!(CDP_KEY)));
    assert!(config.facilitators[0].service.cdp_key.is_some());
    assert!(!format!("{config:?}").contains("BwcHBwcH"));
    let variables = with_key(json!({"env": "CDP_API_KEY_ID"}), json!({"env": "CDP_API_KEY_SECRET"}));
    let environment =
        |name: &str| Some(if name.ends_with("_ID") { "key-1".to_owned() } else { format!("{CDP_KEY}\n") });
    let same = Config::from_host(variables.to_string().as_bytes(), &environment).unwrap();
    assert_eq!(same.facilitators, config.facilitators);
    let error = Config::from_host(variables.to_string().as_bytes(), &|name| {
        environment(name).filter(|_| name.ends_with("_ID"))
    });
    assert_refused(&error.unwrap_err(), "facilitator.auth.cdp.key_secret", "CDP_API_KEY_SECRET", "missing");

    let halves = CDP_KEY.replace("fqSmx", "frSmx");
    for (secret, message) in [
        ("", "is not a key as Coinbase's portal shows it"),
        ("hunter2", "is not a key as Coinbase's portal shows it"),
        (CDP_KEY.trim_end_matches("LA=="), "is not a key as Coinbase's portal shows it"),
        (&halves, "its second half is not the public key of its first"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----",
            "is PEM, but no whole private key on P-256",
        ),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcC", "is PEM, but no whole private key on P-256"),
    ] {
        let error = refused(&with_key(json!("key-1"), json!(secret)));
        assert_refused(&error, "facilitator.auth.cdp.key_secret", message, message);
        assert!(secret.is_empty() || !error.message.contains(secret) && !error.message.contains("hunter2"));
    }
    for id in ["", "a\nb", "a b"] {
        let error = refused(&with_key(json!(id), json!(CDP_KEY)));
        assert_refused(&error, "facilitator.auth.cdp.key_id", "copy the key's id", id);
    }
    let mut both = with_key(json!("key-1"), json!(CDP_KEY));
    set(&mut both, "/facilitator/headers/Authorization", json!("Bearer x"));
    assert_refused(&refused(&both), "facilitator.headers.authorization", "keep one", "both");
    let mut several = whole();
    several.as_object_mut().unwrap().remove("facilitator");
    several["facilitators"] = json!([whole()["facilitator"], with_key(json!("key-1"), json!(CDP_KEY))["facilitator"]]);
    let keys = read(&several).facilitators.iter().map(|one| one.service.cdp_key.is_some()).collect::<Vec<_>>();
    assert_eq!(keys, [false, true], "each has its own");
    several["facilitators"][1]["auth"]["cdp"]["key_secret"] = json!("hunter2");
    let error = refused(&several);
    assert_refused(
        &error,
        "facilitators[1].auth.cdp.key_secret",
        "is not a key as Coinbase's portal shows it",
        "several",
    );
    let identity = |config: &Config| config.facilitators[0].service.identity();
    assert_ne!(identity(&config), identity(&read(&whole())));
    assert_ne!(identity(&config), identity(&read(&with_key(json!("key-2"), json!(CDP_KEY)))));
}

#[test]
fn bundles_are_refused_where_they_are_wrong() {
    let calls = json!({"calls": 100, "price": "$0.09", "lasts": "2592000s"});
    let but = |key: &str, value: Value| {
        let mut bundle = calls.clone();
        set(&mut bundle, &format!("/{key}"), value);
        bundle
    };
    for (bundle, path, message) in [
        (json!({"calls": 100, "price": "$0.09"}), "", "missing field `lasts`"),
        (json!({"lasts": "60s"}), "", "has neither calls nor credit"),
        (but("credit", "$5".into()), "", "has calls and credit"),
        (json!({"calls": 100, "lasts": "60s"}), ".price", "is missing"),
        (json!({"credit": "$5", "price": "$5", "lasts": "60s"}), ".price", "stands beside credit"),
        (but("calls", 0.into()), ".calls", "is 0"),
        (but("price", "$0".into()), ".price", "is nothing"),
        (but("price", "0.09".into()), ".price", "does not begin with a dollar sign"),
        (but("price", "$0.001".into()), ".price", "is the price of a single call"),
        (but("price", json!({"amount": "1.5"})), ".price.amount", "is not a plain decimal number"),
        (json!({"credit": "$0.0005", "lasts": "60s"}), ".credit", "is less than a single call costs"),
        (but("lasts", "0s".into()), ".lasts", "is not of whole seconds"),
        (but("lasts", "720h".into()), ".lasts", "is not of whole seconds"),
        (but("lasts", "31622401s".into()), ".lasts", "to 366 days"),
        (but("more", 1.into()), ".more", "unknown field"),
    ] {
        let error = refused(&with("/routes/0/bundle", bundle.clone()));
        assert_refused(&error, &format!("routes[0].bundle{path}"), message, &bundle.to_string());
    }
    let of = |changes: &[(&str, Value)]| {
        let mut json = with("/routes/0/bundle", calls.clone());
        for (pointer, value) in changes {
            set(&mut json, pointer, value.clone());
        }
        json
    };
    let by_tokens = json!({"usage": "openai", "models": {"*": {"input": "$1", "output": "$1"}}});
    let upto = json!([{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}]);
    let seller = json!({"metadata": {"namespace": "mesh", "key": "seller"}});
    let two = json!([
        {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
        {"scheme": "exact", "network": "anvil", "asset": "TUSD"},
    ]);
    let credit = json!({"credit": "$5", "lasts": "60s"});
    for (json, path, message) in [
        (of(&[("/routes/0/price", by_tokens.clone())]), ".calls", "is for a fixed price"),
        (
            of(&[("/routes/0/settle", "after".into()), ("/routes/0/accepts", upto)]),
            "",
            "needs an entry of scheme exact",
        ),
        (of(&[("/routes/0/pay_to", seller)]), "", "does not go with pay_to from metadata"),
        (
            of(&[("/routes/0/extensions", json!({"sign_in_with_x": {"lasts": "60s"}}))]),
            "",
            "stands beside extensions.sign_in_with_x",
        ),
        (
            of(&[("/routes/0/bundle", credit.clone()), ("/routes/0/accepts", two.clone())]),
            ".credit",
            "as many decimals",
        ),
    ] {
        assert_refused(&refused(&json), &format!("routes[0].bundle{path}"), message, &json.to_string());
    }
    let free = with("/routes/2/bundle", calls.clone());
    assert_refused(&refused(&free), "routes[2]", "is free, and says how to pay", "free");
    let mut opaque = with_entry(&opaque_entry());
    set(&mut opaque, "/routes/1/bundle", credit.clone());
    assert_refused(&refused(&opaque), "routes[1].bundle", "needs an entry of scheme exact", "hedera");
}

#[test]
fn a_bundle_is_an_entry_more_for_each_that_can_be_paid_for_one() {
    let bundle = json!({"calls": 100, "price": "$0.09", "lasts": "2592000s"});
    let accepts = json!([
        {"scheme": "exact", "network": "base-sepolia", "asset": "USDC"},
        {"scheme": "upto", "network": "base-sepolia", "asset": "USDC"},
        {"scheme": "exact", "network": "anvil", "asset": "TUSD"},
    ]);
    let mut json = with("/routes/0/bundle", bundle);
    set(&mut json, "/routes/0/settle", "after".into());
    set(&mut json, "/routes/0/accepts", accepts);
    let config = read(&json);
    assert_eq!(config.warnings, [""; 0]);
    let amounts = |config: &Config| -> Vec<String> {
        terms(config, 0).offers.iter().map(|offer| offer.requirement.amount.to_string()).collect()
    };
    let units = |number: &str, decimals: usize| format!("{number}{}", "0".repeat(decimals));
    assert_eq!(amounts(&config), [units("1", 3), units("1", 3), units("1", 15), units("9", 4), units("9", 16)]);
    let sold: Vec<_> = terms(&config, 0).offers.iter().filter_map(|offer| offer.requirement.bundle).collect();
    assert_eq!(sold.len(), 2);
    assert_eq!(sold[0].to_json(), r#"{"calls":100,"lasts":2592000}"#);
    let BundleTerms { takes_calls, price } = terms(&config, 0).bundle.clone().unwrap();
    assert!(takes_calls);
    let worth = |json: &Value| terms(&read(json), 0).bundle.clone().unwrap().price;
    set(&mut json, "/routes/0/bundle/price", "$0.08".into());
    assert_eq!(worth(&json), price, "what is sold later changes nothing about what was sold");
    set(&mut json, "/routes/0/price", "$0.002".into());
    assert_ne!(worth(&json), price);
    set(&mut json, "/routes/0/bundle", json!({"credit": {"amount": "5000000"}, "lasts": "60s"}));
    set(&mut json, "/routes/0/accepts", json!([{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}]));
    assert_eq!(amounts(&read(&json)), ["2000", "5000000"]);
    let before = worth(&json);
    set(&mut json, "/routes/0/price", "$0.003".into());
    assert_eq!(worth(&json), before, "credit is worth itself");
    for (price, message) in
        [("$0.4", "is more than so many single calls cost"), ("$0.0001", "is less than a single call")]
    {
        let odd = with("/routes/0/bundle", json!({"calls": 100, "price": price, "lasts": "60s"}));
        let warnings = read(&odd).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("routes[0].bundle.price: ") && warnings[0].contains(message), "{warnings:?}");
    }
}

#[test]
fn a_ledger_stands_in_one_store_that_is_named_whole() {
    let of = |store: Value| with("/ledger/store", store);
    let dynamodb = |changes: Value| {
        let mut place = json!({"cluster": "dynamodb", "table": "x402", "fleet": "shop"});
        place.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        of(json!({"dynamodb": place}))
    };
    let ledger = read(&dynamodb(json!({"timeout": "2s"}))).shared_ledger.unwrap();
    assert_eq!((ledger.service.cluster.as_str(), ledger.service.timeout), ("dynamodb", Duration::from_secs(2)));
    let others = [json!({"table": "x403"}), json!({"fleet": "stall"}), json!({"cluster": "other"})];
    for other in others {
        assert_ne!(read(&dynamodb(other.clone())).shared_ledger.unwrap().name(), ledger.name(), "{other}");
    }
    let etcd = json!({"cluster": "etcd", "fleet": "shop"});
    read(&of(json!({"etcd": etcd}))).shared_ledger.unwrap();
    for (config, path, message) in [
        (of(json!({})), "ledger.store", "names no store"),
        (
            of(json!({"etcd": etcd, "dynamodb": {"cluster": "d", "table": "x402", "fleet": "shop"}})),
            "ledger.store",
            "names two stores",
        ),
        (of(json!({"etcd": {"cluster": "", "fleet": "shop"}})), "ledger.store.etcd.cluster", "is empty"),
        (of(json!({"etcd": {"cluster": "etcd", "fleet": "a shop"}})), "ledger.store.etcd.fleet", "is not of 1 to 64"),
        (dynamodb(json!({"cluster": ""})), "ledger.store.dynamodb.cluster", "is empty"),
        (dynamodb(json!({"table": "x4"})), "ledger.store.dynamodb.table", "is not of 3 to 255"),
        (dynamodb(json!({"table": "x402\"}"})), "ledger.store.dynamodb.table", "is not of 3 to 255"),
        (dynamodb(json!({"table": "t".repeat(256)})), "ledger.store.dynamodb.table", "is not of 3 to 255"),
        (dynamodb(json!({"fleet": ""})), "ledger.store.dynamodb.fleet", "is not of 1 to 64"),
        (dynamodb(json!({"timeout": "0s"})), "ledger.store.dynamodb.timeout", "is not more than 0s"),
        (dynamodb(json!({"timeout": "11s"})), "ledger.store.dynamodb.timeout", "at most 10s"),
    ] {
        assert_refused(&refused(&config), path, message, &config.to_string());
    }
}
