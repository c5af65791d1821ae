//! `schedule-free`: Schedule-Free AdamW (Defazio et al. 2024, arXiv 2405.15682; the form of its authors'
//! `schedule_free` package).
//!
//! Three sequences: z takes AdamW's steps without momentum, x is a running mean of z, and gradients are taken between
//! them, at y. Training goes on at y; what is validated, tested and saved as the model is x. With g the gradient at y,
//! k = 0, 1, … the updates done:
//!
//! ```text
//! lrmax ← max(lrmax, lr) ;  s = (k+1)^r · lrmax^p ;  S ← S + s ;  c = s/S
//! v ← β₂·v + (1 − β₂)·g² ;  d = g / (√v/√(1 − β₂^(k+1)) + ε) + wd·y        wd·z with decay_at = "z"
//! z ← z − lr·d ;  x ← (1 − c)·x + c·z ;  y ← β₁·x + (1 − β₁)·z
//! ```
//!
//! Only y (the parameters), z and v are stored: x = y + (1 − 1/β₁)·(z − y), and with the old z
//!
//! ```text
//! y ← y + c·(z − y) + lr·(β₁·(1 − c) − 1)·d ;  z ← z − lr·d
//! ```
//!
//! lr is the schedule's rate; warm-up belongs there (`schedule.warmup_updates`), and decay is replaced by the average.

use candle_core::{bail, Result, Tensor};

use super::average::Toward;
use super::inplace::{frozen, owned, updates, Elementwise, Real};
use super::kept::{zeros, Kept};
use super::saved::Saved;
use super::{Decay, Gradients, Optimizer, OptimizerState, StepContext};
use crate::config::{DecayAt, ScheduleFreeConfig};
use crate::params::{Param, ParamKind, ParamSet};

/// See the module.
pub struct ScheduleFree {
    config: ScheduleFreeConfig,
    decay: Decay,
    lr: f64,
    counters: Counters,
    /// z and v.
    kept: Kept<2>,
    /// y of all parameters, in their order, while these hold x.
    aside: Option<Vec<Tensor>>,
}

#[derive(Clone, Copy, Default)]
struct Counters {
    updates: u64,
    /// S.
    weight_sum: f64,
    lr_max: f64,
}

impl ScheduleFree {
    /// `lr`: for [`Optimizer::describe`] only.
    pub fn new(config: ScheduleFreeConfig, decay: Decay, lr: f64) -> Self {
        let (counters, kept) = (Counters::default(), Kept::new(["z", "v"]));
        ScheduleFree { config, decay, lr, counters, kept, aside: None }
    }

    /// Counts an update; returns the share c of the new z in the mean.
    fn share(&mut self, lr: f64) -> f64 {
        let Counters { updates, weight_sum, lr_max } = &mut self.counters;
        *updates += 1;
        *lr_max = lr_max.max(lr);
        let weight = (*updates as f64).powf(self.config.r) * lr_max.powf(self.config.weight_lr_power);
        *weight_sum += weight;
        if *weight_sum > 0.0 {
            weight / *weight_sum
        } else {
            0.0
        }
    }

    /// Of [`Step`].
    fn scalars(&self, lr: f64, share: f64, kind: ParamKind) -> [f64; 9] {
        let ScheduleFreeConfig { beta1, beta2, eps, decay_at, .. } = self.config;
        let root_correction = (1.0 - beta2.powf(self.counters.updates as f64)).sqrt();
        let decay = self.decay.of(kind);
        let (decay_y, decay_z) = if decay_at == DecayAt::Y { (decay, 0.0) } else { (0.0, decay) };
        let lr_y = lr * (beta1 * (1.0 - share) - 1.0);
        [beta2, 1.0 - beta2, eps, root_correction, decay_y, decay_z, share, lr_y, lr]
    }

    /// x of a parameter in new memory.
    fn average(&self, param: &Param) -> Result<Tensor> {
        let x = param.var.copy()?;
        if let Some([z, _]) = self.kept.get(param) {
            updates(|updates| updates.add(Toward, [1.0 - 1.0 / self.config.beta1], 0..0, [&x], z))?;
        }
        Ok(x)
    }
}

impl Optimizer for ScheduleFree {
    fn name(&self) -> &'static str {
        "schedule-free"
    }

    fn describe(&self) -> String {
        let ScheduleFreeConfig { beta1, beta2, eps, r, weight_lr_power, decay_at } = &self.config;
        let mut text = format!("schedule-free, lr {}, betas ({beta1}, {beta2}), eps {eps:e}", self.lr);
        if (*r, *weight_lr_power) != (0.0, 2.0) {
            text += &format!(", r {r}, weight_lr_power {weight_lr_power}");
        }
        let at = if *decay_at == DecayAt::Y { " at y" } else { " at z" };
        text + &self.decay.told() + if self.decay == Decay::default() { "" } else { at }
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        if self.aside.is_some() {
            bail!("schedule-free trains at y, but the parameters hold its averages");
        }
        let share = self.share(context.lr);
        updates(|updates| {
            for (param, gradient) in params.iter().zip(&gradients.tensors) {
                let scalars = self.scalars(context.rate(param.kind), share, param.kind);
                let start = |name: &str| if name == "z" { owned(&param.var) } else { zeros(param) };
                let [z, v] = self.kept.of(param, start)?;
                updates.add(Step, scalars, frozen(param), [&param.var, z, v], gradient)?;
            }
            Ok(())
        })
    }

    fn reset(&mut self) {
        (self.counters, self.aside) = (Counters::default(), None);
        self.kept.clear();
    }

    fn swap_averages(&mut self, params: &ParamSet) -> Result<()> {
        if let Some(aside) = self.aside.take() {
            return params.iter().zip(&aside).try_for_each(|(param, y)| param.var.set(y));
        }
        let mut aside = Vec::with_capacity(params.len());
        for param in params {
            let x = self.average(param)?;
            aside.push(param.var.copy()?);
            param.var.set(&x)?;
        }
        self.aside = Some(aside);
        Ok(())
    }

    fn averages(&self, params: &ParamSet) -> Result<Option<Vec<(String, Tensor)>>> {
        if self.aside.is_some() {
            bail!("the parameters hold the averages already");
        }
        let named = |param: &Param| Ok((param.name.clone(), self.average(param)?));
        params.iter().map(named).collect::<Result<_>>().map(Some)
    }

    fn state(&self) -> Result<OptimizerState> {
        let Counters { updates, weight_sum, lr_max } = self.counters;
        let mut state = OptimizerState::of([("t", updates as f64), ("weight_sum", weight_sum), ("lr_max", lr_max)]);
        self.kept.save(&mut state);
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let mut saved = Saved::whole(state);
        let updates = saved.scalar("t")? as u64;
        let counters = Counters { updates, weight_sum: saved.scalar("weight_sum")?, lr_max: saved.scalar("lr_max")? };
        self.kept.load(params.iter().filter(|_| updates > 0), &mut saved)?;
        (self.counters, self.aside) = (counters, None);
        Ok(())
    }
}

/// The update of one element.
#[derive(Clone, Copy)]
struct Step;

impl Elementwise<3, 9> for Step {
    const NAME: &'static str = "schedule_free";

    fn element<T: Real>(scalars: [T; 9], [y, z, v]: [T; 3], g: T) -> [T; 3] {
        let [beta2, one_minus_beta2, eps, root_correction, decay_y, decay_z, share, lr_y, lr] = scalars;
        let v = beta2 * v + one_minus_beta2 * (g * g);
        let d = g / (v.sqrt() / root_correction + eps) + (decay_y * y + decay_z * z);
        [y + (share * (z - y) + lr_y * d), z - lr * d, v]
    }
}

#[cfg(test)]
mod tests {
    use super::super::inplace::tests::agrees_on_gpu;
    use super::*;
    use crate::params::{Init, ParamKind};
    use candle_core::{DType, Device};

    fn params() -> Result<ParamSet> {
        let mut params = ParamSet::new(1, DType::F64, &Device::Cpu);
        params.add("a", ParamKind::Matrix, &[3, 40], Init::Normal(1.0))?;
        params.add_with_frozen_row("e", ParamKind::Table { tied: true }, &[5, 4], Init::Normal(1.0), Some(2))?;
        Ok(params)
    }

    fn values(params: &ParamSet) -> Vec<Vec<f64>> {
        params.iter().map(|p| p.var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    /// Gradients that depend on the step and on y, zero in the frozen row.
    fn gradients(params: &ParamSet, step: u64) -> Result<Gradients> {
        let of = |p: &Param| p.var.affine(0.3 + step as f64, 0.7 * step as f64)?.sin();
        let gradients = Gradients { tensors: params.iter().map(of).collect::<Result<_>>()? };
        gradients.clear_frozen_rows(params)?;
        Ok(gradients)
    }

    /// Warm-up, then constant.
    fn at(step: u64) -> StepContext<'static> {
        StepContext::new(0.01 * ((step + 1) as f64 / 10.0).min(1.0), step, 1)
    }

    #[test]
    fn the_stored_pair_equals_the_three_sequences_of_the_paper() -> Result<()> {
        for (decay_at, r) in [(DecayAt::Y, 0.0), (DecayAt::Z, 1.5)] {
            let config = ScheduleFreeConfig { decay_at, r, ..ScheduleFreeConfig::default() };
            let params = params()?;
            let mut optimizer = ScheduleFree::new(config.clone(), Decay { weights: 0.1, tables: 0.0 }, 0.01);
            // z = x = y, v = 0
            let mut x = values(&params);
            let (mut y, mut z) = (x.clone(), x.clone());
            let mut v: Vec<Vec<f64>> = x.iter().map(|x| vec![0.0; x.len()]).collect();
            let (mut sum, mut lr_max) = (0.0, -1.0);
            for step in 0..100 {
                let gradients = gradients(&params, step)?;
                let lr = at(step).lr;
                lr_max = lr.max(lr_max);
                let weight = ((step + 1) as f64).powf(r) * lr_max * lr_max;
                sum += weight;
                let c = weight / sum;
                for p in 0..2 {
                    let g: Vec<f64> = gradients.tensors[p].flatten_all()?.to_vec1()?;
                    let decay = if p == 0 { 0.1 } else { 0.0 };
                    for i in 0..g.len() {
                        v[p][i] = 0.999 * v[p][i] + 0.001 * g[i] * g[i];
                        let denominator = (v[p][i] / (1.0 - 0.999f64.powi(step as i32 + 1))).sqrt() + 1e-8;
                        let decayed = if decay_at == DecayAt::Y { y[p][i] } else { z[p][i] };
                        z[p][i] -= lr * decay * decayed;
                        z[p][i] -= lr * g[i] / denominator;
                        x[p][i] = (1.0 - c) * x[p][i] + c * z[p][i];
                        y[p][i] = 0.9 * x[p][i] + 0.1 * z[p][i];
                    }
                }
                optimizer.step(&params, &gradients, &at(step))?;
            }
            let trained = values(&params);
            optimizer.swap_averages(&params)?;
            for (got, expected) in [(trained, y), (values(&params), x)] {
                for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
                    assert!((got - expected).abs() < 1e-12, "{got} {expected}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn averages_swap_in_and_out_bit_for_bit_and_are_what_is_saved() -> Result<()> {
        let params = params()?;
        let mut optimizer = ScheduleFree::new(ScheduleFreeConfig::default(), Decay { weights: 0.1, tables: 0.0 }, 0.01);
        let start = values(&params);
        for step in 0..20 {
            optimizer.step(&params, &gradients(&params, step)?, &at(step))?;
        }
        let trained = values(&params);
        let saved = optimizer.averages(&params)?.unwrap();
        optimizer.swap_averages(&params)?;
        let averaged = values(&params);
        assert!(optimizer.averages(&params).is_err());
        assert!(optimizer.step(&params, &gradients(&params, 20)?, &at(20)).is_err());
        optimizer.swap_averages(&params)?;
        assert_eq!(values(&params), trained);
        assert_ne!(averaged, trained);
        let saved: Vec<Vec<f64>> = saved.iter().map(|(_, x)| x.flatten_all()?.to_vec1()).collect::<Result<_>>()?;
        assert_eq!(saved, averaged);
        assert_eq!(averaged[1][8..12], start[1][8..12], "the frozen row of a table");
        // a reset while the averages are in goes on from them
        optimizer.swap_averages(&params)?;
        optimizer.reset();
        assert_eq!(values(&params), averaged);
        optimizer.step(&params, &gradients(&params, 0)?, &at(0))
    }

    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn the_kernel_does_the_same() -> Result<()> {
        agrees_on_gpu(Step, [0.999, 1.0 - 0.999, 1e-8, 0.5, 0.1, 0.2, 0.3, -0.02, 0.01])
    }
}
