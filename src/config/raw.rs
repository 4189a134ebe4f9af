//! The configuration as it is written: shapes only, nothing resolved. Unknown keys are errors everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::secret::Secret;
use crate::json::{self, Named, Object};
use crate::metadata::MetadataKey;
use crate::price::Pointers;

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// The service that verifies and settles payments.
    #[serde(default, deserialize_with = "optional_object")]
    pub facilitator: Option<Facilitator>,
    /// Several of them, in place of one: asked in this order, the next where one does not answer.
    pub facilitators: Option<Vec<Object<Facilitator>>>,
    /// Nodes of chains, by network (a name or a CAIP-2 id), which say what became of a settlement whose answer was lost.
    /// Configure a node for every network you charge on.
    #[serde(default)]
    pub rpc: Named<Object<Rpc>>,
    /// Networks and assets that add to the built-in table, or override it, by name.
    #[serde(default)]
    pub networks: Named<Object<Network>>,
    /// Values for routes that do not set their own.
    #[serde(default, deserialize_with = "json::object")]
    pub defaults: Defaults,
    /// The routes. The first that matches a request counts.
    pub routes: Vec<Object<Route>>,
    /// enforce (default): requests for priced routes pay. shadow: all is decided, logged and counted, and nobody pays.
    pub mode: Option<super::Mode>,
    /// What happens to requests that no route matches: free (default) lets them pass, deny answers 403.
    #[serde(default)]
    pub unmatched: super::Unmatched,
    /// Headers that are not removed although a client can override path or method by them.
    #[serde(default)]
    pub keep_headers: Vec<String>,
    /// The memory of payments.
    #[serde(default, deserialize_with = "json::object")]
    pub ledger: Ledger,
    /// What becomes of payment channels (scheme batch-settlement).
    #[serde(default, deserialize_with = "json::object")]
    pub channels: Channels,
    /// The accounts that may pay.
    #[serde(default, deserialize_with = "json::object")]
    pub payers: Payers,
    /// What a browser gets with a 402.
    #[serde(default, deserialize_with = "json::object")]
    pub page: Page,
    /// The public URLs of what is for sale, such as https://api.example.com: scheme, host, and port if it is not the usual
    /// one. What is shown and signed names one of these, whatever host the client wrote.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Other origins whose scripts may pay.
    #[serde(default, deserialize_with = "optional_object")]
    pub cors: Option<Cors>,
    /// How offers and receipts are signed; without it they are not.
    #[serde(default, deserialize_with = "optional_object")]
    pub offer_receipt: Option<OfferReceipt>,
    /// Whether GET /.well-known/x402 lists what is for sale, unless a route takes that path (default true).
    pub discovery: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct OfferReceipt {
    /// The key to sign with: 0x and 64 hexadecimal digits. Never logged. Keep no money under it.
    pub key: Secret,
    /// Whether the offers of each 402 are signed as well as receipts (default true).
    pub offers: Option<bool>,
    /// True if receipts name the transaction (default false).
    #[serde(default)]
    pub transaction: bool,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Channels {
    /// Who authorizes claims and refunds: facilitator (default), or {key}.
    pub authorizer: Option<TextOr<Authorizer>>,
    /// A channel is claimed once so much is unclaimed, in dollars (default "$5").
    pub claim_above: Option<String>,
    /// A channel is claimed so long after its first unclaimed voucher, in seconds with s (default 300s).
    pub claim_every: Option<String>,
    /// What a channel holds is given back once it was not used for so long (default: never).
    pub refund_idle: Option<String>,
    /// About how many channels can be remembered at a time (default 65536).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_channels: Option<u64>,
    /// The request by which an operator has everything claimed at once, as before a stop; without it there is none.
    #[serde(default, deserialize_with = "optional_object")]
    pub flush: Option<Flush>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Flush {
    /// The path of the request, a POST, such as /internal/flush.
    pub path: String,
    /// Names in the certificates of callers who may send it, a SPIFFE URI or a DNS name each; /* at the end covers everything below.
    #[serde(default)]
    pub principals: Vec<String>,
    /// The secret by which others may send it, as Authorization: Bearer; 16 bytes or more. Never logged.
    pub secret: Option<Secret>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Authorizer {
    /// The key that authorizes claims and refunds: 0x and 64 hexadecimal digits. Never logged.
    pub key: Secret,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Payers {
    /// Only these may pay, if there is a list.
    pub allow: Option<Vec<String>>,
    /// These may not pay.
    #[serde(default)]
    pub deny: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Cors {
    /// Origins such as https://app.example.com, or * for any.
    pub origins: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Whether a browser gets a page that pays by its wallet (default true).
    pub enabled: Option<bool>,
    /// A page of your own in place of the built-in one: HTML with placeholders such as {{price}}.
    pub html: Option<String>,
    /// The Content-Security-Policy of your own page.
    pub csp: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct FreeFor {
    /// Names in the certificates of callers, a SPIFFE URI or a DNS name each; /* at the end covers everything below.
    pub principals: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Facilitator {
    /// Shown in logs and stats; letters, digits, _ and -. Without one, the cluster is shown.
    pub name: Option<String>,
    /// The proxy's cluster that the calls go to.
    pub cluster: String,
    /// Scheme, authority and base path of the calls. Redirects are never followed.
    pub url: Secret,
    /// The longest time that one call may take, in decimal seconds with s (default 10s).
    pub timeout: Option<String>,
    /// remote (default): POST /verify is asked before a request is served. local: the filter's own check and /settle decide.
    #[serde(default)]
    pub verify: super::Verify,
    /// Headers added to each call. Values are never logged.
    #[serde(default)]
    pub headers: Named<Secret>,
    /// The networks it is for: names or CAIP-2 ids (default: all).
    #[serde(default)]
    pub networks: Vec<String>,
    /// The schemes it is for (default: all).
    #[serde(default)]
    pub schemes: Vec<String>,
    /// Calls that fail in a row, after which the next facilitator is asked first until this one answers again (default 5).
    pub max_failures: Option<u64>,
    /// How calls are signed, where the facilitator wants that.
    #[serde(default, deserialize_with = "optional_object")]
    pub auth: Option<Auth>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    /// A key of the Coinbase Developer Platform: each call carries a token that is signed by it.
    #[serde(deserialize_with = "json::object")]
    pub cdp: Cdp,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Cdp {
    /// The id of the key.
    pub key_id: Secret,
    /// The key's secret as Coinbase's portal shows it: base64 (Ed25519) or PEM (ECDSA). Never logged.
    pub key_secret: Secret,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Rpc {
    /// The proxy's cluster that the calls go to.
    pub cluster: String,
    /// Scheme, authority and path of the calls: JSON-RPC, batches included.
    pub url: Secret,
    /// The longest time that one call may take (default 5s).
    pub timeout: Option<String>,
    /// Headers added to each call. Values are never logged.
    #[serde(default)]
    pub headers: Named<Secret>,
    /// How many blocks, its own included, a transfer needs before it counts (default 1).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub confirmations: Option<u64>,
    /// How many blocks, beside its first, one query for logs covers: what the node allows (default 1800).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub log_range: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    /// EIP-155 id of the chain. Required if the built-in table has no network of this name.
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub chain_id: Option<u64>,
    /// Assets by symbol.
    #[serde(default)]
    pub assets: Named<Object<Asset>>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Asset {
    /// The token's contract.
    pub address: String,
    /// How many decimals one unit has.
    #[serde(deserialize_with = "json::whole_number")]
    pub decimals: u64,
    /// The token's EIP-712 domain, on a chain of Ethereum's family.
    #[serde(default, deserialize_with = "optional_object")]
    pub eip712: Option<Eip712>,
    /// The message that payers sign: eip3009 (default) or permit2.
    #[serde(default)]
    pub transfer_method: TransferMethod,
    /// Whether one unit is worth a dollar, so that prices may be in dollars.
    #[serde(default)]
    pub usd_pegged: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Eip712 {
    /// The name in the domain.
    pub name: String,
    /// The version in the domain.
    pub version: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum TransferMethod {
    #[default]
    Eip3009,
    Permit2,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    /// Who is paid: an account, a split by weight, or a key of the proxy's metadata.
    pub pay_to: Option<TextOr<PayTo>>,
    /// The ways to pay, in the order in which they are offered.
    pub accepts: Option<Vec<Object<Entry>>>,
    /// When the money moves: after (default) the response, before the request, concurrent with it, or optimistic: behind the
    /// response.
    pub settle: Option<super::Settle>,
    /// What may be delivered before it is paid, under settle: optimistic.
    #[serde(default, deserialize_with = "optional_object")]
    pub exposure: Option<Exposure>,
    /// How many seconds a client's authorization may be valid (default 300, at least 10).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_timeout_seconds: Option<u64>,
    /// Callers that need not pay.
    #[serde(default, deserialize_with = "optional_object")]
    pub free_for: Option<FreeFor>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Exposure {
    /// The most that one payer may have open: "$0.05", or {amount} in atomic units.
    pub payer: TextOr<Units>,
    /// The most that all payers may have open, and what is lost of them in a day, in each asset.
    pub total: TextOr<Units>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// exact: the price. upto: what was used, at most the price. batch-settlement: the same out of a channel. Any other is
    /// judged by the facilitator.
    pub scheme: String,
    /// A name of the table, eip155:<chain id>, or another CAIP-2 id, on which the facilitator judges payments.
    pub network: String,
    /// A symbol of the table, or an asset.
    pub asset: TextOr<Asset>,
    /// The recipient of this entry.
    pub pay_to: Option<TextOr<PayTo>>,
    /// Whether the facilitator judges 65-byte signatures that are not the payer's own (ERC-1271). Otherwise they are refused.
    #[serde(default)]
    pub contract_wallets: bool,
    /// True if a settlement counts only once the chain itself shows it. Needs rpc.
    #[serde(default)]
    pub confirm: bool,
    /// What payers sign, if it is not what the asset says.
    pub transfer_method: Option<TransferMethod>,
    /// Scheme batch-settlement: the deposit that clients are told to make at least (default: ten times the price of the request).
    pub min_deposit: Option<String>,
    /// Scheme batch-settlement: whether a smaller deposit is refused.
    #[serde(default)]
    pub enforce_min_deposit: bool,
    /// Scheme batch-settlement: the time between a payer's wish to withdraw and the withdrawal, from 900s (default) to 2592000s.
    pub withdraw_delay: Option<String>,
    /// Fields that clients need besides, if the facilitator judges payments; passed on as they stand.
    pub extra: Option<Extra>,
}

/// An object as it stands: by name, each value as canonical JSON.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra(pub BTreeMap<String, String>);

impl Extra {
    /// The whole as JSON.
    pub fn to_json(&self) -> String {
        let fields: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{}:{value}", json::to_text(name))).collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        json::canonical_fields(&value).map(Self).map_err(|error| D::Error::custom(error.message))
    }
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Shown in logs and stats; letters, digits, _ and -. Without one, the index is shown.
    pub name: Option<String>,
    /// The requests that the route is for.
    #[serde(rename = "match", deserialize_with = "json::object")]
    pub matcher: Match,
    /// "$0.001", {amount} in atomic units, or the prices of tokens.
    pub price: Option<TextOr<Price>>,
    /// Whether the upstream may name the charge of scheme upto in the header Settlement-Overrides.
    #[serde(default)]
    pub settlement_overrides: bool,
    /// true in place of a price makes the route free.
    #[serde(default)]
    pub free: bool,
    /// enforce or shadow, where it is not what the top level says.
    pub mode: Option<super::Mode>,
    /// A description for people and agents, shown in the terms.
    pub description: Option<String>,
    /// The media type of what is sold, shown in the terms.
    pub mime_type: Option<String>,
    /// The name of the service, shown in the terms: 1 to 32 printable ASCII characters.
    pub service_name: Option<String>,
    /// Words by which the service is found, shown in the terms: at most 5, of 1 to 32 printable ASCII characters each.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The URL of the service's icon, shown in the terms.
    pub icon_url: Option<String>,
    /// The recipient.
    pub pay_to: Option<TextOr<PayTo>>,
    /// The ways to pay.
    pub accepts: Option<Vec<Object<Entry>>>,
    /// When the money moves: after, before, concurrent or optimistic.
    pub settle: Option<super::Settle>,
    /// What may be delivered before it is paid, under settle: optimistic.
    #[serde(default, deserialize_with = "optional_object")]
    pub exposure: Option<Exposure>,
    /// How many seconds a client's authorization may be valid.
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_timeout_seconds: Option<u64>,
    /// Callers that need not pay.
    #[serde(default, deserialize_with = "optional_object")]
    pub free_for: Option<FreeFor>,
    /// Extensions of the protocol.
    #[serde(default, deserialize_with = "optional_object")]
    pub extensions: Option<Extensions>,
    /// What is sold beside single requests: paid once, and used by signing in.
    #[serde(default, deserialize_with = "optional_object")]
    pub bundle: Option<Bundle>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    /// So many calls, for a price.
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub calls: Option<u64>,
    /// The price of the calls together, in dollars or as {amount} in atomic units.
    pub price: Option<TextOr<Units>>,
    /// In place of calls: so much money, from which each call takes its price.
    pub credit: Option<TextOr<Units>>,
    /// How long it can be used after its payment, in whole seconds with s, such as 2592000s.
    pub lasts: String,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Extensions {
    /// The rule for names that clients give to their payments: optional or required.
    pub payment_identifier: Option<crate::x402::extensions::Identifier>,
    /// The route's input and output, for catalogues.
    #[serde(default, deserialize_with = "optional_object")]
    pub bazaar: Option<Bazaar>,
    /// The codes by which the settlement's transaction names who sold (ERC-8021), if client and facilitator pass them on.
    #[serde(default, deserialize_with = "optional_object")]
    pub builder_code: Option<BuilderCode>,
    /// Lets payers come back without paying again, by signing in with their wallet.
    #[serde(default, deserialize_with = "optional_object")]
    pub sign_in_with_x: Option<SignIn>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct BuilderCode {
    /// The code of the app that sells: 1 to 32 of a to z, 0 to 9 and _.
    pub app: String,
    /// The codes of services that it depends on: at most 5.
    #[serde(default)]
    pub services: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    /// How long after a payment, in whole seconds with s, such as 3600s.
    pub lasts: String,
    /// What the wallet shows to the person who signs: one line.
    pub statement: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Bazaar {
    /// The method, if the route is for several.
    pub method: Option<String>,
    /// An example of the query's parameters.
    pub query: Option<Extra>,
    /// The JSON Schema of the query's parameters.
    pub query_schema: Option<Extra>,
    /// An example of the body. Not together with query.
    pub body: Option<Extra>,
    /// The JSON Schema of the body.
    pub body_schema: Option<Extra>,
    /// The encoding of the body: json (default), form-data or text.
    pub body_type: Option<String>,
    /// Examples of the path's {parameters}.
    pub path_params: Option<Extra>,
    /// The JSON Schema of the path's parameters.
    pub path_params_schema: Option<Extra>,
    /// An example of the response.
    pub output: Option<Extra>,
    /// The JSON Schema of the response.
    pub output_schema: Option<Extra>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    /// Hosts such as api.example.com or *.example.com, without port. Any if absent.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Methods. Any if absent. GET covers HEAD.
    #[serde(default)]
    pub methods: Vec<String>,
    /// A path: /exact, /with/{param} or /prefix/{*rest}, written decoded.
    pub path: String,
}

/// A fixed price in atomic units, or the rates of tokens. Resolving tells which of the two it is: an object
/// that serde may read as either would be refused without saying what is wrong with it.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    /// A fixed price in atomic units of the asset.
    pub amount: Option<String>,
    /// Where model, limits and usage stand: openai, anthropic, gemini, or JSON pointers.
    pub usage: Option<TextOr<Pointers>>,
    /// The prices of a million tokens, by model: exact names first, then patterns with *, the longest first.
    pub models: Option<Named<Object<Rate>>>,
    /// Tokens of output assumed if a request names no limit (default 4096).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_output_tokens: Option<u64>,
    /// The fewest bytes of a request that make one token, for the quote (default 1).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub bytes_per_token: Option<u64>,
    /// The least that a request costs.
    pub minimum: Option<TextOr<Units>>,
    /// What is charged if a response does not say what it used.
    pub missing_usage: Option<crate::price::MissingUsage>,
    /// Whether the filter asks for the usage at the end of a stream if the client does not (default true).
    pub ask_for_usage: Option<bool>,
    /// The longest body of a request that is read, in bytes (default 1048576).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_body_bytes: Option<u64>,
    /// The longest response that is held until its charge is settled, in bytes (default 16777216). A longer one is delivered
    /// as a stream is. The proxy's buffer limit must allow it.
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_response_bytes: Option<u64>,
    /// The namespace of the proxy's dynamic metadata that holds the request's fields, for proxies that let no filter read bodies.
    pub metadata: Option<String>,
    /// Your own service that names the price of each request.
    #[serde(default, deserialize_with = "optional_object")]
    pub quote: Option<Quote>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Quote {
    /// The proxy's cluster that the calls go to.
    pub cluster: String,
    /// Scheme, authority and path of the calls.
    pub url: Secret,
    /// The longest time that one call may take (default 2s).
    pub timeout: Option<String>,
    /// Headers added to each call. Values are never logged.
    #[serde(default)]
    pub headers: Named<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    /// The price of a million tokens of input.
    pub input: TextOr<Units>,
    /// The price of a million tokens of input from a cache (default: as input).
    pub cached_input: Option<TextOr<Units>>,
    /// The price of a million tokens of input written to a cache (default: as input).
    pub cache_write: Option<TextOr<Units>>,
    /// The price of a million tokens of output (default: nothing, as for models that only read).
    pub output: Option<TextOr<Units>>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Units {
    /// Atomic units of the asset.
    pub amount: String,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    /// About how many payments can be remembered at a time (default 262144).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_claims: Option<u64>,
    /// How often a payment that has settled may come again after its client disconnected before the response (default 3, at
    /// least 1).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_redemptions: Option<u64>,
    /// The store that a fleet of proxies shares. Left out: the shared data of one process.
    pub store: Option<Object<Store>>,
}

/// A store that a fleet of proxies shares: one of these.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    /// etcd, version 3.4 or later.
    pub etcd: Option<Object<Etcd>>,
    /// A table of DynamoDB's, in one region.
    pub dynamodb: Option<Object<DynamoDb>>,
}

/// What is not built in is refused, whatever it says.
#[cfg(not(feature = "etcd"))]
pub(super) type Etcd = serde::de::IgnoredAny;

#[cfg(feature = "etcd")]
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Etcd {
    /// The proxy's cluster that its members are in: HTTP/2, with a client certificate where etcd asks for one.
    pub cluster: String,
    /// The fleet: proxies with the same name share their payments. All names of its records begin with "x402:", the fleet and ":".
    pub fleet: String,
    /// The longest time that one call may take, such as "1s" (default). What stays unanswered is repeated for four times that.
    pub timeout: Option<String>,
}

/// What is not built in is refused, whatever it says.
#[cfg(not(feature = "dynamodb"))]
pub(super) type DynamoDb = serde::de::IgnoredAny;

#[cfg(feature = "dynamodb")]
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct DynamoDb {
    /// The proxy's cluster that leads to DynamoDB's endpoint: it signs the calls by the filter aws_request_signing.
    pub cluster: String,
    /// The table: its keys are the texts p (partition) and k (sort), its time to live is the attribute t.
    pub table: String,
    /// The fleet: proxies with the same name share their payments. All partitions of its items begin with "x402:", the fleet and ":".
    pub fleet: String,
    /// The longest time that one call may take, such as "1s" (default). What stays unanswered is repeated for four times that.
    pub timeout: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PayTo {
    /// Several recipients, of which one is drawn for each quote.
    pub split: Option<Vec<Object<Part>>>,
    /// The key of the proxy's dynamic metadata that names the recipient.
    #[serde(default, deserialize_with = "optional_object")]
    pub metadata: Option<MetadataKey>,
}

fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    json::object(deserializer).map(Some)
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// The recipient's account.
    pub to: String,
    /// How often the account is drawn, relative to the other weights (default 1).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub weight: Option<u64>,
}

/// A text, or an object in its place.
#[derive(Debug, Clone)]
pub(super) enum TextOr<T> {
    Text(String),
    Object(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(json::TEXT_OR_OBJECT)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Object)
            }
        }

        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}
