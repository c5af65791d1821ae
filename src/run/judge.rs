//! What validations say: the best of them, how long ago it was, and when the rate of the plateau schedule falls.
//!
//! Scores are compared in one unit only: by one metric, on one text, measured one way. A score that is not a finite
//! number is never the best and counts as no improvement.

use serde::{Deserialize, Serialize};

use super::due::Rules;
use crate::scores::{Metric, Scores};

/// Scores of one validation; what was not measured is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub step: u64,
    #[serde(flatten, with = "by_name")]
    scores: Scores,
    /// In checkpoints of before 0.2: by the metric of their time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

impl Scored {
    /// Of the weights after `step` updates.
    pub fn new(step: u64, measured: impl Fn(Metric) -> Option<f64>) -> Self {
        let scores = Metric::ALL.iter().filter_map(|&metric| Some((metric, measured(metric)?))).collect();
        Scored { step, scores, score: None }
    }

    /// What was measured, finite or not.
    pub fn scores(&self) -> &Scores {
        &self.scores
    }

    /// A finite score by this metric.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.scores.get(metric).filter(|value| value.is_finite())
    }
}

/// Each score under the name of its metric.
mod by_name {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Scores;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Exact(#[serde(with = "crate::exact::option")] Option<f64>);

    pub(super) fn serialize<S: Serializer>(scores: &Scores, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(scores.iter().map(|(metric, value)| (metric.name(), Exact(Some(value)))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scores, D::Error> {
        let all = BTreeMap::<String, Exact>::deserialize(deserializer)?;
        Ok(all.into_iter().filter_map(|(name, Exact(value))| Some((name.parse().ok()?, value?))).collect())
    }
}

/// What scores are measured in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The metric that chooses the best checkpoint.
    pub metric: Metric,
    /// Fingerprint of the held-out text; empty: unknown, taken for the same.
    pub text: String,
    /// How translations are made, and which further references they are compared with.
    pub translation: String,
}

/// What the plateau schedule remembers, and the factor on every rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    /// Factor on the rate: plateaus and roll-backs so far.
    pub scale: f64,
    /// Best score seen by plateau.
    pub best: Option<f64>,
    /// Validations since then.
    pub without_improvement: u32,
}

impl Default for Plateau {
    fn default() -> Self {
        Plateau { scale: 1.0, best: None, without_improvement: 0 }
    }
}

/// What a validation means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judged {
    pub is_best: bool,
    /// Change against the best before, signed so that positive is better.
    pub improvement: Option<f64>,
    /// Whether the plateau schedule lowered the rate.
    pub rate_fell: bool,
}

/// The best of the validations; of equals the earlier.
pub(super) fn best(scored: &[Scored], metric: Metric) -> Option<&Scored> {
    let known = scored.iter().filter_map(|scored| Some((scored, scored.value(metric)?)));
    known.reduce(|best, new| if metric.gain(best.1, new.1) > 0.0 { new } else { best }).map(|(scored, _)| scored)
}

/// Steps of all that have a score, as [`best`] would take them one after the other.
pub(super) fn ranked(scored: &[Scored], metric: Metric) -> Vec<u64> {
    let mut known: Vec<(u64, f64)> = scored.iter().filter_map(|s| Some((s.step, s.value(metric)?))).collect();
    known.sort_by(|a, b| metric.gain(b.1, a.1).total_cmp(&0.0).reverse().then(a.0.cmp(&b.0)));
    known.into_iter().map(|(step, _)| step).collect()
}

/// Validations that measured this metric since the best one; all of them when none gave a number.
pub(super) fn without_improvement(scored: &[Scored], metric: Metric) -> u32 {
    let best = best(scored, metric).map(|best| best.step);
    let since = scored.iter().rev().take_while(|other| Some(other.step) != best);
    u32::try_from(since.filter(|other| other.scores.get(metric).is_some()).count()).unwrap_or(u32::MAX)
}

/// Adds a validation to those before it.
pub(super) fn judge(all: &mut Vec<Scored>, plateau: &mut Plateau, new: Scored, rules: &Rules) -> Judged {
    let metric = rules.metric;
    let value = new.value(metric);
    let before = best(all, metric).and_then(|best| best.value(metric));
    let improvement = value.zip(before).map(|(new, old)| metric.gain(old, new));
    let is_best = value.is_some() && improvement.is_none_or(|gain| gain > 0.0);
    // A step validated again, as after a resume that changed the text, has one entry.
    all.retain(|scored| scored.step != new.step);
    all.push(new);
    Judged { is_best, improvement, rate_fell: wait(plateau, value, rules) }
}

/// PyTorch's ReduceLROnPlateau: whether the rate falls. Other schedules do not wait.
fn wait(plateau: &mut Plateau, value: Option<f64>, rules: &Rules) -> bool {
    let Some((factor, patience)) = rules.plateau else { return false };
    if let Some(value) = value.filter(|&new| plateau.best.is_none_or(|old| rules.metric.gain(old, new) > 0.0)) {
        (plateau.best, plateau.without_improvement) = (Some(value), 0);
        return false;
    }
    plateau.without_improvement += 1;
    let falls = plateau.without_improvement > patience;
    if falls {
        plateau.without_improvement = 0;
        plateau.scale *= factor;
    }
    falls
}

/// Keeps of the validations what is comparable in the new unit; says what was forgotten.
pub(super) fn change_unit(all: &mut Vec<Scored>, plateau: &mut Plateau, was: &Unit, now: &Unit) -> Option<String> {
    for scored in all.iter_mut() {
        if let Some(old) = scored.score.take() {
            scored.scores.set(was.metric, scored.scores.get(was.metric).unwrap_or(old));
        }
    }
    let other_text = !was.text.is_empty() && was.text != now.text;
    let other_translation = !was.translation.is_empty() && was.translation != now.translation;
    if was.metric == now.metric && !other_text && !other_translation {
        return None;
    }
    let validations = all.len();
    if other_text {
        all.clear();
    } else if other_translation {
        for scored in all.iter_mut() {
            Metric::of_text().for_each(|metric| scored.scores.set(metric, None));
        }
    }
    let kept = all.iter().filter(|scored| scored.value(now.metric).is_some()).count();
    // Of a schedule that never waited there is nothing to correct.
    if plateau.best.is_some() && (was.metric != now.metric || kept < validations) {
        (plateau.best, plateau.without_improvement) = (best(all, now.metric).and_then(|b| b.value(now.metric)), 0);
    }
    let why = match (other_text, was.metric != now.metric) {
        (true, _) => "the validation text is another".to_string(),
        (false, true) => format!("the best is chosen by {} now, not by {}", now.metric.name(), was.metric.name()),
        (false, false) if kept == validations => return None,
        (false, false) => "translations for validation are made or judged another way".to_string(),
    };
    Some(format!("{why}: {kept} of the {validations} validations so far can be compared with those to come"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(step: u64, nll: f64, bleu: f64) -> Scored {
        Scored::new(step, |metric| match metric {
            Metric::Nll => Some(nll),
            Metric::Bleu => Some(bleu),
            _ => None,
        })
    }

    fn unit(metric: Metric, text: &str, translation: &str) -> Unit {
        Unit { metric, text: text.to_string(), translation: translation.to_string() }
    }

    fn rules(metric: Metric, plateau: Option<(f64, u32)>) -> Rules {
        Rules { metric, plateau, ..Rules::default() }
    }

    #[test]
    fn the_best_is_finite_and_of_equals_the_earlier() {
        let (mut all, mut plateau) = (Vec::new(), Plateau::default());
        let mut judge = |step, nll| {
            let judged = judge(&mut all, &mut plateau, scored(step, nll, 0.0), &rules(Metric::Nll, None));
            (judged.is_best, best(&all, Metric::Nll).map(|b| b.step), without_improvement(&all, Metric::Nll))
        };
        assert_eq!(judge(1, f64::NAN), (false, None, 1));
        assert_eq!(judge(2, f64::INFINITY), (false, None, 2));
        assert_eq!(judge(3, 5.0), (true, Some(3), 0));
        assert_eq!(judge(4, 5.0), (false, Some(3), 1));
        assert_eq!(judge(5, f64::NEG_INFINITY), (false, Some(3), 2));
        assert_eq!(judge(6, 4.0), (true, Some(6), 0));
    }

    #[test]
    fn plateau_waits_for_its_patience() {
        let (mut all, mut plateau) = (Vec::new(), Plateau::default());
        let rules = rules(Metric::Nll, Some((0.5, 2)));
        let scores = [3.0, 2.0, 2.5, 2.5, f64::NAN, 2.4];
        let falls = scores
            .iter()
            .zip(1..)
            .map(|(&nll, step)| super::judge(&mut all, &mut plateau, scored(step, nll, 0.0), &rules).rate_fell);
        assert_eq!(falls.collect::<Vec<_>>(), [false, false, false, false, true, false]);
        assert_eq!(plateau, Plateau { scale: 0.5, best: Some(2.0), without_improvement: 1 });
    }

    #[test]
    fn another_metric_is_judged_by_its_own_scores() {
        let all = || vec![scored(1, 3.0, 20.0), scored(2, 2.0, 30.0), scored(3, 2.5, 10.0)];
        let change = |was: &Unit, now: &Unit| {
            let (mut all, mut plateau) = (all(), Plateau { best: Some(2.0), ..Plateau::default() });
            let told = change_unit(&mut all, &mut plateau, was, now);
            (told, all.len(), best(&all, now.metric).map(|best| best.step), plateau.best)
        };
        let nll = unit(Metric::Nll, "a", "greedy");
        assert_eq!(change(&nll, &nll), (None, 3, Some(2), Some(2.0)));
        let (told, kept, at, plateau) = change(&nll, &unit(Metric::Bleu, "a", "greedy"));
        assert!(told.is_some_and(|told| told.contains("by bleu now, not by nll: 3 of the 3")));
        assert_eq!((kept, at, plateau), (3, Some(2), Some(30.0)));
        // nll does not depend on how translations are made, BLEU does
        assert_eq!(change(&nll, &unit(Metric::Nll, "a", "beam 5")).1, 3);
        assert_eq!(change(&unit(Metric::Bleu, "a", "greedy"), &unit(Metric::Bleu, "a", "beam 5")).2, None);
        assert_eq!(change(&nll, &unit(Metric::Nll, "b", "greedy")).1, 0);
        let (told, _, at, _) = change(&nll, &unit(Metric::Chrf, "a", "greedy"));
        assert!(told.is_some_and(|told| told.contains("0 of the 3")) && at.is_none());
        assert_eq!(without_improvement(&all(), Metric::Chrf), 0, "what was not measured did not fail to improve");
    }

    #[test]
    fn scores_of_older_checkpoints_are_of_their_metric() {
        let text = r#"[{"step":1,"score":3.0},{"step":2,"score":null}]"#;
        let mut all: Vec<Scored> = serde_json::from_str(text).unwrap();
        let unit = unit(Metric::Bleu, "", "");
        assert!(change_unit(&mut all, &mut Plateau::default(), &unit, &unit).is_none());
        assert_eq!(all.iter().map(|scored| scored.value(Metric::Bleu)).collect::<Vec<_>>(), [Some(3.0), None]);
    }

    /// As version 0.1 wrote it: a name for each of its metrics, null for what was not measured.
    #[test]
    fn scores_are_read_and_written_by_name() {
        let text = r#"{"step":3,"nll":"inf","bleu":20.5,"chrf":null}"#;
        let scored: Scored = serde_json::from_str(text).unwrap();
        assert_eq!(
            scored,
            Scored::new(3, |metric| match metric {
                Metric::Nll => Some(f64::INFINITY),
                Metric::Bleu => Some(20.5),
                _ => None,
            })
        );
        assert_eq!(serde_json::to_string(&scored).unwrap(), r#"{"step":3,"nll":"inf","bleu":20.5}"#);
    }
}
