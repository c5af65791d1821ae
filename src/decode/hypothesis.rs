//! A finished translation and the score by which translations of different lengths are compared.

use crate::config::LengthPenalty;

/// A translation as token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hypothesis {
    /// Without `</s>`.
    pub ids: Vec<u32>,
    /// Sum of the log-probabilities of all tokens, `</s>` included; −∞ when a broken model (NaN) gave no translation.
    pub score: f64,
    /// `score` divided by the length penalty; the order of n-best lists.
    pub normalized: f64,
    /// Tokens with `</s>`; equal to `ids.len()` when the translation was cut at the maximum length.
    pub length: usize,
}

impl Hypothesis {
    /// The tokens that the search chose: `ids`, and `eos` where it got there. `score` is the sum over them.
    pub fn labels(&self, eos: u32) -> Vec<u32> {
        let end = (self.length > self.ids.len()).then_some(eos);
        self.ids.iter().copied().chain(end).collect()
    }
}

/// Length penalty: scores are divided by lengthᵃ (Marian, fairseq) or by ((5 + length) / 6)ᵃ (Wu et al. 2016, eq. 14).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    pub kind: LengthPenalty,
    /// a ≥ 0; 0 = off.
    pub exponent: f64,
}

impl Penalty {
    /// `score` of `length` tokens, made comparable.
    pub fn normalize(self, score: f64, length: usize) -> f64 {
        if self.exponent == 0.0 {
            return score;
        }
        let base = match self.kind {
            LengthPenalty::Length => length as f64,
            LengthPenalty::Gnmt => (5.0 + length as f64) / 6.0,
        };
        score / base.powf(self.exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_follow_their_formulas() {
        let length = Penalty { kind: LengthPenalty::Length, exponent: 0.5 };
        let gnmt = Penalty { kind: LengthPenalty::Gnmt, exponent: 2.0 };
        assert!((length.normalize(-6.0, 9) + 2.0).abs() < 1e-12);
        assert!((gnmt.normalize(-8.0, 7) + 2.0).abs() < 1e-12);
        assert_eq!(Penalty { exponent: 0.0, ..gnmt }.normalize(-8.0, 7), -8.0);
    }
}
