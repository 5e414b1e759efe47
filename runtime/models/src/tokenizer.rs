//! Text to token ids and back.
//!
//! Encoding is Hugging Face's `tokenizers`, the truth for `tokenizer.json`; a GGUF vocabulary is turned into the
//! same document first, so that there is one path. Decoding of streams works on bytes, so that no character is
//! ever split. Knows nothing of chats: see [`crate::chat_template`].

mod document;
mod from_gguf;
mod guard;
mod post_processor;
mod special;
mod stream;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::tokenizer::pre_tokenizer::PreTokenizedString;
use tokenizers::tokenizer::{AddedVocabulary, Model, OffsetType, PreTokenizer};

pub(crate) use from_gguf::document as gguf_document;
pub use special::SpecialTokens;
pub use stream::TokenStream;

use crate::gguf::{GgufError, Metadata};
use guard::SpecialNames;
use post_processor::Surroundings;
use table::{TextStyle, TokenTable};

/// Why there is no tokenizer, or a text could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not JSON, or not of the shape of a tokenizer.
    #[error("parse tokenizer.json: {problem}")]
    Parse {
        /// What the parser said.
        problem: String,
    },
    /// It contradicts itself.
    #[error("tokenizer: {problem}")]
    Inconsistent {
        /// Names the token or part.
        problem: String,
    },
    /// A kind of tokenizer that is not built here.
    #[error("tokenizer {part} {found} is not supported, {supported}")]
    Unsupported {
        /// Which part or key.
        part: &'static str,
        /// Its name.
        found: String,
        /// What is.
        supported: &'static str,
    },
    /// A GGUF key is of the wrong type.
    #[error("read the tokenizer from the gguf metadata")]
    Metadata(#[from] GgufError),
    /// The library refused the text.
    #[error("encode text: {problem}")]
    Encode {
        /// What it said.
        problem: String,
    },
}

/// A vocabulary and the rules to use it. Cheap to share: everything takes `&self`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added tokens, with those that are special left as plain text.
    plain_vocabulary: AddedVocabulary,
    table: TokenTable,
    surroundings: Surroundings,
    special: SpecialTokens,
    special_names: SpecialNames,
    end_of_generation: Vec<u32>,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] if it is not JSON, contradicts itself or is of a kind that is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let document =
            serde_json::from_slice(json).map_err(|error| TokenizerError::Parse { problem: error.to_string() })?;
        Self::from_document(document, SpecialTokens::default())
    }

    /// From the `tokenizer.ggml.*` metadata of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError`] naming the key, or the model or pre-tokenizer that is not supported.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let document = from_gguf::document(metadata)?;
        Self::from_document(document, from_gguf::special_tokens(metadata)?)
    }

    fn from_document(document: Value, special: SpecialTokens) -> Result<Self, TokenizerError> {
        let style = document::check(&document)?;
        let surroundings = post_processor::surroundings(document.get("post_processor").unwrap_or(&Value::Null))?;
        let inner = document::load(document)?;
        let mut plain_vocabulary = inner.get_added_vocabulary().clone();
        plain_vocabulary.set_encode_special_tokens(true);
        let table = TokenTable::new(&inner, style)?;
        let around = [&surroundings.before, &surroundings.after];
        if let Some(id) = around.into_iter().flatten().find(|id| table.bytes(**id).is_none()) {
            return Err(document::inconsistent(format!("the post-processor adds id {id}, which no token has")));
        }
        let special_names = SpecialNames::new(inner.get_added_vocabulary());
        let end_of_generation = Vec::new();
        let mut tokenizer =
            Self { inner, plain_vocabulary, table, surroundings, special, special_names, end_of_generation };
        tokenizer.find_end_of_generation(&[]);
        Ok(tokenizer)
    }

    /// Tells what the files beside `tokenizer.json` say: names of special tokens, and ids that end a generation.
    #[must_use]
    pub fn with_special_tokens(mut self, special: SpecialTokens, end_of_generation: &[u32]) -> Self {
        self.special = special;
        self.find_end_of_generation(end_of_generation);
        self
    }

    fn find_end_of_generation(&mut self, given: &[u32]) {
        let named = special::END_OF_GENERATION_NAMES.iter().map(|name| (*name).to_owned());
        let configured = [&self.special.eos, &self.special.eot].into_iter().flatten().cloned();
        let mut ids: Vec<u32> = configured.filter_map(|name| self.token_to_id(&name)).collect();
        ids.extend(given.iter().filter(|id| self.token_bytes(**id).is_some()));
        ids.extend(named.filter_map(|name| self.token_to_id(&name)).filter(|id| self.is_special(*id)));
        ids.sort_unstable();
        ids.dedup();
        self.end_of_generation = ids;
    }

    /// Token ids of `text`.
    ///
    /// `add_special` adds what the tokenizer puts around a text (a BOS token, say); a rendered chat template has
    /// that already. `parse_special` makes special tokens out of their names in the text; without it they are
    /// plain text, which is what a user's words must be.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] if the library fails, e.g. because a regular expression gives up.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let vocabulary = if parse_special { self.inner.get_added_vocabulary() } else { &self.plain_vocabulary };
        let ids = self.encode_with(vocabulary, text, None)?;
        if !add_special {
            return Ok(ids);
        }
        let Surroundings { before, after } = &self.surroundings;
        Ok([before.as_slice(), &ids, after].concat())
    }

    /// Token ids of `text`, which has parts that went through [`Self::guard`]: names of special tokens in these are
    /// plain text, elsewhere they are special tokens. Adds nothing around the text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_guarded(&self, text: &str, guard: char) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(self.inner.get_added_vocabulary(), text, Some(guard))
    }

    /// `text` with `guard` within each name of a special token, for [`Self::encode_guarded`]. The guard must be
    /// possible, see [`Self::can_guard`], and occur nowhere in the text.
    pub fn guard(&self, text: &str, guard: char) -> String {
        self.special_names.guard(text, guard)
    }

    /// Whether no added token has this character in its name.
    pub fn can_guard(&self, guard: char) -> bool {
        self.inner.get_added_tokens_decoder().values().all(|token| !token.content.contains(guard))
    }

    fn encode_with(
        &self,
        vocabulary: &AddedVocabulary,
        text: &str,
        guard: Option<char>,
    ) -> Result<Vec<u32>, TokenizerError> {
        // The library panics on what it takes for impossible; a damaged file must cost a request, not the server.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.encode_pieces(vocabulary, text, guard)));
        let encoded = encoded.unwrap_or_else(|_| Err("the tokenizers library panicked".into()));
        encoded.map_err(|error| TokenizerError::Encode { problem: error.to_string() })
    }

    fn encode_pieces(
        &self,
        vocabulary: &AddedVocabulary,
        text: &str,
        guard: Option<char>,
    ) -> tokenizers::Result<Vec<u32>> {
        let mut pieces: PreTokenizedString = vocabulary.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(guard) = guard {
            // Special tokens are found by now; what is split and looked up next is the text as it was.
            guard::remove(&mut pieces, guard, self.inner.get_normalizer())?;
        }
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get()))?;
        Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD, unknown ids nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        // The decoders that `document::check` lets through do not fail.
        self.inner.decode(ids, skip_special).unwrap_or_default()
    }

    /// The bytes that a token stands for, which need not be whole characters; `None` for an unknown id.
    ///
    /// A special token gives its name.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.table.bytes(id)
    }

    /// Whether the token steers (BOS, end of turn) rather than being text.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// Tokens after which nothing more is to be generated; ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// Bytes of the longest token: a text of more than so many for each token of a context does not fit in.
    pub fn longest_token(&self) -> usize {
        self.table.longest()
    }

    /// Finds a token by its name as the vocabulary writes it.
    pub fn token_to_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// Names of the special tokens that templates want to know.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Decodes one token after another, special tokens left out.
    pub fn stream(self: &Arc<Self>) -> TokenStream {
        TokenStream::new(Arc::clone(self), true)
    }

    /// Decodes one token after another, special tokens by name.
    pub fn stream_with_special(self: &Arc<Self>) -> TokenStream {
        TokenStream::new(Arc::clone(self), false)
    }

    fn text_style(&self) -> TextStyle {
        self.table.style()
    }
}

#[cfg(test)]
mod tests;
