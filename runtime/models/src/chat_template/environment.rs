//! The engine, set up as `transformers` sets up Jinja.

use std::error::Error as _;

use jiff::Timestamp;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use super::methods;
use super::python_json::{JsonStyle, to_python_json};

/// Instructions, and blocks of 64 bytes, that one rendering may take: about 256 MiB and well under a second.
/// A chat of 1000 messages through the longest known template takes about 200,000.
const FUEL: u64 = 4_000_000;

/// The engine's own default is 500, made for stacks of 8 MiB; worker threads have 2 MiB.
const RECURSION_LIMIT: usize = 150;

/// A new engine without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("should be valid, no delimiter is changed"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", tojson);
    environment.add_filter("wordcount", wordcount);
    environment
}

/// Carries a template's own words through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let text = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, text.clone()).with_source(Raised(text)))
}

/// What a template passed to `raise_exception`, if that is why it failed.
pub(super) fn raised_message(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref::<Raised>() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// The function that writes the date: `strftime_now("%d %B %Y")`.
pub(super) fn strftime_now(now: Timestamp) -> Value {
    Value::from_function(move |format: &str| {
        let failed = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"));
        jiff::fmt::strtime::format(format, now).map_err(failed)
    })
}

/// Runs of letters, digits and underlines; the engine lacks this filter of Jinja's.
fn wordcount(text: &str) -> usize {
    let is_between = |character: char| !character.is_alphanumeric() && character != '_';
    text.split(is_between).filter(|word| !word.is_empty()).count()
}

/// `json.dumps` with the defaults that `transformers` gives it.
fn tojson(value: &Value, ensure_ascii: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let ascii_kwarg: Option<bool> = kwargs.get("ensure_ascii")?;
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        // Python leaves out the space at the end of a line.
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")),
    };
    let ensure_ascii = ensure_ascii.or(ascii_kwarg).unwrap_or(false);
    let style = JsonStyle { ensure_ascii, indent, item, key, sort_keys: sort_keys.unwrap_or(false) };
    to_python_json(value, &style).map(Value::from)
}
