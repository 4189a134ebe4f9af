//! Parts of the filter that a build without their features leaves out. A configuration that wants one is refused.

#[cfg(not(feature = "cdp"))]
pub mod cdp;
#[cfg(not(feature = "signing"))]
pub mod secret_key;
#[cfg(not(feature = "solana"))]
pub mod svm;

/// The error of a value that only a build with another feature can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("needs a part of the filter that this build lacks")]
pub struct NotBuiltIn;
