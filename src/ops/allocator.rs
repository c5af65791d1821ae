//! Keeps memory that one training step frees for the next one: returning it to the system and getting it back costs a
//! page fault each 4 KiB, up to a second a step. Every few minutes what is free goes back all the same, or a process whose
//! batches are of ever new sizes grows for hours.

/// Tells mimalloc, the program's allocator, to keep freed pages for five minutes. Call once at the start of `main`, before
/// the first tensor; without mimalloc as the global allocator it has no effect.
#[expect(unsafe_code, reason = "mimalloc's options are set through its C interface")]
pub fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3, in milliseconds; after it all pages that are free at that moment go.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number in a static table; the option exists in the bundled version.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 300_000) };
}
