//! One request from its head to its end: a state machine that consumes itself.
//!
//! [`Exchange::start`] and [`Exchange::step`] take what happened and give back the next state and what is to be done.
//! Nothing here does anything. Each state is a type of its own that holds just what its end needs, with its transitions
//! beside it, and the last one holds nothing, so a second reply or a second delivery cannot be written down.

mod admission;
mod bundle;
mod catalogue;
mod channel;
mod context;
mod cost;
mod decode;
mod delivery;
mod effect;
mod event;
mod flush;
mod grant;
mod head;
mod log_text;
mod matching;
mod metering;
mod payment;
mod preflight;
mod priced;
mod pricing;
mod purchase;
mod quote;
mod record;
mod recoveries;
mod recovery;
mod redeeming;
mod reply;
mod serving;
mod settlement;
mod shadow;
mod shown_url;
mod sight;
mod sign_in;
mod state;
mod trust;

use std::sync::Arc;

use crate::config::Mode;
use crate::time::UnixTime;
use admission::{Claiming, Naming, Resuming, Verifying};
use bundle::{Bought, Buying, Drawing, Entering, FirstDrawing};
use channel::{AwaitingTurn, Charging, Deposited, Owing, RecordingRefund, Refunding, Reserving};
pub use context::Context;
pub use cost::Meter;
use delivery::{Granting, Spending};
pub use effect::{Call, CallKind, Effects, RequestEdits, ResponseEdits, Stream, Tail, Warning};
pub use event::{Body, Event, Seen, UpstreamHead};
use flush::Flushing;
pub use flush::{Flush, Flushed};
pub use head::{Head, Headers, RequestHead};
pub use log_text::LogText;
use metering::{Metering, Opening, Weighing};
use preflight::Preflight;
pub use priced::PricedRequest;
use pricing::{Pricing, Reading};
pub use purchase::{Payment, Purchase};
pub use record::{Outcome, PaymentRecord, Record, SettlementRecord, SettlementResult};
pub use recoveries::{Recoveries, Recovery, Shed};
use recovery::Recovering;
use redeeming::{Redeeming, Reweighing};
pub use reply::Reply;
use serving::{Refused, Serving};
use settlement::{BeginningSettlement, Pinning, Recording, Settling};
use shadow::Shadow;
pub use shown_url::ShownUrl;
pub use sight::{Closer, Fate, Settled, at_first_sight};
use sign_in::{CheckingGrant, ConsumingNonce, Visiting};
use state::State;
pub use trust::Trust;
use trust::{Delivering, Repaid, Repaying, Trusting};

/// The state after a step, and what is to be done.
pub type Next = (Exchange, Effects);

/// Defines the exchange as one of its states: each is a type of its own, which says what it waits for.
macro_rules! states {
    ($($(#[$doc:meta])* $state:ident,)+) => {
        /// A request on its way: the state that it is in.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Exchange {
            /// The filter has no more to do with the request.
            Over,
            $($(#[$doc])* $state($state),)+
        }

        $(impl From<$state> for Exchange {
            fn from(state: $state) -> Self {
                Self::$state(state)
            }
        })+

        impl Exchange {
            /// Takes in what happened. An event that a state does not wait for leaves it as it is.
            pub fn step(self, context: Context<'_>, event: Event) -> Next {
                match self {
                    Self::Over => over(&event),
                    $(Self::$state(state) => state.handle(context, event),)+
                }
            }
        }
    };
}

states! {
    /// The request pays nothing, and what would become of it is being found out.
    Shadow,
    /// A browser's question about a priced route is at the upstream.
    Preflight,
    /// The ledger is asked whether a payer who has signed in has a grant.
    CheckingGrant,
    /// The ledger is told which nonce a payer who has a grant has signed.
    ConsumingNonce,
    /// The request of a payer who came back is at the upstream.
    Visiting,
    /// The request's body is awaited, by which its price is found.
    Reading,
    /// The operator's own service is asked for the price.
    Pricing,
    /// The claim is asked for.
    Claiming,
    /// The claim is asked for that the same payment has left behind.
    Resuming,
    /// The claim of the payment's name is asked for.
    Naming,
    /// `/verify` is asked.
    Verifying,
    /// The upstream has the request, and no money has moved.
    Serving,
    /// The upstream refuses a request that the filter has added something to; the body of its answer is awaited, which tells
    /// whether for that.
    Refused,
    /// The response's body is awaited, which tells what was used.
    Weighing,
    /// The ledger is told that the payment buys a stream.
    Opening,
    /// The response streams, and is counted.
    Metering,
    /// The ledger is told that settlement begins.
    BeginningSettlement,
    /// The facilitator is asked to settle, and where need be the chain whether it did.
    Settling,
    /// The ledger is asked whether the transaction is news that the facilitator names.
    Pinning,
    /// The money has moved, the response is yet to come, and the ledger is told.
    Recording,
    /// The money has moved, and the upstream has the request.
    Redeeming,
    /// The money has moved, and the body of the response is awaited, which tells what was used this time.
    Reweighing,
    /// The money has moved, the response is there, and the ledger is told.
    Spending,
    /// The response is on its way, and the ledger is told that its payer may come back.
    Granting,
    /// A payer who has signed in wants to use a bundle, and the ledger is asked for that.
    Entering,
    /// The ledger is told what a request costs that a bundle pays for.
    Drawing,
    /// The money for a bundle has moved, and the ledger is told.
    Buying,
    /// The payer has the bundle, and the ledger is told that the payment buys nothing more.
    Bought,
    /// The part of the request is asked for whose payment has bought the bundle.
    FirstDrawing,
    /// A channel is asked for.
    Reserving,
    /// Another request has the channel.
    AwaitingTurn,
    /// The ledger is told what the response costs that is paid out of a channel.
    Charging,
    /// A channel is asked for once more, for what is delivered is yet to be charged.
    Owing,
    /// The ledger is told that a deposit stands in its channel.
    Deposited,
    /// The facilitator is asked to give back what a channel holds.
    Refunding,
    /// The money is given back, and the ledger is told.
    RecordingRefund,
    /// Everything is being claimed, for an operator.
    Flushing,
    /// It is asked whether the request may be served before its payment settles.
    Trusting,
    /// The response is there that leaves before its payment settles, and the ledger is told.
    Delivering,
    /// The money of a payer who owes has moved, and is counted against the debt.
    Repaying,
    /// The money has paid of the debt, and the ledger is told that the payment buys nothing else.
    Repaid,
    /// The claim is asked for, to look into a settlement that nobody waits for.
    Recovering,
}

/// A response that comes after the end passes: it is the one that the filter has let through, or its own.
fn over(event: &Event) -> Next {
    let stream = match event {
        Event::Upstream(_) => Stream::Deliver(ResponseEdits::default()),
        _ => Stream::Hold,
    };
    Effects { stream, ..Effects::default() }.and_over()
}

impl Exchange {
    /// Takes a request in.
    pub fn start(context: Context<'_>, head: &Arc<RequestHead>, seen: Seen) -> Next {
        match sight::decide(context.config, head, seen) {
            Ok(settled) => Effects::from(settled).and_over(),
            Err(closer) => Self::look_closer(context, head, closer),
        }
    }

    /// Takes in a request whose head alone does not decide about it.
    pub fn look_closer(context: Context<'_>, head: &Arc<RequestHead>, closer: Closer) -> Next {
        match closer {
            Closer::Flush => flush::begin(context, head),
            Closer::Priced(index) => start_priced(context, head, index),
        }
    }

    /// Looks into a settlement that went unheard, when nobody waits for it any more.
    pub fn recover(context: Context<'_>, recovery: Recovery) -> Next {
        recovery::begin(context, recovery)
    }

    /// Returns when the exchange wants an [`Event::Tick`], if it does.
    pub fn wakes_at(&self) -> Option<UnixTime> {
        match self {
            Self::Settling(settling) => settling.pause(),
            Self::Metering(metering) => Some(metering.wakes_at()),
            // As soon as there is a tick: nobody tells it of the other's end.
            Self::AwaitingTurn(_) | Self::Flushing(_) => Some(UnixTime::from_secs(0)),
            _ => None,
        }
    }

    /// Returns whether the exchange wants its ticks in quick succession.
    pub const fn is_impatient(&self) -> bool {
        matches!(self, Self::AwaitingTurn(_))
    }

    /// Returns whether the exchange waits for nothing but the ledger's word that the payment has bought the response that is there:
    /// where its client leaves before that comes, the payment has bought nothing after all.
    pub fn is_about_to_deliver(&self) -> bool {
        match self {
            Self::Spending(spending) => spending.is_of_response_alone(),
            Self::Opening(opening) => opening.is_of_response_alone(),
            _ => false,
        }
    }

    /// Returns whether the exchange wants to see the pieces of the response's body.
    pub const fn reads_chunks(&self) -> bool {
        matches!(self, Self::Metering(_) | Self::Weighing(_))
    }

    /// Returns whether the filter has no more to do with the request.
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }
}

/// Takes in a request for a priced route, by its index.
fn start_priced(context: Context<'_>, head: &Arc<RequestHead>, index: usize) -> Next {
    let config = context.config;
    let Some((route, terms)) = config.routes.get(index).and_then(|route| Some((route, route.terms.as_ref()?))) else {
        return Effects::reply(Reply::overloaded("this route is not configured")).and_over();
    };
    let (label, terms) = (Arc::clone(&route.label), Arc::clone(terms));
    let request = PricedRequest { head: Arc::clone(head), route: label, terms, visitor: None };
    match request.terms.mode {
        Mode::Shadow => shadow::begin(context, request),
        Mode::Enforce if head.is_preflight() => preflight::begin(context, head, &route.label),
        Mode::Enforce => take_in(context, request),
    }
}

/// Takes in a request that is to pay, unless its caller need not.
fn take_in(context: Context<'_>, request: PricedRequest) -> Next {
    let PricedRequest { head, route, terms, .. } = &request;
    if head.principals().any(|principal| terms.is_free_for(principal)) {
        let record = Some(Record::new(route, Outcome::Exempt, ""));
        return Effects { record, ..Settled::pass(context.config, head).into() }.and_over();
    }
    if request.head.has_long_url() {
        return request.refuse(414, LONG_URL);
    }
    sign_in::begin(context, request)
}

const AMBIGUOUS_PATH: &str = "this path can be read in more than one way; send it without encoded separators, dot segments, backslashes or control characters";

const UNMATCHED: &str = "no route takes this request";

/// Of what the log calls the route of a request that came by before, where only its headers tell that it did.
const UNKNOWN_ROUTE: &str = "-";

/// Stops a request that the proxy has begun anew after it was let through. What it would get now is not what was paid for, and
/// to ask for a payment would be to ask twice.
fn redirected(route: &str) -> Settled {
    const REASON: &str = "internal_redirect";
    let error = "the upstream redirected this request inside the proxy, which does not go with what is paid for";
    Settled::end_with(Record::new(&route.into(), Outcome::Redirected, REASON), Reply::error(502, error))
}

const TOO_MANY_HEADERS: &str = "more than 100 headers that only a proxy may send (x-x402-…, x-original-url and their like), or the name of one is longer than 128 bytes";

const LONG_URL: &str = "this URL is longer than 8192 bytes (host, path and query), the most that can be paid for";
