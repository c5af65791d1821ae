//! The driver: starts the candidates, lets them work in turn, gathers their figures.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{bail, Context, Result};
use serde::Deserialize;

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
    let mut roofs = Vec::new();
    for round in 0..args.rounds {
        roofs.push(Roof { one: roof(1), all: roof(args.threads) });
        for i in 0..candidates.len() {
            let i = (i + round) % candidates.len();
            candidates[i].work(args.steps)?;
        }
        let seconds: Vec<String> = candidates.iter().map(|c| format!("{:.3}", c.row.seconds[round])).collect();
        eprintln!("round {}: {} s, roof {:.0} GFLOP/s", round + 1, seconds.join(" "), roofs[round].all);
    }
    let rows: Vec<Row> = candidates.into_iter().map(Candidate::finish).collect::<Result<_>>()?;
    table::print(shape, args.threads, &roofs, &rows);
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
        let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/torch_step.py");
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
