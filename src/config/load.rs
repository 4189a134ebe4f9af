//! Loading: from the host's bytes or from JSON to a checked [`Config`].

use super::secret::Environment;
use super::{Config, ConfigError, protobuf, resolve, secret};
use crate::json::{self, JsonError};

impl Config {
    /// Reads a configuration as a host hands it over: JSON, or an encoded `google.protobuf.Struct`. What stands there as
    /// `{env: NAME}` is what `environment` gives for the name.
    ///
    /// # Errors
    /// The first [`ConfigError`] found, of shape or of meaning.
    pub fn from_host(bytes: &[u8], environment: Environment<'_>) -> Result<Self, ConfigError> {
        let starts_as_json = bytes.trim_ascii_start().first().is_none_or(|byte| *byte == b'{');
        match (json::from_slice_discreetly(bytes, secret::shows_key), protobuf::struct_to_json(bytes)) {
            (Ok(raw), _) => resolve::config(raw, environment),
            (Err(_), Some(json)) => Self::read(json.as_bytes(), environment),
            (Err(error), None) if starts_as_json => Err(with_cure(error)),
            (Err(_), None) => Err(ConfigError {
                path: ".".to_owned(),
                message: "is neither JSON nor a google.protobuf.Struct".to_owned(),
            }),
        }
    }

    /// Reads a configuration from JSON, without an environment.
    ///
    /// # Errors
    /// The first [`ConfigError`] found, of shape or of meaning.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        Self::read(json, &|_| None)
    }

    fn read(json: &[u8], environment: Environment<'_>) -> Result<Self, ConfigError> {
        resolve::config(json::from_slice_discreetly(json, secret::shows_key).map_err(with_cure)?, environment)
    }
}

/// What to write instead, by the key (any, where that is empty) and by two things that the error says. The first that fits counts.
const CURES: [(&str, [&str; 2], &str); 23] = [
    // A flag in the place of a word, as YAML reads `off` and `no`.
    ("mode", ["expected value", ""], "; write \"enforce\" or \"shadow\""),
    ("unmatched", ["expected value", ""], "; write \"free\" or \"deny\""),
    ("verify", ["expected value", ""], "; write \"remote\" or \"local\""),
    ("settle", ["expected value", ""], "; write \"after\", \"before\" or \"concurrent\""),
    ("missing_usage", ["expected value", ""], "; write \"count\" or \"maximum\""),
    ("facilitator", ["string", "an object"], "; write {cluster: \"facilitator\", url: \"https://…\"}"),
    ("match", ["string", "an object"], "; write {path: \"/weather\"}"),
    ("builder_code", ["string", "an object"], "; write {app: \"my_app\"}"),
    ("quote", ["string", "an object"], "; write {cluster: \"prices\", url: \"http://…\"}"),
    ("headers", ["sequence", "an object"], "; write {x-api-key: {env: NAME}}"),
    ("rpc", ["sequence", "an object"], "; write {base: {cluster: \"chain\", url: \"https://…\"}}"),
    ("models", ["", "an object"], "; write {gpt-4o: {input: \"$2.50\", output: \"$10\"}}"),
    ("timeout", ["type: ", "a string"], "; write it with its unit, in quotes: \"10s\""),
    ("lasts", ["type: ", "a string"], "; write it with its unit, in quotes: \"3600s\""),
    ("page", ["boolean", "an object"], "; write {enabled: false} for none"),
    ("price", ["integer", ""], "; write dollars in quotes: \"$0.001\""),
    ("price", ["floating", ""], "; write dollars in quotes: \"$0.001\""),
    ("cors", ["", "an object"], "; write {origins: [\"https://app.example.com\"]}"),
    ("", ["integer", "a string"], "; put it in quotes"),
    ("", ["floating", "a string"], "; put it in quotes"),
    ("", ["", "expected a sequence"], " (a list); put what it holds in [ ]"),
    ("", ["", "expected a boolean"], "; write true or false, without quotes"),
    ("", ["", "a whole number"], ", without quotes"),
];

/// Returns an error of shape with what to write instead.
#[cold]
fn with_cure(JsonError { path, message }: JsonError) -> ConfigError {
    if let Some(message) = message.strip_prefix("unknown field `").and_then(of_key) {
        return ConfigError { path, message };
    }
    let fits = |(key, says, _): &&(&str, [&str; 2], &str)| {
        path.ends_with(key) && says.iter().all(|says| message.contains(says))
    };
    let Some((_, [says, _], cure)) = CURES.iter().find(fits) else { return ConfigError { path, message } };
    // Of a flag it says no more than where it stands, which the path does.
    let said = if *says == "expected value" { says } else { message.as_str() };
    ConfigError { message: [said, cure].concat(), path }
}

/// Returns what is said of an unknown key, given what serde says behind its opening quote; `None` where there is nothing to add.
fn of_key(said: &str) -> Option<String> {
    let (key, expected) = said.split_once('`')?;
    let known = expected.split('`').skip(1).step_by(2);
    let cure = match (secret::instead_of(key), secret::nearest(known, key), secret::place_of(key)) {
        (Some(instead), ..) => instead.to_owned(),
        (None, Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, None, Some(place)) => format!("it belongs {place}"),
        (None, None, None) => return None,
    };
    Some(format!("unknown field `{key}` ({cure}){expected}"))
}
