//! The plugin's configuration: from text to a [`Config`] that cannot be wrong.
//!
//! A configuration is taken as a whole or refused as a whole, and a refusal names the path of what is wrong.

mod catalogue;
pub mod networks;
mod protobuf;
mod raw;
mod resolve;
#[cfg(feature = "schema")]
pub mod schema;
mod secret;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::evm::{Address, keccak256};
use crate::json::{self, JsonError};
use crate::ledger::Ledger;
use crate::price::{Rates, Tariff};
use crate::route::{HostPattern, RouteTable, host_of};
use crate::x402::Requirement;
use crate::x402::extensions::{self, Identifier};
use crate::x402::offer_receipt::Issuer;
use crate::x402::payment::Payer;
use crate::x402::terms::Prepared;
pub use catalogue::Catalogue;

/// Everything the filter was told, checked.
#[derive(Debug)]
pub struct Config {
    /// Who verifies and settles.
    pub facilitator: Facilitator,
    /// The routes in the order of the configuration; [`RouteTable`] names them by index.
    pub routes: Vec<Route>,
    /// Finds the route of a request.
    pub table: RouteTable,
    /// What happens to requests that no route matches.
    pub unmatched: Unmatched,
    /// Headers that a client may send although they can override path or method; in lower case.
    pub kept_headers: Vec<String>,
    /// The rules of claims on payments.
    pub ledger: Ledger,
    /// Seconds from the ledger's beginning after which no other ledger takes these payments: a nonce that is used then was used
    /// by way of this one, or before the payment was first seen. `None` where others take them, too.
    pub ledger_exclusive_after: Option<u64>,
    /// Whether an entry can be offered only once the facilitator has said what it supports.
    pub needs_introduction: bool,
    /// Whether anything is for sale.
    pub has_offers: bool,
    /// What is to be fetched of the proxy's dynamic metadata for each request.
    pub metadata: Vec<MetadataKey>,
    /// Whose payments are taken. Accounts are written as [`Payer`] writes them.
    pub payers: Payers,
    /// Where clients find what is for sale. What is shown and signed names one of these, where there are any.
    pub origins: Vec<Origin>,
    /// Origins whose scripts may pay.
    pub cors_origins: Vec<CorsOrigin>,
    /// Signs what is asked and what was delivered, where there is a key to.
    pub issuer: Option<Issuer>,
    /// Whether the filter lists what is for sale.
    pub is_discoverable: bool,
    /// What it lists.
    pub catalogue: Catalogue,
    /// What browsers get with a 402, unless they get what programs get.
    #[cfg(feature = "page")]
    pub page: Option<PageConfig>,
    /// Whether a route is free for callers of some names, which the proxy has to tell.
    pub needs_principals: bool,
    /// What the operator should know of a configuration that is right, and may not be what was meant.
    pub warnings: Vec<String>,
}

/// Who verifies and settles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facilitator {
    /// How it is called.
    pub service: Arc<Service>,
    /// Whether payments are verified by the facilitator before the request is served.
    pub verify: Verify,
}

/// A node of a chain, which can say what became of a settlement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rpc {
    /// How it is called: JSON-RPC, batches included.
    pub service: Arc<Service>,
    /// Blocks that must hold or follow a transaction before it counts: 1 for its own block. At least 1.
    pub confirmations: u64,
    /// Blocks before the last one whose logs one question asks for.
    pub log_range: u64,
}

impl Rpc {
    /// The newest block whose transactions count, given the last one.
    pub const fn newest_confirmed(&self, head: u64) -> u64 {
        head.saturating_sub(self.confirmations.saturating_sub(1))
    }

    /// The first of the last blocks, whose logs are searched at once.
    pub const fn first_searched(&self, head: u64) -> u64 {
        head.saturating_sub(self.log_range)
    }
}

/// How a service is called over HTTP.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The proxy's cluster that the calls go to.
    pub cluster: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port of the calls.
    pub authority: String,
    /// The path before that of a call, without a slash at its end.
    pub base_path: String,
    /// How long one call may take.
    pub timeout: Duration,
    /// Headers added to each call; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Service {
    /// The time that one call may take in whole seconds, rounded up.
    pub const fn timeout_seconds(&self) -> u64 {
        self.timeout.as_secs().saturating_add(1)
    }

    /// A digest of whom it calls and in whose name: cluster, URL and headers. What a service has said holds for those who
    /// ask the same one in the same name, and for nobody else of the same process.
    pub fn identity(&self) -> [u8; 32] {
        let Self { cluster, scheme, authority, base_path, timeout: _, headers } = self;
        let headers = headers.iter().flat_map(|(name, value)| [name, value]);
        let mut fields = Vec::new();
        for field in [cluster, scheme, authority, base_path].into_iter().chain(headers) {
            // Each behind its length, so that no two lists of fields are one text.
            fields.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
            fields.extend_from_slice(field.as_bytes());
        }
        keccak256(&fields)
    }
}

/// Shows whom it calls, and nothing that may be a key: those stand in headers, and in paths of URLs.
impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, scheme, authority, base_path: _, timeout, headers: _ } = self;
        f.debug_struct("Service")
            .field("cluster", cluster)
            .field("url", &format_args!("{scheme}://{authority}"))
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name in logs, or its index where it has none.
    pub label: Arc<str>,
    /// What its requests must do; `None` where they are free.
    pub terms: Option<Arc<Terms>>,
}

/// What a priced route asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The ways to pay, in the order of the configuration. At least one.
    pub offers: Vec<Arc<Offer>>,
    /// For people and agents.
    pub description: String,
    /// The media type of what is sold.
    pub mime_type: String,
    /// When the money moves.
    pub settle: Settle,
    /// How requests are priced by tokens, where they are; the amounts of `offers` then are but placeholders.
    pub tariff: Option<Arc<Tariff>>,
    /// Who is asked for the price of each request, where the operator's own service knows it.
    pub price_service: Option<Arc<Service>>,
    /// Whether the upstream may name the charge of scheme `upto` by the header `Settlement-Overrides`.
    pub settlement_overrides: bool,
    /// Callers that need not pay.
    pub free_for: Arc<[Principal]>,
    /// Extensions of the protocol.
    pub extensions: Extensions,
    /// At which origin clients are told that it is.
    pub shown_at: ShownAt,
    /// What a 402 says, as far as it is the same for every request.
    pub prepared: Option<Arc<Prepared>>,
}

/// TODO rename
pub type RouteTerms = Terms;

/// Extensions of the protocol, on a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Extensions {
    /// Whether clients may name their payments, where they may.
    pub identifier: Option<Identifier>,
    /// What the route takes and gives, for catalogues, as JSON.
    pub bazaar: Option<Arc<str>>,
    /// Whether payers may come back without paying again, by signing in.
    pub sign_in: Option<SignInTerms>,
    /// The JSON of all that the terms declare and that is the same for every request: an object; `None` where it would be
    /// empty.
    pub declared: Option<Arc<str>>,
}

/// On which terms a payer comes back without paying again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SignInTerms {
    /// For so many seconds after the payment's response.
    pub seconds: u64,
    /// What the wallet shows to whoever signs.
    pub statement: Option<Arc<str>>,
    /// A digest of what a payment has to be, as it is configured: whoever has paid by other terms has no right by these.
    pub price: [u8; 32],
}

impl Extensions {
    /// The extensions of a route.
    pub fn new(identifier: Option<Identifier>, bazaar: Option<Arc<str>>, sign_in: Option<SignInTerms>) -> Self {
        let extensions = Self { identifier, bazaar, sign_in, declared: None };
        Self { declared: extensions.declared_with(&[]), ..extensions }
    }

    /// Returns what is declared where the facilitator pays for approvals of Permit2 in these ways.
    pub fn declared_with(&self, sponsoring: &[&str]) -> Option<Arc<str>> {
        let own = [
            (extensions::BAZAAR, self.bazaar.as_deref().map(str::to_owned)),
            (extensions::PAYMENT_IDENTIFIER, self.identifier.map(extensions::declare_identifier)),
        ];
        let sponsoring = sponsoring.iter().map(|name| (*name, extensions::declare_sponsoring(name)));
        let fields: Vec<String> = own
            .into_iter()
            .chain(sponsoring)
            .filter_map(|(name, json)| Some(format!(r#""{name}":{}"#, json?)))
            .collect();
        (!fields.is_empty()).then(|| format!("{{{}}}", fields.join(",")).into())
    }
}

impl Terms {
    /// The same with what a 402 says made in advance.
    #[must_use]
    pub fn prepared(self) -> Self {
        let accepts = self.requirements();
        let words = [self.description.as_str(), &self.mime_type];
        let extensions = self.extensions.declared.as_deref();
        let prepared = Prepared::new(words, &accepts, self.requirements_of_v1(&accepts), extensions).map(Arc::new);
        Self { prepared, ..self }
    }

    /// The entries of `accepts`.
    pub fn requirements(&self) -> Vec<&Requirement> {
        self.offers.iter().map(|offer| &offer.requirement).collect()
    }

    /// Those of `accepts` that clients of version 1 may be told of: it knows no extensions, so they cannot give what one
    /// demands.
    pub fn requirements_of_v1<'a>(&self, accepts: &'a [&'a Requirement]) -> &'a [&'a Requirement] {
        if self.extensions.identifier == Some(Identifier::Required) { &[] } else { accepts }
    }

    /// Whether a caller whose certificate is for `name` need not pay.
    pub fn is_free_for(&self, name: &str) -> bool {
        self.free_for.iter().any(|principal| match principal {
            Principal::Exact(exact) => exact == name,
            Principal::Below(prefix) => name.starts_with(prefix),
        })
    }
}

/// What browsers get with a 402.
#[cfg(feature = "page")]
#[derive(Debug, Default)]
pub struct PageConfig {
    /// The operator's own page; the built-in one without it.
    pub own: Option<OwnPage>,
}

/// The operator's own page.
#[cfg(feature = "page")]
#[derive(Debug)]
pub struct OwnPage {
    /// HTML with placeholders.
    pub template: crate::page::Template,
    /// Its `Content-Security-Policy`, where that is not the usual one.
    pub csp: Option<String>,
}

/// Where something is for sale: `https://api.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    scheme: String,
    /// Host in lower case, and port unless it is the scheme's own.
    authority: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Origin {
    /// Reads an origin as it is configured; `None` where it is none, or says more.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_host = |name: &String| matches!(HostPattern::parse(name), Ok(HostPattern::Exact(_)));
        host_of(authority).filter(is_host)?;
        Self::of_request(scheme, authority).filter(|_| matches!(scheme, "http" | "https"))
    }

    /// Whether both are of one host, whatever their schemes and ports.
    pub fn has_host_of(&self, other: &Self) -> bool {
        host_of(&self.authority) == host_of(&other.authority)
    }

    /// The origin that a request names; `None` where its authority is none.
    pub fn of_request(scheme: &str, authority: &str) -> Option<Self> {
        let host = host_of(authority)?;
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        let usual = if scheme == "https" { 443 } else { 80 };
        let authority = match port.parse::<u16>() {
            Ok(port) if port != usual => format!("{host}:{port}"),
            _ => host,
        };
        Some(Self { scheme: scheme.to_owned(), authority })
    }
}

/// At which origin clients are told that a route is, whatever they wrote themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ShownAt {
    /// This one, unless they used another of the configured ones.
    Origin(Origin),
    /// The one they used: the route is for hosts that it names, and so it is one of those.
    RouteHost,
    /// The one they used, whatever that is. Nobody vouches for it.
    Client,
}

/// An origin whose scripts may pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// All of them.
    Any,
    /// Scheme, host and port, as browsers write it.
    Exact(String),
}

/// A name that a certificate may be for: a URI (SPIFFE) or a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// This name.
    Exact(String),
    /// Every name that begins with this, which ends with a slash.
    Below(String),
}

/// Whose payments are taken. Accounts are written as [`Payer`] writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payers {
    /// Theirs alone, where there is a list.
    pub allow: Option<BTreeSet<String>>,
    /// Not theirs.
    pub deny: BTreeSet<String>,
}

impl Payers {
    /// Whether anybody's are not.
    pub fn is_choosy(&self) -> bool {
        self.allow.is_some() || !self.deny.is_empty()
    }

    /// Whether the payments of `payer` are taken. Where there is a list, those of an unknown payer are not.
    pub fn welcome(&self, payer: &Payer) -> bool {
        if !self.is_choosy() {
            return true;
        }
        let name = payer.to_string();
        *payer != Payer::Unknown
            && !self.deny.contains(&name)
            && self.allow.as_ref().is_none_or(|allowed| allowed.contains(&name))
    }
}

/// A way to pay, with what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The entry of `accepts`.
    pub requirement: Requirement,
    /// Who may be paid. One is drawn for each quote, by weight, and any of them is accepted. At least one, unless the
    /// proxy says, or the entry is of a foreign rail, which names its only one itself.
    pub recipients: Vec<Recipient>,
    /// Where the proxy says who is paid.
    pub recipient_from: Option<MetadataKey>,
    /// The decimals of its asset, where that is pegged to the dollar.
    pub dollar_decimals: Option<u8>,
    /// What tokens cost in its asset, where the route is priced by them.
    pub rates: Option<Arc<Rates>>,
    /// Who can say what became of a settlement.
    pub rpc: Option<Arc<Rpc>>,
    /// Whether a settlement counts only once the chain itself shows it. Never without `rpc`.
    pub confirm: bool,
}

/// Where something stands in the proxy's dynamic metadata, which filters set and clients cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MetadataKey {
    /// The filter's namespace, such as `envoy.lb`.
    pub namespace: String,
    /// The key in it.
    pub key: String,
}

/// Who may be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// The account.
    pub to: Address,
    /// How often, beside the other weights. At least 1.
    pub weight: u64,
}

/// When the money moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Settle {
    /// Once the upstream has answered, and only if it did so without error.
    #[default]
    After,
    /// Before the upstream hears of the request.
    Before,
    /// While the upstream works on the request; the response waits for it.
    Concurrent,
}

/// Who verifies a payment before the request is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// The filter, and then the facilitator.
    #[default]
    Remote,
    /// The filter alone, wherever it can.
    Local,
}

/// What happens to requests that no route matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// They pass.
    #[default]
    Free,
    /// They are answered 403.
    Deny,
}

impl Config {
    /// Whether scripts of an origin may pay here.
    pub fn admits_origin(&self, origin: &str) -> bool {
        self.cors_origins.iter().any(|admitted| match admitted {
            CorsOrigin::Any => true,
            CorsOrigin::Exact(exact) => exact == origin,
        })
    }

    /// Whether the operator lets a header through that can override path or method.
    pub fn keeps_header(&self, name: &str) -> bool {
        self.kept_headers.iter().any(|kept| kept == name)
    }

    /// Reads a configuration as a host hands it over: JSON, or an encoded `google.protobuf.Struct`.
    ///
    /// # Errors
    /// The first [`JsonError`] found, of shape or of meaning.
    pub fn from_host(bytes: &[u8]) -> Result<Self, JsonError> {
        let starts_as_json = bytes.trim_ascii_start().first().is_none_or(|byte| *byte == b'{');
        match (json::from_slice_discreetly(bytes, secret::shows_key), protobuf::struct_to_json(bytes)) {
            (Ok(raw), _) => resolve::config(raw),
            (Err(_), Some(json)) => Self::from_json(json.as_bytes()),
            (Err(error), None) if starts_as_json => Err(error),
            (Err(_), None) => Err(JsonError {
                path: ".".to_owned(),
                message: "is neither JSON nor a google.protobuf.Struct".to_owned(),
            }),
        }
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// The first [`JsonError`] found, of shape or of meaning.
    pub fn from_json(json: &[u8]) -> Result<Self, JsonError> {
        resolve::config(json::from_slice_discreetly(json, secret::shows_key)?)
    }
}

#[cfg(test)]
mod tests;
