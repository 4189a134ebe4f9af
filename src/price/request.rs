//! What a request asks of a model, as far as its price goes.

use serde_json::value::RawValue;

use super::document::Document;
use super::{PriceError, Shape, Tariff};
use crate::config::MetadataKey;
use crate::json::{self, Named};

/// The most that a request can make a model do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    /// The model, as the request names it.
    pub model: String,
    /// Which of the tariff's models.
    pub model_index: usize,
    /// Tokens of input.
    pub input: u64,
    /// Tokens of output, of all choices together.
    pub output: u64,
    /// Whether the response is to be a stream of events.
    pub streams: bool,
    /// Whether the client itself asks for the usage at the end of the stream.
    pub wants_usage: bool,
    /// Whether all of the body was read, so that what the request asks for can be told from what another one does.
    pub is_read_whole: bool,
}

/// The fields that OpenAI's requests are priced by.
const OPENAI: [&str; 15] = [
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
    "prompt",
    "stream",
    "stream_options",
];

/// Those of them that can stand in metadata.
const IN_METADATA: [&str; 6] = ["model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"];

/// The fields that Anthropic's requests are priced by.
const ANTHROPIC: [&str; 3] = ["model", "max_tokens", "stream"];

impl Tariff {
    /// Reads what a request asks for in its body.
    ///
    /// # Errors
    /// [`PriceError`] where it has no price.
    pub fn job(&self, body: &[u8]) -> Result<Job, PriceError> {
        let document = Document::read(body)?;
        if !matches!(document, Document::Object(_)) {
            return Err(PriceError::Shape("the body is not a JSON object".to_owned()));
        }
        let asked = match &self.shape {
            Shape::OpenAi => openai(&document)?,
            Shape::Anthropic => anthropic(&document)?,
            Shape::Pointers(pointers) => {
                let at = |pointer: &Option<String>| pointer.as_deref().and_then(|pointer| document.at(pointer));
                let read = [Some(&pointers.model), pointers.max_output_tokens.as_ref(), pointers.choices.as_ref()];
                for pointer in read.into_iter().flatten() {
                    refuse_misspelt_way(&document, pointer)?;
                }
                Asked {
                    model: text(document.at(&pointers.model), &pointers.model)?,
                    limit: limit_of(at(&pointers.max_output_tokens), "the limit of output tokens")?,
                    choices: at_least_one(at(&pointers.choices), "the number of outputs")?,
                    streams: false,
                    wants_usage: false,
                }
            }
        };
        let limit = asked.limit.unwrap_or(self.max_output_tokens);
        Ok(Job {
            model_index: self.find(&asked.model)?,
            model: asked.model,
            input: self.input_bound(u64::try_from(body.len()).unwrap_or(u64::MAX)),
            output: limit.checked_mul(asked.choices).ok_or(PriceError::TooMuch)?,
            streams: asked.streams,
            wants_usage: asked.wants_usage,
            is_read_whole: true,
        })
    }

    /// What is to be fetched of the proxy's dynamic metadata.
    pub fn metadata(&self) -> Vec<MetadataKey> {
        let Some(namespace) = &self.namespace else { return Vec::new() };
        let keys: &[&str] = if self.shape == Shape::Anthropic { &["model", "max_tokens"] } else { &IN_METADATA };
        keys.iter().map(|key| MetadataKey { namespace: namespace.clone(), key: (*key).to_owned() }).collect()
    }

    /// What a request asks for by the proxy's metadata, where `value` finds it by its key, and the body is so many bytes
    /// long. Several prompts in one request look like one here.
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
        Ok(Job {
            model_index: self.find(model)?,
            model: model.to_owned(),
            input: self.input_bound(bytes),
            output: limit.unwrap_or(self.max_output_tokens).checked_mul(choices).ok_or(PriceError::TooMuch)?,
            streams: false,
            wants_usage: true,
            is_read_whole: false,
        })
    }

    /// The body with the wish for usage at the end of the stream, where a client of OpenAI's interface streams without
    /// it. `None` where there is nothing to add.
    pub fn with_wish_for_usage(&self, job: &Job, body: &[u8]) -> Option<Vec<u8>> {
        if self.shape != Shape::OpenAi || !job.streams || job.wants_usage {
            return None;
        }
        let Named(mut fields) = serde_json::from_slice::<Named<&RawValue>>(body).ok()?;
        // The interface of responses tells its usage unasked, and has no such option.
        let is_prompt = |prompt: &RawValue| prompt.get().starts_with(['"', '[']);
        if !fields.iter().any(|(key, value)| key == "messages" || (key == "prompt" && is_prompt(value))) {
            return None;
        }
        let options = fields.iter().find(|(key, _)| key == "stream_options").map(|(_, options)| options.get());
        let Named(mut wishes) = options.map_or_else(
            || Some(Named::default()),
            |options| serde_json::from_str::<Option<Named<&RawValue>>>(options).ok().map(Option::unwrap_or_default),
        )?;
        let wish = serde_json::from_str("true").ok()?;
        put(&mut wishes, "include_usage", wish);
        let wishes = to_object(&wishes);
        put(&mut fields, "stream_options", serde_json::from_str(&wishes).ok()?);
        Some(to_object(&fields).into_bytes())
    }
}

/// Sets a field, in the place where it stands or at the end.
fn put<'a>(fields: &mut Vec<(String, &'a RawValue)>, name: &str, value: &'a RawValue) {
    match fields.iter_mut().find(|(key, _)| key == name) {
        Some((_, old)) => *old = value,
        None => fields.push((name.to_owned(), value)),
    }
}

/// An object, its values to the letter as they came.
fn to_object(fields: &[(String, &RawValue)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(key, value)| format!("{}:{}", json::to_text(key), value.get())).collect();
    format!("{{{}}}", fields.join(","))
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

struct Asked {
    model: String,
    limit: Option<u64>,
    choices: u64,
    streams: bool,
    wants_usage: bool,
}

fn openai(document: &Document) -> Result<Asked, PriceError> {
    refuse_misspelt(document, &OPENAI)?;
    let options = document.field("stream_options");
    if let Some(options) = options {
        refuse_misspelt(options, &["include_usage"])?;
    }
    // By these a request has other models than the one that is priced, or goes on when nobody waits any more.
    for name in ["models", "fallbacks"] {
        if document.field(name).is_some() {
            return Err(PriceError::Shape(format!("{name} would let other models answer; name one model")));
        }
    }
    if flag(document.field("background"), "background")? {
        return Err(PriceError::Shape("background is true; a response is paid for while it is waited for".to_owned()));
    }
    let limit = openai_limit(document)?;
    let choices = [at_least_one(document.field("n"), "n")?, at_least_one(document.field("best_of"), "best_of")?];
    let prompts = match document.field("prompt") {
        // A list of texts, or of lists of tokens, is a prompt each; a list of tokens is one.
        Some(Document::List(prompts)) if !matches!(prompts.first(), Some(Document::Whole(_))) => prompts.len(),
        _ => 1,
    };
    let prompts = u64::try_from(prompts.max(1)).unwrap_or(u64::MAX);
    Ok(Asked {
        model: text(document.field("model"), "model")?,
        limit,
        choices: choices.into_iter().max().unwrap_or(1).checked_mul(prompts).ok_or(PriceError::TooMuch)?,
        streams: flag(document.field("stream"), "stream")?,
        wants_usage: flag(options.and_then(|options| options.field("include_usage")), "stream_options.include_usage")?,
    })
}

/// The limit that an upstream of OpenAI's interfaces holds to. Which keys say it depends on the interface, and what one
/// interface does not know limits nothing; a request that could be of several has the highest of their limits.
fn openai_limit(document: &Document) -> Result<Option<u64>, PriceError> {
    /// Names that servers of one's own give to it.
    const OTHERS: [&str; 3] = ["max_new_tokens", "n_predict", "num_predict"];
    let interfaces: [(&str, &[&str]); 3] = [
        ("messages", &["max_tokens", "max_completion_tokens"]),
        ("prompt", &["max_tokens"]),
        ("input", &["max_output_tokens"]),
    ];
    let is_known = interfaces.iter().any(|(interface, _)| document.field(interface).is_some());
    let mut limits = Vec::new();
    for (interface, names) in interfaces {
        let is_asked = !is_known || document.field(interface).is_some();
        let mut limit = None;
        for name in names.iter().chain(&OTHERS) {
            // Where a request names several, upstreams differ on which one counts.
            limit = limit.max(limit_of(document.field(name), name)?);
        }
        limits.extend(is_asked.then_some(limit));
    }
    // One without a limit has the highest of all.
    Ok(if is_known && limits.contains(&None) { None } else { limits.into_iter().flatten().max() })
}

fn anthropic(document: &Document) -> Result<Asked, PriceError> {
    refuse_misspelt(document, &ANTHROPIC)?;
    Ok(Asked {
        model: text(document.field("model"), "model")?,
        limit: limit_of(document.field("max_tokens"), "max_tokens")?,
        choices: 1,
        streams: flag(document.field("stream"), "stream")?,
        wants_usage: true,
    })
}

fn refuse_misspelt(document: &Document, names: &[&str]) -> Result<(), PriceError> {
    match document.misspelt(names) {
        Some(key) => {
            Err(PriceError::Shape(format!("some servers take the key {key:?} for another; write it as it is")))
        }
        None => Ok(()),
    }
}

/// The same for every key on the way of a JSON pointer.
fn refuse_misspelt_way(document: &Document, pointer: &str) -> Result<(), PriceError> {
    let mut way = String::new();
    for step in pointer.split('/').skip(1) {
        let name = step.replace("~1", "/").replace("~0", "~");
        let here = if way.is_empty() { Some(document) } else { document.at(&way) };
        here.map_or(Ok(()), |here| refuse_misspelt(here, &[name.as_str()]))?;
        way = format!("{way}/{step}");
    }
    Ok(())
}

fn text(value: Option<&Document>, what: &str) -> Result<String, PriceError> {
    let text = value.and_then(Document::as_text).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| PriceError::Shape(format!("{what} is missing, or not a text")))
}

fn whole(value: Option<&Document>, what: &str) -> Result<Option<u64>, PriceError> {
    let read = |value: &Document| {
        value.as_whole().ok_or_else(|| PriceError::Shape(format!("{what} is not a whole number of tokens")))
    };
    value.map(read).transpose()
}

/// A limit. 0 is none: many servers read it so.
fn limit_of(value: Option<&Document>, what: &str) -> Result<Option<u64>, PriceError> {
    Ok(whole(value, what)?.filter(|limit| *limit > 0))
}

fn at_least_one(value: Option<&Document>, name: &str) -> Result<u64, PriceError> {
    match whole(value, name)? {
        Some(0) => Err(PriceError::Shape(format!("{name} is 0"))),
        number => Ok(number.unwrap_or(1)),
    }
}

fn flag(value: Option<&Document>, what: &str) -> Result<bool, PriceError> {
    match value {
        None => Ok(false),
        Some(Document::Bool(flag)) => Ok(*flag),
        Some(_) => Err(PriceError::Shape(format!("{what} is neither true nor false"))),
    }
}
