//! One task at a shared store: asked, told, and asked again, until it is certain what came of it.

use super::record::Value;
use super::task::{Change, Said, Task, Undo, kept_until, spent_until};
use super::{Ask, Kind, RecordKey, Revision, Told, Write};
use crate::ledger::{Ledger, Operation, Owner, StoreFailed};
use crate::time::UnixTime;

/// Times that a record may be found otherwise than it was last seen. Each time another one won, so to lose this often takes a store
/// that is out of order.
const MOST_RACES: u32 = 32;

/// A record as a proxy last saw it. Good for trying a move at it, and for saying no where that is for good; never for saying yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub(super) value: Value,
    pub(super) revision: Revision,
    /// True if it is what this proxy's own move made that its payment has bought its response. What another one wrote may be taken
    /// back yet, where the store did not answer that one.
    is_spent_here: bool,
}

impl Copy {
    /// No record.
    fn absent() -> Self {
        Self { value: Value::default(), revision: Revision::ABSENT, is_spent_here: false }
    }

    fn read(found: Option<(Vec<u8>, Revision)>) -> Result<Self, StoreFailed> {
        let Some((bytes, revision)) = found else { return Ok(Self::absent()) };
        Ok(Self { value: Value::decode(&bytes).ok_or(StoreFailed)?, revision, is_spent_here: false })
    }

    /// Returns until when it has to be remembered that the payment of a claim has bought its response, if it has for good.
    pub fn spent_until(&self) -> Option<UnixTime> {
        spent_until(self.value.record.as_deref()).filter(|_| self.is_spent_here)
    }

    /// Returns whether the payment of a claim has bought its response, as far as was recorded then.
    pub fn is_spent(&self) -> bool {
        spent_until(self.value.record.as_deref()).is_some()
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
        self.sent.as_ref().filter(|_| is_move && self.is_in_doubt).map(|_| Undo {
            key: self.key.clone(),
            number: self.number,
            before: self.copy.value.record.clone(),
        })
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
                Ok(Step::Done(said, Some(Copy { value: after, revision, is_spent_here: self.spends() })))
            }
            (Told::Written(_), None) => Err(StoreFailed),
            (Told::Found(found), sent) => {
                let was_in_doubt = std::mem::take(&mut self.is_in_doubt);
                let found = Copy::read(found)?;
                if let Some(Sent { said, .. }) = sent {
                    if was_in_doubt && found.value.names(self.number) {
                        return Ok(Step::Done(said, Some(Copy { is_spent_here: self.spends(), ..found })));
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
            return Err(StoreFailed);
        }
        let record = self.copy.value.record.as_deref();
        if let Task::Undo(undo) = &self.task {
            if !self.is_fresh {
                return Ok(Step::Ask(Ask::Read(self.key.clone())));
            }
            if self.copy.value.names(undo.number) && !self.copy.value.was_written_by(undo.number) {
                // Others have gone on from it.
                return Ok(Step::Done(Said::Undone, Some(self.copy.clone())));
            }
            if self.copy.value.was_written_by(undo.number) {
                return self.write(undo.before.clone(), Said::Undone, now);
            }
            // Another revision alone: for others who have a move to take back, the last one is still theirs.
            return self.write_value(self.copy.value.clone(), Said::Undone, now);
        }
        let (change, said) = match self.task.apply(rules, record, self.owner, now) {
            // A copy that cannot be read is read anew.
            Err(StoreFailed) if !self.is_fresh => return Ok(Step::Ask(Ask::Read(self.key.clone()))),
            other => other?,
        };
        match change {
            Change::Keep if self.is_fresh || self.key.kind() == Kind::Claim && self.copy.spent_until().is_some() => {
                Ok(Step::Done(said, Some(self.copy.clone())))
            }
            Change::Keep => Ok(Step::Ask(Ask::Read(self.key.clone()))),
            Change::Put(record) => self.write(Some(record), said, now),
            Change::Remove => self.write(None, said, now),
        }
    }

    fn write(&mut self, record: Option<Vec<u8>>, said: Said, now: UnixTime) -> Result<Step, StoreFailed> {
        self.write_value(self.copy.value.after(self.number, record), said, now)
    }

    fn write_value(&mut self, after: Value, said: Said, now: UnixTime) -> Result<Step, StoreFailed> {
        let kept_until = kept_until(self.key.kind(), after.record.as_deref(), now)?;
        let (key, expected) = (self.key.clone(), self.copy.revision);
        let write = Write { key, expected, value: after.encode(), kept_until };
        self.sent = Some(Sent { write: write.clone(), after, said });
        Ok(Step::Ask(Ask::Write(write)))
    }
}
