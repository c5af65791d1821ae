//! The state that a rule keeps for a batch of blocks, by the names of its checkpoints.

use candle_core::{bail, Result, Tensor};

use super::algebra::{Mats, Number, Place};
use super::rule::Slot;
use super::saved::Saved;
use super::OptimizerState;

/// Matrices and numbers of each block of a batch.
pub(super) struct Slots<M: Mats> {
    specs: Vec<Slot>,
    names: &'static [&'static str],
    matrices: Vec<M>,
    numbers: Vec<M::Number>,
    /// Updates since the start, of the oldest block; 0 = none of them has learned anything.
    pub(super) age: u64,
}

impl<M: Mats> Slots<M> {
    pub(super) fn start(specs: Vec<Slot>, names: &'static [&'static str], count: usize, place: &Place) -> Result<Self> {
        let matrices =
            specs.iter().map(|slot| M::start(slot.start, count, slot.shape, place)).collect::<Result<_>>()?;
        let zeros = vec![0.0; count];
        let numbers = names.iter().map(|_| Number::from_values(&zeros, &place.device)).collect::<Result<_>>()?;
        Ok(Slots { specs, names, matrices, numbers, age: 0 })
    }

    /// Matrices and numbers in the order of their declaration.
    pub(super) fn parts<const A: usize, const B: usize>(&mut self) -> Result<([&mut M; A], [&mut M::Number; B])> {
        let matrices: Vec<&mut M> = self.matrices.iter_mut().collect();
        let numbers: Vec<&mut M::Number> = self.numbers.iter_mut().collect();
        match (matrices.try_into(), numbers.try_into()) {
            (Ok(matrices), Ok(numbers)) => Ok((matrices, numbers)),
            _ => bail!("a rule of {} matrices and {} numbers asks for {A} and {B}", self.specs.len(), self.names.len()),
        }
    }

    /// After an update.
    pub(super) fn grow(&mut self) -> Result<()> {
        self.age = match self.numbers.first() {
            // a batch of one is as old as it says
            Some(number) if M::ALONE => number.values()?.into_iter().fold(0.0, f64::max) as u64,
            _ => self.age + 1,
        };
        Ok(())
    }

    /// Puts back to the start where the mask is 1.
    pub(super) fn restart(&mut self, mask: &M::Number) -> Result<()> {
        if mask.surely(0.0) {
            return Ok(());
        }
        for (matrix, slot) in self.matrices.iter_mut().zip(&self.specs) {
            matrix.restart(mask, slot.start)?;
        }
        for number in &mut self.numbers {
            *number = mask.choose(&(number.clone() * 0.0), number);
        }
        if mask.surely(1.0) {
            self.age = 0;
        }
        Ok(())
    }

    /// Of now, to be [put back](Slots::put_back).
    pub(super) fn copy(&self) -> Result<(Vec<M>, Vec<M::Number>)> {
        Ok((self.matrices.iter().map(M::copy).collect::<Result<_>>()?, self.numbers.clone()))
    }

    /// Where the mask is 1 all is as it was.
    pub(super) fn put_back(&mut self, mask: &M::Number, before: (Vec<M>, Vec<M::Number>)) -> Result<()> {
        for (matrix, before) in self.matrices.iter_mut().zip(before.0) {
            matrix.replace(mask, before)?;
        }
        for (number, before) in self.numbers.iter_mut().zip(before.1) {
            *number = mask.choose(&before, number);
        }
        Ok(())
    }

    pub(super) fn specs(&self) -> &[Slot] {
        &self.specs
    }

    pub(super) fn matrix(&self, slot: usize) -> &M {
        &self.matrices[slot]
    }

    pub(super) fn matrix_mut(&mut self, slot: usize) -> &mut M {
        &mut self.matrices[slot]
    }

    /// Matrices of one block, but for those of the whole weight: `OWNER.NAME` and `suffix`.
    pub(super) fn save(&self, at: usize, owner: &str, suffix: &str, state: &mut OptimizerState) -> Result<()> {
        for (matrix, slot) in self.matrices.iter().zip(&self.specs).filter(|(_, slot)| !slot.of_weight) {
            state.tensors.push((format!("{owner}.{}{suffix}", slot.name), matrix.to_tensor(at)?));
        }
        Ok(())
    }

    /// Numbers of each block; waits for them.
    pub(super) fn values(&self) -> Result<Vec<(&'static str, Vec<f64>)>> {
        self.names.iter().zip(&self.numbers).map(|(name, number)| Ok((*name, number.values()?))).collect()
    }

    /// The inverse of [`Slots::save`] and [`Slots::values`] for all blocks: `owners` and suffixes of each.
    pub(super) fn load(&mut self, owners: &[(&str, String)], place: &Place, saved: &mut Saved) -> Result<()> {
        for (matrix, slot) in self.matrices.iter_mut().zip(&self.specs).filter(|(_, slot)| !slot.of_weight) {
            let mut tensors: Vec<Tensor> = Vec::with_capacity(owners.len());
            for (owner, suffix) in owners {
                tensors.push(saved.take(&format!("{owner}.{}{suffix}", slot.name), slot.shape, place)?);
            }
            *matrix = M::from_tensors(tensors, place)?;
        }
        let mut first = None;
        for (name, number) in self.names.iter().zip(&mut self.numbers) {
            let of = |(owner, _): &(&str, String)| saved.scalar(&format!("{owner}.{name}"));
            let values = owners.iter().map(of).collect::<Result<Vec<f64>>>()?;
            *number = Number::from_values(&values, &place.device)?;
            first.get_or_insert((values, number.is_zero()));
        }
        if let Some((values, unborn)) = first {
            self.age = values.into_iter().fold(0.0, f64::max) as u64;
            // files of before 0.2 hold zeros for what has not begun
            self.restart(&unborn)?;
        }
        Ok(())
    }
}
