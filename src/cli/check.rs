//! `nmt-train check`: everything up to the first update, and nothing written but the cache of encoded text.

use anyhow::Result;

use crate::events::Event;
use crate::exit::ExitCode;
use crate::machine;
use crate::train;

use super::args::{CheckArgs, CommonArgs};
use super::{load_config_to_train, terminal};

pub(super) fn check(args: &CheckArgs, common: &CommonArgs) -> Result<ExitCode> {
    let (loaded, origin) = load_config_to_train(&args.config, &args.set, common)?;
    let threads = machine::set_threads(loaded.config.threads)?;
    let mut sinks = terminal(common);
    let report = train::check(&loaded.config, origin.as_ref(), &loaded.run_dir(), threads, &mut |note| {
        sinks.emit(&Event::Note(note));
    })?;
    sinks.emit(&Event::Start(report.start));
    for message in report.warnings {
        sinks.emit(&Event::Warning { step: 0, message });
    }
    sinks.emit(&Event::Note(report.largest_batch));
    Ok(ExitCode::Success)
}
