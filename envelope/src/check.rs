//! Whether a node has room for one more model: the promise that is made before anything starts.

use crate::{Bytes, Footprint};

/// Kept free for everything else while models serve, on a machine that is large enough.
const FLOOR: Bytes = Bytes::gib(8);
/// On a smaller machine the floor is this share of its memory.
const FLOOR_SHARE: u64 = 12;
/// The share of the memory that no model gets, in per cent.
const SYSTEM_PERCENT: u64 = 10;

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `MemTotal`.
    pub total: Bytes,
    /// What was in use before any model of ours was there.
    pub baseline: Bytes,
    /// What others may still take: their pods' requests beyond their present use.
    pub others: Bytes,
    /// Models that hold memory or are about to.
    pub residents: Vec<Resident>,
}

/// A model that has its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// What it is called.
    pub name: String,
    /// As frozen when it was admitted.
    pub bytes: Bytes,
    /// While it loads; nothing afterwards.
    pub load_transient: Bytes,
    /// Higher ones leave later.
    pub priority: i32,
    /// Whether it may be unloaded for another.
    pub may_leave: bool,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "needs {needed}, of {total} are {free} free for models ({system} are kept for the system{})", held_by_models(*held)
)]
pub struct Shortfall {
    /// By the model, its loading included.
    pub needed: Bytes,
    /// Memory of the node.
    pub total: Bytes,
    /// Kept for the system and for others.
    pub system: Bytes,
    /// By models that are there or come.
    pub held: Bytes,
    /// The rest.
    pub free: Bytes,
}

/// Nobody is mentioned who holds nothing.
fn held_by_models(held: Bytes) -> String {
    if held == Bytes(0) { String::new() } else { format!(", {held} are held by models") }
}

impl Node {
    /// What must stay available while models serve.
    pub fn floor(&self) -> Bytes {
        FLOOR.min(Bytes(self.total.0 / FLOOR_SHARE))
    }

    /// What no model gets: for the system, as measured or at least its share, and for others.
    pub fn system(&self) -> Bytes {
        self.total.percent(SYSTEM_PERCENT).max(self.baseline + self.floor()) + self.others
    }

    /// What models hold.
    pub fn held(&self) -> Bytes {
        self.residents.iter().map(|resident| resident.bytes).sum()
    }

    /// Finds room for a model beside those that are there; the answer is what stays free afterwards. Models load one
    /// after the other, so of what loading takes the largest counts.
    ///
    /// # Errors
    /// All terms, if there is none.
    pub fn check(&self, new: &Footprint) -> Result<Bytes, Shortfall> {
        let loading = self.residents.iter().map(|resident| resident.load_transient);
        let transient = loading.fold(new.load_transient, Bytes::max);
        let (needed, system, held) = (new.resident() + transient, self.system(), self.held());
        let free = self.total.saturating_sub(system + held);
        if needed > free {
            return Err(Shortfall { needed, total: self.total, system, held, free });
        }
        Ok(free.saturating_sub(needed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn footprint(resident: Bytes) -> Footprint {
        let nothing = Bytes(0);
        Footprint {
            weights: resident,
            kv_cache: nothing,
            activations: nothing,
            runtime: nothing,
            load_transient: Bytes::gib(1),
        }
    }

    fn spark(baseline: Bytes, residents: Vec<Resident>) -> Node {
        let total = Bytes::mib(124_611);
        Node { total, baseline, others: Bytes(0), residents }
    }

    fn resident(bytes: Bytes) -> Resident {
        Resident { name: "a".into(), bytes, load_transient: Bytes(0), priority: 0, may_leave: true }
    }

    /// By hand: 121.69 GiB; 70B 66.9, 32B 40.9, loading 1, system 12.17: 120.97.
    #[test]
    fn two_large_models_just_fit_a_spark_that_does_little_else() {
        let large = Bytes::mib(68_506);
        let other = footprint(Bytes::mib(41_882));
        let free = spark(Bytes::gib(3), vec![resident(large)]).check(&other).unwrap();
        assert!((Bytes::mib(600)..Bytes::mib(800)).contains(&free), "{free}");
        let said = spark(Bytes::gib(19), vec![resident(large)]).check(&other).unwrap_err();
        assert_eq!((said.system, said.held), (Bytes::gib(27), large));
        assert!(spark(Bytes::gib(19), Vec::new()).check(&footprint(large)).is_ok());
    }

    #[test]
    fn the_last_byte_decides() {
        let node = spark(Bytes::gib(3), Vec::new());
        let room = node.total.saturating_sub(node.system() + Bytes::gib(1));
        assert_eq!(node.check(&footprint(room)), Ok(Bytes(0)));
        let said = node.check(&footprint(room + Bytes(1))).unwrap_err();
        assert_eq!(said.needed, said.free + Bytes(1));
        assert!(said.to_string().starts_with("needs 109.52 GiB, of 121.69 GiB are 109.52 GiB free"), "{said}");
    }

    #[test]
    fn a_model_that_loads_beside_it_counts_with_what_loading_takes() {
        let mut loading = resident(Bytes::gib(10));
        loading.load_transient = Bytes::gib(5);
        let (alone, beside) = (spark(Bytes(0), vec![resident(Bytes::gib(10))]), spark(Bytes(0), vec![loading]));
        let new = footprint(Bytes::gib(20));
        assert_eq!(alone.check(&new).unwrap(), beside.check(&new).unwrap() + Bytes::gib(4));
    }

    #[test]
    fn small_machines_keep_less_back() {
        let node = |gib| Node { total: Bytes::gib(gib), ..spark(Bytes::gib(1), Vec::new()) };
        assert_eq!(node(24).floor(), Bytes::gib(2));
        assert_eq!((node(24).system(), node(128).floor()), (Bytes::gib(3), Bytes::gib(8)));
    }
}
