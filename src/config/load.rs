//! Loading: from the host's bytes or from JSON to a checked [`Config`].

use super::{Config, ConfigError, protobuf, resolve, secret};
use crate::json;

impl Config {
    /// Reads a configuration as a host hands it over: JSON, or an encoded `google.protobuf.Struct`.
    ///
    /// # Errors
    /// The first [`ConfigError`] found, of shape or of meaning.
    pub fn from_host(bytes: &[u8]) -> Result<Self, ConfigError> {
        let starts_as_json = bytes.trim_ascii_start().first().is_none_or(|byte| *byte == b'{');
        match (json::from_slice_discreetly(bytes, secret::shows_key), protobuf::struct_to_json(bytes)) {
            (Ok(raw), _) => resolve::config(raw),
            (Err(_), Some(json)) => Self::from_json(json.as_bytes()),
            (Err(error), None) if starts_as_json => Err(error.into()),
            (Err(_), None) => Err(ConfigError {
                path: ".".to_owned(),
                message: "is neither JSON nor a google.protobuf.Struct".to_owned(),
            }),
        }
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// The first [`ConfigError`] found, of shape or of meaning.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        resolve::config(json::from_slice_discreetly(json, secret::shows_key)?)
    }
}
