//! What kernels have to know of a step, as one copy to the device: tokens, positions, block tables.

use kindling_kernels::{Limits, Plan, Step};

use crate::memory::{ALIGNMENT, Places};

/// Where each list begins in the region of a step, in bytes; the same for every step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepPlaces {
    /// `[tokens]`: ids.
    pub tokens: usize,
    /// `[tokens]`: what rotates a token.
    pub rotary_positions: usize,
    /// `[tokens]`: place in its sequence, by which it is in the cache.
    pub positions: usize,
    /// `[tokens]`: its sequence in this step.
    pub sequences: usize,
    /// `[sequences + 1]`: where the rows of each begin, and where those of the last end.
    pub starts: usize,
    /// `[logits]`: rows whose logits are wanted.
    pub logit_rows: usize,
    /// For each cache group `[sequences, table_len]`: numbers of blocks.
    pub tables: Vec<usize>,
    /// Blocks of the longest sequence.
    pub table_len: usize,
    /// All of it.
    pub num_bytes: usize,
}

impl StepPlaces {
    /// For the largest step; `None` if it can't be counted.
    pub(crate) fn new(plan: &Plan, limits: &Limits) -> Option<Self> {
        let mut places = Places::default();
        let words = |count: usize| count.checked_mul(size_of::<u32>());
        let tokens = words(limits.max_tokens_per_step);
        let table_len = limits.max_context.div_ceil(limits.block_size);
        let table = words(limits.max_sequences.checked_mul(table_len)?);
        let [ids, rotary_positions, positions, sequences] =
            [places.take(tokens)?, places.take(tokens)?, places.take(tokens)?, places.take(tokens)?];
        let starts = places.take(words(limits.max_sequences.checked_add(1)?))?;
        let logit_rows = places.take(words(limits.max_logits_per_step))?;
        let tables = plan.cache_groups.iter().map(|_| places.take(table)).collect::<Option<_>>()?;
        let num_bytes = places.num_bytes();
        Some(Self {
            tokens: ids,
            rotary_positions,
            positions,
            sequences,
            starts,
            logit_rows,
            tables,
            table_len,
            num_bytes,
        })
    }

    /// The words of a step, in order of their places; what no list uses stays as it was.
    pub(crate) fn fill(&self, step: &Step, words: &mut Vec<u32>) {
        words.resize(self.num_bytes / size_of::<u32>(), 0);
        let mut put = |place: usize, values: &mut dyn Iterator<Item = u32>| {
            for (word, value) in words[place / size_of::<u32>()..].iter_mut().zip(values) {
                *word = value;
            }
        };
        put(self.tokens, &mut step.token_ids.iter().copied());
        put(self.rotary_positions, &mut step.positions.iter().map(|position| position[0]));
        let rows = || {
            let sequences = step.sequences.iter().enumerate();
            sequences.flat_map(|(index, sequence)| (0..sequence.query_len).map(move |offset| (index, sequence, offset)))
        };
        put(self.positions, &mut rows().map(|(_, sequence, offset)| (sequence.context_len + offset) as u32));
        put(self.sequences, &mut rows().map(|(index, ..)| index as u32));
        let ends = step.sequences.iter().map(|sequence| (sequence.query_start + sequence.query_len) as u32);
        put(self.starts, &mut std::iter::once(0).chain(ends));
        put(self.logit_rows, &mut step.logit_indices.iter().map(|row| *row as u32));
        for (group, place) in self.tables.iter().enumerate() {
            for (index, sequence) in step.sequences.iter().enumerate() {
                let table = &sequence.block_tables[group];
                let first = place + index * self.table_len * size_of::<u32>();
                put(first, &mut table.iter().copied().take(self.table_len));
            }
        }
    }
}

const _: () = assert!(ALIGNMENT.is_multiple_of(size_of::<u32>()));
