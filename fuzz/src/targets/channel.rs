//! Channels: what clients send, which is written as it was read, whoever reads it; and whole lives of a channel's record, in which
//! the books are kept.
//!
//! An input is the JSON of a payload, or the bytes that a life is played from.

use serde_json::value::RawValue;
use x402_proxy_wasm::channel::payload::Payload;

use super::payment::check_written;
use crate::common::lives;
use crate::json::Json;

pub(super) fn payload(input: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<&RawValue>(input) else { return };
    let Ok(payload) = Payload::from_payload(raw) else { return };
    let json = Json::parse(input).expect("what is taken is JSON");
    let written = serde_json::to_string(&payload).expect("JSON");
    check_written(&Json::parse(written.as_bytes()).expect("what is written is JSON"), &json);
    let again = Payload::from_payload(serde_json::from_str(&written).expect("JSON"));
    assert_eq!(again.as_ref().ok(), Some(&payload), "it is read again, and is the same");
    assert!(written.len() <= input.len() + 512, "nothing grows without bound");
}

pub(super) fn life(input: &[u8]) {
    lives::play(input);
}
