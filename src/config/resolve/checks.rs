//! Checks across routes: rules for all of them, their needs of the proxy, and warnings.

use std::sync::Arc;

use super::route::is_known_method;
use super::{Result, exposure, odd, refuse};
use crate::config::raw;
use crate::config::secret::Shown;
use crate::config::{Facilitator, Mode, Offer, Payers, Route, RouteTerms, ShownAt};
use crate::metadata::MetadataKey;
use crate::money::Amount;
use crate::route::overrides::is_override;
use crate::route::{Matcher, RouteTable};
use crate::x402::Requirement;
use crate::x402::offer_receipt::Issuer;
use crate::x402::reason::PAYMENT_REQUIRED;
use crate::x402::requirement::{Rail, Scheme};
use crate::x402::terms::{MAX_HEADER_JSON, Resource, to_json};

/// Returns the terms of the priced routes.
fn terms(routes: &[Route]) -> impl Iterator<Item = &Arc<RouteTerms>> {
    routes.iter().filter_map(|route| route.terms.as_ref())
}

/// Returns the offers of all routes.
fn offers(routes: &[Route]) -> impl Iterator<Item = &Arc<Offer>> {
    terms(routes).flat_map(|terms| &terms.offers)
}

/// Returns whether anything is for sale.
pub(super) fn has_offers(routes: &[Route]) -> bool {
    offers(routes).next().is_some()
}

/// Checks that the payer of each offer is known where payers are restricted.
pub(super) fn payers_are_known(payers: &Payers, routes: &[Route]) -> Result<()> {
    let has_unknown_payers = |offer: &&Arc<Offer>| match &offer.requirement.rail {
        Rail::Evm(_) => false,
        Rail::Foreign(foreign) => foreign.svm.is_none(),
    };
    let Some(offer) = offers(routes).find(has_unknown_payers).filter(|_| payers.is_restricted()) else { return Ok(()) };
    let Requirement { scheme, network, .. } = &offer.requirement;
    refuse(
        "payers",
        format_args!(
            "cannot be told of an entry with scheme {} on {network}: only the facilitator knows them",
            scheme.as_str()
        ),
    )
}

/// Returns whether an entry can be offered only once the facilitator has said what it supports.
pub(super) fn needs_introduction(routes: &[Route]) -> bool {
    offers(routes).any(|offer| match &offer.requirement.rail {
        Rail::Evm(evm) => {
            offer.requirement.scheme == Scheme::Upto
                || evm.channel.as_ref().is_some_and(|terms| terms.is_authorized_by_facilitator)
        }
        Rail::Foreign(_) => true,
    })
}

/// Returns whether an entry is paid out of channels.
pub(super) fn has_channels(routes: &[Route]) -> bool {
    offers(routes).any(|offer| offer.requirement.scheme == Scheme::BatchSettlement)
}

/// Returns whether a route is free for callers by the names of their certificates.
pub(super) fn needs_principals(routes: &[Route]) -> bool {
    terms(routes).any(|terms| !terms.free_for.is_empty())
}

/// Returns the keys of the proxy's dynamic metadata that the routes need, each once.
#[inline(never)]
pub(super) fn metadata(routes: &[Route]) -> Vec<MetadataKey> {
    let recipients = offers(routes).filter_map(|offer| offer.recipient_from.clone());
    let tariffs = terms(routes).filter_map(|terms| terms.tariff.as_ref());
    let mut metadata: Vec<MetadataKey> = Vec::new();
    for key in recipients.chain(tariffs.flat_map(|tariff| tariff.metadata())) {
        if !metadata.contains(&key) {
            metadata.push(key);
        }
    }
    metadata
}

/// Checks that each route has requests that no earlier one takes.
pub(super) fn all_are_reached(table: &RouteTable) -> Result<()> {
    for index in 0..table.matchers().count() {
        let Some((earlier, true)) = table.taken_by(index) else { continue };
        let pattern = table.matchers().nth(earlier).map(|matcher| matcher.path.to_string()).unwrap_or_default();
        return refuse(
            format!("routes[{index}].match"),
            format_args!(
                "is never reached: routes[{earlier}] ({}), before it, takes all its requests; put the narrower of the two first, or leave one out",
                Shown(&pattern)
            ),
        );
    }
    Ok(())
}

/// Returns warnings about a configuration that is valid, and may not be what was meant. Each begins with a path.
#[inline(never)]
pub(super) fn warnings(
    about: &About<'_>,
    issuer: Option<&Issuer>,
    routes: &[Route],
    table: &RouteTable,
    facilitators: &[Facilitator],
) -> Vec<String> {
    let mut warnings = Warnings(Vec::new());
    about.warn(&mut warnings, routes);
    odd::warn_of_published(&mut warnings, routes);
    if issuer.is_some() {
        warnings.0.extend(warn_of_unsigned(routes));
    }
    let is_hosted = facilitators.iter().any(|one| one.service.authority.ends_with("cdp.coinbase.com"));
    for ((index, route), matcher) in routes.iter().enumerate().zip(table.matchers()) {
        let path = format!("routes[{index}].");
        warn_of_matcher(&mut warnings, &path, matcher, route.terms.is_some());
        if table.taken_by(index).is_some() {
            warnings.add(
                &path,
                "match",
                "an earlier route lets some of its methods pass free; put that behind, if it is not meant",
            );
        }
        if let Some(terms) = &route.terms {
            warn_of_terms(&mut warnings, &path, terms, is_hosted);
            warn_of_length(&mut warnings, &path, terms, issuer);
            exposure::warn(&mut warnings, &path, terms, facilitators);
            odd::warn(&mut warnings, &path, &matcher.path.to_string(), terms);
            if table.taken_by(index).is_none() && table.is_free_written_otherwise(index) {
                let text = "an earlier, free route takes the same path in another letter case, or with another final slash; put that behind, if it is not meant";
                warnings.add(&path, "match", text);
            }
        }
    }
    warnings.0
}

/// Warnings for the operator.
pub(super) struct Warnings(Vec<String>);

impl Warnings {
    /// Whoever has more than these has read enough.
    const MOST: usize = 50;

    /// Adds what is odd about the value of `key` below `path`.
    #[cold]
    #[inline(never)]
    pub(super) fn add(&mut self, path: &str, key: &str, text: &str) {
        if self.0.len() < Self::MOST {
            self.0.push([path, key, ": ", text].concat());
        }
    }
}

/// The parts of a configuration outside of its routes that may be of no effect.
pub(super) struct About<'a> {
    pub(super) payers: &'a raw::Payers,
    pub(super) cors: Option<&'a raw::Cors>,
    pub(super) keep_headers: &'a [String],
    /// The networks of its nodes, each with the path of its node.
    pub(super) nodes: &'a [(String, u64)],
}

impl About<'_> {
    fn warn(&self, warnings: &mut Warnings, routes: &[Route]) {
        if !has_offers(routes) {
            warnings.add("", "routes", "nothing is for sale: no route has a price");
        }
        if terms(routes).any(|terms| terms.mode == Mode::Shadow) {
            warnings.add("", "mode", "there are routes in shadow: nobody is asked to pay for them");
        }
        if self.payers.allow.as_ref().is_some_and(Vec::is_empty) {
            warnings.add("", "payers.allow", "is empty, so that nobody may pay; leave it out for anybody");
        }
        if self.cors.is_some_and(|cors| cors.origins.is_empty()) {
            warnings.add("", "cors.origins", "is empty, and of no effect");
        }
        for (path, id) in self.nodes {
            if !offers(routes).any(|offer| offer.requirement.network.chain_id() == Some(*id)) {
                warnings.add("", path, "is of no effect: no route is paid on this network");
            }
        }
        for (index, name) in self.keep_headers.iter().enumerate() {
            if !is_override(&name.to_ascii_lowercase()) {
                warnings.add("", &format!("keep_headers[{index}]"), "is of no effect: this header is never removed");
            }
        }
    }
}

fn warn_of_matcher(warnings: &mut Warnings, path: &str, matcher: &Matcher, is_priced: bool) {
    // Free, the root of all is written so everywhere.
    if matcher.path.has_final_slash() && (is_priced || matcher.path.to_string() != "/") {
        let text = "is for this path alone; write {*rest} behind the last slash for all below it";
        warnings.add(path, "match.path", text);
    }
    if matcher.path.has_odd_sign() {
        let text = "has one of : ( ) + $ ! & = , a quotation mark or a letter that nobody sees, which stands for itself; write {name} for one segment, {*rest} at the end for all below";
        warnings.add(path, "match.path", text);
    }
    if !matcher.methods.iter().all(|method| is_known_method(method)) {
        warnings.add(path, "match.methods", "names one that hardly a client sends");
    }
}

/// Warns of what is odd about terms, some of it for the facilitator that Coinbase hosts: what it refuses, it refuses without a reason
/// (github.com/x402-foundation/x402, issues 1171 and 2789; `Description` in the schemas of `@coinbase/cdp-sdk`).
fn warn_of_terms(warnings: &mut Warnings, path: &str, terms: &RouteTerms, is_hosted: bool) {
    const LONGEST_DESCRIPTION: usize = 500;
    const LEAST_AMOUNT: u64 = 1000;
    const LONGEST_TIMEOUT: u64 = 24 * 60 * 60;
    let any = |is_odd: fn(&Offer) -> bool| terms.offers.iter().any(|offer| is_odd(offer));
    if terms.description.chars().count() > LONGEST_DESCRIPTION {
        let text = "is longer than 500 characters: Coinbase's facilitator refuses every payment for it; shorten it";
        warnings.add(path, "description", text);
    }
    let is_small =
        |offer: &Offer| offer.dollar_decimals == Some(6) && offer.requirement.amount < Amount::from(LEAST_AMOUNT);
    if is_hosted && terms.has_fixed_price() && any(is_small) {
        warnings.add(
            path,
            "price",
            "is below $0.001: Coinbase's facilitator refuses every payment of it; ask for more",
        );
    }
    if any(|offer| offer.requirement.max_timeout_seconds > LONGEST_TIMEOUT) {
        let text = "is more than a day: it is in seconds, and each payment is remembered for so long";
        warnings.add(path, "max_timeout_seconds", text);
    }
    if terms.settlement_overrides && !any(|offer| offer.requirement.scheme.is_metered()) {
        let text = "is of no effect: only scheme upto charges what the upstream names";
        warnings.add(path, "settlement_overrides", text);
    }
}

/// Warns where not all of the terms goes into the header of a 402, or so much that clients cannot read it.
fn warn_of_length(warnings: &mut Warnings, path: &str, terms: &RouteTerms, issuer: Option<&Issuer>) {
    /// Bytes of JSON that each signed offer takes, and their schema: about so many.
    const OFFER: usize = 550;
    const OFFER_SCHEMA: usize = 1_100;
    const USUAL_URL: &str = "https://api.example.com/a/path/of/usual/length";
    let (accepts, resource) = (terms.requirements(), terms.resource(USUAL_URL));
    let offers = match issuer.filter(|issuer| issuer.signs_offers) {
        Some(_) => accepts.len().saturating_mul(OFFER).saturating_add(OFFER_SCHEMA),
        None => 0,
    };
    let is_long = |json: String, more: usize| json.len().saturating_add(more) > MAX_HEADER_JSON;
    let least = Resource { description: "", service_name: None, tags: &[], icon_url: None, ..resource };
    if is_long(to_json(PAYMENT_REQUIRED, least, &accepts, None), 0) {
        let text = "has so many entries that the header of a 402 is longer than 8 KB, which not all clients can read; take fewer";
        warnings.add(path, "accepts", text);
    } else if is_long(to_json(PAYMENT_REQUIRED, resource, &accepts, terms.extensions.declared.as_deref()), offers) {
        let text = "is too long for the header of a 402 (8 KB): bazaar, signed offers and description are left out of it, in this order, until it fits; \
            shorten the schemas, or take fewer entries in accepts";
        warnings.add(path, "extensions", text);
    }
}

/// Returns a warning of routes for which nothing can be signed, if there are any.
fn warn_of_unsigned(routes: &[Route]) -> Option<String> {
    let is_unsigned = |route: &&Route| route.terms.as_ref().is_some_and(|terms| terms.shown_at == ShownAt::Client);
    let first = routes.iter().find(is_unsigned)?;
    let count = routes.iter().filter(is_unsigned).count();
    Some(format!(
        "offer_receipt: signs nothing for {count} routes (the first is {}), of which nobody knows the host: set origins, or match.hosts",
        first.label
    ))
}
