//! The backend for GPUs: the driver, the kernels as one embedded fatbin, plans computed with them, and why a device can or
//! cannot be used.
//!
//! The program links no CUDA library: `libcuda` is opened when somebody asks, and its absence is an answer like any other.
//! Beside `kindling-kernels` the only crate that may hold `unsafe` code.

mod activations;
mod attention_shape;
mod backend;
mod bandwidth;
mod code;
mod driver;
pub mod fragments;
pub mod image;
mod kv_cache;
mod launch;
mod memory;
mod model;
mod selftest;
mod step_data;
mod tiles;
mod timing;
mod weights;

pub use backend::CudaBackend;
pub use code::{Code, Target};
pub use driver::{Gpu, GpuError, Loaded, probe};
pub use launch::Activations;
pub use memory::Guards;
pub use selftest::{Check, Said, SelfTests, self_test};
pub use timing::{OpTime, OpTimes};
