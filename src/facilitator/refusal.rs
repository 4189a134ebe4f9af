//! Refusals of a settlement that are believed: those that are given before anything is sent to the chain.

use crate::x402::reason;

/// Reasons that a settlement is refused for while nothing was sent, and nothing will be: checks that the official packages
/// make first. In groups of a common beginning, as texts and not lists of texts: those take twice the room in the module.
///
/// Not here, on purpose: reasons for what happens once a transaction is sent (`invalid_exact_evm_transaction_failed`,
/// `invalid_exact_evm_transfer_event_mismatch`, `invalid_transaction_state`, `erc20_approval_tx_failed`,
/// `erc20_approval_broadcast_failed`, `transaction_failed`, `duplicate_settlement`), and those for anything at all
/// (`unexpected_settle_error`, `unexpected_error`, `settle_failed`, the text of an exception).
///
/// Source, by group: `@x402/evm` 2.27.0 and `x402` (Python) 2.25, where the same names stand in `mechanisms/*/constants.py`.
const BEFORE_SENDING: [(&str, &str); 10] = [
    // @x402/evm, src/exact/v1/facilitator/scheme.ts `_verify` (called by `settle` first); x402 1.x, verify.ts of exact/evm.
    (
        "invalid_exact_evm_payload_",
        "authorization_valid_after authorization_valid_before authorization_value authorization_value_mismatch \
         recipient_mismatch signature undeployed_smart_wallet",
    ),
    // @x402/evm, src/exact/facilitator/eip3009.ts `verifyEIP3009`, eip3009-utils.ts `diagnoseEip3009SimulationFailure`.
    (
        "invalid_exact_evm_",
        "authorization_value eip3009_not_supported failed_to_parse_signature insufficient_balance \
         missing_eip712_domain network_mismatch nonce_already_used recipient_mismatch scheme signature \
         token_name_mismatch token_version_mismatch transaction_simulation_failed",
    ),
    // @x402/evm, src/exact/facilitator/permit2.ts `verifyPermit2`; src/shared/permit2.ts `mapSettleError`, which names what
    // the estimate of the transaction's gas reverted with. (A used nonce may be this very payment's: not here.)
    (
        "permit2_",
        "2612_amount_mismatch allowance_required amount_mismatch deadline_expired insufficient_balance \
         invalid_amount invalid_destination invalid_owner not_yet_valid payment_too_early proxy_not_deployed \
         simulation_failed token_mismatch",
    ),
    // @x402/evm, src/upto/facilitator/permit2.ts `verifyUptoPermit2`, `settleUptoPermit2`.
    ("invalid_upto_evm_", "network_mismatch payload_settlement_exceeds_amount scheme"),
    ("upto_", "amount_exceeds_permitted facilitator_mismatch unauthorized_facilitator"),
    // @x402/evm, src/exact/facilitator/erc20approval.ts, src/shared/permit2.ts `validateEip2612PermitForPayment`;
    // @x402/core, src/facilitator/x402Facilitator.ts; x402 1.x, types/verify.ts.
    (
        "invalid_",
        "eip2612_extension_format erc20_approval_extension_format network payload payment \
         payment_requirements permit2_recipient_mismatch permit2_signature permit2_spender scheme x402_version",
    ),
    (
        "erc20_approval_",
        "asset_mismatch from_mismatch spender_not_permit2 tx_invalid_calldata tx_invalid_signature \
         tx_parse_failed tx_signer_mismatch tx_wrong_selector tx_wrong_spender tx_wrong_target",
    ),
    // @x402/evm, src/batch-settlement/facilitator/*.ts. Not here, on purpose: `deposit_simulation_failed` and
    // `refund_simulation_failed`, which are what a second question gets about a deposit or a refund that came about.
    (
        "invalid_batch_settlement_evm_",
        "authorizer_address_mismatch authorizer_not_configured channel_id_invalid channel_id_mismatch \
         channel_not_found claim_simulation_failed cumulative_below_claimed cumulative_exceeds_balance \
         eip2612_amount_mismatch eip2612_asset_mismatch eip2612_deadline_expired eip2612_owner_mismatch \
         eip2612_spender_mismatch eip6492_factory_not_allowed erc20_approval_unavailable \
         erc3009_authorization_required insufficient_balance missing_eip712_domain network_mismatch \
         nothing_to_settle payload_authorization_valid_after payload_authorization_valid_before payload_type \
         permit2_allowance_required permit2_amount_mismatch permit2_authorization_required \
         permit2_deadline_expired permit2_invalid_signature permit2_invalid_spender \
         receive_authorization_signature receiver_authorizer_mismatch receiver_mismatch refund_payload \
         rpc_read_failed scheme settle_simulation_failed smart_wallet_deployment_failed token_mismatch \
         voucher_signature withdraw_delay_mismatch withdraw_delay_out_of_range",
    ),
    // @x402/svm, src/exact/facilitator/scheme.ts `verify` (called by `settle` first).
    (
        "invalid_exact_svm_",
        "fee_payer_mismatch fee_payer_not_managed_by_facilitator network_mismatch transaction_simulation_failed \
         unsupported_scheme verification_failed",
    ),
    // The same packages; `smart_wallet_deployment_failed` stands before the transfer is sent (@x402/evm, eip3009.ts).
    (
        "",
        "after_verify_aborted asset_not_deployed_contract eip2612_asset_mismatch eip2612_deadline_expired \
         eip2612_from_mismatch eip2612_spender_not_permit2 eip6492_factory_not_allowed extension_echo_mismatch \
         fee_payer_not_managed_by_facilitator insufficient_funds missing_scheme network_mismatch \
         smart_wallet_deployment_failed transaction_simulation_failed unsupported_asset_transfer_method \
         unsupported_payload_type unsupported_payment_flow unsupported_scheme verification_failed",
    ),
];

/// Beginnings of names that the official packages give to checks of the payload itself, which stand before everything
/// else: `invalid_exact_svm_payload_…`, `invalid_exact_svm_smart_wallet_…` and their like on other networks.
const CHECKS_OF_PAYLOADS: [&str; 2] = ["_payload_", "_smart_wallet_"];

/// Words in a name that tell of a transaction that was sent, unless it was only tried out.
const SENT: [&str; 8] = ["broadcast", "confirm", "fail", "pending", "sent", "submi", "timed_out", "timeout"];

/// Returns whether a refusal says that nothing was sent, and nothing will be. More words may stand behind a colon.
pub fn is_before_sending(refusal: &str) -> bool {
    let name = refusal.split(':').next().unwrap_or_default().trim();
    let foreign = name.strip_prefix("invalid_exact_").filter(|rest| !rest.starts_with("evm_"));
    // Where the words of a check stand right behind the network's family.
    let is_check = |rest: &str| {
        let (_, check) = rest.split_at(rest.find('_').unwrap_or(rest.len()));
        let name = CHECKS_OF_PAYLOADS.iter().find_map(|start| check.strip_prefix(start));
        let is_tried_out =
            |name: &str| ["simulation_failed", "resolution_failed"].iter().any(|end| name.ends_with(end));
        name.is_some_and(|name| {
            !name.is_empty() && (is_tried_out(name) || !SENT.iter().any(|word| name.contains(word)))
        })
    };
    reason::stands_in(&BEFORE_SENDING, name) || foreign.is_some_and(is_check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm;

    #[test]
    fn checks_that_come_first_are_believed() {
        for reason in [
            reason::RECIPIENT_MISMATCH,
            reason::NONCE_USED,
            reason::SIGNATURE,
            reason::PERMIT2_DEADLINE,
            reason::UPTO_FACILITATOR,
            svm::reason::UNDECODABLE,
            svm::reason::MEMO_COUNT,
            "insufficient_funds",
            "invalid_exact_evm_insufficient_balance: the payer has 0",
            "invalid_exact_svm_smart_wallet_simulation_failed: program error",
            "invalid_exact_svm_smart_wallet_alt_resolution_failed",
            "invalid_exact_stellar_payload_wrong_amount",
            "invalid_exact_tvm_payload_settlement_boc",
        ] {
            assert!(is_before_sending(reason), "{reason}");
        }
    }

    #[test]
    fn what_may_come_after_sending_is_not_believed() {
        for reason in [
            "",
            ":",
            "unexpected_error",
            "unexpected_settle_error",
            "invalid_exact_evm_transaction_failed",
            "invalid_exact_evm_transaction_failed: insufficient funds for gas",
            "invalid_upto_evm_transaction_failed",
            "invalid_exact_evm_transfer_event_mismatch",
            "invalid_exact_evm_payload_",
            "invalid_exact_evm_payload_something_new",
            "invalid_exact_svm_transaction_failed",
            "invalid_exact_svm_payload",
            "invalid_exact_svm_payload_",
            "invalid_exact_svm",
            "invalid_exact_aptos_payload_transaction_failed",
            "invalid_exact_aptos_payload_transaction_failed_simulation",
            "invalid_exact_sui_payload_transaction_submitted",
            "invalid_exact_svm_smart_wallet_execution_timed_out",
            "invalid_transaction_state",
            "permit2_invalid_nonce",
            "erc20_approval_broadcast_failed",
            "erc20_approval_tx_failed",
            "transaction_failed",
            "duplicate_settlement",
            "settle_exact_svm_block_height_exceeded",
            "settlement_pending",
            "the node said no",
            "Insufficient_funds",
            "insufficient_funds_maybe",
        ] {
            assert!(!is_before_sending(reason), "{reason}");
        }
    }
}
