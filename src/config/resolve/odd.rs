//! Warnings about prices, tokens and recipients that are valid, and hardly what was meant.

use std::sync::Arc;

use ruint::aliases::U256;

use super::checks::Warnings;
use crate::config::{Offer, Route, RouteTerms};
use crate::money::Amount;
use crate::networks::{KnownNetwork, NETWORKS};
use crate::price::request::has_no_output;
use crate::price::{RATE_SCALE_DIGITS, Rate, Rates, Shape, Tariff};
use crate::x402::bundle::{Bundle, Content};
use crate::x402::requirement::Evm;

/// Accounts of Anvil and Hardhat, which many examples show: everybody has their keys.
const PUBLISHED: [&str; 10] = [
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
    "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
    "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
    "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
    "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
];

/// Names of test networks have one of these in them.
const TESTS: [&str; 5] = ["sepolia", "amoy", "fuji", "testnet", "apothem"];

/// Warns of what is odd about the offers of a route, and about its prices of tokens.
pub(super) fn warn(warnings: &mut Warnings, path: &str, pattern: &str, terms: &RouteTerms) {
    let rails = || terms.offers.iter().filter_map(|offer| Some((offer, offer.requirement.evm()?)));
    if rails().any(|(offer, evm)| contradicts_table(offer, evm)) {
        let text = "has a token of the built-in table with other decimals, or another EIP-712 name or version, so that nobody's payment may be valid; \
            name its symbol in place of its address";
        warnings.add(path, "accepts", text);
    }
    warn_of_bundle(warnings, path, terms);
    if let Some(tariff) = &terms.tariff {
        warn_of_models(warnings, path, tariff);
        warn_of_rates(warnings, path, pattern, tariff, &terms.offers);
    }
}

/// Warns of a bundle that nobody should buy, or everybody.
#[inline(never)]
fn warn_of_bundle(warnings: &mut Warnings, path: &str, terms: &RouteTerms) {
    for offer in &terms.offers {
        let Some(Bundle { content: Content::Calls(calls), .. }) = offer.requirement.bundle else { continue };
        let single = terms
            .offers
            .iter()
            .find(|single| single.requirement.bundle.is_none() && single.requirement.has_rail_of(&offer.requirement));
        let Some(one) = single.map(|single| single.requirement.amount.to_integer()) else { continue };
        let amount = offer.requirement.amount.to_integer();
        if amount > one.saturating_mul(U256::from(calls)) {
            let text = "is more than so many single calls cost, so that nobody gains by it";
            return warnings.add(path, "bundle.price", text);
        }
        if amount < one {
            return warnings.add(
                path,
                "bundle.price",
                "is less than a single call costs, so that nobody should buy one",
            );
        }
    }
}

/// Warns, once for all routes, of real money that would go to an account whose key is published.
pub(super) fn warn_of_published(warnings: &mut Warnings, routes: &[Route]) {
    let is_odd = |route: &Route| {
        let offers = route.terms.iter().flat_map(|terms| &terms.offers);
        offers
            .filter_map(|offer| Some((offer, offer.requirement.evm()?)))
            .any(|(offer, evm)| pays_everybody(offer, evm))
    };
    let mut odd = routes.iter().enumerate().filter(|(_, route)| is_odd(route));
    let Some((first, _)) = odd.next() else { return };
    let also = match odd.count() {
        0 => String::new(),
        more => format!(" (of {more} more routes, too)"),
    };
    let text = "is an account of Anvil's and Hardhat's examples, from which everybody can take the money; name one of your own";
    warnings.add(&format!("routes[{first}]."), "pay_to", &[text, &also].concat());
}

fn network(evm: &Evm) -> Option<&'static KnownNetwork> {
    NETWORKS.iter().find(|known| known.chain_id == evm.chain_id)
}

/// Returns whether real money would go to an account whose key is published.
fn pays_everybody(offer: &Offer, evm: &Evm) -> bool {
    let is_real = network(evm).is_some_and(|known| !TESTS.iter().any(|test| known.name.contains(test)));
    let is_published = |account: &&str| offer.recipients.iter().any(|one| one.to.is_written(account));
    is_real && PUBLISHED.iter().any(is_published)
}

fn contradicts_table(offer: &Offer, evm: &Evm) -> bool {
    let known = network(evm).and_then(|network| network.assets.iter().find(|one| evm.asset.is_written(one.address)));
    known.is_some_and(|known| {
        let has_other_decimals = offer.dollar_decimals.is_some_and(|decimals| decimals != known.decimals);
        let (name, version) = (evm.eip712_name.as_str(), evm.eip712_version.as_str());
        has_other_decimals || (name, version) != (known.eip712_name, known.eip712_version)
    })
}

fn warn_of_models(warnings: &mut Warnings, path: &str, tariff: &Tariff) {
    let is_odd = |name: &&String| {
        [".*", ".+"].iter().any(|one| name.contains(one))
            || name.contains(['^', '$', '|', '?', '\\', '[', '(', '{', ','])
    };
    if tariff.models.iter().any(|name| is_odd(&name)) {
        let text = "has a name with a sign of regular expressions or lists, which stands for itself; * stands for any letters, and each model has its own entry";
        warnings.add(path, "price.models", text);
    }
}

#[inline(never)]
fn warn_of_rates(warnings: &mut Warnings, path: &str, pattern: &str, tariff: &Tariff, offers: &[Arc<Offer>]) {
    let rated = || offers.iter().filter_map(|offer| Some((offer, offer.rates.as_deref()?)));
    let rates = || rated().flat_map(|(_, rates)| tariff.models.iter().zip(&rates.models));
    let is_nothing = |rate: &Rate| [rate.input, rate.cached_input, rate.cache_write, rate.output] == [U256::ZERO; 4];
    let has_no_minimum = || rated().any(|(_, rates)| rates.minimum == Amount::ZERO);
    if has_no_minimum() && rates().any(|(_, rate)| is_nothing(rate)) {
        warnings.add(
            path,
            "price.models",
            "has a model that costs nothing; set minimum, or make a route of its own free",
        );
    }
    let reads_alone = |name: &str| ["embed", "rerank", "moderation"].iter().any(|kind| name.contains(kind));
    let gives_output =
        |(name, rate): (&String, &Rate)| rate.output == U256::ZERO && !is_nothing(rate) && !reads_alone(name);
    if !has_no_output(pattern.as_bytes()) && rates().any(gives_output) {
        let text =
            "has a model whose output costs nothing, as is right for models that only read; write output for others";
        warnings.add(path, "price.models", text);
    }
    let sells_output = || rates().any(|(_, rate)| rate.output != U256::ZERO);
    if matches!(&tariff.shape, Shape::Pointers(pointers) if pointers.output_tokens.is_none()) && sells_output() {
        let text = "names no output_tokens, so that output costs nothing, though models have a price for it";
        warnings.add(path, "price.usage", text);
    }
    if tariff.max_output_tokens == 0 && sells_output() {
        let text = "is 0, so that a request without a limit pays for no output; leave it out for 4096";
        warnings.add(path, "price.max_output_tokens", text);
    }
    let is_small = |(offer, rates): (&Arc<Offer>, &Rates)| {
        let least = offer.dollar_decimals.and_then(a_cent);
        least.is_some_and(|least| rates.models.iter().any(|rate| rate.input != U256::ZERO && rate.input < least))
    };
    if rated().any(is_small) {
        let text = "has an input below $0.01 for a million tokens, which reads like the price of a thousand; give that of a million";
        warnings.add(path, "price.models", text);
    }
}

/// A cent for a million tokens, in the fineness of rates.
fn a_cent(decimals: u8) -> Option<U256> {
    let digits = u32::from(decimals).checked_add(RATE_SCALE_DIGITS)?.checked_sub(2)?;
    U256::from(10).checked_pow(U256::from(digits))
}
