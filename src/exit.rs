//! Documented exit codes.

/// How the process ended, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The command did what was asked.
    Success = 0,
    /// A fault of the program or the machine: disk full, unreadable checkpoint, a bug.
    Failure = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// The config, the data or the tokenizer is wrong; nothing was started.
    Input = 3,
    /// Training diverged and was stopped; the last good checkpoint is kept.
    Diverged = 4,
    /// Stopped by a signal or `max_hours` after saving; run the printed command to go on (EX_TEMPFAIL).
    Interrupted = 75,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// An error in the command line that its types do not show; ends the program with [`ExitCode::Usage`] and the message alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// An error in what the user gave; ends the program with [`ExitCode::Input`] and the message alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InputError(pub String);

impl InputError {
    /// From anything that prints.
    pub fn new(message: impl std::fmt::Display) -> Self {
        InputError(message.to_string())
    }
}
