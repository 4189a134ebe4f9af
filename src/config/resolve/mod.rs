//! From the configuration as it is written ([`raw`]) to what it means ([`Config`]).
//!
//! One file for each thing that is resolved: a route (`route.rs`) has terms (`terms.rs`); each entry of its `accepts` becomes
//! an offer (`offer.rs`; by its rail, `evm.rs` or `foreign.rs`) in an asset of a network (`network.rs`, `asset.rs`), to
//! recipients (`recipient.rs`), at a price (`price.rs`). Checks across routes stand in `checks.rs`.
//!
//! The larger ones are not inlined (`#[inline(never)]`): they have one caller each, and would all become one function, for whose
//! compilation V8 takes memory that the proxy does not give back.

mod asset;
mod bundle;
mod channels;
mod checks;
mod evm;
mod exposure;
mod extensions;
mod facilitator;
mod foreign;
mod issuer;
mod ledger;
mod network;
mod odd;
mod offer;
mod origin;
mod page;
mod payers;
mod price;
mod recipient;
mod route;
mod service;
mod store;
mod terms;
mod text;

use std::fmt::Display;

use super::raw;
use super::secret::{Environment, Shown};
use super::{Catalogue, Config, ConfigError, Mode, Route};
use crate::channel::IS_BUILT_IN;
use crate::evm::secret_key::SecretKey;
use crate::route::{Access, Matcher, RouteTable};
use network::Networks;

type Result<T> = std::result::Result<T, ConfigError>;

/// Resolves a whole configuration.
pub(super) fn config(raw: raw::Config, environment: Environment<'_>) -> Result<Config> {
    let mut networks = Networks::new(raw.networks)?;
    let nodes = networks.add_rpc(raw.rpc.0, environment)?;
    let facilitators = facilitator::facilitators(raw.facilitator, raw.facilitators, &networks, environment)?;
    let origins = origin::origins(&raw.origins)?;
    let mode = raw.mode.unwrap_or_default();
    let channels = channels::channels(&raw.channels, environment)?;
    let context = route::Context {
        defaults: &raw.defaults,
        networks: &networks,
        origins: &origins,
        facilitators: &facilitators,
        authorizer: channels.authorizer.as_ref().map(SecretKey::address),
        mode,
        environment,
    };
    let (routes, matchers) = context.routes(raw.routes)?;
    let payers = payers::payers(&raw.payers)?;
    checks::payers_are_known(&payers, &routes)?;
    #[cfg(feature = "page")]
    let page = page::page(raw.page)?;
    #[cfg(not(feature = "page"))]
    page::page(&raw.page)?;
    let issuer = raw.offer_receipt.as_ref().map(|raw| issuer::issuer(raw, environment)).transpose()?;
    let is_discoverable = raw.discovery.unwrap_or(true) && mode == Mode::Enforce;
    let catalogue = match is_discoverable {
        true => Catalogue::new(routes.iter().zip(&matchers)),
        false => Catalogue::default(),
    };
    let table = table(&routes, matchers);
    checks::all_are_reached(&table)?;
    let about =
        checks::About { payers: &raw.payers, cors: raw.cors.as_ref(), keep_headers: &raw.keep_headers, nodes: &nodes };
    let mut warnings = checks::warnings(&about, issuer.as_ref(), &routes, &table, &facilitators);
    warnings.extend(catalogue.warning(&origins));
    Ok(Config {
        warnings,
        has_channels: checks::has_channels(&routes),
        needs_principals: checks::needs_principals(&routes)
            || channels.flush.as_ref().is_some_and(|flush| !flush.principals.is_empty()),
        channels,
        facilitators_identity: if IS_BUILT_IN { facilitator::identity(&facilitators) } else { String::new() },
        payers,
        origins,
        cors_origins: raw.cors.as_ref().map_or(Ok(Vec::new()), origin::cors_origins)?,
        issuer,
        is_discoverable,
        catalogue,
        #[cfg(feature = "page")]
        page,
        needs_introduction: checks::needs_introduction(&routes),
        has_offers: checks::has_offers(&routes),
        metadata: checks::metadata(&routes),
        facilitators,
        table,
        routes,
        unmatched: raw.unmatched,
        mode,
        kept_headers: text::kept_headers(&raw.keep_headers)?,
        ledger: ledger::ledger(&raw.ledger)?,
        shared_ledger: ledger::shared(&raw.ledger)?,
    })
}

fn table(routes: &[Route], matchers: Vec<Matcher>) -> RouteTable {
    let access = |route: &Route| match &route.terms {
        Some(terms) if terms.mode == Mode::Shadow => Access::Shadow,
        Some(_) => Access::Priced,
        None => Access::Free,
    };
    RouteTable::new(matchers.into_iter().zip(routes.iter().map(access)).collect())
}

/// Returns the error of what stands at `path`.
fn refuse<T>(path: impl Into<String>, message: impl Display) -> Result<T> {
    Err(ConfigError { path: path.into(), message: message.to_string() })
}

/// Checks that the part of the filter is built in that the value at `path` wants.
#[inline(always)]
fn require(path: impl Into<String>, feature: &str, is_there: bool) -> Result<()> {
    if is_there { Ok(()) } else { lacks(path.into(), feature) }
}

/// Apart from [`require`], so that the compiler sees there what is never reached in a build without the part.
#[cold]
#[inline(never)]
fn lacks(path: String, feature: &str) -> Result<()> {
    refuse(
        path,
        format_args!(
            "needs the feature {feature}, which this build of the filter lacks; take the whole module, or build one with `--features core,{feature}`"
        ),
    )
}

/// Puts a path to an error that speaks of `value`.
fn at<E: Display>(path: impl Into<String>, value: &str) -> impl FnOnce(E) -> ConfigError {
    move |error| ConfigError { path: path.into(), message: format!("{} {error}", Shown(value)) }
}
