//! Reader of what upstreams send. Requests are read to the letter, for whoever writes them would gain by a second
//! reading; a response is the upstream's own, and must not cost its client the whole quote for a flaw in its JSON. So
//! nothing is refused here: a key that stands twice, half a letter, a number beyond all bounds, a text behind the end.
//! Bytes are read as they come and are not kept, however long the response is.

use super::Shape;
use super::facts::Facts;

/// Containers in each other beyond which nothing is looked for.
const DEEPEST: usize = 10;

/// Bytes of a key, a number or a text that are kept. No name that is looked for is as long, nor any number.
const LONGEST: usize = 128;

/// A reader of JSON values, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    /// The findings in the value that is being read.
    facts: Facts,
    /// The JSON pointer to where the reader is.
    path: String,
    /// The containers that are open, of those that are looked into.
    frames: Vec<Frame>,
    /// How many more are open.
    deeper: usize,
    token: Vec<u8>,
    place: Place,
    /// True if the next text in an object is a key.
    expects_key: bool,
}

/// A container that is open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Frame {
    is_list: bool,
    /// The number of the element, in a list.
    index: usize,
    /// The length of the path to it.
    base: usize,
}

/// The kind of thing that the reader is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Place {
    #[default]
    Between,
    Word,
    Text,
    /// Behind a backslash in a text.
    Escape,
}

impl Reader {
    /// Reads up to the end of a value: how many bytes that took, and the findings if it has ended.
    pub fn read(&mut self, shape: &Shape, bytes: &[u8]) -> (usize, Option<Facts>) {
        let mut at = 0_usize;
        while let Some(byte) = bytes.get(at).copied() {
            match self.place {
                Place::Text => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
                    self.keep(rest.get(..plain).unwrap_or_default());
                    at = at.saturating_add(plain);
                    match bytes.get(at) {
                        Some(b'"') => self.end_text(shape),
                        Some(_) => {
                            self.keep(b"\\");
                            self.place = Place::Escape;
                        }
                        None => break,
                    }
                }
                Place::Escape => {
                    self.keep(&[byte]);
                    self.place = Place::Text;
                }
                Place::Word if is_of_word(byte) => self.keep(&[byte]),
                Place::Word => {
                    self.end_word(shape);
                    continue;
                }
                Place::Between => {
                    if self.structure(shape, byte) {
                        return (at.saturating_add(1), Some(std::mem::take(&mut self.facts)));
                    }
                }
            }
            at = at.saturating_add(1);
        }
        (at, None)
    }

    /// Returns whether a value has begun, and has not ended.
    pub const fn is_inside(&self) -> bool {
        !self.frames.is_empty()
    }

    /// The findings in a value that was broken off, or in none.
    pub fn finish(&mut self, shape: &Shape) -> Facts {
        if self.place == Place::Word {
            self.end_word(shape);
        }
        std::mem::take(self).facts
    }

    /// Takes in a byte between texts and words; `true` if a value ends with it.
    #[inline(never)]
    fn structure(&mut self, shape: &Shape, byte: u8) -> bool {
        match byte {
            b'{' | b'[' => self.open(shape, byte == b'['),
            b'}' | b']' => return self.close(),
            b',' => {
                if self.deeper == 0
                    && let Some(frame) = self.frames.last_mut()
                {
                    frame.index = frame.index.saturating_add(1);
                    self.expects_key = !frame.is_list;
                }
            }
            b':' => self.expects_key = false,
            b'"' => {
                self.token.clear();
                self.place = Place::Text;
            }
            _ if is_of_word(byte) && !self.frames.is_empty() => {
                self.token.clear();
                self.token.push(byte);
                self.place = Place::Word;
            }
            _ => {}
        }
        false
    }

    fn open(&mut self, shape: &Shape, is_list: bool) {
        // Some upstreams send a list in place of a stream: its elements are what they send.
        if self.frames.is_empty() && is_list && !matches!(shape, Shape::Pointers(_)) {
            return;
        }
        if self.frames.is_empty() {
            self.facts.is_object = !is_list;
        }
        if self.deeper > 0 || self.frames.len() >= DEEPEST || !self.goes_into(shape, is_list) {
            self.deeper = self.deeper.saturating_add(1);
            return;
        }
        self.facts.on_container(&self.path, is_list);
        self.frames.push(Frame { is_list, index: 0, base: self.path.len() });
        self.expects_key = !is_list;
    }

    /// Takes the path to the container that begins here; `false` where nothing is looked for in it.
    fn goes_into(&mut self, shape: &Shape, is_list: bool) -> bool {
        self.enter();
        let is_long = self.path.ends_with("/logprobs") || self.path.ends_with("/embedding");
        !is_long && (self.frames.len() != 1 || Facts::looks_into(shape, &self.path, is_list))
    }

    /// Takes the path to the value that begins here.
    #[inline(never)]
    fn enter(&mut self) {
        if let Some(Frame { is_list: true, index, base }) = self.frames.last() {
            self.path.truncate(*base);
            self.path.push('/');
            push_index(&mut self.path, *index);
        }
    }

    fn close(&mut self) -> bool {
        if self.deeper > 0 {
            self.deeper = self.deeper.saturating_sub(1);
            return false;
        }
        if let Some(frame) = self.frames.pop() {
            self.path.truncate(frame.base);
            self.expects_key = false;
            return self.frames.is_empty();
        }
        false
    }

    #[inline(never)]
    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.token.len());
        self.token.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    #[inline(never)]
    fn end_text(&mut self, shape: &Shape) {
        self.place = Place::Between;
        let Some(frame) = self.frames.last().filter(|_| self.deeper == 0) else { return };
        if !frame.is_list && self.expects_key {
            self.path.truncate(frame.base);
            self.path.push('/');
            for letter in crate::scan::decode_leniently(&self.token).chars() {
                match letter {
                    '~' => self.path.push_str("~0"),
                    '/' => self.path.push_str("~1"),
                    letter => self.path.push(letter),
                }
            }
            return;
        }
        self.enter();
        self.facts.on_text(shape, &self.path, &self.token);
    }

    #[inline(never)]
    fn end_word(&mut self, shape: &Shape) {
        self.place = Place::Between;
        if self.deeper == 0 && !self.frames.is_empty() {
            self.enter();
            self.facts.on_word(shape, &self.path, &self.token);
        }
    }
}

/// Writes a number behind a path.
fn push_index(path: &mut String, index: usize) {
    if let Some(before) = index.checked_div(10).filter(|before| *before > 0) {
        push_index(path, before);
    }
    let digit = index.checked_rem(10).and_then(|digit| u8::try_from(digit).ok()).unwrap_or_default();
    path.push(char::from(b'0'.wrapping_add(digit)));
}

const fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_')
}

impl Facts {
    /// The findings in a text that holds one value, or something else.
    #[inline(never)]
    pub fn of(shape: &Shape, text: &[u8]) -> Self {
        let mut reader = Reader::default();
        let (_, facts) = reader.read(shape, text);
        facts.unwrap_or_else(|| reader.finish(shape))
    }

    /// The findings in each of the values in a text, or in what is none; nothing where it is empty.
    pub(super) fn all_of(shape: &Shape, text: &[u8]) -> Vec<Self> {
        /// Values beyond which nothing is looked for.
        const MOST: usize = 4096;
        let (mut reader, mut all, mut rest) = (Reader::default(), Vec::new(), text);
        while !rest.is_empty() && all.len() < MOST {
            let (read, facts) = reader.read(shape, rest);
            let behind = rest.get(read..).unwrap_or_default().trim_ascii_start();
            // What is no object behind one is no value of its own.
            rest = if behind.first() == Some(&b'{') { behind } else { &[] };
            all.push(facts.unwrap_or_else(|| reader.finish(shape)));
        }
        all
    }
}

#[cfg(test)]
mod tests {

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        for (text, number) in [
            ("9", Some(9)),
            ("9.0", Some(9)),
            ("9.000", Some(9)),
            ("90e-1", Some(9)),
            ("0.9E1", Some(9)),
            ("9e+0", Some(9)),
            (" 9 ", Some(9)),
            ("0.0", Some(0)),
            ("0", Some(0)),
            ("-0", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1e999", None),
            ("9.5", None),
            ("-9", None),
            ("", None),
            (".", None),
            ("nine", None),
            ("NaN", None),
            ("1e", None),
        ] {
            assert_eq!(crate::price::facts::whole(text.as_bytes()), number, "{text}");
        }
    }
}
