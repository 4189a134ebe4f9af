//! The chain's own word on a transfer: JSON-RPC questions, and what a node's answers mean.
//!
//! The token remembers every nonce that was used (EIP-3009, `authorizationState`), and its logs tell for what. So the
//! chain can say of a payment that it settled, that it may still settle, or that it never will; and each of the three is
//! said only where the answers prove it.

pub mod channels;
pub mod search;

use ruint::aliases::U256;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::Rpc;
use crate::evm::eip3009::Timestamp;
use crate::evm::permit2::PERMIT2;
use crate::evm::{Address, Nonce, TransactionHash, keccak256};
use crate::facilitator::CalloutAnswer;
use crate::money::Amount;
use crate::time::UnixTime;
use crate::x402::reason;
use crate::x402::requirement::TransferMethod;
use search::{Moment, Sight, Window};

/// Bytes of a node's answer beyond which it is not read. A block lists its transactions, and some hold thousands.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The transfer that a payment authorizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// The contract that moves the money.
    pub method: TransferMethod,
    /// The token's contract.
    pub asset: Address,
    /// The payer.
    pub from: Address,
    /// The recipient.
    pub to: Address,
    /// Atomic units.
    pub value: Amount,
    /// True if less may be moved, but not nothing (scheme `upto`).
    pub is_at_most: bool,
    /// The authorization's.
    pub nonce: Nonce,
    /// From this time on the token refuses the transfer.
    pub valid_before: Timestamp,
    /// The time at which the payment was first seen. A transfer in an older block was not made for it.
    pub since: UnixTime,
    /// The first block that is yet to be searched for the use of the nonce, where a search came so far.
    pub searched_to: Option<u64>,
}

/// The chain's word on a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It happened, in this transaction, and enough blocks confirm it.
    Settled(TransactionHash),
    /// It happened, in this transaction, and too few blocks confirm it yet.
    Unconfirmed(TransactionHash),
    /// It has not happened, and still may.
    Open,
    /// It never will, for good.
    Void(Void),
    /// The answers prove nothing.
    Unclear(Unclear),
}

/// The reason why a transfer will never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Void {
    /// The chain's clock has passed the end of its validity.
    #[error("the authorization expired before it was settled")]
    Expired,
    /// The payer took it back.
    #[error("the authorization was cancelled")]
    Cancelled,
    /// It happened before the payment was first seen here: it has been spent elsewhere, or in an earlier life of the proxy.
    #[error("{}", reason::NONCE_USED)]
    SettledEarlier,
    /// Its nonce was used for another transfer.
    #[error("the authorization's nonce was used for another transfer")]
    UsedOtherwise,
}

/// The reason why a node's answers prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unclear {
    /// No answer, or one that is none.
    #[error("the chain could not be asked")]
    NoAnswer,
    /// The node answered a question with an error, or left it out.
    #[error("the chain's node refused a question")]
    Refused,
    /// The node is of another chain than the configuration says.
    #[error("the node is of another chain than its network (eth_chainId)")]
    OtherChain,
    /// The answer is not of the form that Ethereum's JSON-RPC has.
    #[error("the chain's answer is not understood")]
    Unreadable,
    /// The nonce is used, and the blocks that were searched do not show for what.
    #[error("the nonce was used, and the blocks that were searched do not show for what (log_range)")]
    OutOfRange {
        /// [`Transfer::searched_to`] for the next inquiry.
        searched_to: Option<u64>,
    },
    /// The nonce is used, and Permit2 logs no use of one: only the transaction's name would tell for what.
    #[error("the nonce was used, and no transaction is named that would show for what")]
    Unnamed,
    /// The nonce is used for something else, in a block that may yet be replaced.
    #[error("the nonce was used for something else, and too few blocks confirm it")]
    NotFinal,
}

/// Questions to a node that one inquiry takes at most.
pub const INQUIRY_QUESTIONS: u64 = 4 + search::QUESTIONS;

/// The progress of an inquiry into a transfer: up to [`INQUIRY_QUESTIONS`], one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inquiry {
    /// Which block is the last? What became of the transaction that the facilitator named?
    Head(Option<TransactionHash>),
    /// Given the last block: is the nonce used, and by which transaction?
    Nonce(u64),
    /// Given the last block: what did this transaction do?
    Receipt(u64, TransactionHash),
    /// Given the last block: in which one was the payment first seen?
    Sight(Sight),
    /// Given blocks from there on: which transaction used the nonce?
    Logs(Window),
    /// Given the block of the transfer, and whether enough others confirm it: when was it made?
    Time(TransactionHash, u64, bool),
}

/// The consequence of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// There is more to ask.
    Ask(Inquiry),
    /// This is what became of the transfer.
    Done(Fate),
}

/// Seconds by which a block may seem older than it is, for its maker's clock is not this one's.
const CLOCK_SLACK_SECONDS: u64 = 15;

const HEAD_ID: &str = "1";
const RECEIPT_ID: &str = "2";
const STATE_ID: &str = "3";
const LOGS_ID: &str = "4";
const BLOCK_ID: &str = "5";
const LAST_ID: &str = "6";
const CHAIN_ID: &str = "7";

const USED: &str = "AuthorizationUsed(address,bytes32)";
const CANCELED: &str = "AuthorizationCanceled(address,bytes32)";
const TRANSFER: &str = "Transfer(address,address,uint256)";
const BITMAP: &str = "nonceBitmap(address,uint256)";
const STATE: &str = "authorizationState(address,bytes32)";

impl Inquiry {
    /// The body of the question: a JSON-RPC batch.
    ///
    /// The nonce is looked up in the newest block that counts as confirmed, by its number, so that a node that lags
    /// behind answers with an error and not with the past.
    pub fn question(self, transfer: &Transfer, rpc: &Rpc, now: UnixTime) -> String {
        let calls: Vec<String> = match self {
            Self::Head(named) => {
                let receipt = named.map(receipt_call);
                [Some(call(HEAD_ID, "eth_blockNumber", "")), receipt].into_iter().flatten().collect()
            }
            Self::Receipt(_, hash) => vec![receipt_call(hash)],
            Self::Time(_, block, _) => match transfer.method {
                TransferMethod::Eip3009 => vec![block_call(BLOCK_ID, block)],
                TransferMethod::Permit2 => vec![block_call(BLOCK_ID, block), state_call(block, transfer)],
            },
            Self::Nonce(head) => nonce_calls(head, transfer, rpc, now),
            Self::Sight(sight) => sight.calls(transfer),
            Self::Logs(window) => window.calls(transfer, rpc),
        };
        batch(calls)
    }

    /// Reads the answer to the question. `now` is when the question was put together, or later.
    pub fn step(self, transfer: &Transfer, rpc: &Rpc, answer: &CalloutAnswer) -> Progress {
        let progress = Replies::of_chain(rpc.chain_id, answer).and_then(|replies| match self {
            Self::Head(named) => {
                let head = quantity(replies.text(HEAD_ID)?)?;
                let found = match named {
                    Some(hash) => look_into(&replies, hash, transfer, rpc, head)?,
                    None => Found::Nothing,
                };
                Ok(Progress::Ask(found.when(named).unwrap_or(Self::Nonce(head))))
            }
            Self::Nonce(head) => read_nonce(&replies, head, transfer, rpc),
            Self::Sight(sight) => sight.step(&replies, transfer, rpc),
            Self::Logs(window) => window.step(&replies, transfer, rpc),
            Self::Receipt(head, hash) => {
                let found = look_into(&replies, hash, transfer, rpc, head)?;
                Ok(match (found.when(Some(hash)), found) {
                    (Some(inquiry), _) => Progress::Ask(inquiry),
                    (None, Found::Other { is_confirmed: true }) => Progress::Done(Fate::Void(Void::UsedOtherwise)),
                    (None, _) => Progress::Done(Fate::Unclear(Unclear::NotFinal)),
                })
            }
            Self::Time(hash, block, is_confirmed) => {
                let Moment { time, .. } = Moment::read(&replies, BLOCK_ID, block)?;
                // Permit2 logs no nonces: that this payment's own is used by then tells that the transfer may be its.
                if transfer.method == TransferMethod::Permit2 && !is_used(replies.text(STATE_ID)?, transfer)? {
                    return Err(Unclear::Unnamed);
                }
                Ok(Progress::Done(match (time < transfer.earliest(), is_confirmed) {
                    (true, true) => Fate::Void(Void::SettledEarlier),
                    (true, false) => Fate::Unclear(Unclear::NotFinal),
                    (false, true) => Fate::Settled(hash),
                    (false, false) => Fate::Unconfirmed(hash),
                }))
            }
        });
        progress.unwrap_or_else(|unclear| Progress::Done(Fate::Unclear(unclear)))
    }
}

/// Puts calls together. Each batch asks which chain the node is of: a balancer may have put another one behind the same name.
fn batch(mut calls: Vec<String>) -> String {
    calls.push(chain_id_call());
    format!("[{}]", calls.join(","))
}

fn chain_id_call() -> String {
    call(CHAIN_ID, "eth_chainId", "")
}

/// The body of the question which chain a node is of.
pub fn chain_id_question() -> String {
    batch(Vec::new())
}

/// Reads the answer to that question.
///
/// # Errors
/// [`Unclear`], where the node does not say.
pub fn read_chain_id(answer: &CalloutAnswer) -> Result<u64, Unclear> {
    quantity(Replies::read(answer)?.text(CHAIN_ID)?)
}

fn call(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[{params}]}}"#)
}

fn receipt_call(hash: TransactionHash) -> String {
    call(RECEIPT_ID, "eth_getTransactionReceipt", &format!(r#""{hash}""#))
}

fn block_call(id: &str, block: u64) -> String {
    call(id, "eth_getBlockByNumber", &format!(r#""{block:#x}",false"#))
}

/// Asks whether the nonce is used, as of a block.
fn state_call(block: u64, transfer: &Transfer) -> String {
    let Transfer { asset, from, nonce, .. } = transfer;
    let (contract, function, argument) = match transfer.method {
        TransferMethod::Eip3009 => (*asset, STATE, *nonce.as_bytes()),
        TransferMethod::Permit2 => (PERMIT2, BITMAP, bitmap_word(nonce)),
    };
    let [a, b, c, d, ..] = keccak256(function.as_bytes());
    let data = hex::encode([&[a, b, c, d], &from.to_word()[..], &argument].concat());
    call(STATE_ID, "eth_call", &format!(r#"{{"to":"{contract}","data":"0x{data}"}},"{block:#x}""#))
}

/// Asks for what the token logged of the nonce, in these blocks.
fn logs_call(first: u64, last: u64, transfer: &Transfer) -> String {
    let Transfer { asset, from, nonce, .. } = transfer;
    let (used, canceled, from) = (topic(USED), topic(CANCELED), word(&from.to_word()));
    let filter = format!(
        r#"{{"address":"{asset}","topics":[["{used}","{canceled}"],"{from}","{nonce}"],"fromBlock":"{first:#x}","toBlock":"{last:#x}"}}"#
    );
    call(LOGS_ID, "eth_getLogs", &filter)
}

fn nonce_calls(head: u64, transfer: &Transfer, rpc: &Rpc, now: UnixTime) -> Vec<String> {
    let confirmed = rpc.newest_confirmed(head);
    let mut calls = vec![state_call(confirmed, transfer)];
    if transfer.method == TransferMethod::Eip3009 {
        calls.push(logs_call(rpc.first_searched(head), head, transfer));
    }
    // A block is a long answer, and only one that may be late is worth it.
    if Timestamp::from(now) >= transfer.valid_before {
        calls.push(block_call(BLOCK_ID, confirmed));
    }
    calls
}

fn read_nonce(replies: &Replies<'_>, head: u64, transfer: &Transfer, rpc: &Rpc) -> Result<Progress, Unclear> {
    let is_used = is_used(replies.text(STATE_ID)?, transfer)?;
    match transfer.method {
        TransferMethod::Eip3009 => match read_logs(replies, head, transfer, rpc)? {
            Some(progress) => return Ok(progress),
            None if is_used => return Ok(search::begin(head, transfer, rpc)),
            None => {}
        },
        // Permit2 logs no nonces, and what the token logs of the same number is another payment's.
        TransferMethod::Permit2 if is_used => return Err(Unclear::Unnamed),
        TransferMethod::Permit2 => {}
    }
    let is_late = match replies.has(BLOCK_ID) {
        true => transfer.is_too_late_at(Moment::read(replies, BLOCK_ID, rpc.newest_confirmed(head))?.time),
        false => false,
    };
    Ok(Progress::Done(if is_late { Fate::Void(Void::Expired) } else { Fate::Open }))
}

/// Returns what follows from the token's logs of the nonce; `None` where they do not tell of it.
fn read_logs(replies: &Replies<'_>, head: u64, transfer: &Transfer, rpc: &Rpc) -> Result<Option<Progress>, Unclear> {
    let logs: Vec<Log<'_>> = replies.parse(LOGS_ID)?.ok_or(Unclear::Unreadable)?;
    let Some(log) = logs.iter().find(|log| !log.removed && log.is_from(transfer.asset)) else { return Ok(None) };
    let indexed = [transfer.from.to_word(), *transfer.nonce.as_bytes()];
    if log.is(USED, &indexed) {
        let hash = log.transaction_hash.ok_or(Unclear::Unreadable)?.0;
        return Ok(Some(Progress::Ask(Inquiry::Receipt(head, hash))));
    }
    let is_confirmed = quantity(log.block_number.ok_or(Unclear::Unreadable)?)? <= rpc.newest_confirmed(head);
    Ok(Some(Progress::Done(match (log.is(CANCELED, &indexed), is_confirmed) {
        (true, true) => Fate::Void(Void::Cancelled),
        (true, false) => Fate::Unclear(Unclear::NotFinal),
        (false, _) => Fate::Unclear(Unclear::Unreadable),
    })))
}

/// The part of a transaction in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is in no block, or it failed, or has nothing to do with the transfer.
    Nothing,
    /// It moved the money, in this block.
    This { block: u64, is_confirmed: bool },
    /// It used the nonce for something else.
    Other { is_confirmed: bool },
}

impl Found {
    /// The question that is left about the transfer, where it was found.
    fn when(self, hash: Option<TransactionHash>) -> Option<Inquiry> {
        match (self, hash) {
            (Self::This { block, is_confirmed }, Some(hash)) => Some(Inquiry::Time(hash, block, is_confirmed)),
            _ => None,
        }
    }
}

/// Looks for the transfer in the receipt of a transaction.
///
/// The token logs the use of the nonce, and right behind it the transfer that used it. Only that next line of the
/// token's counts: a transaction may carry many transfers, of which another one might have the same amount.
fn look_into(
    replies: &Replies<'_>,
    hash: TransactionHash,
    transfer: &Transfer,
    rpc: &Rpc,
    head: u64,
) -> Result<Found, Unclear> {
    let Some(receipt) = replies.parse::<Receipt<'_>>(RECEIPT_ID)? else { return Ok(Found::Nothing) };
    if receipt.transaction_hash.0 != hash {
        return Err(Unclear::Unreadable);
    }
    if quantity(receipt.status)? != 1 {
        return Ok(Found::Nothing);
    }
    let block = quantity(receipt.block_number)?;
    let is_confirmed = block <= rpc.newest_confirmed(head);
    let Transfer { asset, from, to, nonce, .. } = transfer;
    let mut logs = receipt.logs.iter().filter(|log| log.is_from(*asset));
    let moves = |log: &Log<'_>| log.is(TRANSFER, &[from.to_word(), to.to_word()]) && transfer.is_moved_by(log.data);
    let (is_used, is_this) = match transfer.method {
        TransferMethod::Eip3009 => {
            let is_used = logs.any(|log| log.is(USED, &[from.to_word(), *nonce.as_bytes()]));
            (is_used, is_used && logs.next().is_some_and(moves))
        }
        // Permit2 itself logs nothing.
        TransferMethod::Permit2 => (false, logs.any(moves)),
    };
    Ok(match (is_this, is_used) {
        (true, _) => Found::This { block, is_confirmed },
        (false, true) => Found::Other { is_confirmed },
        (false, false) => Found::Nothing,
    })
}

/// Returns where Permit2 keeps the bit of a nonce: 256 nonces to a word.
fn bitmap_word(nonce: &Nonce) -> [u8; 32] {
    let [first @ .., _] = nonce.as_bytes();
    let mut word = [0; 32];
    for (to, from) in word.iter_mut().skip(1).zip(first) {
        *to = *from;
    }
    word
}

/// Returns whether a nonce is used, by the answer of the contract that remembers it.
fn is_used(answer: &str, transfer: &Transfer) -> Result<bool, Unclear> {
    let word = number(answer).ok_or(Unclear::Unreadable)?;
    match transfer.method {
        TransferMethod::Eip3009 if word <= U256::ONE => Ok(word == U256::ONE),
        TransferMethod::Eip3009 => Err(Unclear::Unreadable),
        TransferMethod::Permit2 => {
            let [.., last] = transfer.nonce.as_bytes();
            Ok(word.bit(usize::from(*last)))
        }
    }
}

impl Transfer {
    /// A block that was made before that time is older than the first sight of the payment, for certain.
    const fn earliest(&self) -> UnixTime {
        UnixTime::from_secs(self.since.as_secs().saturating_sub(CLOCK_SLACK_SECONDS))
    }

    /// Returns whether a block of that time, and any behind it, refuses the transfer: from `validBefore` on (EIP-3009), or beyond
    /// `deadline` (Permit2).
    fn is_too_late_at(&self, time: UnixTime) -> bool {
        match self.method {
            TransferMethod::Eip3009 => Timestamp::from(time) >= self.valid_before,
            TransferMethod::Permit2 => Timestamp::from(time) > self.valid_before,
        }
    }

    /// Returns whether an amount, as a log's data has it, is what was to be moved.
    fn is_moved_by(&self, data: &str) -> bool {
        number(data).map(Amount::from).is_some_and(|moved| match self.is_at_most {
            true => moved > Amount::ZERO && moved <= self.value,
            false => moved == self.value,
        })
    }
}

/// A node's replies to a batch, in any order.
struct Replies<'a>(Vec<Reply<'a>>);

#[derive(Deserialize)]
struct Reply<'a> {
    /// As text: numbers would bring floating point along.
    #[serde(borrow)]
    id: &'a RawValue,
    /// `null`, and so `None`, for what is not there.
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt<'a> {
    transaction_hash: Hash,
    block_number: &'a str,
    status: &'a str,
    #[serde(borrow)]
    logs: Vec<Log<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Log<'a> {
    address: &'a str,
    #[serde(borrow)]
    topics: Vec<&'a str>,
    data: &'a str,
    block_number: Option<&'a str>,
    transaction_hash: Option<Hash>,
    #[serde(default)]
    removed: bool,
}

#[derive(Deserialize)]
struct Block<'a> {
    number: &'a str,
    timestamp: &'a str,
}

#[derive(Clone, Copy)]
struct Hash(TransactionHash);

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'a> Replies<'a> {
    fn read(answer: &'a CalloutAnswer) -> Result<Self, Unclear> {
        match answer {
            CalloutAnswer::Answered { status: 200, body } if body.len() <= MAX_ANSWER_BYTES => {
                serde_json::from_slice(body).map(Self).map_err(|_| Unclear::Unreadable)
            }
            _ => Err(Unclear::NoAnswer),
        }
    }

    /// Reads the replies of a node that has to be one of this chain.
    fn of_chain(chain_id: u64, answer: &'a CalloutAnswer) -> Result<Self, Unclear> {
        let replies = Self::read(answer)?;
        match quantity(replies.text(CHAIN_ID)?)? == chain_id {
            true => Ok(replies),
            false => Err(Unclear::OtherChain),
        }
    }

    fn reply(&self, id: &str) -> Option<&Reply<'a>> {
        self.0.iter().find(|reply| reply.id.get() == id)
    }

    fn has(&self, id: &str) -> bool {
        self.reply(id).is_some()
    }

    /// The result of a call; `None` where it is `null`.
    fn result(&self, id: &str) -> Result<Option<&'a str>, Unclear> {
        match self.reply(id) {
            Some(Reply { error: None, result, .. }) => Ok(result.map(RawValue::get)),
            _ => Err(Unclear::Refused),
        }
    }

    fn parse<T: Deserialize<'a>>(&self, id: &str) -> Result<Option<T>, Unclear> {
        self.result(id)?
            .map(|text| serde_json::from_slice(text.as_bytes()))
            .transpose()
            .map_err(|_| Unclear::Unreadable)
    }

    fn text(&self, id: &str) -> Result<&'a str, Unclear> {
        self.parse(id)?.ok_or(Unclear::Unreadable)
    }
}

impl Log<'_> {
    fn is_from(&self, asset: Address) -> bool {
        asset.is_written(self.address)
    }

    fn is(&self, event: &str, indexed: &[[u8; 32]]) -> bool {
        let expected = std::iter::once(topic(event)).chain(indexed.iter().map(word));
        self.topics.len() == indexed.len().saturating_add(1)
            && self.topics.iter().zip(expected).all(|(topic, expected)| topic.eq_ignore_ascii_case(&expected))
    }
}

fn topic(event: &str) -> String {
    word(&keccak256(event.as_bytes()))
}

/// A number of 32 bytes: `0x` and 64 digits.
fn number(text: &str) -> Option<U256> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.strip_prefix("0x")?, &mut bytes).ok()?;
    Some(U256::from_be_bytes(bytes))
}

fn word(bytes: &[u8; 32]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A number as JSON-RPC writes it: `0x` and hexadecimal digits.
fn quantity(text: &str) -> Result<u64, Unclear> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(Unclear::Unreadable)
}
