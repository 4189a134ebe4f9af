//! The ledger in a store that many proxies share, and that answers later: one record for each key, compare-and-swap by the
//! record's revision.
//!
//! Pure: an [`Attempt`] says what the store is to be asked and takes in what it said; an [`Engine`] ([`etcd`], [`dynamodb`])
//! turns questions into callouts. The rules are those of the [`super::Ledger`] and of channels, on one record in place of a page.
//!
//! The revision that a move is conditional on is its fencing token: who has lost a record writes nothing, and is told how it
//! stands now. A record names the last moves that wrote it, so that a move whose answer was lost knows itself again.

mod attempt;
pub mod copies;
pub mod dynamodb;
pub mod engine;
pub mod etcd;
pub mod protobuf;
mod record;
mod task;

use crate::time::UnixTime;
pub use attempt::{Attempt, Copy, Step};
pub use copies::Copies;
pub use engine::Engine;
pub use task::{LeaseName, Said, Task, Undo, channel_of_value};

/// True if a shared store is built in. Where it is not, a configuration that wants one is refused.
pub const IS_BUILT_IN: bool = etcd::IS_BUILT_IN || dynamodb::IS_BUILT_IN;

/// The name of a record within its fleet: its kind, and the hash that it is found by, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    kind: Kind,
    hash: [u8; 32],
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A claim on a payment, a payment's name, or a transaction's payment.
    Claim,
    /// Something noted: a right to come back, or a nonce.
    Note,
    /// What is left of a bundle.
    Bundle,
    /// A channel.
    Channel,
    /// What the proxies of a fleet have in common: how it began, and what each facilitator supports.
    Fleet,
    /// The right of one proxy to do what is done once for all.
    Lease,
}

impl Kind {
    const fn letter(self) -> char {
        match self {
            Self::Claim => 'c',
            Self::Note => 'n',
            Self::Bundle => 'b',
            Self::Channel => 'h',
            Self::Fleet => 'f',
            Self::Lease => 'l',
        }
    }
}

impl RecordKey {
    /// The key of a record of a kind.
    pub const fn new(kind: Kind, hash: [u8; 32]) -> Self {
        Self { kind, hash }
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name in the store, without the fleet's prefix.
    pub fn name(&self) -> String {
        format!("{}:{}", self.kind.letter(), hex::encode(self.hash))
    }
}

/// The mark of a version of a record. 0: there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The mark of a record that is not there.
    pub const ABSENT: Self = Self(0);
}

/// A question to the store. Each concerns one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// How the record stands.
    Read(RecordKey),
    /// Write the record if it has this revision, or else say how it stands.
    Write(Write),
}

/// A conditional write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    /// The record's key.
    pub key: RecordKey,
    /// The revision that it must have.
    pub expected: Revision,
    /// The new value. Nothing is ever removed before its time: a write that is late could otherwise find no record once more.
    pub value: Vec<u8>,
    /// The time until which it is needed at least; `None`: for good.
    pub kept_until: Option<UnixTime>,
}

impl Ask {
    /// The key that it concerns.
    pub const fn key(&self) -> &RecordKey {
        match self {
            Self::Read(key) => key,
            Self::Write(write) => &write.key,
        }
    }
}

/// What a store said to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Told {
    /// It is written, and has this revision from now on.
    Written(Revision),
    /// The record, as it stands: its value and revision, if there is one. To a write: nothing was written.
    Found(Option<(Vec<u8>, Revision)>),
    /// Nobody knows whether it was done: no answer, or one that says nothing.
    Unknown,
}
