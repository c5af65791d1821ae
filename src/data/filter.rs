//! Which pairs are too empty, long, short or uneven to train on. A filter drops the pair, never one side.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::DataConfig;
use crate::units;

/// Why a pair was dropped; the first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No token but `</s>` on the source side.
    EmptySource,
    EmptyTarget,
    /// A side longer than `data.max_length`.
    TooLong,
    /// A side shorter than `data.min_length`.
    TooShort,
    /// Sides more uneven than `data.max_length_ratio`.
    Ratio,
}

impl Reason {
    const ALL: [Reason; 5] =
        [Reason::EmptySource, Reason::EmptyTarget, Reason::TooLong, Reason::TooShort, Reason::Ratio];

    /// For the pre-flight table and messages: "longer than data.max_length = 100 tokens".
    pub fn describe(self, data: &DataConfig) -> String {
        match self {
            Reason::EmptySource => "with an empty source".to_string(),
            Reason::EmptyTarget => "with an empty target".to_string(),
            Reason::TooLong => format!("longer than data.max_length = {} tokens", data.max_length),
            Reason::TooShort => format!("shorter than data.min_length = {} tokens", data.min_length),
            Reason::Ratio => format!("more uneven than data.max_length_ratio = {}", data.max_length_ratio),
        }
    }
}

/// Pairs dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub reason: Reason,
    pub count: u64,
    /// Index in `data.train` of the corpus of the first such pair.
    pub first_corpus: usize,
    /// 1-based line of the first such pair in its file.
    pub first_line: u64,
}

/// Judges pairs and counts the dropped ones.
#[derive(Debug)]
pub(super) struct Filter {
    min_length: usize,
    max_length: usize,
    max_ratio: f64,
    dropped: Vec<Dropped>,
}

impl Filter {
    pub(super) fn new(data: &DataConfig) -> Self {
        Filter {
            min_length: data.min_length,
            max_length: data.max_length,
            max_ratio: data.max_length_ratio,
            dropped: Vec::new(),
        }
    }

    /// `source` and `target`: tokens including `</s>`. False drops the pair.
    pub(super) fn keep(&mut self, source: usize, target: usize, corpus: usize, line: u64) -> bool {
        let Some(reason) = self.judge(source, target) else { return true };
        match self.dropped.iter_mut().find(|d| d.reason == reason) {
            Some(known) => known.count += 1,
            None => self.dropped.push(Dropped { reason, count: 1, first_corpus: corpus, first_line: line }),
        }
        false
    }

    fn judge(&self, source: usize, target: usize) -> Option<Reason> {
        let (short, long) = (source.min(target), source.max(target));
        if source <= 1 {
            Some(Reason::EmptySource)
        } else if target <= 1 {
            Some(Reason::EmptyTarget)
        } else if long > self.max_length {
            Some(Reason::TooLong)
        } else if short - 1 < self.min_length {
            Some(Reason::TooShort)
        } else if self.max_ratio > 0.0 && (long - 1) as f64 > self.max_ratio * (short - 1) as f64 {
            Some(Reason::Ratio)
        } else {
            None
        }
    }

    /// What was dropped, in the order of [`Reason`].
    pub(super) fn into_dropped(self) -> Vec<Dropped> {
        let known = |reason| self.dropped.iter().find(|d| d.reason == reason).cloned();
        Reason::ALL.into_iter().filter_map(known).collect()
    }
}

/// The error of a corpus of which nothing is left.
pub(super) fn all_dropped(read: u64, dropped: &[Dropped], data: &DataConfig) -> Error {
    let one = |d: &Dropped| {
        let file = data.train.0.get(d.first_corpus).and_then(|c| c.files.first()).map_or("", String::as_str);
        format!("{} {} (first: {file}:{})", units::count(d.count), d.reason.describe(data), d.first_line)
    };
    Error::AllDropped { read, reasons: dropped.iter().map(one).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_found_at_its_limit_and_counted_with_its_first_line() {
        let data = DataConfig { min_length: 2, max_length: 10, max_length_ratio: 2.0, ..DataConfig::default() };
        let mut filter = Filter::new(&data);
        assert!(filter.keep(10, 10, 0, 1), "the limit itself is kept");
        assert!(filter.keep(5, 9, 0, 2), "8 to 4 tokens is a ratio of 2");
        assert!(filter.keep(3, 3, 0, 3), "2 tokens and </s> are not shorter than 2");
        for (source, target, line) in [(5, 11, 4), (11, 5, 5), (1, 5, 6), (5, 1, 7), (2, 3, 8), (5, 10, 9)] {
            assert!(!filter.keep(source, target, 1, line), "{source} {target}");
        }
        let found: Vec<_> = filter.into_dropped().iter().map(|d| (d.reason, d.count, d.first_line)).collect();
        let wanted = [
            (Reason::EmptySource, 1, 6),
            (Reason::EmptyTarget, 1, 7),
            (Reason::TooLong, 2, 4),
            (Reason::TooShort, 1, 8),
            (Reason::Ratio, 1, 9),
        ];
        assert_eq!(found, wanted);
    }
}
