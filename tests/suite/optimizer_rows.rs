//! Every optimizer with what the battery (`optimizers`) needs to know about it.

use nmt_train::config::{
    Hessian2Config, Hessian2Variant, HvrAutomatic, HvrConfig, HvrForm, HvrTruncation, OptimizerConfig, OptimizerName,
    ScheduleFreeConfig, SgdConfig,
};
use nmt_train::params::Param;

use super::optimizer_references::hvr::HvrReference;
use super::optimizer_references::schedule_free::ScheduleFreeReference;
use super::optimizer_references::*;

/// One optimizer with what the battery needs to know about it.
pub(crate) struct Row {
    pub(crate) config: OptimizerConfig,
    /// Rates that solve the parabola and Rosenbrock's valley within these numbers of updates; 0 updates: the optimizer
    /// can not, and its row says why.
    pub(crate) parabola: (f64, u64),
    pub(crate) rosenbrock: (f64, u64),
    pub(crate) reference: fn(&Param) -> Box<dyn Reference>,
    /// Largest difference from the reference after 100 updates, as a share of the largest weight: in f32, in f64.
    pub(crate) tolerance: (f64, f64),
    /// Compared on square matrices: a factor without full rank has no eigenvectors of its own.
    pub(crate) square: bool,
}

const EXACT: (f64, f64) = (1e-6, 1e-12);

pub(crate) fn rows() -> Vec<Row> {
    let config = |name, weight_decay: f64| OptimizerConfig {
        name,
        weight_decay: weight_decay.into(),
        ..OptimizerConfig::default()
    };
    let momentum = SgdConfig { momentum: 0.9, dampening: 0.2, nesterov: false };
    let nesterov = SgdConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
    let mut rows = vec![
        Row {
            config: config(OptimizerName::Adam, 0.1),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| Box::new(AdamReference::new(0.9, 0.98, 1e-9, false)),
            tolerance: EXACT,
            square: false,
        },
        Row {
            config: config(OptimizerName::Adamw, 0.1),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| Box::new(AdamReference::new(0.9, 0.98, 1e-9, true)),
            tolerance: EXACT,
            square: false,
        },
        Row {
            config: config(OptimizerName::ClippedAdam, 0.1),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| Box::new(AdamReference::new(0.9, 0.999, 1e-8, false)),
            tolerance: EXACT,
            square: false,
        },
        Row {
            config: config(OptimizerName::Sgd, 0.1),
            parabola: (0.1, 500),
            rosenbrock: (0.001, 40_000),
            reference: |_| Box::new(SgdReference { config: SgdConfig::default(), buffer: None }),
            tolerance: EXACT,
            square: false,
        },
        Row {
            config: OptimizerConfig { sgd: momentum.clone(), ..config(OptimizerName::Sgd, 0.1) },
            parabola: (0.05, 500),
            rosenbrock: (0.0005, 20_000),
            reference: |_| {
                let config = SgdConfig { momentum: 0.9, dampening: 0.2, nesterov: false };
                Box::new(SgdReference { config, buffer: None })
            },
            tolerance: EXACT,
            square: false,
        },
        Row {
            config: OptimizerConfig { sgd: nesterov.clone(), ..config(OptimizerName::Sgd, 0.1) },
            parabola: (0.05, 500),
            rosenbrock: (0.0005, 20_000),
            reference: |_| {
                let config = SgdConfig { momentum: 0.9, dampening: 0.0, nesterov: true };
                Box::new(SgdReference { config, buffer: None })
            },
            tolerance: EXACT,
            square: false,
        },
        Row {
            config: config(OptimizerName::Muon, 0.1),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| {
                let adam = AdamReference::new(0.9, 0.98, 1e-9, true);
                Box::new(OrAdam { matrices: MuonReference::default(), adam, takes: hidden })
            },
            tolerance: (1e-5, 1e-12),
            square: false,
        },
        Row {
            config: config(OptimizerName::Soap, 0.1),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| {
                let adam = AdamReference::new(0.95, 0.95, 1e-8, true);
                Box::new(OrAdam { matrices: SoapReference::default(), adam, takes: not_vectors })
            },
            tolerance: (1e-4, 1e-9),
            square: true,
        },
        Row {
            config: config(OptimizerName::Hessian2, 0.1),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| {
                let adam = AdamReference::new(0.8, 0.98, 1e-9, true);
                let matrices = WhiteReference { config: Hessian2Config::default(), state: None };
                Box::new(OrAdam { matrices, adam, takes: not_vectors })
            },
            tolerance: (1e-4, 1e-10),
            square: false,
        },
        Row {
            config: OptimizerConfig { hessian2: of_rare_rows(), ..config(OptimizerName::Hessian2, 0.1) },
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| {
                let adam = AdamReference::new(0.8, 0.98, 1e-9, true);
                let matrices = WhiteReference { config: of_rare_rows(), state: None };
                Box::new(OrAdam { matrices, adam, takes: not_vectors })
            },
            tolerance: (1e-4, 1e-10),
            square: false,
        },
        Row {
            config: hessian2(Hessian2Variant::Kron),
            parabola: (0.05, 1000),
            rosenbrock: (0.02, 6000),
            reference: |_| {
                let adam = AdamReference::new(0.8, 0.98, 1e-9, true);
                let matrices = KronReference { config: Hessian2Config::default(), state: None };
                Box::new(OrAdam { matrices, adam, takes: tables_and_seen })
            },
            tolerance: (5e-4, 1e-9),
            square: false,
        },
    ];
    rows.extend(hvr_rows());
    rows.push(schedule_free_row());
    rows
}

/// Each with the same settings for optimizer and reference.
macro_rules! hvr_row {
    ($parabola:expr, $rosenbrock:expr, $($field:ident: $value:expr),* $(,)?) => {
        Row {
            config: OptimizerConfig {
                name: OptimizerName::Hvr,
                weight_decay: 0.1.into(),
                hvr: HvrConfig { $($field: $value,)* ..HvrConfig::default() },
                ..OptimizerConfig::default()
            },
            parabola: $parabola,
            rosenbrock: $rosenbrock,
            tolerance: EXACT,
            square: false,
            reference: |param| {
                let config = HvrConfig { $($field: $value,)* ..HvrConfig::default() };
                Box::new(HvrReference::new(config, param.kind))
            },
        }
    };
}

fn hvr_rows() -> Vec<Row> {
    use HvrForm::{Code, Diag, DiagLiteral, Inv, Isqrt, Literal};
    // rates of 0 updates: forms whose steps shrink with the third power of the gradient stand still in the flat valley
    vec![
        hvr_row!((0.02, 1000), (0.02, 6000), form: Isqrt),
        hvr_row!((0.02, 1000), (0.02, 6000), form: Isqrt, automatic: HvrAutomatic::WindowAndLambda),
        hvr_row!(
            (0.02, 1000), (0.02, 6000),
            form: Inv, window: 6, automatic: HvrAutomatic::Off, lambda_rel: 1.0,
            truncation: HvrTruncation::Spectral, threshold: 0.8,
        ),
        hvr_row!((0.02, 1000), (0.02, 6000), form: Inv, window: 9, lambda_rel: 0.1),
        // a Gram matrix without its small elements fits no gradients: the gain may be of any size and sign
        hvr_row!(
            (0.02, 0), (0.02, 0),
            form: Inv, window: 6, automatic: HvrAutomatic::Off, truncation: HvrTruncation::Elementwise, threshold: 0.03,
        ),
        hvr_row!((0.02, 1000), (0.02, 6000), form: Diag),
        hvr_row!(
            (0.02, 1000), (0.005, 20_000),
            form: Diag, window: 5, truncation: HvrTruncation::Entries, threshold: 0.1,
        ),
        hvr_row!((0.1, 20_000), (0.1, 0), form: Literal, window: 4, literal_cap: 0.5),
        hvr_row!((0.1, 30_000), (0.1, 0), form: DiagLiteral, window: 4),
        hvr_row!((0.1, 500), (0.001, 40_000), form: Code),
    ]
}

/// What holds for every optimizer.
pub(crate) fn configs() -> Vec<OptimizerConfig> {
    rows().into_iter().map(|row| row.config).collect()
}

fn hessian2(variant: Hessian2Variant) -> OptimizerConfig {
    let hessian2 = Hessian2Config { variant, ..Hessian2Config::default() };
    OptimizerConfig { name: OptimizerName::Hessian2, weight_decay: 0.1.into(), hessian2, ..OptimizerConfig::default() }
}

/// `white` with the settings that are not its defaults.
fn of_rare_rows() -> Hessian2Config {
    Hessian2Config { row_power: 0.65, ..Hessian2Config::default() }
}

fn schedule_free_row() -> Row {
    Row {
        config: OptimizerConfig {
            name: OptimizerName::ScheduleFree,
            weight_decay: 0.1.into(),
            schedule_free: ScheduleFreeConfig { r: 0.5, ..ScheduleFreeConfig::default() },
            ..OptimizerConfig::default()
        },
        parabola: (0.2, 1000),
        rosenbrock: (0.02, 20_000),
        tolerance: EXACT,
        square: false,
        reference: |_| {
            Box::new(ScheduleFreeReference::new(ScheduleFreeConfig { r: 0.5, ..ScheduleFreeConfig::default() }))
        },
    }
}
