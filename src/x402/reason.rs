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
/// Permit2: the spender is not x402's proxy for the scheme.
pub const PERMIT2_SPENDER: &str = "invalid_permit2_spender";
/// Permit2: the witness's `to` is not the entry's `payTo`.
pub const PERMIT2_RECIPIENT: &str = "invalid_permit2_recipient_mismatch";
/// Permit2: the deadline is past or too close.
pub const PERMIT2_DEADLINE: &str = "permit2_deadline_expired";
/// Permit2: the witness's `validAfter` is still to come.
pub const PERMIT2_NOT_YET_VALID: &str = "permit2_not_yet_valid";
/// Permit2: not the entry's `amount`.
pub const PERMIT2_AMOUNT: &str = "permit2_amount_mismatch";
/// Permit2: not the entry's `asset`.
pub const PERMIT2_TOKEN: &str = "permit2_token_mismatch";
/// Permit2: the signature is none, or not the payer's.
pub const PERMIT2_SIGNATURE: &str = "invalid_permit2_signature";
/// `upto`: the witness names another facilitator.
pub const UPTO_FACILITATOR: &str = "upto_facilitator_mismatch";
/// The payer has yet to approve Permit2.
pub const PERMIT2_ALLOWANCE_REQUIRED: &str = "permit2_allowance_required";
/// The transaction was sent and is not yet in a block: ask again.
pub const SETTLEMENT_PENDING: &str = "settlement_pending";
