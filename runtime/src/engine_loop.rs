//! The one thread that computes: takes commands, plans a step, executes it, samples, sends.
//!
//! It never waits for a client. It ends when nobody can send commands any more, or when a step fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use kindling_engine::{Engine, Event, FinishReason, Request, RequestId, StepPlan};
use kindling_kernels::{ExecuteError, PreparedModel};
use kindling_models::Tokenizer;
use tonic::Status;

use crate::grammar::{Accepted, Constraints, Grammar, GrammarError};
use crate::live_request::{Arrival, LiveRequest};
use crate::refusal::Refusal;
use crate::script::Player;
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
    /// What its output must look like.
    pub grammar: Option<Grammar>,
    /// For the way back.
    pub arrival: Arrival,
}

/// Everything that the thread owns.
pub struct EngineLoop {
    /// Told to everyone.
    pub shared: Arc<Shared>,
    /// Computes.
    pub model: Box<dyn PreparedModel>,
    /// Chooses the tokens, if there is a script.
    pub player: Option<Player>,
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
        let mut state =
            State { parts: self, live: HashMap::new(), constraints: Constraints::default(), logits: Vec::new() };
        while state.take_commands(commands) {
            state.step(commands)?;
        }
        Ok(())
    }
}

struct State {
    parts: EngineLoop,
    live: HashMap<RequestId, LiveRequest>,
    constraints: Constraints,
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
        let Submission { request, grammar, arrival } = submission;
        let (id, prompt_tokens, num_sequences) = (request.id, request.prompt.len(), request.num_sequences);
        if let Some(player) = &mut self.parts.player {
            player.begin(&request, &self.parts.tokenizer);
        }
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
        if let Some(grammar) = grammar {
            self.constraints.add(id, num_sequences, grammar);
        }
        self.parts.shared.set_load(self.parts.engine.load());
    }

    /// Takes a request out; its blocks are free.
    fn remove(&mut self, id: RequestId) -> Option<LiveRequest> {
        let request = self.live.remove(&id)?;
        self.constraints.remove(id);
        self.parts.engine.abort(id);
        self.parts.shared.set_load(self.parts.engine.load());
        Some(request)
    }

    fn step(&mut self, commands: &Receiver<Command>) -> Result<(), ExecuteError> {
        let plan = self.parts.engine.plan_step();
        if plan.is_empty() {
            return Ok(());
        }
        self.note_scheduled(&plan);
        let unable = self.constraints.begin(&plan);
        self.parts.model.execute(&to_step(&plan), &mut self.logits)?;
        self.play(&plan, commands);
        let (masks, lost) = self.constraints.masks(&plan, &self.parts.shared.metrics);
        unable.into_iter().chain(lost).for_each(|(id, reason)| self.fail(id, grammar_failed(&reason)));
        let sampled = self.parts.engine.sample(&plan, &self.logits, self.parts.vocab_size, &masks);
        let events = self.parts.engine.complete(&plan, sampled);
        self.note_guesses(&plan, &events);
        self.deliver(events);
        Ok(())
    }

    /// Puts the script's tokens into the logits, if there is a script, at its pace.
    fn play(&mut self, plan: &StepPlan, commands: &Receiver<Command>) {
        let Some(player) = &mut self.parts.player else { return };
        player.retain(|id| self.live.contains_key(&id));
        player.play(plan, &mut self.logits, self.parts.vocab_size);
        let pause = player.pause(plan);
        self.pause(pause, commands);
    }

    /// Does nothing but carry out commands: a script's slow token keeps nobody from hanging up.
    fn pause(&mut self, pause: Duration, commands: &Receiver<Command>) {
        let end = Instant::now() + pause;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match commands.recv_timeout(left) {
                Ok(command) => self.carry_out(command),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn note_scheduled(&mut self, plan: &StepPlan) {
        let metrics = &self.parts.shared.metrics;
        let now = Instant::now();
        for planned in &plan.sequences {
            if let Some(request) = self.live.get_mut(&planned.id.request) {
                request.is_scheduled(planned, now, metrics);
            }
        }
        // Who has to wait is told so much: their clients then know that they are in.
        self.live.values_mut().for_each(LiveRequest::tell_prompt);
    }

    fn note_guesses(&mut self, plan: &StepPlan, events: &[Event]) {
        for planned in plan.sequences.iter().filter(|planned| planned.num_drafts > 0) {
            let is_of = |event: &&Event| matches!(event, Event::Token { sequence, .. } if *sequence == planned.id);
            let num_tokens = events.iter().filter(is_of).count();
            if let Some(request) = self.live.get_mut(&planned.id.request) {
                request.guessed(planned.id.index, planned.num_drafts, num_tokens.saturating_sub(1));
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
                    let ended = match self.constraints.accept(sequence, sampled.token_id) {
                        // The model's own end is the end of the grammar too.
                        _ if is_stop_token(finished) => finished,
                        Some(Accepted::Complete) => Some(FinishReason::Stop { token_id: None }),
                        Some(Accepted::Failed(reason)) => {
                            failed.push((sequence.request, grammar_failed(&reason)));
                            continue;
                        }
                        Some(Accepted::More) | None => finished,
                    };
                    let is_stopped = request.token(sequence.index, sampled, ended, &self.parts.shared.metrics);
                    if is_stopped || (ended.is_some() && finished.is_none()) {
                        self.parts.engine.stop(sequence);
                    }
                    touched.push(sequence.request);
                }
                Event::Failed { sequence, error } => {
                    failed.push((sequence.request, Status::internal(error.to_string())));
                }
            }
        }
        failed.into_iter().for_each(|(id, error)| self.fail(id, error));
        // Before clients know that they are served, the load is what it is without them.
        self.parts.shared.set_load(self.parts.engine.load());
        touched.dedup();
        for id in touched {
            match self.live.remove(&id).and_then(LiveRequest::flush) {
                Some(request) => drop(self.live.insert(id, request)),
                None => self.constraints.remove(id),
            }
        }
    }

    /// Ends a request with an error; others go on.
    fn fail(&mut self, id: RequestId, error: Status) {
        if let Some(request) = self.remove(id) {
            tracing::error!(request = request.name(), error = error.message(), "a request failed");
            request.fail(error, &self.parts.shared.metrics);
        }
    }
}

fn is_stop_token(finished: Option<FinishReason>) -> bool {
    matches!(finished, Some(FinishReason::Stop { token_id: Some(_) }))
}

/// A grammar that was accepted and then broke down is too complex: the client's to change.
fn grammar_failed(reason: &str) -> Status {
    Refusal::from(GrammarError::Form { kind: "structured_output", reason: reason.to_owned() }).into()
}
