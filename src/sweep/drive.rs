//! The runs of a sweep as processes: started, watched, asked to stop, counted.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use super::signals::Signals;
use super::{Folder, Options, RunLine, State};
use crate::events::console::Console;
use crate::exit::ExitCode;
use crate::run::rows;
use crate::{fsio, shell, units};

/// Between two looks at the runs.
const LOOK: Duration = Duration::from_millis(100);
/// Between two drawings of the live line, for which files are read.
const DRAW: Duration = Duration::from_secs(1);
/// Several runs take turns on the live line.
const TURN_SECONDS: u64 = 4;
/// Of a run whose process could not be started, as in a shell.
const NOT_STARTED: i32 = 127;

const DONE: i32 = ExitCode::Success as i32;
const DIVERGED: i32 = ExitCode::Diverged as i32;
const INTERRUPTED: i32 = ExitCode::Interrupted as i32;

/// What became of the runs of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub runs: usize,
    /// To their end, or until they diverged.
    pub finished: usize,
    pub diverged: usize,
    pub running: usize,
    pub failed: usize,
    pub interrupted: usize,
    pub elsewhere: usize,
    /// Whether a signal asked to stop.
    pub stopped: bool,
}

impl Tally {
    fn count(&mut self, state: &State) {
        match state {
            State::Done => self.finished += 1,
            State::Diverged => {
                self.finished += 1;
                self.diverged += 1;
            }
            State::Failed(_) => self.failed += 1,
            State::Interrupted => self.interrupted += 1,
            State::Elsewhere(_) => self.elsewhere += 1,
            State::New | State::Lost => {}
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} of {} done", self.finished, self.runs)?;
        let others = [
            (self.running, "running"),
            (self.diverged, "of them diverged"),
            (self.failed, "failed"),
            (self.elsewhere, "running elsewhere"),
        ];
        others.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, what)| write!(f, ", {n} {what}"))
    }
}

/// Trains the runs that are due, in order, and returns when none is left or a signal asked to stop and all have saved.
///
/// # Errors
/// When signal handlers can not be installed; what goes wrong with a run is told and counted.
pub fn drive(runs: &[RunLine], options: &Options, console: &mut Console) -> io::Result<Tally> {
    let now = Instant::now();
    let mut sweep = Sweep {
        options,
        console,
        signals: Signals::install()?,
        waiting: runs.iter(),
        active: Vec::new(),
        tally: Tally { runs: runs.len(), ..Tally::default() },
        given: 0.0,
        since: now,
        drawn: now,
    };
    loop {
        sweep.pass_signals();
        sweep.collect_ended();
        sweep.start_due();
        if sweep.active.is_empty() {
            return Ok(Tally { stopped: sweep.signals.stopping(), ..sweep.tally });
        }
        sweep.draw();
        std::thread::sleep(LOOK);
    }
}

struct Sweep<'a> {
    options: &'a Options,
    console: &'a mut Console,
    signals: Signals,
    waiting: std::slice::Iter<'a, RunLine>,
    active: Vec<Running<'a>>,
    tally: Tally,
    /// Runs' worth of updates that were made before, for the time that is left.
    given: f64,
    since: Instant,
    drawn: Instant,
}

/// A process that trains.
struct Running<'a> {
    run: &'a RunLine,
    folder: Folder,
    process: Child,
    since: Instant,
    /// Where its own part of the log begins, in bytes.
    log_from: u64,
}

impl<'a> Sweep<'a> {
    fn pass_signals(&mut self) {
        if !self.signals.asked() || self.active.is_empty() {
            return;
        }
        self.tell(&format!("stopping: {} running; a second signal ends them at once", self.active.len()));
        for running in &self.active {
            let _ = kill_process(Pid::from_child(&running.process), Signal::TERM);
        }
    }

    fn collect_ended(&mut self) {
        let (mut still, active) = (Vec::new(), std::mem::take(&mut self.active));
        for mut running in active {
            match running.process.try_wait() {
                Ok(None) => still.push(running),
                Ok(Some(status)) => self.ended(&running, code(status)),
                Err(_) => self.ended(&running, NOT_STARTED),
            }
        }
        self.active = still;
    }

    fn ended(&mut self, running: &Running, code: i32) {
        let Running { run: RunLine { name, .. }, folder, .. } = running;
        let took = units::duration(running.since.elapsed().as_secs_f64());
        let said = || last_line(&folder.log(), running.log_from).unwrap_or_else(|| "it said nothing".to_string());
        let (state, line) = match code {
            DONE => (State::Done, format!("done     {name}: {}{took}", scores(&folder.final_json()))),
            DIVERGED => (State::Diverged, format!("diverged {name}: {took}")),
            _ if code == INTERRUPTED || code > 128 && self.signals.stopping() => {
                (State::Interrupted, format!("stopped  {name}: {took}"))
            }
            _ => match folder.holder() {
                Some(holder) => (State::Elsewhere(holder), format!("running elsewhere: {name}: {}", said())),
                None => {
                    let log = folder.log();
                    (State::Failed(code), format!("failed   {name}: exit code {code}, {}: {}", log.display(), said()))
                }
            },
        };
        self.became(folder, &state, &line);
    }

    /// Tells, counts and keeps how a run ended.
    fn became(&mut self, folder: &Folder, state: &State, line: &str) {
        match state {
            State::Failed(_) => self.console.warn(line),
            _ => self.tell(line),
        }
        self.tally.count(state);
        let kept = if matches!(state, State::Elsewhere(_)) { Ok(()) } else { folder.record(state) };
        if let Err(error) = kept {
            self.console.warn(&format!("warning: {error}"));
        }
    }

    fn start_due(&mut self) {
        while !self.signals.stopping() && self.active.len() < self.options.jobs {
            let Some(run) = self.waiting.next() else { return };
            let folder = Folder::of(run, self.options);
            let state = folder.state();
            if state.is_due(self.options.retry) {
                self.start(run, folder, &state);
            } else {
                self.tally.count(&state);
                match state {
                    State::Done | State::Diverged => self.given += 1.0,
                    State::Elsewhere(holder) => self.tell(&format!("running elsewhere: {}: {holder}", run.name)),
                    _ => {}
                }
            }
        }
    }

    fn start(&mut self, run: &'a RunLine, folder: Folder, state: &State) {
        let goes_on = folder.goes_on(state);
        match spawn(run, &folder, &folder.command(run, state, self.options)) {
            Ok((process, log_from)) => {
                let running = Running { run, folder, process, since: Instant::now(), log_from };
                self.given += if goes_on { running.progress().2 } else { 0.0 };
                // on a terminal the live line shows it
                if !self.console.is_live() {
                    self.tell(&format!("{}  {}", if goes_on { "resumed" } else { "started" }, run.name));
                }
                self.active.push(running);
            }
            Err(error) => {
                self.became(&folder, &State::Failed(NOT_STARTED), &format!("failed   {}: {error}", run.name));
            }
        }
    }

    /// `12 of 40 done, 2 running, 1 failed | name=adam,lr=2e-3 step 350/1000 | ETA 1 h 12 min`
    fn draw(&mut self) {
        if !self.console.is_live() || self.drawn.elapsed() < DRAW {
            return;
        }
        self.drawn = Instant::now();
        let elapsed = self.since.elapsed().as_secs_f64();
        let progress: Vec<(u64, u64, f64)> = self.active.iter().map(Running::progress).collect();
        let here: f64 = progress.iter().map(|(_, _, share)| share).sum();
        let made = self.tally.finished as f64 + here - self.given;
        let left = (self.waiting.len() + self.active.len()) as f64 - here;
        let turn = (elapsed as u64 / TURN_SECONDS) as usize % self.active.len();
        let (name, (step, updates, _)) = (&self.active[turn].run.name, progress[turn]);
        let eta = match (self.signals.stopping(), made > 0.02) {
            (true, _) => " | saving and stopping; once more ends at once".to_string(),
            (false, true) => format!(" | ETA {}", units::duration(left * elapsed / made)),
            (false, false) => String::new(),
        };
        let tally = Tally { running: self.active.len(), ..self.tally };
        let share = 1.0 - left / tally.runs as f64;
        self.console.work(Some(share), format!("{tally} | {name} step {step}/{updates}{eta}"));
    }

    fn tell(&mut self, line: &str) {
        self.console.tell(line);
    }
}

impl Running<'_> {
    /// Updates made, updates in all (0 = not known), share.
    fn progress(&self) -> (u64, u64, f64) {
        let (step, updates) = rows::progress(&self.folder.paths().metrics()).unwrap_or_default();
        let share = if updates > 0 { (step as f64 / updates as f64).min(1.0) } else { 0.0 };
        (step, updates, share)
    }
}

/// Starts a process; also returns where its part of the log begins.
fn spawn(run: &RunLine, folder: &Folder, words: &[String]) -> fsio::Result<(Child, u64)> {
    folder.begin(run)?;
    let path = folder.log();
    let mut log = fsio::open_to_append(&path)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = writeln!(log, "{} $ {}", units::timestamp(now), shell::command(words)).and_then(|()| log.metadata());
    let log_from = written.map_err(|e| fsio::Error::io("write", &path, e))?.len();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Ctrl-C of the terminal reaches the sweep alone, which passes it on once: a run takes a second one for haste.
    let process = command.process_group(0).spawn();
    Ok((process.map_err(|e| fsio::Error::io("start", Path::new(&words[0]), e))?, log_from))
}

/// As a shell counts.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// What a process said last.
fn last_line(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).lines().last()?.to_string())
}

/// `best_nll 2.0701, test_bleu 31.40, `, as far as known.
fn scores(final_json: &Path) -> String {
    let end: Value =
        fsio::read(final_json).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let score = |key: &str, digits: usize| Some(format!("{key} {:.digits$}, ", end.get(key)?.as_f64()?));
    [score("best_nll", 4), score("test_bleu", 2)].into_iter().flatten().collect()
}
