//! The memory of payments.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Result, refuse, require};
use crate::config::{Service, SharedLedger, raw};
use crate::ledger::Ledger;
use crate::ledger::remote::Engine;
use crate::ledger::remote::dynamodb::{self, DynamoDb};
use crate::ledger::remote::etcd::{self, Etcd};
use crate::time::parse_duration;

/// Few enough to take 42 MB, if it were ever full.
const DEFAULT_MAX_CLAIMS: u32 = 262_144;
/// As many as 4 GB have room for; a page of them has a megabyte, and is read and written whole.
const MOST_CLAIMS: u32 = 16_777_216;

/// Resolves the rules of claims on payments.
pub(super) fn ledger(raw: &raw::Ledger) -> Result<Ledger> {
    match raw.max_claims.map_or(Ok(DEFAULT_MAX_CLAIMS), u32::try_from) {
        Ok(claims @ 1..=MOST_CLAIMS) => Ok(Ledger::with_room_for(claims).with_max_redemptions(max_redemptions(raw)?)),
        _ => refuse("ledger.max_claims", format_args!("is not between 1 and {MOST_CLAIMS}")),
    }
}

/// Short, for the store is near, and what it does not answer is asked again.
const DEFAULT_STORE_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_STORE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_FLEET_BYTES: usize = 64;

/// Bytes of a table's name in DynamoDB.
const TABLE_BYTES: RangeInclusive<usize> = 3..=255;

/// Resolves the store that a fleet shares; `None` where there is none.
pub(super) fn shared(raw: &raw::Ledger) -> Result<Option<SharedLedger>> {
    const PATH: &str = "ledger.store";
    let Some(store) = &raw.store else { return Ok(None) };
    match (&store.0.etcd, &store.0.dynamodb) {
        (Some(etcd), None) => {
            require(PATH, "etcd", etcd::IS_BUILT_IN)?;
            if !etcd::IS_BUILT_IN {
                return Ok(None);
            }
            let raw::Etcd { cluster, fleet, timeout } = &etcd.0;
            let service = service("ledger.store.etcd", cluster, fleet, timeout.as_deref())?;
            Ok(Some(SharedLedger { service, engine: Engine::Etcd(Etcd::new(fleet)) }))
        }
        (None, Some(dynamodb)) => {
            require(PATH, "dynamodb", dynamodb::IS_BUILT_IN)?;
            if !dynamodb::IS_BUILT_IN {
                return Ok(None);
            }
            let raw::DynamoDb { cluster, table, fleet, timeout } = &dynamodb.0;
            let service = service("ledger.store.dynamodb", cluster, fleet, timeout.as_deref())?;
            if !is_name(table, TABLE_BYTES) {
                return refuse(
                    "ledger.store.dynamodb.table",
                    format_args!("{table:?} is not of 3 to 255 letters, digits, \"-\", \"_\" and \".\""),
                );
            }
            Ok(Some(SharedLedger { service, engine: Engine::DynamoDb(DynamoDb::new(table, fleet)) }))
        }
        (None, None) => refuse(PATH, "names no store; write {etcd: {cluster: …, fleet: …}}"),
        (Some(_), Some(_)) => refuse(PATH, "names two stores; a ledger stands in one"),
    }
}

fn is_name(text: &str, bytes: RangeInclusive<usize>) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bytes.contains(&text.len()) && text.bytes().all(is_name)
}

/// Resolves where a store is called; `path` is that of its engine.
fn service(path: &str, cluster: &str, fleet: &str, timeout: Option<&str>) -> Result<Service> {
    if cluster.is_empty() {
        return refuse(format!("{path}.cluster"), "is empty; name the cluster that the calls go to");
    }
    if !is_name(fleet, 1..=MAX_FLEET_BYTES) {
        return refuse(
            format!("{path}.fleet"),
            format_args!("{fleet:?} is not of 1 to {MAX_FLEET_BYTES} letters, digits, \"-\", \"_\" and \".\""),
        );
    }
    let timeout = match timeout.map_or(Some(DEFAULT_STORE_TIMEOUT), parse_duration) {
        Some(timeout) if !timeout.is_zero() && timeout <= MAX_STORE_TIMEOUT => timeout,
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

fn max_redemptions(raw: &raw::Ledger) -> Result<u8> {
    match raw.max_redemptions.map_or(Ok(Ledger::DEFAULT_MAX_REDEMPTIONS), u8::try_from) {
        Ok(redemptions @ 1..) => Ok(redemptions),
        _ => refuse("ledger.max_redemptions", "is not between 1 and 255"),
    }
}
