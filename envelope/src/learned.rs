//! What was measured of a model corrects what is predicted of it.

use crate::{Bytes, Footprint};

/// So much of a term is believed beyond what was predicted, in percent of it, and [`MOST_BEYOND`] in any case.
const MOST_BEYOND_PERCENT: u64 = 25;
/// See [`MOST_BEYOND_PERCENT`].
const MOST_BEYOND: Bytes = Bytes::mib(256);

/// What a process was measured to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Weights.
    pub weights: Bytes,
    /// Keys, values and states.
    pub kv_cache: Bytes,
    /// What a step computes in.
    pub activations: Bytes,
    /// The whole process.
    pub total: Bytes,
}

impl Footprint {
    /// The same with each term raised to what a process with the same weights and settings held.
    ///
    /// Never lowered: a measurement says what was used so far, the promise is about the most. And raised by a quarter and
    /// 256 MiB at most: a process that leaked for a week, or a wrong report, must not keep a model from ever starting again.
    #[must_use]
    pub fn corrected(self, held: &Held) -> Self {
        let Held { weights, kv_cache, activations, total } = *held;
        let rest = total.saturating_sub(weights + kv_cache + activations);
        let raised = |predicted: Bytes, held: Bytes| {
            let most = predicted + predicted.percent(MOST_BEYOND_PERCENT) + MOST_BEYOND;
            predicted.max(held.min(most))
        };
        Self {
            weights: raised(self.weights, weights),
            kv_cache: raised(self.kv_cache, kv_cache),
            activations: raised(self.activations, activations),
            runtime: raised(self.runtime, rest),
            load_transient: self.load_transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTED: Footprint = Footprint {
        weights: Bytes::gib(8),
        kv_cache: Bytes::gib(4),
        activations: Bytes::mib(100),
        runtime: Bytes::mib(64),
        load_transient: Bytes::mib(32),
    };

    fn held(total: Bytes) -> Held {
        Held { weights: PREDICTED.weights, kv_cache: PREDICTED.kv_cache, activations: PREDICTED.activations, total }
    }

    #[test]
    fn what_is_more_is_believed() {
        let more = PREDICTED.resident() + Bytes::mib(30);
        let corrected = PREDICTED.corrected(&held(more));
        assert_eq!(corrected, Footprint { runtime: Bytes::mib(94), ..PREDICTED });
        assert_eq!(corrected.resident(), more);
        let weights = Held { weights: Bytes::gib(9), total: PREDICTED.resident() + Bytes::gib(1), ..held(more) };
        assert_eq!(PREDICTED.corrected(&weights), Footprint { weights: Bytes::gib(9), ..PREDICTED });
    }

    #[test]
    fn what_is_less_changes_nothing() {
        for less in [Held::default(), held(PREDICTED.resident()), held(Bytes::gib(3))] {
            assert_eq!(PREDICTED.corrected(&less), PREDICTED);
        }
        let unused = Held { kv_cache: Bytes(0), total: Bytes::gib(9), ..held(Bytes(0)) };
        let corrected = PREDICTED.corrected(&unused);
        assert_eq!(corrected.kv_cache, PREDICTED.kv_cache, "pages that nobody has used yet are promised all the same");
    }

    #[test]
    fn what_cannot_be_is_believed_up_to_a_bound() {
        let corrected = PREDICTED.corrected(&held(Bytes::gib(1000)));
        assert_eq!(corrected.runtime, Bytes::mib(64 + 16 + 256));
        let corrected = PREDICTED.corrected(&Held { weights: Bytes(u64::MAX), ..held(Bytes(u64::MAX)) });
        assert_eq!(corrected, Footprint { weights: Bytes::mib(8 * 1024 * 5 / 4 + 256), ..PREDICTED });
    }
}
