//! Numbers for values that the models' worlds hold, so that a world is small.

use std::collections::HashMap;
use std::hash::Hash;

/// Numbers for values, and the values.
pub struct Numbered<K, T> {
    numbers: HashMap<K, u32>,
    values: Vec<T>,
}

impl<K, T> Default for Numbered<K, T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

impl<K: Hash + Eq, T> Numbered<K, T> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn number(&mut self, key: K, value: impl FnOnce() -> T) -> u32 {
        *self.numbers.entry(key).or_insert_with(|| {
            self.values.push(value());
            u32::try_from(self.values.len() - 1).expect("fewer values than numbers")
        })
    }

    pub fn get(&self, number: u32) -> &T {
        &self.values[number as usize]
    }
}
