//! Transactions as they travel: signatures, and the message that they sign.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

use super::{Pubkey, Refusal, Signature};

/// Bytes of the longest transaction that the chain takes: one packet of IPv6's least, without its headers.
const MAX_LENGTH: usize = 1232;

/// Characters of the longest transaction in base64.
const MAX_CHARACTERS: usize = MAX_LENGTH.div_ceil(3).saturating_mul(4);

/// Accounts that one transaction can name, those looked up included.
const MAX_ACCOUNTS: usize = 256;

/// As the official package reads it: the standard alphabet, with padding or without. It is written with padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The first bit of a message tells whether it has a version, the others which.
const VERSION_MARK: u8 = 0x80;
const VERSION_0: u8 = VERSION_MARK;

/// A transaction that its payer signed, taken apart. Every number in it that points at something points into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// One for each of the accounts that have to sign, in their order.
    pub(super) signatures: Vec<Signature>,
    /// The bytes that the signatures are over.
    pub(super) message: Vec<u8>,
    /// The number of `accounts` that have to sign; they come first, and the first of them pays the fee.
    pub(super) signers: usize,
    /// The number of accounts that have to sign and are only read; they are the last of those.
    read_only_signers: usize,
    /// The number of the other accounts that are only read; they are the last of all.
    read_only_others: usize,
    /// The accounts that the message names.
    pub(super) accounts: Vec<Pubkey>,
    /// The number of further accounts that it takes from lookup tables, which only the chain knows.
    pub(super) looked_up: usize,
    /// The instructions, in order.
    pub(super) instructions: Vec<Instruction>,
}

/// A call of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    /// The program, which stands in the message itself (lookup tables cannot hold programs).
    pub(super) program: Pubkey,
    /// Its accounts, by their places among those of the message and then those looked up.
    pub(super) accounts: Vec<usize>,
    /// Its arguments.
    pub(super) data: Vec<u8>,
}

/// SHA-256 of the bytes that a payer signed: what the official facilitator, too, knows a payment by.
///
/// The same for every way to write the same payment: other base64, other signatures (the payer can make more than one;
/// the fee payer's is missing at first) and other JSON around it change nothing. Two payments that the chain would both
/// execute differ in it, for the chain takes each message once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageHash([u8; 32]);

impl MessageHash {
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for MessageHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Transaction {
    /// Reads `payload.transaction` of a payment: a transaction in base64, its message of the legacy layout or version 0.
    ///
    /// Stricter than the official package where the chain is: lengths in their shortest form, no bytes after the end,
    /// and no more of them than a packet holds.
    ///
    /// # Errors
    /// [`Refusal::Undecodable`].
    pub fn decode(base64: &str) -> Result<Self, Refusal> {
        if base64.len() > MAX_CHARACTERS {
            return Err(Refusal::Undecodable);
        }
        let bytes = BASE64.decode(base64).map_err(|_| Refusal::Undecodable)?;
        if bytes.len() > MAX_LENGTH {
            return Err(Refusal::Undecodable);
        }
        Self::read(&bytes).ok_or(Refusal::Undecodable)
    }

    /// The transaction in base64, as it is to be sent on: what was read, whatever stood there before.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(MAX_LENGTH);
        // No more than 12 signatures fit into a transaction, so their number is one byte.
        bytes.extend(u8::try_from(self.signatures.len()));
        bytes.extend(self.signatures.iter().flat_map(Signature::as_bytes));
        bytes.extend_from_slice(&self.message);
        BASE64.encode(bytes)
    }

    /// Returns the digest by which the payment is known.
    pub fn message_hash(&self) -> MessageHash {
        MessageHash(Sha256::digest(&self.message).into())
    }

    /// Returns whether the account at `place`, one that stands in the message, has to sign.
    pub(super) const fn is_signer(&self, place: usize) -> bool {
        place < self.signers
    }

    /// Returns whether the account at `place`, one that stands in the message, may be changed.
    pub(super) const fn is_writable(&self, place: usize) -> bool {
        if self.is_signer(place) {
            place < self.signers.saturating_sub(self.read_only_signers)
        } else {
            place < self.accounts.len().saturating_sub(self.read_only_others)
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let signatures = reader.list(|reader| reader.array().map(Signature::from_bytes))?;
        let message = reader.0.to_vec();

        let first = reader.byte()?;
        let (is_legacy, signers) = match first {
            VERSION_0 => (false, reader.byte()?),
            signers if signers & VERSION_MARK == 0 => (true, signers),
            _ => return None,
        };
        let signers = usize::from(signers);
        let read_only_signers = usize::from(reader.byte()?);
        let read_only_others = usize::from(reader.byte()?);
        let accounts = reader.list(|reader| reader.array().map(Pubkey::from_bytes))?;
        let _blockhash: [u8; 32] = reader.array()?;
        let instructions = reader.list(|reader| {
            let program = usize::from(reader.byte()?);
            Some((program, reader.bytes()?, reader.bytes()?))
        })?;
        let lookups = if is_legacy {
            Vec::new()
        } else {
            reader.list(|reader| {
                let _table: [u8; 32] = reader.array()?;
                Some(reader.bytes()?.len().saturating_add(reader.bytes()?.len()))
            })?
        };
        if !reader.0.is_empty() {
            return None;
        }

        // What follows is what the chain asks of every transaction before it looks at any instruction.
        let others = accounts.len().checked_sub(signers)?;
        if signatures.len() != signers || read_only_signers >= signers || read_only_others > others {
            return None;
        }
        let looked_up = lookups.iter().fold(0_usize, |sum, more| sum.saturating_add(*more));
        let places = accounts.len().saturating_add(looked_up);
        if lookups.contains(&0) || places > MAX_ACCOUNTS {
            return None;
        }
        let instructions = instructions.into_iter().map(|(program, places_of_accounts, data)| {
            // The fee payer is no program.
            let program = *accounts.get(program).filter(|_| program != 0)?;
            let accounts: Vec<_> = places_of_accounts.iter().copied().map(usize::from).collect();
            accounts.iter().all(|place| *place < places).then(|| Instruction { program, accounts, data: data.to_vec() })
        });
        let instructions = instructions.collect::<Option<_>>()?;
        let is_repeated = |place: usize, account| accounts.iter().skip(place).skip(1).any(|other| other == account);
        if accounts.iter().enumerate().any(|(place, account)| is_repeated(place, account)) {
            return None;
        }
        Some(Self {
            signatures,
            message,
            signers,
            read_only_signers,
            read_only_others,
            accounts,
            looked_up,
            instructions,
        })
    }
}

/// The bytes that are still to be read. What asks for more than there are gets `None`.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// A number of 16 bits in one to three bytes, seven bits in each, the lowest first. Only the shortest form counts:
    /// the chain takes no other.
    fn length(&mut self) -> Option<usize> {
        const MORE: u8 = 0x80;
        let mut value = 0;
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            if byte == 0 && shift > 0 {
                return None;
            }
            value |= u32::from(byte & !MORE) << shift;
            if byte & MORE == 0 {
                return u16::try_from(value).ok().map(usize::from);
            }
        }
        None
    }

    /// Bytes, after their number.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Items, after their number. Memory is taken as they are read, not as many as are said to come.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.length()?;
        std::iter::repeat_with(|| item(self)).take(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_form() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x7f], 0x7f),
            (&[0x80, 0x01], 0x80),
            (&[0xff, 0x7f], 0x3fff),
            (&[0x80, 0x80, 0x01], 0x4000),
            (&[0xff, 0xff, 0x03], 0xffff),
        ] {
            let mut reader = Reader(bytes);
            assert_eq!((reader.length(), reader.0), (Some(value), &[][..]), "{bytes:?}");
        }
        for wrong in
            [&[][..], &[0x80], &[0x80, 0x00], &[0x80, 0x80, 0x00], &[0xff, 0xff, 0x04], &[0x80, 0x80, 0x80, 0x01]]
        {
            assert_eq!(Reader(wrong).length(), None, "{wrong:?}");
        }
    }
}
