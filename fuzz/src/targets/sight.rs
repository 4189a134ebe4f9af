//! Heads of requests. What is decided about one at first sight, in the host's own list, is what the exchange decides of what is
//! kept of it.
//!
//! An input is a byte that chooses the configuration, one that tells whether a body follows, and lines: a name, `=`, a value.

use std::cell::RefCell;

use x402_proxy_wasm::exchange::{Head, RequestHead};

use crate::common::Stage;
use crate::common::heads::stages;

thread_local! {
    /// To read a configuration takes longer than to look at a head.
    static STAGES: RefCell<Vec<Stage>> = RefCell::new(stages());
}

pub(super) fn run(input: &[u8]) {
    let Some(([choice, has_body], lines)) = input.split_first_chunk::<2>() else { return };
    let split = |line: &'_ [u8]| {
        let end = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        (line[..end].to_vec(), line.get(end + 1..).unwrap_or_default().to_vec())
    };
    let list: Vec<(Vec<u8>, Vec<u8>)> = lines.split(|byte| *byte == b'\n').map(split).collect();
    let views: Vec<(&[u8], &[u8])> = list.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let (seen, kept) = (Head::read(&views), RequestHead::new(list.iter().map(|(name, value)| (name, value))));
    assert_eq!(seen, kept, "what is kept is what was seen");
    STAGES.with_borrow_mut(|stages| {
        let choice = usize::from(*choice) % stages.len();
        // Compares the two ways.
        let _ = stages[choice].arrive(&kept.with_body(has_body % 2 == 1));
    });
}
