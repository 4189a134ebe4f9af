//! What operators and clients write as text: amounts, prices, durations, addresses, ids, hosts, patterns. Checked with
//! arithmetic on digits, as one does it on paper.

use x402_proxy_wasm::evm::{Address, Nonce, TransactionHash};
use x402_proxy_wasm::money::{Amount, Decimal, Dollars};
use x402_proxy_wasm::route::{Access, Decision, HostPattern, Matcher, Pattern, RouteTable, Target};
use x402_proxy_wasm::time::parse_duration;
use x402_proxy_wasm::x402::{NetworkId, header};

pub(super) fn run(input: &[u8]) {
    check_header(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    check_amount(text);
    check_decimal(text);
    check_hex(text);
    check_network(text);
    check_pattern(text);
    check_host(text);
}

/// 2^256 − 1
const MAX: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";

/// Whether digits are a number as it is written, and fit into 256 bits.
pub(super) fn is_number(digits: &str) -> bool {
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain && (digits == "0" || !digits.starts_with('0')) && (digits.len(), digits) <= (MAX.len(), MAX)
}

/// A decimal in units of ten to the power of `-decimals`; `None` where it is none, or they cannot express it.
pub(super) fn units(text: &str, decimals: usize) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_decimal = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    let missing = decimals.checked_sub(fraction.len()).filter(|_| is_decimal && is_number(whole))?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0" } else { digits }.to_owned()).filter(|digits| is_number(digits))
}

fn check_amount(text: &str) {
    let amount = Amount::parse(text).ok();
    assert_eq!(amount.is_some(), is_number(text));
    if let Some(amount) = amount {
        assert_eq!(amount.to_string(), text);
        let in_words = amount.to_be_bytes().iter().fold("0".to_owned(), |digits, byte| times_256_plus(&digits, *byte));
        assert_eq!(in_words, text, "32 bytes hold the same number");
    }
}

/// `digits * 256 + byte`, in decimal.
fn times_256_plus(digits: &str, byte: u8) -> String {
    let mut carry = u32::from(byte);
    let mut product: Vec<u32> = Vec::new();
    for digit in digits.bytes().rev() {
        let sum = u32::from(digit - b'0') * 256 + carry;
        product.push(sum % 10);
        carry = sum / 10;
    }
    while carry > 0 {
        product.push(carry % 10);
        carry /= 10;
    }
    let text: String = product.iter().rev().filter_map(|digit| char::from_digit(*digit, 10)).collect();
    let text = text.trim_start_matches('0');
    if text.is_empty() { "0".to_owned() } else { text.to_owned() }
}

fn check_decimal(text: &str) {
    for decimals in [0, 6, 9, 18, 77] {
        let expected = units(text, usize::from(decimals));
        let found = Decimal::parse(text).and_then(|number| number.to_units(u32::from(decimals)));
        assert_eq!(found.ok().map(|units| units.to_string()), expected, "{text} with {decimals} decimals");
        let found = Dollars::parse(&format!("${text}")).and_then(|dollars| dollars.to_amount(decimals));
        assert_eq!(found.ok().map(|amount| amount.to_string()), expected, "${text} with {decimals} decimals");
    }
    assert!(text.starts_with('$') || Dollars::parse(text).is_err(), "a price says of what");
    let seconds =
        text.strip_suffix('s').and_then(|text| units(text, 9)).and_then(|nanoseconds| nanoseconds.parse().ok());
    let found = parse_duration(text).map(|duration| duration.as_nanos());
    assert_eq!(found, seconds.map(|nanoseconds: u64| u128::from(nanoseconds)));
}

fn check_hex(text: &str) {
    let is_hex = |length| {
        let digits = text.strip_prefix("0x").unwrap_or_default();
        digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match text.parse::<Address>() {
        Ok(address) => {
            let (lower, written) = (text.to_ascii_lowercase(), address.to_string());
            assert!(is_hex(40) && (text == lower || text == written), "an address has a checksum or no capitals");
            assert_eq!(written.to_ascii_lowercase(), lower);
            assert!([&lower, &written, text].iter().all(|text| address.is_written(text)));
        }
        Err(_) => assert!(!is_hex(40) || text.bytes().any(|byte| byte.is_ascii_uppercase()), "an address is refused"),
    }
    let nonce = text.parse::<Nonce>().ok();
    assert_eq!(nonce.is_some(), is_hex(64));
    assert!(nonce.is_none_or(|nonce| nonce.to_string() == text.to_ascii_lowercase()));
    let hash = text.parse::<TransactionHash>().ok();
    assert_eq!(hash.map(|hash| *hash.as_bytes()), nonce.map(|nonce| *nonce.as_bytes()));
}

fn check_network(text: &str) {
    let Ok(network) = text.parse::<NetworkId>() else {
        let chain_id = text.strip_prefix("eip155:").and_then(|id| id.parse().ok());
        assert!(chain_id.is_none_or(|id: u64| format!("eip155:{id}") != text), "a chain is refused");
        return;
    };
    assert_eq!(network.as_str(), text);
    assert_eq!(text.bytes().filter(|byte| *byte == b':').count(), 1);
    match network.chain_id() {
        Some(id) => assert_eq!(NetworkId::from_chain_id(id), network),
        None => assert!(!text.strip_prefix("eip155:").is_some_and(|id| is_number(id) && id.parse::<u64>().is_ok())),
    }
}

/// A pattern that is taken takes the path that it describes. Operators find out about the others when they load them.
fn check_pattern(text: &str) {
    let Ok(pattern) = Pattern::parse(text) else { return };
    let names = text.split('/').map(|segment| if segment.starts_with('{') { "x" } else { segment });
    let path = names.collect::<Vec<_>>().join("/");
    let decide = |access, path: &str| {
        let matcher = Matcher { hosts: Vec::new(), methods: Vec::new(), path: pattern.clone() };
        let target = Target { method: "GET", authority: "a", path: path.as_bytes() };
        RouteTable::new(vec![(matcher, access)]).decide(target)
    };
    assert_eq!(decide(Access::Free, &path), Decision::Free(0), "{text} is for {path}");
    assert_eq!(decide(Access::Priced, &path), Decision::Priced(0), "{text} is for {path}");
    assert_eq!(
        decide(Access::Priced, &path.to_ascii_uppercase()),
        Decision::Priced(0),
        "{text} is for {path} in capitals"
    );
}

/// A host that is taken takes requests for that host.
fn check_host(text: &str) {
    let Ok(host) = HostPattern::parse(text) else { return };
    let authority = text.strip_prefix("*.").map_or(text.to_owned(), |below| format!("a.{below}"));
    let path = Pattern::parse("/").expect("a pattern");
    let table = RouteTable::new(vec![(Matcher { hosts: vec![host], methods: Vec::new(), path }, Access::Priced)]);
    for authority in [authority.clone(), format!("{authority}:8080"), authority.to_ascii_uppercase()] {
        let target = Target { method: "GET", authority: &authority, path: b"/" };
        assert_eq!(table.decide(target), Decision::Priced(0), "{text} is for {authority}");
    }
}

/// Base64 by the book (RFC 4648, section 4), with or without its padding.
fn check_header(text: &[u8]) {
    assert_eq!(header::decode(text).ok(), base64(text), "base64 of {:?}", text.escape_ascii().to_string());
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let mut bits: Vec<bool> = Vec::new();
    for digit in digits {
        let value = ALPHABET.iter().position(|letter| letter == digit)?;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1 == 1));
    }
    let (bytes, rest) = bits.as_chunks::<8>();
    let is_whole = rest.len() < 6 && rest.iter().all(|bit| !bit);
    // Padding says nothing, and may be there in part.
    let is_padded = padding <= (4 - digits.len() % 4) % 4;
    let byte = |bits: &[bool; 8]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    (is_whole && is_padded).then(|| bytes.iter().map(byte).collect())
}
