//! Batches of one matrix: dense, row-major, on the CPU, multiplied by `ops::gemm`. Every function stays on its thread, so
//! that weights are worked on side by side; only one as large as an embedding table is also shared between threads.

use candle_core::{bail, Device, Result, Tensor};
use std::borrow::Cow;
use std::ops::{Deref, Range};

use super::{Mats, Place, Start, View};
use crate::ops::{blocks, dot, matmul, product, qr_q_of, values, Cholesky, Mat, MatMut, Real, Store, Threads};
use crate::optim::decompose::eigh;
use crate::optim::inplace::with_slices;
use crate::optim::plan::{Plan, Shape, Weight};
use crate::params::ParamSet;
use crate::rng::Stream;

/// `rows × columns` numbers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::optim) struct Matrix<T> {
    rows: usize,
    columns: usize,
    pub(in crate::optim) data: Vec<T>,
}

impl<T: Real> View for Mat<'_, T> {
    fn rows(&self) -> usize {
        Mat::rows(self)
    }

    fn columns(&self) -> usize {
        Mat::columns(self)
    }

    fn t(self) -> Self {
        Mat::t(self)
    }
}

impl<T: Real> Matrix<T> {
    fn zeros(rows: usize, columns: usize) -> Self {
        Matrix { rows, columns, data: vec![T::zero(); rows * columns] }
    }

    fn lines(&self) -> std::slice::ChunksExact<'_, T> {
        self.data.chunks_exact(self.columns.max(1))
    }

    fn lines_mut(&mut self) -> std::slice::ChunksExactMut<'_, T> {
        self.data.chunks_exact_mut(self.columns.max(1))
    }

    /// Runs over the elements of both, row by row.
    fn zip(&mut self, other: Mat<'_, T>, f: impl Fn(&mut T, T)) {
        for (i, line) in self.lines_mut().enumerate() {
            line.iter_mut().zip(other.row(i)).for_each(|(x, &y)| f(x, y));
        }
    }

    /// `store` of `alpha·a·b`, which leaves a symmetric matrix: up to the diagonal by panels of rows, then mirrored. Element by
    /// element the sums are those of a whole product.
    fn symmetric(&mut self, store: Store, alpha: T, a: Mat<'_, T>, b: Mat<'_, T>) {
        let n = self.rows;
        for rows in blocks(n, PANEL) {
            let c = MatMut::strided(&mut self.data[rows.start * n..], rows.len(), rows.end, n);
            let (a, b) = (a.part(rows.start, rows.len(), 0, a.columns()), b.part(0, b.rows(), 0, rows.end));
            matmul(c, store, alpha, a, b, threads(n * n));
        }
        self.mirror();
    }

    /// Of a square matrix: what is above the diagonal becomes what is below.
    fn mirror(&mut self) {
        /// Blocks of this width keep both halves in the cache.
        const BLOCK: usize = 32;
        let n = self.rows;
        for i0 in (0..n).step_by(BLOCK) {
            for j0 in (0..=i0).step_by(BLOCK) {
                for i in i0..(i0 + BLOCK).min(n) {
                    for j in j0..(j0 + BLOCK).min(i) {
                        self.data[j * n + i] = self.data[i * n + j];
                    }
                }
            }
        }
    }

    fn diagonal(&self) -> impl Iterator<Item = &T> {
        self.data.iter().step_by(self.columns + 1)
    }
}

/// Most rows of a panel of a symmetric product: wide enough for the kernel, narrow enough to leave out nearly half.
const PANEL: usize = 128;

fn threads(elements: usize) -> Threads {
    if elements > 1 << 18 {
        Threads::All
    } else {
        Threads::One
    }
}

/// Σx², in f64 over partial sums of fixed order.
fn squares<T: Real>(values: &[T]) -> f64 {
    values.chunks(1 << 12).map(|x| dot(x, x).to_f64()).sum()
}

/// The blocks of one weight, on its values.
type Held<'a, T> = (Box<dyn Deref<Target = [T]> + 'a>, usize, Vec<(Range<usize>, Range<usize>)>);

impl<T: Real> Mats for Matrix<T> {
    type Number = f64;
    type View<'a> = Mat<'a, T>;
    type Rows = Vec<usize>;
    type Order = Vec<usize>;
    type Held<'a> = Held<'a, T>;
    type Maps = ();

    const ALONE: bool = true;

    fn least(_place: &Place) -> f64 {
        // numbers are f64, whatever the matrices are
        f64::MIN_POSITIVE
    }

    fn start(start: Start, count: usize, [rows, columns]: [usize; 2], _place: &Place) -> Result<Self> {
        if count != 1 {
            bail!("{count} matrices on the CPU");
        }
        let mut matrix = Matrix::zeros(rows, columns);
        matrix.restart(&1.0, start)?;
        Ok(matrix)
    }

    fn from_values(values: Vec<f64>, [rows, columns]: [usize; 2], _place: &Place) -> Result<Self> {
        Ok(Matrix { rows, columns, data: values.into_iter().map(T::from_f64).collect() })
    }

    fn from_tensors(tensors: Vec<Tensor>, _place: &Place) -> Result<Self> {
        let [tensor] = &tensors[..] else { bail!("{} matrices on the CPU", tensors.len()) };
        let (rows, columns) = tensor.dims2()?;
        Ok(Matrix { rows, columns, data: tensor.flatten_all()?.to_vec1()? })
    }

    fn to_tensor(&self, _member: usize) -> Result<Tensor> {
        Tensor::from_slice(&self.data, (self.rows, self.columns), &Device::Cpu)
    }

    fn of(x: Mat<'_, T>) -> Result<Self> {
        let mut data = Vec::with_capacity(x.rows() * x.columns());
        (0..x.rows()).for_each(|i| data.extend_from_slice(x.row(i)));
        Ok(Matrix { rows: x.rows(), columns: x.columns(), data })
    }

    fn view(&self) -> Mat<'_, T> {
        Mat::new(&self.data, self.rows, self.columns)
    }

    fn times(&self, by: f64) -> Result<Self> {
        let by = T::from_f64(by);
        Ok(Matrix { data: self.data.iter().map(|&x| x * by).collect(), ..*self })
    }

    fn product(a: Mat<'_, T>, b: Mat<'_, T>) -> Result<Self> {
        let (rows, columns) = (a.rows(), b.columns());
        Ok(Matrix { rows, columns, data: product(T::one(), a, b, threads(rows * columns)) })
    }

    fn add_product(&mut self, alpha: f64, a: Mat<'_, T>, b: Mat<'_, T>) -> Result<()> {
        let threads = threads(self.data.len());
        let c = MatMut::new(&mut self.data, self.rows, self.columns);
        matmul(c, Store::Add, T::from_f64(alpha), a, b, threads);
        Ok(())
    }

    fn add_symmetric(&mut self, alpha: f64, a: Mat<'_, T>, b: Mat<'_, T>) -> Result<()> {
        self.symmetric(Store::Add, T::from_f64(alpha), a, b);
        Ok(())
    }

    fn gram(a: Mat<'_, T>) -> Result<Self> {
        let mut gram = Matrix::zeros(a.rows(), a.rows());
        gram.symmetric(Store::Set, T::one(), a, a.t());
        Ok(gram)
    }

    fn add(&mut self, alpha: &f64, x: Mat<'_, T>) -> Result<()> {
        let alpha = T::from_f64(*alpha);
        self.zip(x, |own, x| *own += alpha * x);
        Ok(())
    }

    fn scale(&mut self, by: &f64) -> Result<()> {
        if *by != 1.0 {
            let by = T::from_f64(*by);
            self.data.iter_mut().for_each(|x| *x *= by);
        }
        Ok(())
    }

    fn toward(&mut self, target: Mat<'_, T>, share: &f64) -> Result<()> {
        let share = T::from_f64(*share);
        self.zip(target, |x, y| *x += share * (y - *x));
        Ok(())
    }

    fn toward_and_ahead(&mut self, target: Mat<'_, T>, share: &f64, ahead: &f64, size: &f64) -> Result<Self> {
        let [share, ahead, size] = [*share, *ahead, *size].map(T::from_f64);
        let mut data = Vec::with_capacity(self.data.len());
        for (i, line) in self.lines_mut().enumerate() {
            data.extend(line.iter_mut().zip(target.row(i)).map(|(x, &y)| {
                *x += share * (y - *x);
                (*x + ahead * (y - *x)) * size
            }));
        }
        Ok(Matrix { data, ..*self })
    }

    fn toward_squares(&mut self, x: Mat<'_, T>, share: &f64) -> Result<()> {
        let (keep, take) = (T::from_f64(1.0 - share), T::from_f64(*share));
        self.zip(x, |v, x| *v = keep * *v + take * (x * x));
        Ok(())
    }

    fn over_root(&mut self, v: &Self, eps: f64, size: &f64) -> Result<()> {
        let (eps, size) = (T::from_f64(eps), T::from_f64(*size));
        self.zip(v.view(), |m, v| *m = size * *m / (v.sqrt() + eps));
        Ok(())
    }

    fn above(mut self, below: &Self) -> Result<Self> {
        self.data.extend_from_slice(&below.data);
        self.rows += below.rows;
        Ok(self)
    }

    fn columns_of(x: Mat<'_, T>, range: Range<usize>) -> Result<Self> {
        Self::of(x.part(0, x.rows(), range.start, range.len()))
    }

    fn set_columns(&mut self, range: Range<usize>, part: &Self) -> Result<()> {
        let lines = self.lines_mut().zip(part.lines());
        lines.for_each(|(line, part)| line[range.clone()].copy_from_slice(part));
        Ok(())
    }

    fn gather<'a>(parts: &[(&'a Self, usize)], _place: &Place) -> Result<Cow<'a, Self>> {
        match parts {
            [(matrix, _)] => Ok(Cow::Borrowed(matrix)),
            _ => bail!("{} matrices on the CPU", parts.len()),
        }
    }

    fn moments(x: &Tensor, rows: Option<&[usize]>, ranges: &[Range<usize>], _place: &Place) -> Result<Vec<Self>> {
        let (count, width) = x.dims2()?;
        let x = values::<T>(x)?;
        let all: Vec<usize> = (0..count).collect();
        let rows = rows.unwrap_or(&all);
        let of_block = |range: &Range<usize>| {
            let mut part = Matrix::<T>::zeros(rows.len(), range.len());
            for (part, &row) in part.lines_mut().zip(rows) {
                part.copy_from_slice(&x[row * width..][range.clone()]);
            }
            let mut moments = Self::product(part.t(), part.view())?;
            moments.scale(&(1.0 / rows.len().max(1) as f64))?;
            Ok(moments)
        };
        ranges.iter().map(of_block).collect()
    }

    fn squares(x: Mat<'_, T>) -> Result<f64> {
        Ok(match x.dense() {
            Some(values) => squares(values),
            None => (0..x.rows()).map(|i| squares(x.row(i))).sum(),
        })
    }

    fn mean_diagonal(&self) -> Result<f64> {
        Ok(self.diagonal().map(|x| x.to_f64()).sum::<f64>() / self.rows.max(1) as f64)
    }

    fn toward_row_means(&mut self, a: Mat<'_, T>, b: Mat<'_, T>, share: &f64) -> Result<()> {
        for (i, own) in self.data.iter_mut().enumerate() {
            let now = dot(a.row(i), b.row(i)).to_f64() / a.columns() as f64;
            *own += T::from_f64(share * (now - own.to_f64()));
        }
        Ok(())
    }

    fn sum_and_largest(&self) -> Result<(f64, f64)> {
        let sum: f64 = self.data.iter().map(|x| x.to_f64()).sum();
        let largest = self.data.iter().fold(0.0, |largest, x| f64::max(largest, x.to_f64()));
        Ok((sum, largest))
    }

    fn raise(&mut self, floor: &f64) -> Result<()> {
        let floor = T::from_f64(*floor);
        self.data.iter_mut().filter(|x| **x < floor).for_each(|x| *x = floor);
        Ok(())
    }

    fn squares_over(&self, p: Mat<'_, T>) -> Result<f64> {
        Ok(self.data.iter().enumerate().map(|(i, own)| squares(p.row(i)) / own.to_f64()).sum())
    }

    fn powers(&self, floor: &f64, power: f64, size: &f64) -> Result<Self> {
        let raised = |x: &T| T::from_f64(size * (x.to_f64() + floor).powf(power));
        Ok(Matrix { data: self.data.iter().map(raised).collect(), ..*self })
    }

    fn scale_rows(&mut self, by: &Self) -> Result<()> {
        for (line, &by) in self.lines_mut().zip(&by.data) {
            line.iter_mut().for_each(|x| *x *= by);
        }
        Ok(())
    }

    fn choice(draws: Vec<Vec<usize>>, _below: usize, _place: &Place) -> Result<Vec<usize>> {
        Ok(draws.concat())
    }

    fn choice_of_present(x: Mat<'_, T>, k: usize, streams: &mut [Stream]) -> Result<(Vec<usize>, f64)> {
        let [stream] = streams else { bail!("{} streams on the CPU", streams.len()) };
        let is_present = |&i: &usize| x.row(i).iter().any(|x| *x != T::zero());
        let present: Vec<usize> = (0..x.rows()).filter(is_present).collect();
        let chosen = match present.len() {
            0 => vec![0; k],
            n => (0..k).map(|_| present[stream.below(n)]).collect(),
        };
        Ok((chosen, present.len() as f64))
    }

    fn rows_at(x: Mat<'_, T>, rows: &Vec<usize>) -> Result<Self> {
        let mut data = Vec::with_capacity(rows.len() * x.columns());
        rows.iter().for_each(|&i| data.extend_from_slice(x.row(i)));
        Ok(Matrix { rows: rows.len(), columns: x.columns(), data })
    }

    fn restart(&mut self, mask: &f64, start: Start) -> Result<()> {
        if *mask == 0.0 {
            return Ok(());
        }
        self.data.fill(if start == Start::Ones { T::one() } else { T::zero() });
        if start == Start::Identity {
            let step = self.columns + 1;
            self.data.iter_mut().step_by(step).for_each(|x| *x = T::one());
        }
        Ok(())
    }

    fn replace(&mut self, mask: &f64, by: Self) -> Result<()> {
        if *mask != 0.0 {
            *self = by;
        }
        Ok(())
    }

    fn inverse(&self, scale: &f64, shift: &f64) -> Result<Self> {
        let n = self.rows;
        let mean = |at: usize| 0.5 * (self.data[at].to_f64() + self.data[at % n * n + at / n].to_f64());
        let mut shifted: Vec<f64> = (0..n * n).map(|at| scale * mean(at)).collect();
        shifted.iter_mut().step_by(n + 1).for_each(|x| *x += shift);
        let data = match Cholesky::new(n, &shifted) {
            Some(cholesky) => cholesky.inverse().into_iter().map(T::from_f64).collect(),
            None => vec![T::from_f64(f64::NAN); n * n],
        };
        Ok(Matrix { data, ..*self })
    }

    fn eigenvectors(&self) -> Result<Self> {
        let n = self.rows;
        if n == 0 {
            return self.copy();
        }
        let values: Vec<f64> = self.data.iter().map(|x| x.to_f64()).collect();
        match eigh(n, &values) {
            Some((_, vectors)) => Ok(Matrix { data: vectors.into_iter().map(T::from_f64).collect(), ..*self }),
            None => bail!("the eigenvectors of a factor of {n} × {n} were not found"),
        }
    }

    fn orthogonal(&self) -> Result<Self> {
        let values: Vec<f64> = self.data.iter().map(|x| x.to_f64()).collect();
        Ok(Matrix { data: qr_q_of(self.rows, &values).into_iter().map(T::from_f64).collect(), ..*self })
    }

    fn falling(a: &Self, b: &Self) -> Result<Vec<usize>> {
        let mut energy = vec![0.0; a.columns];
        for (a, b) in a.lines().zip(b.lines()) {
            energy.iter_mut().zip(a.iter().zip(b)).for_each(|(e, (a, b))| *e += a.to_f64() * b.to_f64());
        }
        let mut order: Vec<usize> = (0..a.columns).collect();
        order.sort_by(|&a, &b| energy[b].total_cmp(&energy[a]));
        Ok(order)
    }

    fn permute_columns(&mut self, order: &Vec<usize>) -> Result<()> {
        let mut old = Vec::with_capacity(order.len());
        for line in self.lines_mut() {
            old.clear();
            old.extend_from_slice(line);
            line.iter_mut().zip(order).for_each(|(x, &from)| *x = old[from]);
        }
        Ok(())
    }

    fn permute_rows(&mut self, order: &Vec<usize>) -> Result<()> {
        *self = Self::rows_at(self.view(), order)?;
        Ok(())
    }

    fn maps(_weights: &[Weight], _batches: &[Shape], _place: &Place) -> Result<()> {
        Ok(())
    }

    fn hold<'a>(plan: &Plan<Self>, tensors: &[&'a Tensor]) -> Result<Held<'a, T>> {
        let ([tensor], [weight]) = (tensors, &plan.weights[..]) else { bail!("weights are alone on the CPU") };
        let blocks = weight.blocks.iter().map(|block| (block.rows.clone(), block.columns.clone()));
        Ok((Box::new(values::<T>(tensor)?), weight.columns, blocks.collect()))
    }

    fn held<'h>((values, columns, blocks): &'h Held<'_, T>, batch: usize) -> Mat<'h, T> {
        let whole = Mat::new(values, values.len() / (*columns).max(1), *columns);
        let (rows, columns) = &blocks[batch];
        whole.part(rows.start, rows.len(), columns.start, columns.len())
    }

    fn whole(plan: &Plan<Self>, batches: &[&Self], weight: usize) -> Result<Tensor> {
        let Weight { rows, columns, blocks, .. } = &plan.weights[weight];
        let mut whole = Matrix::<T>::zeros(*rows, *columns);
        for block in blocks {
            let lines = whole.lines_mut().skip(block.rows.start).zip(batches[block.batch].lines());
            lines.for_each(|(line, part)| line[block.columns.clone()].copy_from_slice(part));
        }
        Tensor::from_vec(whole.data, (*rows, *columns), &Device::Cpu)
    }

    fn per_weight(_plan: &Plan<Self>, blocks: &[f64]) -> Result<f64> {
        Ok(blocks.iter().sum())
    }

    fn per_block(plan: &Plan<Self>, weight: &f64) -> Result<Vec<f64>> {
        Ok(vec![*weight; plan.batches.len()])
    }

    fn clear_row(&mut self, _member: usize, row: usize) -> Result<()> {
        self.data[row * self.columns..(row + 1) * self.columns].fill(T::zero());
        Ok(())
    }

    fn write(plan: &Plan<Self>, params: &ParamSet, updates: &[Self], steps: &[(f64, f64)]) -> Result<()> {
        let [weight] = &plan.weights[..] else { bail!("weights are alone on the CPU") };
        let Some(param) = params.iter().nth(weight.index) else { bail!("no parameter {}", weight.name) };
        with_slices([Some(&param.var)], |[w]: [&mut [T]; 1]| {
            for (block, (update, &(rate, shrink))) in weight.blocks.iter().zip(updates.iter().zip(steps)) {
                let rows = block.rows.clone().zip(update.lines());
                for (row, update) in rows.filter(|(row, _)| weight.frozen_row != Some(*row)) {
                    step(&mut w[row * weight.columns..][block.columns.clone()], update, rate, shrink);
                }
            }
            Ok(())
        })
    }
}

/// `w ← w − shrink·w − rate·u`; `u` is not looked at where the rate is 0.
fn step<T: Real>(w: &mut [T], u: &[T], rate: f64, shrink: f64) {
    let still = rate == 0.0;
    let (rate, shrink) = (T::from_f64(rate), T::from_f64(shrink));
    match still {
        true => w.iter_mut().for_each(|w| *w -= shrink * *w),
        false => w.iter_mut().zip(u).for_each(|(w, &u)| *w -= shrink * *w + rate * u),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};

    fn draw<T: Real>(seed: u64, shape: [usize; 2]) -> Result<Matrix<T>> {
        let mut rng = stream(seed, Purpose::Probe, 0);
        Matrix::from_values((0..shape[0] * shape[1]).map(|_| rng.normal()).collect(), shape, &Place::cpu())
    }

    /// Half the work, the same sums: to the bit what the whole product has up to the diagonal.
    #[test]
    fn symmetric_products_are_the_whole_ones() -> Result<()> {
        for (n, k) in [(1, 3), (5, 9), (128, 40), (130, 7), (300, 70)] {
            let x: Matrix<f32> = draw(1, [n, k])?;
            assert_eq!(Matrix::gram(x.view())?, Matrix::product(x.view(), x.t())?, "{n} {k}");
            let mut half = Matrix::gram(x.view())?;
            let mut whole = half.clone();
            let other: Matrix<f32> = draw(2, [k, n])?;
            // a sum that is symmetric but for rounding: x·y + (x·y)ᵀ
            let turned = Matrix { rows: k, columns: n, data: transposed(&x) };
            let left = turned.clone().above(&other)?;
            let right = other.above(&turned)?;
            half.add_symmetric(-0.5, left.t(), right.view())?;
            whole.add_product(-0.5, left.t(), right.view())?;
            for i in 0..n {
                for j in 0..=i {
                    let at = i * n + j;
                    assert!(
                        half.data[at] == whole.data[at] && half.data[at] == half.data[j * n + i],
                        "{n} {k} {i} {j}"
                    );
                }
            }
        }
        Ok(())
    }

    fn transposed<T: Real>(x: &Matrix<T>) -> Vec<T> {
        (0..x.data.len()).map(|at| x.data[at % x.rows * x.columns + at / x.rows]).collect()
    }

    #[test]
    fn parts_are_cut_and_put_back_and_rows_are_chosen() -> Result<()> {
        let x: Matrix<f64> = draw(3, [4, 5])?;
        let mut back = Matrix::start(Start::Ones, 1, [4, 5], &Place::cpu())?;
        for range in [0..2, 2..5] {
            back.set_columns(range.clone(), &Matrix::columns_of(x.view(), range)?)?;
        }
        assert_eq!(back, x);
        let part = x.view().part(1, 3, 2, 2);
        let sum: f64 = (1..4).flat_map(|i| [x.data[5 * i + 2], x.data[5 * i + 3]]).map(|x| x * x).sum();
        assert!((Matrix::squares(part)? - sum).abs() < 1e-12, "of a view that is not dense");
        let chosen = Matrix::rows_at(part, &vec![2, 0])?;
        assert_eq!(chosen.data, [x.data[17], x.data[18], x.data[7], x.data[8]]);
        Ok(())
    }
}
