//! From the head of a request for a priced route to the quote for it: reads the body where the price depends on it, and asks
//! the operator's own service where that knows the price.

use std::sync::Arc;

use super::bundle;
use super::decode;
use super::quote::{Price, Quote};
use super::state::State;
use super::{Body, Call, CallKind, Context, Effects, Event, Next, PricedRequest, Stream};
use crate::facilitator::CalloutAnswer;
use crate::price::PriceError;
use crate::price::Tariff;
use crate::price::request::{Job, may_name_wish, names_wish};

/// State: the request's body is awaited, by which its price is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reading(PricedRequest);

/// State: the operator's own service is asked for the price.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pricing(Box<Measured>);

/// A request of which everything is known that its price depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Measured {
    pub(super) request: PricedRequest,
    /// The work that it asks of a model, where the route is priced by that.
    pub(super) job: Option<Job>,
    /// The body, where a payment may have to be bound to it.
    body: Option<Arc<[u8]>>,
    /// The body with the wish for usage, where the filter adds it.
    pub(super) rewrite: Option<Vec<u8>>,
}

/// Takes in a request for a priced route, and reads its body where the price depends on it.
pub(super) fn begin(context: Context<'_>, request: PricedRequest) -> Next {
    let Some(tariff) = request.terms.tariff.clone() else { return Measured::new(request, None).price(context) };
    if tariff.namespace.is_some() {
        return begin_by_metadata(context, request, &tariff);
    }
    let head = &request.head;
    if !head.is_plain_text() {
        return request.refuse(415, "send one Content-Type, and the body in UTF-8: it has to be read to be priced");
    }
    if head.is_encoded() {
        return request.refuse(415, "send the body without a Content-Encoding: it has to be read to be priced");
    }
    let most = tariff.max_body_bytes;
    if head.text("content-length").parse::<usize>().unwrap_or(0) > most {
        return refuse_too_long(&request, most);
    }
    (Reading(request).into(), Effects { stream: Stream::Read { most }, ..Effects::default() })
}

/// Prices a request by what a filter before this one has found in its body.
fn begin_by_metadata(context: Context<'_>, request: PricedRequest, tariff: &Tariff) -> Next {
    let Ok(bytes) = request.head.text("content-length").parse() else {
        return request.refuse(411, "send the length of the body (Content-Length): it is priced by it");
    };
    match tariff.job_of_metadata(|key| request.head.metadata(key), bytes) {
        Ok(job) => Measured::new(request, Some(job)).price(context),
        Err(error) => request.refuse(400, &error.to_string()),
    }
}

fn refuse_too_long(request: &PricedRequest, most: usize) -> Next {
    request.refuse(413, &format!("the body is longer than the {most} bytes that are read to price it"))
}

impl State for Reading {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::RequestBody(body) = event else { return self.ignore(event) };
        let Self(request) = self;
        let Some(tariff) = request.terms.tariff.clone() else { return Measured::new(request, None).price(context) };
        let body = match body {
            Body::Whole(body) => body,
            Body::TooLong => return refuse_too_long(&request, tariff.max_body_bytes),
            Body::Unreachable => {
                let error = "this proxy does not let the payment filter read bodies; set allow_on_headers_stop_iteration: true in its plugin configuration";
                return request.overloaded(error, error);
            }
        };
        match tariff.job_at(request.head.path(), &body) {
            Ok(job) => Measured::of_body(request, job, body).price(context),
            Err(error) => request.refuse(400, &error.to_string()),
        }
    }
}

impl State for Pricing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Callout(answer) => self.0.on_price(context, &answer),
            _ => self.ignore(event),
        }
    }
}

impl Measured {
    fn new(request: PricedRequest, job: Option<Job>) -> Self {
        Self { request, job, body: None, rewrite: None }
    }

    fn of_body(request: PricedRequest, mut job: Job, body: Vec<u8>) -> Self {
        // Whoever has not paid is told the price, and nothing else is done about the body.
        let has_payment = request.head.has_payment();
        let is_kept = has_payment && has_metered_entry(&request);
        // Where a payment came as well, it is not known yet which of the two pays.
        let is_visit = request.visitor.is_some() && !has_payment;
        let may_ask = request.terms.tariff.as_ref().is_some_and(|tariff| tariff.asks_for_usage);
        if !may_ask || request.visitor.is_some() && has_payment || request.head.has_refused_wish(&request.route) {
            job.wish = None;
        }
        // What the client has written itself may be repeated in any refusal.
        let is_named_in_path = names_wish(request.head.all(":path").next().unwrap_or_default());
        job.is_wish_alone = (is_kept || is_visit) && job.wish.is_some() && !is_named_in_path && !may_name_wish(&body);
        let rewrite = if is_kept || is_visit { job.with_wish_for_usage(&body) } else { None };
        let body = is_kept.then(|| body.into());
        Self { request, job: Some(job), body, rewrite }
    }

    /// Asks whoever knows the price.
    fn price(mut self, context: Context<'_>) -> Next {
        let Some(service) = self.request.terms.price_service.clone() else { return self.receive(context, None) };
        let body = Price::question(&self.request.head, self.job.as_ref());
        let call = Some(Call { kind: CallKind::Price, service, body });
        // The wish can only be added while the body is at hand, and does no harm should the request go no further.
        let rewrite = self.rewrite.take();
        (Pricing(Box::new(self)).into(), Effects { call, rewrite, ..Effects::default() })
    }

    fn on_price(self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        match Price::read(answer) {
            Some(price) => self.receive(context, Some(&price)),
            None => {
                let reason = "the price service did not name a price";
                self.request.overloaded("the price is not known at the moment", reason)
            }
        }
    }

    /// Makes the quote, and reads the payment by it.
    fn receive(self, context: Context<'_>, price: Option<&Price>) -> Next {
        let Self { request, job, .. } = &self;
        let quote = match request.quote(context, job.as_ref(), price) {
            Ok(quote) => quote,
            Err(error @ PriceError::Unknown) => {
                let reason = "the price service named no price for an entry of this route";
                return request.overloaded(&error.to_string(), reason);
            }
            Err(error) => return request.refuse(400, &error.to_string()),
        };
        if quote.offers().is_empty() {
            let reason = "no entry of this route can be offered: the facilitator has not said that it supports one, or nobody has said who is paid";
            return request.overloaded("no way to pay is open at the moment", reason);
        }
        match request.visitor.clone() {
            Some(visitor) => bundle::begin(context, self, quote, &visitor),
            None => self.pay(context, quote),
        }
    }

    /// Reads the payment by its quote.
    pub(super) fn pay(self, context: Context<'_>, quote: Quote) -> Next {
        let Self { request, job, body, rewrite } = self;
        match decode::candidate(context, &request, &quote, job, body) {
            Ok(candidate) => {
                let rewrite = rewrite.filter(|_| candidate.payment.purchase.is_metered());
                let (exchange, effects) = candidate.claim(context);
                (exchange, Effects { has_checked: true, rewrite, ..effects })
            }
            Err(rejection) => rejection.answer(context, &request, &quote),
        }
    }
}

/// Returns whether an entry is charged by what was used.
fn has_metered_entry(request: &PricedRequest) -> bool {
    request.terms.offers.iter().any(|offer| offer.requirement.scheme.is_metered())
}
