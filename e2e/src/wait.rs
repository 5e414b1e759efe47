//! Waiting for a condition with a deadline, never for a time.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long something may take before a story gives up: generous, since machines for tests are slow and shared.
#[derive(Debug, Clone, Copy)]
pub struct Patience(pub Duration);

impl Patience {
    /// For what the control plane does by itself.
    pub const CONTROL_PLANE: Self = Self(Duration::from_secs(60));
    /// For pods to start, load a small model and answer.
    pub const PODS: Self = Self(Duration::from_secs(180));
}

/// Looks again and again until `look` finds something.
///
/// # Panics
/// If the patience ends first, with what was waited for.
pub fn until<T>(what: &str, patience: Patience, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            println!("{what}: after {:.1} s", started.elapsed().as_secs_f64());
            return found;
        }
        assert!(started.elapsed() < patience.0, "{what}: not after {} s", patience.0.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}
