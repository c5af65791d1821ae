//! `[optimizer]`: a name, what all optimizers share, and one table an optimizer. A new one is a file here with its
//! table, and a line in the list below; `optim::build` then asks for the optimizer itself.

mod adam;
mod adamw;
mod clipped_adam;
mod hessian2;
mod hvr;
mod muon;
mod schedule_free;
mod sgd;
mod soap;
mod suited;

pub use adam::AdamConfig;
pub use adamw::AdamwConfig;
pub use clipped_adam::ClippedAdamConfig;
pub use hessian2::{Hessian2Config, Hessian2Scope, Hessian2Variant};
pub use hvr::{HvrAutomatic, HvrConfig, HvrForm, HvrTruncation};
pub use muon::{MuonConfig, MuonScale};
pub use schedule_free::{DecayAt, ScheduleFreeConfig};
pub use sgd::SgdConfig;
pub use soap::SoapConfig;
pub use suited::Suited;

use super::{Checks, Config};
use suited::Suits;

optimizers! {
    Adam "adam" adam: AdamConfig,
    Adamw "adamw" adamw: AdamwConfig,
    ClippedAdam "clipped-adam" clipped_adam: ClippedAdamConfig,
    Hessian2 "hessian2" hessian2: Hessian2Config,
    Hvr "hvr" hvr: HvrConfig,
    Muon "muon" muon: MuonConfig,
    ScheduleFree "schedule-free" schedule_free: ScheduleFreeConfig,
    Sgd "sgd" sgd: SgdConfig,
    Soap "soap" soap: SoapConfig,
}

/// What a table knows of its keys beyond names, meanings, ranges and defaults, which are its struct.
trait Table {
    /// Keys that make another method of it: runs that differ here are told apart in a report, not tuned against each
    /// other.
    const METHODS: &'static [&'static str] = &[];
    /// Keys that a run can not change on the way, and why.
    const FIXED: &'static [(&'static str, &'static str)] = &[];

    /// Numbers that the optimizer keeps for a weight, for estimates of memory.
    fn states(&self) -> usize {
        2
    }

    /// What it does best with where a config says "auto".
    fn suits(&self) -> Suits {
        Suits::PLAIN
    }

    /// Largest gradient norm where `train.clip_grad_norm` is 0; `None` = any.
    fn max_norm(&self) -> Option<f64> {
        None
    }

    /// Rules between its own keys.
    fn rules(&self, _check: &mut Checks) {}

    /// Rules with other keys, while it is in use; `user` says by what, as `optimizer.name = "sgd"`.
    fn rules_in_use(&self, _check: &mut Checks, _config: &Config, _user: &User) {}
}

/// Where an optimizer is chosen.
struct User {
    /// The key that names it.
    key: &'static str,
    /// As a person writes it.
    text: String,
}

impl OptimizerConfig {
    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
        self.tables(check);
        let mut seen = Vec::new();
        let phases = config.phase.iter().enumerate().filter_map(|(i, phase)| Some((phase.optimizer?, i + 1)));
        for (name, phase) in std::iter::once((self.name, 0)).chain(phases) {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let user = match phase {
                0 => User { key: "optimizer.name", text: format!(r#"optimizer.name = "{}""#, name.name()) },
                _ => User { key: "phase", text: format!(r#"optimizer = "{}" in phase {phase}"#, name.name()) },
            };
            self.in_use(name, check, config, &user);
        }
    }
}

/// Writes the name, the tables and what is asked of all of them.
macro_rules! optimizers {
    ($($name:ident $word:literal $table:ident: $config:ty,)*) => {
        choices! {
            /// The optimizers.
            pub enum OptimizerName { $($name = $word,)* }
        }

        impl OptimizerName {
            /// Path of its table.
            pub fn table(self) -> &'static str {
                match self {
                    $(OptimizerName::$name => concat!("optimizer.", stringify!($table)),)*
                }
            }
        }

        settings! {
            /// Which optimizer, and what all of them share.
            pub struct OptimizerConfig {
                #[doc = concat!("Any of ", $("\"", $word, "\", ",)* "each with a table of its own below.")]
                pub name: OptimizerName = OptimizerName::Adam,
                /// Learning rate at the top of the schedule. Above 0.
                pub lr: f64 = 1e-3,
                /// Weight decay: added to the gradient (adam, clipped-adam, sgd) or taken from the weights (the others).
                /// It leaves biases, gains and embedding tables alone. 0 or more; "auto" = 0.5 with hessian2's variant
                /// "white", 0 with all others.
                pub weight_decay: Suited = Suited::Auto,
                /// The same of embedding tables (the tied output layer is one of them). 0 or more; "auto" = 0.15 with
                /// hessian2's variant "white", 0 with all others.
                pub embedding_weight_decay: Suited = Suited::Auto,
                /// Spares rows that are seen rarely: their decay times min(1, (mean square of their gradients / that of all
                /// rows)^this), taken from the weights by every optimizer. 0 = all alike. 0 or more.
                pub embedding_decay_power: f64 = 0.0,
                /// Factor of the learning rate for embedding tables (the tied output layer is one of them). Above 0;
                /// "auto" = 2 with hessian2's variant "white", 1 with all others.
                pub embedding_lr_scale: Suited = Suited::Auto,
                $(pub $table: $config = <$config>::default(),)*
            }
        }

        impl OptimizerConfig {
            fn tables(&self, check: &mut Checks) {
                $(self.$table.rules(check);)*
            }

            fn in_use(&self, name: OptimizerName, check: &mut Checks, config: &Config, user: &User) {
                match name {
                    $(OptimizerName::$name => self.$table.rules_in_use(check, config, user),)*
                }
            }

            /// Numbers that the optimizer in use keeps for a weight, for estimates of memory.
            pub fn states(&self) -> usize {
                match self.name {
                    $(OptimizerName::$name => self.$table.states(),)*
                }
            }

            fn suits(&self) -> Suits {
                match self.name {
                    $(OptimizerName::$name => self.$table.suits(),)*
                }
            }

            /// The largest gradient norm in force: `train.clip_grad_norm`, else the optimizer's own; `None` = any.
            pub fn clip_norm(&self, clip_grad_norm: f64) -> Option<f64> {
                match self.name {
                    _ if clip_grad_norm > 0.0 => Some(clip_grad_norm),
                    $(OptimizerName::$name => self.$table.max_norm(),)*
                }
            }

            /// Whether runs that differ in this key are of different methods.
            pub fn is_method(path: &str) -> bool {
                let keys = [("optimizer", &["name"][..]), $((OptimizerName::$name.table(), <$config>::METHODS),)*];
                keys.iter().any(|(table, keys)| is_key_of(path, table, keys.iter().copied()))
            }

            /// Why a run can not change this key on the way; `None` if it can.
            pub fn fixed(path: &str) -> Option<&'static str> {
                let name = [("name", "the saved state belongs to another optimizer")];
                let all = [("optimizer", &name[..]), $((OptimizerName::$name.table(), <$config>::FIXED),)*];
                let mut keys = all.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (table, key)));
                keys.find(|(table, (key, _))| is_key_of(path, table, [*key])).map(|(_, (_, why))| *why)
            }
        }
    };
}
use optimizers;

fn is_key_of<'a>(path: &str, table: &str, keys: impl IntoIterator<Item = &'a str>) -> bool {
    let key = path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
    key.is_some_and(|key| keys.into_iter().any(|known| known == key))
}
