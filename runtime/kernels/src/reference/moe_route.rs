//! From a router's logits to the weights of experts.

use crate::RouteRule;

/// `logits`, `output`: `[num_tokens, num_experts]`; the experts that are not chosen get 0. Ties go to the lower index.
///
/// # Source
/// Softmax first: Hugging Face `transformers`, `Qwen3MoeTopKRouter`; softmax over the chosen: `GptOssTopKRouter`.
pub(super) fn moe_route(logits: &[f32], num_experts: usize, rule: RouteRule, top_k: usize, output: &mut [f32]) {
    for (logits, weights) in logits.chunks_exact(num_experts).zip(output.chunks_exact_mut(num_experts)) {
        let chosen = highest(logits, top_k);
        let highest = logits[chosen[0]];
        weights.fill(0.0);
        for expert in &chosen {
            weights[*expert] = (logits[*expert] - highest).exp();
        }
        let total: f32 = match rule {
            RouteRule::SoftmaxTopK { normalise: false } => logits.iter().map(|logit| (logit - highest).exp()).sum(),
            // Dividing by the sum of all first and by that of the chosen then is dividing by the latter.
            RouteRule::SoftmaxTopK { normalise: true } | RouteRule::TopKSoftmax => weights.iter().sum(),
        };
        weights.iter_mut().for_each(|weight| *weight /= total);
    }
}

/// Indices of the `top_k` greatest values, the greatest first.
fn highest(values: &[f32], top_k: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    indices.truncate(top_k);
    indices
}

#[cfg(test)]
mod tests {
    use super::moe_route;
    use crate::RouteRule;

    fn routes(rule: RouteRule, logits: [f32; 4]) -> [f32; 4] {
        let mut output = [9.0; 4];
        moe_route(&logits, 4, rule, 2, &mut output);
        output
    }

    #[test]
    fn the_chosen_share_what_is_left_or_all() {
        let logits = [0.0, 2f32.ln(), 0.0, 4f32.ln()];
        let kept = routes(RouteRule::SoftmaxTopK { normalise: false }, logits);
        assert_eq!(kept.map(|weight| (weight * 8.0).round()), [0.0, 2.0, 0.0, 4.0]);
        for rule in [RouteRule::SoftmaxTopK { normalise: true }, RouteRule::TopKSoftmax] {
            assert_eq!(routes(rule, logits).map(|weight| (weight * 6.0).round()), [0.0, 2.0, 0.0, 4.0]);
        }
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(routes(RouteRule::TopKSoftmax, [1.0, 1.0, 1.0, 1.0]), [0.5, 0.5, 0.0, 0.0]);
        assert_eq!(routes(RouteRule::TopKSoftmax, [0.0, 1.0, 0.0, 1.0]), [0.0, 0.5, 0.0, 0.5]);
    }
}
