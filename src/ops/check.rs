//! Gradient checks for tests: a fused operation against the same mathematics in plain candle operations.

use candle_core::{DType, Device, Result, Tensor, Var};
use std::ops::Range;

use super::{Choice, Dropout, Precision, Units};
use crate::rng::{stream, MaskKey, Purpose};

/// A test input: values and shape.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    values: Vec<f64>,
    shape: Vec<usize>,
}

/// Standard normal values.
pub(crate) fn random(shape: &[usize], seed: u64) -> Input {
    let mut rng = stream(seed, Purpose::Probe, shape.iter().fold(7, |h, &d| h * 31 + d as u64));
    Input { values: (0..shape.iter().product()).map(|_| rng.normal()).collect(), shape: shape.to_vec() }
}

/// As an f64 tensor off the tape.
pub(crate) fn constant(input: &Input) -> Tensor {
    Tensor::from_vec(input.values.clone(), input.shape.as_slice(), &Device::Cpu).unwrap()
}

/// Random offsets of sentences with 1 to `longest` tokens.
pub(crate) fn random_offsets(sentences: usize, longest: usize, seed: u64) -> Vec<usize> {
    let mut rng = stream(seed, Purpose::Probe, 99);
    let mut offsets = vec![0];
    for i in 0..sentences {
        offsets.push(offsets[i] + 1 + rng.below(longest));
    }
    offsets
}

/// A mask that drops about a third, or none.
pub(crate) fn dropout_of(on: bool, seed: u64) -> Option<Dropout> {
    on.then(|| Dropout { p: 0.3, key: MaskKey::new(seed, 0, 0) })
}

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// f(inputs) and the gradients of Σ f ⊙ (fixed random weights), all as f64.
pub(crate) fn value_and_gradients(inputs: &[Input], dtype: DType, f: Function<'_>) -> Result<Vec<Vec<f64>>> {
    let vars: Vec<Var> =
        inputs.iter().map(|x| Var::from_tensor(&constant(x).to_dtype(dtype)?)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let weights = constant(&random(y.dims(), 12345)).to_dtype(dtype)?;
    let grads = (&y * &weights)?.sum_all()?.backward()?;
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let mut all = vec![flat(&y)?];
    for (i, var) in vars.iter().enumerate() {
        let Some(grad) = grads.get(var) else { candle_core::bail!("input {i} has no gradient") };
        all.push(flat(grad)?);
    }
    Ok(all)
}

/// The GPU that tests run on; each test has its own stream, for tests run side by side. What needs it alone is marked
/// `#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]`, and fails where a build with CUDA finds none.
pub(crate) fn gpu(precision: Precision) -> Device {
    #[cfg(feature = "cuda")]
    return super::cuda::open(0, precision).expect("a GPU (scripts/emulated-gpu.sh stands in for one)");
    #[cfg(not(feature = "cuda"))]
    panic!("built without the feature cuda, needs a GPU for {precision:?}");
}

/// As [`value_and_gradients`], of parameters and activations on a GPU, by our tape. `weights`: which inputs are f32
/// whatever the type of activations.
fn value_and_gradients_on(
    device: &Device,
    dtype: DType,
    inputs: &[Input],
    f: Function<'_>,
    is_weight: &dyn Fn(usize) -> bool,
) -> Result<Vec<Vec<f64>>> {
    let put = |i: usize, x: &Tensor| -> Result<Tensor> {
        x.to_dtype(if is_weight(i) { DType::F32 } else { dtype })?.to_device(device)
    };
    let vars: Vec<Var> =
        inputs.iter().enumerate().map(|(i, x)| Var::from_tensor(&put(i, &constant(x))?)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (y, tape) = super::record(|| f(&tensors))?;
    let weights = constant(&random(y.dims(), 12345)).to_dtype(y.dtype())?;
    let weights = if y.rank() == 0 { weights } else { weights.to_device(device)? };
    let grads = tape.backward_from(&y, weights.clone())?;
    let flat = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let mut all = vec![flat(&y)?];
    for (i, var) in vars.iter().enumerate() {
        // an operation that does nothing gives its input back
        let itself = (var.id() == y.id()).then_some(&weights);
        let Some(grad) = grads.get(var).or(itself) else { candle_core::bail!("input {i} has no gradient") };
        all.push(flat(grad)?);
    }
    Ok(all)
}

/// Asserts that value and gradients on a GPU are those of f64 on the CPU: within 10⁻⁴ in f32; in bf16
/// within 0.1 and six times what rounding the inputs alone does, for activations are rounded wherever they are stored.
/// `is_weight`: the inputs that are parameters, which stay f32.
fn agree_on_gpu(
    inputs: &[Input],
    right: &[Vec<f64>],
    moves: &[Moves],
    fused: Function<'_>,
    is_weight: &dyn Fn(usize) -> bool,
) {
    for (precision, dtype) in [(Precision::F32, DType::F32), (Precision::Bf16, DType::BF16)] {
        let device = gpu(precision);
        let found = value_and_gradients_on(&device, dtype, inputs, fused, is_weight).unwrap();
        for (i, ((found, right), moves)) in found.iter().zip(right).zip(moves).enumerate() {
            let bound = match precision {
                Precision::Bf16 => 0.1 + 6.0 * moves.nearest,
                _ => 1e-4,
            };
            let error = distance_by_norm(found, right);
            assert!(
                error < bound,
                "{dtype:?} on the GPU, value or gradient {i}: {error:e} from f64 on the CPU ({bound:e})"
            );
        }
    }
}

/// Ways to round inputs to bf16 that [`Moves`] are taken of.
const ROUNDINGS: u64 = 6;

/// Bound of errors by bf16 products on the CPU: this and [`BF16_FACTOR`] times the largest of [`Moves`]. Of 70 119 results of
/// 5 489 random cases on three units, with four roundings, error over the largest move was 0.26 in the median, 0.80 in 99 %,
/// 1.09 in 99.9 % and 2.23 at most, and error − 3 moves 2·10⁻⁶ at most. (By the nearest rounding alone, which by chance moves
/// little now and then, error − 6 moves was up to 0.04.) What is left is for a ReLU that flips in the product and in no rounding.
const BF16_FLOOR: f64 = 0.01;
const BF16_FACTOR: f64 = 3.0;

/// With values that bf16 has: the nearest ones, or by chance the one above or the one below of each.
fn rounded(input: &Input, way: u64) -> Input {
    let mut rng = stream(way, Purpose::Probe, 1 << 20);
    let half = 1u32 << 15;
    let mut round = |x: &f64| {
        let bits = (*x as f32).to_bits();
        let up = if way == 0 { half } else { (rng.bits() as u32 & 1) * (2 * half - 1) };
        f64::from(f32::from_bits((bits + up) & !(2 * half - 1)))
    };
    Input { values: input.values.iter().map(&mut round).collect(), shape: input.shape.clone() }
}

/// How far a result moves when the inputs are rounded, in f64: what the mathematics makes of errors of that size.
#[derive(Clone, Copy, Debug, Default)]
struct Moves {
    /// To the nearest numbers of bf16.
    nearest: f64,
    /// The most of several ways to round them.
    most: f64,
}

impl Moves {
    /// Of value and gradients.
    fn of(inputs: &[Input], right: &[Vec<f64>], plain: Function<'_>) -> Vec<Moves> {
        let mut moves = vec![Moves::default(); right.len()];
        for way in 0..ROUNDINGS {
            let inputs: Vec<Input> = inputs.iter().map(|input| rounded(input, way)).collect();
            let found = value_and_gradients(&inputs, DType::F64, plain).unwrap();
            for ((found, right), moves) in found.iter().zip(right).zip(&mut moves) {
                let distance = distance_by_norm(found, right);
                if way == 0 {
                    moves.nearest = distance;
                }
                moves.most = moves.most.max(distance);
            }
        }
        moves
    }
}

/// ‖a − b‖ / max(‖b‖, 1).
fn distance_by_norm(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if error.is_finite() {
        error / norm(&mut b.iter().copied()).max(1.0)
    } else {
        f64::INFINITY
    }
}

/// max |a − b| / max(max |b|, 1).
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let size = b.iter().fold(1.0f64, |m, b| m.max(b.abs()));
    a.iter()
        .zip(b)
        .map(|(a, b)| if a.is_finite() && b.is_finite() { (a - b).abs() } else { f64::INFINITY })
        .fold(0.0, f64::max)
        / size
}

/// Asserts that value and gradients of `fused` are those of `plain` in f64 (1e-9), and its f32 those of its f64 (1e-4, with
/// bf16 products a few times what rounding the inputs does at most); in a build with CUDA, also on a GPU. `weights`: the inputs
/// that are parameters.
pub(crate) fn agree(
    inputs: &[Input],
    weights: Range<usize>,
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let double = value_and_gradients(inputs, DType::F64, &fused).unwrap();
    let right = value_and_gradients(inputs, DType::F64, &plain).unwrap();
    let single = value_and_gradients(inputs, DType::F32, &fused).unwrap();
    for (i, name) in std::iter::once("value".to_string())
        .chain((0..).map(|i| format!("gradient {i}")))
        .enumerate()
        .take(double.len())
    {
        let (wide, narrow) = (distance(&double[i], &right[i]), distance(&single[i], &double[i]));
        assert!(wide < 1e-9, "{name}: {wide:e} from the plain operations in f64");
        assert!(narrow < 1e-4, "{name}: {narrow:e} between f32 and f64");
    }
    let units = Units::available().filter(|units| units.precision() == Precision::Bf16);
    let in_bf16 = units.map(|units| {
        let _choice = Choice::of(Some(units));
        (units, value_and_gradients(inputs, DType::F32, &fused).unwrap())
    });
    // what has no product is as in f32
    let in_bf16: Vec<_> = in_bf16.filter(|(_, found)| *found != single).collect();
    if in_bf16.is_empty() && !cfg!(feature = "cuda") {
        return;
    }
    let moves = Moves::of(inputs, &right, &plain);
    for (units, found) in in_bf16 {
        for (i, ((found, right), moves)) in found.iter().zip(&right).zip(&moves).enumerate() {
            let (error, bound) = (distance_by_norm(found, right), BF16_FLOOR + BF16_FACTOR * moves.most);
            assert!(error < bound, "{units}, value or gradient {i}: {error:e} from f64 ({bound:e})");
        }
    }
    if cfg!(feature = "cuda") {
        agree_on_gpu(inputs, &right, &moves, &fused, &|i| weights.contains(&i));
    }
}

/// Asserts that the gradients are those of central differences in f64 (1e-6).
pub(crate) fn agree_with_differences(inputs: &[Input], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let grads = value_and_gradients(inputs, DType::F64, &f).unwrap();
    let objective = |inputs: &[Input]| -> f64 {
        let tensors: Vec<Tensor> = inputs.iter().map(constant).collect();
        let y = f(&tensors).unwrap();
        let weights = constant(&random(y.dims(), 12345));
        (&y * &weights).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    for (i, input) in inputs.iter().enumerate() {
        let step = 1e-5;
        let moved = |j: usize, by: f64| {
            let mut inputs = inputs.to_vec();
            inputs[i].values[j] += by;
            objective(&inputs)
        };
        let numeric: Vec<f64> =
            (0..input.values.len()).map(|j| (moved(j, step) - moved(j, -step)) / (2.0 * step)).collect();
        let error = distance(&grads[i + 1], &numeric);
        assert!(error < 1e-6, "gradient {i}: {error:e} from differences");
    }
}

/// Asserts that value and gradients in f32 have the same bits on 1, 2 and 5 threads, with bf16 products too.
pub(crate) fn same_for_any_threads(inputs: &[Input], f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    for units in std::iter::once(None).chain(Units::available().map(Some)) {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let _choice = Choice::of(units);
                value_and_gradients(inputs, DType::F32, &f).unwrap()
            })
        };
        let one = on(1);
        assert!(one == on(2) && one == on(5), "results depend on the number of threads ({units:?})");
    }
}
