//! A response on its way to the client that has paid for it.

use super::Reply;
use super::channel;
use super::effect::Warning;
use super::event::SETTLEMENT_OVERRIDES;
use super::reply::EXPOSED;
use super::settlement::Waiter;
use super::state::State;
use super::{Context, Effects, Event, Exchange, Next, Outcome, Payment, ResponseEdits, Stream, UpstreamHead};
use crate::facilitator::Unknown;
use crate::ledger::{Answer, Operation};
use crate::x402::{Receipt, TransactionId};

/// Headers that a paid response loses: those that tell shared caches otherwise than `Cache-Control` does, and what is
/// between the upstream and the filter.
const KEPT_FROM_CLIENTS: [&str; 3] = ["cdn-cache-control", "surrogate-control", SETTLEMENT_OVERRIDES];

/// The way in which a response is delivered that was paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// True if its `Cache-Control` keeps shared caches away already.
    keeps_cache_control: bool,
    /// True if something of its body is kept from the client, so that its length is another.
    has_other_length: bool,
}

impl Delivery {
    /// The delivery of a response with this head.
    pub(super) fn of(head: &UpstreamHead) -> Self {
        Self { keeps_cache_control: head.forbids_sharing(), has_other_length: false }
    }

    /// The same delivery of a response of which something is kept from the client.
    pub(super) const fn of_other_length(self) -> Self {
        Self { has_other_length: true, ..self }
    }

    /// Returns the edits that keep the response out of shared caches.
    pub(super) fn private(self) -> ResponseEdits {
        let set = if self.keeps_cache_control { Vec::new() } else { vec![("cache-control", "private".to_owned())] };
        let mut remove = KEPT_FROM_CLIENTS.to_vec();
        remove.extend(self.has_other_length.then_some("content-length"));
        ResponseEdits { remove, set, add: Vec::new() }
    }

    /// Returns the edits of a response that is paid for.
    pub(super) fn with_receipt(self, payment: &Payment, receipt: &Receipt<'_>) -> ResponseEdits {
        let mut edits = self.private();
        edits.set.insert(0, (payment.purchase.version.receipt_header(), receipt.to_header()));
        let (name, value) = EXPOSED;
        edits.add.push((name, value.to_owned()));
        payment.tell_left(&mut edits);
        edits
    }

    /// Returns the edits of a response that is paid for later: it is as private as one that is paid for already.
    pub(super) fn before_receipt(self) -> ResponseEdits {
        let mut edits = self.private();
        let (name, value) = EXPOSED;
        edits.add.push((name, value.to_owned()));
        // Its length is not known: a line about the payment comes behind it.
        edits.remove.push("content-length");
        edits
    }
}

/// State: the money has moved, the response is there, and the ledger is told that the payment has bought it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spending {
    payment: Payment,
    delivery: Delivery,
    transaction: TransactionId,
}

/// State: the response is on its way, and the ledger is told that its payer may come back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Granting;

impl Spending {
    /// Tells the ledger, before anything is given for the payment.
    pub(super) fn begin(payment: Payment, delivery: Delivery, transaction: TransactionId) -> Next {
        payment.ask_ledger(Operation::Spend { transaction }, |payment| Self { payment, delivery, transaction })
    }

    /// Returns whether the payment buys this response, and neither a bundle nor a place in a channel that its payer has already.
    pub(super) fn is_of_response_alone(&self) -> bool {
        !self.payment.purchase.buys_bundle() && !self.payment.has_channel()
    }
}

impl State for Spending {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self { payment, delivery, transaction } = self;
        if answer != Answer::Granted {
            return end_unrecorded(payment, transaction);
        }
        if payment.has_channel() {
            return channel::begin_charge(payment, Waiter::Response(delivery), Some(transaction));
        }
        let edits = delivery.with_receipt(&payment, &payment.receipt_of_service(context, Some(transaction)));
        let purchase = &payment.purchase;
        let grant = purchase.resource.and_then(|one| one.grant(&payment.payer, &purchase.quote.terms, context.now));
        let (over, effects) = payment.finish(None, Outcome::Served, "", Some(transaction), Stream::Deliver(edits));
        match grant {
            Some(grant) => (Granting.into(), Effects { ledger: Some(grant), ..effects }),
            None => (over, effects),
        }
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

impl State for Granting {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        match event {
            Event::Ledger(Answer::Full | Answer::Failed) => {
                Effects { warning: Some(Warning::NoRoomForGrant), ..Effects::default() }.and_over()
            }
            Event::Ledger(_) => Effects::default().and_over(),
            _ => self.ignore(event),
        }
    }
}

/// Ends a request whose settlement the ledger did not take: the hold lapsed and another request has the payment now, or the
/// store failed. Nothing was given for it yet, and the same payment, sent again, finds what became of it.
pub(super) fn end_unrecorded(payment: Payment, transaction: TransactionId) -> (Exchange, Effects) {
    let unknown = Unknown::Unrecorded;
    let stream = Stream::Reply(Reply::outcome_unknown(unknown));
    payment.finish(None, Outcome::Unknown, &unknown.to_string(), Some(transaction), stream)
}
