//! `[train]`.

use super::{BatchSize, Checks, Config, Trainable};
use crate::kinds::Precision;

settings! {
    /// The training loop.
    pub struct TrainConfig {
        /// Size of a batch in `batch_type` units, 1 or more; or "auto": the largest that fits into the memory of the
        /// GPU, tried out at the start with the batch of the most work. The run folder's config has the number found.
        pub batch_size: BatchSize = BatchSize::Of(4096),
        /// "tokens" (target tokens, `</s>` included; batches hold no padding) or "sentences" (pairs).
        pub batch_type: BatchType = BatchType::Tokens,
        /// Updates after which training ends; 0 = no limit.
        pub max_updates: u64 = 0,
        /// Passes over the training text after which training ends; 0 = no limit.
        pub max_epochs: u64 = 0,
        /// Hours of this process after which it saves and exits with code 75, to be resumed; 0 = no limit.
        pub max_hours: f64 = 0.0,
        /// Micro-batches whose gradients are summed for one update, in each process: N ranks of an MPI job take N times as many,
        /// and the run's own config says how many that are. 1 or more.
        pub gradient_accumulation_steps: usize = 1,
        /// Whether the ranks of an MPI job share what hessian2, muon and soap compute: "auto" times both ways and takes the
        /// faster. The bits are the same.
        pub share_optimizer: ShareOptimizer = ShareOptimizer::Auto,
        /// Largest norm of the gradient; larger ones are scaled down to it. 0 = off (clipped-adam then uses its
        /// max_norm).
        pub clip_grad_norm: f64 = 0.0,
        /// Probability spread evenly over the vocabulary in the training target. In [0, 1).
        pub label_smoothing: f64 = 0.1,
        /// R-Drop (Liang et al. 2021): each batch passes the model twice, with two dropout masks, and α times the mean
        /// Kullback-Leibler divergence between the two predictions, of either from the other, is added to their
        /// cross-entropies. What is minimized is half of the paper's sum, so that α is the paper's (5 for translation) and the
        /// rate need not change; an update takes the time and memory of two. batch_size, tokens and speed count each token
        /// once. 0 = off.
        pub r_drop_alpha: f64 = 0.0,
        /// Decay of the exponential moving average of the weights that is validated and saved as the model; 0 = off.
        /// In [0, 1); 0.999 is usual. Early on min(ema_decay, (1 + n) / (10 + n)) is used.
        pub ema_decay: f64 = 0.0,
        /// Number format of products; weights, sums and optimizers are always f32. "f32"; "bf16" (numbers rounded to 7
        /// bits of mantissa) on a GPU, where activations are of half the size too, and on a CPU with avx512_bf16 or
        /// amx_bf16: without, it is refused, and f32 instead with device = "auto"; "tf32" (10 bits) on a GPU.
        pub precision: Precision = Precision::F32,
        /// Which parameters are trained, until a phase says otherwise: "all", "embeddings" (the source and the target
        /// table) or "layers" (all but these).
        pub trainable: Trainable = Trainable::All,
        /// Updates between lines of metrics.jsonl and of the plain log. 1 or more.
        pub log_freq: u64 = 100,
    }
}

impl TrainConfig {
    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
        let endless = self.max_updates == 0 && self.max_epochs == 0 && self.max_hours == 0.0;
        check.rule(
            !endless || config.validation.early_stopping > 0,
            &["train.max_updates", "train.max_epochs", "train.max_hours", "validation.early_stopping"],
            "must be above 0, or max_epochs, max_hours or validation.early_stopping: training would never end",
        );
        check.rule(
            self.r_drop_alpha <= 0.0 || config.model.drops_out(),
            &["train.r_drop_alpha", "model.dropout"],
            "compares two passes with different dropout: set model.dropout above 0, or train.r_drop_alpha = 0",
        );
    }
}

choices! {
    pub enum ShareOptimizer {
        Auto = "auto",
        Always = "always",
        Never = "never",
    }
}

choices! {
    pub enum BatchType {
        Tokens = "tokens",
        Sentences = "sentences",
    }
}
