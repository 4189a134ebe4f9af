//! Proxies that share a store ask a facilitator once for all what it supports. The store speaks etcd's own bytes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use x402_proxy_wasm::ledger::remote::protobuf::{Fields, Message};

use super::fake_envoy::{FakeEnvoy, Piece, ROOT, SentCallout};
use super::purchase::json_by_use;
use crate::common::{FACILITATOR, NOW, decode};

/// etcd, as far as the filter needs it: records by key, each with its value and the revision that wrote it.
#[derive(Default)]
struct Store {
    records: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    revision: u64,
    is_silent: bool,
}

impl Store {
    fn header(&self) -> Message {
        Message::default().message(1, &Message::default().number(3, self.revision + 1))
    }

    fn range(&self, key: &[u8]) -> Message {
        match self.records.get(key) {
            Some((value, revision)) => {
                let record = Message::default().bytes(1, key).number(3, *revision).bytes(5, value);
                self.header().message(2, &record).number(4, 1)
            }
            None => self.header(),
        }
    }

    fn answer(&mut self, callout: &SentCallout) -> Vec<u8> {
        let question = Fields::of_frame(&callout.bytes).unwrap();
        match callout.path.as_str() {
            "/etcdserverpb.KV/Range" => self.range(question.bytes(1).unwrap().unwrap()).framed(),
            "/etcdserverpb.KV/Txn" => {
                let compare = question.message(1).unwrap().unwrap();
                let (key, expected) = (compare.bytes(3).unwrap().unwrap(), compare.number(6).unwrap());
                if self.records.get(key).map_or(0, |(_, revision)| *revision) != expected {
                    return self.header().message(3, &Message::default().message(1, &self.range(key))).framed();
                }
                let put = question.message(2).unwrap().unwrap().message(2).unwrap().unwrap();
                self.revision += 1;
                self.records.insert(key.to_vec(), (put.bytes(2).unwrap().unwrap().to_vec(), self.revision));
                Message::default().message(1, &Message::default().number(3, self.revision)).number(2, 1).framed()
            }
            other => panic!("{other} is asked"),
        }
    }
}

/// Lets seconds pass for all proxies; how many questions reach the facilitator, which has failed where it has nothing to say.
fn pass(envoys: &mut [FakeEnvoy], store: &mut Store, seconds: u32, says: Option<&Value>) -> u32 {
    let mut asked = 0;
    for _ in 0..seconds {
        for envoy in &mut *envoys {
            envoy.tick(ROOT);
            while let Some(callout) = envoy.callouts().pop() {
                let ok = vec![(":status".to_owned(), "200".to_owned())];
                if callout.path != "/supported" {
                    let (head, body) = if store.is_silent { Default::default() } else { (ok, store.answer(&callout)) };
                    envoy.answer_with(callout.token, head, body);
                    continue;
                }
                asked += 1;
                match says {
                    Some(says) => envoy.answer_with(callout.token, ok, says.to_string().into_bytes()),
                    None => envoy.answer(callout.token, 503, &json!({})),
                };
            }
        }
    }
    asked
}

/// Whether a client is offered what the facilitator has to be asked about first.
fn sells(envoy: &mut FakeEnvoy) -> bool {
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "api.example.com"), (":path", "/chat")];
    let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 500});
    let id = envoy.request(ROOT, &head, true);
    envoy.request_piece(id, Piece::Data(body.to_string().into_bytes(), true));
    let client = envoy.client(id).expect("an answer");
    let terms = client.headers.iter().find(|(name, _)| name == "payment-required");
    terms.is_some_and(|(_, terms)| decode(terms)["accepts"][0]["extra"]["facilitatorAddress"] == FACILITATOR)
}

#[test]
fn one_proxy_of_a_fleet_asks_for_all() {
    let mut config = json_by_use().config;
    config["ledger"] = json!({"store": {"etcd": {"cluster": "etcd", "fleet": "shop"}}});
    let kinds = json!({"kinds": [
        {"x402Version": 2, "scheme": "upto", "network": "eip155:84532", "extra": {"facilitatorAddress": FACILITATOR}},
    ]});
    let mut envoys: Vec<_> = (0..3).map(|_| FakeEnvoy::new(&config, NOW)).collect();
    let mut store = Store::default();
    assert_eq!(pass(&mut envoys, &mut store, 10, Some(&kinds)), 1);
    assert!(envoys.iter_mut().all(sells), "all know it");
    let asked = pass(&mut envoys, &mut store, 3600, Some(&kinds));
    assert!((5..=7).contains(&asked), "{asked}: every nine to eleven minutes");

    // One that comes later asks nobody but the store.
    let mut late = vec![FakeEnvoy::new(&config, NOW + 3610)];
    assert_eq!(pass(&mut late, &mut store, 5, Some(&kinds)), 0);
    assert!(sells(&mut late[0]));

    // A store that is silent is no reason not to ask: each for itself.
    store.is_silent = true;
    let asked = pass(&mut envoys, &mut store, 1400, Some(&kinds));
    assert!((6..=9).contains(&asked), "{asked}");
}

#[test]
fn a_fleet_whose_facilitator_fails_asks_ever_more_seldom() {
    let mut config = json_by_use().config;
    config["ledger"] = json!({"store": {"etcd": {"cluster": "etcd", "fleet": "shop"}}});
    let mut envoys: Vec<_> = (0..3).map(|_| FakeEnvoy::new(&config, NOW)).collect();
    let mut store = Store::default();
    pass(&mut envoys, &mut store, 60, None);
    let asked = pass(&mut envoys, &mut store, 600, None);
    assert!((7..=45).contains(&asked), "{asked}: every 40 to 80 seconds of each at most");
    let kinds = json!({"kinds": [
        {"x402Version": 2, "scheme": "upto", "network": "eip155:84532", "extra": {"facilitatorAddress": FACILITATOR}},
    ]});
    pass(&mut envoys, &mut store, 100, Some(&kinds));
    assert!(envoys.iter_mut().all(sells), "all know it");
}

#[test]
fn a_store_that_is_silent_at_the_start_is_asked_by_one_worker_and_ever_more_seldom() {
    let mut config = json_by_use().config;
    config["ledger"] = json!({"store": {"etcd": {"cluster": "etcd", "fleet": "shop"}}});
    let mut envoy = FakeEnvoy::new(&config, NOW);
    let other = envoy.add_root(&config).expect("the configuration is good");
    let mut founding = 0;
    for _ in 0..100 {
        for root in [ROOT, other] {
            envoy.tick(root);
            for callout in envoy.callouts() {
                assert_ne!(callout.path, "/supported", "nothing is sold, so nobody asks");
                founding += u32::from(String::from_utf8_lossy(&callout.bytes).contains(&"0".repeat(64)));
                envoy.answer_with(callout.token, Vec::new(), Vec::new());
            }
        }
    }
    assert!((25..=50).contains(&founding), "{founding}: at last every 4 to 8 of the 200 seconds");
}
