//! What a response turns out to cost, under scheme `upto`.

use super::{Context, Purchase, UpstreamHead};
use crate::money::{Amount, Dollars};
use crate::price::document::Document;
use crate::price::events::{Splitter, StreamEvent};
use crate::price::usage::{Report, Usage};
use crate::price::{MissingUsage, Shape, Tariff};
use crate::time::UnixTime;

/// Counts what a stream of events has used so far. It keeps no more of it than the event that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meter {
    splitter: Splitter,
    report: Report,
    /// Events with something in them.
    events: u64,
    /// True if the upstream has said in an event that it failed.
    has_failed: bool,
    /// True if an event was too long to be read, which may have told the usage.
    has_overlong: bool,
    /// True if the usage that was told is that of the whole response, and not of what there was of it by then.
    is_final: bool,
    /// The client did not ask for the event with the usage, so it does not get it.
    hides_usage: bool,
    /// By then the payment has to be settled, or it never will be.
    closes_at: UnixTime,
}

impl Meter {
    /// The meter of a stream that begins now.
    pub(super) fn new(purchase: &Purchase, context: Context<'_>) -> Self {
        // What a facilitator wants left of a payment's validity, and the time to ask it.
        let margin =
            crate::scheme::MIN_LIFETIME_SECONDS.saturating_add(purchase.facilitator_seconds(context)).saturating_add(2);
        Self {
            splitter: Splitter::default(),
            report: Report::default(),
            events: 0,
            has_failed: false,
            has_overlong: false,
            is_final: false,
            hides_usage: purchase.hides_usage(),
            closes_at: UnixTime::from_secs(purchase.expires.as_secs().saturating_sub(margin)),
        }
    }

    /// Returns when the stream has to end, so that it can still be paid for.
    pub(super) const fn closes_at(&self) -> UnixTime {
        self.closes_at
    }

    /// Returns whether nothing came that could be worth anything.
    const fn is_empty(&self) -> bool {
        self.events == 0 && !self.has_overlong
    }

    /// Takes in a piece of the stream; gives what goes to the client in its place, where that is not the same.
    pub(super) fn push(&mut self, tariff: &Tariff, bytes: &[u8], is_last: bool) -> Option<Vec<u8>> {
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

/// Returns whether an event says that the upstream has failed. Some send an empty error beside everything they send.
fn is_error(document: &Document) -> bool {
    let is_told = match document.field("error") {
        Some(Document::Text(text)) => !text.is_empty(),
        Some(Document::Object(fields)) => !fields.is_empty(),
        _ => false,
    };
    is_told || document.field("type").and_then(Document::as_text).is_some_and(|kind| kind == "error")
}

/// Returns whether an event has something of an answer in it.
fn has_choices(document: &Document) -> bool {
    matches!(document.field("choices"), Some(Document::List(choices)) if !choices.is_empty())
}

/// Returns whether an event that tells usage comes behind all output: of the interface of responses the one with the response in
/// it, of Anthropic's the one with usage of its own and not of the message that begins.
fn is_last_word(shape: &Shape, document: &Document) -> bool {
    match shape {
        Shape::OpenAi => document.at("/response/usage").is_some(),
        Shape::Anthropic => document.field("usage").is_some(),
        Shape::Pointers(_) => false,
    }
}

/// The cost of a response, as far as its head tells.
pub(super) enum CostByHead {
    /// So much.
    Known(Amount),
    /// Its body tells, of which so many bytes are read.
    InBody {
        /// The number.
        most: usize,
    },
    /// The events that it streams tell.
    InEvents,
    /// Nothing tells, for this reason.
    Nowhere(&'static str),
}

/// The upstream's `Settlement-Overrides` cannot be read.
struct OverrideError;

impl Purchase {
    /// The cost of a response, as far as its head tells.
    pub(super) fn cost_by_head(&self, head: &UpstreamHead) -> CostByHead {
        match self.override_of(head) {
            Ok(Some(charge)) => return CostByHead::Known(charge),
            Err(OverrideError) => return CostByHead::Nowhere("the upstream's Settlement-Overrides cannot be read"),
            Ok(None) => {}
        }
        match &self.quote.terms.tariff {
            None => CostByHead::Known(self.offer.requirement.amount),
            Some(_) if !head.has_body => CostByHead::Known(self.cost(Usage::default())),
            Some(_) if head.is_encoded => {
                CostByHead::Nowhere("the upstream's response is compressed, though it was asked not to be")
            }
            Some(_) if head.is_event_stream => CostByHead::InEvents,
            Some(tariff) => CostByHead::InBody { most: tariff.max_body_bytes },
        }
    }

    /// Returns what a response costs whose body this is; `None` where it was too long to be read.
    pub(super) fn cost_of_body(&self, body: Option<&[u8]>) -> Amount {
        let mut report = Report::default();
        if let (Some(tariff), Some(Ok(document))) = (&self.quote.terms.tariff, body.map(Document::read)) {
            report.take_in(&tariff.shape, &document);
        }
        // A response that is no stream has no events to count.
        report.usage().map_or(self.offer.requirement.amount, |usage| self.cost(usage))
    }

    /// Returns what a stream costs that has ended, whole or because its client has gone.
    pub(super) fn cost_of_stream(&self, tariff: &Tariff, meter: &Meter, has_client: bool) -> Amount {
        // A client that leaves has seen more than the usage that was told on the way.
        let is_whole = meter.is_final || has_client;
        match (meter.report.usage(), tariff.missing_usage) {
            (Some(usage), _) if is_whole => self.cost(usage),
            // An upstream that fails, or ends a stream before it has begun, has earned nothing; a client that does not wait
            // for the first event has had it read its input.
            (None, _) if meter.is_empty() && (meter.has_failed || has_client) => Amount::ZERO,
            (usage, MissingUsage::Count) if !meter.has_overlong => {
                let input = self.job.as_ref().map_or(0, |job| job.input);
                let told = usage.unwrap_or(Usage { input, ..Usage::default() });
                self.cost(Usage { output: told.output.max(meter.events), ..told })
            }
            _ => self.offer.requirement.amount,
        }
    }

    /// Returns the price of what was used.
    fn cost(&self, usage: Usage) -> Amount {
        let maximum = self.offer.requirement.amount;
        match (&self.offer.rates, &self.job) {
            (Some(rates), Some(job)) => rates.charge(job.model_index, usage, maximum),
            _ => maximum,
        }
    }

    /// Returns what the upstream itself says of the charge, where it may and does.
    fn override_of(&self, head: &UpstreamHead) -> Result<Option<Amount>, OverrideError> {
        #[derive(serde::Deserialize)]
        struct Overrides {
            amount: Option<String>,
        }
        let text = head.settlement_overrides.as_deref().filter(|_| self.quote.terms.settlement_overrides);
        let Some(text) = text else { return Ok(None) };
        let Overrides { amount } = crate::json::from_slice(text.as_bytes()).map_err(|_| OverrideError)?;
        let Some(amount) = amount else { return Ok(None) };
        let amount = self.amount_of(&amount).ok_or(OverrideError)?;
        Ok(Some(amount.min(self.offer.requirement.amount)))
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
}
