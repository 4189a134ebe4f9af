//! The official packages' error strings (`@x402/core`, `@x402/evm`), as clients know them.

/// No payment came with the request.
pub const PAYMENT_REQUIRED: &str = "Payment required";
/// No payment came with the request, in the words of v1's servers.
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
/// Channels: the payer withdraws, so that nothing more can be bought out of the channel. The filter's own; official servers go
/// on serving.
pub const CHANNEL_WITHDRAWING: &str = "channel_withdrawing";
/// The transaction was sent and is not yet in a block: ask again.
pub const SETTLEMENT_PENDING: &str = "settlement_pending";
/// The payer owes for a response whose payment was refused. The filter's own.
pub const PAYMENT_OWED: &str = "payment_owed";
/// A channel's configuration can be none: it has no payer.
pub const CHANNEL_ID_INVALID: &str = "invalid_batch_settlement_evm_channel_id_invalid";
/// The channel's name is not the digest of its configuration.
pub const CHANNEL_ID_MISMATCH: &str = "invalid_batch_settlement_evm_channel_id_mismatch";
/// The channel's receiver is not the entry's `payTo`.
pub const RECEIVER_MISMATCH: &str = "invalid_batch_settlement_evm_receiver_mismatch";
/// The channel's `receiverAuthorizer` is not the entry's.
pub const RECEIVER_AUTHORIZER_MISMATCH: &str = "invalid_batch_settlement_evm_receiver_authorizer_mismatch";
/// The channel's token is not the entry's `asset`.
pub const CHANNEL_TOKEN_MISMATCH: &str = "invalid_batch_settlement_evm_token_mismatch";
/// The channel's `withdrawDelay` is not the entry's.
pub const WITHDRAW_DELAY_MISMATCH: &str = "invalid_batch_settlement_evm_withdraw_delay_mismatch";
/// A channel's voucher: the signature is none, or not that of the configuration's `payerAuthorizer`.
pub const VOUCHER_SIGNATURE: &str = "invalid_batch_settlement_evm_voucher_signature";
/// A deposit is less than the entry's `minDeposit`.
pub const DEPOSIT_BELOW_MIN_DEPOSIT: &str = "invalid_batch_settlement_evm_deposit_below_min_deposit";
/// A deposit is by another method than the entry's, which is EIP-3009.
pub const ERC3009_AUTHORIZATION_REQUIRED: &str = "invalid_batch_settlement_evm_erc3009_authorization_required";
/// A deposit's `validBefore` is past or too close.
pub const DEPOSIT_VALID_BEFORE: &str = "invalid_batch_settlement_evm_payload_authorization_valid_before";
/// A deposit's `validAfter` is still to come.
pub const DEPOSIT_VALID_AFTER: &str = "invalid_batch_settlement_evm_payload_authorization_valid_after";
/// A deposit's signature is none, or not the payer's.
pub const DEPOSIT_SIGNATURE: &str = "invalid_batch_settlement_evm_receive_authorization_signature";
/// A deposit is by another method than the entry's, which is Permit2.
pub const PERMIT2_AUTHORIZATION_REQUIRED: &str = "invalid_batch_settlement_evm_permit2_authorization_required";
/// A deposit by Permit2: the spender is not the collector.
pub const DEPOSIT_PERMIT2_SPENDER: &str = "invalid_batch_settlement_evm_permit2_invalid_spender";
/// A deposit by Permit2: not the deposit's amount.
pub const DEPOSIT_PERMIT2_AMOUNT: &str = "invalid_batch_settlement_evm_permit2_amount_mismatch";
/// A deposit by Permit2: the deadline is past or too close.
pub const DEPOSIT_PERMIT2_DEADLINE: &str = "invalid_batch_settlement_evm_permit2_deadline_expired";
/// A deposit by Permit2: the signature is none, or not the payer's.
pub const DEPOSIT_PERMIT2_SIGNATURE: &str = "invalid_batch_settlement_evm_permit2_invalid_signature";
/// A voucher is not for the next total: the terms say how the channel stands.
pub const CUMULATIVE_AMOUNT_MISMATCH: &str = "invalid_batch_settlement_evm_cumulative_amount_mismatch";
/// A voucher is for more than the channel holds.
pub const CUMULATIVE_EXCEEDS_BALANCE: &str = "invalid_batch_settlement_evm_cumulative_exceeds_balance";
/// A voucher is for no more than what is claimed.
pub const CUMULATIVE_BELOW_CLAIMED: &str = "invalid_batch_settlement_evm_cumulative_below_claimed";
/// Another request holds the channel.
pub const CHANNEL_BUSY: &str = "invalid_batch_settlement_evm_channel_busy";
/// There is nothing to give back.
pub const REFUND_NO_BALANCE: &str = "invalid_batch_settlement_evm_refund_no_balance";
/// The amount to be given back is none.
pub const REFUND_AMOUNT_INVALID: &str = "invalid_batch_settlement_evm_refund_amount_invalid";
/// The channel's record is gone.
pub const MISSING_CHANNEL: &str = "invalid_batch_settlement_evm_missing_channel";
/// A charge is above what the payer has signed for.
pub const CHARGE_EXCEEDS_SIGNED: &str = "invalid_batch_settlement_evm_charge_exceeds_signed_cumulative";

/// A bundle is sold to wallets that can sign in; a contract's cannot.
pub const BUNDLE_NEEDS_SIGN_IN: &str = "bundle_needs_sign_in";
/// A response is there, and nothing is left of the bundle that was to pay for it.
pub const BUNDLE_USED_UP: &str = "bundle_used_up";

/// The label of every reason that is not a known one.
const OTHER: &str = "other";

/// The reasons that are counted by name, in groups of a common beginning: those of the official packages (`@x402/core`,
/// `@x402/evm`, `@x402/svm`, `@x402/extensions`, and `x402` of version 1), and the filter's own. A stat is never forgotten,
/// and facilitators may give any reason, so any other counts as [`OTHER`]. Texts, and not lists of texts: those take twice
/// the room in the module.
const KNOWN: [(&str, &str); 16] = [
    (
        "invalid_batch_settlement_evm_",
        "authorizer_address_mismatch authorizer_not_configured channel_busy channel_id_invalid \
         channel_id_mismatch channel_not_found charge_exceeds_signed_cumulative claim_simulation_failed \
         claim_transaction_failed cumulative_amount_mismatch cumulative_below_claimed \
         cumulative_exceeds_balance deposit_below_min_deposit deposit_simulation_failed \
         deposit_transaction_failed eip2612_amount_mismatch eip2612_asset_mismatch \
         eip2612_deadline_expired eip2612_owner_mismatch eip2612_spender_mismatch \
         eip6492_factory_not_allowed erc20_approval_unavailable erc3009_authorization_required \
         insufficient_balance missing_channel missing_eip712_domain network_mismatch nothing_to_settle \
         payload_authorization_valid_after payload_authorization_valid_before payload_type \
         permit2_allowance_required permit2_amount_mismatch permit2_authorization_required \
         permit2_deadline_expired permit2_invalid_signature permit2_invalid_spender \
         receive_authorization_signature receiver_authorizer_mismatch receiver_mismatch \
         refund_amount_invalid refund_no_balance refund_payload refund_simulation_failed \
         refund_transaction_failed rpc_read_failed scheme settle_simulation_failed \
         settle_transaction_failed smart_wallet_deployment_failed token_mismatch \
         verification_state_unavailable voucher_signature withdraw_delay_mismatch \
         withdraw_delay_out_of_range",
    ),
    (
        "invalid_exact_evm_payload_",
        "authorization_valid_after authorization_valid_before authorization_value \
         authorization_value_mismatch recipient_mismatch signature undeployed_smart_wallet",
    ),
    (
        "invalid_exact_evm_",
        "authorization_value eip3009_not_supported failed_to_parse_signature insufficient_balance \
         missing_eip712_domain network_mismatch nonce_already_used recipient_mismatch scheme signature \
         token_name_mismatch token_version_mismatch transaction_failed transaction_simulation_failed \
         transfer_event_mismatch",
    ),
    (
        "invalid_exact_svm_payload_transaction_instructions_compute_",
        "limit_instruction limit_instruction_too_high price_instruction price_instruction_too_high",
    ),
    (
        "invalid_exact_svm_payload_transaction_",
        "amount_mismatch could_not_be_decoded create_ata_instruction \
         create_ata_instruction_incorrect_asset create_ata_instruction_incorrect_payee \
         fee_payer_included_in_instruction_accounts fee_payer_transferring_funds \
         instruction_not_spl_token_transfer_checked instruction_not_token_2022_transfer_checked \
         instructions instructions_length not_a_transfer_instruction receiver_ata_not_found \
         sender_ata_not_found simulation_failed transfer_to_incorrect_ata",
    ),
    (
        "invalid_exact_svm_payload_",
        "amount_mismatch excessive_signers memo_count memo_mismatch mint_mismatch missing_fee_payer \
         no_transfer_instruction recipient_mismatch signature_invalid transaction \
         unknown_fifth_instruction unknown_fourth_instruction unknown_optional_instruction \
         unknown_seventh_instruction unknown_sixth_instruction",
    ),
    (
        "invalid_exact_svm_smart_wallet_",
        "alt_resolution_failed alt_resolution_not_available cannot_derive_destination_ata \
         compute_budget_violation compute_units_too_high fee_payer_not_isolated malformed_compute_budget \
         malformed_compute_limit malformed_compute_price multiple_matching_transfers \
         no_transfer_in_simulation priority_fee_too_high program_not_allowed simulation_failed \
         transfer_mismatch unsupported_compute_budget_instruction",
    ),
    (
        "invalid_exact_svm_",
        "fee_payer_mismatch fee_payer_not_managed_by_facilitator network_mismatch transaction_failed \
         transaction_simulation_failed unsupported_scheme verification_failed",
    ),
    (
        "invalid_siwx_",
        "domain_mismatch expiration_time expired issued_at issued_at_in_future issued_at_too_old \
         malformed_signature nonce not_before not_yet_valid signature unsupported_chain uri_mismatch \
         verifier_error version",
    ),
    (
        "invalid_upto_svm_payload_",
        "amount amount_mismatch channel_id channel_lifetime_exceeded channel_seed deposit_not_ceiling \
         expired expires_at_mismatch missing_voucher nonce not_yet_active open_transaction payer_mismatch \
         receiver_authorizer settlement_exceeds_amount type unexpected_voucher voucher_signature",
    ),
    (
        "invalid_upto_svm_",
        "authorizer_address_mismatch authorizer_not_configured channel_already_open channel_broadcast \
         channel_state delegated_auth_store delegated_settle_unauthenticated payment_requirements \
         settlement_simulation",
    ),
    ("invalid_upto_evm_", "network_mismatch payload_settlement_exceeds_amount scheme transaction_failed"),
    (
        "invalid_",
        "eip2612_extension_format erc20_approval_extension_format network payload payment \
         payment_requirements permit2_recipient_mismatch permit2_signature permit2_spender scheme \
         transaction_state x402_version",
    ),
    (
        "erc20_approval_",
        "asset_mismatch broadcast_failed from_mismatch spender_not_permit2 tx_failed tx_invalid_calldata \
         tx_invalid_signature tx_parse_failed tx_signer_mismatch tx_wrong_selector tx_wrong_spender \
         tx_wrong_target",
    ),
    (
        "permit2_",
        "2612_amount_mismatch allowance_required amount_mismatch deadline_expired insufficient_balance \
         invalid_amount invalid_destination invalid_nonce invalid_owner not_yet_valid payment_too_early \
         proxy_not_deployed simulation_failed token_mismatch",
    ),
    (
        "",
        "after_verify_aborted asset_not_deployed_contract bundle_needs_sign_in bundle_used_up duplicate_settlement eip2612_asset_mismatch \
         eip2612_deadline_expired eip2612_from_mismatch eip2612_spender_not_permit2 \
         eip6492_factory_not_allowed extension_echo_mismatch fee_payer_not_managed_by_facilitator \
         insufficient_funds internal_redirect max_redemptions missing_facilitator missing_scheme \
         no_matching_payment_requirements payer_not_allowed payment_identifier_conflict payment_owed payment_required \
         redeemed_response_costs_more settle_exact_svm_block_height_exceeded \
         settle_exact_svm_transaction_confirmation_timed_out settle_failed settlement_pending \
         smart_wallet_deployment_failed the_facilitator_gave_no_reason transaction_failed \
         transaction_simulation_failed unexpected_settle_error unexpected_verify_error \
         unsupported_asset_transfer_method unsupported_payload_type unsupported_payment_flow \
         unsupported_scheme upto_amount_exceeds_permitted upto_facilitator_mismatch \
         upto_unauthorized_facilitator",
    ),
];

/// A reason as the label of a stat: its name where that is a known one, however it is spelt and whatever follows behind a
/// colon, and else `other`.
pub fn label(reason: &str) -> String {
    /// No known one is as long.
    const LONGEST: usize = 128;
    let name = reason.split(':').next().unwrap_or_default();
    let name = if name.len() > LONGEST { String::new() } else { name.to_ascii_lowercase().replace(' ', "_") };
    if stands_in(&KNOWN, &name) { name } else { OTHER.to_owned() }
}

/// Returns whether a name stands in a list that is written in groups of a common beginning, each with its ends behind one
/// another.
pub fn stands_in(groups: &[(&str, &str)], name: &str) -> bool {
    groups.iter().any(|(start, ends)| {
        name.strip_prefix(start).is_some_and(|end| !end.is_empty() && ends.split(' ').any(|known| known == end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm;

    #[test]
    fn the_known_reasons_are_labels_and_stand_there_once() {
        let mut all: Vec<String> =
            KNOWN.iter().flat_map(|(start, ends)| ends.split(' ').map(move |end| format!("{start}{end}"))).collect();
        for name in &all {
            assert_eq!(label(name), *name);
            assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{name}");
        }
        all.sort();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]) && all.len() > 200, "{}", all.len());
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
            BUNDLE_NEEDS_SIGN_IN,
            BUNDLE_USED_UP,
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
