//! Layers that keep a state of each sequence, in its slot.

use kindling_kernels::{CacheGroupId, CacheGroupKind, Op, Step};

use super::{CudaModel, StepSize};
use crate::driver::GpuError;
use crate::launch::{Arg, Shape};

/// Threads of the convolution, and columns of the rule's kernel.
const CHANNELS: u32 = 128;
const COLUMNS: u32 = 32;
const RULE_THREADS: u32 = 512;

impl CudaModel {
    /// Restores what is to be restored; a sequence without context starts from zeroes, whatever its slot held.
    pub(super) fn prepare_slots(&self, step: &Step) -> Result<(), GpuError> {
        let stream = self.kernels.stream();
        for copy in &step.copies_before {
            self.caches.copy_slot(stream, copy)?;
        }
        for (index, group) in self.plan.cache_groups.iter().enumerate() {
            if let CacheGroupKind::Recurrent { .. } = group.kind {
                for sequence in step.sequences.iter().filter(|sequence| sequence.context_len == 0) {
                    self.caches.clear_slot(stream, index, sequence.block_tables[index][0])?;
                }
            }
        }
        Ok(())
    }

    /// What both kernels are told of states.
    fn states(&self, group: CacheGroupId, layer: usize) -> [Arg; 7] {
        let spec = &self.plan.cache_groups[group.0];
        let state_len = match spec.kind {
            CacheGroupKind::Recurrent { state_len } => state_len,
            CacheGroupKind::Full | CacheGroupKind::Window { .. } => 0,
        };
        let places = &self.places.step_places;
        [
            Arg::At(self.caches.layer(group, layer)[0]),
            Arg::At(self.of_step(places.starts)),
            Arg::At(self.of_step(places.tables[group.0])),
            Arg::U32(places.table_len as u32),
            Arg::U32(spec.num_layers as u32),
            Arg::U32(layer as u32),
            Arg::U32(state_len as u32),
        ]
    }

    /// The convolution of each sequence's rows.
    pub(super) fn causal_conv(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        let Op::CausalConv { buffer, weight, shape, group, layer } = *op else {
            unreachable!("start should have seen to {}", op.name())
        };
        let channels = shape.conv_channels() as u32;
        let weight = self.weights.vector(&self.plan, weight);
        let mut args = vec![Arg::At(self.at(buffer)), Arg::At(weight)];
        args.extend(self.states(group, layer));
        args.extend([shape.memory_len() as u32, channels, shape.conv_kernel as u32].map(Arg::U32));
        let grid = (channels.div_ceil(CHANNELS), size.sequences, 1);
        self.kernels.launch(op.name(), Shape::blocks(grid, CHANNELS), &args)
    }

    /// The delta rule over each sequence's rows.
    pub(super) fn gated_delta_rule(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        let Op::GatedDeltaRule { qkv, beta, alpha, a_log, dt_bias, shape, group, layer, output } = *op else {
            unreachable!("start should have seen to {}", op.name())
        };
        let vector = |id| Arg::At(self.weights.vector(&self.plan, id));
        let buffer = |id| Arg::At(self.at(id));
        let mut args = vec![buffer(qkv), buffer(beta), buffer(alpha), vector(a_log), vector(dt_bias)];
        args.extend(self.states(group, layer));
        let sizes = [shape.num_key_heads, shape.num_value_heads, shape.key_dim, shape.value_dim];
        args.extend(sizes.map(|size| Arg::U32(size as u32)));
        args.push(buffer(output));
        let tiles = (shape.value_dim as u32).div_ceil(COLUMNS) * shape.num_value_heads as u32;
        self.kernels.launch(op.name(), Shape::blocks((tiles, size.sequences, 1), RULE_THREADS), &args)
    }
}
