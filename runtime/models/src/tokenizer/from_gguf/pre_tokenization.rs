//! What the names in `tokenizer.ggml.pre` stand for: how text is changed and cut before byte-level BPE.
//!
//! # Source
//! The publishers' `tokenizer.json` files; which name is whose: `llama_vocab::impl::load` in `src/llama-vocab.cpp` of
//! <https://github.com/ggml-org/llama.cpp>.

use serde_json::{Value, json};

use crate::tokenizer::TokenizerError;

const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5 keeps marks with their letters.
const QWEN35_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Splits where a lower-case letter is followed by an upper-case one; numbers in threes.
const O200K_SPLIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As [`O200K_SPLIT`] without contractions; digits one by one.
const TEKKEN_SPLIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const SUPPORTED: &str = "only gpt-2, default, smollm, starcoder, refact, command-r, llama-bpe, qwen2, qwen35, \
    deepseek-r1-qwen, gpt-4o and tekken are";

/// Parts of a `tokenizer.json`, and what the name implies beside them.
pub(super) struct PreTokenization {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    /// Words that are tokens are taken whole, whatever the merges make of them.
    pub ignore_merges: bool,
    /// Unless the file says otherwise.
    pub add_bos: bool,
}

/// Looks the name up.
pub(super) fn pre_tokenization(name: Option<&str>) -> Result<PreTokenization, TokenizerError> {
    let plain = PreTokenization {
        normalizer: Value::Null,
        pre_tokenizer: byte_level(true),
        ignore_merges: false,
        add_bos: false,
    };
    let nfc = json!({"type": "NFC"});
    Ok(match name {
        Some("gpt-2") => plain,
        None | Some("default") => {
            tracing::warn!(
                "the file does not say how text is split before BPE (tokenizer.ggml.pre): taking gpt-2's way"
            );
            plain
        }
        Some("smollm" | "starcoder" | "refact") => PreTokenization { pre_tokenizer: single_digits(), ..plain },
        Some("command-r") => PreTokenization { normalizer: nfc, pre_tokenizer: single_digits(), ..plain },
        Some("llama-bpe" | "llama3" | "llama-v3") => {
            PreTokenization { pre_tokenizer: split(LLAMA3_SPLIT), ignore_merges: true, add_bos: true, ..plain }
        }
        Some("qwen2" | "deepseek-r1-qwen") => {
            PreTokenization { normalizer: nfc, pre_tokenizer: split(QWEN2_SPLIT), ..plain }
        }
        Some("qwen35") => PreTokenization { normalizer: nfc, pre_tokenizer: split(QWEN35_SPLIT), ..plain },
        Some("gpt-4o") => PreTokenization { pre_tokenizer: split(O200K_SPLIT), ..plain },
        Some("tekken") => {
            PreTokenization { pre_tokenizer: split(TEKKEN_SPLIT), ignore_merges: true, add_bos: true, ..plain }
        }
        Some(other) => {
            return Err(TokenizerError::Unsupported {
                part: "tokenizer.ggml.pre",
                found: other.to_owned(),
                supported: SUPPORTED,
            });
        }
    })
}

/// GPT-2's spelling of bytes, with its own way to split or none.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn single_digits() -> Value {
    let digits = json!({"type": "Digits", "individual_digits": true});
    json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]})
}

fn split(pattern: &str) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}
