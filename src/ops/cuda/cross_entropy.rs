//! The output projection on the GPU, in blocks of rows whose logits exist at the same time.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{DType, Result, Storage, Tensor};

use super::columns::{add_in_place, cast, column_sums, device_of};
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};
use super::product::{product, Mat, Store};
use crate::ops::cross_entropy::{Criterion, LinearCrossEntropy, Projection, Rows};
use crate::ops::tape::{Computed, Done, OnGpu, Saved};

/// Logits that exist at the same time: a quarter of a gigabyte.
const LOGITS: usize = 1 << 26;
/// Threads of a row.
const THREADS: usize = 256;

/// Losses of rows, and gradients.
pub(in crate::ops) struct Outcome {
    /// `scale`·Σ ℓ, a scalar.
    loss: Storage,
    pub(in crate::ops) rows: Rows,
    /// Of states, table and bias, as they are wanted.
    gradients: Saved,
}

impl OnGpu for LinearCrossEntropy {
    fn forward_on_gpu(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        let (device, factors) = (device_of(&inputs[0])?, (self.criterion, self.scale));
        let wants = LinearCrossEntropy::wants(inputs, tracked);
        let (states_table, bias) = ([&inputs[0], &inputs[1]], inputs.get(2));
        let found = self.projection.losses_on_gpu(device, states_table, bias, &self.labels, factors, wants)?;
        self.side.get_or_init(|| found.rows);
        Ok((found.loss, ().into(), found.gradients))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        LinearCrossEntropy::scaled(done, |gradient, factor| {
            let gradient = gradient.copy()?;
            super::columns::multiply(&gradient, factor)?;
            Ok(gradient)
        })
    }
}

/// The rows of one pass in a block of them all.
fn of_pass(block: Memory<'_>, pass: usize, rows: usize, columns: usize) -> Mat<'_> {
    Mat::new(block.part(pass * rows * columns, rows * columns), rows, columns)
}

impl Projection {
    fn rows(&self) -> usize {
        (LOGITS / self.vocabulary.max(1)).clamp(1, self.n.max(1))
    }

    fn masked_arg(&self) -> Arg<'static> {
        Arg::Int(self.masked.map_or(-1, |id| id as i32))
    }

    /// What the tokens cost, and `scale` times the gradients of their sum.
    pub(in crate::ops) fn losses_on_gpu(
        &self,
        device: &CudaDevice,
        [h, table]: [&Tensor; 2],
        bias: Option<&Tensor>,
        labels: &[u32],
        (criterion, scale): (Criterion, f64),
        wants: [bool; 3],
    ) -> Result<Outcome> {
        let Projection { n, width, vocabulary, .. } = *self;
        let Criterion { label_smoothing: smoothing, r_drop_alpha } = criterion;
        let (passes, tokens, half_alpha) = (criterion.passes(), labels.len(), 0.5 * r_drop_alpha);
        let [wants_h, wants_table, wants_bias] = wants;
        let (labels, bias) = (Upload::new(device, labels)?, self.bias_on_gpu(bias)?);
        let (h, table) = (Memory::of_tensor(h)?, Memory::of_tensor(table)?);
        let table = cast(device, table, h.dtype)?;
        let table = Mat::new(table.memory(), vocabulary, width);
        let new = |wanted: bool, dtype, len| wanted.then(|| Buffer::new(device, dtype, len)).transpose();
        let dh = new(wants_h, h.dtype, n * width)?;
        let d_table = new(wants_table, DType::F32, vocabulary * width)?;
        let mut d_bias: Option<Tensor> = None;
        // losses, their unsmoothed forms and divergences of tokens
        let [losses, nlls] = [Buffer::new(device, DType::F32, tokens)?, Buffer::new(device, DType::F32, tokens)?];
        let kls = new(passes > 1, DType::F32, tokens)?;
        let block = (self.rows() / passes).max(1);
        let logits = Buffer::new(device, DType::F32, passes * block * vocabulary)?;
        let wanted = wants.contains(&true);
        // in f32 the gradient takes the place of the logits
        let dz = new(wanted && h.dtype != DType::F32, h.dtype, passes * block * vocabulary)?;
        let dz_memory = wanted.then(|| dz.as_ref().map_or(logits.memory(), Buffer::memory));
        for start in (0..tokens).step_by(block) {
            let rows = block.min(tokens - start);
            // of the tokens in each pass: states, and rows of a block
            let states_at = |pass: usize| (pass * tokens + start) * width;
            let states = |pass: usize| Mat::new(h.part(states_at(pass), rows * width), rows, width);
            for pass in 0..passes {
                let logits = of_pass(logits.memory(), pass, rows, vocabulary);
                product(device, logits, Store::Set, states(pass), table.t())?;
            }
            let (losses, nlls) = (losses.memory().part(start, rows), nlls.memory().part(start, rows));
            let (labels, masked, logits) = (labels.pointer().from(4 * start), self.masked_arg(), logits.memory());
            let grid = Grid::blocks(rows, 1, THREADS);
            let kernel = |name| Kernel(Module::CrossEntropy, name, h.dtype);
            match &kls {
                None => {
                    let args =
                        args![dz_memory, losses, nlls, logits, bias, labels, vocabulary, masked, smoothing, scale];
                    launch(device, kernel("cross_entropy"), grid, &args)?;
                }
                Some(kls) => {
                    let kls = kls.memory().part(start, rows);
                    let args = args![
                        dz_memory, losses, nlls, kls, logits, bias, labels, rows, vocabulary, masked, smoothing,
                        half_alpha, scale
                    ];
                    launch(device, kernel("r_drop"), grid, &args)?;
                }
            }
            let Some(dz) = dz_memory else { continue };
            for pass in 0..passes {
                let dz = of_pass(dz, pass, rows, vocabulary);
                if let Some(dh) = &dh {
                    let target = Mat::new(dh.memory().part(states_at(pass), rows * width), rows, width);
                    product(device, target, Store::Set, dz, table)?;
                }
                if let Some(d_table) = &d_table {
                    let store = if start + pass == 0 { Store::Set } else { Store::Add };
                    product(device, Mat::new(d_table.memory(), vocabulary, width), store, dz.t(), states(pass))?;
                }
            }
            if wants_bias {
                let sums = column_sums(device, dz, passes * rows, vocabulary, vocabulary)?.tensor(vocabulary);
                match &d_bias {
                    None => d_bias = Some(sums),
                    Some(d_bias) => add_in_place(d_bias, &sums)?,
                }
            }
        }
        let (sums, loss) = (Buffer::zeros(device, DType::F64, 3)?, Buffer::new(device, DType::F32, 1)?);
        let of_kls = kls.as_ref().map(|kls| (kls, Some(half_alpha)));
        for (i, (values, share)) in [(&losses, Some(1.0)), (&nlls, None)].into_iter().chain(of_kls).enumerate() {
            let scaled = share.map(|_| loss.memory());
            let factor = scale * share.unwrap_or(0.0);
            let n = Arg::Size(tokens as u64);
            let args = args![sums.memory().part(i, 1), scaled, values.memory(), n, factor, i > 0];
            launch(device, Kernel(Module::Elementwise, "total", DType::F32), Grid::blocks(1, 1, THREADS), &args)?;
        }
        Ok(Outcome {
            loss: loss.storage(),
            rows: Rows::Gpu { sums: sums.tensor(3), nll: nlls.tensor(tokens) },
            gradients: [
                dh.map(|dh| dh.tensor((n, width))),
                d_table.map(|d_table| d_table.tensor((vocabulary, width))),
                d_bias,
            ],
        })
    }

    /// Log-probabilities of all ids: `[n, vocabulary]`, f32.
    pub(in crate::ops) fn log_softmax_on_gpu(
        &self,
        h: &Tensor,
        table: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let Projection { n, vocabulary, .. } = *self;
        let device = device_of(h)?;
        let logits = Buffer::new(device, DType::F32, n * vocabulary)?;
        self.logits_on_gpu(device, logits.memory(), Memory::of_tensor(h)?, Memory::of_tensor(table)?, n)?;
        let bias = self.bias_on_gpu(bias)?;
        let args = args![logits.memory(), bias, vocabulary, self.masked_arg()];
        let kernel = Kernel(Module::CrossEntropy, "log_softmax", DType::F32);
        launch(device, kernel, Grid::blocks(n, 1, THREADS), &args)?;
        Ok(logits.tensor((n, vocabulary)))
    }

    /// The `k` most probable ids of each row with their log-probabilities.
    pub(in crate::ops) fn top_on_gpu(
        &self,
        h: &Tensor,
        table: &Tensor,
        bias: Option<&Tensor>,
        k: usize,
    ) -> Result<Vec<Vec<(u32, f64)>>> {
        let Projection { n, width, vocabulary, .. } = *self;
        let device = device_of(h)?;
        let (h, table) = (Memory::of_tensor(h)?, Memory::of_tensor(table)?);
        let bias = self.bias_on_gpu(bias)?;
        let k = k.min(vocabulary);
        let (ids, values) = (Buffer::new(device, DType::U32, n * k)?, Buffer::new(device, DType::F32, n * k)?);
        let rows = self.rows();
        let logits = Buffer::new(device, DType::F32, rows * vocabulary)?;
        for start in (0..n).step_by(rows) {
            let rows = rows.min(n - start);
            self.logits_on_gpu(device, logits.memory(), h.part(start * width, rows * width), table, rows)?;
            let (ids, values) = (ids.memory().part(start * k, rows * k), values.memory().part(start * k, rows * k));
            let args = args![ids, values, logits.memory(), bias, vocabulary, self.masked_arg(), k];
            let kernel = Kernel(Module::CrossEntropy, "top", DType::F32);
            launch(device, kernel, Grid::blocks(rows, 1, THREADS), &args)?;
        }
        let (ids, values) = (ids.tensor((n, k)).to_vec2::<u32>()?, values.tensor((n, k)).to_vec2::<f32>()?);
        let row = |(ids, values): (Vec<u32>, Vec<f32>)| {
            let found = ids.into_iter().zip(values).filter(|(_, value)| *value > f32::NEG_INFINITY);
            found.map(|(id, value)| (id, f64::from(value))).collect()
        };
        Ok(ids.into_iter().zip(values).map(row).collect())
    }

    fn bias_on_gpu<'a>(&self, bias: Option<&'a Tensor>) -> Result<Option<Memory<'a>>> {
        bias.map(|bias| Memory::of_tensor(bias)?.single()?.holds(self.vocabulary)).transpose()
    }

    fn logits_on_gpu(
        &self,
        device: &CudaDevice,
        logits: Memory<'_>,
        h: Memory<'_>,
        table: Memory<'_>,
        rows: usize,
    ) -> Result<()> {
        let table = cast(device, table, h.dtype)?;
        let states = Mat::new(h, rows, self.width);
        let table = Mat::new(table.memory(), self.vocabulary, self.width).t();
        product(device, Mat::new(logits, rows, self.vocabulary), Store::Set, states, table)
    }
}
