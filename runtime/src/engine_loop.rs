//! The one thread that computes: takes commands, plans a step, executes it, samples, sends.
//!
//! It never waits for a client. It ends when nobody can send commands any more, or when a step fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use kindling_engine::{Engine, Event, Request, RequestId, StepPlan};
use kindling_kernels::{ExecuteError, PreparedModel};
use kindling_models::Tokenizer;
use tonic::Status;

use crate::live_request::{Arrival, LiveRequest};
use crate::shared::Shared;
use crate::step::to_step;

/// What the engine's thread is told.
pub enum Command {
    /// Start a request.
    Generate(Box<Submission>),
    /// End a request and tell its client.
    Abort(RequestId),
    /// End all requests and tell their clients.
    AbortAll,
    /// The client is gone.
    HangUp(RequestId),
}

/// A request for the engine and what goes on beside it.
pub struct Submission {
    /// For the engine.
    pub request: Request,
    /// For the way back.
    pub arrival: Arrival,
}

/// Everything that the thread owns.
pub struct EngineLoop {
    /// Told to everyone.
    pub shared: Arc<Shared>,
    /// Computes.
    pub model: Box<dyn PreparedModel>,
    /// Decides.
    pub engine: Engine,
    /// Makes text of tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Rows of logits.
    pub vocab_size: usize,
}

impl EngineLoop {
    /// Runs until nobody can send commands.
    ///
    /// # Errors
    /// [`ExecuteError`] if the backend refuses a step; all requests have got an error then.
    pub fn run(self, commands: &Receiver<Command>) -> Result<(), ExecuteError> {
        let mut state = State { parts: self, live: HashMap::new(), logits: Vec::new() };
        while state.take_commands(commands) {
            state.step()?;
        }
        Ok(())
    }
}

struct State {
    parts: EngineLoop,
    live: HashMap<RequestId, LiveRequest>,
    /// Kept between steps for its memory.
    logits: Vec<f32>,
}

impl State {
    /// Carries out all commands there are; waits for one if there is nothing else to do. False if nobody is left.
    fn take_commands(&mut self, commands: &Receiver<Command>) -> bool {
        if self.parts.engine.is_idle() {
            match commands.recv() {
                Ok(command) => self.carry_out(command),
                Err(_) => return false,
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.carry_out(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Generate(submission) => self.start(*submission),
            Command::Abort(id) => {
                if let Some(request) = self.remove(id) {
                    request.abort(&self.parts.shared.metrics);
                }
            }
            Command::AbortAll => {
                let ids: Vec<RequestId> = self.live.keys().copied().collect();
                ids.into_iter().for_each(|id| self.carry_out(Command::Abort(id)));
            }
            Command::HangUp(id) => {
                if let Some(request) = self.remove(id) {
                    tracing::debug!(request = request.name(), "client hung up");
                    request.hung_up(&self.parts.shared.metrics);
                }
            }
        }
    }

    fn start(&mut self, submission: Submission) {
        let Submission { request, arrival } = submission;
        let (id, prompt_tokens) = (request.id, request.prompt.len());
        let aborted = arrival.admitted.aborted.clone();
        let live = LiveRequest::new(arrival, &self.parts.tokenizer);
        // The order may have come while the prompt was made into tokens.
        if aborted.is_cancelled() {
            live.abort(&self.parts.shared.metrics);
            return;
        }
        if let Err(error) = self.parts.engine.add(request) {
            // The service has checked the same things before.
            tracing::error!(request = live.name(), %error, "engine refused a request");
            live.fail(Status::internal(format!("engine refused the request: {error}")), &self.parts.shared.metrics);
            return;
        }
        self.parts.shared.metrics.prompt_tokens_total.inc_by(prompt_tokens as u64);
        self.live.insert(id, live);
        self.parts.shared.set_load(self.parts.engine.load());
    }

    /// Takes a request out; its blocks are free.
    fn remove(&mut self, id: RequestId) -> Option<LiveRequest> {
        let request = self.live.remove(&id)?;
        self.parts.engine.abort(id);
        self.parts.shared.set_load(self.parts.engine.load());
        Some(request)
    }

    fn step(&mut self) -> Result<(), ExecuteError> {
        let plan = self.parts.engine.plan_step();
        if plan.is_empty() {
            return Ok(());
        }
        self.note_scheduled(&plan);
        self.parts.model.execute(&to_step(&plan), &mut self.logits)?;
        let masks = vec![None; plan.wanting_logits().count()];
        let sampled = self.parts.engine.sample(&plan, &self.logits, self.parts.vocab_size, &masks);
        let events = self.parts.engine.complete(&plan, sampled);
        self.deliver(events);
        Ok(())
    }

    fn note_scheduled(&mut self, plan: &StepPlan) {
        let metrics = &self.parts.shared.metrics;
        metrics.preemptions_total.inc_by(plan.preempted.len() as u64);
        let now = Instant::now();
        for planned in &plan.sequences {
            if let Some(request) = self.live.get_mut(&planned.id.request) {
                request.is_scheduled(planned.id.index, now, metrics);
            }
        }
    }

    fn deliver(&mut self, events: Vec<Event>) {
        let mut touched = Vec::new();
        let mut failed = Vec::new();
        for event in events {
            match event {
                Event::Token { sequence, sampled, finished } => {
                    let Some(request) = self.live.get_mut(&sequence.request) else { continue };
                    if request.token(sequence.index, sampled, finished, &self.parts.shared.metrics) {
                        self.parts.engine.stop(sequence);
                    }
                    touched.push(sequence.request);
                }
                Event::Failed { sequence, error } => failed.push((sequence.request, error)),
            }
        }
        for (id, error) in failed {
            if let Some(request) = self.remove(id) {
                tracing::error!(request = request.name(), %error, "no token could be chosen");
                request.fail(Status::internal(error.to_string()), &self.parts.shared.metrics);
            }
        }
        // Before clients know that they are served, the load is what it is without them.
        self.parts.shared.set_load(self.parts.engine.load());
        touched.dedup();
        for id in touched {
            if let Some(request) = self.live.remove(&id).and_then(LiveRequest::flush) {
                self.live.insert(id, request);
            }
        }
    }
}
