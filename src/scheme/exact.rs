//! Scheme `exact` by EIP-3009: the payer signs a transfer of exactly the amount asked, to exactly the recipient asked.

use super::{Judgement, Refusal};
use crate::evm::eip712::Word;
use crate::evm::eip3009::Timestamp;
use crate::evm::signature::Signature;
use crate::time::UnixTime;
use crate::x402::Requirement;
use crate::x402::payment::ExactEip3009;

/// Seconds that an authorization must still live, so that its settlement finds a block in time. The official
/// verifier's figure.
pub const MIN_LIFETIME_SECONDS: u64 = 6;

/// Checks a payment against the requirement that it says to meet. `domain_separator` is the requirement's own.
///
/// The cheap checks come first. [`Refusal::Expired`] is said last, only of a payment with which all else is in order:
/// such a payment may have settled before it expired.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn check(
    payment: &ExactEip3009,
    requirement: &Requirement,
    domain_separator: &Word,
    now: UnixTime,
) -> Result<Judgement, Refusal> {
    let authorization = &payment.authorization;
    if authorization.to != requirement.pay_to {
        return Err(Refusal::Recipient);
    }
    if authorization.value != requirement.amount {
        return Err(Refusal::Value);
    }
    if authorization.valid_after > Timestamp::from(now) {
        return Err(Refusal::NotYetValid);
    }
    let judgement = check_signature(payment, requirement, domain_separator)?;
    if authorization.valid_before < Timestamp::from(now.plus(MIN_LIFETIME_SECONDS)) {
        return Err(Refusal::Expired);
    }
    Ok(judgement)
}

/// Checks the signature of a payment under the domain of the requirement's asset, whatever it pays.
///
/// # Errors
/// [`Refusal::Signature`].
pub fn check_signature(
    payment: &ExactEip3009,
    requirement: &Requirement,
    domain_separator: &Word,
) -> Result<Judgement, Refusal> {
    if payment.signature.len() > Signature::LENGTH {
        return Ok(Judgement::FacilitatorDecides);
    }
    let authorization = &payment.authorization;
    let signer = Signature::from_bytes(&payment.signature)
        .and_then(|signature| signature.recover(&authorization.digest(domain_separator)));
    match signer {
        Ok(signer) if signer == authorization.from => Ok(Judgement::Valid),
        _ if requirement.contract_wallets && payment.signature.len() == Signature::LENGTH => {
            Ok(Judgement::FacilitatorDecides)
        }
        _ => Err(Refusal::Signature),
    }
}
