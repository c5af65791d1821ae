//! The ranks that help one that translates or scores: each has the same models and does its share of what the leader reads.

use anyhow::{bail, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::decode::{self, Hypothesis, Options, Sampling};
use crate::exit::ExitCode;
use crate::model::Model;
use crate::run::Usable;
use crate::world::World;

use super::args::{Command, CommonArgs};
use super::search::search_options;
use super::trained;

/// What there is to do; all ranks do it together.
#[derive(Serialize, Deserialize)]
enum Job {
    /// Translations of these, of which the first is a line of this number; so many of each, from a beam of so many.
    Search { sources: Vec<Vec<u32>>, first_line: usize, n_best: usize, beam_size: usize },
    /// Log-likelihoods of these pairs, so many target tokens at a time.
    Score { pairs: Vec<(Vec<u32>, Vec<u32>)>, batch_size: usize },
}

/// Who translates: one process, or the ranks of a job.
#[derive(Clone, Copy)]
pub(super) struct Team<'a> {
    pub(super) world: &'a World,
    pub(super) runs: &'a [Usable],
}

impl Team<'_> {
    /// Translations, best first each, or as they were drawn; a line without ids gives one empty translation. `on_progress`
    /// gets the number of lines done.
    pub(super) fn search(
        &self,
        sources: &[Vec<u32>],
        options: &Options,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Hypothesis>>> {
        if self.world.is_alone() {
            return Ok(decode::translate(&self.models(), sources, options, on_progress, &|| false)?);
        }
        let first_line = options.sampling.map_or(0, |sampling| sampling.first_line);
        let Options { n_best, beam_size, .. } = *options;
        self.hand_out(&Job::Search { sources: sources.to_vec(), first_line, n_best, beam_size })?;
        self.share_of_search(sources, options, on_progress)
    }

    /// As [`decode::log_likelihoods`].
    pub(super) fn score(&self, pairs: &[(Vec<u32>, Vec<u32>)], batch_size: usize) -> Result<Vec<f64>> {
        if self.world.is_alone() {
            return self.log_likelihoods(pairs, batch_size);
        }
        self.hand_out(&Job::Score { pairs: pairs.to_vec(), batch_size })?;
        self.share_of_score(pairs, batch_size)
    }

    fn models(&self) -> Vec<&dyn Model> {
        self.runs.iter().map(|run| run.model.as_ref()).collect()
    }

    fn log_likelihoods(&self, pairs: &[(Vec<u32>, Vec<u32>)], batch_size: usize) -> Result<Vec<f64>> {
        let start = self.runs.first().map_or(0, |run| run.model.output().pad);
        Ok(decode::log_likelihoods(&self.models(), pairs, start, batch_size, &mut |_| (), &|| false)?)
    }

    fn hand_out(&self, job: &Job) -> Result<()> {
        self.world.lead(serde_json::to_vec(job)?)?;
        Ok(())
    }

    fn share_of_search(
        &self,
        sources: &[Vec<u32>],
        options: &Options,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Hypothesis>>> {
        // the others are blank lines here, which keep each line its number
        let mut own = vec![Vec::new(); sources.len()];
        self.world.share(sources.len()).for_each(|i| own[i].clone_from(&sources[i]));
        let found = decode::translate(&self.models(), &own, options, on_progress, &|| false)?;
        let packed: Vec<_> = self.world.share(sources.len()).map(|i| found[i].iter().map(pack).collect()).collect();
        let all = self.all::<Vec<Packed>>(packed, sources.len())?;
        Ok(all.into_iter().map(|list| list.into_iter().map(unpack).collect()).collect())
    }

    fn share_of_score(&self, pairs: &[(Vec<u32>, Vec<u32>)], batch_size: usize) -> Result<Vec<f64>> {
        let own: Vec<_> = self.world.share(pairs.len()).map(|i| pairs[i].clone()).collect();
        let scores = self.log_likelihoods(&own, batch_size)?.into_iter().map(f64::to_bits).collect();
        Ok(self.all::<u64>(scores, pairs.len())?.into_iter().map(f64::from_bits).collect())
    }

    /// What all ranks found, in the order of the lines.
    fn all<T: Serialize + DeserializeOwned>(&self, own: Vec<T>, total: usize) -> Result<Vec<T>> {
        // a rank that translates may take longer than one that waits for an update
        self.world.wait()?;
        Ok(self.world.gather_shares(own, total)?)
    }
}

/// A [`Hypothesis`]; numbers to the bit.
type Packed = (Vec<u32>, u64, u64, usize);

fn pack(found: &Hypothesis) -> Packed {
    let Hypothesis { ids, score, normalized, length } = found;
    (ids.clone(), score.to_bits(), normalized.to_bits(), *length)
}

fn unpack((ids, score, normalized, length): Packed) -> Hypothesis {
    Hypothesis { ids, score: f64::from_bits(score), normalized: f64::from_bits(normalized), length }
}

/// Lets the helpers go.
pub(super) fn dismiss(world: &World) -> Result<()> {
    if !world.is_alone() {
        world.lead(Vec::new())?;
    }
    Ok(())
}

/// Does the share of a rank that does not lead, until there is nothing left to do.
pub(super) fn help(command: &Command, common: &CommonArgs, world: &World) -> Result<ExitCode> {
    let quiet = &CommonArgs { quiet: true, ..common.clone() };
    let (runs, decode) = match command {
        Command::Translate(args) => (trained::load_all(&args.runs, &args.decode.weights, quiet)?, Some(&args.decode)),
        Command::Evaluate(args) => (trained::load_all(&args.runs, &args.decode.weights, quiet)?, Some(&args.decode)),
        Command::Score(args) => (vec![trained::load(&args.run, &args.weights, quiet)?], None),
        // the leader does it alone
        _ => return Ok(ExitCode::Success),
    };
    let runs = runs.into_iter().map(Usable::prepacked).collect::<Result<Vec<_>>>()?;
    let team = Team { world, runs: &runs };
    let options = match (runs.first(), decode) {
        (Some(run), Some(args)) => Some(search_options(run, args)?),
        _ => None,
    };
    loop {
        let job = world.lead(Vec::new())?;
        if job.is_empty() {
            return Ok(ExitCode::Success);
        }
        match (serde_json::from_slice(&job)?, options) {
            (Job::Search { sources, first_line, n_best, beam_size }, Some(options)) => {
                let sampling = options.sampling.map(|sampling| Sampling { first_line, ..sampling });
                team.share_of_search(&sources, &Options { sampling, n_best, beam_size, ..options }, &mut |_| ())?;
            }
            (Job::Search { .. }, None) => bail!("a search was asked of a rank that scores"),
            (Job::Score { pairs, batch_size }, _) => {
                team.share_of_score(&pairs, batch_size)?;
            }
        }
    }
}
