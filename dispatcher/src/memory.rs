//! Memory that this process does not need any more.

/// Gives back to the system what the allocator keeps of freed memory. Planning millions of items takes hundreds of megabytes, and
/// following them for hours takes next to nothing; by itself glibc returns only what lies at the end of its heaps.
pub(crate) fn hand_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer, and touches nothing but the allocator's own state, under the allocator's locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
