//! The bytes of every token, by id.

use super::TokenizerError;

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextStyle {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// SentencePiece's: spaces are U+2581, bytes that no piece has are `<0xNN>`.
    SentencePiece {
        /// Whether a text's first space is the tokenizer's own.
        strips_first_space: bool,
    },
}

/// All tokens' bytes in one allocation.
pub(super) struct TokenTable {
    style: TextStyle,
    bytes: Vec<u8>,
    /// By id: the range in `bytes`, or an empty range of an id that is not used.
    entries: Vec<Entry>,
    /// Bytes of the longest token.
    longest: usize,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    start: usize,
    end: usize,
    is_known: bool,
    is_special: bool,
}

impl TokenTable {
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer, style: TextStyle) -> Result<Self, TokenizerError> {
        let added = tokenizer.get_added_tokens_decoder();
        let vocabulary = tokenizer.get_vocab(true);
        let num_ids = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        if num_ids == 0 {
            return Err(TokenizerError::Inconsistent { problem: "the vocabulary is empty".to_owned() });
        }
        let mut table = Self { style, bytes: Vec::new(), entries: vec![Entry::default(); num_ids], longest: 0 };
        let from_character = byte_of_character();
        for (token, id) in &vocabulary {
            let start = table.bytes.len();
            let added_token = added.get(id);
            match (style, added_token) {
                (TextStyle::ByteLevel, _) => push_byte_level(&mut table.bytes, token, &from_character),
                (TextStyle::SentencePiece { .. }, None) => push_sentence_piece(&mut table.bytes, token),
                (TextStyle::SentencePiece { .. }, Some(_)) => table.bytes.extend(token.as_bytes()),
            }
            table.longest = table.longest.max(table.bytes.len() - start);
            let is_special = added_token.is_some_and(|token| token.special);
            table.entries[*id as usize] = Entry { start, end: table.bytes.len(), is_known: true, is_special };
        }
        Ok(table)
    }

    pub(super) fn style(&self) -> TextStyle {
        self.style
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let entry = self.entries.get(id as usize).filter(|entry| entry.is_known)?;
        self.bytes.get(entry.start..entry.end)
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.entries.get(id as usize).is_some_and(|entry| entry.is_special)
    }
}

/// The byte of each character up to U+0143, or `None`: printable Latin-1 stands for itself, the other 68 bytes
/// are the characters from U+0100 on, in order.
///
/// # Source
/// `bytes_to_unicode` in `encoder.py` of <https://github.com/openai/gpt-2>.
fn byte_of_character() -> [Option<u8>; 0x144] {
    let mut table = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let is_printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        if is_printable {
            table[usize::from(byte)] = Some(byte);
        } else {
            table[next] = Some(byte);
            next += 1;
        }
    }
    table
}

/// Added tokens have characters outside the alphabet: they stand for themselves, all of the token or nothing.
fn push_byte_level(out: &mut Vec<u8>, token: &str, from_character: &[Option<u8>; 0x144]) {
    let start = out.len();
    for character in token.chars() {
        match from_character.get(character as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend(token.as_bytes());
                return;
            }
        }
    }
}

fn push_sentence_piece(out: &mut Vec<u8>, token: &str) {
    let hexadecimal = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match hexadecimal.filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => out.push(byte),
        None => out.extend(token.replace('\u{2581}', " ").as_bytes()),
    }
}
