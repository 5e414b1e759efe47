//! Whether a device computes as the kernels expect: single instructions, and then every kernel against `reference` on
//! random weights. A kernel with a fault may end the process or never end: [`SelfTests`] runs them in a child.

mod cases;
mod child;
mod probes;

use std::collections::BTreeSet;

use kindling_kernels::made_up::relative_error;
use kindling_kernels::{Backend, ExecuteError, PrepareError, ReferenceBackend};
use serde::{Deserialize, Serialize};

use crate::backend::CudaBackend;
use crate::driver::{GpuError, Loaded};
use cases::Case;
pub use child::SelfTests;

/// What came out for some kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// For people: `linear NVFP4, 33 rows`.
    pub what: String,
    /// What ran.
    pub kernels: Vec<String>,
    /// What is wrong, if anything is.
    pub failure: Option<String>,
}

impl Check {
    /// The first of these kernels that computes wrongly, and how.
    pub fn wrong<'a>(checks: &'a [Self], needed: &BTreeSet<String>) -> Option<(&'a str, String)> {
        checks.iter().find_map(|Self { what, kernels, failure }| {
            let kernel = kernels.iter().find(|kernel| needed.contains(*kernel))?;
            Some((kernel.as_str(), format!("{what}: {}", failure.as_ref()?)))
        })
    }
}

/// What a self-test says while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Said {
    /// Before a check: if nothing more is said, these kernels are why.
    Begins {
        /// As in [`Check`].
        what: String,
        /// As in [`Check`].
        kernels: Vec<String>,
    },
    /// After it.
    Ends {
        /// As in [`Check`].
        failure: Option<String>,
    },
    /// The driver took the context away: what is left needs another process.
    Lost,
    /// Nothing can be checked.
    Impossible(String),
    /// That was the last one.
    Done,
}

/// Runs all checks but the `first` ones, and says how each goes.
pub fn self_test(loaded: Loaded, first: usize, say: &mut dyn FnMut(Said)) {
    match run(loaded, first, say) {
        Ok(()) => say(Said::Done),
        Err(Stop::Lost) => say(Said::Lost),
        Err(Stop::Impossible(why)) => say(Said::Impossible(why)),
    }
}

/// Why there is no next check.
enum Stop {
    Lost,
    Impossible(String),
}

impl From<PrepareError> for Stop {
    fn from(error: PrepareError) -> Self {
        Self::Impossible(error.to_string())
    }
}

fn run(loaded: Loaded, first: usize, say: &mut dyn FnMut(Said)) -> Result<(), Stop> {
    let probes = probes::all(&loaded);
    for (kernel, operands) in probes.iter().skip(first) {
        say(Said::Begins { what: "one instruction".to_owned(), kernels: vec![(*kernel).to_owned()] });
        match probes::failure(&loaded, kernel, *operands) {
            Ok(failure) => say(Said::Ends { failure }),
            Err(error @ GpuError::NoMemory { .. }) => return Err(Stop::Impossible(error.to_string())),
            Err(error) => {
                say(Said::Ends { failure: Some(error.to_string()) });
                return Err(Stop::Lost);
            }
        }
    }
    let all = cases::all(loaded.code.has_fp4);
    let mut backend = CudaBackend::on(loaded);
    for case in all.iter().skip(first.saturating_sub(probes.len())) {
        backend = backend.activations(case.activations);
        check(&backend, case, say)?;
    }
    Ok(())
}

fn check(backend: &CudaBackend, case: &Case, say: &mut dyn FnMut(Said)) -> Result<(), Stop> {
    let Case { plan, weights, limits, step, tolerance, .. } = case;
    let mut kernels: Vec<String> = backend.kernels_of(plan, weights, limits)?.into_iter().collect();
    // What brings numbers to the one that is looked at has a check of its own.
    kernels.retain(|name| case.is_about(name));
    say(Said::Begins { what: case.what.clone(), kernels });
    let mut model = backend.prepare(plan, weights, limits, &mut |_| {})?;
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    match model.execute(step, &mut found) {
        Ok(()) => {}
        Err(ExecuteError::Device { problem, .. }) => {
            say(Said::Ends { failure: Some(problem) });
            return Err(Stop::Lost);
        }
        Err(error) => return Err(Stop::Impossible(format!("{}: {error}", case.what))),
    }
    let rounded = case.rounded.as_ref().unwrap_or(weights);
    let mut reference = ReferenceBackend.prepare(plan, rounded, limits, &mut |_| {})?;
    let computed = reference.execute(step, &mut expected);
    computed.map_err(|error| Stop::Impossible(format!("{}: {error}", case.what)))?;
    let error = relative_error(&found, &expected);
    let is_close = error <= *tolerance;
    let failure = format!("relative error {error:.1e} where {tolerance:.1e} is allowed");
    say(Said::Ends { failure: (!is_close).then_some(failure) });
    Ok(())
}

/// A test on this device, in this process.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    /// Every kernel that models use is looked at by some check; those that only measure are not.
    #[test]
    fn every_kernel_has_a_check() {
        let looked_at: BTreeSet<String> = cases::all(true)
            .iter()
            .flat_map(|case| {
                let backend = CudaBackend::new().activations(case.activations);
                let names = backend.kernels_of(&case.plan, &case.weights, &case.limits).unwrap();
                names.into_iter().filter(|name| case.is_about(name)).collect::<Vec<_>>()
            })
            .collect();
        let compiled: BTreeSet<String> = image::usage().into_iter().map(|usage| usage.kernel).collect();
        let compiled: BTreeSet<_> =
            compiled.into_iter().filter(|name| !name.starts_with("mma_probe") && name != "read_bandwidth").collect();
        if !image::is_there() {
            assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "built without CUDA: no nvcc was there");
            return;
        }
        assert_eq!(looked_at, compiled);
    }
}
