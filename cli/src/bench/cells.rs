//! Which contexts and numbers of streams are measured: what fits the model, the memory and the clock. Pure.

use anyhow::bail;
use serde::Serialize;

/// Measured unasked, as far as the model allows.
const DEFAULT_CONTEXTS: [usize; 4] = [512, 2048, 8192, 32_768];
/// The prefix that two agents share unasked, in tokens.
const DEFAULT_SHARED_PREFIX: usize = 10_000;
/// What an agent's own part of the prompt and its answer may take beside the shared prefix.
const AGENT_ROOM: usize = 128;

/// What was asked for on the command line.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Tokens of the prompts; `None` takes the defaults that fit.
    pub contexts: Option<Vec<usize>>,
    /// Streams at a time.
    pub concurrency: Vec<usize>,
    /// Tokens to decode per stream while all are decoding.
    pub generate: usize,
    /// Tokens of the shared prefix; `None` takes the default or what fits, 0 leaves it out.
    pub shared_prefix: Option<usize>,
    /// Tokens per step of our engine.
    pub max_batched_tokens: usize,
    /// Tokens that the KV cache may hold.
    pub max_cached_tokens: usize,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Tokens of each prompt.
    pub context: usize,
    /// Streams at a time.
    pub concurrency: usize,
    /// Tokens that each stream generates: enough that the first one still decodes when the last one begins.
    pub max_tokens: usize,
}

/// A row that is not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Tokens of each prompt.
    pub context: usize,
    /// Streams at a time.
    pub concurrency: usize,
    /// Why not.
    pub reason: String,
}

/// All that is to be measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// From the quickest to the slowest.
    pub cells: Vec<Cell>,
    /// What does not fit.
    pub skipped: Vec<Skipped>,
    /// Tokens of the shared prefix.
    pub shared_prefix: Option<usize>,
}

impl Cell {
    /// Positions of the KV cache that it needs, over all streams.
    pub fn cached_tokens(&self) -> usize {
        self.concurrency * (self.context + self.max_tokens).next_multiple_of(16)
    }
}

impl Plan {
    /// Longest sequence.
    pub fn context_length(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.context + cell.max_tokens);
        cells.chain(self.shared_prefix.map(|prefix| prefix + AGENT_ROOM)).max().unwrap_or(0)
    }

    /// Tokens that the KV cache must hold.
    pub fn cached_tokens(&self) -> usize {
        let agents = self.shared_prefix.map(|prefix| 2 * (prefix + AGENT_ROOM).next_multiple_of(16));
        self.cells.iter().map(Cell::cached_tokens).chain(agents).max().unwrap_or(0)
    }

    /// Most streams at a time.
    pub fn max_concurrency(&self) -> usize {
        self.cells.iter().map(|cell| cell.concurrency).max().unwrap_or(1)
    }
}

impl Asked {
    /// What of it can be measured on a model of this context.
    ///
    /// # Errors
    /// Names what was asked for and cannot be.
    pub fn plan(&self, model_context: usize) -> anyhow::Result<Plan> {
        let contexts = match &self.contexts {
            Some(contexts) => contexts.clone(),
            None => self.default_contexts(model_context),
        };
        let mut plan = Plan::default();
        for context in contexts {
            for concurrency in self.concurrency.iter().copied() {
                let cell = Cell { context, concurrency, max_tokens: self.max_tokens(context, concurrency) };
                if cell.cached_tokens() > self.max_cached_tokens {
                    let (need, have) = (cell.cached_tokens(), self.max_cached_tokens);
                    let reason = format!("it needs {need} tokens in the KV cache, --max-cached-tokens allows {have}");
                    plan.skipped.push(Skipped { context, concurrency, reason });
                } else if context + cell.max_tokens > model_context {
                    bail!(
                        "a prompt of {context} tokens and {} generated ones (with {concurrency} streams) do not fit \
                         the model's context of {model_context} tokens",
                        cell.max_tokens
                    );
                } else {
                    plan.cells.push(cell);
                }
            }
        }
        plan.cells.sort_by_key(|cell| cell.context * cell.concurrency);
        plan.shared_prefix = self.shared_prefix(model_context)?;
        if plan.cells.is_empty() && plan.shared_prefix.is_none() {
            bail!("nothing to measure fits: the model's context is {model_context} tokens");
        }
        Ok(plan)
    }

    /// The defaults that fit; the first one that does not is replaced by the largest that does.
    fn default_contexts(&self, model_context: usize) -> Vec<usize> {
        let mut contexts = Vec::new();
        for context in DEFAULT_CONTEXTS {
            let fits_cache = |streams: &&usize| **streams * context <= self.max_cached_tokens;
            let streams = self.concurrency.iter().filter(fits_cache).max().copied().unwrap_or(1);
            let room = model_context.saturating_sub(self.max_tokens(context, streams));
            if room < context {
                if room > contexts.last().copied().unwrap_or(0) {
                    contexts.push(room);
                }
                break;
            }
            contexts.push(context);
        }
        contexts
    }

    /// While other streams' prompts are computed, the first ones decode already, a token per step.
    fn max_tokens(&self, context: usize, concurrency: usize) -> usize {
        if concurrency == 1 {
            return self.generate;
        }
        let per_step = self.max_batched_tokens.saturating_sub(concurrency).max(1);
        self.generate + (concurrency * context).div_ceil(per_step)
    }

    fn shared_prefix(&self, model_context: usize) -> anyhow::Result<Option<usize>> {
        let room = model_context.min(self.max_cached_tokens / 2).saturating_sub(AGENT_ROOM);
        match self.shared_prefix {
            Some(0) => Ok(None),
            Some(asked) if asked > room => bail!(
                "a shared prefix of {asked} tokens and {AGENT_ROOM} for each agent do not fit: the model's context is \
                 {model_context} tokens and two agents may hold {} in the KV cache (--max-cached-tokens)",
                self.max_cached_tokens
            ),
            Some(asked) => Ok(Some(asked)),
            None => Ok(Some(DEFAULT_SHARED_PREFIX.min(room)).filter(|prefix| *prefix > 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            contexts: None,
            concurrency: vec![1, 4, 16],
            generate: 64,
            shared_prefix: None,
            max_batched_tokens: 512,
            max_cached_tokens: 65_536,
        }
    }

    fn shapes(plan: &Plan) -> Vec<(usize, usize)> {
        plan.cells.iter().map(|cell| (cell.context, cell.concurrency)).collect()
    }

    #[test]
    fn the_default_contexts_end_with_the_largest_that_fits() {
        let plan = asked().plan(8192).unwrap();
        // 64 tokens, and 65 steps in which the prompts of four streams are computed.
        let largest = 8192 - 64 - 65;
        assert_eq!(
            shapes(&plan),
            [(512, 1), (512, 4), (2048, 1), (largest, 1), (512, 16), (2048, 4), (largest, 4), (2048, 16)]
        );
        assert_eq!(plan.shared_prefix, Some(8192 - AGENT_ROOM));
        assert!(plan.context_length() <= 8192 && plan.cached_tokens() <= 65_536);
        assert_eq!(plan.skipped.len(), 1, "sixteen of the largest: {:?}", plan.skipped);
        let plan = asked().plan(131_072).unwrap();
        assert_eq!(plan.cells.last().map(|cell| cell.context), Some(32_768));
        assert_eq!(plan.shared_prefix, Some(10_000));
    }

    #[test]
    fn the_first_stream_still_decodes_when_the_last_begins() {
        let plan = Asked { contexts: Some(vec![2048]), ..asked() }.plan(8192).unwrap();
        let of = |streams| plan.cells.iter().find(|cell| cell.concurrency == streams).unwrap().max_tokens;
        assert_eq!((of(1), of(16)), (64, 64 + (16 * 2048_usize).div_ceil(512 - 16)));
    }

    #[test]
    fn what_was_asked_for_and_does_not_fit_the_model_is_refused() {
        let said = Asked { contexts: Some(vec![512, 9000]), ..asked() }.plan(8192).unwrap_err().to_string();
        assert!(said.contains("9000 tokens") && said.contains("context of 8192"), "{said}");
        let said = Asked { shared_prefix: Some(8192), ..asked() }.plan(8192).unwrap_err().to_string();
        assert!(said.contains("shared prefix of 8192"), "{said}");
        let said = asked().plan(10).unwrap_err().to_string();
        assert!(said.contains("nothing to measure fits"), "{said}");
        assert_eq!(Asked { shared_prefix: Some(0), ..asked() }.plan(8192).unwrap().shared_prefix, None);
    }

    #[test]
    fn what_does_not_fit_the_memory_is_left_out_with_the_reason() {
        let plan = Asked { contexts: Some(vec![512]), max_cached_tokens: 1024, ..asked() }.plan(8192).unwrap();
        assert_eq!(shapes(&plan), [(512, 1)]);
        assert_eq!(plan.skipped.len(), 2);
        assert!(plan.skipped[0].reason.contains("--max-cached-tokens allows 1024"), "{:?}", plan.skipped);
    }
}
