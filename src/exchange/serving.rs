//! A request at the upstream whose payment has not settled.

use super::bundle;
use super::delivery::Delivery;
use super::event::SETTLEMENT_OVERRIDES;
use super::metering;
use super::record::REFUSED_WISH;
use super::settlement::{Waiter, begin_settlement};
use super::state::State;
use super::trust;
use super::{
    Body, Context, Effects, Event, Next, Outcome, Payment, Reply, ResponseEdits, Stream, UpstreamHead, Warning,
};
use crate::ledger::Operation;
use crate::price::request::names_wish;

/// State: the upstream has the request, and no money has moved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Serving(Payment);

impl Serving {
    /// Lets the request go on to the upstream.
    pub(super) fn begin(payment: Payment) -> Next {
        let stream = Stream::Forward(payment.forwarding(payment.bought()));
        (Self(payment).into(), Effects { stream, ..Effects::default() })
    }

    /// Waits for the response to a request that is at the upstream already.
    pub(super) fn join(payment: Payment) -> Next {
        Self(payment).stay()
    }

    fn on_response(self, context: Context<'_>, head: &UpstreamHead) -> Next {
        let Self(payment) = self;
        if payment.purchase.may_be_refused_for_wish(head) {
            let stream = Stream::Read { most: MAX_REFUSAL_BYTES };
            return (Refused(payment).into(), Effects { stream, ..Effects::default() });
        }
        if head.is_error() && payment.is_visit() {
            return bundle::charge_whole(payment, Waiter::ErrorResponse(Delivery::of(head)));
        }
        if head.is_error() {
            let remove = if head.settlement_overrides.is_some() { vec![SETTLEMENT_OVERRIDES] } else { Vec::new() };
            return fail(payment, remove);
        }
        if payment.purchase.is_metered() {
            return metering::begin(payment, context, head);
        }
        if payment.is_on_trust() {
            return trust::deliver(payment, context, head);
        }
        let waiter = Waiter::Response(Delivery::of(head));
        if payment.is_visit() {
            bundle::charge_whole(payment, waiter)
        } else {
            begin_settlement(payment, context, waiter)
        }
    }
}

/// Delivers an error of the upstream, which costs nothing.
#[inline(never)]
fn fail(payment: Payment, remove: Vec<&'static str>) -> Next {
    let stream = Stream::Deliver(ResponseEdits { remove, ..ResponseEdits::default() });
    payment.finish(Some(Operation::Release), Outcome::UpstreamFailed, "", None, stream)
}

/// State: the upstream refuses a request that the filter has added its wish for usage to; the body of its answer is awaited,
/// which tells whether for that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refused(Payment);

/// Bytes of a refusal that are read.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

impl State for Refused {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        let Event::ResponseBody(body) = event else { return self.ignore(event) };
        let Self(payment) = self;
        let Body::Whole(bytes) = body else { return fail(payment, vec![SETTLEMENT_OVERRIDES]) };
        if !names_wish(&bytes) {
            return fail(payment, vec![SETTLEMENT_OVERRIDES]);
        }
        // The proxy lets no filter send a request a second time. Nothing has moved, so its client may.
        let reply = Reply::overloaded(
            "the upstream refused this request for something that the payment filter had added to it; send it again, with the same payment or another",
        );
        let (over, effects) = payment.end(Some(Operation::Release), Outcome::UpstreamFailed, REFUSED_WISH, reply);
        (over, Effects { warning: Some(Warning::RefusedWish), ..effects })
    }

    fn end(self) -> Next {
        self.0.end_left()
    }
}

impl State for Serving {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Upstream(head) => self.on_response(context, &head),
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        self.0.end_left()
    }
}
