//! One for each worker and plugin configuration: reads the configuration and makes the contexts of requests.

use std::sync::Arc;
use std::time::Duration;

use super::host::{self, LogLevel};
use super::http::Http;
use super::store::draw_number;
use crate::config::Config;

/// How often the host is asked to let time pass for those that wait for it.
const TICK_PERIOD: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Root {
    configured: Option<Configured>,
}

struct Configured {
    config: Arc<Config>,
    /// Differs among all root contexts of the process.
    number: u32,
}

impl Root {
    /// Reads the configuration of `size` bytes; `false` where it is refused.
    pub(super) fn configure(&mut self, size: usize) -> bool {
        match configure(size) {
            Ok(configured) => {
                let routes = configured.config.routes.len();
                host::log(LogLevel::Info, &format!("x402: configured, {routes} routes"));
                self.configured = Some(configured);
                true
            }
            Err(error) => {
                host::log(LogLevel::Critical, &format!("x402: the configuration is refused: {error}"));
                false
            }
        }
    }

    /// What tells the worker's requests from those of others; `None` where there is no configuration.
    pub(super) fn number(&self) -> Option<u32> {
        self.configured.as_ref().map(|configured| configured.number)
    }

    /// The context of a new stream; `None` where there is no configuration.
    pub(super) fn stream(&self, id: u32) -> Option<Http> {
        let configured = self.configured.as_ref()?;
        Some(Http::new(Arc::clone(&configured.config), configured.number, id))
    }
}

fn configure(size: usize) -> Result<Configured, String> {
    let bytes = host::plugin_configuration(size).map_err(|error| error.to_string())?;
    let config = Config::from_host(&bytes).map_err(|error| error.to_string())?;
    let number = draw_number().ok_or("the host's shared data does not work")?;
    host::set_tick_period(TICK_PERIOD).map_err(|error| error.to_string())?;
    Ok(Configured { config: Arc::new(config), number })
}
