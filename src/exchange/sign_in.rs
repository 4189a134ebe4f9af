//! A payer who comes back: signs in with the wallet that has paid, and does not pay again.
//!
//! The grant that this needs begins with a response that was paid for, and is for the same resource. What a sign-in lacks, a
//! payment may make good, so whatever is refused here is as if nobody had signed in.

use super::bundle::Visitor;
use super::delivery::Delivery;
use super::grant::{Resource, chains_of};
use super::pricing;
use super::state::State;
use super::{Context, Effects, Event, Next, Outcome, PricedRequest, Record, Reply, RequestEdits, Stream};
use crate::ledger::{Answer, Operation, PaymentKey};
use crate::time::UnixTime;
use crate::x402::header;
use crate::x402::payment::Payer;
use crate::x402::sign_in::{MAX_LENGTH, SIGN_IN_WITH_X, SignIn, SignInError, SignedIn, Site};

/// A request of somebody who has signed in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Visit {
    request: PricedRequest,
    payer: Payer,
    /// The key of the nonce that was signed.
    nonce: PaymentKey,
    /// Until when the nonce is remembered.
    until: UnixTime,
}

/// State: the ledger is asked whether the payer has a grant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckingGrant(Box<Visit>);

/// State: the payer has a grant, and the ledger is told which nonce was signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConsumingNonce(Box<Visit>);

/// State: the request of a payer who came back is at the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visiting;

/// Takes in a request for a priced route: of a payer who signs in, or of somebody who pays or is to pay.
pub(super) fn begin(context: Context<'_>, request: PricedRequest) -> Next {
    match request.resource(context) {
        Some(resource) => begin_visit(context, request, Some(resource)),
        None if request.terms.bundle.is_some() => begin_visit(context, request, None),
        None => pricing::begin(context, request),
    }
}

fn begin_visit(context: Context<'_>, mut request: PricedRequest, resource: Option<Resource>) -> Next {
    let mut values = request.head.all(SIGN_IN_WITH_X);
    let value = match (values.next(), values.next()) {
        (None, _) => {
            drop(values);
            return pricing::begin(context, request);
        }
        (Some(_), Some(_)) => return request.refuse(400, "more than one SIGN-IN-WITH-X header; send one"),
        (Some(value), None) if value.len() > MAX_LENGTH => {
            return request.refuse(400, &format!("SIGN-IN-WITH-X is longer than {MAX_LENGTH} bytes"));
        }
        (Some(value), None) => value,
    };
    let json = match header::decode(value) {
        Ok(json) => json,
        Err(error) => return request.refuse(400, &format!("SIGN-IN-WITH-X {error}")),
    };
    let sign_in = match SignIn::from_json(&json) {
        Ok(sign_in) => sign_in,
        Err(error) => return request.refuse(400, &format!("SIGN-IN-WITH-X: {error}")),
    };
    let checked = match Site::of(&request.url(context)) {
        Some(site) => sign_in.check(&site, &chains_of(&request.terms), context.now),
        None => Err(SignInError::Uri),
    };
    drop(values);
    match checked {
        Ok(SignedIn { payer, nonce, until }) => {
            let nonce = PaymentKey::of_nonce(&context.secret, &payer.to_string(), &nonce);
            if let Some(resource) = resource {
                return Visit { request, payer, nonce, until }.check_grant(context, resource);
            }
            let is_welcome = context.config.payers.accept(&payer);
            request.visitor = is_welcome.then(|| Box::new(Visitor { payer, nonce, until }));
            pricing::begin(context, request)
        }
        Err(refusal) => turn_away(context, request, refusal),
    }
}

impl Visit {
    fn check_grant(self, context: Context<'_>, resource: Resource) -> Next {
        let lasts = self.request.terms.extensions.sign_in.as_ref().map(|sign_in| sign_in.seconds);
        match resource.grant_key(&self.payer).zip(lasts) {
            Some((grant, seconds)) if context.config.payers.accept(&self.payer) => {
                let ledger = Some((grant, Operation::CheckGrant { seconds }));
                (CheckingGrant(Box::new(self)).into(), Effects { ledger, ..Effects::default() })
            }
            _ => pricing::begin(context, self.request),
        }
    }

    /// Goes on with a payment that came as well, and else asks for patience. Never for a payment: whoever has paid would
    /// pay again.
    fn turn_back(self, context: Context<'_>, error: &str, reason: &str) -> Next {
        if self.request.head.has_payment() {
            return pricing::begin(context, self.request);
        }
        self.request.overloaded(error, reason)
    }

    fn admit(self, context: Context<'_>) -> Next {
        let PricedRequest { head, route, terms, .. } = self.request;
        let set = vec![("x-x402-payer", self.payer.to_string())];
        let remove = head.unwanted(context.config, Some(&terms));
        let record = Record { visitor: Some(self.payer), ..Record::new(&route, Outcome::SignedIn, "") };
        let edits = RequestEdits { passes_for: Some(route), remove, set };
        (Visiting.into(), Effects { record: Some(record), stream: Stream::Forward(edits), ..Effects::default() })
    }
}

impl State for CheckingGrant {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        match answer {
            Answer::Granted => {
                let ledger = Some((self.0.nonce, Operation::ConsumeNonce { expires: self.0.until }));
                (ConsumingNonce(self.0).into(), Effects { ledger, ..Effects::default() })
            }
            Answer::NotHeld => pricing::begin(context, self.0.request),
            _ => self.0.turn_back(context, "nobody can sign in at the moment", "the ledger did not answer"),
        }
    }
}

impl State for ConsumingNonce {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        match answer {
            Answer::Granted => self.0.admit(context),
            Answer::Spent => turn_away(context, self.0.request, SignInError::Nonce),
            _ => self.0.turn_back(context, "too many sign in at a time", "the nonce cannot be remembered"),
        }
    }
}

impl State for Visiting {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        let Event::Upstream(head) = event else { return self.ignore(event) };
        // What was paid for is for the payer alone, each time.
        let stream = Stream::Deliver(Delivery::of(&head).private());
        Effects { stream, ..Effects::default() }.and_over()
    }
}

/// Goes on with a payment that came as well, or else says why the sign-in is invalid.
fn turn_away(context: Context<'_>, request: PricedRequest, refusal: SignInError) -> Next {
    // What a body decides has no quote yet: the terms come without this reason then.
    if !request.terms.has_fixed_price() {
        return pricing::begin(context, request);
    }
    match request.quote(context, None, None) {
        Ok(quote) if !request.head.has_payment() && !quote.offers().is_empty() => {
            let error = refusal.to_string();
            let reply = Reply::payment_required(context, &error, &quote, &request.url(context));
            Effects::end_with(&request.route, Outcome::Refused, &error, reply)
        }
        _ => pricing::begin(context, request),
    }
}
