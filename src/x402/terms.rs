//! What a 402 says: the terms of version 2 in a header and those of version 1 in the body. One answer serves both
//! generations of clients: the new ones read the header, the old ones the body.

use serde::Serialize;
use serde_json::value::RawValue;

use super::requirement::{Extra, Requirement};
use super::{Version, header, reason};
use crate::evm::Address;
use crate::json::to_text;
use crate::money::Amount;

/// What is paid for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<'a> {
    /// The URL that the client used.
    pub url: &'a str,
    /// The operator's words for people and agents.
    pub description: &'a str,
    /// The media type of the answer.
    pub mime_type: &'a str,
}

/// The terms of version 2, encoded for `PAYMENT-REQUIRED`. `error` says why the request was not served; `extensions` is
/// the JSON of what is declared, an object, where anything is.
pub fn to_header(error: &str, resource: Resource<'_>, accepts: &[&Requirement], extensions: Option<&str>) -> String {
    header::encode(&to_json(error, resource, accepts, extensions))
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
