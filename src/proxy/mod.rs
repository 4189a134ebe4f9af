//! The shell: translates between the host's callbacks and the exchange, and decides nothing about money.

#![allow(missing_docs, reason = "the SDK's macro makes a public function")]

mod host;
mod http;
mod pairs;
mod root;
mod store;

use proxy_wasm::traits::RootContext;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::<root::Root>::default() });
}}
