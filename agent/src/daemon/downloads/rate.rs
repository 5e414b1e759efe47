//! Bytes per second over the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Long enough to be smooth, short enough to see a line go down.
const WINDOW: Duration = Duration::from_secs(10);
/// A new figure at most this often.
const STEP: Duration = Duration::from_millis(200);

/// A moving window.
#[derive(Debug)]
pub(super) struct Rate {
    steps: VecDeque<(Instant, u64)>,
    bytes: u64,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { steps: [(now, 0)].into(), bytes: 0 }
    }

    /// Counts what came, and says the rate where there is a new one.
    pub(super) fn add(&mut self, now: Instant, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        let (last, _) = *self.steps.back()?;
        if now.duration_since(last) < STEP {
            return None;
        }
        self.steps.push_back((now, self.bytes));
        while self.steps.len() > 2 && self.steps.front().is_some_and(|(then, _)| now.duration_since(*then) > WINDOW) {
            self.steps.pop_front();
        }
        let (then, before) = *self.steps.front()?;
        let seconds = now.duration_since(then).as_secs_f64();
        Some(((self.bytes - before) as f64 / seconds) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_last_ten_seconds() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(rate.add(at(100), 50), None, "too soon for a new figure");
        assert_eq!(rate.add(at(1000), 50), Some(100));
        for second in 2..=20 {
            rate.add(at(second * 1000), 100);
        }
        assert_eq!(rate.add(at(21_000), 100), Some(100));
        assert_eq!(rate.add(at(40_000), 0), Some(0), "nothing came for longer than the window");
    }
}
