//! The operations of models and the tape of a training step: gradients move instead of being added to zeros, and
//! activations are freed as the backward pass leaves them.
//!
//! candle's `backward` makes zeros and a sum for every edge of the graph and holds every activation to the end. While
//! [`record`] runs, this module keeps the operations in their order instead; outside it they go on candle's tape
//! (`candles.rs`), as the gradient checks use it. Both give the same gradients. Where no gradient is wanted ([`untracked`])
//! they go on neither, and what led to a result is freed.

use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
use candle_core::{bail, Device, Result, Shape, Storage, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::candles;

/// A differentiable operation. Its inputs are contiguous and on one device; on the CPU it has these functions, on a GPU those
/// of [`OnGpu`].
pub(super) trait Op: OnGpu + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The result, and what backward needs of the way there, which is nothing unless `tracked`.
    fn forward(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed>;

    /// Gradients of the inputs, in their order; none where none is needed ([`Tensor::track_op`]).
    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>>;

    /// Whether nothing else holds the memory of a gradient that [`Op::backward`] gave, once the operation and what it
    /// saved are gone: others may then be added to it in place.
    fn gives_its_own(&self) -> bool {
        false
    }

    /// Adds the gradient of the only input, which comes from that of the output (contiguous, on the CPU), to a `sum` of
    /// its gradients that shares its memory with no one, and says true; false where it can not.
    fn backward_onto(&self, _gradient: &Tensor, _sum: &Tensor) -> Result<bool> {
        Ok(false)
    }
}

/// The GPU's side of an [`Op`]; `ops/cuda` has it beside the kernels.
#[cfg(feature = "cuda")]
pub(super) trait OnGpu {
    /// As [`Op::forward`].
    fn forward_on_gpu(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed>;

    /// As [`Op::backward`].
    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>>;
}

/// Nothing, in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub(super) trait OnGpu {}

#[cfg(not(feature = "cuda"))]
impl<O> OnGpu for O {}

/// Memory and shape of a result, and what backward needs.
pub(super) type Computed = (Storage, Shape, Saved);

/// What a forward pass keeps for the backward pass.
pub(super) type Saved = [Option<Tensor>; 3];

/// An operation that was done, seen by its backward pass.
#[derive(Clone, Copy)]
pub(super) struct Done<'a> {
    pub(super) inputs: &'a [Tensor],
    pub(super) output: &'a Tensor,
    pub(super) saved: &'a Saved,
    /// Of the output; contiguous.
    pub(super) gradient: &'a Tensor,
}

impl<'a> Done<'a> {
    /// What the forward pass saved, the first `K` of three.
    pub(super) fn saved<const K: usize>(&self) -> Result<[&'a Tensor; K]> {
        let saved: Vec<&Tensor> = self.saved.iter().take(K).flatten().collect();
        saved.try_into().or_else(|_| bail!("the forward pass did not expect a backward pass"))
    }
}

/// The inputs, which are so many.
pub(super) fn exactly<const K: usize>(inputs: &[Tensor]) -> Result<&[Tensor; K]> {
    inputs.try_into().or_else(|_| bail!("an operation of {K} inputs was given {}", inputs.len()))
}

/// Does `op`, on the tape that is in force.
pub(super) fn apply(op: impl Op, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
    let tracked = !OFF.get() && inputs.iter().any(Tensor::track_op);
    let (storage, shape, saved) = forward(&op, &inputs, tracked)?;
    if tracked && RECORDING.with_borrow(Option::is_none) {
        return candles::keep(Box::new(op), inputs, (storage, shape, saved));
    }
    // it counts as a variable, for candle must see that it needs a gradient without knowing where it came from
    let output = Tensor::from_storage(storage, shape, BackpropOp::none(), tracked);
    if tracked {
        let node = Node { inputs, output: output.clone(), saved, op: Box::new(op) };
        RECORDING.with_borrow_mut(|nodes| nodes.get_or_insert_default().push(node));
    }
    Ok(output)
}

fn forward(op: &impl Op, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
    let Some(device) = inputs.first().map(Tensor::device) else { bail!("{}: no input", op.name()) };
    if inputs.iter().any(|input| !input.device().same_device(device)) {
        bail!("{}: inputs on different devices", op.name());
    }
    match device {
        Device::Cpu => op.forward(inputs, tracked),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => op.forward_on_gpu(inputs, tracked),
        other => bail!("{}: runs on CPU and CUDA, not on {other:?}", op.name()),
    }
}

/// The gradients of the inputs from that of the output, contiguous or not.
pub(super) fn backward(op: &dyn Op, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
    let gradient = done.gradient.contiguous()?;
    let done = Done { gradient: &gradient, ..done };
    #[cfg(feature = "cuda")]
    if done.output.device().is_cuda() {
        return op.backward_on_gpu(done);
    }
    op.backward(done)
}

thread_local! {
    static RECORDING: RefCell<Option<Vec<Node>>> = const { RefCell::new(None) };
    /// Inside [`untracked`].
    static OFF: Cell<bool> = const { Cell::new(false) };
}

/// One operation that was done.
struct Node {
    inputs: Vec<Tensor>,
    output: Tensor,
    saved: Saved,
    op: Box<dyn Op>,
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
        let linear = |node: &&Node| matches!(node.op.name(), "linear" | "linear_cross_entropy");
        let of = |node: &Node| {
            let (input, rest) = node.inputs.split_first()?;
            let (weights, biases) = rest.iter().cloned().partition(|part| part.rank() == 2);
            Some(LinearInput { weights, biases, input: input.clone() })
        };
        self.0.iter().filter(linear).filter_map(of).collect()
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
        for Node { inputs, output, saved, op } in self.0.into_iter().rev() {
            let Some(gradient) = gradients.remove(&output.id()) else { continue };
            let gradient = gradient.into_tensor();
            if let ([input], true) = (&inputs[..], gradient.device().is_cpu()) {
                if let Some(Sum::Own(sum)) = gradients.get(&input.id()) {
                    if op.backward_onto(&gradient.contiguous()?, sum)? {
                        continue;
                    }
                }
            }
            let done = Done { inputs: &inputs, output: &output, saved: &saved, gradient: &gradient };
            let contributions = backward(&*op, done)?;
            let own = op.gives_its_own();
            // frees what only this operation needed before the next one asks for memory
            drop((op, output, saved, gradient));
            for (input, contribution) in inputs.into_iter().zip(contributions) {
                let Some(contribution) = contribution.filter(|_| input.track_op()) else { continue };
                if !input.is_variable() {
                    bail!("a tensor of shape {:?} was made outside of ops: its gradient would be lost", input.dims());
                }
                let sum = match gradients.remove(&input.id()) {
                    None => {
                        variables.push(input.clone());
                        match own && contribution.device().is_cpu() && contribution.is_contiguous() {
                            true => Sum::Own(contribution),
                            false => Sum::Single(contribution),
                        }
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
    /// One or several, in memory of its own.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{constant, random};
    use crate::ops::{add_dropout_norm, embed, linear, Activation};
    use candle_core::Var;

    fn gain() -> Result<Tensor> {
        Ok(constant(&random(&[5], 7)))
    }

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
        linear(&row, &constant(&random(&[1, 7], 10)), None, Activation::Identity, None)
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
    fn gradients_of_a_table_that_is_read_thrice_are_those_of_candles_tape() -> Result<()> {
        let table = variable(&[6, 5], 1)?;
        let network = || -> Result<Tensor> {
            // twice as rows, then as a weight, the first that backward meets
            let x = embed(&table, &[4, 0, 4], None, 1.5, [None; 2])?;
            let h = linear(&x, &constant(&random(&[5, 5], 3)), None, Activation::Tanh, None)?;
            let y = add_dropout_norm(
                &h,
                &embed(&table, &[2, 4, 5], None, 1.0, [None; 2])?,
                &gain()?,
                &gain()?,
                1e-5,
                None,
            )?;
            let logits = linear(&y, &table, None, Activation::Tanh, None)?;
            let row = linear(&constant(&random(&[1, 6], 9)), &logits, None, Activation::Identity, None)?;
            linear(&row, &constant(&random(&[1, 3], 10)), None, Activation::Identity, None)
        };
        let by_candle = network()?.backward()?;
        let (loss, tape) = record(network)?;
        let gradients = tape.backward(&loss)?;
        let of = |store: &GradStore| store.get(&table).map(|g| g.flatten_all()?.to_vec1::<f64>()).transpose();
        let (ours, theirs) = (of(&gradients)?.unwrap_or_default(), of(&by_candle)?.unwrap_or_default());
        assert_eq!(ours.len(), 30);
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-12 * (1.0 + b.abs())), "{ours:?} {theirs:?}");
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
        assert!(!OFF.get() && RECORDING.with_borrow(Option::is_none));
        Ok(())
    }

    #[test]
    fn a_failed_forward_pass_leaves_no_tape_behind() {
        assert!(record(|| -> Result<()> { bail!("no") }).is_err());
        assert!(!OFF.get() && RECORDING.with_borrow(Option::is_none));
    }
}
