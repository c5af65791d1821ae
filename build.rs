//! With the feature `cuda`: compiles the kernels in src/ops/cuda to PTX, for the GPU that CUDA_COMPUTE_CAP names (90: an
//! H100 or H200), or else for the one that is there. The same crate and the same environment variables as candle's build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    {
        let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
        cudaforge::KernelBuilder::new()
            .source_dir("src/ops/cuda")
            .watch(["src/ops/cuda/common.cuh"])
            .arg("-std=c++17")
            .arg("-O3")
            .build_ptx()?
            .write(out.join("ptx.rs"))?;
    }
    Ok(())
}
