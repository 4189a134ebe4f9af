//! A stream of server-sent events (HTML standard, section 9.2), split into events as its bytes arrive.

/// A splitter of a stream, which keeps no more than the event that is not complete yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Splitter {
    /// The bytes of the event that is not complete.
    pending: Vec<u8>,
    /// The position in them at which the search for an end goes on.
    searched: usize,
    /// True if the event has grown beyond what is kept, and passes unread.
    is_overlong: bool,
}

/// Bytes beyond which an event is not read. Some upstreams repeat the request beside its usage.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// A complete event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    /// The bytes as they came, with the empty line at the end.
    pub raw: Vec<u8>,
    /// The text of its `data` lines; empty where it has none.
    pub data: String,
    /// True if its name is `error`.
    pub is_error: bool,
    /// True if it, or the rest of it, was too long to be read.
    pub is_overlong: bool,
}

impl StreamEvent {
    fn new(raw: Vec<u8>, is_overlong: bool) -> Self {
        let text = if is_overlong { "".into() } else { String::from_utf8_lossy(&raw) };
        let data = values_of(&text, "data").collect::<Vec<_>>().join("\n");
        let is_error = values_of(&text, "event").last() == Some("error");
        Self { raw, data, is_error, is_overlong }
    }
}

impl Splitter {
    /// Takes in bytes, and returns the events that are complete with them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<StreamEvent> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(end) = self.end_of_event() {
            let raw = self.pending.get(start..end).unwrap_or_default().to_vec();
            (start, self.searched) = (end, end);
            events.push(StreamEvent::new(raw, std::mem::take(&mut self.is_overlong)));
        }
        self.pending.drain(..start);
        self.searched = self.searched.saturating_sub(start);
        if self.pending.len() > MAX_EVENT_BYTES {
            // Its end will still be found, and is all that is needed of it.
            let keep = self.pending.len().saturating_sub(4);
            events.push(StreamEvent::new(self.pending.drain(..keep).collect(), true));
            self.searched = 0;
            self.is_overlong = true;
        }
        events
    }

    /// Returns the rest when the stream has ended: an event without its end, which counts all the same.
    pub fn finish(&mut self) -> Option<StreamEvent> {
        let raw = std::mem::take(&mut self.pending);
        self.searched = 0;
        (!raw.is_empty()).then(|| StreamEvent::new(raw, self.is_overlong))
    }

    /// Returns the position behind the first empty line. Lines end in LF, CR or both.
    fn end_of_event(&mut self) -> Option<usize> {
        let is_end = |byte: u8| matches!(byte, b'\n' | b'\r');
        let mut position = self.searched;
        while let Some(byte) = self.pending.get(position).copied() {
            let next = position.saturating_add(1);
            if is_end(byte) {
                let behind = match (byte, self.pending.get(next)) {
                    // A CR may be half of a CR LF whose LF is yet to come.
                    (b'\r', None) => return self.wait_at(position),
                    (b'\r', Some(b'\n')) => next.saturating_add(1),
                    _ => next,
                };
                match self.pending.get(behind) {
                    None => return self.wait_at(position),
                    Some(b'\n') => return Some(behind.saturating_add(1)),
                    Some(b'\r') => {
                        return match self.pending.get(behind.saturating_add(1)) {
                            None => self.wait_at(position),
                            Some(b'\n') => Some(behind.saturating_add(2)),
                            Some(_) => Some(behind.saturating_add(1)),
                        };
                    }
                    Some(_) => position = behind,
                }
            } else {
                position = next;
            }
        }
        self.wait_at(position)
    }

    fn wait_at(&mut self, position: usize) -> Option<usize> {
        self.searched = position;
        None
    }
}

/// The values of a field of an event, one for each of its lines.
fn values_of<'a>(text: &'a str, field: &'a str) -> impl Iterator<Item = &'a str> {
    // A byte order mark may begin a stream, and means nothing wherever else it stands.
    let lines = text.split(['\n', '\r']).map(|line| line.trim_start_matches('\u{feff}'));
    let values = lines.filter_map(move |line| line.strip_prefix(field)?.strip_prefix(':'));
    values.map(|value| value.strip_prefix(' ').unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        ": hello\n\nevent: x\ndata: {\"a\":\ndata: 1}\n\r\ndata:y\r\n\r\ndata: z\r\rid: 7\n\ndata: [DONE]\n\n";

    fn data(events: &[StreamEvent]) -> Vec<&str> {
        events.iter().map(|event| event.data.as_str()).collect()
    }

    #[test]
    fn however_a_stream_is_cut_its_events_are_the_same() {
        let expected = ["", "{\"a\":\n1}", "y", "z", "", "[DONE]"];
        let mut whole = Splitter::default();
        assert_eq!(data(&whole.push(STREAM.as_bytes())), expected);
        for cut in 0..=STREAM.len() {
            let (head, tail) = STREAM.as_bytes().split_at(cut);
            let mut splitter = Splitter::default();
            let events = [splitter.push(head), splitter.push(tail)].concat();
            assert_eq!(data(&events), expected, "cut at {cut}");
            let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.clone()).collect();
            assert_eq!(raw, STREAM.as_bytes(), "not a byte is lost");
            assert_eq!(splitter.finish(), None);
        }
        let mut splitter = Splitter::default();
        let events: Vec<StreamEvent> = STREAM.bytes().flat_map(|byte| splitter.push(&[byte])).collect();
        assert_eq!(data(&events), expected);
    }

    #[test]
    fn an_event_without_its_end_counts_at_the_end() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(b"data: 1\n\ndata: 2\n").len(), 1);
        assert_eq!(splitter.finish().unwrap().data, "2");
        assert_eq!(splitter.finish(), None);
    }

    #[test]
    fn an_overlong_event_passes_unread_and_the_next_is_read() {
        let mut splitter = Splitter::default();
        let long = format!("data: {}\n\ndata: 2\n\n", "x".repeat(3 * MAX_EVENT_BYTES));
        let mut events = Vec::new();
        for piece in long.as_bytes().chunks(10_000) {
            events.extend(splitter.push(piece));
            assert!(splitter.pending.len() <= MAX_EVENT_BYTES + 10_000);
        }
        let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.clone()).collect();
        assert_eq!(raw, long.as_bytes());
        let texts: Vec<&str> = events.iter().map(|event| event.data.as_str()).filter(|data| !data.is_empty()).collect();
        assert_eq!(texts, ["2"]);
    }
}
