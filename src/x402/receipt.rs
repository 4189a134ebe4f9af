//! The receipt that the client gets to keep: the result of a settlement.

use serde::Serialize;
use serde_json::value::RawValue;

use super::payment::Payer;
use super::{TransactionId, header};
use crate::money::Amount;

/// The result of a settlement, as `PAYMENT-RESPONSE` or `X-PAYMENT-RESPONSE` carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// The account that paid, or was to pay.
    pub payer: &'a Payer,
    /// The network, as the client's version of the protocol calls it.
    pub network: &'a str,
    /// The charge in atomic units, under scheme `upto`.
    pub charge: Option<Amount>,
    /// The transaction that moved the money, `None` where there was none to move, or why it did not move.
    pub result: Result<Option<TransactionId>, &'a str>,
    /// The transaction that may yet turn out to have moved the money, where it is not certain that it did.
    pub named: Option<TransactionId>,
    /// The JSON of extensions' parts in it: an object.
    pub extensions: Option<String>,
    /// What is told of the payer's channel, under scheme `batch-settlement`.
    pub channel: Option<OfChannel>,
    /// The JSON of `extra`: an object. Of a channel, that is in `channel`.
    pub extra: Option<String>,
}

/// The parts of a receipt that tell of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfChannel {
    /// Atomic units that were deposited or refunded; `None` where it was paid by a voucher alone.
    pub amount: Option<Amount>,
    /// The JSON of `extra`: an object.
    pub extra: String,
}

impl Receipt<'_> {
    /// The header's value: JSON in base64.
    pub fn to_header(&self) -> String {
        header::encode(&self.to_json())
    }

    /// The receipt as JSON, for where there are no headers any more.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            success: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_reason: Option<&'a str>,
            #[serde(skip_serializing_if = "String::is_empty")]
            payer: String,
            transaction: String,
            network: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            amount: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            extensions: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            extra: Option<&'a RawValue>,
        }
        // A voucher moves nothing, and official clients expect an empty text there.
        let amount = match &self.channel {
            Some(OfChannel { amount, .. }) => Some(amount.map(|amount| amount.to_string()).unwrap_or_default()),
            None => self.charge.map(|charge| charge.to_string()),
        };
        let extra = self.channel.as_ref().map(|channel| &channel.extra).or(self.extra.as_ref());
        let wire = Wire {
            success: self.result.is_ok(),
            error_reason: self.result.err(),
            payer: self.payer.to_string(),
            transaction: self.result.ok().flatten().or(self.named).map(|hash| hash.to_string()).unwrap_or_default(),
            network: self.network,
            amount,
            extensions: self.extensions.as_deref().and_then(|json| serde_json::from_str(json).ok()),
            extra: extra.and_then(|json| serde_json::from_str(json).ok()),
        };
        crate::json::to_text(&wire)
    }
}
