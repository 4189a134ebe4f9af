//! The records of channels in the store, on pages of their own behind those of the claims.

use super::{ATTEMPTS, Owner, Store, StoreFailed, Written};
use crate::channel::message::ChannelId;
use crate::channel::record::{Answer, Change, Operation, Record, apply};
use crate::evm::keccak256;
use crate::time::UnixTime;

/// The first page of records: payments and two kinds of notes have theirs before it.
const FIRST: u32 = super::PAGES * 3;

/// The records of channels over a store: carries out operations on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    records_per_page: usize,
}

impl Channels {
    /// Pages of records. The same for every number of channels, so that a configuration with another number finds the
    /// records of the one before it.
    pub const PAGES: u32 = 16_384;

    /// Room for `max_channels` channels. A page has more room than its part, for chance fills some above others: in all there may
    /// be up to twice as many, and 8 more a page.
    pub fn new(max_channels: u32) -> Self {
        let part = max_channels.div_ceil(Self::PAGES).max(1);
        Self { records_per_page: usize::try_from(part.saturating_mul(2).saturating_add(8)).unwrap_or(usize::MAX) }
    }

    /// Carries out an operation on the record of channel `id`, for `owner`. `secret` is what clients cannot know, or they could
    /// choose whose page to fill.
    pub fn perform<S: Store>(
        &self,
        store: &mut S,
        secret: &[u8; 32],
        id: ChannelId,
        owner: Owner,
        operation: &Operation,
        now: UnixTime,
    ) -> Answer {
        let page = page_of(secret, id);
        (0..ATTEMPTS)
            .find_map(|_| self.attempt(store, page, id, owner, operation, now).unwrap_or(Some(Answer::Failed)))
            .unwrap_or(Answer::Failed)
    }

    /// One attempt; `None` where another writer came first.
    fn attempt<S: Store>(
        &self,
        store: &mut S,
        number: u32,
        id: ChannelId,
        owner: Owner,
        operation: &Operation,
        now: UnixTime,
    ) -> Result<Option<Answer>, StoreFailed> {
        let stored = store.read(number)?;
        let (mut bytes, version) = stored.map_or((Vec::new(), None), |(bytes, version)| (bytes, Some(version)));
        let (records, rest) = bytes.as_chunks::<{ Record::BYTES }>();
        if !rest.is_empty() {
            return Err(StoreFailed);
        }
        let start = Record::start(id);
        let position = records.iter().position(|record| record.starts_with(&start));
        let found = position.and_then(|position| records.get(position));
        let record = found.map(|bytes| Record::decode(bytes).ok_or(StoreFailed)).transpose()?;
        let (change, answer) = apply(record.as_ref(), owner.0, operation, now);
        match change {
            Change::Keep => return Ok(Some(answer)),
            Change::Put(record) => {
                if position.is_none() {
                    let needless = most_needless(records, now)?;
                    let is_full = records.len() >= self.records_per_page;
                    match needless {
                        Some((needless, is_unused)) if is_full || is_unused => bytes = without(records, Some(needless)),
                        None if is_full => return Ok(Some(Answer::Full)),
                        _ => {}
                    }
                }
                let (records, _) = bytes.as_chunks_mut::<{ Record::BYTES }>();
                match position.and_then(|position| records.get_mut(position)) {
                    Some(place) => *place = record.encode(),
                    None => bytes.extend_from_slice(&record.encode()),
                }
            }
        }
        Ok(match store.write(number, &bytes, version)? {
            Written::Done => Some(answer),
            Written::Raced => None,
        })
    }

    /// The records of one page, of [`Self::PAGES`] from 0.
    ///
    /// # Errors
    /// [`StoreFailed`] where the store does not answer, or the page holds something else.
    pub fn on_page<S: Store>(&self, store: &mut S, page: u32) -> Result<Vec<Record>, StoreFailed> {
        let Some((bytes, _)) = store.read(FIRST.saturating_add(page))? else { return Ok(Vec::new()) };
        let (records, rest) = bytes.as_chunks::<{ Record::BYTES }>();
        if !rest.is_empty() {
            return Err(StoreFailed);
        }
        records.iter().map(|bytes| Record::decode(bytes).ok_or(StoreFailed)).collect()
    }
}

fn page_of(secret: &[u8; 32], id: ChannelId) -> u32 {
    let [a, b, c, d, ..] = keccak256(&[&b"x402: a channel: "[..], secret, id.as_bytes()].concat());
    let page = u32::from_be_bytes([a, b, c, d]).checked_rem(Channels::PAGES).unwrap_or(0);
    FIRST.saturating_add(page)
}

fn without(records: &[[u8; Record::BYTES]], position: Option<usize>) -> Vec<u8> {
    let kept = records.iter().enumerate().filter(|(index, _)| Some(*index) != position);
    kept.flat_map(|(_, record)| *record).collect()
}

/// The record that nobody misses, where there is one, and whether its channel was never used: such a one first, or else the one
/// that was last used longest ago.
fn most_needless(records: &[[u8; Record::BYTES]], now: UnixTime) -> Result<Option<(usize, bool)>, StoreFailed> {
    let mut oldest = None;
    for (index, bytes) in records.iter().enumerate() {
        let record = Record::decode(bytes).ok_or(StoreFailed)?;
        if record.is_unused(now) {
            return Ok(Some((index, true)));
        }
        if record.is_needless(now) && oldest.is_none_or(|(_, last_used)| record.last_used < last_used) {
            oldest = Some((index, record.last_used));
        }
    }
    Ok(oldest.map(|(index, _)| (index, false)))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::*;
    use crate::channel::message::ChannelConfig;
    use crate::channel::record::{OnChain, Purpose, Reserve};
    use crate::evm::Address;
    use crate::ledger::tests::MemoryStore;

    const SECRET: [u8; 32] = [7; 32];

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(seconds)
    }

    /// The `number`th channel of the page of the first.
    fn id(number: usize) -> ChannelId {
        let name = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            ChannelId::from_bytes(bytes)
        };
        let page = page_of(&SECRET, name(0));
        (0..).map(name).filter(|id| page_of(&SECRET, *id) == page).nth(number).unwrap()
    }

    fn reserve(id: ChannelId, total_claimed: u128, now: u64) -> Operation {
        let address = Address::from_bytes([1; 20]);
        Operation::Reserve(Box::new(Reserve {
            config: ChannelConfig {
                payer: address,
                payer_authorizer: address,
                receiver: address,
                receiver_authorizer: address,
                token: address,
                withdraw_delay: 900,
                salt: [0; 32],
            },
            id,
            chain_id: 1,
            max_claimable: 10,
            signature: [1; 65],
            amount: 10 - total_claimed,
            purpose: Purpose::Serve,
            until: at(now + 10),
            request: [0; 32],
            chain: Some(OnChain { balance: 100, total_claimed, at: at(now), ..OnChain::default() }),
        }))
    }

    #[test]
    fn a_full_page_drops_what_nobody_misses() {
        let (channels, mut store) = (Channels::new(1), MemoryStore::default());
        let room = channels.records_per_page;
        let ids: Vec<ChannelId> = (0..=room).map(id).collect();
        let mut perform = |id, owner, operation: &Operation, now| {
            channels.perform(&mut store, &SECRET, id, Owner(owner), operation, at(now))
        };
        for (number, id) in (0..).zip(&ids[..room]) {
            assert_eq!(perform(*id, 1, &reserve(*id, 5, number), number), Answer::Reserved { base: 5 });
            let amount = if number == 0 { 5 } else { 0 };
            let charged = perform(*id, 1, &Operation::Charge { amount, chain: None }, number);
            assert!(matches!(charged, Answer::Granted(_)), "{charged:?}");
        }
        let late = ids[room];
        assert_eq!(perform(late, 1, &reserve(late, 5, 3600), 3600), Answer::Full);
        // The first has something to claim; the second is the one that nobody misses.
        assert_eq!(perform(late, 1, &reserve(late, 5, 3601), 3601), Answer::Reserved { base: 5 });
        assert_eq!(perform(ids[1], 1, &Operation::Renew, 3601), Answer::NotHeld);
        assert!(matches!(perform(ids[0], 1, &Operation::Renew, 3601), Answer::Granted(_)));
        let page = page_of(&SECRET, late) - FIRST;
        let records = channels.on_page(&mut store, page).unwrap();
        assert_eq!(records.len(), room);
        assert!(records.iter().any(|record| record.id == late));
        assert_eq!(channels.on_page(&mut store, (page + 1) % Channels::PAGES), Ok(Vec::new()));
    }

    #[test]
    fn channels_without_money_take_the_place_of_one_another() {
        let (channels, mut store) = (Channels::new(1), MemoryStore::default());
        let page = page_of(&SECRET, id(0)) - FIRST;
        for number in 0..5 {
            let mut wanted = reserve(id(number), 0, 1);
            if let Operation::Reserve(wanted) = &mut wanted {
                wanted.purpose = Purpose::Deposit { amount: 10 };
                wanted.chain = Some(OnChain { at: at(1), ..OnChain::default() });
            }
            let mut perform =
                |operation| channels.perform(&mut store, &SECRET, id(number), Owner(1), &operation, at(1));
            assert_eq!(perform(wanted), Answer::Reserved { base: 0 });
            if number > 0 {
                assert!(matches!(perform(Operation::Release { chain: None }), Answer::Granted(_)));
            }
            // The first is held.
            assert_eq!(channels.on_page(&mut store, page).unwrap().len(), 1 + usize::from(number > 0));
        }
    }

    #[test]
    fn races_are_tried_again_and_failures_deny_and_overwrite_nothing() {
        let (channels, operation) = (Channels::new(65_536), reserve(id(0), 0, 0));
        let mut raced = MemoryStore { races: 5, ..MemoryStore::default() };
        let perform = |store: &mut MemoryStore| channels.perform(store, &SECRET, id(0), Owner(1), &operation, at(0));
        assert_eq!(perform(&mut raced), Answer::Reserved { base: 0 });
        assert_eq!(perform(&mut MemoryStore { races: u32::MAX, ..MemoryStore::default() }), Answer::Failed);
        assert_eq!(perform(&mut MemoryStore { fails: true, ..MemoryStore::default() }), Answer::Failed);
        let mut no_tag = Record::start(id(0)).to_vec();
        no_tag.resize(Record::BYTES, 0xff);
        for garbage in [b"garbled".to_vec(), no_tag] {
            let mut garbled = MemoryStore::default();
            garbled.pages.insert(page_of(&SECRET, id(0)), (garbage.clone(), 1));
            assert_eq!(perform(&mut garbled), Answer::Failed);
            assert_eq!(garbled.pages.values().next(), Some(&(garbage, 1)));
        }
    }

    #[test]
    fn a_page_is_found_by_the_secret_alone_and_is_nobody_elses() {
        assert_ne!(page_of(&SECRET, id(0)), page_of(&[8; 32], id(0)));
        for number in 0..100_u8 {
            let page = page_of(&SECRET, ChannelId::from_bytes([number; 32]));
            assert!((FIRST..FIRST + Channels::PAGES).contains(&page));
        }
    }
}
