//! When this machine stood still: a client's wait for that time is nobody's fault.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Who comes so late was not only waiting for a processor.
const GAP_MIN: Duration = Duration::from_millis(500);

/// A thread that watches its own clock.
pub(crate) struct Pauses {
    stop: Sender<()>,
    thread: JoinHandle<Vec<(Instant, Duration)>>,
}

impl Pauses {
    pub(crate) fn watch() -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let (mut gaps, mut last) = (Vec::new(), Instant::now());
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let late = last.elapsed().saturating_sub(LOOK);
                if late >= GAP_MIN {
                    gaps.push((last, late));
                }
                last = Instant::now();
            }
            gaps
        });
        Self { stop, thread }
    }

    /// When nothing ran, and for how long.
    pub(crate) fn finish(self) -> Vec<(Instant, Duration)> {
        drop(self.stop);
        self.thread.join().expect("watching a clock does not panic")
    }
}
