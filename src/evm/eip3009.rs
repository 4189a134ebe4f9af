//! Transfers by signed authorization (EIP-3009), which USDC and its like settle x402 payments by.

use ruint::aliases::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::eip712::{self, Word};
use super::{Address, Nonce};
use crate::money::{Amount, uint256};
use crate::time::UnixTime;

/// The hash of `TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)`.
const TYPE_HASH: Word = [
    0x7c, 0x7c, 0x6c, 0xdb, 0x67, 0xa1, 0x87, 0x43, 0xf4, 0x9e, 0xc6, 0xfa, 0x9b, 0x35, 0xf5, 0x0d, 0x52, 0xed, 0x05,
    0xcb, 0xed, 0x4c, 0xc5, 0x92, 0xe1, 0x3b, 0x44, 0x50, 0x1c, 0x1a, 0x22, 0x67,
];

/// The hash of `ReceiveWithAuthorization`, of the same fields.
const RECEIVE_HASH: Word = [
    0xd0, 0x99, 0xcc, 0x98, 0xef, 0x71, 0x10, 0x7a, 0x61, 0x6c, 0x4f, 0x0f, 0x94, 0x1f, 0x04, 0xc3, 0x22, 0xd8, 0xe2,
    0x54, 0xfe, 0x26, 0xb3, 0xc6, 0x66, 0x8d, 0xb8, 0x7a, 0xae, 0x41, 0x3d, 0xe8,
];

/// The payer's leave to move `value` from `from` to `to`, once, in a window of time.
///
/// In JSON as the official clients write it: every number is a string in decimal. Read in the ways of [`uint256`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// The payer, who signs.
    pub from: Address,
    /// The recipient.
    pub to: Address,
    /// Atomic units of the token.
    #[serde(deserialize_with = "uint256")]
    pub value: Amount,
    /// The token accepts the transfer only after this time.
    pub valid_after: Timestamp,
    /// The token accepts the transfer only before this time.
    pub valid_before: Timestamp,
    /// Chosen by the payer; the token accepts each once.
    pub nonce: Nonce,
}

impl Authorization {
    /// The digest that the payer signs, under the token's domain.
    pub fn digest(&self, domain_separator: &Word) -> Word {
        self.digest_as(&TYPE_HASH, domain_separator)
    }

    /// The digest that the payer signs where only the recipient may carry the transfer out (`receiveWithAuthorization`).
    pub fn receive_digest(&self, domain_separator: &Word) -> Word {
        self.digest_as(&RECEIVE_HASH, domain_separator)
    }

    fn digest_as(&self, type_hash: &Word, domain_separator: &Word) -> Word {
        let struct_hash = eip712::struct_hash(
            type_hash,
            &[
                self.from.to_word(),
                self.to.to_word(),
                self.value.to_be_bytes(),
                self.valid_after.to_be_bytes(),
                self.valid_before.to_be_bytes(),
                *self.nonce.as_bytes(),
            ],
        );
        eip712::digest(domain_separator, &struct_hash)
    }
}

/// A point in time as the token sees it: seconds since the epoch in 256 bits, of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(U256);

impl Timestamp {
    /// The time in the filter's own terms; what lies beyond its range counts as its end.
    pub fn to_unix_time(self) -> UnixTime {
        UnixTime::from_secs(self.0.saturating_to())
    }

    /// The time as an EIP-712 word.
    pub fn to_be_bytes(self) -> Word {
        self.0.to_be_bytes()
    }
}

impl From<UnixTime> for Timestamp {
    fn from(time: UnixTime) -> Self {
        Self(U256::from(time.as_secs()))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        uint256(deserializer).map(|seconds| Self(seconds.to_integer()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Amount::from(self.0).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evm::keccak256;

    #[test]
    fn each_type_has_its_hash() {
        for (hash, name) in [(TYPE_HASH, "TransferWithAuthorization"), (RECEIVE_HASH, "ReceiveWithAuthorization")] {
            let fields = "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
            assert_eq!(hash, keccak256(format!("{name}{fields}").as_bytes()));
        }
    }
}
