//! From the text of a payment to an offer that it meets, or to the reason why there is none.
//!
//! Each form of a payment has a function that is not inlined: together they would be the largest of the module, and V8 takes memory for
//! the largest that the proxy does not give back.

use std::sync::Arc;

use super::admission::{Candidate, OutOfTime, Standing, Unbound};
use super::bundle::{BundleUse, Drawn};
use super::channel::{ChannelUse, Holding};
use super::purchase::{Payment, Proof, Purchase};
use super::quote::Quote;
use super::{
    Context, Effects, Head, Next, Outcome, PaymentRecord, PricedRequest, Record, Reply, RequestHead, ShownUrl,
};
use crate::chain::Transfer;
use crate::channel::{self, UNKNOWN_REQUEST};
use crate::config::{Config, Mode, Offer};
use crate::ledger::{Binding, PaymentKey};
use crate::money::Amount;
use crate::price::request::Job;
use crate::scheme::{self, Judgement};
use crate::svm;
use crate::time::UnixTime;
use crate::x402::extensions::{Identifier, IdentifierError, read_identifier};
use crate::x402::header::{self, DecodeError, PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::payment::{self, ForeignPayload, Payer, PaymentError, PaymentPayloadV1, Signed};
use crate::x402::requirement::{Accepted, ChannelTerms, Evm, Foreign, Rail, Scheme, TransferMethod};
use crate::x402::{PaymentPayload, Requirement, Version, reason};

/// The reason why a request that should pay does not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    /// No payment came.
    #[error("{}", reason::PAYMENT_REQUIRED)]
    Unpaid,
    /// Payments came that differ, or a header twice: upstreams and facilitators may differ on which one counts.
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
    const fn outcome(&self) -> Outcome {
        match self {
            Self::Unpaid => Outcome::Unpaid,
            Self::Duplicate | Self::Header(..) | Self::Text(_) | Self::Payment(..) | Self::Identifier(_) => {
                Outcome::Malformed
            }
            Self::NoMatch | Self::Refused(..) => Outcome::Refused,
        }
    }

    /// Ends the request with what the client is told of it.
    pub(super) fn answer(self, context: Context<'_>, request: &PricedRequest, quote: &Quote) -> Next {
        let (outcome, error, url) = (self.outcome(), self.to_string(), request.url(context));
        let reply = match outcome {
            Outcome::Malformed => Reply::error(400, &error),
            Outcome::Unpaid => {
                let reply = Reply::payment_required(context, reason::PAYMENT_REQUIRED, quote, &url);
                for_asker(context.config, &request.head, quote, &url, reply)
            }
            _ => Reply::payment_required(context, &error, quote, &url),
        };
        let payment = if let Self::Refused(payment, _) = self { Some(*payment) } else { None };
        // The price of what is asked for by nobody is told to the log alone.
        let is_told = outcome == Outcome::Unpaid && request.terms.mode == Mode::Shadow;
        let quoted = quote.offers().first().filter(|_| is_told);
        let quoted = quoted.map(|offer| PaymentRecord::unproven(Payer::Unknown, &offer.requirement));
        let record = Some(Record { payment, quoted, ..Record::new(&request.route, outcome, &error) });
        Effects { record, ..Effects::reply(reply) }.and_over()
    }
}

/// Returns the terms as who asks for them can read them: a program or a person.
#[cfg_attr(not(feature = "page"), allow(unused_variables, reason = "a page would ask who is there"))]
pub(super) fn for_asker(config: &Config, head: &Head<'_>, quote: &Quote, url: &ShownUrl, reply: Reply) -> Reply {
    // Who asks just what would be has it from the head. (Of an answer to HEAD the proxy sends nothing else.)
    if head.text(":method") == "OPTIONS" {
        return reply.without_body();
    }
    #[cfg(feature = "page")]
    if let Some(page) = &config.page
        && crate::page::wants_page(&head.text("accept"), &head.text("sec-fetch-dest"))
    {
        return reply.page(page.own.as_ref(), quote, &head.text(":method"), url);
    }
    reply
}

/// Reads the payment that came with a request, and finds the offer that it meets.
///
/// # Errors
/// [`Rejection`], where none came, or it meets none.
#[inline(never)]
pub(super) fn candidate(
    context: Context<'_>,
    request: &PricedRequest,
    quote: &Quote,
    job: Option<Job>,
    body: Option<Arc<[u8]>>,
) -> Result<Candidate, Rejection> {
    let head = &request.head;
    let Read { version, json, offer, standing, known, identifier, channel } = read(context, head, quote)?;
    let Known { payer, proof, key, binding, expires, settles_until, transfer } = known;
    let is_metered = offer.requirement.scheme == Scheme::Upto;
    let channel = channel.map(|channel| ChannelUse { request: request_hash(head, body.as_deref()), ..channel });
    let unbound = body.filter(|_| is_metered);
    let unbound = unbound.map(|body| Unbound { method: head.text(":method").into_owned(), url: head.url(), body });
    let bundle = BundleUse::bought_by(context, request, quote, &offer, &payer);
    let purchase = Purchase {
        route: Arc::clone(&request.route),
        quote: quote.clone(),
        facilitators: offer.settling_facilitators(context.supported),
        offer,
        key,
        identifier,
        expires,
        settles_until,
        received: context.now,
        transfer,
        resource: request.resource(context),
        version,
        json,
        url: request.url(context),
        unwanted: head.unwanted(context.config, Some(&request.terms)),
        bundle,
        job,
        channel,
    };
    let (purchase, holding) = (Arc::new(purchase), Holding::default());
    let (alias_key, charge, trust, drawn) = (None, None, None, Drawn::default());
    let payment = Payment { purchase, payer, proof, alias_key, binding, charge, holding, trust, drawn };
    Ok(Candidate { payment, standing, unbound })
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
    /// The use that it makes of a channel; what was asked for is yet to be filled in.
    channel: Option<ChannelUse>,
}

/// The hash by which a request is known again that is paid out of a channel. One whose body is not read is not known again:
/// it could be another one.
fn request_hash(head: &RequestHead, body: Option<&[u8]>) -> [u8; 32] {
    if head.has_body() && body.is_none() {
        return UNKNOWN_REQUEST;
    }
    let (method, url) = (head.text(":method"), head.url());
    Binding::hash(&[method.as_bytes(), url.as_bytes(), body.unwrap_or_default()])
}

/// The facts about a payment that the filter goes by, whatever moves the money.
struct Known {
    payer: Payer,
    proof: Proof,
    key: PaymentKey,
    binding: Binding,
    expires: UnixTime,
    settles_until: UnixTime,
    transfer: Option<Transfer>,
}

fn read(context: Context<'_>, head: &RequestHead, quote: &Quote) -> Result<Read, Rejection> {
    let (version, json) = received(head)?;
    match version {
        Version::V1 => read_v1(context, json.as_bytes(), quote),
        Version::V2 => read_v2(context, json.as_bytes(), quote),
    }
}

/// A payment of version 2 names the entry that it is for.
#[inline(never)]
fn read_v2(context: Context<'_>, json: &[u8], quote: &Quote) -> Result<Read, Rejection> {
    let received = PaymentPayload::from_json(json).map_err(|error| Rejection::Payment(Version::V2, error))?;
    let wanted = quote.terms.extensions.identifier;
    let identifier = wanted.map(|wanted| read_identifier(wanted, received.extensions)).transpose();
    let identifier = identifier.map_err(Rejection::Identifier)?.flatten();
    // Two entries may ask for the same amount by chance, if one of them sells a bundle.
    let names_bundle = received.accepted.bundle().is_some();
    let matching = |accepts: fn(&Requirement, &Accepted<'_>) -> bool| {
        let is_named = |offer: &&Arc<Offer>| offer.requirement.bundle.is_some() == names_bundle;
        let named = quote.offers().iter().filter(is_named);
        named
            .chain(quote.offers().iter().filter(|offer| !is_named(offer)))
            .find_map(|offer| offer.accepted(&received.accepted, context.supported, accepts))
    };
    let matched = matching(Requirement::is);
    let is_for_these = matched.is_some();
    // A payment for other terms may have been settled, when those were the terms here.
    let offer = matched.or_else(|| matching(Requirement::has_asset_of)).ok_or(Rejection::NoMatch)?;
    let read = match &offer.requirement.rail {
        Rail::Evm(Evm { channel: Some(terms), .. }) => {
            let is_for_these = Some(()).filter(|()| is_for_these);
            is_for_these.ok_or(Rejection::NoMatch)?;
            read_channel(context, &received, &offer, terms)?
        }
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
            let (version, offer) = (Version::V2, Arc::clone(&offer));
            Read { version, standing, json, known, identifier: None, offer, channel: None }
        }
        Rail::Foreign(foreign) => read_foreign(context, &received, &offer, foreign, is_for_these)?,
    };
    let can_sign_in = matches!(read.known.proof, Proof::Signature) || !matches!(read.standing, Standing::Good(_));
    if read.offer.requirement.bundle.is_some() && !can_sign_in {
        let record = PaymentRecord::unproven(read.known.payer, &read.offer.requirement);
        return Err(Rejection::Refused(Box::new(record), reason::BUNDLE_NEEDS_SIGN_IN.to_owned()));
    }
    Ok(Read { identifier, ..read })
}

/// A payment that only the facilitator can judge, or can judge to the end.
#[inline(never)]
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
    Ok(Read { version: Version::V2, offer: Arc::clone(offer), standing, json, known, identifier: None, channel: None })
}

/// A payment out of a channel.
#[inline(never)]
fn read_channel(
    context: Context<'_>,
    received: &PaymentPayload<'_>,
    offer: &Arc<Offer>,
    terms: &ChannelTerms,
) -> Result<Read, Rejection> {
    if !channel::IS_BUILT_IN {
        return Err(Rejection::NoMatch);
    }
    let requirement = &offer.requirement;
    let (Some(evm), Some(authorizer)) = (requirement.evm(), terms.receiver_authorizer) else {
        return Err(Rejection::NoMatch);
    };
    let payload = channel::Payload::from_payload(received.payload).map_err(|error| match error {
        PaymentError::VoucherSignature => {
            let record = PaymentRecord::unproven(Payer::Unknown, requirement);
            Rejection::Refused(Box::new(record), error.to_string())
        }
        error => Rejection::Payment(Version::V2, error),
    })?;
    let min_deposit = terms.enforces_min_deposit.then(|| terms.min_deposit_for(requirement.amount));
    let checked = channel::check(
        &payload,
        &channel::Terms {
            domain: &terms.domain,
            receiver: evm.pay_to,
            receiver_authorizer: authorizer,
            token: evm.asset,
            withdraw_delay: terms.withdraw_delay,
            token_domain: &evm.domain_separator,
            transfer_method: evm.transfer_method,
            enforced_min_deposit: min_deposit.map(|amount| u128::try_from(amount.to_integer()).unwrap_or(u128::MAX)),
        },
        context.now,
    );
    let payer = Payer::Evm(payload.config.payer);
    let (standing, proof) = match checked {
        Err(refusal) if refusal.is_of_time() => (Standing::OutOfTime(OutOfTime::Deposit(refusal)), Proof::None),
        Err(refusal) => {
            let record = PaymentRecord::unproven(payer, requirement);
            return Err(Rejection::Refused(Box::new(record), refusal.to_string()));
        }
        Ok(_) if !context.config.payers.accept(&payer) => (Standing::Unwelcome, Proof::Signature),
        Ok(channel::Judgement::Valid) => (Standing::Good(Judgement::Valid), Proof::Signature),
        Ok(channel::Judgement::FacilitatorDecides) => (Standing::Good(Judgement::FacilitatorDecides), Proof::None),
    };
    let known = Known::of_channel(context, &payload, payer, proof, requirement, evm, terms);
    let (chain_id, domain) = (evm.chain_id, terms.domain);
    let companions = received.companions();
    let channel = ChannelUse { payload, chain_id, domain, request: UNKNOWN_REQUEST, companions };
    let (version, offer) = (Version::V2, Arc::clone(offer));
    let json = String::new();
    Ok(Read { version, offer, standing, json, known, identifier: None, channel: Some(channel) })
}

/// A payment of version 1, which knows no extensions, names a scheme and a network, and its signature tells which entry there it is for.
#[inline(never)]
fn read_v1(context: Context<'_>, json: &[u8], quote: &Quote) -> Result<Read, Rejection> {
    if quote.terms.extensions.identifier == Some(Identifier::Required) {
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
    let candidates: Vec<_> = quote.offers().iter().filter(is_named).map(|offer| offer.paid_to(recipient)).collect();
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
        Self { version: Version::V1, json, offer: Arc::clone(offer), standing, known, identifier: None, channel: None }
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
            binding: match requirement.bundle {
                Some(bundle) => Binding::new(&[&digest, &payment.signature, bundle.to_json().as_bytes()]),
                None => Binding::new(&[&digest, &payment.signature]),
            },
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

    /// Of a channel: a deposit is settled by itself, a voucher only with others.
    fn of_channel(
        context: Context<'_>,
        payload: &channel::Payload,
        payer: Payer,
        proof: Proof,
        requirement: &Requirement,
        evm: &Evm,
        terms: &ChannelTerms,
    ) -> Self {
        let network = &requirement.network;
        let voucher = channel::voucher_digest(&terms.domain, payload.id, payload.max_claimable);
        let Some(deposit) = payload.deposit() else {
            let forever = UnixTime::from_secs(u64::MAX);
            let (key, binding) = (PaymentKey::of_digest(network, &voucher), Binding::new(&[&voucher]));
            return Self { payer, proof, key, binding, expires: forever, settles_until: forever, transfer: None };
        };
        let (from, nonce) = (payload.config.payer, deposit.nonce(payload.id));
        let valid_before = deposit.valid_before();
        let expires = valid_before.to_unix_time();
        Self {
            payer,
            proof,
            key: PaymentKey::new(network, evm.nonces_of(), from, nonce),
            binding: Binding::new(&[&voucher, &payload.signature, deposit.signature()]),
            expires,
            settles_until: expires,
            transfer: Some(Transfer {
                method: evm.transfer_method,
                asset: evm.asset,
                from,
                to: deposit.recipient(),
                value: Amount::from_u128(deposit.amount),
                is_at_most: false,
                nonce,
                valid_before,
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
        /// The time for which it is remembered what a payment has bought of which nobody knows here when it expires.
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

/// Returns how a payment stands that says to meet an offer, and who says that it is one.
fn standing(context: Context<'_>, payment: &Signed, offer: &Offer, evm: &Evm) -> Result<(Standing, Proof), Rejection> {
    let payer = || Payer::Evm(payment.authorization.payer());
    match scheme::check(payment, &offer.requirement, evm, context.now) {
        Ok(judgement) if !context.config.payers.accept(&payer()) => Ok((Standing::Unwelcome, judgement.into())),
        Ok(judgement) => Ok((Standing::Good(judgement), judgement.into())),
        Err(refusal) if refusal.is_of_time() => Ok((Standing::OutOfTime(OutOfTime::Payment(refusal)), Proof::None)),
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

/// Reads the JSON of the one payment that came, and the version of the protocol by which it is read: that of its header. A
/// client that does not know which one is read here may send the same under both names, and then it says the version itself.
fn received(head: &RequestHead) -> Result<(Version, String), Rejection> {
    let [v2, v1] = [PAYMENT_SIGNATURE, X_PAYMENT].map(|name| head.all(name).collect::<Vec<_>>());
    match (v2.as_slice(), v1.as_slice()) {
        ([], []) => Err(Rejection::Unpaid),
        // For the official server, too, an empty one is none.
        ([value], []) | ([], [value]) if value.trim_ascii().is_empty() => Err(Rejection::Unpaid),
        ([value], []) => text(Version::V2, value).map(|json| (Version::V2, json)),
        ([], [value]) => text(Version::V1, value).map(|json| (Version::V1, json)),
        ([one], [other]) => match (text(Version::V2, one), text(Version::V1, other)) {
            (Ok(json), Ok(other)) if json == other => Ok((payment::said_version(json.as_bytes()), json)),
            _ => Err(Rejection::Duplicate),
        },
        _ => Err(Rejection::Duplicate),
    }
}

/// Decodes a header, without the byte order mark that may stand before the JSON.
fn text(version: Version, value: &[u8]) -> Result<String, Rejection> {
    let json = header::decode(value).map_err(|error| Rejection::Header(version, error))?;
    let json = String::from_utf8(json).map_err(|_| Rejection::Text(version))?;
    Ok(json.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(json))
}
