//! What an engine may use, and what it must know of the model.

use crate::cache_groups::{Geometry, GroupConfig, GroupKind};
use crate::{Speculation, TokenId};

/// What the engine may use, and what it must know of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Cache groups of the model, at least 1.
    pub groups: Vec<GroupConfig>,
    /// Tokens per KV block.
    pub block_size: usize,
    /// Tokens that a sequence may have; the blocks may allow less.
    pub max_context: usize,
    /// Sequences that may hold blocks at a time.
    pub max_running: usize,
    /// Sequences that may wait.
    pub max_waiting: usize,
    /// Tokens per step.
    pub max_batched_tokens: usize,
    /// Steps of waiting that make up for one level of priority. 0 ignores priorities.
    pub aging_steps: u32,
    /// Whether sequences may begin with what others have computed.
    pub prefix_cache: bool,
    /// Guesses tokens ahead, if set.
    pub speculation: Option<Speculation>,
    /// Threads that may choose a step's tokens, the caller's included.
    pub sampling_threads: usize,
    /// Tokens that end a sequence unless its request ignores them.
    pub eos_token_ids: Vec<TokenId>,
}

/// Why an engine cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A figure that must be at least 1 is not.
    #[error("{what} must be at least 1")]
    Zero {
        /// Which figure.
        what: &'static str,
    },
    /// Wrong guesses cannot be taken back from a state.
    #[error(
        "speculation is not possible with this model: it has recurrent layers, whose state cannot be taken back after \
         a wrong guess"
    )]
    SpeculationWithRecurrentGroup,
}

impl EngineConfig {
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry { block_size: self.block_size, max_batched_tokens: self.max_batched_tokens }
    }

    /// Checks what would otherwise be found out late.
    ///
    /// # Errors
    /// [`ConfigError`] naming the figure.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fewest_blocks = self.groups.iter().map(|group| group.num_blocks).min();
        for (what, figure) in [
            ("number of cache groups", self.groups.len()),
            ("number of blocks of each cache group", fewest_blocks.unwrap_or(1) as usize),
            ("block size", self.block_size),
            ("max context", self.max_context),
            ("max running", self.max_running),
            ("max batched tokens", self.max_batched_tokens),
            ("sampling threads", self.sampling_threads),
            ("min match of speculation", self.speculation.map_or(1, |speculation| speculation.min_match)),
            ("max draft tokens of speculation", self.speculation.map_or(1, |speculation| speculation.max_draft_tokens)),
        ] {
            if figure == 0 {
                return Err(ConfigError::Zero { what });
            }
        }
        let has_recurrent = self.groups.iter().any(|group| group.kind == GroupKind::Recurrent);
        if has_recurrent && self.speculation.is_some() {
            return Err(ConfigError::SpeculationWithRecurrentGroup);
        }
        Ok(())
    }

    /// Tokens that one sequence can have if all blocks are its own.
    pub fn possible_context(&self) -> usize {
        let possible = self.groups.iter().map(|group| {
            let num_blocks = group.num_blocks as usize;
            match group.kind {
                GroupKind::Recurrent => usize::MAX,
                GroupKind::Window { window } if num_blocks >= self.geometry().window_blocks(window) => usize::MAX,
                GroupKind::Window { .. } | GroupKind::Full => num_blocks.saturating_mul(self.block_size),
            }
        });
        possible.chain([self.max_context]).min().unwrap_or(self.max_context)
    }
}
