//! What the tests share: a client that pays, a store in memory, and a stage on which exchanges are played.

pub mod channel_payer;
pub mod curve;
pub mod heads;
pub mod lives;
pub mod node;

use std::collections::BTreeMap;
use std::sync::Arc;

use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use x402_proxy_wasm::channel::{self, ChannelId};
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::evm::eip712::{Domain, Word};
use x402_proxy_wasm::evm::eip3009::Authorization;
use x402_proxy_wasm::evm::permit2::{EXACT_PROXY, PERMIT2, Permit, UPTO_PROXY};
use x402_proxy_wasm::evm::{Address, keccak256};
use x402_proxy_wasm::exchange::{
    Call, Closer, Context, Effects, Event, Exchange, Next, Record, Recovery, Reply, RequestEdits, RequestHead,
    ResponseEdits, Seen, Settled, SettlementRecord, Stream, Tail, UpstreamHead, Warning, at_first_sight,
};
use x402_proxy_wasm::facilitator::{CalloutAnswer, Kind, Supported};
use x402_proxy_wasm::ledger::{
    Answer, BundleOperation, Operation, Owner, PaymentKey, Store, StoreFailed, Written, exposure,
};
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::header;

/// The clock's time at the beginning of a test.
pub const NOW: u64 = 1_790_000_000;
/// Who is paid.
pub const PAY_TO: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
/// Who settles scheme `upto`.
pub const FACILITATOR: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// USDC on Base Sepolia.
pub const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
/// The transaction of every settlement that a test lets succeed.
pub const TRANSACTION: &str = "0x2de7040bf86e4bd4a20835b313400cdcc2b48f8856d447418ec88ac370551497";

// ------------------------------------------------------------------------------------------------ the operator

/// A configuration with one route, `GET /weather` for $0.001 in USDC on Base Sepolia, and a dear one beside it.
pub fn base_config() -> Value {
    json!({
        "facilitator": {"cluster": "facilitator", "url": "http://127.0.0.1:4021", "timeout": "10s"},
        "defaults": {
            "pay_to": PAY_TO,
            "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}],
        },
        "routes": [
            {
                "name": "weather",
                "match": {"methods": ["GET"], "path": "/weather"},
                "price": "$0.001",
                "description": "Weather data",
                "mime_type": "application/json",
            },
            {"name": "dear", "match": {"path": "/dear"}, "price": "$500"},
            {"name": "free", "match": {"path": "/healthz"}, "free": true},
        ],
    })
}

/// Reads a configuration that must be good.
pub fn read_config(json: &Value) -> Config {
    Config::from_json(json.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

// -------------------------------------------------------------------------------------------------- the client

/// A client's key.
pub struct Wallet(SigningKey);

impl Wallet {
    /// The wallet whose secret is this byte over and over (not 0).
    pub fn new(secret: u8) -> Self {
        Self::from_secret([secret; 32]).unwrap()
    }

    /// The wallet of a secret; `None` for the few numbers that are none.
    pub fn from_secret(secret: [u8; 32]) -> Option<Self> {
        SigningKey::from_slice(&secret).ok().map(Self)
    }

    pub fn address(&self) -> Address {
        let point = self.0.verifying_key().to_sec1_point(false);
        Address::from_bytes(*keccak256(&point.as_bytes()[1..]).last_chunk().unwrap())
    }

    /// Signs a digest: `r ‖ s ‖ v`.
    pub fn sign(&self, digest: &Word) -> [u8; 65] {
        let (signature, recovery_id) = self.0.sign_prehash_recoverable(digest);
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + recovery_id.to_byte();
        bytes
    }

    /// Pays for an entry of `accepts`, as the official clients do.
    pub fn pay(&self, accepted: &Value, nonce: u8) -> Value {
        if accepted["extra"]["assetTransferMethod"] == "permit2" {
            return self.permit(accepted, nonce);
        }
        let lifetime = accepted["maxTimeoutSeconds"].as_u64().unwrap();
        let mut payment = json!({
            "x402Version": 2,
            "payload": {
                "authorization": {
                    "from": self.address().to_string(),
                    "to": accepted["payTo"],
                    "value": accepted["amount"],
                    "validAfter": "0",
                    "validBefore": (NOW + lifetime).to_string(),
                    "nonce": format!("0x{}", hex::encode([nonce; 32])),
                },
                "signature": "",
            },
            "resource": {"url": "http://api.example.com/weather", "description": "", "mimeType": ""},
            "accepted": accepted,
        });
        self.sign_payment(&mut payment);
        payment
    }

    fn permit(&self, accepted: &Value, nonce: u8) -> Value {
        let lifetime = accepted["maxTimeoutSeconds"].as_u64().unwrap();
        let facilitator = accepted["extra"].get("facilitatorAddress");
        let mut witness = json!({"to": accepted["payTo"], "validAfter": "0"});
        if let Some(facilitator) = facilitator {
            witness["facilitator"] = facilitator.clone();
        }
        let proxy = if facilitator.is_some() { UPTO_PROXY } else { EXACT_PROXY };
        let mut payment = json!({
            "x402Version": 2,
            "payload": {
                "permit2Authorization": {
                    "from": self.address().to_string(),
                    "permitted": {"token": accepted["asset"], "amount": accepted["amount"]},
                    "spender": proxy.to_string(),
                    "nonce": nonce.to_string(),
                    "deadline": (NOW + lifetime).to_string(),
                    "witness": witness,
                },
                "signature": "",
            },
            "accepted": accepted,
        });
        self.sign_payment(&mut payment);
        payment
    }

    /// Puts this wallet's signature under a payment as it stands.
    pub fn sign_payment(&self, payment: &mut Value) {
        let separator = separator_of(&payment["accepted"]);
        let payload = &payment["payload"];
        let digest = if payload["permit2Authorization"].is_object() {
            let permit: Permit = serde_json::from_value(payload["permit2Authorization"].clone()).unwrap();
            permit.digest(&separator)
        } else {
            let authorization: Authorization = serde_json::from_value(payload["authorization"].clone()).unwrap();
            authorization.digest(&separator)
        };
        payment["payload"]["signature"] = format!("0x{}", hex::encode(self.sign(&digest))).into();
    }
}

/// The EIP-712 domain separator that a client finds in an entry of `accepts`.
pub fn separator_of(accepted: &Value) -> Word {
    let is_permit2 = accepted["extra"]["assetTransferMethod"] == "permit2";
    Domain {
        name: if is_permit2 { "Permit2" } else { accepted["extra"]["name"].as_str().unwrap() },
        version: accepted["extra"]["version"].as_str().filter(|_| !is_permit2),
        chain_id: accepted["network"].as_str().unwrap().strip_prefix("eip155:").unwrap().parse().unwrap(),
        verifying_contract: match is_permit2 {
            true => PERMIT2,
            false => accepted["asset"].as_str().unwrap().parse().unwrap(),
        },
    }
    .separator()
}

/// JSON in base64, as headers carry it.
pub fn encode(json: &Value) -> String {
    header::encode(&json.to_string())
}

/// The JSON in a header.
pub fn decode(value: &str) -> Value {
    serde_json::from_slice(&header::decode(value.as_bytes()).unwrap()).unwrap()
}

/// The head of a request to `api.example.com`.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "api.example.com"), (":path", path)];
    let all = pseudo.iter().chain(headers);
    RequestHead::new(all.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())))
}

/// `GET path` with a payment.
pub fn paid(path: &str, payment: &Value) -> RequestHead {
    head("GET", path, &[("payment-signature", &encode(payment))])
}

// ----------------------------------------------------------------------------------- facilitator and upstream

/// The facilitator answers with status 200 and this body.
pub fn answers(body: &Value) -> Event {
    answers_with(200, body)
}

/// The facilitator answers.
pub fn answers_with(status: u16, body: &Value) -> Event {
    Event::Callout(CalloutAnswer::Answered { status, body: body.to_string().into_bytes() })
}

/// `/verify` says yes.
pub fn valid() -> Event {
    answers(&json!({"isValid": true}))
}

/// `/verify` says no.
pub fn invalid(reason: &str) -> Event {
    answers(&json!({"isValid": false, "invalidReason": reason}))
}

/// `/settle` says yes, on Base Sepolia.
pub fn settled() -> Event {
    answers(&json!({"success": true, "transaction": TRANSACTION, "network": "eip155:84532"}))
}

/// `/settle` says no.
pub fn refused(reason: &str) -> Event {
    answers(&json!({"success": false, "errorReason": reason, "transaction": "", "network": "eip155:84532"}))
}

/// The upstream answers.
pub fn upstream(status: u16) -> Event {
    upstream_with(status, None)
}

/// The upstream answers with `Cache-Control`.
pub fn upstream_with(status: u16, cache_control: Option<&str>) -> Event {
    let cache_control = cache_control.map(str::to_owned);
    Event::Upstream(UpstreamHead {
        status,
        cache_control,
        grpc_failed: false,
        cors: Vec::new(),
        has_body: true,
        is_event_stream: false,
        is_encoded: false,
        settlement_overrides: None,
    })
}

// --------------------------------------------------------------------------------------------------- the store

/// A store in plain memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(pub BTreeMap<u32, (Vec<u8>, u64)>);

impl Store for MemoryStore {
    type Version = u64;

    fn read(&mut self, page: u32) -> Result<Option<(Vec<u8>, u64)>, StoreFailed> {
        Ok(self.0.get(&page).cloned())
    }

    fn write(&mut self, page: u32, value: &[u8], expected: Option<u64>) -> Result<Written, StoreFailed> {
        let current = self.0.get(&page).map(|(_, version)| *version);
        if current != expected {
            return Ok(Written::Raced);
        }
        self.0.insert(page, (value.to_vec(), current.unwrap_or(0) + 1));
        Ok(Written::Done)
    }
}

// --------------------------------------------------------------------------------------------------- the stage

/// A proxy without a network: a configuration, a ledger and a clock.
pub struct Stage {
    pub config: Config,
    pub store: MemoryStore,
    pub now: u64,
    pub supported: Supported,
    /// Facilitators that did not answer lately, a bit for each.
    pub failing: u32,
    pub draw: u64,
    pub secret: [u8; 32],
    /// What the filter has done before about the requests that come.
    pub seen: Seen,
    /// What the ledger says to the operation of this name, in place of what it would say.
    pub forced: Option<(&'static str, Answer)>,
    /// What becomes of the operations of this name on channels in place of what would: they are answered so, and do nothing.
    pub forced_channel: Option<(&'static str, channel::Answer)>,
    owners: u64,
}

/// A request on the stage, and all that the filter did about it.
pub struct Request {
    exchange: Option<Exchange>,
    owner: Owner,
    pending: Option<Effects>,
    /// What was done, in words: one line per event, the first for the head.
    pub trace: Vec<String>,
    pub claim: Option<(PaymentKey, Operation)>,
    /// The callout that nothing has answered yet.
    pub call: Option<Call>,
    pub calls: Vec<Call>,
    pub record: Option<Record>,
    pub forwarded: Option<RequestEdits>,
    pub delivered: Option<ResponseEdits>,
    pub reply: Option<Reply>,
    /// What is to be looked into later.
    pub recovery: Option<Recovery>,
    /// What came of settlements, in the order in which it was told.
    pub settlements: Vec<SettlementRecord>,
    pub warnings: Vec<Warning>,
    /// What was answered about what is open of payers.
    pub exposures: Vec<exposure::Answer>,
    /// What came of the payment of a response that left before it settled.
    pub aftermath: Option<Record>,
    /// The body that goes to the upstream in place of the client's.
    pub rewrite: Option<Vec<u8>>,
    /// What went to the client in place of the response's pieces.
    pub passed: Vec<u8>,
    /// What stands behind the stream.
    pub tail: Option<Tail>,
    /// Whether the upstream has answered.
    pub is_served: bool,
    /// Whether the client has gone, and nothing can be done about the stream any more.
    pub has_ended: bool,
}

/// What a facilitator says that settles everything here, scheme `upto` by these accounts.
pub fn supported(settlers: &[&str]) -> Supported {
    let extra = |settler: &&str| BTreeMap::from([("facilitatorAddress".to_owned(), format!("\"{settler}\""))]);
    let upto = settlers.iter().map(extra).map(|extra| ("upto", extra));
    let kinds = upto.chain([("exact", BTreeMap::new())]);
    let kind = |(scheme, extra): (&str, _)| Kind { scheme: scheme.to_owned(), network: "eip155:*".to_owned(), extra };
    Supported { kinds: kinds.map(kind).collect(), ..Supported::default() }
}

impl Stage {
    pub fn new(config: &Value) -> Self {
        Self {
            config: read_config(config),
            store: MemoryStore::default(),
            now: NOW,
            supported: supported(&[FACILITATOR]),
            failing: 0,
            draw: 0,
            secret: [7; 32],
            seen: Seen::Never,
            forced: None,
            forced_channel: None,
            owners: 0,
        }
    }

    /// Takes a request in, and goes on until something from outside is awaited.
    pub fn start(&mut self, head: &RequestHead) -> Request {
        let mut request = self.arrive(head);
        while self.turn(&mut request) {}
        request
    }

    /// Plays a request to its end.
    pub fn play(&mut self, head: &RequestHead, events: impl IntoIterator<Item = Event>) -> Request {
        let mut request = self.start(head);
        for event in events {
            self.step(&mut request, event);
        }
        request
    }

    /// Something happens to a request; goes on until something from outside is awaited.
    pub fn step(&mut self, request: &mut Request, event: Event) {
        self.happen(request, event);
        while self.turn(request) {}
    }

    /// Takes a request in, and does nothing about it yet.
    pub fn arrive(&mut self, head: &RequestHead) -> Request {
        let mut request = self.request();
        let head = Arc::new(head.clone());
        let next = Exchange::start(self.context(), &head, self.seen.clone());
        if self.seen == Seen::Never {
            let sighted = match self.sight(&head) {
                Ok(settled) => (Exchange::Over, settled.into()),
                Err(closer) => Exchange::look_closer(self.context(), &head, closer),
            };
            assert_eq!(sighted, next, "first sight does not tell what the exchange does");
        }
        request.accept(next);
        request
    }

    /// What is decided about a request at first sight.
    pub fn sight(&self, head: &RequestHead) -> Result<Settled, Closer> {
        at_first_sight(&self.config, self.context().supported, head)
    }

    /// Looks into what a request left unknown, until something from outside is awaited.
    pub fn recover(&mut self, recovery: Recovery) -> Request {
        let mut request = self.request();
        request.has_ended = true;
        let next = Exchange::recover(self.context(), recovery);
        request.accept(next);
        while self.turn(&mut request) {}
        request
    }

    fn request(&mut self) -> Request {
        self.owners += 1;
        let owner = Owner(self.owners);
        Request {
            exchange: None,
            owner,
            pending: None,
            trace: vec![String::new()],
            claim: None,
            call: None,
            calls: Vec::new(),
            record: None,
            forwarded: None,
            delivered: None,
            reply: None,
            recovery: None,
            settlements: Vec::new(),
            warnings: Vec::new(),
            exposures: Vec::new(),
            aftermath: None,
            rewrite: None,
            passed: Vec::new(),
            tail: None,
            is_served: false,
            has_ended: false,
        }
    }

    /// Something happens to a request; nothing is done about it yet.
    pub fn happen(&mut self, request: &mut Request, event: Event) {
        match event {
            Event::Callout(_) => request.call = None,
            Event::Tick => self.now += 1,
            Event::Upstream(_) => request.is_served = true,
            Event::Ended | Event::Redirected => request.has_ended = true,
            Event::RequestBody(_)
            | Event::ResponseBody(_)
            | Event::ResponseChunk { .. }
            | Event::Ledger(_)
            | Event::Channel(_)
            | Event::Flushed(_)
            | Event::Exposure(_) => {}
        }
        request.trace.push(String::new());
        let exchange = request.exchange.take().expect("a request has an exchange");
        request.accept(exchange.step(self.context(), event));
    }

    /// Does what the last step asked for, all at once as a worker does; `false` where there is nothing to do.
    pub fn turn(&mut self, request: &mut Request) -> bool {
        let Some(effects) = request.pending.take() else { return false };
        let Effects { ledger, alias_key, channel, record, settlement, recovery, rewrite, call, .. } = effects;
        let Effects { chunk, stream, warning, exposure, aftermath, .. } = effects;
        request.rewrite = request.rewrite.take().or(rewrite);
        request.passed.extend(chunk.into_iter().flatten());
        request.recovery = request.recovery.take().or(recovery);
        request.settlements.extend(settlement);
        request.warnings.extend(warning);
        let exposed = exposure.map(|(account, operation)| {
            let answer = exposure::perform(&mut self.store, &account, operation, UnixTime::from_secs(self.now));
            request.exposures.push(answer);
            Event::Exposure(answer)
        });
        let answer = ledger.map(|(key, operation)| {
            let answer = self.perform(request, key, operation);
            alias_key.map(|name| self.perform_unseen(request, name, operation));
            answer
        });
        let standing = channel.map(|(id, operation)| self.perform_on_channel(request, id, &operation));
        let answer = answer.map(Event::Ledger).or(standing.map(Event::Channel));
        let answer = answer.or(exposed);
        request.aftermath = aftermath.or(request.aftermath.take());
        request.note(record, call, stream);
        if let Some(answer) = answer {
            let exchange = request.exchange.take().expect("a request has an exchange");
            request.accept(exchange.step(self.context(), answer));
        }
        true
    }

    /// Does what the last step asked of the ledger, and ends the request before it hears the answer.
    pub fn end_unheard(&mut self, request: &mut Request) {
        let Effects { ledger, alias_key, channel, .. } = request.pending.take().unwrap_or_default();
        if let Some((key, operation)) = ledger {
            self.perform(request, key, operation);
            alias_key.map(|name| self.perform_unseen(request, name, operation));
        }
        channel.map(|(id, operation)| self.perform_on_channel(request, id, &operation));
        self.step(request, Event::Ended);
    }

    fn perform_unseen(&mut self, request: &Request, key: PaymentKey, operation: Operation) -> Answer {
        let now = UnixTime::from_secs(self.now);
        self.config.ledger.perform(&mut self.store, key, request.owner, operation, now)
    }

    fn perform(&mut self, request: &mut Request, key: PaymentKey, operation: Operation) -> Answer {
        let name = name_of(operation);
        // The claim of a payment's name comes behind its own.
        if matches!(name, "claim" | "claim unproven" | "resume") && request.claim.is_none_or(|(own, _)| own == key) {
            request.claim = Some((key, operation));
        }
        let answer = match self.forced {
            // What a bundle is charged while nobody waits is repeated until it is done.
            Some((_, Answer::Failed)) if request.is_over() && name == "charge" => self.config.ledger.perform(
                &mut self.store,
                key,
                request.owner,
                operation,
                UnixTime::from_secs(self.now),
            ),
            Some((forced, answer)) if forced == name => answer,
            _ => self.config.ledger.perform(
                &mut self.store,
                key,
                request.owner,
                operation,
                UnixTime::from_secs(self.now),
            ),
        };
        let left = if let Answer::Left(left) = answer { format!("left {left}") } else { String::new() };
        let said = match answer {
            Answer::Granted => "granted",
            Answer::Left(_) => &left,
            Answer::GrantedUnknown(_) => "granted unknown",
            Answer::GrantedSettled(..) => "granted settled",
            Answer::InFlight => "in flight",
            Answer::Waiting => "waiting",
            Answer::Spent => "spent",
            Answer::Exhausted => "exhausted",
            Answer::NotHeld => "not held",
            Answer::Full => "full",
            Answer::Failed => "failed",
        };
        request.say(&format!("{name} {said}"));
        answer
    }

    fn perform_on_channel(
        &mut self,
        request: &mut Request,
        id: ChannelId,
        operation: &channel::Operation,
    ) -> channel::Answer {
        let name = name_of_channels(operation);
        let (channels, now) = (&self.config.channels.records, UnixTime::from_secs(self.now));
        let answer = match &self.forced_channel {
            // What nobody waits for is repeated until it is done.
            Some((_, channel::Answer::Failed)) if request.is_over() => {
                channels.perform(&mut self.store, &self.secret, id, request.owner, operation, now)
            }
            Some((forced, answer)) if *forced == name => answer.clone(),
            _ => channels.perform(&mut self.store, &self.secret, id, request.owner, operation, now),
        };
        let answer_text = format!("{answer:?}");
        let said = answer_text.split(['(', ' ', '{']).next().unwrap_or_default();
        request.say(&format!("{name} {said}"));
        answer
    }

    /// Somebody else does something to a channel.
    pub fn meddle(&mut self, id: ChannelId, owner: u64, operation: &channel::Operation) -> channel::Answer {
        let (channels, now) = (&self.config.channels.records, UnixTime::from_secs(self.now));
        channels.perform(&mut self.store, &self.secret, id, Owner(owner), operation, now)
    }

    /// What the ledger holds of a channel.
    pub fn channel(&self, id: ChannelId) -> Option<channel::Record> {
        let records = self.store.0.values().flat_map(|(bytes, _)| bytes.as_chunks().0);
        records.filter_map(channel::Record::decode).find(|record| record.id == id)
    }

    /// What the ledger holds for the payment of a request, as another request would find it now.
    pub fn left(&self, request: &Request) -> &'static str {
        let Some((key, claim)) = request.claim else { return "nothing" };
        let now = UnixTime::from_secs(self.now);
        match self.config.ledger.perform(&mut self.store.clone(), key, Owner(u64::MAX), claim, now) {
            Answer::Granted => "nothing",
            Answer::NotHeld if matches!(claim, Operation::Resume { .. }) => "nothing",
            Answer::GrantedUnknown(_) => "unknown",
            Answer::GrantedSettled(..) => "settled",
            Answer::InFlight => "in flight",
            Answer::Spent => "spent",
            Answer::Exhausted => "exhausted",
            Answer::Waiting => "waiting",
            Answer::NotHeld | Answer::Full | Answer::Failed | Answer::Left(_) => "trouble",
        }
    }

    fn context(&self) -> Context<'_> {
        let (config, now) = (&self.config, UnixTime::from_secs(self.now));
        Context {
            config,
            now,
            supported: std::slice::from_ref(&self.supported),
            failing: self.failing,
            draw: self.draw,
            secret: self.secret,
        }
    }
}

impl Request {
    fn accept(&mut self, (exchange, effects): Next) {
        if exchange.wakes_at().is_some() && !exchange.reads_chunks() && !self.story().ends_with("pause") {
            self.say("pause");
        }
        self.exchange = Some(exchange);
        self.pending = (effects != Effects::default()).then_some(effects);
    }

    fn note(&mut self, record: Option<Record>, call: Option<Call>, stream: Stream) {
        if let Some(record) = record {
            assert!(self.record.is_none(), "a request has one outcome");
            self.say(&format!("= {}", record.outcome.as_str()));
            self.record = Some(record);
        }
        if let Some(call) = call {
            self.say(match call.kind.path() {
                "/verify" => "verify?",
                "/settle" => "settle?",
                _ => "chain?",
            });
            self.calls.push(call.clone());
            self.call = Some(call);
        }
        match stream {
            Stream::Hold => {}
            _ if self.has_ended => {}
            Stream::Read { most } => self.say(&format!("read {most}")),
            Stream::Pass => {}
            Stream::Cut => self.say("cut"),
            Stream::Finish(tail) => {
                assert!(self.delivered.is_some() && self.tail.is_none(), "a stream ends once, and has begun");
                self.say("finish");
                self.tail = Some(tail);
            }
            Stream::Forward(edits) => {
                assert!(!self.is_answered() && self.forwarded.is_none(), "a request goes on once, and not late");
                let is_settled = edits.set.iter().any(|(name, _)| *name == "x-x402-transaction");
                self.say(if is_settled { "forward settled" } else { "forward" });
                self.forwarded = Some(edits);
            }
            Stream::Deliver(edits) => {
                assert!(!self.is_answered(), "a request is answered once: {}", self.story());
                self.say(if edits.set.is_empty() { "deliver" } else { "deliver with receipt" });
                self.delivered = Some(edits);
            }
            Stream::Reply(reply) => {
                assert!(!self.is_answered(), "a request is answered once: {}", self.story());
                self.say(&format!("reply {}", reply.status));
                self.reply = Some(reply);
            }
        }
    }

    fn say(&mut self, what: &str) {
        let line = self.trace.last_mut().expect("a request has a first line");
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(what);
    }

    /// Whether the client has its answer.
    pub fn is_answered(&self) -> bool {
        self.delivered.is_some() || self.reply.is_some()
    }

    /// Whether it waits for time to pass.
    pub fn is_pausing(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.wakes_at().is_some())
    }

    /// When it wants to be woken.
    pub fn wakes_at(&self) -> Option<u64> {
        self.exchange.as_ref().and_then(|exchange| exchange.wakes_at()).map(UnixTime::as_secs)
    }

    /// The number by which the ledger knows it.
    pub const fn owner(&self) -> u64 {
        self.owner.0
    }

    /// Whether the filter is done with it.
    pub fn is_over(&self) -> bool {
        self.pending.is_none() && self.exchange.as_ref().is_some_and(Exchange::is_over)
    }

    /// Whether there are effects that `turn` would carry out.
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether the ledger is to be asked next.
    pub fn wants_ledger(&self) -> bool {
        self.pending.as_ref().is_some_and(|effects| effects.ledger.is_some() || effects.channel.is_some())
    }

    /// Whether the upstream has the request and has not answered.
    pub fn is_at_upstream(&self) -> bool {
        self.forwarded.is_some() && !self.is_served && !self.is_over()
    }

    /// The lines of the trace as one text.
    pub fn story(&self) -> String {
        let lines: Vec<&str> = self.trace.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
        lines.join(" | ")
    }

    /// The status of the filter's own answer; 0 where it gave none.
    pub fn status(&self) -> u16 {
        self.reply.as_ref().map_or(0, |reply| reply.status)
    }

    /// A header of the filter's own answer.
    pub fn reply_header(&self, name: &str) -> Option<&str> {
        header_in(&self.reply.as_ref()?.headers, name)
    }

    /// A header that the delivered response got.
    pub fn receipt_header(&self, name: &str) -> Option<&str> {
        header_in(&self.delivered.as_ref()?.set, name)
    }

    /// The body of the filter's own answer.
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.reply.as_ref().unwrap().body).unwrap()
    }

    /// The reason in the outcome.
    pub fn reason(&self) -> &str {
        self.record.as_ref().map_or("", |record| record.reason.as_str())
    }
}

fn header_in<'a, N: AsRef<str>>(headers: &'a [(N, String)], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter(|(candidate, _)| candidate.as_ref() == name).map(|(_, value)| value.as_str());
    let value = found.next();
    assert_eq!(found.next(), None, "{name} stands once");
    value
}

const fn name_of_channels(operation: &channel::Operation) -> &'static str {
    match operation {
        channel::Operation::Reserve(_) => "reserve",
        channel::Operation::Extend { .. } => "extend",
        channel::Operation::Charge { .. } => "charge",
        channel::Operation::Release { .. } => "let go",
        channel::Operation::Refresh { .. } => "refresh",
        channel::Operation::Confirm { .. } => "confirm",
        channel::Operation::Renew => "renew",
        channel::Operation::Refunded { .. } => "refunded",
        channel::Operation::BeginClaim { .. } => "begin claim",
        channel::Operation::ClaimNow { .. } => "claim now",
        channel::Operation::EndClaim { .. } => "end claim",
        channel::Operation::FailClaim => "fail claim",
        channel::Operation::BeginRefund { .. } => "begin refund",
    }
}

const fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Claim { is_proven: true, .. } => "claim",
        Operation::Claim { is_proven: false, .. } => "claim unproven",
        Operation::ClaimToSettle { .. } => "claim",
        Operation::Resume { .. } => "resume",
        Operation::Recover { .. } => "recover",
        Operation::Look { .. } => "look",
        Operation::Settle { .. } => "settle",
        Operation::Redeem { .. } => "redeem",
        Operation::Open => "open",
        Operation::Spend { .. } => "spend",
        Operation::Keep { .. } => "keep",
        Operation::Release => "release",
        Operation::Abandon => "abandon",
        Operation::Pin { .. } => "pin",
        Operation::Forget { .. } => "forget",
        Operation::LetGo => "let go",
        Operation::Grant { .. } => "note",
        Operation::CheckGrant { .. } => "recall",
        Operation::ConsumeNonce { .. } => "note once",
        Operation::Bundle(operation) => match operation {
            BundleOperation::Buy { .. } => "buy",
            BundleOperation::Check { .. } => "balance",
            BundleOperation::Take { .. } => "take",
            BundleOperation::Renew { .. } => "renew",
            BundleOperation::Charge { .. } => "charge",
            BundleOperation::GiveBack => "give back",
        },
    }
}
