//! What an output must look like: OpenAI's `response_format`, vLLM's `structured_outputs` and its older `guided_*`.

use kindling_proto::v1::structured_output::Kind;
use kindling_proto::v1::{Choice, JsonObject, StructuredOutput};
use serde::Deserialize;
use serde_json::Value;

use super::object::Object;
use crate::error::ApiError;

/// OpenAI's form, as on the wire.
#[derive(Deserialize, Debug)]
pub struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    json_schema: Option<Object<JsonSchema>>,
}

/// `name` and `description` are for people, and `strict` asks for what is always done.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct JsonSchema {
    schema: Option<Value>,
}

/// vLLM's form, as on the wire.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub struct StructuredOutputs {
    pub json: Option<Value>,
    pub regex: Option<String>,
    pub choice: Option<Vec<String>>,
    pub grammar: Option<String>,
    pub json_object: Option<bool>,
    pub structural_tag: Option<Value>,
    pub whitespace_pattern: Option<String>,
}

/// A form and the field that asked for it.
#[derive(Debug, PartialEq)]
pub struct Form {
    /// For errors.
    pub field: &'static str,
    /// As the runtime has it.
    pub structured_output: StructuredOutput,
}

/// The one form that was asked for.
///
/// # Errors
/// A 400 that names the field: more than one form, or one that is not supported.
pub fn form(
    response_format: Option<Object<ResponseFormat>>,
    structured_outputs: Option<Object<StructuredOutputs>>,
    guided: StructuredOutputs,
) -> Result<Option<Form>, ApiError> {
    let mut forms: Vec<(&'static str, Kind)> = Vec::new();
    if let Some(Object(format)) = response_format {
        forms.extend(format.kind()?.map(|kind| ("response_format", kind)));
    }
    if let Some(Object(outputs)) = structured_outputs {
        let names = ["structured_outputs.json", "structured_outputs.regex", "structured_outputs.choice"];
        forms.extend(outputs.kinds(names, "structured_outputs.grammar")?);
    }
    forms.extend(guided.kinds(["guided_json", "guided_regex", "guided_choice"], "guided_grammar")?);
    let mut forms = forms.into_iter();
    match (forms.next(), forms.next()) {
        (Some((field, _)), Some((other, _))) => {
            Err(ApiError::invalid(other, format!("can't be used together with {field}: an output has one form")))
        }
        (first, _) => {
            Ok(first.map(|(field, kind)| Form { field, structured_output: StructuredOutput { kind: Some(kind) } }))
        }
    }
}

impl ResponseFormat {
    fn kind(self) -> Result<Option<Kind>, ApiError> {
        match self.kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(Kind::JsonObject(JsonObject {}))),
            "json_schema" => {
                let schema = self.json_schema.and_then(|Object(described)| described.schema);
                let missing = || ApiError::invalid("response_format.json_schema.schema", "is required");
                Ok(Some(Kind::JsonSchema(schema.ok_or_else(missing)?.to_string())))
            }
            other => {
                let message = format!("'{other}' is not supported; 'text', 'json_object' and 'json_schema' are");
                Err(ApiError::invalid("response_format.type", message))
            }
        }
    }
}

impl StructuredOutputs {
    fn kinds(
        self,
        names: [&'static str; 3],
        grammar_name: &'static str,
    ) -> Result<Vec<(&'static str, Kind)>, ApiError> {
        let Self { json, regex, choice, grammar, json_object, structural_tag, whitespace_pattern } = self;
        for (field, is_there) in [
            ("structured_outputs.structural_tag", structural_tag.is_some()),
            ("structured_outputs.whitespace_pattern", whitespace_pattern.is_some()),
        ] {
            if is_there {
                return Err(ApiError::invalid(field, "is not supported"));
            }
        }
        let [json_name, regex_name, choice_name] = names;
        // vLLM takes a schema as JSON or as a text of JSON.
        let schema = json.map(|schema| schema.as_str().map_or_else(|| schema.to_string(), str::to_owned));
        let kinds = [
            schema.map(|schema| (json_name, Kind::JsonSchema(schema))),
            regex.map(|regex| (regex_name, Kind::Regex(regex))),
            choice.map(|choices| (choice_name, Kind::Choice(Choice { choices }))),
            grammar.map(|grammar| (grammar_name, Kind::Grammar(grammar))),
            (json_object == Some(true)).then_some(("structured_outputs.json_object", Kind::JsonObject(JsonObject {}))),
        ];
        Ok(kinds.into_iter().flatten().collect())
    }
}
