//! A payment requirement: one entry of `accepts`.

use serde::{Deserialize, Serialize, Serializer};

use super::Version;
use super::network::NetworkId;
use crate::evm::Address;
use crate::evm::eip712::{Domain, Word};
use crate::evm::permit2::PERMIT2;
use crate::money::Amount;

/// One way to pay for a request, in full: what the client is offered and what a payment is checked against.
///
/// Serializes as version 2 of the protocol writes it, and holds no field beyond those
/// that clients know: some echo unknown ones and some drop them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// How it is settled.
    pub scheme: Scheme,
    /// What the payer signs.
    pub transfer_method: TransferMethod,
    /// Who alone may settle a payment of scheme `upto`; `None` until the facilitator has told, and then it is not offered.
    pub facilitator: Option<Address>,
    /// The chain that the payment settles on.
    pub network: NetworkId,
    /// EIP-155 id of that chain.
    pub chain_id: u64,
    /// The network's name in version 1 of the protocol, where that version knows it.
    pub v1_network: Option<String>,
    /// Atomic units of the asset. Under `upto`, the most that is charged.
    pub amount: Amount,
    /// The token's contract.
    pub asset: Address,
    /// Who is paid.
    pub pay_to: Address,
    /// How long the client may let its authorization live, in seconds.
    pub max_timeout_seconds: u64,
    /// The token's name in its EIP-712 domain.
    pub eip712_name: String,
    /// The version of the token's EIP-712 domain.
    pub eip712_version: String,
    /// Whether the money moves before the request is served.
    pub payment_flow: PaymentFlow,
    /// Whether the facilitator may accept a signature of 65 bytes that is not the payer's own (ERC-1271).
    pub contract_wallets: bool,
}

/// When the money moves: `extra.paymentFlow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaymentFlow {
    /// After the request was served; an error of the service costs nothing. What clients assume.
    Authorization,
    /// Before the request is served.
    Upfront,
}

/// How a payment is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The amount, no more and no less.
    Exact,
    /// What the request turned out to cost, at most the amount. Always by Permit2.
    Upto,
}

impl Scheme {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Upto => "upto",
        }
    }
}

/// What the payer signs, and so what moves the money: `extra.assetTransferMethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferMethod {
    /// The token's own `transferWithAuthorization`. What clients assume.
    Eip3009,
    /// Permit2, which the payer has approved for the token.
    Permit2,
}

impl Requirement {
    /// The domain separator under which the token, or Permit2, checks the payer's signature.
    pub fn domain_separator(&self) -> Word {
        let (name, version, verifying_contract) = match self.transfer_method {
            TransferMethod::Eip3009 => (self.eip712_name.as_str(), Some(self.eip712_version.as_str()), self.asset),
            TransferMethod::Permit2 => ("Permit2", None, PERMIT2),
        };
        Domain { name, version, chain_id: self.chain_id, verifying_contract }.separator()
    }

    /// The contract that remembers the nonces of such payments.
    pub const fn nonces_of(&self) -> Address {
        match self.transfer_method {
            TransferMethod::Eip3009 => self.asset,
            TransferMethod::Permit2 => PERMIT2,
        }
    }

    /// The name of its network, where clients of version 1 can pay it: they know the scheme `exact` by EIP-3009 alone.
    pub fn in_v1(&self) -> Option<&str> {
        let is_known = self.scheme == Scheme::Exact && self.transfer_method == TransferMethod::Eip3009;
        self.v1_network.as_deref().filter(|_| is_known)
    }

    /// Its network as a version of the protocol calls it.
    pub fn network_in(&self, version: Version) -> &str {
        match version {
            Version::V1 => self.in_v1().unwrap_or(self.network.as_str()),
            Version::V2 => self.network.as_str(),
        }
    }

    /// Whether `accepted` is a payment in the same asset on the same network, at whatever terms.
    pub fn has_asset_of(&self, accepted: &Accepted) -> bool {
        accepted.scheme == self.scheme.as_str()
            && accepted.extra.transfer_method.unwrap_or(TransferMethod::Eip3009) == self.transfer_method
            && accepted.network == self.network.as_str()
            && self.asset.is_written(&accepted.asset)
    }

    /// Whether `accepted` names this entry: every field equal, except that `extra` may hold more.
    pub fn is(&self, accepted: &Accepted) -> bool {
        self.has_asset_of(accepted)
            && accepted.amount == self.amount
            && self.pay_to.is_written(&accepted.pay_to)
            && accepted.max_timeout_seconds == self.max_timeout_seconds
            && accepted.extra.name.as_deref() == Some(&self.eip712_name)
            && accepted.extra.version.as_deref() == Some(&self.eip712_version)
            && self.facilitator.is_none_or(|own| {
                accepted.extra.facilitator_address.as_ref().is_some_and(|named| own.is_written(named))
            })
            && (self.payment_flow == PaymentFlow::Authorization
                || accepted.extra.payment_flow == Some(self.payment_flow))
    }
}

impl Serialize for Requirement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            scheme: &'a str,
            network: &'a NetworkId,
            amount: Amount,
            asset: Address,
            pay_to: Address,
            max_timeout_seconds: u64,
            extra: Extra<'a>,
        }
        Wire {
            scheme: self.scheme.as_str(),
            network: &self.network,
            amount: self.amount,
            asset: self.asset,
            pay_to: self.pay_to,
            max_timeout_seconds: self.max_timeout_seconds,
            extra: Extra::from(self),
        }
        .serialize(serializer)
    }
}

/// `extra` of an entry: what the client needs to sign.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Extra<'a> {
    name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    asset_transfer_method: Option<TransferMethod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    facilitator_address: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_flow: Option<PaymentFlow>,
}

impl<'a> From<&'a Requirement> for Extra<'a> {
    fn from(requirement: &'a Requirement) -> Self {
        let payment_flow = match requirement.payment_flow {
            PaymentFlow::Authorization => None,
            PaymentFlow::Upfront => Some(PaymentFlow::Upfront),
        };
        let is_permit2 = requirement.transfer_method == TransferMethod::Permit2;
        Self {
            name: &requirement.eip712_name,
            version: &requirement.eip712_version,
            asset_transfer_method: is_permit2.then_some(TransferMethod::Permit2),
            facilitator_address: requirement.facilitator,
            payment_flow,
        }
    }
}

/// The entry that a client says it accepted, as it echoes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// `exact`, …
    pub scheme: String,
    /// CAIP-2 id.
    pub network: String,
    /// Atomic units.
    pub amount: Amount,
    /// The token.
    pub asset: String,
    /// The recipient.
    pub pay_to: String,
    /// Seconds.
    #[serde(deserialize_with = "crate::json::whole_number")]
    pub max_timeout_seconds: u64,
    /// What the client was told for signing; clients may add to it.
    #[serde(default, deserialize_with = "crate::json::object")]
    pub extra: AcceptedExtra,
}

/// `extra` as a client echoes it; fields that the filter does not know are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedExtra {
    name: Option<String>,
    version: Option<String>,
    #[serde(rename = "assetTransferMethod")]
    transfer_method: Option<TransferMethod>,
    facilitator_address: Option<String>,
    payment_flow: Option<PaymentFlow>,
}
