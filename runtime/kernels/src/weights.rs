//! Where a backend gets weights from: tensors by name, read in stages, never mapped.
//!
//! Readers (`kindling-models`) implement [`WeightSource`]; backends read each row once, in `prepare`.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::DType;

/// What is known of a stored tensor before it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDesc {
    /// Name in the checkpoint.
    pub name: String,
    /// Stored element type.
    pub dtype: DType,
    /// Row-major, outermost first: a linear weight is `[out_features, in_features]`, a norm `[hidden_size]`.
    pub shape: Vec<usize>,
    /// Stored size; always `dtype.bytes_for(product of shape)`, the reader has checked it.
    pub num_bytes: usize,
    /// What every element is multiplied with, beyond the scales within its blocks.
    pub scale: TensorScale,
}

/// A factor of all elements of a tensor, kept outside of its bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum TensorScale {
    /// None.
    #[default]
    One,
    /// The same for all.
    Tensor(f32),
    /// One per row.
    Rows(Arc<[f32]>),
}

/// Tensors of one checkpoint, each in one of the types of [`DType`]. Formats that spread a tensor over several stored
/// ones (packed values, block scales, a global scale) are put together behind this trait.
pub trait WeightSource: Send + Sync {
    /// Describes a tensor, or `None` if the checkpoint has none of this name.
    fn describe(&self, name: &str) -> Option<TensorDesc>;

    /// Reads some rows of a tensor (all dimensions but the innermost, flattened) into `out`, which must be exactly as
    /// long as they are.
    ///
    /// # Errors
    /// [`WeightError`] naming the tensor if it is unknown, the size disagrees or the file ends early.
    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError>;

    /// Reads a whole tensor.
    ///
    /// # Errors
    /// As [`WeightSource::read_rows`].
    fn read(&self, name: &str, out: &mut [u8]) -> Result<(), WeightError> {
        let desc = self.describe(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        self.read_rows(name, 0..desc.num_rows(), out)
    }
}

impl TensorDesc {
    /// Rows: the product of all dimensions but the innermost.
    pub fn num_rows(&self) -> usize {
        let outer = self.shape.len().saturating_sub(1);
        self.shape[..outer].iter().product()
    }

    /// Bytes per row.
    pub fn row_bytes(&self) -> usize {
        self.num_bytes / self.num_rows().max(1)
    }
}

/// Why a tensor could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The checkpoint lacks it.
    #[error("tensor {name} is missing from the checkpoint")]
    Missing {
        /// Name asked for.
        name: String,
    },
    /// It is there in another shape than the architecture needs.
    #[error("tensor {name} has shape {found:?}, the architecture needs {expected:?}")]
    Shape {
        /// Name asked for.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the plan needs.
        expected: Vec<usize>,
    },
    /// It is stored in a type this backend cannot use there.
    #[error("tensor {name} is stored as {dtype}, which cannot be used as {role}")]
    DType {
        /// Name asked for.
        name: String,
        /// Stored type.
        dtype: DType,
        /// What it was needed for.
        role: &'static str,
    },
    /// Rows that a weight is put together from are not in the tensor, or not of one type.
    #[error("tensor {name} cannot give a part of {weight}: {problem}")]
    Part {
        /// Stored tensor.
        name: String,
        /// What was put together.
        weight: String,
        /// What is wrong.
        problem: String,
    },
    /// Reading failed.
    #[error("read tensor {name}")]
    Read {
        /// Name asked for.
        name: String,
        /// The failed read.
        source: io::Error,
    },
}
