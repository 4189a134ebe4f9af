//! State that the requests of a plugin and worker have in common.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::answers::{Answers, RefusedWishes};
use super::fleet::Fleet;
use super::health::Health;
use super::tokens::Tokens;
use crate::facilitator::Supported;

/// The things that the requests of a plugin and worker share.
#[derive(Clone, Default)]
pub(super) struct Shared {
    /// The things that the facilitators have said of themselves, in the order of the configuration.
    pub(super) supported: Arc<Vec<Supported>>,
    /// How the facilitators have answered lately.
    pub(super) health: Rc<RefCell<Health>>,
    /// Answers that may be used again.
    pub(super) answers: Rc<RefCell<Answers>>,
    /// Routes whose upstreams take no wish for usage.
    pub(super) refused_wishes: Rc<RefCell<RefusedWishes>>,
    /// Tokens that callouts carry.
    pub(super) tokens: Rc<RefCell<Tokens>>,
    /// Facts of the ledger itself.
    pub(super) memory: Memory,
    /// The store that a fleet shares, where the ledger is there: see [`Self::fleet`].
    #[cfg(any(feature = "etcd", feature = "dynamodb"))]
    pub(super) store: Option<Rc<Fleet>>,
}

impl Shared {
    /// Returns the store that a fleet shares, where the ledger is there. Of a build without one the compiler sees here that there is none.
    #[inline(always)]
    pub(super) const fn fleet(&self) -> Option<&Rc<Fleet>> {
        #[cfg(any(feature = "etcd", feature = "dynamodb"))]
        return self.store.as_ref();
        #[cfg(not(any(feature = "etcd", feature = "dynamodb")))]
        None
    }
}

/// Facts of the ledger itself.
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    /// Random bytes that all who share it know, and nobody else.
    pub(super) secret: [u8; 32],
    /// True if they are known: a store that a fleet shares has to be asked first.
    pub(super) is_known: bool,
}
