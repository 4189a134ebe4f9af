//! What the filter itself answers a client.

use std::borrow::Cow;

use super::quote::Quote;
use super::{Context, RequestHead, ShownUrl, UpstreamHead, grant};
#[cfg(feature = "page")]
use crate::config::OwnPage;
use crate::facilitator::Unknown;
use crate::json::to_text;
#[cfg(feature = "page")]
use crate::page::{self, PageData, Way};
use crate::x402::header::PAYMENT_REQUIRED;
use crate::x402::offer_receipt::OFFER_RECEIPT;
use crate::x402::sign_in::SIGN_IN_WITH_X;
use crate::x402::terms;
use crate::x402::{Receipt, Version, reason};

/// Lets scripts of other origins read the headers of a payment.
pub(super) const EXPOSED: (&str, &str) =
    ("access-control-expose-headers", "PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE");

/// Lets them read what is left of a bundle.
pub(super) const EXPOSED_REMAINING: (&str, &str) = ("access-control-expose-headers", "X-X402-REMAINING");

/// Seconds after which a client may ask again.
const RETRY_AFTER_SECONDS: &str = "1";

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers; names in lower case.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// A JSON body, a page, or none.
    pub body: String,
}

impl Reply {
    fn json(status: u16, body: String) -> Self {
        let headers = [("content-type", "application/json"), ("cache-control", "no-store"), EXPOSED];
        Self { status, headers: headers.map(|(name, value)| (name.into(), value.to_owned())).to_vec(), body }
    }

    /// A JSON body with a status of the caller's.
    pub(super) fn of_json(status: u16, body: String) -> Self {
        Self::json(status, body)
    }

    /// `{"error": …}` with a status of the caller's.
    pub(super) fn error(status: u16, error: &str) -> Self {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            error: &'a str,
        }
        Self::json(status, to_text(&Body { error }))
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same with what a client gets to keep of a settlement.
    pub(super) fn with_receipt(self, version: Version, receipt: &Receipt<'_>) -> Self {
        self.with(version.receipt_header(), receipt.to_header())
    }

    fn retry_later(self) -> Self {
        self.with("retry-after", RETRY_AFTER_SECONDS)
    }

    /// The upstream's answer to a browser about requests of other origins, and nothing else of its answer: there are
    /// upstreams that answer OPTIONS with what is for sale.
    pub(super) fn preflight(head: UpstreamHead) -> Self {
        let headers = head.cors.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self { status: head.status, headers, body: String::new() }
    }

    /// The answer to a browser that asks whether a script of another origin may send a request that pays (Fetch standard,
    /// CORS-preflight fetch): it may.
    pub(super) fn cors_preflight(head: &RequestHead) -> Self {
        const MAX_AGE_SECONDS: &str = "600";
        let asked = |name: &'static str| head.text(name);
        Self { status: 204, headers: Vec::new(), body: String::new() }
            .with("access-control-allow-methods", asked("access-control-request-method"))
            .with("access-control-allow-headers", asked("access-control-request-headers"))
            .with("access-control-max-age", MAX_AGE_SECONDS)
    }

    /// The catalogue of what is for sale.
    pub(super) fn catalogue(json: String) -> Self {
        let headers = [
            ("content-type", "application/json"),
            ("cache-control", "public, max-age=60"),
            ("access-control-allow-origin", "*"),
        ];
        Self { status: 200, headers: headers.map(|(name, value)| (name.into(), value.to_owned())).to_vec(), body: json }
    }

    /// The terms of a route, and why the request was not served.
    pub(super) fn payment_required(context: Context<'_>, error: &str, quote: &Quote, url: &ShownUrl) -> Self {
        Self::of_terms(error, quote, url, declared(context, quote, url))
    }

    /// The terms of a route for a request that brings nothing, where they depend on nothing but its URL.
    pub(super) fn payment_required_at(quote: &Quote, url: &ShownUrl) -> Self {
        Self::of_terms(reason::PAYMENT_REQUIRED, quote, url, quote.declared().map(Cow::Borrowed))
    }

    fn of_terms(error: &str, quote: &Quote, url: &ShownUrl, extensions: Option<Cow<'_, str>>) -> Self {
        let (header, body) = match (quote.prepared(), &extensions) {
            (Some(prepared), None | Some(Cow::Borrowed(_))) if error == reason::PAYMENT_REQUIRED => prepared.fill(url),
            _ => {
                let (resource, accepts) = (quote.terms.resource(url), quote.requirements());
                let header = terms::to_header(error, resource, &accepts, extensions.as_deref());
                (header, terms::to_v1_body(error, resource, quote.terms.requirements_of_v1(&accepts)))
            }
        };
        let status = if error == reason::PERMIT2_ALLOWANCE_REQUIRED { 412 } else { 402 };
        Self::json(status, body).with(PAYMENT_REQUIRED, header)
    }

    /// The head alone.
    pub(super) fn without_body(self) -> Self {
        Self { body: String::new(), ..self }
    }

    /// The same for people: the terms as a page that pays.
    #[cfg(feature = "page")]
    pub(super) fn page(mut self, own: Option<&OwnPage>, quote: &Quote, method: &str, url: &str) -> Self {
        let error = reason::PAYMENT_REQUIRED;
        // A page pays for itself alone.
        let single = quote.offers().iter().filter(|offer| offer.requirement.bundle.is_none());
        let ways: Vec<Way<'_>> =
            single.clone().map(|offer| Way::new(&offer.requirement, offer.dollar_decimals)).collect();
        let accepts: Vec<_> = ways.iter().map(|way| way.requirement).collect();
        let extensions = quote.declared();
        let json = terms::to_json(error, quote.terms.resource(url), &accepts, extensions);
        let description = &quote.terms.description;
        let data = PageData { terms: &json, ways: &ways, description, url, method, error };
        let page = match own {
            Some(own) => page::render_custom(&own.template, own.csp.as_deref(), &data),
            None => page::render(&data),
        };
        for (name, value) in page.headers() {
            self.headers.retain(|(other, _)| other != name);
            self.headers.push((name.into(), value.to_owned()));
        }
        Self { body: page.html, ..self }
    }

    /// The facilitator refused to settle. Nothing has moved.
    pub(super) fn settlement_refused(version: Version, receipt: &Receipt<'_>, reason: &str) -> Self {
        Self::error(402, reason).with_receipt(version, receipt)
    }

    /// Nobody knows whether the money has moved or would move. Never terms: an honest client would pay again.
    pub(super) fn outcome_unknown(unknown: Unknown) -> Self {
        let status = if unknown == Unknown::TimedOut { 504 } else { 502 };
        Self::error(status, &format!("{unknown}; send the same payment again")).retry_later()
    }

    /// A channel's money is on its way back to its payer.
    pub(super) fn refunded(channel_id: &str) -> Self {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            message: &'a str,
            channel_id: &'a str,
        }
        Self::json(200, to_text(&Body { message: "Refund acknowledged", channel_id }))
    }

    /// The payment is at work for another request.
    pub(super) fn in_flight() -> Self {
        Self::error(409, "this payment is in flight on another request").retry_later()
    }

    /// The answer while the store of the ledger was never reached since the proxy began.
    pub fn ledger_out_of_reach() -> Self {
        Self::overloaded("payments cannot be taken yet: the ledger's store is out of reach")
    }

    /// The filter cannot take payments at the moment.
    pub(super) fn overloaded(error: &str) -> Self {
        Self::error(503, error).retry_later()
    }
}

/// The JSON of all that the terms of a request declare: an object; `None` where it would be empty.
fn declared<'a>(context: Context<'_>, quote: &'a Quote, url: &ShownUrl) -> Option<Cow<'a, str>> {
    let fixed = quote.declared();
    let issuer = context.config.issuer.as_ref().filter(|issuer| issuer.signs_offers && url.is_vouched);
    let own = [
        (SIGN_IN_WITH_X, grant::challenge(context, &quote.terms, url)),
        (OFFER_RECEIPT, issuer.map(|issuer| issuer.offers(url, &quote.requirements(), context.now))),
    ];
    let own = own.into_iter().filter_map(|(name, json)| Some(format!(r#""{name}":{}"#, json?)));
    let own = own.collect::<Vec<_>>().join(",");
    Some(match fixed.map(|json| json.strip_suffix('}').unwrap_or(json)) {
        _ if own.is_empty() => return fixed.map(Cow::Borrowed),
        Some(fixed) => format!("{fixed},{own}}}").into(),
        None => format!("{{{own}}}").into(),
    })
}
