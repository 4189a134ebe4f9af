//! A payer who comes back: signs in with the wallet that has paid, and does not pay again.
//!
//! The right to that begins with a response that was paid for, and is one to the same place: route, method, host and path,
//! each as it was written. What a sign-in lacks, a payment may make good, so whatever is refused here is as if nobody had
//! signed in.

use std::sync::Arc;

use super::payment::private;
use super::quote::Asked;
use super::receive::refuse;
use super::{
    Context, Effects, Exchange, Next, Outcome, Payment, Reading, Record, Reply, RequestEdits, RequestHead, ShownUrl,
    Stream, UpstreamHead,
};
use crate::config::Terms;
use crate::evm::{Address, keccak256};
use crate::ledger::{Answer, Operation, PaymentKey};
use crate::time::UnixTime;
use crate::x402::NetworkId;
use crate::x402::header::{self, PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::payment::Payer;
use crate::x402::sign_in::{Challenge, MAX_LENGTH, SIGN_IN_WITH_X, SignIn, SignInError, SignedIn, Site, chains};

/// Somebody who has signed in, and whose right to come in is yet to be seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Visit {
    head: RequestHead,
    route: Arc<str>,
    terms: Arc<Terms>,
    payer: Payer,
    /// The key of the nonce that was signed.
    nonce: PaymentKey,
    /// Until when it is remembered.
    until: UnixTime,
}

/// What is paid for and by which terms, as far as a right to come back is one to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place([u8; 32]);

impl Place {
    /// The place that a request is for; `None` where nobody may come back to it.
    pub(super) fn of(context: Context<'_>, head: &RequestHead, route: &str, terms: &Terms) -> Option<Self> {
        let sign_in = terms.extensions.sign_in.as_ref()?;
        let method = head.text(":method");
        let method = if method == "HEAD" { "GET" } else { &method };
        let authority = head.text(":authority").to_ascii_lowercase();
        let parts = [route.as_bytes(), method.as_bytes(), authority.as_bytes(), head.path()];
        // No part has a byte of zero, and what stands before them has one length.
        Some(Self(keccak256(&[&context.secret[..], &sign_in.price, &parts.join(&0)].concat())))
    }

    /// The key of a payer's right to come back to it; `None` where nobody knows who that is.
    fn right_of(&self, payer: &Payer) -> Option<PaymentKey> {
        let name = match payer {
            Payer::Unknown => return None,
            Payer::Evm(address) => address.to_string(),
            // As an account signs in of which only the facilitator knew.
            Payer::Foreign(name) => match name.to_ascii_lowercase().parse::<Address>() {
                Ok(address) => address.to_string(),
                Err(_) => name.clone(),
            },
        };
        Some(PaymentKey::of_right(&self.0, &name))
    }
}

impl Payment {
    /// The payer's right to come back, once the response is on its way that was paid for.
    pub(super) fn right(&self, now: UnixTime) -> Option<(PaymentKey, Operation)> {
        let seconds = self.terms.extensions.sign_in.as_ref()?.seconds;
        let key = self.place?.right_of(&self.payer)?;
        Some((key, Operation::Note { expires: now.plus(seconds) }))
    }
}

/// The networks whose accounts can come in.
fn chains_of(terms: &Terms) -> Vec<&NetworkId> {
    chains(terms.offers.iter().map(|offer| &offer.requirement.network))
}

/// What a client would have to sign to come in; `None` where nobody can sign in.
pub(super) fn challenge(context: Context<'_>, terms: &Terms, url: &str) -> Option<String> {
    let sign_in = terms.extensions.sign_in.as_ref()?;
    let site = Site::of(url)?;
    let chains = chains_of(terms);
    if chains.is_empty() {
        return None;
    }
    let random =
        [&context.secret[..], &context.draw.to_be_bytes(), &context.now.as_secs().to_be_bytes(), url.as_bytes()];
    let nonce = keccak256(&random.concat()).first_chunk().copied()?;
    let statement = sign_in.statement.as_deref();
    Some(Challenge { site: &site, chains: &chains, nonce, issued: context.now, statement }.to_json())
}

impl Visit {
    /// Takes in a request of somebody who signs in; `None` where nobody does, or nobody can.
    pub(super) fn begin(
        context: Context<'_>,
        head: &RequestHead,
        route: &Arc<str>,
        terms: &Arc<Terms>,
    ) -> Option<Next> {
        let place = Place::of(context, head, route, terms)?;
        let mut values = head.all(SIGN_IN_WITH_X);
        let value = values.next()?;
        if values.next().is_some() {
            return Some(refuse(route, 400, "more than one SIGN-IN-WITH-X header; send one"));
        }
        if value.len() > MAX_LENGTH {
            return Some(refuse(route, 400, &format!("SIGN-IN-WITH-X is longer than {MAX_LENGTH} bytes")));
        }
        let json = match header::decode(value) {
            Ok(json) => json,
            Err(error) => return Some(refuse(route, 400, &format!("SIGN-IN-WITH-X {error}"))),
        };
        let sign_in = match SignIn::from_json(&json) {
            Ok(sign_in) => sign_in,
            Err(error) => return Some(refuse(route, 400, &format!("SIGN-IN-WITH-X: {error}"))),
        };
        let chains = chains_of(terms);
        let checked = match Site::of(&ShownUrl::of(context.config, head, terms)) {
            Some(site) => sign_in.check(&site, &chains, context.now),
            None => Err(SignInError::Uri),
        };
        let (route, terms) = (Arc::clone(route), Arc::clone(terms));
        Some(match checked {
            Ok(SignedIn { payer, nonce, until }) => {
                let nonce = PaymentKey::of_nonce(&context.secret, &payer.to_string(), &nonce);
                let visit = Self { head: head.clone(), route, terms, payer, nonce, until };
                visit.recall(context, place)
            }
            Err(refusal) => turn_away(context, head, &route, &terms, refusal),
        })
    }

    fn recall(self, context: Context<'_>, place: Place) -> Next {
        let lasts = self.terms.extensions.sign_in.as_ref().map(|sign_in| sign_in.seconds);
        match place.right_of(&self.payer).zip(lasts) {
            Some((right, seconds)) if context.config.payers.accept(&self.payer) => {
                let ledger = Some((right, Operation::Recall { seconds }));
                (Exchange::Recalling(Box::new(self)), Effects { ledger, ..Effects::default() })
            }
            _ => Reading::begin(context, &self.head, &self.route, &self.terms),
        }
    }

    /// The ledger has said whether the payer has a right to come in.
    pub(super) fn on_recalled(self: Box<Self>, context: Context<'_>, answer: Answer) -> Next {
        match answer {
            Answer::Granted => {
                let ledger = Some((self.nonce, Operation::NoteOnce { expires: self.until }));
                (Exchange::Admitting(self), Effects { ledger, ..Effects::default() })
            }
            Answer::NotHeld => Reading::begin(context, &self.head, &self.route, &self.terms),
            _ => self.turn_back(context, "nobody can sign in at the moment", "the ledger is out of order"),
        }
    }

    /// The ledger has said whether the nonce is new.
    pub(super) fn on_nonce(self, context: Context<'_>, answer: Answer) -> Next {
        match answer {
            Answer::Granted => self.admit(context),
            Answer::Spent => turn_away(context, &self.head, &self.route, &self.terms, SignInError::Nonce),
            _ => self.turn_back(context, "too many sign in at a time", "the nonce cannot be remembered"),
        }
    }

    /// Goes on with a payment that came as well, and else asks for patience. Never for a payment: whoever has paid would
    /// pay again.
    fn turn_back(self, context: Context<'_>, error: &str, reason: &str) -> Next {
        if pays(&self.head) {
            return Reading::begin(context, &self.head, &self.route, &self.terms);
        }
        Effects::end_with(&self.route, Outcome::Overloaded, reason, Reply::overloaded(error))
    }

    fn admit(self, context: Context<'_>) -> Next {
        let set = vec![("x-x402-payer", self.payer.to_string())];
        let remove = self.head.unwanted(context.config, Some(&self.terms));
        let edits = RequestEdits { passes_for: Some(Arc::clone(&self.route)), remove, set };
        let record = Record { visitor: Some(self.payer), ..Record::new(&self.route, Outcome::SignedIn, "") };
        (Exchange::Visiting, Effects { record: Some(record), stream: Stream::Forward(edits), ..Effects::default() })
    }

    /// What was paid for is for the payer alone, each time.
    pub(super) fn on_response(head: &UpstreamHead) -> Next {
        Effects { stream: Stream::Deliver(private(head.forbids_sharing())), ..Effects::default() }.and_over()
    }
}

/// Whether a payment came.
pub(super) fn pays(head: &RequestHead) -> bool {
    [PAYMENT_SIGNATURE, X_PAYMENT].into_iter().any(|name| head.all(name).next().is_some())
}

/// Goes on with a payment that came as well, or else says why the sign-in is none.
fn turn_away(
    context: Context<'_>,
    head: &RequestHead,
    route: &Arc<str>,
    terms: &Arc<Terms>,
    refusal: SignInError,
) -> Next {
    let asked = Asked { job: None, price: None, supported: context.supported, draw: context.draw, head };
    match terms.quote(asked) {
        Ok(quoted) if !pays(head) && !quoted.offers.is_empty() => {
            let error = refusal.to_string();
            let url = ShownUrl::of(context.config, head, terms);
            let reply = Reply::payment_required(context, &error, &quoted, &url);
            Effects::end_with(route, Outcome::Refused, &error, reply)
        }
        _ => Reading::begin(context, head, route, terms),
    }
}
