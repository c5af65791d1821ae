//! Packed batches: sequences end to end without padding, with the offsets at which each begins.

use std::ops::Range;
use std::sync::Arc;

/// Token sequences, packed. Sequence `i` is `ids[offsets[i]..offsets[i + 1]]`; none is empty in training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    pub ids: Vec<u32>,
    /// `len() + 1` entries, the first 0, the last `ids.len()`; shared with the operations that need sentence borders.
    pub offsets: Arc<Vec<usize>>,
}

impl Sequences {
    /// Packs slices in the given order.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut ids, mut offsets) = (Vec::new(), vec![0]);
        for sequence in sequences {
            ids.extend_from_slice(sequence);
            offsets.push(ids.len());
        }
        Sequences { ids, offsets: Arc::new(offsets) }
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Positions of sequence `i` in `ids`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.offsets[i]..self.offsets[i + 1]
    }

    /// Sequence `i`.
    pub fn get(&self, i: usize) -> &[u32] {
        &self.ids[self.range(i)]
    }

    /// All of them `times` times, one after the other.
    #[must_use]
    pub fn repeated(&self, times: usize) -> Self {
        match times {
            1 => self.clone(),
            _ => Sequences::pack((0..times).flat_map(|_| (0..self.len()).map(|i| self.get(i)))),
        }
    }

    /// Decoder inputs for these labels: each sequence moved right by one, `start` in front, its last token dropped.
    #[must_use]
    pub fn shifted_right(&self, start: u32) -> Self {
        let mut ids = Vec::with_capacity(self.ids.len());
        for i in 0..self.len() {
            if let Some((_, front)) = self.get(i).split_last() {
                ids.push(start);
                ids.extend_from_slice(front);
            }
        }
        Sequences { ids, offsets: Arc::clone(&self.offsets) }
    }
}

/// Sentence pairs of one micro-batch; both sides end with `</s>`.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub source: Sequences,
    /// Labels; the decoder reads [`Sequences::shifted_right`] of it.
    pub target: Sequences,
    /// Index of each pair in its corpus, for messages and for restoring the order of translations.
    pub pairs: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_input_is_the_labels_shifted_right() {
        let labels = Sequences::pack([&[5, 6, 2][..], &[2][..]]);
        let input = labels.shifted_right(9);
        assert_eq!(input.ids, [9, 5, 6, 9]);
        assert_eq!(input.offsets, labels.offsets);
        assert_eq!(labels.get(1), [2]);
        assert_eq!(labels.repeated(2), Sequences::pack([&[5, 6, 2][..], &[2], &[5, 6, 2], &[2]]));
    }
}
