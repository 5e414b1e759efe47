//! Experts: rows are grouped by expert, so that a matrix is read once for all of its rows, and only if it has some.
//!
//! A row's result does not depend on the rows beside it: its products are those of a linear layer, and its experts are
//! added in their order.
#![allow(unsafe_code)]

mod combine;
mod pairs;

use super::isa::DetectedIsa;
use super::linear::{Epilogue, LinearInput, LinearPart, LinearTask};
use super::model::{CpuModel, Weights};
use super::packed::PackedMatrix;
use super::pool::Pool;
use super::quantise::{ActivationBlock, BlocksView, QuantiseRow};
use super::rows::RowsView;
use super::stage::by_rows;
use crate::resident::Extent;
use crate::room::Room;
use crate::{ExpertWeights, Limits, Op, Plan, PrepareError, Step, WeightId};
use combine::CombineTask;
use pairs::{Cut, Pairs};

/// Room for the rows of all chosen experts.
#[derive(Default)]
pub(super) struct MoeRows {
    /// `[pairs, intermediate_size]`.
    gates: Vec<f32>,
    /// The same.
    ups: Vec<f32>,
    /// `[pairs, hidden_size]`.
    downs: Vec<f32>,
}

impl MoeRows {
    /// Room for the largest step.
    pub fn new(plan: &Plan, limits: &Limits, room: &Room) -> Result<Self, PrepareError> {
        let (mut inner, mut hidden) = (Some(0), Some(0));
        for op in &plan.ops {
            if let Op::MoeExperts { input, experts, top_k, .. } = op {
                let pairs = limits.max_tokens_per_step.checked_mul(*top_k);
                let times = |width: usize, most: Option<usize>| Some(pairs?.checked_mul(width)?.max(most?));
                inner = times(plan.weights[experts.gate.0].shape[1], inner);
                hidden = times(plan.buffers[input.0].width, hidden);
            }
        }
        const WHAT: &str = "rows of experts";
        Ok(Self { gates: room.zeroes(inner, WHAT)?, ups: room.zeroes(inner, WHAT)?, downs: room.zeroes(hidden, WHAT)? })
    }

    /// Where they lie.
    pub fn extents(&self) -> [Extent; 3] {
        [&self.gates, &self.ups, &self.downs].map(|rows| Extent::of(rows))
    }
}

/// The first `num_rows` rows of `memory`.
fn view(memory: &mut [f32], num_rows: usize, width: usize) -> RowsView<'_> {
    assert!(num_rows * width <= memory.len(), "{num_rows} rows of experts were not planned for");
    // SAFETY: inside the slice, which is borrowed as long as the view lives.
    unsafe { RowsView::new(memory.as_mut_ptr(), num_rows, width) }
}

/// Quantises all rows if `matrix` wants them so.
fn quantise<'a>(
    (isa, pool): (DetectedIsa, &mut Pool),
    matrix: &PackedMatrix,
    rows: RowsView<'_>,
    blocks: &'a mut [ActivationBlock],
) -> &'a [ActivationBlock] {
    if matrix.is_int() {
        let view = BlocksView::new(blocks, rows.width.div_ceil(32));
        by_rows(pool, rows.num_rows, |range| {
            for row in range {
                // SAFETY: rows are only read, each row of blocks is one task's.
                unsafe { isa.run(QuantiseRow { row: rows.rows(row..row + 1), blocks: view.row_mut(row) }) };
            }
        });
    }
    blocks
}

/// One expert's matrix.
fn part<'a>(
    weights: &'a Weights,
    (weight, bias): (WeightId, Option<WeightId>),
    expert: usize,
    output: RowsView<'a>,
) -> LinearPart<'a> {
    let matrix = weights.matrix(weight);
    let bias = bias.map(|bias| &weights.vector(bias)[expert * matrix.num_rows..(expert + 1) * matrix.num_rows]);
    LinearPart { matrix, first_panel: expert * matrix.num_panels(), bias, output }
}

impl CpuModel {
    /// Computes [`Op::MoeExperts`] for a validated step.
    pub fn execute_experts(&mut self, op: &Op, step: &Step) {
        let Op::MoeExperts { input, routes, experts, activation, output, .. } = *op else { return };
        let views = self.buffers.views(step);
        let (input, routes, output) = (views(input), views(routes), views(output));
        // SAFETY: routes are only read.
        let pairs = Pairs::new(unsafe { routes.rows(0..routes.num_rows) }, routes.width);
        let (isa, pool, weights) = (self.isa, &mut self.pool, &self.weights);
        let ExpertWeights { gate, up, down, gate_bias, up_bias, down_bias } = experts;
        let [gate_matrix, up_matrix, down_matrix] = [gate, up, down].map(|id| weights.matrix(id));
        let (num_pairs, inner) = (pairs.tokens.len(), gate_matrix.num_rows);
        let (gates, ups) = (view(&mut self.moe.gates, num_pairs, inner), view(&mut self.moe.ups, num_pairs, inner));
        let downs = view(&mut self.moe.downs, num_pairs, output.width);

        let wants_blocks = if gate_matrix.is_int() { gate_matrix } else { up_matrix };
        let blocks = quantise((isa, pool), wants_blocks, input, &mut self.quantised);
        // SAFETY: the input is only read.
        let floats = unsafe { input.rows(0..input.num_rows) };
        let cuts = pairs.cut(gate_matrix.num_panels(), pool.num_threads());
        pool.run(cuts.len(), &|index, _| {
            let Cut { expert, panels, rows } = cuts[index].clone();
            let parts = [(gate, gate_bias, gates), (up, up_bias, ups)]
                .map(|(weight, bias, output)| part(weights, (weight, bias), expert, output));
            let input = LinearInput { floats, blocks, rows: Some(&pairs.tokens) };
            LinearTask { parts: &parts, input, epilogue: Epilogue::Gate(activation, gates), panels, rows }.run(isa);
        });

        let blocks = quantise((isa, pool), down_matrix, gates, &mut self.quantised);
        // SAFETY: all tasks that wrote them are done.
        let floats = unsafe { gates.rows(0..num_pairs) };
        let cuts = pairs.cut(down_matrix.num_panels(), pool.num_threads());
        pool.run(cuts.len(), &|index, _| {
            let Cut { expert, panels, rows } = cuts[index].clone();
            let parts = [part(weights, (down, down_bias), expert, downs)];
            let input = LinearInput { floats, blocks, rows: None };
            LinearTask { parts: &parts, input, epilogue: Epilogue::None, panels, rows }.run(isa);
        });
        by_rows(pool, output.num_rows, |rows| isa.run(CombineTask { pairs: &pairs, downs, output, rows }));
    }
}

/// Blocks of quantised activations that the experts of `plan` need.
pub(super) fn quantised_blocks(op: &Op, weights: &Weights, limits: &Limits) -> Option<usize> {
    let Op::MoeExperts { experts: ExpertWeights { gate, down, .. }, top_k, .. } = op else { return Some(0) };
    let [hidden, inner] = [*gate, *down].map(|id| weights.matrix(id).row_len.div_ceil(32));
    limits.max_tokens_per_step.checked_mul(hidden.max(top_k.checked_mul(inner)?))
}
