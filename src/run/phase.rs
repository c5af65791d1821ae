//! What the saved state of an optimizer belongs to, and which phases a checkpoint has entered.

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::config::{Config, InForce, OptimizerName, Trainable};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trained {
    pub optimizer: OptimizerName,
    pub trainable: Trainable,
}

impl Trained {
    pub fn of(now: &InForce) -> Self {
        Trained { optimizer: now.optimizer.name, trainable: now.trainable }
    }
}

impl Ledger {
    /// What was in force when this ledger was written: the phases entered before the last update, not the one that may
    /// begin with the next.
    pub fn in_force(&self, config: &Config) -> InForce {
        config.in_force(self.in_force_at.unwrap_or(0))
    }

    /// Whether the state of the optimizer in force begins fresh by definition, so that what a checkpoint holds does not
    /// matter: no update was done with it.
    pub fn begins_fresh(&self, now: &InForce) -> bool {
        self.step == now.optimizer_since
    }
}
