//! Offers and receipts that the seller signs: what was asked, and that it was paid and delivered, for whoever has to be
//! shown it later.
//!
//! Source: `specs/extensions/extension-offer-and-receipt.md` of the x402 repository (format `eip712`), and the package
//! `@x402/extensions` 2.27.0, which reads what is written here.

use std::fmt;

use serde::Serialize;

use super::extensions::DRAFT;
use super::{NetworkId, Requirement, TransactionId};
use crate::evm::eip712::{self, Word, word_from_u64};
use crate::evm::secret_key::SecretKey;
use crate::evm::signature::Signature;
use crate::evm::{Address, keccak256};
use crate::json::to_text;
use crate::recent::Recent;
use crate::time::UnixTime;

/// The extension.
pub const OFFER_RECEIPT: &str = "offer-receipt";

/// The version of what is signed, and of the domains.
const VERSION: u64 = 1;
/// The domains' chain, whatever chain is paid on.
const CHAIN_ID: u64 = 1;

const OFFER: &str = "Offer(uint256 version,string resourceUrl,string scheme,string network,string asset,string payTo,string amount,uint256 validUntil)";
const RECEIPT: &str =
    "Receipt(uint256 version,string network,string resourceUrl,string payer,uint256 issuedAt,string transaction)";

const OFFER_FIELDS: [(&str, &str); 8] = [
    ("version", "integer"),
    ("resourceUrl", "string"),
    ("scheme", "string"),
    ("network", "string"),
    ("asset", "string"),
    ("payTo", "string"),
    ("amount", "string"),
    ("validUntil", "integer"),
];
const RECEIPT_FIELDS: [(&str, &str); 6] = [
    ("version", "integer"),
    ("network", "string"),
    ("resourceUrl", "string"),
    ("payer", "string"),
    ("issuedAt", "integer"),
    ("transaction", "string"),
];

/// The signer of offers and receipts, in the seller's name.
#[derive(PartialEq, Eq)]
pub struct Issuer {
    key: SecretKey,
    offers: MessageKind,
    receipts: MessageKind,
    /// True if offers are signed, and not receipts alone.
    pub signs_offers: bool,
    /// True if receipts name the transaction, by which everybody can find the payer's other ones.
    pub names_transactions: bool,
}

/// The EIP-712 domain and type under which one kind of message is signed.
#[derive(PartialEq, Eq)]
struct MessageKind {
    domain: Word,
    r#type: Word,
}

/// Shows the account whose signatures these are, and never the key.
impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("address", &self.address())
            .field("signs_offers", &self.signs_offers)
            .field("names_transactions", &self.names_transactions)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// The issuer with this key.
    pub fn new(key: SecretKey, signs_offers: bool, names_transactions: bool) -> Self {
        let (offers, receipts) = (MessageKind::new("x402 offer", OFFER), MessageKind::new("x402 receipt", RECEIPT));
        Self { key, offers, receipts, signs_offers, names_transactions }
    }

    /// The account whose signatures these are.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// A signature by this key. The last ones are remembered: one takes far longer than all else about a 402, and within
    /// a minute an offer is the same.
    fn sign(&self, digest: &Word) -> [u8; Signature::LENGTH] {
        thread_local! {
            static LAST: Recent<(Address, Word), [u8; Signature::LENGTH], 64> = const { Recent::new() };
        }
        LAST.with(|last| last.get_or((self.address(), *digest), || self.key.sign(digest)))
    }

    /// The declaration of [`OFFER_RECEIPT`] in the terms, as JSON: each entry of `accepts`, signed, for the time that a
    /// client has to pay, and until the minute is full.
    pub fn offers(&self, url: &str, accepts: &[&Requirement], now: UnixTime) -> String {
        let offers: Vec<_> = (0_u64..)
            .zip(accepts)
            .map(|(index, accepted)| Artefact {
                format: "eip712",
                accept_index: Some(index),
                signature: String::new(),
                payload: Offer::new(url, accepted, now),
            })
            .map(|offer| offer.signed(self, &self.offers, Offer::struct_fields))
            .collect();
        let payload = schema_of(&OFFER_FIELDS, "validUntil");
        let item = format!(
            r#"{{"type":"object","properties":{{"format":{{"type":"string"}},"acceptIndex":{{"type":"integer"}},"payload":{payload},"signature":{{"type":"string"}}}},"required":["format","signature"]}}"#
        );
        let schema = format!(
            r#"{{"$schema":"{DRAFT}","type":"object","properties":{{"offers":{{"type":"array","items":{item}}}}},"required":["offers"]}}"#
        );
        format!(r#"{{"info":{{"offers":{}}},"schema":{schema}}}"#, to_text(&offers))
    }

    /// The extension in the result of a settlement, as JSON: that `payer` has paid on `network`, and was served.
    pub fn receipt(
        &self,
        url: &str,
        network: &NetworkId,
        payer: &str,
        transaction: Option<TransactionId>,
        now: UnixTime,
    ) -> String {
        let named = transaction.filter(|_| self.names_transactions);
        let receipt = Artefact {
            format: "eip712",
            accept_index: None,
            signature: String::new(),
            payload: Receipt {
                version: VERSION,
                network: network.as_str(),
                resource_url: url,
                payer,
                issued_at: now.as_secs(),
                transaction: named.map(|transaction| transaction.to_string()).unwrap_or_default(),
            },
        };
        let receipt = receipt.signed(self, &self.receipts, Receipt::struct_fields);
        let payload = schema_of(&RECEIPT_FIELDS, "transaction");
        let schema = format!(
            r#"{{"$schema":"{DRAFT}","type":"object","properties":{{"receipt":{{"type":"object","properties":{{"format":{{"type":"string"}},"payload":{payload},"signature":{{"type":"string"}}}},"required":["format","signature"]}}}},"required":["receipt"]}}"#
        );
        format!(r#"{{"info":{{"receipt":{}}},"schema":{schema}}}"#, to_text(&receipt))
    }
}

impl MessageKind {
    fn new(domain: &str, r#type: &str) -> Self {
        let domain_type = keccak256(b"EIP712Domain(string name,string version,uint256 chainId)");
        let version = keccak256(VERSION.to_string().as_bytes());
        let fields = [keccak256(domain.as_bytes()), version, word_from_u64(CHAIN_ID)];
        Self { domain: eip712::struct_hash(&domain_type, &fields), r#type: keccak256(r#type.as_bytes()) }
    }
}

/// An offer or a receipt as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Artefact<T> {
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_index: Option<u64>,
    payload: T,
    /// `0x` and 65 bytes in hexadecimal.
    signature: String,
}

impl<T> Artefact<T> {
    fn signed<const N: usize>(self, issuer: &Issuer, under: &MessageKind, fields: fn(&T) -> [Word; N]) -> Self {
        let struct_hash = eip712::struct_hash(&under.r#type, &fields(&self.payload));
        let signature = issuer.sign(&eip712::digest(&under.domain, &struct_hash));
        Self { signature: format!("0x{}", hex::encode(signature)), ..self }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Offer<'a> {
    version: u64,
    resource_url: &'a str,
    scheme: &'a str,
    network: &'a str,
    asset: String,
    pay_to: String,
    amount: String,
    valid_until: u64,
}

impl<'a> Offer<'a> {
    fn new(url: &'a str, accepted: &'a Requirement, now: UnixTime) -> Self {
        Self {
            version: VERSION,
            resource_url: url,
            scheme: accepted.scheme.as_str(),
            network: accepted.network.as_str(),
            asset: accepted.asset().into_owned(),
            pay_to: accepted.pay_to().into_owned(),
            amount: accepted.amount.to_string(),
            valid_until: full_minute(now.plus(accepted.max_timeout_seconds)),
        }
    }

    fn struct_fields(&self) -> [Word; 8] {
        let text = |text: &str| keccak256(text.as_bytes());
        [
            word_from_u64(self.version),
            text(self.resource_url),
            text(self.scheme),
            text(self.network),
            text(&self.asset),
            text(&self.pay_to),
            text(&self.amount),
            word_from_u64(self.valid_until),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Receipt<'a> {
    version: u64,
    network: &'a str,
    resource_url: &'a str,
    payer: &'a str,
    issued_at: u64,
    /// Empty where it is not named.
    transaction: String,
}

impl Receipt<'_> {
    fn struct_fields(&self) -> [Word; 6] {
        let text = |text: &str| keccak256(text.as_bytes());
        [
            word_from_u64(self.version),
            text(self.network),
            text(self.resource_url),
            text(self.payer),
            word_from_u64(self.issued_at),
            text(&self.transaction),
        ]
    }
}

/// The end of the minute that a time is in, in seconds.
fn full_minute(time: UnixTime) -> u64 {
    let seconds = time.as_secs();
    seconds.checked_next_multiple_of(60).unwrap_or(seconds)
}

/// The JSON Schema of a payload, all of whose fields but one must be there.
fn schema_of(fields: &[(&str, &str)], optional: &str) -> String {
    let properties: Vec<String> =
        fields.iter().map(|(name, r#type)| format!(r#""{name}":{{"type":"{}"}}"#, r#type)).collect();
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).filter(|name| *name != optional).collect();
    format!(r#"{{"type":"object","properties":{{{}}},"required":{}}}"#, properties.join(","), to_text(&required))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The key that the vectors were made with, by `@x402/extensions` 2.27.0.
    fn issuer(names_transactions: bool) -> Issuer {
        Issuer::new(SecretKey::from_bytes(&[0x11; 32]).unwrap(), true, names_transactions)
    }

    const URL: &str = "https://api.example.com/weather?q=1";
    const PAYER: &str = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A";
    const ISSUED: UnixTime = UnixTime::from_secs(1_767_323_045);

    fn receipt(issuer: &Issuer) -> Value {
        let (network, transaction) = ("eip155:84532".parse().unwrap(), TransactionId::from_bytes([0xab; 32]));
        serde_json::from_str(&issuer.receipt(URL, &network, PAYER, Some(transaction), ISSUED)).unwrap()
    }

    #[test]
    fn a_receipt_is_signed_as_the_official_package_signs_it() {
        let receipt = &receipt(&issuer(false))["info"]["receipt"];
        assert_eq!(
            receipt["signature"],
            "0x8cacf7531b741daa8b627e8aebf3b95398893685126c9fb53065a6bc927c80d550974e835dc46499e42c0b73a852f8e65273cd244313c20229bc6f68c75a75c11c"
        );
        assert_eq!(receipt["payload"]["transaction"], "");
        assert_eq!(receipt["payload"]["issuedAt"], 1_767_323_045);
    }

    #[test]
    fn a_receipt_names_the_transaction_where_it_may() {
        let named = &receipt(&issuer(true))["info"]["receipt"];
        assert_eq!(named["payload"]["transaction"], format!("0x{}", "ab".repeat(32)));
    }

    #[test]
    fn an_offer_is_signed_as_the_official_package_signs_it() {
        let issuer = issuer(false);
        let offer = Offer {
            version: 1,
            resource_url: URL,
            scheme: "exact",
            network: "eip155:84532",
            asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".to_owned(),
            pay_to: PAYER.to_owned(),
            amount: "1000".to_owned(),
            valid_until: 1_767_323_345,
        };
        let offer = Artefact { format: "eip712", accept_index: Some(0), payload: offer, signature: String::new() };
        assert_eq!(
            offer.signed(&issuer, &issuer.offers, Offer::struct_fields).signature,
            "0x0a64f6bf5f01c77a877cb579e9c0ae339bedba654d9b1c4b1c0ad25510066a1f1f177021e121121d20f07f4a73c229ea80ba1823416e06e547a96da1444140d61c"
        );
    }

    #[test]
    fn what_was_signed_before_is_signed_the_same_by_each_key() {
        let digests = [[1; 32], [2; 32]];
        let other = Issuer::new(SecretKey::from_bytes(&[0x22; 32]).unwrap(), true, false);
        for _ in 0..2 {
            for digest in &digests {
                for issuer in [&issuer(false), &other] {
                    let signature = Signature::from_bytes(&issuer.sign(digest)).unwrap();
                    assert_eq!(signature.recover(digest), Ok(issuer.address()));
                }
            }
        }
        for byte in 0..=255 {
            other.sign(&[byte; 32]);
        }
        assert_eq!(other.sign(&[1; 32]), other.key.sign(&[1; 32]));
    }

    #[test]
    fn offers_hold_until_the_minute_is_full() {
        assert_eq!([59, 60, 61].map(|seconds| full_minute(UnixTime::from_secs(seconds))), [60, 60, 120]);
        assert_eq!(full_minute(UnixTime::from_secs(u64::MAX)), u64::MAX);
    }

    #[test]
    fn nobody_sees_the_key() {
        let shown = format!("{:?}", issuer(true));
        assert!(shown.contains("0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A") && !shown.contains("11111"), "{shown}");
    }
}
