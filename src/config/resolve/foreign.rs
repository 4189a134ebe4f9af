//! Entries of which the filter checks little or nothing itself: other networks, and other schemes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::asset::Asset;
use super::offer::Inherited;
use super::{Result, at, refuse, require};
use crate::config::raw::{self, TextOr};
use crate::config::secret::{Shown, named};
use crate::config::{ConfigError, Offer, Settle};
use crate::json;
use crate::networks::SolanaNetwork;
use crate::svm::{Memo, Pubkey, TokenProgram};
use crate::x402::NetworkId;
use crate::x402::requirement::{Foreign, PaymentFlow, Rail, Scheme, Svm};

impl Inherited<'_> {
    /// Resolves an entry of which the filter checks little or nothing itself.
    #[inline(never)]
    pub(super) fn foreign_offer(
        &self,
        path: &str,
        entry: &raw::Entry,
        network: NetworkId,
        known: Option<&SolanaNetwork>,
    ) -> Result<Offer> {
        check_scheme(path, entry, &network, known)?;
        check_keys(path, entry, &network)?;
        let (asset, address) = asset(path, entry, &network, known)?;
        let pay_to = foreign_recipient(path, entry)?;
        let mut extra = entry.extra.clone().unwrap_or_default().0;
        if self.settle != Settle::After {
            extra.entry("paymentFlow".to_owned()).or_insert_with(|| json::to_text(&PaymentFlow::Upfront));
        }
        let mut foreign = Foreign { asset: address, pay_to, extra, supplied: BTreeMap::new(), svm: None };
        if entry.scheme == "exact" && network.as_str().starts_with("solana:") {
            require(format!("{path}.network"), "solana", cfg!(feature = "solana"))?;
            foreign.svm = Some(svm(path, &foreign, asset.decimals)?);
        }
        let rates = self.price.rates(&asset)?;
        let scheme = Scheme::Foreign(entry.scheme.as_str().into());
        let requirement = self.requirement(scheme, network, &asset, rates.as_ref(), Rail::Foreign(foreign))?;
        let rates = rates.map(Arc::new);
        let dollar_decimals = asset.dollar_decimals();
        let (recipients, recipient_from) = (Vec::new(), None);
        let facilitators = self.facilitators_for(path, &requirement)?;
        Ok(Offer {
            exposure: None,
            requirement,
            recipients,
            recipient_from,
            dollar_decimals,
            rates,
            rpc: None,
            confirm: false,
            facilitators,
        })
    }
}

/// Checks that an entry without `extra` is of a scheme and a network that the filter knows, and that the scheme has a name.
fn check_scheme(path: &str, entry: &raw::Entry, network: &NetworkId, known: Option<&SolanaNetwork>) -> Result<()> {
    if entry.extra.is_none() && (known.is_none() || entry.scheme != "exact") {
        let is_evm = network.chain_id().is_some();
        let (key, word) = if is_evm { ("scheme", &entry.scheme) } else { ("network", &entry.network) };
        let checked = if is_evm { "exact, upto" } else { "eip155:<chain id>, solana" };
        return refuse(
            format!("{path}.{key}"),
            format_args!(
                "{} is none that the filter checks ({checked}); where the facilitator does, give extra: what clients need beside, or {{}}",
                Shown(word)
            ),
        );
    }
    if entry.scheme.is_empty() || !entry.scheme.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse(format!("{path}.scheme"), format_args!("{} is not the name of a scheme", Shown(&entry.scheme)));
    }
    Ok(())
}

/// Checks that no key stands in an entry that is for those alone that the filter checks itself.
fn check_keys(path: &str, entry: &raw::Entry, network: &NetworkId) -> Result<()> {
    let alien = [
        ("contract_wallets", entry.contract_wallets),
        ("confirm", entry.confirm),
        ("transfer_method", entry.transfer_method.is_some()),
    ];
    let Some((key, _)) = alien.into_iter().find(|(_, is_set)| *is_set) else { return Ok(()) };
    refuse(
        format!("{path}.{key}"),
        format_args!(
            "is for entries that the filter checks itself, and it knows no scheme {} on {network}",
            named(&entry.scheme)
        ),
    )
}

/// Returns the asset and its address.
fn asset(
    path: &str,
    entry: &raw::Entry,
    network: &NetworkId,
    known: Option<&SolanaNetwork>,
) -> Result<(Asset, String)> {
    let path = format!("{path}.asset");
    match (&entry.asset, known) {
        (TextOr::Object(inline), _) => Asset::of_foreign(&path, inline),
        (TextOr::Text(symbol), Some(known)) if symbol == "USDC" => {
            Ok((Asset { label: symbol.clone(), decimals: 6, usd_pegged: true }, known.usdc.to_owned()))
        }
        (TextOr::Text(symbol), _) => {
            refuse(path, format_args!("{} is not known on {network}; give {{address, decimals}}", Shown(symbol)))
        }
    }
}

/// Returns the account of an entry whose accounts the filter does not know.
fn foreign_recipient(path: &str, entry: &raw::Entry) -> Result<String> {
    let path = format!("{path}.pay_to");
    match &entry.pay_to {
        Some(TextOr::Text(text)) => super::text::foreign_name(&path, text),
        Some(TextOr::Object(_)) => {
            refuse(path, "is no text; recipients are split where the filter checks payments itself")
        }
        None => refuse(
            path,
            format_args!("is missing: the accounts of {} are not those of other entries", named(&entry.network)),
        ),
    }
}

/// Resolves the parts of Solana's `exact` that the filter checks itself.
#[inline(never)]
fn svm(path: &str, foreign: &Foreign, decimals: u8) -> Result<Svm> {
    let key = |key: &str, text: &str| text.parse::<Pubkey>().map_err(at(format!("{path}.{key}"), text));
    let extra = |name: &str| foreign.extra.contains_key(name).then(|| foreign.text(name));
    let not_text = |name: &str| ConfigError { path: format!("{path}.extra.{name}"), message: "is no text".to_owned() };
    let memo = extra("memo").map(|memo| {
        let memo = memo.ok_or_else(|| not_text("memo"))?;
        Memo::new(&memo).map_err(at(format!("{path}.extra.memo"), &memo))
    });
    let token_program = extra("tokenProgram").map(|program| {
        let program = program.ok_or_else(|| not_text("tokenProgram"))?;
        let found = TokenProgram::from_address(&key("extra.tokenProgram", &program)?);
        found.map_or_else(|| refuse(format!("{path}.extra.tokenProgram"), "is neither SPL Token nor Token-2022"), Ok)
    });
    Ok(Svm {
        mint: key("asset.address", &foreign.asset)?,
        decimals,
        token_program: token_program.transpose()?,
        pay_to: key("pay_to", &foreign.pay_to)?,
        memo: memo.transpose()?,
    })
}
