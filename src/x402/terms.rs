//! The terms that a 402 carries: those of version 2 in a header and those of version 1 in the body. One answer serves both
//! generations of clients: the new ones read the header, the old ones the body.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::extensions::BAZAAR;
use super::offer_receipt::OFFER_RECEIPT;
use super::requirement::{Extra, Requirement};
use super::{Version, header, reason};
use crate::evm::Address;
use crate::json::{canonical_fields, to_text};
use crate::money::Amount;

/// The resource that is paid for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<'a> {
    /// The URL that the client used.
    pub url: &'a str,
    /// The operator's words for people and agents.
    pub description: &'a str,
    /// The media type of the answer.
    pub mime_type: &'a str,
    /// The name of the service that sells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<&'a str>,
    /// Words by which that is found.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tags: &'a [String],
    /// The URL of its icon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon_url: Option<&'a str>,
}

/// Bytes of the JSON of `PAYMENT-REQUIRED` beyond which parts of it are left out: 7,680 in base64, so that the head of a 402
/// stays below 8 KB. Node reads no answer with a head beyond 16 KB, and some proxies none beyond 8.
pub const MAX_HEADER_JSON: usize = 5_760;

/// The terms of version 2, encoded for `PAYMENT-REQUIRED`. `error` says why the request was not served; `extensions` is
/// the JSON of what is declared, an object, where anything is.
///
/// Where that is longer than [`MAX_HEADER_JSON`], what a payer needs least is left out: the description for catalogues, then
/// the signed offers, then the operator's words. Never a way to pay.
pub fn to_header(error: &str, resource: Resource<'_>, accepts: &[&Requirement], extensions: Option<&str>) -> String {
    header::encode(&to_short_json(error, resource, accepts, extensions, MAX_HEADER_JSON))
}

fn to_short_json(
    error: &str,
    resource: Resource<'_>,
    accepts: &[&Requirement],
    extensions: Option<&str>,
    longest: usize,
) -> String {
    let full = to_json(error, resource, accepts, extensions);
    if full.len() <= longest || !has_more_than_needed(&resource, extensions) {
        return full;
    }
    let declared = extensions.and_then(|json| serde_json::from_str::<&RawValue>(json).ok());
    let mut declared = declared.and_then(|json| canonical_fields(json).ok());
    for name in [BAZAAR, OFFER_RECEIPT] {
        if declared.as_mut().and_then(|declared| declared.remove(name)).is_some() {
            let shorter = to_json(error, resource, accepts, declared.as_ref().and_then(to_object).as_deref());
            if shorter.len() <= longest {
                return shorter;
            }
        }
    }
    let extensions = declared.as_ref().map_or_else(|| extensions.map(str::to_owned), to_object);
    let resource = Resource { description: "", service_name: None, tags: &[], icon_url: None, ..resource };
    to_json(error, resource, accepts, extensions.as_deref())
}

/// Returns whether there is something that a payer can do without.
fn has_more_than_needed(resource: &Resource<'_>, extensions: Option<&str>) -> bool {
    let Resource { description, service_name, tags, icon_url, .. } = resource;
    let declares = |name: &str| extensions.is_some_and(|json| json.contains(name));
    !description.is_empty()
        || service_name.is_some()
        || !tags.is_empty()
        || icon_url.is_some()
        || declares(BAZAAR)
        || declares(OFFER_RECEIPT)
}

/// Returns the declared extensions as a JSON object; `None` where there are none. Their names need no escapes.
fn to_object(declared: &BTreeMap<String, String>) -> Option<String> {
    let fields: Vec<_> = declared.iter().map(|(name, json)| format!(r#""{name}":{json}"#)).collect();
    (!fields.is_empty()).then(|| format!("{{{}}}", fields.join(",")))
}

/// The terms of version 2 as JSON.
pub fn to_json(error: &str, resource: Resource<'_>, accepts: &[&Requirement], extensions: Option<&str>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        x402_version: u64,
        error: &'a str,
        resource: Resource<'a>,
        accepts: &'a [&'a Requirement],
        #[serde(skip_serializing_if = "Option::is_none")]
        extensions: Option<&'a RawValue>,
    }
    let extensions = extensions.and_then(|json| serde_json::from_str(json).ok());
    to_text(&Wire { x402_version: Version::V2.number(), error, resource, accepts, extensions })
}

/// The terms of version 1: a JSON body. Entries that version 1 does not know are left out, because its clients take no
/// answer that names one.
pub fn to_v1_body(error: &str, resource: Resource<'_>, accepts: &[&Requirement]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        x402_version: u64,
        error: &'a str,
        accepts: Vec<EntryV1<'a>>,
    }
    let accepts = accepts.iter().filter_map(|requirement| EntryV1::new(requirement, resource)).collect();
    let error = if error == reason::PAYMENT_REQUIRED { reason::X_PAYMENT_REQUIRED } else { error };
    to_text(&Wire { x402_version: Version::V1.number(), error, accepts })
}

/// The terms for requests that bring no payment, made once for a route: all but the URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prepared {
    /// JSON of version 2 with a gap for the URL, which it names once.
    v2: Encoded,
    /// JSON of version 1 with gaps for the URL, which it names in each entry.
    v1: Vec<String>,
    /// The same JSON of version 2 without all that a payer can do without, for long URLs.
    shortest_v2: [String; 2],
}

/// A text with a gap, in base64: what stands around the gap is encoded in advance, as far as it fills groups of three bytes by
/// itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Encoded {
    /// Bytes of the text without what fills the gap.
    length: usize,
    /// The text before the gap, encoded, and its last bytes, which fill no group.
    before: (String, String),
    /// The text behind it, by the number of its bytes that fill the group before them: those bytes, and the rest, encoded.
    behind: [(String, String); 3],
}

impl Encoded {
    /// Encodes what stands before and behind a gap; `None` where letters of several bytes stand at it.
    fn new([before, behind]: &[String; 2]) -> Option<Self> {
        const GROUP: usize = 3;
        let whole = before.len().checked_div(GROUP)?.checked_mul(GROUP)?;
        let (grouped, left) = before.split_at_checked(whole)?;
        let cut = |at: usize| {
            let (first, rest) = behind.split_at_checked(at)?;
            Some((first.to_owned(), header::encode(rest)))
        };
        Some(Self {
            length: before.len().saturating_add(behind.len()),
            before: (header::encode(grouped), left.to_owned()),
            behind: [cut(0)?, cut(1)?, cut(2)?],
        })
    }

    /// Returns the base64 of the text with its gap filled.
    fn fill(&self, text: &str) -> String {
        let (before, left) = &self.before;
        let [none, one, two] = &self.behind;
        let (first, behind) = match left.len().saturating_add(text.len()).checked_rem(3) {
            Some(2) => one,
            Some(1) => two,
            _ => none,
        };
        [before.as_str(), &header::encode(&[left.as_str(), text, first].concat()), behind].concat()
    }
}

impl Prepared {
    /// The URL in place of which the gap is left.
    pub const GAP: &str = "\0";

    /// Bytes that are kept free for the URL.
    const USUAL_URL: usize = 256;

    /// The terms for what is sold at [`Prepared::GAP`]. `accepts_v1` are the entries for version 1.
    /// `None` where the operator's words are as odd as what marks the gap.
    pub fn new(
        resource: Resource<'_>,
        accepts: &[&Requirement],
        accepts_v1: &[&Requirement],
        extensions: Option<&str>,
    ) -> Option<Self> {
        let gap = to_text(&Self::GAP);
        let split = |json: String| json.split(&gap).map(str::to_owned).collect::<Vec<_>>();
        let longest = MAX_HEADER_JSON.saturating_sub(Self::USUAL_URL);
        let v2 = split(to_short_json(reason::PAYMENT_REQUIRED, resource, accepts, extensions, longest));
        let v1 = split(to_v1_body(reason::PAYMENT_REQUIRED, resource, accepts_v1));
        let shortest = split(to_short_json(reason::PAYMENT_REQUIRED, resource, accepts, extensions, 0));
        Some(Self { v2: Encoded::new(&v2.try_into().ok()?)?, v1, shortest_v2: shortest.try_into().ok()? })
    }

    /// Returns what [`to_header`] and [`to_v1_body`] write for this URL, but that of a header that would be too long with it
    /// all is left out that can be.
    pub fn fill(&self, url: &str) -> (String, String) {
        let url = to_text(&url);
        let is_long = self.v2.length.saturating_add(url.len()) > MAX_HEADER_JSON;
        let [before, behind] = &self.shortest_v2;
        let header = match is_long {
            true => header::encode(&[before, url.as_str(), behind].concat()),
            false => self.v2.fill(&url),
        };
        (header, self.v1.join(&url))
    }
}

/// An entry of `accepts` in version 1, which says what is paid for in each.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryV1<'a> {
    scheme: &'a str,
    network: &'a str,
    max_amount_required: Amount,
    resource: &'a str,
    description: &'a str,
    mime_type: &'a str,
    pay_to: Address,
    max_timeout_seconds: u64,
    asset: Address,
    extra: Extra<'a>,
}

impl<'a> EntryV1<'a> {
    /// The entry; `None` where version 1 does not know its like.
    pub fn new(requirement: &'a Requirement, resource: Resource<'a>) -> Option<Self> {
        let evm = requirement.evm()?;
        Some(Self {
            scheme: requirement.scheme.as_str(),
            network: requirement.in_v1()?,
            max_amount_required: requirement.amount,
            resource: resource.url,
            description: resource.description,
            mime_type: resource.mime_type,
            pay_to: evm.pay_to,
            max_timeout_seconds: requirement.max_timeout_seconds,
            asset: evm.asset,
            extra: requirement.extra(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RouteTerms};

    /// The terms of a route that takes three assets, one of them in version 2 alone.
    fn with_terms(description: &str, act: impl FnOnce(&RouteTerms)) {
        let config = serde_json::json!({
            "facilitator": {"cluster": "f", "url": "http://f"},
            "defaults": {"pay_to": "0x1111111111111111111111111111111111111111"},
            "routes": [{"match": {"path": "/"}, "price": "$1", "description": description, "mime_type": "text/plain",
                "extensions": {"payment_identifier": "optional"}, "accepts": [
                {"scheme": "exact", "network": "base", "asset": "USDC"},
                {"scheme": "exact", "network": "base", "asset": "USDC", "transfer_method": "permit2"},
                {"scheme": "exact", "network": "polygon", "asset": "USDC"}]}],
        });
        act(Config::from_json(config.to_string().as_bytes()).unwrap().routes[0].terms.as_ref().unwrap());
    }

    #[test]
    fn what_is_made_in_advance_is_what_would_be_written() {
        for description in ["", "Weather data", "\"http://\" \\ \u{e4} \n", "\\u0000", "\"\\u0000\""] {
            with_terms(description, |terms| {
                let prepared = terms.prepared.as_ref().unwrap();
                assert_eq!(prepared.v1.len(), 3, "version 1 names the URL in two entries");
                let accepts = terms.requirements();
                let extensions = terms.extensions.declared.as_deref();
                for url in [
                    "http://a/",
                    "http://a/b",
                    "http://a/bc",
                    "",
                    "\"",
                    "https://a/?\\u0000=\u{0}&\u{e4}\u{1f600}\n",
                    "http://a/{}\",\"error\":\"",
                ] {
                    let resource = terms.resource(url);
                    let (header, body) = prepared.fill(url);
                    assert_eq!(header, to_header(reason::PAYMENT_REQUIRED, resource, &accepts, extensions));
                    assert_eq!(body, to_v1_body(reason::PAYMENT_REQUIRED, resource, &accepts));
                }
            });
        }
        with_terms("\0", |terms| assert_eq!(terms.prepared, None));
    }
}
