//! What recurrent layers keep of each sequence.

use crate::room::Room;
use crate::{CacheGroupKind, CacheGroupSpec, PrepareError};

/// `[num_slots, num_layers, state_len]` f32; empty for groups that keep keys and values.
pub(super) struct SlotStates {
    num_layers: usize,
    state_len: usize,
    /// All slots.
    pub values: Vec<f32>,
}

impl SlotStates {
    /// Room for the group's layers in each of `num_slots`.
    pub(super) fn new(spec: &CacheGroupSpec, num_slots: usize, room: &Room) -> Result<Self, PrepareError> {
        let (num_layers, state_len) = match spec.kind {
            CacheGroupKind::Recurrent { state_len } => (spec.num_layers, state_len),
            CacheGroupKind::Full | CacheGroupKind::Window { .. } => (0, 0),
        };
        let count = num_layers.checked_mul(state_len).and_then(|elements| elements.checked_mul(num_slots));
        Ok(Self { num_layers, state_len, values: room.zeroes(count, "the recurrent states")? })
    }

    /// Makes a slot that of a sequence without tokens.
    pub(super) fn clear(&mut self, slot: u32) {
        let slot = self.slot(slot);
        self.values[slot].fill(0.0);
    }

    /// Makes slot `to` the same as slot `from`.
    pub(super) fn copy(&mut self, from: u32, to: u32) {
        let (from, to) = (self.slot(from), self.slot(to));
        self.values.copy_within(from, to.start);
    }

    /// The state of one layer in a slot.
    pub(super) fn layer_mut(&mut self, slot: u32, layer: usize) -> &mut [f32] {
        let first = (slot as usize * self.num_layers + layer) * self.state_len;
        &mut self.values[first..first + self.state_len]
    }

    fn slot(&self, slot: u32) -> std::ops::Range<usize> {
        let len = self.num_layers * self.state_len;
        slot as usize * len..(slot as usize + 1) * len
    }
}
