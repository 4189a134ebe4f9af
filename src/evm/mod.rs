//! What the filter needs of the Ethereum world: addresses, hashes, typed data, signatures.

pub mod eip3009;
pub mod eip712;
pub mod erc6492;
pub mod permit2;
mod recovery;
#[cfg(feature = "signing")]
pub mod secret_key;
#[cfg(not(feature = "signing"))]
pub use crate::absent::secret_key;
pub mod signature;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha3::{Digest, Keccak256};

use crate::recent::Recent;

/// The Keccak-256 hash of `bytes`, as Ethereum uses it (not NIST's SHA3-256).
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// The account or contract of 20 bytes.
///
/// Written as `0x` and 40 hexadecimal digits, with the checksum of EIP-55 in the letters' case. Read with
/// that checksum, or all in lower case, as the official packages do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 20]);

/// The reason why a text is not an [`Address`] or a [`Nonce`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// Not `0x` and the right number of hexadecimal digits.
    #[error("is not 0x and {0} hexadecimal digits")]
    Malformed(usize),
    /// The letters' case is not the checksum of EIP-55: most likely a typing error.
    #[error("has a wrong checksum (EIP-55)")]
    Checksum,
}

impl Address {
    /// The address of 20 bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Returns whether it is the account that nobody has, which stands for none.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 20]
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Returns whether a text is this address, in whatever letter case. For comparing: unlike reading, it asks for no checksum.
    pub fn is_written(&self, text: &str) -> bool {
        text.eq_ignore_ascii_case(&format!("0x{}", hex::encode(self.0)))
    }

    /// The address as an EIP-712 (or ABI) word: 12 zero bytes, then the 20.
    pub fn to_word(self) -> [u8; 32] {
        let mut word = [0; 32];
        for (to, from) in word.iter_mut().skip(12).zip(self.0) {
            *to = from;
        }
        word
    }

    /// The 40 digits with the checksum of EIP-55, in ASCII. A request writes the same few addresses again and again,
    /// and each takes a hash, so the last ones are remembered.
    fn to_checksummed(self) -> Digits {
        thread_local! {
            static LAST: Recent<Address, Digits, 16> = const { Recent::new() };
        }
        LAST.with(|last| last.get_or(self, || self.hash_into_case()))
    }

    fn hash_into_case(self) -> Digits {
        let mut digits = [0; 40];
        // The two lengths fit.
        let _ = hex::encode_to_slice(self.0, &mut digits);
        let hash = keccak256(&digits);
        let nibbles = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        for (digit, nibble) in digits.iter_mut().zip(nibbles) {
            if nibble >= 8 {
                digit.make_ascii_uppercase();
            }
        }
        digits
    }
}

/// The digits of an address, in ASCII.
type Digits = [u8; 40];

impl FromStr for Address {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        let address = Self(parse_hex(text)?);
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_checked = || text.strip_prefix("0x").map(str::as_bytes) == Some(&address.to_checksummed());
        if is_lower || is_checked() { Ok(address) } else { Err(HexError::Checksum) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.to_checksummed();
        write!(f, "0x{}", str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_string(deserializer)
    }
}

/// 32 bytes that a payer chose at random: the nonce of an EIP-3009 authorization. Written as `0x` and 64 digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// The nonce of 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Nonce {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_string(deserializer)
    }
}

/// The hash of a transaction: 32 bytes, written as `0x` and 64 digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionHash([u8; 32]);

impl TransactionHash {
    /// No transaction.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for TransactionHash {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Display for TransactionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for TransactionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let malformed = HexError::Malformed(N.saturating_mul(2));
    let digits = text.strip_prefix("0x").ok_or(malformed)?;
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| malformed)?;
    Ok(bytes)
}

fn parse_string<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keccak_of_nothing_is_the_published_figure() {
        let empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";
        assert_eq!(hex::encode(keccak256(b"")), empty);
    }

    #[test]
    fn addresses_keep_their_checksum() {
        let usdc = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
        let parsed: Address = usdc.parse().unwrap();
        assert_eq!(parsed.to_string(), usdc);
        assert_eq!(usdc.to_lowercase().parse::<Address>(), Ok(parsed));
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let swapped_case = "0x036cBD53842c5426634e7929541eC2318f3dCF7e";
        assert_eq!(swapped_case.parse::<Address>(), Err(HexError::Checksum));
        for wrong in [
            "",
            "0x",
            "036CbD53842c5426634e7929541eC2318f3dCF7e",
            "0x036CbD53842c5426634e7929541eC2318f3dCF7",
            "0X036cbd53842c5426634e7929541ec2318f3dcf7e",
            "0x036cbd53842c5426634e7929541ec2318f3dcf7g",
            "0x036cbd53842c5426634e7929541ec2318f3dcf7e ",
        ] {
            assert_eq!(wrong.parse::<Address>(), Err(HexError::Malformed(40)), "{wrong}");
        }
    }
}
