//! Readings of a path: what an upstream might make of it.
//!
//! Servers differ in what they do to a path before they look at it: fold letter case, merge slashes, resolve dot
//! segments, cut off `;params`. Those are habits, and every reading that they lead to is known. Beyond them lies what no
//! honest client sends (encoded slashes and dots, backslashes, control bytes, double encoding, broken escapes), where
//! servers differ without end: such a path is opaque.

use std::borrow::Cow;

/// A path's segments, decoded, and folded to lower case as far as they are compared with anything.
pub type Segments<'a> = Vec<&'a str>;

/// Bytes and segments of a path that leaves room for readings, beyond which it is opaque: each reading is a list, and
/// nobody honest is that playful at such length.
const MAX_PLAYFUL_LENGTH: usize = 2 * 1024;
const MAX_PLAYFUL_SEGMENTS: usize = 64;

/// Segments of a path beyond which it is opaque: no pattern has as many, and none is looked at that has no use.
pub(super) const MAX_SEGMENTS: usize = 256;

/// Readings of a path beyond which it is opaque.
const MAX_READINGS: usize = 32;

/// The readings of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// One of these. The first is the path as it was written, but for the folding that they all have undergone.
    Readable(Vec<Segments<'a>>),
    /// Anything that begins with these segments, which stand before the trouble, and which no reading takes back.
    Opaque(Segments<'a>),
}

/// A path, decoded up to where servers would not agree on what it says.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// The path as it was written, without query; `None` where it is no text.
    written: Option<&'a str>,
    /// The segments, folded, one behind the other.
    text: String,
    /// The end of each.
    ends: Vec<usize>,
    /// True if there is more, on which servers would not agree.
    is_cut: bool,
}

impl<'a> Decoded<'a> {
    /// Decodes `:path`, where no segment that is compared with it folds into more bytes than `longest`.
    pub fn new(path_and_query: &'a [u8], longest: usize) -> Self {
        let written = path_and_query.split(|byte| *byte == b'?').next().unwrap_or_default();
        let written = std::str::from_utf8(written).ok();
        let length = written.map_or(0, str::len);
        let mut decoded = Self { written, text: String::with_capacity(length), ends: Vec::new(), is_cut: true };
        for raw in decoded.raw_segments() {
            let segment = if decoded.ends.len() < MAX_SEGMENTS { decode_segment(raw) } else { None };
            let Some(segment) = segment else { return decoded };
            // A letter of three bytes may fold into one of one, and no less; and what is compared of a segment is all of it
            // or what a server leaves of it: its beginning.
            let most = longest.saturating_add(1).saturating_mul(3).min(segment.len());
            let end = (0..=most).rev().find(|end| segment.is_char_boundary(*end)).unwrap_or_default();
            let (compared, rest) = segment.split_at_checked(end).unwrap_or((&segment, ""));
            fold_into(&mut decoded.text, compared);
            decoded.text.push_str(rest);
            decoded.ends.push(decoded.text.len());
        }
        decoded.is_cut = decoded.ends.is_empty();
        decoded
    }

    /// The segments as they were written; none where it begins with none.
    fn raw_segments(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.written.and_then(|written| written.strip_prefix('/')).into_iter().flat_map(|path| path.split('/'))
    }

    /// The segments of the path as they were written, as far as they are looked at and one more where there are more;
    /// `None` where it has none, or is no text.
    pub fn literal(&self) -> Option<Segments<'a>> {
        let segments: Segments<'a> = self.raw_segments().take(MAX_SEGMENTS.saturating_add(1)).collect();
        (!segments.is_empty()).then_some(segments)
    }

    /// Returns the readings of the path.
    pub fn path(&self) -> Path<'_> {
        let mut segments = self.segments();
        if self.is_cut {
            let is_firm = segments.iter().all(|segment| is_plain(segment)) && !self.written.is_none_or(climbs);
            return Path::Opaque(if is_firm { segments } else { Vec::new() });
        }
        // A final slash is the one thing that leaves but one reading.
        if segments.last().is_some_and(|segment| segment.is_empty()) {
            segments.pop();
        }
        if segments.iter().all(|segment| is_plain(segment)) {
            return Path::Readable(vec![segments]);
        }
        let is_short =
            self.written.is_some_and(|path| path.len() <= MAX_PLAYFUL_LENGTH) && segments.len() <= MAX_PLAYFUL_SEGMENTS;
        match Some(segments).filter(|_| is_short).and_then(readings) {
            Some(readings) => Path::Readable(readings),
            None => Path::Opaque(Vec::new()),
        }
    }

    fn segments(&self) -> Segments<'_> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.text.get(start..*end).unwrap_or_default()).collect()
    }
}

/// Folds the letter case of a segment, also of the letters beyond ASCII that some servers take for letters of it.
pub(super) fn fold(segment: &str) -> String {
    let mut folded = String::with_capacity(segment.len());
    fold_into(&mut folded, segment);
    folded
}

fn fold_into(folded: &mut String, segment: &str) {
    if segment.is_ascii() {
        let start = folded.len();
        folded.push_str(segment);
        folded.get_mut(start..).into_iter().for_each(str::make_ascii_lowercase);
        return;
    }
    for letter in segment.chars() {
        match letter {
            letter if letter.is_ascii() => folded.push(letter.to_ascii_lowercase()),
            'ſ' => folded.push('s'),
            'ı' | 'İ' => folded.push('i'),
            letter => {
                let mut lower = letter.to_lowercase();
                folded.push(lower.next().unwrap_or(letter));
                folded.extend(lower);
            }
        }
    }
}

/// Decodes a segment; `None` where servers would not agree on what it says.
#[inline(never)]
fn decode_segment(raw: &str) -> Option<Cow<'_, str>> {
    let is_doubtful = |byte: u8| byte == b'#' || byte == b'\\' || byte.is_ascii_control();
    let mut has_escapes = false;
    for byte in raw.bytes() {
        if is_doubtful(byte) {
            return None;
        }
        has_escapes |= byte == b'%';
    }
    if !has_escapes {
        return (!is_trimmed(raw)).then_some(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = if *first == b'%' { decode_escape(after)? } else { (*first, after) };
        bytes.push(byte);
        rest = after;
    }
    let text = String::from_utf8(bytes).ok()?;
    let is_encoded_dots = is_dots(without_params(&text));
    (!is_encoded_dots && !is_trimmed(&text)).then_some(Cow::Owned(text))
}

/// Returns whether some server would trim something off the text, or off what it leaves of it where it cuts it at a `;`, a `?` or
/// a `#`: some trim spaces, and some systems final dots.
#[inline(never)]
fn is_trimmed(text: &str) -> bool {
    let is_cut_short = |kept: &str| match kept.as_bytes().last() {
        Some(b'.') => !is_dots(kept),
        Some(last) if last.is_ascii() => last.is_ascii_whitespace() || *last == 0x0b,
        _ => kept.chars().next_back().is_some_and(char::is_whitespace),
    };
    let ends = text.bytes().enumerate().filter(|(_, byte)| matches!(byte, b';' | b'?' | b'#')).map(|(end, _)| end);
    text.chars().next().is_some_and(char::is_whitespace)
        || ends.chain([text.len()]).any(|end| text.get(..end).is_some_and(is_cut_short))
}

/// The byte of an escape without its `%`, and what follows. Encoded, `/`, `%`, `;` and `\` mean one thing to servers that
/// decode once and another to those that decode twice, so they give `None` as broken escapes and control characters do.
fn decode_escape(digits_and_rest: &[u8]) -> Option<(u8, &[u8])> {
    let (byte, rest) = hex_byte(digits_and_rest)?;
    (!matches!(byte, b'/' | b'%' | b';' | b'\\') && !byte.is_ascii_control()).then_some((byte, rest))
}

/// The byte that two hexadecimal digits are, and what follows them.
fn hex_byte(digits_and_rest: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = digits_and_rest.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(*high)? << 4 | digit(*low)?, rest))
}

/// Returns whether a segment can be read in one way only.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty() && !is_dots(segment) && !segment.bytes().any(|byte| matches!(byte, b'?' | b'#' | b';'))
}

/// Returns whether some number of decodings could bring out a `..`, which climbs over the segments before it.
#[inline(never)]
fn climbs(path: &str) -> bool {
    const DECODINGS: usize = 4;
    let mut path = path.as_bytes().to_vec();
    for _ in 0..DECODINGS {
        let length = path.len();
        decode_leniently(&mut path);
        if path.len() == length {
            break;
        }
    }
    // A `%` that is left is no escape, but some server could make one of it and what follows in its segment: not every one
    // wants two hexadecimal digits (`%u002e`), or looks whether there are.
    let is_doubtful = |(byte, next): (&u8, &u8)| match byte {
        b'%' => *next != b'/',
        b'.' => *next == b'.',
        _ => false,
    };
    let behind = path.iter().skip(1).chain([&b'/']);
    std::str::from_utf8(&path).is_err() || path.iter().zip(behind).any(is_doubtful)
}

/// Decodes every escape that is whole and leaves the others. Some servers drop control characters, and what stood apart
/// comes together.
fn decode_leniently(bytes: &mut Vec<u8>) {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let escape = if *first == b'%' { hex_byte(after) } else { None };
        let (byte, after) = escape.unwrap_or((*first, after));
        if !byte.is_ascii_control() {
            decoded.push(byte);
        }
        rest = after;
    }
    *bytes = decoded;
}

/// All that habits of servers make of a path, in any order and number, the path as written first; `None` where that is
/// too much.
#[inline(never)]
fn readings(segments: Segments<'_>) -> Option<Vec<Segments<'_>>> {
    let habits = [cut_at_query, cut_at_params, drop_params, resolve_dots, drop_authority, merge_slashes];
    let mut readings = vec![segments];
    let mut next = 0;
    while let Some(reading) = readings.get(next).cloned() {
        for habit in habits {
            let more = habit(&reading);
            if !readings.contains(&more) {
                readings.push(more);
            }
        }
        if readings.len() > MAX_READINGS {
            return None;
        }
        next = next.saturating_add(1);
    }
    // The path as written may hold empty segments, which patterns do not.
    if let Some(written) = readings.first_mut() {
        *written = merge_slashes(written);
    }
    Some(readings)
}

/// `//host/path` read as a reference with an authority. Browsers' URL parsers take any number of slashes.
fn drop_authority<'a>(segments: &[&'a str]) -> Segments<'a> {
    let slashes = segments.iter().take_while(|segment| segment.is_empty()).count();
    let authority = usize::from(slashes > 0);
    segments.iter().skip(slashes.saturating_add(authority)).copied().collect()
}

/// An encoded `?` or `#` read as the end of the path.
fn cut_at_query<'a>(segments: &[&'a str]) -> Segments<'a> {
    cut_at(segments, &['?', '#'])
}

fn cut_at<'a>(segments: &[&'a str], ends: &[char]) -> Segments<'a> {
    let Some(last) = segments.iter().position(|segment| segment.contains(ends)) else { return segments.to_vec() };
    let cut = segments.get(last).and_then(|segment| segment.split(ends).next()).unwrap_or_default();
    segments.iter().take(last).copied().chain([cut]).collect()
}

/// A `;` read as the end of the path.
fn cut_at_params<'a>(segments: &[&'a str]) -> Segments<'a> {
    cut_at(segments, &[';'])
}

/// `;params` dropped from every segment.
fn drop_params<'a>(segments: &[&'a str]) -> Segments<'a> {
    segments.iter().map(|segment| without_params(segment)).collect()
}

/// Empty segments dropped.
fn merge_slashes<'a>(segments: &[&'a str]) -> Segments<'a> {
    segments.iter().filter(|segment| !segment.is_empty()).copied().collect()
}

/// Dot segments resolved (RFC 3986, section 5.2.4).
fn resolve_dots<'a>(segments: &[&'a str]) -> Segments<'a> {
    let mut resolved = Segments::new();
    for segment in segments {
        match *segment {
            "." => {}
            ".." => {
                resolved.pop();
            }
            segment => resolved.push(segment),
        }
    }
    resolved
}

fn without_params(segment: &str) -> &str {
    segment.split(';').next().unwrap_or(segment)
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}
