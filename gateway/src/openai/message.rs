//! One message of a conversation, from OpenAI's forms to the runtime's.

use kindling_proto::v1::ChatMessage;
use serde::Deserialize;

use super::one_or_many::StringOr;
use crate::error::ApiError;

/// As on the wire.
#[derive(Deserialize, Debug)]
pub struct Message {
    role: Role,
    #[serde(default)]
    content: Option<StringOr<Part>>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<serde_json::Value>>,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Deserialize, Debug)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

impl Message {
    /// The runtime's form; `at` is the message's path, for errors.
    ///
    /// # Errors
    /// A 400 for content that is missing or of a type that the runtime can't read.
    pub fn validate(self, at: &str) -> Result<ChatMessage, ApiError> {
        let Self { role, content, name, tool_call_id, tool_calls } = self;
        let tool_calls = tool_calls.filter(|calls| role == Role::Assistant && !calls.is_empty());
        let content = match content {
            Some(StringOr::One(text)) => text,
            Some(StringOr::Many(parts)) => join(parts, at)?,
            None if tool_calls.is_some() => String::new(),
            None => {
                let message = "is required; only an assistant's message with tool_calls may go without";
                return Err(ApiError::invalid(format!("{at}.content"), message));
            }
        };
        if role == Role::Tool && tool_call_id.is_none() {
            return Err(ApiError::invalid(format!("{at}.tool_call_id"), "is required with the role 'tool'"));
        }
        Ok(ChatMessage {
            role: role.for_template().into(),
            content,
            name: name.unwrap_or_default(),
            tool_call_id: tool_call_id.unwrap_or_default(),
            tool_calls_json: tool_calls.map_or_else(String::new, |calls| serde_json::Value::from(calls).to_string()),
        })
    }
}

impl Role {
    /// Templates know no developer: it is OpenAI's newer word for the system.
    fn for_template(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// Parts are blocks of their own, so a line break stands between them, as in vLLM and llama.cpp.
fn join(parts: Vec<Part>, at: &str) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (idx, Part { kind, text }) in parts.into_iter().enumerate() {
        let at = format!("{at}.content[{idx}]");
        match (kind.as_str(), text) {
            ("text", Some(text)) => texts.push(text),
            ("text", None) => {
                return Err(ApiError::invalid(format!("{at}.text"), "is required in a part of type 'text'"));
            }
            _ => {
                let message = format!("'{kind}' is not supported: this model reads only 'text'");
                return Err(ApiError::invalid(format!("{at}.type"), message));
            }
        }
    }
    Ok(texts.join("\n"))
}
