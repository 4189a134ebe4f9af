//! What is remembered of a request and of a settlement, for logs and stats.

use std::borrow::Cow;
use std::sync::Arc;

use super::LogText;
use crate::money::Amount;
use crate::x402::TransactionId;
use crate::x402::payment::Payer;

/// The reason of a request that the upstream has refused for the wish for usage.
pub(super) const REFUSED_WISH: &str = "the upstream does not take stream_options";

/// The end of a request, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of the route, or its index.
    pub route: Arc<str>,
    /// The outcome.
    pub outcome: Outcome,
    /// More of why, where there is more: an official error string, mostly.
    pub reason: LogText,
    /// The answer of the facilitator that led to it, where it was not a yes: whom it came from, its status and its beginning.
    pub said: Option<LogText>,
    /// The payer who has signed in.
    pub visitor: Option<Payer>,
    /// The payment, where one came that could be read.
    pub payment: Option<PaymentRecord>,
    /// The payment that would have been asked for, where none came and none was asked for.
    pub quoted: Option<PaymentRecord>,
    /// True if the request passed whatever its outcome.
    pub is_shadow: bool,
}

impl Record {
    /// A record without a payment.
    pub(super) fn new(route: &Arc<str>, outcome: Outcome, reason: &str) -> Self {
        Self {
            route: Arc::clone(route),
            outcome,
            reason: LogText::new(reason),
            said: None,
            visitor: None,
            payment: None,
            quoted: None,
            is_shadow: false,
        }
    }

    /// Returns whether the upstream has refused a request for the wish for usage that the filter had added to it. For a while
    /// its route gets its requests without.
    pub fn is_refused_wish(&self) -> bool {
        self.outcome == Outcome::UpstreamFailed && self.reason.as_str() == REFUSED_WISH
    }

    /// Returns the outcome as one word for logs and stats.
    pub fn outcome_word(&self) -> Cow<'static, str> {
        let word = self.outcome.as_str();
        if self.is_shadow { format!("shadow_{word}").into() } else { word.into() }
    }

    /// Returns the facts by name: all that a log or the filter state gets of them.
    pub fn facts(&self) -> Vec<(&'static str, LogText)> {
        let mut facts = vec![("route", LogText::new(&self.route)), ("outcome", LogText::new(&self.outcome_word()))];
        let mut add = |name, text: &str| facts.push((name, LogText::new(text)));
        match &self.said {
            Some(said) if self.reason.is_empty() => add("reason", said),
            Some(said) => add("reason", &format!("{}; {said}", &*self.reason)),
            None if self.reason.is_empty() => {}
            None => add("reason", &self.reason),
        }
        if let Some(visitor) = &self.visitor {
            add("payer", &visitor.to_string());
        }
        if let Some(payment) = &self.payment {
            // Whoever is named by a payment that nobody has proven has not paid, and may know nothing of it.
            add(if payment.is_proven { "payer" } else { "unproven_from" }, &payment.payer.to_string());
        }
        if let Some(payment) = self.payment.as_ref().or(self.quoted.as_ref()) {
            add("scheme", &payment.scheme);
            add("network", &payment.network);
            add("amount", &payment.amount.to_string());
            add("asset", &payment.asset);
            if let Some(transaction) = payment.transaction {
                add("transaction", &transaction.to_string());
            }
        }
        facts
    }
}

/// The end of a settlement, for stats: every transfer of money is told of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementRecord {
    /// The payment. Its amount is what was settled, or was to be.
    pub payment: PaymentRecord,
    /// The result.
    pub result: SettlementResult,
}

/// The result of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettlementResult {
    /// The money has moved.
    Settled,
    /// It has not, and will not.
    Refused,
    /// Nobody knows yet.
    Unknown,
    /// It has moved back to its payer.
    Refunded,
}

impl SettlementResult {
    /// The result as one word for stats.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Refunded => "refunded",
        }
    }
}

/// A payment, for logs and for the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRecord {
    /// The payer, or who is said to be.
    pub payer: Payer,
    /// True if the payment was proven: its signature was checked, or the facilitator has verified it. Nobody is called the
    /// payer of one that was not.
    pub is_proven: bool,
    /// The account that is paid.
    pub pay_to: String,
    /// `exact`, `upto`, …
    pub scheme: String,
    /// CAIP-2 id.
    pub network: String,
    /// Atomic units.
    pub amount: Amount,
    /// The token.
    pub asset: String,
    /// The transfer, once it is known.
    pub transaction: Option<TransactionId>,
}

/// The outcome of a request on a priced route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No payment came; the client has the terms.
    Unpaid,
    /// Nothing was asked of a caller whom the route is free for.
    Exempt,
    /// A payer came back, and signed in.
    SignedIn,
    /// A payment or a sign-in could not be read.
    Malformed,
    /// The payment does not meet the terms, or the facilitator refused it.
    Refused,
    /// The payment is at work elsewhere.
    InFlight,
    /// The payment had bought its response before.
    Spent,
    /// It is not known what the facilitator did or would do.
    Unknown,
    /// The ledger is full or out of order.
    Overloaded,
    /// The upstream failed, and nothing was charged.
    UpstreamFailed,
    /// The upstream failed after the money had moved; the same payment may come again.
    SettledUpstreamFailed,
    /// The money has moved, and the client has gone; the same payment may come again.
    Abandoned,
    /// The client has gone before anything moved; the same payment may come again.
    Left,
    /// The client left in the middle of a stream, and has paid for what it got.
    Billed,
    /// The proxy has begun the request anew after the filter let it through, and it was stopped.
    Redirected,
    /// The money has moved, and the response is on its way.
    Served,
    /// A channel's money was given back to its payer, who asked for that.
    Refunded,
    /// The money has moved, and has paid of what the payer owed for an earlier response.
    Repaid,
    /// Of a payment whose response was served before: the money has moved.
    SettledLater,
    /// Of a payment whose response was served before: it is refused, and its payer owes.
    Lost,
}

impl Outcome {
    /// The outcome as one word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unpaid => "unpaid",
            Self::Exempt => "exempt",
            Self::SignedIn => "signed_in",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::InFlight => "in_flight",
            Self::Spent => "spent",
            Self::Unknown => "unknown",
            Self::Overloaded => "overloaded",
            Self::UpstreamFailed => "upstream_failed",
            Self::SettledUpstreamFailed => "settled_upstream_failed",
            Self::Abandoned => "abandoned",
            Self::Left => "left",
            Self::Billed => "billed",
            Self::Redirected => "redirected",
            Self::Served => "served",
            Self::Refunded => "refunded",
            Self::Repaid => "repaid",
            Self::SettledLater => "settled_later",
            Self::Lost => "lost",
        }
    }
}
