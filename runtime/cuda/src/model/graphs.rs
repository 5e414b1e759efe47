//! Decoding steps as graphs: the driver gets all kernels of a step at once, instead of one after another.
//!
//! A graph is for an exact number of rows; what changes from step to step is data on the device. Grids of attention with many
//! rows grow with the context, so those contexts are rounded up: blocks beyond a sequence's end have nothing to do and change
//! no bits.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use kindling_kernels::Step;

use super::{CudaModel, StepSize};
use crate::attention_shape::is_few;
use crate::driver::GpuError;

/// The least recently used is given back beyond so many.
const MOST: usize = 24;
/// Contexts of many rows up to this have the same graph, then up to twice of it, and so on.
const LEAST_CONTEXT: usize = 256;

/// A graph of the driver.
struct Made(CudaGraph);

// SAFETY: the driver asks that one thread at a time uses it, and it is reached through `&mut` only.
#[allow(unsafe_code, reason = "a handle of the driver's, which says nothing of threads")]
unsafe impl Send for Made {}

/// The graphs of a model, the last used one at the end.
#[derive(Default)]
pub(crate) struct Graphs {
    /// Without, kernels are started one by one.
    pub is_on: bool,
    made: Vec<((u32, usize), Made)>,
}

/// The size that a decoding step is rounded up to; nothing for steps that have no graph.
fn rounded(step: &Step, size: StepSize, max_context: usize) -> Option<StepSize> {
    let is_decoding = size.logits == size.tokens && step.sequences.iter().all(|sequence| sequence.query_len == 1);
    let context = match is_few(size.tokens as usize) {
        true => max_context,
        false => size.context.max(LEAST_CONTEXT).next_power_of_two().min(max_context),
    };
    is_decoding.then_some(StepSize { context, ..size })
}

impl CudaModel {
    /// Starts the kernels of a step by a graph, if it has one or can have one.
    pub(super) fn start_graph(&mut self, step: &Step, size: StepSize) -> Result<bool, GpuError> {
        let Some(size) = rounded(step, size, self.limits.max_context).filter(|_| self.graphs.is_on) else {
            return Ok(false);
        };
        let key = (size.tokens, size.context);
        let found = self.graphs.made.iter().position(|(other, _)| *other == key);
        let graph = match found {
            Some(index) => self.graphs.made.remove(index).1,
            None => match self.capture(size) {
                Ok(graph) => graph,
                Err(error) => {
                    tracing::warn!(%error, "decoding without graphs, which is slower");
                    self.graphs = Graphs::default();
                    return Ok(false);
                }
            },
        };
        graph.0.launch().map_err(GpuError::of("start a graph"))?;
        self.graphs.made.push((key, graph));
        if self.graphs.made.len() > MOST {
            // It may still run for nobody: every step waits for its logits.
            self.graphs.made.remove(0);
        }
        Ok(true)
    }

    fn capture(&self, size: StepSize) -> Result<Made, GpuError> {
        let stream = self.kernels.stream();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(GpuError::of("begin a graph"))?;
        let started = self.plan.ops.iter().try_for_each(|op| self.start(op, size));
        // Ended in any case: nothing else can be done with the stream before.
        let ended = stream.end_capture(CUgraphInstantiate_flags(0)).map_err(GpuError::of("make a graph"));
        started?;
        ended?.map(Made).ok_or(GpuError::Driver { what: "make a graph", code: "it gave none".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use kindling_kernels::StepSequence;

    use super::*;

    fn step(queries: &[usize]) -> Step {
        let sequences = queries.iter().map(|query_len| StepSequence {
            query_start: 0,
            query_len: *query_len,
            context_len: 0,
            block_tables: Vec::new(),
        });
        Step { sequences: sequences.collect(), ..Step::default() }
    }

    #[test]
    fn graphs_are_for_decoding_and_few_contexts() {
        let context = |queries: &[usize], logits, context| {
            let tokens = queries.iter().sum::<usize>() as u32;
            let size = StepSize { tokens, sequences: queries.len() as u32, logits, context };
            rounded(&step(queries), size, 3000).map(|size| size.context)
        };
        for context_len in [1, 256, 2900] {
            assert_eq!(context(&[1, 1], 2, context_len), Some(3000), "few rows have the same grids for all contexts");
        }
        let many = [1; 33];
        assert_eq!(context(&many, 33, 1), Some(256));
        assert_eq!(context(&many, 33, 256), Some(256));
        assert_eq!(context(&many, 33, 257), Some(512));
        assert_eq!(context(&many, 33, 2900), Some(3000));
        assert_eq!(context(&[1, 2], 2, 10), None, "a prompt");
        assert_eq!(context(&[1, 1], 1, 10), None, "logits of one alone");
    }
}
