//! Finds stop strings in a text that comes in pieces.
//!
//! The result does not depend on where the pieces are cut: the stop string that is complete first wins, the longest
//! of those that are complete at once.

/// Looks for stop strings; holds back what may be the beginning of one.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

/// What may be given out after a piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Text before any stop string.
    pub text: String,
    /// The stop string that was found; nothing after it is output.
    pub stop: Option<String>,
}

impl StopStrings {
    /// Looks for these; empty ones never match.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stops.is_empty() {
            return Released { text: piece.to_owned(), stop: None };
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|start| (start, stop)));
        if let Some((start, stop)) = found.min_by_key(|(start, stop)| (start + stop.len(), *start)) {
            let stop = stop.clone();
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stop: Some(stop) };
        }
        let rest = self.held.split_off(self.held.len() - self.undecided_len());
        Released { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// Gives out what was held back: the text has ended.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the longest end of the held text that begins a stop string.
    fn undecided_len(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest)
                .rev()
                .find(|len| self.held.as_bytes().ends_with(&stop.as_bytes()[..*len]) && stop.is_char_boundary(*len))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_cuts(text: &str, stops: &[&str], expected: &str, expected_stop: Option<&str>) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let chars: Vec<char> = text.chars().collect();
        for cuts in 0_u32..1 << (chars.len() - 1) {
            let mut matcher = StopStrings::new(&stops);
            let (mut output, mut piece, mut stop) = (String::new(), String::new(), None);
            for (index, character) in chars.iter().enumerate() {
                piece.push(*character);
                let is_cut = index + 1 == chars.len() || cuts & (1 << index) != 0;
                if is_cut && stop.is_none() {
                    let released = matcher.push(&std::mem::take(&mut piece));
                    output.push_str(&released.text);
                    stop = released.stop;
                }
            }
            if stop.is_none() {
                output.push_str(&matcher.finish());
            }
            assert_eq!((output.as_str(), stop.as_deref()), (expected, expected_stop), "cuts {cuts:b}");
        }
    }

    #[test]
    fn a_stop_string_is_found_across_any_cuts() {
        all_cuts("one\n\ntwo", &["\n\n"], "one", Some("\n\n"));
        all_cuts("aab aac", &["aac"], "aab ", Some("aac"));
        all_cuts("aaaab", &["aab"], "aa", Some("aab"));
    }

    #[test]
    fn what_only_looks_like_one_is_given_out() {
        all_cuts("User", &["Users:"], "User", None);
        all_cuts("ababab", &["abac"], "ababab", None);
    }

    #[test]
    fn the_one_that_is_complete_first_wins() {
        all_cuts("xabcd", &["abcd", "bc"], "xa", Some("bc"));
        all_cuts("xabc", &["bc", "abc"], "x", Some("abc"));
    }

    #[test]
    fn characters_of_several_bytes_are_never_cut() {
        all_cuts("né à é", &["à é"], "né ", Some("à é"));
        all_cuts("né à e", &["à é"], "né à e", None);
    }

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_stop_string() {
        let mut matcher = StopStrings::new(&["STOP".to_owned()]);
        assert_eq!(matcher.push("go ST").text, "go ");
        assert_eq!(matcher.push("AY").text, "STAY");
        assert_eq!(matcher.push("ST").text, "");
        assert_eq!(matcher.finish(), "ST");
    }
}
