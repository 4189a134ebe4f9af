//! How facilitators have answered lately: a circuit breaker for each.

use std::sync::Arc;

use super::host::{Host, LogLevel};
use super::stats;
use crate::config::{Config, Facilitator, Service};
use crate::facilitator::{self, CalloutAnswer};

/// The calls that failed in a row, for each facilitator by its place. A worker counts its own.
#[derive(Default)]
pub(super) struct Health {
    failures: Vec<u32>,
}

impl Health {
    /// No call has failed yet.
    pub(super) fn new(facilitators: usize) -> Self {
        Self { failures: vec![0; facilitators] }
    }

    /// Returns the facilitators that are asked last, a bit for each by its place.
    pub(super) fn failing(&self, config: &Config) -> u32 {
        let each = config.facilitators.iter().zip(&self.failures).enumerate();
        each.filter(|(_, (facilitator, failures))| **failures >= facilitator.max_failures)
            .filter_map(|(place, _)| 1_u32.checked_shl(u32::try_from(place).ok()?))
            .fold(0, |bits, bit| bits | bit)
    }

    /// Returns whether the facilitator at a place is asked last.
    pub(super) fn is_failing(&self, config: &Config, place: usize) -> bool {
        let failures = self.failures.get(place).copied().unwrap_or_default();
        config.facilitators.get(place).is_some_and(|facilitator| failures >= facilitator.max_failures)
    }

    /// Takes in the answer to a call of a service, where that is a facilitator.
    pub(super) fn note(&mut self, host: &impl Host, config: &Config, service: &Arc<Service>, answer: &CalloutAnswer) {
        let place = config.facilitators.iter().position(|facilitator| Arc::ptr_eq(&facilitator.service, service));
        let Some(place) = place else { return };
        let was_failing = self.is_failing(config, place);
        if let Some(failures) = self.failures.get_mut(place) {
            *failures = if facilitator::is_failing(answer) { failures.saturating_add(1) } else { 0 };
        }
        let Some(facilitator) = config.facilitators.get(place) else { return };
        match (was_failing, self.is_failing(config, place)) {
            (false, true) => tell_failing(host, facilitator),
            (true, false) => tell_answering(host, facilitator),
            _ => {}
        }
    }

    /// Takes in that the facilitator at a place answers another worker.
    pub(super) fn revive(&mut self, host: &impl Host, config: &Config, place: usize) {
        let was_failing = self.is_failing(config, place);
        if let Some(failures) = self.failures.get_mut(place) {
            *failures = 0;
        }
        if let Some(facilitator) = config.facilitators.get(place).filter(|_| was_failing) {
            tell_answering(host, facilitator);
        }
    }

    /// Takes back what the host was told of facilitators that fail, for their configuration is replaced. What is still heard of
    /// them says nothing about those of the next one.
    pub(super) fn retire(&mut self, host: &impl Host, config: &Config) {
        for (place, facilitator) in config.facilitators.iter().enumerate() {
            if self.is_failing(config, place) {
                stats::change_failing(host, &facilitator.name, -1);
            }
        }
        self.failures.clear();
    }
}

fn tell_failing(host: &impl Host, Facilitator { name, max_failures, .. }: &Facilitator) {
    stats::change_failing(host, name, 1);
    host.log(
        LogLevel::Error,
        &format!(
            "x402: {max_failures} calls in a row of the facilitator {name:?} have failed; another one that is configured is asked first until it answers again"
        ),
    );
}

fn tell_answering(host: &impl Host, Facilitator { name, .. }: &Facilitator) {
    stats::change_failing(host, name, -1);
    host.log(LogLevel::Warn, &format!("x402: the facilitator {name:?} answers again"));
}
