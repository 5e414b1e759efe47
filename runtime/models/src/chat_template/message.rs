//! One message of a chat.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// A message in OpenAI's form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`: the template decides what it accepts.
    pub role: String,
    /// A text, a list of parts, or null beside tool calls.
    #[serde(default)]
    pub content: Json,
    /// Of the participant or the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which call a message of role `tool` answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The assistant's calls, a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Json>,
    /// Anything else that a template may look for, e.g. `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Json>,
}

impl Message {
    /// A message of text.
    pub fn text(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: Json::from(content), ..Self::default() }
    }

    /// Puts every text of the message through `change`: values and keys, also those in arguments of tool calls that
    /// are JSON in a string.
    pub fn map_texts(&mut self, change: &dyn Fn(&str) -> String) {
        self.tool_calls = self.tool_calls.as_ref().map(with_parsed_arguments);
        self.role = change(&self.role);
        for text in [&mut self.name, &mut self.tool_call_id].into_iter().flatten() {
            *text = change(text);
        }
        map_texts(&mut self.content, change);
        self.tool_calls.iter_mut().for_each(|calls| map_texts(calls, change));
        self.extra.values_mut().for_each(|value| map_texts(value, change));
    }

    /// What the template sees. Arguments of tool calls, which OpenAI's API has as JSON in a string, become values,
    /// because that is what templates write with `tojson`.
    pub(super) fn to_template_json(&self) -> Json {
        let mut message = Map::new();
        message.insert("role".to_owned(), Json::from(self.role.as_str()));
        message.insert("content".to_owned(), self.content.clone());
        let texts = [("name", &self.name), ("tool_call_id", &self.tool_call_id)];
        for (key, text) in texts {
            if let Some(text) = text {
                message.insert(key.to_owned(), Json::from(text.as_str()));
            }
        }
        if let Some(tool_calls) = &self.tool_calls {
            message.insert("tool_calls".to_owned(), with_parsed_arguments(tool_calls));
        }
        message.extend(self.extra.iter().map(|(key, value)| (key.clone(), value.clone())));
        Json::Object(message)
    }
}

/// Puts every text in `value` through `change`: strings and keys.
pub fn map_texts(value: &mut Json, change: &dyn Fn(&str) -> String) {
    match value {
        Json::String(text) => *text = change(text),
        Json::Array(elements) => elements.iter_mut().for_each(|element| map_texts(element, change)),
        Json::Object(fields) => {
            for (key, mut value) in std::mem::take(fields) {
                map_texts(&mut value, change);
                fields.insert(change(&key), value);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn with_parsed_arguments(tool_calls: &Json) -> Json {
    let mut tool_calls = tool_calls.clone();
    for call in tool_calls.as_array_mut().into_iter().flatten() {
        let function = if call.get("function").is_some() { &mut call["function"] } else { call };
        let parsed = function.get("arguments").and_then(Json::as_str).map(serde_json::from_str::<Map<String, Json>>);
        if let Some(Ok(arguments)) = parsed {
            function["arguments"] = Json::Object(arguments);
        }
    }
    tool_calls
}
