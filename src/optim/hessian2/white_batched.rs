//! [`super::white`] for accelerators: the same update, in products of batches. All blocks with the same sides are one
//! batch (see [`Plan`]); all factors of one length, left and right, of all blocks, are one batch `[F, n, n]` and are
//! corrected together. Nothing is read back; what the host form decides by looking is a mask or a factor here:
//!
//! ```text
//! t = 0 and rms(G) > 0: begins     H is stored as I while t = 0, and multiplied by σ = rms(G)^(−1/2), 1 later
//! t = 0 and rms(G) = 0: idle       no update, H and M stay
//! not finite: M = 0, t = 0, H = I  masks at the end
//! ```
//!
//! σ is put to small factors: Z_L = σ²·[H_R[J]·Gᵀ; …]·H_L, U = σ²·H_L·M̂·H_R, and to the pass that corrects H.
//! A table's rows in the batch are found without a list of them: with p_a = 1 for a row with a gradient and its running
//! sums s_a, the row that is chosen as number ⌊u·n⌋ of the n present ones is the number of rows with s_a ≤ ⌊u·n⌋. So the
//! draws are those of the host form, and so are the updates but for rounding; a c × c system is solved by
//! [`super::inverse`] instead of a Cholesky factor.
//!
//! Launches of an update, for B₁ shapes of weights' blocks, B₂ of tables, S lengths of factors:
//!
//! ```text
//! 45 + 26·B₁ + 68·B₂ + S·(57 + 4·16) + 4 for each batch and side          4·16: the inverse, 16 steps
//! ```
//!
//! Transformer-base with blocks of 256 and one table (B₁ = 1, B₂ = 1, S = 2, 3 batches and sides): 45 + 94 + 242 + 12,
//! about 395, 40 more every 100 updates; with those around it (`batched`) about 765, whatever the number of blocks is (672
//! there). Counted in the code as there; not measured. Random numbers go to the device in three copies: 4 normals for each
//! row and column of each block, 1.4 million there, drawn on all cores. Passes over memory as large as the weights: 7 for
//! gradient and momentum, 1 at the end and 10 in `batched`; over the factors, twice as large, 4 besides the products.

use candle_core::{DType, Result, Tensor};
use std::collections::BTreeMap;

use super::in_scope;
use super::table_rows::{Chosen, TableRows};
use super::track_batched::{correct, Corrected};
use super::white::{words, DAMPING, PROBE};
use super::white_draws::{self, corrections, draw, Draws, OfSide, Place, Sample, Segments};
use crate::config::Hessian2Config;
use crate::optim::batched::{each, least, power, select, squares, Batch, BatchRule, Directions, Plan, Saved, Taken};
use crate::optim::{OptimizerState, StepContext};
use crate::params::Param;

/// The rule; see the formulas above.
pub(super) struct WhiteBatched {
    config: Hessian2Config,
    state: Option<State>,
}

struct State {
    /// Updates of each parameter since it began.
    t: Tensor,
    /// Momentum, batch by batch.
    m: Vec<Tensor>,
    /// Of batches of tables.
    tables: Vec<Option<Table>>,
    sides: Vec<Side>,
    /// Left (none of tables) and right factors of each batch.
    places: Vec<(Option<Place>, Place)>,
}

/// A batch of tables.
struct Table {
    /// r `[tables, V, 1]`.
    scales: Tensor,
    rows: TableRows,
}

/// All factors of one length.
struct Side {
    h: Tensor,
    /// I `[1, n, n]`, and `[1, c, c]` in f64.
    eyes: (Tensor, Tensor),
    /// Places of the diagonal in a factor.
    diagonal: Tensor,
    /// The parameter of each factor.
    param_of: Tensor,
    parts: Segments,
}

/// What an update of all parameters begins with; one number for each.
struct Begin {
    /// 1 where the first gradient has come.
    begins: Tensor,
    /// 1 where none has.
    idle: Tensor,
    t: Tensor,
    /// rms(G).
    size: Tensor,
    sigma: Tensor,
    beta: Tensor,
    /// 1 / (1 − β₁ᵗ).
    correction: Tensor,
}

/// What one batch of blocks contributes.
struct OfBatch {
    update: Tensor,
    /// Part of the sketch, `[factors, k, n]`, for the left and the right side.
    sketches: (Option<Tensor>, Tensor),
    /// 1 for tables with a row present, for the right side; none = 1.
    present: Option<Tensor>,
    /// Finite if and only if r is.
    size: Option<Tensor>,
    residual: Option<Tensor>,
}

impl WhiteBatched {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        WhiteBatched { config: config.clone(), state: None }
    }

    fn state(&self) -> Result<&State> {
        match &self.state {
            Some(state) => Ok(state),
            None => candle_core::bail!("hessian2: an update before its start"),
        }
    }

    fn begin(&self, plan: &Plan, t: &Tensor, gradients: &[Tensor]) -> Result<Begin> {
        let Hessian2Config { beta1, curvature_beta, .. } = self.config;
        let size = plan.rms(&gradients.iter().map(squares).collect::<Result<Vec<_>>>()?)?;
        let fresh = t.eq(&plan.zeros)?.to_dtype(plan.dtype)?;
        let begins = (&fresh * size.ne(&plan.zeros)?.to_dtype(plan.dtype)?)?;
        let idle = (fresh - &begins)?;
        let t = ((t + 1.0)? - &idle)?;
        let one = plan.full(1.0)?;
        let sigma = begins.to_dtype(DType::U8)?.where_cond(&size.sqrt()?.recip()?, &one)?;
        let beta = (&t + 2.0)?.recip()?.maximum(&plan.full(curvature_beta)?)?;
        let correction = power(beta1, &t.maximum(&one)?)?.affine(-1.0, 1.0)?.recip()?;
        Ok(Begin { begins, idle, t, size, sigma, beta, correction })
    }

    /// A batch of weights' blocks.
    fn matrix(
        &self,
        (left, right): (&Tensor, &Tensor),
        (all_left, all_right): (&Tensor, &Tensor),
        (g, ahead): (&Tensor, &Tensor),
        sigma: &Tensor,
        draws: &white_draws::OfBatch,
    ) -> Result<OfBatch> {
        let (_, rows, columns) = g.dims3()?;
        let Sample::Factors { left: left_ids, right: right_ids } = &draws.sample else {
            candle_core::bail!("hessian2: rows of a table for a weight");
        };
        let square = each(&sigma.sqr()?)?;
        let sketch = |factors: &Tensor, ids: &Tensor, n: usize, g: &Tensor| -> Result<Tensor> {
            let chosen = factors.reshape(((), n))?.index_select(ids, 0)?;
            let chosen = chosen.reshape((g.dim(0)?, (), n))?;
            let size = (&square * (chosen.dim(1)? as f64).powf(-0.5))?;
            chosen.matmul(g)?.broadcast_mul(&size)
        };
        let z_left = sketch(all_right, left_ids, columns, &g.t()?)?;
        let z_right = sketch(all_left, right_ids, rows, g)?;
        let residual = match &draws.probe {
            None => None,
            Some(probe) => {
                let white = probe.matmul(left)?.matmul(g)?.matmul(right)?.broadcast_mul(&square)?;
                Some(residual(&white, probe)?)
            }
        };
        let update = left.matmul(&ahead.matmul(right)?)?;
        Ok(OfBatch { update, sketches: (Some(z_left), z_right), present: None, size: None, residual })
    }

    /// A batch of tables; r moves on.
    fn table(
        &self,
        (Table { scales, rows: table_rows }, right): (&mut Table, &Tensor),
        (g, ahead): (&Tensor, &Tensor),
        (sigma, beta): (&Tensor, &Tensor),
        draws: &white_draws::OfBatch,
    ) -> Result<OfBatch> {
        let (tables, rows, columns) = g.dims3()?;
        let Sample::Rows(uniform) = &draws.sample else {
            candle_core::bail!("hessian2: columns of a weight for a table");
        };
        let least = least(g);
        // Σr/V, and (r + λ·Σr/V)^(−1/2)
        let gain = |r: &Tensor| -> Result<(Tensor, Tensor)> {
            let mean = r.sum(1)?.affine(1.0 / rows as f64, 0.0)?;
            let floor = each(&mean.affine(self.config.damping, least)?)?;
            Ok((mean.squeeze(1)?, r.broadcast_add(&floor)?.sqrt()?.recip()?))
        };
        let residual = match &draws.probe {
            None => None,
            Some(probe) => {
                let (_, gain) = gain(scales)?;
                let scaled = (probe * gain.t()?)?;
                let white = scaled.matmul(g)?.matmul(right)?.broadcast_mul(&each(sigma)?)?;
                Some(self::residual(&white, probe)?)
            }
        };
        let white = g.matmul(right)?;
        let now = white.sqr()?.sum_keepdim(2)?.broadcast_mul(&(each(&sigma.sqr()?)? / columns as f64)?)?;
        *scales = (&*scales + (now - &*scales)?.broadcast_mul(&each(beta)?)?)?;
        let (mean, gain) = gain(scales)?;
        let update = ahead.matmul(right)?.broadcast_mul(&gain)?;

        let sums = g.abs()?.sum(2)?;
        let there = sums.ne(&sums.zeros_like()?)?.to_dtype(g.dtype())?;
        let Chosen { ids, count } = table_rows.choose(&there, uniform)?;
        let k = uniform.dim(1)?;
        let chosen = |x: &Tensor| -> Result<Tensor> {
            let width = x.dim(2)?;
            x.reshape(((), width))?.index_select(&ids, 0)?.reshape((tables, k, width))
        };
        let share = ((&count / (rows * k) as f64)?.sqrt()? * sigma)?;
        let sketch = chosen(g)?.broadcast_mul(&chosen(&gain)?)?.broadcast_mul(&each(&share)?)?;
        let present = Some(count.ne(&count.zeros_like()?)?.to_dtype(g.dtype())?);
        Ok(OfBatch { update, sketches: (None, sketch), present, size: Some(mean), residual })
    }

    /// Corrects all factors of one length by the sketches of its parts.
    fn track(
        &self,
        side: &Side,
        sketches: &[&Tensor],
        begin: &Begin,
        presents: &[Tensor],
        draws: &OfSide,
    ) -> Result<Corrected> {
        let n = side.parts.n;
        let of = |x: &Tensor| x.index_select(&side.param_of, 0);
        let factors = side.h.dim(0)?;
        let mean = (side.h.reshape((factors, n * n))?.index_select(&side.diagonal, 1)?.sum(1)? / n as f64)?;
        let size = (mean.recip()? * (self.config.damping / DAMPING as f64).sqrt())?;
        let damping = draws.omega.broadcast_mul(&each(&size)?)?;
        let sketch = Tensor::cat(&[&Tensor::cat(sketches, 0)?, &damping], 1)?;
        let sketch = match &draws.signs {
            Some(signs) => signs.matmul(&sketch)?,
            None => sketch,
        };
        let z = sketch.matmul(&side.h)?;
        let beta = (of(&begin.beta)? * Tensor::cat(presents, 0)?)?;
        correct(&side.h, &z, &beta, &of(&begin.sigma)?, &side.eyes.1)
    }
}

/// |‖white‖²/columns/‖probe‖² − 1| of each block.
fn residual(white: &Tensor, probe: &Tensor) -> Result<Tensor> {
    let columns = white.dim(2)? as f64;
    ((squares(white)? / squares(probe)?)? / columns)?.affine(1.0, -1.0)?.abs()
}

impl BatchRule for WhiteBatched {
    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        in_scope(&self.config, param.kind)
    }

    fn longest(&self, table: bool) -> [usize; 2] {
        [if table { usize::MAX } else { self.config.block_size }; 2]
    }

    fn trust(&self) -> Option<f64> {
        Some(self.config.trust)
    }

    fn start(&mut self, plan: &Plan) -> Result<()> {
        self.state = Some(State::new(&self.config, plan)?);
        Ok(())
    }

    fn directions(&mut self, plan: &Plan, gradients: &[Tensor], context: &StepContext<'_>) -> Result<Directions> {
        let Hessian2Config { beta1, nesterov, .. } = self.config;
        let begin = self.begin(plan, &self.state()?.t, gradients)?;
        let probe = context.step.is_multiple_of(PROBE);
        let draws = {
            let State { places, sides, .. } = self.state()?;
            let parts: Vec<&Segments> = sides.iter().map(|side| &side.parts).collect();
            draw(&self.config, plan, (places, &parts), context, probe)?
        };
        let Some(mut state) = self.state.take() else { candle_core::bail!("hessian2: an update before its start") };
        let Draws { batches: of_batches, sides: of_sides } = draws;
        let spread = |x: &Tensor| plan.per_block(x);
        let (sigma, beta, correction) = (spread(&begin.sigma)?, spread(&begin.beta)?, spread(&begin.correction)?);
        let (begins, sizes) = (spread(&begin.begins)?, spread(&begin.size)?);

        let (mut found, mut gains) = (Vec::new(), Vec::new());
        for (b, batch) in plan.batches.iter().enumerate() {
            let g = &gradients[b];
            let new = (g * (1.0 - beta1))?;
            state.m[b] = ((&state.m[b] * beta1)? + &new)?;
            let ahead = if nesterov { ((&state.m[b] * beta1)? + &new)? } else { state.m[b].clone() };
            let blocks = batch.blocks.len();
            let (left, right) = state.places[b];
            let all = |place: Place| &state.sides[place.side].h;
            let own = |place: Place| all(place).narrow(0, place.start, blocks);
            let result = match (left, &mut state.tables[b]) {
                (Some(left), _) => {
                    gains.push((&correction[b] * sigma[b].sqr()?)?);
                    let factors = (&own(left)?, &own(right)?);
                    self.matrix(factors, (all(left), all(right)), (g, &ahead), &sigma[b], &of_batches[b])?
                }
                (None, Some(table)) => {
                    gains.push((&correction[b] * &sigma[b])?);
                    let scales = &table.scales;
                    table.scales = select(&begins[b], &each(&sizes[b])?, scales, scales)?;
                    self.table((table, &own(right)?), (g, &ahead), (&sigma[b], &beta[b]), &of_batches[b])?
                }
                (None, None) => candle_core::bail!("hessian2: a weight without factors"),
            };
            found.push(result);
        }

        // finite or not: of each block, then of each parameter
        let mut marks: Vec<Tensor> = Vec::new();
        for (batch, result) in plan.batches.iter().zip(&found) {
            marks.push(match &result.size {
                Some(size) => size.clone(),
                None => Tensor::zeros(batch.blocks.len(), plan.dtype, &plan.device)?,
            });
        }
        for (side, draws) in state.sides.iter_mut().zip(&of_sides) {
            let (mut sketches, mut presents) = (Vec::new(), Vec::new());
            for &(b, left) in &side.parts.segments {
                let OfBatch { sketches: (of_left, of_right), present, .. } = &found[b];
                sketches.push(if left { of_left.as_ref().unwrap_or(of_right) } else { of_right });
                presents.push(match present {
                    Some(present) => present.clone(),
                    None => Tensor::ones(plan.batches[b].blocks.len(), plan.dtype, &plan.device)?,
                });
            }
            let Corrected { h, size } = self.track(side, &sketches, &begin, &presents, draws)?;
            side.h = h;
            let mut start = 0;
            for &(b, _) in &side.parts.segments {
                let blocks = plan.batches[b].blocks.len();
                marks[b] = (&marks[b] + size.narrow(0, start, blocks)?)?;
                start += blocks;
            }
        }
        let whole = plan.is_finite(&plan.per_param(&marks)?)?.to_dtype(plan.dtype)?;
        let failed = (whole.affine(-1.0, 1.0)? * begin.idle.affine(-1.0, 1.0)?)?;
        let residuals: Option<Vec<Tensor>> = found.iter().map(|result| result.residual.clone()).collect();
        let residual = match residuals {
            Some(residuals) => Some((plan.mean(&residuals)?, begin.idle.affine(-1.0, 1.0)?)),
            None => None,
        };
        state.t = begin.t;
        self.state = Some(state);
        let updates = found.into_iter().map(|result| result.update).collect();
        Ok(Directions { updates, gains, failed: Some(failed), idle: Some(begin.idle), residual })
    }

    fn settle(&mut self, plan: &Plan, kept: &Tensor) -> Result<()> {
        let Some(state) = &mut self.state else { return Ok(()) };
        state.t = (&state.t * kept)?;
        let begun = state.t.ne(&plan.zeros)?.to_dtype(plan.dtype)?;
        for (m, begun) in state.m.iter_mut().zip(plan.per_block(&begun)?) {
            *m = select(&begun, m, &plan.zero, m)?;
        }
        for side in &mut state.sides {
            let begun = begun.index_select(&side.param_of, 0)?;
            side.h = select(&begun, &side.h, &side.eyes.0, &side.h)?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.state = None;
    }

    fn save(&self, plan: &Plan, saved: &mut OptimizerState) -> Result<()> {
        let state = self.state()?;
        let t = state.t.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        for (taken, t) in plan.taken.iter().zip(t) {
            let mut add = |name: String, x: Tensor| saved.tensors.push((format!("{}.{name}", taken.name), x));
            add("m".to_string(), plan.matrix(&state.m, taken)?.contiguous()?.reshape((taken.rows, taken.columns))?);
            for (number, &(batch, at)) in taken.blocks.iter().enumerate() {
                let factor = |place: Place| state.sides[place.side].h.get(place.start + at);
                let (left, right) = state.places[batch];
                let left = match (left, &state.tables[batch]) {
                    (Some(left), _) => factor(left)?,
                    (None, Some(table)) => table.scales.get(at)?,
                    (None, None) => candle_core::bail!("hessian2: a weight without factors"),
                };
                add(format!("left{number}"), left);
                add(format!("right{number}"), factor(right)?);
            }
            saved.scalars.push((format!("{}.t", taken.name), t));
        }
        Ok(())
    }

    fn load(&mut self, plan: &Plan, saved: &mut Saved) -> Result<()> {
        let t = saved.scalars(plan, "t")?;
        let mut state = State::new(&self.config, plan)?;
        let take_m = |taken: &Taken| saved.take(plan, &taken.name, "m", [taken.rows, taken.columns]);
        state.m = plan.gather_all(plan.taken.iter().map(take_m).collect::<Result<_>>()?)?;
        for (taken, &t) in plan.taken.iter().zip(&t) {
            for (number, &(b, at)) in taken.blocks.iter().enumerate() {
                let Batch { rows, columns, table, .. } = plan.batches[b];
                let width = if table { 1 } else { rows };
                let left = saved.take(plan, &taken.name, &format!("left{number}"), [rows, width])?;
                let right = saved.take(plan, &taken.name, &format!("right{number}"), [columns, columns])?;
                // before it begins, a factor is the identity here and anything there
                if t == 0.0 {
                    continue;
                }
                let (left_place, right_place) = state.places[b];
                match (left_place, &state.tables[b]) {
                    (Some(place), _) => state.set_factor(place, at, &left)?,
                    (None, Some(table)) => table.scales.slice_set(&left.unsqueeze(0)?, 0, at)?,
                    (None, None) => (),
                }
                state.set_factor(right_place, at, &right)?;
            }
        }
        state.t = Tensor::from_vec(t, plan.taken.len(), &plan.device)?.to_dtype(plan.dtype)?;
        self.state = Some(state);
        Ok(())
    }
}

impl State {
    /// Before the first update.
    fn new(config: &Hessian2Config, plan: &Plan) -> Result<Self> {
        let zeros = |shape: (usize, usize, usize)| Tensor::zeros(shape, plan.dtype, &plan.device);
        let mut lengths: BTreeMap<usize, Vec<(usize, bool)>> = BTreeMap::new();
        for (b, batch) in plan.batches.iter().enumerate() {
            if !batch.table {
                lengths.entry(batch.rows).or_default().push((b, true));
            }
            lengths.entry(batch.columns).or_default().push((b, false));
        }
        let mut found: Vec<(Option<Place>, Option<Place>)> = vec![(None, None); plan.batches.len()];
        let mut sides = Vec::new();
        for (index, (n, segments)) in lengths.into_iter().enumerate() {
            let mut param_of: Vec<u32> = Vec::new();
            for &(b, left) in &segments {
                let place = Place { side: index, start: param_of.len() };
                *(if left { &mut found[b].0 } else { &mut found[b].1 }) = Some(place);
                param_of.extend(plan.batches[b].blocks.iter().map(|&(param, _)| param as u32));
            }
            let (factors, c) = (param_of.len(), corrections(config, n));
            let eye = Tensor::eye(n, plan.dtype, &plan.device)?.unsqueeze(0)?;
            let diagonal: Vec<u32> = (0..n).map(|i| (i * (n + 1)) as u32).collect();
            sides.push(Side {
                // in memory of its own: a load writes into it
                h: (zeros((factors, n, n))?.broadcast_add(&eye))?,
                eyes: (eye, Tensor::eye(c, DType::F64, &plan.device)?.unsqueeze(0)?),
                diagonal: Tensor::from_vec(diagonal, n, &plan.device)?,
                param_of: Tensor::from_vec(param_of, factors, &plan.device)?,
                parts: Segments { n, segments },
            });
        }
        let mut places = Vec::new();
        for (left, right) in found {
            let Some(right) = right else { candle_core::bail!("hessian2: a weight without factors") };
            places.push((left, right));
        }
        let m = |b: &Batch| zeros((b.blocks.len(), b.rows, b.columns));
        let table = |b: &Batch| {
            let rows = TableRows::new(b.blocks.len(), b.rows, plan.dtype, &plan.device)?;
            Ok(Table { scales: zeros((b.blocks.len(), b.rows, 1))?, rows })
        };
        let table = |b: &Batch| b.table.then(|| table(b)).transpose();
        Ok(State {
            t: Tensor::zeros(plan.taken.len(), plan.dtype, &plan.device)?,
            m: plan.batches.iter().map(m).collect::<Result<_>>()?,
            tables: plan.batches.iter().map(table).collect::<Result<_>>()?,
            sides,
            places,
        })
    }

    fn set_factor(&self, place: Place, at: usize, h: &Tensor) -> Result<()> {
        self.sides[place.side].h.slice_set(&h.unsqueeze(0)?, 0, place.start + at)
    }
}
