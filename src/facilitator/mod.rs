//! The facilitator's language: the body of a question, and what an answer means.
//!
//! The body decides, whatever the status: facilitators refuse with 200 as well as with 400 or 500. Only `true` with a status
//! of 2xx, and with all that belongs to it, is a yes; and only a reason that is known to be given before anything is sent is
//! a no ([`refusal`]). Everything else says nothing about the money.

#[cfg(feature = "cdp")]
pub mod cdp;
mod refusal;
mod supported;

#[cfg(not(feature = "cdp"))]
pub use crate::absent::cdp;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Service;
use crate::evm::TransactionHash;
use crate::json;
use crate::x402::payment::Payer;
use crate::x402::requirement::Rail;
use crate::x402::{Requirement, TransactionId, Version, reason};
pub use refusal::is_before_sending;
pub use supported::{Directory, Kind, Supported};

/// Bytes of an answer beyond which it is not read.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Bytes of an answer to `GET /supported` beyond which it is not read. Some list hundreds of kinds.
pub const MAX_SUPPORTED_BYTES: usize = 256 * 1024;

/// The answer to a callout.
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
    /// The facilitator takes no more questions at the moment (HTTP 429).
    #[error("the facilitator takes no more questions at the moment")]
    Busy,
    /// The facilitator has sent the transaction, and no block holds it yet.
    #[error("the settlement is pending")]
    Pending,
    /// The facilitator says no in a way that leaves open whether the money has moved.
    #[error("the settlement may have failed")]
    Unsure,
    /// The facilitator says yes, and this field of its answer does not fit the payment.
    #[error("the facilitator's answer does not fit the payment: {0}")]
    Misfit(Field),
    /// The facilitator refuses a payment that an earlier question may have settled.
    #[error("the payment may have settled before")]
    MaybeSettledBefore,
    /// The facilitator says that the payment settled, and the chain does not show it yet.
    #[error("the settlement is not confirmed on the chain yet")]
    Unconfirmed,
    /// The payment settled, and the ledger could not take it down.
    #[error("the settlement could not be recorded")]
    Unrecorded,
}

/// A field of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The HTTP status.
    Status,
    /// `errorReason` or `invalidReason`.
    Reason,
    /// `transaction`.
    Transaction,
    /// `network`.
    Network,
    /// `payer`.
    Payer,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Reason => "errorReason",
            Self::Transaction => "transaction",
            Self::Network => "network",
            Self::Payer => "payer",
        })
    }
}

/// The meaning of an answer to `/verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The payment would settle.
    Valid,
    /// It would not, for this reason (one of the official error strings, mostly).
    Invalid(String),
    /// It did not say.
    Unknown(Unknown),
}

/// The meaning of an answer to `/settle`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The money has moved.
    Settled(TransactionId),
    /// It has not and will not, for this reason.
    Refused(String),
    /// It did not say, though it may have named a transaction.
    Unknown(Unknown, Option<TransactionId>),
}

/// The body of a question about a payment that should meet `requirement`, both as JSON of this version of the protocol:
/// [`Signed::to_wire`]'s and a [`Requirement`], or [`Signed::to_wire_v1`]'s and an [`EntryV1`].
///
/// [`Signed::to_wire`]: crate::x402::payment::Signed::to_wire
/// [`Signed::to_wire_v1`]: crate::x402::payment::Signed::to_wire_v1
/// [`EntryV1`]: crate::x402::terms::EntryV1
pub fn question(version: Version, payment: &str, requirement: &impl Serialize) -> String {
    let (number, requirement) = (version.number(), json::to_text(requirement));
    format!(r#"{{"x402Version":{number},"paymentPayload":{payment},"paymentRequirements":{requirement}}}"#)
}

/// Returns whether an answer is none, or one of a server that failed: another facilitator may do better.
pub const fn has_failed(answer: &CalloutAnswer) -> bool {
    match answer {
        CalloutAnswer::NotSent | CalloutAnswer::Lost => true,
        CalloutAnswer::Answered { status, .. } => is_failure(*status),
    }
}

/// Reads the answer to `/verify` for a payment by `payer`.
pub fn read_verification(answer: &CalloutAnswer, payer: &Payer) -> Verification {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        is_valid: bool,
        invalid_reason: Option<String>,
        payer: Option<String>,
    }
    let (status, wire): (u16, Wire) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Verification::Unknown(unknown),
    };
    let misfit = |field| Verification::Unknown(Unknown::Misfit(field));
    let by_status = || Verification::Unknown(misfit_of(status));
    match (wire.is_valid, given(wire.invalid_reason)) {
        (true, Some(_)) => misfit(Field::Reason),
        (true, None) if !is_success(status) => by_status(),
        (true, None) if !names(wire.payer, payer) => misfit(Field::Payer),
        (true, None) => Verification::Valid,
        // Nothing has moved, so a no without a reason is a no; but a server that failed may not have looked.
        (false, Some(reason)) if is_failure(status) && !is_before_sending(&reason) => by_status(),
        (false, None) if is_failure(status) => by_status(),
        (false, reason) => {
            Verification::Invalid(reason.map_or_else(|| "the facilitator gave no reason".to_owned(), json::shorten))
        }
    }
}

/// Reads the answer to `/settle` for a payment by `payer` that should meet `requirement`, asked in `version`.
pub fn read_settlement(
    answer: &CalloutAnswer,
    version: Version,
    requirement: &Requirement,
    payer: &Payer,
) -> Settlement {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        success: bool,
        error_reason: Option<String>,
        transaction: Option<String>,
        network: Option<String>,
        payer: Option<String>,
    }
    let (status, wire): (u16, Wire) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Settlement::Unknown(unknown, None),
    };
    let transaction = given(wire.transaction);
    let named = transaction.as_deref().and_then(|text| read_transaction(text, requirement));
    let off = if !is_success(status) {
        Some(Field::Status)
    } else if given(wire.network).is_some_and(|network| !is_network_of(&network, version, requirement)) {
        Some(Field::Network)
    } else if !names(wire.payer, payer) {
        Some(Field::Payer)
    } else {
        None
    };
    let unknown = |unknown| Settlement::Unknown(unknown, named);
    match (wire.success, given(wire.error_reason)) {
        (true, Some(_)) => unknown(Unknown::Misfit(Field::Reason)),
        (true, None) => match (off, named) {
            (Some(Field::Status), _) => unknown(misfit_of(status)),
            (Some(field), _) => unknown(Unknown::Misfit(field)),
            (None, Some(transaction)) => Settlement::Settled(transaction),
            (None, None) => unknown(Unknown::Misfit(Field::Transaction)),
        },
        (false, Some(reason)) if reason == reason::SETTLEMENT_PENDING => unknown(Unknown::Pending),
        (false, Some(reason)) if transaction.is_none() && is_before_sending(&reason) => {
            Settlement::Refused(json::shorten(reason))
        }
        (false, _) if status == 429 => unknown(Unknown::Busy),
        (false, _) => unknown(Unknown::Unsure),
    }
}

/// Reads the name of a transaction; some leave out the `0x` of Ethereum's.
fn read_transaction(text: &str, requirement: &Requirement) -> Option<TransactionId> {
    let Rail::Evm(_) = requirement.rail else { return TransactionId::foreign(text) };
    let hash: TransactionHash = text.parse().or_else(|_| format!("0x{text}").parse()).ok()?;
    (hash != TransactionHash::ZERO).then_some(TransactionId::Evm(hash))
}

/// Returns whether a network is the requirement's, in the words of either version of the protocol.
fn is_network_of(network: &str, version: Version, requirement: &Requirement) -> bool {
    [requirement.network_in(version), requirement.network.as_str()].contains(&network)
        || requirement.in_v1() == Some(network)
}

/// Returns what came back, for the operator: whom the question went to, the status, and the beginning of the answer. Without
/// the configured headers, which may be keys, and without the base path, which may hold one.
pub fn report(service: &Service, path: &str, answer: &CalloutAnswer) -> String {
    /// Characters of an answer that are shown.
    const MOST: usize = 200;
    let Service { cluster, scheme, authority, headers, .. } = service;
    let target = format!("{scheme}://{authority}{path} (cluster {cluster})");
    let (status, body) = match answer {
        CalloutAnswer::NotSent => return format!("{target} could not be called"),
        CalloutAnswer::Lost => return format!("{target} did not answer"),
        CalloutAnswer::Answered { status, body } => (status, body),
    };
    let mut text: String = String::from_utf8_lossy(body).chars().take(MAX_ANSWER_BYTES).collect();
    for (_, secret) in headers {
        // Most keys stand behind a word, as in `Bearer …`.
        for part in secret.split_ascii_whitespace().chain([secret.as_str()]).filter(|part| part.len() >= SECRET_BYTES) {
            text = text.replace(part, "…");
        }
    }
    if let Some(key) = &service.cdp_key {
        text = key.hide_tokens(&text);
    }
    let shown: String = text.chars().take(MOST).collect();
    format!("{target} answered {status}: {shown}")
}

/// Bytes of a text that may be a key; a shorter one would be found in any answer.
const SECRET_BYTES: usize = 8;

/// Returns whether an HTTP status is one of success.
const fn is_success(status: u16) -> bool {
    matches!(status, 200..300)
}

/// Returns a body without the byte order mark that some send before it.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// A text that says something. Facilitators differ on whether they leave a field out or empty.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Returns whether an answer names this payer, or nobody.
fn names(named: Option<String>, payer: &Payer) -> bool {
    given(named).is_none_or(|named| payer.may_be(&named))
}

/// The payer that an answer names, where the filter does not know better.
pub fn named_payer(answer: &CalloutAnswer) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        payer: Option<String>,
    }
    const LONGEST: usize = 128;
    let (_, wire): (u16, Wire) = read(answer).ok()?;
    // It goes into headers.
    given(wire.payer).filter(|payer| payer.len() <= LONGEST && payer.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Reads the body of an answer, and its status.
fn read<'a, T: Deserialize<'a>>(answer: &'a CalloutAnswer) -> Result<(u16, T), Unknown> {
    match answer {
        CalloutAnswer::NotSent => Err(Unknown::NotSent),
        CalloutAnswer::Lost => Err(Unknown::Unreachable),
        CalloutAnswer::Answered { status, body } if body.len() <= MAX_ANSWER_BYTES => {
            let json::Object(wire) = json::from_slice(without_mark(body)).map_err(|_| unknown_of(*status))?;
            Ok((*status, wire))
        }
        CalloutAnswer::Answered { status, .. } => Err(unknown_of(*status)),
    }
}

/// Returns whether a status is one of a server that failed, or does not look at the moment.
const fn is_failure(status: u16) -> bool {
    status >= 500 || status == 429
}

/// Returns what a status means that does not fit its body.
const fn misfit_of(status: u16) -> Unknown {
    match unknown_of(status) {
        Unknown::Unreadable => Unknown::Misfit(Field::Status),
        known => known,
    }
}

/// Returns what a status means whose body says nothing. Envoy itself answers 503 for a connection that failed and 504 for
/// one that took too long.
const fn unknown_of(status: u16) -> Unknown {
    match status {
        429 => Unknown::Busy,
        503 => Unknown::Unreachable,
        504 => Unknown::TimedOut,
        _ => Unknown::Unreadable,
    }
}
