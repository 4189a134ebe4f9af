//! What a response turns out to cost, under scheme `upto`.

use std::sync::Arc;

use super::payment::private;
use super::reply::EXPOSED;
use super::{
    Context, Effects, Exchange, Next, Outcome, Payment, Pursuit, Reply, ResponseEdits, Stream, Tail, Then, UpstreamHead,
};
use crate::config::Settle;
use crate::ledger::{Answer, Operation};
use crate::money::{Amount, Dollars};
use crate::price::document::Document;
use crate::price::events::{Splitter, StreamEvent};
use crate::price::usage::{Report, Usage};
use crate::price::{MissingUsage, Shape, Tariff};
use crate::time::UnixTime;
use crate::x402::requirement::Scheme;
use crate::x402::{TransactionId, reason};

/// Counts what a stream of events has used so far. It keeps no more of it than the event that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meter {
    splitter: Splitter,
    report: Report,
    /// Events with something in them.
    events: u64,
    /// Whether the upstream has said in an event that it failed.
    has_failed: bool,
    /// Whether an event was too long to be read, which may have told the usage.
    has_overlong: bool,
    /// Whether the usage that was told is that of the whole response, and not of what there was of it by then.
    is_final: bool,
    /// The client did not ask for the event with the usage, so it does not get it.
    hides_usage: bool,
    /// By then the payment has to be settled, or it never will be.
    closes_at: UnixTime,
}

impl Meter {
    fn new(payment: &Payment, context: Context<'_>) -> Self {
        // What a facilitator wants left of a payment's validity, and the time to ask it.
        let margin = crate::scheme::MIN_LIFETIME_SECONDS
            .saturating_add(context.config.facilitator.service.timeout_seconds())
            .saturating_add(2);
        Self {
            splitter: Splitter::default(),
            report: Report::default(),
            events: 0,
            has_failed: false,
            has_overlong: false,
            is_final: false,
            hides_usage: payment.hides_usage,
            closes_at: UnixTime::from_secs(payment.expires.as_secs().saturating_sub(margin)),
        }
    }

    /// When the stream has to end, so that it can still be paid for.
    pub(super) const fn closes_at(&self) -> UnixTime {
        self.closes_at
    }

    /// Whether nothing came that could be worth anything.
    const fn is_empty(&self) -> bool {
        self.events == 0 && !self.has_overlong
    }

    /// Takes in a piece of the stream; gives what goes to the client in its place, where that is not the same.
    fn push(&mut self, tariff: &Tariff, bytes: &[u8], is_last: bool) -> Option<Vec<u8>> {
        let mut events = self.splitter.push(bytes);
        if is_last {
            events.extend(self.splitter.finish());
        }
        let mut passing = Vec::new();
        for event in events {
            let is_hidden = self.take_in(tariff, &event) && self.hides_usage;
            if !is_hidden {
                passing.extend_from_slice(&event.raw);
            }
        }
        self.hides_usage.then_some(passing)
    }

    /// Takes in an event; `true` if it is there for its usage alone.
    fn take_in(&mut self, tariff: &Tariff, event: &StreamEvent) -> bool {
        self.has_overlong |= event.is_overlong;
        let data = event.data.trim();
        if data.is_empty() || data == "[DONE]" {
            return false;
        }
        let Ok(document) = Document::read(data.as_bytes()) else {
            self.events = self.events.saturating_add(1);
            return false;
        };
        let spoke = self.report.take_in(&tariff.shape, &document);
        // What comes beside an error is worth what it is worth without one.
        if is_error(&document) && !spoke && !has_choices(&document) {
            self.has_failed = true;
            return false;
        }
        let is_empty = matches!(document.field("choices"), Some(Document::List(choices)) if choices.is_empty());
        let is_for_usage_alone = spoke && is_empty;
        self.is_final |= is_for_usage_alone || (spoke && is_last_word(&tariff.shape, &document));
        if !is_for_usage_alone {
            self.events = self.events.saturating_add(1);
        }
        is_for_usage_alone
    }
}

/// Whether an event says that the upstream has failed. Some send an empty error beside everything they send.
fn is_error(document: &Document) -> bool {
    let is_told = match document.field("error") {
        Some(Document::Text(text)) => !text.is_empty(),
        Some(Document::Object(fields)) => !fields.is_empty(),
        _ => false,
    };
    is_told || document.field("type").and_then(Document::as_text).is_some_and(|kind| kind == "error")
}

/// Whether an event has something of an answer in it.
fn has_choices(document: &Document) -> bool {
    matches!(document.field("choices"), Some(Document::List(choices)) if !choices.is_empty())
}

/// Whether an event that tells usage comes behind all output: of the interface of responses the one with the response in
/// it, of Anthropic's the one with usage of its own and not of the message that begins.
fn is_last_word(shape: &Shape, document: &Document) -> bool {
    match shape {
        Shape::OpenAi => document.at("/response/usage").is_some(),
        Shape::Anthropic => document.field("usage").is_some(),
        Shape::Pointers(_) => false,
    }
}

/// What the head of a response tells of its cost.
enum CostByHead {
    /// So much.
    Known(Amount),
    /// Its body tells, of which so many bytes are read.
    InBody {
        /// How many.
        most: usize,
    },
    /// The events that it streams tell.
    InEvents,
    /// Nothing tells, for this reason.
    Nowhere(&'static str),
}

impl Payment {
    /// The upstream has answered a request of scheme `upto` without an error.
    pub(super) fn on_response_to_meter(self, context: Context<'_>, head: &UpstreamHead) -> Next {
        let then = Then::Deliver { keeps_cache_control: head.forbids_sharing() };
        match self.cost_by_head(head) {
            CostByHead::Known(charge) => self.charge(context, then, charge),
            CostByHead::InBody { most } => self.weigh(then, None, most),
            CostByHead::InEvents => {
                let meter = Box::new(Meter::new(&self, context));
                if context.now >= meter.closes_at() {
                    let release = Some(Operation::Release);
                    return self.refuse(context, release, Outcome::Refused, reason::PERMIT2_DEADLINE);
                }
                // From the first byte on, the payment has bought its response.
                self.ask_ledger(Operation::Open, |payment| Exchange::Opening(payment, meter, then))
            }
            CostByHead::Nowhere(reason) => self.unbillable(None, reason),
        }
    }

    /// The upstream has answered without an error once more, for a payment that was charged for its answer to an earlier
    /// try. The same request may cost more the second time, and then the payment has not paid for it.
    pub(super) fn on_response_to_redeem(self, then: Then, transaction: TransactionId, head: &UpstreamHead) -> Next {
        match self.cost_by_head(head) {
            CostByHead::Known(cost) => self.redeem(then, transaction, cost),
            CostByHead::InBody { most } => self.weigh(then, Some(transaction), most),
            CostByHead::InEvents => {
                self.unbillable(Some(transaction), "the upstream streams a response that was charged as a whole before")
            }
            CostByHead::Nowhere(reason) => self.unbillable(Some(transaction), reason),
        }
    }

    /// What the head of a response tells of its cost.
    fn cost_by_head(&self, head: &UpstreamHead) -> CostByHead {
        match self.override_of(head) {
            Some(Ok(charge)) => return CostByHead::Known(charge),
            Some(Err(())) => return CostByHead::Nowhere("the upstream's Settlement-Overrides cannot be read"),
            None => {}
        }
        match &self.terms.tariff {
            None => CostByHead::Known(self.offer.requirement.amount),
            Some(_) if !head.has_body => CostByHead::Known(self.cost(Usage::default())),
            Some(_) if head.is_encoded => {
                CostByHead::Nowhere("the upstream's response is compressed, though it was asked not to be")
            }
            Some(_) if head.is_event_stream => CostByHead::InEvents,
            Some(tariff) => CostByHead::InBody { most: tariff.max_body_bytes },
        }
    }

    fn weigh(self, then: Then, transaction: Option<TransactionId>, most: usize) -> Next {
        let stream = Stream::Read { most };
        (Exchange::Weighing(self, then, transaction), Effects { stream, ..Effects::default() })
    }

    /// The whole body is there, or too long to be read. `transaction` is what the payment was settled by before.
    pub(super) fn on_weighed(
        self,
        context: Context<'_>,
        then: Then,
        transaction: Option<TransactionId>,
        body: Option<&[u8]>,
    ) -> Next {
        let mut report = Report::default();
        if let (Some(tariff), Some(Ok(document))) = (&self.terms.tariff, body.map(Document::read)) {
            report.take_in(&tariff.shape, &document);
        }
        // A response that is no stream has no events to count.
        let cost = report.usage().map_or(self.offer.requirement.amount, |usage| self.cost(usage));
        match transaction {
            None => self.charge(context, then, cost),
            Some(transaction) => self.redeem(then, transaction, cost),
        }
    }

    /// Delivers a response that costs no more than was settled for it; any other is not given, and the payment keeps its
    /// claim to one that fits.
    fn redeem(self, then: Then, transaction: TransactionId, cost: Amount) -> Next {
        let settled = self.charge.unwrap_or(self.offer.requirement.amount);
        if cost <= settled {
            return self.spend(then, transaction);
        }
        let error = format!(
            "this response costs {cost} atomic units, and {settled} were settled for the one that was not delivered; send the same payment again for one that costs no more"
        );
        let receipt = self.receipt_of(Ok(Some(transaction)));
        let reply = Reply::error(409, &error).with_receipt(self.version, &receipt);
        let (operation, stream) = (Some(Operation::Abandon), Stream::Reply(reply));
        self.finish(operation, Outcome::Refused, "redeemed_response_costs_more", Some(transaction), stream)
    }

    /// The ledger has it that the payment buys a stream.
    pub(super) fn on_opened(self, meter: Box<Meter>, then: Then, answer: Answer) -> Next {
        let Then::Deliver { keeps_cache_control } = then else { return self.out_of_order() };
        match answer {
            Answer::Granted => {
                let edits = self.privacy(keeps_cache_control);
                let stream = Stream::Deliver(edits);
                (Exchange::Metering(self, meter), Effects { stream, ..Effects::default() })
            }
            Answer::NotHeld => self.end(None, Outcome::InFlight, "", Reply::in_flight()),
            _ => self.out_of_order(),
        }
    }

    /// A piece of the stream.
    pub(super) fn on_chunk(self, context: Context<'_>, mut meter: Box<Meter>, bytes: &[u8], is_last: bool) -> Next {
        let Some(tariff) = self.terms.tariff.clone() else { return self.out_of_order() };
        if context.now >= meter.closes_at() && !is_last {
            let (exchange, effects) = self.on_stream_tick(context, meter);
            return (exchange, Effects { chunk: Some(Vec::new()), ..effects });
        }
        let chunk = meter.push(&tariff, bytes, is_last);
        let (exchange, effects) = if is_last {
            self.close(context, &tariff, &meter, Then::Close)
        } else {
            (Exchange::Metering(self, meter), Effects { stream: Stream::Pass, ..Effects::default() })
        };
        (exchange, Effects { chunk, ..effects })
    }

    /// The stream is over for its client: what was generated until then is paid for.
    pub(super) fn on_stream_ended(self, context: Context<'_>, meter: &Meter) -> Next {
        let Some(tariff) = self.terms.tariff.clone() else { return Effects::default().and_over() };
        let (exchange, effects) = self.close(context, &tariff, meter, Then::Bill);
        (exchange, Effects { stream: Stream::Hold, ..effects })
    }

    /// Time has passed: a stream that would outlive its payment is cut while it can still be paid for.
    pub(super) fn on_stream_tick(self, context: Context<'_>, meter: Box<Meter>) -> Next {
        if context.now < meter.closes_at() {
            return (Exchange::Metering(self, meter), Effects::default());
        }
        let (exchange, effects) = self.on_stream_ended(context, &meter);
        (exchange, Effects { stream: Stream::Cut, ..effects })
    }

    fn close(self, context: Context<'_>, tariff: &Arc<Tariff>, meter: &Meter, then: Then) -> Next {
        // A client that leaves has seen more than the usage that was told on the way.
        let is_whole = meter.is_final || then == Then::Close;
        let charge = match (meter.report.usage(), tariff.missing_usage) {
            (Some(usage), _) if is_whole => self.cost(usage),
            // An upstream that fails, or ends a stream before it has begun, has earned nothing; a client that does not wait
            // for the first event has had it read its input.
            (None, _) if meter.is_empty() && (meter.has_failed || then == Then::Close) => Amount::ZERO,
            (usage, MissingUsage::Count) if !meter.has_overlong => {
                let input = self.job.as_ref().map_or(0, |job| job.input);
                let told = usage.unwrap_or(Usage { input, ..Usage::default() });
                self.cost(Usage { output: told.output.max(meter.events), ..told })
            }
            _ => self.offer.requirement.amount,
        };
        self.charge(context, then, charge)
    }

    /// What was used costs this much.
    fn cost(&self, usage: Usage) -> Amount {
        let maximum = self.offer.requirement.amount;
        match (&self.offer.rates, &self.job) {
            (Some(rates), Some(job)) => rates.charge(job.model_index, usage, maximum),
            _ => maximum,
        }
    }

    /// Settles a charge, or, where it is nothing, does without.
    fn charge(self, context: Context<'_>, then: Then, charge: Amount) -> Next {
        let payment = Self { charge: Some(charge), ..self };
        match then {
            Then::Close | Then::Bill if charge == Amount::ZERO => payment.on_nothing_to_settle(context, then),
            Then::Close | Then::Bill => {
                let pursuit = Pursuit::new(context, &payment);
                payment.ask_to_settle(context, then, pursuit)
            }
            Then::Deliver { keeps_cache_control } if charge == Amount::ZERO => {
                let edits = payment.receipt(&payment.receipt_of_service(context, None), keeps_cache_control);
                // Nothing was paid, so the payment is as good as before, and takes no place.
                payment.finish(Some(Operation::Release), Outcome::Served, "", None, Stream::Deliver(edits))
            }
            _ => payment.begin_settlement(context, then),
        }
    }

    fn on_nothing_to_settle(self, context: Context<'_>, then: Then) -> Next {
        let stream = match then {
            Then::Close => Stream::Finish(Tail::receipt(context, &self, None)),
            _ => Stream::Hold,
        };
        self.finish(Some(Operation::Release), Outcome::Served, "", None, stream)
    }

    /// The response cannot be priced. Nobody is billed blindly, and nothing is given away. Whoever redeems a payment can
    /// have had the upstream work for that, so it counts as a redemption.
    fn unbillable(self, transaction: Option<TransactionId>, reason: &str) -> Next {
        let (outcome, operation) = match transaction {
            None => (Outcome::UpstreamFailed, Operation::Release),
            Some(_) => (Outcome::SettledUpstreamFailed, Operation::Abandon),
        };
        let stream = Stream::Reply(Reply::error(502, reason));
        self.finish(Some(operation), outcome, reason, transaction, stream)
    }

    /// What the upstream itself says of the charge, if it may.
    fn override_of(&self, head: &UpstreamHead) -> Option<Result<Amount, ()>> {
        #[derive(serde::Deserialize)]
        struct Overrides {
            amount: Option<String>,
        }
        let text = head.settlement_overrides.as_deref().filter(|_| self.terms.settlement_overrides)?;
        let Ok(Overrides { amount }) = crate::json::from_slice(text.as_bytes()) else { return Some(Err(())) };
        let amount = self.amount_of(&amount?);
        Some(amount.map(|amount| amount.min(self.offer.requirement.amount)).ok_or(()))
    }

    /// An amount as the official convention writes it: atomic units, per cent of the maximum, or dollars.
    fn amount_of(&self, text: &str) -> Option<Amount> {
        if let Some(percent) = text.strip_suffix('%') {
            let hundredths = crate::money::Decimal::parse(percent).ok()?.to_units(2).ok()?;
            let product = self.offer.requirement.amount.to_integer().checked_mul(hundredths)?;
            return product.checked_div(ruint::aliases::U256::from(10_000)).map(Amount::from);
        }
        if text.starts_with('$') {
            return Dollars::parse(text).ok()?.to_amount(self.offer.dollar_decimals?).ok();
        }
        Amount::parse(text).ok()
    }

    /// Whether its charge is known only once the response is there.
    pub(super) fn is_metered(&self) -> bool {
        self.offer.requirement.scheme == Scheme::Upto && self.terms.settle == Settle::After
    }

    /// Whether what it has been charged is good for the very same request alone. Then it may come again; where nobody can
    /// tell whether a request is the same, it has bought what it was charged for, delivered or not.
    pub(super) fn is_bound(&self) -> bool {
        !self.is_metered() || self.job.as_ref().is_some_and(|job| job.is_read_whole)
    }

    /// What a response gets that is paid for later: it is as private as one that is paid for already.
    fn privacy(&self, keeps_cache_control: bool) -> ResponseEdits {
        let mut edits = private(keeps_cache_control);
        let (name, value) = EXPOSED;
        edits.add.push((name, value.to_owned()));
        // Its length is not known: a line about the payment comes behind it.
        edits.remove.push("content-length");
        edits
    }
}
