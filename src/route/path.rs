//! Readings of a path: what an upstream might make of it.
//!
//! Servers differ in what they do to a path before they look at it: fold letter case, merge slashes, resolve dot
//! segments, cut off `;params`. Those are habits, and every reading that they lead to is known. Beyond them lies what no
//! honest client sends (encoded slashes and dots, backslashes, control bytes, double encoding, broken escapes), where
//! servers differ without end: such a path is opaque.

/// A path's segments, decoded and folded to lower case.
pub type Segments = Vec<String>;

/// Bytes and segments of a path that leaves room for readings, beyond which it is opaque: each reading is a copy, and
/// nobody honest is that playful at such length.
const MAX_PLAYFUL_LENGTH: usize = 2 * 1024;
const MAX_PLAYFUL_SEGMENTS: usize = 64;

/// Readings of a path beyond which it is opaque.
const MAX_READINGS: usize = 32;

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
        let ([b'/', rest @ ..], Some(text)) = (path, literal) else {
            return Self::Opaque { literal, prefix: Vec::new() };
        };
        let mut segments = Vec::new();
        for raw in rest.split(|byte| *byte == b'/') {
            match decode_segment(raw) {
                Some(segment) => segments.push(fold(&segment)),
                None => return Self::Opaque { literal, prefix: firm_prefix(&segments, path) },
            }
        }
        // A final slash is the one thing that leaves but one reading.
        if segments.last().is_some_and(String::is_empty) {
            segments.pop();
        }
        if segments.iter().all(|segment| is_plain(segment)) {
            return Self::Readable { literal: text, readings: vec![segments] };
        }
        let is_short = path.len() <= MAX_PLAYFUL_LENGTH && segments.len() <= MAX_PLAYFUL_SEGMENTS;
        match Some(segments).filter(|_| is_short).and_then(readings) {
            Some(readings) => Self::Readable { literal: text, readings },
            None => Self::Opaque { literal, prefix: Vec::new() },
        }
    }
}

/// Folds the letter case of a segment, also of the letters beyond ASCII that some servers take for letters of it.
pub(super) fn fold(segment: &str) -> String {
    let unified = segment.chars().map(|letter| match letter {
        'ſ' => 's',
        'ı' | 'İ' => 'i',
        letter => letter,
    });
    unified.flat_map(char::to_lowercase).collect()
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
    // Some servers trim spaces, and some systems final dots, of the whole or of what they leave of it.
    let ends = text.match_indices([';', '?', '#']).map(|(end, _)| end).chain([text.len()]);
    let is_trimmed = ends.filter_map(|end| text.get(..end)).any(is_trimmed);
    (!is_encoded_dots && !is_trimmed).then_some(text)
}

fn is_trimmed(text: &str) -> bool {
    text.trim() != text || (text.ends_with('.') && !is_dots(text))
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
    if climbs(path) || !segments.iter().all(|segment| is_plain(segment)) { Vec::new() } else { segments.to_vec() }
}

/// Whether a segment can be read in one way only.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty() && !is_dots(segment) && !segment.contains(['?', '#', ';'])
}

/// Whether some number of decodings could bring out a `..`, which climbs over the segments before it.
fn climbs(path: &[u8]) -> bool {
    const DECODINGS: usize = 4;
    let mut path = path.to_vec();
    for _ in 0..DECODINGS {
        path = decode_leniently(&path);
        // Some servers drop control characters, and what stood apart comes together.
        path.retain(|byte| !byte.is_ascii_control());
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

/// All that habits of servers make of a path, in any order and number, the path as written first; `None` where that is
/// too much.
fn readings(segments: Segments) -> Option<Vec<Segments>> {
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
fn drop_authority(segments: &[String]) -> Segments {
    let slashes = segments.iter().take_while(|segment| segment.is_empty()).count();
    let authority = usize::from(slashes > 0);
    segments.iter().skip(slashes.saturating_add(authority)).cloned().collect()
}

/// An encoded `?` or `#` read as the end of the path.
fn cut_at_query(segments: &[String]) -> Segments {
    cut_at(segments, &['?', '#'])
}

fn cut_at(segments: &[String], ends: &[char]) -> Segments {
    let Some(last) = segments.iter().position(|segment| segment.contains(ends)) else { return segments.to_vec() };
    let cut = segments.get(last).and_then(|segment| segment.split(ends).next()).unwrap_or_default();
    segments.iter().take(last).cloned().chain([cut.to_owned()]).collect()
}

/// A `;` read as the end of the path.
fn cut_at_params(segments: &[String]) -> Segments {
    cut_at(segments, &[';'])
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
