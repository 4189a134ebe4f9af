//! The memory of payments.

use super::{Result, refuse, store};
use crate::config::{SharedLedger, raw};
use crate::ledger::Ledger;

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

/// Resolves the store that a fleet shares; `None` where there is none.
pub(super) fn shared(raw: &raw::Ledger) -> Result<Option<SharedLedger>> {
    const PATH: &str = "ledger.store";
    let Some(stores) = &raw.store else { return Ok(None) };
    match (&stores.0.etcd, &stores.0.dynamodb) {
        (Some(etcd), None) => store::etcd(&etcd.0),
        (None, Some(dynamodb)) => store::dynamodb(&dynamodb.0),
        (None, None) => refuse(PATH, "names no store; write {etcd: {cluster: …, fleet: …}}"),
        (Some(_), Some(_)) => refuse(PATH, "names two stores; a ledger stands in one"),
    }
}

fn max_redemptions(raw: &raw::Ledger) -> Result<u8> {
    match raw.max_redemptions.map_or(Ok(Ledger::DEFAULT_MAX_REDEMPTIONS), u8::try_from) {
        Ok(redemptions @ 1..) => Ok(redemptions),
        _ => refuse("ledger.max_redemptions", "is not between 1 and 255"),
    }
}
