//! A WebSocket on its worker's last way: the client is told 1001, going away, between two frames of
//! the application's, which has nothing to do for it.
//!
//! An application that listens gets the client's answer as it gets every message, and ends. One that
//! does not is spared the wait for it: the connection ends without it.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::drain::Open;
use super::frames::Frames;
use crate::app::declare::{Ends, Kind, Stream};

/// Close, with 1001: the server goes away (RFC 6455, sections 5.5.1 and 7.4.1).
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// How long a client may take to answer Close when the application does not listen, and an
/// application to answer its last message when all stops.
const LAST_WORD_GRACE: Duration = Duration::from_secs(1);

/// After the farewell one write of the application's in so much time is swallowed.
const SWALLOW_PAUSE: Duration = Duration::from_millis(20);

/// What part of the drain limit an application has to answer the message that it got last.
const ANSWER_SHARE: u32 = 4;

/// What the application's end and the worker's share.
pub(super) type Shared = Arc<Mutex<Socket>>;

/// A connection that was handed over to the application.
pub(super) struct Socket {
    /// `None`: it has ended, whatever the application does with its end.
    carrier: Option<(Stream, Open)>,
    /// What the application has written.
    sent: Frames,
    farewell: Farewell,
    /// The application waits for the client's next message.
    listens: bool,
    /// The application is told no more.
    is_deaf: bool,
    /// After the farewell the application may write once more, for nothing.
    may_write: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    worker: Option<Waker>,
}

enum Farewell {
    NotYet,
    /// At the next boundary; so much of it is written.
    Due(usize),
    Said,
}

/// Whoever panics with it leaves it as usable as it was.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Socket> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the drain, and sees to the connection's end. Is dropped with the application's end.
pub(super) async fn see_off(shared: Shared, ends: Arc<dyn Ends>) {
    ends.next().await;
    tokio::select! {
        biased;
        () = ends.now() => {
            ends.has_cut(Kind::WebSocket);
            lock(&shared).end();
        }
        () = part(&shared, &*ends) => {}
    }
}

async fn part(shared: &Shared, ends: &dyn Ends) {
    let patience = ends.limit() / ANSWER_SHARE;
    let soon = async {
        ends.soon().await;
        tokio::time::sleep(LAST_WORD_GRACE.min(patience)).await;
    };
    // What the client has sent last is answered before the farewell: nothing may follow it.
    tokio::select! {
        () = poll_fn(|context| lock(shared).poll_listens(context)) => {}
        () = tokio::time::sleep(patience) => {}
        () = soon => {}
    }
    lock(shared).farewell = Farewell::Due(0);
    if poll_fn(|context| lock(shared).poll_told(context)).await.is_err() {
        return lock(shared).end();
    }
    if lock(shared).listens {
        // It hears the answer, and ends; at the limit it is ended.
        return swallow(shared).await;
    }
    lock(shared).is_deaf = true;
    let end = poll_fn(|context| lock(shared).poll_end(context));
    tokio::select! {
        () = end => {}
        // Beyond that nobody waits: a client that has not answered has been told.
        () = tokio::time::sleep(LAST_WORD_GRACE) => {}
        () = swallow(shared) => {}
    }
    lock(shared).end();
}

/// What the application still writes is nobody's, for ever.
async fn swallow(shared: &Shared) {
    loop {
        lock(shared).let_one_write();
        tokio::time::sleep(SWALLOW_PAUSE).await;
    }
}

/// The application's side.
impl Socket {
    pub(super) fn new(stream: Stream, open: Open) -> Self {
        Self {
            carrier: Some((stream, open)),
            sent: Frames::default(),
            farewell: Farewell::NotYet,
            listens: false,
            is_deaf: false,
            may_write: false,
            reader: None,
            writer: None,
            worker: None,
        }
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Some((stream, _)) = self.carrier.as_mut().filter(|_| !self.is_deaf) else { return Poll::Ready(Ok(())) };
        let poll = Pin::new(stream).poll_read(context, buffer);
        self.listens = poll.is_pending();
        if self.listens {
            keep(&mut self.reader, context);
            wake(&mut self.worker);
        }
        poll
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let poll = self.poll_write_or_swallow(context, bytes);
        if poll.is_pending() {
            keep(&mut self.writer, context);
        }
        poll
    }

    fn poll_write_or_swallow(&mut self, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Farewell::Due(_) = self.farewell
            && self.sent.is_between()
        {
            ready!(self.poll_farewell(context))?;
        }
        let Some((stream, _)) = &mut self.carrier else { return Poll::Ready(Err(ErrorKind::BrokenPipe.into())) };
        match self.farewell {
            Farewell::NotYet => {
                let written = ready!(write(stream, context, bytes))?;
                let mut left = written;
                for bytes in bytes {
                    let taken = left.min(bytes.len());
                    self.sent.follow(&bytes[..taken]);
                    left -= taken;
                }
                Poll::Ready(Ok(written))
            }
            Farewell::Due(_) => {
                let bytes = bytes.iter().find(|bytes| !bytes.is_empty()).map_or(&[][..], |bytes| bytes);
                let rest = &bytes[..self.sent.rest_of_frame(bytes)];
                let written = ready!(Pin::new(stream).poll_write(context, rest))?;
                self.sent.follow(&rest[..written]);
                if self.sent.is_between() {
                    // The application may write nothing more, and then the worker has the word.
                    wake(&mut self.worker);
                }
                Poll::Ready(Ok(written))
            }
            // After Close nothing may follow. One that writes without a pause would hold the loop for
            // ever: it is let go on from time to time, and sees by itself that there is an end.
            Farewell::Said if std::mem::take(&mut self.may_write) => {
                Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum()))
            }
            Farewell::Said => Poll::Pending,
        }
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((stream, _)) = &mut self.carrier else { return Poll::Ready(Ok(())) };
        Pin::new(stream).poll_flush(context)
    }

    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((stream, _)) = &mut self.carrier else { return Poll::Ready(Ok(())) };
        Pin::new(stream).poll_shutdown(context)
    }

    pub(super) fn is_write_vectored(&self) -> bool {
        self.carrier.as_ref().is_some_and(|(stream, _)| stream.is_write_vectored())
    }
}

/// The worker's side.
impl Socket {
    /// Ready once the application waits for the client.
    fn poll_listens(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.listens {
            return Poll::Ready(());
        }
        keep(&mut self.worker, context);
        Poll::Pending
    }

    /// Ready once the farewell is said.
    fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whatever it waits for, the application may be the one who comes first.
        keep(&mut self.worker, context);
        self.poll_farewell(context)
    }

    /// Says the farewell at the next boundary, whoever of both comes there first.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((stream, _)) = &mut self.carrier else { return Poll::Ready(Ok(())) };
        while let Farewell::Due(written) = &mut self.farewell {
            if !self.sent.is_between() {
                return Poll::Pending;
            }
            if self.sent.has_closed() || *written == GOING_AWAY.len() {
                self.farewell = Farewell::Said;
                // A stream knows one who waits to write: of these two the one who has asked last.
                wake(&mut self.writer);
                wake(&mut self.worker);
                break;
            }
            match ready!(Pin::new(&mut *stream).poll_write(context, &GOING_AWAY[*written..]))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the client has ended the connection; what it says until then is nobody's. Unread it
    /// would make the end a reset, which may overtake the farewell.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((stream, _)) = &mut self.carrier else { return Poll::Ready(()) };
        loop {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, buffer.unfilled()));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    fn let_one_write(&mut self) {
        self.may_write = true;
        wake(&mut self.writer);
    }

    /// Ends the connection, whatever the application does.
    pub(super) fn end(&mut self) {
        self.carrier = None;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

/// One piece goes by the call for one.
pub(super) fn write(stream: &mut Stream, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    match bytes {
        [bytes] => Pin::new(stream).poll_write(context, bytes),
        _ => Pin::new(stream).poll_write_vectored(context, bytes),
    }
}

fn keep(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}
