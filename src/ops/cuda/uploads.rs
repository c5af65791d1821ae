//! Borders of sentences on the GPU: made once a batch, for all layers use the same.

use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::Result;
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::Upload;

/// Batches whose borders are kept: source and target of training, and of a validation in between.
const KEPT: usize = 8;

type Borders = Arc<Vec<usize>>;

/// Offsets of queries and keys, and the number of (query, key) pairs before each sentence (mod 2³²: places of masks).
pub(super) struct Pairs {
    pub(super) q_offsets: Upload<i32>,
    pub(super) k_offsets: Upload<i32>,
    pub(super) pairs: Upload<u32>,
}

struct Kept {
    device: DeviceId,
    /// Held, so that the addresses name these borders as long as they are here.
    borders: [Borders; 2],
    pairs: Arc<Pairs>,
}

static CACHE: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// What the borders of queries and keys come to on this GPU.
pub(super) fn pairs(device: &CudaDevice, q: &Borders, k: &Borders) -> Result<Arc<Pairs>> {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |kept: &&Kept| {
        kept.device == device.id() && Arc::ptr_eq(&kept.borders[0], q) && Arc::ptr_eq(&kept.borders[1], k)
    };
    if let Some(kept) = cache.iter().find(same) {
        return Ok(Arc::clone(&kept.pairs));
    }
    let mut sum = 0u32;
    let mut before = Vec::with_capacity(q.len());
    for (q, k) in q.windows(2).zip(k.windows(2)) {
        before.push(sum);
        sum = sum.wrapping_add(((q[1] - q[0]) * (k[1] - k[0])) as u32);
    }
    before.push(sum);
    let offsets = |borders: &Borders| Upload::new(device, &counts(borders));
    let pairs =
        Arc::new(Pairs { q_offsets: offsets(q)?, k_offsets: offsets(k)?, pairs: Upload::new(device, &before)? });
    if cache.len() == KEPT {
        cache.remove(0);
    }
    cache.push(Kept { device: device.id(), borders: [Arc::clone(q), Arc::clone(k)], pairs: Arc::clone(&pairs) });
    Ok(pairs)
}

/// As the kernels' `int`.
pub(super) fn counts(values: &[usize]) -> Vec<i32> {
    values.iter().map(|&value| value as i32).collect()
}
