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

/// What stands for every reason that is not a known one.
const OTHER: &str = "other";

/// The reasons that are counted by name, in the order of their letters: those of the official packages (`@x402/core`,
/// `@x402/evm`, `@x402/svm`, `@x402/extensions`, and `x402` of version 1), and the filter's own. A stat is never forgotten,
/// and facilitators may give any reason, so any other counts as [`OTHER`].
const KNOWN: [&str; 253] = [
    "after_verify_aborted",
    "asset_not_deployed_contract",
    "duplicate_settlement",
    "eip2612_asset_mismatch",
    "eip2612_deadline_expired",
    "eip2612_from_mismatch",
    "eip2612_spender_not_permit2",
    "eip6492_factory_not_allowed",
    "erc20_approval_asset_mismatch",
    "erc20_approval_broadcast_failed",
    "erc20_approval_from_mismatch",
    "erc20_approval_spender_not_permit2",
    "erc20_approval_tx_failed",
    "erc20_approval_tx_invalid_calldata",
    "erc20_approval_tx_invalid_signature",
    "erc20_approval_tx_parse_failed",
    "erc20_approval_tx_signer_mismatch",
    "erc20_approval_tx_wrong_selector",
    "erc20_approval_tx_wrong_spender",
    "erc20_approval_tx_wrong_target",
    "extension_echo_mismatch",
    "fee_payer_not_managed_by_facilitator",
    "insufficient_funds",
    "invalid_batch_settlement_evm_authorizer_address_mismatch",
    "invalid_batch_settlement_evm_authorizer_not_configured",
    "invalid_batch_settlement_evm_channel_busy",
    "invalid_batch_settlement_evm_channel_id_invalid",
    "invalid_batch_settlement_evm_channel_id_mismatch",
    "invalid_batch_settlement_evm_channel_not_found",
    "invalid_batch_settlement_evm_charge_exceeds_signed_cumulative",
    "invalid_batch_settlement_evm_claim_simulation_failed",
    "invalid_batch_settlement_evm_claim_transaction_failed",
    "invalid_batch_settlement_evm_cumulative_amount_mismatch",
    "invalid_batch_settlement_evm_cumulative_below_claimed",
    "invalid_batch_settlement_evm_cumulative_exceeds_balance",
    "invalid_batch_settlement_evm_deposit_below_min_deposit",
    "invalid_batch_settlement_evm_deposit_simulation_failed",
    "invalid_batch_settlement_evm_deposit_transaction_failed",
    "invalid_batch_settlement_evm_eip2612_amount_mismatch",
    "invalid_batch_settlement_evm_eip2612_asset_mismatch",
    "invalid_batch_settlement_evm_eip2612_deadline_expired",
    "invalid_batch_settlement_evm_eip2612_owner_mismatch",
    "invalid_batch_settlement_evm_eip2612_spender_mismatch",
    "invalid_batch_settlement_evm_eip6492_factory_not_allowed",
    "invalid_batch_settlement_evm_erc20_approval_unavailable",
    "invalid_batch_settlement_evm_erc3009_authorization_required",
    "invalid_batch_settlement_evm_insufficient_balance",
    "invalid_batch_settlement_evm_missing_channel",
    "invalid_batch_settlement_evm_missing_eip712_domain",
    "invalid_batch_settlement_evm_network_mismatch",
    "invalid_batch_settlement_evm_nothing_to_settle",
    "invalid_batch_settlement_evm_payload_authorization_valid_after",
    "invalid_batch_settlement_evm_payload_authorization_valid_before",
    "invalid_batch_settlement_evm_payload_type",
    "invalid_batch_settlement_evm_permit2_allowance_required",
    "invalid_batch_settlement_evm_permit2_amount_mismatch",
    "invalid_batch_settlement_evm_permit2_authorization_required",
    "invalid_batch_settlement_evm_permit2_deadline_expired",
    "invalid_batch_settlement_evm_permit2_invalid_signature",
    "invalid_batch_settlement_evm_permit2_invalid_spender",
    "invalid_batch_settlement_evm_receive_authorization_signature",
    "invalid_batch_settlement_evm_receiver_authorizer_mismatch",
    "invalid_batch_settlement_evm_receiver_mismatch",
    "invalid_batch_settlement_evm_refund_amount_invalid",
    "invalid_batch_settlement_evm_refund_no_balance",
    "invalid_batch_settlement_evm_refund_payload",
    "invalid_batch_settlement_evm_refund_simulation_failed",
    "invalid_batch_settlement_evm_refund_transaction_failed",
    "invalid_batch_settlement_evm_rpc_read_failed",
    "invalid_batch_settlement_evm_scheme",
    "invalid_batch_settlement_evm_settle_simulation_failed",
    "invalid_batch_settlement_evm_settle_transaction_failed",
    "invalid_batch_settlement_evm_smart_wallet_deployment_failed",
    "invalid_batch_settlement_evm_token_mismatch",
    "invalid_batch_settlement_evm_verification_state_unavailable",
    "invalid_batch_settlement_evm_voucher_signature",
    "invalid_batch_settlement_evm_withdraw_delay_mismatch",
    "invalid_batch_settlement_evm_withdraw_delay_out_of_range",
    "invalid_eip2612_extension_format",
    "invalid_erc20_approval_extension_format",
    "invalid_exact_evm_authorization_value",
    "invalid_exact_evm_eip3009_not_supported",
    "invalid_exact_evm_failed_to_parse_signature",
    "invalid_exact_evm_insufficient_balance",
    "invalid_exact_evm_missing_eip712_domain",
    "invalid_exact_evm_network_mismatch",
    "invalid_exact_evm_nonce_already_used",
    "invalid_exact_evm_payload_authorization_valid_after",
    "invalid_exact_evm_payload_authorization_valid_before",
    "invalid_exact_evm_payload_authorization_value",
    "invalid_exact_evm_payload_authorization_value_mismatch",
    "invalid_exact_evm_payload_recipient_mismatch",
    "invalid_exact_evm_payload_signature",
    "invalid_exact_evm_payload_undeployed_smart_wallet",
    "invalid_exact_evm_recipient_mismatch",
    "invalid_exact_evm_scheme",
    "invalid_exact_evm_signature",
    "invalid_exact_evm_token_name_mismatch",
    "invalid_exact_evm_token_version_mismatch",
    "invalid_exact_evm_transaction_failed",
    "invalid_exact_evm_transaction_simulation_failed",
    "invalid_exact_evm_transfer_event_mismatch",
    "invalid_exact_svm_fee_payer_mismatch",
    "invalid_exact_svm_fee_payer_not_managed_by_facilitator",
    "invalid_exact_svm_network_mismatch",
    "invalid_exact_svm_payload_amount_mismatch",
    "invalid_exact_svm_payload_excessive_signers",
    "invalid_exact_svm_payload_memo_count",
    "invalid_exact_svm_payload_memo_mismatch",
    "invalid_exact_svm_payload_mint_mismatch",
    "invalid_exact_svm_payload_missing_fee_payer",
    "invalid_exact_svm_payload_no_transfer_instruction",
    "invalid_exact_svm_payload_recipient_mismatch",
    "invalid_exact_svm_payload_signature_invalid",
    "invalid_exact_svm_payload_transaction",
    "invalid_exact_svm_payload_transaction_amount_mismatch",
    "invalid_exact_svm_payload_transaction_could_not_be_decoded",
    "invalid_exact_svm_payload_transaction_create_ata_instruction",
    "invalid_exact_svm_payload_transaction_create_ata_instruction_incorrect_asset",
    "invalid_exact_svm_payload_transaction_create_ata_instruction_incorrect_payee",
    "invalid_exact_svm_payload_transaction_fee_payer_included_in_instruction_accounts",
    "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds",
    "invalid_exact_svm_payload_transaction_instruction_not_spl_token_transfer_checked",
    "invalid_exact_svm_payload_transaction_instruction_not_token_2022_transfer_checked",
    "invalid_exact_svm_payload_transaction_instructions",
    "invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction",
    "invalid_exact_svm_payload_transaction_instructions_compute_limit_instruction_too_high",
    "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction",
    "invalid_exact_svm_payload_transaction_instructions_compute_price_instruction_too_high",
    "invalid_exact_svm_payload_transaction_instructions_length",
    "invalid_exact_svm_payload_transaction_not_a_transfer_instruction",
    "invalid_exact_svm_payload_transaction_receiver_ata_not_found",
    "invalid_exact_svm_payload_transaction_sender_ata_not_found",
    "invalid_exact_svm_payload_transaction_simulation_failed",
    "invalid_exact_svm_payload_transaction_transfer_to_incorrect_ata",
    "invalid_exact_svm_payload_unknown_fifth_instruction",
    "invalid_exact_svm_payload_unknown_fourth_instruction",
    "invalid_exact_svm_payload_unknown_optional_instruction",
    "invalid_exact_svm_payload_unknown_seventh_instruction",
    "invalid_exact_svm_payload_unknown_sixth_instruction",
    "invalid_exact_svm_smart_wallet_alt_resolution_failed",
    "invalid_exact_svm_smart_wallet_alt_resolution_not_available",
    "invalid_exact_svm_smart_wallet_cannot_derive_destination_ata",
    "invalid_exact_svm_smart_wallet_compute_budget_violation",
    "invalid_exact_svm_smart_wallet_compute_units_too_high",
    "invalid_exact_svm_smart_wallet_fee_payer_not_isolated",
    "invalid_exact_svm_smart_wallet_malformed_compute_budget",
    "invalid_exact_svm_smart_wallet_malformed_compute_limit",
    "invalid_exact_svm_smart_wallet_malformed_compute_price",
    "invalid_exact_svm_smart_wallet_multiple_matching_transfers",
    "invalid_exact_svm_smart_wallet_no_transfer_in_simulation",
    "invalid_exact_svm_smart_wallet_priority_fee_too_high",
    "invalid_exact_svm_smart_wallet_program_not_allowed",
    "invalid_exact_svm_smart_wallet_simulation_failed",
    "invalid_exact_svm_smart_wallet_transfer_mismatch",
    "invalid_exact_svm_smart_wallet_unsupported_compute_budget_instruction",
    "invalid_exact_svm_transaction_failed",
    "invalid_exact_svm_transaction_simulation_failed",
    "invalid_exact_svm_unsupported_scheme",
    "invalid_exact_svm_verification_failed",
    "invalid_network",
    "invalid_payload",
    "invalid_payment",
    "invalid_payment_requirements",
    "invalid_permit2_recipient_mismatch",
    "invalid_permit2_signature",
    "invalid_permit2_spender",
    "invalid_scheme",
    "invalid_siwx_domain_mismatch",
    "invalid_siwx_expiration_time",
    "invalid_siwx_expired",
    "invalid_siwx_issued_at",
    "invalid_siwx_issued_at_in_future",
    "invalid_siwx_issued_at_too_old",
    "invalid_siwx_malformed_signature",
    "invalid_siwx_nonce",
    "invalid_siwx_not_before",
    "invalid_siwx_not_yet_valid",
    "invalid_siwx_signature",
    "invalid_siwx_unsupported_chain",
    "invalid_siwx_uri_mismatch",
    "invalid_siwx_verifier_error",
    "invalid_siwx_version",
    "invalid_transaction_state",
    "invalid_upto_evm_network_mismatch",
    "invalid_upto_evm_payload_settlement_exceeds_amount",
    "invalid_upto_evm_scheme",
    "invalid_upto_evm_transaction_failed",
    "invalid_upto_svm_authorizer_address_mismatch",
    "invalid_upto_svm_authorizer_not_configured",
    "invalid_upto_svm_channel_already_open",
    "invalid_upto_svm_channel_broadcast",
    "invalid_upto_svm_channel_state",
    "invalid_upto_svm_delegated_auth_store",
    "invalid_upto_svm_delegated_settle_unauthenticated",
    "invalid_upto_svm_payload_amount",
    "invalid_upto_svm_payload_amount_mismatch",
    "invalid_upto_svm_payload_channel_id",
    "invalid_upto_svm_payload_channel_lifetime_exceeded",
    "invalid_upto_svm_payload_channel_seed",
    "invalid_upto_svm_payload_deposit_not_ceiling",
    "invalid_upto_svm_payload_expired",
    "invalid_upto_svm_payload_expires_at_mismatch",
    "invalid_upto_svm_payload_missing_voucher",
    "invalid_upto_svm_payload_nonce",
    "invalid_upto_svm_payload_not_yet_active",
    "invalid_upto_svm_payload_open_transaction",
    "invalid_upto_svm_payload_payer_mismatch",
    "invalid_upto_svm_payload_receiver_authorizer",
    "invalid_upto_svm_payload_settlement_exceeds_amount",
    "invalid_upto_svm_payload_type",
    "invalid_upto_svm_payload_unexpected_voucher",
    "invalid_upto_svm_payload_voucher_signature",
    "invalid_upto_svm_payment_requirements",
    "invalid_upto_svm_settlement_simulation",
    "invalid_x402_version",
    "missing_facilitator",
    "missing_scheme",
    "no_matching_payment_requirements",
    "payer_not_allowed",
    "payment_identifier_conflict",
    "payment_required",
    "permit2_2612_amount_mismatch",
    "permit2_allowance_required",
    "permit2_amount_mismatch",
    "permit2_deadline_expired",
    "permit2_insufficient_balance",
    "permit2_invalid_amount",
    "permit2_invalid_destination",
    "permit2_invalid_nonce",
    "permit2_invalid_owner",
    "permit2_not_yet_valid",
    "permit2_payment_too_early",
    "permit2_proxy_not_deployed",
    "permit2_simulation_failed",
    "permit2_token_mismatch",
    "settle_exact_svm_block_height_exceeded",
    "settle_exact_svm_transaction_confirmation_timed_out",
    "settle_failed",
    "settlement_pending",
    "smart_wallet_deployment_failed",
    "the_facilitator_gave_no_reason",
    "transaction_failed",
    "transaction_simulation_failed",
    "unexpected_settle_error",
    "unexpected_verify_error",
    "unsupported_asset_transfer_method",
    "unsupported_payload_type",
    "unsupported_payment_flow",
    "unsupported_scheme",
    "upto_amount_exceeds_permitted",
    "upto_facilitator_mismatch",
    "upto_unauthorized_facilitator",
];

/// A reason as the label of a stat: its name where that is a known one, however it is spelt and whatever follows behind a
/// colon, and else `other`.
pub fn label(reason: &str) -> &'static str {
    /// No known one is as long.
    const LONGEST: usize = 128;
    let name = reason.split(':').next().unwrap_or_default();
    if name.len() > LONGEST {
        return OTHER;
    }
    let name = name.to_ascii_lowercase().replace(' ', "_");
    KNOWN.binary_search(&name.as_str()).ok().and_then(|index| KNOWN.get(index)).copied().unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm;

    #[test]
    fn the_known_reasons_stand_in_their_order_and_are_labels() {
        for pair in KNOWN.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for name in KNOWN {
            assert_eq!(label(name), name);
            assert!(
                name.len() <= 128 && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')),
                "{name}"
            );
        }
    }

    #[test]
    fn reasons_that_the_filter_gives_are_counted_by_name() {
        for reason in [
            NO_MATCHING_REQUIREMENTS,
            RECIPIENT_MISMATCH,
            NONCE_USED,
            PERMIT2_ALLOWANCE_REQUIRED,
            UPTO_FACILITATOR,
            svm::reason::UNDECODABLE,
            svm::reason::MEMO_COUNT,
            "payer_not_allowed",
            "payment_identifier_conflict",
            "the facilitator gave no reason",
            "invalid_siwx_expired",
        ] {
            assert_ne!(label(reason), OTHER, "{reason}");
        }
        assert_eq!(label("No matching payment requirements"), "no_matching_payment_requirements");
        assert_eq!(label("unexpected_settle_error: the node said no"), "unexpected_settle_error");
    }

    #[test]
    fn what_a_facilitator_makes_up_is_no_label() {
        for number in 0..1000 {
            assert_eq!(label(&format!("reason_{number}")), OTHER);
        }
        for reason in ["", ":", "other", "PAYMENT-SIGNATURE is not base64", "a.b", &"x".repeat(100_000)] {
            assert_eq!(label(reason), OTHER, "{reason}");
        }
    }
}
