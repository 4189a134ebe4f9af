//! What an entry of `accepts` sells beside one request: a bundle that its payer uses up by signing in (`extra.bundle`).

use crate::money::Amount;

/// The field of `extra` that tells a bundle from a single request, and the official clients pass back.
pub const BUNDLE: &str = "bundle";

/// The name of the header of a response that says what is left of its payer's bundle: calls, or atomic units.
pub const REMAINING: &str = "x-x402-remaining";

/// A bundle as it is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bundle {
    /// What it holds.
    pub content: Content,
    /// Seconds for which it can be used after its payment.
    pub lasts: u64,
}

/// The content of a bundle, and so what a request takes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// So many requests, at least one.
    Calls(u64),
    /// So many atomic units, from which each request takes its price.
    Credit(Amount),
}

impl Bundle {
    /// Returns it as canonical JSON: what `extra.bundle` says.
    pub fn to_json(&self) -> String {
        let Self { content, lasts } = self;
        match content {
            Content::Calls(calls) => format!(r#"{{"calls":{calls},"lasts":{lasts}}}"#),
            Content::Credit(credit) => format!(r#"{{"credit":"{credit}","lasts":{lasts}}}"#),
        }
    }

    /// Returns what a payer has who buys it: requests, or atomic units. What is more than 128 bits counts for that.
    pub fn size(&self) -> u128 {
        match self.content {
            Content::Calls(calls) => u128::from(calls),
            Content::Credit(credit) => units(credit),
        }
    }

    /// Returns what a request takes from it that costs so much.
    pub fn taken_by(&self, price: Amount) -> u128 {
        match self.content {
            Content::Calls(_) => 1,
            Content::Credit(_) => units(price),
        }
    }
}

fn units(amount: Amount) -> u128 {
    u128::try_from(amount.to_integer()).unwrap_or(u128::MAX)
}
