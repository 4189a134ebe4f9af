//! Usage: the tokens that a response says it used.

use super::Shape;
use super::facts::{Counts, Facts};

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

/// Counters of the input in OpenAI's interfaces and those that resemble them.
const INPUT: [&str; 3] = ["prompt_tokens", "input_tokens", "prompt_eval_count"];

/// The usage that has been reported so far. Streams report it in pieces, and some of it again; the last word counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Report {
    input: Option<u64>,
    cached_input: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    /// Anthropic counts apart what came from a cache or was written to one.
    is_apart: bool,
    /// True if the input was told, and in no number that could be meant.
    has_odd_input: bool,
}

impl Report {
    /// Takes in what a response, or an event of a stream, says; `true` if it spoke of usage.
    pub fn take_in(&mut self, shape: &Shape, facts: &Facts) -> bool {
        let counts = &facts.counts;
        self.has_odd_input |= counts.is_unreadable(&INPUT);
        match shape {
            Shape::OpenAi => self.openai(counts),
            Shape::Anthropic => self.anthropic(counts),
            Shape::Gemini => self.gemini(counts),
            Shape::Pointers(pointers) => {
                let [input, cached_input, output] = counts.pointed;
                let output = if pointers.output_tokens.is_some() { output } else { input.map(|_| 0) };
                self.keep(input, cached_input, None, output)
            }
        }
    }

    /// The usage, once both halves of it are known.
    pub fn usage(&self) -> Option<Usage> {
        let (cached_input, cache_write) = (self.cached_input.unwrap_or(0), self.cache_write.unwrap_or(0));
        let named = self.input?;
        let apart = if self.is_apart { cached_input.saturating_add(cache_write) } else { 0 };
        Some(Usage { input: named.saturating_add(apart), cached_input, cache_write, output: self.output? })
    }

    /// The usage, once the output is known: so many tokens of input, where nothing was ever said of them. Ollama says nothing of
    /// a prompt that it has read before.
    pub fn usage_with(&self, input: u64) -> Option<Usage> {
        let is_untold = self.input.is_none() && !self.has_odd_input;
        let told = if is_untold { Self { output: self.output, input: Some(input), ..Self::default() } } else { *self };
        told.usage()
    }

    /// The output, once it is known.
    pub const fn output(&self) -> Option<u64> {
        self.output
    }

    /// The input with what came from caches, once it is known, and nothing for the output.
    pub fn input(&self) -> Option<Usage> {
        Self { output: Some(0), ..*self }.usage()
    }

    fn openai(&mut self, counts: &Counts) -> bool {
        const OUTPUT: [&str; 3] = ["completion_tokens", "output_tokens", "eval_count"];
        let input = counts.first(&INPUT);
        let named = counts.first(&OUTPUT);
        // Some count apart what the model said to itself, and have it in the total alone. Embeddings have no output, and
        // do not say so.
        let apart = counts.get("total_tokens").and_then(|total| total.checked_sub(input?));
        let output = match (named, apart) {
            (Some(named), apart) => Some(named.max(apart.unwrap_or(0))),
            (None, _) if counts.is_unreadable(&OUTPUT) => None,
            (None, apart) => apart.or(input.map(|_| 0)),
        };
        // By Anthropic's names, what came from a cache is no part of the input.
        let by_anthropic = counts.get("prompt_tokens").is_none() && counts.get("total_tokens").is_none();
        let has_cache = counts.first(&["cache_read_input_tokens", "cache_creation_input_tokens"]).is_some();
        self.is_apart |= by_anthropic && has_cache && counts.get("input_tokens").is_some();
        let cached_input = counts.highest(&[
            "prompt_tokens_details/cached_tokens",
            "input_tokens_details/cached_tokens",
            "prompt_cache_hit_tokens",
            "cached_tokens",
            "num_cached_tokens",
            "cache_read_input_tokens",
        ]);
        let cache_write = counts.highest(&[
            "prompt_tokens_details/cache_write_tokens",
            "input_tokens_details/cache_write_tokens",
            "cache_write_tokens",
            "cache_creation_input_tokens",
        ]);
        self.keep(input, cached_input, cache_write, output)
    }

    fn anthropic(&mut self, counts: &Counts) -> bool {
        self.is_apart = true;
        // What went before a compaction counts in its iteration alone.
        let all = |name: &str, iterations: &str| counts.get(name).max(counts.get(iterations));
        let written =
            counts.sum(&["cache_creation/ephemeral_5m_input_tokens", "cache_creation/ephemeral_1h_input_tokens"]);
        self.keep(
            all("input_tokens", "iterations/input_tokens"),
            all("cache_read_input_tokens", "iterations/cache_read_input_tokens"),
            all("cache_creation_input_tokens", "iterations/cache_creation_input_tokens").max(written),
            all("output_tokens", "iterations/output_tokens"),
        )
    }

    fn gemini(&mut self, counts: &Counts) -> bool {
        let input = counts.sum(&["promptTokenCount", "toolUsePromptTokenCount"]);
        let named = counts.sum(&["candidatesTokenCount", "thoughtsTokenCount"]);
        let apart = counts.get("totalTokenCount").and_then(|total| total.checked_sub(input?));
        self.keep(input, counts.get("cachedContentTokenCount"), None, named.max(apart).or(input.map(|_| 0)))
    }

    /// Keeps what was said. No counter sinks: some upstreams say 0 for what they have said before.
    fn keep(
        &mut self,
        input: Option<u64>,
        cached_input: Option<u64>,
        cache_write: Option<u64>,
        output: Option<u64>,
    ) -> bool {
        self.input = input.max(self.input);
        self.cached_input = cached_input.max(self.cached_input);
        self.cache_write = cache_write.max(self.cache_write);
        self.output = output.max(self.output);
        input.is_some() || output.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::Pointers;
    use crate::price::events::Splitter;

    fn usage_of(shape: &Shape, texts: &[&str]) -> Option<Usage> {
        let mut report = Report::default();
        for text in texts {
            report.take_in(shape, &Facts::of(shape, text.as_bytes()));
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
                report.take_in(&Shape::Anthropic, &Facts::of(&Shape::Anthropic, event.data.as_bytes()));
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
