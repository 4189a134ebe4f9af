//! What facilitators support, in the store of a fleet: one proxy asks for all.

use super::fleet::{Fleet, Question};
use super::host::Host;
use crate::config::Service;
use crate::facilitator::Supported;
use crate::ledger::remote::{Ask, Kind, RecordKey, Revision, Told, Write};
use crate::schedule::{Need, Pace, Schedule, Turn};
use crate::time::UnixTime;

/// Seconds for which a record is kept that nobody writes.
const KEPT_SECONDS: u64 = 3600;

/// Bytes of a record at most: longer ones stay with the process that has heard them.
const MOST_BYTES: usize = 32 * 1024;

/// The record of a facilitator: when the fleet asks it, and the text of what it supports.
#[derive(Default)]
struct Record {
    schedule: Schedule,
    supported: Vec<u8>,
}

impl Record {
    /// The form of its bytes, their first.
    const FORM: u8 = 1;

    fn to_bytes(&self) -> Vec<u8> {
        [&[Self::FORM], &self.schedule.to_bytes()[..], &self.supported].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let ([Self::FORM], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (schedule, supported) = rest.split_at_checked(Schedule::BYTES)?;
        Some(Self { schedule: Schedule::read(schedule)?, supported: supported.to_vec() })
    }
}

enum Stage {
    /// The record is read.
    Reading,
    /// It is written that this proxy asks.
    Taking(Record),
    /// It is written what came of that.
    Telling,
}

/// How far a worker is with the record of a facilitator.
#[derive(Default)]
pub(super) struct Sharing {
    under_way: Option<(Stage, RecordKey, Question)>,
    /// The record while this proxy asks for all.
    turn: Option<(RecordKey, Revision, Record)>,
}

/// What comes of an answer of the store.
pub(super) enum Next {
    /// It is asked something more: the token of the callout.
    More(u32),
    /// Nothing is left to do.
    Nothing,
    /// The facilitator is to be asked.
    Ask,
    /// It is looked at again at the time, in milliseconds since the epoch. What another proxy has heard, if one has.
    Wait(Option<Supported>, u64),
}

impl Sharing {
    /// Returns whether an answer of the store is awaited.
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Asks for the record of a facilitator; the token of the callout, `None` where none could be sent.
    pub(super) fn look(&mut self, host: &impl Host, fleet: &Fleet, facilitator: &Service) -> Option<u32> {
        self.turn = None;
        let key = RecordKey::new(Kind::Fleet, facilitator.identity());
        self.send(host, fleet, Stage::Reading, Ask::Read(key))
    }

    fn send(&mut self, host: &impl Host, fleet: &Fleet, stage: Stage, ask: Ask) -> Option<u32> {
        let key = ask.key().clone();
        let question = Question::send(host, fleet, ask);
        let token = question.token();
        self.under_way = token.map(|_| (stage, key, question));
        token
    }

    /// Takes in an answer of the store.
    pub(super) fn hear(
        &mut self,
        host: &impl Host,
        fleet: &Fleet,
        need: Need,
        (headers, body_size): (usize, usize),
        (now, random): (u64, u64),
    ) -> Next {
        let Some((stage, key, mut question)) = self.under_way.take() else { return Next::Nothing };
        let Some(told) = question.hear(host, fleet, headers, body_size) else {
            let token = question.token();
            self.under_way = token.map(|_| (stage, key, question));
            return token.map_or(Next::Nothing, Next::More);
        };
        match (stage, told) {
            // Where the record was written by somebody else meanwhile, that one's word is as good.
            (Stage::Telling, _) => Next::Nothing,
            (_, Told::Unknown) => Next::Ask,
            (Stage::Taking(record), Told::Written(revision)) => {
                self.turn = Some((key, revision, record));
                Next::Ask
            }
            (Stage::Reading, Told::Written(_)) => Next::Nothing,
            (stage, Told::Found(found)) => {
                let revision = found.as_ref().map_or(Revision::ABSENT, |(_, revision)| *revision);
                let record = found.and_then(|(bytes, _)| Record::read(&bytes)).unwrap_or_default();
                match record.schedule.turn(Pace::FACILITATOR, need, now, random) {
                    Turn::Take(schedule) if matches!(stage, Stage::Reading) => {
                        let record = Record { schedule, ..record };
                        let write = write(key, revision, &record, now);
                        self.send(host, fleet, Stage::Taking(record), write).map_or(Next::Ask, Next::More)
                    }
                    Turn::Take(_) | Turn::Alone => Next::Ask,
                    Turn::Wait(until) => {
                        let is_known = record.schedule.heard_at > 0 && !record.supported.is_empty();
                        let text = String::from_utf8_lossy(&record.supported);
                        Next::Wait(is_known.then(|| Supported::from_text(&text)), until)
                    }
                }
            }
        }
    }

    /// Writes for all proxies what the facilitator has said, where this one has asked for all; the token of the callout.
    pub(super) fn tell(
        &mut self,
        host: &impl Host,
        fleet: &Fleet,
        hear: &dyn Fn(Schedule) -> Schedule,
        supported: Option<String>,
        now: u64,
    ) -> Option<u32> {
        let (key, revision, record) = self.turn.take()?;
        let supported = supported.map_or(record.supported, String::into_bytes);
        if supported.len() > MOST_BYTES {
            return None;
        }
        let record = Record { schedule: hear(record.schedule), supported };
        self.send(host, fleet, Stage::Telling, write(key, revision, &record, now))
    }
}

fn write(key: RecordKey, expected: Revision, record: &Record, now: u64) -> Ask {
    let seconds = now.checked_div(1_000).unwrap_or_default();
    let kept_until = Some(UnixTime::from_secs(seconds).plus(KEPT_SECONDS));
    Ask::Write(Write { key, expected, value: record.to_bytes(), kept_until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let schedule = Schedule { due: 7, failures: 2, heard_at: 5, failed_at: 6 };
        let read = Record::read(&Record { schedule, supported: b"text".to_vec() }.to_bytes()).unwrap();
        assert_eq!((read.schedule, read.supported.as_slice()), (schedule, &b"text"[..]));
        for wrong in [&b""[..], &[1; 28], &[2; 40]] {
            assert!(Record::read(wrong).is_none(), "{wrong:?}");
        }
    }
}
