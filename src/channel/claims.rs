//! What is to be claimed or given back, and the messages that ask a facilitator for it.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::BATCH_SETTLEMENT_SCHEME;
use super::message::{self, ChannelConfig, ChannelId};
use super::payload::{VoucherText, to_hex, uint128};
pub use super::record::Row;
use super::record::{OnChain, Record};
use crate::evm::Address;
use crate::evm::eip712::Word;
use crate::evm::secret_key::SecretKey;
use crate::evm::signature::Signature;
use crate::json::{self, Open};
use crate::time::UnixTime;

/// The thing to be done for a channel in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Due {
    /// None.
    Nothing,
    /// Claim what is charged.
    Claim {
        /// True if the payer is about to withdraw.
        is_urgent: bool,
    },
    /// Give back what is left.
    Refund,
}

/// The operator's wish of when that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Atomic units that are claimed once they are charged.
    pub claim_above: u128,
    /// Seconds after which anything is claimed.
    pub claim_every: u64,
    /// Seconds without a request after which what is left is given back.
    pub refund_idle: Option<u64>,
}

/// Seconds after which a refund that did not come about is tried again.
const REFUND_AGAIN_SECONDS: u64 = 3600;

/// Returns what is to be done for a channel.
pub fn due(record: &Record, policy: &Policy, now: UnixTime) -> Due {
    let unclaimed = record.unclaimed();
    let is_urgent = record.chain.withdraw_requested_at != 0;
    if record.is_claimed_at(now) {
        return Due::Nothing;
    }
    let is_old = record.unclaimed_since.plus(policy.claim_every) <= now;
    if unclaimed > 0 && (is_urgent || unclaimed >= policy.claim_above || is_old) {
        return Due::Claim { is_urgent };
    }
    let is_idle = policy.refund_idle.is_some_and(|idle| record.last_used.plus(idle) <= now);
    // What became of the last attempt is not known: perhaps later.
    let is_in_doubt = record.is_outdated && record.chain.at.plus(REFUND_AGAIN_SECONDS) > now;
    let has_rest = record.chain.balance > record.standing().charged;
    if is_idle && has_rest && !is_urgent && !is_in_doubt && !record.is_held_at(now) {
        Due::Refund
    } else {
        Due::Nothing
    }
}

/// The gate's own key, where it authorizes claims and refunds itself.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// The key.
    pub key: &'a SecretKey,
    /// The domain separator of channels on the chain.
    pub domain: &'a Word,
}

impl Signer<'_> {
    /// The signature of a claim of these rows, in this order.
    fn sign_claim<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> [u8; Signature::LENGTH] {
        let rows = rows.map(|row| (row.id, row.max_claimable, row.charged));
        self.key.sign(&message::claim_batch_digest(self.domain, rows))
    }
}

/// A row as it stands in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RowText<'a> {
    voucher: RowVoucher<'a>,
    signature: String,
    total_claimed: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RowVoucher<'a> {
    channel: &'a ChannelConfig,
    max_claimable_amount: String,
}

impl<'a> RowText<'a> {
    fn new(row: &'a Row) -> Self {
        Self {
            voucher: RowVoucher { channel: &row.config, max_claimable_amount: row.max_claimable.to_string() },
            signature: to_hex(&row.signature),
            total_claimed: row.charged.to_string(),
        }
    }
}

/// The payload that asks for a claim of all rows, which have one `receiverAuthorizer`. Its signature is left out where the
/// facilitator signs.
pub fn claim_payload<'a>(rows: impl Iterator<Item = &'a Row> + Clone, signer: Option<&Signer<'_>>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        r#type: &'a str,
        claims: Vec<RowText<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        claim_authorizer_signature: Option<String>,
    }
    json::to_text(&Wire {
        r#type: "claim",
        claim_authorizer_signature: signer.map(|signer| to_hex(&signer.sign_claim(rows.clone()))),
        claims: rows.map(RowText::new).collect(),
    })
}

/// The payload that asks for what is claimed to be paid out to the receiver.
pub fn settle_payload(receiver: Address, token: Address) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        r#type: &'a str,
        receiver: Address,
        token: Address,
    }
    json::to_text(&Wire { r#type: "settle", receiver, token })
}

/// The payload that asks for `amount` of a channel to be given back, after what is charged by `row` and not claimed is claimed.
///
/// The voucher of `row` is the one that stands in the payload: of a client's refund, that of the client. `total_claimed` is
/// what the chain says. The signatures, of the refund and of the claim, are left out where the facilitator signs.
pub fn refund_payload(
    row: &Row,
    total_claimed: u128,
    amount: u128,
    refund_nonce: u128,
    signer: Option<&Signer<'_>>,
) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        r#type: &'a str,
        channel_config: &'a ChannelConfig,
        voucher: VoucherText,
        amount: String,
        refund_nonce: String,
        claims: Vec<RowText<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        refund_authorizer_signature: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        claim_authorizer_signature: Option<String>,
    }
    let is_claimed = row.charged <= total_claimed;
    json::to_text(&Wire {
        r#type: "refund",
        channel_config: &row.config,
        voucher: VoucherText::new(row.id, row.max_claimable, &row.signature),
        amount: amount.to_string(),
        refund_nonce: refund_nonce.to_string(),
        claims: Some(row).filter(|_| !is_claimed).map(RowText::new).into_iter().collect(),
        refund_authorizer_signature: signer.map(|signer| {
            to_hex(&signer.key.sign(&message::refund_digest(signer.domain, row.id, refund_nonce, amount)))
        }),
        claim_authorizer_signature: signer
            .filter(|_| !is_claimed)
            .map(|signer| to_hex(&signer.sign_claim(std::iter::once(row)))),
    })
}

/// The body of `POST /settle` with one of the payloads above, for channels of this network (CAIP-2), token and recipient.
pub fn question(payload: &str, network: &str, asset: Address, pay_to: Address) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        scheme: &'a str,
        network: &'a str,
        asset: Address,
        amount: &'a str,
        pay_to: Address,
        max_timeout_seconds: u64,
        extra: Empty,
    }
    #[derive(Serialize)]
    struct Empty {}
    let (scheme, amount) = (BATCH_SETTLEMENT_SCHEME, "0");
    let terms =
        json::to_text(&Wire { scheme, network, asset, amount, pay_to, max_timeout_seconds: 0, extra: Empty {} });
    let payment = format!(r#"{{"x402Version":2,"accepted":{terms},"payload":{payload}}}"#);
    format!(r#"{{"x402Version":2,"paymentPayload":{payment},"paymentRequirements":{terms}}}"#)
}

/// Reads the state of channel `id` in `extra` of an answer to `/verify` or `/settle`, which was asked at that time.
///
/// `None` where it is not there in full, is of another channel, or says that more is claimed than there was.
pub fn read_state(extra: &RawValue, id: ChannelId, at: UnixTime) -> Option<OnChain> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct State {
        channel_id: ChannelId,
        #[serde(deserialize_with = "uint128")]
        balance: u128,
        #[serde(deserialize_with = "uint128")]
        total_claimed: u128,
        #[serde(deserialize_with = "uint64")]
        withdraw_requested_at: u64,
        #[serde(deserialize_with = "uint128")]
        refund_nonce: u128,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Nested {
        channel_state: Open<State>,
    }
    let extra = extra.get().as_bytes();
    let nested = json::from_slice(extra).map(|Open(Nested { channel_state: Open(state) })| state);
    let state: State = nested.or_else(|_| json::from_slice(extra).map(|Open(state)| state)).ok()?;
    let State { channel_id, balance, total_claimed, withdraw_requested_at, refund_nonce } = state;
    let is_sound = channel_id == id && total_claimed <= balance;
    is_sound.then_some(OnChain { balance, total_claimed, withdraw_requested_at, refund_nonce, at })
}

/// Reads seconds, as a number or in a text.
fn uint64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let seconds = uint128(deserializer)?;
    u64::try_from(seconds).map_err(|_| serde::de::Error::custom("is no time"))
}
