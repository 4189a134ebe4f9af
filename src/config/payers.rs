//! Rules about callers: payers whose payments are taken, and callers that need not pay.

use std::collections::BTreeSet;

use crate::x402::payment::Payer;

/// The payers whose payments are taken. Accounts are written as [`Payer`] writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payers {
    /// Only these may pay, where there is a list.
    pub allow: Option<BTreeSet<String>>,
    /// These may not pay.
    pub deny: BTreeSet<String>,
}

impl Payers {
    /// Returns whether some payers may not pay.
    pub fn is_restricted(&self) -> bool {
        self.allow.is_some() || !self.deny.is_empty()
    }

    /// Returns whether the payments of `payer` are taken. Where payers are restricted, those of an unknown payer are not.
    pub fn accept(&self, payer: &Payer) -> bool {
        if !self.is_restricted() {
            return true;
        }
        let name = payer.to_string();
        *payer != Payer::Unknown
            && !self.deny.contains(&name)
            && self.allow.as_ref().is_none_or(|allowed| allowed.contains(&name))
    }
}

/// The name of a caller's certificate: a URI (SPIFFE) or a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// This name.
    Exact(String),
    /// Every name that begins with this, which ends with a slash.
    Below(String),
}

impl Principal {
    /// Returns whether a name is among these.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(prefix) => name.starts_with(prefix),
        }
    }
}
