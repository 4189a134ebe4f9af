//! Routes: label, matcher, and whether they have a price.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::network::Networks;
use super::origin::shown_at;
use super::{Result, at, refuse};
use crate::config::raw;
use crate::config::secret::{Environment, Shown, is_near};
use crate::config::{Facilitator, Mode, Origin, Route};
use crate::evm::Address;
use crate::json::Object;
use crate::route::{HostPattern, Matcher, Pattern};

/// The rest of the configuration, as far as routes depend on it.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) defaults: &'a raw::Defaults,
    pub(super) networks: &'a Networks,
    pub(super) origins: &'a [Origin],
    pub(super) facilitators: &'a [Facilitator],
    /// The account that authorizes claims of channels, where it is the gate's own.
    pub(super) authorizer: Option<Address>,
    /// The mode of routes that do not name their own.
    pub(super) mode: Mode,
    pub(super) environment: Environment<'a>,
}

impl Context<'_> {
    /// Resolves the routes, each with its matcher.
    #[inline(never)]
    pub(super) fn routes(self, raw: Vec<Object<raw::Route>>) -> Result<(Vec<Route>, Vec<Matcher>)> {
        let mut labels = BTreeSet::new();
        let mut routes = Vec::with_capacity(raw.len());
        let mut matchers = Vec::with_capacity(raw.len());
        for (index, Object(raw)) in raw.into_iter().enumerate() {
            let path = format!("routes[{index}]");
            let matcher = matcher(&path, &raw.matcher)?;
            let route = self.route(&path, index, &raw, &matcher)?;
            if !labels.insert(route.label.clone()) {
                return refuse(
                    format!("{path}.name"),
                    format_args!("{} is the name of another route", Shown(&route.label)),
                );
            }
            matchers.push(matcher);
            routes.push(route);
        }
        Ok((routes, matchers))
    }

    #[inline(never)]
    fn route(self, path: &str, index: usize, raw: &raw::Route, matcher: &Matcher) -> Result<Route> {
        let label = label(path, index, raw.name.as_ref())?;
        let terms = match (&raw.price, raw.free) {
            (Some(price), false) => Some(Arc::new(self.terms(path, raw, price, shown_at(matcher, self.origins))?)),
            (None, true) if asks_something(raw) => {
                return refuse(
                    path,
                    "is free, and says how to pay; leave out pay_to, accepts, settle, exposure, mode, max_timeout_seconds, free_for, extensions and bundle",
                );
            }
            (None, true) => None,
            (Some(_), true) => return refuse(path, "is free and has a price; keep one of the two"),
            (None, false) => return refuse(path, "has neither a price nor free: true"),
        };
        Ok(Route { label: label.into(), terms })
    }
}

fn label(path: &str, index: usize, name: Option<&String>) -> Result<String> {
    let is_label = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    match name {
        None => Ok(index.to_string()),
        Some(name) if is_label(name) => Ok(name.clone()),
        Some(name) => {
            refuse(format!("{path}.name"), format_args!("{} is not of letters, digits, _ and - alone", Shown(name)))
        }
    }
}

/// Methods that clients send: those registered with IANA that are for resources, and a few that everybody knows.
const METHODS: &str = "GET POST PUT PATCH DELETE HEAD OPTIONS QUERY TRACE CONNECT ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT \
    COPY LABEL LINK LIST LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE NOTIFY ORDERPATCH \
    PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SUBSCRIBE UNBIND UNCHECKOUT UNLINK UNLOCK UNSUBSCRIBE UPDATE \
    UPDATEREDIRECTREF VERSION-CONTROL";

/// Returns whether a method, in upper case, is one that clients send.
pub(super) fn is_known_method(method: &str) -> bool {
    METHODS.split(' ').any(|known| known == method)
}

/// Reads a method, in upper case.
fn method(path: &str, text: &str) -> Result<String> {
    let method = text.to_ascii_uppercase();
    if matches!(method.as_str(), "*" | "ANY" | "ALL") {
        return refuse(path, format_args!("{} is not a method; leave methods out for any", Shown(text)));
    }
    let is_method = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    if method.is_empty() || !method.bytes().all(is_method) {
        return refuse(path, format_args!("{} is not a method such as GET; write each by itself", Shown(text)));
    }
    let meant = METHODS.split(' ').find(|known| is_near(&known.to_ascii_lowercase(), text));
    match meant.filter(|_| !is_known_method(&method)) {
        Some(meant) => refuse(path, format_args!("{} is not a method; did you mean {meant}?", Shown(text))),
        None => Ok(method),
    }
}

fn asks_something(raw: &raw::Route) -> bool {
    raw.pay_to.is_some()
        || raw.accepts.is_some()
        || raw.settle.is_some()
        || raw.exposure.is_some()
        || raw.mode.is_some()
        || raw.max_timeout_seconds.is_some()
        || raw.free_for.is_some()
        || raw.extensions.is_some()
        || raw.bundle.is_some()
}

#[inline(never)]
fn matcher(path: &str, raw: &raw::Match) -> Result<Matcher> {
    let hosts = raw
        .hosts
        .iter()
        .enumerate()
        .map(|(index, host)| HostPattern::parse(host).map_err(at(format!("{path}.match.hosts[{index}]"), host)));
    let methods = raw.methods.iter().enumerate();
    let methods = methods.map(|(index, text)| method(&format!("{path}.match.methods[{index}]"), text));
    Ok(Matcher {
        hosts: hosts.collect::<Result<_>>()?,
        methods: methods.collect::<Result<_>>()?,
        path: Pattern::parse(&raw.path).map_err(at(format!("{path}.match.path"), &raw.path))?,
    })
}
