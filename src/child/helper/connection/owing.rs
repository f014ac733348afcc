//! What a peer owes, and for how long it may: its hello, the rest of a frame, the reading of what it was
//! sent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How long a peer may owe its hello, the rest of a frame, or the reading of what was sent.
const OWING_MAX: Duration = Duration::from_secs(10);

/// One timer for all of it; none while nothing is owed.
#[derive(Default)]
pub(super) struct Owing {
    hello: Option<Instant>,
    frame: Option<Instant>,
    reading: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What is owed now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) hello: bool,
    pub(super) frame: bool,
    pub(super) reading: bool,
}

impl Owing {
    /// The peer has said something: a frame goes on. That brings no hello nearer.
    pub(super) fn has_spoken(&mut self) {
        self.frame = None;
    }

    /// The peer has read something.
    pub(super) fn has_read(&mut self) {
        self.reading = None;
    }

    /// Takes note of what is owed. Resolves with what was owed for too long.
    pub(super) fn poll(&mut self, owed: Owed, context: &mut Context<'_>) -> Poll<String> {
        let Owed { hello, frame, reading } = owed;
        if !(hello || frame || reading) {
            *self = Self::default();
            return Poll::Pending;
        }
        let now = Instant::now();
        for (since, is_owed) in [(&mut self.hello, hello), (&mut self.frame, frame), (&mut self.reading, reading)] {
            *since = is_owed.then_some(since.unwrap_or(now));
        }
        let all =
            [(self.hello, "no hello"), (self.frame, "half a frame, and nothing"), (self.reading, "it reads nothing")];
        let oldest = all.into_iter().filter_map(|(since, what)| Some((since?, what))).min_by_key(|(since, _)| *since);
        let Some((since, what)) = oldest else { return Poll::Pending };
        let due = since + OWING_MAX;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context).map(|()| format!("{what} for {} s", OWING_MAX.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Owed = Owed { hello: true, frame: false, reading: false };
    const FRAME: Owed = Owed { hello: false, frame: true, reading: false };
    const READING: Owed = Owed { hello: false, frame: false, reading: true };
    const BOTH: Owed = Owed { hello: false, frame: true, reading: true };

    /// Seconds that go by after something was done, and what is owed then.
    type Step = (u64, fn(&mut Owing), Owed);

    /// What each step says.
    fn play(steps: &[Step]) -> Vec<Option<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut owing = Owing::default();
            let begin = Instant::now();
            let mut said = Vec::new();
            for &(seconds, done, owed) in steps {
                // As if so much time had gone by: what was owed is older.
                let by = Duration::from_secs(seconds);
                done(&mut owing);
                for since in [&mut owing.hello, &mut owing.frame, &mut owing.reading] {
                    *since = since.and_then(|since| since.checked_sub(by));
                }
                let next = std::future::poll_fn(|context| Poll::Ready(owing.poll(owed, context))).await;
                said.push(match next {
                    Poll::Ready(what) => Some(what),
                    Poll::Pending => None,
                });
            }
            assert!(begin.elapsed() < Duration::from_secs(5), "nothing waits");
            said
        })
    }

    #[test]
    fn each_thing_owed_has_ten_seconds_and_its_own_end() {
        let none: fn(&mut Owing) = |_| {};
        let late = |what: &str| Some(format!("{what} for 10 s"));
        let table: [(&[Step], Option<String>); 6] = [
            (&[(0, none, HELLO), (9, none, HELLO)], None),
            (&[(0, none, HELLO), (9, Owing::has_spoken, HELLO), (2, Owing::has_spoken, HELLO)], late("no hello")),
            (&[(0, none, FRAME), (11, Owing::has_spoken, FRAME)], None),
            (&[(0, none, FRAME), (11, Owing::has_read, FRAME)], late("half a frame, and nothing")),
            // Whoever speaks on and reads nothing.
            (
                &[(0, none, READING), (6, Owing::has_spoken, BOTH), (6, Owing::has_spoken, BOTH)],
                late("it reads nothing"),
            ),
            (&[(0, none, READING), (6, Owing::has_read, READING), (6, Owing::has_read, READING)], None),
        ];
        for (number, (steps, wanted)) in table.into_iter().enumerate() {
            assert_eq!(play(steps).last(), Some(&wanted), "{number}");
        }
    }
}
