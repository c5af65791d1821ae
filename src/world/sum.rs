//! Sums over ranks in a fixed order: element by element those of one process that takes all addends one after the other.
//!
//! Each rank owns a part of the elements. In each round the ranks exchange parts (rank r gets part r of everyone's addend) and
//! every owner adds what it got in the order of the ranks; at the end the parts are gathered. So the sum of round after round
//! is ((a₀ + a₁) + a₂) + …, whatever the number of ranks.

use candle_core::Tensor;

use super::{Result, World};

/// A sum under way, of flat tensors of f32.
pub struct InOrder<'a> {
    world: &'a World,
    /// Lengths of the parts, by owner.
    parts: Vec<usize>,
    /// The sum so far: of the part that this rank owns.
    own: Option<Tensor>,
}

impl World {
    /// Begins a sum of `length` numbers.
    pub fn in_order(&self, length: usize) -> InOrder<'_> {
        let size = self.size();
        let parts = (0..size).map(|rank| length * (rank + 1) / size - length * rank / size).collect();
        InOrder { world: self, parts, own: None }
    }
}

impl InOrder<'_> {
    /// Takes one addend of each of the first `present` ranks, in their order; the others hand over anything of that length.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn round(&mut self, addend: &Tensor, present: usize) -> Result<()> {
        let addends = match &self.world.job {
            None => vec![addend.clone()],
            Some(job) => {
                job.meet(Some(job.limit))?;
                job.parts_of(addend, &self.parts, present)?
            }
        };
        for addend in addends {
            self.own = Some(match self.own.take() {
                None => addend,
                Some(sum) => (sum + addend)?,
            });
        }
        Ok(())
    }

    /// The sum, in all ranks; `None` before any round.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn take(self) -> Result<Option<Tensor>> {
        self.own.map(|own| self.world.gather_parts(&own, &self.parts)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn alone_it_is_the_sum_of_all_rounds() -> Result<()> {
        let (world, numbers) = (World::alone(), |x: f32| Tensor::new(&[x, 2.0 * x, 3.0], &Device::Cpu));
        assert!(world.in_order(3).take()?.is_none());
        let mut sum = world.in_order(3);
        for x in [1e8, 1.0, -1e8] {
            sum.round(&numbers(x)?, 1)?;
        }
        let expected = [(1e8 + 1.0) - 1e8, (2e8 + 2.0) - 2e8, 9.0f32];
        assert_eq!(sum.take()?.map(|sum| sum.to_vec1::<f32>()).transpose()?, Some(expected.to_vec()));
        Ok(())
    }
}
