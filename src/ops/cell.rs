//! The arithmetic of one step of the gated cells, one row (hidden state) at a time; gate order and formulas are those
//! of PyTorch and cuDNN. `x` is the input's projection, `g = W_hh·s' + b_hh` the one of the state `s'` before.
//!
//! GRU (Cho et al. 2014), gates r, z, n:
//! ```text
//! r = σ(x_r + g_r)   z = σ(x_z + g_z)   n = tanh(x_n + r ⊙ g_n)   s = (1 − z) ⊙ n + z ⊙ s'
//! ```
//! LSTM (Hochreiter & Schmidhuber 1997, with forget gates), gates i, f, g, o and a cell `c` beside the state:
//! ```text
//! i, f, o = σ(x + g)   ĉ = tanh(x_g + g_g)   c = f ⊙ c' + i ⊙ ĉ   s = o ⊙ tanh(c)
//! ```
//! Saved for backward, a unit: (r, z, n, g_n) or (i, f, ĉ, o, c).

use super::real::{simd, Real};
pub use crate::kinds::Cell;

impl Cell {
    /// Rows of the weight matrices a hidden unit: 3 or 4.
    pub const fn gates(self) -> usize {
        match self {
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }

    /// Width of a row of states: the hidden state, and an LSTM's cell beside it.
    pub const fn state_width(self, hidden: usize) -> usize {
        match self {
            Cell::Gru => hidden,
            Cell::Lstm => 2 * hidden,
        }
    }

    /// Width of an LSTM's cell; zero for a GRU.
    pub(super) const fn memory_width(self, hidden: usize) -> usize {
        self.state_width(hidden) - hidden
    }

    /// Width of a row of what is saved for backward; it ends with the LSTM's cell.
    pub(super) const fn saved_width(self, hidden: usize) -> usize {
        4 * hidden + self.memory_width(hidden)
    }

    /// Columns, the last ones, in which the gradients of the two projections differ: a GRU's third gate.
    pub(super) const fn own_columns(self, hidden: usize) -> usize {
        match self {
            Cell::Gru => hidden,
            Cell::Lstm => 0,
        }
    }

    /// Advances one row: `hidden` (and `memory`, the LSTM's cell, else empty) go from the step before to this one.
    /// `g` is the state's projection without `bias`; `saved` is filled for [`Cell::backward`].
    pub(super) fn forward<T: Real>(
        self,
        x: &[T],
        g: &[T],
        bias: &[T],
        hidden: &mut [T],
        memory: &mut [T],
        saved: &mut [T],
    ) {
        match self {
            Cell::Gru => gru_forward(x, g, bias, hidden, saved),
            Cell::Lstm => lstm_forward(x, g, bias, hidden, memory, saved),
        }
    }

    /// Gradients of one row; `hidden` and `memory` are those of the step before. In: `dh`, `dm` of this step's state and
    /// cell. Out: `dx`, `dg` of the projections, and in place of `dh`, `dm` those of the step before (`dh` without the
    /// part that goes through `g`).
    pub(super) fn backward<T: Real>(self, saved: &[T], hidden: &[T], memory: &[T], d: Gradients<'_, T>) {
        let Gradients { dh, dm, dx, dg } = d;
        match self {
            Cell::Gru => gru_backward(saved, hidden, dh, dx, dg),
            Cell::Lstm => lstm_backward(saved, memory, dh, dm, dx, dg),
        }
    }
}

/// Rows that [`Cell::backward`] updates (`dh`, `dm`) and fills (`dx`, `dg`).
pub(super) struct Gradients<'a, T> {
    pub(super) dh: &'a mut [T],
    pub(super) dm: &'a mut [T],
    pub(super) dx: &'a mut [T],
    pub(super) dg: &'a mut [T],
}

/// Part `k` of a row that holds equal parts of `h` values.
#[inline(always)]
fn part<T>(row: &[T], k: usize, h: usize) -> &[T] {
    &row[k * h..][..h]
}

/// The `K` equal parts of a row, to write to.
#[inline(always)]
fn parts_mut<const K: usize, T>(row: &mut [T], h: usize) -> [&mut [T]; K] {
    let mut chunks = row.chunks_exact_mut(h);
    std::array::from_fn(|_| chunks.next().unwrap_or_default())
}

// Each loop below writes few slices: with more, the compiler gives up proving them apart and does not vectorize.

/// σ or tanh of the gates' sums: `y = φ(x + g + bias)`.
#[inline(always)]
fn gates<T: Real>(y: &mut [T], [x, g, bias]: [&[T]; 3], phi: impl Fn(T) -> T) {
    let n = y.len();
    let (x, g, bias) = (&x[..n], &g[..n], &bias[..n]);
    for i in 0..n {
        y[i] = phi(x[i] + g[i] + bias[i]);
    }
}

simd! {
    fn gru_forward<T: Real>(x: &[T], g: &[T], bias: &[T], hidden: &mut [T], saved: &mut [T]) {
        let h = hidden.len();
        let (rz, rest) = saved.split_at_mut(2 * h);
        gates(rz, [x, g, bias], T::sigmoid);
        let (r, z) = (part(rz, 0, h), part(rz, 1, h));
        let [n, u] = parts_mut(rest, h);
        let (x, g, bias) = (part(x, 2, h), part(g, 2, h), part(bias, 2, h));
        for i in 0..h {
            u[i] = g[i] + bias[i];
        }
        for i in 0..h {
            n[i] = Real::tanh(x[i] + r[i] * u[i]);
        }
        for i in 0..h {
            hidden[i] = n[i] + z[i] * (hidden[i] - n[i]);
        }
    }
}

simd! {
    fn gru_backward<T: Real>(saved: &[T], before: &[T], dh: &mut [T], dx: &mut [T], dg: &mut [T]) {
        let h = dh.len();
        let before = &before[..h];
        let [r, z, n, u] = [0, 1, 2, 3].map(|k| part(saved, k, h));
        let [dr, dz, dn] = parts_mut(dx, h);
        let (dr, dz, dn) = (&mut dr[..h], &mut dz[..h], &mut dn[..h]);
        let one = T::one();
        for i in 0..h {
            dn[i] = dh[i] * (one - z[i]) * (one - n[i] * n[i]);
        }
        for i in 0..h {
            dr[i] = dn[i] * u[i] * r[i] * (one - r[i]);
        }
        for i in 0..h {
            dz[i] = dh[i] * (before[i] - n[i]) * z[i] * (one - z[i]);
        }
        let (dg_rz, dg_n) = dg.split_at_mut(2 * h);
        let dg_n = &mut dg_n[..h];
        for i in 0..h {
            dg_n[i] = dn[i] * r[i];
        }
        for i in 0..h {
            dh[i] *= z[i];
        }
        dg_rz.copy_from_slice(&dx[..2 * h]);
    }
}

simd! {
    fn lstm_forward<T: Real>(x: &[T], g: &[T], bias: &[T], hidden: &mut [T], memory: &mut [T], saved: &mut [T]) {
        let h = hidden.len();
        let memory = &mut memory[..h];
        let of = |k: usize| [part(x, k, h), part(g, k, h), part(bias, k, h)];
        let [i, f, c, o, after] = parts_mut(saved, h);
        gates(i, of(0), T::sigmoid);
        gates(f, of(1), T::sigmoid);
        gates(c, of(2), Real::tanh);
        gates(o, of(3), T::sigmoid);
        let (i, f, c, o) = (&i[..h], &f[..h], &c[..h], &o[..h]);
        for k in 0..h {
            memory[k] = f[k] * memory[k] + i[k] * c[k];
        }
        for k in 0..h {
            hidden[k] = o[k] * Real::tanh(memory[k]);
        }
        after.copy_from_slice(memory);
    }
}

simd! {
    fn lstm_backward<T: Real>(
        saved: &[T],
        memory: &[T],
        dh: &mut [T],
        dm: &mut [T],
        dx: &mut [T],
        dg: &mut [T],
    ) {
        let h = dh.len();
        let (memory, dm) = (&memory[..h], &mut dm[..h]);
        let [i, f, c, o, after] = [0, 1, 2, 3, 4].map(|k| part(saved, k, h));
        let [di, df, dc, d_o] = parts_mut(dx, h);
        let (di, df, dc, d_o) = (&mut di[..h], &mut df[..h], &mut dc[..h], &mut d_o[..h]);
        let one = T::one();
        for k in 0..h {
            let y = Real::tanh(after[k]);
            d_o[k] = dh[k] * y * o[k] * (one - o[k]);
            dm[k] += dh[k] * o[k] * (one - y * y);
        }
        for k in 0..h {
            di[k] = dm[k] * c[k] * i[k] * (one - i[k]);
        }
        for k in 0..h {
            df[k] = dm[k] * memory[k] * f[k] * (one - f[k]);
        }
        for k in 0..h {
            dc[k] = dm[k] * i[k] * (one - c[k] * c[k]);
        }
        for k in 0..h {
            dm[k] *= f[k];
        }
        dh.fill(T::zero());
        dg.copy_from_slice(dx);
    }
}

#[cfg(test)]
pub(super) mod reference {
    use super::Cell;
    use candle_core::{Result, Tensor};

    fn sigmoid(x: &Tensor) -> Result<Tensor> {
        (x.neg()?.exp()? + 1.0)?.recip()
    }

    /// One step in plain candle; all rows `[1, ·]`.
    pub(in crate::ops) fn step(
        cell: Cell,
        x: &Tensor,
        g: &Tensor,
        state: &Tensor,
        memory: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (x, g) = (x.chunk(cell.gates(), 1)?, g.chunk(cell.gates(), 1)?);
        match cell {
            Cell::Gru => {
                let r = sigmoid(&(&x[0] + &g[0])?)?;
                let z = sigmoid(&(&x[1] + &g[1])?)?;
                let n = (&x[2] + (r * &g[2])?)?.tanh()?;
                let new = (((1.0 - &z)? * n)? + (z * state)?)?;
                Ok((new, memory.clone()))
            }
            Cell::Lstm => {
                let i = sigmoid(&(&x[0] + &g[0])?)?;
                let f = sigmoid(&(&x[1] + &g[1])?)?;
                let c = (&x[2] + &g[2])?.tanh()?;
                let o = sigmoid(&(&x[3] + &g[3])?)?;
                let memory = ((f * memory)? + (i * c)?)?;
                Ok(((o * memory.tanh()?)?, memory))
            }
        }
    }
}
