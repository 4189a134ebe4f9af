//! The error strings of the official package `@x402/svm`, as clients know them.

/// The transaction cannot be read.
pub const UNDECODABLE: &str = "invalid_exact_svm_payload_transaction_could_not_be_decoded";
/// Another account than the entry's `extra.feePayer` pays the fee.
pub const FEE_PAYER_MISMATCH: &str = "invalid_exact_svm_fee_payer_mismatch";
/// A signature is missing, or not its signer's.
pub const SIGNATURE: &str = "invalid_exact_svm_payload_signature_invalid";
/// Too few instructions or too many.
pub const INSTRUCTION_COUNT: &str = "invalid_exact_svm_payload_transaction_instructions_length";
/// The first instruction is not *SetComputeUnitLimit*.
pub const COMPUTE_LIMIT: &str = "invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction";
/// The second instruction is not *SetComputeUnitPrice*.
pub const COMPUTE_PRICE: &str = "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction";
/// The price of a compute unit exceeds what facilitators pay.
pub const COMPUTE_PRICE_TOO_HIGH: &str =
    "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction_too_high";
/// The third instruction is not *TransferChecked* of a token program.
pub const NO_TRANSFER: &str = "invalid_exact_svm_payload_no_transfer_instruction";
/// The money would be the facilitator's own.
pub const FEE_PAYER_TRANSFERS: &str = "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds";
/// The fee payer is among the accounts of an instruction (the name is that of the package `x402`, version 1).
pub const FEE_PAYER_TOUCHED: &str = "invalid_exact_svm_payload_transaction_fee_payer_included_in_instruction_accounts";
/// Another token than the entry's `asset`.
pub const MINT_MISMATCH: &str = "invalid_exact_svm_payload_mint_mismatch";
/// The money would go elsewhere than to the entry's `payTo`.
pub const RECIPIENT_MISMATCH: &str = "invalid_exact_svm_payload_recipient_mismatch";
/// Not the entry's `amount`.
pub const AMOUNT_MISMATCH: &str = "invalid_exact_svm_payload_amount_mismatch";
/// The fourth instruction is of a program that has no business here.
pub const UNKNOWN_FOURTH: &str = "invalid_exact_svm_payload_unknown_fourth_instruction";
/// The fifth instruction is.
pub const UNKNOWN_FIFTH: &str = "invalid_exact_svm_payload_unknown_fifth_instruction";
/// The sixth instruction is.
pub const UNKNOWN_SIXTH: &str = "invalid_exact_svm_payload_unknown_sixth_instruction";
/// The seventh instruction is.
pub const UNKNOWN_SEVENTH: &str = "invalid_exact_svm_payload_unknown_seventh_instruction";
/// Not exactly one memo, where the entry names one in `extra.memo`.
pub const MEMO_COUNT: &str = "invalid_exact_svm_payload_memo_count";
/// Another memo than the entry's `extra.memo`.
pub const MEMO_MISMATCH: &str = "invalid_exact_svm_payload_memo_mismatch";
/// The transaction would fail.
pub const SIMULATION_FAILED: &str = "invalid_exact_svm_transaction_simulation_failed";
