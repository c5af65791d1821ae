//! Ranges and rules of `[data]`.

use super::data::as_corpora;
use super::{BothSides, Checks, Column, Corpora, DataConfig};

pub(super) fn rules(data: &DataConfig, check: &mut Checks) {
    check.rule(
        !data.train.0.is_empty(),
        &["data.train"],
        "must name the training text: two line-aligned files, or one .tsv or .jsonl file",
    );
    corpora(check, "data.train", &data.train);
    for (key, corpus) in [("data.valid", &data.valid), ("data.test", &data.test)] {
        corpora(check, key, corpus);
        let unweighted = corpus.0.iter().all(|corpus| corpus.weight == 1.0);
        check.rule(unweighted, &[key], "must have no weights; they belong to data.train");
        check.rule(corpus.tags().is_empty(), &[key], "must have no tags; they belong to data.train");
    }
    for (key, name) in
        [("data.source_language", &data.source_language), ("data.target_language", &data.target_language)]
    {
        check.rule(!name.is_empty(), &[key], "must not be empty");
    }
    check.rule(two_columns(&data.columns), &["data.columns"], COLUMNS);
    check.rule(
        data.min_length < data.max_length,
        &["data.min_length", "data.max_length"],
        format!("must be below data.max_length = {}, which counts </s>", data.max_length),
    );
    let ratio = data.max_length_ratio;
    let allowed = ratio == 0.0 || (ratio >= 1.0 && ratio.is_finite());
    check.rule(allowed, &["data.max_length_ratio"], "must be 0 (off), or 1 or more");
}

fn corpora(check: &mut Checks, key: &'static str, corpora: &Corpora) {
    for corpus in &corpora.0 {
        let (files, weight) = (&corpus.files, corpus.weight);
        check.rule(
            (1..=2).contains(&files.len()) && files.iter().all(|file| !file.is_empty()),
            &[key],
            match files.len() {
                0..=2 => "must have one or two files in each corpus".to_string(),
                _ => format!("must have one or two files in each corpus; perhaps {}", as_corpora(files)),
            },
        );
        let both_sides = files.iter().find_map(|file| BothSides::of(file));
        if let [file] = files.as_slice() {
            check.rule(
                both_sides.is_some() || file.is_empty(),
                &[key],
                "must be two files, source and target, or one with both sides that ends in .tsv or .jsonl (or .gz of it)",
            );
        }
        check.rule(two_columns(&corpus.columns), &[key], format!("must have columns as data.columns, which {COLUMNS}"));
        let tsv = corpus.columns.is_empty() || both_sides == Some(BothSides::Tsv);
        check.rule(tsv, &[key], "must have columns for .tsv files only");
        check.rule(
            corpus.tag.is_empty() || is_tag(&corpus.tag),
            &[key],
            format!("must have tags in marks and without spaces, as <BT>, not {:?}", corpus.tag),
        );
        check.rule(weight > 0.0 && weight.is_finite(), &[key], format!("must have weights above 0, not {weight}"));
    }
}

/// A name between punctuation marks is no piece of text, which is cut at them.
fn is_tag(tag: &str) -> bool {
    let is_mark = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
    is_mark(tag.chars().next())
        && is_mark(tag.chars().last())
        && tag.chars().count() > 2
        && !tag.contains(char::is_whitespace)
        && !tag.contains(char::is_control)
}

const COLUMNS: &str = "must be two different columns, each a number of 1 or more or a name, or []";

fn two_columns(columns: &[Column]) -> bool {
    let proper = |column: &Column| *column != Column::Number(0) && *column != Column::Name(String::new());
    match columns {
        [] => true,
        [source, target] => source != target && proper(source) && proper(target),
        _ => false,
    }
}
