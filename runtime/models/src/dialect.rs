//! What a model writes around and beside the text of its answers, and how much of that is understood here.
//!
//! Chat templates say how a conversation is put to a model, but not how its answers are to be read. That is told by
//! the marks in a template, and for models that know only one way, by the architecture. Everything known is in the two
//! tables of this file.

use crate::tokenizer::Tokenizer;

/// How a model's answers are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    /// What is around the text of an answer.
    pub answers: Answers,
    /// How calls of tools are written; none of them is parsed yet.
    pub tool_calls: ToolCalls,
}

/// What is around the text of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// Nothing.
    #[default]
    Plain,
    /// Reasoning between [`THINK_START`] and [`THINK_END`], then the answer.
    Think,
    /// The same, but the marks are special tokens, which decoding leaves out.
    SpecialThink,
    /// Channels of gpt-oss: `<|channel|>analysis<|message|>…`.
    Harmony,
    /// Channels of Gemma 4: `<|channel>thought…<channel|>`.
    GemmaChannels,
    /// `[THINK]…[/THINK]` of Mistral's reasoning models.
    MistralThink,
}

/// How calls of tools are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ToolCalls {
    /// The template knows no tools.
    #[default]
    None,
    /// JSON between `<tool_call>` and `</tool_call>`: Hermes, Qwen 2.5, Qwen 3.
    Hermes,
    /// `<tool_call>` around `<function=name>` and parameters as tags: Qwen3-Coder, Qwen 3.5.
    QwenXml,
    /// The whole answer is `{"name": …, "parameters": …}`: Llama 3.x.
    LlamaJson,
    /// `[TOOL_CALLS]` and a list.
    Mistral,
    /// `<｜tool▁calls▁begin｜>`: DeepSeek.
    DeepSeek,
    /// `<|tool_call>`: Gemma 4.
    Gemma,
    /// Messages on the commentary channel to a recipient: gpt-oss.
    Harmony,
}

/// Begins reasoning.
pub const THINK_START: &str = "<think>";
/// Ends reasoning.
pub const THINK_END: &str = "</think>";

/// The first entry with all of its marks in the template counts.
const ANSWERS: &[(Answers, &[&str])] = &[
    (Answers::Harmony, &["<|channel|>", "<|message|>"]),
    (Answers::GemmaChannels, &["<|channel>"]),
    (Answers::MistralThink, &["[THINK]"]),
    (Answers::Think, &[THINK_END]),
];

/// As [`ANSWERS`].
const TOOL_CALLS: &[(ToolCalls, &[&str])] = &[
    (ToolCalls::Harmony, &["<|channel|>", "<|message|>"]),
    (ToolCalls::Gemma, &["<|tool_call>"]),
    (ToolCalls::QwenXml, &["<tool_call>", "<function="]),
    (ToolCalls::Hermes, &["<tool_call>"]),
    (ToolCalls::Mistral, &["[TOOL_CALLS]"]),
    (ToolCalls::DeepSeek, &["<｜tool▁calls▁begin｜>"]),
    (ToolCalls::LlamaJson, &["<|eot_id|>", "\"parameters\""]),
];

impl Dialect {
    /// Tells from the architecture's name, the template's source and the tokenizer.
    pub fn detect(architecture: &str, template: &str, tokenizer: &Tokenizer) -> Self {
        let (mut answers, mut tool_calls) = (find(ANSWERS, template), find(TOOL_CALLS, template));
        if architecture.starts_with("GptOss") {
            // Whatever a template leaves out, these models write nothing else.
            (answers, tool_calls) = (Answers::Harmony, ToolCalls::Harmony);
        }
        let is_special = |name| tokenizer.token_to_id(name).is_some_and(|id| tokenizer.is_special(id));
        if answers == Answers::Think && (is_special(THINK_START) || is_special(THINK_END)) {
            answers = Answers::SpecialThink;
        }
        Self { answers, tool_calls }
    }
}

impl Answers {
    /// Why a chat cannot be answered; `None` if it can. Text completion always can: its users read markup themselves.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Think => None,
            Self::SpecialThink => Some("reasoning marked with special tokens"),
            Self::Harmony => Some("the channels of harmony (gpt-oss)"),
            Self::GemmaChannels => Some("the channels of Gemma 4"),
            Self::MistralThink => Some("[THINK] blocks"),
        }
    }
}

fn find<T: Copy + Default>(table: &[(T, &[&str])], template: &str) -> T {
    let entry = table.iter().find(|(_, marks)| marks.iter().all(|mark| template.contains(mark)));
    entry.map(|(value, _)| *value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Answers, Dialect, ToolCalls};
    use crate::tokenizer::Tokenizer;

    fn tokenizer(special: bool) -> Tokenizer {
        let added = json!({"id": 1, "content": "<think>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special});
        let document = json!({"version": "1.0", "added_tokens": [added], "decoder": {"type": "ByteLevel",
            "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}});
        Tokenizer::from_json(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn templates_and_architectures_tell_the_dialect() {
        let cases = [
            ("{{ content }}", Answers::Plain, ToolCalls::None),
            ("<|im_start|> <tool_call>", Answers::Plain, ToolCalls::Hermes),
            ("<tool_call> <think> </think>", Answers::Think, ToolCalls::Hermes),
            ("<tool_call> <function=f> <think></think>", Answers::Think, ToolCalls::QwenXml),
            ("<|eot_id|> {\"name\": n, \"parameters\": p}", Answers::Plain, ToolCalls::LlamaJson),
            ("[INST] [TOOL_CALLS]", Answers::Plain, ToolCalls::Mistral),
            ("[INST] [TOOL_CALLS] [THINK]", Answers::MistralThink, ToolCalls::Mistral),
            ("<think>\n</think> <｜tool▁calls▁begin｜>", Answers::Think, ToolCalls::DeepSeek),
            ("<|start|><|channel|>final<|message|>", Answers::Harmony, ToolCalls::Harmony),
            ("<|turn> <|channel>thought\n<channel|> <|tool_call>", Answers::GemmaChannels, ToolCalls::Gemma),
        ];
        for (template, answers, tool_calls) in cases {
            let found = Dialect::detect("LlamaForCausalLM", template, &tokenizer(false));
            assert_eq!(found, Dialect { answers, tool_calls }, "{template}");
        }
        let plain = Dialect::detect("GptOssForCausalLM", "{{ content }}", &tokenizer(false));
        assert_eq!(plain, Dialect { answers: Answers::Harmony, tool_calls: ToolCalls::Harmony });
        let hidden = Dialect::detect("Qwen3ForCausalLM", "<think></think>", &tokenizer(true));
        assert_eq!(hidden.answers, Answers::SpecialThink);
    }

    #[test]
    fn only_what_can_be_read_is_answered() {
        assert_eq!([Answers::Plain, Answers::Think].map(Answers::refusal), [None, None]);
        assert_eq!(Answers::Harmony.refusal(), Some("the channels of harmony (gpt-oss)"));
        for answers in [Answers::SpecialThink, Answers::GemmaChannels, Answers::MistralThink] {
            assert!(answers.refusal().is_some(), "{answers:?}");
        }
    }
}
