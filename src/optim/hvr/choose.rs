//! How many gradients to look back, and how much to damp, chosen by prediction.
//!
//! Before gradient g (n elements) enters the window: how likely was it under N(0, A + λI), with A = Γ·Γᵀ/b of the last b
//! gradients (not centred, so that A holds the mean direction too) and λ = `lambda_rel`·tr(A)/n? With K and k = Γᵀ·g
//!
//! ```text
//! q = [g·g − kᵀ(λb·I + K)⁻¹k]/λ
//! ℓ = −½·[q + n·ln λ + ln det(I + K/(λb))]/n        a constant left out
//! L ← 0.95·L + 0.05·ℓ                               for each candidate (b, lambda_rel)
//! ```
//!
//! All candidates are sub-windows of the same K. Every 50 updates the choice moves towards the candidate of largest L if
//! that is better by 0.005, which is half a percent of density per element; b moves by one notch of its grid at a time.

use super::forms::{damped, trace};
use super::history::History;
use crate::config::{HvrAutomatic, HvrConfig};
use crate::ops::dot_f64 as dot;

/// Weight of the past in L.
const MEMORY: f64 = 0.95;
/// Updates between decisions.
const PERIOD: u64 = 50;
/// Gain in L that is worth a move.
const HYSTERESIS: f64 = 0.005;
/// The grid of `lambda_rel`, as factors on the configured one.
const LAMBDAS: [f64; 4] = [0.01, 0.1, 1.0, 10.0];

/// The candidates of one tensor, their scores, and the present choice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    windows: Vec<usize>,
    lambdas: Vec<f64>,
    /// Indices of the choice.
    pub(super) window: usize,
    pub(super) lambda: usize,
    /// L, row-major `[windows, lambdas]`; −∞ = not measured yet.
    pub(super) scores: Vec<f64>,
    /// Gradients scored.
    pub(super) seen: u64,
}

impl Choice {
    /// Starts at the configured window and damping.
    pub(super) fn new(config: &HvrConfig) -> Self {
        let mut windows = Vec::new();
        if config.automatic != HvrAutomatic::Off {
            windows.extend((2..).map(|power| 1 << power).take_while(|&b| b < config.window));
        }
        windows.push(config.window);
        let (lambdas, lambda) = match config.automatic {
            HvrAutomatic::WindowAndLambda => (LAMBDAS.map(|factor| factor * config.lambda_rel).to_vec(), 2),
            _ => (vec![config.lambda_rel], 0),
        };
        let scores = vec![f64::NEG_INFINITY; windows.len() * lambdas.len()];
        Choice { window: windows.len() - 1, windows, lambdas, lambda, scores, seen: 0 }
    }

    /// The window in use.
    pub(super) fn window(&self) -> usize {
        self.windows[self.window]
    }

    /// The damping in use.
    pub(super) fn lambda_rel(&self) -> f64 {
        self.lambdas[self.lambda]
    }

    /// What was saved.
    pub(super) fn restore(&mut self, window: usize, lambda: usize, seen: u64) {
        (self.window, self.lambda) = (window.min(self.windows.len() - 1), lambda.min(self.lambdas.len() - 1));
        self.seen = seen;
    }

    /// Scores all candidates on a gradient of `n` elements that is not in the window yet. `products`: each slot of Γ
    /// times it; `square`: its own square. Decides when it is time.
    pub(super) fn observe(&mut self, history: &History, products: &[f64], square: f64, n: usize) {
        if self.scores.len() == 1 {
            return;
        }
        let width = self.lambdas.len();
        for (i, &b) in self.windows.iter().enumerate().filter(|(_, &b)| b <= history.filled) {
            let slots = history.latest(b);
            let gram = history.gram(&slots);
            let k: Vec<f64> = slots.iter().map(|&slot| products[slot]).collect();
            for (lambda_rel, score) in self.lambdas.iter().zip(&mut self.scores[i * width..]) {
                let lambda = lambda_rel * trace(&gram, b) / (b * n) as f64;
                if let Some(l) = log_likelihood(&gram, &k, square, lambda, n) {
                    *score = if score.is_finite() { MEMORY * *score + (1.0 - MEMORY) * l } else { l };
                }
            }
        }
        self.seen += 1;
        if self.seen.is_multiple_of(PERIOD) {
            self.decide();
        }
    }

    fn decide(&mut self) {
        let width = self.lambdas.len();
        let present = self.scores[self.window * width + self.lambda];
        let better = |best: (usize, f64), (i, &score)| if score > best.1 { (i, score) } else { best };
        let (best, score) = self.scores.iter().enumerate().fold((0, f64::NEG_INFINITY), better);
        if present.is_finite() && score - present >= HYSTERESIS {
            let (window, lambda) = (best / width, best % width);
            self.lambda = lambda;
            self.window = self.window + usize::from(window > self.window) - usize::from(window < self.window);
        }
    }
}

/// ℓ of the module's formulas; `None` when λ is not above 0 or the solve fails.
fn log_likelihood(gram: &[f64], k: &[f64], square: f64, lambda: f64, n: usize) -> Option<f64> {
    let b = k.len();
    let shift = lambda * b as f64;
    if shift.is_nan() || shift <= 0.0 {
        return None;
    }
    let factor = damped(gram, b, shift)?;
    let mut solved = k.to_vec();
    factor.solve(&mut solved);
    let q = (square - dot(k, &solved)) / lambda;
    let determinant = factor.ln_determinant() - b as f64 * shift.ln();
    let l = -0.5 * (q + n as f64 * lambda.ln() + determinant) / n as f64;
    l.is_finite().then_some(l)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Cholesky;
    use crate::rng::{stream, Purpose};

    #[test]
    fn the_likelihood_is_that_of_the_gaussian_with_its_covariance_written_out() {
        let mut rng = stream(3, Purpose::Probe, 0);
        let (n, b, lambda) = (7, 3, 0.4);
        let columns: Vec<Vec<f64>> = (0..b).map(|_| (0..n).map(|_| rng.normal()).collect()).collect();
        let g: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let gram: Vec<f64> = (0..b * b).map(|x| dot(&columns[x / b], &columns[x % b])).collect();
        let k: Vec<f64> = columns.iter().map(|column| dot(column, &g)).collect();
        let mut covariance = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                covariance[i * n + j] = columns.iter().map(|c| c[i] * c[j]).sum::<f64>() / b as f64;
            }
            covariance[i * n + i] += lambda;
        }
        let factor = Cholesky::new(n, &covariance).unwrap();
        let mut solved = g.clone();
        factor.solve(&mut solved);
        let expected = -0.5 * (dot(&g, &solved) + factor.ln_determinant()) / n as f64;
        let got = log_likelihood(&gram, &k, dot(&g, &g), lambda, n).unwrap();
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        assert!(log_likelihood(&gram, &k, 1.0, 0.0, n).is_none());
    }

    /// Shows `choice` 300 gradients of `n` elements.
    fn show(choice: &mut Choice, slots: usize, n: usize, mut gradient: impl FnMut(usize) -> Vec<f64>) {
        let (mut history, mut gamma) = (History::new(slots), vec![vec![0.0; n]; slots]);
        for t in 0..300 {
            let g = gradient(t);
            let products: Vec<f64> = gamma.iter().map(|column| dot(column, &g)).collect();
            choice.observe(&history, &products, dot(&g, &g), n);
            gamma[history.next] = g.clone();
            history.push(&products, dot(&g, &g));
        }
    }

    #[test]
    fn a_planted_window_is_found_from_either_side() {
        let n = 60;
        let mut rng = stream(4, Purpose::Probe, 0);
        let mut normals = |n: usize, scale: f64| -> Vec<f64> { (0..n).map(|_| scale * rng.normal()).collect() };
        // gradients return after 12 updates: windows of 4 and 8 can not know them
        let patterns: Vec<Vec<f64>> = (0..12).map(|_| normals(n, 3.0)).collect();
        let automatic = HvrAutomatic::WindowAndLambda;
        let mut choice = Choice::new(&HvrConfig { window: 16, automatic, ..HvrConfig::default() });
        assert_eq!((choice.windows.clone(), choice.window(), choice.lambda_rel()), (vec![4, 8, 16], 16, 10.0));
        choice.window = 0;
        show(&mut choice, 16, n, |t| {
            let noise = normals(n, 0.3);
            patterns[t % 12].iter().zip(noise).map(|(p, e)| p + e).collect()
        });
        assert_eq!((choice.window(), choice.lambda_rel()), (16, 0.1), "{:?}", choice.scores);
        // the one direction of all gradients drifts: old ones mislead
        let automatic = HvrAutomatic::Window;
        let mut choice = Choice::new(&HvrConfig { window: 32, lambda_rel: 1.0, automatic, ..HvrConfig::default() });
        let mut direction = normals(n, 1.0);
        show(&mut choice, 32, n, |_| {
            let (turn, noise) = (normals(n, 0.8), normals(n, 0.1));
            direction.iter_mut().zip(turn).for_each(|(d, x)| *d = 0.6 * *d + x);
            direction.iter().zip(noise).map(|(d, e)| 3.0 * d + e).collect()
        });
        assert_eq!((choice.window(), choice.lambda_rel()), (4, 1.0), "{:?}", choice.scores);
    }

    #[test]
    fn what_is_switched_off_is_not_scored_and_small_gains_do_not_move() {
        let off = HvrConfig { automatic: HvrAutomatic::Off, ..HvrConfig::default() };
        let mut choice = Choice::new(&off);
        show(&mut choice, 16, 5, |t| vec![t as f64; 5]);
        assert_eq!((choice.window(), choice.seen), (16, 0));
        let mut choice = Choice::new(&HvrConfig::default());
        choice.scores = vec![1.004, 1.002, 1.0];
        choice.decide();
        assert_eq!(choice.window(), 16);
        choice.scores = vec![1.006, 1.002, 1.0];
        choice.decide();
        assert_eq!(choice.window(), 8, "one notch at a time");
        choice.decide();
        assert_eq!(choice.window(), 8, "a gain of 0.004 is not worth a move");
        assert_eq!(Choice::new(&HvrConfig { window: 3, ..HvrConfig::default() }).windows, [3]);
    }
}
