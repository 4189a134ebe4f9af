//! The configuration as it is written: shapes only, nothing resolved. Unknown keys are errors everywhere.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::json::{self, Named, Object};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(deserialize_with = "json::object")]
    pub facilitator: Facilitator,
    #[serde(default)]
    pub rpc: Named<Object<Rpc>>,
    #[serde(default)]
    pub networks: Named<Object<Network>>,
    #[serde(default, deserialize_with = "json::object")]
    pub defaults: Defaults,
    pub routes: Vec<Object<Route>>,
    #[serde(default)]
    pub unmatched: super::Unmatched,
    #[serde(default)]
    pub keep_headers: Vec<String>,
    #[serde(default, deserialize_with = "json::object")]
    pub ledger: Ledger,
    #[serde(default, deserialize_with = "json::object")]
    pub payers: Payers,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Payers {
    pub allow: Option<Vec<String>>,
    #[serde(default)]
    pub deny: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FreeFor {
    pub principals: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facilitator {
    pub cluster: String,
    pub url: String,
    pub timeout: Option<String>,
    #[serde(default)]
    pub verify: super::Verify,
    #[serde(default)]
    pub headers: Named<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rpc {
    pub cluster: String,
    pub url: String,
    pub timeout: Option<String>,
    #[serde(default)]
    pub headers: Named<String>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub confirmations: Option<u64>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub log_range: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub chain_id: Option<u64>,
    #[serde(default)]
    pub assets: Named<Object<Asset>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asset {
    pub address: String,
    #[serde(deserialize_with = "json::whole_number")]
    pub decimals: u64,
    #[serde(deserialize_with = "json::object")]
    pub eip712: Eip712,
    #[serde(default)]
    pub transfer_method: TransferMethod,
    #[serde(default)]
    pub usd_pegged: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eip712 {
    pub name: String,
    pub version: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TransferMethod {
    #[default]
    Eip3009,
    Permit2,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    pub pay_to: Option<TextOr<PayTo>>,
    pub accepts: Option<Vec<Object<Entry>>>,
    pub settle: Option<super::Settle>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_timeout_seconds: Option<u64>,
    #[serde(default, deserialize_with = "optional_object")]
    pub free_for: Option<FreeFor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub scheme: Scheme,
    pub network: String,
    pub asset: TextOr<Asset>,
    pub pay_to: Option<TextOr<PayTo>>,
    #[serde(default)]
    pub contract_wallets: bool,
    #[serde(default)]
    pub confirm: bool,
    pub transfer_method: Option<TransferMethod>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    Exact,
    Upto,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub name: Option<String>,
    #[serde(rename = "match", deserialize_with = "json::object")]
    pub matcher: Match,
    pub price: Option<TextOr<Price>>,
    #[serde(default)]
    pub settlement_overrides: bool,
    #[serde(default)]
    pub free: bool,
    pub description: Option<String>,
    pub mime_type: Option<String>,
    pub pay_to: Option<TextOr<PayTo>>,
    pub accepts: Option<Vec<Object<Entry>>>,
    pub settle: Option<super::Settle>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_timeout_seconds: Option<u64>,
    #[serde(default, deserialize_with = "optional_object")]
    pub free_for: Option<FreeFor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub methods: Vec<String>,
    pub path: String,
}

/// A fixed price in atomic units, or the rates of tokens. Which of the two is found out when it is resolved: an object
/// that serde may read as either would be refused without saying what is wrong with it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    pub amount: Option<String>,
    pub usage: Option<TextOr<Pointers>>,
    pub models: Option<Named<Object<Rate>>>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_output_tokens: Option<u64>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub bytes_per_token: Option<u64>,
    pub minimum: Option<TextOr<Units>>,
    pub missing_usage: Option<crate::price::MissingUsage>,
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_body_bytes: Option<u64>,
    pub metadata: Option<String>,
    #[serde(default, deserialize_with = "optional_object")]
    pub quote: Option<Quote>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quote {
    pub cluster: String,
    pub url: String,
    pub timeout: Option<String>,
    #[serde(default)]
    pub headers: Named<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pointers {
    pub model: String,
    pub max_output_tokens: Option<String>,
    pub choices: Option<String>,
    pub input_tokens: String,
    pub cached_input_tokens: Option<String>,
    pub output_tokens: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    pub input: TextOr<Units>,
    pub cached_input: Option<TextOr<Units>>,
    pub cache_write: Option<TextOr<Units>>,
    pub output: TextOr<Units>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Units {
    pub amount: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    #[serde(default, deserialize_with = "json::optional_whole_number")]
    pub max_claims: Option<u64>,
    #[serde(default)]
    pub exclusive: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PayTo {
    pub split: Option<Vec<Object<Part>>>,
    #[serde(default, deserialize_with = "optional_object")]
    pub metadata: Option<MetadataKey>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetadataKey {
    pub namespace: String,
    pub key: String,
}

fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    json::object(deserializer).map(Some)
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub to: String,
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
