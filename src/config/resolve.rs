//! From what is written to what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Uri;
use ruint::aliases::U256;

use super::raw::{self, TextOr};
use super::secret::{Secret, Shown, header_path, named};
use super::{
    Catalogue, Config, CorsOrigin, Extensions, Facilitator, Offer, Origin, Payers, Principal, Recipient, Route, Rpc,
    Service, Settle, ShownAt, SignInTerms, Terms,
};
#[cfg(feature = "page")]
use super::{OwnPage, PageConfig};
use crate::evm::signature::SecretKey;
use crate::evm::{Address, keccak256};
use crate::json::{self, JsonError, Named, Object};
use crate::ledger::Ledger;
use crate::metadata::MetadataKey;
use crate::money::{Amount, Dollars};
use crate::networks::{KnownAsset, NETWORKS, SOLANA, SolanaNetwork, V1_NAMES};
#[cfg(feature = "page")]
use crate::page::Template;
use crate::price::{Pointers, RATE_SCALE_DIGITS, Rate, Rates, Shape, Tariff};
use crate::route::{Access, HostPattern, Matcher, Pattern, RouteTable};
use crate::scheme::MIN_LIFETIME_SECONDS;
use crate::svm::{Memo, Pubkey, TokenProgram};
use crate::time::parse_duration;
use crate::x402::extensions::Bazaar;
use crate::x402::offer_receipt::Issuer;
use crate::x402::requirement::{Evm, Foreign, PaymentFlow, Rail, Scheme, Svm, TransferMethod, domain_separator};
use crate::x402::sign_in::chains;
use crate::x402::{NetworkId, Requirement};

type Result<T> = std::result::Result<T, JsonError>;

/// An Envoy that was replaced by a hot restart goes on for a quarter of an hour (`--parent-shutdown-time-s`), and what it asked
/// for last may settle a little later.
const DEFAULT_EXCLUSIVE_AFTER_SECONDS: u64 = 1200;
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
/// 42 MB, if it were ever full.
const DEFAULT_MAX_CLAIMS: u32 = 262_144;
/// The whole of the terms has to fit into a header.
const MAX_DESCRIPTION_BYTES: usize = 2048;
const MAX_STATEMENT_BYTES: usize = 512;
/// Payers who may come back take up memory.
const LONGEST_SIGN_IN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn config(raw: raw::Config) -> Result<Config> {
    let facilitator = facilitator(raw.facilitator)?;
    let mut networks = Networks::new(raw.networks)?;
    networks.add_rpc(raw.rpc.0)?;
    let defaults = &raw.defaults;
    let origins = origins(&raw.origins)?;
    let mut labels = BTreeSet::new();
    let mut routes = Vec::with_capacity(raw.routes.len());
    let mut matchers = Vec::with_capacity(raw.routes.len());
    for (index, Object(raw_route)) in raw.routes.into_iter().enumerate() {
        let path = format!("routes[{index}]");
        let matcher = matcher(&path, &raw_route.matcher)?;
        let shown_at = shown_at(&matcher, &origins);
        let route = route(&path, index, raw_route, shown_at, defaults, &networks)?;
        if !labels.insert(route.label.clone()) {
            return refuse(
                format!("{path}.name"),
                format_args!("{} is the name of another route", Shown(&route.label)),
            );
        }
        matchers.push((matcher, if route.terms.is_some() { Access::Priced } else { Access::Free }));
        routes.push(route);
    }
    let offers = routes.iter().filter_map(|route| route.terms.as_ref()).flat_map(|terms| &terms.offers);
    let unknown_payers = offers.clone().find(|offer| match &offer.requirement.rail {
        Rail::Evm(_) => false,
        Rail::Foreign(foreign) => foreign.svm.is_none(),
    });
    let payers = payers(&raw.payers)?;
    if let Some(offer) = unknown_payers.filter(|_| payers.is_choosy()) {
        let Requirement { scheme, network, .. } = &offer.requirement;
        return refuse(
            "payers",
            format_args!(
                "cannot be told of an entry with scheme {} on {network}: only the facilitator knows them",
                scheme.as_str()
            ),
        );
    }
    let needs_introduction = offers
        .clone()
        .any(|offer| offer.requirement.scheme == Scheme::Upto || matches!(offer.requirement.rail, Rail::Foreign(_)));
    let has_offers = offers.clone().next().is_some();
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
    let issuer = raw.offer_receipt.as_ref().map(issuer).transpose()?;
    let is_discoverable = raw.discovery.unwrap_or(true);
    let catalogue = match is_discoverable {
        true => Catalogue::new(routes.iter().zip(matchers.iter().map(|(matcher, _)| matcher))),
        false => Catalogue::default(),
    };
    let unsigned = issuer.as_ref().and_then(|_| warn_of_unsigned(&routes));
    let warnings = unsigned.into_iter().chain(catalogue.warning(&origins)).collect();
    Ok(Config {
        payers,
        origins,
        cors_origins: raw.cors.as_ref().map_or(Ok(Vec::new()), cors_origins)?,
        issuer,
        is_discoverable,
        catalogue,
        warnings,
        #[cfg(feature = "page")]
        page: page(raw.page)?,
        needs_principals,
        needs_introduction,
        has_offers,
        metadata,
        facilitator,
        routes,
        table: RouteTable::new(matchers),
        unmatched: raw.unmatched,
        kept_headers: kept_headers(&raw.keep_headers)?,
        ledger: ledger(&raw.ledger)?,
        ledger_exclusive_after: exclusive_after(&raw.ledger)?,
    })
}

fn refuse<T>(path: impl Into<String>, message: impl Display) -> Result<T> {
    Err(JsonError { path: path.into(), message: message.to_string() })
}

/// Puts a path to an error that speaks of `value`.
fn at<E: Display>(path: impl Into<String>, value: &str) -> impl FnOnce(E) -> JsonError {
    move |error| JsonError { path: path.into(), message: format!("{} {error}", Shown(value)) }
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
    Secret(url): &Secret,
    timeout: Duration,
    headers: Vec<(String, Secret)>,
) -> Result<Service> {
    if cluster.is_empty() {
        return refuse(format!("{path}.cluster"), "is empty; name the cluster that the calls go to");
    }
    if url.contains('@') {
        return refuse(
            format!("{path}.url"),
            format_args!("carries a user name; credentials belong in {path}.headers"),
        );
    }
    let uri: Option<Uri> = url.parse().ok();
    let Some((scheme, authority, base_path)) = uri.as_ref().and_then(parts_of) else {
        // A URL may hold a key wherever it is wrong, so the message does not show it.
        return refuse(
            format!("{path}.url"),
            format_args!(
                "is not an http or https URL without query; what a query would hold belongs in {path}.headers"
            ),
        );
    };
    Ok(Service { cluster, scheme, authority, base_path, timeout, headers: callout_headers(path, headers)? })
}

fn read_timeout(path: &str, text: Option<&str>, default: Duration) -> Result<Duration> {
    let Some(text) = text else { return Ok(default) };
    match parse_duration(text) {
        Some(timeout) if timeout >= Duration::from_millis(1) && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => refuse(
            format!("{path}.timeout"),
            format_args!("{} is not a duration such as \"10s\" or \"0.5s\", from 0.001s to 600s", Shown(text)),
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

fn callout_headers(service: &str, raw: Vec<(String, Secret)>) -> Result<Vec<(String, String)>> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        let path = header_path(service, &name);
        let header = callout_header(&path, &name, value)?;
        if headers.iter().any(|(name, _)| *name == header.0) {
            return refuse(path, "holds the same name twice");
        }
        headers.push(header);
    }
    Ok(headers)
}

/// Reads a header. Neither its value nor its name is shown: somebody may have swapped the two.
fn callout_header(path: &str, name: &str, Secret(value): Secret) -> Result<(String, String)> {
    const RESERVED: [&str; 7] =
        ["host", "content-type", "content-length", "transfer-encoding", "connection", "te", "upgrade"];
    if !is_token(name) {
        return refuse(
            path,
            "holds a name that no header has; a name is of letters, digits and !#$%&'*+-.^_`|~, and stands before the colon",
        );
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) {
        return refuse(path, "is set by the filter or the proxy");
    }
    if !is_field_value(&value) {
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
    if is_token(text) {
        Ok(text)
    } else {
        refuse(path, format_args!("{} is not a name: letters, digits and !#$%&'*+-.^_`|~", Shown(text)))
    }
}

fn is_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}

/// Whether a text can stand in a header (RFC 9110, section 5.5).
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

fn payers(raw: &raw::Payers) -> Result<Payers> {
    let read = |list: &str, accounts: &[String]| {
        let mut read = BTreeSet::new();
        for (index, text) in accounts.iter().enumerate() {
            let path = format!("payers.{list}[{index}]");
            read.insert(match text.parse::<Pubkey>() {
                Ok(account) => account.to_string(),
                Err(_) => text.parse::<Address>().map_err(at(path, text))?.to_string(),
            });
        }
        Ok(read)
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

fn issuer(raw: &raw::OfferReceipt) -> Result<Issuer> {
    let mut secret = [0; 32];
    let Secret(key) = &raw.key;
    let digits = key.strip_prefix("0x").unwrap_or_default();
    let key = hex::decode_to_slice(digits, &mut secret).ok().and_then(|()| SecretKey::from_bytes(&secret));
    match key {
        Some(key) => Ok(Issuer::new(key, raw.offers.unwrap_or(true), raw.transaction)),
        // The message does not show what may be a key but for a digit.
        None => refuse("offer_receipt.key", "is not the key of an account: 0x and 64 hexadecimal digits"),
    }
}

fn origins(raw: &[String]) -> Result<Vec<Origin>> {
    let origin = |(index, text): (usize, &String)| match Origin::parse(text) {
        Some(origin) => Ok(origin),
        None => refuse(
            format!("origins[{index}]"),
            format_args!(
                "{} is not an origin such as \"https://api.example.com\": scheme and host, and no more",
                Shown(text)
            ),
        ),
    };
    raw.iter().enumerate().map(origin).collect()
}

/// At which origin a route is shown.
fn shown_at(matcher: &Matcher, origins: &[Origin]) -> ShownAt {
    let admitted = origins.iter().find(|origin| matcher.takes_host(&origin.authority));
    match admitted.or(origins.first()) {
        Some(origin) => ShownAt::Origin(origin.clone()),
        None if matcher.hosts.is_empty() => ShownAt::Client,
        None => ShownAt::RouteHost,
    }
}

/// Tells of routes for which nothing can be signed, if there are any.
fn warn_of_unsigned(routes: &[Route]) -> Option<String> {
    let is_unsigned = |route: &&Route| route.terms.as_ref().is_some_and(|terms| terms.shown_at == ShownAt::Client);
    let first = routes.iter().find(is_unsigned)?;
    let count = routes.iter().filter(is_unsigned).count();
    Some(format!(
        "offer_receipt signs nothing for {count} routes (the first is {}), of which nobody knows the host: set origins, or match.hosts",
        first.label
    ))
}

fn cors_origins(raw: &raw::Cors) -> Result<Vec<CorsOrigin>> {
    let origin = |(index, text): (usize, &String)| {
        let is_origin = |uri: &Uri| {
            parts_of(uri)
                .is_some_and(|(scheme, authority, _)| *text == format!("{scheme}://{authority}").to_ascii_lowercase())
        };
        match text.parse::<Uri>() {
            _ if text == "*" => Ok(CorsOrigin::Any),
            Ok(uri) if is_origin(&uri) => Ok(CorsOrigin::Exact(text.clone())),
            _ => refuse(
                format!("cors.origins[{index}]"),
                format_args!("{} is not an origin such as \"https://app.example.com\", nor \"*\"", Shown(text)),
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
                "{} is neither a name nor a name that ends with /*, such as spiffe://cluster.local/ns/shop/*",
                Shown(text)
            ),
        ),
    };
    raw.principals.iter().enumerate().map(principal).collect()
}

fn ledger(raw: &raw::Ledger) -> Result<Ledger> {
    match raw.max_claims.map_or(Ok(DEFAULT_MAX_CLAIMS), u32::try_from) {
        Ok(claims @ 1..) => Ok(Ledger::with_room_for(claims).with_max_redemptions(max_redemptions(raw)?)),
        _ => refuse("ledger.max_claims", "is not between 1 and 4294967295"),
    }
}

fn max_redemptions(raw: &raw::Ledger) -> Result<u8> {
    match raw.max_redemptions.map_or(Ok(Ledger::DEFAULT_MAX_REDEMPTIONS), u8::try_from) {
        Ok(redemptions @ 1..) => Ok(redemptions),
        _ => refuse("ledger.max_redemptions", "is not between 1 and 255"),
    }
}

fn exclusive_after(raw: &raw::Ledger) -> Result<Option<u64>> {
    const PATH: &str = "ledger.exclusive_after";
    match (&raw.exclusive_after, raw.exclusive) {
        (None, is_exclusive) => Ok(is_exclusive.then_some(DEFAULT_EXCLUSIVE_AFTER_SECONDS)),
        (Some(_), false) => refuse(PATH, "needs ledger.exclusive: true"),
        (Some(text), true) => match parse_duration(text).filter(|duration| duration.subsec_nanos() == 0) {
            Some(duration) => Ok(Some(duration.as_secs())),
            None => refuse(PATH, format_args!("{text:?} is not of whole seconds such as \"1200s\"")),
        },
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

fn route(
    path: &str,
    index: usize,
    raw: raw::Route,
    shown_at: ShownAt,
    defaults: &raw::Defaults,
    networks: &Networks,
) -> Result<Route> {
    let label = match &raw.name {
        None => index.to_string(),
        Some(name) if is_label(name) => name.clone(),
        Some(name) => {
            return refuse(
                format!("{path}.name"),
                format_args!("{} is not of letters, digits, _ and - alone", Shown(name)),
            );
        }
    };
    let terms = match (&raw.price, raw.free) {
        (Some(price), false) => Some(Arc::new(terms(path, &raw, price, shown_at, defaults, networks)?)),
        (None, true) if asks_something(&raw) => {
            return refuse(
                path,
                "is free, and says how to pay; leave out pay_to, accepts, settle, max_timeout_seconds, free_for and extensions",
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
        || raw.extensions.is_some()
}

fn terms(
    path: &str,
    raw: &raw::Route,
    price: &TextOr<raw::Price>,
    shown_at: ShownAt,
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
            format_args!("{} is not a media type such as \"application/json\"", Shown(&mime_type)),
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
    let extensions = extensions(&format!("{path}.extensions"), raw, &offers)?;
    let has_fixed_price = tariff.is_none() && price_service.is_none();
    if extensions.sign_in.is_some() && !has_fixed_price {
        return refuse(
            format!("{path}.extensions.sign_in_with_x"),
            "is for a fixed price: here a small payment would buy the dearest request after it",
        );
    }
    Ok(Terms {
        offers,
        description,
        mime_type,
        settle,
        tariff,
        price_service,
        settlement_overrides,
        free_for,
        extensions,
        shown_at,
        prepared: None,
    }
    .prepared())
}

fn extensions(path: &str, route: &raw::Route, offers: &[Arc<Offer>]) -> Result<Extensions> {
    let Some(raw) = &route.extensions else { return Ok(Extensions::default()) };
    let bazaar = raw.bazaar.as_ref().map(|raw| bazaar(&format!("{path}.bazaar"), raw, &route.matcher)).transpose()?;
    let sign_in = raw.sign_in_with_x.as_ref().map(|raw| sign_in(&format!("{path}.sign_in_with_x"), raw, offers));
    Ok(Extensions::new(raw.payment_identifier, bazaar.map(|bazaar| bazaar.to_json().into()), sign_in.transpose()?))
}

fn sign_in(path: &str, raw: &raw::SignIn, offers: &[Arc<Offer>]) -> Result<SignInTerms> {
    let lasts = parse_duration(&raw.lasts).filter(|lasts| lasts.subsec_nanos() == 0 && *lasts <= LONGEST_SIGN_IN);
    let Some(seconds @ 1..) = lasts.map(|lasts| lasts.as_secs()) else {
        return refuse(
            format!("{path}.lasts"),
            format_args!("{} is not of whole seconds such as \"3600s\", from 1s to 30 days", Shown(&raw.lasts)),
        );
    };
    let is_line = |text: &str| (1..=MAX_STATEMENT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    if !raw.statement.as_deref().is_none_or(is_line) {
        return refuse(
            format!("{path}.statement"),
            format_args!("is not one line of 1 to {MAX_STATEMENT_BYTES} bytes"),
        );
    }
    if offers.iter().any(|offer| offer.requirement.scheme == Scheme::Upto) {
        return refuse(path, "does not go with scheme upto, by which a payment may cost nothing");
    }
    if chains(offers.iter().map(|offer| &offer.requirement.network)).is_empty() {
        return refuse(path, "needs an entry on a network of eip155 or solana, whose accounts can sign in");
    }
    if offers.iter().any(|offer| offer.recipient_from.is_some()) {
        return refuse(
            path,
            "does not go with pay_to from metadata: whoever pays themselves would come back to others' goods",
        );
    }
    let requirements: Vec<String> = offers.iter().map(|offer| json::to_text(&offer.requirement)).collect();
    let price = keccak256(requirements.join("\n").as_bytes());
    Ok(SignInTerms { seconds, statement: raw.statement.as_deref().map(Arc::from), price })
}

fn bazaar(path: &str, raw: &raw::Bazaar, matcher: &raw::Match) -> Result<Bazaar> {
    const WITH_QUERY: [&str; 3] = ["GET", "HEAD", "DELETE"];
    const WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];
    let method = match (&raw.method, matcher.methods.as_slice()) {
        (Some(method), _) | (None, [method]) => method.to_ascii_uppercase(),
        (None, _) => return refuse(format!("{path}.method"), "is missing, and the route is not for just one"),
    };
    let has_body = raw.body.is_some() || raw.body_schema.is_some() || raw.body_type.is_some();
    let known = if has_body { WITH_BODY } else { WITH_QUERY };
    let has_query = raw.query.is_some() || raw.query_schema.is_some();
    if has_body && has_query {
        return refuse(format!("{path}.query"), "stands beside body; keep one");
    }
    // What takes a body, and says nothing of it, takes any.
    let has_body = has_body || (!has_query && WITH_BODY.contains(&method.as_str()));
    if !known.contains(&method.as_str()) && !has_body {
        return refuse(format!("{path}.method"), format_args!("{} is none of {}", Shown(&method), known.join(", ")));
    }
    if raw.body.is_some() && !WITH_BODY.contains(&method.as_str()) {
        return refuse(format!("{path}.body"), format_args!("does not go with {method}"));
    }
    let body_type = raw.body_type.clone().unwrap_or_else(|| "json".to_owned());
    if !["json", "form-data", "text"].contains(&body_type.as_str()) {
        return refuse(
            format!("{path}.body_type"),
            format_args!("{} is none of json, form-data, text", Shown(&body_type)),
        );
    }
    let json = |object: &Option<raw::Extra>| object.as_ref().map(raw::Extra::to_json);
    let (input, input_schema) = if has_body { (&raw.body, &raw.body_schema) } else { (&raw.query, &raw.query_schema) };
    let has_params = matcher.path.contains('{');
    Ok(Bazaar {
        method,
        template: (has_params && !matcher.path.contains("{*")).then(|| matcher.path.replace('{', ":").replace('}', "")),
        body_type: has_body.then_some(body_type),
        input: json(input),
        input_schema: json(input_schema),
        path_params: json(&raw.path_params),
        path_params_schema: json(&raw.path_params_schema),
        output: json(&raw.output),
        output_schema: json(&raw.output_schema),
    })
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
        let scheme = match entry.scheme.as_str() {
            "exact" => Some(Scheme::Exact),
            "upto" => Some(Scheme::Upto),
            _ => None,
        };
        match (scheme, networks.find_foreign(&entry.network)) {
            (Some(scheme), None) => self.evm_offer(path, entry, scheme, networks),
            (_, Some((id, known))) => self.foreign_offer(path, entry, id, known),
            (None, None) => {
                let chain_id = networks.find(&format!("{path}.network"), &entry.network)?.chain_id;
                self.foreign_offer(path, entry, NetworkId::from_chain_id(chain_id), None)
            }
        }
    }

    fn evm_offer(&self, path: &str, entry: &raw::Entry, scheme: Scheme, networks: &Networks) -> Result<Offer> {
        if scheme == Scheme::Upto && self.settle != Settle::After {
            return refuse(path, "has scheme upto, which settles after the response, when its cost is known");
        }
        if entry.extra.is_some() {
            return refuse(format!("{path}.extra"), "is for entries that the filter cannot check itself");
        }
        let network = networks.find(&format!("{path}.network"), &entry.network)?;
        let token = match &entry.asset {
            TextOr::Object(inline) => Token::from_raw(&format!("{path}.asset"), inline, "the asset")?,
            TextOr::Text(symbol) => network.token(&format!("{path}.asset"), symbol)?,
        };
        let transfer_method = match entry.transfer_method.unwrap_or(token.transfer_method) {
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
        let rates = self.rates(&token.asset)?;
        let (name, version, chain_id) = (token.eip712_name, token.eip712_version, network.chain_id);
        let rail = Rail::Evm(Evm {
            transfer_method,
            facilitator: None,
            chain_id,
            v1_network: network.v1_name(),
            asset: token.address,
            pay_to: recipients.first().map_or(token.address, |recipient| recipient.to),
            domain_separator: domain_separator(transfer_method, token.address, &name, &version, chain_id),
            eip712_name: name,
            eip712_version: version,
            contract_wallets: entry.contract_wallets,
        });
        let requirement =
            self.requirement(scheme, NetworkId::from_chain_id(chain_id), &token.asset, rates.as_ref(), rail)?;
        if entry.confirm && network.rpc.is_none() {
            let network = &requirement.network;
            return refuse(format!("{path}.confirm"), format_args!("needs a node to ask: configure rpc.{network}"));
        }
        Ok(Offer {
            requirement,
            recipients,
            recipient_from: self.recipient_from(entry),
            dollar_decimals: token.asset.dollar_decimals(),
            rates: rates.map(Arc::new),
            rpc: network.rpc,
            confirm: entry.confirm,
        })
    }

    /// An entry of which the filter checks little or nothing itself.
    fn foreign_offer(
        &self,
        path: &str,
        entry: &raw::Entry,
        network: NetworkId,
        known: Option<&SolanaNetwork>,
    ) -> Result<Offer> {
        if entry.extra.is_none() && (known.is_none() || entry.scheme != "exact") {
            let is_evm = network.chain_id().is_some();
            let (key, word) = if is_evm { ("scheme", &entry.scheme) } else { ("network", &entry.network) };
            let checked = if is_evm { "exact, upto" } else { "eip155:<chain id>, solana" };
            return refuse(
                format!("{path}.{key}"),
                format_args!(
                    "{} is none that the filter checks ({checked}); where the facilitator does, give extra: what clients need beside, or {{}}",
                    Shown(word)
                ),
            );
        }
        if entry.scheme.is_empty() || !entry.scheme.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse(
                format!("{path}.scheme"),
                format_args!("{} is not the name of a scheme", Shown(&entry.scheme)),
            );
        }
        let alien = [
            ("contract_wallets", entry.contract_wallets),
            ("confirm", entry.confirm),
            ("transfer_method", entry.transfer_method.is_some()),
        ];
        if let Some((key, _)) = alien.into_iter().find(|(_, is_set)| *is_set) {
            return refuse(
                format!("{path}.{key}"),
                format_args!(
                    "is for entries that the filter checks itself, and it knows no scheme {} on {network}",
                    named(&entry.scheme)
                ),
            );
        }
        let asset_path = format!("{path}.asset");
        let (asset, address) = match &entry.asset {
            TextOr::Object(inline) => Asset::of_foreign(&asset_path, inline)?,
            TextOr::Text(symbol) => match known {
                Some(known) if symbol == "USDC" => {
                    (Asset { label: symbol.clone(), decimals: 6, usd_pegged: true }, known.usdc.to_owned())
                }
                _ => {
                    return refuse(
                        asset_path,
                        format_args!("{} is not known on {network}; give {{address, decimals}}", Shown(symbol)),
                    );
                }
            },
        };
        let pay_to = self.foreign_recipient(path, entry)?;
        let mut extra = entry.extra.clone().unwrap_or_default().0;
        if self.settle != Settle::After {
            extra.entry("paymentFlow".to_owned()).or_insert_with(|| json::to_text(&PaymentFlow::Upfront));
        }
        let mut foreign = Foreign { asset: address, pay_to, extra, supplied: BTreeMap::new(), svm: None };
        if entry.scheme == "exact" && network.as_str().starts_with("solana:") {
            foreign.svm = Some(svm(path, &foreign, asset.decimals)?);
        }
        let rates = self.rates(&asset)?;
        let scheme = Scheme::Foreign(entry.scheme.as_str().into());
        let requirement = self.requirement(scheme, network, &asset, rates.as_ref(), Rail::Foreign(foreign))?;
        let rates = rates.map(Arc::new);
        let dollar_decimals = asset.dollar_decimals();
        let (recipients, recipient_from) = (Vec::new(), None);
        Ok(Offer { requirement, recipients, recipient_from, dollar_decimals, rates, rpc: None, confirm: false })
    }

    fn requirement(
        &self,
        scheme: Scheme,
        network: NetworkId,
        asset: &Asset,
        rates: Option<&Rates>,
        rail: Rail,
    ) -> Result<Requirement> {
        Ok(Requirement {
            scheme,
            network,
            amount: match rates {
                Some(rates) => rates.minimum.max(Amount::from(1)),
                None => self.amount(asset)?,
            },
            max_timeout_seconds: self.max_timeout_seconds,
            payment_flow: match self.settle {
                Settle::After => PaymentFlow::Authorization,
                Settle::Before | Settle::Concurrent => PaymentFlow::Upfront,
            },
            rail,
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
                    format_args!(
                        "{} is neither openai nor anthropic; give JSON pointers for anything else",
                        Shown(name)
                    ),
                );
            }
            TextOr::Object(pointers) => {
                check_pointers(&format!("{path}.usage"), pointers)?;
                Shape::Pointers(Box::new(pointers.clone()))
            }
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
            let path = format!("{path}.models.{}", named(name));
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
            TextOr::Object(raw::PayTo { metadata, .. }) => metadata.clone(),
            _ => None,
        }
    }

    /// Who is paid, and where that is written.
    fn pay_to<'a>(&'a self, path: &str, entry: &'a raw::Entry) -> Result<(String, &'a TextOr<raw::PayTo>)> {
        let candidates = [
            (format!("{path}.pay_to"), &entry.pay_to),
            (format!("{}.pay_to", self.route), &self.raw.pay_to),
            ("defaults.pay_to".to_owned(), &self.defaults.pay_to),
        ];
        let found = candidates.into_iter().find_map(|(path, to)| Some((path, to.as_ref()?)));
        found.map_or_else(
            || {
                refuse(
                    format!("{}.pay_to", self.route),
                    "is missing, here, in the entry and in defaults: say who is paid",
                )
            },
            Ok,
        )
    }

    /// The account of an entry whose accounts the filter does not know.
    fn foreign_recipient(&self, path: &str, entry: &raw::Entry) -> Result<String> {
        let Some(recipient) = &entry.pay_to else {
            return refuse(
                format!("{path}.pay_to"),
                format_args!("is missing: the accounts of {} are not those of other entries", named(&entry.network)),
            );
        };
        let path = format!("{path}.pay_to");
        match recipient {
            TextOr::Text(text) => name(&path, text),
            TextOr::Object(_) => {
                refuse(path, "is no text; recipients are split where the filter checks payments itself")
            }
        }
    }

    fn recipients(&self, path: &str, entry: &raw::Entry) -> Result<Vec<Recipient>> {
        let (path, recipient) = self.pay_to(path, entry)?;
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

/// A name on a network that the filter does not know.
fn name(path: &str, text: &str) -> Result<String> {
    const LONGEST: usize = 256;
    let is_name = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name {
        Ok(text.to_owned())
    } else {
        refuse(path, format_args!("{} is not of 1 to {LONGEST} printable characters", Shown(text)))
    }
}

/// What can be checked of Solana's `exact`.
fn svm(path: &str, foreign: &Foreign, decimals: u8) -> Result<Svm> {
    let key = |key: &str, text: &str| text.parse::<Pubkey>().map_err(at(format!("{path}.{key}"), text));
    let extra = |name: &str| foreign.extra.contains_key(name).then(|| foreign.text(name));
    let not_text = |name: &str| JsonError { path: format!("{path}.extra.{name}"), message: "is no text".to_owned() };
    let memo = extra("memo").map(|memo| {
        let memo = memo.ok_or_else(|| not_text("memo"))?;
        Memo::new(&memo).map_err(at(format!("{path}.extra.memo"), &memo))
    });
    let token_program = extra("tokenProgram").map(|program| {
        let program = program.ok_or_else(|| not_text("tokenProgram"))?;
        let found = TokenProgram::from_address(&key("extra.tokenProgram", &program)?);
        found.map_or_else(|| refuse(format!("{path}.extra.tokenProgram"), "is neither SPL Token nor Token-2022"), Ok)
    });
    Ok(Svm {
        mint: key("asset.address", &foreign.asset)?,
        decimals,
        token_program: token_program.transpose()?,
        pay_to: key("pay_to", &foreign.pay_to)?,
        memo: memo.transpose()?,
    })
}

fn recipient_address(path: &str, text: &str) -> Result<Address> {
    let address: Address = text.parse().map_err(at(path, text))?;
    if address == Address::from_bytes([0; 20]) {
        return refuse(path, "is the zero address, from which nobody can take the money");
    }
    Ok(address)
}

/// Checks that JSON pointers begin with a slash.
fn check_pointers(path: &str, pointers: &Pointers) -> Result<()> {
    let Pointers { model, max_output_tokens, choices, input_tokens, cached_input_tokens, output_tokens } = pointers;
    let pointers = [
        ("model", Some(model)),
        ("max_output_tokens", max_output_tokens.as_ref()),
        ("choices", choices.as_ref()),
        ("input_tokens", Some(input_tokens)),
        ("cached_input_tokens", cached_input_tokens.as_ref()),
        ("output_tokens", output_tokens.as_ref()),
    ];
    let wrong =
        pointers.into_iter().find_map(|(key, pointer)| Some((key, pointer.filter(|text| !text.starts_with('/'))?)));
    match wrong {
        None => Ok(()),
        Some((key, pointer)) => refuse(
            format!("{path}.{key}"),
            format_args!("{} is not a JSON pointer such as /usage/total", Shown(pointer)),
        ),
    }
}

/// The built-in table with what the configuration adds to it.
struct Networks(Vec<Network>);

#[derive(Clone)]
struct Network {
    name: Option<String>,
    chain_id: u64,
    assets: Vec<Token>,
    rpc: Option<Arc<Rpc>>,
}

/// What prices are in.
#[derive(Clone)]
struct Asset {
    /// Its symbol, where it has one.
    label: String,
    decimals: u8,
    usd_pegged: bool,
}

/// An asset on a chain of Ethereum's family.
#[derive(Clone)]
struct Token {
    asset: Asset,
    address: Address,
    eip712_name: String,
    eip712_version: String,
    transfer_method: raw::TransferMethod,
}

impl Networks {
    fn new(added: Named<Object<raw::Network>>) -> Result<Self> {
        let mut networks = Self(Vec::with_capacity(NETWORKS.len()));
        for known in NETWORKS {
            let assets = known.assets.iter().map(Token::from_known).collect::<Result<_>>()?;
            networks.0.push(Network { name: Some(known.name.to_owned()), chain_id: known.chain_id, assets, rpc: None });
        }
        for (name, Object(raw)) in added.0 {
            networks.add(name, raw)?;
        }
        Ok(networks)
    }

    fn add(&mut self, name: String, raw: raw::Network) -> Result<()> {
        let path = format!("networks.{}", named(&name));
        let position = self.0.iter().position(|network| network.name.as_deref() == Some(&name));
        let known = position.map(|position| self.0.swap_remove(position));
        let Some(chain_id) = raw.chain_id.or(known.as_ref().map(|network| network.chain_id)) else {
            return refuse(path, "is not in the built-in table and has no chain_id");
        };
        let mut assets = known.filter(|known| known.chain_id == chain_id).map_or_else(Vec::new, |known| known.assets);
        for (symbol, Object(asset)) in raw.assets.0 {
            assets.retain(|token| token.asset.label != symbol);
            assets.push(Token::from_raw(&format!("{path}.assets.{}", named(&symbol)), &asset, &symbol)?);
        }
        self.0.push(Network { name: Some(name), chain_id, assets, rpc: None });
        Ok(())
    }

    fn add_rpc(&mut self, raw: Vec<(String, Object<raw::Rpc>)>) -> Result<()> {
        for (name, Object(raw)) in raw {
            let path = format!("rpc.{}", named(&name));
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

    /// The network, where it is not of Ethereum's family.
    fn find_foreign(&self, text: &str) -> Option<(NetworkId, Option<&'static SolanaNetwork>)> {
        if self.0.iter().any(|network| network.name.as_deref() == Some(text)) || text.starts_with("eip155:") {
            return None;
        }
        let known = SOLANA.iter().find(|known| known.name == text || known.id == text);
        let id = known.map_or(text, |known| known.id).parse().ok()?;
        Some((id, known))
    }

    fn find(&self, path: &str, text: &str) -> Result<Network> {
        if let Some(network) = self.0.iter().find(|network| network.name.as_deref() == Some(text)) {
            return Ok(network.clone());
        }
        let Some(chain_id) = text.parse::<NetworkId>().ok().and_then(|id| id.chain_id()) else {
            let names = self.0.iter().filter_map(|network| network.name.as_deref());
            let known = list(names.chain(SOLANA.iter().map(|known| known.name)));
            return refuse(
                path,
                format_args!("{} is neither a CAIP-2 id (eip155:<chain id>, …) nor one of {known}", Shown(text)),
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

    fn token(&self, path: &str, symbol: &str) -> Result<Token> {
        let found = self.assets.iter().find(|token| token.asset.label == symbol).cloned();
        let Some(token) = found else {
            let known = match self.assets.as_slice() {
                [] => "none".to_owned(),
                assets => list(assets.iter().map(|token| token.asset.label.as_str())),
            };
            let chain_id = self.chain_id;
            return refuse(
                path,
                format_args!(
                    "{} is not known on eip155:{chain_id} (known there: {known}); give {{address, decimals, eip712}}",
                    Shown(symbol)
                ),
            );
        };
        Ok(token)
    }
}

impl Asset {
    fn new(path: &str, raw: &raw::Asset, label: &str) -> Result<Self> {
        let Some(decimals) = u8::try_from(raw.decimals).ok().filter(|decimals| *decimals <= 77) else {
            return refuse(format!("{path}.decimals"), "is not between 0 and 77");
        };
        Ok(Self { label: label.to_owned(), decimals, usd_pegged: raw.usd_pegged })
    }

    /// An asset of which the filter knows nothing else, and its address.
    fn of_foreign(path: &str, raw: &raw::Asset) -> Result<(Self, String)> {
        if raw.eip712.is_some() {
            return refuse(format!("{path}.eip712"), "is for tokens on chains of Ethereum's family");
        }
        Ok((Self::new(path, raw, "the asset")?, name(&format!("{path}.address"), &raw.address)?))
    }

    fn dollar_decimals(&self) -> Option<u8> {
        self.usd_pegged.then_some(self.decimals)
    }

    /// A sum of dollars in atomic units, and `finer` digits below them.
    fn units(&self, path: &str, text: &str, finer: u32) -> Result<Amount> {
        if !self.usd_pegged {
            return refuse(
                path,
                format_args!(
                    "is in dollars, and {} is not pegged to the dollar; give {{amount: \"…\"}} in atomic units, or mark the asset usd_pegged",
                    named(&self.label)
                ),
            );
        }
        let dollars = Dollars::parse(text).map_err(at(path, text))?;
        let digits = u32::from(self.decimals).saturating_add(finer);
        let units = dollars.to_decimal().to_units(digits).map_err(|error| JsonError {
            path: path.to_owned(),
            message: format!("{} {error} of {} ({} decimals)", Shown(text), named(&self.label), self.decimals),
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
        scaled.ok_or_else(|| JsonError { path, message: format!("{} is too large", Shown(units)) })
    }
}

impl Token {
    fn from_known(known: &KnownAsset) -> Result<Self> {
        Ok(Self {
            asset: Asset { label: known.symbol.to_owned(), decimals: known.decimals, usd_pegged: known.usd_pegged },
            address: known.address.parse().map_err(at("networks (built-in)", known.address))?,
            eip712_name: known.eip712_name.to_owned(),
            eip712_version: known.eip712_version.to_owned(),
            transfer_method: raw::TransferMethod::Eip3009,
        })
    }

    fn from_raw(path: &str, raw: &raw::Asset, label: &str) -> Result<Self> {
        let Some(eip712) = &raw.eip712 else {
            return refuse(format!("{path}.eip712"), "is missing: name and version, from the token's contract");
        };
        if eip712.name.is_empty() || eip712.version.is_empty() {
            return refuse(
                format!("{path}.eip712"),
                "has an empty name or version; take both from the token's contract",
            );
        }
        Ok(Self {
            asset: Asset::new(path, raw, label)?,
            address: raw.address.parse().map_err(at(format!("{path}.address"), &raw.address))?,
            eip712_name: eip712.name.clone(),
            eip712_version: eip712.version.clone(),
            transfer_method: raw.transfer_method,
        })
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(named).collect::<Vec<_>>().join(", ")
}
