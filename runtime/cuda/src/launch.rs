//! How kernels are started. What is chosen is pure: a problem in, a kernel and its grid out.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};

use crate::driver::{GpuError, Loaded};
use crate::memory::Address;
use crate::tiles::{Family, ROWS};
use crate::weights::Form;

/// Lanes of a warp.
const WARP: u32 = 32;
/// Threads where a kernel takes any number.
const THREADS: u32 = 256;
/// Threads of the kernels that ask for four warps.
const FOUR_WARPS: u32 = 4 * WARP;
/// Rows of activations to a block, for few rows and for many.
const FEW_ROWS: u32 = 8;
const MANY_ROWS: u32 = 32;

/// Blocks, threads of a block, and bytes of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub grid: (u32, u32, u32),
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Shape {
    /// A block for each of so many things.
    pub(crate) const fn blocks(grid: (u32, u32, u32), threads: u32) -> Self {
        Self { grid, threads, shared_bytes: 0 }
    }

    /// At least so many threads.
    pub(crate) const fn elements(count: u32) -> Self {
        Self::blocks((count.div_ceil(THREADS), 1, 1), THREADS)
    }

    /// A block of some threads for each row.
    pub(crate) const fn rows(count: u32) -> Self {
        Self::blocks((count, 1, 1), THREADS)
    }

    /// A warp for each row.
    pub(crate) const fn warps(rows: (u32, u32)) -> Self {
        Self::blocks((rows.0, rows.1, 1), WARP)
    }

    /// Four warps for each row.
    pub(crate) const fn four_warps(grid: (u32, u32, u32)) -> Self {
        Self::blocks(grid, FOUR_WARPS)
    }
}

/// What activations are rounded to before they meet a matrix in tiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activations {
    /// 16 bits.
    #[default]
    Bf16,
    /// NVFP4 where the matrix is NVFP4, on devices that multiply it: faster for many rows, and fewer digits.
    Fp4,
}

impl Activations {
    /// Whether a matrix meets activations in FP4.
    pub(crate) fn is_fp4_for(self, form: Form) -> bool {
        self == Self::Fp4 && form == Form::Tiles(Family::Nvfp4)
    }
}

/// The kernel for a linear layer, and its grid. With picks each row has a matrix of its own.
pub(crate) fn linear(
    (form, activations): (Form, Activations),
    features: u32,
    rows: u32,
    has_picks: bool,
) -> (String, Shape) {
    let Form::Tiles(family) = form else {
        let Form::Rows(dtype) = form else { unreachable!("there are two forms") };
        let name = format!("linear_{}", dtype.name().to_lowercase());
        return (name, Shape::four_warps((features.div_ceil(FOUR_WARPS / WARP), rows, 1)));
    };
    let per_block = if has_picks || rows <= FEW_ROWS { FEW_ROWS } else { MANY_ROWS };
    let groups = if has_picks { rows } else { rows.div_ceil(per_block) };
    let shape = Shape::four_warps((features.div_ceil(ROWS as u32), groups, 1));
    let family = if activations.is_fp4_for(form) { "fp4" } else { family.name() };
    (format!("linear_{family}_{per_block}"), shape)
}

/// The kernel that looks up rows of a matrix.
pub(crate) fn embed_tokens(form: Form) -> String {
    match form {
        Form::Tiles(family) => format!("embed_tokens_{}", family.name()),
        Form::Rows(dtype) => format!("embed_tokens_{}", dtype.name().to_lowercase()),
    }
}

/// What a kernel is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    /// A pointer; 0 is none.
    At(Address),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// The kernels of a device, by name, and the order in which they run.
pub(crate) struct Kernels {
    stream: Arc<CudaStream>,
    functions: HashMap<String, CudaFunction>,
}

impl Kernels {
    /// Finds kernels by name.
    pub(crate) fn new(loaded: &Loaded, names: impl IntoIterator<Item = String>) -> Result<Self, GpuError> {
        let mut functions = HashMap::new();
        for name in names {
            let function = loaded.module.load_function(&name).map_err(GpuError::of("give a kernel"))?;
            functions.insert(name, function);
        }
        // What was copied before, without a stream, is there before anything runs on this one.
        loaded.context.synchronize().map_err(GpuError::of("wait for copies"))?;
        let stream = loaded.context.new_stream().map_err(GpuError::of("open a stream"))?;
        Ok(Self { stream, functions })
    }

    /// All kernels and copies of steps, in order.
    pub(crate) const fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Marks the time at which all that was started so far is done.
    pub(crate) fn mark(&self) -> Result<CudaEvent, GpuError> {
        self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(GpuError::of("mark a time"))
    }

    /// Starts a kernel after those before it. Nothing for an empty grid.
    #[allow(unsafe_code, reason = "a launch runs foreign code")]
    pub(crate) fn launch(&self, name: &str, shape: Shape, args: &[Arg]) -> Result<(), GpuError> {
        if shape.grid.0 == 0 || shape.grid.1 == 0 || shape.grid.2 == 0 {
            return Ok(());
        }
        let function = self.functions.get(name);
        let function = function.unwrap_or_else(|| unreachable!("{name} should have been asked for at the start"));
        let mut launch = self.stream.launch_builder(function);
        for arg in args {
            match arg {
                Arg::At(address) => launch.arg(address),
                Arg::U32(value) => launch.arg(value),
                Arg::U64(value) => launch.arg(value),
                Arg::F32(value) => launch.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: shape.grid,
            block_dim: (shape.threads, 1, 1),
            shared_mem_bytes: shape.shared_bytes,
        };
        // SAFETY: callers give each kernel the arguments that it declares, of memory that stays until the device is done;
        // `validate` has checked every width and row count that they are made from.
        unsafe { launch.launch(config) }.map_err(GpuError::of("start a kernel"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kindling_kernels::DType;

    use super::*;

    #[test]
    fn few_rows_and_many_have_their_kernels() {
        let nvfp4 = (Form::Tiles(Family::Nvfp4), Activations::Bf16);
        let chosen = |rows, has_picks| {
            let (name, shape) = linear(nvfp4, 100, rows, has_picks);
            (name, shape.grid)
        };
        assert_eq!(chosen(1, false), ("linear_nvfp4_8".into(), (7, 1, 1)));
        assert_eq!(chosen(8, false), ("linear_nvfp4_8".into(), (7, 1, 1)));
        assert_eq!(chosen(9, false), ("linear_nvfp4_32".into(), (7, 1, 1)));
        assert_eq!(chosen(65, false), ("linear_nvfp4_32".into(), (7, 3, 1)));
        assert_eq!(chosen(65, true), ("linear_nvfp4_8".into(), (7, 65, 1)));
        let chosen = |form, rows| linear((form, Activations::Fp4), 9, rows, false);
        let (name, shape) = chosen(Form::Rows(DType::F16), 3);
        assert_eq!((name.as_str(), shape.grid, shape.threads), ("linear_f16", (3, 3, 1), 128));
        assert_eq!(chosen(Form::Tiles(Family::Nvfp4), 3).0, "linear_fp4_8");
        assert_eq!(chosen(Form::Tiles(Family::Nvfp4), 9).0, "linear_fp4_32");
        assert_eq!(chosen(Form::Tiles(Family::Mxfp4), 9).0, "linear_mxfp4_32");
    }
}
