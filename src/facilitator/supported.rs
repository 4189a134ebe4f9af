//! What a facilitator supports: the answer to `GET /supported`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CalloutAnswer, MAX_SUPPORTED_BYTES, without_mark};
use crate::evm::Address;
use crate::json;
use crate::money::Decimal;
use crate::x402::{Requirement, Version};

/// A facilitator's own word on what it supports: the answer to `GET /supported`, as far as the filter needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supported {
    /// The schemes and networks that it settles in version 2 of the protocol; empty until it has said so. A facilitator with several accounts names
    /// one of them at random each time it is asked; what it said last comes first.
    pub kinds: Vec<Kind>,
    /// Extensions of the protocol that it knows.
    pub extensions: Vec<String>,
    /// The first entry that could not be read, and why, for the log.
    pub unread: Option<String>,
}

/// The words of several facilitators, as far as they concern an offer: those of the facilitators that are for it.
#[derive(Debug, Clone, Copy)]
pub struct Directory<'a> {
    all: &'a [Supported],
    of: &'a [usize],
}

/// The word of a facilitator that has said nothing yet.
static NOTHING: Supported = Supported { kinds: Vec::new(), extensions: Vec::new(), unread: None };

impl<'a> Directory<'a> {
    /// The words of the facilitators at these places of `all`.
    pub const fn new(all: &'a [Supported], of: &'a [usize]) -> Self {
        Self { all, of }
    }

    fn each(self) -> impl Iterator<Item = (usize, &'a Supported)> {
        self.of.iter().map(move |place| (*place, self.all.get(*place).unwrap_or(&NOTHING)))
    }

    /// Returns what is said of a scheme on a network, the latest first of each.
    pub fn kinds(self, scheme: &'a str, network: &'a str) -> impl Iterator<Item = &'a Kind> {
        self.each().flat_map(move |(_, supported)| supported.kinds(scheme, network))
    }

    /// Returns whether each has said what it settles, and this is not among that.
    pub fn excludes(self, requirement: &Requirement) -> bool {
        self.each().all(|(_, supported)| supported.excludes(requirement))
    }

    /// Returns who settles scheme `upto` on a network.
    pub fn settlers(self, network: &'a str) -> impl Iterator<Item = Address> {
        self.each().flat_map(move |(_, supported)| supported.settlers(network))
    }

    /// Returns who authorizes the claims of channels on a network.
    pub fn authorizers(self, network: &'a str) -> impl Iterator<Item = Address> {
        self.each().flat_map(move |(_, supported)| supported.authorizers(network))
    }

    /// Returns the places of the facilitators of which something holds; of all where it holds of none.
    pub fn places(self, holds: impl Fn(&Supported) -> bool) -> Vec<usize> {
        let fitting: Vec<usize> =
            self.each().filter(|(_, supported)| holds(supported)).map(|(place, _)| place).collect();
        if fitting.is_empty() { self.of.to_vec() } else { fitting }
    }
}

/// A scheme on a network that a facilitator settles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub scheme: String,
    /// CAIP-2 id, or a whole namespace (`eip155:*`).
    pub network: String,
    /// The fields of `extra` of an entry: by name, each value as canonical JSON ([`json::canonical`]).
    pub extra: BTreeMap<String, String>,
}

impl Kind {
    /// Reads an entry of `kinds`; `None` for one that is for version 1 of the protocol alone.
    fn read(entry: &RawValue) -> Result<Option<Self>, json::JsonError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(borrow)]
            x402_version: Option<&'a RawValue>,
            scheme: String,
            network: String,
            #[serde(borrow)]
            extra: Option<&'a RawValue>,
        }
        let json::Object(wire): json::Object<Wire<'_>> = json::from_slice(entry.get().as_bytes())?;
        let Wire { x402_version, scheme, network, extra } = wire;
        let version = x402_version.map(|version| read_version(version).ok_or_else(|| version.get().to_owned()));
        let version = version.transpose().map_err(|version| json::JsonError {
            path: "x402Version".to_owned(),
            message: json::shorten(format!("{version} is not a version of the protocol")),
        })?;
        // What it says for version 1 alone is remembered for the networks that this version names in its own way.
        let is_current = version.is_none_or(|version| version == Version::V2.number()) || !is_caip_2(&network);
        let extra = extra.and_then(|extra| json::canonical_fields(extra).ok()).unwrap_or_default();
        Ok(is_current.then_some(Self { scheme, network, extra }))
    }

    fn is_for(&self, scheme: &str, network: &str) -> bool {
        let is_network = match self.network.strip_suffix('*') {
            Some(namespace) => namespace.ends_with(':') && network.starts_with(namespace),
            None => self.network == network,
        };
        is_network && self.scheme == scheme
    }
}

impl Supported {
    /// The path of the question below the facilitator's base path.
    pub const PATH: &'static str = "/supported";

    /// Kinds that are remembered at most.
    const MOST: usize = 1024;

    /// Reads the answer, entry by entry; `None` where it is not an answer at all.
    pub fn read(answer: &CalloutAnswer) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            kinds: Vec<&'a RawValue>,
            #[serde(borrow)]
            extensions: Option<&'a RawValue>,
        }
        let CalloutAnswer::Answered { status: 200..300, body } = answer else { return None };
        let body = Some(without_mark(body)).filter(|body| body.len() <= MAX_SUPPORTED_BYTES)?;
        let Answer { kinds, extensions } = json::from_slice(body).ok()?;
        let mut supported = Self::default();
        if kinds.len() > Self::MOST {
            supported.note_unread(&format!("all kinds behind the first {} are left out", Self::MOST));
        }
        for kind in kinds.into_iter().take(Self::MOST) {
            match Kind::read(kind) {
                Ok(kind) => supported.kinds.extend(kind),
                Err(error) => supported.note_unread(&format!("an entry of kinds is left out: {error}")),
            }
        }
        let extensions = extensions.map_or(Ok(Vec::new()), |list| serde_json::from_str::<Vec<&RawValue>>(list.get()));
        if extensions.is_err() {
            supported.note_unread("extensions is left out: it is not a list");
        }
        for extension in extensions.into_iter().flatten().take(Self::MOST) {
            match read_extension(extension) {
                Some(name) => supported.extensions.push(name),
                None => {
                    supported
                        .note_unread("an entry of extensions is left out: neither a name nor an object with a key");
                }
            }
        }
        Some(supported)
    }

    fn note_unread(&mut self, what: &str) {
        self.unread.get_or_insert_with(|| what.to_owned());
    }

    /// Returns what it says of a scheme on a network, the latest first; nothing where it has not said so yet.
    pub fn kinds<'a>(&'a self, scheme: &'a str, network: &'a str) -> impl Iterator<Item = &'a Kind> + 'a {
        self.kinds.iter().filter(move |kind| kind.is_for(scheme, network))
    }

    /// Returns whether it has said what it settles, and this is not among that.
    pub fn excludes(&self, requirement: &Requirement) -> bool {
        let names = [Some(requirement.network.as_str()), requirement.in_v1()];
        let mut known = names.into_iter().flatten();
        // Who names networks in the way of version 1 alone has not said what is settled in version 2.
        self.kinds.iter().any(|kind| is_caip_2(&kind.network))
            && !known.any(|network| self.kinds(requirement.scheme.as_str(), network).next().is_some())
    }

    /// Returns who settles scheme `upto` on a network, who was named last first; nobody where nobody has said so yet.
    pub fn settlers<'a>(&'a self, network: &'a str) -> impl Iterator<Item = Address> + 'a {
        self.accounts("upto", network, "facilitatorAddress")
    }

    /// Returns who authorizes the claims of channels on a network, in the same order. Never the zero account.
    pub fn authorizers<'a>(&'a self, network: &'a str) -> impl Iterator<Item = Address> + 'a {
        self.accounts("batch-settlement", network, "receiverAuthorizer").filter(|account| !account.is_zero())
    }

    /// Returns whether an account of its authorizes the claims of channels on a network.
    pub fn authorizes(&self, network: &str, account: Address) -> bool {
        self.authorizers(network).any(|known| known == account)
    }

    /// Returns the accounts that it names for a scheme on a network.
    fn accounts<'a>(&'a self, scheme: &'a str, network: &'a str, field: &'a str) -> impl Iterator<Item = Address> + 'a {
        self.kinds(scheme, network).filter_map(move |kind| {
            let address: String = serde_json::from_str(kind.extra.get(field)?).ok()?;
            address.parse().ok()
        })
    }

    /// The same with what was known before, as far as there is room for it.
    #[must_use]
    pub fn or_earlier(mut self, earlier: &Self) -> Self {
        for known in &earlier.kinds {
            if self.kinds.len() < Self::MOST && !self.kinds.contains(known) {
                self.kinds.push(known.clone());
            }
        }
        self
    }

    /// Returns whether it says something else than another one, but for what could not be read.
    pub fn says_other_than(&self, other: &Self) -> bool {
        (&self.kinds, &self.extensions) != (&other.kinds, &other.extensions)
    }

    /// As a text that [`Self::from_text`] reads.
    pub fn to_text(&self) -> String {
        let line = |Kind { scheme, network, extra }: &Kind| json::to_text(&(scheme, network, extra)) + "\n";
        let extensions = self.extensions.iter().map(|name| json::to_text(name) + "\n");
        self.kinds.iter().map(line).chain(extensions).collect()
    }

    /// Reads what [`Self::to_text`] wrote; leaves out what it does not understand.
    pub fn from_text(text: &str) -> Self {
        let kinds = text.lines().filter_map(|line| {
            let (scheme, network, extra) = serde_json::from_str(line).ok()?;
            Some(Kind { scheme, network, extra })
        });
        let extensions = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Self { kinds: kinds.collect(), extensions: extensions.collect(), unread: None }
    }
}

/// Returns whether a network is named as version 2 of the protocol does.
fn is_caip_2(network: &str) -> bool {
    network.contains(':')
}

/// Reads a version of the protocol: a whole number, which some write as a text or as a double.
fn read_version(version: &RawValue) -> Option<u64> {
    let number = Decimal::parse(version.get().trim_matches('"')).and_then(|number| number.to_units(0));
    number.ok().and_then(|number| u64::try_from(number).ok())
}

/// Reads an entry of `extensions`: a name, or an object that says it as its `key` or `name`.
fn read_extension(entry: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Wire {
        key: Option<String>,
        name: Option<String>,
    }
    let text = entry.get();
    serde_json::from_str(text).ok().or_else(|| {
        let json::Object(Wire { key, name }) = json::from_slice(text.as_bytes()).ok()?;
        key.or(name)
    })
}
