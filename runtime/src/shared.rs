//! What the engine's thread tells everyone else: how far loading is, whether the model is ready, how busy it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kindling_engine::Load;
use kindling_kernels::{Backend, Limits, LoadProgress, MemoryUse};
use kindling_models::ModelFacts;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::config::RuntimeConfig;
use crate::decode_reads::DecodeReads;
use crate::error::RuntimeError;
use crate::loaded_model::LoadedModel;
use crate::memory::MemoryGate;
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// Where in its life the model is.
#[derive(Clone)]
pub enum Phase {
    /// Being opened or read.
    Loading,
    /// It answers.
    Ready(Arc<LoadedModel>),
    /// It never will, or no longer does.
    Failed(RuntimeError),
}

/// What is known of the model as soon as its headers are read.
pub struct Description {
    /// From the checkpoint.
    pub facts: ModelFacts,
    /// What is being prepared.
    pub limits: Limits,
}

/// What is known of the model once it is prepared.
pub struct Prepared {
    /// What the backend holds.
    pub memory: MemoryUse,
    /// What of it was in memory when it was ready; all of it, where the kernel does not say or there is a budget.
    pub resident: MemoryUse,
    /// What a token costs.
    pub decode_reads: DecodeReads,
}

/// Shared by the engine's thread, the services and the metrics.
pub struct Shared {
    /// As started.
    pub config: RuntimeConfig,
    /// Name of the backend.
    pub backend: &'static str,
    /// Kernels that the backend uses on this machine.
    pub kernels: Vec<String>,
    /// Who says when memory may be taken.
    pub gate: Arc<dyn MemoryGate>,
    /// Who is in.
    pub admission: Arc<Admission>,
    /// What is measured.
    pub metrics: Metrics,
    /// Cancelled once no new requests are taken.
    pub draining: CancellationToken,
    /// Set when the headers are read.
    pub description: OnceLock<Description>,
    /// Set when the model is prepared.
    pub prepared: OnceLock<Prepared>,
    phase: watch::Sender<Phase>,
    loaded_bytes: AtomicU64,
    total_bytes: AtomicU64,
    load: Mutex<Load>,
}

impl Shared {
    /// Loading has just begun.
    pub fn new(config: RuntimeConfig, gate: Arc<dyn MemoryGate>, backend: &dyn Backend) -> Self {
        let admission = Arc::new(Admission::new(config.max_concurrency, config.max_waiting));
        Self {
            config,
            backend: backend.name(),
            kernels: backend.kernels(),
            gate,
            admission,
            metrics: Metrics::new(),
            draining: CancellationToken::new(),
            description: OnceLock::new(),
            prepared: OnceLock::new(),
            phase: watch::Sender::new(Phase::Loading),
            loaded_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            load: Mutex::default(),
        }
    }

    /// Follows the phase.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Where the model is now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Tells everyone.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// How much is read.
    pub fn progress(&self) -> LoadProgress {
        LoadProgress {
            loaded_bytes: self.loaded_bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
        }
    }

    /// More is read.
    pub fn set_progress(&self, progress: LoadProgress) {
        self.total_bytes.store(progress.total_bytes, Ordering::Relaxed);
        self.loaded_bytes.store(progress.loaded_bytes, Ordering::Relaxed);
    }

    /// How busy the engine was after its last step.
    pub fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine is that busy.
    pub fn set_load(&self, load: Load) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
        self.metrics.set_load(load);
    }

    /// The model, if it takes requests.
    ///
    /// # Errors
    /// [`Refusal`] saying why it does not.
    pub fn ready_model(&self) -> Result<Arc<LoadedModel>, Refusal> {
        const MIB: u64 = 1024 * 1024;
        match self.phase() {
            Phase::Failed(error) => Err(Refusal::Failed(error)),
            _ if self.draining.is_cancelled() => Err(Refusal::Draining),
            Phase::Loading => {
                let LoadProgress { loaded_bytes, total_bytes } = self.progress();
                Err(Refusal::Loading { loaded: loaded_bytes / MIB, total: total_bytes / MIB })
            }
            Phase::Ready(model) => Ok(model),
        }
    }
}
