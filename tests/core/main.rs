//! Tests of the pure core, natively and in wasm32 with the arithmetic that is chosen there:
//!
//! `cargo test --test core`, and
//! `cargo test --target wasm32-unknown-unknown --no-default-features --features libsecp256k1,solana,cdp,channels,bundles,optimistic --test core`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a test that fails may panic"
)]
#![allow(dead_code, reason = "of what the tests share, wasm uses a part")]

#[cfg(not(target_arch = "wasm32"))]
mod bundle_rules;
mod bundles;
mod chain;
mod channel_stories;
mod channels;
mod common;
mod curve;
#[cfg(not(target_arch = "wasm32"))]
mod dynamodb;
mod exchange;
mod extensions;
mod facilitators;
mod foreign;
#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::print_stdout, reason = "it shows its table")]
mod herd;
mod keeping;
#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::as_conversions, clippy::print_stdout, reason = "it tells how far it went")]
mod model;
#[cfg(target_arch = "wasm32")]
mod numbers;
mod optimistic;
mod policies;
#[cfg(not(target_arch = "wasm32"))]
mod properties;
#[cfg(not(target_arch = "wasm32"))]
mod remote;
#[cfg(not(target_arch = "wasm32"))]
mod secrets;
mod shadow;
mod sight;
mod sign_in;
mod svm;
mod tokens;
mod vectors;
mod versions;
