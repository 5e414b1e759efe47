//! What was compiled into this program.

use crate::code::Target;

/// Every kernel for every target, or nothing where no nvcc was there.
pub static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
/// What nvcc said of registers, spills and shared memory.
const USAGE: &str = include_str!(concat!(env!("OUT_DIR"), "/usage.txt"));
const TARGETS: &str = include_str!("../targets.txt");

/// Whether this program has any code for a GPU.
pub fn is_there() -> bool {
    !FATBIN.is_empty()
}

/// For what it was compiled.
pub fn targets() -> Vec<Target> {
    let names = TARGETS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    names.filter_map(Target::parse).collect()
}

/// What a kernel takes on a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usage {
    /// Its name.
    pub kernel: String,
    /// As nvcc names it.
    pub target: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to memory because it has no registers left.
    pub spilled: u32,
    /// Bytes of shared memory of a block that are known beforehand.
    pub shared: u32,
}

/// What all kernels take.
pub fn usage() -> Vec<Usage> {
    read_usage(USAGE)
}

fn read_usage(said: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut parts = rest.split('\'');
            let kernel = parts.next().unwrap_or_default().to_owned();
            let target = parts.nth(1).unwrap_or_default().to_owned();
            all.push(Usage { kernel, target, registers: 0, spilled: 0, shared: 0 });
        }
        let Some(last) = all.last_mut() else { continue };
        if let Some(bytes) = number_before(line, " bytes spill stores") {
            last.spilled = bytes;
        }
        if let Some(registers) = number_before(line, " registers") {
            last.registers = registers;
            last.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    all.sort();
    all
}

fn number_before(line: &str, word: &str) -> Option<u32> {
    let before = line.split_once(word)?.0;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_compiler_says_is_read() {
        let said = "ptxas info    : 0 bytes gmem\n\
                    ptxas info    : Compiling entry function 'gemv' for 'sm_121a'\n\
                    ptxas info    : Function properties for gemv\n    \
                    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
                    ptxas info    : Used 26 registers, used 1 barriers, 4096 bytes smem\n";
        let usage = Usage { kernel: "gemv".into(), target: "sm_121a".into(), registers: 26, spilled: 8, shared: 4096 };
        assert_eq!(read_usage(said), [usage]);
    }

    #[test]
    fn a_program_without_code_has_no_usage_and_one_with_code_has() {
        assert_eq!(is_there(), !usage().is_empty());
    }
}
