//! The page for people who open a priced URL in a browser: it says what is for sale and pays by the browser's wallet.
//!
//! The page is one file without anything loaded from elsewhere ([`render`]), or an operator's own ([`Template`]). Whatever
//! an operator or a client has written is escaped for the place where it is put. The page's own policy
//! (`Content-Security-Policy`) runs its one script and nothing else, by the script's hash.

use serde::Serialize;

use crate::json::to_text;
use crate::money::Amount;
use crate::networks::chains::{self, WalletChain};
use crate::networks::{NETWORKS, SOLANA};
use crate::x402::Requirement;
use crate::x402::requirement::{Rail, Scheme};

mod accept;
mod template;

pub use accept::wants_page;
pub use template::{Template, TemplateError};

/// The built-in page.
const PAGE: &str = include_str!("page.html");

/// The policy of the built-in page. What a paid page brings along inherits it: its scripts do not run, and it loads
/// images, fonts and style sheets from here alone.
pub const CSP: &str = "default-src 'none'; script-src 'sha256-YC6fva9pqVPBjnV48tXx/zLUgqGcCxyweY3Lc+tuKUk='; style-src 'self' 'sha256-e3ObA4rSZdq2RjkRE2tFS38DKh3yLVplWop5alm8DCk='; img-src 'self' blob: data:; media-src 'self' blob: data:; font-src 'self' data:; frame-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The policy of an operator's own page, unless the operator says otherwise: its own scripts and those of its host.
pub const TEMPLATE_CSP: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src 'self' blob: data:; font-src 'self' data:; frame-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The content of a page: all of it is known where a 402 is made.
#[derive(Debug, Clone, Copy)]
pub struct PageData<'a> {
    /// The terms of version 2 as JSON, as `PAYMENT-REQUIRED` carries them in base64.
    pub terms: &'a str,
    /// The ways to pay, one for each entry of `accepts`, in the same order.
    pub ways: &'a [Way<'a>],
    /// The operator's description.
    pub description: &'a str,
    /// The URL that the client used.
    pub url: &'a str,
    /// The method of the request. The page pays for GET alone.
    pub method: &'a str,
    /// The reason why the request was not served.
    pub error: &'a str,
}

/// A way to pay, as people read it.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The entry of `accepts`.
    pub requirement: &'a Requirement,
    /// The decimals of its asset, if they are known; without them amounts are shown in atomic units.
    pub decimals: Option<u8>,
    /// True if a unit of the asset is worth a dollar.
    pub is_dollar: bool,
    /// The asset's symbol.
    pub asset: &'a str,
    /// The network's name.
    pub network: &'a str,
}

impl<'a> Way<'a> {
    /// Finds names and decimals in the built-in tables. `dollar_decimals` are the decimals of an asset that is pegged to
    /// the dollar, as an `Offer` of the configuration knows them.
    pub fn new(requirement: &'a Requirement, dollar_decimals: Option<u8>) -> Self {
        let chain_id = requirement.evm().map(|evm| evm.chain_id);
        let network = NETWORKS.iter().find(|network| Some(network.chain_id) == chain_id);
        let (asset, decimals) = match &requirement.rail {
            Rail::Evm(evm) => {
                let mut assets = network.into_iter().flat_map(|network| network.assets);
                let asset = assets.find(|asset| evm.asset.is_written(asset.address));
                (asset.map_or(evm.eip712_name.as_str(), |asset| asset.symbol), asset.map(|asset| asset.decimals))
            }
            Rail::Foreign(foreign) => {
                let known = SOLANA.iter().find(|known| known.id == requirement.network.as_str());
                let is_usdc = known.is_some_and(|known| known.usdc == foreign.asset);
                (if is_usdc { "USDC" } else { &foreign.asset }, None)
            }
        };
        let network = chain_id.and_then(chains::name).or(network.map(|network| network.name));
        Self {
            requirement,
            decimals: dollar_decimals.or(decimals),
            is_dollar: dollar_decimals.is_some(),
            asset,
            network: network.unwrap_or(requirement.network.as_str()),
        }
    }

    /// Returns the price: `$0.001`, `0.5 EURC`, or `1000 atomic units of EURC`.
    pub fn price(&self) -> String {
        let most = if self.requirement.scheme == Scheme::Upto { "up to " } else { "" };
        let Self { asset, .. } = self;
        let amount = self.requirement.amount;
        match self.decimals {
            Some(decimals) if self.is_dollar => format!("{most}${}", in_units(amount, decimals, 2)),
            Some(decimals) => format!("{most}{} {asset}", in_units(amount, decimals, 0)),
            None => format!("{most}{amount} atomic units of {asset}"),
        }
    }
}

/// An amount in units of its asset, with as many decimals as it takes, or as many as asked for where it has any.
fn in_units(amount: Amount, decimals: u8, at_least: usize) -> String {
    let decimals = usize::from(decimals);
    let digits = format!("{:0>width$}", amount.to_string(), width = decimals.saturating_add(1));
    let (whole, fraction) = digits.split_at_checked(digits.len().saturating_sub(decimals)).unwrap_or((&digits, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction:0<at_least$}") }
}

/// A page and the headers that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The whole document.
    pub html: String,
    /// The value of `Content-Security-Policy`.
    pub csp: String,
}

impl Page {
    /// Returns the headers of the page, beside those of every 402. `Vary`, because the same URL answers programs otherwise.
    pub fn headers(&self) -> [(&'static str, &str); 6] {
        [
            ("content-type", "text/html; charset=utf-8"),
            ("content-security-policy", &self.csp),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("vary", "accept, sec-fetch-dest"),
        ]
    }
}

/// The built-in page.
pub fn render(data: &PageData<'_>) -> Page {
    Page { html: template::fill(PAGE, data), csp: CSP.to_owned() }
}

/// An operator's own page, with a policy of the operator's or [`TEMPLATE_CSP`].
pub fn render_custom(template: &Template, csp: Option<&str>, data: &PageData<'_>) -> Page {
    Page { html: template::fill(template.as_str(), data), csp: csp.unwrap_or(TEMPLATE_CSP).to_owned() }
}

/// A way to pay, as the script of a page is told.
#[derive(Serialize)]
struct WireWay<'a> {
    price: String,
    asset: &'a str,
    network: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    explorer: Option<&'static str>,
    /// The parameter of `wallet_addEthereumChain`, without the chain's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<WalletChain>,
}

impl PageData<'_> {
    /// The way that is shown before anybody has chosen: the first that a wallet can pay here.
    fn first_way(&self) -> Option<&Way<'_>> {
        use crate::x402::requirement::TransferMethod::Eip3009;
        let is_payable = |way: &&Way<'_>| {
            way.requirement.scheme == Scheme::Exact
                && way.requirement.evm().is_some_and(|evm| evm.transfer_method == Eip3009)
        };
        self.ways.iter().find(is_payable).or(self.ways.first())
    }

    /// Returns the value of a placeholder; `None` for names that are none.
    fn value(&self, name: &str) -> Option<template::Value> {
        use template::Value::{Json, Text};
        let way = self.first_way();
        let text = |text: &str| Some(Text(text.to_owned()));
        match name {
            "terms" => Some(Json(self.terms.to_owned())),
            "ways" => Some(Json(to_text(&self.ways.iter().copied().map(Way::to_wire).collect::<Vec<_>>()))),
            "description" if self.description.is_empty() => text("Paid content"),
            "description" => text(self.description),
            "price" => text(&way.map(Way::price).unwrap_or_default()),
            "asset" => text(way.map_or("", |way| way.asset)),
            "network" => text(way.map_or("", |way| way.network)),
            "recipient" => text(&way.map(|way| way.requirement.pay_to().into_owned()).unwrap_or_default()),
            "url" if self.url.starts_with("https://") || self.url.starts_with("http://") => text(self.url),
            "url" => text(""),
            "method" => text(self.method),
            "error" => text(self.error),
            _ => None,
        }
    }
}

impl<'a> Way<'a> {
    fn to_wire(self) -> WireWay<'a> {
        let id = self.requirement.evm().map(|evm| evm.chain_id);
        let (asset, network) = (self.asset, self.network);
        let (explorer, chain) = (id.and_then(chains::explorer), id.and_then(chains::wallet_chain));
        WireWay { price: self.price(), asset, network, explorer, chain }
    }
}

#[cfg(test)]
mod tests;
