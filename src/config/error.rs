//! The error of a configuration that cannot be taken.

use crate::json::JsonError;

/// An error in a configuration: of its JSON, or of what it means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// The place of the error, such as `routes[2].price`; `.` for the whole.
    pub path: String,
    /// The fault of what stands there, as the rest of a sentence: `is empty`.
    pub message: String,
}

impl From<JsonError> for ConfigError {
    fn from(JsonError { path, message }: JsonError) -> Self {
        Self { path, message }
    }
}
