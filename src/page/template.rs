//! Placeholders and their values. A value is escaped for its place, and put in once: it is never read for placeholders
//! again.

use std::fmt::Write;

use super::PageData;

/// The value of a placeholder.
pub(super) enum Value {
    /// For the text of an element, or a quoted attribute.
    Text(String),
    /// For a `<script>`, alone in it.
    Json(String),
}

const TEXTS: &[&str] = &["description", "price", "asset", "network", "recipient", "url", "method", "error"];
const JSONS: &[&str] = &["terms", "ways"];

/// Attributes that may hold a text of somebody else's; `data-…` and `aria-…` too. A URL may stand in `href`.
const ATTRIBUTES: &[&str] = &["alt", "content", "label", "placeholder", "title", "value"];

/// An operator's own page: HTML with `{{description}}`, `{{price}}`, `{{asset}}`, `{{network}}`, `{{recipient}}`, `{{url}}`,
/// `{{method}}` and `{{error}}` in texts and quoted attributes, and `{{terms}}` and `{{ways}}` as the whole of a
/// `<script type="application/json">`. A placeholder anywhere else is refused: no escape would make it safe there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template(String);

/// An error in a page that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A name that stands for nothing.
    #[error(
        "{{{{{0}}}}} is not a placeholder; there are terms, ways, description, price, asset, network, recipient, url, method and error"
    )]
    Unknown(String),
    /// A text in a script, a style, a comment, an unquoted attribute, or one that is more than text.
    #[error(
        "{{{{{0}}}}} may stand in texts and in quoted attributes that hold texts (title, alt, value, content, data-…), and nowhere else"
    )]
    NotText(String),
    /// JSON in another place than a script for it.
    #[error("{{{{{0}}}}} must be all that is in a <script type=\"application/json\">")]
    NotScript(String),
}

impl Template {
    /// Takes a page whose placeholders are all known and in their place.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(html: String) -> Result<Self, TemplateError> {
        for (before, name, after) in placeholders(&html) {
            let named = || name.to_owned();
            let is_json = JSONS.contains(&name);
            if !is_json && !TEXTS.contains(&name) {
                return Err(TemplateError::Unknown(named()));
            }
            let before = before.to_ascii_lowercase();
            if is_json && !is_json_script(&before, after) {
                return Err(TemplateError::NotScript(named()));
            }
            if !is_json && !is_text(&before, name) {
                return Err(TemplateError::NotText(named()));
            }
        }
        Ok(Self(html))
    }

    /// The page with its placeholders.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Each placeholder with what stands before and after it.
fn placeholders(html: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    html.match_indices("{{").filter_map(move |(at, braces)| {
        let (before, rest) = html.split_at_checked(at)?;
        let (name, after) = rest.strip_prefix(braces)?.split_once("}}")?;
        is_name(name).then_some((before, name, after))
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Puts the values in. What is no placeholder stays as it is.
pub(super) fn fill(template: &str, data: &PageData<'_>) -> String {
    let mut html = String::with_capacity(template.len().saturating_add(data.terms.len().saturating_mul(2)));
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        html.push_str(before);
        let found = after.split_once("}}").and_then(|(name, after)| Some((data.value(name)?, after)));
        match found {
            Some((Value::Text(text), after)) => {
                push_text(&mut html, &text);
                rest = after;
            }
            Some((Value::Json(json), after)) => {
                push_json(&mut html, &json);
                rest = after;
            }
            None => {
                html.push_str("{{");
                rest = after;
            }
        }
    }
    html.push_str(rest);
    html
}

/// Text in an element or a quoted attribute. Marks that turn the direction of text around are made visible: they could
/// make one thing read as another.
fn push_text(html: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '&' | '<' | '>' | '"' | '\'' | '`' | '=' | '\\' | '{' | '}' => {
                let _ = write!(html, "&#{};", u32::from(letter));
            }
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => html.push('\u{fffd}'),
            '\n' | '\t' => html.push(letter),
            _ if letter.is_control() => html.push('\u{fffd}'),
            _ => html.push(letter),
        }
    }
}

/// JSON in a script. Nothing of it can end the script or begin a comment, and it would be JavaScript as well. These letters
/// stand in strings alone, where an escape means the same.
fn push_json(html: &mut String, json: &str) {
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(html, "\\u{:04x}", u32::from(letter));
            }
            _ => html.push(letter),
        }
    }
}

/// Returns whether a script for JSON has just begun, and ends right after.
fn is_json_script(before: &str, after: &str) -> bool {
    let Some((outside, tag)) = before.rsplit_once('<') else { return false };
    let opens = tag.strip_prefix("script").and_then(|tag| tag.trim_end().strip_suffix('>'));
    let is_json = opens.is_some_and(|attributes| {
        !attributes.contains('>')
            && [r#"type="application/json""#, "type='application/json'", "type=application/json"]
                .iter()
                .any(|kind| attributes.contains(kind))
    });
    let closes = after.trim_start().get(..8).is_some_and(|tag| tag.eq_ignore_ascii_case("</script"));
    is_json && closes && !is_raw(outside)
}

/// Returns whether a text may stand behind this.
fn is_text(before: &str, name: &str) -> bool {
    if is_raw(before) {
        return false;
    }
    let Some((_, tag)) = before.rsplit_once('<') else { return true };
    let mut quote = None;
    let mut value_from = 0;
    for (at, letter) in tag.char_indices() {
        match (quote, letter) {
            (None, '"' | '\'') => {
                quote = Some(letter);
                value_from = at;
            }
            (None, '>') => return true,
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
    }
    let (Some(_), Some(until)) = (quote, tag.get(..value_from)) else { return false };
    let Some(attribute) = until.trim_end().strip_suffix('=') else { return false };
    let attribute =
        attribute.trim_end().rsplit([' ', '\t', '\n', '\r', '\u{c}', '/', '"', '\'']).next().unwrap_or_default();
    let is_whole_href = name == "url" && attribute == "href" && tag.len() == value_from.saturating_add(1);
    is_whole_href || ATTRIBUTES.contains(&attribute) || attribute.starts_with("data-") || attribute.starts_with("aria-")
}

/// Returns whether what follows is no markup: it is in a script, a style or a comment that has not ended.
fn is_raw(before: &str) -> bool {
    [
        ("<script", "</script"),
        ("<style", "</style"),
        ("<!--", "-->"),
        ("<noembed", "</noembed"),
        ("<iframe", "</iframe"),
        ("<xmp", "</xmp"),
    ]
    .iter()
    .any(|(open, close)| {
        before.rfind(open).is_some_and(|opened| before.rfind(close).is_none_or(|closed| closed < opened))
    })
}
