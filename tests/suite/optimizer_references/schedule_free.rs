//! The three sequences of Schedule-Free AdamW, as its paper writes them.

use super::{Moment, Reference};
use nmt_train::config::{DecayAt, ScheduleFreeConfig};

/// See the module; w is y.
pub(crate) struct ScheduleFreeReference {
    config: ScheduleFreeConfig,
    k: i32,
    weight_sum: f64,
    lr_max: f64,
    x: Vec<f64>,
    z: Vec<f64>,
    v: Vec<f64>,
}

impl ScheduleFreeReference {
    pub(crate) fn new(config: ScheduleFreeConfig) -> Self {
        let (x, z, v) = (Vec::new(), Vec::new(), Vec::new());
        ScheduleFreeReference { config, k: 0, weight_sum: 0.0, lr_max: -1.0, x, z, v }
    }
}

impl Reference for ScheduleFreeReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let Moment { lr, weight_decay, .. } = *at;
        let ScheduleFreeConfig { beta1, beta2, eps, r, weight_lr_power, decay_at } = self.config;
        if self.k == 0 {
            (self.x, self.z, self.v) = (w.to_vec(), w.to_vec(), vec![0.0; w.len()]);
        }
        self.lr_max = self.lr_max.max(lr);
        let weight = f64::from(self.k + 1).powf(r) * self.lr_max.powf(weight_lr_power);
        self.weight_sum += weight;
        let c = weight / self.weight_sum;
        for i in 0..w.len() {
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g[i] * g[i];
            let denominator = (self.v[i] / (1.0 - beta2.powi(self.k + 1))).sqrt() + eps;
            let decayed = if decay_at == DecayAt::Y { w[i] } else { self.z[i] };
            self.z[i] -= lr * (weight_decay * decayed + g[i] / denominator);
            self.x[i] = (1.0 - c) * self.x[i] + c * self.z[i];
            w[i] = beta1 * self.x[i] + (1.0 - beta1) * self.z[i];
        }
        self.k += 1;
    }
}
