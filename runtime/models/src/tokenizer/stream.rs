//! Decodes one token after another without ever giving out a part of a character.

use std::sync::Arc;

use super::Tokenizer;
use super::table::TextStyle;

/// The text of one generation, piece by piece: all pieces and [`TokenStream::finish`] together are the whole.
pub struct TokenStream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Whether the next byte may be a space that the tokenizer put before the text.
    at_start: bool,
    /// Bytes of a character whose rest has not come yet; at most three.
    held_back: Vec<u8>,
}

impl TokenStream {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, at_start: true, held_back: Vec::new() }
    }

    /// Takes the next token; gives the text that is complete with it, often a word, sometimes nothing.
    ///
    /// Bytes that can never become a character give U+FFFD at once; an unknown id gives nothing.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        let Some(mut bytes) = self.tokenizer.token_bytes(id) else { return String::new() };
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            if self.tokenizer.text_style() == (TextStyle::SentencePiece { strips_first_space: true }) {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.held_back.extend(bytes);
        self.take_complete()
    }

    /// Ends the text; a character that was never completed becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.held_back);
        String::from_utf8_lossy(&rest).into_owned()
    }

    fn take_complete(&mut self) -> String {
        let keep_from = match self.held_back.utf8_chunks().last() {
            Some(chunk) if may_be_completed(chunk.invalid()) => self.held_back.len() - chunk.invalid().len(),
            _ => self.held_back.len(),
        };
        let rest = self.held_back.split_off(keep_from);
        let complete = std::mem::replace(&mut self.held_back, rest);
        String::from_utf8_lossy(&complete).into_owned()
    }
}

/// Whether more bytes could make a character of an invalid end.
fn may_be_completed(invalid: &[u8]) -> bool {
    // `from_utf8` tells the two apart: no error length means that the input ended too early.
    !invalid.is_empty() && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}
