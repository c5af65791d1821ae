//! Keeps memory that one training step frees for the next one: returning it to the system and getting it back costs a
//! page fault each 4 KiB, up to a second a step.

/// Tells mimalloc, the program's allocator, never to give freed pages back. Call once at the start of `main`, before
/// the first tensor; without mimalloc as the global allocator it has no effect.
#[expect(unsafe_code, reason = "mimalloc's options are set through its C interface")]
pub fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3; −1 = never purge.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number in a static table; the option exists in the bundled version.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
