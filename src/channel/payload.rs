//! What a client sends: `payload` of a payment of the scheme `batch-settlement`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use super::message::{ChannelConfig, ChannelId};
use crate::evm::eip3009::Timestamp;
use crate::evm::permit2::Permitted;
use crate::evm::signature::Signature;
use crate::evm::{Address, Nonce};
use crate::json::{self, JsonError, Open};
use crate::money::{Amount, uint256};
use crate::x402::payment::{PaymentError, below, no_other};

/// A channel, a voucher for it, and what the client wants by it.
///
/// Vouchers of contract wallets (`payerAuthorizer` zero, signatures of any length) are not taken: only the chain can check them, and so
/// each request would wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The channel's configuration.
    pub config: ChannelConfig,
    /// The channel's name, as the client says it.
    pub id: ChannelId,
    /// Atomic units that the receiver may claim in all, by the voucher.
    pub max_claimable: u128,
    /// The voucher's signature.
    pub signature: [u8; Signature::LENGTH],
    /// The client's wish.
    pub kind: Kind,
}

/// The wish of a client that sends a voucher.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one for a request, and it is not moved about")]
pub enum Kind {
    /// To pay for a request.
    Voucher,
    /// To put money into the channel, and pay for a request.
    Deposit(Deposit),
    /// To get money back.
    Refund {
        /// Atomic units; all that is left where it does not say.
        amount: Option<u128>,
    },
}

/// Money that goes into a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deposit {
    /// Atomic units.
    pub amount: u128,
    /// The payer's leave to take them.
    pub authorization: DepositAuthorization,
}

/// The payer's leave to take a deposit, with the signature: of any length, for contract wallets sign in ways of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DepositAuthorization {
    /// By the token itself (EIP-3009). From the payer to the collector, of the deposit's amount, under a nonce that is made of the
    /// channel and the salt.
    Eip3009 {
        /// The token accepts it only after this time.
        valid_after: Timestamp,
        /// The token accepts it only before this time.
        valid_before: Timestamp,
        /// Chosen by the payer.
        salt: [u8; 32],
        /// The payer's signature.
        signature: Vec<u8>,
    },
    /// By Permit2.
    Permit2 {
        /// The payer.
        from: Address,
        /// The token that may be moved.
        token: Address,
        /// Its atomic units.
        amount: Amount,
        /// The contract that may move it.
        spender: Address,
        /// Chosen by the payer; Permit2 accepts each once.
        nonce: Amount,
        /// Permit2 accepts it only until this time.
        deadline: Timestamp,
        /// The channel that the payer signed for.
        witness_channel: ChannelId,
        /// The payer's signature.
        signature: Vec<u8>,
    },
}

/// The payload as it stands in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    channel_config: ChannelConfig,
    #[serde(borrow)]
    voucher: Open<VoucherWire<'a>>,
    #[serde(borrow)]
    deposit: Option<Open<DepositWire<'a>>>,
    #[serde(default, deserialize_with = "optional_uint128")]
    amount: Option<u128>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VoucherWire<'a> {
    channel_id: ChannelId,
    #[serde(deserialize_with = "uint128")]
    max_claimable_amount: u128,
    #[serde(borrow)]
    signature: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct DepositWire<'a> {
    #[serde(deserialize_with = "uint128")]
    amount: u128,
    #[serde(borrow)]
    authorization: Open<AuthorizationWire<'a>>,
}

#[derive(Debug, Deserialize)]
struct AuthorizationWire<'a> {
    #[serde(rename = "erc3009Authorization", borrow)]
    eip3009: Option<Open<Eip3009Wire<'a>>>,
    #[serde(rename = "permit2Authorization", borrow)]
    permit2: Option<Open<Permit2Wire<'a>>>,
    #[serde(rename = "eip3009Authorization", default, deserialize_with = "no_other")]
    _other: (),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Eip3009Wire<'a> {
    valid_after: Timestamp,
    valid_before: Timestamp,
    salt: Nonce,
    #[serde(borrow)]
    signature: Cow<'a, str>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Permit2Wire<'a> {
    from: Address,
    #[serde(deserialize_with = "json::open_object")]
    permitted: Permitted,
    spender: Address,
    #[serde(deserialize_with = "uint256")]
    nonce: Amount,
    deadline: Timestamp,
    #[serde(deserialize_with = "json::open_object")]
    witness: WitnessWire,
    #[serde(borrow)]
    signature: Cow<'a, str>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WitnessWire {
    channel_id: ChannelId,
}

impl Payload {
    /// Reads the payload of a payment. What else it holds is dropped.
    ///
    /// # Errors
    /// [`PaymentError::Shape`], which names the path, or [`PaymentError::VoucherSignature`].
    pub fn from_payload(payload: &RawValue) -> Result<Self, PaymentError> {
        let Open(wire): Open<Wire<'_>> =
            json::from_slice(payload.get().as_bytes()).map_err(|error| below("payload", error))?;
        let Open(voucher) = wire.voucher;
        let signature = read_hex("voucher.signature", &voucher.signature)?;
        let signature = signature.try_into().map_err(|_| PaymentError::VoucherSignature)?;
        let kind = match (&*wire.kind, wire.deposit) {
            ("voucher", _) => Kind::Voucher,
            ("deposit", Some(Open(deposit))) => Kind::Deposit(read_deposit(deposit)?),
            ("deposit", None) => return Err(wrong("deposit", "is missing")),
            ("refund", _) => Kind::Refund { amount: wire.amount },
            _ => return Err(wrong("type", "is neither voucher nor deposit nor refund")),
        };
        let (id, max_claimable) = (voucher.channel_id, voucher.max_claimable_amount);
        Ok(Self { config: wire.channel_config, id, max_claimable, signature, kind })
    }
}

fn read_deposit(wire: DepositWire<'_>) -> Result<Deposit, PaymentError> {
    let Open(authorization) = wire.authorization;
    let authorization = match (authorization.eip3009, authorization.permit2) {
        (Some(Open(wire)), None) => DepositAuthorization::Eip3009 {
            valid_after: wire.valid_after,
            valid_before: wire.valid_before,
            salt: *wire.salt.as_bytes(),
            signature: read_hex("deposit.authorization.erc3009Authorization.signature", &wire.signature)?,
        },
        (None, Some(Open(wire))) => DepositAuthorization::Permit2 {
            from: wire.from,
            token: wire.permitted.token,
            amount: wire.permitted.amount,
            spender: wire.spender,
            nonce: wire.nonce,
            deadline: wire.deadline,
            witness_channel: wire.witness.channel_id,
            signature: read_hex("deposit.authorization.permit2Authorization.signature", &wire.signature)?,
        },
        _ => return Err(wrong("deposit.authorization", "a deposit holds one authorization")),
    };
    Ok(Deposit { amount: wire.amount, authorization })
}

fn read_hex(path: &str, text: &str) -> Result<Vec<u8>, PaymentError> {
    let bytes = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
    bytes.ok_or_else(|| wrong(path, "is not 0x and an even number of hexadecimal digits"))
}

fn wrong(path: &str, message: &str) -> PaymentError {
    JsonError { path: format!("payload.{path}"), message: message.to_owned() }.into()
}

/// Reads atomic units of a channel in the ways of [`uint256`], for `deserialize_with`.
pub(super) fn uint128<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    let amount = uint256(deserializer)?;
    u128::try_from(amount.to_integer()).map_err(|_| de::Error::custom("does not fit 128 bits"))
}

fn optional_uint128<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u128>, D::Error> {
    uint128(deserializer).map(Some)
}

/// Bytes as they stand in JSON: `0x` and digits in lower case.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A voucher of a channel as it stands in JSON beside `channelConfig`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VoucherText {
    pub(super) channel_id: ChannelId,
    pub(super) max_claimable_amount: String,
    pub(super) signature: String,
}

impl VoucherText {
    pub(super) fn new(id: ChannelId, max_claimable: u128, signature: &[u8]) -> Self {
        Self { channel_id: id, max_claimable_amount: max_claimable.to_string(), signature: to_hex(signature) }
    }
}

/// As the client wrote it, for the facilitator: what was read, in the one way to write it.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            r#type: &'a str,
            channel_config: &'a ChannelConfig,
            voucher: VoucherText,
            #[serde(skip_serializing_if = "Option::is_none")]
            deposit: Option<&'a Deposit>,
            #[serde(skip_serializing_if = "Option::is_none")]
            amount: Option<String>,
        }
        let (r#type, deposit, amount) = match &self.kind {
            Kind::Voucher => ("voucher", None, None),
            Kind::Deposit(deposit) => ("deposit", Some(deposit), None),
            Kind::Refund { amount } => ("refund", None, amount.map(|amount| amount.to_string())),
        };
        let voucher = VoucherText::new(self.id, self.max_claimable, &self.signature);
        Wire { r#type, channel_config: &self.config, voucher, deposit, amount }.serialize(serializer)
    }
}

impl Serialize for Deposit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            amount: String,
            authorization: &'a DepositAuthorization,
        }
        Wire { amount: self.amount.to_string(), authorization: &self.authorization }.serialize(serializer)
    }
}

impl Serialize for DepositAuthorization {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        enum Wire<'a> {
            #[serde(rename = "erc3009Authorization")]
            Eip3009(Eip3009Wire<'a>),
            #[serde(rename = "permit2Authorization")]
            Permit2(Permit2Wire<'a>),
        }
        match self {
            Self::Eip3009 { valid_after, valid_before, salt, signature } => Wire::Eip3009(Eip3009Wire {
                valid_after: *valid_after,
                valid_before: *valid_before,
                salt: Nonce::from_bytes(*salt),
                signature: to_hex(signature).into(),
            }),
            Self::Permit2 { from, token, amount, spender, nonce, deadline, witness_channel, signature } => {
                Wire::Permit2(Permit2Wire {
                    from: *from,
                    permitted: Permitted { token: *token, amount: *amount },
                    spender: *spender,
                    nonce: *nonce,
                    deadline: *deadline,
                    witness: WitnessWire { channel_id: *witness_channel },
                    signature: to_hex(signature).into(),
                })
            }
        }
        .serialize(serializer)
    }
}
