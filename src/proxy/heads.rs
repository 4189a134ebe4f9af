//! Heads, read from the host.

use std::sync::Arc;

use super::host::{Host, HostError, Map};
use super::properties;
use super::shared::Shared;
use crate::config::Config;
use crate::exchange::{Headers, RequestHead, UpstreamHead};

/// Puts what the proxy knows of a request beside its head.
pub(super) fn complete(
    host: &impl Host,
    config: &Config,
    shared: &Shared,
    head: RequestHead,
) -> Result<Arc<RequestHead>, HostError> {
    let metadata = config.metadata.iter().filter_map(|key| {
        let path = ["metadata", "filter_metadata", key.namespace.as_str(), key.key.as_str()];
        Some((key.clone(), host.property(&path).ok()??))
    });
    let head = head.with_metadata(metadata);
    let head = head.with_refused_wishes(shared.refused_wishes.borrow().routes(host.unix_time()?));
    Ok(Arc::new(if config.needs_principals { head.with_principals(properties::principals(host)) } else { head }))
}

/// Reads a head that is not a request's: all of it.
#[inline(never)]
pub(super) fn all(host: &impl Host, map: Map) -> Result<Headers<'static>, HostError> {
    host.headers(map, |list| Headers::read(&list).into_owned())
}

/// Reads the status of a head that is not a request's; 0 where it has none.
pub(super) fn status(host: &impl Host, map: Map) -> Result<u16, HostError> {
    host.headers(map, |list| Headers::read(&list).text(":status").parse().unwrap_or(0))
}

/// Reads what matters of the head of the upstream's response.
pub(super) fn upstream(host: &impl Host, has_body: bool) -> Result<UpstreamHead, HostError> {
    host.headers(Map::Response, |list| UpstreamHead::read(&Headers::read(&list), has_body))
}
