//! What the first lines of `.tsv` files say about their columns: the wrong ones train without an error.

use std::collections::BTreeSet;

use super::fields::Columns;
use super::lines::{locate, Lines};
use super::source::Format;
use super::Error;
use crate::config::{Column, Corpus, DataConfig};

/// Something about the text that the user should know before training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Most likely a mistake.
    pub warning: bool,
    pub text: String,
}

/// Lines that are looked at.
const LINES: usize = 1000;
/// Lines without which a column of one value says nothing.
const ENOUGH: usize = 20;
/// Characters of an example.
const SHOWN: usize = 40;

/// Looks at the first lines of every `.tsv` file: which columns are used where there are more, which do not look like
/// text, a first line that looks like a header.
///
/// # Errors
/// Those of reading the files.
pub fn look(data: &DataConfig) -> Result<Vec<Remark>, Error> {
    let mut remarks = Vec::new();
    let mut seen = BTreeSet::new();
    for corpus in [&data.train, &data.valid, &data.test].into_iter().flat_map(|corpora| &corpora.0) {
        if Format::of(corpus)? == Format::Tsv && seen.insert(&corpus.files[0]) {
            Table::read(corpus, data)?.remark(data, &mut remarks);
        }
    }
    Ok(remarks)
}

/// The first lines of a file.
struct Table<'a> {
    name: &'a str,
    /// Names of the columns, if the first line is not text.
    header: Option<Vec<String>>,
    rows: Vec<Vec<String>>,
    used: [usize; 2],
    /// `data.columns` or the corpus says which.
    chosen: bool,
}

impl<'a> Table<'a> {
    fn read(corpus: &'a Corpus, data: &DataConfig) -> Result<Self, Error> {
        let name = &corpus.files[0];
        locate(name)?;
        let named = Columns::named(corpus, data);
        let used = Columns::find(named, &mut Lines::open(name)?)?.at;
        let mut lines = Lines::open(name)?;
        let mut rows = Vec::new();
        while let (Some(line), true) = (lines.next()?, rows.len() < LINES) {
            rows.push(line.split('\t').map(str::to_string).collect::<Vec<_>>());
        }
        let header = (Columns::have_header(named) && !rows.is_empty()).then(|| rows.remove(0));
        Ok(Table { name, header, rows, used, chosen: !named.is_empty() })
    }

    fn remark(&self, data: &DataConfig, remarks: &mut Vec<Remark>) {
        let (name, columns) = (self.name, self.width());
        let [source, target] = self.used;
        let example = self.rows.iter().find(|row| row.len() == columns).filter(|_| columns > 2);
        if let Some(row) = example {
            let which = self.used.map(|at| match &self.header {
                Some(names) => names.get(at).map_or(String::new(), |name| format!("\"{}\"", name.trim())),
                None => (at + 1).to_string(),
            });
            let cure = if self.chosen { "" } else { "; data.columns names others" };
            let text = format!(
                "{name} has {columns} columns; {} and {} are used, as {} -> {}{cure}",
                which[0],
                which[1],
                shown(&row[source.min(columns - 1)]),
                shown(&row[target.min(columns - 1)]),
            );
            remarks.push(Remark { warning: false, text });
        }
        let header = self.header.is_none().then(|| self.looks_like_a_header(data)).flatten();
        if let Some(names) = &header {
            let text = format!(
                "{name}:1 looks like a header and is taken for text: {} -> {}; set data.columns = {names}",
                shown(self.rows[0].get(source).map_or("", String::as_str)),
                shown(self.rows[0].get(target).map_or("", String::as_str)),
            );
            remarks.push(Remark { warning: true, text });
        }
        let body = &self.rows[usize::from(header.is_some()).min(self.rows.len())..];
        for (at, side) in self.used.into_iter().zip(["source", "target"]) {
            if let Some(what) = no_text(body, at) {
                let cure = match (header.is_some(), self.text_columns(body)) {
                    (false, Some([a, b])) => format!("; set data.columns = [{}, {}]", a + 1, b + 1),
                    _ => "; data.columns names others".to_string(),
                };
                let text = format!("{name}: column {}, used as the {side}, {what}{cure}", at + 1);
                remarks.push(Remark { warning: true, text });
            }
        }
    }

    fn width(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The first two columns that look like text, if they are not those in use.
    fn text_columns(&self, body: &[Vec<String>]) -> Option<[usize; 2]> {
        let mut text = (0..self.width()).filter(|&at| no_text(body, at).is_none());
        let found = [text.next()?, text.next()?];
        (found != self.used).then_some(found)
    }

    /// Names in the first line that would be columns, as TOML: those of the languages, else those in use.
    fn looks_like_a_header(&self, data: &DataConfig) -> Option<String> {
        const NAMES: [&str; 24] = [
            "source",
            "target",
            "src",
            "tgt",
            "trg",
            "src_text",
            "tgt_text",
            "source_text",
            "target_text",
            "text",
            "id",
            "sentence",
            "sentence1",
            "sentence2",
            "translation",
            "reference",
            "ref",
            "hypothesis",
            "input",
            "output",
            "source_sentence",
            "target_sentence",
            "original",
            "translated",
        ];
        let row: Vec<&str> = self.rows.first()?.iter().map(|cell| cell.trim()).collect();
        let languages = [&data.source_language, &data.target_language];
        let used = [row.get(self.used[0])?, row.get(self.used[1])?];
        let is_language = |cell: &str| languages.iter().any(|language| cell.eq_ignore_ascii_case(language));
        let is_name = |cell: &str| NAMES.contains(&cell.to_lowercase().as_str()) || is_language(cell);
        let both_languages =
            languages.map(|language| row.iter().find(|cell| cell.eq_ignore_ascii_case(language)).copied());
        let names = match both_languages {
            [Some(source), Some(target)] if source != target => [source, target],
            _ if used.iter().all(|cell| is_name(cell)) => used.map(|cell| *cell),
            _ => return None,
        };
        let [source, target] = names.map(|name| Column::Name(name.to_string()));
        Some(format!("[{source}, {target}]"))
    }
}

/// What a column holds instead of text, if it does.
fn no_text(rows: &[Vec<String>], at: usize) -> Option<String> {
    let cells: Vec<&str> = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.trim()).collect();
    let cells: Vec<&str> = cells.into_iter().filter(|cell| !cell.is_empty()).collect();
    let first = cells.first()?;
    let numbers: Vec<&&str> = cells.iter().filter(|cell| is_number(cell)).collect();
    if let (Some(number), true) = (numbers.first(), 10 * numbers.len() >= 9 * cells.len()) {
        return Some(format!("holds numbers, as {}, not text", shown(number)));
    }
    let constant = cells.len() >= ENOUGH && cells.iter().all(|cell| cell == first);
    constant.then(|| format!("holds {} in every line", shown(first)))
}

/// A number, a date, an identifier: at least half of it digits.
fn is_number(cell: &str) -> bool {
    let digits = cell.chars().filter(|c| c.is_ascii_digit()).count();
    !cell.contains(char::is_whitespace) && digits > 0 && 2 * digits >= cell.chars().count()
}

/// In quotes, with control characters escaped.
fn shown(cell: &str) -> String {
    let cell = cell.trim();
    match cell.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}", format!("{}…", &cell[..end])),
        None => format!("{cell:?}"),
    }
}
