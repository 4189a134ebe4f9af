//! Signatures over secp256k1 where implementations of the curve go wrong, judged a second time by k256.

use k256::ecdsa::{self, RecoveryId, VerifyingKey};
use k256::elliptic_curve::ops::Reduce;
use k256::elliptic_curve::point::AffineCoordinates;
use k256::{ProjectivePoint, Scalar, U256};
use x402_proxy_wasm::evm::signature::{Signature, SignatureError};
use x402_proxy_wasm::evm::{Address, keccak256};

/// Numbers at which something changes: around zero, the group's order and its half, the field's order `p` and what lies between the two,
/// and the least `x` that is known of a point (that of half the generator).
const EDGES: [&str; 19] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000001",
    "0000000000000000000000000000000000000000000000000000000000000002",
    "0000000000000000000000003b78ce563f89a0ed9414f5aa28ad0d96d6795f9c",
    "00000000000000000000003b78ce563f89a0ed9414f5aa28ad0d96d6795f9c63",
    "000000000000000000000000000000014551231950b75fc4402da1722fc9baed",
    "000000000000000000000000000000014551231950b75fc4402da1722fc9baee",
    "000000000000000000000000000000014551231950b75fc4402da1722fc9baef",
    "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b209f",
    "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0",
    "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a1",
    "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140",
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364142",
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2e",
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f",
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc30",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

/// Takes a case from bytes (the first four choose its kind), and has the filter and k256 judge it; whether they found a signer. Panics where
/// they differ.
pub fn check(input: &[u8]) -> bool {
    let (bytes, digest) = case(input);
    let (found, expected) = (recover(&bytes, &digest), by_k256(&bytes, &digest));
    assert_eq!(found, expected, "{} of {}", hex::encode(&bytes), hex::encode(digest));
    if let Ok(signer) = found {
        let signature = Signature::from_bytes(&bytes).unwrap();
        assert!(signature.is_by(&digest, signer));
        assert!(!signature.is_by(&digest, Address::from_bytes([1; 20])));
    }
    found.is_ok()
}

/// What the filter says.
pub fn recover(bytes: &[u8], digest: &[u8; 32]) -> Result<Address, SignatureError> {
    Signature::from_bytes(bytes)?.recover(digest)
}

/// What k256 says, with the rules of Ethereum's tokens put before it.
pub fn by_k256(bytes: &[u8], digest: &[u8; 32]) -> Result<Address, SignatureError> {
    let [rs @ .., v] = bytes else { return Err(SignatureError::Length) };
    if bytes.len() != 65 {
        return Err(SignatureError::Length);
    }
    let parity = match v {
        27 => RecoveryId::new(false, false),
        28 => RecoveryId::new(true, false),
        _ => return Err(SignatureError::RecoveryId),
    };
    let rs = ecdsa::Signature::from_slice(rs).map_err(|_| SignatureError::Scalar)?;
    if rs.normalize_s() != rs {
        return Err(SignatureError::HighS);
    }
    let key = VerifyingKey::recover_from_prehash(digest, &rs, parity).map_err(|_| SignatureError::Unrecoverable)?;
    Ok(Address::from_bytes(*keccak256(&key.to_sec1_point(false).as_bytes()[1..]).last_chunk().unwrap()))
}

/// Numbers without a pattern, the same for the same input.
struct Draws<'a> {
    input: &'a [u8],
    count: u8,
}

impl Draws<'_> {
    fn next(&mut self) -> [u8; 32] {
        self.count += 1;
        keccak256(&[self.input, &[self.count]].concat())
    }

    fn edge(&mut self) -> [u8; 32] {
        let edge = EDGES[usize::from(self.next()[0]) % EDGES.len()];
        hex::decode(edge).unwrap().try_into().unwrap()
    }

    fn scalar(&mut self) -> Scalar {
        let [first, ..] = self.next();
        match first {
            // Small multiples of the generator have signatures that meet it again on the way.
            0..64 => Scalar::from(u32::from(first) + 1),
            64..96 => -Scalar::from(u32::from(first)),
            _ => scalar(&self.next()),
        }
    }
}

fn scalar(bytes: &[u8; 32]) -> Scalar {
    <Scalar as Reduce<U256>>::reduce(&U256::from_be_slice(bytes))
}

/// A signature and a digest.
fn case(input: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let mut draws = Draws { input, count: 0 };
    let kind = |at: usize| input.get(at).copied().unwrap_or(0);
    let digest = if kind(0) % 3 == 0 { draws.edge() } else { draws.next() };
    let (z, nonce) = (scalar(&digest), draws.scalar());
    let point = (ProjectivePoint::GENERATOR * nonce).to_affine();
    let mut is_odd = bool::from(point.y_is_odd());
    let x: [u8; 32] = point.x().into();
    let mut r = match kind(1) % 8 {
        0 => draws.edge(),
        1 => draws.next(),
        _ => x,
    };
    let by_nonce = |number: Scalar| number * nonce.invert().unwrap_or(Scalar::ONE);
    let reduced = scalar(&r);
    let mut s: [u8; 32] = match kind(2) % 8 {
        0 => draws.edge(),
        1 => draws.next(),
        // The key is the point at infinity, its parts are equal, or it is the generator or its negative.
        2 => by_nonce(z).to_bytes().into(),
        3 => by_nonce(-z).to_bytes().into(),
        4 => by_nonce(z + reduced).to_bytes().into(),
        5 => by_nonce(z - reduced).to_bytes().into(),
        // As it is signed.
        _ => by_nonce(z + reduced * draws.scalar()).to_bytes().into(),
    };
    let kind = kind(3);
    // Most have the lower s; those that do not are refused, whatever else they are.
    let negated: [u8; 32] = (-scalar(&s)).to_bytes().into();
    if kind % 8 != 0 && s > negated && negated != [0; 32] {
        s = negated;
        is_odd = !is_odd;
    }
    if kind % 16 == 1 {
        is_odd = !is_odd;
    }
    let mut v = 27 + u8::from(is_odd);
    if kind % 64 == 2 {
        v = draws.next()[0];
    }
    if kind % 64 == 3 {
        std::mem::swap(&mut r, &mut s);
    }
    let mut bytes = [&r[..], &s, &[v]].concat();
    if kind % 128 == 4 {
        bytes.truncate(64);
    }
    (bytes, digest)
}
