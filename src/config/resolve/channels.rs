//! Payment channels: the rules for all of them, and the terms of an entry.

use super::asset::Asset;
use super::issuer::secret_key;
use super::payers::principals;
use super::{Result, refuse, require};
use crate::channel::{self, IS_BUILT_IN};
use crate::config::raw::{self, TextOr};
use crate::config::secret::{Environment, Shown};
use crate::config::{Channels, Flush};
use crate::evm::Address;
use crate::ledger::Channels as Records;
use crate::money::{Amount, Dollars};
use crate::time::parse_duration;
use crate::x402::requirement::{ChannelTerms, Scheme};

const DEFAULT_CLAIM_ABOVE: &str = "$5";
const DEFAULT_CLAIM_EVERY: &str = "300s";
const DEFAULT_MAX: u32 = 65_536;
/// As many as a gigabyte has room for.
const MOST: u32 = 1_048_576;
/// The contract's own bounds, in seconds.
const WITHDRAW_DELAYS: std::ops::RangeInclusive<u64> = 900..=2_592_000;

/// Resolves the rules for channels.
#[inline(never)]
pub(super) fn channels(raw: &raw::Channels, environment: Environment<'_>) -> Result<Channels> {
    let raw::Channels { authorizer, claim_above, claim_every, refund_idle, max_channels, flush } = raw;
    let is_wanted = authorizer.is_some()
        || claim_above.is_some()
        || claim_every.is_some()
        || refund_idle.is_some()
        || max_channels.is_some()
        || flush.is_some();
    require("channels", "channels", IS_BUILT_IN || !is_wanted)?;
    let authorizer = match &raw.authorizer {
        None => None,
        Some(TextOr::Text(text)) if text == "facilitator" => None,
        Some(TextOr::Text(_)) => return refuse("channels.authorizer", "is neither \"facilitator\" nor {key: …}"),
        Some(TextOr::Object(_)) if !IS_BUILT_IN => None,
        Some(TextOr::Object(raw::Authorizer { key })) => Some(secret_key("channels.authorizer.key", key, environment)?),
    };
    let claim_above = raw.claim_above.as_deref().unwrap_or(DEFAULT_CLAIM_ABOVE);
    let claim_above = match Dollars::parse(claim_above) {
        Ok(dollars) => dollars,
        Err(error) => return refuse("channels.claim_above", format_args!("{} {error}", Shown(claim_above))),
    };
    let records = match raw.max_channels.map_or(Ok(DEFAULT_MAX), u32::try_from) {
        Ok(channels @ 1..=MOST) => Records::new(channels),
        _ => return refuse("channels.max_channels", format_args!("is not between 1 and {MOST}")),
    };
    Ok(Channels {
        authorizer,
        claim_above,
        claim_every: seconds("channels.claim_every", raw.claim_every.as_deref().unwrap_or(DEFAULT_CLAIM_EVERY))?,
        refund_idle: raw.refund_idle.as_deref().map(|text| seconds("channels.refund_idle", text)).transpose()?,
        records,
        flush: raw.flush.as_ref().filter(|_| IS_BUILT_IN).map(|raw| resolve_flush(raw, environment)).transpose()?,
    })
}

fn resolve_flush(raw: &raw::Flush, environment: Environment<'_>) -> Result<Flush> {
    const SHORTEST_SECRET: usize = 16;
    let raw::Flush { path, principals: names, secret } = raw;
    let is_path = path.len() > 1 && path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_path || path.contains(['?', '#', '{', '*']) {
        return refuse(
            "channels.flush.path",
            format_args!("{} is not a path such as \"/internal/flush\"", Shown(path)),
        );
    }
    if names.is_empty() && secret.is_none() {
        return refuse("channels.flush", "says nobody who may: give it principals or a secret");
    }
    let at = "channels.flush.secret";
    let secret = secret.as_ref().map(|secret| secret.reveal(at, environment)).transpose()?;
    if secret.as_ref().is_some_and(|secret| secret.trim() != secret || secret.len() < SHORTEST_SECRET) {
        return refuse(at, "is shorter than 16 bytes, or begins or ends with a space");
    }
    Ok(Flush {
        path: path.clone(),
        principals: principals("channels.flush", names)?,
        secret_hash: secret.map(|secret| Flush::hash(secret.as_bytes())),
    })
}

/// Resolves the terms of channels of an entry; `None` where it is of another scheme. `authorizer` is the gate's own, where it
/// has one.
#[inline(never)]
pub(super) fn terms(
    path: &str,
    entry: &raw::Entry,
    scheme: &Scheme,
    asset: &Asset,
    chain_id: u64,
    authorizer: Option<Address>,
) -> Result<Option<ChannelTerms>> {
    let own = [
        ("min_deposit", entry.min_deposit.is_some()),
        ("enforce_min_deposit", entry.enforce_min_deposit),
        ("withdraw_delay", entry.withdraw_delay.is_some()),
    ];
    if *scheme != Scheme::BatchSettlement {
        return match own.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => refuse(format!("{path}.{key}"), "is for scheme batch-settlement"),
            None => Ok(None),
        };
    }
    require(format!("{path}.scheme"), "channels", IS_BUILT_IN)?;
    let delay_path = format!("{path}.withdraw_delay");
    let withdraw_delay = entry.withdraw_delay.as_deref().map(|text| seconds(&delay_path, text)).transpose()?;
    let withdraw_delay = withdraw_delay.unwrap_or(*WITHDRAW_DELAYS.start());
    if !WITHDRAW_DELAYS.contains(&withdraw_delay) {
        return refuse(delay_path, "is not between 900s and 2592000s, the bounds of the contract");
    }
    let min_deposit = |text: &String| asset.units(&format!("{path}.min_deposit"), text, 0);
    let min_deposit: Option<Amount> = entry.min_deposit.as_ref().map(min_deposit).transpose()?;
    Ok(Some(ChannelTerms {
        receiver_authorizer: authorizer,
        is_authorized_by_facilitator: authorizer.is_none(),
        withdraw_delay,
        min_deposit,
        enforces_min_deposit: entry.enforce_min_deposit,
        domain: channel::domain_separator(chain_id),
        standing: None,
    }))
}

/// Reads a time of whole seconds, at least one: with `s`, or of minutes, hours or days.
fn seconds(path: &str, text: &str) -> Result<u64> {
    const UNITS: [(char, u64); 3] = [('m', 60), ('h', 3600), ('d', 86_400)];
    let of_unit = |(unit, seconds): (char, u64)| {
        text.strip_suffix(unit)?.parse::<u32>().ok().map(|number| u64::from(number).saturating_mul(seconds))
    };
    let of_seconds =
        || parse_duration(text).filter(|duration| duration.subsec_nanos() == 0).map(|duration| duration.as_secs());
    match UNITS.into_iter().find_map(of_unit).or_else(of_seconds).filter(|seconds| *seconds > 0) {
        Some(seconds) => Ok(seconds),
        None => refuse(
            path,
            format_args!(
                "{} is not of whole seconds such as \"300s\", or of minutes, hours or days (\"5m\")",
                Shown(text)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_seconds_minutes_hours_or_days() {
        for (text, wanted) in [("300s", 300), ("5m", 300), ("24h", 86_400), ("30d", 2_592_000), ("1.0s", 1)] {
            assert_eq!(seconds("channels.claim_every", text).ok(), Some(wanted), "{text}");
        }
        for text in ["", "m", "0m", "0s", "-5m", "1.5m", "5", "5 m", "5M", "1.5s", "99999999999h"] {
            let refused = seconds("channels.claim_every", text).unwrap_err();
            assert!(refused.to_string().starts_with("channels.claim_every: "), "{text}: {refused}");
        }
    }
}
