//! Keys and values in the device's memory: `[layer][keys, values][block][head][position][element]` for each cache group, and
//! states `[slot][layer][element]` in f32 for recurrent ones.

use cudarc::driver::CudaStream;
use kindling_kernels::{CacheGroupId, CacheGroupKind, CacheGroupSpec, KvType, Limits, SlotCopy};

use crate::driver::GpuError;

use crate::memory::{Address, Places, Region};

/// What attention loads of the cache at a time.
const LOAD_BYTES: usize = 16;

/// Where a group lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvPlaces {
    /// Of each layer: keys, then values; for states the whole group's place.
    layers: Vec<[usize; 2]>,
    /// Of a recurrent group.
    slot_bytes: usize,
}

impl KvPlaces {
    /// Of all groups, and what they take. Blocks of 16 tokens are a multiple of what kernels load at a time, so nothing lies
    /// between them; states come last. `None` if it can't be counted.
    pub(crate) fn all(groups: &[CacheGroupSpec], limits: &Limits) -> Option<(Vec<Self>, usize)> {
        let is_recurrent = |group: &CacheGroupSpec| matches!(group.kind, CacheGroupKind::Recurrent { .. });
        let mut places = Places::default();
        let mut found: Vec<Option<Self>> = vec![None; groups.len()];
        for last in [false, true] {
            for (index, (group, num_blocks)) in groups.iter().zip(&limits.num_blocks).enumerate() {
                if is_recurrent(group) == last {
                    found[index] = Some(Self::new(group, (limits, *num_blocks), &mut places)?);
                }
            }
        }
        Some((found.into_iter().collect::<Option<_>>()?, places.num_bytes()))
    }

    fn new(group: &CacheGroupSpec, (limits, num_blocks): (&Limits, usize), places: &mut Places) -> Option<Self> {
        if let CacheGroupKind::Recurrent { state_len } = group.kind {
            let slot_bytes = group.num_layers.checked_mul(state_len)?.checked_mul(size_of::<f32>())?;
            let place = places.take_close(slot_bytes.checked_mul(num_blocks), size_of::<f32>())?;
            return Some(Self { layers: vec![[place; 2]; group.num_layers], slot_bytes });
        }
        let element_bytes = match limits.kv_type {
            KvType::Wide => 2,
            KvType::F8E4M3 => 1,
        };
        let sizes = [num_blocks, limits.block_size, group.num_kv_heads, group.head_dim];
        let num_bytes = sizes.iter().try_fold(element_bytes, |product: usize, size| product.checked_mul(*size));
        let mut take = || places.take_close(num_bytes, LOAD_BYTES);
        let layers = (0..group.num_layers).map(|_| Some([take()?, take()?]));
        Some(Self { layers: layers.collect::<Option<_>>()?, slot_bytes: 0 })
    }
}

/// All groups.
pub(crate) struct KvCaches {
    groups: Vec<KvPlaces>,
    region: Region,
}

impl KvCaches {
    /// In a region that was made for these places.
    pub(crate) const fn new(groups: Vec<KvPlaces>, region: Region) -> Self {
        Self { groups, region }
    }

    /// Keys and values of a layer.
    pub(crate) fn layer(&self, group: CacheGroupId, layer: usize) -> [Address; 2] {
        self.groups[group.0].layers[layer].map(|place| self.region.at(place))
    }

    /// Makes a slot that of a sequence without tokens.
    pub(crate) fn clear_slot(&self, stream: &CudaStream, group: usize, slot: u32) -> Result<(), GpuError> {
        let (place, slot_bytes) = self.slots(group);
        self.region.clear_on(stream, place + slot as usize * slot_bytes, slot_bytes)
    }

    /// Makes one slot the same as another.
    pub(crate) fn copy_slot(&self, stream: &CudaStream, copy: &SlotCopy) -> Result<(), GpuError> {
        let (place, slot_bytes) = self.slots(copy.group);
        let [from, to] = [copy.from, copy.to].map(|slot| place + slot as usize * slot_bytes);
        self.region.copy_within_on(stream, (from, to), slot_bytes)
    }

    fn slots(&self, group: usize) -> (usize, usize) {
        let places = &self.groups[group];
        (places.layers.first().map_or(0, |layer| layer[0]), places.slot_bytes)
    }

    /// What they take.
    pub(crate) const fn num_bytes(&self) -> usize {
        self.region.num_bytes()
    }
}
