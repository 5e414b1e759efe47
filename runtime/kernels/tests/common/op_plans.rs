//! Plans of one op, for every backend's tests.

pub use kindling_kernels::made_up::plans::{NUM_HEADS, attention, attention_with, experts, linear, scaled_rotary};
use kindling_kernels::{Backend, Limits, Plan};

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
