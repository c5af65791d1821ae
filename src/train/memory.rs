//! What a run needs of memory, roughly, before anything is allocated.

use crate::config::{BatchType, Config, ModelKind};

use super::step::criterion;

/// Bytes a training process of this model needs at its peak, roughly: weights, gradients and the optimizer's state for
/// every parameter, and the activations that one micro-batch keeps for its backward pass.
pub(super) fn memory_estimate(config: &Config, parameters: usize) -> u64 {
    let model = &config.model;
    let layers = model.encoder_layers() + model.decoder_layers();
    let per_token = match model.kind {
        // Per layer: projections, attention output, feed-forward inner, two norms; twice, for the gradient edges.
        ModelKind::Transformer => layers * (12 * model.d_model + 3 * model.d_ff),
        ModelKind::Rnn => layers * 14 * model.rnn.hidden_size,
    };
    let tokens = match config.train.batch_type {
        BatchType::Tokens => config.train.batch_size.or(0),
        BatchType::Sentences => config.train.batch_size.or(0).saturating_mul(30),
    };
    let tokens = tokens.saturating_mul(criterion(&config.train).passes());
    let ema = usize::from(config.train.ema_decay > 0.0);
    let numbers = parameters * (2 + optimizer_states(config) + ema);
    // a batch without bounds is one of everything, and of no size that could be told
    4_u64.saturating_mul((numbers as u64).saturating_add((tokens as u64).saturating_mul(per_token as u64)))
}

/// Numbers an optimizer keeps for a parameter, the most of all phases: the run must not end where a later one begins.
pub(super) fn optimizer_states(config: &Config) -> usize {
    let begins = std::iter::once(0).chain(config.phase.iter().map(|phase| phase.from_update));
    begins.map(|step| config.in_force(step).optimizer.states()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OptimizerName, PhaseConfig};

    #[test]
    fn two_passes_hold_the_activations_of_two_batches() {
        let mut config = Config::default();
        let of_weights = |config: &Config| memory_estimate(config, 1000) - memory_estimate(config, 0);
        let (weights, once) = (of_weights(&config), memory_estimate(&config, 0));
        config.train.r_drop_alpha = 5.0;
        assert_eq!((of_weights(&config), memory_estimate(&config, 0)), (weights, 2 * once));
    }

    #[test]
    fn the_phase_with_the_largest_state_counts() {
        let mut config = Config::default();
        config.optimizer.name = OptimizerName::Sgd;
        config.optimizer.sgd.momentum = 0.0;
        let without = memory_estimate(&config, 1000);
        let phase =
            |from_update, optimizer| PhaseConfig { from_update, optimizer: Some(optimizer), ..Default::default() };
        config.phase = vec![phase(10, OptimizerName::Soap), phase(20, OptimizerName::Adam)];
        assert_eq!(optimizer_states(&config), config.in_force(10).optimizer.states());
        assert_eq!(memory_estimate(&config, 1000) - without, 4 * 1000 * optimizer_states(&config) as u64);
    }
}
