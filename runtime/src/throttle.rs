//! Reads weights no faster than a given rate.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kindling_kernels::{TensorDesc, WeightError, WeightSource};

/// A source that sleeps after each read until its bytes are due.
pub struct ThrottledWeights {
    inner: Arc<dyn WeightSource>,
    bytes_per_second: u64,
    started: Instant,
    bytes_read: AtomicU64,
}

impl ThrottledWeights {
    /// Starts counting now.
    pub fn new(inner: Arc<dyn WeightSource>, bytes_per_second: u64) -> Self {
        Self {
            inner,
            bytes_per_second: bytes_per_second.max(1),
            started: Instant::now(),
            bytes_read: AtomicU64::new(0),
        }
    }
}

impl WeightSource for ThrottledWeights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        self.inner.describe(name)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        self.inner.read_rows(name, rows, out)?;
        let num_bytes = out.len() as u64;
        let bytes_read = self.bytes_read.fetch_add(num_bytes, Ordering::Relaxed) + num_bytes;
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let due = Duration::from_secs_f64(bytes_read as f64 / self.bytes_per_second as f64);
        std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        Ok(())
    }
}
