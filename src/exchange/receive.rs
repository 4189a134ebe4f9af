//! From the head of a request to a payment that meets an offer, or to the reason why there is none.

use std::sync::Arc;

use super::payment::Standing;
use super::{Context, Effects, Next, Outcome, Payment, PaymentRecord, Record, Reply, RequestHead};
use crate::chain::Transfer;
use crate::config::{Offer, Terms};
use crate::ledger::{PaymentKey, SignatureMark};
use crate::scheme::{Refusal, exact};
use crate::time::UnixTime;
use crate::x402::header::{self, DecodeError, PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::payment::{ExactEip3009, PaymentError};
use crate::x402::requirement::Accepted;
use crate::x402::{PaymentPayload, Requirement, reason};

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
    pub(super) fn receive(context: Context<'_>, head: &RequestHead, route: &Arc<str>, terms: &Arc<Terms>) -> Next {
        let url = head.url();
        match read(context.now, head, terms) {
            Ok(Read { json, offer, payment, standing }) => {
                let authorization = &payment.authorization;
                let requirement = &offer.requirement;
                let digest = authorization.digest(&offer.domain_separator);
                let received = Self {
                    route: Arc::clone(route),
                    terms: Arc::clone(terms),
                    key: PaymentKey::new(
                        &requirement.network,
                        requirement.asset,
                        authorization.from,
                        authorization.nonce,
                    ),
                    transfer: Transfer {
                        asset: requirement.asset,
                        from: authorization.from,
                        to: authorization.to,
                        value: authorization.value,
                        nonce: authorization.nonce,
                        valid_before: authorization.valid_before,
                    },
                    standing,
                    signature: SignatureMark::new(&digest, &payment.signature),
                    json,
                    url,
                    unwanted: head.unwanted(context.config, true),
                    recoveries: 0,
                    offer,
                };
                received.claim(context)
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
    /// As the facilitator gets it.
    json: String,
    offer: Arc<Offer>,
    payment: ExactEip3009,
    standing: Standing,
}

fn read(now: UnixTime, head: &RequestHead, terms: &Terms) -> Result<Read, Rejection> {
    let text = String::from_utf8(header::decode(header_value(head)?)?).map_err(|_| Rejection::Text)?;
    let received = PaymentPayload::from_json(text.as_bytes())?;
    let matching = |accepts: fn(&Requirement, &Accepted) -> bool| {
        terms.offers.iter().find(|offer| accepts(&offer.requirement, &received.accepted)).map(Arc::clone)
    };
    let matched = matching(Requirement::is);
    // A payment for other terms may have been settled, when those were the terms here.
    let offer = matched.clone().or_else(|| matching(Requirement::has_asset_of)).ok_or(Rejection::NoMatch)?;
    let payment = ExactEip3009::from_payload(received.payload)?;
    let standing = if matched.is_none() {
        exact::check_signature(&payment, &offer.requirement, &offer.domain_separator)
            .map_err(|_| Rejection::NoMatch)?;
        Standing::ForOtherTerms
    } else {
        match exact::check(&payment, &offer.requirement, &offer.domain_separator, now) {
            Ok(judgement) => Standing::Good(judgement),
            Err(Refusal::Expired) => Standing::Expired,
            Err(refusal) => {
                let record = PaymentRecord::new(payment.authorization.from, &offer.requirement);
                return Err(Rejection::Refused(Box::new(record), refusal));
            }
        }
    };
    let json = payment.to_wire(&received, &offer.requirement);
    Ok(Read { offer, payment, standing, json })
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
