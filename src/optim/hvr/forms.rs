//! What the forms do with the window: B×B work in f64 that turns Γᵀ·q into the weights of the gradients in the direction.
//!
//! A direction is q + Σⱼ wⱼ·Γⱼ (sound forms) or Σⱼ wⱼ·Γⱼ (literal). With c = Γᵀq, the Gram matrix K, b gradients, and
//! P = I − 1·1ᵀ/b that takes their mean away (Γc = Γ·P, Kc = P·K·P):
//!
//! ```text
//! λ = lambda_rel·tr(Kc)/(b·n)                               tr(A) = tr(Kc)/b
//! inv      λ(λI + Γc·Γcᵀ/b)⁻¹ q    = q − Γ·P(λb·I + Kc)⁻¹P·c                             Woodbury
//! isqrt    √λ(λI + Γc·Γcᵀ/b)^-½ q  = q + Γ·P·V·diag(((1 + s/(λb))^-½ − 1)/s)·Vᵀ·P·c      Kc = V·diag(s)·Vᵀ
//! literal  Γ·Γᵀq/b                 = Γ·c/b
//! ```

use super::super::decompose::eigh;
use super::truncate;
use crate::config::{HvrConfig, HvrForm, HvrTruncation};
use crate::ops::{dot_f64 as dot, Cholesky};

/// Tries of the Cholesky factor, each with ten times the damping.
const TRIES: usize = 5;

/// What was met on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Met {
    /// (Σs)²/Σs², the number of directions that matter, of the last update; not saved.
    pub(super) effective_rank: f64,
    pub(super) cholesky_failures: f64,
    /// Windows forgotten because no solve succeeded.
    pub(super) cleared_windows: f64,
    /// Truncated Gram matrices that had negative eigenvalues.
    pub(super) psd_shifts: f64,
}

/// The weights of inv or isqrt, in the order of `gram`, K `[b, b]`; `products`: c; `n`: elements of the tensor. All are 0
/// (Adam) where the gradients have no spread. `None`: the solve failed, forget the window.
pub(super) fn sound(
    config: &HvrConfig,
    lambda_rel: f64,
    gram: &[f64],
    products: &[f64],
    n: usize,
    met: &mut Met,
) -> Option<Vec<f64>> {
    let (b, total) = (products.len(), trace(gram, products.len()));
    let mut gram = centred(gram, b);
    let spread = trace(&gram, b);
    met.effective_rank = 0.0;
    if !spread.is_finite() {
        return None;
    }
    // equal gradients leave the rounding of K
    if spread <= 1e-12 * total {
        return Some(vec![0.0; b]);
    }
    met.effective_rank = effective_rank(&gram, b);
    let shift = lambda_rel * spread / n as f64;
    let mut right = products.to_vec();
    centre(&mut right);
    if config.truncation == HvrTruncation::Elementwise {
        met.psd_shifts += f64::from(u8::from(truncate::elementwise(&mut gram, config.threshold, b)?));
    }
    let mut weights = if config.form == HvrForm::Inv && config.truncation != HvrTruncation::Spectral {
        by_cholesky(&gram, &right, shift, &mut met.cholesky_failures)?
    } else {
        by_eigenvalues(config, &gram, &right, shift)?
    };
    centre(&mut weights);
    Some(weights)
}

/// tr(K) of K `[b, b]`.
pub(super) fn trace(gram: &[f64], b: usize) -> f64 {
    (0..b).map(|i| gram[i * b + i]).sum()
}

/// The factor of shift·I + K, K `[b, b]`.
pub(super) fn damped(gram: &[f64], b: usize, shift: f64) -> Option<Cholesky> {
    let mut damped = gram.to_vec();
    (0..b).for_each(|i| damped[i * b + i] += shift);
    Cholesky::new(b, &damped)
}

/// (Σs)²/Σs² of the eigenvalues s of K `[b, b]`; 0 for K = 0.
fn effective_rank(gram: &[f64], b: usize) -> f64 {
    let trace = trace(gram, b);
    if trace > 0.0 {
        trace * trace / dot(gram, gram)
    } else {
        0.0
    }
}

/// The weights of the literal form; above 0 `cap` bounds its direction, as a multiple of Adam's, whose length has the
/// square `adam_square`.
pub(super) fn literal(cap: f64, gram: &[f64], products: &[f64], adam_square: f64, met: &mut Met) -> Vec<f64> {
    let b = products.len();
    met.effective_rank = effective_rank(gram, b);
    let mut weights: Vec<f64> = products.iter().map(|c| c / b as f64).collect();
    let square: f64 = (0..b).map(|i| weights[i] * dot(&gram[i * b..(i + 1) * b], &weights)).sum();
    if cap > 0.0 && square > cap * cap * adam_square {
        let factor = cap * (adam_square / square).sqrt();
        weights.iter_mut().for_each(|weight| *weight *= factor);
    }
    weights
}

/// −(shift·I + K)⁻¹c, `shift` = λb.
fn by_cholesky(gram: &[f64], right: &[f64], mut shift: f64, failures: &mut f64) -> Option<Vec<f64>> {
    for _ in 0..TRIES {
        if let Some(factor) = damped(gram, right.len(), shift) {
            let mut weights: Vec<f64> = right.iter().map(|c| -c).collect();
            factor.solve(&mut weights);
            return weights.iter().all(|w| w.is_finite()).then_some(weights);
        }
        *failures += 1.0;
        shift *= 10.0;
    }
    None
}

/// V·diag(f(s))·Vᵀ·c over the eigenvalues that are kept, `shift` = λb.
fn by_eigenvalues(config: &HvrConfig, gram: &[f64], right: &[f64], shift: f64) -> Option<Vec<f64>> {
    let b = right.len();
    let (eigenvalues, vectors) = eigh(b, gram)?;
    let kept = match config.truncation {
        HvrTruncation::Spectral => truncate::kept(&eigenvalues, config.threshold, b),
        _ => b,
    };
    let mut weights = vec![0.0; b];
    for (j, s) in eigenvalues.iter().enumerate().take(kept) {
        let s = s.max(0.0);
        let root = (1.0 + s / shift).sqrt();
        let factor = match config.form {
            HvrForm::Inv => -1.0 / (shift + s),
            // ((1 + s/shift)^-½ − 1)/s without its cancellation for small s
            _ => -1.0 / (shift * root * (1.0 + root)),
        };
        let vector = |i: usize| vectors[i * b + j];
        let along: f64 = (0..b).map(|i| vector(i) * right[i]).sum();
        weights.iter_mut().enumerate().for_each(|(i, w)| *w += factor * along * vector(i));
    }
    weights.iter().all(|w| w.is_finite()).then_some(weights)
}

/// P·K·P.
fn centred(gram: &[f64], b: usize) -> Vec<f64> {
    let means: Vec<f64> = gram.chunks(b).map(|row| row.iter().sum::<f64>() / b as f64).collect();
    let mean = means.iter().sum::<f64>() / b as f64;
    (0..b * b).map(|x| gram[x] - means[x / b] - means[x % b] + mean).collect()
}

/// P·x in place.
fn centre(x: &mut [f64]) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter_mut().for_each(|x| *x -= mean);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};

    const N: usize = 9;
    const B: usize = 4;

    /// Columns of Γ and q.
    fn random() -> (Vec<Vec<f64>>, Vec<f64>) {
        let mut rng = stream(6, Purpose::Probe, 0);
        let mut normals = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
        let mean = normals(N);
        let columns = (0..B).map(|_| normals(N).iter().zip(&mean).map(|(x, m)| x + m).collect()).collect();
        (columns, normals(N))
    }

    fn direction(config: &HvrConfig, columns: &[Vec<f64>], q: &[f64]) -> (Vec<f64>, Met) {
        let gram: Vec<f64> = (0..B * B).map(|x| dot(&columns[x / B], &columns[x % B])).collect();
        let products: Vec<f64> = columns.iter().map(|c| dot(c, q)).collect();
        let mut met = Met::default();
        let weights = sound(config, config.lambda_rel, &gram, &products, N, &mut met).unwrap();
        let u = (0..N).map(|i| q[i] + (0..B).map(|j| weights[j] * columns[j][i]).sum::<f64>()).collect();
        (u, met)
    }

    /// A of the centred columns, written out `[N, N]`.
    fn covariance(columns: &[Vec<f64>]) -> Vec<f64> {
        let mean: Vec<f64> = (0..N).map(|i| columns.iter().map(|c| c[i]).sum::<f64>() / B as f64).collect();
        let entry = |i: usize, j: usize| columns.iter().map(|c| (c[i] - mean[i]) * (c[j] - mean[j])).sum::<f64>();
        (0..N * N).map(|x| entry(x / N, x % N) / B as f64).collect()
    }

    /// λ^p·(λI + A)^-p·q by the eigenvectors of A; of these only the first `kept` are damped.
    fn explicit(a: &[f64], lambda_rel: f64, power: f64, kept: usize, q: &[f64]) -> Vec<f64> {
        let lambda = lambda_rel * (0..N).map(|i| a[i * N + i]).sum::<f64>() / N as f64;
        let (values, vectors) = eigh(N, a).unwrap();
        let mut u = vec![0.0; N];
        for j in 0..N {
            let s = if j < kept { values[j].max(0.0) } else { 0.0 };
            let along: f64 = (0..N).map(|i| vectors[i * N + j] * q[i]).sum();
            let gain = (lambda / (lambda + s)).powf(power);
            (0..N).for_each(|i| u[i] += gain * along * vectors[i * N + j]);
        }
        u
    }

    fn close(got: &[f64], expected: &[f64]) {
        for (x, y) in got.iter().zip(expected) {
            assert!((x - y).abs() < 1e-12, "{got:?} {expected:?}");
        }
    }

    #[test]
    fn sound_forms_equal_the_inverse_and_the_inverse_root_written_out() {
        let (columns, q) = random();
        let a = covariance(&columns);
        for (form, power) in [(HvrForm::Inv, 1.0), (HvrForm::Isqrt, 0.5)] {
            for lambda_rel in [0.01, 1.0, 10.0] {
                let config = HvrConfig { form, lambda_rel, ..HvrConfig::default() };
                let (u, met) = direction(&config, &columns, &q);
                close(&u, &explicit(&a, lambda_rel, power, N, &q));
                let trace: f64 = (0..N).map(|i| a[i * N + i]).sum();
                assert!((met.effective_rank - trace * trace / dot(&a, &a)).abs() < 1e-9);
                assert!((1.0..3.0 + 1e-9).contains(&met.effective_rank), "three directions are left about the mean");
                assert!(dot(&u, &u) < dot(&q, &q), "no gain is above 1");
            }
        }
    }

    #[test]
    fn inv_by_woodbury_solves_the_damped_system() {
        let (columns, q) = random();
        let config = HvrConfig { form: HvrForm::Inv, lambda_rel: 0.5, ..HvrConfig::default() };
        let (u, _) = direction(&config, &columns, &q);
        let mut a = covariance(&columns);
        let lambda = 0.5 * (0..N).map(|i| a[i * N + i]).sum::<f64>() / N as f64;
        (0..N).for_each(|i| a[i * N + i] += lambda);
        let back: Vec<f64> = (0..N).map(|i| dot(&a[i * N..(i + 1) * N], &u) / lambda).collect();
        close(&back, &q);
    }

    #[test]
    fn truncation_leaves_what_it_drops_and_the_complement_alone() {
        let (columns, q) = random();
        let a = covariance(&columns);
        let (values, vectors) = eigh(N, &a).unwrap();
        let share = (values[0] + 0.5 * values[1]) / values.iter().sum::<f64>();
        for (form, power) in [(HvrForm::Inv, 1.0), (HvrForm::Isqrt, 0.5)] {
            let truncation = HvrTruncation::Spectral;
            let config = HvrConfig { form, truncation, threshold: share, lambda_rel: 0.1, ..HvrConfig::default() };
            let (u, _) = direction(&config, &columns, &q);
            close(&u, &explicit(&a, 0.1, power, 2, &q));
            for j in 2..N {
                let along = |x: &[f64]| (0..N).map(|i| vectors[i * N + j] * x[i]).sum::<f64>();
                assert!((along(&u) - along(&q)).abs() < 1e-12, "{j}");
            }
            let whole = HvrConfig { threshold: 1.0, ..config.clone() };
            close(&direction(&whole, &columns, &q).0, &explicit(&a, 0.1, power, N, &q));
            let none = HvrConfig { truncation: HvrTruncation::Elementwise, threshold: 1e-9, ..config };
            close(&direction(&none, &columns, &q).0, &explicit(&a, 0.1, power, N, &q));
        }
    }

    #[test]
    fn gradients_without_spread_leave_adam_and_a_broken_window_is_given_up() {
        let config = HvrConfig { form: HvrForm::Inv, ..HvrConfig::default() };
        let mut met = Met::default();
        assert_eq!(sound(&config, 1.0, &[4.0; 4], &[1.0, 2.0], 3, &mut met), Some(vec![0.0; 2]));
        assert_eq!(sound(&config, 1.0, &[4.0], &[1.0], 3, &mut met), Some(vec![0.0]));
        assert_eq!(sound(&config, 1.0, &[0.0; 4], &[0.0; 2], 3, &mut met), Some(vec![0.0; 2]));
        // −1 on the diagonal is more than any damping mends
        let mut failures = 0.0;
        assert_eq!(by_cholesky(&[1.0, 0.0, 0.0, -1.0], &[1.0, 1.0], 1e-9, &mut failures), None);
        assert_eq!(failures, 5.0);
        failures = 0.0;
        assert!(by_cholesky(&[1.0, 0.0, 0.0, -1.0], &[1.0, 1.0], 0.5, &mut failures).is_some());
        assert_eq!(failures, 1.0);
        let isqrt = HvrConfig::default();
        assert_eq!(met, Met::default());
        assert!(sound(&isqrt, 1.0, &[1.0, f64::NAN, f64::NAN, 1.0], &[1.0, 1.0], 3, &mut met).is_none());
    }

    #[test]
    fn the_literal_direction_is_a_times_momentum() {
        let (columns, q) = random();
        let gram: Vec<f64> = (0..B * B).map(|x| dot(&columns[x / B], &columns[x % B])).collect();
        let products: Vec<f64> = columns.iter().map(|c| dot(c, &q)).collect();
        let weights = literal(0.0, &gram, &products, 1.0, &mut Met::default());
        let u: Vec<f64> = (0..N).map(|i| (0..B).map(|j| weights[j] * columns[j][i]).sum()).collect();
        let a = |i: usize, j: usize| columns.iter().map(|c| c[i] * c[j]).sum::<f64>() / B as f64;
        close(&u, &(0..N).map(|i| (0..N).map(|j| a(i, j) * q[j]).sum()).collect::<Vec<f64>>());
        let capped = literal(0.5, &gram, &products, 1.0, &mut Met::default());
        let factor = capped[0] / weights[0];
        assert!((factor * factor * dot(&u, &u) - 0.25).abs() < 1e-9, "half of Adam's length");
    }
}
