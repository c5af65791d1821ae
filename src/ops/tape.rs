//! The tape of a training step: the same operations as on candle's tape, with gradients that move instead of being
//! added to zeros, and activations that are freed as the backward pass leaves them.
//!
//! candle's `backward` makes zeros and a sum for every edge of the graph and holds every activation to the end. While
//! [`record`] runs, this module keeps the operations in their order instead; outside it they go on candle's tape, as
//! the gradient checks use it. Both give the same gradients, bit for bit. Where no gradient is wanted ([`untracked`]) they
//! go on neither, and what led to a result is freed.

use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
use candle_core::{
    bail, CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor,
    WithDType,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::real::{self, with_real};

thread_local! {
    static RECORDING: RefCell<Option<Vec<Node>>> = const { RefCell::new(None) };
    /// Inside [`untracked`].
    static OFF: Cell<bool> = const { Cell::new(false) };
}

/// One operation that was done.
struct Node {
    inputs: Vec<Tensor>,
    output: Tensor,
    op: Op,
}

enum Op {
    One(Box<dyn CustomOp1 + Send + Sync>),
    Two(Box<dyn CustomOp2 + Send + Sync>),
    Three(Box<dyn CustomOp3 + Send + Sync>),
    /// Inputs end to end in one dimension.
    Concatenation,
}

/// The operations of one forward pass; see [`record`].
pub struct Tape(Vec<Node>);

/// Runs a forward pass and keeps its operations for [`Tape::backward`]. Only operations of `ops` may lie between the
/// variables and the loss.
///
/// # Errors
/// Those of `forward`.
pub fn record<R>(forward: impl FnOnce() -> Result<R>) -> Result<(R, Tape)> {
    RECORDING.with_borrow_mut(|nodes| *nodes = Some(Vec::new()));
    let result = forward();
    let nodes = RECORDING.take().unwrap_or_default();
    Ok((result?, Tape(nodes)))
}

/// Runs a computation whose gradient nobody wants: its operations go on no tape and save nothing, so that memory lives
/// no longer than the tensors at hand.
pub fn untracked<R>(compute: impl FnOnce() -> R) -> R {
    /// Also when `compute` panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            OFF.set(self.0);
        }
    }
    let _before = Before(OFF.replace(true));
    compute()
}

/// Whether a gradient may be asked for of what is computed from these.
pub(super) fn tracks(inputs: &[&Tensor]) -> bool {
    !OFF.get() && inputs.iter().any(|input| input.track_op())
}

/// What a linear map was applied to, for optimizers that model curvature.
#[derive(Clone, Debug)]
pub struct LinearInput {
    /// The weight, or the weights of several maps done in one product, `[out, in]` each.
    pub weights: Vec<Tensor>,
    /// The bias of each weight; empty when the map has none.
    pub biases: Vec<Tensor>,
    /// `[N, in]`.
    pub input: Tensor,
}

impl Tape {
    /// The input activations of every `linear` and of the output projection, in the order of the forward pass. They are
    /// on the tape anyway: nothing is kept for this, nothing copied. What is held beyond [`Tape::backward`] is freed
    /// later.
    pub fn linear_inputs(&self) -> Vec<LinearInput> {
        let mut found = Vec::new();
        // a joint product takes several weights (and biases) as one concatenation
        let parts = |whole: &Tensor| {
            let joint = self.0.iter().find(|made| made.output.id() == whole.id());
            joint.map_or_else(|| vec![whole.clone()], |joint| joint.inputs.clone())
        };
        for node in &self.0 {
            let name = match &node.op {
                Op::Two(op) => op.name(),
                Op::Three(op) => op.name(),
                Op::One(_) | Op::Concatenation => continue,
            };
            if let ("linear" | "linear_cross_entropy", [input, weight, bias @ ..]) = (name, node.inputs.as_slice()) {
                let biases = bias.first().map(parts).unwrap_or_default();
                found.push(LinearInput { weights: parts(weight), biases, input: input.clone() });
            }
        }
        found
    }

    /// Gradients of the scalar `loss` for every variable it depends on.
    ///
    /// # Errors
    /// A tensor between them that was made outside `ops`, whose gradient would be lost; errors of the operations.
    pub fn backward(self, loss: &Tensor) -> Result<GradStore> {
        // of a scalar, on the host: the operation that made it asks for the number
        let one = if loss.rank() == 0 { Tensor::ones((), loss.dtype(), &Device::Cpu)? } else { loss.ones_like()? };
        self.backward_from(loss, one)
    }

    /// As [`Tape::backward`], from the gradient of `output`.
    pub(super) fn backward_from(self, output: &Tensor, gradient: Tensor) -> Result<GradStore> {
        let mut gradients = HashMap::from([(output.id(), Sum::Single(gradient))]);
        let mut variables = Vec::new();
        for Node { inputs, output, op } in self.0.into_iter().rev() {
            let Some(gradient) = gradients.remove(&output.id()) else { continue };
            let contributions = op.backward(&inputs, &output, &gradient.into_tensor())?;
            // frees what only this operation needed before the next one asks for memory
            drop((op, output));
            for (input, contribution) in inputs.into_iter().zip(contributions) {
                let Some(contribution) = contribution.filter(|_| input.track_op()) else { continue };
                if !input.is_variable() {
                    bail!("a tensor of shape {:?} was made outside of ops: its gradient would be lost", input.dims());
                }
                let sum = match gradients.remove(&input.id()) {
                    None => {
                        variables.push(input.clone());
                        Sum::Single(contribution)
                    }
                    Some(sum) => sum.add(&contribution)?,
                };
                gradients.insert(input.id(), sum);
            }
        }
        let mut store = GradStore::default();
        for variable in variables {
            if let Some(sum) = gradients.remove(&variable.id()) {
                store.insert(&variable, sum.into_tensor());
            }
        }
        Ok(store)
    }
}

/// A gradient on its way.
enum Sum {
    /// One contribution, which other tensors may share memory with.
    Single(Tensor),
    /// Several, in memory of its own.
    Own(Tensor),
}

impl Sum {
    fn add(self, other: &Tensor) -> Result<Sum> {
        match self {
            Sum::Single(sum) => Ok(Sum::Own(super::sum::sum(&sum, other)?)),
            Sum::Own(sum) => {
                super::sum::add_in_place(&sum, other)?;
                Ok(Sum::Own(sum))
            }
        }
    }

    fn into_tensor(self) -> Tensor {
        match self {
            Sum::Single(tensor) | Sum::Own(tensor) => tensor,
        }
    }
}

impl Op {
    fn backward(&self, inputs: &[Tensor], output: &Tensor, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        match (self, inputs) {
            (Op::One(op), [x]) => Ok(vec![op.bwd(x, output, gradient)?]),
            (Op::Two(op), [x, y]) => {
                let (dx, dy) = op.bwd(x, y, output, gradient)?;
                Ok(vec![dx, dy])
            }
            (Op::Three(op), [x, y, z]) => {
                let (dx, dy, dz) = op.bwd(x, y, z, output, gradient)?;
                Ok(vec![dx, dy, dz])
            }
            (Op::Concatenation, inputs) => {
                let gradient = gradient.flatten_all()?;
                let mut start = 0;
                let part = |input: &Tensor| {
                    let part = gradient.narrow(0, start, input.elem_count())?.reshape(input.shape());
                    start += input.elem_count();
                    part.map(Some)
                };
                inputs.iter().map(part).collect()
            }
            _ => bail!("an operation with {} inputs", inputs.len()),
        }
    }
}

/// Does `op`, on the tape that is in force.
pub(super) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    if on_candles() {
        return x.apply_op1(op);
    }
    let output = compute([x], |[(x, xl)]| op.cpu_fwd(x, xl), |[(x, xl)]| op.cuda_fwd(x, xl))?;
    Ok(keep(vec![x.clone()], output, Op::One(Box::new(op))))
}

/// Does `op`, on the tape that is in force.
pub(super) fn apply2(x: &Tensor, y: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    if on_candles() {
        return x.apply_op2(y, op);
    }
    let output =
        compute([x, y], |[(x, xl), (y, yl)]| op.cpu_fwd(x, xl, y, yl), |[(x, xl), (y, yl)]| op.cuda_fwd(x, xl, y, yl))?;
    Ok(keep(vec![x.clone(), y.clone()], output, Op::Two(Box::new(op))))
}

/// Does `op`, on the tape that is in force.
pub(super) fn apply3(x: &Tensor, y: &Tensor, z: &Tensor, op: impl CustomOp3 + Send + Sync + 'static) -> Result<Tensor> {
    if on_candles() {
        return x.apply_op3(y, z, op);
    }
    let output = compute(
        [x, y, z],
        |[(x, xl), (y, yl), (z, zl)]| op.cpu_fwd(x, xl, y, yl, z, zl),
        |[(x, xl), (y, yl), (z, zl)]| op.cuda_fwd(x, xl, y, yl, z, zl),
    )?;
    Ok(keep(vec![x.clone(), y.clone(), z.clone()], output, Op::Three(Box::new(op))))
}

/// Several tensors end to end as one of one dimension, differentiably: a `CustomOp` takes three arguments at most.
///
/// # Errors
/// Memory errors of candle; tensors of different types.
pub fn flatten(tensors: &[&Tensor]) -> Result<Tensor> {
    let elements: usize = tensors.iter().map(|t| t.elem_count()).sum();
    concatenate(tensors, elements.into())
}

/// Matrices of one width below each other, or vectors end to end, differentiably.
///
/// # Errors
/// Widths that differ, no tensor at all; as [`flatten`].
pub fn stack(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(mut dims) = tensors.first().map(|t| t.dims().to_vec()) else { bail!("stack: nothing to stack") };
    if tensors.iter().any(|t| t.dims().get(1..) != dims.get(1..)) {
        bail!("stack: shapes {:?} do not fit", tensors.iter().map(|t| t.dims()).collect::<Vec<_>>());
    }
    dims[0] = tensors.iter().map(|t| t.dims()[0]).sum();
    concatenate(tensors, dims.into())
}

fn concatenate(tensors: &[&Tensor], shape: Shape) -> Result<Tensor> {
    let flat = tensors.iter().map(|t| t.flatten_all()).collect::<Result<Vec<_>>>()?;
    if on_candles() {
        return Tensor::cat(&flat, 0)?.reshape(shape);
    }
    #[cfg(feature = "cuda")]
    if flat.first().is_some_and(|first| first.device().is_cuda()) {
        let joined = super::cuda::concatenate(&flat)?;
        let inputs = tensors.iter().map(|&t| t.clone()).collect();
        return Ok(keep(inputs, (Storage::Cuda(joined), shape), Op::Concatenation));
    }
    let joined = with_real!(flat[0], T => {
        let mut joined = Vec::with_capacity(shape.elem_count());
        for tensor in &flat {
            joined.extend_from_slice(&real::values::<T>(tensor)?);
        }
        Ok(Storage::Cpu(T::to_cpu_storage_owned(joined)))
    })?;
    Ok(keep(tensors.iter().map(|&t| t.clone()).collect(), (joined, shape), Op::Concatenation))
}

/// Whether operations go on candle's tape.
fn on_candles() -> bool {
    !OFF.get() && RECORDING.with_borrow(Option::is_none)
}

/// What an operation computes from the inputs' memory, by the function for the device they are on.
fn compute<const K: usize>(
    inputs: [&Tensor; K],
    on_cpu: impl FnOnce([(&CpuStorage, &Layout); K]) -> Result<(CpuStorage, Shape)>,
    on_cuda: impl FnOnce([(&CudaStorage, &Layout); K]) -> Result<(CudaStorage, Shape)>,
) -> Result<(Storage, Shape)> {
    let guards = inputs.map(Tensor::storage_and_layout);
    let (mut cpu, mut cuda) = (Vec::with_capacity(K), Vec::with_capacity(K));
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cpu(storage) => cpu.push((storage, *layout)),
            Storage::Cuda(storage) => cuda.push((storage, *layout)),
            other => bail!("this operation runs on CPU and CUDA, not on {:?}", other.device()),
        }
    }
    match (cpu.try_into(), cuda.try_into()) {
        (Ok(arguments), _) => on_cpu(arguments).map(|(storage, shape)| (Storage::Cpu(storage), shape)),
        (_, Ok(arguments)) => on_cuda(arguments).map(|(storage, shape)| (Storage::Cuda(storage), shape)),
        _ => bail!("the inputs of an operation are on different devices"),
    }
}

/// The result as a tensor, and on the tape where a gradient may come back. It counts as a variable, for candle must see
/// that it needs a gradient without knowing where it came from.
fn keep(inputs: Vec<Tensor>, (storage, shape): (Storage, Shape), op: Op) -> Tensor {
    let tracked = tracks(&inputs.iter().collect::<Vec<_>>());
    let output = Tensor::from_storage(storage, shape, BackpropOp::none(), tracked);
    if tracked {
        let node = Node { inputs, output: output.clone(), op };
        RECORDING.with_borrow_mut(|nodes| nodes.get_or_insert_default().push(node));
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{constant, random};
    use crate::ops::{add_dropout_norm, linear, Activation};
    use candle_core::Var;

    fn variable(shape: &[usize], seed: u64) -> Result<Var> {
        Var::from_tensor(&constant(&random(shape, seed)))
    }

    /// Two layers with a residual connection and one weight used twice.
    fn network(x: &Tensor, w: &Var, gain: &Var, shift: &Var) -> Result<Tensor> {
        let h = linear(x, w, None, Activation::Relu, None)?;
        let f = linear(&h, w, None, Activation::Tanh, None)?;
        let y = add_dropout_norm(&h, &f, gain, shift, 1e-5, None)?;
        // a scalar with uneven weights, by operations of ours
        let row = linear(&constant(&random(&[1, 5], 9)), &y, None, Activation::Identity, None)?;
        linear(&stack(&[&row])?, &constant(&random(&[1, 7], 10)), None, Activation::Identity, None)
    }

    #[test]
    fn gradients_are_those_of_candles_tape_bit_for_bit() -> Result<()> {
        let (x, w) = (variable(&[7, 5], 1)?, variable(&[5, 5], 2)?);
        let (gain, shift) = (variable(&[5], 3)?, variable(&[5], 4)?);
        let by_candle = network(&x, &w, &gain, &shift)?.backward()?;
        let (loss, tape) = record(|| network(&x, &w, &gain, &shift))?;
        let gradients = tape.backward(&loss)?;
        for variable in [&x, &w, &gain, &shift] {
            let list = |store: &GradStore| store.get(variable).map(|g| g.flatten_all()?.to_vec1::<f64>()).transpose();
            assert!(list(&gradients)?.is_some());
            assert_eq!(list(&gradients)?, list(&by_candle)?);
        }
        Ok(())
    }

    #[test]
    fn a_gradient_that_would_be_lost_is_an_error() -> Result<()> {
        let w = variable(&[5, 5], 2)?;
        let (loss, tape) = record(|| {
            let x = (w.as_tensor() * 2.0)?;
            linear(&x, &constant(&random(&[1, 5], 1)), None, Activation::Identity, None)
        })?;
        let message = tape.backward(&loss).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("made outside of ops"), "{message}");
        Ok(())
    }

    #[test]
    fn what_is_untracked_has_the_same_bits_and_no_gradient() -> Result<()> {
        let (x, w) = (variable(&[7, 5], 1)?, variable(&[5, 5], 2)?);
        let (gain, shift) = (variable(&[5], 3)?, variable(&[5], 4)?);
        let tracked = network(&x, &w, &gain, &shift)?;
        let (free, tape) = record(|| untracked(|| network(&x, &w, &gain, &shift)))?;
        assert!(tracked.track_op() && !free.track_op() && tape.0.is_empty());
        assert_eq!(tracked.to_vec2::<f64>()?, free.to_vec2::<f64>()?);
        assert!(std::panic::catch_unwind(|| untracked(|| -> () { panic!("on purpose") })).is_err());
        assert!(on_candles());
        Ok(())
    }

    #[test]
    fn a_failed_forward_pass_leaves_no_tape_behind() {
        assert!(record(|| -> Result<()> { bail!("no") }).is_err());
        assert!(on_candles());
    }
}
