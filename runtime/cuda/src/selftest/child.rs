//! The self-test in processes of its own: what crashes or hangs ends one check, and the next process goes on behind it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::{Check, Said};
use crate::driver::{Gpu, GpuError};
use crate::image;

/// A check that says nothing for so long hangs; opening the device is part of the first one.
const TIMEOUT: Duration = Duration::from_secs(60);
/// After so many processes that were lost the device is not asked again.
const MAX_LOST: usize = 4;

/// How to run self-tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTests {
    program: PathBuf,
    arguments: Vec<String>,
    timeout: Duration,
    folder: Option<PathBuf>,
}

impl SelfTests {
    /// By a program that, given these arguments and then the device's number and the number of checks to leave out, writes
    /// what [`self_test`](crate::self_test) says, a line of JSON each.
    pub fn by(program: PathBuf, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { program, arguments, timeout: TIMEOUT, folder: None }
    }

    /// A check that says nothing for so long hangs.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// What passed on this device, with this driver and this program, is noted in a folder and not run again.
    #[must_use]
    pub fn noted_in(self, folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// What came out, for every kernel, now or when it was noted.
    ///
    /// # Errors
    /// If nothing could be checked: that is no answer about kernels.
    pub fn run(&self, gpu: &Gpu) -> Result<Vec<Check>, GpuError> {
        let note = self.folder.as_ref().map(|folder| folder.join(note_name(gpu, &self.program)));
        if let Some(checks) = note.as_deref().and_then(read_note) {
            return Ok(checks);
        }
        let checks = self.run_now(gpu.ordinal)?;
        if let Some(note) = note.filter(|_| checks.iter().all(|check| check.failure.is_none())) {
            // Whoever can't write it down checks again the next time.
            let _ = write_note(&note, &checks);
        }
        Ok(checks)
    }

    /// [`Self::run`], without looking at notes; the device is given by the driver's number.
    ///
    /// # Errors
    /// As there.
    pub fn run_now(&self, ordinal: u32) -> Result<Vec<Check>, GpuError> {
        let mut checks: Vec<Check> = Vec::new();
        for _ in 0..=MAX_LOST {
            if self.run_from(ordinal, &mut checks)? {
                return Ok(checks);
            }
        }
        let failed = checks.iter().rev().find_map(|check| Some((&check.what, check.failure.as_ref()?)));
        let last = failed.map_or_else(String::new, |(what, failure)| format!("; the last one: {what}: {failure}"));
        Err(GpuError::SelfTest(format!("{} processes were lost to it{last}", MAX_LOST + 1)))
    }

    /// One process, behind the checks that are done. Whether it came to the end.
    fn run_from(&self, ordinal: u32, checks: &mut Vec<Check>) -> Result<bool, GpuError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args([ordinal.to_string(), checks.len().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|error| GpuError::SelfTest(format!("{} could not be started: {error}", self.program.display())))?;
        let mut running = Running::new(child);
        let mut current: Option<(String, Vec<String>)> = None;
        let ended = loop {
            match running.next(self.timeout) {
                Ok(Said::Begins { what, kernels }) => current = Some((what, kernels)),
                Ok(Said::Ends { failure }) => {
                    checks.extend(current.take().map(|(what, kernels)| Check { what, kernels, failure }));
                }
                Ok(Said::Done) => return Ok(true),
                Ok(Said::Lost) => return Ok(false),
                Ok(Said::Impossible(why)) => return Err(GpuError::SelfTest(why)),
                Err(ended) => break ended,
            }
        };
        match current {
            Some((what, kernels)) => checks.push(Check { what, kernels, failure: Some(ended) }),
            // Nothing is known to be wrong with a kernel.
            None => return Err(GpuError::SelfTest(ended)),
        }
        Ok(false)
    }
}

/// A process and what it says. It is ended when nobody listens any more.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let said = BufReader::new(stdout).lines().map_while(Result::ok);
                said.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
            });
        }
        Self { child, lines }
    }

    /// The next thing, or how it ended without one.
    fn next(&mut self, timeout: Duration) -> Result<Said, String> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => serde_json::from_str(&line).map_err(|error| format!("it said {line:?}: {error}")),
            Err(RecvTimeoutError::Timeout) => Err(format!("it did not end within {} s", timeout.as_secs_f32())),
            Err(RecvTimeoutError::Disconnected) => match self.child.wait() {
                Ok(status) => Err(format!("it ended the process: {status}")),
                Err(error) => Err(format!("it can't be waited for: {error}")),
            },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name that is another one for another device, driver, fatbin or program.
fn note_name(gpu: &Gpu, program: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    (&gpu.name, gpu.compute, gpu.multiprocessors, gpu.driver).hash(&mut hasher);
    // The driver's own version; it tells the interface's only.
    std::fs::read("/proc/driver/nvidia/version").ok().hash(&mut hasher);
    image::FATBIN.hash(&mut hasher);
    let program = std::fs::metadata(program).ok();
    program.map(|about| (about.len(), about.modified().ok())).hash(&mut hasher);
    format!("{:016x}.json", hasher.finish())
}

fn read_note(path: &Path) -> Option<Vec<Check>> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn write_note(path: &Path, checks: &[Check]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let own = path.with_extension(std::process::id().to_string());
    std::fs::write(&own, serde_json::to_vec(checks)?)?;
    std::fs::rename(own, path)
}
