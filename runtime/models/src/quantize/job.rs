//! Reads, encodes and writes, a piece of rows at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use kindling_kernels::dequantise::{dequantise_into, dequantise_nvfp4};
use kindling_kernels::nvfp4::{self, BLOCK, ScaleChoice};
use kindling_kernels::{DType, Plan, RotaryStyle, TensorScale, WeightError, WeightSource};

use super::outputs::{Output, total_bytes};
use super::writer::Writer;
use super::{QuantizeError, QuantizeProgress, QuantizeReport, from_gguf, unsupported};
use crate::gguf::{GgufHeader, Metadata};
use crate::open::{OpenError, open_weights};
use crate::read_at::FileBytes;

/// Elements of a piece, unless a head or row is larger.
const PIECE_ELEMENTS: usize = 1 << 20;

/// The model to read.
pub(super) struct Source {
    pub path: PathBuf,
    pub plan: Plan,
    pub weights: Arc<dyn WeightSource>,
    /// Of a GGUF file.
    pub metadata: Option<Metadata>,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self, QuantizeError> {
        let failed = |source| QuantizeError::Open { path: path.to_owned(), source: Box::new(source) };
        let model = open_weights(path).map_err(failed)?;
        let metadata = match crate::open::gguf_file(path).map_err(failed)? {
            Some(file) => {
                let read = |source| failed(OpenError::Read { path: file.clone(), source });
                Some(GgufHeader::read(&FileBytes::open(&file).map_err(read)?)?.metadata)
            }
            None => None,
        };
        let source = Self { path: path.to_owned(), plan: model.spec.lower(), weights: model.weights, metadata };
        if source.metadata.is_none() {
            source.refuse_quantised()?;
        }
        Ok(source)
    }

    /// Safetensors that are quantised already lose twice; their originals are published.
    fn refuse_quantised(&self) -> Result<(), QuantizeError> {
        for weight in &self.plan.weights {
            if let Some(desc) = self.weights.describe(&weight.name)
                && !matches!(desc.dtype, DType::F32 | DType::F16 | DType::BF16)
            {
                let problem = format!("it is stored as {} already; start from BF16, F16 or F32", desc.dtype);
                return Err(unsupported(desc.name, problem));
            }
        }
        Ok(())
    }

    /// Hugging Face's name of each weight of the plan; `None`: the result does not need it.
    pub fn result_names(&self) -> Result<Vec<Option<String>>, QuantizeError> {
        match &self.metadata {
            Some(metadata) => from_gguf::names(self, metadata),
            None => Ok(self.plan.weights.iter().map(|weight| Some(weight.name.clone())).collect()),
        }
    }

    /// Whether rows of rotated heads have to change places.
    pub fn unpairs_heads(&self) -> bool {
        self.metadata.is_some() && self.plan.rotaries.iter().any(|rotary| rotary.style == RotaryStyle::Interleaved)
    }

    /// Calls `take` with the rows of an output in f32, piece by piece.
    fn pieces(
        &self,
        output: &Output,
        mut take: impl FnMut(&[f32]) -> Result<(), QuantizeError>,
    ) -> Result<(), QuantizeError> {
        let missing = || WeightError::Missing { name: output.source.clone() };
        let desc = self.weights.describe(&output.source).ok_or_else(missing)?;
        // A bias is one row for the reader, but its elements are rows of heads.
        let is_vector = output.shape.len() == 1;
        let (num_rows, row_len) = (output.num_rows(), output.row_len());
        let head = output.unpair_heads.filter(|_| !is_vector).unwrap_or(1);
        let piece_rows = (PIECE_ELEMENTS / row_len.max(1)).next_multiple_of(head).max(head);
        let mut stored = Vec::new();
        let mut values = Vec::new();
        for first in (0..num_rows).step_by(piece_rows) {
            let rows = first..num_rows.min(first + piece_rows);
            stored.resize(rows.len() * desc.row_bytes(), 0);
            self.weights.read_rows(&output.source, rows.clone(), &mut stored)?;
            values.resize(rows.len() * row_len, 0.0);
            dequantise_into(desc.dtype, &stored, &mut values);
            for (row, values) in rows.zip(values.chunks_exact_mut(row_len.max(1))) {
                let factor = match &desc.scale {
                    TensorScale::One => continue,
                    TensorScale::Tensor(factor) => *factor,
                    TensorScale::Rows(factors) => factors[row],
                };
                values.iter_mut().for_each(|value| *value *= factor);
            }
            if let Some(head) = output.unpair_heads {
                values = unpair(&values, head, if is_vector { 1 } else { row_len });
            }
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(unsupported(&output.source, format!("it holds {value}")));
            }
            take(&values)?;
        }
        Ok(())
    }
}

/// Row `i` of a head's first half becomes what was row `2i`, row `i` of its second half what was row `2i + 1`.
fn unpair(values: &[f32], head: usize, row_len: usize) -> Vec<f32> {
    let mut unpaired = Vec::with_capacity(values.len());
    for head_values in values.chunks_exact(head * row_len) {
        for row in (0..head).step_by(2).chain((1..head).step_by(2)) {
            unpaired.extend_from_slice(&head_values[row * row_len..][..row_len]);
        }
    }
    unpaired
}

/// Squared sums of encoded weights.
#[derive(Default)]
struct Errors {
    difference: f64,
    original: f64,
}

/// Writes all outputs into `folder`.
pub(super) fn run(
    source: &Source,
    outputs: &[Output],
    choice: ScaleChoice,
    folder: &Path,
    (progress, stop): (&mut dyn FnMut(QuantizeProgress), &dyn Fn() -> bool),
) -> Result<QuantizeReport, QuantizeError> {
    let go_on = || if stop() { Err(QuantizeError::Interrupted) } else { Ok(()) };
    let mut largest: HashMap<&str, f32> = HashMap::new();
    for output in outputs.iter().filter(|output| output.is_quantized) {
        let amax = largest.entry(&output.scale_group).or_insert(0.0);
        source.pieces(output, |values| {
            *amax = values.iter().fold(*amax, |amax, value| amax.max(value.abs()));
            go_on()
        })?;
    }
    let total_bytes = total_bytes(outputs);
    let mut errors = Errors::default();
    let scales: HashMap<String, f32> =
        largest.iter().map(|(group, amax)| ((*group).to_owned(), nvfp4::tensor_scale(*amax, choice))).collect();
    let mut writer = Writer::new(folder, outputs, scales.clone())?;
    for output in outputs {
        writer.next_output(output)?;
        let mut report = |writer: &Writer| {
            progress(QuantizeProgress { written_bytes: writer.written_bytes(), total_bytes });
            go_on()
        };
        if output.is_quantized {
            let scale = scales[&output.scale_group];
            let mut block_scales = Vec::with_capacity(output.num_rows() * output.row_len() / BLOCK);
            source.pieces(output, |values| {
                writer.write(&encode(values, scale, choice, &mut block_scales, &mut errors))?;
                report(&writer)
            })?;
            writer.write(&block_scales)?;
        } else {
            source.pieces(output, |values| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
                writer.write(&bytes)?;
                report(&writer)
            })?;
        }
        report(&writer)?;
    }
    writer.finish()?;
    let quantized = outputs.iter().filter(|output| output.is_quantized).count();
    let relative_error = if errors.original > 0.0 { (errors.difference / errors.original).sqrt() } else { 0.0 };
    Ok(QuantizeReport { quantized, kept: outputs.len() - quantized, num_bytes: total_bytes, relative_error })
}

/// The nibbles of whole rows; scales are added to `scales`.
fn encode(values: &[f32], scale: f32, choice: ScaleChoice, scales: &mut Vec<u8>, errors: &mut Errors) -> Vec<u8> {
    let mut nibbles = Vec::with_capacity(values.len() / 2);
    for values in values.as_chunks::<BLOCK>().0 {
        let block = nvfp4::encode_block(values, scale, choice);
        nibbles.extend(block.nibbles);
        scales.push(block.scale);
        let mut bytes = [block.scale; BLOCK / 2 + 1];
        bytes[1..].copy_from_slice(&block.nibbles);
        let mut decoded = [0.0; BLOCK];
        dequantise_nvfp4(&bytes, &mut decoded);
        for (value, decoded) in values.iter().zip(decoded) {
            errors.difference += f64::from(value - decoded * scale).powi(2);
            errors.original += f64::from(*value).powi(2);
        }
    }
    nibbles
}
