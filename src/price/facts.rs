//! Findings in one value that an upstream sent: a whole response, or an event of a stream.

use super::Shape;

/// The findings in one value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// True if it is an object.
    pub is_object: bool,
    /// The counters that it names.
    pub(super) counts: Counts,
    /// True if it has an object for the usage, whatever stands in it.
    pub has_usage: bool,
    /// True if `choices`, or what takes their place, hold something.
    pub has_choices: bool,
    /// True if it says that the upstream has failed.
    is_error: bool,
    /// True if something generated stands in it.
    has_text: bool,
    /// A bit for each of the first outputs that says that it has failed.
    failed: u32,
    /// A bit for each of the first outputs that has something generated in it; the highest for everything else.
    generated: u32,
    /// True if one of the outputs is said to be finished.
    is_finished: bool,
    /// True if the usage stands in it itself, and not in the message that begins with it.
    has_own_usage: bool,
    /// The `type` of an event.
    kind: Kind,
}

/// The kinds of event that differ in what they are worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Kind {
    /// No `type` is named.
    #[default]
    Unnamed,
    /// A piece of what is generated.
    Piece,
    /// Any other.
    Other,
}

/// Places in a usage object, or a response, where counters stand.
const NAMES: [&str; 29] = [
    "prompt_tokens",
    "input_tokens",
    "prompt_eval_count",
    "completion_tokens",
    "output_tokens",
    "eval_count",
    "total_tokens",
    "prompt_tokens_details/cached_tokens",
    "input_tokens_details/cached_tokens",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "num_cached_tokens",
    "cache_read_input_tokens",
    "prompt_tokens_details/cache_write_tokens",
    "input_tokens_details/cache_write_tokens",
    "cache_write_tokens",
    "cache_creation_input_tokens",
    "cache_creation/ephemeral_5m_input_tokens",
    "cache_creation/ephemeral_1h_input_tokens",
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "totalTokenCount",
    "cachedContentTokenCount",
    // Of the iterations of a message, each of which counts apart.
    "iterations/input_tokens",
    "iterations/output_tokens",
    "iterations/cache_read_input_tokens",
    "iterations/cache_creation_input_tokens",
];

/// The counters that a value names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Counts {
    /// One for each of [`NAMES`].
    found: [Option<u64>; NAMES.len()],
    /// True of those that stand there without a number that could be meant.
    unreadable: [bool; NAMES.len()],
    /// Where JSON pointers lead to: input, cached input, output.
    pub(super) pointed: [Option<u64>; 3],
}

impl Counts {
    fn index(name: &str) -> Option<usize> {
        NAMES.iter().position(|known| *known == name)
    }

    #[inline(never)]
    fn keep(&mut self, name: &str, number: Option<u64>) {
        let is_sum = name.starts_with("iterations/");
        let Some(index) = Self::index(name) else { return };
        if let Some(place) = self.found.get_mut(index) {
            // The last plausible one counts where a name stands twice.
            *place = match (number, *place) {
                (Some(number), Some(sum)) if is_sum => Some(sum.saturating_add(number)),
                (number, known) => number.or(known),
            };
        }
        if let (None, Some(place)) = (number, self.unreadable.get_mut(index)) {
            *place = true;
        }
    }

    /// A counter by its name.
    #[inline(never)]
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.found.get(Self::index(name)?).copied().flatten()
    }

    /// The first counter that is there.
    #[inline(never)]
    pub(super) fn first(&self, names: &[&str]) -> Option<u64> {
        names.iter().find_map(|name| self.get(name))
    }

    /// The highest of several names of one counter.
    #[inline(never)]
    pub(super) fn highest(&self, names: &[&str]) -> Option<u64> {
        names.iter().filter_map(|name| self.get(name)).max()
    }

    /// The sum of counters, of which at least one is there.
    #[inline(never)]
    pub(super) fn sum(&self, names: &[&str]) -> Option<u64> {
        names.iter().filter_map(|name| self.get(name)).reduce(u64::saturating_add)
    }

    fn tells_output(&self) -> bool {
        const OUTPUT: [&str; 7] = [
            "completion_tokens",
            "output_tokens",
            "eval_count",
            "total_tokens",
            "candidatesTokenCount",
            "totalTokenCount",
            "iterations/output_tokens",
        ];
        self.first(&OUTPUT).is_some() || self.pointed.last().copied().flatten().is_some()
    }

    /// Returns whether one of the counters is there, and says no number.
    #[inline(never)]
    pub(super) fn is_unreadable(&self, names: &[&str]) -> bool {
        let is_one = |name: &&str| Self::index(name).and_then(|index| self.unreadable.get(index)) == Some(&true);
        names.iter().any(is_one)
    }
}

/// Fields of a response in which something is looked for.
const FIELDS: [&str; 16] = [
    "usage",
    "meta",
    "choices",
    "response",
    "message",
    "x_groq",
    "usageMetadata",
    "candidates",
    "error",
    "errors",
    "delta",
    "data",
    "result",
    "content",
    "output",
    "content_block",
];

impl Facts {
    /// Returns whether something may be found below a field of the whole.
    pub(super) fn looks_into(shape: &Shape, path: &str, is_list: bool) -> bool {
        let first = path.get(1..).unwrap_or_default();
        let is_pointed = |pointer: &str| pointer.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        (FIELDS.contains(&first) && !(is_list && first == "data"))
            || match shape {
                Shape::Pointers(pointers) => pointers.of_response().into_iter().flatten().any(is_pointed),
                _ => false,
            }
    }

    /// Returns whether it tells of a failure, and has nothing that could be paid for.
    pub const fn is_failure(&self) -> bool {
        if self.failed != 0 { self.generated & !self.failed == 0 } else { self.is_error && !self.has_text }
    }

    /// Takes it for the word of a failure, whatever stands in it.
    pub(super) const fn fail(&mut self) {
        self.is_error = true;
    }

    /// Returns whether something generated comes with it, as far as can be told: what is of no known kind counts.
    pub const fn generates(&self) -> bool {
        if !self.is_object || self.has_text {
            return true;
        }
        match self.kind {
            Kind::Piece => true,
            Kind::Other => false,
            Kind::Unnamed => !self.has_choices && !self.has_usage && !self.is_error,
        }
    }

    /// Returns whether it is there for its usage alone.
    pub const fn is_for_usage_alone(&self) -> bool {
        self.has_usage && !self.has_choices && !self.has_text && matches!(self.kind, Kind::Unnamed) && !self.is_error
    }

    /// Returns whether usage that it tells is that of the whole response, and not of what there was of it by then.
    pub fn is_last_word(&self, shape: &Shape) -> bool {
        match shape {
            Shape::OpenAi | Shape::Gemini => self.is_finished || (!self.has_choices && !self.has_text),
            Shape::Anthropic => self.has_own_usage,
            Shape::Pointers(_) => false,
        }
    }

    /// Returns whether it tells the output.
    pub fn tells_output(&self) -> bool {
        self.counts.tells_output()
    }

    #[inline(never)]
    pub(super) fn on_container(&mut self, path: &str, is_list: bool) {
        if !is_list && find(&USAGE, path) == Some("") {
            self.has_usage = true;
            self.has_own_usage |= path == "/usage";
        }
        // An element of the list, whatever is in it.
        self.has_choices |= find(&["/choices/*", "/candidates/*"], path).is_some();
    }

    #[inline(never)]
    pub(super) fn on_word(&mut self, shape: &Shape, path: &str, word: &[u8]) {
        if word == b"null" {
            return;
        }
        let number = whole(word);
        self.count(shape, path, number);
        if word != b"false" && number != Some(0) {
            self.on_error(path);
        }
    }

    #[inline(never)]
    pub(super) fn on_text(&mut self, shape: &Shape, path: &str, text: &[u8]) {
        self.count(shape, path, whole(text));
        if text.is_empty() {
            return;
        }
        self.on_error(path);
        match path {
            "/type" => {
                let is_piece = text.ends_with(b"delta") && text != b"message_delta";
                self.kind = if is_piece { Kind::Piece } else { Kind::Other };
                self.is_error |= text == b"error" || text == b"response.failed";
            }
            "/object" => self.is_error |= text == b"error",
            _ if find(&FINISHES, path) == Some("") => self.is_finished = true,
            _ if is_generated(path) => {
                self.has_text = true;
                self.generated |= bit(path);
            }
            _ => {}
        }
    }

    /// Takes in a word or a text that says something, wherever it stands.
    #[inline(never)]
    fn on_error(&mut self, path: &str) {
        if find(&ERRORS, path).is_some() {
            self.is_error = true;
            self.failed |= if path.starts_with("/choices/") { bit(path) } else { 0 };
        }
    }

    #[inline(never)]
    fn count(&mut self, shape: &Shape, path: &str, number: Option<u64>) {
        if let Shape::Pointers(pointers) = shape {
            for (place, pointer) in self.counts.pointed.iter_mut().zip(pointers.of_response()) {
                if pointer == Some(path) {
                    *place = number.or(*place);
                    self.has_usage |= number.is_some();
                }
            }
            return;
        }
        let name = match (find(&USAGE, path), path.strip_prefix('/')) {
            (Some(name), _) => name.strip_prefix('/').unwrap_or_default(),
            (None, Some(name @ ("prompt_eval_count" | "eval_count"))) => {
                // Ollama's own interface has the counters in the last line itself.
                self.has_usage |= number.is_some();
                self.is_finished |= number.is_some();
                name
            }
            _ => return,
        };
        match name.split_once('/') {
            Some(("iterations", rest)) => {
                let name = rest.split_once('/').map_or("", |(_, name)| name);
                let is_it = |known: &&&str| known.strip_prefix("iterations/") == Some(name);
                NAMES.iter().find(is_it).into_iter().for_each(|known| self.counts.keep(known, number));
            }
            _ => self.counts.keep(name, number),
        }
    }
}

/// Places of the object that holds the usage. In these patterns `*` stands for one step.
const USAGE: [&str; 13] = [
    "/usage/billed_units",
    "/delta/usage/billed_units",
    "/meta/billed_units",
    "/usage",
    "/response/usage",
    "/message/usage",
    "/x_groq/usage",
    "/delta/usage",
    "/data/usage",
    "/result/usage",
    "/choices/*/usage",
    "/usageMetadata",
    "/response/usageMetadata",
];

/// Places of errors.
const ERRORS: [&str; 6] =
    ["/error", "/errors", "/response/error", "/message/error", "/x_groq/error", "/choices/*/error"];

/// Places where it is said that an output is finished.
const FINISHES: [&str; 2] = ["/choices/*/finish_reason", "/candidates/*/finishReason"];

/// Places at or below which stands what was generated.
const GENERATED: [&str; 5] =
    ["/choices/*/delta", "/choices/*/message", "/choices/*/text", "/candidates/*/content", "/message/content"];

/// Places at which it stands.
const GENERATED_AT: [&str; 10] = [
    "/response",
    "/content",
    "/delta",
    "/message/thinking",
    "/content/*/text",
    "/content/*/thinking",
    "/delta/text",
    "/delta/thinking",
    "/delta/partial_json",
    "/output/*/content/*/text",
];

/// Names of what is beside it, and is no output.
const LABELS: [&str; 6] = ["role", "type", "id", "name", "object", "status"];

/// Returns what follows, in a path, behind the first of these places that it leads to or through.
#[inline(never)]
fn find<'a>(places: &[&str], path: &'a str) -> Option<&'a str> {
    places.iter().find_map(|place| behind(place.as_bytes(), path))
}

fn behind<'a>(place: &[u8], path: &'a str) -> Option<&'a str> {
    let bytes = path.as_bytes();
    let mut at = 0_usize;
    for step in place {
        if *step == b'*' {
            while bytes.get(at).is_some_and(|byte| *byte != b'/') {
                at = at.saturating_add(1);
            }
        } else if bytes.get(at) == Some(step) {
            at = at.saturating_add(1);
        } else {
            return None;
        }
    }
    path.get(at..).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The bit of the output that a path leads into.
fn bit(path: &str) -> u32 {
    const OTHERS: u32 = 31;
    let index = path.strip_prefix("/choices/").and_then(|rest| rest.split('/').next()?.parse().ok());
    1_u32.checked_shl(index.unwrap_or(OTHERS).min(OTHERS)).unwrap_or_default()
}

/// Returns whether a text at this place is something that a model has generated.
fn is_generated(path: &str) -> bool {
    let label = path.rsplit_once('/').map_or("", |(_, label)| label);
    find(&GENERATED_AT, path) == Some("") || (find(&GENERATED, path).is_some() && !LABELS.contains(&label))
}

/// Returns the whole number that a text stands for, however it is written: `9`, `9.0`, `90e-1`; `None` where it is none, is
/// negative, or has more than 64 bits.
pub(super) fn whole(text: &[u8]) -> Option<u64> {
    /// Digits of an exponent that say something about 64 bits.
    const MOST: i64 = 1000;
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let (mut number, mut shift, mut zeros) = (0_u64, 0_i64, 0_i64);
    let (mut has_digits, mut has_point) = (false, false);
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'0'..=b'9' => {
                has_digits = true;
                shift = shift.saturating_sub(i64::from(has_point));
                if *byte == b'0' {
                    zeros = zeros.saturating_add(1);
                    continue;
                }
                // Zeros count once something stands behind them.
                number = times_ten(number, zeros.saturating_add(1))?.checked_add(u64::from(byte.wrapping_sub(b'0')))?;
                zeros = 0;
            }
            b'.' if !has_point => has_point = true,
            b'e' | b'E' => {
                let (sign, digits) = match rest.as_slice() {
                    [b'-', digits @ ..] => (-1, digits),
                    [b'+', digits @ ..] | digits => (1, digits),
                };
                let mut exponent = if digits.is_empty() { return None } else { 0_i64 };
                for digit in digits {
                    let digit = digit.is_ascii_digit().then(|| digit.wrapping_sub(b'0'))?;
                    exponent = exponent.saturating_mul(10).saturating_add(i64::from(digit)).min(MOST);
                }
                shift = shift.saturating_add(exponent.saturating_mul(sign));
                break;
            }
            _ => return None,
        }
    }
    let shift = shift.saturating_add(zeros);
    match number {
        _ if !has_digits => None,
        0 => Some(0),
        _ => times_ten(number, shift),
    }
}

/// A number with so many zeros behind it.
fn times_ten(number: u64, zeros: i64) -> Option<u64> {
    if number == 0 {
        return Some(0);
    }
    let mut number = number;
    for _ in 0..u32::try_from(zeros).ok()?.min(20) {
        number = number.checked_mul(10)?;
    }
    Some(number)
}
