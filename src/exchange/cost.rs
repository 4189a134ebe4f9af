//! What a response turns out to cost, under scheme `upto`.

use super::{Context, Purchase, UpstreamHead};
use crate::money::{Amount, Dollars};
use crate::price::usage::{Report, Usage};
use crate::price::{Framing, MissingUsage, Tariff, Unit};
use crate::time::UnixTime;

/// Counts what a response has used so far. It keeps no more of it than the unit that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meter {
    framing: Framing,
    report: Report,
    /// Units with something in them.
    units: u64,
    /// Units with something generated in them since the usage that was told last.
    unsaid: u64,
    /// True if the upstream has said that it failed.
    has_failed: bool,
    /// True if a unit was too long to be read, which may have told the usage.
    has_overlong: bool,
    /// True if the usage that was told is that of the whole response, and not of what there was of it by then.
    is_final: bool,
    /// True if the client did not ask for the unit with the usage, so that it does not get it.
    hides_usage: bool,
    /// True if such a unit came.
    has_hidden: bool,
    /// True if the end of its line is yet to come.
    hides_line_end: bool,
    /// By then the payment has to be settled, or it never will be.
    closes_at: UnixTime,
}

impl Meter {
    /// The meter of a response that begins now, and is called a stream of events or not.
    pub(super) fn new(purchase: &Purchase, context: Context<'_>, is_labelled: bool) -> Self {
        // What a facilitator wants left of a payment's validity, and the time to ask it.
        let margin =
            crate::scheme::MIN_LIFETIME_SECONDS.saturating_add(purchase.facilitator_seconds(context)).saturating_add(2);
        Self {
            framing: Framing::new(is_labelled),
            report: Report::default(),
            units: 0,
            unsaid: 0,
            has_failed: false,
            has_overlong: false,
            is_final: false,
            hides_usage: purchase.hides_usage(),
            has_hidden: false,
            hides_line_end: false,
            closes_at: UnixTime::from_secs(purchase.expires.as_secs().saturating_sub(margin)),
        }
    }

    /// Returns when the stream has to end, so that it can still be paid for.
    pub(super) const fn closes_at(&self) -> UnixTime {
        self.closes_at
    }

    /// Returns whether the response is known to be a stream; `streams` says whether one was asked for.
    pub(super) const fn is_stream(&self, streams: bool) -> bool {
        self.framing.is_stream(streams)
    }

    /// Returns whether a line of comment would be out of place at its end.
    pub(super) const fn takes_no_comment(&self) -> bool {
        self.framing.takes_no_comment()
    }

    /// Returns whether the upstream has said that it failed, and nothing came that could be worth anything.
    pub(super) const fn is_failure(&self) -> bool {
        self.has_failed && self.units == 0 && !self.has_overlong
    }

    /// Returns whether something is kept from the client.
    pub(super) const fn has_hidden(&self) -> bool {
        self.has_hidden
    }

    /// Takes in a piece of the response; gives what goes to the client in its place, where that is not the same.
    pub(super) fn push(&mut self, tariff: &Tariff, bytes: &[u8], is_last: bool) -> Option<Vec<u8>> {
        let hides = self.hides_usage;
        let units = self.framing.push(&tariff.shape, bytes, is_last, hides);
        let mut passing = Vec::new();
        for unit in units {
            let is_hidden = self.take_in(tariff, &unit) && hides;
            self.has_hidden |= is_hidden;
            if !hides {
                continue;
            }
            // The end of a hidden line may come later than the line.
            let is_line_end = |byte: &u8| std::mem::take(&mut self.hides_line_end) && matches!(byte, b'\r' | b'\n');
            let line_end = unit.raw.first().is_some_and(is_line_end);
            let raw = if line_end { unit.raw.trim_ascii_start() } else { &unit.raw };
            if is_hidden {
                self.hides_line_end = !raw.ends_with(b"\n");
            } else {
                passing.extend_from_slice(raw);
            }
        }
        hides.then_some(passing)
    }

    /// Takes in a unit; `true` if it is there for its usage alone.
    fn take_in(&mut self, tariff: &Tariff, unit: &Unit) -> bool {
        self.has_overlong |= unit.is_overlong;
        let Some(facts) = &unit.facts else { return false };
        let known = self.report.output();
        let spoke = self.report.take_in(&tariff.shape, facts);
        // What comes beside an error is worth what it is worth without one.
        if facts.is_failure() {
            self.has_failed = true;
            return false;
        }
        let is_for_usage_alone = facts.is_for_usage_alone();
        if !is_for_usage_alone {
            self.units = self.units.saturating_add(1);
        }
        if self.report.output() > known {
            self.unsaid = 0;
        } else if facts.generates() && !is_for_usage_alone {
            self.unsaid = self.unsaid.saturating_add(1);
            self.is_final = false;
        }
        self.is_final |= spoke && facts.tells_output() && facts.is_last_word(&tariff.shape);
        is_for_usage_alone
    }

    /// Returns the usage of all that came, and what was generated since it was told on top; `None` where none was told.
    fn used(&self, has_client: bool) -> Option<Usage> {
        let told = self.report.usage()?;
        if self.is_final {
            return Some(told);
        }
        let output = told.output.saturating_add(self.unsaid);
        // A client that leaves has seen more than the usage that was told on the way.
        Some(Usage { output: if has_client { output } else { output.max(self.units) }, ..told })
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
            Some(tariff) => CostByHead::InBody { most: tariff.max_response_bytes },
        }
    }

    /// Returns what a response costs that has ended, whole or because its client has gone.
    pub(super) fn cost_of_response(&self, tariff: &Tariff, meter: &Meter, has_client: bool) -> Amount {
        let maximum = self.offer.requirement.amount;
        let is_empty = meter.units == 0 && !meter.has_overlong;
        if meter.is_failure() {
            return Amount::ZERO;
        }
        let used = meter.used(has_client);
        let is_told = meter.is_final || (has_client && meter.unsaid == 0);
        match (used, tariff.missing_usage) {
            (Some(used), _) if is_told => self.cost(used),
            // What is no stream has nothing that could be counted.
            (used, _) if meter.framing.is_whole() => used.map_or(maximum, |used| self.cost(used)),
            // An upstream that ends a stream before it has begun has earned nothing; a client that does not wait for the first
            // event has had it read its input.
            (None, _) if is_empty && has_client => Amount::ZERO,
            (used, rule) if !meter.has_overlong && (rule == MissingUsage::Count || meter.has_failed) => {
                let input = self.job.as_ref().map_or(0, |job| job.input);
                let least = meter.report.input().unwrap_or(Usage { input, ..Usage::default() });
                self.cost(used.unwrap_or(Usage { output: meter.units, ..least }))
            }
            _ => maximum,
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
