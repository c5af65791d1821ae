//! The program of a CUDA build; nmt-train starts it.

/// Keeps freed memory in the process; page faults of fresh memory cost more than the arithmetic of small tensors.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    nmt_train::ops::keep_freed_memory();
    nmt_train::cli::main()
}
