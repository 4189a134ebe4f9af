//! Settlements whose outcome the chain itself tells: played on a stage, with a node in memory.
//!
//! Stories read as those of `exchange.rs`; `chain?` is a question to the node.

use crate::common::node::{Authorized, Log, Node, Transaction, topic};
use crate::common::{
    NOW, Request, Stage, TRANSACTION, USDC, Wallet, base_config, decode, head, paid, refused, settled, upstream, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::chain::{Fate, INQUIRY_QUESTIONS, Inquiry, Progress, Transfer, Unclear, Void};
use x402_proxy_wasm::exchange::{Call, CallKind, Event, Outcome, RequestHead, Warning};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::requirement::TransferMethod;

const OTHER: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

/// A stage with a node, a payment for `/weather` and its authorization.
struct Scene {
    stage: Stage,
    node: Node,
    head: RequestHead,
    authorization: Value,
}

impl Scene {
    fn new(settle: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut config = base_config();
        config["defaults"]["settle"] = settle.into();
        config["rpc"] = json!({"base-sepolia": {"cluster": "node", "url": "http://node:8545", "timeout": "2s"}});
        change(&mut config);
        let mut stage = Stage::new(&config);
        let unpaid = stage.start(&head("GET", "/weather", &[]));
        let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
        let payment = Wallet::new(1).pay(&entry, 1);
        Self {
            stage,
            node: Node::new(20, NOW),
            head: paid("/weather", &payment),
            authorization: payment["payload"]["authorization"].clone(),
        }
    }

    fn confirming(settle: &str, confirmations: u64) -> Self {
        Self::new(settle, |config| {
            config["rpc"]["base-sepolia"]["confirmations"] = confirmations.into();
            config["defaults"]["accepts"][0]["confirm"] = true.into();
        })
    }

    fn authorized(&self) -> Authorized<'_> {
        Authorized(&self.authorization)
    }

    /// The payment settles, in a new block.
    fn settle_on_chain(&mut self) {
        let transaction = self.authorized().settles(USDC, TRANSACTION);
        self.node.mine(self.stage.now, vec![transaction]);
    }

    /// Plays events, and lets the node answer whatever it is asked between them.
    fn play(&mut self, events: impl IntoIterator<Item = Event>) -> Request {
        let mut request = self.stage.start(&self.head.clone());
        self.ask_node(&mut request);
        for event in events {
            self.stage.step(&mut request, event);
            self.ask_node(&mut request);
        }
        request
    }

    fn ask_node(&mut self, request: &mut Request) {
        while let Some(call) = request.call.clone().filter(|call| call.kind == CallKind::Chain) {
            assert_eq!((call.service.cluster.as_str(), call.service.timeout.as_secs()), ("node", 2));
            let answer = self.node.answer(&call);
            self.stage.step(request, answer);
        }
    }

    /// Looks into what a request left unknown, with a facilitator that answers `events`.
    fn recover(&mut self, request: &mut Request, events: impl IntoIterator<Item = Event>) -> Request {
        let mut pursuit = self.stage.recover(request.recovery.take().expect("there is something to recover"));
        self.ask_node(&mut pursuit);
        for event in events {
            self.stage.step(&mut pursuit, event);
            self.ask_node(&mut pursuit);
        }
        pursuit
    }
}

fn lost() -> Event {
    Event::Callout(CalloutAnswer::Lost)
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().expect("an outcome").outcome
}

fn pending(hash: &str) -> Event {
    let body =
        json!({"success": false, "errorReason": "settlement_pending", "transaction": hash, "network": "eip155:84532"});
    crate::common::answers(&body)
}

// ------------------------------------------------------------------------------------------- settlements unheard of

#[test]
fn an_answer_that_got_lost_is_found_on_the_chain() {
    for (settle, before, after, end) in [
        ("after", vec![valid(), upstream(200)], vec![], "spend granted, = served, deliver with receipt"),
        (
            "before",
            vec![],
            vec![upstream(200)],
            "redeem granted, forward settled | spend granted, = served, deliver with receipt",
        ),
        ("concurrent", vec![], vec![upstream(200)], "redeem granted | spend granted, = served, deliver with receipt"),
        ("concurrent", vec![upstream(200)], vec![], "spend granted, = served, deliver with receipt"),
    ] {
        let mut scene = Scene::new(settle, |_| ());
        scene.settle_on_chain();
        let request = scene.play(before.into_iter().chain([lost()]).chain(after));
        assert!(
            request.story().ends_with(&format!("chain? | chain? | chain? | chain? | {end}")),
            "{}",
            request.story()
        );
        let receipt = decode(request.receipt_header("payment-response").unwrap());
        assert_eq!(receipt["transaction"], TRANSACTION);
        assert_eq!(scene.stage.left(&request), "spent");
    }
}

#[test]
fn what_the_chain_does_not_show_stays_unknown_and_is_never_asked_for_again() {
    let mut scene = Scene::new("before", |_| ());
    let request = scene.play([lost()]);
    assert!(request.story().ends_with("settle? | chain? | chain? | forget granted, = unknown, reply 502"));
    assert_eq!(request.reply_header("payment-required"), None);
    assert_eq!(scene.stage.left(&request), "unknown");

    // The settlement was on its way.
    scene.settle_on_chain();
    let again = scene.play([upstream(200)]);
    assert_eq!(
        again.story(),
        "claim granted unknown, chain? | chain? | chain? | chain? | redeem granted, forward settled | spend granted, = served, deliver with receipt"
    );
    assert_eq!(outcome(&scene.play([])), Outcome::Spent);
}

#[test]
fn what_may_still_settle_is_settled_by_the_next_request() {
    let mut scene = Scene::new("before", |_| ());
    scene.play([lost()]);
    let again = scene.play([settled(), upstream(200)]);
    assert_eq!(
        again.story(),
        "claim granted unknown, chain? | chain? | settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt"
    );
}

#[test]
fn a_nonce_that_the_facilitator_calls_used_was_used_by_this_very_payment() {
    let mut scene = Scene::new("before", |_| ());
    scene.play([lost()]);
    // Between the chain's word and the facilitator's the transaction finds its block.
    let mut again = scene.stage.start(&scene.head.clone());
    scene.ask_node(&mut again);
    scene.settle_on_chain();
    scene.stage.step(&mut again, refused("invalid_exact_evm_nonce_already_used"));
    scene.ask_node(&mut again);
    scene.stage.step(&mut again, upstream(200));
    assert_eq!(outcome(&again), Outcome::Served);
}

#[test]
fn a_new_payment_is_asked_for_once_the_first_can_never_settle() {
    type Happen = fn(&mut Scene);
    let cases: [(&str, Happen); 3] = [
        ("the authorization expired before it was settled", |scene| {
            scene.stage.now += 301;
            let now = scene.stage.now;
            scene.node.mine(now, vec![]);
        }),
        ("the authorization was cancelled", |scene| {
            let log = scene.authorized().cancelled(USDC);
            let now = scene.stage.now;
            scene.node.mine(now, vec![Transaction { hash: OTHER.into(), has_failed: false, logs: vec![log] }]);
        }),
        ("the authorization's nonce was used for another transfer", |scene| {
            let logs = vec![scene.authorized().used(USDC), scene.authorized().transferred(USDC, Some(1))];
            let now = scene.stage.now;
            scene.node.mine(now, vec![Transaction { hash: OTHER.into(), has_failed: false, logs }]);
        }),
    ];
    for (reason, happen) in cases {
        let mut scene = Scene::new("before", |_| ());
        scene.play([lost()]);
        happen(&mut scene);
        let again = scene.play([]);
        assert_eq!(again.status(), 402, "{}", again.story());
        assert_eq!(again.body()["error"], reason);
        assert_eq!(decode(again.reply_header("payment-required").unwrap())["error"], reason);
        assert_eq!(scene.stage.left(&again), "nothing");
    }
}

#[test]
fn until_the_chains_own_clock_has_passed_it_a_payment_may_still_settle() {
    let mut scene = Scene::new("before", |_| ());
    scene.play([lost()]);
    scene.stage.now += 301;
    scene.node.mine(NOW + 299, vec![]);
    let again = scene.play([refused("invalid_exact_evm_payload_authorization_valid_before")]);
    assert_eq!(outcome(&again), Outcome::Unknown, "{}", again.story());
    assert_eq!(again.reply_header("payment-required"), None);
    // To the second: the token refuses the transfer from validBefore on.
    scene.node.mine(NOW + 300, vec![]);
    assert_eq!(scene.play([]).status(), 402);
}

#[test]
fn blocks_that_may_be_replaced_prove_nothing() {
    let with_three = |config: &mut Value| config["rpc"]["base-sepolia"]["confirmations"] = 3.into();
    // An expiry.
    let mut scene = Scene::new("before", with_three);
    scene.play([lost()]);
    scene.stage.now += 301;
    scene.node.mine(NOW + 301, vec![]);
    scene.node.mine(NOW + 301, vec![]);
    assert_eq!(outcome(&scene.play([lost()])), Outcome::Unknown);
    scene.node.mine(NOW + 301, vec![]);
    assert_eq!(scene.play([]).status(), 402);

    // A cancellation, and a nonce used for something else.
    for is_cancelled in [true, false] {
        let mut scene = Scene::new("before", with_three);
        scene.play([lost()]);
        let log = if is_cancelled { scene.authorized().cancelled(USDC) } else { scene.authorized().used(USDC) };
        scene.node.mine(NOW, vec![Transaction { hash: OTHER.into(), has_failed: false, logs: vec![log] }]);
        scene.node.mine(NOW, vec![]);
        let unclear = scene.play([lost()]);
        assert_eq!(outcome(&unclear), Outcome::Unknown, "{}", unclear.story());
        assert!(unclear.reason().contains("too few blocks confirm it"), "{}", unclear.reason());
        scene.node.mine(NOW, vec![]);
        assert_eq!(scene.play([]).status(), 402);
    }
}

#[test]
fn a_settlement_waits_for_its_confirmations() {
    let mut scene = Scene::new("before", |config| config["rpc"]["base-sepolia"]["confirmations"] = 3.into());
    scene.settle_on_chain();
    let mut request = scene.play([lost()]);
    assert!(request.story().ends_with("chain? | pause"), "{}", request.story());
    scene.node.mine(NOW, vec![]);
    scene.stage.step(&mut request, Event::Tick);
    scene.ask_node(&mut request);
    assert!(request.is_pausing() && !request.is_answered());
    scene.node.mine(NOW, vec![]);
    scene.stage.step(&mut request, Event::Tick);
    scene.ask_node(&mut request);
    scene.stage.step(&mut request, upstream(200));
    assert_eq!(outcome(&request), Outcome::Served);
}

#[test]
fn a_transaction_that_moves_other_money_proves_nothing() {
    let authorization = |scene: &Scene| scene.authorization.clone();
    type Spoil = fn(&Authorized<'_>) -> Vec<Log>;
    let spoiled: [(&str, Spoil); 7] = [
        ("no transfer", |own| vec![own.used(USDC)]),
        ("another amount", |own| vec![own.used(USDC), own.transferred(USDC, Some(999))]),
        ("a transfer before the use", |own| vec![own.transferred(USDC, None), own.used(USDC)]),
        ("another authorization's transfer behind this one's", |own| {
            vec![own.used(USDC), own.transferred(USDC, Some(1)), own.transferred(USDC, None)]
        }),
        ("another token", |own| vec![own.used(crate::common::PAY_TO), own.transferred(crate::common::PAY_TO, None)]),
        ("another token's transfer", |own| vec![own.used(USDC), own.transferred(crate::common::PAY_TO, None)]),
        ("another recipient", |own| {
            let mut log = own.transferred(USDC, None);
            log.topics[2] = log.topics[1].clone();
            vec![own.used(USDC), log]
        }),
    ];
    for (what, logs) in spoiled {
        let mut scene = Scene::confirming("before", 1);
        let json = authorization(&scene);
        let transaction = Transaction { hash: TRANSACTION.into(), has_failed: false, logs: logs(&Authorized(&json)) };
        scene.node.mine(NOW, vec![transaction]);
        let mut request = scene.play([settled()]);
        while !request.is_over() {
            scene.stage.step(&mut request, Event::Tick);
            scene.ask_node(&mut request);
        }
        assert_ne!(outcome(&request), Outcome::Served, "{what}: {}", request.story());
        assert!(request.forwarded.is_none(), "{what}");
    }
}

#[test]
fn another_contracts_lines_between_the_tokens_do_no_harm() {
    let mut scene = Scene::confirming("before", 1);
    let own = scene.authorized();
    let stranger =
        Log { address: crate::common::PAY_TO.to_lowercase(), topics: vec![topic("Ping()")], data: "0x".into() };
    let logs = vec![own.used(USDC), stranger, own.transferred(USDC, None)];
    scene.node.mine(NOW, vec![Transaction { hash: TRANSACTION.into(), has_failed: false, logs }]);
    assert_eq!(outcome(&scene.play([settled(), upstream(200)])), Outcome::Served);
}

// ---------------------------------------------------------------------------------------------- a node that is no help

#[test]
fn a_node_of_another_chain_is_never_believed() {
    for settle in ["before", "after"] {
        let mut scene = Scene::new(settle, |_| ());
        let transaction = scene.authorized().settles(USDC, TRANSACTION);
        scene.node.chain_id = Some(8453);
        scene.node.mine(NOW, vec![transaction]);
        let events = if settle == "after" { vec![valid(), upstream(200), lost()] } else { vec![lost()] };
        let request = scene.play(events);
        assert_eq!(outcome(&request), Outcome::Unknown);
        assert_eq!(
            request.reason(),
            "the facilitator did not answer; the node is of another chain than its network (eth_chainId)"
        );
        assert!(request.warnings.iter().all(Warning::is_critical) && request.warnings.len() == 1);
        assert_eq!(scene.stage.left(&request), "unknown");
        // Once it is the right one, the same payment buys its response.
        scene.node.chain_id = None;
        let again = scene.play([upstream(200)]);
        assert_eq!(outcome(&again), Outcome::Served);
    }
}

#[test]
fn a_node_that_does_not_answer_proves_nothing() {
    let garbage = |body: &str| Event::Callout(CalloutAnswer::Answered { status: 200, body: body.as_bytes().to_vec() });
    for (answer, reason) in [
        (lost(), "the chain could not be asked"),
        (Event::Callout(CalloutAnswer::NotSent), "the chain could not be asked"),
        (crate::common::answers_with(500, &json!([])), "the chain could not be asked"),
        (garbage("[]"), "the chain's node refused a question"),
        (garbage("null"), "the chain's answer is not understood"),
        (garbage("{}"), "the chain's answer is not understood"),
        (garbage(r#"[{"id":1,"result":"12"},{"id":7,"result":"0x14a34"}]"#), "the chain's answer is not understood"),
        (garbage(r#"[{"id":1,"result":"0x+1"},{"id":7,"result":"0x14a34"}]"#), "the chain's answer is not understood"),
        (garbage(r#"[{"id":1,"result":null},{"id":7,"result":"0x14a34"}]"#), "the chain's answer is not understood"),
        (garbage(r#"[{"id":1,"error":{"code":1,"message":"x"}}]"#), "the chain's node refused a question"),
        (garbage(r#"[{"id":1,"result":"0x10"}]"#), "the chain's node refused a question"),
        (garbage(r#"[{"id":1,"result":"0x10"},{"id":7,"result":"x"}]"#), "the chain's answer is not understood"),
        (
            garbage(r#"[{"id":1,"result":"0x1ffffffffffffffff"},{"id":7,"result":"0x14a34"}]"#),
            "the chain's answer is not understood",
        ),
    ] {
        let mut scene = Scene::new("before", |_| ());
        let mut request = scene.stage.start(&scene.head.clone());
        scene.stage.step(&mut request, lost());
        scene.stage.step(&mut request, answer.clone());
        assert_eq!(outcome(&request), Outcome::Unknown, "{answer:?}");
        assert_eq!(request.reason(), format!("the facilitator did not answer; {reason}"), "{answer:?}");
        assert_eq!(scene.stage.left(&request), "unknown");

        // The next request does without the node.
        let mut again = scene.stage.start(&scene.head.clone());
        scene.stage.step(&mut again, answer);
        assert_eq!(again.story(), "claim granted unknown, chain? | settle?");
    }
}

#[test]
fn every_question_that_the_node_refuses_leaves_it_open() {
    for method in ["eth_blockNumber", "eth_call", "eth_getLogs", "eth_getTransactionReceipt", "eth_getBlockByNumber"] {
        let mut scene = Scene::new("before", |_| ());
        scene.play([lost()]);
        match method {
            "eth_getBlockByNumber" => {
                scene.stage.now += 301;
                scene.node.mine(NOW + 301, vec![]);
            }
            _ => scene.settle_on_chain(),
        }
        scene.node.refuses = vec![method];
        let again = scene.play([lost()]);
        assert_eq!(outcome(&again), Outcome::Unknown, "{method}: {}", again.story());
        assert_eq!(scene.stage.left(&again), "unknown");
        scene.node.refuses = vec![];
        let answer = (method != "eth_getBlockByNumber").then(|| upstream(200));
        assert_ne!(outcome(&scene.play(answer)), Outcome::Unknown, "{method}");
    }
}

#[test]
fn a_node_that_lags_behind_proves_nothing() {
    let mut scene = Scene::new("before", |_| ());
    scene.play([lost()]);
    scene.stage.now += 301;
    scene.node.mine(NOW + 301, vec![]);
    scene.node.lag = 1;
    assert_eq!(outcome(&scene.play([lost()])), Outcome::Unknown);
}

#[test]
fn a_use_before_the_blocks_that_are_searched_first_is_found() {
    let mut scene = Scene::new("before", |config| config["rpc"]["base-sepolia"]["log_range"] = 5.into());
    scene.node.log_limit = Some(5);
    scene.node.memory = Some(3);
    scene.play([lost()]);
    scene.settle_on_chain();
    for seconds in [2, 4, 6, 8, 10, 12] {
        scene.node.mine(NOW + seconds, vec![]);
    }
    let again = scene.play([upstream(200)]);
    assert_eq!(outcome(&again), Outcome::Served, "{}", again.story());
}

#[test]
fn what_one_inquiry_does_not_reach_the_next_in_the_background_does() {
    let mut scene = Scene::new("before", |config| config["rpc"]["base-sepolia"]["log_range"] = 9.into());
    scene.node.log_limit = Some(9);
    scene.node.memory = Some(128);
    let mut request = scene.play([lost()]);
    // Four blocks a second, and the transfer comes late.
    for quarter in 0..4 * 1000 {
        let is_it = quarter == 4 * 200;
        let settles = is_it.then(|| scene.authorized().settles(USDC, TRANSACTION));
        scene.node.mine(NOW + quarter / 4, settles.into_iter().collect());
    }
    scene.stage.now = NOW + 1000;
    let mut attempts = 0;
    while let Some(recovery) = &request.recovery {
        scene.stage.now = recovery.due.as_secs().max(scene.stage.now);
        request = scene.recover(&mut request, [refused("invalid_exact_evm_nonce_already_used")]);
        attempts += 1;
        assert!(attempts < 50, "{}", request.story());
    }
    assert!(request.story().ends_with("keep granted, = abandoned"), "{}", request.story());
    assert!(attempts > 1, "one inquiry has its bounds");
    assert_eq!(outcome(&scene.play([upstream(200)])), Outcome::Served);
}

// --------------------------------------------------------------------------------------------- the facilitator's hints

#[test]
fn a_transaction_that_the_facilitator_named_is_looked_at_first() {
    let mut scene = Scene::new("before", |_| ());
    let mut request = scene.play([pending(TRANSACTION)]);
    while request.is_pausing() {
        scene.stage.step(&mut request, Event::Tick);
        scene.stage.step(&mut request, pending(TRANSACTION));
    }
    scene.ask_node(&mut request);
    assert_eq!(outcome(&request), Outcome::Unknown);
    scene.settle_on_chain();
    let again = scene.play([upstream(200)]);
    assert!(again.story().starts_with("claim granted unknown, chain? | chain? | redeem granted, forward settled"));
    assert_eq!(outcome(&again), Outcome::Served);
}

#[test]
fn a_name_that_leads_nowhere_does_not_end_the_search() {
    for happen in [
        |_: &mut Scene| (),
        |scene: &mut Scene| {
            let logs = vec![scene.authorized().used(USDC), scene.authorized().transferred(USDC, None)];
            scene.node.mine(NOW, vec![Transaction { hash: OTHER.into(), has_failed: true, logs }]);
        },
    ] {
        let mut scene = Scene::new("before", |_| ());
        let mut request = scene.play([pending(OTHER)]);
        scene.stage.step(&mut request, Event::Tick);
        happen(&mut scene);
        scene.settle_on_chain();
        scene.stage.step(&mut request, lost());
        scene.ask_node(&mut request);
        scene.stage.step(&mut request, upstream(200));
        assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
        assert_eq!(decode(request.receipt_header("payment-response").unwrap())["transaction"], TRANSACTION);
    }
}

// -------------------------------------------------------------------------------------------------- confirm: true

#[test]
fn the_facilitators_word_alone_is_not_enough_where_the_chain_must_confirm() {
    for settle in ["after", "before", "concurrent"] {
        let mut scene = Scene::confirming(settle, 1);
        let mut request = scene.stage.start(&scene.head.clone());
        if settle == "after" {
            scene.stage.step(&mut request, valid());
        }
        if settle != "before" {
            scene.stage.step(&mut request, upstream(200));
        }
        scene.stage.step(&mut request, settled());
        scene.ask_node(&mut request);
        // The chain does not have it yet.
        assert!(request.is_pausing() && request.delivered.is_none(), "{}", request.story());
        scene.settle_on_chain();
        scene.stage.step(&mut request, Event::Tick);
        scene.ask_node(&mut request);
        if settle == "before" {
            scene.stage.step(&mut request, upstream(200));
        }
        assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
        assert_eq!(scene.stage.left(&request), "spent");
    }
}

#[test]
fn a_facilitator_that_lies_gets_nobody_served() {
    let mut scene = Scene::confirming("after", 1);
    let mut request = scene.play([valid(), upstream(200), settled()]);
    while !request.is_over() {
        scene.stage.step(&mut request, Event::Tick);
        scene.ask_node(&mut request);
    }
    assert_eq!(outcome(&request), Outcome::Unknown);
    assert_eq!((request.status(), request.reply_header("payment-required")), (502, None));
    assert_eq!(request.reason(), "the settlement is not confirmed on the chain yet");
    assert!(request.delivered.is_none());
    // It gives up in time: the time-outs of both services, rounded up.
    assert!(scene.stage.now <= NOW + 15, "{}", scene.stage.now - NOW);

    // And when the payment has expired, the client may make another.
    scene.stage.now = NOW + 301;
    scene.node.mine(NOW + 301, vec![]);
    assert_eq!(scene.play([]).status(), 402);
}

#[test]
fn an_upstream_error_that_waits_for_confirmation_passes_with_its_receipt() {
    let mut scene = Scene::confirming("concurrent", 1);
    let mut request = scene.play([settled()]);
    assert!(request.is_pausing());
    scene.stage.step(&mut request, upstream(500));
    scene.settle_on_chain();
    scene.stage.step(&mut request, Event::Tick);
    scene.ask_node(&mut request);
    assert!(request.story().ends_with("keep granted, = settled_upstream_failed, deliver with receipt"));
    assert_eq!(outcome(&scene.play([upstream(200)])), Outcome::Served);
}

#[test]
fn a_client_that_leaves_during_confirmation_gets_its_response_later() {
    let mut scene = Scene::confirming("before", 1);
    let mut request = scene.play([settled(), Event::Ended]);
    assert!(request.is_pausing());
    scene.settle_on_chain();
    scene.stage.step(&mut request, Event::Tick);
    scene.ask_node(&mut request);
    assert!(request.story().ends_with("keep granted, = abandoned"), "{}", request.story());
    assert_eq!(outcome(&scene.play([upstream(200)])), Outcome::Served);
}

// ----------------------------------------------------------------------------------------------- in the background

#[test]
fn an_unknown_settlement_is_looked_into_when_nobody_waits() {
    let mut scene = Scene::new("before", |_| ());
    let mut request = scene.play([lost()]);
    scene.settle_on_chain();
    let pursuit = scene.recover(&mut request, []);
    assert_eq!(
        pursuit.story(),
        "recover granted unknown, chain? | chain? | chain? | chain? | keep granted, = abandoned"
    );
    let again = scene.play([upstream(200)]);
    assert_eq!(again.story(), "claim granted settled, forward settled | spend granted, = served, deliver with receipt");
}

#[test]
fn without_a_node_the_facilitator_is_asked_in_the_background() {
    let mut scene = Scene::new("before", |config| config["rpc"] = json!({}));
    let mut request = scene.play([lost()]);
    let pursuit = scene.recover(&mut request, [settled()]);
    assert_eq!(pursuit.story(), "recover granted unknown, settle? | keep granted, = abandoned");
    assert_eq!(outcome(&scene.play([upstream(200)])), Outcome::Served);
}

#[test]
fn the_background_asks_later_and_later_until_it_is_of_no_use() {
    let mut scene = Scene::new("before", |config| config["rpc"] = json!({}));
    let mut request = scene.play([lost()]);
    let mut pauses = Vec::new();
    while let Some(recovery) = &request.recovery {
        pauses.push(recovery.due.as_secs() - scene.stage.now);
        scene.stage.now = recovery.due.as_secs();
        request = scene.recover(&mut request, [lost()]);
        assert_eq!(outcome(&request), Outcome::Unknown);
    }
    // No facilitator settles what lives for less than six seconds more.
    for (pause, least) in pauses.iter().zip([1, 2, 4, 8, 16, 32, 60, 60, 60]) {
        assert!((least..=least + least / 2).contains(pause), "{pauses:?}");
    }
    assert!((8..=9).contains(&pauses.len()), "{pauses:?}");
    assert!(scene.stage.now <= NOW + 294 && scene.stage.now + 90 > NOW + 294);
    assert_eq!(scene.play([lost()]).status(), 502, "and the client is not asked to pay again");
}

#[test]
fn with_a_node_the_background_goes_on_until_it_knows() {
    let mut scene = Scene::new("before", |_| ());
    let mut request = scene.play([lost()]);
    while let Some(recovery) = &request.recovery {
        scene.stage.now = recovery.due.as_secs();
        let now = scene.stage.now;
        scene.node.mine(now, vec![]);
        request = scene.recover(&mut request, [lost()]);
    }
    assert_eq!(outcome(&request), Outcome::Refused, "{}", request.story());
    assert_eq!(request.reason(), "the authorization expired before it was settled");
    assert!((NOW + 300..NOW + 400).contains(&scene.stage.now));
    assert_eq!(scene.stage.left(&request), "nothing");
}

#[test]
fn the_background_leaves_alone_what_somebody_else_has_in_hand() {
    let mut scene = Scene::new("before", |_| ());
    let mut first = scene.play([lost()]);
    let second = scene.stage.start(&scene.head.clone());
    assert!(second.story().starts_with("claim granted unknown"));
    assert_eq!(scene.recover(&mut first, []).story(), "recover not held");

    let mut scene = Scene::new("before", |_| ());
    let mut first = scene.play([lost()]);
    scene.settle_on_chain();
    assert_eq!(outcome(&scene.play([upstream(500)])), Outcome::SettledUpstreamFailed);
    assert_eq!(scene.recover(&mut first, []).story(), "recover not held");
    assert_eq!(outcome(&scene.play([upstream(200)])), Outcome::Served);
}

#[test]
fn a_client_that_comes_back_meanwhile_waits() {
    let mut scene = Scene::new("before", |_| ());
    let mut request = scene.play([lost()]);
    let pursuit = scene.stage.recover(request.recovery.take().unwrap());
    assert_eq!(pursuit.story(), "recover granted unknown, chain?");
    let again = scene.stage.start(&scene.head.clone());
    assert_eq!(again.story(), "claim in flight, = in_flight, reply 409");
}

// --------------------------------------------------------------------------------------------------- nonces that are used

#[test]
fn a_payment_that_was_spent_elsewhere_or_before_a_restart_buys_nothing() {
    let mut scene = Scene::new("before", |_| ());
    scene.settle_on_chain();
    // This ledger has never seen it.
    scene.stage.now += 16;
    let request = scene.play([refused("invalid_exact_evm_nonce_already_used")]);
    assert_eq!((request.status(), outcome(&request)), (402, Outcome::Refused), "{}", request.story());
    assert_eq!(request.body()["error"], "invalid_exact_evm_nonce_already_used");
    assert_eq!(scene.stage.left(&request), "nothing");

    // Nor by way of an answer that gets lost, or of a facilitator that says yes to everything.
    let request = scene.play([lost()]);
    assert_eq!(request.status(), 402, "{}", request.story());
    let mut scene = Scene::confirming("before", 1);
    scene.settle_on_chain();
    scene.stage.now += 16;
    assert_eq!(scene.play([settled()]).status(), 402);
}

#[test]
fn where_other_ledgers_take_the_same_payments_a_used_nonce_buys_nothing() {
    // Whoever sent a payment to every replica at once would be served by each of them.
    let mut scene = Scene::new("before", |_| ());
    let mut request = scene.stage.start(&scene.head.clone());
    scene.settle_on_chain();
    scene.stage.step(&mut request, refused("invalid_exact_evm_nonce_already_used"));
    assert_eq!((request.status(), outcome(&request)), (402, Outcome::Refused), "{}", request.story());
    assert_eq!(scene.stage.left(&request), "nothing");
}

#[test]
fn that_a_nonce_is_used_is_believed_only_where_the_chain_says_for_what() {
    let mut scene = Scene::new("before", |_| ());
    scene.settle_on_chain();
    scene.node.refuses = vec!["eth_getLogs"];
    let request = scene.play([lost()]);
    assert_eq!((request.status(), request.reply_header("payment-required")), (502, None), "{}", request.story());
    scene.node.refuses = vec![];
    scene.stage.now += 60;
    let again = scene.play([upstream(200)]);
    assert_eq!(outcome(&again), Outcome::Served, "the ledger has seen it before it settled: {}", again.story());
}

// ------------------------------------------------------------------------------------------------ questions by themselves

fn transfer_of(scene: &Scene, method: TransferMethod) -> Transfer {
    let text = |name: &str| scene.authorization[name].as_str().unwrap().to_owned();
    Transfer {
        method,
        asset: USDC.parse().unwrap(),
        from: text("from").parse().unwrap(),
        to: text("to").parse().unwrap(),
        value: Amount::parse(&text("value")).unwrap(),
        is_at_most: false,
        nonce: text("nonce").parse().unwrap(),
        valid_before: UnixTime::from_secs(NOW + 300).into(),
        since: UnixTime::from_secs(NOW),
        searched_to: None,
    }
}

/// The node's answer to what an inquiry asks, and what the inquiry makes of it for `transfer`.
fn inquire(scene: &Scene, inquiry: Inquiry, asked_for: &Transfer, transfer: &Transfer) -> Progress {
    let rpc = scene.stage.config.routes[0].terms.as_ref().unwrap().offers[0].rpc.clone().expect("a node");
    let body = inquiry.question(asked_for, &rpc, UnixTime::from_secs(NOW));
    let call = Call { kind: CallKind::Chain, service: rpc.service.clone(), body };
    match scene.node.answer(&call) {
        Event::Callout(answer) => inquiry.step(transfer, &rpc, &answer),
        _ => panic!("a node answers"),
    }
}

#[test]
fn a_permit_of_the_same_number_is_not_settled_by_another_authorization() {
    let mut scene = Scene::new("after", |_| ());
    scene.settle_on_chain();
    let [authorization, permit] =
        [TransferMethod::Eip3009, TransferMethod::Permit2].map(|method| transfer_of(&scene, method));
    let head = Inquiry::Nonce(1020);
    let hash = TRANSACTION.parse().unwrap();
    assert_eq!(inquire(&scene, head, &authorization, &authorization), Progress::Ask(Inquiry::Receipt(1020, hash)));
    // Even where the node tells what it was not asked.
    assert!(matches!(inquire(&scene, head, &authorization, &permit), Progress::Done(_)));
}

#[test]
fn a_receipt_that_does_not_show_the_nonce_used_proves_nothing() {
    let mut scene = Scene::new("after", |_| ());
    let transfer = transfer_of(&scene, TransferMethod::Eip3009);
    let moved = scene.authorized().transferred(USDC, None);
    scene.node.mine(NOW, vec![Transaction { hash: TRANSACTION.to_owned(), has_failed: false, logs: vec![moved] }]);
    let receipt = Inquiry::Receipt(1020, TRANSACTION.parse().unwrap());
    let progress = inquire(&scene, receipt, &transfer, &transfer);
    assert_eq!(progress, Progress::Done(Fate::Unclear(Unclear::NotFinal)));
}

// ------------------------------------------------------------------------------------------- the search in older blocks

/// How a chain makes blocks: the time between one and the next in milliseconds, by its number.
type Pace = fn(u64) -> u64;

const PACES: [(&str, Pace); 5] = [
    ("four a second", |_| 250),
    ("one in two seconds", |_| 2000),
    ("one in twelve seconds", |_| 12_000),
    ("on demand", |number| if number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 { 9000 } else { 300 }),
    ("slow at first", |number| if number < 2000 { 10_000 } else { 500 }),
];

/// A chain of this pace that lasts from an hour before `NOW` for so many hours, in which the payment settles at a time.
fn paced(pace: Pace, hours: u64, settled_at: u64, authorized: &Authorized<'_>) -> Node {
    let mut node = Node::default();
    let (mut millis, end) = (1000 * (NOW - 3600), NOW + 3600 * (hours - 1));
    let mut is_settled = false;
    for number in 0.. {
        let time = millis / 1000;
        if time > end {
            break;
        }
        let settles = time >= settled_at && !std::mem::replace(&mut is_settled, time >= settled_at);
        node.mine(time, settles.then(|| authorized.settles(USDC, TRANSACTION)).into_iter().collect());
        millis += pace(number);
    }
    assert!(is_settled);
    node
}

/// Inquires until an inquiry ends otherwise than at its bounds, or gets no further: how it ended, and after how many.
fn inquire_on(scene: &Scene, transfer: &mut Transfer) -> (Fate, u32) {
    for inquiries in 1..500 {
        let mut inquiry = Inquiry::Head(None);
        let mut questions = 0;
        let fate = loop {
            questions += 1;
            assert!(questions <= INQUIRY_QUESTIONS, "{inquiry:?}");
            match inquire(scene, inquiry, transfer, transfer) {
                Progress::Ask(next) => inquiry = next,
                Progress::Done(fate) => break fate,
            }
        };
        match fate {
            Fate::Unclear(Unclear::OutOfRange { searched_to }) if searched_to != transfer.searched_to => {
                assert!(searched_to >= transfer.searched_to, "the search goes on, and does not begin anew");
                transfer.searched_to = searched_to;
            }
            fate => return (fate, inquiries),
        }
    }
    panic!("a search that does not end");
}

#[test]
fn a_settlement_is_found_however_many_blocks_have_come_since() {
    for (what, pace) in PACES {
        for log_range in [0, 9, 100, 1800] {
            for (hours, after, memory) in [(2, 3, Some(128)), (5, 0, Some(128)), (5, 200, Some(128)), (5, 200, None)] {
                if log_range == 0 && after == 200 {
                    continue;
                }
                let case = format!("{what}, log_range {log_range}, {hours} hours, {after} s");
                let range = usize::try_from(log_range).unwrap();
                let mut scene =
                    Scene::new("before", |config| config["rpc"]["base-sepolia"]["log_range"] = log_range.into());
                let node = paced(pace, hours, NOW + after, &scene.authorized());
                scene.node = Node { memory, log_limit: Some(range), ..node };
                let mut transfer = transfer_of(&scene, TransferMethod::Eip3009);
                let (fate, inquiries) = inquire_on(&scene, &mut transfer);
                assert_eq!(fate, Fate::Settled(TRANSACTION.parse().unwrap()), "{case}");
                // With a range as it is by default one request of the client's is enough.
                if log_range == 1800 {
                    assert_eq!(inquiries, 1, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_use_before_the_first_sight_is_void_where_the_state_of_then_or_a_log_shows_it() {
    for (what, pace) in PACES {
        for (memory, lacks_logs) in [(None, true), (None, false), (Some(128), true), (Some(128), false)] {
            let mut scene = Scene::new("before", |_| ());
            let node = paced(pace, 4, NOW - 3000, &scene.authorized());
            scene.node = Node { memory, lacks_logs, ..node };
            let mut transfer = transfer_of(&scene, TransferMethod::Eip3009);
            let (fate, _) = inquire_on(&scene, &mut transfer);
            let is_void = fate == Fate::Void(Void::SettledEarlier);
            let is_open = matches!(fate, Fate::Unclear(Unclear::OutOfRange { .. }));
            assert!(is_void || is_open, "{what}, {memory:?}, {lacks_logs}: {fate:?}");
            assert!(is_void || memory.is_some() || lacks_logs, "{what}: shown, and not seen");
            // A token may write no logs, and a node may lack them: that none are found proves nothing.
            assert!(!is_void || memory.is_none() || !lacks_logs, "{what}: void without a proof");
        }
    }
}

#[test]
fn a_settlement_that_no_log_shows_is_never_called_void() {
    for (what, pace) in PACES {
        for memory in [None, Some(128)] {
            for after in [0, 3, 200] {
                let mut scene = Scene::new("before", |_| ());
                let node = paced(pace, 4, NOW + after, &scene.authorized());
                scene.node = Node { memory, lacks_logs: true, ..node };
                let mut transfer = transfer_of(&scene, TransferMethod::Eip3009);
                let (fate, _) = inquire_on(&scene, &mut transfer);
                assert!(matches!(fate, Fate::Unclear(Unclear::OutOfRange { .. })), "{what}, {memory:?}: {fate:?}");
            }
        }
    }
}

#[test]
fn a_cancellation_in_older_blocks_is_found() {
    let mut scene = Scene::new("before", |_| ());
    let mut node = paced(|_| 2000, 8, NOW + 3, &scene.authorized());
    for transaction in node.blocks.iter_mut().flat_map(|block| &mut block.transactions) {
        transaction.logs = vec![scene.authorized().cancelled(USDC)];
    }
    scene.node = node;
    let mut transfer = transfer_of(&scene, TransferMethod::Eip3009);
    assert_eq!(inquire_on(&scene, &mut transfer), (Fate::Void(Void::Cancelled), 1));
    scene.node.refuses = vec!["eth_getLogs"];
    assert_eq!(inquire_on(&scene, &mut transfer).0, Fate::Unclear(Unclear::Refused));
}
