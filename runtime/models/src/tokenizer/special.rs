//! The special tokens that have a role.

/// Names as the vocabulary writes them; absent ones do not exist in the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Ends a turn.
    pub eot: Option<String>,
    /// Stands for what cannot be written.
    pub unk: Option<String>,
    /// Fills batches; never generated.
    pub pad: Option<String>,
}

/// Names that end a generation wherever they are special tokens, because GGUF files often name only one of them.
/// `<|end|>` is not among them: it ends a message of harmony, not an answer.
pub(super) const END_OF_GENERATION_NAMES: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
];
