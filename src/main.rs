//! The program: memory settings, then the command line. In a CUDA build this is the launcher of nmt-train-cuda, which
//! cannot even start, nor say why, on a machine without NVIDIA's driver.

#[cfg(feature = "cuda")]
#[path = "launcher.rs"]
mod launcher;

/// Keeps freed memory in the process; page faults of fresh memory cost more than the arithmetic of small tensors.
#[cfg(not(feature = "cuda"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    #[cfg(feature = "cuda")]
    return launcher::main();
    #[cfg(not(feature = "cuda"))]
    {
        nmt_train::ops::keep_freed_memory();
        nmt_train::cli::main()
    }
}
