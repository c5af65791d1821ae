//! `nmt-train report`: compares runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::{ExitCode, InputError};
use crate::fsio;
use crate::report::{self, Options, Report};
use crate::run::Paths;

use super::args::{CommonArgs, ReportArgs};
use super::output::print;
use super::say;

pub(super) fn report(args: &ReportArgs, common: &CommonArgs) -> Result<ExitCode> {
    if to_stdout(args).filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(InputError::new("only one of --csv, --json and --html can go to stdout (\"-\")").into());
    }
    if args.target.is_some_and(|target| !target.is_finite()) {
        return Err(InputError::new("--target must be a finite number").into());
    }
    let folders = report::find(&args.runs)?;
    let options = Options { score: args.score, baseline: args.baseline.clone(), target: args.target };
    let found = Report::of(&folders, &options)?;
    // The table first: what follows can fail, on a folder that is only read for one.
    if !to_stdout(args).any(|path| path.as_os_str() == "-") {
        print(report::text(&found))?;
    }
    if let Some(path) = &args.csv {
        write(path, &report::csv(&found), common)?;
    }
    if let Some(path) = &args.json {
        write(path, &format!("{:#}\n", report::json(&found)), common)?;
    }
    match (&args.html, args.runs.as_slice()) {
        (Some(path), _) => write(path, &report::html(&found), common)?,
        // Nobody asked for this one, so it is no fault that it can not be written.
        (None, [folder]) => {
            if let Err(error) = write(&Paths::of(folder).report(), &report::html(&found), common) {
                let _ = writeln!(
                    std::io::stderr(),
                    "warning: the page was not written ({}); --html FILE puts it elsewhere",
                    super::message(&error)
                );
            }
        }
        (None, _) => (),
    }
    Ok(ExitCode::Success)
}

/// What can go to stdout in place of the table.
fn to_stdout(args: &ReportArgs) -> impl Iterator<Item = &PathBuf> {
    [&args.csv, &args.json, &args.html].into_iter().flatten()
}

fn write(path: &Path, text: &str, common: &CommonArgs) -> Result<()> {
    if path.as_os_str() == "-" {
        return print(text);
    }
    fsio::write_atomic(path, text.as_bytes())?;
    say(common, &format!("written: {}", path.display()));
    Ok(())
}
