//! Entries whose payments the filter checks itself: `exact` and `upto` on chains of Ethereum's family.

use std::sync::Arc;

use super::asset::Token;
use super::channels;
use super::network::{Network, Networks};
use super::offer::Inherited;
use super::recipient::are_accounts;
use super::{Result, refuse};
use crate::config::raw::{self, TextOr};
use crate::config::{Offer, Settle};
use crate::x402::NetworkId;
use crate::x402::requirement::{Evm, Rail, Scheme, TransferMethod, domain_separator};

impl Inherited<'_> {
    /// Resolves an entry on a chain of Ethereum's family.
    #[inline(never)]
    pub(super) fn evm_offer(
        &self,
        path: &str,
        entry: &raw::Entry,
        scheme: Scheme,
        networks: &Networks,
    ) -> Result<Offer> {
        if scheme == Scheme::Upto && matches!(self.settle, Settle::Before | Settle::Concurrent) {
            return refuse(path, "has scheme upto, which settles after the response, when its cost is known");
        }
        if entry.extra.is_some() {
            return refuse(format!("{path}.extra"), "is for entries that the filter cannot check itself");
        }
        let network = networks.find(&format!("{path}.network"), &entry.network)?;
        let token = token(path, entry, &network)?;
        let transfer_method = transfer_method(path, entry, &scheme, &token)?;
        let recipients = self.recipients(path, entry)?;
        are_accounts(path, &recipients, token.address)?;
        let rates = self.price.rates(&token.asset)?;
        let channel = channels::terms(path, entry, &scheme, &token.asset, network.chain_id, self.authorizer)?;
        let pay_to = recipients.first().map_or(token.address, |recipient| recipient.to);
        let (name, version, chain_id) = (token.eip712_name, token.eip712_version, network.chain_id);
        let rail = Rail::Evm(Evm {
            transfer_method,
            facilitator: None,
            chain_id,
            v1_network: network.v1_name(),
            asset: token.address,
            pay_to,
            domain_separator: domain_separator(transfer_method, token.address, &name, &version, chain_id),
            eip712_name: name,
            eip712_version: version,
            contract_wallets: entry.contract_wallets,
            channel,
        });
        let id = NetworkId::from_chain_id(chain_id);
        let requirement = self.requirement(scheme, id, &token.asset, rates.as_ref(), rail)?;
        if entry.confirm && network.rpc.is_none() {
            let network = &requirement.network;
            return refuse(format!("{path}.confirm"), format_args!("needs a node to ask: configure rpc.{network}"));
        }
        Ok(Offer {
            exposure: self.exposure(&requirement.scheme, &token.asset)?,
            facilitators: self.facilitators_for(path, &requirement)?,
            requirement,
            recipients,
            recipient_from: self.recipient_from(entry),
            dollar_decimals: token.asset.dollar_decimals(),
            rates: rates.map(Arc::new),
            rpc: network.rpc,
            confirm: entry.confirm,
        })
    }
}

fn token(path: &str, entry: &raw::Entry, network: &Network) -> Result<Token> {
    let path = format!("{path}.asset");
    match &entry.asset {
        TextOr::Object(inline) => Token::from_raw(&path, inline, "the asset"),
        TextOr::Text(symbol) => network.token(&path, symbol),
    }
}

fn transfer_method(path: &str, entry: &raw::Entry, scheme: &Scheme, token: &Token) -> Result<TransferMethod> {
    match entry.transfer_method.unwrap_or(token.transfer_method) {
        raw::TransferMethod::Eip3009 if *scheme != Scheme::Upto => Ok(TransferMethod::Eip3009),
        raw::TransferMethod::Eip3009 if entry.transfer_method.is_some() => {
            refuse(format!("{path}.transfer_method"), "is eip3009, and scheme upto is always paid by permit2")
        }
        _ => Ok(TransferMethod::Permit2),
    }
}
