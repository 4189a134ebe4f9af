//! Usage: the tokens that a response says it used.

use super::document::Document;
use super::{Pointers, Shape};

/// Tokens that a model has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Usage {
    /// Input, with what came from a cache or was written to one.
    pub input: u64,
    /// Input that came from a cache.
    pub cached_input: u64,
    /// Input that was written to a cache.
    pub cache_write: u64,
    /// Output, with what the model said to itself.
    pub output: u64,
}

/// The usage that has been reported so far. Streams report it in pieces, and some of it again; the last word counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Report {
    input: Option<u64>,
    cached_input: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    /// Anthropic counts apart what came from a cache or was written to one.
    is_apart: bool,
}

impl Report {
    /// Takes in a response, or an event of a stream; `true` if it spoke of usage.
    pub fn take_in(&mut self, shape: &Shape, document: &Document) -> bool {
        match shape {
            Shape::OpenAi => self.openai(document),
            Shape::Anthropic => self.anthropic(document),
            Shape::Pointers(pointers) => self.pointers(pointers, document),
        }
    }

    /// The usage, once both halves of it are known.
    pub fn usage(&self) -> Option<Usage> {
        let (cached_input, cache_write) = (self.cached_input.unwrap_or(0), self.cache_write.unwrap_or(0));
        let named = self.input?;
        let apart = if self.is_apart { cached_input.saturating_add(cache_write) } else { 0 };
        Some(Usage { input: named.saturating_add(apart), cached_input, cache_write, output: self.output? })
    }

    fn openai(&mut self, document: &Document) -> bool {
        // A stream of responses carries the response in its last event.
        let usage = document.field("usage").or_else(|| document.at("/response/usage"));
        let Some(usage) = usage else { return false };
        let first = |names: &[&str]| names.iter().find_map(|name| whole_at(usage, name));
        let input = first(&["/prompt_tokens", "/input_tokens"]);
        let named = first(&["/completion_tokens", "/output_tokens"]);
        // Some count apart what the model said to itself, and have it in the total alone. Embeddings have no output, and
        // do not say so.
        let apart = first(&["/total_tokens"]).and_then(|total| total.checked_sub(input?));
        let is_unreadable = ["/completion_tokens", "/output_tokens"].iter().any(|name| usage.at(name).is_some());
        let output = match (named, apart) {
            (Some(named), apart) => Some(named.max(apart.unwrap_or(0))),
            (None, _) if is_unreadable => None,
            (None, apart) => apart.or(input.map(|_| 0)),
        };
        self.keep(
            input,
            first(&["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens"]),
            None,
            output,
        )
    }

    fn anthropic(&mut self, document: &Document) -> bool {
        let usage = document.field("usage").or_else(|| document.at("/message/usage"));
        let Some(usage) = usage else { return false };
        self.is_apart = true;
        self.keep(
            whole_at(usage, "/input_tokens"),
            whole_at(usage, "/cache_read_input_tokens"),
            whole_at(usage, "/cache_creation_input_tokens"),
            whole_at(usage, "/output_tokens"),
        )
    }

    fn pointers(&mut self, pointers: &Pointers, document: &Document) -> bool {
        let at = |pointer: &Option<String>| pointer.as_deref().and_then(|pointer| whole_at(document, pointer));
        let input = whole_at(document, &pointers.input_tokens);
        let output = if pointers.output_tokens.is_some() { at(&pointers.output_tokens) } else { input.map(|_| 0) };
        self.keep(input, at(&pointers.cached_input_tokens), None, output)
    }

    fn keep(
        &mut self,
        input: Option<u64>,
        cached_input: Option<u64>,
        cache_write: Option<u64>,
        output: Option<u64>,
    ) -> bool {
        self.input = input.or(self.input);
        self.cached_input = cached_input.or(self.cached_input);
        self.cache_write = cache_write.or(self.cache_write);
        self.output = output.or(self.output);
        input.is_some() || output.is_some()
    }
}

fn whole_at(document: &Document, pointer: &str) -> Option<u64> {
    document.at(pointer).and_then(Document::as_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::events::Splitter;

    fn usage_of(shape: &Shape, texts: &[&str]) -> Option<Usage> {
        let mut report = Report::default();
        for text in texts {
            report.take_in(shape, &Document::read(text.as_bytes()).unwrap());
        }
        report.usage()
    }

    const fn usage(input: u64, cached_input: u64, cache_write: u64, output: u64) -> Option<Usage> {
        Some(Usage { input, cached_input, cache_write, output })
    }

    #[test]
    fn every_shape_of_openais_is_read() {
        // Shapes of the public API reference: chat completions, completions, responses, embeddings.
        for (what, text, expected) in [
            (
                "a chat completion",
                r#"{"id":"chatcmpl-1","object":"chat.completion","choices":[],"usage":{"prompt_tokens":1200,"completion_tokens":300,
                    "total_tokens":1500,"prompt_tokens_details":{"cached_tokens":1024,"audio_tokens":0},
                    "completion_tokens_details":{"reasoning_tokens":200}}}"#,
                usage(1200, 1024, 0, 300),
            ),
            (
                "a completion",
                r#"{"object":"text_completion","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#,
                usage(5, 0, 0, 7),
            ),
            (
                "a response",
                r#"{"object":"response","usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":6},"output_tokens":87,
                    "output_tokens_details":{"reasoning_tokens":50},"total_tokens":123}}"#,
                usage(36, 6, 0, 87),
            ),
            ("embeddings", r#"{"object":"list","usage":{"prompt_tokens":8,"total_tokens":8}}"#, usage(8, 0, 0, 0)),
            ("no usage", r#"{"object":"chat.completion"}"#, None),
            ("usage that is null", r#"{"usage":null}"#, None),
            ("usage of another kind", r#"{"usage":{"seconds":3}}"#, None),
            ("numbers that are none", r#"{"usage":{"prompt_tokens":"5","completion_tokens":1.5}}"#, None),
            ("a negative number", r#"{"usage":{"prompt_tokens":-5,"completion_tokens":7}}"#, None),
        ] {
            assert_eq!(usage_of(&Shape::OpenAi, &[text]), expected, "{what}");
        }
        let stream = [
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#,
        ];
        assert_eq!(usage_of(&Shape::OpenAi, &stream), usage(5, 0, 0, 7));
        let responses = [
            r#"{"type":"response.created","response":{"status":"in_progress","usage":null}}"#,
            r#"{"type":"response.output_text.delta","delta":"a"}"#,
            r#"{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":7}}}"#,
        ];
        assert_eq!(usage_of(&Shape::OpenAi, &responses), usage(5, 0, 0, 7));
        // Some upstreams say it in every event; the last word counts.
        let growing = [
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":9}}"#,
        ];
        assert_eq!(usage_of(&Shape::OpenAi, &growing), usage(5, 0, 0, 9));
    }

    const ANTHROPIC_STREAM: &str = "event: message_start\n\
        data: {\"type\":\"message_start\",\"message\":{\"role\":\"assistant\",\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":100,\"cache_read_input_tokens\":1000,\"output_tokens\":1}}}\n\n\
        event: ping\ndata: {\"type\":\"ping\"}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    #[test]
    fn every_shape_of_anthropics_is_read() {
        let message = r#"{"type":"message","usage":{"input_tokens":25,"cache_creation_input_tokens":100,
            "cache_read_input_tokens":1000,"output_tokens":15}}"#;
        assert_eq!(usage_of(&Shape::Anthropic, &[message]), usage(1125, 1000, 100, 15));
        let plain = r#"{"usage":{"input_tokens":25,"output_tokens":15}}"#;
        assert_eq!(usage_of(&Shape::Anthropic, &[plain]), usage(25, 0, 0, 15));
        for cut in 0..ANTHROPIC_STREAM.len() {
            let (head, tail) = ANTHROPIC_STREAM.as_bytes().split_at(cut);
            let (mut splitter, mut report) = (Splitter::default(), Report::default());
            for event in [splitter.push(head), splitter.push(tail)].concat() {
                report.take_in(&Shape::Anthropic, &Document::read(event.data.as_bytes()).unwrap());
            }
            assert_eq!(report.usage(), usage(1125, 1000, 100, 15), "cut at {cut}");
        }
    }

    #[test]
    fn pointers_lead_to_the_usage_of_any_other_shape() {
        let shape = Shape::Pointers(Box::new(Pointers {
            model: "/m".to_owned(),
            input_tokens: "/meta/tokens/0".to_owned(),
            cached_input_tokens: Some("/meta/cached".to_owned()),
            output_tokens: Some("/meta/tokens/1".to_owned()),
            ..Pointers::default()
        }));
        assert_eq!(usage_of(&shape, &[r#"{"meta":{"tokens":[3,4],"cached":2}}"#]), usage(3, 2, 0, 4));
        assert_eq!(usage_of(&shape, &[r#"{"meta":{"tokens":[3]}}"#]), None);
        let input_only = Shape::Pointers(Box::new(Pointers {
            model: "/m".to_owned(),
            input_tokens: "/i".to_owned(),
            ..Pointers::default()
        }));
        assert_eq!(usage_of(&input_only, &[r#"{"i":3}"#]), usage(3, 0, 0, 0));
    }
}
