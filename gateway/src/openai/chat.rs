//! `POST /v1/chat/completions`.

mod chunks;
mod completion;

use axum::extract::{Request, State};
use axum::response::Response;
use kindling_proto::v1::ChatInput;
use kindling_proto::v1::generate_request::Input;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::call::{self, Incoming};
use super::message::Message;
use super::params::check;
use super::sse;
use crate::error::ApiError;
use crate::router::App;

const MAX_TOP_LOGPROBS: u32 = 20;

/// The endpoint's own fields, as on the wire.
#[derive(Deserialize, Debug)]
struct Body {
    #[serde(default)]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<u32>,
    #[serde(default)]
    tools: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    #[serde(default)]
    functions: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    function_call: Option<Value>,
    #[serde(default)]
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    chat_template_kwargs: Option<Map<String, Value>>,
    #[serde(default)]
    reasoning_effort: Option<String>,
}

/// Answers a conversation, as one object or as a stream.
pub async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let Incoming { params, own, record } = call::receive::<Body>(&app, request).await?;
    let logprobs = own.logprobs()?;
    let inputs = vec![Input::Chat(own.into_input()?)];
    let answer = call::start(&app, Incoming { params, own: inputs, record }, "chatcmpl-", logprobs)?;
    if answer.is_stream {
        sse::respond(answer, chunks::ChatChunks { has_logprobs: logprobs.is_some() }).await
    } else {
        completion::collect(answer, logprobs.is_some()).await
    }
}

impl Body {
    fn logprobs(&self) -> Result<Option<u32>, ApiError> {
        let top = self.top_logprobs.unwrap_or(0);
        check("top_logprobs", top, top <= MAX_TOP_LOGPROBS, "from 0 to 20")?;
        match self.logprobs {
            Some(true) => Ok(Some(top)),
            _ if top > 0 => Err(ApiError::invalid("top_logprobs", "needs logprobs to be true")),
            _ => Ok(None),
        }
    }

    fn into_input(self) -> Result<ChatInput, ApiError> {
        self.refuse_tools()?;
        let Self { messages, add_generation_prompt, chat_template_kwargs, reasoning_effort, .. } = self;
        let messages = messages.filter(|messages| !messages.is_empty());
        let messages = messages.ok_or_else(|| ApiError::invalid("messages", "at least one message is required"))?;
        let messages = messages.into_iter().enumerate();
        let messages = messages.map(|(idx, message)| message.validate(&format!("messages[{idx}]")));
        let mut kwargs = chat_template_kwargs.unwrap_or_default();
        if let Some(effort) = reasoning_effort {
            kwargs.entry("reasoning_effort").or_insert(effort.into());
        }
        Ok(ChatInput {
            messages: messages.collect::<Result<_, _>>()?,
            template_kwargs_json: if kwargs.is_empty() { String::new() } else { Value::from(kwargs).to_string() },
            tools_json: String::new(),
            add_generation_prompt,
        })
    }

    /// The runtime can't read tool calls out of a text yet. An answer with raw markup in it would look like success.
    fn refuse_tools(&self) -> Result<(), ApiError> {
        for (field, offered, choice) in
            [("tools", &self.tools, &self.tool_choice), ("functions", &self.functions, &self.function_call)]
        {
            let is_none = choice.as_ref().and_then(Value::as_str) == Some("none");
            if offered.as_ref().is_some_and(|offered| !offered.is_empty()) && !is_none {
                let message = "tool calls are not supported yet; leave the tools out or choose \"none\"";
                return Err(ApiError::invalid(field, message));
            }
        }
        Ok(())
    }
}
