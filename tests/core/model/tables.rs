//! The real exchange and the real ledger, as tables that fill themselves.
//!
//! Both are functions: the same state, time and event always lead to the same next state. So each of their answers is
//! worked out once and then looked up by number, which makes a state of the model small enough to have millions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::exchange::{
    Body, Call, Context, Effects, Event, Exchange, Next, Recovery, RequestHead, Seen, Stream, UpstreamHead,
};
use x402_proxy_wasm::facilitator::{CalloutAnswer, Supported};
use x402_proxy_wasm::ledger::{Answer, Ledger, Operation, Owner, PaymentKey};
use x402_proxy_wasm::time::UnixTime;

use super::numbered::Numbered;
use crate::common::node::{Authorized, Block, Node};
use crate::common::{MemoryStore, NOW, USDC, answers, invalid, refused, upstream, valid};

/// Payments that a model has at most.
pub const PAYMENTS: usize = 2;

/// The transactions by which they settle.
const TRANSACTIONS: [&str; PAYMENTS] = [
    "0x2de7040bf86e4bd4a20835b313400cdcc2b48f8856d447418ec88ac370551497",
    "0x1111111111111111111111111111111111111111111111111111111111111111",
];

/// How a ledger carries out operations: the real one, or one with a fault that the model has to find.
pub type Perform = fn(&Ledger, &mut MemoryStore, PaymentKey, Owner, Operation, UnixTime) -> Answer;

/// The real ledger.
pub fn perform(
    ledger: &Ledger,
    store: &mut MemoryStore,
    key: PaymentKey,
    owner: Owner,
    operation: Operation,
    now: UnixTime,
) -> Answer {
    ledger.perform(store, key, owner, operation, now)
}

/// What happens to an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    Ledger(Answer),
    Callout(Heard),
    Upstream(u16),
    /// The upstream's response begins, a stream of events.
    Stream,
    /// It ends, and has told what it used.
    StreamEnd,
    Tick,
    Ended,
}

/// What is heard of a callout. Payments and answers of nodes are named by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Heard {
    Verified,
    Invalid,
    Settled(u8),
    Refused,
    Pending(u8),
    Node(u32),
    Lost,
    NotSent,
}

/// What a step asks to be done, as far as the model can tell one thing from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deed {
    pub ledger: Option<(PaymentKey, Operation)>,
    /// The payment's name, on which the same is done.
    pub alias: Option<PaymentKey>,
    pub call: Option<Question>,
    /// The number of a recovery.
    pub recovery: Option<u32>,
    pub stream: Flow,
    /// The outcome in the log.
    pub outcome: Option<&'static str>,
}

/// What is asked of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    Verify,
    Settle,
    /// The number of the question.
    Node(u32),
}

/// What becomes of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Hold,
    Forward,
    Deliver,
    /// With this status, and whether the terms stand in it.
    Reply(u16, bool),
}

/// What the model has to know of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub is_over: bool,
    /// When it wants a tick, in seconds of the model.
    pub wakes_at: Option<u32>,
}

/// A chain at a moment, as a node shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sight {
    /// The number of the last block, counted from the first; [`BLOCKS_A_SECOND`] tell its time.
    pub head: u16,
    /// The block in which each payment settled; 0 for none.
    pub settled: [u16; PAYMENTS],
}

/// Block numbers that each second of the model has.
pub const BLOCKS_A_SECOND: u16 = 8;

struct Memory {
    exchanges: Numbered<Exchange, (Exchange, Facts)>,
    deeds: Numbered<String, Deed>,
    recoveries: Numbered<Recovery, Recovery>,
    /// By their pages, without the versions: operations of the model are atomic.
    stores: Numbered<Vec<(u32, Vec<u8>)>, MemoryStore>,
    questions: Numbered<String, Call>,
    answers: Numbered<Vec<u8>, Vec<u8>>,
    starts: HashMap<(u8, u32), (u32, u32)>,
    recovers: HashMap<(u32, u32), (u32, u32)>,
    steps: HashMap<(u32, u32, Happening), (u32, u32)>,
    operations: HashMap<(u32, u32, u8, u32), (u32, Answer)>,
    holds: HashMap<(u32, u8, u8), bool>,
    views: HashMap<(u32, Sight), u32>,
    outcomes: BTreeSet<&'static str>,
}

/// The system under test, in tables.
pub struct Tables {
    config: Config,
    supported: Supported,
    /// The head of each request.
    heads: Vec<Arc<RequestHead>>,
    /// What was signed for each payment.
    authorizations: Vec<Value>,
    /// What the first request with each payment asks of the ledger.
    claims: Vec<(PaymentKey, Operation)>,
    perform: Perform,
    memory: Mutex<Memory>,
}

/// The number of the deed of doing nothing.
pub const NOTHING: u32 = 0;
/// The number of the exchange that is over.
pub const OVER: u32 = 0;
/// The number of the empty store.
pub const EMPTY: u32 = 0;

const IDLE: Deed = Deed { ledger: None, alias: None, call: None, recovery: None, stream: Flow::Hold, outcome: None };

/// The body of requests for a stream.
pub const CHAT: &str =
    r#"{"model":"gpt-4o","messages":[],"max_tokens":500,"stream":true,"stream_options":{"include_usage":true}}"#;

/// The last piece of the stream.
const USED: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":100}}\n\ndata: [DONE]\n\n";

/// Takes in a request with its body, if that is wanted.
fn start(context: Context<'_>, head: &Arc<RequestHead>) -> Next {
    match Exchange::start(context, head, Seen::Never) {
        (exchange, Effects { stream: Stream::Read { .. }, .. }) => {
            exchange.step(context, Event::RequestBody(Body::Whole(CHAT.as_bytes().to_vec())))
        }
        next => next,
    }
}

impl Tables {
    pub fn new(config: Config, heads: Vec<RequestHead>, authorizations: Vec<Value>, perform: Perform) -> Self {
        Self::before(Supported::default(), config, heads, authorizations, perform)
    }

    /// The same before a facilitator that says what it supports.
    pub fn before(
        supported: Supported,
        config: Config,
        heads: Vec<RequestHead>,
        authorizations: Vec<Value>,
        perform: Perform,
    ) -> Self {
        let heads: Vec<_> = heads.into_iter().map(Arc::new).collect();
        let mut memory = Memory {
            exchanges: Numbered::new(),
            deeds: Numbered::new(),
            recoveries: Numbered::new(),
            stores: Numbered::new(),
            questions: Numbered::new(),
            answers: Numbered::new(),
            starts: HashMap::new(),
            recovers: HashMap::new(),
            steps: HashMap::new(),
            operations: HashMap::new(),
            holds: HashMap::new(),
            views: HashMap::new(),
            outcomes: BTreeSet::new(),
        };
        assert_eq!(memory.note((Exchange::Over, Effects::default())), (OVER, NOTHING));
        assert_eq!(memory.note_store(MemoryStore::default()), EMPTY);
        let fresh = &heads[heads.len() - authorizations.len()..];
        let context = Context {
            config: &config,
            now: at(0),
            supported: std::slice::from_ref(&supported),
            failing: 0,
            draw: 0,
            secret: [0; 32],
        };
        let claims = fresh.iter().map(|head| start(context, head).1.ledger.expect("a payment is claimed"));
        let claims = claims.collect();
        Self { config, supported, heads, authorizations, claims, perform, memory: Mutex::new(memory) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no thread fails while it looks something up")
    }

    fn context(&self, now: u32) -> Context<'_> {
        Context {
            config: &self.config,
            now: at(now),
            supported: std::slice::from_ref(&self.supported),
            failing: 0,
            draw: 0,
            secret: [0; 32],
        }
    }

    /// Takes in the head of a request: numbers of an exchange and of a deed.
    pub fn start(&self, request: u8, now: u32) -> (u32, u32) {
        let mut memory = self.memory();
        if let Some(known) = memory.starts.get(&(request, now)) {
            return *known;
        }
        let next = memory.note(start(self.context(now), &self.heads[usize::from(request)]));
        memory.starts.insert((request, now), next);
        next
    }

    /// What becomes of a request that the proxy has begun anew after the filter let it through.
    pub fn start_again(&self, request: u8, now: u32) -> Deed {
        let seen = Seen::Before("weather".to_owned());
        let head = &self.heads[usize::from(request)];
        let (_, deed) = self.memory().note(Exchange::start(self.context(now), head, seen));
        self.deed(deed)
    }

    /// Looks into a settlement that went unheard.
    pub fn recover(&self, recovery: u32, now: u32) -> (u32, u32) {
        let mut memory = self.memory();
        if let Some(known) = memory.recovers.get(&(recovery, now)) {
            return *known;
        }
        let recovery_itself = memory.recoveries.get(recovery).clone();
        let next = memory.note(Exchange::recover(self.context(now), recovery_itself));
        memory.recovers.insert((recovery, now), next);
        next
    }

    /// Something happens to an exchange.
    pub fn step(&self, exchange: u32, now: u32, happening: Happening) -> (u32, u32) {
        let mut memory = self.memory();
        let key = (exchange, now, happening);
        if let Some(known) = memory.steps.get(&key) {
            return *known;
        }
        let event = memory.event(happening);
        let (before, _) = memory.exchanges.get(exchange).clone();
        let next = memory.note(before.step(self.context(now), event));
        memory.steps.insert(key, next);
        next
    }

    /// Carries out what a deed asks of the ledger: the number of the store, and the answer.
    pub fn operate(&self, store: u32, deed: u32, owner: u8, now: u32) -> (u32, Answer) {
        let mut memory = self.memory();
        let key = (store, deed, owner, now);
        if let Some(known) = memory.operations.get(&key) {
            return *known;
        }
        let (payment, operation) = memory.deeds.get(deed).ledger.expect("the deed asks something of the ledger");
        let mut changed = memory.stores.get(store).clone();
        let owner = Owner(u64::from(owner));
        let answer = (self.perform)(&self.config.ledger, &mut changed, payment, owner, operation, at(now));
        let result = (memory.note_store(changed), answer);
        memory.operations.insert(key, result);
        result
    }

    /// Whether the claim of a payment is this owner's.
    pub fn is_held(&self, store: u32, payment: u8, owner: u8) -> bool {
        let mut memory = self.memory();
        if let Some(known) = memory.holds.get(&(store, payment, owner)) {
            return *known;
        }
        let (key, _) = self.claims[usize::from(payment)];
        let mut copy = memory.stores.get(store).clone();
        // Only the holder may release a claim.
        let answer = self.config.ledger.perform(&mut copy, key, Owner(u64::from(owner)), Operation::Release, at(0));
        let is_held = answer == Answer::Granted;
        memory.holds.insert((store, payment, owner), is_held);
        is_held
    }

    /// Whether the ledger has it that the payment bought its response.
    pub fn is_spent(&self, store: u32, payment: u8, now: u32) -> bool {
        let (key, claim) = self.claims[usize::from(payment)];
        let mut copy = self.memory().stores.get(store).clone();
        let answer = self.config.ledger.perform(&mut copy, key, Owner(u64::MAX), claim, at(now));
        answer == Answer::Spent
    }

    /// What the first request with a payment asks of the ledger.
    pub fn claim(&self, payment: u8) -> (PaymentKey, Operation) {
        self.claims[usize::from(payment)]
    }

    /// The rules of the ledger.
    pub const fn ledger(&self) -> Ledger {
        self.config.ledger
    }

    /// The request that comes with this payment when all is over. Their heads come last, one for each payment.
    pub fn request_with(&self, payment: u8) -> usize {
        self.heads.len() - self.authorizations.len() + usize::from(payment)
    }

    /// What a node answers to a question, the chain being as it is: the number of the answer.
    pub fn ask_node(&self, question: u32, sight: Sight) -> u32 {
        let mut memory = self.memory();
        if let Some(known) = memory.views.get(&(question, sight)) {
            return *known;
        }
        let Event::Callout(CalloutAnswer::Answered { body, .. }) =
            self.node(sight).answer(memory.questions.get(question))
        else {
            panic!("a node answers");
        };
        let answer = memory.answers.number(body.clone(), || body);
        memory.views.insert((question, sight), answer);
        answer
    }

    fn node(&self, Sight { head, settled }: Sight) -> Node {
        let blocks = (0..=head).map(|number| {
            let here = |payment: &usize| number > 0 && settled[*payment] == number;
            let transactions: Vec<_> = (0..self.authorizations.len())
                .filter(here)
                .map(|payment| Authorized(&self.authorizations[payment]).settles(USDC, TRANSACTIONS[payment]))
                .collect();
            // Worlds that differ only in when a payment settled count as one, so it always was just now.
            let number = if transactions.is_empty() { number } else { head };
            Block { timestamp: NOW + u64::from(number / BLOCKS_A_SECOND), transactions }
        });
        Node { blocks: blocks.collect(), ..Node::default() }
    }

    pub fn deed(&self, deed: u32) -> Deed {
        if deed == NOTHING { IDLE } else { *self.memory().deeds.get(deed) }
    }

    pub fn facts(&self, exchange: u32) -> Facts {
        self.memory().exchanges.get(exchange).1
    }

    /// When a recovery is due, in seconds of the model.
    pub fn due(&self, recovery: u32) -> u32 {
        seconds(self.memory().recoveries.get(recovery).due)
    }

    /// The name of an exchange's state, and what a settlement waits for.
    pub fn name(&self, exchange: u32) -> String {
        let text = format!("{:?}", self.memory().exchanges.get(exchange).0);
        let name = text.split(['(', ' ']).next().unwrap_or_default().to_owned();
        let detail = text.rsplit_once("Pursuit {").map(|(_, pursuit)| pursuit.trim_end_matches(')').to_owned());
        detail.map_or(name.clone(), |detail| format!("{name} {{{detail}"))
    }

    /// Every outcome that was logged in any state that was reached.
    pub fn outcomes(&self) -> BTreeSet<&'static str> {
        self.memory().outcomes.clone()
    }

    /// States of an exchange that it can come back to without any time passing: there must be none, or a request may
    /// never end.
    pub fn cycle(&self) -> Option<String> {
        let memory = self.memory();
        let mut moves: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for ((exchange, now, _), (next, deed)) in &memory.steps {
            if exchange != next || *deed != NOTHING {
                moves.entry((*now, *exchange)).or_default().push(*next);
            }
        }
        let mut done = BTreeSet::new();
        let starts: Vec<_> = moves.keys().copied().collect();
        let found =
            starts.into_iter().find(|(now, start)| comes_back(&moves, *now, *start, &mut Vec::new(), &mut done));
        drop(memory);
        found.map(|(now, exchange)| format!("at {now}: {}", self.name(exchange)))
    }
}

fn comes_back(
    moves: &BTreeMap<(u32, u32), Vec<u32>>,
    now: u32,
    exchange: u32,
    path: &mut Vec<u32>,
    done: &mut BTreeSet<(u32, u32)>,
) -> bool {
    if path.contains(&exchange) {
        return true;
    }
    if !done.insert((now, exchange)) {
        return false;
    }
    path.push(exchange);
    let next = moves.get(&(now, exchange)).map(Vec::as_slice).unwrap_or_default();
    let found = next.iter().any(|next| comes_back(moves, now, *next, path, done));
    path.pop();
    found
}

impl Memory {
    /// Numbers for what follows from a step.
    fn note(&mut self, (exchange, effects): Next) -> (u32, u32) {
        let facts = Facts { is_over: exchange.is_over(), wakes_at: exchange.wakes_at().map(seconds) };
        let exchange = self.exchanges.number(exchange.clone(), || (exchange, facts));
        let Effects { ledger, alias_key: alias, record, call, recovery, stream, .. } = effects;
        let call = call.map(|call| match call.kind.path() {
            "/verify" => Question::Verify,
            "/settle" => Question::Settle,
            _ => Question::Node(self.questions.number(call.body.clone(), || call)),
        });
        let stream = match stream {
            Stream::Hold | Stream::Finish(_) => Flow::Hold,
            Stream::Read { .. } | Stream::Pass | Stream::Cut => panic!("this world has whole responses"),
            Stream::Forward(_) => Flow::Forward,
            Stream::Deliver(_) => Flow::Deliver,
            Stream::Reply(reply) => {
                let has_terms = reply.headers.iter().any(|(name, _)| name == "payment-required");
                Flow::Reply(reply.status, has_terms)
            }
        };
        let recovery = recovery.map(|recovery| self.recoveries.number(recovery.clone(), || recovery));
        let outcome = record.map(|record| record.outcome.as_str());
        self.outcomes.extend(outcome);
        let deed = Deed { ledger, alias, call, recovery, stream, outcome };
        (exchange, self.deeds.number(format!("{deed:?}"), || deed))
    }

    fn note_store(&mut self, mut store: MemoryStore) -> u32 {
        store.0.retain(|_, (page, _)| !page.is_empty());
        for (_, version) in store.0.values_mut() {
            *version = 0;
        }
        let pages = store.0.iter().map(|(number, (page, _))| (*number, page.clone())).collect();
        self.stores.number(pages, || store)
    }

    fn event(&self, happening: Happening) -> Event {
        let heard = match happening {
            Happening::Ledger(answer) => return Event::Ledger(answer),
            Happening::Upstream(status) => return upstream(status),
            Happening::Stream => {
                let Event::Upstream(head) = upstream(200) else { panic!("a response") };
                return Event::Upstream(UpstreamHead { is_event_stream: true, ..head });
            }
            Happening::StreamEnd => {
                return Event::ResponseChunk { bytes: USED.as_bytes().to_vec(), is_last: true };
            }
            Happening::Tick => return Event::Tick,
            Happening::Ended => return Event::Ended,
            Happening::Callout(heard) => heard,
        };
        match heard {
            Heard::Verified => valid(),
            Heard::Invalid => invalid("insufficient_funds"),
            Heard::Settled(payment) => answers(&serde_json::json!({
                "success": true,
                "transaction": TRANSACTIONS[usize::from(payment)],
                "network": "eip155:84532",
            })),
            Heard::Refused => refused("invalid_exact_evm_nonce_already_used"),
            Heard::Pending(payment) => answers(&serde_json::json!({
                "success": false,
                "errorReason": "settlement_pending",
                "transaction": TRANSACTIONS[usize::from(payment)],
                "network": "eip155:84532",
            })),
            Heard::Node(answer) => {
                let body = self.answers.get(answer).clone();
                Event::Callout(CalloutAnswer::Answered { status: 200, body })
            }
            Heard::Lost => Event::Callout(CalloutAnswer::Lost),
            Heard::NotSent => Event::Callout(CalloutAnswer::NotSent),
        }
    }
}

/// A second of the model, as the clock has it.
pub fn at(now: u32) -> UnixTime {
    UnixTime::from_secs(NOW + u64::from(now))
}

fn seconds(time: UnixTime) -> u32 {
    u32::try_from(time.as_secs() - NOW).expect("a time of the model")
}
