//! Signatures and what is signed. A token takes one form of each signature, and so does the filter.
//!
//! An input is a byte for what follows: the bytes of a signature and how to change it, or the JSON of an authorization.

use arbitrary::Unstructured;
use x402_proxy_wasm::evm::eip3009::Authorization;
use x402_proxy_wasm::evm::erc6492::{MAGIC, Wrapper};
use x402_proxy_wasm::evm::keccak256;
use x402_proxy_wasm::evm::permit2::Permit;
use x402_proxy_wasm::evm::signature::Signature;

use crate::common::Wallet;
use crate::json::Json;

pub(super) fn run(input: &[u8]) {
    match input.split_first() {
        Some((0..0x55, rest)) => check_bytes(rest),
        Some((0x55..0xaa, rest)) => drop(check_signed(&mut Unstructured::new(rest))),
        Some((_, rest)) => check_authorization(rest),
        None => {}
    }
}

/// The order of the group of secp256k1.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba, 0xae, 0xdc,
    0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// `ORDER - number`, for numbers below it.
fn negated(number: &[u8; 32]) -> [u8; 32] {
    let mut borrow = 0;
    let mut negated = [0; 32];
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(number[at]) - borrow;
        borrow = i16::from(difference < 0);
        negated[at] = u8::try_from(difference.rem_euclid(256)).unwrap_or(0);
    }
    negated
}

/// Whether a token takes bytes for a signature at all.
fn is_well_formed(bytes: &[u8]) -> bool {
    let Some((r, rest)) = bytes.split_first_chunk::<32>() else { return false };
    let Some((s, rest)) = rest.split_first_chunk::<32>() else { return false };
    let is_scalar = |number: &[u8; 32]| *number != [0; 32] && *number < ORDER;
    is_scalar(r) && is_scalar(s) && *s <= negated(s) && matches!(rest, [27 | 28])
}

fn check_bytes(bytes: &[u8]) {
    check_wrapped(bytes);
    let signature = Signature::from_bytes(bytes);
    assert_eq!(signature.is_ok(), is_well_formed(bytes), "a signature has one form");
    let Ok(signature) = signature else { return };
    let digest = keccak256(bytes);
    let signer = signature.recover(&digest);
    assert_eq!(signer, Signature::from_bytes(bytes).and_then(|again| again.recover(&digest)), "and one signer");
    let mirrored = mirrored(bytes);
    assert!(Signature::from_bytes(&mirrored).is_err(), "its mirror image is none");
}

/// Bytes that end with the magic are a wrapper wherever its two parts lie within them.
fn check_wrapped(bytes: &[u8]) {
    let wrapped = [bytes, &MAGIC].concat();
    // Random offsets lead nowhere, so the head is made of small ones too.
    let near = |at: usize| bytes.get(at).map_or([0; 32], |byte| big_endian(&byte.to_string()));
    let pointing = [&near(0)[..], &near(1), &near(2), bytes, &near(3), bytes, &MAGIC].concat();
    for signature in [wrapped, pointing] {
        let part = |head| {
            let offset = small(&signature, head)?;
            let length = small(&signature, offset)?;
            (offset + 32 + length <= signature.len()).then(|| &signature[offset + 32..][..length])
        };
        let expected = part(32).zip(part(64));
        let found = Wrapper::parse(&signature);
        assert_eq!(found.map(|wrapper| (wrapper.calldata, wrapper.signature)), expected, "two parts, or no wrapper");
        assert_eq!(Wrapper::parse(&signature[..signature.len() - 1]), None, "and none without the magic");
    }
}

/// The number of the word at an offset, if it is smaller than any that leads out of what is fuzzed.
fn small(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(32)?)?;
    let number = word
        .iter()
        .try_fold(0_usize, |number, byte| Some(number * 256 + usize::from(*byte)).filter(|n| *n < 1 << 20))?;
    Some(number)
}

/// The other signature of the same key for the same digest: `-s`, and the other `v`.
fn mirrored(bytes: &[u8]) -> Vec<u8> {
    let s = bytes.get(32..64).and_then(|s| s.first_chunk()).expect("a signature is long enough");
    [&bytes[..32], &negated(s)[..], &[27 + 28 - bytes[64]]].concat()
}

/// Signs, changes something, and recovers.
fn check_signed(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let Some(wallet) = Wallet::from_secret(input.arbitrary()?) else { return Ok(()) };
    let digest: [u8; 32] = input.arbitrary()?;
    let bytes = wallet.sign(&digest);
    let recover = |bytes: &[u8], digest: &[u8; 32]| Signature::from_bytes(bytes)?.recover(digest);
    assert_eq!(recover(&bytes, &digest), Ok(wallet.address()), "who signs is who is found");
    assert!(recover(&mirrored(&bytes), &digest).is_err(), "the mirror image is refused");
    let (at, mask) = (input.choose_index(65 + 32)?, input.int_in_range(1..=255_u8)?);
    let (mut changed, mut other) = (bytes, digest);
    match changed.get_mut(at) {
        Some(byte) => *byte ^= mask,
        None => other[at - 65] ^= mask,
    }
    assert_ne!(recover(&changed, &other), Ok(wallet.address()), "a change shows");
    Ok(())
}

/// What is signed is what is written, word by word.
fn check_authorization(text: &[u8]) {
    let domain = keccak256(text);
    let digest = |hash: [u8; 32]| keccak256(&[&[0x19, 0x01], &domain[..], &hash].concat());
    if let Ok(authorization) = serde_json::from_slice::<Authorization>(text) {
        let json = read_again(&authorization);
        let fields = ["from", "to", "value", "validAfter", "validBefore", "nonce"];
        let name = "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
        assert_eq!(authorization.digest(&domain), digest(hash(name, &fields.map(|field| word(&json, field)))));
    }
    if let Ok(permit) = serde_json::from_slice::<Permit>(text) {
        let json = read_again(&permit);
        let (permitted, witness) = (json.get("permitted").expect("a token"), json.get("witness").expect("a witness"));
        let permitted_type = "TokenPermissions(address token,uint256 amount)";
        let permitted = hash(permitted_type, &["token", "amount"].map(|field| word(permitted, field)));
        let (witness_type, witness) = if witness.get("facilitator").is_some() {
            let name = "Witness(address to,address facilitator,uint256 validAfter)";
            (name, hash(name, &["to", "facilitator", "validAfter"].map(|field| word(witness, field))))
        } else {
            let name = "Witness(address to,uint256 validAfter)";
            (name, hash(name, &["to", "validAfter"].map(|field| word(witness, field))))
        };
        let name = format!(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness){permitted_type}{witness_type}"
        );
        let [spender, nonce, deadline] = ["spender", "nonce", "deadline"].map(|field| word(&json, field));
        assert_eq!(permit.digest(&domain), digest(hash(&name, &[permitted, spender, nonce, deadline, witness])));
        assert_eq!(permit.nonce().as_bytes(), &nonce, "the ledger knows the nonce that is signed");
    }
}

/// What was read, written and read again.
fn read_again<T: PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> Json {
    let text = serde_json::to_vec(value).expect("JSON");
    assert_eq!(serde_json::from_slice::<T>(&text).as_ref().ok(), Some(value), "it is read again");
    Json::parse(&text).expect("JSON")
}

/// A field as a word of 32 bytes.
fn word(json: &Json, field: &str) -> [u8; 32] {
    let text = json.text(field).expect("every field is a text");
    match text.strip_prefix("0x") {
        Some(digits) => *hex::decode(format!("{digits:0>64}")).expect("digits").first_chunk().expect("32 bytes"),
        None => big_endian(text),
    }
}

/// `hashStruct` of EIP-712.
fn hash(name: &str, words: &[[u8; 32]]) -> [u8; 32] {
    keccak256(&[&[keccak256(name.as_bytes())], words].concat().concat())
}

/// A decimal number in 32 bytes, multiplied out digit by digit.
fn big_endian(digits: &str) -> [u8; 32] {
    let mut number = [0_u8; 32];
    for digit in digits.bytes() {
        let mut carry = u16::from(digit - b'0');
        for byte in number.iter_mut().rev() {
            let sum = u16::from(*byte) * 10 + carry;
            let [high, low] = sum.to_be_bytes();
            (*byte, carry) = (low, u16::from(high));
        }
        assert_eq!(carry, 0, "a number fits into 256 bits");
    }
    number
}
