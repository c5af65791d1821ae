//! `nmt-train report`: compares runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::{ExitCode, InputError};
use crate::fsio;
use crate::report::{self, Options, Report, Score};
use crate::run::Paths;

use super::args::{CommonArgs, ReportArgs, ReportScore};
use super::say;

pub(super) fn report(args: &ReportArgs, common: &CommonArgs) -> Result<ExitCode> {
    let to_stdout = [&args.csv, &args.json, &args.html].into_iter().flatten().filter(|path| path.as_os_str() == "-");
    if to_stdout.count() > 1 {
        return Err(InputError::new("only one of --csv, --json and --html can go to stdout (\"-\")").into());
    }
    let folders = report::find(&args.runs)?;
    let score = match args.score {
        ReportScore::Nll => Score::Nll,
        ReportScore::Bleu => Score::Bleu,
        ReportScore::Chrf => Score::Chrf,
    };
    let found = Report::of(&folders, &Options { score, baseline: args.baseline.clone(), target: args.target })?;
    let mut text_to_stdout = true;
    let mut write = |path: &Path, text: String| -> Result<()> {
        if path.as_os_str() == "-" {
            text_to_stdout = false;
            std::io::stdout().write_all(text.as_bytes())?;
        } else {
            fsio::write_atomic(path, text.as_bytes())?;
            say(common, &format!("written: {}", path.display()));
        }
        Ok(())
    };
    if let Some(path) = &args.csv {
        write(path, report::csv(&found))?;
    }
    if let Some(path) = &args.json {
        write(path, format!("{:#}\n", report::json(&found)))?;
    }
    if let Some(path) = page_path(args) {
        write(&path, report::html(&found))?;
    }
    if text_to_stdout {
        std::io::stdout().write_all(report::text(&found).as_bytes())?;
    }
    Ok(ExitCode::Success)
}

/// Where the page goes: where the user says, or into the one folder that was given.
fn page_path(args: &ReportArgs) -> Option<PathBuf> {
    let own = match args.runs.as_slice() {
        [folder] => Some(Paths::of(folder).report()),
        _ => None,
    };
    args.html.clone().or(own)
}
