//! Matrix products on slices: the one door to the `gemm` crate. Accumulates in place, takes transposed and strided
//! operands without copies, and checks every bound before the unsafe call.

use super::real::Real;
use gemm::Parallelism;

/// A matrix inside a slice: element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Row-major, dense.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Mat::strided(data, rows, columns, columns)
    }

    /// Row-major, `row_stride` elements from row to row.
    pub(crate) fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, row_stride), "a {rows}×{columns} matrix exceeds its slice");
        Mat { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Its transpose, a view.
    pub(crate) fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// A row-major matrix to write to.
#[derive(Debug)]
pub(crate) struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Dense.
    pub(crate) fn new(data: &'a mut [T], rows: usize, columns: usize) -> Self {
        MatMut::strided(data, rows, columns, columns)
    }

    /// `row_stride` ≥ `columns` elements from row to row.
    pub(crate) fn strided(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(row_stride >= columns, "rows of the result overlap");
        assert!(fits(data.len(), rows, columns, row_stride), "a {rows}×{columns} matrix exceeds its slice");
        MatMut { data, rows, columns, row_stride }
    }
}

fn fits(len: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= len
}

/// What happens to the old content of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Overwritten (never read, so it may be anything).
    Set,
    /// Added to.
    Add,
}

/// How many threads share the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// This one: inside parallel loops, and for small products.
    One,
    /// The rayon pool.
    All,
}

/// `c = alpha·a·b` or `c += alpha·a·b`.
pub(crate) fn matmul<T: Real>(
    c: MatMut<'_, T>,
    store: Store,
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    threads: Threads,
) {
    assert!(
        a.rows == c.rows && b.columns == c.columns && a.columns == b.rows,
        "shapes of a product: {}×{} · {}×{} into {}×{}",
        a.rows,
        a.columns,
        b.rows,
        b.columns,
        c.rows,
        c.columns
    );
    if c.rows == 0 || c.columns == 0 {
        return;
    }
    if a.columns == 0 {
        if store == Store::Set {
            for row in c.data.chunks_mut(c.row_stride).take(c.rows) {
                row[..c.columns].fill(T::zero());
            }
        }
        return;
    }
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All if rayon::current_num_threads() == 1 => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: the views were checked against their slices when made (`fits`), the shapes against each other above, the
    // result's rows do not overlap and it is borrowed mutably, so it aliases neither operand. T is f32 or f64.
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    unsafe {
        gemm::gemm(
            c.rows,
            c.columns,
            a.columns,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            store == Store::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::one(),
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};

    #[test]
    fn products_agree_with_three_loops_in_every_orientation() {
        let mut rng = stream(1, Purpose::Probe, 0);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (33, 17, 65), (2, 3, 0), (1, 40, 9), (40, 1, 9)] {
            let (a, b, c) = (draw(m * k), draw(k * n), draw(m * n));
            let transposed = |x: &[f64], rows: usize, columns: usize| -> Vec<f64> {
                (0..rows * columns).map(|i| x[(i % rows) * columns + i / rows]).collect()
            };
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            for (a, b) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
            ] {
                let (mut set, mut add) = (vec![f64::NAN; m * n], c.clone());
                matmul(MatMut::new(&mut set, m, n), Store::Set, 2.0, a, b, Threads::One);
                matmul(MatMut::new(&mut add, m, n), Store::Add, 2.0, a, b, Threads::All);
                for i in 0..m {
                    for j in 0..n {
                        let at = |l: usize| a.data[i * a.row_stride + l * a.column_stride];
                        let bt = |l: usize| b.data[l * b.row_stride + j * b.column_stride];
                        let right = 2.0 * (0..k).map(|l| at(l) * bt(l)).sum::<f64>();
                        assert!((set[i * n + j] - right).abs() < 1e-12);
                        assert!((add[i * n + j] - c[i * n + j] - right).abs() < 1e-12);
                    }
                }
            }
        }
    }

    #[test]
    fn a_strided_result_leaves_its_gaps_alone() {
        let mut c = vec![7.0f32; 8];
        matmul(
            MatMut::strided(&mut c[1..], 2, 2, 4),
            Store::Set,
            1.0,
            Mat::new(&[1.0, 2.0], 2, 1),
            Mat::new(&[1.0, 1.0], 1, 2),
            Threads::One,
        );
        assert_eq!(c, [7.0, 1.0, 1.0, 7.0, 7.0, 2.0, 2.0, 7.0]);
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        Mat::strided(&[0.0f32; 5], 2, 2, 4);
    }
}
