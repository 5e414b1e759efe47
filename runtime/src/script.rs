//! A scripted engine: what a model says is read from a file; everything around it is the real thing.
//!
//! For tests of what stands in front of a runtime, on outputs that a small model never makes. Tokenizer, scheduler, KV
//! blocks, stop strings, streaming, usage, metrics and aborts are those of any model; only the weights are not read, and
//! tokens are chosen by the script. The format is described in `docs/scripted-engine.md`.

mod backend;
mod player;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use backend::ScriptBackend;
pub use player::Player;

/// Longest pause that a script may ask for; a longer one is a mistake in its unit.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// What is said to which prompt: rules in order, the last one for every prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Part of the prompt, as the model reads it; `None` fits every prompt.
    when: Option<String>,
    /// Taken in turn, at least one.
    outputs: Vec<Output>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Output {
    play: Vec<Piece>,
    then: Then,
    before_first: Duration,
    before_others: Duration,
}

/// A part of an output; each is made into tokens by itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Piece {
    Token(u32),
    Text(String),
}

/// What comes after the last token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    /// The model's end-of-sequence token.
    #[default]
    Stop,
    /// The same again, until something else ends the completion.
    Repeat,
    /// The request fails.
    Fail,
}

/// Why a script cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The system refused the file.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not YAML of this form.
    #[error("parse the script: {0}")]
    Parse(#[from] serde_norway::Error),
    /// It contradicts itself or does not suit the model.
    #[error("rule {rule} of the script: {problem}")]
    Rule {
        /// Counted from 1.
        rule: usize,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleOnDisk {
    when: Option<String>,
    outputs: Vec<OutputOnDisk>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputOnDisk {
    play: OneOrMany,
    #[serde(default)]
    then: Then,
    first_token_ms: Option<f64>,
    token_ms: Option<f64>,
    tokens_per_second: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Piece),
    Many(Vec<Piece>),
}

impl Script {
    /// Reads a script from a YAML (or JSON) file.
    ///
    /// # Errors
    /// [`ScriptError`] naming the file, or the rule that is wrong.
    pub fn read(path: &Path) -> Result<Self, ScriptError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ScriptError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// From the text of such a file.
    ///
    /// # Errors
    /// As [`Script::read`].
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let on_disk: Vec<RuleOnDisk> = serde_norway::from_str(text)?;
        let last = on_disk.len();
        let mut rules = Vec::with_capacity(last);
        for (rule, RuleOnDisk { when, outputs }) in (1..).zip(on_disk) {
            let refuse = |problem: &str| Err(ScriptError::Rule { rule, problem: problem.to_owned() });
            if outputs.is_empty() {
                return refuse("it has no outputs");
            }
            if when.is_none() != (rule == last) {
                return refuse("the last rule, and no other, is without `when`: every prompt needs an answer");
            }
            let outputs = outputs.into_iter().map(|output| output.check(rule)).collect::<Result<_, _>>()?;
            rules.push(Rule { when, outputs });
        }
        if rules.is_empty() {
            return Err(ScriptError::Rule { rule: 1, problem: "it is missing".to_owned() });
        }
        Ok(Self { rules })
    }
}

impl OutputOnDisk {
    fn check(self, rule: usize) -> Result<Output, ScriptError> {
        let refuse = |problem: String| ScriptError::Rule { rule, problem };
        let Self { play, then, first_token_ms, token_ms, tokens_per_second } = self;
        let pause = |name: &str, seconds: f64| {
            let pause = Duration::try_from_secs_f64(seconds).ok().filter(|pause| *pause <= MAX_PAUSE);
            pause.ok_or_else(|| refuse(format!("{name} makes a pause of {seconds} s; from 0 to 600 s are possible")))
        };
        let before_others = match (token_ms, tokens_per_second) {
            (Some(_), Some(_)) => {
                return Err(refuse("token_ms and tokens_per_second say the same; one is enough".into()));
            }
            (Some(ms), None) => pause("token_ms", ms / 1e3)?,
            (None, Some(rate)) => pause("tokens_per_second", 1.0 / rate)?,
            (None, None) => Duration::ZERO,
        };
        let before_first = first_token_ms.map_or(Ok(before_others), |ms| pause("first_token_ms", ms / 1e3))?;
        let play = match play {
            OneOrMany::One(piece) => vec![piece],
            OneOrMany::Many(pieces) => pieces,
        };
        Ok(Output { play, then, before_first, before_others })
    }
}

#[cfg(test)]
mod tests;
