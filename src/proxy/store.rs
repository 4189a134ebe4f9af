//! The ledger's pages in the host's shared data.

use super::host;
use crate::ledger::{Store, StoreFailed, Written};

/// Shared data: one value for each page, seen by all workers that run the same `vm_id`.
pub(super) struct SharedData;

/// Names the form of the pages, so that a later form does not read this one's.
const KEY_PREFIX: &str = "x402.claims.1.";

const WORKERS_KEY: &str = "x402.workers";

impl Store for SharedData {
    type Version = u32;

    fn read(&mut self, page: u32) -> Result<Option<(Vec<u8>, u32)>, StoreFailed> {
        host::shared_data(&key(page)).map_err(|_| StoreFailed)
    }

    fn write(&mut self, page: u32, value: &[u8], expected: Option<u32>) -> Result<Written, StoreFailed> {
        match host::set_shared_data(&key(page), value, expected) {
            Ok(true) => Ok(Written::Done),
            Ok(false) => Ok(Written::Raced),
            Err(_) => Err(StoreFailed),
        }
    }
}

fn key(page: u32) -> String {
    format!("{KEY_PREFIX}{page}")
}

/// Draws a number that no other context of this process has.
pub(super) fn draw_number() -> Option<u32> {
    const ATTEMPTS: u32 = 1024;
    (0..ATTEMPTS).find_map(|_| {
        let (drawn, version) = match host::shared_data(WORKERS_KEY).ok()? {
            Some((bytes, version)) => (u32::from_le_bytes(bytes.try_into().ok()?), Some(version)),
            None => (0, None),
        };
        let number = drawn.checked_add(1)?;
        host::set_shared_data(WORKERS_KEY, &number.to_le_bytes(), version).ok()?.then_some(number)
    })
}
