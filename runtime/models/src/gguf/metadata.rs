//! The key-value pairs of a GGUF file.

use std::collections::HashMap;

use super::GgufError;
use super::cursor::Cursor;

/// Key length, type, and the smallest value (one byte).
pub(super) const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;

/// The format's own limit on keys.
const MAX_KEY_BYTES: u64 = 65_535;
/// Chat templates are the longest single texts; known ones stay below 32 KiB.
const MAX_STRING_BYTES: u64 = 16 * 1024 * 1024;
/// Pairs in one file; known files have fewer than a hundred.
const MAX_PAIRS: u64 = 65_536;
/// Elements in all arrays; a vocabulary of 262,144 with scores, types and merges has about 1.3 million.
const MAX_ARRAY_ELEMENTS: u64 = 8 * 1024 * 1024;

/// One metadata value; numbers are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32, f64.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// Elements of one type.
    Array(Array),
}

/// An array; arrays of arrays are refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Of any integer type.
    Integers(Vec<i64>),
    /// Of f32 or f64.
    Floats(Vec<f64>),
    /// Of booleans.
    Bools(Vec<bool>),
    /// Of texts.
    Strings(Vec<String>),
}

/// All pairs of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    pairs: HashMap<String, Value>,
}

impl Metadata {
    pub(super) fn read(cursor: &mut Cursor<'_>, num_pairs: u64) -> Result<Self, GgufError> {
        cursor.at_most("the number of metadata pairs", num_pairs, MAX_PAIRS)?;
        let mut pairs = HashMap::new();
        let mut elements_left = MAX_ARRAY_ELEMENTS;
        for index in 0..num_pairs {
            let key = cursor.string(&format!("the key of metadata pair {index}"), MAX_KEY_BYTES)?;
            let value = read_value(cursor, &key, &mut elements_left)?;
            if pairs.contains_key(&key) {
                return Err(problem(cursor, &key, "the key appears twice".to_owned()));
            }
            pairs.insert(key, value);
        }
        Ok(Self { pairs })
    }

    /// The value of `key`, of whatever kind.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// All pairs, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A text, or `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::Key`] if the value is of another kind; so for the other getters.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A number that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an unsigned integer", |value| match value {
            Value::Unsigned(number) => Some(*number),
            Value::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A number that may have a fraction.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Unsigned(number) => Some(*number as f64),
            Value::Signed(number) => Some(*number as f64),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An array of texts.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of integers.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Array(Array::Integers(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A list of numbers that may have fractions.
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, GgufError> {
        self.typed(key, "a list of floats", |value| match value {
            Value::Array(Array::Floats(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.pairs.get(key) else { return Ok(None) };
        let wrong = || GgufError::Key { key: key.to_owned(), problem: format!("is not {kind}") };
        convert(value).ok_or_else(wrong).map(Some)
    }
}

fn problem(cursor: &Cursor<'_>, key: &str, problem: String) -> GgufError {
    GgufError::Metadata { key: key.to_owned(), offset: cursor.offset(), problem }
}

const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

fn read_value(cursor: &mut Cursor<'_>, key: &str, elements_left: &mut u64) -> Result<Value, GgufError> {
    let what = format!("the value of {key}");
    let kind = cursor.u32(&format!("the type of {key}"))?;
    match kind {
        TYPE_STRING => Ok(Value::String(cursor.string(&what, MAX_STRING_BYTES)?)),
        TYPE_ARRAY => read_array(cursor, key, elements_left).map(Value::Array),
        _ => read_scalar(cursor, key, &what, kind),
    }
}

fn read_scalar(cursor: &mut Cursor<'_>, key: &str, what: &str, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(cursor.array(what)?).into()),
        1 => Value::Signed(i8::from_le_bytes(cursor.array(what)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(cursor.array(what)?).into()),
        3 => Value::Signed(i16::from_le_bytes(cursor.array(what)?).into()),
        4 => Value::Unsigned(cursor.u32(what)?.into()),
        5 => Value::Signed(i32::from_le_bytes(cursor.array(what)?).into()),
        6 => Value::Float(f32::from_le_bytes(cursor.array(what)?).into()),
        7 => match u8::from_le_bytes(cursor.array(what)?) {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            byte => return Err(problem(cursor, key, format!("the boolean is {byte}, not 0 or 1"))),
        },
        10 => Value::Unsigned(cursor.u64(what)?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array(what)?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array(what)?)),
        _ => return Err(problem(cursor, key, format!("the value type {kind} does not exist"))),
    })
}

/// Bytes of one element in the file, for strings the length alone.
fn min_element_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        TYPE_STRING | 10..=12 => Some(8),
        _ => None,
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, elements_left: &mut u64) -> Result<Array, GgufError> {
    let kind = cursor.u32(&format!("the element type of {key}"))?;
    if kind == TYPE_ARRAY {
        return Err(problem(cursor, key, "arrays of arrays are not supported".to_owned()));
    }
    let Some(element_bytes) = min_element_bytes(kind) else {
        return Err(problem(cursor, key, format!("the element type {kind} does not exist")));
    };
    let what = format!("the length of array {key}");
    let length = cursor.u64(&what)?;
    cursor.plausible(&what, length, element_bytes)?;
    cursor.at_most("the elements of all arrays", length, *elements_left)?;
    *elements_left -= length;
    if kind == TYPE_STRING {
        let what = format!("an element of {key}");
        let texts: Result<_, _> = (0..length).map(|_| cursor.string(&what, MAX_STRING_BYTES)).collect();
        return texts.map(Array::Strings);
    }
    read_scalars(cursor, key, kind, length)
}

fn read_scalars(cursor: &mut Cursor<'_>, key: &str, kind: u32, length: u64) -> Result<Array, GgufError> {
    let what = format!("an element of {key}");
    let mut integers = Vec::new();
    let mut floats = Vec::new();
    let mut bools = Vec::new();
    for _ in 0..length {
        match read_scalar(cursor, key, &what, kind)? {
            Value::Unsigned(number) => integers.push(i64::try_from(number).map_err(|_| {
                problem(cursor, key, format!("the element {number} does not fit a signed 64-bit integer"))
            })?),
            Value::Signed(number) => integers.push(number),
            Value::Float(number) => floats.push(number),
            Value::Bool(flag) => bools.push(flag),
            Value::String(_) | Value::Array(_) => {}
        }
    }
    Ok(match kind {
        6 | 12 => Array::Floats(floats),
        7 => Array::Bools(bools),
        _ => Array::Integers(integers),
    })
}
