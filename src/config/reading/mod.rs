//! From the text of a configuration to a [`Config`](super::Config) without known problems, and back.
//!
//! | file | what it does |
//! |---|---|
//! | `load.rs` | text and `--set` arguments → a configuration, or all its problems |
//! | `keys.rs` | the tree of keys, read off the structs |
//! | `home.rs` | `~/` |
//! | `removed.rs` | what earlier versions knew |
//! | `validate.rs`, `ranges.rs` | whether it can be run |
//! | `problems.rs`, `wording.rs`, `suggest.rs` | how problems are told: places, sentences, "did you mean" |
//! | `diff.rs` | what a difference between two configurations means for a run that goes on |
//! | `reference.rs` | `nmt-train init`: the reference and the presets |

mod diff;
mod home;
mod keys;
mod load;
mod problems;
mod ranges;
mod reference;
mod removed;
mod suggest;
mod validate;
mod wording;

pub use diff::{differences, flat, with_architecture, Difference, Effect};
pub use load::{load, load_recorded, Loaded, Source};
pub use problems::{Place, Problem, Problems};
pub use reference::{init, reference};
pub use validate::validate;
