//! Pairs of given source and target ids, cut into batches.

use crate::batch::Sequences;
use crate::data::SOURCE_SHARE;

/// Indices of the pairs that have ids on both sides, in order, cut into batches of at most `batch_size` target tokens with
/// [`SOURCE_SHARE`] times as many source tokens at most; a longer pair goes alone.
pub(super) fn batches(pairs: &[(Vec<u32>, Vec<u32>)], batch_size: usize) -> Vec<Vec<usize>> {
    let full: Vec<usize> = (0..pairs.len()).filter(|&i| !pairs[i].0.is_empty() && !pairs[i].1.is_empty()).collect();
    let mut rest = full.as_slice();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let (mut source, mut target) = (0, 0);
        let fitting = rest.iter().take_while(|&&i| {
            (source, target) = (source + pairs[i].0.len(), target + pairs[i].1.len());
            target <= batch_size && source <= batch_size.saturating_mul(SOURCE_SHARE)
        });
        let (batch, later) = rest.split_at(fitting.count().max(1));
        batches.push(batch.to_vec());
        rest = later;
    }
    batches
}

/// Source and target of some of the pairs.
pub(super) fn pack(pairs: &[(Vec<u32>, Vec<u32>)], batch: &[usize]) -> [Sequences; 2] {
    [
        Sequences::pack(batch.iter().map(|&i| pairs[i].0.as_slice())),
        Sequences::pack(batch.iter().map(|&i| pairs[i].1.as_slice())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_in_order_and_leave_out_what_has_no_ids() {
        let pair = |source: usize, target: usize| (vec![1; source], vec![1; target]);
        let pairs = [pair(1, 3), pair(0, 1), pair(1, 4), pair(1, 1), pair(9, 9), pair(2, 0), pair(1, 1)];
        assert_eq!(batches(&pairs, 7), [vec![0, 2], vec![3], vec![4], vec![6]]);
        assert_eq!(batches(&pairs, 0).len(), 5);
        let [source, target] = pack(&pairs, &[2, 3]);
        assert_eq!((source.tokens(), target.tokens(), target.range(1)), (2, 5, 4..5));
    }
}
