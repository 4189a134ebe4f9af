//! Fixed inputs through the core, natively, so that instructions can be counted: `profile CASE TIMES`.
//!
//! What is prepared is the same for every number of times, so that the difference of two runs is what the times cost.
//! `profile payments` writes the payments themselves, a line each, for whoever drives the module by other means.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use serde_json::json;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::exchange::{Context, Effects, Event, Exchange, RequestHead, Seen, Stream, UpstreamHead};
use x402_proxy_wasm::facilitator::{CalloutAnswer, Supported};
use x402_proxy_wasm::ledger::{Owner, Store, StoreFailed, Written};
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm_bench_tools::{Failure, Kind, Payer, Quote};

/// The clock of all inputs.
const NOW: u64 = 1_790_000_000;

/// More than any number of times that is asked for.
const PAYMENTS: u64 = 128;

/// Payments that the ledger remembers in the case of a full one: 40 a page, of 64.
const REMEMBERED: usize = 40;

#[derive(Default)]
struct Memory(BTreeMap<u32, (Vec<u8>, u64)>);

impl Store for Memory {
    type Version = u64;

    fn read(&mut self, page: u32) -> Result<Option<(Vec<u8>, u64)>, StoreFailed> {
        Ok(self.0.get(&page).cloned())
    }

    fn write(&mut self, page: u32, value: &[u8], _: Option<u64>) -> Result<Written, StoreFailed> {
        let version = self.0.get(&page).map_or(0, |(_, version)| version + 1);
        self.0.insert(page, (value.to_vec(), version));
        Ok(Written::Done)
    }
}

struct Stage {
    config: Config,
    supported: Supported,
    store: Memory,
}

fn config_text() -> String {
    json!({
        "facilitator": {"cluster": "facilitator", "url": "http://127.0.0.1:4021", "verify": "local"},
        "defaults": {
            "pay_to": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
            "accepts": [{"scheme": "exact", "network": "base-sepolia", "asset": "USDC"}],
        },
        "routes": [{
            "name": "weather", "match": {"methods": ["GET"], "path": "/weather"}, "price": "$0.001",
            "description": "Weather data", "mime_type": "application/json",
        }],
    })
    .to_string()
}

fn head(path: &str, payment: Option<&str>) -> Arc<RequestHead> {
    let pairs = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "127.0.0.1:10000"),
        (":path", path),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "00000000-0000-4000-8000-000000000000"),
    ];
    let all = pairs.into_iter().chain(payment.map(|payment| ("payment-signature", payment)));
    Arc::new(RequestHead::new(all.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))))
}

impl Stage {
    fn context(&self) -> Context<'_> {
        Context {
            config: &self.config,
            now: UnixTime::from_secs(NOW),
            supported: std::slice::from_ref(&self.supported),
            failing: 0,
            draw: 1,
            secret: [0; 32],
        }
    }

    /// Plays a request to its end: facilitator and upstream say yes. The status that the client sees.
    fn play(&mut self, head: &Arc<RequestHead>, owner: u64) -> u16 {
        let (mut exchange, mut effects) = Exchange::start(self.context(), head, Seen::Never);
        loop {
            let Effects { ledger, call, stream, .. } = black_box(effects);
            let event = if let Some((key, operation)) = ledger {
                let now = UnixTime::from_secs(NOW);
                Event::Ledger(self.config.ledger.perform(&mut self.store, key, Owner(owner), operation, now))
            } else if let Some(call) = call {
                Event::Callout(answer(call.kind.path()))
            } else {
                match stream {
                    Stream::Reply(reply) => return reply.status,
                    Stream::Forward(_) if exchange.is_over() => return 200,
                    Stream::Forward(_) => Event::Upstream(upstream()),
                    _ => return 200,
                }
            };
            (exchange, effects) = exchange.step(self.context(), event);
        }
    }
}

fn answer(path: &str) -> CalloutAnswer {
    let body = match path {
        "/verify" => r#"{"isValid":true}"#.to_owned(),
        _ => format!(r#"{{"success":true,"transaction":"0x{}","network":"eip155:84532"}}"#, "5b".repeat(32)),
    };
    CalloutAnswer::Answered { status: 200, body: body.into_bytes() }
}

fn upstream() -> UpstreamHead {
    UpstreamHead {
        status: 200,
        cache_control: None,
        grpc_failed: false,
        cors: Vec::new(),
        has_body: true,
        is_event_stream: false,
        is_encoded: false,
        settlement_overrides: None,
    }
}

fn quote() -> Result<Quote, Failure> {
    Ok(serde_json::from_value(json!({
        "accepts": [{
            "scheme": "exact", "network": "eip155:84532", "amount": "1000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
            "maxTimeoutSeconds": 300, "extra": {"name": "USDC", "version": "2"},
        }],
        "resource": {"url": "http://127.0.0.1:10000/weather", "description": "Weather data", "mimeType": "application/json"},
    }))?)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let payer = Payer::with_seed(&quote()?, 0, NOW, [7; 32])?;
    let (case, times) = match arguments.as_slice() {
        ["payments", kind, count] => {
            for number in 0..count.parse()? {
                let kind = match *kind {
                    "forged" => Kind::Forged,
                    "misdirected" => Kind::Misdirected,
                    _ => Kind::Honest,
                };
                println!("{}", payer.payment(number, kind)?);
            }
            return Ok(());
        }
        [case, times] => (*case, times.parse::<usize>()?),
        _ => return Err("profile CASE TIMES | profile payments KIND COUNT".into()),
    };
    let (kind, path, expected) = match case {
        "free" => (None, "/free", 200),
        "unpaid" => (None, "/weather", 402),
        "misdirected" => (Some(Kind::Misdirected), "/weather", 402),
        "forged" => (Some(Kind::Forged), "/weather", 402),
        "paid" | "paid-full" => (Some(Kind::Honest), "/weather", 200),
        other => return Err(format!("no such case: {other}").into()),
    };
    let heads: Vec<_> = (0..PAYMENTS)
        .map(|number| Ok(head(path, kind.map(|kind| payer.payment(number, kind)).transpose()?.as_deref())))
        .collect::<Result<_, Failure>>()?;
    let config = Config::from_json(config_text().as_bytes()).map_err(|error| error.to_string())?;
    let mut stage = Stage { config, supported: Supported::default(), store: Memory::default() };
    if case == "paid-full" {
        // A page with one claim, as many times over, with other keys: what a page looks like after that many payments.
        let mut other = Stage { store: Memory::default(), ..stage };
        other.play(&heads[0], 0);
        let claim = other.store.0.values().next().map(|(bytes, _)| bytes.clone()).unwrap_or_default();
        let copies = (0..REMEMBERED).flat_map(|number| {
            let mut copy = claim.clone();
            copy[31] = copy[31].wrapping_add(number as u8 + 1);
            copy
        });
        let page: Vec<u8> = copies.collect();
        let pages = (0..4096).map(|number| (number, (page.clone(), 0)));
        stage = Stage { store: Memory(pages.collect()), ..other };
    }
    for (number, head) in heads.iter().take(times).enumerate() {
        let status = stage.play(black_box(head), number as u64);
        if status != expected {
            return Err(format!("{case}: {status}").into());
        }
    }
    Ok(())
}
