//! The loops over the elements of one tensor: two passes a step over the gradients of the window, Γ `[window, n]`, shared
//! among threads in chunks. Sums are in f64, chunk by chunk in order, so results do not depend on threads.

use rayon::prelude::*;

use super::super::inplace::Real;

/// Elements of a job.
const CHUNK: usize = 1 << 14;
/// Elements whose intermediate values are held at once; a chunk is several.
const BLOCK: usize = 512;

/// Moments as in Adam, and what enters window and direction.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    /// 1 − β₁ᵗ.
    pub(super) m_correction: f64,
    /// √(1 − β₂ᵗ).
    pub(super) root_correction: f64,
    /// Adam's space: gradients and momentum are divided by √v̂ + ε. Else both are raw.
    pub(super) normalized: bool,
}

/// [`Moments`] in the number type of the tensor.
#[derive(Clone, Copy)]
struct Scalars<T> {
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    eps: T,
    m_scale: T,
    root_correction: T,
    normalized: bool,
}

impl Moments {
    fn scalars<T: Real>(&self) -> Scalars<T> {
        Scalars {
            one_minus_beta1: T::from_f64(1.0 - self.beta1),
            beta2: T::from_f64(self.beta2),
            one_minus_beta2: T::from_f64(1.0 - self.beta2),
            eps: T::from_f64(self.eps),
            m_scale: T::from_f64(1.0 / self.m_correction),
            root_correction: T::from_f64(self.root_correction),
            normalized: self.normalized,
        }
    }
}

impl<T: Real> Scalars<T> {
    fn advance(&self, m: &mut [T], v: &mut [T], g: &[T]) {
        for ((m, v), &g) in m.iter_mut().zip(v).zip(g) {
            *m += self.one_minus_beta1 * (g - *m);
            *v = self.beta2 * *v + self.one_minus_beta2 * (g * g);
        }
    }

    /// q: what the direction is made of; h: what enters the window.
    fn start(&self, (m, v, g): (&[T], &[T], &[T]), q: &mut [T], h: &mut [T]) {
        for ((((q, h), &m), &v), &g) in q.iter_mut().zip(h).zip(m).zip(v).zip(g) {
            let divisor = if self.normalized { v.sqrt() / self.root_correction + self.eps } else { T::one() };
            *q = self.m_scale * m / divisor;
            *h = g / divisor;
        }
    }

    /// Squared length of Adam's direction.
    fn adam_square(&self, m: &[T], v: &[T]) -> f64 {
        let adam = |(&m, &v): (&T, &T)| (self.m_scale * m / (v.sqrt() / self.root_correction + self.eps)).to_f64();
        m.iter().zip(v).map(adam).map(|a| a * a).sum()
    }
}

/// Sums of the first pass, in f64.
#[derive(Debug, PartialEq)]
pub(super) struct Products {
    /// Each slot of Γ times q.
    pub(super) direction: Vec<f64>,
    /// Each slot of Γ times h.
    pub(super) gradient: Vec<f64>,
    /// h·h.
    pub(super) square: f64,
    /// Squared length of Adam's direction.
    pub(super) adam_square: f64,
}

/// First pass: moments forward, then the products of Γ with q and h.
pub(super) fn observe<T: Real>(moments: &Moments, m: &mut [T], v: &mut [T], g: &[T], gamma: &[T]) -> Products {
    let (n, rule) = (g.len().max(1), moments.scalars::<T>());
    let slots = gamma.len() / n;
    let chunks = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK)).enumerate();
    let parts: Vec<Vec<f64>> = chunks
        .map(|(chunk, ((m, v), g))| {
            rule.advance(m, v, g);
            let mut sums = vec![0.0; 2 * slots + 2];
            let (mut q, mut h) = ([T::zero(); BLOCK], [T::zero(); BLOCK]);
            for from in (0..g.len()).step_by(BLOCK) {
                let to = (from + BLOCK).min(g.len());
                let (q, h) = (&mut q[..to - from], &mut h[..to - from]);
                rule.start((&m[from..to], &v[from..to], &g[from..to]), q, h);
                for (j, column) in gamma.chunks_exact(n).enumerate() {
                    let column = &column[chunk * CHUNK + from..chunk * CHUNK + to];
                    sums[j] += dot(column, q);
                    sums[slots + j] += dot(column, h);
                }
                sums[2 * slots] += dot(h, h);
                sums[2 * slots + 1] += rule.adam_square(&m[from..to], &v[from..to]);
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; 2 * slots + 2];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    Products {
        square: sums[2 * slots],
        adam_square: sums[2 * slots + 1],
        gradient: sums[slots..2 * slots].to_vec(),
        direction: {
            sums.truncate(slots);
            sums
        },
    }
}

/// What the second pass does to the weights: w ← w − lr·u − shrink·w.
pub(super) struct Move<'a> {
    pub(super) lr: f64,
    pub(super) shrink: f64,
    /// Whether q is part of the direction u.
    pub(super) with_q: bool,
    /// Weight of each slot of Γ in u.
    pub(super) weights: &'a [f64],
}

/// Second pass: the direction from q and the old window, the step, and h into slot `next`.
pub(super) fn apply<T: Real>(
    moments: &Moments,
    step: &Move<'_>,
    w: &mut [T],
    (m, v, g): (&[T], &[T], &[T]),
    gamma: &mut [T],
    next: usize,
) {
    let (n, rule) = (g.len(), moments.scalars::<T>());
    let (lr, shrink) = (T::from_f64(step.lr), T::from_f64(step.shrink));
    let weights: Vec<T> = step.weights.iter().map(|&x| T::from_f64(x)).collect();
    let window = Window::new(gamma, n, next);
    window.jobs.into_par_iter().zip(w.par_chunks_mut(CHUNK)).enumerate().for_each(|(chunk, (new, w))| {
        let (mut u, mut h) = ([T::zero(); BLOCK], [T::zero(); BLOCK]);
        for from in (0..w.len()).step_by(BLOCK) {
            let to = (from + BLOCK).min(w.len());
            let (start, end) = (chunk * CHUNK + from, chunk * CHUNK + to);
            let (u, h) = (&mut u[..to - from], &mut h[..to - from]);
            rule.start((&m[start..end], &v[start..end], &g[start..end]), u, h);
            if !step.with_q {
                u.fill(T::zero());
            }
            for (j, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != T::zero()) {
                let column = match window.old.column(j) {
                    Some(column) => &column[start..end],
                    None => &new[from..to],
                };
                u.iter_mut().zip(column).for_each(|(u, &x)| *u += weight * x);
            }
            for (w, &u) in w[from..to].iter_mut().zip(u.iter()) {
                *w -= lr * u + shrink * *w;
            }
            if !new.is_empty() {
                new[from..to].copy_from_slice(h);
            }
        }
    });
}

/// Γ with one slot cut out for writing.
struct Window<'a, T> {
    old: Old<'a, T>,
    /// The slot to be written, in chunks; empty slices without a window.
    jobs: Vec<&'a mut [T]>,
}

/// The slots that are only read.
#[derive(Clone, Copy)]
struct Old<'a, T> {
    before: &'a [T],
    after: &'a [T],
    n: usize,
    next: usize,
}

impl<'a, T: Real> Window<'a, T> {
    fn new(gamma: &'a mut [T], n: usize, next: usize) -> Self {
        if gamma.is_empty() {
            let jobs = (0..n.div_ceil(CHUNK)).map(|_| Default::default()).collect();
            return Window { old: Old { before: &[], after: &[], n, next }, jobs };
        }
        let (before, rest) = gamma.split_at_mut(next * n);
        let (new, after) = rest.split_at_mut(n);
        Window { old: Old { before, after, n, next }, jobs: new.chunks_mut(CHUNK).collect() }
    }
}

impl<'a, T> Old<'a, T> {
    /// A slot; `None` for the one that is written.
    fn column(&self, j: usize) -> Option<&'a [T]> {
        let Old { before, after, n, next } = *self;
        match j {
            _ if j == next => None,
            _ if j < next => Some(&before[j * n..(j + 1) * n]),
            _ => Some(&after[(j - next - 1) * n..(j - next) * n]),
        }
    }
}

/// The form diag: u = m/(√h + ε), with m a weighted mean of the window's gradients, this one included, and h the mean of
/// their squares.
pub(super) struct Diagonal {
    pub(super) eps: f64,
    /// Weight in m of each slot of Γ once this gradient is in; 0 where a slot is empty.
    pub(super) weights: Vec<f64>,
    /// Gradients in the window, this one included.
    pub(super) held: usize,
    /// Smaller entries of h are replaced: (below, by).
    pub(super) floor: Option<(f64, f64)>,
    pub(super) lr: f64,
    pub(super) shrink: f64,
}

/// Largest and mean entry of h, as [`diagonal`] will see it with this gradient in slot `next`.
pub(super) fn diagonal_extent<T: Real>(held: usize, g: &[T], gamma: &mut [T], next: usize) -> (f64, f64) {
    let n = g.len();
    let old = Window::new(gamma, n, next).old;
    let slots = (old.before.len() + old.after.len()) / n.max(1) + 1;
    let parts: Vec<(f64, f64)> = g
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, g)| {
            let mut h: Vec<T> = g.iter().map(|&g| g * g).collect();
            for column in (0..slots).filter_map(|j| old.column(j)) {
                add_squares(&mut h, &column[chunk * CHUNK..][..g.len()]);
            }
            h.iter().fold((0.0, 0.0), |(max, sum): (f64, f64), h| (max.max(h.to_f64()), sum + h.to_f64()))
        })
        .collect();
    let (max, sum) = parts.into_iter().fold((0.0, 0.0), |(a, b): (f64, f64), (x, y)| (a.max(x), b + y));
    (max / held as f64, sum / (held * n.max(1)) as f64)
}

/// The whole step of diag: g into slot `next`, then the direction and the weights.
pub(super) fn diagonal<T: Real>(rule: &Diagonal, w: &mut [T], g: &[T], gamma: &mut [T], next: usize) {
    let (eps, lr, shrink) = (T::from_f64(rule.eps), T::from_f64(rule.lr), T::from_f64(rule.shrink));
    let share = T::from_f64(1.0 / rule.held as f64);
    let (below, by) = rule.floor.map_or((T::zero(), T::zero()), |(x, y)| (T::from_f64(x), T::from_f64(y)));
    let weights: Vec<T> = rule.weights.iter().map(|&x| T::from_f64(x)).collect();
    let Window { old, jobs } = Window::new(gamma, g.len(), next);
    let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(jobs).enumerate();
    chunks.for_each(|(chunk, ((w, g), new))| {
        new.copy_from_slice(g);
        let (mut m, mut h) = ([T::zero(); BLOCK], [T::zero(); BLOCK]);
        for from in (0..w.len()).step_by(BLOCK) {
            let to = (from + BLOCK).min(w.len());
            let (m, h) = (&mut m[..to - from], &mut h[..to - from]);
            m.fill(T::zero());
            h.fill(T::zero());
            for (j, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != T::zero()) {
                let column = match old.column(j) {
                    Some(column) => &column[chunk * CHUNK + from..chunk * CHUNK + to],
                    None => &new[from..to],
                };
                m.iter_mut().zip(column).for_each(|(m, &x)| *m += weight * x);
                add_squares(h, column);
            }
            for ((w, &m), &sum) in w[from..to].iter_mut().zip(m.iter()).zip(h.iter()) {
                let h = share * sum;
                let h = if h < below { by } else { h };
                *w -= lr * (m / (h.sqrt() + eps)) + shrink * *w;
            }
        }
    });
}

/// The form diag-literal: u = h∘m̂, with h the mean of squares in the window before this gradient.
pub(super) struct DiagonalLiteral {
    pub(super) beta1: f64,
    /// 1 − β₁ᵗ.
    pub(super) m_correction: f64,
    /// Gradients in the window, without this one.
    pub(super) held: usize,
    pub(super) lr: f64,
    pub(super) shrink: f64,
}

/// The whole step of diag-literal: m forward, the direction, the weights, then g into slot `next`.
pub(super) fn diagonal_literal<T: Real>(
    rule: &DiagonalLiteral,
    w: &mut [T],
    m: &mut [T],
    g: &[T],
    gamma: &mut [T],
    next: usize,
) {
    let (one_minus_beta1, m_scale) = (T::from_f64(1.0 - rule.beta1), T::from_f64(1.0 / rule.m_correction));
    let (lr, shrink) = (T::from_f64(rule.lr), T::from_f64(rule.shrink));
    let share = T::from_f64(1.0 / rule.held.max(1) as f64);
    let slots = gamma.len() / g.len().max(1);
    let Window { old, jobs } = Window::new(gamma, g.len(), next);
    let chunks = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK)).zip(jobs).enumerate();
    chunks.for_each(|(chunk, (((w, m), g), new))| {
        let mut h = [T::zero(); BLOCK];
        for from in (0..w.len()).step_by(BLOCK) {
            let to = (from + BLOCK).min(w.len());
            let h = &mut h[..to - from];
            h.fill(T::zero());
            for j in 0..slots {
                match old.column(j) {
                    Some(column) => add_squares(h, &column[chunk * CHUNK + from..chunk * CHUNK + to]),
                    None => add_squares(h, &new[from..to]),
                }
            }
            let elements = w[from..to].iter_mut().zip(&mut m[from..to]).zip(&g[from..to]).zip(h.iter());
            for (((w, m), &g), &sum) in elements {
                *m += one_minus_beta1 * (g - *m);
                *w -= lr * (share * sum * (m_scale * *m)) + shrink * *w;
            }
        }
        new.copy_from_slice(g);
    });
}

fn add_squares<T: Real>(sums: &mut [T], x: &[T]) {
    sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x * x);
}

/// Σ x·y in f64, in eight running sums.
fn dot<T: Real>(x: &[T], y: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let (x_blocks, x_rest) = x.as_chunks::<8>();
    let (y_blocks, y_rest) = y.as_chunks::<8>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for i in 0..8 {
            sums[i] += x[i].to_f64() * y[i].to_f64();
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x.to_f64() * y.to_f64()).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, phase: f64) -> Vec<f32> {
        (0..n).map(|i| (i as f64 * 0.37 + phase).sin() as f32).collect()
    }

    /// Two steps in a pool of this many threads: weights, Γ, products.
    fn run(threads: usize) -> (Vec<f32>, Vec<f32>, Vec<Products>) {
        let n = 3 * CHUNK + 700;
        let (mut w, mut m, mut v, mut gamma) = (numbers(n, 0.0), vec![0.0; n], vec![0.0; n], numbers(3 * n, 1.0));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut seen = Vec::new();
        for t in 1..3 {
            let g = numbers(n, f64::from(t));
            let moments = Moments {
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-9,
                m_correction: 1.0 - 0.9f64.powi(t),
                root_correction: (1.0 - 0.98f64.powi(t)).sqrt(),
                normalized: true,
            };
            pool.install(|| {
                seen.push(observe(&moments, &mut m, &mut v, &g, &gamma));
                let step = Move { lr: 0.1, shrink: 0.01, with_q: true, weights: &[0.5, -0.25, 0.125] };
                apply(&moments, &step, &mut w, (&m, &v, &g), &mut gamma, t as usize);
                let floor = Some(diagonal_extent(3, &g, &mut gamma, 0));
                let rule = Diagonal { eps: 1e-9, weights: vec![0.5, 0.3, 0.2], held: 3, floor, lr: 0.1, shrink: 0.0 };
                diagonal(&rule, &mut w, &g, &mut gamma, 0);
                let rule = DiagonalLiteral { beta1: 0.9, m_correction: 0.5, held: 3, lr: 0.1, shrink: 0.0 };
                diagonal_literal(&rule, &mut w, &mut m, &g, &mut gamma, 1);
            });
        }
        (w, gamma, seen)
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let one = run(1);
        assert!(one.0.iter().all(|w| w.is_finite()));
        assert!(one == run(3));
    }

    #[test]
    fn the_products_are_those_of_plain_sums() {
        let n = CHUNK + 333;
        let (mut m, mut v, g, gamma) = (vec![0.0; n], vec![0.0; n], numbers(n, 0.5), numbers(2 * n, 1.5));
        let (beta1, beta2, eps) = (0.9, 0.98, 1e-9);
        let moments =
            Moments { beta1, beta2, eps, m_correction: 0.1, root_correction: 0.02f64.sqrt(), normalized: false };
        let products = observe(&moments, &mut m, &mut v, &g, &gamma);
        let plain = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        for j in 0..2 {
            let expected = plain(&gamma[j * n..(j + 1) * n], &g);
            assert!((products.gradient[j] - expected).abs() < 1e-9);
            // at the first update m̂ is the gradient
            assert!((products.direction[j] - expected).abs() < 1e-3);
        }
        assert!((products.square - plain(&g, &g)).abs() < 1e-9);
        assert!((products.adam_square - n as f64).abs() < 1.0, "Adam's first direction is ±1");
    }
}
