//! What is for sale, for agents that look around: made when the configuration is loaded. A request puts the pieces of its
//! host together, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Origin, Route, ShownAt, Terms};
use crate::json::to_text;
use crate::route::{HostPattern, Matcher, host_of};
use crate::x402::extensions::BAZAAR;
use crate::x402::{Requirement, Version};

/// Bytes of the catalogue of one host.
const MOST_BYTES: usize = 256 * 1024;

/// Bytes of what is prepared for all hosts.
const MOST_PREPARED_BYTES: usize = 4 * 1024 * 1024;

/// The longest host that has a catalogue; no name is longer (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 255;

/// The priced routes with their terms, ready to be listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    items: Vec<Item>,
    any_host: Listed,
    exact_hosts: BTreeMap<String, Listed>,
    hosts_below: BTreeMap<String, Listed>,
}

/// Items of a host, by their index.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    indices: Vec<usize>,
    bytes: usize,
    /// Routes that found no room.
    left_out: usize,
}

/// A route for sale, as JSON that lacks the URL's origin.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    /// The end of its URL: from the path to the closing quote.
    url: String,
    /// The same with all that follows in the object.
    object: String,
    shown_at: ShownAt,
}

const OBJECT: &str = r#"{"resource":""#;

impl Item {
    /// The item. Its `accepts` are empty where the price depends on the request: that is left to the 402.
    fn new(terms: &Terms, matcher: &Matcher) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            resource: &'a str,
            r#type: &'static str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            methods: &'a [String],
            x402_version: u64,
            #[serde(skip_serializing_if = "str::is_empty")]
            description: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            mime_type: &'a str,
            accepts: Vec<&'a Requirement>,
            #[serde(skip_serializing_if = "Option::is_none")]
            extensions: Option<Box<RawValue>>,
        }
        let is_fixed = terms.tariff.is_none() && terms.price_service.is_none();
        let offers = terms.offers.iter().filter(|offer| is_fixed && offer.is_fixed());
        let bazaar = terms.extensions.bazaar.as_ref();
        let path = matcher.path.to_string();
        let object = to_text(&Wire {
            resource: &path,
            r#type: "http",
            methods: &matcher.methods,
            x402_version: Version::V2.number(),
            description: &terms.description,
            mime_type: &terms.mime_type,
            accepts: offers.map(|offer| &offer.requirement).collect(),
            extensions: bazaar.and_then(|json| RawValue::from_string(format!(r#"{{"{BAZAAR}":{json}}}"#)).ok()),
        });
        let behind = |json: String, start: &str| json.strip_prefix(start).map(str::to_owned).unwrap_or_default();
        Self { url: behind(to_text(&path), "\""), object: behind(object, OBJECT), shown_at: terms.shown_at.clone() }
    }

    /// Bytes that it takes beside the origins, which stand there twice.
    const fn len(&self) -> usize {
        self.url.len().saturating_add(self.object.len()).saturating_add(OBJECT.len()).saturating_add(3)
    }
}

impl Listed {
    /// Takes an item in, where there is room.
    fn push(&mut self, index: usize, bytes: usize) {
        let all = self.bytes.saturating_add(bytes);
        if all > MOST_BYTES {
            self.left_out = self.left_out.saturating_add(1);
        } else {
            self.bytes = all;
            self.indices.push(index);
        }
    }
}

impl Catalogue {
    /// The catalogue of these routes.
    pub(super) fn new<'a>(routes: impl Iterator<Item = (&'a Route, &'a Matcher)>) -> Self {
        let mut catalogue = Self::default();
        let mut prepared = 0_usize;
        for (terms, matcher) in routes.filter_map(|(route, matcher)| Some((route.terms.as_deref()?, matcher))) {
            let (item, index) = (Item::new(terms, matcher), catalogue.items.len());
            let all = prepared.saturating_add(item.len());
            let bytes = if all > MOST_PREPARED_BYTES { usize::MAX } else { item.len() };
            if matcher.hosts.is_empty() {
                catalogue.any_host.push(index, bytes);
            }
            for host in &matcher.hosts {
                let listed = match host {
                    HostPattern::Exact(name) => catalogue.exact_hosts.entry(name.clone()).or_default(),
                    HostPattern::Below(suffix) => catalogue.hosts_below.entry(suffix.clone()).or_default(),
                };
                listed.push(index, bytes);
            }
            if bytes != usize::MAX {
                prepared = all;
                catalogue.items.push(item);
            }
        }
        catalogue
    }

    /// What the operator should know of it, where it lacks something.
    pub(super) fn warnings(&self, origins: &[Origin]) -> Option<String> {
        let below = self.hosts_below.keys().map(|suffix| format!("host{suffix}"));
        let hosts = self.exact_hosts.keys().cloned().chain(below).chain(["host".to_owned()]);
        let full =
            hosts.filter(|host| self.listed(host).any(|listed| listed.left_out > 0) || self.is_nearly_full(host));
        let most = full.map(|host| self.list("https", &host, origins).1).max().filter(|left_out| *left_out > 0)?;
        Some(format!(
            "GET /.well-known/x402 leaves out {most} routes of a host that has more than fit: it lists at most {MOST_BYTES} bytes, and says truncated"
        ))
    }

    /// What is for sale at the host that a client asks, as JSON. `resources` are the URLs alone; `items` have the terms in
    /// version 2, where a path may hold `{parameters}`. Whole items up to [`MOST_BYTES`]; `truncated` where there are more.
    pub fn to_json(&self, scheme: &str, authority: &str, origins: &[Origin]) -> String {
        self.list(scheme, authority, origins).0
    }

    /// The JSON, and how many routes it leaves out.
    fn list(&self, scheme: &str, authority: &str, origins: &[Origin]) -> (String, usize) {
        let host = host_of(authority).filter(|host| host.len() <= LONGEST_HOST).unwrap_or_default();
        let used = Origin::of_request(scheme, authority);
        let is_own = used.as_ref().is_some_and(|used| origins.contains(used));
        let as_asked = used.filter(|_| !host.is_empty()).map(|origin| origin.to_string()).unwrap_or_default();
        let listed: Vec<&Listed> = if host.is_empty() { Vec::new() } else { self.listed(&host).collect() };
        let mut indices = BTreeSet::new();
        for index in listed.iter().flat_map(|listed| &listed.indices) {
            indices.insert(*index);
        }
        let mut left_out = listed.iter().fold(0_usize, |sum, listed| sum.saturating_add(listed.left_out));
        let (mut resources, mut items) = (String::new(), String::new());
        for item in indices.into_iter().filter_map(|index| self.items.get(index)) {
            let usual = match &item.shown_at {
                ShownAt::Origin(usual) if !is_own => Some(usual.to_string()),
                _ => None,
            };
            let origin = usual.as_deref().unwrap_or(&as_asked);
            let bytes = origin.len().saturating_mul(2).saturating_add(item.len());
            if resources.len().saturating_add(items.len()).saturating_add(bytes) > MOST_BYTES {
                left_out = left_out.saturating_add(1);
                continue;
            }
            let separator = if resources.is_empty() { "" } else { "," };
            for part in [separator, "\"", origin, &item.url] {
                resources.push_str(part);
            }
            for part in [separator, OBJECT, origin, &item.object] {
                items.push_str(part);
            }
        }
        let truncated = if left_out > 0 { r#","truncated":true"# } else { "" };
        let x402_version = Version::V2.number();
        let json = format!(
            r#"{{"version":1,"x402Version":{x402_version},"resources":[{resources}],"items":[{items}]{truncated}}}"#
        );
        (json, left_out)
    }

    /// Whether there may be no room for all of a host's items, with their origins.
    fn is_nearly_full(&self, host: &str) -> bool {
        let bytes = self.listed(host).map(|listed| {
            let origins = listed.indices.len().saturating_mul(LONGEST_HOST.saturating_mul(2));
            listed.bytes.saturating_add(origins)
        });
        bytes.fold(0_usize, usize::saturating_add) > MOST_BYTES
    }

    /// The lists that a host is in.
    fn listed<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Listed> {
        let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
        let below = suffixes.filter_map(|suffix| self.hosts_below.get(suffix));
        self.exact_hosts.get(host).into_iter().chain(below).chain([&self.any_host])
    }
}
