//! A payment as the client sends it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::requirement::{Accepted, TransferMethod};
use super::{Requirement, Version};
use crate::evm::eip712::Word;
use crate::evm::eip3009::{Authorization, Timestamp};
use crate::evm::permit2::Permit;
use crate::evm::{Address, Nonce, keccak256};
use crate::json::{self, JsonError, Open};
use crate::money::Amount;
use crate::svm;

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
    #[serde(borrow, deserialize_with = "json::object")]
    pub accepted: Accepted<'a>,
    /// The payload that the scheme wants signed.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// The resource that the client says it pays for. Not signed, and not relied on.
    #[serde(borrow)]
    pub resource: Option<&'a RawValue>,
    /// The client's part in extensions of the protocol.
    #[serde(borrow)]
    pub extensions: Option<&'a RawValue>,
}

/// An error in bytes that are not a payment.
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
    /// The signature of a channel's voucher is not 65 bytes long.
    #[error("{}", super::reason::VOUCHER_SIGNATURE)]
    VoucherSignature,
}

impl<'a> PaymentPayload<'a> {
    /// Reads a payment from the JSON of the header.
    ///
    /// # Errors
    /// [`PaymentError::Shape`] or [`PaymentError::Version`].
    pub fn from_json(json: &'a [u8]) -> Result<Self, PaymentError> {
        let mut payment: Self = json::from_slice(json)?;
        check_version(payment.x402_version, Version::V2)?;
        payment.accepted.read_extra().map_err(|error| below("accepted.extra", error))?;
        Ok(payment)
    }
}

impl PaymentPayload<'_> {
    /// The payment as JSON for a facilitator, with `payload` in place of the client's. Resource and extensions, which
    /// the filter does not read, go along as they came.
    pub fn to_wire(&self, payload: &impl Serialize, accepted: &Requirement) -> String {
        to_wire(self.resource, payload, accepted, self.extensions)
    }

    /// What is needed to write the payment for a facilitator later, which of most vouchers nobody has to.
    pub fn companions(&self) -> Companions {
        let text = |raw: Option<&RawValue>| raw.map(|raw| raw.get().into());
        Companions { resource: text(self.resource), extensions: text(self.extensions) }
    }
}

/// The parts of a payment that the filter does not read, and facilitators get as they came: JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Companions {
    resource: Option<Box<str>>,
    extensions: Option<Box<str>>,
}

impl Companions {
    /// The payment as JSON for a facilitator, as [`PaymentPayload::to_wire`].
    pub fn to_wire(&self, payload: &impl Serialize, accepted: &Requirement) -> String {
        let raw = |text: &Option<Box<str>>| serde_json::from_str::<Box<RawValue>>(text.as_deref()?).ok();
        let (resource, extensions) = (raw(&self.resource), raw(&self.extensions));
        to_wire(resource.as_deref(), payload, accepted, extensions.as_deref())
    }
}

fn to_wire(
    resource: Option<&RawValue>,
    payload: &impl Serialize,
    accepted: &Requirement,
    extensions: Option<&RawValue>,
) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a, P> {
        x402_version: u64,
        payload: &'a P,
        #[serde(skip_serializing_if = "Option::is_none")]
        resource: Option<&'a RawValue>,
        accepted: &'a Requirement,
        #[serde(skip_serializing_if = "Option::is_none")]
        extensions: Option<&'a RawValue>,
    }
    json::to_text(&Wire { x402_version: Version::V2.number(), payload, resource, accepted, extensions })
}

/// A payment on a [`Rail::Foreign`].
///
/// [`Rail::Foreign`]: super::requirement::Rail::Foreign
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForeignPayload {
    /// Of Solana's `exact`.
    Svm(svm::Transaction),
    /// Anything: the payload as canonical JSON ([`json::canonical`]).
    Opaque(String),
}

impl ForeignPayload {
    /// Reads the payload of a payment, which is a transaction of Solana if `is_svm`.
    ///
    /// # Errors
    /// [`PaymentError::Shape`].
    pub fn from_payload(payload: &RawValue, is_svm: bool) -> Result<Self, PaymentError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            transaction: Cow<'a, str>,
        }
        if !is_svm {
            return Ok(Self::Opaque(json::canonical(payload).map_err(|error| below("payload", error))?));
        }
        let Open(wire): Open<Wire<'_>> =
            json::from_slice(payload.get().as_bytes()).map_err(|error| below("payload", error))?;
        svm::Transaction::decode(&wire.transaction).map(Self::Svm).map_err(|refusal| {
            let (path, message) = ("payload.transaction".to_owned(), refusal.to_string());
            PaymentError::Shape(JsonError { path, message })
        })
    }

    /// Returns the text that the payment is known by: every way of writing the same payment gives the same. Where the filter
    /// does not know the payload, that holds as far as JSON goes.
    pub fn digest(&self) -> Word {
        match self {
            Self::Svm(transaction) => *transaction.message_hash().as_bytes(),
            Self::Opaque(json) => keccak256(json.as_bytes()),
        }
    }

    /// The payment as JSON for a facilitator, as [`Signed::to_wire`].
    pub fn to_wire(&self, received: &PaymentPayload<'_>, accepted: &Requirement) -> String {
        #[derive(Serialize)]
        struct Wire {
            transaction: String,
        }
        match self {
            Self::Svm(transaction) => received.to_wire(&Wire { transaction: transaction.encode() }, accepted),
            Self::Opaque(json) => {
                let payload = serde_json::from_str::<&RawValue>(json).unwrap_or(RawValue::NULL);
                received.to_wire(&payload, accepted)
            }
        }
    }
}

/// The payer, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Payer {
    /// An account of Ethereum's family.
    Evm(Address),
    /// An account of another network, as it is written there.
    Foreign(String),
    /// Only the facilitator knows.
    Unknown,
}

impl Payer {
    /// Returns whether an answer that names this payer may be about the payment.
    pub fn may_be(&self, named: &str) -> bool {
        match self {
            Self::Evm(address) => address.is_written(named),
            Self::Foreign(account) => account == named,
            Self::Unknown => true,
        }
    }
}

/// Empty where it is not known.
impl fmt::Display for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evm(address) => fmt::Display::fmt(address, f),
            Self::Foreign(account) => f.write_str(account),
            Self::Unknown => Ok(()),
        }
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
    /// The payload that the scheme wants signed.
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

/// Returns the version that a payment says it has: 1 where that is what it says, else 2, whose reader refuses what is neither.
pub fn said_version(json: &[u8]) -> Version {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        #[serde(deserialize_with = "json::whole_number")]
        x402_version: u64,
    }
    let is_v1 = json::from_slice::<Said>(json).is_ok_and(|said| said.x402_version == Version::V1.number());
    if is_v1 { Version::V1 } else { Version::V2 }
}

fn check_version(said: u64, version: Version) -> Result<(), PaymentError> {
    if said == version.number() { Ok(()) } else { Err(PaymentError::Version(said, version)) }
}

/// A message that a payer signed, with the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The message.
    pub authorization: Authorized,
    /// The signature, of any length: contract wallets sign in ways of their own.
    pub signature: Vec<u8>,
}

/// The two messages that a payer may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorized {
    /// A transfer by the token itself (EIP-3009).
    Eip3009(Authorization),
    /// A transfer by Permit2.
    Permit2(Permit),
}

impl Authorized {
    /// The payer.
    pub const fn payer(&self) -> Address {
        match self {
            Self::Eip3009(authorization) => authorization.from,
            Self::Permit2(permit) => permit.from,
        }
    }

    /// The recipient.
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

    /// The nonce, which makes the payment one of its kind.
    pub fn nonce(&self) -> Nonce {
        match self {
            Self::Eip3009(authorization) => authorization.nonce,
            Self::Permit2(permit) => permit.nonce(),
        }
    }

    /// The time until which it can be settled.
    pub const fn valid_before(&self) -> Timestamp {
        match self {
            Self::Eip3009(authorization) => authorization.valid_before,
            Self::Permit2(permit) => permit.deadline,
        }
    }

    /// The time after which it can be settled.
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
    /// Reads the payload of a payment that moves the money by `method`. What else it holds is dropped.
    ///
    /// # Errors
    /// [`PaymentError::Shape`] or [`PaymentError::Signature`].
    pub fn from_payload(payload: &RawValue, method: TransferMethod) -> Result<Self, PaymentError> {
        let payload = payload.get().as_bytes();
        let (authorization, signature) = match method {
            TransferMethod::Eip3009 => {
                #[derive(Deserialize)]
                struct Wire<'a> {
                    #[serde(deserialize_with = "json::open_object")]
                    authorization: Authorization,
                    signature: Cow<'a, str>,
                    #[serde(rename = "permit2Authorization", default, deserialize_with = "no_other")]
                    _other: (),
                }
                let Open(wire): Open<Wire<'_>> = json::from_slice(payload).map_err(|error| below("payload", error))?;
                (Authorized::Eip3009(wire.authorization), wire.signature)
            }
            TransferMethod::Permit2 => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Wire<'a> {
                    #[serde(deserialize_with = "json::open_object")]
                    permit2_authorization: Permit,
                    signature: Cow<'a, str>,
                    #[serde(rename = "authorization", default, deserialize_with = "no_other")]
                    _other: (),
                }
                let Open(wire): Open<Wire<'_>> = json::from_slice(payload).map_err(|error| below("payload", error))?;
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
        received.to_wire(&self.payload(), accepted)
    }

    /// The payment as JSON for a facilitator in version 1, which names the network in its own way.
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

/// Refuses what is signed for another way to move the money: a facilitator may go by that.
pub(crate) fn no_other<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    let other = Option::<IgnoredAny>::deserialize(deserializer)?;
    other.map_or(Ok(()), |_| Err(D::Error::custom("a payment holds one authorization")))
}

pub(crate) fn below(parent: &str, error: JsonError) -> JsonError {
    let path = if error.path == "." { parent.to_owned() } else { format!("{parent}.{}", error.path) };
    JsonError { path, ..error }
}
