//! The fields of an answer, each read by itself, so that one that is off does not hide the others.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Fields that mean something in an answer.
const KNOWN: [&str; 8] =
    ["isValid", "invalidReason", "success", "errorReason", "transaction", "network", "payer", "extra"];

/// The known fields of an object, in the order they stand.
pub(super) struct Fields<'a>(Vec<(&'static str, &'a RawValue)>);

/// The error of a field that stands twice, or is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Odd;

impl Fields<'_> {
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.get())
    }

    /// Returns whether a field of one of these names stands twice.
    pub(super) fn has_doubled(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.values(name).nth(1).is_some())
    }

    /// Returns the truth value of a field; `None` where it is anything else, or stands twice.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        let mut values = self.values(name);
        match (values.next()?, values.next()) {
            ("true", None) => Some(true),
            ("false", None) => Some(false),
            _ => None,
        }
    }

    /// Returns the text of a field; `None` where it is absent, null or empty. Facilitators differ on which of these stands
    /// for nothing.
    ///
    /// # Errors
    /// [`Odd`] where it is anything else, or stands twice.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Odd> {
        let mut values = self.values(name);
        let (first, second) = (values.next(), values.next());
        match (first, second) {
            (None | Some("null"), None) => Ok(None),
            (Some(value), None) => {
                let text: String = serde_json::from_str(value).map_err(|_| Odd)?;
                Ok(Some(text).filter(|text| !text.is_empty()))
            }
            (_, Some(_)) => Err(Odd),
        }
    }

    /// Returns the JSON of a field; `None` where it is absent, or stands twice.
    pub(super) fn json(&self, name: &str) -> Option<&RawValue> {
        let mut values = self.0.iter().filter(|(known, _)| *known == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Returns every text that stands under a name.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = String> {
        self.values(name).filter_map(|value| serde_json::from_str(value).ok())
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.extend(KNOWN.into_iter().find(|known| *known == name).map(|known| (known, value)));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}
