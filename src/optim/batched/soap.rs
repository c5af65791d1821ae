//! `soap` on batches: see [`crate::optim::soap`] for formulas and paper. Each weight whole, those of one shape together;
//! the bases of all sides of one length are refreshed by one [`qr_q`]. Nothing is read back, except at the first update,
//! whose gradients go to the host: factors and eigenvectors are made there by the host form, once. The order of falling e
//! is a product with a permutation:
//!
//! ```text
//! rank of i = #{j: e_j > e_i, or e_j = e_i and j < i};  P[i, rank of i] = 1;  Q ← qr(S·Q·P).Q
//! v ← v·P on the right side, Pᵀ·v on the left
//! ```
//!
//! Refreshes come with every f-th update after the first, for all parameters at once. So this is the host form's update
//! until a direction of some parameter is not finite. Its state is then put back to the start by masks, as there; but
//! where the next gradient gives the host form eigenvectors, the basis here is I until the next refresh (`soap` is Adam in
//! it), which is then a QR step from I as any other. Other parameters do not notice. A checkpoint holds k of each
//! parameter; the largest counts for the refreshes, which is that of a parameter that was never reset. (Had all of them been,
//! a resumed run would refresh at other updates than the uninterrupted one.) At the first update of all, a gradient that is
//! not finite is an error, as on the host.
//!
//! Launches of an update for B shapes with S sides that have a basis, 23 + 14·B + 8·S, where a product is one; of a refresh
//! 19·S more, and one for each length of a side. Transformer-base (6 + 6 layers, one shared table; 512 × 512 with both
//! sides, 2048 × 512, its transpose and the table with one: B = 4, S = 5): 119, and 96 more every `precondition_frequency`
//! updates; with those of `batched` (P = 97) about 525. Counted in the code as there; not measured. A refresh needs memory
//! as large as the weights and, besides the gigabyte at most of the QR, three times its bases.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::{each, power, select, Batch, BatchRule, Directions, Plan, Saved};
use crate::config::SoapConfig;
use crate::ops::{qr_q, values, Real};
use crate::optim::matrix::Matrix;
use crate::optim::per_matrix::Gradient;
use crate::optim::soap::{takes, words, Soap as HostForm, SoapState, Way};
use crate::optim::{OptimizerState, StepContext};
use crate::params::Param;

/// The rule.
pub(in crate::optim) struct Soap {
    config: SoapConfig,
    state: Option<State>,
}

struct State {
    /// Updates after the first; none before it.
    count: Option<u64>,
    /// Updates of each parameter after its first, and 1 where that has been; f64.
    k: Tensor,
    begun: Tensor,
    batches: Vec<OfBatch>,
}

/// Matrices of one shape; no side longer than `max_precondition_dim`.
struct OfBatch {
    /// In rotated coordinates.
    m: Tensor,
    v: Tensor,
    left: Option<Side>,
    right: Option<Side>,
}

/// One side of each matrix of a batch.
struct Side {
    factor: Tensor,
    basis: Tensor,
    /// I `[1, n, n]`.
    eye: Tensor,
}

impl Soap {
    pub(in crate::optim) fn new(config: &SoapConfig) -> Self {
        Soap { config: config.clone(), state: None }
    }

    fn state(&self) -> Result<&State> {
        match &self.state {
            Some(state) => Ok(state),
            None => candle_core::bail!("soap: an update before its start"),
        }
    }

    /// The first update: waits for the gradients; the weights stay.
    fn first(&self, plan: &Plan, state: &mut State, gradients: &[Tensor]) -> Result<Directions> {
        for (of, g) in state.batches.iter_mut().zip(gradients) {
            let g = g.to_device(&Device::Cpu)?.contiguous()?;
            match plan.dtype {
                DType::F64 => of.begin::<f64>(&self.config, &g, plan)?,
                _ => of.begin::<f32>(&self.config, &g, plan)?,
            }
        }
        state.begun = state.begun.ones_like()?;
        state.count = Some(0);
        let updates = gradients.iter().map(Tensor::zeros_like).collect::<Result<_>>()?;
        let one = plan.full(1.0)?;
        Ok(Directions { updates, gains: plan.per_block(&one)?, failed: None, idle: Some(one), residual: None })
    }

    fn update(&self, plan: &Plan, state: &mut State, count: u64, gradients: &[Tensor]) -> Result<Directions> {
        let SoapConfig { beta1, beta2, eps, precondition_frequency, .. } = self.config;
        let count = count + 1;
        state.count = Some(count);
        let refreshes = count.is_multiple_of(precondition_frequency);

        state.k = (&state.k + &state.begun)?;
        // 1 where a parameter begins again: its gradient goes into the factors alone
        let idle = state.begun.affine(-1.0, 1.0)?.to_dtype(plan.dtype)?;
        let k = (&state.k + &idle.to_dtype(DType::F64)?)?;
        let left_of_1 = |beta: f64| power(beta, &k)?.affine(-1.0, 1.0);
        let size = (left_of_1(beta2)?.sqrt()? / left_of_1(beta1)?)?.to_dtype(plan.dtype)?;
        let gains = plan.per_block(&size)?;
        let shares = plan.per_block(&idle.affine(-1.0, 1.0)?)?;
        state.begun = state.begun.ones_like()?;

        let (mut updates, mut turned) = (Vec::new(), Vec::new());
        for ((of, g), share) in state.batches.iter_mut().zip(gradients).zip(&shares) {
            let share = each(share)?;
            let rotated = of.rotate(g, Way::In)?;
            of.m = ((&of.m * beta1)? + rotated.broadcast_mul(&(&share * (1.0 - beta1))?)?)?;
            of.v = ((&of.v * beta2)? + rotated.sqr()?.broadcast_mul(&(&share * (1.0 - beta2))?)?)?;
            let adam = (&of.m / (of.v.sqrt()? + eps)?)?;
            updates.push(of.rotate(&adam, Way::Out)?);
            if refreshes {
                turned.push(of.rotate(&of.m, Way::Out)?);
            }
            of.take_in(g, beta2)?;
        }
        if refreshes {
            refresh(&mut state.batches)?;
        }
        for (of, m) in state.batches.iter_mut().zip(&turned) {
            of.m = of.rotate(m, Way::In)?;
        }
        Ok(Directions { updates, gains, failed: None, idle: Some(idle), residual: None })
    }
}

/// Turns all bases by one step of the power iteration, and the order of `v` with them.
fn refresh(batches: &mut [OfBatch]) -> Result<()> {
    let mut lengths: BTreeMap<usize, Vec<(&mut Side, Tensor)>> = BTreeMap::new();
    for OfBatch { v, left, right, .. } in batches {
        if let Some(side) = left {
            let (image, order) = side.image()?;
            *v = order.t()?.matmul(v)?;
            lengths.entry(image.dim(1)?).or_default().push((side, image));
        }
        if let Some(side) = right {
            let (image, order) = side.image()?;
            *v = v.matmul(&order)?;
            lengths.entry(image.dim(1)?).or_default().push((side, image));
        }
    }
    for sides in lengths.into_values() {
        let images: Vec<&Tensor> = sides.iter().map(|(_, image)| image).collect();
        let bases = qr_q(&Tensor::cat(&images, 0)?)?;
        let mut start = 0;
        for (side, image) in sides {
            let matrices = image.dim(0)?;
            side.basis = bases.narrow(0, start, matrices)?;
            start += matrices;
        }
    }
    Ok(())
}

impl Side {
    fn new(matrices: usize, n: usize, plan: &Plan) -> Result<Self> {
        let factor = Tensor::zeros((matrices, n, n), plan.dtype, &plan.device)?;
        let eye = Tensor::eye(n, plan.dtype, &plan.device)?.unsqueeze(0)?;
        Ok(Side { basis: factor.broadcast_add(&eye)?, factor, eye })
    }

    /// `S ← β·S + (1 − β)·now`.
    fn toward(&mut self, now: Tensor, beta: f64) -> Result<()> {
        self.factor = ((&self.factor * beta)? + (now * (1.0 - beta))?)?;
        Ok(())
    }

    /// S·Q·P and P.
    fn image(&self) -> Result<(Tensor, Tensor)> {
        let image = self.factor.matmul(&self.basis)?;
        let energy = (&self.basis * &image)?.sum(1)?;
        let order = falling(&energy)?;
        Ok((image.matmul(&order)?, order))
    }

    fn reset(&mut self, kept: &Tensor, zero: &Tensor) -> Result<()> {
        self.factor = select(kept, &self.factor, zero, &self.factor)?;
        self.basis = select(kept, &self.basis, &self.eye, &self.basis)?;
        Ok(())
    }
}

/// Permutations `[b, n, n]` that put columns into the order of falling `energy [b, n]`, equal ones as they are. What is
/// not finite gives none; its parameter is reset.
fn falling(energy: &Tensor) -> Result<Tensor> {
    let n = energy.dim(1)?;
    let places = Tensor::arange(0u32, n as u32, energy.device())?;
    let earlier = places.reshape((1, n, 1))?.broadcast_gt(&places.reshape((1, 1, n))?)?;
    let (own, others) = (energy.unsqueeze(2)?, energy.unsqueeze(1)?);
    let before = (others.broadcast_gt(&own)? + others.broadcast_eq(&own)?.broadcast_mul(&earlier)?)?;
    let rank = before.to_dtype(energy.dtype())?.sum_keepdim(2)?;
    rank.broadcast_eq(&places.to_dtype(energy.dtype())?.reshape((1, 1, n))?)?.to_dtype(energy.dtype())
}

impl OfBatch {
    fn new(config: &SoapConfig, plan: &Plan, batch: &Batch) -> Result<Self> {
        let Batch { rows, columns, .. } = *batch;
        let matrices = batch.blocks.len();
        let side = |n: usize| (n <= config.max_precondition_dim).then(|| Side::new(matrices, n, plan)).transpose();
        let zeros = || Tensor::zeros((matrices, rows, columns), plan.dtype, &plan.device);
        Ok(OfBatch { m: zeros()?, v: zeros()?, left: side(rows)?, right: side(columns)? })
    }

    /// Factors of the first gradients `g`, on the host, and their eigenvectors, made there by the form for it.
    fn begin<T: Real>(&mut self, config: &SoapConfig, g: &Tensor, plan: &Plan) -> Result<()> {
        let (_, rows, columns) = g.dims3()?;
        let host = HostForm::new(config);
        let g = values::<T>(g)?;
        let states = g.par_chunks(rows * columns).with_max_len(1).map(|values| {
            let mut state = host.fresh::<T>(rows, columns);
            host.begin(&mut state, &Gradient { values, rows, columns })?;
            Ok(state)
        });
        let states: Vec<SoapState<T>> = states.collect::<Result<_>>()?;
        let joined = |of: fn(&SoapState<T>) -> &Matrix<T>| {
            let n = of(&states[0]).rows;
            let all: Vec<T> = states.iter().flat_map(|state| &of(state).data).copied().collect();
            Tensor::from_vec(all, (states.len(), n, n), &Device::Cpu)?.to_device(&plan.device)
        };
        if let Some(side) = &mut self.left {
            (side.factor, side.basis) = (joined(|state| &state.left)?, joined(|state| &state.left_basis)?);
        }
        if let Some(side) = &mut self.right {
            (side.factor, side.basis) = (joined(|state| &state.right)?, joined(|state| &state.right_basis)?);
        }
        Ok(())
    }

    /// Q_Lᵀ·x·Q_R, or Q_L·x·Q_Rᵀ; a side without a basis is left alone.
    fn rotate(&self, x: &Tensor, way: Way) -> Result<Tensor> {
        let x = match (&self.right, way) {
            (None, _) => x.clone(),
            (Some(side), Way::In) => x.matmul(&side.basis)?,
            (Some(side), Way::Out) => x.matmul(&side.basis.t()?)?,
        };
        match (&self.left, way) {
            (None, _) => Ok(x),
            (Some(side), Way::In) => side.basis.t()?.matmul(&x),
            (Some(side), Way::Out) => side.basis.matmul(&x),
        }
    }

    /// Moves the factors towards G·Gᵀ and Gᵀ·G.
    fn take_in(&mut self, g: &Tensor, beta: f64) -> Result<()> {
        if let Some(side) = &mut self.left {
            side.toward(g.matmul(&g.t()?)?, beta)?;
        }
        if let Some(side) = &mut self.right {
            side.toward(g.t()?.matmul(g)?, beta)?;
        }
        Ok(())
    }
}

impl BatchRule for Soap {
    fn name(&self) -> &'static str {
        "soap"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        takes(param)
    }

    fn start(&mut self, plan: &Plan) -> Result<()> {
        let none = Tensor::zeros(plan.taken.len(), DType::F64, &plan.device)?;
        let batches = plan.batches.iter().map(|batch| OfBatch::new(&self.config, plan, batch));
        let batches = batches.collect::<Result<_>>()?;
        self.state = Some(State { count: None, k: none.clone(), begun: none, batches });
        Ok(())
    }

    fn directions(&mut self, plan: &Plan, gradients: &[Tensor], _context: &StepContext<'_>) -> Result<Directions> {
        let Some(mut state) = self.state.take() else { candle_core::bail!("soap: an update before its start") };
        let directions = match state.count {
            None => self.first(plan, &mut state, gradients),
            Some(count) => self.update(plan, &mut state, count, gradients),
        };
        self.state = Some(state);
        directions
    }

    fn settle(&mut self, plan: &Plan, kept: &Tensor) -> Result<()> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let of_params = kept.to_dtype(DType::F64)?;
        state.k = (&state.k * &of_params)?;
        state.begun = (&state.begun * &of_params)?;
        for (of, kept) in state.batches.iter_mut().zip(plan.per_block(&kept.to_dtype(DType::U8)?)?) {
            of.m = select(&kept, &of.m, &plan.zero, &of.m)?;
            of.v = select(&kept, &of.v, &plan.zero, &of.v)?;
            for side in [&mut of.left, &mut of.right].into_iter().flatten() {
                side.reset(&kept, &plan.zero)?;
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.state = None;
    }

    fn save(&self, plan: &Plan, saved: &mut OptimizerState) -> Result<()> {
        let State { k, begun, batches, .. } = self.state()?;
        for (taken, (k, begun)) in plan.taken.iter().zip(k.to_vec1::<f64>()?.into_iter().zip(begun.to_vec1::<f64>()?)) {
            let (batch, at) = taken.blocks[0];
            let OfBatch { m, v, left, right } = &batches[batch];
            let mut add = |name: &str, x: Tensor| saved.tensors.push((format!("{}.{name}", taken.name), x));
            add("m", m.get(at)?);
            add("v", v.get(at)?);
            for (side, [factor, basis]) in [(left, ["left", "left_basis"]), (right, ["right", "right_basis"])] {
                match side {
                    Some(side) => {
                        add(factor, side.factor.get(at)?);
                        add(basis, side.basis.get(at)?);
                    }
                    // as the host form has it; an accelerator has no tensors of nothing
                    None => {
                        let nothing = Tensor::zeros((0, 0), plan.dtype, &Device::Cpu)?;
                        add(factor, nothing.clone());
                        add(basis, nothing);
                    }
                }
            }
            saved.scalars.extend([("k", k), ("begun", begun)].map(|(name, x)| (format!("{}.{name}", taken.name), x)));
        }
        Ok(())
    }

    fn load(&mut self, plan: &Plan, saved: &mut Saved) -> Result<()> {
        let (k, begun) = (saved.scalars(plan, "k")?, saved.scalars(plan, "begun")?);
        let updates = k.iter().fold(0.0, |most: f64, k| most.max(*k)) as u64;
        let of_params = |x: Vec<f64>| Tensor::from_vec(x, plan.taken.len(), &plan.device);
        let count = begun.contains(&1.0).then_some(updates);
        let (k, begun) = (of_params(k)?, of_params(begun)?);
        let with_basis = plan.per_block(&begun)?;
        let mut batches = Vec::new();
        for (batch, with_basis) in plan.batches.iter().zip(with_basis) {
            let Batch { rows, columns, .. } = *batch;
            let mut of = OfBatch::new(&self.config, plan, batch)?;
            let mut take = |name: &str, dims: [usize; 2]| {
                let one = |&(param, _): &(usize, usize)| saved.take(plan, &plan.taken[param].name, name, dims);
                Tensor::stack(&batch.blocks.iter().map(one).collect::<Result<Vec<_>>>()?, 0)
            };
            (of.m, of.v) = (take("m", [rows, columns])?, take("v", [rows, columns])?);
            let sides = [("left", "left_basis", rows, &mut of.left), ("right", "right_basis", columns, &mut of.right)];
            for (factor, basis, n, side) in sides {
                let n = if side.is_some() { n } else { 0 };
                let (factor, basis) = (take(factor, [n, n])?, take(basis, [n, n])?);
                if let Some(side) = side {
                    // before it begins, a basis is nothing on the host and I here
                    side.basis = select(&with_basis, &basis, &side.eye, &basis)?;
                    side.factor = factor;
                }
            }
            batches.push(of);
        }
        self.state = Some(State { count, k, begun, batches });
        Ok(())
    }
}
