//! What the filter needs of the Solana world: keys, signatures, transactions, and the scheme `exact` as far as it can
//! be checked without a node.
//!
//! [`check`] is the whole of it: the transaction of a payment and the [`Terms`] go in, and what comes out is who pays
//! and by what the payment is known, or why it is refused. Like the rest of the core it is never weaker than the chain
//! in what it looks at, and never stricter than the official verifier (`@x402/svm`) on what honest clients send.
//! Balances, the age of the blockhash and whatever else only a node knows are the facilitator's to check.
//!
//! Source: `specs/schemes/exact/scheme_exact_svm.md` of `coinbase/x402`; where the official package differs, the package.

mod exact;
mod key;
mod message;
pub mod reason;

pub use exact::{Checked, Memo, MemoError, Refusal, Terms, check};
pub use key::{KeyError, Pubkey, Signature, TokenProgram, associated_token_account, verify_message};
pub use message::{MessageHash, Transaction};

/// Seconds after which a transaction that could not be executed when it was first seen never will be: its blockhash
/// counts for 150 blocks, 60 to 90 seconds. The figure of the specification ("Duplicate Settlement Mitigation"), which
/// is twice that; it holds as long as the chain makes blocks at its usual pace.
pub const LIFETIME_SECONDS: u64 = 120;
