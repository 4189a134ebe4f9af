//! Lists of headers as the host passes them. Whatever its lengths say, a list holds nothing but what it was given.

use x402_proxy_wasm::proxy::pairs as codec;

pub(super) fn run(input: &[u8]) {
    let Some(pairs) = codec::decode(input) else { return };
    let texts: usize = pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    assert!(4 + pairs.len() * 8 + texts <= input.len(), "nothing is made up");
    let as_text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let all: Option<Vec<_>> = pairs.iter().map(|(name, value)| Some((as_text(name)?, as_text(value)?))).collect();
    let Some(all) = all else { return };
    let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(codec::decode(&codec::encode(&all)), Some(pairs), "what is written is read again");
}
