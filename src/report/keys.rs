//! What a difference between two configs means for their comparison.

use crate::config::{flat, Config, ModelKind, OptimizerConfig};

/// Part a key plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Scores of runs that differ here are not comparable: data, vocabulary, model, batch.
    Task,
    /// Another way to train: optimizer and variant, averaging, embedding distance, phases.
    Method,
    /// A number that is tuned; the best setting speaks for its method.
    Tuned,
    /// How long.
    Horizon,
    /// The same again.
    Seed,
    /// Does not touch what is learnt, or not what is compared.
    Idle,
}

/// First prefix that fits counts.
const ROLES: &[(&str, Role)] = &[
    ("seed", Role::Seed),
    ("run_dir", Role::Idle),
    ("device", Role::Idle),
    ("threads", Role::Idle),
    ("data.test", Role::Idle),
    ("data.cache_dir", Role::Idle),
    ("data.", Role::Task),
    ("tokenizer.", Role::Task),
    ("model.", Role::Task),
    ("train.batch_", Role::Task),
    ("train.gradient_accumulation_steps", Role::Task),
    ("train.precision", Role::Task),
    ("train.max_updates", Role::Horizon),
    ("train.max_epochs", Role::Horizon),
    ("train.max_hours", Role::Idle),
    ("train.log_freq", Role::Idle),
    ("train.share_optimizer", Role::Idle),
    ("train.ema_decay", Role::Method),
    ("train.", Role::Tuned),
    ("optimizer.", Role::Tuned),
    ("schedule.total_updates", Role::Horizon),
    ("schedule.", Role::Tuned),
    ("embedding_distance.", Role::Method),
    ("phase", Role::Method),
    ("validation.references", Role::Task),
    ("validation.", Role::Idle),
    ("decode.", Role::Idle),
    ("checkpoint.", Role::Idle),
];

fn role(path: &str) -> Role {
    if OptimizerConfig::is_method(path) {
        return Role::Method;
    }
    // A key that nobody classified must not make unlike runs look alike.
    ROLES.iter().find(|(prefix, _)| path.starts_with(prefix)).map_or(Role::Task, |(_, role)| *role)
}

/// Keys of one role with their values; those of optimizers and kinds of model that are not in use left out.
pub(super) fn of_role(config: &Config, wanted: Role) -> Vec<(&'static str, String)> {
    let names = std::iter::once(config.optimizer.name).chain(config.phase.iter().filter_map(|phase| phase.optimizer));
    let tables: Vec<String> = names.map(|name| format!("{}.", name.table())).collect();
    let of_transformer = ["model.d_model", "model.d_ff", "model.heads", "model.norm", "model.activation"];
    let in_use = |path: &str| match config.model.kind {
        ModelKind::Transformer if path.starts_with("model.rnn.") => false,
        ModelKind::Rnn if of_transformer.iter().any(|own| path.starts_with(own)) => false,
        // "optimizer.adam.beta1" belongs to a table; "optimizer.lr" does not
        _ if path.starts_with("optimizer.") && path.matches('.').count() > 1 => {
            tables.iter().any(|table| path.starts_with(table))
        }
        _ => true,
    };
    flat(config).into_iter().filter(|(path, _)| role(path) == wanted && in_use(path)).collect()
}

/// The last part of a dotted path: how tables name a key.
pub(super) fn short(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// `key=value` for the keys of `of` whose value is not the same in all of `among`.
pub(super) fn varying(of: &[(&'static str, String)], among: &[&[(&'static str, String)]]) -> Vec<String> {
    let same = |pair: &(&'static str, String)| {
        among
            .iter()
            .all(|other| other.iter().find(|(path, _)| *path == pair.0).is_none_or(|(_, value)| *value == pair.1))
    };
    of.iter().filter(|pair| !same(pair)).map(|(path, value)| format!("{}={}", short(path), unquoted(value))).collect()
}

/// A value without the quotes of TOML.
pub(super) fn unquoted(value: &str) -> String {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some("") => "none".to_string(),
        Some(text) => text.to_string(),
        None if value.is_empty() => "default".to_string(),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OptimizerName;

    #[test]
    fn every_key_has_a_role_and_every_rule_is_used() {
        let keys = flat(&Config::default());
        let mut used = vec![false; ROLES.len()];
        for (path, _) in &keys {
            let rule = ROLES.iter().position(|(prefix, _)| path.starts_with(prefix));
            used[rule.unwrap_or_else(|| panic!("{path} has no role"))] = true;
        }
        let idle: Vec<&str> = ROLES.iter().zip(&used).filter(|(_, used)| !**used).map(|(rule, _)| rule.0).collect();
        assert!(idle.is_empty(), "{idle:?}");
    }

    #[test]
    fn numbers_of_other_optimizers_do_not_count() {
        let mut config = Config::default();
        config.optimizer.name = OptimizerName::ClippedAdam;
        let tuned: Vec<&str> = of_role(&config, Role::Tuned).iter().map(|(path, _)| *path).collect();
        assert!(tuned.contains(&"optimizer.lr") && tuned.contains(&"optimizer.clipped_adam.max_norm"), "{tuned:?}");
        assert!(
            !tuned.contains(&"optimizer.adam.beta1") && !tuned.contains(&"optimizer.hessian2.damping"),
            "{tuned:?}"
        );
    }
}
