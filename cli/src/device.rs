//! What computes a model on this machine: the rule of the envelope, asked with this machine's GPU.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use anyhow::Context;
use kindling_cuda::{Check, CudaBackend, SelfTests};
use kindling_envelope::Device;
use kindling_envelope::device::{Choice, Refusal, choose};
use kindling_facts::Facts;
use kindling_runtime::{BackendKind, Remainder, RuntimeConfig, error_chain};

use crate::doctor::gpu::{Depth, in_child};

/// As a LocalModel says it; nothing is the best that works.
pub fn asked(device: kindling_api::Device) -> Option<Device> {
    match device {
        kindling_api::Device::Auto => None,
        kindling_api::Device::Cuda => Some(Device::Cuda),
        kindling_api::Device::Cpu => Some(Device::Cpu),
    }
}

/// As a LocalModel says it.
pub fn remainder(remainder: kindling_api::Remainder) -> Remainder {
    match remainder {
        kindling_api::Remainder::Keep => Remainder::Keep,
        kindling_api::Remainder::Fp8 => Remainder::Fp8,
    }
}

/// What is to compute a model that is configured so, its self-tests included.
///
/// # Errors
/// [`Refusal`] if a GPU is asked for by name, and can't be used.
pub async fn choose_here(asked: Option<Device>, config: &RuntimeConfig) -> anyhow::Result<Choice> {
    let config = config.clone();
    let choosing = tokio::task::spawn_blocking(move || {
        let checks = OnceCell::new();
        let gpu = || tested_here(config.self_tests.as_ref()).map(|found| drop(checks.set(found)));
        choose(asked, gpu, || computable(&config, checks.get().map_or(&[], Vec::as_slice)))
    });
    Ok(choosing.await.context("look at the GPU")??)
}

/// The same of a model whose facts are known, on a machine whose GPU is known.
///
/// # Errors
/// As above.
pub fn choose_for(
    asked: Option<Device>,
    gpu: impl FnOnce() -> Result<(), String>,
    facts: &Facts,
) -> Result<Choice, Refusal> {
    choose(asked, gpu, || facts.refusal(Device::Cuda).map_or(Ok(()), Err))
}

/// Whether this machine's GPU takes the kernels; takes a moment, and another process.
pub fn usable_here() -> Result<(), String> {
    in_child(Depth::Load).usable().map(drop)
}

/// What was chosen, for a person.
pub fn words(choice: &Choice) -> String {
    match choice.reason() {
        Some(why) => format!("computed by {}: {why}", choice.device),
        None => format!("computed by {}", choice.device),
    }
}

/// The backend for a device.
pub fn backend(device: Device) -> BackendKind {
    match device {
        Device::Cpu => BackendKind::Cpu,
        Device::Cuda => BackendKind::Cuda,
    }
}

/// What this machine's GPU computes rightly and wrongly.
fn tested_here(self_tests: Option<&SelfTests>) -> Result<Vec<Check>, String> {
    let report = in_child(Depth::Load);
    let gpu = report.usable()?.gpu()?;
    self_tests.map_or_else(|| Ok(Vec::new()), |tests| tests.run(&gpu).map_err(|error| error.to_string()))
}

/// Whether the backend has what the model needs, and that computes rightly; the device is not asked.
fn computable(config: &RuntimeConfig, checks: &[Check]) -> Result<(), String> {
    let opened = kindling_models::open_weights(&config.model_path).map_err(|error| error_chain(&error))?;
    let plan = opened.spec.lower();
    let limits = config.limits(plan.max_position, &plan.cache_groups).map_err(|error| error.to_string())?;
    let weights = config.weights_remainder.apply(&plan, opened.weights);
    let backend = CudaBackend::new().activations(config.gpu_activations);
    let needed = backend.kernels_of(&plan, weights.as_ref(), &limits).map_err(|error| error_chain(&error))?;
    fails_its_test(checks, &needed).map_or(Ok(()), Err)
}

/// Why a model that needs these kernels is not computed by the GPU, if one of them computes wrongly.
pub fn fails_its_test(checks: &[Check], needed: &BTreeSet<String>) -> Option<String> {
    let (kernel, failure) = Check::wrong(checks, needed)?;
    Some(format!("it fails the self-test of {kernel}: {failure}"))
}
