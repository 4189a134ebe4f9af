//! Extensions of the protocol: what the terms declare, and what a client's name for its payment is good for.

use crate::common::{Request, Stage, Wallet, base_config, decode, head, invalid, paid, settled, upstream, valid};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::exchange::{Event, Outcome, RequestHead, ShownUrl};
use x402_proxy_wasm::facilitator::{CalloutAnswer, Supported};
use x402_proxy_wasm::ledger::{Answer, Ledger};

fn config(extensions: &Value) -> Value {
    let mut config = base_config();
    config["routes"][0]["extensions"] = extensions.clone();
    config
}

fn terms(stage: &mut Stage) -> Value {
    decode(stage.start(&head("GET", "/weather", &[])).reply_header("payment-required").unwrap())
}

/// A payment with a nonce of its own, under a name.
fn named(stage: &mut Stage, nonce: u8, id: &str) -> Value {
    let accepted = terms(stage)["accepts"][0].clone();
    let mut payment = Wallet::new(1).pay(&accepted, nonce);
    if !id.is_empty() {
        payment["extensions"] = json!({"payment-identifier": {"info": {"required": false, "id": id}}});
    }
    payment
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().unwrap().outcome
}

const ID: &str = "pay_0123456789abcdef";

#[test]
fn extensions_are_declared_where_they_are_configured() {
    assert!(terms(&mut Stage::new(&base_config())).get("extensions").is_none());
    let mut stage = Stage::new(&config(&json!({
        "payment_identifier": "optional",
        "bazaar": {"query": {"city": "Paris"}, "output": {"weather": "sunny"}},
    })));
    let extensions = terms(&mut stage)["extensions"].clone();
    assert_eq!(extensions["payment-identifier"]["info"], json!({"required": false}));
    assert_eq!(
        extensions["bazaar"]["info"],
        json!({
            "input": {"type": "http", "method": "GET", "queryParams": {"city": "Paris"}},
            "output": {"type": "json", "example": {"weather": "sunny"}},
        })
    );
    let catalogue = stage.start(&head("GET", "/.well-known/x402", &[])).body();
    assert_eq!(catalogue["items"][0]["extensions"]["bazaar"], extensions["bazaar"]);
    assert!(catalogue["items"][1].get("extensions").is_none());
}

#[test]
fn sponsoring_is_declared_where_the_facilitator_has_it_and_an_entry_needs_it() {
    let names = ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring", "other"];
    for (method, declared) in [("eip3009", 0), ("permit2", 2)] {
        let mut config = base_config();
        config["defaults"]["accepts"][0]["transfer_method"] = method.into();
        let mut stage = Stage::new(&config);
        assert!(terms(&mut stage).get("extensions").is_none());
        stage.supported.extensions = names.map(str::to_owned).to_vec();
        let extensions = terms(&mut stage)["extensions"].clone();
        assert_eq!(extensions.as_object().map_or(0, serde_json::Map::len), declared, "{method}");
        for name in &names[..declared] {
            assert_eq!(extensions[name]["info"]["version"], "1");
        }
        assert_eq!(Supported::from_text(&stage.supported.to_text()), stage.supported);
    }
}

#[test]
fn what_a_client_adds_goes_to_the_facilitator_as_it_came() {
    let mut stage = Stage::new(&base_config());
    let mut payment = named(&mut stage, 1, "");
    payment["extensions"] = json!({"eip2612GasSponsoring": {"info": {"nonce": "7", "odd": [1.50, null]}}, "mine": "x"});
    let request = stage.start(&paid("/weather", &payment));
    let body: Value = serde_json::from_str(&request.call.unwrap().body).unwrap();
    assert_eq!(body["paymentPayload"]["extensions"], payment["extensions"]);
}

#[test]
fn names_are_wanted_as_configured() {
    let mut free = Stage::new(&base_config());
    let sent = named(&mut free, 1, "short");
    assert_eq!(free.start(&paid("/weather", &sent)).story(), "claim granted, verify?", "nobody asked for one");
    for (wanted, without) in [("optional", "claim granted, verify?"), ("required", "= malformed, reply 400")] {
        let mut stage = Stage::new(&config(&json!({"payment_identifier": wanted})));
        assert_eq!(terms(&mut stage)["extensions"]["payment-identifier"]["info"]["required"], wanted == "required");
        let v1 = stage.start(&head("GET", "/weather", &[])).body()["accepts"].as_array().unwrap().len();
        assert_eq!(v1, usize::from(wanted == "optional"), "version 1 knows no names");
        let sent = named(&mut stage, 1, "");
        assert_eq!(stage.start(&paid("/weather", &sent)).story(), without);
        let sent = named(&mut stage, 2, "short");
        let request = stage.start(&paid("/weather", &sent));
        assert_eq!((request.status(), outcome(&request)), (400, Outcome::Malformed));
        assert!(request.body()["error"].as_str().unwrap().contains("payment-identifier"), "{}", request.body());
        let sent = named(&mut stage, 3, ID);
        assert_eq!(stage.start(&paid("/weather", &sent)).story(), "claim granted, claim granted, verify?");
    }
}

#[test]
fn one_name_is_one_payment() {
    let mut stage = Stage::new(&config(&json!({"payment_identifier": "optional"})));
    let (first, second) = (named(&mut stage, 1, ID), named(&mut stage, 2, ID));
    // While the first is at work, and when it has bought its response.
    let mut request = stage.start(&paid("/weather", &first));
    let other = stage.start(&paid("/weather", &second));
    assert_eq!((other.status(), other.reason()), (409, "payment_identifier_conflict"));
    for event in [valid(), upstream(200), settled()] {
        stage.step(&mut request, event);
    }
    assert_eq!(outcome(&request), Outcome::Served);
    let other = stage.start(&paid("/weather", &second));
    assert_eq!((other.status(), outcome(&other)), (409, Outcome::Refused));
    assert_eq!(outcome(&stage.start(&paid("/weather", &first))), Outcome::Spent, "the ledger's answer");
    // The second payment is as good as new under a name of its own, and another payer's names are its own.
    let renamed = named(&mut stage, 2, "pay_another_one_0123");
    assert_eq!(outcome(&stage.play(&paid("/weather", &renamed), [valid(), upstream(200), settled()])), Outcome::Served);
    let mut stranger = Wallet::new(2).pay(&terms(&mut stage)["accepts"][0], 9);
    stranger["extensions"] = first["extensions"].clone();
    assert_eq!(stage.start(&paid("/weather", &stranger)).story(), "claim granted, claim granted, verify?");
}

#[test]
fn a_name_is_free_again_when_its_payment_is() {
    for events in [vec![invalid("insufficient_funds")], vec![valid(), upstream(500)], vec![valid(), Event::Ended]] {
        let mut stage = Stage::new(&config(&json!({"payment_identifier": "required"})));
        let (first, second) = (named(&mut stage, 1, ID), named(&mut stage, 2, ID));
        stage.play(&paid("/weather", &first), events.clone());
        let request = stage.play(&paid("/weather", &second), [valid(), upstream(200), settled()]);
        assert_eq!(outcome(&request), Outcome::Served, "after {events:?}");
    }
}

#[test]
fn a_name_waits_with_its_payment() {
    let lost = || Event::Callout(CalloutAnswer::Lost);
    let mut stage = Stage::new(&config(&json!({"payment_identifier": "required"})));
    let (first, second) = (named(&mut stage, 1, ID), named(&mut stage, 2, ID));
    let request = stage.play(&paid("/weather", &first), [valid(), upstream(200), lost()]);
    assert_eq!(outcome(&request), Outcome::Unknown);
    // A client that signs anew under the same name does not pay twice.
    assert_eq!(stage.start(&paid("/weather", &second)).status(), 409);
    let request = stage.play(&paid("/weather", &first), [settled(), upstream(200)]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    assert_eq!(stage.start(&paid("/weather", &second)).status(), 409);
    assert_eq!(outcome(&stage.start(&paid("/weather", &first))), Outcome::Spent);
}

#[test]
fn where_there_is_no_room_for_a_name_nothing_is_sold() {
    let mut stage = Stage::new(&config(&json!({"payment_identifier": "required"})));
    stage.config.ledger = Ledger::with_room_for(1);
    let payments: Vec<Value> = (1..=250).map(|nonce| named(&mut stage, nonce, &format!("{ID}{nonce}"))).collect();
    let mut full = 0;
    for payment in &payments {
        let request = stage.start(&paid("/weather", payment));
        match request.story().as_str() {
            "claim granted, claim granted, verify?" => {}
            "claim full, = overloaded, reply 503" => full += 1,
            "claim granted, claim full, release granted, = overloaded, reply 503" => full += 1,
            other => panic!("{other}"),
        }
    }
    assert!(full > 0, "500 claims on 4,096 pages of one claim each have met");
    stage.forced = Some(("claim", Answer::Failed));
    assert_eq!(stage.start(&paid("/weather", &payments[0])).status(), 503);
}

/// The key that signs offers and receipts.
const KEY: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

fn signing(more: &Value) -> Value {
    let mut config = base_config();
    config["offer_receipt"] = json!({ "key": KEY });
    config["origins"] = json!(["http://api.example.com"]);
    for (name, value) in more.as_object().unwrap() {
        config["offer_receipt"][name] = value.clone();
    }
    config
}

fn receipt(request: &Request) -> Value {
    decode(request.receipt_header("payment-response").unwrap())
}

#[test]
fn offers_are_signed_entry_by_entry() {
    let mut config = signing(&json!({}));
    config["defaults"]["accepts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"scheme": "exact", "network": "base", "asset": "USDC"}));
    let mut stage = Stage::new(&config);
    let terms = decode(stage.start(&head("GET", "/weather?a=b", &[])).reply_header("payment-required").unwrap());
    let offers = terms["extensions"]["offer-receipt"]["info"]["offers"].as_array().unwrap();
    assert_eq!(offers.len(), 2);
    for (index, (offer, entry)) in offers.iter().zip(terms["accepts"].as_array().unwrap()).enumerate() {
        assert_eq!((&offer["format"], &offer["acceptIndex"]), (&json!("eip712"), &json!(index)));
        let payload = &offer["payload"];
        for field in ["scheme", "network", "asset", "payTo", "amount"] {
            assert_eq!(payload[field], entry[field], "{field}");
        }
        assert_eq!(payload["resourceUrl"], terms["resource"]["url"]);
        let until = crate::common::NOW + entry["maxTimeoutSeconds"].as_u64().unwrap();
        assert_eq!(payload["validUntil"], until.next_multiple_of(60));
        assert_eq!(offer["signature"].as_str().unwrap().len(), 132);
    }
    assert_ne!(offers[0]["signature"], offers[1]["signature"]);
    let mut silent = Stage::new(&signing(&json!({"offers": false})));
    assert!(self::terms(&mut silent).get("extensions").is_none());
}

#[test]
fn a_receipt_is_signed_for_what_was_paid_and_served_alone() {
    for (more, named) in [(json!({}), false), (json!({"transaction": true, "offers": false}), true)] {
        let mut stage = Stage::new(&signing(&more));
        let wallet = Wallet::new(1);
        let payment = wallet.pay(&terms(&mut stage)["accepts"][0], 1);
        let request = stage.play(&paid("/weather", &payment), [valid(), upstream(200), settled()]);
        let receipt = receipt(&request);
        let payload = &receipt["extensions"]["offer-receipt"]["info"]["receipt"]["payload"];
        let transaction = if named { crate::common::TRANSACTION } else { "" };
        assert_eq!(
            payload,
            &json!({
                "version": 1, "network": "eip155:84532", "resourceUrl": "http://api.example.com/weather",
                "payer": wallet.address().to_string(), "issuedAt": crate::common::NOW, "transaction": transaction,
            })
        );
    }
    for (settle, events) in [
        ("before", vec![settled(), upstream(500)]),
        ("concurrent", vec![settled(), upstream(500)]),
        ("after", vec![valid(), upstream(200), crate::common::refused("invalid_exact_evm_insufficient_balance")]),
    ] {
        let mut config = signing(&json!({}));
        config["defaults"]["settle"] = settle.into();
        let mut stage = Stage::new(&config);
        let payment = Wallet::new(1).pay(&terms(&mut stage)["accepts"][0], 1);
        let request = stage.play(&paid("/weather", &payment), events);
        let header = request.receipt_header("payment-response").or_else(|| request.reply_header("payment-response"));
        assert!(decode(header.unwrap()).get("extensions").is_none(), "{settle}");
    }
}

#[test]
fn receipts_of_version_1_name_the_network_as_version_2_does() {
    let mut stage = Stage::new(&signing(&json!({})));
    let mut payment = Wallet::new(1).pay(&terms(&mut stage)["accepts"][0], 1);
    payment["x402Version"] = 1.into();
    (payment["scheme"], payment["network"]) = ("exact".into(), "base-sepolia".into());
    let request = stage.play(
        &head("GET", "/weather", &[("x-payment", &crate::common::encode(&payment))]),
        [
            valid(),
            upstream(200),
            crate::common::answers(
                &json!({"success": true, "transaction": crate::common::TRANSACTION, "network": "base-sepolia"}),
            ),
        ],
    );
    let receipt = decode(request.receipt_header("x-payment-response").unwrap());
    assert_eq!(receipt["network"], "base-sepolia");
    assert_eq!(receipt["extensions"]["offer-receipt"]["info"]["receipt"]["payload"]["network"], "eip155:84532");
}

/// What a client asks, under a name of its choice.
fn asked_as(scheme: &str, authority: &str, path: &str, more: &[(&str, &str)]) -> RequestHead {
    let pseudo = [(":method", "GET"), (":scheme", scheme), (":authority", authority), (":path", path)];
    let all = pseudo.iter().chain(more);
    RequestHead::new(all.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())))
}

#[test]
fn a_seller_signs_for_its_own_hosts_alone() {
    const HTTPS: (&str, &str) = ("x-forwarded-proto", "https");
    let two = json!(["https://api.example.com", "https://shop.example.org:8443"]);
    for (origins, hosts, authority, more, url, is_signed) in [
        // Whoever asks names the host, and nobody vouches for it.
        (json!([]), json!([]), "bank.example", &[][..], "http://bank.example/weather?a=b", false),
        (json!([]), json!([]), "api.example.com", &[HTTPS], "https://api.example.com/weather?a=b", false),
        // The route names its hosts.
        (
            json!([]),
            json!(["api.example.com"]),
            "API.example.com.",
            &[HTTPS],
            "https://api.example.com/weather?a=b",
            true,
        ),
        (
            json!([]),
            json!(["api.example.com"]),
            "api.example.com:8443",
            &[],
            "http://api.example.com:8443/weather?a=b",
            true,
        ),
        (json!([]), json!(["*.example.com"]), "a.b.example.com:80", &[], "http://a.b.example.com/weather?a=b", true),
        // The operator names origins.
        (two.clone(), json!([]), "bank.example", &[], "https://api.example.com/weather?a=b", true),
        (two.clone(), json!([]), "api.example.com", &[], "https://api.example.com/weather?a=b", true),
        (two.clone(), json!([]), "shop.example.org:8443", &[HTTPS], "https://shop.example.org:8443/weather?a=b", true),
        (two.clone(), json!([]), "Api.example.com:443", &[HTTPS], "https://api.example.com/weather?a=b", true),
        (
            two.clone(),
            json!(["*.example.org"]),
            "a.example.org",
            &[HTTPS],
            "https://shop.example.org:8443/weather?a=b",
            true,
        ),
        (two, json!(["elsewhere.example"]), "elsewhere.example", &[HTTPS], "https://api.example.com/weather?a=b", true),
    ] {
        let mut config = signing(&json!({}));
        config["origins"] = origins;
        config["routes"][0]["match"]["hosts"] = hosts;
        let mut stage = Stage::new(&config);
        let what = format!("{authority}: {}, {}", config["origins"], config["routes"][0]["match"]["hosts"]);
        let request = stage.start(&asked_as("http", authority, "/weather?a=b", more));
        let terms = decode(request.reply_header("payment-required").unwrap());
        assert_eq!(terms["resource"]["url"], url, "{what}");
        assert_eq!(request.body()["accepts"][0]["resource"], url, "{what}");
        let offers = &terms["extensions"]["offer-receipt"]["info"]["offers"];
        assert_eq!(offers.is_array(), is_signed, "{what}");
        assert!(!is_signed || offers[0]["payload"]["resourceUrl"] == url, "{what}");
        let payment = crate::common::encode(&Wallet::new(1).pay(&terms["accepts"][0], 1));
        let paying = [more, &[("payment-signature", payment.as_str())]].concat();
        let request =
            stage.play(&asked_as("http", authority, "/weather?a=b", &paying), [valid(), upstream(200), settled()]);
        let receipt = receipt(&request);
        assert_eq!(receipt["success"], true, "{what}");
        let signed = &receipt["extensions"]["offer-receipt"]["info"]["receipt"]["payload"]["resourceUrl"];
        assert_eq!(*signed, if is_signed { json!(url) } else { Value::Null }, "{what}");
    }
}

#[test]
fn a_path_that_would_go_on_in_the_host_is_not_vouched_for() {
    let mut config = signing(&json!({}));
    config["routes"] = json!([{"match": {"path": "/{*rest}"}, "price": "$1"}]);
    let config = crate::common::read_config(&config);
    let terms = config.routes[0].terms.as_ref().unwrap();
    for (path, is_vouched) in
        [("/a", true), ("//a", true), ("", false), ("@bank.example/", false), (".bank.example/", false)]
    {
        let url = ShownUrl::of(&config, &asked_as("http", "api.example.com", path, &[]), terms);
        assert_eq!(url.is_vouched, is_vouched, "{path}");
    }
}

#[test]
fn what_catalogues_show_stands_in_a_402_where_the_official_server_has_it() {
    let mut config = config(&json!({"builder_code": {"app": "my_app", "services": ["other_1"]}}));
    config["routes"][0]["service_name"] = "Weather".into();
    config["routes"][0]["tags"] = json!(["weather", "data"]);
    config["routes"][0]["icon_url"] = "https://a.example/icon.png".into();
    let mut stage = Stage::new(&config);
    let terms = terms(&mut stage);
    let resource = &terms["resource"];
    assert_eq!((&resource["serviceName"], &resource["tags"]), (&json!("Weather"), &json!(["weather", "data"])));
    assert_eq!(resource["iconUrl"], "https://a.example/icon.png");
    // `declareBuilderCodeExtension("my_app", ["other_1"])` of `@x402/extensions` 2.27.0, but for descriptions in its schema.
    let code = json!({"type": "string", "pattern": "^[a-z0-9_]{1,32}$"});
    assert_eq!(
        terms["extensions"]["builder-code"],
        json!({
            "info": {"a": "my_app", "s": ["other_1"]},
            "schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
                "properties": {"a": code, "w": code, "s": {"type": "array", "maxItems": 11, "items": code}},
            },
        })
    );
    // What a client adds to it reaches the facilitator, and so does the resource.
    let mut payment = Wallet::new(1).pay(&terms["accepts"][0], 1);
    payment["resource"] = resource.clone();
    payment["extensions"] = json!({"builder-code": {"info": {"a": "my_app", "s": ["other_1", "client_1"]}}});
    let request = stage.start(&paid("/weather", &payment));
    let asked: Value = serde_json::from_str(&request.calls[0].body).unwrap();
    assert_eq!(asked["paymentPayload"]["extensions"], payment["extensions"]);
    assert_eq!(&asked["paymentPayload"]["resource"], resource);
}
