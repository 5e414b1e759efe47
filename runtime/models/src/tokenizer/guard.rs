//! Names of special tokens in text that is not to steer: kept apart by a character that is nowhere else.

use std::collections::HashMap;

use tokenizers::tokenizer::pre_tokenizer::PreTokenizedString;
use tokenizers::tokenizer::{AddedVocabulary, NormalizedString, Normalizer};

/// Names of the special tokens, by their first characters.
pub(super) struct SpecialNames(HashMap<char, Vec<String>>);

impl SpecialNames {
    pub(super) fn new(vocabulary: &AddedVocabulary) -> Self {
        let mut names: HashMap<char, Vec<String>> = HashMap::new();
        for token in vocabulary.get_added_tokens_decoder().values().filter(|token| token.special) {
            let mut characters = token.content.chars();
            // A name of one character cannot be kept apart; as a character it is what the user wrote anyway.
            if let (Some(first), Some(_)) = (characters.next(), characters.next()) {
                names.entry(first).or_default().push(token.content.clone());
            }
        }
        Self(names)
    }

    /// Puts `guard` after the first character of every name, also of those that overlap.
    pub(super) fn guard(&self, text: &str, guard: char) -> String {
        let mut guarded = String::with_capacity(text.len());
        for (start, character) in text.char_indices() {
            guarded.push(character);
            let names = self.0.get(&character);
            if names.is_some_and(|names| names.iter().any(|name| text[start..].starts_with(name.as_str()))) {
                guarded.push(guard);
            }
        }
        guarded
    }
}

/// Takes the guard out of all pieces that are no special token.
pub(super) fn remove<N: Normalizer>(
    pieces: &mut PreTokenizedString,
    guard: char,
    normalizer: Option<&N>,
) -> tokenizers::Result<()> {
    let mut alone = NormalizedString::from(guard.to_string());
    if let Some(normalizer) = normalizer {
        normalizer.normalize(&mut alone)?;
    }
    // A byte-level normalizer has turned the guard into three other characters, which only it can give.
    let spelling = if alone.get().contains(guard) { guard.to_string() } else { alone.get().to_owned() };
    pieces.normalize(|piece| piece.replace(spelling.as_str(), ""))
}
