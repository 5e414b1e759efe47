//! Where the memory of a prepared model comes from: it is allocated, or only counted.
//!
//! `prepare` and `predict` run the same constructors, one with each kind of room, so that what is predicted is what would
//! be allocated.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::PrepareError;

/// Pages are no smaller on any machine.
const SMALLEST_PAGE: usize = 4096;
/// Less is not worth a thread.
const SHARE: usize = 16 << 20;

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
    /// Threads that touch what it gives; none, and pages come when they are used.
    fillers: usize,
    num_bytes: AtomicUsize,
}

impl Room {
    /// Allocates.
    pub fn real() -> Self {
        Self { allocates: true, fillers: 0, num_bytes: AtomicUsize::new(0) }
    }

    /// Allocates, and has so many threads touch every page: what is given is in memory.
    pub fn filled(num_threads: usize) -> Self {
        Self { fillers: num_threads.max(1), ..Self::real() }
    }

    /// Counts, and gives nothing: its vectors are empty.
    pub fn counted() -> Self {
        Self { allocates: false, fillers: 0, num_bytes: AtomicUsize::new(0) }
    }

    /// Whether there is memory behind what it gives.
    pub fn is_real(&self) -> bool {
        self.allocates
    }

    /// What was taken, in all.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes.load(Ordering::Relaxed)
    }

    /// `count` zeroes, or what could not be had; `None` is more than can be counted. Unless the room is a filled one, pages
    /// are not touched: large pools cost memory when they are used then.
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
        if self.fillers > 0 {
            // SAFETY: just allocated, and nobody else knows it yet.
            touch(unsafe { std::slice::from_raw_parts_mut(start, layout.size()) }, self.fillers);
        }
        // SAFETY: allocated by the global allocator with the layout of `count` elements, all of them initialised: bytes
        // of zero are a value of `T`.
        Ok(unsafe { Vec::from_raw_parts(start.cast(), count, count) })
    }
}

/// Writes a zero into every page of what is zero already.
fn touch(bytes: &mut [u8], num_threads: usize) {
    let share = bytes.len().div_ceil(num_threads).max(SHARE).next_multiple_of(SMALLEST_PAGE);
    let touch = |share: &mut [u8]| {
        let last = share.len() - 1;
        for index in (0..last).step_by(SMALLEST_PAGE).chain([last]) {
            // SAFETY: in bounds. Volatile, since a zero on zeroes is what an optimiser leaves out.
            unsafe { std::ptr::write_volatile(&raw mut share[index], 0) };
        }
    };
    std::thread::scope(|scope| {
        let mut shares = bytes.chunks_mut(share);
        let own = shares.next();
        for share in shares {
            scope.spawn(move || touch(share));
        }
        own.map(touch);
    });
}
