//! What becomes of payment channels.

use std::sync::Arc;

use super::Principal;
use crate::evm::keccak256;
use crate::evm::secret_key::SecretKey;
use crate::ledger::Channels as Records;
use crate::money::Dollars;

/// The rules for payment channels (scheme `batch-settlement`), whatever route they are used on.
#[derive(Debug)]
pub struct Channels {
    /// The key that authorizes claims and refunds; `None` where the facilitator does.
    pub authorizer: Option<SecretKey>,
    /// A channel is claimed once so much is unclaimed.
    pub claim_above: Dollars,
    /// A channel is claimed so many seconds after its first unclaimed voucher.
    pub claim_every: u64,
    /// Seconds without a request after which what a channel holds is given back; `None` for never.
    pub refund_idle: Option<u64>,
    /// Where channels are remembered.
    pub records: Records,
    /// How an operator has everything claimed at once; `None` where nobody can.
    pub flush: Option<Flush>,
}

/// The request by which everything is claimed at once, and who may send it.
#[derive(Debug)]
pub struct Flush {
    /// The path, without a query.
    pub path: String,
    /// Names in the certificates of callers who may.
    pub principals: Arc<[Principal]>,
    /// The hash of the secret by which others may.
    pub secret_hash: Option<[u8; 32]>,
}

impl Flush {
    /// The hash of a secret.
    pub fn hash(secret: &[u8]) -> [u8; 32] {
        keccak256(secret)
    }

    /// Returns whether a caller may who has these names, or sends this `authorization`.
    pub fn admits<'a>(&self, mut names: impl Iterator<Item = &'a str>, authorization: Option<&[u8]>) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let is_named = names.any(|name| self.principals.iter().any(|principal| principal.covers(name)));
        let secret = authorization.and_then(|value| {
            let (scheme, secret) = value.split_at_checked(SCHEME.len())?;
            scheme.eq_ignore_ascii_case(SCHEME).then(|| secret.trim_ascii())
        });
        // Hashes are compared, and all of them: the time that it takes tells nothing of the secret.
        let is_secret = self.secret_hash.zip(secret).is_some_and(|(hash, secret)| {
            Self::hash(secret).iter().zip(hash).fold(0, |differences, (one, other)| differences | (one ^ other)) == 0
        });
        is_named || is_secret
    }
}
