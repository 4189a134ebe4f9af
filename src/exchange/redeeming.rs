//! A payment that has settled, and whose response is yet to come.

use super::cost::{CostByHead, Meter};
use super::delivery::{Delivery, Spending};
use super::state::State;
use super::{Body, Context, Effects, Event, Next, Outcome, Payment, Reply, Stream, UpstreamHead};
use crate::ledger::Operation;
use crate::money::Amount;
use crate::x402::TransactionId;

/// State: the money has moved, and the upstream has the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redeeming {
    payment: Payment,
    transaction: TransactionId,
}

/// State: the body of a response is awaited that was charged for as the answer to an earlier try. The same request may cost
/// more the second time, and then the payment has not paid for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reweighing {
    payment: Payment,
    delivery: Delivery,
    transaction: TransactionId,
}

impl Redeeming {
    /// Lets the request go on to the upstream.
    pub(super) fn begin(payment: Payment, transaction: TransactionId) -> Next {
        let stream = Stream::Forward(payment.forwarding(Some(transaction)));
        (Self { payment, transaction }.into(), Effects { stream, ..Effects::default() })
    }

    /// Waits for the response to a request that is at the upstream already.
    pub(super) fn join(payment: Payment, transaction: TransactionId) -> Next {
        Self { payment, transaction }.stay()
    }

    fn on_response(self, head: &UpstreamHead) -> Next {
        let Self { payment, transaction } = self;
        let delivery = Delivery::of(head);
        if head.is_error() {
            return deliver_error(payment, delivery, transaction, Operation::Release);
        }
        if !payment.purchase.is_metered() {
            return Spending::begin(payment, delivery, transaction);
        }
        match payment.purchase.cost_by_head(head) {
            CostByHead::Known(cost) => redeem(payment, delivery, transaction, cost),
            CostByHead::InBody { most } => {
                let stream = Stream::Read { most };
                (Reweighing { payment, delivery, transaction }.into(), Effects { stream, ..Effects::default() })
            }
            CostByHead::InEvents => {
                let reason = "the upstream streams a response that was charged as a whole before";
                unbillable(payment, transaction, reason)
            }
            CostByHead::Nowhere(reason) => unbillable(payment, transaction, reason),
        }
    }
}

impl State for Redeeming {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        match event {
            Event::Upstream(head) => self.on_response(&head),
            // The upstream has redirected what was paid for, and the proxy follows by itself: what it gets there is not that.
            Event::Redirected => {
                let (operation, outcome) = (Some(Operation::Release), Outcome::SettledUpstreamFailed);
                self.payment.finish(operation, outcome, "internal_redirect", Some(self.transaction), Stream::Hold)
            }
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        abandon(self.payment, self.transaction)
    }
}

impl State for Reweighing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::ResponseBody(body) = event else { return self.ignore(event) };
        let Self { payment, mut delivery, transaction } = self;
        let (Body::Whole(bytes), Some(tariff)) = (body, payment.purchase.quote.terms.tariff.clone()) else {
            let maximum = payment.purchase.requirement().amount;
            return redeem(payment, delivery, transaction, maximum);
        };
        let mut meter = Meter::new(&payment.purchase, context, false);
        let chunk = meter.push(&tariff, &bytes, true).filter(|_| meter.has_hidden());
        if meter.is_failure() {
            return deliver_error(payment, delivery, transaction, Operation::Release);
        }
        let cost = payment.purchase.cost_of_response(&tariff, &meter, true);
        if chunk.is_some() {
            delivery = delivery.of_other_length();
        }
        let (exchange, effects) = redeem(payment, delivery, transaction, cost);
        (exchange, Effects { chunk, ..effects })
    }

    fn end(self) -> Next {
        abandon(self.payment, self.transaction)
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

/// Delivers an error of the upstream to a client that has paid. The payment keeps its claim to a better response.
pub(super) fn deliver_error(
    payment: Payment,
    delivery: Delivery,
    transaction: TransactionId,
    operation: Operation,
) -> Next {
    let stream = Stream::Deliver(delivery.with_receipt(&payment, &payment.receipt(Ok(Some(transaction)))));
    payment.finish(Some(operation), Outcome::SettledUpstreamFailed, "", Some(transaction), stream)
}

/// Ends the request of a client that did not wait for what it has paid for. It may come again, and the log should say so.
fn abandon(payment: Payment, transaction: TransactionId) -> Next {
    payment.finish(Some(Operation::Abandon), Outcome::Abandoned, "", Some(transaction), Stream::Hold)
}

/// Delivers a response that costs no more than was settled for it; any other is not given, and the payment keeps its claim
/// to one that fits.
fn redeem(payment: Payment, delivery: Delivery, transaction: TransactionId, cost: Amount) -> Next {
    let settled = payment.amount();
    if cost <= settled {
        return Spending::begin(payment, delivery, transaction);
    }
    let error = format!(
        "this response costs {cost} atomic units, and {settled} were settled for the one that was not delivered; send the same payment again for one that costs no more"
    );
    let reply =
        Reply::error(409, &error).with_receipt(payment.purchase.version, &payment.receipt(Ok(Some(transaction))));
    let (operation, stream) = (Some(Operation::Abandon), Stream::Reply(reply));
    payment.finish(operation, Outcome::Refused, "redeemed_response_costs_more", Some(transaction), stream)
}

/// Ends a request whose response cannot be priced. Whoever redeems a payment can have had the upstream work for that, so it
/// counts as a redemption.
fn unbillable(payment: Payment, transaction: TransactionId, reason: &str) -> Next {
    let (operation, outcome) = (Some(Operation::Abandon), Outcome::SettledUpstreamFailed);
    payment.finish(operation, outcome, reason, Some(transaction), Stream::Reply(Reply::error(502, reason)))
}
