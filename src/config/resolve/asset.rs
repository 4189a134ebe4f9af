//! Assets: prices in them, and tokens on chains of Ethereum's family.

use ruint::aliases::U256;

use super::text::foreign_name;
use super::{Result, at, refuse};
use crate::config::ConfigError;
use crate::config::raw::{self, TextOr};
use crate::config::secret::{Shown, named};
use crate::evm::Address;
use crate::money::{Amount, Dollars};
use crate::networks::KnownAsset;
use crate::price::RATE_SCALE_DIGITS;

/// The least price of a million tokens in dollars. Nobody sells them for less, and one token costs that.
const LEAST_RATE: &str = "$0.001";

/// An asset that prices are in.
#[derive(Clone)]
pub(super) struct Asset {
    /// Its symbol, where it has one.
    pub(super) label: String,
    pub(super) decimals: u8,
    pub(super) usd_pegged: bool,
}

/// An asset on a chain of Ethereum's family.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) asset: Asset,
    pub(super) address: Address,
    pub(super) eip712_name: String,
    pub(super) eip712_version: String,
    pub(super) transfer_method: raw::TransferMethod,
}

impl Asset {
    fn new(path: &str, raw: &raw::Asset, label: &str) -> Result<Self> {
        let Some(decimals) = u8::try_from(raw.decimals).ok().filter(|decimals| *decimals <= 77) else {
            return refuse(format!("{path}.decimals"), "is not between 0 and 77");
        };
        Ok(Self { label: label.to_owned(), decimals, usd_pegged: raw.usd_pegged })
    }

    /// Resolves an asset of which the filter knows nothing else, and its address.
    pub(super) fn of_foreign(path: &str, raw: &raw::Asset) -> Result<(Self, String)> {
        if raw.eip712.is_some() {
            return refuse(format!("{path}.eip712"), "is for tokens on chains of Ethereum's family");
        }
        Ok((Self::new(path, raw, "the asset")?, foreign_name(&format!("{path}.address"), &raw.address)?))
    }

    /// Returns the decimals, where the asset is pegged to the dollar.
    pub(super) fn dollar_decimals(&self) -> Option<u8> {
        self.usd_pegged.then_some(self.decimals)
    }

    /// Reads a sum of dollars in atomic units, and `finer` digits below them.
    pub(super) fn units(&self, path: &str, text: &str, finer: u32) -> Result<Amount> {
        if !self.usd_pegged {
            return refuse(
                path,
                format_args!(
                    "is in dollars, and {} is not pegged to the dollar; give {{amount: \"…\"}} in atomic units, or mark the asset usd_pegged",
                    named(&self.label)
                ),
            );
        }
        let cure = match text {
            text if text.contains(',') => "; the decimal sign is a point, and nothing parts thousands: \"$1000.5\"",
            text if !text.starts_with('$') => "; write dollars as \"$0.001\"",
            _ => "; write digits with a point alone, such as \"$0.001\"",
        };
        let dollars = Dollars::parse(text).map_err(|error| at(path, text)(format_args!("{error}{cure}")))?;
        let digits = u32::from(self.decimals).saturating_add(finer);
        let units = dollars.to_decimal().to_units(digits).map_err(|error| ConfigError {
            path: path.to_owned(),
            message: format!("{} {error} of {} ({} decimals)", Shown(text), named(&self.label), self.decimals),
        })?;
        Ok(Amount::from(units))
    }

    /// Reads the price of a million tokens, in the fineness of rates.
    #[inline(never)]
    pub(super) fn rate(&self, path: &str, value: &TextOr<raw::Units>) -> Result<U256> {
        let units = match value {
            TextOr::Text(text) => {
                let rate = self.units(path, text, RATE_SCALE_DIGITS)?;
                if rate != Amount::ZERO && rate < self.units(path, LEAST_RATE, RATE_SCALE_DIGITS)? {
                    return refuse(
                        path,
                        format_args!(
                            "{} reads like the price of one token: give that of a million, such as \"$2.5\" (below {LEAST_RATE} as {{amount}}, in atomic units)",
                            Shown(text)
                        ),
                    );
                }
                return Ok(rate.to_integer());
            }
            TextOr::Object(units) => &units.amount,
        };
        let path = format!("{path}.amount");
        let amount = atomic_units(&path, units)?.to_integer();
        let scale = U256::from(10).checked_pow(U256::from(RATE_SCALE_DIGITS));
        let scaled = scale.and_then(|scale| amount.checked_mul(scale));
        scaled.ok_or_else(|| ConfigError { path, message: format!("{} is too large", Shown(units)) })
    }
}

/// Reads an amount in atomic units.
pub(super) fn atomic_units(path: &str, text: &str) -> Result<Amount> {
    Amount::parse(text).map_err(|error| {
        at(path, text)(format_args!("{error}; atomic units are whole, and written in digits alone: \"1000\""))
    })
}

impl Token {
    /// Returns a token of the built-in table.
    pub(super) fn from_known(known: &KnownAsset) -> Result<Self> {
        Ok(Self {
            asset: Asset { label: known.symbol.to_owned(), decimals: known.decimals, usd_pegged: known.usd_pegged },
            address: known.address.parse().map_err(at("networks (built-in)", known.address))?,
            eip712_name: known.eip712_name.to_owned(),
            eip712_version: known.eip712_version.to_owned(),
            transfer_method: raw::TransferMethod::Eip3009,
        })
    }

    /// Resolves a token of the configuration.
    pub(super) fn from_raw(path: &str, raw: &raw::Asset, label: &str) -> Result<Self> {
        let Some(eip712) = &raw.eip712 else {
            return refuse(format!("{path}.eip712"), "is missing: name and version, from the token's contract");
        };
        if eip712.name.is_empty() || eip712.version.is_empty() {
            return refuse(
                format!("{path}.eip712"),
                "has an empty name or version; take both from the token's contract",
            );
        }
        let address: Address = raw.address.parse().map_err(at(format!("{path}.address"), &raw.address))?;
        if address == Address::from_bytes([0; 20]) {
            return refuse(
                format!("{path}.address"),
                "is the zero address: only tokens can be charged, by their contract",
            );
        }
        Ok(Self {
            asset: Asset::new(path, raw, label)?,
            address,
            eip712_name: eip712.name.clone(),
            eip712_version: eip712.version.clone(),
            transfer_method: raw.transfer_method,
        })
    }
}
