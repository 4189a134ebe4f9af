//! Text that goes into logs and filter state.

use std::fmt;
use std::ops::Deref;

/// A text without anything that could forge a line, move a cursor, hide or reorder what stands beside it, and of a length
/// that a line of a log has room for. Clients, facilitators and nodes may have chosen it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LogText(String);

impl LogText {
    /// Characters of the longest one, before they are escaped.
    const LONGEST: usize = 512;

    /// The text with an escape, `\u{a}`, for each character that is not to be seen as itself.
    pub fn new(text: &str) -> Self {
        if text.len() <= Self::LONGEST && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Self(text.to_owned());
        }
        let mut escaped = String::with_capacity(text.len().min(Self::LONGEST));
        let mut letters = text.chars();
        for letter in letters.by_ref().take(Self::LONGEST) {
            if is_plain(letter) {
                escaped.push(letter);
            } else {
                escaped.extend(letter.escape_unicode());
            }
        }
        if letters.next().is_some() {
            escaped.push('…');
        }
        Self(escaped)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for LogText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a character is seen as itself: none of the controls (C0, DEL, C1), of the separators of lines and paragraphs,
/// and of what Unicode has to direct, join, tag or hide others (general category Cf, and what is drawn as nothing).
const fn is_plain(letter: char) -> bool {
    !matches!(
        letter,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_a_line_is_escaped() {
        for (text, expected) in [
            ("", ""),
            ("invalid_exact_evm_signature", "invalid_exact_evm_signature"),
            ("a \"b\" \\ ä € 日本 😀", "a \"b\" \\ ä € 日本 😀"),
            ("a\r\nx402: outcome=served", "a\\u{d}\\u{a}x402: outcome=served"),
            ("\0\t\u{1b}[2J\u{7f}", "\\u{0}\\u{9}\\u{1b}[2J\\u{7f}"),
            ("\u{85}\u{9b}31m", "\\u{85}\\u{9b}31m"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202e}\u{2066}\u{200f}\u{61c}", "\\u{202e}\\u{2066}\\u{200f}\\u{61c}"),
            ("a\u{200b}\u{200d}\u{2060}\u{feff}b", "a\\u{200b}\\u{200d}\\u{2060}\\u{feff}b"),
        ] {
            assert_eq!(LogText::new(text).as_str(), expected);
        }
    }

    #[test]
    fn no_character_of_unicode_is_left_that_is_not_seen() {
        for letter in '\0'..=char::MAX {
            let text = LogText::new(&letter.to_string());
            assert!(!text.contains(char::is_control), "{letter:?}");
        }
    }

    #[test]
    fn a_long_text_has_an_end() {
        let text = LogText::new(&"\n".repeat(513));
        assert_eq!(text.as_str(), format!("{}…", "\\u{a}".repeat(512)));
        assert_eq!(LogText::new(&"a".repeat(512)).len(), 512);
    }
}
