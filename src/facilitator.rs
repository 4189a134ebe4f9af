//! The facilitator's language: the body of a question, and what an answer means.
//!
//! A facilitator that refuses answers with HTTP 200 all the same, so the body decides; and only `true`, with all that
//! belongs to it, is a yes. What cannot be read, or comes with another status, says nothing about the money.

use serde::Deserialize;

use crate::evm::{Address, TransactionHash};
use crate::json;
use crate::x402::{Requirement, VERSION, reason};

/// Bytes of an answer beyond which it is not read.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What a facilitator is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// Would this payment settle? (`POST /verify`)
    Verify,
    /// Settle this payment. (`POST /settle`)
    Settle,
}

impl Question {
    /// The path of the question below the facilitator's base path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Verify => "/verify",
            Self::Settle => "/settle",
        }
    }
}

/// What came back from a callout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CalloutAnswer {
    /// The callout could not be sent: nothing was asked.
    NotSent,
    /// No answer, or none that was heard to its end.
    Lost,
    /// An answer. Envoy itself answers 503 for a connection that failed and 504 for one that took too long.
    Answered {
        /// HTTP status.
        status: u16,
        /// The body, at most [`MAX_ANSWER_BYTES`] of it.
        body: Vec<u8>,
    },
}

/// The outcome is not known: what was asked may or may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unknown {
    /// The facilitator was not asked.
    #[error("the facilitator could not be called")]
    NotSent,
    /// The facilitator took too long.
    #[error("the facilitator did not answer in time")]
    TimedOut,
    /// The facilitator could not be reached, or broke off.
    #[error("the facilitator did not answer")]
    Unreachable,
    /// The facilitator answered something else than the protocol has it.
    #[error("the facilitator's answer is not understood")]
    Unreadable,
    /// The facilitator has sent the transaction, and no block holds it yet.
    #[error("the settlement is pending")]
    Pending,
}

/// What `/verify` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The payment would settle.
    Valid,
    /// It would not, for this reason (one of the official error strings, mostly).
    Invalid(String),
    /// It did not say.
    Unknown(Unknown),
}

/// What `/settle` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The money has moved.
    Settled(TransactionHash),
    /// It has not and will not, for this reason.
    Refused(String),
    /// It did not say.
    Unknown(Unknown),
}

/// The body of a question: the payment as the client sent it, and the requirement as the filter offered it.
///
/// `payment_json` is the decoded header, valid JSON; it goes out to the letter, so that what the client added for the
/// facilitator (extensions) arrives.
pub fn question(payment_json: &str, requirement: &Requirement) -> String {
    let requirement = json::to_text(requirement);
    format!(r#"{{"x402Version":{VERSION},"paymentPayload":{payment_json},"paymentRequirements":{requirement}}}"#)
}

/// Reads the answer to [`Question::Verify`] for a payment by `payer`.
pub fn read_verification(answer: &CalloutAnswer, payer: Address) -> Verification {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        is_valid: bool,
        invalid_reason: Option<String>,
        payer: Option<Address>,
    }
    let (is_ok, wire): (bool, Wire) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Verification::Unknown(unknown),
    };
    match (wire.is_valid, wire.invalid_reason) {
        (true, None) if is_ok && wire.payer.is_none_or(|named| named == payer) => Verification::Valid,
        (false, Some(reason)) if !reason.is_empty() => Verification::Invalid(reason),
        _ => Verification::Unknown(Unknown::Unreadable),
    }
}

/// Reads the answer to [`Question::Settle`] for a payment by `payer` that should meet `requirement`.
pub fn read_settlement(answer: &CalloutAnswer, requirement: &Requirement, payer: Address) -> Settlement {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        success: bool,
        error_reason: Option<String>,
        transaction: Option<String>,
        network: Option<String>,
        payer: Option<Address>,
    }
    let (is_ok, wire): (bool, Wire) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Settlement::Unknown(unknown),
    };
    let transaction = wire.transaction.as_deref().and_then(|hash| hash.parse().ok());
    let names_this_payment =
        wire.network.as_deref() == Some(requirement.network.as_str()) && wire.payer.is_none_or(|named| named == payer);
    match (wire.success, transaction, wire.error_reason) {
        (true, Some(transaction), None) if is_ok && names_this_payment => Settlement::Settled(transaction),
        (false, _, Some(reason)) if reason == reason::SETTLEMENT_PENDING => Settlement::Unknown(Unknown::Pending),
        (false, _, Some(reason)) if !reason.is_empty() => Settlement::Refused(reason),
        _ => Settlement::Unknown(Unknown::Unreadable),
    }
}

/// The body of an answer that may speak for the facilitator, and whether it came with status 200, without which
/// nothing is a yes. A redirect, an error of the server or of something before it speaks for nobody.
fn read<'a, T: Deserialize<'a>>(answer: &'a CalloutAnswer) -> Result<(bool, T), Unknown> {
    match answer {
        CalloutAnswer::NotSent => Err(Unknown::NotSent),
        CalloutAnswer::Lost => Err(Unknown::Unreachable),
        CalloutAnswer::Answered { status: 504, .. } => Err(Unknown::TimedOut),
        CalloutAnswer::Answered { status: 503, .. } => Err(Unknown::Unreachable),
        CalloutAnswer::Answered { status: status @ (200 | 400..500), body } if body.len() <= MAX_ANSWER_BYTES => {
            json::from_slice(body).map(|wire| (*status == 200, wire)).map_err(|_| Unknown::Unreadable)
        }
        CalloutAnswer::Answered { .. } => Err(Unknown::Unreadable),
    }
}
