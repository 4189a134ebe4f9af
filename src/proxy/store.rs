//! The ledger's pages in the host's shared data.

use super::fleet::Founding;
use super::host::Host;
use super::stats;
use crate::config::Service;
use crate::exchange::{Flush, Flushed};
use crate::facilitator::Supported;
use crate::ledger::{CLAIM_BYTES, Store, StoreFailed, Written, is_of_payments};
use crate::schedule::Schedule;
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

/// The form of the pages. Their keys hold it, so that a later form does not read this one's; and it stands in a key of its own, so
/// that a build of another form sees that there is a ledger which it cannot read. Version 0.1.0 keeps this form and does not write that key:
/// a build of a later form has to look for its pages, too.
const FORM: &str = "4";

const FORM_KEY: &str = "x402.form";

const INSTANCE_KEY: &str = "x402.instance.1";

const WORKERS_KEY: &str = "x402.workers";

const SUPPORTED_PREFIX: &str = "x402.settlers.2.";

const SECRET_KEY: &str = "x402.secret.1";

const LEASE_PREFIX: &str = "x402.lease.1.";

const SCHEDULE_PREFIX: &str = "x402.schedule.1.";

const FLUSH_PREFIX: &str = "x402.flush.1.";

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
    format!("x402.claims.{FORM}.{page}")
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

/// Returns the name of the times at which a facilitator is asked what it supports.
pub(super) fn supported_schedule(facilitator: &Service) -> String {
    hex::encode(facilitator.identity())
}

/// Reads the times of a question that the workers of this process ask in turns, and the mark of their version; `None` where the
/// store does not work.
pub(super) fn schedule(host: &impl Host, name: &str) -> Option<(Option<Schedule>, Option<u32>)> {
    let stored = host.shared_data(&format!("{SCHEDULE_PREFIX}{name}")).ok()?;
    Some((stored.as_ref().and_then(|(bytes, _)| Schedule::read(bytes)), stored.map(|(_, version)| version)))
}

/// Writes them if they still have this version; `false` where they have not, or the store does not work.
pub(super) fn set_schedule(host: &impl Host, name: &str, schedule: Schedule, version: Option<u32>) -> bool {
    host.set_shared_data(&format!("{SCHEDULE_PREFIX}{name}"), &schedule.to_bytes(), version) == Ok(true)
}

/// Notes what an answer was worth.
pub(super) fn note_word(host: &impl Host, name: &str, hear: &dyn Fn(Schedule) -> Schedule) {
    let _ = (0..ATTEMPTS).find(|_| match schedule(host, name) {
        Some((known, version)) => set_schedule(host, name, hear(known.unwrap_or_default()), version),
        None => true,
    });
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

/// Returns whether the ledger in the shared data has the form of this build, or there is none yet; from now on it has. `None` where
/// the store does not work.
pub(super) fn has_own_form(host: &impl Host) -> Option<bool> {
    (0..ATTEMPTS).find_map(|_| match host.shared_data(FORM_KEY).ok()? {
        Some((form, _)) => Some(form == FORM.as_bytes()),
        None => host.set_shared_data(FORM_KEY, FORM.as_bytes(), None).ok()?.then_some(true),
    })
}

/// Notes that the plugin `name` runs with a configuration, by its mark. Returns the name of the plugin that was noted last, if that
/// is another one with another configuration.
pub(super) fn note_instance(host: &impl Host, name: &str, mark: &str) -> Option<String> {
    let (text, version) = match host.shared_data(INSTANCE_KEY).ok()? {
        Some((bytes, version)) => (String::from_utf8_lossy(&bytes).into_owned(), Some(version)),
        None => Default::default(),
    };
    // Whoever writes at the same time notes as much.
    let _ = host.set_shared_data(INSTANCE_KEY, format!("{mark} {name}").as_bytes(), version);
    let (other_mark, other) = text.split_once(' ')?;
    (other_mark != mark && other != name).then(|| other.to_owned())
}

const FOUNDING_PREFIX: &str = "x402.fleet.1.";

/// What a fleet has in common, as far as a worker of this process knows.
pub(super) fn founding(host: &impl Host, name: &str) -> Option<Founding> {
    let (bytes, _) = host.shared_data(&format!("{FOUNDING_PREFIX}{name}")).ok()??;
    Founding::read(&bytes)
}

/// Tells all workers of this process what a fleet has in common; what they know of it since.
pub(super) fn share_founding(host: &impl Host, name: &str, founding: Founding) -> Option<Founding> {
    let key = format!("{FOUNDING_PREFIX}{name}");
    let version = host.shared_data(&key).ok()?.map(|(_, version)| version);
    let is_written = host.set_shared_data(&key, &founding.to_bytes(), version).ok()?;
    if is_written { Some(founding) } else { self::founding(host, name) }
}

/// Takes the right to do what one worker of the process does for all, or keeps it: until `until`. `false` where a newer one
/// has it, or the store does not work. The newest takes it from any other: a host keeps contexts of an earlier configuration for
/// minutes.
pub(super) fn keep_lease(host: &impl Host, name: &str, number: u32, now: UnixTime, until: UnixTime) -> bool {
    let key = format!("{LEASE_PREFIX}{name}");
    let Ok(stored) = host.shared_data(&key) else { return false };
    let held = stored.as_ref().and_then(|(bytes, _)| read_lease(bytes));
    if held.is_some_and(|(owner, until)| owner > number && until > now.as_secs()) {
        return false;
    }
    let bytes = [&number.to_le_bytes()[..], &until.as_secs().to_le_bytes()].concat();
    host.set_shared_data(&key, &bytes, stored.map(|(_, version)| version)) == Ok(true)
}

fn read_lease(bytes: &[u8]) -> Option<(u32, u64)> {
    let (owner, until) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*owner), u64::from_le_bytes(until.try_into().ok()?)))
}

/// Returns whether a worker has that right at the time.
pub(super) fn is_leased(host: &impl Host, name: &str, now: UnixTime) -> bool {
    let stored = host.shared_data(&format!("{LEASE_PREFIX}{name}")).ok().flatten();
    stored.and_then(|(bytes, _)| read_lease(&bytes)).is_some_and(|(_, until)| until > now.as_secs())
}

/// The wishes of operators that everything is claimed now, as all workers know of them: they are numbered from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FlushMark {
    /// The number of the last wish.
    pub(super) wanted: u64,
    /// The number of the wish that is being carried out, or was last; all before it are.
    pub(super) begun: u64,
    /// The last one that is carried out.
    pub(super) done: u64,
    /// Atomic units that were claimed for the one that is carried out last.
    pub(super) claimed_by_done: u128,
    /// Atomic units that are left for the one that is being carried out.
    pub(super) unclaimed: u128,
    /// Atomic units that were claimed for it.
    pub(super) claimed: u128,
}

impl FlushMark {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (numbers, amounts) = bytes.split_at_checked(24)?;
        let ([wanted, begun, done], []) = numbers.as_chunks::<8>() else { return None };
        let ([claimed_by_done, unclaimed, claimed], []) = amounts.as_chunks::<16>() else { return None };
        let [wanted, begun, done] = [wanted, begun, done].map(|bytes| u64::from_le_bytes(*bytes));
        let [claimed_by_done, unclaimed, claimed] =
            [claimed_by_done, unclaimed, claimed].map(|bytes| u128::from_le_bytes(*bytes));
        Some(Self { wanted, begun, done, claimed_by_done, unclaimed, claimed })
    }

    fn to_bytes(self) -> Vec<u8> {
        let Self { wanted, begun, done, claimed_by_done, unclaimed, claimed } = self;
        let numbers = [wanted, begun, done].map(u64::to_le_bytes).concat();
        let amounts = [claimed_by_done, unclaimed, claimed].map(u128::to_le_bytes).concat();
        [numbers, amounts].concat()
    }

    const fn progress(self, number: u64) -> Flushed {
        if self.done >= number {
            return Flushed { number, is_done: true, unclaimed: Some(0), claimed: self.claimed_by_done };
        }
        match self.begun >= number {
            true => Flushed { number, is_done: false, unclaimed: Some(self.unclaimed), claimed: self.claimed },
            false => Flushed { number, is_done: false, unclaimed: None, claimed: 0 },
        }
    }
}

/// Reads the wishes that concern these facilitators.
pub(super) fn flush_mark(host: &impl Host, name: &str) -> Option<FlushMark> {
    let (bytes, _) = host.shared_data(&format!("{FLUSH_PREFIX}{name}")).ok()??;
    FlushMark::read(&bytes)
}

/// Changes what all workers know of the wishes; `None` where the store does not work.
pub(super) fn change_flush_mark(
    host: &impl Host,
    name: &str,
    change: impl Fn(FlushMark) -> FlushMark,
) -> Option<FlushMark> {
    let key = format!("{FLUSH_PREFIX}{name}");
    (0..ATTEMPTS).find_map(|_| {
        let (earlier, version) = match host.shared_data(&key).ok()? {
            Some((bytes, version)) => (FlushMark::read(&bytes)?, Some(version)),
            None => (FlushMark::default(), None),
        };
        let changed = change(earlier);
        host.set_shared_data(&key, &changed.to_bytes(), version).ok()?.then_some(changed)
    })
}

/// Carries out what a request wants of the keeper; `None` where the store does not work.
pub(super) fn flush(host: &impl Host, name: &str, flush: Flush) -> Option<Flushed> {
    match flush {
        Flush::Begin => {
            let wish = |mark: FlushMark| FlushMark { wanted: mark.wanted.saturating_add(1), ..mark };
            let mark = change_flush_mark(host, name, wish)?;
            Some(mark.progress(mark.wanted))
        }
        Flush::Look(number) => flush_mark(host, name).map(|mark| mark.progress(number)),
    }
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
