//! What the client gets to keep: the result of a settlement.

use serde::Serialize;

use super::header;
use super::network::NetworkId;
use crate::evm::{Address, TransactionHash};

/// The result of a settlement, as `PAYMENT-RESPONSE` carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// Who paid, or was to pay.
    pub payer: Address,
    /// Where.
    pub network: &'a NetworkId,
    /// The transaction that moved the money, or why none did.
    pub result: Result<TransactionHash, &'a str>,
}

impl Receipt<'_> {
    /// The header's value: JSON in base64.
    pub fn to_header(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            success: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_reason: Option<&'a str>,
            payer: Address,
            transaction: String,
            network: &'a NetworkId,
        }
        let wire = Wire {
            success: self.result.is_ok(),
            error_reason: self.result.err(),
            payer: self.payer,
            transaction: self.result.map(|hash| hash.to_string()).unwrap_or_default(),
            network: self.network,
        };
        header::encode(&crate::json::to_text(&wire))
    }
}
