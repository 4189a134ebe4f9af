//! Keys that the filter signs with.

use k256::ecdsa::{SigningKey, VerifyingKey};

use super::Address;
use super::recovery::{self, Coordinates};
use super::signature::{Signature, address_of};

/// A key to sign with, and its account. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey {
    key: SigningKey,
    address: Address,
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey(of {})", self.address)
    }
}

impl SecretKey {
    /// The key of 32 bytes; `None` for zero and what is not below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = SigningKey::from_slice(bytes).ok()?;
        let address = address_of(&coordinates_of(key.verifying_key())?)?;
        Some(Self { key, address })
    }

    /// The account whose key it is.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The signature of `digest`: `r ‖ s ‖ v`, the same each time (RFC 6979), with `s` in the lower half.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; Signature::LENGTH] {
        let (rs, recovery_id) = self.key.sign_prehash_recoverable(digest);
        let mut bytes = [0; Signature::LENGTH];
        for (to, from) in
            bytes.iter_mut().zip(rs.to_bytes().into_iter().chain([recovery_id.to_byte().saturating_add(27)]))
        {
            *to = from;
        }
        bytes
    }
}

fn coordinates_of(key: &VerifyingKey) -> Option<Coordinates> {
    recovery::without_tag(key.to_sec1_point(false).as_bytes())
}
