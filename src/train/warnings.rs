//! What seems wrong with a run before its first update: each warning says what, with an example, and what to do.

use crate::config::{Config, PhaseObjective};
use crate::metrics;
use crate::optim::Schedule;
use crate::scores::Metric;
use crate::units;

use super::resources::{Resources, Vectors};
use super::survey::{Example, HeldOutSurvey, Share, SideSurvey, Survey};

/// Percent above which a share is worth a warning.
const WORTH: f64 = 1.0;
/// Likewise of pairs whose sides are equal, which names and numbers may be.
const COPIES: f64 = 10.0;

/// Everything that seems wrong, one warning for each kind. `total_updates`: 0 = unknown.
pub(super) fn warnings(config: &Config, resources: &Resources, vectors: &[Vectors], total_updates: u64) -> Vec<String> {
    let survey = &resources.survey;
    let mut found: Vec<String> = resources.doubtful.clone();
    found.extend(round_trip(survey));
    found.extend(unknown(survey));
    found.extend(copies(survey.copied));
    found.extend(references(config, &survey.held_out));
    found.extend(blank(&survey.held_out));
    found.extend(long(config, &survey.held_out));
    found.extend(resources.segmentation.warning());
    found.extend(words_of_bleu(config, resources));
    found.extend(vectors.iter().filter_map(coverage));
    found.extend(warm_up(config, total_updates));
    found.extend(no_rate(config, total_updates));
    found.extend(phases(config, total_updates));
    found
}

const SIDES: [&str; 2] = ["source", "target"];

fn percent(share: Share) -> String {
    format!("{:.1} %", share.percent())
}

/// "4 of 4".
fn of(share: Share) -> String {
    format!("{} of {}", units::count(share.part), units::count(share.whole))
}

/// decode(encode(x)) ≠ x, in the training text or, where all is well there, in held-out text.
fn round_trip(survey: &Survey) -> Option<String> {
    let counts = |text: &str, sides: &[SideSurvey; 2]| {
        let sides = sides.iter().zip(SIDES).filter(|(side, _)| side.different.part > 0);
        let sides = listed(sides.map(|(side, name)| format!("{} {name} lines", of(side.different))))?;
        Some(format!("{sides} of {text}"))
    };
    let held_out = survey.held_out.iter().map(|set| (set.name, &set.sides));
    let mut texts = [("the training text", &survey.train)].into_iter().chain(held_out);
    let (counts, sides) = texts.find_map(|(text, sides)| Some((counts(text, sides)?, sides)))?;
    // what is written matters more than what is read
    let example = sides.iter().rev().find_map(|side| changed(&side.different_example))?;
    Some(format!(
        "the tokenizer does not give text back: {counts} come back changed, as {example}. Translations are written like \
         this and score accordingly. Choose a tokenizer.json whose pieces show where spaces belong (a Metaspace or \
         ByteLevel pre-tokenizer, or the model's own prefix or suffix) and that knows all characters, or train one with \
         tokenizer.path = \"\""
    ))
}

/// Targets that are their own source.
fn copies(share: Share) -> Option<String> {
    (share.whole > 0 && share.percent() > COPIES).then(|| {
        format!(
            "{} of the first training pairs ({}) have the same text on both sides: a model of them copies its input. Look \
             whether data.train names one file twice, and for target lines in the source language",
            percent(share),
            of(share)
        )
    })
}

fn unknown(survey: &Survey) -> Option<String> {
    let held_out = survey.held_out.iter().map(|set| (set.name, &set.sides));
    let texts = [("the training text", &survey.train)].into_iter().chain(held_out);
    let sides = texts.flat_map(|(text, sides)| sides.iter().zip(SIDES).map(move |(side, name)| (text, name, side)));
    let many: Vec<_> = sides.filter(|(.., side)| side.unknown.percent() > WORTH).collect();
    let count = |(text, name, side): &(&str, &str, &SideSurvey)| {
        format!("{} of the {name} tokens of {text} ({})", percent(side.unknown), of(side.unknown))
    };
    let counts = listed(many.iter().map(count))?;
    let example = many.iter().rev().find_map(|(.., side)| side.unknown_word.as_deref());
    let example = example.map_or(String::new(), |word| format!(", for example in {}", quoted(word)));
    Some(format!(
        "{counts} are unknown to the tokenizer{example}: they all look the same to the model, and it can not write them. \
         Choose a tokenizer made for this text (tokenizer.path = \"\" trains one; a larger tokenizer.vocab_size holds \
         more characters), or one that spells unknown characters in bytes"
    ))
}

/// References that no output of the tokenizer equals.
fn references(config: &Config, sets: &[HeldOutSurvey]) -> Option<String> {
    let share = |set: &HeldOutSurvey| set.sides[1].normalized;
    let many: Vec<&HeldOutSurvey> = sets.iter().filter(|set| share(set).percent() > WORTH).collect();
    let count = |set: &&HeldOutSurvey| {
        format!("{} of the references of {} ({} lines looked at)", percent(share(set)), set.name, of(share(set)))
    };
    let counts = listed(many.iter().map(count))?;
    let example = many.iter().find_map(|set| changed(&set.sides[1].normalized_example))?;
    let cure = match config.tokenizer.path.as_str() {
        "" => format!(
            "choose another tokenizer.normalization (now \"{}\") or tokenizer.lowercase (now {})",
            config.tokenizer.normalization.name(),
            config.tokenizer.lowercase
        ),
        path => format!("choose another tokenizer than {path}"),
    };
    Some(format!(
        "the tokenizer changes {counts}, so that no translation can match them and scores stay low: {example}. \
         Normalize the text in the same way, or {cure}"
    ))
}

fn blank(sets: &[HeldOutSurvey]) -> Option<String> {
    let counts = counted(sets, |set| set.blank)?;
    Some(format!(
        "{counts} have a blank side: a blank source is translated by a blank line, which BLEU and chrF count and nll \
         does not. Remove such pairs from both files"
    ))
}

fn long(config: &Config, sets: &[HeldOutSurvey]) -> Option<String> {
    let counts = counted(sets, |set| set.long)?;
    let longest = sets.iter().map(|set| set.longest).max().unwrap_or(0);
    Some(format!(
        "{counts} are longer than data.max_length = {} tokens, the longest has {}: training leaves such pairs out, so \
         the model never sees the like. Cut them into sentences, or raise data.max_length",
        config.data.max_length,
        units::count(longest as u64)
    ))
}

/// "1 of 3 pairs of data.valid and …" of the sets with many of them.
fn counted(sets: &[HeldOutSurvey], count: fn(&HeldOutSurvey) -> u64) -> Option<String> {
    let share = |set: &HeldOutSurvey| Share { part: count(set), whole: set.pairs };
    let many = sets.iter().filter(|set| share(set).percent() > WORTH);
    listed(many.map(|set| format!("{} pairs of {}", of(share(set)), set.name)))
}

/// "a, b and c"; nothing of nothing.
fn listed(parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    let (last, before) = parts.split_last()?;
    Some(if before.is_empty() { last.clone() } else { format!("{} and {last}", before.join(", ")) })
}

/// References in which BLEU finds no words.
fn words_of_bleu(config: &Config, resources: &Resources) -> Option<String> {
    let (validation, language) = (&config.validation, &config.data.target_language);
    let valid = resources.valid.as_ref().filter(|_| validation.metrics.contains(&Metric::Bleu));
    let mut sets = valid.into_iter().chain(&resources.test);
    sets.find_map(|set| metrics::advice(&validation.tokenize, language, &set.references()[0]))
}

fn coverage(vectors: &Vectors) -> Option<String> {
    let report = &vectors.report;
    if !report.is_low() {
        return None;
    }
    let list = |words: &[String]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ");
    let missing = match report.words {
        0 => "no piece of the tokenizer is a word or begins one".to_string(),
        words => format!(
            "{} pieces are words or begin them, the first without a vector are {}; the file begins with {}",
            units::count(words as u64),
            list(&report.missing),
            list(&report.first)
        ),
    };
    Some(format!(
        "the word vectors of {} fill only {} of the {} rows of the embedding table: {missing}. Use vectors of this \
         language, upper and lower case as in the text, and a tokenizer with more whole words (a larger \
         tokenizer.vocab_size)",
        vectors.file,
        units::count(report.covered as u64),
        units::count(report.rows as u64)
    ))
}

/// Runs that end before the rate is up.
fn warm_up(config: &Config, total_updates: u64) -> Option<String> {
    let warmup = config.schedule.warmup_updates;
    if total_updates == 0 || warmup < total_updates {
        return None;
    }
    let lr = config.in_force(total_updates.saturating_sub(1)).optimizer.lr;
    let schedule = Schedule::of(config).ok()?;
    Some(format!(
        "warm-up is longer than the run: schedule.warmup_updates = {warmup}, and the run ends after {} updates, at a \
         learning rate of {:.1e} that still rises (optimizer.lr = {lr}). Set schedule.warmup_updates to about a tenth of \
         the run, {}, or train longer",
        units::count(total_updates),
        schedule.rate(total_updates - 1, lr, 1.0),
        (total_updates / 10).max(1)
    ))
}

/// Runs that go on after the rate is down.
fn no_rate(config: &Config, total_updates: u64) -> Option<String> {
    let end = Schedule::of(config).ok()?.end()?;
    (end < total_updates && config.schedule.min_lr == 0.0).then(|| {
        format!(
            "the schedule ends before the run: schedule.total_updates = {end}, and what comes after it (updates: {}) has a \
             learning rate of 0. Set schedule.total_updates to 0 (the length of the run), or schedule.min_lr above 0",
            units::count(total_updates - end)
        )
    })
}

/// Phases that never begin, and such that end while a weight or rate still rises.
fn phases(config: &Config, total_updates: u64) -> Vec<String> {
    let end_of = |i: usize| match config.phase.get(i + 1).map(|next| next.from_update) {
        Some(next) if total_updates == 0 || next < total_updates => Some(next),
        _ => Some(total_updates).filter(|&total| total > 0),
    };
    let mut found = Vec::new();
    for (i, phase) in config.phase.iter().enumerate() {
        let (number, from) = (i + 1, phase.from_update);
        if total_updates > 0 && from >= total_updates {
            found.push(format!(
                "phase {number} never begins: from_update = {from}, and the run ends after {total_updates} updates. Begin \
                 it earlier, or train longer"
            ));
        } else if let Some(end) =
            end_of(i).filter(|&end| end <= config.schedule.warmup_updates && Some(end) != Some(total_updates))
        {
            found.push(format!(
                "phase {number} ends at update {end}, while the learning rate still rises: schedule.warmup_updates = {} \
                 counts from the beginning of the run. Set it to less, or begin the next phase later",
                config.schedule.warmup_updates
            ));
        }
    }
    found.extend(distance_warm_up(config, total_updates));
    found
}

/// The weight of the embedding distance that is never reached.
fn distance_warm_up(config: &Config, total_updates: u64) -> Option<String> {
    let last = config.in_force(total_updates.checked_sub(1)?);
    let warmup = config.embedding_distance.warmup_updates;
    let ends = last.distance_since + warmup;
    (last.objective == PhaseObjective::Joint && ends >= total_updates && warmup > 1).then(|| {
        format!(
            "the weight of the embedding distance is still rising when the run ends after {total_updates} updates: \
             embedding_distance.warmup_updates = {warmup}, from update {} on. Set it to less, or train longer",
            last.distance_since
        )
    })
}

/// Characters of text shown.
const SHOWN: usize = 60;

/// Text in quotes, its end cut off where it is long.
fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// `"a b" becomes "b"`, from the first word that differs on; with code points where they alone may show it.
fn changed(example: &Example) -> Option<String> {
    let (line, back) = example.as_ref()?;
    let (line, back): (Vec<&str>, Vec<&str>) = (line.split_whitespace().collect(), back.split_whitespace().collect());
    let same = line.iter().zip(&back).take_while(|(a, b)| a == b).count();
    // a word before it, for the eye
    let from = same.saturating_sub(1);
    let (line, back) = (line[from..].join(" "), back[from..].join(" "));
    let mut text = format!("{} becomes {}", quoted(&line), quoted(&back));
    let mut differs = line.chars().zip(back.chars()).skip_while(|(a, b)| a == b);
    if let Some((a, b)) = differs.next().filter(|(a, b)| !a.is_ascii() || !b.is_ascii()) {
        text.push_str(&format!(" (U+{:04X} where U+{:04X} was)", b as u32, a as u32));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DistanceForm, PhaseConfig, ScheduleKind};

    #[test]
    fn warm_up_that_a_run_never_leaves_is_told_with_the_rate_it_ends_at() {
        let mut config = Config::default();
        config.schedule.kind = ScheduleKind::InverseSqrt;
        config.train.max_updates = 60;
        let message = warm_up(&config, 60).unwrap();
        assert!(message.contains("schedule.warmup_updates = 4000") && message.contains("about a tenth"), "{message}");
        assert!(message.contains("1.5e-5") && message.contains("the run, 6,"), "{message}");
        assert!(warm_up(&config, 4000).is_some() && warm_up(&config, 4001).is_none() && warm_up(&config, 0).is_none());
    }

    #[test]
    fn updates_without_a_rate_are_told() {
        let mut config = Config::default();
        config.schedule.kind = ScheduleKind::Cosine;
        (config.schedule.warmup_updates, config.schedule.total_updates, config.train.max_updates) = (10, 400, 1000);
        assert!(no_rate(&config, 1000).unwrap().contains("(updates: 600)"));
        assert!(no_rate(&config, 400).is_none() && no_rate(&config, 0).is_none());
        config.schedule.min_lr = 1e-5;
        assert!(no_rate(&config, 1000).is_none());
    }

    #[test]
    fn phases_that_come_too_late_or_end_too_soon_are_told() {
        let mut config = Config::default();
        config.schedule.warmup_updates = 100;
        config.phase = [10, 50, 5000].map(|from_update| PhaseConfig { from_update, ..Default::default() }).to_vec();
        let found = phases(&config, 1000);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("phase 1 ends at update 50, while"), "{}", found[0]);
        assert!(found[1].starts_with("phase 3 never begins: from_update = 5000"), "{}", found[1]);
        assert_eq!(phases(&config, 0).len(), 1, "the length of the run is not known");
        config.phase.clear();
        config.embedding_distance.form = DistanceForm::Bridge;
        assert_eq!(phases(&config, 1000).len(), 1, "the weight rises for 1000 updates");
        assert!(phases(&config, 1001).is_empty());
    }

    #[test]
    fn examples_begin_where_texts_differ_and_name_what_can_not_be_seen() {
        let say = |a: &str, b: &str| changed(&Some((a.to_string(), b.to_string()))).unwrap();
        assert_eq!(say("a b cd e", "a b c d e"), "\"b cd e\" becomes \"b c d e\"");
        let long = say(&"x".repeat(100), "y");
        assert_eq!(long, format!("\"{}…\" becomes \"y\"", "x".repeat(60)));
        let text = say("la\u{308}uft", "l\u{e4}uft");
        assert!(text.ends_with("(U+00E4 where U+0061 was)"), "{text}");
    }
}
