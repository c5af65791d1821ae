//! What a command prints on standard output, its result.

use std::io::{self, Write};

use anyhow::{Context, Result};

/// Prints text whole and at once, so that a reader who has seen enough or an end by Ctrl-C seldom finds half a line.
///
/// # Errors
/// A disk that is full, a reader that is gone; names standard output and keeps the [`io::Error`] within reach.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).context("can not write to standard output")
}
