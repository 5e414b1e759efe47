//! What a runtime does all day, at random: sequences that begin, wait for their turn, share blocks that others left dirty, and are
//! aborted. Every row of logits must have the bits that its sequence has alone; nothing is written beside the regions, and all
//! memory is given back. `KINDLING_SOAK_SECONDS` says how long (3).
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is test code; what was done is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use std::time::{Duration, Instant};

use common::llama::{Llama, TINY};
use common::{Part, Rng, limits, prepare, step};
use kindling_cuda::{CudaBackend, Guards};
use kindling_kernels::{CacheGroupKind, DType, KvType, Limits, PreparedModel, Step, StepSequence};

const NUM_PROMPTS: usize = 8;
/// Tokens that are made after a prompt.
const NUM_NEW: usize = 12;
const NUM_BLOCKS: usize = 40;
const TOKENS_PER_STEP: usize = 96;
const VOCAB_SIZE: usize = TINY.vocab_size;

/// A prompt, what follows it, and the logits after the prompt and after each token.
struct Expected {
    tokens: Vec<u32>,
    prompt_len: usize,
    logits: Vec<Vec<f32>>,
}

struct Running {
    expected: usize,
    computed: usize,
    blocks: Vec<u32>,
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// Alone, with nobody before.
fn expected(backend: &CudaBackend, llama: &Llama, limits: &Limits, rng: &mut Rng) -> Expected {
    let (plan, weights) = llama.build();
    let mut model = prepare(backend, &plan, &weights, limits);
    let prompt_len = 1 + rng.below(TOKENS_PER_STEP);
    let mut tokens: Vec<u32> = (0..prompt_len).map(|_| rng.below(VOCAB_SIZE) as u32).collect();
    let blocks: Vec<u32> = (0..NUM_BLOCKS as u32).collect();
    let (mut all, mut computed) = (Vec::new(), 0);
    while all.len() < NUM_NEW {
        let part = Part { tokens: &tokens[computed..], context_len: computed, blocks: &blocks };
        let mut logits = Vec::new();
        model.execute(&step(&[part], 1), &mut logits).unwrap();
        let last = logits[logits.len() - VOCAB_SIZE..].to_vec();
        computed = tokens.len();
        tokens.push(likeliest(&last));
        all.push(last);
    }
    Expected { tokens, prompt_len, logits: all }
}

/// The sequences of one model, and the blocks that nobody has.
struct Day<'a> {
    expected: &'a [Expected],
    block_size: usize,
    running: Vec<Running>,
    free: Vec<u32>,
    rng: Rng,
    num_done: usize,
    num_aborted: usize,
    num_steps: usize,
}

impl Day<'_> {
    fn begin(&mut self, max_sequences: usize) {
        let expected = self.rng.below(self.expected.len());
        let num_blocks = self.expected[expected].tokens.len().div_ceil(self.block_size);
        if self.running.len() < max_sequences && self.free.len() >= num_blocks {
            let blocks = (0..num_blocks).map(|_| self.free.swap_remove(self.rng.below(self.free.len()))).collect();
            self.running.push(Running { expected, computed: 0, blocks });
        }
    }

    fn end(&mut self, index: usize) {
        let ended = self.running.swap_remove(index);
        self.free.extend(ended.blocks);
    }

    /// What some of them bring, and for each logit row whose it is.
    fn step(&mut self) -> (Step, Vec<(usize, usize)>) {
        let (mut step, mut rows, mut room) = (Step::default(), Vec::new(), TOKENS_PER_STEP);
        for (index, running) in self.running.iter_mut().enumerate() {
            let Expected { tokens, prompt_len, .. } = &self.expected[running.expected];
            let left = prompt_len.saturating_sub(running.computed).max(1);
            let len = if left > 1 && self.rng.below(2) == 0 { 1 + self.rng.below(left) } else { left }.min(room);
            if len == 0 || self.rng.below(8) == 0 {
                continue;
            }
            room -= len;
            step.sequences.push(StepSequence {
                query_start: step.token_ids.len(),
                query_len: len,
                context_len: running.computed,
                block_tables: vec![running.blocks.clone()],
            });
            let range = running.computed..running.computed + len;
            step.token_ids.extend(&tokens[range.clone()]);
            step.positions.extend(range.map(|position| [position as u32; 3]));
            running.computed += len;
            if running.computed >= *prompt_len {
                rows.push((index, step.token_ids.len() - 1));
            }
        }
        step.logit_indices = rows.iter().map(|(_, row)| *row).collect();
        let rows = rows.into_iter().map(|(index, _)| (index, self.running[index].computed));
        (step, rows.collect())
    }

    fn work(&mut self, model: &mut dyn PreparedModel, max_sequences: usize) {
        if self.rng.below(3) == 0 {
            self.begin(max_sequences);
        }
        if self.rng.below(20) == 0 && !self.running.is_empty() {
            let index = self.rng.below(self.running.len());
            self.end(index);
            self.num_aborted += 1;
        }
        let (step, rows) = self.step();
        if step.sequences.is_empty() {
            return;
        }
        let mut logits = Vec::new();
        model.execute(&step, &mut logits).unwrap();
        self.num_steps += 1;
        for ((index, computed), found) in rows.iter().zip(logits.chunks(VOCAB_SIZE)) {
            let Expected { prompt_len, logits, .. } = &self.expected[self.running[*index].expected];
            assert!(found == logits[computed - prompt_len], "step {}, token {computed}", self.num_steps);
        }
        for index in (0..self.running.len()).rev() {
            let Running { expected, computed, .. } = self.running[index];
            if computed - self.expected[expected].prompt_len.min(computed) == NUM_NEW - 1 {
                self.end(index);
                self.num_done += 1;
            }
        }
    }
}

fn soak(llama: &Llama, kv_type: KvType, duration: Duration, seed: u64) {
    let Some(loaded) = device::loaded() else { return };
    let free = || device::loaded().unwrap().memory().unwrap().0;
    let guards = Guards::default();
    let backend = CudaBackend::on(loaded).guarded(&guards);
    let limits = Limits { num_blocks: vec![NUM_BLOCKS], kv_type, ..limits() };
    let limits = Limits { max_tokens_per_step: TOKENS_PER_STEP, max_logits_per_step: TOKENS_PER_STEP, ..limits };
    let (plan, weights) = llama.build();
    let mut rng = Rng(seed);
    let expected: Vec<Expected> = (0..NUM_PROMPTS).map(|_| expected(&backend, llama, &limits, &mut rng)).collect();
    let (started, mut free_at_first, mut num_models) = (Instant::now(), None, 0);
    let (mut num_done, mut num_aborted, mut num_steps) = (0, 0, 0);
    while started.elapsed() < duration || num_models < 2 {
        let mut model = prepare(&backend, &plan, &weights, &limits);
        let free_blocks = (0..NUM_BLOCKS as u32).collect();
        let (running, rng) = (Vec::new(), Rng(seed + 1 + num_models as u64));
        let mut day = Day {
            expected: &expected,
            block_size: limits.block_size,
            running,
            free: free_blocks,
            rng,
            num_done: 0,
            num_aborted: 0,
            num_steps: 0,
        };
        while day.num_done < 15 {
            day.work(&mut *model, limits.max_sequences);
        }
        drop(model);
        let free = free();
        assert!(free >= *free_at_first.get_or_insert(free), "{free} bytes are free after {num_models} models");
        num_models += 1;
        (num_done, num_aborted) = (num_done + day.num_done, num_aborted + day.num_aborted);
        num_steps += day.num_steps;
    }
    let (intact, broken) = guards.seen();
    println!(
        "{:?}, {kv_type:?}: {num_models} models, {num_steps} steps, {num_done} sequences, {num_aborted} aborted, \
         {intact} regions intact in {:.1} s",
        llama.dtype,
        started.elapsed().as_secs_f64()
    );
    assert_eq!((broken, intact), (0, 3 * (num_models + NUM_PROMPTS)));
    assert!(num_aborted > num_models, "{num_aborted}");
}

#[test]
fn mixed_requests_have_the_bits_that_they_have_alone() {
    let seconds = std::env::var("KINDLING_SOAK_SECONDS").map_or(3.0, |text| text.parse().unwrap());
    let each = Duration::from_secs_f64(seconds / 3.0);
    soak(&TINY, KvType::Wide, each, 1);
    let window = CacheGroupKind::Window { window: 37 };
    soak(&Llama { dtype: DType::NVFP4, kind: window, ..TINY }, KvType::F8E4M3, each, 2);
    soak(&Llama { dtype: DType::BF16, ..TINY }, KvType::Wide, each, 3);
}
