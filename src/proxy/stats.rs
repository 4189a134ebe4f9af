//! Stats in the host's own registry. A name holds its labels as `label.value` pairs, which Envoy's `stats_tags` take apart
//! (`envoy/stats.yaml`). A stat that the host does not take is no reason to fail a request.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use super::host::{self, MetricKind};
use crate::exchange::{Outcome, Record, SettlementRecord, SettlementResult};
use crate::x402::reason;

thread_local! {
    /// The numbers of stats by their names.
    static KNOWN: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// The questions whose answers are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timed {
    /// `/verify`, in milliseconds.
    Verify,
    /// `/settle`, in milliseconds.
    Settle,
    /// What the filter itself does with a payment before it asks anybody, in microseconds.
    Check,
}

/// Counts the end of a request.
pub(super) fn count_request(record: &Record) {
    let (route, outcome) = (&record.route, record.outcome_word());
    add(MetricKind::Counter, format!("x402.requests.route.{route}.outcome.{outcome}"), 1);
    if matches!(record.outcome, Outcome::Refused | Outcome::Malformed | Outcome::Spent) {
        let reason = reason::label(&record.reason);
        add(MetricKind::Counter, format!("x402.refusals.route.{route}.reason.{reason}"), 1);
    }
}

/// Counts what came of a settlement, and the money that has moved.
pub(super) fn count_settlement(settlement: &SettlementRecord) {
    let SettlementRecord { payment, result } = settlement;
    let (network, scheme) = (label(&payment.network), label(&payment.scheme));
    let name = format!("x402.settlements.network.{network}.scheme.{scheme}.result.{}", result.as_str());
    add(MetricKind::Counter, name, 1);
    if *result == SettlementResult::Settled {
        let name =
            format!("x402.revenue.network.{network}.asset.{}.pay_to.{}", label(&payment.asset), label(&payment.pay_to));
        // What does not fit cannot be counted, and is more than there is of any currency.
        add(MetricKind::Counter, name, i64::try_from(payment.amount.to_integer()).unwrap_or_default());
    }
}

/// Adds a duration to its histogram.
pub(super) fn time(what: Timed, nanoseconds: u64) {
    let (name, unit) = match what {
        Timed::Verify => ("x402.verify_milliseconds", 1_000_000),
        Timed::Settle => ("x402.settle_milliseconds", 1_000_000),
        Timed::Check => ("x402.check_microseconds", 1_000),
    };
    let value = nanoseconds.checked_div(unit).unwrap_or_default();
    if let Some(id) = number_of(MetricKind::Histogram, name) {
        let _ = host::record_metric(id, value);
    }
}

/// More or fewer claims stand in the ledger.
pub(super) fn change_claims(by: i64) {
    add(MetricKind::Gauge, "x402.ledger_claims".to_owned(), by);
}

/// A settlement is not looked into in the background, for there is no room.
pub(super) fn count_shed_recovery() {
    add(MetricKind::Counter, "x402.recoveries_shed".to_owned(), 1);
}

/// More or fewer settlements wait to be looked into.
pub(super) fn change_unknown(by: i64) {
    add(MetricKind::Gauge, "x402.unknown_settlements".to_owned(), by);
}

/// A value that a network writes in its own way, as a label: without the dots that part one from the next.
fn label(value: &str) -> Cow<'_, str> {
    if value.contains('.') { value.replace('.', "_").into() } else { value.into() }
}

fn add(kind: MetricKind, name: String, by: i64) {
    // Counters take nothing else than more.
    if by == 0 {
        return;
    }
    if let Some(id) = number_of(kind, &name) {
        let _ = host::increment_metric(id, by);
    }
}

fn number_of(kind: MetricKind, name: &str) -> Option<u32> {
    KNOWN.with(|known| {
        let mut known = known.try_borrow_mut().ok()?;
        if let Some(id) = known.get(name) {
            return Some(*id);
        }
        let id = host::define_metric(kind, name).ok()?;
        known.insert(name.to_owned(), id);
        Some(id)
    })
}
