//! Hashes of typed structured data (EIP-712).

use super::{Address, keccak256};

/// A 32-byte word of an encoded struct.
pub type Word = [u8; 32];

/// The domain of a signature (EIP-712): which contract, on which chain. The domain that tokens use.
#[derive(Debug, Clone, Copy)]
pub struct Domain<'a> {
    /// The token's name, as its contract reports it for signing (differs from network to network).
    pub name: &'a str,
    /// The version of the signing domain. Permit2 has none.
    pub version: Option<&'a str>,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The contract that will check the signature.
    pub verifying_contract: Address,
}

impl Domain<'_> {
    /// The domain separator: the hash of the domain as a struct.
    pub fn separator(&self) -> Word {
        let name = keccak256(self.name.as_bytes());
        let chain_id = word_from_u64(self.chain_id);
        let contract = self.verifying_contract.to_word();
        match self.version {
            Some(version) => struct_hash(
                &keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                &[name, keccak256(version.as_bytes()), chain_id, contract],
            ),
            None => struct_hash(
                &keccak256(b"EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                &[name, chain_id, contract],
            ),
        }
    }
}

/// `hashStruct` of EIP-712: the hash of the type's hash and of the fields, each encoded as one word.
///
/// `type_hash` is the Keccak-256 hash of the type's full encoding, `Name(type field,…)` with the types that it names behind
/// it.
pub fn struct_hash(type_hash: &Word, fields: &[Word]) -> Word {
    let mut encoded = Vec::with_capacity(fields.len().saturating_add(1).saturating_mul(32));
    encoded.extend_from_slice(type_hash);
    for field in fields {
        encoded.extend_from_slice(field);
    }
    keccak256(&encoded)
}

/// The digest that is signed: `keccak256("\x19\x01" ‖ domain separator ‖ struct hash)`.
pub fn digest(domain_separator: &Word, struct_hash: &Word) -> Word {
    let mut encoded = Vec::with_capacity(66);
    encoded.extend_from_slice(b"\x19\x01");
    encoded.extend_from_slice(domain_separator);
    encoded.extend_from_slice(struct_hash);
    keccak256(&encoded)
}

/// An unsigned integer as a word.
pub fn word_from_u64(value: u64) -> Word {
    ruint::aliases::U256::from(value).to_be_bytes()
}
