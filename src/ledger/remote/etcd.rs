//! etcd as the shared store: what a question is on its wire, and what an answer says.
//!
//! By gRPC's framing, which Envoy's callouts carry as a plain POST on an HTTP/2 cluster: unlike its JSON gateway etcd takes client
//! certificates there. A write is one transaction that compares the record's `mod_revision`, which is 0 where there is none.
//! Records fall away with a lease: there is one for all records of the same minute, whose id is made from it, so that no
//! record needs a lease of its own.
//!
//! Source: etcd's `rpc.proto` and `kv.proto` (API version 3.4 and later).

use super::engine::{Call, Listed, MARGIN_SECONDS, Raw, Reply};
use super::protobuf::{Fields, Message};
use super::{Ask, Kind, Revision, Told, Write};
use crate::evm::keccak256;
use crate::time::UnixTime;

/// The names of a fleet's records in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Etcd {
    prefix: String,
}

/// True if etcd is built in. Where it is not, a configuration that wants it is refused.
pub const IS_BUILT_IN: bool = cfg!(feature = "etcd");

/// The headers of every call, beside those of any callout.
const HEADERS: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";

/// gRPC's status for what is not there.
const NOT_FOUND: u32 = 5;
/// gRPC's status for what cannot be done as things stand.
const FAILED_PRECONDITION: u32 = 9;

/// `CompareTarget.MOD`.
const MOD: u64 = 2;

/// Records that are kept for less than this share a lease with those of their minute, others with those of their hour.
const FINE_SECONDS: u64 = 2 * 60 * 60;

/// Seconds that a lease lasts at most; etcd's own limit is nine times as long.
const MOST_SECONDS: u64 = 1_000_000_000;

impl Etcd {
    /// The records of a fleet.
    pub fn new(fleet: &str) -> Self {
        Self { prefix: format!("x402:{fleet}:") }
    }

    /// The beginning that all names of the fleet's records have, and no others.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The callout for a question.
    pub fn call(&self, ask: &Ask, now: UnixTime) -> Call {
        match ask {
            Ask::Read(key) => call(RANGE, range(&self.key(key.name()))),
            Ask::Write(write) => call(TXN, self.transaction(write, now)),
        }
    }

    /// The callout for records of a kind, in the order of their names, behind the one of a name: at most so many.
    pub fn list(&self, kind: Kind, behind: Option<&[u8]>, most: u64) -> Call {
        let first = self.key(format!("{}:", kind.letter()));
        // The first name behind all of the kind: `;` follows `:`.
        let end = self.key(format!("{};", kind.letter()));
        // The next name behind one is the same with a zero.
        let start = behind.map_or(first, |name| [name, &[0]].concat());
        call(RANGE, Message::default().bytes(1, &start).bytes(2, &end).number(3, most))
    }

    /// Reads the answer to [`Self::list`]; `None` where it is none.
    pub fn read_list(raw: Raw<'_>) -> Option<Listed> {
        let message = Fields::of_frame(raw.body).filter(|_| raw.status == 200)?;
        message.message(1)??;
        let mut values = Vec::new();
        let mut last = None;
        for found in message.all_bytes(2)?.into_iter().map(Fields::new) {
            last = found.bytes(1)?.map(<[u8]>::to_vec);
            values.push(found.bytes(5)?.unwrap_or_default().to_vec());
        }
        Some(Listed { values, last, has_more: message.number(3)? != 0 })
    }

    /// Reads the answer to a question.
    pub fn read(&self, ask: &Ask, raw: Raw<'_>, now: UnixTime) -> Reply {
        if raw.status == 200 && raw.grpc_status.is_none_or(|status| status == 0) {
            let told = Fields::of_frame(raw.body).and_then(|message| match ask {
                Ask::Read(key) => read_range(message, &self.key(key.name())).map(Told::Found),
                Ask::Write(write) => read_transaction(message, &self.key(write.key.name())),
            });
            return Reply::Told(told.unwrap_or(Told::Unknown));
        }
        match ask {
            Ask::Write(Write { kept_until: Some(until), .. }) if raw.grpc_status == Some(NOT_FOUND) => {
                Reply::First(self.grant(*until, now))
            }
            _ => Reply::Told(Told::Unknown),
        }
    }

    /// Returns whether the answer to what had to be called first says that it is done.
    pub const fn is_prepared(raw: Raw<'_>) -> bool {
        // Somebody else may have made the lease first.
        raw.status == 200 && matches!(raw.grpc_status, None | Some(0 | FAILED_PRECONDITION))
    }

    /// Returns what an answer says that counts for nothing, and what to look at.
    pub fn failure(raw: Raw<'_>) -> String {
        let cure = match (raw.grpc_status, raw.status) {
            (Some(7), _) => {
                "; the user is the common name of the client certificate, its role needs the fleet's prefix"
            }
            (Some(8), _) => "; its quota may be full",
            (Some(14), _) if raw.grpc_message.contains("connect") => {
                "; nothing listens there, or TLS fails: see the cluster's ssl stats"
            }
            (Some(16), _) => "; the common name of the client certificate has to be a user",
            (None, 404) => "; the cluster needs http2_protocol_options",
            _ => "",
        };
        match raw.grpc_status {
            Some(status) => format!("grpc-status {status}: {}{cure}", raw.grpc_message),
            None => format!("status {}{cure}", raw.status),
        }
    }

    fn key(&self, name: String) -> Vec<u8> {
        [self.prefix.as_bytes(), name.as_bytes()].concat()
    }

    fn transaction(&self, write: &Write, now: UnixTime) -> Message {
        let key = self.key(write.key.name());
        let Revision(expected) = write.expected;
        let compare = Message::default().number(2, MOD).bytes(3, &key).number_or_zero(6, expected);
        let lease = write.kept_until.map_or(0, |until| self.lease(until, now).0);
        let put = Message::default().bytes(1, &key).bytes(2, &write.value).number(3, lease);
        let success = Message::default().message(2, &put);
        let failure = Message::default().message(1, &range(&key));
        Message::default().message(1, &compare).message(2, &success).message(3, &failure)
    }

    /// The id of the lease of what is needed until a time, and when it ends.
    fn lease(&self, until: UnixTime, now: UnixTime) -> (u64, UnixTime) {
        let is_fine = until.as_secs().saturating_sub(now.as_secs()) < FINE_SECONDS;
        let span: u64 = if is_fine { 60 } else { 60 * 60 };
        let end = until.as_secs().div_ceil(span).saturating_mul(span).saturating_add(MARGIN_SECONDS);
        let name = format!("x402: a lease of {} until {end} of {span}", self.prefix);
        let [a, b, c, d, e, f, g, h, ..] = keccak256(name.as_bytes());
        // A positive number of 64 bits with a sign, and not 0, which stands for none.
        let id = (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1).max(1);
        (id, UnixTime::from_secs(end))
    }

    fn grant(&self, until: UnixTime, now: UnixTime) -> Call {
        let (id, end) = self.lease(until, now);
        let seconds = end.as_secs().saturating_sub(now.as_secs()).clamp(1, MOST_SECONDS);
        call(LEASE_GRANT, Message::default().number(1, seconds).number(2, id))
    }
}

fn call(path: &'static str, message: Message) -> Call {
    Call { path, headers: HEADERS, body: message.framed() }
}

/// `RangeRequest` for one key.
fn range(key: &[u8]) -> Message {
    Message::default().bytes(1, key)
}

/// What a `RangeResponse` says of a key: its value and `mod_revision`. `None` where it is no such answer.
fn read_range(message: Fields<'_>, key: &[u8]) -> Option<Option<(Vec<u8>, Revision)>> {
    // A header is always there: what has none is something else.
    message.message(1)??;
    let Some(found) = message.message(2)? else { return Some(None) };
    if found.bytes(1)?? != key {
        return None;
    }
    let revision = found.number(3).filter(|revision| *revision > 0)?;
    Some(Some((found.bytes(5)?.unwrap_or_default().to_vec(), Revision(revision))))
}

fn read_transaction(message: Fields<'_>, key: &[u8]) -> Option<Told> {
    let header = message.message(1)??;
    if message.number(2)? != 0 {
        return Some(Told::Written(Revision(header.number(3).filter(|revision| *revision > 0)?)));
    }
    let response = message.message(3)??;
    read_range(response.message(1)??, key).map(Told::Found)
}
