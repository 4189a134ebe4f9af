//! The shell, natively: whole requests through a scripted fake of Envoy.
#![cfg(feature = "proxy")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a test that fails may panic"
)]
#![allow(dead_code, reason = "of what the tests share, each file uses a part")]

mod bodies;
mod callouts;
mod channels;
#[path = "../core/common/mod.rs"]
mod common;
mod fake_envoy;
#[cfg(feature = "etcd")]
mod fake_etcd;
mod faults;
mod first_sight;
mod fleet;
mod keeping;
mod leaving;
mod purchase;
mod refusals;
mod roots;
#[cfg(feature = "etcd")]
mod store;
