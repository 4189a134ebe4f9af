//! From what is written to what it means.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Uri;
use ruint::aliases::U256;

use super::networks::{KnownAsset, NETWORKS, V1_NAMES};
use super::raw::{self, TextOr};
use super::{
    Config, Facilitator, MetadataKey, Offer, Origin, Payers, Principal, Recipient, Route, Rpc, Service, Settle, Terms,
};
#[cfg(feature = "page")]
use super::{OwnPage, PageConfig};
use crate::evm::Address;
use crate::json::{self, JsonError, Named, Object};
use crate::ledger::Ledger;
use crate::money::{Amount, Dollars};
#[cfg(feature = "page")]
use crate::page::Template;
use crate::price::{Pointers, RATE_SCALE_DIGITS, Rate, Rates, Shape, Tariff};
use crate::route::{Access, HostPattern, Matcher, Pattern, RouteTable};
use crate::scheme::MIN_LIFETIME_SECONDS;
use crate::time::parse_duration;
use crate::x402::requirement::{PaymentFlow, Scheme, TransferMethod};
use crate::x402::{NetworkId, Requirement};

type Result<T> = std::result::Result<T, JsonError>;

/// A facilitator waits for a block.
const DEFAULT_FACILITATOR_TIMEOUT: Duration = Duration::from_secs(10);
/// A node only looks things up.
const DEFAULT_RPC_TIMEOUT: Duration = Duration::from_secs(5);
/// A client waits for its terms.
const DEFAULT_QUOTE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// What most nodes still search, and an hour on a chain with a block every two seconds.
const DEFAULT_LOG_RANGE: u64 = 1800;
const DEFAULT_MAX_TIMEOUT_SECONDS: u64 = 300;
/// An authorization that lives no longer than verifiers demand would be refused by the time it arrives.
const MIN_MAX_TIMEOUT_SECONDS: u64 = MIN_LIFETIME_SECONDS.saturating_add(4);
/// 23 MB, if it were ever full.
const DEFAULT_MAX_CLAIMS: u32 = 262_144;
/// The whole of the terms has to fit into a header.
const MAX_DESCRIPTION_BYTES: usize = 2048;

pub(super) fn config(raw: raw::Config) -> Result<Config> {
    let facilitator = facilitator(raw.facilitator)?;
    let mut networks = Networks::new(raw.networks)?;
    networks.add_rpc(raw.rpc.0)?;
    let defaults = &raw.defaults;
    let mut labels = BTreeSet::new();
    let mut routes = Vec::with_capacity(raw.routes.len());
    let mut matchers = Vec::with_capacity(raw.routes.len());
    for (index, Object(raw_route)) in raw.routes.into_iter().enumerate() {
        let path = format!("routes[{index}]");
        let matcher = matcher(&path, &raw_route.matcher)?;
        let route = route(&path, index, raw_route, defaults, &networks)?;
        if !labels.insert(route.label.clone()) {
            return refuse(format!("{path}.name"), format_args!("{:?} is the name of another route", route.label));
        }
        matchers.push((matcher, if route.terms.is_some() { Access::Priced } else { Access::Free }));
        routes.push(route);
    }
    let offers = routes.iter().filter_map(|route| route.terms.as_ref()).flat_map(|terms| &terms.offers);
    let needs_introduction = offers.clone().any(|offer| offer.requirement.scheme == Scheme::Upto);
    let mut metadata: Vec<MetadataKey> = Vec::new();
    let tariffs = routes.iter().filter_map(|route| route.terms.as_ref()?.tariff.as_ref());
    for key in offers.filter_map(|offer| offer.recipient_from.clone()).chain(tariffs.flat_map(|one| one.metadata())) {
        if !metadata.contains(&key) {
            metadata.push(key);
        }
    }
    #[cfg(not(feature = "page"))]
    page(&raw.page)?;
    let needs_principals =
        routes.iter().filter_map(|route| route.terms.as_ref()).any(|terms| !terms.free_for.is_empty());
    Ok(Config {
        payers: payers(&raw.payers)?,
        origins: raw.cors.as_ref().map_or(Ok(Vec::new()), origins)?,
        is_discoverable: raw.discovery.unwrap_or(true),
        #[cfg(feature = "page")]
        page: page(raw.page)?,
        needs_principals,
        needs_introduction,
        metadata,
        facilitator,
        routes,
        table: RouteTable::new(matchers),
        unmatched: raw.unmatched,
        kept_headers: kept_headers(&raw.keep_headers)?,
        ledger: ledger(&raw.ledger)?,
        ledger_is_exclusive: raw.ledger.exclusive,
    })
}

fn refuse<T>(path: impl Into<String>, message: impl Display) -> Result<T> {
    Err(JsonError { path: path.into(), message: message.to_string() })
}

/// Puts a path to an error that speaks of `value`.
fn at<E: Display>(path: impl Into<String>, value: impl std::fmt::Debug) -> impl FnOnce(E) -> JsonError {
    move |error| JsonError { path: path.into(), message: format!("{value:?} {error}") }
}

fn facilitator(raw: raw::Facilitator) -> Result<Facilitator> {
    let timeout = read_timeout("facilitator", raw.timeout.as_deref(), DEFAULT_FACILITATOR_TIMEOUT)?;
    let service = service("facilitator", raw.cluster, &raw.url, timeout, raw.headers.0)?;
    Ok(Facilitator { service: Arc::new(service), verify: raw.verify })
}

/// How the service is called that `path` of the configuration is about.
fn service(
    path: &str,
    cluster: String,
    url: &str,
    timeout: Duration,
    headers: Vec<(String, String)>,
) -> Result<Service> {
    if cluster.is_empty() {
        return refuse(format!("{path}.cluster"), "is empty; name the cluster that the calls go to");
    }
    // A password in a URL must not get into a log.
    if url.contains('@') {
        return refuse(
            format!("{path}.url"),
            format_args!("carries a user name; credentials belong in {path}.headers"),
        );
    }
    let uri: Option<Uri> = url.parse().ok();
    let Some((scheme, authority, base_path)) = uri.as_ref().and_then(parts_of) else {
        return refuse(format!("{path}.url"), format_args!("{url:?} is not an http or https URL without query"));
    };
    Ok(Service { cluster, scheme, authority, base_path, timeout, headers: callout_headers(path, headers)? })
}

fn read_timeout(path: &str, text: Option<&str>, default: Duration) -> Result<Duration> {
    let Some(text) = text else { return Ok(default) };
    match parse_duration(text) {
        Some(timeout) if timeout >= Duration::from_millis(1) && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => refuse(
            format!("{path}.timeout"),
            format_args!("{text:?} is not a duration such as \"10s\" or \"0.5s\", from 0.001s to 600s"),
        ),
    }
}

/// Scheme, authority and path of the URL of a service.
fn parts_of(uri: &Uri) -> Option<(String, String, String)> {
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let authority = uri.authority()?.to_string();
    let path = uri.path().trim_end_matches('/').to_owned();
    uri.query().is_none().then(|| (scheme.to_owned(), authority, path))
}

fn callout_headers(service: &str, raw: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(raw.len());
    for header in raw {
        let path = format!("{service}.headers.{}", header.0);
        let header = callout_header(&path, header)?;
        if headers.iter().any(|(name, _)| *name == header.0) {
            return refuse(path, "stands there twice");
        }
        headers.push(header);
    }
    Ok(headers)
}

fn callout_header(path: &str, (name, value): (String, String)) -> Result<(String, String)> {
    const RESERVED: [&str; 7] =
        ["host", "content-type", "content-length", "transfer-encoding", "connection", "te", "upgrade"];
    let lower = token(path, &name)?.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) {
        return refuse(path, "is set by the filter or the proxy");
    }
    if !is_field_value(&value) {
        // The value may be a secret, so the message does not show it.
        return refuse(path, "holds a character that no header value may have");
    }
    Ok((lower, value))
}

fn kept_headers(raw: &[String]) -> Result<Vec<String>> {
    let names = raw.iter().enumerate();
    names.map(|(index, name)| Ok(token(&format!("keep_headers[{index}]"), name)?.to_ascii_lowercase())).collect()
}

/// Checks the name of a header or a method (a token of RFC 9110, section 5.6.2).
fn token<'a>(path: &str, text: &'a str) -> Result<&'a str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return refuse(path, format_args!("{text:?} is not a name: letters, digits and !#$%&'*+-.^_`|~"));
    }
    Ok(text)
}

/// Whether a text can stand in a header (RFC 9110, section 5.5).
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

fn payers(raw: &raw::Payers) -> Result<Payers> {
    let read = |list: &str, accounts: &[String]| {
        let account =
            |(index, text): (usize, &String)| text.parse().map_err(at(format!("payers.{list}[{index}]"), text));
        accounts.iter().enumerate().map(account).collect::<Result<BTreeSet<Address>>>()
    };
    let allow = raw.allow.as_ref().map(|accounts| read("allow", accounts)).transpose()?;
    Ok(Payers { allow, deny: read("deny", &raw.deny)? })
}

#[cfg(feature = "page")]
fn page(raw: raw::Page) -> Result<Option<PageConfig>> {
    let is_header = |csp: &String| !csp.is_empty() && is_field_value(csp);
    if raw.csp.as_ref().is_some_and(|csp| raw.html.is_none() || !is_header(csp)) {
        return refuse("page.csp", "is not the value of a header that goes with a page.html of your own");
    }
    let own = match raw.html {
        None => None,
        Some(html) => match Template::parse(html) {
            Ok(template) => Some(OwnPage { template, csp: raw.csp }),
            Err(error) => return refuse("page.html", error),
        },
    };
    Ok(raw.enabled.unwrap_or(true).then_some(PageConfig { own }))
}

#[cfg(not(feature = "page"))]
fn page(raw: &raw::Page) -> Result<()> {
    match (&raw.html, &raw.csp, raw.enabled) {
        (None, None, None | Some(false)) => Ok(()),
        _ => refuse("page", "is not part of this build of the filter"),
    }
}

fn origins(raw: &raw::Cors) -> Result<Vec<Origin>> {
    let origin = |(index, text): (usize, &String)| {
        let is_origin = |uri: &Uri| {
            parts_of(uri)
                .is_some_and(|(scheme, authority, _)| *text == format!("{scheme}://{authority}").to_ascii_lowercase())
        };
        match text.parse::<Uri>() {
            _ if text == "*" => Ok(Origin::Any),
            Ok(uri) if is_origin(&uri) => Ok(Origin::Exact(text.clone())),
            _ => refuse(
                format!("cors.origins[{index}]"),
                format_args!("{text:?} is not an origin such as \"https://app.example.com\", nor \"*\""),
            ),
        }
    };
    raw.origins.iter().enumerate().map(origin).collect()
}

/// Callers that need not pay.
fn principals(path: &str, raw: &raw::FreeFor) -> Result<Arc<[Principal]>> {
    let principal = |(index, text): (usize, &String)| match text.strip_suffix('*') {
        None if !text.is_empty() && !text.contains('*') => Ok(Principal::Exact(text.clone())),
        Some(prefix) if prefix.ends_with('/') && !prefix.contains('*') => Ok(Principal::Below(prefix.to_owned())),
        _ => refuse(
            format!("{path}.principals[{index}]"),
            format_args!(
                "{text:?} is neither a name nor a name that ends with /*, such as spiffe://cluster.local/ns/shop/*"
            ),
        ),
    };
    raw.principals.iter().enumerate().map(principal).collect()
}

fn ledger(raw: &raw::Ledger) -> Result<Ledger> {
    match raw.max_claims.map_or(Ok(DEFAULT_MAX_CLAIMS), u32::try_from) {
        Ok(claims @ 1..) => Ok(Ledger::with_room_for(claims)),
        _ => refuse("ledger.max_claims", "is not between 1 and 4294967295"),
    }
}

fn matcher(path: &str, raw: &raw::Match) -> Result<Matcher> {
    let hosts = raw
        .hosts
        .iter()
        .enumerate()
        .map(|(index, host)| HostPattern::parse(host).map_err(at(format!("{path}.match.hosts[{index}]"), host)));
    let methods = raw.methods.iter().enumerate();
    let methods = methods
        .map(|(index, method)| Ok(token(&format!("{path}.match.methods[{index}]"), method)?.to_ascii_uppercase()));
    Ok(Matcher {
        hosts: hosts.collect::<Result<_>>()?,
        methods: methods.collect::<Result<_>>()?,
        path: Pattern::parse(&raw.path).map_err(at(format!("{path}.match.path"), &raw.path))?,
    })
}

fn route(path: &str, index: usize, raw: raw::Route, defaults: &raw::Defaults, networks: &Networks) -> Result<Route> {
    let label = match &raw.name {
        None => index.to_string(),
        Some(name) if is_label(name) => name.clone(),
        Some(name) => {
            return refuse(format!("{path}.name"), format_args!("{name:?} is not of letters, digits, _ and - alone"));
        }
    };
    let terms = match (&raw.price, raw.free) {
        (Some(price), false) => Some(Arc::new(terms(path, &raw, price, defaults, networks)?)),
        (None, true) if asks_something(&raw) => {
            return refuse(
                path,
                "is free, and says how to pay; leave out pay_to, accepts, settle, max_timeout_seconds and free_for",
            );
        }
        (None, true) => None,
        (Some(_), true) => return refuse(path, "is free and has a price; keep one of the two"),
        (None, false) => return refuse(path, "has neither a price nor free: true"),
    };
    Ok(Route { label: label.into(), terms })
}

fn is_label(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn asks_something(raw: &raw::Route) -> bool {
    raw.pay_to.is_some()
        || raw.accepts.is_some()
        || raw.settle.is_some()
        || raw.max_timeout_seconds.is_some()
        || raw.free_for.is_some()
}

fn terms(
    path: &str,
    raw: &raw::Route,
    price: &TextOr<raw::Price>,
    defaults: &raw::Defaults,
    networks: &Networks,
) -> Result<Terms> {
    let settle = raw.settle.or(defaults.settle).unwrap_or_default();
    let (max_timeout_path, max_timeout_seconds) = match (raw.max_timeout_seconds, defaults.max_timeout_seconds) {
        (Some(seconds), _) => (format!("{path}.max_timeout_seconds"), seconds),
        (None, Some(seconds)) => ("defaults.max_timeout_seconds".to_owned(), seconds),
        (None, None) => (String::new(), DEFAULT_MAX_TIMEOUT_SECONDS),
    };
    if max_timeout_seconds < MIN_MAX_TIMEOUT_SECONDS {
        return refuse(
            max_timeout_path,
            format_args!(
                "{max_timeout_seconds} is too short: facilitators want {MIN_LIFETIME_SECONDS} s left when they see a payment; the least is {MIN_MAX_TIMEOUT_SECONDS}"
            ),
        );
    }
    let (accepts_path, entries) = match (&raw.accepts, &defaults.accepts) {
        (Some(entries), _) => (format!("{path}.accepts"), entries),
        (None, Some(entries)) => ("defaults.accepts".to_owned(), entries),
        (None, None) => return refuse(format!("{path}.accepts"), "is missing, here and in defaults: say how to pay"),
    };
    if entries.is_empty() {
        return refuse(accepts_path, "is empty: say how to pay");
    }
    let inherited = Inherited { route: path, raw, defaults, price, settle, max_timeout_seconds };
    let mut offers: Vec<Arc<Offer>> = Vec::with_capacity(entries.len());
    for (index, Object(entry)) in entries.iter().enumerate() {
        let offer = Arc::new(inherited.offer(&format!("{accepts_path}[{index}]"), entry, networks)?);
        let is_same = |earlier: &Arc<Offer>| json::to_text(&earlier.requirement) == json::to_text(&offer.requirement);
        if offers.iter().any(is_same) {
            return refuse(format!("{accepts_path}[{index}]"), "says the same as an entry before it");
        }
        offers.push(offer);
    }
    let description = raw.description.clone().unwrap_or_default();
    if description.len() > MAX_DESCRIPTION_BYTES {
        return refuse(format!("{path}.description"), format_args!("is longer than {MAX_DESCRIPTION_BYTES} bytes"));
    }
    let mime_type = raw.mime_type.clone().unwrap_or_default();
    if !mime_type.is_empty() && (!mime_type.contains('/') || !is_field_value(&mime_type)) {
        return refuse(
            format!("{path}.mime_type"),
            format_args!("{mime_type:?} is not a media type such as \"application/json\""),
        );
    }
    let tariff = inherited.tariff()?.map(Arc::new);
    let price_service = inherited.price_service()?.map(Arc::new);
    let settlement_overrides = raw.settlement_overrides;
    let free_for = match (&raw.free_for, &defaults.free_for) {
        (Some(free_for), _) => principals(&format!("{path}.free_for"), free_for)?,
        (None, Some(free_for)) => principals("defaults.free_for", free_for)?,
        (None, None) => Arc::default(),
    };
    Ok(Terms { offers, description, mime_type, settle, tariff, price_service, settlement_overrides, free_for })
}

/// What an entry takes from the route and the defaults around it.
struct Inherited<'a> {
    route: &'a str,
    raw: &'a raw::Route,
    defaults: &'a raw::Defaults,
    price: &'a TextOr<raw::Price>,
    settle: Settle,
    max_timeout_seconds: u64,
}

impl Inherited<'_> {
    fn offer(&self, path: &str, entry: &raw::Entry, networks: &Networks) -> Result<Offer> {
        let scheme = match entry.scheme {
            raw::Scheme::Exact => Scheme::Exact,
            raw::Scheme::Upto => Scheme::Upto,
        };
        if scheme == Scheme::Upto && self.settle != Settle::After {
            return refuse(path, "has scheme upto, which settles after the response, when its cost is known");
        }
        let network = networks.find(&format!("{path}.network"), &entry.network)?;
        let asset = match &entry.asset {
            TextOr::Object(inline) => Asset::from_raw(&format!("{path}.asset"), inline, "the asset")?,
            TextOr::Text(symbol) => network.asset(&format!("{path}.asset"), symbol)?,
        };
        let transfer_method = match entry.transfer_method.unwrap_or(asset.transfer_method) {
            raw::TransferMethod::Eip3009 if scheme == Scheme::Exact => TransferMethod::Eip3009,
            raw::TransferMethod::Eip3009 if entry.transfer_method.is_some() => {
                return refuse(
                    format!("{path}.transfer_method"),
                    "is eip3009, and scheme upto is always paid by permit2",
                );
            }
            _ => TransferMethod::Permit2,
        };
        let recipients = self.recipients(path, entry)?;
        let rates = self.rates(&asset)?;
        let requirement = Requirement {
            scheme,
            transfer_method,
            facilitator: None,
            network: NetworkId::from_chain_id(network.chain_id),
            chain_id: network.chain_id,
            v1_network: network.v1_name(),
            amount: match &rates {
                Some(rates) => rates.minimum.max(Amount::from(1)),
                None => self.amount(&asset)?,
            },
            asset: asset.address,
            pay_to: recipients.first().map_or(asset.address, |recipient| recipient.to),
            max_timeout_seconds: self.max_timeout_seconds,
            eip712_name: asset.eip712_name,
            eip712_version: asset.eip712_version,
            payment_flow: match self.settle {
                Settle::After => PaymentFlow::Authorization,
                Settle::Before | Settle::Concurrent => PaymentFlow::Upfront,
            },
            contract_wallets: entry.contract_wallets,
        };
        if entry.confirm && network.rpc.is_none() {
            let network = &requirement.network;
            return refuse(format!("{path}.confirm"), format_args!("needs a node to ask: configure rpc.{network}"));
        }
        let domain_separator = requirement.domain_separator();
        let rates = rates.map(Arc::new);
        Ok(Offer {
            requirement,
            domain_separator,
            recipients,
            recipient_from: self.recipient_from(entry),
            dollar_decimals: asset.usd_pegged.then_some(asset.decimals),
            rates,
            rpc: network.rpc,
            confirm: entry.confirm,
        })
    }

    fn amount(&self, asset: &Asset) -> Result<Amount> {
        let path = format!("{}.price", self.route);
        let amount = match self.price {
            TextOr::Object(price) => {
                if price.quote.is_some() {
                    if price.amount.is_some() {
                        return refuse(path, "has an amount, and a service to ask for it; keep one");
                    }
                    // Until the service has said.
                    return Ok(Amount::from(1));
                }
                let Some(amount) = &price.amount else {
                    return refuse(path, "has neither an amount nor usage and models");
                };
                Amount::parse(amount).map_err(at(format!("{path}.amount"), amount))?
            }
            TextOr::Text(text) => asset.units(&path, text, 0)?,
        };
        if amount == Amount::ZERO {
            return refuse(path, "is nothing; write free: true in place of a price");
        }
        Ok(amount)
    }

    /// How tokens are priced, if they are.
    fn tariff(&self) -> Result<Option<Tariff>> {
        const DEFAULT_MAX_OUTPUT_TOKENS: u64 = 4096;
        const DEFAULT_MAX_BODY_BYTES: u64 = 1024 * 1024;
        const MOST_BODY_BYTES: u64 = 16 * 1024 * 1024;
        let path = format!("{}.price", self.route);
        let TextOr::Object(price) = self.price else { return Ok(None) };
        let Some(usage) = &price.usage else {
            if price.models.is_some() {
                return refuse(format!("{path}.usage"), "is missing: openai, anthropic, or JSON pointers");
            }
            return Ok(None);
        };
        let shape = match usage {
            TextOr::Text(name) if name == "openai" => Shape::OpenAi,
            TextOr::Text(name) if name == "anthropic" => Shape::Anthropic,
            TextOr::Text(name) => {
                return refuse(
                    format!("{path}.usage"),
                    format_args!("{name:?} is neither openai nor anthropic; give JSON pointers for anything else"),
                );
            }
            TextOr::Object(raw) => Shape::Pointers(Box::new(pointers(&format!("{path}.usage"), raw)?)),
        };
        let models: Vec<String> =
            price.models.iter().flat_map(|models| &models.0).map(|(name, _)| name.clone()).collect();
        let max_body_bytes = price.max_body_bytes.unwrap_or(DEFAULT_MAX_BODY_BYTES);
        if !(1..=MOST_BODY_BYTES).contains(&max_body_bytes) {
            return refuse(format!("{path}.max_body_bytes"), format_args!("is not between 1 and {MOST_BODY_BYTES}"));
        }
        if matches!((&shape, &price.metadata), (Shape::Pointers(_), Some(_))) {
            return refuse(format!("{path}.metadata"), "does not go with JSON pointers; use openai or anthropic");
        }
        let bytes_per_token = price.bytes_per_token.unwrap_or(1);
        if bytes_per_token == 0 {
            return refuse(format!("{path}.bytes_per_token"), "is 0");
        }
        Ok(Some(Tariff {
            shape,
            models,
            bytes_per_token,
            max_output_tokens: price.max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS),
            missing_usage: price.missing_usage.unwrap_or_default(),
            max_body_bytes: usize::try_from(max_body_bytes).unwrap_or(usize::MAX),
            namespace: price.metadata.clone(),
        }))
    }

    /// What tokens cost in an asset, if the route is priced by them.
    fn rates(&self, asset: &Asset) -> Result<Option<Rates>> {
        let path = format!("{}.price", self.route);
        let TextOr::Object(price) = self.price else { return Ok(None) };
        let is_by_tokens = price.usage.is_some() || price.models.is_some();
        if is_by_tokens && price.amount.is_some() {
            return refuse(format!("{path}.amount"), "is a fixed price, and there are prices of tokens beside it");
        }
        let models = match &price.models {
            _ if !is_by_tokens => return Ok(None),
            Some(_) if price.quote.is_some() => {
                return refuse(
                    format!("{path}.models"),
                    "have prices, and quote names a service that knows them; keep one",
                );
            }
            None if price.quote.is_some() => return Ok(None),
            Some(models) if !models.0.is_empty() => models,
            _ => return refuse(format!("{path}.models"), "is missing: say what a million tokens of each model cost"),
        };
        let rate = |name: &str, rate: &raw::Rate| {
            let path = format!("{path}.models.{name}");
            let units = |key: &str, value: &TextOr<raw::Units>| asset.rate(&format!("{path}.{key}"), value);
            let input = units("input", &rate.input)?;
            let or_input = |key: &str, value: &Option<TextOr<raw::Units>>| {
                value.as_ref().map_or(Ok(input), |value| units(key, value))
            };
            Ok(Rate {
                input,
                cached_input: or_input("cached_input", &rate.cached_input)?,
                cache_write: or_input("cache_write", &rate.cache_write)?,
                output: units("output", &rate.output)?,
            })
        };
        let minimum_path = format!("{path}.minimum");
        let minimum = match &price.minimum {
            None => Amount::ZERO,
            Some(TextOr::Object(units)) => {
                Amount::parse(&units.amount).map_err(at(format!("{minimum_path}.amount"), &units.amount))?
            }
            Some(TextOr::Text(text)) => asset.units(&minimum_path, text, 0)?,
        };
        let models = models.0.iter().map(|(name, Object(raw))| rate(name, raw)).collect::<Result<_>>()?;
        Ok(Some(Rates { models, minimum }))
    }

    /// Who is asked for prices, if somebody is.
    fn price_service(&self) -> Result<Option<Service>> {
        let TextOr::Object(raw::Price { quote: Some(quote), .. }) = self.price else { return Ok(None) };
        let path = format!("{}.price.quote", self.route);
        let timeout = read_timeout(&path, quote.timeout.as_deref(), DEFAULT_QUOTE_TIMEOUT)?;
        service(&path, quote.cluster.clone(), &quote.url, timeout, quote.headers.0.clone()).map(Some)
    }

    /// Where the proxy says who is paid, if it does.
    fn recipient_from(&self, entry: &raw::Entry) -> Option<MetadataKey> {
        let candidates = [&entry.pay_to, &self.raw.pay_to, &self.defaults.pay_to];
        match candidates.into_iter().flatten().next()? {
            TextOr::Object(raw::PayTo { metadata: Some(raw::MetadataKey { namespace, key }), .. }) => {
                Some(MetadataKey { namespace: namespace.clone(), key: key.clone() })
            }
            _ => None,
        }
    }

    fn recipients(&self, path: &str, entry: &raw::Entry) -> Result<Vec<Recipient>> {
        let candidates = [
            (format!("{path}.pay_to"), &entry.pay_to),
            (format!("{}.pay_to", self.route), &self.raw.pay_to),
            ("defaults.pay_to".to_owned(), &self.defaults.pay_to),
        ];
        let Some((path, recipient)) = candidates.into_iter().find_map(|(path, to)| Some((path, to.as_ref()?))) else {
            return refuse(
                format!("{}.pay_to", self.route),
                "is missing, here, in the entry and in defaults: say who is paid",
            );
        };
        let split = match recipient {
            TextOr::Text(text) => return Ok(vec![Recipient { to: recipient_address(&path, text)?, weight: 1 }]),
            TextOr::Object(raw::PayTo { split: Some(split), metadata: None }) => split,
            TextOr::Object(raw::PayTo { split: None, metadata: Some(_) }) => return Ok(Vec::new()),
            TextOr::Object(_) => return refuse(path, "has neither split nor metadata, or both; keep one"),
        };
        if split.is_empty() {
            return refuse(format!("{path}.split"), "is empty: say who is paid");
        }
        let mut recipients: Vec<Recipient> = Vec::with_capacity(split.len());
        for (index, Object(part)) in split.iter().enumerate() {
            let path = format!("{path}.split[{index}]");
            let to = recipient_address(&format!("{path}.to"), &part.to)?;
            let weight = part.weight.unwrap_or(1);
            if !(1..=MOST_WEIGHT).contains(&weight) {
                return refuse(format!("{path}.weight"), format_args!("is not between 1 and {MOST_WEIGHT}"));
            }
            if recipients.iter().any(|other| other.to == to) {
                return refuse(format!("{path}.to"), "stands there twice; add the weights");
            }
            recipients.push(Recipient { to, weight });
        }
        Ok(recipients)
    }
}

const MOST_WEIGHT: u64 = 1_000_000;

fn recipient_address(path: &str, text: &str) -> Result<Address> {
    let address: Address = text.parse().map_err(at(path, text))?;
    if address == Address::from_bytes([0; 20]) {
        return refuse(path, "is the zero address, from which nobody can take the money");
    }
    Ok(address)
}

fn pointers(path: &str, raw: &raw::Pointers) -> Result<Pointers> {
    let check = |key: &str, pointer: &String| match pointer.strip_prefix('/') {
        Some(_) => Ok(pointer.clone()),
        None => refuse(format!("{path}.{key}"), format_args!("{pointer:?} is not a JSON pointer such as /usage/total")),
    };
    let optional =
        |key: &str, pointer: &Option<String>| pointer.as_ref().map(|pointer| check(key, pointer)).transpose();
    Ok(Pointers {
        model: check("model", &raw.model)?,
        max_output_tokens: optional("max_output_tokens", &raw.max_output_tokens)?,
        choices: optional("choices", &raw.choices)?,
        input_tokens: check("input_tokens", &raw.input_tokens)?,
        cached_input_tokens: optional("cached_input_tokens", &raw.cached_input_tokens)?,
        output_tokens: optional("output_tokens", &raw.output_tokens)?,
    })
}

/// The built-in table with what the configuration adds to it.
struct Networks(Vec<Network>);

#[derive(Clone)]
struct Network {
    name: Option<String>,
    chain_id: u64,
    assets: Vec<Asset>,
    rpc: Option<Arc<Rpc>>,
}

#[derive(Clone)]
struct Asset {
    /// Its symbol, where it has one.
    label: String,
    address: Address,
    decimals: u8,
    eip712_name: String,
    eip712_version: String,
    usd_pegged: bool,
    transfer_method: raw::TransferMethod,
}

impl Networks {
    fn new(added: Named<Object<raw::Network>>) -> Result<Self> {
        let mut networks = Self(Vec::with_capacity(NETWORKS.len()));
        for known in NETWORKS {
            let assets = known.assets.iter().map(Asset::from_known).collect::<Result<_>>()?;
            networks.0.push(Network { name: Some(known.name.to_owned()), chain_id: known.chain_id, assets, rpc: None });
        }
        for (name, Object(raw)) in added.0 {
            networks.add(name, raw)?;
        }
        Ok(networks)
    }

    fn add(&mut self, name: String, raw: raw::Network) -> Result<()> {
        let path = format!("networks.{name}");
        let position = self.0.iter().position(|network| network.name.as_deref() == Some(&name));
        let known = position.map(|position| self.0.swap_remove(position));
        let Some(chain_id) = raw.chain_id.or(known.as_ref().map(|network| network.chain_id)) else {
            return refuse(path, "is not in the built-in table and has no chain_id");
        };
        let mut assets = known.filter(|known| known.chain_id == chain_id).map_or_else(Vec::new, |known| known.assets);
        for (symbol, Object(asset)) in raw.assets.0 {
            assets.retain(|asset| asset.label != symbol);
            assets.push(Asset::from_raw(&format!("{path}.assets.{symbol}"), &asset, &symbol)?);
        }
        self.0.push(Network { name: Some(name), chain_id, assets, rpc: None });
        Ok(())
    }

    fn add_rpc(&mut self, raw: Vec<(String, Object<raw::Rpc>)>) -> Result<()> {
        for (name, Object(raw)) in raw {
            let path = format!("rpc.{name}");
            let chain_id = self.find(&path, &name)?.chain_id;
            let timeout = read_timeout(&path, raw.timeout.as_deref(), DEFAULT_RPC_TIMEOUT)?;
            let service = service(&path, raw.cluster, &raw.url, timeout, raw.headers.0)?;
            let confirmations = raw.confirmations.unwrap_or(1);
            if confirmations == 0 {
                return refuse(format!("{path}.confirmations"), "is 0; the block of the transfer itself is the first");
            }
            let log_range = raw.log_range.unwrap_or(DEFAULT_LOG_RANGE);
            let rpc = Arc::new(Rpc { service: Arc::new(service), confirmations, log_range });
            if !self.0.iter().any(|network| network.chain_id == chain_id) {
                self.0.push(Network { name: None, chain_id, assets: Vec::new(), rpc: None });
            }
            for network in self.0.iter_mut().filter(|network| network.chain_id == chain_id) {
                if network.rpc.is_some() {
                    return refuse(path, "speaks of a network that has a node already");
                }
                network.rpc = Some(Arc::clone(&rpc));
            }
        }
        Ok(())
    }

    fn find(&self, path: &str, text: &str) -> Result<Network> {
        if let Some(network) = self.0.iter().find(|network| network.name.as_deref() == Some(text)) {
            return Ok(network.clone());
        }
        let Some(chain_id) = text.parse::<NetworkId>().ok().and_then(|id| id.chain_id()) else {
            let known = list(self.0.iter().filter_map(|network| network.name.as_deref()));
            return refuse(
                path,
                format_args!("{text:?} is neither a CAIP-2 id of the form eip155:<chain id> nor one of {known}"),
            );
        };
        let known = self.0.iter().find(|network| network.chain_id == chain_id).cloned();
        Ok(known.unwrap_or(Network { name: None, chain_id, assets: Vec::new(), rpc: None }))
    }
}

impl Network {
    /// The name in version 1 of the protocol, which means one chain whatever the configuration calls by it.
    fn v1_name(&self) -> Option<String> {
        let known = NETWORKS.iter().find(|known| known.chain_id == self.chain_id)?;
        V1_NAMES.contains(&known.name).then(|| known.name.to_owned())
    }

    fn asset(&self, path: &str, symbol: &str) -> Result<Asset> {
        let found = self.assets.iter().find(|asset| asset.label == symbol).cloned();
        let Some(asset) = found else {
            let known = match self.assets.as_slice() {
                [] => "none".to_owned(),
                assets => list(assets.iter().map(|asset| asset.label.as_str())),
            };
            let chain_id = self.chain_id;
            return refuse(
                path,
                format_args!(
                    "{symbol:?} is not known on eip155:{chain_id} (known there: {known}); give {{address, decimals, eip712}}"
                ),
            );
        };
        Ok(asset)
    }
}

impl Asset {
    fn from_known(known: &KnownAsset) -> Result<Self> {
        Ok(Self {
            label: known.symbol.to_owned(),
            address: known.address.parse().map_err(at("networks (built-in)", known.address))?,
            decimals: known.decimals,
            eip712_name: known.eip712_name.to_owned(),
            eip712_version: known.eip712_version.to_owned(),
            usd_pegged: known.usd_pegged,
            transfer_method: raw::TransferMethod::Eip3009,
        })
    }

    /// A sum of dollars in atomic units, and `finer` digits below them.
    fn units(&self, path: &str, text: &str, finer: u32) -> Result<Amount> {
        if !self.usd_pegged {
            return refuse(
                path,
                format_args!(
                    "is in dollars, and {} is not pegged to the dollar; give {{amount: \"…\"}} in atomic units, or mark the asset usd_pegged",
                    self.label
                ),
            );
        }
        let dollars = Dollars::parse(text).map_err(at(path, text))?;
        let digits = u32::from(self.decimals).saturating_add(finer);
        let units = dollars.to_decimal().to_units(digits).map_err(|error| JsonError {
            path: path.to_owned(),
            message: format!("{text:?} {error} of {} ({} decimals)", self.label, self.decimals),
        })?;
        Ok(Amount::from(units))
    }

    /// What a million tokens cost, in the fineness of rates.
    fn rate(&self, path: &str, value: &TextOr<raw::Units>) -> Result<U256> {
        let units = match value {
            TextOr::Text(text) => return Ok(self.units(path, text, RATE_SCALE_DIGITS)?.to_integer()),
            TextOr::Object(units) => &units.amount,
        };
        let path = format!("{path}.amount");
        let amount = Amount::parse(units).map_err(at(&path, units))?.to_integer();
        let scale = U256::from(10).checked_pow(U256::from(RATE_SCALE_DIGITS));
        let scaled = scale.and_then(|scale| amount.checked_mul(scale));
        scaled.ok_or_else(|| JsonError { path, message: format!("{units:?} is too large") })
    }

    fn from_raw(path: &str, raw: &raw::Asset, label: &str) -> Result<Self> {
        if raw.eip712.name.is_empty() || raw.eip712.version.is_empty() {
            return refuse(
                format!("{path}.eip712"),
                "has an empty name or version; take both from the token's contract",
            );
        }
        let Some(decimals) = u8::try_from(raw.decimals).ok().filter(|decimals| *decimals <= 77) else {
            return refuse(format!("{path}.decimals"), "is not between 0 and 77");
        };
        Ok(Self {
            label: label.to_owned(),
            address: raw.address.parse().map_err(at(format!("{path}.address"), &raw.address))?,
            decimals,
            eip712_name: raw.eip712.name.clone(),
            eip712_version: raw.eip712.version.clone(),
            usd_pegged: raw.usd_pegged,
            transfer_method: raw.transfer_method,
        })
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
