//! From the head of a request to a payment that meets an offer, or to the reason why there is none.

use std::sync::Arc;

use super::payment::{Proof, Standing};
use super::quote::{Asked, Price};
use super::visit::{Place, pays};
use super::{
    Body, Call, Context, Effects, Exchange, Next, Outcome, Payment, PaymentRecord, Record, Reply, RequestHead,
    ShownUrl, Stream,
};
use crate::chain::Transfer;
use crate::config::{Offer, Terms};
use crate::facilitator::CalloutAnswer;
use crate::ledger::{Binding, PaymentKey};
use crate::price::PriceError;
use crate::price::request::Job;
use crate::scheme::{self, Judgement};
use crate::svm;
use crate::time::UnixTime;
use crate::x402::extensions::{Identifier, IdentifierError, read_identifier};
use crate::x402::header::{self, DecodeError, PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::payment::{ForeignPayload, Payer, PaymentError, PaymentPayloadV1, Signed};
use crate::x402::requirement::{Accepted, Evm, Foreign, Rail, Scheme, TransferMethod};
use crate::x402::{PaymentPayload, Requirement, Version, reason};

/// Why a request that should pay does not.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    /// No payment came.
    #[error("{}", reason::PAYMENT_REQUIRED)]
    Unpaid,
    /// More than one payment came, and upstreams and facilitators may differ on which one counts.
    #[error("more than one payment header; send one PAYMENT-SIGNATURE, or one X-PAYMENT")]
    Duplicate,
    /// The header is not base64.
    #[error("{header} {1}", header = .0.payment_header())]
    Header(Version, DecodeError),
    /// The header is not UTF-8.
    #[error("{header} is not UTF-8", header = .0.payment_header())]
    Text(Version),
    /// The header is not a payment.
    #[error("{header}: {1}", header = .0.payment_header())]
    Payment(Version, PaymentError),
    /// The payment is for other terms.
    #[error("{}", reason::NO_MATCHING_REQUIREMENTS)]
    NoMatch,
    /// The payment does not meet its terms.
    #[error("{1}")]
    Refused(Box<PaymentRecord>, String),
    /// The client's name for the payment is not as this route wants it.
    #[error("PAYMENT-SIGNATURE: {0}")]
    Identifier(IdentifierError),
}

impl Rejection {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unpaid => Outcome::Unpaid,
            Self::Duplicate | Self::Header(..) | Self::Text(_) | Self::Payment(..) | Self::Identifier(_) => {
                Outcome::Malformed
            }
            Self::NoMatch | Self::Refused(..) => Outcome::Refused,
        }
    }
}

/// A request whose price is found in its body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reading {
    head: RequestHead,
    route: Arc<str>,
    terms: Arc<Terms>,
    /// What it asks of a model, once that is read.
    job: Option<Job>,
    /// The body with the wish for usage, where the filter adds it.
    rewrite: Option<Vec<u8>>,
    /// The body, where a payment may have to be bound to it.
    body: Option<Arc<[u8]>>,
}

impl Reading {
    /// Takes in a request for the priced route `route`, and reads its body where the price depends on it.
    pub(super) fn begin(context: Context<'_>, head: &RequestHead, route: &Arc<str>, terms: &Arc<Terms>) -> Next {
        let Some(tariff) = &terms.tariff else {
            return Self::new(head, route, terms).price(context, None);
        };
        if tariff.namespace.is_some() {
            let bytes = match head.text("content-length").parse() {
                Ok(bytes) => bytes,
                Err(_) => {
                    return refuse(route, 411, "send the length of the body (Content-Length): it is priced by it");
                }
            };
            return match tariff.job_of_metadata(|key| head.metadata(key), bytes) {
                Ok(job) => Self::new(head, route, terms).price(context, Some(job)),
                Err(error) => refuse(route, 400, &error.to_string()),
            };
        }
        if !head.is_plain_text() {
            return refuse(route, 415, "send one Content-Type, and the body in UTF-8: it has to be read to be priced");
        }
        if head.is_encoded() {
            return refuse(route, 415, "send the body without a Content-Encoding: it has to be read to be priced");
        }
        let most = tariff.max_body_bytes;
        let length = head.text("content-length").parse::<usize>().unwrap_or(0);
        if length > most {
            return too_long(route, most);
        }
        let reading = Self::new(head, route, terms);
        (Exchange::Reading(Box::new(reading)), Effects { stream: Stream::Read { most }, ..Effects::default() })
    }

    fn new(head: &RequestHead, route: &Arc<str>, terms: &Arc<Terms>) -> Self {
        Self {
            head: head.clone(),
            route: Arc::clone(route),
            terms: Arc::clone(terms),
            job: None,
            rewrite: None,
            body: None,
        }
    }

    pub(super) fn on_body(mut self, context: Context<'_>, body: Body) -> Next {
        let Some(tariff) = self.terms.tariff.clone() else { return self.price(context, None) };
        let body = match body {
            Body::Whole(body) => body,
            Body::TooLong => return too_long(&self.route, tariff.max_body_bytes),
            Body::Unreachable => {
                let error = "this proxy does not let the payment filter read bodies; set allow_on_headers_stop_iteration: true in its plugin configuration";
                return self.overloaded(error, error);
            }
        };
        match tariff.job(&body) {
            Ok(job) => {
                // Whoever has not paid is told the price, and nothing else is done about the body.
                if self.wants_usage() && pays(&self.head) {
                    self.rewrite = job.with_wish_for_usage(&body);
                    self.body = Some(body.into());
                }
                self.price(context, Some(job))
            }
            Err(error) => refuse(&self.route, 400, &error.to_string()),
        }
    }

    /// Everything is known of the request that its price depends on; whoever knows the price is asked.
    fn price(mut self, context: Context<'_>, job: Option<Job>) -> Next {
        let Some(service) = self.terms.price_service.clone() else {
            self.job = job;
            return self.receive(context, None);
        };
        let body = Price::question(&self.head, job.as_ref());
        let call = Some(Call { service, path: "", body, is_cacheable: true });
        self.job = job;
        // The wish can only be added while the body is at hand, and does no harm should the request go no further.
        let rewrite = if self.wants_usage() { self.rewrite.take() } else { None };
        (Exchange::Pricing(Box::new(self)), Effects { call, rewrite, ..Effects::default() })
    }

    pub(super) fn on_price(self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        match Price::read(answer) {
            Some(price) => self.receive(context, Some(&price)),
            None => self.overloaded("the price is not known at the moment", "the price service did not name a price"),
        }
    }

    /// Whether an entry is charged by what was used.
    fn wants_usage(&self) -> bool {
        self.terms.offers.iter().any(|offer| offer.requirement.scheme == Scheme::Upto)
    }

    fn receive(mut self, context: Context<'_>, price: Option<&Price>) -> Next {
        let Self { head, route, terms, job, .. } = &self;
        let asked = Asked { job: job.as_ref(), price, supported: context.supported, draw: context.draw, head };
        let quoted = match terms.quote(asked) {
            Ok(quoted) => quoted,
            Err(error @ PriceError::Unknown) => {
                let reason = "the price service named no price for an entry of this route";
                return self.overloaded(&error.to_string(), reason);
            }
            Err(error) => return refuse(route, 400, &error.to_string()),
        };
        if quoted.offers.is_empty() {
            let reason = "no entry of this route can be offered: the facilitator has not said that it supports one, or nobody has said who is paid";
            return self.overloaded("no way to pay is open at the moment", reason);
        }
        let (exchange, effects) = Payment::receive(context, head, route, &quoted, job.clone(), self.body.clone());
        let is_upto =
            matches!(&exchange, Exchange::Claiming(payment) | Exchange::Resuming(payment) if payment.is_metered());
        let rewrite = if is_upto { self.rewrite.take() } else { None };
        (exchange, Effects { rewrite, ..effects })
    }

    fn overloaded(self, error: &str, reason: &str) -> Next {
        Effects::end_with(&self.route, Outcome::Overloaded, reason, Reply::overloaded(error))
    }
}

pub(super) fn refuse(route: &Arc<str>, status: u16, error: &str) -> Next {
    Effects::end_with(route, Outcome::Malformed, error, Reply::error(status, error))
}

fn too_long(route: &Arc<str>, most: usize) -> Next {
    refuse(route, 413, &format!("the body is longer than the {most} bytes that are read to price it"))
}

impl Payment {
    fn receive(
        context: Context<'_>,
        head: &RequestHead,
        route: &Arc<str>,
        terms: &Arc<Terms>,
        job: Option<Job>,
        body: Option<Arc<[u8]>>,
    ) -> Next {
        let url = ShownUrl::of(context.config, head, terms);
        match read(context, head, terms) {
            Ok(Read { version, json, offer, standing, known, identifier }) => {
                let is_metered = offer.requirement.scheme == Scheme::Upto;
                let received = Self {
                    route: Arc::clone(route),
                    terms: Arc::clone(terms),
                    key: known.key,
                    proof: known.proof,
                    identifier,
                    name: None,
                    payer: known.payer,
                    expires: known.expires,
                    settles_until: known.settles_until,
                    since: context.now,
                    transfer: known.transfer,
                    standing,
                    place: Place::of(context, head, route, terms),
                    binding: known.binding,
                    unbound: body.filter(|_| is_metered),
                    asked: [head.text(":method"), head.url()],
                    version,
                    json,
                    url,
                    unwanted: head.unwanted(context.config, Some(terms)),
                    recoveries: 0,
                    charge: None,
                    hides_usage: job.as_ref().is_some_and(|job| job.streams && !job.wants_usage),
                    is_billed: false,
                    job,
                    offer,
                };
                received.claim(context)
            }
            Err(rejection) => {
                let outcome = rejection.outcome();
                let error = rejection.to_string();
                let reply = match outcome {
                    Outcome::Malformed => Reply::error(400, &error),
                    Outcome::Unpaid => unpaid(context, head, terms, &url),
                    _ => Reply::payment_required(context, &error, terms, &url),
                };
                let payment = if let Rejection::Refused(payment, _) = rejection { Some(*payment) } else { None };
                let record = Record { payment, ..Record::new(route, outcome, &error) };
                Effects { record: Some(record), ..Effects::reply(reply) }.and_over()
            }
        }
    }
}

/// The terms, for programs or for people.
#[cfg_attr(not(feature = "page"), allow(unused_variables, reason = "a page would ask who is there"))]
fn unpaid(context: Context<'_>, head: &RequestHead, terms: &Terms, url: &ShownUrl) -> Reply {
    let reply = Reply::payment_required(context, reason::PAYMENT_REQUIRED, terms, url);
    // Who asks just what would be has it from the head. (Of an answer to HEAD the proxy sends nothing else.)
    if head.text(":method") == "OPTIONS" {
        return reply.without_body();
    }
    #[cfg(feature = "page")]
    if let Some(page) = &context.config.page
        && crate::page::wants_page(&head.text("accept"), &head.text("sec-fetch-dest"))
    {
        return reply.page(page.own.as_ref(), terms, &head.text(":method"), url);
    }
    reply
}

/// A payment that was read and checked.
struct Read {
    version: Version,
    /// As the facilitator gets it.
    json: String,
    offer: Arc<Offer>,
    standing: Standing,
    known: Known,
    /// The client's name for the payment.
    identifier: Option<String>,
}

/// What the filter goes by that deals with a payment, whatever moves the money.
struct Known {
    payer: Payer,
    proof: Proof,
    key: PaymentKey,
    binding: Binding,
    expires: UnixTime,
    settles_until: UnixTime,
    transfer: Option<Transfer>,
}

fn read(context: Context<'_>, head: &RequestHead, terms: &Terms) -> Result<Read, Rejection> {
    let (version, value) = header_value(head)?;
    let json = header::decode(value).map_err(|error| Rejection::Header(version, error))?;
    let json = String::from_utf8(json).map_err(|_| Rejection::Text(version))?;
    match version {
        Version::V1 => read_v1(context, json.as_bytes(), terms),
        Version::V2 => read_v2(context, json.as_bytes(), terms),
    }
}

/// A payment of version 2 names the entry that it is for.
fn read_v2(context: Context<'_>, json: &[u8], terms: &Terms) -> Result<Read, Rejection> {
    let received = PaymentPayload::from_json(json).map_err(|error| Rejection::Payment(Version::V2, error))?;
    let wanted = terms.extensions.identifier;
    let identifier = wanted.map(|wanted| read_identifier(wanted, received.extensions)).transpose();
    let identifier = identifier.map_err(Rejection::Identifier)?.flatten();
    let matching = |accepts: fn(&Requirement, &Accepted<'_>) -> bool| {
        terms.offers.iter().find_map(|offer| offer.accepted(&received.accepted, context.supported, accepts))
    };
    let matched = matching(Requirement::is);
    let is_for_these = matched.is_some();
    // A payment for other terms may have been settled, when those were the terms here.
    let offer = matched.or_else(|| matching(Requirement::has_asset_of)).ok_or(Rejection::NoMatch)?;
    let read = match &offer.requirement.rail {
        Rail::Evm(evm) => {
            let method = evm.transfer_method;
            let payment = Signed::from_payload(received.payload, method)
                .map_err(|error| Rejection::Payment(Version::V2, error))?;
            let (standing, proof) = if is_for_these {
                standing(context, &payment, &offer, evm)?
            } else {
                for_other_terms(&payment, evm).ok_or(Rejection::NoMatch)?
            };
            let json = payment.to_wire(&received, &offer.requirement);
            let known = Known::of_evm(context, &payment, proof, &offer, evm);
            Read { version: Version::V2, standing, json, known, identifier: None, offer: Arc::clone(&offer) }
        }
        Rail::Foreign(foreign) => read_foreign(context, &received, &offer, foreign, is_for_these)?,
    };
    Ok(Read { identifier, ..read })
}

/// A payment that only the facilitator can judge, or can judge to the end.
fn read_foreign(
    context: Context<'_>,
    received: &PaymentPayload<'_>,
    offer: &Arc<Offer>,
    foreign: &Foreign,
    is_for_these: bool,
) -> Result<Read, Rejection> {
    let payload = ForeignPayload::from_payload(received.payload, foreign.svm.is_some())
        .map_err(|error| Rejection::Payment(Version::V2, error))?;
    let requirement = &offer.requirement;
    let (payer, proof) = match &payload {
        ForeignPayload::Svm(transaction) if is_for_these => {
            let terms = foreign.svm_terms(requirement.amount).ok_or(Rejection::NoMatch)?;
            match transaction.check(&terms) {
                Ok(checked) => {
                    let proof = if checked.facilitator_decides { Proof::None } else { Proof::Signature };
                    (Payer::Foreign(checked.payer.to_string()), proof)
                }
                Err(refusal) if refusal.may_be_smart_wallet() && foreign.takes_smart_wallets() => {
                    (Payer::Unknown, Proof::None)
                }
                Err(refusal) => {
                    let record = PaymentRecord::unproven(Payer::Unknown, requirement);
                    return Err(Rejection::Refused(Box::new(record), refusal.to_string()));
                }
            }
        }
        _ => (Payer::Unknown, Proof::None),
    };
    let standing = match is_for_these {
        false => Standing::ForOtherTerms,
        true if !context.config.payers.accept(&payer) => Standing::Unwelcome,
        true => Standing::Good(Judgement::FacilitatorDecides),
    };
    let known = Known::of_foreign(context, &payload, payer, proof, requirement);
    let json = payload.to_wire(received, requirement);
    Ok(Read { version: Version::V2, offer: Arc::clone(offer), standing, json, known, identifier: None })
}

/// A payment of version 1, which knows no extensions, names a scheme and a network, and its signature tells which entry there it is for.
fn read_v1(context: Context<'_>, json: &[u8], terms: &Terms) -> Result<Read, Rejection> {
    if terms.extensions.identifier == Some(Identifier::Required) {
        return Err(Rejection::Identifier(IdentifierError::Missing));
    }
    let malformed = |error| Rejection::Payment(Version::V1, error);
    let received = PaymentPayloadV1::from_json(json).map_err(malformed)?;
    let payment = Signed::from_payload(received.payload, TransferMethod::Eip3009).map_err(malformed)?;
    let is_named = |offer: &&Arc<Offer>| {
        let Requirement { scheme, .. } = &offer.requirement;
        scheme.as_str() == received.scheme && offer.requirement.in_v1() == Some(&received.network)
    };
    let recipient = payment.authorization.recipient();
    let candidates: Vec<_> = terms.offers.iter().filter(is_named).map(|offer| offer.paid_to(recipient)).collect();
    let rails = || candidates.iter().filter_map(|offer| Some((offer, offer.requirement.evm()?)));
    let mut first_refusal = None;
    for (offer, evm) in rails() {
        match standing(context, &payment, offer, evm) {
            Ok(found) => return Ok(Read::of_v1(context, &payment, offer, evm, found)),
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    // A payment for other terms may have been settled, when those were the terms here.
    match rails().find_map(|(offer, evm)| Some((offer, evm, for_other_terms(&payment, evm)?))) {
        Some((offer, evm, found)) => Ok(Read::of_v1(context, &payment, offer, evm, found)),
        None => Err(first_refusal.unwrap_or(Rejection::NoMatch)),
    }
}

impl Read {
    fn of_v1(
        context: Context<'_>,
        payment: &Signed,
        offer: &Arc<Offer>,
        evm: &Evm,
        (standing, proof): (Standing, Proof),
    ) -> Self {
        let Requirement { scheme, .. } = &offer.requirement;
        let json = payment.to_wire_v1(scheme.as_str(), offer.requirement.network_in(Version::V1));
        let known = Known::of_evm(context, payment, proof, offer, evm);
        Self { version: Version::V1, json, offer: Arc::clone(offer), standing, known, identifier: None }
    }
}

impl Known {
    fn of_evm(context: Context<'_>, payment: &Signed, proof: Proof, offer: &Offer, evm: &Evm) -> Self {
        let authorization = &payment.authorization;
        let requirement = &offer.requirement;
        let (payer, nonce) = (authorization.payer(), authorization.nonce());
        let digest = authorization.digest(&evm.domain_separator);
        let expires = authorization.valid_before().to_unix_time();
        Self {
            payer: Payer::Evm(payer),
            key: PaymentKey::new(&requirement.network, evm.nonces_of(), payer, nonce),
            proof,
            binding: Binding::new(&[&digest, &payment.signature]),
            expires,
            settles_until: expires,
            transfer: Some(Transfer {
                method: evm.transfer_method,
                asset: evm.asset,
                from: payer,
                to: authorization.recipient(),
                value: authorization.value(),
                is_at_most: requirement.scheme == Scheme::Upto,
                nonce,
                valid_before: authorization.valid_before(),
                since: context.now,
                searched_to: None,
            }),
        }
    }

    fn of_foreign(
        context: Context<'_>,
        payload: &ForeignPayload,
        payer: Payer,
        proof: Proof,
        requirement: &Requirement,
    ) -> Self {
        /// How long it is remembered what a payment has bought of which nobody knows here when it expires.
        const MEMORY_SECONDS: u64 = 24 * 60 * 60;
        let digest = payload.digest();
        let (validity, signature) = match payload {
            ForeignPayload::Svm(transaction) => (svm::LIFETIME_SECONDS, transaction.encode()),
            ForeignPayload::Opaque(_) => (requirement.max_timeout_seconds, String::new()),
        };
        Self {
            payer,
            key: PaymentKey::of_digest(&requirement.network, &digest),
            proof,
            // What the payload pays, nobody here may be able to read in it. What was settled under some terms must not be
            // redeemed under dearer ones.
            binding: Binding::new(&[&digest, signature.as_bytes(), requirement.charges().as_bytes()]),
            expires: context.now.plus(MEMORY_SECONDS.max(requirement.max_timeout_seconds)),
            settles_until: context.now.plus(validity),
            transfer: None,
        }
    }
}

/// How a payment stands that says to meet an offer, and who says that it is one.
fn standing(context: Context<'_>, payment: &Signed, offer: &Offer, evm: &Evm) -> Result<(Standing, Proof), Rejection> {
    let payer = || Payer::Evm(payment.authorization.payer());
    match scheme::check(payment, &offer.requirement, evm, context.now) {
        Ok(judgement) if !context.config.payers.accept(&payer()) => Ok((Standing::Unwelcome, judgement.into())),
        Ok(judgement) => Ok((Standing::Good(judgement), judgement.into())),
        Err(refusal) if refusal.is_of_time() => Ok((Standing::OutOfTime(refusal), Proof::None)),
        Err(refusal) => {
            let record = PaymentRecord::unproven(payer(), &offer.requirement);
            Err(Rejection::Refused(Box::new(record), refusal.to_string()))
        }
    }
}

/// A payment in the asset of an offer that is signed, whatever it pays; `None` where it is not.
fn for_other_terms(payment: &Signed, evm: &Evm) -> Option<(Standing, Proof)> {
    let judgement = scheme::check_signature(payment, evm).ok()?;
    Some((Standing::ForOtherTerms, judgement.into()))
}

impl From<Judgement> for Proof {
    fn from(judgement: Judgement) -> Self {
        match judgement {
            Judgement::Valid => Self::Signature,
            Judgement::FacilitatorDecides => Self::None,
        }
    }
}

/// The one payment header that came, and the version of the protocol that it belongs to.
fn header_value(head: &RequestHead) -> Result<(Version, &[u8]), Rejection> {
    let v2 = head.all(PAYMENT_SIGNATURE).map(|value| (Version::V2, value));
    let mut values = v2.chain(head.all(X_PAYMENT).map(|value| (Version::V1, value)));
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (Some(_), Some(_)) => Err(Rejection::Duplicate),
        (None, _) => Err(Rejection::Unpaid),
    }
}
