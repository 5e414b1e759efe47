//! Translates the engine's plan of a step into the backend's words.

use kindling_engine::{BlockId, StepPlan};
use kindling_kernels::{Step, StepSequence};

/// The step that a plan asks for.
pub fn to_step(plan: &StepPlan) -> Step {
    let mut step = Step { token_ids: plan.token_ids.clone(), ..Step::default() };
    for planned in &plan.sequences {
        let (start, len) = (planned.query.start, planned.query.len());
        for position in planned.context_len..planned.context_len + len {
            let position = u32::try_from(position).expect("a position should fit 32 bits");
            step.positions.push([position; 3]);
        }
        if planned.wants_logits {
            step.logit_indices.push(start + len - 1);
        }
        let block_tables = planned.block_tables.iter().map(|table| table.iter().map(|BlockId(id)| *id).collect());
        step.sequences.push(StepSequence {
            query_start: start,
            query_len: len,
            context_len: planned.context_len,
            block_tables: block_tables.collect(),
        });
    }
    step
}
