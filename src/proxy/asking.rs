//! What the steps of one exchange want of a store that a fleet shares: in order, one after the other.

use std::collections::VecDeque;

use super::fleet::{Fleet, Progress, Running};
use super::host::Host;
use super::stats;
use crate::channel::{self, ChannelId};
use crate::exchange::{Effects, Event};
use crate::ledger::remote::{Said, Task};
use crate::ledger::{Answer, Operation, Owner, PaymentKey};
use crate::x402::TransactionId;

/// A task, and whether the exchange waits for what comes of it.
pub(super) struct Job {
    task: Task,
    gives: bool,
}

/// Takes out of effects what they want of the ledger. The answer to the first task is the exchange's next event, unless it is over.
pub(super) fn take_jobs(effects: &mut Effects, is_over: bool) -> Vec<Job> {
    let ledger = effects.ledger.take();
    let alias = effects.alias_key.take().and_then(|alias| Some((alias, ledger?.1)));
    let channel = effects.channel.take();
    let of_ledger = [ledger, alias].into_iter().flatten().map(|(key, operation)| Task::Ledger(key, operation));
    let tasks = of_ledger.chain(channel.map(|(id, operation)| Task::Channel(id, operation)));
    tasks.enumerate().map(|(place, task)| Job { task, gives: place == 0 && !is_over }).collect()
}

/// Returns whether effects want anything of the ledger.
pub(super) const fn wants_store(effects: &Effects) -> bool {
    effects.ledger.is_some() || effects.channel.is_some()
}

/// What an exchange holds in the store, as far as it was told.
#[derive(Default)]
pub(super) struct Held {
    claims: Vec<PaymentKey>,
    channel: Option<ChannelId>,
    /// True if the store was silent to a question that the exchange waited for, so that nobody may have let go of what it holds.
    is_in_doubt: bool,
}

impl Held {
    fn note(&mut self, task: &Task, said: &Said) {
        match (task, said) {
            (Task::Ledger(key, operation), Said::Ledger(answer)) => match operation {
                Operation::Claim { .. }
                | Operation::ClaimToSettle { .. }
                | Operation::Resume { .. }
                | Operation::Recover { .. }
                    if answer.is_granted() =>
                {
                    self.claims.push(*key);
                }
                Operation::Spend { .. }
                | Operation::Keep { .. }
                | Operation::Release
                | Operation::Abandon
                | Operation::Forget { .. } => self.claims.retain(|held| held != key),
                _ => {}
            },
            (Task::Channel(id, operation), Said::Channel(answer)) => match (operation, answer) {
                (channel::Operation::Reserve(_), channel::Answer::Reserved { .. } | channel::Answer::Repeat { .. }) => {
                    self.channel = Some(*id)
                }
                (
                    channel::Operation::Charge { .. }
                    | channel::Operation::Release { .. }
                    | channel::Operation::Refunded { .. },
                    channel::Answer::Granted(_),
                ) => self.channel = None,
                _ => {}
            },
            _ => {}
        }
    }

    /// Returns whether a move was refused to the one who held what it is about: another one has gone on from there.
    fn is_fenced(&self, task: &Task, said: &Said) -> bool {
        match (task, said) {
            (Task::Ledger(key, _), Said::Ledger(Answer::NotHeld)) => self.claims.contains(key),
            (Task::Channel(id, _), Said::Channel(channel::Answer::NotHeld)) => self.channel == Some(*id),
            _ => false,
        }
    }

    /// Lets go of everything, if the store was silent and nobody else does.
    pub(super) fn let_go(&mut self, host: &impl Host, fleet: &Fleet, owner: Owner) {
        if !std::mem::take(&mut self.is_in_doubt) {
            return;
        }
        for key in std::mem::take(&mut self.claims) {
            fleet.mend(host, Task::Ledger(key, Operation::LetGo), owner);
        }
        if let Some(id) = self.channel.take() {
            fleet.mend(host, Task::Channel(id, channel::Operation::Release { chain: None }), owner);
        }
    }
}

/// Returns whether a response goes out once a task is done.
const fn delivers(task: &Task) -> bool {
    matches!(task, Task::Ledger(_, Operation::Spend { .. } | Operation::Open))
}

/// Returns the payment and the transaction of a task by which a payment has bought its response.
const fn spends(task: &Task) -> Option<(PaymentKey, TransactionId)> {
    match task {
        Task::Ledger(key, Operation::Spend { transaction }) => Some((*key, *transaction)),
        _ => None,
    }
}

/// Returns what is done in place of such a task, where nothing was delivered.
fn kept(task: &Task) -> Option<Task> {
    let (key, transaction) = spends(task)?;
    Some(Task::Ledger(key, Operation::Keep { transaction }))
}

/// The tasks of one step.
pub(super) struct Asking {
    running: Option<(Running, bool)>,
    todo: VecDeque<Job>,
    heard: Option<Event>,
}

/// Something that happens to the task that is under way.
pub(super) enum Happening {
    /// Its callout is answered: headers, and bytes of the body.
    Answered(usize, usize),
    /// Its callout will never be answered.
    Lost,
    /// Time has passed.
    Tick,
}

impl Asking {
    /// Returns one that wants nothing yet.
    pub(super) const fn new() -> Self {
        Self { running: None, todo: VecDeque::new(), heard: None }
    }

    /// Adds tasks behind those that are there, whose answers nobody waits for any more.
    pub(super) fn add(&mut self, jobs: Vec<Job>) {
        if let Some((_, gives)) = &mut self.running {
            *gives = false;
        }
        self.todo.iter_mut().for_each(|job| job.gives = false);
        self.todo.extend(jobs);
    }

    /// Returns the token of the callout whose answer it waits for.
    pub(super) fn token(&self) -> Option<u32> {
        self.running.as_ref().and_then(|(running, _)| running.token())
    }

    /// Returns whether it waits for time to pass.
    pub(super) fn wants_tick(&self) -> bool {
        self.running.as_ref().is_some_and(|(running, _)| running.wants_tick())
    }

    /// Takes out what the exchange is to hear.
    pub(super) const fn take_heard(&mut self) -> Option<Event> {
        self.heard.take()
    }

    /// Goes on as far as that is possible now; `true` once everything is done. `is_in_vain`: what the exchange waits to deliver has
    /// nobody to go to any more.
    pub(super) fn go_on(
        &mut self,
        host: &impl Host,
        fleet: &Fleet,
        owner: Owner,
        held: &mut Held,
        is_in_vain: bool,
        happening: Option<Happening>,
    ) -> bool {
        if let Some((running, gives)) = &mut self.running {
            // Nothing of the response goes out before this is answered, and nothing will: the payment has bought nothing.
            running.set_unwanted(is_in_vain && *gives && delivers(running.task()));
        }
        let mut progress = match (&mut self.running, happening) {
            (Some((running, _)), Some(Happening::Answered(headers, size))) => {
                Some(running.on_answer(host, fleet, headers, size))
            }
            (Some((running, _)), Some(Happening::Lost)) => Some(running.on_lost(host, fleet)),
            (Some((running, _)), Some(Happening::Tick)) => Some(running.on_tick(host, fleet)),
            (Some(_), None) => Some(Progress::Waiting),
            (None, _) => None,
        };
        loop {
            match (progress.take(), self.running.take()) {
                (Some(Progress::Waiting), running) => {
                    self.running = running;
                    return false;
                }
                (Some(Progress::Done(said)), Some((running, gives))) => {
                    if held.is_fenced(running.task(), &said) {
                        stats::count_fenced(host);
                    }
                    held.note(running.task(), &said);
                    self.hear(said, gives);
                }
                (Some(Progress::Unwanted(undo)), Some((running, gives))) => {
                    held.is_in_doubt = true;
                    self.hear(running.task().failed(), gives);
                    // At once: whoever asks meanwhile is told that the payment is spent.
                    let keep = kept(running.task());
                    let back = [Some(Task::Undo(undo)), keep].into_iter().flatten();
                    back.rev().for_each(|task| self.todo.push_front(Job { task, gives: false }));
                }
                (Some(Progress::GaveUp(undo)), Some((running, gives))) => {
                    if gives {
                        held.is_in_doubt = true;
                        // What goes with it is not to be done alone.
                        self.todo.clear();
                        self.hear(running.task().failed(), true);
                        let keep = kept(running.task());
                        for task in undo.map(Task::Undo).into_iter().chain(keep) {
                            fleet.mend(host, task, owner);
                        }
                    } else {
                        fleet.repeat(host, running);
                    }
                }
                _ => {}
            }
            let Some(Job { task, gives }) = self.todo.pop_front() else { return true };
            // What nobody waits for comes behind what is still to be done to the same record.
            if !gives && fleet.is_mending(&task.key()) {
                fleet.mend(host, task, owner);
                continue;
            }
            // Once it is verified, a payment is claimed a second time: by then others may have been told that it is in flight.
            let is_held = task.begins_with().is_some_and(|payment| held.claims.contains(&payment));
            let (running, begun) = Running::begin(host, fleet, task, owner, is_held);
            self.running = Some((running, gives));
            progress = Some(begun);
        }
    }

    fn hear(&mut self, said: Said, gives: bool) {
        if gives {
            self.heard = match said {
                Said::Ledger(answer) => Some(Event::Ledger(answer)),
                Said::Channel(answer) => Some(Event::Channel(answer)),
                Said::Lease { .. } | Said::Undone => None,
            };
        }
    }
}
