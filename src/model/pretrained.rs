//! Embedding tables filled from word vectors in text form: fastText and word2vec (a header "count width") and GloVe (no
//! header, tokens that may hold spaces). Headers of real files lie and lines are damaged, so that the table's width alone
//! says how a line is read. The file is read once as a stream; only rows of known words are kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::fsio;
use crate::params::Param;

/// Why a file of word vectors could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PretrainedError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}: vectors have width {found}, the embedding table {table}; set model.d_model (or \
         model.rnn.embedding_size) to {found} or choose other vectors",
        path = path.display()
    )]
    Width { path: PathBuf, found: usize, table: usize },
    #[error("{path}: no word vectors found; expected lines \"token number number …\"", path = path.display())]
    Empty { path: PathBuf },
    #[error("{path}: {what}; word vectors are read as text, one \"token number number …\" a line", path = path.display())]
    NotText { path: PathBuf, what: &'static str },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What was in the file and what was used of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines, header included.
    pub lines: usize,
    /// Well-formed vectors.
    pub loaded: usize,
    /// Lines skipped because they are not valid UTF-8.
    pub bad_utf8: usize,
    /// Lines skipped because they do not hold a token and the right number of numbers.
    pub bad_width: usize,
    /// Vectors that the header announces.
    pub header_count: Option<usize>,
    /// Rows of the table that were filled; of a token that comes twice the first vector counts.
    pub covered: usize,
    /// Rows that stand for words or beginnings of words, which alone can be filled.
    pub words: usize,
    /// Rows of the table.
    pub rows: usize,
    /// The first words of the table that are not in the file, long ones before short ones, and of the file: what to
    /// compare when few are found.
    pub missing: Vec<String>,
    pub first: Vec<String>,
}

impl Report {
    /// Fewer than a quarter of the words found, or fewer than a tenth of the rows filled.
    pub fn is_low(&self) -> bool {
        4 * self.covered < self.words || 10 * self.covered < self.rows
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} of {} rows filled from {} vectors", self.covered, self.rows, self.loaded)?;
        write!(f, "; {} pieces are words or begin them", self.words)?;
        if let Some(announced) = self.header_count.filter(|&announced| announced != self.loaded) {
            write!(f, "; the header announces {announced}")?;
        }
        for (lines, fault) in [(self.bad_utf8, "not UTF-8"), (self.bad_width, "of another form")] {
            if lines > 0 {
                write!(f, "; {lines} lines {fault} skipped")?;
            }
        }
        Ok(())
    }
}

/// Words of a report's examples.
const EXAMPLES: usize = 3;
/// Characters of a long word; shorter ones are often beginnings.
const LONG: usize = 4;
/// Lines without a vector of the table's width after which the rest of a file is not read.
const HOPELESS: usize = 1000;

/// Overwrites the rows of `param` (`[V, d]`) whose word is in the file; the others and the frozen row stay as they
/// are. `word_of_id` gives the word to look for, `None` for rows to leave alone. Gzip is unpacked.
///
/// # Errors
/// An unreadable or empty file, one that is not text, vectors of another width than the table.
pub fn fill(param: &Param, path: &Path, word_of_id: &dyn Fn(u32) -> Option<String>) -> Result<Report, PretrainedError> {
    let (rows, width) = param.var.dims2()?;
    let words = (0..rows).map(|row| word_of_id(row as u32).filter(|_| Some(row) != param.frozen_row));
    let words: Vec<Option<String>> = words.collect();
    let mut wanted: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, word) in words.iter().enumerate() {
        if let Some(word) = word {
            wanted.entry(word).or_default().push(row);
        }
    }
    let mut report = Report { rows, words: words.iter().flatten().count(), ..Report::default() };
    let mut table = param.var.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let mut keep = |token: &str, vector: &[f64]| {
        let filled = wanted.remove(token).unwrap_or_default();
        for row in &filled {
            table[row * width..(row + 1) * width].copy_from_slice(vector);
        }
        filled.len()
    };
    read(path, width, &mut report, &mut keep)?;
    let missing = words.iter().flatten().filter(|word| wanted.contains_key(word.as_str()));
    let (long, short): (Vec<&String>, Vec<&String>) = missing.partition(|word| word.chars().count() >= LONG);
    report.missing = long.into_iter().chain(short).take(EXAMPLES).cloned().collect();
    let table = Tensor::from_vec(table, (rows, width), &Device::Cpu)?;
    param.var.set(&table.to_dtype(param.var.dtype())?.to_device(param.var.device())?)?;
    Ok(report)
}

/// Counts the lines of a file and gives each vector to `keep`, which says how many rows it fills.
fn read(
    path: &Path,
    width: usize,
    report: &mut Report,
    keep: &mut dyn FnMut(&str, &[f64]) -> usize,
) -> Result<(), PretrainedError> {
    let unreadable = |source| PretrainedError::Read { path: path.to_path_buf(), source };
    let mut reader = open(path)?;
    let (mut line, mut header_width) = (Vec::new(), None);
    // lines without a vector of the right width by the numbers they end with
    let mut others: BTreeMap<usize, usize> = BTreeMap::new();
    while read_line(&mut reader, &mut line).map_err(unreadable)? {
        report.lines += 1;
        let bytes = if report.lines == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line) } else { &line[..] };
        let Ok(text) = std::str::from_utf8(bytes) else {
            report.bad_utf8 += 1;
            continue;
        };
        let fields: Vec<&str> = text.split([' ', '\t']).filter(|field| !field.is_empty()).collect();
        if let Some((count, width)) = header(&fields).filter(|_| report.lines == 1) {
            (report.header_count, header_width) = (Some(count), Some(width));
            continue;
        }
        let Some((token, vector)) = parse(&fields, width) else {
            report.bad_width += 1;
            *others.entry(fields.iter().rev().map_while(|field| number(field)).count()).or_insert(0) += 1;
            if report.loaded == 0 && report.lines > HOPELESS {
                break;
            }
            continue;
        };
        report.loaded += 1;
        report.covered += keep(&token, &vector);
        if report.first.len() < EXAMPLES {
            report.first.push(token);
        }
    }
    if report.loaded > 0 {
        return Ok(());
    }
    let path = path.to_path_buf();
    let most = others.into_iter().max_by_key(|&(_, lines)| lines).map(|(numbers, _)| numbers);
    Err(match most.filter(|&numbers| numbers > 1).or(header_width.filter(|&found| found != width)) {
        _ if 2 * report.bad_utf8 > report.lines => {
            let what = "most of it is not UTF-8, as in word2vec's binary form (gensim saves the text form with \
                        save_word2vec_format)";
            PretrainedError::NotText { path, what }
        }
        Some(found) => PretrainedError::Width { path, found, table: width },
        None => PretrainedError::Empty { path },
    })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, PretrainedError> {
    let unreadable = |source| PretrainedError::Read { path: path.to_path_buf(), source };
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(unreadable)?);
    let what = match reader.fill_buf().map_err(unreadable)? {
        [0x1F, 0x8B, ..] => {
            let unpacked = flate2::bufread::MultiGzDecoder::new(reader);
            return Ok(Box::new(BufReader::with_capacity(1 << 16, unpacked)));
        }
        [b'P', b'K', 3, 4, ..] => "a zip archive, which has to be unpacked first",
        [0xBA, 0x16, 0x4F, 0x2F, ..] => "a binary fastText model, beside which there usually is a .vec file",
        _ => return Ok(Box::new(reader)),
    };
    Err(PretrainedError::NotText { path: path.to_path_buf(), what })
}

/// The next line without its end; false at the end of the file.
fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if !fsio::read_line(reader, line)? {
        return Ok(false);
    }
    while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(true)
}

/// "count width" and nothing else.
fn header(fields: &[&str]) -> Option<(usize, usize)> {
    let [count, width] = fields else { return None };
    Some((count.parse().ok()?, width.parse().ok()?))
}

/// The last `width` fields are the vector, what stands before is the token.
fn parse(fields: &[&str], width: usize) -> Option<(String, Vec<f64>)> {
    let (token, vector) = fields.split_at_checked(fields.len().checked_sub(width)?)?;
    let is_longer_row = token.len() > 1 && token.last().is_some_and(|last| number(last).is_some());
    if token.is_empty() || is_longer_row {
        return None;
    }
    Some((token.join(" "), vector.iter().map(|field| number(field)).collect::<Option<_>>()?))
}

/// A number that a table can hold.
fn number(field: &str) -> Option<f64> {
    field.parse::<f64>().ok().filter(|x| x.abs() <= f64::from(f32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, ParamKind, ParamSet};
    use candle_core::DType;
    use std::io::Write;

    fn table(rows: usize, width: usize) -> ParamSet {
        let mut set = ParamSet::new(1, DType::F32, &Device::Cpu);
        let kind = ParamKind::Table { tied: false };
        set.add_with_frozen_row("e", kind, &[rows, width], Init::Normal(1.0), Some(rows - 1)).unwrap();
        set
    }

    fn fill_from(text: &[u8], words: &[&str], width: usize) -> (Result<Report, PretrainedError>, Vec<Vec<f32>>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let set = table(words.len(), width);
        let param = set.get("e").unwrap();
        let report = fill(param, file.path(), &|id| Some(words[id as usize].to_string()));
        (report, param.var.to_vec2().unwrap())
    }

    #[test]
    fn a_header_that_lies_bad_lines_and_repeated_words_are_counted_and_survived() {
        let text = b"9 2\nthe 1 2 \n\xff\xfe 3 4\ncat 5\ndog 1 2 3\nthe 7 8\n<pad> 1 1\n. . 0.5 -1e-1";
        let (report, rows) = fill_from(text, &["the", "bird", ". .", "<pad>"], 2);
        let report = report.unwrap();
        let right = Report {
            lines: 8,
            loaded: 4,
            bad_utf8: 1,
            bad_width: 2,
            header_count: Some(9),
            covered: 2,
            words: 3,
            rows: 4,
            missing: vec!["bird".into()],
            first: vec!["the".into(), "the".into(), "<pad>".into()],
        };
        assert_eq!(report, right);
        assert_eq!((&rows[0], &rows[2], &rows[3]), (&vec![1.0, 2.0], &vec![0.5, -0.1], &vec![0.0, 0.0]));
        assert_eq!(rows[1], table(4, 2).get("e").unwrap().var.to_vec2::<f32>().unwrap()[1]);
    }

    #[test]
    fn another_width_is_an_error_that_names_both_with_and_without_a_header() {
        for text in [&b"1 3\nthe 1 2 3\n"[..], b"the 1 2 3\n"] {
            let message = fill_from(text, &["the", "<pad>"], 2).0.unwrap_err().to_string();
            assert!(message.contains("width 3") && message.contains("table 2"), "{message}");
        }
        assert!(matches!(fill_from(b"", &["the", "<pad>"], 2).0, Err(PretrainedError::Empty { .. })));
        assert!(matches!(fill_from(b"5 2\n", &["the", "<pad>"], 2).0, Err(PretrainedError::Empty { .. })));
    }

    #[test]
    fn the_width_of_the_table_decides_whatever_the_first_line_says() {
        for first in [
            "9 300\n",            // a header that lies about the width
            "\u{FEFF}2 2\r\n",    // a byte order mark, line ends of Windows
            "dog 1\n",            // a line that was cut
            ". . . 0 0\n",        // a token with spaces
            "Straße 7 8 9 1 2\n", // a row that is too long
            "",
        ] {
            let text = format!("{first}the\t1  2 \t\n\tcat 3 4\n");
            let (report, rows) = fill_from(text.as_bytes(), &["the", "cat", "<pad>"], 2);
            assert_eq!(
                (report.unwrap().covered, &rows[0], &rows[1]),
                (2, &vec![1.0, 2.0], &vec![3.0, 4.0]),
                "{first:?}"
            );
        }
        let (report, _) = fill_from(b"\xFF 1 2\nthe 1 2\nthe nan 2\ncat 1e99 2\n", &["the", "cat", "<pad>"], 2);
        let report = report.unwrap();
        assert_eq!((report.bad_utf8, report.bad_width, report.covered, report.is_low()), (1, 2, 1, false));
    }

    #[test]
    fn a_wider_file_is_refused_though_its_rows_end_with_enough_numbers() {
        let text = b". . 1 2 3\nthe 4 5 6\nat x@y.z 7 8 9\n";
        let message = fill_from(text, &["the", "<pad>"], 2).0.unwrap_err().to_string();
        assert!(message.contains("width 3") && message.contains("table 2"), "{message}");
    }

    #[test]
    fn what_is_not_text_is_named_and_gzip_known_by_its_content() {
        let message = |bytes: &[u8]| fill_from(bytes, &["the", "<pad>"], 2).0.unwrap_err().to_string();
        assert!(message(b"PK\x03\x04rest").contains("a zip archive"));
        assert!(message(b"\xBA\x16\x4F\x2F\0").contains("a binary fastText model"));
        assert!(message(b"1 2\n\xff\xfe\n\xfe\n\xff").contains("binary form"));
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(b"the 1 2\n").unwrap();
        assert_eq!(fill_from(&zipped.finish().unwrap(), &["the", "<pad>"], 2).0.unwrap().covered, 1);
    }

    #[test]
    fn few_words_found_are_low_coverage() {
        let low = |text: &[u8], words: &[&str]| fill_from(text, words, 1).0.unwrap().is_low();
        assert!(low(b"a 1\n", &["a", "b", "c", "d", "e", "<pad>"]));
        assert!(!low(b"a 1\n", &["a", "b", "c", "d", "<pad>"]));
        assert!(low(b"a 1\n", &["b", "<pad>"]));
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "says that it was skipped")]
    fn files_from_the_wild_load() {
        let shared = std::env::var("NMT_SHARED").unwrap_or_else(|_| "../shared".to_string());
        let folder = Path::new(&shared).join("artefacts");
        if !folder.is_dir() {
            println!("skipped: {} is absent", folder.display());
            return;
        }
        for (name, width, loaded, bad_utf8) in [
            ("wiki.en.vec", 300, 99, 0),
            ("glove50_76words.txt", 50, 76, 0),
            ("glove.840B.300d_first100.txt.gz", 300, 100, 0),
            ("pang_lee_polarity_fasttext.vec.gz", 100, 1689, 5),
        ] {
            let set = table(3, width);
            let words = ["the", "no such word", "<pad>"];
            let token = |id| Some(words[id as usize].to_string());
            let report = fill(set.get("e").unwrap(), &folder.join(name), &token).unwrap();
            assert_eq!((report.loaded, report.bad_utf8, report.bad_width), (loaded, bad_utf8, 0), "{name} {report:?}");
            assert_eq!(report.covered, 1, "{name}");
        }
    }
}
