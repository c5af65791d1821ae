//! The processes of one run: this one alone, or the ranks of an MPI job, of which each does its share.
//!
//! All ranks run the same program on the same run and take the same decisions; what differs between them is which
//! micro-batches and sentences they work on, and that rank 0, who *leads*, alone reads checkpoints, writes and speaks. Sums are
//! taken in the order of the micro-batches, so that nothing depends on the number of ranks, not by a bit.
//!
//! | file | owns |
//! |---|---|
//! | `launch` | what a launcher says of a job |
//! | `machine` | what the ranks tell each other of themselves |
//! | `sum` | sums over ranks in a fixed order |
//! | `tensors` | tensors from rank to rank |
//!
//! The libraries are in `ops::mpi` and `ops::nccl`.

mod launch;
mod machine;
mod sum;
mod tensors;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::exit::{ExitCode, InputError};
use crate::ops::mpi::{Mpi, Request, Wire};
use crate::ops::nccl::Nccl;

use launch::Launch;
pub(crate) use machine::apart;
pub use machine::{Machine, Mate};
pub use sum::InOrder;

/// What can go wrong between ranks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Library(String),
    #[error("{who} did not come to the next step for {seconds} s (--mpi-timeout); the others were ended")]
    Silent { who: String, seconds: u64 },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The processes of this job.
#[derive(Clone, Default)]
pub struct World {
    job: Option<Arc<Job>>,
}

struct Job {
    mpi: Mpi,
    /// How long a rank may keep the others waiting.
    limit: Duration,
    /// Host of each rank.
    hosts: OnceLock<Vec<String>>,
    /// Nanoseconds in exchanges between ranks by way of the hosts, waiting included.
    spent: AtomicU64,
    /// The way between GPUs, where there is one.
    gpus: OnceLock<Nccl>,
}

/// The job of this process, for a panic on any thread.
static JOB: OnceLock<Arc<Job>> = OnceLock::new();

/// How the command line changes what the launcher says.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Join a job though no launcher is seen.
    pub join: bool,
    /// How long a rank may keep the others waiting.
    pub limit: Duration,
}

impl World {
    /// This process alone.
    pub fn alone() -> Self {
        World::default()
    }

    /// Joins the job that a launcher started, if there is one. From here on a panic of this process ends all of them.
    ///
    /// # Errors
    /// No library, one that does not fit the launcher.
    pub fn join(wish: &Wish) -> Result<Self, InputError> {
        let launch = Launch::here();
        if !launch.has_others() && !wish.join {
            return Ok(World::alone());
        }
        let named = std::env::var("NMT_MPI_LIB").ok().filter(|name| !name.is_empty());
        let mpi = Mpi::init(named.as_deref(), launch.mpich).map_err(|why| {
            InputError(format!(
                "this process was started as one of several, and no MPI library can be loaded: {why}\n  set LD_LIBRARY_PATH to \
                 the folder of the launcher's libmpi.so, or NMT_MPI_LIB to its file"
            ))
        })?;
        if let Some(fault) = launch.fault(mpi.size) {
            return Err(InputError(fault));
        }
        let job = Arc::new(Job {
            mpi,
            limit: wish.limit,
            hosts: OnceLock::new(),
            spent: AtomicU64::new(0),
            gpus: OnceLock::new(),
        });
        if JOB.set(Arc::clone(&job)).is_ok() {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                told(panic);
                end_all(ExitCode::Failure);
            }));
        }
        let world = World { job: Some(job) };
        world.introduce()?;
        Ok(world)
    }

    /// Everyone learns the hosts of everyone.
    fn introduce(&self) -> Result<(), InputError> {
        let Some(job) = &self.job else { return Ok(()) };
        let names = self.gather(machine::host().as_bytes()).map_err(InputError::new)?;
        let names = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        // set once, here
        let _ = job.hosts.set(names);
        Ok(())
    }

    /// Of this process, from 0.
    pub fn rank(&self) -> usize {
        self.job.as_ref().map_or(0, |job| job.mpi.rank)
    }

    /// Processes.
    pub fn size(&self) -> usize {
        self.job.as_ref().map_or(1, |job| job.mpi.size)
    }

    /// Whether this process reads checkpoints, writes and speaks for all.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is nobody else.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Name and version of the library.
    pub fn library(&self) -> Option<&str> {
        self.job.as_ref().map(|job| job.mpi.library.as_str())
    }

    /// Host of each rank.
    pub fn hosts(&self) -> &[String] {
        self.job.as_ref().and_then(|job| job.hosts.get()).map_or(&[], Vec::as_slice)
    }

    /// The share of `n` things that this rank has: every `size`-th, from its own number on.
    pub fn share(&self, n: usize) -> impl Iterator<Item = usize> {
        (self.rank()..n).step_by(self.size())
    }

    /// Waits until all ranks are here, however long that takes: for what only one of them does.
    ///
    /// # Errors
    /// What the library says.
    pub fn wait(&self) -> Result<()> {
        self.job.iter().try_for_each(|job| job.meet(None))
    }

    /// What each rank has, by rank.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(job) = &self.job else { return Ok(vec![own.to_vec()]) };
        let (rank, size) = (job.mpi.rank, job.mpi.size);
        job.meet(Some(job.limit))?;
        let mut lengths = vec![0u8; 8 * size];
        lengths[8 * rank..8 * rank + 8].copy_from_slice(&(own.len() as u64).to_le_bytes());
        job.all_gather(&mut lengths, &vec![8; size])?;
        let lengths: Vec<usize> = lengths.chunks_exact(8).map(number).collect();
        let start = lengths[..rank].iter().sum::<usize>();
        let mut all = vec![0u8; lengths.iter().sum()];
        all[start..start + own.len()].copy_from_slice(own);
        job.all_gather(&mut all, &lengths)?;
        let mut rest = &all[..];
        let mut cut = |length: usize| {
            let (part, after) = rest.split_at(length);
            rest = after;
            part.to_vec()
        };
        Ok(lengths.into_iter().map(&mut cut).collect())
    }

    /// What each rank made of its [share](World::share) of `total` things, in their order.
    ///
    /// # Errors
    /// A rank that does not come, or answers for fewer; what the library says.
    pub fn gather_shares<T: Serialize + DeserializeOwned>(&self, own: Vec<T>, total: usize) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(own);
        }
        let unreadable = |e: serde_json::Error| Error::Library(format!("what another rank has sent is damaged: {e}"));
        let told = self.gather(&serde_json::to_vec(&own).map_err(unreadable)?)?;
        let lists = told.iter().map(|bytes| serde_json::from_slice(bytes).map_err(unreadable));
        let mut lists: Vec<_> = lists.map(|list| list.map(Vec::into_iter)).collect::<Result<_>>()?;
        let all: Vec<T> = (0..total).filter_map(|i| lists[i % self.size()].next()).collect();
        match all.len() == total {
            true => Ok(all),
            false => Err(Error::Library(format!("the ranks answer for {} of {total}", all.len()))),
        }
    }

    /// What rank `from` has, in all ranks; what others hand over is not looked at.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn broadcast(&self, own: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        self.spread(own, from, true)
    }

    /// As [`World::broadcast`] from the leader, who may take as long as it likes.
    ///
    /// # Errors
    /// What the library says.
    pub fn lead(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        self.spread(own, 0, false)
    }

    fn spread(&self, own: Vec<u8>, from: usize, in_time: bool) -> Result<Vec<u8>> {
        let Some(job) = &self.job else { return Ok(own) };
        job.meet(in_time.then_some(job.limit))?;
        let mut length = (own.len() as u64).to_le_bytes();
        job.mpi.broadcast(&mut length, from).map_err(Error::Library)?;
        let length = number(&length);
        let mut bytes = if job.mpi.rank == from { own } else { vec![0; length] };
        job.mpi.broadcast(&mut bytes, from).map_err(Error::Library)?;
        Ok(bytes)
    }

    /// The largest of a number over the ranks.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn most(&self, own: u64) -> Result<u64> {
        Ok(self.numbers(own)?.into_iter().max().unwrap_or(own))
    }

    /// The smallest of a number over the ranks.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn least(&self, own: u64) -> Result<u64> {
        Ok(self.numbers(own)?.into_iter().min().unwrap_or(own))
    }

    fn numbers(&self, own: u64) -> Result<Vec<u64>> {
        Ok(self.gather(&own.to_le_bytes())?.iter().map(|bytes| number(bytes) as u64).collect())
    }

    /// Whether it holds in any of the ranks.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn any(&self, own: bool) -> Result<bool> {
        Ok(self.most(u64::from(own))? > 0)
    }

    /// Seconds in exchanges between ranks so far, waiting for the others included.
    pub fn seconds(&self) -> f64 {
        let of =
            |job: &Arc<Job>| job.spent.load(Ordering::Relaxed) as f64 / 1e9 + job.gpus.get().map_or(0.0, Nccl::seconds);
        self.job.as_ref().map_or(0.0, of)
    }

    /// The end of all ranks that ended well: waits for the slowest.
    ///
    /// # Errors
    /// What the library says.
    pub fn leave(&self) -> Result<()> {
        let Some(job) = &self.job else { return Ok(()) };
        job.meet(None)?;
        job.mpi.finalize().map_err(Error::Library)
    }

    /// The name of a rank, for messages.
    pub fn name_of(&self, rank: usize) -> String {
        self.job.as_ref().map_or_else(String::new, |job| job.name(rank))
    }
}

/// Ends all processes of the job with this exit code, if this is one of a job; returns if it is not.
pub fn end_all(code: ExitCode) {
    if let Some(job) = JOB.get() {
        job.mpi.abort(code as u8);
    }
}

/// Whether another process of the job says for all of them what went wrong before they met.
pub fn leaves_speaking_to_another() -> bool {
    let launch = Launch::here();
    launch.has_others() && launch.rank.is_some_and(|rank| rank > 0)
}

/// How long the others leave the leader to say what has happened to all of them.
pub const POLITE: Duration = Duration::from_secs(2);

/// Eight bytes as a number.
fn number(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize
}

impl Job {
    fn name(&self, rank: usize) -> String {
        match self.hosts.get().and_then(|hosts| hosts.get(rank)) {
            Some(host) => format!("rank {rank} on {host}"),
            None => format!("rank {rank}"),
        }
    }

    fn all_gather<T: Wire>(&self, data: &mut [T], counts: &[usize]) -> Result<()> {
        self.timed(|| self.mpi.all_gather(data, counts)).map_err(Error::Library)
    }

    /// Counts the time of `work`.
    fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let clock = Instant::now();
        let found = work();
        self.spent.fetch_add(clock.elapsed().as_nanos() as u64, Ordering::Relaxed);
        found
    }

    /// Waits until all ranks are here, without using up the core for long; the operation that follows then waits for nobody.
    fn meet(&self, limit: Option<Duration>) -> Result<()> {
        let mut barrier = self.mpi.barrier().map_err(Error::Library)?;
        match self.timed(|| self.is_done_within(&mut barrier, limit))? {
            true => Ok(()),
            false => self.name_the_silent(&mut barrier),
        }
    }

    fn is_done_within(&self, request: &mut Request, limit: Option<Duration>) -> Result<bool> {
        let start = Instant::now();
        loop {
            if self.mpi.is_done(request).map_err(Error::Library)? {
                return Ok(true);
            }
            let waited = start.elapsed();
            if limit.is_some_and(|limit| waited > limit) {
                return Ok(false);
            }
            match waited {
                short if short < BUSY => std::thread::yield_now(),
                _ => std::thread::sleep(NAP),
            }
        }
    }

    /// The time is up: those who wait tell rank 0, who says which of them it has not heard; where it is rank 0 itself that does
    /// not come, and so has not ended them, the others say that.
    fn name_the_silent(&self, barrier: &mut Request) -> Result<()> {
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let mut missing = Vec::new();
        if rank == 0 {
            let hear = |other| Ok((other, self.mpi.sign_of_life(None, Some(other)).map_err(Error::Library)?));
            for (other, mut request) in (1..size).map(hear).collect::<Result<Vec<_>>>()? {
                if !self.is_done_within(&mut request, Some(POLITE))? {
                    missing.push(other);
                }
            }
        } else {
            self.mpi.sign_of_life(Some(0), None).map_err(Error::Library)?;
            match self.is_done_within(barrier, Some(POLITE * (size as u32 + 3)))? {
                true => return Ok(()),
                false => missing.push(0),
            }
        }
        if missing.is_empty() {
            // All had come to their limit a moment before the last one arrived.
            return match self.is_done_within(barrier, Some(self.limit))? {
                true => Ok(()),
                false => Err(Error::Silent { who: "a rank".to_string(), seconds: self.limit.as_secs() }),
            };
        }
        let who: Vec<String> = missing.iter().map(|&rank| self.name(rank)).collect();
        Err(Error::Silent { who: who.join(", "), seconds: self.limit.as_secs() })
    }
}

/// How long a waiting rank asks all the time.
const BUSY: Duration = Duration::from_millis(20);
/// How long it sleeps between two questions after that.
const NAP: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_everything_is_ones_own() -> Result<()> {
        let world = World::alone();
        assert!(world.leads() && world.is_alone() && world.size() == 1);
        assert_eq!(world.share(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(world.gather(b"a")?, [b"a"]);
        assert_eq!(world.broadcast(b"b".to_vec(), 0)?, b"b");
        assert_eq!((world.most(3)?, world.least(3)?, world.any(false)?), (3, 3, false));
        world.wait()?;
        world.leave()
    }
}
