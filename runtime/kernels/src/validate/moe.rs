//! Checks of routers and experts.

use super::{differ, ensure, has_rows, has_shape, same_shape, width};
use crate::{ExpertWeights, Op, Plan, Rows};

pub(super) fn check(plan: &Plan, op: &Op) -> Result<(), String> {
    match *op {
        Op::MoeRoute { logits, rule: _, top_k, output } => {
            differ(logits, output)?;
            same_shape(plan, logits, output)?;
            has_rows(plan, logits, Rows::Tokens)?;
            chosen(top_k, width(plan, logits)?)
        }
        Op::MoeExperts { input, routes, experts, activation: _, top_k, output } => {
            differ(input, output)?;
            differ(routes, output)?;
            same_shape(plan, input, output)?;
            has_rows(plan, input, Rows::Tokens)?;
            has_rows(plan, routes, Rows::Tokens)?;
            let (num_experts, hidden) = (width(plan, routes)?, width(plan, input)?);
            chosen(top_k, num_experts)?;
            let ExpertWeights { gate, up, down, gate_bias, up_bias, down_bias } = experts;
            let shape = &plan.weights.get(gate.0).ok_or("there is no weight of gates")?.shape;
            let &[_, inner, _] = shape.as_slice() else {
                return Err(format!("the experts' gate has shape {shape:?}, expected three dimensions"));
            };
            has_shape(plan, gate, &[num_experts, inner, hidden])?;
            has_shape(plan, up, &[num_experts, inner, hidden])?;
            has_shape(plan, down, &[num_experts, hidden, inner])?;
            for (bias, size) in [(gate_bias, inner), (up_bias, inner), (down_bias, hidden)] {
                bias.map_or(Ok(()), |bias| has_shape(plan, bias, &[num_experts, size]))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn chosen(top_k: usize, num_experts: usize) -> Result<(), String> {
    ensure(top_k > 0 && top_k <= num_experts, || format!("{top_k} of {num_experts} experts are to be chosen"))
}
