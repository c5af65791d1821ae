//! Everything wrong with a configuration, each problem with the place it was written.

use std::fmt;

/// All problems of a configuration, in the order of the file, [`Problems::MOST`] at most. Prints one line each and how many
/// there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The key and its value, as `train.batch_size = 0`; empty when the text says it.
    pub subject: String,
    /// What is wrong, and the cure.
    pub text: String,
}

/// Where something of a configuration was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, from 1.
    Line(String, usize),
    /// The file as a whole: a key that is absent, or a file that can not be read.
    File(String),
    /// A `--set`, by position and text.
    Set(usize, String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Place::Line(file, line) => write!(f, "{file}:{line}"),
            Place::File(file) => f.write_str(file),
            Place::Set(_, arg) => write!(f, "--set {arg}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.place {
            // the argument says key and value already
            Place::Set(..) => write!(f, "{}: {}", self.place, self.text),
            _ if self.subject.is_empty() => write!(f, "{}: {}", self.place, self.text),
            // "a = 1 must be …" reads on; "a = 1: expected …" does not
            _ if self.text.starts_with("must ") => write!(f, "{}: {} {}", self.place, self.subject, self.text),
            _ => write!(f, "{}: {}: {}", self.place, self.subject, self.text),
        }
    }
}

impl Problems {
    /// Nobody reads more of them, and a file of another kind has one in each line.
    pub const MOST: usize = 100;

    /// Adds one, unless it is told already.
    pub(crate) fn add(&mut self, problem: Problem) {
        if !self.are_enough() && !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// Whether what is added now is not told.
    pub(crate) fn are_enough(&self) -> bool {
        self.0.len() >= Self::MOST
    }

    /// `found`, unless there are problems.
    ///
    /// # Errors
    /// These, in the order of the file.
    pub(crate) fn or<T>(mut self, found: T) -> Result<T, Self> {
        self.0.sort_by(|a, b| a.place.cmp(&b.place));
        if self.0.is_empty() {
            Ok(found)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let s = if self.0.len() == 1 { "" } else { "s" };
        let at_least = if self.are_enough() { "at least " } else { "" };
        write!(f, "{at_least}{} problem{s} in the configuration; nothing was started.", self.0.len())
    }
}

impl std::error::Error for Problems {}
