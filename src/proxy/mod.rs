//! The shell: translates between the host's callbacks and the exchange, and decides nothing about money.

mod abi;
mod answers;
mod host;
mod http;
mod pairs;
mod root;
mod stats;
mod store;
