//! One request from its head to its end: a state machine that consumes itself.
//!
//! [`Exchange::start`] and [`Exchange::step`] take what happened and give back the next state and what is to be done.
//! Nothing here does anything. Each state holds just what its end needs, and the last one holds nothing, so a second
//! reply or a second delivery cannot be written down.

mod catalogue;
mod context;
mod effect;
mod event;
mod log_text;
mod meter;
mod payment;
mod quote;
mod receive;
mod record;
mod recoveries;
mod reply;
mod request;
mod settlement;
mod shown_url;
mod visit;

use std::sync::Arc;

use crate::config::{Config, Unmatched};
use crate::ledger::{Answer, Operation, Unheard};
use crate::route::Decision;
use crate::time::UnixTime;
use crate::x402::TransactionId;
pub use context::Context;
pub use effect::{Call, CallKind, Effects, RequestEdits, ResponseEdits, Stream, Tail};
pub use event::{Body, Event, Seen, UpstreamHead};
pub use log_text::LogText;
pub use meter::Meter;
pub use payment::Payment;
pub use receive::Reading;
pub use record::{Outcome, PaymentRecord, Record, SettlementRecord, SettlementResult};
pub use recoveries::{Recoveries, Shed};
pub use reply::Reply;
pub use request::RequestHead;
pub use settlement::{Awaits, Pursuit, Recovery};
pub use shown_url::ShownUrl;
pub use visit::Visit;

/// A request on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// The filter has no more to do with it.
    Over,
    /// A browser's question about a priced route is at the upstream.
    Preflight,
    /// Somebody has signed in, and the ledger is asked whether they have paid.
    Recalling(Box<Visit>),
    /// They have, and the ledger is told what they signed.
    Admitting(Box<Visit>),
    /// Their request is at the upstream.
    Visiting,
    /// The request's body is awaited, by which its price is found.
    Reading(Box<Reading>),
    /// The operator's own service is asked for the price.
    Pricing(Box<Reading>),
    /// The claim is asked for.
    Claiming(Payment),
    /// The claim is asked for that the same payment has left behind.
    Resuming(Payment),
    /// The payment is this request's, and has a name, whose claim is asked for.
    Naming(Payment, Answer),
    /// `/verify` is asked.
    Verifying(Payment),
    /// The upstream has the request, and no money has moved.
    Serving(Payment),
    /// The ledger is told that settlement begins.
    BeginningSettlement(Payment, Then),
    /// The facilitator is asked to settle, and where need be the chain whether it did.
    Settling(Payment, Then, Pursuit),
    /// The money has moved, and the ledger is told.
    Recording(Payment, Then, TransactionId),
    /// The facilitator names the transaction that has moved the money, and the ledger is asked whether that is news.
    Pinning(Payment, Then, TransactionId),
    /// The money has moved, and the upstream has the request.
    Redeeming(Payment, TransactionId),
    /// The response's body is awaited, which tells what was used. Where an earlier try has settled the payment, by this
    /// transaction.
    Weighing(Payment, Then, Option<TransactionId>),
    /// The ledger is told that the payment buys a stream.
    Opening(Payment, Box<Meter>, Then),
    /// The response streams, and is counted.
    Metering(Payment, Box<Meter>),
    /// The claim is asked for, to look into a settlement that nobody waits for.
    Recovering(Payment),
    /// The ledger is told that the payer may come back.
    Granting,
}

/// What follows a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// The request goes to the upstream.
    Forward,
    /// The request is at the upstream already, and its response is to come.
    Join,
    /// The response, which waits, goes to the client.
    Deliver {
        /// Whether its `Cache-Control` keeps shared caches away already.
        keeps_cache_control: bool,
    },
    /// Nobody waits any more: the payment keeps its claim to a response.
    Keep,
    /// The end of the stream that was paid for, which waits, goes to the client.
    Close,
    /// Nobody waits any more: the stream that is paid for is over.
    Bill,
    /// The response, which waits and is an error, goes to the client, and the payment keeps its claim to a better one.
    DeliverError {
        /// Whether its `Cache-Control` keeps shared caches away already.
        keeps_cache_control: bool,
    },
}

/// The state after a step, and what is to be done.
pub type Next = (Exchange, Effects);

impl Exchange {
    /// Takes a request in.
    pub fn start(context: Context<'_>, head: &RequestHead, seen: Seen) -> Next {
        let config = context.config;
        match seen {
            Seen::Here => {
                return Effects { stream: Stream::Forward(RequestEdits::default()), ..Effects::default() }.and_over();
            }
            Seen::Before(route) => return redirected(&route),
            Seen::Never if head.is_redirected() => return redirected(UNKNOWN_ROUTE),
            Seen::Never => {}
        }
        if head.has_too_many_unwanted() {
            return Effects::reply(Reply::error(431, TOO_MANY_HEADERS)).and_over();
        }
        match head.with_target(|target| config.table.decide(target)) {
            Decision::Ambiguous => Effects::reply(Reply::error(400, AMBIGUOUS_PATH)).and_over(),
            Decision::Unmatched if config.is_discoverable && catalogue::is_asked(head) => {
                Effects::reply(Reply::catalogue(catalogue::list(config, head))).and_over()
            }
            Decision::Unmatched if config.unmatched == Unmatched::Deny => {
                Effects::reply(Reply::error(403, "no route takes this request")).and_over()
            }
            Decision::Unmatched | Decision::Free(_) => pass(config, head),
            Decision::Priced(_) if head.is_preflight() && config.admits_origin(&head.text("origin")) => {
                Effects::reply(Reply::leave(head)).and_over()
            }
            Decision::Priced(index) if head.is_preflight() => {
                let passes_for = config.routes.get(index).map(|route| Arc::clone(&route.label));
                let edits = RequestEdits { passes_for, remove: head.unwanted(config, None), set: Vec::new() };
                (Self::Preflight, Effects { stream: Stream::Forward(edits), ..Effects::default() })
            }
            Decision::Priced(index) => {
                match config.routes.get(index).and_then(|route| Some((route, route.terms.as_ref()?))) {
                    Some((route, terms)) if head.principals().any(|principal| terms.is_free_for(principal)) => {
                        let record = Record::new(&route.label, Outcome::Exempt, "");
                        let (exchange, effects) = pass(config, head);
                        (exchange, Effects { record: Some(record), ..effects })
                    }
                    Some((route, _)) if head.has_long_url() => receive::refuse(&route.label, 414, LONG_URL),
                    Some((route, terms)) => Visit::begin(context, head, &route.label, terms)
                        .unwrap_or_else(|| Reading::begin(context, head, &route.label, terms)),
                    None => Effects::reply(Reply::overloaded("this route is not configured")).and_over(),
                }
            }
        }
    }

    /// Takes in what happened. An event that a state does not wait for leaves it as it is.
    pub fn step(self, context: Context<'_>, event: Event) -> Next {
        match (self, event) {
            (Self::Reading(reading), Event::RequestBody(body)) => reading.on_body(context, body),
            (Self::Pricing(reading), Event::Callout(answer)) => reading.on_price(context, &answer),
            (Self::Preflight, Event::Upstream(head)) => Effects::reply(Reply::preflight(head)).and_over(),
            (Self::Recalling(visit), Event::Ledger(answer)) => visit.on_recalled(context, answer),
            (Self::Admitting(visit), Event::Ledger(answer)) => visit.on_nonce(context, answer),
            (Self::Visiting, Event::Upstream(head)) => Visit::on_response(&head),
            (Self::Claiming(payment), Event::Ledger(answer)) => payment.on_claim(context, answer),
            (Self::Resuming(payment), Event::Ledger(answer)) => payment.on_taken(context, answer),
            (Self::Naming(payment, claimed), Event::Ledger(answer)) => payment.on_named(context, claimed, answer),
            (Self::Verifying(payment), Event::Callout(answer)) => payment.on_verification(context, &answer),
            (Self::Serving(payment), Event::Upstream(head)) => payment.on_response(context, &head),
            (Self::Weighing(payment, then, transaction), Event::ResponseBody(body)) => {
                let body = if let Body::Whole(bytes) = &body { Some(bytes.as_slice()) } else { None };
                payment.on_weighed(context, then, transaction, body)
            }
            (Self::Opening(payment, meter, then), Event::Ledger(answer)) => payment.on_opened(meter, then, answer),
            (Self::Metering(payment, meter), Event::ResponseChunk { bytes, is_last }) => {
                payment.on_chunk(context, meter, &bytes, is_last)
            }
            (Self::Metering(payment, meter), Event::Ended | Event::Redirected) => {
                payment.on_stream_ended(context, &meter)
            }
            (Self::Metering(payment, meter), Event::Tick) => payment.on_stream_tick(context, meter),
            (Self::Settling(payment, Then::Join, pursuit), Event::Upstream(head)) => {
                payment.on_joining_response(pursuit, &head)
            }
            (Self::BeginningSettlement(payment, then), Event::Ledger(answer)) => {
                payment.on_settlement_begun(context, then, answer)
            }
            (Self::Settling(payment, then, pursuit), Event::Callout(answer)) => {
                payment.on_answer(context, then, pursuit, &answer)
            }
            (Self::Settling(payment, then, pursuit), Event::Tick) => payment.on_tick(context, then, pursuit),
            (Self::Recovering(payment), Event::Ledger(Answer::GrantedUnknown(unheard))) => {
                payment.pursue(context, Then::Keep, unheard)
            }
            // Somebody else has found out, or is about to.
            (Self::Recovering(_), Event::Ledger(_)) => Effects::default().and_over(),
            (Self::Pinning(payment, then, transaction), Event::Ledger(answer)) => {
                payment.on_pinned(context, then, transaction, answer)
            }
            (Self::Recording(payment, then, transaction), Event::Ledger(answer)) => {
                payment.on_recorded(context, then, transaction, answer)
            }
            (Self::Redeeming(payment, transaction), Event::Upstream(head)) => {
                payment.on_paid_response(transaction, &head)
            }
            (Self::Granting, Event::Ledger(Answer::Full | Answer::Failed)) => {
                Effects { warning: Some(LOST_GRANT), ..Effects::default() }.and_over()
            }
            (Self::Granting, Event::Ledger(_)) => Effects::default().and_over(),
            (Self::Redeeming(payment, transaction), Event::Redirected) => payment.on_redirect(transaction),
            (exchange, Event::Ended | Event::Redirected) => exchange.end(),
            (exchange, Event::Upstream(head)) => exchange.on_stray_response(&head),
            (exchange, _) => (exchange, Effects::default()),
        }
    }

    /// Looks into a settlement that went unheard, when nobody waits for it any more.
    pub fn recover(context: Context<'_>, recovery: Recovery) -> Next {
        let payment = recovery.payment;
        if payment.is_billed {
            let unheard = Unheard { named: recovery.named, since: payment.since, charge: payment.charge };
            return payment.pursue(context, Then::Bill, unheard);
        }
        let until = payment.surely_settled(context);
        payment.ask_ledger(Operation::Recover { until }, Self::Recovering)
    }

    /// When it wants an [`Event::Tick`], if it does.
    pub const fn wakes_at(&self) -> Option<UnixTime> {
        match self {
            Self::Settling(_, _, pursuit) => pursuit.pause(),
            Self::Metering(_, meter) => Some(meter.closes_at()),
            _ => None,
        }
    }

    /// Whether it wants to see the pieces of the response's body.
    pub const fn reads_chunks(&self) -> bool {
        matches!(self, Self::Metering(..))
    }

    /// Whether the filter has no more to do with the request.
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// The request ended before the filter was done with it: its client has gone.
    fn end(self) -> Next {
        let (payment, operation) = match self {
            // Nobody is there any more to get what was paid for, and the log should say so.
            Self::Redeeming(payment, transaction) | Self::Weighing(payment, _, Some(transaction)) => {
                return payment.abandon(transaction);
            }
            // The settlement goes on, and its answer is still worth hearing.
            Self::Settling(payment, then, pursuit) => {
                let then = if matches!(then, Then::Close | Then::Bill) { Then::Bill } else { Then::Keep };
                return (Self::Settling(payment, then, pursuit), Effects::default());
            }
            Self::Claiming(payment)
            | Self::Resuming(payment)
            | Self::Naming(payment, _)
            | Self::Verifying(payment)
            | Self::Serving(payment)
            | Self::Weighing(payment, _, None)
            | Self::BeginningSettlement(payment, _) => (payment, Operation::Release),
            Self::Pinning(payment, _, transaction) => {
                let ledger = Some((payment.key, Operation::Forget { named: Some(transaction) }));
                return Effects { ledger, alias_key: payment.name, ..Effects::default() }.and_over();
            }
            // What the ledger was told last is what happened.
            Self::Over
            | Self::Preflight
            | Self::Recalling(_)
            | Self::Admitting(_)
            | Self::Visiting
            | Self::Reading(_)
            | Self::Pricing(_)
            | Self::Recording(..)
            | Self::Opening(..)
            | Self::Metering(..)
            | Self::Recovering(_)
            | Self::Granting => return Effects::default().and_over(),
        };
        payment.finish(Some(operation), Outcome::Left, "", None, Stream::Hold)
    }

    /// A response that this state does not wait for: the proxy's own, about a request that it gave up on. It passes,
    /// unless it could be what was to be paid for.
    fn on_stray_response(self, head: &UpstreamHead) -> Next {
        let could_be_sold = matches!(
            self,
            Self::BeginningSettlement(_, Then::Deliver { .. })
                | Self::Settling(_, Then::Deliver { .. } | Then::DeliverError { .. }, _)
                | Self::Pinning(_, Then::Join | Then::Deliver { .. } | Then::DeliverError { .. }, _)
                | Self::Recording(_, Then::Join | Then::Deliver { .. }, _)
                | Self::Weighing(..)
                | Self::Opening(..)
        );
        let stream = if could_be_sold && !head.is_error() {
            Stream::Reply(Reply::error(502, "the upstream answered twice"))
        } else {
            Stream::Deliver(ResponseEdits::default())
        };
        let (over, effects) = self.end();
        // Its client is there, and has this answer.
        let record = effects.record.filter(|record| record.outcome != Outcome::Left);
        (over, Effects { stream, record, ..effects })
    }
}

const AMBIGUOUS_PATH: &str = "this path can be read in more than one way; send it without encoded separators, dot segments, backslashes or control characters";

/// Of what the log calls the route of a request that came by before, where only its headers tell that it did.
const UNKNOWN_ROUTE: &str = "-";

/// Stops a request that the proxy has begun anew after it was let through. What it would get now is not what was paid for, and
/// to ask for a payment would be to ask twice.
fn redirected(route: &str) -> Next {
    const REASON: &str = "internal_redirect";
    let error = "the upstream redirected this request inside the proxy, which does not go with what is paid for";
    Effects::end_with(&route.into(), Outcome::Redirected, REASON, Reply::error(502, error))
}

const LOST_GRANT: &str = "a payer's right to come back has no room; raise ledger.max_claims";

const TOO_MANY_HEADERS: &str = "more than 100 headers that only a proxy may send (x-x402-…, x-original-url and their like), or the name of one is longer than 128 bytes";

const LONG_URL: &str = "this URL is longer than 8192 bytes (host, path and query), the most that can be paid for";

/// Lets a request through that has nothing to pay.
fn pass(config: &Config, head: &RequestHead) -> Next {
    let remove = head.unwanted(config, None);
    let edits = RequestEdits { passes_for: None, remove, set: Vec::new() };
    Effects { stream: Stream::Forward(edits), ..Effects::default() }.and_over()
}

impl Effects {
    fn reply(reply: Reply) -> Self {
        Self { stream: Stream::Reply(reply), ..Self::default() }
    }

    /// The end of a request without a payment that counts.
    fn end_with(route: &Arc<str>, outcome: Outcome, reason: &str, reply: Reply) -> Next {
        Self { record: Some(Record::new(route, outcome, reason)), ..Self::reply(reply) }.and_over()
    }

    fn and_over(self) -> Next {
        (Exchange::Over, self)
    }
}
