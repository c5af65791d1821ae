//! A file of answers that an interrupted job goes on with.
//!
//! While a job lasts, its answers stand in the folder `OUTPUT.partial`, beside a record of the input lines they answer and
//! of how they were made. Both reach the disk block by block, answers first: whenever the job ends, the record holds for
//! the beginning of the answers, and what stands behind it is cut off by the next attempt. A finished file is renamed to
//! `OUTPUT`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::data::Lines;
use crate::exit::InputError;
use crate::fsio::{self, AppendLog, RunLock};
use crate::run::Usable;
use crate::shell;

const ANSWERS: &str = "answers";
const RECORD: &str = "record.json";
/// What a process that was killed may leave beside these.
const LOCK: &str = "lock";

/// A job that has begun.
pub(super) struct Job {
    output: PathBuf,
    folder: PathBuf,
    record: Record,
    answers: AppendLog,
    /// Of the lines so far, each with `\n`.
    input: Xxh3,
    lock: RunLock,
}

/// What the answers so far belong to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// Input lines answered.
    lines: usize,
    /// Bytes of the answers.
    bytes: u64,
    /// Hash of these lines.
    input: String,
    /// What answers depend on beside their line.
    made_with: BTreeMap<String, String>,
}

/// What is wrong with the name of an output, before a model is loaded.
///
/// # Errors
/// A folder that is not there, something that can not be replaced or must not be.
pub(super) fn check(output: &Path, input: &Path, force: bool) -> Result<()> {
    let refuse = |what: String| Err(InputError(format!("--output {}: {what}", shell::path(output))).into());
    if output.to_string_lossy().ends_with('/') || output.file_name().is_none() {
        return refuse("this names a folder; name a file in it".to_string());
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return refuse(format!("there is no folder {}", parent.display()));
    }
    let Ok(there) = fs::metadata(output) else { return Ok(()) };
    let same = fs::metadata(input).is_ok_and(|input| (input.dev(), input.ino()) == (there.dev(), there.ino()));
    if there.is_dir() {
        return refuse("this is a folder; name a file in it".to_string());
    }
    if !there.is_file() {
        return refuse("not a regular file; without --output translations go to stdout".to_string());
    }
    if same {
        return refuse("this is the input; give another name".to_string());
    }
    match force {
        true => Ok(()),
        false => refuse("this file exists; give another name, or --force to replace it".to_string()),
    }
}

impl Job {
    /// Begins a job, or goes on with one that was interrupted: then the lines that it answered are read from `input`.
    ///
    /// `made_with`: what answers depend on beside their line, by names for the user.
    ///
    /// # Errors
    /// What is there belongs to another job, or another process is at it; text that can not be read; no right to write.
    pub(super) fn begin(output: &Path, made_with: BTreeMap<String, String>, input: &mut Lines) -> Result<Self> {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let folder = output.with_file_name(name);
        refuse_foreign(&folder)?;
        fsio::create_dir_all(&folder)?;
        let lock = RunLock::acquire(&folder).map_err(told_of_lock)?;
        let path = folder.join(ANSWERS);
        let before = if path.exists() { read_record(&folder)? } else { None };
        let mut hash = Xxh3::new();
        let record = match before {
            Some(record) => {
                let foreign = |what| foreign(&folder, what);
                compare(&record.made_with, &made_with).map_or(Ok(()), |what| Err(foreign(what)))?;
                reread(&record, input, &mut hash)?.map_or(Ok(()), |what| Err(foreign(what)))?;
                record
            }
            None => Record { lines: 0, bytes: 0, input: digest(&hash), made_with },
        };
        // The record comes first, so that answers without one are nobody's.
        fsio::write_atomic(&folder.join(RECORD), &serde_json::to_vec(&record)?)?;
        let answers = AppendLog::open(&path, record.bytes)?;
        if answers.len() != record.bytes {
            let what = format!("its answers are cut off at {} of {} bytes", answers.len(), record.bytes);
            return Err(foreign(&folder, what).into());
        }
        Ok(Job { output: output.to_path_buf(), folder, record, answers, input: hash, lock })
    }

    /// Input lines answered so far.
    pub(super) fn lines(&self) -> usize {
        self.record.lines
    }

    /// Where unfinished answers are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds the answer to some lines.
    ///
    /// # Errors
    /// When it can not be written; what was there before stays.
    pub(super) fn add(&mut self, lines: &[String], text: &str) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.answers.append(text.strip_suffix('\n').unwrap_or(text))?;
        self.answers.sync()?;
        lines.iter().for_each(|line| add_line(&mut self.input, line));
        self.record.lines += lines.len();
        self.record.bytes = self.answers.len();
        self.record.input = digest(&self.input);
        Ok(fsio::write_atomic(&self.folder.join(RECORD), &serde_json::to_vec(&self.record)?)?)
    }

    /// Leaves nothing of a job that has answered nothing.
    pub(super) fn discard(self) {
        drop(self.lock);
        // Who goes on after a fault has a better one to tell.
        let _ = fsio::remove_folder(&self.folder);
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When that can not be done; the answers stay where they are.
    pub(super) fn finish(self) -> Result<()> {
        self.answers.sync()?;
        fsio::rename(&self.folder.join(ANSWERS), &self.output)?;
        drop(self.lock);
        Ok(fsio::remove_folder(&self.folder)?)
    }
}

/// A hash of all weights and vocabularies, for [`Job::begin`].
///
/// # Errors
/// Errors of candle.
pub(super) fn weights(runs: &[Usable]) -> Result<String> {
    let mut hash = Xxh3::new();
    for run in runs {
        hash.update(run.tokenizers.fingerprint().as_bytes());
        for param in run.model.params() {
            hash.update(param.name.as_bytes());
            let values = param.var.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            for part in values.chunks(1 << 12) {
                hash.update(&part.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
            }
        }
    }
    Ok(digest(&hash))
}

/// A folder of that name that no job made must not be deleted by one.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let names =
        fsio::list(folder)?.into_iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let ours = |name: &String| [ANSWERS, RECORD, LOCK].contains(&name.as_str()) || name.starts_with(".tmp-");
    match names.into_iter().find(|name| !ours(name)) {
        Some(name) => Err(InputError(format!(
            "{} is where answers of an unfinished job go, and there is {name} in it; give --output another name",
            folder.display()
        ))
        .into()),
        None => Ok(()),
    }
}

fn told_of_lock(error: fsio::Error) -> anyhow::Error {
    match error {
        fsio::Error::Locked { path, holder } => {
            InputError(format!("{} is being written by {holder}; wait for it or stop it", path.display())).into()
        }
        other => other.into(),
    }
}

fn foreign(folder: &Path, what: String) -> InputError {
    InputError(format!(
        "{} is of another job: {what}; to begin anew delete it: rm -r {}",
        folder.display(),
        shell::path(folder)
    ))
}

fn read_record(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join(RECORD);
    if !path.exists() {
        return Ok(None);
    }
    match serde_json::from_str(&fsio::read_to_string(&path)?) {
        Ok(record) => Ok(Some(record)),
        Err(e) => Err(foreign(folder, format!("{RECORD} can not be read ({e})")).into()),
    }
}

/// The first difference between how answers were made and how they would be now. What an earlier version does not name it
/// did not do.
fn compare(was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Option<String> {
    let then = |name: &String| was.get(name).map_or("no", String::as_str);
    let (name, now) = is.iter().find(|(name, now)| then(name) != now.as_str())?;
    let then = then(name);
    Some(match name.as_str() {
        WEIGHTS => "it was made with other weights (another run, another checkpoint)".to_string(),
        _ => format!("it was made with {name} {then}, not {now}"),
    })
}

/// The name of [`weights`] in the record.
pub(super) const WEIGHTS: &str = "weights";

/// Reads the lines that were answered; what is wrong with them, if something is.
fn reread(record: &Record, input: &mut Lines, hash: &mut Xxh3) -> Result<Option<String>> {
    for line in 0..record.lines {
        match input.next()? {
            Some(text) => add_line(hash, &text),
            None => return Ok(Some(format!("it answers {} lines, {} has {line}", record.lines, input.name))),
        }
    }
    let same = digest(hash) == record.input;
    Ok((!same).then(|| format!("the {} lines that it answers are not those of {}", record.lines, input.name)))
}

fn add_line(hash: &mut Xxh3, line: &str) {
    hash.update(line.as_bytes());
    hash.update(b"\n");
}

fn digest(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}
