//! `[checkpoint]`.

use super::{Checks, Config, Every};

settings! {
    /// What is kept on disk.
    pub struct CheckpointConfig {
        /// When: a number of updates, "1e" for every epoch, 0 = only at the end and at a stop.
        pub save_freq: Every = Every::Updates(1000),
        /// Newest checkpoints kept. 1 or more.
        pub keep_last: usize = 3,
        /// Best checkpoints kept, by validation.early_stopping_metric. 0 or more.
        pub keep_best: usize = 1,
        /// Validations whose weights are averaged at the end of the run; 0 = off. 1000 at most. Each validation leaves the
        /// weights that it scored (with train.ema_decay or schedule-free those are averages already) in
        /// checkpoints/validated, whatever save_freq, keep_last and keep_best say: the last ones stay, and need the room
        /// of so many models. Their mean is validated as a model of its own and written to average.safetensors; where it
        /// is better by validation.early_stopping_metric it is the best checkpoint, for the test text and every command
        /// (Junczys-Dowmunt et al. 2016; Vaswani et al. 2017). It helps where the learning rate is still high at the end
        /// (constant, inverse-sqrt), not after one that went to zero.
        pub average_last: usize = 0,
    }
}

impl CheckpointConfig {
    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
        check.rule(
            self.average_last == 0 || config.validates(),
            &["checkpoint.average_last", "validation.valid_freq", "validation.metrics", "data.valid"],
            "must be 0 without validations while training, whose weights it averages: set data.valid, \
             validation.metrics and valid_freq",
        );
    }
}
