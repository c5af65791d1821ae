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
/// within 0.1 and six times what rounding the inputs alone does (`rounded`): recurrences make much of little, and sums
/// over tokens cancel.
/// `is_weight`: the inputs that are parameters, which stay f32.
fn agree_on_gpu(
    inputs: &[Input],
    right: &[Vec<f64>],
    rounded: &[Vec<f64>],
    fused: Function<'_>,
    is_weight: &dyn Fn(usize) -> bool,
) {
    for (precision, dtype) in [(Precision::F32, DType::F32), (Precision::Bf16, DType::BF16)] {
        let device = gpu(precision);
        let found = value_and_gradients_on(&device, dtype, inputs, fused, is_weight).unwrap();
        for (i, ((found, right), rounded)) in found.iter().zip(right).zip(rounded).enumerate() {
            let bound = match precision {
                Precision::Bf16 => bound_of_bf16(rounded, right),
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

/// With values that bf16 has.
fn rounded(input: &Input) -> Input {
    let values = constant(input).to_dtype(DType::BF16).and_then(|x| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1());
    Input { values: values.unwrap(), shape: input.shape.clone() }
}

/// How far a result with bf16 inside may be from the right one, when rounding the inputs alone leads to `rounded`: results
/// on the way are rounded too, and those of short recurrences of few numbers do not average out.
fn bound_of_bf16(rounded: &[f64], right: &[f64]) -> f64 {
    0.1 + 6.0 * distance_by_norm(rounded, right)
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
/// bf16 products a few times what rounding the inputs does); in a build with CUDA, also on a GPU. `weights`: the inputs
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
    let inputs_of_bf16: Vec<Input> = inputs.iter().map(rounded).collect();
    let rounded = value_and_gradients(&inputs_of_bf16, DType::F64, &plain).unwrap();
    for units in Units::available().filter(|units| units.precision() == Precision::Bf16) {
        let _choice = Choice::of(Some(units));
        let found = value_and_gradients(inputs, DType::F32, &fused).unwrap();
        for (i, ((found, right), rounded)) in found.iter().zip(&right).zip(&rounded).enumerate() {
            let (error, bound) = (distance_by_norm(found, right), bound_of_bf16(rounded, right));
            assert!(error < bound, "{units}, value or gradient {i}: {error:e} from f64 ({bound:e})");
        }
    }
    if cfg!(feature = "cuda") {
        agree_on_gpu(inputs, &right, &rounded, &fused, &|i| weights.contains(&i));
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
