//! Routes and what they ask: terms, the ways to pay, and the protocol's extensions.

use std::sync::Arc;

use serde::Deserialize;

use super::{Principal, Rpc, Service, ShownAt};
use crate::evm::Address;
use crate::ledger::exposure::Limits;
use crate::metadata::MetadataKey;
use crate::price::{Rates, Tariff};
use crate::x402::Requirement;
use crate::x402::extensions::{self, Identifier};
use crate::x402::requirement::Scheme;
use crate::x402::terms::{Prepared, Resource};

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name in logs, or its index where it has none.
    pub label: Arc<str>,
    /// The terms of its requests; `None` where they are free.
    pub terms: Option<Arc<RouteTerms>>,
}

/// The terms of a priced route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteTerms {
    /// The ways to pay, in the order of the configuration. At least one.
    pub offers: Vec<Arc<Offer>>,
    /// A description for people and agents.
    pub description: String,
    /// The media type of what is sold.
    pub mime_type: String,
    /// The service that sells it, as catalogues show it.
    pub listing: Listing,
    /// The rule for requests that do not pay.
    pub mode: Mode,
    /// The moment at which the money moves.
    pub settle: Settle,
    /// The price by tokens, where the route has one; the amounts of `offers` then are but placeholders.
    pub tariff: Option<Arc<Tariff>>,
    /// The operator's own service that names the price of each request, where there is one.
    pub price_service: Option<Arc<Service>>,
    /// True if the upstream may name the charge of scheme `upto` by the header `Settlement-Overrides`.
    pub settlement_overrides: bool,
    /// Callers that need not pay.
    pub free_for: Arc<[Principal]>,
    /// Extensions of the protocol.
    pub extensions: Extensions,
    /// The terms on which what is left of a bundle is used, where the route sells any: `offers` then ends with the entries that
    /// sell it.
    pub bundle: Option<BundleTerms>,
    /// The origin that clients are shown for it.
    pub shown_at: ShownAt,
    /// The parts of a 402 that are the same for every request.
    pub prepared: Option<Arc<Prepared>>,
}

/// The service that sells, as catalogues show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Listing {
    /// Its name.
    pub service_name: Option<String>,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// The URL of its icon.
    pub icon_url: Option<String>,
}

/// The rule for requests for a priced route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They pay.
    #[default]
    Enforce,
    /// They pass: what would become of them is decided, logged and counted, and no money moves.
    Shadow,
}

/// The moment at which the money moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Settle {
    /// Once the upstream has answered, and only if it did so without error.
    #[default]
    After,
    /// Before the upstream hears of the request.
    Before,
    /// While the upstream works on the request; the response waits for it.
    Concurrent,
    /// Once the response is on its way, as far as exposure allows; beyond that, as after.
    Optimistic,
}

/// Extensions of the protocol, on a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Extensions {
    /// The rule for names that clients give to their payments; `None` where such names are ignored.
    pub identifier: Option<Identifier>,
    /// The route's input and output for catalogues, as JSON.
    pub bazaar: Option<Arc<str>>,
    /// The codes by which a settlement's transaction names who sold, declared as JSON.
    pub builder_code: Option<Arc<str>>,
    /// The terms on which payers come back without paying again, where they may.
    pub sign_in: Option<SignInTerms>,
    /// The declarations that are the same for every request, as a JSON object; `None` where it would be empty.
    pub declared: Option<Arc<str>>,
}

/// The terms on which a payer comes back without paying again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SignInTerms {
    /// Seconds after the payment's response.
    pub seconds: u64,
    /// The statement that the wallet shows to its user.
    pub statement: Option<Arc<str>>,
    /// A digest of the configured requirements: a payment by other terms gives no right by these.
    pub price: [u8; 32],
}

/// The terms on which what is left of a bundle is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BundleTerms {
    /// True if a request takes one call from it, and not its price.
    pub takes_calls: bool,
    /// A digest of what a bundle is worth: one that was bought by other terms is none by these.
    pub price: [u8; 32],
}

impl Extensions {
    /// The same with what they declare made in advance.
    #[must_use]
    pub fn prepared(self) -> Self {
        Self { declared: self.declared_with(&[]), ..self }
    }

    /// Returns what is declared where the facilitator pays for approvals of Permit2 in these ways.
    pub fn declared_with(&self, sponsoring: &[&str]) -> Option<Arc<str>> {
        let own = [
            (extensions::BAZAAR, self.bazaar.as_deref().map(str::to_owned)),
            (extensions::PAYMENT_IDENTIFIER, self.identifier.map(extensions::declare_identifier)),
            (extensions::BUILDER_CODE, self.builder_code.as_deref().map(str::to_owned)),
        ];
        let sponsoring = sponsoring.iter().map(|name| (*name, extensions::declare_sponsoring(name)));
        let fields: Vec<String> = own
            .into_iter()
            .chain(sponsoring)
            .filter_map(|(name, json)| Some(format!(r#""{name}":{}"#, json?)))
            .collect();
        (!fields.is_empty()).then(|| format!("{{{}}}", fields.join(",")).into())
    }
}

impl RouteTerms {
    /// Returns the terms with the parts of a 402 that are the same for every request made in advance.
    #[must_use]
    pub fn prepared(self) -> Self {
        let accepts = self.requirements();
        let extensions = self.extensions.declared.as_deref();
        let prepared =
            Prepared::new(self.resource(Prepared::GAP), &accepts, self.requirements_of_v1(&accepts), extensions)
                .map(Arc::new);
        Self { prepared, ..self }
    }

    /// Returns what is sold at a URL, as the terms show it.
    pub fn resource<'a>(&'a self, url: &'a str) -> Resource<'a> {
        let Self { description, mime_type, listing: Listing { service_name, tags, icon_url }, .. } = self;
        let (service_name, icon_url) = (service_name.as_deref(), icon_url.as_deref());
        Resource { url, description, mime_type, service_name, tags, icon_url }
    }

    /// Returns the entries of `accepts`.
    pub fn requirements(&self) -> Vec<&Requirement> {
        self.offers.iter().map(|offer| &offer.requirement).collect()
    }

    /// Returns those of `accepts` that clients of version 1 may be told of: that version knows no extensions, so its clients
    /// cannot give what one demands.
    pub fn requirements_of_v1<'a>(&self, accepts: &'a [&'a Requirement]) -> &'a [&'a Requirement] {
        if self.extensions.identifier == Some(Identifier::Required) { &[] } else { accepts }
    }

    /// Returns whether payers come back by signing in.
    pub fn lets_sign_in(&self) -> bool {
        self.extensions.sign_in.is_some() || self.bundle.is_some()
    }

    /// Returns whether the price is the same for every request.
    pub fn has_fixed_price(&self) -> bool {
        self.tariff.is_none() && self.price_service.is_none()
    }

    /// Returns whether everybody who brings no payment is told the same, but for the URL: nobody need not pay, comes back, or
    /// asks for something that has a price of its own.
    pub fn are_told_alike(&self) -> bool {
        self.mode == Mode::Enforce && self.has_fixed_price() && self.free_for.is_empty() && !self.lets_sign_in()
    }

    /// Returns whether a caller whose certificate is for `name` need not pay.
    pub fn is_free_for(&self, name: &str) -> bool {
        self.free_for.iter().any(|principal| principal.covers(name))
    }
}

/// A way to pay, with what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The entry of `accepts`.
    pub requirement: Requirement,
    /// The accounts that may be paid. One is drawn for each quote, by weight, and any of them is accepted. At least one,
    /// unless the proxy names the recipient, or the entry is of a foreign rail, which names its only one itself.
    pub recipients: Vec<Recipient>,
    /// The metadata by which the proxy names the recipient, where it does.
    pub recipient_from: Option<MetadataKey>,
    /// The decimals of its asset, where that is pegged to the dollar.
    pub dollar_decimals: Option<u8>,
    /// The prices of tokens in its asset, where the route is priced by them.
    pub rates: Option<Arc<Rates>>,
    /// The node that can say what became of a settlement.
    pub rpc: Option<Arc<Rpc>>,
    /// True if a settlement counts only once the chain itself shows it. Never without `rpc`.
    pub confirm: bool,
    /// The facilitators that are for it, by their places in the configuration. At least one.
    pub facilitators: Arc<[usize]>,
    /// The most that may be delivered by it before it is paid; `None` where nothing may.
    pub exposure: Option<Limits>,
}

/// An account that may be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// The account.
    pub to: Address,
    /// Its share beside the other weights. At least 1.
    pub weight: u64,
}

impl Offer {
    /// Returns whether it is the same for every request.
    pub(crate) fn is_fixed(&self) -> bool {
        self.requirement.scheme == Scheme::Exact && self.rates.is_none() && self.recipients.len() == 1
    }
}
