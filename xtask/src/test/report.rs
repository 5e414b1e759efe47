//! What the steps of `cargo xtask test` said: counted, and of cargo's tests only what somebody would read.

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::shell::run_reading;

/// What a test prints when it cannot run here.
const SKIP_MARK: &str = "SKIPPED:";

/// What happened so far.
#[derive(Default)]
pub struct Report {
    num_passed: usize,
    num_failed: usize,
    skips: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    /// Does one step, says how long it took, and keeps why it failed.
    pub fn step(&mut self, name: &str, step: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> bool {
        println!("\n== {name}");
        let started = Instant::now();
        let result = step(self);
        println!("== {name}: {:.0} s", started.elapsed().as_secs_f64());
        if let Err(error) = &result {
            println!("== {name} FAILED: {error:#}");
            self.failures.push(format!("{name}: {error:#}"));
        }
        result.is_ok()
    }

    /// Says that something does not run here, and why.
    pub fn skip(&mut self, reason: &str) {
        println!("{SKIP_MARK} {reason}");
        self.skips.push(reason.to_owned());
    }

    /// Runs `cargo test … -- --show-output`. Which tests pass is shown, not what they printed.
    pub fn cargo_test(&mut self, tests: &mut Command) -> anyhow::Result<()> {
        let mut of_passed = OfPassed::default();
        run_reading(tests, &mut |line| self.shows(&mut of_passed, line))
    }

    /// What such a run printed before.
    pub fn read_cargo<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        let mut of_passed = OfPassed::default();
        for line in lines.filter(|line| self.shows(&mut of_passed, line)) {
            println!("{line}");
        }
    }

    /// Counts a line, and tells whether somebody would read it.
    fn shows(&mut self, of_passed: &mut OfPassed, line: &str) -> bool {
        let is_of_passed = of_passed.holds(line);
        if is_of_passed {
            self.note_skip(line);
        } else {
            self.count_cargo(line);
        }
        !is_of_passed
    }

    /// Reads a line of a program that closes with `12 passed, 0 failed`.
    pub fn count_plain(&mut self, line: &str) {
        if let Some((passed, failed)) = plain_counts(line) {
            self.num_passed += passed;
            self.num_failed += failed;
        }
        self.note_skip(line);
    }

    fn count_cargo(&mut self, line: &str) {
        if let Some((passed, failed)) = line.strip_prefix("test result: ").and_then(cargo_counts) {
            self.num_passed += passed;
            self.num_failed += failed;
        }
        if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(format!("test {test}"));
        }
        self.note_skip(line);
    }

    fn note_skip(&mut self, line: &str) {
        if let Some((_, reason)) = line.split_once(SKIP_MARK) {
            self.skips.push(reason.trim().to_owned());
        }
    }

    /// Says what was skipped and what failed, last of all.
    ///
    /// # Errors
    /// If anything failed.
    pub fn finish(mut self, started: Instant) -> anyhow::Result<()> {
        self.skips.sort();
        self.skips.dedup();
        println!("\n== {:.0} s in all", started.elapsed().as_secs_f64());
        for reason in &self.skips {
            println!("{SKIP_MARK} {reason}");
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        println!("{} passed, {} failed, {} skipped", self.num_passed, self.num_failed, self.skips.len());
        if self.failures.is_empty() && self.num_failed == 0 { Ok(()) } else { bail!("the tests did not pass") }
    }
}

/// Finds what passed tests printed, thousands of lines in which nobody would find a failure.
#[derive(Default)]
struct OfPassed(bool);

impl OfPassed {
    fn holds(&mut self, line: &str) -> bool {
        self.0 = match line {
            "successes:" => true,
            "failures:" => false,
            _ => self.0 && !line.starts_with("test result: "),
        };
        self.0
    }
}

/// `ok. 12 passed; 0 failed; ...` as cargo's test runner closes.
fn cargo_counts(line: &str) -> Option<(usize, usize)> {
    let number_before = |word: &str| {
        line.split(';')
            .find_map(|part| part.trim().strip_suffix(word)?.split(' ').rfind(|w| !w.is_empty())?.parse().ok())
    };
    Some((number_before("passed")?, number_before("failed")?))
}

/// `12 passed, 0 failed` alone on a line.
fn plain_counts(line: &str) -> Option<(usize, usize)> {
    let (passed, rest) = line.split_once(" passed, ")?;
    let (failed, _) = rest.split_once(" failed")?;
    Some((passed.trim().parse().ok()?, failed.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_cargo_and_from_plain_lines() {
        assert_eq!(cargo_counts("ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"), Some((12, 0)));
        assert_eq!(cargo_counts("FAILED. 3 passed; 2 failed; 0 ignored"), Some((3, 2)));
        assert_eq!(plain_counts("31 passed, 0 failed"), Some((31, 0)));
        assert_eq!(plain_counts("nothing of the kind"), None);
    }

    #[test]
    fn what_passed_tests_printed_is_left_out_and_what_failed_is_named() {
        let printed = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nSKIPPED: no GPU\n\n\
                       successes:\n    a\n\nfailures:\n\n---- b stdout ----\nboom\n\nfailures:\n    b\n\n\
                       test result: FAILED. 1 passed; 1 failed; 0 ignored";
        let (mut report, mut of_passed) = (Report::default(), OfPassed::default());
        let shown: Vec<_> =
            printed.lines().filter(|line| report.shows(&mut of_passed, line) && !line.is_empty()).collect();
        let expected = [
            "running 2 tests",
            "test a ... ok",
            "test b ... FAILED",
            "failures:",
            "---- b stdout ----",
            "boom",
            "failures:",
            "    b",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
        ];
        assert_eq!(shown, expected);
        assert_eq!((report.num_passed, report.num_failed), (1, 1));
        assert_eq!(report.failures, ["test b"]);
        assert_eq!(report.skips, ["no GPU"]);
    }
}
