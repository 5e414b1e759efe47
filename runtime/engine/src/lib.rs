//! Requests, scheduling, KV block ids and sampling.
//!
//! The engine decides which tokens of which sequences are computed next and in which KV blocks they live, and chooses
//! tokens from logits. It is pure: it knows no tokenizer, no backend, no HTTP and no clock, and the same calls give
//! the same results. `kindling-runtime` drives it.

pub mod block_hash;
pub mod block_pool;
pub mod block_table;
pub mod cache_groups;
pub mod config;
pub mod draft;
pub mod engine;
pub mod ids;
pub mod load;
pub mod random;
pub mod request;
pub mod sample;
pub mod sampling_params;
pub mod scheduler;
mod sequence;
pub mod step_plan;
pub mod token_counts;
pub mod token_mask;

pub use block_hash::{BlockHash, CacheScope};
pub use block_pool::{Block, BlockPool};
pub use block_table::BlockTable;
pub use cache_groups::{GroupConfig, GroupKind};
pub use config::{ConfigError, EngineConfig};
pub use draft::Speculation;
pub use engine::{Engine, Event};
pub use ids::{BlockId, RequestId, SequenceId, TokenId};
pub use load::{Counters, Load};
pub use request::{AddError, FinishReason, Request};
pub use sample::{Logprobs, SampleError, Sampled};
pub use sampling_params::SamplingParams;
pub use step_plan::{PlannedSequence, SlotCopy, StepPlan};
pub use token_counts::TokenCounts;
pub use token_mask::TokenMask;
