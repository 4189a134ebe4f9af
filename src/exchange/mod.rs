//! One request from its head to its end: a state machine that consumes itself.
//!
//! [`Exchange::start`] and [`Exchange::step`] take what happened and give back the next state and what is to be done.
//! Nothing here does anything. Each state holds just what its end needs, and the last one holds nothing, so a second
//! reply or a second delivery cannot be written down.

mod catalogue;
mod log_text;
mod meter;
mod payment;
mod quote;
mod receive;
mod recoveries;
mod reply;
mod request;
mod settlement;
mod shown_url;
mod visit;

use std::sync::Arc;

use crate::config::{Config, Service, Unmatched};
use crate::facilitator::{CalloutAnswer, Supported};
use crate::ledger::{Answer, Operation, PaymentKey, Unheard};
use crate::route::Decision;
use crate::time::UnixTime;
use crate::x402::TransactionId;
use crate::x402::payment::Payer;
pub use log_text::LogText;
pub use meter::Meter;
pub use payment::Payment;
pub use receive::Reading;
pub use recoveries::{Recoveries, Shed};
pub use reply::Reply;
pub use request::RequestHead;
pub use settlement::{Awaits, Pursuit, Recovery};
pub use shown_url::ShownUrl;
pub use visit::Visit;

/// What may happen to a request after its head came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The ledger has carried out [`Effects::ledger`].
    Ledger(Answer),
    /// The callout of [`Effects::call`] is over.
    Callout(CalloutAnswer),
    /// The head of the upstream's response, or of the proxy's own where the upstream failed.
    Upstream(UpstreamHead),
    /// The request's body, for [`Stream::Read`].
    RequestBody(Body),
    /// The response's body, for [`Stream::Read`].
    ResponseBody(Body),
    /// A piece of the response's body, for a state that [`Exchange::reads_chunks`].
    ResponseChunk {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether the body ends with it.
        is_last: bool,
    },
    /// Time has passed. For a state that waits for nothing else; see [`Exchange::wakes_at`].
    Tick,
    /// The request is over, whatever state it was in: answered, or its client gone.
    Ended,
    /// The proxy follows a redirect of the upstream by itself: the request is over as such, and begins anew.
    Redirected,
}

/// A body that was to be read whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// It is longer than it may be.
    TooLong,
    /// The host keeps bodies to itself while a head is held.
    Unreachable,
}

/// What matters of the head of the upstream's response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamHead {
    /// HTTP status.
    pub status: u16,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// Whether it is the head of a gRPC response that failed without a message: `grpc-status` is there, and not 0.
    pub grpc_failed: bool,
    /// What it says to browsers about requests of other origins: `access-control-…`, `vary` and `allow`.
    pub cors: Vec<(String, String)>,
    /// Whether a body follows.
    pub has_body: bool,
    /// Whether it is a stream of events (`text/event-stream`).
    pub is_event_stream: bool,
    /// Whether its body is compressed, or encoded in another way.
    pub is_encoded: bool,
    /// `Settlement-Overrides`: what the upstream says of the charge.
    pub settlement_overrides: Option<String>,
}

/// What is to be done after a step, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be carried out on the claim of this payment, and answered by [`Event::Ledger`].
    pub ledger: Option<(PaymentKey, Operation)>,
    /// The claim of the payment's name, on which the same is to be carried out; nobody asks what came of it.
    pub shadow: Option<PaymentKey>,
    /// What to remember of the exchange, where there is something new.
    pub record: Option<Record>,
    /// What came of a settlement, where something new is known of one.
    pub settlement: Option<SettlementRecord>,
    /// To be sent, and answered by [`Event::Callout`].
    pub call: Option<Call>,
    /// Goes to the upstream in place of the body that was read.
    pub rewrite: Option<Vec<u8>>,
    /// Goes to the client in place of the piece of the response's body that was given.
    pub chunk: Option<Vec<u8>>,
    /// To be taken up by [`Exchange::recover`] when it is due, if the proxy still runs then.
    pub recovery: Option<Recovery>,
    /// What becomes of the stream.
    pub stream: Stream,
}

/// A callout: a POST of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// To whom.
    pub service: Arc<Service>,
    /// The path below the service's base path.
    pub path: &'static str,
    /// The JSON.
    pub body: String,
    /// Whether an answer that says how long it holds (`Cache-Control: max-age`) may be used again for the same question.
    pub is_cacheable: bool,
}

/// What becomes of the stream that a request and its response are.
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

/// What stands behind a stream of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// A line of comment for the stream itself.
    pub comment: String,
    /// Trailers, where the protocol carries them.
    pub trailers: Vec<(&'static str, String)>,
}

/// What the filter has done about a request before it is shown its head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Nothing.
    #[default]
    Never,
    /// Another instance of the filter in the same chain has just let it through, for a route that is not free.
    Here,
    /// The filter has let it through for this route, and the proxy has begun it anew by itself: an internal redirect.
    Before(String),
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

/// What became of a request, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of the route, or its index.
    pub route: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
    /// More of why, where there is more: an official error string, mostly.
    pub reason: LogText,
    /// Who has signed in.
    pub visitor: Option<Payer>,
    /// The payment, where one came that could be read.
    pub payment: Option<PaymentRecord>,
}

impl Record {
    /// A record without a payment.
    fn new(route: &Arc<str>, outcome: Outcome, reason: &str) -> Self {
        Self { route: Arc::clone(route), outcome, reason: LogText::new(reason), visitor: None, payment: None }
    }

    /// What is known, by name: all that a log or the filter state gets of it.
    pub fn facts(&self) -> Vec<(&'static str, LogText)> {
        let mut facts = vec![("route", LogText::new(&self.route)), ("outcome", LogText::new(self.outcome.as_str()))];
        let mut add = |name, text: &str| facts.push((name, LogText::new(text)));
        if !self.reason.is_empty() {
            add("reason", &self.reason);
        }
        if let Some(visitor) = &self.visitor {
            add("payer", &visitor.to_string());
        }
        if let Some(payment) = &self.payment {
            // Whoever is named by a payment that nobody has proven has not paid, and may know nothing of it.
            add(if payment.is_proven { "payer" } else { "unproven_from" }, &payment.payer.to_string());
            add("scheme", &payment.scheme);
            add("network", &payment.network);
            add("amount", &payment.amount);
            add("asset", &payment.asset);
            if let Some(transaction) = payment.transaction {
                add("transaction", &transaction.to_string());
            }
        }
        facts
    }
}

/// What came of a settlement, for stats: every transfer of money is told of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementRecord {
    /// The payment. Its amount is what was settled, or was to be.
    pub payment: PaymentRecord,
    /// What came of it.
    pub result: SettlementResult,
}

/// What came of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettlementResult {
    /// The money has moved.
    Settled,
    /// It has not, and will not.
    Refused,
    /// Nobody knows yet.
    Unknown,
}

impl SettlementResult {
    /// The result as one word for stats.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// A payment, for logs and for the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRecord {
    /// Who paid, or is said to pay.
    pub payer: Payer,
    /// Whether the payment was proven: its signature was checked, or the facilitator has verified it. Nobody is called the
    /// payer of one that was not.
    pub is_proven: bool,
    /// Who is paid.
    pub pay_to: String,
    /// `exact`, `upto`, …
    pub scheme: String,
    /// CAIP-2 id.
    pub network: String,
    /// Atomic units.
    pub amount: String,
    /// The token.
    pub asset: String,
    /// The transfer, once it is known.
    pub transaction: Option<TransactionId>,
}

/// What became of a request on a priced route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No payment came; the client has the terms.
    Unpaid,
    /// Nothing was asked of a caller whom the route is free for.
    Exempt,
    /// A payer came back, and signed in.
    SignedIn,
    /// What came could not be read.
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
        }
    }
}

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

/// Everything that a step may look at.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The configuration under which the request came.
    pub config: &'a Config,
    /// The host's clock.
    pub now: UnixTime,
    /// What the facilitator has said of itself.
    pub supported: &'a Supported,
    /// A number that draws among several recipients.
    pub draw: u64,
    /// Random bytes that no client can know, the same for as long as the ledger lives.
    pub secret: [u8; 32],
    /// When the ledger began: what was before, it does not know, nor what an earlier process of the same proxy does while that
    /// one ends.
    pub ledger_since: UnixTime,
}

impl Context<'_> {
    /// Whether a payment that was first seen then can have been used by way of this ledger alone.
    fn is_exclusive_since(&self, seen: UnixTime) -> bool {
        self.config.ledger_exclusive_after.is_some_and(|seconds| seen >= self.ledger_since.plus(seconds))
    }
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
                return Effects { ledger, shadow: payment.name, ..Effects::default() }.and_over();
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
            | Self::Recovering(_) => return Effects::default().and_over(),
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
