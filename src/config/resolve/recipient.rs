//! The recipients of an entry: its own, else the route's, else the default ones.

use super::offer::Inherited;
use super::{Result, at, refuse};
use crate::config::Recipient;
use crate::config::raw::{self, TextOr};
use crate::evm::Address;
use crate::evm::permit2::{EXACT_PROXY, PERMIT2, UPTO_PROXY};
use crate::json::Object;
use crate::metadata::MetadataKey;

const MOST_WEIGHT: u64 = 1_000_000;

impl Inherited<'_> {
    /// Returns the metadata by which the proxy names the recipient, if it does.
    pub(super) fn recipient_from(&self, entry: &raw::Entry) -> Option<MetadataKey> {
        let candidates = [&entry.pay_to, &self.raw.pay_to, &self.defaults.pay_to];
        match candidates.into_iter().flatten().next()? {
            TextOr::Object(raw::PayTo { metadata, .. }) => metadata.clone(),
            TextOr::Text(_) => None,
        }
    }

    /// Resolves the recipients of an entry; none where the proxy names the recipient.
    #[inline(never)]
    pub(super) fn recipients(&self, path: &str, entry: &raw::Entry) -> Result<Vec<Recipient>> {
        let (path, recipient) = self.pay_to(path, entry)?;
        match recipient {
            TextOr::Text(text) => Ok(vec![Recipient { to: address(&path, text)?, weight: 1 }]),
            TextOr::Object(raw::PayTo { split: Some(parts), metadata: None }) => split(&format!("{path}.split"), parts),
            TextOr::Object(raw::PayTo { split: None, metadata: Some(_) }) => Ok(Vec::new()),
            TextOr::Object(_) => refuse(path, "has neither split nor metadata, or both; keep one"),
        }
    }

    /// Returns the recipient as it is written, and where that stands.
    fn pay_to<'a>(&'a self, path: &str, entry: &'a raw::Entry) -> Result<(String, &'a TextOr<raw::PayTo>)> {
        let candidates = [
            (format!("{path}.pay_to"), &entry.pay_to),
            (format!("{}.pay_to", self.route), &self.raw.pay_to),
            ("defaults.pay_to".to_owned(), &self.defaults.pay_to),
        ];
        let found = candidates.into_iter().find_map(|(path, to)| Some((path, to.as_ref()?)));
        found.map_or_else(
            || {
                refuse(
                    format!("{}.pay_to", self.route),
                    "is missing, here, in the entry and in defaults: say who is paid",
                )
            },
            Ok,
        )
    }
}

/// Checks that nobody is paid who is the token itself: what it is sent is lost, or the transfer fails.
pub(super) fn are_accounts(path: &str, recipients: &[Recipient], asset: Address) -> Result<()> {
    match recipients.iter().any(|one| one.to == asset) {
        true => refuse(
            path,
            "pays the token's own contract, from which nobody can take the money; put your account into pay_to",
        ),
        false => Ok(()),
    }
}

fn split(path: &str, parts: &[Object<raw::Part>]) -> Result<Vec<Recipient>> {
    if parts.is_empty() {
        return refuse(path, "is empty: say who is paid");
    }
    let mut recipients: Vec<Recipient> = Vec::with_capacity(parts.len());
    for (index, Object(part)) in parts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let to = address(&format!("{path}.to"), &part.to)?;
        let weight = part.weight.unwrap_or(1);
        if !(1..=MOST_WEIGHT).contains(&weight) {
            return refuse(format!("{path}.weight"), format_args!("is not between 1 and {MOST_WEIGHT}"));
        }
        if recipients.iter().any(|other| other.to == to) {
            return refuse(format!("{path}.to"), "stands there twice; add the weights");
        }
        recipients.push(Recipient { to, weight });
    }
    Ok(recipients)
}

fn address(path: &str, text: &str) -> Result<Address> {
    let address: Address = text.parse().map_err(at(path, text))?;
    if address == Address::from_bytes([0; 20]) {
        return refuse(path, "is the zero address, from which nobody can take the money");
    }
    if [PERMIT2, EXACT_PROXY, UPTO_PROXY].contains(&address) {
        return refuse(path, "is a contract that payments pass through, not an account; name your own");
    }
    Ok(address)
}
