//! Payment channels of the scheme `batch-settlement`: the payer puts money into a channel once, and signs a growing total
//! with each request. Pure: what is signed and sent, the rules of what is charged, and what is to be claimed.
//!
//! Source: `specs/schemes/batch-settlement` of the x402 repository, and recordings of the official packages, which decide where the two
//! differ. Amounts are atomic units of the token in 128 bits, as the contract counts them.

pub mod check;
pub mod claims;
pub mod keeper;
pub mod message;
pub mod payload;
pub mod record;

pub use check::{Judgement, Terms, check};
pub use claims::{Due, Policy, Signer, due, question, read_state};
pub use keeper::{Claimable, Consequences, Group, Job, Keeper, Refundable, Said, Totals};
pub use message::{ChannelConfig, ChannelId, domain_separator, voucher_digest};
pub use payload::{Deposit, Kind, Payload};
pub use record::{Answer, OnChain, Operation, Purpose, Record, Reserve, Row, Standing, UNKNOWN_REQUEST};

use crate::evm::Address;

/// True if this build has channels. Where it has not, a configuration that wants them is refused, and nothing of this is reached:
/// each way into it asks this constant first, so that the compiler leaves out what is behind.
pub const IS_BUILT_IN: bool = cfg!(feature = "channels");

/// The scheme's name on the wire.
pub const BATCH_SETTLEMENT_SCHEME: &str = "batch-settlement";

/// The contract that keeps the channels, at the same address on every chain.
pub const BATCH_SETTLEMENT: Address = Address::from_bytes([
    0x40, 0x20, 0x07, 0x4e, 0x9d, 0xf2, 0xce, 0x1d, 0xee, 0x5a, 0x9c, 0x1b, 0x5c, 0x3f, 0x54, 0x1d, 0x02, 0xa1, 0x00,
    0x03,
]);

/// The contract that takes deposits by the token's own authorization (EIP-3009).
pub const ERC3009_COLLECTOR: Address = Address::from_bytes([
    0x40, 0x20, 0x80, 0x60, 0x89, 0x47, 0x0a, 0x89, 0x82, 0x6c, 0xb9, 0xfb, 0x1f, 0x40, 0x59, 0x15, 0x0b, 0x55, 0x00,
    0x04,
]);

/// The contract that takes deposits by Permit2.
pub const PERMIT2_COLLECTOR: Address = Address::from_bytes([
    0x40, 0x20, 0x42, 0x5f, 0xaf, 0x3b, 0x74, 0x6c, 0x08, 0x2c, 0x2f, 0x94, 0x2b, 0x4e, 0x51, 0x59, 0x88, 0x7b, 0x00,
    0x05,
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_are_where_they_are_known_to_be() {
        assert_eq!(BATCH_SETTLEMENT.to_string(), "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
        assert_eq!(ERC3009_COLLECTOR.to_string(), "0x4020806089470a89826cB9fB1f4059150b550004");
        assert_eq!(PERMIT2_COLLECTOR.to_string(), "0x4020425FAf3B746C082C2f942b4E5159887B0005");
    }
}
