//! Python's methods of strings, lists and dicts, paid for before they run.
//!
//! The engine charges for its own filters, but for these methods only once the result is there, and then it may
//! have tens of gigabytes already: `'x'.replace('', y).replace(…)`.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// What the engine takes for one unit of fuel.
const BYTES_PER_FUEL: u64 = 64;
/// Widths and precisions in format strings.
const MAX_FORMAT_NUMBER: u64 = 1024;

/// Calls a method that the engine does not know itself.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        // Results with one element for every few characters, as `split` gives, included.
        state.consume_fuel(text.len() as u64 / 16)?;
        match method {
            "join" => return join(state, text, args),
            "replace" => pay(state, replaced_bytes(text, args))?,
            "format" => pay(state, formatted_bytes(text, args)?)?,
            _ => {}
        }
    }
    unknown_method_callback(state, value, method, args)
}

fn pay(state: &State, bytes: u64) -> Result<(), Error> {
    state.consume_fuel(bytes / BYTES_PER_FUEL)
}

/// At most this much is added.
fn replaced_bytes(text: &str, args: &[Value]) -> u64 {
    let [old, new, ..] = args else { return 0 };
    let (old, new) = (old.as_str().unwrap_or_default(), new.as_str().unwrap_or_default());
    let matches = if old.is_empty() { text.len() as u64 + 1 } else { (text.len() / old.len()) as u64 };
    matches.saturating_mul(new.len() as u64)
}

/// At most this much comes out, widths aside, which are bounded.
///
/// # Errors
/// For a width or precision beyond reason.
fn formatted_bytes(text: &str, args: &[Value]) -> Result<u64, Error> {
    let numbers = text.split(|character: char| !character.is_ascii_digit()).filter(|digits| !digits.is_empty());
    for digits in numbers {
        if digits.parse::<u64>().map_or(true, |number| number > MAX_FORMAT_NUMBER) && text.contains('{') {
            let problem = format!("format: the number {digits} is above {MAX_FORMAT_NUMBER}");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
    }
    let fields = text.matches('{').count() as u64;
    let longest = args.iter().map(length).max().unwrap_or(0);
    Ok(fields.saturating_mul(longest + MAX_FORMAT_NUMBER))
}

fn length(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len) as u64,
        ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number => 32,
        _ => value.to_string().len() as u64,
    }
}

/// `separator.join(items)`, paid for item by item.
fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let [items] = args else { return Err(Error::from(ErrorKind::TooManyArguments)) };
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            pay(state, separator.len() as u64 + BYTES_PER_FUEL)?;
            out.push_str(separator);
        }
        let item = item.to_string();
        pay(state, item.len() as u64)?;
        out.push_str(&item);
    }
    Ok(Value::from(out))
}
