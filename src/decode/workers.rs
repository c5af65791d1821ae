//! Batches shared by threads: each worker takes the next one and computes it alone.
//!
//! Steps of decoding are too small to be shared: on two threads a batch is hardly quicker than on one. Which sentences come
//! together is decided before, and a batch has the same bits on any number of threads, so nothing depends on their number.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use candle_core::Error;
use rayon::ThreadPoolBuilder;

use super::{DecodeError, Result};
use crate::model::Model;

/// Between two looks at `stop` while no worker says anything.
const POLL: Duration = Duration::from_millis(20);

/// What a batch asks and tells while it is computed.
pub(super) trait Watch {
    /// Whether to give up. It is asked at every step.
    fn stopped(&self) -> bool;
    /// So many more sentences are done.
    fn done(&self, sentences: usize);
}

/// `compute(i)` of each batch, in their order; `on_progress` gets the sentences done, beginning with `before`, on this thread,
/// and `stop` is asked on it.
///
/// One batch uses all threads of the rayon pool; of several, each has one, or its share where there are more threads than
/// batches. On a GPU batches come one after the other.
///
/// # Errors
/// [`DecodeError::Stopped`] when `stop` said so, and the first of the batches' errors; the others are then given up.
///
/// # Panics
/// As a batch panics.
pub(super) fn run<R: Send>(
    models: &[&dyn Model],
    batches: usize,
    before: usize,
    compute: impl Fn(usize, &dyn Watch) -> Result<R> + Sync,
    on_progress: &mut dyn FnMut(usize),
    stop: &dyn Fn() -> bool,
) -> Result<Vec<R>> {
    let threads = rayon::current_num_threads();
    let on_cpu = models.iter().all(|model| model.params().device().is_cpu());
    if batches <= 1 || threads == 1 || !on_cpu {
        let here = std::cell::RefCell::new((before, on_progress));
        let watch = Here { stop, done: &here };
        return (0..batches).map(|i| compute(i, &watch)).collect();
    }
    let (next, given_up) = (AtomicUsize::new(0), AtomicBool::new(false));
    let workers = threads.min(batches);
    let work = |share: usize, said: &Sender<Said<R>>| {
        let watch = There { given_up: &given_up, said };
        let _panics = Unwinding(&given_up);
        let pool = ThreadPoolBuilder::new().num_threads(share);
        let all = || {
            while !given_up.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= batches {
                    break;
                }
                let result = compute(i, &watch);
                given_up.fetch_or(result.is_err(), Ordering::Relaxed);
                let _gone = said.send(Said::Result(i, result));
            }
        };
        if let Err(error) = pool.build_scoped(|thread| thread.run(), |pool| pool.install(all)) {
            given_up.store(true, Ordering::Relaxed);
            let error = DecodeError::Candle(Error::wrap(error));
            let _gone = said.send(Said::Result(batches, Err(error)));
        }
    };
    thread::scope(|scope| {
        let (sender, said) = channel();
        let spawned: Vec<_> = shares(threads, workers)
            .map(|share| {
                let sender = sender.clone();
                scope.spawn(move || work(share.len(), &sender))
            })
            .collect();
        drop(sender);
        let results = listen(&said, before, on_progress, stop, &given_up);
        for worker in spawned {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        results
    })
}

/// Threads of each worker.
fn shares(threads: usize, workers: usize) -> impl Iterator<Item = Range<usize>> {
    (0..workers).map(move |i| threads * i / workers..threads * (i + 1) / workers)
}

/// What a worker says.
enum Said<R> {
    Done(usize),
    Result(usize, Result<R>),
}

/// Until all workers are through: results in order of their batches.
fn listen<R>(
    said: &Receiver<Said<R>>,
    before: usize,
    on_progress: &mut dyn FnMut(usize),
    stop: &dyn Fn() -> bool,
    given_up: &AtomicBool,
) -> Result<Vec<R>> {
    let (mut done, mut stopped, mut results) = (before, false, Vec::new());
    loop {
        match said.recv_timeout(POLL) {
            Ok(Said::Done(sentences)) => {
                done += sentences;
                on_progress(done);
            }
            Ok(Said::Result(i, result)) => results.push((i, result)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if !stopped && stop() {
            stopped = true;
            given_up.store(true, Ordering::Relaxed);
        }
    }
    if stopped {
        return Err(DecodeError::Stopped);
    }
    results.sort_by_key(|&(i, _)| i);
    // a batch that was given up for another's error says that it was stopped
    match results.iter().position(|(_, result)| result.as_ref().is_err_and(|e| !matches!(e, DecodeError::Stopped))) {
        Some(fault) => results.swap_remove(fault).1.map(|_| Vec::new()),
        None => results.into_iter().map(|(_, result)| result).collect(),
    }
}

/// Of a batch on the caller's thread.
struct Here<'a, 'b> {
    stop: &'a dyn Fn() -> bool,
    done: &'a std::cell::RefCell<(usize, &'b mut dyn FnMut(usize))>,
}

impl Watch for Here<'_, '_> {
    fn stopped(&self) -> bool {
        (self.stop)()
    }

    fn done(&self, sentences: usize) {
        let (done, on_progress) = &mut *self.done.borrow_mut();
        *done += sentences;
        on_progress(*done);
    }
}

/// Of a batch on a worker's.
struct There<'a, R> {
    given_up: &'a AtomicBool,
    said: &'a Sender<Said<R>>,
}

impl<R> Watch for There<'_, R> {
    fn stopped(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn done(&self, sentences: usize) {
        let _gone = self.said.send(Said::Done(sentences));
    }
}

/// Makes the others give up when one panics.
struct Unwinding<'a>(&'a AtomicBool);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::table_model::TableModel;
    use std::cell::{Cell, RefCell};

    fn on<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    }

    /// Batch i has i + 1 sentences.
    fn run_on<R: Send>(
        threads: usize,
        compute: impl Fn(usize, &dyn Watch) -> Result<R> + Sync + Send,
    ) -> Result<Vec<R>> {
        let model = TableModel::new(1, 7);
        on(threads, || run(&[&model], 9, 0, compute, &mut |_| (), &|| false))
    }

    #[test]
    fn results_come_in_order_and_every_sentence_is_counted() {
        for threads in [1, 2, 5, 20] {
            let model = TableModel::new(1, 7);
            let counts = on(threads, || {
                let counts = RefCell::new(Vec::new());
                let compute = |i: usize, watch: &dyn Watch| {
                    (0..=i).for_each(|_| watch.done(1));
                    Ok(i * i)
                };
                let found = run(&[&model], 9, 3, compute, &mut |n| counts.borrow_mut().push(n), &|| false);
                assert_eq!(found.unwrap(), (0..9).map(|i| i * i).collect::<Vec<_>>());
                counts.into_inner()
            });
            assert_eq!(counts, (4..=3 + 45).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_worker_has_its_share_of_the_threads() {
        assert_eq!(run_on(1, |_, _| Ok(rayon::current_num_threads())).unwrap(), [1; 9]);
        assert_eq!(run_on(9, |_, _| Ok(rayon::current_num_threads())).unwrap(), [1; 9]);
        assert!(run_on(20, |_, _| Ok(rayon::current_num_threads())).unwrap().iter().all(|n| [2, 3].contains(n)));
        assert_eq!(shares(20, 9).map(|share| share.len()).sum::<usize>(), 20);
        let model = TableModel::new(1, 7);
        let alone = |_: usize, _: &dyn Watch| Ok(rayon::current_num_threads());
        assert_eq!(on(3, || run(&[&model], 1, 0, alone, &mut |_| (), &|| false)).unwrap(), [3]);
    }

    #[test]
    fn an_error_ends_the_others_and_is_the_one_told() {
        for threads in [1, 3] {
            let begun = AtomicUsize::new(0);
            let result = run_on(threads, |i, watch| {
                begun.fetch_add(1, Ordering::Relaxed);
                if i == 1 {
                    return Err(DecodeError::NoModels);
                }
                while threads > 1 && !watch.stopped() {
                    thread::yield_now();
                }
                if watch.stopped() {
                    Err(DecodeError::Stopped)
                } else {
                    Ok(())
                }
            });
            assert!(matches!(result, Err(DecodeError::NoModels)));
            assert!(begun.into_inner() <= threads.max(2));
        }
    }

    #[test]
    fn a_stop_and_a_panic_end_all() {
        let model = TableModel::new(1, 7);
        let endless = |_: usize, watch: &dyn Watch| {
            while !watch.stopped() {
                thread::yield_now();
            }
            Err::<(), _>(DecodeError::Stopped)
        };
        for threads in [1, 2] {
            let result = on(threads, || {
                let asked = Cell::new(0);
                let stop = || {
                    asked.set(asked.get() + 1);
                    asked.get() > 2
                };
                run(&[&model], 9, 0, endless, &mut |_| (), &stop)
            });
            assert!(matches!(result, Err(DecodeError::Stopped)));
        }
        let panics = std::panic::catch_unwind(|| {
            run_on(2, |i, watch| if i == 0 { panic!("on purpose") } else { endless(i, watch) })
        });
        assert_eq!(panics.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    }
}
