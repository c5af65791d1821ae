//! The command line: what can be typed, and what is done with it.

pub mod args;
