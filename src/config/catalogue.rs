//! The list of what is for sale, for agents that look around: made when the configuration is loaded. A request only puts
//! the pieces of its host together.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Mode, Origin, Route, RouteTerms, ShownAt};
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
    /// Routes for which there is no room at all.
    unprepared: usize,
}

/// A route for sale, as JSON that lacks the URL's origin.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    /// The end of its URL: from the path to the closing quote.
    url: String,
    /// The end of its URL with all that follows in the object.
    object: String,
    shown_at: ShownAt,
    hosts: Vec<HostPattern>,
}

const OBJECT: &str = r#"{"resource":""#;

impl Item {
    /// The item. Its `accepts` are empty where the price depends on the request: that is left to the 402.
    fn new(terms: &RouteTerms, matcher: &Matcher) -> Self {
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
        let is_fixed = terms.has_fixed_price();
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
        Self {
            url: behind(to_text(&path), "\""),
            object: behind(object, OBJECT),
            shown_at: terms.shown_at.clone(),
            hosts: matcher.hosts.clone(),
        }
    }

    fn is_at(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.takes(host))
    }

    /// Bytes that it takes beside the origins, which stand there twice.
    const fn len(&self) -> usize {
        self.url.len().saturating_add(self.object.len()).saturating_add(OBJECT.len()).saturating_add(3)
    }
}

impl Catalogue {
    /// The catalogue of these routes.
    pub(super) fn new<'a>(routes: impl Iterator<Item = (&'a Route, &'a Matcher)>) -> Self {
        let mut catalogue = Self::default();
        let mut bytes = 0_usize;
        let priced = routes.filter_map(|(route, matcher)| Some((route.terms.as_deref()?, matcher)));
        for (terms, matcher) in priced.filter(|(terms, _)| terms.mode == Mode::Enforce) {
            let item = Item::new(terms, matcher);
            let all = bytes.saturating_add(item.len());
            if all > MOST_PREPARED_BYTES {
                catalogue.unprepared = catalogue.unprepared.saturating_add(1);
            } else {
                bytes = all;
                catalogue.items.push(item);
            }
        }
        catalogue
    }

    /// Returns a warning for the operator, where the catalogue leaves something out.
    pub(super) fn warning(&self, origins: &[Origin]) -> Option<String> {
        /// Enough of them to find out that one has too much.
        const MOST_HOSTS: usize = 1000;
        let bytes = self.items.iter().map(|item| item.len().saturating_add(LONGEST_HOST.saturating_mul(2)));
        let is_small = self.unprepared == 0 && bytes.fold(0_usize, usize::saturating_add) <= MOST_BYTES;
        if is_small {
            return None;
        }
        let hosts = self.items.iter().flat_map(|item| &item.hosts).map(|host| match host {
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Below(suffix) => format!("host{suffix}"),
        });
        let hosts = hosts.take(MOST_HOSTS).chain(["host".to_owned()]);
        let most = hosts.map(|host| self.list("https", &host, origins).1).max().filter(|left_out| *left_out > 0)?;
        Some(format!(
            "GET /.well-known/x402 leaves out {most} routes: it lists at most {MOST_BYTES} bytes of a host, and {MOST_PREPARED_BYTES} of all, and then says truncated"
        ))
    }

    /// Returns what is for sale at the host that a client asks, as JSON. `resources` are the URLs alone; `items` have the terms in
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
        let mut left_out = self.unprepared;
        let (mut resources, mut items) = (String::new(), String::new());
        for item in self.items.iter().filter(|item| !host.is_empty() && item.is_at(&host)) {
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
}
