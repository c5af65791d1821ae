//! The step on a GPU: the passes over weights and windows are kernels, one launch for all tensors, and the host does the
//! B×B work of each tensor (about 2·B numbers down, B up) as for the CPU: one wait an update for the forms of low rank,
//! and for `diag` with small entries replaced.

use candle_core::{Result, Tensor, Var};
use rayon::prelude::*;

use super::super::Gradients;
use super::block::{frozen, Block, Rule, Update};
use super::passes::{Diagonal, DiagonalLiteral, Moments, Products};
use crate::config::HvrForm;
use crate::ops::cuda::{apply_windows, observe_windows, window_extents, Windowed};
use crate::params::{Param, ParamSet};

/// A tensor in a step.
struct Job<'a> {
    block: &'a mut Block,
    param: &'a Param,
    gradient: &'a Tensor,
    update: Update<'a>,
}

/// All tensors.
pub(super) fn step<'a>(
    blocks: &'a mut [(String, Block)],
    params: &'a ParamSet,
    gradients: &'a Gradients,
    update: impl Fn(&Param) -> Update<'a>,
) -> Result<()> {
    let jobs = blocks.iter_mut().zip(params).zip(&gradients.tensors);
    let jobs = jobs.map(|(((_, block), param), gradient)| Job { block, param, gradient, update: update(param) });
    let (diagonal, others): (Vec<Job<'_>>, Vec<Job<'_>>) = jobs.partition(|job| job.block.rule == Rule::Diagonal);
    low_rank(others)?;
    match diagonal.first() {
        Some(job) if job.update.config.form == HvrForm::DiagLiteral => literals(diagonal),
        _ => diagonals(diagonal),
    }
}

/// Adam's directions, turned by the windows.
fn low_rank(mut jobs: Vec<Job<'_>>) -> Result<()> {
    let scalars = |job: &Job<'_>| {
        let Moments { beta1, beta2, eps, m_correction, root_correction, .. } = job.update.moments();
        let step = [job.update.lr, job.update.shrink(job.param)];
        [&[1.0 - beta1, beta2, 1.0 - beta2, eps, root_correction, 1.0 / m_correction], &step[..]].concat()
    };
    let items = jobs.iter().map(|job| job.item(Vec::new(), scalars(job))).collect::<Result<Vec<_>>>()?;
    let sums = observe_windows(&items)?;
    let turn = |(job, sums): (&mut Job<'_>, Vec<f64>)| {
        let products = products(&sums, job.block.history.slots());
        let weights = job.block.turn(job.update.config, &products, job.gradient.elem_count());
        (weights, products)
    };
    let found: Vec<(Vec<f64>, Products)> = jobs.par_iter_mut().zip(sums).map(turn).collect();
    let items = jobs.iter().zip(&found).map(|(job, (weights, _))| job.item(weights.clone(), scalars(job)));
    apply_windows("window_apply", &items.collect::<Result<Vec<_>>>()?)?;
    jobs.iter_mut().zip(&found).for_each(|(job, (_, products))| job.block.push(products));
    Ok(())
}

/// From the sums of `observe_windows`.
fn products(sums: &[f64], slots: usize) -> Products {
    Products {
        square: sums[0],
        adam_square: sums[1],
        direction: sums[2..2 + slots].to_vec(),
        gradient: sums[2 + slots..2 + 2 * slots].to_vec(),
    }
}

fn diagonals(mut jobs: Vec<Job<'_>>) -> Result<()> {
    let mut extents = vec![None; jobs.len()];
    if jobs.first().is_some_and(|job| job.update.truncates_entries()) {
        let items = jobs.iter().map(|job| job.item(Vec::new(), Vec::new())).collect::<Result<Vec<_>>>()?;
        for ((extent, (max, sum)), job) in extents.iter_mut().zip(window_extents(&items)?).zip(&jobs) {
            let held = job.block.held() as f64;
            *extent = Some((max / held, sum / (held * job.gradient.elem_count().max(1) as f64)));
        }
    }
    let item = |(job, extent): (&Job<'_>, Option<(f64, f64)>)| {
        let rule = job.block.diagonal_rule(&job.update, job.update.shrink(job.param), extent);
        let Diagonal { eps, weights, held, floor, lr, shrink } = rule;
        let (below, by) = floor.unwrap_or_default();
        job.item(weights, vec![eps, 1.0 / held as f64, below, by, lr, shrink])
    };
    apply_windows("window_diagonal", &jobs.iter().zip(extents).map(item).collect::<Result<Vec<_>>>()?)?;
    jobs.iter_mut().for_each(|job| job.block.push_alone());
    Ok(())
}

fn literals(mut jobs: Vec<Job<'_>>) -> Result<()> {
    let item = |job: &Job<'_>| {
        let rule = job.block.literal_rule(&job.update, job.update.shrink(job.param));
        let DiagonalLiteral { beta1, m_correction, held, lr, shrink } = rule;
        let share = 1.0 / held.max(1) as f64;
        job.item(Vec::new(), vec![1.0 - beta1, 1.0 / m_correction, share, lr, shrink])
    };
    apply_windows("window_diagonal_literal", &jobs.iter().map(item).collect::<Result<Vec<_>>>()?)?;
    jobs.iter_mut().for_each(|job| job.block.push_alone());
    Ok(())
}

impl Job<'_> {
    fn item(&self, weights: Vec<f64>, scalars: Vec<f64>) -> Result<Windowed> {
        let Job { block, param, gradient, update } = self;
        let tensor = |var: &Option<Var>| var.as_ref().map(Var::as_detached_tensor);
        Ok(Windowed {
            weight: param.var.as_detached_tensor(),
            gradient: Tensor::clone(gradient),
            m: tensor(&block.m),
            v: tensor(&block.v),
            gamma: tensor(&block.gamma),
            frozen: frozen(param)?,
            weights,
            next: block.history.next(),
            normalized: update.config.form != HvrForm::Literal,
            scalars,
        })
    }
}
