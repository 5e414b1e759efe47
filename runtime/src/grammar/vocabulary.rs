//! A tokenizer's vocabulary as llguidance wants it: the bytes of every token in a trie.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kindling_models::Tokenizer;
use llguidance::ParserFactory;
use llguidance::toktrie::{INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// The trie has no room for longer ones; such a token is never allowed.
const MAX_TOKEN_BYTES: usize = 1000;
/// Fuel for the lexer of one mask: 14 a microsecond by llguidance's account, so about 7 ms.
const STEP_LEXER_FUEL: u64 = 100_000;
/// Kilobytes each, by llguidance's account.
const MAX_LEXER_STATES: usize = 50_000;

struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    /// Not asked for: no tokens are forced, the model chooses among all that fit.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// What compiles grammars for a vocabulary.
///
/// # Errors
/// A sentence that says why llguidance cannot use the vocabulary.
pub fn factory(tokenizer: &Arc<Tokenizer>) -> Result<ParserFactory, String> {
    // The library asserts what it needs of a vocabulary; a strange tokenizer must not end the thread.
    catch_unwind(AssertUnwindSafe(|| build(tokenizer)))
        .unwrap_or_else(|_| Err("the vocabulary is not one that llguidance can use".to_owned()))
}

fn build(tokenizer: &Tokenizer) -> Result<ParserFactory, String> {
    let vocab_size = u32::try_from(tokenizer.vocab_size()).map_err(|error| error.to_string())?;
    let words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(tokenizer, id)).collect();
    let ends = tokenizer.end_of_generation();
    let info = TokRxInfo::new(vocab_size, ends.first().copied().unwrap_or(INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, &words);
    if !ends.is_empty() {
        trie = trie.with_eos_tokens(ends);
    }
    let env: TokEnv = Arc::new(Vocabulary { trie });
    let capabilities = InferenceCapabilities::default();
    let slices = llguidance::earley::SlicedBiasComputer::json_slices();
    let mut factory = ParserFactory::new(&env, capabilities, &slices).map_err(|error| error.to_string())?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.step_lexer_fuel = STEP_LEXER_FUEL;
    limits.max_lexer_states = MAX_LEXER_STATES;
    limits.verbose_errors = false;
    Ok(factory)
}

/// A special token is its name behind a byte that no text has, so that only a grammar that names it allows it.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.token_bytes(id) {
        Some(name) if tokenizer.is_special(id) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat(),
        Some(bytes) if bytes.len() <= MAX_TOKEN_BYTES && bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) => {
            bytes.to_vec()
        }
        // Never text: not an id, too long, or a byte that UTF-8 has not.
        _ => Vec::new(),
    }
}
