//! Which bytes of a file are here.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of ranges of bytes that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans {
    /// Where each begins, and where it ends.
    ends: BTreeMap<u64, u64>,
}

impl Spans {
    /// Adds a range; one that is here already changes nothing.
    pub(super) fn add(&mut self, span: Range<u64>) {
        let Range { mut start, mut end } = span;
        if start >= end {
            return;
        }
        let joined: Vec<u64> =
            self.ends.range(..=end).rev().take_while(|(_, e)| **e >= start).map(|(s, _)| *s).collect();
        for from in joined {
            end = end.max(self.ends.remove(&from).unwrap_or(end));
            start = start.min(from);
        }
        self.ends.insert(start, end);
    }

    /// How many bytes are here.
    pub(super) fn num_bytes(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }

    /// What is not here of a file of so many bytes, in order.
    pub(super) fn missing(&self, total_bytes: u64) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = 0;
        for (&start, &end) in &self.ends {
            if at < start.min(total_bytes) {
                missing.push(at..start.min(total_bytes));
            }
            at = end;
        }
        if at < total_bytes {
            missing.push(at..total_bytes);
        }
        missing
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range is meant")]
mod tests {
    use super::*;

    fn of(spans: &[Range<u64>]) -> Spans {
        let mut all = Spans::default();
        spans.iter().for_each(|span| all.add(span.clone()));
        all
    }

    #[test]
    fn ranges_that_touch_become_one_in_whatever_order_they_come() {
        let whole = of(&[0..10]);
        for parts in [[0..3, 3..7, 7..10], [7..10, 0..3, 3..7], [3..7, 0..10, 4..5], [0..8, 2..10, 5..5]] {
            assert_eq!(of(&parts), whole, "{parts:?}");
        }
        assert_eq!(whole.num_bytes(), 10);
    }

    #[test]
    fn what_is_missing_is_between_and_behind() {
        assert_eq!(of(&[]).missing(4), [0..4]);
        assert_eq!(of(&[2..3, 5..7]).missing(10), [0..2, 3..5, 7..10]);
        assert_eq!(of(&[2..3, 5..7]).missing(6), [0..2, 3..5], "no more than the file has");
        assert_eq!(of(&[0..10]).missing(10), []);
        assert_eq!(of(&[]).missing(0), []);
    }

    #[test]
    fn against_a_list_of_bytes() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..500 {
            let (mut spans, mut bytes) = (Spans::default(), [false; 40]);
            for _ in 0..random(12) {
                let start = random(40);
                let end = start + random(41 - start);
                spans.add(start..end);
                bytes[start as usize..end as usize].fill(true);
            }
            let mut left = bytes.map(|is_here| !is_here);
            for gap in spans.missing(40) {
                assert!(!gap.is_empty() && left[gap.start as usize..gap.end as usize].iter().all(|left| *left));
                left[gap.start as usize..gap.end as usize].fill(false);
            }
            assert!(left.iter().all(|left| !left), "all that is missing is said");
            assert_eq!(spans.num_bytes(), bytes.iter().filter(|is_here| **is_here).count() as u64);
        }
    }
}
