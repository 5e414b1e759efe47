//! Keys and values in the device's memory: `[layer][keys, values][block][head][position][element]` for each cache group.

use kindling_kernels::{CacheGroupId, CacheGroupSpec, KvType, Limits};

use crate::memory::{Address, Places, Region};

/// Where a group lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvPlaces {
    /// Of each layer: keys, then values.
    layers: Vec<[usize; 2]>,
}

impl KvPlaces {
    /// `None` if it can't be counted.
    pub(crate) fn new(
        group: &CacheGroupSpec,
        (limits, num_blocks): (&Limits, usize),
        places: &mut Places,
    ) -> Option<Self> {
        let element_bytes = match limits.kv_type {
            KvType::Wide => 2,
            KvType::F8E4M3 => 1,
        };
        let sizes = [num_blocks, limits.block_size, group.num_kv_heads, group.head_dim];
        let num_bytes = sizes.iter().try_fold(element_bytes, |product: usize, size| product.checked_mul(*size));
        let layers = (0..group.num_layers).map(|_| Some([places.take(num_bytes)?, places.take(num_bytes)?]));
        Some(Self { layers: layers.collect::<Option<_>>()? })
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

    /// What they take.
    pub(crate) const fn num_bytes(&self) -> usize {
        self.region.num_bytes()
    }
}
