//! Translates the engine's plan of a step into the backend's words.

use kindling_engine::{BlockId, StepPlan};
use kindling_kernels::{SlotCopy, Step, StepSequence};

/// The step that a plan asks for.
pub fn to_step(plan: &StepPlan) -> Step {
    let mut step = Step { token_ids: plan.token_ids.clone(), ..Step::default() };
    for planned in &plan.sequences {
        let (start, len) = (planned.query.start, planned.query.len());
        for position in planned.context_len..planned.context_len + len {
            let position = u32::try_from(position).expect("a position should fit 32 bits");
            step.positions.push([position; 3]);
        }
        let block_tables = planned.block_tables.iter().map(|table| table.iter().map(|BlockId(id)| *id).collect());
        step.sequences.push(StepSequence {
            query_start: start,
            query_len: len,
            context_len: planned.context_len,
            block_tables: block_tables.collect(),
        });
    }
    step.logit_indices = plan.logit_rows().map(|(_, token)| token).collect();
    step.copies_before = plan.copies_before.iter().map(to_copy).collect();
    step.copies_after = plan.copies_after.iter().map(to_copy).collect();
    step
}

fn to_copy(copy: &kindling_engine::SlotCopy) -> SlotCopy {
    let kindling_engine::SlotCopy { group, from: BlockId(from), to: BlockId(to) } = *copy;
    SlotCopy { group, from, to }
}
