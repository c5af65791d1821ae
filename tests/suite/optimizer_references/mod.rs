//! Textbook forms of the optimizers on plain f64 numbers, written from their formulas without a look at the fast ones.

pub(crate) mod hvr;
pub(crate) mod schedule_free;

use nmt_train::config::{Hessian2Config, MuonScale, SgdConfig, SoapConfig};
use nmt_train::optim::probe_stream;
use nmt_train::params::ParamKind;

/// One parameter at one update.
pub(crate) struct Moment<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: ParamKind,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) step: u64,
    pub(crate) seed: u64,
    pub(crate) lr: f64,
    /// 0 where decay does not reach.
    pub(crate) weight_decay: f64,
    /// Rows of the input of a linear map.
    pub(crate) input: Option<&'a M>,
}

pub(crate) trait Reference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]);
}

pub(crate) struct AdamReference {
    betas: (f64, f64),
    eps: f64,
    decoupled: bool,
    t: i32,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl AdamReference {
    pub(crate) fn new(beta1: f64, beta2: f64, eps: f64, decoupled: bool) -> Self {
        AdamReference { betas: (beta1, beta2), eps, decoupled, t: 0, m: Vec::new(), v: Vec::new() }
    }
}

impl Reference for AdamReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        self.t += 1;
        self.m.resize(w.len(), 0.0);
        self.v.resize(w.len(), 0.0);
        let (beta1, beta2) = self.betas;
        for i in 0..w.len() {
            let mut g = g[i];
            if self.decoupled {
                w[i] -= at.lr * at.weight_decay * w[i];
            } else {
                g += at.weight_decay * w[i];
            }
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g;
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g * g;
            let m_hat = self.m[i] / (1.0 - beta1.powi(self.t));
            let v_hat = self.v[i] / (1.0 - beta2.powi(self.t));
            w[i] -= at.lr * m_hat / (v_hat.sqrt() + self.eps);
        }
    }
}

pub(crate) struct SgdReference {
    pub(crate) config: SgdConfig,
    pub(crate) buffer: Option<Vec<f64>>,
}

impl Reference for SgdReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let g: Vec<f64> = g.iter().zip(w.iter()).map(|(g, w)| g + at.weight_decay * w).collect();
        let SgdConfig { momentum, dampening, nesterov } = self.config;
        let buffer = match self.buffer.take() {
            None => g.clone(),
            Some(old) => old.iter().zip(&g).map(|(b, g)| momentum * b + (1.0 - dampening) * g).collect(),
        };
        for i in 0..w.len() {
            w[i] -= at.lr * if nesterov { g[i] + momentum * buffer[i] } else { buffer[i] };
        }
        self.buffer = Some(buffer);
    }
}

/// A matrix for people who have time.
#[derive(Clone, Debug)]
pub(crate) struct M {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) x: Vec<f64>,
}

impl M {
    pub(crate) fn of(rows: usize, columns: usize, x: &[f64]) -> M {
        assert_eq!(x.len(), rows * columns);
        M { rows, columns, x: x.to_vec() }
    }

    fn by(rows: usize, columns: usize, mut f: impl FnMut(usize, usize) -> f64) -> M {
        M { rows, columns, x: (0..rows * columns).map(|at| f(at / columns, at % columns)).collect() }
    }

    fn identity(n: usize, scale: f64) -> M {
        M::by(n, n, |i, j| if i == j { scale } else { 0.0 })
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.x[i * self.columns + j]
    }

    fn t(&self) -> M {
        M::by(self.columns, self.rows, |i, j| self.at(j, i))
    }

    fn mul(&self, b: &M) -> M {
        assert_eq!(self.columns, b.rows);
        M::by(self.rows, b.columns, |i, j| (0..self.columns).map(|k| self.at(i, k) * b.at(k, j)).sum())
    }

    fn plus(&self, factor: f64, b: &M) -> M {
        M::by(self.rows, self.columns, |i, j| self.at(i, j) + factor * b.at(i, j))
    }

    fn times(&self, factor: f64) -> M {
        M::by(self.rows, self.columns, |i, j| factor * self.at(i, j))
    }

    fn mean_diagonal(&self) -> f64 {
        (0..self.rows).map(|i| self.at(i, i)).sum::<f64>() / self.rows as f64
    }

    fn norm(&self) -> f64 {
        self.x.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    fn rms(&self) -> f64 {
        self.norm() / (self.x.len() as f64).sqrt()
    }

    /// Gauss and Jordan, with pivots.
    fn inverse(&self) -> M {
        let n = self.rows;
        let (mut a, mut inverse) = (self.clone(), M::identity(n, 1.0));
        for c in 0..n {
            let pivot = (c..n).max_by(|&i, &j| a.at(i, c).abs().total_cmp(&a.at(j, c).abs())).unwrap();
            for j in 0..n {
                a.x.swap(c * n + j, pivot * n + j);
                inverse.x.swap(c * n + j, pivot * n + j);
            }
            let scale = a.at(c, c);
            for j in 0..n {
                a.x[c * n + j] /= scale;
                inverse.x[c * n + j] /= scale;
            }
            for i in (0..n).filter(|&i| i != c) {
                let factor = a.at(i, c);
                for j in 0..n {
                    a.x[i * n + j] -= factor * a.x[c * n + j];
                    inverse.x[i * n + j] -= factor * inverse.x[c * n + j];
                }
            }
        }
        inverse
    }

    /// Eigenvectors of a symmetric matrix as columns, largest eigenvalue first (Jacobi's rotations).
    fn eigenvectors(&self) -> M {
        let n = self.rows;
        let (mut a, mut q) = (self.clone(), M::identity(n, 1.0));
        for _ in 0..60 {
            for i in 0..n {
                for j in i + 1..n {
                    if a.at(i, j).abs() < 1e-300 {
                        continue;
                    }
                    let theta = 0.5 * (2.0 * a.at(i, j)).atan2(a.at(j, j) - a.at(i, i));
                    let (s, c) = theta.sin_cos();
                    let turn = |m: &mut M| {
                        for k in 0..n {
                            let (x, y) = (m.at(k, i), m.at(k, j));
                            m.x[k * n + i] = c * x - s * y;
                            m.x[k * n + j] = s * x + c * y;
                        }
                    };
                    turn(&mut a);
                    a = a.t();
                    turn(&mut a);
                    a = a.t();
                    turn(&mut q);
                }
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| a.at(j, j).total_cmp(&a.at(i, i)));
        M::by(n, n, |i, j| q.at(i, order[j]))
    }

    /// Q of the QR decomposition (Gram and Schmidt, twice).
    fn orthonormal(&self) -> M {
        let mut q = self.clone();
        for j in 0..q.columns {
            for _ in 0..2 {
                for k in 0..j {
                    let dot: f64 = (0..q.rows).map(|i| q.at(i, j) * q.at(i, k)).sum();
                    (0..q.rows).for_each(|i| q.x[i * q.columns + j] -= dot * q.at(i, k));
                }
            }
            let norm = (0..q.rows).map(|i| q.at(i, j).powi(2)).sum::<f64>().sqrt();
            (0..q.rows).for_each(|i| q.x[i * q.columns + j] /= norm);
        }
        q
    }
}

/// `w ← w·(1 − lr·wd) − lr·u`.
fn write(at: &Moment<'_>, w: &mut [f64], u: &M) {
    w.iter_mut().zip(&u.x).for_each(|(w, u)| *w = *w * (1.0 - at.lr * at.weight_decay) - at.lr * u);
}

/// What an optimizer of matrices does with everything else.
pub(crate) struct OrAdam<R> {
    pub(crate) matrices: R,
    pub(crate) adam: AdamReference,
    pub(crate) takes: fn(ParamKind, bool) -> bool,
}

impl<R: Reference> Reference for OrAdam<R> {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        if (self.takes)(at.kind, at.input.is_some()) {
            self.matrices.step(at, w, g);
        } else {
            self.adam.step(at, w, g);
        }
    }
}

pub(crate) fn hidden(kind: ParamKind, _has_input: bool) -> bool {
    matches!(kind, ParamKind::Matrix | ParamKind::Recurrent)
}

pub(crate) fn not_vectors(kind: ParamKind, _has_input: bool) -> bool {
    kind != ParamKind::Vector
}

pub(crate) fn tables_and_seen(kind: ParamKind, has_input: bool) -> bool {
    has_input || matches!(kind, ParamKind::Table { .. })
}

#[derive(Default)]
pub(crate) struct MuonReference {
    m: Option<M>,
}

impl Reference for MuonReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let g = M::of(at.rows, at.columns, g);
        let m = self.m.take().map_or_else(|| g.times(0.05), |m| m.times(0.95).plus(0.05, &g));
        let ahead = g.times(0.05).plus(0.95, &m);
        let mut x = ahead.times(1.0 / ahead.norm().max(1e-7));
        for _ in 0..5 {
            let s = x.mul(&x.t());
            x = x.times(3.4445).plus(1.0, &s.times(-4.7750).plus(2.0315, &s.mul(&s)).mul(&x));
        }
        assert_eq!(MuonScale::MatchRmsAdamw, nmt_train::config::MuonConfig::default().scale);
        write(at, w, &x.times(0.2 * (at.rows.max(at.columns) as f64).sqrt()));
        self.m = Some(m);
    }
}

#[derive(Default)]
pub(crate) struct SoapReference {
    state: Option<Soap>,
}

struct Soap {
    k: i32,
    m: M,
    v: M,
    left: M,
    right: M,
    q_left: M,
    q_right: M,
}

impl Reference for SoapReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let SoapConfig { beta1, beta2, eps, .. } = SoapConfig::default();
        let g = M::of(at.rows, at.columns, g);
        let Some(s) = &mut self.state else {
            let (left, right) = (g.mul(&g.t()).times(1.0 - beta2), g.t().mul(&g).times(1.0 - beta2));
            let (q_left, q_right) = (left.eigenvectors(), right.eigenvectors());
            let zero = g.times(0.0);
            self.state = Some(Soap { k: 0, m: zero.clone(), v: zero, left, right, q_left, q_right });
            w.iter_mut().for_each(|w| *w *= 1.0 - at.lr * at.weight_decay);
            return;
        };
        let rotate = |q: (&M, &M), x: &M| q.0.t().mul(x).mul(q.1);
        let turned = rotate((&s.q_left, &s.q_right), &g);
        s.k += 1;
        s.m = s.m.times(beta1).plus(1.0 - beta1, &turned);
        s.v = s.v.times(beta2).plus(1.0 - beta2, &M::by(at.rows, at.columns, |i, j| turned.at(i, j).powi(2)));
        let size = (1.0 - beta2.powi(s.k)).sqrt() / (1.0 - beta1.powi(s.k));
        let adam = M::by(at.rows, at.columns, |i, j| s.m.at(i, j) / (s.v.at(i, j).sqrt() + eps));
        write(at, w, &s.q_left.mul(&adam).mul(&s.q_right.t()).times(size));
        let momentum = s.q_left.mul(&s.m).mul(&s.q_right.t());
        s.left = s.left.times(beta2).plus(1.0 - beta2, &g.mul(&g.t()));
        s.right = s.right.times(beta2).plus(1.0 - beta2, &g.t().mul(&g));
        if s.k % 10 == 0 {
            let sorted = |factor: &M, q: &M| -> Vec<usize> {
                let energy = q.t().mul(factor).mul(q);
                let mut order: Vec<usize> = (0..q.columns).collect();
                order.sort_by(|&i, &j| energy.at(j, j).total_cmp(&energy.at(i, i)));
                order
            };
            let (rows, columns) = (sorted(&s.left, &s.q_left), sorted(&s.right, &s.q_right));
            s.v = M::by(at.rows, at.columns, |i, j| s.v.at(rows[i], columns[j]));
            let next = |factor: &M, q: &M, order: &[usize]| {
                factor.mul(&M::by(q.rows, q.columns, |i, j| q.at(i, order[j]))).orthonormal()
            };
            s.q_left = next(&s.left, &s.q_left, &rows);
            s.q_right = next(&s.right, &s.q_right, &columns);
            s.m = rotate((&s.q_left, &s.q_right), &momentum);
        }
    }
}

/// `hessian2` white.
pub(crate) struct WhiteReference {
    pub(crate) config: Hessian2Config,
    pub(crate) state: Option<White>,
}

pub(crate) struct White {
    t: i32,
    m: M,
    left: M,
    right: M,
}

impl Reference for WhiteReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let Hessian2Config { beta1, curvature_beta, damping, trust, row_power, .. } = self.config;
        let (o, i) = (at.rows, at.columns);
        let table = matches!(at.kind, ParamKind::Table { .. });
        let g = M::of(o, i, g);
        let s = self.state.get_or_insert_with(|| {
            let scale = g.rms();
            let left = if table { M::by(o, 1, |_, _| scale) } else { M::identity(o, scale.powf(-0.5)) };
            White { t: 0, m: g.times(0.0), left, right: M::identity(i, scale.powf(-0.5)) }
        });
        s.t += 1;
        let beta = curvature_beta.max(1.0 / (f64::from(s.t) + 2.0));
        s.m = s.m.times(beta1).plus(1.0 - beta1, &g);
        let ahead = s.m.times(beta1).plus(1.0 - beta1, &g).times(1.0 / (1.0 - beta1.powi(s.t)));

        let mut random = probe_stream(at.seed, at.step, at.name);
        if at.step.is_multiple_of(100) {
            // the residual's probe
            for _ in 0..o {
                let _ = random.normal();
            }
        }
        let damp = |h: &M, random: &mut nmt_train::rng::Stream| {
            let omega = M::by(4, h.rows, |_, _| sign(random));
            h.mul(&omega.t()).times((damping / 4.0).sqrt() / h.mean_diagonal())
        };
        let beside = |a: &M, b: &M| {
            M::by(a.rows, a.columns + b.columns, |r, c| if c < a.columns { a.at(r, c) } else { b.at(r, c - a.columns) })
        };
        let mut update;
        if table {
            let white = g.mul(&s.right);
            let k = (i / 16).max(8);
            let seen = if k < i {
                let signs = M::by(k, i, |_, _| sign(&mut random));
                white.mul(&signs.t()).times((i as f64).powf(-0.5))
            } else {
                white.clone()
            };
            for r in 0..o {
                let now = (0..seen.columns).map(|c| seen.at(r, c).powi(2)).sum::<f64>() / seen.columns as f64;
                s.left.x[r] = (1.0 - beta) * s.left.x[r] + beta * now;
            }
            let mean = s.left.x.iter().sum::<f64>() / o as f64;
            let gain: Vec<f64> = s.left.x.iter().map(|r| (r + damping * mean).powf(-0.5)).collect();
            let raised = |r: &f64, power: f64| (r + damping * mean).powf(power);
            let size = (s.left.x.iter().map(|r| raised(r, 1.0 - 2.0 * row_power)).sum::<f64>() / o as f64).sqrt();
            update = ahead.mul(&s.right);
            update = M::by(o, i, |r, c| raised(&s.left.x[r], -row_power) / size * update.at(r, c));
            let present: Vec<usize> = (0..o).filter(|&r| (0..i).any(|c| g.at(r, c) != 0.0)).collect();
            let rows: Vec<usize> = (0..k).map(|_| present[random.below(present.len())]).collect();
            let share = (present.len() as f64 / o as f64 / k as f64).sqrt();
            let z = M::by(i, k, |c, j| white.at(rows[j], c) * gain[rows[j]] * share);
            let z = beside(&z, &damp(&s.right, &mut random));
            s.right = product_form(&s.right, &z, beta);
        } else {
            update = s.left.mul(&ahead).mul(&s.right);
            let white = s.left.mul(&g).mul(&s.right);
            let (k_left, k_right) = ((o / 16).max(8), (i / 16).max(8));
            let columns: Vec<usize> = (0..k_left).map(|_| random.below(i)).collect();
            let rows: Vec<usize> = (0..k_right).map(|_| random.below(o)).collect();
            let z_left = M::by(o, k_left, |r, j| white.at(r, columns[j]) / (k_left as f64).sqrt());
            let z_right = M::by(i, k_right, |c, j| white.at(rows[j], c) / (k_right as f64).sqrt());
            let z_left = beside(&z_left, &damp(&s.left, &mut random));
            let z_right = beside(&z_right, &damp(&s.right, &mut random));
            s.left = product_form(&s.left, &z_left, beta);
            s.right = product_form(&s.right, &z_right, beta);
        }
        write(at, w, &update.times((trust / update.rms()).min(1.0)));
    }
}

fn sign(random: &mut nmt_train::rng::Stream) -> f64 {
    if random.bits() & 1 == 0 {
        1.0
    } else {
        -1.0
    }
}

/// (I − Z𝒜Zᵀ)·H·(I − Z𝒜Zᵀ)/√(1 − β), literally.
fn product_form(h: &M, z: &M, beta: f64) -> M {
    let gamma = beta / (1.0 - beta);
    let a = M::identity(z.columns, 1.0).plus(0.625 * gamma, &z.t().mul(z)).inverse().times(gamma / 4.0);
    let side = M::identity(h.rows, 1.0).plus(-1.0, &z.mul(&a).mul(&z.t()));
    side.mul(h).mul(&side).times((1.0 - beta).powf(-0.5))
}

/// `hessian2` kron on inputs of at most one block; the inverse is that of BFGS from the same directions.
pub(crate) struct KronReference {
    pub(crate) config: Hessian2Config,
    pub(crate) state: Option<Kron>,
}

pub(crate) struct Kron {
    t: i32,
    m: M,
    r: Vec<f64>,
    q: f64,
    measured: f64,
    factor: Option<(M, M, f64)>,
}

impl Reference for KronReference {
    fn step(&mut self, at: &Moment<'_>, w: &mut [f64], g: &[f64]) {
        let Hessian2Config { beta1, beta2, input_beta, input_damping, trust, .. } = self.config;
        let (o, i) = (at.rows, at.columns);
        let g = M::of(o, i, g);
        let s = self.state.get_or_insert_with(|| Kron {
            t: 0,
            m: g.times(0.0),
            r: vec![0.0; o],
            q: 0.0,
            measured: 0.0,
            factor: None,
        });
        if let Some(x) = at.input.filter(|_| at.step < 50 || at.step.is_multiple_of(2)) {
            let now = x.t().mul(x).times(1.0 / x.rows as f64);
            s.factor = Some(match s.factor.take() {
                None => {
                    let damped = now.plus(input_damping * now.mean_diagonal(), &M::identity(i, 1.0));
                    (now, damped.inverse(), 1.0)
                }
                Some((a, h, n)) => {
                    let a = a.plus(input_beta.max(1.0 / (n + 1.0)), &now.plus(-1.0, &a));
                    let damped = a.plus(input_damping * a.mean_diagonal(), &M::identity(i, 1.0));
                    let mut random = probe_stream(at.seed + 1, at.step, at.name);
                    let k = (i / 16).max(8).min(i);
                    let directions = M::by(k, i, |_, _| random.normal()).t();
                    let y = damped.mul(&directions);
                    let p = directions.t().mul(&y).inverse();
                    // (I − SPYᵀ)·H·(I − YPSᵀ) + SPSᵀ
                    let sp = directions.mul(&p);
                    let side = M::identity(i, 1.0).plus(-1.0, &sp.mul(&y.t()));
                    let h = side.mul(&h).mul(&side.t()).plus(1.0, &sp.mul(&directions.t()));
                    (a, h, n + 1.0)
                }
            });
        }
        s.t += 1;
        let omega = ((f64::from(s.t) - 20.0) / 100.0).clamp(0.0, 1.0);
        let whiten = |m: &M| match &s.factor {
            None => m.clone(),
            Some((a, h, _)) => m.mul(h).times(omega).plus((1.0 - omega) / a.mean_diagonal(), m),
        };
        let t = s.t;
        if t < 20 || (t < 150 && t % 2 == 0) || t % 4 == 0 {
            let p = whiten(&g);
            let share = (1.0 - beta2.powi(4)).max(1.0 / (s.measured + 1.0));
            s.measured += 1.0;
            for r in 0..o {
                let now = (0..i).map(|c| g.at(r, c) * p.at(r, c)).sum::<f64>() / i as f64;
                s.r[r] += share * (now - s.r[r]);
            }
            let mean = s.r.iter().sum::<f64>() / o as f64;
            let mut raw = 0.0;
            for r in 0..o {
                s.r[r] = s.r[r].max(1e-12 * mean);
                raw += (0..i).map(|c| p.at(r, c).powi(2)).sum::<f64>() / s.r[r];
            }
            s.q += share * (raw / (o * i) as f64 - s.q);
        }
        s.m = s.m.times(beta1).plus(1.0 - beta1, &g);
        let white = whiten(&s.m);
        let update = M::by(o, i, |r, c| white.at(r, c) / (s.r[r].sqrt() * s.q.sqrt() * (1.0 - beta1.powi(t))));
        write(at, w, &update.times((trust / update.rms()).min(1.0)));
    }
}
