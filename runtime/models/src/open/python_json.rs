//! JSON as Python writes it: `Infinity`, `-Infinity` and `NaN` stand for numbers that JSON has not.

/// The same text with `null` in their place, or `None` if there are none outside of strings.
///
/// Published `config.json` files have them, Nemotron-H's `time_step_limit` for example; no key that is used here does.
pub(super) fn without_odd_numbers(bytes: &[u8]) -> Option<Vec<u8>> {
    const ODD: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut out, mut at, mut in_string, mut found) = (Vec::with_capacity(bytes.len()), 0, false, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let odd = ODD.iter().find(|odd| !in_string && rest.starts_with(odd));
        let taken = match (odd, rest[0]) {
            (Some(odd), _) => {
                out.extend_from_slice(b"null");
                found = true;
                at += odd.len();
                continue;
            }
            (None, b'\\') if in_string => 2.min(rest.len()),
            (None, byte) => {
                in_string ^= byte == b'"';
                1
            }
        };
        out.extend_from_slice(&rest[..taken]);
        at += taken;
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::without_odd_numbers;

    #[test]
    fn odd_numbers_become_null_and_texts_stay() {
        let text = br#"{"a": [0.0, Infinity, -Infinity, NaN], "NaN": "\"NaN\\", "b": "Infinity"}"#;
        let json: serde_json::Value = serde_json::from_slice(&without_odd_numbers(text).unwrap()).unwrap();
        let expected = serde_json::json!({ "a": [0.0, null, null, null], "NaN": "\"NaN\\", "b": "Infinity" });
        assert_eq!(json, expected);
        for plain in [&br#"{"a": "NaN"}"#[..], b"", b"\"\\", b"[1]"] {
            assert_eq!(without_odd_numbers(plain), None);
        }
    }
}
