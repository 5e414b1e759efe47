//! A golden model, and how a backend's logits are compared with it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code, helpers included")]

use kindling_kernels::{
    Backend, CacheGroupKind, EVICTED_BLOCK, KvType, Limits, Plan, PrepareError, PreparedModel, SlotCopy, Step,
    StepSequence,
};
use kindling_models::{OpenWeights, open_weights};

use super::{golden, ids, read_json};

/// Folder, file in it or nothing, and what the `cpu` backend says that it lacks. An entry that it can compute fails.
pub const CASES: &[(&str, &str, Option<&str>)] = &[
    ("tiny_llama", "", None),
    ("tiny_llama", "model.gguf", None),
    ("tiny_llama_llama3", "", None),
    ("tiny_llama_tied", "", None),
    ("tiny_mistral", "", None),
    ("tiny_qwen2", "", None),
    ("tiny_qwen2", "model.gguf", None),
    ("tiny_qwen3", "", None),
    ("tiny_qwen3", "model.gguf", None),
    ("tiny_qwen3_window", "", None),
    ("tiny_qwen3_moe", "", None),
    ("tiny_qwen3_moe", "model.gguf", None),
    ("tiny_qwen3_moe_fused", "", None),
    ("tiny_gpt_oss", "", None),
    ("tiny_gpt_oss", "model.gguf", None),
    ("tiny_qwen3_next", "", Some("recurrent layers")),
    ("tiny_qwen3_5", "", Some("recurrent layers")),
    ("tiny_qwen3_5_moe", "", Some("recurrent layers")),
    ("tiny_gemma4", "", None),
];

const BLOCK_SIZE: usize = 4;
const MAX_SEQUENCES: usize = 2;
/// The prompts have 24 tokens, 16 follow.
const MAX_CONTEXT: usize = 40;
const BLOCKS_PER_SEQUENCE: usize = MAX_CONTEXT / BLOCK_SIZE;

/// A checkpoint with the logits that were recorded for it.
pub struct GoldenModel {
    pub opened: OpenWeights,
    pub tokens: Vec<u32>,
    /// A row after each token.
    pub logits: Vec<Vec<f32>>,
    /// What follows.
    pub greedy: Vec<u32>,
}

/// How far logits are from the recorded ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct Distance {
    pub greatest: f32,
    pub mean: f32,
}

impl GoldenModel {
    /// `file` is empty for the folder as a whole.
    pub fn open(folder: &str, file: &str) -> Self {
        let recorded = read_json(&golden(folder).join("logits.json"));
        let row =
            |row: &serde_json::Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        Self {
            opened: open_weights(&golden(folder).join(file))
                .unwrap_or_else(|error| panic!("{folder}/{file}: {error:?}")),
            tokens: ids(&recorded["tokens"]),
            logits: recorded["logits"].as_array().unwrap().iter().map(row).collect(),
            greedy: ids(&recorded["greedy"]),
        }
    }

    pub fn prepare(&self, backend: &dyn Backend) -> Result<Running, PrepareError> {
        let plan = self.opened.spec.lower();
        let limits = Limits {
            max_tokens_per_step: MAX_SEQUENCES * MAX_CONTEXT,
            max_sequences: MAX_SEQUENCES,
            max_logits_per_step: MAX_SEQUENCES * MAX_CONTEXT,
            max_context: MAX_CONTEXT,
            block_size: BLOCK_SIZE,
            num_blocks: vec![MAX_SEQUENCES * BLOCKS_PER_SEQUENCE; plan.cache_groups.len()],
            kv_type: KvType::Wide,
            num_threads: 1,
        };
        let model = backend.prepare(&plan, self.opened.weights.as_ref(), &limits, &mut |_| {})?;
        Ok(Running { model, plan, copies: Default::default(), shared_blocks: 0 })
    }

    pub fn distance(&self, found: &[Vec<f32>]) -> Distance {
        assert_eq!(found.len(), self.logits.len());
        let pairs = found.iter().flatten().zip(self.logits.iter().flatten());
        let differences: Vec<f32> = pairs.map(|(found, recorded)| (found - recorded).abs()).collect();
        assert!(differences.iter().all(|difference| difference.is_finite()), "a logit is no number");
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        Distance { greatest: differences.iter().copied().fold(0.0, f32::max), mean }
    }
}

/// A prepared model. Sequences are numbered from 0; what they hold is overwritten when they start anew.
pub struct Running {
    model: Box<dyn PreparedModel>,
    plan: Plan,
    /// What the next step does before and after it computes.
    pub copies: [Vec<SlotCopy>; 2],
    /// So many blocks of keys and values are those of sequence 0, whatever the sequence.
    pub shared_blocks: usize,
}

impl Running {
    /// Computes tokens of some sequences, `(sequence, tokens before, tokens)`; logits of each token, in order.
    pub fn step(&mut self, parts: &[(usize, usize, &[u32])]) -> Vec<Vec<f32>> {
        let mut step = Step::default();
        for (sequence, context_len, tokens) in parts {
            let query_start = step.token_ids.len();
            step.token_ids.extend(*tokens);
            step.positions.extend((0..tokens.len()).map(|offset| [(context_len + offset) as u32; 3]));
            let block_tables = self.block_tables(*sequence, *context_len);
            let (query_len, context_len) = (tokens.len(), *context_len);
            step.sequences.push(StepSequence { query_start, query_len, context_len, block_tables });
        }
        step.logit_indices = (0..step.token_ids.len()).collect();
        [step.copies_before, step.copies_after] = std::mem::take(&mut self.copies);
        let mut logits = Vec::new();
        self.model.execute(&step, &mut logits).unwrap();
        logits.chunks_exact(self.plan.vocab_size).map(<[f32]>::to_vec).collect()
    }

    /// The slot of a sequence in a recurrent group.
    pub fn slot(sequence: usize) -> u32 {
        ((sequence + 1) * BLOCKS_PER_SEQUENCE - 1) as u32
    }

    /// Blocks from the last to the first; those that a window has left are gone.
    fn block_tables(&self, sequence: usize, context_len: usize) -> Vec<Vec<u32>> {
        let table = |kind: CacheGroupKind| {
            let seen = match kind {
                CacheGroupKind::Window { window } => (context_len + 1).saturating_sub(window) / BLOCK_SIZE,
                CacheGroupKind::Full | CacheGroupKind::Recurrent { .. } => 0,
            };
            let of = |index| if index < self.shared_blocks { 0 } else { sequence };
            let block = |index| ((of(index) + 1) * BLOCKS_PER_SEQUENCE - 1 - index) as u32;
            if let CacheGroupKind::Recurrent { .. } = kind {
                return vec![Self::slot(sequence)];
            }
            (0..BLOCKS_PER_SEQUENCE).map(|index| if index < seen { EVICTED_BLOCK } else { block(index) }).collect()
        };
        self.plan.cache_groups.iter().map(|group| table(group.kind)).collect()
    }

    /// A sequence in one step.
    pub fn whole(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        self.step(&[(0, 0, tokens)])
    }

    /// A sequence in steps that end at `cuts`.
    pub fn chunked(&mut self, tokens: &[u32], cuts: &[usize]) -> Vec<Vec<f32>> {
        let mut logits = Vec::new();
        let mut first = 0;
        for end in cuts.iter().copied().chain([tokens.len()]) {
            logits.extend(self.step(&[(0, first, &tokens[first..end])]));
            first = end;
        }
        logits
    }

    /// A sequence as the second of a batch, in steps that end at `cut`; the first runs the tokens backwards and is always
    /// one token ahead.
    pub fn batched(&mut self, tokens: &[u32], cut: usize) -> Vec<Vec<f32>> {
        let other: Vec<u32> = tokens.iter().rev().copied().collect();
        let mut logits = self.step(&[(0, 0, &other[..cut + 1]), (1, 0, &tokens[..cut])]).split_off(cut + 1);
        let rest = &other[cut + 1..];
        logits.extend(self.step(&[(0, cut + 1, rest), (1, cut, &tokens[cut..])]).split_off(rest.len()));
        logits
    }

    /// What follows greedily, token by token.
    pub fn greedy(&mut self, tokens: &[u32], count: usize) -> Vec<u32> {
        let mut last = self.whole(tokens).pop().unwrap();
        let mut chosen = Vec::new();
        for index in 0..count {
            chosen.push(greatest(&last));
            if index + 1 < count {
                last = self.step(&[(0, tokens.len() + index, &chosen[index..])]).pop().unwrap();
            }
        }
        chosen
    }
}

fn greatest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(index, _)| index as u32).unwrap()
}
