//! The plugin's configuration: from text to a [`Config`] that cannot be wrong.
//!
//! A configuration is taken as a whole or refused as a whole, and a refusal names the path of what is wrong. The way of
//! one: `load.rs` takes the host's bytes, `raw.rs` reads their shape, `resolve/` gives them meaning, and the types that
//! come out stand here, in `terms.rs`, `service.rs`, `origin.rs` and `payers.rs`.

mod catalogue;
mod channels;
mod error;
mod load;
mod origin;
mod payers;
mod protobuf;
mod raw;
mod resolve;
#[cfg(feature = "schema")]
pub mod schema;
mod secret;
mod service;
mod terms;

use std::sync::Arc;

use serde::Deserialize;

use crate::ledger::Ledger;
use crate::metadata::MetadataKey;
use crate::route::RouteTable;
use crate::x402::NetworkId;
use crate::x402::offer_receipt::Issuer;
pub use catalogue::Catalogue;
pub use channels::{Channels, Flush};
pub use error::ConfigError;
pub use origin::{CorsOrigin, Origin, ShownAt};
pub use payers::{Payers, Principal};
pub use service::{Facilitator, Rpc, Service, SharedLedger, Verify};
pub use terms::{BundleTerms, Extensions, Listing, Mode, Offer, Recipient, Route, RouteTerms, Settle, SignInTerms};

/// The whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// The facilitators in the order in which they are asked. At least one.
    pub facilitators: Vec<Facilitator>,
    /// A name of these facilitators, which no others have; empty where channels are not built in.
    pub facilitators_identity: String,
    /// The routes in the order of the configuration; [`RouteTable`] names them by index.
    pub routes: Vec<Route>,
    /// The table that finds the route of a request.
    pub table: RouteTable,
    /// The rule for requests that no route matches.
    pub unmatched: Unmatched,
    /// The rule for requests for priced routes that do not say otherwise.
    pub mode: Mode,
    /// Headers that a client may send although they can override path or method; in lower case.
    pub kept_headers: Vec<String>,
    /// The rules of claims on payments.
    pub ledger: Ledger,
    /// The store that a fleet of proxies shares; `None` where claims stand in the shared data of one process.
    pub shared_ledger: Option<SharedLedger>,
    /// The rules for payment channels.
    pub channels: Channels,
    /// True if an entry is paid out of channels.
    pub has_channels: bool,
    /// True if an entry can be offered only once the facilitator has said what it supports.
    pub needs_introduction: bool,
    /// True if anything is for sale.
    pub has_offers: bool,
    /// The values of the proxy's dynamic metadata that are fetched for each request.
    pub metadata: Vec<MetadataKey>,
    /// The payers whose payments are taken.
    pub payers: Payers,
    /// Origins at which clients find what is for sale. What is shown and signed names one of these, where there are any.
    pub origins: Vec<Origin>,
    /// Origins whose scripts may pay.
    pub cors_origins: Vec<CorsOrigin>,
    /// The signer of offers and receipts, where there is a key for it.
    pub issuer: Option<Issuer>,
    /// True if the filter lists what is for sale.
    pub is_discoverable: bool,
    /// The list of what is for sale.
    pub catalogue: Catalogue,
    /// The page that browsers get with a 402; `None` where they get the same as programs.
    #[cfg(feature = "page")]
    pub page: Option<PageConfig>,
    /// True if a route is free for callers by the names of their certificates, which the proxy has to tell.
    pub needs_principals: bool,
    /// Warnings about a configuration that is valid, and may not be what was meant.
    pub warnings: Vec<String>,
}

/// The rule for requests that no route matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// They pass.
    #[default]
    Free,
    /// They are answered 403.
    Deny,
}

/// The page that browsers get with a 402.
#[cfg(feature = "page")]
#[derive(Debug, Default)]
pub struct PageConfig {
    /// The operator's own page; the built-in one without it.
    pub own: Option<OwnPage>,
}

/// The operator's own page.
#[cfg(feature = "page")]
#[derive(Debug)]
pub struct OwnPage {
    /// HTML with placeholders.
    pub template: crate::page::Template,
    /// Its `Content-Security-Policy`, where that is not the usual one.
    pub csp: Option<String>,
}

impl Config {
    /// Returns the nodes that its offers may ask, each once.
    pub fn nodes(&self) -> Vec<Arc<Rpc>> {
        let offers = self.routes.iter().filter_map(|route| route.terms.as_ref()).flat_map(|terms| &terms.offers);
        let mut nodes: Vec<Arc<Rpc>> = Vec::new();
        for rpc in offers.filter_map(|offer| offer.rpc.as_ref()) {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, rpc)) {
                nodes.push(Arc::clone(rpc));
            }
        }
        nodes
    }

    /// Returns the assets in which responses may leave before they are paid, each once.
    pub fn exposed(&self) -> Vec<(NetworkId, String)> {
        let offers = self.routes.iter().filter_map(|route| route.terms.as_ref()).flat_map(|terms| &terms.offers);
        let mut exposed = Vec::new();
        for offer in offers.filter(|offer| offer.exposure.is_some()) {
            let asset = (offer.requirement.network.clone(), offer.requirement.asset().into_owned());
            if !exposed.contains(&asset) {
                exposed.push(asset);
            }
        }
        exposed
    }

    /// Returns whether scripts of an origin may pay here.
    pub fn admits_origin(&self, origin: &str) -> bool {
        self.cors_origins.iter().any(|admitted| match admitted {
            CorsOrigin::Any => true,
            CorsOrigin::Exact(exact) => exact == origin,
        })
    }

    /// Returns what the proxy's buffers have to hold, where responses are held until their charge is settled.
    #[cold]
    #[inline(never)]
    pub fn buffer_note(&self) -> Option<String> {
        let longest = |route: &Route| {
            let terms = route.terms.as_ref()?;
            let is_metered = terms.offers.iter().any(|offer| offer.requirement.scheme.is_metered());
            let tariff = terms.tariff.as_ref().filter(|_| is_metered)?;
            Some((tariff.max_response_bytes, Arc::clone(&route.label)))
        };
        let (bytes, label) = self.routes.iter().rev().filter_map(longest).max_by_key(|(bytes, _)| *bytes)?;
        Some(format!(
            "responses of up to {bytes} bytes (route {label}) are held in the proxy's buffer until their charge is settled: per_connection_buffer_limit_bytes of the listener must be at least that and as much again as the cluster's (1 MiB by default, the most that one read brings), or price.max_response_bytes less; the proxy answers 500 in place of what it cannot hold"
        ))
    }

    /// Returns whether the operator lets a header through that can override path or method.
    pub fn keeps_header(&self, name: &str) -> bool {
        self.kept_headers.iter().any(|kept| kept == name)
    }
}

#[cfg(test)]
mod tests;
