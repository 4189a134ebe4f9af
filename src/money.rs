//! Amounts and prices. Money is text outside and a 256-bit integer inside: never a float.

use std::fmt;

use ruint::aliases::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

/// An amount of an asset in its atomic units (for USDC, millionths of a dollar): 0 to 2^256 − 1.
///
/// Written in decimal, without sign or leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(U256);

/// An error in a text that is not an amount or a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a plain decimal number.
    #[error("is not a plain decimal number")]
    NotDecimal,
    /// A price without the dollar sign.
    #[error("does not begin with a dollar sign")]
    NoDollarSign,
    /// Leads with a zero that does not belong.
    #[error("has a leading zero")]
    LeadingZero,
    /// Exceeds 2^256 − 1 atomic units.
    #[error("is too large")]
    TooLarge,
    /// Not zero, but less than one atomic unit.
    #[error("is below one atomic unit")]
    BelowOneUnit,
    /// Has a fraction that the atomic unit cannot express.
    #[error("has more decimals than the asset")]
    TooFine,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(U256::ZERO);

    /// The amount of 128 bits of atomic units.
    pub fn from_u128(units: u128) -> Self {
        Self(U256::from(units))
    }

    /// Parses atomic units: digits only, no leading zero.
    ///
    /// # Errors
    /// [`MoneyError::NotDecimal`], [`MoneyError::LeadingZero`] or [`MoneyError::TooLarge`].
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        if text.len() > 1 && text.starts_with('0') {
            return Err(MoneyError::LeadingZero);
        }
        parse_digits(text).map(Self)
    }

    /// The amount as 32 bytes, most significant first, as the EVM encodes `uint256`.
    pub fn to_be_bytes(self) -> [u8; 32] {
        self.0.to_be_bytes()
    }

    /// The amount as an integer.
    pub const fn to_integer(self) -> U256 {
        self.0
    }
}

impl From<U256> for Amount {
    fn from(units: U256) -> Self {
        Self(units)
    }
}

impl From<u64> for Amount {
    fn from(units: u64) -> Self {
        Self(U256::from(units))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// Reads what a payer signed as `uint256`, for `deserialize_with`: decimal digits, in a text or as a number, and zeros before
/// them count for nothing, as in JavaScript's `BigInt`. Nothing is lost by it, whatever its size.
///
/// # Errors
/// A custom error for all else, such as a number with a fraction or an exponent.
pub fn uint256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
    // Not by serde's own numbers, which would bring the reading of floating point along.
    let json = Box::<RawValue>::deserialize(deserializer)?;
    let json = json.get();
    let text = if json.starts_with('"') { serde_json::from_str(json).unwrap_or_default() } else { json.to_owned() };
    let digits = text.trim_start_matches('0');
    let digits = if digits.is_empty() && !text.is_empty() { "0" } else { digits };
    Amount::parse(digits).map_err(de::Error::custom)
}

/// A decimal number as people write it: `digits` divided by ten to the power of `scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    digits: U256,
    scale: u32,
}

impl Decimal {
    /// Parses `12` or `0.001`: digits, at most one point, a digit on each side of it; no sign, no exponent.
    ///
    /// # Errors
    /// [`MoneyError::NotDecimal`], [`MoneyError::LeadingZero`] or [`MoneyError::TooLarge`].
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(MoneyError::NotDecimal),
            Some(parts) => parts,
            None => (text, ""),
        };
        if whole.is_empty() {
            return Err(MoneyError::NotDecimal);
        }
        if whole.len() > 1 && whole.starts_with('0') {
            return Err(MoneyError::LeadingZero);
        }
        let fraction_is_digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
        if !fraction_is_digits {
            return Err(MoneyError::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        Ok(Self {
            digits: parse_digits(&format!("{whole}{fraction}"))?,
            scale: u32::try_from(fraction.len()).map_err(|_| MoneyError::TooLarge)?,
        })
    }

    /// The number in units of ten to the power of `-decimals`, exactly.
    ///
    /// # Errors
    /// [`MoneyError::BelowOneUnit`] or [`MoneyError::TooFine`] where the units cannot express it,
    /// [`MoneyError::TooLarge`] where it exceeds 256 bits.
    pub fn to_units(self, decimals: u32) -> Result<U256, MoneyError> {
        match decimals.checked_sub(self.scale) {
            Some(missing) => U256::from(10)
                .checked_pow(U256::from(missing))
                .and_then(|factor| self.digits.checked_mul(factor))
                .ok_or(MoneyError::TooLarge),
            None if self.is_below_one_unit(decimals) => Err(MoneyError::BelowOneUnit),
            None => Err(MoneyError::TooFine),
        }
    }

    fn is_below_one_unit(self, decimals: u32) -> bool {
        let unit = U256::from(10).checked_pow(U256::from(self.scale.saturating_sub(decimals)));
        unit.is_none_or(|unit| self.digits < unit)
    }
}

/// A price in dollars, as the operator writes it: `$0.001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dollars(Decimal);

impl Dollars {
    /// Parses `$` and a decimal number.
    ///
    /// # Errors
    /// [`MoneyError::NoDollarSign`], and those of [`Decimal::parse`].
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let number = text.strip_prefix('$').ok_or(MoneyError::NoDollarSign)?;
        Decimal::parse(number).map(Self)
    }

    /// The price in atomic units of an asset that is pegged to the dollar and has `decimals` decimals.
    ///
    /// # Errors
    /// Those of [`Decimal::to_units`].
    pub fn to_amount(self, decimals: u8) -> Result<Amount, MoneyError> {
        self.0.to_units(u32::from(decimals)).map(Amount)
    }

    /// The number of dollars.
    pub const fn to_decimal(self) -> Decimal {
        self.0
    }
}

fn parse_digits(text: &str) -> Result<U256, MoneyError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MoneyError::NotDecimal);
    }
    U256::from_str_radix(text, 10).map_err(|_| MoneyError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    const MAX_PLUS_ONE: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639936";

    #[test]
    fn amounts_are_plain_decimal() {
        for text in ["0", "1", "1000", MAX] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), text);
        }
        for (text, error) in [
            ("", MoneyError::NotDecimal),
            ("-1", MoneyError::NotDecimal),
            ("+1", MoneyError::NotDecimal),
            ("1_000", MoneyError::NotDecimal),
            ("0x10", MoneyError::LeadingZero),
            ("1e3", MoneyError::NotDecimal),
            ("1.0", MoneyError::NotDecimal),
            (" 1", MoneyError::NotDecimal),
            ("1 ", MoneyError::NotDecimal),
            ("١", MoneyError::NotDecimal),
            ("01", MoneyError::LeadingZero),
            (MAX_PLUS_ONE, MoneyError::TooLarge),
        ] {
            assert_eq!(Amount::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn json_amounts_are_strings_only() {
        assert_eq!(serde_json::from_str::<Amount>("\"1000\"").unwrap(), Amount::from(1000));
        assert_eq!(serde_json::to_string(&Amount::from(1000)).unwrap(), "\"1000\"");
        for wrong in ["1000", "1e3", "\"1e3\"", "null", "[\"1\"]"] {
            assert!(serde_json::from_str::<Amount>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dollars_become_atomic_units_exactly() {
        for (text, decimals, units) in [
            ("$0.001", 6, "1000"),
            ("$0.000001", 6, "1"),
            ("$1", 6, "1000000"),
            ("$2.50", 6, "2500000"),
            ("$0.0000010", 6, "1"),
            ("$0", 6, "0"),
            ("$0.1", 18, "100000000000000000"),
            ("$3", 0, "3"),
        ] {
            assert_eq!(Dollars::parse(text).unwrap().to_amount(decimals).unwrap().to_string(), units, "{text}");
        }
    }

    #[test]
    fn dollars_that_no_unit_expresses_are_refused() {
        for (text, decimals, error) in [
            ("$0.0000001", 6, MoneyError::BelowOneUnit),
            ("$1.0000001", 6, MoneyError::TooFine),
            ("$0.5", 0, MoneyError::BelowOneUnit),
            ("$1.5", 0, MoneyError::TooFine),
            ("$99999999999999999999999999999999999999999999999999999999999999999999999999999", 6, MoneyError::TooLarge),
        ] {
            assert_eq!(Dollars::parse(text).unwrap().to_amount(decimals), Err(error), "{text}");
        }
        for wrong in ["0.001", "$", "$.5", "$1.", "$-1", "$1,000", "$ 1", "$1.2.3", "$1e3", "$0.001x", "$NaN", "$01"] {
            assert!(Dollars::parse(wrong).is_err(), "{wrong}");
        }
        let very_fine = format!("$0.{}1", "0".repeat(100));
        assert_eq!(Dollars::parse(&very_fine).unwrap().to_amount(6), Err(MoneyError::BelowOneUnit));
    }
}
