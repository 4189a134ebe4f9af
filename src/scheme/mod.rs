//! Schemes: does this payment meet this requirement?
//!
//! What is checked here is all that can be known without the chain. It is never weaker than the chain, so that
//! nothing which passes here fails there for a reason that stood in the payment; and never stricter than the
//! official verifier on honest payments, so that no client is turned away by the filter alone.

pub mod exact;

use crate::x402::reason;

/// What the local check found out about a payment that it did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// The payer's own key signed exactly what was asked.
    Valid,
    /// All but the signature holds, and the signature is one that only the chain can check (ERC-1271, ERC-6492).
    FacilitatorDecides,
}

/// Why a payment does not meet a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The money would go to somebody else.
    #[error("{}", reason::RECIPIENT_MISMATCH)]
    Recipient,
    /// Not exactly the amount that was asked.
    #[error("{}", reason::VALUE_MISMATCH)]
    Value,
    /// Valid for less time than a settlement needs.
    #[error("{}", reason::VALID_BEFORE)]
    Expired,
    /// Not valid yet.
    #[error("{}", reason::VALID_AFTER)]
    NotYetValid,
    /// Not the payer's signature, or not in the form that tokens accept.
    #[error("{}", reason::SIGNATURE)]
    Signature,
}
