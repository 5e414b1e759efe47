//! Where the buffers of a plan lie, and what some kernels need beside them.

use kindling_kernels::{BufferId, CacheGroupKind, CacheGroupSpec, Limits, Op, Plan, Rows, WeightId};

use crate::launch::{Activations, MANY_ROWS};
use crate::memory::Places;
use crate::step_data::StepPlaces;
use crate::tiles::COLUMNS;
use crate::weights::Layout;

/// Positions that one block of the attention kernel sees.
const SPAN: usize = 256;
/// What a span gives beside the sums of a head.
const SPAN_HEAD: usize = 2;
/// Bytes for the results of spans: tokens come in groups that fit, at least one at a time.
const SPAN_BYTES: usize = 32 << 20;
/// Elements of NVFP4 that share a scale.
const FP4_BLOCK: usize = 16;
/// Tokens that experts see at a time: each time the matrices of all of them are read.
const EXPERT_TOKENS: usize = 512;
/// Of a group of rows that share an expert: which, and its first and last row.
const GROUP_WORDS: usize = 3;

/// Places in the region of activations, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActivationPlaces {
    buffers: Vec<usize>,
    /// The step's own data.
    pub step: usize,
    /// What is in there.
    pub step_places: StepPlaces,
    /// Frequencies of each rotary table, and how many pairs it turns.
    pub rotaries: Vec<(usize, usize)>,
    /// Results of spans.
    pub spans: usize,
    /// Bytes for them.
    pub span_bytes: usize,
    /// For experts.
    pub experts: ExpertPlaces,
    /// Of one layer at a time, if any has them.
    pub fp4: Fp4Places,
    /// All of it.
    pub num_bytes: usize,
}

/// Activations in NVFP4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fp4Places {
    /// `[rows, columns / 2]`.
    pub codes: usize,
    /// `[rows, columns / 16]`.
    pub scales: usize,
    /// `[rows]`.
    pub factors: usize,
}

/// What experts need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpertPlaces {
    /// Tokens at a time.
    pub tokens: usize,
    /// `[tokens * top_k]`: experts.
    pub picks: usize,
    /// `[tokens * top_k]`: their weights.
    pub weights: usize,
    /// `[groups, 3]`: an expert, and where its rows are in the order.
    pub groups: usize,
    /// `[tokens * top_k]`: rows, those of an expert side by side.
    pub order: usize,
    /// `[tokens * top_k, intermediate_size]`.
    pub gate: usize,
    /// Same.
    pub up: usize,
    /// `[tokens * top_k, hidden_size]`.
    pub down: usize,
}

impl ActivationPlaces {
    /// `None` if it can't be counted.
    pub(crate) fn new(plan: &Plan, limits: &Limits, (weights, activations): (&Layout, Activations)) -> Option<Self> {
        let mut places = Places::default();
        let floats =
            |sizes: &[usize]| sizes.iter().try_fold(size_of::<f32>(), |product, size| product.checked_mul(*size));
        let rows = |rows| match rows {
            Rows::Tokens => limits.max_tokens_per_step,
            Rows::Logits => limits.max_logits_per_step,
        };
        let buffers = plan.buffers.iter().map(|buffer| places.take(floats(&[rows(buffer.rows), buffer.width])));
        let buffers = buffers.collect::<Option<_>>()?;
        let step_places = StepPlaces::new(plan, limits)?;
        let step = places.take(Some(step_places.num_bytes))?;
        let rotaries = plan.rotaries.iter().map(|table| table.rotary_dim / 2);
        let rotaries = rotaries.map(|pairs| Some((places.take(floats(&[pairs]))?, pairs))).collect::<Option<_>>()?;
        let mut span_bytes = 0;
        for op in &plan.ops {
            if let Op::PagedAttention { num_heads, group, .. } = *op {
                let group = &plan.cache_groups[group.0];
                let of_token = token_span_bytes(group, num_heads, most_spans(group, limits.max_context))?;
                let all = of_token.checked_mul(limits.max_tokens_per_step)?;
                span_bytes = span_bytes.max(all.min(SPAN_BYTES.max(of_token)));
            }
        }
        let spans = places.take(Some(span_bytes))?;
        let experts = ExpertPlaces::new(plan, limits, &mut places)?;
        let is_fp4 = |id: WeightId| activations.is_fp4_for(weights.matrix(plan, id).form);
        let fp4 = Fp4Places::new((plan, limits), (&experts, &is_fp4), &mut places)?;
        let num_bytes = places.num_bytes();
        Some(Self { buffers, step, step_places, rotaries, spans, span_bytes, experts, fp4, num_bytes })
    }

    /// Of a buffer.
    pub(crate) fn buffer(&self, id: BufferId) -> usize {
        self.buffers[id.0]
    }
}

impl Fp4Places {
    fn new(
        (plan, limits): (&Plan, &Limits),
        (experts, is_fp4): (&ExpertPlaces, &dyn Fn(WeightId) -> bool),
        places: &mut Places,
    ) -> Option<Self> {
        let (mut rows, mut columns) = (0usize, 0usize);
        for op in &plan.ops {
            let (weights, most) = match *op {
                Op::Linear { weight, .. } => (vec![weight], limits.max_tokens_per_step.max(limits.max_logits_per_step)),
                Op::MoeExperts { experts: of, top_k, .. } => {
                    (vec![of.gate, of.up, of.down], experts.tokens.checked_mul(top_k)?)
                }
                _ => continue,
            };
            for weight in weights.into_iter().filter(|id| is_fp4(*id)) {
                rows = rows.max(most);
                columns = columns.max(plan.weights[weight.0].row_len().checked_next_multiple_of(COLUMNS)?);
            }
        }
        let all = rows.checked_mul(columns)?;
        Some(Self {
            codes: places.take(Some(all / 2))?,
            scales: places.take(Some(all / FP4_BLOCK))?,
            factors: places.take(rows.checked_mul(size_of::<f32>()))?,
        })
    }
}

impl ExpertPlaces {
    fn new(plan: &Plan, limits: &Limits, places: &mut Places) -> Option<Self> {
        let tokens = limits.max_tokens_per_step.min(EXPERT_TOKENS);
        let (mut picks, mut groups, mut inner, mut outer) = (0usize, 0usize, 0usize, 0usize);
        for op in &plan.ops {
            if let Op::MoeExperts { experts, top_k, output, .. } = op {
                let count = tokens.checked_mul(*top_k)?;
                let [num_experts, intermediate_size] = *plan.weights[experts.gate.0].shape.first_chunk()?;
                picks = picks.max(count);
                groups = groups.max((count / MANY_ROWS as usize).checked_add(num_experts)?);
                inner = inner.max(count.checked_mul(intermediate_size)?);
                outer = outer.max(count.checked_mul(plan.buffers[output.0].width)?);
            }
        }
        let mut take = |count: usize| places.take(count.checked_mul(size_of::<f32>()));
        Some(Self {
            tokens,
            picks: take(picks)?,
            weights: take(picks)?,
            groups: take(groups.checked_mul(GROUP_WORDS)?)?,
            order: take(picks)?,
            gate: take(inner)?,
            up: take(inner)?,
            down: take(outer)?,
        })
    }
}

/// The spans that a token of this many positions may touch.
pub(crate) fn most_spans(group: &CacheGroupSpec, context: usize) -> usize {
    let all = context.div_ceil(SPAN).max(1);
    match group.kind {
        // A window may begin in the middle of one.
        CacheGroupKind::Window { window } => all.min(window.div_ceil(SPAN) + 1),
        CacheGroupKind::Full | CacheGroupKind::Recurrent { .. } => all,
    }
}

/// Bytes of the results of a token's spans.
pub(crate) fn token_span_bytes(group: &CacheGroupSpec, num_heads: usize, spans: usize) -> Option<usize> {
    [num_heads, spans, group.head_dim + SPAN_HEAD]
        .iter()
        .try_fold(size_of::<f32>(), |product, size| product.checked_mul(*size))
}
