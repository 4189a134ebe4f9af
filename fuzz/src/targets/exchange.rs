//! Whole exchanges: up to three requests and what they leave behind, over one ledger and one chain, with events in any
//! order. Facilitator, node and upstream do whatever they may; what they say is what happened, unless they say nothing
//! that anybody could rely on.
//!
//! An input chooses the configuration, and then one thing after the other that happens.

use std::cell::RefCell;
use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use x402_proxy_wasm::exchange::{CallKind, Event, Outcome, Recovery, RequestHead, UpstreamHead};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::ledger::{Answer, PaymentKey, Unheard};
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::TransactionId;

use super::facilitator::{STATUSES, Said, settlement_said};
use crate::common::node::{Authorized, Node};
use crate::common::{
    self, NOW, Request, Stage, TRANSACTION, USDC, Wallet, answers, answers_with, decode, encode, head, paid, refused,
    upstream, valid,
};
use crate::json::Json;

/// Things that happen in one input.
const STEPS: usize = 80;

/// Requests that come, and pursuits in the background, at most.
const REQUESTS: usize = 3;
const PURSUITS: usize = 4;

/// Steps in which every request is over once the world has calmed down.
const CALM_STEPS: usize = 400;

/// Seconds that one input lasts at most: less than the ledger's patience with what nobody asks for.
const LONGEST: u64 = 80_000;

/// Seconds after which no request that came before holds anything any more.
const LAPSE: u64 = 700;

pub(super) fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(setup) = Setup::read(&mut input) else { return };
    let mut world = World::new(setup);
    // An input that ends is a world that calms down.
    let _ = world.play(&mut input);
    world.calm_down();
    world.pay_again();
    STAGES.with_borrow_mut(|stages| stages.insert(setup, world.stage));
}

/// How the filter is configured, and what may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Setup {
    settle: &'static str,
    is_local: bool,
    /// Confirmations that a node is asked for; 0 without a node.
    confirmations: u64,
    confirm: bool,
    /// Whether the facilitator says yes again to what has settled.
    is_idempotent: bool,
    /// Whether the ledger may say what is not so. Then only the rules of one request hold.
    ledger_lies: bool,
}

impl Setup {
    fn read(input: &mut Unstructured<'_>) -> Result<Self> {
        let bits: u8 = input.arbitrary()?;
        let choice: u8 = input.arbitrary()?;
        let confirmations = [0, 1, 2, 1][usize::from(bits & 3)];
        Ok(Self {
            settle: ["after", "before", "concurrent"][usize::from(choice % 3)],
            is_local: bits & 4 != 0,
            confirmations,
            confirm: confirmations > 0 && bits & 8 != 0,
            is_idempotent: bits & 16 != 0,
            ledger_lies: bits & 0xe0 == 0xe0,
        })
    }

    fn config(self) -> Value {
        let mut config = common::base_config();
        config["facilitator"]["verify"] = if self.is_local { "local" } else { "remote" }.into();
        config["defaults"]["settle"] = self.settle.into();
        if self.confirmations > 0 {
            let (url, confirmations) = ("http://127.0.0.1:8545", self.confirmations);
            config["rpc"] = json!({"base-sepolia": {"cluster": "chain", "url": url, "confirmations": confirmations}});
            config["defaults"]["accepts"][0]["confirm"] = self.confirm.into();
        }
        config
    }
}

thread_local! {
    /// Stages that were used before: to read a configuration takes longer than to play an exchange.
    static STAGES: RefCell<BTreeMap<Setup, Stage>> = const { RefCell::new(BTreeMap::new()) };
    static PAYMENTS: RefCell<BTreeMap<&'static str, [Payment; 2]>> = const { RefCell::new(BTreeMap::new()) };
}

/// What the client signed, and what became of it.
#[derive(Clone)]
struct Payment {
    json: Value,
    key: Option<PaymentKey>,
    expires: u64,
    /// Whether somebody whose word counts said that it has settled.
    is_told: bool,
    /// Questions to settle it that nobody heard the end of.
    adrift: usize,
    settled: Option<String>,
    deliveries: usize,
    /// Whether the ledger has taken down that it bought its response, which then was on its way.
    is_spent: bool,
}

impl Payment {
    fn new(stage: &mut Stage, number: u8) -> Self {
        let terms = stage.start(&head("GET", "/weather", &[]));
        let accepted = decode(terms.reply_header("payment-required").expect("terms"))["accepts"][0].clone();
        let wallet = Wallet::new(1);
        let mut json = wallet.pay(&accepted, number);
        let expires = NOW + [300, 50_000][usize::from(number) % 2];
        json["payload"]["authorization"]["validBefore"] = expires.to_string().into();
        wallet.sign_payment(&mut json);
        let request = stage.start(&paid("/weather", &json));
        let key = request.claim.map(|(key, _)| key);
        Self { json, key, expires, is_told: false, adrift: 0, settled: None, deliveries: 0, is_spent: false }
    }

    fn authorized(&self) -> Authorized<'_> {
        Authorized(&self.json["payload"]["authorization"])
    }
}

/// A request, or a pursuit in the background.
struct Actor {
    request: Request,
    /// The payment that it came with, as far as that could be read.
    payment: Option<usize>,
    /// Whether it came as an honest client sends it, for the route that the payment is for or for another one.
    is_honest: bool,
    /// Questions that it asked, and when the last one was.
    questions: usize,
    asked_at: u64,
    /// Whether the upstream answered with what is for sale.
    is_good: bool,
    is_answered: bool,
}

struct World {
    setup: Setup,
    stage: Stage,
    node: Node,
    payments: [Payment; 2],
    actors: Vec<Actor>,
    recoveries: Vec<(usize, Recovery)>,
    requests: usize,
    pursuits: usize,
}

impl World {
    fn new(setup: Setup) -> Self {
        let known = STAGES.with_borrow_mut(|stages| stages.remove(&setup));
        let mut stage = known.unwrap_or_else(|| Stage::new(&setup.config()));
        (stage.now, stage.forced) = (NOW, None);
        let payments = PAYMENTS.with_borrow_mut(|payments| {
            let payments = payments.entry(setup.settle);
            payments.or_insert_with(|| [1, 2].map(|number| Payment::new(&mut stage, number))).clone()
        });
        stage.store = common::MemoryStore::default();
        let node = Node::new(3, NOW);
        Self { setup, stage, node, payments, actors: Vec::new(), recoveries: Vec::new(), requests: 0, pursuits: 0 }
    }

    fn play(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            let who: u8 = input.arbitrary()?;
            match who {
                0..40 => self.arrive(input)?,
                40..60 => self.pass_time(input)?,
                60..70 => self.drift(input)?,
                70..80 => self.recover(input)?,
                _ if self.actors.is_empty() => self.arrive(input)?,
                _ => self.act(usize::from(who) % self.actors.len(), input)?,
            }
        }
        Ok(())
    }

    // -------------------------------------------------------------------------------------------- who comes

    fn arrive(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.requests == REQUESTS {
            return Ok(());
        }
        self.requests += 1;
        let number = usize::from(input.arbitrary::<bool>()?);
        let payment = &self.payments[number];
        let (head, is_honest) = match input.arbitrary::<u8>()? {
            0..150 => (paid("/weather", &payment.json), true),
            150..180 => (paid("/dear", &payment.json), true),
            180..240 => (head_with(&changed(payment.json.to_string().into_bytes(), input)?), false),
            240..250 => (header_with(&changed(encode(&payment.json).into_bytes(), input)?), false),
            _ => (twice(&payment.json), false),
        };
        let request = self.stage.arrive(&head);
        self.add(request, is_honest.then_some(number), is_honest);
        Ok(())
    }

    fn add(&mut self, request: Request, payment: Option<usize>, is_honest: bool) {
        let asked_at = self.stage.now;
        let actor = Actor { request, payment, is_honest, questions: 0, asked_at, is_good: false, is_answered: false };
        self.actors.push(actor);
        self.settle_down(self.actors.len() - 1);
    }

    fn recover(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let due = |(_, recovery): &(usize, Recovery)| recovery.due.as_secs() <= self.stage.now;
        let due = self.recoveries.iter().position(due).filter(|_| self.pursuits < PURSUITS);
        if let Some(at) = due {
            let (payment, recovery) = self.recoveries.remove(at);
            if input.arbitrary::<u8>()? < 230 {
                self.pursue(payment, recovery);
            }
        }
        Ok(())
    }

    fn pursue(&mut self, payment: usize, recovery: Recovery) {
        self.pursuits += 1;
        self.force(None);
        let request = self.stage.recover(recovery);
        self.add(request, Some(payment), false);
    }

    // ----------------------------------------------------------------------------------------- what happens

    /// Something happens to a request.
    fn act(&mut self, at: usize, input: &mut Unstructured<'_>) -> Result<()> {
        let how: u8 = input.arbitrary()?;
        let actor = &mut self.actors[at];
        if actor.request.is_over() {
            return Ok(());
        }
        if actor.request.is_pending() {
            let forced = self.any_forced(how);
            self.force(forced);
            self.turn(at);
            self.force(None);
            return Ok(());
        }
        let has_ended = actor.request.has_ended;
        let event = match how {
            0..8 if !has_ended => Event::Ended,
            8..16 => {
                self.wait(1, false);
                Event::Tick
            }
            // What nobody waits for: there is no question, and the ledger was asked nothing.
            16..20 => {
                Event::Ledger([Answer::Granted, Answer::Spent, Answer::NotHeld, unheard(None)][usize::from(how % 4)])
            }
            20..22 if actor.request.call.is_none() => common::settled(),
            22..26 if !has_ended && !actor.request.is_answered() => self.any_response(at, how),
            26..100 if actor.request.is_at_upstream() && !has_ended => self.any_response(at, how),
            _ => match self.actors[at].request.call.clone() {
                Some(call) => self.any_answer(at, call.kind.path(), input)?,
                None => {
                    self.wait(1, false);
                    Event::Tick
                }
            },
        };
        self.happen(at, event);
        Ok(())
    }

    /// The head of a response: the upstream's, or one that the proxy makes up itself.
    fn any_response(&mut self, at: usize, how: u8) -> Event {
        let actor = &mut self.actors[at];
        let status = [200, 200, 200, 204, 304, 404, 500, 503][usize::from(how % 8)];
        let head = UpstreamHead {
            status,
            cache_control: [None, Some("no-store"), Some("public, max-age=60")][usize::from(how % 3)]
                .map(str::to_owned),
            grpc_failed: how % 16 == 1,
            cors: Vec::new(),
            has_body: false,
            is_event_stream: false,
            is_encoded: false,
            settlement_overrides: None,
        };
        // What the upstream never saw it does not sell.
        actor.is_good = actor.request.forwarded.is_some() && status < 400 && !head.grpc_failed;
        Event::Upstream(head)
    }

    fn any_answer(&mut self, at: usize, path: &str, input: &mut Unstructured<'_>) -> Result<Event> {
        match path {
            "/verify" => any_verification(input),
            "/settle" => self.any_settlement(at, input),
            _ => self.any_node_answer(at, input),
        }
    }

    fn any_settlement(&mut self, at: usize, input: &mut Unstructured<'_>) -> Result<Event> {
        let Some(payment) = self.signed(at) else { return Ok(lost()) };
        let hash = json!(hash_of(payment));
        let pending = json!({"success": false, "errorReason": "settlement_pending", "transaction": hash, "network": "eip155:84532"});
        Ok(match input.arbitrary::<u8>()? {
            0..90 => self.settle_honestly(at),
            90..120 => {
                self.payments[payment].adrift += 1;
                [lost(), answers_with(503, &json!({})), answers_with(504, &json!({})), answers_with(200, &json!({}))]
                    [usize::from(input.arbitrary::<u8>()? % 4)]
                .clone()
            }
            120..150 => {
                self.execute(payment, &hash_of(payment));
                [lost(), answers_with(502, &json!({})), answers(&pending)][usize::from(input.arbitrary::<u8>()? % 3)]
                    .clone()
            }
            150..165 => Event::Callout(CalloutAnswer::NotSent),
            165..180 => refused("invalid_exact_evm_insufficient_balance"),
            180..195 => {
                self.payments[payment].adrift += 1;
                answers(&pending)
            }
            195..210 => {
                self.payments[payment].adrift += 1;
                refused("invalid_exact_evm_transaction_failed")
            }
            _ => {
                let status = STATUSES[usize::from(input.arbitrary::<u8>()?) % STATUSES.len()];
                let body = input.bytes(input.len().min(200))?.to_vec();
                self.hear(payment, status, body)
            }
        })
    }

    /// The facilitator says whatever it says, and the world is made to fit.
    fn hear(&mut self, payment: usize, status: u16, body: Vec<u8>) -> Event {
        match settlement_said(status, &body) {
            Said::Yes(hash) => {
                self.execute(payment, &hash.unwrap_or_default());
                self.payments[payment].is_told = true;
            }
            Said::No => {}
            Said::Nothing => self.payments[payment].adrift += 1,
        }
        Event::Callout(CalloutAnswer::Answered { status, body })
    }

    /// The facilitator does what it is asked for, if the token lets it.
    fn settle_honestly(&mut self, at: usize) -> Event {
        let Some(number) = self.signed(at) else { return lost() };
        let had_settled = self.payments[number].settled.is_some();
        self.execute(number, &hash_of(number));
        let payment = &mut self.payments[number];
        match &payment.settled {
            Some(_) if had_settled && !self.setup.is_idempotent => refused("invalid_exact_evm_nonce_already_used"),
            Some(hash) => {
                payment.is_told = true;
                answers(&json!({"success": true, "transaction": hash, "network": "eip155:84532"}))
            }
            None => refused("invalid_exact_evm_payload_authorization_valid_before"),
        }
    }

    /// The payment that the facilitator is asked about, where its payer signed what he is asked about.
    fn signed(&self, at: usize) -> Option<usize> {
        let actor = &self.actors[at];
        let asked = actor.request.call.as_ref().or(actor.request.calls.last())?;
        actor.payment.filter(|number| {
            let signature = self.payments[*number].json["payload"]["signature"].as_str();
            signature.is_some_and(|signature| asked.body.contains(&format!("\"{signature}\"")))
        })
    }

    /// The token moves the money, unless it has or will not.
    fn execute(&mut self, number: usize, hash: &str) {
        let payment = &mut self.payments[number];
        if payment.settled.is_none() && self.stage.now < payment.expires {
            payment.settled = Some(hash.to_owned());
            let transaction = payment.authorized().settles(USDC, hash);
            self.node.mine(self.stage.now, vec![transaction]);
        }
    }

    fn any_node_answer(&mut self, at: usize, input: &mut Unstructured<'_>) -> Result<Event> {
        const METHODS: [&str; 5] =
            ["eth_blockNumber", "eth_getTransactionReceipt", "eth_call", "eth_getLogs", "eth_getBlockByNumber"];
        let how: u8 = input.arbitrary()?;
        match how {
            0..140 => {}
            140..160 => self.node.refuses = vec![METHODS[usize::from(how) % METHODS.len()]],
            160..170 => self.node.lag = usize::from(how % 4),
            170..180 => return Ok(lost()),
            180..190 => return Ok(answers_with(503, &json!({}))),
            190..220 => {
                let Event::Callout(CalloutAnswer::Answered { status, mut body }) = self.ask_node(at) else {
                    return Ok(lost());
                };
                body.truncate(input.int_in_range(0..=body.len())?);
                return Ok(Event::Callout(CalloutAnswer::Answered { status, body }));
            }
            _ => {
                let body = input.bytes(input.len().min(200))?.to_vec();
                // A node that lies makes up chains; one that answers nonsense gives no result.
                let has_result = Json::parse(&body)
                    .is_some_and(|json| json.list().iter().any(|reply| reply.get("result").is_some()));
                let body = if has_result { b"[]".to_vec() } else { body };
                return Ok(Event::Callout(CalloutAnswer::Answered { status: 200, body }));
            }
        }
        let event = self.ask_node(at);
        self.node.refuses.clear();
        self.node.lag = 0;
        Ok(event)
    }

    /// What the node says. It tells what is so, and so those who ask are told.
    fn ask_node(&mut self, at: usize) -> Event {
        let actor = &self.actors[at];
        let call = actor.request.call.clone().expect("a question is under way");
        if let Some(number) = actor.payment.filter(|number| self.payments[*number].settled.is_some()) {
            self.payments[number].is_told = true;
        }
        self.node.answer(&call)
    }

    /// Time passes. No question outlives its timeout.
    fn pass_time(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let seconds = [1, 1, 2, 5, 30, 400, 5_000, 20_000][usize::from(input.arbitrary::<u8>()? % 8)];
        let is_served: bool = input.arbitrary()?;
        self.wait(seconds, is_served);
        Ok(())
    }

    fn wait(&mut self, seconds: u64, is_served: bool) {
        let then = self.stage.now + seconds;
        if then > NOW + LONGEST {
            return;
        }
        for at in 0..self.actors.len() {
            self.settle_down(at);
            // An operation on the ledger takes no time to speak of.
            while self.actors[at].request.is_pending() {
                self.turn(at);
            }
            let actor = &self.actors[at];
            let timeout =
                if actor.request.call.as_ref().is_some_and(|call| call.kind == CallKind::Chain) { 5 } else { 10 };
            if actor.request.call.is_some() && then > actor.asked_at + timeout {
                self.time_out(at, is_served);
            }
        }
        self.stage.now = then;
        self.node.mine(then, Vec::new());
        // What pauses is woken every second, and has thus asked again long before a hold lapses.
        for at in 0..self.actors.len() {
            if seconds > 5 && self.actors[at].request.is_pausing() {
                self.give_up(at);
            }
        }
    }

    /// The question that is under way gets no answer in time; the facilitator may have acted on it, and may yet.
    fn time_out(&mut self, at: usize, is_served: bool) {
        let path = self.actors[at].request.call.as_ref().map(|call| call.kind.path());
        if let (Some(payment), Some("/settle")) = (self.signed(at), path) {
            if is_served {
                self.execute(payment, &hash_of(payment));
            }
            self.payments[payment].adrift += 1;
        }
        self.happen(at, answers_with(504, &json!({})));
        while self.actors[at].request.is_pending() {
            self.turn(at);
        }
        if self.actors[at].request.call.is_some() {
            self.time_out(at, is_served);
        }
    }

    /// Every second of a pause has passed, and nobody answered anything.
    fn give_up(&mut self, at: usize) {
        while self.actors[at].request.is_pausing() {
            self.happen(at, Event::Tick);
            while self.actors[at].request.is_pending() {
                self.turn(at);
            }
            if self.actors[at].request.call.is_some() {
                self.time_out(at, false);
            }
        }
    }

    /// A settlement that nobody heard the end of happens after all, or never.
    fn drift(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let number = usize::from(input.arbitrary::<bool>()?);
        if self.payments[number].adrift > 0 && input.arbitrary::<bool>()? {
            self.execute(number, &hash_of(number));
        } else {
            self.node.mine(self.stage.now, Vec::new());
        }
        Ok(())
    }

    /// What the ledger is made to say. That it failed, or is full, may be so at any time.
    fn any_forced(&self, how: u8) -> Option<(&'static str, Answer)> {
        const NAMES: [&str; 10] =
            ["claim", "claim", "settle", "settle", "spend", "redeem", "keep", "release", "forget", "recover"];
        let name = NAMES[usize::from(how) % NAMES.len()];
        match how {
            240.. => Some((name, Answer::Failed)),
            230..240 if name == "claim" => Some((name, Answer::Full)),
            100..230 if self.setup.ledger_lies => {
                let hash = TransactionId::Evm(TRANSACTION.parse().expect("a hash"));
                let all = [
                    Answer::Granted,
                    unheard(None),
                    unheard(Some(hash)),
                    Answer::GrantedSettled(hash, None),
                    Answer::InFlight,
                    Answer::Waiting,
                    Answer::Spent,
                    Answer::NotHeld,
                ];
                Some((name, all[usize::from(how / 10) % all.len()]))
            }
            _ => None,
        }
    }

    fn force(&mut self, forced: Option<(&'static str, Answer)>) {
        self.stage.forced = forced;
    }

    // -------------------------------------------------------------------------------------- what must hold

    fn happen(&mut self, at: usize, event: Event) {
        let unheard = matches!(event, Event::Callout(_)) && self.actors[at].request.call.is_none();
        if event == Event::Tick {
            // The stage takes a tick for a second; here the second has passed already.
            self.stage.now -= 1;
        }
        self.stage.happen(&mut self.actors[at].request, event);
        assert!(!unheard || !self.actors[at].request.is_pending(), "what nobody asked for is of no account");
        self.settle_down(at);
    }

    fn turn(&mut self, at: usize) {
        self.stage.turn(&mut self.actors[at].request);
        self.settle_down(at);
    }

    /// Does what a worker does without asking the ledger, and looks at what came of it.
    fn settle_down(&mut self, at: usize) {
        while self.actors[at].request.is_pending() && !self.actors[at].request.wants_ledger() {
            self.stage.turn(&mut self.actors[at].request);
        }
        let actor = &mut self.actors[at];
        if let Some((key, _)) = actor.request.claim {
            let number = self.payments.iter().position(|payment| payment.key == Some(key));
            actor.payment = actor.payment.or(number);
            assert!(number.is_some(), "a payment that nobody signed: {}", actor.request.story());
        }
        if actor.request.calls.len() > actor.questions {
            (actor.questions, actor.asked_at) = (actor.request.calls.len(), self.stage.now);
        }
        if let Some(number) = actor.payment {
            self.payments[number].is_spent |= actor.request.story().contains("spend granted");
        }
        if let Some((recovery, payment)) = actor.request.recovery.take().zip(actor.payment) {
            self.recoveries.push((payment, recovery));
        }
        self.check(at);
    }

    fn check(&mut self, at: usize) {
        let actor = &mut self.actors[at];
        if actor.is_answered || !actor.request.is_answered() {
            return;
        }
        actor.is_answered = true;
        let story = actor.request.story();
        let is_sold = actor.request.delivered.is_some() && actor.is_good;
        let Some(number) = actor.payment else {
            assert!(actor.request.delivered.is_none() || !actor.is_good, "delivered without a payment: {story}");
            return;
        };
        let payment = &mut self.payments[number];
        let lies = self.setup.ledger_lies;
        if is_sold {
            payment.deliveries += 1;
            payment.is_spent = true;
            assert!(lies || payment.is_told, "delivered, and nobody said that it is paid: {story}");
            assert!(lies || payment.deliveries == 1, "delivered twice: {story}");
            let record = actor.request.record.as_ref().expect("what is delivered is recorded");
            assert_eq!(record.outcome, Outcome::Served, "{story}");
            assert!(
                !self.setup.confirm || lies || payment.settled.is_some(),
                "delivered before it is confirmed: {story}"
            );
        }
        let may_settle = payment.settled.is_some() || (payment.adrift > 0 && self.stage.now < payment.expires);
        let is_owed = may_settle && !payment.is_spent && !lies;
        let asks = matches!(actor.request.status(), 402 | 412);
        assert!(!(asks && is_owed && actor.is_honest), "asked to pay again: {story}; {:?}", payment.settled);
        if actor.request.record.as_ref().is_some_and(|record| record.outcome == Outcome::UpstreamFailed) {
            let asked = actor.request.calls.iter().any(|call| call.kind == CallKind::Settle);
            assert!(!asked || lies, "an upstream that failed costs money: {story}");
        }
    }

    // ---------------------------------------------------------------------------------------- in the end

    /// From now on everybody does what he should, and everything comes to an end.
    fn calm_down(&mut self) {
        self.force(None);
        for at in 0..self.actors.len() {
            for step in 0.. {
                assert!(step < CALM_STEPS, "without end: {}", self.actors[at].request.story());
                let request = &self.actors[at].request;
                if request.is_pending() {
                    self.turn(at);
                    continue;
                }
                let event = match request.call.as_ref().map(|call| call.kind.path()) {
                    _ if request.is_over() => break,
                    Some("/verify") => valid(),
                    Some("/settle") => self.settle_honestly(at),
                    Some(_) => self.ask_node(at),
                    None if request.is_pausing() => {
                        self.stage.now += 1;
                        self.node.mine(self.stage.now, Vec::new());
                        Event::Tick
                    }
                    None if request.has_ended => panic!("it waits for nothing: {}", request.story()),
                    None => {
                        assert!(request.forwarded.is_some(), "it waits for nothing: {}", request.story());
                        self.actors[at].is_good = request.forwarded.is_some();
                        upstream(200)
                    }
                };
                self.happen(at, event);
            }
        }
    }

    /// The client comes again after everything, and gets what it paid for.
    fn pay_again(&mut self) {
        for number in 0..self.payments.len() {
            let is_told = self.setup.confirmations > 0 || self.setup.is_idempotent;
            let payment = &self.payments[number];
            if self.setup.ledger_lies || payment.settled.is_none() || payment.is_spent || !is_told {
                continue;
            }
            self.stage.now += LAPSE;
            self.node.mine(self.stage.now, Vec::new());
            self.node.mine(self.stage.now, Vec::new());
            let request = self.stage.arrive(&paid("/weather", &self.payments[number].json.clone()));
            self.add(request, Some(number), true);
            self.calm_down();
            let story: Vec<_> = self.actors.iter().map(|actor| actor.request.story()).collect();
            let story = format!("{:?} {} {story:#?}", self.setup, self.stage.now - NOW);
            assert_eq!(self.payments[number].deliveries, 1, "paid, and nothing for it: {story}");
        }
    }
}

/// A claim, and a settlement of which the end was not heard.
fn unheard(named: Option<TransactionId>) -> Answer {
    Answer::GrantedUnknown(Unheard { named, since: UnixTime::from_secs(NOW), charge: None })
}

pub(super) fn lost() -> Event {
    Event::Callout(CalloutAnswer::Lost)
}

/// The transaction of a payment.
fn hash_of(payment: usize) -> String {
    format!("{}{payment}", &TRANSACTION[..65])
}

fn any_verification(input: &mut Unstructured<'_>) -> Result<Event> {
    Ok(match input.arbitrary::<u8>()? {
        0..160 => valid(),
        160..180 => common::invalid("invalid_exact_evm_insufficient_balance"),
        180..200 => [lost(), Event::Callout(CalloutAnswer::NotSent), answers_with(504, &json!({}))]
            [usize::from(input.arbitrary::<u8>()? % 3)]
        .clone(),
        _ => {
            let status = STATUSES[usize::from(input.arbitrary::<u8>()?) % STATUSES.len()];
            let body = input.bytes(input.len().min(100))?.to_vec();
            Event::Callout(CalloutAnswer::Answered { status, body })
        }
    })
}

/// Changes a few bytes.
pub(super) fn changed(mut text: Vec<u8>, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    for _ in 0..input.int_in_range(1..=3_u8)? {
        let at = usize::from(input.arbitrary::<u16>()?) % text.len();
        match input.arbitrary::<u8>()? {
            how @ 0..128 => text[at] = how,
            how @ 128..200 => text.insert(at, how - 100),
            _ => drop(text.remove(at)),
        }
    }
    Ok(text)
}

fn head_with(payment: &[u8]) -> RequestHead {
    head("GET", "/weather", &[("payment-signature", &encode_bytes(payment))])
}

fn encode_bytes(bytes: &[u8]) -> String {
    x402_proxy_wasm::x402::header::encode(&String::from_utf8_lossy(bytes))
}

fn header_with(value: &[u8]) -> RequestHead {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "api.example.com"), (":path", "/weather")];
    let pseudo = pseudo.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    RequestHead::new(pseudo.into_iter().chain([(b"payment-signature".to_vec(), value.to_vec())]))
}

fn twice(payment: &Value) -> RequestHead {
    let value = encode(payment);
    head("GET", "/weather", &[("payment-signature", &value), ("payment-signature", &value)])
}
