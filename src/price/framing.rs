//! Units of a response: whole JSON, JSON in lines, or a stream of events. Labels are not to be trusted in this; the first
//! bytes tell.

use super::Shape;
use super::events::{Splitter, StreamEvent};
use super::facts::Facts;
use super::reader::Reader;

/// A response, split into units as its bytes arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Nothing but space has come, or less than tells; these bytes.
    Undecided {
        /// The bytes.
        bytes: Vec<u8>,
        /// True if it is called a stream of events.
        is_labelled: bool,
    },
    /// Server-sent events.
    Events(Splitter),
    /// JSON values, one or more.
    Values(Box<Values>),
    /// Neither.
    Other,
}

/// JSON values, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Values {
    reader: Reader,
    /// The bytes of the value that is not complete, with what stands before it, as far as they are kept.
    raw: Vec<u8>,
    /// Values that are complete.
    ended: u64,
    /// True if bytes came behind the last of them that end its line.
    is_line: bool,
}

/// A unit of a response, or some bytes of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The bytes as they came.
    pub raw: Vec<u8>,
    /// The findings in it; `None` where it holds nothing, or is a part of one.
    pub facts: Option<Facts>,
    /// True if it was too long to be read.
    pub is_overlong: bool,
}

/// Bytes of a value beyond which it is not a line of a stream, and not kept.
const LONGEST_LINE: usize = 64 * 1024;

/// Letters that events begin with (HTML standard, section 9.2.5).
const FIELDS: [&[u8]; 5] = [b"data", b"event", b"id", b"retry", b":"];

impl Framing {
    /// The framing of a response that is called a stream of events, or not.
    pub const fn new(is_labelled: bool) -> Self {
        Self::Undecided { bytes: Vec::new(), is_labelled }
    }

    /// Takes in bytes, and returns the units that are complete with them; `is_last` says that none follow. The bytes of
    /// all units together are those that came, where `keeps` says that they are wanted.
    pub fn push(&mut self, shape: &Shape, bytes: &[u8], is_last: bool, keeps: bool) -> Vec<Unit> {
        let mut units = Vec::new();
        let begun;
        let mut bytes = bytes;
        if let Self::Undecided { bytes: kept, is_labelled } = self {
            kept.extend_from_slice(bytes);
            let Some(framing) = decide(kept, *is_labelled, is_last) else {
                let rest = split_space(kept).1.to_vec();
                let space = std::mem::replace(kept, rest);
                keep_space(split_space(&space).0, keeps, &mut units);
                return units;
            };
            begun = std::mem::take(kept);
            let (space, rest) = split_space(&begun);
            bytes = rest;
            keep_space(space, keeps, &mut units);
            *self = framing;
        }
        match self {
            Self::Undecided { .. } => {}
            Self::Other => units.extend(keeps.then(|| Unit { raw: bytes.to_vec(), facts: None, is_overlong: false })),
            Self::Events(splitter) => {
                let mut events = splitter.push(bytes);
                if is_last {
                    events.extend(splitter.finish());
                }
                events.into_iter().for_each(|event| units_of(shape, event, &mut units));
            }
            Self::Values(values) => values.push(shape, bytes, is_last, keeps, &mut units),
        }
        units
    }

    /// Returns whether it is known to be a stream: events, or a value behind another. Of values whose line is all there is yet
    /// `streams` says whether more are expected.
    pub const fn is_stream(&self, streams: bool) -> bool {
        match self {
            Self::Events(_) => true,
            Self::Values(values) => match values.ended {
                0 => false,
                1 => values.reader.is_inside() || (streams && values.is_line),
                _ => true,
            },
            Self::Undecided { .. } | Self::Other => false,
        }
    }

    /// Returns whether it is, as far as is known, one JSON value, or something that cannot be read.
    pub const fn is_whole(&self) -> bool {
        match self {
            Self::Undecided { is_labelled, .. } => !*is_labelled,
            _ => !self.is_stream(false),
        }
    }

    /// Returns whether a line of comment would be out of place at its end.
    pub const fn takes_no_comment(&self) -> bool {
        !matches!(self, Self::Events(_))
    }
}

/// Tells what a response is by its first bytes; `None` while they do not tell.
#[inline(never)]
fn decide(bytes: &[u8], is_labelled: bool, is_last: bool) -> Option<Framing> {
    let text = split_space(bytes).1;
    let is_event = |field: &&[u8]| {
        let behind = text.strip_prefix(*field);
        behind.is_some_and(|rest| field == b":" || matches!(rest.first(), Some(b':' | b'\n' | b'\r')))
    };
    let may_be_event = FIELDS.iter().any(|field| field.starts_with(text) || text == *field);
    match text.first() {
        Some(b'{' | b'[') => Some(Framing::Values(Box::default())),
        _ if FIELDS.iter().any(is_event) => Some(Framing::Events(Splitter::default())),
        _ if may_be_event && !is_last => None,
        _ if is_labelled => Some(Framing::Events(Splitter::default())),
        _ => Some(Framing::Other),
    }
}

/// Adds the units of an event.
fn units_of(shape: &Shape, event: StreamEvent, units: &mut Vec<Unit>) {
    let StreamEvent { raw, data, is_error, is_overlong } = event;
    let data = data.trim();
    let mut values = if data == "[DONE]" { Vec::new() } else { Facts::all_of(shape, data.as_bytes()) };
    if is_error {
        if values.is_empty() {
            values.push(Facts::default());
        }
        values.iter_mut().for_each(Facts::fail);
    }
    // Of several, where an upstream forgets the empty lines between events, none is kept from the client.
    let only = if values.len() == 1 { values.pop() } else { None };
    units.extend(values.into_iter().map(|facts| Unit { raw: Vec::new(), facts: Some(facts), is_overlong: false }));
    units.push(Unit { raw, facts: only, is_overlong });
}

/// Returns what stands before the first byte that tells, and the rest. Some upstreams send space to keep a connection alive,
/// or a byte order mark; a record separator begins the texts of a JSON sequence (RFC 7464).
#[inline(never)]
fn split_space(bytes: &[u8]) -> (&[u8], &[u8]) {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x1e | 0xef | 0xbb | 0xbf);
    let start = bytes.iter().position(|byte| !is_space(byte)).unwrap_or(bytes.len());
    bytes.split_at_checked(start).unwrap_or_default()
}

fn keep_space(space: &[u8], keeps: bool, units: &mut Vec<Unit>) {
    if keeps && !space.is_empty() {
        units.push(Unit { raw: space.to_vec(), facts: None, is_overlong: false });
    }
}

impl Values {
    fn push(&mut self, shape: &Shape, bytes: &[u8], is_last: bool, keeps: bool, units: &mut Vec<Unit>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (read, facts) = self.reader.read(shape, rest);
            let (here, behind) = rest.split_at_checked(read).unwrap_or((rest, &[]));
            self.is_line = if facts.is_some() { false } else { self.is_line || here.contains(&b'\n') };
            if keeps {
                self.raw.extend_from_slice(here);
            }
            rest = behind;
            let Some(facts) = facts else { continue };
            self.ended = self.ended.saturating_add(1);
            // What ends its line goes with it.
            let end = rest.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
            let (line_end, behind) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            if keeps {
                self.raw.extend_from_slice(line_end);
            }
            self.is_line = !line_end.is_empty();
            rest = behind;
            units.push(Unit { raw: std::mem::take(&mut self.raw), facts: Some(facts), is_overlong: false });
        }
        if is_last {
            let facts = self.reader.is_inside().then(|| self.reader.finish(shape));
            let raw = std::mem::take(&mut self.raw);
            units.extend((facts.is_some() || !raw.is_empty()).then_some(Unit { raw, facts, is_overlong: false }));
        } else if self.raw.len() > LONGEST_LINE || !self.reader.is_inside() {
            // It is no line of a stream that would be kept from a client.
            let raw = std::mem::take(&mut self.raw);
            units.extend((!raw.is_empty()).then_some(Unit { raw, facts: None, is_overlong: false }));
        }
    }
}
