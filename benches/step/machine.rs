//! What else the machine does meanwhile (Linux): thread pools that spin at barriers, as PyTorch's, slow down tenfold
//! when they get too few cores, so a ratio means nothing on a busy machine.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// A share of the cores' time that others may take.
pub(crate) const QUIET: f64 = 0.05;

/// Seconds a clock tick of /proc (`USER_HZ` is 100 on every Linux).
const TICK: f64 = 0.01;

/// Begins to watch the processor time that neither this process nor `own` uses.
pub(crate) struct Watch {
    own: Vec<u32>,
    start: Instant,
    others: Option<f64>,
}

impl Watch {
    pub(crate) fn start(own: Vec<u32>) -> Self {
        Watch { others: others(&own), own, start: Instant::now() }
    }

    /// Share of all cores' time since the start that went elsewhere; 0 where the system does not tell.
    pub(crate) fn share(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        match (self.others, others(&self.own)) {
            (Some(before), Some(now)) => (now - before).max(0.0) / (self.start.elapsed().as_secs_f64() * cores),
            _ => 0.0,
        }
    }
}

/// Waits until a second is quiet; gives up after `patience`. Returns whether it is.
pub(crate) fn wait_for_quiet(own: &[u32], patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        let watch = Watch::start(own.to_vec());
        std::thread::sleep(Duration::from_secs(1));
        if watch.share() < QUIET {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
    }
}

/// Processor time of everything but this process and `own`, in seconds; time taken by other virtual machines counts.
fn others(own: &[u32]) -> Option<f64> {
    let stat = read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&field| ticks.get(field)).sum();
    let used: f64 = own.iter().chain([&std::process::id()]).filter_map(|&process| used(process)).sum();
    Some(busy * TICK - used)
}

/// Processor time of all threads of a process so far, in seconds.
fn used(process: u32) -> Option<f64> {
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    // after the name, which may hold anything: state is field 3, user and system time are 14 and 15
    let ticks: Vec<f64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).map_while(|t| t.parse().ok()).collect();
    Some(ticks.iter().sum::<f64>() * TICK)
}
