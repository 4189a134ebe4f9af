//! A payment as the client sends it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::requirement::{Accepted, TransferMethod};
use super::{Requirement, Version};
use crate::evm::eip712::Word;
use crate::evm::eip3009::{Authorization, Timestamp};
use crate::evm::permit2::Permit;
use crate::evm::{Address, Nonce};
use crate::json::{self, JsonError};
use crate::money::Amount;

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
    /// Not the version that goes with the header.
    #[error("x402Version is {0}, and this header carries version {version}", version = .1.number())]
    Version(u64, Version),
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
        check_version(payment.x402_version, Version::V2).map(|()| payment)
    }
}

/// A payment of version 1: `X-PAYMENT`, decoded. It names no entry, only its scheme and network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentPayloadV1<'a> {
    #[serde(deserialize_with = "json::whole_number")]
    x402_version: u64,
    /// `exact`.
    pub scheme: String,
    /// The network's name, such as `base-sepolia`.
    pub network: String,
    /// What the scheme wants signed.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

impl<'a> PaymentPayloadV1<'a> {
    /// Reads a payment from the JSON of the header.
    ///
    /// # Errors
    /// [`PaymentError::Shape`] or [`PaymentError::Version`].
    pub fn from_json(json: &'a [u8]) -> Result<Self, PaymentError> {
        let payment: Self = json::from_slice(json)?;
        check_version(payment.x402_version, Version::V1).map(|()| payment)
    }
}

fn check_version(said: u64, version: Version) -> Result<(), PaymentError> {
    if said == version.number() { Ok(()) } else { Err(PaymentError::Version(said, version)) }
}

/// What a payer signed, with the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub authorization: Authorized,
    /// The signature, of any length: contract wallets sign in ways of their own.
    pub signature: Vec<u8>,
}

/// The two things that a payer may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorized {
    /// A transfer by the token itself (EIP-3009).
    Eip3009(Authorization),
    /// A transfer by Permit2.
    Permit2(Permit),
}

impl Authorized {
    /// Who pays.
    pub const fn payer(&self) -> Address {
        match self {
            Self::Eip3009(authorization) => authorization.from,
            Self::Permit2(permit) => permit.from,
        }
    }

    /// Who is paid.
    pub const fn recipient(&self) -> Address {
        match self {
            Self::Eip3009(authorization) => authorization.to,
            Self::Permit2(permit) => permit.witness.to,
        }
    }

    /// Atomic units.
    pub const fn value(&self) -> Amount {
        match self {
            Self::Eip3009(authorization) => authorization.value,
            Self::Permit2(permit) => permit.permitted.amount,
        }
    }

    /// The payer's choice that makes the payment one of its kind.
    pub fn nonce(&self) -> Nonce {
        match self {
            Self::Eip3009(authorization) => authorization.nonce,
            Self::Permit2(permit) => permit.nonce(),
        }
    }

    /// Until this time it can be settled.
    pub const fn valid_before(&self) -> Timestamp {
        match self {
            Self::Eip3009(authorization) => authorization.valid_before,
            Self::Permit2(permit) => permit.deadline,
        }
    }

    /// After this time it can be settled.
    pub const fn valid_after(&self) -> Timestamp {
        match self {
            Self::Eip3009(authorization) => authorization.valid_after,
            Self::Permit2(permit) => permit.witness.valid_after,
        }
    }

    /// The digest that the payer signs.
    pub fn digest(&self, domain_separator: &Word) -> Word {
        match self {
            Self::Eip3009(authorization) => authorization.digest(domain_separator),
            Self::Permit2(permit) => permit.digest(domain_separator),
        }
    }
}

impl Signed {
    /// Reads the payload of a payment that moves the money by `method`.
    ///
    /// # Errors
    /// [`PaymentError::Shape`] or [`PaymentError::Signature`].
    pub fn from_payload(payload: &RawValue, method: TransferMethod) -> Result<Self, PaymentError> {
        let payload = payload.get().as_bytes();
        let (authorization, signature) = match method {
            TransferMethod::Eip3009 => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Wire<'a> {
                    #[serde(deserialize_with = "json::object")]
                    authorization: Authorization,
                    signature: Cow<'a, str>,
                }
                let wire: Wire<'_> = json::from_slice(payload).map_err(below_payload)?;
                (Authorized::Eip3009(wire.authorization), wire.signature)
            }
            TransferMethod::Permit2 => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase", deny_unknown_fields)]
                struct Wire<'a> {
                    #[serde(deserialize_with = "json::object")]
                    permit2_authorization: Permit,
                    signature: Cow<'a, str>,
                }
                let wire: Wire<'_> = json::from_slice(payload).map_err(below_payload)?;
                (Authorized::Permit2(wire.permit2_authorization), wire.signature)
            }
        };
        let digits = signature.strip_prefix("0x").ok_or(PaymentError::Signature)?;
        let signature = hex::decode(digits).map_err(|_| PaymentError::Signature)?;
        Ok(Self { authorization, signature })
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
        json::to_text(&Wire {
            x402_version: Version::V2.number(),
            payload: self.payload(),
            resource: received.resource,
            accepted,
            extensions: received.extensions,
        })
    }

    /// The same in version 1, which names the network in its own way.
    pub fn to_wire_v1(&self, scheme: &str, network: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            x402_version: u64,
            scheme: &'a str,
            network: &'a str,
            payload: Payload,
        }
        json::to_text(&Wire { x402_version: Version::V1.number(), scheme, network, payload: self.payload() })
    }

    fn payload(&self) -> Payload {
        let (authorization, permit2_authorization) = match self.authorization {
            Authorized::Eip3009(authorization) => (Some(authorization), None),
            Authorized::Permit2(permit) => (None, Some(permit)),
        };
        let signature = format!("0x{}", hex::encode(&self.signature));
        Payload { authorization, permit2_authorization, signature }
    }
}

/// `payload`, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<Authorization>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permit2_authorization: Option<Permit>,
    signature: String,
}

fn below_payload(error: JsonError) -> JsonError {
    let path = if error.path == "." { "payload".to_owned() } else { format!("payload.{}", error.path) };
    JsonError { path, ..error }
}
