//! Public keys, signatures over Ed25519, and accounts that are derived from others.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use curve25519_dalek::edwards::CompressedEdwardsY;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// An account of Solana: 32 bytes, either a public key (Ed25519) or an address that no key belongs to.
///
/// Written in base58, without padding or checksum, as everywhere on Solana.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pubkey([u8; 32]);

/// A signature by Ed25519: 64 bytes, written in base58. Also the name of a transaction, whose first signature it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 64]);

/// The reason why a text is not a [`Pubkey`] or a [`Signature`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A character that base58 does not have.
    #[error("is not base58")]
    Base58,
    /// Base58, but of the wrong number of bytes.
    #[error("is not base58 of {0} bytes")]
    Length(usize),
}

impl Pubkey {
    /// The account of 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns whether the bytes are a point of the curve, so that a key may belong to them. Addresses that programs derive are
    /// chosen not to be.
    pub fn is_on_curve(&self) -> bool {
        CompressedEdwardsY(self.0).decompress().is_some()
    }
}

impl Signature {
    /// The signature of 64 bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

/// Returns whether `signature` is that of `signer` over `message`: for transactions, and for signing in with a wallet.
///
/// By the rules of Solana's own check, which are stricter than RFC 8032: `s` below the group's order, and neither the
/// key nor `R` of small order. Whatever an honest wallet signs passes.
pub fn verify_message(signer: &Pubkey, message: &[u8], signature: &Signature) -> bool {
    VerifyingKey::from_bytes(&signer.0)
        .is_ok_and(|key| key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok())
}

/// A program that keeps tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenProgram {
    /// SPL Token; USDC and USDT are kept by it.
    Token,
    /// Token-2022; PYUSD and USDG are.
    Token2022,
}

impl TokenProgram {
    /// The account of the program.
    pub const fn address(self) -> Pubkey {
        match self {
            Self::Token => TOKEN,
            Self::Token2022 => TOKEN_2022,
        }
    }

    /// The program of an account, if it is one of them.
    pub fn from_address(address: &Pubkey) -> Option<Self> {
        [Self::Token, Self::Token2022].into_iter().find(|program| program.address() == *address)
    }
}

/// The account in which `owner` keeps tokens of `mint`, as wallets find it without asking (the *associated token
/// account*): the program of such accounts derives it from the three.
///
/// `None` if no such account can be derived, which has never been seen: 256 hashes would all have to be points of the
/// curve.
pub fn associated_token_account(owner: &Pubkey, mint: &Pubkey, program: TokenProgram) -> Option<Pubkey> {
    let seeds = Sha256::new().chain_update(owner.0).chain_update(program.address().0).chain_update(mint.0);
    (0..=u8::MAX)
        .rev()
        .map(|bump| {
            let hash = seeds.clone().chain_update([bump]).chain_update(ASSOCIATED_TOKEN.0);
            Pubkey(hash.chain_update(b"ProgramDerivedAddress").finalize().into())
        })
        .find(|candidate| !candidate.is_on_curve())
}

/// The account that a text names, when the filter is built.
const fn well_known(base58: &str) -> Pubkey {
    Pubkey(bs58::decode(base58.as_bytes()).into_array_const_unwrap())
}

const TOKEN: Pubkey = well_known("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
const TOKEN_2022: Pubkey = well_known("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
const ASSOCIATED_TOKEN: Pubkey = well_known("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
pub(super) const COMPUTE_BUDGET: Pubkey = well_known("ComputeBudget111111111111111111111111111111");
pub(super) const MEMO: Pubkey = well_known("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");
pub(super) const LIGHTHOUSE: Pubkey = well_known("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95");

impl FromStr for Pubkey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Display for Pubkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl fmt::Debug for Pubkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Pubkey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pubkey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(&self.0, f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    match bs58::decode(text).onto(&mut bytes) {
        Ok(length) if length == N => Ok(bytes),
        Ok(_) | Err(bs58::decode::Error::BufferTooSmall) => Err(KeyError::Length(N)),
        Err(_) => Err(KeyError::Base58),
    }
}

fn write(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    /// Characters of 64 bytes, the most that is ever written.
    const MAX_CHARACTERS: usize = 88;
    let mut text = [0; MAX_CHARACTERS];
    let length = bs58::encode(bytes).onto(&mut text[..]).map_err(|_| fmt::Error)?;
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    f.write_str(text.ok_or(fmt::Error)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_bytes_are_the_same_accounts() {
        assert_eq!(Pubkey([0; 32]).to_string(), "11111111111111111111111111111111");
        assert_eq!(hex::encode(TOKEN.as_bytes()), "06ddf6e1d765a193d9cbe146ceeb79ac1cb485ed5f5b37913a8cf5857eff00a9");
        for bytes in [[0; 32], [0xff; 32], *TOKEN.as_bytes(), std::array::from_fn(|i| u8::try_from(i).unwrap())] {
            assert_eq!(Pubkey(bytes).to_string().parse(), Ok(Pubkey(bytes)));
        }
        let signature = Signature([0xff; 64]);
        assert_eq!(signature.to_string().parse(), Ok(signature));
        assert_eq!(Signature([0; 64]).to_string(), "1".repeat(64));
    }

    #[test]
    fn other_texts_are_no_accounts() {
        for short_or_long in
            ["", "1", "1111111111111111111111111111111", "111111111111111111111111111111111", &"z".repeat(44)]
        {
            assert_eq!(short_or_long.parse::<Pubkey>(), Err(KeyError::Length(32)), "{short_or_long}");
        }
        for wrong in
            ["0x036cbd53842c5426634e7929541ec2318f3dcf7e", "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA ", "é", "l"]
        {
            assert_eq!(wrong.parse::<Pubkey>(), Err(KeyError::Base58), "{wrong}");
        }
    }

    #[test]
    fn no_key_belongs_to_derived_accounts() {
        let account = |program| associated_token_account(&COMPUTE_BUDGET, &MEMO, program).unwrap();
        assert!(!account(TokenProgram::Token).is_on_curve());
        assert_ne!(account(TokenProgram::Token), account(TokenProgram::Token2022));
    }
}
