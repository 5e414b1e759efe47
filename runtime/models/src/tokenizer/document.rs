//! Checks a `tokenizer.json` before the library sees it, which panics on some damaged ones.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value};

use super::TokenizerError;
use super::table::TextStyle;

/// Ids beyond this are refused: the table of tokens is dense.
pub(super) const MAX_ID: u64 = (1 << 22) - 1;
/// Longest token in bytes; the longest known ones are runs of a few hundred spaces.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Checks model, added tokens and decoder; tells how tokens are written.
pub(super) fn check(document: &Value) -> Result<TextStyle, TokenizerError> {
    let model = document.get("model").and_then(Value::as_object);
    let model = model.ok_or_else(|| parse("it has no object model"))?;
    check_model(model)?;
    check_added(document.get("added_tokens"))?;
    check_normalizer(document.get("normalizer").unwrap_or(&Value::Null))?;
    text_style(document.get("decoder").unwrap_or(&Value::Null))
}

/// Hands the document to the library, without the post-processor: see [`super::post_processor`].
pub(super) fn load(mut document: Value) -> Result<tokenizers::Tokenizer, TokenizerError> {
    document["post_processor"] = Value::Null;
    // The library has `expect`s on parts of the document that this file does not look at.
    let loaded = catch_unwind(AssertUnwindSafe(|| serde_json::from_value::<tokenizers::Tokenizer>(document)));
    let mut tokenizer = match loaded {
        Ok(Ok(tokenizer)) => tokenizer,
        Ok(Err(error)) => return Err(parse(&error.to_string())),
        Err(_) => return Err(parse("a part is of a shape that the tokenizers library cannot take")),
    };
    tokenizer.with_truncation(None).map_err(|error| parse(&error.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

pub(super) fn parse(problem: &str) -> TokenizerError {
    TokenizerError::Parse { problem: problem.to_owned() }
}

pub(super) fn inconsistent(problem: String) -> TokenizerError {
    TokenizerError::Inconsistent { problem }
}

pub(super) fn unsupported(part: &'static str, found: &str, supported: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { part, found: found.to_owned(), supported }
}

fn check_model(model: &Map<String, Value>) -> Result<(), TokenizerError> {
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    if kind != "BPE" {
        return Err(unsupported("model", kind, "only BPE is"));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(affix) = model.get(key).and_then(Value::as_str).filter(|affix| !affix.is_empty()) {
            return Err(unsupported(key, affix, "only its absence is"));
        }
    }
    if model.get("dropout").is_some_and(|dropout| !dropout.is_null() && dropout.as_f64() != Some(0.0)) {
        return Err(unsupported("dropout", "other than 0", "encoding must not be random"));
    }
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| parse("model.vocab is no object"))?;
    let mut ids = HashSet::with_capacity(vocab.len());
    for (token, id) in vocab {
        let id = check_id(token, id)?;
        if !ids.insert(id) {
            return Err(inconsistent(format!("id {id} is given twice, again to token {token:?}")));
        }
    }
    check_merges(model.get("merges"), vocab)
}

fn check_id(token: &str, id: &Value) -> Result<u64, TokenizerError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(inconsistent(format!(
            "a token is {} bytes long, at most {MAX_TOKEN_BYTES} are allowed",
            token.len()
        )));
    }
    let valid = id.as_u64().filter(|id| *id <= MAX_ID);
    valid.ok_or_else(|| inconsistent(format!("token {token:?} has the id {id}, 0 to {MAX_ID} is possible")))
}

/// Merges are `"a b"` or `["a", "b"]`; all three of a, b and ab must be tokens.
fn check_merges(merges: Option<&Value>, vocab: &Map<String, Value>) -> Result<(), TokenizerError> {
    let merges = merges.and_then(Value::as_array).ok_or_else(|| parse("model.merges is no list"))?;
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        let Some((left, right)) = pair else {
            // The library takes a version line at the top.
            if merge.as_str().is_some_and(|line| line.starts_with("#version")) {
                continue;
            }
            return Err(inconsistent(format!("merge {index} is not a pair of tokens")));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for token in [left, right, &joined] {
            if !vocab.contains_key(token) {
                return Err(inconsistent(format!(
                    "merge {index} needs token {token:?}, which is not in the vocabulary"
                )));
            }
        }
    }
    Ok(())
}

fn check_added(added: Option<&Value>) -> Result<(), TokenizerError> {
    let Some(added) = added.filter(|added| !added.is_null()) else { return Ok(()) };
    let added = added.as_array().ok_or_else(|| parse("added_tokens is no list"))?;
    for (index, token) in added.iter().enumerate() {
        let content = token.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| inconsistent(format!("added token {index} has no content")))?;
        check_id(content, token.get("id").unwrap_or(&Value::Null))?;
    }
    Ok(())
}

/// Precompiled tables are used unchecked by the library; no BPE model of the supported kinds has one.
fn check_normalizer(normalizer: &Value) -> Result<(), TokenizerError> {
    if normalizer.get("type").is_some_and(|kind| kind == "Precompiled") {
        return Err(unsupported("normalizer", "Precompiled", "BPE models do without"));
    }
    let parts = normalizer.get("normalizers").and_then(Value::as_array);
    parts.into_iter().flatten().try_for_each(check_normalizer)
}

/// Tells from the decoder how tokens are written; decoders that change text in other ways are refused.
fn text_style(decoder: &Value) -> Result<TextStyle, TokenizerError> {
    let supported = "ByteLevel, and the Replace, ByteFallback, Fuse, Strip sequence of SentencePiece models are";
    let kind = |decoder: &Value| decoder.get("type").and_then(Value::as_str).unwrap_or("without a type").to_owned();
    match kind(decoder).as_str() {
        "ByteLevel" => Ok(TextStyle::ByteLevel),
        "Sequence" => {
            let parts = decoder.get("decoders").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let kinds: Vec<String> = parts.iter().map(kind).collect();
            let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
            match kinds.as_slice() {
                ["ByteLevel"] => Ok(TextStyle::ByteLevel),
                ["Replace", "ByteFallback", "Fuse"] if replaces_underline(&parts[0]) => {
                    Ok(TextStyle::SentencePiece { strips_first_space: false })
                }
                ["Replace", "ByteFallback", "Fuse", "Strip"]
                    if replaces_underline(&parts[0]) && strips_one_space(&parts[3]) =>
                {
                    Ok(TextStyle::SentencePiece { strips_first_space: true })
                }
                _ => Err(unsupported("decoder", &format!("sequence {}", kinds.join(", ")), supported)),
            }
        }
        other => Err(unsupported("decoder", other, supported)),
    }
}

fn replaces_underline(decoder: &Value) -> bool {
    decoder["pattern"]["String"] == "\u{2581}" && decoder["content"] == " "
}

fn strips_one_space(decoder: &Value) -> bool {
    decoder["content"] == " " && decoder["start"] == 1 && decoder["stop"] == 0
}
