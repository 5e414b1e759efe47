//! JSON as Python's `json.dumps` writes it; models are trained on its spaces.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Arguments of `json.dumps`.
pub(super) struct JsonStyle {
    /// Everything beyond ASCII as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Spaces per level, one item a line; absent means one line.
    pub indent: Option<usize>,
    /// Between items.
    pub item: String,
    /// Between key and value.
    pub key: String,
    /// Keys in order of their characters.
    pub sort_keys: bool,
}

/// Deeper values are refused; Python gives up at about 1000.
const MAX_DEPTH: usize = 64;

/// Writes `value`.
///
/// # Errors
/// For what JSON has no form for, and for values nested deeper than 64 levels.
pub(super) fn to_python_json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    Writer { out: &mut out, style, depth: 0 }.value(value)?;
    Ok(out)
}

struct Writer<'a> {
    out: &'a mut String,
    style: &'a JsonStyle,
    depth: usize,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.group(['[', ']'], &items, |writer, item| writer.value(item))?;
            }
            ValueKind::Map => self.map(value)?,
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {kind} cannot be written as JSON"),
                ));
            }
        }
        Ok(())
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.style.sort_keys {
            keys.sort();
        }
        self.group(['{', '}'], &keys, |writer, key| {
            match key.kind() {
                ValueKind::String => writer.string(key.as_str().unwrap_or_default()),
                // Python turns other keys into strings of their JSON.
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    writer.out.push('"');
                    writer.value(key)?;
                    writer.out.push('"');
                }
                kind => {
                    let problem = format!("tojson: {kind} cannot be a key");
                    return Err(Error::new(ErrorKind::InvalidOperation, problem));
                }
            }
            writer.out.push_str(&writer.style.key);
            writer.value(&value.get_item(key)?)
        })
    }

    fn group(
        &mut self,
        brackets: [char; 2],
        items: &[Value],
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            let problem = format!("tojson: the value is nested deeper than {MAX_DEPTH} levels");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        self.out.push(brackets[0]);
        self.depth += 1;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.style.item);
            }
            self.line();
            write(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.line();
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn line(&mut self) {
        if let Some(indent) = self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent.min(64) * self.depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                _ if (character as u32) < 0x20 || (self.style.ensure_ascii && !character.is_ascii()) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                '\u{7f}' if self.style.ensure_ascii => self.out.push('\u{7f}'),
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }
}

/// Python's `repr` of a float: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() };
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (number, expected) in cases {
            assert_eq!(float(number), expected);
        }
    }
}
