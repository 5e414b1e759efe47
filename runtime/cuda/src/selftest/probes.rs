//! Single matrix instructions on made-up operands, compared lane by lane. Exact: every sum can be written down.

use cudarc::driver::{CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg};

use crate::driver::{GpuError, Loaded};
use crate::fragments::{LANES, Operands, Warp, emulate};

/// The probes that a device can run.
pub(super) fn all(loaded: &Loaded) -> Vec<(&'static str, Operands)> {
    let mut probes = vec![("mma_probe_bf16", Operands::Bf16)];
    if loaded.code.has_fp4 {
        probes.push(("mma_probe_nvfp4", Operands::Nvfp4));
    }
    probes
}

/// What is wrong with an instruction, if anything is.
///
/// # Errors
/// If the driver fails.
pub(super) fn failure(loaded: &Loaded, kernel: &str, operands: Operands) -> Result<Option<String>, GpuError> {
    let failed = || GpuError::of("run a self-test");
    let function = loaded.module.load_function(kernel).map_err(failed())?;
    for seed in 0..16 {
        let warp = made_up(operands, seed);
        let found = run(&loaded.context.default_stream(), &function, operands, &warp).map_err(failed())?;
        if let Some(failure) = difference(&emulate(operands, &warp), &found) {
            return Ok(Some(failure));
        }
    }
    Ok(None)
}

#[allow(unsafe_code, reason = "a launch runs foreign code")]
fn run(
    stream: &std::sync::Arc<CudaStream>,
    function: &CudaFunction,
    operands: Operands,
    warp: &Warp,
) -> Result<Vec<f32>, DriverError> {
    let a = stream.clone_htod(&warp.a.concat())?;
    let b = stream.clone_htod(&warp.b.concat())?;
    let c = stream.clone_htod(&warp.c.concat())?;
    let a_scales = stream.clone_htod(&warp.a_scales)?;
    let b_scales = stream.clone_htod(&warp.b_scales)?;
    let mut d = stream.alloc_zeros::<f32>(4 * LANES)?;
    let mut launch = stream.launch_builder(function);
    launch.arg(&a).arg(&b).arg(&c);
    if operands == Operands::Nvfp4 {
        launch.arg(&a_scales).arg(&b_scales);
    }
    launch.arg(&mut d);
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (LANES as u32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel has these arguments, and each lane reads and writes what is its own of them.
    unsafe { launch.launch(config) }?;
    stream.clone_dtoh(&d)
}

fn difference(expected: &[[f32; 4]], found: &[f32]) -> Option<String> {
    let expected = expected.concat();
    let index = expected.iter().zip(found).position(|(expected, found)| expected != found)?;
    let (lane, register) = (index / 4, index % 4);
    Some(format!("lane {lane}, register {register}: {} instead of {}", found[index], expected[index]))
}

/// Operands whose products and sums need few bits: small whole numbers, scales that are powers of two.
fn made_up(operands: Operands, seed: u64) -> Warp {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    let bf16 = |number: u32| (f32::from(number as u8 % 17) - 8.0).to_bits() >> 16;
    let register = |next: &mut dyn FnMut() -> u32| match operands {
        Operands::Bf16 => bf16(next()) | bf16(next()) << 16,
        Operands::Nvfp4 => next(),
    };
    // 2^-1, 1, 2, 4 in UE4M3.
    let scales = |next: &mut dyn FnMut() -> u32| u32::from_le_bytes([(); 4].map(|()| 0x30 + 8 * (next() % 4) as u8));
    Warp {
        a: (0..LANES).map(|_| [(); 4].map(|()| register(&mut next))).collect(),
        b: (0..LANES).map(|_| [(); 2].map(|()| register(&mut next))).collect(),
        c: (0..LANES).map(|_| [(); 4].map(|()| (next() % 100) as f32)).collect(),
        a_scales: (0..LANES).map(|_| scales(&mut next)).collect(),
        b_scales: (0..LANES).map(|_| scales(&mut next)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check can fail: each of these is a device with a fault.
    #[test]
    fn faults_of_a_device_are_found() {
        for operands in [Operands::Bf16, Operands::Nvfp4] {
            let warp = made_up(operands, 3);
            let expected = emulate(operands, &warp);
            assert_eq!(difference(&expected, &expected.concat()), None);
            let mut faulty: Vec<(&str, Warp)> = Vec::new();
            let mut fault = |name, change: &dyn Fn(&mut Warp)| {
                let mut other = warp.clone();
                change(&mut other);
                faulty.push((name, other));
            };
            fault("a's registers swapped", &|warp| warp.a.iter_mut().for_each(|lane| lane.swap(1, 2)));
            fault("b's registers swapped", &|warp| warp.b.iter_mut().for_each(|lane| lane.swap(0, 1)));
            fault("lanes of a quad swapped", &|warp| warp.a.swap(4, 5));
            if operands == Operands::Nvfp4 {
                let swapped = |value: u32| (value & 0x0f0f_0f0f) << 4 | (value & 0xf0f0_f0f0) >> 4;
                fault("nibbles swapped", &|warp| {
                    warp.a.iter_mut().flatten().for_each(|value| *value = swapped(*value))
                });
                fault("a's scales by the wrong lanes", &|warp| warp.a_scales.rotate_right(1));
                fault("b's scales by the wrong lanes", &|warp| warp.b_scales.rotate_right(1));
                fault("scales of the wrong sixteen", &|warp| {
                    warp.b_scales.iter_mut().for_each(|scales| *scales = scales.rotate_left(8));
                });
            }
            for (name, warp) in faulty {
                assert!(difference(&expected, &emulate(operands, &warp).concat()).is_some(), "{operands:?}: {name}");
            }
        }
    }
}
