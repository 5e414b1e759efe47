//! Log-probabilities in OpenAI's two forms.

use kindling_proto::v1::{TokenLogprob, TopLogprob};
use serde::Serialize;
use serde_json::{Map, Value};

/// What OpenAI writes for a token that could not have been chosen: JSON has no minus infinity.
const IMPOSSIBLE: f32 = -9999.0;

/// The chat form.
#[derive(Serialize, Default)]
pub struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<ChatTop>,
}

#[derive(Serialize)]
struct ChatTop {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Adds tokens in the order in which they were generated. `bytes` is exact where `token`, which has to be text,
    /// can't be.
    pub fn extend(&mut self, tokens: Vec<TokenLogprob>) {
        self.content.extend(tokens.into_iter().map(|found| ChatToken {
            token: String::from_utf8_lossy(&found.token).into_owned(),
            logprob: finite(found.logprob),
            bytes: found.token,
            top_logprobs: found.top.into_iter().map(ChatTop::from).collect(),
        }));
    }
}

impl From<TopLogprob> for ChatTop {
    fn from(found: TopLogprob) -> Self {
        Self {
            token: String::from_utf8_lossy(&found.token).into_owned(),
            logprob: finite(found.logprob),
            bytes: found.token,
        }
    }
}

/// The form of text completions: parallel arrays.
#[derive(Serialize, Default)]
pub struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
    #[serde(skip)]
    position: Position,
}

/// Where the next token begins in the text, in characters. Tokens may end inside one.
#[derive(Default, Clone)]
struct Position {
    characters: usize,
}

impl TextLogprobs {
    /// Adds tokens in the order in which they were generated.
    pub fn extend(&mut self, tokens: Vec<TokenLogprob>) {
        for found in tokens {
            self.text_offset.push(self.position.characters);
            self.position.advance(&found.token);
            let token = legacy_token(&found.token);
            // The chosen token is always among them, even if it was not among the best.
            let top = found.top.iter().map(|top| (legacy_token(&top.token), finite(top.logprob).into()));
            let mut top: Map<String, Value> = top.collect();
            top.entry(token.clone()).or_insert_with(|| finite(found.logprob).into());
            self.top_logprobs.push(top);
            self.token_logprobs.push(finite(found.logprob));
            self.tokens.push(token);
        }
    }

    /// What was added since the last time, for a stream; offsets go on counting.
    pub fn take(&mut self) -> Self {
        let position = self.position.clone();
        std::mem::replace(self, Self { position, ..Self::default() })
    }
}

impl Position {
    /// A character is counted with its first byte.
    fn advance(&mut self, token: &[u8]) {
        self.characters += token.iter().filter(|byte| (**byte & 0xC0) != 0x80).count();
    }
}

/// A token that is no text on its own is written in OpenAI's way, `bytes:\xf0\x9f`, so that two stay two.
fn legacy_token(token: &[u8]) -> String {
    match std::str::from_utf8(token) {
        Ok(text) => text.to_owned(),
        Err(_) => token.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8], logprob: f32) -> TokenLogprob {
        TokenLogprob { token_id: 0, logprob, token: bytes.to_vec(), top: Vec::new() }
    }

    #[test]
    fn offsets_count_characters_across_split_ones() {
        let mut logprobs = TextLogprobs::default();
        logprobs.extend(vec![token("é".as_bytes(), -0.5), token(&[0xf0, 0x9f], -1.0)]);
        assert_eq!(logprobs.take().text_offset, [0, 1]);
        logprobs.extend(vec![token(&[0x98, 0x80], -1.0), token(b"a", f32::NEG_INFINITY)]);
        let rest = logprobs.take();
        assert_eq!(rest.text_offset, [2, 2]);
        assert_eq!(rest.tokens, ["bytes:\\x98\\x80", "a"]);
        assert_eq!(rest.token_logprobs, [-1.0, -9999.0]);
    }
}
