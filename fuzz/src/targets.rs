//! The targets: what is read, and what must hold of it whatever the bytes.
//!
//! Each compares the filter with something written another way: a naive reader, arithmetic on digits, a model. Where the
//! two differ, one of them is wrong.

mod chain;
mod channel;
pub(crate) mod config;
mod exchange;
mod facilitator;
mod inference;
mod ledger;
mod pairs;
mod payment;
mod purchases;
mod recovery;
mod route;
mod sight;
mod sign_in;
mod signature;
mod texts;

/// Something to be fuzzed.
#[derive(Debug)]
pub struct Target {
    /// Its name, and that of its directory in `corpus/`.
    pub name: &'static str,
    /// What it is about.
    pub what: &'static str,
    /// Takes an input. Panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Bytes that an input has at most.
    pub max_length: usize,
    /// Mutations in one round of a bounded run: about a second's worth.
    pub mutations: u64,
}

/// All of them.
pub const ALL: &[Target] = &[
    Target {
        name: "config",
        what: "configurations, as JSON and as protobuf",
        run: config::run,
        max_length: 4096,
        mutations: 4_000,
    },
    Target { name: "route", what: "paths, hosts and methods", run: route::run, max_length: 160, mutations: 4_000 },
    Target {
        name: "sight",
        what: "heads of requests, at first sight and kept",
        run: sight::run,
        max_length: 512,
        mutations: 20_000,
    },
    Target { name: "payment", what: "payment headers", run: payment::run, max_length: 4096, mutations: 20_000 },
    Target {
        name: "facilitator",
        what: "answers of facilitators",
        run: facilitator::run,
        max_length: 1024,
        mutations: 50_000,
    },
    Target { name: "chain", what: "answers of nodes", run: chain::run, max_length: 4096, mutations: 20_000 },
    Target {
        name: "channel_payload",
        what: "what clients of channels send",
        run: channel::payload,
        max_length: 2048,
        mutations: 20_000,
    },
    Target {
        name: "channel_life",
        what: "lives of a channel's record",
        run: channel::life,
        max_length: 1024,
        mutations: 10_000,
    },
    Target {
        name: "inference",
        what: "bodies that are priced by the token, and streams",
        run: inference::run,
        max_length: 1024,
        mutations: 20_000,
    },
    Target {
        name: "signature",
        what: "signatures and authorizations",
        run: signature::run,
        max_length: 1024,
        mutations: 4_000,
    },
    Target {
        name: "recovery",
        what: "who signed, by two implementations of the curve",
        run: recovery::run,
        max_length: 36,
        mutations: 8_000,
    },
    Target { name: "sign_in", what: "sign-ins", run: sign_in::run, max_length: 1024, mutations: 4_000 },
    Target { name: "texts", what: "numbers, hex, ids, patterns", run: texts::run, max_length: 256, mutations: 50_000 },
    Target {
        name: "ledger",
        what: "claims, by rights and from garbled pages",
        run: ledger::run,
        max_length: 512,
        mutations: 10_000,
    },
    Target { name: "pairs", what: "the host's lists of headers", run: pairs::run, max_length: 512, mutations: 50_000 },
    Target {
        name: "exchange",
        what: "whole requests, in any order of events",
        run: exchange::run,
        max_length: 512,
        mutations: 1_500,
    },
    Target {
        name: "purchases",
        what: "whole requests out of a channel, in any order of events",
        run: purchases::run,
        max_length: 512,
        mutations: 1_500,
    },
];
