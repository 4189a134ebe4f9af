//! What the tests of the shell buy, and a stage on which it is bought step by step.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fake_envoy::{FakeEnvoy, Headers, Piece, ROOT, SentCallout};
#[cfg(feature = "etcd")]
use super::fake_etcd::FakeEtcd;
use crate::common::channel_payer::{AUTHORIZER, ChannelPayer};
use crate::common::{FACILITATOR, NOW, Wallet, base_config, decode, encode};

/// What every response holds that has to be paid for.
pub const GOODS: &str = "goods";

/// Something that is for sale, and how it is bought and served.
#[derive(Clone)]
pub struct Purchase {
    pub name: &'static str,
    pub config: Value,
    method: &'static str,
    path: &'static str,
    request: Vec<Piece>,
    content_type: &'static str,
    response: Vec<Piece>,
}

fn data(text: &str, is_last: bool) -> Piece {
    Piece::Data(text.as_bytes().to_vec(), is_last)
}

/// `GET /weather`, settled at this point.
pub fn weather(name: &'static str, settle: &str, verify: &str) -> Purchase {
    let mut config = base_config();
    config["defaults"]["settle"] = settle.into();
    config["facilitator"]["verify"] = verify.into();
    Purchase {
        name,
        config,
        method: "GET",
        path: "/weather",
        request: Vec::new(),
        content_type: "text/plain",
        response: vec![data(GOODS, false), data("", true)],
    }
}

fn chat(name: &'static str, stream: bool) -> Purchase {
    let mut config = base_config();
    config["defaults"]["accepts"] = json!([{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}]);
    config["routes"] = json!([{
        "name": "chat",
        "match": {"path": "/chat"},
        "price": {
            "usage": "openai",
            "models": {"gpt-4o": {"input": "$2.50", "cached_input": "$1.25", "output": "$10.00"}},
            "max_output_tokens": 1000,
            "minimum": "$0.0001",
        },
    }]);
    let body = json!({
        "model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 500, "stream": stream,
    });
    let body = body.to_string();
    let (first, second) = body.split_at(body.len() / 2);
    Purchase {
        name,
        config,
        method: "POST",
        path: "/chat",
        request: vec![data(first, false), data(second, true)],
        content_type: "",
        response: Vec::new(),
    }
}

/// `POST /dear`, for a fixed price, with a body that nobody reads.
pub fn upload(settle: &str) -> Purchase {
    Purchase {
        method: "POST",
        path: "/dear",
        request: vec![data("some ", false), data("bytes", false), data("", true)],
        ..weather("an upload", settle, "remote")
    }
}

/// `POST /chat`, by scheme `upto`, answered with JSON.
pub fn json_by_use() -> Purchase {
    let body = json!({
        "choices": [{"message": {"content": GOODS}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    });
    let body = body.to_string();
    let (first, second) = body.split_at(body.len() / 2);
    Purchase {
        content_type: "application/json",
        response: vec![data(first, false), data(second, true)],
        ..chat("upto, JSON", false)
    }
}

/// `POST /chat`, by scheme `upto`, answered with a stream of events.
pub fn stream_by_use() -> Purchase {
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{GOODS}\"}}}}]}}\n\n");
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":2,\"total_tokens\":22}}\n\n";
    Purchase {
        content_type: "text/event-stream",
        response: vec![data(&event, false), data(&event, false), data(usage, false), data("data: [DONE]\n\n", true)],
        ..chat("upto, stream", true)
    }
}

/// All kinds of purchases.
pub fn purchases() -> Vec<Purchase> {
    vec![
        weather("after", "after", "remote"),
        weather("after, verified locally", "after", "local"),
        weather("before", "before", "remote"),
        weather("concurrent", "concurrent", "remote"),
        weather("concurrent, verified locally", "concurrent", "local"),
        upload("after"),
        json_by_use(),
        stream_by_use(),
    ]
}

/// All kinds of purchases, with each place of the ledger.
pub fn purchases_everywhere() -> Vec<Purchase> {
    let shared = if cfg!(feature = "etcd") { purchases() } else { Vec::new() };
    purchases().into_iter().chain(shared.into_iter().map(Purchase::in_fleet)).collect()
}

impl Purchase {
    /// The same, paid out of channels.
    pub fn by_channel(mut self, name: &'static str) -> Self {
        self.name = name;
        let entry = json!({"scheme": "batch-settlement", "network": "base-sepolia", "asset": "USDC"});
        self.config["defaults"]["accepts"] = json!([entry]);
        self
    }

    /// The same, with the ledger in a store that a fleet shares.
    pub fn in_fleet(mut self) -> Self {
        self.config["ledger"] = json!({"store": {"etcd": {"cluster": "etcd", "fleet": "shop", "timeout": "1s"}}});
        self
    }

    /// Whether the upstream has the request while the facilitator is asked to settle.
    pub fn is_concurrent(&self) -> bool {
        self.config["defaults"]["settle"] == "concurrent"
    }

    pub const fn is_stream(&self) -> bool {
        matches!(self.content_type.as_bytes(), b"text/event-stream")
    }

    /// The same, with the pieces of bodies that are given.
    pub fn with_bodies(self, request: Vec<Piece>, response: Vec<Piece>) -> Self {
        Self { request, response, ..self }
    }

    pub fn request_body(&self) -> Vec<u8> {
        whole(&self.request)
    }

    pub fn response_body(&self) -> Vec<u8> {
        whole(&self.response)
    }
}

fn whole(pieces: &[Piece]) -> Vec<u8> {
    let bytes = |piece: &Piece| if let Piece::Data(bytes, _) = piece { bytes.clone() } else { Vec::new() };
    pieces.iter().flat_map(bytes).collect()
}

/// A facilitator that settles everything, each payment once.
#[derive(Default)]
pub struct Facilitator {
    /// Signatures of the payments whose money has moved.
    pub settled: BTreeSet<String>,
    /// The one channel that there is.
    pub channel: Chain,
    /// How many claims were carried out.
    pub claims: u32,
    /// The question that it says no to; none where this is empty.
    pub refuses: &'static str,
}

/// A channel on the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chain {
    pub balance: u128,
    pub claimed: u128,
    pub refunds: u128,
}

impl Facilitator {
    fn state(&self, payment: &Value) -> Value {
        let Chain { balance, claimed, refunds } = self.channel;
        json!({
            "channelId": payment["voucher"]["channelId"], "balance": balance.to_string(),
            "totalClaimed": claimed.to_string(), "withdrawRequestedAt": 0, "refundNonce": refunds.to_string(),
        })
    }

    fn settle_of_channel(&mut self, payment: &Value) -> Value {
        let number = |value: &Value| value.as_str().unwrap().parse::<u128>().unwrap();
        for row in payment["claims"].as_array().into_iter().flatten() {
            let (charged, most) = (number(&row["totalClaimed"]), number(&row["voucher"]["maxClaimableAmount"]));
            assert!(charged <= most && charged <= self.channel.balance, "it would revert: {payment}");
            self.channel.claimed = self.channel.claimed.max(charged);
        }
        match payment["type"].as_str().unwrap() {
            "deposit" => {
                let is_new = self.settled.insert(payment["deposit"]["authorization"].to_string());
                self.channel.balance += if is_new { number(&payment["deposit"]["amount"]) } else { 0 };
            }
            "refund" if number(&payment["refundNonce"]) != self.channel.refunds => {
                let reason = "invalid_batch_settlement_evm_refund_simulation_failed";
                return json!({"success": false, "errorReason": reason, "transaction": "", "network": "eip155:84532"});
            }
            "refund" => {
                self.channel.refunds += 1;
                let left = self.channel.balance - self.channel.claimed;
                self.channel.balance -= number(&payment["amount"]).min(left);
            }
            "claim" => self.claims += 1,
            _ => {}
        }
        json!({
            "success": true, "transaction": crate::common::TRANSACTION, "network": "eip155:84532",
            "extra": {"channelState": self.state(payment)},
        })
    }

    pub fn answer(&mut self, callout: &SentCallout) -> Value {
        if callout.path == self.refuses {
            let reason = "invalid_exact_evm_insufficient_balance";
            return json!({
                "isValid": false, "invalidReason": reason,
                "success": false, "errorReason": reason, "transaction": "", "network": "eip155:84532",
            });
        }
        let payment = &callout.body["paymentPayload"]["payload"];
        match callout.path.as_str() {
            "/supported" => json!({"kinds": [
                {"x402Version": 2, "scheme": "exact", "network": "eip155:84532"},
                {"x402Version": 2, "scheme": "upto", "network": "eip155:84532", "extra": {"facilitatorAddress": FACILITATOR}},
                {"x402Version": 2, "scheme": "batch-settlement", "network": "eip155:84532", "extra": {"receiverAuthorizer": AUTHORIZER}},
            ]}),
            "/verify" if payment["type"].is_string() => json!({"isValid": true, "extra": self.state(payment)}),
            "/settle" if payment["type"].is_string() => self.settle_of_channel(payment),
            "/verify" => json!({"isValid": true}),
            "/settle" => {
                self.settled.insert(payment["signature"].as_str().unwrap().to_owned());
                json!({"success": true, "transaction": crate::common::TRANSACTION, "network": "eip155:84532"})
            }
            other => panic!("{other} is asked"),
        }
    }
}

/// A worker, a facilitator, and something for sale.
pub struct Scene {
    pub envoy: FakeEnvoy,
    pub facilitator: Facilitator,
    /// The store that its ledger is in, where it is not shared data.
    #[cfg(feature = "etcd")]
    pub etcd: FakeEtcd,
    pub purchase: Purchase,
    /// Whether the upstream answers before the facilitator does.
    pub is_upstream_fast: bool,
    /// Whether the client sends its body once nothing else happens.
    pub is_client_slow: bool,
    /// The root context that requests come to.
    pub root: u32,
}

#[derive(Clone, Copy)]
enum Party {
    Client,
    Facilitator,
    Upstream,
}

/// A request that is under way.
pub struct Run {
    pub id: u32,
    request: usize,
    response: Option<usize>,
}

impl Scene {
    /// A scene whose facilitator has said what it supports.
    pub fn new(purchase: &Purchase) -> Self {
        let mut scene = Self {
            envoy: FakeEnvoy::new(&purchase.config, NOW),
            facilitator: Facilitator::default(),
            #[cfg(feature = "etcd")]
            etcd: FakeEtcd::default(),
            purchase: purchase.clone(),
            is_upstream_fast: false,
            is_client_slow: false,
            root: ROOT,
        };
        // A fleet agrees first on who asks.
        let ticks = if purchase.config["ledger"]["store"].is_object() { 6 } else { 1 };
        for _ in 0..ticks {
            scene.envoy.tick(ROOT);
            scene.answer_all();
        }
        scene
    }

    /// Sends the request without a payment, and gives the first entry of the terms.
    fn terms(&mut self) -> Value {
        let mut run = self.begin(None);
        while self.advance(&mut run) {}
        let client = self.envoy.client(run.id).expect("an answer");
        assert_eq!((client.status, client.is_own), (402, true));
        let terms = client.headers.iter().find(|(name, _)| name == "payment-required").expect("terms");
        decode(&terms.1)["accepts"][0].clone()
    }

    /// A payment by the terms of the request.
    pub fn payment(&mut self, nonce: u8) -> String {
        encode(&Wallet::new(1).pay(&self.terms(), nonce))
    }

    /// A client with a channel by the terms of the request.
    pub fn channel_payer(&mut self) -> ChannelPayer {
        ChannelPayer::new(1, 0, &self.terms())
    }

    /// Begins a request.
    pub fn begin(&mut self, payment: Option<&str>) -> Run {
        let Purchase { method, path, request, .. } = &self.purchase;
        let pseudo = [(":method", *method), (":scheme", "http"), (":authority", "api.example.com"), (":path", *path)];
        let head: Vec<_> = pseudo.into_iter().chain(payment.map(|payment| ("payment-signature", payment))).collect();
        let id = self.envoy.request(self.root, &head, !request.is_empty());
        Run { id, request: 0, response: None }
    }

    /// Lets one thing happen; `false` where nothing is left that can.
    pub fn advance(&mut self, run: &mut Run) -> bool {
        let order = match (self.is_client_slow, self.is_upstream_fast) {
            (false, false) => [Party::Client, Party::Facilitator, Party::Upstream],
            (false, true) => [Party::Client, Party::Upstream, Party::Facilitator],
            (true, false) => [Party::Facilitator, Party::Upstream, Party::Client],
            (true, true) => [Party::Upstream, Party::Facilitator, Party::Client],
        };
        order.into_iter().any(|party| match party {
            Party::Client => self.advance_client(run),
            Party::Facilitator => self.answer_one(),
            Party::Upstream => self.advance_upstream(run),
        })
    }

    fn advance_client(&mut self, run: &mut Run) -> bool {
        let Some(piece) = self.purchase.request.get(run.request).cloned() else { return false };
        run.request += 1;
        self.envoy.request_piece(run.id, piece);
        true
    }

    fn advance_upstream(&mut self, run: &mut Run) -> bool {
        let Purchase { response, content_type, .. } = &self.purchase;
        match run.response {
            None if self.envoy.awaits_upstream(run.id) => {
                let head = [(":status", "200"), ("content-type", *content_type)];
                self.envoy.respond(run.id, &head, !response.is_empty());
                run.response = Some(0);
                true
            }
            Some(next) if self.envoy.is_open(run.id) && next < response.len() => {
                self.envoy.response_piece(run.id, response[next].clone());
                run.response = Some(next + 1);
                true
            }
            _ => false,
        }
    }

    /// Lets the facilitator, or the ledger's store, answer one callout.
    pub fn answer_one(&mut self) -> bool {
        let Some(callout) = self.envoy.callouts().first().cloned() else { return false };
        #[cfg(feature = "etcd")]
        if FakeEtcd::is_asked(&callout.path) {
            let (headers, body) = self.etcd.answer(&callout.path, &callout.bytes);
            return self.envoy.answer_with(callout.token, headers, body);
        }
        let answer = self.facilitator.answer(&callout);
        self.envoy.answer(callout.token, 200, &answer)
    }

    pub fn answer_all(&mut self) {
        while self.answer_one() {}
    }

    /// Plays a request until nothing more happens by itself.
    pub fn play(&mut self, payment: &str) -> Run {
        let mut run = self.begin(Some(payment));
        while self.advance(&mut run) {}
        run
    }

    /// The client of a request goes if it has not, and some time passes, in which everything is answered.
    pub fn drain(&mut self, run: &Run) {
        self.envoy.leave(run.id);
        for _ in 0..60 {
            self.answer_all();
            self.envoy.tick(self.root);
        }
        self.answer_all();
        assert_eq!(self.envoy.contexts.streams(), 0, "nothing is kept of what is over");
        assert_eq!(self.envoy.contexts.callouts(), 0, "nobody waits for answers");
    }

    /// Whether the client has got something that has to be paid for, and all of it.
    pub fn delivery(&self, run: &Run) -> Delivery {
        let Some(client) = self.envoy.client(run.id).filter(|client| !client.is_own) else { return Delivery::Nothing };
        assert_eq!(client.status, 200, "the upstream says nothing else");
        let has_goods = String::from_utf8_lossy(&client.body).contains(GOODS);
        match (has_goods, client.is_whole) {
            (_, true) => Delivery::All,
            (true, false) => Delivery::Some,
            (false, false) => Delivery::Head,
        }
    }
}

/// What a client has got of what has to be paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Nothing,
    /// The head alone.
    Head,
    Some,
    All,
}

/// Headers of an answer with status 200.
pub fn ok() -> Headers {
    vec![(":status".to_owned(), "200".to_owned())]
}
