//! A plan on a device: its weights, cache and activations, and the kernels that it needs.

mod attention;
mod experts;
mod graphs;
mod ops;
mod recurrent;

use std::collections::BTreeSet;
use std::sync::Arc;

use kindling_kernels::rotary_frequencies::rotary_frequencies;
use kindling_kernels::{BufferId, ExecuteError, Limits, MemoryUse, Op, Plan, PreparedModel, Rows, Step};

use crate::activations::ActivationPlaces;
use crate::driver::{GpuError, Loaded};
use crate::kv_cache::KvCaches;
use crate::launch::{Activations, Kernels};
use crate::memory::{Address, Region};
use crate::timing::{Marks, OpTimes};
use crate::weights::{Form, Layout, Weights};
pub(crate) use graphs::Graphs;

/// See the module.
pub(crate) struct CudaModel {
    plan: Plan,
    limits: Limits,
    weights: Weights,
    precision: Activations,
    caches: KvCaches,
    places: ActivationPlaces,
    activations: Region,
    kernels: Kernels,
    /// By group and layer.
    kv_scales: Vec<Vec<[f32; 2]>>,
    /// The step's data, as it is copied.
    words: Vec<u32>,
    /// What the driver said when it failed; nothing is asked of it after that.
    failure: Option<GpuError>,
    /// For who wants to know how long ops take.
    pub(crate) times: Option<OpTimes>,
    /// Of decoding steps.
    pub(crate) graphs: Graphs,
    /// Last, so that it is given back last.
    _loaded: Arc<Loaded>,
}

/// How large a step is.
#[derive(Debug, Clone, Copy)]
struct StepSize {
    tokens: u32,
    sequences: u32,
    logits: u32,
    /// Tokens of the longest sequence after the step.
    context: usize,
}

/// All kernels that a plan needs.
pub(crate) fn kernels(plan: &Plan, weights: (&Layout, Activations), limits: &Limits) -> BTreeSet<String> {
    plan.ops.iter().flat_map(|op| ops::kernels(op, plan, weights, limits)).collect()
}

impl CudaModel {
    /// Asks for the kernels and copies what is small.
    pub(crate) fn new(
        (loaded, plan, limits): (&Arc<Loaded>, &Plan, &Limits),
        (weights, precision): (Weights, Activations),
        caches: KvCaches,
        (places, activations): (ActivationPlaces, Region),
    ) -> Result<Self, GpuError> {
        for (spec, (place, _)) in plan.rotaries.iter().zip(&places.rotaries) {
            let factors = spec.frequency_factors.map(|id| weights.values(plan, id));
            activations.write(*place, &rotary_frequencies(spec, factors))?;
        }
        let kernels = Kernels::new(loaded, kernels(plan, (weights.layout(), precision), limits))?;
        Ok(Self {
            kv_scales: attention::kv_scales(plan, &weights, limits.kv_type),
            plan: plan.clone(),
            limits: limits.clone(),
            weights,
            precision,
            caches,
            places,
            activations,
            kernels,
            words: Vec::new(),
            failure: None,
            times: None,
            graphs: Graphs::default(),
            _loaded: Arc::clone(loaded),
        })
    }

    fn run(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), GpuError> {
        self.places.step_places.fill(step, &mut self.words);
        self.activations.write_on(self.kernels.stream(), self.places.step, &self.words)?;
        let contexts = step.sequences.iter().map(|sequence| sequence.context_len + sequence.query_len);
        let size = StepSize {
            tokens: step.token_ids.len() as u32,
            sequences: step.sequences.len() as u32,
            logits: step.logit_indices.len() as u32,
            context: contexts.max().unwrap_or(0),
        };
        self.prepare_slots(step)?;
        let marks = match &self.times {
            Some(_) => Some(self.start_timed(size)?),
            None => {
                if !self.start_graph(step, size)? {
                    self.plan.ops.iter().try_for_each(|op| self.start(op, size))?;
                }
                None
            }
        };
        for copy in &step.copies_after {
            self.caches.copy_slot(self.kernels.stream(), copy)?;
        }
        logits.resize(step.logit_indices.len() * self.plan.vocab_size, 0.0);
        self.activations.read_on(self.kernels.stream(), self.places.buffer(self.plan.logits), logits)?;
        match (marks, &self.times) {
            (Some(marks), Some(times)) => marks.sum(times, self.plan.ops.iter().map(|op| self.label(op))),
            _ => Ok(()),
        }
    }

    /// Starts one op after another, with a mark before each and one at the end.
    fn start_timed(&self, size: StepSize) -> Result<Marks, GpuError> {
        let mut marks = Marks::new();
        for op in &self.plan.ops {
            marks.mark(&self.kernels)?;
            self.start(op, size)?;
        }
        marks.mark(&self.kernels)?;
        Ok(marks)
    }

    /// What an op is called where times are told, and the bytes of weights that it reads. Of experts nobody knows here.
    fn label(&self, op: &Op) -> (String, usize) {
        let Op::Linear { weight, .. } = *op else { return (op.name().to_owned(), 0) };
        let (matrix, _) = self.weights.matrix(&self.plan, weight);
        let kind = match matrix.form {
            Form::Tiles(family) => family.name().to_owned(),
            Form::Rows(dtype) => dtype.name().to_lowercase(),
        };
        (format!("linear {kind} {} x {}", matrix.features, matrix.row_len), matrix.num_bytes())
    }

    fn start(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        match op {
            Op::PagedAttention { .. } => self.paged_attention(op, size),
            Op::MoeExperts { .. } => self.moe_experts(op, size),
            Op::CausalConv { .. } => self.causal_conv(op, size),
            Op::GatedDeltaRule { .. } => self.gated_delta_rule(op, size),
            op => self.start_one(op, size),
        }
    }

    fn at(&self, buffer: BufferId) -> Address {
        self.activations.at(self.places.buffer(buffer))
    }

    /// The address of a list of the step.
    fn of_step(&self, place: usize) -> Address {
        self.activations.at(self.places.step + place)
    }

    fn width(&self, buffer: BufferId) -> u32 {
        self.plan.buffers[buffer.0].width as u32
    }

    fn num_rows(&self, buffer: BufferId, size: StepSize) -> u32 {
        match self.plan.buffers[buffer.0].rows {
            Rows::Tokens => size.tokens,
            Rows::Logits => size.logits,
        }
    }
}

impl PreparedModel for CudaModel {
    fn execute(&mut self, step: &Step, logits: &mut Vec<f32>) -> Result<(), ExecuteError> {
        step.validate(&self.plan, &self.limits)?;
        logits.clear();
        if step.token_ids.is_empty() {
            return Ok(());
        }
        if self.failure.is_none() {
            self.failure = self.run(step, logits).err();
        }
        match &self.failure {
            None => Ok(()),
            Some(failure) => {
                logits.clear();
                Err(ExecuteError::Device { backend: "cuda", problem: failure.to_string() })
            }
        }
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            weight_bytes: self.weights.num_bytes(),
            kv_cache_bytes: self.caches.num_bytes(),
            activation_bytes: self.activations.num_bytes(),
        }
    }
}
