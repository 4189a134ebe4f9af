//! A fake of etcd's gRPC calls, as far as the ledger makes them: one history of revisions, and silence when a test wants it.

use std::collections::BTreeMap;

use x402_proxy_wasm::ledger::remote::protobuf::{Fields, Message};

use super::fake_envoy::Headers;
use super::purchase::ok;

/// The store: values by name, each with the revision that wrote it.
#[derive(Default)]
pub struct FakeEtcd {
    records: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    revision: u64,
    /// True if nothing is carried out, and calls end without an answer.
    pub is_silent: bool,
    /// True if what is asked is carried out, and the answer lost.
    pub loses_answers: bool,
}

impl FakeEtcd {
    /// Returns whether a callout's path is one of etcd's.
    pub fn is_asked(path: &str) -> bool {
        path.starts_with("/etcdserverpb.")
    }

    /// Carries out a call; the headers and the body of the answer. No headers: there was none.
    pub fn answer(&mut self, path: &str, frame: &[u8]) -> (Headers, Vec<u8>) {
        if self.is_silent {
            return Default::default();
        }
        let message = Fields::of_frame(frame).expect("a frame");
        let answer = match path {
            "/etcdserverpb.KV/Range" => self.range(message),
            "/etcdserverpb.KV/Txn" => self.transaction(message),
            "/etcdserverpb.Lease/LeaseGrant" => self.headed(),
            other => panic!("{other} is asked"),
        };
        if self.loses_answers { Default::default() } else { (ok(), answer.framed()) }
    }

    fn headed(&self) -> Message {
        Message::default().message(1, &Message::default().number(3, self.revision))
    }

    fn range(&self, asked: Fields<'_>) -> Message {
        let start = asked.bytes(1).unwrap().unwrap().to_vec();
        let end = asked.bytes(2).unwrap().map_or_else(|| [&start[..], &[0]].concat(), <[u8]>::to_vec);
        self.records.range(start..end).fold(self.headed(), |answer, (name, (value, revision))| {
            answer.message(2, &Message::default().bytes(1, name).number(3, *revision).bytes(5, value))
        })
    }

    fn transaction(&mut self, asked: Fields<'_>) -> Message {
        let part = |field| asked.message(field).unwrap().unwrap();
        let compare = part(1);
        let name = compare.bytes(3).unwrap().unwrap();
        let current = self.records.get(name).map_or(0, |(_, revision)| *revision);
        if compare.number(6) != Some(current) {
            let found = self.range(part(3).message(1).unwrap().unwrap());
            return self.headed().message(3, &Message::default().message(1, &found));
        }
        let put = part(2).message(2).unwrap().unwrap();
        assert_eq!(put.bytes(1).unwrap(), Some(name), "what is compared is written");
        self.revision += 1;
        self.records.insert(name.to_vec(), (put.bytes(2).unwrap().unwrap().to_vec(), self.revision));
        self.headed().number(2, 1)
    }
}
