//! x402 payments in front of any HTTP API, as a proxy-wasm filter.
//!
//! The crate is a pure core and a thin shell. The core decides everything about money and knows neither
//! proxy-wasm nor a clock; the shell ([`proxy`], behind the default feature `proxy`) translates between
//! the host and the core. `ARCHITECTURE.md` is the map.

#[cfg(not(all(feature = "solana", feature = "cdp", feature = "signing")))]
mod absent;
pub mod chain;
pub mod channel;
pub mod config;
pub mod evm;
pub mod exchange;
pub mod facilitator;
pub mod json;
pub mod ledger;
pub mod metadata;
pub mod money;
pub mod networks;
#[cfg(feature = "page")]
pub mod page;
pub mod price;
#[cfg(feature = "proxy")]
pub mod proxy;
mod recent;
pub mod route;
mod scan;
pub mod schedule;
pub mod scheme;
#[cfg(feature = "solana")]
pub mod svm;
#[cfg(not(feature = "solana"))]
pub use absent::svm;
pub mod time;
pub mod x402;
