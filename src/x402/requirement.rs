//! A payment requirement: one entry of `accepts`.

use serde::{Deserialize, Serialize, Serializer};

use super::network::NetworkId;
use crate::evm::Address;
use crate::evm::eip712::{Domain, Word};
use crate::money::Amount;

/// One way to pay for a request, in full: what the client is offered and what a payment is checked against.
///
/// Scheme `exact` by EIP-3009. Serializes as version 2 of the protocol writes it, and holds no field beyond those
/// that clients know: some echo unknown ones and some drop them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The chain that the payment settles on.
    pub network: NetworkId,
    /// EIP-155 id of that chain.
    pub chain_id: u64,
    /// The network's name in version 1 of the protocol, where that version knows it.
    pub v1_network: Option<String>,
    /// Atomic units of the asset.
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

/// Schemes by their name on the wire.
pub const EXACT: &str = "exact";

impl Requirement {
    /// The domain separator under which the token checks the payer's signature.
    pub fn domain_separator(&self) -> Word {
        Domain {
            name: &self.eip712_name,
            version: Some(&self.eip712_version),
            chain_id: self.chain_id,
            verifying_contract: self.asset,
        }
        .separator()
    }

    /// Whether `accepted` is a payment in the same asset on the same network, at whatever terms.
    pub fn has_asset_of(&self, accepted: &Accepted) -> bool {
        accepted.scheme == EXACT && accepted.network == self.network.as_str() && self.asset.is_written(&accepted.asset)
    }

    /// Whether `accepted` names this entry: every field equal, except that `extra` may hold more.
    pub fn is(&self, accepted: &Accepted) -> bool {
        self.has_asset_of(accepted)
            && accepted.amount == self.amount
            && self.pay_to.is_written(&accepted.pay_to)
            && accepted.max_timeout_seconds == self.max_timeout_seconds
            && accepted.extra.name.as_deref() == Some(&self.eip712_name)
            && accepted.extra.version.as_deref() == Some(&self.eip712_version)
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
            scheme: EXACT,
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
    payment_flow: Option<PaymentFlow>,
}

impl<'a> From<&'a Requirement> for Extra<'a> {
    fn from(requirement: &'a Requirement) -> Self {
        let payment_flow = match requirement.payment_flow {
            PaymentFlow::Authorization => None,
            PaymentFlow::Upfront => Some(PaymentFlow::Upfront),
        };
        Self { name: &requirement.eip712_name, version: &requirement.eip712_version, payment_flow }
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
    payment_flow: Option<PaymentFlow>,
}
