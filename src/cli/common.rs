//! What every command knows: the arguments that all of them take.

use clap::Args;

use crate::events::console::Color;

/// What every command knows.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Compute on cpu, cuda, cuda:N or auto, instead of what the config says
    #[arg(long, global = true, value_name = "DEVICE", hide_short_help = true)]
    pub device: Option<String>,
    /// Threads, instead of what the config says; 0 = physical cores, at most four for each core
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub threads: Option<usize>,
    /// Join an MPI job though no launcher is seen; with mpirun or srun this is not needed
    #[arg(long, global = true, hide_short_help = true)]
    pub mpi: bool,
    /// Seconds that a rank of an MPI job may keep the others waiting before all are ended
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600, hide_short_help = true)]
    pub mpi_timeout: u64,
    /// No progress; warnings and errors only
    #[arg(short, long, global = true, hide_short_help = true)]
    pub quiet: bool,
    /// When to colour stderr; auto = on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_short_help = true)]
    pub color: Color,
}
