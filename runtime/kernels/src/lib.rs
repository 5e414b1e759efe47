//! Plans and the backends that execute them.
//!
//! A model is lowered once (by `kindling-models`) to a [`Plan`]: ops, buffers in one arena, weights by name,
//! cache groups. A [`Backend`] prepares a plan with its weights and then executes ragged [`Step`]s.
//! `reference` interprets the plan in plain f32 and is the numeric truth; `cpu` is the product; `cuda` is in a crate of its
//! own, `kindling-cuda`.
//!
//! This crate knows no request, no tokenizer, no file format. Beside `kindling-cuda` it is the only one that may hold `unsafe` code.

pub mod backend;
pub mod cpu;
pub mod dequantise;
pub mod dtype;
pub mod load;
pub mod made_up;
pub mod nvfp4;
pub mod plan;
pub mod reference;
mod resident;
mod room;
pub mod rotary_frequencies;
pub mod step;
pub mod validate;
pub mod weights;

pub use backend::{Backend, ExecuteError, KvType, Limits, LoadProgress, MemoryUse, PrepareError, PreparedModel};
pub use cpu::{CpuBackend, Isa};
pub use dtype::DType;
pub use plan::{
    Activation, BufferId, BufferSpec, CacheGroupId, CacheGroupKind, CacheGroupSpec, DeltaNetShape, ExpertWeights, Op,
    Plan, RopeScaling, RotaryId, RotarySpec, RotaryStyle, RouteRule, RowRange, Rows, WeightId, WeightSpec,
};
pub use reference::ReferenceBackend;
pub use resident::{give_back_free_heap, keep_large_blocks_apart};
pub use step::{EVICTED_BLOCK, SlotCopy, Step, StepError, StepSequence};
pub use weights::{TensorDesc, TensorScale, WeightError, WeightSource};
