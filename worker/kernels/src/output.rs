//! The output of a product, written by several threads at once.
use std::{marker::PhantomData, mem::MaybeUninit};

/// Rows of `width` values, of which threads write different parts. They may hold anything before.
pub(crate) struct Output<'a, T = f32> {
    start: *mut MaybeUninit<T>,
    width: usize,
    rows: usize,
    borrowed: PhantomData<&'a mut [MaybeUninit<T>]>,
}

// SAFETY: the only access is `part`, whose callers promise that no two parts in use overlap.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    pub(crate) fn new(values: &'a mut [MaybeUninit<T>], width: usize) -> Self {
        Self { start: values.as_mut_ptr(), width, rows: values.len() / width, borrowed: PhantomData }
    }

    /// Where value `index` lies or would lie.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn address(&self, index: usize) -> *const MaybeUninit<T> {
        self.start.wrapping_add(index)
    }

    /// Place for at most `most` values of `row` from `first` on.
    ///
    /// # Safety
    /// No other part that overlaps this one is in use.
    #[expect(clippy::mut_from_ref, reason = "that parts do not overlap is the caller's promise")]
    pub(crate) unsafe fn part(&self, row: usize, first: usize, most: usize) -> &mut [MaybeUninit<T>] {
        assert!(row < self.rows && first < self.width, "outside of the product");
        let length = most.min(self.width - first);
        // SAFETY: row and columns are inside the slice borrowed for `'a`, and by the caller's promise
        // nobody else uses them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + first), length) }
    }
}

/// Values that exist, as a place for others.
pub(crate) fn overwritten<T>(values: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: the layouts are the same, and nobody in this crate writes anything but values.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}
