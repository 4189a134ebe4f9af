//! The configuration as it is written: shapes only, nothing resolved. Unknown keys are errors everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub facilitator: Facilitator,
    #[serde(default)]
    pub networks: BTreeMap<String, Network>,
    #[serde(default)]
    pub defaults: Defaults,
    pub routes: Vec<Route>,
    #[serde(default)]
    pub unmatched: super::Unmatched,
    #[serde(default)]
    pub keep_headers: Vec<String>,
    #[serde(default)]
    pub ledger: Ledger,
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
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    #[serde(default, deserialize_with = "whole_number")]
    pub chain_id: Option<u64>,
    #[serde(default)]
    pub assets: BTreeMap<String, Asset>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asset {
    pub address: String,
    #[serde(deserialize_with = "whole_number")]
    pub decimals: Option<u64>,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    pub pay_to: Option<String>,
    pub accepts: Option<Vec<Entry>>,
    pub settle: Option<super::Settle>,
    #[serde(default, deserialize_with = "whole_number")]
    pub max_timeout_seconds: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub scheme: Scheme,
    pub network: String,
    pub asset: TextOr<Asset>,
    pub pay_to: Option<String>,
    #[serde(default)]
    pub contract_wallets: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    Exact,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub name: Option<String>,
    #[serde(rename = "match")]
    pub matcher: Match,
    pub price: Option<TextOr<Price>>,
    #[serde(default)]
    pub free: bool,
    pub description: Option<String>,
    pub mime_type: Option<String>,
    pub pay_to: Option<String>,
    pub accepts: Option<Vec<Entry>>,
    pub settle: Option<super::Settle>,
    #[serde(default, deserialize_with = "whole_number")]
    pub max_timeout_seconds: Option<u64>,
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    pub amount: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    #[serde(default, deserialize_with = "whole_number")]
    pub max_claims: Option<u64>,
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
                f.write_str("a string or an object")
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

/// A whole number that may come as a double: Istio passes every number through one.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct WholeVisitor;

    impl Visitor<'_> for WholeVisitor {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number that is not negative")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
            // A double that is whole prints as an integer, unless it is too large to be exact.
            let text = format!("{number}");
            text.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Float(number), &self))
        }
    }

    deserializer.deserialize_any(WholeVisitor).map(Some)
}
