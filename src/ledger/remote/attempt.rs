//! One task at a shared store: asked, told, and asked again, until it is certain what came of it.

use super::record::Value;
use super::task::{Change, Said, Task, Undo, is_at_work, is_opened, kept_until, spent_until};
use super::{Ask, Kind, RecordKey, Revision, Told, Write};
use crate::ledger::{Answer, Ledger, Operation, Owner, StoreFailed};
use crate::time::UnixTime;

/// Times in a row that a record may be found otherwise than it was last seen: each time another one won. Who has lost so often makes a
/// pause, and goes on for as long as its patience lasts.
const MOST_RACES: u32 = 32;

/// Seconds for which a payment that another proxy has spent counts as in flight: longer than a question is repeated, and than clocks
/// differ.
const DOUBT_SECONDS: u64 = 20;

/// Seconds after which what another proxy has spent is so for good: a move that was lost is taken back for fifteen minutes at most.
const FOR_GOOD_SECONDS: u64 = 20 * 60;

/// A record as a proxy last saw it. Good for trying a move at it, and for saying no where that is for good; never for saying yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub(super) value: Value,
    pub(super) revision: Revision,
    /// True if it says for good that its payment has bought its response: by this proxy's own move, or by another one's that is long ago.
    /// What another one wrote of late may be taken back yet, where the store did not answer that one.
    is_for_good: bool,
}

impl Copy {
    /// No record.
    fn absent() -> Self {
        Self { value: Value::default(), revision: Revision::ABSENT, is_for_good: false }
    }

    fn read(found: Option<(Vec<u8>, Revision)>) -> Result<Self, StoreFailed> {
        let Some((bytes, revision)) = found else { return Ok(Self::absent()) };
        Ok(Self { value: Value::decode(&bytes).ok_or(StoreFailed)?, revision, is_for_good: false })
    }

    /// Returns until when it has to be remembered that the payment of a claim has bought its response, if it has for good.
    pub fn spent_until(&self) -> Option<UnixTime> {
        spent_until(self.value.record.as_deref()).filter(|_| self.is_for_good)
    }

    /// Returns whether the payment of a claim has bought its response, as far as was recorded then.
    pub fn is_spent(&self) -> bool {
        spent_until(self.value.record.as_deref()).is_some()
    }

    /// Returns whether a request of the payment of a claim is at work.
    pub fn is_at_work(&self, now: UnixTime) -> bool {
        is_at_work(self.value.record.as_deref(), now)
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.value.record.as_ref().map_or(0, Vec::len)
    }
}

/// A task on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    task: Task,
    key: RecordKey,
    owner: Owner,
    /// Names the move among all of the fleet.
    number: u64,
    copy: Copy,
    /// True if the store has said so in this attempt.
    is_fresh: bool,
    /// The write that was sent last, if its fate is not known, and what it says if it came about.
    sent: Option<Sent>,
    /// True if what was asked last went without an answer, so that it may have been done.
    is_in_doubt: bool,
    races: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    write: Write,
    after: Value,
    said: Said,
}

/// What comes next in an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "it lives as long as a call")]
pub enum Step {
    /// The store is to be asked.
    Ask(Ask),
    /// The store is to be asked the same again: it is not known what came of it.
    AskAgain(Ask),
    /// The task is done, and the record stands so, as far as that is known.
    Done(Said, Option<Copy>),
}

impl Attempt {
    /// An attempt by `owner`, whose move has this number, beginning from a copy of the record where there is one.
    pub fn new(task: Task, owner: Owner, number: u64, copy: Option<Copy>) -> Self {
        let key = task.key();
        let copy = copy.unwrap_or_else(Copy::absent);
        Self { task, key, owner, number, copy, is_fresh: false, sent: None, is_in_doubt: false, races: 0 }
    }

    /// The task.
    pub const fn task(&self) -> &Task {
        &self.task
    }

    /// The record's key.
    pub const fn key(&self) -> &RecordKey {
        &self.key
    }

    /// Returns what is to be done first.
    pub fn begin(&mut self, rules: &Ledger, now: UnixTime) -> Step {
        self.go_on(rules, now).unwrap_or_else(|_| self.fail())
    }

    /// Takes in what the store said.
    pub fn hear(&mut self, rules: &Ledger, told: Told, now: UnixTime) -> Step {
        self.take_in(rules, told, now).unwrap_or_else(|_| self.fail())
    }

    /// Returns how to take the move back, where it may have come about although the store never said so.
    pub fn undo(&self) -> Option<Undo> {
        // A pin that nobody heard of is found again by its own payment, which may rely on it by then.
        let is_move = !matches!(self.task, Task::Undo(_) | Task::Ledger(_, Operation::Pin { .. }));
        self.sent.as_ref().filter(|_| is_move && self.is_in_doubt).map(|sent| Undo {
            key: self.key.clone(),
            number: self.number,
            expected: sent.write.expected,
            before: self.copy.value.record.clone(),
        })
    }

    /// Returns how to take the move back, where it has come about and nothing else has been done about it.
    pub fn take_back(&self) -> Undo {
        let (expected, before) = (self.copy.revision, self.copy.value.record.clone());
        Undo { key: self.key.clone(), number: self.number, expected, before }
    }

    /// Returns whether its move is to record that a payment has bought its response.
    const fn spends(&self) -> bool {
        matches!(self.task, Task::Ledger(_, Operation::Spend { .. }))
    }

    fn fail(&self) -> Step {
        Step::Done(self.task.failed(), None)
    }

    fn take_in(&mut self, rules: &Ledger, told: Told, now: UnixTime) -> Result<Step, StoreFailed> {
        match (told, self.sent.take()) {
            (Told::Unknown, Some(sent)) => {
                let ask = Ask::Write(sent.write.clone());
                self.is_in_doubt = true;
                self.sent = Some(sent);
                Ok(Step::AskAgain(ask))
            }
            (Told::Unknown, None) => Ok(Step::AskAgain(Ask::Read(self.key.clone()))),
            (Told::Written(revision), Some(Sent { after, said, .. })) => {
                Ok(Step::Done(said, Some(Copy { value: after, revision, is_for_good: self.spends() })))
            }
            (Told::Written(_), None) => Err(StoreFailed),
            (Told::Found(found), sent) => {
                let was_in_doubt = std::mem::take(&mut self.is_in_doubt);
                let found = Copy::read(found)?;
                if let Some(Sent { said, .. }) = sent {
                    if was_in_doubt && found.value.names(self.number) {
                        return Ok(Step::Done(said, Some(Copy { is_for_good: self.spends(), ..found })));
                    }
                    self.races = self.races.saturating_add(1);
                }
                (self.copy, self.is_fresh) = (found, true);
                self.go_on(rules, now)
            }
        }
    }

    /// Tries the task at the record as it was last seen.
    fn go_on(&mut self, rules: &Ledger, now: UnixTime) -> Result<Step, StoreFailed> {
        if self.races > MOST_RACES {
            self.races = 0;
            return Ok(Step::AskAgain(Ask::Read(self.key.clone())));
        }
        let record = self.copy.value.record.as_deref();
        if let Task::Undo(undo) = &self.task {
            if !self.is_fresh {
                return Ok(Step::Ask(Ask::Read(self.key.clone())));
            }
            let came_about = self.copy.value.was_written_by(undo.number);
            if !came_about && self.copy.revision != undo.expected {
                // Others have gone on, from it or without it: it came about and is of the past, or never will. Nothing is written
                // then, for a write over the move of another one that is to be taken back, too, would hide it from that one.
                return Ok(Step::Done(Said::Undone, Some(self.copy.clone())));
            }
            let record = if came_about { undo.before.clone() } else { self.copy.value.record.clone() };
            return self.write(record, Said::Undone, now);
        }
        let (change, said) = match self.task.apply(rules, record, self.owner, now) {
            // A copy that cannot be read is read anew.
            Err(StoreFailed) if !self.is_fresh => return Ok(Step::Ask(Ask::Read(self.key.clone()))),
            other => other?,
        };
        match change {
            Change::Keep if self.is_fresh && self.may_be_taken_back(now) => {
                let begins = self.task.begins_with().is_some();
                let said = if begins { Said::Ledger(Answer::InFlight) } else { said };
                Ok(Step::Done(said, None))
            }
            Change::Keep if self.is_fresh => {
                let is_for_good = self.is_spent() && self.copy.value.moved_at.plus(FOR_GOOD_SECONDS) <= now;
                Ok(Step::Done(said, Some(Copy { is_for_good, ..self.copy.clone() })))
            }
            Change::Keep if self.copy.spent_until().is_some() => Ok(Step::Done(said, Some(self.copy.clone()))),
            Change::Keep => Ok(Step::Ask(Ask::Read(self.key.clone()))),
            Change::Put(record) => self.write(Some(record), said, now),
            Change::Remove => self.write(None, said, now),
        }
    }

    /// Returns whether the record says that the payment of a claim has bought its response.
    fn is_spent(&self) -> bool {
        self.key.kind() == Kind::Claim && spent_until(self.copy.value.record.as_deref()).is_some()
    }

    /// Returns whether it says so of late, or that its response has begun: the proxy that wrote it may not have heard that it did, has
    /// delivered nothing then, and takes it back.
    fn may_be_taken_back(&self, now: UnixTime) -> bool {
        let record = self.copy.value.record.as_deref();
        let buys = self.is_spent() || self.key.kind() == Kind::Claim && is_opened(record);
        buys && self.copy.value.moved_at.plus(DOUBT_SECONDS) > now
    }

    fn write(&mut self, record: Option<Vec<u8>>, said: Said, now: UnixTime) -> Result<Step, StoreFailed> {
        let kept_until = kept_until(self.key.kind(), record.as_deref(), now)?;
        let after = self.copy.value.after(self.number, record, now);
        let (key, expected) = (self.key.clone(), self.copy.revision);
        let write = Write { key, expected, value: after.encode(), kept_until };
        self.sent = Some(Sent { write: write.clone(), after, said });
        Ok(Step::Ask(Ask::Write(write)))
    }
}
