//! Fuzz targets of x402-proxy-wasm: every reader of bytes from outside, and whole exchanges in any order of events.
//!
//! A target is a function of bytes that panics where a property does not hold ([`targets`]). What it is fed is the
//! runner's business: the binary `fuzz` mutates the corpus by a seed, the same inputs on every machine, and needs nothing
//! but Rust; the binary `guided` lets coverage choose (LLVM's libFuzzer).

#[allow(dead_code, missing_docs, clippy::as_conversions, reason = "of what the tests share, this uses a part")]
#[path = "../../tests/core/common/mod.rs"]
mod common;
pub mod json;
pub mod mutate;
pub mod seeds;
pub mod targets;

/// Stack of a thread that runs targets: that of a main thread, which some targets, nested as their input, are used to.
pub const STACK_BYTES: usize = 64 * 1024 * 1024;
