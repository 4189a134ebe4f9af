//! A request at the upstream whose payment has not settled.

use super::delivery::Delivery;
use super::event::SETTLEMENT_OVERRIDES;
use super::metering;
use super::settlement::{Waiter, begin_settlement};
use super::state::State;
use super::{Context, Effects, Event, Next, Outcome, Payment, ResponseEdits, Stream, UpstreamHead};
use crate::ledger::Operation;

/// State: the upstream has the request, and no money has moved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Serving(Payment);

impl Serving {
    /// Lets the request go on to the upstream.
    pub(super) fn begin(payment: Payment) -> Next {
        let stream = Stream::Forward(payment.forwarding(None));
        (Self(payment).into(), Effects { stream, ..Effects::default() })
    }

    fn on_response(self, context: Context<'_>, head: &UpstreamHead) -> Next {
        let Self(payment) = self;
        if head.is_error() {
            let remove = if head.settlement_overrides.is_some() { vec![SETTLEMENT_OVERRIDES] } else { Vec::new() };
            let stream = Stream::Deliver(ResponseEdits { remove, ..ResponseEdits::default() });
            return payment.finish(Some(Operation::Release), Outcome::UpstreamFailed, "", None, stream);
        }
        if payment.purchase.is_metered() {
            return metering::begin(payment, context, head);
        }
        begin_settlement(payment, context, Waiter::Response(Delivery::of(head)))
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
