//! One event stream: what it still has to write, and when.
//!
//! It takes orders from the service through a short queue, and nothing else; a client that reads slowly
//! holds up its own queue only.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::Stream;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::Link;
use super::faults::Ending;

/// Orders that wait for a client to read.
pub(super) const ORDERS_MAX: usize = 64;

/// Pieces that a stream has taken and not yet written.
const BACKLOG_MAX: usize = 64;

/// What an endless line is made of, a piece at a time.
const ENDLESS: &[u8] = &[b'x'; 4096];

/// A body of frames.
pub(super) type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>>>>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Bytes(Bytes),
    Pause(Duration),
    /// A pause that has begun.
    Until(Instant),
    Endless,
    /// Nothing more, whatever is ordered to be written.
    Stall,
    End(Ending),
}

pub(super) struct Order {
    pub(super) pieces: Vec<Piece>,
    /// Instead of all that waits, and of a stall.
    pub(super) at_once: bool,
}

pub(super) struct EventStream<G> {
    orders: mpsc::Receiver<Order>,
    backlog: VecDeque<Piece>,
    drip: Rc<Cell<Option<Duration>>>,
    link: Rc<Link>,
    /// Counts the stream down when it is dropped.
    _guard: G,
}

/// What a stream does next.
#[derive(Debug, PartialEq)]
enum Step {
    Write(Bytes),
    Wait(Option<Instant>),
    End,
}

impl<G: 'static> EventStream<G> {
    pub(super) fn new(
        orders: mpsc::Receiver<Order>,
        first: Vec<Piece>,
        drip: Rc<Cell<Option<Duration>>>,
        link: Rc<Link>,
        guard: G,
    ) -> Self {
        Self { orders, backlog: first.into(), drip, link, _guard: guard }
    }

    pub(super) fn into_frames(self) -> Frames {
        Box::pin(futures_util::stream::unfold(self, |mut stream| async {
            let bytes = stream.next().await?;
            Some((Ok(Frame::data(bytes)), stream))
        }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            while self.backlog.len() < BACKLOG_MAX
                && let Ok(order) = self.orders.try_recv()
            {
                self.take(order);
            }
            let deadline = match self.step(Instant::now()) {
                Step::Write(bytes) => return Some(bytes),
                Step::Wait(deadline) => deadline,
                Step::End => return None,
            };
            tokio::select! {
                order = self.orders.recv(), if self.backlog.len() < BACKLOG_MAX => self.take(order?),
                () = until(deadline) => {}
            }
        }
    }

    fn take(&mut self, order: Order) {
        if order.at_once {
            self.backlog.clear();
        } else if self.backlog.front() == Some(&Piece::Stall) {
            return;
        }
        self.backlog.extend(order.pieces);
    }

    fn step(&mut self, now: Instant) -> Step {
        loop {
            match self.backlog.pop_front() {
                None => return Step::Wait(None),
                Some(Piece::Bytes(bytes)) => return Step::Write(self.drop_of(bytes, now)),
                Some(Piece::Pause(pause)) => self.backlog.push_front(Piece::Until(now + pause)),
                Some(Piece::Until(deadline)) if deadline > now => {
                    self.backlog.push_front(Piece::Until(deadline));
                    return Step::Wait(Some(deadline));
                }
                Some(Piece::Until(_)) => {}
                Some(Piece::Endless) => {
                    self.backlog.push_front(Piece::Endless);
                    return Step::Write(Bytes::from_static(ENDLESS));
                }
                Some(Piece::Stall) => {
                    self.backlog.clear();
                    self.backlog.push_front(Piece::Stall);
                    return Step::Wait(None);
                }
                Some(Piece::End(Ending::Clean)) => return Step::End,
                Some(Piece::End(ending)) => {
                    self.link.end(ending);
                    self.backlog.push_front(Piece::Stall);
                }
            }
        }
    }

    /// All of it, or its first byte while streams drip; the rest goes back.
    fn drop_of(&mut self, mut bytes: Bytes, now: Instant) -> Bytes {
        match self.drip.get() {
            Some(pause) if bytes.len() > 1 => {
                let first = bytes.split_to(1);
                self.backlog.push_front(Piece::Bytes(bytes));
                self.backlog.push_front(Piece::Until(now + pause));
                first
            }
            Some(_) | None => bytes,
        }
    }
}

/// For ever, if there is no deadline.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn pieces_come_in_order() {
        let (_orders, mut stream) =
            stream(vec![bytes("a"), Piece::Pause(PAUSE), bytes("b"), Piece::End(Ending::Clean)]);
        let now = Instant::now();
        assert_eq!(stream.step(now), Step::Write("a".into()));
        assert_eq!(stream.step(now), Step::Wait(Some(now + PAUSE)));
        assert_eq!(stream.step(now + PAUSE), Step::Write("b".into()));
        assert_eq!(stream.step(now + PAUSE), Step::End);
    }

    #[test]
    fn drops_fall_one_by_one() {
        let (_orders, mut stream) = stream(vec![bytes("ab")]);
        stream.drip.set(Some(PAUSE));
        let now = Instant::now();
        assert_eq!(stream.step(now), Step::Write("a".into()));
        assert_eq!(stream.step(now), Step::Wait(Some(now + PAUSE)));
        assert_eq!(stream.step(now + PAUSE), Step::Write("b".into()));
        assert_eq!(stream.step(now + PAUSE), Step::Wait(None));
    }

    #[test]
    fn a_stalled_stream_keeps_nothing_and_can_end() {
        let (_orders, mut stream) = stream(vec![bytes("a"), Piece::Stall, bytes("never")]);
        let now = Instant::now();
        assert_eq!(stream.step(now), Step::Write("a".into()));
        for _ in 0..2 * BACKLOG_MAX {
            assert_eq!(stream.step(now), Step::Wait(None));
            stream.take(Order { pieces: vec![bytes("b")], at_once: false });
            assert_eq!(stream.backlog.len(), 1);
        }
        stream.take(Order { pieces: vec![Piece::End(Ending::Clean)], at_once: true });
        assert_eq!(stream.step(now), Step::End);
    }

    #[test]
    fn what_is_at_once_does_not_wait() {
        let (_orders, mut stream) = stream(vec![Piece::Pause(PAUSE), bytes("a")]);
        let now = Instant::now();
        assert_eq!(stream.step(now), Step::Wait(Some(now + PAUSE)));
        stream.take(Order { pieces: vec![Piece::Stall], at_once: true });
        assert_eq!(stream.step(now), Step::Wait(None));
    }

    #[test]
    fn a_line_can_be_endless() {
        let (_orders, mut stream) = stream(vec![bytes("data: "), Piece::Endless]);
        let now = Instant::now();
        stream.step(now);
        for _ in 0..1000 {
            assert_eq!(stream.step(now), Step::Write(Bytes::from_static(ENDLESS)));
        }
    }

    #[tokio::test]
    async fn the_backlog_is_bounded() {
        let (orders, mut stream) = stream(vec![Piece::Pause(Duration::from_millis(1))]);
        for _ in 0..ORDERS_MAX {
            assert!(orders.try_send(Order { pieces: vec![bytes("a")], at_once: false }).is_ok());
        }
        assert_eq!(stream.next().await, Some("a".into()));
        assert!(stream.backlog.len() < BACKLOG_MAX);
    }

    fn stream(first: Vec<Piece>) -> (mpsc::Sender<Order>, EventStream<()>) {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        (sender, EventStream::new(orders, first, Rc::default(), Rc::default(), ()))
    }

    fn bytes(text: &'static str) -> Piece {
        Piece::Bytes(text.into())
    }
}
