//! Batches of many matrices `[count, rows, columns]` in tensor operations, which run anywhere; nothing is read back but where
//! it says so. A number for each row is a batch of columns.

use candle_core::{bail, DType, Device, Result, Tensor};
use std::borrow::Cow;
use std::ops::Range;

use super::blocks::{copy_into, Maps};
use super::numbers::{full, Numbers};
use super::{present, Matrix, Mats, Number, Place, Start, View};
use crate::ops::{inverses, qr_q};
use crate::optim::plan::{Plan, Shape, Weight};
use crate::params::ParamSet;
use crate::rng::Stream;

/// See the module. Of nothing (a side of 0) it is on the CPU: accelerators have no tensors of nothing.
#[derive(Clone)]
pub(in crate::optim) struct Batch(pub(super) Tensor);

/// A batch, or its transpose.
#[derive(Clone, Copy)]
pub(in crate::optim) struct Seen<'a> {
    tensor: &'a Tensor,
    transposed: bool,
}

impl View for Seen<'_> {
    fn rows(&self) -> usize {
        self.tensor.dims()[if self.transposed { 2 } else { 1 }]
    }

    fn columns(&self) -> usize {
        self.tensor.dims()[if self.transposed { 1 } else { 2 }]
    }

    fn t(self) -> Self {
        Seen { transposed: !self.transposed, ..self }
    }
}

impl Seen<'_> {
    fn tensor(&self) -> Result<Cow<'_, Tensor>> {
        Ok(if self.transposed { Cow::Owned(self.tensor.t()?) } else { Cow::Borrowed(self.tensor) })
    }
}

impl Batch {
    fn each(&self, numbers: &Numbers) -> Result<Tensor> {
        numbers.each(self.0.dtype())
    }
}

/// `on` where the mask is 1, `off` elsewhere; both are broadcast to the shape of `of`.
pub(super) fn select(mask: &Numbers, on: &Tensor, off: &Tensor, of: &Tensor) -> Result<Tensor> {
    let mask = mask.each(DType::U8)?.broadcast_as(of.shape())?;
    mask.where_cond(&on.broadcast_as(of.shape())?, &off.broadcast_as(of.shape())?)
}

impl Mats for Batch {
    type Number = Numbers;
    type View<'a> = Seen<'a>;
    /// Rows of all matrices below each other `[count·k]`, u32.
    type Rows = Tensor;
    /// Permutations `[count, n, n]`.
    type Order = Tensor;
    type Held<'a> = Vec<Tensor>;
    type Maps = Maps;

    const ALONE: bool = false;

    fn least(place: &Place) -> f64 {
        match place.dtype {
            DType::F64 => f64::MIN_POSITIVE,
            _ => f64::from(f32::MIN_POSITIVE),
        }
    }

    fn start(start: Start, count: usize, [rows, columns]: [usize; 2], place: &Place) -> Result<Self> {
        let device = if rows * columns == 0 { &Device::Cpu } else { &place.device };
        let (shape, dtype) = ((count, rows, columns), place.dtype);
        Ok(Batch(match start {
            Start::Zeros => Tensor::zeros(shape, dtype, device)?,
            Start::Ones => Tensor::ones(shape, dtype, device)?,
            Start::Identity if rows * columns == 0 => Tensor::zeros(shape, dtype, device)?,
            Start::Identity => Tensor::eye(rows, dtype, device)?.broadcast_as(shape)?.contiguous()?,
        }))
    }

    fn from_values(values: Vec<f64>, [rows, columns]: [usize; 2], place: &Place) -> Result<Self> {
        let shape = (values.len() / (rows * columns).max(1), rows, columns);
        Ok(Batch(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(place.dtype)?.to_device(&place.device)?))
    }

    fn from_tensors(tensors: Vec<Tensor>, _place: &Place) -> Result<Self> {
        Ok(Batch(Tensor::stack(&tensors, 0)?))
    }

    fn to_tensor(&self, member: usize) -> Result<Tensor> {
        self.0.get(member)
    }

    fn of(x: Seen<'_>) -> Result<Self> {
        // later operations make new tensors: this one is not written to
        Ok(Batch(x.tensor()?.contiguous()?))
    }

    fn view(&self) -> Seen<'_> {
        Seen { tensor: &self.0, transposed: false }
    }

    fn times(&self, by: f64) -> Result<Self> {
        Ok(Batch((&self.0 * by)?))
    }

    fn product(a: Seen<'_>, b: Seen<'_>) -> Result<Self> {
        Ok(Batch(a.tensor()?.matmul(&*b.tensor()?)?))
    }

    fn add_product(&mut self, alpha: f64, a: Seen<'_>, b: Seen<'_>) -> Result<()> {
        let product = a.tensor()?.matmul(&*b.tensor()?)?;
        self.0 = (&self.0 + (product * alpha)?)?;
        Ok(())
    }

    fn add_symmetric(&mut self, alpha: f64, a: Seen<'_>, b: Seen<'_>) -> Result<()> {
        let product = a.tensor()?.matmul(&*b.tensor()?)?;
        self.0 = (&self.0 + ((&product + product.t()?)? * (0.5 * alpha))?)?;
        Ok(())
    }

    fn gram(a: Seen<'_>) -> Result<Self> {
        Self::product(a, a.t())
    }

    fn add(&mut self, alpha: &Numbers, x: Seen<'_>) -> Result<()> {
        self.0 = (&self.0 + x.tensor()?.broadcast_mul(&self.each(alpha)?)?)?;
        Ok(())
    }

    fn scale(&mut self, by: &Numbers) -> Result<()> {
        self.0 = self.0.broadcast_mul(&self.each(by)?)?;
        Ok(())
    }

    fn toward(&mut self, target: Seen<'_>, share: &Numbers) -> Result<()> {
        let rest = (&*target.tensor()? - &self.0)?;
        self.0 = (&self.0 + rest.broadcast_mul(&self.each(share)?)?)?;
        Ok(())
    }

    fn toward_and_ahead(&mut self, target: Seen<'_>, share: &Numbers, ahead: &Numbers, size: &Numbers) -> Result<Self> {
        self.toward(target, share)?;
        let mut result = self.copy()?;
        result.toward(target, ahead)?;
        result.scale(size)?;
        Ok(result)
    }

    fn toward_squares(&mut self, x: Seen<'_>, share: &Numbers) -> Result<()> {
        let rest = (x.tensor()?.sqr()? - &self.0)?;
        self.0 = (&self.0 + rest.broadcast_mul(&self.each(share)?)?)?;
        Ok(())
    }

    fn over_root(&mut self, v: &Self, eps: f64, size: &Numbers) -> Result<()> {
        self.0 = (self.0.broadcast_mul(&self.each(size)?)? / (v.0.sqrt()? + eps)?)?;
        Ok(())
    }

    fn above(self, below: &Self) -> Result<Self> {
        Ok(Batch(Tensor::cat(&[&self.0, &below.0], 1)?))
    }

    fn columns_of(x: Seen<'_>, range: Range<usize>) -> Result<Self> {
        Ok(Batch(x.tensor()?.narrow(2, range.start, range.len())?.contiguous()?))
    }

    fn set_columns(&mut self, range: Range<usize>, part: &Self) -> Result<()> {
        let (end, columns) = (range.end, self.0.dim(2)?);
        let mut parts = vec![part.0.clone()];
        if range.start > 0 {
            parts.insert(0, self.0.narrow(2, 0, range.start)?);
        }
        if end < columns {
            parts.push(self.0.narrow(2, end, columns - end)?);
        }
        self.0 = Tensor::cat(&parts, 2)?.contiguous()?;
        Ok(())
    }

    fn gather<'a>(parts: &[(&'a Self, usize)], place: &Place) -> Result<Cow<'a, Self>> {
        let [(first, _), ..] = parts else { bail!("a batch of nothing") };
        if parts.iter().all(|(batch, _)| std::ptr::eq(*batch, *first)) {
            let same = first.0.dim(0)? == parts.len() && parts.iter().enumerate().all(|(i, (_, at))| i == *at);
            if same {
                return Ok(Cow::Borrowed(first));
            }
            let ids: Vec<u32> = parts.iter().map(|(_, at)| *at as u32).collect();
            let ids = Tensor::from_vec(ids, parts.len(), &place.device)?;
            return Ok(Cow::Owned(Batch(first.0.index_select(&ids, 0)?)));
        }
        let parts = parts.iter().map(|(batch, at)| batch.0.narrow(0, *at, 1)).collect::<Result<Vec<_>>>()?;
        Ok(Cow::Owned(Batch(Tensor::cat(&parts, 0)?)))
    }

    fn moments(x: &Tensor, rows: Option<&[usize]>, ranges: &[Range<usize>], place: &Place) -> Result<Vec<Self>> {
        let mut x = x.detach().contiguous()?;
        if let Some(rows) = rows {
            let ids: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
            x = x.index_select(&Tensor::from_vec(ids, rows.len(), &place.device)?, 0)?;
        }
        let x = x.to_dtype(place.dtype)?;
        let (count, width) = x.dims2()?;
        let of = |x: Tensor| x.t()?.matmul(&x)? * (1.0 / count.max(1) as f64);
        let even = ranges.iter().all(|range| range.len() == ranges[0].len());
        if even {
            let parts = x.reshape((count, ranges.len(), width / ranges.len()))?.permute((1, 0, 2))?.contiguous()?;
            let moments = of(parts)?;
            return (0..ranges.len()).map(|i| Ok(Batch(moments.narrow(0, i, 1)?))).collect();
        }
        let part = |range: &Range<usize>| x.narrow(1, range.start, range.len())?.contiguous()?.unsqueeze(0);
        ranges.iter().map(|range| Ok(Batch(of(part(range)?)?))).collect()
    }

    fn squares(x: Seen<'_>) -> Result<Numbers> {
        // rows first, which keeps many processors busy with few large blocks
        Ok(Numbers::new(x.tensor.sqr()?.sum(2)?.sum(1)))
    }

    fn mean_diagonal(&self) -> Result<Numbers> {
        let (count, n, _) = self.0.dims3()?;
        let every: Vec<u32> = (0..n).map(|i| (i * n + i) as u32).collect();
        let diagonal = Tensor::from_vec(every, n, self.0.device())?;
        Ok(Numbers::new(self.0.contiguous()?.reshape((count, n * n))?.index_select(&diagonal, 1)?.sum(1)) / n as f64)
    }

    fn toward_row_means(&mut self, a: Seen<'_>, b: Seen<'_>, share: &Numbers) -> Result<()> {
        let now = (&*a.tensor()? * &*b.tensor()?)?.sum_keepdim(2)?.affine(1.0 / a.columns() as f64, 0.0)?;
        self.0 = (&self.0 + (now - &self.0)?.broadcast_mul(&self.each(share)?)?)?;
        Ok(())
    }

    fn sum_and_largest(&self) -> Result<(Numbers, Numbers)> {
        let of = |x: Result<Tensor>| Numbers::new(x.and_then(|x| x.flatten_all()));
        Ok((of(self.0.sum_keepdim(1)), of(self.0.max_keepdim(1))))
    }

    fn raise(&mut self, floor: &Numbers) -> Result<()> {
        self.0 = self.0.broadcast_maximum(&self.each(floor)?)?;
        Ok(())
    }

    fn squares_over(&self, p: Seen<'_>) -> Result<Numbers> {
        Ok(Numbers::new((p.tensor()?.sqr()?.sum_keepdim(2)? / &self.0)?.sum(2)?.sum(1)))
    }

    fn powers(&self, floor: &Numbers, power: f64, size: &Numbers) -> Result<Self> {
        let raised = self.0.broadcast_add(&self.each(floor)?)?.powf(power)?;
        Ok(Batch(raised.broadcast_mul(&self.each(size)?)?))
    }

    fn scale_rows(&mut self, by: &Self) -> Result<()> {
        self.0 = self.0.broadcast_mul(&by.0)?;
        Ok(())
    }

    fn choice(draws: Vec<Vec<usize>>, below: usize, place: &Place) -> Result<Tensor> {
        let all = draws.iter().enumerate().flat_map(|(at, rows)| rows.iter().map(move |row| (at * below + row) as u32));
        let all: Vec<u32> = all.collect();
        let count = all.len();
        Tensor::from_vec(all, count, &place.device)
    }

    fn choice_of_present(x: Seen<'_>, k: usize, streams: &mut [Stream]) -> Result<(Tensor, Numbers)> {
        present::choose(x.tensor, k, streams)
    }

    fn rows_at(x: Seen<'_>, rows: &Tensor) -> Result<Self> {
        let (count, _, columns) = x.tensor.dims3()?;
        let chosen = x.tensor.contiguous()?.reshape(((), columns))?.index_select(rows, 0)?;
        Ok(Batch(chosen.reshape((count, (), columns))?))
    }

    fn restart(&mut self, mask: &Numbers, start: Start) -> Result<()> {
        let (count, rows, columns) = self.0.dims3()?;
        if rows * columns > 0 {
            let place = Place { dtype: self.0.dtype(), device: self.0.device().clone() };
            self.replace(mask, Self::start(start, count, [rows, columns], &place)?)?;
        }
        Ok(())
    }

    fn replace(&mut self, mask: &Numbers, by: Self) -> Result<()> {
        self.0 = select(mask, &by.0, &self.0, &self.0)?;
        Ok(())
    }

    fn inverse(&self, scale: &Numbers, shift: &Numbers) -> Result<Self> {
        let wide = self.0.to_dtype(DType::F64)?;
        let eye = Tensor::eye(wide.dim(1)?, DType::F64, wide.device())?.unsqueeze(0)?;
        let half = (wide.clone() + wide.t()?)?.broadcast_mul(&(scale.each(DType::F64)? * 0.5)?)?;
        let shifted = (half + eye.broadcast_mul(&shift.each(DType::F64)?)?)?;
        Ok(Batch(inverses(&shifted)?.to_dtype(self.0.dtype())?))
    }

    fn eigenvectors(&self) -> Result<Self> {
        if self.0.elem_count() == 0 {
            return Ok(self.clone());
        }
        let (place, cpu) = (Place { dtype: self.0.dtype(), device: self.0.device().clone() }, &Device::Cpu);
        let one = |member| match place.dtype {
            DType::F64 => Matrix::<f64>::from_tensors(vec![self.0.get(member)?.to_device(cpu)?], &place)?
                .eigenvectors()?
                .to_tensor(0),
            _ => Matrix::<f32>::from_tensors(vec![self.0.get(member)?.to_device(cpu)?], &place)?
                .eigenvectors()?
                .to_tensor(0),
        };
        let vectors = (0..self.0.dim(0)?).map(one).collect::<Result<Vec<_>>>()?;
        Ok(Batch(Tensor::stack(&vectors, 0)?.to_device(&place.device)?))
    }

    fn orthogonal(&self) -> Result<Self> {
        Ok(Batch(qr_q(&self.0)?))
    }

    /// The rank of i is #{j: e_j > e_i, or e_j = e_i and j < i}; P[i, rank of i] = 1. What is not finite gives none; its
    /// weight is reset.
    fn falling(a: &Self, b: &Self) -> Result<Tensor> {
        let energy = (&a.0 * &b.0)?.sum(1)?;
        let n = energy.dim(1)?;
        let places = Tensor::arange(0u32, n as u32, energy.device())?;
        let earlier = places.reshape((1, n, 1))?.broadcast_gt(&places.reshape((1, 1, n))?)?;
        let (own, others) = (energy.unsqueeze(2)?, energy.unsqueeze(1)?);
        let before = (others.broadcast_gt(&own)? + others.broadcast_eq(&own)?.broadcast_mul(&earlier)?)?;
        let rank = before.to_dtype(energy.dtype())?.sum_keepdim(2)?;
        rank.broadcast_eq(&places.to_dtype(energy.dtype())?.reshape((1, 1, n))?)?.to_dtype(energy.dtype())
    }

    fn permute_columns(&mut self, order: &Tensor) -> Result<()> {
        self.0 = self.0.matmul(order)?;
        Ok(())
    }

    fn permute_rows(&mut self, order: &Tensor) -> Result<()> {
        self.0 = order.t()?.matmul(&self.0)?;
        Ok(())
    }

    fn maps(weights: &[Weight], batches: &[Shape], place: &Place) -> Result<Maps> {
        Maps::new(weights, batches, place)
    }

    fn hold(plan: &Plan<Self>, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        super::blocks::gather(plan, tensors)
    }

    fn held<'h>(held: &'h Vec<Tensor>, batch: usize) -> Seen<'h> {
        Seen { tensor: &held[batch], transposed: false }
    }

    fn whole(plan: &Plan<Self>, batches: &[&Self], weight: usize) -> Result<Tensor> {
        let Weight { rows, columns, .. } = plan.weights[weight];
        super::blocks::matrix(plan, batches, weight)?.contiguous()?.reshape((rows, columns))
    }

    fn per_weight(plan: &Plan<Self>, blocks: &[Numbers]) -> Result<Numbers> {
        plan.maps.per_weight(blocks)
    }

    fn per_block(plan: &Plan<Self>, weights: &Numbers) -> Result<Vec<Numbers>> {
        plan.maps.per_block(weights, &plan.batches)
    }

    fn clear_row(&mut self, member: usize, row: usize) -> Result<()> {
        let (_, rows, columns) = self.0.dims3()?;
        let zero = Tensor::zeros((1, columns), self.0.dtype(), self.0.device())?;
        self.0 = self.0.contiguous()?;
        self.0.reshape(((), columns))?.slice_set(&zero, 0, member * rows + row)
    }

    fn write(plan: &Plan<Self>, params: &ParamSet, updates: &[Self], steps: &[(Numbers, Numbers)]) -> Result<()> {
        let vars: Vec<Tensor> = params.iter().map(|param| param.var.as_detached_tensor()).collect();
        let own: Vec<&Tensor> = plan.weights.iter().map(|weight| &vars[weight.index]).collect();
        let mut weights = Vec::with_capacity(updates.len());
        for (w, (update, (rate, shrink))) in
            super::blocks::gather(plan, &own)?.into_iter().zip(updates.iter().zip(steps))
        {
            let zero = full(0.0, &w.narrow(0, 0, 1)?.narrow(1, 0, 1)?.narrow(2, 0, 1)?)?;
            let update = select(&rate.is_zero(), &zero, &update.0, &w)?;
            let change = update.broadcast_mul(&rate.each(w.dtype())?)?;
            let change = Batch((change + w.broadcast_mul(&shrink.each(w.dtype())?)?)?);
            weights.push((w, change));
        }
        let mut changes: Vec<Batch> = Vec::with_capacity(weights.len());
        let mut before = Vec::with_capacity(weights.len());
        for (w, change) in weights {
            before.push(w);
            changes.push(change);
        }
        for (batch, member, row) in plan.frozen() {
            changes[batch].clear_row(member, row)?;
        }
        let after: Vec<Batch> =
            before.iter().zip(&changes).map(|(w, change)| Ok(Batch((w - &change.0)?))).collect::<Result<_>>()?;
        let after: Vec<&Batch> = after.iter().collect();
        for (index, weight) in plan.weights.iter().enumerate() {
            copy_into(&vars[weight.index], &super::blocks::matrix(plan, &after, index)?)?;
        }
        Ok(())
    }
}
