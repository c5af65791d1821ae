//! The configuration: what can be set, and how a file of settings is read.
//!
//! | folder | what it has |
//! |---|---|
//! | `settings/` | plain structs, one default each, whose doc comments are the user's documentation |
//! | `reading/` | loading, checking, comparing and printing them |

mod reading;
mod settings;

pub use reading::*;
pub use settings::*;
