//! Checks across routes: rules for all of them, their needs of the proxy, and warnings.

use std::sync::Arc;

use super::{Result, refuse};
use crate::config::{Catalogue, Offer, Origin, Payers, Route, RouteTerms, ShownAt};
use crate::metadata::MetadataKey;
use crate::x402::Requirement;
use crate::x402::offer_receipt::Issuer;
use crate::x402::requirement::{Rail, Scheme};

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
    offers(routes)
        .any(|offer| offer.requirement.scheme == Scheme::Upto || matches!(offer.requirement.rail, Rail::Foreign(_)))
}

/// Returns whether a route is free for callers by the names of their certificates.
pub(super) fn needs_principals(routes: &[Route]) -> bool {
    terms(routes).any(|terms| !terms.free_for.is_empty())
}

/// Returns the keys of the proxy's dynamic metadata that the routes need, each once.
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

/// Returns warnings about a configuration that is valid, and may not be what was meant.
pub(super) fn warnings(
    issuer: Option<&Issuer>,
    routes: &[Route],
    catalogue: &Catalogue,
    origins: &[Origin],
) -> Vec<String> {
    let unsigned = issuer.and_then(|_| warn_of_unsigned(routes));
    unsigned.into_iter().chain(catalogue.warning(origins)).collect()
}

/// Returns a warning of routes for which nothing can be signed, if there are any.
fn warn_of_unsigned(routes: &[Route]) -> Option<String> {
    let is_unsigned = |route: &&Route| route.terms.as_ref().is_some_and(|terms| terms.shown_at == ShownAt::Client);
    let first = routes.iter().find(is_unsigned)?;
    let count = routes.iter().filter(is_unsigned).count();
    Some(format!(
        "offer_receipt signs nothing for {count} routes (the first is {}), of which nobody knows the host: set origins, or match.hosts",
        first.label
    ))
}
