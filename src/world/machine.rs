//! What the ranks tell each other of themselves: hosts, cores, versions, data. Where they differ, bits may.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Result, World};

/// A process as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that it may use.
    pub cores: usize,
    /// Cores of the host.
    pub cores_of_host: usize,
    /// Of this program.
    pub version: String,
    /// The instructions, or the GPU, that compute.
    pub computed_by: String,
    /// Hash of the config that is in force.
    pub config: String,
    /// Hash of text and tokenizer.
    pub data: String,
}

/// A rank: its host and what it says of itself.
#[derive(Clone, Debug)]
pub struct Mate {
    pub host: String,
    pub machine: Machine,
}

impl World {
    /// What every rank says of itself, by rank.
    ///
    /// # Errors
    /// A rank that does not come; what the library says.
    pub fn mates(&self, own: &Machine) -> Result<Vec<Mate>> {
        let mate = |(rank, machine): (usize, Machine)| {
            let host = self.hosts().get(rank).cloned().unwrap_or_default();
            Mate { host, machine }
        };
        // a share of one thing each
        let all = self.gather_shares(vec![own.clone()], self.size())?;
        Ok(all.into_iter().enumerate().map(mate).collect())
    }

    /// Threads that this rank should compute with where the user names no number: its cores, shared with the other ranks of
    /// the host where the launcher left all of them to each.
    pub fn threads(&self, cores: usize, cores_of_host: usize) -> usize {
        let hosts = self.hosts();
        let own = hosts.get(self.rank());
        let here = hosts.iter().filter(|host| Some(*host) == own).count().max(1);
        match cores == cores_of_host {
            true => (cores / here).max(1),
            false => cores,
        }
    }

    /// Number of this rank among those of its host.
    pub fn rank_on_host(&self) -> usize {
        let hosts = self.hosts();
        hosts.get(self.rank()).map_or(0, |own| hosts[..self.rank()].iter().filter(|host| *host == own).count())
    }

    /// "4 ranks on 2 hosts: a (2), b (2)".
    pub fn told(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for host in self.hosts() {
            *counts.entry(host).or_default() += 1;
        }
        match &counts.iter().collect::<Vec<_>>()[..] {
            [(host, _)] => format!("{} ranks on {host}", self.size()),
            several => {
                let told: Vec<String> = several.iter().map(|(host, count)| format!("{host} ({count})")).collect();
                format!("{} ranks on {} hosts: {}", self.size(), several.len(), told.join(", "))
            }
        }
    }
}

/// Name of this machine in its network.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Ranks whose value differs from that of rank 0.
pub(crate) fn apart<'a, T: PartialEq + 'a>(mates: &'a [Mate], of: impl Fn(&'a Machine) -> &'a T) -> Vec<usize> {
    let Some(first) = mates.first().map(|mate| of(&mate.machine)) else { return Vec::new() };
    mates.iter().enumerate().filter(|(_, mate)| of(&mate.machine) != first).map(|(rank, _)| rank).collect()
}
