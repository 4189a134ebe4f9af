//! The scheme `exact` on Solana: does this transaction pay what was asked?

use super::key::{COMPUTE_BUDGET, LIGHTHOUSE, MEMO};
use super::message::Instruction;
use super::{MessageHash, Pubkey, TokenProgram, Transaction, associated_token_account, reason, verify_message};

/// Millionths of a lamport for a compute unit beyond which the official facilitator pays no fee ("Compute budget
/// validity").
const MAX_COMPUTE_UNIT_PRICE: u64 = 5_000_000;

/// Wallets add up to this many instructions to the three that make a payment: the client's memo and their own
/// assertions. The specification says three; the official verifier takes four.
const MAX_OPTIONAL_INSTRUCTIONS: usize = 4;

/// First bytes of instructions' data.
const SET_COMPUTE_UNIT_LIMIT: u8 = 2;
const SET_COMPUTE_UNIT_PRICE: u8 = 3;
const TRANSFER_CHECKED: u8 = 12;

/// The terms that a payment has to meet: an entry of the 402, as far as Solana is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The token: `asset` of the entry.
    ///
    /// Token-2022 knows mints that keep a fee of each transfer; the recipient gets that much less than `amount`.
    pub mint: Pubkey,
    /// The token's decimals, which the chain compares.
    pub decimals: u8,
    /// The program that keeps the token, where it is known; the chain would refuse another.
    pub token_program: Option<TokenProgram>,
    /// The recipient: `payTo`. The money goes to its associated token account.
    pub pay_to: Pubkey,
    /// Atomic units of the token, to be paid exactly.
    pub amount: u64,
    /// The facilitator's account, which pays the chain's fee: `extra.feePayer`.
    pub fee_payer: Pubkey,
    /// The memo that has to stand in the transaction, if any: `extra.memo`. Without one the client chooses its own, or
    /// none.
    pub memo: Option<Memo>,
}

/// A text that payments have to carry: `extra.memo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Memo(String);

/// The reason why a text is not a [`Memo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoError {
    /// Empty, which means none.
    #[error("is empty")]
    Empty,
    /// Longer than official clients take.
    #[error("is longer than {} bytes", Memo::MAX_LENGTH)]
    TooLong,
    /// Begins with a byte order mark. The official verifier leaves it out of what it compares, so nothing would match.
    #[error("begins with a byte order mark")]
    ByteOrderMark,
}

impl Memo {
    /// Bytes of the longest memo.
    pub const MAX_LENGTH: usize = 256;

    /// The memo of a text.
    ///
    /// # Errors
    /// [`MemoError`]: what no payment could meet.
    pub fn new(text: &str) -> Result<Self, MemoError> {
        match text {
            "" => Err(MemoError::Empty),
            _ if text.len() > Self::MAX_LENGTH => Err(MemoError::TooLong),
            _ if text.starts_with('\u{feff}') => Err(MemoError::ByteOrderMark),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The facts about a payment that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Whose tokens move, or who may move them: the transfer's authority. The official facilitator's `payer`.
    pub payer: Pubkey,
    /// The digest by which the ledger knows the payment.
    pub message_hash: MessageHash,
    /// True if something is left that only the chain knows beyond balances: accounts in lookup tables, or the members of
    /// a multisig account that pays. Then nothing speaks against the payment, and nothing but the facilitator's word for
    /// it.
    pub facilitator_decides: bool,
}

/// The reason why a payment does not meet its terms; said in the official package's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a transaction, or not one that the chain would take up at all.
    #[error("{}", reason::UNDECODABLE)]
    Undecodable,
    /// The fee is not the facilitator's to pay.
    #[error("{}", reason::FEE_PAYER_MISMATCH)]
    FeePayerMismatch,
    /// Too few instructions for a payment, or too many.
    #[error("{}", reason::INSTRUCTION_COUNT)]
    InstructionCount,
    /// The first instruction does not limit the compute units.
    #[error("{}", reason::COMPUTE_LIMIT)]
    ComputeLimit,
    /// The second instruction does not set the compute units' price.
    #[error("{}", reason::COMPUTE_PRICE)]
    ComputePrice,
    /// It sets a price that the facilitator would not pay.
    #[error("{}", reason::COMPUTE_PRICE_TOO_HIGH)]
    ComputePriceTooHigh,
    /// The third instruction is not a transfer of tokens that names its mint (*TransferChecked*).
    #[error("{}", reason::NO_TRANSFER)]
    NoTransfer,
    /// The facilitator's own tokens would move.
    #[error("{}", reason::FEE_PAYER_TRANSFERS)]
    FeePayerTransfers,
    /// An instruction has the facilitator's account to work with.
    #[error("{}", reason::FEE_PAYER_TOUCHED)]
    FeePayerTouched,
    /// Another token.
    #[error("{}", reason::MINT_MISMATCH)]
    Mint,
    /// The money would go to somebody else.
    #[error("{}", reason::RECIPIENT_MISMATCH)]
    Recipient,
    /// Not exactly the amount that was asked.
    #[error("{}", reason::AMOUNT_MISMATCH)]
    Amount,
    /// The fourth instruction is neither a memo nor a wallet's assertion (Lighthouse).
    #[error("{}", reason::UNKNOWN_FOURTH)]
    UnknownFourth,
    /// The fifth is neither.
    #[error("{}", reason::UNKNOWN_FIFTH)]
    UnknownFifth,
    /// The sixth is neither.
    #[error("{}", reason::UNKNOWN_SIXTH)]
    UnknownSixth,
    /// The seventh is neither.
    #[error("{}", reason::UNKNOWN_SEVENTH)]
    UnknownSeventh,
    /// A memo was asked for, and there is not exactly one.
    #[error("{}", reason::MEMO_COUNT)]
    MemoCount,
    /// Another memo than was asked for.
    #[error("{}", reason::MEMO_MISMATCH)]
    MemoMismatch,
    /// The chain would take the transaction and fail it, for a reason that stands in it: other decimals than the token
    /// has, the other token program, accounts that must not change but would have to, a payer or a memo's witness who
    /// does not sign.
    #[error("{}", reason::SIMULATION_FAILED)]
    WouldFail,
    /// A signature is missing or wrong.
    #[error("{}", reason::SIGNATURE)]
    Signature,
}

impl Refusal {
    /// Returns whether a facilitator that knows smart wallets (`extra.features.smartWalletSupported` of its `/supported`) may
    /// still accept the payment: the official one then executes the transaction to see what it transfers.
    pub const fn may_be_smart_wallet(self) -> bool {
        matches!(
            self,
            Self::InstructionCount
                | Self::ComputeLimit
                | Self::ComputePrice
                | Self::NoTransfer
                | Self::UnknownFourth
                | Self::UnknownFifth
                | Self::UnknownSixth
        )
    }
}

/// Checks a payment, the `transaction` of its payload in base64, against the terms that it is to meet.
///
/// Source: "Facilitator Verification Rules (MUST)" of the specification, and `ExactSvmScheme.verify` of `@x402/svm`.
/// The cheap checks come first, the signatures last.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn check(transaction: &str, terms: &Terms) -> Result<Checked, Refusal> {
    Transaction::decode(transaction)?.check(terms)
}

impl Transaction {
    /// Checks a payment that was decoded before; see [`check`].
    ///
    /// # Errors
    /// The first [`Refusal`] that applies, never [`Refusal::Undecodable`].
    pub fn check(&self, terms: &Terms) -> Result<Checked, Refusal> {
        if self.accounts.first() != Some(&terms.fee_payer) {
            return Err(Refusal::FeePayerMismatch);
        }
        let [limit, price, transfer, optional @ ..] = self.instructions.as_slice() else {
            return Err(Refusal::InstructionCount);
        };
        if optional.len() > MAX_OPTIONAL_INSTRUCTIONS {
            return Err(Refusal::InstructionCount);
        }
        check_compute_limit(limit)?;
        check_compute_price(price)?;
        let transfer = Transfer::read(self, transfer)?;
        transfer.check(terms)?;
        check_optional(optional)?;
        if let Some(memo) = &terms.memo {
            check_memo(optional, memo)?;
        }
        if self.instructions.iter().any(|instruction| instruction.accounts.contains(&FEE_PAYER)) {
            return Err(Refusal::FeePayerTouched);
        }
        let is_paid_by_many = self.check_roles(&transfer)?;
        transfer.check_token(terms)?;
        self.check_memos_execute(optional)?;
        self.check_signatures()?;
        Ok(Checked {
            payer: transfer.authority,
            message_hash: self.message_hash(),
            facilitator_decides: is_paid_by_many || self.looked_up > 0,
        })
    }

    /// Returns whether the accounts of the transfer may do what they have to: the payer sign, the two others change. `true` if
    /// the payer is not a key but an account for which others sign (a multisig of the token program).
    fn check_roles(&self, transfer: &Transfer) -> Result<bool, Refusal> {
        let may_change = |place: usize| place >= self.accounts.len() || self.is_writable(place);
        if !may_change(transfer.source_place) || !may_change(transfer.destination_place) {
            return Err(Refusal::WouldFail);
        }
        if self.is_signer(transfer.authority_place) {
            return Ok(false);
        }
        if transfer.further_places.iter().any(|place| self.is_signer(*place)) {
            return Ok(true);
        }
        Err(Refusal::WouldFail)
    }

    /// Checks what the memo program asks: text, and that the accounts named with it sign.
    fn check_memos_execute(&self, instructions: &[Instruction]) -> Result<(), Refusal> {
        let mut memos = instructions.iter().filter(|instruction| instruction.program == MEMO);
        let executes = |memo: &Instruction| {
            std::str::from_utf8(&memo.data).is_ok() && memo.accounts.iter().all(|place| self.is_signer(*place))
        };
        if memos.all(executes) { Ok(()) } else { Err(Refusal::WouldFail) }
    }

    /// Every signature but the fee payer's, which the facilitator has yet to give. What a client puts there is of no
    /// account.
    fn check_signatures(&self) -> Result<(), Refusal> {
        let mut signed = self.accounts.iter().zip(&self.signatures).skip(1);
        if signed.all(|(signer, signature)| verify_message(signer, &self.message, signature)) {
            Ok(())
        } else {
            Err(Refusal::Signature)
        }
    }
}

/// The fee payer's place among the accounts.
const FEE_PAYER: usize = 0;

fn check_compute_limit(instruction: &Instruction) -> Result<(), Refusal> {
    match instruction.data.split_first_chunk() {
        Some(([SET_COMPUTE_UNIT_LIMIT, _, _, _, _], _)) if instruction.program == COMPUTE_BUDGET => Ok(()),
        _ => Err(Refusal::ComputeLimit),
    }
}

fn check_compute_price(instruction: &Instruction) -> Result<(), Refusal> {
    match instruction.data.split_first() {
        Some((&SET_COMPUTE_UNIT_PRICE, price)) if instruction.program == COMPUTE_BUDGET => {
            let (price, _) = price.split_first_chunk().ok_or(Refusal::ComputePrice)?;
            if u64::from_le_bytes(*price) > MAX_COMPUTE_UNIT_PRICE {
                return Err(Refusal::ComputePriceTooHigh);
            }
            Ok(())
        }
        _ => Err(Refusal::ComputePrice),
    }
}

/// The instruction that moves the money. What stands in lookup tables is `None`.
struct Transfer<'a> {
    program: TokenProgram,
    source_place: usize,
    mint: Option<Pubkey>,
    destination: Option<Pubkey>,
    destination_place: usize,
    authority: Pubkey,
    authority_place: usize,
    /// Members of a multisig who sign, or what a token's own rules need.
    further_places: &'a [usize],
    amount: u64,
    decimals: u8,
}

impl<'a> Transfer<'a> {
    fn read(transaction: &Transaction, instruction: &'a Instruction) -> Result<Self, Refusal> {
        let program = TokenProgram::from_address(&instruction.program).ok_or(Refusal::NoTransfer)?;
        // The token programs read no further than the decimals, nor does the official verifier.
        let Some((&[TRANSFER_CHECKED, ref arguments @ ..], _)) = instruction.data.split_first_chunk::<10>() else {
            return Err(Refusal::NoTransfer);
        };
        let Some((amount, &[decimals])) = arguments.split_first_chunk() else {
            return Err(Refusal::NoTransfer);
        };
        let [source_place, mint_place, destination_place, authority_place, further_places @ ..] =
            instruction.accounts.as_slice()
        else {
            return Err(Refusal::NoTransfer);
        };
        let account = |place: &usize| transaction.accounts.get(*place).copied();
        Ok(Self {
            program,
            source_place: *source_place,
            mint: account(mint_place),
            destination: account(destination_place),
            destination_place: *destination_place,
            authority: account(authority_place).ok_or(Refusal::NoTransfer)?,
            authority_place: *authority_place,
            further_places,
            amount: u64::from_le_bytes(*amount),
            decimals,
        })
    }

    /// Whose money, which token, to whom and how much.
    fn check(&self, terms: &Terms) -> Result<(), Refusal> {
        if self.authority == terms.fee_payer {
            return Err(Refusal::FeePayerTransfers);
        }
        if self.mint.is_some_and(|mint| mint != terms.mint) {
            return Err(Refusal::Mint);
        }
        let account = associated_token_account(&terms.pay_to, &terms.mint, self.program);
        if self.destination.is_some_and(|destination| account != Some(destination)) {
            return Err(Refusal::Recipient);
        }
        if self.amount != terms.amount {
            return Err(Refusal::Amount);
        }
        Ok(())
    }

    /// The decimals that the chain compares with the mint's.
    fn check_token(&self, terms: &Terms) -> Result<(), Refusal> {
        let is_other_program = terms.token_program.is_some_and(|program| program != self.program);
        if is_other_program || self.decimals != terms.decimals { Err(Refusal::WouldFail) } else { Ok(()) }
    }
}

/// After the transfer only memos, and assertions of wallets, which can make the transaction fail but do nothing.
fn check_optional(instructions: &[Instruction]) -> Result<(), Refusal> {
    let refusals = [Refusal::UnknownFourth, Refusal::UnknownFifth, Refusal::UnknownSixth, Refusal::UnknownSeventh];
    let unknown =
        instructions.iter().zip(refusals).find(|(instruction, _)| ![LIGHTHOUSE, MEMO].contains(&instruction.program));
    unknown.map_or(Ok(()), |(_, refusal)| Err(refusal))
}

fn check_memo(instructions: &[Instruction], expected: &Memo) -> Result<(), Refusal> {
    let mut memos = instructions.iter().filter(|instruction| instruction.program == MEMO);
    match (memos.next(), memos.next()) {
        (Some(memo), None) if memo.data == expected.as_str().as_bytes() => Ok(()),
        (Some(_), None) => Err(Refusal::MemoMismatch),
        _ => Err(Refusal::MemoCount),
    }
}
