//! Makes the corpora committed in `data/`, byte for byte, or an English→German corpus of any size.
//!
//! ```text
//! cargo run --release --example quickstart-data                                  rewrites data/
//! cargo run --release --example quickstart-data -- --out DIR                     the same elsewhere
//! cargo run --release --example quickstart-data -- --pairs 5000000 --out DIR     DIR/train.en, DIR/train.de
//! ```
#![expect(clippy::disallowed_methods, reason = "rewriting these files need not be atomic")]

mod corpora;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{bail, Context, Result};

fn main() -> Result<()> {
    let (mut pairs, mut out) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--pairs" => pairs = Some(value.parse().context("--pairs: not a number")?),
            "--out" => out = Some(PathBuf::from(value)),
            _ => bail!("unknown argument {name}; known: --pairs N, --out DIR"),
        }
    }
    match (pairs, out) {
        (None, out) => write_all(&out.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data")))),
        (Some(pairs), Some(out)) => {
            fs::create_dir_all(&out)?;
            let mut files = [
                BufWriter::new(File::create(out.join("train.en"))?),
                BufWriter::new(File::create(out.join("train.de"))?),
            ];
            let [source, target] = &mut files;
            corpora::write_large(pairs, source, target)?;
            files.into_iter().try_for_each(|mut file| file.flush()).map_err(Into::into)
        }
        (Some(_), None) => bail!("--pairs needs --out DIR"),
    }
}

/// Writes every corpus below `folder` and prints its counts.
fn write_all(folder: &std::path::Path) -> Result<()> {
    let mut report = io::stdout().lock();
    for corpus in corpora::all() {
        fs::create_dir_all(folder.join(corpus.folder))?;
        for (name, text) in corpus.files() {
            fs::write(folder.join(&name), text).with_context(|| name)?;
        }
        for line in corpus.counts() {
            writeln!(report, "{line}")?;
        }
    }
    Ok(())
}
