//! How long each op takes on the device, where somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaEvent;

use crate::driver::GpuError;
use crate::launch::Kernels;

/// Sums by op, from the first step on.
#[derive(Debug, Clone, Default)]
pub struct OpTimes(Arc<Mutex<BTreeMap<String, OpTime>>>);

/// All runs of an op.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OpTime {
    /// How often it ran.
    pub count: u64,
    /// What they took together.
    pub seconds: f64,
    /// Bytes of weights that they read together.
    pub weight_bytes: u64,
}

impl OpTimes {
    /// What was measured since the last time, by op.
    pub fn take(&self) -> BTreeMap<String, OpTime> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, name: String, seconds: f64, weight_bytes: usize) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = times.entry(name).or_default();
        time.count += 1;
        time.seconds += seconds;
        time.weight_bytes += weight_bytes as u64;
    }
}

/// The marks of one step: before its first op, and after each.
pub(crate) struct Marks(Vec<CudaEvent>);

impl Marks {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Marks what was started so far.
    pub(crate) fn mark(&mut self, kernels: &Kernels) -> Result<(), GpuError> {
        self.0.push(kernels.mark()?);
        Ok(())
    }

    /// Once all is done: what lies between two marks took the op of that name, which read so many bytes of weights.
    pub(crate) fn sum(self, times: &OpTimes, ops: impl Iterator<Item = (String, usize)>) -> Result<(), GpuError> {
        for (pair, (name, weight_bytes)) in self.0.windows(2).zip(ops) {
            let milliseconds = pair[0].elapsed_ms(&pair[1]).map_err(GpuError::of("tell a time"))?;
            times.add(name, f64::from(milliseconds) / 1e3, weight_bytes);
        }
        Ok(())
    }
}
