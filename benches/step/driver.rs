//! The driver: starts the candidates, lets them work in turn, gathers their figures.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde::Deserialize;

use crate::machine::{self, Watch};
use crate::shape::Shape;
use crate::table::{self, Roof, Row};
use crate::Args;

/// Seconds a roof is measured for, on one thread and on all, every round.
const ROOF_SECONDS: f64 = 0.3;

/// Runs all rounds and prints the table.
pub(crate) fn drive(args: &Args, shape: &Shape) -> Result<()> {
    let mut candidates = candidates(args, shape)?;
    let parameters: Vec<u64> = candidates.iter().map(|candidate| candidate.ready.parameters).collect();
    if parameters.windows(2).any(|pair| pair[0] != pair[1]) {
        eprintln!("warning: the candidates differ in their number of parameters: {parameters:?}");
    }
    let processes: Vec<u32> = candidates.iter().map(|candidate| candidate.child.id()).collect();
    let mut patience = Duration::from_secs(args.patience);
    let (mut roofs, mut busiest): (Vec<Roof>, f64) = (Vec::new(), 0.0);
    while roofs.len() < args.rounds {
        let start = Instant::now();
        let quiet = machine::wait_for_quiet(&processes, patience);
        let mut watch = Watch::start(processes.clone());
        let roof = Roof { one: roof(1), all: roof(args.threads) };
        let mut share = watch.share();
        let (round, count) = (roofs.len(), candidates.len());
        for i in 0..count {
            watch = Watch::start(processes.clone());
            candidates[(i + round) % count].work(args.steps)?;
            share = share.max(watch.share());
        }
        let seconds: Vec<String> =
            candidates.iter().map(|c| c.row.seconds.last().map_or(String::new(), |s| format!("{s:.3}"))).collect();
        let repeat = share > machine::QUIET && !patience.is_zero();
        eprintln!(
            "round {}: {} s, roof {:.0} GFLOP/s, others {:.0} %{}",
            round + 1,
            seconds.join(" "),
            roof.all,
            100.0 * share,
            if repeat { ": not counted" } else { "" }
        );
        if repeat {
            candidates.iter_mut().for_each(Candidate::forget);
        } else {
            roofs.push(roof);
            busiest = busiest.max(share);
        }
        if repeat || !quiet {
            patience = patience.saturating_sub(start.elapsed());
        }
    }
    if busiest > machine::QUIET {
        eprintln!("warning: other processes took up to {:.0} % of the machine: measure again", 100.0 * busiest);
    }
    let rows: Vec<Row> = candidates.into_iter().map(Candidate::finish).collect::<Result<_>>()?;
    table::print(shape, args.threads, &roofs, &rows, busiest);
    Ok(())
}

/// GFLOP/s of `threads` threads at once.
fn roof(threads: usize) -> f64 {
    let workers: Vec<_> = (0..threads).map(|_| std::thread::spawn(|| nmt_train::ops::fma_roof(ROOF_SECONDS))).collect();
    workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
}

/// Ours first, then PyTorch, then other builds; each has warmed up alone.
fn candidates(args: &Args, shape: &Shape) -> Result<Vec<Candidate>> {
    let server = |executable: &Path| {
        let mut command = Command::new(executable);
        command.arg("--serve");
        command
    };
    let mut commands = vec![("nmt-train".to_string(), server(&std::env::current_exe()?))];
    if let Some(python) = &args.python {
        // as cargo gives it, for a build that was carried elsewhere
        let project = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
        let peer = Path::new(&project).join("benches/peers/torch_step.py");
        for (name, flag) in [(table::EAGER, None), ("torch.compile", Some("--compile"))] {
            if flag.is_none() || args.compile {
                let mut command = Command::new(python);
                command.arg(&peer).args(flag);
                commands.push((name.to_string(), command));
            }
        }
    }
    for (i, other) in args.other.iter().enumerate() {
        commands.push((format!("other {}", i + 1), server(other)));
    }
    let start = |(name, mut command): (String, Command)| {
        command.args(shape.arguments()).args(["--threads", &args.threads.to_string()]);
        if (args.device.as_str(), args.precision.as_str()) != ("cpu", "f32") {
            // earlier builds know neither
            command.args(["--device", &args.device, "--precision", &args.precision]);
        }
        Candidate::start(name, command)
    };
    commands.into_iter().map(start).collect()
}

/// A process that does steps when told to.
struct Candidate {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    ready: Ready,
    row: Row,
}

#[derive(Deserialize)]
struct Ready {
    version: String,
    parameters: u64,
    base_rss_mib: f64,
    threads: usize,
}

#[derive(Deserialize)]
struct Steps {
    seconds: Vec<f64>,
    loss: f64,
    peak_rss_mib: f64,
}

impl Candidate {
    /// Starts it and waits until it has warmed up.
    fn start(name: String, mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| name.clone())?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        let mut stdout = BufReader::new(stdout);
        let ready: Ready = answer(&mut stdout).with_context(|| name.clone())?;
        eprintln!("{name}: {}, {} threads, {} parameters", ready.version, ready.threads, ready.parameters);
        let row = Row {
            name,
            version: ready.version.clone(),
            seconds: Vec::new(),
            base_mib: ready.base_rss_mib,
            peak_mib: 0.0,
            loss: 0.0,
        };
        Ok(Candidate { child, stdin, stdout, ready, row })
    }

    /// One round.
    fn work(&mut self, steps: usize) -> Result<()> {
        writeln!(self.stdin, "{steps}")?;
        let steps: Steps = answer(&mut self.stdout).with_context(|| self.row.name.clone())?;
        self.row.seconds.push(table::median(&steps.seconds));
        self.row.peak_mib = steps.peak_rss_mib;
        self.row.loss = steps.loss;
        Ok(())
    }

    /// The last round does not count.
    fn forget(&mut self) {
        self.row.seconds.pop();
    }

    fn finish(mut self) -> Result<Row> {
        writeln!(self.stdin, "quit")?;
        self.child.wait()?;
        Ok(self.row)
    }
}

/// The next line of JSON; what libraries print besides is skipped.
fn answer<T: for<'de> Deserialize<'de>>(stdout: &mut impl BufRead) -> Result<T> {
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line)? == 0 {
            bail!("the process ended without an answer; its message is above");
        }
        if line.starts_with('{') {
            return Ok(serde_json::from_str(&line)?);
        }
    }
}
