//! What the text side needs to know of a model that is ready.

use std::sync::Arc;

use kindling_models::{ChatTemplate, Dialect, Tokenizer};

use crate::grammar::Grammars;

/// A ready model, as seen by the service; its weights belong to the engine's thread.
pub struct LoadedModel {
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to text; base models have none.
    pub chat_template: Option<ChatTemplate>,
    /// Compiles grammars for its vocabulary.
    pub grammars: Arc<Grammars>,
    /// How its answers in chats are to be read.
    pub dialect: Dialect,
    /// Rows of logits; the tokenizer may know fewer tokens.
    pub vocab_size: usize,
    /// Tokens of prompt and output together.
    pub max_model_len: usize,
}
