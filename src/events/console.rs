//! The run as a person watches it, on stderr: a live line on a terminal, plain lines in a log, lasting lines for what
//! matters. The only file that knows indicatif.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::lines::{self, Style};
use super::{Event, Progress, Sink};
use crate::scores::Scores;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// Colours on a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    fn enabled(self, terminal: bool) -> bool {
        match self {
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            Color::Always => true,
            Color::Never => false,
        }
    }
}

/// Redraws of the live line a second, at most.
const REDRAWS: u8 = 8;
/// A log gets a line about a long phase no more often than this.
const PHASE_INTERVAL: Duration = Duration::from_secs(30);

/// Prints events to stderr.
pub struct Console {
    screen: Screen,
    style: Style,
    /// Warnings only.
    quiet: bool,
    warned: BTreeSet<String>,
    best: Scores,
    progress: Progress,
    last_phase: Instant,
}

/// Where lines go.
enum Screen {
    /// Lasting lines above one live line.
    Terminal { bar: ProgressBar, limited: Option<bool> },
    /// Lines only.
    Plain(Box<dyn Write + Send>),
}

impl Console {
    /// To stderr; `quiet` leaves warnings only.
    pub fn new(color: Color, quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let style = Style { color: color.enabled(terminal) };
        let screen = if terminal && !quiet {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
            Screen::Terminal { bar: ProgressBar::with_draw_target(None, target), limited: None }
        } else {
            Screen::Plain(Box::new(io::stderr()))
        };
        Console::with_screen(screen, style, quiet)
    }

    fn with_screen(screen: Screen, style: Style, quiet: bool) -> Self {
        let progress = Progress::default();
        Console {
            screen,
            style,
            quiet,
            warned: BTreeSet::new(),
            best: Scores::default(),
            progress,
            last_phase: Instant::now(),
        }
    }

    /// Whether there is a live line.
    pub fn is_live(&self) -> bool {
        matches!(self.screen, Screen::Terminal { .. })
    }

    /// A lasting line, unless quiet. Nobody can be told that stderr is closed.
    pub fn tell(&mut self, line: &str) {
        let _ = self.emit(&Event::Note(line.to_string()));
    }

    /// A lasting line, also when quiet.
    pub fn warn(&mut self, line: &str) {
        let _ = self.print(&[line.to_string()]);
    }

    /// The live line of other work than training, of which this share is done, if it is known.
    pub fn work(&mut self, share: Option<f64>, text: String) {
        const PARTS: u64 = 1000;
        self.progress.step = (share.unwrap_or(0.0) * PARTS as f64) as u64;
        self.progress.max_updates = if share.is_some() { PARTS } else { 0 };
        self.live(text);
    }

    fn print(&mut self, lines: &[String]) -> io::Result<()> {
        match &mut self.screen {
            Screen::Terminal { bar, .. } => bar.println(lines.join("\n")),
            Screen::Plain(out) => {
                let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
        }
        Ok(())
    }

    fn live(&mut self, message: String) {
        let Screen::Terminal { bar, limited } = &mut self.screen else { return };
        let max = self.progress.max_updates;
        if *limited != Some(max > 0) {
            *limited = Some(max > 0);
            bar.set_style(live_style(max > 0));
        }
        if max > 0 {
            bar.set_length(max);
        }
        bar.set_position(self.progress.step);
        bar.set_message(message);
    }

    fn phase(&mut self, name: &str, done: f64) -> io::Result<()> {
        let percent = (done.clamp(0.0, 1.0) * 100.0).floor();
        let text = format!("{name} {percent:.0} %");
        if matches!(self.screen, Screen::Terminal { .. }) {
            let step = self.style.bold(&format!("step {}", self.progress.step));
            self.live(format!("{step}  {text}"));
            return Ok(());
        }
        if self.last_phase.elapsed() < PHASE_INTERVAL {
            return Ok(());
        }
        self.last_phase = Instant::now();
        self.print(&[self.style.dim(&text)])
    }

    fn clear_live_line(&self) {
        if let Screen::Terminal { bar, .. } = &self.screen {
            bar.finish_and_clear();
        }
    }
}

/// A bar that knows its end, or a spinner.
fn live_style(limited: bool) -> ProgressStyle {
    let template = if limited { "{bar:16.cyan/dim} {wide_msg}" } else { "{spinner:.cyan} {wide_msg}" };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━╸─")
}

impl Sink for Console {
    fn emit(&mut self, event: &Event) -> io::Result<()> {
        let style = self.style;
        if let Event::Warning { step, message } = event {
            if !self.warned.insert(message.clone()) {
                return Ok(());
            }
            let line = format!("{} step {step}: {message}", style.yellow("warning:"));
            return self.print(&[line]);
        }
        if self.quiet {
            return Ok(());
        }
        match event {
            Event::Start(start) => self.print(&lines::preflight(start, style)),
            Event::Progress(progress) => {
                self.progress = progress.clone();
                if matches!(self.screen, Screen::Terminal { .. }) {
                    self.live(lines::progress(progress, style));
                }
                Ok(())
            }
            Event::Train(point) => {
                if matches!(self.screen, Screen::Terminal { .. }) {
                    return Ok(());
                }
                let line = lines::train(point, self.progress.max_updates, self.progress.eta, style);
                self.print(&[line])
            }
            Event::Phase { name, done } => self.phase(name, *done),
            Event::Valid(point) => {
                let lines = lines::valid(point, &mut self.best, style);
                self.print(&lines)
            }
            Event::Average(point) => self.print(&[lines::average(point, style)]),
            Event::Checkpoint { step, path, seconds_save } => {
                self.print(&[lines::checkpoint(*step, path, *seconds_save, style)])
            }
            Event::Note(text) => self.print(std::slice::from_ref(text)),
            Event::End(end) => {
                // The last screen goes to a terminal whose live line is gone.
                self.clear_live_line();
                if matches!(self.screen, Screen::Terminal { .. }) {
                    self.screen = Screen::Plain(Box::new(io::stderr()));
                }
                self.print(&lines::end(end, style))
            }
            Event::Returned { .. } => {
                self.best = Scores::default();
                Ok(())
            }
            Event::Warning { .. } => Ok(()),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.clear_live_line();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TrainPoint, ValidPoint};
    use super::*;
    use crate::scores::Metric;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_of(quiet: bool, events: &[Event]) -> String {
        let buffer = Buffer::default();
        let screen = Screen::Plain(Box::new(buffer.clone()));
        let mut console = Console::with_screen(screen, Style { color: false }, quiet);
        events.iter().for_each(|event| console.emit(event).unwrap());
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn events() -> Vec<Event> {
        let warning = |step| Event::Warning { step, message: "lower the rate".into() };
        vec![
            Event::Progress(Progress { step: 99, max_updates: 200, eta: Some(10.0), ..Progress::default() }),
            Event::Train(TrainPoint {
                step: 100,
                epoch: 1,
                loss: 4.5,
                tokens_per_second: 12_345.6,
                ..Default::default()
            }),
            Event::Phase { name: "validating", done: 0.3 },
            warning(100),
            warning(101),
            Event::Valid(ValidPoint {
                step: 100,
                scores: [(Metric::Nll, 4.0)].into_iter().collect(),
                is_best: true,
                ..Default::default()
            }),
        ]
    }

    #[test]
    fn a_log_has_a_line_for_each_point_and_each_warning_once() {
        let log = log_of(false, &events());
        let expected = "step 100/200  epoch 1  loss 4.500  nll 0.000  12 346 tok/s  lr 0.00e0  grad 0.000  ETA 10 s\n\
                        warning: step 100: lower the rate\n\
                        valid  step 100  nll 4.0000  ppl 54.598  0 s  best\n";
        assert_eq!(log, expected);
    }

    #[test]
    fn quiet_leaves_warnings_only() {
        assert_eq!(log_of(true, &events()), "warning: step 100: lower the rate\n");
    }

    #[test]
    fn colours_follow_the_choice() {
        assert!(Color::Always.enabled(false) && !Color::Never.enabled(true) && !Color::Auto.enabled(false));
    }
}
