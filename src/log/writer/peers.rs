//! The processes that send records.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::FIRST;
use super::Lines;
use crate::ipc::frame::Decoder;
use crate::ipc::message::{self, GREETING_LEN_MAX, LogRecord, ToLog};
use crate::ipc::peer;
use crate::log::logger::MESSAGE_LEN_MAX;

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
}

struct Peer {
    stream: UnixStream,
    decoder: Decoder,
    /// Who it is; `None` before the hello.
    origin: Option<String>,
    readable: bool,
}

impl Peers {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, peers: BTreeMap::new(), next: FIRST, waiting: false, buffer: vec![0; READ_MAX] }
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
            if !peer::uid(&stream).is_ok_and(peer::is_ours) {
                continue;
            }
            let number = self.next;
            self.next += 2;
            if registry.register(&mut stream, Token(number), Interest::READABLE).is_ok() {
                let decoder = Decoder::new(GREETING_LEN_MAX);
                // What came before the registration gives an event too: epoll(7).
                self.peers.insert(number, Peer { stream, decoder, origin: None, readable: true });
            }
        }
    }

    /// Reads from every sender that has something, until the console is full.
    pub(super) fn read(&mut self, lines: &mut Lines) {
        let mut gone = Vec::new();
        let mut more = true;
        while more && !lines.console.is_full() {
            more = false;
            for (&number, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.readable) {
                match peer.read(&mut self.buffer, lines) {
                    ControlFlow::Continue(()) => more |= peer.readable,
                    ControlFlow::Break(()) => {
                        peer.readable = false;
                        gone.push(number);
                    }
                }
            }
            lines.console.write();
        }
        for number in gone {
            self.peers.remove(&number);
        }
    }
}

impl Peer {
    /// Reads once; breaks when the sender is done with.
    fn read(&mut self, buffer: &mut [u8], lines: &mut Lines) -> ControlFlow<()> {
        match self.stream.read(buffer) {
            Ok(0) => return ControlFlow::Break(()),
            Ok(count) => self.decoder.feed(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return ControlFlow::Break(()),
        }
        self.hear(lines)
    }

    /// Does what has come whole; breaks when the sender has broken a rule.
    fn hear(&mut self, lines: &mut Lines) -> ControlFlow<()> {
        loop {
            let message = match self.decoder.next() {
                Ok(None) => break,
                Ok(Some(body)) => message::to_log(body, self.origin.is_some()),
                Err(error) => Err(error),
            };
            match message {
                Ok(ToLog::Hello(hello)) => {
                    self.decoder.set_len_max(FRAME_LEN_MAX);
                    self.origin = Some(hello.name);
                }
                Ok(ToLog::Record(_, record)) => lines.add(self.origin.as_deref().unwrap_or_default(), &record),
                Err(error) => {
                    let whose = self.origin.as_deref().unwrap_or("somebody without a name");
                    lines.add("", &warning(format!("the log connection of {whose} is closed: {}", error.reason())));
                    return ControlFlow::Break(());
                }
            }
        }
        if !self.readable {
            self.decoder.rest_a_while();
        }
        ControlFlow::Continue(())
    }
}

/// A record of this process's own.
fn warning(message: String) -> LogRecord {
    LogRecord {
        time_us: jiff::Timestamp::now().as_microsecond(),
        level: log::Level::Warn as u32,
        target: "forebay".to_owned(),
        message,
    }
}
