//! What clients send to sign in. Read, put together and judged another way, by lines and by digits.
//!
//! An input is a byte and the JSON of a sign-in. Where the byte is even, a wallet signs what stands there, so that the
//! signature alone does not decide.

use x402_proxy_wasm::evm::keccak256;
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::NetworkId;
use x402_proxy_wasm::x402::payment::Payer;
use x402_proxy_wasm::x402::sign_in::{SignIn, Site};

use crate::common::Wallet;
use crate::json::Json;

/// Where is signed in, and when.
const URL: &str = "https://api.example.com/weather?q=1";
const NOW: u64 = 1_767_323_045;

const REQUIRED: [&str; 8] = ["domain", "address", "uri", "version", "chainId", "nonce", "issuedAt", "signature"];
const OPTIONAL: [&str; 5] = ["statement", "expirationTime", "notBefore", "requestId", "resources"];

pub(super) fn run(input: &[u8]) {
    let Some((byte, text)) = input.split_first() else { return };
    // What is no text, and escapes that are none, the other reader replaces.
    if std::str::from_utf8(text).map_or(true, |text| text.contains("\\u")) {
        let _ = SignIn::from_json(text);
        return;
    }
    let json = Json::parse(text);
    let is_sign_in = json.as_ref().is_some_and(is_sign_in);
    let read = SignIn::from_json(text);
    assert_eq!(read.is_ok(), is_sign_in, "{read:?}");
    let (Some(json), true) = (json, is_sign_in) else { return };
    let wallet = Wallet::new(1);
    let json = if byte % 2 == 0 { signed(&wallet, &json) } else { json };
    let sign_in = SignIn::from_json(json.write().as_bytes()).expect("it is read again");
    let base: NetworkId = "eip155:84532".parse().expect("a network");
    let result = sign_in.check(&Site::of(URL).expect("a place"), &[&base], UnixTime::from_secs(NOW));
    // What else may stand in a URI, readers differ on.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#@!$&'()*+,;=%".contains(&byte);
    if !json.text("uri").is_some_and(|uri| uri.bytes().all(is_plain)) {
        return;
    }
    let is_good = byte % 2 == 0 && is_good(&json);
    assert_eq!(result.is_ok(), is_good, "{result:?}");
    if let Ok(signed_in) = result {
        assert_eq!(signed_in.payer, Payer::Evm(wallet.address()));
        assert_eq!(Some(signed_in.nonce.as_str()), json.text("nonce"));
        // A minute behind the end of the message's life, which is not over.
        assert!((NOW + 60..=NOW + 360).contains(&signed_in.until.as_secs()));
    }
}

fn texts(json: &Json) -> Vec<&str> {
    let resources = json.get("resources").map(Json::list).unwrap_or_default();
    let resources =
        resources.iter().filter_map(|one| if let Json::Text(text) = one { Some(text.as_str()) } else { None });
    let names = ["uri", "issuedAt", "statement", "expirationTime", "notBefore", "requestId"];
    names.iter().filter_map(|name| json.text(name)).chain(resources).collect()
}

fn is_sign_in(json: &Json) -> bool {
    let is_text = |name: &&str| json.text(name).is_some();
    let is_optional = |name: &&str| match json.get(name) {
        None => true,
        Some(Json::List(list)) if **name == *"resources" => list.iter().all(|one| matches!(one, Json::Text(_))),
        Some(Json::Text(_)) => **name != *"resources",
        Some(_) => false,
    };
    let is_object = matches!(json, Json::Object(_));
    is_object
        && [&REQUIRED[..], &OPTIONAL].iter().all(|names| json.has_each_once(names))
        && REQUIRED.iter().all(is_text)
        && OPTIONAL.iter().all(is_optional)
        && texts(json).iter().all(|text| !text.chars().any(char::is_control))
}

/// The same, by this wallet, with its signature of the text of EIP-4361.
fn signed(wallet: &Wallet, json: &Json) -> Json {
    let address = wallet.address().to_string();
    let text = |name: &str| json.text(name).unwrap_or_default();
    let mut lines = vec![
        format!("{} wants you to sign in with your Ethereum account:", text("domain")),
        address.clone(),
        String::new(),
    ];
    lines.extend(json.text("statement").filter(|text| !text.is_empty()).map(str::to_owned));
    lines.push(String::new());
    lines.push(format!("URI: {}", text("uri")));
    lines.push(format!("Version: {}", text("version")));
    lines.push(format!("Chain ID: {}", text("chainId").rsplit(':').next().unwrap_or_default()));
    lines.push(format!("Nonce: {}", text("nonce")));
    lines.push(format!("Issued At: {}", text("issuedAt")));
    let further = [("expirationTime", "Expiration Time"), ("notBefore", "Not Before"), ("requestId", "Request ID")];
    lines.extend(further.iter().filter_map(|(name, label)| Some(format!("{label}: {}", json.text(name)?))));
    let resources = json.get("resources").map(Json::list).unwrap_or_default();
    if !resources.is_empty() {
        lines.push("Resources:".to_owned());
    }
    let resource = |one: &Json| if let Json::Text(text) = one { format!("- {text}") } else { String::new() };
    lines.extend(resources.iter().map(resource));
    let message = lines.join("\n");
    let digest = keccak256(format!("\x19Ethereum Signed Message:\n{}{message}", message.len()).as_bytes());
    let signature = format!("0x{}", hex::encode(wallet.sign(&digest)));
    let Json::Object(fields) = json else { return Json::Null };
    let replaced = fields.iter().map(|(name, value)| match name.as_str() {
        "address" => (name.clone(), Json::Text(address.clone())),
        "signature" => (name.clone(), Json::Text(signature.clone())),
        _ => (name.clone(), value.clone()),
    });
    Json::Object(replaced.collect())
}

fn is_good(json: &Json) -> bool {
    let text = |name: &str| json.text(name).unwrap_or_default();
    let uri = text("uri").split(['?', '#']).next().unwrap_or_default();
    // Of schemes and hosts case says nothing, and neither does the usual port.
    let is_here = uri.strip_suffix("/weather").is_some_and(|origin| {
        matches!(origin.to_ascii_lowercase().as_str(), "https://api.example.com" | "https://api.example.com:443")
    });
    let is_nonce = text("nonce").len() >= 8 && text("nonce").chars().all(|letter| letter.is_ascii_alphanumeric());
    let issued = seconds(text("issuedAt"));
    let is_after = |name: &str, or: bool, is: fn(u64) -> bool| match json.text(name) {
        None => or,
        Some(text) => seconds(text).is_some_and(is),
    };
    text("domain") == "api.example.com"
        && is_here
        && text("version") == "1"
        && text("chainId") == "eip155:84532"
        && is_nonce
        && issued.is_some_and(|issued| issued <= NOW && NOW <= issued + 300)
        && is_after("expirationTime", true, |end| end > NOW)
        && is_after("notBefore", true, |begin| begin <= NOW)
}

/// The seconds of `2026-01-02T03:04:05.678Z`, counted day by day.
fn seconds(text: &str) -> Option<u64> {
    let rest = text.strip_suffix('Z')?;
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bytes = whole.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() != 19 || marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = whole.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |year: u64, month: u64| match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=12).contains(&month) || day == 0 || day > length(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).map(|month| length(year, month)).sum();
    // A leap second counts as the one before it.
    Some((years + months + day - 1) * 86_400 + hour * 3600 + minute * 60 + second.min(59))
}
