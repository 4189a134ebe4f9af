//! The ledger's pages in the host's shared data.

use super::host::Host;
use super::stats;
use crate::config::Service;
use crate::facilitator::Supported;
use crate::ledger::{CLAIM_BYTES, Store, StoreFailed, Written, is_of_payments};
use crate::time::UnixTime;

/// Shared data: one value for each page, seen by all workers that run the same `vm_id`.
pub(super) struct SharedData<'a, H> {
    host: &'a H,
    /// Claims on the page that was read last.
    claims: i64,
}

impl<'a, H: Host> SharedData<'a, H> {
    pub(super) const fn new(host: &'a H) -> Self {
        Self { host, claims: 0 }
    }
}

/// Names the form of the pages, so that a later form does not read this one's.
const KEY_PREFIX: &str = "x402.claims.4.";

const WORKERS_KEY: &str = "x402.workers";

const SUPPORTED_PREFIX: &str = "x402.settlers.2.";

const SECRET_KEY: &str = "x402.secret.1";

const LEASE_PREFIX: &str = "x402.lease.1.";

const SINCE_KEY: &str = "x402.ledger_since.1";

/// Attempts at a value that others write at the same time.
const ATTEMPTS: u32 = 1024;

impl<H: Host> Store for SharedData<'_, H> {
    type Version = u32;

    fn read(&mut self, page: u32) -> Result<Option<(Vec<u8>, u32)>, StoreFailed> {
        let stored = self.host.shared_data(&key(page)).map_err(|_| StoreFailed)?;
        self.claims = stored.as_ref().map_or(0, |(bytes, _)| claims_in(bytes));
        Ok(stored)
    }

    fn write(&mut self, page: u32, value: &[u8], expected: Option<u32>) -> Result<Written, StoreFailed> {
        match self.host.set_shared_data(&key(page), value, expected) {
            Ok(true) if is_of_payments(page) => {
                let claims = claims_in(value);
                stats::change_claims(self.host, claims.saturating_sub(std::mem::replace(&mut self.claims, claims)));
                Ok(Written::Done)
            }
            Ok(true) => Ok(Written::Done),
            Ok(false) => Ok(Written::Raced),
            Err(_) => Err(StoreFailed),
        }
    }
}

fn claims_in(page: &[u8]) -> i64 {
    page.len().checked_div(CLAIM_BYTES).and_then(|claims| i64::try_from(claims).ok()).unwrap_or_default()
}

fn key(page: u32) -> String {
    format!("{KEY_PREFIX}{page}")
}

/// Reads what the facilitator supports, as far as any worker has heard.
pub(super) fn supported(host: &impl Host, facilitator: &Service) -> Option<Supported> {
    let (bytes, _) = host.shared_data(&supported_key(facilitator)).ok()??;
    Some(Supported::from_text(&String::from_utf8_lossy(&bytes)))
}

/// Makes something new of what all workers know about that; `None` where the store does not work.
pub(super) fn share_supported(
    host: &impl Host,
    facilitator: &Service,
    change: impl Fn(&Supported) -> Supported,
) -> Option<Supported> {
    let key = supported_key(facilitator);
    (0..ATTEMPTS).find_map(|_| {
        let (earlier, version) = match host.shared_data(&key).ok()? {
            Some((bytes, version)) => (Supported::from_text(&String::from_utf8_lossy(&bytes)), Some(version)),
            None => (Supported::default(), None),
        };
        let changed = change(&earlier);
        host.set_shared_data(&key, changed.to_text().as_bytes(), version).ok()?.then_some(changed)
    })
}

/// Several plugins of one VM may have several facilitators, or accounts with one, and must not hear of each other's.
fn supported_key(facilitator: &Service) -> String {
    format!("{SUPPORTED_PREFIX}{}", hex::encode(facilitator.identity()))
}

/// Random bytes that all workers share for as long as they share the ledger; `None` where the host has none.
pub(super) fn shared_secret(host: &impl Host) -> Option<[u8; 32]> {
    (0..ATTEMPTS).find_map(|_| match host.shared_data(SECRET_KEY).ok()? {
        Some((bytes, _)) => bytes.try_into().ok(),
        None => {
            let secret = host.random().ok()?;
            host.set_shared_data(SECRET_KEY, &secret, None).ok()?.then_some(secret)
        }
    })
}

/// When the shared data began, as far as any plugin of this ledger knows; `None` where it does not work.
pub(super) fn ledger_since(host: &impl Host, now: UnixTime) -> Option<UnixTime> {
    (0..ATTEMPTS).find_map(|_| match host.shared_data(SINCE_KEY).ok()? {
        Some((bytes, _)) => Some(UnixTime::from_secs(u64::from_le_bytes(bytes.try_into().ok()?))),
        None => host.set_shared_data(SINCE_KEY, &now.as_secs().to_le_bytes(), None).ok()?.then_some(now),
    })
}

/// Takes the right to do what one worker of the process does for all, or keeps it: until `until`. `false` where another one
/// has it, or the store does not work.
pub(super) fn keep_lease(host: &impl Host, name: &str, number: u32, now: UnixTime, until: UnixTime) -> bool {
    let key = format!("{LEASE_PREFIX}{name}");
    let Ok(stored) = host.shared_data(&key) else { return false };
    let held = stored.as_ref().and_then(|(bytes, _)| {
        let (owner, until) = bytes.split_first_chunk::<4>()?;
        Some((u32::from_le_bytes(*owner), u64::from_le_bytes(until.try_into().ok()?)))
    });
    if held.is_some_and(|(owner, until)| owner != number && until > now.as_secs()) {
        return false;
    }
    let bytes = [&number.to_le_bytes()[..], &until.as_secs().to_le_bytes()].concat();
    host.set_shared_data(&key, &bytes, stored.map(|(_, version)| version)) == Ok(true)
}

/// Draws a number that no other context of this process has.
pub(super) fn draw_number(host: &impl Host) -> Option<u32> {
    (0..ATTEMPTS).find_map(|_| {
        let (drawn, version) = match host.shared_data(WORKERS_KEY).ok()? {
            Some((bytes, version)) => (u32::from_le_bytes(bytes.try_into().ok()?), Some(version)),
            None => (0, None),
        };
        let number = drawn.checked_add(1)?;
        host.set_shared_data(WORKERS_KEY, &number.to_le_bytes(), version).ok()?.then_some(number)
    })
}
