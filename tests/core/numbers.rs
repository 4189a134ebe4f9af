//! What 32 bits could make different: the core as it runs in a proxy.

use crate::common::{base_config, read_config};
use serde_json::json;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::ledger::Ledger;
use x402_proxy_wasm::money::{Amount, Dollars};
use x402_proxy_wasm::time::{UnixTime, parse_duration};

#[test]
fn numbers_wider_than_a_pointer_are_kept() {
    assert_eq!(size_of::<usize>(), 4, "or this is not what it is meant to be");
    let mut json = base_config();
    json["routes"].as_array_mut().unwrap().truncate(1);
    json["ledger"] = json!({"max_claims": 16_777_216_u64});
    json["defaults"]["max_timeout_seconds"] = json!(9_007_199_254_740_993_u64);
    json["defaults"]["accepts"][0] = json!({
        "scheme": "exact",
        "network": "eip155:18446744073709551615",
        "asset": {
            "address": crate::common::USDC,
            "decimals": 77,
            "eip712": {"name": "USD₮0", "version": "1"},
            "usd_pegged": true,
        },
    });
    let config = read_config(&json);
    assert_eq!(config.ledger, Ledger::with_room_for(16_777_216));
    let requirement = &config.routes[0].terms.as_ref().unwrap().offers[0].requirement;
    assert_eq!(
        (requirement.evm().unwrap().chain_id, requirement.max_timeout_seconds),
        (u64::MAX, 9_007_199_254_740_993)
    );
    assert_eq!(requirement.amount.to_string(), format!("1{}", "0".repeat(74)));
    let largest = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    assert_eq!(Amount::parse(largest).unwrap().to_string(), largest);
    assert!(Dollars::parse("$1.1579").unwrap().to_amount(77).is_ok());
    assert_eq!(parse_duration("18446744073.709551615s").unwrap().as_nanos(), u128::from(u64::MAX));
    assert_eq!(UnixTime::from_secs(u64::MAX).plus(1).as_secs(), u64::MAX);
}

#[test]
fn a_configuration_is_refused_with_its_path() {
    let mut json = base_config();
    json["routes"][0]["price"] = "$0.0000001".into();
    let error = Config::from_json(json.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "routes[0].price: \"$0.0000001\" is below one atomic unit of USDC (6 decimals)");
}
