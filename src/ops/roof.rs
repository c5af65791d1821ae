//! The floating-point roof of one core, for benchmarks: what share of it does training reach?
//!
//! Twelve independent chains `v ← v·x + y` of the widest fused multiply-add the processor has (AVX-512, AVX2, or what
//! the compiler makes of plain arrays) hide the latency of each other; no memory is touched. Nothing can compute f32
//! products faster. Run it on as many threads as the work it is compared with, in the same minute.

use std::hint::black_box;
use std::time::Instant;

/// Vectors updated in turn: latency × ports is 8 to 10 on today's processors.
const CHAINS: usize = 12;

/// Rounds over all chains between two looks at the clock, well under a millisecond.
const ROUNDS: usize = 20_000;

/// A kernel: does [`ROUNDS`] rounds, returns the sum of the chains' first lanes.
type Kernel = fn() -> f32;

/// GFLOP/s of this thread (a fused multiply-add counts two), measured for about `seconds`.
pub fn fma_roof(seconds: f64) -> f64 {
    let (kernel, lanes) = kernel();
    black_box(kernel());
    let (start, mut calls) = (Instant::now(), 0u64);
    let elapsed = loop {
        black_box(kernel());
        calls += 1;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= seconds {
            break elapsed;
        }
    };
    calls as f64 * (ROUNDS * CHAINS * lanes * 2) as f64 / elapsed / 1e9
}

/// The widest kernel of this processor and its lanes.
fn kernel() -> (Kernel, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return (x86::avx512, 16);
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return (x86::avx2, 8);
        }
    }
    (portable, PORTABLE_LANES)
}

/// Near 0.1, where `v·x + y` stays: values that never overflow, vanish or become denormal.
fn operands() -> (f32, f32) {
    (black_box(0.999_999), black_box(1e-7))
}

const PORTABLE_LANES: usize = 8;

/// Plain arrays; one fused operation where the target always has it, else a product and a sum.
fn portable() -> f32 {
    let (x, y) = operands();
    let mut chains = [[y; PORTABLE_LANES]; CHAINS];
    for _ in 0..ROUNDS {
        for chain in &mut chains {
            for v in chain {
                *v = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                    v.mul_add(x, y)
                } else {
                    *v * x + y
                };
            }
        }
    }
    black_box(chains).iter().map(|chain| chain[0]).sum()
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod x86 {
    use super::{black_box, operands, CHAINS, ROUNDS};
    use std::arch::x86_64::*;

    pub(super) fn avx2() -> f32 {
        #[target_feature(enable = "avx2,fma")]
        fn run() -> f32 {
            let (x, y) = operands();
            let (x, y) = (_mm256_set1_ps(x), _mm256_set1_ps(y));
            let mut chains = [y; CHAINS];
            for _ in 0..ROUNDS {
                for v in &mut chains {
                    *v = _mm256_fmadd_ps(*v, x, y);
                }
            }
            let sum = chains.into_iter().fold(_mm256_setzero_ps(), |sum, v| _mm256_add_ps(sum, v));
            _mm256_cvtss_f32(black_box(sum))
        }
        // SAFETY: chosen by `kernel` after it found AVX2 and FMA.
        unsafe { run() }
    }

    pub(super) fn avx512() -> f32 {
        #[target_feature(enable = "avx512f")]
        fn run() -> f32 {
            let (x, y) = operands();
            let (x, y) = (_mm512_set1_ps(x), _mm512_set1_ps(y));
            let mut chains = [y; CHAINS];
            for _ in 0..ROUNDS {
                for v in &mut chains {
                    *v = _mm512_fmadd_ps(*v, x, y);
                }
            }
            let sum = chains.into_iter().fold(_mm512_setzero_ps(), |sum, v| _mm512_add_ps(sum, v));
            _mm512_cvtss_f32(black_box(sum))
        }
        // SAFETY: chosen by `kernel` after it found AVX-512.
        unsafe { run() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_is_a_speed() {
        let roof = fma_roof(0.001);
        assert!(roof > 0.0 && roof.is_finite(), "{roof}");
    }

    #[test]
    fn chains_move_towards_their_fixed_point() {
        let (kernel, _) = kernel();
        // 1e-7 · Σ 0.999999^i over ROUNDS, in each of 12 chains
        let expected = 0.1 * (1.0 - 0.999_999f64.powi(ROUNDS as i32 + 1)) * CHAINS as f64;
        assert!((f64::from(kernel()) - expected).abs() < 0.1 * expected, "{} {expected}", kernel());
    }
}
