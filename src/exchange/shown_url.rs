//! The URL that a client is told it pays for, and whether the seller may put a signature under it.

use std::ops::Deref;

use super::Head;
use crate::config::{Config, Origin, RouteTerms, ShownAt};

/// The URL of a request as answers and receipts show it. A client may write any host into its request; what is vouched for
/// names one that the configuration knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShownUrl {
    text: String,
    /// True if its origin is the operator's own, so that it may be signed.
    pub is_vouched: bool,
}

impl Deref for ShownUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl ShownUrl {
    /// The URL of a request for what `terms` sell: at one of the configured origins, else at the host that the route names,
    /// and else as the client wrote it.
    pub fn of(config: &Config, head: &Head<'_>, terms: &RouteTerms) -> Self {
        let (asked, target) = (head.url(), head.text(":path"));
        let scheme = asked.split("://").next().unwrap_or_default();
        let used = Origin::of_request(scheme, &head.text(":authority"));
        let known = match (&terms.shown_at, used) {
            (ShownAt::Client, _) => None,
            (ShownAt::RouteHost, used) => used,
            (ShownAt::Origin(_), Some(used)) if config.origins.contains(&used) => Some(used),
            // Where TLS ends before the proxy, scheme and port may be other ones here than there.
            (ShownAt::Origin(_), Some(used)) if config.origins.iter().any(|origin| origin.has_host_of(&used)) => {
                config.origins.iter().find(|origin| origin.has_host_of(&used)).cloned()
            }
            (ShownAt::Origin(usual), _) => Some(usual.clone()),
        };
        // What does not begin with a slash would go on where the host ends.
        match known.filter(|_| target.starts_with('/')) {
            Some(origin) => Self { text: format!("{origin}{target}"), is_vouched: true },
            None => Self { text: asked, is_vouched: false },
        }
    }
}
