//! Permit2's `PermitWitnessTransferFrom`, as x402's proxies use it: leave to move at most an amount of a token, to the
//! recipient that the witness names, once.
//!
//! Source: Uniswap's Permit2 (`SignatureTransfer`), and `specs/schemes/exact` and `upto` of x402.

use serde::{Deserialize, Serialize};

use super::eip712::{self, Word};
use super::eip3009::Timestamp;
use super::{Address, Nonce};
use crate::money::{Amount, uint256};

/// Permit2, at the same address on every chain.
pub const PERMIT2: Address = Address::from_bytes([
    0x00, 0x00, 0x00, 0x00, 0x00, 0x22, 0xd4, 0x73, 0x03, 0x0f, 0x11, 0x6d, 0xde, 0xe9, 0xf6, 0xb4, 0x3a, 0xc7, 0x8b,
    0xa3,
]);

/// x402's proxy for scheme `exact`: it moves all of the amount.
pub const EXACT_PROXY: Address = Address::from_bytes([
    0x40, 0x20, 0x85, 0xc2, 0x48, 0xee, 0xa2, 0x7d, 0x92, 0xe8, 0xb3, 0x0b, 0x2c, 0x58, 0xed, 0x07, 0xf9, 0xe2, 0x00,
    0x01,
]);

/// x402's proxy for scheme `upto`: it moves what the facilitator in the witness says, at most the amount.
pub const UPTO_PROXY: Address = Address::from_bytes([
    0x40, 0x20, 0xa4, 0xf3, 0xb7, 0xb9, 0x0c, 0xca, 0x42, 0x3b, 0x9f, 0xab, 0xcc, 0x0c, 0xe5, 0x7c, 0x6c, 0x24, 0x00,
    0x02,
]);

/// The hash of the type `TokenPermissions`.
const PERMITTED_HASH: Word = [
    0x61, 0x83, 0x58, 0xac, 0x3d, 0xb8, 0xdc, 0x27, 0x4f, 0x0c, 0xd8, 0x82, 0x9d, 0xa7, 0xe2, 0x34, 0xbd, 0x48, 0xcd,
    0x73, 0xc4, 0xa7, 0x40, 0xae, 0xde, 0x1a, 0xde, 0xc9, 0x84, 0x6d, 0x06, 0xa1,
];
/// The hash of the type `Witness` of scheme `exact`.
const EXACT_WITNESS_HASH: Word = [
    0xd9, 0x7b, 0x32, 0x39, 0xa7, 0xf3, 0x22, 0x95, 0x51, 0x7b, 0xd1, 0x4c, 0xb0, 0x74, 0xed, 0xfd, 0xd1, 0x88, 0xdf,
    0xe5, 0xeb, 0x42, 0xf8, 0x02, 0xbb, 0x26, 0xd4, 0xfd, 0x1e, 0xb1, 0x2c, 0x37,
];
/// The hash of the type `Witness` of scheme `upto`.
const UPTO_WITNESS_HASH: Word = [
    0xd4, 0x17, 0x1c, 0x44, 0x5a, 0x74, 0x21, 0x8b, 0x01, 0xd4, 0xfd, 0x8a, 0xf3, 0x4f, 0xf1, 0x10, 0x65, 0x80, 0xea,
    0x1e, 0x36, 0xff, 0x83, 0x7e, 0x64, 0x48, 0x4b, 0xfa, 0xa2, 0x25, 0x3b, 0x75,
];
/// The hash of the type `PermitWitnessTransferFrom` with the witness of scheme `exact`.
const EXACT_PERMIT_HASH: Word = [
    0xeb, 0xc1, 0x56, 0xcd, 0x23, 0x67, 0x8a, 0x74, 0xc9, 0x4d, 0xf1, 0x3d, 0x77, 0x2e, 0xf5, 0x47, 0x84, 0x20, 0x63,
    0x7f, 0x0c, 0x94, 0xbd, 0x10, 0xd5, 0x09, 0xe1, 0xdc, 0x98, 0xf5, 0x21, 0xc7,
];
/// The hash of the type `PermitWitnessTransferFrom` with the witness of scheme `upto`.
const UPTO_PERMIT_HASH: Word = [
    0x51, 0xdf, 0xf6, 0x97, 0x4a, 0xd4, 0x38, 0x8c, 0x49, 0x9e, 0x7f, 0xcf, 0xe8, 0x38, 0xd2, 0xbd, 0x76, 0x71, 0x62,
    0x55, 0x3a, 0x14, 0x40, 0x98, 0xce, 0x20, 0xea, 0x66, 0x1d, 0x70, 0xc2, 0xee,
];

/// The permit that the payer signs. In JSON as the official clients write it: every number is a string in decimal. Read in the ways of
/// [`uint256`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// The payer, who signs.
    pub from: Address,
    /// The token and amount that may be moved.
    #[serde(deserialize_with = "crate::json::open_object")]
    pub permitted: Permitted,
    /// The contract that may move it: one of x402's proxies.
    pub spender: Address,
    /// Chosen by the payer; Permit2 accepts each of a payer once, whatever the token.
    #[serde(deserialize_with = "uint256")]
    pub nonce: Amount,
    /// Permit2 accepts the transfer only until this time.
    pub deadline: Timestamp,
    /// The conditions that the proxy checks.
    #[serde(deserialize_with = "crate::json::open_object")]
    pub witness: Witness,
}

/// A token, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct Permitted {
    /// The token's contract.
    pub token: Address,
    /// Atomic units.
    #[serde(deserialize_with = "uint256")]
    pub amount: Amount,
}

impl Permitted {
    /// Its hash as a part of a permit.
    pub fn struct_hash(&self) -> Word {
        eip712::struct_hash(&PERMITTED_HASH, &[self.token.to_word(), self.amount.to_be_bytes()])
    }
}

/// To whom, by whom and from when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Witness {
    /// The recipient.
    pub to: Address,
    /// The only account that may settle: scheme `upto` has one, scheme `exact` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facilitator: Option<Address>,
    /// The proxy accepts the transfer only from this time on.
    pub valid_after: Timestamp,
}

impl Permit {
    /// The digest that the payer signs, under Permit2's domain.
    pub fn digest(&self, domain_separator: &Word) -> Word {
        let Permit { permitted, witness, .. } = self;
        let permitted = permitted.struct_hash();
        let (to, valid_after) = (witness.to.to_word(), witness.valid_after.to_be_bytes());
        let (permit_hash, witness) = match witness.facilitator {
            Some(facilitator) => {
                (&UPTO_PERMIT_HASH, eip712::struct_hash(&UPTO_WITNESS_HASH, &[to, facilitator.to_word(), valid_after]))
            }
            None => (&EXACT_PERMIT_HASH, eip712::struct_hash(&EXACT_WITNESS_HASH, &[to, valid_after])),
        };
        let struct_hash = eip712::struct_hash(
            permit_hash,
            &[permitted, self.spender.to_word(), self.nonce.to_be_bytes(), self.deadline.to_be_bytes(), witness],
        );
        eip712::digest(domain_separator, &struct_hash)
    }

    /// The nonce as the ledger knows nonces.
    pub fn nonce(&self) -> Nonce {
        Nonce::from_bytes(self.nonce.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evm::keccak256;

    #[test]
    fn each_type_has_its_hash() {
        let permitted = "TokenPermissions(address token,uint256 amount)";
        let exact = "Witness(address to,uint256 validAfter)";
        let upto = "Witness(address to,address facilitator,uint256 validAfter)";
        let permit = "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)";
        for (hash, text) in [
            (PERMITTED_HASH, permitted.to_owned()),
            (EXACT_WITNESS_HASH, exact.to_owned()),
            (UPTO_WITNESS_HASH, upto.to_owned()),
            (EXACT_PERMIT_HASH, format!("{permit}{permitted}{exact}")),
            (UPTO_PERMIT_HASH, format!("{permit}{permitted}{upto}")),
        ] {
            assert_eq!(hash, keccak256(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_contracts_are_where_they_are_known_to_be() {
        assert_eq!(PERMIT2.to_string(), "0x000000000022D473030F116dDEE9F6B43aC78BA3");
        assert_eq!(EXACT_PROXY.to_string(), "0x402085c248EeA27D92E8b30b2C58ed07f9E20001");
        assert_eq!(UPTO_PROXY.to_string(), "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
    }
}
