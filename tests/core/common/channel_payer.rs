//! A client that pays out of channels, and a facilitator's words about them.

use serde_json::{Value, json};
use x402_proxy_wasm::channel::message::{
    ChannelConfig, ChannelId, deposit_nonce, domain_separator, eip3009_deposit_digest, voucher_digest,
};
use x402_proxy_wasm::evm::eip3009::Timestamp;
use x402_proxy_wasm::exchange::Event;
use x402_proxy_wasm::facilitator::Kind;
use x402_proxy_wasm::time::UnixTime;

use super::{NOW, Stage, TRANSACTION, Wallet, answers, separator_of};

/// Who signs claims and refunds: the facilitator's key.
pub const AUTHORIZER: &str = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65";

const CHAIN: u64 = 84532;

/// A client with one channel, by the terms of one entry of `accepts`.
pub struct ChannelPayer {
    pub wallet: Wallet,
    pub accepted: Value,
    pub config: ChannelConfig,
    pub id: ChannelId,
}

/// What a facilitator says that it supports channels.
pub fn kind_of_channels() -> Kind {
    let extra = [("receiverAuthorizer".to_owned(), format!("\"{AUTHORIZER}\""))].into();
    Kind { scheme: "batch-settlement".to_owned(), network: "eip155:84532".to_owned(), extra }
}

/// A stage of this configuration, with every entry replaced by channels, and a facilitator that supports them.
pub fn stage_of_channels(mut config: Value) -> Stage {
    config["defaults"]["accepts"] = json!([{"scheme": "batch-settlement", "network": "base-sepolia", "asset": "USDC"}]);
    let mut stage = Stage::new(&config);
    stage.supported.kinds.push(kind_of_channels());
    stage
}

impl ChannelPayer {
    /// The client of this secret and salt, for an entry of `accepts`.
    pub fn new(secret: u8, salt: u8, accepted: &Value) -> Self {
        let wallet = Wallet::new(secret);
        let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
        let config = ChannelConfig {
            payer: wallet.address(),
            payer_authorizer: wallet.address(),
            receiver: address(&accepted["payTo"]),
            receiver_authorizer: address(&accepted["extra"]["receiverAuthorizer"]),
            token: address(&accepted["asset"]),
            withdraw_delay: accepted["extra"]["withdrawDelay"].as_u64().unwrap(),
            salt: [salt; 32],
        };
        let id = config.id(&domain_separator(CHAIN));
        Self { wallet, accepted: accepted.clone(), config, id }
    }

    fn hex(bytes: &[u8]) -> String {
        format!("0x{}", hex::encode(bytes))
    }

    fn payment(&self, kind: &str, max: u128, more: &Value) -> Value {
        let digest = voucher_digest(&domain_separator(CHAIN), self.id, max);
        let mut payload = json!({
            "type": kind,
            "channelConfig": self.config,
            "voucher": {
                "channelId": self.id,
                "maxClaimableAmount": max.to_string(),
                "signature": Self::hex(&self.wallet.sign(&digest)),
            },
        });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"x402Version": 2, "payload": payload, "accepted": self.accepted})
    }

    /// A voucher for this total.
    pub fn voucher(&self, max: u128) -> Value {
        self.payment("voucher", max, &json!({}))
    }

    /// A deposit with a voucher for this total.
    pub fn deposit(&self, max: u128, amount: u128, salt: u8) -> Value {
        let end = NOW + self.accepted["maxTimeoutSeconds"].as_u64().unwrap();
        let window = (Timestamp::from(UnixTime::from_secs(0)), Timestamp::from(UnixTime::from_secs(end)));
        let nonce = deposit_nonce(self.id, &[salt; 32]);
        let digest = eip3009_deposit_digest(&separator_of(&self.accepted), self.config.payer, amount, window, nonce);
        let authorization = json!({
            "validAfter": "0",
            "validBefore": end.to_string(),
            "salt": Self::hex(&[salt; 32]),
            "signature": Self::hex(&self.wallet.sign(&digest)),
        });
        let deposit = json!({"amount": amount.to_string(), "authorization": {"erc3009Authorization": authorization}});
        self.payment("deposit", max, &json!({"deposit": deposit}))
    }

    /// A wish for a refund, of all or of a part.
    pub fn refund(&self, charged: u128, amount: Option<u128>) -> Value {
        let more = amount.map_or(json!({}), |amount| json!({"amount": amount.to_string()}));
        self.payment("refund", charged, &more)
    }

    /// What a facilitator tells of the channel.
    pub fn state(&self, balance: u128, claimed: u128) -> Value {
        json!({
            "channelId": self.id,
            "balance": balance.to_string(),
            "totalClaimed": claimed.to_string(),
            "withdrawRequestedAt": 0,
            "refundNonce": "0",
        })
    }

    /// `/verify` says yes, and tells what the channel holds.
    pub fn verified(&self, balance: u128, claimed: u128) -> Event {
        let payer = self.config.payer.to_string();
        answers(&json!({"isValid": true, "payer": payer, "extra": self.state(balance, claimed)}))
    }

    /// `/verify` says yes, and that a withdrawal has begun.
    pub fn verified_withdrawing(&self, balance: u128, claimed: u128) -> Event {
        let mut state = self.state(balance, claimed);
        state["withdrawRequestedAt"] = NOW.into();
        answers(&json!({"isValid": true, "extra": state}))
    }

    /// `/settle` says yes to a deposit or a refund, and tells what the channel holds since.
    pub fn settled(&self, amount: u128, balance: u128, claimed: u128) -> Event {
        answers(&json!({
            "success": true, "transaction": TRANSACTION, "network": "eip155:84532", "amount": amount.to_string(),
            "payer": self.config.payer.to_string(), "extra": {"channelState": self.state(balance, claimed)},
        }))
    }
}
