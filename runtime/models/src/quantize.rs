//! Makes an NVFP4 checkpoint in ModelOpt's layout from BF16, F16 or F32 safetensors or any GGUF file that opens.
//!
//! Weights of layers' products are encoded; norms, embeddings and the output matrix become BF16. Everything is read
//! and written in pieces of rows. The folder appears under its name only when it is whole. Called by
//! `kindling quantize`; computes nothing of a model (for that see [`crate::perplexity`]).

mod from_gguf;
mod job;
mod outputs;
mod small_files;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use kindling_kernels::WeightError;
use kindling_kernels::nvfp4::ScaleChoice;

use crate::architecture::SpecError;
use crate::gguf::GgufError;
use crate::open::OpenError;
use crate::tokenizer::TokenizerError;

/// What is to be made.
#[derive(Debug, Clone)]
pub struct QuantizeRequest {
    /// A checkpoint that [`crate::open`] opens.
    pub model: PathBuf,
    /// Folder to make; may exist if it is empty.
    pub output: PathBuf,
    /// How block scales are found.
    pub scale_choice: ScaleChoice,
    /// Which matrices are encoded.
    pub recipe: Recipe,
    /// Whether the output matrix is encoded too; refused where it is tied to the embedding.
    pub lm_head: bool,
}

/// Which matrices of the layers are encoded; the others become BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// All but those of the last layer and `v_proj` of every layer: few weights, and a large part of the loss.
    Mixed,
    /// All.
    All,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeProgress {
    /// Bytes of the result that are written.
    pub written_bytes: u64,
    /// Bytes of the result in all.
    pub total_bytes: u64,
}

/// What was made.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeReport {
    /// Matrices in NVFP4.
    pub quantized: usize,
    /// Tensors in BF16.
    pub kept: usize,
    /// Bytes of all tensors.
    pub num_bytes: u64,
    /// Root of the squared error over the squares of the encoded weights.
    pub relative_error: f64,
}

/// Why no checkpoint was made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The model cannot be opened.
    #[error("open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: Box<OpenError>,
    },
    /// Something that cannot be written in this layout.
    #[error("{what} cannot be quantised: {problem}")]
    Unsupported {
        /// Tensor, key or part of the model.
        what: String,
        /// Why not.
        problem: String,
    },
    /// The folder is in use.
    #[error("{} {problem}", path.display())]
    Output {
        /// Which.
        path: PathBuf,
        /// What is in the way.
        problem: String,
    },
    /// The system refused to write.
    #[error("write {}", path.display())]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A tensor could not be read.
    #[error("read the weights")]
    Weight(#[from] WeightError),
    /// The description of the result is not one that opens.
    #[error("describe the result")]
    Spec(#[from] SpecError),
    /// GGUF metadata are of the wrong kind.
    #[error("read the gguf metadata")]
    Metadata(#[from] GgufError),
    /// The GGUF vocabulary cannot be written as tokenizer.json.
    #[error("write the tokenizer")]
    Tokenizer(#[from] TokenizerError),
    /// Somebody asked to stop.
    #[error("interrupted; nothing was kept")]
    Interrupted,
}

fn unsupported(what: impl Into<String>, problem: impl Into<String>) -> QuantizeError {
    QuantizeError::Unsupported { what: what.into(), problem: problem.into() }
}

/// Makes the checkpoint. `progress` is told of every piece; where `stop` says so, the work ends.
///
/// # Errors
/// [`QuantizeError`]; the output folder is then as it was.
pub fn quantize(
    request: &QuantizeRequest,
    progress: &mut dyn FnMut(QuantizeProgress),
    stop: &dyn Fn() -> bool,
) -> Result<QuantizeReport, QuantizeError> {
    let folder = PartialFolder::new(&request.output)?;
    let source = job::Source::open(&request.model)?;
    let outputs = outputs::plan(&source, request.recipe, request.lm_head)?;
    folder.check_space(outputs::total_bytes(&outputs))?;
    let report = job::run(&source, &outputs, request.scale_choice, &folder.path, (progress, stop))?;
    small_files::write(&source, &outputs, &folder.path)?;
    folder.finish(&request.output)?;
    Ok(report)
}

/// The folder under its other name while it is made; goes away unless it was finished.
struct PartialFolder {
    path: PathBuf,
}

impl PartialFolder {
    fn new(output: &Path) -> Result<Self, QuantizeError> {
        let in_the_way = |problem: &str| QuantizeError::Output { path: output.to_owned(), problem: problem.to_owned() };
        match std::fs::read_dir(output) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(in_the_way("is there and not empty"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(QuantizeError::Write { path: output.to_owned(), source }),
        }
        let Some(name) = output.file_name() else { return Err(in_the_way("is no name of a folder")) };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let path = output.with_file_name(partial);
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(QuantizeError::Output {
                path,
                problem: "is there: another run is at work, or one was killed; remove it to start again".to_owned(),
            }),
            Err(source) => Err(QuantizeError::Write { path, source }),
        }
    }

    fn check_space(&self, num_bytes: u64) -> Result<(), QuantizeError> {
        let failed = |error| QuantizeError::Write { path: self.path.clone(), source: io::Error::from(error) };
        let there = nix::sys::statvfs::statvfs(&self.path).map_err(failed)?;
        let free = there.blocks_available().saturating_mul(there.fragment_size());
        if free < num_bytes {
            let problem = format!("needs {num_bytes} bytes, its file system has {free} left");
            return Err(QuantizeError::Output { path: self.path.clone(), problem });
        }
        Ok(())
    }

    fn finish(self, output: &Path) -> Result<(), QuantizeError> {
        let failed = |source| QuantizeError::Write { path: output.to_owned(), source };
        std::fs::rename(&self.path, output).map_err(failed)
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        // After `finish` it is not there any more.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
