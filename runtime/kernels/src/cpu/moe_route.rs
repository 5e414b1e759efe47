//! From a router's logits to the weights of experts.
#![allow(unsafe_code)]

use super::rows::RowsView;
use crate::RouteRule;

/// One row: `output` is 0 where an expert is not chosen. Ties go to the lower index.
pub(super) fn moe_route(logits: RowsView<'_>, (rule, top_k): (RouteRule, usize), output: RowsView<'_>, row: usize) {
    // SAFETY: logits are only read; this row of the output belongs to this task alone.
    let (logits, weights) = unsafe { (logits.rows(row..row + 1), output.row_mut(row)) };
    weights.fill(0.0);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total: f32 = match rule {
        RouteRule::SoftmaxTopK { .. } => logits.iter().map(|logit| (logit - highest).exp()).sum(),
        RouteRule::TopKSoftmax => 0.0,
    };
    let mut chosen_total = 0.0;
    // Marked by a negative weight until it is known.
    for _ in 0..top_k {
        let open = logits.iter().enumerate().filter(|(expert, _)| weights[*expert] == 0.0);
        let best = open.reduce(|best, next| if next.1.total_cmp(best.1).is_gt() { next } else { best });
        let Some((expert, logit)) = best else { break };
        weights[expert] = -1.0;
        chosen_total += (logit - highest).exp();
    }
    if matches!(rule, RouteRule::TopKSoftmax | RouteRule::SoftmaxTopK { normalise: true }) {
        total = chosen_total;
    }
    for (weight, logit) in weights.iter_mut().zip(logits) {
        if *weight < 0.0 {
            *weight = (logit - highest).exp() / total;
        }
    }
}
