//! Dense row-major matrices for the state and the working memory of optimizers.

use std::ops::Range;

use crate::ops::{matmul, Mat, MatMut, Real, Store, Threads};

/// `rows × columns` numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix<T> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) data: Vec<T>,
}

impl<T: Real> Matrix<T> {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Matrix { rows, columns, data: vec![T::zero(); rows * columns] }
    }

    pub(super) fn from_f64(rows: usize, columns: usize, values: &[f64]) -> Self {
        Matrix { rows, columns, data: values.iter().map(|&x| T::from_f64(x)).collect() }
    }

    pub(super) fn to_f64(&self) -> Vec<f64> {
        self.data.iter().map(|x| x.to_f64()).collect()
    }

    /// `scale` on the diagonal.
    pub(super) fn set_identity(&mut self, scale: f64) {
        self.data.fill(T::zero());
        let step = self.columns + 1;
        self.data.iter_mut().step_by(step).for_each(|x| *x = T::from_f64(scale));
    }

    pub(super) fn view(&self) -> Mat<'_, T> {
        Mat::new(&self.data, self.rows, self.columns)
    }

    pub(super) fn t(&self) -> Mat<'_, T> {
        self.view().t()
    }

    pub(super) fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(&mut self.data, self.rows, self.columns)
    }

    pub(super) fn row(&self, i: usize) -> &[T] {
        &self.data[i * self.columns..(i + 1) * self.columns]
    }

    pub(super) fn row_mut(&mut self, i: usize) -> &mut [T] {
        &mut self.data[i * self.columns..(i + 1) * self.columns]
    }

    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, T> {
        self.data.chunks_exact(self.columns.max(1))
    }

    pub(super) fn rows_mut(&mut self) -> std::slice::ChunksExactMut<'_, T> {
        self.data.chunks_exact_mut(self.columns.max(1))
    }

    /// These rows, in this order.
    pub(super) fn gather(&self, rows: &[usize]) -> Self {
        let mut data = Vec::with_capacity(rows.len() * self.columns);
        rows.iter().for_each(|&i| data.extend_from_slice(self.row(i)));
        Matrix { rows: rows.len(), columns: self.columns, data }
    }

    /// The part in these rows and columns.
    pub(super) fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        part(&self.data, self.columns, rows, columns)
    }

    /// The inverse of [`Matrix::part`].
    pub(super) fn set_part(&mut self, rows: Range<usize>, columns: Range<usize>, part: &Matrix<T>) {
        for (i, from) in rows.zip(part.rows()) {
            self.row_mut(i)[columns.clone()].copy_from_slice(from);
        }
    }

    /// Rows of `self`, then rows of `below`.
    pub(super) fn above(mut self, below: &Matrix<T>) -> Self {
        self.data.extend_from_slice(&below.data);
        self.rows += below.rows;
        self
    }

    pub(super) fn scale(&mut self, factor: f64) {
        let factor = T::from_f64(factor);
        self.data.iter_mut().for_each(|x| *x *= factor);
    }

    /// `self ← self + share · (target − self)`.
    pub(super) fn toward(&mut self, target: &[T], share: f64) {
        let share = T::from_f64(share);
        self.data.iter_mut().zip(target).for_each(|(x, &y)| *x += share * (y - *x));
    }

    /// `self += alpha · a · b`.
    pub(super) fn add_product(&mut self, alpha: f64, a: Mat<'_, T>, b: Mat<'_, T>) {
        let threads = threads(self.data.len());
        matmul(self.view_mut(), Store::Add, T::from_f64(alpha), a, b, threads);
    }

    /// Mean of the diagonal.
    pub(super) fn mean_diagonal(&self) -> f64 {
        let diagonal = self.data.iter().step_by(self.columns + 1);
        diagonal.map(|x| x.to_f64()).sum::<f64>() / self.rows.max(1) as f64
    }

    /// `self ← factor · (self + selfᵀ) / 2`, for a square matrix: rounding must not let the two halves drift apart.
    pub(super) fn symmetrize(&mut self, factor: f64) {
        /// Blocks of this width keep both halves in the cache.
        const BLOCK: usize = 32;
        let (n, half) = (self.rows, T::from_f64(0.5 * factor));
        for i0 in (0..n).step_by(BLOCK) {
            for j0 in (0..=i0).step_by(BLOCK) {
                for i in i0..(i0 + BLOCK).min(n) {
                    for j in j0..(j0 + BLOCK).min(i + 1) {
                        let mean = half * (self.data[i * n + j] + self.data[j * n + i]);
                        self.data[i * n + j] = mean;
                        self.data[j * n + i] = mean;
                    }
                }
            }
        }
    }

    pub(super) fn is_finite(&self) -> bool {
        squares(&self.data).is_finite()
    }
}

/// The part in these rows and columns of a matrix of this width.
pub(super) fn part<T: Real>(data: &[T], width: usize, rows: Range<usize>, columns: Range<usize>) -> Matrix<T> {
    let mut part = Vec::with_capacity(rows.len() * columns.len());
    for i in rows.clone() {
        part.extend_from_slice(&data[i * width..][columns.clone()]);
    }
    Matrix { rows: rows.len(), columns: columns.len(), data: part }
}

/// Ranges of at most `longest` that make up `0..n`, as even as can be.
pub(super) fn blocks(n: usize, longest: usize) -> Vec<Range<usize>> {
    let count = n.div_ceil(longest).max(1);
    (0..count).map(|i| i * n / count..(i + 1) * n / count).collect()
}

/// `a · b`.
pub(super) fn product<T: Real>(a: Mat<'_, T>, b: Mat<'_, T>) -> Matrix<T> {
    let (rows, columns) = (a.rows(), b.columns());
    Matrix { rows, columns, data: crate::ops::product(T::one(), a, b, threads(rows * columns)) }
}

/// Several matrices are worked on side by side; only one as large as an embedding table is also shared between threads.
fn threads(elements: usize) -> Threads {
    if elements > 1 << 18 {
        Threads::All
    } else {
        Threads::One
    }
}

/// Σx², in f64 over partial sums of fixed order.
pub(super) fn squares<T: Real>(values: &[T]) -> f64 {
    values.chunks(1 << 12).map(|x| crate::ops::dot(x, x).to_f64()).sum()
}

/// √(mean x²); 0 of nothing.
pub(super) fn rms<T: Real>(values: &[T]) -> f64 {
    (squares(values) / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symmetrizing_averages_the_halves_and_keeps_the_diagonal() {
        let n = 70;
        let mut m: Matrix<f64> = Matrix::zeros(n, n);
        m.data.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f64).sin());
        let before = m.clone();
        m.symmetrize(2.0);
        for i in 0..n {
            for j in 0..n {
                let expected = before.row(i)[j] + before.row(j)[i];
                assert_eq!(m.row(i)[j], expected);
            }
        }
    }

    #[test]
    fn rows_are_gathered_stacked_and_multiplied() {
        let m: Matrix<f64> = Matrix::from_f64(3, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let stacked = m.gather(&[2, 0]).above(&m);
        assert_eq!(stacked.data, [5.0, 6.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(product(m.t(), m.view()).data, [35.0, 44.0, 44.0, 56.0]);
        let mut square: Matrix<f64> = Matrix::zeros(2, 2);
        square.set_identity(3.0);
        assert_eq!((square.mean_diagonal(), rms(&square.data)), (3.0, 4.5f64.sqrt()));
    }
}
