//! Views of activation buffers that several threads write at once, each its own elements.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::lanes::LANES;

/// `[num_rows, width]` f32, row-major, in memory that outlives `'a`.
#[derive(Clone, Copy)]
pub(super) struct RowsView<'a> {
    start: *mut f32,
    /// Rows of this step.
    pub num_rows: usize,
    /// Elements per row.
    pub width: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is a pointer; every access through it is unsafe and says who else may touch the elements.
unsafe impl Send for RowsView<'_> {}
// SAFETY: as above.
unsafe impl Sync for RowsView<'_> {}

impl<'a> RowsView<'a> {
    /// A view of `num_rows * width` elements from `start`.
    ///
    /// # Safety
    /// They must be initialised and stay allocated for `'a`, and be accessed through views only.
    pub unsafe fn new(start: *mut f32, num_rows: usize, width: usize) -> Self {
        Self { start, num_rows, width, memory: PhantomData }
    }

    /// Consecutive rows.
    ///
    /// # Safety
    /// Nobody may write them while the result lives.
    #[inline(always)]
    pub unsafe fn rows(self, rows: Range<usize>) -> &'a [f32] {
        assert!(rows.start <= rows.end && rows.end <= self.num_rows, "rows {rows:?} of {}", self.num_rows);
        // SAFETY: inside the view, see `new`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.add(rows.start * self.width), rows.len() * self.width) }
    }

    /// Part of one row. No more than is asked for: others may write to the rest of the row.
    ///
    /// # Safety
    /// Nobody may write these elements while the result lives.
    #[inline(always)]
    unsafe fn part(self, row: usize, columns: Range<usize>) -> &'a [f32] {
        assert!(row < self.num_rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: inside the view, see `new`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.width + columns.start), columns.len()) }
    }

    /// Part of one row, to write.
    ///
    /// # Safety
    /// Nobody else may touch these elements while the result lives.
    #[inline(always)]
    pub unsafe fn part_mut(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(row < self.num_rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: inside the view, see `new`; the caller keeps everybody else away.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + columns.start), columns.len()) }
    }

    /// One row, to write.
    ///
    /// # Safety
    /// Nobody else may touch it while the result lives.
    #[inline(always)]
    pub unsafe fn row_mut(self, row: usize) -> &'a mut [f32] {
        // SAFETY: as the caller promises.
        unsafe { self.part_mut(row, 0..self.width) }
    }

    /// Up to sixteen elements from `column` on, zeroes beyond the row.
    ///
    /// # Safety
    /// Nobody may write these elements meanwhile.
    #[inline(always)]
    pub unsafe fn load(self, row: usize, column: usize) -> [f32; LANES] {
        // SAFETY: as the caller promises; the borrow ends here.
        let part = unsafe { self.part(row, column..self.width.min(column + LANES)) };
        let mut values = [0.0; LANES];
        match part.first_chunk::<LANES>() {
            Some(all) => values = *all,
            None => values[..part.len()].copy_from_slice(part),
        }
        values
    }

    /// Writes up to sixteen elements from `column` on, as many as the row has.
    ///
    /// # Safety
    /// Nobody else may touch these elements meanwhile.
    #[inline(always)]
    pub unsafe fn store(self, row: usize, column: usize, values: &[f32; LANES]) {
        let columns = column..self.width.min(column + LANES);
        // SAFETY: as the caller promises; the borrow ends here.
        let part = unsafe { self.part_mut(row, columns) };
        match part.first_chunk_mut::<LANES>() {
            Some(all) => *all = *values,
            None => part.copy_from_slice(&values[..part.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_while_others_write_beside() {
        let mut memory: Vec<f32> = (0..40).map(|value| value as f32).collect();
        // SAFETY: all of the vector, which is not touched otherwise.
        let view = unsafe { RowsView::new(memory.as_mut_ptr(), 2, 20) };
        // SAFETY: nobody else has these four elements. Miri checks that the load below leaves them alone.
        let written = unsafe { view.part_mut(1, 16..20) };
        // SAFETY: nobody writes the elements before these.
        let loaded = unsafe { view.load(1, 0) };
        written[0] = -1.0;
        assert_eq!(loaded[..3], [20.0, 21.0, 22.0]);
        assert_eq!(loaded[15], 35.0);
        // SAFETY: `written` is used no more.
        let rest = unsafe { view.load(1, 16) };
        assert_eq!(rest[..5], [-1.0, 37.0, 38.0, 39.0, 0.0]);
    }

    #[test]
    #[should_panic = "row < self.num_rows"]
    fn refuses_what_is_outside() {
        let mut memory = vec![0.0; 20];
        // SAFETY: all of the vector.
        let view = unsafe { RowsView::new(memory.as_mut_ptr(), 1, 20) };
        // SAFETY: nobody writes.
        unsafe { view.load(1, 0) };
    }
}
