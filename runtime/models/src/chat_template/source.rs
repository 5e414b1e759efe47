//! What is done to a template's source before it is compiled: line ends as Jinja sees them, and the `generation`
//! tag, with which training code marks what the assistant wrote and which rendering ignores.

/// Makes every line end a line feed, as Jinja does before anything else.
pub(super) fn normalise_line_ends(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Turns `{% generation %}` and `{% endgeneration %}` into a block that changes nothing but keeps the whitespace
/// rules of a tag.
pub(super) fn neutralise_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        match parse(tag) {
            Some(parsed) => {
                let Tag { open, word, close, length } = parsed;
                let replacement = if word == "generation" { "if true" } else { "endif" };
                out.push_str(&format!("{open} {replacement} {close}"));
                rest = &tag[length..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

struct Tag<'a> {
    open: &'a str,
    word: &'a str,
    close: &'a str,
    length: usize,
}

fn parse(tag: &str) -> Option<Tag<'_>> {
    let signed = |text: &str| usize::from(text.starts_with(['-', '+']));
    let open = &tag[..2 + signed(&tag[2..])];
    let inside = &tag[open.len()..];
    let (word, _) = inside.split_once("%}")?;
    let sign = usize::from(word.ends_with(['-', '+']));
    let length = open.len() + word.len() + 2;
    let close = &tag[length - 2 - sign..length];
    let word = word[..word.len() - sign].trim();
    matches!(word, "generation" | "endgeneration").then_some(Tag { open, word, close, length })
}

#[cfg(test)]
mod tests {
    use super::{neutralise_generation, normalise_line_ends};

    #[test]
    fn only_generation_tags_are_replaced() {
        assert_eq!(
            neutralise_generation("a{%- generation -%}b{% endgeneration +%}c"),
            "a{%- if true -%}b{% endif +%}c"
        );
        for untouched in ["", "{%", "{%-", "{% if generation %}x{% endif %}", "{{ generation }}", "{% generation"] {
            assert_eq!(neutralise_generation(untouched), untouched);
        }
    }

    #[test]
    fn line_ends_become_line_feeds() {
        assert_eq!(normalise_line_ends("a\r\nb\rc\n\r\n"), "a\nb\nc\n\n");
    }
}
