//! The self-test on the device: single matrix instructions, lane by lane. On the stand-in it compares two descriptions of
//! the layouts that were written apart from each other.

mod device;

#[test]
fn single_instructions_compute_as_described() {
    let Some(loaded) = device::loaded() else { return };
    let checks = kindling_cuda::self_test(&loaded).unwrap();
    assert_eq!(checks.len(), if loaded.code.has_fp4 { 2 } else { 1 });
    assert!(checks.iter().all(|check| check.failure.is_none()), "{checks:?}");
}
