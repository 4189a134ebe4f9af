//! The chain's own word on a transfer: JSON-RPC questions, and what a node's answers mean.
//!
//! The token remembers every nonce that was used (EIP-3009, `authorizationState`), and its logs tell for what. So the
//! chain can say of a payment that it settled, that it may still settle, or that it never will; and each of the three is
//! said only where the answers prove it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::Rpc;
use crate::evm::eip3009::Timestamp;
use crate::evm::{Address, Nonce, TransactionHash, keccak256};
use crate::facilitator::CalloutAnswer;
use crate::money::Amount;
use crate::time::UnixTime;

/// Bytes of a node's answer beyond which it is not read. A block lists its transactions, and some hold thousands.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The transfer that a payment authorizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// The token's contract.
    pub asset: Address,
    /// The payer.
    pub from: Address,
    /// The recipient.
    pub to: Address,
    /// Atomic units.
    pub value: Amount,
    /// The authorization's.
    pub nonce: Nonce,
    /// From this time on the token refuses the transfer.
    pub valid_before: Timestamp,
}

/// What the chain says about a transfer.
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

/// Why a transfer will never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Void {
    /// The chain's clock has passed the end of its validity.
    #[error("the authorization expired before it was settled")]
    Expired,
    /// The payer took it back.
    #[error("the authorization was cancelled")]
    Cancelled,
    /// Its nonce was used for another transfer.
    #[error("the authorization's nonce was used for another transfer")]
    UsedOtherwise,
}

/// Why a node's answers prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unclear {
    /// No answer, or one that is none.
    #[error("the chain could not be asked")]
    NoAnswer,
    /// The node answered a question with an error, or left it out.
    #[error("the chain's node refused a question")]
    Refused,
    /// The answer is not of the form that Ethereum's JSON-RPC has.
    #[error("the chain's answer is not understood")]
    Unreadable,
    /// The nonce is used, and the blocks that were searched do not show for what.
    #[error("the nonce was used in a block before those that were searched (log_range)")]
    OutOfRange,
    /// The nonce is used for something else, in a block that may yet be replaced.
    #[error("the nonce was used for something else, and too few blocks confirm it")]
    NotFinal,
}

/// How far an inquiry into a transfer has come: up to three questions, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inquiry {
    /// Which block is the last? What became of the transaction that the facilitator named?
    Head(Option<TransactionHash>),
    /// Given the last block: is the nonce used, and by which transaction?
    Nonce(u64),
    /// Given the last block: what did this transaction do?
    Receipt(u64, TransactionHash),
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// There is more to ask.
    Ask(Inquiry),
    /// This is what became of the transfer.
    Done(Fate),
}

const HEAD_ID: &str = "1";
const RECEIPT_ID: &str = "2";
const STATE_ID: &str = "3";
const LOGS_ID: &str = "4";
const BLOCK_ID: &str = "5";

const USED: &str = "AuthorizationUsed(address,bytes32)";
const CANCELED: &str = "AuthorizationCanceled(address,bytes32)";
const TRANSFER: &str = "Transfer(address,address,uint256)";
const STATE: &str = "authorizationState(address,bytes32)";

impl Inquiry {
    /// The body of the question: a JSON-RPC batch.
    ///
    /// The nonce is looked up in the newest block that counts as confirmed, by its number, so that a node that lags
    /// behind answers with an error and not with the past.
    pub fn question(self, transfer: &Transfer, rpc: &Rpc, now: UnixTime) -> String {
        let calls = match self {
            Self::Head(named) => {
                let receipt = named.map(receipt_call);
                [Some(call(HEAD_ID, "eth_blockNumber", "")), receipt].into_iter().flatten().collect()
            }
            Self::Receipt(_, hash) => vec![receipt_call(hash)],
            Self::Nonce(head) => nonce_calls(head, transfer, rpc, now),
        };
        format!("[{}]", calls.join(","))
    }

    /// Reads the answer to the question. `now` is when the question was put together, or later.
    pub fn step(self, transfer: &Transfer, rpc: &Rpc, answer: &CalloutAnswer) -> Progress {
        let progress = Replies::read(answer).and_then(|replies| match self {
            Self::Head(named) => {
                let head = quantity(replies.text(HEAD_ID)?)?;
                let found = match named {
                    Some(hash) => look_into(&replies, hash, transfer, rpc, head)?,
                    None => Found::Nothing,
                };
                Ok(match found.fate_of_this(named) {
                    Some(fate) => Progress::Done(fate),
                    None => Progress::Ask(Self::Nonce(head)),
                })
            }
            Self::Nonce(head) => read_nonce(&replies, head, transfer, rpc),
            Self::Receipt(head, hash) => {
                let found = look_into(&replies, hash, transfer, rpc, head)?;
                Ok(Progress::Done(match (found.fate_of_this(Some(hash)), found) {
                    (Some(fate), _) => fate,
                    (None, Found::Other { is_confirmed: true }) => Fate::Void(Void::UsedOtherwise),
                    (None, _) => Fate::Unclear(Unclear::NotFinal),
                }))
            }
        });
        progress.unwrap_or_else(|unclear| Progress::Done(Fate::Unclear(unclear)))
    }
}

fn call(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[{params}]}}"#)
}

fn receipt_call(hash: TransactionHash) -> String {
    call(RECEIPT_ID, "eth_getTransactionReceipt", &format!(r#""{hash}""#))
}

fn nonce_calls(head: u64, transfer: &Transfer, rpc: &Rpc, now: UnixTime) -> Vec<String> {
    let Transfer { asset, from, nonce, valid_before, .. } = transfer;
    let confirmed = rpc.newest_confirmed(head);
    let [a, b, c, d, ..] = keccak256(STATE.as_bytes());
    let data = [&[a, b, c, d], &from.to_word()[..], nonce.as_bytes()].concat();
    let data = hex::encode(data);
    let (used, canceled) = (topic(USED), topic(CANCELED));
    let (from, first) = (word(&from.to_word()), head.saturating_sub(rpc.log_range));
    let mut calls = vec![
        call(STATE_ID, "eth_call", &format!(r#"{{"to":"{asset}","data":"0x{data}"}},"{confirmed:#x}""#)),
        call(
            LOGS_ID,
            "eth_getLogs",
            &format!(
                r#"{{"address":"{asset}","topics":[["{used}","{canceled}"],"{from}","{nonce}"],"fromBlock":"{first:#x}","toBlock":"{head:#x}"}}"#
            ),
        ),
    ];
    // A block is a long answer, and only one that may be late is worth it.
    if Timestamp::from(now) >= *valid_before {
        calls.push(call(BLOCK_ID, "eth_getBlockByNumber", &format!(r#""{confirmed:#x}",false"#)));
    }
    calls
}

fn read_nonce(replies: &Replies<'_>, head: u64, transfer: &Transfer, rpc: &Rpc) -> Result<Progress, Unclear> {
    let is_used = match replies.text(STATE_ID)?.strip_prefix("0x").map(|word| word.trim_start_matches('0')) {
        Some("") => false,
        Some("1") => true,
        _ => return Err(Unclear::Unreadable),
    };
    let logs: Vec<Log<'_>> = replies.parse(LOGS_ID)?.ok_or(Unclear::Unreadable)?;
    let mut of_nonce = logs.iter().filter(|log| !log.removed && log.is_from(transfer.asset));
    if let Some(log) = of_nonce.next() {
        if log.is(USED, &[transfer.from.to_word(), *transfer.nonce.as_bytes()]) {
            return Ok(Progress::Ask(Inquiry::Receipt(head, log.transaction_hash.ok_or(Unclear::Unreadable)?.0)));
        }
        let is_confirmed = quantity(log.block_number.ok_or(Unclear::Unreadable)?)? <= rpc.newest_confirmed(head);
        let is_cancel = log.is(CANCELED, &[transfer.from.to_word(), *transfer.nonce.as_bytes()]);
        return Ok(Progress::Done(match (is_cancel, is_confirmed) {
            (true, true) => Fate::Void(Void::Cancelled),
            (true, false) => Fate::Unclear(Unclear::NotFinal),
            (false, _) => Fate::Unclear(Unclear::Unreadable),
        }));
    }
    if is_used {
        return Err(Unclear::OutOfRange);
    }
    let block: Option<Block<'_>> = if replies.has(BLOCK_ID) { replies.parse(BLOCK_ID)? } else { None };
    let is_late = match block {
        Some(block) => {
            Timestamp::from(UnixTime::from_secs(quantity(block.timestamp)?)) >= transfer.valid_before
                && quantity(block.number)? == rpc.newest_confirmed(head)
        }
        None => false,
    };
    Ok(Progress::Done(if is_late { Fate::Void(Void::Expired) } else { Fate::Open }))
}

/// What a transaction did about a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is in no block, or it failed.
    Nothing,
    /// It moved the money.
    This { is_confirmed: bool },
    /// It did something else.
    Other { is_confirmed: bool },
}

impl Found {
    fn fate_of_this(self, hash: Option<TransactionHash>) -> Option<Fate> {
        match (self, hash) {
            (Self::This { is_confirmed: true }, Some(hash)) => Some(Fate::Settled(hash)),
            (Self::This { is_confirmed: false }, Some(hash)) => Some(Fate::Unconfirmed(hash)),
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
    let is_confirmed = quantity(receipt.block_number)? <= rpc.newest_confirmed(head);
    let Transfer { asset, from, to, value, nonce, .. } = transfer;
    let mut logs = receipt.logs.iter().filter(|log| log.is_from(*asset));
    let uses = logs.find(|log| log.is(USED, &[from.to_word(), *nonce.as_bytes()]));
    let moves = uses.and_then(|_| logs.next());
    let is_this = moves.is_some_and(|log| {
        log.is(TRANSFER, &[from.to_word(), to.to_word()]) && log.data.eq_ignore_ascii_case(&word(&value.to_be_bytes()))
    });
    Ok(if is_this { Found::This { is_confirmed } } else { Found::Other { is_confirmed } })
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

fn word(bytes: &[u8; 32]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// A number as JSON-RPC writes it: `0x` and hexadecimal digits.
fn quantity(text: &str) -> Result<u64, Unclear> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(Unclear::Unreadable)
}
