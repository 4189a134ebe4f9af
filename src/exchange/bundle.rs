//! A bundle: the payment that buys one, and the requests of a payer who signs in to use it up.
//!
//! Such a request is served like one that is paid for, but that the ledger sets its part of the bundle aside where another's
//! payment is verified, and charges it where another's is settled: no callout is needed. A payment for a bundle is one like any
//! other. Once it has settled, what it bought is in the ledger before anything is given for it; the request that came with it
//! uses the bundle as any later one does.

use std::sync::Arc;

use super::channel::Holding;
use super::delivery::{Delivery, Spending, end_unrecorded};
use super::event::SETTLEMENT_OVERRIDES;
use super::grant::name_of;
use super::pricing::Measured;
use super::purchase::{Payment, Proof, Purchase};
use super::quote::Quote;
use super::reply::EXPOSED_REMAINING;
use super::serving::Serving;
use super::settlement::{CHARGED_LATER, Waiter};
use super::state::State;
use super::{Context, Effects, Event, Next, Outcome, PricedRequest, Record, Reply, ResponseEdits, Stream, Tail};
use crate::config::{BundleTerms, Offer};
use crate::evm::keccak256;
use crate::facilitator::Unknown;
use crate::ledger::bundles::IS_BUILT_IN;
use crate::ledger::{Answer, BundleOperation, Operation, PaymentKey};
use crate::money::Amount;
use crate::time::UnixTime;
use crate::x402::bundle::REMAINING;
use crate::x402::payment::Payer;
use crate::x402::sign_in::SignInError;
use crate::x402::{TransactionId, Version, reason};

/// Seconds before the end of a hold from which on a response that streams renews it.
const RENEWAL_SECONDS: u64 = 30;

/// A payer who has signed in on a route that sells bundles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visitor {
    pub(super) payer: Payer,
    /// The key of the nonce that was signed.
    pub(super) nonce: PaymentKey,
    /// Until when the nonce is remembered.
    pub(super) until: UnixTime,
}

/// The bundle that a purchase adds to, or that a request is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BundleUse {
    /// The key of the payer's bundle.
    key: PaymentKey,
    /// True if a request takes one call, and not its price.
    takes_calls: bool,
    /// The entry for the request alone, by which it is charged.
    single: Arc<Offer>,
    /// True if the request is charged to the bundle, and not to a payment of its own.
    is_visit: bool,
}

/// What a request has heard of its bundle, and has of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Drawn {
    /// The time until which its part is set aside; `None` where nothing is.
    until: Option<UnixTime>,
    /// The amount that was left, when the ledger was last asked.
    left: Option<u128>,
    /// The transaction of the payment that came with the request and bought the bundle.
    bought: Option<TransactionId>,
}

impl BundleUse {
    /// The bundle that a payment by `offer` adds to, where it is one for a bundle.
    pub(super) fn bought_by(
        context: Context<'_>,
        request: &PricedRequest,
        quote: &Quote,
        offer: &Offer,
        payer: &Payer,
    ) -> Option<Self> {
        if !IS_BUILT_IN {
            return None;
        }
        offer.requirement.bundle?;
        let single = quote
            .offers()
            .iter()
            .find(|other| other.requirement.bundle.is_none() && other.requirement.has_rail_of(&offer.requirement))?;
        Self::new(context, request, single, payer, false)
    }

    fn new(
        context: Context<'_>,
        request: &PricedRequest,
        single: &Arc<Offer>,
        payer: &Payer,
        is_visit: bool,
    ) -> Option<Self> {
        let BundleTerms { takes_calls, price } = request.terms.bundle.as_ref()?;
        // The parts before the route's name have one length each.
        let place = keccak256(&[&context.secret[..], price, request.route.as_bytes()].concat());
        let key = PaymentKey::of_bundle(&place, &name_of(payer)?);
        Some(Self { key, takes_calls: *takes_calls, single: Arc::clone(single), is_visit })
    }

    /// Returns what a request takes that costs so much.
    fn taken_by(&self, price: Amount) -> u128 {
        if self.takes_calls { 1 } else { u128::try_from(price.to_integer()).unwrap_or(u128::MAX) }
    }

    /// Returns what is set aside for a request.
    fn most(&self) -> u128 {
        self.taken_by(self.single.requirement.amount)
    }
}

impl Purchase {
    /// Returns whether the payment buys a bundle.
    pub(super) fn buys_bundle(&self) -> bool {
        IS_BUILT_IN && self.bundle.as_ref().is_some_and(|bundle| !bundle.is_visit)
    }

    /// Returns whether the request is charged to a bundle.
    pub(super) fn is_visit(&self) -> bool {
        IS_BUILT_IN && self.bundle.as_ref().is_some_and(|bundle| bundle.is_visit)
    }

    /// Returns whether the charge of a request that a bundle pays for is known only once the response is there.
    pub(super) fn is_metered_visit(&self) -> bool {
        let is_metered = |bundle: &BundleUse| bundle.is_visit && !bundle.takes_calls && self.offer.rates.is_some();
        IS_BUILT_IN && self.bundle.as_ref().is_some_and(is_metered)
    }

    /// The same request, charged to the bundle that its payment has bought.
    fn as_visit(&self) -> Self {
        let mut visit = self.clone();
        if let Some(bundle) = &mut visit.bundle {
            bundle.is_visit = true;
            visit.offer = Arc::clone(&bundle.single);
        }
        // Its body went on as it came.
        if let Some(job) = &mut visit.job {
            job.wish = None;
        }
        visit.expires = UnixTime::from_secs(u64::MAX);
        visit
    }
}

impl Payment {
    /// Returns whether the request is charged to a bundle.
    pub(super) fn is_visit(&self) -> bool {
        self.purchase.is_visit()
    }

    /// Returns the transaction that bought the bundle to which the request is charged, where that came with it.
    pub(super) const fn bought(&self) -> Option<TransactionId> {
        self.drawn.bought
    }

    fn ask_bundle<S: Into<super::Exchange>>(self, operation: BundleOperation, wait: impl FnOnce(Self) -> S) -> Next {
        let ledger = self.bundle_operation(operation);
        (wait(self).into(), Effects { ledger, ..Effects::default() })
    }

    fn bundle_operation(&self, operation: BundleOperation) -> Option<(PaymentKey, Operation)> {
        self.purchase.bundle.as_ref().map(|bundle| (bundle.key, Operation::Bundle(operation)))
    }

    /// Returns what gives back what is set aside for the request; `None` where nothing is.
    pub(super) fn release_of_bundle(&self) -> Option<(PaymentKey, Operation)> {
        self.drawn.until.filter(|_| IS_BUILT_IN)?;
        self.bundle_operation(BundleOperation::GiveBack)
    }

    /// Returns from when on the hold on it is to be renewed; `None` where there is none.
    pub(super) const fn renews_bundle_at(&self) -> Option<UnixTime> {
        match self.drawn.until {
            Some(until) => Some(UnixTime::from_secs(until.as_secs().saturating_sub(RENEWAL_SECONDS))),
            None => None,
        }
    }

    /// Returns what keeps it set aside, where the hold is about to end.
    pub(super) fn renew_bundle(&mut self, context: Context<'_>) -> Option<(PaymentKey, Operation)> {
        let until = self
            .drawn
            .until
            .filter(|_| IS_BUILT_IN && self.renews_bundle_at().is_some_and(|renews| context.now >= renews))?;
        let until = self.purchase.surely_served(context).max(until.plus(1));
        self.drawn.until = Some(until);
        self.bundle_operation(BundleOperation::Renew { until })
    }

    /// Returns the record of a request without a payment of its own; `None` where it has one.
    pub(super) fn visit_record(&self, outcome: Outcome, reason: &str) -> Option<Record> {
        if !self.is_visit() || self.drawn.bought.is_some() {
            return None;
        }
        let outcome = if outcome == Outcome::Served { Outcome::SignedIn } else { outcome };
        let visitor = Some(self.payer.clone());
        Some(Record { visitor, ..Record::new(&self.purchase.route, outcome, reason) })
    }

    /// Adds what is left of the bundle to the edits of a response.
    pub(super) fn tell_left(&self, edits: &mut ResponseEdits) {
        if let Some(left) = self.drawn.left.filter(|_| IS_BUILT_IN) {
            edits.set.push((REMAINING, left.to_string()));
            let (name, value) = EXPOSED_REMAINING;
            edits.add.push((name, value.to_owned()));
        }
    }

    /// Returns the edits of a stream that is charged to a bundle when it ends. What it will take at most is taken off already.
    pub(super) fn edits_of_stream(&self, delivery: Delivery) -> ResponseEdits {
        let mut edits = delivery.before_receipt();
        if let Some(transaction) = self.drawn.bought.filter(|_| IS_BUILT_IN) {
            let receipt = self.receipt(Ok(Some(transaction)));
            edits.set.push((self.purchase.version.receipt_header(), receipt.to_header()));
        }
        self.tell_left(&mut edits);
        edits
    }
}

// --------------------------------------------------------------------------------------------------- a payer comes back

/// State: a payer who has signed in wants to use a bundle, and the ledger is asked for that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entering(Box<Entrance>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entrance {
    /// The request as it goes on where there is no bundle.
    measured: Measured,
    quote: Quote,
    payment: Payment,
    visitor: Visitor,
    asks: Asks,
}

/// What the ledger is asked: in this order, so that nobody without a bundle has a nonce remembered, and nobody who repeats
/// another's message keeps that one from the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asks {
    /// Whether enough is left.
    Balance,
    /// Whether the nonce is new.
    Nonce,
    /// To set the request's part aside.
    Part,
}

/// Takes in a request whose payer has signed in, once its price is known.
pub(super) fn begin(context: Context<'_>, mut measured: Measured, quote: Quote, visitor: &Visitor) -> Next {
    if !IS_BUILT_IN {
        return measured.pay(context, quote);
    }
    let Some(payment) = visit(context, &measured, &quote, visitor) else { return measured.pay(context, quote) };
    let rewrite = measured.rewrite.take();
    let visitor = visitor.clone();
    let entrance = Entrance { measured, quote, payment, visitor, asks: Asks::Balance };
    let (exchange, effects) = entrance.ask(context, Asks::Balance);
    (exchange, Effects { rewrite, ..effects })
}

/// Returns what the request is served by: the payer's bundle.
fn visit(context: Context<'_>, measured: &Measured, quote: &Quote, visitor: &Visitor) -> Option<Payment> {
    let request = &measured.request;
    let is_single = |offer: &&Arc<Offer>| offer.requirement.bundle.is_none() && !offer.requirement.scheme.is_metered();
    let offer = quote.offers().iter().find(is_single)?;
    let bundle = BundleUse::new(context, request, offer, &visitor.payer, true)?;
    let forever = UnixTime::from_secs(u64::MAX);
    let purchase = Purchase {
        route: Arc::clone(&request.route),
        quote: quote.clone(),
        offer: Arc::clone(offer),
        facilitators: Vec::new(),
        key: visitor.nonce,
        identifier: None,
        expires: forever,
        settles_until: forever,
        received: context.now,
        transfer: None,
        resource: None,
        version: Version::V2,
        json: String::new(),
        url: request.url(context),
        unwanted: request.head.unwanted(context.config, Some(&request.terms)),
        job: measured.job.clone(),
        channel: None,
        bundle: Some(bundle),
    };
    Some(Payment {
        purchase: Arc::new(purchase),
        payer: visitor.payer.clone(),
        proof: Proof::Ledger,
        alias_key: None,
        binding: visitor.nonce.binding(),
        charge: None,
        holding: Holding::default(),
        trust: None,
        drawn: Drawn::default(),
    })
}

impl Entrance {
    fn ask(self, context: Context<'_>, asks: Asks) -> Next {
        let Self { payment, visitor, .. } = &self;
        let amount = payment.purchase.bundle.as_ref().map_or(u128::MAX, BundleUse::most);
        let ledger = match asks {
            Asks::Balance => payment.bundle_operation(BundleOperation::Check { amount }),
            Asks::Nonce => Some((visitor.nonce, Operation::ConsumeNonce { expires: visitor.until })),
            Asks::Part => {
                let until = payment.purchase.surely_served(context);
                payment.bundle_operation(BundleOperation::Take { amount, until })
            }
        };
        (Entering(Box::new(Self { asks, ..self })).into(), Effects { ledger, ..Effects::default() })
    }

    fn on_answer(mut self, context: Context<'_>, answer: Answer) -> Next {
        match (self.asks, answer) {
            (Asks::Balance, Answer::Left(_)) => self.ask(context, Asks::Nonce),
            (Asks::Nonce, Answer::Granted) => self.ask(context, Asks::Part),
            (Asks::Part, Answer::Left(left)) => {
                let until = Some(self.payment.purchase.surely_served(context));
                self.payment.drawn = Drawn { until, left: Some(left), bought: None };
                Serving::begin(self.payment)
            }
            (Asks::Balance | Asks::Part, Answer::NotHeld) => self.measured.pay(context, self.quote),
            (Asks::Nonce, Answer::Spent) => self.turn_away(context, &SignInError::Nonce.to_string()),
            (Asks::Part, Answer::InFlight) => {
                let error = "too many requests at a time are charged to one bundle";
                self.turn_back(context, error, error)
            }
            (Asks::Nonce, _) => self.turn_back(context, "too many sign in at a time", "the nonce cannot be remembered"),
            _ => self.turn_back(context, "nobody can sign in at the moment", "the ledger did not answer"),
        }
    }

    /// Goes on with a payment that came as well, or else says why the sign-in is invalid.
    fn turn_away(self, context: Context<'_>, error: &str) -> Next {
        let Self { measured, quote, .. } = self;
        let request = &measured.request;
        if request.head.has_payment() {
            return measured.pay(context, quote);
        }
        let reply = Reply::payment_required(context, error, &quote, &request.url(context));
        Effects::end_with(&request.route, Outcome::Refused, error, reply)
    }

    /// Goes on with a payment that came as well, and else asks for patience. Never for a payment: whoever has paid would pay
    /// again.
    fn turn_back(self, context: Context<'_>, error: &str, reason: &str) -> Next {
        let Self { measured, quote, .. } = self;
        if measured.request.head.has_payment() {
            return measured.pay(context, quote);
        }
        measured.request.overloaded(error, reason)
    }
}

impl State for Entering {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Ledger(answer) if IS_BUILT_IN => self.0.on_answer(context, answer),
            _ => self.ignore(event),
        }
    }
}

// -------------------------------------------------------------------------------------------------- a request is charged

/// State: the ledger is told what a request costs that a bundle pays for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Drawing {
    payment: Payment,
    waiter: Waiter,
    /// Atomic units, or calls, that it costs.
    amount: u128,
}

/// Charges a request of this price to its bundle. An error of the upstream costs nothing.
pub(super) fn charge(payment: Payment, waiter: Waiter, price: Amount) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let amount = match (waiter, &payment.purchase.bundle) {
        (Waiter::ErrorResponse(_), _) | (_, None) => 0,
        (_, Some(bundle)) => bundle.taken_by(price),
    };
    let is_out = waiter.has_response();
    payment.ask_bundle(BundleOperation::Charge { amount, is_out }, |payment| Drawing { payment, waiter, amount })
}

/// Charges a request of a fixed price to its bundle.
pub(super) fn charge_whole(payment: Payment, waiter: Waiter) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let price = payment.purchase.requirement().amount;
    charge(payment, waiter, price)
}

impl State for Drawing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Ledger(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { mut payment, waiter, amount } = self;
        let is_error = matches!(waiter, Waiter::ErrorResponse(_));
        payment.drawn.left = match answer {
            Answer::Left(left) => {
                payment.drawn.until = None;
                Some(left)
            }
            // What costs nothing passes, whatever the ledger says.
            _ if is_error => None,
            Answer::NotHeld => {
                payment.drawn.until = None;
                let (exchange, effects) = payment.refuse(context, None, Outcome::Refused, reason::BUNDLE_USED_UP);
                return (exchange, Effects { stream: waiter.fit(effects.stream), ..effects });
            }
            _ if waiter.has_response() => return charge_later(payment, waiter, amount),
            // What was set aside is given back.
            _ => {
                let (exchange, effects) = payment.out_of_order();
                return (exchange, Effects { stream: waiter.fit(effects.stream), ..effects });
            }
        };
        let bought = payment.drawn.bought;
        match waiter {
            Waiter::ErrorResponse(delivery) => {
                let outcome = if bought.is_some() { Outcome::SettledUpstreamFailed } else { Outcome::UpstreamFailed };
                let edits = edits(context, &payment, delivery, true);
                payment.finish(None, outcome, "", bought, Stream::Deliver(edits))
            }
            Waiter::Response(delivery) => {
                let edits = edits(context, &payment, delivery, false);
                payment.finish(None, Outcome::Served, "", bought, Stream::Deliver(edits))
            }
            Waiter::StreamEnd => {
                let tail = tail(context, &payment);
                payment.finish(None, Outcome::Served, "", bought, Stream::Finish(tail))
            }
            _ => payment.finish(None, Outcome::Billed, "", bought, Stream::Hold),
        }
    }

    fn end(self) -> Next {
        Self { waiter: Waiter::NobodyOfStream, ..self }.stay()
    }

    fn could_be_sold(&self) -> bool {
        matches!(self.waiter, Waiter::Response(_))
    }
}

/// Ends a request whose response is out while the ledger does not answer: it is told once more what that costs, and nobody waits.
fn charge_later(mut payment: Payment, waiter: Waiter, amount: u128) -> Next {
    let ledger = payment.bundle_operation(BundleOperation::Charge { amount, is_out: true });
    payment.drawn.until = None;
    let (stream, outcome) = waiter.end_without_answer();
    let bought = payment.drawn.bought;
    let (exchange, effects) = payment.finish(None, outcome, CHARGED_LATER, bought, stream);
    (exchange, Effects { ledger, ..effects })
}

/// Returns the edits of a response that is charged to a bundle.
fn edits(context: Context<'_>, payment: &Payment, delivery: Delivery, is_error: bool) -> ResponseEdits {
    if payment.drawn.bought.is_some() {
        return delivery.with_receipt(payment, &payment.receipt_of_service(context, payment.drawn.bought));
    }
    let mut edits = match is_error {
        true => ResponseEdits { remove: vec![SETTLEMENT_OVERRIDES], ..ResponseEdits::default() },
        false => delivery.private(),
    };
    payment.tell_left(&mut edits);
    edits
}

/// Returns what stands behind a stream: what is left, and the receipt of the payment that came with it.
fn tail(context: Context<'_>, payment: &Payment) -> Tail {
    let mut tail = match payment.drawn.bought {
        Some(transaction) => Tail::receipt(context, payment, Some(transaction)),
        None => Tail::default(),
    };
    let left = payment.drawn.left.unwrap_or(0).to_string();
    tail.comment.push_str(&[": ", REMAINING, " ", &left, "\n\n"].concat());
    tail.trailers.push((REMAINING, left));
    tail
}

// ----------------------------------------------------------------------------------------------------- a bundle is bought

/// State: the money for a bundle has moved, and the ledger is told what that has bought.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Buying {
    payment: Payment,
    waiter: Waiter,
    transaction: TransactionId,
}

/// State: the payer has the bundle, and the ledger is told that the payment buys nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bought {
    payment: Payment,
    /// True if the upstream has the request already.
    has_upstream: bool,
    transaction: TransactionId,
}

/// State: the part of the request is asked for whose payment has bought the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FirstDrawing {
    payment: Payment,
    has_upstream: bool,
}

/// Records what a payment has bought that has settled. A response that is there already is charged in the same step.
pub(super) fn buy(payment: Payment, context: Context<'_>, waiter: Waiter, transaction: TransactionId) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let (Some(sold), Some(bundle)) = (payment.purchase.requirement().bundle, &payment.purchase.bundle) else {
        return payment.out_of_order();
    };
    let used = if matches!(waiter, Waiter::Response(_)) { bundle.most() } else { 0 };
    let (key, expires) = (payment.purchase.key, context.now.plus(sold.lasts));
    let operation = BundleOperation::Buy { payment: key, amount: sold.size(), used, expires };
    payment.ask_bundle(operation, |payment| Buying { payment, waiter, transaction })
}

impl State for Buying {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Ledger(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { mut payment, waiter, transaction } = self;
        let spend = Operation::Spend { transaction };
        let named = Some(transaction);
        let (exchange, effects) = match (answer, waiter) {
            (Answer::Left(left), _) => {
                payment.drawn.left = Some(left);
                match waiter {
                    Waiter::Response(delivery) => return Spending::begin(payment, delivery, transaction),
                    Waiter::Request | Waiter::Upstream => {
                        let has_upstream = waiter == Waiter::Upstream;
                        return payment.ask_ledger(spend, |payment| Bought { payment, has_upstream, transaction });
                    }
                    Waiter::ErrorResponse(delivery) => {
                        let edits = delivery.with_receipt(&payment, &payment.receipt(Ok(named)));
                        let (outcome, stream) = (Outcome::SettledUpstreamFailed, Stream::Deliver(edits));
                        payment.finish(Some(spend), outcome, "", named, stream)
                    }
                    _ => payment.finish(Some(spend), Outcome::Abandoned, "", named, Stream::Hold),
                }
            }
            // An earlier request with the same payment came as far as this.
            (Answer::Spent, _) => payment.refuse(context, Some(spend), Outcome::Spent, reason::NONCE_USED),
            _ => payment.end_unknown(Some(Operation::Forget { named }), Unknown::Unrecorded),
        };
        (exchange, Effects { stream: waiter.fit(effects.stream), ..effects })
    }

    fn end(self) -> Next {
        let waiter = self.waiter.without_client();
        Self { waiter, ..self }.stay()
    }

    fn could_be_sold(&self) -> bool {
        self.waiter.could_be_sold() || self.waiter == Waiter::Upstream
    }
}

impl State for Bought {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Ledger(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { payment, has_upstream, transaction } = self;
        if answer != Answer::Granted {
            return end_unrecorded(payment, transaction);
        }
        let price = payment.purchase.requirement().amount;
        let purchase = Arc::new(payment.purchase.as_visit());
        let drawn = Drawn { bought: Some(transaction), ..payment.drawn };
        let payment = Payment { purchase, drawn, charge: Some(price), alias_key: None, ..payment };
        let amount = payment.purchase.bundle.as_ref().map_or(u128::MAX, BundleUse::most);
        let until = payment.purchase.surely_served(context);
        payment.ask_bundle(BundleOperation::Take { amount, until }, |payment| FirstDrawing { payment, has_upstream })
    }

    fn could_be_sold(&self) -> bool {
        self.has_upstream
    }
}

impl State for FirstDrawing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Ledger(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { mut payment, has_upstream } = self;
        match answer {
            Answer::Left(left) => {
                payment.drawn.until = Some(payment.purchase.surely_served(context));
                payment.drawn.left = Some(left);
                if has_upstream { Serving::join(payment) } else { Serving::begin(payment) }
            }
            // Requests that came at the same time have used up what was just bought.
            Answer::NotHeld | Answer::InFlight => {
                let (bought, error) = (payment.drawn.bought, "the bundle is bought, and used up by other requests");
                let receipt = payment.receipt(Ok(bought));
                let reply = Reply::error(409, error).with_receipt(payment.purchase.version, &receipt);
                payment.finish(None, Outcome::Refused, reason::BUNDLE_USED_UP, bought, Stream::Reply(reply))
            }
            _ => payment.out_of_order(),
        }
    }

    fn could_be_sold(&self) -> bool {
        self.has_upstream
    }
}
