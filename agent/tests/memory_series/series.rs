//! A series of memory readings, one a second, from a file.

use std::path::{Path, PathBuf};

/// What the kernel says in one second, in its own units.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub total: u64,
    pub available: u64,
    pub free: u64,
    pub swap_total: u64,
    pub swap_free: u64,
    pub stalled_percent: f64,
}

/// The series of that name: all columns, every second.
pub fn read(name: &str) -> Vec<Sample> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/memory").join(format!("{name}.csv"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = text.lines().filter(|line| !line.starts_with('#')).skip(1).enumerate();
    rows.map(|(second, line)| {
        let cells: Vec<f64> = line.split(',').map(|cell| cell.parse().expect("a number")).collect();
        let [number, total, available, free, swap_total, swap_free, stalled_percent] = cells[..] else {
            panic!("{name}, second {second}: {line:?} has not seven columns")
        };
        assert_eq!(number, second as f64, "{name} misses a second");
        let kib = |cell: f64| cell as u64;
        let (total, available, free) = (kib(total), kib(available), kib(free));
        Sample { total, available, free, swap_total: kib(swap_total), swap_free: kib(swap_free), stalled_percent }
    })
    .collect()
}

impl Sample {
    /// As the kernel would say it, in a folder that stands for `/proc`.
    pub fn write(&self, procfs: &Path) {
        let Self { total, available, free, swap_total, swap_free, stalled_percent } = self;
        let meminfo = format!(
            "MemTotal: {total} kB\nMemFree: {free} kB\nMemAvailable: {available} kB\nSwapTotal: {swap_total} kB\n\
             SwapFree: {swap_free} kB\n"
        );
        std::fs::write(procfs.join("meminfo"), meminfo).expect("the folder is there");
        let pressure = format!("some avg10={stalled_percent:.2} avg60=0.00 avg300=0.00 total=0\n");
        std::fs::write(procfs.join("pressure/memory"), pressure).expect("the folder is there");
    }
}
