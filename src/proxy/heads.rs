//! Heads, read from the host.

use std::sync::Arc;

use super::host::{Host, HostError, Map};
use super::properties;
use super::shared::Shared;
use crate::config::Config;
use crate::exchange::{Headers, RequestHead, UpstreamHead};

/// Reads the head of a request, with what the proxy knows of it beside that.
pub(super) fn request(
    host: &impl Host,
    config: &Config,
    shared: &Shared,
    has_body: bool,
) -> Result<Arc<RequestHead>, HostError> {
    let metadata = config.metadata.iter().filter_map(|key| {
        let path = ["metadata", "filter_metadata", key.namespace.as_str(), key.key.as_str()];
        Some((key.clone(), host.property(&path).ok()??))
    });
    let head = host.headers(Map::Request, |list| RequestHead::new(list))?.with_metadata(metadata).with_body(has_body);
    let head = head.with_refused_wishes(shared.refused_wishes.borrow().routes(host.unix_time()?));
    Ok(Arc::new(if config.needs_principals { head.with_principals(properties::principals(host)) } else { head }))
}

/// Reads a head that is not a request's: all of it.
#[inline(never)]
pub(super) fn all(host: &impl Host, map: Map) -> Result<Headers, HostError> {
    host.headers(map, |list| Headers::new(list))
}

/// Reads what matters of the head of the upstream's response.
pub(super) fn upstream(host: &impl Host, has_body: bool) -> Result<UpstreamHead, HostError> {
    Ok(UpstreamHead::read(&all(host, Map::Response)?, has_body))
}
