//! [`super::kron`] for accelerators: the same update, in products of batches, with the inverses of [`super::factors_batched`].
//!
//! Blocks of weights are of all rows and the columns of one factor; r is kept for weights with as many rows together
//! ([`Rows`]). What the host form decides by looking at t, n and G is a mask here, and P = G·H is computed at every update:
//! how often r is measured depends on the updates since a weight's state was reset. Reads: those of `factors_batched`.
//!
//! Launches of an update, for B batches, L numbers of rows, besides those of the statistics (`inputs_batched` and
//! `factors_batched`, every `statistics_freq` updates) and of `batched`:
//!
//! ```text
//! 63 + 31·B + 31·L
//! ```
//!
//! Transformer-base with blocks of 256 (B = 3, L = 3): 249. Counted in the code, not measured.

use candle_core::{DType, Result, Tensor};

use super::factors_batched::{shares, Factors};
use super::groups_batched::{GroupsBatched, Lookup};
use super::in_scope;
use super::inputs::{is_due, words};
use super::kron::SCALES_FREQ;
use super::rows_batched::Rows;
use crate::config::Hessian2Config;
use crate::optim::batched::{full, least, power, select, squares, Batch, BatchRule, Directions, Plan, Saved, Taken};
use crate::optim::{OptimizerState, StepContext};
use crate::params::{Param, ParamKind, ParamSet};

/// The rule; see the formulas of [`super::kron`].
pub(super) struct KronBatched {
    config: Hessian2Config,
    factors: GroupsBatched<Factors>,
    /// Where the blocks of each batch have theirs; made anew when groups or plan have changed.
    lookups: Option<Vec<Option<Lookup>>>,
    state: Option<State>,
}

/// See [`super::kron::KronState`].
struct State {
    m: Vec<Tensor>,
    /// r, for each number of rows.
    scales: Vec<Tensor>,
    t: Tensor,
    n: Tensor,
    q: Tensor,
    rows: Rows,
}

/// What an update of all parameters begins with; one number for each.
struct Begin {
    /// 1 where no gradient has come yet.
    idle: Tensor,
    /// 1 where r is measured, as u8.
    measured: Tensor,
    t: Tensor,
    /// Of a measurement in r.
    share: Tensor,
}

/// M ↦ (1 − ω)·M/a₀ + ω·M·H.
struct Whiten {
    h: Tensor,
    plain: Tensor,
    whole: Tensor,
}

impl Whiten {
    fn apply(&self, m: &Tensor) -> Result<Tensor> {
        m.matmul(&self.h)?.broadcast_mul(&self.whole)? + m.broadcast_mul(&self.plain)?
    }
}

impl KronBatched {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        let factors = GroupsBatched::new(config);
        KronBatched { factors, config: config.clone(), lookups: None, state: None }
    }

    fn begin(&self, plan: &Plan, state: &State, gradients: &[Tensor]) -> Result<Begin> {
        let none = &plan.zeros;
        let number = |mask: Tensor| mask.to_dtype(plan.dtype);
        let sizes = plan.per_param(&gradients.iter().map(squares).collect::<Result<Vec<_>>>()?)?;
        let fresh = number(state.n.eq(none)?)?;
        let idle = (&fresh * number(sizes.eq(none)?)?)?;
        let t = ((&state.t + 1.0)? - &idle)?;
        let divides = |by: f64| number((t.affine(1.0 / by, 0.0)?.floor()? * by)?.eq(&t)?);
        let below = |bound: f64| number(t.lt(&plan.full(bound)?)?);
        let often = ((below(20.0)? + (below(150.0)? * divides(2.0)?)?)? + divides(SCALES_FREQ)?)?;
        let measured = ((often + fresh)? * idle.affine(-1.0, 1.0)?)?.ne(none)?;
        let least = 1.0 - self.config.beta2.powf(SCALES_FREQ);
        let share = (&state.n + 1.0)?.recip()?.maximum(&plan.full(least)?)?;
        Ok(Begin { idle, measured, t, share })
    }

    /// How the blocks of a batch are whitened; none = not at all.
    fn whiten(&self, lookup: &Lookup, omega: &Tensor) -> Result<Whiten> {
        let of = |of: fn(&Factors) -> &Tensor, none: f64| {
            let none = move |factors: &Factors| full(none, &of(factors).narrow(0, 0, 1)?);
            self.factors.gather(lookup, move |factors| Ok(of(factors).clone()), none)
        };
        let scale = of(|factors| &factors.scale, 1.0)?;
        let (mut plain, mut whole) = shares(&scale, omega)?;
        if let Some(there) = &lookup.there {
            // what has no factor stays as it is
            plain = select(there, &plain, &plain.ones_like()?, &plain)?;
            whole = select(there, &whole, &whole.zeros_like()?, &whole)?;
        }
        Ok(Whiten { h: of(|factors| &factors.inverse, 0.0)?, plain, whole })
    }

    /// r and q, from Σ_j G_aj·P_aj and Σ_j P_aj² of each row.
    fn measure(
        &self,
        plan: &Plan,
        state: &mut State,
        begin: &Begin,
        (now, squared): (Vec<Tensor>, Vec<Tensor>),
    ) -> Result<()> {
        let State { rows, scales, n, q, .. } = state;
        let (shares, measured) = (rows.of_params(&begin.share)?, rows.of_params(&begin.measured)?);
        let (now, squared) = (rows.sums(&now)?, rows.sums(&squared)?);
        let mut raw = Vec::with_capacity(rows.lengths.len());
        for (i, (length, r)) in rows.lengths.iter().zip(scales.iter_mut()).enumerate() {
            let now = now[i].broadcast_mul(&length.column)?;
            let moved = (&*r + (now - &*r)?.broadcast_mul(&shares[i])?)?;
            let mean = moved.sum_keepdim(1)?.affine(1e-12 / length.rows as f64, 0.0)?;
            let largest = (moved.max_keepdim(1)? * self.config.truncation)?;
            let floor = mean.maximum(&largest)?;
            let floor = floor.maximum(&full(least(&floor), &floor)?)?;
            let moved = moved.broadcast_maximum(&floor)?;
            let sum = (&squared[i] / &moved)?.sum_keepdim(1)?;
            raw.push((sum.broadcast_mul(&length.column)? / length.rows as f64)?.squeeze(1)?);
            *r = measured[i].broadcast_as(r.shape())?.where_cond(&moved, r)?;
        }
        let raw = rows.to_params(&raw)?;
        let moved = (&*q + ((raw - &*q)? * &begin.share)?)?;
        *q = begin.measured.where_cond(&moved, q)?;
        *n = (&*n + begin.measured.to_dtype(plan.dtype)?)?;
        Ok(())
    }
}

impl BatchRule for KronBatched {
    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        let seen = matches!(param.kind, ParamKind::Table { .. }) || self.factors.knows(&param.name);
        seen && in_scope(&self.config, param.kind)
    }

    fn longest(&self, _table: bool) -> [usize; 2] {
        [usize::MAX, self.config.block_size]
    }

    fn trust(&self) -> Option<f64> {
        Some(self.config.trust)
    }

    fn needs_inputs(&self, step: u64) -> bool {
        is_due(step, &self.config)
    }

    fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        if self.factors.observe(params, context)? {
            self.lookups = None;
        }
        Ok(())
    }

    fn start(&mut self, plan: &Plan) -> Result<()> {
        let zeros = |b: &Batch| Tensor::zeros((b.blocks.len(), b.rows, b.columns), plan.dtype, &plan.device);
        let m = plan.batches.iter().map(zeros).collect::<Result<_>>()?;
        let rows = Rows::new(plan)?;
        let none = || plan.zeros.clone();
        self.state = Some(State { m, scales: rows.zeros()?, t: none(), n: none(), q: none(), rows });
        self.lookups = None;
        Ok(())
    }

    fn directions(&mut self, plan: &Plan, gradients: &[Tensor], _context: &StepContext<'_>) -> Result<Directions> {
        let beta1 = self.config.beta1;
        let lookups = match self.lookups.take() {
            Some(lookups) => lookups,
            None => self.factors.lookups(plan)?,
        };
        let Some(mut state) = self.state.take() else { candle_core::bail!("hessian2: an update before its start") };
        let begin = self.begin(plan, &state, gradients)?;
        let omega = begin.t.affine(0.01, -0.2)?.relu()?.minimum(&plan.full(1.0)?)?;
        let (mut now, mut squared, mut updates) = (Vec::new(), Vec::new(), Vec::new());
        for (b, omega) in plan.per_block(&omega)?.iter().enumerate() {
            let g = &gradients[b];
            state.m[b] = ((&state.m[b] * beta1)? + (g * (1.0 - beta1))?)?;
            let (p, update) = match &lookups[b] {
                Some(lookup) => {
                    let whiten = self.whiten(lookup, omega)?;
                    (whiten.apply(g)?, whiten.apply(&state.m[b])?)
                }
                None => (g.clone(), state.m[b].clone()),
            };
            now.push((g * &p)?.sum(2)?);
            squared.push(p.sqr()?.sum(2)?);
            updates.push(update);
        }
        self.measure(plan, &mut state, &begin, (now, squared))?;
        let roots = state.scales.iter().map(|r| r.sqrt()?.recip()).collect::<Result<Vec<_>>>()?;
        for (update, root) in updates.iter_mut().zip(state.rows.to_blocks(&roots)?) {
            *update = update.broadcast_mul(&root)?;
        }
        let one = plan.full(1.0)?;
        let correction = power(beta1, &begin.t.maximum(&one)?)?.affine(-1.0, 1.0)?;
        let gains = plan.per_block(&(state.q.sqrt()? * correction)?.recip()?)?;
        state.t = begin.t;
        (self.state, self.lookups) = (Some(state), Some(lookups));
        Ok(Directions { updates, gains, failed: None, idle: Some(begin.idle), residual: None })
    }

    fn settle(&mut self, plan: &Plan, kept: &Tensor) -> Result<()> {
        let Some(State { m, scales, t, n, q, rows }) = &mut self.state else { return Ok(()) };
        for (m, kept) in m.iter_mut().zip(plan.per_block(kept)?) {
            *m = select(&kept, m, &plan.zero, m)?;
        }
        let kept = kept.to_dtype(DType::U8)?;
        for (r, kept) in scales.iter_mut().zip(rows.of_params(&kept)?) {
            *r = kept.broadcast_as(r.shape())?.where_cond(r, &r.zeros_like()?)?;
        }
        for number in [t, n, q] {
            *number = kept.where_cond(number, &plan.zeros)?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        *self = Self::new(&self.config);
    }

    fn save(&self, plan: &Plan, saved: &mut OptimizerState) -> Result<()> {
        let Some(state) = &self.state else { return Ok(()) };
        for (param, taken) in plan.taken.iter().enumerate() {
            let m = plan.matrix(&state.m, taken)?.contiguous()?.reshape((taken.rows, taken.columns))?;
            saved.tensors.push((format!("{}.m", taken.name), m));
            saved.tensors.push((format!("{}.scales", taken.name), state.rows.one(&state.scales, param)?));
        }
        for (name, numbers) in [("t", &state.t), ("n", &state.n), ("q", &state.q)] {
            let numbers = numbers.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            let named = |(taken, x): (&Taken, f64)| (format!("{}.{name}", taken.name), x);
            saved.scalars.extend(plan.taken.iter().zip(numbers).map(named));
        }
        Ok(())
    }

    fn load(&mut self, plan: &Plan, saved: &mut Saved) -> Result<()> {
        let mut m = Vec::with_capacity(plan.taken.len());
        let mut scales = Vec::with_capacity(plan.taken.len());
        for taken in &plan.taken {
            m.push(saved.take(plan, &taken.name, "m", [taken.rows, taken.columns])?);
            scales.push(saved.take(plan, &taken.name, "scales", [taken.rows, 1])?);
        }
        let numbers = |name: &str| {
            Tensor::from_vec(saved.scalars(plan, name)?, plan.taken.len(), &plan.device)?.to_dtype(plan.dtype)
        };
        let (t, n, q) = (numbers("t")?, numbers("n")?, numbers("q")?);
        let rows = Rows::new(plan)?;
        self.state = Some(State { m: plan.gather_all(m)?, scales: rows.gather(&scales)?, t, n, q, rows });
        Ok(())
    }

    fn save_shared(&self, state: &mut OptimizerState) -> Result<()> {
        self.factors.save(state)
    }

    fn load_shared(&mut self, params: &ParamSet, saved: &mut Saved) -> Result<()> {
        let like = (params.dtype(), params.device());
        self.factors.load(like, saved)
    }

    fn health(&self) -> Result<Vec<(String, f64)>> {
        self.factors.health()
    }
}
