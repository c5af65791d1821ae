//! `nmt-train completions`, `nmt-train man`: what the definitions of the command line say, for shells and for `man`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::exit::ExitCode;
use crate::fsio;

use super::args::Cli;
use super::output::print;

#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Write the pages of the program and of all its commands into this folder
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

const NAME: &str = "nmt-train";

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut text);
    print(&text)?;
    Ok(ExitCode::Success)
}

pub(super) fn man(args: &ManArgs) -> Result<ExitCode> {
    let program = Cli::command().name(NAME);
    let Some(folder) = &args.out else {
        let mut text = Vec::new();
        Man::new(program).render(&mut text)?;
        print(&text)?;
        return Ok(ExitCode::Success);
    };
    fsio::create_dir_all(folder)?;
    clap_mangen::generate_to(program, folder).with_context(|| format!("write {}", folder.display()))?;
    Ok(ExitCode::Success)
}
