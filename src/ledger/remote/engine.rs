//! Engines of the shared store: what a question is on the wire of each, and what its answer says.

use super::dynamodb::{self, DynamoDb};
use super::etcd::{self, Etcd};
use super::{Ask, Kind, Told};
use crate::time::UnixTime;

/// Seconds by which a record outlives the time that it is needed until: clocks of proxies may differ by as much.
pub(super) const MARGIN_SECONDS: u64 = 120;

/// An engine, with what it calls the records of a fleet. One that is not built in is never configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Engine {
    /// etcd.
    Etcd(Etcd),
    /// DynamoDB.
    DynamoDb(DynamoDb),
}

/// A callout by POST.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Call {
    /// The path.
    pub path: &'static str,
    /// The headers that are the engine's own.
    pub headers: [(&'static str, &'static str); 2],
    /// The body.
    pub body: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw<'a> {
    /// HTTP status; 0 where nothing came.
    pub status: u16,
    /// `grpc-status` of the trailers or the head, where it is there.
    pub grpc_status: Option<u32>,
    /// `grpc-message` beside it.
    pub grpc_message: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// The meaning of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// An answer to the question.
    Told(Told),
    /// This has to be called first, and then the question again.
    First(Call),
}

/// Records, as they were listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Their values.
    pub values: Vec<Vec<u8>>,
    /// The name of the last, by which the next are asked for.
    pub last: Option<Vec<u8>>,
    /// True if there are more.
    pub has_more: bool,
}

impl Engine {
    /// Returns the callout for a question.
    pub fn call(&self, ask: &Ask, now: UnixTime) -> Call {
        match self {
            Self::Etcd(etcd) if etcd::IS_BUILT_IN => etcd.call(ask, now),
            Self::DynamoDb(table) if dynamodb::IS_BUILT_IN => table.call(ask),
            _ => Call::default(),
        }
    }

    /// Reads the answer to a question.
    pub fn read(&self, ask: &Ask, raw: Raw<'_>, now: UnixTime) -> Reply {
        match self {
            Self::Etcd(etcd) if etcd::IS_BUILT_IN => etcd.read(ask, raw, now),
            Self::DynamoDb(_) if dynamodb::IS_BUILT_IN => Reply::Told(DynamoDb::read(ask, raw)),
            _ => Reply::Told(Told::Unknown),
        }
    }

    /// Returns whether the answer to what had to be called first says that it is done.
    pub const fn is_prepared(&self, raw: Raw<'_>) -> bool {
        matches!(self, Self::Etcd(_)) && Etcd::is_prepared(raw)
    }

    /// Returns the callout for records of a kind that is listed ([`Kind::Channel`]), in the order of their names, behind the one of
    /// a name: at most so many.
    pub fn list(&self, kind: Kind, behind: Option<&[u8]>, most: u64) -> Call {
        match self {
            Self::Etcd(etcd) if etcd::IS_BUILT_IN => etcd.list(kind, behind, most),
            Self::DynamoDb(table) if dynamodb::IS_BUILT_IN => table.list(kind, behind, most),
            _ => Call::default(),
        }
    }

    /// Reads the answer to [`Self::list`]; `None` where it is none.
    pub fn read_list(&self, raw: Raw<'_>) -> Option<Listed> {
        match self {
            Self::Etcd(_) if etcd::IS_BUILT_IN => Etcd::read_list(raw),
            Self::DynamoDb(_) if dynamodb::IS_BUILT_IN => DynamoDb::read_list(raw),
            _ => None,
        }
    }

    /// Returns what an answer says that counts for nothing, for the log.
    pub fn failure(&self, raw: Raw<'_>) -> String {
        match self {
            _ if raw.status == 0 => "none came in time".to_owned(),
            Self::Etcd(_) if etcd::IS_BUILT_IN => Etcd::failure(raw),
            Self::DynamoDb(_) if dynamodb::IS_BUILT_IN => DynamoDb::failure(raw),
            _ => String::new(),
        }
    }

    /// Returns what tells its records from those of others at the same cluster.
    pub fn place(&self) -> String {
        match self {
            Self::Etcd(etcd) => etcd.prefix().to_owned(),
            Self::DynamoDb(table) => table.place(),
        }
    }
}
