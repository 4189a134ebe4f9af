//! The page that browsers get.

use super::Result;
#[cfg(feature = "page")]
use super::refuse;
#[cfg(not(feature = "page"))]
use super::require;
#[cfg(feature = "page")]
use super::text::is_field_value;
use crate::config::raw;
#[cfg(feature = "page")]
use crate::config::{OwnPage, PageConfig};
#[cfg(feature = "page")]
use crate::page::Template;

/// Resolves the page that browsers get; `None` where they get the same as programs.
#[cfg(feature = "page")]
#[inline(never)]
pub(super) fn page(raw: raw::Page) -> Result<Option<PageConfig>> {
    let is_header = |csp: &String| !csp.is_empty() && is_field_value(csp);
    if raw.csp.as_ref().is_some_and(|csp| raw.html.is_none() || !is_header(csp)) {
        return refuse("page.csp", "is not the value of a header that goes with a page.html of your own");
    }
    let own = match raw.html {
        None => None,
        Some(html) => match Template::parse(html) {
            Ok(template) => Some(OwnPage { template, csp: raw.csp }),
            Err(error) => return refuse("page.html", error),
        },
    };
    Ok(raw.enabled.unwrap_or(true).then_some(PageConfig { own }))
}

/// Checks that no page is asked for.
#[cfg(not(feature = "page"))]
pub(super) fn page(raw: &raw::Page) -> Result<()> {
    let is_wanted = raw.html.is_some() || raw.csp.is_some() || raw.enabled == Some(true);
    require("page", "page", !is_wanted)
}
