//! The only source of randomness: seekable streams named by (seed, purpose, step).
//!
//! A stream is derived, never stored, so a resumed run draws the same numbers without any generator state in the
//! checkpoint. Masks of dropout use [`MaskKey`], a counter generator that can be evaluated at any element in any order.

use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream is for; the number is part of every derived value, so the order must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights; `step` is the index of the parameter.
    Init = 1,
    /// Order of sentences and batches; `step` is the epoch.
    Order = 2,
    /// Dropout masks; `step` is the micro-batch counted from the start of training.
    Dropout = 3,
    /// Choice among weighted corpora; `step` is the epoch.
    Mixture = 4,
    /// Sketches and probes of curvature methods; `step` is the update.
    Probe = 5,
    /// Generated text (benchmarks, quickstart data).
    Text = 6,
    /// Choice of pairs and rows for the embedding distance; `step` is the update.
    Sample = 7,
    /// Cuts of training text into pieces; `step` is the epoch, `index` the place of a sentence in it.
    Segmentation = 8,
    /// Translations that are drawn; `step` is the line, `index` the number of the sample.
    Sampling = 9,
}

/// A generator for `purpose` at `step` under `seed`.
pub fn stream(seed: u64, purpose: Purpose, step: u64) -> Stream {
    let mut chacha = ChaCha8Rng::seed_from_u64(seed);
    chacha.set_stream(((purpose as u64) << 48) ^ step);
    Stream { chacha, spare: None }
}

/// As [`stream`], one of 2⁶⁴ by `index`. The four numbers are the generator's key.
pub fn indexed_stream(seed: u64, purpose: Purpose, step: u64, index: u64) -> Stream {
    let mut key = [0; 32];
    for (place, number) in key.chunks_exact_mut(8).zip([seed, purpose as u64, step, index]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    Stream { chacha: ChaCha8Rng::from_seed(key), spare: None }
}

/// A random stream; see [`stream`].
pub struct Stream {
    chacha: ChaCha8Rng,
    spare: Option<f64>,
}

impl Stream {
    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.chacha.next_u64()
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`; `n` > 0. The bias of the multiply-shift is under n/2⁶⁴.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box–Muller, both values used).
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Fisher–Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Names one dropout mask: 32 random bits for each element index, computable in any order and never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskKey(u64);

impl MaskKey {
    /// `step`: the micro-batch since the start of training; `site`: the place in the network.
    pub fn new(seed: u64, step: u64, site: u64) -> Self {
        let purpose = (Purpose::Dropout as u64) << 56;
        MaskKey(mix(mix(mix(seed ^ purpose).wrapping_add(step)).wrapping_add(site)))
    }

    /// The lower and the upper half of the key, for kernels that compute [`MaskKey::bits`] elsewhere.
    #[cfg(feature = "cuda")]
    pub(crate) fn words(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }

    /// 32 uniform bits of element `index` (the finalizer of MurmurHash3 over a Weyl sequence, as in SplitMix).
    #[inline(always)]
    pub fn bits(self, index: u32) -> u32 {
        let lo = self.0 as u32;
        let hi = (self.0 >> 32) as u32;
        let mut x = index.wrapping_mul(0x9E37_79B9).wrapping_add(lo);
        x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B) ^ hi;
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
        x ^= x >> 16;
        x = x.wrapping_mul(0x7FEB_352D);
        x ^ (x >> 15)
    }
}

/// SplitMix64's finalizer.
fn mix(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_seed_purpose_and_step_only() {
        let draw = |seed, purpose, step| stream(seed, purpose, step).bits();
        assert_eq!(draw(1, Purpose::Init, 7), draw(1, Purpose::Init, 7));
        assert_ne!(draw(1, Purpose::Init, 7), draw(2, Purpose::Init, 7));
        assert_ne!(draw(1, Purpose::Init, 7), draw(1, Purpose::Order, 7));
        assert_ne!(draw(1, Purpose::Init, 7), draw(1, Purpose::Init, 8));
        let draw = |seed, purpose, step, index| indexed_stream(seed, purpose, step, index).bits();
        let one = draw(1, Purpose::Init, 2, 3);
        assert_eq!(one, draw(1, Purpose::Init, 2, 3));
        let others = [
            draw(2, Purpose::Init, 2, 3),
            draw(1, Purpose::Order, 2, 3),
            draw(1, Purpose::Init, 3, 3),
            draw(1, Purpose::Init, 3, 2),
        ];
        assert!(!others.contains(&one));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut rng = stream(3, Purpose::Init, 0);
        let draws: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }

    #[test]
    fn masks_are_balanced_and_independent_of_each_other() {
        let (a, b) = (MaskKey::new(1, 10, 0), MaskKey::new(1, 10, 1));
        let keep = |key: MaskKey, i| u32::from(key.bits(i) < u32::MAX / 10 * 9);
        let n = 200_000;
        let share = (0..n).map(|i| keep(a, i)).sum::<u32>() as f64 / f64::from(n);
        let both = (0..n).map(|i| keep(a, i) * keep(b, i)).sum::<u32>() as f64 / f64::from(n);
        assert!((share - 0.9).abs() < 0.004, "{share}");
        assert!((both - 0.81).abs() < 0.005, "{both}");
    }
}
