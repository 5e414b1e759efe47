//! Experts: some tokens at a time, each with the matrices of the experts that it was sent to. Rows in plenty are grouped by
//! expert first, so that each matrix is read once.

use kindling_kernels::Op;

use super::ops::{Chosen, LinearRows, activation_args};
use super::{CudaModel, StepSize};
use crate::driver::GpuError;
use crate::launch::{self, Arg, Matrices, Shape};

impl CudaModel {
    /// `output = sum over chosen experts of route * down(activation(gate(input), up(input)))`.
    pub(super) fn moe_experts(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        let Op::MoeExperts { input, routes, experts, activation, top_k, output } = *op else {
            unreachable!("start should have seen to {}", op.name())
        };
        let places = &self.places.experts;
        let [picks, weights, groups, order, gate, up, down] =
            [places.picks, places.weights, places.groups, places.order, places.gate, places.up, places.down]
                .map(|place| self.activations.at(place));
        let (top_k, chosen) = (top_k as u32, Chosen { picks, groups, order });
        let (hidden_size, num_experts) = (self.width(input), self.width(routes));
        let intermediate_size = self.weights.matrix(&self.plan, experts.gate).0.features as u32;
        let row = |first: u32, width: u32| u64::from(first) * u64::from(width) * size_of::<f32>() as u64;
        for first in (0..size.tokens).step_by(places.tokens) {
            let tokens = (places.tokens as u32).min(size.tokens - first);
            let rows = tokens * top_k;
            let own_routes = Arg::At(self.at(routes) + row(first, num_experts));
            let args = [own_routes, Arg::At(picks), Arg::At(weights), Arg::U32(num_experts), Arg::U32(top_k)];
            self.kernels.launch("moe_pick", Shape::warps((tokens, 1)), &args)?;
            let matrices = Matrices::of_experts(rows, num_experts);
            if let Matrices::Grouped(num_groups) = matrices {
                let args = [picks, order, groups].map(Arg::At);
                let sizes = [rows, num_experts, num_groups].map(Arg::U32);
                self.kernels.launch("moe_group", launch::moe_group(num_experts), &[args, sizes].concat())?;
            }
            let input = self.at(input) + row(first, hidden_size);
            for (weight, bias, output) in [(experts.gate, experts.gate_bias, gate), (experts.up, experts.up_bias, up)] {
                let rows = LinearRows { input, output, rows, matrices, chosen, rows_per_input: top_k };
                self.linear((weight, bias), &rows)?;
            }
            let count = rows * intermediate_size;
            let [kind, alpha, limit] = activation_args(activation);
            let args = [Arg::At(gate), Arg::At(up), Arg::At(gate), Arg::U32(count), kind, alpha, limit];
            self.kernels.launch("gated_activation", Shape::elements(count), &args)?;
            let rows = LinearRows { input: gate, output: down, rows, matrices, chosen, rows_per_input: 1 };
            self.linear((experts.down, experts.down_bias), &rows)?;
            let output = Arg::At(self.at(output) + row(first, hidden_size));
            let chosen = [Arg::At(down), Arg::At(picks), Arg::At(weights), output];
            let args = [&chosen[..], &[Arg::U32(hidden_size), Arg::U32(top_k)]].concat();
            self.kernels.launch("moe_sum", Shape::rows(tokens), &args)?;
        }
        Ok(())
    }
}
