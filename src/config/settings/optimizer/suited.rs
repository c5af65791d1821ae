//! Numbers of `[optimizer]` that may be left to the optimizer.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::OptimizerConfig;
use crate::config::settings::forms::{self, TwoForms};

/// A number, or what suits the optimizer in use.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
pub enum Suited {
    /// What suits the optimizer.
    Auto,
    /// This number.
    Of(f64),
}

/// What suits an optimizer where nothing is set. Runs record "auto", so a change here changes runs that go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Suits {
    pub(super) weight_decay: f64,
    pub(super) embedding_weight_decay: f64,
    pub(super) embedding_lr_scale: f64,
}

impl Suits {
    /// No decay, all at one rate.
    pub(super) const PLAIN: Suits = Suits { weight_decay: 0.0, embedding_weight_decay: 0.0, embedding_lr_scale: 1.0 };
}

impl OptimizerConfig {
    /// `weight_decay` of the optimizer in use.
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay.or(self.suits().weight_decay)
    }

    /// `embedding_weight_decay` of the optimizer in use.
    pub fn embedding_weight_decay(&self) -> f64 {
        self.embedding_weight_decay.or(self.suits().embedding_weight_decay)
    }

    /// `embedding_lr_scale` of the optimizer in use.
    pub fn embedding_lr_scale(&self) -> f64 {
        self.embedding_lr_scale.or(self.suits().embedding_lr_scale)
    }
}

impl Suited {
    fn or(self, suits: f64) -> f64 {
        match self {
            Suited::Auto => suits,
            Suited::Of(number) => number,
        }
    }
}

impl From<f64> for Suited {
    fn from(number: f64) -> Self {
        Suited::Of(number)
    }
}

impl TwoForms for Suited {
    const EXPECTED: &'static str = r#"a number, or "auto""#;

    fn of_number(n: u64) -> Option<Self> {
        Some(Suited::Of(n as f64))
    }

    fn of_fraction(x: f64) -> Option<Self> {
        Some(Suited::Of(x))
    }

    fn of_text(text: &str) -> Option<Self> {
        (text == "auto").then_some(Suited::Auto)
    }
}

impl<'de> Deserialize<'de> for Suited {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        forms::read(deserializer)
    }
}

impl Serialize for Suited {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Suited::Auto => serializer.serialize_str("auto"),
            Suited::Of(number) => serializer.serialize_f64(*number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, Config, OptimizerName, Source};

    fn read(sets: &[&str]) -> Result<Config, String> {
        let text = "data.train = ['a.tsv']\ndata.valid = ['b.tsv']\ntrain.max_updates = 10".to_string();
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let read = load(&Source::Text { name: "toy.toml".to_string(), text }, &sets);
        read.map(|loaded| loaded.config).map_err(|problems| problems.to_string())
    }

    fn three(config: &OptimizerConfig) -> [f64; 3] {
        [config.weight_decay(), config.embedding_weight_decay(), config.embedding_lr_scale()]
    }

    #[test]
    fn what_is_not_set_suits_the_optimizer_in_use() {
        for name in OptimizerName::ALL {
            let suits = if *name == OptimizerName::Hessian2 { [0.5, 0.15, 2.0] } else { [0.0, 0.0, 1.0] };
            let config = read(&[&format!("optimizer.name={}", name.name()), "schedule.kind=constant"])
                .expect("a good configuration");
            assert_eq!(three(&config.optimizer), suits, "{}", name.name());
            let again: Config = toml::from_str(&config.to_toml().expect("TOML")).expect("its own TOML");
            assert_eq!(again, config);
        }
        let kron = read(&["optimizer.name=hessian2", "optimizer.hessian2.variant=kron"]).expect("a good configuration");
        assert_eq!(three(&kron.optimizer), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn what_is_set_holds_for_all() {
        for name in ["adam", "hessian2"] {
            let sets = [
                &format!("optimizer.name={name}"),
                "optimizer.weight_decay=0",
                "optimizer.embedding_weight_decay=0.25",
                "optimizer.embedding_lr_scale=auto",
            ];
            let config = read(&sets).expect("a good configuration");
            assert_eq!(three(&config.optimizer)[..2], [0.0, 0.25]);
        }
        let wrong = read(&["optimizer.weight_decay=much"]).expect_err("a word");
        assert!(wrong.contains("auto"), "{wrong}");
        let wrong = read(&["optimizer.embedding_weight_decay=-1"]).expect_err("below 0");
        assert!(wrong.contains("must be 0 or more"), "{wrong}");
    }

    #[test]
    fn a_phase_has_what_suits_its_own_optimizer() {
        let config = read(&["optimizer.name=hessian2", "phase=[{from_update = 5, optimizer = 'adamw'}]"]);
        let config = config.expect("a good configuration");
        assert_eq!([config.in_force(4), config.in_force(5)].map(|now| now.optimizer.weight_decay()), [0.5, 0.0]);
    }
}
