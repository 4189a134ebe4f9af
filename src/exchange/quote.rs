//! From the terms of a route to what one request is asked to pay.

use std::sync::Arc;

use super::RequestHead;
use crate::config::{Offer, RouteTerms};
use crate::evm::Address;
use crate::facilitator::{CalloutAnswer, Directory, Supported};
use crate::money::{Amount, Dollars};
use crate::price::PriceError;
use crate::price::request::Job;
use crate::x402::Requirement;
use crate::x402::bundle::{Bundle, Content};
use crate::x402::extensions::{EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING};
use crate::x402::requirement::{Rail, Scheme, TransferMethod};
use crate::x402::terms::Prepared;

/// The facts that the terms of a request depend on, beside its route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The work that it asks of a model, where the route is priced by that.
    pub(super) job: Option<&'a Job>,
    /// The facilitator's own word on what it supports.
    pub(super) supported: &'a [Supported],
    /// The price that the operator's own service names, where it knows it.
    pub(super) price: Option<&'a Price>,
    /// Draws one of several recipients.
    pub(super) draw: u64,
    /// The head of the request, where the proxy may say who is paid.
    pub(super) head: &'a RequestHead,
}

/// The terms for one request: those of its route, with everything filled in that differs from request to request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Quote {
    /// The terms of the route.
    pub(super) terms: Arc<RouteTerms>,
    /// The parts that differ from the route's own; `None` where nothing does.
    own: Option<Own>,
}

/// The parts of a quote that take the place of the route's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Own {
    offers: Vec<Arc<Offer>>,
    declared: Option<Arc<str>>,
}

impl Quote {
    /// Makes the quote for a request; without offers where none can be made at the moment.
    ///
    /// # Errors
    /// [`PriceError`].
    pub(super) fn new(terms: &Arc<RouteTerms>, asked: Asked<'_>) -> Result<Self, PriceError> {
        if asked.price.is_none()
            && let Some(quote) = Self::of_route(terms, asked.supported)
        {
            return Ok(quote);
        }
        let sponsoring = terms.sponsoring(asked.supported);
        let mut offers = Vec::with_capacity(terms.offers.len());
        for offer in &terms.offers {
            offers.extend(offer.quote(asked)?);
        }
        drop_small_bundles(&mut offers);
        let declared = match sponsoring.as_slice() {
            [] => terms.extensions.declared.clone(),
            sponsoring => terms.extensions.declared_with(sponsoring),
        };
        Ok(Self { terms: Arc::clone(terms), own: Some(Own { offers, declared }) })
    }

    /// Makes the quote that is the same for every request of a route; `None` where they differ.
    pub(super) fn of_route(terms: &Arc<RouteTerms>, supported: &[Supported]) -> Option<Self> {
        let is_ready =
            |offer: &Arc<Offer>| offer.is_fixed() && !offer.directory(supported).excludes(&offer.requirement);
        let is_own = terms.offers.iter().all(is_ready) && terms.sponsoring(supported).is_empty();
        is_own.then(|| Self { terms: Arc::clone(terms), own: None })
    }

    /// Returns the ways to pay, in the order of the configuration.
    pub(super) fn offers(&self) -> &[Arc<Offer>] {
        self.own.as_ref().map_or(&self.terms.offers, |own| &own.offers)
    }

    /// Returns the JSON of the extensions that are the same for every request: an object; `None` where it would be empty.
    pub(super) fn declared(&self) -> Option<&str> {
        self.own.as_ref().map_or(&self.terms.extensions.declared, |own| &own.declared).as_deref()
    }

    /// Returns what a 402 says, where it was made at load.
    pub(super) fn prepared(&self) -> Option<&Prepared> {
        self.terms.prepared.as_deref().filter(|_| self.own.is_none())
    }

    /// Returns the same quote with an entry in the place of the one like it: how the payer's channel stands is told there.
    #[must_use]
    pub(super) fn with_standing(&self, offer: &Arc<Offer>) -> Self {
        let is_like = |other: &Arc<Offer>| other.requirement.has_rail_of(&offer.requirement);
        let offers = self.offers().iter().map(|other| Arc::clone(if is_like(other) { offer } else { other })).collect();
        let declared = self.own.as_ref().map_or(&self.terms.extensions.declared, |own| &own.declared).clone();
        Self { terms: Arc::clone(&self.terms), own: Some(Own { offers, declared }) }
    }

    /// Returns the entries of `accepts`.
    pub(super) fn requirements(&self) -> Vec<&Requirement> {
        self.offers().iter().map(|offer| &offer.requirement).collect()
    }
}

/// Takes out the bundles whose credit is less than the request costs.
fn drop_small_bundles(offers: &mut Vec<Arc<Offer>>) {
    let prices = offers.iter().filter(|offer| offer.requirement.bundle.is_none());
    let dearest = prices.map(|offer| offer.requirement.amount).max().unwrap_or(Amount::ZERO);
    offers.retain(|offer| match offer.requirement.bundle {
        Some(Bundle { content: Content::Credit(credit), .. }) => credit >= dearest,
        _ => true,
    });
}

impl RouteTerms {
    /// Returns how the facilitator pays for approvals of Permit2, where an entry needs one.
    fn sponsoring(&self, supported: &[Supported]) -> Vec<&'static str> {
        let is_permit2 = |offer: &Arc<Offer>| {
            offer.requirement.evm().is_some_and(|evm| evm.transfer_method == TransferMethod::Permit2)
        };
        let known = [EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING];
        let sponsoring = known
            .into_iter()
            .filter(|name| supported.iter().any(|supported| supported.extensions.iter().any(|known| known == name)));
        if self.offers.iter().any(is_permit2) { sponsoring.collect() } else { Vec::new() }
    }
}

impl Offer {
    fn directory<'a>(&'a self, supported: &'a [Supported]) -> Directory<'a> {
        Directory::new(supported, &self.facilitators)
    }

    /// The offer for a request; `None` where it cannot be made.
    fn quote(self: &Arc<Self>, asked: Asked<'_>) -> Result<Option<Arc<Self>>, PriceError> {
        let directory = self.directory(asked.supported);
        if directory.excludes(&self.requirement) {
            return Ok(None);
        }
        let mut requirement = self.requirement.clone();
        if let (Some(rates), Some(job)) = (&self.rates, asked.job) {
            requirement.amount = rates.quote(job)?;
        }
        if let Some(price) = asked.price
            && requirement.bundle.is_none()
        {
            requirement.amount = price.amount_of(self).ok_or(PriceError::Unknown)?;
        }
        match &mut requirement.rail {
            Rail::Evm(evm) => {
                let network = requirement.network.as_str();
                let named = match (&requirement.scheme, &evm.channel) {
                    (Scheme::Upto, _) => Some(directory.settlers(network).next()),
                    (_, Some(terms)) if terms.is_authorized_by_facilitator => {
                        Some(directory.authorizers(network).next())
                    }
                    _ => None,
                };
                match named {
                    Some(None) => return Ok(None),
                    Some(account) => *evm = evm.clone().with_account(account),
                    None => {}
                }
                evm.pay_to = match &self.recipient_from {
                    None => self.draw(asked.draw).unwrap_or(evm.pay_to),
                    Some(key) => match recipient(asked.head.metadata(key)) {
                        Some(recipient) => recipient,
                        None => return Ok(None),
                    },
                };
            }
            Rail::Foreign(foreign) => {
                let kind = directory.kinds(requirement.scheme.as_str(), requirement.network.as_str()).next();
                let Some(kind) = kind else { return Ok(None) };
                *foreign = foreign.supplied_with(&kind.extra);
                if foreign.svm.is_some() && foreign.svm_terms(requirement.amount).is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(self.with(requirement)))
    }

    pub(super) fn with(&self, requirement: Requirement) -> Arc<Self> {
        Arc::new(Self { requirement, ..self.clone() })
    }

    /// One of the recipients, each as often as its weight says.
    fn draw(&self, number: u64) -> Option<Address> {
        let total = self.recipients.iter().fold(0_u64, |sum, one| sum.saturating_add(one.weight));
        let mut left = number.checked_rem(total)?;
        self.recipients.iter().find_map(|one| match left.checked_sub(one.weight) {
            None => Some(one.to),
            Some(rest) => {
                left = rest;
                None
            }
        })
    }
}

/// A price that the operator's own service has named.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Price {
    /// In dollars, for assets that are pegged to them.
    price: Option<String>,
    /// In atomic units of the asset.
    amount: Option<Amount>,
}

impl Price {
    /// Returns the JSON that the service is asked with.
    pub(super) fn question(head: &RequestHead, job: Option<&Job>) -> String {
        #[derive(serde::Serialize)]
        struct Question<'a> {
            method: &'a str,
            path: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            model: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            input_tokens: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            output_tokens: Option<String>,
        }
        crate::json::to_text(&Question {
            method: &head.text(":method"),
            path: &head.text(":path"),
            model: job.map(|job| job.model.as_str()),
            input_tokens: job.map(|job| job.input.to_string()),
            output_tokens: job.map(|job| job.output.to_string()),
        })
    }

    /// Reads the answer; `None` where it names no price.
    pub(super) fn read(answer: &CalloutAnswer) -> Option<Self> {
        match answer {
            CalloutAnswer::Answered { status: 200, body } => crate::json::from_slice(body).ok(),
            _ => None,
        }
    }

    fn amount_of(&self, offer: &Offer) -> Option<Amount> {
        let amount = match (&self.amount, &self.price) {
            (Some(amount), None) => *amount,
            (None, Some(dollars)) => Dollars::parse(dollars).ok()?.to_amount(offer.dollar_decimals?).ok()?,
            _ => return None,
        };
        (amount != Amount::ZERO).then_some(amount)
    }
}

/// Returns the recipient that the proxy names; `None` where it could not take the money.
fn recipient(value: Option<&[u8]>) -> Option<Address> {
    let address: Address = std::str::from_utf8(value?).ok()?.parse().ok()?;
    (address != Address::from_bytes([0; 20])).then_some(address)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn recipients_are_drawn_by_weight() {
        let config = Config::from_json(
            br#"{"facilitator": {"cluster": "f", "url": "http://f"}, "routes": [{"match": {"path": "/"}, "price": "$1",
                "accepts": [{"scheme": "exact", "network": "base", "asset": "USDC", "pay_to": {"split": [
                    {"to": "0x1111111111111111111111111111111111111111", "weight": 3},
                    {"to": "0x2222222222222222222222222222222222222222"}]}}]}]}"#,
        )
        .unwrap();
        let offer = &config.routes[0].terms.as_ref().unwrap().offers[0];
        let drawn: Vec<u8> = (0..8).map(|number| offer.draw(number).unwrap().as_bytes()[0]).collect();
        assert_eq!(drawn, [0x11, 0x11, 0x11, 0x22, 0x11, 0x11, 0x11, 0x22]);
    }
}
