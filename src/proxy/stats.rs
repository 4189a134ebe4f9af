//! Stats in the host's own registry. A name begins with its labels, each as `label=.=value;.;`: the form that Istio takes apart for
//! what `extraStatTags` lists, and any Envoy by `stats_tags` (`envoy/demo.yaml`). A stat that the host does not take is no reason to
//! fail a request.

use super::host::{Host, MetricKind};
use crate::channel::Totals;
use crate::exchange::{CallKind, Outcome, Record, SettlementRecord, SettlementResult};
use crate::x402::reason;

/// Counts the end of a request.
pub(super) fn count_request(host: &impl Host, record: &Record) {
    let route = ("route", &*record.route);
    add(host, MetricKind::Counter, &name("requests", &[route, ("outcome", &record.outcome_word())]), 1);
    if matches!(record.outcome, Outcome::Refused | Outcome::Malformed | Outcome::Spent) {
        let reason = reason::label(&record.reason);
        add(host, MetricKind::Counter, &name("refusals", &[route, ("reason", &reason)]), 1);
    }
}

/// Counts what came of a settlement, and the money that has moved.
pub(super) fn count_settlement(host: &impl Host, settlement: &SettlementRecord) {
    let SettlementRecord { payment, result } = settlement;
    let network = ("network", &*payment.network);
    let labels = [network, ("scheme", &payment.scheme), ("result", result.as_str())];
    add(host, MetricKind::Counter, &name("settlements", &labels), 1);
    if *result == SettlementResult::Settled {
        let name = name("revenue", &[network, ("asset", &payment.asset), ("pay_to", &payment.pay_to)]);
        // What does not fit cannot be counted, and is more than there is of any currency.
        add(host, MetricKind::Counter, &name, i64::try_from(payment.amount.to_integer()).unwrap_or_default());
    }
}

/// Adds the time of an answer to the histogram of its callout, in milliseconds, where there is one.
pub(super) fn time_callout(host: &impl Host, kind: CallKind, nanoseconds: u64) {
    let name = match kind {
        CallKind::Verify => "x402_verify_milliseconds",
        CallKind::Settle => "x402_settle_milliseconds",
        CallKind::Chain | CallKind::Price => return,
    };
    time(host, name, nanoseconds, 1_000_000);
}

/// Returns whether the answers of a callout are timed.
pub(super) const fn times(kind: CallKind) -> bool {
    matches!(kind, CallKind::Verify | CallKind::Settle)
}

/// Adds the time that the filter itself took for a payment before it asked anybody, in microseconds.
pub(super) fn time_check(host: &impl Host, nanoseconds: u64) {
    time(host, "x402_check_microseconds", nanoseconds, 1_000);
}

fn time(host: &impl Host, name: &str, nanoseconds: u64, unit: u64) {
    let _ = host.record_metric(name, nanoseconds.checked_div(unit).unwrap_or_default());
}

/// Tells how the channels of an asset stand.
pub(super) fn tell_channels(host: &impl Host, network: &str, asset: &str, totals: &Totals) {
    let gauges = [
        ("channels", u128::from(totals.channels)),
        ("deposited", totals.deposited),
        ("unclaimed", totals.unclaimed),
        ("unclaimable", totals.lost),
        ("channels_stuck", u128::from(totals.stuck)),
        ("channels_withdrawing", u128::from(totals.withdrawing)),
    ];
    for (stat, value) in gauges {
        let name = name(stat, &[("network", network), ("asset", asset)]);
        let _ = host.set_gauge(&name, u64::try_from(value).unwrap_or(u64::MAX));
    }
}

/// Counts what became of a channel's claim or refund.
pub(super) fn count_channel(host: &impl Host, what: &str, by: i64) {
    add(host, MetricKind::Counter, &name("channel_events", &[("event", what)]), by);
}

/// Adds the seconds between a channel's first voucher and its claim to their histogram.
pub(super) fn time_claim(host: &impl Host, seconds: u64) {
    let _ = host.record_metric("x402_claim_seconds", seconds);
}

/// Counts a response whose payment was refused once it had left, and the atomic units that are lost unless its payer pays later.
pub(super) fn count_loss(host: &impl Host, record: &Record) {
    let Some(payment) = &record.payment else { return };
    let labels = [("network", &*payment.network), ("asset", &*payment.asset)];
    add(host, MetricKind::Counter, &name("losses", &labels), 1);
    let amount = i64::try_from(payment.amount.to_integer()).unwrap_or_default();
    add(host, MetricKind::Counter, &name("lost", &labels), amount);
}

/// Tells how much is delivered in an asset and not paid, in atomic units.
pub(super) fn tell_exposure(host: &impl Host, network: &str, asset: &str, open: u128) {
    let name = name("exposure", &[("network", network), ("asset", asset)]);
    let _ = host.set_gauge(&name, u64::try_from(open).unwrap_or(u64::MAX));
}

/// Tells that one worker takes one facilitator more, or one fewer, for failing.
pub(super) fn change_failing(host: &impl Host, facilitator: &str, by: i64) {
    add(host, MetricKind::Gauge, &name("facilitators_failing", &[("facilitator", facilitator)]), by);
}

/// Tells that more or fewer claims stand in the ledger.
pub(super) fn change_claims(host: &impl Host, by: i64) {
    add(host, MetricKind::Gauge, "x402_ledger_claims", by);
}

/// Counts a settlement that is not looked into in the background, for there is no room.
pub(super) fn count_shed_recovery(host: &impl Host) {
    add(host, MetricKind::Counter, "x402_recoveries_shed", 1);
}

/// Tells that more or fewer settlements wait to be looked into.
pub(super) fn change_unknown(host: &impl Host, by: i64) {
    add(host, MetricKind::Gauge, "x402_unknown_settlements", by);
}

/// Adds the time that the shared ledger's store took to answer to its histogram.
pub(super) fn time_store(host: &impl Host, nanoseconds: u64) {
    time(host, "x402_store_microseconds", nanoseconds, 1000);
}

/// Counts a question to which the shared ledger's store gave no answer.
pub(super) fn count_store_failure(host: &impl Host) {
    add(host, MetricKind::Counter, "x402_store_failures", 1);
}

/// Counts a move that the shared ledger's store refused for good: another proxy had gone on from the record.
pub(super) fn count_fenced(host: &impl Host) {
    add(host, MetricKind::Counter, "x402_store_fenced", 1);
}

/// Tells that more or fewer records were left open because the store was silent.
pub(super) fn change_mends(host: &impl Host, by: i64) {
    add(host, MetricKind::Gauge, "x402_store_unfinished", by);
}

/// The name of a stat with labels. Dots part a value from the next label, so it has none of its own.
fn name(stat: &str, labels: &[(&str, &str)]) -> String {
    let mut name = String::new();
    for (label, value) in labels {
        name.push_str(label);
        name.push_str("=.=");
        name.extend(value.chars().map(|letter| if letter == '.' { '_' } else { letter }));
        name.push_str(";.;");
    }
    name.push_str("x402_");
    name.push_str(stat);
    name
}

fn add(host: &impl Host, kind: MetricKind, name: &str, by: i64) {
    // Counters take nothing else than more.
    if by != 0 {
        let _ = host.add_metric(kind, name, by);
    }
}
