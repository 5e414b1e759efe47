//! The GPU, looked at in a process of its own.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kindling_cuda::{Gpu, probe, self_test};
use serde::{Deserialize, Serialize};

/// A driver that does not answer for so long does not answer.
const TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// What is known of the GPU.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuReport {
    /// For what this program has code; nothing if it was built without.
    pub code_for: Vec<String>,
    /// Every device that the driver has.
    pub devices: Vec<Device>,
    /// Why there is none, or why none could be looked at.
    pub failure: Option<String>,
}

/// A device.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub name: String,
    /// For example `12.1`.
    pub compute_capability: String,
    pub driver_cuda: String,
    pub total_bytes: u64,
    /// As the driver says; where memory is shared, what is page cache is not free for it.
    pub free_bytes: Option<u64>,
    pub shares_memory: bool,
    pub multiprocessors: u32,
    pub l2_bytes: u64,
    pub shared_per_block_bytes: u64,
    /// The code that it runs, as nvcc names it.
    pub code: Option<String>,
    /// Why it can't be used.
    pub failure: Option<String>,
    pub checks: Vec<Check>,
}

/// What came out for a kernel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {
    pub kernel: String,
    pub failure: Option<String>,
}

/// Looks at it in a child, which may crash or hang.
pub fn in_child() -> GpuReport {
    match ask_child() {
        Ok(report) => report,
        Err(failure) => GpuReport { failure: Some(failure), ..GpuReport::default() },
    }
}

fn ask_child() -> Result<GpuReport, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let mut command = Command::new(program);
    command.args(["doctor", "--only-gpu"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("start the check: {error}"))?;
    let started = Instant::now();
    // What it says fits a pipe, so it never waits for its reader.
    let status = loop {
        match child.try_wait().map_err(|error| format!("wait for the check: {error}"))? {
            Some(status) => break status,
            None if started.elapsed() > TIMEOUT => {
                let ended = child.kill().and_then(|()| child.wait());
                let words = format!("the driver or a kernel did not end within {} s", TIMEOUT.as_secs());
                return Err(ended
                    .err()
                    .map_or(words.clone(), |error| format!("{words}, and could not be ended: {error}")));
            }
            None => std::thread::sleep(PAUSE),
        }
    };
    if !status.success() {
        return Err(format!("the driver or a kernel ended the check: {status}"));
    }
    let mut said = String::new();
    let read = child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut said));
    read.transpose().map_err(|error| format!("read the check: {error}"))?;
    serde_json::from_str(&said).map_err(|error| format!("read the check: {error}"))
}

/// Looks at it in this process.
pub fn here() -> GpuReport {
    let is_built = kindling_cuda::image::is_there();
    let targets = if is_built { kindling_cuda::image::targets() } else { Vec::new() };
    let code_for = targets.iter().map(ToString::to_string).collect();
    match probe() {
        Ok(gpus) => GpuReport { code_for, devices: gpus.iter().map(device).collect(), failure: None },
        Err(error) => GpuReport { code_for, devices: Vec::new(), failure: Some(error.to_string()) },
    }
}

fn device(gpu: &Gpu) -> Device {
    let mut device = Device {
        name: gpu.name.clone(),
        compute_capability: format!("{}.{}", gpu.compute.0, gpu.compute.1),
        driver_cuda: format!("{}.{}", gpu.driver.0, gpu.driver.1),
        total_bytes: gpu.total_bytes,
        free_bytes: None,
        shares_memory: gpu.is_integrated,
        multiprocessors: gpu.multiprocessors,
        l2_bytes: gpu.l2_bytes,
        shared_per_block_bytes: gpu.shared_per_block_bytes,
        code: None,
        failure: None,
        checks: Vec::new(),
    };
    let looked = gpu.load().and_then(|loaded| {
        device.code = Some(loaded.code.target.to_string());
        device.free_bytes = Some(loaded.memory()?.0);
        self_test(&loaded)
    });
    match looked {
        Ok(checks) => {
            let checks = checks.into_iter().map(|it| Check { kernel: it.kernel.to_owned(), failure: it.failure });
            device.checks = checks.collect();
        }
        Err(error) => device.failure = Some(error.to_string()),
    }
    device
}
