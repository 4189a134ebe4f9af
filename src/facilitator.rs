//! The facilitator's language: the body of a question, and what an answer means.
//!
//! A facilitator that refuses answers with HTTP 200 all the same, so the body decides; and only `true`, with all that
//! belongs to it, is a yes. What cannot be read, or comes with another status, says nothing about the money.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::evm::{Address, TransactionHash};
use crate::json;
use crate::x402::payment::Payer;
use crate::x402::requirement::Rail;
use crate::x402::{Requirement, TransactionId, Version, reason};

/// Bytes of an answer beyond which it is not read.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A facilitator's own word on what it supports: the answer to `GET /supported`, as far as the filter needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supported {
    /// The schemes and networks that it settles in version 2 of the protocol; empty until it has said so. A facilitator with several accounts names
    /// one of them at random each time it is asked; what it said last comes first.
    pub kinds: Vec<Kind>,
    /// Extensions of the protocol that it knows.
    pub extensions: Vec<String>,
}

/// A scheme on a network that a facilitator settles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub scheme: String,
    /// CAIP-2 id, or a whole namespace (`eip155:*`).
    pub network: String,
    /// The fields of `extra` of an entry: by name, each value as canonical JSON ([`json::canonical`]).
    pub extra: BTreeMap<String, String>,
}

impl Kind {
    fn is_for(&self, scheme: &str, network: &str) -> bool {
        let is_network = match self.network.strip_suffix('*') {
            Some(namespace) => namespace.ends_with(':') && network.starts_with(namespace),
            None => self.network == network,
        };
        is_network && self.scheme == scheme
    }
}

impl Supported {
    /// The path of the question below the facilitator's base path.
    pub const PATH: &'static str = "/supported";

    /// Kinds that are remembered at most.
    const MOST: usize = 256;

    /// Reads the answer; `None` where it is not understood.
    pub fn read(answer: &CalloutAnswer) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            kinds: Vec<json::Object<Wire<'a>>>,
            #[serde(default)]
            extensions: Vec<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(default, deserialize_with = "json::optional_whole_number")]
            x402_version: Option<u64>,
            scheme: String,
            network: String,
            #[serde(borrow)]
            extra: Option<&'a RawValue>,
        }
        let (true, Answer { kinds, mut extensions }) = read(answer).ok()? else { return None };
        let kinds = kinds.into_iter().filter_map(|json::Object(Wire { x402_version, scheme, network, extra })| {
            // What it says for version 1 alone is remembered for the networks that this version names in its own way.
            let is_current = x402_version.is_none_or(|version| version == Version::V2.number()) || !is_caip_2(&network);
            let extra = extra.and_then(|extra| json::canonical_fields(extra).ok()).unwrap_or_default();
            is_current.then_some(Kind { scheme, network, extra })
        });
        extensions.truncate(Self::MOST);
        Some(Self { kinds: kinds.take(Self::MOST).collect(), extensions })
    }

    /// Returns what it says of a scheme on a network, the latest first; nothing where it has not said so yet.
    pub fn kinds<'a>(&'a self, scheme: &'a str, network: &'a str) -> impl Iterator<Item = &'a Kind> + 'a {
        self.kinds.iter().filter(move |kind| kind.is_for(scheme, network))
    }

    /// Returns whether it has said what it settles, and this is not among that.
    pub fn excludes(&self, requirement: &Requirement) -> bool {
        let names = [Some(requirement.network.as_str()), requirement.in_v1()];
        let mut known = names.into_iter().flatten();
        // Who names networks in the way of version 1 alone has not said what is settled in version 2.
        self.kinds.iter().any(|kind| is_caip_2(&kind.network))
            && !known.any(|network| self.kinds(requirement.scheme.as_str(), network).next().is_some())
    }

    /// Returns who settles scheme `upto` on a network, who was named last first; nobody where nobody has said so yet.
    pub fn settlers<'a>(&'a self, network: &'a str) -> impl Iterator<Item = Address> + 'a {
        self.kinds("upto", network).filter_map(|kind| {
            let address: String = serde_json::from_str(kind.extra.get("facilitatorAddress")?).ok()?;
            address.parse().ok()
        })
    }

    /// The same with what was known before, as far as there is room for it.
    #[must_use]
    pub fn or_earlier(mut self, earlier: &Self) -> Self {
        for known in &earlier.kinds {
            if self.kinds.len() < Self::MOST && !self.kinds.contains(known) {
                self.kinds.push(known.clone());
            }
        }
        self
    }

    /// As a text that [`Self::from_text`] reads.
    pub fn to_text(&self) -> String {
        let line = |Kind { scheme, network, extra }: &Kind| json::to_text(&(scheme, network, extra)) + "\n";
        let extensions = self.extensions.iter().map(|name| json::to_text(name) + "\n");
        self.kinds.iter().map(line).chain(extensions).collect()
    }

    /// Reads what [`Self::to_text`] wrote; leaves out what it does not understand.
    pub fn from_text(text: &str) -> Self {
        let kinds = text.lines().filter_map(|line| {
            let (scheme, network, extra) = serde_json::from_str(line).ok()?;
            Some(Kind { scheme, network, extra })
        });
        let extensions = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Self { kinds: kinds.collect(), extensions: extensions.collect() }
    }
}

/// Returns whether a network is named as version 2 of the protocol does.
fn is_caip_2(network: &str) -> bool {
    network.contains(':')
}

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

/// Reads the answer to [`Question::Verify`] for a payment by `payer`.
pub fn read_verification(answer: &CalloutAnswer, payer: &Payer) -> Verification {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        is_valid: bool,
        invalid_reason: Option<String>,
        payer: Option<String>,
    }
    let (is_ok, wire): (bool, Wire) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Verification::Unknown(unknown),
    };
    match (wire.is_valid, given(wire.invalid_reason)) {
        (true, None) if is_ok && names(wire.payer, payer) => Verification::Valid,
        // Nothing has moved, so a no without a reason is a no.
        (false, reason) => {
            Verification::Invalid(reason.map_or_else(|| "the facilitator gave no reason".to_owned(), json::shorten))
        }
        _ => Verification::Unknown(Unknown::Unreadable),
    }
}

/// Reads the answer to [`Question::Settle`] for a payment by `payer` that should meet `requirement`, asked in `version`.
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
    let (is_ok, wire): (bool, Wire) = match read(answer) {
        Ok(read) => read,
        Err(unknown) => return Settlement::Unknown(unknown, None),
    };
    let transaction = given(wire.transaction);
    let hash = transaction.as_deref().and_then(|text| match requirement.rail {
        Rail::Evm(_) => text.parse().ok().filter(|hash| *hash != TransactionHash::ZERO).map(TransactionId::Evm),
        Rail::Foreign(_) => TransactionId::foreign(text),
    });
    let is_this_payment = wire.network.as_deref() == Some(requirement.network_in(version)) && names(wire.payer, payer);
    match (wire.success, given(wire.error_reason)) {
        (true, None) if is_ok && is_this_payment => {
            hash.map_or(Settlement::Unknown(Unknown::Unreadable, None), Settlement::Settled)
        }
        (false, Some(reason)) if reason == reason::SETTLEMENT_PENDING => Settlement::Unknown(Unknown::Pending, hash),
        (false, Some(reason)) if transaction.is_some() || is_unsure(&reason, &requirement.rail) => {
            Settlement::Unknown(Unknown::Unsure, hash)
        }
        (false, Some(reason)) => Settlement::Refused(json::shorten(reason)),
        _ => Settlement::Unknown(Unknown::Unreadable, hash),
    }
}

/// Refusals that say nothing about the money: the official facilitator gives the first for every failure that it has no
/// name for, one of the connection to its node after the transaction was sent included.
const UNSURE_REASONS: [&str; 5] = [
    "invalid_exact_evm_transaction_failed",
    "invalid_upto_evm_transaction_failed",
    "invalid_exact_evm_transfer_event_mismatch",
    "invalid_transaction_state",
    "unexpected_settle_error",
];

/// Returns whether a refusal leaves open whether the money has moved. Some come with more words behind a colon.
fn is_unsure(reason: &str, rail: &Rail) -> bool {
    let name = reason.split(':').next().unwrap_or(reason);
    match rail {
        Rail::Evm(_) => UNSURE_REASONS.contains(&name),
        // The official facilitator of Solana gives `transaction_failed` for whatever happens once the transaction is sent,
        // and `duplicate_settlement` for one that it has sent before. Of others nothing is known but that names are alike.
        Rail::Foreign(_) => {
            const DOUBTS: [&str; 7] =
                ["failed", "failure", "timeout", "timed_out", "confirm", "height_exceeded", "pending"];
            const ANYTHING: [&str; 5] =
                ["internal_error", "server_error", "network_error", "rpc_error", "unknown_error"];
            // Some pass on what the node's library says, in words.
            let plain = |text: &str| text.trim().to_ascii_lowercase().replace([' ', '-'], "_");
            let (name, text) = (plain(name), plain(reason));
            let is_before_sending = ["simulation_failed", "verification_failed"].iter().any(|end| name.ends_with(end));
            name == "duplicate_settlement"
                || name.starts_with("unexpected")
                || ANYTHING.iter().any(|end| name.ends_with(end))
                || (DOUBTS.iter().any(|doubt| text.contains(doubt)) && !is_before_sending)
        }
    }
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
    let (_, wire): (bool, Wire) = read(answer).ok()?;
    // It goes into headers.
    given(wire.payer).filter(|payer| payer.len() <= LONGEST && payer.bytes().all(|byte| byte.is_ascii_graphic()))
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
            let unknown = if *status == 429 { Unknown::Busy } else { Unknown::Unreadable };
            json::from_slice(body).map(|wire| (*status == 200, wire)).map_err(|_| unknown)
        }
        CalloutAnswer::Answered { .. } => Err(Unknown::Unreadable),
    }
}
