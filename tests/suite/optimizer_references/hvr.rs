//! `hvr` as its formulas say: windows as lists of gradients, means and covariances recomputed at each step, for small
//! tensors A + λI written out; eigenvectors by Jacobi's rotations.

use super::{Moment, Reference};
use nmt_train::config::{HvrAutomatic, HvrConfig, HvrForm, HvrTruncation};
use nmt_train::params::ParamKind;

/// Elements up to which A is written out.
const SMALL: usize = 64;

/// See the module.
pub(crate) struct HvrReference {
    config: HvrConfig,
    kind: ParamKind,
    t: i32,
    m: Vec<f64>,
    v: Vec<f64>,
    /// Gradients, newest first.
    window: Vec<Vec<f64>>,
    /// Candidates (window, lambda_rel) with their scores.
    candidates: Vec<(usize, f64, Option<f64>)>,
    chosen: (usize, f64),
    scored: u32,
}

impl HvrReference {
    pub(crate) fn new(config: HvrConfig, kind: ParamKind) -> Self {
        let (largest, lambda) = (config.window, config.lambda_rel);
        let mut windows = vec![largest];
        let mut lambdas = vec![lambda];
        if config.automatic != HvrAutomatic::Off {
            windows = [4, 8, 16, 32].into_iter().filter(|b| *b < largest).chain([largest]).collect();
        }
        if config.automatic == HvrAutomatic::WindowAndLambda {
            lambdas = vec![0.01 * lambda, 0.1 * lambda, lambda, 10.0 * lambda];
        }
        let pairs = windows.iter().flat_map(|b| lambdas.iter().map(|l| (*b, *l, None))).collect();
        let (m, v, window) = (Vec::new(), Vec::new(), Vec::new());
        HvrReference { config, kind, t: 0, m, v, window, candidates: pairs, chosen: (largest, lambda), scored: 0 }
    }

    fn score(&mut self, g: &[f64]) {
        if self.candidates.len() == 1 {
            return;
        }
        let n = g.len() as f64;
        for (b, lambda_rel, score) in &mut self.candidates {
            if *b > self.window.len() {
                continue;
            }
            let columns = &self.window[..*b];
            let bs = *b as f64;
            let lambda = *lambda_rel * columns.iter().map(|c| dot(c, c)).sum::<f64>() / bs / n;
            let (values, vectors) = jacobi(gram(columns));
            let k: Vec<f64> = columns.iter().map(|c| dot(c, g)).collect();
            let mut q = dot(g, g) / lambda;
            let mut log_determinant = n * lambda.ln();
            for (s, vector) in values.iter().zip(&vectors) {
                q -= dot(vector, &k).powi(2) / (lambda * bs + s) / lambda;
                log_determinant += (1.0 + s / (lambda * bs)).ln();
            }
            let l = -0.5 * (q + log_determinant) / n;
            *score = Some(score.map_or(l, |old| 0.95 * old + 0.05 * l));
        }
        self.scored += 1;
        if self.scored.is_multiple_of(50) {
            let present = self.candidates.iter().find(|c| (c.0, c.1) == self.chosen).unwrap().2;
            let best = self.candidates.iter().filter(|c| c.2.is_some()).max_by(|a, b| a.2.partial_cmp(&b.2).unwrap());
            if let (Some(present), Some(&(b, lambda, Some(score)))) = (present, best) {
                if score - present >= 0.005 {
                    let mut windows: Vec<usize> = self.candidates.iter().map(|c| c.0).collect();
                    windows.dedup();
                    let at = windows.iter().position(|x| *x == self.chosen.0).unwrap();
                    let to = windows.iter().position(|x| *x == b).unwrap();
                    let next = if to > at {
                        at + 1
                    } else if to < at {
                        at - 1
                    } else {
                        at
                    };
                    self.chosen = (windows[next], lambda);
                }
            }
        }
    }

    /// λ^p·(λI + A)^-p·q.
    fn damped(&self, q: &[f64]) -> Vec<f64> {
        let (window, lambda_rel) = self.chosen;
        let b = window.min(self.window.len());
        let n = q.len();
        let columns = &self.window[..b];
        let mean: Vec<f64> = (0..n).map(|i| columns.iter().map(|c| c[i]).sum::<f64>() / b as f64).collect();
        let columns: Vec<Vec<f64>> =
            columns.iter().map(|c| c.iter().zip(&mean).map(|(x, m)| x - m).collect()).collect();
        let trace = columns.iter().map(|c| dot(c, c)).sum::<f64>() / b as f64;
        if b < 2 {
            return q.to_vec();
        }
        let lambda = lambda_rel * trace / n as f64;
        let power = if self.config.form == HvrForm::Inv { 1.0 } else { 0.5 };
        let threshold = self.config.threshold;
        let kept = |values: &[f64]| {
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|a, b| values[*b].partial_cmp(&values[*a]).unwrap());
            if self.config.truncation != HvrTruncation::Spectral {
                return order;
            }
            let total: f64 = values.iter().sum();
            let mut sum = 0.0;
            let few = order.iter().take_while(|i| {
                let go = sum < threshold * total;
                sum += values[**i];
                go
            });
            few.copied().collect()
        };
        let mut u = q.to_vec();
        if n <= SMALL && self.config.truncation != HvrTruncation::Elementwise {
            let entry = |i: usize, j: usize| columns.iter().map(|c| c[i] * c[j]).sum::<f64>() / b as f64;
            let (values, vectors) = jacobi((0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect());
            for i in kept(&values) {
                let gain = (lambda / (lambda + values[i].max(0.0))).powf(power);
                let along = dot(&vectors[i], q);
                u.iter_mut().zip(&vectors[i]).for_each(|(u, x)| *u += (gain - 1.0) * along * x);
            }
            return u;
        }
        let mut small = gram(&columns);
        if self.config.truncation == HvrTruncation::Elementwise {
            let largest = small.iter().flatten().fold(0.0, |a: f64, x| a.max(x.abs()));
            small.iter_mut().flatten().filter(|x| x.abs() < threshold * largest).for_each(|x| *x = 0.0);
            let least = jacobi(small.clone()).0.into_iter().fold(f64::INFINITY, f64::min);
            (0..b).for_each(|i| small[i][i] -= least.min(0.0));
        }
        let (values, vectors) = jacobi(small);
        for i in kept(&values) {
            let s = values[i].max(0.0);
            let damping = lambda * b as f64;
            // (gain − 1)/s, at 0 its limit
            let factor = match power == 1.0 {
                true => -1.0 / (damping + s),
                false if s < 1e-9 * trace => -0.5 / damping,
                false => ((damping / (damping + s)).sqrt() - 1.0) / s,
            };
            // Σ of gradients along this eigenvector; a literal truncation leaves it out of line with them
            let direction: Vec<f64> = (0..n).map(|x| (0..b).map(|j| vectors[i][j] * columns[j][x]).sum()).collect();
            let along = dot(&direction, q);
            u.iter_mut().zip(&direction).for_each(|(u, x)| *u += factor * along * x);
        }
        u
    }
}

impl Reference for HvrReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let Moment { lr, weight_decay, .. } = *at;
        let HvrConfig { form, beta1, beta2, eps, window, threshold, lambda_rel, .. } = self.config;
        self.t += 1;
        self.m.resize(w.len(), 0.0);
        self.v.resize(w.len(), 0.0);
        for (i, &g) in g.iter().enumerate() {
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
        }
        let scale = |x: f64, v: f64| x / ((v / (1.0 - beta2.powi(self.t))).sqrt() + eps);
        let m_hat: Vec<f64> = self.m.iter().map(|m| m / (1.0 - beta1.powi(self.t))).collect();
        let adam: Vec<f64> = m_hat.iter().zip(&self.v).map(|(m, v)| scale(*m, *v)).collect();
        let mut entering = g.to_vec();
        let literal = matches!(form, HvrForm::Literal | HvrForm::DiagLiteral | HvrForm::Code);
        let u = match form {
            _ if self.kind == ParamKind::Vector && !literal => adam,
            HvrForm::Code => g.to_vec(),
            HvrForm::Literal => {
                let mut u = vec![0.0; w.len()];
                for column in &self.window {
                    let along = dot(column, &m_hat) / self.window.len() as f64;
                    u.iter_mut().zip(column).for_each(|(u, x)| *u += along * x);
                }
                let (length, limit) = (dot(&u, &u).sqrt(), self.config.literal_cap * dot(&adam, &adam).sqrt());
                if limit > 0.0 && length > limit {
                    u.iter_mut().for_each(|u| *u *= limit / length);
                }
                u
            }
            HvrForm::DiagLiteral => {
                let held = self.window.len().max(1) as f64;
                let h = |i: usize| self.window.iter().map(|c| c[i] * c[i]).sum::<f64>() / held;
                m_hat.iter().enumerate().map(|(i, m)| h(i) * m).collect()
            }
            HvrForm::Diag => {
                let all: Vec<&[f64]> =
                    std::iter::once(g).chain(self.window.iter().map(Vec::as_slice)).take(window).collect();
                let weights: Vec<f64> = (0..all.len()).map(|age| beta1.powi(age as i32)).collect();
                let total: f64 = weights.iter().sum();
                let mean = |i: usize| all.iter().zip(&weights).map(|(c, w)| w * c[i]).sum::<f64>() / total;
                let mut h: Vec<f64> =
                    (0..w.len()).map(|i| all.iter().map(|c| c[i] * c[i]).sum::<f64>() / all.len() as f64).collect();
                if self.config.truncation == HvrTruncation::Entries {
                    let largest = h.iter().fold(0.0, |a: f64, x| a.max(*x));
                    let damping = lambda_rel * h.iter().sum::<f64>() / h.len() as f64;
                    h.iter_mut().filter(|h| **h < threshold * largest).for_each(|h| *h = damping);
                }
                h.iter().enumerate().map(|(i, h)| mean(i) / (h.sqrt() + eps)).collect()
            }
            HvrForm::Inv | HvrForm::Isqrt => {
                entering = g.iter().zip(&self.v).map(|(g, v)| scale(*g, *v)).collect();
                let u = self.damped(&adam);
                self.score(&entering);
                u
            }
        };
        self.window.insert(0, entering);
        self.window.truncate(window);
        for (w, u) in w.iter_mut().zip(u) {
            *w -= lr * (u + weight_decay * *w);
        }
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn gram(columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
    columns.iter().map(|a| columns.iter().map(|b| dot(a, b)).collect()).collect()
}

/// Eigenvalues and eigenvectors (one a row) of a symmetric matrix, by rotations that zero one element after another.
fn jacobi(mut a: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = a.len();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let size: f64 = a.iter().flatten().map(|x| x * x).sum();
    for _ in 0..100 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if off <= 1e-34 * size {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = if theta >= 0.0 { 1.0 } else { -1.0 } / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                for k in 0..n {
                    (a[p][k], a[q][k]) = (c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]);
                    let (x, y) = (vectors[p][k], vectors[q][k]);
                    (vectors[p][k], vectors[q][k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), vectors)
}
