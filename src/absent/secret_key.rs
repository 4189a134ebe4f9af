//! The place of keys that the filter signs with in a build without the feature `signing`: a key of which there is none.

use crate::evm::Address;
use crate::evm::signature::Signature;

/// A key to sign with, of which this build has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretKey {}

impl SecretKey {
    /// Reads a key of 32 bytes: always `None`.
    pub const fn from_bytes(_bytes: &[u8; 32]) -> Option<Self> {
        None
    }

    /// Returns the account whose key it is.
    pub const fn address(&self) -> Address {
        match *self {}
    }

    /// Returns the signature of a digest.
    pub const fn sign(&self, _digest: &[u8; 32]) -> [u8; Signature::LENGTH] {
        match *self {}
    }
}
