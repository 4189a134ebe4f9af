//! Origins: where resources are sold, and whose scripts may pay.

use std::fmt;

use crate::route::{HostPattern, host_of};

/// The origin of resources for sale: `https://api.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    pub(super) scheme: String,
    /// Host in lower case, and port unless it is the scheme's own.
    pub(super) authority: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Origin {
    /// Reads an origin as it is configured; `None` where it is none, or says more.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_host = |name: &String| matches!(HostPattern::parse(name), Ok(HostPattern::Exact(_)));
        host_of(authority).filter(is_host)?;
        Self::of_request(scheme, authority).filter(|_| matches!(scheme, "http" | "https"))
    }

    /// Returns whether both have the same host, whatever their schemes and ports.
    pub fn has_host_of(&self, other: &Self) -> bool {
        host_of(&self.authority) == host_of(&other.authority)
    }

    /// Returns the origin that a request names; `None` where its authority is none.
    pub fn of_request(scheme: &str, authority: &str) -> Option<Self> {
        let host = host_of(authority)?;
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        let usual = if scheme == "https" { 443 } else { 80 };
        let authority = match port.parse::<u16>() {
            Ok(port) if port != usual => format!("{host}:{port}"),
            _ => host,
        };
        Some(Self { scheme: scheme.to_owned(), authority })
    }
}

/// The origin that clients are shown for a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ShownAt {
    /// This one, unless the client used another of the configured ones.
    Origin(Origin),
    /// The one that the client used: the route matches only hosts that it names, so it is one of those.
    RouteHost,
    /// The one that the client used, whatever that is. Nobody vouches for it.
    Client,
}

/// An origin whose scripts may pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// All of them.
    Any,
    /// Scheme, host and port, as browsers write it.
    Exact(String),
}
