//! Sums over ranks in a fixed order: element by element those of one process that takes all addends one after the other.
//!
//! Each rank owns a part of the elements. In each round the ranks exchange parts (rank r gets part r of everyone's addend) and
//! every owner adds what it got in the order of the ranks; at the end the parts are gathered. So the sum of round after round
//! is ((a₀ + a₁) + a₂) + …, whatever the number of ranks.

use super::{Error, Job, Result, World};
use crate::ops::mpi::Wire;

/// A sum under way, of `length` numbers.
pub struct InOrder<'a, T> {
    job: Option<&'a Job>,
    /// Lengths of the parts, by owner.
    parts: Vec<usize>,
    /// The sum so far: of the part that this rank owns.
    own: Vec<T>,
    /// What the others sent.
    found: Vec<T>,
    begun: bool,
}

impl World {
    /// Begins a sum of `length` numbers.
    pub fn in_order<T: Wire>(&self, length: usize) -> InOrder<'_, T> {
        let size = self.size();
        let parts = (0..size).map(|rank| length * (rank + 1) / size - length * rank / size).collect();
        InOrder { job: self.job.as_deref(), parts, own: Vec::new(), found: Vec::new(), begun: false }
    }
}

impl<T: Wire + std::ops::AddAssign> InOrder<'_, T> {
    /// Takes one addend of each of the first `present` ranks, in their order; the others hand over anything.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn round(&mut self, addend: &[T], present: usize) -> Result<()> {
        let Some(job) = self.job else {
            self.add(addend.to_vec(), 1);
            return Ok(());
        };
        let (rank, size) = (job.mpi.rank, job.mpi.size);
        job.meet(Some(job.limit))?;
        let mine = self.parts[rank];
        let nothing = vec![0; size];
        let sent = if rank < present { &self.parts } else { &nothing };
        let addend = if rank < present { addend } else { &[] };
        let received: Vec<usize> = (0..size).map(|other| if other < present { mine } else { 0 }).collect();
        let mut found = std::mem::take(&mut self.found);
        found.resize(mine * present, T::default());
        job.timed(|| job.mpi.exchange((addend, sent), (&mut found, &received))).map_err(Error::Library)?;
        self.found = self.add(found, present);
        Ok(())
    }

    /// Adds `present` addends that lie one after the other, and gives the memory back.
    fn add(&mut self, found: Vec<T>, present: usize) -> Vec<T> {
        let length = found.len().checked_div(present).unwrap_or(0);
        let mut addends = (0..present).map(|i| &found[i * length..(i + 1) * length]);
        if !self.begun {
            self.own = addends.next().map_or_else(Vec::new, <[T]>::to_vec);
            self.begun = present > 0;
        }
        for addend in addends {
            self.own.iter_mut().zip(addend).for_each(|(sum, x)| *sum += *x);
        }
        found
    }

    /// The sum, in all ranks.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn take(self) -> Result<Vec<T>> {
        let Some(job) = self.job else { return Ok(self.own) };
        let rank = job.mpi.rank;
        let mut all = vec![T::default(); self.parts.iter().sum()];
        let start = self.parts[..rank].iter().sum::<usize>();
        all[start..start + self.own.len()].copy_from_slice(&self.own);
        job.meet(Some(job.limit))?;
        job.all_gather(&mut all, &self.parts)?;
        Ok(all)
    }
}
