//! `nmt-train export`: a run's model as a folder that other programs load.

use anyhow::Result;

use crate::exit::ExitCode;
use crate::interop;
use crate::units;

use super::args::{CommonArgs, ExportArgs, WeightsArgs};
use super::{say, trained};

pub(super) fn export(args: &ExportArgs, common: &CommonArgs) -> Result<ExitCode> {
    interop::vacant(&args.out)?;
    // nothing is computed
    let on_cpu = CommonArgs { device: Some("cpu".to_string()), ..common.clone() };
    let wanted = WeightsArgs { checkpoint: args.checkpoint.clone(), precision: None };
    let run = trained::load(&args.run, &wanted, &on_cpu)?;
    let exported = interop::export(&run, args.format, args.dtype, &args.out)?;
    let weights = match run.step {
        Some(0) => "the weights".to_string(),
        Some(step) => format!("the weights of update {step}"),
        None => "the averaged weights".to_string(),
    };
    say(common, &format!("{}: {weights} of {}", args.out.display(), args.run.display()));
    for (name, bytes) in &exported.files {
        say(common, &format!("  {name}  {}", units::bytes(*bytes)));
    }
    for note in &exported.notes {
        say(common, note);
    }
    Ok(ExitCode::Success)
}
