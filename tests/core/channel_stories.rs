//! Requests that are paid out of channels, played on a stage: what the filter does about them, event by event, and what the
//! ledger holds of the channel afterwards. A story reads as in `exchange.rs`; `let go` is the release of a channel.

use crate::common::channel_payer::{AUTHORIZER, ChannelPayer, stage_of_channels};
use crate::common::node::{Authorized, Node};
use crate::common::{
    NOW, Request, Stage, TRANSACTION, USDC, answers, answers_with, base_config, decode, encode, head, invalid, paid,
    refused, settled, upstream, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::channel::message::deposit_nonce;
use x402_proxy_wasm::channel::{self, OnChain, Operation, Record};
use x402_proxy_wasm::exchange::{Body, CallKind, Event, Outcome, RequestHead, UpstreamHead};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::ledger;
use x402_proxy_wasm::time::UnixTime;

/// What a request for the weather costs.
const PRICE: u128 = 1000;

/// What the first deposit of a test is.
const DEPOSIT: u128 = 10_000;

const BUSY: &str = "invalid_batch_settlement_evm_channel_busy";
/// A reason that is given before anything is sent.
const POOR: &str = "invalid_batch_settlement_evm_insufficient_balance";
const STALE: &str = "invalid_batch_settlement_evm_cumulative_amount_mismatch";

/// Fixed prices, prices that the upstream names, and prices by the token.
fn config() -> Value {
    let mut config = base_config();
    let more = json!([
        {"name": "flat", "match": {"path": "/flat"}, "price": "$0.10", "settlement_overrides": true},
        {
            "name": "chat",
            "match": {"path": "/chat"},
            "price": {
                "usage": "openai",
                "models": {"gpt-4o": {"input": "$2.50", "output": "$10.00"}},
                "max_output_tokens": 100,
                "minimum": "$0.0001",
            },
        },
    ]);
    config["routes"].as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
    config
}

fn entry(stage: &mut Stage, head: &RequestHead, events: impl IntoIterator<Item = Event>) -> Value {
    let request = stage.play(head, events);
    assert_eq!(request.status(), 402, "{}", request.story());
    decode(request.reply_header("payment-required").unwrap())["accepts"][0].clone()
}

fn stage() -> Stage {
    stage_of_channels(config())
}

/// A stage, and a client of `/weather` whose channel holds something and was never charged.
fn opened() -> (Stage, ChannelPayer) {
    let (mut stage, payer) = closed();
    let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
    let request = play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(500)]);
    assert_eq!(outcome(&request), Outcome::UpstreamFailed);
    let record =
        Record { chain: OnChain { balance: DEPOSIT, ..record(&stage, &payer).chain }, ..record(&stage, &payer) };
    let refresh = Operation::Refresh { chain: record.chain };
    assert!(matches!(stage.meddle(payer.id, u64::MAX, &refresh), channel::Answer::Granted(_)));
    (stage, payer)
}

/// A stage, and a client of `/weather` without a channel.
fn closed() -> (Stage, ChannelPayer) {
    let mut stage = stage();
    let accepted = entry(&mut stage, &head("GET", "/weather", &[]), []);
    assert_eq!(accepted["scheme"], "batch-settlement");
    assert_eq!(accepted["amount"], PRICE.to_string());
    let payer = ChannelPayer::new(1, 0, &accepted);
    (stage, payer)
}

fn record(stage: &Stage, payer: &ChannelPayer) -> Record {
    stage.channel(payer.id).expect("the ledger knows the channel")
}

/// Charged, signed for, and held, as the ledger has it; nothing of a channel that it does not know.
fn books(stage: &Stage, payer: &ChannelPayer) -> Option<(u128, u128, u128)> {
    let record = stage.channel(payer.id)?;
    Some((record.charged, record.max_claimable, record.chain.balance))
}

/// Plays a request to its end, which must be one, and which must leave the channel to others.
#[track_caller]
fn play(
    stage: &mut Stage,
    payer: &ChannelPayer,
    head: &RequestHead,
    events: impl IntoIterator<Item = Event>,
) -> Request {
    let request = stage.play(head, events);
    assert!(request.is_over(), "it is not over: {}", request.story());
    check_left(stage, payer, &request);
    request
}

/// What is over holds nothing.
#[track_caller]
fn check_left(stage: &Stage, payer: &ChannelPayer, request: &Request) {
    if let Some(record) = stage.channel(payer.id) {
        assert_ne!(
            record.hold.map(|hold| hold.owner),
            Some(request.owner()),
            "the channel is held: {}",
            request.story()
        );
        assert!(record.charged <= record.max_claimable, "{record:?}");
    }
    assert_ne!(stage.left(request), "in flight", "the deposit's claim is held: {}", request.story());
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().expect("an outcome").outcome
}

fn receipt(request: &Request) -> Value {
    decode(request.receipt_header("payment-response").expect("a receipt"))
}

/// The corrected entry of a 402.
fn corrected(request: &Request) -> Value {
    decode(request.reply_header("payment-required").unwrap())["accepts"][0]["extra"].clone()
}

fn asked(request: &Request) -> Vec<&'static str> {
    request.calls.iter().map(|call| call.kind.path()).collect()
}

// ---------------------------------------------------------------------------------------------------------- deposits

#[test]
fn a_deposit_is_settled_before_its_response_leaves_and_the_voucher_in_it_is_charged() {
    let (mut stage, payer) = closed();
    let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
    let request =
        play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(200), payer.settled(DEPOSIT, DEPOSIT, 0)]);
    assert_eq!(
        request.story(),
        "claim granted, verify? | reserve Reserved, forward | settle granted, settle? | spend granted, charge Granted, \
         = served, deliver with receipt"
    );
    let receipt = receipt(&request);
    assert_eq!((&receipt["success"], &receipt["transaction"]), (&true.into(), &TRANSACTION.into()));
    assert_eq!((&receipt["amount"], &receipt["extra"]["chargedAmount"]), (&"10000".into(), &"1000".into()));
    assert_eq!(receipt["extra"]["channelState"]["chargedCumulativeAmount"], "1000");
    assert_eq!(receipt["extra"]["channelState"]["balance"], "10000");
    assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT)));
    // The next one asks nobody.
    let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(2 * PRICE)), [upstream(200)]);
    assert_eq!(request.story(), "reserve Reserved, forward | charge Granted, = served, deliver with receipt");
    assert_eq!(books(&stage, &payer), Some((2 * PRICE, 2 * PRICE, DEPOSIT)));
}

#[test]
fn a_deposit_that_is_refused_buys_nothing_and_may_come_again() {
    for (events, story) in [
        (vec![invalid("insufficient_balance")], "claim granted, verify? | release granted, = refused, reply 402"),
        (vec![invalid("")], "claim granted, verify? | release granted, = refused, reply 402"),
        (vec![Event::Callout(CalloutAnswer::Lost)], "claim granted, verify? | release granted, = unknown, reply 502"),
        (vec![answers_with(500, &json!({}))], "claim granted, verify? | release granted, = unknown, reply 502"),
        // Nothing is said of the channel, or of another one: what it holds is not known.
        (vec![valid()], "claim granted, verify? | reserve AskFirst, release granted, = unknown, reply 502"),
        (
            vec![ChannelPayer::new(1, 9, &closed().1.accepted).verified(DEPOSIT, 0)],
            "claim granted, verify? | reserve AskFirst, release granted, = unknown, reply 502",
        ),
        (
            vec![closed().1.verified_withdrawing(0, 0)],
            "claim granted, verify? | reserve Withdrawing, release granted, = refused, reply 402",
        ),
        // More is claimed than the voucher is for: by another proxy.
        (
            vec![closed().1.verified(5 * PRICE, 5 * PRICE)],
            "claim granted, verify? | reserve Stale, release granted, = refused, reply 402",
        ),
        (
            vec![closed().1.verified(0, 0), upstream(500)],
            "claim granted, verify? | reserve Reserved, forward | release granted, let go Granted, = upstream_failed, deliver",
        ),
        (
            vec![closed().1.verified(0, 0), upstream(200), refused(POOR)],
            "claim granted, verify? | reserve Reserved, forward | settle granted, settle? | release granted, let go \
             Granted, = refused, reply 402",
        ),
        (
            vec![closed().1.verified(0, 0), upstream(200), Event::Callout(CalloutAnswer::NotSent)],
            "claim granted, verify? | reserve Reserved, forward | settle granted, settle? | release granted, let go \
             Granted, = unknown, reply 502",
        ),
        (
            vec![closed().1.verified(0, 0), Event::Ended],
            "claim granted, verify? | reserve Reserved, forward | release granted, let go Granted, = left",
        ),
        (vec![Event::Ended], "claim granted, verify? | release granted, = left"),
    ] {
        let (mut stage, payer) = closed();
        let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
        let request = play(&mut stage, &payer, &head, events);
        assert_eq!(request.story(), story);
        assert_eq!(stage.left(&request), "nothing", "{story}");
        assert_eq!(books(&stage, &payer).map_or(0, |(charged, ..)| charged), 0, "{story}");
        let again =
            play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(200), payer.settled(DEPOSIT, DEPOSIT, 0)]);
        assert_eq!(outcome(&again), Outcome::Served, "after {story}: {}", again.story());
        assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT)));
    }
}

#[test]
fn a_deposit_for_a_response_that_costs_nothing_is_not_needed_and_not_settled() {
    let mut stage = stage();
    let accepted = entry(&mut stage, &head("GET", "/flat", &[]), []);
    let payer = ChannelPayer::new(1, 0, &accepted);
    let head = paid("/flat", &payer.deposit(100_000, 200_000, 1));
    let request = play(&mut stage, &payer, &head, [payer.verified(0, 0), charge_of(0)]);
    assert_eq!(
        request.story(),
        "claim granted, verify? | reserve Reserved, forward | charge Granted, release granted, = served, deliver with receipt"
    );
    assert_eq!(receipt(&request)["transaction"], "");
    assert_eq!(books(&stage, &payer), Some((0, 100_000, 0)));
    assert_eq!(stage.left(&request), "nothing");
    // It comes again, and this time it is.
    let settled = payer.settled(200_000, 200_000, 0);
    let request = play(&mut stage, &payer, &head, [payer.verified(0, 0), charge_of(2325), settled]);
    assert_eq!(outcome(&request), Outcome::Served);
    assert_eq!(books(&stage, &payer), Some((2325, 100_000, 200_000)));
    let question: Value = serde_json::from_str(&request.calls[1].body).unwrap();
    assert_eq!(question["paymentRequirements"]["amount"], "2325");
    assert_eq!(question["paymentPayload"]["accepted"]["amount"], "100000");
    // Where the ledger does not take that it costs nothing, the deposit's claim is not left behind.
    let head = paid("/flat", &payer.deposit(102_325, 200_000, 2));
    stage.forced_channel = Some(("charge", channel::Answer::Failed));
    let request = play(&mut stage, &payer, &head, [payer.verified(200_000, 0), charge_of(0)]);
    assert_eq!((request.status(), stage.left(&request)), (503, "nothing"), "{}", request.story());
}

/// The upstream answers, and says what it costs.
fn charge_of(amount: u128) -> Event {
    let Event::Upstream(head) = upstream(200) else { panic!("a response") };
    let overrides = Some(json!({"amount": amount.to_string()}).to_string());
    Event::Upstream(UpstreamHead { settlement_overrides: overrides, ..head })
}

#[test]
fn a_deposit_whose_client_has_gone_stands_in_the_channel() {
    let (mut stage, payer) = closed();
    let payment = payer.deposit(PRICE, DEPOSIT, 1);
    let head = paid("/weather", &payment);
    let settled = payer.settled(DEPOSIT, DEPOSIT, 0);
    let request = play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(200), Event::Ended, settled]);
    assert_eq!(outcome(&request), Outcome::Abandoned, "{}", request.story());
    assert_eq!(books(&stage, &payer), Some((0, PRICE, DEPOSIT)), "nothing is charged, and the money is there");
    assert_eq!(stage.left(&request), "spent");
    // The same payment buys its response by the voucher in it, once; nobody is asked.
    let request = play(&mut stage, &payer, &head, [upstream(200)]);
    assert_eq!(
        request.story(),
        "claim spent, reserve Reserved, forward | charge Granted, = served, deliver with receipt"
    );
    assert_eq!(receipt(&request)["transaction"], "");
    let request = play(&mut stage, &payer, &head, [upstream(200)]);
    assert_eq!(
        (request.story().as_str(), books(&stage, &payer).unwrap().0),
        ("claim spent, reserve Repeat, forward | charge Granted, = served, deliver with receipt", PRICE)
    );
    let request = play(&mut stage, &payer, &head, []);
    assert_eq!(request.status(), 409, "{}", request.story());
}

#[test]
fn an_unknown_deposit_counts_for_nothing_until_it_is_known() {
    for (said, named) in [
        (Event::Callout(CalloutAnswer::Lost), false),
        (answers_with(500, &json!({})), false),
        (refused("unexpected_settle_error"), false),
        (
            answers(&json!({
                "success": false, "errorReason": "unexpected_settle_error", "transaction": TRANSACTION,
                "network": "eip155:84532",
            })),
            true,
        ),
    ] {
        let (mut stage, payer) = closed();
        let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
        let mut request = play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(200), said]);
        assert_eq!((outcome(&request), request.status()), (Outcome::Unknown, 502), "{}", request.story());
        assert_eq!(request.record.as_ref().unwrap().payment.as_ref().unwrap().transaction.is_some(), named);
        assert_eq!(books(&stage, &payer), Some((0, PRICE, 0)), "what is named need not have come about");
        assert_eq!(stage.left(&request), "unknown");
        // It is looked into, and has come about: it stands in the channel.
        let recovery = request.recovery.take().expect("it is looked into");
        stage.now += 5;
        let mut pursuit = stage.recover(recovery);
        stage.step(&mut pursuit, payer.settled(DEPOSIT, DEPOSIT, 0));
        assert!(pursuit.is_over(), "{}", pursuit.story());
        assert_eq!((outcome(&pursuit), stage.left(&request)), (Outcome::Abandoned, "spent"), "{}", pursuit.story());
        // The balance is news to the ledger, so it asks.
        let request = play(&mut stage, &payer, &head, [payer.verified(DEPOSIT, 0), upstream(200)]);
        assert_eq!(
            request.story(),
            "claim spent, reserve OverBalance, verify? | reserve Reserved, forward | charge Granted, = served, deliver \
             with receipt"
        );
        assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT)));
    }
}

#[test]
fn an_unknown_deposit_that_comes_again_is_asked_for_before_its_voucher_counts() {
    for (said, story, status) in [
        (
            settled(),
            "claim granted unknown, settle? | spend granted, reserve OverBalance, verify? | reserve Reserved, forward | \
             charge Granted, = served, deliver with receipt",
            0,
        ),
        // The facilitator has settled it already, and says no more than that it cannot.
        (
            refused("invalid_batch_settlement_evm_deposit_simulation_failed"),
            "claim granted unknown, settle? | forget granted, reserve OverBalance, verify? | reserve Reserved, forward | \
             charge Granted, = served, deliver with receipt",
            0,
        ),
    ] {
        let (mut stage, payer) = closed();
        let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
        let lost = Event::Callout(CalloutAnswer::Lost);
        play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(200), lost]);
        stage.now += 5;
        let mut request = stage.start(&head);
        stage.step(&mut request, said);
        if request.call.is_some() {
            stage.step(&mut request, payer.verified(DEPOSIT, 0));
            stage.step(&mut request, upstream(200));
        }
        assert_eq!((request.story().as_str(), request.status()), (story, status));
        assert!(request.is_over());
        check_left(&stage, &payer, &request);
        assert_eq!(books(&stage, &payer).unwrap().0, if status == 0 { PRICE } else { 0 });
    }
}

/// Answers questions to the chain until something else is awaited.
fn ask_chain(stage: &mut Stage, request: &mut Request, node: &Node) {
    while let Some(call) = request.call.clone().filter(|call| call.kind == CallKind::Chain) {
        stage.step(request, node.answer(&call));
    }
}

#[test]
fn an_unknown_deposit_that_comes_again_is_looked_up_on_the_chain() {
    #[derive(Debug, PartialEq)]
    enum Case {
        /// It is in a block.
        Mined,
        /// It has not come about, and the facilitator settles it.
        Open,
        /// The node says nothing, and the facilitator has settled it already.
        Mute,
        /// Nobody knows, and the channel holds nothing.
        Dark,
        /// It has not come about, and never will.
        Expired,
    }
    for (case, outcome_of_it, status, calls) in [
        (Case::Mined, Outcome::Served, 0, "/verify"),
        (Case::Open, Outcome::Served, 0, "/settle, /verify"),
        (Case::Mute, Outcome::Served, 0, "/settle, /verify"),
        (Case::Dark, Outcome::Unknown, 502, "/settle, /verify"),
        (Case::Expired, Outcome::Refused, 402, ""),
    ] {
        let mut with_node = config();
        let node_of = json!({"cluster": "chain", "url": "http://127.0.0.1:8545", "confirmations": 1});
        with_node["rpc"] = json!({"base-sepolia": node_of});
        let mut stage = stage_of_channels(with_node);
        let accepted = entry(&mut stage, &head("GET", "/weather", &[]), []);
        let payer = ChannelPayer::new(1, 0, &accepted);
        let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
        let mut node = Node::new(3, stage.now);
        let mut request = stage.start(&head);
        for event in [payer.verified(0, 0), upstream(200), Event::Callout(CalloutAnswer::Lost)] {
            stage.step(&mut request, event);
        }
        while request.call.is_some() {
            stage.step(&mut request, Event::Callout(CalloutAnswer::Lost));
        }
        assert_eq!((outcome(&request), request.status()), (Outcome::Unknown, 502), "{}", request.story());
        stage.now += if case == Case::Expired { 1000 } else { 5 };
        let deposit = json!({
            "from": payer.config.payer,
            "to": "0x4020806089470a89826cB9fB1f4059150b550004",
            "value": DEPOSIT.to_string(),
            "nonce": format!("0x{}", hex::encode(deposit_nonce(payer.id, &[1; 32]))),
        });
        let mined = Authorized(&deposit).settles(USDC, TRANSACTION);
        node.mine(stage.now - 1, if case == Case::Mined { vec![mined] } else { Vec::new() });
        node.mine(stage.now, Vec::new());
        if matches!(case, Case::Mute | Case::Dark) {
            node.refuses = vec!["eth_blockNumber", "eth_call", "eth_getTransactionReceipt", "eth_getLogs"];
        }
        let mut request = stage.start(&head);
        loop {
            ask_chain(&mut stage, &mut request, &node);
            let event = match request.call.as_ref().map(|call| call.kind) {
                Some(CallKind::Settle) if case == Case::Open => payer.settled(DEPOSIT, DEPOSIT, 0),
                Some(CallKind::Settle) => refused("invalid_batch_settlement_evm_deposit_simulation_failed"),
                Some(_) if case == Case::Dark => payer.verified(0, 0),
                Some(_) => payer.verified(DEPOSIT, 0),
                None if request.is_over() => break,
                None => upstream(200),
            };
            stage.step(&mut request, event);
        }
        let asked: Vec<_> = asked(&request).into_iter().filter(|path| path.starts_with('/')).collect();
        let ended = (outcome(&request), request.status(), asked.join(", "));
        assert_eq!(ended, (outcome_of_it, status, calls.to_owned()), "{case:?}: {}", request.story());
        check_left(&stage, &payer, &request);
        let charged = books(&stage, &payer).map_or(0, |(charged, ..)| charged);
        assert_eq!(charged, if status == 0 { PRICE } else { 0 }, "{case:?}");
        if status == 0 {
            assert_eq!(books(&stage, &payer).unwrap().2, DEPOSIT, "{case:?}: it is counted once");
        }
    }
}

#[test]
fn two_with_one_deposit_settle_it_once() {
    let (mut stage, payer) = closed();
    let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
    let mut first = stage.start(&head);
    let second = stage.play(&head, []);
    assert_eq!((second.status(), outcome(&second)), (409, Outcome::InFlight), "{}", second.story());
    for event in [payer.verified(0, 0), upstream(200), payer.settled(DEPOSIT, DEPOSIT, 0)] {
        stage.step(&mut first, event);
    }
    assert_eq!(outcome(&first), Outcome::Served);
    assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT)));
}

#[test]
fn a_deposit_whose_signature_only_the_facilitator_can_check_is_claimed_once_it_has() {
    let (mut stage, payer) = closed();
    let mut payment = payer.deposit(PRICE, DEPOSIT, 1);
    let authorization = &mut payment["payload"]["deposit"]["authorization"]["erc3009Authorization"];
    authorization["signature"] = format!("0x{}", "ab".repeat(200)).into();
    let head = paid("/weather", &payment);
    let events = || [payer.verified(0, 0), upstream(200), payer.settled(DEPOSIT, DEPOSIT, 0)];
    let request = play(&mut stage, &payer, &head, events());
    assert_eq!(
        request.story(),
        "claim unproven granted, verify? | claim granted, reserve Reserved, forward | settle granted, settle? | spend \
         granted, charge Granted, = served, deliver with receipt"
    );
    // It is spent: by its voucher it is the last request once more.
    let request = play(&mut stage, &payer, &head, [upstream(200)]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    assert_eq!(books(&stage, &payer).unwrap().0, PRICE);
    let (mut stage, payer) = closed();
    let request = play(&mut stage, &payer, &head, [invalid("receive_authorization_signature")]);
    assert_eq!(outcome(&request), Outcome::Refused);
    assert_eq!(books(&stage, &payer), None);
    assert_eq!(asked(&request), ["/verify"]);
}

// ---------------------------------------------------------------------------------------------------------- vouchers

#[test]
fn a_voucher_of_an_unknown_channel_is_verified_once() {
    for (said, story) in [
        (closed().1.verified(DEPOSIT, 0), "reserve AskFirst, verify? | reserve Reserved, forward"),
        (valid(), "reserve AskFirst, verify? | reserve AskFirst, = unknown, reply 502"),
        (closed().1.verified(PRICE - 1, 0), "reserve AskFirst, verify? | reserve OverBalance, = refused, reply 402"),
        (closed().1.verified(DEPOSIT, PRICE), "reserve AskFirst, verify? | reserve Stale, = refused, reply 402"),
        (
            closed().1.verified_withdrawing(DEPOSIT, 0),
            "reserve AskFirst, verify? | reserve Withdrawing, = refused, reply 402",
        ),
        (invalid("invalid_batch_settlement_evm_channel_not_found"), "reserve AskFirst, verify? | = refused, reply 402"),
        (Event::Callout(CalloutAnswer::Lost), "reserve AskFirst, verify? | = unknown, reply 502"),
        (Event::Callout(CalloutAnswer::NotSent), "reserve AskFirst, verify? | = unknown, reply 502"),
        (Event::Ended, "reserve AskFirst, verify? | = left"),
    ] {
        let (mut stage, payer) = closed();
        let mut request = stage.start(&paid("/weather", &payer.voucher(PRICE)));
        stage.step(&mut request, said);
        assert_eq!(request.story(), story);
        if request.forwarded.is_some() {
            stage.step(&mut request, upstream(200));
            assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT)));
        } else {
            assert_eq!(books(&stage, &payer), None, "{story}");
        }
        assert!(request.is_over());
        check_left(&stage, &payer, &request);
    }
}

#[test]
fn what_is_known_of_the_chain_is_good_for_five_minutes() {
    let (mut stage, payer) = opened();
    stage.now += 301;
    let request =
        play(&mut stage, &payer, &paid("/weather", &payer.voucher(PRICE)), [payer.verified(DEPOSIT, 0), upstream(200)]);
    assert_eq!(
        request.story(),
        "reserve AskFirst, verify? | reserve Reserved, forward | charge Granted, = served, deliver with receipt"
    );
    // News that say nothing leave it as it was.
    stage.now += 301;
    let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(2 * PRICE)), [valid()]);
    assert_eq!(request.story(), "reserve AskFirst, verify? | reserve AskFirst, = unknown, reply 502");
    // The payer has begun to withdraw meanwhile.
    let withdrawing = payer.verified_withdrawing(DEPOSIT, 0);
    let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(2 * PRICE)), [withdrawing]);
    assert_eq!(request.reason(), "channel_withdrawing", "{}", request.story());
    let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(2 * PRICE)), []);
    assert_eq!(request.story(), "reserve Withdrawing, = refused, reply 402");
}

#[test]
fn a_voucher_beyond_the_balance_is_asked_about_once() {
    let (mut stage, payer) = opened();
    let voucher = paid("/weather", &payer.voucher(11 * PRICE));
    // The client has more charged than this ledger knows of: another proxy has served it.
    let request = play(&mut stage, &payer, &voucher, [payer.verified(DEPOSIT, 0)]);
    assert_eq!(request.story(), "reserve OverBalance, verify? | reserve OverBalance, = refused, reply 402");
    let request = play(&mut stage, &payer, &voucher, [valid()]);
    assert_eq!(request.story(), "reserve OverBalance, verify? | reserve OverBalance, = refused, reply 402");
    let request = play(&mut stage, &payer, &voucher, [payer.verified(11 * PRICE, 0), upstream(200)]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    assert_eq!(books(&stage, &payer), Some((11 * PRICE, 11 * PRICE, 11 * PRICE)));
}

#[test]
fn a_client_whose_count_is_low_is_told_how_the_channel_stands() {
    let (mut stage, payer) = opened();
    play(&mut stage, &payer, &paid("/weather", &payer.voucher(3 * PRICE)), [upstream(200)]);
    assert_eq!(books(&stage, &payer), Some((3 * PRICE, 3 * PRICE, DEPOSIT)), "a higher count is believed");
    let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(PRICE)), []);
    assert_eq!(request.story(), "reserve Stale, = refused, reply 402");
    assert_eq!((request.reason(), &request.body()["error"]), (STALE, &json!(STALE)));
    let told = corrected(&request);
    assert_eq!(told["channelState"]["chargedCumulativeAmount"], "3000");
    assert_eq!(told["channelState"]["channelId"], payer.id.to_string());
    assert_eq!(told["voucherState"]["signedMaxClaimable"], "3000");
    assert_eq!(told["voucherState"]["signature"], payer.voucher(3 * PRICE)["payload"]["voucher"]["signature"]);
    // It says nothing of the channel to whoever has not proven to be its payer.
    let mut forged = payer.voucher(PRICE);
    forged["payload"]["voucher"]["signature"] = payer.voucher(2 * PRICE)["payload"]["voucher"]["signature"].clone();
    let request = play(&mut stage, &payer, &paid("/weather", &forged), []);
    assert_eq!((request.status(), corrected(&request).get("channelState")), (402, None), "{}", request.story());
    // More is claimed than this ledger has seen charged: then the voucher proves nothing.
    let chain =
        OnChain { balance: DEPOSIT, total_claimed: 5 * PRICE, at: UnixTime::from_secs(NOW), ..OnChain::default() };
    stage.meddle(payer.id, u64::MAX, &Operation::Refresh { chain });
    let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(4 * PRICE)), []);
    let told = corrected(&request);
    assert_eq!(told["channelState"]["chargedCumulativeAmount"], "5000", "{told}");
    assert_eq!(told.get("voucherState").filter(|state| !state.is_null() && **state != json!("")), None, "{told}");
}

#[test]
fn the_last_voucher_buys_its_response_again_once_and_only_the_same() {
    let (mut stage, payer) = opened();
    let voucher = paid("/weather", &payer.voucher(PRICE));
    play(&mut stage, &payer, &voucher, [upstream(200)]);
    let other = paid("/weather?city=Paris", &payer.voucher(PRICE));
    let request = play(&mut stage, &payer, &other, []);
    assert_eq!((request.status(), request.reason()), (402, STALE), "{}", request.story());
    // An error of the upstream leaves nothing to be had any more.
    let request = play(&mut stage, &payer, &voucher, [upstream(200)]);
    assert_eq!(request.story(), "reserve Repeat, forward | charge Granted, = served, deliver with receipt");
    // Its client has not heard of the charge, and counts on from before it.
    let told = receipt(&request);
    assert_eq!(told["extra"]["chargedAmount"], "1000");
    assert_eq!(told["extra"]["channelState"]["chargedCumulativeAmount"], "1000");
    let logged = request.record.as_ref().unwrap().payment.as_ref().unwrap().amount;
    assert_eq!(logged.to_string(), "0", "nothing is charged twice");
    let request = play(&mut stage, &payer, &voucher, []);
    assert_eq!(request.story(), "reserve TooLate, = spent, reply 409");
    assert_eq!(books(&stage, &payer).unwrap().0, PRICE);
    // The next one is not kept from buying.
    let next = paid("/weather", &payer.voucher(2 * PRICE));
    play(&mut stage, &payer, &next, [upstream(200)]);
    stage.now += 1000;
    let request = play(&mut stage, &payer, &next, [payer.verified(DEPOSIT, 0)]);
    assert_eq!(request.story(), "reserve AskFirst, verify? | reserve TooLate, = spent, reply 409");
}

#[test]
fn an_error_of_the_upstream_costs_nothing_and_the_voucher_may_come_again() {
    let (mut stage, payer) = opened();
    let voucher = paid("/weather", &payer.voucher(PRICE));
    for event in [upstream(500), upstream(404), Event::Ended] {
        let request = play(&mut stage, &payer, &voucher, [event]);
        assert!(request.story().contains("let go Granted"), "{}", request.story());
        assert_eq!(books(&stage, &payer), Some((0, PRICE, DEPOSIT)));
    }
    let request = play(&mut stage, &payer, &voucher, [upstream(200)]);
    assert_eq!(outcome(&request), Outcome::Served);
}

#[test]
fn a_charge_that_is_not_recorded_gives_nothing_away() {
    for answer in [channel::Answer::Failed, channel::Answer::NotHeld, channel::Answer::TooMuch] {
        let (mut stage, payer) = opened();
        stage.forced_channel = Some(("charge", answer));
        let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(PRICE)), [upstream(200)]);
        assert_eq!((request.status(), outcome(&request)), (503, Outcome::Unknown), "{}", request.story());
        stage.forced_channel = None;
        let request = play(&mut stage, &payer, &paid("/weather", &payer.voucher(PRICE)), [upstream(200)]);
        assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
        // A deposit has moved by then: it stands in the channel, and its voucher buys the response.
        let head = paid("/weather", &payer.deposit(2 * PRICE, DEPOSIT, 1));
        stage.forced_channel = Some(("charge", channel::Answer::TooMuch));
        let settled = payer.settled(DEPOSIT, 2 * DEPOSIT, 0);
        let request = play(&mut stage, &payer, &head, [payer.verified(DEPOSIT, 0), upstream(200), settled]);
        assert_eq!((request.status(), stage.left(&request)), (503, "spent"), "{}", request.story());
        stage.forced_channel = None;
        let request = play(&mut stage, &payer, &head, [upstream(200)]);
        assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
        assert_eq!(books(&stage, &payer).unwrap().0, 2 * PRICE);
    }
}

#[test]
fn a_response_that_comes_after_another_request_has_the_channel_is_not_given() {
    let (mut stage, payer) = opened();
    let voucher = paid("/weather", &payer.voucher(PRICE));
    let mut slow = stage.start(&voucher);
    stage.now = record(&stage, &payer).hold.unwrap().until.as_secs();
    let refresh =
        Operation::Refresh { chain: OnChain { at: UnixTime::from_secs(stage.now), ..record(&stage, &payer).chain } };
    stage.meddle(payer.id, u64::MAX, &refresh);
    let mut quick = stage.start(&voucher);
    stage.step(&mut quick, upstream(200));
    assert_eq!(outcome(&quick), Outcome::Served);
    stage.step(&mut slow, upstream(200));
    assert_eq!((slow.status(), slow.delivered.is_none()), (503, true), "{}", slow.story());
    assert_eq!(books(&stage, &payer).unwrap().0, PRICE);
    check_left(&stage, &payer, &slow);
}

#[test]
fn answers_of_the_ledger_that_nobody_expects_end_a_request() {
    for (answer, status) in [
        (channel::Answer::Full, 503),
        (channel::Answer::Failed, 503),
        (channel::Answer::NotHeld, 503),
        (channel::Answer::TooMuch, 503),
        (channel::Answer::BelowClaimed, 402),
        (channel::Answer::OverBalance, 402),
        (channel::Answer::AskFirst, 502),
        (channel::Answer::Withdrawing, 402),
    ] {
        for is_deposit in [false, true] {
            let (mut stage, payer) = opened();
            stage.forced_channel = Some(("reserve", answer.clone()));
            let payment = if is_deposit { payer.deposit(PRICE, DEPOSIT, 1) } else { payer.voucher(PRICE) };
            let mut request = stage.start(&paid("/weather", &payment));
            if request.call.is_some() {
                stage.step(&mut request, payer.verified(DEPOSIT, 0));
            }
            assert_eq!((request.status(), request.is_over()), (status, true), "{answer:?}: {}", request.story());
            assert_eq!(stage.left(&request), "nothing", "{answer:?}: {}", request.story());
            check_left(&stage, &payer, &request);
        }
    }
}

// ------------------------------------------------------------------------------------------------- two at a time

#[test]
fn a_second_request_waits_for_the_first_and_goes_on_with_the_next_total() {
    for is_deposit in [false, true] {
        let (mut stage, payer) = opened();
        let mut first = stage.start(&paid("/weather", &payer.voucher(PRICE)));
        let next = if is_deposit { payer.deposit(2 * PRICE, DEPOSIT, 1) } else { payer.voucher(2 * PRICE) };
        let mut second = stage.start(&paid("/weather", &next));
        if is_deposit {
            stage.step(&mut second, payer.verified(DEPOSIT, 0));
        }
        assert!(second.story().ends_with("reserve Busy, pause"), "{}", second.story());
        stage.step(&mut second, Event::Tick);
        assert!(second.is_pausing(), "{}", second.story());
        stage.step(&mut first, upstream(200));
        stage.step(&mut second, Event::Tick);
        assert!(second.forwarded.is_some(), "{}", second.story());
        stage.step(&mut second, upstream(200));
        if is_deposit {
            stage.step(&mut second, payer.settled(DEPOSIT, 2 * DEPOSIT, 0));
        }
        assert_eq!(outcome(&second), Outcome::Served);
        assert_eq!(books(&stage, &payer).unwrap().0, 2 * PRICE);
        check_left(&stage, &payer, &second);
    }
}

#[test]
fn what_a_request_heard_before_its_turn_does_not_count_once_the_channel_is_given_back() {
    for is_deposit in [false, true] {
        let (mut stage, payer) = charged();
        let head = match is_deposit {
            true => paid("/weather", &payer.deposit(2 * PRICE, DEPOSIT, 2)),
            false => paid("/weather", &payer.voucher(2 * PRICE)),
        };
        let mut first = stage.start(&paid("/weather", &payer.voucher(2 * PRICE)));
        assert!(first.is_at_upstream(), "{}", first.story());
        stage.meddle(payer.id, u64::MAX, &Operation::Renew);
        let mut second = stage.start(&head);
        if second.call.is_some() {
            stage.step(&mut second, payer.verified(DEPOSIT, 0));
        }
        assert!(second.story().ends_with("reserve Busy, pause"), "{}", second.story());
        stage.step(&mut first, upstream(200));
        // All is claimed, and the rest given back.
        let until = UnixTime::from_secs(stage.now + 60);
        assert!(matches!(
            stage.meddle(payer.id, u64::MAX, &Operation::BeginRefund { until }),
            channel::Answer::Row(row) if row.charged == 2 * PRICE
        ));
        let at = UnixTime::from_secs(stage.now);
        let chain = OnChain { balance: 2 * PRICE, total_claimed: 2 * PRICE, at, ..OnChain::default() };
        stage.meddle(payer.id, u64::MAX, &Operation::Refunded { chain });
        stage.step(&mut second, Event::Tick);
        assert_eq!((second.status(), second.reason()), (402, STALE), "{}", second.story());
        assert!(second.forwarded.is_none());
    }
}

#[test]
fn a_second_request_gives_up_or_leaves_or_is_corrected() {
    for is_deposit in [false, true] {
        let payment = |payer: &ChannelPayer, max| match is_deposit {
            true => payer.deposit(max, DEPOSIT, 1),
            false => payer.voucher(max),
        };
        let begin = || {
            let (mut stage, payer) = opened();
            let first = stage.start(&paid("/weather", &payer.voucher(PRICE)));
            (stage, payer, first)
        };
        let wait = |stage: &mut Stage, payer: &ChannelPayer, max| {
            let mut second = stage.start(&paid("/weather", &payment(payer, max)));
            if is_deposit {
                stage.step(&mut second, payer.verified(DEPOSIT, 0));
            }
            assert!(second.is_pausing(), "{}", second.story());
            second
        };
        // It gives up.
        let (mut stage, payer, mut first) = begin();
        let mut second = wait(&mut stage, &payer, 2 * PRICE);
        while second.is_pausing() {
            stage.step(&mut second, Event::Tick);
        }
        assert_eq!((second.status(), second.reason(), stage.now), (402, BUSY, NOW + 3), "{}", second.story());
        assert_eq!(stage.left(&second), "nothing");
        stage.step(&mut first, upstream(200));
        assert_eq!(outcome(&first), Outcome::Served);
        // Its client leaves.
        let (mut stage, payer, mut first) = begin();
        let mut second = wait(&mut stage, &payer, 2 * PRICE);
        stage.step(&mut second, Event::Ended);
        assert_eq!((outcome(&second), stage.left(&second)), (Outcome::Left, "nothing"), "{}", second.story());
        stage.step(&mut first, upstream(200));
        assert_eq!(outcome(&first), Outcome::Served);
        // It is for the same total: whoever asks twice at once has not lost a response.
        let (mut stage, payer, mut first) = begin();
        let mut second = wait(&mut stage, &payer, PRICE);
        stage.step(&mut first, upstream(200));
        stage.step(&mut second, Event::Tick);
        assert_eq!((second.status(), second.reason()), (402, STALE), "{}", second.story());
        assert_eq!(corrected(&second)["channelState"]["chargedCumulativeAmount"], "1000");
        check_left(&stage, &payer, &second);
        assert_eq!((books(&stage, &payer).unwrap().0, stage.left(&second)), (PRICE, "nothing"));
        // The first one fails, and the same voucher serves the second.
        let (mut stage, payer, mut first) = begin();
        let mut second = wait(&mut stage, &payer, PRICE);
        stage.step(&mut first, upstream(500));
        stage.step(&mut second, Event::Tick);
        assert!(second.forwarded.is_some(), "{}", second.story());
        stage.step(&mut second, upstream(500));
        check_left(&stage, &payer, &second);
    }
}

// ----------------------------------------------------------------------------------------------------------- streams

const BODY: &str = r#"{"model":"gpt-4o","messages":[],"max_tokens":50,"stream":true}"#;

fn post(payment: &Value) -> RequestHead {
    head("POST", "/chat", &[("payment-signature", &encode(payment))])
}

fn body() -> Event {
    Event::RequestBody(Body::Whole(BODY.as_bytes().to_vec()))
}

fn streams() -> Event {
    let Event::Upstream(head) = upstream(200) else { panic!("a response") };
    Event::Upstream(UpstreamHead { is_event_stream: true, ..head })
}

fn chunk(text: &str, is_last: bool) -> Event {
    Event::ResponseChunk { bytes: text.as_bytes().to_vec(), is_last }
}

const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":30,\"total_tokens\":50}}\n\n";
/// What that costs.
const COST: u128 = 350;

/// A stage, a client of `/chat`, and what its request costs at most. The channel holds so much.
fn chatting(balance: u128) -> (Stage, ChannelPayer, u128) {
    let mut stage = stage();
    let accepted = entry(&mut stage, &head("POST", "/chat", &[]), [body()]);
    let payer = ChannelPayer::new(1, 0, &accepted);
    let most = accepted["amount"].as_str().unwrap().parse().unwrap();
    if balance > 0 {
        let refused = post(&payer.voucher(most));
        play(&mut stage, &payer, &refused, [body(), payer.verified(balance, 0), upstream(500)]);
    }
    (stage, payer, most)
}

fn tail(request: &Request) -> Value {
    let tail = request.tail.as_ref().expect("an end");
    decode(&tail.trailers.iter().find(|(name, _)| *name == "payment-response").expect("a receipt").1)
}

#[test]
fn a_stream_is_charged_at_its_end_with_nothing_in_the_way() {
    let (mut stage, payer, most) = chatting(100_000);
    let events = [body(), streams(), chunk(WORD, false), chunk(USAGE, false), chunk("data: [DONE]\n\n", true)];
    let request = play(&mut stage, &payer, &post(&payer.voucher(most)), events);
    assert_eq!(
        request.story(),
        "read 1048576 | reserve Reserved, forward | extend Granted, deliver with receipt | charge Granted, = served, finish"
    );
    assert_eq!(tail(&request)["extra"]["chargedAmount"], COST.to_string());
    assert_eq!(books(&stage, &payer), Some((COST, most, 100_000)));
}

#[test]
fn a_stream_whose_client_leaves_is_charged_for_what_came() {
    let (mut stage, payer, most) = chatting(100_000);
    let events = [body(), streams(), chunk(WORD, false), Event::Ended];
    let request = play(&mut stage, &payer, &post(&payer.voucher(most)), events);
    assert_eq!(outcome(&request), Outcome::Billed, "{}", request.story());
    let (charged, ..) = books(&stage, &payer).unwrap();
    assert!(charged > 0 && charged <= most, "{charged}");
    // The proxy gives up on one that has not begun: nothing is due.
    let (mut stage, payer, most) = chatting(100_000);
    let request = play(&mut stage, &payer, &post(&payer.voucher(most)), [body(), streams(), chunk("", true)]);
    assert_eq!((outcome(&request), books(&stage, &payer).unwrap().0), (Outcome::Served, 0), "{}", request.story());
}

#[test]
fn a_stream_holds_its_channel_for_as_long_as_it_lasts() {
    for by_tick in [false, true] {
        let (mut stage, payer, most) = chatting(100_000);
        let mut request = stage.start(&post(&payer.voucher(most)));
        for event in [body(), streams(), chunk(WORD, false)] {
            stage.step(&mut request, event);
        }
        for _ in 0..10 {
            let until = record(&stage, &payer).hold.unwrap().until.as_secs();
            let due = request.wakes_at().unwrap();
            assert_eq!(due, until - 30);
            stage.now = due - 1;
            if by_tick {
                stage.step(&mut request, Event::Tick);
            } else {
                stage.now += 1;
                stage.step(&mut request, chunk(WORD, false));
            }
            let renewed = record(&stage, &payer).hold.unwrap().until.as_secs();
            assert!(renewed > until, "{}", request.story());
            assert!(request.wakes_at().unwrap() > due);
        }
        for event in [chunk(USAGE, false), chunk("data: [DONE]\n\n", true)] {
            stage.step(&mut request, event);
        }
        assert_eq!(
            (outcome(&request), books(&stage, &payer).unwrap().0),
            (Outcome::Served, COST),
            "{}",
            request.story()
        );
        check_left(&stage, &payer, &request);
    }
}

#[test]
fn a_stream_whose_channel_went_to_another_request_is_not_begun_or_broken_off() {
    let take_over = |stage: &mut Stage, payer: &ChannelPayer, most| {
        stage.now = record(stage, payer).hold.unwrap().until.as_secs();
        let chain = OnChain { at: UnixTime::from_secs(stage.now), ..record(stage, payer).chain };
        stage.meddle(payer.id, u64::MAX, &Operation::Refresh { chain });
        let mut other = stage.start(&post(&payer.voucher(most)));
        stage.step(&mut other, body());
        assert!(other.forwarded.is_some(), "{}", other.story());
        other
    };
    // Before it begins.
    let (mut stage, payer, most) = chatting(100_000);
    let mut slow = stage.start(&post(&payer.voucher(most)));
    stage.step(&mut slow, body());
    let mut other = take_over(&mut stage, &payer, most);
    stage.step(&mut slow, streams());
    assert_eq!((slow.status(), slow.is_over()), (503, true), "{}", slow.story());
    for event in [streams(), chunk(USAGE, true)] {
        stage.step(&mut other, event);
    }
    assert_eq!(books(&stage, &payer).unwrap().0, COST);
    // While it streams, which takes a worker that stood still.
    let (mut stage, payer, most) = chatting(100_000);
    let mut slow = stage.start(&post(&payer.voucher(most)));
    for event in [body(), streams(), chunk(WORD, false)] {
        stage.step(&mut slow, event);
    }
    let mut other = take_over(&mut stage, &payer, most);
    stage.step(&mut slow, chunk(WORD, false));
    assert!(slow.is_over() && slow.story().contains(", cut, "), "{}", slow.story());
    assert_eq!(outcome(&slow), Outcome::Unknown);
    for event in [streams(), chunk(USAGE, true)] {
        stage.step(&mut other, event);
    }
    assert_eq!(books(&stage, &payer).unwrap().0, COST);
    // Where the other one did not use it up, what was given is charged all the same.
    let (mut stage, payer, most) = chatting(100_000);
    let mut slow = stage.start(&post(&payer.voucher(most)));
    for event in [body(), streams(), chunk(WORD, false)] {
        stage.step(&mut slow, event);
    }
    let mut other = take_over(&mut stage, &payer, most);
    stage.step(&mut other, upstream(500));
    stage.step(&mut slow, chunk(WORD, false));
    assert!(slow.is_over(), "{}", slow.story());
    assert!(books(&stage, &payer).unwrap().0 > 0, "{}", slow.story());
    check_left(&stage, &payer, &slow);
}

#[test]
fn a_stream_whose_payer_withdraws_is_broken_off_and_charged() {
    let (mut stage, payer, most) = chatting(100_000);
    let mut request = stage.start(&post(&payer.voucher(most)));
    for event in [body(), streams(), chunk(WORD, false)] {
        stage.step(&mut request, event);
    }
    stage.now += 100;
    let withdraw_requested_at = stage.now;
    let chain = OnChain { at: UnixTime::from_secs(stage.now), withdraw_requested_at, ..record(&stage, &payer).chain };
    assert!(matches!(stage.meddle(payer.id, u64::MAX, &Operation::Confirm { chain }), channel::Answer::Granted(_)));
    stage.now = request.wakes_at().unwrap();
    stage.step(&mut request, Event::Tick);
    assert!(request.is_over() && request.story().contains("extend Withdrawing"), "{}", request.story());
    assert_eq!(outcome(&request), Outcome::Billed, "{}", request.story());
    assert!(books(&stage, &payer).unwrap().0 > 0, "{}", request.story());
    check_left(&stage, &payer, &request);
}

#[test]
fn a_stream_with_a_deposit_settles_at_its_end() {
    let deposit = 50_000;
    let whole = || [streams(), chunk(WORD, false), chunk(USAGE, false), chunk("data: [DONE]\n\n", true)];
    let begin = |balance| {
        let (mut stage, payer, most) = chatting(0);
        let mut request = stage.start(&post(&payer.deposit(most, deposit, 1)));
        for event in [body(), payer.verified(balance, 0)] {
            stage.step(&mut request, event);
        }
        (stage, payer, request)
    };
    let (mut stage, payer, mut request) = begin(0);
    for event in whole() {
        stage.step(&mut request, event);
    }
    stage.step(&mut request, payer.settled(deposit, deposit, 0));
    assert_eq!(
        request.story(),
        "read 1048576 | claim granted, verify? | reserve Reserved, forward | extend Granted, open granted, deliver with \
         receipt | settle? | charge Granted, = served, finish"
    );
    assert_eq!((&tail(&request)["transaction"], &tail(&request)["amount"]), (&json!(TRANSACTION), &json!("50000")));
    assert_eq!(books(&stage, &payer).map(|(charged, _, balance)| (charged, balance)), Some((COST, deposit)));
    check_left(&stage, &payer, &request);
    // It ends before it cost anything.
    let (mut stage, payer, mut request) = begin(0);
    for event in [streams(), chunk("", true)] {
        stage.step(&mut request, event);
    }
    assert_eq!((outcome(&request), stage.left(&request)), (Outcome::Served, "nothing"), "{}", request.story());
    check_left(&stage, &payer, &request);
    // Its client leaves.
    let (mut stage, payer, mut request) = begin(0);
    for event in [streams(), chunk(WORD, false), Event::Ended, payer.settled(deposit, deposit, 0)] {
        stage.step(&mut request, event);
    }
    assert_eq!(outcome(&request), Outcome::Billed, "{}", request.story());
    assert!(books(&stage, &payer).unwrap().0 > 0);
    check_left(&stage, &payer, &request);
    // The deposit is refused: what the channel holds without it pays, as far as that goes.
    for (balance, paid) in [(0, 0), (100, 100), (100_000, COST)] {
        let (mut stage, payer, mut request) = begin(balance);
        for event in whole() {
            stage.step(&mut request, event);
        }
        stage.step(&mut request, refused(POOR));
        assert_eq!(outcome(&request), Outcome::Refused, "{}", request.story());
        assert_eq!(books(&stage, &payer).map(|(charged, _, balance)| (charged, balance)), Some((paid, balance)));
        check_left(&stage, &payer, &request);
    }
    // What became of it is not known: what was delivered is charged all the same, and the channel is free.
    let (mut stage, payer, mut request) = begin(0);
    for event in whole() {
        stage.step(&mut request, event);
    }
    stage.step(&mut request, Event::Callout(CalloutAnswer::Lost));
    assert_eq!((outcome(&request), books(&stage, &payer).unwrap().0), (Outcome::Unknown, COST), "{}", request.story());
    check_left(&stage, &payer, &request);
    let recovery = request.recovery.take().expect("it is looked into");
    stage.now += 5;
    let mut pursuit = stage.recover(recovery);
    stage.step(&mut pursuit, payer.settled(deposit, deposit, 0));
    assert_eq!(pursuit.story(), "settle? | renew Granted, = billed");
    assert_eq!(books(&stage, &payer).unwrap().0, COST, "it is charged once");
    check_left(&stage, &payer, &pursuit);
}

#[test]
fn a_charge_of_a_stream_that_is_not_recorded_is_told_of() {
    for (answer, expected, charged) in
        [(channel::Answer::Failed, Outcome::Served, COST), (channel::Answer::TooMuch, Outcome::Unknown, 0)]
    {
        let (mut stage, payer, most) = chatting(100_000);
        stage.forced_channel = Some(("charge", answer));
        let events = [body(), streams(), chunk(USAGE, false), chunk("data: [DONE]\n\n", true)];
        let request = play(&mut stage, &payer, &post(&payer.voucher(most)), events);
        assert_eq!(outcome(&request), expected, "{}", request.story());
        assert!(request.tail.is_some(), "the stream ends");
        assert_eq!(books(&stage, &payer).unwrap().0, charged);
        check_left(&stage, &payer, &request);
    }
    // The ledger does not let it begin.
    for answer in [channel::Answer::Failed, channel::Answer::NotHeld] {
        let (mut stage, payer, most) = chatting(100_000);
        stage.forced_channel = Some(("extend", answer));
        let request = play(
            &mut stage,
            &payer,
            &post(&payer.deposit(most, 1000, 1)),
            [body(), payer.verified(100_000, 0), streams()],
        );
        assert_eq!((request.status(), stage.left(&request)), (503, "nothing"), "{}", request.story());
    }
    for answer in [ledger::Answer::Failed, ledger::Answer::NotHeld] {
        let (mut stage, payer, most) = chatting(100_000);
        stage.forced = Some(("open", answer));
        let mut request = stage.start(&post(&payer.deposit(most, 1000, 1)));
        for event in [body(), payer.verified(100_000, 0), streams()] {
            stage.step(&mut request, event);
        }
        assert!(request.is_over() && request.delivered.is_none(), "{}", request.story());
        assert_eq!(record(&stage, &payer).hold, None, "{}", request.story());
    }
}

#[test]
fn a_response_that_is_read_whole_costs_what_was_used() {
    let (mut stage, payer, most) = chatting(100_000);
    let answer = r#"{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":30,"total_tokens":50}}"#;
    let whole = || Event::ResponseBody(Body::Whole(answer.as_bytes().to_vec()));
    let request = play(&mut stage, &payer, &post(&payer.voucher(most)), [body(), upstream(200), whole()]);
    assert_eq!(receipt(&request)["extra"]["chargedAmount"], COST.to_string(), "{}", request.story());
    let next = post(&payer.voucher(COST + most));
    let failed = Event::ResponseBody(Body::Whole(br#"{"error":{"message":"no"}}"#.to_vec()));
    let request = play(&mut stage, &payer, &next, [body(), upstream(200), failed]);
    assert_eq!((outcome(&request), books(&stage, &payer).unwrap().0), (Outcome::UpstreamFailed, COST));
    let request = play(&mut stage, &payer, &next, [body(), upstream(200), Event::Ended]);
    assert_eq!((outcome(&request), books(&stage, &payer).unwrap().0), (Outcome::Left, COST));
    let request = play(&mut stage, &payer, &next, [body(), upstream(200), Event::ResponseBody(Body::TooLong)]);
    assert_eq!((outcome(&request), books(&stage, &payer).unwrap().0), (Outcome::Served, COST + most));
}

// ----------------------------------------------------------------------------------------------------------- refunds

/// A client whose channel was charged for one request.
fn charged() -> (Stage, ChannelPayer) {
    let (mut stage, payer) = opened();
    play(&mut stage, &payer, &paid("/weather", &payer.voucher(PRICE)), [upstream(200)]);
    (stage, payer)
}

#[test]
fn a_refund_of_all_ends_the_channel_and_one_of_a_part_goes_on() {
    let (mut stage, payer) = charged();
    let left = DEPOSIT - PRICE;
    let part = paid("/weather", &payer.refund(PRICE, Some(2000)));
    let events = [payer.verified(DEPOSIT, 0), payer.settled(2000, DEPOSIT - 2000, PRICE)];
    let request = play(&mut stage, &payer, &part, events);
    assert_eq!(
        request.story(),
        "reserve AskFirst, verify? | reserve Reserved, settle? | refunded Granted, = refunded, reply 200"
    );
    assert_eq!(request.body(), json!({"message": "Refund acknowledged", "channelId": payer.id}));
    let told = decode(request.reply_header("payment-response").unwrap());
    assert_eq!((&told["amount"], &told["transaction"]), (&json!("2000"), &json!(TRANSACTION)));
    assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT - 2000)));
    let question: Value = serde_json::from_str(&request.calls[1].body).unwrap();
    let payload = &question["paymentPayload"]["payload"];
    assert_eq!((&payload["amount"], &payload["claims"][0]["totalClaimed"]), (&json!("2000"), &json!("1000")));
    // The rest, by a facilitator that says nothing of the channel.
    let all = paid("/weather", &payer.refund(PRICE, None));
    let request = play(&mut stage, &payer, &all, [payer.verified(DEPOSIT - 2000, PRICE), settled()]);
    assert_eq!(outcome(&request), Outcome::Refunded, "{}", request.story());
    assert_eq!(decode(request.reply_header("payment-response").unwrap())["amount"], (left - 2000).to_string());
    assert!(record(&stage, &payer).is_empty(), "nothing is left but the count");
    assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, PRICE)), "the record stays");
    assert_eq!(request.settlements.len(), 1);
    // More than there is is all that there is.
    let (mut stage, payer) = charged();
    let more = paid("/weather", &payer.refund(PRICE, Some(u128::MAX)));
    let request = play(&mut stage, &payer, &more, [payer.verified(DEPOSIT, 0), settled()]);
    assert_eq!(decode(request.reply_header("payment-response").unwrap())["amount"], left.to_string());
}

#[test]
fn who_was_verified_before_a_refund_gets_nothing_out_of_the_empty_channel() {
    let (mut stage, payer) = charged();
    // A second deposit is never sent: it only makes the facilitator be asked before the refund, and heard of after it.
    let mut late = stage.start(&paid("/weather", &payer.deposit(2 * PRICE, PRICE, 9)));
    let refund = paid("/weather", &payer.refund(PRICE, None));
    let refunded = play(&mut stage, &payer, &refund, [payer.verified(DEPOSIT, 0), settled()]);
    assert_eq!(outcome(&refunded), Outcome::Refunded, "{}", refunded.story());
    stage.step(&mut late, payer.verified(DEPOSIT, 0));
    let balance = record(&stage, &payer).chain.balance;
    assert_eq!(balance, PRICE, "news from before the refund: {}", late.story());
    let voucher = paid("/weather", &payer.voucher(3 * PRICE));
    stage.step(&mut late, Event::Ended);
    let next = stage.play(&voucher, [payer.verified(DEPOSIT, 0)]);
    assert_eq!(next.status(), 402, "{}", next.story());
}

#[test]
fn a_refund_that_does_not_come_about_leaves_the_channel_as_it_was() {
    for (events, status, reason) in [
        (vec![invalid("no")], 402, "no"),
        (vec![Event::Callout(CalloutAnswer::Lost)], 502, ""),
        (vec![valid()], 502, ""),
        (vec![charged().1.verified(DEPOSIT, 0), Event::Callout(CalloutAnswer::NotSent)], 502, ""),
        (vec![charged().1.verified(PRICE, 0)], 402, "invalid_batch_settlement_evm_refund_no_balance"),
        (vec![charged().1.verified(PRICE, PRICE)], 402, "invalid_batch_settlement_evm_refund_no_balance"),
        (vec![charged().1.verified(DEPOSIT, 0), refused(POOR)], 402, POOR),
        (vec![Event::Ended], 0, ""),
    ] {
        let (mut stage, payer) = charged();
        let request = play(&mut stage, &payer, &paid("/weather", &payer.refund(PRICE, None)), events);
        assert_eq!(request.status(), status, "{}", request.story());
        assert!(reason.is_empty() || request.reason() == reason, "{}", request.reason());
        assert_eq!(books(&stage, &payer).unwrap().0, PRICE);
        assert_eq!(record(&stage, &payer).hold, None);
    }
    let (mut stage, payer) = charged();
    for (payment, status) in
        [(payer.refund(PRICE, Some(0)), 402), (payer.refund(0, None), 402), (payer.refund(PRICE - 1, None), 402)]
    {
        let mut request = stage.start(&paid("/weather", &payment));
        if request.call.is_some() {
            stage.step(&mut request, payer.verified(DEPOSIT, 0));
        }
        assert_eq!((request.status(), request.is_over()), (status, true), "{}", request.story());
        check_left(&stage, &payer, &request);
    }
}

#[test]
fn a_refund_of_which_nothing_is_heard_sells_nothing_until_it_is_known() {
    let (mut stage, payer) = charged();
    let refund = paid("/weather", &payer.refund(PRICE, None));
    let events = [payer.verified(DEPOSIT, 0), Event::Callout(CalloutAnswer::Lost)];
    let request = stage.play(&refund, events);
    assert_eq!((outcome(&request), request.status()), (Outcome::Unknown, 502), "{}", request.story());
    assert!(record(&stage, &payer).is_outdated);
    let voucher = paid("/weather", &payer.voucher(2 * PRICE));
    let mut waits = stage.start(&voucher);
    while waits.is_pausing() || waits.call.is_some() {
        match waits.call {
            // The facilitator does not know yet.
            Some(_) => stage.step(&mut waits, payer.verified(DEPOSIT, 0)),
            None => stage.step(&mut waits, Event::Tick),
        }
    }
    assert_eq!(waits.reason(), BUSY, "{}", waits.story());
    // In the end it does.
    stage.now = record(&stage, &payer).hold.unwrap().until.as_secs();
    let request = play(&mut stage, &payer, &voucher, [payer.verified(PRICE, PRICE)]);
    assert_eq!(request.reason(), "invalid_batch_settlement_evm_cumulative_exceeds_balance", "{}", request.story());
}

#[test]
fn a_refund_whose_client_has_gone_or_whose_record_is_not_to_be_had_is_no_secret() {
    let (mut stage, payer) = charged();
    let refund = paid("/weather", &payer.refund(PRICE, None));
    let request = play(&mut stage, &payer, &refund, [payer.verified(DEPOSIT, 0), Event::Ended, settled()]);
    assert_eq!(outcome(&request), Outcome::Refunded, "{}", request.story());
    assert!(record(&stage, &payer).is_empty());
    assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, PRICE)));
    for answer in [channel::Answer::NotHeld, channel::Answer::Failed] {
        let (mut stage, payer) = charged();
        stage.forced_channel = Some(("refunded", answer));
        let request = stage.play(&refund, [payer.verified(DEPOSIT, 0), settled()]);
        assert_eq!((outcome(&request), request.status()), (Outcome::Refunded, 200), "{}", request.story());
        assert!(record(&stage, &payer).is_outdated, "the next one asks first: {}", request.story());
    }
}

// --------------------------------------------------------------------------------------------------- all the rest

#[test]
fn the_unwelcome_buy_nothing_and_get_their_money_back() {
    let (mut stage, payer) = charged();
    let mut denies = config();
    denies["payers"] = json!({"deny": [payer.config.payer.to_string()]});
    stage.config = stage_of_channels(denies).config;
    for payment in [payer.voucher(2 * PRICE), payer.deposit(2 * PRICE, DEPOSIT, 1)] {
        let request = play(&mut stage, &payer, &paid("/weather", &payment), []);
        assert_eq!(request.story(), "= refused, reply 403");
        assert_eq!(request.reason(), "payer_not_allowed");
    }
    let refund = paid("/weather", &payer.refund(PRICE, None));
    let request = play(&mut stage, &payer, &refund, [payer.verified(DEPOSIT, 0), settled()]);
    assert_eq!(outcome(&request), Outcome::Refunded, "{}", request.story());
}

#[test]
fn a_voucher_of_one_price_buys_nothing_of_another() {
    let (mut stage, payer) = opened();
    for payment in [payer.voucher(PRICE), payer.deposit(PRICE, DEPOSIT, 1)] {
        let request = play(&mut stage, &payer, &paid("/dear", &payment), []);
        assert_eq!((request.status(), asked(&request)), (402, vec![]), "{}", request.story());
    }
    // Nor does it once it is spent.
    let spent = payer.deposit(PRICE, DEPOSIT, 1);
    let events = [payer.verified(DEPOSIT, 0), upstream(200), payer.settled(DEPOSIT, 2 * DEPOSIT, 0)];
    play(&mut stage, &payer, &paid("/weather", &spent), events);
    let request = play(&mut stage, &payer, &paid("/dear", &spent), []);
    assert_eq!(request.status(), 402, "{}", request.story());
}

#[test]
fn several_facilitators_are_asked_in_turn_and_claim_by_the_gates_own_key() {
    let mut two = config();
    two["facilitators"] = json!([
        {"cluster": "one", "url": "http://one"},
        {"cluster": "two", "url": "http://two"},
    ]);
    two.as_object_mut().unwrap().remove("facilitator");
    two["channels"] = json!({"authorizer": {"key": format!("0x{}", "22".repeat(32))}});
    let lost = || Event::Callout(CalloutAnswer::Lost);
    let begin = || {
        let mut stage = stage_of_channels(two.clone());
        stage.supported.kinds.clear();
        let accepted = entry(&mut stage, &head("GET", "/weather", &[]), []);
        assert_ne!(accepted["extra"]["receiverAuthorizer"], AUTHORIZER);
        let payer = ChannelPayer::new(1, 0, &accepted);
        (stage, payer)
    };
    let clusters =
        |request: &Request| -> Vec<String> { request.calls.iter().map(|call| call.service.cluster.clone()).collect() };
    let (mut stage, payer) = begin();
    let deposit = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
    let events = [lost(), payer.verified(0, 0), upstream(200), answers_with(500, &json!({})), settled()];
    let request = play(&mut stage, &payer, &deposit, events);
    assert_eq!(clusters(&request), ["one", "two", "one", "two"], "{}", request.story());
    assert_eq!(outcome(&request), Outcome::Served);
    assert_eq!(books(&stage, &payer), Some((PRICE, PRICE, DEPOSIT)));
    let refund = paid("/weather", &payer.refund(PRICE, None));
    let request = play(&mut stage, &payer, &refund, [payer.verified(DEPOSIT, 0), settled()]);
    assert_eq!(outcome(&request), Outcome::Refunded, "{}", request.story());
    let question: Value = serde_json::from_str(&request.calls[1].body).unwrap();
    let payload = &question["paymentPayload"]["payload"];
    assert!(payload["refundAuthorizerSignature"].is_string() && payload["claimAuthorizerSignature"].is_string());
    let (mut stage, payer) = begin();
    let request = play(&mut stage, &payer, &deposit, [lost(), lost()]);
    assert_eq!((outcome(&request), stage.left(&request)), (Outcome::Unknown, "nothing"));
}

#[test]
fn a_channel_is_of_the_recipient_that_it_names() {
    let mut split = config();
    let other = "0x90F79bf6EB2c4f870365E785982E1f101E93b906";
    let first = split["defaults"]["pay_to"].clone();
    split["defaults"]["pay_to"] = json!({"split": [{"to": first}, {"to": other}]});
    let mut stage = stage_of_channels(split);
    let mut recipients = std::collections::BTreeSet::new();
    for draw in 0..40 {
        stage.draw = draw * 0x9e37_79b9;
        let accepted = entry(&mut stage, &head("GET", "/weather", &[]), []);
        let pay_to = accepted["payTo"].as_str().unwrap().to_owned();
        let payer = ChannelPayer::new(1, u8::try_from(draw).unwrap(), &accepted);
        // Whoever is drawn for the next request, the channel goes on.
        stage.draw = !stage.draw;
        let request = play(
            &mut stage,
            &payer,
            &paid("/weather", &payer.voucher(PRICE)),
            [payer.verified(DEPOSIT, 0), upstream(200)],
        );
        assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
        assert_eq!(record(&stage, &payer).config.receiver.to_string(), pay_to);
        recipients.insert(pay_to);
    }
    assert_eq!(recipients.len(), 2);
}

#[test]
fn a_payment_identifier_names_deposits_alone() {
    let mut named = config();
    named["routes"][0]["extensions"] = json!({"payment_identifier": "optional"});
    let (_, payer) = closed();
    let mut stage = stage_of_channels(named);
    let with_name = |mut payment: Value, id: &str| {
        payment["extensions"] = json!({"payment-identifier": {"info": {"required": false, "id": id}}});
        paid("/weather", &payment)
    };
    let name = "pay_0123456789abcdef";
    let head = with_name(payer.deposit(PRICE, DEPOSIT, 1), name);
    // Its name is free again where it buys nothing.
    let request = play(&mut stage, &payer, &head, [payer.verified(0, 0), upstream(500)]);
    assert_eq!(outcome(&request), Outcome::UpstreamFailed, "{}", request.story());
    let events = [payer.verified(0, 0), upstream(200), payer.settled(DEPOSIT, DEPOSIT, 0)];
    let request = play(&mut stage, &payer, &head, events);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    let request = play(&mut stage, &payer, &with_name(payer.deposit(2 * PRICE, DEPOSIT, 2), name), []);
    assert_eq!((request.status(), request.reason()), (409, "payment_identifier_conflict"), "{}", request.story());
    // Of a voucher, the total is the name: it buys one response whatever it is called.
    for max in [2 * PRICE, 3 * PRICE] {
        let request = play(&mut stage, &payer, &with_name(payer.voucher(max), name), [upstream(200)]);
        assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    }
    assert_eq!(books(&stage, &payer).unwrap().0, 3 * PRICE);
}

#[test]
fn in_shadow_nothing_of_a_channel_is_taken() {
    let (_, payer) = closed();
    let withdrawing = payer.verified_withdrawing(DEPOSIT, 0);
    for (payment, events, word, calls) in [
        (payer.voucher(PRICE), vec![payer.verified(DEPOSIT, 0)], "shadow_served", 1),
        (payer.voucher(PRICE), vec![invalid("no")], "shadow_refused", 1),
        (payer.voucher(PRICE), vec![valid()], "shadow_unknown", 1),
        (payer.voucher(PRICE), vec![withdrawing], "shadow_refused", 1),
        (payer.voucher(PRICE), vec![payer.verified(1, 0)], "shadow_refused", 1),
        (payer.deposit(PRICE, DEPOSIT, 1), vec![payer.verified(0, 0)], "shadow_served", 1),
        (payer.deposit(PRICE, DEPOSIT, 1), vec![invalid("no")], "shadow_refused", 1),
        (payer.refund(PRICE, None), vec![payer.verified(DEPOSIT, 0)], "shadow_refunded", 1),
        (payer.refund(PRICE, None), vec![payer.verified(PRICE, 0)], "shadow_refused", 1),
        (payer.refund(PRICE, None), vec![Event::Callout(CalloutAnswer::Lost)], "shadow_unknown", 1),
    ] {
        let mut config = config();
        config["mode"] = "shadow".into();
        let mut stage = stage_of_channels(config);
        let mut request = stage.start(&paid("/weather", &payment));
        for event in events {
            assert!(request.forwarded.is_none(), "{}", request.story());
            stage.step(&mut request, event);
        }
        assert!(request.is_over(), "it hangs: {}", request.story());
        let edits = request.forwarded.as_ref().expect("it passes");
        assert!(edits.set.is_empty() && request.reply.is_none(), "{}", request.story());
        assert_eq!(request.record.as_ref().unwrap().outcome_word(), word, "{}", request.story());
        assert_eq!(asked(&request), vec!["/verify"; calls]);
        assert!(stage.store.0.is_empty() && request.settlements.is_empty() && request.recovery.is_none());
        stage.step(&mut request, upstream(200));
        assert!(request.delivered.unwrap().set.is_empty());
    }
    // Its client leaves while it is looked into.
    let mut config = config();
    config["mode"] = "shadow".into();
    let mut stage = stage_of_channels(config);
    let request = stage.play(&paid("/weather", &payer.voucher(PRICE)), [Event::Ended]);
    assert!(request.is_over() && stage.store.0.is_empty(), "{}", request.story());
}

// ------------------------------------------------------------------------------------------- whatever happens

/// A way to pay out of a channel, and what happens then.
type Scene = (&'static str, fn() -> (Stage, ChannelPayer, RequestHead, Vec<Event>));

fn scenes() -> Vec<Scene> {
    vec![
        ("deposit", || {
            let (stage, payer) = closed();
            let head = paid("/weather", &payer.deposit(PRICE, DEPOSIT, 1));
            let events = vec![payer.verified(0, 0), upstream(200), payer.settled(DEPOSIT, DEPOSIT, 0)];
            (stage, payer, head, events)
        }),
        ("voucher", || {
            let (stage, payer) = opened();
            let head = paid("/weather", &payer.voucher(PRICE));
            (stage, payer, head, vec![upstream(200)])
        }),
        ("voucher of an unknown channel", || {
            let (stage, payer) = closed();
            let head = paid("/weather", &payer.voucher(PRICE));
            let events = vec![payer.verified(DEPOSIT, 0), upstream(200)];
            (stage, payer, head, events)
        }),
        ("repeat", || {
            let (stage, payer) = charged();
            let head = paid("/weather", &payer.voucher(PRICE));
            (stage, payer, head, vec![upstream(200)])
        }),
        ("whole response", || {
            let (stage, payer, most) = chatting(100_000);
            let head = post(&payer.voucher(most));
            let answer = format!("{}{}", r#"{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":"#, "30}}");
            let whole = Event::ResponseBody(Body::Whole(answer.into_bytes()));
            (stage, payer, head, vec![body(), upstream(200), whole])
        }),
        ("stream", || {
            let (stage, payer, most) = chatting(100_000);
            let head = post(&payer.voucher(most));
            (stage, payer, head, vec![body(), streams(), chunk(WORD, false), chunk(USAGE, true)])
        }),
        ("stream with a deposit", || {
            let (stage, payer, most) = chatting(0);
            let head = post(&payer.deposit(most, 50_000, 1));
            let settled = payer.settled(50_000, 50_000, 0);
            let verified = payer.verified(0, 0);
            let events = vec![body(), verified, streams(), chunk(WORD, false), chunk(USAGE, true), settled];
            (stage, payer, head, events)
        }),
        ("refund", || {
            let (stage, payer) = charged();
            let head = paid("/weather", &payer.refund(PRICE, None));
            let settled = payer.settled(DEPOSIT - PRICE, PRICE, PRICE);
            let events = vec![payer.verified(DEPOSIT, 0), settled];
            (stage, payer, head, events)
        }),
    ]
}

/// What holds of every request that is over.
fn check_end(what: &str, stage: &Stage, payer: &ChannelPayer, request: &Request, before: u128) {
    assert!(request.is_over(), "{what} is not over: {}", request.story());
    check_left(stage, payer, request);
    let record = stage.channel(payer.id);
    let charged = record.map_or(before, |record| record.charged);
    let is_free = receipt_of(request).is_some_and(|receipt| {
        let extra = &receipt["extra"];
        extra["chargedAmount"] == "0" || request.story().contains("reserve Repeat")
    });
    assert!(charged >= before);
    let has_goods = request.delivered.as_ref().is_some_and(|edits| !edits.set.is_empty());
    if has_goods && request.tail.is_none() && outcome(request) == Outcome::Served {
        assert!(charged > before || is_free, "{what}: given for nothing: {}", request.story());
    }
    if charged > before {
        assert!(has_goods || outcome(request) == Outcome::Billed, "{what}: charged for nothing: {}", request.story());
    }
}

fn receipt_of(request: &Request) -> Option<Value> {
    request.receipt_header("payment-response").map(decode)
}

#[test]
fn a_client_may_leave_at_any_point() {
    for (name, scene) in scenes() {
        let steps = scene().3.len();
        for at in 0..=steps {
            let (mut stage, payer, head, events) = scene();
            let before = books(&stage, &payer).map_or(0, |(charged, ..)| charged);
            let mut request = stage.start(&head);
            for (index, event) in events.into_iter().enumerate() {
                if index == at {
                    stage.step(&mut request, Event::Ended);
                }
                // What is under way is answered all the same; of the upstream nothing more is heard.
                if index < at || request.call.is_some() && matches!(event, Event::Callout(_)) {
                    stage.step(&mut request, event);
                }
            }
            check_end(&format!("{name}, left at {at}"), &stage, &payer, &request, before);
        }
    }
}

#[test]
fn the_facilitator_may_say_anything_at_any_point() {
    for (name, scene) in scenes() {
        let steps = scene().3.len();
        for at in (0..steps).filter(|at| matches!(scene().3[*at], Event::Callout(_))) {
            for said in [
                Event::Callout(CalloutAnswer::Lost),
                Event::Callout(CalloutAnswer::NotSent),
                answers_with(500, &json!({})),
                answers(&json!({})),
                answers(&json!([])),
                valid(),
                invalid("no"),
                settled(),
                refused(POOR),
                refused("settlement_pending"),
                answers(&json!({"isValid": true, "extra": {"channelState": {}}})),
                answers(&json!({"success": true, "transaction": TRANSACTION, "network": "eip155:1"})),
                answers(&json!({"success": true, "transaction": "", "network": "eip155:84532"})),
            ] {
                let (mut stage, payer, head, events) = scene();
                let before = books(&stage, &payer).map_or(0, |(charged, ..)| charged);
                let what = format!("{name}, at {at} {said:?}");
                let mut request = stage.start(&head);
                for (index, event) in events.into_iter().enumerate() {
                    let event = if index == at { said.clone() } else { event };
                    let is_awaited = match event {
                        Event::Callout(_) => request.call.is_some(),
                        Event::Upstream(_) => request.is_at_upstream(),
                        _ => !request.is_over(),
                    };
                    if is_awaited {
                        stage.step(&mut request, event);
                    }
                    // It asks again for as long as it has patience.
                    for _ in 0..100 {
                        if request.is_pausing() && request.call.is_none() && !request.is_at_upstream() {
                            stage.step(&mut request, Event::Tick);
                        } else if request.call.is_some()
                            && index == at
                            && request.wakes_at().is_none()
                            && stage.now > NOW
                        {
                            stage.step(&mut request, said.clone());
                        }
                    }
                }
                while request.call.is_some() {
                    stage.step(&mut request, Event::Callout(CalloutAnswer::Lost));
                }
                // Of a refund nothing is sold until it is known.
                if name == "refund" && outcome(&request) == Outcome::Unknown {
                    assert!(request.is_over(), "{what}: {}", request.story());
                    continue;
                }
                if request.is_at_upstream() {
                    stage.step(&mut request, Event::Ended);
                }
                check_end(&what, &stage, &payer, &request, before);
            }
        }
    }
}

#[test]
fn the_ledger_may_say_anything_at_any_point() {
    let (stage, payer) = charged();
    let standing = record(&stage, &payer).standing();
    let answers = [
        channel::Answer::AskFirst,
        channel::Answer::Busy,
        channel::Answer::Stale(standing),
        channel::Answer::TooLate(standing),
        channel::Answer::Withdrawing,
        channel::Answer::OverBalance,
        channel::Answer::BelowClaimed,
        channel::Answer::NotHeld,
        channel::Answer::TooMuch,
        channel::Answer::Full,
        channel::Answer::Failed,
    ];
    for (name, scene) in scenes() {
        // What is not heard of a refund is another story.
        for operation in ["reserve", "extend", "charge"] {
            for answer in &answers {
                let (mut stage, payer, head, events) = scene();
                let before = books(&stage, &payer).map_or(0, |(charged, ..)| charged);
                let what = format!("{name}, {operation} {answer:?}");
                stage.forced_channel = Some((operation, answer.clone()));
                let mut request = stage.start(&head);
                for event in events {
                    let is_awaited = match event {
                        Event::Callout(_) => request.call.is_some(),
                        Event::Upstream(_) => request.is_at_upstream(),
                        _ => !request.is_over(),
                    };
                    if is_awaited {
                        stage.step(&mut request, event);
                    }
                    for _ in 0..5 {
                        if request.is_pausing() && !request.is_at_upstream() && request.delivered.is_none() {
                            stage.step(&mut request, Event::Tick);
                        }
                    }
                    if request.call.as_ref().is_some_and(|call| call.kind == CallKind::Verify) && operation == "reserve"
                    {
                        stage.step(&mut request, payer.verified(100_000, 0));
                    }
                }
                check_end(&what, &stage, &payer, &request, before);
            }
        }
    }
}
