//! JSON of a response, read so that no two parsers could read it differently. Requests are not read like this: they cost
//! their sender nothing, and the tree of a hostile one is a hundred times its size.

use std::collections::BTreeSet;

use crate::scan::{ScanError, Scanner, Text};

/// A JSON value without its fractions: nothing that is priced is counted in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number from 0 to 2⁶⁴ − 1, written without point and exponent.
    Whole(u64),
    /// Any other number.
    OtherNumber,
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object; no key stands twice.
    Object(Vec<(String, Self)>),
}

/// An error in a text that is not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON that can be read in one way only: {0}")]
pub struct DocumentError(String);

impl From<ScanError> for DocumentError {
    #[cold]
    #[inline(never)]
    fn from(error: ScanError) -> Self {
        Self(error.to_string())
    }
}

impl Document {
    /// Reads a whole text.
    ///
    /// # Errors
    /// [`DocumentError`] where it is not JSON, or has an object with a key that stands twice.
    pub fn read(text: &[u8]) -> Result<Self, DocumentError> {
        let mut scanner = Scanner::new(text, usize::MAX);
        let document = Self::read_value(&mut scanner)?;
        scanner.end()?;
        Ok(document)
    }

    fn read_value(scanner: &mut Scanner<'_>) -> Result<Self, DocumentError> {
        Ok(match scanner.peek() {
            b'{' => {
                let mut fields = Vec::new();
                scanner.open_object()?;
                while let Some(key) = scanner.next_key()? {
                    fields.push((decode(key)?, Self::read_value(scanner)?));
                }
                // One after the other: what sorts a list is four times the code.
                let mut keys = BTreeSet::new();
                if let Some((key, _)) = fields.iter().find(|(key, _)| !keys.insert(key.as_str())) {
                    return Err(DocumentError(crate::json::shorten(format!("the key {key:?} stands twice"))));
                }
                Self::Object(fields)
            }
            b'[' => {
                let mut items = Vec::new();
                scanner.open_list()?;
                while scanner.has_element()? {
                    items.push(Self::read_value(scanner)?);
                }
                Self::List(items)
            }
            b'"' => Text::of(scanner.skip()?).map_or(Ok(Self::Null), |text| decode(text).map(Self::Text))?,
            _ => match scanner.skip()? {
                b"null" => Self::Null,
                b"true" => Self::Bool(true),
                b"false" => Self::Bool(false),
                number => whole(number).map_or(Self::OtherNumber, Self::Whole),
            },
        })
    }

    /// The field of an object; `None` where there is none, or where it is `null`.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| **value != Self::Null)
    }

    /// Returns the value that a JSON pointer leads to (RFC 6901); `None` where it leads nowhere, or to `null`.
    pub fn at(&self, pointer: &str) -> Option<&Self> {
        let steps = pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
        let mut place = self;
        for step in steps {
            place = match place {
                Self::List(items) => items.get(step.parse::<usize>().ok()?)?,
                _ => place.field(&step)?,
            };
        }
        Some(place).filter(|value| **value != Self::Null)
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The whole number, where it is one.
    pub const fn as_whole(&self) -> Option<u64> {
        if let Self::Whole(number) = self { Some(*number) } else { None }
    }
}

fn decode(text: Text<'_>) -> Result<String, DocumentError> {
    let text = text.decode().ok_or_else(|| DocumentError("half a letter stands in a text".to_owned()))?;
    Ok(text.into_owned())
}

/// A number that is written as digits alone, where it has 64 bits at most.
pub(super) fn whole(number: &[u8]) -> Option<u64> {
    // In JSON none begins with a zero too many.
    std::str::from_utf8(number).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"c":2,"b":3}}"#,
            r#"[{"a":1,"\u0061":2}]"#,
            "",
            "{}{}",
            "{} x",
            r#"{"a":1,}"#,
            r#"{'a':1}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"\ud800"}"#,
            r#"{"a":NaN}"#,
            r#"{"a":01}"#,
            "\u{feff}{}",
            "{\"a\":\"\u{0}\"}",
            r#"{"a":1/*x*/}"#,
        ] {
            assert!(Document::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Document::read(b"{\"a\":\"\xff\"}").is_err());
        assert!(Document::read("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn pointers_lead_through_objects_and_lists() {
        let document = Document::read(br#"{"a":{"b/c":[{"~":7}]},"n":null,"":{"":1}}"#).unwrap();
        assert_eq!(document.at("/a/b~1c/0/~0"), Some(&Document::Whole(7)));
        assert_eq!(document.at("//"), Some(&Document::Whole(1)));
        assert_eq!(document.at(""), Some(&document));
        for nowhere in ["/a/b", "/a/b~1c/1", "/a/b~1c/x", "/n", "/x"] {
            assert_eq!(document.at(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn numbers_are_whole_or_none() {
        let document = Document::read(br#"[0, 18446744073709551615, 18446744073709551616, -1, 1.0, 1e3]"#).unwrap();
        let Document::List(numbers) = document else { panic!("a list") };
        let wholes: Vec<_> = numbers.iter().map(Document::as_whole).collect();
        assert_eq!(wholes, [Some(0), Some(u64::MAX), None, None, None, None]);
    }
}
