//! Answers of the operator's own services that may be used again for as long as they say.

use std::collections::BTreeMap;

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
