//! Which rows of which stored tensors a plan's weights are made of.

use std::collections::{BTreeMap, BTreeSet};

use kindling_kernels::{WeightError, WeightSource, WeightSpec};

use crate::element_slices::{MASK_BITS, Slice};

/// By stored tensor, the ranges that weights name.
#[derive(Default)]
pub(super) struct Coverage {
    tensors: BTreeMap<String, BTreeSet<Part>>,
}

/// Some rows, and of each the elements of `mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// First row, step and count; `None`: all rows.
    rows: Option<(usize, usize, usize)>,
    mask: u64,
}

/// What is used, each element counted once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub elements: u64,
    pub num_bytes: u64,
    /// The first tensor by name that is used in part only, and how many of its rows are not, or not whole.
    pub with_unused_rows: Option<(String, usize)>,
}

impl Coverage {
    pub(super) fn add(&mut self, weight: &WeightSpec) {
        let mut add = |name: &str, rows| {
            let (tensor, mask) = Slice::parse(name).map_or((name, u64::MAX), |slice| (slice.tensor, slice.mask()));
            self.tensors.entry(tensor.to_owned()).or_default().insert(Part { rows, mask });
        };
        if weight.rows.is_empty() {
            add(&weight.name, None);
        }
        for range in &weight.rows {
            add(&range.tensor, Some((range.first, range.step, range.count)));
        }
    }

    /// Whether anything of the tensor is used.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Sums up; all tensors must be there and have the rows.
    ///
    /// # Errors
    /// [`WeightError::Missing`] with the tensor's name.
    pub(super) fn sum(&self, weights: &dyn WeightSource) -> Result<Used, WeightError> {
        let mut used = Used::default();
        for (name, parts) in &self.tensors {
            let desc = weights.describe(name).ok_or_else(|| WeightError::Missing { name: name.clone() })?;
            let (num_rows, row_len) = (desc.num_rows(), desc.shape.last().copied().unwrap_or(1));
            let whole = Part { rows: None, mask: u64::MAX };
            let masks = if parts.contains(&whole) { vec![u64::MAX; num_rows] } else { masks(parts, num_rows) };
            let bits: u64 = masks.iter().map(|mask| u64::from(mask.count_ones())).sum();
            used.elements += bits * row_len as u64 / MASK_BITS as u64;
            used.num_bytes += bits * desc.row_bytes() as u64 / MASK_BITS as u64;
            let not_whole = masks.iter().filter(|mask| **mask != u64::MAX).count();
            if not_whole > 0 && used.with_unused_rows.is_none() {
                used.with_unused_rows = Some((name.clone(), not_whole));
            }
        }
        Ok(used)
    }
}

/// Of each row, the elements that are used.
fn masks(parts: &BTreeSet<Part>, num_rows: usize) -> Vec<u64> {
    let mut masks = vec![0; num_rows];
    for Part { rows, mask } in parts {
        let (first, step, count) = rows.unwrap_or((0, 1, num_rows));
        for used in masks.iter_mut().skip(first).step_by(step).take(count) {
            *used |= mask;
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use kindling_kernels::{DType, RowRange, TensorDesc, TensorScale, WeightError, WeightSource, WeightSpec};

    use super::{Coverage, Used};

    /// Every tensor is `[6, 4]` of bf16.
    struct SixRows;

    impl WeightSource for SixRows {
        fn describe(&self, name: &str) -> Option<TensorDesc> {
            let (name, shape) = (name.to_owned(), vec![6, 4]);
            Some(TensorDesc { name, dtype: DType::BF16, shape, num_bytes: 48, scale: TensorScale::One })
        }

        fn read_rows(&self, name: &str, _: Range<usize>, _: &mut [u8]) -> Result<(), WeightError> {
            Err(WeightError::Missing { name: name.to_owned() })
        }
    }

    fn of(ranges: &[(&str, usize, usize, usize)]) -> WeightSpec {
        let range = |(tensor, first, step, count): &(&str, usize, usize, usize)| RowRange {
            tensor: (*tensor).to_owned(),
            first: *first,
            step: *step,
            count: *count,
        };
        let count = ranges.iter().map(|range| range.3).sum();
        WeightSpec { name: "made".to_owned(), shape: vec![count, 4], rows: ranges.iter().map(range).collect() }
    }

    fn used(weights: &[WeightSpec]) -> Used {
        let mut coverage = Coverage::default();
        weights.iter().for_each(|weight| coverage.add(weight));
        coverage.sum(&SixRows).unwrap()
    }

    #[test]
    fn a_row_counts_once_however_often_it_is_used() {
        let whole = WeightSpec::whole("a", vec![6, 4]);
        let expected = Used { elements: 24, num_bytes: 48, with_unused_rows: None };
        assert_eq!(used(&[whole.clone(), whole.clone()]), expected);
        assert_eq!(used(&[whole, of(&[("a", 0, 1, 2)])]), expected);
        assert_eq!(used(&[of(&[("a", 0, 1, 4)]), of(&[("a", 2, 1, 4)])]), expected);
        assert_eq!(used(&[of(&[("a", 0, 2, 3)]), of(&[("a", 1, 2, 3)])]), expected);
    }

    #[test]
    fn rows_that_nobody_uses_are_named_by_their_tensor() {
        let used_in_part = used(&[of(&[("b", 0, 2, 3)]), WeightSpec::whole("a", vec![6, 4])]);
        let expected = Used { elements: 36, num_bytes: 72, with_unused_rows: Some(("b".to_owned(), 3)) };
        assert_eq!(used_in_part, expected);
    }

    #[test]
    fn slices_of_rows_must_add_up_to_whole_rows() {
        let slice = |name: &str| WeightSpec::whole(name, vec![6, 2]);
        let both = used(&[slice("a[0::2]"), slice("a[1::2]")]);
        assert_eq!(both, Used { elements: 24, num_bytes: 48, with_unused_rows: None });
        let one = used(&[slice("a[0::2]")]);
        assert_eq!(one, Used { elements: 12, num_bytes: 24, with_unused_rows: Some(("a".to_owned(), 6)) });
    }
}
