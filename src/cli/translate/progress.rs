//! Lines done, on a terminal.

use std::path::Path;
use std::time::Instant;

use crate::cli::args::CommonArgs;
use crate::cli::say;
use crate::data;
use crate::events::console::Console;
use crate::units;

/// A live line below what is told, where one is wanted and can be; else only what is told.
pub(super) struct Bar<'a> {
    common: &'a CommonArgs,
    console: Option<Console>,
    /// Lines of the input, if it can be read twice.
    total: Option<u64>,
    /// Lines that were done before, and since when others are.
    began: (usize, Instant),
}

impl<'a> Bar<'a> {
    /// `wanted`: nothing else is written to the terminal. `input`: a file whose lines can be counted.
    pub(super) fn new(common: &'a CommonArgs, wanted: bool, input: Option<&Path>) -> Self {
        let console = wanted.then(|| Console::new(common.color, common.quiet)).filter(Console::is_live);
        // What is wrong with the file is told when it is read.
        let count = |path: &Path| data::count_lines(&path.to_string_lossy()).ok();
        let total = console.as_ref().and(input).filter(|path| path.is_file()).and_then(count);
        Bar { common, console, total, began: (0, Instant::now()) }
    }

    /// So many lines were done before: no estimate is made from them.
    pub(super) fn begin_at(&mut self, lines: usize) {
        self.began = (lines, Instant::now());
    }

    /// So many lines are done.
    pub(super) fn show(&mut self, done: usize) {
        let Some(console) = &mut self.console else { return };
        let (before, since) = self.began;
        let text = text(done, before, self.total, since.elapsed().as_secs_f64());
        console.work(self.total.map(|total| done as f64 / total.max(1) as f64), text);
    }

    /// A lasting line, unless quiet.
    pub(super) fn tell(&mut self, text: &str) {
        match &mut self.console {
            Some(console) => console.tell(text),
            None => say(self.common, text),
        }
    }
}

fn text(done: usize, before: usize, total: Option<u64>, seconds: f64) -> String {
    let lines = units::count(done as u64);
    let Some(total) = total else { return format!("{lines} lines") };
    let left = total.saturating_sub(done as u64) as f64;
    let eta = match done.saturating_sub(before) {
        0 => String::new(),
        made => format!("  ETA {}", units::duration(left * seconds / made as f64)),
    };
    format!("{lines} of {} lines{eta}", units::count(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_of_what_was_done_since_the_beginning() {
        assert_eq!(text(1500, 500, Some(3500), 60.0), "1 500 of 3 500 lines  ETA 2 min 00 s");
        assert_eq!(text(500, 500, Some(3500), 60.0), "500 of 3 500 lines");
        assert_eq!(text(500, 0, None, 60.0), "500 lines");
    }
}
