//! Checks across routes: rules for all of them, their needs of the proxy, and warnings.

use std::sync::Arc;

use super::route::is_known_method;
use super::{Result, refuse};
use crate::config::raw;
use crate::config::secret::Shown;
use crate::config::{Facilitator, Mode, Offer, Payers, Route, RouteTerms, ShownAt};
use crate::exchange::is_override;
use crate::metadata::MetadataKey;
use crate::money::Amount;
use crate::route::{Matcher, RouteTable};
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

/// The most warnings that are given: whoever has more has read enough.
const MOST_WARNINGS: usize = 50;

/// Returns warnings about a configuration that is valid, and may not be what was meant. Each begins with a path.
pub(super) fn warnings(
    about: &About<'_>,
    issuer: Option<&Issuer>,
    routes: &[Route],
    table: &RouteTable,
    facilitator: &Facilitator,
) -> Vec<String> {
    let unsigned = issuer.and_then(|_| warn_of_unsigned(routes));
    let each = routes.iter().zip(table.matchers()).enumerate().flat_map(|(index, (route, matcher))| {
        let taken = table.taken_by(index).map(|(earlier, _)| {
            ("match", format!("routes[{earlier}], before it, lets some of its methods pass free; put it behind, if that is not meant"))
        });
        let own = of_matcher(matcher, route).chain(route.terms.iter().flat_map(|terms| of_terms(terms, facilitator)));
        let own = own.map(|(key, text)| (key, text.to_owned())).chain(taken);
        own.map(move |(key, text)| format!("routes[{index}].{key}: {text}"))
    });
    about.warnings(routes).chain(unsigned).chain(each).take(MOST_WARNINGS).collect()
}

/// The parts of a configuration outside of its routes that may be of no effect.
pub(super) struct About<'a> {
    pub(super) ledger: &'a raw::Ledger,
    pub(super) payers: &'a raw::Payers,
    pub(super) cors: Option<&'a raw::Cors>,
    pub(super) keep_headers: &'a [String],
    /// The networks of its nodes, each with the path of its node.
    pub(super) nodes: &'a [(String, u64)],
}

impl About<'_> {
    fn warnings<'b>(&'b self, routes: &'b [Route]) -> impl Iterator<Item = String> + use<'b> {
        let Self { ledger, payers, cors, keep_headers, nodes } = self;
        let has_node = offers(routes).any(|offer| offer.rpc.is_some());
        let shadows = terms(routes).filter(|terms| terms.mode == Mode::Shadow).count();
        let is_empty = |list: Option<&Vec<String>>| list.is_some_and(Vec::is_empty);
        let warnings = [
            (!has_offers(routes), "routes: nothing is for sale: no route has a price"),
            (ledger.exclusive && !has_node, "ledger.exclusive: is of no effect without a node to ask: configure rpc"),
            (
                is_empty(payers.allow.as_ref()),
                "payers.allow: is empty, so that nobody may pay; leave it out for anybody",
            ),
            (is_empty(cors.map(|cors| &cors.origins)), "cors.origins: is empty, and of no effect"),
        ];
        let warnings = warnings.into_iter().filter(|(is_odd, _)| *is_odd).map(|(_, text)| text.to_owned());
        let mode =
            (shadows > 0).then(|| format!("mode: {shadows} routes are in shadow: nobody is asked to pay for them"));
        let is_used = |id: u64| offers(routes).any(|offer| offer.requirement.network.chain_id() == Some(id));
        let unused = nodes.iter().filter(move |(_, id)| !is_used(*id));
        let kept = keep_headers.iter().filter(|name| !is_override(&name.to_ascii_lowercase()));
        warnings
            .chain(mode)
            .chain(unused.map(|(path, _)| format!("{path}: is of no effect: no route is paid on this network")))
            .chain(kept.map(|name| format!("keep_headers: {} is never removed", Shown(name))))
    }
}

fn of_matcher<'a>(
    matcher: &'a Matcher,
    route: &'a Route,
) -> impl Iterator<Item = (&'static str, &'static str)> + use<'a> {
    // The root of all is written so everywhere.
    let has_slash = matcher.path.has_final_slash() && (route.terms.is_some() || matcher.path.to_string() != "/");
    let warnings = [
        (has_slash, "path", "is for this path alone; write {*rest} behind the last slash for all below it"),
        (
            matcher.path.has_odd_sign(),
            "path",
            "has one of : ( ) + $, which stands for itself; write {name} for one segment, {*rest} at the end for all below",
        ),
        (
            !matcher.methods.iter().all(|method| is_known_method(method)),
            "methods",
            "names one that hardly a client sends",
        ),
    ];
    let key = |key| if key == "path" { "match.path" } else { "match.methods" };
    warnings.into_iter().filter(|(is_odd, ..)| *is_odd).map(move |(_, name, text)| (key(name), text))
}

/// Returns what is odd about terms, some of it for the facilitator that Coinbase hosts: what it refuses, it refuses without a reason
/// (github.com/x402-foundation/x402, issues 1171 and 2789; `Description` in the schemas of `@coinbase/cdp-sdk`).
fn of_terms(
    terms: &RouteTerms,
    facilitator: &Facilitator,
) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
    const LONGEST_DESCRIPTION: usize = 500;
    const LEAST_AMOUNT: u64 = 1000;
    const LONGEST_TIMEOUT: u64 = 24 * 60 * 60;
    let is_hosted = facilitator.service.authority.ends_with("cdp.coinbase.com");
    let is_small = |offer: &Arc<Offer>| {
        terms.has_fixed_price()
            && offer.dollar_decimals == Some(6)
            && offer.requirement.amount < Amount::from(LEAST_AMOUNT)
    };
    let mut requirements = terms.offers.iter().map(|offer| &offer.requirement);
    let is_upto = terms.offers.iter().any(|offer| offer.requirement.scheme == Scheme::Upto);
    let warnings = [
        (
            terms.description.chars().count() > LONGEST_DESCRIPTION,
            "description",
            "is longer than 500 characters: Coinbase's facilitator refuses every payment for it; shorten it",
        ),
        (
            is_hosted && terms.offers.iter().any(is_small),
            "price",
            "is below $0.001: Coinbase's facilitator refuses every payment of it; ask for more",
        ),
        (
            requirements.any(|requirement| requirement.max_timeout_seconds > LONGEST_TIMEOUT),
            "max_timeout_seconds",
            "is more than a day: it is in seconds, and each payment is remembered for so long",
        ),
        (
            terms.settlement_overrides && !is_upto,
            "settlement_overrides",
            "is of no effect: only scheme upto charges what the upstream names",
        ),
    ];
    warnings.into_iter().filter(|(is_odd, ..)| *is_odd).map(|(_, key, text)| (key, text))
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
