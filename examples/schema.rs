//! Prints the JSON Schema of the plugin's configuration: `make schema`.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

fn main() {
    print!("{}", x402_proxy_wasm::config::schema::schema());
}
