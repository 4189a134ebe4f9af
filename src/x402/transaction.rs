//! Names of transactions, on whatever chain.

use std::fmt;

use crate::evm::TransactionHash;

/// The name of a transaction: a hash on a chain of Ethereum's family, elsewhere a short text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionId {
    /// On a chain of Ethereum's family.
    Evm(TransactionHash),
    /// Elsewhere: printable ASCII, with zeros up to the array's end.
    Foreign([u8; TransactionId::MAX_LENGTH]),
}

impl TransactionId {
    /// Bytes of the longest name: 64 bytes in base58, as Solana names its transactions.
    pub const MAX_LENGTH: usize = 88;

    /// Bytes that [`Self::to_bytes`] gives.
    pub const BYTES: usize = Self::MAX_LENGTH + 1;

    /// No transaction.
    pub const ZERO: Self = Self::Evm(TransactionHash::ZERO);

    /// The hash of 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::Evm(TransactionHash::from_bytes(bytes))
    }

    /// A name that is not a hash; `None` where it is empty, too long, or holds anything but printable ASCII.
    pub fn foreign(name: &str) -> Option<Self> {
        let mut bytes = [0; Self::MAX_LENGTH];
        let place = bytes.get_mut(..name.len()).filter(|_| !name.is_empty())?;
        place.copy_from_slice(name.as_bytes());
        name.bytes().all(|byte| byte.is_ascii_graphic()).then_some(Self::Foreign(bytes))
    }

    /// The hash, where it is one.
    pub const fn hash(self) -> Option<TransactionHash> {
        match self {
            Self::Evm(hash) => Some(hash),
            Self::Foreign(_) => None,
        }
    }

    /// Returns the bytes that [`Self::read_bytes`] reads.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (kind, name) = match &self {
            Self::Evm(hash) => (0, hash.as_bytes().as_slice()),
            Self::Foreign(name) => (1, name.as_slice()),
        };
        for (to, from) in bytes.iter_mut().zip(std::iter::once(&kind).chain(name)) {
            *to = *from;
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` where that did not write it.
    pub(crate) fn read_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        match bytes.split_first()? {
            (0, name) => {
                let (hash, rest) = name.split_first_chunk()?;
                rest.iter().all(|byte| *byte == 0).then_some(Self::from_bytes(*hash))
            }
            (1, name) => {
                let name = std::str::from_utf8(name).ok()?;
                Self::foreign(name.trim_end_matches('\0'))
            }
            _ => None,
        }
    }
}

impl From<TransactionHash> for TransactionId {
    fn from(hash: TransactionHash) -> Self {
        Self::Evm(hash)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evm(hash) => fmt::Display::fmt(hash, f),
            Self::Foreign(name) => {
                f.write_str(std::str::from_utf8(name).map_err(|_| fmt::Error)?.trim_end_matches('\0'))
            }
        }
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_form() {
        let signature = "5".repeat(88);
        for name in ["a", "0.0.1234@1700000000.000000000", &signature] {
            let id = TransactionId::foreign(name).unwrap();
            assert_eq!(id.to_string(), name);
            assert_eq!(TransactionId::read_bytes(&id.to_bytes()), Some(id));
        }
        let hash = TransactionId::from_bytes([7; 32]);
        assert_eq!(TransactionId::read_bytes(&hash.to_bytes()), Some(hash));
        for wrong in ["", "a b", "ä", "a\0", &"5".repeat(89)] {
            assert_eq!(TransactionId::foreign(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn bytes_that_nobody_wrote_are_no_name() {
        let mut hash = TransactionId::from_bytes([7; 32]).to_bytes();
        hash[40] = 1;
        assert_eq!(TransactionId::read_bytes(&hash), None);
        assert_eq!(TransactionId::read_bytes(&[2; TransactionId::BYTES]), None);
        let mut name = TransactionId::foreign("ab").unwrap().to_bytes();
        name[1] = 0;
        assert_eq!(TransactionId::read_bytes(&name), None);
    }
}
