//! Parts a chat answer into what the model thought and what it says.
//!
//! The result does not depend on where the pieces are cut. Line breaks right behind a mark belong to the mark.

use kindling_models::dialect::{THINK_END, THINK_START};

/// How the text of an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// All of it is content.
    #[default]
    Content,
    /// Reasoning may come first, with its mark.
    MayReason,
    /// The prompt ended with the mark: reasoning comes first.
    Reasons,
}

/// A piece of an answer, parted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// What the model thought.
    pub reasoning: String,
    /// What it says.
    pub content: String,
}

/// Parts the text of one answer as it grows.
#[derive(Debug, Clone)]
pub struct ReasoningSplit {
    state: State,
    /// What may be the beginning of a mark.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Undecided,
    BehindStart,
    Reasoning,
    BehindEnd,
    Content,
}

impl ReasoningSplit {
    /// Nothing yet.
    pub fn new(reading: Reading) -> Self {
        let state = match reading {
            Reading::Content => State::Content,
            Reading::MayReason => State::Undecided,
            Reading::Reasons => State::BehindStart,
        };
        Self { state, held: String::new() }
    }

    /// Whether the model is thinking now.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::BehindStart | State::Reasoning)
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Parts {
        self.held.push_str(piece);
        let mut parts = Parts::default();
        while self.goes_on(&mut parts) {}
        parts
    }

    /// Gives out what was held back: the answer has ended.
    pub fn finish(&mut self) -> Parts {
        let held = std::mem::take(&mut self.held);
        if self.is_reasoning() {
            return Parts { reasoning: held, ..Parts::default() };
        }
        Parts { content: held, ..Parts::default() }
    }

    /// One change of state; false if more text is needed.
    fn goes_on(&mut self, parts: &mut Parts) -> bool {
        match self.state {
            State::Undecided => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(THINK_START) {
                    self.held = rest.to_owned();
                    self.state = State::BehindStart;
                    return true;
                }
                let is_open = THINK_START.starts_with(text);
                if !is_open {
                    self.state = State::Content;
                }
                !is_open
            }
            State::BehindStart => self.skips_line_breaks(State::Reasoning),
            State::BehindEnd => self.skips_line_breaks(State::Content),
            State::Reasoning => match self.held.split_once(THINK_END) {
                Some((reasoning, rest)) => {
                    parts.reasoning.push_str(reasoning);
                    self.held = rest.to_owned();
                    self.state = State::BehindEnd;
                    true
                }
                None => {
                    let begins = |len: &usize| self.held.ends_with(&THINK_END[..*len]);
                    let undecided = (1..THINK_END.len()).rev().find(begins).unwrap_or(0);
                    let rest = self.held.split_off(self.held.len() - undecided);
                    parts.reasoning.push_str(&std::mem::replace(&mut self.held, rest));
                    false
                }
            },
            State::Content => {
                parts.content.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    fn skips_line_breaks(&mut self, next: State) -> bool {
        self.held = self.held.trim_start_matches('\n').to_owned();
        let has_text = !self.held.is_empty();
        if has_text {
            self.state = next;
        }
        has_text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut at every place into two, and into single characters: always the same.
    fn parted(reading: Reading, text: &str) -> (String, String) {
        let run = |pieces: &[&str]| {
            let mut split = ReasoningSplit::new(reading);
            let mut all = Parts::default();
            let pieces = pieces.iter().map(|piece| split.push(piece)).collect::<Vec<_>>();
            for parts in pieces.into_iter().chain([split.finish()]) {
                all.reasoning += &parts.reasoning;
                all.content += &parts.content;
            }
            (all.reasoning, all.content)
        };
        let whole = run(&[text]);
        for place in (0..text.len()).filter(|place| text.is_char_boundary(*place)) {
            assert_eq!(run(&[&text[..place], &text[place..]]), whole, "{text:?} cut at {place}");
        }
        let characters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(run(&characters.iter().map(String::as_str).collect::<Vec<_>>()), whole, "{text:?} by characters");
        whole
    }

    #[test]
    fn reasoning_comes_first_or_not_at_all() {
        let cases = [
            (Reading::MayReason, "<think>\nhm, 1 < 2\n</think>\n\nYes", "hm, 1 < 2\n", "Yes"),
            (Reading::MayReason, "\n <think>a</think>b", "a", "b"),
            (Reading::MayReason, "<think>\n\n</think>\n\nb", "", "b"),
            (Reading::MayReason, "Yes <think>x</think>", "", "Yes <think>x</think>"),
            (Reading::MayReason, "  <thin air", "", "  <thin air"),
            (Reading::MayReason, "  <thi", "", "  <thi"),
            (Reading::MayReason, "<think>never ends </thin", "never ends </thin", ""),
            (Reading::Reasons, "\nso\n</think>\nö", "so\n", "ö"),
            (Reading::Reasons, "a</th</think>b</think>", "a</th", "b</think>"),
            (Reading::Reasons, "</think>", "", ""),
            (Reading::Content, "<think>a</think>", "", "<think>a</think>"),
            (Reading::MayReason, "", "", ""),
        ];
        for (reading, text, reasoning, content) in cases {
            assert_eq!(parted(reading, text), (reasoning.to_owned(), content.to_owned()), "{reading:?} {text:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_mark_is_given_out_at_once() {
        let mut split = ReasoningSplit::new(Reading::MayReason);
        assert_eq!(split.push("<think>"), Parts::default());
        assert!(split.is_reasoning());
        assert_eq!(split.push("a <").reasoning, "a ");
        assert_eq!(split.push("b").reasoning, "<b");
        assert_eq!(split.push("</think>c").content, "c");
        assert!(!split.is_reasoning());
    }
}
