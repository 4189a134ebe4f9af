//! Payers who come back: the challenge, the right that a payment gives, and what it does not give.

use crate::common::{
    Request, Stage, Wallet, base_config, decode, encode, head, paid, settled, upstream, upstream_with, valid,
};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::evm::keccak256;
use x402_proxy_wasm::exchange::{Event, Outcome, RequestHead};
use x402_proxy_wasm::ledger::{Answer, Ledger};

const HEADER: &str = "sign-in-with-x";

fn config() -> Value {
    let mut config = base_config();
    config["routes"][0]["match"] = json!({"path": "/weather/{*rest}"});
    config["routes"][0]["extensions"] = json!({"sign_in_with_x": {"lasts": "600s"}});
    config
}

fn stage() -> Stage {
    Stage::new(&config())
}

fn terms_at(stage: &mut Stage, path: &str) -> Value {
    decode(stage.start(&head("GET", path, &[])).reply_header("payment-required").unwrap())
}

/// What an official client does with a challenge: it fills in the first chain, and signs the text of EIP-4361.
pub fn answer(wallet: &Wallet, terms: &Value) -> Value {
    let declared = &terms["extensions"][HEADER];
    let (mut proof, chain) = (declared["info"].clone(), &declared["supportedChains"][0]);
    proof["chainId"] = chain["chainId"].clone();
    proof["type"] = chain["type"].clone();
    proof["address"] = wallet.address().to_string().into();
    sign(wallet, &mut proof);
    proof
}

fn sign(wallet: &Wallet, proof: &mut Value) {
    let text = |field: &str| proof[field].as_str().unwrap().to_owned();
    let statement = proof["statement"].as_str().map(|text| format!("\n{text}\n")).unwrap_or_else(|| "\n".to_owned());
    let resources: Vec<String> =
        proof["resources"].as_array().unwrap().iter().map(|one| format!("\n- {}", one.as_str().unwrap())).collect();
    let message = format!(
        "{} wants you to sign in with your Ethereum account:\n{}\n{statement}\nURI: {}\nVersion: {}\nChain ID: {}\nNonce: {}\nIssued At: {}\nExpiration Time: {}\nResources:{}",
        text("domain"),
        text("address"),
        text("uri"),
        text("version"),
        text("chainId").strip_prefix("eip155:").unwrap(),
        text("nonce"),
        text("issuedAt"),
        text("expirationTime"),
        resources.concat(),
    );
    let digest = keccak256(format!("\x19Ethereum Signed Message:\n{}{message}", message.len()).as_bytes());
    proof["signature"] = format!("0x{}", hex::encode(wallet.sign(&digest))).into();
}

fn signed_in(path: &str, proof: &Value) -> RequestHead {
    head("GET", path, &[(HEADER, &encode(proof))])
}

/// A wallet comes back to a path as the official client does: takes the challenge from there, and answers it.
fn come_back(stage: &mut Stage, wallet: &Wallet, path: &str) -> Request {
    let proof = answer(wallet, &terms_at(stage, path));
    stage.start(&signed_in(path, &proof))
}

/// A wallet pays at a path, and is served.
fn buy(stage: &mut Stage, wallet: &Wallet, path: &str, nonce: u8) -> Request {
    let payment = wallet.pay(&terms_at(stage, path)["accepts"][0], nonce);
    let request = stage.play(&paid(path, &payment), [valid(), upstream(200), settled()]);
    assert_eq!(outcome(&request), Outcome::Served, "{}", request.story());
    request
}

fn outcome(request: &Request) -> Outcome {
    request.record.as_ref().unwrap().outcome
}

fn assert_admitted(request: &Request) {
    assert_eq!(request.story(), "recall granted, note once granted, = signed_in, forward", "{}", request.reason());
}

fn assert_unpaid(request: &Request) {
    assert_eq!((request.status(), outcome(request)), (402, Outcome::Unpaid), "{}", request.story());
    assert!(request.forwarded.is_none());
}

#[test]
fn whoever_has_paid_comes_back_without_paying_until_it_is_over() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    assert_unpaid(&come_back(&mut stage, &wallet, "/weather/a"));
    let bought = buy(&mut stage, &wallet, "/weather/a?city=Paris", 1);
    assert!(
        bought.story().ends_with("spend granted, note granted, = served, deliver with receipt"),
        "{}",
        bought.story()
    );
    for city in ["Paris", "Rome"] {
        stage.draw += 1;
        let mut visit = come_back(&mut stage, &wallet, &format!("/weather/a?city={city}"));
        assert_admitted(&visit);
        let edits = visit.forwarded.clone().unwrap();
        assert_eq!(edits.remove, [HEADER]);
        assert_eq!(edits.set, [("x-x402-payer", wallet.address().to_string())]);
        stage.step(&mut visit, upstream(200));
        let edits = visit.delivered.as_ref().unwrap();
        assert_eq!(edits.set, [("cache-control", "private".to_owned())]);
        assert!(edits.remove.contains(&"cdn-cache-control") && visit.is_over());
        assert!(visit.calls.is_empty());
    }
    stage.now += 599;
    assert_admitted(&come_back(&mut stage, &wallet, "/weather/a"));
    stage.now += 1;
    assert_unpaid(&come_back(&mut stage, &wallet, "/weather/a"));
}

#[test]
fn a_right_is_the_payers_and_to_the_place_alone() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    stage.config = crate::common::read_config(&{
        let mut config = config();
        let mut twin = config["routes"][0].clone();
        config["routes"][0]["match"]["methods"] = json!(["GET", "POST"]);
        twin["name"] = "twin".into();
        twin["match"] = json!({"path": "/twin"});
        config["routes"].as_array_mut().unwrap().push(twin);
        config
    });
    buy(&mut stage, &wallet, "/weather/a", 1);
    assert_unpaid(&come_back(&mut stage, &Wallet::new(2), "/weather/a"));
    for elsewhere in ["/weather/b", "/weather/A", "/weather/a/", "/weather//a", "/twin"] {
        assert_unpaid(&come_back(&mut stage, &wallet, elsewhere));
    }
    let proof = answer(&wallet, &terms_at(&mut stage, "/weather/a"));
    let value = encode(&proof);
    assert_unpaid(&stage.start(&head("POST", "/weather/a", &[(HEADER, &value)])));
    assert_admitted(&stage.start(&head("HEAD", "/weather/a", &[(HEADER, &value)])));
}

#[test]
fn a_sign_in_of_another_host_is_none_here() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let at = |host: &str, headers: &[(&str, &str)]| {
        let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/weather/a")];
        let all = pseudo.iter().chain(headers);
        RequestHead::new(all.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())))
    };
    // A host that its client makes up gives a challenge for that host, and no right was bought there.
    let terms = decode(stage.start(&at("evil.example", &[])).reply_header("payment-required").unwrap());
    let value = encode(&answer(&wallet, &terms));
    assert_unpaid(&stage.start(&at("evil.example", &[(HEADER, &value)])));
    let refused = stage.start(&signed_in("/weather/a", &answer(&wallet, &terms)));
    assert_eq!((refused.status(), refused.reason()), (402, "invalid_siwx_domain_mismatch"));
    // The case of a host says nothing.
    let value = encode(&answer(&wallet, &terms_at(&mut stage, "/weather/a")));
    assert_admitted(&stage.start(&at("API.example.com", &[(HEADER, &value)])));
}

#[test]
fn a_challenge_names_an_origin_of_the_operators_whatever_host_is_asked() {
    let mut config = config();
    config["origins"] = json!(["https://shop.example"]);
    let (mut stage, wallet) = (Stage::new(&config), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let terms = terms_at(&mut stage, "/weather/a");
    assert_eq!(terms["extensions"][HEADER]["info"]["domain"], "shop.example");
    let proof = answer(&wallet, &terms);
    assert_admitted(&stage.start(&signed_in("/weather/a", &proof)));
}

#[test]
fn a_message_is_good_for_one_request() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let terms = terms_at(&mut stage, "/weather/a");
    let proof = answer(&wallet, &terms);
    assert_admitted(&stage.start(&signed_in("/weather/a", &proof)));
    let mut respelt = proof.clone();
    respelt["address"] = proof["address"].as_str().unwrap().to_lowercase().into();
    for same in [&proof, &respelt] {
        let again = stage.start(&signed_in("/weather/a", same));
        assert_eq!((again.status(), outcome(&again)), (402, Outcome::Refused));
        let error = decode(again.reply_header("payment-required").unwrap())["error"].clone();
        assert_eq!((again.reason(), error.as_str().unwrap()), ("invalid_siwx_nonce", "invalid_siwx_nonce"));
        assert!(again.forwarded.is_none());
    }
    // To the end of the time in which it could be used.
    stage.now += 299;
    assert_eq!(stage.start(&signed_in("/weather/a", &proof)).reason(), "invalid_siwx_nonce");
    stage.now += 1;
    assert_eq!(stage.start(&signed_in("/weather/a", &proof)).reason(), "invalid_siwx_expired");
    // Without an expiry of its own the age of the message decides, to the second.
    let mut endless = proof.clone();
    endless["expirationTime"] = "2099-01-01T00:00:00Z".into();
    sign(&wallet, &mut endless);
    assert_eq!(stage.start(&signed_in("/weather/a", &endless)).reason(), "invalid_siwx_nonce");
    // However long it takes from the check to the ledger.
    let mut late = stage.arrive(&signed_in("/weather/a", &endless));
    stage.now += 1;
    while stage.turn(&mut late) {}
    assert_eq!((late.status(), late.reason()), (402, "invalid_siwx_nonce"));
    assert_eq!(stage.start(&signed_in("/weather/a", &endless)).reason(), "invalid_siwx_issued_at_too_old");
}

#[test]
fn a_right_ends_with_the_terms_it_was_bought_by() {
    let changes: [(&str, Value); 3] = [
        ("/routes/0/price", "$500".into()),
        ("/defaults/accepts", json!([{"scheme": "exact", "network": "base", "asset": "USDC"}])),
        ("/defaults/pay_to", Wallet::new(9).address().to_string().into()),
    ];
    for (pointer, value) in changes {
        let (mut stage, wallet) = (stage(), Wallet::new(1));
        buy(&mut stage, &wallet, "/weather/a", 1);
        stage.config = crate::common::read_config(&config());
        assert_admitted(&come_back(&mut stage, &wallet, "/weather/a"));
        let mut changed = config();
        *changed.pointer_mut(pointer).unwrap() = value;
        stage.config = crate::common::read_config(&changed);
        stage.draw += 1;
        assert_unpaid(&come_back(&mut stage, &wallet, "/weather/a"));
    }
    // It lasts no longer than such rights last now.
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let mut shorter = config();
    shorter["routes"][0]["extensions"]["sign_in_with_x"]["lasts"] = "100s".into();
    stage.config = crate::common::read_config(&shorter);
    stage.now += 99;
    assert_admitted(&come_back(&mut stage, &wallet, "/weather/a"));
    stage.now += 1;
    assert_unpaid(&come_back(&mut stage, &wallet, "/weather/a"));
}

#[test]
fn a_visitor_cannot_name_another_host_to_the_upstream() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let names = ["forwarded", "x-forwarded-host", "x-host", "x-original-host", "x_forwarded_host"];
    let terms = terms_at(&mut stage, "/weather/a");
    let proof = encode(&answer(&wallet, &terms));
    let payment = encode(&wallet.pay(&terms["accepts"][0], 2));
    for (name, value) in [(HEADER, proof), ("payment-signature", payment)] {
        let headers: Vec<(&str, &str)> = names.map(|name| (name, "victim.example")).into_iter().collect();
        let headers = [headers.as_slice(), &[(name, value.as_str())]].concat();
        let request = stage.play(&head("GET", "/weather/a", &headers), [valid()]);
        let removed = request.forwarded.expect("a request that goes on").remove;
        assert!(names.iter().all(|name| removed.contains(&(*name).to_owned())), "{removed:?}");
    }
}

#[test]
fn a_nonce_that_one_wallet_has_used_is_still_anothers() {
    let (mut stage, wallets) = (stage(), [1, 2].map(Wallet::new));
    for (nonce, wallet) in (1..).zip(&wallets) {
        buy(&mut stage, wallet, "/weather/a", nonce);
    }
    let terms = terms_at(&mut stage, "/weather/a");
    for wallet in &wallets {
        assert_admitted(&stage.start(&signed_in("/weather/a", &answer(wallet, &terms))));
    }
}

#[test]
fn challenges_differ_and_say_where_and_how() {
    let mut config = config();
    config["routes"][0]["extensions"]["sign_in_with_x"]["statement"] = "Come in \"again\".".into();
    config["routes"][0]["extensions"]["payment_identifier"] = "optional".into();
    let mut stage = Stage::new(&config);
    let first = terms_at(&mut stage, "/weather/a?b=c")["extensions"].clone();
    let info = &first[HEADER]["info"];
    assert_eq!(info["domain"], "api.example.com");
    assert_eq!(info["uri"], "http://api.example.com/weather/a?b=c");
    assert_eq!(info["resources"], json!(["http://api.example.com/weather/a?b=c"]));
    assert_eq!(info["statement"], "Come in \"again\".");
    assert_eq!(info["issuedAt"], "2026-09-21T14:13:20.000Z");
    assert_eq!(info["expirationTime"], "2026-09-21T14:18:20.000Z");
    assert_eq!(first[HEADER]["supportedChains"], json!([{"chainId": "eip155:84532", "type": "eip191"}]));
    assert!(first["payment-identifier"].is_object());
    let nonce = info["nonce"].as_str().unwrap();
    assert!(nonce.len() == 32 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit()));
    stage.draw += 1;
    assert_ne!(terms_at(&mut stage, "/weather/a?b=c")["extensions"][HEADER]["info"]["nonce"], nonce);
    assert!(terms_at(&mut stage, "/dear").get("extensions").is_none());
    let wallet = Wallet::new(1);
    buy(&mut stage, &wallet, "/weather/a", 1);
    assert_admitted(&come_back(&mut stage, &wallet, "/weather/a"));
}

#[test]
fn what_is_no_sign_in_is_refused_and_a_payment_makes_it_good() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let terms = terms_at(&mut stage, "/weather/a");
    let proof = answer(&wallet, &terms);
    for (value, error) in [
        ("!".to_owned(), "SIGN-IN-WITH-X is not standard base64"),
        (encode(&json!({"domain": 7})), "SIGN-IN-WITH-X: domain"),
        (encode(&json!([])), "SIGN-IN-WITH-X"),
    ] {
        let request = stage.start(&head("GET", "/weather/a", &[(HEADER, &value)]));
        assert_eq!((request.status(), outcome(&request)), (400, Outcome::Malformed));
        assert!(request.body()["error"].as_str().unwrap().starts_with(error), "{}", request.body());
    }
    let long = stage.start(&head("GET", "/weather/a", &[(HEADER, &"A".repeat(8193))]));
    assert_eq!((long.status(), outcome(&long)), (400, Outcome::Malformed));
    assert_eq!(long.body()["error"], "SIGN-IN-WITH-X is longer than 8192 bytes");
    let value = encode(&proof);
    let twice = stage.start(&head("GET", "/weather/a", &[(HEADER, &value), (HEADER, &value)]));
    assert_eq!((twice.status(), outcome(&twice)), (400, Outcome::Malformed));

    let mut forged = proof.clone();
    forged["address"] = Wallet::new(3).address().to_string().into();
    let refused = stage.start(&signed_in("/weather/a", &forged));
    assert_eq!((refused.status(), refused.reason()), (402, "invalid_siwx_signature"));
    let fresh = decode(refused.reply_header("payment-required").unwrap());
    assert_eq!(fresh["error"], "invalid_siwx_signature");
    assert!(fresh["extensions"][HEADER].is_object());
    let payment = encode(&Wallet::new(3).pay(&fresh["accepts"][0], 9));
    let both = head("GET", "/weather/a", &[(HEADER, &encode(&forged)), ("payment-signature", &payment)]);
    let request = stage.play(&both, [valid(), upstream(200), settled()]);
    assert_eq!(outcome(&request), Outcome::Served);
    assert!(request.forwarded.unwrap().remove.contains(&HEADER.to_owned()));
}

#[test]
fn whoever_signs_in_and_pays_pays_only_without_a_right() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    let terms = terms_at(&mut stage, "/weather/a");
    let payment = encode(&wallet.pay(&terms["accepts"][0], 1));
    let both = |proof: &Value| head("GET", "/weather/a", &[(HEADER, &encode(proof)), ("payment-signature", &payment)]);
    let proof = answer(&wallet, &terms);
    let first = stage.play(&both(&proof), [valid(), upstream(200), settled()]);
    assert_eq!(outcome(&first), Outcome::Served, "{}", first.story());
    let payment = encode(&wallet.pay(&terms["accepts"][0], 2));
    let both = head("GET", "/weather/a", &[(HEADER, &encode(&proof)), ("payment-signature", &payment)]);
    let mut second = stage.start(&both);
    assert_admitted(&second);
    assert!(second.forwarded.clone().unwrap().remove.contains(&"payment-signature".to_owned()));
    stage.step(&mut second, upstream(200));
    assert!(second.settlements.is_empty() && second.calls.is_empty());
    // The payment is as good as it was.
    let third =
        stage.play(&head("GET", "/weather/a", &[("payment-signature", &payment)]), [valid(), upstream(200), settled()]);
    assert_eq!(outcome(&third), Outcome::Served);
}

#[test]
fn what_was_not_served_and_paid_gives_no_right() {
    let wallet = Wallet::new(1);
    let played = |settle: &str, events: Vec<Event>| {
        let mut config = config();
        config["defaults"]["settle"] = settle.into();
        let mut stage = Stage::new(&config);
        let payment = wallet.pay(&terms_at(&mut stage, "/weather/a")["accepts"][0], 1);
        let request = stage.play(&paid("/weather/a", &payment), events);
        (outcome(&request), come_back(&mut stage, &wallet, "/weather/a").forwarded.is_some())
    };
    let refused = || crate::common::refused("invalid_exact_evm_insufficient_balance");
    let broken = || crate::common::answers_with(500, &json!({}));
    assert_eq!(played("after", vec![valid(), upstream(200), settled()]), (Outcome::Served, true));
    assert_eq!(played("after", vec![crate::common::invalid("invalid_exact_evm_signature")]), (Outcome::Refused, false));
    assert_eq!(played("after", vec![valid(), upstream(500)]), (Outcome::UpstreamFailed, false));
    assert_eq!(played("after", vec![valid(), upstream(200), refused()]), (Outcome::Refused, false));
    assert_eq!(played("after", vec![valid(), upstream(200), broken()]), (Outcome::Unknown, false));
    assert_eq!(played("after", vec![valid(), upstream(200), Event::Ended, settled()]), (Outcome::Abandoned, false));
    assert_eq!(played("before", vec![settled(), upstream(200)]), (Outcome::Served, true));
    assert_eq!(played("before", vec![settled(), upstream(500)]), (Outcome::SettledUpstreamFailed, false));
    assert_eq!(played("concurrent", vec![settled(), upstream(200)]), (Outcome::Served, true));
    assert_eq!(played("concurrent", vec![upstream(200), settled()]), (Outcome::Served, true));
    assert_eq!(played("concurrent", vec![upstream(200), refused()]), (Outcome::Refused, false));
    assert_eq!(played("concurrent", vec![upstream(503), settled()]), (Outcome::SettledUpstreamFailed, false));
}

#[test]
fn whoever_may_not_buy_may_not_come_back() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    let mut denying = config();
    denying["payers"] = json!({"deny": [wallet.address().to_string()]});
    stage.config = crate::common::read_config(&denying);
    assert_unpaid(&come_back(&mut stage, &wallet, "/weather/a"));
}

#[test]
fn where_the_ledger_does_not_work_nobody_comes_in_unpaid() {
    for (operation, answer_of_ledger, status) in [
        ("recall", Answer::Failed, 503),
        ("note once", Answer::Full, 503),
        ("note once", Answer::Failed, 503),
        ("note once", Answer::NotHeld, 503),
    ] {
        let (mut stage, wallet) = (stage(), Wallet::new(1));
        buy(&mut stage, &wallet, "/weather/a", 1);
        stage.forced = Some((operation, answer_of_ledger));
        let visit = come_back(&mut stage, &wallet, "/weather/a");
        assert_eq!(visit.status(), status, "{operation} {answer_of_ledger:?}");
        assert!(visit.forwarded.is_none());
        // Whoever has sent a payment as well is served for it.
        stage.draw += 1;
        let terms = terms_at(&mut stage, "/weather/a");
        let payment = encode(&wallet.pay(&terms["accepts"][0], 2));
        let proof = encode(&answer(&wallet, &terms));
        let both = head("GET", "/weather/a", &[(HEADER, &proof), ("payment-signature", &payment)]);
        stage.forced = Some((operation, answer_of_ledger));
        let request = stage.play(&both, [valid(), upstream(200), settled()]);
        assert_eq!((outcome(&request), request.settlements.len()), (Outcome::Served, 1), "{}", request.story());
    }
    // What is bought is delivered, though no right to come back can be noted.
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    stage.forced = Some(("note", Answer::Full));
    let bought = buy(&mut stage, &wallet, "/weather/a", 1);
    assert!(bought.delivered.is_some() && bought.is_over());
}

#[test]
fn sign_ins_take_no_room_of_payments() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    stage.config.ledger = Ledger::with_room_for(1);
    buy(&mut stage, &wallet, "/weather/a", 1);
    let pages_of_payments = |stage: &Stage| stage.store.0.range(..4096).count();
    let pages_of_grants = |stage: &Stage| stage.store.0.range(4096..8192).count();
    assert_eq!((pages_of_payments(&stage), stage.store.0.len()), (1, 2));
    for _ in 0..100 {
        stage.draw += 1;
        come_back(&mut stage, &wallet, "/weather/a");
    }
    assert_eq!((pages_of_payments(&stage), pages_of_grants(&stage)), (1, 1));
    // Nor the room of other payers: what one of them signs fills a few pages.
    let pages_of_nonces = |stage: &Stage| stage.store.0.range(8192..).count();
    assert_eq!(pages_of_nonces(&stage), 16);
    let other = Wallet::new(2);
    buy(&mut stage, &other, "/weather/a", 2);
    stage.draw += 1;
    assert_admitted(&come_back(&mut stage, &other, "/weather/a"));
    assert_eq!(pages_of_nonces(&stage), 17);
}

#[test]
fn nobody_can_tell_whose_rights_share_a_page() {
    let pages = [7, 8].map(|secret| {
        let (mut stage, wallet) = (stage(), Wallet::new(1));
        stage.secret = [secret; 32];
        buy(&mut stage, &wallet, "/weather/a", 1);
        assert_admitted(&come_back(&mut stage, &wallet, "/weather/a"));
        stage.store.0.keys().copied().filter(|page| *page >= 4096).collect::<Vec<_>>()
    });
    assert!(pages[0].len() == 2 && pages[0].iter().all(|page| !pages[1].contains(page)), "{pages:?}");
}

#[test]
fn a_page_behind_a_sign_in_stays_as_private_as_its_upstream_wants() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    for (cache_control, set) in [(Some("no-store"), 0), (Some("public, max-age=60"), 1), (None, 1)] {
        stage.draw += 1;
        let mut visit = come_back(&mut stage, &wallet, "/weather/a");
        stage.step(&mut visit, upstream_with(200, cache_control));
        assert_eq!(visit.delivered.unwrap().set.len(), set, "{cache_control:?}");
    }
}

#[test]
fn a_client_that_goes_leaves_nothing_behind() {
    let (mut stage, wallet) = (stage(), Wallet::new(1));
    buy(&mut stage, &wallet, "/weather/a", 1);
    for events in [vec![Event::Ended], vec![upstream(503)]] {
        stage.draw += 1;
        let mut visit = come_back(&mut stage, &wallet, "/weather/a");
        for event in events {
            stage.step(&mut visit, event);
        }
        assert!(visit.is_over());
    }
    stage.draw += 1;
    let proof = answer(&wallet, &terms_at(&mut stage, "/weather/a"));
    let mut early = stage.arrive(&signed_in("/weather/a", &proof));
    stage.end_unheard(&mut early);
    assert!(early.is_over() && early.forwarded.is_none());
    assert_admitted(&stage.start(&signed_in("/weather/a", &proof)));
}

#[test]
fn where_nobody_can_sign_in_the_header_is_the_upstreams() {
    let mut stage = Stage::new(&base_config());
    let (wallet, terms) = (Wallet::new(1), terms_at(&mut stage, "/weather"));
    let payment = encode(&wallet.pay(&terms["accepts"][0], 1));
    let request = stage.play(&head("GET", "/weather", &[(HEADER, "x"), ("payment-signature", &payment)]), [valid()]);
    assert_eq!(request.forwarded.unwrap().remove, ["payment-signature"]);
}
