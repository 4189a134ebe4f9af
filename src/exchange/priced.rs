//! A request for a priced route, before anything is known of a payment.

use std::sync::Arc;

use super::bundle::Visitor;
use super::grant::Resource;
use super::quote::{Asked, Price, Quote};
use super::{Context, Effects, Next, Outcome, Reply, RequestHead, ShownUrl};
use crate::config::RouteTerms;
use crate::price::PriceError;
use crate::price::request::Job;

/// A request for a priced route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PricedRequest {
    pub(super) head: Arc<RequestHead>,
    /// The route's name in logs.
    pub(super) route: Arc<str>,
    pub(super) terms: Arc<RouteTerms>,
    /// The payer who has signed in, on a route that sells bundles.
    pub(super) visitor: Option<Box<Visitor>>,
}

impl PricedRequest {
    /// Returns the URL that the client is told it pays for.
    pub(super) fn url(&self, context: Context<'_>) -> ShownUrl {
        ShownUrl::of(context.config, &self.head, &self.terms)
    }

    /// Returns what a grant is for that this request earns or uses; `None` where nobody may come back.
    pub(super) fn resource(&self, context: Context<'_>) -> Option<Resource> {
        Resource::of(context, &self.head, &self.route, &self.terms)
    }

    /// Makes the quote for it, given what it asks of a model, and the price that the operator's own service has named.
    ///
    /// # Errors
    /// [`PriceError`].
    pub(super) fn quote(
        &self,
        context: Context<'_>,
        job: Option<&Job>,
        price: Option<&Price>,
    ) -> Result<Quote, PriceError> {
        let Context { supported, draw, .. } = context;
        Quote::new(&self.terms, Asked { job, price, supported, draw, head: &self.head })
    }

    /// Refuses the request: it cannot be read.
    pub(super) fn refuse(&self, status: u16, error: &str) -> Next {
        Effects::end_with(&self.route, Outcome::Malformed, error, Reply::error(status, error))
    }

    /// Refuses the request for now: nothing can be sold at the moment.
    pub(super) fn overloaded(&self, error: &str, reason: &str) -> Next {
        Effects::end_with(&self.route, Outcome::Overloaded, reason, Reply::overloaded(error))
    }
}
