//! Responses that leave before their payments settle, within bounds, and payers who owe for one.

use crate::common::{
    Request, Stage, TRANSACTION, Wallet, answers_with, base_config, decode, head, invalid, paid, refused, settled,
    upstream, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::exchange::{Event, Outcome, SettlementResult};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::ledger::exposure::Answer;
use x402_proxy_wasm::time::UnixTime;

/// `/weather` for $0.001, with room for three of one payer and five of all.
fn config() -> Value {
    let mut config = base_config();
    config["defaults"]["settle"] = "optimistic".into();
    config["defaults"]["exposure"] = json!({"payer": "$0.003", "total": "$0.005"});
    config["facilitator"]["verify"] = "local".into();
    config
}

fn stage() -> Stage {
    Stage::new(&config())
}

fn pay_for(stage: &mut Stage, path: &str, wallet: u8, nonce: u8) -> Value {
    let unpaid = stage.start(&head("GET", path, &[]));
    let entry = decode(unpaid.reply_header("payment-required").unwrap())["accepts"][0].clone();
    Wallet::new(wallet).pay(&entry, nonce)
}

fn buy(stage: &mut Stage, wallet: u8, nonce: u8, events: impl IntoIterator<Item = Event>) -> Request {
    let payment = pay_for(stage, "/weather", wallet, nonce);
    stage.play(&paid("/weather", &payment), events)
}

fn open(stage: &mut Stage) -> u128 {
    let exposed = stage.config.exposed();
    let [(network, asset)] = &exposed[..] else { panic!("{exposed:?}") };
    let now = UnixTime::from_secs(stage.now);
    x402_proxy_wasm::ledger::exposure::open_of_all(&mut stage.store, &stage.secret, network, asset, now).unwrap()
}

fn receipt(request: &Request) -> Value {
    decode(request.receipt_header("payment-response").unwrap())
}

fn outcome(record: Option<&x402_proxy_wasm::exchange::Record>) -> Option<Outcome> {
    record.map(|record| record.outcome)
}

/// A payer who has been served, and whose payment was refused.
fn debtor(stage: &mut Stage, wallet: u8) {
    let request = buy(stage, wallet, 99, [upstream(200), refused("insufficient_funds")]);
    assert_eq!(outcome(request.aftermath.as_ref()), Some(Outcome::Lost));
}

// ------------------------------------------------------------------------------------------------------ on trust

#[test]
fn the_response_leaves_before_the_money_moves() {
    let mut stage = stage();
    let mut request = buy(&mut stage, 1, 1, [upstream(200)]);
    assert_eq!(request.story(), "claim granted, forward | open granted, = served, settle?, deliver with receipt");
    let told = receipt(&request);
    assert_eq!(told["success"], true);
    assert_eq!(told["transaction"], "");
    assert_eq!(told["extra"], json!({"settlement": "pending"}));
    assert_eq!(request.reason(), "settlement_pending");
    assert_eq!((open(&mut stage), stage.left(&request)), (1000, "spent"));
    assert!(!request.is_over());

    stage.step(&mut request, Event::Ended);
    stage.step(&mut request, settled());
    assert!(request.is_over() && request.recovery.is_none());
    assert_eq!(request.settlements[0].result, SettlementResult::Settled);
    let aftermath = request.aftermath.as_ref().unwrap();
    assert_eq!(aftermath.outcome, Outcome::SettledLater);
    assert_eq!(aftermath.payment.as_ref().unwrap().transaction.unwrap().to_string(), TRANSACTION);
    assert_eq!((open(&mut stage), stage.left(&request)), (0, "spent"));
}

#[test]
fn what_has_yet_to_be_verified_is_before_it_is_served() {
    let mut remote = config();
    remote["facilitator"]["verify"] = "remote".into();
    let mut permit = config();
    permit["defaults"]["accepts"][0]["transfer_method"] = "permit2".into();
    for config in [remote, permit] {
        let mut stage = Stage::new(&config);
        let request = buy(&mut stage, 1, 1, [valid(), upstream(200)]);
        let story = "claim granted, verify? | forward | open granted, = served, settle?, deliver with receipt";
        assert_eq!(request.story(), story);
        let refused = buy(&mut stage, 1, 2, [invalid("insufficient_funds")]);
        assert_eq!((refused.status(), refused.reason()), (402, "insufficient_funds"));
        assert_eq!(open(&mut stage), 1000);
    }
}

#[test]
fn a_payment_buys_one_response_while_its_settlement_is_pending_too() {
    let mut stage = stage();
    let payment = pay_for(&mut stage, "/weather", 1, 1);
    let mut first = stage.start(&paid("/weather", &payment));
    let second = stage.start(&paid("/weather", &payment));
    assert_eq!(second.status(), 409);
    stage.step(&mut first, upstream(200));
    for _ in 0..2 {
        let second = stage.start(&paid("/weather", &payment));
        assert_eq!((second.status(), outcome(second.record.as_ref())), (402, Some(Outcome::Spent)));
        assert_eq!(open(&mut stage), 1000);
    }
    stage.step(&mut first, settled());
    assert_eq!(stage.start(&paid("/weather", &payment)).status(), 402);
}

#[test]
fn an_error_of_the_upstream_or_a_client_that_leaves_leaves_nothing_open() {
    let mut stage = stage();
    let payment = pay_for(&mut stage, "/weather", 1, 1);
    for events in [vec![upstream(500)], vec![Event::Ended], vec![Event::Redirected]] {
        let mut request = stage.start(&paid("/weather", &payment));
        assert_eq!(open(&mut stage), 1000);
        for event in events {
            stage.step(&mut request, event);
        }
        assert!(request.is_over() && request.calls.is_empty());
        assert_eq!((open(&mut stage), stage.left(&request)), (0, "nothing"));
    }
}

#[test]
fn beyond_a_bound_the_response_waits_for_its_settlement() {
    let mut stage = stage();
    let after = "claim granted, forward | settle granted, settle? | spend granted, = served, deliver with receipt";
    let mut pending: Vec<Request> = (1..=3).map(|nonce| buy(&mut stage, 1, nonce, [upstream(200)])).collect();
    assert!(pending.iter().all(|request| request.delivered.is_some()));
    assert_eq!(buy(&mut stage, 1, 4, [upstream(200), settled()]).story(), after);
    // Another payer has room yet, until nobody has.
    pending.extend((1..=2).map(|nonce| buy(&mut stage, 2, nonce, [upstream(200)])));
    assert!(pending.iter().all(|request| request.delivered.is_some()));
    assert_eq!(buy(&mut stage, 3, 1, [upstream(200), settled()]).story(), after);
    assert_eq!(open(&mut stage), 5000);
    // What settles makes room.
    for mut request in pending {
        stage.step(&mut request, settled());
    }
    assert_eq!(open(&mut stage), 0);
    assert!(buy(&mut stage, 3, 2, [upstream(200)]).delivered.is_some());
}

#[test]
fn what_a_crash_leaves_behind_lapses() {
    let mut stage = stage();
    for nonce in 1..=3 {
        buy(&mut stage, 1, nonce, [upstream(200)]);
    }
    stage.now += 300 + 60 + 64;
    assert_eq!(open(&mut stage), 0);
}

#[test]
fn a_payment_that_is_about_to_end_waits_for_its_settlement() {
    let mut stage = stage();
    let payment = pay_for(&mut stage, "/weather", 1, 1);
    let mut request = stage.start(&paid("/weather", &payment));
    stage.now += 299;
    stage.step(&mut request, upstream(200));
    assert_eq!(request.story(), "claim granted, forward | settle granted, settle?");
    assert_eq!(open(&mut stage), 0);
    stage.step(&mut request, refused("invalid_exact_evm_payload_authorization_valid_before"));
    assert_eq!(request.status(), 402);
    assert!(request.aftermath.is_none());
}

#[test]
fn schemes_that_do_not_go_on_trust_are_served_as_under_after() {
    let mut config = config();
    config["defaults"]["accepts"][0]["scheme"] = "upto".into();
    config["defaults"]["accepts"].as_array_mut().unwrap().push(base_config()["defaults"]["accepts"][0].clone());
    let mut stage = Stage::new(&config);
    let request = buy(&mut stage, 1, 1, [valid(), upstream(200), settled()]);
    let story =
        "claim granted, verify? | forward | settle granted, settle? | spend granted, = served, deliver with receipt";
    assert_eq!(request.story(), story);
    assert!(request.exposures.is_empty());
}

#[test]
fn in_shadow_nothing_is_reserved() {
    let mut config = config();
    config["mode"] = "shadow".into();
    let mut enforced = stage();
    let payment = pay_for(&mut enforced, "/weather", 1, 1);
    let mut stage = Stage::new(&config);
    let request = stage.start(&paid("/weather", &payment));
    assert!(request.forwarded.is_some() && request.is_over() && request.exposures.is_empty());
    assert_eq!(request.record.unwrap().outcome_word(), "shadow_served");
    assert_eq!(open(&mut stage), 0);
}

#[test]
fn who_has_paid_on_trust_may_come_back_once_it_has_settled() {
    let mut config = config();
    config["routes"][0]["extensions"] = json!({"sign_in_with_x": {"lasts": "3600s"}});
    let mut stage = Stage::new(&config);
    let mut request = buy(&mut stage, 1, 1, [upstream(200)]);
    assert!(!request.story().contains("note"), "{}", request.story());
    stage.step(&mut request, settled());
    assert!(request.is_over() && request.story().ends_with("note granted"), "{}", request.story());
    let lost = buy(&mut stage, 2, 1, [upstream(200), refused("insufficient_funds")]);
    assert!(!lost.story().contains("note"), "{}", lost.story());
}

// -------------------------------------------------------------------------------------------- what is not heard

#[test]
fn a_settlement_that_goes_unheard_is_pursued_and_stays_open_meanwhile() {
    let mut stage = stage();
    let lost = || Event::Callout(CalloutAnswer::Lost);
    let request = buy(&mut stage, 1, 1, [upstream(200), lost()]);
    assert!(request.is_over());
    assert_eq!(outcome(request.aftermath.as_ref()), Some(Outcome::Unknown));
    let recovery = request.recovery.clone().unwrap();
    // Unknown is not refused: its payer owes nothing, and is served within the bounds.
    assert!(buy(&mut stage, 1, 2, [upstream(200), settled()]).delivered.is_some());
    stage.now += 200;
    assert_eq!(open(&mut stage), 1000);
    let mut again = stage.recover(recovery);
    assert_eq!(again.story(), "settle?");
    stage.step(&mut again, lost());
    assert!(again.aftermath.is_none(), "the log says it once");
    let mut again = stage.recover(again.recovery.clone().unwrap());
    stage.step(&mut again, settled());
    assert_eq!(outcome(again.aftermath.as_ref()), Some(Outcome::SettledLater));
    assert_eq!((open(&mut stage), stage.left(&request)), (0, "spent"));
}

#[test]
fn what_stays_unknown_counts_for_a_day() {
    let mut stage = stage();
    let request = buy(&mut stage, 1, 1, [upstream(200), answers_with(500, &json!({}))]);
    stage.now += 3600;
    assert_eq!(open(&mut stage), 1000);
    let mut late = stage.recover(request.recovery.unwrap());
    stage.step(&mut late, refused("invalid_exact_evm_payload_authorization_valid_before"));
    assert!(late.recovery.is_none());
    assert_eq!(outcome(late.aftermath.as_ref()), Some(Outcome::Unknown));
    assert_eq!(open(&mut stage), 1000);
    stage.now += 24 * 3600 + 4096;
    assert_eq!(open(&mut stage), 0);
}

// --------------------------------------------------------------------------------------------------- who owes

#[test]
fn a_payment_that_is_refused_after_its_response_is_owed() {
    let mut stage = stage();
    let request = buy(&mut stage, 1, 1, [upstream(200), refused("insufficient_funds")]);
    assert!(request.is_over() && request.delivered.is_some() && request.reply.is_none());
    assert_eq!(request.settlements[0].result, SettlementResult::Refused);
    let aftermath = request.aftermath.as_ref().unwrap();
    assert_eq!((aftermath.outcome, aftermath.reason.as_str()), (Outcome::Lost, "insufficient_funds"));
    assert_eq!((open(&mut stage), stage.left(&request)), (1000, "spent"));

    // The next payment pays that, and says so; the one after it buys again.
    let second = buy(&mut stage, 1, 2, [settled()]);
    assert_eq!(second.story(), "claim granted, settle granted, settle? | spend granted, = repaid, reply 402");
    let error = decode(second.reply_header("payment-required").unwrap())["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("payment_owed: this payment has settled, and paid 1000 atomic units"), "{error}");
    assert!(error.ends_with("nothing more is owed: pay for this request"), "{error}");
    let told = decode(second.reply_header("payment-response").unwrap());
    assert_eq!((&told["success"], &told["transaction"]), (&true.into(), &TRANSACTION.into()));
    assert_eq!(told["extra"], json!({"settlement": "debt", "paid": "1000", "owed": "0"}));
    assert_eq!(second.settlements[0].result, SettlementResult::Settled);
    assert_eq!((open(&mut stage), stage.left(&second)), (0, "spent"));
    assert!(buy(&mut stage, 1, 3, [upstream(200)]).delivered.is_some());
}

#[test]
fn nothing_is_sold_to_a_debtor_before_all_is_paid_and_others_are_served() {
    let mut stage = stage();
    let pending: Vec<Request> = (1..=2).map(|nonce| buy(&mut stage, 1, nonce, [upstream(200)])).collect();
    for mut request in pending {
        stage.step(&mut request, refused("insufficient_funds"));
    }
    let first = buy(&mut stage, 1, 3, [settled()]);
    assert!(first.reason().ends_with("1000 are still owed"), "{}", first.reason());
    let failed = buy(&mut stage, 1, 4, [refused("insufficient_funds")]);
    assert_eq!((failed.status(), failed.reason(), stage.left(&failed)), (402, "insufficient_funds", "nothing"));
    assert!(failed.aftermath.is_none());
    assert!(buy(&mut stage, 2, 1, [upstream(200)]).delivered.is_some());
    assert!(buy(&mut stage, 1, 5, [settled()]).reason().contains("nothing more is owed"));
    assert!(buy(&mut stage, 1, 6, [upstream(200)]).delivered.is_some());
}

#[test]
fn no_more_is_taken_for_nothing_than_was_given() {
    let mut config = config();
    config["defaults"]["exposure"] = json!({"payer": "$1000", "total": "$1000"});
    let mut stage = Stage::new(&config);
    debtor(&mut stage, 1);
    let payment = pay_for(&mut stage, "/dear", 1, 2);
    let dear = stage.start(&paid("/dear", &payment));
    assert_eq!((dear.status(), stage.left(&dear)), (402, "nothing"));
    assert!(dear.calls.is_empty() && dear.reason().starts_with("payment_owed: you owe 1000 atomic units"));
    assert!(dear.reason().contains("nothing was taken now; a payment of at most 1000"), "{}", dear.reason());
    assert_eq!(outcome(dear.record.as_ref()), Some(Outcome::Refused));
    // What is left of a debt may be paid by a payment like the one that was refused.
    let payment = pay_for(&mut stage, "/dear", 2, 3);
    stage.play(&paid("/dear", &payment), [upstream(200), refused("insufficient_funds")]);
    assert!(buy(&mut stage, 2, 4, [settled()]).reason().ends_with("499999000 are still owed"));
    let payment = pay_for(&mut stage, "/dear", 2, 5);
    let rest = stage.play(&paid("/dear", &payment), [settled()]);
    assert!(rest.reason().contains("paid 499999000 atomic units"), "{}", rest.reason());
    assert!(buy(&mut stage, 2, 6, [upstream(200)]).delivered.is_some());
}

#[test]
fn of_two_payments_for_one_debt_the_second_buys_its_response() {
    let mut stage = stage();
    debtor(&mut stage, 1);
    let mut both = [1, 2].map(|nonce| buy(&mut stage, 1, nonce, []));
    let [first, second] = &mut both;
    stage.step(first, settled());
    assert_eq!(outcome(first.record.as_ref()), Some(Outcome::Repaid));
    stage.step(second, settled());
    stage.step(second, upstream(200));
    let story = "claim granted, settle granted, settle? | redeem granted, forward settled | spend granted, = served, deliver with receipt";
    assert_eq!(second.story(), story);
}

#[test]
fn a_debtor_that_leaves_or_goes_unheard_has_bought_a_response_and_owes_still() {
    let mut stage = stage();
    debtor(&mut stage, 1);
    let payment = pay_for(&mut stage, "/weather", 1, 1);
    let left = stage.play(&paid("/weather", &payment), [Event::Ended, settled()]);
    assert_eq!((outcome(left.record.as_ref()), stage.left(&left)), (Some(Outcome::Abandoned), "settled"));
    let again = stage.play(&paid("/weather", &payment), [upstream(200)]);
    assert!(again.delivered.is_some());
    let unheard = buy(&mut stage, 1, 2, [Event::Callout(CalloutAnswer::Lost)]);
    assert_eq!((unheard.status(), stage.left(&unheard)), (502, "unknown"));
    assert!(unheard.reply_header("payment-required").is_none());
    assert!(buy(&mut stage, 1, 3, [settled()]).reason().starts_with("payment_owed"));
}

#[test]
fn a_debt_whose_payment_another_request_has_taken_over_is_owed_again() {
    let mut stage = stage();
    debtor(&mut stage, 1);
    let mut request = buy(&mut stage, 1, 1, []);
    stage.forced = Some(("spend", x402_proxy_wasm::ledger::Answer::NotHeld));
    stage.step(&mut request, settled());
    stage.forced = None;
    assert_eq!((request.status(), outcome(request.record.as_ref())), (502, Some(Outcome::Unknown)));
    let answers = buy(&mut stage, 1, 2, []).exposures;
    assert!(matches!(answers[..], [Answer::Owes(debt)] if debt.owed == 1000), "{answers:?}");
}

#[test]
fn a_debt_is_forgotten_after_a_day() {
    let mut stage = stage();
    debtor(&mut stage, 1);
    stage.now += 24 * 3600 - 400;
    let request = buy_now(&mut stage, 50);
    assert!(request.story().ends_with("settle?"), "{}", request.story());
    stage.now += 400 + 4096;
    assert!(buy_now(&mut stage, 51).forwarded.is_some());
}

/// Buys with an authorization that is valid from now on.
fn buy_now(stage: &mut Stage, nonce: u8) -> Request {
    let mut payment = pay_for(stage, "/weather", 1, nonce);
    payment["payload"]["authorization"]["validBefore"] = (stage.now + 300).to_string().into();
    Wallet::new(1).sign_payment(&mut payment);
    stage.start(&paid("/weather", &payment))
}

#[test]
fn what_was_lost_counts_among_what_is_open_of_all() {
    let mut stage = stage();
    for wallet in 1..=5 {
        debtor(&mut stage, wallet);
    }
    let request = buy(&mut stage, 6, 1, [upstream(200)]);
    assert!(request.delivered.is_none(), "with fresh keys nobody gets more than the bound in a day");
    assert_eq!(open(&mut stage), 5000);
}

// -------------------------------------------------------------------------------------------- the configuration

#[test]
fn the_configuration_says_what_may_be_delivered_before_it_is_paid() {
    let refusal = |change: &dyn Fn(&mut Value)| {
        let mut config = config();
        change(&mut config);
        Config::from_json(config.to_string().as_bytes()).map(|_| ()).unwrap_err().to_string()
    };
    let exposure = |payer: &str, total: &str| {
        let value = json!({"payer": payer, "total": total});
        refusal(&|config| config["routes"][0]["exposure"] = value.clone())
    };
    assert!(exposure("$0.01", "$0.009").starts_with("routes[0].exposure.total: is less than exposure.payer"));
    assert!(exposure("$0", "$1").starts_with("routes[0].exposure.payer: is nothing"));
    assert!(exposure("0.01", "$1").starts_with("routes[0].exposure.payer: "));
    assert!(exposure("$0.0000001", "$1").starts_with("routes[0].exposure.payer: "));
    assert!(
        refusal(&|config| {
            config["defaults"].as_object_mut().unwrap().remove("exposure");
        })
        .starts_with("routes[0].exposure: is missing")
    );
    let not_meant = refusal(&|config| {
        config["routes"][0]["settle"] = "after".into();
        config["routes"][0]["exposure"] = json!({"payer": "$1", "total": "$1"});
    });
    assert_eq!(not_meant, "routes[0].exposure: is for settle: optimistic");
    assert!(
        refusal(&|config| config["routes"][2]["exposure"] = json!({"payer": "$1", "total": "$1"})).contains("is free")
    );

    let mut units = config();
    units["defaults"]["exposure"] = json!({"payer": {"amount": "7000"}, "total": {"amount": "9000"}});
    let units = Config::from_json(units.to_string().as_bytes()).unwrap();
    let limits = units.routes[0].terms.as_ref().unwrap().offers[0].exposure.unwrap();
    assert_eq!((limits.payer, limits.total), (7000, 9000));
}

#[test]
fn what_may_not_be_meant_is_warned_of() {
    let stage = stage();
    let warnings = stage.config.warnings.join("\n");
    assert!(warnings.contains("routes[0].settle: is optimistic under verify: local"), "{warnings}");
    assert!(warnings.contains("routes[1].settle: is optimistic, and its price is above exposure.payer"), "{warnings}");
    let mut both = config();
    both["facilitator"]["verify"] = "remote".into();
    both["defaults"]["accepts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}));
    let stage = Stage::new(&both);
    let warnings = stage.config.warnings.join("\n");
    assert!(warnings.contains("routes[0].settle: is optimistic for scheme exact"), "{warnings}");
    assert!(!warnings.contains("verify: local"), "{warnings}");
}
