//! The local check of a payload against terms: all that can be known without the chain and without what was charged before.

use super::PERMIT2_COLLECTOR;
use super::message;
use super::payload::{Deposit, DepositAuthorization, Kind, Payload};
use crate::evm::Address;
use crate::evm::eip712::Word;
use crate::evm::eip3009::Timestamp;
use crate::evm::permit2::Permitted;
use crate::evm::signature::Signature;
use crate::money::Amount;
use crate::scheme::MIN_LIFETIME_SECONDS;
use crate::time::UnixTime;
use crate::x402::reason;
use crate::x402::requirement::TransferMethod;

/// The terms that a channel has to meet.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The domain separator of channels on the chain ([`message::domain_separator`]).
    pub domain: &'a Word,
    /// The recipient.
    pub receiver: Address,
    /// The key that signs claims and refunds.
    pub receiver_authorizer: Address,
    /// The token's contract.
    pub token: Address,
    /// Seconds between the beginning of a withdrawal and its end.
    pub withdraw_delay: u64,
    /// The domain separator under which deposits are signed: the token's, or Permit2's.
    pub token_domain: &'a Word,
    /// The message that a deposit is signed by.
    pub transfer_method: TransferMethod,
    /// Atomic units that a deposit has at least, where that is asked.
    pub enforced_min_deposit: Option<u128>,
}

/// The result of the check of a payload that it did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// All is in order that can be known here.
    Valid,
    /// All but a deposit's signature, which only the chain can check (ERC-1271, ERC-6492).
    FacilitatorDecides,
}

/// A reason why a payload does not meet the terms. Shown as the official packages have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The name is not the digest of the configuration, or a deposit is for another channel.
    #[error("{}", reason::CHANNEL_ID_MISMATCH)]
    ChannelId,
    /// There is no payer.
    #[error("{}", reason::CHANNEL_ID_INVALID)]
    Payer,
    /// Another recipient.
    #[error("{}", reason::RECEIVER_MISMATCH)]
    Receiver,
    /// Another key would have to sign claims.
    #[error("{}", reason::RECEIVER_AUTHORIZER_MISMATCH)]
    ReceiverAuthorizer,
    /// Another token.
    #[error("{}", reason::CHANNEL_TOKEN_MISMATCH)]
    Token,
    /// Another delay.
    #[error("{}", reason::WITHDRAW_DELAY_MISMATCH)]
    WithdrawDelay,
    /// The voucher is not signed by `payerAuthorizer`, or in a form that the contract refuses.
    #[error("{}", reason::VOUCHER_SIGNATURE)]
    VoucherSignature,
    /// A deposit of nothing, or of less than is asked.
    #[error("{}", reason::DEPOSIT_BELOW_MIN_DEPOSIT)]
    MinDeposit,
    /// A deposit by another method than EIP-3009.
    #[error("{}", reason::ERC3009_AUTHORIZATION_REQUIRED)]
    Eip3009Required,
    /// A deposit that is valid for less time than it needs.
    #[error("{}", reason::DEPOSIT_VALID_BEFORE)]
    ValidBefore,
    /// A deposit that is not valid yet.
    #[error("{}", reason::DEPOSIT_VALID_AFTER)]
    ValidAfter,
    /// A deposit that the payer has not signed.
    #[error("{}", reason::DEPOSIT_SIGNATURE)]
    DepositSignature,
    /// A deposit by another method than Permit2.
    #[error("{}", reason::PERMIT2_AUTHORIZATION_REQUIRED)]
    Permit2Required,
    /// Permit2: somebody else might move the money.
    #[error("{}", reason::DEPOSIT_PERMIT2_SPENDER)]
    Permit2Spender,
    /// Permit2: not the deposit's amount.
    #[error("{}", reason::DEPOSIT_PERMIT2_AMOUNT)]
    Permit2Amount,
    /// Permit2: valid for less time than it needs.
    #[error("{}", reason::DEPOSIT_PERMIT2_DEADLINE)]
    Permit2Deadline,
    /// Permit2: not signed by the payer.
    #[error("{}", reason::DEPOSIT_PERMIT2_SIGNATURE)]
    Permit2Signature,
    /// A refund of nothing.
    #[error("{}", reason::REFUND_AMOUNT_INVALID)]
    RefundAmount,
}

impl Refusal {
    /// Returns whether all but the end of a deposit's validity is in order: such a deposit may have arrived before it expired.
    pub const fn is_of_time(self) -> bool {
        matches!(self, Self::ValidBefore | Self::Permit2Deadline)
    }
}

/// Checks a payload against terms. The cheap checks come first. That a deposit has expired is said last, only of one with which all else
/// is in order: it may have arrived before.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn check(payload: &Payload, terms: &Terms<'_>, now: UnixTime) -> Result<Judgement, Refusal> {
    const NOBODY: Address = Address::from_bytes([0; 20]);
    let Payload { config, id, .. } = payload;
    let demand = |is_met: bool, refusal| if is_met { Ok(()) } else { Err(refusal) };
    demand(*id == config.id(terms.domain), Refusal::ChannelId)?;
    demand(config.receiver == terms.receiver, Refusal::Receiver)?;
    demand(config.receiver_authorizer == terms.receiver_authorizer, Refusal::ReceiverAuthorizer)?;
    demand(config.token == terms.token, Refusal::Token)?;
    demand(config.withdraw_delay == terms.withdraw_delay, Refusal::WithdrawDelay)?;
    demand(config.payer != NOBODY, Refusal::Payer)?;
    demand(config.payer_authorizer != NOBODY, Refusal::VoucherSignature)?;
    let signature = Signature::from_bytes(&payload.signature).map_err(|_| Refusal::VoucherSignature)?;
    let digest = message::voucher_digest(terms.domain, *id, payload.max_claimable);
    demand(signature.is_by(&digest, config.payer_authorizer), Refusal::VoucherSignature)?;
    match &payload.kind {
        Kind::Voucher => Ok(Judgement::Valid),
        Kind::Refund { amount } => demand(*amount != Some(0), Refusal::RefundAmount).map(|()| Judgement::Valid),
        Kind::Deposit(deposit) => check_deposit(payload, deposit, terms, now),
    }
}

fn check_deposit(payload: &Payload, deposit: &Deposit, terms: &Terms<'_>, now: UnixTime) -> Result<Judgement, Refusal> {
    let (payer, id, domain) = (payload.config.payer, payload.id, terms.token_domain);
    let is_in_time = |end: Timestamp| end >= Timestamp::from(now.plus(MIN_LIFETIME_SECONDS));
    let demand = |is_met: bool, refusal| if is_met { Ok(()) } else { Err(refusal) };
    demand(deposit.amount >= terms.enforced_min_deposit.unwrap_or(1).max(1), Refusal::MinDeposit)?;
    let (end, late, judgement) = match (&deposit.authorization, terms.transfer_method) {
        (DepositAuthorization::Eip3009 { .. }, TransferMethod::Permit2) => return Err(Refusal::Permit2Required),
        (DepositAuthorization::Permit2 { .. }, TransferMethod::Eip3009) => return Err(Refusal::Eip3009Required),
        (DepositAuthorization::Eip3009 { valid_after, valid_before, salt, signature }, _) => {
            demand(*valid_after <= Timestamp::from(now), Refusal::ValidAfter)?;
            let digest = || {
                let (window, nonce) = ((*valid_after, *valid_before), message::deposit_nonce(id, salt));
                message::eip3009_deposit_digest(domain, payer, deposit.amount, window, nonce)
            };
            let judgement = check_signature(signature, digest, payer).ok_or(Refusal::DepositSignature)?;
            (*valid_before, Refusal::ValidBefore, judgement)
        }
        (
            DepositAuthorization::Permit2 { from, token, amount, spender, nonce, deadline, witness_channel, signature },
            _,
        ) => {
            demand(*from == payer, Refusal::Permit2Signature)?;
            demand(*token == terms.token, Refusal::Token)?;
            demand(*amount == Amount::from_u128(deposit.amount), Refusal::Permit2Amount)?;
            demand(*spender == PERMIT2_COLLECTOR, Refusal::Permit2Spender)?;
            demand(*witness_channel == id, Refusal::ChannelId)?;
            let permitted = Permitted { token: *token, amount: *amount };
            let digest = || message::permit2_deposit_digest(domain, permitted, *spender, *nonce, *deadline, id);
            let judgement = check_signature(signature, digest, payer).ok_or(Refusal::Permit2Signature)?;
            (*deadline, Refusal::Permit2Deadline, judgement)
        }
    };
    demand(is_in_time(end), late).map(|()| judgement)
}

/// Returns what a signature says of `payer`; `None` where it is of the length of a key's and not the payer's own.
fn check_signature(signature: &[u8], digest: impl Fn() -> Word, payer: Address) -> Option<Judgement> {
    if signature.len() > Signature::LENGTH {
        return Some(Judgement::FacilitatorDecides);
    }
    let signature = Signature::from_bytes(signature).ok()?;
    signature.is_by(&digest(), payer).then_some(Judgement::Valid)
}
