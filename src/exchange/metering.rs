//! A response whose cost decides the charge: read whole, or counted as it streams.

use std::sync::Arc;

use super::cost::{CostByHead, Meter};
use super::delivery::Delivery;
use super::settlement::{Settling, Waiter, begin_settlement};
use super::state::State;
use super::{Body, Context, Effects, Event, Next, Outcome, Payment, Reply, Stream, Tail, UpstreamHead};
use crate::ledger::{Answer, Operation};
use crate::money::Amount;
use crate::price::Tariff;
use crate::time::UnixTime;
use crate::x402::reason;

/// State: the response's body is awaited, which tells what was used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Weighing {
    payment: Payment,
    delivery: Delivery,
}

/// State: the ledger is told that the payment buys a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opening {
    payment: Payment,
    delivery: Delivery,
    meter: Box<Meter>,
}

/// State: the response streams, and is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metering {
    payment: Payment,
    meter: Box<Meter>,
}

/// Goes on with a response without an error whose cost decides the charge.
pub(super) fn begin(payment: Payment, context: Context<'_>, head: &UpstreamHead) -> Next {
    let delivery = Delivery::of(head);
    match payment.purchase.cost_by_head(head) {
        CostByHead::Known(charge) => deliver(payment, context, delivery, charge),
        CostByHead::InBody { most } => {
            let stream = Stream::Read { most };
            (Weighing { payment, delivery }.into(), Effects { stream, ..Effects::default() })
        }
        CostByHead::InEvents => {
            let meter = Box::new(Meter::new(&payment.purchase, context));
            if context.now >= meter.closes_at() {
                let release = Some(Operation::Release);
                return payment.refuse(context, release, Outcome::Refused, reason::PERMIT2_DEADLINE);
            }
            // From the first byte on, the payment has bought its response.
            payment.ask_ledger(Operation::Open, |payment| Opening { payment, delivery, meter })
        }
        // Nobody is billed blindly, and nothing is given away.
        CostByHead::Nowhere(reason) => {
            payment.end(Some(Operation::Release), Outcome::UpstreamFailed, reason, Reply::error(502, reason))
        }
    }
}

/// Settles the charge of a response that waits, or, where it is nothing, delivers it.
fn deliver(mut payment: Payment, context: Context<'_>, delivery: Delivery, charge: Amount) -> Next {
    payment.charge = Some(charge);
    if charge != Amount::ZERO {
        return begin_settlement(payment, context, Waiter::Response(delivery));
    }
    let edits = delivery.with_receipt(&payment, &payment.receipt_of_service(context, None));
    // Nothing was paid, so the payment is as good as before, and takes no place.
    payment.finish(Some(Operation::Release), Outcome::Served, "", None, Stream::Deliver(edits))
}

impl State for Weighing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::ResponseBody(body) = event else { return self.ignore(event) };
        let body = if let Body::Whole(bytes) = &body { Some(bytes.as_slice()) } else { None };
        let charge = self.payment.purchase.cost_of_body(body);
        deliver(self.payment, context, self.delivery, charge)
    }

    fn end(self) -> Next {
        self.payment.end_left()
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

impl State for Opening {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self { payment, delivery, meter } = self;
        match answer {
            Answer::Granted => {
                let stream = Stream::Deliver(delivery.before_receipt());
                (Metering { payment, meter }.into(), Effects { stream, ..Effects::default() })
            }
            Answer::NotHeld => payment.end_in_flight(),
            _ => payment.out_of_order(),
        }
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

impl Metering {
    /// Returns when the stream has to end, so that it can still be paid for.
    pub(super) const fn closes_at(&self) -> UnixTime {
        self.meter.closes_at()
    }

    fn tariff(&self) -> Option<Arc<Tariff>> {
        self.payment.purchase.quote.terms.tariff.clone()
    }

    fn on_chunk(mut self, context: Context<'_>, bytes: &[u8], is_last: bool) -> Next {
        let Some(tariff) = self.tariff() else { return self.payment.out_of_order() };
        if context.now >= self.closes_at() && !is_last {
            let (exchange, effects) = self.cut(context);
            return (exchange, Effects { chunk: Some(Vec::new()), ..effects });
        }
        let chunk = self.meter.push(&tariff, bytes, is_last);
        let (exchange, effects) = if is_last {
            self.close(context, &tariff, true)
        } else {
            (self.into(), Effects { stream: Stream::Pass, ..Effects::default() })
        };
        (exchange, Effects { chunk, ..effects })
    }

    /// The stream is over for its client: what was generated until then is paid for.
    fn on_left(self, context: Context<'_>) -> Next {
        let Some(tariff) = self.tariff() else { return Effects::default().and_over() };
        let (exchange, effects) = self.close(context, &tariff, false);
        (exchange, Effects { stream: Stream::Hold, ..effects })
    }

    /// Breaks off a stream that would outlive its payment, while it can still be paid for.
    fn cut(self, context: Context<'_>) -> Next {
        let (exchange, effects) = self.on_left(context);
        (exchange, Effects { stream: Stream::Cut, ..effects })
    }

    /// Settles what the stream cost, or, where that is nothing, does without.
    fn close(self, context: Context<'_>, tariff: &Tariff, has_client: bool) -> Next {
        let Self { mut payment, meter } = self;
        let charge = payment.purchase.cost_of_stream(tariff, &meter, has_client);
        payment.charge = Some(charge);
        if charge != Amount::ZERO {
            let waiter = if has_client { Waiter::StreamEnd } else { Waiter::NobodyOfStream };
            return Settling::begin(payment, context, waiter);
        }
        let stream = if has_client { Stream::Finish(Tail::receipt(context, &payment, None)) } else { Stream::Hold };
        payment.finish(Some(Operation::Release), Outcome::Served, "", None, stream)
    }
}

impl State for Metering {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::ResponseChunk { bytes, is_last } => self.on_chunk(context, &bytes, is_last),
            Event::Ended | Event::Redirected => self.on_left(context),
            Event::Tick if context.now >= self.closes_at() => self.cut(context),
            _ => self.ignore(event),
        }
    }
}
