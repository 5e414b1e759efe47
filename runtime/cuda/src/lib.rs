//! The GPU: its driver, the kernels as one embedded fatbin, and why it can or cannot be used.
//!
//! The program links no CUDA library: `libcuda` is opened when somebody asks, and its absence is an answer like any other.
//! Beside `kindling-kernels` the only crate that may hold `unsafe` code.

mod code;
mod driver;
pub mod fragments;
pub mod image;
mod selftest;

pub use code::{Code, Target};
pub use driver::{Gpu, GpuError, Loaded, probe};
pub use selftest::{Check, self_test};
