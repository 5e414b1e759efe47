//! The pass over the plan: ops that share an input or a panel become one stage.
//!
//! - Linear layers one after another with the same input: one stage, the input is quantised once (query, key, value).
//! - Two of the same shape, then the gated activation of both: the activation follows panel by panel.
//! - One, then the addition of its output to another buffer: the addition follows panel by panel.
//!
//! Every buffer still gets what the plan says, so no op after it needs to know.

use crate::{Activation, BufferId, Op, Plan, WeightId};

/// What is computed between two meetings of the threads.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// Linear layers with one input.
    Linear {
        /// `[rows, in_features]`.
        input: BufferId,
        /// In the order of the plan.
        parts: Vec<LinearOp>,
        /// What follows.
        epilogue: StageEpilogue,
    },
    /// Any other op.
    Op(Op),
}

/// One linear layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LinearOp {
    /// `[out_features, in_features]`.
    pub weight: WeightId,
    /// `[out_features]`.
    pub bias: Option<WeightId>,
    /// `[rows, out_features]`.
    pub output: BufferId,
}

/// What a linear stage does with its results.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StageEpilogue {
    /// Nothing.
    None,
    /// Adds them to this buffer.
    Add(BufferId),
    /// Activates the first part and multiplies by the second, into this buffer.
    Gate(Activation, BufferId),
}

/// The stages of a valid plan.
pub(super) fn fuse(plan: &Plan) -> Vec<Stage> {
    let mut stages = Vec::new();
    for op in &plan.ops {
        if !stages.last_mut().is_some_and(|last| joins(plan, last, op)) {
            stages.push(stage(op));
        }
    }
    stages
}

fn stage(op: &Op) -> Stage {
    match *op {
        Op::Linear { input, weight, bias, output } => {
            let parts = vec![LinearOp { weight, bias, output }];
            Stage::Linear { input, parts, epilogue: StageEpilogue::None }
        }
        _ => Stage::Op(op.clone()),
    }
}

/// Adds `op` to `stage` if it can be done there.
fn joins(plan: &Plan, stage: &mut Stage, op: &Op) -> bool {
    let Stage::Linear { input, parts, epilogue } = stage else { return false };
    if *epilogue != StageEpilogue::None {
        return false;
    }
    match *op {
        Op::Linear { input: other, weight, bias, output } => {
            let fits = other == *input && output != *input && parts.iter().all(|part| part.output != output);
            if fits {
                parts.push(LinearOp { weight, bias, output });
            }
            fits
        }
        Op::GatedActivation { gate, up, activation, output } => {
            let fits = parts.len() == 2
                && parts[0].output == gate
                && parts[1].output == up
                && output != *input
                && plan.buffers[gate.0].width == plan.buffers[up.0].width;
            if fits {
                *epilogue = StageEpilogue::Gate(activation, output);
            }
            fits
        }
        Op::Add { input: added, output } => {
            let fits = parts.len() == 1 && parts[0].output == added && output != *input;
            if fits {
                *epilogue = StageEpilogue::Add(output);
            }
            fits
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
