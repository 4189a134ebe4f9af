//! Signatures of contract wallets that may be yet to be deployed (ERC-6492).

use super::Address;

/// The last 32 bytes of such a signature.
pub const MAGIC: [u8; 32] = *b"\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\
    \x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92\x64\x92";

/// A wrapper: the wallet's own signature, and how to deploy the wallet first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrapper<'a> {
    /// The contract that deploys the wallet; zero where none has to.
    pub factory: Address,
    /// The data of the call to that contract.
    pub calldata: &'a [u8],
    /// The signature that the wallet itself is to judge. A wallet may take an empty one, for it may have approved beforehand.
    pub signature: &'a [u8],
}

impl<'a> Wrapper<'a> {
    /// Takes a signature apart that ends with [`MAGIC`]: `(address, bytes, bytes)` by the ABI; `None` for all else.
    ///
    /// Whatever viem's decoder takes is taken: parts may overlap, lie in any order, and need no padding. Two parts are
    /// looked up, however long the signature.
    pub fn parse(signature: &'a [u8]) -> Option<Self> {
        let [_, _, _, _, _, _, _, _, _, _, _, _, factory @ ..] = word(signature, 0)?;
        let wrapper = Self {
            factory: Address::from_bytes(*factory),
            calldata: bytes(signature, 32)?,
            signature: bytes(signature, 64)?,
        };
        is_wrapped(signature).then_some(wrapper)
    }
}

/// Returns whether a signature says of itself that it is wrapped.
pub fn is_wrapped(signature: &[u8]) -> bool {
    signature.ends_with(&MAGIC)
}

fn word(encoded: &[u8], at: usize) -> Option<&[u8; 32]> {
    encoded.get(at..)?.first_chunk()
}

/// The `bytes` whose offset stands at `head`.
fn bytes(encoded: &[u8], head: usize) -> Option<&[u8]> {
    let (length, rest) = encoded.get(number(word(encoded, head)?)?..)?.split_first_chunk()?;
    rest.get(..number(length)?)
}

/// A number, if it can be an offset at all.
fn number(word: &[u8; 32]) -> Option<usize> {
    let (zeros, low) = word.split_last_chunk()?;
    let is_short = zeros.iter().all(|byte| *byte == 0);
    if is_short { usize::try_from(u32::from_be_bytes(*low)).ok() } else { None }
}
