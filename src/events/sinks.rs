//! One event to many sinks; a sink that fails is switched off and never stops the run.

use super::{Event, Sink};

/// The sinks of a run, each with the name used in warnings ("metrics.jsonl").
#[derive(Default)]
pub struct Sinks {
    sinks: Vec<(String, Box<dyn Sink>)>,
    step: u64,
}

impl Sinks {
    pub fn new() -> Self {
        Sinks::default()
    }

    /// Adds a sink; sinks get events in the order in which they were added.
    pub fn push(&mut self, name: impl Into<String>, sink: Box<dyn Sink>) {
        self.sinks.push((name.into(), sink));
    }

    /// Gives `event` to every sink. A sink that returns an error is dropped and the others get one warning.
    pub fn emit(&mut self, event: &Event) {
        self.step = event.step().unwrap_or(self.step);
        let mut failures = self.offer(event);
        // A warning can fail too, at most once a sink, because a failed sink is gone.
        while let Some(message) = failures.pop() {
            let warning = Event::Warning { step: self.step, message };
            failures.extend(self.offer(&warning));
        }
    }

    /// The update of the last event that had one.
    pub fn step(&self) -> u64 {
        self.step
    }

    fn offer(&mut self, event: &Event) -> Vec<String> {
        let mut failures = Vec::new();
        self.sinks.retain_mut(|(name, sink)| match sink.emit(event) {
            Ok(()) => true,
            Err(error) => {
                failures.push(format!("{name} can not be written and is switched off: {error}"));
                false
            }
        });
        failures
    }
}

impl Event {
    /// The update the event belongs to, when it has one.
    pub fn step(&self) -> Option<u64> {
        match self {
            Event::Start(e) => Some(e.step),
            Event::Progress(e) => Some(e.step),
            Event::Train(e) => Some(e.step),
            Event::Valid(e) => Some(e.step),
            Event::Average(e) => Some(e.step),
            Event::Checkpoint { step, .. } | Event::Returned { step } | Event::Warning { step, .. } => Some(*step),
            Event::End(e) => Some(e.step),
            Event::Phase { .. } | Event::Note(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Progress;
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    struct Recorder(Arc<Mutex<Vec<String>>>);

    impl Sink for Recorder {
        fn emit(&mut self, event: &Event) -> io::Result<()> {
            let text = match event {
                Event::Warning { step, message } => format!("{step} {message}"),
                Event::Note(text) => text.clone(),
                _ => String::new(),
            };
            self.0.lock().unwrap().push(text);
            Ok(())
        }
    }

    struct FailsAt(usize);

    impl Sink for FailsAt {
        fn emit(&mut self, _: &Event) -> io::Result<()> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("disk full"))?;
            Ok(())
        }
    }

    #[test]
    fn a_failing_sink_becomes_one_warning_on_the_others_and_is_dropped() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut sinks = Sinks::new();
        sinks.push("plots", Box::new(FailsAt(1)));
        sinks.push("log", Box::new(Recorder(Arc::clone(&seen))));
        sinks.emit(&Event::Progress(Progress { step: 7, ..Progress::default() }));
        sinks.emit(&Event::Note("a".into()));
        sinks.emit(&Event::Note("b".into()));
        let expected = ["", "a", "7 plots can not be written and is switched off: disk full", "b"];
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[test]
    fn the_warning_about_one_sink_may_make_another_fail() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut sinks = Sinks::new();
        sinks.push("one", Box::new(FailsAt(0)));
        sinks.push("two", Box::new(FailsAt(1)));
        sinks.push("log", Box::new(Recorder(Arc::clone(&seen))));
        sinks.emit(&Event::Note("a".into()));
        assert_eq!(seen.lock().unwrap().len(), 3);
        assert_eq!(sinks.sinks.len(), 1);
    }
}
