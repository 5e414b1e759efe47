//! Reads the weights of a plan, one tensor at a time, and checks each against what the plan needs.

use crate::{DType, LoadProgress, Plan, PrepareError, TensorDesc, WeightError, WeightSource, WeightSpec};

/// A tensor as stored, checked against the plan.
pub(crate) struct StoredTensor<'a> {
    /// What the plan asked for.
    pub spec: &'a WeightSpec,
    /// Stored element type.
    pub dtype: DType,
    /// `dtype.bytes_for(product of shape)` bytes.
    pub bytes: &'a [u8],
}

impl StoredTensor<'_> {
    /// Rows: the outermost dimension of a matrix, 1 for a vector.
    pub fn num_rows(&self) -> usize {
        if self.spec.shape.len() == 2 { self.spec.shape[0] } else { 1 }
    }

    /// Elements per row.
    pub fn row_len(&self) -> usize {
        self.spec.shape.last().copied().unwrap_or(0)
    }

    /// Bytes per row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.num_rows().max(1)
    }
}

/// Calls `keep` with every weight of the plan in the order of their ids. One tensor is in memory at a time.
pub(crate) fn load_weights(
    plan: &Plan,
    source: &dyn WeightSource,
    progress: &mut dyn FnMut(LoadProgress),
    mut keep: impl FnMut(StoredTensor<'_>) -> Result<(), PrepareError>,
) -> Result<(), PrepareError> {
    let descriptions = plan.weights.iter().map(|spec| describe(spec, source)).collect::<Result<Vec<_>, _>>()?;
    let total_bytes = descriptions.iter().map(|desc| desc.num_bytes as u64).sum();
    let mut loaded_bytes = 0;
    let mut bytes = Vec::new();
    for (spec, desc) in plan.weights.iter().zip(&descriptions) {
        bytes.clear();
        reserve(&mut bytes, desc.num_bytes, "a tensor as stored")?;
        bytes.resize(desc.num_bytes, 0);
        source.read(&spec.name, &mut bytes)?;
        keep(StoredTensor { spec, dtype: desc.dtype, bytes: &bytes })?;
        loaded_bytes += desc.num_bytes as u64;
        progress(LoadProgress { loaded_bytes, total_bytes });
    }
    Ok(())
}

/// Reserves room for `count` more elements, or says what could not be had.
pub(crate) fn reserve<T>(values: &mut Vec<T>, count: usize, what: &'static str) -> Result<(), PrepareError> {
    let refused = PrepareError::Memory { what, num_bytes: count.saturating_mul(size_of::<T>()) };
    values.try_reserve_exact(count).map_err(|_| refused)
}

/// `count` zeroes, or what could not be had.
pub(crate) fn zeroes<T: Clone + Default>(count: Option<usize>, what: &'static str) -> Result<Vec<T>, PrepareError> {
    let mut values = Vec::new();
    let count = count.unwrap_or(usize::MAX);
    reserve(&mut values, count, what)?;
    values.resize(count, T::default());
    Ok(values)
}

fn describe(spec: &WeightSpec, source: &dyn WeightSource) -> Result<TensorDesc, WeightError> {
    let name = || spec.name.clone();
    let desc = source.describe(&spec.name).ok_or_else(|| WeightError::Missing { name: name() })?;
    if desc.shape != spec.shape {
        return Err(WeightError::Shape { name: name(), found: desc.shape, expected: spec.shape.clone() });
    }
    let row_len = spec.shape.last().copied().unwrap_or(0);
    let elements = spec.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let num_bytes = elements.and_then(|elements| desc.dtype.bytes_for(elements));
    if desc.dtype.bytes_for(row_len).is_none() || num_bytes != Some(desc.num_bytes) {
        return Err(WeightError::DType { name: name(), dtype: desc.dtype, role: "rows of this length" });
    }
    Ok(desc)
}
