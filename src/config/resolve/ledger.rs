//! The memory of payments.

use std::time::Duration;

use super::{Result, refuse, require};
use crate::config::{Service, SharedLedger, raw};
use crate::ledger::{Ledger, remote::IS_BUILT_IN};
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

/// Resolves the store that a fleet shares; `None` where there is none.
pub(super) fn shared(raw: &raw::Ledger) -> Result<Option<SharedLedger>> {
    const PATH: &str = "ledger.store";
    let Some(store) = &raw.store else { return Ok(None) };
    require(PATH, "etcd", IS_BUILT_IN)?;
    if !IS_BUILT_IN {
        return Ok(None);
    }
    let Some(etcd) = &store.0.etcd else {
        return refuse(PATH, "names no store; write {etcd: {cluster: …, fleet: …}}");
    };
    let raw::Etcd { cluster, fleet, timeout } = &etcd.0;
    if cluster.is_empty() {
        return refuse(format!("{PATH}.etcd.cluster"), "is empty; name the cluster that the calls go to");
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if fleet.is_empty() || fleet.len() > MAX_FLEET_BYTES || !fleet.bytes().all(is_name) {
        return refuse(
            format!("{PATH}.etcd.fleet"),
            format_args!("{fleet:?} is not of 1 to {MAX_FLEET_BYTES} letters, digits, \"-\", \"_\" and \".\""),
        );
    }
    let timeout = match timeout.as_deref().map_or(Some(DEFAULT_STORE_TIMEOUT), parse_duration) {
        Some(timeout) if !timeout.is_zero() && timeout <= MAX_STORE_TIMEOUT => timeout,
        _ => return refuse(format!("{PATH}.etcd.timeout"), "is not more than 0s and at most 10s, such as \"1s\""),
    };
    let service = Service {
        cluster: cluster.clone(),
        scheme: "http".to_owned(),
        authority: cluster.clone(),
        base_path: String::new(),
        timeout,
        headers: Vec::new(),
        cdp_key: None,
    };
    Ok(Some(SharedLedger { service, fleet: fleet.clone() }))
}

fn max_redemptions(raw: &raw::Ledger) -> Result<u8> {
    match raw.max_redemptions.map_or(Ok(Ledger::DEFAULT_MAX_REDEMPTIONS), u8::try_from) {
        Ok(redemptions @ 1..) => Ok(redemptions),
        _ => refuse("ledger.max_redemptions", "is not between 1 and 255"),
    }
}
