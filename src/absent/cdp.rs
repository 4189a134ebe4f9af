//! The place of Coinbase's tokens in a build without the feature `cdp`: a key of which there is none.

use crate::absent::NotBuiltIn;
use crate::time::UnixTime;

/// A key of the Coinbase Developer Platform, of which this build has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CdpKey {}

impl CdpKey {
    /// Reads a key.
    ///
    /// # Errors
    /// Always.
    pub const fn new(_id: &str, _secret: &str) -> Result<Self, NotBuiltIn> {
        Err(NotBuiltIn)
    }

    /// Returns the token for a call.
    pub const fn token(&self, _call: &str, _now: UnixTime, _nonce: [u8; 16]) -> String {
        match *self {}
    }

    /// Returns the text without tokens.
    pub const fn hide_tokens(&self, _text: &str) -> String {
        match *self {}
    }

    /// Returns the parts of the key that tell it from every other.
    pub(crate) const fn identity(&self) -> [&[u8]; 2] {
        match *self {}
    }
}
