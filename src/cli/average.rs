//! `nmt-train average`: the mean of the weights of the last checkpoints.

use anyhow::Result;

use crate::checkpoint::{self, Best, Store};
use crate::exit::{ExitCode, InputError};
use crate::run::Paths;

use super::args::AverageArgs;

pub(super) fn average(args: &AverageArgs) -> Result<ExitCode> {
    let store = Store::at(&args.run);
    if args.out.is_none() && store.best()? == Some(Best::Average) {
        return Err(InputError::new(format!(
            "{} is what the run made at its end (checkpoint.average_last) and what its best checkpoint is; write another \
             average elsewhere with --out FILE",
            Paths::of(&args.run).average().display()
        ))
        .into());
    }
    let steps = store.steps()?;
    let wanted = args.last as usize;
    if steps.len() < wanted {
        return Err(InputError::new(format!(
            "{} has {} checkpoints, {wanted} were asked for; give a smaller --last, or keep more with checkpoint.keep_last",
            args.run.display(),
            steps.len()
        ))
        .into());
    }
    let paths: Vec<_> = steps[steps.len() - wanted..].iter().map(|&step| store.path(step)).collect();
    let out = args.out.clone().unwrap_or_else(|| Paths::of(&args.run).average());
    checkpoint::save_weights(&out, &checkpoint::average(&paths)?)?;
    Ok(ExitCode::Success)
}
