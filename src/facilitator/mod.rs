//! The facilitator's language: the body of a question, and what an answer means.
//!
//! The body decides, whatever the status: facilitators refuse with 200 as well as with 400 or 500. Only `true` with a status
//! of 2xx, and with all that belongs to it, is a yes; and only a reason that is known to be given before anything is sent is
//! a no ([`refusal`]). Everything else says nothing about the money.

#[cfg(feature = "cdp")]
pub mod cdp;
mod fields;
mod refusal;
mod supported;

#[cfg(not(feature = "cdp"))]
pub use crate::absent::cdp;
use std::fmt;

use serde::Serialize;

use crate::channel::{self, ChannelId, OnChain};
use crate::config::Service;
use crate::evm::TransactionHash;
use crate::json;
use crate::time::UnixTime;
use crate::x402::payment::Payer;
use crate::x402::requirement::Rail;
use crate::x402::{Requirement, TransactionId, Version, reason};
use fields::{Fields, Odd};
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
    /// It would not, for this reason (one of the official error strings, mostly). It may hold anything, and be long.
    Invalid(String),
    /// It did not say.
    Unknown(Unknown),
}

/// The meaning of an answer to `/settle`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The money has moved.
    Settled(TransactionId),
    /// It has not and will not, for this reason. It may hold anything, and be long.
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

/// Returns whether an answer counts against the facilitator's health: it has failed, and gives no reason that has a meaning of
/// its own. Some refuse with 500, and say with 500 that a transaction is pending.
pub fn is_failing(answer: &CalloutAnswer) -> bool {
    let has_meaning = |reason: &String| reason == reason::SETTLEMENT_PENDING || is_before_sending(reason);
    let says_why = |fields: &Fields<'_>| {
        ["errorReason", "invalidReason"].iter().any(|name| fields.texts(name).any(|reason| has_meaning(&reason)))
    };
    has_failed(answer) && !read(answer).is_ok_and(|(_, fields)| says_why(&fields))
}

/// Reads the answer to `/verify` for a payment by `payer`.
pub fn read_verification(answer: &CalloutAnswer, payer: &Payer) -> Verification {
    let (status, fields) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Verification::Unknown(unknown),
    };
    let misfit = |field| Verification::Unknown(Unknown::Misfit(field));
    let by_status = || Verification::Unknown(misfit_of(status));
    match (fields.flag("isValid"), fields.text("invalidReason")) {
        (None, _) => Verification::Unknown(unknown_of(status)),
        (Some(true), Err(Odd) | Ok(Some(_))) => misfit(Field::Reason),
        (Some(true), Ok(None)) if !is_success(status) => by_status(),
        (Some(true), Ok(None)) if !names(&fields, payer) => misfit(Field::Payer),
        (Some(true), Ok(None)) => Verification::Valid,
        // Nothing has moved, so a no without a reason is a no; but a server that failed may not have looked.
        (Some(false), Ok(Some(reason))) if !is_failure(status) || is_before_sending(&reason) => {
            Verification::Invalid(reason)
        }
        (Some(false), _) if is_failure(status) => by_status(),
        (Some(false), _) => Verification::Invalid("the facilitator gave no reason".to_owned()),
    }
}

/// Reads the answer to `/settle` for a payment by `payer` that should meet `requirement`, asked in `version`.
pub fn read_settlement(
    answer: &CalloutAnswer,
    version: Version,
    requirement: &Requirement,
    payer: &Payer,
) -> Settlement {
    let (status, fields) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Settlement::Unknown(unknown, None),
    };
    // A name counts whatever is wrong with the rest: what it leads to is looked up.
    let named = fields.texts("transaction").filter_map(|text| read_transaction(&text, requirement)).last();
    let unknown = |unknown| Settlement::Unknown(unknown, named);
    let Some(success) =
        fields.flag("success").filter(|_| !fields.has_doubled(&["errorReason", "transaction", "network", "payer"]))
    else {
        return unknown(unknown_of(status));
    };
    let is_network = |network: Option<String>| network.is_none_or(|one| is_network_of(&one, version, requirement));
    let off = if !is_success(status) {
        Some(misfit_of(status))
    } else if !fields.text("network").is_ok_and(is_network) {
        Some(Unknown::Misfit(Field::Network))
    } else if !names(&fields, payer) {
        Some(Unknown::Misfit(Field::Payer))
    } else {
        None
    };
    match (success, fields.text("errorReason")) {
        (true, Err(Odd) | Ok(Some(_))) => unknown(Unknown::Misfit(Field::Reason)),
        (true, Ok(None)) => match (off, named) {
            (Some(off), _) => unknown(off),
            (None, Some(transaction)) => Settlement::Settled(transaction),
            (None, None) => unknown(Unknown::Misfit(Field::Transaction)),
        },
        (false, Ok(Some(reason))) if reason == reason::SETTLEMENT_PENDING => unknown(Unknown::Pending),
        (false, Ok(Some(reason))) if fields.text("transaction") == Ok(None) && is_before_sending(&reason) => {
            Settlement::Refused(reason)
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
    let Service { cluster, scheme, authority, .. } = service;
    let target = format!("{scheme}://{authority}{path} (cluster {cluster})");
    let (status, body) = match answer {
        CalloutAnswer::NotSent => return format!("{target} could not be called"),
        CalloutAnswer::Lost => return format!("{target} did not answer"),
        CalloutAnswer::Answered { status, body } => (status, body),
    };
    let text: String = String::from_utf8_lossy(body).chars().take(MAX_ANSWER_BYTES).collect();
    let text = service.conceal(&text);
    if let (503, Some((_, reason))) = (*status, text.split_once(TRANSPORT_FAILED)) {
        return format!("{target} answered {status}: {}", fault_of_transport(reason, MOST));
    }
    let shown: String = text.chars().take(MOST).collect();
    // Envoy tells the reason of a connection that failed on to whoever asked, unless it is told, or made, not to.
    let hint = match *status == 503 && scheme == "https" && shown.ends_with("connection failure") {
        true => format!("; should its TLS be to blame, the proxy's stats cluster.{cluster}.ssl tell why"),
        false => String::new(),
    };
    format!("{target} answered {status}: {shown}{hint}")
}

/// The words of Envoy's own answer before the reason for which a connection failed.
const TRANSPORT_FAILED: &str = "transport failure reason: ";

/// Returns what is wrong with a connection, in words and as Envoy put it, at most `most` characters of that.
fn fault_of_transport(reason: &str, most: usize) -> String {
    /// What Envoy says of each fault, and what that means; the first that is found counts, for a certificate chooses its names.
    const FAULTS: [(&str, &str); 5] = [
        ("SAN", "its certificate is for another name"),
        ("has expired", "its certificate has expired"),
        ("issuer certificate", "nobody who is trusted vouches for its certificate"),
        ("self", "nobody who is trusted vouches for its certificate"),
        ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
    ];
    let words = FAULTS.iter().find(|(said, _)| reason.contains(said)).map_or("its TLS fails", |(_, words)| *words);
    let said = reason.split_once("OPENSSL_internal:").map_or(reason, |(_, said)| said);
    format!("{words} ({})", said.chars().take(most).collect::<String>())
}

/// Returns whether an HTTP status is one of success.
const fn is_success(status: u16) -> bool {
    matches!(status, 200..300)
}

/// Returns a body without the byte order mark that some send before it.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// Returns whether an answer names this payer, or nobody.
fn names(fields: &Fields<'_>, payer: &Payer) -> bool {
    fields.text("payer").is_ok_and(|named| named.is_none_or(|named| payer.may_be(&named)))
}

/// The payer that an answer names, where the filter does not know better.
pub fn named_payer(answer: &CalloutAnswer) -> Option<String> {
    const LONGEST: usize = 128;
    let (_, fields) = read(answer).ok()?;
    // It goes into headers.
    let payer = fields.text("payer").ok()?;
    payer.filter(|payer| payer.len() <= LONGEST && payer.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// The meaning of an answer to `/settle` about a claim, a payout or a refund, which no payment of a client's stands behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// It is done, by this transaction.
    Done(TransactionId),
    /// It is not, and will not be, for this reason.
    Refused(String),
    /// It did not say.
    Unknown,
}

/// Reads the answer to `/settle` about a claim, a payout or a refund.
pub fn read_deed(answer: &CalloutAnswer, requirement: &Requirement) -> Deed {
    match read_settlement(answer, Version::V2, requirement, &Payer::Unknown) {
        Settlement::Settled(transaction) => Deed::Done(transaction),
        Settlement::Refused(reason) => Deed::Refused(reason),
        Settlement::Unknown(..) => Deed::Unknown,
    }
}

/// Reads what an answer of `/verify` or `/settle` says of a channel; `None` where it says nothing of this one.
pub fn read_channel(answer: &CalloutAnswer, id: ChannelId, now: UnixTime) -> Option<OnChain> {
    let (_, fields) = read(answer).ok()?;
    channel::read_state(fields.json("extra")?, id, now)
}

/// Reads the body of an answer, and its status.
fn read(answer: &CalloutAnswer) -> Result<(u16, Fields<'_>), Unknown> {
    match answer {
        CalloutAnswer::NotSent => Err(Unknown::NotSent),
        CalloutAnswer::Lost => Err(Unknown::Unreachable),
        CalloutAnswer::Answered { status, body } if body.len() <= MAX_ANSWER_BYTES => {
            let fields = json::from_slice(without_mark(body)).map_err(|_| unknown_of(*status))?;
            Ok((*status, fields))
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
