//! A payment as the client sends it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::VERSION;
use super::requirement::Accepted;
use crate::evm::eip3009::Authorization;
use crate::json::{self, JsonError};

/// A payment of version 2: `PAYMENT-SIGNATURE`, decoded.
///
/// Known fields are typed, so a field that stands twice or has another type is refused: two parsers might read
/// it differently. Unknown ones (`resource`, `extensions`) are the facilitator's and pass through unread.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentPayload<'a> {
    #[serde(deserialize_with = "json::whole_number")]
    x402_version: u64,
    /// The entry that the client chose.
    #[serde(deserialize_with = "json::object")]
    pub accepted: Accepted,
    /// What the chosen scheme wants signed.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

/// Why bytes are not a payment.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    /// Not JSON of the right shape; names the field.
    #[error("{0}")]
    Shape(#[from] JsonError),
    /// Not version 2.
    #[error("x402Version is {0}, and only version 2 is read from this header")]
    Version(u64),
    /// The signature is not `0x` and hexadecimal digits.
    #[error("payload.signature: is not 0x and an even number of hexadecimal digits")]
    Signature,
}

impl<'a> PaymentPayload<'a> {
    /// Reads a payment from the JSON of the header.
    ///
    /// # Errors
    /// [`PaymentError::Shape`] or [`PaymentError::Version`].
    pub fn from_json(json: &'a [u8]) -> Result<Self, PaymentError> {
        let payment: Self = json::from_slice(json)?;
        if payment.x402_version == VERSION { Ok(payment) } else { Err(PaymentError::Version(payment.x402_version)) }
    }
}

/// The payload of scheme `exact` by EIP-3009.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactEip3009 {
    /// What the payer signed.
    pub authorization: Authorization,
    /// The signature, of any length: contract wallets sign in ways of their own.
    pub signature: Vec<u8>,
}

impl ExactEip3009 {
    /// Reads the payload of a payment.
    ///
    /// # Errors
    /// [`PaymentError::Shape`] or [`PaymentError::Signature`].
    pub fn from_payload(payload: &RawValue) -> Result<Self, PaymentError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(deserialize_with = "json::object")]
            authorization: Authorization,
            signature: std::borrow::Cow<'a, str>,
        }
        let wire: Wire<'_> = json::from_slice(payload.get().as_bytes()).map_err(below_payload)?;
        let digits = wire.signature.strip_prefix("0x").ok_or(PaymentError::Signature)?;
        let signature = hex::decode(digits).map_err(|_| PaymentError::Signature)?;
        Ok(Self { authorization: wire.authorization, signature })
    }
}

fn below_payload(error: JsonError) -> JsonError {
    let path = if error.path == "." { "payload".to_owned() } else { format!("payload.{}", error.path) };
    JsonError { path, ..error }
}
