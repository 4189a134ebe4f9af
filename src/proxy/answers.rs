//! Answers of the operator's own services that may be used again for as long as they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Service;
use crate::evm::keccak256;
use crate::facilitator::CalloutAnswer;
use crate::time::UnixTime;

/// Answers that hold for now. A worker has its own.
#[derive(Default)]
pub(super) struct Answers(BTreeMap<Question, (UnixTime, CalloutAnswer)>);

/// A question, and the service that it was put to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question([u8; 32]);

/// Clients choose what is asked, so there is an end to what is kept.
const MOST_ANSWERS: usize = 1024;

impl Question {
    pub(super) fn new(service: &Service, body: &str) -> Self {
        Self(keccak256(&[&service.identity(), body.as_bytes()].concat()))
    }
}

impl Answers {
    pub(super) fn get(&self, question: &Question, now: UnixTime) -> Option<CalloutAnswer> {
        self.0.get(question).filter(|(until, _)| *until > now).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer, unless it holds for no time, is no answer, or there is no room.
    pub(super) fn keep(&mut self, question: Question, answer: CalloutAnswer, now: UnixTime, until: UnixTime) {
        if until <= now || !matches!(answer, CalloutAnswer::Answered { status: 200, .. }) {
            return;
        }
        if self.0.len() >= MOST_ANSWERS {
            self.0.retain(|_, (until, _)| *until > now);
        }
        if self.0.len() < MOST_ANSWERS {
            self.0.insert(question, (until, answer));
        }
    }
}

/// Routes whose upstreams have refused the wish for usage, each for a while: upstreams change, and what one request has
/// brought about must not last. A worker has its own.
#[derive(Default)]
pub(super) struct RefusedWishes(Vec<(Arc<str>, UnixTime)>);

/// How long a route goes without the wish.
const REFUSED_SECONDS: u64 = 600;

impl RefusedWishes {
    pub(super) fn note(&mut self, route: Arc<str>, now: UnixTime) {
        self.0.retain(|(known, until)| *until > now && *known != route);
        self.0.push((route, now.plus(REFUSED_SECONDS)));
    }

    pub(super) fn routes(&self, now: UnixTime) -> Vec<Arc<str>> {
        self.0.iter().filter(|(_, until)| *until > now).map(|(route, _)| Arc::clone(route)).collect()
    }
}
