//! The driver: is it there, what devices has it, and does it take the kernels.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use cudarc::driver::{CudaContext, CudaModule, DriverError, result};
use cudarc::nvrtc::Ptx;
use kindling_kernels::PrepareError;

use crate::code::{self, Code};
use crate::image;

/// The oldest driver that takes what CUDA 13.0 made, as it tells its version.
const OLDEST_DRIVER: (u32, u32) = (13, 0);

/// A device, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The driver's number for it.
    pub ordinal: u32,
    /// For example `NVIDIA GB10`.
    pub name: String,
    /// Compute capability.
    pub compute: (u32, u32),
    /// Memory; on GB10 that of the whole machine.
    pub total_bytes: u64,
    /// Whether it shares the machine's memory.
    pub is_integrated: bool,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Second level cache.
    pub l2_bytes: u64,
    /// Shared memory that a block may ask for.
    pub shared_per_block_bytes: u64,
    /// The newest CUDA that the driver knows.
    pub driver: (u32, u32),
}

/// Why there is no GPU that can be used. The texts are for people: they say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No kernels are in this program.
    #[error("this program was built without CUDA (no nvcc was there); build it after `cargo xtask setup`")]
    NotBuilt,
    /// There is no libcuda.
    #[error("no NVIDIA driver: libcuda.so.1 could not be loaded")]
    NoDriver,
    /// The driver has no device.
    #[error("the NVIDIA driver has no device")]
    NoDevice,
    /// It does not take what was compiled.
    #[error(
        "the NVIDIA driver is too old: it knows CUDA {}.{}, and the kernels need {}.{}; install driver 580 or newer",
        .found.0, .found.1, .needed.0, .needed.1
    )]
    DriverTooOld {
        /// What it knows.
        found: (u32, u32),
        /// What is needed.
        needed: (u32, u32),
    },
    /// There is no code for it.
    #[error(
        "{name} has compute capability {}.{}, and this program has code for {targets}", .compute.0, .compute.1
    )]
    NoCode {
        /// The device.
        name: String,
        /// Its compute capability.
        compute: (u32, u32),
        /// For what there is code.
        targets: String,
    },
    /// Not even the kernels have room.
    #[error("the GPU has no memory left to {what}")]
    NoMemory {
        /// What for.
        what: &'static str,
    },
    /// It computes wrongly what a model needs.
    #[error("{name} fails the self-test of {kernel}: {failure}")]
    WrongKernel {
        /// The device.
        name: String,
        /// What is wrong.
        kernel: String,
        /// In what way.
        failure: String,
    },
    /// Whether it computes rightly could not be found out.
    #[error("the self-test of the GPU's kernels could not be run: {0}")]
    SelfTest(String),
    /// Anything else that the driver refuses.
    #[error("the NVIDIA driver refuses to {what}: {code}")]
    Driver {
        /// What was asked.
        what: &'static str,
        /// As the driver's header calls it.
        code: String,
    },
}

impl GpuError {
    /// As what it is while a model is prepared.
    pub(crate) fn preparing(self) -> PrepareError {
        PrepareError::Device { backend: "cuda", source: Box::new(self) }
    }

    pub(crate) fn of(what: &'static str) -> impl Fn(DriverError) -> Self {
        move |error| match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => Self::NoDevice,
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Self::NoMemory { what },
            code => Self::Driver { what, code: format!("{code:?}") },
        }
    }
}

/// The devices that the driver has.
///
/// # Errors
/// Why there are none. Whether the program has code for them is not asked.
pub fn probe() -> Result<Vec<Gpu>, GpuError> {
    // SAFETY: opening libcuda runs its initialisers, which is what everybody does who uses it. Asked before anything else,
    // because the binding panics where there is none.
    #[allow(unsafe_code, reason = "the driver is foreign code")]
    let is_present = unsafe { sys::is_culib_present() };
    if !is_present {
        return Err(GpuError::NoDriver);
    }
    result::init().map_err(GpuError::of("start"))?;
    let driver = driver_version()?;
    let count = result::device::get_count().map_err(GpuError::of("count its devices"))?;
    let gpus: Vec<Gpu> = (0..count).map(|ordinal| describe(ordinal, driver)).collect::<Result<_, _>>()?;
    if gpus.is_empty() { Err(GpuError::NoDevice) } else { Ok(gpus) }
}

#[allow(unsafe_code, reason = "the driver is foreign code")]
fn driver_version() -> Result<(u32, u32), GpuError> {
    let mut version = 0;
    // SAFETY: the driver writes one int.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    answer.result().map_err(GpuError::of("tell its version"))?;
    let version = u32::try_from(version).unwrap_or(0);
    Ok((version / 1000, version % 1000 / 10))
}

#[allow(unsafe_code, reason = "the driver is foreign code")]
fn describe(ordinal: i32, driver: (u32, u32)) -> Result<Gpu, GpuError> {
    let failed = || GpuError::of("describe a device");
    let device = result::device::get(ordinal).map_err(failed())?;
    let attribute = |attribute: Attribute| {
        // SAFETY: the device comes from the driver.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        value.map(|value| u32::try_from(value).unwrap_or(0)).map_err(failed())
    };
    // SAFETY: as above.
    let total_bytes = unsafe { result::device::total_mem(device) }.map_err(failed())?;
    Ok(Gpu {
        ordinal: ordinal.unsigned_abs(),
        name: result::device::get_name(device).map_err(failed())?,
        compute: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        total_bytes: total_bytes as u64,
        is_integrated: attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        l2_bytes: u64::from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        shared_per_block_bytes: u64::from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?),
        driver,
    })
}

impl Gpu {
    /// The code of this program that it would run.
    ///
    /// # Errors
    /// If there is none, or its driver is too old for it.
    pub fn code(&self) -> Result<Code, GpuError> {
        if !image::is_there() {
            return Err(GpuError::NotBuilt);
        }
        if self.driver < OLDEST_DRIVER {
            return Err(GpuError::DriverTooOld { found: self.driver, needed: OLDEST_DRIVER });
        }
        let targets = image::targets();
        code::choose(&targets, self.compute).ok_or_else(|| GpuError::NoCode {
            name: self.name.clone(),
            compute: self.compute,
            targets: targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    }

    /// Gives the device the kernels.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load(&self) -> Result<Loaded, GpuError> {
        let code = self.code()?;
        let context = CudaContext::new(self.ordinal as usize).map_err(GpuError::of("open the device"))?;
        let module = context.load_module(Ptx::from_binary(image::FATBIN.to_vec())).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => GpuError::NoCode {
                name: self.name.clone(),
                compute: self.compute,
                targets: image::targets().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            },
            _ => GpuError::of("load the kernels")(error),
        })?;
        Ok(Loaded { gpu: self.clone(), code, multiprocessors: self.multiprocessors, context, module })
    }
}

/// A device that has the kernels.
pub struct Loaded {
    /// The device.
    pub gpu: Gpu,
    /// Those that it runs.
    pub code: Code,
    pub(crate) multiprocessors: u32,
    pub(crate) context: Arc<CudaContext>,
    pub(crate) module: Arc<CudaModule>,
}

impl Loaded {
    /// Memory that the driver calls free, and in all. On unified memory it calls used what is page cache.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        let (free, total) = self.context.mem_get_info().map_err(GpuError::of("tell the memory"))?;
        Ok((free as u64, total as u64))
    }
}
