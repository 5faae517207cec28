//! glibc's `malloc` set up for training: it keeps the memory of big tensors instead of giving it back.
//!
//! By default every block above 32 MiB (smaller ones until it has adapted) is a fresh `mmap`, and is unmapped when the
//! tensor dies. A training step makes and drops the same big tensors again and again, and each time the kernel has to
//! fault in and clear every page: about a sixth of a CPU step. Here big blocks come from the heap, which grows in large
//! steps and never shrinks, so the next step finds its pages in place. The price: what a process once had it keeps, and
//! blocks of changing sizes can leave gaps.

/// Sets it up; call it first thing in `main`, before memory is in use. Returns whether it could: glibc only.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn tune() -> bool {
    const TOP_PAD_BYTES: libc::c_int = 64 << 20;
    // For glibc, −1 is the largest size: the top of the heap is never given back.
    let options = [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1), (libc::M_TOP_PAD, TOP_PAD_BYTES)];
    // SAFETY: it only changes parameters of the allocator, under its lock.
    options.into_iter().all(|(option, value)| unsafe { libc::mallopt(option, value) } == 1)
}

/// Gives memory that no tensor uses back to the system, as far as it can, so that the process is as large as what it
/// holds: for measuring. Returns whether it could: glibc only.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn release_unused() -> bool {
    // SAFETY: it touches free memory only, under the allocator's lock. It returns 0 where there was nothing to give.
    unsafe { libc::malloc_trim(0) };
    true
}

/// Another allocator, with other habits: left alone.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_unused() -> bool {
    false
}

/// Another allocator, with other habits: left alone.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn tune() -> bool {
    false
}
