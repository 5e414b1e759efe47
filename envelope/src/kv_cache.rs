//! What a model's memory of the tokens before takes: by kind of layer, dtype, context and concurrency.

use crate::Bytes;

/// Tokens of one block of the cache; a sequence takes whole blocks.
pub const BLOCK_TOKENS: u64 = 16;
/// Elements that the `cpu` backend computes side by side.
const CPU_LANES: u64 = 16;
/// A sequence has a state to go on from, and one that was kept for others of the same beginning.
const SLOTS_PER_SEQUENCE: u64 = 2;

/// How a model is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Longest sequence, in tokens.
    pub context: u64,
    /// Sequences at a time.
    pub concurrency: u64,
    /// Tokens that all sequences share.
    pub pool: Pool,
    /// Tokens that one step may compute.
    pub max_batched_tokens: u64,
    /// What keys and values are kept in.
    pub kv_dtype: KvDtype,
    /// What computes.
    pub device: Device,
}

/// How many tokens the cache holds, for all sequences together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// So many.
    Tokens(u64),
    /// So many sequences of full length.
    Contexts(u64),
    /// Every sequence may have its full length at the same time.
    EverySequence,
}

/// What computes: it decides what a process takes beside its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// What one element of the cache is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// 2 bytes.
    Bf16,
    /// 1 byte.
    Fp8,
}

/// Layers that keep the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheLayers {
    /// Keys and values of every token.
    Full {
        /// Layers.
        layers: u64,
        /// Key and value heads of each.
        kv_heads: u64,
        /// Elements of a head.
        head_dim: u64,
    },
    /// Keys and values of the last tokens.
    Window {
        /// Layers.
        layers: u64,
        /// Key and value heads of each.
        kv_heads: u64,
        /// Elements of a head.
        head_dim: u64,
        /// A token sees so many, its own included.
        window: u64,
    },
    /// One compressed vector of every token, from which keys and values are made (MLA).
    Latent {
        /// Layers.
        layers: u64,
        /// Elements: the compressed part and the part with a position.
        width: u64,
    },
    /// A state of constant size for each sequence, in f32.
    State {
        /// Layers.
        layers: u64,
        /// Elements of each.
        elements: u64,
    },
}

impl Serving {
    /// Tokens that the cache holds.
    pub fn pool_tokens(&self) -> u64 {
        match self.pool {
            Pool::Tokens(tokens) => tokens,
            Pool::Contexts(number) => self.context.saturating_mul(number),
            Pool::EverySequence => self.context.saturating_mul(self.concurrency),
        }
    }

    /// Blocks that the cache holds.
    pub fn pool_blocks(&self) -> u64 {
        self.pool_tokens().div_ceil(BLOCK_TOKENS)
    }
}

impl KvDtype {
    /// Of one element.
    pub fn bytes(self) -> Bytes {
        match self {
            Self::Bf16 => Bytes(2),
            Self::Fp8 => Bytes(1),
        }
    }
}

impl CacheLayers {
    /// How many there are.
    pub fn layers(self) -> u64 {
        match self {
            Self::Full { layers, .. }
            | Self::Window { layers, .. }
            | Self::Latent { layers, .. }
            | Self::State { layers, .. } => layers,
        }
    }

    /// So many of the same.
    pub fn with_layers(mut self, number: u64) -> Self {
        let (Self::Full { layers, .. }
        | Self::Window { layers, .. }
        | Self::Latent { layers, .. }
        | Self::State { layers, .. }) = &mut self;
        *layers = number;
        self
    }

    /// Of all sequences together, as the runtime allocates it.
    pub fn bytes(self, serving: &Serving) -> Bytes {
        let pool = serving.pool_blocks();
        let blocks = match self {
            Self::Full { .. } | Self::Latent { .. } => pool,
            Self::Window { window, .. } => {
                // What a step writes is there before what it no longer sees is given back; neither end need be at the
                // border of a block.
                let of_one = window.saturating_add(serving.max_batched_tokens).div_ceil(BLOCK_TOKENS) + 1;
                pool.min(of_one.saturating_mul(serving.concurrency))
            }
            Self::State { layers, elements } => {
                let slots = serving.concurrency.saturating_mul(SLOTS_PER_SEQUENCE);
                return Bytes(4).times(elements).times(layers).times(slots);
            }
        };
        self.padded_bytes_per_token(serving).times(BLOCK_TOKENS).times(blocks)
    }

    /// The `cpu` backend keeps a value in whole lanes.
    fn padded_bytes_per_token(self, serving: &Serving) -> Bytes {
        let bytes = self.bytes_per_token(serving.kv_dtype);
        let (Self::Full { layers, kv_heads, head_dim } | Self::Window { layers, kv_heads, head_dim, .. }) = self else {
            return bytes;
        };
        let padding = match serving.device {
            Device::Cpu => (CPU_LANES - head_dim % CPU_LANES) % CPU_LANES,
            Device::Cuda => 0,
        };
        bytes + serving.kv_dtype.bytes().times(layers).times(kv_heads).times(padding)
    }

    /// Of one token that is kept; a state of constant size takes nothing.
    pub fn bytes_per_token(self, dtype: KvDtype) -> Bytes {
        match self {
            Self::Full { layers, kv_heads, head_dim } | Self::Window { layers, kv_heads, head_dim, .. } => {
                dtype.bytes().times(2).times(layers).times(kv_heads).times(head_dim)
            }
            Self::Latent { layers, width } => dtype.bytes().times(layers).times(width),
            Self::State { .. } => Bytes(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(context: u64, concurrency: u64, kv_dtype: KvDtype) -> Serving {
        let pool = Pool::EverySequence;
        Serving { context, concurrency, pool, max_batched_tokens: 2048, kv_dtype, device: Device::Cuda }
    }

    /// Calculated by hand from the published configurations: 2 * layers * heads * dimension * bytes.
    #[test]
    fn bytes_per_token_of_published_models() {
        for (name, layers, kv_heads, bf16) in
            [("Qwen3-8B", 36, 8, 147_456), ("Qwen3-32B", 64, 8, 262_144), ("Llama-3.3-70B", 80, 8, 327_680)]
        {
            let cache = CacheLayers::Full { layers, kv_heads, head_dim: 128 };
            assert_eq!(cache.bytes_per_token(KvDtype::Bf16), Bytes(bf16), "{name}");
            assert_eq!(cache.bytes_per_token(KvDtype::Fp8), Bytes(bf16 / 2), "{name}");
        }
    }

    #[test]
    fn the_pool_is_whole_blocks_that_all_sequences_share() {
        let cache = CacheLayers::Full { layers: 1, kv_heads: 1, head_dim: 1 };
        let bytes = |context, pool| cache.bytes(&Serving { pool, ..serving(context, 3, KvDtype::Fp8) }).0;
        assert_eq!((bytes(1, Pool::EverySequence), bytes(17, Pool::EverySequence)), (32, 128));
        assert_eq!((bytes(17, Pool::Contexts(2)), bytes(17, Pool::Tokens(160))), (96, 320));
    }

    /// Two blocks of tokens and one more for each of two sequences, unless the pool is smaller.
    #[test]
    fn a_window_is_itself_and_a_step_for_each_sequence() {
        let cache = CacheLayers::Window { layers: 1, kv_heads: 1, head_dim: 1, window: 128 };
        let bytes = |context| cache.bytes(&serving(context, 2, KvDtype::Fp8)).0;
        assert_eq!(bytes(64), 2 * 128);
        assert_eq!((bytes(4096), bytes(1 << 20)), (2 * 2 * (128 + 2048 + 16), 2 * 2 * (128 + 2048 + 16)));
    }

    /// Of no published model that is known here, but of some that are made for tests.
    #[test]
    fn the_processor_keeps_values_in_whole_lanes() {
        let bytes = |head_dim, device| {
            let cache = CacheLayers::Full { layers: 1, kv_heads: 1, head_dim };
            cache.bytes(&Serving { device, ..serving(16, 1, KvDtype::Fp8) }).0
        };
        assert_eq!((bytes(24, Device::Cuda), bytes(24, Device::Cpu)), (16 * 48, 16 * 56));
        assert_eq!(bytes(128, Device::Cuda), bytes(128, Device::Cpu));
    }

    #[test]
    fn a_state_does_not_grow_with_the_context() {
        let cache = CacheLayers::State { layers: 3, elements: 10 };
        let bytes = |context, concurrency| cache.bytes(&serving(context, concurrency, KvDtype::Fp8)).0;
        assert_eq!((bytes(16, 2), bytes(1 << 20, 2)), (480, 480));
    }

    /// DeepSeek-V3: 61 layers, 512 compressed elements and 64 with a position.
    #[test]
    fn a_latent_is_kept_once() {
        let cache = CacheLayers::Latent { layers: 61, width: 512 + 64 };
        assert_eq!(cache.bytes_per_token(KvDtype::Bf16), Bytes(70_272));
    }
}
