//! Kernels by name, and their launches.

use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{bail, DType, Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::{Memory, Pointer};
use crate::ops::dropout::Mask;

#[allow(unreachable_pub, reason = "generated")]
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Module {
    Attention,
    CrossEntropy,
    Decode,
    Elementwise,
    Embed,
    Linear,
    Norm,
    Optimizer,
    Qr,
    Cholesky,
    Recurrent,
    Window,
}

impl Module {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Module::Attention => ("nmt_attention", ptx::ATTENTION),
            Module::CrossEntropy => ("nmt_cross_entropy", ptx::CROSS_ENTROPY),
            Module::Decode => ("nmt_decode", ptx::DECODE),
            Module::Elementwise => ("nmt_elementwise", ptx::ELEMENTWISE),
            Module::Embed => ("nmt_embed", ptx::EMBED),
            Module::Linear => ("nmt_linear", ptx::LINEAR),
            Module::Norm => ("nmt_norm", ptx::NORM),
            Module::Optimizer => ("nmt_optimizer", ptx::OPTIMIZER),
            Module::Qr => ("nmt_qr", ptx::QR),
            Module::Cholesky => ("nmt_cholesky", ptx::CHOLESKY),
            Module::Recurrent => ("nmt_recurrent", ptx::RECURRENT),
            Module::Window => ("nmt_window", ptx::WINDOW),
        }
    }
}

/// A kernel: its file, its name there, and the number type of its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kernel(pub(super) Module, pub(super) &'static str, pub(super) DType);

/// How many threads do a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    blocks: (u32, u32),
    threads: (u32, u32),
    shared_bytes: u32,
}

/// Threads of a block where each does one element.
const BLOCK: usize = 256;
/// Shared memory that a block has without asking.
const SHARED: u32 = 48 * 1024;

impl Grid {
    /// A thread for each of `n` elements.
    pub(super) fn elements(n: usize) -> Self {
        Grid::blocks(n.div_ceil(BLOCK), 1, BLOCK)
    }

    /// Blocks of some threads.
    pub(super) fn blocks(x: usize, y: usize, threads: usize) -> Self {
        Grid { blocks: (x as u32, y as u32), threads: (threads as u32, 1), shared_bytes: 0 }
    }

    /// Blocks of 32 × 8 threads over columns and chunks of rows.
    pub(super) fn columns(columns: usize, chunks: usize) -> Self {
        Grid { blocks: (columns.div_ceil(32) as u32, chunks as u32), threads: (32, 8), shared_bytes: 0 }
    }

    /// With this many floats of dynamic shared memory a block.
    pub(super) fn sharing(self, floats: usize) -> Self {
        Grid { shared_bytes: 4 * floats as u32, ..self }
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg<'a> {
    /// Nothing is a null pointer.
    Pointer(Option<Pointer<'a>>),
    /// `size_t`
    Size(u64),
    Int(i32),
    Word(u32),
    Float(f32),
}

impl<'a> From<Memory<'a>> for Arg<'a> {
    fn from(memory: Memory<'a>) -> Self {
        Arg::Pointer(Some(memory.pointer()))
    }
}

impl<'a> From<Option<Memory<'a>>> for Arg<'a> {
    fn from(memory: Option<Memory<'a>>) -> Self {
        Arg::Pointer(memory.map(Memory::pointer))
    }
}

impl<'a> From<Option<Pointer<'a>>> for Arg<'a> {
    fn from(pointer: Option<Pointer<'a>>) -> Self {
        Arg::Pointer(pointer)
    }
}

impl<'a> From<Pointer<'a>> for Arg<'a> {
    fn from(pointer: Pointer<'a>) -> Self {
        Arg::Pointer(Some(pointer))
    }
}

impl From<usize> for Arg<'_> {
    /// An `int`: counts of rows and columns, which are far below 2³¹.
    fn from(count: usize) -> Self {
        Arg::Int(count as i32)
    }
}

impl From<bool> for Arg<'_> {
    fn from(flag: bool) -> Self {
        Arg::Int(i32::from(flag))
    }
}

impl From<f64> for Arg<'_> {
    fn from(value: f64) -> Self {
        Arg::Float(value as f32)
    }
}

/// The four arguments of a dropout mask.
pub(super) fn mask_args(dropout: Option<crate::ops::Dropout>) -> [Arg<'static>; 4] {
    let (key, threshold, scale) = match dropout.map(Mask::<f32>::new) {
        Some(mask) => mask.parts(),
        None => ([0, 0], 0, 1.0),
    };
    [Arg::Word(key[0]), Arg::Word(key[1]), Arg::Word(threshold), Arg::Float(scale)]
}

/// Arguments of a kernel, anything that is an [`Arg`] or several.
macro_rules! args {
    ($($arg:expr),* $(,)? ; $mask:expr) => {{
        let mut args: Vec<$crate::ops::cuda::launch::Arg<'_>> = vec![$($arg.into()),*];
        args.extend($crate::ops::cuda::launch::mask_args($mask));
        args
    }};
    ($($arg:expr),* $(,)?) => {
        [$($crate::ops::cuda::launch::Arg::from($arg)),*]
    };
}
pub(super) use args;

/// A kernel on a device, and the types of its parameters.
#[derive(Clone)]
struct Function {
    function: CudaFunction,
    parameters: Arc<[&'static str]>,
}

/// Functions that were looked up: asking the driver each time costs as much as the launch.
static FUNCTIONS: Mutex<Option<HashMap<(DeviceId, Kernel), Function>>> = Mutex::new(None);

/// PTX types of the parameters of a kernel, from the text it is loaded from.
fn parameters(text: &'static str, name: &str) -> Arc<[&'static str]> {
    let declared = text.split_once(&format!(".entry {name}(")).and_then(|(_, rest)| rest.split_once(')'));
    let list = declared.map_or("", |(list, _)| list);
    list.split(',').filter_map(|parameter| parameter.split_whitespace().nth(1)).collect()
}

impl Arg<'_> {
    /// Of a pointer; else null.
    fn address(self) -> u64 {
        match self {
            Arg::Pointer(Some(pointer)) => pointer.address(),
            _ => 0,
        }
    }

    /// Its PTX type.
    fn kind(self) -> &'static str {
        match self {
            Arg::Pointer(_) | Arg::Size(_) => ".u64",
            Arg::Int(_) | Arg::Word(_) => ".u32",
            Arg::Float(_) => ".f32",
        }
    }
}

fn function(device: &CudaDevice, kernel: Kernel, shared_bytes: u32) -> Result<Function> {
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let functions = functions.get_or_insert_default();
    if let Some(function) = functions.get(&(device.id(), kernel)).filter(|_| shared_bytes <= SHARED) {
        return Ok(function.clone());
    }
    let Kernel(module, name, dtype) = kernel;
    let suffix = match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        // small systems of optimizers
        DType::F64 => "f64",
        other => bail!("{name}: a GPU computes in f32, bf16 and f64, not in {other:?}"),
    };
    let (module, text) = module.text();
    let full_name = format!("{name}_{suffix}");
    let function = device.get_or_load_custom_func(&full_name, module, text)?.into_cuda_function();
    if shared_bytes > SHARED {
        let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if let Err(error) = function.set_attribute(most, shared_bytes as i32) {
            bail!("{name}: this GPU has no {shared_bytes} bytes of shared memory a block ({error})");
        }
    }
    let function = Function { function, parameters: parameters(text, &full_name) };
    functions.insert((device.id(), kernel), function.clone());
    Ok(function)
}

/// Starts a kernel; nothing waits for it. The memory of its arguments is alive now, and what frees it later waits its turn on
/// the stream. That it is as long as the kernel's indices reach is seen to where these are chosen, beside each launch:
/// buffers are made for it, and what comes from elsewhere is measured ([`Memory::holds`], `Mat::new`).
///
/// # Errors
/// Arguments of other types than the kernel's; those of the driver.
#[expect(unsafe_code, reason = "the driver cannot check a kernel's arguments")]
pub(super) fn launch(device: &CudaDevice, kernel: Kernel, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
    let Grid { blocks, threads, shared_bytes } = grid;
    if blocks.0 == 0 || blocks.1 == 0 {
        return Ok(());
    }
    let Function { function, parameters } = function(device, kernel, shared_bytes)?;
    if !args.iter().map(|arg| arg.kind()).eq(parameters.iter().copied()) {
        bail!("kernel {} takes {parameters:?}, not {args:?}", kernel.1);
    }
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    let addresses: Vec<u64> = args.iter().map(|arg| arg.address()).collect();
    for (arg, address) in args.iter().zip(&addresses) {
        match arg {
            Arg::Pointer(_) => builder.arg(address),
            Arg::Size(value) => builder.arg(value),
            Arg::Int(value) => builder.arg(value),
            Arg::Word(value) => builder.arg(value),
            Arg::Float(value) => builder.arg(value),
        };
    }
    let config = LaunchConfig {
        grid_dim: (blocks.0, blocks.1, 1),
        block_dim: (threads.0, threads.1, 1),
        shared_mem_bytes: shared_bytes,
    };
    // SAFETY: number and types of the arguments are the kernel's; tests run every kernel on every size of memory.
    match unsafe { builder.launch(config) } {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::wrap(error).context(format!("kernel {}", kernel.1))),
    }
}
