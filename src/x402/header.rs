//! Names and encoding of the headers that carry terms, payments and receipts: JSON in base64 (RFC 4648, section 4).

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Terms of a payment, server to client (v2).
pub const PAYMENT_REQUIRED: &str = "payment-required";
/// A payment, client to server (v2).
pub const PAYMENT_SIGNATURE: &str = "payment-signature";
/// A receipt, server to client (v2).
pub const PAYMENT_RESPONSE: &str = "payment-response";
/// A payment, client to server (v1).
pub const X_PAYMENT: &str = "x-payment";
/// A receipt, server to client (v1).
pub const X_PAYMENT_RESPONSE: &str = "x-payment-response";

/// Bytes of a payment header beyond which it is refused unread. The longest honest payment (a contract wallet
/// that is yet to be deployed, by ERC-6492) stays well below.
pub const MAX_LENGTH: usize = 32 * 1024;

/// An error in a payment header that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_LENGTH`].
    #[error("is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Not standard base64.
    #[error("is not standard base64 (RFC 4648, section 4)")]
    Base64,
}

/// Padding is written always and read where it stands: the official TypeScript client reads headers without it,
/// the Python client does not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Encodes JSON for a header.
pub fn encode(json: &str) -> String {
    BASE64.encode(json)
}

/// Decodes a header into bytes that should be JSON.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(value: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if value.len() > MAX_LENGTH {
        return Err(DecodeError::TooLong);
    }
    BASE64.decode(value).map_err(|_| DecodeError::Base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_written_and_not_demanded() {
        assert_eq!(encode("{}"), "e30=");
        assert_eq!(decode(b"e30="), Ok(b"{}".to_vec()));
        assert_eq!(decode(b"e30"), Ok(b"{}".to_vec()));
    }

    #[test]
    fn other_alphabets_and_stray_bytes_are_refused() {
        for wrong in [&b"!!!notbase64"[..], b"_-__", b"e3 0=", b"e30=\n", b"e30==", b"\xff\xff", b"e"] {
            assert_eq!(decode(wrong), Err(DecodeError::Base64), "{wrong:?}");
        }
        assert_eq!(decode(&vec![b'A'; MAX_LENGTH + 1]), Err(DecodeError::TooLong));
    }
}
