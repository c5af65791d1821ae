//! The embedding-distance objective: gradients in closed form on the rows concerned, added to those of the tables after
//! the backward pass of the likelihood.
//!
//! | form | minimized | file |
//! |---|---|---|
//! | `bridge` | distance of words that translate each other, and a guard that keeps vectors apart | `bridge.rs` |
//! | `literal-math` | mean distance of all pairs inside a table (of a random choice of its rows) | `literal.rs` |
//! | `code` | nothing: the document's sample measures each row against itself | here |
//!
//! Formulas and advice: docs/embedding-distance.md.

mod attention;
mod bridge;
mod health;
mod literal;
mod rows;

pub use health::{table_health, TableHealth};

use candle_core::{Result, Tensor};

use super::lexicon::WordPair;
use crate::batch::Batch;
use crate::config::{DistanceForm, EmbeddingDistanceConfig, PairSource};
use crate::model::Model;
use crate::ops::with_real;
use crate::optim::Gradients;
use crate::params::ParamSet;
use crate::rng::{stream, Purpose, Stream};
use bridge::{bridge, Bridge};
use rows::{add_rows, gather};

/// The objective of one run.
pub struct EmbeddingDistance {
    config: EmbeddingDistanceConfig,
    /// Names of the source and the target table; the same when one table serves both.
    source: String,
    target: String,
    /// Sorted by source; each word in one pair of its side.
    pairs: Vec<WordPair>,
    /// Of each source id the index of its pair plus 1; 0 = it has none.
    pair_of: Vec<u32>,
    target_size: usize,
}

/// What one update needs to know.
#[derive(Clone, Copy, Debug)]
pub struct DistanceContext {
    /// Factor on all gradients.
    pub weight: f64,
    /// Updates done before this one, and the seed: they name the random choice.
    pub step: u64,
    pub seed: u64,
    /// `variance-floor`: standard deviation of the source and the target table when the objective began.
    pub floors: [f64; 2],
    /// `pairs = "attention"`: whether it is trusted by now.
    pub attends: bool,
}

/// What one update found, before it is weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DistanceStats {
    pub distance: f64,
    pub guard: f64,
    /// Factor on both in this update.
    pub weight: f64,
    /// distance + guard_weight · guard.
    pub loss: f64,
    /// Pairs of words (bridge) or rows (the other forms).
    pub pairs: usize,
}

impl EmbeddingDistance {
    /// `pairs`: words that translate each other, for the form `bridge`. Pairs of one row with itself are left out.
    ///
    /// # Errors
    /// When `params` has no embedding table.
    pub fn new(config: &EmbeddingDistanceConfig, params: &ParamSet, mut pairs: Vec<WordPair>) -> Result<Self> {
        let Some([source, target]) = params.embeddings() else {
            candle_core::bail!("the embedding distance needs embedding tables, the model has none")
        };
        let (source_size, target_size) = (source.var.dim(0)?, target.var.dim(0)?);
        if source.name == target.name {
            pairs.retain(|pair| pair.source != pair.target);
        }
        pairs.sort_by_key(|pair| pair.source);
        let mut pair_of = vec![0; source_size];
        for (i, pair) in pairs.iter().enumerate() {
            match pair_of.get_mut(pair.source as usize) {
                Some(place) if (pair.target as usize) < target_size => *place = i as u32 + 1,
                _ => candle_core::bail!("the pair {pair:?} is outside of the embedding tables"),
            }
        }
        let (source, target) = (source.name.clone(), target.name.clone());
        Ok(EmbeddingDistance { config: config.clone(), source, target, pairs, pair_of, target_size })
    }

    /// The pairs of words of one update, at most `sample_size`; none for forms that need none.
    ///
    /// # Errors
    /// Those of the model, whose attention may be asked.
    pub fn pairs_in(&self, model: &dyn Model, batches: &[&Batch], context: &DistanceContext) -> Result<Vec<WordPair>> {
        if self.config.form != DistanceForm::Bridge {
            return Ok(Vec::new());
        }
        let mut pairs = match self.config.pairs {
            PairSource::Lexical => self.lexical(batches),
            PairSource::Attention if !context.attends => Vec::new(),
            PairSource::Attention => attention::attended_pairs(model, batches, self.config.min_attention)?,
        };
        if self.source == self.target {
            pairs.retain(|pair| pair.source != pair.target);
        }
        choose(&mut pairs, self.config.sample_size, &mut stream(context.seed, Purpose::Sample, context.step));
        Ok(pairs)
    }

    /// Lexical pairs of the whole training text.
    pub fn pairs(&self) -> &[WordPair] {
        &self.pairs
    }

    /// Adds `weight` × the gradients of distance and guard to those of the tables, in place. `pairs` are those of
    /// [`EmbeddingDistance::pairs_in`]; `params` are the trained ones, with `gradients` in their order.
    ///
    /// # Errors
    /// When a table is not among `params`, is not contiguous f32 or f64, or is not on the CPU.
    pub fn add_gradients(
        &self,
        params: &ParamSet,
        gradients: &Gradients,
        pairs: &[WordPair],
        context: &DistanceContext,
    ) -> Result<DistanceStats> {
        let source = Table::find(params, gradients, &self.source)?;
        let target = Table::find(params, gradients, &self.target)?;
        let found = self.add(&source, &target, pairs, context)?;
        let loss = found.distance + self.config.guard_weight * found.guard;
        Ok(DistanceStats { weight: context.weight, loss, ..found })
    }

    fn add(
        &self,
        source: &Table,
        target: &Table,
        pairs: &[WordPair],
        context: &DistanceContext,
    ) -> Result<DistanceStats> {
        match self.config.form {
            DistanceForm::Off => Ok(DistanceStats::default()),
            DistanceForm::Bridge => {
                with_real!(source.values, T => self.add_bridge::<T>(source, target, pairs, context))
            }
            DistanceForm::LiteralMath => {
                let mut random = stream(context.seed, Purpose::Sample, context.step);
                let mut stats = with_real!(source.values, T => self.add_literal::<T>(source, context, &mut random))?;
                if self.source != self.target {
                    let more = with_real!(target.values, T => self.add_literal::<T>(target, context, &mut random))?;
                    stats.distance += more.distance;
                    stats.pairs += more.pairs;
                }
                Ok(stats)
            }
            // pairwise_distance(E, E) adds 10⁻⁶ to each difference: the norm of that is all that is left of it
            DistanceForm::Code => {
                let width = source.values.dim(1)? as f64;
                let pairs = source.values.dim(0)?;
                Ok(DistanceStats { distance: 1e-6 * width.sqrt(), pairs, ..Default::default() })
            }
        }
    }

    fn add_bridge<T: crate::ops::Real>(
        &self,
        source: &Table,
        target: &Table,
        pairs: &[WordPair],
        context: &DistanceContext,
    ) -> Result<DistanceStats> {
        if pairs.is_empty() {
            return Ok(DistanceStats::default());
        }
        let source_ids: Vec<u32> = pairs.iter().map(|pair| pair.source).collect();
        let target_ids: Vec<u32> = pairs.iter().map(|pair| pair.target).collect();
        let weights: Vec<f64> = pairs.iter().map(|pair| pair.weight).collect();
        let (u, v) = (gather::<T>(source.values, &source_ids)?, gather::<T>(target.values, &target_ids)?);
        let found = bridge(&Bridge {
            u: &u,
            v: &v,
            width: source.values.dim(1)?,
            weights: &weights,
            no_negative: &|p, q| {
                target_ids[p] == target_ids[q] || (self.source == self.target && source_ids[p] == target_ids[q])
            },
            floors: context.floors,
            config: &self.config,
        });
        add_rows(source.gradient, &source_ids, &found.du, context.weight, source.frozen_row)?;
        add_rows(target.gradient, &target_ids, &found.dv, context.weight, target.frozen_row)?;
        let (distance, guard, pairs) = (found.distance, found.guard, pairs.len());
        Ok(DistanceStats { distance, guard, pairs, ..Default::default() })
    }

    fn add_literal<T: crate::ops::Real>(
        &self,
        table: &Table,
        context: &DistanceContext,
        random: &mut Stream,
    ) -> Result<DistanceStats> {
        let (rows, width) = table.values.dims2()?;
        let mut ids: Vec<u32> = (0..rows as u32).filter(|&id| Some(id as usize) != table.frozen_row).collect();
        choose(&mut ids, self.config.sample_size, random);
        let values = gather::<T>(table.values, &ids)?;
        let (distance, gradient) = literal::all_pairs(&values, width, self.config.metric);
        add_rows(table.gradient, &ids, &gradient, context.weight, table.frozen_row)?;
        Ok(DistanceStats { distance, pairs: ids.len(), ..Default::default() })
    }

    /// The lexical pairs whose two words both occur in the batches, in the order of their sources.
    fn lexical(&self, batches: &[&Batch]) -> Vec<WordPair> {
        let mut has_target = vec![false; self.target_size];
        for &id in batches.iter().flat_map(|batch| &batch.target.ids) {
            if let Some(has) = has_target.get_mut(id as usize) {
                *has = true;
            }
        }
        let mut taken = vec![false; self.pairs.len()];
        for &id in batches.iter().flat_map(|batch| &batch.source.ids) {
            let place = self.pair_of.get(id as usize).copied().unwrap_or(0) as usize;
            if let Some(i) = place.checked_sub(1) {
                taken[i] = has_target[self.pairs[i].target as usize];
            }
        }
        self.pairs.iter().zip(taken).filter(|(_, taken)| *taken).map(|(pair, _)| *pair).collect()
    }
}

/// Leaves `count` of the items by chance; all when there are no more.
fn choose<T>(items: &mut Vec<T>, count: usize, random: &mut Stream) {
    for i in 0..if items.len() > count { count } else { 0 } {
        let other = i + random.below(items.len() - i);
        items.swap(i, other);
    }
    items.truncate(count);
}

/// One embedding table with its gradient.
struct Table<'a> {
    values: &'a Tensor,
    gradient: &'a Tensor,
    frozen_row: Option<usize>,
}

impl<'a> Table<'a> {
    fn find(params: &'a ParamSet, gradients: &'a Gradients, name: &str) -> Result<Self> {
        match params.iter().zip(&gradients.tensors).find(|(param, _)| param.name == name) {
            Some((param, gradient)) => {
                Ok(Table { values: param.var.as_tensor(), gradient, frozen_row: param.frozen_row })
            }
            None => candle_core::bail!("the embedding table {name} is not trained"),
        }
    }
}

#[cfg(test)]
mod tests;
