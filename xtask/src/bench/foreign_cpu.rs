//! How much of the machine others used while something was measured: a comparison holds only in a quiet moment.

use std::fs;
use std::time::Instant;

use anyhow::Context;

/// More than this, in processors, is not quiet: it is what an idle machine's services use, and some.
const QUIET_BELOW: f64 = 0.05;
/// The kernel counts processor time in hundredths of a second, on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of the machine and of what belongs to the measurement, from some moment on.
pub struct Watch {
    started: Instant,
    servers: Vec<u32>,
    machine: u64,
    own: u64,
}

/// Processors that others kept busy, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Foreign(pub f64);

impl Watch {
    /// Begins. `servers` belong to the measurement beside this process and what it starts and waits for.
    ///
    /// # Errors
    /// If the kernel's figures cannot be read.
    pub fn start(servers: &[u32]) -> anyhow::Result<Self> {
        let servers = servers.to_vec();
        let (machine, own) = (machine_ticks()?, own_ticks(&servers)?);
        Ok(Self { started: Instant::now(), servers, machine, own })
    }

    /// Ends. Time that the host gave to other guests counts as foreign: it is missing here all the same.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub fn stop(&self) -> anyhow::Result<Foreign> {
        let machine = machine_ticks()?.saturating_sub(self.machine);
        let own = own_ticks(&self.servers)?.saturating_sub(self.own);
        let ticks = machine.saturating_sub(own) as f64;
        Ok(Foreign(ticks / TICKS_PER_SECOND / self.started.elapsed().as_secs_f64().max(1e-9)))
    }
}

impl Foreign {
    /// Whether a comparison holds.
    pub fn is_quiet(self) -> bool {
        self.0 < QUIET_BELOW
    }
}

fn machine_ticks() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_ticks(&text).context("/proc/stat has no line of all processors")
}

/// All but idle and waiting: user, nice, system, interrupts, and what the host took. Guests' time is in user already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    Some(ticks.iter().take(8).enumerate().filter(|(column, _)| ![3, 4].contains(column)).map(|(_, ticks)| ticks).sum())
}

/// Of this process, its children that have ended, and the servers.
fn own_ticks(servers: &[u32]) -> anyhow::Result<u64> {
    let mut total = 0;
    for process in std::iter::once("self".to_owned()).chain(servers.iter().map(u32::to_string)) {
        let path = format!("/proc/{process}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        total += process_ticks(&text).with_context(|| format!("understand {path}"))?;
    }
    Ok(total)
}

/// User and system time of a process and of its children that it has waited for. The name before them may hold spaces.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_guests() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_ticks(stat), Some(100 + 20 + 30 + 6 + 7 + 8));
        assert_eq!(busy_ticks("intr 5\n"), None);
    }

    #[test]
    fn a_process_is_counted_with_its_ended_children() {
        let stat = "77 (a) name) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 20 0 1 0";
        // The fields after the name: state, then 1 to 10; user, system, and both of the children are 11 to 14.
        assert_eq!(process_ticks(stat), Some(11 + 12 + 13 + 14));
        assert_eq!(process_ticks("77 (a) S 1"), None);
    }

    #[test]
    fn own_work_is_not_foreign() {
        let watch = Watch::start(&[std::process::id()]).unwrap();
        assert!(watch.own >= own_ticks(&[]).unwrap(), "a server is counted beside this process");
        assert!(watch.stop().unwrap().0 >= 0.0);
        assert!(Foreign(0.01).is_quiet() && !Foreign(0.5).is_quiet());
    }
}
