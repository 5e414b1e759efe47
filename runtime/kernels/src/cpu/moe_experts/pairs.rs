//! Which token goes to which expert.

use std::ops::Range;

/// Rows that a task takes: their activations stay in the second-level cache.
const ROWS_PER_TASK: usize = 64;

/// Tasks per thread that are aimed at.
const TASKS_PER_THREAD: usize = 8;

/// Tokens and their chosen experts, in order of expert, then of token.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pairs {
    /// Token of each pair.
    pub tokens: Vec<u32>,
    /// Weight of each pair.
    pub weights: Vec<f32>,
    /// Experts that have some pairs, and which.
    experts: Vec<(usize, Range<usize>)>,
    /// Pairs of all tokens, those of a token after each other in order of expert.
    by_token: Vec<u32>,
    /// Where those of each token begin, and where the last ones end.
    starts: Vec<usize>,
}

/// One task: some panels of one expert, some pairs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cut {
    pub expert: usize,
    pub panels: Range<usize>,
    pub rows: Range<usize>,
}

impl Pairs {
    /// From `[num_tokens, num_experts]` weights, 0 where an expert is not chosen.
    pub fn new(routes: &[f32], num_experts: usize) -> Self {
        let mut chosen: Vec<_> = routes
            .chunks_exact(num_experts)
            .enumerate()
            .flat_map(|(token, row)| row.iter().enumerate().map(move |(expert, weight)| (expert, token, *weight)))
            .filter(|(_, _, weight)| *weight != 0.0)
            .collect();
        let mut starts = vec![0; routes.len() / num_experts + 1];
        for (_, token, _) in &chosen {
            starts[token + 1] += 1;
        }
        for token in 1..starts.len() {
            starts[token] += starts[token - 1];
        }
        // Stable: tokens of an expert stay in order.
        chosen.sort_by_key(|(expert, _, _)| *expert);
        let mut pairs = Self { by_token: vec![0; chosen.len()], ..Self::default() };
        let mut next = starts.clone();
        for (pair, (expert, token, weight)) in chosen.into_iter().enumerate() {
            pairs.tokens.push(token as u32);
            pairs.weights.push(weight);
            pairs.by_token[next[token]] = pair as u32;
            next[token] += 1;
            match pairs.experts.last_mut() {
                Some((last, range)) if *last == expert => range.end = pair + 1,
                _ => pairs.experts.push((expert, pair..pair + 1)),
            }
        }
        pairs.starts = starts;
        pairs
    }

    /// Pairs of a token, in order of expert.
    pub fn of_token(&self, token: usize) -> &[u32] {
        &self.by_token[self.starts[token]..self.starts[token + 1]]
    }

    /// Cuts a product of every pair's row with its expert's matrix into tasks.
    pub fn cut(&self, num_panels: usize, num_threads: usize) -> Vec<Cut> {
        let row_ranges: usize = self.experts.iter().map(|(_, pairs)| pairs.len().div_ceil(ROWS_PER_TASK)).sum();
        let wanted = (num_threads * TASKS_PER_THREAD).div_ceil(row_ranges.max(1));
        let step = num_panels.div_ceil(wanted).max(1);
        let mut cuts = Vec::new();
        for (expert, pairs) in &self.experts {
            for first in (0..num_panels).step_by(step) {
                for row in pairs.clone().step_by(ROWS_PER_TASK) {
                    let rows = row..pairs.end.min(row + ROWS_PER_TASK);
                    cuts.push(Cut { expert: *expert, panels: first..num_panels.min(first + step), rows });
                }
            }
        }
        cuts
    }
}

#[cfg(test)]
mod tests {
    use super::Pairs;

    #[test]
    fn pairs_are_grouped_by_expert_and_found_by_token() {
        let pairs = Pairs::new(&[0.0, 0.5, 0.5, 0.25, 0.75, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0], 3);
        assert_eq!(pairs.tokens, [1, 0, 1, 3, 0]);
        assert_eq!(pairs.weights, [0.25, 0.5, 0.75, 1.0, 0.5]);
        assert_eq!(pairs.experts, [(0, 0..1), (1, 1..4), (2, 4..5)]);
        assert_eq!([0, 1, 2, 3].map(|token| pairs.of_token(token)), [&[1u32, 4][..], &[0, 2], &[], &[3]]);
    }

    #[test]
    fn every_panel_meets_every_pair_of_its_expert_once() {
        let routes: Vec<f32> = (0..200 * 5).map(|index| f32::from(index % 7 == 0 || index % 5 == 3)).collect();
        let pairs = Pairs::new(&routes, 5);
        let mut seen = vec![[0; 37]; pairs.tokens.len()];
        for cut in pairs.cut(37, 2) {
            for row in cut.rows {
                assert!(routes[pairs.tokens[row] as usize * 5 + cut.expert] > 0.0);
                cut.panels.clone().for_each(|panel| seen[row][panel] += 1);
            }
        }
        assert!(seen.iter().flatten().all(|times| *times == 1));
    }
}
