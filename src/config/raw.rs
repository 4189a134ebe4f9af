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
    /// The facilitator, which verifies and settles payments.
    #[serde(deserialize_with = "json::object")]
    pub facilitator: Facilitator,
    /// Nodes that can say what became of a settlement, by network (a name or a CAIP-2 id).
    #[serde(default)]
    pub rpc: Named<Object<Rpc>>,
    /// Adds to the built-in table of networks and assets, or overrides it, by name.
    #[serde(default)]
    pub networks: Named<Object<Network>>,
    /// Defaults for routes that say nothing else.
    #[serde(default, deserialize_with = "json::object")]
    pub defaults: Defaults,
    /// The routes, of which the first that matches a request counts.
    pub routes: Vec<Object<Route>>,
    /// The rule for requests that no route matches: free (default) or deny (403).
    #[serde(default)]
    pub unmatched: super::Unmatched,
    /// Headers that a client may send although they can override path or method.
    #[serde(default)]
    pub keep_headers: Vec<String>,
    /// The memory of payments.
    #[serde(default, deserialize_with = "json::object")]
    pub ledger: Ledger,
    /// The payers whose payments are taken.
    #[serde(default, deserialize_with = "json::object")]
    pub payers: Payers,
    /// The page that browsers get with a 402.
    #[serde(default, deserialize_with = "json::object")]
    pub page: Page,
    /// Origins at which clients find what is for sale, such as https://api.example.com. URLs in offers and receipts name one of
    /// these, whatever host the client wrote.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Other origins whose scripts may pay.
    #[serde(default, deserialize_with = "optional_object")]
    pub cors: Option<Cors>,
    /// The signing of offers and receipts.
    #[serde(default, deserialize_with = "optional_object")]
    pub offer_receipt: Option<OfferReceipt>,
    /// True if GET /.well-known/x402 lists what is for sale, where no route takes that path (default true).
    pub discovery: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct OfferReceipt {
    /// The key to sign with: 0x and 64 hexadecimal digits. Never logged. It should hold no money.
    pub key: Secret,
    /// True if the entries of each 402 are signed, and not receipts alone (default true).
    pub offers: Option<bool>,
    /// True if receipts name the transaction (default false).
    #[serde(default)]
    pub transaction: bool,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Payers {
    /// Only these accounts may pay, where there is a list.
    pub allow: Option<Vec<String>>,
    /// These accounts may not pay.
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
    /// True if browsers get a page that pays by the browser's wallet (default true).
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
    /// Names of certificates, a SPIFFE URI or a DNS name each; /* at the end stands for all below.
    pub principals: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Facilitator {
    /// The proxy's cluster that the calls go to.
    pub cluster: String,
    /// Scheme, authority and base path of the calls. Redirects are never followed.
    pub url: Secret,
    /// The longest time that one call may take, in decimal seconds with s (default 10s).
    pub timeout: Option<String>,
    /// remote (default): POST /verify before a request is served. local: the check in the filter and /settle decide.
    #[serde(default)]
    pub verify: super::Verify,
    /// Headers added to each call. Values are never logged.
    #[serde(default)]
    pub headers: Named<Secret>,
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
    /// Blocks that must hold or follow a transfer before it counts; 1 (default) is its own block.
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub confirmations: Option<u64>,
    /// Blocks, beside its first, that one question for logs covers: what the node takes (default 1800).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub log_range: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    /// EIP-155 id of the chain. Required where the built-in table has no such name.
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
    /// Decimals of its amounts.
    #[serde(deserialize_with = "json::whole_number")]
    pub decimals: u64,
    /// The token's EIP-712 domain, on a chain of Ethereum's family.
    #[serde(default, deserialize_with = "optional_object")]
    pub eip712: Option<Eip712>,
    /// The message that payers sign: eip3009 (default) or permit2.
    #[serde(default)]
    pub transfer_method: TransferMethod,
    /// True if a unit is worth a dollar, so that prices may be in dollars.
    #[serde(default)]
    pub usd_pegged: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Eip712 {
    /// Its name in the domain.
    pub name: String,
    /// Its version in the domain.
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
    /// The recipient: an address, a split by weight, or the proxy's metadata that names it.
    pub pay_to: Option<TextOr<PayTo>>,
    /// The ways to pay, in the order in which they are offered.
    pub accepts: Option<Vec<Object<Entry>>>,
    /// The moment at which the money moves: after (default) the response, before the request, or concurrent to it.
    pub settle: Option<super::Settle>,
    /// Seconds that a client may let its authorization live (default 300, at least 10).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_timeout_seconds: Option<u64>,
    /// Callers that need not pay.
    #[serde(default, deserialize_with = "optional_object")]
    pub free_for: Option<FreeFor>,
}

#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// exact: the price. upto: what the request turned out to cost, at most the price. Any other is left to the facilitator.
    pub scheme: String,
    /// A name of the table, eip155:<chain id>, or another CAIP-2 id, whose payments the facilitator judges.
    pub network: String,
    /// A symbol of the table, or an asset.
    pub asset: TextOr<Asset>,
    /// The recipient of this entry.
    pub pay_to: Option<TextOr<PayTo>>,
    /// True if the facilitator judges signatures of 65 bytes that are not the payer's own (ERC-1271).
    #[serde(default)]
    pub contract_wallets: bool,
    /// True if a settlement counts only once the chain itself shows it. Needs rpc.
    #[serde(default)]
    pub confirm: bool,
    /// The message that payers sign, where it is not that of the asset.
    pub transfer_method: Option<TransferMethod>,
    /// Further fields that clients need where the facilitator judges payments: extra of the entry, as it stands.
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
    /// The name in logs and stats (default: the index); letters, digits, _ and -.
    pub name: Option<String>,
    /// The requests that the route is for.
    #[serde(rename = "match", deserialize_with = "json::object")]
    pub matcher: Match,
    /// "$0.001", {amount} in atomic units, or what tokens cost.
    pub price: Option<TextOr<Price>>,
    /// True if the upstream may name the charge of scheme upto by the header Settlement-Overrides.
    #[serde(default)]
    pub settlement_overrides: bool,
    /// true in place of a price makes the route free.
    #[serde(default)]
    pub free: bool,
    /// A description for people and agents; goes into the terms.
    pub description: Option<String>,
    /// The media type of what is sold; goes into the terms.
    pub mime_type: Option<String>,
    /// The recipient.
    pub pay_to: Option<TextOr<PayTo>>,
    /// The ways to pay.
    pub accepts: Option<Vec<Object<Entry>>>,
    /// The moment at which the money moves.
    pub settle: Option<super::Settle>,
    /// Seconds that a client may let its authorization live.
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_timeout_seconds: Option<u64>,
    /// Callers that need not pay.
    #[serde(default, deserialize_with = "optional_object")]
    pub free_for: Option<FreeFor>,
    /// Extensions of the protocol.
    #[serde(default, deserialize_with = "optional_object")]
    pub extensions: Option<Extensions>,
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
    /// Signing in with a wallet, by which payers come back without paying again.
    #[serde(default, deserialize_with = "optional_object")]
    pub sign_in_with_x: Option<SignIn>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    /// The time after a payment in which its payer may come back, in whole seconds with s, such as 3600s.
    pub lasts: String,
    /// The statement that the wallet shows to its user: one line.
    pub statement: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Bazaar {
    /// The method, where the route is for several.
    pub method: Option<String>,
    /// An example of the query's parameters.
    pub query: Option<Extra>,
    /// Their JSON Schema.
    pub query_schema: Option<Extra>,
    /// An example of the body; not beside query.
    pub body: Option<Extra>,
    /// Its JSON Schema.
    pub body_schema: Option<Extra>,
    /// json (default), form-data or text.
    pub body_type: Option<String>,
    /// An example of the {parameters} of the path.
    pub path_params: Option<Extra>,
    /// Their JSON Schema.
    pub path_params_schema: Option<Extra>,
    /// An example of the response.
    pub output: Option<Extra>,
    /// Its JSON Schema.
    pub output_schema: Option<Extra>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    /// api.example.com or *.example.com, without port; any if absent.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Any if absent. GET covers HEAD.
    #[serde(default)]
    pub methods: Vec<String>,
    /// /exact, /with/{param} or /prefix/{*rest}, written decoded.
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
    /// The format of requests and responses, which names models, limits and usage: openai, anthropic, or JSON pointers.
    pub usage: Option<TextOr<Pointers>>,
    /// The prices of a million tokens, by model: exact names first, then patterns with *, the longest first.
    pub models: Option<Named<Object<Rate>>>,
    /// Tokens of output that are assumed where a request names no limit (default 4096).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_output_tokens: Option<u64>,
    /// Bytes of a request that make a token at least, for the quote (default 1).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub bytes_per_token: Option<u64>,
    /// The least that a call costs.
    pub minimum: Option<TextOr<Units>>,
    /// The charge where a response tells no usage.
    pub missing_usage: Option<crate::price::MissingUsage>,
    /// The longest body that is read (default 1048576).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_body_bytes: Option<u64>,
    /// The namespace of the proxy's dynamic metadata that holds the request's fields, for hosts that let no filter read bodies.
    pub metadata: Option<String>,
    /// A service of your own that names the price of each request.
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
    /// A million tokens of input.
    pub input: TextOr<Units>,
    /// A million tokens of input from a cache (default: as input).
    pub cached_input: Option<TextOr<Units>>,
    /// A million tokens of input written to a cache (default: as input).
    pub cache_write: Option<TextOr<Units>>,
    /// A million tokens of output.
    pub output: TextOr<Units>,
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
    /// Payments that are remembered at a time, about (default 262144).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_claims: Option<u64>,
    /// True if no other ledger takes the same payments.
    #[serde(default)]
    pub exclusive: bool,
    /// The time after the proxy's start from which exclusive counts, in whole seconds with s (default 1200s): a process that it
    /// replaces by a hot restart may still take payments.
    pub exclusive_after: Option<String>,
    /// The number of times that a settled payment may be redeemed after its client broke off what it had bought (default 3, at
    /// least 1).
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_redemptions: Option<u64>,
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
    /// The account.
    pub to: String,
    /// The share beside the other weights (default 1).
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
