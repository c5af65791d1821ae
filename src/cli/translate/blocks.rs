//! The input of `translate` in blocks of lines, each translated together.

use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::data::{Error, Lines};
use crate::exit::InputError;

/// Lines read before any of them is translated, at most; more sort better into batches.
pub(super) const BLOCK_LINES: usize = 4096;
/// Whoever writes nothing for so long is taken to wait for an answer.
const PAUSE: Duration = Duration::from_millis(50);
/// A block is translated after this time also when lines keep dribbling in. So which lines come together may depend on
/// time; recurrences round sums over 8 rows and fewer in another order than over more, which the sixth digit of a score may
/// show.
const PATIENCE: Duration = Duration::from_millis(500);

/// The input in blocks of lines. A thread reads, so that what has come can be translated while nothing comes.
pub(super) struct Blocks {
    lines: Receiver<Result<String, Error>>,
    /// Lines of a block, at most.
    most: usize,
    /// Whether nobody can wait for an answer: a file is there as a whole.
    whole: bool,
}

impl Blocks {
    pub(super) fn new(mut input: Lines, whole: bool, most: usize) -> Self {
        let (sender, lines) = sync_channel(most);
        std::thread::spawn(move || {
            while let Some(line) = input.next().transpose() {
                let last = line.is_err();
                if sender.send(line).is_err() || last {
                    break;
                }
            }
        });
        Blocks { lines, most, whole }
    }

    /// Some lines, empty at the end of the input; and what is wrong with the line after them, if it is.
    /// Waits for the first as long as it takes, for the others only as long as they keep coming.
    pub(super) fn next(&mut self) -> (Vec<String>, Option<anyhow::Error>) {
        let mut lines = Vec::new();
        let mut started = Instant::now();
        while lines.len() < self.most {
            let next = match lines.is_empty() || self.whole {
                true => self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.lines.recv_timeout(PAUSE.min(PATIENCE.saturating_sub(started.elapsed()))),
            };
            match next {
                Ok(Ok(line)) => lines.push(line),
                Ok(Err(fault)) => return (lines, Some(told(fault))),
                Err(_) => break,
            }
            if lines.len() == 1 {
                started = Instant::now();
            }
        }
        (lines, None)
    }
}

/// The fault of a line that comes after lines which are translated.
fn told(fault: Error) -> anyhow::Error {
    match fault {
        Error::Utf8 { file, line, .. } => InputError::new(format!(
            "{file}:{line}: not valid UTF-8; the lines before it were translated, it and the rest not"
        ))
        .into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeWriter, Write};

    fn piped(whole: bool) -> (Blocks, PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Blocks::new(Lines::reading("stdin", reader), whole, BLOCK_LINES), writer)
    }

    #[test]
    fn a_block_ends_where_the_writer_waits() {
        let (mut blocks, mut writer) = piped(false);
        for round in 0..3 {
            writer.write_all(format!("a{round}\nb{round}\n").as_bytes()).unwrap();
            let (lines, fault) = blocks.next();
            assert!(fault.is_none());
            // the two lines may come apart on a busy machine, but they come without a third
            let rest = if lines.len() == 1 { blocks.next().0 } else { Vec::new() };
            assert_eq!([lines, rest].concat(), [format!("a{round}"), format!("b{round}")]);
        }
        drop(writer);
        assert!(blocks.next().0.is_empty());
    }

    #[test]
    fn a_file_is_cut_by_number_alone() {
        let (mut blocks, mut writer) = piped(true);
        let writing = std::thread::spawn(move || {
            for line in 0..BLOCK_LINES + 3 {
                writeln!(writer, "{line}").unwrap();
                if line == BLOCK_LINES / 2 {
                    std::thread::sleep(3 * PAUSE);
                }
            }
        });
        let sizes = [blocks.next().0.len(), blocks.next().0.len(), blocks.next().0.len()];
        assert_eq!(sizes, [BLOCK_LINES, 3, 0]);
        writing.join().unwrap();
    }

    #[test]
    fn what_came_before_a_fault_comes_with_it() {
        let (mut blocks, mut writer) = piped(true);
        writer.write_all(b"good\n\xFF\nnever\n").unwrap();
        let (lines, fault) = blocks.next();
        assert_eq!(lines, ["good"]);
        assert!(fault.is_some_and(|fault| fault.to_string().starts_with("stdin:2: not valid UTF-8")));
    }
}
