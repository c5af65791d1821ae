//! The passes over the elements of tensors and their windows Γ `[window, n]`. On the CPU threads share chunks, on a GPU
//! one kernel of `ops/cuda/window.cu` does all tensors. Sums are in f64, chunk by chunk in order, so results do not
//! depend on threads.

use candle_core::{bail, Result};

use super::super::clip::dot;
use super::super::inplace::{chunks, with_slices, Real, CHUNK};
use super::block::Rule;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::ops::{rows, values, with_real, Windowed, SCALARS};

/// Elements whose intermediate values are held at once; a chunk is several.
const BLOCK: usize = 512;

/// Sums of the first pass.
#[derive(Debug, PartialEq)]
pub(super) struct Products {
    /// h·h.
    pub(super) square: f64,
    /// Squared length of Adam's direction.
    pub(super) adam_square: f64,
    /// Each slot of Γ times q.
    pub(super) direction: Vec<f64>,
    /// Each slot of Γ times h.
    pub(super) gradient: Vec<f64>,
}

/// First pass: moments forward, then the products of Γ with q and h. Scalars: 1 − β₁, β₂, 1 − β₂, ε, √(1 − β₂ᵗ),
/// 1/(1 − β₁ᵗ).
pub(super) fn observe(tensors: &[Windowed]) -> Result<Vec<Products>> {
    let products = |(sums, x): (Vec<f64>, &Windowed)| Products {
        square: sums[0],
        adam_square: sums[1],
        direction: sums[2..2 + x.slots()].to_vec(),
        gradient: sums[2 + x.slots()..2 + 2 * x.slots()].to_vec(),
    };
    #[cfg(feature = "cuda")]
    if on_gpu(tensors) {
        return Ok(cuda::observe_windows(tensors)?.into_iter().zip(tensors).map(products).collect());
    }
    let sums = each(tensors, |x| {
        let mut sums = vec![0.0; 2 + 2 * x.slots()];
        for part in with_real!(x.gradient, T => walk::<T>(x, sums.len(), advance))? {
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(sums)
    })?;
    Ok(sums.into_iter().zip(tensors).map(products).collect())
}

/// Largest entry and sum of all of Σ g∘g over the window, the present gradient in slot `next`.
pub(super) fn extents(tensors: &[Windowed]) -> Result<Vec<(f64, f64)>> {
    #[cfg(feature = "cuda")]
    if on_gpu(tensors) {
        return cuda::window_extents(tensors);
    }
    let both = |(max, sum): (f64, f64), part: Vec<f64>| (max.max(part[0]), sum + part[1]);
    each(tensors, |x| Ok(with_real!(x.gradient, T => walk::<T>(x, 2, extent))?.into_iter().fold((0.0, 0.0), both)))
}

/// Last pass: w ← w − lr·u − shrink·w, and the gradient into slot `next`.
pub(super) fn apply(rule: Rule, tensors: &[Windowed]) -> Result<()> {
    #[cfg(feature = "cuda")]
    if on_gpu(tensors) {
        return cuda::apply_windows(last::<f32>(rule).0, tensors);
    }
    each(tensors, |x| with_real!(x.gradient, T => walk::<T>(x, 0, last(rule).1))).map(drop)
}

/// The last pass of a rule: its kernel, and what it is on the CPU.
fn last<T: Real>(rule: Rule) -> (&'static str, Pass<T>) {
    match rule {
        Rule::Adam | Rule::LowRank => ("window_apply", turned),
        Rule::Diagonal => ("window_diagonal", diagonal),
        Rule::DiagonalLiteral => ("window_diagonal_literal", diagonal_literal),
    }
}

/// Of [`observe`].
fn advance<T: Real>(rule: &Numbers<T>, x: Stretch<'_, T>, sums: &mut [f64]) {
    let [one_minus_beta1, beta2, one_minus_beta2, ..] = rule.scalars;
    for ((m, v), &g) in x.m.iter_mut().zip(&mut *x.v).zip(x.g) {
        *m += one_minus_beta1 * (g - *m);
        *v = beta2 * *v + one_minus_beta2 * (g * g);
    }
    let (mut q, mut h) = ([T::zero(); BLOCK], [T::zero(); BLOCK]);
    let (q, h) = rule.start(&x, &mut q, &mut h);
    let adam = |(&q, &v): (&T, &T)| (if rule.normalized { q } else { q / rule.divisor(v) }).to_f64();
    sums[0] += dot(h, h);
    sums[1] += q.iter().zip(&*x.v).map(adam).map(|a| a * a).sum::<f64>();
    let (of_q, of_h) = sums[2..].split_at_mut(x.window.len());
    for (j, (of_q, of_h)) in of_q.iter_mut().zip(of_h).enumerate() {
        *of_q += dot(x.slot(j), q);
        *of_h += dot(x.slot(j), h);
    }
}

/// u = q + Σⱼ weightⱼ·Γⱼ; without q where the window is not in Adam's space. Scalars: those of [`advance`], lr, shrink.
fn turned<T: Real>(rule: &Numbers<T>, x: Stretch<'_, T>, _: &mut [f64]) {
    let [.., lr, shrink] = rule.scalars;
    let (mut u, mut h) = ([T::zero(); BLOCK], [T::zero(); BLOCK]);
    let (u, h) = rule.start(&x, &mut u, &mut h);
    if !rule.normalized {
        u.fill(T::zero());
    }
    for (j, weight) in rule.weighted() {
        u.iter_mut().zip(x.slot(j)).for_each(|(u, &x)| *u += weight * x);
    }
    descend(x.w, lr, u, shrink);
    x.new.iter_mut().zip(h).for_each(|(new, h)| *new = *h);
}

/// u = m/(√h + ε), with m a weighted mean of the window's gradients, this one included, and h the mean of their squares;
/// entries of h below a bound are replaced. Scalars: ε, 1/(gradients in the window), bound, replacement, lr, shrink.
fn diagonal<T: Real>(rule: &Numbers<T>, x: Stretch<'_, T>, _: &mut [f64]) {
    let [eps, share, below, by, lr, shrink, ..] = rule.scalars;
    x.new.copy_from_slice(x.g);
    let (mut m, mut h) = ([T::zero(); BLOCK], [T::zero(); BLOCK]);
    let (m, h) = (&mut m[..x.g.len()], &mut h[..x.g.len()]);
    for (j, weight) in rule.weighted() {
        m.iter_mut().zip(x.slot(j)).for_each(|(m, &x)| *m += weight * x);
        add_squares(h, x.slot(j));
    }
    for (m, &sum) in m.iter_mut().zip(&*h) {
        let h = share * sum;
        let h = if h < below { by } else { h };
        *m /= h.sqrt() + eps;
    }
    descend(x.w, lr, m, shrink);
}

/// u = h∘m̂, with h the mean of squares in the window before this gradient. Scalars: 1 − β₁, 1/(1 − β₁ᵗ),
/// 1/(gradients in the window), lr, shrink.
fn diagonal_literal<T: Real>(rule: &Numbers<T>, x: Stretch<'_, T>, _: &mut [f64]) {
    let [one_minus_beta1, m_scale, share, lr, shrink, ..] = rule.scalars;
    let mut u = [T::zero(); BLOCK];
    let u = &mut u[..x.g.len()];
    (0..x.window.len()).for_each(|j| add_squares(u, x.slot(j)));
    for ((u, m), &g) in u.iter_mut().zip(&mut *x.m).zip(x.g) {
        *m += one_minus_beta1 * (g - *m);
        *u = share * *u * (m_scale * *m);
    }
    descend(x.w, lr, u, shrink);
    x.new.copy_from_slice(x.g);
}

/// Of [`extents`].
fn extent<T: Real>(_: &Numbers<T>, x: Stretch<'_, T>, sums: &mut [f64]) {
    let mut h = [T::zero(); BLOCK];
    let h = &mut h[..x.g.len()];
    add_squares(h, x.g);
    for slot in x.window.iter().filter(|slot| !slot.is_empty()) {
        add_squares(h, &slot[x.start..][..x.g.len()]);
    }
    for h in h {
        sums[0] = sums[0].max(h.to_f64());
        sums[1] += h.to_f64();
    }
}

fn descend<T: Real>(w: &mut [T], lr: T, u: &[T], shrink: T) {
    w.iter_mut().zip(u).for_each(|(w, &u)| *w -= lr * u + shrink * *w);
}

fn add_squares<T: Real>(sums: &mut [T], x: &[T]) {
    sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x * x);
}

/// What a pass does to at most [`BLOCK`] elements; it may add to the sums of the chunk.
type Pass<T> = fn(&Numbers<T>, Stretch<'_, T>, &mut [f64]);

/// A tensor's numbers, rounded to its type.
struct Numbers<T> {
    scalars: [T; SCALARS],
    /// Of the slots.
    weights: Vec<T>,
    normalized: bool,
}

impl<T: Real> Numbers<T> {
    fn of(x: &Windowed) -> Self {
        let weights = x.weights.iter().map(|&weight| T::from_f64(weight)).collect();
        Numbers { scalars: x.scalars.map(T::from_f64), weights, normalized: x.normalized }
    }

    /// √v̂ + ε.
    fn divisor(&self, v: T) -> T {
        let [_, _, _, eps, root_correction, ..] = self.scalars;
        v.sqrt() / root_correction + eps
    }

    /// q and h: m̂ and g, in Adam's space divided by √v̂ + ε.
    fn start<'a>(&self, x: &Stretch<'_, T>, q: &'a mut [T], h: &'a mut [T]) -> (&'a mut [T], &'a mut [T]) {
        let m_scale = self.scalars[5];
        let (q, h) = (&mut q[..x.g.len()], &mut h[..x.g.len()]);
        for ((((q, h), &m), &v), &g) in q.iter_mut().zip(&mut *h).zip(&*x.m).zip(&*x.v).zip(x.g) {
            let divisor = if self.normalized { self.divisor(v) } else { T::one() };
            (*q, *h) = (m_scale * m / divisor, g / divisor);
        }
        (q, h)
    }

    /// Slots that count, with their weights.
    fn weighted(&self) -> impl Iterator<Item = (usize, T)> + '_ {
        self.weights.iter().copied().enumerate().filter(|(_, weight)| *weight != T::zero())
    }
}

/// Some elements of a tensor and of what is kept for it; what is not kept is empty.
struct Stretch<'a, T> {
    w: &'a mut [T],
    m: &'a mut [T],
    v: &'a mut [T],
    /// Slot `next` of Γ.
    new: &'a mut [T],
    g: &'a [T],
    /// All elements of the slots of Γ; in place of `next` nothing.
    window: &'a [&'a [T]],
    /// The first element.
    start: usize,
}

impl<T> Stretch<'_, T> {
    fn slot(&self, j: usize) -> &[T] {
        match self.window[j] {
            [] => self.new,
            slot => &slot[self.start..][..self.g.len()],
        }
    }
}

/// Does `one` for all tensors, in their order.
fn each<R: Send>(tensors: &[Windowed], one: impl Fn(&Windowed) -> Result<R> + Sync + Send) -> Result<Vec<R>> {
    let elements = tensors.iter().map(|x| x.gradient.elem_count()).sum();
    rows::map(tensors.iter().collect(), elements, one).into_iter().collect()
}

/// A pass over a tensor; the sums of its chunks.
fn walk<T: Real>(x: &Windowed, sums: usize, pass: Pass<T>) -> Result<Vec<Vec<f64>>> {
    let (rule, g) = (Numbers::of(x), values::<T>(&x.gradient)?);
    let (n, mut found) = (g.len(), Vec::new());
    let tensors = [Some(&x.weight), x.m.as_ref(), x.v.as_ref(), x.gamma.as_ref()];
    with_slices(tensors, |[w, m, v, gamma]: [&mut [T]; 4]| {
        if w.len() != n {
            bail!("a gradient of {n} elements for {} values", w.len());
        }
        // decay would move the frozen row
        let kept = w[x.frozen.clone()].to_vec();
        let (mut new, mut window): (&mut [T], Vec<&[T]>) = (&mut [], Vec::new());
        for (j, slot) in gamma.chunks_exact_mut(n.max(1)).enumerate() {
            if j == x.next {
                new = slot;
                window.push(&[]);
            } else {
                window.push(slot);
            }
        }
        let jobs = chunks([&mut *w, m, v, new], &g, CHUNK).enumerate().collect();
        found = rows::map(jobs, n, |(chunk, (written, g))| {
            let mut all = vec![0.0; sums];
            for (block, ([w, m, v, new], g)) in chunks(written, g, BLOCK).enumerate() {
                let start = chunk * CHUNK + block * BLOCK;
                pass(&rule, Stretch { w, m, v, new, g, window: &window, start }, &mut all);
            }
            all
        });
        w[x.frozen.clone()].copy_from_slice(&kept);
        Ok(())
    })?;
    Ok(found)
}

#[cfg(feature = "cuda")]
fn on_gpu(tensors: &[Windowed]) -> bool {
    tensors.first().is_some_and(|x| x.gradient.device().is_cuda())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use std::slice::from_ref;

    fn numbers(n: usize, phase: f64) -> Vec<f32> {
        (0..n).map(|i| (i as f64 * 0.37 + phase).sin() as f32).collect()
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn windowed(n: usize, gamma: &[f32]) -> Windowed {
        let zeros = || Some(tensor(&vec![0.0; n]));
        Windowed {
            weight: tensor(&numbers(n, 0.0)),
            gradient: tensor(&numbers(n, 0.5)),
            m: zeros(),
            v: zeros(),
            gamma: Some(tensor(gamma).reshape((gamma.len() / n, n)).unwrap()),
            frozen: 0..0,
            weights: Vec::new(),
            next: 0,
            normalized: true,
            scalars: [0.0; SCALARS],
        }
    }

    /// Two steps of all rules: weights and Γ, products.
    fn steps() -> Result<(Vec<f32>, Vec<Products>)> {
        let n = 3 * CHUNK + 700;
        let mut x = windowed(n, &numbers(3 * n, 1.0));
        let mut seen = Vec::new();
        for t in 1..3 {
            x.gradient = tensor(&numbers(n, f64::from(t)));
            let corrections = [(1.0 - 0.98f64.powi(t)).sqrt(), 1.0 / (1.0 - 0.9f64.powi(t))];
            x.scalars = [0.1, 0.98, 0.02, 1e-9, corrections[0], corrections[1], 0.1, 0.01];
            (x.weights, x.next) = (vec![0.5, -0.25, 0.125], t as usize);
            seen.extend(observe(from_ref(&x))?);
            apply(Rule::LowRank, from_ref(&x))?;
            x.next = 0;
            let (max, sum) = extents(from_ref(&x))?[0];
            (x.weights, x.scalars) = (vec![0.5, 0.3, 0.2], [1e-9, 1.0 / 3.0, max, sum / n as f64, 0.1, 0.0, 0.0, 0.0]);
            apply(Rule::Diagonal, from_ref(&x))?;
            (x.next, x.scalars) = (1, [0.1, 2.0, 1.0 / 3.0, 0.1, 0.0, 0.0, 0.0, 0.0]);
            apply(Rule::DiagonalLiteral, from_ref(&x))?;
        }
        Ok(([x.weight.to_vec1()?, x.gamma.unwrap().flatten_all()?.to_vec1()?].concat(), seen))
    }

    #[test]
    fn results_do_not_depend_on_threads() -> Result<()> {
        let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(steps);
        let one = run(1)?;
        assert!(one.0.iter().all(|w| w.is_finite()));
        assert!(one == run(3)?);
        Ok(())
    }

    #[test]
    fn the_products_are_those_of_plain_sums() -> Result<()> {
        let n = CHUNK + 333;
        let (g, gamma) = (numbers(n, 0.5), numbers(2 * n, 1.5));
        let scalars = [0.1, 0.98, 0.02, 1e-9, 0.02f64.sqrt(), 10.0, 0.0, 0.0];
        let x = Windowed { normalized: false, scalars, ..windowed(n, &gamma) };
        let products = &observe(from_ref(&x))?[0];
        let plain = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        for j in 0..2 {
            let expected = plain(&gamma[j * n..(j + 1) * n], &g);
            assert!((products.gradient[j] - expected).abs() < 1e-9);
            // at the first update m̂ is the gradient
            assert!((products.direction[j] - expected).abs() < 1e-3);
        }
        assert!((products.square - plain(&g, &g)).abs() < 1e-9);
        assert!((products.adam_square - n as f64).abs() < 1.0, "Adam's first direction is ±1");
        Ok(())
    }
}
