//! What the node's agent says about the GPU: as the driver describes it, asked in another process.

use futures::future::BoxFuture;
use kindling_agent::daemon::gpu::ReadGpu;
use kindling_api::NodeGpu;

use crate::doctor::gpu::{Depth, GpuReport, in_child};

/// Asks the driver, and leaves the device alone: models may run there.
pub struct DriversGpu;

impl ReadGpu for DriversGpu {
    fn read(&self) -> BoxFuture<'_, NodeGpu> {
        Box::pin(async {
            let looked = tokio::task::spawn_blocking(|| in_child(Depth::Describe)).await;
            looked.map_or_else(|error| unusable(error.to_string()), |report| node_gpu(&report))
        })
    }
}

fn node_gpu(report: &GpuReport) -> NodeGpu {
    let usable = report.usable();
    let device = report.devices.first();
    NodeGpu {
        name: device.map(|device| device.name.clone()),
        compute_capability: device.map(|device| device.compute_capability.clone()),
        driver_cuda_version: device.map(|device| device.driver_cuda.clone()),
        usable: usable.is_ok(),
        reason: usable.err(),
    }
}

fn unusable(reason: String) -> NodeGpu {
    NodeGpu { reason: Some(reason), ..NodeGpu::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_the_first_device_and_what_is_wrong_with_it() {
        let report = |failure: Option<&str>| -> GpuReport {
            let device = |name: &str, failure: Option<&str>| {
                serde_json::json!({
                    "name": name, "computeCapability": "12.1", "driverCuda": "13.0", "totalBytes": 1, "freeBytes": null,
                    "sharesMemory": true, "multiprocessors": 48, "l2Bytes": 1, "sharedPerBlockBytes": 1, "code": null,
                    "failure": failure, "checks": [],
                })
            };
            let devices = [device("NVIDIA GB10", failure), device("another", None)];
            serde_json::from_value(serde_json::json!({ "codeFor": [], "devices": devices, "failure": null })).unwrap()
        };
        let found = NodeGpu {
            name: Some("NVIDIA GB10".to_owned()),
            compute_capability: Some("12.1".to_owned()),
            driver_cuda_version: Some("13.0".to_owned()),
            usable: true,
            reason: None,
        };
        assert_eq!(node_gpu(&report(None)), found);
        let old = NodeGpu { usable: false, reason: Some("too old".to_owned()), ..found };
        assert_eq!(node_gpu(&report(Some("too old"))), old);
        let none = GpuReport { failure: Some("no NVIDIA driver".to_owned()), ..GpuReport::default() };
        assert_eq!(node_gpu(&none), unusable("no NVIDIA driver".to_owned()));
    }
}
