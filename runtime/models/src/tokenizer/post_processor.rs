//! What a tokenizer puts around a text. The library's own post-processors look tokens up unchecked while they
//! encode, so a damaged file could bring a request down; here the few that there are become two lists of ids.

use serde_json::Value;

use super::TokenizerError;
use super::document::{MAX_ID, inconsistent, unsupported};

/// Ids before and after the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
}

/// Reads the `post_processor` of a `tokenizer.json`.
///
/// # Errors
/// [`TokenizerError`] for kinds other than `TemplateProcessing` and `ByteLevel` (which only moves offsets), and for
/// tokens that are not declared.
pub(super) fn surroundings(processor: &Value) -> Result<Surroundings, TokenizerError> {
    match processor.get("type").and_then(Value::as_str) {
        _ if processor.is_null() => Ok(Surroundings::default()),
        Some("ByteLevel") => Ok(Surroundings::default()),
        Some("TemplateProcessing") => from_template(processor),
        Some("Sequence") => {
            let mut all = Surroundings::default();
            for part in processor.get("processors").and_then(Value::as_array).into_iter().flatten() {
                let Surroundings { mut before, after } = surroundings(part)?;
                before.append(&mut all.before);
                all.before = before;
                all.after.extend(after);
            }
            Ok(all)
        }
        kind => {
            let supported = "TemplateProcessing, ByteLevel and sequences of them are";
            Err(unsupported("post_processor", kind.unwrap_or("without a type"), supported))
        }
    }
}

/// `single` is a list of `{"SpecialToken": {"id": NAME}}` with one `{"Sequence": {"id": "A"}}` among them.
fn from_template(processor: &Value) -> Result<Surroundings, TokenizerError> {
    let pieces = processor.get("single").and_then(Value::as_array);
    let pieces = pieces.ok_or_else(|| inconsistent("the post-processor has no list single".to_owned()))?;
    let mut all = Surroundings::default();
    let mut has_text = false;
    for piece in pieces {
        if let Some(name) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) {
            let ids = declared_ids(processor, name)?;
            if has_text { all.after.extend(ids) } else { all.before.extend(ids) }
        } else if piece.pointer("/Sequence/id").is_some_and(|id| id == "A") && !has_text {
            has_text = true;
        } else {
            return Err(inconsistent(format!("the post-processor has a piece {piece} that cannot be there")));
        }
    }
    if !has_text {
        return Err(inconsistent("the post-processor leaves out the text".to_owned()));
    }
    Ok(all)
}

fn declared_ids(processor: &Value, name: &str) -> Result<Vec<u32>, TokenizerError> {
    let wrong = || inconsistent(format!("the post-processor needs token {name:?}, which it does not declare"));
    let declared = processor.get("special_tokens").and_then(|declared| declared.get(name)).ok_or_else(wrong)?;
    let ids = declared.get("ids").and_then(Value::as_array).ok_or_else(wrong)?;
    ids.iter().map(|id| id.as_u64().filter(|id| *id <= MAX_ID).map(|id| id as u32).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Surroundings, surroundings};

    #[test]
    fn templates_and_sequences_of_them_become_ids() {
        let template = |name: &str, id: u32| {
            json!({
                "type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "end", "type_id": 0}}],
                "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}, "end": {"ids": [8, 9]}},
            })
        };
        let both =
            json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template("a", 1), template("b", 2)]});
        let expected = Surroundings { before: vec![2, 1], after: vec![8, 9, 8, 9] };
        assert_eq!(surroundings(&both).unwrap(), expected);
        assert_eq!(surroundings(&json!(null)).unwrap(), Surroundings::default());
    }

    #[test]
    fn wrong_ones_are_refused_by_name() {
        let single =
            |pieces| json!({"type": "TemplateProcessing", "single": pieces, "special_tokens": {"x": {"ids": [-1]}}});
        let text = json!({"Sequence": {"id": "A"}});
        let cases = [
            (json!({"type": "BertProcessing"}), "post_processor BertProcessing is not supported"),
            (json!(3), "post_processor without a type"),
            (json!({"type": "TemplateProcessing"}), "no list single"),
            (single(json!([])), "leaves out the text"),
            (single(json!([text, text])), "a piece {\"Sequence\":{\"id\":\"A\"}} that cannot be there"),
            (single(json!([{"Sequence": {"id": "B"}}])), "cannot be there"),
            (single(json!([{"SpecialToken": {"id": "<s>"}}, text])), "needs token \"<s>\", which it does not declare"),
            (single(json!([{"SpecialToken": {"id": "x"}}, text])), "needs token \"x\""),
        ];
        for (processor, part) in cases {
            let message = surroundings(&processor).unwrap_err().to_string();
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}
