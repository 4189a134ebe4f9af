//! One for each worker and plugin configuration: reads the configuration and makes the contexts of requests.

use std::sync::Arc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};

use super::host;
use super::http::Http;
use super::store::draw_number;
use crate::config::Config;

#[derive(Default)]
pub(super) struct Root {
    configured: Option<Configured>,
}

struct Configured {
    config: Arc<Config>,
    /// Differs among all root contexts of the process.
    number: u32,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
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

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        // Without a configuration there is no context, and the host fails the request.
        let configured = self.configured.as_ref()?;
        Some(Box::new(Http::new(Arc::clone(&configured.config), configured.number, context_id)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

fn configure(size: usize) -> Result<Configured, String> {
    let bytes = host::plugin_configuration(size).map_err(|error| error.to_string())?;
    let config = Config::from_host(&bytes).map_err(|error| error.to_string())?;
    let number = draw_number().ok_or("the host's shared data does not work")?;
    Ok(Configured { config: Arc::new(config), number })
}
