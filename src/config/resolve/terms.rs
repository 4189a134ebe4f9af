//! The terms of a priced route, from what the route says and the defaults.

use std::sync::Arc;

use http::uri::Uri;

use super::extensions::extensions;
use super::network::Networks;
use super::offer::Inherited;
use super::payers::principals;
use super::price::Price;
use super::route::Context;
use super::text::is_field_value;
use super::{Result, refuse};
use crate::config::raw::{self, TextOr};
use crate::config::secret::Shown;
use crate::config::{Listing, Offer, Principal, RouteTerms, ShownAt};
use crate::json::{self, Object};
use crate::scheme::MIN_LIFETIME_SECONDS;

const DEFAULT_MAX_TIMEOUT_SECONDS: u64 = 300;
/// More than verifiers demand, for an authorization that lives no longer would be refused by the time it arrives.
const MIN_MAX_TIMEOUT_SECONDS: u64 = MIN_LIFETIME_SECONDS.saturating_add(4);
/// Little enough for the whole of the terms to fit into a header.
const MAX_DESCRIPTION_BYTES: usize = 2048;

impl Context<'_> {
    /// Resolves the terms of the route at `path`.
    #[inline(never)]
    pub(super) fn terms(
        self,
        path: &str,
        raw: &raw::Route,
        price: &TextOr<raw::Price>,
        shown_at: ShownAt,
    ) -> Result<RouteTerms> {
        let Self { defaults, networks, facilitators, authorizer, mode, .. } = self;
        let settle = raw.settle.or(defaults.settle).unwrap_or_default();
        let max_timeout_seconds = max_timeout_seconds(path, raw, defaults)?;
        let price = Price::new(path, price);
        let (accepts_path, entries) = entries(path, raw, defaults)?;
        let inherited = Inherited {
            route: path,
            raw,
            defaults,
            price: &price,
            settle,
            max_timeout_seconds,
            facilitators,
            authorizer,
        };
        inherited.check_exposure()?;
        let mut offers = inherited.offers(&accepts_path, entries, networks)?;
        let (tariff, price_service) = (price.tariff()?, price.service(self.environment)?);
        let is_fixed = tariff.is_none() && price_service.is_none();
        let bundle = match &raw.bundle {
            Some(bundle) => {
                let (bundle, sold) = super::bundle::bundle(path, bundle, &offers, is_fixed)?;
                offers.extend(sold);
                Some(bundle)
            }
            None => None,
        };
        let terms = RouteTerms {
            description: description(path, raw)?,
            mime_type: mime_type(path, raw)?,
            listing: listing(path, raw)?,
            mode: raw.mode.unwrap_or(mode),
            settle,
            tariff: tariff.map(Arc::new),
            price_service: price_service.map(Arc::new),
            settlement_overrides: raw.settlement_overrides,
            free_for: free_for(path, raw, defaults)?,
            extensions: extensions(&format!("{path}.extensions"), raw, &offers)?,
            offers,
            bundle,
            shown_at,
            prepared: None,
        };
        if terms.extensions.sign_in.is_some() && !terms.has_fixed_price() {
            return refuse(
                format!("{path}.extensions.sign_in_with_x"),
                "is for a fixed price: here a small payment would buy the dearest request after it",
            );
        }
        if terms.extensions.sign_in.is_some() && terms.bundle.is_some() {
            return refuse(
                format!("{path}.bundle"),
                "stands beside extensions.sign_in_with_x, by which a single payment is enough to come back; keep one of the two",
            );
        }
        Ok(terms.prepared())
    }
}

impl Inherited<'_> {
    /// Resolves the entries of `accepts`, of which no two may be the same.
    #[inline(never)]
    fn offers(&self, path: &str, entries: &[Object<raw::Entry>], networks: &Networks) -> Result<Vec<Arc<Offer>>> {
        let mut offers: Vec<Arc<Offer>> = Vec::with_capacity(entries.len());
        for (index, Object(entry)) in entries.iter().enumerate() {
            let offer = Arc::new(self.offer(&format!("{path}[{index}]"), entry, networks)?);
            let is_same =
                |earlier: &Arc<Offer>| json::to_text(&earlier.requirement) == json::to_text(&offer.requirement);
            if offers.iter().any(is_same) {
                return refuse(format!("{path}[{index}]"), "says the same as an entry before it");
            }
            offers.push(offer);
        }
        Ok(offers)
    }
}

fn max_timeout_seconds(path: &str, raw: &raw::Route, defaults: &raw::Defaults) -> Result<u64> {
    let (path, seconds) = match (raw.max_timeout_seconds, defaults.max_timeout_seconds) {
        (Some(seconds), _) => (format!("{path}.max_timeout_seconds"), seconds),
        (None, Some(seconds)) => ("defaults.max_timeout_seconds".to_owned(), seconds),
        (None, None) => return Ok(DEFAULT_MAX_TIMEOUT_SECONDS),
    };
    if seconds < MIN_MAX_TIMEOUT_SECONDS {
        return refuse(
            path,
            format_args!(
                "{seconds} is too short: facilitators want {MIN_LIFETIME_SECONDS} s left when they see a payment; the least is {MIN_MAX_TIMEOUT_SECONDS}"
            ),
        );
    }
    Ok(seconds)
}

/// Returns the entries of `accepts`, and where they stand.
fn entries<'a>(
    path: &str,
    raw: &'a raw::Route,
    defaults: &'a raw::Defaults,
) -> Result<(String, &'a [Object<raw::Entry>])> {
    let (path, entries) = match (&raw.accepts, &defaults.accepts) {
        (Some(entries), _) => (format!("{path}.accepts"), entries),
        (None, Some(entries)) => ("defaults.accepts".to_owned(), entries),
        (None, None) => return refuse(format!("{path}.accepts"), "is missing, here and in defaults: say how to pay"),
    };
    if entries.is_empty() {
        return refuse(path, "is empty: say how to pay");
    }
    Ok((path, entries))
}

fn description(path: &str, raw: &raw::Route) -> Result<String> {
    let description = raw.description.clone().unwrap_or_default();
    if description.len() > MAX_DESCRIPTION_BYTES {
        return refuse(format!("{path}.description"), format_args!("is longer than {MAX_DESCRIPTION_BYTES} bytes"));
    }
    Ok(description)
}

fn mime_type(path: &str, raw: &raw::Route) -> Result<String> {
    let mime_type = raw.mime_type.clone().unwrap_or_default();
    if !mime_type.is_empty() && (!mime_type.contains('/') || !is_field_value(&mime_type)) {
        return refuse(
            format!("{path}.mime_type"),
            format_args!("{} is not a media type such as \"application/json\"", Shown(&mime_type)),
        );
    }
    Ok(mime_type)
}

/// Resolves what catalogues show of the service, by the limits of the official package (`ResourceInfoSchema` in `@x402/core` 2.27.0).
fn listing(path: &str, raw: &raw::Route) -> Result<Listing> {
    const MOST_TAGS: usize = 5;
    const LONGEST_URL: usize = 2048;
    let is_word =
        |text: &&String| (1..=32).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let wrong = [
        ("service_name", !raw.service_name.iter().all(|name| is_word(&name))),
        ("tags", raw.tags.len() > MOST_TAGS || !raw.tags.iter().all(|tag| is_word(&tag))),
    ];
    if let Some((key, _)) = wrong.into_iter().find(|(_, is_wrong)| *is_wrong) {
        return refuse(
            format!("{path}.{key}"),
            format_args!("is not of 1 to 32 printable ASCII characters (each of at most {MOST_TAGS} tags)"),
        );
    }
    let is_url = |url: &String| {
        url.len() <= LONGEST_URL
            && url
                .parse()
                .is_ok_and(|url: Uri| url.authority().is_some() && matches!(url.scheme_str(), Some("https" | "http")))
    };
    if !raw.icon_url.iter().all(is_url) {
        return refuse(format!("{path}.icon_url"), "is not a URL such as \"https://example.com/icon.png\"");
    }
    Ok(Listing { service_name: raw.service_name.clone(), tags: raw.tags.clone(), icon_url: raw.icon_url.clone() })
}

fn free_for(path: &str, raw: &raw::Route, defaults: &raw::Defaults) -> Result<Arc<[Principal]>> {
    match (&raw.free_for, &defaults.free_for) {
        (Some(free_for), _) => principals(&format!("{path}.free_for"), &free_for.principals),
        (None, Some(free_for)) => principals("defaults.free_for", &free_for.principals),
        (None, None) => Ok(Arc::default()),
    }
}
