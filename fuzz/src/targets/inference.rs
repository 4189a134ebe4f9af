//! Bodies of requests and responses that are priced by the token. What is quoted bounds what can be done with those very
//! bytes, and what is counted is what the response says.
//!
//! An input is a byte for the shape and the question, and then a request's body, or a response's with a byte in front that
//! says how the stream is cut.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use x402_proxy_wasm::config::Offer;
use x402_proxy_wasm::metadata::MetadataKey;
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::price::events::{Splitter, StreamEvent};
use x402_proxy_wasm::price::facts::Facts;
use x402_proxy_wasm::price::request::Job;
use x402_proxy_wasm::price::usage::{Report, Usage};
use x402_proxy_wasm::price::{Framing, Shape, Tariff};

use super::texts::is_number;
use crate::common;
use crate::json::Json;

/// The models that have a price, as names and patterns.
const MODELS: [&str; 5] = ["gpt-4o", "gpt-4*", "*-mini", "a*b*c", "gpt*o"];

/// Tokens of output where a request names no limit.
const MOST_OUTPUT: u64 = 1000;

/// Bytes of a token at least.
const BYTES: u64 = 3;

/// A tariff and its rates for each shape: OpenAI's, Anthropic's, and one of pointers.
static TARIFFS: LazyLock<[(Arc<Tariff>, Arc<Offer>); 3]> = LazyLock::new(|| {
    let pointers = json!({
        "model": "/m/0", "max_output_tokens": "/a~1b", "choices": "/c", "input_tokens": "/i",
        "cached_input_tokens": "/j", "output_tokens": "/o",
    });
    [json!("openai"), json!("anthropic"), pointers].map(|usage| {
        let rate = json!({"input": "$2.50", "cached_input": "$1.25", "cache_write": "$3", "output": "$10"});
        let models: Value = MODELS.iter().map(|model| ((*model).to_owned(), rate.clone())).collect();
        let mut config = common::base_config();
        config["routes"] = json!([{"match": {"path": "/chat"}, "price": {
            "usage": usage, "models": models, "max_output_tokens": MOST_OUTPUT, "bytes_per_token": BYTES, "minimum": "$0.0001",
        }}]);
        let terms = common::read_config(&config).routes[0].terms.clone().expect("a priced route");
        (Arc::clone(terms.tariff.as_ref().expect("a tariff")), Arc::clone(&terms.offers[0]))
    })
});

pub(super) fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let (tariff, offer) = &TARIFFS[usize::from(choice % 3)];
    match choice / 3 % 4 {
        0 | 1 => check_request(tariff, offer, rest),
        2 => check_metadata(tariff, rest),
        _ => {
            let Some((cut, body)) = rest.split_first() else { return };
            check_document(tariff, offer, body);
            check_framing(tariff, body, usize::from(*cut).max(1));
            check_stream(tariff, body, usize::from(*cut).max(1));
        }
    }
}

/// Whether an object has a name twice somewhere.
fn is_ambiguous(json: &Json) -> bool {
    match json {
        Json::List(list) => list.iter().any(is_ambiguous),
        Json::Object(fields) => {
            let is_again = |name: &String| fields.iter().filter(|(other, _)| other == name).count() > 1;
            fields.iter().any(|(name, value)| is_again(name) || is_ambiguous(value))
        }
        _ => false,
    }
}

/// The names that a price depends on, and those within one of them.
fn names(shape: &Shape) -> (&'static [&'static str], &'static str, &'static [&'static str]) {
    match shape {
        Shape::OpenAi => (
            &[
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
            ],
            "stream_options",
            &["include_usage"],
        ),
        Shape::Anthropic => (&["model", "max_tokens", "stream"], "", &[]),
        Shape::Gemini => (&["model", "generationConfig"], "generationConfig", &["maxOutputTokens", "candidateCount"]),
        Shape::Pointers(_) => (&["m", "a/b", "c"], "m", &["0"]),
    }
}

/// Whether each name that a price depends on stands once at most, and no other that some server takes for it.
fn is_clear(tariff: &Tariff, json: &Json) -> bool {
    let (names, inside, inner_names) = names(&tariff.shape);
    let inner = json.all(inside).next().unwrap_or(&Json::Null);
    has_clearly(json, names) && has_clearly(inner, inner_names)
}

fn has_clearly(json: &Json, names: &[&str]) -> bool {
    let Json::Object(fields) = json else { return true };
    let fold = |name: &str| name.to_lowercase().replace(['_', '-'], "").replace('ſ', "s");
    let is_like = |name: &str| fields.iter().filter(|(field, _)| fold(field) == fold(name)).count();
    names.iter().all(|name| is_like(name) == json.all(name).count() && json.all(name).count() <= 1)
}

/// A whole number that any parser takes for the same one.
fn whole(json: Option<&Json>) -> Option<u64> {
    if let Some(Json::Number(number)) = json { number.parse().ok().filter(|_| is_number(number)) } else { None }
}

// ------------------------------------------------------------------------------------------------- what is asked

fn check_request(tariff: &Tariff, offer: &Offer, body: &[u8]) {
    let Ok(job) = tariff.job(body) else { return };
    let json = Json::parse(body).expect("what has a price is JSON");
    assert!(is_clear(tariff, &json), "a name stands twice: parsers differ on what is asked");
    assert_eq!(job.input, u64::try_from(body.len()).unwrap_or(0).div_ceil(BYTES), "a token has so many bytes");
    let (model, limits, choices) = asked(&tariff.shape, &json);
    assert_eq!(model, Some(&Json::Text(job.model.clone())), "the model is the one that is named");
    let limit = limits.into_iter().flatten().max().unwrap_or(MOST_OUTPUT);
    assert_eq!(u128::from(job.output), u128::from(limit) * u128::from(choices), "the most that can come out");
    check_model(tariff, &job);
    let quote = offer.rates.as_ref().expect("rates").quote(&job).expect("a quote");
    assert!(quote >= Amount::from(100), "there is a minimum");
    assert!(charge(offer, &job, job.input, job.output, quote) <= quote, "what was allowed is paid for");
    if let Some(rewritten) = job.with_wish_for_usage(body) {
        check_rewritten(tariff, &job, &json, &rewritten);
    }
}

/// Model, limits and number of outputs, read by hand.
fn asked<'a>(shape: &Shape, json: &'a Json) -> (Option<&'a Json>, Vec<Option<u64>>, u64) {
    match shape {
        Shape::OpenAi => {
            let limit = |names: &[&str]| {
                let others = ["max_new_tokens", "n_predict", "num_predict"];
                let named = names.iter().chain(&others).filter_map(|name| whole(json.get(name)));
                named.filter(|limit| *limit > 0).max()
            };
            let is_there = |name: &str| json.get(name).is_some_and(|value| *value != Json::Null);
            let mut limits = Vec::new();
            if is_there("messages") {
                limits.push(limit(&["max_tokens", "max_completion_tokens"]));
            }
            if is_there("prompt") {
                limits.push(limit(&["max_tokens"]));
            }
            if is_there("input") {
                limits.push(limit(&["max_output_tokens"]));
            }
            match limits.as_slice() {
                [] => limits.push(limit(&["max_tokens", "max_completion_tokens", "max_output_tokens"])),
                // Without a limit on one of them there is none.
                all if all.contains(&None) => limits = vec![None],
                _ => {}
            }
            let choices = ["n", "best_of"].map(|name| whole(json.get(name)).unwrap_or(1));
            let prompts = match json.get("prompt") {
                Some(Json::List(list)) if !list.iter().all(|one| matches!(one, Json::Number(_))) => list.len().max(1),
                _ => 1,
            };
            let choices = choices.into_iter().max().unwrap_or(1) * u64::try_from(prompts).unwrap_or(0);
            (json.get("model"), limits, choices)
        }
        Shape::Anthropic => (json.get("model"), vec![whole(json.get("max_tokens")).filter(|limit| *limit > 0)], 1),
        Shape::Gemini => unreachable!("no tariff here has it"),
        Shape::Pointers(_) => {
            let model = match json.get("m") {
                Some(Json::List(list)) => list.first(),
                object => object.and_then(|object| object.get("0")),
            };
            (model, vec![whole(json.get("a/b")).filter(|limit| *limit > 0)], whole(json.get("c")).unwrap_or(1))
        }
    }
}

/// The model's price is that of its own name, or else of the longest pattern that fits.
fn check_model(tariff: &Tariff, job: &Job) {
    let known = &tariff.models[job.model_index];
    assert!(fits(known.as_bytes(), job.model.as_bytes()), "{} is not {known}", job.model);
    if *known != job.model {
        assert!(!tariff.models.contains(&job.model), "the exact name comes first");
        let fitting = tariff.models.iter().filter(|model| fits(model.as_bytes(), job.model.as_bytes()));
        assert_eq!(fitting.map(String::len).max(), Some(known.len()), "then the longest pattern");
    }
}

/// `*` stands for any bytes, tried one by one.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| fits(rest, &text[at..])),
        ([first, pattern @ ..], [letter, text @ ..]) => first == letter && fits(pattern, text),
        (pattern, text) => pattern.is_empty() && text.is_empty(),
    }
}

fn charge(offer: &Offer, job: &Job, input: u64, output: u64, maximum: Amount) -> Amount {
    let usage = Usage { input, output, ..Usage::default() };
    offer.rates.as_ref().expect("rates").charge(job.model_index, usage, maximum)
}

/// The wish for usage is all that is added, and asks for nothing that costs more.
fn check_rewritten(tariff: &Tariff, job: &Job, json: &Json, rewritten: &[u8]) {
    let without = |json: &Json| match json {
        Json::Object(fields) => fields.iter().filter(|(name, _)| name != "stream_options").cloned().collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let again = Json::parse(rewritten).expect("what goes up is JSON");
    assert_eq!(without(json), without(&again), "everything else is as it was");
    let options = again.get("stream_options").expect("the options of the stream");
    assert_eq!(options.get("include_usage"), Some(&Json::Bool(true)));
    if let Some(Json::Object(before)) = json.get("stream_options") {
        let is_kept = |(name, value): &(String, Json)| name == "include_usage" || options.all(name).eq([value]);
        assert!(before.iter().all(is_kept), "other options stay");
    }
    let next = tariff.job(rewritten).expect("what goes up has a price");
    assert!(next.wants_usage && next.streams);
    assert_eq!((&next.model, next.output), (&job.model, job.output), "the price stays");
    assert!(next.with_wish_for_usage(rewritten).is_none(), "a wish is added once");
}

/// What the proxy's metadata say: doubles and texts, one after the other, each with its length in front.
fn check_metadata(tariff: &Tariff, input: &[u8]) {
    let mut rest = input;
    let mut values: Vec<&[u8]> = Vec::new();
    while let Some((length, after)) = rest.split_first() {
        let (value, after) = after.split_at(usize::from(*length).min(after.len()));
        values.push(value);
        rest = after;
    }
    // The shape of pointers has no metadata, and a tariff only has them with a namespace.
    let tariff = Tariff { namespace: Some("x".to_owned()), ..tariff.clone() };
    if matches!(tariff.shape, Shape::Pointers(_)) {
        return;
    }
    let keys = tariff.metadata();
    let value = |key: &MetadataKey| {
        let value = keys.iter().position(|known| known == key).and_then(|at| values.get(at));
        value.filter(|value| !value.is_empty()).copied()
    };
    let Ok(job) = tariff.job_of_metadata(value, 300) else { return };
    check_model(&tariff, &job);
    assert_eq!(job.input, 100);
    let named = |name: &str| {
        let bytes = value(&MetadataKey { namespace: "x".to_owned(), key: name.to_owned() })?;
        let text = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix('+').unwrap_or(text).parse().ok());
        let double =
            bytes.try_into().ok().map(f64::from_le_bytes).filter(|double| double.fract() == 0.0 && *double >= 0.0);
        let double =
            double.filter(|double| *double < 9e15).and_then(|double| format!("{double:.0}").parse::<u64>().ok());
        Some(double.or(text).expect("a number that was taken is one"))
    };
    assert_eq!(value(&keys[0]), Some(job.model.as_bytes()));
    let is_limit = |key: &&MetadataKey| key.key.starts_with("max");
    let limit = keys
        .iter()
        .filter(is_limit)
        .filter_map(|key| named(&key.key))
        .filter(|limit| *limit > 0)
        .max()
        .unwrap_or(MOST_OUTPUT);
    let choices = ["n", "best_of"].into_iter().filter(|name| keys.iter().any(|key| key.key == *name));
    let choices = choices.filter_map(named).max().unwrap_or(1).max(1);
    assert_eq!(Some(job.output), limit.checked_mul(choices), "the most that can come out");
}

// ------------------------------------------------------------------------------------------------- what was used

fn check_document(tariff: &Tariff, offer: &Offer, body: &[u8]) {
    let mut report = Report::default();
    report.take_in(&tariff.shape, &Facts::of(&tariff.shape, body));
    let usage = report.usage();
    if let Some(usage) = usage {
        let maximum = Amount::from(5000);
        let charge = offer.rates.as_ref().expect("rates").charge(0, usage, maximum);
        assert!(charge >= Amount::from(100) && charge <= maximum, "there are bounds");
    }
    // Of what is no JSON to the letter, nobody can say what it means.
    let Some(json @ Json::Object(_)) = Json::parse(body) else { return };
    if !is_ambiguous(&json)
        && let Some(used) = used(&tariff.shape, &json)
    {
        assert_eq!(usage, used, "what was used is what it says");
    }
}

/// The units of a response are the same however it is cut, and not a byte is lost.
fn check_framing(tariff: &Tariff, body: &[u8], size: usize) {
    for is_labelled in [true, false] {
        let split = |size: usize| {
            let mut framing = Framing::new(is_labelled);
            let mut units: Vec<_> =
                body.chunks(size).flat_map(|piece| framing.push(&tariff.shape, piece, false, true)).collect();
            units.extend(framing.push(&tariff.shape, b"", true, true));
            let raw: Vec<u8> = units.iter().flat_map(|unit| unit.raw.iter().copied()).collect();
            assert_eq!(raw, body, "not a byte is lost");
            units.into_iter().filter_map(|unit| unit.facts).collect::<Vec<_>>()
        };
        assert_eq!(split(size), split(body.len().max(1)), "what is found does not depend on the pieces");
    }
}

/// A counter; `Err` where it is written in a way that this reader does not know.
fn counter(json: Option<&Json>) -> Result<Option<u64>, ()> {
    match json {
        Some(Json::Number(text) | Json::Text(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(text.parse().ok())
        }
        Some(Json::Number(_) | Json::Text(_)) => Err(()),
        _ => Ok(None),
    }
}

/// What a response has used, read by hand: `None` where it is written in a way that this reader does not know.
fn used(shape: &Shape, json: &Json) -> Option<Option<Usage>> {
    let get = |usage: &Json, name: &str| counter(usage.get(name)).ok();
    let nested = |usage: &Json, outer: &str, inner: &str| match usage.get(outer) {
        Some(object @ Json::Object(_)) => counter(object.get(inner)).ok(),
        _ => Some(None),
    };
    let objects = |names: &[&str]| {
        let inner = names.iter().filter_map(|name| json.get(name)?.get("usage"));
        let own = json.get("usage").into_iter();
        let choices = json.get("choices").map(Json::list).unwrap_or_default().iter();
        own.chain(inner).chain(choices.filter_map(|choice| choice.get("usage"))).collect::<Vec<_>>()
    };
    let places = ["response", "message", "x_groq", "delta", "data", "result"];
    let usage = match (shape, objects(&places).as_slice()) {
        (Shape::Pointers(_), _) => json,
        (_, []) if ["prompt_eval_count", "eval_count"].iter().all(|name| json.get(name).is_none()) => {
            return Some(None);
        }
        (_, [usage @ Json::Object(fields)]) if fields.iter().all(|(name, _)| !name.contains("eval_count")) => *usage,
        _ => return None,
    };
    // Whatever this does not know by name may be another vendor's word for it.
    let known = |name: &String| {
        matches!(
            name.as_str(),
            "prompt_tokens"
                | "input_tokens"
                | "completion_tokens"
                | "output_tokens"
                | "total_tokens"
                | "prompt_tokens_details"
                | "input_tokens_details"
                | "i"
                | "j"
                | "o"
                | "cache_read_input_tokens"
                | "cache_creation_input_tokens"
        )
    };
    let Json::Object(fields) = usage else { return None };
    if !matches!(shape, Shape::Pointers(_)) && !fields.iter().all(|(name, _)| known(name)) {
        return None;
    }
    Some(match shape {
        Shape::OpenAi => {
            let input = get(usage, "prompt_tokens")?.or(get(usage, "input_tokens")?);
            let named = get(usage, "completion_tokens")?.or(get(usage, "output_tokens")?);
            let total = get(usage, "total_tokens")?;
            let cached = nested(usage, "prompt_tokens_details", "cached_tokens")?.max(nested(
                usage,
                "input_tokens_details",
                "cached_tokens",
            )?);
            let is_other = |name: &str| usage.get(name).is_some();
            if ["cache_read_input_tokens", "cache_creation_input_tokens"].into_iter().any(is_other)
                || ["prompt_tokens_details", "input_tokens_details"]
                    .into_iter()
                    .any(|name| usage.get(name).is_some_and(|details| details.get("cache_write_tokens").is_some()))
                || (named.is_none() && (is_other("completion_tokens") || is_other("output_tokens")))
            {
                return None;
            }
            input.map(|input| {
                let apart = total.and_then(|total| total.checked_sub(input)).unwrap_or(0);
                let output = named.unwrap_or(0).max(apart);
                Usage { input, cached_input: cached.unwrap_or(0), cache_write: 0, output }
            })
        }
        Shape::Anthropic => {
            let cached_input = get(usage, "cache_read_input_tokens")?.unwrap_or(0);
            let cache_write = get(usage, "cache_creation_input_tokens")?.unwrap_or(0);
            let (input, output) = (get(usage, "input_tokens")?, get(usage, "output_tokens")?);
            input.zip(output).map(|(input, output)| {
                let input = input.saturating_add(cached_input.saturating_add(cache_write));
                Usage { input, cached_input, cache_write, output }
            })
        }
        Shape::Gemini => return None,
        Shape::Pointers(_) => {
            let (input, cached_input, output) = (get(usage, "i")?, get(usage, "j")?.unwrap_or(0), get(usage, "o")?);
            input.zip(output).map(|(input, output)| Usage { input, cached_input, cache_write: 0, output })
        }
    })
}

/// However a stream is cut, its events are the same, and not a byte is lost.
fn check_stream(tariff: &Tariff, stream: &[u8], size: usize) {
    let split = |size: usize| {
        let mut splitter = Splitter::default();
        let mut events: Vec<StreamEvent> = stream.chunks(size).flat_map(|piece| splitter.push(piece)).collect();
        events.extend(splitter.finish());
        assert_eq!(splitter.finish(), None);
        events
    };
    let events = split(size);
    assert_eq!(events, split(stream.len().max(1)), "a stream is what it is, however it comes");
    let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.iter().copied()).collect();
    assert_eq!(raw, stream, "not a byte is lost");
    let data: Vec<&str> = events.iter().map(|event| event.data.as_str()).filter(|data| !data.is_empty()).collect();
    assert_eq!(data, data_by_hand(stream), "the data are those that the standard has");
    let mut report = Report::default();
    for data in data {
        report.take_in(&tariff.shape, &Facts::of(&tariff.shape, data.as_bytes()));
    }
}

/// The texts of a stream's events: lines, and an empty one behind each event (HTML standard, section 9.2.6).
fn data_by_hand(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    for event in text.split("\n\n") {
        let lines = event.split('\n').map(|line| line.trim_start_matches('\u{feff}'));
        let data =
            lines.filter_map(|line| line.strip_prefix("data:")).map(|data| data.strip_prefix(' ').unwrap_or(data));
        events.push(data.collect::<Vec<_>>().join("\n"));
    }
    events.retain(|data| !data.is_empty());
    events
}
