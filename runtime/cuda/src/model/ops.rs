//! The ops that are one kernel each.

use kindling_kernels::rotary_frequencies::rotary_attention_factor;
use kindling_kernels::{Activation, Limits, Op, Plan, RotaryStyle, RouteRule, WeightId};

use super::{CudaModel, StepSize};
use crate::attention_shape;
use crate::backend::kept_name;
use crate::driver::GpuError;
use crate::launch::{self, Activations, Arg, FEW_ROWS, Linear, Matrices, Shape};
use crate::memory::Address;
use crate::weights::{Form, Layout};

/// How `elementwise.cuh` calls activations, with their two figures.
pub(super) const fn activation_args(activation: Activation) -> [Arg; 3] {
    let (kind, alpha, limit) = match activation {
        Activation::Silu => (0, 0.0, 0.0),
        Activation::GeluTanh => (1, 0.0, 0.0),
        Activation::Sigmoid => (2, 0.0, 0.0),
        Activation::ClampedSwiglu { alpha, limit } => (3, alpha, limit),
    };
    [Arg::U32(kind), Arg::F32(alpha), Arg::F32(limit)]
}

/// The names of all kernels that an op may start.
pub(crate) fn kernels(
    op: &Op,
    plan: &Plan,
    (weights, activations): (&Layout, Activations),
    limits: &Limits,
) -> Vec<String> {
    let matrix = |id: WeightId| weights.matrix(plan, id);
    let linear = |id: WeightId, matrices: &[Matrices]| {
        let form = matrix(id).form;
        let quantise = activations.is_fp4_for(form).then(|| "quantise_fp4".to_owned());
        let rows = [1, 2 * FEW_ROWS, u32::MAX];
        let choices = matrices.iter().flat_map(|matrices| rows.map(|rows| (rows, *matrices)));
        let names = choices.map(|(rows, matrices)| launch::linear((form, activations), 1, rows, matrices).kernel);
        names.chain(quantise).collect::<Vec<_>>()
    };
    match *op {
        Op::EmbedTokens { weight, .. } => vec![launch::embed_tokens(matrix(weight).form)],
        Op::Linear { weight, .. } => linear(weight, &[Matrices::One]),
        Op::KvCacheAppend { .. } => vec![format!("kv_cache_append_{}", kept_name(limits.kv_type))],
        Op::PagedAttention { group, .. } => {
            let head_dim = plan.cache_groups[group.0].head_dim;
            let mut names = attention_shape::kernels(kept_name(limits.kv_type), head_dim);
            names.push("paged_attention_finish".to_owned());
            names
        }
        Op::MoeExperts { experts, .. } => {
            let mut names = ["moe_pick", "moe_group", "moe_sum", "gated_activation"].map(str::to_owned).to_vec();
            let matrices = [Matrices::Picked, Matrices::Grouped(1)];
            names.extend([experts.gate, experts.up, experts.down].into_iter().flat_map(|id| linear(id, &matrices)));
            names
        }
        _ => vec![op.name().to_owned()],
    }
}

/// What a linear layer computes with.
pub(super) struct LinearRows {
    pub input: Address,
    pub output: Address,
    pub rows: u32,
    pub matrices: Matrices,
    /// Where there are several.
    pub chosen: Chosen,
    pub rows_per_input: u32,
}

/// Which matrix each row meets, and the same by groups.
#[derive(Clone, Copy, Default)]
pub(super) struct Chosen {
    pub picks: Address,
    pub groups: Address,
    pub order: Address,
}

impl CudaModel {
    /// Starts the kernel of an op that has one.
    pub(super) fn start_one(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        match *op {
            Op::EmbedTokens { weight, output } => self.embed_tokens(weight, self.at(output), size.tokens),
            Op::RmsNorm { input, weight, eps, weight_offset, group_width, output } => {
                let groups = self.num_rows(input, size) * (self.width(input) / group_width as u32);
                let weight = weight.map_or(0, |weight| self.weights.vector(&self.plan, weight));
                let args = [
                    Arg::At(self.at(input)),
                    Arg::At(weight),
                    Arg::At(self.at(output)),
                    Arg::U32(group_width as u32),
                    Arg::F32(eps),
                    Arg::F32(weight_offset),
                ];
                self.kernels.launch(op.name(), Shape::four_warps((groups, 1, 1)), &args)
            }
            Op::Linear { input, weight, bias, output } => {
                let rows = LinearRows {
                    input: self.at(input),
                    output: self.at(output),
                    rows: self.num_rows(input, size),
                    matrices: Matrices::One,
                    chosen: Chosen::default(),
                    rows_per_input: 1,
                };
                self.linear((weight, bias), &rows)
            }
            Op::Rotary { buffer, num_heads, head_dim, table } => {
                let (spec, (place, pairs)) = (&self.plan.rotaries[table.0], self.places.rotaries[table.0]);
                let args = [
                    Arg::At(self.at(buffer)),
                    Arg::At(self.of_step(self.places.step_places.rotary_positions)),
                    Arg::At(self.activations.at(place)),
                    Arg::U32(num_heads as u32),
                    Arg::U32(head_dim as u32),
                    Arg::U32(pairs as u32),
                    Arg::U32(u32::from(spec.style == RotaryStyle::Interleaved)),
                    Arg::F32(rotary_attention_factor(spec)),
                ];
                self.kernels.launch(op.name(), Shape::rows(size.tokens), &args)
            }
            Op::KvCacheAppend { .. } => self.kv_cache_append(op, size),
            Op::GatedActivation { gate, up, activation, output } => {
                let count = self.num_rows(output, size) * self.width(output);
                let [kind, alpha, limit] = activation_args(activation);
                let buffers = [gate, up, output].map(|buffer| Arg::At(self.at(buffer)));
                let args = [buffers[0], buffers[1], buffers[2], Arg::U32(count), kind, alpha, limit];
                self.kernels.launch(op.name(), Shape::elements(count), &args)
            }
            _ => self.start_small(op, size),
        }
    }

    /// The ops that change elements one by one, and the router.
    fn start_small(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        let at = |buffer| Arg::At(self.at(buffer));
        let count = |buffer| self.num_rows(buffer, size) * self.width(buffer);
        let elements = |count, args: &[Arg]| self.kernels.launch(op.name(), Shape::elements(count), args);
        match *op {
            Op::Scale { buffer, factor, weight } => {
                let weight = weight.map_or(0, |weight| self.weights.vector(&self.plan, weight));
                let count = count(buffer);
                elements(count, &[at(buffer), Arg::U32(count), Arg::F32(factor), Arg::At(weight)])
            }
            Op::SoftCap { buffer, cap } => {
                let count = count(buffer);
                elements(count, &[at(buffer), Arg::U32(count), Arg::F32(cap)])
            }
            Op::SigmoidGateRows { gate, output } => {
                let count = count(output);
                elements(count, &[at(gate), at(output), Arg::U32(count), Arg::U32(self.width(output))])
            }
            Op::Add { input, output } => {
                let count = count(output);
                elements(count, &[at(input), at(output), Arg::U32(count)])
            }
            Op::GatherLogitRows { input, output } => {
                let (count, rows) = (count(output), self.of_step(self.places.step_places.logit_rows));
                let width = Arg::U32(self.width(output));
                elements(count, &[at(input), Arg::At(rows), at(output), Arg::U32(count), width])
            }
            Op::MoeRoute { logits, rule, top_k, output } => {
                let rule = match rule {
                    RouteRule::SoftmaxTopK { normalise: false } => 0,
                    RouteRule::SoftmaxTopK { normalise: true } => 1,
                    RouteRule::TopKSoftmax => 2,
                };
                let (rows, experts) = (self.num_rows(logits, size), self.width(logits));
                let args = [at(logits), at(output), Arg::U32(experts), Arg::U32(rule), Arg::U32(top_k as u32)];
                self.kernels.launch(op.name(), Shape::warps((rows, 1)), &args)
            }
            _ => unreachable!("start should have seen to {}", op.name()),
        }
    }

    fn embed_tokens(&self, weight: WeightId, output: Address, tokens: u32) -> Result<(), GpuError> {
        let (matrix, addresses) = self.weights.matrix(&self.plan, weight);
        let mut args = vec![Arg::At(addresses.codes)];
        if let Form::Tiles(_) = matrix.form {
            args.extend([Arg::At(addresses.scales), Arg::At(addresses.row_scales), Arg::U32(addresses.flags)]);
        } else {
            args.push(Arg::At(addresses.row_scales));
        }
        let ids = self.of_step(self.places.step_places.tokens);
        args.extend([Arg::At(ids), Arg::At(output), Arg::U32(matrix.row_len as u32)]);
        self.kernels.launch(&launch::embed_tokens(matrix.form), Shape::rows(tokens), &args)
    }

    /// A linear layer, or those of picked experts.
    pub(super) fn linear(
        &self,
        (weight, bias): (WeightId, Option<WeightId>),
        rows: &LinearRows,
    ) -> Result<(), GpuError> {
        let (matrix, addresses) = self.weights.matrix(&self.plan, weight);
        let bias = bias.map_or(0, |bias| self.weights.vector(&self.plan, bias));
        let features = matrix.features as u32;
        let Linear { kernel, shape, takes_groups } =
            launch::linear((matrix.form, self.precision), features, rows.rows, rows.matrices);
        let Chosen { picks, groups, order } = rows.chosen;
        let which: &[_] = if takes_groups { &[Arg::At(groups), Arg::At(order)] } else { &[Arg::At(picks)] };
        if self.precision.is_fp4_for(matrix.form) {
            let row_len = matrix.row_len as u32;
            let [codes, scales, factors] = self.quantise_fp4(rows, row_len)?;
            let weights = [addresses.codes, addresses.scales, addresses.row_scales, bias].map(Arg::At);
            let mut args = weights.to_vec();
            args.extend([codes, scales, factors, Arg::At(rows.output), Arg::U32(features), Arg::U32(row_len)]);
            args.push(Arg::U32(rows.rows));
            args.extend(which);
            args.push(Arg::U32(rows.rows_per_input));
            return self.kernels.launch(&kernel, shape, &args);
        }
        let is_tiled = matches!(matrix.form, Form::Tiles(_));
        let mut args = vec![Arg::At(addresses.codes)];
        args.extend(is_tiled.then_some(Arg::At(addresses.scales)));
        args.push(Arg::At(addresses.row_scales));
        args.extend(is_tiled.then_some(Arg::U32(addresses.flags)));
        args.extend([Arg::At(bias), Arg::At(rows.input), Arg::At(rows.output)]);
        args.extend([Arg::U32(features), Arg::U32(matrix.row_len as u32)]);
        args.extend(is_tiled.then_some(Arg::U32(rows.rows)));
        args.extend(which);
        args.push(Arg::U32(rows.rows_per_input));
        self.kernels.launch(&kernel, shape, &args)
    }

    /// The rows of a layer's input in NVFP4: where codes, scales and factors are then.
    fn quantise_fp4(&self, rows: &LinearRows, row_len: u32) -> Result<[Arg; 3], GpuError> {
        let places = &self.places.fp4;
        let [codes, scales, factors] =
            [places.codes, places.scales, places.factors].map(|place| Arg::At(self.activations.at(place)));
        let shape = Shape::four_warps((rows.rows.div_ceil(rows.rows_per_input), 1, 1));
        self.kernels.launch(
            "quantise_fp4",
            shape,
            &[Arg::At(rows.input), codes, scales, factors, Arg::U32(row_len)],
        )?;
        Ok([codes, scales, factors])
    }
}
