//! Value and gradients against plain candle operations and differences, of one pass and of two, the evaluation form, masked
//! labels.

use super::*;
use crate::ops::check::{agree, agree_with_differences, constant, random, same_for_any_threads};
use crate::rng::{stream, Purpose};
use candle_core::{DType, Device, Var, D};
use proptest::prelude::*;

fn labels(n: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let mut rng = stream(seed, Purpose::Probe, 3);
    (0..n).map(|_| rng.below(vocabulary - 1) as u32).collect()
}

/// −log p of every id, the masked one left out of the normalization.
fn plain_log_p(v: &[Tensor], masked: Option<u32>) -> Result<Tensor> {
    let mut z = v[0].matmul(&v[1].t()?)?;
    if let Some(bias) = v.get(2) {
        z = z.broadcast_add(bias)?;
    }
    if let Some(masked) = masked {
        z = z.narrow(1, 0, masked as usize)?;
    }
    let shifted = z.broadcast_sub(&z.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// Cost of the tokens; the KL divergences of R-Drop from their definition.
fn plain(v: &[Tensor], targets: Targets<'_>, criterion: Criterion, scale: f64) -> Result<Tensor> {
    let Criterion { label_smoothing: smoothing, r_drop_alpha: alpha } = criterion;
    let (log_p, passes) = (plain_log_p(v, targets.masked)?, criterion.passes());
    let labels = targets.labels.repeat(passes);
    let index = Tensor::from_vec(labels, (passes * targets.labels.len(), 1), &Device::Cpu)?;
    let nll = log_p.gather(&index, 1)?.sum_all()?.neg()?;
    let uniform = log_p.mean_keepdim(D::Minus1)?.sum_all()?.neg()?;
    let cross_entropy = (((nll * (1.0 - smoothing))? + (uniform * smoothing)?)? / passes as f64)?;
    if passes == 1 {
        return cross_entropy * scale;
    }
    let [p, q] = [0, 1].map(|pass| log_p.narrow(0, pass * targets.labels.len(), targets.labels.len()));
    let (p, q) = (p?, q?);
    let kl = |p: &Tensor, q: &Tensor| -> Result<Tensor> { (p.exp()? * (p - q)?)?.sum_all() };
    let both = ((kl(&p, &q)? + kl(&q, &p)?)? * 0.5)?;
    (cross_entropy + (both * (0.5 * alpha))?)? * scale
}

fn criterion(smooth: bool, r_drop: bool) -> Criterion {
    Criterion { label_smoothing: if smooth { 0.1 } else { 0.0 }, r_drop_alpha: if r_drop { 5.0 } else { 0.0 } }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_plain_operations(
        n in 1usize..300, d in 1usize..20, vocabulary in 3usize..90, bias: bool, masked: bool, smooth: bool, r_drop: bool,
        seed in 0u64..1000,
    ) {
        let (criterion, scale) = (criterion(smooth, r_drop), 0.03);
        let mut inputs = vec![random(&[criterion.passes() * n, d], seed), random(&[vocabulary, d], seed + 1)];
        if bias {
            inputs.push(random(&[vocabulary], seed + 2));
        }
        let labels = labels(n, vocabulary, seed);
        let targets = Targets { labels: &labels, masked: masked.then_some(vocabulary as u32 - 1) };
        agree(
            &inputs,
            1..3,
            |v| Ok(linear_cross_entropy(&v[0], &v[1], v.get(2), targets, criterion, scale)?.loss),
            |v| plain(v, targets, criterion, scale),
        );
    }
}

#[test]
fn agrees_with_differences() {
    let labels = labels(4, 5, 1);
    let targets = Targets { labels: &labels, masked: Some(4) };
    for criterion in [criterion(true, false), criterion(true, true)] {
        let states = random(&[4 * criterion.passes(), 3], 1);
        agree_with_differences(&[states, random(&[5, 3], 2), random(&[5], 3)], |v| {
            Ok(linear_cross_entropy(&v[0], &v[1], Some(&v[2]), targets, criterion, 0.5)?.loss)
        });
    }
}

#[test]
fn equal_passes_cost_what_one_does() -> Result<()> {
    let (n, vocabulary) = (300, 37);
    let labels = labels(n, vocabulary, 1);
    let targets = Targets { labels: &labels, masked: Some(36) };
    let inputs = [random(&[n, 8], 1), random(&[vocabulary, 8], 2)];
    let [once, table] = &inputs.each_ref().map(|x| constant(x).to_dtype(DType::F32).unwrap());
    let twice = Tensor::cat(&[once, once], 0)?;
    let single = linear_cross_entropy(once, table, None, targets, criterion(true, false), 1.0)?;
    let both = linear_cross_entropy(&twice, table, None, targets, criterion(true, true), 1.0)?;
    let ([loss, nll, none], [loss_of_both, nll_of_both, kl]) = (single.losses.sums()?, both.losses.sums()?);
    assert_eq!((loss, nll, none, 0.0), (loss_of_both, nll_of_both, 0.0, kl));
    assert_eq!(single.losses.nll()?, both.losses.nll()?);
    assert_eq!(single.loss.to_scalar::<f32>()?, both.loss.to_scalar::<f32>()?);
    Ok(())
}

#[test]
fn confident_and_far_apart_passes_have_the_divergence_of_their_logits() -> Result<()> {
    // p = (1, 0), q = (0, 1) up to e^-60: each log p − log q is 60
    let (h, table) = (Tensor::new(&[[60f32], [-60.0]], &Device::Cpu)?, Tensor::new(&[[0.5f32], [-0.5]], &Device::Cpu)?);
    let targets = Targets { labels: &[0], masked: None };
    let found = linear_cross_entropy(&h, &table, None, targets, criterion(false, true), 1.0)?;
    let [_, nll, kl] = found.losses.sums()?;
    assert!((nll - 30.0).abs() < 1e-5 && (kl - 60.0).abs() < 1e-5, "{nll} {kl}");
    assert!((found.loss.to_scalar::<f32>()? - 180.0).abs() < 1e-4);
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let labels = labels(400, 90, 1);
    let targets = Targets { labels: &labels, masked: Some(89) };
    for criterion in [criterion(true, false), criterion(true, true)] {
        let states = random(&[400 * criterion.passes(), 16], 1);
        same_for_any_threads(&[states, random(&[90, 16], 2), random(&[90], 3)], |v| {
            Ok(linear_cross_entropy(&v[0], &v[1], Some(&v[2]), targets, criterion, 0.5)?.loss)
        });
    }
}

#[test]
fn the_evaluation_form_and_the_table_of_log_probabilities_agree_with_training() -> Result<()> {
    let (n, vocabulary, masked) = (300, 37, Some(36));
    let v: Vec<Tensor> = [random(&[n, 8], 1), random(&[vocabulary, 8], 2), random(&[vocabulary], 3)]
        .iter()
        .map(|x| constant(x).to_dtype(DType::F32))
        .collect::<Result<_>>()?;
    let labels = labels(n, vocabulary, 1);
    let targets = Targets { labels: &labels, masked };
    let trained = linear_cross_entropy(&v[0], &v[1], Some(&v[2]), targets, Criterion::default(), 1.0)?;
    let nll = token_nll(&v[0], &v[1], &[], Some(&v[2]), targets)?;
    let table = log_probabilities(&v[0], &v[1], &[], Some(&v[2]), masked)?.to_vec2::<f32>()?;
    let right = plain_log_p(&v, masked)?.to_vec2::<f32>()?;
    let (in_training, [loss_sum, ..]) = (trained.losses.nll()?, trained.losses.sums()?);
    for (i, &label) in labels.iter().enumerate() {
        let label = label as usize;
        assert!((in_training[i] - nll[i]).abs() < 1e-5);
        assert!((nll[i] + f64::from(table[i][label])).abs() < 1e-5);
        assert!((table[i][label] - right[i][label]).abs() < 1e-5);
        assert_eq!(table[i][36], f32::NEG_INFINITY);
    }
    assert!((loss_sum - nll.iter().sum::<f64>()).abs() < 1e-3);
    Ok(())
}

#[test]
fn a_second_backward_and_a_scaled_one_give_the_right_gradient() -> Result<()> {
    let h = Var::from_tensor(&constant(&random(&[4, 3], 1)))?;
    let table = constant(&random(&[5, 3], 2));
    let labels = labels(4, 5, 1);
    let targets = Targets { labels: &labels, masked: None };
    let loss = linear_cross_entropy(&h, &table, None, targets, Criterion::default(), 1.0)?.loss;
    let gradient = |loss: &Tensor| -> Result<Vec<f64>> {
        let grads = loss.backward()?;
        assert!(grads.get(&table).is_none());
        grads.get(&h).map_or(Ok(Vec::new()), |g| g.flatten_all()?.to_vec1())
    };
    let (once, twice, double) = (gradient(&loss)?, gradient(&loss)?, gradient(&(&loss * 2.0)?)?);
    assert_eq!(once.len(), 12);
    assert_eq!(once, twice);
    assert!(once.iter().zip(&double).all(|(a, b)| (2.0 * a - b).abs() < 1e-15));
    Ok(())
}

#[test]
fn a_masked_label_is_an_error() {
    let (h, table) = (constant(&random(&[1, 3], 1)), constant(&random(&[5, 3], 2)));
    let targets = Targets { labels: &[4], masked: Some(4) };
    let message = token_nll(&h, &table, &[], None, targets).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("label 4"), "{message}");
}
