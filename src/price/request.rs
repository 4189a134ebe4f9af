//! The part of a request to a model that its price depends on.

use std::borrow::Cow;

use super::{Pointers, PriceError, Shape, Tariff};
use crate::metadata::MetadataKey;
use crate::scan::{Found, Names, Scanner, Text, has_half_letter};

/// The most that a request can make a model do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    /// The model, as the request names it.
    pub model: String,
    /// The index of the model in the tariff.
    pub model_index: usize,
    /// Tokens of input.
    pub input: u64,
    /// Tokens of output, of all choices together.
    pub output: u64,
    /// True if the response is to be a stream of events.
    pub streams: bool,
    /// True if the client itself asks for the usage at the end of the stream.
    pub wants_usage: bool,
    /// True if it was found in the whole body, so that another body may be another job. What the proxy's metadata say is
    /// not all of it.
    pub is_read_whole: bool,
    /// The edit that asks for the usage at the end of the stream, where the client does not and its interface lets it.
    pub wish: Option<Wish>,
    /// True if nothing in the request itself names what the wish adds, so that a refusal that names it is about the wish.
    pub is_wish_alone: bool,
}

/// An edit of a body that asks for the usage at the end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wish {
    /// The start and the end of the bytes that it replaces.
    place: (usize, usize),
    /// The text in their place.
    text: &'static str,
}

/// The fields that OpenAI's requests are priced by.
const OPENAI: &[&str] = &[
    "model",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
    "background",
    "models",
    "fallbacks",
    "n",
    "best_of",
    "messages",
    "prompt",
    "input",
    "stream",
    "stream_options",
];

/// Those of them that can stand in metadata.
const IN_METADATA: [&str; 6] = ["model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"];

/// The fields that Anthropic's requests are priced by.
const ANTHROPIC: &[&str] = &["model", "max_tokens", "stream"];

/// Bytes of a model's name beyond which it is none: names are looked for by patterns, and repeated in questions and
/// answers.
const MAX_MODEL_BYTES: usize = 512;

/// Keys and values that a body may hold: one for so many bytes of the longest, which is room for lists of tokens and for
/// talks in words of a few letters. What holds more is no question that anybody asks, and takes longer to read.
const BYTES_PER_VALUE: usize = 6;
const LEAST_VALUES: usize = 4096;

impl Tariff {
    /// Reads what a request asks for in its body.
    ///
    /// The whole body is held to be JSON, but only what the price depends on is looked at: on the way to it no key may
    /// stand twice, or be written so that some server takes it for another. Elsewhere a key may stand twice, for it cannot
    /// change the price: input is priced by the bytes of the body, whatever they say, and model, limits and numbers of
    /// outputs stand in known places alone.
    ///
    /// # Errors
    /// [`PriceError`] where it has no price.
    pub fn job(&self, body: &[u8]) -> Result<Job, PriceError> {
        self.job_at(b"", body)
    }

    /// Reads what a request asks for in its path (without the query) and its body.
    ///
    /// # Errors
    /// [`PriceError`] where it has no price.
    pub fn job_at(&self, path: &[u8], body: &[u8]) -> Result<Job, PriceError> {
        let most = self.max_body_bytes.checked_div(BYTES_PER_VALUE).unwrap_or(0).max(LEAST_VALUES);
        let mut scanner = Scanner::new(body, most);
        if scanner.peek() != b'{' {
            // Which is wrong with it, if it is JSON at all.
            scanner.skip()?;
            scanner.end()?;
            return Err(PriceError::Shape("the body is not a JSON object".to_owned()));
        }
        let asked = match &self.shape {
            Shape::OpenAi => openai(&mut scanner)?,
            Shape::Anthropic => anthropic(&mut scanner)?,
            Shape::Gemini => gemini(&mut scanner, path)?,
            Shape::Pointers(pointers) => by_pointers(&mut scanner, pointers)?,
        };
        scanner.end()?;
        if has_half_letter(body) {
            let error = "half a letter stands in the body (an escape such as \\ud83d without its other half); cut texts between letters";
            return Err(PriceError::Shape(error.to_owned()));
        }
        let limit = if has_no_output(path) { 0 } else { asked.limit.unwrap_or(self.max_output_tokens) };
        Ok(Job {
            model_index: self.find(&asked.model)?,
            model: asked.model,
            input: self.input_bound(u64::try_from(body.len()).unwrap_or(u64::MAX)),
            output: limit.checked_mul(asked.choices).ok_or(PriceError::TooMuch)?,
            streams: asked.streams,
            wants_usage: asked.wants_usage,
            is_read_whole: true,
            wish: asked.wish,
            is_wish_alone: false,
        })
    }

    /// Returns the keys of the proxy's dynamic metadata that the price depends on.
    pub fn metadata(&self) -> Vec<MetadataKey> {
        let Some(namespace) = &self.namespace else { return Vec::new() };
        let keys: &[&str] = if self.shape == Shape::Anthropic { &["model", "max_tokens"] } else { &IN_METADATA };
        keys.iter().map(|key| MetadataKey { namespace: namespace.clone(), key: (*key).to_owned() }).collect()
    }

    /// Reads what a request asks for from the proxy's metadata, where `value` finds it by its key, and the body has so many
    /// bytes. Several prompts in one request look like one here.
    ///
    /// # Errors
    /// [`PriceError`] where it has no price.
    pub fn job_of_metadata<'a>(
        &self,
        value: impl Fn(&MetadataKey) -> Option<&'a [u8]>,
        bytes: u64,
    ) -> Result<Job, PriceError> {
        let mut model = None;
        let mut limit = None;
        let mut choices = 1;
        for key in self.metadata() {
            let Some(bytes) = value(&key) else { continue };
            match key.key.as_str() {
                "model" => model = std::str::from_utf8(bytes).ok(),
                "n" | "best_of" => choices = number(bytes, &key.key)?.max(choices),
                _ => limit = limit.max(Some(number(bytes, &key.key)?).filter(|limit| *limit > 0)),
            }
        }
        let Some(model) = model else {
            return Err(PriceError::Shape("the request names no model, or the proxy did not find it".to_owned()));
        };
        if model.len() > MAX_MODEL_BYTES {
            return Err(overlong("model"));
        }
        Ok(Job {
            model_index: self.find(model)?,
            model: model.to_owned(),
            input: self.input_bound(bytes),
            output: limit.unwrap_or(self.max_output_tokens).checked_mul(choices).ok_or(PriceError::TooMuch)?,
            streams: false,
            wants_usage: true,
            is_read_whole: false,
            wish: None,
            is_wish_alone: false,
        })
    }
}

impl Job {
    /// The body with the wish for usage at the end of the stream: all else is left to the letter. `None` where there is
    /// nothing to add.
    pub fn with_wish_for_usage(&self, body: &[u8]) -> Option<Vec<u8>> {
        let Wish { place: (start, end), text } = self.wish?;
        Some([body.get(..start)?, text.as_bytes(), body.get(end..)?].concat())
    }
}

/// A whole number as metadata has it: a double, or a text.
fn number(bytes: &[u8], what: &str) -> Result<u64, PriceError> {
    let text = match bytes.try_into().map(f64::from_le_bytes) {
        // Written out, a whole number has no point, and a text of eight digits is no double that anybody meant.
        Ok(number) if number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number) => {
            format!("{number:.0}")
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.parse().map_err(|_| PriceError::Shape(format!("{what} is not a whole number of tokens")))
}

/// The fields of a body that the job follows from.
struct JobFields {
    model: String,
    limit: Option<u64>,
    choices: u64,
    streams: bool,
    wants_usage: bool,
    wish: Option<Wish>,
}

/// The values of the fields with these names, each as it is written.
struct Fields<'a> {
    names: &'static [&'static str],
    values: Vec<&'a [u8]>,
}

/// Reads a field that begins with such a byte, or leaves it where it is.
type Read<'a, 'r> = &'r mut dyn FnMut(&mut Scanner<'a>, &str, u8) -> Result<(), PriceError>;

impl<'a> Fields<'a> {
    /// Reads an object; `read` is asked first about each field that has one of the names.
    fn read(scanner: &mut Scanner<'a>, names: &'static [&'static str], read: Read<'a, '_>) -> Result<Self, PriceError> {
        let mut fields = Self { names, values: vec![NULL; names.len()] };
        let mut known = Names::new(names);
        scanner.open_object()?;
        while let Some(key) = scanner.next_key()? {
            let number = look_up(&mut known, key)?;
            let first = scanner.peek();
            let start = scanner.position();
            if let Some(name) = number.and_then(|number| names.get(number)) {
                read(scanner, name, first)?;
            }
            let value = if scanner.position() == start { scanner.skip()? } else { scanner.since(start) };
            number.and_then(|number| fields.values.get_mut(number)).into_iter().for_each(|place| *place = value);
        }
        Ok(fields)
    }

    /// The value of a field; `None` where there is none, or where it is `null`.
    fn get(&self, name: &str) -> Option<&'a [u8]> {
        let number = self.names.iter().position(|known| *known == name)?;
        self.values.get(number).copied().filter(|value| *value != NULL)
    }
}

const NULL: &[u8] = b"null";

/// Returns the index of the name that a key is; `None` for other keys.
#[inline(never)]
fn look_up(names: &mut Names<'_>, key: Text<'_>) -> Result<Option<usize>, PriceError> {
    match names.find(key) {
        Found::Name(number) => Ok(Some(number)),
        Found::Nothing => Ok(None),
        Found::Twice => {
            Err(PriceError::Shape(format!("the key {key} stands twice; servers differ on which one counts")))
        }
        Found::Misspelt => {
            Err(PriceError::Shape(format!("some servers take the key {key} for another; write it as it is")))
        }
    }
}

fn openai(scanner: &mut Scanner<'_>) -> Result<JobFields, PriceError> {
    let mut include_usage = None;
    let mut prompts = 1;
    // Where the wish for usage belongs, and as what, if there are options already.
    let mut place = None;
    let mut has_odd_options = false;
    let fields = Fields::read(scanner, OPENAI, &mut |scanner, name, first| {
        match (name, first) {
            ("stream_options", b'{') => (include_usage, place) = stream_options(scanner)?,
            ("stream_options", _) => {
                let start = scanner.position();
                has_odd_options = scanner.skip()? != NULL;
                place = Some(Wish { place: (start, scanner.position()), text: r#"{"include_usage":true}"# });
            }
            ("prompt", b'[') => prompts = count_prompts(scanner)?,
            _ => {}
        }
        Ok(())
    })?;
    let brace = scanner.position().saturating_sub(1);
    // By these a request has other models than the one that is priced, or goes on when nobody waits any more.
    for name in ["models", "fallbacks"] {
        if fields.get(name).is_some() {
            return Err(PriceError::Shape(format!("{name} would let other models answer; name one model")));
        }
    }
    if flag(fields.get("background"), "background")? {
        return Err(PriceError::Shape("background is true; a response is paid for while it is waited for".to_owned()));
    }
    let limit = openai_limit(&fields)?;
    let choices = [at_least_one(fields.get("n"), "n")?, at_least_one(fields.get("best_of"), "best_of")?];
    let streams = flag(fields.get("stream"), "stream")?;
    let wants_usage = flag(include_usage, "stream_options.include_usage")?;
    let is_prompt = |prompt: &[u8]| matches!(prompt.first(), Some(b'"' | b'['));
    // The interface of responses tells its usage unasked, and has no such option.
    let can_wish = fields.get("messages").is_some() || fields.get("prompt").is_some_and(is_prompt);
    let at_end = Wish { place: (brace, brace), text: r#","stream_options":{"include_usage":true}"# };
    Ok(JobFields {
        model: model(fields.get("model"), "model")?,
        limit,
        choices: choices.into_iter().max().unwrap_or(1).checked_mul(prompts).ok_or(PriceError::TooMuch)?,
        streams,
        wants_usage,
        wish: Some(place.unwrap_or(at_end)).filter(|_| streams && !wants_usage && can_wish && !has_odd_options),
    })
}

/// Returns whether the options of a stream ask for the usage, as it is written, and what would ask for it.
fn stream_options<'a>(scanner: &mut Scanner<'a>) -> Result<(Option<&'a [u8]>, Option<Wish>), PriceError> {
    let start = scanner.position();
    let mut place = None;
    let options = Fields::read(scanner, &["include_usage"], &mut |scanner, _, _| {
        let start = scanner.position();
        scanner.skip()?;
        place = Some((start, scanner.position()));
        Ok(())
    })?;
    let behind_brace = start.saturating_add(1);
    let is_empty = scanner.since(behind_brace).trim_ascii() == b"}";
    let (place, text) = match place {
        Some(place) => (place, "true"),
        None if is_empty => ((behind_brace, behind_brace), r#""include_usage":true"#),
        None => ((behind_brace, behind_brace), r#""include_usage":true,"#),
    };
    Ok((options.get("include_usage"), Some(Wish { place, text })))
}

/// The prompts in a list of them: a text, or a list of tokens, is one each. A list of tokens is one.
fn count_prompts(scanner: &mut Scanner<'_>) -> Result<u64, PriceError> {
    let (count, are_tokens) = scanner.skip_list()?;
    Ok(if are_tokens { 1 } else { u64::try_from(count).unwrap_or(u64::MAX) })
}

/// The limit that an upstream of OpenAI's interfaces holds to. Which keys say it depends on the interface, and what one
/// interface does not know limits nothing; a request that could be of several has the highest of their limits.
fn openai_limit(fields: &Fields<'_>) -> Result<Option<u64>, PriceError> {
    /// Names that servers of one's own give to it.
    const OTHERS: [&str; 3] = ["max_new_tokens", "n_predict", "num_predict"];
    let interfaces: [(&str, &[&str]); 3] = [
        ("messages", &["max_tokens", "max_completion_tokens"]),
        ("prompt", &["max_tokens"]),
        ("input", &["max_output_tokens"]),
    ];
    let is_known = interfaces.iter().any(|(interface, _)| fields.get(interface).is_some());
    let mut limits = Vec::new();
    for (interface, names) in interfaces {
        let is_asked = !is_known || fields.get(interface).is_some();
        let mut limit = None;
        for name in names.iter().chain(&OTHERS) {
            // Where a request names several, upstreams differ on which one counts.
            limit = limit.max(limit_of(fields.get(name), name)?);
        }
        limits.extend(is_asked.then_some(limit));
    }
    // One without a limit has the highest of all.
    Ok(if is_known && limits.contains(&None) { None } else { limits.into_iter().flatten().max() })
}

fn anthropic(scanner: &mut Scanner<'_>) -> Result<JobFields, PriceError> {
    let fields = Fields::read(scanner, ANTHROPIC, &mut |_, _, _| Ok(()))?;
    Ok(JobFields {
        model: model(fields.get("model"), "model")?,
        limit: limit_of(fields.get("max_tokens"), "max_tokens")?,
        choices: 1,
        streams: flag(fields.get("stream"), "stream")?,
        wants_usage: true,
        wish: None,
    })
}

#[inline(never)]
fn gemini(scanner: &mut Scanner<'_>, path: &[u8]) -> Result<JobFields, PriceError> {
    let (named, method) = gemini_path(path).ok_or_else(|| {
        PriceError::Shape("the path is none of a model, as in /v1beta/models/{model}:generateContent".to_owned())
    })?;
    let (mut limit, mut choices) = (None, None);
    let fields = Fields::read(scanner, &["model", "generationConfig"], &mut |scanner, name, first| {
        if (name, first) == ("generationConfig", b'{') {
            let config = Fields::read(scanner, &["maxOutputTokens", "candidateCount"], &mut |_, _, _| Ok(()))?;
            (limit, choices) = (config.get("maxOutputTokens"), config.get("candidateCount"));
        }
        Ok(())
    })?;
    if let Some(value) = fields.get("model") {
        let other = model(Some(value), "model")?;
        if other.strip_prefix("models/").unwrap_or(&other) != named {
            return Err(PriceError::Shape(format!("the path names the model {named:?}, and the body another")));
        }
    }
    let has_output = matches!(method, "generateContent" | "streamGenerateContent");
    Ok(JobFields {
        model: named.to_owned(),
        limit: if has_output { limit_of(limit, "maxOutputTokens")? } else { Some(0) },
        choices: at_least_one(choices, "candidateCount")?,
        streams: method == "streamGenerateContent",
        wants_usage: true,
        wish: None,
    })
}

/// The model that a path names, and the method that is called of it. Anything that some server might read in another way
/// is no such path.
fn gemini_path(path: &[u8]) -> Option<(&str, &str)> {
    const METHODS: [&str; 5] =
        ["generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents", "countTokens"];
    let path = plain_path(path)?;
    let (before, last) = path.rsplit_once('/')?;
    let (model, method) = last.split_once(':')?;
    let is_one = before.ends_with("/models") && !model.is_empty() && model.len() <= MAX_MODEL_BYTES;
    (is_one && METHODS.contains(&method)).then_some((model, method))
}

/// A path that every server reads in the same way.
#[inline(never)]
fn plain_path(path: &[u8]) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b':' | b'@');
    let path = std::str::from_utf8(path).ok().filter(|path| path.bytes().all(is_plain))?;
    (!path.contains("//") && !path.contains("..") && !path.contains("/.")).then_some(path)
}

/// Returns whether the interface at this path generates nothing: what it costs is its input.
#[inline(never)]
pub(crate) fn has_no_output(path: &[u8]) -> bool {
    const INTERFACES: [&str; 9] =
        ["embeddings", "embed", "rerank", "moderations", "classify", "score", "pooling", "tokenize", "count_tokens"];
    let last = plain_path(path).and_then(|path| path.rsplit('/').next());
    last.is_some_and(|last| INTERFACES.contains(&last))
}

/// The names that the wish for usage adds to a request.
const WISHED: [&[u8]; 2] = [b"stream_options", b"include_usage"];

/// Returns whether a text names what the wish for usage adds.
#[inline(never)]
pub(crate) fn names_wish(text: &[u8]) -> bool {
    text.iter().enumerate().any(|(at, byte)| {
        *byte == b'_'
            && WISHED.into_iter().any(|name| {
                let stroke = name.iter().position(|byte| *byte == b'_').unwrap_or(0);
                at.checked_sub(stroke).and_then(|start| text.get(start..)).is_some_and(|text| text.starts_with(name))
            })
    })
}

/// Returns whether JSON may name it, in whatever spelling: with an escape in it that stands for a letter of ASCII, too.
#[inline(never)]
pub(crate) fn may_name_wish(json: &[u8]) -> bool {
    let mut escapes = json.iter().enumerate().filter(|(_, byte)| **byte == b'\\').map(|(at, _)| at);
    let is_letter = |at: usize| json.get(at..).is_some_and(|rest| rest.starts_with(b"\\u00"));
    names_wish(json) || escapes.any(is_letter)
}

#[inline(never)]
fn by_pointers(scanner: &mut Scanner<'_>, pointers: &Pointers) -> Result<JobFields, PriceError> {
    let mut ways = Steps::default();
    let asked = [Some(&pointers.model), pointers.max_output_tokens.as_ref(), pointers.choices.as_ref()];
    for (number, pointer) in asked.into_iter().enumerate() {
        pointer.into_iter().for_each(|pointer| ways.add(pointer, number));
    }
    let mut found = [NULL; 3];
    ways.follow(scanner, &mut found)?;
    let [model_found, limit, choices] = found.map(|value| Some(value).filter(|value| *value != NULL));
    Ok(JobFields {
        model: model(model_found, &pointers.model)?,
        limit: limit_of(limit, "the limit of output tokens")?,
        choices: at_least_one(choices, "the number of outputs")?,
        streams: false,
        wants_usage: false,
        wish: None,
    })
}

/// The steps that JSON pointers (RFC 6901) take from a value, and which of them end there.
#[derive(Default)]
struct Steps {
    names: Vec<String>,
    below: Vec<Self>,
    ends: Vec<usize>,
}

impl Steps {
    #[inline(never)]
    fn add(&mut self, pointer: &str, number: usize) {
        let mut place = self;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let known = place.names.iter().position(|name| *name == step).unwrap_or_else(|| {
                place.names.push(step);
                place.below.push(Self::default());
                place.below.len().saturating_sub(1)
            });
            match place.below.get_mut(known) {
                Some(below) => place = below,
                None => return,
            }
        }
        place.ends.push(number);
    }

    /// Reads a value, and finds what the pointers lead to.
    fn follow<'a>(&self, scanner: &mut Scanner<'a>, found: &mut [&'a [u8]]) -> Result<(), PriceError> {
        let first = scanner.peek();
        let start = scanner.position();
        match first {
            b'{' if !self.names.is_empty() => {
                let steps: Vec<&str> = self.names.iter().map(String::as_str).collect();
                let mut names = Names::new(&steps);
                scanner.open_object()?;
                while let Some(key) = scanner.next_key()? {
                    let step = look_up(&mut names, key)?;
                    self.step(step, scanner, found)?;
                }
            }
            b'[' if !self.names.is_empty() => {
                scanner.open_list()?;
                let mut index = 0_usize;
                while scanner.has_element()? {
                    self.step(self.names.iter().position(|name| name.parse() == Ok(index)), scanner, found)?;
                    index = index.saturating_add(1);
                }
            }
            _ => {
                scanner.skip()?;
            }
        }
        for number in &self.ends {
            found.get_mut(*number).into_iter().for_each(|place| *place = scanner.since(start));
        }
        Ok(())
    }

    fn step<'a>(
        &self,
        step: Option<usize>,
        scanner: &mut Scanner<'a>,
        found: &mut [&'a [u8]],
    ) -> Result<(), PriceError> {
        match step.and_then(|step| self.below.get(step)) {
            Some(below) => below.follow(scanner, found),
            None => scanner.skip().map(|_| ()).map_err(PriceError::from),
        }
    }
}

fn overlong(what: &str) -> PriceError {
    PriceError::Shape(format!("{what} is longer than {MAX_MODEL_BYTES} bytes"))
}

#[inline(never)]
fn model(value: Option<&[u8]>, what: &str) -> Result<String, PriceError> {
    let Some(text) = value.and_then(Text::of).filter(|text| !text.written().is_empty()) else {
        return Err(PriceError::Shape(format!("{what} is missing, or not a text")));
    };
    if text.written().len() > MAX_MODEL_BYTES {
        return Err(overlong(what));
    }
    text.decode().map(Cow::into_owned).ok_or_else(|| PriceError::Shape(format!("{what} has half a letter in it")))
}

#[inline(never)]
fn whole(value: Option<&[u8]>, what: &str) -> Result<Option<u64>, PriceError> {
    let named = |value: &[u8]| {
        plain_whole(value).ok_or_else(|| PriceError::Shape(format!("{what} is not a whole number of tokens")))
    };
    value.map(named).transpose()
}

/// A number that is written as digits alone, where it has 64 bits at most.
fn plain_whole(number: &[u8]) -> Option<u64> {
    // In JSON none begins with a zero too many.
    std::str::from_utf8(number).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// A limit. 0, -1 and -2 are none: many servers read them so.
#[inline(never)]
fn limit_of(value: Option<&[u8]>, what: &str) -> Result<Option<u64>, PriceError> {
    if matches!(value, Some(b"-1" | b"-2")) {
        return Ok(None);
    }
    Ok(whole(value, what)?.filter(|limit| *limit > 0))
}

#[inline(never)]
fn at_least_one(value: Option<&[u8]>, name: &str) -> Result<u64, PriceError> {
    match whole(value, name)? {
        Some(0) => Err(PriceError::Shape(format!("{name} is 0"))),
        number => Ok(number.unwrap_or(1)),
    }
}

#[inline(never)]
fn flag(value: Option<&[u8]>, what: &str) -> Result<bool, PriceError> {
    match value {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(PriceError::Shape(format!("{what} is neither true nor false"))),
    }
}
