//! libFuzzer, over the target that `FUZZ_TARGET` names. Built and started by `fuzz long`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer's own entry points")]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use x402_proxy_wasm_fuzz::targets::{self, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    targets::ALL
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("FUZZ_TARGET={name}: no such target"))
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
