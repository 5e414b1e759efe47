//! How fast the device reads its memory.

use crate::driver::{GpuError, Loaded};
use crate::launch::{Arg, Kernels, Shape};
use crate::memory::Region;

/// Blocks for each multiprocessor, enough to keep it busy.
const BLOCKS_EACH: u32 = 8;
const THREADS: u32 = 256;

/// Of the second level cache: what is read is gone before it is read again.
const TIMES_CACHE: usize = 5;

impl Loaded {
    /// The fewest bytes whose reading says something of the memory, and not of a cache.
    pub fn least_read_bytes(&self) -> usize {
        TIMES_CACHE * usize::try_from(self.gpu.l2_bytes).unwrap_or(0).max(1 << 20)
    }

    /// Bytes per second, of so many bytes that are read `runs` times one after another; each run counts by itself.
    ///
    /// # Errors
    /// If there is no memory for them, or the driver fails.
    pub fn read_bandwidth(&self, num_bytes: usize, runs: usize) -> Result<Vec<f64>, GpuError> {
        let blocks = self.multiprocessors * BLOCKS_EACH;
        let memory = Region::new(&self.context, num_bytes, "measure the bandwidth")?;
        let results =
            Region::new(&self.context, (blocks * THREADS) as usize * size_of::<u32>(), "measure the bandwidth")?;
        let kernels = Kernels::new(self, ["read_bandwidth".to_owned()])?;
        let args = [Arg::At(memory.at(0)), Arg::At(results.at(0)), Arg::U64((num_bytes / 16) as u64)];
        let mut all = Vec::with_capacity(runs);
        // The first one warms up.
        for run in 0..=runs {
            let start = kernels.mark()?;
            kernels.launch("read_bandwidth", Shape::blocks((blocks, 1, 1), THREADS), &args)?;
            let milliseconds = start.elapsed_ms(&kernels.mark()?).map_err(GpuError::of("tell a time"))?;
            if run > 0 {
                all.push(num_bytes as f64 / (f64::from(milliseconds) / 1e3));
            }
        }
        Ok(all)
    }
}
