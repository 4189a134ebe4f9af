//! The price of an inference: before it runs, by what it asks for, and after it ran, by what it used.

pub mod events;
pub mod facts;
mod framing;
mod reader;
pub mod request;
pub mod usage;

use std::fmt;

use ruint::aliases::U256;
use serde::Deserialize;

use crate::money::Amount;
use crate::scan::ScanError;
pub use framing::{Framing, Unit};
use request::Job;
use usage::Usage;

/// The format of bodies, which says where the model, the limits and the usage stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Those of OpenAI's chat completions, completions, responses and embeddings.
    OpenAi,
    /// Those of Anthropic's messages.
    Anthropic,
    /// Those of Gemini's `generateContent` and `streamGenerateContent`, whose path names the model.
    Gemini,
    /// Any format, by the operator's JSON pointers.
    Pointers(Box<Pointers>),
}

/// JSON pointers (RFC 6901) into request and response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Pointers {
    /// Of the request: the name of the model.
    pub model: String,
    /// Of the request: the most tokens of output.
    pub max_output_tokens: Option<String>,
    /// Of the request: the number of outputs that are wanted.
    pub choices: Option<String>,
    /// Of the response: tokens of input, cached ones included.
    pub input_tokens: String,
    /// Of the response: tokens of input that came from a cache.
    pub cached_input_tokens: Option<String>,
    /// Of the response: tokens of output.
    pub output_tokens: Option<String>,
}

/// The pricing of a route by tokens. What differs from entry to entry of `accepts` is in [`Rates`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tariff {
    /// The format of bodies.
    pub shape: Shape,
    /// The models that have a price: names, and patterns with `*`.
    pub models: Vec<String>,
    /// Bytes of a request's body that make one token at least.
    pub bytes_per_token: u64,
    /// Tokens of output that are assumed where a request names no limit.
    pub max_output_tokens: u64,
    /// The charge where the response does not say what was used.
    pub missing_usage: MissingUsage,
    /// The longest body of a request that is read, in bytes.
    pub max_body_bytes: usize,
    /// The longest response that is held until its charge is settled, in bytes. A longer one is delivered as a stream is.
    pub max_response_bytes: usize,
    /// True if the filter asks for the usage at the end of a stream where the client does not.
    pub asks_for_usage: bool,
    /// The namespace of the proxy's dynamic metadata where model and limits stand, for hosts that let no filter read the
    /// request's body.
    pub namespace: Option<String>,
}

/// The charge where a response does not say what was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MissingUsage {
    /// A token for each event of the stream, and the most that the input can be. A response that is no stream has no
    /// events to count, and is charged the maximum.
    #[default]
    Count,
    /// The maximum.
    Maximum,
}

/// The rates of an asset for the models of a [`Tariff`], in its order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rates {
    /// One for each of [`Tariff::models`].
    pub models: Vec<Rate>,
    /// The least that a request costs, in atomic units.
    pub minimum: Amount,
}

/// The rates of a model: atomic units of the asset for a [`RATE_SCALE`]th of a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Input.
    pub input: U256,
    /// Input that came from a cache.
    pub cached_input: U256,
    /// Input that was written to a cache.
    pub cache_write: U256,
    /// Output.
    pub output: U256,
}

/// Digits by which rates are finer than an atomic unit for a million tokens.
pub const RATE_SCALE_DIGITS: u32 = 12;

/// A million, and [`RATE_SCALE_DIGITS`] zeros.
const TOKENS_OF_A_RATE: u64 = 1_000_000_000_000_000_000;

/// A reason why a request has no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The body cannot be read in one way only.
    #[error("the body is not JSON that can be read in one way only: {0}")]
    Body(String),
    /// The body is not of the shape that is priced.
    #[error("{0}")]
    Shape(String),
    /// The model is not for sale.
    #[error("the model {model:?} has no price here; these have: {known}")]
    Model {
        /// The model that was asked for.
        model: String,
        /// The models that have a price.
        known: String,
    },
    /// The service that knows the price did not say it.
    #[error("the price is not known at the moment")]
    Unknown,
    /// More than any amount can be.
    #[error("the request asks for more than can be priced")]
    TooMuch,
}

impl From<ScanError> for PriceError {
    #[cold]
    #[inline(never)]
    fn from(error: ScanError) -> Self {
        Self::Body(error.to_string())
    }
}

impl Pointers {
    /// Returns the pointers into the response: to input, cached input and output.
    pub(crate) fn of_response(&self) -> [Option<&str>; 3] {
        [Some(self.input_tokens.as_str()), self.cached_input_tokens.as_deref(), self.output_tokens.as_deref()]
    }
}

impl Tariff {
    /// Finds the prices of a model: by its exact name, and else by the longest pattern that fits.
    ///
    /// # Errors
    /// [`PriceError::Model`].
    pub fn find(&self, model: &str) -> Result<usize, PriceError> {
        // Where another service knows the prices, it knows the models too.
        if self.models.is_empty() {
            return Ok(0);
        }
        let exact = self.models.iter().position(|name| name == model);
        let is_like = |name: &&String| !name.contains('*') && name.eq_ignore_ascii_case(model);
        // Some servers take it for that one, and a pattern may price it otherwise.
        if let (None, Some(name)) = (exact, self.models.iter().find(is_like)) {
            return Err(PriceError::Shape(format!("the model {model:?} is written {name:?} here")));
        }
        // To some servers a comma separates models, of which a pattern would price the first and fit the last.
        let is_one = !model.contains(',');
        let patterns = self.models.iter().enumerate().filter(|(_, pattern)| is_one && fits(pattern, model));
        // Of equally long ones the first.
        let longest = || patterns.rev().max_by_key(|(_, pattern)| pattern.len()).map(|(index, _)| index);
        exact.or_else(longest).ok_or_else(|| PriceError::Model {
            model: crate::json::shorten(model.to_owned()),
            known: self.models.join(", "),
        })
    }

    /// The most tokens of input that a body of `bytes` can be.
    pub const fn input_bound(&self, bytes: u64) -> u64 {
        bytes.div_ceil(if self.bytes_per_token == 0 { 1 } else { self.bytes_per_token })
    }
}

/// Returns whether a text fits a pattern, in which `*` stands for any letters.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Rates {
    /// The most that a job can cost: at least the minimum, and at least one atomic unit.
    ///
    /// # Errors
    /// [`PriceError::TooMuch`].
    pub fn quote(&self, job: &Job) -> Result<Amount, PriceError> {
        let rate = self.models.get(job.model_index).ok_or(PriceError::TooMuch)?;
        let input = rate.input.max(rate.cached_input).max(rate.cache_write);
        let cost = cost(&[(job.input, input), (job.output, rate.output)]).ok_or(PriceError::TooMuch)?;
        Ok(cost.max(self.minimum).max(Amount::from(1)))
    }

    /// Returns the charge for a job that used this much: rounded up, at least the minimum, at most `maximum`.
    pub fn charge(&self, model_index: usize, usage: Usage, maximum: Amount) -> Amount {
        let Some(rate) = self.models.get(model_index) else { return maximum };
        let fresh = usage.input.saturating_sub(usage.cached_input).saturating_sub(usage.cache_write);
        let used = [
            (fresh, rate.input),
            (usage.cached_input, rate.cached_input),
            (usage.cache_write, rate.cache_write),
            (usage.output, rate.output),
        ];
        cost(&used).map_or(maximum, |cost| cost.max(self.minimum).min(maximum))
    }
}

/// The sum of tokens times rates in atomic units, rounded up; `None` beyond 256 bits.
fn cost(parts: &[(u64, U256)]) -> Option<Amount> {
    let sum = parts.iter().try_fold(U256::ZERO, |sum, (tokens, rate)| {
        rate.checked_mul(U256::from(*tokens)).and_then(|part| sum.checked_add(part))
    })?;
    let divisor = U256::from(TOKENS_OF_A_RATE);
    let whole = sum.checked_div(divisor)?;
    let is_exact = sum.checked_rem(divisor)? == U256::ZERO;
    Some(Amount::from(if is_exact { whole } else { whole.checked_add(U256::ONE)? }))
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Pointers(_) => "pointers",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_globs_do() {
        for (pattern, fitting, others) in [
            ("gpt-4o", vec!["gpt-4o"], vec!["gpt-4o-mini", "gpt-4", ""]),
            ("llama-3*", vec!["llama-3", "llama-3-70b"], vec!["llama-2", "xllama-3"]),
            ("*", vec!["", "x"], vec![]),
            ("*-mini", vec!["-mini", "gpt-4o-mini"], vec!["gpt-4o-mini-2"]),
            ("a*b*c", vec!["abc", "axxbyyc", "abbc"], vec!["acb", "ab", "ac"]),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
        ] {
            for text in fitting {
                assert!(fits(pattern, text), "{pattern} {text}");
            }
            for text in others {
                assert!(!fits(pattern, text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn the_exact_name_comes_first_and_then_the_longest_pattern() {
        let tariff = Tariff {
            shape: Shape::OpenAi,
            models: ["*", "gpt-*", "gpt-4o", "gpt-4*", "gpt-4?"].map(str::to_owned).to_vec(),
            bytes_per_token: 1,
            max_output_tokens: 1,
            missing_usage: MissingUsage::Count,
            max_body_bytes: 1,
            max_response_bytes: 1,
            asks_for_usage: true,
            namespace: None,
        };
        for (model, index) in [("gpt-4o", 2), ("gpt-4o-mini", 3), ("gpt-3", 1), ("llama", 0), ("gpt-4?", 4)] {
            assert_eq!(tariff.find(model), Ok(index), "{model}");
        }
        let none = Tariff { models: vec!["a".into(), "b*".into()], ..tariff };
        assert_eq!(none.find("c").unwrap_err().to_string(), "the model \"c\" has no price here; these have: a, b*");
    }

    fn rates() -> Rates {
        // $2.50, $1.25, $3 and $10 for a million tokens, in an asset with 6 decimals.
        let scaled = |micros: u64| U256::from(micros).checked_mul(U256::from(1_000_000_000_000_u64)).unwrap();
        let rate = Rate {
            input: scaled(2_500_000),
            cached_input: scaled(1_250_000),
            cache_write: scaled(3_000_000),
            output: scaled(10_000_000),
        };
        Rates { models: vec![rate], minimum: Amount::from(100) }
    }

    #[test]
    fn charges_are_rounded_up_and_kept_within_their_bounds() {
        let maximum = Amount::from(1_000_000);
        for (input, cached_input, cache_write, output, charge) in [
            (0, 0, 0, 0, 100),
            (1000, 0, 0, 100, 3500),
            (1000, 1000, 0, 100, 2250),
            (1000, 200, 300, 0, 1250 + 250 + 900),
            (41, 0, 0, 0, 103), // 102.5
            (1, 0, 0, 10, 103), // 102.5
            (1_000_000, 0, 0, 0, 1_000_000),
            (u64::MAX, 0, 0, u64::MAX, 1_000_000),
            (5, 10, 0, 100, 1013), // More cached than there was: what was cached is charged.
        ] {
            let usage = Usage { input, cached_input, cache_write, output };
            assert_eq!(rates().charge(0, usage, maximum), Amount::from(charge), "{usage:?}");
        }
    }

    #[test]
    fn a_quote_is_the_most_that_a_job_can_cost() {
        let job = Job {
            model: String::new(),
            model_index: 0,
            input: 100,
            output: 50,
            streams: false,
            wants_usage: false,
            is_read_whole: false,
            wish: None,
            is_wish_alone: false,
        };
        assert_eq!(rates().quote(&job), Ok(Amount::from(800)), "the dearest way to read the input");
        let least = Job { input: 0, output: 0, ..job.clone() };
        assert_eq!(rates().quote(&least), Ok(Amount::from(100)));
        let free = Rates { minimum: Amount::ZERO, ..rates() };
        assert_eq!(free.quote(&least), Ok(Amount::from(1)), "nothing is no price");
        let huge = Rates { models: vec![Rate { output: U256::MAX, ..rates().models[0] }], ..rates() };
        assert_eq!(huge.quote(&job), Err(PriceError::TooMuch));
    }
}
