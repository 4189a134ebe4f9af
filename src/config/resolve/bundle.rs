//! Bundles: what a route sells beside single requests, an entry more for each that can be paid for one.

use std::sync::Arc;
use std::time::Duration;

use super::asset::atomic_units;
use super::{Result, at, refuse, require};
use crate::config::raw::{self, TextOr};
use crate::config::secret::Shown;
use crate::config::{BundleTerms, Offer};
use crate::evm::keccak256;
use crate::json;
use crate::ledger::bundles::IS_BUILT_IN;
use crate::money::{Amount, Dollars};
use crate::time::parse_duration;
use crate::x402::Requirement;
use crate::x402::bundle::{Bundle, Content};
use crate::x402::requirement::{Rail, Scheme};
use crate::x402::sign_in::chains;

/// The longest time for which a bundle may last: what is left of it takes up memory.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Resolves the bundle of the route at `route`: its terms, and the entries by which it is bought. `offers` are those for a single
/// request, whose price is the same for all if `is_fixed`.
#[inline(never)]
pub(super) fn bundle(
    route: &str,
    raw: &raw::Bundle,
    offers: &[Arc<Offer>],
    is_fixed: bool,
) -> Result<(BundleTerms, Vec<Arc<Offer>>)> {
    let path = format!("{route}.bundle");
    require(&path, "bundles", IS_BUILT_IN)?;
    let lasts = lasts(&path, &raw.lasts)?;
    let sellable: Vec<&Arc<Offer>> = offers.iter().filter(|offer| can_sell(offer)).collect();
    if sellable.is_empty() {
        return refuse(
            path,
            "needs an entry of scheme exact on a network of eip155 or solana: it is paid once, and used by signing in",
        );
    }
    if sellable.iter().any(|offer| offer.recipient_from.is_some()) {
        return refuse(
            path,
            "does not go with pay_to from metadata: whoever pays themselves would come back to others' goods",
        );
    }
    if raw.credit.is_some() {
        check_units(&path, &sellable)?;
    } else if !is_fixed {
        return refuse(
            format!("{path}.calls"),
            "is for a fixed price: here a call may cost anything; sell credit, from which each takes its price",
        );
    }
    let sold: Vec<Arc<Offer>> =
        sellable.iter().map(|offer| sold(&path, raw, offer, lasts, is_fixed).map(Arc::new)).collect::<Result<_>>()?;
    // What a bundle is worth: one by other terms gives no right by these. Credit is worth itself whatever the prices are.
    let worth: Vec<String> = match &raw.credit {
        Some(_) => sellable.iter().map(|offer| denomination(offer)).collect(),
        None => sellable.iter().map(|offer| json::to_text(&offer.requirement)).collect(),
    };
    let kind = if raw.credit.is_some() { "credit" } else { "calls" };
    let price = keccak256(format!("{kind}\n{}", worth.join("\n")).as_bytes());
    let takes_calls = raw.credit.is_none();
    Ok((BundleTerms { takes_calls, price }, sold))
}

fn lasts(path: &str, text: &str) -> Result<u64> {
    let lasts = parse_duration(text).filter(|lasts| lasts.subsec_nanos() == 0 && *lasts <= LONGEST);
    match lasts.map(|lasts| lasts.as_secs()) {
        Some(seconds @ 1..) => Ok(seconds),
        _ => refuse(
            format!("{path}.lasts"),
            format_args!("{} is not of whole seconds such as \"2592000s\", from 1s to 366 days", Shown(text)),
        ),
    }
}

/// Returns whether a bundle can be bought by an entry: its payment moves the whole amount, and its payer is known and can sign
/// in.
fn can_sell(offer: &Offer) -> bool {
    let Requirement { scheme, network, rail, .. } = &offer.requirement;
    let is_checked = match rail {
        Rail::Evm(_) => *scheme == Scheme::Exact,
        Rail::Foreign(foreign) => foreign.svm.is_some(),
    };
    is_checked && !chains(std::iter::once(network)).is_empty()
}

/// Checks that the credit that is bought by one entry can be used by the prices of all.
fn check_units(path: &str, sellable: &[&Arc<Offer>]) -> Result<()> {
    let [first, others @ ..] = sellable else { return Ok(()) };
    let is_same =
        |other: &&Arc<Offer>| other.dollar_decimals.is_some() && other.dollar_decimals == first.dollar_decimals;
    if others.iter().all(is_same) {
        return Ok(());
    }
    refuse(
        format!("{path}.credit"),
        "is for entries whose assets are pegged to the dollar and have as many decimals each: what is bought by one is used by all",
    )
}

fn denomination(offer: &Offer) -> String {
    match offer.dollar_decimals {
        Some(decimals) => format!("dollars of {decimals}"),
        None => format!("{} of {}", offer.requirement.asset(), offer.requirement.network),
    }
}

/// Returns the entry that sells the bundle beside this one.
#[inline(never)]
fn sold(path: &str, raw: &raw::Bundle, single: &Offer, lasts: u64, is_fixed: bool) -> Result<Offer> {
    let one = single.requirement.amount;
    let (amount, content) = match (raw.calls, &raw.credit, &raw.price) {
        (Some(0), ..) => return refuse(format!("{path}.calls"), "is 0; say how many calls are sold"),
        (Some(_), Some(_), _) => return refuse(path, "has calls and credit; keep one of the two"),
        (None, None, _) => return refuse(path, "has neither calls nor credit"),
        (Some(_), None, None) => {
            return refuse(format!("{path}.price"), "is missing: say what the calls cost together");
        }
        (Some(calls), None, Some(price)) => (units(&format!("{path}.price"), price, single)?, Content::Calls(calls)),
        (None, Some(_), Some(_)) => {
            return refuse(
                format!("{path}.price"),
                "stands beside credit, whose price is the credit itself; leave it out",
            );
        }
        (None, Some(credit), None) => {
            let credit = units(&format!("{path}.credit"), credit, single)?;
            (credit, Content::Credit(credit))
        }
    };
    let key = if raw.calls.is_some() { "price" } else { "credit" };
    if u128::try_from(amount.to_integer()).is_err() {
        return refuse(format!("{path}.{key}"), "is too large");
    }
    if is_fixed && amount == one {
        return refuse(
            format!("{path}.{key}"),
            "is the price of a single call, so that not every client's payment tells which of the two it is for",
        );
    }
    if is_fixed && amount < one && raw.credit.is_some() {
        return refuse(format!("{path}.{key}"), "is less than a single call costs");
    }
    let requirement = Requirement { amount, bundle: Some(Bundle { content, lasts }), ..single.requirement.clone() };
    Ok(Offer { requirement, rates: None, ..single.clone() })
}

/// Reads a sum in the asset of an entry.
fn units(path: &str, value: &TextOr<raw::Units>, offer: &Offer) -> Result<Amount> {
    let amount = match (value, offer.dollar_decimals) {
        (TextOr::Object(units), _) => atomic_units(&format!("{path}.amount"), &units.amount)?,
        (TextOr::Text(text), Some(decimals)) => {
            Dollars::parse(text).and_then(|dollars| dollars.to_amount(decimals)).map_err(at(path, text))?
        }
        (TextOr::Text(_), None) => {
            return refuse(
                path,
                "is in dollars, and an asset of this route is not pegged to the dollar; give {amount: \"…\"} in atomic units",
            );
        }
    };
    if amount == Amount::ZERO {
        return refuse(path, "is nothing");
    }
    Ok(amount)
}
