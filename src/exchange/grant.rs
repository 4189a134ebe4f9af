//! A payer's grant: the right to come back to a resource that was paid for, and what has to be signed to use it.
//!
//! A resource is one route, method, host and path, each as it was written, under the route's price.

use super::{Context, RequestHead};
use crate::config::RouteTerms;
use crate::evm::{Address, keccak256};
use crate::ledger::{Operation, PaymentKey};
use crate::time::UnixTime;
use crate::x402::NetworkId;
use crate::x402::payment::Payer;
use crate::x402::sign_in::{Challenge, Site, chains};

/// The digest of what is paid for and by which terms, as far as a grant depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Resource([u8; 32]);

impl Resource {
    /// The resource that a request is for; `None` where nobody may come back to it.
    pub(super) fn of(context: Context<'_>, head: &RequestHead, route: &str, terms: &RouteTerms) -> Option<Self> {
        let sign_in = terms.extensions.sign_in.as_ref()?;
        let method = head.text(":method");
        let method = if method == "HEAD" { "GET" } else { &*method };
        let authority = head.text(":authority").to_ascii_lowercase();
        let parts = [route.as_bytes(), method.as_bytes(), authority.as_bytes(), head.path()];
        // No part has a byte of zero, and what stands before them has one length.
        Some(Self(keccak256(&[&context.secret[..], &sign_in.price, &parts.join(&0)].concat())))
    }

    /// Returns the key of a payer's grant; `None` where nobody knows who the payer is.
    pub(super) fn grant_key(&self, payer: &Payer) -> Option<PaymentKey> {
        Some(PaymentKey::of_grant(&self.0, &name_of(payer)?))
    }

    /// Returns what the ledger is told of a payer's grant, once the response is on its way that was paid for.
    pub(super) fn grant(&self, payer: &Payer, terms: &RouteTerms, now: UnixTime) -> Option<(PaymentKey, Operation)> {
        let seconds = terms.extensions.sign_in.as_ref()?.seconds;
        Some((self.grant_key(payer)?, Operation::Grant { expires: now.plus(seconds) }))
    }
}

/// Returns a payer's name as the payer signs in; `None` where nobody knows who it is.
pub(super) fn name_of(payer: &Payer) -> Option<String> {
    Some(match payer {
        Payer::Unknown => return None,
        Payer::Evm(address) => address.to_string(),
        // As an account signs in of which only the facilitator knew.
        Payer::Foreign(name) => match name.to_ascii_lowercase().parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(_) => name.clone(),
        },
    })
}

/// Returns the networks whose accounts can sign in.
pub(super) fn chains_of(terms: &RouteTerms) -> Vec<&NetworkId> {
    chains(terms.offers.iter().map(|offer| &offer.requirement.network))
}

/// Returns what a client would have to sign to come back, as JSON; `None` where nobody can sign in.
pub(super) fn challenge(context: Context<'_>, terms: &RouteTerms, url: &str) -> Option<String> {
    if !terms.lets_sign_in() {
        return None;
    }
    let site = Site::of(url)?;
    let chains = chains_of(terms);
    if chains.is_empty() {
        return None;
    }
    let random =
        [&context.secret[..], &context.draw.to_be_bytes(), &context.now.as_secs().to_be_bytes(), url.as_bytes()];
    let nonce = keccak256(&random.concat()).first_chunk().copied()?;
    let statement = terms.extensions.sign_in.as_ref().and_then(|sign_in| sign_in.statement.as_deref());
    Some(Challenge { site: &site, chains: &chains, nonce, issued: context.now, statement }.to_json())
}
