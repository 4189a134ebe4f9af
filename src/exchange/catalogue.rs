//! What is for sale, for agents that look around: `GET /.well-known/x402`.

use super::Head;
use crate::config::Config;

/// The path at which it is asked for.
const PATH: &[u8] = b"/.well-known/x402";

/// Returns whether the catalogue is asked for.
pub(super) fn is_asked(head: &Head<'_>) -> bool {
    let is_read = matches!(&*head.text(":method"), "GET" | "HEAD");
    is_read && head.path() == PATH
}

/// The priced routes of the host that is asked, with their terms, as JSON.
pub(super) fn list(config: &Config, head: &Head<'_>) -> String {
    let url = head.url();
    let scheme = url.split("://").next().unwrap_or_default();
    config.catalogue.to_json(scheme, &head.text(":authority"), &config.origins)
}
