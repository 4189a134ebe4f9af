//! Purchases out of a channel: up to six requests of one payer, with deposits, vouchers and refunds among them, over one ledger
//! and one chain, with events in any order, a keeper that claims and gives back, and a payer who withdraws. The facilitator says
//! what is so, or refuses, or nothing that anybody could rely on.
//!
//! An input chooses the configuration, and then one thing after the other that happens.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use x402_proxy_wasm::channel::message::deposit_nonce;
use x402_proxy_wasm::channel::{Answer, OnChain, Operation, Record, Row};
use x402_proxy_wasm::exchange::{CallKind, Event, Outcome, Recovery, RequestHead, UpstreamHead};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::time::UnixTime;

use super::exchange::{changed, lost};
use crate::common::channel_payer::{ChannelPayer, stage_of_channels};
use crate::common::node::{Authorized, Node};
use crate::common::{
    self, NOW, Request, Stage, USDC, answers, answers_with, base_config, decode, head, invalid, paid, refused, upstream,
};

/// Things that happen in one input, and requests that come.
const STEPS: usize = 80;
const REQUESTS: usize = 6;

/// Steps in which every request is over once the world has calmed down.
const CALM_STEPS: usize = 400;

/// Seconds that one input lasts at most.
const LONGEST: u64 = 20_000;

/// Seconds after which no request that came before holds anything any more.
const LAPSE: u64 = 1_000;

/// The collector of deposits by EIP-3009.
const COLLECTOR: &str = "0x4020806089470a89826cB9fB1f4059150b550004";

/// By whom the ledger knows the keeper.
const KEEPER: u64 = 1 << 40;

/// What the client's deposits are of, by their salts.
const DEPOSITS: [u128; 4] = [1_000, 10_000, 2_500, 500_000];

const PATHS: [&str; 2] = ["/weather", "/flat"];

const STALE: &str = "invalid_batch_settlement_evm_cumulative_amount_mismatch";
const USED: &str = "invalid_batch_settlement_evm_deposit_simulation_failed";
const BEYOND: &str = "invalid_batch_settlement_evm_cumulative_exceeds_balance";

pub(super) fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(bits) = input.arbitrary::<u8>() else { return };
    let setup = (bits & 1 != 0, bits & 2 != 0);
    let (mut stage, payers) = STAGES.with_borrow_mut(|stages| stages.remove(&setup)).unwrap_or_else(|| begin(setup));
    (stage.now, stage.store) = (NOW, common::MemoryStore::default());
    let mut world = World {
        stage,
        payers,
        node: Node::new(3, NOW),
        truth: OnChain { at: UnixTime::from_secs(NOW), ..OnChain::default() },
        has_shrunk: false,
        deposits: [Deposit::default(); 4],
        signed: BTreeSet::new(),
        sent: Vec::new(),
        actors: Vec::new(),
        recoveries: Vec::new(),
        bought: 0,
        most_charged: 0,
        deliveries: BTreeMap::new(),
        last: None,
    };
    // An input that ends is a world that calms down.
    let _ = world.play(&mut input);
    world.calm_down();
    world.buy_once_more();
    let World { stage, payers, .. } = world;
    STAGES.with_borrow_mut(|stages| stages.insert(setup, (stage, payers)));
}

/// Whether the gate verifies by itself, and whether there is a node.
type Setup = (bool, bool);

thread_local! {
    /// Stages that were used before, and the payer as each route knows it.
    static STAGES: RefCell<BTreeMap<Setup, (Stage, [ChannelPayer; 2])>> = const { RefCell::new(BTreeMap::new()) };
}

fn begin((is_local, has_node): Setup) -> (Stage, [ChannelPayer; 2]) {
    let mut config = base_config();
    config["facilitator"]["verify"] = if is_local { "local" } else { "remote" }.into();
    config["channels"] = json!({"claim_above": "$0.01", "claim_every": "60s", "refund_idle": "1h"});
    if has_node {
        config["rpc"] =
            json!({"base-sepolia": {"cluster": "chain", "url": "http://127.0.0.1:8545", "confirmations": 1}});
    }
    let flat = json!({"name": "flat", "match": {"path": "/flat"}, "price": "$0.10", "settlement_overrides": true});
    config["routes"].as_array_mut().expect("routes").push(flat);
    let mut stage = stage_of_channels(config);
    let payers = PATHS.map(|path| {
        let terms = stage.start(&head("GET", path, &[]));
        let accepted = decode(terms.reply_header("payment-required").expect("terms"))["accepts"][0].clone();
        ChannelPayer::new(1, 0, &accepted)
    });
    (stage, payers)
}

/// What became of a deposit.
#[derive(Debug, Clone, Copy, Default)]
struct Deposit {
    has_moved: bool,
    /// Whether somebody was asked to settle it, and did not say what became of it.
    is_adrift: bool,
}

/// What the client has sent.
#[derive(Debug, Clone)]
struct Sent {
    path: usize,
    json: Value,
    max: u128,
    ceiling: u128,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Voucher,
    Deposit(usize),
    Refund,
}

struct Actor {
    request: Request,
    /// What it came with; `None` where that is junk.
    sent: Option<usize>,
    questions: usize,
    asked_at: u64,
    is_good: bool,
    is_answered: bool,
    /// Whether the facilitator has made up a refusal.
    is_lied_to: bool,
}

struct World {
    stage: Stage,
    payers: [ChannelPayer; 2],
    node: Node,
    /// The channel as it is.
    truth: OnChain,
    /// Whether it has ever held less than before.
    has_shrunk: bool,
    deposits: [Deposit; 4],
    signed: BTreeSet<u128>,
    sent: Vec<Sent>,
    actors: Vec<Actor>,
    recoveries: Vec<(Option<usize>, Recovery)>,
    /// What the responses cost that were delivered.
    bought: u128,
    most_charged: u128,
    /// How often the request of a voucher was delivered.
    deliveries: BTreeMap<u128, u32>,
    last: Option<Record>,
}

impl World {
    fn play(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            let who: u8 = input.arbitrary()?;
            match who {
                0..40 => self.arrive(input)?,
                40..56 => self.pass_time(input)?,
                56..64 => self.happen_on_chain(input)?,
                64..84 => self.keep(input)?,
                84..88 => self.recover(),
                _ if self.actors.is_empty() => self.arrive(input)?,
                _ => self.act(usize::from(who) % self.actors.len(), input)?,
            }
            self.check_books();
        }
        Ok(())
    }

    fn record(&self) -> Option<Record> {
        self.stage.channel(self.payers[0].id)
    }

    fn charged(&self) -> u128 {
        self.record().map_or(self.truth.total_claimed, |record| record.standing().charged)
    }

    // -------------------------------------------------------------------------------------------- who comes

    fn arrive(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.actors.len() >= REQUESTS {
            return Ok(());
        }
        let choice: u8 = input.arbitrary()?;
        if choice >= 200 && !self.sent.is_empty() {
            let number = usize::from(choice) % self.sent.len();
            self.send(number);
            return Ok(());
        }
        let path = usize::from(choice % 4 == 3);
        let payer = &self.payers[path];
        let ceiling: u128 = payer.accepted["amount"].as_str().expect("an amount").parse().expect("an amount");
        let base = match input.arbitrary::<u8>()? {
            0..200 => self.charged(),
            200..220 => self.charged().saturating_sub(1_000),
            // As if another gate had served it.
            220..235 => self.charged() + 1_000,
            how => u128::from(how) * 1_000,
        };
        let how: u8 = input.arbitrary()?;
        let salt = usize::from(how) % DEPOSITS.len();
        let (json, max, kind) = match how {
            0..120 => (payer.voucher(base + ceiling), base + ceiling, Kind::Voucher),
            120..210 => {
                let number = u8::try_from(salt).expect("a small number") + 1;
                (payer.deposit(base + ceiling, DEPOSITS[salt], number), base + ceiling, Kind::Deposit(salt))
            }
            210..230 => (payer.refund(base, None), base, Kind::Refund),
            230..240 => (payer.refund(base, Some(700)), base, Kind::Refund),
            _ => {
                let junk = changed(payer.voucher(base + ceiling).to_string().into_bytes(), input)?;
                let value = x402_proxy_wasm::x402::header::encode(&String::from_utf8_lossy(&junk));
                self.signed.insert(base + ceiling);
                let head = head("GET", PATHS[path], &[("payment-signature", &value)]);
                self.take_in(&head, None);
                return Ok(());
            }
        };
        self.signed.insert(max);
        self.sent.push(Sent { path, json, max, ceiling, kind });
        self.send(self.sent.len() - 1);
        Ok(())
    }

    fn send(&mut self, number: usize) {
        let Sent { path, json, .. } = &self.sent[number];
        let head = paid(PATHS[*path], json);
        self.take_in(&head, Some(number));
    }

    fn take_in(&mut self, head: &RequestHead, sent: Option<usize>) {
        let request = self.stage.arrive(head);
        self.add(request, sent);
    }

    fn add(&mut self, request: Request, sent: Option<usize>) {
        let asked_at = self.stage.now;
        self.actors.push(Actor {
            request,
            sent,
            questions: 0,
            asked_at,
            is_good: false,
            is_answered: false,
            is_lied_to: false,
        });
        self.settle_down(self.actors.len() - 1);
    }

    fn recover(&mut self) {
        let due = self.recoveries.iter().position(|(_, recovery)| recovery.due.as_secs() <= self.stage.now);
        if let Some(at) = due {
            let (sent, recovery) = self.recoveries.remove(at);
            let request = self.stage.recover(recovery);
            self.add(request, sent);
        }
    }

    // ----------------------------------------------------------------------------------------- what happens

    fn act(&mut self, at: usize, input: &mut Unstructured<'_>) -> Result<()> {
        let how: u8 = input.arbitrary()?;
        let actor = &mut self.actors[at];
        if actor.request.is_over() {
            return Ok(());
        }
        if actor.request.is_pending() {
            // The store fails now and then.
            let names = ["reserve", "charge", "let go", "refunded", "extend", "renew"];
            let name = names[usize::from(how) % names.len()];
            let answer = [Answer::Failed, Answer::NotHeld][usize::from(how % 2)].clone();
            self.stage.forced_channel = (how > 244).then_some((name, answer));
            self.turn(at);
            self.stage.forced_channel = None;
            return Ok(());
        }
        let has_ended = actor.request.has_ended;
        let event = match how {
            0..8 if !has_ended => Event::Ended,
            8..16 => {
                self.tick(at);
                return Ok(());
            }
            16..100 if actor.request.is_at_upstream() && !has_ended => self.any_response(at, how),
            _ => match actor.request.call.as_ref().map(|call| call.kind) {
                Some(CallKind::Verify) => self.any_verification(at, input)?,
                Some(CallKind::Settle) => self.any_settlement(at, input)?,
                Some(_) if input.arbitrary::<u8>()? < 40 => lost(),
                Some(_) => self.ask_node(at),
                None => {
                    self.tick(at);
                    return Ok(());
                }
            },
        };
        self.happen(at, event);
        Ok(())
    }

    fn tick(&mut self, at: usize) {
        self.wait(1, false);
        if !self.actors[at].request.is_over() && !self.actors[at].request.is_pending() {
            self.happen(at, Event::Tick);
        }
    }

    fn any_response(&mut self, at: usize, how: u8) -> Event {
        let actor = &mut self.actors[at];
        let status = [200, 200, 200, 204, 404, 500][usize::from(how % 6)];
        let costs = [None, Some(0), Some(700), Some(100_000), Some(100_001)][usize::from(how % 5)];
        actor.is_good = actor.request.forwarded.is_some() && status < 400;
        Event::Upstream(UpstreamHead {
            status,
            cache_control: None,
            grpc_failed: false,
            cors: Vec::new(),
            has_body: false,
            is_event_stream: false,
            is_encoded: false,
            settlement_overrides: costs.map(|amount: u32| json!({"amount": amount.to_string()}).to_string()),
        })
    }

    /// The channel as a facilitator tells of it.
    fn state(&self) -> Value {
        let mut state = self.payers[0].state(self.truth.balance, self.truth.total_claimed);
        state["withdrawRequestedAt"] = self.truth.withdraw_requested_at.into();
        state["refundNonce"] = self.truth.refund_nonce.to_string().into();
        state
    }

    fn verify_honestly(&self, at: usize) -> Event {
        let Some(sent) = self.actors[at].sent.map(|sent| &self.sent[sent]) else {
            return invalid("nothing is in order");
        };
        // A deposit whose voucher goes on alone is asked about as a voucher.
        let body = &self.actors[at].request.call.as_ref().expect("a question").body;
        let deposit = match sent.kind {
            Kind::Deposit(salt) if body.contains(r#""type":"deposit""#) => Some(salt),
            _ => None,
        };
        if deposit.is_some_and(|salt| !self.may_move(salt)) {
            return invalid(USED);
        }
        if sent.max > self.truth.balance + deposit.map_or(0, |salt| DEPOSITS[salt]) {
            return invalid(BEYOND);
        }
        answers(&json!({"isValid": true, "payer": self.payers[0].config.payer.to_string(), "extra": self.state()}))
    }

    fn any_verification(&mut self, at: usize, input: &mut Unstructured<'_>) -> Result<Event> {
        Ok(match input.arbitrary::<u8>()? {
            0..200 => self.verify_honestly(at),
            200..215 => {
                self.actors[at].is_lied_to = true;
                invalid("invalid_batch_settlement_evm_insufficient_balance")
            }
            215..230 => lost(),
            230..240 => answers_with(503, &json!({})),
            // It says yes, and nothing of the channel.
            _ => answers(&json!({"isValid": true})),
        })
    }

    fn may_move(&self, salt: usize) -> bool {
        !self.deposits[salt].has_moved && self.stage.now < NOW + 300
    }

    /// The token moves a deposit, if it lets it.
    fn move_deposit(&mut self, salt: usize) -> bool {
        if !self.may_move(salt) {
            return false;
        }
        self.deposits[salt].has_moved = true;
        self.truth.balance += DEPOSITS[salt];
        let number = u8::try_from(salt).expect("a small number") + 1;
        let payer = &self.payers[0];
        let deposit = json!({
            "from": payer.config.payer,
            "to": COLLECTOR,
            "value": DEPOSITS[salt].to_string(),
            "nonce": format!("0x{}", hex::encode(deposit_nonce(payer.id, &[number; 32]))),
        });
        let transaction = Authorized(&deposit).settles(USDC, &hash(salt));
        self.node.mine(self.stage.now, vec![transaction]);
        true
    }

    fn told(&self, transaction: &str, amount: u128) -> Event {
        answers(&json!({
            "success": true, "transaction": transaction, "network": "eip155:84532", "amount": amount.to_string(),
            "payer": self.payers[0].config.payer.to_string(), "extra": {"channelState": self.state()},
        }))
    }

    /// Does what it is asked for, if that can be.
    fn settle_honestly(&mut self, at: usize) -> Event {
        match self.actors[at].sent.map(|sent| self.sent[sent].kind) {
            Some(Kind::Deposit(salt)) => match self.move_deposit(salt) {
                true => self.told(&hash(salt), DEPOSITS[salt]),
                false => refused(USED),
            },
            Some(Kind::Refund) => match self.give_back(at) {
                Some(amount) => self.told(&hash(9), amount),
                None => refused("invalid_batch_settlement_evm_refund_simulation_failed"),
            },
            _ => panic!("what is settled? {}", self.actors[at].request.story()),
        }
    }

    /// The contract gives back what the filter asks for.
    fn give_back(&mut self, at: usize) -> Option<u128> {
        let body = &self.actors[at].request.call.as_ref().expect("a question").body;
        let payload = serde_json::from_str::<Value>(body).expect("JSON")["paymentPayload"]["payload"].clone();
        let number = |value: &Value| value.as_str().expect("a number").parse::<u128>().expect("a number");
        let (amount, nonce) = (number(&payload["amount"]), number(&payload["refundNonce"]));
        for row in payload["claims"].as_array().expect("rows") {
            let (max, claimed) = (number(&row["voucher"]["maxClaimableAmount"]), number(&row["totalClaimed"]));
            assert!(self.signed.contains(&max) && claimed <= max, "a claim that nobody signed: {row}");
            if claimed > self.truth.balance {
                return None;
            }
            self.truth.total_claimed = self.truth.total_claimed.max(claimed);
        }
        self.refund(amount, nonce)
    }

    fn refund(&mut self, amount: u128, nonce: u128) -> Option<u128> {
        let amount = amount.min(self.truth.balance - self.truth.total_claimed);
        if nonce != self.truth.refund_nonce || amount == 0 {
            return None;
        }
        self.truth.balance -= amount;
        self.truth.refund_nonce += 1;
        self.has_shrunk = true;
        Some(amount)
    }

    fn any_settlement(&mut self, at: usize, input: &mut Unstructured<'_>) -> Result<Event> {
        let salt = self.actors[at].sent.and_then(|sent| match self.sent[sent].kind {
            Kind::Deposit(salt) => Some(salt),
            _ => None,
        });
        Ok(match input.arbitrary::<u8>()? {
            0..130 => self.settle_honestly(at),
            130..170 => {
                // It is done, and nobody hears of it.
                self.settle_honestly(at);
                [lost(), answers_with(502, &json!({})), answers(&json!({}))][usize::from(input.arbitrary::<u8>()? % 3)]
                    .clone()
            }
            170..200 => {
                salt.into_iter().for_each(|salt| self.deposits[salt].is_adrift = true);
                [lost(), answers_with(504, &json!({})), refused("unexpected_settle_error")]
                    [usize::from(input.arbitrary::<u8>()? % 3)]
                .clone()
            }
            200..215 => Event::Callout(CalloutAnswer::NotSent),
            215..235 if salt.is_none_or(|salt| !self.deposits[salt].has_moved && !self.deposits[salt].is_adrift) => {
                refused("invalid_batch_settlement_evm_insufficient_balance")
            }
            _ => {
                salt.into_iter().for_each(|salt| self.deposits[salt].is_adrift = true);
                answers(
                    &json!({"success": false, "errorReason": "settlement_pending", "transaction": "", "network": "eip155:84532"}),
                )
            }
        })
    }

    fn ask_node(&self, at: usize) -> Event {
        self.node.answer(self.actors[at].request.call.as_ref().expect("a question is under way"))
    }

    fn pass_time(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let seconds = [1, 1, 2, 5, 30, 120, 400, 1_000][usize::from(input.arbitrary::<u8>()? % 8)];
        let is_served: bool = input.arbitrary()?;
        self.wait(seconds, is_served);
        Ok(())
    }

    /// Time passes. No question outlives its timeout.
    fn wait(&mut self, seconds: u64, is_served: bool) {
        let then = self.stage.now + seconds;
        if then > NOW + LONGEST {
            return;
        }
        for at in 0..self.actors.len() {
            self.finish_turns(at);
            let actor = &self.actors[at];
            let is_chain = actor.request.call.as_ref().is_some_and(|call| call.kind == CallKind::Chain);
            if actor.request.call.is_some() && then > actor.asked_at + if is_chain { 5 } else { 10 } {
                self.time_out(at, is_served);
            }
        }
        self.stage.now = then;
        self.node.mine(then, Vec::new());
        for at in 0..self.actors.len() {
            // What pauses is woken every second.
            while seconds > 5 && self.actors[at].request.is_pausing() {
                self.happen(at, Event::Tick);
                self.finish_turns(at);
                if self.actors[at].request.call.is_some() {
                    self.time_out(at, false);
                }
            }
        }
    }

    fn finish_turns(&mut self, at: usize) {
        self.settle_down(at);
        while self.actors[at].request.is_pending() {
            self.turn(at);
        }
    }

    fn time_out(&mut self, at: usize, is_served: bool) {
        if self.actors[at].request.call.as_ref().is_some_and(|call| call.kind == CallKind::Settle) {
            if is_served {
                self.settle_honestly(at);
            } else if let Some(Kind::Deposit(salt)) = self.actors[at].sent.map(|sent| self.sent[sent].kind) {
                self.deposits[salt].is_adrift = true;
            }
        }
        self.happen(at, answers_with(504, &json!({})));
        self.finish_turns(at);
        if self.actors[at].request.call.is_some() {
            self.time_out(at, is_served);
        }
    }

    /// Something that happens on the chain, by the payer's will or late.
    fn happen_on_chain(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let how: u8 = input.arbitrary()?;
        match how {
            0..120 => {
                let salt = usize::from(how) % DEPOSITS.len();
                if self.deposits[salt].is_adrift {
                    self.move_deposit(salt);
                }
            }
            120..180 => self.truth.balance += 5_000,
            180..210 if self.truth.withdraw_requested_at == 0 => self.truth.withdraw_requested_at = self.stage.now,
            210..240
                if self.truth.withdraw_requested_at > 0 && self.stage.now >= self.truth.withdraw_requested_at + 900 =>
            {
                self.has_shrunk |= self.truth.balance > self.truth.total_claimed;
                self.truth.balance = self.truth.total_claimed;
                self.truth.withdraw_requested_at = 0;
            }
            _ => self.node.mine(self.stage.now, Vec::new()),
        }
        Ok(())
    }

    /// The keeper does something about the channel.
    fn keep(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let how: u8 = input.arbitrary()?;
        let (id, now) = (self.payers[0].id, self.stage.now);
        let until = UnixTime::from_secs(now + 600);
        let chain = OnChain { at: UnixTime::from_secs(now), ..self.truth };
        match how {
            0..110 => {
                let operation =
                    if how.is_multiple_of(4) { Operation::ClaimNow { until } } else { Operation::BeginClaim { until } };
                let before = self.record();
                if let Answer::Row(row) = self.stage.meddle(id, KEEPER, &operation) {
                    self.claim(&row, &before.expect("a record"), how);
                }
            }
            110..150 => drop(self.stage.meddle(id, KEEPER, &Operation::Confirm { chain })),
            150..180 => drop(self.stage.meddle(id, KEEPER, &Operation::Refresh { chain })),
            180..190 => drop(self.stage.meddle(id, KEEPER, &Operation::Renew)),
            _ => {
                let known = self.record();
                if let (Some(record), Answer::Row(row)) =
                    (known, self.stage.meddle(id, KEEPER, &Operation::BeginRefund { until }))
                {
                    self.give_back_idle(&record, &row, how);
                }
            }
        }
        Ok(())
    }

    fn claim(&mut self, row: &Row, before: &Record, how: u8) {
        assert!(self.signed.contains(&row.max_claimable), "a row that nobody signed: {row:?}");
        assert!(row.charged <= row.max_claimable && row.charged > before.chain.total_claimed, "{row:?}, {before:?}");
        // Who told of the balance may have looked before the last deposit.
        let may_be_early = before.chain.at < before.moved_at.plus(600);
        let may_hold_more = before.is_outdated || may_be_early;
        assert!(may_hold_more || row.charged <= before.chain.balance, "more than there is: {row:?}, {before:?}");
        let is_done = row.charged <= self.truth.balance && !how.is_multiple_of(5);
        let operation = if is_done {
            self.truth.total_claimed = self.truth.total_claimed.max(row.charged);
            Operation::EndClaim { claimed: row.charged }
        } else {
            Operation::FailClaim
        };
        self.stage.meddle(row.id, KEEPER, &operation);
    }

    fn give_back_idle(&mut self, record: &Record, row: &Row, how: u8) {
        let amount = record.chain.balance.saturating_sub(row.charged);
        let is_claimable = row.charged <= self.truth.balance;
        if is_claimable && !how.is_multiple_of(4) {
            self.truth.total_claimed = self.truth.total_claimed.max(row.charged);
            let refunded = self.refund(amount, record.chain.refund_nonce);
            // It need not be heard of.
            if refunded.is_some() && how % 8 > 3 {
                let chain = OnChain { at: UnixTime::from_secs(self.stage.now), ..self.truth };
                self.stage.meddle(row.id, KEEPER, &Operation::Refunded { chain });
                return;
            }
            self.stage.meddle(row.id, KEEPER, &Operation::Renew);
            return;
        }
        self.stage.meddle(row.id, KEEPER, &Operation::Release { chain: None });
        self.stage.meddle(row.id, KEEPER, &Operation::Renew);
    }

    // -------------------------------------------------------------------------------------- what must hold

    fn happen(&mut self, at: usize, event: Event) {
        if event == Event::Tick {
            // The stage takes a tick for a second; here the second has passed already.
            self.stage.now -= 1;
        }
        self.stage.happen(&mut self.actors[at].request, event);
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
        if actor.request.calls.len() > actor.questions {
            (actor.questions, actor.asked_at) = (actor.request.calls.len(), self.stage.now);
        }
        if let Some(recovery) = actor.request.recovery.take() {
            self.recoveries.push((actor.sent, recovery));
        }
        self.check_books();
        self.check(at);
    }

    /// Charged is never above what was signed, never sinks, and is forgotten only once it is claimed.
    fn check_books(&mut self) {
        let record = self.record();
        if let Some(after) = &record {
            assert!(after.charged <= after.max_claimable, "charged is above the voucher: {after:?}");
            assert!(self.signed.contains(&after.max_claimable), "nobody signed that: {after:?}");
            self.most_charged = self.most_charged.max(after.charged);
            let has_risen = self.last.is_none_or(|before| before.charged < after.charged);
            let deposits: u128 = (0..DEPOSITS.len())
                .filter(|salt| !self.deposits[*salt].has_moved && after.hold.is_some())
                .map(|salt| DEPOSITS[salt])
                .sum();
            assert!(
                !has_risen || self.has_shrunk || after.charged <= self.truth.balance + deposits,
                "charged is above what the channel holds, {:?}: {after:?}",
                self.truth
            );
        }
        match (&self.last, &record) {
            (Some(before), Some(after)) => {
                assert!(before.charged <= after.charged, "charged sinks: {before:?} {after:?}")
            }
            (Some(before), None) => {
                assert!(before.charged <= self.truth.total_claimed, "what is owed is forgotten: {before:?}");
            }
            _ => {}
        }
        self.last = record;
    }

    /// What became of a request, and of all of them.
    fn story(&self, at: usize) -> String {
        let all: Vec<String> = self.actors.iter().map(|actor| format!("\n  {}", actor.request.story())).collect();
        format!("{}\nof {}", self.actors[at].request.story(), all.concat())
    }

    fn check(&mut self, at: usize) {
        let actor = &mut self.actors[at];
        if actor.is_answered || !actor.request.is_answered() {
            return;
        }
        actor.is_answered = true;
        let story = self.story(at);
        let actor = &mut self.actors[at];
        check_reply(&actor.request);
        let sent = actor.sent.map(|sent| self.sent[sent].clone());
        let is_sold = actor.request.delivered.is_some() && actor.is_good;
        if let (true, Some(sent)) = (is_sold, &sent) {
            assert_ne!(sent.kind, Kind::Refund, "a refund buys nothing: {story}");
            assert!(actor.request.story().contains("charge Granted"), "delivered, and not charged: {story}");
            let receipt = decode(actor.request.receipt_header("payment-response").expect("a receipt"));
            let amount =
                receipt["extra"]["chargedAmount"].as_str().expect("an amount").parse::<u128>().expect("an amount");
            assert!(amount <= sent.ceiling, "charged is above the quote: {story}");
            let record = actor.request.record.as_ref().expect("what is delivered is recorded");
            assert_eq!(record.outcome, Outcome::Served, "{story}");
            if !actor.request.story().contains("reserve Repeat") {
                self.bought += amount;
                let (bought, charged) = (self.bought, self.most_charged);
                assert!(bought <= charged, "served for {bought}, charged {charged}: {amount} of {sent:?}, {story}");
            }
            let times = self.deliveries.entry(sent.max).or_default();
            *times += u32::from(amount > 0);
            assert!(*times <= 2, "delivered a third time: {story}");
        }
        assert!(!is_sold || sent.is_some(), "delivered for junk: {story}");
        let Some(Sent { kind: Kind::Deposit(salt), max, .. }) = sent else { return };
        let Deposit { has_moved, is_adrift } = self.deposits[salt];
        let may_have_moved = has_moved || is_adrift && self.stage.now < NOW + 300;
        let is_asked_to_pay = actor.request.status() == 402 && asks_for_money(&actor.request);
        let is_there = max <= self.truth.balance + if has_moved { 0 } else { DEPOSITS[salt] };
        assert!(
            !(may_have_moved && is_asked_to_pay && is_there) || actor.is_lied_to || self.has_shrunk,
            "asked to pay again: {story}, {}, {:?}",
            actor.request.reason(),
            self.truth
        );
        let is_failed = actor.request.record.as_ref().is_some_and(|record| record.outcome == Outcome::UpstreamFailed);
        let asked = actor.request.calls.iter().any(|call| call.kind == CallKind::Settle);
        assert!(
            !(is_failed && asked) || actor.request.story().contains("granted unknown"),
            "an upstream that failed costs money: {story}"
        );
    }

    // ---------------------------------------------------------------------------------------- in the end

    /// From now on everybody does what he should, and everything comes to an end.
    fn calm_down(&mut self) {
        for at in 0..self.actors.len() {
            for step in 0.. {
                assert!(step < CALM_STEPS, "without end: {}", self.actors[at].request.story());
                let request = &self.actors[at].request;
                if request.is_pending() {
                    self.turn(at);
                    continue;
                }
                let event = match request.call.as_ref().map(|call| call.kind) {
                    _ if request.is_over() => break,
                    Some(CallKind::Verify) => self.verify_honestly(at),
                    Some(CallKind::Settle) => self.settle_honestly(at),
                    Some(_) => self.ask_node(at),
                    None if request.is_pausing() => {
                        self.stage.now += 1;
                        self.node.mine(self.stage.now, Vec::new());
                        Event::Tick
                    }
                    None => {
                        assert!(
                            !request.has_ended && request.forwarded.is_some(),
                            "it waits for nothing: {}",
                            request.story()
                        );
                        self.actors[at].is_good = true;
                        upstream(200)
                    }
                };
                self.happen(at, event);
            }
            let owner = self.actors[at].request.owner();
            let holder = self.record().and_then(|record| record.hold).map(|hold| hold.owner);
            let story = self.actors[at].request.story();
            // Of a refund that nobody knows of, and where the store does not let go, a hold lapses.
            let is_left = ["renew", "Failed", "NotHeld"].iter().any(|one| story.contains(one));
            assert!(holder != Some(owner) || is_left, "it is over and holds the channel: {story}");
        }
    }

    /// The client puts in enough and signs for the next total, and gets it, once it is told how the channel stands.
    fn buy_once_more(&mut self) {
        self.stage.now += LAPSE;
        self.truth.withdraw_requested_at = 0;
        self.node.mine(self.stage.now, Vec::new());
        self.truth.balance = self.truth.balance.max(self.charged().max(self.truth.total_claimed) + 1_000_000);
        self.deliveries.clear();
        for _ in 0..2 {
            let max = self.charged() + 1_000;
            let json = self.payers[0].voucher(max);
            self.signed.insert(max);
            self.sent.push(Sent { path: 0, json, max, ceiling: 1_000, kind: Kind::Voucher });
            self.send(self.sent.len() - 1);
            self.calm_down();
            let request = &self.actors.last().expect("it has come").request;
            if request.reason() != STALE {
                break;
            }
        }
        let request = &self.actors.last().expect("it has come").request;
        let outcome = request.record.as_ref().map(|record| record.outcome);
        assert_eq!(outcome, Some(Outcome::Served), "{}, {:?}, {:?}", request.story(), self.truth, self.record());
    }
}

/// Every answer of the filter's own has a status that says so, and a reason.
fn check_reply(request: &Request) {
    let Some(reply) = &request.reply else { return };
    let story = request.story();
    assert!(matches!(reply.status, 200 | 400..=599), "{story}");
    if reply.status == 402 {
        let terms = request.reply_header("payment-required").map(|terms| decode(terms)["error"].is_string());
        let receipt =
            request.reply_header("payment-response").map(|receipt| decode(receipt)["errorReason"].is_string());
        assert!(terms.or(receipt) == Some(true), "{story}");
    } else {
        let body = request.body();
        assert!(body["error"].is_string() || reply.status == 200 && body["message"].is_string(), "{story}: {body}");
    }
}

/// Whether a 402 wants more than another voucher, or patience.
fn asks_for_money(request: &Request) -> bool {
    let reason = request.reason();
    let wants_other =
        [STALE, "invalid_batch_settlement_evm_channel_busy", "invalid_batch_settlement_evm_cumulative_below_claimed"];
    !wants_other.contains(&reason) && !reason.contains("withdraw")
}

/// The transaction of a deposit.
fn hash(salt: usize) -> String {
    format!("{}{salt}", &common::TRANSACTION[..65])
}
