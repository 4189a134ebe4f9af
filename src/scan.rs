//! JSON, read once from front to end: what is not asked for is checked and passed over, and nothing is kept of it.
//!
//! The whole text is held to the letter of RFC 8259, for servers differ on what stands beyond it, and with a comment or
//! a text in single quotes the rest of it could be read as something else. That takes a few instructions a byte whatever
//! the text, and no memory: anybody may send a mebibyte of it.

use std::borrow::Cow;
use std::fmt;

/// Containers in each other beyond which nobody honest goes, and some parsers do not.
const DEEPEST: usize = 128;

/// The weight of a key that is looked at, with its value: it takes as long as so many that are passed over.
const LOOKED_AT: usize = 32;

/// The weight of an element of a list that is looked at.
const LOOKED_AT_ELEMENT: usize = 4;

const NO_COMMA: &str = "no comma and no bracket that fits";

/// The fault of a text that goes on and on.
const TOO_MANY: &str = "too many keys and values";

/// A place in a text that is JSON up to there.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// The closing brackets that are waited for.
    open: [u8; DEEPEST],
    depth: usize,
    /// Keys and values that may still come; those count for several that take as long as several.
    left: usize,
    /// True if nothing of the container that was opened last has been read.
    is_at_first: bool,
    /// Of the list that was passed over last: its own commas, and whether all that stands in it is numbers.
    commas: usize,
    only_numbers: bool,
}

/// The reason why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub(crate) struct ScanError {
    what: &'static str,
    at: usize,
}

/// A text as it stands between its quotes.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Reads a text that holds so many keys and values at most.
    pub(crate) const fn new(text: &'a [u8], most: usize) -> Self {
        Self {
            text,
            at: 0,
            open: [0; DEEPEST],
            depth: 0,
            left: most,
            is_at_first: false,
            commas: 0,
            only_numbers: false,
        }
    }

    /// Returns how many bytes lie behind.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// The text from a place to here.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The byte that the next value begins with; 0 at the end of the text.
    pub(crate) fn peek(&mut self) -> u8 {
        self.at = behind_space(self.text, self.at);
        byte(self.text, self.at)
    }

    /// Returns whether nothing follows.
    ///
    /// # Errors
    /// Where something does.
    pub(crate) fn end(&mut self) -> Result<(), ScanError> {
        self.at = behind_space(self.text, self.at);
        if self.at == self.text.len() { Ok(()) } else { Err(fail("something behind the value", self.at)) }
    }

    /// Passes over a value; gives it as it is written.
    ///
    /// # Errors
    /// Where it is none.
    pub(crate) fn skip(&mut self) -> Result<&'a [u8], ScanError> {
        let start = behind_space(self.text, self.at);
        let end = match byte(self.text, start) {
            b'{' | b'[' => self.behind_container(start)?,
            b'"' => behind_text(self.text, next(start), &mut self.left),
            first @ (b'0'..=b'9' | b'-') => behind_number(self.text, start, first, &mut self.left),
            _ => behind_word(self.text, start),
        };
        if end == NOWHERE {
            return Err(fail("no value", start));
        }
        self.at = end;
        Ok(self.since(start))
    }

    /// Passes over a list: how many elements it has, and whether all that stands in it is numbers.
    ///
    /// # Errors
    /// Where it is none.
    pub(crate) fn skip_list(&mut self) -> Result<(usize, bool), ScanError> {
        let value = self.skip()?;
        let is_empty = value.get(1..).is_none_or(|rest| rest.trim_ascii_start() == b"]");
        Ok((if is_empty { 0 } else { next(self.commas) }, self.only_numbers))
    }

    /// Goes into an object, whose keys [`Self::next_key`] then gives.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn open_object(&mut self) -> Result<(), ScanError> {
        self.open(b'{')
    }

    /// The next key of the object that was opened last, whose value has to be read or skipped before the next; `None` at its
    /// end.
    ///
    /// # Errors
    /// Where neither stands here.
    pub(crate) fn next_key(&mut self) -> Result<Option<Text<'a>>, ScanError> {
        if !self.goes_on(b'}')? {
            return Ok(None);
        }
        let (key, behind) = key(self.text, behind_space(self.text, self.at), &mut self.left)?;
        self.at = behind;
        self.spend(LOOKED_AT).map(|()| Some(key))
    }

    /// Goes into a list, for whose elements [`Self::has_element`] then asks.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn open_list(&mut self) -> Result<(), ScanError> {
        self.open(b'[')
    }

    /// Returns whether the list that was opened last has one more element, which has to be read or skipped before the next.
    ///
    /// # Errors
    /// Where neither it nor the end of the list stands here.
    pub(crate) fn has_element(&mut self) -> Result<bool, ScanError> {
        let has_more = self.goes_on(b']')?;
        self.spend(LOOKED_AT_ELEMENT).map(|()| has_more)
    }

    fn open(&mut self, bracket: u8) -> Result<(), ScanError> {
        if self.peek() != bracket {
            return Err(fail(if bracket == b'{' { "expected an object" } else { "expected a list" }, self.at));
        }
        if self.depth >= DEEPEST {
            return Err(fail("too deep a nesting", self.at));
        }
        (self.depth, self.at, self.is_at_first) = (next(self.depth), next(self.at), true);
        Ok(())
    }

    /// Returns whether the innermost container goes on; goes out of it where it does not.
    fn goes_on(&mut self, closing: u8) -> Result<bool, ScanError> {
        let is_at_first = std::mem::take(&mut self.is_at_first);
        match self.peek() {
            found if found == closing => {
                (self.depth, self.at) = (self.depth.saturating_sub(1), next(self.at));
                Ok(false)
            }
            _ if is_at_first => Ok(true),
            b',' => {
                self.at = next(self.at);
                Ok(true)
            }
            _ => Err(fail(NO_COMMA, self.at)),
        }
    }

    fn spend(&mut self, count: usize) -> Result<(), ScanError> {
        self.left = self.left.saturating_sub(count);
        if self.left == 0 { Err(fail(TOO_MANY, self.at)) } else { Ok(()) }
    }

    /// Passes over an object or a list. Without recursion, for it is as deep as its sender likes. Spaces are looked for
    /// last: what costs most is what stands densest.
    fn behind_container(&mut self, start: usize) -> Result<usize, ScanError> {
        let text = self.text;
        let outside = self.depth;
        let (mut at, mut depth, mut left) = (start, outside, self.left);
        // What closes the innermost container.
        let mut closing = 0;
        let inside = next(outside);
        let (mut commas, mut only_numbers) = (0, true);
        'entry: loop {
            if closing == b'}' {
                at = key(text, behind_space(text, at), &mut left)?.1;
            }
            if left == 0 {
                return Err(fail(TOO_MANY, at));
            }
            let mut first = byte(text, at);
            if is_space(first) {
                at = behind_run(text, at, &mut left);
                first = byte(text, at);
            }
            match first {
                b'0'..=b'9' | b'-' => at = behind_number(text, at, first, &mut left),
                b'"' => {
                    only_numbers = false;
                    at = behind_text(text, next(at), &mut left);
                }
                b'{' | b'[' => {
                    only_numbers &= depth == outside;
                    *self.open.get_mut(depth).ok_or_else(|| fail("too deep a nesting", at))? = closing;
                    depth = next(depth);
                    left = left.saturating_sub(1);
                    // `}` and `]` stand two behind `{` and `[`.
                    closing = first.wrapping_add(2);
                    at = behind_space(text, next(at));
                    if byte(text, at) != closing {
                        continue 'entry;
                    }
                }
                _ => {
                    only_numbers = false;
                    at = behind_word(text, at);
                }
            }
            if at == NOWHERE {
                return Err(fail("no value", start));
            }
            // Here stands the end of a value, or the bracket that closes what has none.
            loop {
                let found = byte(text, at);
                if found == b',' {
                    at = next(at);
                    left = left.saturating_sub(1);
                    commas = usize::from(depth == inside).wrapping_add(commas);
                    continue 'entry;
                }
                if found == closing {
                    at = next(at);
                    depth = depth.wrapping_sub(1);
                    if depth == outside {
                        (self.left, self.commas, self.only_numbers) = (left, commas, only_numbers);
                        return Ok(at);
                    }
                    closing = self.open.get(depth).copied().unwrap_or_default();
                    continue;
                }
                if !is_space(found) {
                    return Err(fail(NO_COMMA, at));
                }
                at = behind_run(text, at, &mut left);
            }
        }
    }
}

/// A key with its colon: the key, and where its value begins.
#[inline]
fn key<'a>(text: &'a [u8], at: usize, left: &mut usize) -> Result<(Text<'a>, usize), ScanError> {
    if byte(text, at) != b'"' {
        return Err(fail("no key", at));
    }
    let start = next(at);
    *left = left.saturating_sub(1);
    let behind = behind_text(text, start, left);
    let mut colon = behind;
    if byte(text, colon) != b':' {
        colon = behind_space(text, colon);
        if behind == NOWHERE || byte(text, colon) != b':' {
            return Err(fail("no key with its colon", at));
        }
    }
    Ok((Text(text.get(start..behind.wrapping_sub(1)).unwrap_or_default()), next(colon)))
}

/// In the place of an end, where something has none: no value ends there.
const NOWHERE: usize = 0;

/// Behind the number that begins with this digit or sign. Those that are not whole take as long as two.
#[inline(always)]
fn behind_number(text: &[u8], at: usize, first: u8, left: &mut usize) -> usize {
    let mut end = next(at);
    let mut digit = first;
    if first == b'-' {
        digit = byte(text, end);
        end = next(end);
    }
    let mut behind = byte(text, end);
    match digit {
        b'0' => {}
        b'1'..=b'9' => {
            while behind.is_ascii_digit() {
                end = next(end);
                behind = byte(text, end);
            }
        }
        _ => return NOWHERE,
    }
    if matches!(behind, b'.' | b'e' | b'E') {
        *left = left.saturating_sub(1);
        return behind_fraction(text, end);
    }
    end
}

/// Behind the fraction, the exponent, or both, that begin here.
fn behind_fraction(text: &[u8], at: usize) -> usize {
    let behind_digits = |at: usize| {
        let mut end = at;
        while byte(text, end).is_ascii_digit() {
            end = next(end);
        }
        if end > at { end } else { NOWHERE }
    };
    let mut end = at;
    if byte(text, end) == b'.' {
        end = behind_digits(next(end));
    }
    if end != NOWHERE && matches!(byte(text, end), b'e' | b'E') {
        let exponent = next(end);
        end = behind_digits(if matches!(byte(text, exponent), b'+' | b'-') { next(exponent) } else { exponent });
    }
    end
}

#[inline]
fn behind_word(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    match rest {
        [b't', b'r', b'u', b'e', ..] | [b'n', b'u', b'l', b'l', ..] => at.wrapping_add(4),
        [b'f', b'a', b'l', b's', b'e', ..] => at.wrapping_add(5),
        _ => NOWHERE,
    }
}

/// Returns where the text ends whose first letter is at `start`, behind its closing quote. Those that are not short and plain take
/// as long as two, and those that are short and not plain as three.
#[inline(always)]
fn behind_text(text: &[u8], start: usize, left: &mut usize) -> usize {
    if byte(text, start) == b'"' {
        return next(start);
    }
    if let Some(letters) = text.get(start..).and_then(<[u8]>::first_chunk) {
        let letters = u64::from_le_bytes(*letters);
        let end = start.wrapping_add(first_place(specials(letters)));
        if letters & HIGHS == 0 && byte(text, end) == b'"' {
            return next(end);
        }
    }
    let end = behind_any_text(text, start);
    let is_short_and_odd = end < start.wrapping_add(9);
    *left = left.saturating_sub(if is_short_and_odd { 2 } else { 1 });
    end
}

/// The same for all texts. Eight letters at a time, and where they are not plain, an automaton that neither escapes nor
/// letters beyond ASCII can make guess wrong, in whatever order they come.
fn behind_any_text(text: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut state = PLAIN;
    while let Some(letters) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let eight = u64::from_le_bytes(*letters);
        let found = specials(eight);
        if state != PLAIN || (found | eight) & HIGHS != 0 {
            let end = at.wrapping_add(first_place(found));
            if state == PLAIN && eight & HIGHS == 0 && byte(text, end) == b'"' {
                return next(end);
            }
            let mut behind = 0;
            for letter in letters {
                state = step(state, *letter);
                behind = usize::from(state == OVER).wrapping_add(behind);
            }
            if state >= WRONG {
                return if state == OVER { at.wrapping_add(9_usize.wrapping_sub(behind)) } else { NOWHERE };
            }
        }
        at = at.wrapping_add(8);
    }
    while state < WRONG {
        state = step(state, byte(text, at));
        at = next(at);
    }
    if state == OVER { at } else { NOWHERE }
}

const LOWS: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A high bit for each of eight letters that a text cannot go on with: quote, backslash, control characters. Behind the
/// first of them there may be bits too many.
#[inline]
const fn specials(letters: u64) -> u64 {
    let (quote, backslash) = (letters ^ (LOWS.wrapping_mul(0x22)), letters ^ (LOWS.wrapping_mul(0x5c)));
    let control = letters.wrapping_sub(LOWS.wrapping_mul(0x20)) & !letters;
    let quote = quote.wrapping_sub(LOWS) & !quote;
    let backslash = backslash.wrapping_sub(LOWS) & !backslash;
    (control | quote | backslash) & HIGHS
}

/// The first of eight places that is marked; 8 where none is.
#[inline]
fn first_place(found: u64) -> usize {
    usize::try_from(found.trailing_zeros() >> 3).unwrap_or(0)
}

/// The number that four hexadecimal digits are.
#[inline]
fn number(digits: &[u8]) -> Option<u16> {
    let digits = digits.first_chunk::<4>()?;
    let digits = digits.map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or(NO_DIGIT));
    let [a, b, c, d] = digits.map(u16::from);
    let is_number = (a | b | c | d) & 0xf0 == 0;
    is_number.then_some(a << 12 | b << 8 | c << 4 | d)
}

const NO_DIGIT: u8 = 0xff;

/// The value of each hexadecimal digit.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0_u8;
    while value < 16 {
        let digit = if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_add(value.wrapping_sub(10)) };
        set(&mut digits, digit, value);
        set(&mut digits, digit.to_ascii_uppercase(), value);
        value = value.wrapping_add(1);
    }
    digits
};

#[allow(clippy::indexing_slicing, clippy::as_conversions, reason = "there is a place for each byte")]
const fn set<T: Copy>(table: &mut [T; 256], byte: u8, value: T) {
    table[byte as usize] = value;
}

/// The states of the automaton that reads texts: between letters; behind a backslash; so many hexadecimal digits to come;
/// so many bytes of a letter to come; the next byte of one restricted, behind these; wrong for good; behind the quote.
const PLAIN: u64 = 0;
const ESCAPE: u64 = 1;
const DIGITS_4: u64 = 2;
const DIGITS_3: u64 = 3;
const DIGITS_2: u64 = 4;
const DIGITS_1: u64 = 5;
const BYTES_1: u64 = 6;
const BYTES_2: u64 = 7;
const BYTES_3: u64 = 8;
const BEHIND_E0: u64 = 9;
const BEHIND_ED: u64 = 10;
const BEHIND_F0: u64 = 11;
const BEHIND_F4: u64 = 12;
const WRONG: u64 = 13;
const OVER: u64 = 14;

/// For each byte the next state of each state, in four bits each.
const STEPS: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        set(&mut table, byte, steps(byte));
        if byte == u8::MAX {
            break table;
        }
        byte = byte.wrapping_add(1);
    }
};

#[inline(always)]
fn step(state: u64, letter: u8) -> u64 {
    STEPS.get(usize::from(letter)).copied().unwrap_or_default() >> (state << 2 & 63) & 15
}

const fn steps(byte: u8) -> u64 {
    const fn place(state: u64, next: u64) -> u64 {
        next << (state << 2)
    }
    const fn within(byte: u8, least: u8, most: u8, next: u64) -> u64 {
        if least <= byte && byte <= most { next } else { WRONG }
    }
    let plain = match byte {
        b'"' => OVER,
        b'\\' => ESCAPE,
        b' '..=0x7f => PLAIN,
        0xc2..=0xdf => BYTES_1,
        0xe0 => BEHIND_E0,
        0xed => BEHIND_ED,
        0xe1..=0xef => BYTES_2,
        0xf0 => BEHIND_F0,
        0xf1..=0xf3 => BYTES_3,
        0xf4 => BEHIND_F4,
        _ => WRONG,
    };
    let escape = match byte {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => PLAIN,
        b'u' => DIGITS_4,
        _ => WRONG,
    };
    let [three, two, one, none] =
        if byte.is_ascii_hexdigit() { [DIGITS_3, DIGITS_2, DIGITS_1, PLAIN] } else { [WRONG; 4] };
    place(PLAIN, plain)
        | place(ESCAPE, escape)
        | place(DIGITS_4, three)
        | place(DIGITS_3, two)
        | place(DIGITS_2, one)
        | place(DIGITS_1, none)
        | place(BYTES_1, within(byte, 0x80, 0xbf, PLAIN))
        | place(BYTES_2, within(byte, 0x80, 0xbf, BYTES_1))
        | place(BYTES_3, within(byte, 0x80, 0xbf, BYTES_2))
        | place(BEHIND_E0, within(byte, 0xa0, 0xbf, BYTES_1))
        | place(BEHIND_ED, within(byte, 0x80, 0x9f, BYTES_1))
        | place(BEHIND_F0, within(byte, 0x90, 0xbf, BYTES_2))
        | place(BEHIND_F4, within(byte, 0x80, 0x8f, BYTES_2))
        | place(WRONG, WRONG)
        | place(OVER, OVER)
}

#[inline]
const fn next(at: usize) -> usize {
    at.wrapping_add(1)
}

/// The byte at a place; 0, which JSON has nowhere, behind the end.
#[inline]
fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

#[inline]
fn behind_space(text: &[u8], at: usize) -> usize {
    let mut at = at;
    while is_space(byte(text, at)) {
        at = next(at);
    }
    at
}

/// Behind the spaces that begin here. More than one take as long as a value.
#[inline(always)]
fn behind_run(text: &[u8], at: usize, left: &mut usize) -> usize {
    let at = next(at);
    if !is_space(byte(text, at)) {
        return at;
    }
    *left = left.saturating_sub(1);
    behind_space(text, at)
}

#[inline]
const fn is_space(byte: u8) -> bool {
    byte <= b' ' && matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cold]
const fn fail(what: &'static str, at: usize) -> ScanError {
    ScanError { what, at }
}

impl<'a> Text<'a> {
    /// The text of a value that was passed over; `None` where it is none.
    pub(crate) fn of(value: &'a [u8]) -> Option<Self> {
        Some(Self(value.strip_prefix(b"\"")?.strip_suffix(b"\"")?))
    }

    /// As it is written.
    pub(crate) const fn written(self) -> &'a [u8] {
        self.0
    }

    /// Returns whether this is what it says.
    pub(crate) fn says(self, text: &str) -> bool {
        // An escape is six times as long as its letter at most.
        let may_be = self.0.len() <= text.len().saturating_mul(6) && self.0.contains(&b'\\');
        self.0 == text.as_bytes() || (may_be && self.decode().as_deref() == Some(text))
    }

    /// Returns what it says; `None` where a half of a surrogate pair stands in it, of which parsers make different things. Where it
    /// has escapes, this takes memory.
    pub(crate) fn decode(self) -> Option<Cow<'a, str>> {
        if !self.0.contains(&b'\\') {
            return std::str::from_utf8(self.0).ok().map(Cow::Borrowed);
        }
        let mut decoded = Vec::with_capacity(self.0.len());
        let mut rest = self.0;
        while let Some((first, after)) = rest.split_first() {
            rest = match (first, after) {
                (b'\\', [b'u', digits @ ..]) => {
                    let (letter, after) = letter_of(digits)?;
                    decoded.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    after
                }
                (b'\\', [escape, after @ ..]) => {
                    decoded.push(match escape {
                        b'b' => 8,
                        b't' => b'\t',
                        b'n' => b'\n',
                        b'f' => 12,
                        b'r' => b'\r',
                        other => *other,
                    });
                    after
                }
                _ => {
                    decoded.push(*first);
                    after
                }
            };
        }
        String::from_utf8(decoded).ok().map(Cow::Owned)
    }
}

/// Returns whether half of a surrogate pair stands alone as an escape in what is known to be JSON; servers make different
/// things of one.
#[inline(never)]
pub(crate) fn has_half_letter(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = rest.get(at..).unwrap_or_default();
        let behind = match half_of(escape) {
            None => 2,
            Some(Half::First) if matches!(escape.get(6..).and_then(half_of), Some(Half::Second)) => 12,
            Some(_) => return true,
        };
        rest = escape.get(behind..).unwrap_or_default();
    }
    false
}

/// The halves of a surrogate pair.
enum Half {
    First,
    Second,
}

/// Returns which half of a letter an escape is, if it is one. Its first two digits tell, and no more is looked at: anybody
/// may send a mebibyte of escapes.
#[inline(always)]
const fn half_of(escape: &[u8]) -> Option<Half> {
    match escape {
        [b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..] => Some(Half::First),
        [b'\\', b'u', b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', ..] => Some(Half::Second),
        _ => None,
    }
}

/// Returns what the text between two quotes says, or where that is nothing, the text as it is written.
pub(crate) fn decode_leniently(written: &[u8]) -> String {
    Text(written).decode().map_or_else(|| String::from_utf8_lossy(written).into_owned(), Cow::into_owned)
}

/// For messages: not more of it than anybody reads.
impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONG_ENOUGH: usize = 100;
        let shown = self.0.get(..LONG_ENOUGH).unwrap_or(self.0);
        write!(f, "\"{}{}\"", String::from_utf8_lossy(shown), if self.0.len() > LONG_ENOUGH { "…" } else { "" })
    }
}

/// Names that are looked for among the keys of one object, and told from those that some server would take for them:
/// there are servers that mind no letter case, and take `maxTokens` for `max_tokens`.
#[derive(Debug)]
pub(crate) struct Names<'n> {
    /// Each with what it folds into, and whether it has been found.
    names: Vec<(&'n str, Folded, bool)>,
    /// For each byte that a key may begin with the lengths, a bit each, of those that fold into what begins with it.
    lengths: [u64; 256],
    has_empty: bool,
    /// The form into which the key folds that is looked at.
    folded: Folded,
}

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The name with this number, for the first time.
    Name(usize),
    /// A name that has stood there before. Servers differ on which of the two counts.
    Twice,
    /// Not a name, and some server takes it for one.
    Misspelt,
    /// None of them.
    Nothing,
}

impl<'n> Names<'n> {
    pub(crate) fn new(names: &[&'n str]) -> Self {
        let mut all = Self { names: Vec::new(), lengths: [0; 256], has_empty: false, folded: Folded::NOTHING };
        // What may stand for a letter, or for nothing.
        for first in [b'_', b'-', b'\\', 0xc5, 0xe2] {
            set(&mut all.lengths, first, u64::MAX);
        }
        for name in names {
            let mut folded = Folded::NOTHING;
            folded.fold(name.as_bytes());
            all.has_empty |= name.is_empty();
            for first in [folded.first(), name.as_bytes().first().copied().unwrap_or(b'_')] {
                for first in [first.to_ascii_lowercase(), first.to_ascii_uppercase()] {
                    let lengths = all.lengths_of(first) | folded.length_bit();
                    set(&mut all.lengths, first, lengths);
                }
            }
            all.names.push((*name, folded, false));
        }
        all
    }

    fn lengths_of(&self, first: u8) -> u64 {
        self.lengths.get(usize::from(first)).copied().unwrap_or_default()
    }

    /// Which of them a key is. Each key is folded once, and no more of it than tells it from the names.
    #[inline]
    pub(crate) fn find(&mut self, key: Text<'_>) -> Found {
        let may_be = key.0.first().map_or(self.has_empty, |first| self.lengths_of(*first) != 0);
        if may_be { self.look_up(key) } else { Found::Nothing }
    }

    fn look_up(&mut self, key: Text<'_>) -> Found {
        let is_whole = self.folded.fold(key.0);
        if is_whole && self.lengths_of(self.folded.first()) & self.folded.length_bit() == 0 {
            return Found::Nothing;
        }
        let mut found = Found::Nothing;
        for (number, (name, folded, is_found)) in self.names.iter_mut().enumerate() {
            // What is left of it may be nothing but strokes.
            let may_be = !is_whole || folded.length == self.folded.length;
            let is_like = may_be && folded.begins_with(&self.folded);
            if is_like {
                if key.says(name) {
                    let was_found = std::mem::replace(is_found, true);
                    return if was_found { Found::Twice } else { Found::Name(number) };
                }
                found = Found::Misspelt;
            }
        }
        found
    }
}

/// The letters beyond ASCII that fold into letters of it.
const LONG_S: char = 'ſ';
const KELVIN: char = '\u{212A}';

/// The form of each byte of a key where neither letter case nor strokes count.
const FOLDED: [u8; 256] = {
    let mut folded = [ODD; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        set(&mut folded, byte, byte.to_ascii_lowercase());
        byte = byte.wrapping_add(1);
    }
    set(&mut folded, b'_', STROKE);
    set(&mut folded, b'-', STROKE);
    set(&mut folded, b'\\', ODD);
    folded
};

/// It falls away. (No such byte stands in a text.)
const STROKE: u8 = 0;
/// It is more than itself: an escape, or a letter beyond ASCII.
const ODD: u8 = 0xff;

/// A key, or its beginning, as servers fold it that mind neither letter case nor `_` and `-`.
#[derive(Debug, Clone, Copy)]
struct Folded {
    length: usize,
    letters: [u8; Self::MOST],
}

impl Folded {
    /// Letters that are compared. No name is as long that is not the operator's own.
    const MOST: usize = 62;
    /// Bytes of a key that are looked at: beyond them it is longer than any name, or it has more strokes than letters.
    const MOST_BYTES: usize = 192;

    const NOTHING: Self = Self { length: 0, letters: [0; Self::MOST] };

    fn first(&self) -> u8 {
        self.letters().first().copied().unwrap_or_default()
    }

    fn length_bit(&self) -> u64 {
        1 << (self.length & 63)
    }

    fn letters(&self) -> &[u8] {
        self.letters.get(..self.length).unwrap_or_default()
    }

    fn begins_with(&self, other: &Self) -> bool {
        self.length >= other.length && self.letters.iter().zip(other.letters()).all(|(one, other)| one == other)
    }

    /// Folds a key; `false` where it is longer than what is looked at of it.
    fn fold(&mut self, key: &[u8]) -> bool {
        let seen = key.get(..Self::MOST_BYTES).unwrap_or(key);
        let mut rest = seen;
        self.length = 0;
        loop {
            rest = self.fold_plain(rest);
            match rest.split_first() {
                Some((first, after)) if self.length < Self::MOST => rest = self.fold_odd(*first, after),
                _ => break,
            }
        }
        rest.is_empty() && seen.len() == key.len()
    }

    /// Folds what is ASCII and not escaped; gives what follows.
    fn fold_plain<'a>(&mut self, key: &'a [u8]) -> &'a [u8] {
        let mut length = self.length;
        let mut rest = key.iter();
        while let Some(first) = rest.as_slice().first() {
            let letter = FOLDED.get(usize::from(*first)).copied().unwrap_or(ODD);
            match self.letters.get_mut(length) {
                Some(place) if letter != ODD => *place = letter,
                _ => break,
            }
            length = length.wrapping_add(usize::from(letter != STROKE));
            rest.next();
        }
        self.length = length;
        rest.as_slice()
    }

    #[inline]
    fn push(&mut self, letter: u8) {
        if let Some(place) = self.letters.get_mut(self.length) {
            *place = letter;
            self.length = self.length.wrapping_add(usize::from(letter != STROKE));
        }
    }

    fn fold_odd<'a>(&mut self, first: u8, after: &'a [u8]) -> &'a [u8] {
        let (letter, after) = match (first, after) {
            (b'\\', [b'u', digits @ ..]) => letter_of(digits).unwrap_or((char::REPLACEMENT_CHARACTER, digits)),
            // No other escape stands for a letter of a name.
            (b'\\', [_, after @ ..]) => ('\\', after),
            (0xc5, [0xbf, after @ ..]) => (LONG_S, after),
            (0xe2, [0x84, 0xaa, after @ ..]) => (KELVIN, after),
            _ => {
                self.push(first);
                return after;
            }
        };
        match letter {
            '_' | '-' => {}
            LONG_S => self.push(b's'),
            KELVIN => self.push(b'k'),
            letter => letter.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| self.push(byte.to_ascii_lowercase())),
        }
        after
    }
}

/// The letter that the digits of an escape stand for, those of the escape behind it taken in where it is half a letter,
/// and what follows.
fn letter_of(digits: &[u8]) -> Option<(char, &[u8])> {
    let first = number(digits)?;
    let after = digits.get(4..)?;
    if let Some(letter) = char::from_u32(first.into()) {
        return Some((letter, after));
    }
    let second = after.strip_prefix(b"\\u").and_then(number)?;
    let letter = char::decode_utf16([first, second]).next()?.ok()?;
    Some((letter, after.get(6..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_letter_is_what_cannot_be_decoded() {
        let escapes = |units: &[u16], upper: bool| -> String {
            let write = |unit: &u16| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
            units.iter().map(write).collect()
        };
        let around = [0xd7ff, 0xd800, 0xd83d, 0xdbff, 0xdc00, 0xde00, 0xdfff, 0xe000, 0x5c];
        let pairs = around.iter().flat_map(|first| around.iter().map(|second| vec![*first, *second]));
        for units in (0..=u16::MAX).map(|unit| vec![unit]).chain(pairs) {
            for upper in [false, true] {
                let text = escapes(&units, upper);
                let decodes = Text(text.as_bytes()).decode().is_some();
                assert_eq!(has_half_letter(text.as_bytes()), !decodes, "{text}");
                assert_eq!(decodes, String::from_utf16(&units).is_ok(), "{text}");
            }
        }
        for text in [r"\\ud83d", r"\ud83dx\ude00", r"\ud83d\n", r"\ud83d", r"\n\ud83d\ude00\\", r"\ud83d\\ude00"] {
            assert_eq!(has_half_letter(text.as_bytes()), Text(text.as_bytes()).decode().is_none(), "{text}");
        }
    }

    fn check(text: &[u8]) -> Result<(), ScanError> {
        let mut scanner = Scanner::new(text, usize::MAX);
        scanner.skip()?;
        scanner.end()
    }

    #[test]
    fn texts_are_json_to_the_letter_or_none() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for text in [
            "0",
            "-0.5e+10",
            " [ ] ",
            "{ }",
            "null",
            "[true,false,null]",
            r#"{"a":{"b":[1,{"c":"d"}]}}"#,
            "\"\"",
            r#""\u00e4\ud83d\ude00\"\\\/\b\f\n\r\t""#,
            "[[],{},[[]]]",
            "\"\u{e4}\u{20ac}\u{1f600}\u{7f}\"",
            &nested(128),
            r#"["12345678","1234567","123456789",""]"#,
        ] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok() || text.len() > 200, "{text}");
        }
        for text in [
            "",
            " ",
            "{}{}",
            "{} x",
            r#"{"a":1,}"#,
            "[1,]",
            "[,]",
            "{'a':1}",
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\":}",
            "[}",
            "{]",
            "[1 2]",
            "\"\n\"",
            "\"abcdefgh\n\"",
            r#""\x""#,
            r#""\u00g0""#,
            r#""\u12"#,
            r#""\"#,
            "NaN",
            "01",
            "1.",
            ".1",
            "-",
            "1e",
            "+1",
            "truth",
            "nul",
            "\u{feff}{}",
            "\"\u{0}\"",
            "{\"a\":1/*x*/}",
            "[",
            "[1",
            "{\"a\"",
            "\"",
            "\"12345678",
            "[1]]",
            "{\"a\":1}}",
            &nested(129),
            &nested(100_000),
            "[\u{e4}]",
            "\u{a0}1",
        ] {
            assert!(check(text.as_bytes()).is_err(), "{text}");
        }
        for wrong in [
            &b"\"\xff\""[..],
            b"\"\xc0\xae\"",
            b"\"\xed\xa0\x80\"",
            b"\"\xf4\x90\x80\x80\"",
            b"\"\xe2\x82\"",
            b"\"\xe2\x82\xac\x80\"",
            b"\"\xf8\x88\x80\x80\x80\"",
            b"\"\xe0\x9f\xbf\"",
            b"\"\xf0\x8f\xbf\xbf\"",
        ] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        // Every letter of UTF-8 with up to three bytes, and what is none.
        for bytes in (0..=0xff_ffff_u32).step_by(7).map(|number| number.to_be_bytes()) {
            let text = [&b"\""[..], &bytes[1..], b"\""].concat();
            let is_json = serde_json::from_slice::<String>(&text).is_ok();
            assert_eq!(check(&text).is_ok(), is_json, "{text:?}");
        }
    }

    #[test]
    fn keys_are_told_from_those_that_look_like_them() {
        let names = ["model", "max_tokens", "stream", "n", ""];
        for (key, expected) in [
            ("model", Found::Name(0)),
            ("max_tokens", Found::Name(1)),
            ("n", Found::Name(3)),
            ("", Found::Name(4)),
            ("m\\u006fdel", Found::Name(0)),
            ("\\u006dax_\\u0074okens", Found::Name(1)),
            ("Model", Found::Misspelt),
            ("maxTokens", Found::Misspelt),
            ("max-tokens", Found::Misspelt),
            ("_max__tokens_", Found::Misspelt),
            ("max_to\u{212a}en\u{17f}", Found::Misspelt),
            ("max_to\\u212aen\\u017F", Found::Misspelt),
            ("\u{17f}tream", Found::Misspelt),
            ("-n", Found::Misspelt),
            ("mode", Found::Nothing),
            ("models", Found::Nothing),
            ("mo\\ndel", Found::Nothing),
            ("\\ud83d\\ude00", Found::Nothing),
            ("m\u{e4}x_tokens", Found::Nothing),
            ("x", Found::Nothing),
            (&"_".repeat(1000), Found::Misspelt),
            (&format!("{}model", "_".repeat(1000)), Found::Misspelt),
            (&format!("model{}", "_".repeat(1000)), Found::Misspelt),
            (&format!("x{}", "_".repeat(1000)), Found::Nothing),
        ] {
            assert_eq!(Names::new(&names).find(Text(key.as_bytes())), expected, "{key}");
        }
        let steps = [&"x".repeat(100), &"x".repeat(62), "\u{e4}", "n_a"].map(str::to_owned);
        let own: Vec<&str> = steps.iter().map(String::as_str).collect();
        for (key, expected) in [
            (own[0], Found::Name(0)),
            (own[1], Found::Name(1)),
            (&"x".repeat(61), Found::Nothing),
            (&"x".repeat(101), Found::Misspelt),
            ("\u{e4}", Found::Name(2)),
            ("\\u00e4", Found::Name(2)),
            ("na", Found::Misspelt),
            ("_n-a", Found::Misspelt),
        ] {
            assert_eq!(Names::new(&own).find(Text(key.as_bytes())), expected, "{key}");
        }
        let mut names = Names::new(&names);
        assert_eq!(names.find(Text(b"model")), Found::Name(0));
        assert_eq!(names.find(Text(b"m\\u006fdel")), Found::Twice);
    }

    #[test]
    fn texts_say_what_is_written_or_nothing() {
        for (written, said) in [
            ("a\\u0062\\n\\/\u{e4}", Some("ab\n/\u{e4}")),
            ("\\ud83d\\ude00\\u20ac", Some("\u{1f600}\u{20ac}")),
            ("\\ud800", None),
            ("\\udc00\\ud800", None),
            ("\\ud800\\u0041", None),
        ] {
            assert_eq!(Text(written.as_bytes()).decode().as_deref(), said, "{written}");
        }
    }

    #[test]
    fn what_goes_on_and_on_is_not_read_to_its_end() {
        let many = |part: &str, count: usize| format!("[{}0]", part.repeat(count));
        for part in ["0,", "\"\",", "[],", "{},", "{\"a\":0},", "\"\\n\",", "\"longer than eight\",", "0  ,"] {
            let read = |count| Scanner::new(many(part, count).as_bytes(), 1000).skip().map(drop);
            assert!(read(200).is_ok(), "{part}");
            assert_eq!(read(1100).unwrap_err().what, TOO_MANY, "{part}");
        }
        let object = format!("{{{}\"b\":0}}", "\"a\":0,".repeat(40));
        let read = |most| {
            let mut scanner = Scanner::new(object.as_bytes(), most);
            scanner.open_object()?;
            while scanner.next_key()?.is_some() {
                scanner.skip()?;
            }
            scanner.end()
        };
        assert!(read(1000).is_err() && read(2000).is_ok());
    }
}
