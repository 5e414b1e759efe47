//! Writes safetensors files whose heads are known before the first byte of data.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use kindling_kernels::nvfp4::BLOCK;
use serde_json::{Map, Value, json};

use super::QuantizeError;
use super::outputs::Output;

/// As large as hubs like their files.
const MAX_SHARD_BYTES: u64 = 5 << 30;

/// Name, element type, shape, bytes.
type Stored = (String, &'static str, Vec<usize>, u64);

/// The scalar of an encoded output. All of them come first in a file: what follows needs no alignment of four bytes.
fn tensor_scale(output: &Output) -> Option<Stored> {
    output.is_quantized.then(|| (format!("{}_scale_2", output.name), "F32", vec![], 4))
}

/// Stored tensors that make up an output, but for that scalar.
fn stored(output: &Output) -> Vec<Stored> {
    let elements = (output.num_rows() * output.row_len()) as u64;
    let name = &output.name;
    if !output.is_quantized {
        return vec![(name.clone(), "BF16", output.shape.clone(), elements * 2)];
    }
    let with_columns = |columns: usize| {
        let mut shape = output.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = columns;
        }
        shape
    };
    let row_len = output.row_len();
    vec![
        (name.clone(), "U8", with_columns(row_len / 2), elements / 2),
        (format!("{name}_scale"), "F8_E4M3", with_columns(row_len / BLOCK), elements / BLOCK as u64),
    ]
}

/// All that a file holds, in its order.
fn all_stored(outputs: &[Output]) -> impl Iterator<Item = Stored> {
    outputs.iter().filter_map(tensor_scale).chain(outputs.iter().flat_map(stored))
}

/// Files of a checkpoint, one after another.
pub(super) struct Writer {
    folder: PathBuf,
    /// Names of the files, and the outputs in each.
    shards: Vec<(String, Vec<Output>)>,
    scales: HashMap<String, f32>,
    /// Outputs left in the file that is open.
    left: usize,
    next_shard: usize,
    file: Option<(PathBuf, BufWriter<File>)>,
    written_bytes: u64,
}

impl Writer {
    /// Cuts the outputs into files and writes the index, if there is more than one. `scales` are the outputs' tensor
    /// scales, by group.
    pub fn new(folder: &Path, outputs: &[Output], scales: HashMap<String, f32>) -> Result<Self, QuantizeError> {
        let mut parts: Vec<Vec<Output>> = vec![Vec::new()];
        let mut num_bytes = 0;
        for output in outputs {
            if num_bytes > 0 && num_bytes + output.num_bytes() > MAX_SHARD_BYTES {
                parts.push(Vec::new());
                num_bytes = 0;
            }
            num_bytes += output.num_bytes();
            parts.last_mut().expect("there should be a part").push(output.clone());
        }
        let count = parts.len();
        let name = |index: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let shards: Vec<_> = parts.into_iter().enumerate().map(|(index, part)| (name(index), part)).collect();
        let writer =
            Self { folder: folder.to_owned(), shards, scales, left: 0, next_shard: 0, file: None, written_bytes: 0 };
        if count > 1 {
            writer.write_index()?;
        }
        Ok(writer)
    }

    fn write_index(&self) -> Result<(), QuantizeError> {
        let mut weight_map = Map::new();
        let mut total_size = 0;
        for (file, outputs) in &self.shards {
            for (name, _, _, num_bytes) in all_stored(outputs) {
                weight_map.insert(name, json!(file));
                total_size += num_bytes;
            }
        }
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        let path = self.folder.join("model.safetensors.index.json");
        std::fs::write(&path, format!("{index:#}\n")).map_err(|source| QuantizeError::Write { path, source })
    }

    /// Opens the next file if this output is its first.
    pub fn next_output(&mut self, output: &Output) -> Result<(), QuantizeError> {
        if self.left == 0 {
            self.close()?;
            let (name, outputs) = &self.shards[self.next_shard];
            let path = self.folder.join(name);
            let open = || -> io::Result<BufWriter<File>> {
                let mut file = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
                file.write_all(&head(outputs))?;
                for output in outputs.iter().filter(|output| output.is_quantized) {
                    file.write_all(&self.scales[&output.scale_group].to_le_bytes())?;
                }
                Ok(file)
            };
            let file = open().map_err(|source| QuantizeError::Write { path: path.clone(), source })?;
            self.left = outputs.len();
            self.next_shard += 1;
            self.file = Some((path, file));
        }
        let (_, outputs) = &self.shards[self.next_shard - 1];
        debug_assert_eq!(outputs[outputs.len() - self.left].name, output.name, "outputs should come in their order");
        self.left -= 1;
        Ok(())
    }

    /// More of the current output.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), QuantizeError> {
        let (path, file) = self.file.as_mut().expect("next_output should have opened a file");
        file.write_all(bytes).map_err(|source| QuantizeError::Write { path: path.clone(), source })?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Of tensors, in all files.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn close(&mut self) -> Result<(), QuantizeError> {
        let Some((path, file)) = self.file.take() else { return Ok(()) };
        let sync = || file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all();
        sync().map_err(|source| QuantizeError::Write { path, source })
    }

    /// Sees to it that everything is on the disk.
    pub fn finish(mut self) -> Result<(), QuantizeError> {
        self.close()
    }
}

/// Length and JSON, padded with spaces so that the data begin at a multiple of eight.
fn head(outputs: &[Output]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for (name, dtype, shape, num_bytes) in all_stored(outputs) {
        let end = start + num_bytes;
        entries.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
        start = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [(json.len() as u64).to_le_bytes().as_slice(), &json].concat()
}
