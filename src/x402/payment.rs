//! A payment as the client sends it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::requirement::Accepted;
use super::{Requirement, VERSION};
use crate::evm::eip3009::Authorization;
use crate::json::{self, JsonError};

/// A payment of version 2: `PAYMENT-SIGNATURE`, decoded.
///
/// Known fields are typed, so a field that stands twice or has another type is refused: two parsers might read
/// it differently. For the same reason the facilitator is never sent the client's text, but what was read in it.
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
    /// What the client says it pays for. Not signed, and not relied on.
    #[serde(borrow)]
    pub resource: Option<&'a RawValue>,
    /// The client's part in extensions of the protocol.
    #[serde(borrow)]
    pub extensions: Option<&'a RawValue>,
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
        #[serde(deny_unknown_fields)]
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

    /// The payment as JSON for a facilitator: what was read and checked, in the one way to write it, under the terms
    /// that were offered. Resource and extensions, which the filter does not read, go along as they came.
    pub fn to_wire(&self, received: &PaymentPayload<'_>, accepted: &Requirement) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            x402_version: u64,
            payload: Payload,
            #[serde(skip_serializing_if = "Option::is_none")]
            resource: Option<&'a RawValue>,
            accepted: &'a Requirement,
            #[serde(skip_serializing_if = "Option::is_none")]
            extensions: Option<&'a RawValue>,
        }
        #[derive(Serialize)]
        struct Payload {
            authorization: Authorization,
            signature: String,
        }
        let signature = format!("0x{}", hex::encode(&self.signature));
        json::to_text(&Wire {
            x402_version: VERSION,
            payload: Payload { authorization: self.authorization, signature },
            resource: received.resource,
            accepted,
            extensions: received.extensions,
        })
    }
}

fn below_payload(error: JsonError) -> JsonError {
    let path = if error.path == "." { "payload".to_owned() } else { format!("payload.{}", error.path) };
    JsonError { path, ..error }
}
