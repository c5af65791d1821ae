//! What the text shows before training: unknown tokens, lines that do not come back from their ids, references that
//! can not be matched, held-out pairs unlike those of training. Counted once; table and warnings tell it.

use ahash::AHashSet;
use anyhow::Result;
use rayon::prelude::*;

use crate::config::DataConfig;
use crate::data::{Dataset, Pairs};
use crate::tokenizer::{RoundTrip, Tokenizer, Tokenizers};

use super::validator::Validator;

/// So many of a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) part: u64,
    pub(super) whole: u64,
}

impl Share {
    /// In percent.
    pub(super) fn percent(self) -> f64 {
        100.0 * self.part as f64 / self.whole.max(1) as f64
    }

    fn add(&mut self, counts: bool) {
        self.part += u64::from(counts);
        self.whole += 1;
    }
}

/// Text and what became of it.
pub(super) type Example = Option<(String, String)>;

/// One side of training or held-out text.
#[derive(Clone, Debug, Default)]
pub(super) struct SideSurvey {
    /// Unknown tokens of all tokens.
    pub(super) unknown: Share,
    /// A word with an unknown part, if one was met.
    pub(super) unknown_word: Option<String>,
    /// Lines that come back as other text than the tokenizer's normalization makes of them, of those looked at.
    pub(super) different: Share,
    pub(super) different_example: Example,
    /// Lines that the normalization changes, of those looked at.
    pub(super) normalized: Share,
    pub(super) normalized_example: Example,
}

/// A held-out set.
#[derive(Clone, Debug)]
pub(super) struct HeldOutSurvey {
    /// The key of the config: "data.valid".
    pub(super) name: &'static str,
    pub(super) pairs: u64,
    /// Pairs with a blank side.
    pub(super) blank: u64,
    /// Pairs longer than training takes.
    pub(super) long: u64,
    /// Tokens of the longest side of all.
    pub(super) longest: usize,
    /// Pairs that are in the training text too.
    pub(super) seen: u64,
    pub(super) sides: [SideSurvey; 2],
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Source and target of the training text.
    pub(super) train: [SideSurvey; 2],
    /// Training pairs whose target is their source, of those looked at.
    pub(super) copied: Share,
    pub(super) held_out: Vec<HeldOutSurvey>,
}

/// Lines of the training text that are made into ids and back, at the beginning of each corpus; all corpora together.
const LINES: usize = 400;
/// Least number of a corpus.
const CORPUS_LINES: usize = 20;
/// Held-out lines looked at, spread over the set.
const HELD_OUT_LINES: usize = 2000;

impl Survey {
    /// Looks at everything.
    ///
    /// # Errors
    /// Text that can no longer be read; a tokenizer that fails.
    pub(super) fn of(
        data: &DataConfig,
        tokenizers: &Tokenizers,
        train: &Dataset,
        held_out: [(&'static str, Option<&Validator>); 2],
    ) -> Result<Self> {
        let sides = [&tokenizers.source, &tokenizers.target];
        let mut held_out: Vec<(HeldOutSurvey, AHashSet<u64>)> = held_out
            .into_iter()
            .filter_map(|(name, set)| {
                set.map(|set| look_at_held_out(name, set, sides.map(AsRef::as_ref), train, data.max_length))
            })
            .collect::<Result<_>>()?;
        let lines = first_lines(data)?;
        let mut found: [SideSurvey; 2] = Default::default();
        for (side, survey) in found.iter_mut().enumerate() {
            let text: Vec<&str> = lines.iter().map(|pair| pair[side].as_str()).collect();
            survey.look_at(sides[side], &text, &sides[side].encode_lines(&text)?)?;
        }
        let mut copied = Share::default();
        lines.iter().filter(|[source, _]| !source.trim().is_empty()).for_each(|[source, target]| {
            copied.add(source.trim() == target.trim());
        });
        for (side, survey) in found.iter_mut().enumerate() {
            let counts = &train.counts[side];
            survey.unknown = Share { part: counts[sides[side].unk_id() as usize], whole: counts.iter().sum() };
        }
        let seen = those_in(train, held_out.iter().flat_map(|(_, hashes)| hashes).copied().collect());
        for (survey, hashes) in &mut held_out {
            survey.seen = hashes.intersection(&seen).count() as u64;
        }
        Ok(Survey { train: found, copied, held_out: held_out.into_iter().map(|(survey, _)| survey).collect() })
    }
}

impl SideSurvey {
    /// Makes lines into text again and compares.
    fn look_at(&mut self, tokenizer: &Tokenizer, lines: &[&str], encoded: &[Vec<u32>]) -> Result<()> {
        for (&line, ids) in lines.iter().zip(encoded).filter(|(_, ids)| !ids.is_empty()) {
            let trip = tokenizer.round_trip(line, ids)?;
            self.different.add(matches!(trip, RoundTrip::Different(_)));
            self.normalized.add(matches!(trip, RoundTrip::Normalized(_)));
            match trip {
                RoundTrip::Different(back) if self.different_example.is_none() => {
                    self.different_example = Some((line.to_string(), back));
                }
                RoundTrip::Normalized(back) if self.normalized_example.is_none() => {
                    self.normalized_example = Some((line.to_string(), back));
                }
                RoundTrip::Unknown if self.unknown_word.is_none() => {
                    let is_unknown =
                        |word: &&str| tokenizer.encode(word).is_ok_and(|ids| ids.contains(&tokenizer.unk_id()));
                    self.unknown_word = line.split_whitespace().find(is_unknown).map(str::to_string);
                }
                _ => (),
            }
        }
        Ok(())
    }
}

/// Pairs from the beginning of each corpus.
fn first_lines(data: &DataConfig) -> Result<Vec<[String; 2]>> {
    let corpora = &data.train.0;
    let each = (LINES / corpora.len().max(1)).max(CORPUS_LINES);
    let mut lines = Vec::new();
    for corpus in corpora {
        for pair in Pairs::open(corpus, data)?.take(each) {
            let pair = pair?;
            lines.push([pair.source, pair.target]);
        }
    }
    Ok(lines)
}

/// The survey of a set, and hashes of its pairs as those of the training text are.
fn look_at_held_out(
    name: &'static str,
    set: &Validator,
    tokenizers: [&Tokenizer; 2],
    train: &Dataset,
    max_length: usize,
) -> Result<(HeldOutSurvey, AHashSet<u64>)> {
    let encoded = set.encoded();
    let pairs = || encoded[0].iter().zip(encoded[1]);
    let step = set.len().div_ceil(HELD_OUT_LINES).max(1);
    let mut sides: [SideSurvey; 2] = Default::default();
    for (side, survey) in sides.iter_mut().enumerate() {
        let rows = || (0..set.len()).step_by(step);
        let line = |i: usize| [set.pair(i).0, set.pair(i).1][side];
        let ids: Vec<Vec<u32>> = rows().map(|i| encoded[side][i].clone()).collect();
        survey.look_at(tokenizers[side], &rows().map(line).collect::<Vec<_>>(), &ids)?;
        let all = encoded[side].iter().flatten();
        let unk = tokenizers[side].unk_id();
        survey.unknown = Share { part: all.clone().filter(|&&id| id == unk).count() as u64, whole: all.count() as u64 };
    }
    let lengths = || pairs().map(|(source, target)| source.len().max(target.len()));
    let survey = HeldOutSurvey {
        name,
        pairs: set.len() as u64,
        blank: pairs().filter(|(source, target)| source.is_empty() || target.is_empty()).count() as u64,
        long: lengths().filter(|&length| length > max_length).count() as u64,
        longest: lengths().max().unwrap_or(0),
        seen: 0,
        sides,
    };
    Ok((survey, pairs().map(|(source, target)| train.hash_of(source, target)).collect()))
}

/// Those of `hashes` that pairs of the training text have.
fn those_in(train: &Dataset, hashes: AHashSet<u64>) -> AHashSet<u64> {
    let pairs = if hashes.is_empty() { 0 } else { train.len() };
    let seen = (0..pairs).into_par_iter().map(|i| train.hash(i)).filter(|hash| hashes.contains(hash));
    let insert = |mut all: AHashSet<u64>, hash| {
        all.insert(hash);
        all
    };
    let extend = |mut all: AHashSet<u64>, more| {
        all.extend(more);
        all
    };
    seen.fold(AHashSet::new, insert).reduce(AHashSet::new, extend)
}
