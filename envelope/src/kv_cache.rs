//! What a model's memory of the tokens before takes: by kind of layer, dtype, context and concurrency.

use crate::Bytes;

/// Tokens of one block of the cache; a sequence takes whole blocks.
pub const BLOCK_TOKENS: u64 = 16;

/// How a model is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Longest sequence, in tokens.
    pub context: u64,
    /// Sequences at a time.
    pub concurrency: u64,
    /// Tokens that one step may compute.
    pub max_batched_tokens: u64,
    /// What keys and values are kept in.
    pub kv_dtype: KvDtype,
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
    /// Of all sequences, each as long as it may become.
    pub fn bytes(self, serving: &Serving) -> Bytes {
        let Serving { context, concurrency, max_batched_tokens, kv_dtype } = *serving;
        let tokens = match self {
            Self::Full { .. } | Self::Latent { .. } => context,
            // What a step writes is there before what it no longer sees is given back.
            Self::Window { window, .. } => context.min(window.saturating_add(max_batched_tokens)),
            Self::State { layers, elements } => return Bytes(4).times(elements).times(layers).times(concurrency),
        };
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        self.bytes_per_token(kv_dtype).times(BLOCK_TOKENS).times(blocks).times(concurrency)
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
        Serving { context, concurrency, max_batched_tokens: 2048, kv_dtype }
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
    fn each_sequence_takes_whole_blocks() {
        let cache = CacheLayers::Full { layers: 1, kv_heads: 1, head_dim: 1 };
        let bytes = |context, concurrency| cache.bytes(&serving(context, concurrency, KvDtype::Fp8)).0;
        assert_eq!((bytes(1, 1), bytes(16, 1), bytes(17, 1), bytes(17, 3)), (32, 32, 64, 192));
    }

    #[test]
    fn a_window_is_as_long_as_the_context_or_itself_and_a_step() {
        let cache = CacheLayers::Window { layers: 1, kv_heads: 1, head_dim: 1, window: 128 };
        let bytes = |context| cache.bytes(&serving(context, 1, KvDtype::Fp8)).0;
        assert_eq!((bytes(64), bytes(4096), bytes(1 << 20)), (2 * 64, 2 * (128 + 2048), 2 * (128 + 2048)));
    }

    #[test]
    fn a_state_does_not_grow_with_the_context() {
        let cache = CacheLayers::State { layers: 3, elements: 10 };
        let bytes = |context, concurrency| cache.bytes(&serving(context, concurrency, KvDtype::Fp8)).0;
        assert_eq!((bytes(16, 2), bytes(1 << 20, 2)), (240, 240));
    }

    /// DeepSeek-V3: 61 layers, 512 compressed elements and 64 with a position.
    #[test]
    fn a_latent_is_kept_once() {
        let cache = CacheLayers::Latent { layers: 61, width: 512 + 64 };
        assert_eq!(cache.bytes_per_token(KvDtype::Bf16), Bytes(70_272));
    }
}
