//! The memory of payments.

use super::{Result, refuse};
use crate::config::raw;
use crate::ledger::Ledger;
use crate::time::parse_duration;

/// Long enough for an Envoy that was replaced by a hot restart: it goes on for a quarter of an hour
/// (`--parent-shutdown-time-s`), and what it asked for last may settle a little later.
const DEFAULT_EXCLUSIVE_AFTER_SECONDS: u64 = 1200;
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

fn max_redemptions(raw: &raw::Ledger) -> Result<u8> {
    match raw.max_redemptions.map_or(Ok(Ledger::DEFAULT_MAX_REDEMPTIONS), u8::try_from) {
        Ok(redemptions @ 1..) => Ok(redemptions),
        _ => refuse("ledger.max_redemptions", "is not between 1 and 255"),
    }
}

/// Resolves the seconds after which no other ledger takes the same payments; `None` where others take them, too.
pub(super) fn exclusive_after(raw: &raw::Ledger) -> Result<Option<u64>> {
    const PATH: &str = "ledger.exclusive_after";
    match (&raw.exclusive_after, raw.exclusive) {
        (None, is_exclusive) => Ok(is_exclusive.then_some(DEFAULT_EXCLUSIVE_AFTER_SECONDS)),
        (Some(_), false) => refuse(PATH, "needs ledger.exclusive: true"),
        (Some(text), true) => match parse_duration(text).filter(|duration| duration.subsec_nanos() == 0) {
            Some(duration) => Ok(Some(duration.as_secs())),
            None => refuse(PATH, format_args!("{text:?} is not of whole seconds such as \"1200s\"")),
        },
    }
}
