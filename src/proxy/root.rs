//! One for each worker and plugin configuration: reads the configuration and makes the contexts of requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::callouts;
use super::host::{Buffer, Host, LogLevel};
use super::http::HttpContext;
use super::properties;
use super::shared::{Memory, Shared};
use super::store;
use crate::config::Config;
use crate::facilitator::{MAX_ANSWER_BYTES, Supported};
use crate::time::UnixTime;

/// How often the host is asked to let time pass for those that wait for it.
const TICK_PERIOD: Duration = Duration::from_secs(1);

/// The same, until it is known what the facilitator supports.
const FIRST_TICK_PERIOD: Duration = Duration::from_millis(100);

/// Seconds between two questions to a facilitator that does not say what it supports.
const RETRY_SECONDS: u64 = 2;

/// Seconds after which a facilitator that has said what it supports is asked again.
const REFRESH_SECONDS: u64 = 600;

/// A root context.
pub(super) struct RootContext<H> {
    host: H,
    configured: Option<Configured>,
    shared: Shared,
    /// When the facilitator is asked again what it supports.
    asks_at: Option<UnixTime>,
    /// Entries that the facilitator does not settle.
    left_out: BTreeSet<String>,
}

struct Configured {
    config: Arc<Config>,
    /// Differs among all root contexts of the process.
    number: u32,
}

impl<H: Host> RootContext<H> {
    /// A root context that is to be configured.
    pub(super) fn new(host: H) -> Self {
        Self { host, configured: None, shared: Shared::default(), asks_at: None, left_out: BTreeSet::new() }
    }

    /// Reads the configuration of `size` bytes; `false` where it is refused.
    pub(super) fn configure(&mut self, size: usize) -> bool {
        match configure(&self.host, size) {
            Ok((configured, memory)) => {
                self.shared.memory = memory;
                let routes = configured.config.routes.len();
                self.host.log(LogLevel::Info, &format!("x402: configured, {routes} routes"));
                if let Some(note) = configured.config.buffer_note() {
                    self.host.log(LogLevel::Info, &format!("x402: {note}"));
                }
                for warning in &configured.config.warnings {
                    self.host.log(LogLevel::Warn, &format!("x402: {warning}"));
                }
                self.configured = Some(configured);
                true
            }
            Err(error) => {
                self.host.log(LogLevel::Critical, &format!("x402: the configuration is refused: {error}"));
                false
            }
        }
    }

    /// What tells the worker's requests from those of others; `None` where there is no configuration.
    pub(super) fn number(&self) -> Option<u32> {
        self.configured.as_ref().map(|configured| configured.number)
    }

    /// What the worker's requests share.
    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Asks the facilitator what it supports, where it is time to; the token of the callout.
    pub(super) fn ask_supported(&mut self) -> Option<u32> {
        let config = &self.configured.as_ref()?.config;
        let now = self.host.unix_time().ok()?;
        if !config.has_offers || self.asks_at.is_some_and(|due| now < due) {
            return None;
        }
        self.asks_at = Some(now.plus(if config.needs_introduction { RETRY_SECONDS } else { REFRESH_SECONDS }));
        let service = &config.facilitator.service;
        let path = format!("{}{}", service.base_path, Supported::PATH);
        match callouts::dispatch(&self.host, service, "GET", &path, "") {
            Ok(token) => Some(token),
            Err(error) => {
                self.host.log(LogLevel::Error, &format!("x402: cannot ask what the facilitator supports: {error}"));
                None
            }
        }
    }

    /// Takes over what other workers have heard of the facilitator.
    pub(super) fn adopt_supported(&mut self) {
        let Some(Configured { config, .. }) = self.configured.as_ref().filter(|one| one.config.has_offers) else {
            return;
        };
        match store::supported(&self.host, &config.facilitator.service) {
            Some(known) if known != *self.shared.supported => self.shared.supported = Arc::new(known),
            _ => {}
        }
    }

    /// The facilitator has answered what it supports, or has not.
    pub(super) fn on_supported(&mut self, headers: usize, body_size: usize) {
        match Supported::read(&callouts::read_answer(&self.host, headers, body_size, MAX_ANSWER_BYTES)) {
            Some(supported) => {
                // A client is given terms by one worker and pays at another, so all have to know the same accounts.
                let service = self.configured.as_ref().map(|one| &one.config.facilitator.service);
                let merge = |earlier: &Supported| supported.clone().or_earlier(earlier);
                let merged = service.and_then(|service| store::share_supported(&self.host, service, merge));
                self.shared.supported = Arc::new(merged.unwrap_or(supported));
                self.log_left_out();
                self.asks_at = self.host.unix_time().ok().map(|now| now.plus(REFRESH_SECONDS));
                let _ = self.host.set_tick_period(TICK_PERIOD);
            }
            None if self.configured.as_ref().is_some_and(|one| one.config.needs_introduction) => {
                self.host.log(
                    LogLevel::Warn,
                    "x402: the facilitator does not say what it supports (GET /supported); until it does, entries are not offered that need its word: scheme upto, and what it alone judges",
                );
            }
            None => {}
        }
    }

    /// Logs which entries nobody can pay by, where that is news.
    fn log_left_out(&mut self) {
        let Some(Configured { config, .. }) = &self.configured else { return };
        let offers = config.routes.iter().filter_map(|route| route.terms.as_ref()).flat_map(|terms| &terms.offers);
        let excluded = offers.map(|offer| &offer.requirement).filter(|one| self.shared.supported.excludes(one));
        let mut left_out = BTreeSet::new();
        left_out.extend(excluded.map(|one| format!("scheme {} on {}", one.scheme.as_str(), one.network)));
        for entry in left_out.difference(&self.left_out) {
            self.host.log(
                LogLevel::Warn,
                &format!("x402: the facilitator does not settle {entry}; entries that say so are left out"),
            );
        }
        self.left_out = left_out;
    }

    /// The context of a new stream; `None` where there is no configuration.
    pub(super) fn stream(&self, id: u32) -> Option<HttpContext<H>> {
        let configured = self.configured.as_ref()?;
        Some(HttpContext::new(
            self.host.clone(),
            Arc::clone(&configured.config),
            self.shared.clone(),
            configured.number,
            id,
        ))
    }
}

fn configure(host: &impl Host, size: usize) -> Result<(Configured, Memory), String> {
    let bytes = host.buffer(Buffer::PluginConfiguration, size).map_err(|error| error.to_string())?;
    let config = Config::from_host(&bytes).map_err(|error| error.to_string())?;
    let number = store::draw_number(host).ok_or("the host's shared data does not work")?;
    let period = if config.needs_introduction { FIRST_TICK_PERIOD } else { TICK_PERIOD };
    host.set_tick_period(period).map_err(|error| error.to_string())?;
    let secret = store::shared_secret(host).ok_or("the host's shared data or random numbers do not work")?;
    let since = host.unix_time().ok().and_then(|now| store::ledger_since(host, now));
    let since = since.ok_or("the host's clock or shared data does not work")?;
    properties::declare(host);
    Ok((Configured { config: Arc::new(config), number }, Memory { secret, since }))
}
