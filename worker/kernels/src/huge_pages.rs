//! Large buffers on large pages, where the system lends them on request.
//!
//! A product with few rows reads every weight once, as fast as memory gives them. On pages of 4 KiB it waits for the
//! page table as well, under a hypervisor twice over, and a model's first write costs a fault for each of them.

/// Asks for 2 MiB pages for what lies between `buffer`'s whole ones; without them nothing changes but the speed.
///
/// Ask before the first write: pages that are there already stay as they are until the system finds the time.
#[cfg(target_os = "linux")]
pub(crate) fn ask_for<T>(buffer: &mut [std::mem::MaybeUninit<T>]) {
    const PAGE: usize = 2 << 20;
    let start = buffer.as_mut_ptr().cast::<u8>();
    let before = start.align_offset(PAGE);
    let length = size_of_val(buffer).saturating_sub(before) / PAGE * PAGE;
    if length > 0 {
        // SAFETY: the range lies within `buffer`, which is borrowed mutably. The advice changes no content, and where it
        // is not taken (an old kernel, a setting of the system) the error says so and nothing else.
        unsafe { libc::madvise(start.add(before).cast(), length, libc::MADV_HUGEPAGE) };
    }
}

/// Elsewhere the system decides on its own.
#[cfg(not(target_os = "linux"))]
pub(crate) fn ask_for<T>(_: &mut [std::mem::MaybeUninit<T>]) {}
