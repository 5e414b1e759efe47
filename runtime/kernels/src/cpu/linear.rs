//! Matrix products with packed weights, for one row or many.
//!
//! A task is some panels times some rows. Each row's sum runs along `in_features` in one order, whatever the batch, the
//! tile or the thread, so that a row's result depends on nothing but the row.
#![allow(unsafe_code)]

mod tile;

use std::ops::Range;

use super::gated_activation::activate;
use super::isa::{DetectedIsa, Kernel};
use super::lanes::{LANES, Lanes};
use super::packed::{Block, PackedMatrix, with_blocks};
use super::quantise::ActivationBlock;
use super::rows::RowsView;
use crate::Activation;
use tile::Panel;

/// One weight of a linear stage.
#[derive(Clone, Copy)]
pub(super) struct LinearPart<'a> {
    /// `[out_features, in_features]`.
    pub matrix: &'a PackedMatrix,
    /// Where the matrix begins among several stacked ones, in panels.
    pub first_panel: usize,
    /// `[out_features]`.
    pub bias: Option<&'a [f32]>,
    /// `[rows, out_features]`.
    pub output: RowsView<'a>,
}

/// What happens to a task's results while they are in the cache.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// Nothing.
    None,
    /// They are added to this buffer too; one part.
    Add(RowsView<'a>),
    /// `output = activation(parts[0]) * parts[1]`; two parts of the same shape, computed together.
    Gate(Activation, RowsView<'a>),
}

/// The rows that go in.
#[derive(Clone, Copy)]
pub(super) struct LinearInput<'a> {
    /// `[rows, in_features]`.
    pub floats: &'a [f32],
    /// The same quantised, a block for each 32, if a weight is of an integer family.
    pub blocks: &'a [ActivationBlock],
    /// Row of the input for each row of the output; `None`: the same.
    pub rows: Option<&'a [u32]>,
}

/// Some panels of some parts, times some rows.
pub(super) struct LinearTask<'a> {
    /// Computed one after another.
    pub parts: &'a [LinearPart<'a>],
    /// What goes in.
    pub input: LinearInput<'a>,
    /// What follows.
    pub epilogue: Epilogue<'a>,
    /// Panels of each part.
    pub panels: Range<usize>,
    /// Rows of the output.
    pub rows: Range<usize>,
}

impl LinearTask<'_> {
    /// Computes it. Every family is a kernel of its own: all in one function take the compiler minutes.
    pub fn run(self, isa: DetectedIsa) {
        let Self { parts, input, epilogue, panels, rows } = self;
        for part in parts {
            let (panels, rows) = (panels.clone(), rows.clone());
            with_blocks!(&part.matrix.panels, all => isa.run(PanelsTask { all, part, panels, input, rows }));
        }
        match epilogue {
            Epilogue::None => {}
            epilogue => isa.run(EpilogueTask { parts, epilogue, panels, rows }),
        }
    }
}

/// What follows the panels of a task.
struct EpilogueTask<'a> {
    parts: &'a [LinearPart<'a>],
    epilogue: Epilogue<'a>,
    panels: Range<usize>,
    rows: Range<usize>,
}

impl Kernel for EpilogueTask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { parts, epilogue, panels, rows } = self;
        for (row, panel) in rows.flat_map(|row| panels.clone().map(move |panel| (row, panel))) {
            let column = panel * LANES;
            // SAFETY: these rows and columns belong to this task alone, in all buffers.
            unsafe {
                let first = parts[0].output.load(row, column);
                match epilogue {
                    Epilogue::None => {}
                    Epilogue::Add(sums) => {
                        let mut sum = [0.0; LANES];
                        let old = lanes.load(&sums.load(row, column));
                        lanes.store(lanes.add(old, lanes.load(&first)), &mut sum);
                        sums.store(row, column, &sum);
                    }
                    Epilogue::Gate(activation, output) => {
                        let up = parts[1].output.load(row, column);
                        output.store(row, column, &activate(lanes, activation, &first, &up));
                    }
                }
            }
        }
    }
}

/// Some panels of one part.
struct PanelsTask<'a, P> {
    /// The blocks of the whole matrix.
    all: &'a [P],
    part: &'a LinearPart<'a>,
    panels: Range<usize>,
    input: LinearInput<'a>,
    rows: Range<usize>,
}

impl<P: Panel + Block> Kernel for PanelsTask<'_, P> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let blocks_per_row = self.part.matrix.row_len.div_ceil(P::ELEMENTS);
        for panel in self.panels.clone() {
            let first = (self.part.first_panel + panel) * blocks_per_row;
            self.panel(lanes, panel, &self.all[first..first + blocks_per_row]);
        }
    }
}

impl<P: Panel + Block> PanelsTask<'_, P> {
    /// Goes through the rows eight, four, two or one at a time.
    #[inline(always)]
    fn panel<L: Lanes>(&self, lanes: L, panel: usize, blocks: &[P]) {
        let Self { part, input, ref rows, .. } = *self;
        let per_row = P::activations_per_row(part.matrix.row_len);
        let activations = P::activations(input);
        let activations = |row: usize| {
            let row = input.rows.map_or(row, |rows| rows[row] as usize);
            &activations[row * per_row..(row + 1) * per_row]
        };
        let mut row = rows.start;
        while row + 8 <= rows.end {
            let sums = P::tile::<L, 8>(lanes, blocks, std::array::from_fn(|i| activations(row + i)));
            store_tile(lanes, part, panel, row, &sums);
            row += 8;
        }
        if row + 4 <= rows.end {
            let sums = P::tile::<L, 4>(lanes, blocks, std::array::from_fn(|i| activations(row + i)));
            store_tile(lanes, part, panel, row, &sums);
            row += 4;
        }
        if row + 2 <= rows.end {
            let sums = P::tile::<L, 2>(lanes, blocks, std::array::from_fn(|i| activations(row + i)));
            store_tile(lanes, part, panel, row, &sums);
            row += 2;
        }
        if row < rows.end {
            let sums = P::tile::<L, 1>(lanes, blocks, [activations(row)]);
            store_tile(lanes, part, panel, row, &sums);
        }
    }
}

#[inline(always)]
fn store_tile<L: Lanes>(lanes: L, part: &LinearPart<'_>, panel: usize, row: usize, sums: &[L::Floats]) {
    let column = panel * LANES;
    let factors = part.matrix.factors(part.first_panel + panel);
    let mut bias_lanes = [0.0; LANES];
    if let Some(bias) = part.bias {
        let bias = &bias[column..bias.len().min(column + LANES)];
        bias_lanes[..bias.len()].copy_from_slice(bias);
    }
    for (i, sum) in sums.iter().enumerate() {
        let mut values = [0.0; LANES];
        let sum = factors.map_or(*sum, |factors| lanes.mul(*sum, lanes.load(factors)));
        let sum = if part.bias.is_some() { lanes.add(sum, lanes.load(&bias_lanes)) } else { sum };
        lanes.store(sum, &mut values);
        // SAFETY: these rows and columns of the output belong to this task alone.
        unsafe { part.output.store(row + i, column, &values) };
    }
}
