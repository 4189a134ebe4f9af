//! Services that the filter calls: nodes, and the operator's own service of prices.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Uri;

use super::text::{is_field_value, is_token};
use super::{Result, refuse};
use crate::config::raw;
use crate::config::secret::{Environment, Secret, Shown, header_path};
use crate::config::{Rpc, Service};
use crate::json::Named;
use crate::time::parse_duration;

/// Short, for a node only looks things up.
const DEFAULT_RPC_TIMEOUT: Duration = Duration::from_secs(5);
/// Short, for a client waits for its terms.
const DEFAULT_QUOTE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// As far back as most nodes still search, and an hour on a chain with a block every two seconds.
const DEFAULT_LOG_RANGE: u64 = 1800;

/// Resolves a node of a chain.
pub(super) fn rpc(path: &str, chain_id: u64, raw: raw::Rpc, environment: Environment<'_>) -> Result<Rpc> {
    let timeout = read_timeout(path, raw.timeout.as_deref(), DEFAULT_RPC_TIMEOUT)?;
    let service = service(path, raw.cluster, &raw.url, timeout, &raw.headers, environment)?;
    let confirmations = raw.confirmations.unwrap_or(1);
    if confirmations == 0 {
        return refuse(format!("{path}.confirmations"), "is 0; the block of the transfer itself is the first");
    }
    Ok(Rpc {
        chain_id,
        service: Arc::new(service),
        confirmations,
        log_range: raw.log_range.unwrap_or(DEFAULT_LOG_RANGE),
    })
}

/// Resolves the operator's own service that names prices.
pub(super) fn quote(path: &str, raw: &raw::Quote, environment: Environment<'_>) -> Result<Service> {
    let timeout = read_timeout(path, raw.timeout.as_deref(), DEFAULT_QUOTE_TIMEOUT)?;
    service(path, raw.cluster.clone(), &raw.url, timeout, &raw.headers, environment)
}

/// Resolves the service that stands at `path` of the configuration.
#[inline(never)]
pub(super) fn service(
    path: &str,
    cluster: String,
    url: &Secret,
    timeout: Duration,
    headers: &Named<Secret>,
    environment: Environment<'_>,
) -> Result<Service> {
    let url = url.reveal(&format!("{path}.url"), environment)?;
    if cluster.is_empty() {
        return refuse(format!("{path}.cluster"), "is empty; name the cluster that the calls go to");
    }
    if url.contains('@') {
        return refuse(
            format!("{path}.url"),
            format_args!("carries a user name; credentials belong in {path}.headers"),
        );
    }
    let uri: Option<Uri> = url.parse().ok();
    let Some((scheme, authority, base_path)) = uri.as_ref().and_then(parts_of) else {
        // A URL may hold a key wherever it is wrong, so the message does not show it.
        return refuse(
            format!("{path}.url"),
            format_args!(
                "is not an http or https URL without query; what a query would hold belongs in {path}.headers"
            ),
        );
    };
    let headers = callout_headers(path, headers, environment)?;
    Ok(Service { cluster, scheme, authority, base_path, timeout, headers, cdp_key: None })
}

pub(super) fn read_timeout(path: &str, text: Option<&str>, default: Duration) -> Result<Duration> {
    let Some(text) = text else { return Ok(default) };
    match parse_duration(text) {
        Some(timeout) if timeout >= Duration::from_millis(1) && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => refuse(
            format!("{path}.timeout"),
            format_args!("{} is not a duration such as \"10s\" or \"0.5s\", from 0.001s to 600s", Shown(text)),
        ),
    }
}

/// Returns scheme, authority and path of an `http` or `https` URL without query.
fn parts_of(uri: &Uri) -> Option<(String, String, String)> {
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let authority = uri.authority()?.to_string();
    let path = uri.path().trim_end_matches('/').to_owned();
    uri.query().is_none().then(|| (scheme.to_owned(), authority, path))
}

fn callout_headers(
    service: &str,
    Named(raw): &Named<Secret>,
    environment: Environment<'_>,
) -> Result<Vec<(String, String)>> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        let path = header_path(service, name);
        let header = callout_header(&path, name, value.reveal(&path, environment)?)?;
        if headers.iter().any(|(name, _)| *name == header.0) {
            return refuse(path, "holds the same name twice");
        }
        headers.push(header);
    }
    Ok(headers)
}

/// Reads a header. Neither its value nor its name is shown: somebody may have swapped the two.
fn callout_header(path: &str, name: &str, value: String) -> Result<(String, String)> {
    const RESERVED: [&str; 7] =
        ["host", "content-type", "content-length", "transfer-encoding", "connection", "te", "upgrade"];
    if !is_token(name) {
        return refuse(
            path,
            "holds a name that no header has; a name is of letters, digits and !#$%&'*+-.^_`|~, and stands before the colon",
        );
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) {
        return refuse(path, "is set by the filter or the proxy");
    }
    if !is_field_value(&value) {
        return refuse(path, "holds a character that no header value may have");
    }
    Ok((lower, value))
}
