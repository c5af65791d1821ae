//! [`super::rot`] for accelerators: the same update, in products of batches. All bases of one side are one tensor and are
//! turned together; a block of a weight takes its basis from there by number. Whether an update turns is a count on the
//! host, as counts do not depend on what fails; bases that are not finite are put back by a mask.
//!
//! Blocks of weights are of all rows and the columns of one basis. A table that is only looked up, in a batch with one
//! that is not, has the identity for a basis. Nothing is read back. A turn takes, for a moment, about five times as much
//! memory as the bases in f64.
//!
//! Launches of an update, for B batches, S sides, besides those of the statistics (`inputs_batched`, every
//! `statistics_freq` updates) and of `batched`:
//!
//! ```text
//! 24 + 29·B;  with statistics 3·S more, when bases turn 83·S + 4·B more
//! ```
//!
//! Transformer-base with blocks of 256 (B = 3, S = 1): 111, and 98 more when bases turn. Counted in the code, not measured.

use candle_core::{DType, Result, Tensor};

use super::groups_batched::{Blocks, GroupsBatched, Identity, Lookup};
use super::inputs::{is_due, words};
use super::{in_scope, rot};
use crate::config::Hessian2Config;
use crate::optim::batched::{
    each, full, least, power, select, squares, Batch, BatchRule, Directions, Plan, Saved, Taken,
};
use crate::optim::{OptimizerState, StepContext};
use crate::params::{Param, ParamKind, ParamSet};

/// Blocks of input factors, as [`rot::Basis`]; `[members, n, n]`, eigenvalues `[members, 1, n]`.
struct Bases {
    a: Tensor,
    basis: Tensor,
    turn: Tensor,
    eigenvalues: Tensor,
    /// c of the eigenvalues.
    gains: Tensor,
    /// `turn` is of this update.
    turned: bool,
    /// `[members]`, in f64.
    residual: Tensor,
    identity: Identity,
}

impl Blocks for Bases {
    const MATRICES: &'static [(&'static str, bool)] =
        &[("a", true), ("basis", true), ("turn", true), ("eigenvalues", false)];
    const SCALARS: &'static [&'static str] = &["turned", "residual"];

    fn first(now: Tensor, config: &Hessian2Config) -> Result<Self> {
        let (members, n, _) = now.dims3()?;
        let identity = Identity::new(n, now.dtype(), now.device())?;
        let basis = identity.eye.broadcast_as((members, n, n))?.contiguous()?;
        let zeros = Tensor::zeros((members, 1, n), now.dtype(), now.device())?;
        let residual = Tensor::zeros(members, DType::F64, now.device())?;
        let (turn, eigenvalues, gains) = (basis.clone(), zeros.clone(), zeros);
        let mut first = Bases { a: now, basis, turn, eigenvalues, gains, turned: false, residual, identity };
        first.turn_bases(config)?;
        Ok(first)
    }

    fn update(
        &mut self,
        now: &Tensor,
        updates: f64,
        _: Option<&Tensor>,
        config: &Hessian2Config,
    ) -> Result<Option<Tensor>> {
        self.a = (&self.a + ((now - &self.a)? * config.input_beta.max(1.0 / updates))?)?;
        if !rot::turns(updates) {
            return Ok(None);
        }
        let seen = self.turn_bases(config)?;
        let size = (squares(&self.basis)? + squares(&self.turn)?)?.to_dtype(DType::F64)?;
        let whole = (size + seen)?.le(&full(f64::MAX, &self.residual)?)?;
        let eye = &self.identity.eye;
        self.basis = select(&whole, &self.basis, eye, &self.basis)?;
        self.turn = select(&whole, &self.turn, eye, &self.turn)?;
        Ok(Some(whole.to_dtype(DType::F64)?.affine(-1.0, 1.0)?))
    }

    fn rest(&mut self) {
        self.turned = false;
    }

    fn matrices(&self) -> Vec<&Tensor> {
        vec![&self.a, &self.basis, &self.turn, &self.eigenvalues]
    }

    fn scalars(&self) -> Result<Vec<Vec<f64>>> {
        let residual = self.residuals()?;
        Ok(vec![vec![f64::from(u8::from(self.turned)); residual.len()], residual])
    }

    fn restored(mut matrices: Vec<Tensor>, mut scalars: Vec<Vec<f64>>, config: &Hessian2Config) -> Result<Self> {
        let (Some(eigenvalues), Some(turn), Some(basis), Some(a), Some(residual)) =
            (matrices.pop(), matrices.pop(), matrices.pop(), matrices.pop(), scalars.pop())
        else {
            candle_core::bail!("hessian2: a basis without its parts");
        };
        let turned = scalars.iter().flatten().any(|turned| *turned > 0.0);
        let members = residual.len();
        let residual = Tensor::from_vec(residual, members, a.device())?;
        let gains = gains(&eigenvalues, config)?;
        let identity = Identity::new(a.dim(1)?, a.dtype(), a.device())?;
        Ok(Bases { a, basis, turn, eigenvalues, gains, turned, residual, identity })
    }

    fn residuals(&self) -> Result<Vec<f64>> {
        self.residual.to_vec1()
    }
}

impl Bases {
    /// One turn of all bases. Σ(QᵀAQ)² of each in f64 is returned: it is finite if all of that is.
    fn turn_bases(&mut self, config: &Hessian2Config) -> Result<Tensor> {
        let dtype = self.a.dtype();
        let b = self.basis.t()?.matmul(&self.a)?.matmul(&self.basis)?.to_dtype(DType::F64)?;
        let diagonal = self.identity.diagonal(&b)?;
        let mut next = (&self.basis + self.basis.matmul(&rotations(&b, &diagonal)?.to_dtype(dtype)?)?)?;
        let cube = (&self.identity.eye * 1.5)?;
        for _ in 0..3 {
            let gram = next.t()?.matmul(&next)?;
            next = next.matmul(&cube.broadcast_sub(&(gram * 0.5)?)?)?;
        }
        self.turn = self.basis.t()?.matmul(&next)?;
        self.basis = next;
        self.turned = true;
        self.eigenvalues = diagonal.to_dtype(dtype)?.unsqueeze(1)?;
        self.gains = gains(&self.eigenvalues, config)?;
        let (on, all) = (diagonal.sqr()?.sum(1)?, squares(&b)?);
        let share = (on / all.maximum(&full(f64::MIN_POSITIVE, &all)?)?)?;
        self.residual = share.affine(-1.0, 1.0)?.relu()?.sqrt()?;
        Ok(all)
    }
}

/// X of B and its diagonal, in f64 as in the host form: what is divided here may be very small.
fn rotations(b: &Tensor, diagonal: &Tensor) -> Result<Tensor> {
    let (across, down) = (diagonal.unsqueeze(1)?, diagonal.unsqueeze(2)?);
    let gap = across.broadcast_sub(&down)?;
    let soft = (across.relu()? * 0.05f64.powi(2))?.broadcast_mul(&down.relu()?)?;
    let x = ((b * &gap)? / ((gap.sqr()? + soft)? + f64::MIN_POSITIVE)?)?;
    let limit = Tensor::full(0.3f64, (1, 1, 1), x.device())?;
    let x = x.broadcast_minimum(&limit)?.broadcast_maximum(&limit.neg()?)?;
    let largest = x.abs()?.sum(2)?.max(1)?;
    x.broadcast_div(&each(&largest.maximum(&full(1.0, &largest)?)?)?)
}

/// c, with eigenvalues below `truncation` of the largest replaced by that bound.
fn gains(eigenvalues: &Tensor, config: &Hessian2Config) -> Result<Tensor> {
    let values = eigenvalues.to_dtype(DType::F64)?;
    let n = values.dim(2)? as f64;
    let floor = values.sum_keepdim(2)?.affine(config.input_damping / n, f64::MIN_POSITIVE)?;
    let least = (values.max_keepdim(2)?.relu()? * config.truncation)?;
    let kept = values.broadcast_maximum(&least)?;
    kept.broadcast_add(&floor)?.sqrt()?.recip()?.to_dtype(eigenvalues.dtype())
}

/// The rule; see the formulas of [`super::rot`].
pub(super) struct RotBatched {
    config: Hessian2Config,
    bases: GroupsBatched<Bases>,
    /// Where the blocks of each batch have theirs; made anew when groups or plan have changed.
    lookups: Option<Vec<Option<Lookup>>>,
    state: Option<State>,
}

/// Adam's moments, in the basis of the input; updates of each parameter.
struct State {
    m: Vec<Tensor>,
    v: Vec<Tensor>,
    t: Tensor,
}

impl RotBatched {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        RotBatched { bases: GroupsBatched::new(config), config: config.clone(), lookups: None, state: None }
    }

    /// Moments of a batch go into the basis of this update.
    fn turn(&self, lookup: &Lookup, (m, v): (&mut Tensor, &mut Tensor)) -> Result<()> {
        if self.bases.any(lookup, |bases| bases.turned) {
            let of = |bases: &Bases| match bases.turned {
                true => Ok(bases.turn.clone()),
                false => bases.identity.eye.broadcast_as(bases.turn.shape())?.contiguous(),
            };
            let turn = self.bases.gather(lookup, of, |bases| Ok(bases.identity.eye.clone()))?;
            *m = m.matmul(&turn)?;
            *v = v.matmul(&turn.sqr()?)?;
        }
        Ok(())
    }
}

impl BatchRule for RotBatched {
    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        let seen = matches!(param.kind, ParamKind::Table { .. }) || self.bases.knows(&param.name);
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
        if self.bases.observe(params, context)? {
            self.lookups = None;
        }
        Ok(())
    }

    fn start(&mut self, plan: &Plan) -> Result<()> {
        let zeros = |b: &Batch| Tensor::zeros((b.blocks.len(), b.rows, b.columns), plan.dtype, &plan.device);
        let all = || plan.batches.iter().map(zeros).collect::<Result<Vec<_>>>();
        self.state = Some(State { m: all()?, v: all()?, t: plan.zeros.clone() });
        self.lookups = None;
        Ok(())
    }

    fn directions(&mut self, plan: &Plan, gradients: &[Tensor], _context: &StepContext<'_>) -> Result<Directions> {
        let Hessian2Config { beta1, beta2, eps, .. } = self.config;
        let lookups = match self.lookups.take() {
            Some(lookups) => lookups,
            None => self.bases.lookups(plan)?,
        };
        let Some(mut state) = self.state.take() else { candle_core::bail!("hessian2: an update before its start") };
        state.t = (&state.t + 1.0)?;
        let rates = plan.per_block(&power(beta1, &state.t)?.affine(-1.0, 1.0)?.recip()?)?;
        let roots = plan.per_block(&power(beta2, &state.t)?.affine(-1.0, 1.0)?.sqrt()?)?;

        let (mut updates, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let moments = state.m.iter_mut().zip(&mut state.v);
        for (b, ((m, v), (g, lookup))) in moments.zip(gradients.iter().zip(&lookups)).enumerate() {
            let mut turned = g.clone();
            let mut own = None;
            if let Some(lookup) = lookup {
                self.turn(lookup, (&mut *m, &mut *v))?;
                let of = |bases: &Bases| Ok(bases.basis.clone());
                let basis = self.bases.gather(lookup, of, |bases| Ok(bases.identity.eye.clone()))?;
                turned = g.matmul(&basis)?;
                let of = |bases: &Bases| Ok(bases.gains.clone());
                let gains = self.bases.gather(lookup, of, |bases| bases.gains.narrow(0, 0, 1)?.ones_like())?;
                own = Some((basis, gains));
            }
            *m = ((&*m * beta1)? + (&turned * (1.0 - beta1))?)?;
            *v = ((&*v * beta2)? + (turned.sqr()? * (1.0 - beta2))?)?;
            let root = v.sqrt()?.broadcast_div(&each(&roots[b])?)?.affine(1.0, eps)?;
            let update = (m.broadcast_mul(&each(&rates[b])?)? / root)?;
            let Some((basis, gains)) = own else {
                let ones = Tensor::ones(g.dim(0)?, plan.dtype, &plan.device)?;
                before.push(ones.clone());
                after.push(ones);
                updates.push(update);
                continue;
            };
            let scaled = update.broadcast_mul(&gains)?;
            before.push(squares(&update)?);
            after.push(squares(&scaled)?);
            updates.push(scaled.matmul(&basis.t()?)?);
        }
        let after = plan.per_param(&after)?;
        let ratio = (plan.per_param(&before)? / after.maximum(&full(least(&after), &after)?)?)?;
        let gains = plan.per_block(&ratio.sqrt()?)?;
        (self.state, self.lookups) = (Some(state), Some(lookups));
        Ok(Directions { updates, gains, failed: None, idle: None, residual: None })
    }

    fn settle(&mut self, plan: &Plan, kept: &Tensor) -> Result<()> {
        let Some(state) = &mut self.state else { return Ok(()) };
        state.t = (&state.t * kept)?;
        let kept = plan.per_block(kept)?;
        for moments in [&mut state.m, &mut state.v] {
            for (moment, kept) in moments.iter_mut().zip(&kept) {
                *moment = select(kept, moment, &plan.zero, moment)?;
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        *self = Self::new(&self.config);
    }

    fn save(&self, plan: &Plan, saved: &mut OptimizerState) -> Result<()> {
        let Some(state) = &self.state else { return Ok(()) };
        let t = state.t.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        for (taken, t) in plan.taken.iter().zip(t) {
            for (name, batches) in [("m", &state.m), ("v", &state.v)] {
                let whole = plan.matrix(batches, taken)?.contiguous()?.reshape((taken.rows, taken.columns))?;
                saved.tensors.push((format!("{}.{name}", taken.name), whole));
            }
            saved.scalars.push((format!("{}.t", taken.name), t));
        }
        Ok(())
    }

    fn load(&mut self, plan: &Plan, saved: &mut Saved) -> Result<()> {
        let mut all = |name: &str| -> Result<Vec<Tensor>> {
            let take = |taken: &Taken| saved.take(plan, &taken.name, name, [taken.rows, taken.columns]);
            plan.gather_all(plan.taken.iter().map(take).collect::<Result<_>>()?)
        };
        let (m, v) = (all("m")?, all("v")?);
        let t = Tensor::from_vec(saved.scalars(plan, "t")?, plan.taken.len(), &plan.device)?.to_dtype(plan.dtype)?;
        self.state = Some(State { m, v, t });
        Ok(())
    }

    fn save_shared(&self, state: &mut OptimizerState) -> Result<()> {
        self.bases.save(state)
    }

    fn load_shared(&mut self, params: &ParamSet, saved: &mut Saved) -> Result<()> {
        self.bases.load((params.dtype(), params.device()), saved)
    }

    fn health(&self) -> Result<Vec<(String, f64)>> {
        self.bases.health()
    }
}

#[cfg(test)]
mod tests {
    use super::super::groups::Block;
    use super::*;
    use crate::optim::matrix::Matrix;
    use crate::rng::{stream, Purpose};
    use candle_core::Device;

    fn moments(n: usize, update: u64, member: u64) -> Vec<f64> {
        let mut rng = stream(3, Purpose::Probe, 8 * update + member);
        let x: Matrix<f64> = Matrix::from_f64(3 * n, n, &(0..3 * n * n).map(|_| rng.normal()).collect::<Vec<_>>());
        let mut a = crate::optim::matrix::product(x.t(), x.view()).data;
        if (update, member) == (7, 1) {
            a[n + 2] = f64::NAN;
        }
        a
    }

    /// More updates than turn the basis each time; one is not finite from the seventh on, and begins anew each time.
    #[test]
    fn bases_are_those_of_the_host() -> Result<()> {
        let (n, members) = (5, 2);
        let config = Hessian2Config::default();
        let now = |update: u64| -> Result<Tensor> {
            let all: Vec<f64> = (0..members).flat_map(|member| moments(n, update, member)).collect();
            Tensor::from_vec(all, (members as usize, n, n), &Device::Cpu)
        };
        let host = |update: u64, member: u64| Matrix::from_f64(n, n, &moments(n, update, member));
        let mut all = Bases::first(now(0)?, &config)?;
        let mut alone: Vec<rot::Basis<f64>> =
            (0..members).map(|member| Block::first(host(0, member), &config)).collect::<Result<_>>()?;
        for update in 1..60 {
            all.rest();
            let resets = all.update(&now(update)?, update as f64 + 1.0, None, &config)?;
            let resets = resets.map_or(Ok(vec![0.0; 2]), |resets| resets.to_vec1::<f64>())?;
            for (member, own) in alone.iter_mut().enumerate() {
                let reset = own.update(&host(update, member as u64), &config, &mut stream(0, Purpose::Probe, 0))?;
                assert_eq!((f64::from(u8::from(reset)), own.turned > 0.0), (resets[member], all.turned), "{update}");
                let pairs = [(&all.basis, &own.basis), (&all.turn, &own.turn), (&all.eigenvalues, &own.eigenvalues)];
                for (got, expected) in pairs {
                    let got = got.get(member)?.flatten_all()?.to_vec1::<f64>()?;
                    for (a, b) in got.iter().zip(&expected.data) {
                        assert!((a - b).abs() < 1e-9 * b.abs().max(1.0) || (a.is_nan() && b.is_nan()), "{a} {b}");
                    }
                }
                let residual = all.residuals()?[member];
                assert!((residual - own.residual).abs() < 1e-9 || update > 6 && member == 1, "{residual}");
            }
        }
        Ok(())
    }
}
