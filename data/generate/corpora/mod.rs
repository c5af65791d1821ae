//! Every committed corpus as a pure function of its seed: lines of a training, a validation and a test set.
//!
//! No two sources of a corpus are equal, nor (in translation) two targets; four in five held-out sentences hold a
//! combination of words that training never shows (`held_out.rs`).

mod chinese;
mod clause;
mod english_chinese;
mod english_german;
mod german;
mod held_out;
mod lexicon;
mod maker;
mod numbers;
mod summarisation;
mod tagging;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

use nmt_train::rng::{stream, Purpose, Stream};

use clause::Both;
use held_out::Marks;

/// Lines of one set.
#[derive(Default)]
pub(crate) struct Set {
    pub(crate) source: Vec<String>,
    pub(crate) target: Vec<String>,
    /// Sentences with a reserved combination, by kind; "any" counts each sentence once.
    pub(crate) reserved: BTreeMap<&'static str, usize>,
}

/// One corpus with its folder under `data/` and its file extensions.
pub(crate) struct Corpus {
    pub(crate) folder: &'static str,
    pub(crate) extensions: [&'static str; 2],
    /// Name and lines.
    pub(crate) sets: [(&'static str, Set); 3],
}

impl Corpus {
    /// File name below `data/` and content of each file.
    pub(crate) fn files(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for (name, set) in &self.sets {
            for (extension, lines) in self.extensions.iter().zip([&set.source, &set.target]) {
                let text = lines.iter().map(|line| format!("{line}\n")).collect();
                files.push((format!("{}/{name}.{extension}", self.folder), text));
            }
        }
        files
    }

    /// Counts of each set, one line a set; `data/README.md` quotes them.
    pub(crate) fn counts(&self) -> Vec<String> {
        let count = |(name, set): &(&str, Set)| {
            let words: usize = set.source.iter().map(|line| line.split_whitespace().count()).sum();
            let mean = words as f64 / set.source.len() as f64;
            let mut line = format!("{}/{name}: {} pairs, {mean:.1} source words a line", self.folder, set.source.len());
            let reserved: Vec<String> = set.reserved.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            if !reserved.is_empty() {
                line.push_str(&format!("; reserved: {}", reserved.join(", ")));
            }
            line
        };
        self.sets.iter().map(count).collect()
    }
}

/// Draws one pair and the reserved combinations in it.
type Draw<'a> = dyn FnMut(&mut Stream) -> (Both, Marks) + 'a;

/// What a corpus is made of.
struct Plan<'a> {
    folder: &'static str,
    extensions: [&'static str; 2],
    seed: u64,
    /// Pairs for training, validation, test.
    sizes: [usize; 3],
    /// Whether no two pairs may have the same target.
    unique_targets: bool,
    draw: Box<Draw<'a>>,
}

const QUICKSTART_SIZES: [usize; 3] = [14_000, 500, 500];

fn quickstart(words: &lexicon::Lexicon) -> Plan<'_> {
    Plan {
        folder: "quickstart",
        extensions: ["en", "de"],
        seed: 1,
        sizes: QUICKSTART_SIZES,
        unique_targets: true,
        draw: Box::new(|rng| {
            let mut maker = maker::Maker { rng, words, marks: Marks::default() };
            let both = english_german::sentence(&mut maker);
            (both, maker.marks)
        }),
    }
}

/// All corpora.
pub(crate) fn all() -> Vec<Corpus> {
    let (words, chinese_words) = (lexicon::Lexicon::new(), chinese::Words::new());
    let zh = Plan {
        folder: "quickstart-zh",
        extensions: ["en", "zh"],
        seed: 2,
        sizes: [6_000, 300, 300],
        unique_targets: true,
        draw: Box::new(|rng| {
            let mut maker = chinese::Maker { rng, words: &chinese_words, marks: Marks::default() };
            let both = english_chinese::sentence(&mut maker);
            (both, maker.marks)
        }),
    };
    let tagging = Plan {
        folder: "tagging",
        extensions: ["text", "tags"],
        seed: 3,
        sizes: [4_000, 200, 200],
        unique_targets: false,
        draw: Box::new(tagging::sentence),
    };
    let summarisation = Plan {
        folder: "summarisation",
        extensions: ["text", "headline"],
        seed: 4,
        sizes: [3_000, 200, 200],
        unique_targets: false,
        draw: Box::new(summarisation::report),
    };
    [quickstart(&words), zh, tagging, summarisation].map(build).into()
}

/// Writes `pairs` English→German training pairs that share nothing with the committed held-out sets; unlike the
/// committed training set they may repeat. Flat memory.
pub(crate) fn write_large(pairs: usize, source: &mut dyn Write, target: &mut dyn Write) -> io::Result<()> {
    let words = lexicon::Lexicon::new();
    let mut plan = quickstart(&words);
    let mut seen = HashSet::new();
    held_out_sets(&mut plan, &mut seen);
    let mut rng = stream(plan.seed, Purpose::Text, 3);
    let mut written = 0;
    while written < pairs {
        let ((en, de), marks) = (plan.draw)(&mut rng);
        if marks.is_free() && !seen.contains(&side(0, &en)) && !seen.contains(&side(1, &de)) {
            writeln!(source, "{en}")?;
            writeln!(target, "{de}")?;
            written += 1;
        }
    }
    Ok(())
}

fn build(mut plan: Plan) -> Corpus {
    let mut seen = HashSet::new();
    let (valid, test) = held_out_sets(&mut plan, &mut seen);
    let train = draw_set(&mut plan, 0, &mut seen, |marks, _| marks.is_free());
    let sets = [("train", train), ("valid", valid), ("test", test)];
    Corpus { folder: plan.folder, extensions: plan.extensions, sets }
}

/// Validation and test set; four in five of their sentences hold a reserved combination. The latter never meets what is reserved for the former, and the other way round.
fn held_out_sets(plan: &mut Plan, seen: &mut HashSet<u64>) -> (Set, Set) {
    let wants = |index: usize| index % 5 != 4;
    let test = draw_set(plan, 2, seen, |m, i| m.valid.is_empty() && m.test.is_empty() != wants(i));
    let valid = draw_set(plan, 1, seen, |m, i| m.test.is_empty() && m.valid.is_empty() != wants(i));
    (valid, test)
}

/// Set number `which` of the plan from the pairs that `accept` takes, given their marks and index.
fn draw_set(plan: &mut Plan, which: usize, seen: &mut HashSet<u64>, accept: impl Fn(&Marks, usize) -> bool) -> Set {
    let mut rng = stream(plan.seed, Purpose::Text, which as u64);
    let (mut set, mut kinds) = (Set::default(), Vec::new());
    while set.source.len() < plan.sizes[which] {
        let ((source, target), marks) = (plan.draw)(&mut rng);
        let keys = [side(0, &source), side(1, &target)];
        let keys = if plan.unique_targets { &keys[..] } else { &keys[..1] };
        if !accept(&marks, set.source.len()) || keys.iter().any(|key| seen.contains(key)) {
            continue;
        }
        seen.extend(keys);
        set.source.push(source);
        set.target.push(target);
        kinds.push([marks.test, marks.valid].concat());
    }
    set.reserved = held_out::tally(kinds.iter().map(Vec::as_slice));
    set
}

/// Key of a line on one side.
fn side(which: usize, line: &str) -> u64 {
    held_out::hash(&[if which == 0 { "source" } else { "target" }, line])
}
