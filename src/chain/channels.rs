//! The chain's own word on payment channels (scheme `batch-settlement`): what the contract says of each as of one block.

use ruint::aliases::U256;

use super::search::Moment;
use super::{BLOCK_ID, CLOCK_SLACK_SECONDS, HEAD_ID, Replies, Unclear, batch, block_call, call, quantity};
use crate::channel::{BATCH_SETTLEMENT, ChannelId, OnChain};
use crate::config::Rpc;
use crate::evm::keccak256;
use crate::facilitator::CalloutAnswer;
use crate::time::UnixTime;

/// Channels that one question asks for, at most. Each takes three calls, and nodes take a hundred or more at once.
pub const MOST: usize = 30;

/// The number that the first call about a channel has in a question. Those before it are of the block and of the chain.
const FIRST_ID: usize = 100;

/// The views of the contract that tell of a channel, in the order in which they are called.
const VIEWS: [&str; 3] = ["channels(bytes32)", "pendingWithdrawals(bytes32)", "refundNonce(bytes32)"];

/// The body of the question which block is the last.
pub fn head_question() -> String {
    batch(vec![call(HEAD_ID, "eth_blockNumber", "")])
}

/// Reads the number of the last block out of the answer to that question.
///
/// # Errors
/// [`Unclear`], where the node does not say, or is of another chain.
pub fn read_head(rpc: &Rpc, answer: &CalloutAnswer) -> Result<u64, Unclear> {
    quantity(Replies::of_chain(rpc.chain_id, answer)?.text(HEAD_ID)?)
}

/// The body of the question for the states of channels as of a block.
pub fn question(ids: &[ChannelId], block: u64) -> String {
    let mut calls = vec![block_call(BLOCK_ID, block)];
    for (place, id) in ids.iter().enumerate() {
        for (view, function) in VIEWS.iter().enumerate() {
            let data = calldata(function, *id);
            let params = format!(r#"{{"to":"{BATCH_SETTLEMENT}","data":"{data}"}},"{block:#x}""#);
            calls.push(call(&number(place, view), "eth_call", &params));
        }
    }
    batch(calls)
}

/// Reads the answer to that question, of the time `now` or earlier. The time of each state is one at which the block was made for
/// certain, whatever its maker's clock.
///
/// # Errors
/// [`Unclear`], where the node leaves anything out, or is of another chain.
pub fn read(
    rpc: &Rpc,
    ids: &[ChannelId],
    block: u64,
    answer: &CalloutAnswer,
    now: UnixTime,
) -> Result<Vec<(ChannelId, OnChain)>, Unclear> {
    let replies = Replies::of_chain(rpc.chain_id, answer)?;
    let made = Moment::read(&replies, BLOCK_ID, block)?.time.min(now);
    let at = UnixTime::from_secs(made.as_secs().saturating_sub(CLOCK_SLACK_SECONDS));
    let state = |(place, id): (usize, &ChannelId)| {
        let text = |view| replies.text(&number(place, view));
        let [balance, total_claimed] = words(text(0)?)?;
        let [withdrawn, initiated_at] = words(text(1)?)?;
        let [refund_nonce] = words(text(2)?)?;
        let is_withdrawing = withdrawn > 0 && initiated_at > 0;
        let withdraw_requested_at =
            if is_withdrawing { u64::try_from(initiated_at).map_err(|_| Unclear::Unreadable)? } else { 0 };
        if total_claimed > balance {
            return Err(Unclear::Unreadable);
        }
        Ok((*id, OnChain { balance, total_claimed, withdraw_requested_at, refund_nonce, at }))
    };
    ids.iter().enumerate().map(state).collect()
}

/// The number of a call about the channel at a place of the question.
fn number(place: usize, view: usize) -> String {
    place.saturating_mul(VIEWS.len()).saturating_add(view).saturating_add(FIRST_ID).to_string()
}

fn calldata(function: &str, id: ChannelId) -> String {
    let [a, b, c, d, ..] = keccak256(function.as_bytes());
    format!("0x{}{}", hex::encode([a, b, c, d]), hex::encode(id.as_bytes()))
}

/// The words that a view gives back, each of no more than 128 bits.
fn words<const N: usize>(text: &str) -> Result<[u128; N], Unclear> {
    let bytes = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok()).ok_or(Unclear::Unreadable)?;
    let (words, rest) = bytes.as_chunks::<32>();
    if words.len() != N || !rest.is_empty() {
        return Err(Unclear::Unreadable);
    }
    let mut read = [0; N];
    for (to, word) in read.iter_mut().zip(words) {
        *to = u128::try_from(U256::from_be_bytes(*word)).map_err(|_| Unclear::Unreadable)?;
    }
    Ok(read)
}
