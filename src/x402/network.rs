//! Names of blockchains.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A blockchain by its CAIP-2 id, `namespace:reference`; for Ethereum's family `eip155:<chain id>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(String);

/// The text is not a CAIP-2 id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a CAIP-2 id (namespace:reference, such as eip155:8453)")]
pub struct NetworkIdError;

impl NetworkId {
    /// The id of a chain of Ethereum's family.
    pub fn from_chain_id(chain_id: u64) -> Self {
        Self(format!("eip155:{chain_id}"))
    }

    /// The EIP-155 chain id, where the chain is of Ethereum's family.
    pub fn chain_id(&self) -> Option<u64> {
        let reference = self.0.strip_prefix("eip155:")?;
        let chain_id = reference.parse().ok()?;
        (Self::from_chain_id(chain_id) == *self).then_some(chain_id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkId {
    type Err = NetworkIdError;

    fn from_str(text: &str) -> Result<Self, NetworkIdError> {
        let (namespace, reference) = text.split_once(':').ok_or(NetworkIdError)?;
        let namespace_fits = (3..=8).contains(&namespace.len())
            && namespace.bytes().all(|byte| matches!(byte, b'-' | b'a'..=b'z' | b'0'..=b'9'));
        let reference_fits = (1..=32).contains(&reference.len())
            && reference.bytes().all(|byte| matches!(byte, b'-' | b'_') || byte.is_ascii_alphanumeric());
        if namespace_fits && reference_fits { Ok(Self(text.to_owned())) } else { Err(NetworkIdError) }
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NetworkId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caip_2_ids_are_checked() {
        assert_eq!("eip155:84532".parse::<NetworkId>().unwrap().chain_id(), Some(84532));
        let solana: NetworkId = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp".parse().unwrap();
        assert_eq!(solana.chain_id(), None);
        for wrong in ["", "base", "eip155:", ":1", "EIP155:1", "eip155:1:2", "eip155:0x1!", "ab:1", "toolongname:1"] {
            assert_eq!(wrong.parse::<NetworkId>(), Err(NetworkIdError), "{wrong}");
        }
    }

    #[test]
    fn a_chain_id_has_one_spelling() {
        assert_eq!("eip155:01".parse::<NetworkId>().unwrap().chain_id(), None);
    }
}
