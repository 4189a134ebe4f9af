//! What the exchange has the shell do.

use std::sync::Arc;

use super::record::{Outcome, Record, SettlementRecord};
use super::{Context, Exchange, Flush, LogText, Next, Payment, Recovery, Reply};
use crate::channel::{self, ChannelId};
use crate::config::Service;
use crate::ledger::{Operation, PaymentKey, exposure};
use crate::x402::{Receipt, TransactionId, Version};
use crate::{chain, facilitator};

/// The things that a step has the shell do, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// An operation on the claim of this payment; its answer is the next event ([`super::Event::Ledger`]).
    pub ledger: Option<(PaymentKey, Operation)>,
    /// The claim of the payment's name, which follows the claim of the payment: the same operation, whose answer nobody needs.
    pub alias_key: Option<PaymentKey>,
    /// An operation on this channel; its answer is the next event ([`super::Event::Channel`]).
    pub channel: Option<(ChannelId, channel::Operation)>,
    /// Something that is wanted of the keeper of channels; its answer is the next event ([`super::Event::Flushed`]).
    pub flush: Option<Flush>,
    /// An operation on what is open of a payer; its answer is the next event ([`super::Event::Exposure`]) where no other one is.
    pub exposure: Option<(exposure::Account, exposure::Operation)>,
    /// The end of the request, for logs and stats.
    pub record: Option<Record>,
    /// What came of the payment of a response that left before it settled, for the log.
    pub aftermath: Option<Record>,
    /// The end of a settlement, for stats.
    pub settlement: Option<SettlementRecord>,
    /// A settlement to be taken up again by [`super::Exchange::recover`] when it is due, if the proxy still runs then.
    pub recovery: Option<Recovery>,
    /// Something that the operator should know.
    pub warning: Option<Warning>,
    /// True if a payment was read and checked in this step. The time that this took is a stat.
    pub has_checked: bool,
    /// The request's body, in place of the one that was read.
    pub rewrite: Option<Vec<u8>>,
    /// A callout to be sent; its answer is an event ([`super::Event::Callout`]).
    pub call: Option<Call>,
    /// A piece of the response's body, in place of the one that was given, or of all that is held.
    pub chunk: Option<Vec<u8>>,
    /// True if the response ends here, and takes no line of comment behind its end: it is no stream of events.
    pub ends_plain: bool,
    /// The fate of the stream.
    pub stream: Stream,
}

/// Something that the operator should know, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The ledger did not take a payer's grant.
    #[error("a payer's right to come back has no room; raise ledger.max_claims")]
    NoRoomForGrant,
    /// An upstream refused a request for the filter's wish for usage.
    #[error(
        "an upstream does not take stream_options, by which the filter asks for the usage of a stream; it is left out for a while (ask_for_usage: false leaves it out for good)"
    )]
    RefusedWish,
    /// A node is of another chain than its network.
    #[error(
        "the node behind the cluster {cluster:?} is not one of chain {chain_id} (eth_chainId); its answers are not believed, correct rpc"
    )]
    OtherChain {
        /// The cluster that is called.
        cluster: String,
        /// The chain id of the network that it is configured for.
        chain_id: u64,
    },
}

impl Warning {
    /// Returns whether money is at stake until the operator acts.
    pub const fn is_critical(&self) -> bool {
        matches!(self, Self::OtherChain { .. })
    }
}

/// A callout: a POST of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its purpose.
    pub kind: CallKind,
    /// The service that is called.
    pub service: Arc<Service>,
    /// The JSON.
    pub body: String,
}

/// The purpose of a callout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// Asks the facilitator whether a payment would settle (`POST /verify`).
    Verify,
    /// Asks the facilitator to settle a payment (`POST /settle`).
    Settle,
    /// Asks a node of the chain (JSON-RPC).
    Chain,
    /// Asks the operator's own service for a price.
    Price,
}

impl CallKind {
    /// Returns the path below the service's base path; empty where the base path is the whole.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Verify => "/verify",
            Self::Settle => "/settle",
            Self::Chain | Self::Price => "",
        }
    }

    /// Returns the most bytes that are read of an answer.
    pub const fn max_answer_bytes(self) -> usize {
        match self {
            Self::Verify | Self::Settle | Self::Price => facilitator::MAX_ANSWER_BYTES,
            Self::Chain => chain::MAX_ANSWER_BYTES,
        }
    }

    /// Returns whether an answer that says how long it holds (`Cache-Control: max-age`) may be used again for the same
    /// question.
    pub const fn is_cacheable(self) -> bool {
        matches!(self, Self::Price)
    }
}

/// The fate of the stream that a request and its response are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stream {
    /// It waits where it is.
    #[default]
    Hold,
    /// The request goes on to the upstream.
    Forward(RequestEdits),
    /// The response goes on to the client.
    Deliver(ResponseEdits),
    /// It waits, and the body of the half that is under way is read, up to so many bytes.
    Read {
        /// The most that is read.
        most: usize,
    },
    /// The piece of the response's body passes.
    Pass,
    /// The response's end, which waited, goes on, with this behind it.
    Finish(Tail),
    /// The response is broken off.
    Cut,
    /// The client gets this, and nothing of the upstream's.
    Reply(Reply),
}

/// The text and trailers behind a stream of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// A line of comment for the stream itself.
    pub comment: String,
    /// Trailers, where the protocol carries them.
    pub trailers: Vec<(&'static str, String)>,
}

/// Changes to the head of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestEdits {
    /// The route that is not free for which the request goes on: to be noted where no client can write, so that the request is
    /// [`Seen`] should it come by again.
    pub passes_for: Option<Arc<str>>,
    /// Headers to remove.
    pub remove: Vec<String>,
    /// Headers to set.
    pub set: Vec<(&'static str, String)>,
}

/// Changes to the head of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseEdits {
    /// Headers to remove.
    pub remove: Vec<&'static str>,
    /// Headers to set.
    pub set: Vec<(&'static str, String)>,
    /// Headers to add beside those of the same name.
    pub add: Vec<(&'static str, String)>,
}

impl Tail {
    /// The receipt of a stream, in a trailer and in a comment.
    pub(super) fn receipt(context: Context<'_>, payment: &Payment, transaction: Option<TransactionId>) -> Self {
        Self::of(payment.purchase.version, &payment.receipt_of_service(context, transaction))
    }

    /// A receipt in a trailer and in a comment.
    pub(super) fn of(version: Version, receipt: &Receipt<'_>) -> Self {
        Self {
            comment: format!(": payment-response {}\n\n", receipt.to_json()),
            trailers: vec![(version.receipt_header(), receipt.to_header())],
        }
    }

    /// The tail that tells of a settlement that did not come about, or is not known.
    pub(super) fn failed(reply: &Reply) -> Self {
        let receipts = [Version::V1, Version::V2].map(Version::receipt_header).into_iter();
        let value =
            |name: &&str| reply.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.clone());
        let trailers = receipts.filter_map(|name| Some((name, value(&name)?))).collect();
        Self { comment: format!(": payment {}\n\n", reply.body), trailers }
    }
}

impl Effects {
    /// An answer of the filter's own.
    pub(super) fn reply(reply: Reply) -> Self {
        Self { stream: Stream::Reply(reply), ..Self::default() }
    }

    /// The end of a request without a payment that counts.
    pub(super) fn end_with(route: &Arc<str>, outcome: Outcome, reason: &str, reply: Reply) -> Next {
        Self { record: Some(Record::new(route, outcome, reason)), ..Self::reply(reply) }.and_over()
    }

    /// These effects, with the facilitator's answer in the record.
    pub(super) fn with_said(mut self, said: Option<&str>) -> Self {
        if let (Some(record), Some(said)) = (&mut self.record, said) {
            record.said = Some(LogText::new(said));
        }
        self
    }

    /// These effects, and nothing after them.
    pub(super) fn and_over(self) -> Next {
        (Exchange::Over, self)
    }
}
