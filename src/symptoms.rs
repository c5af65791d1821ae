//! What translations look like beside their sources and references: the signs of a model that does not translate, which
//! no score names. Their names, when they are worth a word, and what that word is; `metrics` measures them.

/// What is looked at. Shares are of the sentences whose source is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Symptom {
    /// Share of translations that equal the translation of another source.
    Identical,
    /// Share of translations that equal their source.
    Copied,
    /// Share of translations that say the same words several times in direct succession, where neither the source nor a
    /// reference does: a word or two of them three times, more of them twice.
    Repeated,
    /// Share of translations without words.
    Empty,
    /// Tokens of the translations over those of the references, as BLEU counts both.
    LengthRatio,
}

use Symptom::{Copied, Empty, Identical, LengthRatio, Repeated};

impl Symptom {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Symptom; 5] = [Identical, Copied, Repeated, Empty, LengthRatio];

    /// Its name: in metrics.jsonl behind `hypotheses.`.
    pub fn name(self) -> &'static str {
        match self {
            Identical => "identical",
            Copied => "copied",
            Repeated => "repeated",
            Empty => "empty",
            LengthRatio => "length_ratio",
        }
    }

    /// A value for people.
    pub fn show(self, value: f64) -> String {
        match self {
            LengthRatio => format!("{value:.2}"),
            _ => format!("{:.1} %", 100.0 * value),
        }
    }

    /// What references would have, where they do not say.
    fn usual(self) -> f64 {
        if self == LengthRatio {
            1.0
        } else {
            0.0
        }
    }

    /// Share above the references' at which training went wrong, and factor of the length. Multi30k, the quickstart and
    /// the tasks of `data/` stay below two thirds of it from twice the warm-up on; bad runs of each kind are above it: text
    /// whose sides do not belong together, copies or halves of targets, a rate that is far too high, too few updates.
    fn limit(self) -> f64 {
        match self {
            Identical | Repeated => 0.1,
            Copied | Empty => 0.05,
            LengthRatio => 1.25,
        }
    }

    /// Whether the value is so far from the references', by share or by factor.
    fn is_beyond(self, value: f64, reference: f64, share: f64, factor: f64) -> bool {
        match self {
            LengthRatio => value * factor < reference || value > reference * factor,
            _ => value - reference >= share,
        }
    }
}

/// A value for each; what can not be measured has none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Symptoms([Option<f64>; Symptom::ALL.len()]);

/// Sentences below which a share says nothing.
const ENOUGH: usize = 20;
/// Share above the references', and factor of the length, that are worth showing.
const NOTABLE: (f64, f64) = (0.02, 1.05);

impl Symptoms {
    pub fn get(&self, symptom: Symptom) -> Option<f64> {
        self.0[symptom as usize]
    }

    /// What was measured.
    pub fn iter(&self) -> impl Iterator<Item = (Symptom, f64)> + '_ {
        Symptom::ALL.into_iter().filter_map(|symptom| Some((symptom, self.get(symptom)?)))
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// What differs from the references so much that it is worth showing.
    pub fn notable<'a>(&'a self, references: &'a Symptoms) -> impl Iterator<Item = (Symptom, f64)> + 'a {
        let (share, factor) = NOTABLE;
        self.iter().filter(move |&(symptom, value)| {
            let reference = references.get(symptom).unwrap_or(symptom.usual());
            symptom.is_beyond(value, reference, share, factor)
        })
    }

    /// The same in few words, as "repeated 9.7 %  length_ratio 0.87"; empty where there is nothing.
    pub fn told(&self, references: &Symptoms) -> String {
        let words =
            self.notable(references).map(|(symptom, value)| format!("{} {}", symptom.name(), symptom.show(value)));
        words.collect::<Vec<_>>().join("  ")
    }

    /// What says that something went wrong, each with a sentence of what it is and what to do; of a run that ended before
    /// its model could know better one sentence, of a run that goes on nothing until then. `sentences`: as many were
    /// translated; of a few nothing is said.
    pub fn faults(&self, references: &Symptoms, sentences: usize, at: Progress) -> Vec<(Symptom, String)> {
        let beyond = |symptom: Symptom, value: f64| {
            let reference = references.get(symptom).unwrap_or(symptom.usual());
            let limit = symptom.limit();
            (sentences >= ENOUGH && symptom.is_beyond(value, reference, limit, limit)).then_some(reference)
        };
        let is_empty = self.get(Empty).is_some_and(|share| beyond(Empty, share).is_some());
        let mut found = Vec::new();
        for (symptom, value) in self.iter() {
            let Some(reference) = beyond(symptom, value) else { continue };
            // what is empty is short
            if !(symptom == LengthRatio && value < reference && is_empty) {
                found.push((symptom, sentence(symptom, value, reference)));
            }
        }
        match found.first() {
            Some(&(first, _)) if !at.should_know() => match at.has_ended {
                true => vec![(first, too_short(at, &self.told(references)))],
                false => Vec::new(),
            },
            _ => found,
        }
    }
}

/// How far the training of a model is whose translations are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub step: u64,
    pub warmup_updates: u64,
    /// No update follows.
    pub has_ended: bool,
}

impl Progress {
    /// Of a model that is in use.
    pub const TRAINED: Progress = Progress { step: u64::MAX, warmup_updates: 0, has_ended: true };

    /// Whether the model should know better than to show symptoms: after twice the warm-up.
    fn should_know(self) -> bool {
        self.step > self.warmup_updates.saturating_mul(2)
    }
}

impl FromIterator<(Symptom, f64)> for Symptoms {
    fn from_iter<I: IntoIterator<Item = (Symptom, f64)>>(values: I) -> Self {
        let mut found = Symptoms::default();
        values.into_iter().for_each(|(symptom, value)| found.0[symptom as usize] = Some(value));
        found
    }
}

fn too_short(at: Progress, told: &str) -> String {
    let Progress { step, warmup_updates, .. } = at;
    format!(
        "the translations are not yet those of a trained model ({told}), and training ended after {step} updates, with \
         schedule.warmup_updates = {warmup_updates}: train longer (train.max_updates, train.max_epochs)"
    )
}

fn sentence(symptom: Symptom, value: f64, reference: f64) -> String {
    const CALMER: &str = "try a lower optimizer.lr or a longer schedule.warmup_updates, and train longer";
    let (shown, of_references) = (symptom.show(value), symptom.show(reference));
    match symptom {
        Identical => format!(
            "{shown} of the translations equal the translation of another source (of the references {of_references}): the \
             model hardly looks at its source. Look whether the lines of the two sides of data.train belong together; if \
             they do, {CALMER}"
        ),
        Copied => format!(
            "{shown} of the translations are copies of their source (of the references {of_references}): data.train \
             teaches that. Look for target lines in the source language, and whether both sides are the same file"
        ),
        Repeated => format!(
            "{shown} of the translations say the same words over and over, where neither source nor reference does: the \
             model is not trained enough, or at too high a rate; {CALMER}"
        ),
        Empty => format!(
            "{shown} of the translations are empty (of the references {of_references}): look for targets in data.train \
             that are cut off or do not belong to their source; if there are none, {CALMER}"
        ),
        LengthRatio if value < reference => format!(
            "the translations have {shown} of the references' length: words are left out, which BLEU punishes. Train longer; \
             look for targets in data.train that are cut off or do not belong to their source; with a beam a higher \
             decode.length_penalty makes translations longer"
        ),
        LengthRatio => format!(
            "the translations have {shown} times the references' length: the model does not know where to end. Look whether \
             the lines of the two sides of data.train belong together; if they do, {CALMER}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(Symptom, f64)]) -> Symptoms {
        values.iter().copied().collect()
    }

    #[test]
    fn what_references_do_too_is_no_fault() {
        let tags = of(&[(Identical, 0.4), (Copied, 0.9), (Empty, 0.1)]);
        let told = of(&[(Identical, 0.45), (Copied, 0.95), (Empty, 0.11), (Repeated, 0.0), (LengthRatio, 1.0)]);
        assert!(told.faults(&tags, 1000, Progress::TRAINED).is_empty());
        assert_eq!(told.told(&tags), "identical 45.0 %  copied 95.0 %");
        let names: Vec<Symptom> = told
            .faults(&Symptoms::default(), 1000, Progress::TRAINED)
            .into_iter()
            .map(|(symptom, _)| symptom)
            .collect();
        assert_eq!(names, [Identical, Copied, Empty]);
        assert!(
            told.faults(&Symptoms::default(), 19, Progress::TRAINED).is_empty(),
            "of a few sentences nothing is said"
        );
    }

    #[test]
    fn lengths_are_compared_as_factors_in_both_directions() {
        let faults = |value| of(&[(LengthRatio, value)]).faults(&Symptoms::default(), 100, Progress::TRAINED);
        let fault = |value| faults(value).pop().map(|(_, text)| text);
        assert!(fault(0.79).is_some_and(|text| text.starts_with("the translations have 0.79 of")));
        assert!(fault(1.3).is_some_and(|text| text.starts_with("the translations have 1.30 times")));
        assert!(fault(0.81).is_none() && fault(1.24).is_none());
        let notable = |value| of(&[(LengthRatio, value)]).notable(&Symptoms::default()).count();
        assert_eq!([0.94, 0.96, 1.0, 1.04, 1.06].map(notable), [1, 0, 0, 0, 1]);
    }

    #[test]
    fn a_model_that_can_not_know_better_is_given_time_and_an_end_that_came_too_soon_is_told() {
        let raw = of(&[(Identical, 0.5), (Repeated, 0.7), (LengthRatio, 2.0)]);
        let told = |step, has_ended| {
            let at = Progress { step, warmup_updates: 100, has_ended };
            raw.faults(&Symptoms::default(), 100, at).into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert!(told(200, false).is_empty());
        assert_eq!((told(201, false).len(), told(201, true).len()), (3, 3));
        let early = told(200, true);
        assert!(early.len() == 1 && early[0].contains("training ended after 200 updates"), "{early:?}");
        assert!(early[0].contains("(identical 50.0 %  repeated 70.0 %  length_ratio 2.00)"), "{early:?}");
        let nothing = of(&[(Empty, 1.0), (LengthRatio, 0.0)]).faults(&Symptoms::default(), 100, Progress::TRAINED);
        assert_eq!(nothing.iter().map(|(symptom, _)| *symptom).collect::<Vec<_>>(), [Empty]);
    }
}
