//! Matrix products on slices (Goto & van de Geijn 2008: packed operands, a microkernel, blocks that fit the caches).
//! Accumulates in place, takes transposed and strided operands, checks every bound at the door, and lets the caller
//! finish each block of the result while it is in the cache.
//!
//! | file | owns |
//! |---|---|
//! | `kernel/` | microkernels: one `mr × nr` tile of the result in registers, over packed strips of both operands |
//! | `pack/` | packing: operands copied into the order in which a microkernel reads them, and rounded |
//! | `product` | the loops around the microkernel |

mod kernel;
mod pack;
mod product;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(crate) use kernel::emulate as emulate_tiles;
pub(crate) use kernel::{prefetch, Arithmetic, Kernels};
pub(crate) use pack::Packed;
pub(crate) use product::Block;
use product::Finish;

use super::real::{self, simd, Real};
use super::rows;

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

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The part of `rows × columns` from (`row`, `column`).
    pub(crate) fn part(self, row: usize, rows: usize, column: usize, columns: usize) -> Self {
        assert!(row + rows <= self.rows && column + columns <= self.columns, "a part outside its matrix");
        let start = row * self.row_stride + column * self.column_stride;
        Mat { data: self.data.get(start..).unwrap_or_default(), rows, columns, ..self }
    }

    /// A row of what is not transposed.
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        assert!(
            self.column_stride == 1 && i < self.rows,
            "row {i} of a matrix of {} or of a transposed one",
            self.rows
        );
        &self.data[i * self.row_stride..][..self.columns]
    }

    /// All rows in a line, where nothing is between them.
    pub(crate) fn dense(&self) -> Option<&'a [T]> {
        let dense = self.column_stride == 1 && (self.row_stride == self.columns || self.rows <= 1);
        dense.then(|| &self.data[..self.rows * self.columns])
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
    into(c, store, alpha, a, b, threads, &|_| ());
}

fn into<T: Real>(
    mut c: MatMut<'_, T>,
    store: Store,
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    threads: Threads,
    finish: Finish<'_, T>,
) {
    check([c.rows, c.columns], [a.rows, a.columns], [b.rows, b.columns]);
    if suits_dots(a, b) {
        by_dots(&mut c, store, alpha, a, b.t(), threads);
        finish(Block::whole(&mut c));
    } else {
        multiply(c, store, alpha, a, &Packed::new(b, threads), threads, finish);
    }
}

/// `alpha·a·b` in new memory.
pub(crate) fn product<T: Real>(alpha: T, a: Mat<'_, T>, b: Mat<'_, T>, threads: Threads) -> Vec<T> {
    product_then(alpha, a, b, threads, |_| ())
}

/// As [`product`]; `finish` is called with each complete block of the result.
pub(crate) fn product_then<T: Real>(
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    threads: Threads,
    finish: impl Fn(Block<'_, T>) + Sync,
) -> Vec<T> {
    product_of(Arithmetic::exact(), alpha, a, b, threads, finish)
}

/// As [`product_then`], in this arithmetic.
pub(crate) fn product_of<T: Real>(
    arithmetic: Arithmetic,
    alpha: T,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    threads: Threads,
    finish: impl Fn(Block<'_, T>) + Sync,
) -> Vec<T> {
    let (m, n) = (a.rows, b.columns);
    if matches!(arithmetic, Arithmetic::Exact(_)) && suits_dots(a, b) {
        let mut c = vec![T::zero(); m * n];
        into(MatMut::new(&mut c, m, n), Store::Set, alpha, a, b, threads, &finish);
        return c;
    }
    product_packed(alpha, a, &Packed::of(arithmetic, b, threads), threads, finish)
}

/// As [`product_then`] with a packed right operand.
pub(crate) fn product_packed<T: Real>(
    alpha: T,
    a: Mat<'_, T>,
    b: &Packed<T>,
    threads: Threads,
    finish: impl Fn(Block<'_, T>) + Sync,
) -> Vec<T> {
    let (m, n) = (a.rows, b.columns);
    check([m, n], [m, a.columns], [b.rows, n]);
    if m * n * a.columns == 0 {
        let mut c = vec![T::zero(); m * n];
        multiply(MatMut::new(&mut c, m, n), Store::Set, alpha, a, b, threads, &finish);
        return c;
    }
    product::multiply_new(alpha, a, b, threads, &finish)
}

/// `c = a·b` or `c += a·b` with a packed right operand; `finish` is called with each complete block of the result.
pub(crate) fn matmul_packed<T: Real>(
    c: MatMut<'_, T>,
    store: Store,
    a: Mat<'_, T>,
    b: &Packed<T>,
    threads: Threads,
    finish: impl Fn(Block<'_, T>) + Sync + Send,
) {
    check([c.rows, c.columns], [a.rows, a.columns], [b.rows, b.columns]);
    multiply(c, store, T::one(), a, b, threads, &finish);
}

fn check(c: [usize; 2], a: [usize; 2], b: [usize; 2]) {
    assert!(
        a[0] == c[0] && b[1] == c[1] && a[1] == b[0],
        "shapes of a product: {}×{} · {}×{} into {}×{}",
        a[0],
        a[1],
        b[0],
        b[1],
        c[0],
        c[1]
    );
}

fn multiply<T: Real>(
    c: MatMut<'_, T>,
    store: Store,
    alpha: T,
    a: Mat<'_, T>,
    b: &Packed<T>,
    threads: Threads,
    finish: Finish<'_, T>,
) {
    if a.columns == 0 && store == Store::Set {
        for row in c.data.chunks_mut(c.row_stride.max(1)).take(c.rows) {
            row[..c.columns].fill(T::zero());
        }
    }
    if c.rows > 0 && c.columns > 0 {
        product::multiply(c, store, alpha, a, b, threads, finish);
    }
}

/// Rows of the left operand up to which packing the right one costs more than it gives.
const FEW: usize = 8;

/// Whether dot products of the rows of `a` and the columns of `b` are quicker.
fn suits_dots<T>(a: Mat<'_, T>, b: Mat<'_, T>) -> bool {
    a.column_stride == 1 && b.row_stride == 1 && a.rows <= FEW
}

/// Products of dense rows: `c[i, j] = alpha · a_i · b_j`.
fn by_dots<T: Real>(c: &mut MatMut<'_, T>, store: Store, alpha: T, a: Mat<'_, T>, b: Mat<'_, T>, threads: Threads) {
    let (width, rows) = (c.columns, c.rows);
    for (i, c) in c.data.chunks_mut(c.row_stride.max(1)).take(rows).enumerate() {
        let a = &a.part(i, 1, 0, a.columns).data[..a.columns];
        let jobs = c[..width].chunks_mut(256).enumerate().collect();
        let work = |(j, c): (usize, &mut [T])| dots(c, store == Store::Add, alpha, a, b.data, j * 256, b.row_stride);
        match threads {
            Threads::One => Vec::into_iter(jobs).for_each(work),
            Threads::All => rows::run(jobs, width * a.len() / 8, work),
        }
    }
}

simd! {
    fn dots<T: Real>(c: &mut [T], add: bool, alpha: T, a: &[T], b: &[T], first: usize, stride: usize) {
        for (j, c) in c.iter_mut().enumerate() {
            let old = if add { *c } else { T::zero() };
            *c = old + alpha * real::dot(a, &b[(first + j) * stride..][..a.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Precision;
    use crate::rng::{stream, Purpose};

    #[test]
    fn products_agree_with_three_loops_in_every_orientation() {
        let mut rng = stream(1, Purpose::Probe, 0);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
        let large = if cfg!(miri) { (13, 9, 5) } else { (33, 17, 65) };
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), large, (2, 3, 0), (1, 40, 9), (40, 1, 9)] {
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

    /// What a product makes of a row of an operand.
    fn rounded(arithmetic: Arithmetic, row: &[f32]) -> Vec<f64> {
        let Arithmetic::Rounded(units) = arithmetic else { return row.iter().copied().map(f64::from).collect() };
        if units.precision() == Precision::Bf16 {
            return row.iter().map(|&x| half::bf16::from_f32(x).to_f64()).collect();
        }
        let of_block = |block: &[f32]| -> Vec<f64> {
            let scale = block.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
            block.iter().map(|x| f64::from((x * (1.0 / scale)).round_ties_even() * scale)).collect()
        };
        row.chunks(1024).flat_map(of_block).collect()
    }

    #[test]
    fn every_kernel_agrees_with_f64() {
        let mut rng = stream(2, Purpose::Probe, 0);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal() as f32).collect() };
        let shapes = [(1, 1, 1), (5, 15, 3), (6, 16, 4), (9, 9, 260), (13, 33, 9), (97, 70, 300), (40, 32, 1037)];
        // the last ones take hours in Miri
        for &(m, n, k) in &shapes[..if cfg!(miri) { 3 } else { shapes.len() }] {
            let (a, b, c) = (draw(m * k), draw(k * n), draw(m * n));
            let transposed = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| x[(i % rows) * columns + i / rows]).collect()
            };
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            for arithmetic in Arithmetic::available() {
                // rows of what is multiplied
                let rounded =
                    |x: &[f32]| -> Vec<f64> { x.chunks(k).flat_map(|row| rounded(arithmetic, row)).collect() };
                let (left, right) = (rounded(&a), rounded(&bt));
                let mut seen: Option<Vec<f32>> = None;
                for (a_as, b_as) in
                    [(Mat::new(&a, m, k), Mat::new(&b, k, n)), (Mat::new(&at, k, m).t(), Mat::new(&bt, n, k).t())]
                {
                    let packed = Packed::of(arithmetic, b_as, Threads::One);
                    let (mut set, mut add) = (vec![f32::NAN; m * n], c.clone());
                    let visited = std::sync::atomic::AtomicUsize::new(0);
                    let count = |mut block: Block<'_, f32>| {
                        for i in 0..block.rows {
                            visited.fetch_add(block.row_mut(i).len(), std::sync::atomic::Ordering::Relaxed);
                        }
                    };
                    matmul_packed(MatMut::new(&mut set, m, n), Store::Set, a_as, &packed, Threads::All, count);
                    assert_eq!(visited.into_inner(), m * n);
                    matmul_packed(MatMut::new(&mut add, m, n), Store::Add, a_as, &packed, Threads::One, |_| ());
                    for i in 0..m * n {
                        let terms = (0..k).map(|l| left[i / n * k + l] * right[i % n * k + l]);
                        let (right, size) = terms.fold((0.0, 1.0), |(sum, size), x| (sum + x, size + x.abs()));
                        assert!((f64::from(set[i]) - right).abs() < 1e-6 * size, "{arithmetic:?} {m}×{n}×{k}");
                        assert!((f64::from(add[i]) - f64::from(c[i]) - right).abs() < 1e-6 * size, "{arithmetic:?}");
                    }
                    assert!(*seen.get_or_insert(set.clone()) == set, "{arithmetic:?}: orientations differ");
                }
            }
        }
    }

    #[test]
    fn results_depend_neither_on_threads_nor_on_the_rows_beside() {
        let mut rng = stream(3, Purpose::Probe, 0);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal() as f32).collect() };
        // more of k than any kernel packs together
        let (m, n, k) = if cfg!(miri) { (26, 20, 3) } else { (203, 131, 1101) };
        let (a, b, old) = (draw(m * k), draw(k * n), draw(m * n));
        for arithmetic in Arithmetic::available() {
            let packed = Packed::of(arithmetic, Mat::new(&b, k, n), Threads::One);
            for store in [Store::Set, Store::Add] {
                let product = |first: usize, rows: usize, threads| {
                    let mut c = old[first * n..(first + rows) * n].to_vec();
                    let a = Mat::new(&a, m, k).part(first, rows, 0, k);
                    matmul_packed(MatMut::new(&mut c, rows, n), store, a, &packed, threads, |_| ());
                    c
                };
                let all = product(0, m, Threads::One);
                for threads in [1, 2, 3, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    assert!(pool.install(|| product(0, m, Threads::All)) == all, "{arithmetic:?} {store:?} {threads}");
                }
                let first = m / 3;
                let some = product(first, 11, Threads::One);
                assert!(some == all[first * n..(first + 11) * n], "{arithmetic:?} {store:?}");
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
