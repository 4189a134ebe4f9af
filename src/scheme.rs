//! The local check of a payment against a requirement.
//!
//! It checks all that can be known without the chain. It is never weaker than the chain, so that nothing which passes here
//! fails there for a reason that stood in the payment; and never stricter than the official verifier on honest payments, so
//! that no client is turned away by the filter alone.

use crate::evm::eip3009::{Authorization, Timestamp};
use crate::evm::erc6492::{self, Wrapper};
use crate::evm::permit2::{EXACT_PROXY, Permit, UPTO_PROXY};
use crate::evm::signature::Signature;
use crate::time::UnixTime;
use crate::x402::payment::{Authorized, Signed};
use crate::x402::requirement::{Evm, Scheme};
use crate::x402::{Requirement, reason};

/// Seconds that an authorization must still live, so that its settlement finds a block in time. The official
/// verifier's figure.
pub const MIN_LIFETIME_SECONDS: u64 = 6;

/// Seconds that an authorization may live in any case, however short the terms: official clients in Go signed for an hour
/// whatever the server said, and much that was written by hand does.
pub const USUAL_LIFETIME_SECONDS: u64 = 3600;

/// Seconds by which it may live longer than that, for clocks differ: the official clients date what they sign back by as
/// much.
pub const CLOCK_SLACK_SECONDS: u64 = 600;

/// The result of the local check for a payment that it did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// The payer's own key signed exactly what was asked.
    Valid,
    /// All but the signature holds, and the signature is one that only the chain can check (ERC-1271, ERC-6492).
    FacilitatorDecides,
}

/// A reason why a payment does not meet a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RequirementError {
    /// The money would go to somebody else.
    #[error("{}", reason::RECIPIENT_MISMATCH)]
    Recipient,
    /// Not exactly the amount that was asked.
    #[error("{}", reason::VALUE_MISMATCH)]
    Value,
    /// Valid for less time than a settlement needs.
    #[error("{}", reason::VALID_BEFORE)]
    Expired,
    /// Valid for longer than anybody needs: the ledger would have to remember it for as long.
    #[error("{}", reason::VALID_BEFORE)]
    LivesTooLong,
    /// Not valid yet.
    #[error("{}", reason::VALID_AFTER)]
    NotYetValid,
    /// Not the payer's signature, or not in the form that tokens accept.
    #[error("{}", reason::SIGNATURE)]
    Signature,
    /// Permit2: somebody else might move the money.
    #[error("{}", reason::PERMIT2_SPENDER)]
    Permit2Spender,
    /// Permit2: the money would go to somebody else.
    #[error("{}", reason::PERMIT2_RECIPIENT)]
    Permit2Recipient,
    /// Permit2: another facilitator would have to settle.
    #[error("{}", reason::UPTO_FACILITATOR)]
    UptoFacilitator,
    /// Permit2: valid for less time than a settlement needs.
    #[error("{}", reason::PERMIT2_DEADLINE)]
    Permit2Expired,
    /// Permit2: valid for longer than anybody needs.
    #[error("{}", reason::PERMIT2_DEADLINE)]
    Permit2LivesTooLong,
    /// Permit2: not valid yet.
    #[error("{}", reason::PERMIT2_NOT_YET_VALID)]
    Permit2NotYetValid,
    /// Permit2: not exactly the amount that was asked.
    #[error("{}", reason::PERMIT2_AMOUNT)]
    Permit2Amount,
    /// Permit2: another token.
    #[error("{}", reason::PERMIT2_TOKEN)]
    Permit2Token,
    /// Permit2: not the payer's signature.
    #[error("{}", reason::PERMIT2_SIGNATURE)]
    Permit2Signature,
}

impl RequirementError {
    /// Returns whether all but the end of the validity is in order: such a payment may have settled before it expired, or when the
    /// terms gave it longer.
    pub const fn is_of_time(self) -> bool {
        matches!(self, Self::Expired | Self::LivesTooLong | Self::Permit2Expired | Self::Permit2LivesTooLong)
    }
}

/// Checks a payment against the requirement that it says to meet, whose rail is `evm`.
///
/// The cheap checks come first. That a payment has expired, or lives too long, is said last, only of one with which all else is in order:
/// it may have settled before.
///
/// # Errors
/// The first [`RequirementError`] that applies.
pub fn check(
    payment: &Signed,
    requirement: &Requirement,
    evm: &Evm,
    now: UnixTime,
) -> Result<Judgement, RequirementError> {
    match &payment.authorization {
        Authorized::Eip3009(authorization) => check_eip3009(authorization, requirement, evm, now)?,
        Authorized::Permit2(permit) => check_permit2(permit, requirement, evm, now)?,
    }
    let judgement = check_signature(payment, evm)?;
    let valid_before = payment.authorization.valid_before();
    let longest = now.plus(requirement.max_timeout_seconds.max(USUAL_LIFETIME_SECONDS)).plus(CLOCK_SLACK_SECONDS);
    let is_expired = valid_before < Timestamp::from(now.plus(MIN_LIFETIME_SECONDS));
    let lives_too_long = valid_before > Timestamp::from(longest);
    match (is_expired, lives_too_long, &payment.authorization) {
        (false, false, _) => Ok(judgement),
        (true, _, Authorized::Eip3009(_)) => Err(RequirementError::Expired),
        (true, _, Authorized::Permit2(_)) => Err(RequirementError::Permit2Expired),
        (false, true, Authorized::Eip3009(_)) => Err(RequirementError::LivesTooLong),
        (false, true, Authorized::Permit2(_)) => Err(RequirementError::Permit2LivesTooLong),
    }
}

fn check_eip3009(
    authorization: &Authorization,
    requirement: &Requirement,
    evm: &Evm,
    now: UnixTime,
) -> Result<(), RequirementError> {
    if authorization.to != evm.pay_to {
        return Err(RequirementError::Recipient);
    }
    if authorization.value != requirement.amount {
        return Err(RequirementError::Value);
    }
    if authorization.valid_after > Timestamp::from(now) {
        return Err(RequirementError::NotYetValid);
    }
    Ok(())
}

fn check_permit2(permit: &Permit, requirement: &Requirement, evm: &Evm, now: UnixTime) -> Result<(), RequirementError> {
    let proxy = match requirement.scheme {
        Scheme::Exact => EXACT_PROXY,
        Scheme::Upto => UPTO_PROXY,
        Scheme::BatchSettlement | Scheme::Foreign(_) => return Err(RequirementError::Permit2Spender),
    };
    if permit.spender != proxy {
        return Err(RequirementError::Permit2Spender);
    }
    if permit.witness.to != evm.pay_to {
        return Err(RequirementError::Permit2Recipient);
    }
    // Where the requirement names none (scheme `exact`), the witness may name none either: it would be another type.
    if permit.witness.facilitator != evm.facilitator {
        return Err(RequirementError::UptoFacilitator);
    }
    if permit.witness.valid_after > Timestamp::from(now) {
        return Err(RequirementError::Permit2NotYetValid);
    }
    if permit.permitted.amount != requirement.amount {
        return Err(RequirementError::Permit2Amount);
    }
    if permit.permitted.token != evm.asset {
        return Err(RequirementError::Permit2Token);
    }
    Ok(())
}

/// Checks the signature of a payment under the domain of its asset, whatever it pays.
///
/// # Errors
/// [`RequirementError::Signature`] or [`RequirementError::Permit2Signature`].
pub fn check_signature(payment: &Signed, evm: &Evm) -> Result<Judgement, RequirementError> {
    let refusal = match payment.authorization {
        Authorized::Eip3009(_) => RequirementError::Signature,
        Authorized::Permit2(_) => RequirementError::Permit2Signature,
    };
    // Official facilitators answer a wrapper that they cannot take apart with an error of theirs.
    if erc6492::is_wrapped(&payment.signature) && Wrapper::parse(&payment.signature).is_none() {
        return Err(refusal);
    }
    if payment.signature.len() > Signature::LENGTH {
        return Ok(Judgement::FacilitatorDecides);
    }
    let signer = Signature::from_bytes(&payment.signature)
        .and_then(|signature| signature.recover(&payment.authorization.digest(&evm.domain_separator)));
    match signer {
        Ok(signer) if signer == payment.authorization.payer() => Ok(Judgement::Valid),
        _ if evm.contract_wallets && payment.signature.len() == Signature::LENGTH => Ok(Judgement::FacilitatorDecides),
        _ => Err(refusal),
    }
}
