//! The place of the Solana world in a build without the feature `solana`: types of which there is no value, so that the
//! compiler leaves out the code that would handle one.

use std::fmt;
use std::str::FromStr;

use crate::absent::NotBuiltIn;

/// A thing of Solana, of which this build has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absent {}

/// An account.
pub type Pubkey = Absent;
/// A signature.
pub type Signature = Absent;
/// A program that keeps tokens.
pub type TokenProgram = Absent;
/// A memo.
pub type Memo = Absent;
/// A transaction.
pub type Transaction = Absent;
/// The reason why a payment does not meet its terms.
pub type Refusal = NotBuiltIn;

/// The terms of a payment.
#[derive(Debug)]
pub struct Terms {
    /// The token.
    pub mint: Pubkey,
    /// Its decimals.
    pub decimals: u8,
    /// The program that keeps it.
    pub token_program: Option<TokenProgram>,
    /// The recipient.
    pub pay_to: Pubkey,
    /// The amount.
    pub amount: u64,
    /// The account that pays the chain's fee.
    pub fee_payer: Pubkey,
    /// The memo that the payment has to carry.
    pub memo: Option<Memo>,
}

/// A payment that meets its terms.
#[derive(Debug)]
pub struct Checked {
    /// The account that pays.
    pub payer: Pubkey,
    /// True if the facilitator has to say who pays.
    pub facilitator_decides: bool,
}

/// Seconds after which a transaction is never executed.
pub const LIFETIME_SECONDS: u64 = 0;

/// Returns whether `signature` is that of `signer` over `message`.
pub const fn verify_message(signer: &Pubkey, _message: &[u8], _signature: &Signature) -> bool {
    match *signer {}
}

impl FromStr for Absent {
    type Err = NotBuiltIn;

    fn from_str(_: &str) -> Result<Self, NotBuiltIn> {
        Err(NotBuiltIn)
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl Absent {
    /// Reads a memo.
    ///
    /// # Errors
    /// Always.
    pub const fn new(_: &str) -> Result<Self, NotBuiltIn> {
        Err(NotBuiltIn)
    }

    /// Reads a transaction.
    ///
    /// # Errors
    /// Always.
    pub const fn decode(_: &str) -> Result<Self, NotBuiltIn> {
        Err(NotBuiltIn)
    }

    /// Returns the program of an address.
    pub const fn from_address(address: &Self) -> Option<Self> {
        match *address {}
    }

    /// Returns the transaction in base64.
    pub const fn encode(&self) -> String {
        match *self {}
    }

    /// Returns the digest of what was signed.
    pub const fn message_hash(&self) -> &Self {
        self
    }

    /// Returns the bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        match *self {}
    }

    /// Checks a payment.
    ///
    /// # Errors
    /// Never.
    pub const fn check(&self, _: &Terms) -> Result<Checked, NotBuiltIn> {
        match *self {}
    }
}

impl NotBuiltIn {
    /// Returns whether the payment may be a smart wallet's.
    pub const fn may_be_smart_wallet(self) -> bool {
        false
    }
}
