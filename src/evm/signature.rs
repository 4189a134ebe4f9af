//! ECDSA signatures over secp256k1, with the rules of Ethereum's tokens.

use k256::ecdsa::{self, RecoveryId, SigningKey, VerifyingKey};

use super::{Address, keccak256};

/// A signature of 65 bytes (`r ‖ s ‖ v`) in the one form that tokens accept: `s` in the lower half of the
/// group's order (EIP-2), `v` 27 or 28.
#[derive(Debug, Clone, Copy)]
pub struct Signature {
    rs: ecdsa::Signature,
    recovery_id: RecoveryId,
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
        let recovery_id = match v {
            27 => RecoveryId::new(false, false),
            28 => RecoveryId::new(true, false),
            _ => return Err(SignatureError::RecoveryId),
        };
        let rs = ecdsa::Signature::from_slice(rs).map_err(|_| SignatureError::Scalar)?;
        // Recovery itself takes a high s without complaint.
        if rs.normalize_s() != rs {
            return Err(SignatureError::HighS);
        }
        Ok(Self { rs, recovery_id })
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
        let key = VerifyingKey::recover_from_prehash(digest, &self.rs, self.recovery_id)
            .map_err(|_| SignatureError::Unrecoverable)?;
        address_of(&key).ok_or(SignatureError::Unrecoverable)
    }
}

fn address_of(key: &VerifyingKey) -> Option<Address> {
    let point = key.to_sec1_point(false);
    let [_tag, coordinates @ ..] = point.as_bytes() else { return None };
    keccak256(coordinates).last_chunk::<20>().copied().map(Address::from_bytes)
}

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
        let address = address_of(key.verifying_key())?;
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

/// The digest of a text that a wallet signs as such (EIP-191, version `E`).
pub fn personal_digest(text: &str) -> [u8; 32] {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256(&[prefix.as_bytes(), text.as_bytes()].concat())
}
