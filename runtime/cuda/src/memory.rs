//! Memory of a device: a few regions that are taken at the start and given back at the end, and nothing between.
#![allow(unsafe_code, reason = "the driver is foreign code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::{CudaContext, CudaStream, result, sys};

use crate::driver::GpuError;

/// Where things in a region begin: what 128-bit loads and the driver's own copies are fast with.
pub(crate) const ALIGNMENT: usize = 256;

/// An address of the device.
pub(crate) type Address = u64;

/// What stands on both sides of a guarded region, for tests: somebody who writes there is found out.
const GUARD: [u8; ALIGNMENT] = [0xa5; ALIGNMENT];

/// What became of guarded regions that were given back.
#[derive(Debug, Clone, Default)]
pub struct Guards(Arc<[AtomicUsize; 2]>);

impl Guards {
    /// Regions beside which nobody wrote, and those beside which somebody did.
    pub fn seen(&self) -> (usize, usize) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }
}

/// One piece of plain device memory, zero at first.
pub(crate) struct Region {
    context: Arc<CudaContext>,
    start: Address,
    num_bytes: usize,
    guards: Option<Guards>,
}

impl Region {
    /// Takes memory and clears it; `what` is for the message if there is none. Nothing is taken for no bytes.
    pub(crate) fn new(context: &Arc<CudaContext>, num_bytes: usize, what: &'static str) -> Result<Self, GpuError> {
        let mut region = Self { context: Arc::clone(context), start: 0, num_bytes, guards: None };
        if num_bytes > 0 {
            let failed = || GpuError::of(what);
            context.bind_to_thread().map_err(failed())?;
            // SAFETY: a context is bound.
            region.start = unsafe { result::malloc_sync(num_bytes) }.map_err(failed())?;
            // SAFETY: just allocated, so many bytes.
            unsafe { result::memset_d8_sync(region.start, 0, num_bytes) }.map_err(failed())?;
        }
        Ok(region)
    }

    /// The same between two guards.
    pub(crate) fn guarded(
        context: &Arc<CudaContext>,
        num_bytes: usize,
        what: &'static str,
        guards: Guards,
    ) -> Result<Self, GpuError> {
        let all = num_bytes.checked_add(2 * GUARD.len()).ok_or(GpuError::NoMemory { what })?;
        let mut region = Self::new(context, all, what)?;
        region.write(0, &GUARD)?;
        region.write(GUARD.len() + num_bytes, &GUARD)?;
        region.start += GUARD.len() as u64;
        (region.num_bytes, region.guards) = (num_bytes, Some(guards));
        Ok(region)
    }

    /// Looks at both guards.
    fn is_intact(&self) -> bool {
        [self.start - GUARD.len() as u64, self.start + self.num_bytes as u64].iter().all(|side| {
            let mut found = [0; GUARD.len()];
            // SAFETY: `guarded` has allocated so many bytes on both sides; the copy is done when the call returns.
            let copied = unsafe { result::memcpy_dtoh_sync(&mut found, *side) };
            copied.is_ok() && found == GUARD
        })
    }

    /// What it holds.
    pub(crate) const fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// The address of a byte in it.
    pub(crate) fn at(&self, offset: usize) -> Address {
        assert!(offset <= self.num_bytes, "byte {offset} of {}", self.num_bytes);
        self.start + offset as u64
    }

    /// Copies to a place in it, and waits.
    pub(crate) fn write<T: Copy>(&self, offset: usize, values: &[T]) -> Result<(), GpuError> {
        self.check(offset, size_of_val(values));
        if values.is_empty() {
            return Ok(());
        }
        let failed = || GpuError::of("copy to the device");
        self.context.bind_to_thread().map_err(failed())?;
        // SAFETY: inside the region, and the copy is done when the call returns.
        unsafe { result::memcpy_htod_sync(self.start + offset as u64, values) }.map_err(failed())
    }

    /// Copies to a place in it in the order of a stream. The values may be changed when something was read on it.
    pub(crate) fn write_on<T: Copy>(&self, stream: &CudaStream, offset: usize, values: &[T]) -> Result<(), GpuError> {
        self.check(offset, size_of_val(values));
        let failed = || GpuError::of("copy to the device");
        self.context.bind_to_thread().map_err(failed())?;
        // SAFETY: inside the region; the driver takes what is not pinned before the call returns.
        unsafe { result::memcpy_htod_async(self.start + offset as u64, values, stream.cu_stream()) }.map_err(failed())
    }

    /// Copies from a place in it in the order of a stream, and waits.
    pub(crate) fn read_on<T: Copy>(
        &self,
        stream: &CudaStream,
        offset: usize,
        values: &mut [T],
    ) -> Result<(), GpuError> {
        self.check(offset, size_of_val(values));
        let failed = || GpuError::of("copy from the device");
        self.context.bind_to_thread().map_err(failed())?;
        if !values.is_empty() {
            let at = self.start + offset as u64;
            // SAFETY: inside the region, and nobody else has the values before the stream was waited for.
            unsafe { result::memcpy_dtoh_async(values, at, stream.cu_stream()) }.map_err(failed())?;
        }
        stream.synchronize().map_err(GpuError::of("compute"))
    }

    /// Clears a place in the order of a stream.
    pub(crate) fn clear_on(&self, stream: &CudaStream, offset: usize, len: usize) -> Result<(), GpuError> {
        self.check(offset, len);
        let failed = || GpuError::of("clear memory");
        self.context.bind_to_thread().map_err(failed())?;
        // SAFETY: inside the region.
        unsafe { result::memset_d8_async(self.start + offset as u64, 0, len, stream.cu_stream()) }.map_err(failed())
    }

    /// Copies between places that do not overlap, in the order of a stream.
    pub(crate) fn copy_within_on(
        &self,
        stream: &CudaStream,
        (from, to): (usize, usize),
        len: usize,
    ) -> Result<(), GpuError> {
        self.check(from, len);
        self.check(to, len);
        if from == to {
            return Ok(());
        }
        let failed = || GpuError::of("copy memory");
        self.context.bind_to_thread().map_err(failed())?;
        let [from, to] = [from, to].map(|offset| self.start + offset as u64);
        // SAFETY: inside the region, and slots are apart from each other.
        unsafe { result::memcpy_dtod_async(to, from, len, stream.cu_stream()) }.map_err(failed())
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.num_bytes), "{len} bytes at {offset} of {}", self.num_bytes);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.start != 0 && self.context.bind_to_thread().is_ok() {
            let mut start = self.start;
            if let Some(guards) = &self.guards {
                guards.0[usize::from(!self.is_intact())].fetch_add(1, Ordering::Relaxed);
                start -= GUARD.len() as u64;
            }
            // SAFETY: allocated in `new`, and nobody has its address any more. What the driver says at the end helps nobody.
            let _ = unsafe { result::memory_free(start as sys::CUdeviceptr) };
        }
    }
}

/// Places in a region that is to be: one after another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Places {
    num_bytes: usize,
}

impl Places {
    /// The next place of so many bytes; `None` if they can't be counted.
    pub(crate) fn take(&mut self, num_bytes: Option<usize>) -> Option<usize> {
        let start = self.num_bytes;
        self.num_bytes = start.checked_add(num_bytes?)?.checked_next_multiple_of(ALIGNMENT)?;
        Some(start)
    }

    /// The same, but as near to the one before as this alignment allows.
    pub(crate) fn take_close(&mut self, num_bytes: Option<usize>, alignment: usize) -> Option<usize> {
        let start = self.num_bytes.checked_next_multiple_of(alignment)?;
        self.num_bytes = start.checked_add(num_bytes?)?;
        Some(start)
    }

    /// All of them.
    pub(crate) const fn num_bytes(self) -> usize {
        self.num_bytes
    }
}
