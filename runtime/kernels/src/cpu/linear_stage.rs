//! Runs a linear stage: quantises its input once, then cuts the panels and rows into tasks.
#![allow(unsafe_code)]

use std::ops::Range;

use super::fuse::{LinearOp, Stage, StageEpilogue};
use super::linear::{Epilogue, LinearInput, LinearPart, LinearTask};
use super::model::CpuModel;
use super::quantise::{BlocksView, QuantiseRow};
use super::stage::by_rows;
use crate::Step;

/// Rows that a task takes: their activations stay in the second-level cache.
const ROWS_PER_TASK: usize = 64;

/// Tasks per thread that a stage is cut into where it is large enough, so that a slow thread costs little.
const TASKS_PER_THREAD: usize = 8;

/// Panels times rows that are worth a task of their own.
const MIN_PANELS_PER_TASK: usize = 2;

/// One task: some panels of some parts, some rows.
#[derive(Debug, Clone, PartialEq)]
struct Cut {
    parts: Range<usize>,
    panels: Range<usize>,
    rows: Range<usize>,
}

/// Cuts parts of `num_panels` each into tasks. `together`: all parts of a panel belong to one task.
fn cut(num_panels: &[usize], together: bool, num_rows: usize, num_threads: usize) -> Vec<Cut> {
    let row_ranges = num_rows.div_ceil(ROWS_PER_TASK);
    let total: usize = num_panels.iter().sum();
    let wanted = (num_threads * TASKS_PER_THREAD).div_ceil(row_ranges.max(1));
    let panels_per_task = total.div_ceil(wanted).max(MIN_PANELS_PER_TASK);
    let groups: Vec<_> = if together {
        vec![(0..num_panels.len(), num_panels.first().copied().unwrap_or(0))]
    } else {
        num_panels.iter().enumerate().map(|(part, panels)| (part..part + 1, *panels)).collect()
    };
    let mut cuts = Vec::new();
    for (parts, panels) in groups {
        let step = panels_per_task.div_ceil(parts.len().max(1));
        for first in (0..panels).step_by(step) {
            for row in (0..num_rows).step_by(ROWS_PER_TASK) {
                cuts.push(Cut {
                    parts: parts.clone(),
                    panels: first..panels.min(first + step),
                    rows: row..num_rows.min(row + ROWS_PER_TASK),
                });
            }
        }
    }
    cuts
}

impl CpuModel {
    /// Computes `self.stages[index]`, a linear stage, for a validated step.
    pub fn execute_linear(&mut self, index: usize, step: &Step) {
        let Stage::Linear { input, parts, epilogue } = &self.stages[index] else {
            unreachable!("the caller should have looked at the stage")
        };
        let views = self.buffers.views(step);
        let input = views(*input);
        let parts: Vec<_> = parts
            .iter()
            .map(|LinearOp { weight, bias, output }| LinearPart {
                matrix: self.weights.matrix(*weight),
                first_panel: 0,
                bias: bias.map(|bias| self.weights.vector(bias)),
                output: views(*output),
            })
            .collect();
        let epilogue = match *epilogue {
            StageEpilogue::None => Epilogue::None,
            StageEpilogue::Add(output) => Epilogue::Add(views(output)),
            StageEpilogue::Gate(activation, output) => Epilogue::Gate(activation, views(output)),
        };
        // SAFETY: a stage's outputs are other buffers than its input.
        let floats = unsafe { input.rows(0..input.num_rows) };
        let isa = self.isa;
        if parts.iter().any(|part| part.matrix.is_int()) {
            let blocks = BlocksView::new(&mut self.quantised, input.width.div_ceil(32));
            by_rows(&mut self.pool, input.num_rows, |rows| {
                for row in rows {
                    // SAFETY: each row is one task's.
                    let blocks = unsafe { blocks.row_mut(row) };
                    isa.run(QuantiseRow { row: &floats[row * input.width..(row + 1) * input.width], blocks });
                }
            });
        }
        let num_panels: Vec<_> = parts.iter().map(|part| part.matrix.num_panels()).collect();
        let together = matches!(epilogue, Epilogue::Gate(..));
        let cuts = cut(&num_panels, together, input.num_rows, self.pool.num_threads());
        let input = LinearInput { floats, blocks: &self.quantised, rows: None };
        self.pool.run(cuts.len(), &|index, _| {
            let Cut { parts: range, panels, rows } = cuts[index].clone();
            LinearTask { parts: &parts[range], input, epilogue, panels, rows }.run(isa);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn every_panel_of_every_part_meets_every_row_once() {
        for (num_panels, together) in [(vec![36, 12, 12], false), (vec![96, 96], true), (vec![1], false)] {
            for num_rows in [0, 1, 63, 64, 65, 512] {
                for num_threads in [1, 2, 20] {
                    let mut seen: Vec<_> = num_panels.iter().map(|panels| vec![0; panels * num_rows]).collect();
                    for cut in cut(&num_panels, together, num_rows, num_threads) {
                        for part in cut.parts {
                            for panel in cut.panels.clone() {
                                cut.rows.clone().for_each(|row| seen[part][panel * num_rows + row] += 1);
                            }
                        }
                    }
                    assert!(seen.concat().iter().all(|times| *times == 1));
                }
            }
        }
    }
}
