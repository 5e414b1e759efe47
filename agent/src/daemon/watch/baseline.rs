//! What is in use while no model is there: the system and everything that is not ours.

use std::collections::VecDeque;
use std::time::Duration;

use kindling_envelope::Bytes;

/// The largest of so long counts.
const WINDOW: Duration = Duration::from_secs(300);
/// The mean of so many samples counts as one, so that no burst of a second does.
const SMOOTHED: usize = 10;
/// After the last model went, its memory may still be coming back.
const SETTLING: Duration = Duration::from_secs(10);

/// Whether models are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// No grant, and no reservation that is loading, resident or being released.
    Yes,
    /// Models are there; this is what they say they hold together.
    No(Bytes),
}

/// The baseline as far as it was measured.
#[derive(Debug, Default)]
pub struct Baseline {
    /// Kept while models are there.
    measured: Option<Bytes>,
    recent: VecDeque<Bytes>,
    means: VecDeque<(Duration, Bytes)>,
    quiet_since: Option<Duration>,
}

impl Baseline {
    /// What an earlier process of this agent had measured. What was measured since then counts more.
    pub fn remember(&mut self, earlier: Bytes) {
        self.measured.get_or_insert(earlier);
    }

    /// Takes one sample of what is in use, and says the baseline.
    pub fn step(&mut self, at: Duration, used: Bytes, quiet: Quiet) -> Bytes {
        let held = match quiet {
            Quiet::Yes => {
                self.measure(at, used);
                Bytes(0)
            }
            Quiet::No(held) => {
                self.quiet_since = None;
                held
            }
        };
        // Never measured: what is left if the models are right about themselves.
        self.measured.unwrap_or_else(|| used.saturating_sub(held))
    }

    fn measure(&mut self, at: Duration, used: Bytes) {
        let since = *self.quiet_since.get_or_insert_with(|| {
            self.recent.clear();
            self.means.clear();
            at
        });
        if self.measured.is_some() && at.saturating_sub(since) < SETTLING {
            return;
        }
        self.recent.push_back(used);
        if self.recent.len() > SMOOTHED {
            self.recent.pop_front();
        }
        let sum: u128 = self.recent.iter().map(|bytes| u128::from(bytes.0)).sum();
        let mean = u64::try_from(sum / self.recent.len().max(1) as u128).unwrap_or(u64::MAX);
        self.means.push_back((at, Bytes(mean)));
        while self.means.front().is_some_and(|(then, _)| at.saturating_sub(*then) > WINDOW) {
            self.means.pop_front();
        }
        self.measured = self.means.iter().map(|(_, mean)| *mean).max();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn the_largest_of_the_last_minutes_counts_and_a_burst_of_a_second_does_not() {
        let mut baseline = Baseline::default();
        let used = |second| if second == 50 { Bytes::gib(13) } else { Bytes::gib(3) };
        let at_50 = (0..=50).map(|second| baseline.step(seconds(second), used(second), Quiet::Yes)).last();
        assert_eq!(at_50, Some(Bytes::gib(4)), "a tenth of the burst");
        let later = (51..=400).map(|second| baseline.step(seconds(second), used(second), Quiet::Yes)).last();
        assert_eq!(later, Some(Bytes::gib(3)), "forgotten after five minutes");
    }

    #[test]
    fn it_stays_while_models_are_there_and_until_their_memory_is_back() {
        let mut baseline = Baseline::default();
        baseline.step(seconds(0), Bytes::gib(3), Quiet::Yes);
        assert_eq!(baseline.step(seconds(1), Bytes::gib(70), Quiet::No(Bytes::gib(60))), Bytes::gib(3));
        for second in 2..10 {
            assert_eq!(baseline.step(seconds(second), Bytes::gib(30), Quiet::Yes), Bytes::gib(3), "still coming back");
        }
        assert_eq!(baseline.step(seconds(12), Bytes::gib(4), Quiet::Yes), Bytes::gib(4));
    }

    #[test]
    fn after_a_restart_among_models_what_was_known_counts_else_what_they_say() {
        let mut unknown = Baseline::default();
        assert_eq!(unknown.step(seconds(0), Bytes::gib(70), Quiet::No(Bytes::gib(60))), Bytes::gib(10));
        assert_eq!(unknown.step(seconds(1), Bytes::gib(70), Quiet::No(Bytes::gib(65))), Bytes::gib(5));
        let mut known = Baseline::default();
        known.remember(Bytes::gib(3));
        assert_eq!(known.step(seconds(0), Bytes::gib(70), Quiet::No(Bytes::gib(60))), Bytes::gib(3));
        let mut measured = Baseline::default();
        measured.step(seconds(0), Bytes::gib(2), Quiet::Yes);
        measured.remember(Bytes::gib(9));
        assert_eq!(measured.step(seconds(1), Bytes::gib(2), Quiet::Yes), Bytes::gib(2));
    }
}
