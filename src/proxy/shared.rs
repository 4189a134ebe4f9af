//! What the requests of a plugin and worker have in common.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::answers::{Answers, RefusedWishes};
use crate::facilitator::Supported;
use crate::time::UnixTime;

/// What the requests of a plugin and worker share.
#[derive(Clone, Default)]
pub(super) struct Shared {
    /// What the facilitator has said of itself.
    pub(super) supported: Arc<Supported>,
    /// Answers that may be used again.
    pub(super) answers: Rc<RefCell<Answers>>,
    /// Routes whose upstreams take no wish for usage.
    pub(super) refused_wishes: Rc<RefCell<RefusedWishes>>,
    /// What the worker's shared data says of itself.
    pub(super) memory: Memory,
}

/// What the shared data says of itself, when the worker was configured.
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    /// Random bytes that all who share it know, and nobody else.
    pub(super) secret: [u8; 32],
    /// When it began.
    pub(super) since: UnixTime,
}
