//! Published and recorded figures: typed data, signatures, addresses, the table of networks, and whole exchanges of
//! the official packages.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{PAY_TO, Stage, base_config, decode, read_config, upstream};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::evm::eip712::{self, Domain, Word};
use x402_proxy_wasm::evm::eip3009::Authorization;
use x402_proxy_wasm::evm::erc6492::{Wrapper, is_wrapped};
use x402_proxy_wasm::evm::signature::{Signature, SignatureError};
use x402_proxy_wasm::evm::{Address, HexError, keccak256};
use x402_proxy_wasm::exchange::{CallKind, Event, RequestHead, UpstreamHead};
use x402_proxy_wasm::facilitator::cdp::CdpKey;
use x402_proxy_wasm::facilitator::{CalloutAnswer, Settlement, Verification, read_settlement, read_verification};
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::networks::{NETWORKS, V1_NAMES};
use x402_proxy_wasm::scheme::{self, Judgement};
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::payment::{Payer, PaymentPayload, Signed};
use x402_proxy_wasm::x402::requirement::TransferMethod;
use x402_proxy_wasm::x402::{TransactionId, Version, header};

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
        "address",
        "cdp",
        "eip712",
        "erc6492",
        "wycheproof-secp256k1",
        "wire/v1-exact",
        "wire/v2-bad-header",
        "wire/v2-exact-eip3009",
        "wire/v2-exact-permit2",
        "wire/v2-exact-permit2-allowance-required",
        "wire/v2-exact-post",
        "wire/v2-exact-upfront",
        "wire/v2-multi-accepts",
        "wire/v2-settle-fail",
        "wire/v2-upstream-500",
        "wire/v2-upto",
        "wire/v2-upto-zero",
        "wire/v2-verify-fail-insufficient",
    ];
    serde_json::from_str(text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value).trim_start_matches("0x")).expect("hexadecimal digits")
}

fn word(value: &Value) -> Word {
    bytes(value).try_into().expect("32 bytes")
}

fn address(value: &Value) -> Address {
    text(value).parse().unwrap_or_else(|error| panic!("{value} {error}"))
}

fn separator(domain: &Value) -> Word {
    Domain {
        name: text(&domain["name"]),
        version: domain.get("version").map(text),
        chain_id: text(&domain["chainId"]).parse().unwrap(),
        verifying_contract: address(&domain["verifyingContract"]),
    }
    .separator()
}

fn uint(value: &Value) -> Word {
    Amount::parse(text(value)).unwrap().to_be_bytes()
}

fn signer(signature: &Value, digest: &Word) -> Result<Address, SignatureError> {
    Signature::from_bytes(&bytes(signature))?.recover(digest)
}

// -------------------------------------------------------------------------------------------------- typed data

#[test]
fn the_mail_of_eip_712_hashes_as_published() {
    let mail = &vectors("eip712")["mail"];
    let message = &mail["message"];
    let person = |person: &Value| {
        let name = keccak256(text(&person["name"]).as_bytes());
        eip712::struct_hash(
            &keccak256(b"Person(string name,address wallet)"),
            &[name, address(&person["wallet"]).to_word()],
        )
    };
    let contents = keccak256(text(&message["contents"]).as_bytes());
    let fields = [person(&message["from"]), person(&message["to"]), contents];
    let struct_hash = eip712::struct_hash(&keccak256(text(&mail["encodeType"]).as_bytes()), &fields);
    assert_eq!(struct_hash, word(&mail["structHash"]));
    assert_eq!(separator(&mail["domain"]), word(&mail["domainSeparator"]));
    let digest = eip712::digest(&separator(&mail["domain"]), &struct_hash);
    assert_eq!(digest, word(&mail["digest"]));
    assert_eq!(signer(&mail["signature"], &digest), Ok(address(&mail["signer"])));
}

#[test]
fn domain_separators_are_those_that_deployed_tokens_report() {
    let vectors = vectors("eip712");
    let domains = list(&vectors["domains"]);
    assert!(domains.len() >= 20);
    for vector in domains {
        assert_eq!(separator(&vector["domain"]), word(&vector["domainSeparator"]), "{}", vector["what"]);
    }
}

#[test]
fn permit2_has_a_domain_without_version() {
    let vectors = vectors("eip712");
    let permit2 = list(&vectors["permit2"]["vectors"]);
    assert!(permit2.len() >= 8);
    for vector in permit2 {
        let (id, message) = (&vector["id"], &vector["message"]);
        let domain_separator = separator(&vector["domain"]);
        assert_eq!(domain_separator, word(&vector["domainSeparator"]), "{id}");
        let permitted = &message["permitted"];
        let permitted = eip712::struct_hash(
            &keccak256(b"TokenPermissions(address token,uint256 amount)"),
            &[address(&permitted["token"]).to_word(), uint(&permitted["amount"])],
        );
        let fields = [
            permitted,
            address(&message["spender"]).to_word(),
            uint(&message["nonce"]),
            uint(&message["deadline"]),
            word(&vector["witnessHash"]),
        ];
        let scheme = &vectors["permit2"]["schemes"][text(&vector["scheme"])];
        let struct_hash = eip712::struct_hash(&keccak256(text(&scheme["encodeType"]).as_bytes()), &fields);
        assert_eq!(struct_hash, word(&vector["structHash"]), "{id}");
        let digest = eip712::digest(&domain_separator, &struct_hash);
        assert_eq!(digest, word(&vector["digest"]), "{id}");
        assert_eq!(signer(&vector["signature"], &digest), Ok(address(&vector["signer"])), "{id}");
    }
}

#[test]
fn transfers_with_authorization_hash_and_recover() {
    let vectors = vectors("eip712");
    let transfers = list(&vectors["eip3009"]["vectors"]);
    assert!(transfers.len() >= 23);
    for vector in transfers {
        let id = &vector["id"];
        let authorization: Authorization = serde_json::from_value(vector["message"].clone()).unwrap();
        let domain_separator = separator(&vector["domain"]);
        assert_eq!(domain_separator, word(&vector["domainSeparator"]), "{id}");
        let digest = authorization.digest(&domain_separator);
        assert_eq!(digest, word(&vector["digest"]), "{id}");
        assert_eq!(signer(&vector["signature"], &digest), Ok(address(&vector["signer"])), "{id}");
        assert_eq!(authorization.from, address(&vector["signer"]), "{id}");
    }
}

#[test]
fn malformed_signatures_are_never_the_payers() {
    let vectors = vectors("eip712");
    let transfers: BTreeMap<&str, &Value> =
        list(&vectors["eip3009"]["vectors"]).iter().map(|vector| (text(&vector["id"]), vector)).collect();
    let malformed = list(&vectors["malformed"]);
    assert!(malformed.len() >= 63);
    for vector in malformed {
        let (of, wrong) = (text(&vector["of"]), text(&vector["wrong"]));
        let transfer = transfers[of];
        let found = signer(&vector["signature"], &word(&transfer["digest"]));
        let expected = match wrong {
            "high_s" | "high_s_same_v" => Err(SignatureError::HighS),
            "v_0_1" | "v_29" | "v_eip155" | "v_255" | "all_zero" => Err(SignatureError::RecoveryId),
            "compact_eip2098" | "bytes_66" | "bytes_66_front" | "bytes_63" | "bytes_0" => Err(SignatureError::Length),
            "r_zero" | "s_zero" | "r_is_n" | "s_is_n" | "r_max" | "s_max" => Err(SignatureError::Scalar),
            "r_not_on_curve" => Err(SignatureError::Unrecoverable),
            "v_flipped" | "other_signer" => Ok(address(&vector["recovers"])),
            other => panic!("{other} is a new kind"),
        };
        assert_eq!(found, expected, "{of}: {wrong}");
        assert_ne!(found, Ok(address(&transfer["signer"])), "{of}: {wrong}");
    }
}

#[test]
fn wrapped_signatures_are_taken_apart_as_viem_does() {
    let vectors = vectors("erc6492");
    let [good, bad, unwrapped] = ["good", "bad", "unwrapped"].map(|kind| list(&vectors[kind]));
    assert!(good.len() >= 15 && bad.len() >= 20 && unwrapped.len() >= 5);
    for vector in good {
        let (what, signature, parsed) = (text(&vector["what"]), bytes(&vector["signature"]), &vector["parsed"]);
        let wrapper = Wrapper::parse(&signature).unwrap_or_else(|| panic!("{what}"));
        assert!(is_wrapped(&signature), "{what}");
        assert_eq!(wrapper.factory, address(&parsed["address"]), "{what}");
        assert_eq!(wrapper.calldata, bytes(&parsed["data"]), "{what}");
        assert_eq!(wrapper.signature, bytes(&parsed["signature"]), "{what}");
    }
    for (vectors, ends_with_magic) in [(bad, true), (unwrapped, false)] {
        for vector in vectors {
            let (what, signature) = (text(&vector["what"]), bytes(&vector["signature"]));
            assert_eq!(is_wrapped(&signature), ends_with_magic, "{what}");
            assert_eq!(Wrapper::parse(&signature), None, "{what}");
        }
    }
}

/// ECDSA alone takes more than tokens do: these are good signatures that `ecrecover` finds nobody in, because their
/// point's x lies beyond the group's order.
const BEYOND_ECRECOVER: [u64; 2] = [115, 247];

#[test]
fn wycheproofs_signatures_are_told_apart() {
    let vectors = vectors("wycheproof-secp256k1");
    let mut beyond = Vec::new();
    let mut count = 0;
    for group in list(&vectors["groups"]) {
        let key = bytes(&group["publicKey"]);
        let expected = Address::from_bytes(*keccak256(&key[1..]).last_chunk().unwrap());
        for test in list(&group["tests"]) {
            count += 1;
            let (id, digest, is_valid) = (test["id"].as_u64().unwrap(), word(&test["digest"]), test["valid"] == true);
            let what = format!("{id} ({})", test["comment"]);
            let rs = bytes(&test["signature"]);
            let low = with_low_s(&rs);
            let finds = |rs: &[u8]| {
                let found = [27, 28].map(|v| {
                    Signature::from_bytes(&[rs, &[v]].concat()).and_then(|signature| signature.recover(&digest))
                });
                found.iter().filter(|found| **found == Ok(expected)).count()
            };
            match (is_valid, low) {
                (false, low) => assert_eq!((finds(&rs), low.map_or(0, |low| finds(&low))), (0, 0), "{what}"),
                (true, Some(low)) => {
                    if low != rs {
                        let refused = Signature::from_bytes(&[&rs[..], &[27]].concat());
                        assert_eq!(refused.err(), Some(SignatureError::HighS), "{what}");
                    }
                    match finds(&low) {
                        1 => {}
                        0 => beyond.push(id),
                        more => panic!("{what}: {more} recoveries"),
                    }
                }
                (true, None) => panic!("{what}: a good signature that is none"),
            }
        }
    }
    assert_eq!(count, 252);
    assert_eq!(beyond, BEYOND_ECRECOVER);
}

/// `r ‖ s` with the lower of `s` and its negative; `None` where the bytes are no signature.
fn with_low_s(rs: &[u8]) -> Option<Vec<u8>> {
    Some(k256::ecdsa::Signature::from_slice(rs).ok()?.normalize_s().to_bytes().to_vec())
}

// --------------------------------------------------------------------------------------------------- addresses

#[test]
fn addresses_keep_and_need_their_checksum() {
    let vectors = vectors("address");
    for vector in list(&vectors["checksummed"]) {
        let address = address(&vector["address"]);
        assert_eq!(address.to_string(), text(&vector["address"]));
        assert_eq!(text(&vector["lower"]).parse(), Ok(address));
        assert_eq!(serde_json::to_value(address).unwrap(), vector["address"]);
    }
    assert!(list(&vectors["wrong"]).len() >= 16);
    for vector in list(&vectors["wrong"]) {
        assert_eq!(text(&vector["address"]).parse::<Address>(), Err(HexError::Checksum), "{vector}");
        assert!(serde_json::from_value::<Address>(vector["address"].clone()).is_err(), "{vector}");
        text(&vector["right"]).parse::<Address>().unwrap();
    }
}

// ---------------------------------------------------------------------------------------------------- networks

#[test]
fn the_documents_name_all_networks() {
    let (readme, chapter) = (include_str!("../../README.md"), include_str!("../../docs/networks.md"));
    assert!(readme.contains(&format!("on {} chains", NETWORKS.len())), "README.md says how many networks there are");
    for network in NETWORKS {
        assert!(chapter.contains(&format!("`{}`", network.name)), "docs/networks.md lists {}", network.name);
    }
}

#[test]
fn the_table_of_networks_names_everything_once() {
    let names: BTreeSet<_> = NETWORKS.iter().map(|network| network.name).collect();
    let ids: BTreeSet<_> = NETWORKS.iter().map(|network| network.chain_id).collect();
    assert_eq!((names.len(), ids.len()), (NETWORKS.len(), NETWORKS.len()));
    for network in NETWORKS {
        let symbols: BTreeSet<_> = network.assets.iter().map(|asset| asset.symbol).collect();
        let addresses: BTreeSet<_> = network.assets.iter().map(|asset| asset.address.to_lowercase()).collect();
        assert!(!symbols.is_empty(), "{}", network.name);
        assert_eq!((symbols.len(), addresses.len()), (network.assets.len(), network.assets.len()), "{}", network.name);
    }
    for name in V1_NAMES {
        assert!(names.contains(name), "version 1 knows {name}, and the table does not");
    }
}

#[test]
fn the_tables_addresses_are_checksummed_and_its_domains_as_published() {
    let vectors = vectors("eip712");
    let mut reproduced = BTreeSet::new();
    for network in NETWORKS {
        for asset in network.assets {
            let what = format!("{} on {}", asset.symbol, network.name);
            let verifying_contract: Address = asset.address.parse().unwrap_or_else(|error| panic!("{what} {error}"));
            assert_eq!(verifying_contract.to_string(), asset.address, "{what}");
            let separator = Domain {
                name: asset.eip712_name,
                version: Some(asset.eip712_version),
                chain_id: network.chain_id,
                verifying_contract,
            }
            .separator();
            for vector in list(&vectors["domains"]) {
                let domain = &vector["domain"];
                let is_same = text(&domain["chainId"]) == network.chain_id.to_string()
                    && address(&domain["verifyingContract"]) == verifying_contract;
                if is_same {
                    assert_eq!(separator, word(&vector["domainSeparator"]), "{what}");
                    reproduced.insert(what.clone());
                }
            }
        }
    }
    assert!(reproduced.len() >= 19, "{reproduced:?}");
}

#[test]
fn every_asset_of_the_table_can_be_charged() {
    for network in NETWORKS {
        for asset in network.assets {
            let mut json = base_config();
            json["defaults"]["accepts"] = json!([{"scheme": "exact", "network": network.name, "asset": asset.symbol}]);
            let config = read_config(&json);
            let requirement = &config.routes[0].terms.as_ref().unwrap().offers[0].requirement;
            let evm = requirement.evm().unwrap();
            assert_eq!(evm.chain_id, network.chain_id);
            assert_eq!(evm.asset.to_string(), asset.address);
            assert_eq!(requirement.amount, Amount::from(10_u64.pow(u32::from(asset.decimals) - 3)), "$0.001");
            assert_eq!(evm.v1_network.is_some(), V1_NAMES.contains(&network.name), "{}", network.name);
        }
    }
}

// ------------------------------------------------------------------------------------------- recorded exchanges

/// What the recorded server asked, but for the routes of schemes that the filter does not know.
fn recorded_config() -> Value {
    let route = |path: &str| {
        json!({
            "match": {"path": path},
            "price": "$0.001",
            "description": "Weather data",
            "mime_type": "application/json",
        })
    };
    let mut upfront = route("/upfront");
    upfront["settle"] = "before".into();
    json!({
        "facilitator": {"cluster": "facilitator", "url": "http://127.0.0.1:4031"},
        "defaults": {
            "pay_to": PAY_TO,
            "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}],
            "settle": "after",
            "max_timeout_seconds": 300,
        },
        "routes": [
            route("/weather"), upfront, route("/settlefail"), route("/fail500"), route("/multi"), route("/permit2"),
            route("/upto"),
        ],
    })
}

/// Recordings of payments by `exact` and EIP-3009.
const EXACT: [&str; 7] = [
    "v2-exact-eip3009",
    "v2-exact-post",
    "v2-exact-upfront",
    "v2-multi-accepts",
    "v2-settle-fail",
    "v2-upstream-500",
    "v2-verify-fail-insufficient",
];

fn recording(name: &str) -> Value {
    vectors(&format!("wire/{name}"))
}

/// The head that Envoy would show of a recorded request.
fn recorded_head(request: &Value) -> RequestHead {
    let host = list(&request["headers"]).iter().find(|header| text(&header[0]).eq_ignore_ascii_case("host"));
    let authority = host.expect("a Host header")[1].clone();
    let pseudo = [
        (":method", &request["method"]),
        (":scheme", &Value::from("http")),
        (":authority", &authority),
        (":path", &request["url"]),
    ]
    .map(|(name, value)| (name.to_owned(), text(value).to_owned()));
    let headers =
        list(&request["headers"]).iter().map(|header| (text(&header[0]).to_owned(), text(&header[1]).to_owned()));
    RequestHead::new(pseudo.into_iter().chain(headers).map(|(name, value)| (name.into_bytes(), value.into_bytes())))
}

fn recorded_answer(exchange: &Value) -> CalloutAnswer {
    let status = u16::try_from(exchange["response"]["status"].as_u64().unwrap()).unwrap();
    CalloutAnswer::Answered { status, body: exchange["response"]["body"].to_string().into_bytes() }
}

fn valid_before(payment: &Value) -> u64 {
    text(&payment["payload"]["authorization"]["validBefore"]).parse().unwrap()
}

#[test]
fn recorded_terms_are_ours() {
    for name in EXACT.into_iter().filter(|name| *name != "v2-multi-accepts") {
        let unpaid = &recording(name)["client_to_server"][0];
        let request = Stage::new(&recorded_config()).start(&recorded_head(&unpaid["request"]));
        assert_eq!(request.story(), "= unpaid, reply 402", "{name}");
        let ours = decode(request.reply_header("payment-required").unwrap());
        assert_eq!(ours, unpaid["response"]["decoded"]["PAYMENT-REQUIRED"], "{name}");
        assert_eq!(request.reply_header("cache-control"), Some("no-store"), "{name}");
    }
}

#[test]
fn recorded_terms_of_version_1_are_ours_but_for_the_schema() {
    let mut unpaid = recording("v1-exact")["client_to_server"][0].clone();
    let mut json = recorded_config();
    json["defaults"]["max_timeout_seconds"] = 60.into();
    let request = Stage::new(&json).start(&recorded_head(&unpaid["request"]));
    let theirs = &mut unpaid["response"]["body"];
    let schema = theirs["accepts"][0].as_object_mut().unwrap().remove("outputSchema");
    assert!(schema.is_some(), "what only the official server knows");
    assert_eq!(request.body(), *theirs);
}

#[test]
fn recorded_payments_meet_their_terms() {
    let config = read_config(&recorded_config());
    for name in EXACT {
        let recording = recording(name);
        let request = &recording["client_to_server"][1]["request"];
        let head = recorded_head(request);
        let header_value = head.all(header::PAYMENT_SIGNATURE).next().unwrap();
        let json = header::decode(header_value).unwrap();
        let payment = PaymentPayload::from_json(&json).unwrap();
        let index = usize::from(text(&request["url"]) == "/upfront");
        let offer = &config.routes[index].terms.as_ref().unwrap().offers[0];
        assert!(offer.requirement.is(&payment.accepted), "{name}");
        let exact_payment = Signed::from_payload(payment.payload, TransferMethod::Eip3009).unwrap();
        let end = exact_payment.authorization.valid_before().to_unix_time().as_secs();
        let evm = offer.requirement.evm().unwrap();
        let check = |now| scheme::check(&exact_payment, &offer.requirement, evm, UnixTime::from_secs(now));
        for now in [end - 4200, end - 300, end - 6] {
            assert_eq!(check(now), Ok(Judgement::Valid), "{name} at {now}");
        }
        assert!(check(end - 4201).is_err(), "{name}");
        assert!(check(end - 5).is_err(), "{name}");
    }
}

#[test]
fn recorded_answers_of_facilitators_are_understood() {
    let config = read_config(&recorded_config());
    let requirement = &config.routes[0].terms.as_ref().unwrap().offers[0].requirement;
    let mut seen = 0;
    for name in EXACT {
        for call in list(&recording(name)["server_to_facilitator"]) {
            seen += 1;
            let answer = recorded_answer(call);
            let body = &call["response"]["body"];
            let payer = address(&call["request"]["body"]["paymentPayload"]["payload"]["authorization"]["from"]);
            let payer = Payer::Evm(payer);
            let url = text(&call["request"]["url"]);
            if url == CallKind::Verify.path() {
                let expected = match body.get("invalidReason") {
                    None => Verification::Valid,
                    Some(reason) => Verification::Invalid(text(reason).to_owned()),
                };
                assert_eq!(body["isValid"] == true, expected == Verification::Valid);
                assert_eq!(read_verification(&answer, &payer), expected, "{name}");
            } else {
                assert_eq!(url, CallKind::Settle.path());
                let expected = match body.get("errorReason") {
                    None => Settlement::Settled(TransactionId::Evm(text(&body["transaction"]).parse().unwrap())),
                    Some(reason) => Settlement::Refused(text(reason).to_owned()),
                };
                assert_eq!(body["success"] == true, matches!(expected, Settlement::Settled(_)));
                assert_eq!(read_settlement(&answer, Version::V2, requirement, &payer), expected, "{name}");
            }
        }
    }
    assert_eq!(seen, 11);
}

#[test]
fn recorded_exchanges_go_the_same_way_here() {
    for name in EXACT {
        let recording = recording(name);
        let paid = &recording["client_to_server"][1];
        let mut stage = Stage::new(&recorded_config());
        stage.now = valid_before(&paid["request"]["decoded"]["PAYMENT-SIGNATURE"]) - 300;
        let mut request = stage.start(&recorded_head(&paid["request"]));
        let upstream_status = if name == "v2-upstream-500" { 500 } else { 200 };
        let mut calls = list(&recording["server_to_facilitator"]).iter();
        while !request.is_over() {
            if let Some(ours) = &request.call {
                let theirs = calls.next().unwrap_or_else(|| panic!("{name}: one call more than recorded"));
                assert_eq!(ours.kind.path(), text(&theirs["request"]["url"]), "{name}");
                let body: Value = serde_json::from_str(&ours.body).unwrap();
                assert_eq!(body, theirs["request"]["body"], "{name}");
                stage.step(&mut request, Event::Callout(recorded_answer(theirs)));
            } else {
                assert!(request.is_at_upstream(), "{name}: {}", request.story());
                stage.step(&mut request, upstream(upstream_status));
            }
        }
        assert_eq!(calls.next(), None, "{name}: a call fewer than recorded");

        let theirs = &paid["response"];
        let status = request.reply.as_ref().map_or(upstream_status, |reply| reply.status);
        assert_eq!(u64::from(status), theirs["status"].as_u64().unwrap(), "{name}");
        for header in ["PAYMENT-REQUIRED", "PAYMENT-RESPONSE"] {
            let lower = header.to_lowercase();
            let ours = request.reply_header(&lower).or(request.receipt_header(&lower)).map(decode);
            let theirs = theirs["decoded"].get(header).cloned().map(without_message);
            assert_eq!(ours, theirs, "{name}: {header}");
        }
        let theirs = list(&theirs["headers"]).iter().find(|header| header[0] == "Cache-Control");
        let ours = request.reply_header("cache-control").or(request.receipt_header("cache-control"));
        assert_eq!(ours, theirs.map(|header| text(&header[1])), "{name}");
    }
}

#[test]
fn a_recorded_exchange_of_version_1_goes_the_same_way_here() {
    let recording = recording("v1-exact");
    let paid = &recording["client_to_server"][1];
    let mut json = recorded_config();
    json["defaults"]["max_timeout_seconds"] = 60.into();
    let mut stage = Stage::new(&json);
    stage.now = valid_before(&paid["request"]["decoded"]["X-PAYMENT"]) - 300;
    let mut request = stage.start(&recorded_head(&paid["request"]));
    for theirs in list(&recording["server_to_facilitator"]) {
        if request.call.is_none() {
            stage.step(&mut request, upstream(200));
        }
        let ours = request.call.as_ref().expect("a question");
        assert_eq!(ours.kind.path(), text(&theirs["request"]["url"]));
        let mut asked = theirs["request"]["body"].clone();
        asked["paymentRequirements"].as_object_mut().unwrap().remove("outputSchema");
        assert_eq!(serde_json::from_str::<Value>(&ours.body).unwrap(), asked);
        stage.step(&mut request, Event::Callout(recorded_answer(theirs)));
    }
    assert_eq!(request.receipt_header("payment-response"), None);
    let receipt = request.receipt_header("x-payment-response").map(decode);
    assert_eq!(receipt.as_ref(), Some(&paid["response"]["decoded"]["X-PAYMENT-RESPONSE"]));
}

/// A receipt without the facilitator's prose, which names its insides and is not for clients.
fn without_message(mut receipt: Value) -> Value {
    receipt.as_object_mut().unwrap().remove("errorMessage");
    receipt
}

#[test]
fn recorded_payments_of_other_schemes_are_turned_away_unasked() {
    for (name, status, reason) in [
        ("v2-upto", 402, "No matching payment requirements"),
        ("v2-exact-permit2", 402, "No matching payment requirements"),
        ("v2-bad-header", 400, "PAYMENT-SIGNATURE is not standard base64 (RFC 4648, section 4)"),
    ] {
        let recording = recording(name);
        let last = list(&recording["client_to_server"]).last().unwrap();
        let request = Stage::new(&recorded_config()).start(&recorded_head(&last["request"]));
        assert_eq!(request.status(), status, "{name}");
        assert!(request.reason().starts_with(reason), "{name}: {}", request.reason());
        assert!(request.calls.is_empty() && request.claim.is_none() && request.forwarded.is_none(), "{name}");
    }
}

/// Recordings of payments by Permit2: their route, with its price and entry.
const PERMIT2: [(&str, &str, &str, &str); 4] = [
    ("v2-exact-permit2", "/permit2", "$0.001", "exact"),
    ("v2-exact-permit2-allowance-required", "/permit2", "$0.001", "exact"),
    ("v2-upto", "/upto", "$0.10", "upto"),
    ("v2-upto-zero", "/upto-zero", "$0.10", "upto"),
];

fn permit2_config(path: &str, price: &str, scheme: &str) -> Value {
    let mut config = recorded_config();
    config["routes"] = json!([{
        "match": {"path": path}, "price": price, "description": "Weather data", "mime_type": "application/json",
        "settlement_overrides": true,
        "accepts": [{"scheme": scheme, "network": "base-sepolia", "asset": "USDC", "transfer_method": "permit2"}],
    }]);
    config
}

#[test]
fn recorded_payments_by_permit2_are_ours_from_terms_to_settlement() {
    for (name, path, price, scheme) in PERMIT2 {
        let recording = recording(name);
        let exchanges = list(&recording["client_to_server"]);
        let mut stage = Stage::new(&permit2_config(path, price, scheme));
        let unpaid = stage.start(&recorded_head(&exchanges[0]["request"]));
        let ours = decode(unpaid.reply_header("payment-required").unwrap());
        let mut theirs = exchanges[0]["response"]["decoded"]["PAYMENT-REQUIRED"].clone();
        // Extensions are not ours yet.
        theirs.as_object_mut().unwrap().remove("extensions");
        assert_eq!(ours, theirs, "{name}");

        let Some(paid) = exchanges.get(1) else { continue };
        let payment = &paid["request"]["decoded"]["PAYMENT-SIGNATURE"];
        let permit = &payment["payload"]["permit2Authorization"];
        stage.now = text(&permit["deadline"]).parse::<u64>().unwrap() - 300;
        let mut request = stage.start(&recorded_head(&paid["request"]));
        for exchange in list(&recording["server_to_facilitator"]) {
            let Some(call) = request.call.clone() else { panic!("{name}: {}", request.story()) };
            let url = text(&exchange["request"]["url"]);
            assert_eq!(call.kind.path(), url, "{name}");
            let ours: Value = serde_json::from_str(&call.body).unwrap();
            let theirs = &exchange["request"]["body"];
            assert_eq!(ours["paymentPayload"]["payload"], theirs["paymentPayload"]["payload"], "{name}");
            assert_eq!(ours["paymentRequirements"], theirs["paymentRequirements"], "{name} {url}");
            stage.step(&mut request, Event::Callout(recorded_answer(exchange)));
            if url == "/verify" && request.reply.is_none() {
                let Event::Upstream(head) = upstream(200) else { panic!("a response") };
                let settled =
                    list(&recording["server_to_facilitator"]).iter().find(|call| call["request"]["url"] == "/settle");
                let amount = settled
                    .map_or(&json!("0"), |call| &call["request"]["body"]["paymentRequirements"]["amount"])
                    .clone();
                let settlement_overrides = (scheme == "upto").then(|| json!({"amount": amount}).to_string());
                stage.step(&mut request, Event::Upstream(UpstreamHead { settlement_overrides, ..head }));
                if amount == "0" {
                    // The official server asks the facilitator to settle nothing; we do not.
                    break;
                }
            }
        }
        let theirs = &paid["response"]["decoded"]["PAYMENT-RESPONSE"];
        match request.receipt_header("payment-response") {
            Some(receipt) => assert_eq!(decode(receipt), *theirs, "{name}"),
            None => assert_eq!(u64::from(request.status()), paid["response"]["status"].as_u64().unwrap(), "{name}"),
        }
    }
}

#[test]
fn tokens_for_coinbases_facilitator_are_those_of_its_own_packages() {
    let file = vectors("cdp");
    let now = UnixTime::from_secs(file["now"].as_u64().unwrap());
    let mut nonce = [0; 16];
    hex::decode_to_slice(file["nonce"].as_str().unwrap(), &mut nonce).unwrap();
    let mut count = 0;
    for key in list(&file["keys"]) {
        for secret in list(&key["secrets"]) {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let read = CdpKey::new(&text(&key["keyId"]), secret.as_str().unwrap()).unwrap();
            for call in list(&key["tokens"]) {
                let [method, authority, path] = ["method", "authority", "path"].map(|name| text(&call[name]));
                let scope = format!("{method} {authority}{path}");
                assert_eq!(read.token(&scope, now, nonce), text(&call["token"]), "{}: {path}", key["name"]);
                count += 1;
            }
        }
    }
    assert_eq!(count, 18);
    for wrong in list(&file["wrong"]) {
        let (name, secret) = (&wrong["name"], wrong["secret"].as_str().unwrap());
        let error = CdpKey::new("key", secret).expect_err(name.as_str().unwrap()).to_string();
        assert!(!secret.lines().any(|line| error.contains(line) && !line.contains("-----")), "{name}: {error}");
    }
}
