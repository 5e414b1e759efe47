//! Chat messages to the text that a model was trained on, by the template in its checkpoint.
//!
//! Templates are Jinja in `transformers`' dialect: whitespace as there, Python's string and dict methods,
//! `raise_exception`, `strftime_now`, `tojson` as Python writes it, the `generation` tag. A template is a program
//! from a stranger: it gets a budget of work and memory, and no files, no clock but the date, no environment.
//!
//! One way past the budget is known: the engine (minijinja 3.1) joins lists lazily and, 33 joins deep, copies them
//! without charging, so a template that doubles a list 33 times takes all memory. Only the process's own limit
//! (its cgroup) ends that.
//!
//! # Source
//! `transformers/utils/chat_template_utils.py` of <https://github.com/huggingface/transformers>.

mod environment;
mod message;
mod methods;
mod python_json;
mod source;

use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub use message::{Message, map_texts};

use crate::tokenizer::SpecialTokens;

/// Name of the template that is used unless there is one for tools.
const DEFAULT: &str = "default";
/// Name of the template that `transformers` takes when tools are given.
const TOOL_USE: &str = "tool_use";
/// Source of one template; the longest known ones have 30 KiB.
const MAX_SOURCE_BYTES: usize = 1024 * 1024;

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: SpecialTokens,
}

/// What is rendered.
#[derive(Debug, Clone)]
pub struct RenderInput<'a> {
    /// The chat so far.
    pub messages: &'a [Message],
    /// A list of tools in OpenAI's form.
    pub tools_json: Option<Json>,
    /// Further variables (`chat_template_kwargs`), e.g. `enable_thinking`; the other fields go before them.
    pub kwargs: Map<String, Json>,
    /// Whether the text ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template refuses these messages, in its own words: an error of the request.
    #[error("the model's chat template refuses the messages: {message}")]
    Raised {
        /// What it passed to `raise_exception`.
        message: String,
    },
    /// The template does not compile: an error of the checkpoint.
    #[error("compile the chat template: {problem}")]
    Compile {
        /// What and where.
        problem: String,
    },
    /// The template fails on these messages: it is broken, or they are of a kind that it does not expect.
    #[error("render the chat template: {problem}")]
    Render {
        /// What and where.
        problem: String,
    },
    /// The template used up its budget of work and memory.
    #[error("the chat template needs more work than a template may take")]
    Exhausted,
}

impl ChatTemplate {
    /// Compiles one template.
    ///
    /// # Errors
    /// [`TemplateError::Compile`] with the line.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self, TemplateError> {
        Self::from_named(&[(DEFAULT, source)], special)
    }

    /// From the value of `chat_template` in `tokenizer_config.json`: a text, or a list of `{name, template}`.
    ///
    /// # Errors
    /// [`TemplateError::Compile`] with the line, or because no template is called `default`.
    pub fn from_config(value: &Json, special: &SpecialTokens) -> Result<Self, TemplateError> {
        if let Some(source) = value.as_str() {
            return Self::new(source, special);
        }
        let named: Vec<(&str, &str)> = value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?)))
            .filter(|(name, _)| matches!(*name, DEFAULT | TOOL_USE))
            .collect();
        if !named.iter().any(|(name, _)| *name == DEFAULT) {
            let problem = "chat_template is neither a text nor a list with a template called default".to_owned();
            return Err(TemplateError::Compile { problem });
        }
        Self::from_named(&named, special)
    }

    fn from_named(named: &[(&str, &str)], special: &SpecialTokens) -> Result<Self, TemplateError> {
        let mut environment = environment::new();
        let mut default_source = String::new();
        for (name, text) in named {
            if text.len() > MAX_SOURCE_BYTES {
                let problem = format!("{name} has {} bytes, at most {MAX_SOURCE_BYTES} are allowed", text.len());
                return Err(TemplateError::Compile { problem });
            }
            let prepared = source::neutralise_generation(&source::normalise_line_ends(text));
            let compiled = environment.add_template_owned((*name).to_owned(), prepared);
            compiled.map_err(|error| TemplateError::Compile { problem: describe(&error) })?;
            if *name == DEFAULT {
                default_source = (*text).to_owned();
            }
        }
        Ok(Self { environment, source: default_source, special: special.clone() })
    }

    /// The template as the checkpoint has it; tells which format of tool calls the model writes.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders with today's date (UTC) for templates that ask for it.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template refuses the messages, else what went wrong.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        self.render_at(input, Timestamp::now())
    }

    /// Renders as [`Self::render`] does, at a given time.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_at(&self, input: &RenderInput<'_>, now: Timestamp) -> Result<String, TemplateError> {
        let has_tools = input.tools_json.as_ref().is_some_and(|tools| !tools.is_null());
        let name = if has_tools && self.environment.get_template(TOOL_USE).is_ok() { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(failure)?;
        let mut context: Vec<(String, Value)> = Vec::new();
        for (key, value) in self.variables(input) {
            context.push((key, Value::from(Serde(value))));
        }
        context.push(("strftime_now".to_owned(), environment::strftime_now(now)));
        template.render(Value::from_pairs(context)).map_err(failure)
    }

    /// Later entries replace earlier ones of the same name.
    fn variables(&self, input: &RenderInput<'_>) -> Map<String, Json> {
        let mut variables = Map::new();
        let SpecialTokens { bos, eos, eot: _, unk, pad } = &self.special;
        let roles = [("bos_token", bos), ("eos_token", eos), ("unk_token", unk), ("pad_token", pad)];
        for (key, name) in roles {
            if let Some(name) = name {
                variables.insert(key.to_owned(), Json::from(name.as_str()));
            }
        }
        for (key, value) in &input.kwargs {
            variables.insert(key.clone(), value.clone());
        }
        let messages = input.messages.iter().map(Message::to_template_json).collect();
        variables.insert("messages".to_owned(), Json::Array(messages));
        variables.insert("tools".to_owned(), input.tools_json.clone().unwrap_or(Json::Null));
        variables.entry("documents").or_insert(Json::Null);
        variables.insert("add_generation_prompt".to_owned(), Json::Bool(input.add_generation_prompt));
        variables
    }
}

/// The engine's words, with the line, without the template's name.
fn describe(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    error.line().map_or_else(|| what.clone(), |line| format!("{what} (line {line})"))
}

fn failure(error: minijinja::Error) -> TemplateError {
    if let Some(message) = environment::raised_message(&error) {
        return TemplateError::Raised { message };
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::Exhausted;
    }
    TemplateError::Render { problem: describe(&error) }
}

#[cfg(test)]
mod tests;
