//! Recovery of the key that made a signature over secp256k1: all that the filter believes of who signed goes through here.
//!
//! Bitcoin Core's libsecp256k1 does it, which Ethereum's nodes use as well; k256 in builds without the feature `libsecp256k1`.

#[cfg(feature = "libsecp256k1")]
pub(super) use by_libsecp256k1::recover;

#[cfg(not(feature = "libsecp256k1"))]
pub(super) use by_k256::recover;

/// A point of the curve: `x ‖ y`, big-endian.
pub(super) type Coordinates = [u8; 64];

/// The coordinates of a point in SEC 1's uncompressed form, which has a tag of one byte before them.
pub(super) fn without_tag(point: &[u8]) -> Option<Coordinates> {
    point.split_first().and_then(|(_tag, coordinates)| coordinates.try_into().ok())
}

#[cfg(feature = "libsecp256k1")]
#[allow(unsafe_code, reason = "calls into C")]
mod by_libsecp256k1 {
    use secp256k1_sys::recovery::{
        RecoverableSignature, secp256k1_ecdsa_recover, secp256k1_ecdsa_recoverable_signature_parse_compact,
    };
    use secp256k1_sys::{
        PublicKey, SECP256K1_SER_UNCOMPRESSED, secp256k1_context_static, secp256k1_ec_pubkey_serialize,
    };

    use super::{Coordinates, without_tag};

    /// The public key that made the signature `r ‖ s` of a digest with a point whose `x` is `r` and whose `y` is odd or even; `None`
    /// where there is none. Whether `s` is low is not asked.
    pub fn recover(rs: &[u8; 64], y_is_odd: bool, digest: &[u8; 32]) -> Option<Coordinates> {
        let key = recover_key(&parse(rs, y_is_odd)?, digest)?;
        without_tag(&serialize(&key)?)
    }

    fn parse(rs: &[u8; 64], y_is_odd: bool) -> Option<RecoverableSignature> {
        let mut signature = RecoverableSignature::new();
        // SAFETY: The library's own context, which nobody writes to; 64 bytes to read and a signature to write, each alive until it returns.
        let is_parsed = unsafe {
            secp256k1_ecdsa_recoverable_signature_parse_compact(
                secp256k1_context_static,
                &raw mut signature,
                rs.as_ptr(),
                i32::from(y_is_odd),
            )
        };
        (is_parsed == 1).then_some(signature)
    }

    fn recover_key(signature: &RecoverableSignature, digest: &[u8; 32]) -> Option<PublicKey> {
        // SAFETY: The library writes the key before anybody reads it.
        let mut key = unsafe { PublicKey::new() };
        // SAFETY: The library's own context; a signature that it has parsed and 32 bytes to read, and a key to write.
        let is_found = unsafe {
            secp256k1_ecdsa_recover(secp256k1_context_static, &raw mut key, &raw const *signature, digest.as_ptr())
        };
        (is_found == 1).then_some(key)
    }

    fn serialize(key: &PublicKey) -> Option<[u8; 65]> {
        let mut point = [0; 65];
        let mut length = point.len();
        // SAFETY: The library's own context; a key that it has recovered to read, and as many bytes to write as `length` says.
        let is_written = unsafe {
            secp256k1_ec_pubkey_serialize(
                secp256k1_context_static,
                point.as_mut_ptr(),
                &raw mut length,
                &raw const *key,
                SECP256K1_SER_UNCOMPRESSED,
            )
        };
        (is_written == 1 && length == point.len()).then_some(point)
    }
}

#[cfg(not(feature = "libsecp256k1"))]
mod by_k256 {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};

    use super::{Coordinates, without_tag};

    /// The public key that made the signature `r ‖ s` of a digest with a point whose `x` is `r` and whose `y` is odd or even; `None`
    /// where there is none. Whether `s` is low is not asked.
    pub fn recover(rs: &[u8; 64], y_is_odd: bool, digest: &[u8; 32]) -> Option<Coordinates> {
        let signature = Signature::from_slice(rs).ok()?;
        let key = VerifyingKey::recover_from_prehash(digest, &signature, RecoveryId::new(y_is_odd, false)).ok()?;
        without_tag(key.to_sec1_point(false).as_bytes())
    }
}
