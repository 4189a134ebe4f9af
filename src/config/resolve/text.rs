//! Texts of a certain form: names of headers and methods, values of headers, names on foreign networks.

use super::{Result, refuse};
use crate::config::secret::{Shown, named};

/// Reads the names of headers that are kept, in lower case.
pub(super) fn kept_headers(raw: &[String]) -> Result<Vec<String>> {
    let names = raw.iter().enumerate();
    names.map(|(index, name)| Ok(token(&format!("keep_headers[{index}]"), name)?.to_ascii_lowercase())).collect()
}

/// Checks the name of a header or a method (a token of RFC 9110, section 5.6.2).
pub(super) fn token<'a>(path: &str, text: &'a str) -> Result<&'a str> {
    if is_token(text) {
        Ok(text)
    } else {
        refuse(path, format_args!("{} is not a name: letters, digits and !#$%&'*+-.^_`|~", Shown(text)))
    }
}

pub(super) fn is_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}

/// Returns whether a text can stand in a header (RFC 9110, section 5.5).
pub(super) fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

/// Checks a name on a network that the filter does not know.
pub(super) fn foreign_name(path: &str, text: &str) -> Result<String> {
    const LONGEST: usize = 256;
    let is_name = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name {
        Ok(text.to_owned())
    } else {
        refuse(path, format_args!("{} is not of 1 to {LONGEST} printable characters", Shown(text)))
    }
}

/// Returns names as a list for people.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(named).collect::<Vec<_>>().join(", ")
}
