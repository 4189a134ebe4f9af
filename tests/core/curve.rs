//! Who signed, found by the filter and by k256: the two agree on every signature, wherever it was found.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use x402_proxy_wasm::evm::secret_key::SecretKey;
use x402_proxy_wasm::evm::signature::{Signature, SignatureError};

use crate::common::curve::{by_k256, check, recover};

#[test]
fn two_implementations_of_the_curve_agree() {
    let cases: usize = if cfg!(target_arch = "wasm32") { 1_000 } else { 4_000 };
    let numbers = (0..u32::MAX).take(cases);
    let found = numbers.filter(|number| check(&x402_proxy_wasm::evm::keccak256(&number.to_be_bytes()))).count();
    let (least, most) = (cases / 3, cases * 9 / 10);
    assert!((least..most).contains(&found), "{found} of {cases} have a signer");
}

/// Every pair of kinds of a case, so that none is left to chance.
#[test]
fn two_implementations_of_the_curve_agree_on_every_kind_of_case() {
    for digest in 0..3 {
        for (r, s) in (0..8).flat_map(|r| (0..8).map(move |s| (r, s))) {
            for last in [0, 1, 2, 3, 4, 5, 6, 7, 17, 66, 67, 132] {
                check(&[digest, r, s, last]);
            }
        }
    }
}

#[test]
fn either_parity_finds_the_key_that_signed_and_no_other() {
    for number in 1..=40 {
        let key = SecretKey::from_bytes(&[number; 32]).unwrap();
        for digest in [[0; 32], [number; 32], [0xff; 32]] {
            let bytes = key.sign(&digest);
            assert_eq!(recover(&bytes, &digest), Ok(key.address()));
            let mut flipped = bytes;
            flipped[64] = 55 - flipped[64];
            assert_eq!(recover(&flipped, &digest), by_k256(&flipped, &digest));
            assert!(!Signature::from_bytes(&flipped).unwrap().is_by(&digest, key.address()));
            let mut wrong = bytes;
            wrong[usize::from(number)] ^= 1;
            assert_eq!(recover(&wrong, &digest), by_k256(&wrong, &digest));
            assert_ne!(recover(&wrong, &digest), Ok(key.address()));
            assert_ne!(recover(&bytes, &[number + 1; 32]), Ok(key.address()));
        }
    }
}

/// The key would be the point at infinity: `s·R = z·G`, with `R = G`, so that `s = z`.
#[test]
fn a_key_at_infinity_is_none() {
    let generator = hex::decode("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").unwrap();
    let mut digest = [0; 32];
    digest[31] = 7;
    let bytes = [&generator[..], &digest, &[27]].concat();
    assert_eq!(recover(&bytes, &digest), Err(SignatureError::Unrecoverable));
    assert_eq!(by_k256(&bytes, &digest), Err(SignatureError::Unrecoverable));
    let odd = [&generator[..], &digest, &[28]].concat();
    assert!(recover(&odd, &digest).is_ok());
    assert_eq!(recover(&odd, &digest), by_k256(&odd, &digest));
}
