//! Writes small valid inputs for the fuzzer to start from: the kind of form, how tokens are chosen, the form.
//!
//! Usage: `seeds CORPUS_FOLDER`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seeds CORPUS_FOLDER")?;
    let folder = Path::new(&folder).join("grammar");
    std::fs::create_dir_all(&folder)?;
    for (kind, forms) in (0_u8..).zip([SCHEMAS, REGEXES, CHOICES, GRAMMARS]) {
        for (number, form) in (0_u8..).zip(forms) {
            let bytes = [&[kind, 7 * number], form.as_bytes()].concat();
            std::fs::write(folder.join(format!("{kind}-{number}")), bytes)?;
        }
    }
    Ok(())
}

const SCHEMAS: &[&str] = &[
    "{}",
    "true",
    r#"{"type":"object","properties":{"a":{"type":"integer","minimum":-5,"maximum":100},"b":{"type":"boolean"}},"required":["a"],"additionalProperties":false}"#,
    r##"{"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}}}},"$ref":"#/$defs/n"}"##,
    r#"{"type":"array","items":{"type":"string","maxLength":4,"pattern":"^[a-z]+$"},"minItems":1,"maxItems":3}"#,
    r#"{"anyOf":[{"type":"null"},{"const":"x"},{"enum":[1,"two",[3]]},{"type":"number","multipleOf":0.5}]}"#,
    r#"{"allOf":[{"type":"string","format":"date-time"},{"minLength":3}]}"#,
    r#"{"oneOf":[{"type":"object","patternProperties":{"^x":{"type":"integer"}}},{"prefixItems":[{},{"type":"null"}]}]}"#,
    r#"{"type":["string","null"],"x-guidance":{"whitespace_flexible":false,"item_separator":", "}}"#,
];

const REGEXES: &[&str] = &["[0-9]{3}-\\w+", "(a|b)*abb", "\\p{L}+é.?", "((x{1,9}){1,9}y)*", "[^\"\\\\]{0,20}/\n"];

const CHOICES: &[&str] = &["yes\nno", "a\nab\nabc\n", "\u{1f600}\n\"quoted\""];

const GRAMMARS: &[&str] = &[
    "start: sum\nsum: NUM | sum \"+\" NUM\nNUM: /[0-9]+/\n%ignore / +/",
    "start: \"(\" start \")\" | \"o\"i",
    "start: item{2,5} tail?\nitem: /[a-z]/ | %json {\"type\": \"integer\"}\ntail: <|im_end|>",
    "%llguidance {\"no_forcing\": true}\nstart: body[stop=\"END\", max_tokens=5]\nbody: /.*/",
    "start: A & B\nA: /[ab]+/\nB: /[bc]+/",
];
