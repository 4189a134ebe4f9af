//! What is for sale, for agents that look around: `GET /.well-known/x402`.

use serde::Serialize;
use serde_json::value::RawValue;

use super::RequestHead;
use crate::config::{Config, Route, Terms};
use crate::json::to_text;
use crate::route::Matcher;
use crate::x402::extensions::BAZAAR;
use crate::x402::{Requirement, Version};

/// Where it is asked for.
const PATH: &[u8] = b"/.well-known/x402";

/// Routes that are listed at most.
const MOST_ROUTES: usize = 1000;

/// Whether the catalogue is asked for.
pub(super) fn is_asked(head: &RequestHead) -> bool {
    let is_read = matches!(head.text(":method").as_str(), "GET" | "HEAD");
    is_read && head.path() == PATH
}

/// The priced routes of the host that is asked, with their terms, as JSON. `resources` are the URLs alone; `items` have the terms in version 2, where
/// a path may hold `{parameters}`. A price that depends on the request is left to the 402.
pub(super) fn list(config: &Config, head: &RequestHead) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Catalogue {
        version: u8,
        x402_version: u64,
        resources: Vec<String>,
        items: Vec<Item>,
    }
    let url = head.url();
    let scheme = url.split("://").next().unwrap_or_default();
    let authority = head.text(":authority");
    let priced = config.routes.iter().zip(config.table.matchers());
    let priced = priced.filter(|(_, matcher)| matcher.takes_host(&authority));
    let priced = priced.filter_map(|(Route { terms, .. }, matcher)| Some((terms.as_deref()?, matcher)));
    let items: Vec<Item> =
        priced.take(MOST_ROUTES).map(|(terms, matcher)| Item::new(scheme, &authority, terms, matcher)).collect();
    let resources = items.iter().map(|item| item.resource.clone()).collect();
    to_text(&Catalogue { version: 1, x402_version: Version::V2.number(), resources, items })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    resource: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    x402_version: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mime_type: String,
    accepts: Vec<Requirement>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<Box<RawValue>>,
}

impl Item {
    fn new(scheme: &str, authority: &str, terms: &Terms, matcher: &Matcher) -> Self {
        let is_fixed = terms.tariff.is_none() && terms.price_service.is_none();
        let offers = terms.offers.iter().filter(|offer| is_fixed && offer.is_fixed());
        Self {
            resource: format!("{scheme}://{authority}{}", matcher.path),
            r#type: "http",
            methods: matcher.methods.clone(),
            x402_version: Version::V2.number(),
            description: terms.description.clone(),
            mime_type: terms.mime_type.clone(),
            accepts: offers.map(|offer| offer.requirement.clone()).collect(),
            extensions: terms
                .extensions
                .bazaar
                .as_ref()
                .and_then(|bazaar| RawValue::from_string(format!(r#"{{"{BAZAAR}":{bazaar}}}"#)).ok()),
        }
    }
}
