//! x402 on the wire: the content of headers and bodies, in versions 1 and 2 of the protocol.
//!
//! Source: `specs/x402-specification-v2.md` and `specs/transports-v2/http.md` of the x402 repository, and
//! recorded exchanges of the official packages (`tests/vectors/wire`), which decide where the two differ.

pub mod bundle;
pub mod extensions;
pub mod header;
pub mod network;
pub mod offer_receipt;
pub mod payment;
pub mod reason;
pub mod receipt;
pub mod requirement;
pub mod sign_in;
pub mod terms;
mod transaction;

pub use network::NetworkId;
pub use payment::PaymentPayload;
pub use receipt::Receipt;
pub use requirement::Requirement;
pub use transaction::TransactionId;

/// A version of the protocol. The name of the payment's header tells which one a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `X-PAYMENT`, `X-PAYMENT-RESPONSE`, and terms in the body of the 402.
    V1,
    /// `PAYMENT-SIGNATURE`, `PAYMENT-RESPONSE`, and terms in the header `PAYMENT-REQUIRED`.
    V2,
}

impl Version {
    /// `x402Version`.
    pub const fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The name of the payment's header, for people.
    pub const fn payment_header(self) -> &'static str {
        match self {
            Self::V1 => "X-PAYMENT",
            Self::V2 => "PAYMENT-SIGNATURE",
        }
    }

    /// The name of the receipt's header, in lower case.
    pub const fn receipt_header(self) -> &'static str {
        match self {
            Self::V1 => header::X_PAYMENT_RESPONSE,
            Self::V2 => header::PAYMENT_RESPONSE,
        }
    }
}
