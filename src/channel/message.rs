//! Messages of a channel, as they are signed (EIP-712).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{BATCH_SETTLEMENT, ERC3009_COLLECTOR};
use crate::evm::eip712::{self, Domain, Word};
use crate::evm::eip3009::{Authorization, Timestamp};
use crate::evm::permit2::Permitted;
use crate::evm::{Address, HexError, Nonce, keccak256, parse_hex};
use crate::money::Amount;

/// The hash of the type `ChannelConfig`.
const CONFIG_HASH: Word = [
    0x1c, 0x9a, 0x06, 0xce, 0xab, 0x9b, 0x0e, 0xbb, 0xd3, 0x30, 0x1d, 0xc5, 0x6c, 0x91, 0x11, 0xbb, 0x6d, 0x9a, 0xf4,
    0x21, 0x35, 0x6d, 0xc9, 0xcc, 0xb3, 0xb7, 0x08, 0x4c, 0x75, 0x5d, 0xb3, 0x08,
];
/// The hash of the type `Voucher`.
const VOUCHER_HASH: Word = [
    0x1e, 0x1b, 0xd6, 0xff, 0x84, 0xc3, 0xe0, 0xd9, 0x02, 0x9a, 0x29, 0x2b, 0x21, 0x2e, 0x03, 0x9c, 0x0c, 0xa9, 0x7e,
    0xc4, 0x97, 0xc5, 0x51, 0x91, 0xa4, 0xa5, 0x87, 0x42, 0x94, 0x60, 0x9a, 0x69,
];
/// The hash of the type `Refund`.
const REFUND_HASH: Word = [
    0xbe, 0x23, 0xad, 0x08, 0x74, 0x35, 0x07, 0x2c, 0xd6, 0x9b, 0x49, 0xcc, 0x5b, 0x92, 0xde, 0x10, 0xee, 0x61, 0x0f,
    0xce, 0x7a, 0xe0, 0xab, 0x42, 0x83, 0x07, 0x97, 0x2d, 0x76, 0x4b, 0xb2, 0x16,
];
/// The hash of the type `ClaimEntry`.
const CLAIM_ENTRY_HASH: Word = [
    0x30, 0xb9, 0xa0, 0x36, 0x75, 0x28, 0xfc, 0xa1, 0x3c, 0x3e, 0x8e, 0xc6, 0x13, 0x4c, 0x31, 0x13, 0xf1, 0x88, 0x7e,
    0xbe, 0x7a, 0x1a, 0xd6, 0x1d, 0xe0, 0x95, 0x5a, 0xac, 0x28, 0x8b, 0x0c, 0xf5,
];
/// The hash of the type `ClaimBatch`.
const CLAIM_BATCH_HASH: Word = [
    0x42, 0xbd, 0x57, 0xc0, 0x10, 0xb8, 0x70, 0xc2, 0xe9, 0x62, 0x03, 0xc6, 0x63, 0x41, 0xf2, 0x8a, 0x6a, 0x19, 0xb4,
    0xd5, 0x6a, 0x74, 0x53, 0x3a, 0x8e, 0xb5, 0xf7, 0x06, 0xb9, 0xfd, 0x6d, 0x57,
];
/// The hash of the type `PermitWitnessTransferFrom` with the witness of a deposit.
const DEPOSIT_PERMIT_HASH: Word = [
    0x43, 0x6a, 0x25, 0xc0, 0x1a, 0x21, 0xa6, 0xed, 0x02, 0x58, 0x16, 0xc4, 0xc9, 0xea, 0x3d, 0x61, 0x32, 0xaa, 0x87,
    0x9d, 0xd7, 0xef, 0x16, 0xf6, 0x18, 0x8d, 0xd3, 0xb0, 0xae, 0xbc, 0xcc, 0x52,
];
/// The hash of the type `DepositWitness`.
const DEPOSIT_WITNESS_HASH: Word = [
    0xba, 0x00, 0x00, 0x09, 0x7e, 0x86, 0xda, 0xbe, 0x64, 0x17, 0x8a, 0xfe, 0x31, 0x10, 0x92, 0x21, 0x19, 0x33, 0x39,
    0xa6, 0x86, 0x15, 0x98, 0xf2, 0x13, 0x3f, 0xcb, 0xdc, 0x92, 0xc8, 0x44, 0x79,
];

/// The name of a channel: the digest of its configuration, which holds chain and contract. 32 bytes, written as `0x` and 64
/// digits in lower case, and read in any case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId([u8; 32]);

impl ChannelId {
    /// The name of 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ChannelId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ChannelId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChannelId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The configuration of a channel, which never changes. In JSON as the official clients write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelConfig {
    /// The account whose money it is.
    pub payer: Address,
    /// The key that signs vouchers. Zero where a contract wallet does.
    pub payer_authorizer: Address,
    /// The recipient.
    pub receiver: Address,
    /// The key that signs claims and refunds.
    pub receiver_authorizer: Address,
    /// The token's contract.
    pub token: Address,
    /// Seconds between the beginning of a withdrawal and its end, below 2^40.
    pub withdraw_delay: u64,
    /// Chosen by the payer; by it, one payer may have many channels.
    pub salt: [u8; 32],
}

/// The configuration as it stands in JSON.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigWire {
    payer: Address,
    payer_authorizer: Address,
    receiver: Address,
    receiver_authorizer: Address,
    token: Address,
    #[serde(deserialize_with = "crate::json::whole_number")]
    withdraw_delay: u64,
    salt: Nonce,
}

impl Serialize for ChannelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { payer, payer_authorizer, receiver, receiver_authorizer, token, withdraw_delay, salt } = *self;
        let salt = Nonce::from_bytes(salt);
        ConfigWire { payer, payer_authorizer, receiver, receiver_authorizer, token, withdraw_delay, salt }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ChannelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const END: u64 = 1 << 40;
        let wire: ConfigWire = crate::json::open_object(deserializer)?;
        let ConfigWire { payer, payer_authorizer, receiver, receiver_authorizer, token, withdraw_delay, salt } = wire;
        if withdraw_delay >= END {
            return Err(de::Error::custom("withdrawDelay is not below 2^40"));
        }
        let salt = *salt.as_bytes();
        Ok(Self { payer, payer_authorizer, receiver, receiver_authorizer, token, withdraw_delay, salt })
    }
}

impl ChannelConfig {
    /// The channel's name, under the domain of [`domain_separator`].
    pub fn id(&self, domain: &Word) -> ChannelId {
        let struct_hash = eip712::struct_hash(
            &CONFIG_HASH,
            &[
                self.payer.to_word(),
                self.payer_authorizer.to_word(),
                self.receiver.to_word(),
                self.receiver_authorizer.to_word(),
                self.token.to_word(),
                eip712::word_from_u64(self.withdraw_delay),
                self.salt,
            ],
        );
        ChannelId(eip712::digest(domain, &struct_hash))
    }
}

/// The domain separator of everything about channels on a chain but their deposits.
pub fn domain_separator(chain_id: u64) -> Word {
    Domain { name: "x402 Batch Settlement", version: Some("1"), chain_id, verifying_contract: BATCH_SETTLEMENT }
        .separator()
}

/// The digest of a voucher: the receiver may claim up to `max_claimable` in all.
pub fn voucher_digest(domain: &Word, id: ChannelId, max_claimable: u128) -> Word {
    eip712::digest(domain, &eip712::struct_hash(&VOUCHER_HASH, &[id.0, word(max_claimable)]))
}

/// The digest of a refund, which the receiver's authorizer signs. `nonce` is the channel's next one.
pub fn refund_digest(domain: &Word, id: ChannelId, nonce: u128, amount: u128) -> Word {
    eip712::digest(domain, &eip712::struct_hash(&REFUND_HASH, &[id.0, word(nonce), word(amount)]))
}

/// The digest of claims, which the receiver's authorizer signs. Each row is a channel, the voucher's maximum, and what has been claimed once the
/// row is carried out; their order matters.
pub fn claim_batch_digest(domain: &Word, rows: impl Iterator<Item = (ChannelId, u128, u128)>) -> Word {
    let rows = rows.map(|(id, max, total)| eip712::struct_hash(&CLAIM_ENTRY_HASH, &[id.0, word(max), word(total)]));
    let rows: Vec<u8> = rows.flatten().collect();
    eip712::digest(domain, &eip712::struct_hash(&CLAIM_BATCH_HASH, &[keccak256(&rows)]))
}

/// The nonce of a deposit by EIP-3009.
pub fn deposit_nonce(id: ChannelId, salt: &[u8; 32]) -> [u8; 32] {
    keccak256(&[id.0, *salt].concat())
}

/// The digest of a deposit by EIP-3009, under the token's domain.
pub fn eip3009_deposit_digest(
    token_domain: &Word,
    payer: Address,
    amount: u128,
    (valid_after, valid_before): (Timestamp, Timestamp),
    nonce: [u8; 32],
) -> Word {
    let value = Amount::from_u128(amount);
    let nonce = Nonce::from_bytes(nonce);
    Authorization { from: payer, to: ERC3009_COLLECTOR, value, valid_after, valid_before, nonce }
        .receive_digest(token_domain)
}

/// The digest of a deposit by Permit2, under Permit2's domain.
pub fn permit2_deposit_digest(
    permit2_domain: &Word,
    permitted: Permitted,
    spender: Address,
    nonce: Amount,
    deadline: Timestamp,
    channel: ChannelId,
) -> Word {
    let witness = eip712::struct_hash(&DEPOSIT_WITNESS_HASH, &[channel.0]);
    let struct_hash = eip712::struct_hash(
        &DEPOSIT_PERMIT_HASH,
        &[permitted.struct_hash(), spender.to_word(), nonce.to_be_bytes(), deadline.to_be_bytes(), witness],
    );
    eip712::digest(permit2_domain, &struct_hash)
}

fn word(number: u128) -> Word {
    Amount::from_u128(number).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_hash() {
        let entry = "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)";
        let witness = "DepositWitness(bytes32 channelId)";
        for (hash, text) in [
            (
                CONFIG_HASH,
                "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)".to_owned(),
            ),
            (VOUCHER_HASH, "Voucher(bytes32 channelId,uint128 maxClaimableAmount)".to_owned()),
            (REFUND_HASH, "Refund(bytes32 channelId,uint256 nonce,uint128 amount)".to_owned()),
            (CLAIM_ENTRY_HASH, entry.to_owned()),
            (CLAIM_BATCH_HASH, format!("ClaimBatch(ClaimEntry[] claims){entry}")),
            (DEPOSIT_WITNESS_HASH, witness.to_owned()),
            (
                DEPOSIT_PERMIT_HASH,
                format!("PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,DepositWitness witness){witness}TokenPermissions(address token,uint256 amount)"),
            ),
        ] {
            assert_eq!(hash, keccak256(text.as_bytes()), "{text}");
        }
    }
}
