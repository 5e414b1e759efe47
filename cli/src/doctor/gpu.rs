//! The GPU, looked at in a process of its own.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use kindling_cuda::{Check, Gpu, SelfTests, probe};
use serde::{Deserialize, Serialize};

use crate::bench::spread::Spread;

/// A driver that does not load kernels within so long does not load them.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// One that does not answer for so long does not answer.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the GPU's memory is read.
const PASSES: usize = 3;
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
    /// How fast it reads that, if it was measured.
    pub read_bytes_per_second: Option<f64>,
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

impl GpuReport {
    /// The first device, which is the one that computes.
    ///
    /// # Errors
    /// Why it can't be used, as far as was looked. What a kernel does wrong is a matter of the models that need it.
    pub fn usable(&self) -> Result<&Device, String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let device = self.devices.first().ok_or("the NVIDIA driver has no device")?;
        device.failure.clone().map_or(Ok(device), Err)
    }
}

impl Device {
    /// As the driver had it, the first one.
    ///
    /// # Errors
    /// If it is described in a way that no child of ours does.
    pub fn gpu(&self) -> Result<Gpu, String> {
        let version = |text: &str| {
            let parsed =
                text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            parsed.ok_or_else(|| format!("{text:?} is no version"))
        };
        Ok(Gpu {
            ordinal: 0,
            name: self.name.clone(),
            compute: version(&self.compute_capability)?,
            total_bytes: self.total_bytes,
            is_integrated: self.shares_memory,
            multiprocessors: self.multiprocessors,
            l2_bytes: self.l2_bytes,
            shared_per_block_bytes: self.shared_per_block_bytes,
            driver: version(&self.driver_cuda)?,
        })
    }
}

/// How closely it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Depth {
    /// What the driver says of it: nothing is made there, so that models that run are not disturbed.
    Describe,
    /// The kernels are loaded, too.
    Load,
    /// And the memory is read, to see how fast that is.
    Measure,
}

/// Looks at it in a child, which may crash or hang, and then at what each device computes.
pub fn tested(self_tests: &SelfTests) -> GpuReport {
    let mut report = in_child(Depth::Measure);
    for (device, ordinal) in report.devices.iter_mut().zip(0..).filter(|(device, _)| device.failure.is_none()) {
        match self_tests.run_now(ordinal) {
            Ok(checks) => device.checks = checks,
            Err(error) => device.failure = Some(error.to_string()),
        }
    }
    report
}

/// Looks at it in a child.
pub fn in_child(depth: Depth) -> GpuReport {
    match ask_child(depth) {
        Ok(report) => report,
        Err(failure) => GpuReport { failure: Some(failure), ..GpuReport::default() },
    }
}

fn ask_child(depth: Depth) -> Result<GpuReport, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let mut command = Command::new(program);
    let only = match depth {
        Depth::Describe => "--only-gpu=describe",
        Depth::Load => "--only-gpu=load",
        Depth::Measure => "--only-gpu=measure",
    };
    command.args(["doctor", only]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("start the check: {error}"))?;
    let timeout = if depth == Depth::Describe { DESCRIBE_TIMEOUT } else { LOAD_TIMEOUT };
    let started = Instant::now();
    // What it says fits a pipe, so it never waits for its reader.
    let status = loop {
        match child.try_wait().map_err(|error| format!("wait for the check: {error}"))? {
            Some(status) => break status,
            None if started.elapsed() > timeout => {
                let ended = child.kill().and_then(|()| child.wait());
                let words = format!("the driver or a kernel did not end within {} s", timeout.as_secs());
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
pub fn here(depth: Depth) -> GpuReport {
    let is_built = kindling_cuda::image::is_there();
    let targets = if is_built { kindling_cuda::image::targets() } else { Vec::new() };
    let code_for = targets.iter().map(ToString::to_string).collect();
    match probe() {
        Ok(gpus) => GpuReport { code_for, devices: gpus.iter().map(|gpu| device(gpu, depth)).collect(), failure: None },
        Err(error) => GpuReport { code_for, devices: Vec::new(), failure: Some(error.to_string()) },
    }
}

fn device(gpu: &Gpu, depth: Depth) -> Device {
    let mut device = Device {
        name: gpu.name.clone(),
        compute_capability: format!("{}.{}", gpu.compute.0, gpu.compute.1),
        driver_cuda: format!("{}.{}", gpu.driver.0, gpu.driver.1),
        total_bytes: gpu.total_bytes,
        read_bytes_per_second: None,
        free_bytes: None,
        shares_memory: gpu.is_integrated,
        multiprocessors: gpu.multiprocessors,
        l2_bytes: gpu.l2_bytes,
        shared_per_block_bytes: gpu.shared_per_block_bytes,
        code: None,
        failure: None,
        checks: Vec::new(),
    };
    let looked = gpu.code().and_then(|code| {
        device.code = Some(code.target.to_string());
        if depth == Depth::Describe {
            return Ok(());
        }
        let loaded = gpu.load()?;
        device.free_bytes = Some(loaded.memory()?.0);
        if depth == Depth::Measure {
            let rates = loaded.read_bandwidth(loaded.least_read_bytes(), PASSES)?;
            device.read_bytes_per_second = Spread::of(rates).map(|rates| rates.median);
        }
        Ok(())
    });
    device.failure = looked.err().map(|error| error.to_string());
    device
}
