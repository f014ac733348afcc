//! Targets that take a record as a datagram: syslog and the journal.
//!
//! Nothing waits here. A receiver that is full or away gets the same record again later, so that one that
//! restarts loses only what it had taken itself; after a while its records fail instead, or a receiver that
//! never comes back would hold up the log.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::format::SYSLOG_HEAD_LEN_MAX;
use crate::sys::memory::sealed_bytes;
use crate::sys::passing;

/// How often a receiver that is away is looked for.
const RECONNECT: Duration = Duration::from_millis(100);

/// How long a receiver may take nothing before its records fail.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A refused datagram is sent once more, over another connection.
const ATTEMPTS_MAX: usize = 2;

/// What large entries are called among the descriptors.
const ENTRY_NAME: &str = "forebay-log-entry";

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Address {
    Unix(PathBuf),
    Udp(SocketAddr),
    Journald(PathBuf),
}

/// What became of a datagram.
#[derive(Debug)]
pub(super) enum Sent {
    /// The kernel has it.
    Done,
    /// It is to be sent again, before any other.
    Later,
    /// It is not to be sent again.
    Failed(io::Error),
}

pub(super) struct Datagrams {
    address: Address,
    socket: Option<Socket>,
    /// When to connect again at the earliest.
    not_before: Option<Instant>,
    stuck: Option<Stuck>,
}

/// Since when and why nothing is taken.
#[derive(Clone, Copy)]
struct Stuck {
    since: Instant,
    errno: Errno,
}

impl Datagrams {
    pub(super) fn new(address: Address) -> Self {
        Self { address, socket: None, not_before: None, stuck: None }
    }

    /// Sends a datagram without waiting.
    pub(super) fn send(&mut self, message: &[u8]) -> Sent {
        self.send_at(message, Instant::now())
    }

    fn send_at(&mut self, message: &[u8], now: Instant) -> Sent {
        match self.deliver(message, now) {
            Ok(()) => {
                self.stuck = None;
                Sent::Done
            }
            // This one is too large; the next need not be.
            Err(Errno::EMSGSIZE) => Sent::Failed(Errno::EMSGSIZE.into()),
            Err(errno) => self.hold(errno, now),
        }
    }

    /// Anything else may pass: a daemon that starts is refused, absent or forbidden for a moment, a network
    /// that comes up is unreachable.
    fn hold(&mut self, errno: Errno, now: Instant) -> Sent {
        let since = self.stuck.map_or(now, |stuck| stuck.since);
        self.stuck = Some(Stuck { since, errno });
        if now.duration_since(since) < PATIENCE { Sent::Later } else { Sent::Failed(errno.into()) }
    }

    fn deliver(&mut self, message: &[u8], now: Instant) -> Result<(), Errno> {
        let mut refused = Errno::ECONNREFUSED;
        for _ in 0..ATTEMPTS_MAX {
            self.connect(now)?;
            let Some(socket) = &self.socket else { break };
            refused = match (&self.address, self.address.attempt(socket, message)) {
                // What was refused is an earlier datagram, which is lost, as UDP loses; the word of it comes
                // instead of this one.
                (Address::Udp(_), Err(errno @ Errno::ECONNREFUSED)) => errno,
                (
                    Address::Unix(_) | Address::Journald(_),
                    Err(errno @ (Errno::ECONNREFUSED | Errno::ENOTCONN | Errno::ECONNRESET | Errno::EPIPE)),
                ) => {
                    self.socket = None;
                    errno
                }
                (_, result) => return result,
            };
        }
        Err(refused)
    }

    fn connect(&mut self, now: Instant) -> Result<(), Errno> {
        if self.socket.is_some() {
            return Ok(());
        }
        if self.not_before.is_some_and(|time| now < time) {
            return Err(self.stuck.map_or(Errno::ECONNREFUSED, |stuck| stuck.errno));
        }
        self.not_before = Some(now + RECONNECT);
        self.socket = Some(self.address.connect().map_err(|error| errno(&error))?);
        Ok(())
    }
}

impl Address {
    fn connect(&self) -> io::Result<Socket> {
        let (domain, address) = match self {
            Self::Unix(path) | Self::Journald(path) => (Domain::UNIX, SockAddr::unix(path)?),
            Self::Udp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), None)?;
        socket.connect(&address)?;
        Ok(socket)
    }

    fn attempt(&self, socket: &Socket, message: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Unix(_) | Self::Udp(_) => send_cut(socket, message),
            Self::Journald(_) => match send(socket, message) {
                // The kernel's memory may be too short for a large datagram where it is not for a small one.
                Err(Errno::EMSGSIZE | Errno::ENOBUFS) => send_sealed(socket, message),
                result => result,
            },
        }
    }
}

/// The end of a message that is too large is cut off: half of it, again and again, but nothing of its head.
fn send_cut(socket: &Socket, message: &[u8]) -> Result<(), Errno> {
    let mut rest = message;
    loop {
        match send(socket, rest) {
            Err(Errno::EMSGSIZE) if rest.len() > SYSLOG_HEAD_LEN_MAX => {
                rest = cut(rest, (rest.len() / 2).max(SYSLOG_HEAD_LEN_MAX));
            }
            result => return result,
        }
    }
}

/// At most so many bytes, and no character in part.
fn cut(text: &[u8], len_max: usize) -> &[u8] {
    let is_continued = |&&byte: &&u8| byte & 0xc0 == 0x80;
    let Some((kept, rest)) = text.split_at_checked(len_max) else { return text };
    match rest.first().filter(is_continued) {
        Some(_) => {
            let tail = kept.iter().rev().take_while(is_continued).count() + 1;
            &kept[..kept.len().saturating_sub(tail)]
        }
        None => kept,
    }
}

/// An entry as memory that nobody can change any more, instead of the datagram's bytes.
fn send_sealed(socket: &Socket, message: &[u8]) -> Result<(), Errno> {
    let memory = sealed_bytes(ENTRY_NAME, message).map_err(|error| errno(&error))?;
    passing::send(socket.as_fd(), &[], &[memory.as_fd()]).map(drop).map_err(|error| errno(&error))
}

fn send(socket: &Socket, message: &[u8]) -> Result<(), Errno> {
    passing::send(socket.as_fd(), message, &[]).map(drop).map_err(|error| errno(&error))
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}

#[cfg(test)]
impl Datagrams {
    /// As if it had been waited for long enough.
    pub(super) fn lose_patience(&mut self) {
        let stuck = self.stuck.as_mut().expect("something is waited for");
        stuck.since -= PATIENCE;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::net::UdpSocket;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;

    use super::*;

    /// More than a default socket buffer takes at once, of two-byte letters behind one.
    fn large() -> String {
        format!("x{}", "é".repeat(500_000))
    }

    fn receiver(path: &Path) -> UnixDatagram {
        let receiver = UnixDatagram::bind(path).expect("bind");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        receiver
    }

    fn received(receiver: &UnixDatagram) -> String {
        let mut buffer = vec![0; 1 << 20];
        let len = receiver.recv(&mut buffer).expect("a datagram");
        String::from_utf8(buffer[..len].to_vec()).expect("UTF-8")
    }

    fn is_done(sent: &Sent) -> bool {
        matches!(sent, Sent::Done)
    }

    fn is_later(sent: &Sent) -> bool {
        matches!(sent, Sent::Later)
    }

    #[test]
    fn datagrams_arrive_in_order() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let receiver = receiver(&path);
        for address in [Address::Unix(path.clone()), Address::Journald(path)] {
            let mut datagrams = Datagrams::new(address);
            assert!(datagrams.socket.is_none());
            for number in 0..5 {
                assert!(is_done(&datagrams.send(number.to_string().as_bytes())));
            }
            assert!(datagrams.socket.is_some());
            (0..5).for_each(|number| assert_eq!(received(&receiver), number.to_string()));
        }
    }

    #[test]
    fn a_full_receiver_gets_everything_later() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let receiver = receiver(&path);
        let mut datagrams = Datagrams::new(Address::Unix(path));
        let mut sent = 0;
        while is_done(&datagrams.send(format!("{sent}").as_bytes())) {
            sent += 1;
        }
        assert!(is_later(&datagrams.send(b"not yet")) && sent > 0);
        for number in 0..sent + 20 {
            assert_eq!(received(&receiver), number.to_string());
            assert!(is_done(&datagrams.send(format!("{}", sent + number).as_bytes())));
        }
    }

    #[test]
    fn a_receiver_that_is_stuck_is_given_up_until_it_takes_more() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let receiver = receiver(&path);
        let mut datagrams = Datagrams::new(Address::Unix(path));
        while is_done(&datagrams.send(b"x")) {}
        let late = Instant::now() + PATIENCE;
        assert!(
            matches!(datagrams.send_at(b"x", late), Sent::Failed(error) if error.kind() == io::ErrorKind::WouldBlock)
        );
        received(&receiver);
        assert!(is_done(&datagrams.send_at(b"x", late)));
        assert!(is_later(&datagrams.send_at(b"x", late)), "its patience is new");
    }

    #[test]
    fn a_receiver_that_restarts_loses_nothing_more() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let start = Instant::now();
        let mut datagrams = Datagrams::new(Address::Unix(path.clone()));
        assert!(is_later(&datagrams.send_at(b"1", start)), "nobody is there yet");
        let first = receiver(&path);
        assert!(is_later(&datagrams.send_at(b"1", start + RECONNECT / 2)), "it is not looked for yet");
        assert!(is_done(&datagrams.send_at(b"1", start + RECONNECT)));
        assert_eq!(received(&first), "1");

        drop(first);
        assert!(is_later(&datagrams.send_at(b"2", start + 2 * RECONNECT)), "its socket file is still there");
        fs::remove_file(&path).expect("remove");
        assert!(is_later(&datagrams.send_at(b"2", start + 3 * RECONNECT)));
        let second = receiver(&path);
        assert!(is_done(&datagrams.send_at(b"2", start + 4 * RECONNECT)));
        assert_eq!(received(&second), "2");

        drop(second);
        fs::remove_file(&path).expect("remove");
        let third = receiver(&path);
        assert!(is_done(&datagrams.send_at(b"3", start + 5 * RECONNECT)), "found in the same turn");
        assert_eq!(received(&third), "3");
    }

    #[test]
    fn a_receiver_that_stays_away_holds_nothing_up() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let start = Instant::now();
        let mut datagrams = Datagrams::new(Address::Journald(path.clone()));
        assert!(is_later(&datagrams.send_at(b"1", start)));
        for late in [start + PATIENCE, start + PATIENCE + RECONNECT / 2] {
            let Sent::Failed(error) = datagrams.send_at(b"1", late) else { panic!("still waiting") };
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        let receiver = receiver(&path);
        assert!(is_done(&datagrams.send_at(b"2", start + 2 * PATIENCE)));
        assert_eq!(received(&receiver), "2");
    }

    #[test]
    fn a_large_entry_reaches_the_journal_as_sealed_memory() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("journal");
        let receiver = receiver(&path);
        let mut datagrams = Datagrams::new(Address::Journald(path));
        assert!(is_done(&datagrams.send(large().as_bytes())));
        assert!(is_done(&datagrams.send(b"small")));
        let (len, mut descriptors) = passing::receive(receiver.as_fd(), &mut [0; 64]).expect("receive");
        assert_eq!((len, descriptors.len()), (0, 1));
        let mut memory = File::from(descriptors.remove(0));
        assert!(memory.write_at(b"y", 0).is_err() && memory.set_len(0).is_err());
        // The offset is shared with whoever wrote it; the journal maps it, or reads it from the beginning.
        let mut text = String::new();
        io::Seek::rewind(&mut memory).expect("rewind");
        memory.read_to_string(&mut text).expect("read");
        assert!(text == large());
        assert_eq!(received(&receiver), "small");
    }

    #[test]
    fn a_large_message_is_cut_for_syslog() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let receiver = receiver(&path);
        let mut datagrams = Datagrams::new(Address::Unix(path));
        assert!(is_done(&datagrams.send(large().as_bytes())));
        let text = received(&receiver);
        assert!(text.len() >= SYSLOG_HEAD_LEN_MAX && large().starts_with(&text), "{}", text.len());
    }

    #[test]
    fn udp_cuts_and_loses_only_what_nobody_hears() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let address = receiver.local_addr().expect("address");
        let mut datagrams = Datagrams::new(Address::Udp(address));
        let mut buffer = vec![0; 1 << 17];
        for message in ["1", "2", &large()] {
            assert!(is_done(&datagrams.send(message.as_bytes())));
            let len = receiver.recv(&mut buffer).expect("a datagram");
            let text = std::str::from_utf8(&buffer[..len]).expect("UTF-8");
            assert!(message.starts_with(text) && text.len() >= message.len().min(SYSLOG_HEAD_LEN_MAX));
        }
        drop(receiver);
        (0..5).for_each(|_| assert!(is_done(&datagrams.send(b"lost"))));
        let receiver = UdpSocket::bind(address).expect("bind");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        assert!(is_done(&datagrams.send(b"heard")));
        let len = receiver.recv(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..len], b"heard");
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        let table =
            [("aé€", 6, "aé€"), ("aé€", 7, "aé€"), ("aé€", 5, "aé"), ("aé€", 4, "aé"), ("aé€", 2, "a"), ("é", 1, "")];
        for (text, len_max, expected) in table {
            assert_eq!(cut(text.as_bytes(), len_max), expected.as_bytes(), "{text} {len_max}");
        }
        assert_eq!(cut(&[0x80; 4], 2), b"", "no text at all");
    }
}
