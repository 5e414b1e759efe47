//! The answer as a person reads it.

use std::fmt::Write;

use kindling_cuda::Check;
use kindling_envelope::Bytes;

use super::Report;
use super::gpu::{Device, GpuReport};

macro_rules! line {
    ($text:expr, $($format:tt)*) => {{
        let _ = writeln!($text, $($format)*);
    }};
}

/// Renders it, a line at its end.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    line!(text, "kindling    {} on {}", report.version, report.architecture);
    line!(text, "processor   {} threads; {}", report.threads, report.cpu_kernels.join(", "));
    let (total, used) = (Bytes(report.memory_total_bytes), Bytes(report.memory_used_bytes));
    line!(text, "memory      {total}, {used} in use");
    match &report.bandwidth {
        Some(it) => {
            let gigabytes = it.bytes_per_second.median / 1e9;
            line!(text, "            read at {gigabytes:.1} GB/s by {} threads (measured now)", report.threads);
        }
        None => line!(text, "            its speed was not measured"),
    }
    gpu(&mut text, &report.gpu);
    line!(text, "models      are computed by: {} (where placement.device is Auto)", report.path);
    if let Some(model) = &report.model {
        let megabytes = model.bytes_per_token / 1e6;
        line!(text, "{}", model.name);
        line!(text, "            reads {megabytes:.1} MB for each token");
        if let Some(refusal) = &model.refused_by_gpu {
            line!(text, "            computed by the processor: {refusal}");
        }
        if let Some(most) = model.most_tokens_per_second {
            line!(text, "            at most {most:.1} tok/s for one sequence, by the speed of memory");
        }
    }
    text
}

fn gpu(text: &mut String, gpu: &GpuReport) {
    match gpu.code_for.as_slice() {
        [] => line!(text, "GPU code    none: this program was built without CUDA"),
        targets => line!(text, "GPU code    for {}", targets.join(", ")),
    }
    if let Some(failure) = &gpu.failure {
        line!(text, "GPU         none: {failure}");
    }
    gpu.devices.iter().for_each(|found| device(text, found));
}

fn device(text: &mut String, device: &Device) {
    let Device { name, compute_capability, driver_cuda, multiprocessors, .. } = device;
    line!(text, "GPU         {name}, compute capability {compute_capability}, {multiprocessors} multiprocessors");
    let memory = Bytes(device.total_bytes);
    let shared = if device.shares_memory { ", shared with the processor" } else { "" };
    let free = device.free_bytes.map(|free| format!(", {} free", Bytes(free))).unwrap_or_default();
    line!(text, "            {memory}{free}{shared}; its driver knows CUDA {driver_cuda}");
    if let Some(rate) = device.read_bytes_per_second {
        line!(text, "            read at {:.1} GB/s (measured now)", rate / 1e9);
    }
    if let Some(code) = &device.code {
        line!(text, "            runs the code for {code}");
    }
    if let Some(failure) = &device.failure {
        line!(text, "            can't be used: {failure}");
    }
    let (passed, failed): (Vec<_>, Vec<_>) = device.checks.iter().partition(|check| check.failure.is_none());
    if !device.checks.is_empty() {
        line!(text, "            {} of {} self-tests of kernels passed", passed.len(), device.checks.len());
    }
    for Check { what, kernels, failure } in failed {
        let failure = failure.as_deref().unwrap_or_default();
        line!(text, "            {what} FAILS ({}): {failure}", kernels.join(", "));
    }
}
