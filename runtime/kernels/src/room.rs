//! Where the memory of a prepared model comes from: it is allocated, or only counted.
//!
//! `prepare` and `predict` run the same constructors, one with each kind of room, so that what is predicted is what would
//! be allocated.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::PrepareError;

/// Types whose zero is all bytes zero.
///
/// # Safety
/// A value of all bytes zero must be valid, and the type must not be of size zero.
pub(crate) unsafe trait ZeroBytes: Sized {}

// SAFETY: as integers and floats are.
unsafe impl ZeroBytes for u8 {}
// SAFETY: as above.
unsafe impl ZeroBytes for u16 {}
// SAFETY: as above.
unsafe impl ZeroBytes for f32 {}
// SAFETY: as its elements; no array here is empty.
unsafe impl<T: ZeroBytes, const N: usize> ZeroBytes for [T; N] {}

/// See the module.
pub(crate) struct Room {
    allocates: bool,
    num_bytes: AtomicUsize,
}

impl Room {
    /// Allocates.
    pub fn real() -> Self {
        Self { allocates: true, num_bytes: AtomicUsize::new(0) }
    }

    /// Counts, and gives nothing: its vectors are empty.
    pub fn counted() -> Self {
        Self { allocates: false, num_bytes: AtomicUsize::new(0) }
    }

    /// Whether there is memory behind what it gives.
    pub fn is_real(&self) -> bool {
        self.allocates
    }

    /// What was taken, in all.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes.load(Ordering::Relaxed)
    }

    /// `count` zeroes, or what could not be had; `None` is more than can be counted. Pages are not touched: large pools
    /// cost memory when they are used.
    pub fn zeroes<T: ZeroBytes>(&self, count: Option<usize>, what: &'static str) -> Result<Vec<T>, PrepareError> {
        let count = count.unwrap_or(usize::MAX);
        let refused = || PrepareError::Memory { what, num_bytes: count.saturating_mul(size_of::<T>()) };
        let layout = Layout::array::<T>(count).map_err(|_| refused())?;
        self.num_bytes.fetch_add(layout.size(), Ordering::Relaxed);
        if layout.size() == 0 || !self.allocates {
            return Ok(Vec::new());
        }
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(refused());
        }
        // SAFETY: allocated by the global allocator with the layout of `count` elements, all of them initialised: bytes
        // of zero are a value of `T`.
        Ok(unsafe { Vec::from_raw_parts(start.cast(), count, count) })
    }
}
