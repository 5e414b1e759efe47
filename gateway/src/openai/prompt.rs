//! The four forms of a text completion's prompt.

use std::fmt;

use kindling_proto::v1::TokenIds;
use kindling_proto::v1::generate_request::Input;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::one_or_many::StringOr;
use crate::error::ApiError;

/// More prompts than this in one request are a batch job.
const MAX_PROMPTS: usize = 256;

/// As on the wire: a text, texts, token ids, or lists of token ids.
pub type Prompt = StringOr<Element>;

/// What stands in a prompt's array.
#[derive(Debug, PartialEq)]
pub enum Element {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id, or an array of token ids")
    }

    fn visit_str<E>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        u32::try_from(id).map(Element::Token).map_err(|_| E::custom(format!("{id} is not a token id")))
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Element, E> {
        Err(E::custom(format!("{id} is not a token id")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = seq.next_element()? {
            ids.push(id);
        }
        Ok(Element::Tokens(ids))
    }
}

/// The prompts to run, each on its own.
///
/// # Errors
/// A 400 for nothing, for a mixture, and for too many.
pub fn inputs(prompt: Prompt) -> Result<Vec<Input>, ApiError> {
    let elements = match prompt {
        StringOr::One(text) => return Ok(vec![Input::Text(text)]),
        StringOr::Many(elements) => elements,
    };
    if elements.is_empty() {
        return Err(ApiError::invalid("prompt", "must not be empty"));
    }
    if elements.iter().all(|element| matches!(element, Element::Token(_))) {
        let ids = elements.into_iter().filter_map(|e| if let Element::Token(id) = e { Some(id) } else { None });
        return Ok(vec![Input::TokenIds(TokenIds { ids: ids.collect() })]);
    }
    if elements.len() > MAX_PROMPTS {
        return Err(ApiError::invalid("prompt", format!("has {} prompts; at most 256 are taken", elements.len())));
    }
    let input = |(idx, element)| match element {
        Element::Text(text) => Ok(Input::Text(text)),
        Element::Tokens(ids) if !ids.is_empty() => Ok(Input::TokenIds(TokenIds { ids })),
        Element::Tokens(_) => Err(ApiError::invalid(format!("prompt[{idx}]"), "must not be empty")),
        Element::Token(_) => {
            Err(ApiError::invalid(format!("prompt[{idx}]"), "is a single token id between whole prompts"))
        }
    };
    elements.into_iter().enumerate().map(input).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<Input>, String> {
        let prompt: Prompt = serde_json::from_str(json).map_err(|error| error.to_string())?;
        inputs(prompt).map_err(|error| error.message)
    }

    fn text(text: &str) -> Input {
        Input::Text(text.into())
    }

    fn ids(ids: &[u32]) -> Input {
        Input::TokenIds(TokenIds { ids: ids.to_vec() })
    }

    #[test]
    fn all_four_forms_are_read() {
        assert_eq!(parsed(r#""a""#), Ok(vec![text("a")]));
        assert_eq!(parsed(r#"["a","b"]"#), Ok(vec![text("a"), text("b")]));
        assert_eq!(parsed("[1,2]"), Ok(vec![ids(&[1, 2])]));
        assert_eq!(parsed("[[1],[2,3]]"), Ok(vec![ids(&[1]), ids(&[2, 3])]));
    }

    #[test]
    fn what_is_no_prompt_is_refused() {
        assert_eq!(parsed("[]"), Err("prompt: must not be empty".into()));
        assert_eq!(parsed("[[]]"), Err("prompt[0]: must not be empty".into()));
        assert!(parsed(r#"["a", 1]"#).is_err());
        assert!(parsed("[-1]").is_err());
        assert!(parsed("{}").is_err());
    }
}
