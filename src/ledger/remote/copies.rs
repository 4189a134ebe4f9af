//! Records of a shared store as a worker last saw them: bounded, the longest unused go first.

use std::collections::{BTreeMap, VecDeque};

use super::{Copy, RecordKey};

/// Copies of records.
#[derive(Debug, Default)]
pub struct Copies {
    copies: BTreeMap<RecordKey, (u64, Copy)>,
    /// Keys in the order in which they were kept, each with the number of that time.
    order: VecDeque<(u64, RecordKey)>,
    last: u64,
}

impl Copies {
    /// Copies that are kept at most.
    pub const MOST: usize = 8192;

    /// Returns the copy of a record.
    pub fn get(&self, key: &RecordKey) -> Option<Copy> {
        self.copies.get(key).map(|(_, copy)| copy.clone())
    }

    /// Keeps a copy, in place of an earlier one; `None` forgets it.
    pub fn keep(&mut self, key: &RecordKey, copy: Option<Copy>) {
        let Some(copy) = copy.filter(|copy| copy.size() > 0) else {
            self.copies.remove(key);
            return;
        };
        self.last = self.last.saturating_add(1);
        self.copies.insert(key.clone(), (self.last, copy));
        self.order.push_back((self.last, key.clone()));
        while self.copies.len() > Self::MOST || self.order.len() > Self::MOST.saturating_mul(2) {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.copies.get(&key).is_some_and(|(kept, _)| *kept == number) {
                self.copies.remove(&key);
            }
        }
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.copies.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }
}
