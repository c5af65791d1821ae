//! `bridge`: distance of the vectors u = E_s[s] and v = E_t[t] of n pairs of words (s, t, ω), and what keeps them apart.
//!
//! With û = u/‖u‖, v̂ = v/‖v‖, sg(·) held constant, means over the pairs p = 1 … n of the update:
//!
//! ```text
//! euclidean        ω‖u − v‖² / (sg‖u‖² + sg‖v‖²)
//! cosine           ω(1 − ûᵀv̂)
//! contrastive      −ω log softmax_q(û_pᵀv̂_q / τ) at q = p          (q over the pairs of the update)
//! variance-floor   Σ_k max(0, σ₀ − std_k) over the columns k of u, and of v   (a sum, no mean; σ₀ of its table)
//! ```
//!
//! The gradient of a function of û reaches u as (g − (ûᵀg)û)/‖u‖. Where v̂_q is one row with û_p (in a joint table)
//! or with v̂_p, q is no negative of p. A mapping between the two spaces (M_b in the reference) is left out: it is the identity.
//! Kuang et al. 2018 (bridging aligned words); van den Oord et al. 2018 (the contrastive form); Bardes et al. 2022 (the
//! floor).

use rayon::prelude::*;

use crate::config::{DistanceGuard, DistanceMetric, EmbeddingDistanceConfig};
use crate::ops::{dot, matmul, Mat, MatMut, Real, Store, Threads};

/// The pairs of one update.
pub(super) struct Bridge<'a, T> {
    /// `[n, d]`.
    pub(super) u: &'a [T],
    /// `[n, d]`.
    pub(super) v: &'a [T],
    pub(super) width: usize,
    /// ω of each pair.
    pub(super) weights: &'a [f64],
    /// Whether v of the second pair is no negative of the first pair, being one row with its u or its v.
    pub(super) no_negative: &'a (dyn Fn(usize, usize) -> bool + Sync),
    /// σ₀ of the two tables.
    pub(super) floors: [f64; 2],
    pub(super) config: &'a EmbeddingDistanceConfig,
}

/// Values and the gradient of distance + guard_weight · guard.
pub(super) struct Found<T> {
    pub(super) distance: f64,
    pub(super) guard: f64,
    pub(super) du: Vec<T>,
    pub(super) dv: Vec<T>,
}

/// See the top of the file. The same result on any number of threads.
pub(super) fn bridge<T: Real>(task: &Bridge<'_, T>) -> Found<T> {
    let (n, guard_weight) = (task.weights.len(), task.config.guard_weight);
    let zeros = || vec![T::zero(); n * task.width];
    let mut found = Found { distance: 0.0, guard: 0.0, du: zeros(), dv: zeros() };
    let (u, v) = (Units::new(task.u, task.width), Units::new(task.v, task.width));
    // gradients with respect to û and v̂
    let (mut gu, mut gv) = (zeros(), zeros());
    match task.config.metric {
        DistanceMetric::Euclidean => euclidean(task, &u, &v, &mut found),
        DistanceMetric::Cosine => found.distance = cosine(task, &u, &v, &mut gu, &mut gv),
    }
    match task.config.guard {
        DistanceGuard::None => (),
        DistanceGuard::Contrastive => found.guard = contrastive(task, &u, &v, &mut gu, &mut gv),
        DistanceGuard::VarianceFloor => {
            found.guard = variance_floor(task.u, task.width, task.floors[0], guard_weight, &mut found.du)
                + variance_floor(task.v, task.width, task.floors[1], guard_weight, &mut found.dv);
        }
    }
    u.reach(&gu, &mut found.du);
    v.reach(&gv, &mut found.dv);
    found
}

/// Rows of length 1, and the lengths they had. A row of zeros stays one and gets no gradient.
pub(super) struct Units<T> {
    pub(super) rows: Vec<T>,
    lengths: Vec<T>,
    width: usize,
}

impl<T: Real> Units<T> {
    pub(super) fn new(rows: &[T], width: usize) -> Self {
        let lengths: Vec<T> = rows.chunks(width).map(|row| dot(row, row).sqrt()).collect();
        let mut units = rows.to_vec();
        for (row, &length) in units.chunks_mut(width).zip(&lengths) {
            let inverse = reciprocal(length);
            row.iter_mut().for_each(|x| *x *= inverse);
        }
        Units { rows: units, lengths, width }
    }

    /// Adds to `gradient` what the gradients with respect to the unit rows are with respect to the rows.
    pub(super) fn reach(&self, of_units: &[T], gradient: &mut [T]) {
        let width = self.width;
        let rows = gradient.chunks_mut(width).zip(of_units.chunks(width)).zip(self.rows.chunks(width));
        for (((sum, g), unit), &length) in rows.zip(&self.lengths) {
            let (along, inverse) = (dot(g, unit), reciprocal(length));
            for ((sum, &g), &unit) in sum.iter_mut().zip(g).zip(unit) {
                *sum += (g - along * unit) * inverse;
            }
        }
    }
}

/// 1/x; 0 of 0.
fn reciprocal<T: Real>(x: T) -> T {
    if x > T::zero() {
        T::one() / x
    } else {
        T::zero()
    }
}

fn euclidean<T: Real>(task: &Bridge<'_, T>, u: &Units<T>, v: &Units<T>, found: &mut Found<T>) {
    let (n, width) = (task.weights.len(), task.width);
    for (p, &weight) in task.weights.iter().enumerate() {
        let row = p * width..(p + 1) * width;
        let scale = (u.lengths[p] * u.lengths[p] + v.lengths[p] * v.lengths[p]).to_f64();
        if scale == 0.0 {
            continue;
        }
        let factor = weight / (scale * n as f64);
        let twice = T::from_f64(2.0 * factor);
        let mut squares = 0.0;
        let vectors = task.u[row.clone()].iter().zip(&task.v[row.clone()]);
        let gradients = found.du[row.clone()].iter_mut().zip(&mut found.dv[row]);
        for ((&a, &b), (da, db)) in vectors.zip(gradients) {
            let difference = a - b;
            squares += (difference * difference).to_f64();
            *da += twice * difference;
            *db -= twice * difference;
        }
        found.distance += factor * squares;
    }
}

fn cosine<T: Real>(task: &Bridge<'_, T>, u: &Units<T>, v: &Units<T>, gu: &mut [T], gv: &mut [T]) -> f64 {
    let (n, width) = (task.weights.len(), task.width);
    let mut distance = 0.0;
    for (p, &weight) in task.weights.iter().enumerate() {
        let row = p * width..(p + 1) * width;
        let (a, b) = (&u.rows[row.clone()], &v.rows[row.clone()]);
        distance += weight * (1.0 - dot(a, b).to_f64()) / n as f64;
        let factor = T::from_f64(weight / n as f64);
        gu[row.clone()].iter_mut().zip(b).for_each(|(g, &b)| *g -= factor * b);
        gv[row].iter_mut().zip(a).for_each(|(g, &a)| *g -= factor * a);
    }
    distance
}

/// Products of `n × n` and `n × d` matrices; all else is small beside them.
fn contrastive<T: Real>(task: &Bridge<'_, T>, u: &Units<T>, v: &Units<T>, gu: &mut [T], gv: &mut [T]) -> f64 {
    let (n, width, temperature) = (task.weights.len(), task.width, task.config.temperature);
    let (a, b) = (Mat::new(&u.rows, n, width), Mat::new(&v.rows, n, width));
    let mut scores = vec![T::zero(); n * n];
    matmul(MatMut::new(&mut scores, n, n), Store::Set, T::from_f64(1.0 / temperature), a, b.t(), Threads::All);
    // each row of scores becomes the gradient with respect to the cosines of its pair
    let losses: Vec<f64> =
        scores
            .par_chunks_mut(n)
            .enumerate()
            .map(|(p, row)| {
                let counts = |q: usize| q == p || !(task.no_negative)(p, q);
                let top = row.iter().enumerate().filter(|(q, _)| counts(*q)).fold(T::NEG_INFINITY, |top, (_, &x)| {
                    if x > top {
                        x
                    } else {
                        top
                    }
                });
                let mut total = 0.0;
                let own = (row[p] - top).to_f64();
                for (q, x) in row.iter_mut().enumerate() {
                    let e = if counts(q) { (*x - top).to_f64().exp() } else { 0.0 };
                    total += e;
                    *x = T::from_f64(e);
                }
                let weight = task.weights[p] / n as f64;
                let factor = task.config.guard_weight * weight / temperature;
                let share = T::from_f64(factor / total);
                row.iter_mut().for_each(|x| *x *= share);
                row[p] -= T::from_f64(factor);
                weight * (total.ln() - own)
            })
            .collect();
    let g = Mat::new(&scores, n, n);
    matmul(MatMut::new(gu, n, width), Store::Add, T::one(), g, b, Threads::All);
    matmul(MatMut::new(gv, n, width), Store::Add, T::one(), g.t(), a, Threads::All);
    losses.into_iter().sum()
}

/// The floor on the columns of one side; adds `factor` × its gradient.
fn variance_floor<T: Real>(rows: &[T], width: usize, floor: f64, factor: f64, gradient: &mut [T]) -> f64 {
    let n = rows.len() / width;
    if n < 2 {
        return 0.0;
    }
    let moments = |values: &dyn Fn(usize, &T) -> f64| {
        let mut sums = vec![0.0; width];
        for row in rows.chunks(width) {
            sums.iter_mut().zip(row).enumerate().for_each(|(k, (sum, x))| *sum += values(k, x));
        }
        sums.iter_mut().for_each(|sum| *sum /= n as f64);
        sums
    };
    let means = moments(&|_, x| x.to_f64());
    let deviations: Vec<f64> = moments(&|k, x| (x.to_f64() - means[k]).powi(2)).into_iter().map(f64::sqrt).collect();
    for (row, gradient) in rows.chunks(width).zip(gradient.chunks_mut(width)) {
        for (k, (x, g)) in row.iter().zip(gradient).enumerate() {
            if deviations[k] < floor && deviations[k] > 0.0 {
                *g -= T::from_f64(factor * (x.to_f64() - means[k]) / (n as f64 * deviations[k]));
            }
        }
    }
    deviations.into_iter().map(|deviation| (floor - deviation).max(0.0)).sum()
}
