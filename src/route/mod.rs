//! Host, method and path of a request → the route it belongs to.
//!
//! A priced route matches whatever a lenient upstream might take for it; a free route matches to the letter. So a
//! request passes free only if no reading of it leads to a priced route first, and the doubt is always the client's to clear up.

pub mod overrides;
mod path;
mod pattern;

use std::collections::BTreeMap;

use path::{Decoded, Path};
use pattern::PatternTree;
pub use pattern::{Pattern, PatternError};

/// The requests that a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// Hosts; empty for any.
    pub hosts: Vec<HostPattern>,
    /// Methods in upper case; empty for any. `GET` covers `HEAD`.
    pub methods: Vec<String>,
    /// The path.
    pub path: Pattern,
}

/// A host, or all hosts below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this host, in lower case and without port.
    Exact(String),
    /// Every host that ends with this suffix, which begins with a dot.
    Below(String),
}

/// The text is not a host name nor `*.` and a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a host name (without scheme, port or path), nor *. and a host name; for any host leave hosts out")]
pub struct HostPatternError;

impl HostPattern {
    /// Reads `api.example.com` or `*.example.com`; ports do not count in matching and may not stand here.
    ///
    /// # Errors
    /// [`HostPatternError`].
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        let (name, is_wildcard) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let is_name = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        let is_ipv6 = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .filter(|address| !address.is_empty() && !is_wildcard)
            .is_some_and(|address| address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')));
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match (is_name || is_ipv6, is_wildcard) {
            (false, _) => Err(HostPatternError),
            (true, false) => Ok(Self::Exact(name)),
            (true, true) => Ok(Self::Below(format!(".{name}"))),
        }
    }

    /// The host, or the suffix of hosts.
    fn as_str(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Below(text) => text,
        }
    }

    /// Returns whether it is for this host, in lower case and without port.
    pub(crate) fn takes(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => host.ends_with(suffix),
        }
    }
}

impl Matcher {
    /// Returns whether it is for all hosts that `other` is for.
    fn takes_hosts_of(&self, other: &Self) -> bool {
        let takes = |host: &HostPattern| self.hosts.iter().any(|own| own == host || own.takes(host.as_str()));
        self.hosts.is_empty() || (!other.hosts.is_empty() && other.hosts.iter().all(takes))
    }

    /// Returns whether it is for requests to this authority, among others perhaps.
    pub fn takes_host(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.takes(&host))
    }
}

/// The condition for access to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Payment. Such a route matches leniently.
    Priced,
    /// None for now, while it is counted what payment would be asked for. Such a route matches leniently.
    Shadow,
    /// None. Such a route matches to the letter.
    Free,
}

/// The route of a request, by its index in the order of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The request is to pay for this route.
    Priced(usize),
    /// This free route matches.
    Free(usize),
    /// No route matches.
    Unmatched,
    /// The request could be read as one for a priced route and as another; nobody can say what would be bought.
    Ambiguous,
    /// The same, and every priced route that it could be for, of which this is one, is in shadow.
    Unsure(usize),
}

/// All routes, indexed so that finding one costs the same among ten as among ten thousand.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<(Matcher, Access)>,
    exact_hosts: BTreeMap<String, PatternTree>,
    hosts_below: BTreeMap<String, PatternTree>,
    any_host: PatternTree,
    /// The patterns of all hosts together.
    all_hosts: PatternTree,
    prices_by_host: bool,
    /// True if a route is to be paid for.
    has_prices: bool,
    /// Bytes of the longest segment that is compared with a path's.
    longest_literal: usize,
}

/// A request, as far as routing cares.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// `:method`, in any case.
    pub method: &'a str,
    /// `:authority`.
    pub authority: &'a str,
    /// `:path`, as the client sent it.
    pub path: &'a [u8],
}

impl RouteTable {
    /// The table of `routes`, in order: the first that matches wins.
    pub fn new(routes: Vec<(Matcher, Access)>) -> Self {
        let mut table = Self::default();
        for (index, (matcher, _)) in routes.iter().enumerate() {
            let (path, hosts) = (&matcher.path, &matcher.hosts);
            table.longest_literal = table.longest_literal.max(path.longest_literal());
            table.all_hosts.insert(path, index);
            if hosts.is_empty() {
                table.any_host.insert(path, index);
            }
            for host in hosts {
                let tree = match host {
                    HostPattern::Exact(name) => table.exact_hosts.entry(name.clone()).or_default(),
                    HostPattern::Below(suffix) => table.hosts_below.entry(suffix.clone()).or_default(),
                };
                tree.insert(path, index);
            }
        }
        let is_bound = |(matcher, access): &(Matcher, Access)| *access == Access::Priced && !matcher.hosts.is_empty();
        table.prices_by_host = routes.iter().any(is_bound);
        table.has_prices = routes.iter().any(|(_, access)| *access == Access::Priced);
        table.routes = routes;
        table
    }

    /// Returns the requests that each route is for, in order.
    pub fn matchers(&self) -> impl Iterator<Item = &Matcher> {
        self.routes.iter().map(|(matcher, _)| matcher)
    }

    /// Returns the first route before this one that takes its requests, and whether it takes all of them. It takes but a part
    /// where it is free, and names some of the methods that this one is for.
    pub fn taken_by(&self, index: usize) -> Option<(usize, bool)> {
        let (later, access) = self.routes.get(index)?;
        let host = later.hosts.first().map_or("", HostPattern::as_str);
        let mut found = Vec::new();
        self.trees_for(Some(host)).iter().for_each(|tree| tree.find_covering(&later.path, &mut found));
        let taken = |earlier: &usize| {
            let (matcher, earlier_access) = self.routes.get(*earlier).filter(|_| *earlier < index)?;
            let is_free = *earlier_access == Access::Free;
            if !matcher.takes_hosts_of(later) || (is_free && !matcher.path.covers_literally(&later.path)) {
                return None;
            }
            let takes = |method: &String| takes_method(matcher, *earlier_access, method);
            let takes_all =
                matcher.methods.is_empty() || (!later.methods.is_empty() && later.methods.iter().all(takes));
            let is_main = |method: &&String| !matches!(method.as_str(), "HEAD" | "OPTIONS");
            let is_shared = |method: &String| later.methods.is_empty() || later.methods.contains(method);
            let takes_some =
                is_free && *access != Access::Free && matcher.methods.iter().filter(is_main).any(is_shared);
            (takes_all || takes_some).then_some((*earlier, takes_all))
        };
        found.iter().filter_map(taken).min_by_key(|(earlier, takes_all)| (!takes_all, *earlier))
    }

    /// Returns whether an earlier, free route takes the path of a route that is for sale where it is written in another letter
    /// case, or with another final slash.
    pub fn is_free_written_otherwise(&self, index: usize) -> bool {
        let Some((matcher, _)) = self.routes.get(index).filter(|(_, access)| *access != Access::Free) else {
            return false;
        };
        let method = matcher.methods.first().map_or("GET", String::as_str);
        let authority = match matcher.hosts.first() {
            Some(HostPattern::Below(suffix)) => format!("x{suffix}"),
            host => host.map_or("", HostPattern::as_str).to_owned(),
        };
        let is_free = |path: &String| {
            let decision = self.decide(Target { method, authority: &authority, path: path.as_bytes() });
            matches!(decision, Decision::Free(earlier) if earlier < index)
        };
        matcher.path.writings().iter().any(is_free)
    }

    /// Finds the route of a request.
    pub fn decide(&self, target: Target<'_>) -> Decision {
        let method = target.method.to_ascii_uppercase();
        let host = host_of(target.authority);
        let decoded = Decoded::new(target.path, self.longest_literal);
        let literal = decoded.literal();
        let path = decoded.path();
        let decide = |host: Option<&str>| {
            let lookup = Lookup { trees: self.trees_for(host), method: &method, literal: literal.as_deref() };
            match &path {
                Path::Readable(readings) => self.decide_among(&lookup, readings),
                Path::Opaque(prefix) => self.decide_below(&lookup, prefix),
            }
        };
        let is_for_sale = |host: Option<&str>| match decide(host) {
            Decision::Priced(index) => !self.is_shadow(index),
            decision => decision == Decision::Ambiguous,
        };
        // A path that begins with slashes names another host to some servers, whatever the authority says.
        let is_for_sale_elsewhere = || match host_in_path(target.path) {
            _ if !self.prices_by_host => false,
            Some(host) => is_for_sale(Some(&host)),
            None => names_host_oddly(target.path) && is_for_sale(None),
        };
        match (&host, decide(host.as_deref())) {
            // Of an authority that is none, every server makes something else.
            (None, Decision::Priced(index) | Decision::Unsure(index)) => self.ambiguous(index),
            (Some(_), Decision::Free(_) | Decision::Unmatched | Decision::Unsure(_)) if is_for_sale_elsewhere() => {
                Decision::Ambiguous
            }
            // What passes unpaid must not be what is sold elsewhere.
            (Some(_), Decision::Priced(index)) if self.is_shadow(index) && is_for_sale_elsewhere() => {
                Decision::Ambiguous
            }
            (_, decision) => decision,
        }
    }

    /// Returns whether a price depends on the host, so that a client must not tell the upstream another one.
    pub const fn prices_by_host(&self) -> bool {
        self.prices_by_host
    }

    fn is_shadow(&self, index: usize) -> bool {
        self.routes.get(index).is_some_and(|(_, access)| *access == Access::Shadow)
    }

    /// The decision about a request that could be one for this priced route, and nobody knows for which others.
    fn ambiguous(&self, index: usize) -> Decision {
        if self.has_prices { Decision::Ambiguous } else { Decision::Unsure(index) }
    }

    fn decide_among(&self, lookup: &Lookup<'_>, readings: &[Vec<&str>]) -> Decision {
        let mut free = None;
        let mut priced = Vec::new();
        for (position, reading) in readings.iter().enumerate() {
            let literal = lookup.literal.filter(|_| position == 0);
            match self.first_match(lookup, literal, reading) {
                Some((index, Access::Priced | Access::Shadow)) if !priced.contains(&index) => priced.push(index),
                Some((index, Access::Free)) => free = Some(index),
                _ => {}
            }
        }
        match (priced.as_slice(), free) {
            ([], None) => Decision::Unmatched,
            ([], Some(index)) => Decision::Free(index),
            ([index], _) => Decision::Priced(*index),
            ([index, ..], _) if priced.iter().all(|index| self.is_shadow(*index)) => Decision::Unsure(*index),
            ([..], _) => Decision::Ambiguous,
        }
    }

    /// Decides on a path that may be anything below `prefix`.
    fn decide_below(&self, lookup: &Lookup<'_>, prefix: &[&str]) -> Decision {
        let mut found = Vec::new();
        lookup.trees.iter().for_each(|tree| tree.find_below(prefix, &mut found));
        match self
            .first_that_takes(&found, |route| route.1 == Access::Priced && takes(route, lookup.method, lookup.literal))
        {
            Some(_) => Decision::Ambiguous,
            None => match self.first_that_takes(&found, |route| takes(route, lookup.method, lookup.literal)) {
                Some((index, Access::Shadow)) => Decision::Unsure(index),
                Some((index, _)) => Decision::Free(index),
                None => Decision::Unmatched,
            },
        }
    }

    fn first_match(&self, lookup: &Lookup<'_>, literal: Option<&[&str]>, path: &[&str]) -> Option<(usize, Access)> {
        let mut found = Vec::new();
        lookup.trees.iter().for_each(|tree| tree.find(path, &mut found));
        self.first_that_takes(&found, |route| takes(route, lookup.method, literal))
    }

    fn first_that_takes(&self, found: &[usize], takes: impl Fn(&(Matcher, Access)) -> bool) -> Option<(usize, Access)> {
        let routes = found.iter().filter_map(|index| Some((*index, self.routes.get(*index)?)));
        routes.filter(|(_, route)| takes(route)).map(|(index, route)| (index, route.1)).min_by_key(|(index, _)| *index)
    }

    /// The patterns for a host; those for all hosts where it is none.
    fn trees_for<'a>(&'a self, host: Option<&'a str>) -> Vec<&'a PatternTree> {
        let Some(host) = host else {
            return vec![&self.all_hosts];
        };
        let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
        let below = suffixes.filter_map(|suffix| self.hosts_below.get(suffix));
        self.exact_hosts.get(host).into_iter().chain(below).chain([&self.any_host]).collect()
    }
}

/// A request, as it is looked for among the routes.
struct Lookup<'a> {
    /// The patterns for its host.
    trees: Vec<&'a PatternTree>,
    /// In upper case.
    method: &'a str,
    /// The path's segments as they were written, where it is text.
    literal: Option<&'a [&'a str]>,
}

/// `literal` are the path's segments as they were written, where the reading is that one.
fn takes((matcher, access): &(Matcher, Access), method: &str, literal: Option<&[&str]>) -> bool {
    let takes_path = match access {
        Access::Priced | Access::Shadow => true,
        Access::Free => literal.is_some_and(|literal| matcher.path.matches_literally(literal)),
    };
    takes_path && takes_method(matcher, *access, method)
}

/// A price on GET covers HEAD, which tells what GET would. It covers OPTIONS too, which some upstreams answer as GET;
/// the exchange lets the preflights of browsers pass.
fn takes_method(matcher: &Matcher, access: Access, method: &str) -> bool {
    let names = |method: &str| matcher.methods.iter().any(|name| name == method);
    matcher.methods.is_empty()
        || names(method)
        || (method == "HEAD" && names("GET"))
        || (method == "OPTIONS" && access != Access::Free)
}

/// Returns whether a path begins with two slashes to those alone who take a backslash, or an encoded one, for one.
fn names_host_oddly(path: &[u8]) -> bool {
    let rest = path.strip_prefix(b"/").unwrap_or(path);
    let rest = rest.get(..3).unwrap_or(rest).to_ascii_lowercase();
    ["\\", "%2f", "%5c"].iter().any(|slash| rest.starts_with(slash.as_bytes()))
}

/// The host that some servers read in a path that begins with two slashes or more (`//host/path`).
fn host_in_path(path: &[u8]) -> Option<String> {
    let rest = path.strip_prefix(b"//")?;
    let start = rest.iter().position(|byte| *byte != b'/')?;
    let name = rest.get(start..)?.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next()?;
    host_of(std::str::from_utf8(name).ok()?.rsplit('@').next()?)
}

/// The host in lower case, without port and final dot; `None` where the authority is not one.
pub(crate) fn host_of(authority: &str) -> Option<String> {
    /// No name is longer (RFC 1035, section 2.3.4); a port may stand behind it.
    const LONGEST: usize = 255 + ":65535".len();
    if authority.len() > LONGEST {
        return None;
    }
    let (name, port) = match authority.rfind(']') {
        Some(end) => authority
            .split_at_checked(end.saturating_add(1))
            .map_or((authority, ""), |(address, port)| (address, port.trim_start_matches(':'))),
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let is_host = match name.strip_prefix('[') {
        Some(address) => address.trim_end_matches(']').bytes().all(is_address),
        None => name.bytes().all(is_name),
    };
    let is_authority = is_host && port.bytes().all(|byte| byte.is_ascii_digit());
    is_authority.then(|| name.trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
