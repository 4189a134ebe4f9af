//! The shell: translates between the host's callbacks and the exchange, and decides nothing about money.
//!
//! [`Contexts`] takes the callbacks, [`Host`] the calls; all between them is the same natively and in wasm. The exported
//! functions (`abi`) and the imported ones (`wasm_host`) are there in wasm alone.

#[cfg(target_arch = "wasm32")]
mod abi;
mod answers;
mod asking;
mod callouts;
mod contexts;
mod driver;
mod edits;
mod entry;
mod fleet;
mod heads;
mod health;
pub mod host;
mod http;
mod keeper;
pub mod pairs;
mod properties;
mod reports;
mod root;
mod shared;
mod stats;
mod store;
mod tokens;
#[cfg(target_arch = "wasm32")]
mod wasm_host;
mod words;

pub use contexts::Contexts;
pub use host::Host;
