//! The window of a tensor's last gradients: which slot of Γ `[window, n]` holds which, and their Gram matrix K = Γ·Γᵀ in
//! f64, of which a step computes one row.

/// See the module. Γ itself is kept by the block, in the parameter's number type.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct History {
    pub(super) slots: usize,
    /// Gradients held.
    pub(super) filled: usize,
    /// Slot of the next gradient: that of the oldest one once all are filled.
    pub(super) next: usize,
    /// K, row-major `[slots, slots]`, symmetric to the bit.
    pub(super) gram: Vec<f64>,
}

impl History {
    pub(super) fn new(slots: usize) -> Self {
        History { slots, filled: 0, next: 0, gram: vec![0.0; slots * slots] }
    }

    /// Slots of the last `b` gradients, newest first; fewer when there are fewer.
    pub(super) fn latest(&self, b: usize) -> Vec<usize> {
        (1..=b.min(self.filled)).map(|age| (self.next + self.slots - age) % self.slots).collect()
    }

    /// K of some slots, in their order.
    pub(super) fn gram(&self, slots: &[usize]) -> Vec<f64> {
        slots.iter().flat_map(|i| slots.iter().map(move |j| self.gram[i * self.slots + j])).collect()
    }

    /// Takes in a gradient g that was just written to the next slot. `products`: each slot of Γ times g, before that;
    /// `square`: g·g.
    pub(super) fn push(&mut self, products: &[f64], square: f64) {
        let (new, slots) = (self.next, self.slots);
        for (j, &product) in products.iter().enumerate() {
            self.gram[new * slots + j] = product;
            self.gram[j * slots + new] = product;
        }
        self.gram[new * slots + new] = square;
        self.next = (new + 1) % slots;
        self.filled = (self.filled + 1).min(slots);
    }

    /// Forgets all gradients. What Γ still holds is overwritten before it is used.
    pub(super) fn clear(&mut self) {
        *self = History::new(self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dot_f64 as dot;
    use crate::rng::{stream, Purpose};

    #[test]
    fn the_gram_matrix_is_that_of_the_last_gradients_newest_first() {
        let mut rng = stream(1, Purpose::Probe, 0);
        let (slots, n) = (5, 9);
        let (mut history, mut gamma) = (History::new(slots), vec![vec![0.0; n]; slots]);
        let mut all: Vec<Vec<f64>> = Vec::new();
        for t in 0..23 {
            if t == 8 {
                history.clear();
                all.clear();
            }
            let g: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
            let products: Vec<f64> = gamma.iter().map(|column| dot(column, &g)).collect();
            gamma[history.next] = g.clone();
            history.push(&products, dot(&g, &g));
            all.insert(0, g);
            for b in 1..=slots {
                let latest = history.latest(b);
                assert_eq!(latest.len(), b.min(all.len()));
                let gram = history.gram(&latest);
                for i in 0..latest.len() {
                    assert_eq!(gamma[latest[i]], all[i]);
                    for j in 0..latest.len() {
                        assert_eq!(gram[i * latest.len() + j], dot(&all[i], &all[j]));
                    }
                }
            }
        }
    }
}
