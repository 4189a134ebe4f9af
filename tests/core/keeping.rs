//! What the chain itself says of channels, and what becomes of a record by it.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::chain::{Unclear, channels};
use x402_proxy_wasm::channel::claims::{Due, Policy, due};
use x402_proxy_wasm::channel::record::{Answer, Change, OnChain, Operation, Purpose, Record, Reserve, apply};
use x402_proxy_wasm::channel::{ChannelConfig, ChannelId};
use x402_proxy_wasm::config::{Config, Rpc};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::time::UnixTime;

use crate::common::lives::channel;

const CHAIN: u64 = 84532;

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn node() -> std::sync::Arc<Rpc> {
    let config = json!({
        "facilitator": {"cluster": "f", "url": "http://f:1"},
        "rpc": {"base-sepolia": {"cluster": "node", "url": "http://node:8545", "confirmations": 3}},
        "routes": [{
            "match": {"path": "/x"},
            "price": "$0.01",
            "accepts": [{
                "scheme": "batch-settlement", "network": "base-sepolia", "asset": "USDC",
                "pay_to": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
            }],
        }],
    });
    let config = Config::from_json(config.to_string().as_bytes()).unwrap();
    config.nodes().remove(0)
}

/// The calls of the vectors by function.
fn calls(function: &str) -> Value {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/channels.json")).unwrap();
    vectors["calls"].as_array().unwrap().iter().find(|call| call["function"] == function).unwrap().clone()
}

fn replies(question: &str, mut reply: impl FnMut(&Value) -> Value) -> CalloutAnswer {
    let calls: Vec<Value> = serde_json::from_str(question).unwrap();
    let body: Vec<_> = calls.iter().rev().map(|call| json!({"id": call["id"], "result": reply(call)})).collect();
    CalloutAnswer::Answered { status: 200, body: serde_json::to_vec(&body).unwrap() }
}

#[test]
fn a_node_is_asked_as_the_vectors_say_and_its_answers_are_read_as_they_say() {
    let views = ["channels", "pendingWithdrawals", "refundNonce"].map(calls);
    let id: ChannelId = views[0]["args"][0].as_str().unwrap().parse().unwrap();
    let question = channels::question(&[id], 40);
    let asked: Vec<Value> = serde_json::from_str(&question).unwrap();
    for (view, call) in views.iter().zip(asked.iter().filter(|call| call["method"] == "eth_call")) {
        assert_eq!(call["params"][0]["data"], view["calldata"]);
        assert_eq!(call["params"][0]["to"], view["to"]);
        assert_eq!(call["params"][1], "0x28");
    }
    for (number, time, read_at) in [(0, 1000, 985), (1, 1000, 985), (1, 5000, 1985)] {
        let answer =
            replies(&question, |call| match call["method"].as_str().unwrap() {
                "eth_chainId" => "0x14a34".into(),
                "eth_getBlockByNumber" => json!({"number": "0x28", "timestamp": format!("{time:#x}")}),
                _ => views.iter().find(|view| view["calldata"] == call["params"][0]["data"]).unwrap()["results"]
                    [number]["data"]
                    .clone(),
            });
        let states = channels::read(&node(), &[id], 40, &answer, at(2000)).unwrap();
        let amount = |view: usize, place: usize| {
            let value = &views[view]["results"][number]["value"];
            value.get(place).unwrap_or(value).as_str().unwrap().parse::<u128>().unwrap()
        };
        let withdraw_requested_at = amount(1, 1).try_into().unwrap();
        let (balance, total_claimed) = (amount(0, 0), amount(0, 1));
        let refund_nonce = amount(2, 0);
        assert_eq!(
            states,
            [(id, OnChain { balance, total_claimed, withdraw_requested_at, refund_nonce, at: at(read_at) })]
        );
    }
}

#[test]
fn a_node_of_another_chain_and_a_half_answer_are_not_believed() {
    let id = channel().1;
    let (head, question) = (channels::head_question(), channels::question(&[id], 40));
    let answer = |question: &str, chain: &str, left_out: &str| {
        replies(question, |call| match call["method"].as_str().unwrap() {
            method if method == left_out => Value::Null,
            "eth_chainId" => chain.into(),
            "eth_blockNumber" => "0x28".into(),
            "eth_getBlockByNumber" => json!({"number": "0x28", "timestamp": "0x3e8"}),
            _ if call["params"][0]["data"].as_str().unwrap().starts_with("0xf0dc792e") => {
                format!("0x{:064x}", 1).into()
            }
            _ => format!("0x{:064x}{:064x}", 9, 4).into(),
        })
    };
    let read = |chain, left_out| channels::read(&node(), &[id], 40, &answer(&question, chain, left_out), at(2000));
    assert_eq!(read("0x14a34", "").unwrap()[0].1.balance, 9);
    assert_eq!(read("0x1", ""), Err(Unclear::OtherChain));
    for left_out in ["eth_call", "eth_getBlockByNumber", "eth_chainId"] {
        assert!(read("0x14a34", left_out).is_err(), "{left_out}");
    }
    assert_eq!(channels::read_head(&node(), &answer(&head, "0x14a34", "")), Ok(40));
    assert_eq!(channels::read_head(&node(), &answer(&head, "0x1", "")), Err(Unclear::OtherChain));
    assert_eq!(channels::read_head(&node(), &CalloutAnswer::Lost), Err(Unclear::NoAnswer));
}

/// A channel out of which one request was charged 10 at time 0, of a balance of 100.
struct Life(Option<Record>);

impl Life {
    fn perform(&mut self, now: u64, operation: &Operation) -> Answer {
        let (change, answer) = apply(self.0.as_ref(), 1, operation, at(now));
        match change {
            Change::Keep => {}
            Change::Put(record) => self.0 = Some(*record),
        }
        answer
    }

    fn reserve(&mut self, now: u64, max_claimable: u128, amount: u128, chain: Option<OnChain>) -> Answer {
        let (config, id): (ChannelConfig, _) = channel();
        let wanted = Reserve {
            config,
            id,
            chain_id: CHAIN,
            max_claimable,
            signature: [1; 65],
            amount,
            purpose: Purpose::Serve,
            until: at(now + 10),
            request: [0; 32],
            chain,
        };
        self.perform(now, &Operation::Reserve(Box::new(wanted)))
    }

    fn begun() -> Self {
        let mut life = Self(None);
        let chain = Some(OnChain { balance: 100, at: at(0), ..OnChain::default() });
        assert_eq!(life.reserve(0, 10, 10, chain), Answer::Reserved { base: 0 });
        assert!(matches!(life.perform(0, &Operation::Charge { amount: 10, chain: None }), Answer::Granted(_)));
        life
    }

    fn record(&self) -> Record {
        self.0.unwrap()
    }

    fn confirm(&mut self, now: u64, read: u64, balance: u128, total_claimed: u128) {
        let chain = OnChain { balance, total_claimed, at: at(read), ..OnChain::default() };
        assert!(matches!(self.perform(now, &Operation::Confirm { chain }), Answer::Granted(_)));
    }
}

const POLICY: Policy = Policy { claim_above: 1000, claim_every: 60, refund_idle: None };

#[test]
fn the_chain_takes_back_what_a_facilitator_made_up() {
    // It said that all is claimed, and claimed nothing.
    let mut life = Life::begun();
    assert!(matches!(life.perform(1, &Operation::BeginClaim { until: at(9) }), Answer::Row(_)));
    assert!(matches!(life.perform(5, &Operation::EndClaim { claimed: 10 }), Answer::Granted(_)));
    assert_eq!((life.record().unclaimed(), due(&life.record(), &POLICY, at(500))), (0, Due::Nothing));
    // A block from before its answer proves nothing.
    life.confirm(20, 5, 100, 0);
    assert_eq!(life.record().unclaimed(), 0);
    life.confirm(20, 6, 100, 0);
    let record = life.record();
    assert_eq!((record.charged, record.unclaimed(), record.unclaimed_since), (10, 10, at(20)));
    assert_eq!(due(&record, &POLICY, at(80)), Due::Claim { is_urgent: false });
    assert!(
        matches!(life.perform(80, &Operation::BeginClaim { until: at(99) }), Answer::Row(row) if row.charged == 10)
    );
    // The client signs the next total as if nothing had been.
    assert_eq!(life.reserve(81, 20, 10, None), Answer::Reserved { base: 10 });
}

#[test]
fn a_claim_that_was_made_up_is_found_out_though_nobody_comes() {
    let mut life = Life::begun();
    assert!(matches!(life.perform(400, &Operation::BeginClaim { until: at(409) }), Answer::Row(_)));
    assert!(matches!(life.perform(405, &Operation::EndClaim { claimed: 10 }), Answer::Granted(_)));
    let record = life.record();
    assert!(!record.wants_news(0, at(554)) && record.wants_news(0, at(555)), "nobody has used it for 300 s");
    assert!(!record.wants_news(100, at(604)) && record.wants_news(100, at(605)));
    let mut honest = Life(Some(record));
    life.confirm(560, 545, 100, 0);
    assert_eq!(life.record().unclaimed(), 10);
    honest.confirm(560, 545, 100, 10);
    assert!(!honest.record().wants_news(0, at(100_000)), "a block has shown it");
}

#[test]
fn a_block_from_before_a_deposit_does_not_take_it_back() {
    let mut life = Life::begun();
    let chain = OnChain { balance: 100, at: at(10), ..OnChain::default() };
    assert_eq!(life.reserve(10, 20, 10, Some(chain)), Answer::Reserved { base: 10 });
    let deposited = OnChain { balance: 500, ..chain };
    assert!(matches!(life.perform(18, &Operation::Charge { amount: 10, chain: Some(deposited) }), Answer::Granted(_)));
    life.confirm(30, 15, 100, 0);
    assert_eq!(life.record().chain.balance, 500);
    // Nor does one that was read while the deposit was on its way.
    let mut other = Life::begun();
    assert_eq!(other.reserve(10, 20, 10, Some(chain)), Answer::Reserved { base: 10 });
    other.confirm(17, 12, 100, 0);
    assert!(matches!(other.perform(18, &Operation::Charge { amount: 10, chain: Some(deposited) }), Answer::Granted(_)));
    assert_eq!(other.record().chain.balance, 500);
    life.confirm(40, 25, 400, 0);
    assert_eq!(life.record().chain.balance, 400);
}

#[test]
fn a_channel_in_use_is_asked_about_in_time() {
    let life = Life::begun();
    let record = life.record();
    assert!(!record.wants_news(0, at(149)));
    assert!(record.wants_news(0, at(150)));
    // A chain whose word is old when it comes is not asked all the time.
    assert!(!record.wants_news(100, at(199)));
    assert!(record.wants_news(100, at(200)));
    let idle = Record { chain: OnChain { total_claimed: 10, ..record.chain }, ..record };
    assert!(idle.wants_news(0, at(299)));
    assert!(!idle.wants_news(0, at(300)), "nobody uses it, and nothing can be lost");
    assert!(record.wants_news(0, at(100_000)), "something can be lost");
}
