//! Configurations. What is taken is taken for what it says, however it is written down.

use std::sync::Arc;
use std::time::Duration;

use x402_proxy_wasm::config::{Config, Offer, Recipient, RouteTerms, Service, Settle};
use x402_proxy_wasm::x402::requirement::{Scheme, TransferMethod};

use super::texts::units;
use crate::json::Json;

pub(super) fn run(input: &[u8]) {
    check_discretion(input);
    let config = match Config::from_host(input, &|_| None) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.path.is_empty() && !error.message.is_empty(), "an error says where and what: {error:?}");
            return;
        }
    };
    let said = told(&config);
    assert_eq!(read(input).as_ref(), Ok(&said), "the same text says the same again");
    // What came as protobuf has no text to compare with.
    let Some(json) = Json::parse(input) else {
        assert!(input.first().is_none_or(|byte| *byte == 0x0a), "neither JSON nor protobuf, and taken");
        return;
    };
    check_routes(&config, &json);
    if !has_only_exact_numbers(&json) {
        return;
    }
    let protobuf = |change| Encoder { change, objects: 0 }.message(&json);
    assert_eq!(read(&protobuf(Change::None)).as_ref(), Ok(&said), "protobuf says the same");
    assert_eq!(read(&protobuf(Change::Reverse)).as_ref(), Ok(&said), "an object has no order");
    for number in 0..count_objects(&json) {
        for change in [Change::Add(number), Change::Repeat(number)] {
            let is_nothing = matches!(change, Change::Repeat(_)) && is_empty_object(&json, number);
            assert!(is_nothing || read(&protobuf(change)).is_err(), "{change:?} makes no difference");
        }
    }
}

fn read(bytes: &[u8]) -> Result<String, String> {
    Config::from_host(bytes, &|_| None).map(|config| told(&config)).map_err(|error| error.to_string())
}

/// All that a configuration says, what it shows to nobody included.
fn told(config: &Config) -> String {
    let services = config.facilitators.iter().map(|one| &one.service).chain(services(config));
    let hidden: Vec<_> = services.map(|service| (&service.base_path, &service.headers)).collect();
    format!("{config:?} {hidden:?}")
}

/// A key that takes the place of a text, or stands in it, is in no error.
fn check_discretion(input: &[u8]) {
    const KEY: &str = "s3cr3tMARKER0123456789";
    let Ok(text) = std::str::from_utf8(input) else { return };
    let quotes: Vec<usize> = text.match_indices('"').map(|(at, _)| at).collect();
    // Any will do, as long as the same input has the same ones.
    let sum = input.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let Some(&start) = sum.checked_rem(quotes.len()).and_then(|index| quotes.get(index)) else { return };
    let Some((before, behind)) = text.split_at_checked(start + 1) else { return };
    let rest = behind.find('"').and_then(|end| behind.get(end..)).unwrap_or_default();
    for wrong in [
        format!("{before}{KEY}{rest}"),
        format!("{before}{KEY}{behind}"),
        format!("{before}https://a.example/{KEY}?key={KEY}{rest}"),
        format!("{before}{KEY}\": \"{KEY}\", \"{behind}"),
        format!("{before}{KEY}"),
    ] {
        if let Err(error) = Config::from_host(wrong.as_bytes(), &|_| None) {
            let said = error.to_string().to_ascii_lowercase();
            assert!(!said.contains("s3cr3tmarker"), "a key is repeated: {error}");
        }
    }
}

// ------------------------------------------------------------------------------------------------ what it says

/// What money depends on, found in the text by hand.
fn check_routes(config: &Config, json: &Json) {
    let none = Json::Object(Vec::new());
    let defaults = json.get("defaults").unwrap_or(&none);
    let routes = json.get("routes").map(Json::list).unwrap_or_default();
    assert_eq!(config.routes.len(), routes.len(), "every route, and no other");
    for (route, written) in config.routes.iter().zip(routes) {
        let is_free = written.get("free") == Some(&Json::Bool(true));
        assert_eq!(route.terms.is_none(), is_free, "free is what says so");
        assert_eq!(written.get("price").is_none(), is_free, "all else has a price");
        if let Some(terms) = &route.terms {
            check_terms(terms, written, defaults);
        }
    }
    for service in config.facilitators.iter().map(|one| &one.service).chain(services(config)) {
        assert!(service.timeout >= Duration::from_millis(1) && service.timeout <= Duration::from_secs(600));
        assert!(!service.cluster.is_empty() && !service.authority.contains('@'), "{service:?}");
        let is_safe = |text: &str| !text.bytes().any(|byte| byte < 0x20 && byte != b'\t' || byte == 0x7f);
        assert!(service.headers.iter().all(|(name, value)| !name.is_empty() && is_safe(name) && is_safe(value)));
    }
}

/// Nodes, and who is asked for prices.
fn services(config: &Config) -> impl Iterator<Item = &Arc<Service>> {
    let terms = config.routes.iter().filter_map(|route| route.terms.as_ref());
    let nodes = terms.clone().flat_map(|terms| &terms.offers).filter_map(|offer| Some(&offer.rpc.as_ref()?.service));
    nodes.chain(terms.filter_map(|terms| terms.price_service.as_ref()))
}

fn check_terms(terms: &RouteTerms, route: &Json, defaults: &Json) {
    let inherited = |name| route.get(name).or_else(|| defaults.get(name));
    let entries = inherited("accepts").map(Json::list).unwrap_or_default();
    assert!(!terms.offers.is_empty(), "there is a way to pay");
    assert_eq!(terms.offers.len(), entries.len(), "every entry, and no other");
    let settle = match inherited("settle") {
        None => Settle::After,
        Some(Json::Text(text)) if text == "after" => Settle::After,
        Some(Json::Text(text)) if text == "before" => Settle::Before,
        Some(Json::Text(text)) if text == "concurrent" => Settle::Concurrent,
        Some(other) => panic!("settle: {other:?} is taken"),
    };
    assert_eq!(terms.settle, settle);
    let price = route.get("price").expect("a priced route has a price");
    assert_eq!(terms.tariff.is_some(), price.get("usage").is_some(), "tokens are priced where it says so");
    assert_eq!(terms.price_service.is_some(), price.get("quote").is_some(), "a service is asked where it says so");
    for (offer, entry) in terms.offers.iter().zip(entries) {
        let pay_to = entry.get("pay_to").or_else(|| route.get("pay_to")).or_else(|| defaults.get("pay_to"));
        check_recipients(offer, pay_to.expect("somebody is paid"));
        check_price(terms, offer, price, entry);
        let requirement = &offer.requirement;
        assert!(requirement.max_timeout_seconds >= 10, "there is time to pay");
        assert_eq!(entry.text("scheme"), Some(requirement.scheme.as_str()));
        let is_upto = requirement.scheme == Scheme::Upto;
        let evm = requirement.evm();
        let is_permit2 = evm.is_some_and(|evm| evm.transfer_method == TransferMethod::Permit2);
        assert!(!is_upto || is_permit2, "upto is paid by Permit2");
        assert!(!is_upto || settle == Settle::After, "upto settles what was used");
        if let Some(asset @ Json::Object(_)) = entry.get("asset") {
            assert!(
                asset.text("address").is_some_and(|text| requirement.asset().eq_ignore_ascii_case(text)),
                "the token is the one named"
            );
        }
        let contract_wallets = evm.is_some_and(|evm| evm.contract_wallets);
        assert_eq!(contract_wallets, entry.get("contract_wallets") == Some(&Json::Bool(true)));
        assert_eq!(offer.confirm, entry.get("confirm") == Some(&Json::Bool(true)));
        assert!(!offer.confirm || offer.rpc.is_some(), "there is a node to confirm by");
    }
}

/// Who is paid is who is named, and somebody.
fn check_recipients(offer: &Offer, pay_to: &Json) {
    let is_somebody = |recipient: &Recipient| recipient.to.as_bytes() != &[0; 20] && recipient.weight > 0;
    assert!(offer.recipients.iter().all(is_somebody), "somebody is paid");
    let written = offer.requirement.pay_to();
    match pay_to {
        Json::Text(text) if offer.requirement.evm().is_none() => {
            assert!(*written == *text && offer.recipients.is_empty(), "who is paid is who is named");
        }
        Json::Text(text) => {
            assert!(written.eq_ignore_ascii_case(text), "who is paid is who is named");
            assert!(matches!(offer.recipients.as_slice(), [one] if one.to.is_written(text)), "and nobody else");
        }
        pay_to if pay_to.get("metadata").is_some() => {
            assert!(offer.recipient_from.is_some() && offer.recipients.is_empty(), "the proxy says who is paid");
        }
        pay_to => {
            let parts = pay_to.get("split").map(Json::list).unwrap_or_default();
            assert!(!parts.is_empty() && parts.len() == offer.recipients.len(), "every part, and no other");
            for (part, recipient) in parts.iter().zip(&offer.recipients) {
                assert!(part.text("to").is_some_and(|to| recipient.to.is_written(to)), "who is paid is who is named");
                let weight = part.get("weight").map_or(Some("1"), whole);
                assert_eq!(weight, Some(recipient.weight.to_string().as_str()));
            }
        }
    }
}

/// The digits of a whole number, which may be written as a double.
fn whole(json: &Json) -> Option<&str> {
    if let Json::Number(number) = json { number.split('.').next() } else { None }
}

/// The price is what is written, where the entry itself tells the decimals of its asset.
fn check_price(terms: &RouteTerms, offer: &Offer, price: &Json, entry: &Json) {
    let amount = offer.requirement.amount.to_string();
    assert_ne!(amount, "0", "the price is something");
    let decimals = entry.get("asset").and_then(|asset| whole(asset.get("decimals")?)?.parse().ok());
    let expected = |value: &Json, finer: usize| match value {
        Json::Text(dollars) => units(dollars.strip_prefix('$')?, decimals.map(|decimals: usize| decimals + finer)?),
        value => units(value.text("amount")?, finer),
    };
    let Some(rates) = &offer.rates else {
        let is_fixed = terms.price_service.is_none();
        assert!(!is_fixed || expected(price, 0).is_none_or(|units| units == amount), "the price is what is written");
        return;
    };
    let tariff = terms.tariff.as_ref().expect("rates are of tokens");
    let Some(Json::Object(models)) = price.get("models") else { panic!("rates are of models") };
    assert_eq!(models.len(), rates.models.len(), "every model, and no other");
    for (((name, written), known), rate) in models.iter().zip(&tariff.models).zip(&rates.models) {
        assert_eq!(name, known);
        let input = written.get("input").expect("input has a price");
        let or_input = |key| written.get(key).unwrap_or(input);
        for (rate, value) in [
            (rate.input, input),
            (rate.cached_input, or_input("cached_input")),
            (rate.cache_write, or_input("cache_write")),
            (rate.output, written.get("output").expect("output has a price")),
        ] {
            assert!(expected(value, 12).is_none_or(|units| units == rate.to_string()), "{name} costs what is written");
        }
    }
}

// ------------------------------------------------------------------------------------------------ as protobuf

/// The `google.protobuf.Struct` of a configuration.
pub(crate) fn to_protobuf(json: &[u8]) -> Option<Vec<u8>> {
    Json::parse(json).map(|json| Encoder { change: Change::None, objects: 0 }.message(&json))
}

/// Whether a double holds every number, as a protobuf Struct has it.
fn has_only_exact_numbers(json: &Json) -> bool {
    match json {
        Json::Number(number) => number.parse().is_ok_and(|number: f64| number.abs() < 9e15),
        Json::List(list) => list.iter().all(has_only_exact_numbers),
        Json::Object(fields) => fields.iter().all(|(_, value)| has_only_exact_numbers(value)),
        _ => true,
    }
}

fn count_objects(json: &Json) -> usize {
    match json {
        Json::List(list) => list.iter().map(count_objects).sum(),
        Json::Object(fields) => 1 + fields.iter().map(|(_, value)| count_objects(value)).sum::<usize>(),
        _ => 0,
    }
}

/// Whether the object of this number, outer ones first, has no fields.
fn is_empty_object(json: &Json, number: usize) -> bool {
    fn find<'a>(json: &'a Json, left: &mut usize) -> Option<&'a Json> {
        match json {
            Json::List(list) => list.iter().find_map(|value| find(value, left)),
            Json::Object(_) if *left == 0 => Some(json),
            Json::Object(fields) => {
                *left -= 1;
                fields.iter().find_map(|(_, value)| find(value, left))
            }
            _ => None,
        }
    }
    find(json, &mut { number }) == Some(&Json::Object(Vec::new()))
}

/// How an encoded configuration differs from what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// The fields of every object stand the other way round, but for headers and models, whose order is kept.
    Reverse,
    /// The object of this number has a field that nobody knows.
    Add(usize),
    /// The object of this number has its first field twice.
    Repeat(usize),
}

/// Writes `google.protobuf.Struct`.
struct Encoder {
    change: Change,
    objects: usize,
}

impl Encoder {
    fn message(&mut self, json: &Json) -> Vec<u8> {
        let Json::Object(fields) = json else { panic!("a configuration is an object") };
        let mut fields: Vec<&(String, Json)> = fields.iter().collect();
        let unknown = ("unheard-of".to_owned(), Json::Null);
        match self.change {
            Change::Reverse => fields.reverse(),
            Change::Add(number) if number == self.objects => fields.push(&unknown),
            Change::Repeat(number) if number == self.objects => fields.extend(fields.first().copied()),
            _ => {}
        }
        self.objects += 1;
        let entries = fields.into_iter().map(|(name, value)| {
            let change = self.change;
            if matches!(name.as_str(), "headers" | "models") && change == Change::Reverse {
                self.change = Change::None;
            }
            let value = self.value(value);
            self.change = change;
            field(1, &[field(1, name.as_bytes()), field(2, &value)].concat())
        });
        entries.collect::<Vec<_>>().concat()
    }

    fn value(&mut self, json: &Json) -> Vec<u8> {
        match json {
            Json::Null => vec![0x08, 0],
            Json::Number(number) => {
                let number: f64 = number.parse().expect("a number is one");
                [&[0x11][..], &number.to_le_bytes()].concat()
            }
            Json::Text(text) => field(3, text.as_bytes()),
            Json::Bool(flag) => vec![0x20, u8::from(*flag)],
            Json::Object(_) => {
                let message = self.message(json);
                field(5, &message)
            }
            Json::List(list) => {
                let values: Vec<u8> = list.iter().flat_map(|value| field(1, &self.value(value))).collect();
                field(6, &values)
            }
        }
    }
}

/// A field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        encoded.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    encoded.push(u8::try_from(length).unwrap_or(0));
    [encoded, bytes.to_vec()].concat()
}
