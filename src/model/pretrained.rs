//! Embedding tables filled from word vectors in text form: fastText and word2vec (a header "count width", which in
//! files cut from larger ones lies about the count) and GloVe (no header, tokens that may hold spaces). The file is
//! read once as a stream; only rows of known tokens are kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

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
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What was in the file and what was used of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Rows of the table.
    pub rows: usize,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} of {} rows filled from {} vectors", self.covered, self.rows, self.loaded)?;
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

/// Overwrites the rows of `param` (`[V, d]`) whose token is in the file; the others and the frozen row stay as they
/// are. `token_of_id` gives the word to look for, `None` for rows to leave alone. A name ending in `.gz` is unpacked.
///
/// # Errors
/// An unreadable or empty file, vectors of another width than the table.
pub fn fill(
    param: &Param,
    path: &Path,
    token_of_id: &dyn Fn(u32) -> Option<String>,
) -> Result<Report, PretrainedError> {
    let (rows, width) = param.var.dims2()?;
    let mut wanted: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for row in (0..rows).filter(|&row| Some(row) != param.frozen_row) {
        if let Some(token) = token_of_id(row as u32) {
            wanted.entry(token).or_default().push(row);
        }
    }
    let unreadable = |source| PretrainedError::Read { path: path.to_path_buf(), source };
    let mut reader = open(path).map_err(unreadable)?;
    let mut table = param.var.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let mut report = Report { rows, ..Report::default() };
    let (mut line, mut seen_width) = (Vec::new(), None);
    while read_line(&mut reader, &mut line).map_err(unreadable)? {
        report.lines += 1;
        let Ok(text) = std::str::from_utf8(&line) else {
            report.bad_utf8 += 1;
            continue;
        };
        let fields: Vec<&str> = text.trim_end().split([' ', '\t']).collect();
        if report.lines == 1 {
            if let Some((count, found)) = header(&fields) {
                report.header_count = Some(count);
                seen_width = Some(found);
            }
        }
        let found = *seen_width.get_or_insert(fields.len() - 1);
        if found != width {
            return Err(PretrainedError::Width { path: path.to_path_buf(), found, table: width });
        }
        if report.lines == 1 && report.header_count.is_some() {
            continue;
        }
        let Some((token, vector)) = parse(&fields, width) else {
            report.bad_width += 1;
            continue;
        };
        report.loaded += 1;
        for row in wanted.remove(&token).unwrap_or_default() {
            table[row * width..(row + 1) * width].copy_from_slice(&vector);
            report.covered += 1;
        }
    }
    if report.loaded == 0 {
        return Err(PretrainedError::Empty { path: path.to_path_buf() });
    }
    let table = Tensor::from_vec(table, (rows, width), &Device::Cpu)?;
    param.var.set(&table.to_dtype(param.var.dtype())?.to_device(param.var.device())?)?;
    Ok(report)
}

fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    Ok(Box::new(BufReader::with_capacity(1 << 16, reader)))
}

/// The next line without its end; false at the end of the file.
fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if reader.read_until(b'\n', line)? == 0 {
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
    let number = |field: &str| field.parse::<f64>().ok().filter(|x| x.is_finite());
    // a longer row of numbers is no token with spaces
    let (first, rest) = token.split_first()?;
    if first.is_empty() || (!rest.is_empty() && rest.iter().all(|field| number(field).is_some())) {
        return None;
    }
    Some((token.join(" "), vector.iter().map(|field| number(field)).collect::<Option<_>>()?))
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
        let right =
            Report { lines: 8, loaded: 4, bad_utf8: 1, bad_width: 2, header_count: Some(9), covered: 2, rows: 4 };
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
