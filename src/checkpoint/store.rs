//! The folder of checkpoints: saving, finding, verifying, deleting.

use candle_core::{DType, Device, Tensor};
use serde::de::IgnoredAny;
use serde::Deserialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::format::{
    read_tensors, size_fault, write_tensors, FileEntry, Hashing, Manifest, TensorFile, FORMAT_VERSION, MANIFEST,
};
use super::seal::seal;
use super::{plan, Error, Existing, Plan, Result, Snapshot};
use crate::fsio::{self, NewFolder};
use crate::optim::OptimizerState;

/// Name of the folder in that of a run.
pub const FOLDER: &str = "checkpoints";

/// What `best` says where the mean of the last validations' weights is better than every checkpoint.
const AVERAGE: &str = "average";

const LATEST: &str = "latest";
const BEST: &str = "best";
const MODEL: &str = "model.safetensors";
const RAW: &str = "raw.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Prefix of optimizer scalars among its tensors: stored as f64 tensors, they come back bit by bit.
const SCALAR: &str = "scalar:";

/// `RUN/checkpoints`.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) dir: PathBuf,
}

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The best validated one; the newest, with a word, when none was validated.
    Best,
    Latest,
    Step(u64),
}

/// What `best` points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    Step(u64),
    /// The mean of the last validations' weights, which lies beside the checkpoints.
    Average,
}

/// A checkpoint that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub step: u64,
    pub path: PathBuf,
    /// Why it is another than the obvious one, if it is.
    pub instead: Option<String>,
}

impl Store {
    /// For reading; touches nothing.
    pub fn at(run_dir: &Path) -> Self {
        Store { dir: run_dir.join(FOLDER) }
    }

    /// For training, by the holder of the run's lock: creates the folder and deletes leftovers of a crash.
    ///
    /// # Errors
    /// When the folder can not be written.
    pub fn open(run_dir: &Path) -> Result<Self> {
        let store = Store::at(run_dir);
        fsio::create_dir_all(&store.dir)?;
        fsio::clean_leftovers(&store.dir)?;
        store.clean_validated()?;
        Ok(store)
    }

    /// Folder of a step, whether it exists or not.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(folder_name(step))
    }

    /// Writes a checkpoint and makes it `latest`; returns its folder. An older one of the same step is replaced.
    ///
    /// # Errors
    /// When it can not be written ([`fsio::Error::is_full`] tells a full disk); nothing that was saved before changes.
    pub fn save(&self, snapshot: &Snapshot) -> Result<PathBuf> {
        let path = self.path(snapshot.step);
        let folder = NewFolder::begin(&path)?;
        let mut files = Vec::new();
        let mut add = |name: &str, content: &dyn Fn(&mut dyn Write) -> io::Result<()>| -> Result<()> {
            let mut entry = None;
            folder.file(name, |out| {
                let mut hashing = Hashing::new(out);
                content(&mut hashing)?;
                entry = Some(hashing.entry(name));
                Ok(())
            })?;
            files.extend(entry);
            Ok(())
        };
        add(MODEL, &|out| write_tensors(out, &snapshot.weights))?;
        if let Some(raw) = &snapshot.raw_weights {
            add(RAW, &|out| write_tensors(out, raw))?;
        }
        let optimizer = pack(&snapshot.optimizer)?;
        add(OPTIMIZER, &|out| write_tensors(out, &optimizer))?;
        add(STATE, &|out| Ok(serde_json::to_writer_pretty(out, &snapshot.state)?))?;
        let program = concat!("nmt-train ", env!("CARGO_PKG_VERSION")).to_string();
        let (step, _seal) = (snapshot.step, IgnoredAny);
        let manifest = Manifest { format_version: FORMAT_VERSION, program, step, files, _seal };
        folder.file(MANIFEST, |out| out.write_all(seal(&serde_json::to_string_pretty(&manifest)?).as_bytes()))?;
        folder.commit()?;
        self.point(LATEST, Some(snapshot.step))?;
        Ok(path)
    }

    /// Steps of all checkpoint folders, ascending, damaged ones included.
    ///
    /// # Errors
    /// When the folder can not be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let step_of = |path: &PathBuf| step_of(path.file_name()?.to_str()?);
        let mut steps: Vec<u64> = fsio::list(&self.dir)?.iter().filter_map(step_of).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Reads a checkpoint, every byte checked against its manifest. Tensors arrive on `device`.
    ///
    /// # Errors
    /// [`Error::Damaged`] naming the file and what is wrong with it; [`Error::TooNew`].
    pub fn load(&self, step: u64, device: &Device) -> Result<Snapshot> {
        let dir = self.path(step);
        let manifest = Manifest::read(&dir)?;
        let tensors = |name| read_tensors(&dir.join(name), &verified(&dir, &manifest, name)?, device);
        let weights = tensors(MODEL)?;
        let has_raw = manifest.files.iter().any(|f| f.name == RAW);
        let raw_weights = if has_raw { Some(tensors(RAW)?) } else { None };
        let optimizer = unpack(tensors(OPTIMIZER)?)?;
        let state = state(&dir, &manifest)?;
        Ok(Snapshot { step: manifest.step, weights, raw_weights, optimizer, state })
    }

    /// The newest checkpoint that is whole and that `read` can make something of; `None` when there are none at all.
    /// What was wrong with newer ones goes to `problems`.
    ///
    /// # Errors
    /// [`Error::NoneUsable`] when none can be used; [`Error::TooNew`] at once, since going back would lose training.
    pub fn load_newest<T>(
        &self,
        device: &Device,
        read: &dyn Fn(&Snapshot) -> std::result::Result<T, String>,
        problems: &mut Vec<String>,
    ) -> Result<Option<(Snapshot, T)>> {
        for step in self.steps()?.into_iter().rev() {
            let readable = |snapshot: Snapshot| match read(&snapshot) {
                Ok(found) => Ok((snapshot, found)),
                Err(what) => {
                    Err(Error::Damaged { path: self.path(step).join(STATE), what: format!("not readable: {what}") })
                }
            };
            match self.load(step, device).and_then(readable) {
                Ok(found) => return Ok(Some(found)),
                Err(error @ Error::TooNew { .. }) => return Err(error),
                Err(error) => problems.push(error.to_string()),
            }
        }
        match problems.is_empty() {
            true => Ok(None),
            false => Err(Error::NoneUsable { dir: self.dir.clone(), problems: problems.join("; ") }),
        }
    }

    /// A checkpoint that exists and looks whole.
    ///
    /// # Errors
    /// [`Error::NoneUsable`] naming what is there instead.
    pub fn find(&self, which: Which) -> Result<Found> {
        let existing = self.existing()?;
        let good: Vec<u64> = existing.iter().filter(|c| c.good).map(|c| c.step).collect();
        let newest = good.last().copied();
        let found = |step| Found { step, path: self.path(step), instead: None };
        let latest = |why: String| {
            newest.map(|step| Found {
                instead: Some(format!("{why}; the latest, update {step}, is used")),
                ..found(step)
            })
        };
        let there = match which {
            Which::Best => match self.best()? {
                Some(Best::Step(step)) if good.contains(&step) => Some(found(step)),
                Some(Best::Step(step)) => latest(format!("the best checkpoint, update {step}, is gone or damaged")),
                Some(Best::Average) => latest("the best weights, an average, are gone".to_string()),
                None => latest("no checkpoint has a validation score, so none is known to be the best".to_string()),
            },
            Which::Latest => newest.map(|step| match existing.last().filter(|last| last.step > step) {
                Some(last) => Found {
                    instead: Some(format!("the checkpoint of update {} is damaged; update {step} is used", last.step)),
                    ..found(step)
                },
                None => found(step),
            }),
            Which::Step(step) => good.contains(&step).then(|| found(step)),
        };
        there.ok_or_else(|| {
            let problems = match which {
                Which::Step(step) => format!("no whole checkpoint of step {step}; there are {good:?}"),
                _ if existing.is_empty() => "none was saved yet".to_string(),
                _ => format!("the files of all {} are missing, cut off or replaced", existing.len()),
            };
            Error::NoneUsable { dir: self.dir.clone(), problems }
        })
    }

    /// `state.json` of a checkpoint, checked against its manifest.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn state(&self, step: u64) -> Result<serde_json::Value> {
        let dir = self.path(step);
        state(&dir, &Manifest::read(&dir)?)
    }

    /// What `best` points at; `None` when no checkpoint has a score.
    ///
    /// # Errors
    /// When it can not be read.
    pub fn best(&self) -> Result<Option<Best>> {
        let path = self.dir.join(BEST);
        if !path.exists() {
            return Ok(None);
        }
        let text = fsio::read_to_string(&path)?;
        if text.trim() == AVERAGE {
            return Ok(Some(Best::Average));
        }
        let pointed = step_of(text.trim()).map(Some).or_else(|| listed(&text));
        let what = || format!("not the name of a checkpoint: \"{}\"; delete it", text.trim());
        Ok(pointed.ok_or_else(|| Error::Damaged { path, what: what() })?.map(Best::Step))
    }

    /// Points `best` at the mean of the last validations' weights, until the run goes on.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn point_best_at_average(&self) -> Result<()> {
        self.write_pointer(BEST, AVERAGE)
    }

    /// After a save: deletes what [`plan`] says and points `best` at the best that stays. `ranked`: validated steps, best
    /// first. Returns what was done.
    ///
    /// # Errors
    /// When files can not be read, written or deleted.
    pub fn retain(&self, ranked: &[u64], keep_last: usize, keep_best: usize) -> Result<Plan> {
        let plan = plan(&self.existing()?, ranked, keep_last, keep_best);
        // First, so that no moment has a pointer to what is gone.
        self.point(BEST, plan.best)?;
        for &step in &plan.delete {
            fsio::remove_folder(&self.path(step))?;
        }
        Ok(plan)
    }

    /// After a return to the checkpoint of `step`: points `latest` at it and `best` at the best of what is there, and
    /// deletes nothing.
    ///
    /// # Errors
    /// When files can not be read or written.
    pub fn return_to(&self, step: u64, ranked: &[u64]) -> Result<()> {
        self.point(LATEST, Some(step))?;
        let plan = plan(&self.existing()?, ranked, usize::MAX, usize::MAX);
        self.point(BEST, plan.best)
    }

    /// Deletes checkpoints newer than `step`: after a roll-back, what diverged is not to be resumed from.
    ///
    /// # Errors
    /// When they can not be deleted.
    pub fn forget_after(&self, step: u64) -> Result<()> {
        self.steps()?
            .into_iter()
            .filter(|&newer| newer > step)
            .try_for_each(|newer| Ok(fsio::remove_folder(&self.path(newer))?))
    }

    /// A pointer is a file with the name of a folder; there is none where there is nothing to point at.
    fn point(&self, pointer: &str, step: Option<u64>) -> Result<()> {
        let path = self.dir.join(pointer);
        match step {
            Some(step) => self.write_pointer(pointer, &folder_name(step)),
            None if !path.exists() => Ok(()),
            None => std::fs::remove_file(&path).map_err(|e| fsio::Error::io("delete", &path, e).into()),
        }
    }

    fn write_pointer(&self, pointer: &str, name: &str) -> Result<()> {
        Ok(fsio::write_atomic(&self.dir.join(pointer), format!("{name}\n").as_bytes())?)
    }

    /// All checkpoints with a quick look at each: manifest readable, sizes right.
    fn existing(&self) -> Result<Vec<Existing>> {
        let look = |step| {
            let dir = self.path(step);
            let size = |name: &str| std::fs::metadata(dir.join(name)).map_or(u64::MAX, |m| m.len());
            let good = Manifest::read(&dir).is_ok_and(|m| m.files.iter().all(|f| size(&f.name) == f.bytes));
            Existing { step, good }
        };
        Ok(self.steps()?.into_iter().map(look).collect())
    }
}

pub(super) fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

pub(super) fn step_of(folder_name: &str) -> Option<u64> {
    let digits = folder_name.strip_prefix("step-")?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The first step of the list that `best` was before 0.2; `Some(None)` of an empty one.
fn listed(text: &str) -> Option<Option<u64>> {
    #[derive(Deserialize)]
    struct Listed {
        checkpoints: Vec<Step>,
    }
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    let listed: Listed = serde_json::from_str(text).ok()?;
    Some(listed.checkpoints.first().map(|first| first.step))
}

fn state(dir: &Path, manifest: &Manifest) -> Result<serde_json::Value> {
    serde_json::from_slice(&verified(dir, manifest, STATE)?)
        .map_err(|e| Error::Damaged { path: dir.join(STATE), what: format!("not readable: {e}") })
}

/// Reads a file of a checkpoint and checks it against the manifest.
fn verified(dir: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>> {
    check(&dir.join(name), entry(dir, manifest, name)?)
}

fn entry<'a>(dir: &Path, manifest: &'a Manifest, name: &str) -> Result<&'a FileEntry> {
    let entry = manifest.files.iter().find(|f| f.name == name);
    entry.ok_or_else(|| Error::Damaged { path: dir.join(name), what: "not in the manifest".to_string() })
}

fn check(path: &Path, entry: &FileEntry) -> Result<Vec<u8>> {
    present(path, entry)?;
    let bytes = fsio::read(path)?;
    entry.fault(&bytes).map_or(Ok(bytes), |what| Err(Error::Damaged { path: path.to_path_buf(), what }))
}

/// An error where the file is missing or of another size.
fn present(path: &Path, entry: &FileEntry) -> Result<()> {
    let damaged = |what| Err(Error::Damaged { path: path.to_path_buf(), what });
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => damaged("missing".to_string()),
        Ok(found) if found.len() != entry.bytes => damaged(size_fault(found.len(), entry.bytes)),
        _ => Ok(()),
    }
}

/// As [`model_bytes`], to be read a part at a time.
pub(super) fn model_file(dir: &Path) -> Result<TensorFile> {
    let manifest = Manifest::read(dir)?;
    let (path, entry) = (dir.join(MODEL), entry(dir, &manifest, MODEL)?);
    present(&path, entry)?;
    TensorFile::open(&path, Some(entry))
}

/// Bytes of `model.safetensors` of a checkpoint folder, checked.
pub(super) fn model_bytes(dir: &Path) -> Result<(PathBuf, Vec<u8>)> {
    Ok((dir.join(MODEL), verified(dir, &Manifest::read(dir)?, MODEL)?))
}

pub(super) fn pack(state: &OptimizerState) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = state.tensors.clone();
    for (name, value) in &state.scalars {
        tensors.push((format!("{SCALAR}{name}"), Tensor::new(&[*value], &Device::Cpu)?));
    }
    Ok(tensors)
}

pub(super) fn unpack(packed: Vec<(String, Tensor)>) -> Result<OptimizerState> {
    let mut state = OptimizerState::default();
    for (name, tensor) in packed {
        match name.strip_prefix(SCALAR) {
            Some(scalar) => {
                let value = tensor.to_dtype(DType::F64)?.flatten_all()?.get(0)?.to_scalar()?;
                state.scalars.push((scalar.to_string(), value));
            }
            None => state.tensors.push((name, tensor)),
        }
    }
    Ok(state)
}
