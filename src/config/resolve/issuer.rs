//! The signer of offers and receipts.

use super::{Result, refuse, require};
use crate::config::raw;
use crate::config::secret::{Environment, Secret};
use crate::evm::secret_key::SecretKey;
use crate::x402::offer_receipt::Issuer;

/// Resolves the signer of offers and receipts.
pub(super) fn issuer(raw: &raw::OfferReceipt, environment: Environment<'_>) -> Result<Issuer> {
    require("offer_receipt", "signing", cfg!(feature = "signing"))?;
    let key = secret_key("offer_receipt.key", &raw.key, environment)?;
    Ok(Issuer::new(key, raw.offers.unwrap_or(true), raw.transaction))
}

/// Resolves the key of an account that stands at `path`.
pub(super) fn secret_key(path: &str, key: &Secret, environment: Environment<'_>) -> Result<SecretKey> {
    let mut secret = [0; 32];
    let text = key.reveal(path, environment)?;
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let key = hex::decode_to_slice(digits, &mut secret).ok().and_then(|()| SecretKey::from_bytes(&secret));
    // The message does not show what may be a key but for a digit.
    key.map_or_else(|| refuse(path, "is not the key of an account: 0x and 64 hexadecimal digits"), Ok)
}
