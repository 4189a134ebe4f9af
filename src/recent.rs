//! What was worked out last, for what is asked again and again and takes long.

use std::cell::RefCell;
use std::collections::VecDeque;

/// The last results by what they were worked out from. At most `MOST`; the oldest goes first.
pub(crate) struct Recent<K, V, const MOST: usize>(RefCell<VecDeque<(K, V)>>);

impl<K: PartialEq, V: Copy, const MOST: usize> Recent<K, V, MOST> {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(VecDeque::new()))
    }

    /// The result for `key`: the one that is remembered, or else a new one, which is from then on.
    pub(crate) fn get_or(&self, key: K, make: impl FnOnce() -> V) -> V {
        let Ok(mut last) = self.0.try_borrow_mut() else { return make() };
        if let Some((_, value)) = last.iter().find(|(known, _)| *known == key) {
            return *value;
        }
        let value = make();
        last.truncate(MOST.saturating_sub(1));
        last.push_front((key, value));
        value
    }
}
