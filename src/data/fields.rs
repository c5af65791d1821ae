//! A line of a `.tsv` or `.jsonl` file as the two sides of a pair.

use serde_json::Value;

use super::joined::one_line;
use super::lines::Lines;
use super::Error;
use crate::config::{Column, Corpus, DataConfig};

/// Both sides of a pair, and how many of them had line breaks inside.
pub(super) type Fields = ([String; 2], u64);

/// Where the sides are in a line of a `.tsv` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Of source and target, from 0.
    pub(super) at: [usize; 2],
}

impl Columns {
    /// The columns that a corpus or, without its own, `data.columns` names; empty for the first two.
    pub(super) fn named<'a>(corpus: &'a Corpus, data: &'a DataConfig) -> &'a [Column] {
        match corpus.columns.is_empty() {
            true => &data.columns,
            false => &corpus.columns,
        }
    }

    /// Whether the first line holds names instead of text.
    pub(super) fn have_header(named: &[Column]) -> bool {
        named.iter().any(|column| matches!(column, Column::Name(_)))
    }

    /// Finds the columns; reads the header if there is one.
    pub(super) fn find(named: &[Column], file: &mut Lines) -> Result<Self, Error> {
        let header = match Self::have_header(named) {
            true => file.next()?.ok_or_else(|| Error::Empty { file: file.name.clone() })?,
            false => String::new(),
        };
        let names: Vec<&str> = header.split('\t').map(str::trim).collect();
        let find = |column: &Column| match column {
            Column::Number(n) => Ok(n.saturating_sub(1)),
            Column::Name(name) => names.iter().position(|there| there == name).ok_or_else(|| Error::NoColumn {
                file: file.name.clone(),
                name: name.clone(),
                there: names.join(", "),
            }),
        };
        match named {
            [source, target] => Ok(Columns { at: [find(source)?, find(target)?] }),
            _ => Ok(Columns { at: [0, 1] }),
        }
    }

    /// The fields of a line; a blank line is an empty pair, as in two files.
    pub(super) fn fields(self, text: &str, file: &Lines) -> Result<Fields, Error> {
        let columns: Vec<&str> = text.split('\t').collect();
        if columns.len() == 1 && text.trim().is_empty() {
            return Ok(([String::new(), String::new()], 0));
        }
        let largest = self.at[0].max(self.at[1]);
        match (columns.len(), largest < columns.len()) {
            (_, true) => Ok(joined(self.at.map(|at| columns[at].to_string()))),
            (1, false) => Err(Error::NoTab { file: file.name.clone(), line: file.line }),
            (there, false) => {
                Err(Error::FewColumns { file: file.name.clone(), line: file.line, there, wanted: largest + 1 })
            }
        }
    }
}

/// The fields of a JSON object that the languages name.
pub(super) fn json(text: &str, languages: &[String; 2], file: &Lines) -> Result<Fields, Error> {
    let (name, line) = (&file.name, file.line);
    let not_object = |what: &str| Error::Json { place: format!("{name}:{line}"), what: what.to_string() };
    if text.trim_start().starts_with('[') {
        return Err(not_object("it begins an array; one object a line is needed, as `jq -c .[]` writes them"));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| fault(text, &e, file))?;
    let Value::Object(mut object) = value else {
        return Err(not_object("one object a line is needed"));
    };
    if let Some(Value::Object(inner)) = object.get_mut("translation") {
        object = std::mem::take(inner);
    }
    let mut field = |language: &String| match object.get_mut(language) {
        Some(Value::String(text)) => Ok(std::mem::take(text)),
        found => {
            let what = match found {
                None => {
                    let there: Vec<&str> = object.keys().map(String::as_str).collect();
                    format!("no field \"{language}\" (there: {})", there.join(", "))
                }
                Some(_) => format!("the field \"{language}\" is not a string"),
            };
            Err(Error::Field { file: name.clone(), line, what })
        }
    };
    Ok(joined([field(&languages[0])?, field(&languages[1])?]))
}

/// What the parser says, with the line of the file and the column in characters instead of its own.
fn fault(text: &str, error: &serde_json::Error, file: &Lines) -> Error {
    let before = &text.as_bytes()[..error.column().min(text.len())];
    // bytes that begin a character
    let column = before.iter().filter(|&&byte| byte & 0xC0 != 0x80).count().max(1);
    let said = error.to_string();
    let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
    let cure = if error.is_eof() { "; one object a line is needed, as `jq -c .` writes it" } else { "" };
    Error::Json { place: format!("{}:{}:{column}", file.name, file.line), what: format!("{what}{cure}") }
}

fn joined(sides: [String; 2]) -> Fields {
    let mut count = 0;
    let sides = sides.map(|side| match one_line(&side) {
        Some(line) => {
            count += 1;
            line
        }
        None => side,
    });
    (sides, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Lines {
        Lines::reading("t.tsv", text.as_bytes())
    }

    #[test]
    fn columns_are_found_by_number_or_name() {
        let number = |a, b| [Column::Number(a), Column::Number(b)];
        let name = |a: &str, b: &str| [Column::Name(a.to_string()), Column::Name(b.to_string())];
        let mut file = lines("id\ten \tde\n1\ta\tb\n");
        assert_eq!(Columns::find(&[], &mut file).unwrap().at, [0, 1]);
        assert_eq!(Columns::find(&number(3, 1), &mut file).unwrap().at, [2, 0]);
        assert_eq!(file.line, 0, "a file without names has no header");
        assert_eq!(Columns::find(&name("de", "en"), &mut file).unwrap().at, [2, 1]);
        assert_eq!(file.next().unwrap().as_deref(), Some("1\ta\tb"));
        let error = Columns::find(&name("en", "fr"), &mut lines("id\ten\tde\n")).unwrap_err().to_string();
        assert!(error.starts_with("t.tsv:1: no column \"fr\" (there: id, en, de)"), "{error}");
    }

    #[test]
    fn the_place_of_a_fault_in_json_is_that_of_the_file() {
        let mut file = lines("{}\n{}\n");
        file.next().unwrap();
        file.next().unwrap();
        let languages = ["en".to_string(), "de".to_string()];
        let say = |text: &str| json(text, &languages, &file).unwrap_err().to_string();
        let surrogate = say(r#"{"en":"ää","de":"a\ud800"}"#);
        assert!(surrogate.starts_with("t.tsv:2:") && !surrogate.contains("line 1"), "{surrogate}");
        let comma = say(r#"{"en":"ää",, "de":"b"}"#);
        assert!(comma.starts_with("t.tsv:2:12: not a JSON object: key must be a string"), "{comma}");
        assert!(say("{").contains("jq -c ."));
    }
}
