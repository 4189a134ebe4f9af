//! The keeper of channels: claims, refunds, what it asks the chain, and an operator's wish that everything is claimed.

use serde_json::{Value, json};
use x402_proxy_wasm::channel::message::{self, ChannelConfig, ChannelId};
use x402_proxy_wasm::evm::Address;

use super::fake_envoy::{FakeEnvoy, Headers, Piece, ROOT, SentCallout};
use crate::common::{FACILITATOR, NOW, PAY_TO, TRANSACTION, USDC, Wallet, encode};

const CHAIN: u64 = 84532;
const SECRET: &str = "an operator's own secret";

fn config() -> Value {
    json!({
        "facilitator": {"cluster": "facilitator", "url": "http://127.0.0.1:4021", "timeout": "10s"},
        "rpc": {"base-sepolia": {"cluster": "node", "url": "http://node:8545", "confirmations": 3}},
        "defaults": {
            "pay_to": PAY_TO,
            "accepts": [{"scheme": "batch-settlement", "network": "base-sepolia", "asset": "USDC"}],
        },
        "channels": {
            "claim_every": "3600s",
            "flush": {"path": "/internal/flush", "secret": SECRET, "principals": ["spiffe://mesh/ns/ops/*"]},
        },
        "routes": [{"name": "weather", "match": {"path": "/weather"}, "price": "$0.01"}],
    })
}

/// What the chain knows of the channel, and how the others answer.
struct Scene {
    envoy: FakeEnvoy,
    root: u32,
    wallet: Wallet,
    balance: u128,
    claimed: u128,
    withdrawn_at: u64,
    /// The chain that the node says it is of; empty: it does not answer.
    node: &'static str,
    /// Whether the facilitator claims, and whether it says so.
    claims: bool,
    says_so: bool,
    now: u64,
    /// All that was asked, by path; of nodes by method.
    asked: Vec<String>,
}

impl Scene {
    fn new(config: &Value) -> Self {
        let mut scene = Self {
            envoy: FakeEnvoy::new(config, NOW),
            root: ROOT,
            wallet: Wallet::new(1),
            balance: 1_000_000,
            claimed: 0,
            withdrawn_at: 0,
            node: "0x14a34",
            claims: true,
            says_so: true,
            now: NOW,
            asked: Vec::new(),
        };
        scene.tick(1);
        scene.asked.clear();
        scene
    }

    fn channel(&self) -> (ChannelConfig, ChannelId) {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let config = ChannelConfig {
            payer: self.wallet.address(),
            payer_authorizer: self.wallet.address(),
            receiver: address(PAY_TO),
            receiver_authorizer: address(FACILITATOR),
            token: address(USDC),
            withdraw_delay: 900,
            salt: [7; 32],
        };
        (config, config.id(&message::domain_separator(CHAIN)))
    }

    /// Seconds pass, and everybody answers at once.
    fn tick(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1;
            self.envoy.tick(self.root);
            self.answer_all();
        }
    }

    /// Seconds pass in one.
    fn wait(&mut self, seconds: u64) {
        self.envoy.wait(seconds);
        self.now += seconds;
    }

    fn answer_all(&mut self) {
        while let Some(callout) = self.envoy.callouts().first().cloned() {
            let answer = match callout.body.is_array() {
                true => self.node_says(&callout),
                false => self.facilitator_says(&callout),
            };
            match answer {
                Some(body) => self.envoy.answer(callout.token, 200, &body),
                None => self.envoy.answer_with(callout.token, Headers::new(), Vec::new()),
            };
        }
    }

    fn facilitator_says(&mut self, callout: &SentCallout) -> Option<Value> {
        let payload = &callout.body["paymentPayload"]["payload"];
        self.asked.push(match callout.path.as_str() {
            "/settle" => payload["type"].as_str().unwrap().to_owned(),
            path => path.to_owned(),
        });
        match callout.path.as_str() {
            "/supported" => Some(json!({"kinds": [{
                "x402Version": 2, "scheme": "batch-settlement", "network": "eip155:84532",
                "extra": {"receiverAuthorizer": FACILITATOR},
            }]})),
            "/verify" => Some(json!({"isValid": true, "payer": self.wallet.address().to_string(), "extra": {
                "channelId": self.channel().1.to_string(), "balance": self.balance.to_string(),
                "totalClaimed": self.claimed.to_string(), "withdrawRequestedAt": self.withdrawn_at, "refundNonce": "0",
            }})),
            _ => {
                if self.claims && payload["type"] == "claim" {
                    self.claimed = payload["claims"][0]["totalClaimed"].as_str().unwrap().parse().unwrap();
                }
                self.says_so.then(|| json!({"success": true, "transaction": TRANSACTION, "network": "eip155:84532"}))
            }
        }
    }

    fn node_says(&mut self, callout: &SentCallout) -> Option<Value> {
        let calls = callout.body.as_array().unwrap();
        self.asked.push(calls[0]["method"].as_str().unwrap().to_owned());
        if self.node.is_empty() {
            return None;
        }
        let word = |number: u128| format!("{number:064x}");
        let result = |call: &Value| match call["method"].as_str().unwrap() {
            "eth_chainId" => self.node.to_owned(),
            "eth_blockNumber" => "0x64".to_owned(),
            "eth_call" => match &call["params"][0]["data"].as_str().unwrap()[2..10] {
                "7a7ebd7b" => format!("0x{}{}", word(self.balance), word(self.claimed)),
                "b7f06ebe" => {
                    format!("0x{}{}", word(u128::from(self.withdrawn_at.min(1))), word(self.withdrawn_at.into()))
                }
                _ => format!("0x{}", word(0)),
            },
            other => panic!("{other} is asked"),
        };
        let reply = |call: &Value| match call["method"] == "eth_getBlockByNumber" {
            true => json!({"id": call["id"], "result": {
                "number": call["params"][0], "timestamp": format!("{:#x}", self.now),
            }}),
            false => json!({"id": call["id"], "result": result(call)}),
        };
        Some(calls.iter().map(reply).collect())
    }

    /// Buys once by a voucher of this total; the status.
    fn buy(&mut self, total: u128) -> u16 {
        let id = self.request("GET", "/weather", &[]);
        let client = self.envoy.client(id).unwrap();
        let terms = client.headers.iter().find(|(name, _)| name == "payment-required").unwrap();
        let accepted = crate::common::decode(&terms.1)["accepts"][0].clone();
        let (config, channel) = self.channel();
        let digest = message::voucher_digest(&message::domain_separator(CHAIN), channel, total);
        let payment = json!({"x402Version": 2, "accepted": accepted, "payload": {
            "type": "voucher",
            "channelConfig": serde_json::to_value(config).unwrap(),
            "voucher": {
                "channelId": channel.to_string(),
                "maxClaimableAmount": total.to_string(),
                "signature": format!("0x{}", hex::encode(self.wallet.sign(&digest))),
            },
        }});
        let id = self.request("GET", "/weather", &[("payment-signature", &encode(&payment))]);
        self.answer_all();
        if self.envoy.awaits_upstream(id) {
            self.envoy.respond(id, &[(":status", "200")], true);
            self.envoy.response_piece(id, Piece::Data(b"goods".to_vec(), true));
        }
        self.envoy.status(id)
    }

    fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> u32 {
        let pseudo = [(":method", method), (":scheme", "http"), (":authority", "api.example.com"), (":path", path)];
        self.envoy.request(self.root, &[&pseudo, headers].concat(), false)
    }

    /// What was asked since, and that is forgotten.
    fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.asked)
    }

    fn count(&self, what: &str) -> usize {
        self.asked.iter().filter(|asked| *asked == what).count()
    }
}

#[test]
fn requests_of_a_channel_in_use_never_wait_for_the_facilitator_where_there_is_a_node() {
    for (node, verified) in [("0x14a34", 1), ("", 6), ("0x1", 6)] {
        let mut scene = Scene::new(&config());
        scene.node = node;
        for call in 1..=16 {
            assert_eq!(scene.buy(10_000 * call), 200, "{call}");
            scene.wait(100);
            scene.tick(10);
        }
        // The facilitator's word lasts five minutes.
        assert_eq!(scene.count("/verify"), verified, "{node}");
        assert_eq!(scene.envoy.has_logged("is not one of chain 84532"), node == "0x1");
        if node == "0x14a34" {
            assert!(scene.count("eth_blockNumber") < 20, "{:?}", scene.asked);
        }
    }
}

#[test]
fn a_withdrawal_is_seen_and_claimed_before_a_request_comes() {
    let mut scene = Scene::new(&config());
    assert_eq!(scene.buy(10_000), 200);
    scene.tick(5);
    scene.withdrawn_at = scene.now;
    scene.asked();
    scene.wait(160);
    scene.tick(20);
    let asked = scene.asked();
    assert!(asked.contains(&"claim".to_owned()) && asked.contains(&"settle".to_owned()), "{asked:?}");
    assert_eq!(scene.claimed, 10_000);
    assert_eq!(scene.envoy.metric("event=.=withdrawal;.;x402_channel_events"), 1);
    let (_, id) = scene.channel();
    assert!(scene.envoy.has_logged(&format!("the payer of channel {id} has begun to withdraw")));
    assert_eq!(scene.buy(20_000), 402);
}

#[test]
fn a_lost_claim_is_answered_by_the_chain() {
    for claims in [true, false] {
        let mut scene = Scene::new(&config());
        assert_eq!(scene.buy(10_000), 200);
        scene.wait(3600);
        scene.claims = claims;
        scene.says_so = false;
        scene.asked();
        scene.tick(12);
        scene.says_so = true;
        scene.tick(20);
        let asked = scene.asked();
        let first = asked.iter().position(|asked| asked == "claim").unwrap();
        assert!(asked[first + 1..].contains(&"eth_blockNumber".to_owned()), "{asked:?}");
        match claims {
            // It was carried out, and is not asked for again.
            true => assert_eq!(asked.iter().filter(|asked| *asked == "claim").count(), 1),
            false => assert!(asked.iter().filter(|asked| *asked == "claim").count() > 1),
        }
        assert_eq!(scene.envoy.metric("event=.=claimed;.;x402_channel_events"), 1);
        assert_eq!(scene.claimed, if claims { 10_000 } else { 0 });
    }
}

#[test]
fn a_facilitator_that_claims_nothing_is_found_out() {
    let mut scene = Scene::new(&config());
    assert_eq!(scene.buy(10_000), 200);
    scene.wait(3600);
    scene.claims = false;
    scene.tick(20);
    assert_eq!(scene.count("claim"), 1);
    // The channel stays in use; the chain says that nothing of it is claimed.
    assert_eq!(scene.buy(20_000), 200);
    scene.wait(170);
    scene.tick(20);
    scene.claims = true;
    scene.wait(3600);
    scene.tick(30);
    assert_eq!((scene.count("claim"), scene.claimed), (2, 20_000));
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

impl Scene {
    /// What the client of a wish has got.
    fn flushed(&self, id: u32) -> (u16, Value) {
        let client = self.envoy.client(id).expect("an answer");
        (client.status, serde_json::from_slice(&client.body).unwrap())
    }
}

#[test]
fn an_operator_has_everything_claimed() {
    let mut scene = Scene::new(&config());
    assert_eq!(scene.buy(10_000), 200);
    scene.tick(10);
    assert_eq!(scene.count("claim"), 0);
    let id = scene.request("POST", "/internal/flush?now", &[("authorization", &bearer(SECRET))]);
    scene.tick(1);
    assert_eq!(scene.envoy.client(id), None);
    // New vouchers meanwhile wait for their own time.
    scene.wait(1);
    assert_eq!(scene.buy(20_000), 200);
    scene.tick(8);
    assert_eq!(scene.flushed(id), (200, json!({"unclaimed": "0", "claimed": "10000"})));
    assert_eq!((scene.count("claim"), scene.count("settle")), (1, 1));
    assert_eq!(scene.claimed, 10_000);
    // Once more: what has come since. Nothing is left after that.
    for claimed in ["10000", "0"] {
        let id = scene.request("POST", "/internal/flush", &[("authorization", &bearer(SECRET))]);
        scene.tick(8);
        assert_eq!(scene.flushed(id), (200, json!({"unclaimed": "0", "claimed": claimed})));
    }
}

#[test]
fn an_operator_is_told_what_is_left() {
    let mut scene = Scene::new(&config());
    assert_eq!(scene.buy(10_000), 200);
    scene.says_so = false;
    scene.claims = false;
    let id = scene.request("POST", "/internal/flush", &[("authorization", &bearer(SECRET))]);
    scene.tick(63);
    assert_eq!(scene.flushed(id), (504, json!({"unclaimed": "10000", "claimed": "0"})));
    // It goes on, whoever waits.
    scene.says_so = true;
    scene.claims = true;
    scene.wait(120);
    scene.tick(10);
    assert_eq!(scene.claimed, 10_000);
}

#[test]
fn nobody_else_is_told_of_it() {
    let mut scene = Scene::new(&config());
    let wrong = [
        vec![],
        vec![("authorization", bearer("an operator's own secreT"))],
        vec![("authorization", bearer(""))],
        vec![("authorization", "Bearer".to_owned())],
        vec![("authorization", SECRET.to_owned())],
        vec![("authorization", bearer(SECRET)), ("authorization", bearer(SECRET))],
    ];
    for headers in wrong {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let id = scene.request("POST", "/internal/flush", &headers);
        let client = scene.envoy.client(id).unwrap();
        assert_eq!((client.status, client.is_own), (404, true), "{headers:?}");
    }
    // Only a POST of that path, to the letter; and only where it is configured.
    for (method, path) in [("GET", "/internal/flush"), ("POST", "/internal/flush/"), ("POST", "/internal/%66lush")] {
        let id = scene.request(method, path, &[("authorization", &bearer(SECRET))]);
        assert!(scene.envoy.at_upstream(id).is_some() || scene.envoy.status(id) == 400, "{method} {path}");
    }
    let mut without = config();
    without["channels"].as_object_mut().unwrap().remove("flush");
    let mut scene = Scene::new(&without);
    let id = scene.request("POST", "/internal/flush", &[("authorization", &bearer(SECRET))]);
    assert!(scene.envoy.at_upstream(id).is_some());
}

#[test]
fn the_newest_configuration_keeps_the_channels() {
    let mut scene = Scene::new(&config());
    assert_eq!(scene.buy(10_000), 200);
    scene.tick(1);
    let mut other = config();
    other["defaults"]["accepts"][0]["withdraw_delay"] = "1800s".into();
    let (old, new) = (scene.root, scene.envoy.add_root(&other).unwrap());
    // The host keeps the old one while its listener drains.
    for _ in 0..20 {
        for root in [old, new] {
            scene.root = root;
            scene.tick(1);
        }
    }
    assert!(scene.envoy.has_logged("1 open channels, which hold 1000000 atomic units"));
    let id = scene.request("POST", "/internal/flush", &[("authorization", &bearer(SECRET))]);
    for _ in 0..8 {
        for root in [old, new] {
            scene.root = root;
            scene.tick(1);
        }
    }
    assert_eq!(scene.flushed(id), (200, json!({"unclaimed": "0", "claimed": "10000"})));
}

#[test]
fn channels_that_no_route_takes_are_told_of_and_claimed() {
    let mut other = config();
    other["defaults"]["accepts"][0]["withdraw_delay"] = "1800s".into();
    let mut none = config();
    none["defaults"]["accepts"][0] = json!({"scheme": "exact", "network": "base-sepolia", "asset": "USDC"});
    for changed in [other, none] {
        let mut scene = Scene::new(&config());
        assert_eq!(scene.buy(10_000), 200);
        scene.tick(10);
        assert!(!scene.envoy.has_logged("that no route has any more"));
        let root = scene.envoy.add_root(&changed).unwrap();
        scene.envoy.delete_root(scene.root);
        scene.root = root;
        scene.tick(20);
        assert!(scene.envoy.has_logged("1 open channels, which hold 1000000 atomic units"));
        assert_eq!(scene.envoy.metric(&format!("network=.=eip155:84532;.;asset=.={USDC};.;x402_unclaimed")), 10_000);
        scene.wait(3600);
        scene.tick(30);
        assert_eq!(scene.claimed, 10_000);
    }
}
