//! The official packages' error strings (`@x402/core`, `@x402/evm`), as clients know them.

/// No payment came with the request.
pub const PAYMENT_REQUIRED: &str = "Payment required";
/// What v1's servers say when no payment came.
pub const X_PAYMENT_REQUIRED: &str = "X-PAYMENT header is required";
/// The payment's `accepted` is none of the entries on offer.
pub const NO_MATCHING_REQUIREMENTS: &str = "No matching payment requirements";
/// `to` is not the entry's `payTo`.
pub const RECIPIENT_MISMATCH: &str = "invalid_exact_evm_recipient_mismatch";
/// `value` is not the entry's `amount`.
pub const VALUE_MISMATCH: &str = "invalid_exact_evm_payload_authorization_value_mismatch";
/// `validBefore` is past or too close.
pub const VALID_BEFORE: &str = "invalid_exact_evm_payload_authorization_valid_before";
/// `validAfter` is still to come.
pub const VALID_AFTER: &str = "invalid_exact_evm_payload_authorization_valid_after";
/// The signature is none, or not the payer's.
pub const SIGNATURE: &str = "invalid_exact_evm_signature";
/// The authorization's nonce is spent.
pub const NONCE_USED: &str = "invalid_exact_evm_nonce_already_used";
/// The payer has yet to approve Permit2.
pub const PERMIT2_ALLOWANCE_REQUIRED: &str = "permit2_allowance_required";
/// The transaction was sent and is not yet in a block: ask again.
pub const SETTLEMENT_PENDING: &str = "settlement_pending";
