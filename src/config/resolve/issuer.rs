//! The signer of offers and receipts.

use super::{Result, refuse};
use crate::config::raw;
use crate::config::secret::Environment;
use crate::evm::signature::SecretKey;
use crate::x402::offer_receipt::Issuer;

/// Resolves the signer of offers and receipts.
pub(super) fn issuer(raw: &raw::OfferReceipt, environment: Environment<'_>) -> Result<Issuer> {
    let mut secret = [0; 32];
    let key = raw.key.reveal("offer_receipt.key", environment)?;
    let digits = key.strip_prefix("0x").unwrap_or_default();
    let key = hex::decode_to_slice(digits, &mut secret).ok().and_then(|()| SecretKey::from_bytes(&secret));
    match key {
        Some(key) => Ok(Issuer::new(key, raw.offers.unwrap_or(true), raw.transaction)),
        // The message does not show what may be a key but for a digit.
        None => refuse("offer_receipt.key", "is not the key of an account: 0x and 64 hexadecimal digits"),
    }
}
