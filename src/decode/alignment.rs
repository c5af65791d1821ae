//! Which source token each token of a translation was read from, by the attention of one model.

use super::workers::{self, Watch};
use super::{pairs, Result};
use crate::model::{Forward, Model};

/// For each target token of each `(source, target)` pair the place of the source token, from 0, with the largest weight in
/// the model's attention ([`Model::alignment`]); nothing for a pair without ids on both sides.
///
/// `target`: the tokens that were chosen ([`super::Hypothesis::labels`]). `start`: what the decoder reads first.
/// `batch_size`: target tokens aligned together, see [`pairs::batches`].
///
/// # Errors
/// Errors of candle.
pub fn alignments(
    model: &dyn Model,
    pairs: &[(Vec<u32>, Vec<u32>)],
    start: u32,
    batch_size: usize,
) -> Result<Vec<Vec<usize>>> {
    let batches = pairs::batches(pairs, batch_size);
    let compute = |i: usize, _: &dyn Watch| {
        let [source, target] = pairs::pack(pairs, &batches[i]);
        let memory = model.encode(&source, &Forward::eval())?;
        let strongest = model.alignment(&memory, &target.shifted_right(start))?;
        let of_pair = |n: usize| {
            let first = source.range(n).start;
            strongest[target.range(n)].iter().map(|strongest| strongest.row - first).collect()
        };
        Ok((0..batches[i].len()).map(of_pair).collect::<Vec<Vec<usize>>>())
    };
    let aligned = workers::run(&[model], batches.len(), 0, compute, &mut |_| (), &|| false)?;
    let mut found = vec![Vec::new(); pairs.len()];
    batches.iter().flatten().zip(aligned.into_iter().flatten()).for_each(|(&i, places)| found[i] = places);
    Ok(found)
}
