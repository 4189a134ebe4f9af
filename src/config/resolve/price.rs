//! The price of a route: fixed, by tokens, or named by the operator's own service.

use ruint::aliases::U256;

use super::asset::{Asset, atomic_units};
use super::{Result, refuse, service};
use crate::config::Service;
use crate::config::raw::{self, TextOr};
use crate::config::secret::{Environment, Shown, named};
use crate::json::{Named, Object};
use crate::money::Amount;
use crate::price::{Pointers, Rate, Rates, Shape, Tariff};

const DEFAULT_MAX_OUTPUT_TOKENS: u64 = 4096;
const DEFAULT_MAX_BODY_BYTES: u64 = 1024 * 1024;
const MOST_BODY_BYTES: u64 = 16 * 1024 * 1024;
const DEFAULT_MAX_RESPONSE_BYTES: u64 = 16 * 1024 * 1024;
const MOST_RESPONSE_BYTES: u64 = 1024 * 1024 * 1024;

/// A price as it is written.
pub(super) struct Price<'a> {
    path: String,
    raw: &'a TextOr<raw::Price>,
}

impl<'a> Price<'a> {
    /// Returns the price of the route at `route`.
    pub(super) fn new(route: &str, raw: &'a TextOr<raw::Price>) -> Self {
        Self { path: format!("{route}.price"), raw }
    }

    /// Returns what is wrong with the price, or with what stands at `key` in it.
    fn refuse<T>(&self, key: &str, message: impl std::fmt::Display) -> Result<T> {
        refuse(format!("{}.{key}", self.path), message)
    }

    /// Resolves a fixed price in atomic units of the asset; a placeholder where a service names the price.
    #[inline(never)]
    pub(super) fn amount(&self, asset: &Asset) -> Result<Amount> {
        let path = self.path.as_str();
        let amount = match self.raw {
            TextOr::Object(raw::Price { quote: Some(_), amount: Some(_), .. }) => {
                return refuse(path, "has an amount, and a service to ask for it; keep one");
            }
            // Until the service has said.
            TextOr::Object(raw::Price { quote: Some(_), .. }) => return Ok(Amount::from(1)),
            TextOr::Object(raw::Price { amount: Some(amount), .. }) => atomic_units(&format!("{path}.amount"), amount)?,
            TextOr::Object(_) => return refuse(path, "has neither an amount nor usage and models"),
            TextOr::Text(text) => asset.units(path, text, 0)?,
        };
        if amount == Amount::ZERO {
            return refuse(path, "is nothing; write free: true in place of a price");
        }
        Ok(amount)
    }

    /// Resolves the operator's own service that names the price, if there is one.
    pub(super) fn service(&self, environment: Environment<'_>) -> Result<Option<Service>> {
        let TextOr::Object(raw::Price { quote: Some(quote), .. }) = self.raw else { return Ok(None) };
        service::quote(&format!("{}.quote", self.path), quote, environment).map(Some)
    }

    /// Resolves the price by tokens, if the route has one.
    #[inline(never)]
    pub(super) fn tariff(&self) -> Result<Option<Tariff>> {
        let TextOr::Object(price) = self.raw else { return Ok(None) };
        let Some(usage) = &price.usage else {
            if price.models.is_some() {
                return self.refuse("usage", "is missing: openai, anthropic, gemini, or JSON pointers");
            }
            return Ok(None);
        };
        let shape = self.shape(usage)?;
        let models: Vec<String> =
            price.models.iter().flat_map(|models| &models.0).map(|(name, _)| name.clone()).collect();
        let max_body_bytes = price.max_body_bytes.unwrap_or(DEFAULT_MAX_BODY_BYTES);
        if !(1..=MOST_BODY_BYTES).contains(&max_body_bytes) {
            return self.refuse("max_body_bytes", format_args!("is not between 1 and {MOST_BODY_BYTES}"));
        }
        let max_response_bytes = price.max_response_bytes.unwrap_or(DEFAULT_MAX_RESPONSE_BYTES);
        if !(1..=MOST_RESPONSE_BYTES).contains(&max_response_bytes) {
            return self.refuse("max_response_bytes", format_args!("is not between 1 and {MOST_RESPONSE_BYTES}"));
        }
        if matches!((&shape, &price.metadata), (Shape::Pointers(_) | Shape::Gemini, Some(_))) {
            return self.refuse("metadata", "does not go with gemini or JSON pointers; use openai or anthropic");
        }
        let bytes_per_token = price.bytes_per_token.unwrap_or(1);
        if bytes_per_token == 0 {
            return self.refuse("bytes_per_token", "is 0");
        }
        if models.iter().any(String::is_empty) {
            return self.refuse("models", "has an empty name; write \"*\" for any model");
        }
        Ok(Some(Tariff {
            shape,
            models,
            bytes_per_token,
            max_output_tokens: price.max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS),
            missing_usage: price.missing_usage.unwrap_or_default(),
            max_body_bytes: usize::try_from(max_body_bytes).unwrap_or(usize::MAX),
            max_response_bytes: usize::try_from(max_response_bytes).unwrap_or(usize::MAX),
            asks_for_usage: price.ask_for_usage.unwrap_or(true),
            namespace: price.metadata.clone(),
        }))
    }

    fn shape(&self, usage: &TextOr<Pointers>) -> Result<Shape> {
        match usage {
            TextOr::Text(name) if name == "openai" => Ok(Shape::OpenAi),
            TextOr::Text(name) if name == "anthropic" => Ok(Shape::Anthropic),
            TextOr::Text(name) if name == "gemini" => Ok(Shape::Gemini),
            TextOr::Text(name) => self.refuse(
                "usage",
                format_args!(
                    "{} is neither openai nor anthropic nor gemini; give JSON pointers for anything else",
                    Shown(name)
                ),
            ),
            TextOr::Object(pointers) => {
                check_pointers(&format!("{}.usage", self.path), pointers)?;
                Ok(Shape::Pointers(Box::new(pointers.clone())))
            }
        }
    }

    /// Resolves the prices of tokens in an asset, if the route is priced by them.
    #[inline(never)]
    pub(super) fn rates(&self, asset: &Asset) -> Result<Option<Rates>> {
        let TextOr::Object(price) = self.raw else { return Ok(None) };
        let Some(models) = self.models(price)? else { return Ok(None) };
        let minimum = self.minimum(price, asset)?;
        let models = models.0.iter().map(|(name, Object(raw))| {
            let path = format!("{}.models.{}", self.path, named(name));
            rate(&path, raw, asset)
        });
        Ok(Some(Rates { models: models.collect::<Result<_>>()?, minimum }))
    }

    /// Returns the models that have a price, if the route is priced by tokens and no service names the price.
    fn models<'b>(&self, price: &'b raw::Price) -> Result<Option<&'b Named<Object<raw::Rate>>>> {
        let is_by_tokens = price.usage.is_some() || price.models.is_some();
        if is_by_tokens && price.amount.is_some() {
            return self.refuse("amount", "is a fixed price, and there are prices of tokens beside it");
        }
        match &price.models {
            _ if !is_by_tokens => Ok(None),
            Some(_) if price.quote.is_some() => {
                self.refuse("models", "have prices, and quote names a service that knows them; keep one")
            }
            None if price.quote.is_some() => Ok(None),
            Some(models) if !models.0.is_empty() => Ok(Some(models)),
            _ => self.refuse("models", "is missing: say what a million tokens of each model cost"),
        }
    }

    fn minimum(&self, price: &raw::Price, asset: &Asset) -> Result<Amount> {
        let path = format!("{}.minimum", self.path);
        match &price.minimum {
            None => Ok(Amount::ZERO),
            Some(TextOr::Object(units)) => atomic_units(&format!("{path}.amount"), &units.amount),
            Some(TextOr::Text(text)) => asset.units(&path, text, 0),
        }
    }
}

fn rate(path: &str, rate: &raw::Rate, asset: &Asset) -> Result<Rate> {
    let units = |key: &str, value: &TextOr<raw::Units>| asset.rate(&format!("{path}.{key}"), value);
    let input = units("input", &rate.input)?;
    let or_input =
        |key: &str, value: &Option<TextOr<raw::Units>>| value.as_ref().map_or(Ok(input), |value| units(key, value));
    Ok(Rate {
        input,
        cached_input: or_input("cached_input", &rate.cached_input)?,
        cache_write: or_input("cache_write", &rate.cache_write)?,
        output: rate.output.as_ref().map_or(Ok(U256::ZERO), |output| units("output", output))?,
    })
}

/// Checks that JSON pointers begin with a slash.
fn check_pointers(path: &str, pointers: &Pointers) -> Result<()> {
    let Pointers { model, max_output_tokens, choices, input_tokens, cached_input_tokens, output_tokens } = pointers;
    let pointers = [
        ("model", Some(model)),
        ("max_output_tokens", max_output_tokens.as_ref()),
        ("choices", choices.as_ref()),
        ("input_tokens", Some(input_tokens)),
        ("cached_input_tokens", cached_input_tokens.as_ref()),
        ("output_tokens", output_tokens.as_ref()),
    ];
    let is_wrong = |text: &&String| !text.starts_with('/');
    match pointers.into_iter().find_map(|(key, pointer)| Some((key, pointer.filter(is_wrong)?))) {
        None => Ok(()),
        Some((key, pointer)) => refuse(
            format!("{path}.{key}"),
            format_args!("{} is not a JSON pointer such as /usage/total", Shown(pointer)),
        ),
    }
}
