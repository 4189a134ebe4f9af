//! Answers of facilitators. A yes is one to the letter, and a no is believed only where it is sure.
//!
//! An input is a byte for the question and the status, and the body.

use std::sync::LazyLock;

use x402_proxy_wasm::evm::Address;
use x402_proxy_wasm::facilitator::{
    CalloutAnswer, Settlement, Supported, Verification, is_before_sending, read_settlement, read_verification,
};
use x402_proxy_wasm::x402::payment::Payer;
use x402_proxy_wasm::x402::{Requirement, Version};

use crate::common::{self, Wallet};
use crate::json::Json;

static REQUIREMENT: LazyLock<Requirement> = LazyLock::new(|| {
    let config = common::read_config(&common::base_config());
    config.routes[0].terms.as_ref().expect("the first route is priced").offers[0].requirement.clone()
});

static PAYER: LazyLock<Payer> = LazyLock::new(|| Payer::Evm(Wallet::new(1).address()));

/// Statuses of answers.
pub(super) const STATUSES: [u16; 16] = [200, 200, 200, 200, 400, 402, 404, 499, 200, 201, 204, 302, 500, 502, 503, 504];

pub(super) fn run(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let status = STATUSES[usize::from(choice >> 1) % STATUSES.len()];
    let answer = CalloutAnswer::Answered { status, body: body.to_vec() };
    match choice {
        0xe0.. => check_supported(&answer, status, body),
        choice if choice % 2 == 0 => check_verification(&answer, status, body),
        _ => check_settlement(&answer, status, body),
    }
}

/// Who settles is whom the answer names, and it survives being written down.
fn check_supported(answer: &CalloutAnswer, status: u16, body: &[u8]) {
    let Some(supported) = Supported::read(answer) else { return };
    assert!((200..300).contains(&status), "only an answer that is one counts");
    let json = Json::parse(without_mark(body)).expect("what is understood is JSON");
    let is_named = |(network, address): &(String, Address)| {
        json.get("kinds").map(Json::list).unwrap_or_default().iter().any(|kind| {
            let settler = kind.get("extra").and_then(|extra| extra.text("facilitatorAddress"));
            kind.text("scheme") == Some("upto")
                && kind.text("network") == Some(network)
                && settler.is_some_and(|settler| address.is_written(settler))
        })
    };
    let networks = || supported.kinds.iter().map(|kind| kind.network.clone());
    let mut settlers = networks().flat_map(|network| {
        let settlers: Vec<Address> = supported.settlers(&network).collect();
        settlers.into_iter().map(move |settler| (network.clone(), settler))
    });
    assert!(settlers.all(|settler| is_named(&settler)), "a settler that nobody named");
    assert_eq!(Supported::from_text(&supported.to_text()), supported, "it is read as it was written");
    let _ = Supported::from_text(&String::from_utf8_lossy(body));
    let both = supported.clone().or_earlier(&supported);
    assert!(both.kinds.len() <= supported.kinds.len().max(256));
}

/// What an answer says, read by hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Yes, with the transaction where there is one.
    Yes(Option<String>),
    /// No, for sure.
    No,
    /// Nothing that anybody may rely on.
    Nothing,
}

/// Whether a field is absent, empty, or the text that is expected.
fn is_or_absent(json: &Json, name: &str, is_expected: impl Fn(&str) -> bool) -> bool {
    match json.get(name) {
        None => json.has_each_once(&[name]),
        Some(Json::Text(text)) => text.is_empty() || is_expected(text),
        Some(_) => false,
    }
}

fn is_payer(text: &str) -> bool {
    text.eq_ignore_ascii_case(&PAYER.to_string())
}

pub(super) fn verification_said(status: u16, body: &[u8]) -> Said {
    let json = Json::parse(without_mark(body)).filter(|json| json.has_each_once(&["isValid"]));
    let Some(json) = json else { return Said::Nothing };
    match json.get("isValid") {
        Some(Json::Bool(true)) => {
            let is_yes = (200..300).contains(&status) && is_or_absent(&json, "invalidReason", |_| false);
            if is_yes && is_or_absent(&json, "payer", is_payer) { Said::Yes(None) } else { Said::Nothing }
        }
        Some(Json::Bool(false)) if status < 500 && status != 429 => Said::No,
        // A server that fails is believed where it gives a reason of those that come before anything is sent.
        Some(Json::Bool(false)) if json.text("invalidReason").is_some_and(is_before_sending) => Said::No,
        _ => Said::Nothing,
    }
}

/// The body without the byte order mark that some send.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

pub(super) fn settlement_said(status: u16, body: &[u8]) -> Said {
    let names = ["success", "errorReason", "transaction", "network", "payer"];
    let json = Json::parse(without_mark(body)).filter(|json| json.has_each_once(&names));
    let Some(json) = json else { return Said::Nothing };
    let reason = json.text("errorReason").filter(|reason| !reason.is_empty());
    let transaction = json.text("transaction").filter(|transaction| !transaction.is_empty());
    match json.get("success") {
        Some(Json::Bool(true)) => {
            let digits = |text: &str| text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
            let is_hash = |digits: &String| {
                let is_hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_hex && digits.bytes().any(|byte| byte != b'0')
            };
            let is_network = |text: &str| text == "eip155:84532" || REQUIREMENT.in_v1() == Some(text);
            let is_yes = (200..300).contains(&status)
                && is_or_absent(&json, "errorReason", |_| false)
                && is_or_absent(&json, "network", is_network)
                && is_or_absent(&json, "payer", is_payer);
            let hash = transaction.map(digits).filter(is_hash).map(|digits| format!("0x{digits}"));
            if is_yes && hash.is_some() { Said::Yes(hash) } else { Said::Nothing }
        }
        Some(Json::Bool(false)) => match reason {
            Some(reason) if transaction.is_none() && is_before_sending(reason) => Said::No,
            _ => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}

fn check_verification(answer: &CalloutAnswer, status: u16, body: &[u8]) {
    let said = verification_said(status, body);
    match read_verification(answer, &PAYER) {
        Verification::Valid => assert_eq!(said, Said::Yes(None), "a yes that was not said"),
        Verification::Invalid(reason) => {
            assert_eq!(said, Said::No, "a no that was not said");
            assert!(!reason.is_empty(), "a no has a reason");
        }
        Verification::Unknown(_) => assert!(!is_plain(&said, body), "a plain answer is not understood"),
    }
}

fn check_settlement(answer: &CalloutAnswer, status: u16, body: &[u8]) {
    let said = settlement_said(status, body);
    match read_settlement(answer, Version::V2, &REQUIREMENT, &PAYER) {
        Settlement::Settled(hash) => assert_eq!(said, Said::Yes(Some(hash.to_string())), "a yes that was not said"),
        Settlement::Refused(reason) => {
            assert_eq!(said, Said::No, "a no that was not said");
            assert!(!reason.is_empty(), "a no has a reason");
        }
        Settlement::Unknown(_, named) => {
            assert!(!is_plain(&said, body), "a plain answer is not understood");
            let text = String::from_utf8_lossy(body).to_ascii_lowercase();
            assert!(
                named
                    .is_none_or(|hash| text.contains(hash.to_string().trim_start_matches("0x")) || text.contains('\\')),
                "a made-up name"
            );
        }
    }
}

/// Whether an answer says something, and every field in it is of the type that belongs there.
fn is_plain(said: &Said, body: &[u8]) -> bool {
    const TEXTS: [&str; 5] = ["invalidReason", "errorReason", "transaction", "network", "payer"];
    let is_text = |json: &Json, name: &str| json.get(name).is_none_or(|value| matches!(value, Json::Text(_)));
    let has_types = |json: &Json| TEXTS.iter().all(|name| json.has_each_once(&[name]) && is_text(json, name));
    *said != Said::Nothing
        && std::str::from_utf8(body).is_ok()
        && Json::parse(without_mark(body)).is_some_and(|json| has_types(&json))
}
