//! Accounts that may pay, and callers that need not.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Result, at, refuse, require};
use crate::config::raw;
use crate::config::secret::Shown;
use crate::config::{Payers, Principal};
use crate::evm::Address;
use crate::svm::Pubkey;

/// Resolves the payers whose payments are taken.
#[inline(never)]
pub(super) fn payers(raw: &raw::Payers) -> Result<Payers> {
    let allow = raw.allow.as_ref().map(|texts| accounts("allow", texts)).transpose()?;
    Ok(Payers { allow, deny: accounts("deny", &raw.deny)? })
}

fn accounts(list: &str, texts: &[String]) -> Result<BTreeSet<String>> {
    let mut accounts = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        let path = format!("payers.{list}[{index}]");
        accounts.insert(match text.parse::<Pubkey>() {
            Ok(account) => account.to_string(),
            Err(_) => {
                // Nothing else is as long as an account of Solana without 0x.
                let is_solana = text.len() > 40 && !text.starts_with("0x");
                require(&path, "solana", cfg!(feature = "solana") || !is_solana)?;
                text.parse::<Address>().map_err(at(path, text))?.to_string()
            }
        });
    }
    Ok(accounts)
}

/// Resolves callers that need not pay.
pub(super) fn principals(path: &str, names: &[String]) -> Result<Arc<[Principal]>> {
    let principal = |(index, text): (usize, &String)| match text.strip_suffix('*') {
        None if !text.is_empty() && !text.contains('*') => Ok(Principal::Exact(text.clone())),
        Some(prefix) if prefix.ends_with('/') && !prefix.contains('*') => Ok(Principal::Below(prefix.to_owned())),
        _ => refuse(
            format!("{path}.principals[{index}]"),
            format_args!(
                "{} is neither a name nor a name that ends with /*, such as spiffe://cluster.local/ns/shop/*",
                Shown(text)
            ),
        ),
    };
    names.iter().enumerate().map(principal).collect()
}
