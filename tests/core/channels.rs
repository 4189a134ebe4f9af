//! Channels of the scheme `batch-settlement`: figures and recordings of the official packages, the rules, and lives played at random.

use serde_json::value::RawValue;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::channel::check::{Judgement, Refusal, Terms, check};
use x402_proxy_wasm::channel::claims::{
    Due, Policy, Signer, claim_payload, due, question, read_state, refund_payload, settle_payload,
};
use x402_proxy_wasm::channel::message::{
    self, ChannelConfig, ChannelId, claim_batch_digest, deposit_nonce, domain_separator, refund_digest, voucher_digest,
};
use x402_proxy_wasm::channel::payload::{DepositAuthorization, Kind, Payload};
use x402_proxy_wasm::channel::record::{
    Answer, Change, OnChain, Operation, Purpose, Record, Reserve, Row, Standing, apply,
};
use x402_proxy_wasm::evm::Address;
use x402_proxy_wasm::evm::eip712::{Domain, Word};
use x402_proxy_wasm::evm::permit2::{PERMIT2, Permitted};
use x402_proxy_wasm::evm::secret_key::SecretKey;
use x402_proxy_wasm::evm::signature::{Signature, SignatureError};
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::reason;
use x402_proxy_wasm::x402::requirement::TransferMethod;

use crate::common::lives::channel;

/// The vectors of a file. They are built in, for there are no files in wasm.
fn vectors(file: &str) -> Value {
    macro_rules! files {
        ($($name:literal),* $(,)?) => {
            match file {
                $($name => include_str!(concat!("../vectors/", $name, ".json")),)*
                other => panic!("{other} is a new file"),
            }
        };
    }
    let text = files![
        "channels",
        "wire/batch/batch-1-deposit",
        "wire/batch/batch-2-voucher",
        "wire/batch/batch-3-dynamic",
        "wire/batch/batch-5-stale-corrective",
        "wire/batch/batch-8-claim",
        "wire/batch/batch-9-settle",
        "wire/batch/batch-11-refund-partial",
        "wire/batch/batch-12-refund-full",
        "wire/batch/batch-15-own-authorizer",
        "wire/batch/batch-16-own-authorizer-claim",
        "wire/batch/batch-17-server-refund",
        "wire/batch/batch-18-permit2-deposit",
        "wire/batch/batch-21-withdraw-initiated",
        "wire/batch/batch-23-bad-signature",
        "wire/batch/batch-24-other-signer",
        "wire/batch/batch-25-channel-id",
        "wire/batch/batch-26-channel-id-case",
        "wire/batch/batch-31-other-withdraw-delay",
        "wire/batch/batch-32-python-client",
    ];
    serde_json::from_str(text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn number(value: &Value) -> u128 {
    text(value).parse().expect("a number of 128 bits")
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(&text(value)[2..]).unwrap().try_into().unwrap()
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

// ----------------------------------------------------------------------------------------------------------- vectors

fn domain_of(value: &Value) -> Word {
    Domain {
        name: text(&value["name"]),
        version: value["version"].as_str(),
        chain_id: text(&value["chainId"]).parse().unwrap(),
        verifying_contract: read(&value["verifyingContract"]),
    }
    .separator()
}

fn check_signer(vector: &Value, digest: &Word) {
    assert_eq!(*digest, bytes(&vector["digest"]), "{vector}");
    let signature = Signature::from_bytes(&bytes::<65>(&vector["signature"])).unwrap();
    assert!(signature.is_by(digest, read(&vector["signer"])), "{vector}");
    if vector["highS"].is_string() {
        assert_eq!(Signature::from_bytes(&bytes::<65>(&vector["highS"])).unwrap_err(), SignatureError::HighS);
    }
}

#[test]
fn what_is_signed_is_what_the_official_packages_sign() {
    let vectors = vectors("channels");
    for vector in list(&vectors["configs"]) {
        let config: ChannelConfig = read(&vector["config"]);
        let domain = domain_separator(vector["chainId"].as_u64().unwrap());
        assert_eq!(domain, bytes(&vector["domainSeparator"]), "{vector}");
        assert_eq!(config.id(&domain).to_string(), text(&vector["channelId"]), "{vector}");
        assert_eq!(serde_json::to_value(config).unwrap(), vector["config"]);
    }
    for vector in list(&vectors["vouchers"]) {
        let digest = voucher_digest(
            &bytes(&vector["domainSeparator"]),
            read(&vector["channelId"]),
            number(&vector["maxClaimableAmount"]),
        );
        check_signer(vector, &digest);
    }
    let short = |nonce: &Value| text(nonce).parse::<u128>().is_ok();
    for vector in list(&vectors["refunds"]).iter().filter(|vector| short(&vector["nonce"])) {
        let (nonce, amount) = (number(&vector["nonce"]), number(&vector["amount"]));
        check_signer(
            vector,
            &refund_digest(&bytes(&vector["domainSeparator"]), read(&vector["channelId"]), nonce, amount),
        );
    }
    for vector in list(&vectors["claimBatches"]) {
        let rows = list(&vector["claims"])
            .iter()
            .map(|row| (read(&row["channelId"]), number(&row["maxClaimableAmount"]), number(&row["totalClaimed"])));
        check_signer(vector, &claim_batch_digest(&bytes(&vector["domainSeparator"]), rows));
    }
}

#[test]
fn deposits_are_signed_as_the_official_packages_sign_them() {
    let vectors = vectors("channels");
    let channel_id = |name: &Value| {
        let found = list(&vectors["configs"]).iter().find(|config| config["id"] == *name).unwrap();
        read::<ChannelId>(&found["channelId"])
    };
    for vector in list(&vectors["eip3009Deposits"]) {
        let message = &vector["message"];
        let nonce = deposit_nonce(channel_id(&vector["channel"]), &bytes(&vector["salt"]));
        assert_eq!(nonce, bytes(&message["nonce"]), "{vector}");
        let window = (read(&message["validAfter"]), read(&message["validBefore"]));
        let (payer, amount) = (read(&message["from"]), number(&message["value"]));
        let digest = message::eip3009_deposit_digest(&domain_of(&vector["domain"]), payer, amount, window, nonce);
        check_signer(vector, &digest);
    }
    for vector in list(&vectors["permit2Deposits"]) {
        let message = &vector["message"];
        let permitted: Permitted = read(&message["permitted"]);
        let digest = message::permit2_deposit_digest(
            &domain_of(&vector["domain"]),
            permitted,
            read(&message["spender"]),
            read::<Amount>(&message["nonce"]),
            read(&message["deadline"]),
            channel_id(&vector["channel"]),
        );
        check_signer(vector, &digest);
    }
}

// -------------------------------------------------------------------------------------------------------- recordings

const CHAIN: u64 = 84532;

struct Entry {
    domain: Word,
    token_domain: Word,
    accepted: Value,
}

impl Entry {
    fn new(accepted: &Value) -> Self {
        let token: Address = read(&accepted["asset"]);
        let is_permit2 = accepted["extra"]["assetTransferMethod"] == "permit2";
        let (name, version) = (text(&accepted["extra"]["name"]), text(&accepted["extra"]["version"]));
        let (name, version, contract) =
            if is_permit2 { ("Permit2", None, PERMIT2) } else { (name, Some(version), token) };
        let token_domain = Domain { name, version, chain_id: CHAIN, verifying_contract: contract }.separator();
        Self { domain: domain_separator(CHAIN), token_domain, accepted: accepted.clone() }
    }

    fn terms(&self) -> Terms<'_> {
        let extra = &self.accepted["extra"];
        Terms {
            domain: &self.domain,
            receiver: read(&self.accepted["payTo"]),
            receiver_authorizer: read(&extra["receiverAuthorizer"]),
            token: read(&self.accepted["asset"]),
            withdraw_delay: extra["withdrawDelay"].as_u64().unwrap(),
            token_domain: &self.token_domain,
            transfer_method: match extra["assetTransferMethod"].as_str() {
                Some("permit2") => TransferMethod::Permit2,
                _ => TransferMethod::Eip3009,
            },
            enforced_min_deposit: None,
        }
    }
}

/// The payments of a recording, with the terms that they name, and the terms that were the answer.
fn payments(file: &str) -> Vec<(Value, Entry, Value)> {
    let recording = vectors(file);
    let decoded = |exchange: &Value| {
        let payment = exchange["request"]["decoded"]["PAYMENT-SIGNATURE"].clone();
        (payment, exchange["response"]["decoded"]["PAYMENT-REQUIRED"].clone())
    };
    let exchanges = list(&recording["client_to_server"]).iter().map(decoded);
    let found: Vec<_> = exchanges
        .filter(|(payment, _)| payment.is_object())
        .map(|(payment, answer)| (payment["payload"].clone(), Entry::new(&payment["accepted"]), answer))
        .collect();
    assert!(!found.is_empty(), "{file}");
    found
}

/// The time of the recordings, before what was signed in them expired.
const RECORDED: u64 = 1_795_792_800;

#[test]
fn recorded_payloads_are_read_and_found_in_order() {
    let mut kinds = [0; 4];
    for file in [
        "1-deposit",
        "2-voucher",
        "3-dynamic",
        "5-stale-corrective",
        "11-refund-partial",
        "12-refund-full",
        "15-own-authorizer",
        "18-permit2-deposit",
        "21-withdraw-initiated",
        "26-channel-id-case",
        "32-python-client",
    ] {
        for (json, entry, _) in payments(&format!("wire/batch/batch-{file}")) {
            let payload = Payload::from_payload(&raw(&json)).unwrap();
            assert_eq!(check(&payload, &entry.terms(), at(RECORDED)), Ok(Judgement::Valid), "{file}: {json}");
            let mut written = json.clone();
            written["voucher"]["channelId"] = text(&json["voucher"]["channelId"]).to_lowercase().into();
            let mut own = serde_json::to_value(&payload).unwrap();
            // Case is of no account.
            for json in [&mut own, &mut written] {
                *json = serde_json::from_str(&json.to_string().to_lowercase()).unwrap();
            }
            assert_eq!(own, written, "{file}");
            kinds[match &payload.kind {
                Kind::Voucher => 0,
                Kind::Deposit(deposit) if matches!(deposit.authorization, DepositAuthorization::Eip3009 { .. }) => 1,
                Kind::Deposit(_) => 2,
                Kind::Refund { .. } => 3,
            }] += 1;
        }
    }
    assert!(kinds.iter().all(|number| *number > 0), "{kinds:?}");
}

#[test]
fn what_the_official_server_refuses_is_refused_in_its_words() {
    for file in ["23-bad-signature", "24-other-signer", "25-channel-id", "31-other-withdraw-delay"] {
        let (json, entry, answer) = payments(&format!("wire/batch/batch-{file}")).pop().unwrap();
        let payload = Payload::from_payload(&raw(&json)).unwrap();
        let refusal = check(&payload, &entry.terms(), at(RECORDED)).unwrap_err();
        assert_eq!(refusal.to_string(), text(&answer["error"]), "{file}");
    }
}

/// A recorded payload of this kind, and its terms.
fn recorded(file: &str) -> (Value, Entry) {
    let (json, entry, _) = payments(&format!("wire/batch/batch-{file}")).pop().unwrap();
    (json, entry)
}

#[test]
fn each_deviation_from_the_terms_is_refused() {
    let judge =
        |json: &Value, terms: &Terms<'_>| check(&Payload::from_payload(&raw(json)).unwrap(), terms, at(RECORDED));
    let (json, entry) = recorded("1-deposit");
    let other = Address::from_bytes([9; 20]);
    let terms = entry.terms();
    for (terms, refusal) in [
        (Terms { receiver: other, ..terms }, Refusal::Receiver),
        (Terms { receiver_authorizer: other, ..terms }, Refusal::ReceiverAuthorizer),
        (Terms { token: other, ..terms }, Refusal::Token),
        (Terms { withdraw_delay: 901, ..terms }, Refusal::WithdrawDelay),
        (Terms { transfer_method: TransferMethod::Permit2, ..terms }, Refusal::Permit2Required),
        (Terms { enforced_min_deposit: Some(100_001), ..terms }, Refusal::MinDeposit),
        (Terms { token_domain: &[1; 32], ..terms }, Refusal::DepositSignature),
        (Terms { domain: &[1; 32], ..terms }, Refusal::ChannelId),
    ] {
        assert_eq!(judge(&json, &terms), Err(refusal));
        assert_eq!(reason::label(&refusal.to_string()), refusal.to_string(), "a stat counts it by name");
    }
    let changed = |json: &Value, path: &str, value: Value| {
        let mut json = json.clone();
        *json.pointer_mut(path).expect(path) = value;
        json
    };
    let authorization = "/deposit/authorization/erc3009Authorization";
    let signature = text(json.pointer(&format!("{authorization}/signature")).unwrap()).to_owned();
    let voucher = text(&json["voucher"]["signature"]).to_owned();
    for (path, value, result) in [
        ("/voucher/maxClaimableAmount", json!("10001"), Err(Refusal::VoucherSignature)),
        ("/voucher/signature", json!(signature), Err(Refusal::VoucherSignature)),
        ("/deposit/amount", json!("99999"), Err(Refusal::DepositSignature)),
        ("/deposit/amount", json!("0"), Err(Refusal::MinDeposit)),
        (&format!("{authorization}/validBefore"), json!((RECORDED + 5).to_string()), Err(Refusal::DepositSignature)),
        (&format!("{authorization}/validAfter"), json!((RECORDED + 1).to_string()), Err(Refusal::ValidAfter)),
        (&format!("{authorization}/salt"), json!(format!("0x{:064x}", 1)), Err(Refusal::DepositSignature)),
        (&format!("{authorization}/signature"), json!(voucher), Err(Refusal::DepositSignature)),
        (&format!("{authorization}/signature"), json!("0x"), Err(Refusal::DepositSignature)),
        (
            &format!("{authorization}/signature"),
            json!(format!("0x{}", "00".repeat(66))),
            Ok(Judgement::FacilitatorDecides),
        ),
    ] {
        assert_eq!(judge(&changed(&json, path, value.clone()), &terms), result, "{path} {value}");
    }
    let (json, entry) = recorded("18-permit2-deposit");
    let terms = entry.terms();
    let authorization = "/deposit/authorization/permit2Authorization";
    for (path, value, result) in [
        ("from", json!(other), Refusal::Permit2Signature),
        ("permitted/token", json!(other), Refusal::Token),
        ("permitted/amount", json!("1"), Refusal::Permit2Amount),
        ("spender", json!(other), Refusal::Permit2Spender),
        ("witness/channelId", json!(format!("0x{:064x}", 1)), Refusal::ChannelId),
        ("deadline", json!((RECORDED + 5).to_string()), Refusal::Permit2Signature),
        ("nonce", json!("1"), Refusal::Permit2Signature),
    ] {
        assert_eq!(judge(&changed(&json, &format!("{authorization}/{path}"), value), &terms), Err(result), "{path}");
    }
    assert_eq!(
        judge(&json, &Terms { transfer_method: TransferMethod::Eip3009, ..terms }),
        Err(Refusal::Eip3009Required)
    );
    for (file, end, refusal) in [
        ("1-deposit", "/deposit/authorization/erc3009Authorization/validBefore", Refusal::ValidBefore),
        ("18-permit2-deposit", "/deposit/authorization/permit2Authorization/deadline", Refusal::Permit2Deadline),
    ] {
        let (json, entry) = recorded(file);
        let (payload, end) =
            (Payload::from_payload(&raw(&json)).unwrap(), text(json.pointer(end).unwrap()).parse::<u64>().unwrap());
        let judged = |seconds_left: u64| check(&payload, &entry.terms(), at(end - seconds_left));
        assert_eq!((judged(6), judged(5)), (Ok(Judgement::Valid), Err(refusal)), "{file}");
        assert!(refusal.is_of_time() && !Refusal::MinDeposit.is_of_time());
    }
    let (json, entry) = recorded("11-refund-partial");
    assert_eq!(judge(&changed(&json, "/amount", json!("0")), &entry.terms()), Err(Refusal::RefundAmount));
}

#[test]
fn channels_of_nobody_and_vouchers_of_contract_wallets_are_not_taken() {
    let domain = domain_separator(CHAIN);
    let (config, _) = channel();
    let zero = Address::from_bytes([0; 20]);
    for (config, refusal) in [
        (ChannelConfig { payer: zero, ..config }, Refusal::Payer),
        (ChannelConfig { payer_authorizer: zero, ..config }, Refusal::VoucherSignature),
    ] {
        let terms = Terms {
            domain: &domain,
            receiver: config.receiver,
            receiver_authorizer: config.receiver_authorizer,
            token: config.token,
            withdraw_delay: config.withdraw_delay,
            token_domain: &domain,
            transfer_method: TransferMethod::Eip3009,
            enforced_min_deposit: None,
        };
        let id = config.id(&domain);
        let payload = Payload { config, id, max_claimable: 1, signature: [0; 65], kind: Kind::Voucher };
        assert_eq!(check(&payload, &terms, at(0)), Err(refusal));
    }
}

#[test]
fn payloads_are_read_as_other_payments_are() {
    let (json, _) = recorded("1-deposit");
    let good = Payload::from_payload(&raw(&json)).unwrap();
    let with = |path: &str, value: Value| {
        let mut json = json.clone();
        let (parent, key) = path.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value;
        Payload::from_payload(&raw(&json)).map_err(|error| error.to_string())
    };
    for (path, value) in [
        ("/note", json!({"a": 1})),
        ("/voucher/maxClaimableAmount", json!(10_000)),
        ("/voucher/maxClaimableAmount", json!("0010000")),
        ("/channelConfig/withdrawDelay", json!(900.0)),
        ("/channelConfig/more", json!(1)),
    ] {
        assert_eq!(with(path, value).as_ref(), Ok(&good), "{path}");
    }
    for (path, value, error) in [
        ("/Type", json!("voucher"), "payload.Type: unknown field"),
        ("/channel_config", json!({}), "payload.channel_config: unknown field"),
        ("/type", json!("claim"), "payload.type: is neither"),
        ("/type", json!(1), "payload.type: invalid type"),
        ("/deposit", json!(null), "payload.deposit: is missing"),
        ("/deposit/authorization", json!({}), "payload.deposit.authorization: a deposit holds one"),
        ("/deposit/authorization/permit2Authorization", json!({}), "payload.deposit.authorization.permit2Auth"),
        ("/deposit/authorization/eip3009Authorization", json!({}), "payload.deposit.authorization.eip3009Auth"),
        ("/voucher/maxClaimableAmount", json!("340282366920938463463374607431768211456"), "payload.voucher.max"),
        ("/voucher/maxClaimableAmount", json!("1e3"), "payload.voucher.max"),
        ("/voucher/signature", json!("12"), "payload.voucher.signature: is not 0x"),
        ("/voucher/signature", json!("0x12"), "invalid_batch_settlement_evm_voucher_signature"),
        ("/voucher/channelId", json!("0x12"), "payload.voucher.channelId: is not 0x and 64"),
        ("/channelConfig/withdrawDelay", json!(1_u64 << 40), "payload.channelConfig.withdrawDelay: "),
        ("/channelConfig/payer", json!("0x"), "payload.channelConfig.payer: is not 0x and 40"),
    ] {
        let said = with(path, value).unwrap_err();
        assert!(said.starts_with(error), "{path}: {said}");
    }
}

fn row_of(claim: &Value, domain: &Word) -> Row {
    let config: ChannelConfig = read(&claim["voucher"]["channel"]);
    Row {
        chain_id: CHAIN,
        config,
        id: config.id(domain),
        max_claimable: number(&claim["voucher"]["maxClaimableAmount"]),
        signature: bytes(&claim["signature"]),
        charged: number(&claim["totalClaimed"]),
    }
}

/// A question without the signatures of who authorizes it, which are looked at by themselves.
fn without_signatures(mut body: Value) -> Value {
    let payload = body["paymentPayload"]["payload"].as_object_mut().unwrap();
    payload.retain(|name, _| !name.ends_with("AuthorizerSignature"));
    body
}

#[test]
fn a_gate_with_a_key_signs_its_claims_and_refunds() {
    let domain = domain_separator(CHAIN);
    let key = SecretKey::from_bytes(&[7; 32]).unwrap();
    let signer = Signer { key: &key, domain: &domain };
    let recording = vectors("wire/batch/batch-8-claim");
    let claims =
        &list(&recording["server_to_facilitator"])[0]["request"]["body"]["paymentPayload"]["payload"]["claims"];
    let rows: Vec<Row> = list(claims).iter().map(|claim| row_of(claim, &domain)).collect();
    let signed = |payload: &str, name: &str, digest: &Word| {
        let payload: Value = serde_json::from_str(payload).unwrap();
        let signature: [u8; 65] = bytes(&payload[name]);
        assert_eq!(Signature::from_bytes(&signature).unwrap().recover(digest), Ok(key.address()));
    };
    let digest = claim_batch_digest(&domain, rows.iter().map(|row| (row.id, row.max_claimable, row.charged)));
    signed(&claim_payload(rows.iter(), Some(&signer)), "claimAuthorizerSignature", &digest);
    let row = rows[0];
    let refund = refund_payload(&row, 0, 500, 3, Some(&signer));
    signed(&refund, "refundAuthorizerSignature", &refund_digest(&domain, row.id, 3, 500));
    let digest = claim_batch_digest(&domain, [(row.id, row.max_claimable, row.charged)].into_iter());
    signed(&refund, "claimAuthorizerSignature", &digest);
}

#[test]
fn questions_about_claims_are_the_recorded_ones() {
    let domain = domain_separator(CHAIN);
    let asked = |file: &str, number: usize| {
        let recording = vectors(&format!("wire/batch/batch-{file}"));
        list(&recording["server_to_facilitator"])[number]["request"]["body"].clone()
    };
    let compare = |body: &Value, payload: &str| {
        let terms = &body["paymentRequirements"];
        let own = question(payload, text(&terms["network"]), read(&terms["asset"]), read(&terms["payTo"]));
        assert_eq!(serde_json::from_str::<Value>(&own).unwrap(), *body);
    };
    for file in ["8-claim", "16-own-authorizer-claim"] {
        let body = asked(file, 0);
        let payload = &body["paymentPayload"]["payload"];
        let rows: Vec<Row> = list(&payload["claims"]).iter().map(|claim| row_of(claim, &domain)).collect();
        let signature = payload["claimAuthorizerSignature"].is_string();
        let signature: Option<[u8; 65]> = signature.then(|| bytes(&payload["claimAuthorizerSignature"]));
        compare(&without_signatures(body), &claim_payload(rows.iter(), None));
        if let Some(signature) = signature {
            let digest = claim_batch_digest(&domain, rows.iter().map(|row| (row.id, row.max_claimable, row.charged)));
            let signer = Signature::from_bytes(&signature).unwrap().recover(&digest);
            assert_eq!(signer, Ok(rows[0].config.receiver_authorizer));
        }
    }
    for (file, number) in [("9-settle", 0), ("16-own-authorizer-claim", 1)] {
        let body = asked(file, number);
        let payload = &body["paymentPayload"]["payload"];
        compare(&body, &settle_payload(read(&payload["receiver"]), read(&payload["token"])));
    }
    let body = asked("17-server-refund", 0);
    let payload = &body["paymentPayload"]["payload"];
    let config: ChannelConfig = read(&payload["channelConfig"]);
    let row = Row {
        chain_id: CHAIN,
        config,
        id: config.id(&domain),
        max_claimable: number(&payload["voucher"]["maxClaimableAmount"]),
        signature: bytes(&payload["voucher"]["signature"]),
        charged: 20_000,
    };
    let signature: [u8; 65] = bytes(&payload["refundAuthorizerSignature"]);
    compare(&without_signatures(body), &refund_payload(&row, 20_000, 80_000, 0, None));
    let signer = Signature::from_bytes(&signature).unwrap().recover(&refund_digest(&domain, row.id, 0, 80_000));
    assert_eq!(signer, Ok(config.receiver_authorizer));
    for (file, claimed) in [("11-refund-partial", 62_325), ("12-refund-full", 0)] {
        let body = asked(file, 1);
        let payload = &body["paymentPayload"]["payload"];
        let row = row_of(&payload["claims"][0], &domain);
        let own = refund_payload(&row, claimed, number(&payload["amount"]), number(&payload["refundNonce"]), None);
        assert_eq!(serde_json::from_str::<Value>(&own).unwrap(), *payload, "{file}");
    }
}

#[test]
fn states_are_read_where_they_stand() {
    let recording = vectors("wire/batch/batch-11-refund-partial");
    let asked = list(&recording["server_to_facilitator"]);
    let extra = |number: usize| &asked[number]["response"]["body"]["extra"];
    let id: ChannelId = read(&extra(0)["channelId"]);
    let state = |value: &Value| read_state(&raw(value), id, at(5));
    let known = OnChain { balance: 1_100_000, total_claimed: 62_325, at: at(5), ..OnChain::default() };
    assert_eq!(state(extra(0)), Some(known));
    let since = OnChain { balance: 1_095_000, total_claimed: 72_325, refund_nonce: 1, ..known };
    assert_eq!(state(extra(1)), Some(since));
    let with = |key: &str, value: Value| {
        let mut json = extra(0).clone();
        json[key] = value;
        state(&json)
    };
    assert_eq!(with("balance", json!(1_100_000)), Some(known));
    assert_eq!(with("withdrawRequestedAt", json!("7")), Some(OnChain { withdraw_requested_at: 7, ..known }));
    assert_eq!(with("channelId", json!(text(&extra(0)["channelId"]).to_uppercase().replace("0X", "0x"))), Some(known));
    for (key, value) in [
        ("balance", json!("62324")),
        ("balance", json!(null)),
        ("balance", json!("-1")),
        ("totalClaimed", json!(1.5)),
        ("withdrawRequestedAt", json!(true)),
        ("channelId", json!(format!("0x{:064x}", 1))),
    ] {
        assert_eq!(with(key, value), None, "{key}");
    }
    assert_eq!(state(&json!({})), None);
    assert_eq!(state(&json!([])), None);
}

// ------------------------------------------------------------------------------------------------------------- rules

/// A life that is written down.
struct Life {
    record: Option<Record>,
}

impl Life {
    const fn new() -> Self {
        Self { record: None }
    }

    fn perform(&mut self, now: u64, owner: u64, operation: &Operation) -> Answer {
        let (change, answer) = apply(self.record.as_ref(), owner, operation, at(now));
        match change {
            Change::Keep => {}
            Change::Put(record) => self.record = Some(*record),
        }
        answer
    }

    fn reserve(&mut self, now: u64, owner: u64, change: impl FnOnce(&mut Reserve)) -> Answer {
        let (config, id) = channel();
        let mut wanted = Reserve {
            config,
            id,
            chain_id: CHAIN,
            max_claimable: 0,
            signature: [1; 65],
            amount: 10,
            purpose: Purpose::Serve,
            until: at(now + 10),
            request: [0; 32],
            chain: None,
        };
        change(&mut wanted);
        self.perform(now, owner, &Operation::Reserve(Box::new(wanted)))
    }

    fn charge(&mut self, now: u64, owner: u64, amount: u128) -> Answer {
        self.perform(now, owner, &Operation::Charge { amount, chain: None })
    }

    fn standing(&self) -> Standing {
        self.record.unwrap().standing()
    }

    /// A channel of which 30 are charged, by one request at time 0 with a voucher of 40.
    fn begun() -> Self {
        let mut life = Self::new();
        let chain = Some(state(0, 100, 20));
        assert_eq!(life.reserve(0, 1, |wanted| (wanted.max_claimable, wanted.amount) = (40, 20)), Answer::AskFirst);
        let reserved = life.reserve(0, 1, |wanted| {
            (wanted.max_claimable, wanted.amount, wanted.chain, wanted.request) = (40, 20, chain, [1; 32]);
        });
        assert_eq!(reserved, Answer::Reserved { base: 20 });
        assert!(matches!(life.charge(0, 1, 10), Answer::Granted(_)));
        life
    }
}

fn state(now: u64, balance: u128, total_claimed: u128) -> OnChain {
    OnChain { balance, total_claimed, at: at(now), ..OnChain::default() }
}

#[test]
fn a_voucher_is_for_exactly_the_next_total() {
    let mut life = Life::begun();
    let standing = life.standing();
    assert_eq!((standing.charged, standing.max_claimable), (30, 40));
    assert_eq!(life.reserve(1, 2, |wanted| wanted.max_claimable = 39), Answer::Stale(standing));
    assert_eq!(life.reserve(1, 2, |wanted| (wanted.max_claimable, wanted.amount) = (5, 10)), Answer::Stale(standing));
    // The same as the last one, and still the next.
    assert_eq!(life.reserve(1, 2, |wanted| wanted.max_claimable = 40), Answer::Reserved { base: 30 });
    assert_eq!(life.reserve(2, 3, |wanted| wanted.max_claimable = 40), Answer::Busy);
    assert_eq!(life.charge(2, 3, 1), Answer::NotHeld);
    assert_eq!(life.charge(2, 2, 11), Answer::TooMuch);
    let release = Operation::Release { chain: None };
    assert!(matches!(life.perform(2, 2, &release), Answer::Granted(_)));
    assert_eq!(life.charge(2, 2, 1), Answer::NotHeld);
    assert_eq!(life.standing().charged, 30);
    // Who does not come back loses the channel when its time is over.
    assert_eq!(life.reserve(3, 2, |wanted| wanted.max_claimable = 40), Answer::Reserved { base: 30 });
    assert_eq!(life.reserve(13, 3, |wanted| wanted.max_claimable = 40), Answer::Reserved { base: 30 });
    assert_eq!(life.charge(14, 2, 1), Answer::NotHeld);
    assert!(matches!(life.perform(14, 3, &Operation::Extend { until: at(50) }), Answer::Granted(_)));
    assert_eq!(life.reserve(40, 2, |wanted| wanted.max_claimable = 40), Answer::Busy);
    assert!(matches!(life.charge(60, 3, 10), Answer::Granted(_)));
}

#[test]
fn a_higher_count_is_believed_within_the_balance() {
    let mut life = Life::begun();
    assert_eq!(life.reserve(1, 2, |wanted| wanted.max_claimable = 101), Answer::OverBalance);
    assert_eq!(life.standing().charged, 30);
    assert_eq!(life.reserve(1, 2, |wanted| wanted.max_claimable = 100), Answer::Reserved { base: 90 });
    assert_eq!(life.standing().charged, 90);
    let mut life = Life::begun();
    let deposit = |wanted: &mut Reserve| {
        wanted.max_claimable = 101;
        wanted.purpose = Purpose::Deposit { amount: 1 };
        wanted.chain = Some(state(1, 100, 20));
    };
    assert_eq!(life.reserve(1, 2, deposit), Answer::Reserved { base: 91 });
    let charge = Operation::Charge { amount: 10, chain: Some(state(2, 101, 20)) };
    assert!(matches!(life.perform(2, 2, &charge), Answer::Granted(_)));
    assert_eq!(life.standing().charged, 101);
}

#[test]
fn what_another_proxy_claimed_was_charged() {
    let mut life = Life::begun();
    let chain = Some(state(1, 100, 50));
    let stale = life.reserve(1, 2, |wanted| (wanted.max_claimable, wanted.chain) = (41, chain));
    assert_eq!(stale, Answer::Stale(Standing { charged: 50, ..life.standing() }));
    assert_eq!(life.reserve(1, 2, |wanted| wanted.max_claimable = 60), Answer::Reserved { base: 50 });
    // A request for nothing is for nothing that could be claimed.
    let mut life = Life::begun();
    let free = life.reserve(1, 2, |wanted| (wanted.max_claimable, wanted.amount, wanted.chain) = (50, 0, chain));
    assert_eq!(free, Answer::BelowClaimed);
}

#[test]
fn the_last_request_is_answered_once_more_and_once_only() {
    let again = |life: &mut Life, now, owner, request: u8| {
        life.reserve(now, owner, |wanted| {
            (wanted.max_claimable, wanted.amount, wanted.request) = (40, 20, [request; 32]);
        })
    };
    let mut life = Life::begun();
    let standing = life.standing();
    // Another request with the same total is of a client that has lost its count. One that is not known may be another.
    for request in [2, 0] {
        assert_eq!(again(&mut life, 1, 2, request), Answer::Stale(standing));
    }
    assert_eq!(again(&mut life, 1, 2, 1), Answer::Repeat { charged: 10, standing });
    assert_eq!(again(&mut life, 2, 3, 1), Answer::Busy);
    // What has come to nothing counts for nothing.
    assert!(matches!(life.perform(2, 2, &Operation::Release { chain: None }), Answer::Granted(_)));
    assert_eq!(again(&mut life, 2, 2, 1), Answer::Repeat { charged: 10, standing });
    assert_eq!(life.charge(2, 2, 7), Answer::Granted(standing));
    assert_eq!(again(&mut life, 3, 3, 1), Answer::TooLate(standing));
    assert_eq!(again(&mut life, 3, 3, 1), Answer::Stale(standing));
    let mut life = Life::begun();
    assert_eq!(again(&mut life, 10, 2, 1), Answer::TooLate(standing));
    assert_eq!(again(&mut life, 10, 2, 1), Answer::Stale(standing));
}

#[test]
fn what_is_known_of_the_chain_wears_out() {
    let mut life = Life::begun();
    assert_eq!(life.reserve(300, 2, |wanted| wanted.max_claimable = 40), Answer::Reserved { base: 30 });
    assert_eq!(life.reserve(301, 2, |wanted| wanted.max_claimable = 40), Answer::AskFirst);
    for purpose in [Purpose::Refund, Purpose::Deposit { amount: 1 }] {
        let asked = life.reserve(1, 3, |wanted| (wanted.max_claimable, wanted.purpose) = (40, purpose));
        assert_eq!(asked, Answer::AskFirst);
    }
    let mut life = Life::begun();
    assert!(matches!(life.perform(5, 9, &Operation::Renew), Answer::Granted(_)));
    assert_eq!(life.reserve(6, 2, |wanted| wanted.max_claimable = 40), Answer::AskFirst);
    // What was read before it is no news.
    for (read, answer) in [(4, Answer::AskFirst), (6, Answer::Reserved { base: 30 })] {
        let chain = Some(state(read, 100, 20));
        assert_eq!(life.reserve(6, 2, |wanted| (wanted.max_claimable, wanted.chain) = (40, chain)), answer);
    }
    let refresh = |read, claimed| Operation::Refresh { chain: state(read, 90, claimed) };
    assert!(matches!(life.perform(7, 9, &refresh(7, 25)), Answer::Granted(_)));
    assert!(matches!(life.perform(8, 9, &refresh(6, 30)), Answer::Granted(_)));
    assert!(matches!(life.perform(8, 9, &refresh(8, 20)), Answer::Granted(_)));
    assert_eq!(life.standing().chain, state(8, 90, 25));
    assert_eq!(Life::new().perform(1, 1, &Operation::Renew), Answer::NotHeld);
}

#[test]
fn a_withdrawal_ends_the_channel_and_is_claimed_at_once() {
    let mut life = Life::begun();
    let policy = Policy { claim_above: 1000, claim_every: 1000, refund_idle: None };
    assert_eq!(due(&life.record.unwrap(), &policy, at(1)), Due::Nothing);
    let chain = OnChain { withdraw_requested_at: 1, ..state(1, 100, 20) };
    let asked = life.reserve(1, 2, |wanted| (wanted.max_claimable, wanted.chain) = (40, Some(chain)));
    assert_eq!(asked, Answer::Withdrawing);
    assert_eq!(life.reserve(2, 2, |wanted| wanted.max_claimable = 40), Answer::Withdrawing);
    assert_eq!(due(&life.record.unwrap(), &policy, at(2)), Due::Claim { is_urgent: true });
    let refund = life.reserve(2, 2, |wanted| {
        (wanted.max_claimable, wanted.purpose, wanted.chain) = (30, Purpose::Refund, Some(chain));
    });
    assert_eq!(refund, Answer::Reserved { base: 30 });
    // Whoever nobody has served leaves nothing behind.
    let mut life = Life::new();
    let asked = life.reserve(1, 2, |wanted| (wanted.max_claimable, wanted.chain) = (10, Some(chain)));
    assert_eq!((asked, life.record), (Answer::Withdrawing, None));
}

#[test]
fn who_looked_before_a_withdrawal_does_not_undo_it() {
    let begun = |life: &mut Life| {
        let withdrawing = OnChain { withdraw_requested_at: at(40).as_secs(), ..state(40, 100, 20) };
        assert!(matches!(life.perform(40, 0, &Operation::Refresh { chain: withdrawing }), Answer::Granted(_)));
    };
    // What was asked before comes after, in the same second or in a later one.
    for (now, answer) in [
        (40, Answer::Withdrawing),
        (45, Answer::Withdrawing),
        (639, Answer::Withdrawing),
        (640, Answer::Reserved { base: 30 }),
    ] {
        let mut life = Life::begun();
        begun(&mut life);
        let chain = Some(state(now, 100, 20));
        assert_eq!(life.reserve(now, 2, |wanted| (wanted.max_claimable, wanted.chain) = (40, chain)), answer, "{now}");
    }
    // A refund takes from what is to be withdrawn.
    let mut life = Life::begun();
    begun(&mut life);
    let refunded = Some(OnChain { refund_nonce: 1, ..state(45, 60, 20) });
    assert_eq!(
        life.reserve(45, 2, |wanted| (wanted.max_claimable, wanted.chain) = (40, refunded)),
        Answer::Reserved { base: 30 }
    );
}

#[test]
fn a_refund_that_nobody_ended_may_have_come_about() {
    let refunding = || {
        let mut life = Life::begun();
        let chain = Some(state(1, 100, 20));
        let reserved = life.reserve(1, 2, |wanted| {
            (wanted.max_claimable, wanted.purpose, wanted.chain) = (30, Purpose::Refund, chain);
        });
        assert_eq!(reserved, Answer::Reserved { base: 30 });
        life
    };
    // Its worker has failed: the money may be gone.
    let mut life = refunding();
    let next = |wanted: &mut Reserve| wanted.max_claimable = 40;
    assert_eq!(life.reserve(10, 3, next), Answer::Busy);
    assert_eq!(life.reserve(11, 3, next), Answer::AskFirst);
    assert!(life.record.unwrap().wants_news(0, at(11)) && !life.record.unwrap().wants_news(0, at(10)));
    // News from while it was under way prove nothing, and those since do.
    for (read, answer) in [(10, Answer::AskFirst), (11, Answer::OverBalance)] {
        let mut life = refunding();
        life.perform(12, 0, &Operation::Refresh { chain: state(read, 30, 30) });
        assert_eq!(life.reserve(12, 3, next), answer);
    }
    let chain = Some(state(12, 100, 20));
    assert_eq!(
        life.reserve(12, 3, |wanted| (wanted.max_claimable, wanted.chain) = (40, chain)),
        Answer::Reserved { base: 30 }
    );
    // Of one that ended nothing is in doubt.
    let mut life = refunding();
    assert!(matches!(life.perform(2, 2, &Operation::Release { chain: None }), Answer::Granted(_)));
    assert_eq!(life.reserve(11, 3, next), Answer::Reserved { base: 30 });
}

#[test]
fn a_refund_is_for_what_is_charged() {
    let refund = |life: &mut Life, max: u128| {
        life.reserve(1, 2, |wanted| {
            (wanted.max_claimable, wanted.purpose, wanted.chain) = (max, Purpose::Refund, Some(state(1, 100, 20)));
        })
    };
    let mut life = Life::begun();
    assert_eq!(refund(&mut life, 29), Answer::Stale(Standing { chain: state(1, 100, 20), ..life.standing() }));
    // The client signs anew for what was charged; the higher voucher stays.
    assert_eq!(refund(&mut life, 30), Answer::Reserved { base: 30 });
    assert_eq!(life.standing().max_claimable, 40);
    assert_eq!(life.charge(1, 2, 1), Answer::TooMuch);
    let refunded =
        |balance, claimed| Operation::Refunded { chain: OnChain { refund_nonce: 1, ..state(2, balance, claimed) } };
    assert_eq!(life.perform(2, 3, &refunded(30, 30)), Answer::NotHeld);
    assert!(matches!(life.perform(2, 2, &refunded(30, 30)), Answer::Granted(_)));
    // Its count stays for a while: who heard of the channel before does not begin anew.
    assert!(life.record.unwrap().is_empty());
    assert_eq!(life.standing().charged, 30);
    let early = life.reserve(2, 3, |wanted| (wanted.max_claimable, wanted.chain) = (30, Some(state(1, 100, 20))));
    assert!(matches!(early, Answer::Stale(standing) if standing.charged == 30), "{early:?}");
    assert_eq!(life.record.unwrap().chain.balance, 30);
    // Who was told of the channel before that comes too late with it.
    let late = |now| OnChain { refund_nonce: 0, ..state(now, 100, 20) };
    assert_eq!(
        life.reserve(3, 3, |wanted| (wanted.max_claimable, wanted.chain) = (40, Some(late(3)))),
        Answer::OverBalance
    );
    assert!(life.record.is_some_and(|record| record.is_empty() && record.hold.is_none()));
    // In part; and what is yet to be claimed is not forgotten.
    for (balance, claimed) in [(31, 30), (30, 29)] {
        let mut life = Life::begun();
        assert_eq!(refund(&mut life, 30), Answer::Reserved { base: 30 });
        assert!(matches!(life.perform(2, 2, &refunded(balance, claimed)), Answer::Granted(_)));
        assert!(life.record.is_some_and(|record| record.hold.is_none()));
    }
    let mut life = Life::new();
    assert_eq!(refund(&mut life, 50), Answer::Reserved { base: 50 });
    assert_eq!(life.standing().charged, 50);
    assert_eq!(Life::begun().perform(2, 2, &refunded(30, 30)), Answer::NotHeld);
}

#[test]
fn what_was_told_before_a_refund_is_not_believed_after_it() {
    let refunded = |now, balance, refund_nonce| OnChain { refund_nonce, ..state(now, balance, 20) };
    let reserve = |life: &mut Life, now, max, purpose, chain| {
        life.reserve(now, 3, |wanted| {
            (wanted.max_claimable, wanted.purpose, wanted.chain) = (max, purpose, Some(chain))
        })
    };
    // Of a channel that was not known before, whose refund gives back all, or a part.
    for left in [20, 25] {
        let mut life = Life::new();
        assert_eq!(reserve(&mut life, 1, 20, Purpose::Refund, state(1, 100, 20)), Answer::Reserved { base: 20 });
        let done = Operation::Refunded { chain: refunded(2, left, 1) };
        assert!(matches!(life.perform(2, 3, &done), Answer::Granted(_)));
        // Another request has heard of the channel before, and comes later.
        assert_eq!(reserve(&mut life, 3, 30, Purpose::Serve, state(3, 100, 20)), Answer::OverBalance);
        assert_eq!(life.standing().chain, refunded(2, left, 1));
        // Its deposit adds to what is left, and not to what was there.
        let deposit = Purpose::Deposit { amount: 50 };
        assert_eq!(reserve(&mut life, 3, 30, deposit, state(3, 100, 20)), Answer::Reserved { base: 20 });
        let charge = Operation::Charge { amount: 10, chain: Some(state(3, 150, 20)) };
        assert!(matches!(life.perform(4, 3, &charge), Answer::Granted(_)));
        assert_eq!(life.standing().chain.balance, left + 50);
        // A chain that has forgotten the refund is believed in the end.
        assert_eq!(reserve(&mut life, 700, 40, Purpose::Serve, state(700, 150, 20)), Answer::Reserved { base: 30 });
    }
}

#[test]
fn a_channel_without_money_is_nothing_to_keep() {
    let reserve = |life: &mut Life, max| {
        life.reserve(1, 3, |wanted| {
            (wanted.max_claimable, wanted.purpose) = (max, Purpose::Deposit { amount: 100 });
            wanted.chain = Some(state(1, 0, 0));
        })
    };
    // What was charged before, the deposit does not vouch for.
    let mut life = Life::new();
    assert_eq!(reserve(&mut life, 90), Answer::OverBalance);
    assert_eq!(life.record, None);
    let free = Operation::Charge { amount: 0, chain: None };
    for operation in [Operation::Release { chain: None }, free] {
        assert_eq!(reserve(&mut life, 10), Answer::Reserved { base: 0 });
        assert!(life.record.is_some_and(|record| !record.is_unused(at(1))));
        assert!(matches!(life.perform(1, 3, &operation), Answer::Granted(_)));
        assert!(life.record.is_some_and(|record| record.is_unused(at(1)) && record.is_empty()));
    }
    assert_eq!(reserve(&mut life, 10), Answer::Reserved { base: 0 });
    let settled = Operation::Release { chain: Some(state(2, 100, 0)) };
    assert!(matches!(life.perform(2, 3, &settled), Answer::Granted(_)));
    assert!(life.record.is_some_and(|record| !record.is_unused(at(2)) && !record.is_empty()));
}

#[test]
fn one_claim_at_a_time_and_what_failed_waits() {
    let mut life = Life::begun();
    let begin = Operation::BeginClaim { until: at(60) };
    let end = Operation::EndClaim { claimed: 30 };
    let row = life.record.unwrap().row();
    assert_eq!((row.charged, row.max_claimable), (30, 40));
    assert_eq!(life.perform(1, 8, &end), Answer::NotHeld);
    assert_eq!(life.perform(1, 8, &begin), Answer::Row(row));
    assert_eq!(life.perform(2, 9, &begin), Answer::Busy);
    assert_eq!(life.perform(2, 9, &end), Answer::NotHeld);
    assert_eq!(life.perform(2, 9, &Operation::FailClaim), Answer::NotHeld);
    assert!(matches!(life.perform(2, 8, &Operation::FailClaim), Answer::Granted(_)));
    assert_eq!(life.record.unwrap().failed_claims, 1);
    let policy = Policy { claim_above: 10, claim_every: 1000, refund_idle: Some(500) };
    assert_eq!(life.perform(61, 8, &begin), Answer::Busy);
    assert_eq!(due(&life.record.unwrap(), &policy, at(61)), Due::Nothing);
    assert_eq!(due(&life.record.unwrap(), &policy, at(62)), Due::Claim { is_urgent: false });
    assert_eq!(life.perform(62, 8, &Operation::BeginClaim { until: at(90) }), Answer::Row(row));
    // The channel serves meanwhile.
    assert_eq!(life.reserve(63, 1, |wanted| wanted.max_claimable = 40), Answer::Reserved { base: 30 });
    assert!(matches!(life.charge(63, 1, 5), Answer::Granted(_)));
    assert!(matches!(life.perform(64, 8, &end), Answer::Granted(_)));
    let record = life.record.unwrap();
    assert_eq!((record.failed_claims, record.unclaimed(), record.unclaimed_since), (0, 5, at(64)));
    let policy = Policy { claim_above: 6, claim_every: 100, ..policy };
    assert_eq!(due(&record, &policy, at(163)), Due::Nothing);
    assert_eq!(due(&record, &policy, at(164)), Due::Claim { is_urgent: false });
    assert_eq!(life.perform(165, 8, &Operation::BeginClaim { until: at(200) }), Answer::Row(record.row()));
    let all = Operation::EndClaim { claimed: 35 };
    assert!(matches!(life.perform(166, 8, &all), Answer::Granted(_)));
    let record = life.record.unwrap();
    assert_eq!((record.unclaimed(), record.unclaimed_since), (0, at(0)));
    assert_eq!(life.perform(167, 8, &begin), Answer::NotHeld);
    assert_eq!(due(&record, &policy, at(562)), Due::Nothing);
    assert_eq!(due(&record, &policy, at(563)), Due::Refund);
}

#[test]
fn what_its_payer_has_taken_is_lost_and_the_rest_is_claimed() {
    let mut life = Life::begun();
    let news = |at, balance| Operation::Refresh { chain: state(at, balance, 20) };
    life.perform(1, 9, &news(1, 25));
    let record = life.record.unwrap();
    assert_eq!((record.owed(), record.unclaimed(), record.lost(), record.row().charged), (10, 5, 5, 25));
    assert!(
        matches!(life.perform(2, 8, &Operation::BeginClaim { until: at(60) }), Answer::Row(row) if row.charged == 25)
    );
    assert!(matches!(life.perform(3, 8, &Operation::EndClaim { claimed: 25 }), Answer::Granted(_)));
    // Who told of the balance may have looked before something was put in: the rest is tried until that is long ago.
    let record = life.record.unwrap();
    assert_eq!((record.unclaimed(), record.lost(), record.row().charged), (5, 0, 30));
    life.perform(700, 9, &Operation::Refresh { chain: state(700, 25, 25) });
    let record = life.record.unwrap();
    assert_eq!((record.unclaimed(), record.lost(), record.unclaimed_since), (0, 5, at(0)));
    let policy = Policy { claim_above: 1, claim_every: 1, refund_idle: Some(1) };
    assert_eq!(due(&record, &policy, at(1700)), Due::Nothing);
    assert_eq!(life.perform(701, 8, &Operation::BeginClaim { until: at(760) }), Answer::NotHeld);
    // Who puts it in again has paid it.
    life.perform(702, 9, &Operation::Refresh { chain: state(702, 100, 25) });
    let record = life.record.unwrap();
    assert_eq!((record.unclaimed(), record.lost(), record.unclaimed_since), (5, 0, at(702)));
}

#[test]
fn what_a_deposit_may_yet_bring_is_claimed_in_full_at_first() {
    let mut life = Life::begun();
    let deposit = life.reserve(1, 1, |wanted| {
        (wanted.max_claimable, wanted.purpose) = (130, Purpose::Deposit { amount: 100 });
        (wanted.amount, wanted.chain) = (100, Some(state(1, 100, 20)));
    });
    assert_eq!(deposit, Answer::Reserved { base: 30 });
    assert!(matches!(life.charge(2, 1, 90), Answer::Granted(_)));
    let record = life.record.unwrap();
    assert_eq!((record.is_outdated, record.unclaimed(), record.lost()), (true, 100, 0));
    let mut now = 3;
    for _ in 0..3 {
        let row = life.perform(now, 8, &Operation::BeginClaim { until: at(now + 600) });
        assert!(matches!(row, Answer::Row(row) if row.charged == 120), "{row:?}");
        life.perform(now, 8, &Operation::FailClaim);
        now += 240;
    }
    let record = life.record.unwrap();
    assert_eq!((record.unclaimed(), record.lost(), record.row().charged), (80, 20, 100));
    // The deposit has come about.
    life.perform(now, 9, &Operation::Refresh { chain: state(now, 200, 20) });
    assert_eq!((life.record.unwrap().unclaimed(), life.record.unwrap().lost()), (100, 0));
}

#[test]
fn a_count_beyond_what_the_channel_held_is_nobodys() {
    let mut life = Life::begun();
    let deposit = |wanted: &mut Reserve, max| {
        (wanted.max_claimable, wanted.purpose) = (max, Purpose::Deposit { amount: 1000 });
        wanted.chain = Some(state(1, 100, 20));
    };
    assert_eq!(life.reserve(1, 1, |wanted| deposit(wanted, 111)), Answer::OverBalance);
    assert_eq!(life.record.unwrap().charged, 30);
    assert_eq!(life.reserve(1, 1, |wanted| deposit(wanted, 110)), Answer::Reserved { base: 100 });
}

#[test]
fn a_claim_that_has_failed_may_be_asked_for_at_once() {
    let mut life = Life::begun();
    let (begin, now) = (Operation::BeginClaim { until: at(60) }, Operation::ClaimNow { until: at(60) });
    assert!(matches!(life.perform(1, 8, &begin), Answer::Row(_)));
    assert_eq!(life.perform(1, 9, &now), Answer::Busy);
    life.perform(2, 8, &Operation::FailClaim);
    assert!(life.record.unwrap().is_set_aside());
    assert_eq!(life.perform(3, 9, &begin), Answer::Busy);
    assert!(matches!(life.perform(3, 9, &now), Answer::Row(_)));
    assert!(!life.record.unwrap().is_set_aside());
}

#[test]
fn a_record_survives_the_store_and_nothing_else_is_one() {
    let mut life = Life::begun();
    let deposit = life.reserve(1, 7, |wanted| {
        wanted.max_claimable = 40;
        wanted.purpose = Purpose::Deposit { amount: 77 };
        wanted.chain = Some(OnChain { refund_nonce: 5, ..state(1, u128::MAX, 20) });
    });
    assert_eq!(deposit, Answer::Reserved { base: 30 });
    assert!(matches!(life.perform(2, 8, &Operation::BeginClaim { until: at(60) }), Answer::Row(_)));
    life.perform(2, 8, &Operation::Renew);
    let record = life.record.unwrap();
    let bytes = record.encode();
    assert_eq!(Record::decode(&bytes), Some(record));
    assert!(bytes.len() <= 492 && bytes.starts_with(&Record::start(record.id)), "{}", bytes.len());
    assert_eq!(Record::decode(&[0; Record::BYTES]), None);
    assert_eq!(Record::decode(&[2; Record::BYTES]).map(|record| record.hold.is_some()), Some(true));
    assert_eq!(Record::decode(&[0xff; Record::BYTES]), None);
    for (at, byte) in [(0, 1), (0, 3), (Record::BYTES - 2, 5), (Record::BYTES - 2, 64)] {
        let mut bytes = bytes;
        bytes[at] = byte;
        assert_eq!(Record::decode(&bytes), None, "{at}");
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod at_random {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use x402_proxy_wasm::evm::keccak256;

    use crate::common::lives;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// Charged never sinks and is never above what was signed or is there, one request at a time holds a channel, and what is
        /// owed is never forgotten, whatever anybody does.
        #[test]
        fn every_life_keeps_the_books(bytes in vec(any::<u8>(), 0..4000)) {
            lives::play(&bytes);
        }
    }

    #[test]
    fn lives_are_eventful() {
        let charges: u32 = (0_u32..200)
            .map(|number| {
                let blocks = (0_u32..100).map(|block| keccak256(&[number.to_be_bytes(), block.to_be_bytes()].concat()));
                lives::play(&blocks.flatten().collect::<Vec<u8>>())
            })
            .sum();
        assert!(charges > 2000, "{charges}");
    }
}

#[test]
fn a_payment_that_is_written_for_a_facilitator_later_is_the_one_that_is_written_at_once() {
    let config = x402_proxy_wasm::config::Config::from_json(
        br#"{"facilitator": {"cluster": "f", "url": "http://f"}, "routes": [{"match": {"path": "/"}, "price": "$1",
            "accepts": [{"scheme": "exact", "network": "base", "asset": "USDC",
                "pay_to": "0x1111111111111111111111111111111111111111"}]}]}"#,
    )
    .unwrap();
    let requirement = &config.routes[0].terms.as_ref().unwrap().offers[0].requirement;
    let accepted = serde_json::to_string(requirement).unwrap();
    let both = r#","resource":{"url":"https://x/\u00e9"},"extensions":{"a":{"b":[1, 2.50]}}"#;
    for beside in ["", r#","resource":{"url":"https://x/y"}"#, both] {
        let text = format!(r#"{{"x402Version":2,"payload":{{"a":1}},"accepted":{accepted}{beside}}}"#);
        let payment = x402_proxy_wasm::x402::PaymentPayload::from_json(text.as_bytes()).unwrap();
        let at_once = payment.to_wire(&"payload", requirement);
        assert_eq!(payment.companions().to_wire(&"payload", requirement), at_once);
        assert!(beside.is_empty() || at_once.contains(r#""resource":{"url""#), "{at_once}");
    }
}

#[test]
fn who_looked_before_a_deposit_and_tells_of_it_later_hides_nothing_of_what_is_claimed() {
    let mut life = Life::new();
    let deposit = life.reserve(1000, 1, |wanted| {
        (wanted.max_claimable, wanted.purpose) = (40, Purpose::Deposit { amount: 100 });
        (wanted.amount, wanted.chain) = (40, Some(state(1000, 0, 0)));
    });
    assert_eq!(deposit, Answer::Reserved { base: 0 });
    let charge = Operation::Charge { amount: 40, chain: Some(state(1000, 100, 0)) };
    assert!(matches!(life.perform(1000, 1, &charge), Answer::Granted(_)));
    life.perform(1000, 2, &Operation::Refresh { chain: state(1000, 0, 0) });
    let record = life.record.unwrap();
    assert_eq!((record.unclaimed(), record.lost(), record.row().charged), (40, 0, 40));
    let policy = Policy { claim_above: 1000, claim_every: 300, refund_idle: None };
    assert_eq!(due(&record, &policy, at(1300)), Due::Claim { is_urgent: false });
}
