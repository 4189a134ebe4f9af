//! Patterns of paths: `/exact`, `/with/{param}`, `/prefix/{*rest}`. `:param` and `[param]` are other tools' ways to write a
//! parameter, and mean the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The pattern of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    has_rest: bool,
    has_final_slash: bool,
    /// The pattern as it was written, each parameter as `{param}`.
    text: String,
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    Param,
}

/// An error in a text that is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Does not begin with a slash.
    #[error("does not begin with /; hosts belong in match.hosts, methods in match.methods")]
    NoSlash,
    /// A segment is empty, ends with a dot, or has white space around it.
    #[error(
        "has a segment that is empty, ends with a dot or has a space around it, of which servers make different things"
    )]
    Segment,
    /// A brace stands elsewhere than around a whole segment, or holds no name.
    #[error("has a parameter that is not a whole segment of the form {{name}}, or {{*rest}} at the end")]
    Param,
    /// `{*rest}` stands elsewhere than at the end, or has no name.
    #[error("has a {{*rest}} before its end, or without a name")]
    Rest,
    /// It looks like a wildcard, a regular expression or another tool's parameter.
    #[error("holds a wildcard or an expression: write {{name}} for one segment, {{*rest}} at the end for all below")]
    Foreign,
    /// More segments than are looked at of a path.
    #[error("has more segments than a path is looked at")]
    TooLong,
    /// A character that paths are not compared with.
    #[error(
        "has a character that does not belong in a path pattern (one of % ? # ; or a control character); write it decoded, without query"
    )]
    Character,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.split('/').map(in_braces).collect::<Vec<_>>().join("/");
        let path = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        if text.contains("//") {
            return Err(PatternError::Segment);
        }
        let (path, has_rest) = split_rest(path)?;
        let has_final_slash = path.ends_with('/') && !has_rest;
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments = match path {
            "" => Vec::new(),
            path => path.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?,
        };
        if segments.len() >= super::path::MAX_SEGMENTS {
            return Err(PatternError::TooLong);
        }
        Ok(Self { segments, has_rest, has_final_slash, text })
    }

    /// Bytes of the longest segment that is compared with a path's.
    pub(super) fn longest_literal(&self) -> usize {
        let length = |segment: &Segment| match segment {
            Segment::Literal(literal) => super::path::fold(literal).len(),
            Segment::Param => 0,
        };
        self.segments.iter().map(length).max().unwrap_or(0)
    }

    /// Returns whether it ends with a slash, so that it is for nothing below it, which some tools would have it be for.
    pub fn has_final_slash(&self) -> bool {
        self.text.ends_with('/')
    }

    /// Returns whether a segment has a sign that means something elsewhere, and here itself.
    pub fn has_odd_sign(&self) -> bool {
        let is_invisible = |letter: char| {
            matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
                || (letter.is_whitespace() && !letter.is_ascii())
        };
        let is_odd = |letter: char| ":()+$!&=,'\"`".contains(letter) || is_invisible(letter);
        self.segments.iter().any(|segment| matches!(segment, Segment::Literal(text) if text.contains(is_odd)))
    }

    /// Returns the ways to write the path that it takes: with another final slash and in lower case, and none where it takes
    /// several paths.
    pub(super) fn writings(&self) -> Vec<String> {
        if self.has_rest || self.segments.contains(&Segment::Param) {
            return Vec::new();
        }
        let path = self.text.strip_suffix('/').unwrap_or(&self.text);
        let lower = path.to_lowercase();
        let slashed = [path, &lower].map(|path| format!("{path}/"));
        slashed
            .into_iter()
            .chain([path.to_owned(), lower])
            .filter(|path| !path.is_empty() && *path != self.text)
            .collect()
    }

    /// Returns whether it takes to the letter what `other`, which it takes leniently, takes as it is written.
    pub(super) fn covers_literally(&self, other: &Self) -> bool {
        let is_equal = |(own, other): (&Segment, &Segment)| *own == Segment::Param || own == other;
        let is_longer = other.has_rest || other.segments.len() > self.segments.len();
        let ends_alike = match self.has_rest {
            true => is_longer || other.has_final_slash,
            false => self.has_final_slash == other.has_final_slash,
        };
        (ends_alike || self.segments.is_empty()) && self.segments.iter().zip(&other.segments).all(is_equal)
    }

    /// Returns whether a path of these segments (all that stands between its slashes, without query) is written exactly as the
    /// pattern has it: letter case and slashes included. A parameter takes one segment that is not empty, `{*rest}`
    /// anything. It takes no more steps than the pattern has segments.
    pub(super) fn matches_literally(&self, path: &[&str]) -> bool {
        let is_for = |(segment, written): (&Segment, &&str)| match segment {
            Segment::Literal(literal) => literal == written,
            Segment::Param => !written.is_empty(),
        };
        let fits = match path.split_at_checked(self.segments.len()) {
            None => false,
            Some((_, rest)) if self.has_rest => !rest.is_empty(),
            Some((_, [""])) => self.has_final_slash || self.segments.is_empty(),
            Some((_, rest)) => rest.is_empty() && !self.has_final_slash && !self.segments.is_empty(),
        };
        fits && self.segments.iter().zip(path).all(is_for)
    }
}

/// Splits `{*rest}` off the end.
fn split_rest(path: &str) -> Result<(&str, bool), PatternError> {
    let (before, last) = path.rsplit_once('/').map_or(("", path), |(before, last)| (before, last));
    match last.strip_prefix("{*").map(|name| name.strip_suffix('}')) {
        None => Ok((path, false)),
        Some(Some(name)) if is_name(name) => Ok((before, true)),
        Some(_) => Err(PatternError::Rest),
    }
}

fn parse_segment(text: &str) -> Result<Segment, PatternError> {
    if text.starts_with("{*") {
        return Err(PatternError::Rest);
    }
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        return if is_name(name) { Ok(Segment::Param) } else { Err(PatternError::Param) };
    }
    if text.contains(['{', '}']) {
        return Err(PatternError::Param);
    }
    let is_expression =
        text.starts_with(':') || text.ends_with('$') || [".+", ")+"].iter().any(|one| text.contains(one));
    if is_expression || text.contains(|c| "*<>[]|^\\".contains(c)) {
        return Err(PatternError::Foreign);
    }
    if text.contains(|c: char| c.is_control() || "%?#;".contains(c)) {
        return Err(PatternError::Character);
    }
    if text.is_empty() || text.ends_with('.') || text.trim() != text {
        return Err(PatternError::Segment);
    }
    Ok(Segment::Literal(text.to_owned()))
}

/// A segment with the parameter that it is in other tools (`:id`, `[id]`) as it is written here.
fn in_braces(segment: &str) -> Cow<'_, str> {
    let in_brackets = || segment.strip_prefix('[')?.strip_suffix(']');
    let is_word = |name: &&str| !name.starts_with(|c: char| c.is_ascii_digit()) && is_name(name) && !name.contains('-');
    match segment.strip_prefix(':').or_else(in_brackets).filter(is_word) {
        Some(name) => format!("{{{name}}}").into(),
        None => segment.into(),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Patterns by their segments, each with the route that it stands for.
#[derive(Debug, Default)]
pub(super) struct PatternTree {
    literals: BTreeMap<String, PatternTree>,
    param: Option<Box<PatternTree>>,
    /// Routes whose pattern ends here.
    ends: Vec<usize>,
    /// Routes whose pattern takes here and everything below.
    rests: Vec<usize>,
}

impl PatternTree {
    pub(super) fn insert(&mut self, pattern: &Pattern, route: usize) {
        let node = pattern.segments.iter().fold(self, |node, segment| match segment {
            Segment::Literal(literal) => node.literals.entry(super::path::fold(literal)).or_default(),
            Segment::Param => node.param.get_or_insert_default(),
        });
        if pattern.has_rest { &mut node.rests } else { &mut node.ends }.push(route);
    }

    /// Collects the routes whose patterns match all of `path`.
    pub(super) fn find(&self, path: &[&str], found: &mut Vec<usize>) {
        found.extend(&self.rests);
        match path.split_first() {
            None => found.extend(&self.ends),
            Some((segment, rest)) => {
                self.literals.get(*segment).into_iter().for_each(|node| node.find(rest, found));
                self.param.iter().for_each(|node| node.find(rest, found));
            }
        }
    }

    /// Collects the routes whose patterns match, leniently, every path that `pattern` matches.
    pub(super) fn find_covering(&self, pattern: &Pattern, found: &mut Vec<usize>) {
        self.find_all_of(&pattern.segments, pattern.has_rest, found);
    }

    fn find_all_of(&self, segments: &[Segment], has_rest: bool, found: &mut Vec<usize>) {
        found.extend(&self.rests);
        match segments.split_first() {
            None if has_rest => {}
            None => found.extend(&self.ends),
            Some((segment, rest)) => {
                let literal = match segment {
                    Segment::Literal(literal) => self.literals.get(&super::path::fold(literal)),
                    Segment::Param => None,
                };
                literal
                    .into_iter()
                    .chain(self.param.as_deref())
                    .for_each(|node| node.find_all_of(rest, has_rest, found));
            }
        }
    }

    /// Collects the routes whose patterns match some path that begins with `prefix`.
    pub(super) fn find_below(&self, prefix: &[&str], found: &mut Vec<usize>) {
        found.extend(&self.rests);
        match prefix.split_first() {
            None => {
                found.extend(&self.ends);
                self.literals.values().chain(self.param.as_deref()).for_each(|node| node.find_below(&[], found));
            }
            Some((segment, rest)) => {
                self.literals.get(*segment).into_iter().for_each(|node| node.find_below(rest, found));
                self.param.iter().for_each(|node| node.find_below(rest, found));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_could_never_match_as_meant_are_refused() {
        for (text, error) in [
            ("weather", PatternError::NoSlash),
            ("", PatternError::NoSlash),
            ("/a//b", PatternError::Segment),
            ("/a/../b", PatternError::Segment),
            ("/a{b}", PatternError::Param),
            ("/{}", PatternError::Param),
            ("/{a", PatternError::Param),
            ("/{*rest}/b", PatternError::Rest),
            ("/a{*rest}", PatternError::Param),
            ("/{*}", PatternError::Rest),
            ("/a*", PatternError::Foreign),
            ("/**", PatternError::Foreign),
            ("/*.json", PatternError::Foreign),
            ("/a/<id>", PatternError::Foreign),
            ("/a/<int:id>", PatternError::Foreign),
            ("/a/:id?", PatternError::Foreign),
            ("/a/:id(\\d+)", PatternError::Foreign),
            ("/a/:from-:to", PatternError::Foreign),
            ("/a/[...rest]", PatternError::Foreign),
            ("/a/[0-9]+", PatternError::Foreign),
            ("/a/[0-9]", PatternError::Foreign),
            ("/a/[a-z]", PatternError::Foreign),
            ("/a/(b|c)", PatternError::Foreign),
            ("/a/(.*)", PatternError::Foreign),
            ("/a/.+", PatternError::Foreign),
            ("/a$", PatternError::Foreign),
            ("/a/{id:[0-9]+}", PatternError::Param),
            ("/a/{rest...}", PatternError::Param),
            ("/a/{**rest}", PatternError::Rest),
            ("^/a", PatternError::NoSlash),
            ("https://a.example/b", PatternError::NoSlash),
            ("GET /a", PatternError::NoSlash),
            ("/a%20b", PatternError::Character),
            ("/a?b=c", PatternError::Character),
            ("/a;b", PatternError::Character),
            ("/a\\b", PatternError::Foreign),
            (&"/a".repeat(256), PatternError::TooLong),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_parameter_may_be_written_as_elsewhere() {
        for text in ["/users/:id/posts", "/users/[id]/posts", "/users/{id}/posts"] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), "/users/{id}/posts");
        }
        assert_eq!(Pattern::parse("/:a/{*rest}"), Pattern::parse("/{a}/{*rest}"));
        let literal = Pattern::parse("/v1/models/gemini:generateContent").unwrap();
        assert!(literal.has_odd_sign() && !literal.has_final_slash());
    }

    #[test]
    fn literal_matching_is_to_the_letter() {
        for (pattern, path, expected) in [
            ("/", "/", true),
            ("/", "//", false),
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/", false),
            ("/healthz/", "/healthz/", true),
            ("/healthz/", "/healthz", false),
            ("/healthz", "/Healthz", false),
            ("/healthz", "//healthz", false),
            ("/a/{b}", "/a/x", true),
            ("/a/{b}", "/a/", false),
            ("/a/{b}", "/a/x/y", false),
            ("/a/{b}/c", "/a/x/c", true),
            ("/docs/{*rest}", "/docs/", true),
            ("/docs/{*rest}", "/docs/a/b", true),
            ("/docs/{*rest}", "/docs", false),
            ("/{*rest}", "/", true),
            ("/{*rest}", "/a/b", true),
        ] {
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            assert_eq!(Pattern::parse(pattern).unwrap().matches_literally(&segments), expected, "{pattern} {path}");
        }
    }
}
