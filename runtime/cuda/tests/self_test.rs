//! The self-test on the device, in this process: on a real one it is the first word on whether anything can be trusted.
#![allow(clippy::print_stdout, reason = "what was checked is worth reading")]

mod device;

use kindling_cuda::{Said, self_test};

#[test]
fn every_kernel_passes_the_self_test() {
    let Some(loaded) = device::loaded() else { return };
    let (mut current, mut passed, mut failed, mut last) = (String::new(), 0, Vec::new(), None);
    self_test(loaded, 0, &mut |said| {
        match &said {
            Said::Begins { what, kernels } => current = format!("{what}: {}", kernels.join(", ")),
            Said::Ends { failure: None } => {
                println!("passed: {current}");
                passed += 1;
            }
            Said::Ends { failure: Some(failure) } => failed.push(format!("{current}: {failure}")),
            Said::Lost | Said::Impossible(_) | Said::Done => {}
        }
        last = Some(said);
    });
    assert_eq!((failed, last), (Vec::new(), Some(Said::Done)));
    assert!(passed > 50, "{passed}");
}
