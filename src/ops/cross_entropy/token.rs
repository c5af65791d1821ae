//! What a token costs, from the logits of its row or, with R-Drop, of its two rows; gradients take the place of logits.
//!
//! With logits z, V′ the number of ids that can be predicted (all but the masked one) and smoothing ε, a row with label y
//! costs ℓ = log Σ exp z − (1−ε)·z_y − ε/V′·Σ z (Szegedy et al. 2016, as PyTorch's `CrossEntropyLoss(label_smoothing=ε)`, but
//! the masked id takes no part), and dℓ/dz = softmax(z) − (1−ε)·1_y − ε/V′.
//!
//! R-Drop (Liang et al. 2021) has two rows with predictions p and q and costs ½·[ℓ_p + ℓ_q + α·½(KL(p‖q) + KL(q‖p))]: half
//! of what the paper minimizes, so that α means the same and gradients are of the size of one pass. With r = log p − log q
//! up to a constant and means of it under p and q, KL(p‖q) + KL(q‖p) = mean_p r − mean_q r; twice the gradient in the logits of
//! p is dℓ_p/dz + ½α·[p·(r − mean_p r) + p − q], in those of q likewise with −r.

use crate::ops::real::{self, simd, Real};

/// What is minimized of each token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Criterion {
    /// Probability spread evenly over the ids that can be predicted, in [0, 1).
    pub label_smoothing: f64,
    /// α of R-Drop. Above 0 there are two rows of states for each token: those of one pass through the model, then those of
    /// another.
    pub r_drop_alpha: f64,
}

impl Criterion {
    /// One pass.
    pub fn smoothed(label_smoothing: f64) -> Self {
        Criterion { label_smoothing, r_drop_alpha: 0.0 }
    }

    /// Rows of states for a token.
    pub fn passes(self) -> usize {
        if self.r_drop_alpha > 0.0 {
            2
        } else {
            1
        }
    }
}

/// Losses of a token: of its row, or the means of both.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Losses {
    /// ℓ.
    pub(super) loss: f64,
    /// −log p(label).
    pub(super) nll: f64,
    /// ½(KL(p‖q) + KL(q‖p)); 0 of one row.
    pub(super) r_drop_kl: f64,
}

/// What turns logits into gradients, the same for all rows.
#[derive(Clone, Copy)]
pub(super) struct Rule<T> {
    pub(super) masked: Option<usize>,
    pub(super) smoothing: T,
    /// ½α.
    pub(super) half_alpha: T,
    /// Of the gradients.
    pub(super) scale: T,
}

impl<T: Real> Rule<T> {
    fn predictable(self, z: &[T]) -> T {
        T::from_f64((z.len() - usize::from(self.masked.is_some())) as f64)
    }

    /// What every id loses in the gradient of a row: ε/V′.
    #[inline(always)]
    fn spread(self, z: &[T]) -> T {
        self.smoothing / self.predictable(z)
    }

    /// What the label loses besides, and the masked id, which has no gradient.
    #[inline(always)]
    fn finish(self, z: &mut [T], label: usize, scale: T) {
        z[label] -= scale * (T::one() - self.smoothing);
        if let Some(masked) = self.masked {
            z[masked] = T::zero();
        }
    }
}

/// What the losses need of a row of logits (−∞ at the masked id).
#[derive(Clone, Copy)]
struct Seen<T> {
    label: T,
    top: T,
    /// Of the ids that can be predicted, if it is needed.
    mean: f64,
}

impl<T: Real> Seen<T> {
    #[inline(always)]
    fn of(z: &mut [T], label: usize, rule: Rule<T>) -> Self {
        let (at_label, top) = (z[label], real::max(z));
        // without the masked id, which can not be part of a sum
        let mut sum = T::zero();
        if rule.smoothing > T::zero() {
            if let Some(masked) = rule.masked {
                z[masked] = T::zero();
            }
            sum = real::sum(z);
            if let Some(masked) = rule.masked {
                z[masked] = T::NEG_INFINITY;
            }
        }
        Seen { label: at_label, top, mean: sum.to_f64() / rule.predictable(z).to_f64() }
    }

    /// `total`: Σ exp(z − top).
    #[inline(always)]
    fn losses(self, total: T, rule: Rule<T>) -> Losses {
        let (lse, smoothing) = (self.top.to_f64() + total.to_f64().ln(), rule.smoothing.to_f64());
        let nll = lse - self.label.to_f64();
        let loss = if smoothing > 0.0 { (1.0 - smoothing) * nll + smoothing * (lse - self.mean) } else { nll };
        Losses { loss, nll, r_drop_kl: 0.0 }
    }
}

simd! {
    /// A row of logits becomes its gradient.
    pub(super) fn gradient<T: Real>(z: &mut [T], label: usize, rule: Rule<T>) -> Losses {
        let seen = Seen::of(z, label, rule);
        z.iter_mut().for_each(|z| *z = (*z - seen.top).exp());
        let total = real::sum(z);
        let (factor, shift) = (rule.scale / total, rule.scale * rule.spread(z));
        z.iter_mut().for_each(|z| *z = *z * factor - shift);
        rule.finish(z, label, rule.scale);
        seen.losses(total, rule)
    }
}

/// In place of −∞, of which there are no differences: its exp is 0 all the same.
const FAR: f64 = -1e30;

simd! {
    /// Two rows of logits become their gradients.
    pub(super) fn gradients<T: Real>(p: &mut [T], q: &mut [T], label: usize, rule: Rule<T>) -> Losses {
        let (seen_p, seen_q) = (Seen::of(p, label, rule), Seen::of(q, label, rule));
        if let Some(masked) = rule.masked {
            p[masked] = T::from_f64(FAR);
            q[masked] = T::from_f64(FAR);
        }
        let mut r = vec![T::zero(); p.len()];
        for ((p, q), r) in p.iter_mut().zip(q.iter_mut()).zip(&mut r) {
            let (a, b) = (*p - seen_p.top, *q - seen_q.top);
            (*p, *q, *r) = (a.exp(), b.exp(), a - b);
        }
        let (total_p, total_q) = (real::sum(p), real::sum(q));
        let (mean_p, mean_q) = (real::dot(p, &r) / total_p, real::dot(q, &r) / total_q);
        let half = T::from_f64(0.5);
        let (scale, spread, alpha) = (half * rule.scale, rule.spread(p), rule.half_alpha);
        let (of_p, of_q) = (T::one() / total_p, T::one() / total_q);
        for ((p, q), &r) in p.iter_mut().zip(q.iter_mut()).zip(&r) {
            let (a, b) = (*p * of_p, *q * of_q);
            *p = scale * (a - spread + alpha * (a * (r - mean_p) + a - b));
            *q = scale * (b - spread + alpha * (b * (mean_q - r) + b - a));
        }
        rule.finish(p, label, scale);
        rule.finish(q, label, scale);
        let (of_p, of_q) = (seen_p.losses(total_p, rule), seen_q.losses(total_q, rule));
        Losses {
            loss: 0.5 * (of_p.loss + of_q.loss),
            nll: 0.5 * (of_p.nll + of_q.nll),
            r_drop_kl: 0.5 * (mean_p - mean_q).to_f64(),
        }
    }
}
