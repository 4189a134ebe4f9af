//! Signing in with a wallet: whoever has paid shows that they hold the payer's key, and need not pay again.
//!
//! Source: `specs/extensions/sign-in-with-x.md` of the x402 repository (CAIP-122), EIP-4361 and its like for Solana, and
//! the package `@x402/extensions` 2.27.0, which signs and checks what is written here.

use http::Uri;
use serde::{Deserialize, Serialize};

use super::NetworkId;
use super::extensions::DRAFT;
use super::payment::Payer;
use crate::evm::Address;
use crate::evm::signature::{Signature, personal_digest};
use crate::json::{self, JsonError, to_text};
use crate::svm;
use crate::time::UnixTime;

/// The extension, and the header that a client signs in by.
pub const SIGN_IN_WITH_X: &str = "sign-in-with-x";

/// Seconds for which a challenge may be answered.
pub const LIFETIME_SECONDS: u64 = 300;

/// Bytes of the header beyond which it is refused unread: it repeats the URL twice, beside less than a kilobyte.
pub const MAX_LENGTH: usize = 8 * 1024;

/// Seconds that a nonce outlives its message: time passes between the check and the ledger.
const SLACK_SECONDS: u64 = 60;

/// The place at which a client signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `https://api.example.com`: without the port where that is the scheme's own.
    origin: String,
    /// `api.example.com`, or `api.example.com:8443`.
    domain: String,
    /// Without query.
    path: String,
    /// The query with its question mark, or nothing.
    query: String,
}

impl Site {
    /// The place of an `http` or `https` URL; `None` where it is none.
    pub fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?;
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().to_ascii_lowercase();
        let domain = match authority.port_u16() {
            Some(port) if port != usual => format!("{host}:{port}"),
            _ => host,
        };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Some(Self { origin: format!("{scheme}://{domain}"), domain, path: uri.path().to_owned(), query })
    }

    fn has_place_of(&self, other: &Self) -> bool {
        (&self.origin, &self.path) == (&other.origin, &other.path)
    }
}

/// The networks whose accounts can sign in, of those that are offered: Ethereum's family and Solana's.
pub fn chains<'a>(networks: impl Iterator<Item = &'a NetworkId>) -> Vec<&'a NetworkId> {
    let mut chains: Vec<&NetworkId> = Vec::new();
    for network in networks {
        if signature_type(network).is_some() && !chains.contains(&network) {
            chains.push(network);
        }
    }
    chains
}

fn signature_type(network: &NetworkId) -> Option<&'static str> {
    match network.as_str().split_once(':') {
        Some(("eip155", _)) => network.chain_id().map(|_| "eip191"),
        Some(("solana", _)) if cfg!(feature = "solana") => Some("ed25519"),
        _ => None,
    }
}

/// A challenge that a client is asked to sign.
#[derive(Debug, Clone, Copy)]
pub struct Challenge<'a> {
    /// The place.
    pub site: &'a Site,
    /// By accounts of which networks; see [`chains`].
    pub chains: &'a [&'a NetworkId],
    /// A number that no other challenge has.
    pub nonce: [u8; 16],
    /// The time at which it was made.
    pub issued: UnixTime,
    /// The operator's words.
    pub statement: Option<&'a str>,
}

impl Challenge<'_> {
    /// The declaration of [`SIGN_IN_WITH_X`], as JSON.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Info<'a> {
            domain: &'a str,
            uri: &'a str,
            version: &'a str,
            nonce: String,
            issued_at: String,
            expiration_time: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            statement: Option<&'a str>,
            resources: [&'a str; 1],
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Chain<'a> {
            chain_id: &'a NetworkId,
            r#type: Option<&'a str>,
        }
        let Self { site, chains, nonce, issued, statement } = *self;
        let uri = format!("{}{}{}", site.origin, site.path, site.query);
        let info = Info {
            domain: &site.domain,
            uri: &uri,
            version: "1",
            nonce: hex::encode(nonce),
            issued_at: issued.to_rfc3339(),
            expiration_time: issued.plus(LIFETIME_SECONDS).to_rfc3339(),
            statement,
            resources: [&uri],
        };
        let chains: Vec<_> = chains.iter().map(|id| Chain { chain_id: id, r#type: signature_type(id) }).collect();
        format!(r#"{{"info":{},"supportedChains":{},"schema":{}}}"#, to_text(&info), to_text(&chains), schema())
    }
}

/// The JSON Schema of what a client sends.
fn schema() -> String {
    const FIELDS: [(&str, &str); 14] = [
        ("domain", r#"{"type":"string"}"#),
        ("address", r#"{"type":"string"}"#),
        ("statement", r#"{"type":"string"}"#),
        ("uri", r#"{"type":"string","format":"uri"}"#),
        ("version", r#"{"type":"string"}"#),
        ("chainId", r#"{"type":"string"}"#),
        ("type", r#"{"type":"string"}"#),
        ("nonce", r#"{"type":"string"}"#),
        ("issuedAt", r#"{"type":"string","format":"date-time"}"#),
        ("expirationTime", r#"{"type":"string","format":"date-time"}"#),
        ("notBefore", r#"{"type":"string","format":"date-time"}"#),
        ("requestId", r#"{"type":"string"}"#),
        ("resources", r#"{"type":"array","items":{"type":"string","format":"uri"}}"#),
        ("signature", r#"{"type":"string"}"#),
    ];
    const OPTIONAL: [&str; 5] = ["statement", "expirationTime", "notBefore", "requestId", "resources"];
    let properties: Vec<String> = FIELDS.iter().map(|(name, schema)| format!(r#""{name}":{schema}"#)).collect();
    let required: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).filter(|name| !OPTIONAL.contains(name)).collect();
    format!(
        r#"{{"$schema":"{DRAFT}","type":"object","properties":{{{}}},"required":{}}}"#,
        properties.join(","),
        to_text(&required)
    )
}

/// A sign-in as a client sends it: the challenge, its account, and the signature of both.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignIn {
    domain: String,
    address: String,
    statement: Option<String>,
    uri: String,
    version: String,
    chain_id: String,
    nonce: String,
    issued_at: String,
    expiration_time: Option<String>,
    not_before: Option<String>,
    request_id: Option<String>,
    resources: Option<Vec<String>>,
    signature: String,
}

/// An error in a text that is not a [`SignIn`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInFormatError {
    /// Not of the right shape.
    #[error("{0}")]
    Shape(JsonError),
    /// A line break or the like would make another message of it.
    #[error("holds a control character")]
    Control,
}

/// An account that has signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The account.
    pub payer: Payer,
    /// The nonce, with which no message must be taken again.
    pub nonce: String,
    /// The time from which the message is surely too old anyway.
    pub until: UnixTime,
}

/// A reason why a sign-in is not valid, by the name that the official package has for it, as far as it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// Another host's.
    #[error("invalid_siwx_domain_mismatch")]
    Domain,
    /// Another resource's.
    #[error("invalid_siwx_uri_mismatch")]
    Uri,
    /// Not version 1.
    #[error("invalid_siwx_version")]
    Version,
    /// Of a network that is none of those asked for.
    #[error("invalid_siwx_unsupported_chain")]
    Chain,
    /// `issuedAt` is no time in UTC.
    #[error("invalid_siwx_issued_at")]
    IssuedAt,
    /// Older than [`LIFETIME_SECONDS`].
    #[error("invalid_siwx_issued_at_too_old")]
    TooOld,
    /// Issued in the future.
    #[error("invalid_siwx_issued_at_in_future")]
    InFuture,
    /// `expirationTime` is no time in UTC.
    #[error("invalid_siwx_expiration_time")]
    ExpirationTime,
    /// Expired by its own word.
    #[error("invalid_siwx_expired")]
    Expired,
    /// `notBefore` is no time in UTC.
    #[error("invalid_siwx_not_before")]
    NotBefore,
    /// Not valid yet by its own word.
    #[error("invalid_siwx_not_yet_valid")]
    NotYetValid,
    /// The nonce is none, or was used.
    #[error("invalid_siwx_nonce")]
    Nonce,
    /// Account or signature cannot be read.
    #[error("invalid_siwx_malformed_signature")]
    Malformed,
    /// Not the account's own signature.
    #[error("invalid_siwx_signature")]
    Signature,
}

impl SignIn {
    /// Reads what stands in the header, decoded.
    ///
    /// # Errors
    /// [`SignInFormatError`].
    pub fn from_json(json: &[u8]) -> Result<Self, SignInFormatError> {
        let sign_in: Self = json::from_slice(json).map_err(SignInFormatError::Shape)?;
        let has_control = sign_in.texts().any(|text| text.chars().any(char::is_control));
        if has_control { Err(SignInFormatError::Control) } else { Ok(sign_in) }
    }

    /// Returns the texts that go into the message and are not compared with anything.
    fn texts(&self) -> impl Iterator<Item = &String> {
        let Self { statement, uri, issued_at, expiration_time, not_before, request_id, resources, .. } = self;
        let optional = [statement, request_id, expiration_time, not_before].into_iter().flatten();
        optional.chain(resources.iter().flatten()).chain([uri, issued_at])
    }

    /// Checks all that can be: whether it was used before, its reader has to remember.
    ///
    /// # Errors
    /// [`SignInError`].
    pub fn check(&self, site: &Site, chains: &[&NetworkId], now: UnixTime) -> Result<SignedIn, SignInError> {
        if self.domain != site.domain {
            return Err(SignInError::Domain);
        }
        if !Site::of(&self.uri).is_some_and(|uri| uri.has_place_of(site)) {
            return Err(SignInError::Uri);
        }
        if self.version != "1" {
            return Err(SignInError::Version);
        }
        let network = chains.iter().find(|id| id.as_str() == self.chain_id).ok_or(SignInError::Chain)?;
        if self.nonce.len() < 8 || !self.nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(SignInError::Nonce);
        }
        let until = self.check_times(now)?;
        let payer = match network.chain_id() {
            Some(chain_id) => self.check_evm(chain_id)?,
            None => self.check_svm()?,
        };
        Ok(SignedIn { payer, nonce: self.nonce.clone(), until })
    }

    /// Returns the time until which it can be used, and so its nonce is to be remembered.
    fn check_times(&self, now: UnixTime) -> Result<UnixTime, SignInError> {
        let issued = UnixTime::from_rfc3339(&self.issued_at).ok_or(SignInError::IssuedAt)?;
        if issued > now {
            return Err(SignInError::InFuture);
        }
        let end = issued.plus(LIFETIME_SECONDS);
        if end < now {
            return Err(SignInError::TooOld);
        }
        if let Some(text) = &self.expiration_time
            && UnixTime::from_rfc3339(text).ok_or(SignInError::ExpirationTime)? <= now
        {
            return Err(SignInError::Expired);
        }
        if let Some(text) = &self.not_before
            && UnixTime::from_rfc3339(text).ok_or(SignInError::NotBefore)? > now
        {
            return Err(SignInError::NotYetValid);
        }
        Ok(end.plus(SLACK_SECONDS))
    }

    fn check_evm(&self, chain_id: u64) -> Result<Payer, SignInError> {
        let address: Address = self.address.parse().map_err(|_| SignInError::Malformed)?;
        let digits = self.signature.strip_prefix("0x").ok_or(SignInError::Malformed)?;
        let bytes = hex::decode(digits).map_err(|_| SignInError::Malformed)?;
        let signature = Signature::from_personal_bytes(&bytes).map_err(|_| SignInError::Signature)?;
        let message = self.message("Ethereum", &address.to_string(), &chain_id.to_string());
        match signature.recover(&personal_digest(&message)) {
            Ok(signer) if signer == address => Ok(Payer::Evm(address)),
            _ => Err(SignInError::Signature),
        }
    }

    fn check_svm(&self) -> Result<Payer, SignInError> {
        let account: svm::Pubkey = self.address.parse().map_err(|_| SignInError::Malformed)?;
        let signature: svm::Signature = self.signature.parse().map_err(|_| SignInError::Malformed)?;
        let reference = self.chain_id.split_once(':').map_or("", |(_, reference)| reference);
        let message = self.message("Solana", &account.to_string(), reference);
        match svm::verify_message(&account, message.as_bytes(), &signature) {
            true => Ok(Payer::Foreign(account.to_string())),
            false => Err(SignInError::Signature),
        }
    }

    /// The text that the wallet shows and signs.
    fn message(&self, kind: &str, account: &str, chain: &str) -> String {
        let statement = match self.statement.as_deref().filter(|statement| !statement.is_empty()) {
            Some(statement) => format!("\n{statement}\n"),
            // EIP-4361 leaves the empty lines on both sides of what is not there.
            None if kind == "Ethereum" => "\n".to_owned(),
            None => String::new(),
        };
        let Self { domain, uri, version, nonce, issued_at, .. } = self;
        let mut message = format!(
            "{domain} wants you to sign in with your {kind} account:\n{account}\n{statement}\nURI: {uri}\nVersion: {version}\nChain ID: {chain}\nNonce: {nonce}\nIssued At: {issued_at}"
        );
        let further = [
            ("Expiration Time", &self.expiration_time),
            ("Not Before", &self.not_before),
            ("Request ID", &self.request_id),
        ];
        for (name, text) in further {
            message.extend(text.iter().map(|text| format!("\n{name}: {text}")));
        }
        if let Some(resources) = self.resources.as_deref().filter(|resources| !resources.is_empty()) {
            message.push_str("\nResources:");
            message.extend(resources.iter().map(|resource| format!("\n- {resource}")));
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// By the key 0x11…11, with `@x402/extensions` 2.27.0.
    const WITH_STATEMENT: &str = "0x10a8cf6a872ac1ad5f5291b8974ba551701882c14207c5b63afefeab7e6091142d4959fc292d9e673260b5dc51e4fab28a373316a878274e393b6115c5e2a4dc1c";
    const PLAIN: &str = "0x663cad7a66561ec756d8b21aad16c97a9296e27fa15318e76d93ca2b4d4baa986e964a93348271e461e9e523c7889b72276506007c13c3da6433683d988297bf1b";
    const SHORT: &str = "0x08e0a931d6e151d3b721e804293862a6f428374d441c5f4d07907aafb146940f614d62ad01d8fe40f911cb395790670939160b902782a36ce5dac6a619cdba421b";

    const NOW: UnixTime = UnixTime::from_secs(1_767_323_045);

    fn signed() -> Value {
        json!({
            "domain": "api.example.com", "address": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "uri": "https://api.example.com/weather?q=1", "version": "1", "chainId": "eip155:84532", "type": "eip191",
            "nonce": "0123456789abcdef0123456789abcdef", "issuedAt": "2026-01-02T03:04:05.000Z",
            "expirationTime": "2026-01-02T03:09:05.000Z", "resources": ["https://api.example.com/weather?q=1"],
            "signature": PLAIN,
        })
    }

    fn with(changes: &Value) -> Value {
        let mut changed = signed();
        for (name, value) in changes.as_object().unwrap() {
            changed[name] = value.clone();
        }
        changed
    }

    fn check_at(value: &Value, url: &str, now: UnixTime) -> Result<SignedIn, SignInError> {
        let base: NetworkId = "eip155:84532".parse().unwrap();
        let solana: NetworkId = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1".parse().unwrap();
        let sign_in = SignIn::from_json(value.to_string().as_bytes()).unwrap();
        sign_in.check(&Site::of(url).unwrap(), &[&base, &solana], now)
    }

    fn check(value: &Value) -> Result<SignedIn, SignInError> {
        check_at(value, "https://api.example.com/weather?q=2", NOW)
    }

    #[test]
    fn what_official_clients_sign_is_taken() {
        let address: Address = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A".parse().unwrap();
        for value in [
            signed(),
            with(&json!({"statement": "Sign in.", "signature": WITH_STATEMENT})),
            with(
                &json!({"issuedAt": "2026-01-02T03:04:05Z", "expirationTime": null, "resources": null, "signature": SHORT}),
            ),
            with(&json!({"address": "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"})),
            // Some wallets write v as 0 and 1.
            with(&json!({"signature": PLAIN.strip_suffix("1b").map(|rs| format!("{rs}00"))})),
        ] {
            let signed_in = check(&value).unwrap();
            assert_eq!(signed_in.payer, Payer::Evm(address));
            assert_eq!(signed_in.until, NOW.plus(360));
        }
    }

    #[test]
    fn what_wallets_of_solana_sign_is_taken() {
        const ACCOUNT: &str = "F25s3DdjXdCxYBhh2z8FBusVEMT4b9bGNFVKJi3wFoF4";
        const SIGNATURES: [(Option<&str>, &str); 2] = [
            (None, "Zdgx9vFMYn6Tqj31W8Az1N9dX7eSoNdQvQYKMVrckB3PHn2EYDVw5FRFmRajBkVYJ21WtTNu9HxbK7PByvT7cwm"),
            (
                Some("Sign in."),
                "2aNAyWt7hUBGoTwGZtdHyhinJQUHgoHZRFraymdSQJ6PWBRhb2H8tGykDcFn2gokd3xoZpLUrbkDjunmLpD66822",
            ),
        ];
        let chain =
            json!({"chainId": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "type": "ed25519", "address": ACCOUNT});
        for (statement, signature) in SIGNATURES {
            let mut value = with(&chain);
            (value["statement"], value["signature"]) = (statement.into(), signature.into());
            assert_eq!(check(&value).unwrap().payer, Payer::Foreign(ACCOUNT.to_owned()));
            value["requestId"] = "1".into();
            assert_eq!(check(&value), Err(SignInError::Signature));
            value["signature"] = "0x11".into();
            assert_eq!(check(&value), Err(SignInError::Malformed));
            value["address"] = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A".into();
            assert_eq!(check(&value), Err(SignInError::Malformed));
        }
    }

    #[test]
    fn what_is_not_for_here_is_refused() {
        let wrong = [
            (json!({"domain": "api.example.com:443"}), SignInError::Domain),
            (json!({"uri": "https://evil.example/weather"}), SignInError::Uri),
            (json!({"uri": "https://api.example.com/other"}), SignInError::Uri),
            (json!({"uri": "http://api.example.com/weather"}), SignInError::Uri),
            (json!({"uri": "https://you@api.example.com/weather"}), SignInError::Uri),
            (json!({"uri": "weather"}), SignInError::Uri),
            (json!({"version": "2"}), SignInError::Version),
            (json!({"chainId": "eip155:1"}), SignInError::Chain),
            (json!({"chainId": "eip155:084532"}), SignInError::Chain),
            (json!({"nonce": "0123456"}), SignInError::Nonce),
            (json!({"nonce": "0123-4567"}), SignInError::Nonce),
            (json!({"issuedAt": "now"}), SignInError::IssuedAt),
            (json!({"issuedAt": "2026-01-02T03:04:06Z"}), SignInError::InFuture),
            (json!({"issuedAt": "2026-01-02T02:59:04Z"}), SignInError::TooOld),
            (json!({"expirationTime": "soon"}), SignInError::ExpirationTime),
            (json!({"expirationTime": "2026-01-02T03:04:05Z"}), SignInError::Expired),
            (json!({"notBefore": "later"}), SignInError::NotBefore),
            (json!({"notBefore": "2026-01-02T03:04:06Z"}), SignInError::NotYetValid),
            (json!({"address": "0x19e7"}), SignInError::Malformed),
            (json!({"signature": "11"}), SignInError::Malformed),
            (json!({"signature": "0xzz"}), SignInError::Malformed),
            (json!({"signature": "0x"}), SignInError::Signature),
            (json!({"signature": format!("{PLAIN}00")}), SignInError::Signature),
            (json!({"signature": WITH_STATEMENT}), SignInError::Signature),
            (json!({"statement": "Sign in."}), SignInError::Signature),
            (json!({"requestId": "1"}), SignInError::Signature),
            (json!({"notBefore": "2026-01-02T03:04:05Z"}), SignInError::Signature),
            (json!({"resources": ["https://api.example.com/"]}), SignInError::Signature),
            (json!({"nonce": "0123456789abcdef0123456789abcdee"}), SignInError::Signature),
            (json!({"address": "0x036CbD53842c5426634e7929541eC2318f3dCF7e"}), SignInError::Signature),
        ];
        for (changes, refusal) in wrong {
            assert_eq!(check(&with(&changes)), Err(refusal), "{changes}");
        }
        assert_eq!(check_at(&signed(), "https://api.example.com/Weather", NOW), Err(SignInError::Uri));
        assert_eq!(check_at(&signed(), "https://other.example/weather", NOW), Err(SignInError::Domain));
        assert!(check_at(&signed(), "https://API.example.com:443/weather", NOW.plus(299)).is_ok());
        assert_eq!(check_at(&signed(), "https://api.example.com/weather", NOW.plus(300)), Err(SignInError::Expired));
    }

    #[test]
    fn what_is_no_sign_in_is_refused() {
        let read = |value: &Value| SignIn::from_json(value.to_string().as_bytes()).unwrap_err();
        for field in ["domain", "address", "uri", "version", "chainId", "nonce", "issuedAt", "signature"] {
            assert!(matches!(read(&with(&json!({ field: 7 }))), SignInFormatError::Shape(_)), "{field}");
        }
        for field in ["statement", "requestId", "expirationTime", "notBefore", "uri", "issuedAt"] {
            assert_eq!(read(&with(&json!({ field: "a\nb" }))), SignInFormatError::Control, "{field}");
        }
        assert_eq!(read(&with(&json!({"resources": ["a\r"]}))), SignInFormatError::Control);
    }

    #[test]
    fn places_are_read_as_browsers_read_them() {
        let site = |url: &str| Site::of(url).map(|site| (site.origin, site.domain, site.path));
        let plain =
            |origin: &str, domain: &str, path: &str| Some((origin.to_owned(), domain.to_owned(), path.to_owned()));
        assert_eq!(site("HTTPS://API.example.com:443/A?b"), plain("https://api.example.com", "api.example.com", "/A"));
        assert_eq!(site("http://a:8080"), plain("http://a:8080", "a:8080", "/"));
        for wrong in ["", "*", "/a", "ftp://a/", "http://u@a/", "http://a/ b", "mailto:a"] {
            assert_eq!(site(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks_that_sign_otherwise_are_left_out() {
        let ids =
            ["eip155:1", "solana:a", "eip155:1", "cosmos:a", "eip155:x"].map(|id| id.parse::<NetworkId>().unwrap());
        let chains: Vec<&str> = chains(ids.iter()).into_iter().map(NetworkId::as_str).collect();
        assert_eq!(chains, ["eip155:1", "solana:a"]);
    }
}
