//! From tokens to output text: whole characters, stop strings taken out.

use std::sync::Arc;

use kindling_models::{TokenStream, Tokenizer};

use crate::stop_strings::{Released, StopStrings};

/// The text of one completion as it grows.
pub struct OutputText {
    tokens: TokenStream,
    stops: StopStrings,
}

impl OutputText {
    /// Nothing yet.
    pub fn new(tokenizer: &Arc<Tokenizer>, stop_strings: &[String]) -> Self {
        Self { tokens: tokenizer.stream(), stops: StopStrings::new(stop_strings) }
    }

    /// Takes a token; gives the text that is certain now.
    pub fn push(&mut self, token: u32) -> Released {
        let piece = self.tokens.push(token);
        self.stops.push(&piece)
    }

    /// Ends the text and gives the rest of it.
    pub fn finish(&mut self) -> Released {
        let piece = self.tokens.finish();
        let mut released = self.stops.push(&piece);
        if released.stop.is_none() {
            released.text.push_str(&self.stops.finish());
        }
        released
    }
}
