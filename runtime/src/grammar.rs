//! Structured output: forms that an output must have, compiled by llguidance to sets of allowed tokens.
//!
//! Everything that a hostile form could make slow runs on threads of its own: compiling on one per grammar, masks on one
//! for all ([`MaskThread`]), both with bounds. The engine's thread only takes in chosen tokens.

mod constraints;
mod mask_thread;
mod vocabulary;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kindling_engine::{TokenId, TokenMask};
use kindling_models::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value as Json, json};
use tokio::sync::{Semaphore, oneshot};

pub use constraints::Constraints;
use mask_thread::MaskThread;

/// Bytes of one form: schemas of whole APIs are smaller.
pub const MAX_GRAMMAR_BYTES: usize = 256 * 1024;
/// Texts to choose from.
pub const MAX_CHOICES: usize = 4096;
/// How long a request waits for its grammar. The largest schemas tried take under a second.
pub const COMPILE_TIMEOUT: Duration = Duration::from_secs(10);
/// Grammars compiled at a time.
const MAX_COMPILING: usize = 2;
/// Schemas and expressions nest: deep, but bounded by their size. Only what is touched is memory.
const COMPILE_STACK_BYTES: usize = 256 << 20;
/// Between two parts of JSON: nothing, a space, or a line break with indentation. Without a bound a small model may
/// write white space until its tokens are used up.
const JSON_SPACE: &str = r"( |\n {0,32})?";

/// Why a form that can be compiled is of no use.
const NOTHING: &str = "nothing has this form";

/// A form that an output must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// JSON that a JSON Schema describes.
    JsonSchema(String),
    /// Any JSON object.
    JsonObject,
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A Lark grammar, in the dialect of llguidance.
    Lark(String),
}

/// Why a form cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is wrong, too complex or not supported.
    #[error("{kind}: {reason}")]
    Form {
        /// Which kind of form.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Too many are being compiled.
    #[error("too many grammars are being compiled; try again later")]
    Busy,
    /// The tokenizer or the machine does not allow it.
    #[error("structured output is not possible: {0}")]
    Impossible(String),
}

/// A grammar at the position of one output. Copies of it go their own ways.
pub struct Grammar(Matcher);

/// What a token did to a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// More may come.
    More,
    /// Nothing can follow.
    Complete,
    /// The grammar broke down.
    Failed(String),
}

/// Compiles forms for one vocabulary.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Made when the first form comes: it takes time and memory that most runtimes never need.
    factory: OnceLock<Result<ParserFactory, String>>,
    compiling: Arc<Semaphore>,
}

impl Form {
    /// What it is called in the contract.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "json_schema",
            Self::JsonObject => "json_object",
            Self::Regex(_) => "regex",
            Self::Choice(_) => "choice",
            Self::Lark(_) => "grammar",
        }
    }

    fn refuse(&self, reason: impl Into<String>) -> GrammarError {
        GrammarError::Form { kind: self.kind(), reason: reason.into() }
    }

    /// Looks for what llguidance would not, or would only after much work.
    fn check(&self) -> Result<(), GrammarError> {
        let (num_bytes, is_empty) = match self {
            Self::JsonObject => (0, false),
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => (text.len(), text.trim().is_empty()),
            Self::Choice(choices) if choices.len() > MAX_CHOICES => {
                return Err(self.refuse(format!("{} choices are too many, {MAX_CHOICES} are possible", choices.len())));
            }
            Self::Choice(choices) => (choices.iter().map(String::len).sum(), choices.iter().all(String::is_empty)),
        };
        if is_empty {
            return Err(self.refuse("it is empty"));
        }
        if num_bytes > MAX_GRAMMAR_BYTES {
            return Err(self.refuse(format!("it has {num_bytes} bytes, at most {MAX_GRAMMAR_BYTES} are possible")));
        }
        Ok(())
    }

    fn to_llguidance(&self) -> Result<TopLevelGrammar, GrammarError> {
        Ok(match self {
            Self::JsonSchema(text) => {
                let schema = serde_json::from_str(text).map_err(|error| self.refuse(format!("no JSON: {error}")))?;
                TopLevelGrammar::from_json_schema(with_bounded_space(schema).map_err(|reason| self.refuse(reason))?)
            }
            Self::JsonObject => {
                let schema = with_bounded_space(json!({ "type": "object" })).map_err(|reason| self.refuse(reason))?;
                TopLevelGrammar::from_json_schema(schema)
            }
            Self::Regex(text) => {
                // llguidance drops a backslash at the end.
                if text.chars().rev().take_while(|character| *character == '\\').count() % 2 == 1 {
                    return Err(self.refuse("it ends with a single backslash"));
                }
                TopLevelGrammar::from_regex(text)
            }
            Self::Choice(choices) => {
                let texts: Vec<String> = choices.iter().map(|choice| Json::from(choice.as_str()).to_string()).collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
            Self::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        })
    }
}

impl Grammars {
    /// For this vocabulary.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, factory: OnceLock::new(), compiling: Arc::new(Semaphore::new(MAX_COMPILING)) }
    }

    /// Compiles a form on a thread of its own. If that takes too long, the thread ends by itself some time, and until
    /// then keeps its place.
    ///
    /// # Errors
    /// [`GrammarError`] saying what is wrong with the form.
    pub async fn compile(self: &Arc<Self>, form: Form) -> Result<Grammar, GrammarError> {
        form.check()?;
        let place = Arc::clone(&self.compiling).acquire_owned();
        let place = tokio::time::timeout(COMPILE_TIMEOUT, place).await.ok().and_then(Result::ok);
        let place = place.ok_or(GrammarError::Busy)?;
        let too_slow = form.refuse(format!("it took more than {} s to compile", COMPILE_TIMEOUT.as_secs()));
        let (sender, receiver) = oneshot::channel();
        let grammars = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("kindling-grammar".to_owned())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn(move || {
                let _place = place;
                // The client may have gone.
                let _ = sender.send(grammars.compile_here(&form));
            });
        spawned.map_err(|error| GrammarError::Impossible(format!("start a thread: {error}")))?;
        match tokio::time::timeout(COMPILE_TIMEOUT, receiver).await {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(_)) => Err(GrammarError::Impossible("the compiler panicked".to_owned())),
            Err(_) => Err(too_slow),
        }
    }

    /// Compiles a form on this thread, whose stack should be large.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_here(&self, form: &Form) -> Result<Grammar, GrammarError> {
        form.check()?;
        let factory = self.factory.get_or_init(|| vocabulary::factory(&self.tokenizer));
        let factory = factory.as_ref().map_err(|problem| GrammarError::Impossible(problem.clone()))?;
        let mut matcher = Matcher::new(factory.create_parser(form.to_llguidance()?)).into_cancellable();
        // A schema that nothing can satisfy is found here and not half-way.
        let first = if matcher.is_error() { None } else { matcher.compute_mask_or_eos().ok() };
        match matcher.get_error() {
            Some(error) if error.starts_with("NoExtension") => Err(form.refuse(NOTHING)),
            Some(error) => Err(form.refuse(reason(&error))),
            None if first.is_some_and(|mask| mask.num_set() == 0) => Err(form.refuse(NOTHING)),
            None => Ok(Grammar(matcher)),
        }
    }
}

impl Grammar {
    /// The tokens that may come next; where the form is complete, those that end a sequence.
    ///
    /// # Errors
    /// Why the grammar broke down: it is too complex, or was cancelled.
    pub fn mask(&mut self) -> Result<TokenMask, String> {
        let mask = self.0.compute_mask_or_eos().map_err(|error| reason(&error.to_string()))?;
        Ok(TokenMask::new(Vec::<u32>::from(mask)))
    }

    /// Takes in a token that was chosen.
    pub fn accept(&mut self, token: TokenId) -> Accepted {
        let Self(matcher) = self;
        match matcher.consume_token(token) {
            Err(error) => Accepted::Failed(reason(&error.to_string())),
            Ok(()) if matcher.is_stopped() && !matcher.stop_reason().is_ok() => {
                Accepted::Failed(format!("the grammar stopped: {}", matcher.stop_reason()))
            }
            Ok(()) if matcher.is_stopped() => Accepted::Complete,
            Ok(()) => Accepted::More,
        }
    }

    /// The same position, sharing nothing.
    fn copy(&self) -> Self {
        Self(self.0.deep_clone())
    }
}

/// llguidance's message for people: without a trace and its own marks, and without the middle where it repeats what it
/// was given.
fn reason(error: &str) -> String {
    const EACH_SIDE: usize = 200;
    let end = ["\n<non-verbose/>", "\n<backtrace>", "\n<state>"].iter().filter_map(|mark| error.find(mark)).min();
    let said = error[..end.unwrap_or(error.len())].trim();
    let num_chars = said.chars().count();
    if num_chars <= 2 * EACH_SIDE {
        return said.to_owned();
    }
    let head = said.chars().take(EACH_SIDE);
    let tail = said.chars().skip(num_chars - EACH_SIDE);
    head.chain(" … ".chars()).chain(tail).collect()
}

/// The schema with bounded white space, unless it brings rules of its own (`x-guidance`).
fn with_bounded_space(schema: Json) -> Result<Json, &'static str> {
    match schema {
        Json::Bool(true) => with_bounded_space(json!({})),
        Json::Bool(false) => Err(NOTHING),
        Json::Object(mut members) => {
            if !members.contains_key("x-guidance") {
                members.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": JSON_SPACE }));
            }
            Ok(Json::Object(members))
        }
        _ => Err("a JSON schema is an object or a boolean"),
    }
}

#[cfg(test)]
mod tests;
