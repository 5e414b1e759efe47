//! How much of some memory has pages behind it, as the kernel says; and heap that is free goes back to it.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of one entry of the page map.
const ENTRY: usize = size_of::<u64>();
/// Entries that are read at a time.
const BATCH: usize = 1 << 16;
/// Of an entry: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// Type of the entry of the auxiliary vector that holds the size of a page.
const AT_PAGESZ: usize = 6;

/// A region of memory, by address: it is only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    start: usize,
    /// Its length.
    pub num_bytes: usize,
}

impl Extent {
    /// The memory behind a slice.
    pub fn of<T>(values: &[T]) -> Self {
        Self { start: values.as_ptr() as usize, num_bytes: size_of_val(values) }
    }
}

/// Sum of the lengths.
pub(crate) fn total(extents: &[Extent]) -> usize {
    extents.iter().map(|extent| extent.num_bytes).sum()
}

/// This process's page map.
pub(crate) struct PageMap {
    file: File,
    page: usize,
}

impl PageMap {
    /// `None` where the kernel has none, or does not show it.
    pub fn open() -> Option<Self> {
        let auxiliary = std::fs::read("/proc/self/auxv").ok()?;
        let words = auxiliary.as_chunks::<{ size_of::<usize>() }>().0;
        let words: Vec<usize> = words.iter().map(|word| usize::from_ne_bytes(*word)).collect();
        let page = words.as_chunks::<2>().0.iter().find(|[kind, _]| *kind == AT_PAGESZ)?[1];
        let file = File::open("/proc/self/pagemap").ok()?;
        page.is_power_of_two().then_some(Self { file, page })
    }

    /// Bytes of the regions that are in memory. `None` if the kernel does not say.
    pub fn resident(&self, extents: &[Extent]) -> Option<usize> {
        extents.iter().map(|extent| self.resident_of(*extent)).sum()
    }

    fn resident_of(&self, Extent { start, num_bytes }: Extent) -> Option<usize> {
        let end = start.checked_add(num_bytes)?;
        let (mut page, last) = (start / self.page, end.div_ceil(self.page));
        let (mut resident, mut bytes) = (0, Vec::new());
        while page < last && num_bytes > 0 {
            let count = BATCH.min(last - page);
            bytes.resize(count * ENTRY, 0);
            self.file.read_exact_at(&mut bytes, (page * ENTRY) as u64).ok()?;
            for (index, entry) in bytes.as_chunks::<ENTRY>().0.iter().enumerate() {
                if u64::from_ne_bytes(*entry) & PRESENT != 0 {
                    let from = (page + index) * self.page;
                    resident += (from + self.page).min(end) - from.max(start);
                }
            }
            page += count;
        }
        Some(resident)
    }
}

/// From here on large blocks of memory, of a MiB and more, lie apart and go back to the machine when they are freed. GNU's
/// allocator raises that bound with every large block that is freed, and then keeps the tables of a vocabulary that grew
/// among others: what a process holds would depend on the order of things. Does nothing where the allocator is another.
pub fn keep_large_blocks_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// `M_MMAP_THRESHOLD` of `malloc.h`.
        const MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: of the C library that this is linked with; takes and gives plain numbers, from any thread.
        unsafe { mallopt(MMAP_THRESHOLD, 1 << 20) };
    }
}

/// Gives what the allocator keeps for later back to the machine: reading a vocabulary takes several times what stays of
/// it. Does nothing where the allocator is another than GNU's.
pub fn give_back_free_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: of the C library that this is linked with; takes and gives plain numbers, from any thread.
        unsafe { malloc_trim(0) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::room::Room;

    #[test]
    fn memory_counts_once_it_is_touched() {
        let map = PageMap::open().expect("this kernel should have a page map");
        let mut bytes: Vec<u8> = Room::real().zeroes(Some(64 << 20), "a test").unwrap();
        let whole = [Extent::of(&bytes)];
        assert!(map.resident(&whole).unwrap() < 2 << 20, "nobody has touched it");
        bytes[..16 << 20].fill(1);
        let touched = map.resident(&whole).unwrap();
        // Where the machine has huge pages, some more come with the last.
        assert!((16 << 20..=20 << 20).contains(&touched), "{touched}");
        let within = [Extent::of(&bytes[100..300]), Extent::of(&bytes[..0])];
        assert_eq!((map.resident(&within), total(&within)), (Some(200), 200));
    }

    #[test]
    fn a_room_that_fills_is_there_at_once() {
        let map = PageMap::open().expect("this kernel should have a page map");
        for count in [1, 4097, 100 << 20] {
            let bytes: Vec<u8> = Room::filled(3).zeroes(Some(count), "a test").unwrap();
            assert_eq!(map.resident(&[Extent::of(&bytes)]), Some(count));
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }
}
