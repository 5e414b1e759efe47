//! Plans of one op, for every backend's tests.

pub use kindling_kernels::made_up::plans::{NUM_HEADS, attention, attention_with, experts, linear, scaled_rotary};
use kindling_kernels::{Backend, EVICTED_BLOCK, Limits, Plan};

use super::{MemoryWeights, Part, prepare, step};

/// A sequence: its tokens and its blocks.
pub type Sequence<'a> = (&'a [u32], &'a [u32]);

/// Runs a sequence in steps of the given lengths; the rows of all steps one after another.
pub fn in_steps(
    backend: &dyn Backend,
    model: &(Plan, MemoryWeights),
    (tokens, blocks): Sequence<'_>,
    (cuts, limits): (&[usize], &Limits),
) -> Vec<f32> {
    let mut prepared = prepare(backend, &model.0, &model.1, limits);
    let (mut rows, mut logits, mut context_len) = (Vec::new(), Vec::new(), 0);
    for cut in cuts {
        let part = Part { tokens: &tokens[context_len..context_len + cut], context_len, blocks };
        prepared.execute(&step(&[part], 1), &mut logits).expect("the step should be valid");
        rows.extend_from_slice(&logits);
        context_len += cut;
    }
    rows
}

/// The same of 100 tokens and a window of 20, without the blocks that nobody sees any more.
pub fn with_evicted_blocks(
    backend: &dyn Backend,
    model: &(Plan, MemoryWeights),
    (tokens, blocks): Sequence<'_>,
    limits: &Limits,
) -> Vec<f32> {
    let mut prepared = prepare(backend, &model.0, &model.1, limits);
    let (mut rows, mut logits) = (Vec::new(), Vec::new());
    for (context_len, len) in [(0, 40), (40, 30), (70, 1), (71, 29)] {
        // 20 positions are seen, the token's own included.
        let unseen = (context_len + 1usize).saturating_sub(20) / limits.block_size;
        let mut blocks = blocks.to_vec();
        blocks[..unseen].fill(EVICTED_BLOCK);
        let part = Part { tokens: &tokens[context_len..context_len + len], context_len, blocks: &blocks };
        prepared.execute(&step(&[part], 1), &mut logits).expect("the step should be valid");
        rows.extend_from_slice(&logits);
    }
    rows
}
