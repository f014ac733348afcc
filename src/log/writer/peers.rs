//! The processes that send records.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::time::Instant;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::FIRST;
use super::lines::Lines;
use crate::ipc::frame::{Decoder, FrameError};
use crate::ipc::message::{self, GREETING_LEN_MAX, ToLog};
use crate::ipc::peer::{self, TurnedAway};
use crate::ipc::spare::Spare;
use crate::log::logger::MESSAGE_LEN_MAX;
use crate::log::record::Origin;

/// The longest frame after the hello: a message of the longest kind with all that stands beside it.
const FRAME_LEN_MAX: u32 = MESSAGE_LEN_MAX as u32 + 64 * 1024;

/// Connections at once. More wait in the socket's queue.
const PEERS_MAX: usize = 4096;

/// Bytes read from one sender before it is the next one's turn.
const READ_MAX: usize = 64 * 1024;

pub(super) struct Peers {
    listener: UnixListener,
    peers: BTreeMap<usize, Peer>,
    next: usize,
    /// Whether the listener may have more.
    waiting: bool,
    buffer: Vec<u8>,
    turned_away: TurnedAway,
    /// The user of the last of them.
    stranger: u32,
}

struct Peer {
    stream: UnixStream,
    reader: Reader,
    readable: bool,
    /// Whether what was read waits for room.
    is_behind: bool,
}

/// What a sender has said, without I/O.
struct Reader {
    decoder: Decoder,
    /// Who it is; `None` before the hello.
    origin: Option<Origin>,
    /// Whom the kernel has seen connect.
    pid: i32,
}

impl Peers {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self {
            listener,
            peers: BTreeMap::new(),
            next: FIRST,
            waiting: false,
            buffer: vec![0; READ_MAX],
            turned_away: TurnedAway::default(),
            stranger: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && !self.waiting
    }

    /// Whether [`Peers::accept`] should be tried again without an event.
    pub(super) fn has_more(&self) -> bool {
        self.waiting && self.peers.len() < PEERS_MAX
    }

    pub(super) fn is_readable(&mut self, number: usize) {
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.readable = true;
        }
    }

    /// Takes the senders that wait.
    pub(super) fn accept(&mut self, registry: &Registry) {
        self.waiting = false;
        loop {
            if self.peers.len() >= PEERS_MAX {
                self.waiting = true;
                return;
            }
            let Ok((mut stream, _)) = self.listener.accept() else { return };
            let Ok((uid, pid)) = peer::who(&stream) else { continue };
            if !peer::is_ours(uid) {
                self.turned_away.add();
                self.stranger = uid;
                continue;
            }
            let number = self.next;
            self.next += 2;
            if registry.register(&mut stream, Token(number), Interest::READABLE).is_ok() {
                // What came before the registration gives an event too: epoll(7).
                self.peers.insert(number, Peer { stream, reader: Reader::new(pid), readable: true, is_behind: false });
            }
        }
    }

    /// Reads from every sender that has something, until the console is full.
    pub(super) fn read(&mut self, lines: &mut Lines) {
        self.tell_of_the_turned_away(lines);
        let mut gone = Vec::new();
        let mut more = true;
        while more && !lines.is_full() {
            more = false;
            for (&number, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.has_more()) {
                match peer.read(&mut self.buffer, lines) {
                    ControlFlow::Continue(()) => more |= peer.has_more(),
                    ControlFlow::Break(()) => {
                        (peer.readable, peer.is_behind) = (false, false);
                        gone.push(number);
                    }
                }
            }
        }
        for number in gone {
            self.peers.remove(&number);
        }
    }

    fn tell_of_the_turned_away(&mut self, lines: &mut Lines) {
        let Some(count) = self.turned_away.due(Instant::now()) else { return };
        let uid = self.stranger;
        let who = format!("uid {uid} may not log here: the daemon's own user and root may");
        lines.warn(&format!("{count} connections to the log are closed: {who}"));
    }
}

impl Peer {
    fn has_more(&self) -> bool {
        self.readable || self.is_behind
    }

    /// Reads once, if all is heard that was read before; breaks when the sender is done with.
    fn read(&mut self, buffer: &mut [u8], lines: &mut Lines) -> ControlFlow<()> {
        if self.is_behind {
            return self.hear(lines);
        }
        match self.stream.read(buffer) {
            Ok(0) => return ControlFlow::Break(()),
            Ok(count) => self.reader.decoder.feed(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return ControlFlow::Break(()),
        }
        self.hear(lines)
    }

    /// Does what has come whole; breaks when the sender has broken a rule.
    fn hear(&mut self, lines: &mut Lines) -> ControlFlow<()> {
        self.is_behind = false;
        loop {
            if lines.is_full() {
                self.is_behind = true;
                return ControlFlow::Continue(());
            }
            match self.reader.next() {
                Ok(None) => break,
                Ok(Some(ToLog::Hello(hello))) => self.reader.is_called(&hello.name),
                Ok(Some(ToLog::Record(sequence, record))) => {
                    if let Some(origin) = &self.reader.origin {
                        lines.add_sent(origin, &record.entry(sequence));
                    }
                }
                Err(error) => {
                    let whose = self.reader.origin.as_ref().map_or("somebody without a name", |origin| &origin.name);
                    lines.warn(&format!("the log connection of {whose} is closed: {}", error.reason()));
                    return ControlFlow::Break(());
                }
            }
        }
        if !self.readable {
            // It may be silent for long now.
            self.reader.decoder.give_back(&mut Spare::default());
        }
        ControlFlow::Continue(())
    }
}

impl Reader {
    fn new(pid: i32) -> Self {
        Self { decoder: Decoder::new(GREETING_LEN_MAX), origin: None, pid }
    }

    fn is_called(&mut self, name: &str) {
        self.origin = Some(Origin::named(name, self.pid));
    }

    /// The next message; a hello is to be kept. `None`: more bytes are needed.
    fn next(&mut self) -> Result<Option<ToLog>, FrameError> {
        let Some(body) = self.decoder.next()? else { return Ok(None) };
        let said = message::to_log(body, self.origin.is_some())?;
        // Longer ones may come from now on.
        self.decoder.set_len_max(FRAME_LEN_MAX);
        Ok(Some(said))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ipc::log_record::LogRecord;
    use crate::ipc::message::Hello;

    fn stream() -> Vec<u8> {
        let record = |text: &str| LogRecord::of(&crate::log::loss::entry(text, 1));
        let mut out = Vec::new();
        message::hello(&Hello::of("one"), &mut out);
        message::log(1, &record("first"), &mut out);
        message::log(2, &record(&"long ".repeat(2000)), &mut out);
        message::hello(&Hello::of("another"), &mut out);
        message::log(3, &record("last"), &mut out);
        out
    }

    /// What is read of pieces of this length.
    fn read(stream: &[u8], cut: usize) -> Vec<String> {
        let (mut reader, mut seen, mut came) = (Reader::new(7), Vec::new(), 0);
        for piece in stream.chunks(cut) {
            reader.decoder.feed(piece);
            came += piece.len();
            assert!(reader.decoder.kept() <= 2 * came + 64, "{} bytes for {came}", reader.decoder.kept());
            loop {
                let next = reader.next();
                if matches!(next, Ok(None)) {
                    break;
                }
                seen.push(format!("{next:?}"));
                match next {
                    Ok(Some(ToLog::Hello(hello))) => reader.is_called(&hello.name),
                    Ok(_) => {}
                    Err(_) => return seen,
                }
            }
        }
        seen
    }

    #[test]
    fn a_sender_is_read_to_its_end() {
        assert_eq!(read(&stream(), 7).len(), 5);
    }

    proptest! {
        #[test]
        fn any_cut_of_any_stream_is_read_the_same(
            harms in vec((any::<usize>(), any::<u8>()), 0..4),
            noise in vec(any::<u8>(), 0..40),
            cut in 1_usize..5000,
        ) {
            let mut stream = stream();
            let len = stream.len();
            harms.iter().for_each(|(at, bits)| stream[at % len] ^= bits);
            stream.extend(noise);
            prop_assert_eq!(read(&stream, cut), read(&stream, usize::MAX));
        }
    }
}
