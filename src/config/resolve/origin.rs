//! Origins: those of the operator, and those whose scripts may pay.

use super::{Result, refuse};
use crate::config::raw;
use crate::config::secret::Shown;
use crate::config::{CorsOrigin, Origin, ShownAt};
use crate::route::Matcher;

/// Resolves the origins at which clients find what is for sale.
pub(super) fn origins(raw: &[String]) -> Result<Vec<Origin>> {
    let origin = |(index, text): (usize, &String)| match Origin::parse(text) {
        Some(origin) => Ok(origin),
        None => refuse(
            format!("origins[{index}]"),
            format_args!(
                "{} is not an origin such as \"https://api.example.com\": scheme and host, and no more",
                Shown(text)
            ),
        ),
    };
    raw.iter().enumerate().map(origin).collect()
}

/// Returns the origin that clients are shown for a route.
pub(super) fn shown_at(matcher: &Matcher, origins: &[Origin]) -> ShownAt {
    let admitted = origins.iter().find(|origin| matcher.takes_host(&origin.authority));
    match admitted.or(origins.first()) {
        Some(origin) => ShownAt::Origin(origin.clone()),
        None if matcher.hosts.is_empty() => ShownAt::Client,
        None => ShownAt::RouteHost,
    }
}

/// Resolves the origins whose scripts may pay.
pub(super) fn cors_origins(raw: &raw::Cors) -> Result<Vec<CorsOrigin>> {
    let origin = |(index, text): (usize, &String)| {
        let origin = Origin::parse(text).map(|origin| origin.to_string());
        match origin {
            _ if text == "*" => Ok(CorsOrigin::Any),
            Some(origin) if origin == *text => Ok(CorsOrigin::Exact(origin)),
            _ => refuse(
                format!("cors.origins[{index}]"),
                format_args!(
                    "{} is not an origin as browsers write it, such as \"https://app.example.com\" (no wildcard, usual port or final slash), nor \"*\" for any",
                    Shown(text)
                ),
            ),
        }
    };
    raw.origins.iter().enumerate().map(origin).collect()
}
