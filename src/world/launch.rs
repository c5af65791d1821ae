//! What a launcher says of a job in the environment, before any library is loaded.

use std::env;
use std::sync::OnceLock;

/// Variables by which a launcher of MPI is seen: Open MPI's, that of PMIx (Slurm's `--mpi=pmix` too), that of MPICH's kin.
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"];
/// Where they tell how many processes there are.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Where they tell which one this is.
const RANKS: [&str; 4] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"];

/// A job as its launcher describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Launch {
    /// Whether a launcher of MPI is there.
    pub(super) seen: bool,
    /// Processes, where it says so.
    pub(super) size: Option<usize>,
    /// Number of this process, where it says so.
    pub(super) rank: Option<usize>,
    /// Whether MPICH's kin is the first guess.
    pub(super) mpich: bool,
    /// Whether Slurm started several tasks.
    pub(super) slurm: bool,
}

impl Launch {
    /// Of this process, as its environment was before any library: one that finds no launcher of its own kind writes there.
    pub(super) fn here() -> &'static Self {
        static HERE: OnceLock<Launch> = OnceLock::new();
        HERE.get_or_init(|| Self::of(&|name| env::var(name).ok()))
    }

    fn of(value: &dyn Fn(&str) -> Option<String>) -> Self {
        let number = |name: &&str| value(name)?.parse().ok();
        let tasks: Option<usize> = number(&"SLURM_STEP_NUM_TASKS");
        Launch {
            seen: LAUNCHERS.iter().any(|name| value(name).is_some()),
            size: SIZES.iter().find_map(number),
            rank: RANKS.iter().find_map(number),
            mpich: value("PMI_RANK").is_some() && value("OMPI_COMM_WORLD_SIZE").is_none(),
            slurm: tasks.is_some_and(|tasks| tasks > 1),
        }
    }

    /// Whether there are, or may be, other processes of this job.
    pub(super) fn has_others(&self) -> bool {
        (self.seen || self.slurm) && self.size != Some(1)
    }

    /// What is wrong where the library sees `size` processes, if anything is.
    pub(super) fn fault(&self, size: usize) -> Option<String> {
        let expected = self.size.filter(|&expected| expected != size)?;
        let cure = match self.slurm {
            true => "start it with srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH), as `srun --mpi=list` has it",
            false => "the launcher and the library are of two kinds: name the library of this launcher in NMT_MPI_LIB, or use \
                      the launcher of this library",
        };
        Some(format!("the launcher started {expected} processes, the MPI library sees {size}; {cure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Launch {
        Launch::of(&|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn launchers_are_told_apart_and_nothing_is_no_launcher() {
        assert!(!of(&[]).has_others());
        assert!(!of(&[("SLURM_STEP_NUM_TASKS", "1"), ("PMIX_RANK", "0")]).has_others());
        let open = of(&[("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_RANK", "3"), ("PMI_RANK", "3")]);
        assert_eq!((open.has_others(), open.size, open.mpich), (true, Some(4), false));
        let mpich = of(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]);
        assert_eq!((mpich.has_others(), mpich.size, mpich.mpich), (true, Some(2), true));
        let pmix = of(&[("PMIX_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "8")]);
        assert_eq!((pmix.has_others(), pmix.size), (true, Some(8)));
        assert!(of(&[("SLURM_STEP_NUM_TASKS", "2")]).has_others(), "srun without MPI: two processes of one run");
    }

    #[test]
    fn sizes_that_differ_are_a_fault_with_a_cure() {
        let mpich = of(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]);
        assert_eq!(mpich.fault(2), None);
        assert!(mpich.fault(1).is_some_and(|told| told.contains("2 processes") && told.contains("NMT_MPI_LIB")));
        let slurm = of(&[("SLURM_STEP_NUM_TASKS", "2")]);
        assert!(slurm.fault(1).is_some_and(|told| told.contains("srun --mpi=pmix")));
    }
}
