//! JSON from outside: into types, with errors that name the path of what is wrong.
//!
//! serde tells where in the text it stopped; the path is found by reading the text again up to there. That costs
//! nothing unless there is an error, and a tenth of the code that carrying the path along would take.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::money::Decimal;
use crate::scan::{ScanError, Scanner, Text};

/// The reason why a text is not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct JsonError {
    /// The path, such as `routes[2].price`; `.` for the whole.
    pub path: String,
    /// The fault there.
    pub message: String,
}

/// Reads a whole text, an object, as `T`.
///
/// # Errors
/// [`JsonError`] for anything else than one object of that shape. It must not hold one of the fields of `T` twice.
pub fn from_slice<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, JsonError> {
    read(json).map_err(|error| {
        let (path, message) = explain(json, &error);
        JsonError { path: shorten(path.to_string()), message: shorten(message) }
    })
}

/// The same for a text that may hold secrets: the error shows no value, and only the keys that `shows` agrees to, given the
/// key of the object that each stands in (empty for the outermost).
///
/// # Errors
/// Those of [`from_slice`].
pub(crate) fn from_slice_discreetly<'a, T: Deserialize<'a>>(
    json: &'a [u8],
    shows: fn(&str, &str) -> bool,
) -> Result<T, JsonError> {
    read(json).map_err(|error| {
        let (mut path, message) = explain(json, &error);
        let is_last_shown = path.hide(shows);
        let message = if error.is_data() { without_values(message, is_last_shown) } else { message };
        // What it says comes from here: the keys that are known are many.
        JsonError { path: shorten(path.to_string()), message }
    })
}

/// Returns where an error stands, and what it says.
fn explain(json: &[u8], error: &serde_json::Error) -> (Path, String) {
    let (line, column) = (error.line(), error.column());
    let mut message = error.to_string();
    let mut path = path_at(json, line, column);
    if message.starts_with("missing field") {
        path.leave_key();
    }
    // serde_json has gone into a list before it says that it wanted none.
    if message.starts_with("invalid type: sequence") && message.contains(TEXT_OR_OBJECT) {
        path.0.pop();
    }
    if let (true, Some(alone)) = (error.is_data(), message.strip_suffix(&format!(" at line {line} column {column}"))) {
        message = alone.to_owned();
    }
    (path, message)
}

/// Returns what serde says of a value, without the value: it quotes what it found, and says behind that what it expected.
/// `is_key_shown` is for the key that it may speak of.
fn without_values(message: String, is_key_shown: bool) -> String {
    let Some((said, _)) = message.split_once(['"', '`']) else { return message };
    let said = said.trim_end();
    if said == "missing field" || (said == "unknown field" && is_key_shown) {
        return message;
    }
    let expected = message.rfind(", expected ").and_then(|at| message.get(at..)).unwrap_or_default();
    let why = if said == "unknown field" { " (not shown: it may be a key)" } else { "" };
    format!("{said}{why}{expected}")
}

/// The expectation of a visitor that takes texts and objects.
pub const TEXT_OR_OBJECT: &str = "a string or an object";

/// Cuts a text that may hold whatever somebody sent.
pub(crate) fn shorten(text: String) -> String {
    const LONG_ENOUGH: usize = 300;
    if text.len() <= LONG_ENOUGH { text } else { text.chars().take(LONG_ENOUGH).chain(['…']).collect() }
}

/// A value as JSON text. For the types of this crate, which hold texts, numbers, flags, and lists and objects of them:
/// those always have a JSON form.
pub(crate) fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = object(&mut deserializer)?;
    deserializer.end().map(|()| value)
}

/// The one way to write a value: fields in the order of their names, no spaces, texts escaped no more than they have to
/// be. Numbers stay as they were written.
///
/// # Errors
/// [`JsonError`], without a path, where an object holds a field twice or a text is none, or where the value is nested
/// deeper than anybody honest would.
pub fn canonical(value: &RawValue) -> Result<String, JsonError> {
    let mut written = String::with_capacity(value.get().len());
    write_canonical(&mut Scanner::new(value.get().as_bytes(), usize::MAX), &mut written, DEEPEST)
        .map_err(Flaw::in_value)?;
    Ok(written)
}

/// Levels of a value that is written canonically: what lies on one is copied once for each that it lies in.
const DEEPEST: usize = 16;

/// The fields of an object, each in the way of [`canonical`], but for a number by itself: that loses the zeros at the end
/// of its fraction (`6.0` is `6`), as it does where JavaScript reads and writes it.
///
/// # Errors
/// Those of [`canonical`], and where the value is no object.
pub fn canonical_fields(value: &RawValue) -> Result<BTreeMap<String, String>, JsonError> {
    if !value.get().starts_with('{') {
        return Err(Flaw("invalid type, expected an object".to_owned()).in_value());
    }
    let scanner = &mut Scanner::new(value.get().as_bytes(), usize::MAX);
    let mut fields = read_canonical(scanner, DEEPEST).map_err(Flaw::in_value)?;
    fields.values_mut().for_each(drop_zeros);
    Ok(fields)
}

fn drop_zeros(value: &mut String) {
    let is_fraction = value.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && value.contains('.')
        && !value.contains(['e', 'E']);
    if is_fraction {
        let kept = value.trim_end_matches('0').trim_end_matches('.').len();
        value.truncate(kept);
    }
}

/// The reason why a value has no canonical form.
struct Flaw(String);

impl From<ScanError> for Flaw {
    #[cold]
    #[inline(never)]
    fn from(error: ScanError) -> Self {
        Self(error.to_string())
    }
}

impl Flaw {
    fn in_value(self) -> JsonError {
        JsonError { path: ".".to_owned(), message: self.0 }
    }
}

fn decode(text: Text<'_>) -> Result<Cow<'_, str>, Flaw> {
    text.decode().ok_or_else(|| Flaw("has half a letter in a text".to_owned()))
}

fn write_text(written: &mut String, text: &str) {
    // Most texts have nothing to escape.
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        written.extend(["\"", text, "\""]);
    } else {
        written.push_str(&to_text(&text));
    }
}

fn read_canonical(scanner: &mut Scanner<'_>, deepest: usize) -> Result<BTreeMap<String, String>, Flaw> {
    let mut fields = BTreeMap::new();
    scanner.open_object()?;
    while let Some(key) = scanner.next_key()? {
        let (name, mut value) = (decode(key)?.into_owned(), String::new());
        write_canonical(scanner, &mut value, deepest)?;
        match fields.entry(name) {
            Entry::Vacant(place) => drop(place.insert(value)),
            Entry::Occupied(place) => {
                return Err(Flaw(format!("duplicate field `{}`", shorten(place.key().clone()))));
            }
        }
    }
    Ok(fields)
}

fn write_canonical(scanner: &mut Scanner<'_>, written: &mut String, deepest: usize) -> Result<(), Flaw> {
    let Some(deepest) = deepest.checked_sub(1) else {
        return Err(Flaw("is nested too deep".to_owned()));
    };
    match scanner.peek() {
        b'{' => {
            let mut separator = "{";
            for (name, value) in read_canonical(scanner, deepest)? {
                written.push_str(separator);
                write_text(written, &name);
                written.extend([":", &value]);
                separator = ",";
            }
            written.push_str(if separator == "{" { "{}" } else { "}" });
        }
        b'[' => {
            let mut separator = "[";
            scanner.open_list()?;
            while scanner.has_element()? {
                written.push_str(separator);
                write_canonical(scanner, written, deepest)?;
                separator = ",";
            }
            written.push_str(if separator == "[" { "[]" } else { "]" });
        }
        _ => {
            let value = scanner.skip()?;
            match Text::of(value) {
                Some(text) => write_text(written, &decode(text)?),
                None => written.push_str(&String::from_utf8_lossy(value)),
            }
        }
    }
    Ok(())
}

/// An object that is read as `T`. Left to itself, serde would take an array too, and read the fields in their order;
/// nobody else reads JSON like that.
#[derive(Debug, Clone, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// Reads an object as `T`, for `deserialize_with`; see [`Object`].
///
/// # Errors
/// Those of `T`, and a wrong type for anything but an object.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct ObjectVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

/// An object that is read as `T`, as by [`open_object`].
#[derive(Debug)]
pub struct Open<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Open<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        open_object(deserializer).map(Self)
    }
}

/// Reads an object as `T`, a struct, for `deserialize_with`. Fields that `T` does not know are dropped, unless their names
/// differ from a known one in nothing but letter case, strokes and underscores: there are readers that take one for the
/// other.
///
/// # Errors
/// Those of [`object`], and a custom error for a name like that.
pub fn open_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<A> {
        map: A,
        known: &'static [&'static str],
    }

    impl<'de, A: MapAccess<'de>> Deserializer<'de> for Fields<A> {
        type Error = A::Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
            visitor.visit_map(self)
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            known: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, A::Error> {
            visitor.visit_map(Self { known, ..self })
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
        type Error = A::Error;

        fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
            let Some(name) = self.map.next_key::<String>()? else { return Ok(None) };
            match self.known.iter().find(|known| is_lookalike(known, &name)) {
                Some(known) => {
                    Err(A::Error::custom(format_args!("unknown field `{}`, expected `{known}`", shorten(name))))
                }
                None => seed.deserialize(name.into_deserializer()).map(Some),
            }
        }

        fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
            self.map.next_value_seed(seed)
        }
    }

    struct OpenVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OpenVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(Fields { map, known: &[] })
        }
    }

    deserializer.deserialize_map(OpenVisitor(PhantomData))
}

/// Returns whether a name is another one, and easily taken for this one.
fn is_lookalike(known: &str, name: &str) -> bool {
    fn letters(name: &str) -> impl Iterator<Item = u8> + '_ {
        name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase())
    }
    name != known && letters(name).eq(letters(known))
}

/// An object whose keys are names of the writer's choice, in the order they stand. No name may stand twice.
#[derive(Debug, Clone)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Self::Value = Vec::new();
                let mut names = BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(NamedVisitor(PhantomData)).map(Self)
    }
}

/// Reads a whole number that is not negative, for `deserialize_with`. It may be written as a double that is whole
/// (`300.0`): Istio passes every number through one.
///
/// # Errors
/// A custom error for everything else.
pub fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    // Not by serde's own numbers, which would bring the reading of floating point along.
    let text = Box::<RawValue>::deserialize(deserializer)?;
    let number = Decimal::parse(text.get()).and_then(|number| number.to_units(0));
    let number = number.ok().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| D::Error::custom("expected a whole number that is not negative"))
}

/// [`whole_number`], where the field may be absent.
///
/// # Errors
/// Those of [`whole_number`].
pub fn optional_whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    whole_number(deserializer).map(Some)
}

/// The way from the root to a place: the containers around it, innermost last.
#[derive(Default)]
struct Path(Vec<Step>);

enum Step {
    /// An object, and the key whose value is being read, if one is.
    Object(Option<String>),
    /// An array, and the index of the element that is being read.
    Array(usize),
}

impl Path {
    /// Speaks of the innermost object as a whole, not of the value that was read last.
    fn leave_key(&mut self) {
        if let Some(Step::Object(key)) = self.0.last_mut() {
            *key = None;
        }
    }

    /// Hides the keys that `shows` does not agree to, given the key around each. Whether the last key is shown.
    fn hide(&mut self, shows: fn(&str, &str) -> bool) -> bool {
        let mut around = String::new();
        let mut is_last_shown = true;
        for step in &mut self.0 {
            if let Step::Object(Some(key)) = step {
                is_last_shown = shows(&around, key);
                around.clone_from(key);
                if !is_last_shown {
                    key.clear();
                    key.push('…');
                }
            }
        }
        is_last_shown
    }

    fn on_comma(&mut self) {
        match self.0.last_mut() {
            Some(Step::Object(key)) => *key = None,
            Some(Step::Array(index)) => *index = index.saturating_add(1),
            None => {}
        }
    }

    fn on_text(&mut self, text: &str) {
        if let Some(Step::Object(key @ None)) = self.0.last_mut() {
            *key = Some(text.to_owned());
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Nobody reads on, and whoever sent it should not make the filter write on.
        const DEEPEST: usize = 32;
        let mut is_root = true;
        for step in self.0.iter().take(DEEPEST) {
            match step {
                Step::Object(None) => continue,
                Step::Object(Some(key)) if key.is_empty() => write!(f, "\"\"")?,
                Step::Object(Some(key)) if is_root => write!(f, "{key}")?,
                Step::Object(Some(key)) => write!(f, ".{key}")?,
                Step::Array(index) => write!(f, "[{index}]")?,
            }
            is_root = false;
        }
        if is_root { f.write_str(".") } else { Ok(()) }
    }
}

/// The path of what stands at `line` and `column` (both from 1, columns in bytes) of a text that is JSON up to there.
fn path_at(json: &[u8], line: usize, column: usize) -> Path {
    let lines_before = json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1));
    let end = lines_before.map(<[u8]>::len).sum::<usize>().saturating_add(column);
    let mut rest = json.get(..end).unwrap_or(json);
    let mut path = Path::default();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'{' => path.0.push(Step::Object(None)),
            b'[' => path.0.push(Step::Array(0)),
            // The last byte may close a container that the error is in.
            b'}' | b']' if !after.is_empty() => drop(path.0.pop()),
            b',' => path.on_comma(),
            b'"' => {
                let (text, after) = take_string(after);
                path.on_text(&text);
                rest = after;
            }
            _ => {}
        }
    }
    path
}

/// The text of a string up to its closing quote, and what follows. Escapes stay as they are: this is for messages.
fn take_string(bytes: &[u8]) -> (String, &[u8]) {
    let mut escaped = false;
    let end = bytes.iter().position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    });
    let (text, rest) = end.and_then(|end| bytes.split_at_checked(end)).unwrap_or((bytes, &[]));
    (String::from_utf8_lossy(text).into_owned(), rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the errors matter")]
    struct Outer {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the errors matter")]
    struct Inner {
        count: u8,
        #[serde(default)]
        label: String,
    }

    #[test]
    fn a_value_has_one_canonical_form() {
        let canonical = |json: &str| canonical(serde_json::from_str(json).unwrap()).map_err(|error| error.message);
        let written = "{\"a\":[1.50,1e3,null,true],\"b\":{\"\":\"\",\"\u{e4}\\n\":\"/\"}}";
        assert_eq!(
            canonical("{ \"b\" : {\"\\u00e4\\n\" : \"\\/\", \"\":\"\"}, \"\\u0061\":[1.50 , 1e3, null,\ttrue ] }"),
            Ok(written.to_owned())
        );
        assert_eq!(canonical(written), Ok(written.to_owned()));
        assert_eq!(canonical(r#"{"a":1,"b":{"c":1,"\u0063":2}}"#), Err("duplicate field `c`".to_owned()));
        assert!(canonical(r#""\ud800""#).is_err());
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonical(&nested(16)).is_ok());
        assert_eq!(canonical(&nested(17)), Err("is nested too deep".to_owned()));
    }

    #[test]
    fn errors_name_the_path() {
        for (json, path, message) in [
            ("", ".", "EOF"),
            (r#"["a", []]"#, ".", "expected an object"),
            ("7", ".", "invalid type"),
            ("{\"", "\"\"", "EOF"),
            ("{}", ".", "missing field `name`"),
            (r#"{"inner": []}"#, ".", "missing field `name`"),
            (r#"{"name": 7}"#, "name", "invalid type"),
            (r#"{"name": "a", "name": "b"}"#, "name", "duplicate field"),
            (r#"{"name": "a", "other": {}}"#, "other", "unknown field"),
            (r#"{"name": "a", "inner": {}}"#, "inner", "invalid type"),
            (r#"{"name": "a", "inner": [{}]}"#, "inner[0]", "missing field `count`"),
            (r#"{"name": "a", "inner": [{"count": 1}, {"label": "x"}]}"#, "inner[1]", "missing field `count`"),
            (r#"{"name": "a", "inner": [{"count": 1}, {"count": 300}]}"#, "inner[1].count", "invalid value"),
            (r#"{"name": "a", "inner": [{"count": {}}]}"#, "inner[0].count", "invalid type"),
            (r#"{"name": "a", "inner": [{"count": 1, "label": []}]}"#, "inner[0].label", "invalid type"),
            (r#"{"name": "a]}\"{[", "inner": [{"cuont": 1}]}"#, "inner[0].cuont", "unknown field"),
            ("{\"name\": \"a\",\n \"inner\": [\n{\"count\": \"x\"}]}", "inner[0].count", "invalid type"),
            (r#"{"name": "a", "inner": [7]}"#, "inner[0]", "invalid type"),
            (r#"{"name": "a"} x"#, ".", "trailing"),
            (r#"{"name": "a", "inner": [{"count": 1},]}"#, "inner[1]", "trailing comma"),
        ] {
            let error = from_slice::<Outer>(json.as_bytes()).unwrap_err();
            assert_eq!(error.path, path, "{json}: {error}");
            assert!(error.message.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn an_error_that_has_to_be_discreet_shows_no_value() {
        let shows = |around: &str, key: &str| around.is_empty() && key.len() < 6;
        for (json, path, message) in [
            (r#"{"name": 7}"#, "name", "invalid type: integer, expected a string"),
            (r#"{"name": "a", "inner": "`s`, expected x"}"#, "inner", "invalid type: string, expected a sequence"),
            (r#"{"name": "a", "inner": [{"count": 300}]}"#, "inner[0].…", "invalid value: integer, expected u8"),
            (r#"{"name": "a", "inner": [true]}"#, "inner[0]", "invalid type: boolean, expected struct Inner"),
            (r#"{"name": "a", "othr": 1}"#, "othr", "unknown field `othr`, expected `name` or `inner`"),
            (
                r#"{"name": "a", "`s`, expected x": 1}"#,
                "…",
                "unknown field (not shown: it may be a key), expected `name` or `inner`",
            ),
            (r#"{"name": "a", "name": "b"}"#, "name", "duplicate field"),
            (r#"{"name": s"#, "name", "expected value at line 1 column 10"),
            (r#"{"secret"#, "…", "EOF while parsing a string at line 1 column 8"),
        ] {
            let error = from_slice_discreetly::<Outer>(json.as_bytes(), shows).unwrap_err();
            assert_eq!(error.path, path, "{json}: {error}");
            assert!(error.message.starts_with(message), "{json}: {error}");
        }
    }

    #[test]
    fn a_path_ends_somewhere() {
        #[derive(Debug, Deserialize)]
        struct Open {}
        let error = from_slice::<Open>(format!("{{\"x\": {}", "[".repeat(24_000)).as_bytes()).unwrap_err();
        assert_eq!(error.path, format!("x{}", "[0]".repeat(31)));
    }
}
