//! What would fit instead of what was asked.

use crate::kv_cache::BLOCK_TOKENS;
use crate::{KvDtype, Model, Node, Pool, Resident, Serving};

/// So many residents are searched for the fewest that would have to leave; a node holds a handful.
const MOST_RESIDENTS: usize = 16;

/// What would fit instead; each by itself, the rest as asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alternatives {
    /// The longest context, in tokens.
    pub context: Option<u64>,
    /// The largest concurrency.
    pub concurrency: Option<u64>,
    /// The largest cache that still holds one full context, in tokens for all sequences together.
    pub kv_tokens: Option<u64>,
    /// Whether keys and values in FP8 are enough.
    pub fp8_kv_cache: bool,
    /// Residents that would have to leave: the fewest, and of these the smallest.
    pub leaving: Option<Vec<String>>,
}

/// Of a model that does not fit. `priority` is the model's own: nobody above it has to leave for it.
pub fn alternatives(model: &Model, asked: &Serving, node: &Node, priority: i32) -> Alternatives {
    let fits = |serving: &Serving| node.check(&model.footprint(serving)).is_ok();
    let context = |blocks: u64| Serving { context: blocks * BLOCK_TOKENS, ..*asked };
    let concurrency = |concurrency: u64| Serving { concurrency, ..*asked };
    let one_context = asked.context.div_ceil(BLOCK_TOKENS);
    let blocks = largest(one_context, |blocks| fits(&context(blocks)));
    let pool = |blocks: u64| Serving { pool: Pool::Tokens(blocks * BLOCK_TOKENS), ..*asked };
    let pool = largest(asked.pool_blocks(), |blocks| fits(&pool(blocks)));
    Alternatives {
        context: blocks.map(|blocks| blocks * BLOCK_TOKENS),
        kv_tokens: pool.filter(|blocks| *blocks >= one_context).map(|blocks| blocks * BLOCK_TOKENS),
        concurrency: largest(asked.concurrency, |number| fits(&concurrency(number))),
        fp8_kv_cache: asked.kv_dtype != KvDtype::Fp8 && fits(&Serving { kv_dtype: KvDtype::Fp8, ..*asked }),
        leaving: leaving(model, asked, node, priority),
    }
}

/// The largest number of at least 1 and below `limit` that fits, where every number below one that fits does too.
fn largest(limit: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut below, mut above) = (0, limit.max(1));
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if fits(middle) {
            below = middle;
        } else {
            above = middle;
        }
    }
    (below > 0).then_some(below)
}

fn leaving(model: &Model, asked: &Serving, node: &Node, priority: i32) -> Option<Vec<String>> {
    let may_leave = |resident: &&Resident| resident.may_leave && resident.priority <= priority;
    let mut candidates: Vec<&Resident> = node.residents.iter().filter(may_leave).collect();
    // Beyond what is searched the largest are the ones that help.
    candidates.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    candidates.truncate(MOST_RESIDENTS);
    let footprint = model.footprint(asked);
    let chosen = |set: u32| candidates.iter().enumerate().filter(move |(index, _)| set & (1 << index) != 0);
    let fits_without = |set: u32| {
        let leaves = |resident: &Resident| chosen(set).any(|(_, leaving)| std::ptr::eq(*leaving, resident));
        let residents = node.residents.iter().filter(|resident| !leaves(resident)).cloned().collect();
        Node { residents, ..node.clone() }.check(&footprint).is_ok()
    };
    (1..1_u32 << candidates.len())
        .filter(|set| fits_without(*set))
        .min_by_key(|set| (set.count_ones(), chosen(*set).map(|(_, resident)| resident.bytes).sum::<crate::Bytes>()))
        .map(|set| chosen(set).map(|(_, resident)| resident.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activations, Bytes, CacheLayers, Device, Pool};

    fn model() -> Model {
        Model {
            weights: Bytes::gib(20),
            largest_tensor: Bytes::gib(1),
            vocabulary: Some(128_256),
            cache: vec![CacheLayers::Full { layers: 64, kv_heads: 8, head_dim: 128 }],
            activations: Activations::Planned { fixed: Bytes::gib(1), per_token: Bytes(0), per_sequence: Bytes(0) },
            max_context: 131_072,
        }
    }

    fn serving(context: u64, concurrency: u64) -> Serving {
        Serving {
            context,
            concurrency,
            pool: Pool::EverySequence,
            max_batched_tokens: 2048,
            kv_dtype: KvDtype::Bf16,
            device: Device::Cuda,
        }
    }

    fn node(residents: &[(&str, u64, i32, bool)]) -> Node {
        let residents = residents.iter().map(|(name, gib, priority, may_leave)| Resident {
            name: (*name).to_owned(),
            bytes: Bytes::gib(*gib),
            load_transient: Bytes(0),
            priority: *priority,
            may_leave: *may_leave,
        });
        Node { total: Bytes::gib(64), baseline: Bytes::gib(2), others: Bytes(0), residents: residents.collect() }
    }

    #[test]
    fn what_is_offered_fits_and_the_next_step_does_not() {
        let (model, node, asked) = (model(), node(&[]), serving(131_072, 4));
        assert!(node.check(&model.footprint(&asked)).is_err());
        let found = alternatives(&model, &asked, &node, 0);
        let fits = |serving| node.check(&model.footprint(&serving)).is_ok();
        let context = found.context.unwrap();
        assert!(fits(Serving { context, ..asked }) && !fits(Serving { context: context + BLOCK_TOKENS, ..asked }));
        let concurrency = found.concurrency.unwrap();
        assert!(fits(Serving { concurrency, ..asked }) && !fits(Serving { concurrency: concurrency + 1, ..asked }));
        let kv_tokens = found.kv_tokens.unwrap();
        let pool = |tokens| fits(Serving { pool: Pool::Tokens(tokens), ..asked });
        assert!(kv_tokens >= asked.context && pool(kv_tokens) && !pool(kv_tokens + BLOCK_TOKENS), "{kv_tokens}");
        assert_eq!((found.fp8_kv_cache, found.leaving), (false, None));
        assert!(alternatives(&model, &serving(65_536, 4), &node, 0).fp8_kv_cache);
    }

    #[test]
    fn weights_that_are_too_large_leave_no_context() {
        let mut large = model();
        large.weights = Bytes::gib(80);
        assert_eq!(alternatives(&large, &serving(4096, 4), &node(&[]), 0), Alternatives::default());
    }

    /// By hand: 64 GiB less 7 1/3 for the system, 20, 1, 2 and 1.25 leave 32.4 GiB, 132,778 tokens of 256 KiB.
    #[test]
    fn a_cache_that_holds_no_full_context_is_not_offered() {
        let kv_tokens = |context| alternatives(&model(), &serving(context, 4), &node(&[]), 0).kv_tokens;
        assert_eq!((kv_tokens(131_072), kv_tokens(262_144)), (Some(132_768), None));
    }

    #[test]
    fn the_fewest_and_smallest_leave_and_nobody_above_or_fixed() {
        let leaving =
            |residents: &[_], priority| alternatives(&model(), &serving(4096, 1), &node(residents), priority).leaving;
        let named = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let three = [("a", 10, 0, true), ("b", 14, 0, true), ("c", 20, 0, true)];
        assert_eq!(leaving(&three, 0), named(&["b"]));
        assert_eq!(leaving(&[("a", 10, 5, true), ("b", 14, 5, true), ("c", 20, 0, false)], 0), None);
        assert_eq!(leaving(&[("a", 6, 0, true), ("b", 7, 0, true), ("c", 31, 1, true)], 0), named(&["b", "a"]));
    }

    #[test]
    fn what_is_needed_never_falls_with_context_or_concurrency() {
        let window = CacheLayers::Window { layers: 5, kv_heads: 2, head_dim: 64, window: 512 };
        let state = CacheLayers::State { layers: 7, elements: 4096 };
        let mut mixed = model();
        mixed.cache.extend([window, state, CacheLayers::Latent { layers: 3, width: 576 }]);
        let needs = |context, concurrency| mixed.footprint(&serving(context, concurrency)).resident();
        for context in 1..3000 {
            assert!(needs(context, 3) <= needs(context + 1, 3), "{context}");
        }
        for concurrency in 1..300 {
            assert!(needs(777, concurrency) < needs(777, concurrency + 1), "{concurrency}");
        }
    }
}
