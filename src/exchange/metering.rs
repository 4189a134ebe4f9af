//! A response whose cost decides the charge: read whole, or counted as it streams.

use std::sync::Arc;

use super::bundle;
use super::channel;
use super::cost::{CostByHead, Meter};
use super::delivery::Delivery;
use super::event::SETTLEMENT_OVERRIDES;
use super::settlement::{Settling, Waiter, begin_settlement};
use super::state::State;
use super::{Body, Context, Effects, Event, Next, Outcome, Payment, Reply, ResponseEdits, Stream, Tail, UpstreamHead};
use crate::channel::{Answer as ChannelAnswer, IS_BUILT_IN};
use crate::ledger::{Answer, Operation};
use crate::money::Amount;
use crate::price::Tariff;
use crate::time::UnixTime;
use crate::x402::reason;

/// State: the response's body is awaited, which tells what was used. It is read as it passes into the proxy's buffer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Weighing {
    payment: Payment,
    delivery: Delivery,
    meter: Box<Meter>,
    /// Bytes that have come.
    seen: usize,
    /// The most of them that are held.
    most: usize,
    /// What goes to the client in their place, where that is not the same.
    passing: Option<Vec<u8>>,
}

/// State: the ledger is told that the payment buys a stream; of one out of a channel, first that it holds the channel on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opening {
    payment: Payment,
    delivery: Delivery,
    meter: Box<Meter>,
    /// What goes to the client in the place of what has come already, where that is not the same.
    passing: Option<Vec<u8>>,
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
    let meter = |is_labelled| Box::new(Meter::new(&payment.purchase, context, is_labelled));
    match payment.purchase.cost_by_head(head) {
        CostByHead::Known(charge) => deliver(payment, context, delivery, charge),
        CostByHead::InBody { most } => {
            let meter = meter(false);
            let weighing = Weighing { payment, delivery, meter, seen: 0, most, passing: None };
            (weighing.into(), Effects { stream: Stream::Read { most }, ..Effects::default() })
        }
        CostByHead::InEvents => {
            let meter = meter(true);
            open(payment, context, delivery, meter, None)
        }
        // Nobody is billed blindly, and nothing is given away.
        CostByHead::Nowhere(reason) => {
            payment.end(Some(Operation::Release), Outcome::UpstreamFailed, reason, Reply::error(502, reason))
        }
    }
}

/// Lets a stream begin. From its first byte on, the payment has bought its response.
fn open(
    payment: Payment,
    context: Context<'_>,
    delivery: Delivery,
    meter: Box<Meter>,
    passing: Option<Vec<u8>>,
) -> Next {
    if context.now >= meter.closes_at() {
        return payment.refuse(context, Some(Operation::Release), Outcome::Refused, reason::PERMIT2_DEADLINE);
    }
    if payment.is_visit() {
        // What is set aside of a bundle is in the ledger already.
        return Opening { payment, delivery, meter, passing }.begin_stream();
    }
    // The voucher is in the ledger already; but where the upstream took longer than the hold, another request may have the channel.
    if let Some(extension) = payment.extend_channel(context) {
        let channel = Some(extension);
        return (Opening { payment, delivery, meter, passing }.into(), Effects { channel, ..Effects::default() });
    }
    payment.ask_ledger(Operation::Open, |payment| Opening { payment, delivery, meter, passing })
}

/// Settles the charge of a response that waits, or, where it is nothing, delivers it.
fn deliver(mut payment: Payment, context: Context<'_>, delivery: Delivery, charge: Amount) -> Next {
    if payment.is_visit() {
        return bundle::charge(payment, Waiter::Response(delivery), charge);
    }
    if payment.has_channel() {
        return channel::deliver(payment, context, delivery, charge);
    }
    payment.charge = Some(charge);
    if charge != Amount::ZERO {
        return begin_settlement(payment, context, Waiter::Response(delivery));
    }
    let edits = delivery.with_receipt(&payment, &payment.receipt_of_service(context, None));
    // Nothing was paid, so the payment is as good as before, and takes no place.
    payment.finish(Some(Operation::Release), Outcome::Served, "", None, Stream::Deliver(edits))
}

impl Weighing {
    fn on_chunk(mut self, context: Context<'_>, bytes: &[u8], is_last: bool) -> Next {
        let Some(tariff) = self.payment.purchase.quote.terms.tariff.clone() else { return self.payment.out_of_order() };
        self.seen = self.seen.saturating_add(bytes.len());
        if let Some(passing) = self.meter.push(&tariff, bytes, is_last) {
            self.passing.get_or_insert_default().extend_from_slice(&passing);
        }
        if is_last {
            return self.weigh(context, &tariff);
        }
        let streams = self.payment.purchase.job.as_ref().is_some_and(|job| job.streams);
        if self.seen > self.most || self.meter.is_stream(streams) {
            let Self { payment, delivery, meter, passing, .. } = self;
            return open(payment, context, delivery, meter, passing);
        }
        self.stay()
    }

    /// Settles what a response costs that is there, whole.
    fn weigh(self, context: Context<'_>, tariff: &Tariff) -> Next {
        let Self { payment, delivery, meter, passing, .. } = self;
        if meter.is_failure() && payment.is_visit() {
            return bundle::charge(payment, Waiter::ErrorResponse(delivery), Amount::ZERO);
        }
        if meter.is_failure() {
            let stream =
                Stream::Deliver(ResponseEdits { remove: vec![SETTLEMENT_OVERRIDES], ..ResponseEdits::default() });
            return payment.finish(Some(Operation::Release), Outcome::UpstreamFailed, ERROR_WITHIN, None, stream);
        }
        let charge = payment.purchase.cost_of_response(tariff, &meter, true);
        let delivery = if meter.has_hidden() { delivery.of_other_length() } else { delivery };
        let (exchange, effects) = deliver(payment, context, delivery, charge);
        (exchange, Effects { chunk: passing.filter(|_| meter.has_hidden()), ..effects })
    }
}

/// The reason why a response with a good status costs nothing.
pub(super) const ERROR_WITHIN: &str = "the upstream's response says that it failed";

impl State for Weighing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::ResponseChunk { bytes, is_last } => self.on_chunk(context, &bytes, is_last),
            Event::ResponseBody(Body::Whole(bytes)) => self.on_chunk(context, &bytes, true),
            Event::ResponseBody(_) => {
                let maximum = self.payment.purchase.requirement().amount;
                deliver(self.payment, context, self.delivery, maximum)
            }
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        self.payment.end_left()
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

impl Opening {
    /// Returns whether the payment buys this response, and nothing is drawn on that its payer has already.
    pub(super) fn is_of_response_alone(&self) -> bool {
        !self.payment.is_visit() && !self.payment.has_channel()
    }

    fn begin_stream(self) -> Next {
        let Self { payment, delivery, meter, passing: chunk } = self;
        let stream = Stream::Deliver(payment.edits_of_stream(delivery));
        (Metering { payment, meter }.into(), Effects { chunk, stream, ..Effects::default() })
    }
}

impl State for Opening {
    fn handle(mut self, context: Context<'_>, event: Event) -> Next {
        match event {
            // What is short is over before a withdrawal is.
            Event::Channel(ChannelAnswer::Granted(_) | ChannelAnswer::Withdrawing) if IS_BUILT_IN => {
                self.payment.on_extended(context);
                if !self.payment.has_deposit() {
                    return self.begin_stream();
                }
                let Self { payment, delivery, meter, passing } = self;
                payment.ask_ledger(Operation::Open, |payment| Self { payment, delivery, meter, passing })
            }
            Event::Channel(_) if IS_BUILT_IN => self.payment.end_taken(Some(Operation::Release), None),
            Event::Ledger(Answer::Granted) => self.begin_stream(),
            Event::Ledger(Answer::NotHeld) => self.payment.end_in_flight(),
            Event::Ledger(_) => self.payment.out_of_order(),
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        // A channel is not kept from its payer.
        let channel = self.payment.release_of_channel(false);
        Effects { channel, ..Effects::default() }.and_over()
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

impl Metering {
    /// Returns when the stream has to end, so that it can still be paid for.
    const fn closes_at(&self) -> UnixTime {
        self.meter.closes_at()
    }

    /// Returns when time alone makes something due: the end of the stream, or a longer hold on what it is paid out of.
    pub(super) fn wakes_at(&self) -> UnixTime {
        let renewals = [self.payment.renews_at(), self.payment.renews_bundle_at()];
        renewals.into_iter().flatten().fold(self.closes_at(), UnixTime::min)
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
        let ends_plain = is_last && self.meter.takes_no_comment();
        let (exchange, effects) = if is_last {
            self.close(context, &tariff, true)
        } else {
            let (ledger, channel) = (self.payment.renew_bundle(context), self.payment.renew_channel(context));
            (self.into(), Effects { ledger, channel, stream: Stream::Pass, ..Effects::default() })
        };
        (exchange, Effects { chunk, ends_plain, ..effects })
    }

    /// Keeps its hold on what it is paid out of, however long the stream is silent.
    fn renew(mut self, context: Context<'_>) -> Next {
        let (ledger, channel) = (self.payment.renew_bundle(context), self.payment.renew_channel(context));
        (self.into(), Effects { ledger, channel, ..Effects::default() })
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
        let charge = payment.purchase.cost_of_response(tariff, &meter, has_client);
        let waiter = if has_client { Waiter::StreamEnd } else { Waiter::NobodyOfStream };
        if payment.is_visit() {
            return bundle::charge(payment, waiter, charge);
        }
        payment.charge = Some(charge);
        if payment.has_channel() && (charge == Amount::ZERO || !payment.has_deposit()) {
            return channel::begin_charge(payment, waiter, None);
        }
        if charge != Amount::ZERO {
            return Settling::begin(payment, context, waiter);
        }
        let stream = if has_client { Stream::Finish(Tail::receipt(context, &payment, None)) } else { Stream::Hold };
        payment.finish(Some(Operation::Release), Outcome::Served, "", None, stream)
    }
}

impl State for Metering {
    fn handle(mut self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::ResponseChunk { bytes, is_last } => self.on_chunk(context, &bytes, is_last),
            Event::Ended | Event::Redirected => self.on_left(context),
            Event::Tick if context.now >= self.closes_at() => self.cut(context),
            Event::Tick => self.renew(context),
            Event::Channel(ChannelAnswer::Granted(_)) if IS_BUILT_IN => {
                self.payment.on_extended(context);
                self.stay()
            }
            // What has come is charged while the money is there.
            Event::Channel(ChannelAnswer::Withdrawing) if IS_BUILT_IN => {
                self.payment.on_extended(context);
                self.cut(context)
            }
            // Another request has the channel: nothing more is given out of it.
            Event::Channel(ChannelAnswer::NotHeld) if IS_BUILT_IN => self.cut(context),
            _ => self.ignore(event),
        }
    }
}
