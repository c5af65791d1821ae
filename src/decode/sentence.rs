//! What is decoded of one sentence, step by step, whatever way its tokens are chosen.

use super::distribution::Candidate;

/// The translations of one sentence that are not finished yet, a row of decoder states each.
pub(super) trait Sentence {
    /// Rows; 0 when all is found.
    fn rows(&self) -> usize;

    /// The last token of each row.
    fn last_tokens(&self) -> impl Iterator<Item = u32>;

    /// One step: takes next tokens for each row, and returns for each row there is now the one that it continues.
    fn advance(&mut self, continuations: &[Vec<Candidate>]) -> Vec<usize>;
}
