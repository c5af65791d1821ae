//! The metrics of held-out text by name, and their values. A new one is a line in the list below, its computation in
//! `metrics`, and an arm of `metrics::measure`.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which end of a metric is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// Writes the type of a list of metrics: variant, name in configs, metrics.jsonl and commands, name for people, which
/// values are better, digits after the point in reports.
macro_rules! metrics {
    ($($(#[$doc:meta])* $metric:ident $name:literal $label:literal $better:ident $digits:literal,)*) => {
        /// What is measured on held-out text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Metric {
            $($(#[$doc])* #[serde(rename = $name)] $metric,)*
        }

        impl Metric {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Metric] = &[$(Metric::$metric),*];

            const ROWS: &'static [(&'static str, &'static str, Better, usize)] =
                &[$(($name, $label, Better::$better, $digits)),*];
        }
    };
}

metrics! {
    /// Negative log-likelihood a target token in nats, without label smoothing.
    Nll "nll" "NLL" Lower 3,
    Bleu "bleu" "BLEU" Higher 2,
    /// chrF2.
    Chrf "chrf" "chrF" Higher 2,
    /// chrF2 with single words and pairs of words.
    ChrfPlusPlus "chrf++" "chrF++" Higher 2,
    Ter "ter" "TER" Lower 2,
}

impl Metric {
    /// Its name in configs, metrics.jsonl and commands.
    pub fn name(self) -> &'static str {
        Self::ROWS[self as usize].0
    }

    /// As people write it.
    pub fn label(self) -> &'static str {
        Self::ROWS[self as usize].1
    }

    /// Whether a smaller value is better.
    pub fn lower_is_better(self) -> bool {
        Self::ROWS[self as usize].2 == Better::Lower
    }

    /// The value as a cost: lower is better for all. Its own inverse.
    pub fn cost(self, value: f64) -> f64 {
        if self.lower_is_better() {
            value
        } else {
            -value
        }
    }

    /// How much better `new` is than `old`; below 0 when it is worse.
    pub fn gain(self, old: f64, new: f64) -> f64 {
        self.cost(old) - self.cost(new)
    }

    /// A value for people.
    pub fn show(self, value: f64) -> String {
        format!("{value:.digits$}", digits = Self::ROWS[self as usize].3)
    }

    /// Whether it is measured on translations; the likelihood alone is asked of the model itself.
    pub fn is_of_text(self) -> bool {
        self != Metric::Nll
    }

    /// Those of translations.
    pub fn of_text() -> impl Iterator<Item = Metric> {
        Self::ALL.iter().copied().filter(|metric| metric.is_of_text())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|metric| metric.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().copied().find(|metric| metric.name() == name);
        found.ok_or_else(|| format!("known are {}", names()))
    }
}

/// A value for each metric; what was not measured has none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores([Option<f64>; Metric::ALL.len()]);

impl Scores {
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0[metric as usize]
    }

    pub fn set(&mut self, metric: Metric, value: impl Into<Option<f64>>) {
        self.0[metric as usize] = value.into();
    }

    /// What was measured, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, f64)> + '_ {
        Metric::ALL.iter().filter_map(|&metric| Some((metric, self.get(metric)?)))
    }
}

impl FromIterator<(Metric, f64)> for Scores {
    fn from_iter<I: IntoIterator<Item = (Metric, f64)>>(values: I) -> Self {
        let mut scores = Scores::default();
        values.into_iter().for_each(|(metric, value)| scores.set(metric, value));
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_metrics() {
        for (i, &metric) in Metric::ALL.iter().enumerate() {
            assert_eq!((metric as usize, metric.name().parse()), (i, Ok(metric)));
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
        assert_eq!("bluu".parse::<Metric>().unwrap_err(), "known are nll, bleu, chrf, chrf++, ter");
    }

    #[test]
    fn a_gain_is_above_zero_where_it_got_better() {
        assert_eq!((Metric::Nll.gain(3.0, 2.0), Metric::Bleu.gain(30.0, 20.0)), (1.0, -10.0));
        assert_eq!((Metric::Ter.show(12.345), Metric::Nll.show(2.0)), ("12.35".to_string(), "2.000".to_string()));
    }
}
