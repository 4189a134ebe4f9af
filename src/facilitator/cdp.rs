//! Tokens of Coinbase's hosted facilitator (Coinbase Developer Platform, CDP), which wants a JSON Web Token of its own with
//! each call: for one method and one address, for two minutes.
//!
//! Sources: `generateJwt` of npm `@coinbase/cdp-sdk`, whose tokens the vectors hold; RFC 7515 and 7518 for the form; RFC 5915
//! and 5958 for keys in PEM; RFC 6979 for signatures on P-256, which need no randomness.

use std::fmt;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::Signer;

use crate::json::to_text;
use crate::time::UnixTime;

/// Seconds for which a token is good.
const LIFETIME_SECONDS: u64 = 120;

/// A key of the Coinbase Developer Platform, with which tokens are signed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CdpKey {
    id: String,
    secret: Secret,
}

/// The secret half of a key, by its algorithm.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Secret {
    /// EdDSA on Ed25519: the seed.
    Ed25519([u8; 32]),
    /// ECDSA on P-256 (ES256): the scalar.
    P256([u8; 32]),
}

/// The reason why a text is not a key. It holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CdpKeyError {
    /// Neither of the two forms.
    #[error(
        "is not a key as Coinbase's portal shows it: for Ed25519, base64 of 64 bytes; for ECDSA, PEM from -----BEGIN to the end, on P-256"
    )]
    Form,
    /// 64 bytes whose second half is not the public key of the first.
    #[error("is mistyped: its second half is not the public key of its first; copy it anew from Coinbase's portal")]
    Halves,
    /// PEM that holds something else, or a part.
    #[error(
        "is PEM, but no whole private key on P-256; copy all of it, from -----BEGIN EC PRIVATE KEY----- or -----BEGIN PRIVATE KEY----- to the end"
    )]
    Pem,
}

/// Shows neither half of the key.
impl fmt::Debug for CdpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CdpKey(…)")
    }
}

impl CdpKey {
    /// Reads a key: its id, and its secret as Coinbase hands it out. That is base64 of seed and public key for Ed25519, and
    /// PEM (SEC 1 or PKCS #8) for P-256, where `\n` may stand in the place of a line break.
    ///
    /// # Errors
    /// [`CdpKeyError`], if the secret is no key.
    pub fn new(id: &str, secret: &str) -> Result<Self, CdpKeyError> {
        let secret = secret.trim();
        let secret = if secret.contains("-----BEGIN") {
            Secret::P256(pem_scalar(secret).ok_or(CdpKeyError::Pem)?)
        } else {
            let bytes = BASE64_STANDARD.decode(secret).map_err(|_| CdpKeyError::Form)?;
            let pair: [u8; 64] = bytes.try_into().map_err(|_| CdpKeyError::Form)?;
            let key = ed25519_dalek::SigningKey::from_keypair_bytes(&pair).map_err(|_| CdpKeyError::Halves)?;
            Secret::Ed25519(key.to_bytes())
        };
        Ok(Self { id: id.to_owned(), secret })
    }

    /// Returns the token for a call, such as `POST api.cdp.coinbase.com/platform/v2/x402/verify`: good from `now` on for two
    /// minutes. No two tokens have the same `nonce`.
    pub fn token(&self, call: &str, now: UnixTime, nonce: [u8; 16]) -> String {
        let algorithm = match self.secret {
            Secret::Ed25519(_) => "EdDSA",
            Secret::P256(_) => "ES256",
        };
        let id = to_text(&self.id);
        let header = format!(r#"{{"alg":"{algorithm}","kid":{id},"typ":"JWT","nonce":"{}"}}"#, hex::encode(nonce));
        let uri = to_text(&call);
        let (from, until) = (now.as_secs(), now.plus(LIFETIME_SECONDS).as_secs());
        let claims = format!(r#"{{"sub":{id},"iss":"cdp","uris":[{uri}],"iat":{from},"nbf":{from},"exp":{until}}}"#);
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.secret.sign(token.as_bytes());
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// Returns a text with `…` in the place of every token, for a facilitator may repeat what it was sent.
    pub fn hide_tokens(&self, text: &str) -> String {
        /// The beginning of every JSON object in base64, and so of every token.
        const MARK: &str = "eyJ";
        let is_of_token = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        let mut parts = text.split(MARK);
        let mut shown = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // Claims begin as the header before them does.
            if !shown.ends_with('…') {
                shown.push('…');
            }
            shown.push_str(part.trim_start_matches(is_of_token));
        }
        shown
    }

    /// Returns the parts of the key that tell it from every other.
    pub(crate) fn identity(&self) -> [&[u8]; 2] {
        let (Secret::Ed25519(secret) | Secret::P256(secret)) = &self.secret;
        [self.id.as_bytes(), secret]
    }
}

impl Secret {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Self::Ed25519(seed) => ed25519_dalek::SigningKey::from_bytes(seed).sign(message).to_bytes(),
            // The scalar was tried when it was read; a signature of zeros is one that nobody takes.
            Self::P256(scalar) => p256::ecdsa::SigningKey::from_slice(scalar).map_or([0; 64], |key| {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().into()
            }),
        }
    }
}

/// Tags of DER (X.690).
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const OCTETS: u8 = 0x04;
    pub(super) const SEQUENCE: u8 = 0x30;
    /// The field `parameters` of an `ECPrivateKey`.
    pub(super) const PARAMETERS: u8 = 0xa0;
}

/// `prime256v1`, encoded.
const P256_ID: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// The algorithm `ecPublicKey` on `prime256v1`, as PKCS #8 names it, encoded.
const P256_ALGORITHM: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

/// Reads a private key on P-256 in PEM.
fn pem_scalar(pem: &str) -> Option<[u8; 32]> {
    let body = |label: &str| {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let base64: String = body.replace("\\n", "").split_ascii_whitespace().collect();
        BASE64_STANDARD.decode(base64).ok()
    };
    let scalar = match (body("EC PRIVATE KEY"), body("PRIVATE KEY")) {
        (Some(der), _) => sec1_scalar(&der, false)?,
        (None, der) => pkcs8_scalar(&der?)?,
    };
    p256::ecdsa::SigningKey::from_slice(&scalar).is_ok().then_some(scalar)
}

/// Reads a `PrivateKeyInfo` (RFC 5958).
fn pkcs8_scalar(der: &[u8]) -> Option<[u8; 32]> {
    let mut fields = only_element(der)?;
    let _version = take_element(&mut fields, tag::INTEGER)?;
    let algorithm = take_element(&mut fields, tag::SEQUENCE)?;
    let key = take_element(&mut fields, tag::OCTETS)?;
    (algorithm == P256_ALGORITHM).then(|| sec1_scalar(key, true))?
}

/// Reads an `ECPrivateKey` (RFC 5915), which names its curve unless something around it does.
fn sec1_scalar(der: &[u8], is_curve_known: bool) -> Option<[u8; 32]> {
    let mut fields = only_element(der)?;
    let _version = take_element(&mut fields, tag::INTEGER)?;
    let scalar = take_element(&mut fields, tag::OCTETS)?.try_into().ok()?;
    let is_on_p256 = match take_element(&mut fields, tag::PARAMETERS) {
        Some(curve) => curve == P256_ID,
        None => is_curve_known,
    };
    is_on_p256.then_some(scalar)
}

/// Returns what is in the sequence that is the whole of `der`.
fn only_element(mut der: &[u8]) -> Option<&[u8]> {
    let content = take_element(&mut der, tag::SEQUENCE)?;
    der.is_empty().then_some(content)
}

/// Takes the content of the element of a tag off the front; `None`, and nothing taken, where there is none.
fn take_element<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    /// No key comes near 256 bytes.
    const TWO_BYTES: u8 = 0x81;
    let (length, after) = match **rest {
        [found, TWO_BYTES, length, ref after @ ..] if found == tag => (length, after),
        [found, length @ ..=0x7f, ref after @ ..] if found == tag => (length, after),
        _ => return None,
    };
    let (content, after) = after.split_at_checked(usize::from(length))?;
    *rest = after;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_hidden_wherever_they_stand() {
        let key = CdpKey { id: String::new(), secret: Secret::Ed25519([7; 32]) };
        for (text, shown) in [
            ("", ""),
            ("no token", "no token"),
            ("Bearer eyJhbGciOi.eyJz-_A.x1 is stale", "Bearer … is stale"),
            (r#"{"a":"eyJh","b":"eyJ"}"#, r#"{"a":"…","b":"…"}"#),
            ("eyJaeyJb", "…"),
        ] {
            assert_eq!(key.hide_tokens(text), shown);
        }
    }
}
