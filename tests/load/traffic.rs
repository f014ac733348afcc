//! Clients that never ask twice for one answer: what is lost is counted, by kind, and where it was lost is kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client waits for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest head or body of an answer.
const ANSWER_LEN_MAX: u64 = 16 * 1024;

/// So many losses of one client are kept whole; of more only the number.
const LOSSES_MAX: usize = 1000;

/// What each client sends with each request, and wants back.
const BODY: &[u8] = b"what is sent comes back";

/// How a client behaves.
#[derive(Debug)]
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    /// Where it posts to: what echoes a body.
    path: &'static str,
    /// How many connections it holds; it uses them in turn.
    pub(crate) connections: usize,
    /// How often it uses a connection, then it takes a new one: else all would end on who stays.
    uses: u32,
    /// Between two requests.
    pause: Duration,
    /// Into how many pieces it cuts its body, and how long it waits before each.
    pieces: usize,
    hesitation: Duration,
}

/// A new connection for each request.
pub(crate) const FRESH: Manner =
    Manner { name: "fresh", path: "/echo", connections: 1, uses: 1, pause: ms(1), pieces: 1, hesitation: ms(0) };

/// One connection, kept, without much of a pause.
pub(crate) const KEPT: Manner = Manner { name: "kept", uses: 100, ..FRESH };

/// A body that takes its time.
pub(crate) const SLOW: Manner = Manner { name: "slow", uses: 3, pieces: 5, hesitation: ms(60), ..KEPT };

/// Connections that are idle for longer than a stop waits for them.
pub(crate) const IDLE: Manner = Manner { name: "idle", uses: 4, connections: 8, pause: ms(250), ..KEPT };

/// Where a worker asks a helper before it echoes.
pub(crate) const ASKING: Manner = Manner { name: "asking", path: "/ask", pause: ms(10), ..KEPT };

/// Clients at work, each on its own thread.
pub(crate) struct Traffic(Vec<Client>);

struct Client {
    name: &'static str,
    /// Its being dropped ends the client.
    stop: Sender<()>,
    ended: Arc<AtomicU64>,
    thread: JoinHandle<Tally>,
}

/// What one client has seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    pub(crate) lost: BTreeMap<Loss, u64>,
    /// The first of them.
    pub(crate) losses: Vec<Lost>,
    /// Answers that were the last of their connection by the server's wish.
    pub(crate) told: u64,
    /// Connections that the server has closed between two requests without a word: no loss, but luck.
    pub(crate) closed_idle: u64,
    /// The longest time until an answer or a loss.
    pub(crate) longest: Duration,
}

/// A request that was begun and has no answer.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) loss: Loss,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// This end of its connection, if there was one.
    pub(crate) port: Option<u16>,
    /// Who sent the connection's earlier answers, if there were any.
    pub(crate) worker: Option<u32>,
}

/// Why a request that was begun has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    Refused,
    Reset,
    /// Closed before the first byte of an answer.
    Empty,
    /// Closed within the answer.
    Cut,
    Late,
    /// Answered, and not with 200 and what was sent.
    Wrong,
}

impl Traffic {
    /// Starts so many clients of each manner.
    pub(crate) fn start(address: SocketAddr, manners: &[(&'static Manner, usize)]) -> Self {
        let clients = manners.iter().flat_map(|&(manner, count)| std::iter::repeat_n(manner, count));
        Self(clients.map(|manner| Client::start(address, manner)).collect())
    }

    /// How many requests have ended, well or not, by client.
    pub(crate) fn ended(&self) -> Vec<u64> {
        self.0.iter().map(|client| client.ended.load(Ordering::Relaxed)).collect()
    }

    /// Ends it, each client after the request it is at; returns what each has seen.
    pub(crate) fn finish(self) -> Vec<(&'static str, Tally)> {
        let stop = |client: Client| {
            drop(client.stop);
            (client.name, client.thread)
        };
        let threads: Vec<_> = self.0.into_iter().map(stop).collect();
        threads.into_iter().map(|(name, thread)| (name, thread.join().expect("a client does not panic"))).collect()
    }
}

impl Client {
    fn start(address: SocketAddr, manner: &'static Manner) -> Self {
        let (stop, stopped) = mpsc::channel();
        let ended = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let ended = ended.clone();
            move || manner.ask(address, &stopped, &ended)
        });
        Self { name: manner.name, stop, ended, thread }
    }
}

impl Manner {
    fn ask(&self, address: SocketAddr, stopped: &Receiver<()>, ended: &AtomicU64) -> Tally {
        let mut tally = Tally::default();
        let mut connections: Vec<Option<Connection>> = (0..self.connections).map(|_| None).collect();
        for turn in (0..self.connections).cycle() {
            if stopped.recv_timeout(self.pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
            let held = connections[turn].take();
            let had_one = held.is_some();
            let held = held.filter(Connection::is_open);
            tally.closed_idle += u64::from(had_one && held.is_none());
            let began = Instant::now();
            match held.map_or_else(|| Connection::open(address), Ok) {
                Err(loss) => tally.lose(Lost { loss, began, ended: Instant::now(), port: None, worker: None }),
                Ok(mut connection) => match connection.post(self) {
                    Ok(is_last) => {
                        tally.answered += 1;
                        let is_done = connection.used == self.uses;
                        tally.told += u64::from(is_last && !is_done);
                        connections[turn] = (!is_last && !is_done).then_some(connection);
                    }
                    Err(loss) => tally.lose(connection.lost(loss, began)),
                },
            }
            tally.longest = tally.longest.max(began.elapsed());
            ended.fetch_add(1, Ordering::Relaxed);
        }
        tally
    }
}

impl Tally {
    fn lose(&mut self, lost: Lost) {
        *self.lost.entry(lost.loss).or_default() += 1;
        if self.losses.len() < LOSSES_MAX {
            self.losses.push(lost);
        }
    }

    /// Both in one.
    pub(crate) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        for (loss, count) in other.lost {
            *self.lost.entry(loss).or_default() += count;
        }
        self.losses.extend(other.losses);
        self.told += other.told;
        self.closed_idle += other.closed_idle;
        self.longest = self.longest.max(other.longest);
    }
}

/// A connection on which no request is open.
struct Connection {
    stream: BufReader<TcpStream>,
    used: u32,
    worker: Option<u32>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self, Loss> {
        let stream = TcpStream::connect_timeout(&address, LIMIT).map_err(|error| loss(&error, Loss::Refused))?;
        stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_nodelay(true)).expect("a socket takes options");
        Ok(Self { stream: BufReader::new(stream), used: 0, worker: None })
    }

    /// Whether the server has not closed it, as far as it is known here.
    fn is_open(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("a socket takes options");
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a socket takes options");
        seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// One request, sent once; returns whether the answer says that it is the connection's last.
    fn post(&mut self, manner: &Manner) -> Result<bool, Loss> {
        self.used += 1;
        self.send(manner).map_err(|error| loss(&error, Loss::Empty))?;
        // Whoever is between may write the names otherwise.
        let head = self.head()?.to_ascii_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return Err(Loss::Wrong);
        }
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        // Who does not say it stays unknown.
        self.worker = field("worker-pid: ").and_then(|pid| pid.parse().ok());
        let length: u64 = field("content-length: ").and_then(|length| length.parse().ok()).ok_or(Loss::Wrong)?;
        let mut body = Vec::new();
        let read = (&mut self.stream).take(length.min(ANSWER_LEN_MAX)).read_to_end(&mut body);
        read.map_err(|error| loss(&error, Loss::Cut))?;
        match body.as_slice() {
            BODY => Ok(head.contains("\r\nconnection: close\r\n")),
            short if BODY.starts_with(short) => Err(Loss::Cut),
            _ => Err(Loss::Wrong),
        }
    }

    fn lost(&self, loss: Loss, began: Instant) -> Lost {
        let port = self.stream.get_ref().local_addr().map(|address| address.port());
        Lost { loss, began, ended: Instant::now(), port: port.ok(), worker: self.worker }
    }

    fn send(&mut self, manner: &Manner) -> std::io::Result<()> {
        let end = if self.used < manner.uses { "" } else { "Connection: close\r\n" };
        let (path, length) = (manner.path, BODY.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\n{end}Content-Length: {length}\r\n\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        for piece in BODY.chunks(BODY.len().div_ceil(manner.pieces)) {
            std::thread::sleep(manner.hesitation);
            stream.write_all(piece)?;
        }
        Ok(())
    }

    fn head(&mut self) -> Result<String, Loss> {
        let mut head = Vec::new();
        let mut lines = (&mut self.stream).take(ANSWER_LEN_MAX);
        while !head.ends_with(b"\r\n\r\n") {
            let short = if head.is_empty() { Loss::Empty } else { Loss::Cut };
            match lines.read_until(b'\n', &mut head) {
                Ok(0) => return Err(short),
                Ok(_) => {}
                Err(error) => return Err(loss(&error, short)),
            }
        }
        String::from_utf8(head).map_err(|_| Loss::Wrong)
    }
}

/// The kind of a loss with an error; `other` if the error does not say more.
fn loss(error: &std::io::Error, other: Loss) -> Loss {
    match error.kind() {
        ErrorKind::ConnectionRefused => Loss::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Loss::Reset,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Loss::Late,
        _ => other,
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
