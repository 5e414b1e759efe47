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
/// Rows of activations to a block of 16 features, for one sequence and for some; and to a block of 128.
pub(crate) const FEW_ROWS: u32 = 8;
const SOME_ROWS: u32 = 32;
pub(crate) const MANY_ROWS: u32 = 64;
/// Features of the blocks for many rows.
const MANY_FEATURES: u32 = 128;

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

/// Which matrix the rows of a linear layer meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matrices {
    /// There is one.
    One,
    /// Each row has its own.
    Picked,
    /// The same, and the rows of each matrix are known to be in so many groups at most.
    Grouped(u32),
}

impl Matrices {
    /// Of rows that are sent to some of so many matrices. Once there are as many rows as matrices, many of them share one.
    pub(crate) fn of_experts(rows: u32, num_experts: u32) -> Self {
        match rows >= num_experts {
            true => Self::Grouped(rows / MANY_ROWS + num_experts),
            false => Self::Picked,
        }
    }
}

/// How a linear layer is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linear {
    pub kernel: String,
    pub shape: Shape,
    /// Whether it is told groups and their order, and not picks.
    pub takes_groups: bool,
}

/// The kernel for a linear layer, and its grid.
pub(crate) fn linear((form, activations): (Form, Activations), features: u32, rows: u32, matrices: Matrices) -> Linear {
    let Form::Tiles(family) = form else {
        let Form::Rows(dtype) = form else { unreachable!("there are two forms") };
        let kernel = format!("linear_{}", dtype.name().to_lowercase());
        let shape = Shape::four_warps((features.div_ceil(FOUR_WARPS / WARP), rows, 1));
        return Linear { kernel, shape, takes_groups: false };
    };
    let (per_block, groups) = match matrices {
        Matrices::Picked => (FEW_ROWS, rows),
        Matrices::Grouped(groups) => (MANY_ROWS, groups),
        Matrices::One => {
            // Up to two readings of the matrix are not worth blocks so large that few are there to read it.
            let per_block = if rows <= FEW_ROWS {
                FEW_ROWS
            } else if rows <= MANY_ROWS {
                SOME_ROWS
            } else {
                MANY_ROWS
            };
            (per_block, rows.div_ceil(per_block))
        }
    };
    let takes_groups = per_block == MANY_ROWS;
    let shape = match takes_groups {
        true => Shape::blocks((features.div_ceil(MANY_FEATURES), groups, 1), 2 * FOUR_WARPS),
        false => Shape::four_warps((features.div_ceil(ROWS as u32), groups, 1)),
    };
    let family = if activations.is_fp4_for(form) { "fp4" } else { family.name() };
    Linear { kernel: format!("linear_{family}_{per_block}"), shape, takes_groups }
}

/// Groups rows by expert, in one block.
pub(crate) fn moe_group(num_experts: u32) -> Shape {
    // Of each: how many rows, and where its rows and its groups begin.
    let shared_bytes = num_experts * 3 * size_of::<u32>() as u32;
    Shape { shared_bytes, ..Shape::blocks((1, 1, 1), 1024) }
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
    fn rows_in_every_number_have_their_kernels() {
        let nvfp4 = (Form::Tiles(Family::Nvfp4), Activations::Bf16);
        let chosen = |rows, matrices| {
            let Linear { kernel, shape, .. } = linear(nvfp4, 1000, rows, matrices);
            (kernel, shape.grid, shape.threads)
        };
        let one = Matrices::One;
        assert_eq!(chosen(1, one), ("linear_nvfp4_8".into(), (63, 1, 1), 128));
        assert_eq!(chosen(8, one), ("linear_nvfp4_8".into(), (63, 1, 1), 128));
        assert_eq!(chosen(9, one), ("linear_nvfp4_32".into(), (63, 1, 1), 128));
        assert_eq!(chosen(64, one), ("linear_nvfp4_32".into(), (63, 2, 1), 128));
        assert_eq!(chosen(65, one), ("linear_nvfp4_64".into(), (8, 2, 1), 256));
        assert_eq!(chosen(65, Matrices::Picked), ("linear_nvfp4_8".into(), (63, 65, 1), 128));
        assert_eq!(chosen(65, Matrices::Grouped(9)), ("linear_nvfp4_64".into(), (8, 9, 1), 256));
        let chosen = |form, rows| linear((form, Activations::Fp4), 9, rows, one);
        let Linear { kernel, shape, .. } = chosen(Form::Rows(DType::F16), 3);
        assert_eq!((kernel.as_str(), shape.grid, shape.threads), ("linear_f16", (3, 3, 1), 128));
        assert_eq!(chosen(Form::Tiles(Family::Nvfp4), 3).kernel, "linear_fp4_8");
        assert_eq!(chosen(Form::Tiles(Family::Nvfp4), 9).kernel, "linear_fp4_32");
        assert_eq!(chosen(Form::Tiles(Family::Nvfp4), 90).kernel, "linear_fp4_64");
        assert_eq!(chosen(Form::Tiles(Family::Mxfp4), 9).kernel, "linear_mxfp4_32");
    }

    /// However rows fall, there is a group for each: as many as are full, and one more for each expert.
    #[test]
    fn experts_are_grouped_once_rows_share_them() {
        assert_eq!(Matrices::of_experts(31, 32), Matrices::Picked);
        assert_eq!(Matrices::of_experts(32, 32), Matrices::Grouped(32));
        assert_eq!(Matrices::of_experts(2048, 32), Matrices::Grouped(64));
    }
}
