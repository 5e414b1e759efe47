//! Puts a script's tokens into the logits of a step: a pure function of prompt, completion and position, so that
//! preempted and batched requests say the same.

use std::collections::HashMap;
use std::time::Duration;

use kindling_engine::{PlannedSequence, Request, RequestId, StepPlan};
use kindling_models::Tokenizer;

use super::{Output, Piece, Script, ScriptError, Then};

/// A script in the words of one model, and who plays which part of it.
pub struct Player {
    rules: Vec<TokenRule>,
    playing: HashMap<RequestId, Part>,
}

struct TokenRule {
    when: Option<String>,
    outputs: Vec<TokenOutput>,
    /// Completions that have been given an output.
    num_given: usize,
}

struct TokenOutput {
    tokens: Vec<u32>,
    ending: Ending,
    before_first: Duration,
    before_others: Duration,
}

enum Ending {
    Token(u32),
    Repeat,
    Fail,
}

/// What one request plays: its completions take one output each, in turn.
struct Part {
    rule: usize,
    first_output: usize,
    prompt_len: usize,
}

impl Player {
    /// Makes the script's texts into tokens.
    ///
    /// # Errors
    /// [`ScriptError::Rule`] if a token is not in the vocabulary, or an output cannot end as it should.
    pub fn new(script: &Script, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self, ScriptError> {
        let mut rules = Vec::new();
        for (number, rule) in (1..).zip(&script.rules) {
            let compile = |output| token_output(output, tokenizer, vocab_size);
            let outputs = rule.outputs.iter().map(compile).collect::<Result<_, _>>();
            let outputs = outputs.map_err(|problem| ScriptError::Rule { rule: number, problem })?;
            rules.push(TokenRule { when: rule.when.clone(), outputs, num_given: 0 });
        }
        Ok(Self { rules, playing: HashMap::new() })
    }

    /// Gives a request its part, by its prompt.
    pub fn begin(&mut self, request: &Request, tokenizer: &Tokenizer) {
        let prompt = tokenizer.decode(&request.prompt, false);
        let fits = |rule: &TokenRule| rule.when.as_ref().is_none_or(|part| prompt.contains(part.as_str()));
        let rule = self.rules.iter().position(fits).expect("the last rule should fit every prompt");
        let first_output = self.rules[rule].num_given;
        self.rules[rule].num_given += request.num_sequences as usize;
        self.playing.insert(request.id, Part { rule, first_output, prompt_len: request.prompt.len() });
    }

    /// Forgets requests that have ended.
    pub fn retain(&mut self, is_live: impl Fn(RequestId) -> bool) {
        self.playing.retain(|id, _| is_live(*id));
    }

    /// How long the step takes: all in it go at the pace of the slowest, as in a real batch.
    pub fn pause(&self, plan: &StepPlan) -> Duration {
        let pauses = plan.wanting_logits().filter_map(|planned| {
            let (output, position) = self.find(planned)?;
            Some(if position == 0 { output.before_first } else { output.before_others })
        });
        pauses.max().unwrap_or_default()
    }

    /// Makes the script's token of each sequence the only likely one.
    ///
    /// # Shapes
    /// `logits`: `[num_logits, vocab_size]`, row-major, in the order of [`StepPlan::wanting_logits`].
    pub fn play(&self, plan: &StepPlan, logits: &mut [f32], vocab_size: usize) {
        for (planned, row) in plan.wanting_logits().zip(logits.chunks_exact_mut(vocab_size)) {
            let Some((output, position)) = self.find(planned) else { continue };
            match output.token(position) {
                // Infinite, so that no penalty, bias or temperature makes another token likelier.
                Some(token) => row[token as usize] = f32::INFINITY,
                // As a model that computes nonsense: the request fails, and no other.
                None => row.fill(f32::NAN),
            }
        }
    }

    fn find(&self, planned: &PlannedSequence) -> Option<(&TokenOutput, usize)> {
        let part = self.playing.get(&planned.id.request)?;
        let outputs = &self.rules[part.rule].outputs;
        let output = &outputs[(part.first_output + planned.id.index as usize) % outputs.len()];
        Some((output, planned.context_len + planned.query.len() - part.prompt_len))
    }
}

impl TokenOutput {
    /// The token at a position; `None` where the request fails.
    fn token(&self, position: usize) -> Option<u32> {
        match self.ending {
            Ending::Repeat => Some(self.tokens[position % self.tokens.len()]),
            Ending::Token(token) => Some(self.tokens.get(position).copied().unwrap_or(token)),
            Ending::Fail => self.tokens.get(position).copied(),
        }
    }
}

fn token_output(output: &Output, tokenizer: &Tokenizer, vocab_size: usize) -> Result<TokenOutput, String> {
    let mut tokens = Vec::new();
    for piece in &output.play {
        match piece {
            Piece::Token(token) if (*token as usize) < vocab_size => tokens.push(*token),
            Piece::Token(token) => return Err(format!("token {token}: the vocabulary has {vocab_size} tokens")),
            // Names of special tokens are special tokens: a model may say them.
            Piece::Text(text) => tokens.extend(tokenizer.encode(text, false, true).map_err(|error| error.to_string())?),
        }
    }
    let ending = match output.then {
        Then::Stop => {
            let token = tokenizer.end_of_generation().first().copied();
            Ending::Token(token.ok_or("this model has no end-of-sequence token, so `then: stop` is not possible")?)
        }
        Then::Repeat if tokens.is_empty() => return Err("there is nothing to repeat".to_owned()),
        Then::Repeat => Ending::Repeat,
        Then::Fail => Ending::Fail,
    };
    Ok(TokenOutput { tokens, ending, before_first: output.before_first, before_others: output.before_others })
}
