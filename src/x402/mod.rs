//! x402 on the wire: what stands in headers and bodies, in versions 1 and 2 of the protocol.
//!
//! Source: `specs/x402-specification-v2.md` and `specs/transports-v2/http.md` of the x402 repository, and
//! recorded exchanges of the official packages (`tests/vectors/wire`), which decide where the two differ.

pub mod header;
pub mod network;
pub mod payment;
pub mod reason;
pub mod receipt;
pub mod requirement;
pub mod terms;

pub use network::NetworkId;
pub use payment::PaymentPayload;
pub use receipt::Receipt;
pub use requirement::Requirement;

/// The version of the protocol that `PAYMENT-REQUIRED` and `PAYMENT-SIGNATURE` speak.
pub const VERSION: u64 = 2;
