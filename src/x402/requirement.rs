//! A payment requirement: one entry of `accepts`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Version;
use super::bundle::{BUNDLE, Bundle};
use super::network::NetworkId;
use crate::evm::Address;
use crate::evm::eip712::{Domain, Word};
use crate::evm::permit2::PERMIT2;
use crate::json::{self, JsonError};
use crate::money::Amount;
use crate::svm::{self, Pubkey, TokenProgram};

/// One way to pay for a request, in full: what the client is offered and what a payment is checked against.
///
/// Serializes as version 2 of the protocol writes it, and holds no field beyond those
/// that clients know: some echo unknown ones and some drop them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The scheme by which it is settled.
    pub scheme: Scheme,
    /// The chain that the payment settles on.
    pub network: NetworkId,
    /// Atomic units of the asset. Under `upto`, the most that is charged.
    pub amount: Amount,
    /// Seconds that the client may let its authorization live.
    pub max_timeout_seconds: u64,
    /// The moment at which the money moves.
    pub payment_flow: PaymentFlow,
    /// The rail on which the money moves, with asset and recipient.
    pub rail: Rail,
    /// What the payment buys beside the request that it comes with, where that is a bundle.
    pub bundle: Option<Bundle>,
}

/// The rail on which the money moves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "solana"), allow(clippy::large_enum_variant, reason = "most entries are of the large one"))]
pub enum Rail {
    /// A token on a chain of Ethereum's family, in a way that the filter checks itself.
    Evm(Evm),
    /// Anything else: offered as it stands in the configuration, and judged by the facilitator.
    Foreign(Foreign),
}

/// A token on a chain of Ethereum's family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Evm {
    /// The message that the payer signs.
    pub transfer_method: TransferMethod,
    /// The only account that may settle a payment of scheme `upto`; `None` until the facilitator has named it, and then the
    /// entry is not offered.
    pub facilitator: Option<Address>,
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The network's name in version 1 of the protocol, where that version knows it.
    pub v1_network: Option<String>,
    /// The token's contract.
    pub asset: Address,
    /// The recipient.
    pub pay_to: Address,
    /// The token's name in its EIP-712 domain.
    pub eip712_name: String,
    /// The version of the token's EIP-712 domain.
    pub eip712_version: String,
    /// True if the facilitator may accept a signature of 65 bytes that is not the payer's own (ERC-1271).
    pub contract_wallets: bool,
    /// The terms of channels, under scheme `batch-settlement`.
    pub channel: Option<ChannelTerms>,
    /// The domain separator under which payers sign: what [`domain_separator`] says of the fields above.
    pub domain_separator: Word,
}

/// The terms on which the payer opens a channel (scheme `batch-settlement`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelTerms {
    /// The account that authorizes claims and refunds; `None` until the facilitator has named its own, and then the entry is not
    /// offered.
    pub receiver_authorizer: Option<Address>,
    /// True if that is the facilitator's, which signs claims and refunds itself.
    pub is_authorized_by_facilitator: bool,
    /// Seconds between the payer's wish to withdraw and the withdrawal: 900 to 2,592,000.
    pub withdraw_delay: u64,
    /// The deposit that clients are told to make at least, in atomic units; where it is `None`, ten times the amount of the request.
    pub min_deposit: Option<Amount>,
    /// True if a smaller deposit is refused.
    pub enforces_min_deposit: bool,
    /// The domain separator of what is signed about channels on this chain.
    pub domain: Word,
    /// How the payer's channel stands, for one whose count is another: `channelState` and `voucherState`, as JSON.
    pub standing: Option<[Arc<str>; 2]>,
}

impl ChannelTerms {
    /// Returns the deposit that clients are told to make at least for a request of this amount, in atomic units.
    pub fn min_deposit_for(&self, amount: Amount) -> Amount {
        const REQUESTS: u64 = 10;
        let usual = amount.to_integer().saturating_mul(ruint::aliases::U256::from(REQUESTS));
        self.min_deposit.unwrap_or_else(|| usual.into()).max(amount)
    }

    fn is(&self, extra: &EvmExtra) -> bool {
        let names = |own: Address| extra.receiver_authorizer.as_ref().is_some_and(|named| own.is_written(named));
        self.receiver_authorizer.is_some_and(names) && extra.withdraw_delay == Some(self.withdraw_delay)
    }
}

/// The domain separator under which a token, or Permit2, checks the payer's signature.
pub fn domain_separator(method: TransferMethod, asset: Address, name: &str, version: &str, chain_id: u64) -> Word {
    let (name, version, verifying_contract) = match method {
        TransferMethod::Eip3009 => (name, Some(version), asset),
        TransferMethod::Permit2 => ("Permit2", None, PERMIT2),
    };
    Domain { name, version, chain_id, verifying_contract }.separator()
}

/// A way to pay of which the facilitator knows everything, and the filter only these fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Foreign {
    /// The token, in the network's own spelling.
    pub asset: String,
    /// The recipient, in the network's own spelling.
    pub pay_to: String,
    /// `extra` as the configuration has it: by name, each value as canonical JSON ([`json::canonical`]).
    pub extra: BTreeMap<String, String>,
    /// The fields that the facilitator adds to `extra`.
    pub supplied: BTreeMap<String, String>,
    /// The parts that the filter can check, where it is Solana's `exact`.
    pub svm: Option<Svm>,
}

/// The parts of an entry of Solana's `exact` that are known at load.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Svm {
    /// The token.
    pub mint: Pubkey,
    /// Its decimals.
    pub decimals: u8,
    /// The program that keeps it, where the configuration says so.
    pub token_program: Option<TokenProgram>,
    /// The recipient.
    pub pay_to: Pubkey,
    /// `extra.memo`.
    pub memo: Option<svm::Memo>,
}

/// The moment at which the money moves: `extra.paymentFlow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaymentFlow {
    /// After the request was served; an error of the service costs nothing. What clients assume.
    Authorization,
    /// Before the request is served.
    Upfront,
}

/// The scheme by which a payment is settled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The amount, no more and no less.
    Exact,
    /// The cost that the request turned out to have, at most the amount. Always by Permit2.
    Upto,
    /// The cost that the request turned out to have, at most the amount, out of a channel of the payer's.
    BatchSettlement,
    /// Of this name, on a [`Rail::Foreign`]. The amount is charged in full.
    Foreign(Arc<str>),
}

impl Scheme {
    /// Returns whether what is charged is what was used, and known only once the response is there.
    pub const fn is_metered(&self) -> bool {
        matches!(self, Self::Upto | Self::BatchSettlement)
    }

    /// Its name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact => "exact",
            Self::Upto => "upto",
            Self::BatchSettlement => "batch-settlement",
            Self::Foreign(name) => name,
        }
    }
}

/// The message that the payer signs, and so the way that the money moves: `extra.assetTransferMethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferMethod {
    /// The token's own `transferWithAuthorization`. What clients assume.
    Eip3009,
    /// Permit2, which the payer has approved for the token.
    Permit2,
}

impl Evm {
    /// The entry with this account of the facilitator's in its place; where there is none, as it is.
    #[must_use]
    pub fn with_account(mut self, account: Option<Address>) -> Self {
        match (&mut self.channel, account) {
            (Some(terms), Some(_)) if terms.is_authorized_by_facilitator => terms.receiver_authorizer = account,
            (None, Some(_)) => self.facilitator = account,
            _ => {}
        }
        self
    }

    /// The contract that remembers the nonces of such payments.
    pub const fn nonces_of(&self) -> Address {
        match self.transfer_method {
            TransferMethod::Eip3009 => self.asset,
            TransferMethod::Permit2 => PERMIT2,
        }
    }

    fn has_asset_of(&self, accepted: &Accepted<'_>) -> bool {
        accepted.evm.transfer_method.unwrap_or(TransferMethod::Eip3009) == self.transfer_method
            && self.asset.is_written(&accepted.asset)
    }

    fn is(&self, accepted: &Accepted<'_>) -> bool {
        let extra = &accepted.evm;
        self.pay_to.is_written(&accepted.pay_to)
            && extra.name.as_deref() == Some(&self.eip712_name)
            && extra.version.as_deref() == Some(&self.eip712_version)
            && self
                .facilitator
                .is_none_or(|own| extra.facilitator_address.as_ref().is_some_and(|named| own.is_written(named)))
            && self.channel.as_ref().is_none_or(|channel| channel.is(extra))
    }
}

impl Foreign {
    /// Returns the entry with the fields that the facilitator adds to `extra`. Those of the configuration take precedence.
    #[must_use]
    pub fn supplied_with(&self, extra: &BTreeMap<String, String>) -> Self {
        let is_new = |(name, _): &(&String, &String)| !self.extra.contains_key(*name);
        let mut supplied = BTreeMap::new();
        supplied.extend(extra.iter().filter(is_new).map(|(name, value)| (name.clone(), value.clone())));
        Self { supplied, ..self.clone() }
    }

    /// A field of `extra` that is a text.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.supplied.get(name).or_else(|| self.extra.get(name))?).ok()
    }

    /// Returns the terms that a payment of this amount has to meet, where it is Solana's `exact`; `None` where it is not, or the facilitator
    /// has not said who pays the chain's fee.
    pub fn svm_terms(&self, amount: Amount) -> Option<svm::Terms> {
        let Svm { mint, decimals, token_program, pay_to, memo } = self.svm.clone()?;
        let fee_payer = self.text("feePayer")?.parse().ok()?;
        let amount = u64::try_from(amount.to_integer()).ok()?;
        Some(svm::Terms { mint, decimals, token_program, pay_to, amount, fee_payer, memo })
    }

    /// Returns whether the facilitator says that it executes the transactions of smart wallets to see what they pay.
    pub fn takes_smart_wallets(&self) -> bool {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Features {
            #[serde(default)]
            smart_wallet_supported: bool,
        }
        let features: Option<Features> = self.supplied.get("features").and_then(|text| serde_json::from_str(text).ok());
        features.unwrap_or_default().smart_wallet_supported
    }

    fn is(&self, accepted: &Accepted<'_>) -> bool {
        let mut own = self.extra.iter().chain(&self.supplied);
        self.pay_to == accepted.pay_to && own.all(|(name, value)| accepted.fields.get(name) == Some(value))
    }
}

impl Requirement {
    /// The rail, where it is one of Ethereum's family.
    pub const fn evm(&self) -> Option<&Evm> {
        match &self.rail {
            Rail::Evm(evm) => Some(evm),
            Rail::Foreign(_) => None,
        }
    }

    /// The token, as it is written.
    pub fn asset(&self) -> Cow<'_, str> {
        match &self.rail {
            Rail::Evm(evm) => evm.asset.to_string().into(),
            Rail::Foreign(foreign) => foreign.asset.as_str().into(),
        }
    }

    /// The recipient, as it is written.
    pub fn pay_to(&self) -> Cow<'_, str> {
        match &self.rail {
            Rail::Evm(evm) => evm.pay_to.to_string().into(),
            Rail::Foreign(foreign) => foreign.pay_to.as_str().into(),
        }
    }

    /// Scheme, asset, recipient and amount, and what the configuration says beside, as a text that no other terms have on
    /// the same network. What the facilitator adds is left out: it may change while a payment is under way.
    pub fn charges(&self) -> String {
        let extra = match &self.rail {
            Rail::Evm(_) => None,
            Rail::Foreign(foreign) => Some(&foreign.extra),
        };
        let charges = json::to_text(&(self.scheme.as_str(), self.asset(), self.pay_to(), self.amount, extra));
        match &self.bundle {
            Some(bundle) => charges + &bundle.to_json(),
            None => charges,
        }
    }

    /// The name of its network, where clients of version 1 can pay it: they know the scheme `exact` by EIP-3009 alone, and no
    /// bundles.
    pub fn in_v1(&self) -> Option<&str> {
        let evm = self.evm().filter(|evm| evm.transfer_method == TransferMethod::Eip3009)?;
        evm.v1_network.as_deref().filter(|_| self.scheme == Scheme::Exact && self.bundle.is_none())
    }

    /// Its network as a version of the protocol calls it.
    pub fn network_in(&self, version: Version) -> &str {
        match version {
            Version::V1 => self.in_v1().unwrap_or(self.network.as_str()),
            Version::V2 => self.network.as_str(),
        }
    }

    /// Returns whether `accepted` is a payment in the same asset on the same network, at whatever terms.
    pub fn has_asset_of(&self, accepted: &Accepted<'_>) -> bool {
        accepted.scheme == self.scheme.as_str()
            && accepted.network == self.network.as_str()
            && match &self.rail {
                Rail::Evm(evm) => evm.has_asset_of(accepted),
                Rail::Foreign(foreign) => foreign.asset == accepted.asset,
            }
    }

    /// Returns whether another entry has the same scheme, network, asset and way to sign.
    pub fn has_rail_of(&self, other: &Self) -> bool {
        let method = |requirement: &Self| requirement.evm().map(|evm| evm.transfer_method);
        (&self.scheme, &self.network, self.asset(), method(self))
            == (&other.scheme, &other.network, other.asset(), method(other))
    }

    /// Returns whether `accepted` names this entry: every field equal, except that `extra` may hold more.
    pub fn is(&self, accepted: &Accepted<'_>) -> bool {
        self.has_asset_of(accepted)
            && accepted.amount == self.amount
            && accepted.max_timeout_seconds == self.max_timeout_seconds
            && self.bundle.is_none_or(|bundle| accepted.bundle().is_none_or(|named| named == bundle.to_json()))
            && match &self.rail {
                Rail::Evm(evm) => {
                    evm.is(accepted)
                        && (self.payment_flow == PaymentFlow::Authorization
                            || accepted.evm.payment_flow == Some(self.payment_flow))
                }
                Rail::Foreign(foreign) => foreign.is(accepted),
            }
    }

    /// `extra`: what the client needs to sign.
    pub const fn extra(&self) -> Extra<'_> {
        Extra(self)
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
            asset: Cow<'a, str>,
            pay_to: Cow<'a, str>,
            max_timeout_seconds: u64,
            extra: Extra<'a>,
        }
        Wire {
            scheme: self.scheme.as_str(),
            network: &self.network,
            amount: self.amount,
            asset: self.asset(),
            pay_to: self.pay_to(),
            max_timeout_seconds: self.max_timeout_seconds,
            extra: self.extra(),
        }
        .serialize(serializer)
    }
}

/// `extra` of an entry.
#[derive(Debug, Clone, Copy)]
pub struct Extra<'a>(&'a Requirement);

impl Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            name: &'a str,
            version: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            asset_transfer_method: Option<TransferMethod>,
            #[serde(skip_serializing_if = "Option::is_none")]
            facilitator_address: Option<Address>,
            #[serde(skip_serializing_if = "Option::is_none")]
            payment_flow: Option<PaymentFlow>,
            #[serde(skip_serializing_if = "Option::is_none")]
            receiver_authorizer: Option<Address>,
            #[serde(skip_serializing_if = "Option::is_none")]
            withdraw_delay: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            min_deposit: Option<Amount>,
            #[serde(skip_serializing_if = "Option::is_none")]
            channel_state: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            voucher_state: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            bundle: Option<&'a RawValue>,
        }
        let bundle = self.0.bundle.map(|bundle| bundle.to_json());
        let bundle: Option<&RawValue> = bundle.as_deref().and_then(|json| serde_json::from_str(json).ok());
        let standing = self.0.evm().and_then(|evm| evm.channel.as_ref()?.standing.as_ref());
        let [channel_state, voucher_state] =
            [0, 1].map(|part| standing.and_then(|parts| serde_json::from_str(parts.get(part)?).ok()));
        match &self.0.rail {
            Rail::Evm(evm) => Wire {
                name: &evm.eip712_name,
                version: &evm.eip712_version,
                asset_transfer_method: Some(evm.transfer_method).filter(|method| *method == TransferMethod::Permit2),
                facilitator_address: evm.facilitator,
                payment_flow: Some(self.0.payment_flow).filter(|flow| *flow == PaymentFlow::Upfront),
                receiver_authorizer: evm.channel.as_ref().and_then(|channel| channel.receiver_authorizer),
                withdraw_delay: evm.channel.as_ref().map(|channel| channel.withdraw_delay),
                min_deposit: evm.channel.as_ref().map(|channel| channel.min_deposit_for(self.0.amount)),
                channel_state,
                voucher_state,
                bundle,
            }
            .serialize(serializer),
            Rail::Foreign(Foreign { extra, supplied, .. }) => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in extra.iter().chain(supplied) {
                    let value: &RawValue = serde_json::from_str(value).map_err(serde::ser::Error::custom)?;
                    map.serialize_entry(name, value)?;
                }
                if let Some(bundle) = bundle {
                    map.serialize_entry(BUNDLE, bundle)?;
                }
                map.end()
            }
        }
    }
}

/// The entry that a client says it accepted, as it echoes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted<'a> {
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
    /// The fields that the client was told for signing; clients may add to them.
    #[serde(default, borrow)]
    extra: Option<&'a RawValue>,
    /// The fields of `extra` for a chain of Ethereum's family.
    #[serde(skip)]
    evm: EvmExtra,
    /// The fields of `extra`, each value as canonical JSON. Read once, for it may be long and is compared with all that the facilitator
    /// has said.
    #[serde(skip)]
    fields: BTreeMap<String, String>,
}

impl Accepted<'_> {
    /// Returns `extra.bundle` as canonical JSON, where the client passes it back.
    pub fn bundle(&self) -> Option<&str> {
        self.evm.bundle.as_deref().or_else(|| self.fields.get(BUNDLE).map(String::as_str))
    }

    /// Reads `extra` where it is known what should stand there.
    ///
    /// # Errors
    /// [`JsonError`] below `extra`.
    pub(super) fn read_extra(&mut self) -> Result<(), JsonError> {
        let is_evm = self.network.parse::<NetworkId>().is_ok_and(|id| id.chain_id().is_some());
        let is_known = is_evm && matches!(self.scheme.as_str(), "exact" | "upto" | "batch-settlement");
        match self.extra {
            Some(extra) if is_known => self.evm = json::from_slice(extra.get().as_bytes())?,
            extra => {
                self.fields = extra.and_then(|extra| json::canonical_fields(extra).ok()).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// `extra` as a client echoes it for a chain of Ethereum's family; fields that the filter does not know are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EvmExtra {
    name: Option<String>,
    version: Option<String>,
    #[serde(rename = "assetTransferMethod")]
    transfer_method: Option<TransferMethod>,
    facilitator_address: Option<String>,
    payment_flow: Option<PaymentFlow>,
    receiver_authorizer: Option<String>,
    #[serde(default, deserialize_with = "whole_seconds")]
    withdraw_delay: Option<u64>,
    /// Canonical JSON.
    #[serde(default, deserialize_with = "canonical")]
    bundle: Option<String>,
}

/// Reads any JSON in its canonical form, for `deserialize_with`.
fn canonical<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(value.map(|value| json::canonical(&value).unwrap_or_default()))
}

/// Reads a whole number of seconds, for `deserialize_with`.
fn whole_seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    json::whole_number(deserializer).map(Some)
}
