//! The search for the use of a nonce in blocks before the last ones.
//!
//! A payment settles after it was first seen. So the block of that moment is found by the times of blocks, and from there
//! on the logs are searched, until they tell of the nonce or reach the last blocks, which have been searched before. How
//! many blocks have come since does not matter.

use super::{
    BLOCK_ID, Block, Fate, Inquiry, LAST_ID, Progress, Replies, STATE_ID, Transfer, Unclear, Void, block_call, is_used,
    logs_call, quantity, read_logs, state_call,
};
use crate::config::Rpc;
use crate::time::UnixTime;

/// Questions to a node that a search takes at most.
pub(super) const QUESTIONS: u64 = 6;

/// Questions of them that are kept for logs.
const LOGS_QUESTIONS: u64 = 3;

/// A block and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment {
    /// Its number.
    pub block: u64,
    /// The time at which it was made, by its maker's clock.
    pub time: UnixTime,
}

/// The blocks between which the payment was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sight {
    /// The last block.
    pub head: u64,
    /// The block that is asked for.
    pub at: u64,
    /// The newest block known to be older than the first sight.
    pub earlier: Option<Moment>,
    /// The oldest block known not to be.
    pub later: Option<Moment>,
    /// Questions left, this one included.
    pub left: u64,
}

/// Blocks whose logs are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// The last block.
    pub head: u64,
    /// The first block that is yet to be searched.
    pub from: u64,
    /// Questions left, this one included.
    pub left: u64,
}

/// Begins a search, or goes on with an earlier one. The nonce is used, and the last blocks' logs do not tell for what.
pub(super) fn begin(head: u64, transfer: &Transfer, rpc: &Rpc) -> Progress {
    match transfer.searched_to {
        Some(from) => Window { head, from, left: QUESTIONS }.search(rpc),
        None => {
            let at = rpc.first_searched(head);
            Progress::Ask(Inquiry::Sight(Sight { head, at, earlier: None, later: None, left: QUESTIONS }))
        }
    }
}

impl Moment {
    /// The time of a block that was asked for.
    pub(super) fn read(replies: &Replies<'_>, id: &str, block: u64) -> Result<Self, Unclear> {
        let answer = replies.parse::<Block<'_>>(id)?.ok_or(Unclear::Unreadable)?;
        let time = UnixTime::from_secs(quantity(answer.timestamp)?);
        if quantity(answer.number)? == block { Ok(Self { block, time }) } else { Err(Unclear::Unreadable) }
    }

    /// Which block was the last at a time, if blocks always came as often as from `self` to `newer`.
    fn block_at(self, newer: Self, time: UnixTime) -> u64 {
        let seconds = newer.time.as_secs().saturating_sub(self.time.as_secs());
        let blocks = newer.block.saturating_sub(self.block);
        let ago = newer.time.as_secs().saturating_sub(time.as_secs());
        newer.block.saturating_sub(ago.saturating_mul(blocks).checked_div(seconds.max(1)).unwrap_or(0))
    }
}

impl Sight {
    pub(super) fn calls(self, transfer: &Transfer) -> Vec<String> {
        vec![block_call(LAST_ID, self.head), block_call(BLOCK_ID, self.at), state_call(self.at, transfer)]
    }

    pub(super) fn step(self, replies: &Replies<'_>, transfer: &Transfer, rpc: &Rpc) -> Result<Progress, Unclear> {
        let head = Moment::read(replies, LAST_ID, self.head)?;
        let asked = Moment::read(replies, BLOCK_ID, self.at)?;
        let is_earlier = asked.time < transfer.earliest();
        // Few nodes know the state of old blocks, and it is used where it is known. That no log tells of the use proves nothing.
        let was_used = || matches!(replies.text(STATE_ID).and_then(|word| is_used(word, transfer)), Ok(true));
        if is_earlier && self.at <= rpc.newest_confirmed(self.head) && was_used() {
            return Ok(Progress::Done(Fate::Void(Void::SettledEarlier)));
        }
        let (earlier, later) = if is_earlier { (Some(asked), self.later) } else { (self.earlier, Some(asked)) };
        let left = self.left.saturating_sub(1);
        let search = |from| Ok(Window { head: self.head, from, left }.search(rpc));
        let newer = later.unwrap_or(head);
        let block = match earlier {
            Some(earlier) => earlier.block_at(newer, transfer.earliest()),
            None => asked.block_at(head, transfer.earliest()),
        };
        // Half of what one question searches, so that the first sight is most likely in it.
        let at = block.saturating_sub(rpc.log_range.div_euclid(2)).min(newer.block.saturating_sub(1));
        match earlier {
            Some(Moment { block, .. }) if later.is_none() || at <= block || left <= LOGS_QUESTIONS => search(block),
            None if self.at == 0 => search(0),
            None if left == 0 => Err(Unclear::OutOfRange { searched_to: None }),
            _ => Ok(Progress::Ask(Inquiry::Sight(Self { at, earlier, later, left, ..self }))),
        }
    }
}

impl Window {
    fn search(self, rpc: &Rpc) -> Progress {
        if self.left > 0 && self.from < rpc.first_searched(self.head) {
            return Progress::Ask(Inquiry::Logs(self));
        }
        // What may yet be replaced is searched again.
        let searched_to = Some(self.from.min(rpc.newest_confirmed(self.head)));
        Progress::Done(Fate::Unclear(Unclear::OutOfRange { searched_to }))
    }

    /// The last block of the window.
    fn to(self, rpc: &Rpc) -> u64 {
        self.from.saturating_add(rpc.log_range).min(self.head)
    }

    pub(super) fn calls(self, transfer: &Transfer, rpc: &Rpc) -> Vec<String> {
        vec![logs_call(self.from, self.to(rpc), transfer)]
    }

    pub(super) fn step(self, replies: &Replies<'_>, transfer: &Transfer, rpc: &Rpc) -> Result<Progress, Unclear> {
        let next = Self { from: self.to(rpc).saturating_add(1), left: self.left.saturating_sub(1), ..self };
        Ok(read_logs(replies, self.head, transfer, rpc)?.unwrap_or_else(|| next.search(rpc)))
    }
}
