//! ECDSA signatures over secp256k1, with the rules of Ethereum's tokens.

use super::recovery::{self, Coordinates};
use super::{Address, keccak256};

/// The order of the group, big-endian.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba, 0xae, 0xdc,
    0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// Half of [`ORDER`], rounded down: the largest `s` that is low.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5d, 0x57, 0x6e,
    0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// A signature of 65 bytes (`r ‖ s ‖ v`) in the one form that tokens accept: `s` in the lower half of the
/// group's order (EIP-2), `v` 27 or 28.
#[derive(Debug, Clone, Copy)]
pub struct Signature {
    rs: [u8; 64],
    /// The parity of the `y` of the point whose `x` is `r`.
    y_is_odd: bool,
}

/// The reason why bytes are not a signature that a token would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 65 bytes.
    #[error("the signature is not 65 bytes long")]
    Length,
    /// `v` is neither 27 nor 28.
    #[error("the signature's v is neither 27 nor 28")]
    RecoveryId,
    /// `r` or `s` is zero or not below the group's order.
    #[error("the signature's r or s is out of range")]
    Scalar,
    /// `s` lies in the upper half of the order.
    #[error("the signature's s is in the upper half of the order (EIP-2)")]
    HighS,
    /// No public key gives this signature for this digest.
    #[error("no signer can be recovered from the signature")]
    Unrecoverable,
}

impl Signature {
    /// Length of a signature in bytes.
    pub const LENGTH: usize = 65;

    /// Takes `r ‖ s ‖ v` apart.
    ///
    /// # Errors
    /// Every form that a token's `ecrecover` wrapper reverts on; see [`SignatureError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let (rs, v) = match bytes.split_last_chunk::<1>() {
            Some((rs, [v])) if bytes.len() == Self::LENGTH => (rs, *v),
            _ => return Err(SignatureError::Length),
        };
        let y_is_odd = match v {
            27 => false,
            28 => true,
            _ => return Err(SignatureError::RecoveryId),
        };
        let (Some(rs), Some((r, s))) = (rs.first_chunk(), rs.split_at_checked(32)) else {
            return Err(SignatureError::Length);
        };
        let is_scalar = |number: &[u8]| number < ORDER.as_slice() && number.iter().any(|byte| *byte != 0);
        if !is_scalar(r) || !is_scalar(s) {
            return Err(SignatureError::Scalar);
        }
        // Recovery itself takes a high s without complaint.
        if s > HALF_ORDER.as_slice() {
            return Err(SignatureError::HighS);
        }
        Ok(Self { rs: *rs, y_is_odd })
    }

    /// The same for a signature of a text by [`personal_digest`], where some wallets write `v` as 0 or 1.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn from_personal_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        match bytes.split_last() {
            Some((v @ 0..=1, rs)) => Self::from_bytes(&[rs, &[v.saturating_add(27)]].concat()),
            _ => Self::from_bytes(bytes),
        }
    }

    /// The account whose key signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError::Unrecoverable`].
    pub fn recover(&self, digest: &[u8; 32]) -> Result<Address, SignatureError> {
        let key = recovery::recover(&self.rs, self.y_is_odd, digest).ok_or(SignatureError::Unrecoverable)?;
        address_of(&key).ok_or(SignatureError::Unrecoverable)
    }

    /// Returns whether the key of `address` signed `digest`, as [`Self::recover`] says.
    ///
    /// A key that is known saves a tenth of the time, for a verification needs no square root; but it would not tell a wrong `v`, by which
    /// the contract recovers another signer.
    pub fn is_by(&self, digest: &[u8; 32], address: Address) -> bool {
        self.recover(digest) == Ok(address)
    }
}

pub(super) fn address_of(key: &Coordinates) -> Option<Address> {
    keccak256(key).last_chunk::<20>().copied().map(Address::from_bytes)
}

/// The digest of a text that a wallet signs as such (EIP-191, version `E`).
pub fn personal_digest(text: &str) -> [u8; 32] {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256(&[prefix.as_bytes(), text.as_bytes()].concat())
}
