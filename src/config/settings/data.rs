//! `[data]` and `[tokenizer]`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

settings! {
    /// Parallel text.
    pub struct DataConfig {
        /// Training text: two line-aligned files, or one `.tsv` or `.jsonl` file, each also `.gz`, each a path or
        /// `hf://datasets/OWNER/NAME[@REVISION]/FILE`. Several corpora: a list of tables `{ files = [...], weight = 1.0,
        /// tag = "" }`; a tag, as "<BT>", is a token put before each source line (text that was translated back). A leading
        /// `~/` of this and every other path is the home folder.
        pub train: Corpora = Corpora::default(),
        /// Validation text, same forms; [] = none.
        pub valid: Corpora = Corpora::default(),
        /// Test text, same forms, scored once after training; [] = none.
        pub test: Corpora = Corpora::default(),
        /// Name of the source language; also the field of JSON lines.
        pub source_language: String = "en".to_string(),
        /// Name of the target language; also the field of JSON lines. Chooses how BLEU cuts words, see
        /// validation.tokenize.
        pub target_language: String = "de".to_string(),
        /// Columns of the source and of the target in `.tsv` files: numbers from 1, as [2, 4], or names, as ["en",
        /// "de"], which stand in the first line (it is no text then); [] = the first two. A corpus may have its own: `{
        /// files = ["a.tsv"], columns = [2, 4] }`.
        pub columns: Vec<Column> = Vec::new(),
        /// Longest side of a training pair in tokens, `</s>` included; longer pairs are dropped and counted. 1 or more.
        pub max_length: usize = 100,
        /// Shortest side of a training pair in tokens, `</s>` not counted; shorter pairs are dropped and counted.
        pub min_length: usize = 1,
        /// Largest ratio of the longer to the shorter side in tokens; 0 = off, else 1 or more.
        pub max_length_ratio: f64 = 0.0,
        /// Folder of encoded corpora, shared by runs, safe to delete. Empty: `cache/` beside the run folder.
        pub cache_dir: String = String::new(),
    }
}

/// Zero or more corpora. In TOML: `[]`, `"file.tsv"`, `["a.en", "a.de"]` or
/// `[{ files = ["a.en", "a.de"], weight = 2.0 }, { files = ["b.jsonl"] }]`.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema)]
pub struct Corpora(pub Vec<Corpus>);

/// One corpus: a source and a target file, or one file with both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Corpus {
    /// One or two files.
    pub files: Vec<String>,
    /// As `data.columns`, which holds where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// Expected passes over this corpus in one epoch: 1 = each pair once, 2 = twice, 0.5 = half of the pairs, anew
    /// each epoch. Above 0.
    #[serde(default = "one")]
    pub weight: f64,
    /// A token of the source vocabulary put before each source line in training, as "<BT>" before text that was translated
    /// back (Caswell et al. 2019), so that the model knows such text from its own; it counts as one of the line's tokens. A
    /// tokenizer that is trained with the corpus knows it as a token that no text has. Empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
}

fn one() -> f64 {
    1.0
}

impl Corpus {
    /// A corpus without settings of its own.
    pub fn of(files: Vec<String>) -> Self {
        Corpus { files, columns: Vec::new(), weight: one(), tag: String::new() }
    }
}

impl Corpora {
    /// The tags of all corpora, each once.
    pub fn tags(&self) -> Vec<String> {
        let mut tags: Vec<String> = self.0.iter().map(|corpus| corpus.tag.clone()).collect();
        tags.retain(|tag| !tag.is_empty());
        tags.sort_unstable();
        tags.dedup();
        tags
    }
}

/// A column of a `.tsv` file.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
pub enum Column {
    /// From 1.
    Number(usize),
    /// As in the first line.
    Name(String),
}

impl fmt::Display for Column {
    /// As in TOML.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Column::Number(n) => write!(f, "{n}"),
            Column::Name(name) => write!(f, "{}", toml::Value::from(name.as_str())),
        }
    }
}

/// How a single file holds both sides of its pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BothSides {
    /// `source<TAB>target`, or the columns that are named.
    Tsv,
    /// `{"translation": {"en": …, "de": …}}` or `{"en": …, "de": …}`, one object a line.
    JsonLines,
}

impl BothSides {
    /// Known from the ending, `.gz` aside; `None` for a file of one side.
    pub fn of(file: &str) -> Option<Self> {
        match ending(file).as_str() {
            "tsv" => Some(BothSides::Tsv),
            "jsonl" | "json" | "ndjson" => Some(BothSides::JsonLines),
            _ => None,
        }
    }
}

/// The ending of a file name in lower case, without the dot and without `.gz`; empty if there is none.
pub fn ending(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.').map_or(String::new(), |(_, ending)| ending.to_string())
}

/// How a flat list of too many files may have been meant: `[{ files = ["a.en", "a.de"] }, { files = ["b.tsv"] }]`.
/// Files of one side go together when they differ in the ending only, else as they follow each other.
pub(super) fn as_corpora(files: &[String]) -> String {
    let stem = |file: &str| {
        let name = file.strip_suffix(".gz").unwrap_or(file);
        name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_string()
    };
    let group = |together: &dyn Fn(&str, &str) -> bool| {
        let mut groups: Vec<Vec<&String>> = Vec::new();
        for file in files {
            let alone = |group: &&mut Vec<&String>| group.len() == 1 && BothSides::of(group[0]).is_none();
            let partner = groups.iter_mut().filter(alone).find(|group| together(group[0], file));
            match partner.filter(|_| BothSides::of(file).is_none()) {
                Some(partner) => partner.push(file),
                None => groups.push(vec![file]),
            }
        }
        groups
    };
    let whole = |groups: &[Vec<&String>]| groups.iter().all(|g| g.len() == 2 || BothSides::of(g[0]).is_some());
    let by_name = group(&|a, b| stem(a) == stem(b));
    let groups = if whole(&by_name) { by_name } else { group(&|_, _| true) };
    let quoted = |file: &&String| toml::Value::from(file.as_str()).to_string();
    let table =
        |group: &Vec<&String>| format!("{{ files = [{}] }}", group.iter().map(quoted).collect::<Vec<_>>().join(", "));
    format!("[{}]", groups.iter().map(table).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_tables_are_put_into_tables() {
        let meant = |files: &[&str]| as_corpora(&files.iter().map(|f| f.to_string()).collect::<Vec<_>>());
        let two = r#"[{ files = ["a.en", "a.de"] }, { files = ["b.en.gz", "b.de"] }]"#;
        assert_eq!(meant(&["a.en", "a.de", "b.en.gz", "b.de"]), two);
        assert_eq!(meant(&["a.en", "b.en.gz", "a.de", "b.de"]), two);
        assert_eq!(meant(&["x/a.tsv", "b.jsonl", "c.TSV.gz"]).matches("{ files = [").count(), 3);
        let mixed = r#"[{ files = ["a.tsv"] }, { files = ["src", "tgt"] }]"#;
        assert_eq!(meant(&["a.tsv", "src", "tgt"]), mixed);
        assert_eq!(meant(&["en", "de", "fr"]), r#"[{ files = ["en", "de"] }, { files = ["fr"] }]"#);
    }

    #[test]
    fn endings_are_those_of_the_name_without_gz() {
        assert_eq!(BothSides::of("a.b/c.TSV.GZ"), Some(BothSides::Tsv));
        assert_eq!(BothSides::of("hf://datasets/a/b/c.ndjson"), Some(BothSides::JsonLines));
        assert_eq!(BothSides::of("a.tsv/c"), None);
        assert_eq!(ending("a.tsv/c"), "");
    }
}
