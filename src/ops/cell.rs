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
//! Saved for backward, four values a unit: (r, z, n, g_n) or (i, f, ĉ, o).

use super::real::{simd, Real};

/// Which gated cell a recurrence has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Gru,
    Lstm,
}

/// Values saved for backward a hidden unit and step.
pub(super) const SAVED: usize = 4;

impl Cell {
    /// Rows of the weight matrices a hidden unit: 3 or 4.
    pub const fn gates(self) -> usize {
        match self {
            Cell::Gru => 3,
            Cell::Lstm => 4,
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

    /// Gradients of one row. In: `dh`, `dm` of this step's state and cell. Out: `dx`, `dg` of the projections, and in
    /// place of `dh`, `dm` those of the step before (`dh` without the part that goes through `g`).
    pub(super) fn backward<T: Real>(self, saved: &[T], before: Before<'_, T>, d: Gradients<'_, T>) {
        let Gradients { dh, dm, dx, dg } = d;
        match self {
            Cell::Gru => gru_backward(saved, before.hidden, dh, dx, dg),
            Cell::Lstm => lstm_backward(saved, before.memory, before.memory_after, dh, dm, dx, dg),
        }
    }
}

/// What backward needs of the states around a step; the cells are empty for a GRU.
#[derive(Clone, Copy)]
pub(super) struct Before<'a, T> {
    pub(super) hidden: &'a [T],
    pub(super) memory: &'a [T],
    pub(super) memory_after: &'a [T],
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

/// Three or four equal parts of a row, to write to.
#[inline(always)]
fn parts_mut<const K: usize, T>(row: &mut [T], h: usize) -> [&mut [T]; K] {
    let mut chunks = row.chunks_exact_mut(h);
    std::array::from_fn(|_| chunks.next().unwrap_or_default())
}

simd! {
fn gru_forward<T: Real>(x: &[T], g: &[T], bias: &[T], hidden: &mut [T], saved: &mut [T]) {
    let h = hidden.len();
    let [xr, xz, xn] = [0, 1, 2].map(|k| part(x, k, h));
    let [gr, gz, gn] = [0, 1, 2].map(|k| part(g, k, h));
    let [br, bz, bn] = [0, 1, 2].map(|k| part(bias, k, h));
    let [sr, sz, sn, su] = parts_mut(saved, h);
    let (sr, sz, sn, su) = (&mut sr[..h], &mut sz[..h], &mut sn[..h], &mut su[..h]);
    for i in 0..h {
        let r = (xr[i] + gr[i] + br[i]).sigmoid();
        let z = (xz[i] + gz[i] + bz[i]).sigmoid();
        let u = gn[i] + bn[i];
        let n = Real::tanh(xn[i] + r * u);
        hidden[i] = n + z * (hidden[i] - n);
        sr[i] = r;
        sz[i] = z;
        sn[i] = n;
        su[i] = u;
    }
}
}

simd! {
fn gru_backward<T: Real>(saved: &[T], before: &[T], dh: &mut [T], dx: &mut [T], dg: &mut [T]) {
    let h = dh.len();
    let before = &before[..h];
    let [sr, sz, sn, su] = [0, 1, 2, 3].map(|k| part(saved, k, h));
    let [dxr, dxz, dxn] = parts_mut(dx, h);
    let [dgr, dgz, dgn] = parts_mut(dg, h);
    let (dxr, dxz, dxn) = (&mut dxr[..h], &mut dxz[..h], &mut dxn[..h]);
    let (dgr, dgz, dgn) = (&mut dgr[..h], &mut dgz[..h], &mut dgn[..h]);
    let one = T::one();
    for i in 0..h {
        let (r, z, n) = (sr[i], sz[i], sn[i]);
        let dn = dh[i] * (one - z) * (one - n * n);
        let dz = dh[i] * (before[i] - n) * z * (one - z);
        let dr = dn * su[i] * r * (one - r);
        dxr[i] = dr;
        dgr[i] = dr;
        dxz[i] = dz;
        dgz[i] = dz;
        dxn[i] = dn;
        dgn[i] = dn * r;
        dh[i] = dh[i] * z;
    }
}
}

simd! {
fn lstm_forward<T: Real>(x: &[T], g: &[T], bias: &[T], hidden: &mut [T], memory: &mut [T], saved: &mut [T]) {
    let h = hidden.len();
    let memory = &mut memory[..h];
    let [xi, xf, xg, xo] = [0, 1, 2, 3].map(|k| part(x, k, h));
    let [gi, gf, gg, go] = [0, 1, 2, 3].map(|k| part(g, k, h));
    let [bi, bf, bg, bo] = [0, 1, 2, 3].map(|k| part(bias, k, h));
    let [si, sf, sg, so] = parts_mut(saved, h);
    let (si, sf, sg, so) = (&mut si[..h], &mut sf[..h], &mut sg[..h], &mut so[..h]);
    for k in 0..h {
        let i = (xi[k] + gi[k] + bi[k]).sigmoid();
        let f = (xf[k] + gf[k] + bf[k]).sigmoid();
        let g = Real::tanh(xg[k] + gg[k] + bg[k]);
        let o = (xo[k] + go[k] + bo[k]).sigmoid();
        let c = f * memory[k] + i * g;
        memory[k] = c;
        hidden[k] = o * Real::tanh(c);
        si[k] = i;
        sf[k] = f;
        sg[k] = g;
        so[k] = o;
    }
}
}

simd! {
fn lstm_backward<T: Real>(
    saved: &[T],
    memory: &[T],
    memory_after: &[T],
    dh: &mut [T],
    dm: &mut [T],
    dx: &mut [T],
    dg: &mut [T],
) {
    let h = dh.len();
    let (memory, memory_after, dm) = (&memory[..h], &memory_after[..h], &mut dm[..h]);
    let [si, sf, sg, so] = [0, 1, 2, 3].map(|k| part(saved, k, h));
    let [di, df, dc, d_o] = parts_mut(dx, h);
    let (di, df, dc, d_o) = (&mut di[..h], &mut df[..h], &mut dc[..h], &mut d_o[..h]);
    let one = T::one();
    for k in 0..h {
        let (i, f, g, o) = (si[k], sf[k], sg[k], so[k]);
        let y = Real::tanh(memory_after[k]);
        let dmemory = dm[k] + dh[k] * o * (one - y * y);
        di[k] = dmemory * g * i * (one - i);
        df[k] = dmemory * memory[k] * f * (one - f);
        dc[k] = dmemory * i * (one - g * g);
        d_o[k] = dh[k] * y * o * (one - o);
        dm[k] = dmemory * f;
        dh[k] = T::zero();
    }
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
