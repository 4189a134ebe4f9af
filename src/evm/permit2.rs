//! Permit2's `PermitWitnessTransferFrom`, as x402's proxies use it: leave to move at most an amount of a token, to the
//! recipient that the witness names, once.
//!
//! Source: Uniswap's Permit2 (`SignatureTransfer`), and `specs/schemes/exact` and `upto` of x402.

use serde::{Deserialize, Serialize};

use super::eip712::{self, Word};
use super::eip3009::Timestamp;
use super::{Address, Nonce};
use crate::money::Amount;

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

const PERMITTED_TYPE: &str = "TokenPermissions(address token,uint256 amount)";
const EXACT_WITNESS_TYPE: &str = "Witness(address to,uint256 validAfter)";
const UPTO_WITNESS_TYPE: &str = "Witness(address to,address facilitator,uint256 validAfter)";
const PERMIT_TYPE: &str = "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)";

/// What the payer signs. In JSON as the official clients write it: every number is a string in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Permit {
    /// The payer, who signs.
    pub from: Address,
    /// What may be moved.
    #[serde(deserialize_with = "crate::json::object")]
    pub permitted: Permitted,
    /// Who may move it: one of x402's proxies.
    pub spender: Address,
    /// Chosen by the payer; Permit2 accepts each of a payer once, whatever the token.
    pub nonce: Amount,
    /// Permit2 accepts the transfer only until this time.
    pub deadline: Timestamp,
    /// What the proxy checks.
    #[serde(deserialize_with = "crate::json::object")]
    pub witness: Witness,
}

/// A token, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Permitted {
    /// The token's contract.
    pub token: Address,
    /// Atomic units.
    pub amount: Amount,
}

/// To whom, by whom and from when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Witness {
    /// The recipient.
    pub to: Address,
    /// Who alone may settle: scheme `upto` has one, scheme `exact` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facilitator: Option<Address>,
    /// The proxy accepts the transfer only from this time on.
    pub valid_after: Timestamp,
}

impl Permit {
    /// The digest that the payer signs, under Permit2's domain.
    pub fn digest(&self, domain_separator: &Word) -> Word {
        let permitted =
            eip712::struct_hash(PERMITTED_TYPE, &[self.permitted.token.to_word(), self.permitted.amount.to_be_bytes()]);
        let (witness_type, witness) = match self.witness.facilitator {
            Some(facilitator) => (
                UPTO_WITNESS_TYPE,
                vec![self.witness.to.to_word(), facilitator.to_word(), self.witness.valid_after.to_be_bytes()],
            ),
            None => (EXACT_WITNESS_TYPE, vec![self.witness.to.to_word(), self.witness.valid_after.to_be_bytes()]),
        };
        let struct_hash = eip712::struct_hash(
            &format!("{PERMIT_TYPE}{PERMITTED_TYPE}{witness_type}"),
            &[
                permitted,
                self.spender.to_word(),
                self.nonce.to_be_bytes(),
                self.deadline.to_be_bytes(),
                eip712::struct_hash(witness_type, &witness),
            ],
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

    #[test]
    fn the_contracts_are_where_they_are_known_to_be() {
        assert_eq!(PERMIT2.to_string(), "0x000000000022D473030F116dDEE9F6B43aC78BA3");
        assert_eq!(EXACT_PROXY.to_string(), "0x402085c248EeA27D92E8b30b2C58ed07f9E20001");
        assert_eq!(UPTO_PROXY.to_string(), "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
    }
}
