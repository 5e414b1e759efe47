//! Which tensors the result has, and what each is made from.

use std::collections::{HashMap, HashSet};

use kindling_kernels::{Op, Plan, WeightId};

use super::job::Source;
use super::{QuantizeError, Recipe, unsupported};

/// Elements that share a scale.
const BLOCK: usize = kindling_kernels::nvfp4::BLOCK;

/// One weight of the result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    /// As Hugging Face calls it.
    pub name: String,
    /// Tensor of the source.
    pub source: String,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// Whether it is encoded; else it becomes BF16.
    pub is_quantized: bool,
    /// Whether it is a matrix that could have been.
    pub is_product: bool,
    /// Heads of so many rows whose pairs of elements are neighbours in the source, and half a head apart in the result.
    pub unpair_heads: Option<usize>,
    /// Weights with the same name here share their tensor scale, because other engines compute them as one.
    pub scale_group: String,
}

impl Output {
    pub fn num_rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Of all that is stored for it.
    pub fn num_bytes(&self) -> u64 {
        let elements = (self.num_rows() * self.row_len()) as u64;
        if self.is_quantized { elements / 2 + elements / BLOCK as u64 + 4 } else { elements * 2 }
    }
}

pub(super) fn total_bytes(outputs: &[Output]) -> u64 {
    outputs.iter().map(Output::num_bytes).sum()
}

/// Lists the outputs in the order in which they are written.
///
/// # Errors
/// [`QuantizeError::Unsupported`] naming an op or a tensor that this layout cannot keep.
pub(super) fn plan(source: &Source, recipe: Recipe, lm_head: bool) -> Result<Vec<Output>, QuantizeError> {
    let plan = &source.plan;
    let uses = Uses::of(plan)?;
    let names = source.result_names()?;
    let last_layer = names.iter().flatten().filter_map(|name| layer(name)).max();
    let mut outputs = Vec::new();
    for (index, weight) in plan.weights.iter().enumerate() {
        let id = WeightId(index);
        if !weight.rows.is_empty() {
            return Err(unsupported(&weight.name, "it is put together from rows of stored tensors"));
        }
        let Some(name) = &names[index] else { continue };
        let is_lm_head = uses.lm_head == Some(id);
        if is_lm_head && lm_head && uses.embeddings.contains(&id) {
            return Err(unsupported(&weight.name, "the output matrix is tied to the embedding, which stays BF16"));
        }
        let is_product = uses.products.contains(&id);
        let is_kept = match recipe {
            _ if is_lm_head => !lm_head,
            Recipe::All => false,
            Recipe::Mixed => layer(name) == last_layer || name.ends_with(".v_proj.weight"),
        };
        let is_quantized = is_product && !is_kept;
        if is_quantized && !weight.row_len().is_multiple_of(BLOCK) {
            let problem = format!("its rows of {} elements are not whole blocks of {BLOCK}", weight.row_len());
            return Err(unsupported(&weight.name, problem));
        }
        outputs.push(Output {
            name: name.clone(),
            source: weight.name.clone(),
            shape: weight.shape.clone(),
            is_quantized,
            is_product,
            unpair_heads: source.unpairs_heads().then(|| uses.rotated.get(&id).copied()).flatten(),
            scale_group: scale_group(name),
        });
    }
    // BF16 wants to lie at even bytes, and blocks do not care: see the writer.
    outputs.sort_by_key(|output| output.is_quantized);
    Ok(outputs)
}

/// The number in `model.layers.0.mlp.up_proj.weight`.
fn layer(name: &str) -> Option<usize> {
    let (_, after) = name.split_once(".layers.")?;
    after.split_once('.')?.0.parse().ok()
}

/// `model.layers.0.self_attn.q_proj.weight` becomes `model.layers.0.self_attn.qkv`.
fn scale_group(name: &str) -> String {
    for (parts, group) in [(["q_proj", "k_proj", "v_proj"].as_slice(), "qkv"), (&["gate_proj", "up_proj"], "gate_up")] {
        for part in parts {
            if let Some(base) = name.strip_suffix(&format!(".{part}.weight")) {
                return format!("{base}.{group}");
            }
        }
    }
    name.to_owned()
}

/// What a plan does with its weights.
#[derive(Default)]
struct Uses {
    products: HashSet<WeightId>,
    embeddings: HashSet<WeightId>,
    lm_head: Option<WeightId>,
    /// Weights and biases whose products are rotated, with the rows of a head.
    rotated: HashMap<WeightId, usize>,
}

impl Uses {
    fn of(plan: &Plan) -> Result<Self, QuantizeError> {
        let mut uses = Self::default();
        let mut writers = HashMap::new();
        for op in &plan.ops {
            match op {
                Op::EmbedTokens { weight, .. } => {
                    uses.embeddings.insert(*weight);
                }
                Op::Linear { weight, bias, output, .. } => {
                    uses.products.insert(*weight);
                    if *output == plan.logits {
                        uses.lm_head = Some(*weight);
                    }
                    writers.insert(*output, (*weight, *bias));
                }
                Op::Rotary { buffer, head_dim, table, .. } => {
                    let Some((weight, bias)) = writers.get(buffer) else { continue };
                    if plan.rotaries[table.0].rotary_dim != *head_dim {
                        return Err(unsupported("a partly rotated head", "only whole heads are"));
                    }
                    uses.rotated.insert(*weight, *head_dim);
                    uses.rotated.extend(bias.map(|bias| (bias, *head_dim)));
                }
                Op::RmsNorm { .. }
                | Op::KvCacheAppend { .. }
                | Op::PagedAttention { .. }
                | Op::GatedActivation { .. }
                | Op::Add { .. }
                | Op::GatherLogitRows { .. } => {}
                other => {
                    return Err(unsupported(format!("a model with the op {}", other.name()), "only dense ones are"));
                }
            }
        }
        Ok(uses)
    }
}
