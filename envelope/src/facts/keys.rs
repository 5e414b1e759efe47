//! Figures of a description, by name.

use serde_json::{Map, Value};

use super::DescribeError;

/// Layers in one model; the deepest known has a few hundred.
const MAX_LAYERS: u64 = 4096;
/// Any other figure: heads, elements, tokens.
const MAX_FIGURE: u64 = 1 << 40;

/// The keys of one description, all with the same beginning.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub map: &'a Map<String, Value>,
    /// Where `map` lies or how its keys begin, with a dot at its end; or nothing.
    pub place: &'a str,
    /// Whether keys in `map` begin so themselves.
    pub is_prefix: bool,
    pub architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// The value of a key, unless it is absent or null.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        let full = if self.is_prefix { format!("{}{key}", self.place) } else { key.to_owned() };
        self.map.get(&full).filter(|value| !value.is_null())
    }

    /// A number, if there is one.
    pub fn optional(&self, key: &str) -> Result<Option<u64>, DescribeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        self.number(key, value).map(Some)
    }

    /// A number.
    pub fn required(&self, key: &str) -> Result<u64, DescribeError> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    /// How many layers there are.
    pub fn layers(&self, key: &str) -> Result<u64, DescribeError> {
        let found = self.required(key)?;
        if found > MAX_LAYERS {
            return Err(self.out_of_range(key, &found.to_string(), format!("at most {MAX_LAYERS} are possible")));
        }
        Ok(found)
    }

    /// A number for each layer: as a list, or one for all.
    pub fn by_layer(&self, key: &str, layers: u64) -> Result<Option<Vec<u64>>, DescribeError> {
        match self.value(key) {
            Some(Value::Array(values)) => {
                self.check_length(key, values.len(), layers)?;
                values.iter().map(|value| self.number(key, value)).collect::<Result<_, _>>().map(Some)
            }
            _ => Ok(self.optional(key)?.map(|number| vec![number; layers as usize])),
        }
    }

    /// A list of `layers` entries, if there is one.
    pub fn list(&self, key: &str, layers: u64) -> Result<Option<&'a [Value]>, DescribeError> {
        let Some(Value::Array(values)) = self.value(key) else { return Ok(None) };
        self.check_length(key, values.len(), layers)?;
        Ok(Some(values))
    }

    fn check_length(&self, key: &str, found: usize, layers: u64) -> Result<(), DescribeError> {
        if found as u64 == layers {
            return Ok(());
        }
        Err(self.out_of_range(key, &format!("a list of {found}"), format!("there are {layers} layers")))
    }

    fn number(&self, key: &str, value: &Value) -> Result<u64, DescribeError> {
        let number = value.as_u64().ok_or_else(|| self.missing(key))?;
        if number > MAX_FIGURE {
            return Err(self.out_of_range(key, &number.to_string(), format!("at most {MAX_FIGURE} is possible")));
        }
        Ok(number)
    }

    pub fn missing(&self, key: &str) -> DescribeError {
        let (key, architecture) = (format!("{}{key}", self.place), self.architecture.to_owned());
        DescribeError::Missing { key, architecture }
    }

    pub fn out_of_range(&self, key: &str, found: &str, expected: String) -> DescribeError {
        let (key, architecture) = (format!("{}{key}", self.place), self.architecture.to_owned());
        DescribeError::OutOfRange { key, architecture, found: found.to_owned(), expected }
    }
}
