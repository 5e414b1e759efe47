//! A running model: started once, then asked by services in any number.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use kindling_kernels::{Backend, LoadProgress};

use crate::config::RuntimeConfig;
use crate::engine_loop::{Command, Submission};
use crate::error::{LoadError, RuntimeError, error_chain};
use crate::health::Health;
use crate::load::load;
use crate::memory::{MemoryGate, Ungated};
use crate::refusal::Refusal;
use crate::script::ScriptBackend;
use crate::shared::{Phase, Shared};
use crate::summary::Summary;

/// A model that is loading or ready. Clones are handles to the same one; it ends when the last is dropped.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    health: Health,
}

impl Runtime {
    /// Begins loading on a thread of its own and returns at once; asks nobody for memory. To be called within a tokio
    /// runtime.
    pub fn start(config: RuntimeConfig) -> Self {
        Self::start_gated(config, Arc::new(Ungated::default()))
    }

    /// [`Runtime::start`], but takes memory only when the gate says so.
    pub fn start_gated(config: RuntimeConfig, gate: Arc<dyn MemoryGate>) -> Self {
        let backend: Box<dyn Backend> =
            if config.script.is_some() { Box::new(ScriptBackend) } else { config.backend.make(&config) };
        Self::start_with(config, backend, gate)
    }

    /// [`Runtime::start`], with a backend of the caller's.
    pub fn start_with_backend(config: RuntimeConfig, backend: Box<dyn Backend>) -> Self {
        Self::start_with(config, backend, Arc::new(Ungated::default()))
    }

    fn start_with(config: RuntimeConfig, backend: Box<dyn Backend>, gate: Arc<dyn MemoryGate>) -> Self {
        let shared = Arc::new(Shared::new(config, gate, &*backend));
        let (commands, receiver) = channel();
        let health = Health::follow(&shared);
        let thread_shared = Arc::clone(&shared);
        let spawned = std::thread::Builder::new()
            .name("kindling-engine".to_owned())
            .spawn(move || engine_thread(&thread_shared, &*backend, &receiver));
        if let Err(error) = spawned {
            fail(&shared, RuntimeError::Load(Arc::new(LoadError::Thread(error))));
        }
        Self { shared, commands, health }
    }

    /// Waits until the model is ready.
    ///
    /// # Errors
    /// [`RuntimeError`] if it never will be.
    pub async fn ready(&self) -> Result<(), RuntimeError> {
        let mut phases = self.shared.subscribe();
        let phase = phases.wait_for(|phase| !matches!(phase, Phase::Loading)).await;
        match phase.as_deref() {
            Ok(Phase::Failed(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until the model fails, which it should never do.
    pub async fn failed(&self) -> RuntimeError {
        let mut phases = self.shared.subscribe();
        loop {
            if let Phase::Failed(error) = &*phases.borrow_and_update() {
                return error.clone();
            }
            if phases.changed().await.is_err() {
                // Cannot be: `self` holds the sender.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How much of the weights is read.
    pub fn progress(&self) -> LoadProgress {
        self.shared.progress()
    }

    /// What the model is and costs; `None` until it is prepared.
    pub fn summary(&self) -> Option<Summary> {
        Summary::new(&self.shared)
    }

    /// What Prometheus reads.
    pub fn metrics_text(&self) -> String {
        self.shared.metrics.encode()
    }

    /// Refuses new requests and waits for running ones to end; after the timeout they are ended. True if none was.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.shared.draining.cancel();
        let is_drained = tokio::time::timeout(timeout, self.shared.admission.empty()).await.is_ok();
        if !is_drained {
            let left = self.shared.admission.num_sequences();
            tracing::warn!(left, "ending requests that did not end in time");
            self.shared.admission.abort_all();
            // If the engine's thread is gone, so are the requests.
            let _ = self.commands.send(Command::AbortAll);
        }
        is_drained
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    pub(crate) fn submit(&self, submission: Submission) -> Result<(), Refusal> {
        self.commands.send(Command::Generate(Box::new(submission))).map_err(|_| self.gone())
    }

    /// A way to send commands that does not keep the runtime alive beyond its streams.
    pub(crate) fn commands(&self) -> Sender<Command> {
        self.commands.clone()
    }

    fn gone(&self) -> Refusal {
        let message = "its thread has ended".to_owned();
        match self.shared.phase() {
            Phase::Failed(error) => Refusal::Failed(error),
            _ => Refusal::Failed(RuntimeError::Panic { message }),
        }
    }
}

fn engine_thread(shared: &Arc<Shared>, backend: &dyn Backend, commands: &Receiver<Command>) {
    // Whatever unwinds drops the requests, which tells their clients.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let engine_loop = load(shared, backend).map_err(|error| RuntimeError::Load(Arc::new(error)))?;
        engine_loop.run(commands).map_err(RuntimeError::from)
    }));
    match ended {
        Ok(Ok(())) => tracing::debug!("engine ends"),
        Ok(Err(error)) => fail(shared, error),
        Err(panic) => fail(shared, RuntimeError::Panic { message: panic_message(&*panic) }),
    }
}

fn fail(shared: &Shared, error: RuntimeError) {
    tracing::error!(error = error_chain(&error), "the model cannot be served");
    shared.set_phase(Phase::Failed(error));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
