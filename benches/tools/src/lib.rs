//! Payments by the thousand, signed in advance, so that signing them costs the measurement nothing.

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use k256::ecdsa::SigningKey;
use serde::Deserialize;
use serde_json::value::RawValue;
use x402_proxy_wasm::channel::{ChannelConfig, ChannelId, domain_separator, voucher_digest};
use x402_proxy_wasm::evm::eip712::{Domain, Word};
use x402_proxy_wasm::evm::eip3009::Authorization;
use x402_proxy_wasm::evm::{Address, Nonce, keccak256};
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::header;

/// What can go wrong here ends the benchmark, so nothing tells its kinds apart.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Who pays in every benchmark. The key is no secret, and the stub of a facilitator names its address as the payer.
pub const PAYER_KEY: [u8; 32] = [0x42; 32];

/// Signs for somebody else than itself.
pub const FORGER_KEY: [u8; 32] = [0x43; 32];

/// What a server asks for: its `PAYMENT-REQUIRED`, as far as a payer needs it.
#[derive(Deserialize)]
pub struct Quote {
    /// The entries that it takes, in its own words.
    pub accepts: Vec<Box<RawValue>>,
    /// What is sold, in its own words.
    pub resource: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    network: String,
    amount: String,
    asset: Address,
    pay_to: Address,
    max_timeout_seconds: u64,
    extra: Extra,
}

#[derive(Deserialize)]
struct Extra {
    name: String,
    version: String,
}

impl Quote {
    /// Reads the header's value.
    ///
    /// # Errors
    /// Where it is not what version 2 of the protocol writes.
    pub fn from_header(value: &str) -> Result<Self, Failure> {
        let json = header::decode(value.as_bytes()).map_err(|error| format!("PAYMENT-REQUIRED: {error}"))?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// A kind of payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In order.
    Honest,
    /// Signed by somebody else than the payer.
    Forged,
    /// To somebody else than asked. Known for wrong before anybody looks at its signature.
    Misdirected,
}

/// Signs payments for an entry of a quote.
pub struct Payer {
    payer: Address,
    honest: SigningKey,
    forger: SigningKey,
    separator: Word,
    entry: Entry,
    accepted: String,
    resource: String,
    valid_before: UnixTime,
    seed: [u8; 32],
}

impl Payer {
    /// A payer for an entry of a quote. Its nonces are others in each run: a ledger may outlive one.
    ///
    /// # Errors
    /// Where the entry is not by EIP-3009 on an EVM chain.
    pub fn new(quote: &Quote, entry: usize) -> Result<Self, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Self::with_seed(
            quote,
            entry,
            now.as_secs(),
            keccak256(format!("{}-{}", now.as_nanos(), std::process::id()).as_bytes()),
        )
    }

    /// A payer at a given time, whose nonces are derived from a seed: the same payments in each run.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_seed(quote: &Quote, entry: usize, now: u64, seed: [u8; 32]) -> Result<Self, Failure> {
        let accepted = quote.accepts.get(entry).ok_or("nothing is accepted there")?.get().to_owned();
        let entry: Entry = serde_json::from_str(&accepted)?;
        let chain_id = entry.network.strip_prefix("eip155:").ok_or("not an EVM chain")?.parse()?;
        let domain = Domain {
            name: &entry.extra.name,
            version: Some(&entry.extra.version),
            chain_id,
            verifying_contract: entry.asset,
        };
        let honest = SigningKey::from_slice(&PAYER_KEY)?;
        Ok(Self {
            payer: address_of(&honest)?,
            honest,
            forger: SigningKey::from_slice(&FORGER_KEY)?,
            separator: domain.separator(),
            accepted,
            resource: quote.resource.as_ref().map_or("{}".to_owned(), |resource| resource.get().to_owned()),
            valid_before: UnixTime::from_secs(now).plus(entry.max_timeout_seconds),
            entry,
            seed,
        })
    }

    /// Who pays.
    pub fn address(&self) -> Address {
        self.payer
    }

    /// The value of `PAYMENT-SIGNATURE` for the payment of this number.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn payment(&self, number: u64, kind: Kind) -> Result<String, Failure> {
        let to = if kind == Kind::Misdirected { self.payer } else { self.entry.pay_to };
        let nonce = keccak256(&[&self.seed[..], &number.to_be_bytes()].concat());
        // Whoever sends what is refused says to be another one each time.
        let from = match (kind, keccak256(&nonce).last_chunk()) {
            (Kind::Forged | Kind::Misdirected, Some(stranger)) => Address::from_bytes(*stranger),
            _ => self.payer,
        };
        let authorization = Authorization {
            from,
            to,
            value: Amount::parse(&self.entry.amount)?,
            valid_after: UnixTime::from_secs(0).into(),
            valid_before: self.valid_before.into(),
            nonce: Nonce::from_bytes(nonce),
        };
        let key = if kind == Kind::Forged { &self.forger } else { &self.honest };
        let (signature, recovery_id) = key.sign_prehash_recoverable(&authorization.digest(&self.separator));
        Ok(header::encode(&format!(
            r#"{{"x402Version":2,"payload":{{"authorization":{},"signature":"0x{}{:02x}"}},"resource":{},"accepted":{}}}"#,
            serde_json::to_string(&authorization)?,
            hex::encode(signature.to_bytes()),
            27 + recovery_id.to_byte(),
            self.resource,
            self.accepted,
        )))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChannelEntry {
    network: String,
    amount: String,
    asset: Address,
    pay_to: Address,
    extra: ChannelExtra,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChannelExtra {
    receiver_authorizer: Address,
    withdraw_delay: u64,
}

/// Signs vouchers of many channels, each of which has a payer of its own.
pub struct ChannelPayer {
    domain: Word,
    amount: u128,
    accepted: String,
    resource: String,
    channels: Vec<Channel>,
}

struct Channel {
    key: SigningKey,
    id: ChannelId,
    config: String,
}

impl ChannelPayer {
    /// A payer with so many channels, for the first entry of a quote that is paid out of one. The same seed gives the same
    /// channels.
    ///
    /// # Errors
    /// Where there is no such entry, or it is not on an EVM chain.
    pub fn new(quote: &Quote, channels: u64, seed: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Named {
            scheme: String,
        }
        let is_channel = |entry: &RawValue| {
            serde_json::from_str::<Named>(entry.get()).is_ok_and(|named| named.scheme == "batch-settlement")
        };
        let accepted = quote
            .accepts
            .iter()
            .map(|entry| &**entry)
            .find(|entry| is_channel(entry))
            .ok_or("no channels are accepted there")?
            .get()
            .to_owned();
        let entry: ChannelEntry = serde_json::from_str(&accepted)?;
        let domain = domain_separator(entry.network.strip_prefix("eip155:").ok_or("not an EVM chain")?.parse()?);
        let channel = |number: u64| -> Result<Channel, Failure> {
            let key = SigningKey::from_slice(&keccak256(format!("{seed}-{number}").as_bytes()))?;
            let payer = address_of(&key)?;
            let config = ChannelConfig {
                payer,
                payer_authorizer: payer,
                receiver: entry.pay_to,
                receiver_authorizer: entry.extra.receiver_authorizer,
                token: entry.asset,
                withdraw_delay: entry.extra.withdraw_delay,
                salt: [0; 32],
            };
            Ok(Channel { key, id: config.id(&domain), config: serde_json::to_string(&config)? })
        };
        Ok(Self {
            domain,
            amount: entry.amount.parse()?,
            channels: (0..channels).map(channel).collect::<Result<_, _>>()?,
            accepted,
            resource: quote.resource.as_ref().map_or("{}".to_owned(), |resource| resource.get().to_owned()),
        })
    }

    /// The value of `PAYMENT-SIGNATURE` for the voucher of this number: the channels take turns, and the total of each grows by
    /// the price with each turn.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn voucher(&self, number: u64) -> Result<String, Failure> {
        let count = self.channels.len() as u64;
        let turn = number.checked_div(count).ok_or("no channels")?;
        let channel = self.channels.get((number % count) as usize).ok_or("no such channel")?;
        let total = self.amount * (u128::from(turn) + 1);
        let digest = voucher_digest(&self.domain, channel.id, total);
        let (signature, recovery_id) = channel.key.sign_prehash_recoverable(&digest);
        Ok(header::encode(&format!(
            r#"{{"x402Version":2,"payload":{{"type":"voucher","channelConfig":{},"voucher":{{"channelId":"{}","maxClaimableAmount":"{total}","signature":"0x{}{:02x}"}}}},"resource":{},"accepted":{}}}"#,
            channel.config,
            channel.id,
            hex::encode(signature.to_bytes()),
            27 + recovery_id.to_byte(),
            self.resource,
            self.accepted,
        )))
    }
}

fn address_of(key: &SigningKey) -> Result<Address, Failure> {
    let point = key.verifying_key().to_sec1_point(false);
    let coordinates = point.as_bytes().get(1..).ok_or("a point without coordinates")?;
    let last = keccak256(coordinates).last_chunk::<20>().copied().ok_or("a hash without 20 bytes")?;
    Ok(Address::from_bytes(last))
}
