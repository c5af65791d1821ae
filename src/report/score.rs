//! What runs are judged by.

/// A score of the validation set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Score {
    /// Negative log-likelihood a target token, without label smoothing; lower is better.
    Nll,
    /// Higher is better.
    Bleu,
    /// Higher is better.
    Chrf,
}

impl Score {
    /// The column of metrics.jsonl.
    pub fn name(self) -> &'static str {
        match self {
            Score::Nll => "nll",
            Score::Bleu => "bleu",
            Score::Chrf => "chrf",
        }
    }

    /// As people write it.
    pub fn label(self) -> &'static str {
        match self {
            Score::Nll => "NLL",
            Score::Bleu => "BLEU",
            Score::Chrf => "chrF",
        }
    }

    /// The score as a cost: lower is better for all.
    pub fn cost(self, score: f64) -> f64 {
        match self {
            Score::Nll => score,
            Score::Bleu | Score::Chrf => -score,
        }
    }

    /// A number of this score, for people.
    pub fn show(self, score: f64) -> String {
        match self {
            _ if !score.is_finite() => "diverged".to_string(),
            Score::Nll => format!("{score:.3}"),
            Score::Bleu | Score::Chrf => format!("{score:.2}"),
        }
    }
}
