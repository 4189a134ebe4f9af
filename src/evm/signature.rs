//! ECDSA signatures over secp256k1, with the rules of Ethereum's tokens.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use k256::ecdsa::{self, RecoveryId, SigningKey, VerifyingKey};
use k256::elliptic_curve::ops::{Invert, MulByGeneratorVartime, Reduce};
use k256::elliptic_curve::point::AffineCoordinates;
use k256::{ProjectivePoint, Scalar, U256};

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
        let key = self.recover_key(digest).ok_or(SignatureError::Unrecoverable)?;
        address_of(&key).ok_or(SignatureError::Unrecoverable)
    }

    /// Returns whether the key of `address` signed `digest`: as [`Self::recover`] says, in less time for a signer that is
    /// remembered ([`remember_signer`]).
    pub fn is_by(&self, digest: &[u8; 32], address: Address) -> bool {
        SIGNERS.with(|signers| {
            let Ok(mut signers) = signers.try_borrow_mut() else { return self.recover(digest) == Ok(address) };
            if let Some(key) = signers.keys.get(&address) {
                return self.is_by_key(digest, key);
            }
            let Some(key) = self.recover_key(digest).filter(|key| address_of(key) == Some(address)) else {
                return false;
            };
            signers.last = Some((address, key));
            true
        })
    }

    fn recover_key(&self, digest: &[u8; 32]) -> Option<VerifyingKey> {
        VerifyingKey::recover_from_prehash(digest, &self.rs, self.recovery_id).ok()
    }

    /// Verifies the signature by the point that it was made with, whose `y` has to be of the parity that `v` says: the contract recovers
    /// another signer where only that is wrong, and a verification as such would not tell.
    #[allow(clippy::arithmetic_side_effects, reason = "scalars of the group are closed under multiplication")]
    fn is_by_key(&self, digest: &[u8; 32], key: &VerifyingKey) -> bool {
        let (r, s) = self.rs.split_scalars();
        let inverse = *s.invert_vartime();
        let by_generator = <Scalar as Reduce<U256>>::reduce(&U256::from_be_slice(digest)) * inverse;
        let by_key = *r * inverse;
        let key = ProjectivePoint::from(*key.as_affine());
        let point = ProjectivePoint::mul_by_generator_and_mul_add_vartime(&by_generator, &by_key, &key).to_affine();
        point.x() == self.rs.split_bytes().0 && bool::from(point.y_is_odd()) == self.recovery_id.is_y_odd()
    }
}

thread_local! {
    static SIGNERS: RefCell<Signers> = const { RefCell::new(Signers { keys: BTreeMap::new(), order: VecDeque::new(), last: None }) };
}

/// The keys of signers that come again and again.
struct Signers {
    keys: BTreeMap<Address, VerifyingKey>,
    /// The addresses of `keys`, the oldest first.
    order: VecDeque<Address>,
    /// The last one that was recovered.
    last: Option<(Address, VerifyingKey)>,
}

/// Keys that are remembered at most.
const MOST_SIGNERS: usize = 4096;

/// Remembers the key of a signer that [`Signature::is_by`] has just recovered; the oldest of 4096 gives way. For signers who have paid:
/// anybody has a signature.
pub fn remember_signer(address: Address) {
    SIGNERS.with(|signers| {
        let Ok(mut signers) = signers.try_borrow_mut() else { return };
        let Some((_, key)) = signers.last.take_if(|(known, _)| *known == address) else { return };
        if signers.keys.len() >= MOST_SIGNERS
            && let Some(oldest) = signers.order.pop_front()
        {
            signers.keys.remove(&oldest);
        }
        if signers.keys.insert(address, key).is_none() {
            signers.order.push_back(address);
        }
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn a_signer_that_is_remembered_is_judged_as_one_that_is_not() {
        let (one, other) = (key(1), key(2));
        let mut known = Vec::new();
        for is_known in [false, true] {
            let mut judged = Vec::new();
            for number in 0..40 {
                let digest = keccak256(&[number]);
                let bytes = one.sign(&digest);
                let mut flipped = bytes;
                flipped[64] = 55 - flipped[64];
                let mut wrong = bytes;
                wrong[usize::from(number)] ^= 1;
                for (bytes, digest, signer) in [
                    (bytes, digest, one.address()),
                    (bytes, digest, other.address()),
                    (flipped, digest, one.address()),
                    (wrong, digest, one.address()),
                    (bytes, keccak256(b"other"), one.address()),
                    (other.sign(&digest), digest, one.address()),
                ] {
                    let Ok(signature) = Signature::from_bytes(&bytes) else { continue };
                    let is_by = signature.is_by(&digest, signer);
                    assert_eq!(is_by, signature.recover(&digest) == Ok(signer));
                    judged.push(is_by);
                }
            }
            known.push(judged);
            let digest = [7; 32];
            assert!(Signature::from_bytes(&one.sign(&digest)).unwrap().is_by(&digest, one.address()));
            remember_signer(one.address());
            SIGNERS.with(|signers| assert!(signers.borrow().keys.contains_key(&one.address()), "{is_known}"));
        }
        assert_eq!(known[0], known[1]);
    }

    #[test]
    fn no_more_signers_are_remembered_than_there_is_room_for() {
        let point = *key(3).key.verifying_key();
        for number in 0..MOST_SIGNERS + 10 {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            let address = Address::from_bytes(bytes);
            SIGNERS.with(|signers| signers.borrow_mut().last = Some((address, point)));
            remember_signer(Address::from_bytes([9; 20]));
            remember_signer(address);
        }
        SIGNERS.with(|signers| {
            let signers = signers.borrow();
            assert_eq!((signers.keys.len(), signers.order.len()), (MOST_SIGNERS, MOST_SIGNERS));
            assert!(!signers.keys.contains_key(&Address::from_bytes([0; 20])));
        });
    }
}
