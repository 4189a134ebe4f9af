//! Real attempts at a shared store, as tables that fill themselves.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use x402_proxy_wasm::ledger::remote::{
    Ask, Attempt, Copies, Copy as Seen, Kind, RecordKey, Revision, Said, Step, Task, Told, Write,
};
use x402_proxy_wasm::ledger::{Answer, Ledger, Operation, Owner, PaymentKey};

use super::super::numbered::Numbered;
use super::super::tables::at;

/// Records of a model: two payments, their name, and a nonce.
pub const KEYS: usize = 4;

/// A record as it stands in the store. Revisions are counted for each key alone, which no rule can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Record {
    /// The number of its value; 0 for none.
    pub value: u32,
    /// Writes so far.
    pub writes: u8,
}

/// What a store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    Written(u8),
    Found(Record),
    Unknown,
}

/// What comes of a step of an attempt. Attempts and copies go by number; copy 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Asks(u32),
    AsksAgain(u32),
    Done(Answer, u32),
}

/// What the model has to know of an attempt that waits for the store.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub key: u8,
    /// The number of the write that it has sent; `None` where it reads.
    pub write: Option<u32>,
    /// True if it is to record that a payment bought its response, or to take that back.
    pub buys: bool,
    number: u64,
}

/// Whether a payment has bought its response, as a proxy knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    No,
    /// Another proxy has it so.
    Elsewhere,
    ForGood,
}

/// What is asked of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub key: PaymentKey,
    pub operation: Operation,
    pub owner: u8,
    /// The number of the move.
    pub number: u64,
    /// The number of the operation: the same number, the same operation on the same key.
    pub code: u32,
}

/// A conditional write, by number.
#[derive(Debug, Clone, Copy)]
pub struct Put {
    pub key: u8,
    pub expected: u8,
    pub value: u32,
    /// True if there is nothing recorded any more.
    pub is_empty: bool,
}

struct Pending {
    attempt: Attempt,
    ask: Ask,
    facts: Facts,
}

#[derive(Default)]
struct Memory {
    keys: Numbered<RecordKey, ()>,
    values: Numbered<Vec<u8>, Vec<u8>>,
    copies: Numbered<String, (Seen, Spent)>,
    writes: Numbered<Write, Put>,
    pending: Vec<Pending>,
    known: HashMap<(u64, Ask), Vec<u32>>,
    begun: HashMap<(u64, u32, u32, u32), Outcome>,
    heard: HashMap<(u32, Word, u32), Outcome>,
    mends: HashMap<(u32, u64), u32>,
    probes: HashMap<(u32, u32, u8, u32), Option<Answer>>,
}

/// Attempts, by number.
pub struct Attempts {
    rules: Ledger,
    memory: Mutex<Memory>,
}

impl Attempts {
    pub fn new(rules: Ledger) -> Self {
        let mut memory = Memory::default();
        // 0 stands for none.
        memory.values.number(Vec::new(), Vec::new);
        memory.pending.push(Pending {
            attempt: Attempt::new(Task::Ledger(PaymentKey::of_identifier("", ""), Operation::LetGo), Owner(0), 0, None),
            ask: Ask::Read(RecordKey::new(Kind::Fleet, [0; 32])),
            facts: Facts { key: 0, write: None, buys: false, number: 0 },
        });
        Self { rules, memory: Mutex::new(memory) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no thread fails while it looks something up")
    }

    /// The number of the record that an operation is about.
    pub fn key(&self, key: PaymentKey, operation: Operation) -> u8 {
        self.memory().key(&Task::Ledger(key, operation).key())
    }

    pub fn facts(&self, pending: u32) -> Facts {
        self.memory().pending[pending as usize].facts
    }

    pub fn put(&self, write: u32) -> Put {
        *self.memory().writes.get(write)
    }

    /// Whether a copy says that its payment has bought its response.
    pub fn spent(&self, copy: u32) -> Spent {
        if copy == 0 { Spent::No } else { self.memory().copies.get(copy - 1).1 }
    }

    /// Begins with a job from a copy.
    pub fn begin(&self, job: Job, copy: u32, now: u32) -> Outcome {
        let mut memory = self.memory();
        let name = (job.number, job.code, copy, now);
        if let Some(known) = memory.begun.get(&name) {
            return *known;
        }
        let task = Task::Ledger(job.key, job.operation);
        let key = memory.key(&task.key());
        let buys = matches!(job.operation, Operation::Spend { .. } | Operation::Open);
        let facts = Facts { key, write: None, buys, number: job.number };
        let seen = (copy != 0).then(|| memory.copies.get(copy - 1).0.clone());
        let mut attempt = Attempt::new(task, Owner(u64::from(job.owner)), job.number, seen);
        let step = attempt.begin(&self.rules, at(now));
        let outcome = memory.note(attempt, step, facts);
        memory.begun.insert(name, outcome);
        outcome
    }

    /// An attempt hears from the store.
    pub fn hear(&self, pending: u32, word: Word, now: u32) -> Outcome {
        let mut memory = self.memory();
        let name = (pending, word, now);
        if let Some(known) = memory.heard.get(&name) {
            return *known;
        }
        let told = match word {
            Word::Written(revision) => Told::Written(Revision(u64::from(revision))),
            Word::Found(record) => Told::Found(memory.found(record)),
            Word::Unknown => Told::Unknown,
        };
        let Pending { attempt, facts, .. } = &memory.pending[pending as usize];
        let (mut attempt, facts) = (attempt.clone(), *facts);
        let step = attempt.hear(&self.rules, told, at(now));
        let outcome = memory.note(attempt, step, facts);
        memory.heard.insert(name, outcome);
        outcome
    }

    /// What takes back the move of an attempt that was given up, if it may have come about.
    pub fn take_back(&self, pending: u32, number: u64) -> Option<u32> {
        let mut memory = self.memory();
        let Pending { attempt, facts, .. } = &memory.pending[pending as usize];
        let (undo, facts) = (attempt.undo()?, Facts { number, write: None, ..*facts });
        // Its rules do not look at the owner.
        let task = Task::Undo(undo);
        Some(*memory.mends.get(&(pending, number)).unwrap_or(&0)).filter(|known| *known != 0).or_else(|| {
            let mend = memory.mend(task, Owner(0), facts);
            memory.mends.insert((pending, number), mend);
            Some(mend)
        })
    }

    /// What is to be done while nobody waits.
    pub fn mend(&self, job: Job) -> u32 {
        let mut memory = self.memory();
        let task = Task::Ledger(job.key, job.operation);
        let key = memory.key(&task.key());
        let buys = matches!(job.operation, Operation::Spend { .. } | Operation::Open);
        let facts = Facts { key, write: None, buys, number: job.number };
        memory.mend(task, Owner(u64::from(job.owner)), facts)
    }

    /// What the rules say to an operation on a value: `None` where they would write something.
    pub fn probe(&self, value: u32, job: Job, now: u32) -> Option<Answer> {
        let mut memory = self.memory();
        let name = (value, job.code, job.owner, now);
        if let Some(known) = memory.probes.get(&name) {
            return *known;
        }
        let found = memory.found(Record { value, writes: 1 });
        let mut attempt =
            Attempt::new(Task::Ledger(job.key, job.operation), Owner(u64::from(job.owner)), u64::MAX, None);
        let step = match attempt.begin(&self.rules, at(now)) {
            Step::Ask(_) => attempt.hear(&self.rules, Told::Found(found), at(now)),
            other => other,
        };
        let answer = match step {
            Step::Done(Said::Ledger(answer), _) => Some(answer),
            _ => None,
        };
        memory.probes.insert(name, answer);
        answer
    }
}

impl Memory {
    fn key(&mut self, key: &RecordKey) -> u8 {
        let number = self.keys.number(key.clone(), || ()) as u8;
        assert!(usize::from(number) < KEYS, "a record more than the model has");
        number
    }

    fn found(&self, record: Record) -> Option<(Vec<u8>, Revision)> {
        (record.value != 0).then(|| (self.values.get(record.value).clone(), Revision(u64::from(record.writes))))
    }

    fn mend(&mut self, task: Task, owner: Owner, facts: Facts) -> u32 {
        let attempt = Attempt::new(task, owner, facts.number, None);
        let ask = Ask::Read(attempt.key().clone());
        self.pending(attempt, ask, facts)
    }

    /// The number of an attempt that waits for the answer to a question.
    fn pending(&mut self, attempt: Attempt, ask: Ask, facts: Facts) -> u32 {
        let write = match &ask {
            Ask::Read(_) => None,
            Ask::Write(write) => {
                let value = self.values.number(write.value.clone(), || write.value.clone());
                let (expected, is_empty) = (write.expected.0 as u8, write.value.len() <= 1 + 5 * 8);
                let put = Put { key: facts.key, expected, value, is_empty };
                Some(self.writes.number(write.clone(), || put))
            }
        };
        let alike = self.known.entry((facts.number, ask.clone())).or_default();
        if let Some(known) = alike.iter().find(|known| self.pending[**known as usize].attempt == attempt) {
            return *known;
        }
        let number = self.pending.len() as u32;
        alike.push(number);
        self.pending.push(Pending { attempt, ask, facts: Facts { write, ..facts } });
        number
    }

    fn note(&mut self, attempt: Attempt, step: Step, facts: Facts) -> Outcome {
        match step {
            Step::Ask(ask) => Outcome::Asks(self.pending(attempt, ask, facts)),
            Step::AskAgain(ask) => Outcome::AsksAgain(self.pending(attempt, ask, facts)),
            Step::Done(said, copy) => {
                let answer = match said {
                    Said::Ledger(answer) => answer,
                    Said::Undone => Answer::Granted,
                    other => panic!("{other:?}"),
                };
                // What a worker keeps is for its memory of copies to say.
                let mut copies = Copies::default();
                copies.keep(attempt.key(), copy);
                let copy = copies.get(attempt.key()).map_or(0, |copy| {
                    let spent = match copy.spent_until() {
                        Some(_) => Spent::ForGood,
                        None if copy.is_spent() => Spent::Elsewhere,
                        None => Spent::No,
                    };
                    1 + self.copies.number(format!("{copy:?}"), || (copy, spent))
                });
                Outcome::Done(answer, copy)
            }
        }
    }
}
