//! The folder of checkpoints: saving, finding, verifying, deleting.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::format::{read_tensors, size_fault, write_tensors, FileEntry, Hashing, Manifest, FORMAT_VERSION, MANIFEST};
use super::{plan, Error, Existing, Plan, Result, Scored, Snapshot};
use crate::fsio::{self, NewFolder};
use crate::optim::OptimizerState;

const MODEL: &str = "model.safetensors";
const RAW: &str = "raw.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Prefix of optimizer scalars among its tensors: stored as f64 tensors, they come back bit by bit.
const SCALAR: &str = "scalar:";

/// `RUN/checkpoints`.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The best validated one, or the newest when none was validated.
    Best,
    Latest,
    Step(u64),
}

/// The file `best`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Metric of the scores: "nll", "bleu", "chrf".
    pub metric: String,
    /// Best first.
    pub checkpoints: Vec<Scored>,
}

/// A checkpoint to go on from.
#[derive(Debug)]
pub struct Loaded {
    pub snapshot: Snapshot,
    /// What was wrong with newer ones, for a warning each.
    pub problems: Vec<String>,
}

impl Store {
    /// For reading; touches nothing.
    pub fn at(run_dir: &Path) -> Self {
        Store { dir: run_dir.join("checkpoints") }
    }

    /// For training, by the holder of the run's lock: creates the folder and deletes leftovers of a crash.
    ///
    /// # Errors
    /// When the folder can not be written.
    pub fn open(run_dir: &Path) -> Result<Self> {
        let store = Store::at(run_dir);
        fsio::create_dir_all(&store.dir)?;
        fsio::clean_leftovers(&store.dir)?;
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
        let manifest = Manifest { format_version: FORMAT_VERSION, program, step: snapshot.step, files };
        folder.file(MANIFEST, |out| Ok(serde_json::to_writer_pretty(out, &manifest)?))?;
        folder.commit()?;
        self.point_latest_at(Some(snapshot.step))?;
        Ok(path)
    }

    /// Steps of all checkpoint folders, ascending, damaged ones included.
    ///
    /// # Errors
    /// When the folder can not be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let step_of = |path: &PathBuf| -> Option<u64> {
            let digits = path.file_name()?.to_str()?.strip_prefix("step-")?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        };
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
        let state = serde_json::from_slice(&verified(&dir, &manifest, STATE)?)
            .map_err(|e| Error::Damaged { path: dir.join(STATE), what: format!("not readable: {e}") })?;
        Ok(Snapshot { step: manifest.step, weights, raw_weights, optimizer, state })
    }

    /// The newest checkpoint that is whole; `None` when there are none at all.
    ///
    /// # Errors
    /// [`Error::NoneUsable`] when all are damaged; [`Error::TooNew`] at once, since going back would lose training.
    pub fn load_newest(&self, device: &Device) -> Result<Option<Loaded>> {
        let mut problems = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.load(step, device) {
                Ok(snapshot) => return Ok(Some(Loaded { snapshot, problems })),
                Err(error @ Error::TooNew { .. }) => return Err(error),
                Err(error) => problems.push(error.to_string()),
            }
        }
        match problems.is_empty() {
            true => Ok(None),
            false => Err(Error::NoneUsable { dir: self.dir.clone(), problems: problems.join("; ") }),
        }
    }

    /// Folder of a checkpoint that exists and looks whole.
    ///
    /// # Errors
    /// [`Error::NoneUsable`] naming what is there instead.
    pub fn find(&self, which: Which) -> Result<PathBuf> {
        let existing = self.existing()?;
        let good: Vec<u64> = existing.iter().filter(|c| c.good).map(|c| c.step).collect();
        let best = || -> Result<Option<u64>> {
            Ok(self.best()?.checkpoints.iter().map(|s| s.step).find(|step| good.contains(step)))
        };
        let step = match which {
            Which::Best => best()?.or(good.last().copied()),
            Which::Latest => good.last().copied(),
            Which::Step(step) => good.contains(&step).then_some(step),
        };
        step.map(|step| self.path(step)).ok_or_else(|| {
            let problems = match which {
                Which::Step(step) => format!("no whole checkpoint of step {step}; there are {good:?}"),
                _ if existing.is_empty() => "none was saved yet".to_string(),
                _ => format!("the files of all {} are missing, cut off or replaced", existing.len()),
            };
            Error::NoneUsable { dir: self.dir.clone(), problems }
        })
    }

    /// The file `best`; empty when there is none.
    ///
    /// # Errors
    /// When it can not be read.
    pub fn best(&self) -> Result<Best> {
        let path = self.dir.join("best");
        if !path.exists() {
            return Ok(Best::default());
        }
        serde_json::from_str(&fsio::read_to_string(&path)?)
            .map_err(|e| Error::Damaged { path, what: format!("not readable: {e}; delete it") })
    }

    /// After a validation or a save: writes `best` and deletes what [`plan`] says. `scored`: all validations so far by
    /// `metric`. Returns what was done.
    ///
    /// # Errors
    /// When files can not be read, written or deleted.
    pub fn retain(
        &self,
        metric: &str,
        lower_is_better: bool,
        scored: &[Scored],
        keep_last: usize,
        keep_best: usize,
    ) -> Result<Plan> {
        let plan = plan(&self.existing()?, scored, lower_is_better, keep_last, keep_best);
        let best = Best { metric: metric.to_string(), checkpoints: plan.best.clone() };
        let text = serde_json::to_string_pretty(&best).map_err(io::Error::from);
        let path = self.dir.join("best");
        fsio::write_atomic(&path, text.map_err(|e| fsio::Error::io("write", &path, e))?.as_bytes())?;
        for &step in &plan.delete {
            fsio::remove_folder(&self.path(step))?;
        }
        Ok(plan)
    }

    /// Deletes checkpoints newer than `step`: after a roll-back, what diverged is not to be resumed from.
    ///
    /// # Errors
    /// When they can not be deleted.
    pub fn forget_after(&self, step: u64) -> Result<()> {
        let steps = self.steps()?;
        for &newer in steps.iter().filter(|&&s| s > step) {
            fsio::remove_folder(&self.path(newer))?;
        }
        self.point_latest_at(steps.into_iter().rfind(|&s| s <= step))
    }

    fn point_latest_at(&self, step: Option<u64>) -> Result<()> {
        let name = step.map(folder_name).unwrap_or_default();
        Ok(fsio::write_atomic(&self.dir.join("latest"), format!("{name}\n").as_bytes())?)
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

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Reads a file of a checkpoint and checks it against the manifest.
fn verified(dir: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    let Some(entry) = manifest.files.iter().find(|f| f.name == name) else {
        return Err(Error::Damaged { path, what: "not in the manifest".to_string() });
    };
    check(&path, entry)
}

fn check(path: &Path, entry: &FileEntry) -> Result<Vec<u8>> {
    let damaged = |what| Error::Damaged { path: path.to_path_buf(), what };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged("missing".to_string())),
        Ok(found) if found.len() != entry.bytes => return Err(damaged(size_fault(found.len(), entry.bytes))),
        _ => {}
    }
    let bytes = fsio::read(path)?;
    entry.fault(&bytes).map_or(Ok(bytes), |what| Err(damaged(what)))
}

/// Bytes of `model.safetensors` of a checkpoint folder, checked.
pub(super) fn model_bytes(dir: &Path) -> Result<(PathBuf, Vec<u8>)> {
    Ok((dir.join(MODEL), verified(dir, &Manifest::read(dir)?, MODEL)?))
}

fn pack(state: &OptimizerState) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = state.tensors.clone();
    for (name, value) in &state.scalars {
        tensors.push((format!("{SCALAR}{name}"), Tensor::new(&[*value], &Device::Cpu)?));
    }
    Ok(tensors)
}

fn unpack(packed: Vec<(String, Tensor)>) -> Result<OptimizerState> {
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
