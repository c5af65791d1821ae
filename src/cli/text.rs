//! Text that the commands of a trained model read: aligned files of which one may be stdin, what BLEU takes for its words,
//! and a word about lines longer than training saw.

use std::path::Path;

use anyhow::Result;

use crate::data;
use crate::exit::InputError;
use crate::metrics::{self, BleuTokenizer};
use crate::run::Usable;

/// The lines of files that must be the same sentences line by line; "-" is stdin, which only one of them can be.
pub(super) fn aligned(paths: &[&Path]) -> Result<Vec<Vec<String>>> {
    if paths.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(InputError::new("only one file can be read from stdin (\"-\")").into());
    }
    let texts = paths.iter().map(|path| data::read_lines(&path.to_string_lossy())).collect::<Result<Vec<_>, _>>()?;
    for (path, text) in paths.iter().zip(&texts).skip(1) {
        if text.len() != texts[0].len() {
            let (name, other) = (paths[0].to_string_lossy(), path.to_string_lossy());
            return Err(data::Error::unequal((&name, texts[0].len() as u64), (&other, text.len() as u64)).into());
        }
    }
    Ok(texts)
}

/// What BLEU takes for words.
pub(super) struct Words {
    pub(super) tokenizer: BleuTokenizer,
    /// The name that was asked for, which may be empty, and the language that decides then.
    wanted: [String; 2],
}

impl Words {
    /// `name`: that of `--tokenize`, else the run's.
    ///
    /// # Errors
    /// A SentencePiece model that can not be had.
    pub(super) fn wanted(name: Option<&str>, run: Option<&Usable>) -> Result<Self> {
        let of_run = run.map(|run| run.config.validation.tokenize.as_str());
        let name = name.or(of_run).unwrap_or_default();
        let language = run.map_or("", |run| &run.config.data.target_language);
        let tokenizer = BleuTokenizer::wanted(name, language, |file| Ok::<_, anyhow::Error>(data::resolve(file)?))?;
        Ok(Words { tokenizer, wanted: [name, language].map(str::to_string) })
    }

    /// That others would fit this text, if they would.
    pub(super) fn advice(&self, text: &[&str]) -> Option<String> {
        metrics::advice(&self.wanted[0], &self.wanted[1], text)
    }
}

/// Whether a path names what the program was given to read.
pub(super) fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0"].iter().any(|name| path == Path::new(name))
}

/// Tells once that lines are longer than any that training saw.
pub(super) struct Lengths {
    /// Tokens with `</s>`.
    longest: usize,
    /// The first line that was longer, from 1, and its tokens.
    first: Option<(usize, usize)>,
    count: usize,
    told: usize,
}

impl Lengths {
    /// For the models of an ensemble: the one trained on the shortest lines counts.
    pub(super) fn of(runs: &[Usable]) -> Self {
        let longest = runs.iter().map(|run| run.config.data.max_length).min().unwrap_or(usize::MAX);
        Lengths { longest, first: None, count: 0, told: 0 }
    }

    /// Looks at the ids of lines, of which the first has the number `first_line` from 0.
    pub(super) fn look(&mut self, lines: &[Vec<u32>], first_line: usize) {
        for (ids, number) in lines.iter().zip(first_line + 1..) {
            if ids.len() > self.longest {
                self.count += 1;
                self.first.get_or_insert((number, ids.len()));
            }
        }
    }

    /// Says it when it was not said yet.
    pub(super) fn tell(&mut self, say: &mut dyn FnMut(&str)) {
        if self.told == 0 {
            self.say(say);
        }
    }

    /// Says it again where more such lines came after it was said.
    pub(super) fn tell_rest(&mut self, say: &mut dyn FnMut(&str)) {
        if self.told != self.count {
            self.say(say);
        }
    }

    fn say(&mut self, say: &mut dyn FnMut(&str)) {
        if let Some(text) = self.text() {
            say(&text);
        }
        self.told = self.count;
    }

    fn text(&self) -> Option<String> {
        let (line, tokens) = self.first?;
        let longest = self.longest;
        let lines = match self.count {
            1 => format!("line {line} has {tokens} tokens, more than the {longest}"),
            n => {
                format!("{n} lines have more tokens (line {line}, the first of them, has {tokens}) than the {longest}")
            }
        };
        Some(format!(
            "{lines} of the longest that training could see (data.max_length): such lines are seldom translated well; \
             split them into sentences"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(longest: usize) -> Lengths {
        Lengths { longest, first: None, count: 0, told: 0 }
    }

    #[test]
    fn long_lines_are_counted_and_the_first_is_named() {
        let mut seen = lengths(3);
        seen.look(&[vec![1; 3], vec![1; 2], vec![]], 0);
        assert_eq!(seen.text(), None);
        seen.look(&[vec![1; 3], vec![1; 4]], 3);
        let told = seen.text().unwrap_or_default();
        assert!(told.starts_with("line 5 has 4 tokens, more than the 3 of the longest"), "{told}");
        seen.look(&[vec![1; 9]], 5);
        let told = seen.text().unwrap_or_default();
        assert!(
            told.starts_with("2 lines have more tokens (line 5, the first of them, has 4) than the 3 of"),
            "{told}"
        );
    }
}
