//! How fast this machine reads memory: plain sums over arrays that no cache holds, by as many threads as compute, or by a GPU.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use kindling_cuda::{GpuError, probe};
use serde::Serialize;

use crate::bench::spread::Spread;

/// Much more than any cache of a processor without an on-package memory.
const MIN_BYTES: usize = 1 << 30;
/// Of the last-level cache: what is read is gone before it is read again.
const TIMES_LAST_LEVEL_CACHE: usize = 4;
/// Measured ones; one before them is not.
const PASSES: usize = 7;
/// Sums that do not wait for each other.
const ACCUMULATORS: usize = 16;

/// What the read test gave.
#[derive(Debug, Clone, Serialize)]
pub struct Bandwidth {
    /// Bytes read per pass, over all threads.
    pub array_bytes: usize,
    /// Threads that read; nothing where a GPU did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The GPU that read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Over the passes.
    pub bytes_per_second: Spread,
}

/// Measures with an array that suits this machine.
///
/// # Errors
/// If there is too little free memory for an array that no cache holds.
pub fn measure(num_threads: usize) -> anyhow::Result<Bandwidth> {
    let needed = TIMES_LAST_LEVEL_CACHE * last_level_cache_bytes().unwrap_or(0);
    let free = available_bytes()?;
    let wanted = needed.max(MIN_BYTES);
    // Never more than half of what is free, but always more than the caches hold.
    let array_bytes = wanted.min(free / 2);
    if array_bytes < needed.max(MIN_BYTES / 4) {
        bail!("the memory read test needs {} MiB, and {} MiB are free", (2 * wanted) >> 20, free >> 20);
    }
    read_passes(array_bytes, num_threads, PASSES)
}

/// Measures the first GPU, with its own memory.
///
/// # Errors
/// If there is none that can be used, or it has no room.
pub fn measure_gpu() -> anyhow::Result<Bandwidth> {
    let gpu = probe()?.into_iter().next().ok_or(GpuError::NoDevice)?;
    let loaded = gpu.load()?;
    let array_bytes = loaded.least_read_bytes().max(MIN_BYTES);
    let rates = loaded.read_bandwidth(array_bytes, PASSES)?;
    let bytes_per_second = Spread::of(rates).context("the GPU told no time")?;
    Ok(Bandwidth { array_bytes, threads: None, gpu: Some(gpu.name), bytes_per_second })
}

/// Reads `array_bytes` in all, `num_passes` times.
fn read_passes(array_bytes: usize, num_threads: usize, num_passes: usize) -> anyhow::Result<Bandwidth> {
    let num_threads = num_threads.max(1);
    let words = array_bytes / size_of::<u64>() / num_threads;
    let barrier = Barrier::new(num_threads);
    let by_thread: Vec<Vec<(Instant, Instant)>> = thread::scope(|scope| {
        let reader = |_| scope.spawn(|| read_one(words, num_passes, &barrier));
        let readers: Vec<_> = (0..num_threads).map(reader).collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect()
    });
    let bytes = words * num_threads * size_of::<u64>();
    let rates = (1..=num_passes).map(|pass| {
        let starts = by_thread.iter().filter_map(|passes| passes.get(pass)).map(|(start, _)| *start).min()?;
        let ends = by_thread.iter().filter_map(|passes| passes.get(pass)).map(|(_, end)| *end).max()?;
        Some(bytes as f64 / (ends - starts).as_secs_f64())
    });
    let bytes_per_second = Spread::of(rates.flatten()).context("a thread of the memory read test failed")?;
    Ok(Bandwidth { array_bytes: bytes, threads: Some(num_threads), gpu: None, bytes_per_second })
}

/// One thread's array, made by the thread itself so that its pages are real and near; times of all passes.
fn read_one(words: usize, num_passes: usize, barrier: &Barrier) -> Vec<(Instant, Instant)> {
    // Not zero: an array of zeroes may be one page that is mapped again and again.
    let array = vec![3_u64; words];
    let mut times = Vec::with_capacity(num_passes + 1);
    for _ in 0..=num_passes {
        barrier.wait();
        let start = Instant::now();
        let total = std::hint::black_box(sum(std::hint::black_box(&array)));
        times.push((start, Instant::now()));
        assert_eq!(total, 3 * words as u64, "the sum should be what was written");
    }
    times
}

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; ACCUMULATORS];
    let (chunks, rest) = words.as_chunks::<ACCUMULATORS>();
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |total, word| total.wrapping_add(*word))
}

/// Of the first processor; `None` where the system does not say.
fn last_level_cache_bytes() -> Option<usize> {
    let indices = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |path: std::path::PathBuf| parse_kibibytes(&fs::read_to_string(path).ok()?);
    indices.flatten().filter_map(|index| size(index.path().join("size"))).max()
}

/// `32768K` as the kernel writes sizes of caches.
fn parse_kibibytes(text: &str) -> Option<usize> {
    text.trim().strip_suffix('K')?.parse::<usize>().ok().map(|kibibytes| kibibytes << 10)
}

/// Memory that can be had without pushing others out.
fn available_bytes() -> anyhow::Result<usize> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    parse_available(&text).context("/proc/meminfo says nothing of MemAvailable")
}

fn parse_available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kibibytes| kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_in_every_pass() {
        // Checks its own sum, with a length that is no multiple of the accumulators'.
        let measured = read_passes(1_000_008, 3, 2).unwrap();
        assert_eq!((measured.array_bytes, measured.threads), (41_667 * 24, Some(3)));
        assert_eq!(measured.bytes_per_second.samples.len(), 2);
        assert!(measured.bytes_per_second.min > 0.0);
        assert_eq!(sum(&(0..1003).collect::<Vec<u64>>()), 1002 * 1003 / 2);
    }

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_kibibytes("32768K\n"), Some(32 << 20));
        assert_eq!(parse_kibibytes("lots"), None);
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
    }
}
