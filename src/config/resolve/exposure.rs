//! What may be delivered before it is paid (`settle: optimistic`).

use super::asset::{Asset, atomic_units};
use super::checks::Warnings;
use super::offer::Inherited;
use super::{Result, refuse, require};
use crate::config::raw::{self, TextOr};
use crate::config::{Facilitator, Offer, RouteTerms, Settle, Verify};
use crate::ledger::exposure::{IS_BUILT_IN, Limits};
use crate::money::Amount;
use crate::x402::requirement::Scheme;

impl Inherited<'_> {
    /// Checks that a route says what may be delivered before it is paid, where that is of effect, and only there.
    pub(super) fn check_exposure(&self) -> Result<()> {
        let path = format!("{}.exposure", self.route);
        let is_wanted = self.settle == Settle::Optimistic || self.raw.exposure.is_some();
        require(format!("{}.settle", self.route), "optimistic", IS_BUILT_IN || !is_wanted)?;
        match self.settle {
            Settle::Optimistic if self.raw.exposure.is_none() && self.defaults.exposure.is_none() => refuse(
                path,
                "is missing, here and in defaults: settle: optimistic needs {payer: \"$…\", total: \"$…\"}",
            ),
            Settle::Optimistic => Ok(()),
            _ if self.raw.exposure.is_some() => refuse(path, "is for settle: optimistic"),
            _ => Ok(()),
        }
    }

    /// Resolves what may be delivered by an entry before it is paid; `None` where its response waits for its settlement.
    #[inline(never)]
    pub(super) fn exposure(&self, scheme: &Scheme, asset: &Asset) -> Result<Option<Limits>> {
        if !IS_BUILT_IN {
            return Ok(None);
        }
        let (path, raw) = match (&self.raw.exposure, &self.defaults.exposure) {
            _ if self.settle != Settle::Optimistic || *scheme != Scheme::Exact => return Ok(None),
            (Some(raw), _) => (format!("{}.exposure", self.route), raw),
            (None, Some(raw)) => ("defaults.exposure".to_owned(), raw),
            (None, None) => return Ok(None),
        };
        let (payer, total) =
            (units(&format!("{path}.payer"), &raw.payer, asset)?, units(&format!("{path}.total"), &raw.total, asset)?);
        if total < payer {
            return refuse(format!("{path}.total"), "is less than exposure.payer");
        }
        Ok(Some(Limits { payer, total }))
    }
}

fn units(path: &str, value: &TextOr<raw::Units>, asset: &Asset) -> Result<u128> {
    let units = match value {
        TextOr::Text(text) => asset.units(path, text, 0)?,
        TextOr::Object(raw::Units { amount }) => atomic_units(&format!("{path}.amount"), amount)?,
    };
    match u128::try_from(units.to_integer()) {
        Ok(0) => refuse(path, "is nothing; write settle: after"),
        Ok(units) => Ok(units),
        Err(_) => refuse(path, "is too large"),
    }
}

/// Warns of routes whose responses leave before they are paid in fewer cases, or in more, than may be meant.
pub(super) fn warn(warnings: &mut Warnings, path: &str, terms: &RouteTerms, facilitators: &[Facilitator]) {
    if terms.settle != Settle::Optimistic {
        return;
    }
    if terms.offers.iter().any(|offer| offer.exposure.is_none()) {
        let text = "is optimistic for scheme exact on chains of Ethereum's family alone; whoever pays by another entry is served as under after";
        warnings.add(path, "settle", text);
    }
    let exposed = || terms.offers.iter().filter_map(|offer| Some((offer, offer.exposure?)));
    let is_dear = |(offer, limits): (&std::sync::Arc<Offer>, Limits)| {
        offer.rates.is_none() && offer.requirement.amount > Amount::from_u128(limits.payer)
    };
    if exposed().any(is_dear) {
        let text = "is optimistic, and its price is above exposure.payer, so that no response leaves before it is paid";
        warnings.add(path, "settle", text);
    }
    let asks_nobody = |offer: &Offer| {
        let first = offer.facilitators.first().and_then(|place| facilitators.get(*place));
        first.is_some_and(|facilitator| facilitator.verify == Verify::Local)
    };
    if exposed().any(|(offer, _)| asks_nobody(offer)) {
        let text = "is optimistic under verify: local: nobody sees whether a payer has the money, so whoever can sign is served until exposure.total is lost, each day; take verify: remote, or accept that";
        warnings.add(path, "settle", text);
    }
}
