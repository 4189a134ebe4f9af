//! The stores that the proxies of a fleet can share. One that is not built in is refused by name.

#[cfg(any(feature = "etcd", feature = "dynamodb"))]
use shared::service;

#[cfg(feature = "dynamodb")]
use shared::is_name;

use super::Result;
#[cfg(feature = "dynamodb")]
use super::refuse;
#[cfg(not(all(feature = "etcd", feature = "dynamodb")))]
use super::require;
use crate::config::{SharedLedger, raw};
#[cfg(any(feature = "etcd", feature = "dynamodb"))]
use crate::ledger::remote::Engine;
#[cfg(feature = "dynamodb")]
use crate::ledger::remote::dynamodb::DynamoDb;
#[cfg(feature = "etcd")]
use crate::ledger::remote::etcd::Etcd;

/// Resolves etcd.
#[cfg(feature = "etcd")]
pub(super) fn etcd(raw: &raw::Etcd) -> Result<Option<SharedLedger>> {
    let raw::Etcd { cluster, fleet, timeout } = raw;
    let service = service("ledger.store.etcd", cluster, fleet, timeout.as_deref())?;
    Ok(Some(SharedLedger { service, engine: Engine::Etcd(Etcd::new(fleet)) }))
}

/// Refuses etcd.
#[cfg(not(feature = "etcd"))]
pub(super) fn etcd(_: &raw::Etcd) -> Result<Option<SharedLedger>> {
    require("ledger.store", "etcd", false).map(|()| None)
}

/// Resolves a table of DynamoDB's.
#[cfg(feature = "dynamodb")]
#[inline(never)]
pub(super) fn dynamodb(raw: &raw::DynamoDb) -> Result<Option<SharedLedger>> {
    let raw::DynamoDb { cluster, table, fleet, timeout } = raw;
    let service = service("ledger.store.dynamodb", cluster, fleet, timeout.as_deref())?;
    if !is_name(table, 3..=255) {
        return refuse(
            "ledger.store.dynamodb.table",
            format_args!("{table:?} is not of 3 to 255 letters, digits, \"-\", \"_\" and \".\""),
        );
    }
    Ok(Some(SharedLedger { service, engine: Engine::DynamoDb(DynamoDb::new(table, fleet)) }))
}

/// Refuses DynamoDB.
#[cfg(not(feature = "dynamodb"))]
pub(super) fn dynamodb(_: &raw::DynamoDb) -> Result<Option<SharedLedger>> {
    require("ledger.store", "dynamodb", false).map(|()| None)
}

/// The keys that all stores have.
#[cfg(any(feature = "etcd", feature = "dynamodb"))]
mod shared {
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use super::super::{Result, refuse};
    use crate::config::Service;
    use crate::time::parse_duration;

    /// Short, for the store is near, and what it does not answer is asked again.
    const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
    const MAX_TIMEOUT: Duration = Duration::from_secs(10);
    const MAX_FLEET_BYTES: usize = 64;

    /// Returns whether a text is of so many bytes, letters, digits and a few more, none of which means anything anywhere.
    pub(super) fn is_name(text: &str, bytes: RangeInclusive<usize>) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        bytes.contains(&text.len()) && text.bytes().all(is_plain)
    }

    /// Resolves where a store is called; `path` is its own in the configuration.
    pub(super) fn service(path: &str, cluster: &str, fleet: &str, timeout: Option<&str>) -> Result<Service> {
        if cluster.is_empty() {
            return refuse(format!("{path}.cluster"), "is empty; name the cluster that the calls go to");
        }
        if !is_name(fleet, 1..=MAX_FLEET_BYTES) {
            return refuse(
                format!("{path}.fleet"),
                format_args!("{fleet:?} is not of 1 to {MAX_FLEET_BYTES} letters, digits, \"-\", \"_\" and \".\""),
            );
        }
        let timeout = match timeout.map_or(Some(DEFAULT_TIMEOUT), parse_duration) {
            Some(timeout) if !timeout.is_zero() && timeout <= MAX_TIMEOUT => timeout,
            _ => return refuse(format!("{path}.timeout"), "is not more than 0s and at most 10s, such as \"1s\""),
        };
        Ok(Service {
            cluster: cluster.to_owned(),
            scheme: "http".to_owned(),
            authority: cluster.to_owned(),
            base_path: String::new(),
            timeout,
            headers: Vec::new(),
            cdp_key: None,
        })
    }
}
