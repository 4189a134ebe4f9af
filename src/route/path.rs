//! Readings of a path: what an upstream might make of it.
//!
//! Servers differ in what they do to a path before they look at it: fold letter case, merge slashes, resolve dot
//! segments, cut off `;params`. Those are habits, and every reading that they lead to is known. Beyond them lies what no
//! honest client sends (encoded slashes and dots, backslashes, control bytes, double encoding, broken escapes), where
//! servers differ without end: such a path is opaque.

/// A path's segments, decoded and folded to lower case; none is empty.
pub type Segments = Vec<String>;

/// Bytes of a path beyond which it is opaque. Most servers read no further.
const MAX_LENGTH: usize = 8 * 1024;

/// What a path can be read as.
#[derive(Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// One of these. The first is the path as it was written, but for the folding that they all have undergone.
    Readable {
        /// The path as it was written, without query.
        literal: &'a str,
        /// What it can be read as.
        readings: Vec<Segments>,
    },
    /// Anything that begins with `prefix`.
    Opaque {
        /// The path as it was written, without query, where it is text.
        literal: Option<&'a str>,
        /// Segments that stand before the trouble, and that no reading takes back.
        prefix: Segments,
    },
}

impl<'a> Path<'a> {
    /// Reads `:path`.
    pub fn read(path_and_query: &'a [u8]) -> Self {
        let path = path_and_query.split(|byte| *byte == b'?').next().unwrap_or_default();
        let literal = std::str::from_utf8(path).ok();
        let ([b'/', rest @ ..], Some(text), 0..=MAX_LENGTH) = (path, literal, path.len()) else {
            return Self::Opaque { literal, prefix: Vec::new() };
        };
        let mut segments = Vec::new();
        for raw in rest.split(|byte| *byte == b'/') {
            match decode_segment(raw) {
                Some(segment) => segments.push(segment),
                None => return Self::Opaque { literal, prefix: firm_prefix(&segments, path) },
            }
        }
        Self::Readable { literal: text, readings: readings(&segments) }
    }
}

/// Folds the letter case of a segment.
pub(super) fn fold(segment: &str) -> String {
    segment.chars().flat_map(char::to_lowercase).collect()
}

/// Decodes a segment; `None` where servers would not agree on what it says.
fn decode_segment(raw: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'#' => return None,
            b'%' => decode_escape(after)?,
            byte => (*byte, after),
        };
        if byte == b'\\' || byte.is_ascii_control() {
            return None;
        }
        bytes.push(byte);
        rest = after;
    }
    let had_escapes = bytes.len() < raw.len();
    let text = String::from_utf8(bytes).ok()?;
    let is_encoded_dots = had_escapes && is_dots(without_params(&text));
    (!is_encoded_dots).then_some(text)
}

/// The byte of an escape without its `%`, and what follows. Encoded, `/`, `%` and `;` mean one thing to servers that
/// decode once and another to those that decode twice, so they give `None` as broken escapes do.
fn decode_escape(digits_and_rest: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = digits_and_rest.split_first_chunk::<2>()?;
    let byte = *hex::decode(digits).ok()?.first()?;
    (!matches!(byte, b'/' | b'%' | b';')).then_some((byte, rest))
}

/// The segments before the trouble in an opaque path, where nothing behind them can take them back.
fn firm_prefix(segments: &[String], path: &[u8]) -> Segments {
    let plain = |segment: &String| !segment.is_empty() && !is_dots(segment) && !segment.contains(['?', '#', ';']);
    if climbs(path) || !segments.iter().all(plain) {
        return Vec::new();
    }
    segments.iter().map(|segment| fold(segment)).collect()
}

/// Whether some number of decodings could bring out a `..`, which climbs over the segments before it.
fn climbs(path: &[u8]) -> bool {
    const DECODINGS: usize = 4;
    let mut path = path.to_vec();
    for _ in 0..DECODINGS {
        path = decode_leniently(&path);
    }
    let Ok(text) = std::str::from_utf8(&path) else { return true };
    text.contains('%') || text.as_bytes().windows(2).any(|pair| pair == b"..")
}

/// Decodes every escape that is whole and leaves the others.
fn decode_leniently(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escape = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let decoded_escape = escape.and_then(|(digits, after)| Some((*hex::decode(digits).ok()?.first()?, after)));
        let (byte, after) = decoded_escape.unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// All that habits of servers make of a path, the path as written first.
fn readings(segments: &[String]) -> Vec<Segments> {
    let habits = [drop_authority, cut_at_query, drop_params, merge_slashes, resolve_dots];
    let mut readings = vec![segments.to_vec()];
    for habit in habits {
        let more: Vec<_> =
            readings.iter().map(|reading| habit(reading)).filter(|more| !readings.contains(more)).collect();
        readings.extend(more);
    }
    let mut folded: Vec<Segments> = Vec::with_capacity(readings.len());
    for reading in readings {
        let reading = merge_slashes(&reading).iter().map(|segment| fold(segment)).collect();
        if !folded.contains(&reading) {
            folded.push(reading);
        }
    }
    folded
}

/// `//host/path` read as a reference with an authority.
fn drop_authority(segments: &[String]) -> Segments {
    match segments {
        [empty, _authority, path @ ..] if empty.is_empty() => path.to_vec(),
        segments => segments.to_vec(),
    }
}

/// An encoded `?` or `#` read as the end of the path.
fn cut_at_query(segments: &[String]) -> Segments {
    let Some(last) = segments.iter().position(|segment| segment.contains(['?', '#'])) else { return segments.to_vec() };
    let cut = segments.get(last).and_then(|segment| segment.split(['?', '#']).next()).unwrap_or_default();
    segments.iter().take(last).cloned().chain([cut.to_owned()]).collect()
}

/// `;params` dropped from every segment.
fn drop_params(segments: &[String]) -> Segments {
    segments.iter().map(|segment| without_params(segment).to_owned()).collect()
}

/// Empty segments dropped.
fn merge_slashes(segments: &[String]) -> Segments {
    segments.iter().filter(|segment| !segment.is_empty()).cloned().collect()
}

/// Dot segments resolved (RFC 3986, section 5.2.4).
fn resolve_dots(segments: &[String]) -> Segments {
    let mut resolved = Segments::new();
    for segment in segments {
        match segment.as_str() {
            "." => {}
            ".." => drop(resolved.pop()),
            _ => resolved.push(segment.clone()),
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
