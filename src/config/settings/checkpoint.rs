//! `[checkpoint]`.

use super::Every;

settings! {
    /// What is kept on disk.
    pub struct CheckpointConfig {
        /// When: a number of updates, "1e" for every epoch, 0 = only at the end and at a stop.
        pub save_freq: Every = Every::Updates(1000),
        /// Newest checkpoints kept. 1 or more.
        pub keep_last: usize = 3,
        /// Best checkpoints kept, by validation.early_stopping_metric. 0 or more.
        pub keep_best: usize = 1,
    }
}
