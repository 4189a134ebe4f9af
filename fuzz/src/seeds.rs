//! What the corpus began with: good inputs, the recordings of the official packages, and what tests know of.

use std::path::Path;

use serde_json::{Value, json};
use x402_proxy_wasm::exchange::{Call, CallKind, Event};
use x402_proxy_wasm::facilitator::CalloutAnswer;

use crate::common::node::{Authorized, Node};
use crate::common::{NOW, PAY_TO, Stage, TRANSACTION, USDC, Wallet, base_config, decode, head};
use crate::mutate::Random;
use crate::targets::config::to_protobuf;

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "config" => configs(),
        "route" => routes(),
        "sight" => heads(),
        "payment" => payments(),
        "facilitator" => answers(),
        "chain" => node_answers(),
        "signature" => signatures(),
        "recovery" => noise("recovery", 24, 36),
        "sign_in" => sign_ins(),
        "texts" => texts(),
        "channel_payload" => channel_payloads(),
        "channel_life" => noise("channel_life", 24, 900),
        "ledger" => noise("ledger", 24, 300),
        "exchange" => noise("exchange", 48, 300),
        "purchases" => noise("purchases", 48, 300),
        "pairs" => vec![b"\x02\0\0\0\x05\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0:path\0/ab\0a\0\0".to_vec()],
        _ => Vec::new(),
    }
}

/// Bytes that mean nothing in particular.
fn noise(name: &str, number: usize, length: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(1, name);
    let mut bytes = || (0..length).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
    (0..number).map(|_| bytes()).collect()
}

fn configs() -> Vec<Vec<u8>> {
    let full = json!({
        "facilitator": {
            "cluster": "f", "url": "https://f.example:8443/base/", "timeout": "0.5s", "verify": "local",
            "headers": {"authorization": "Bearer x", "x-api-key": "k"},
        },
        "rpc": {"base-sepolia": {"cluster": "c", "url": "http://c", "timeout": "2s", "confirmations": 3, "log_range": 100.0, "headers": {"a": "b"}}},
        "networks": {
            "dev": {"chain_id": 31337, "assets": {"T": {"address": USDC.to_lowercase(), "decimals": 6, "eip712": {"name": "T", "version": "1"}, "usd_pegged": true}}},
            "base": {"assets": {"EURC": {"address": PAY_TO, "decimals": 6, "eip712": {"name": "EURC", "version": "2"}}}},
        },
        "defaults": {
            "pay_to": PAY_TO, "settle": "before", "max_timeout_seconds": 60.0,
            "accepts": [
                {"scheme": "exact", "network": "base-sepolia", "asset": "USDC", "confirm": true},
                {"scheme": "exact", "network": "eip155:31337", "asset": "T", "contract_wallets": true},
            ],
        },
        "routes": [
            {"name": "a", "match": {"hosts": ["api.example.com", "*.example.com", "[::1]"], "methods": ["GET", "post"], "path": "/a/{b}/{*rest}"}, "price": "$0.001", "description": "d", "mime_type": "text/plain",
             "extensions": {"payment_identifier": "optional", "sign_in_with_x": {"lasts": "60s", "statement": "s"}, "bazaar": {"method": "GET"}}},
            {"match": {"path": "/b"}, "price": {"amount": "1000"}, "pay_to": USDC, "settle": "concurrent", "max_timeout_seconds": 10,
             "accepts": [{"scheme": "exact", "network": "base", "asset": {"address": USDC, "decimals": 18, "eip712": {"name": "é", "version": "1"}, "transfer_method": "eip3009", "usd_pegged": true}, "pay_to": PAY_TO}]},
            {"match": {"path": "/c"}, "price": "$1.50", "accepts": [{"scheme": "exact", "network": "eip155:1", "asset": {"address": USDC, "decimals": 2, "eip712": {"name": "N", "version": "1"}, "usd_pegged": true}}]},
            {"match": {"path": "/healthz"}, "free": true},
        ],
        "unmatched": "deny", "keep_headers": ["X-Original-Url"], "ledger": {"max_claims": 10},
        "origins": ["https://api.example.com", "http://b.example:8080"],
        "offer_receipt": {"key": "0x1111111111111111111111111111111111111111111111111111111111111111", "offers": false},
    });
    let smallest = json!({"facilitator": {"cluster": "f", "url": "http://f"}, "routes": []});
    let texts = [base_config(), full, smallest].map(|config| config.to_string().into_bytes());
    texts.iter().cloned().chain(texts.iter().filter_map(|text| to_protobuf(text))).collect()
}

/// Heads of requests, under each configuration.
fn heads() -> Vec<Vec<u8>> {
    const HEADS: [&str; 6] = [
        ":method=GET\n:authority=api.example.com\n:path=/weather\n:scheme=http\nuser-agent=curl\naccept=*/*",
        ":method=GET\n:authority=a\n:path=/weather\naccept=text/html\nsec-fetch-dest=document",
        ":method=OPTIONS\n:authority=a\n:path=/dear\norigin=https://app.example\naccess-control-request-method=GET",
        ":method=HEAD\n:authority=a:80\n:path=/healthz\nx-x402-payer=0x\nx-original-url=/weather",
        ":method=POST\n:authority=a\n:path=/dear?a\nx-forwarded-proto=https\npayment-signature=e30=\nx-payment=e30=",
        ":method=GET\n:authority=b\n:path=/.well-known/x402\nsign-in-with-x=e30=\ncontent-type=text/plain",
    ];
    let of = |config: usize| HEADS.map(|head| [&[u8::try_from(config).unwrap_or(0), 0], head.as_bytes()].concat());
    (0..crate::common::heads::CONFIGS.len()).flat_map(of).collect()
}

fn routes() -> Vec<Vec<u8>> {
    let requests = [
        (0, "GET", "api.example.com", "/weather"),
        (0, "OPTIONS", "a", "/v1/CHAT/completions?q=1"),
        (0, "HEAD", "a", "/docs/%2e%2e/weather"),
        (0, "GET", "a", "/docs/secret/"),
        (0, "GET", "a", "/items/a%2fdeep"),
        (0, "GET", "a", "//a/..;x/items/1\\deep"),
        (1, "GET", "API.example.com.:443", "/healthz"),
        (1, "POST", "x@api.example.com", "/healthz/../a;b=c"),
        (1, "GET", "b.paid.example", "/a/"),
        (1, "GET", "[::1]:80", "/six"),
        (2, "GET", "", "/static/%c0%af..%c0%afa"),
        (2, "GET", "a", "/static/x.css%00"),
        (3, "GET", "a", "/a/./b//c%20"),
        (3, "GET", "a", "/\u{212a}iſs%3fq%23"),
        (3, "GET", "a", "http://h/x.y."),
    ];
    let input =
        |(table, method, authority, path)| [&[table][..], format!("{method}\n{authority}\n{path}").as_bytes()].concat();
    requests.map(input).to_vec()
}

/// The recordings of exchanges between official packages.
fn recordings() -> Vec<Value> {
    recordings_in("wire")
}

fn recordings_in(directory: &str) -> Vec<Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(directory);
    let mut files: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().filter_map(|file| serde_json::from_slice(&std::fs::read(file).ok()?).ok()).collect()
}

fn list(json: &Value) -> &[Value] {
    json.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A payment that the first wallet makes for the first route, and its terms.
fn good_payment() -> Value {
    let mut stage = Stage::new(&base_config());
    let terms = stage.start(&head("GET", "/weather", &[]));
    let accepted = decode(terms.reply_header("payment-required").expect("terms"))["accepts"][0].clone();
    Wallet::new(1).pay(&accepted, 1)
}

fn payments() -> Vec<Vec<u8>> {
    let recordings = recordings();
    let asked = recordings.iter().flat_map(|recording| list(&recording["server_to_facilitator"]));
    let recorded = asked.map(|asked| asked["request"]["body"]["paymentPayload"].clone()).filter(Value::is_object);
    let recorded = recorded.chain([good_payment()]);
    let mut inputs: Vec<Vec<u8>> = recorded.map(|payment| payment.to_string().into_bytes()).collect();
    inputs.sort();
    inputs.dedup();
    inputs
}

fn channel_payloads() -> Vec<Vec<u8>> {
    let recordings = recordings_in("wire/batch");
    let sent = recordings.iter().flat_map(|recording| list(&recording["client_to_server"]));
    let payload = |sent: &Value| sent["request"]["decoded"]["PAYMENT-SIGNATURE"]["payload"].clone();
    let payloads = sent.map(payload).filter(Value::is_object);
    let mut inputs: Vec<Vec<u8>> = payloads.map(|payload| payload.to_string().into_bytes()).collect();
    inputs.sort();
    inputs.dedup();
    inputs
}

fn answers() -> Vec<Vec<u8>> {
    let payer = Wallet::new(1).address().to_string();
    let recordings = recordings();
    let asked = recordings.iter().flat_map(|recording| list(&recording["server_to_facilitator"]));
    let mut inputs: Vec<Vec<u8>> = asked
        .filter_map(|asked| {
            let mut body = asked["response"]["body"].clone();
            if body["payer"].is_string() {
                body["payer"] = payer.clone().into();
            }
            let question = u8::from(asked["request"]["url"] == "/settle");
            let status = if asked["response"]["status"] == 200 { 0 } else { 8 };
            body.is_object().then(|| [&[question | status][..], body.to_string().as_bytes()].concat())
        })
        .collect();
    let pending = json!({"success": false, "errorReason": "settlement_pending", "transaction": TRANSACTION, "network": "eip155:84532"});
    inputs.push([b"\x01", pending.to_string().as_bytes()].concat());
    inputs.sort();
    inputs.dedup();
    inputs.retain(|input| input.len() < 1024);
    inputs
}

/// What a node says in each of the situations that an inquiry tells apart.
fn node_answers() -> Vec<Vec<u8>> {
    let payment = good_payment();
    let authorized = Authorized(&payment["payload"]["authorization"]);
    let empty = || Node::new(6, NOW);
    let with = |transaction| {
        let mut node = Node::new(4, NOW);
        node.mine(NOW, vec![transaction]);
        node.mine(NOW + 400, Vec::new());
        node
    };
    let other = |logs| crate::common::node::Transaction { hash: TRANSACTION.to_owned(), has_failed: false, logs };
    let old = || {
        let mut node = Node::new(4, NOW - 100);
        node.mine(NOW - 90, vec![authorized.settles(USDC, TRANSACTION)]);
        node.mine(NOW + 60, Vec::new());
        node
    };
    let nodes = [
        old(),
        empty(),
        Node::new(6, NOW + 400),
        with(authorized.settles(USDC, TRANSACTION)),
        with(other(vec![authorized.cancelled(USDC)])),
        with(other(vec![authorized.used(USDC), authorized.transferred(USDC, Some(7))])),
        with(other(vec![authorized.transferred(USDC, None)])),
    ];
    let word = |text: &str| format!("{:0>64}", text.trim_start_matches("0x").to_lowercase());
    let (from, nonce) = (word(&Wallet::new(1).address().to_string()), hex::encode([1; 32]));
    let ask = |id: u8, method: &str, params: Value| json!({"id": id, "method": method, "params": params});
    let topics = json!([
        [authorized.used(USDC).topics[0], authorized.cancelled(USDC).topics[0]],
        format!("0x{from}"),
        format!("0x{nonce}")
    ]);
    let receipt = ask(2, "eth_getTransactionReceipt", json!([TRANSACTION]));
    let questions = [
        (0, json!([ask(1, "eth_blockNumber", json!([]))])),
        (1, json!([ask(1, "eth_blockNumber", json!([])), receipt])),
        (
            2,
            json!([
                ask(3, "eth_call", json!([{"to": USDC, "data": format!("0xe94a0102{from}{nonce}")}, "0x3ed"])),
                ask(
                    4,
                    "eth_getLogs",
                    json!([{"address": USDC, "topics": topics, "fromBlock": "0x3e8", "toBlock": "0x3ed"}])
                ),
                ask(5, "eth_getBlockByNumber", json!(["0x3ed", false])),
            ]),
        ),
        (3, json!([receipt])),
    ];
    let state = ask(3, "eth_call", json!([{"to": USDC, "data": format!("0xe94a0102{from}{nonce}")}, "0x3ec"]));
    let block = |id, number: &str| ask(id, "eth_getBlockByNumber", json!([number, false]));
    let logs = json!([{"address": USDC, "topics": topics, "fromBlock": "0x3e8", "toBlock": "0x3ec"}]);
    let sight = json!([block(6, "0x3ed"), block(5, "0x3ec"), state]);
    let older = [34, 98, 131, 163].map(|question| (question, sight.clone()));
    let older =
        older.into_iter().chain([37, 69].map(|question| (question, json!([ask(4, "eth_getLogs", logs.clone())]))));
    let questions = questions.into_iter().chain(older).collect::<Vec<_>>();
    let mut inputs = Vec::new();
    for node in &nodes {
        for (question, batch) in &questions {
            let service = Stage::new(&base_config()).config.facilitators.remove(0).service;
            let answer = node.answer(&Call { kind: CallKind::Chain, service, body: batch.to_string() });
            if let Event::Callout(CalloutAnswer::Answered { body, .. }) = answer {
                inputs.push([&[*question, 1][..], &body].concat());
            }
        }
    }
    inputs.sort();
    inputs.dedup();
    inputs
}

fn sign_ins() -> Vec<Vec<u8>> {
    let plain = json!({
        "domain": "api.example.com", "address": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
        "uri": "https://api.example.com/weather?q=1", "version": "1", "chainId": "eip155:84532", "type": "eip191",
        "nonce": "0123456789abcdef", "issuedAt": "2026-01-02T03:04:05.000Z", "signature": "0x",
    });
    let mut full = plain.clone();
    full["statement"] = "Read on.".into();
    full["expirationTime"] = "2026-01-02T03:09:05.000Z".into();
    full["notBefore"] = "2026-01-02T03:04:05Z".into();
    full["requestId"] = "1".into();
    full["resources"] = json!(["https://api.example.com/weather?q=1", "b"]);
    let mut late = full.clone();
    late["issuedAt"] = "2026-01-02T02:59:05.999Z".into();
    let all = [plain, full, late].map(|one| one.to_string());
    all.iter().flat_map(|one| [0_u8, 1].map(|byte| [&[byte][..], one.as_bytes()].concat())).collect()
}

fn signatures() -> Vec<Vec<u8>> {
    let payment = good_payment();
    let authorization = payment["payload"]["authorization"].to_string();
    let signature = Wallet::new(1).sign(&[7; 32]);
    vec![
        [&[0][..], &signature].concat(),
        [&[0x60][..], &[1; 32], &[2; 32], &[3, 4]].concat(),
        [&[0xff][..], authorization.as_bytes()].concat(),
    ]
}

fn texts() -> Vec<Vec<u8>> {
    let max = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    let all = [
        "0",
        "1000",
        "0.001",
        "2.50",
        "0.5s",
        "10s",
        "18446744073.709551615s",
        "1.0000000001s",
        max,
        "1.10",
        "00",
        "0x10",
        USDC,
        PAY_TO,
        TRANSACTION,
        "0x036cbd53842c5426634e7929541ec2318f3dcf7e",
        "eip155:84532",
        "eip155:01",
        "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
        "/weather",
        "/a/{b}/{*rest}",
        "/a/{b}/",
        "/{*rest}",
        "api.example.com",
        "*.example.com",
        "[::1]",
        "e30=",
        "e30",
        "eyJ4IjoxfQ==",
        "/é/ſ",
    ];
    all.map(|text| text.as_bytes().to_vec()).to_vec()
}
