//! From the head of a request to a payment that meets an offer, or to the reason why there is none.

use std::sync::Arc;

use super::{Context, Effects, Next, Outcome, Payment, PaymentRecord, Record, Reply, RequestHead};
use crate::config::{Offer, Terms};
use crate::ledger::{Owner, PaymentKey};
use crate::scheme::{Judgement, Refusal, exact};
use crate::time::UnixTime;
use crate::x402::header::{self, DecodeError, PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::payment::{ExactEip3009, PaymentError};
use crate::x402::{PaymentPayload, reason};

/// Why a request that should pay does not.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    /// No payment came.
    #[error("{}", reason::PAYMENT_REQUIRED)]
    Unpaid,
    /// A payment of version 1 came.
    #[error("this route takes payments of x402 version 2 (PAYMENT-SIGNATURE)")]
    Version1,
    /// More than one payment came, and upstreams and facilitators may differ on which one counts.
    #[error("more than one payment header; send one PAYMENT-SIGNATURE")]
    Duplicate,
    /// The header is not base64.
    #[error("PAYMENT-SIGNATURE {0}")]
    Header(#[from] DecodeError),
    /// The header is not UTF-8.
    #[error("PAYMENT-SIGNATURE is not UTF-8")]
    Text,
    /// The header is not a payment.
    #[error("PAYMENT-SIGNATURE: {0}")]
    Payment(#[from] PaymentError),
    /// The payment is for other terms.
    #[error("{}", reason::NO_MATCHING_REQUIREMENTS)]
    NoMatch,
    /// The payment does not meet its terms.
    #[error("{1}")]
    Refused(Box<PaymentRecord>, Refusal),
}

impl Rejection {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unpaid | Self::Version1 => Outcome::Unpaid,
            Self::Duplicate | Self::Header(_) | Self::Text | Self::Payment(_) => Outcome::Malformed,
            Self::NoMatch | Self::Refused(..) => Outcome::Refused,
        }
    }
}

impl Payment {
    /// Takes in a request for the priced route `route`.
    pub(super) fn receive(
        context: Context<'_>,
        head: &RequestHead,
        owner: Owner,
        route: &Arc<str>,
        terms: &Arc<Terms>,
    ) -> Next {
        let url = head.url();
        match read(context.now, head, terms) {
            Ok(Read { json, offer, payment, judgement }) => {
                let authorization = &payment.authorization;
                let requirement = &offer.requirement;
                let key =
                    PaymentKey::new(&requirement.network, requirement.asset, authorization.from, authorization.nonce);
                let payment = Self {
                    route: Arc::clone(route),
                    terms: Arc::clone(terms),
                    owner,
                    key,
                    payer: authorization.from,
                    judgement,
                    json,
                    url,
                    unwanted: head.unwanted(|name| context.config.keeps_header(name), true),
                    offer,
                };
                payment.claim(context, authorization.valid_before.to_unix_time())
            }
            Err(rejection) => {
                let outcome = rejection.outcome();
                let error = rejection.to_string();
                let reply = match outcome {
                    Outcome::Malformed => Reply::error(400, &error),
                    _ => Reply::payment_required(&error, terms, &url),
                };
                let payment = if let Rejection::Refused(payment, _) = rejection { Some(*payment) } else { None };
                let record = Record { route: Arc::clone(route), outcome, reason: error, payment };
                Effects { record: Some(record), ..Effects::reply(reply) }.and_over()
            }
        }
    }
}

/// A payment that was read and checked.
struct Read {
    json: String,
    offer: Arc<Offer>,
    payment: ExactEip3009,
    judgement: Judgement,
}

fn read(now: UnixTime, head: &RequestHead, terms: &Terms) -> Result<Read, Rejection> {
    let json = String::from_utf8(header::decode(header_value(head)?)?).map_err(|_| Rejection::Text)?;
    let payload = PaymentPayload::from_json(json.as_bytes())?;
    let offer = terms.offers.iter().find(|offer| offer.requirement.is(&payload.accepted)).ok_or(Rejection::NoMatch)?;
    let payment = ExactEip3009::from_payload(payload.payload)?;
    let judgement = exact::check(&payment, &offer.requirement, &offer.domain_separator, now).map_err(|refusal| {
        let record = PaymentRecord::new(payment.authorization.from, &offer.requirement);
        Rejection::Refused(Box::new(record), refusal)
    })?;
    Ok(Read { offer: Arc::clone(offer), payment, judgement, json })
}

/// The one payment header that came.
fn header_value(head: &RequestHead) -> Result<&[u8], Rejection> {
    let mut values = head.all(PAYMENT_SIGNATURE);
    match (values.next(), values.next(), head.all(X_PAYMENT).next()) {
        (Some(value), None, None) => Ok(value),
        (Some(_), ..) => Err(Rejection::Duplicate),
        (None, _, Some(_)) => Err(Rejection::Version1),
        (None, _, None) => Err(Rejection::Unpaid),
    }
}
