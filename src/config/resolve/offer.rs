//! Offers, each of an entry of `accepts`: by `evm.rs` where the filter checks payments itself, else by `foreign.rs`.

use std::sync::Arc;

use super::asset::Asset;
use super::network::Networks;
use super::price::Price;
use super::{Result, refuse};
use crate::config::raw;
use crate::config::{Facilitator, Offer, Settle};
use crate::evm::Address;
use crate::money::Amount;
use crate::price::Rates;
use crate::x402::requirement::{PaymentFlow, Rail, Scheme};
use crate::x402::{NetworkId, Requirement};

/// The route and the defaults around an entry.
pub(super) struct Inherited<'a> {
    /// The path of the route.
    pub(super) route: &'a str,
    pub(super) raw: &'a raw::Route,
    pub(super) defaults: &'a raw::Defaults,
    pub(super) price: &'a Price<'a>,
    pub(super) settle: Settle,
    pub(super) max_timeout_seconds: u64,
    pub(super) facilitators: &'a [Facilitator],
    /// The account that authorizes claims of channels, where it is the gate's own.
    pub(super) authorizer: Option<Address>,
}

impl Inherited<'_> {
    /// Resolves the entry at `path`.
    pub(super) fn offer(&self, path: &str, entry: &raw::Entry, networks: &Networks) -> Result<Offer> {
        let scheme = match entry.scheme.as_str() {
            "exact" => Some(Scheme::Exact),
            "upto" => Some(Scheme::Upto),
            "batch-settlement" => Some(Scheme::BatchSettlement),
            _ => None,
        };
        match (scheme, networks.find_foreign(&entry.network)) {
            (Some(scheme), None) => self.evm_offer(path, entry, scheme, networks),
            (_, Some((id, known))) => self.foreign_offer(path, entry, id, known),
            (None, None) => {
                let chain_id = networks.find(&format!("{path}.network"), &entry.network)?.chain_id;
                self.foreign_offer(path, entry, NetworkId::from_chain_id(chain_id), None)
            }
        }
    }

    /// Returns the facilitators that are for a requirement, by their places in the configuration.
    pub(super) fn facilitators_for(&self, path: &str, requirement: &Requirement) -> Result<Arc<[usize]>> {
        let Requirement { scheme, network, .. } = requirement;
        let all = self.facilitators.iter().enumerate();
        let fitting: Arc<[usize]> =
            all.filter(|(_, one)| one.is_for(scheme.as_str(), network)).map(|(index, _)| index).collect();
        if fitting.is_empty() {
            let scheme = scheme.as_str();
            return refuse(
                path,
                format_args!(
                    "has scheme {scheme} on {network}, which no facilitator is for; see networks and schemes of facilitators"
                ),
            );
        }
        Ok(fitting)
    }

    /// Returns the requirement of an entry, with the least amount that its rates allow, or its fixed price.
    pub(super) fn requirement(
        &self,
        scheme: Scheme,
        network: NetworkId,
        asset: &Asset,
        rates: Option<&Rates>,
        rail: Rail,
    ) -> Result<Requirement> {
        let is_channel = scheme == Scheme::BatchSettlement;
        Ok(Requirement {
            scheme,
            network,
            amount: match rates {
                Some(rates) => rates.minimum.max(Amount::from(1)),
                None => self.price.amount(asset)?,
            },
            max_timeout_seconds: self.max_timeout_seconds,
            payment_flow: match self.settle {
                _ if is_channel => PaymentFlow::Authorization,
                Settle::After | Settle::Optimistic => PaymentFlow::Authorization,
                Settle::Before | Settle::Concurrent => PaymentFlow::Upfront,
            },
            rail,
            bundle: None,
        })
    }
}
